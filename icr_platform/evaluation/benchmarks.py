"""benchmarks: what alignment cost in knowledge, by lm-eval's multilingual tasks (the only import of lm_eval).

Families are the okapi translations of ARC-challenge, HellaSwag, MMLU and TruthfulQA, with the original tasks for English, as
in table 4 of arXiv 2503.04647. Figures depend on the number of shots, which the stock tasks leave at zero.

The stock `truthfulqa_LANG_mc1` counts choice 0 as gold whatever the data's labels say (`doc_to_target: 0` in lm-eval 0.4.13): a
model is scored rightly only where the first choice is the true one, as in the original English data.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
import pyarrow as pa

from icr_platform.core.artifacts import ArtifactWriter
from icr_platform.core.config import require
from icr_platform.core.errors import InputError
from icr_platform.core.language_tags import is_english, names_language, read_tag
from icr_platform.core.languages import NAMES
from icr_platform.core.progress import meter
from icr_platform.core.schemas import BENCHMARKS
from icr_platform.core.stage_protocol import StageContext, StageResult
from icr_platform.evaluation.config import BenchmarksConfig
from icr_platform.models.devices import resolve_device, resolve_dtype
from icr_platform.models.hub import origin_of
from icr_platform.models.loading import check_weights, read_tokenizer
from icr_platform.models.loading_errors import explained
from icr_platform.models.thinking import end_marker

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager


class Family(NamedTuple):
    """A benchmark: its task in English, in other languages, and the metric that is reported."""

    english: str
    others: str
    metric: str

    def task(self, language: str) -> str:
        """The task of a language by any of its tags; lm-eval names them by the shortest code, in the usual script.

        >>> FAMILIES["arc"].task("swh_Latn"), FAMILIES["arc"].task("en-GB"), FAMILIES["arc"].task("zh-Hant")
        ('arc_sw', 'arc_challenge', 'arc_zh-Hant')
        """
        if is_english(language):
            return self.english
        if language not in NAMES and (tag := read_tag(language)).written == read_tag(tag.language).usual_script:
            language = tag.language
        return self.others.format(language=language)


FAMILIES: dict[str, Family] = {
    "arc": Family("arc_challenge", "arc_{language}", "acc_norm"),
    "hellaswag": Family("hellaswag", "hellaswag_{language}", "acc_norm"),
    "mmlu": Family("m_mmlu_en", "m_mmlu_{language}", "acc"),
    "truthfulqa_mc1": Family("truthfulqa_mc1", "truthfulqa_{language}_mc1", "acc"),
    "truthfulqa_mc2": Family("truthfulqa_mc2", "truthfulqa_{language}_mc2", "acc"),
}
_PREFERRED = ("acc_norm", "acc", "exact_match")


class PlannedTask(NamedTuple):
    """One task to run. language is '' where the name of a task of one's own tells none."""

    family: str
    language: str
    task: str
    metric: str


def plan(config: BenchmarksConfig, known: set[str]) -> tuple[list[PlannedTask], list[str]]:
    """Tasks to run, and a note for every language that a family lacks.

    Raises:
        InputError: an unknown family or task, or nothing left to run.
    """
    unknown = [name for name in config.families if name not in FAMILIES]
    if unknown:
        raise InputError(f"config: field 'families' names {unknown[0]!r}; choose of {', '.join(FAMILIES)}")
    unknown = [name for name in config.tasks if name not in known]
    if unknown:
        raise InputError(f"config: field 'tasks' names {unknown[0]!r}, which lm-eval does not know; check task_folder")
    work, notes = [], []
    for name in config.families:
        family = FAMILIES[name]
        lacking = [code for code in config.languages if family.task(code) not in known]
        if lacking:
            notes.append(f"benchmarks: {name} has no task in {', '.join(lacking)}; not measured there")
        work += [
            PlannedTask(name, code, family.task(code), family.metric)
            for code in config.languages
            if code not in lacking
        ]
    work += [PlannedTask(name, language_of(name), name, "") for name in config.tasks]
    if not work:
        raise InputError("config: fields 'families', 'tasks' and 'languages' leave no task; name at least one")
    return work, notes


def language_of(task: str) -> str:
    """The language code a task name ends with, or has before its last part; '' without one.

    >>> language_of("capitals_es"), language_of("truthfulqa_de_mc1"), language_of("capitals")
    ('es', 'de', '')
    """
    parts = re.split(r"[_-]", task)[1:]
    # Short words of task names are codes of some language (`arc`, `nli`): only those of two letters are taken for one.
    return next((part for part in reversed(parts) if part in NAMES or (len(part) == 2 and names_language(part))), "")


class BenchmarksInputs(NamedTuple):
    """The tasks to run, and notes on those that do not exist. end_of_thought: behind which an answer that is generated begins; None
    for a model that does not think."""

    config: BenchmarksConfig
    work: list[PlannedTask]
    notes: list[str]
    end_of_thought: int | str | None


