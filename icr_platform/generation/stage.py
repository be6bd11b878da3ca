"""generate: prompts -> responses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from icr_platform.core.artifacts import Artifact, ArtifactWriter, open_artifact
from icr_platform.core.config import require
from icr_platform.core.faults import fault_notes, require_few_faults
from icr_platform.core.languages import counts_as
from icr_platform.core.part_job import Throughput
from icr_platform.core.schemas import DROPS, PROMPTS, RESPONSES
from icr_platform.core.stage_protocol import StageContext, StageResult
from icr_platform.data.prompts import PromptSet, load_prompts
from icr_platform.engines.execution.map_parts import check_execution
from icr_platform.engines.identification.language_id import Identifier, make_identifier
from icr_platform.engines.sampling.choice import check_policy, engine_notes
from icr_platform.engines.sampling.prompt_checks import PromptCheck, check_prompts
from icr_platform.engines.sampling.response_parts import write_responses
from icr_platform.engines.sampling.sampler import TableRequests
from icr_platform.generation.config import GenerateConfig

_LISTED = 1000  # rows of a table for people
_PARTS_TOGETHER = 1000  # whose sums are kept until they are added up


@dataclass(frozen=True)
class GenerateInputs:
    """The prompts, what is known of them beforehand, and who identifies the responses' languages."""

    config: GenerateConfig
    prompts: PromptSet
    check: PromptCheck
    identifier: Identifier


def read(config: GenerateConfig) -> GenerateInputs:
    """Check everything that can be checked without the model's weights; writes nothing.

    Raises:
        InputError: a required field is empty, a prompt is unusable, the policy has no tokenizer or chat template, or lacks
            tensors, or the sampler or the language identifier cannot work here; or more prompts than `max_dropped` allows do not
            fit into its context.
    """
    require(config, "generate")
    prompts = load_prompts(config.prompts, config.languages, config.limit, config.prompt_columns)
    check_execution(config)
    check_policy(config, config.policy, config)
    requests = TableRequests(prompts.table, config)
    check = check_prompts(config, config.policy, config, requests, config.max_dropped)
    return GenerateInputs(config, prompts, check, make_identifier(config.language_identifier))


def run(inputs: GenerateInputs, context: StageContext) -> StageResult:
    """Sample `config.samples` responses to every prompt; goes on where a killed run stopped.

    Writes `prompts` (the aligned prompt set), `responses`, and `generation_drops`: prompts that could not be answered, which
    have no responses. Metrics, `NAME/LANG` and `NAME/mean` over languages: `tokens` (in all; no mean), `length/tokens` and
    `length/characters` (means per response), `truncated`, `empty` and `fidelity` (identified as the prompt's language; absent
    where the identifier does not know it) in percent of the responses; `tokens_per_second` when anything was sampled, and
    `dropped/LANG` in percent of the prompts where any was dropped. All are of the answers; where anything was thought before one there
    are also `thought_tokens/mean/LANG` (per thought), `thought_language_share/LANG` (identified as the prompt's language, in percent of
    the thoughts) and `thought_cut/LANG` (percent of the responses that ended within their thought), as in eval.

    Raises:
        IcrError: more prompts were dropped than `max_dropped` allows; everything is kept.
    """
    config, prompt_set = inputs.config, inputs.prompts
    prompts = ArtifactWriter(context.folder / "prompts", PROMPTS, context.fingerprint)
    responses = ArtifactWriter(context.folder / "responses", RESPONSES, context.fingerprint)
    drops = ArtifactWriter(context.folder / "generation_drops", DROPS, context.fingerprint)

    if not prompts.complete:
        missing = {language: list(ids) for language, ids in prompt_set.missing.items()}
        notes = [*prompt_set.notes, *inputs.check.notes, *engine_notes(config, config.policy, config)]
        prompts.write_part(0, prompt_set.table)
        prompts.close(1, {"notes": notes, "missing": missing})

    parts, throughput = write_responses(
        config, config.policy, config, prompt_set.table, config.seed, responses, drops, context.earlier
    )
    if not (responses.complete and drops.complete):
        drops.close([part for part in range(parts) if drops.has_part(part)])
        # annotate must not drop responses as wrong-language that the identifier could not have told: it reads this.
        known = {"identifier": inputs.identifier.name, "unknown": inputs.identifier.unknown(prompt_set.languages)}
        responses.close(parts, {"languages": known, "notes": inputs.identifier.notes(prompt_set.languages)})

    dropped = open_artifact(drops.folder, DROPS)
    counts = Counter(dropped.read(["reason"])["reason"].to_pylist())
    kept = f"all others have their responses in {responses.folder}"
    require_few_faults(counts, prompt_set.table.num_rows, config.max_dropped, "prompts", kept)
    return _result(
        open_artifact(prompts.folder, PROMPTS), open_artifact(responses.folder, RESPONSES), dropped, throughput
    )