def read(config: BenchmarksConfig) -> BenchmarksInputs:
    """Check model and tasks; load no weights and no data. Raises InputError."""
    require(config, "benchmarks")
    if find_spec("lm_eval") is None:
        raise InputError("benchmarks: lm-eval is not installed; pip install 'icr-platform[benchmarks]'")
    tokenizer = read_tokenizer(config.policy, config.trust_remote_code)
    check_weights(config.policy, config.trust_remote_code)
    work, notes = plan(config, set(_manager(config.task_folder).all_tasks))
    return BenchmarksInputs(config, work, notes, end_marker(tokenizer))


def run(inputs: BenchmarksInputs, context: StageContext) -> StageResult:
    """Score every task, one part each. Metrics: `benchmark/FAMILY/LANG` with `benchmark_se/...`, shares in [0, 1].

    Raises:
        InputError: a task's data cannot be read.
    """
    config, work, notes, end_of_thought = inputs
    manager = _manager(config.task_folder)
    writer = ArtifactWriter(context.folder / "benchmarks", BENCHMARKS, context.fingerprint)
    left = [index for index in range(len(work)) if not writer.has_part(index)]
    model = None
    if left:
        from lm_eval.models.huggingface import HFLM

        device, dtype = resolve_device(config.device), resolve_dtype(config.dtype, config.device)
        source = origin_of(config.policy)
        with explained(config.policy):
            model = HFLM(
                pretrained=source.name,
                **source.options,
                dtype=dtype,
                device=device,
                batch_size=config.batch_size,
                trust_remote_code=config.trust_remote_code,
                think_end_token=end_of_thought,
            )
        # Again: what comes from the hub is in the cache now, and lm-eval would go on with random numbers for missing tensors.
        check_weights(config.policy, config.trust_remote_code)
    with meter("benchmarks", len(work), len(work) - len(left)) as progress:
        for index in left:
            writer.write_part(index, _measure(config, work[index], model, manager))
            progress.advance(1)
    done = writer.close(len(work))
    frame = done.read().to_pandas()
    return StageResult({"benchmarks": done.folder}, benchmark_metrics(frame), {"benchmarks": frame}, tuple(notes))


def benchmark_metrics(frame: pd.DataFrame) -> dict[str, float]:
    """MLflow metrics of the benchmarks table, with the mean over languages of each family."""
    metrics: dict[str, float] = {}
    for row in frame.to_dict("records"):
        name = f"{row['family']}/{row['language']}".rstrip("/")
        metrics[f"benchmark/{name}"] = float(row["value"])
        if row["standard_error"] == row["standard_error"] and row["standard_error"] is not None:
            metrics[f"benchmark_se/{name}"] = float(row["standard_error"])
    for family, rows in frame.groupby("family", sort=False):
        if len(rows) > 1:
            metrics[f"benchmark/{family}/mean"] = float(rows["value"].mean())
    return metrics


@cache
def _manager(task_folder: str) -> TaskManager:
    """lm-eval's index of tasks; it reads thousands of files, hence once a process."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=task_folder or None)


def _measure(config: BenchmarksConfig, work: PlannedTask, model: Any, manager: TaskManager) -> pa.Table:
    import lm_eval

    try:
        found = lm_eval.simple_evaluate(
            model=model,
            tasks=[work.task],
            num_fewshot=config.shots,
            limit=config.limit,
            task_manager=manager,
            log_samples=False,
            random_seed=config.seed,
            numpy_random_seed=config.seed,
            torch_random_seed=config.seed,
            fewshot_random_seed=config.seed,
        )
    except (OSError, ConnectionError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"benchmarks: task {work.task!r} could not be read ({reason}); check its data") from error
    assert found is not None  # only other ranks of a distributed run get None
    results = found["results"][work.task]
    # lm-eval's keys are `acc_norm,none`: the wanted metric, else the commonest one that the task reports, else its first number.
    keys = [key for key, value in results.items() if "," in key and "_stderr" not in key and isinstance(value, float)]
    if not keys:
        raise InputError(f"benchmarks: the task reports no number, only {sorted(results)}; give it a metric_list")
    by_preference = [key for name in (work.metric, *_PREFERRED) for key in keys if key.split(",")[0] == name]
    key = (by_preference or keys)[0]
    error_bar = results.get(key.replace(",", "_stderr,", 1))
    row = {
        "language": work.language,
        "family": work.family,
        "task": work.task,
        "metric": key,
        "value": float(results[key]),
        "standard_error": float(error_bar) if isinstance(error_bar, (int, float)) else None,
        "n": int(found["n-samples"][work.task]["effective"]),
    }
    return pa.Table.from_pylist([row], schema=BENCHMARKS.schema)