def _result(prompts: Artifact, responses: Artifact, drops: Artifact, throughput: Throughput) -> StageResult:
    """Figures, tables and notes, all read from the finished artifacts: the same after a kill as without one."""
    summary = _summary(responses)
    metrics = {f"{name}/{language}": float(value) for name in summary for language, value in summary[name].items()}
    metrics |= {f"{name}/mean": float(value) for name, value in summary.drop(columns="tokens").mean().items()}
    metrics |= {
        f"{name}/{code}": float(value) for name, row in _thoughts(responses).items() for code, value in row.items()
    }
    metrics = {name: value for name, value in metrics.items() if value == value}  # a figure may be undefined: NaN
    if throughput.seconds:
        metrics["tokens_per_second"] = throughput.tokens / throughput.seconds

    tables = {"generation": summary.reset_index()}
    missing: Mapping[str, list[str]] = prompts.extra.get("missing", {})
    if missing:
        pairs = [(language, prompt_id) for language, ids in missing.items() for prompt_id in ids]
        tables["missing_prompts"] = pd.DataFrame(pairs[:_LISTED], columns=["language", "prompt_id"])
    dropped = drops.read().to_pandas()
    if len(dropped):
        tables["generation_drops"] = dropped.head(_LISTED)
    faults: list[str] = []
    asked = prompts.read(["language"])["language"]
    for language, rows in dropped.groupby("language", sort=False):
        faults += fault_notes(str(language), Counter(rows["reason"]), "prompts", "generation_drops")
        metrics[f"dropped/{language}"] = 100.0 * len(rows) / pc.sum(pc.equal(asked, language)).as_py()
    return StageResult(
        artifacts={"prompts": prompts.folder, "responses": responses.folder, "generation_drops": drops.folder},
        metrics=metrics,
        tables=tables,
        notes=(*prompts.extra.get("notes", ()), *responses.extra.get("notes", ()), *faults),
    )


def _summary(responses: Artifact) -> pd.DataFrame:
    """One row per language, in the order of the table; see `run` for the columns. Reads part by part."""
    columns = ["language", "token_count", "character_count", "finish_reason", "detected_language"]
    sums = ("rows", "tokens", "characters", "truncated", "empty", "faithful")
    counted: list[pa.Table] = []
    for index in range(len(responses.parts)):
        part = responses.read_part(index, columns)
        asked, detected = (part[name].to_pylist() for name in ("language", "detected_language"))
        faithful = [counts_as(*codes) for codes in zip(asked, detected, strict=True)]
        table = pa.table(
            {
                "language": part["language"],
                "rows": pa.repeat(1, part.num_rows),
                "tokens": part["token_count"],
                "characters": part["character_count"],
                "truncated": pc.equal(part["finish_reason"], "length").cast(pa.int64()),
                "empty": pc.equal(part["character_count"], 0).cast(pa.int64()),
                "faithful": pa.array(faithful).cast(pa.int64()),
            }
        )
        # One thread: the languages stay in the table's order, and every part keeps a row a language, not its rows.
        grouped = table.group_by("language", use_threads=False).aggregate([(name, "sum") for name in sums])
        counted.append(grouped.rename_columns(["language", *sums]))
        if len(counted) == _PARTS_TOGETHER:
            added = pa.concat_tables(counted).group_by("language", use_threads=False)
            counted = [added.aggregate([(name, "sum") for name in sums]).rename_columns(["language", *sums])]
    total = pa.concat_tables(counted).to_pandas().groupby("language", sort=False).sum()
    share = 100 / total["rows"]
    unknown = responses.extra.get("languages", {}).get("unknown", ())
    return pd.DataFrame(
        {
            "tokens": total["tokens"],
            "length/tokens": total["tokens"] / total["rows"],
            "length/characters": total["characters"] / total["rows"],
            "truncated": total["truncated"] * share,
            "empty": total["empty"] * share,
            # A language that the identifier does not know would have a fidelity of 0, which says nothing of the policy.
            "fidelity": (total["faithful"] * share).where(~total.index.isin(unknown)),
        }
    )


def _thoughts(responses: Artifact) -> pd.DataFrame:
    """Figures of the thoughts by language, of languages in which anything was thought; see `run` for the columns. Reads part by part."""
    names = ["language", "answer_start", "token_count", "thought_language"]
    counted: list[pd.DataFrame] = []
    for index in range(len(responses.parts)):
        part: pd.DataFrame = responses.read_part(index, names).to_pandas()
        has_thought = part["thought_language"].notna()
        said = zip(part["language"], part["thought_language"], has_thought, strict=True)
        figures: dict[str, Any] = {
            "rows": 1,
            "thoughts": has_thought,
            "tokens": part["answer_start"].where(has_thought, 0),
            "same": [has and counts_as(asked, thought) for asked, thought, has in said],
            "cut": part["answer_start"] == part["token_count"],
        }
        counted.append(part[["language"]].assign(**figures).groupby("language", sort=False).sum())
        if len(counted) == _PARTS_TOGETHER:
            counted = [pd.concat(counted).groupby("language", sort=False).sum()]
    total = pd.concat(counted).groupby("language", sort=False).sum().astype(float).query("thoughts > 0 or cut > 0")
    thoughts = total["thoughts"].where(total["thoughts"] > 0)
    unknown = responses.extra.get("languages", {}).get("unknown", ())
    return pd.DataFrame(
        {
            "thought_tokens/mean": total["tokens"] / thoughts,
            "thought_language_share": (100 * total["same"] / thoughts).where(~total.index.isin(unknown)),
            "thought_cut": 100 * total["cut"] / total["rows"],
        }
    )
