"""benchmarks: what alignment cost in knowledge, by lm-eval's multilingual tasks (this room alone imports lm_eval).

The default families are the okapi translations of ARC-challenge, HellaSwag, MMLU and TruthfulQA, with the original tasks for English,
as in table 4 of arXiv 2503.04647. Figures depend on the number of shots, which the stock tasks leave at zero.

The stock `truthfulqa_LANG_mc1` counts choice 0 as gold whatever the data's labels say (`doc_to_target: 0` in lm-eval 0.4.13): a
model is scored rightly only where the first choice is the true one, as in the original English data.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
import pyarrow as pa

from icr_platform.core.artifacts import Artifact, ArtifactWriter, open_artifact, row_digest
from icr_platform.core.config import ChatSettings, require
from icr_platform.core.errors import IcrError, InputError
from icr_platform.core.progress import meter
from icr_platform.core.schemas import BENCHMARK_DIFFERENCES, BENCHMARKS
from icr_platform.core.stage_protocol import StageContext, StageResult
from icr_platform.evaluation.benchmark_families import FAMILIES, PlannedTask, asks_in_chat, plan
from icr_platform.evaluation.benchmark_rows import Comparison, Row, benchmark_row, compare
from icr_platform.evaluation.config import BenchmarksConfig
from icr_platform.models.chat import require_system_prompt
from icr_platform.models.devices import resolve_device, resolve_dtype
from icr_platform.models.hub import origin_of
from icr_platform.models.loading import check_weights, load_model, load_tokenizer, read_tokenizer
from icr_platform.models.loading_errors import explained
from icr_platform.models.thinking import end_marker, markers_of

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

    from icr_platform.evaluation.lm_eval_model import PolicyModel


class Work(NamedTuple):
    """A planned task, and whether it is asked with the chat template."""

    task: PlannedTask
    in_chat: bool


class BenchmarksInputs(NamedTuple):
    """The tasks to run, and notes on those that do not exist. end_of_thought: behind which an answer that is generated begins; None
    for a model that does not think."""

    config: BenchmarksConfig
    work: list[Work]
    notes: list[str]
    end_of_thought: int | str | None
    baseline: Artifact | None


def read(config: BenchmarksConfig) -> BenchmarksInputs:
    """Check model, tasks and baseline; load no weights and no data. Raises InputError."""
    require(config, "benchmarks")
    if find_spec("lm_eval") is None:
        raise InputError("benchmarks: lm-eval is not installed; pip install 'icr-platform[benchmarks]'")
    tokenizer = read_tokenizer(config.policy, config.trust_remote_code)
    check_weights(config.policy, config.trust_remote_code)
    baseline = open_artifact(Path(config.baseline), BENCHMARKS) if config.baseline else None
    work, notes = planned(config)
    in_chat = [item.task.family for item in work if item.in_chat]
    if in_chat:
        framing = load_tokenizer(config.policy, _framing(config))
        require_system_prompt(load_tokenizer(config.policy, config))
        choices = [item for item in work if item.in_chat and not _is_generated(config, item.task.task)]
        if choices and markers_of(framing):
            names = ", ".join(dict.fromkeys(item.task.family for item in choices))
            notes.append(f"{names}: choices are scored where the answer begins, so nothing is thought before")
    notes += _chat_notes(
        config, in_chat, [item.task.family for item in work if not item.in_chat], bool(tokenizer.chat_template)
    )
    return BenchmarksInputs(config, work, notes, end_marker(tokenizer), baseline)


def planned(config: BenchmarksConfig) -> tuple[list[Work], list[str]]:
    """The tasks of a configuration, and notes on languages that families lack. Raises InputError."""
    manager = _manager(config.task_folder)
    tasks, notes = plan(config, _known(config.task_folder), lambda name: tuple(_parts(manager, name)))
    if config.chat == "yes":
        load_tokenizer(config.policy, config)  # says what a template lacks
    has_template = asks_in_chat(config) and bool(read_tokenizer(config.policy, config.trust_remote_code).chat_template)
    return [Work(task, has_template and _is_asked_in_chat(config, task)) for task in tasks], notes


def _is_asked_in_chat(config: BenchmarksConfig, task: PlannedTask) -> bool:
    """Bare sentences, as MultiBLiMP compares them, are never a user's turn."""
    settings = _settings_of(config, task.task)
    if settings.get("doc_to_text") == "" or settings.get("output_type") == "loglikelihood_rolling":
        return False
    return config.chat == "yes" or (task.family in config.families and FAMILIES[task.family].is_asked)


def _is_generated(config: BenchmarksConfig, task: str) -> bool:
    return bool(_settings_of(config, task).get("output_type") == "generate_until")


def _settings_of(config: BenchmarksConfig, task: str) -> dict[str, Any]:
    """A task's settings as its file has them; of a group, those of its first task."""
    index = _manager(config.task_folder).task_index
    settings = index[task].cfg or {} if task in index else {}
    inside = [part for part in settings.get("task") or () if part in index] if "group" in settings else []
    return _settings_of(config, inside[0]) if inside else settings


def _parts(manager: TaskManager, name: str) -> Iterator[str]:
    """The tasks behind a tag, or behind a group that gives no number of its own; else the name itself."""
    entry = manager.task_index[name]
    settings = entry.cfg or {}
    inside = sorted(entry.tags) if entry.kind.name == "TAG" else []
    if entry.kind.name == "GROUP" and not settings.get("aggregate_metric_list"):
        listed = settings.get("task") or ()
        inside = list(listed) if all(part in manager.task_index for part in listed if isinstance(part, str)) else []
        inside = inside if all(isinstance(part, str) for part in inside) else []
    for part in inside:
        yield from _parts(manager, part)
    if not inside:
        yield name


def _framing(config: BenchmarksConfig) -> ChatSettings:
    """How prompts are framed. A task's own description heads the question where a template has no place for a system message."""
    return config.model_copy(update={"system_role": "fold"})


def _chat_notes(config: BenchmarksConfig, asked: list[str], plain: list[str], has_template: bool) -> list[str]:
    """Which families are asked how, and which settings of the chat template have no effect."""
    framed, bare = (", ".join(dict.fromkeys(names)) for names in (asked, plain))
    notes = []
    if framed:
        notes.append(f"asked with the chat template: {framed}" + (f"; as plain text: {bare}" if bare else ""))
    elif has_template and config.chat == "auto":
        notes.append(f"asked as plain text: {bare}; --chat yes asks with the chat template")
    given = [name for name in ("system_prompt", "chat_template_kwargs") if getattr(config, name)]
    if given and not asked:
        notes.append(f"{' and '.join(given)} not used: no task is asked with the chat template")
    return notes


def run(inputs: BenchmarksInputs, context: StageContext) -> StageResult:
    """Score every task, one part each, and compare with the baseline.

    Metrics: `benchmark/FAMILY/LANG` with `benchmark_se/...`, shares in [0, 1]; `benchmark_difference/FAMILY/LANG` from the baseline,
    with `benchmark_difference_se/...` and `benchmark_p/...`.

    Raises:
        InputError: tasks whose data cannot be read, or that fail; the others are measured and kept.
    """
    config, work = inputs.config, inputs.work
    writer = ArtifactWriter(context.folder / "benchmarks", BENCHMARKS, context.fingerprint)
    left = [index for index in range(len(work)) if not writer.has_part(index)]
    earlier = context.earlier.rows("benchmarks", BENCHMARKS)
    model: PolicyModel | None = None
    failed: list[tuple[str, InputError]] = []
    with meter("benchmarks", len(work), len(work) - len(left)) as progress:
        for index in left:
            digest = item_digest(config, work[index])
            part = earlier.take([digest]).rows
            if not part.num_rows:
                model = model or _load(inputs)
                try:
                    row = _measure(config, work[index], model) | {"input_digest": digest}
                except InputError as error:
                    failed.append((work[index].task.task, error))
                    continue
                part = pa.Table.from_pylist([row], schema=BENCHMARKS.schema)
            writer.write_part(index, part)
            progress.advance(1)
    if failed:
        raise _failure(failed, len(work) - len(failed), writer.folder)
    done = writer.close(len(work))
    rows = done.read().to_pylist()
    frame = pd.DataFrame(rows, columns=BENCHMARKS.schema.names).drop(columns=["documents", "input_digest"])
    artifacts, metrics, tables = {"benchmarks": done.folder}, benchmark_metrics(frame), {"benchmarks": frame}
    notes = [*inputs.notes, *fault_notes(rows), *(model.notes() if model else ())]
    if inputs.baseline is not None:
        compared = compare(rows, inputs.baseline.read().to_pylist())
        differences = _write_differences(compared, context)
        artifacts["benchmark_differences"], tables["benchmark_differences"] = (
            differences.folder,
            differences.read().to_pandas(),
        )
        metrics |= difference_metrics(compared.rows)
        notes += compared.notes
    return StageResult(artifacts, metrics, tables, tuple(notes))


def item_digest(config: BenchmarksConfig, work: Work) -> bytes:
    """What a task's row is made from besides settings and models, as its `input_digest` says it."""
    system = config.system_prompt_in(work.task.language)
    framed = (
        system,
        config.model_dump_json(include=set(ChatSettings.model_fields) - {"system_prompt", "trust_remote_code"}),
    )
    return row_digest(*work.task, *(framed if work.in_chat else ()))


def _failure(failed: list[tuple[str, InputError]], measured: int, folder: Path) -> InputError:
    (_, first), *others = failed
    more = f"; also of {', '.join(task for task, _ in others)}, the last: {others[-1][1]}" if others else ""
    kept = f"; the other {measured} are kept in {folder}" if measured else ""
    return InputError(f"{first}{more}{kept}")


def _write_differences(compared: Comparison, context: StageContext) -> Artifact:
    writer = ArtifactWriter(context.folder / "benchmark_differences", BENCHMARK_DIFFERENCES, context.fingerprint)
    writer.write_part(0, pa.Table.from_pylist(compared.rows, schema=BENCHMARK_DIFFERENCES.schema))
    return writer.close(1)


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


def difference_metrics(rows: list[Row]) -> dict[str, float]:
    """MLflow metrics of the differences, with their mean over the languages of each family."""
    metrics: dict[str, float] = {}
    by_family: dict[str, list[float]] = {}
    for row in rows:
        name = f"{row['family']}/{row['language']}".rstrip("/")
        by_family.setdefault(row["family"], []).append(row["difference"])
        values = {"difference": row["difference"], "difference_se": row["standard_error"], "p": row["p_value"]}
        metrics |= {f"benchmark_{what}/{name}": value for what, value in values.items() if value is not None}
    means = {family: found for family, found in by_family.items() if len(found) > 1}
    return metrics | {f"benchmark_difference/{family}/mean": sum(found) / len(found) for family, found in means.items()}


def fault_notes(rows: list[Row]) -> list[str]:
    """What was not asked or answered as it should be, and which of several filters a figure is of."""
    notes = []
    for row in rows:
        name = f"{row['family']}/{row['language']}".rstrip("/")
        for reason, count in json.loads(row["faults"] or "{}").items():
            notes.append(f"{name}: {count} {reason}")
        metric = row["metric"].split(",")[0]
        same = [other for other in json.loads(row["other_metrics"] or "{}") if other.split(",")[0] == metric]
        if same:
            notes.append(f"{name} is {row['metric']}; other_metrics of the table has {', '.join(same)}")
    return notes


@cache
def _manager(task_folder: str) -> TaskManager:
    """lm-eval's index of tasks; it reads thousands of files, hence once a process."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=task_folder or None)


@cache
def _known(task_folder: str) -> frozenset[str]:
    return frozenset(_manager(task_folder).all_tasks)


def _load(inputs: BenchmarksInputs) -> PolicyModel:
    from icr_platform.evaluation.lm_eval_model import PolicyModel

    config = inputs.config
    device, dtype = resolve_device(config.device), resolve_dtype(config.dtype, config.device)
    source = origin_of(config.policy)
    is_framed = any(item.in_chat for item in inputs.work)
    framing = load_tokenizer(config.policy, _framing(config)) if is_framed else None
    weights: dict[str, Any] = {"pretrained": source.name, **source.options, "dtype": dtype, "device": device}
    if config.quantization != "none" or device == "balanced":
        loaded = load_model(
            config.policy, config.dtype, config.device, config.trust_remote_code, quantization=config.quantization
        )
        weights = {"pretrained": loaded, "tokenizer": read_tokenizer(config.policy, config.trust_remote_code)}
    with explained(config.policy):
        model = PolicyModel(
            config.policy,
            framing,
            config,
            config.seed,
            **weights,
            batch_size=config.batch_size,
            trust_remote_code=config.trust_remote_code,
            think_end_token=inputs.end_of_thought,
        )
    # Again: what comes from the hub is in the cache now, and lm-eval would go on with random numbers for missing tensors.
    check_weights(config.policy, config.trust_remote_code)
    return model


def _measure(config: BenchmarksConfig, work: Work, model: PolicyModel) -> Row:
    import lm_eval
    import torch

    model.faults.clear()
    task = work.task.task
    try:
        found = lm_eval.simple_evaluate(
            model=model,
            tasks=[task],
            num_fewshot=config.shots,
            limit=config.limit,
            task_manager=_manager(config.task_folder),
            gen_kwargs={"max_gen_toks": config.max_tokens} if config.max_tokens else None,
            system_instruction=(config.system_prompt_in(work.task.language) or None) if work.in_chat else None,
            apply_chat_template=work.in_chat,
            fewshot_as_multiturn=work.in_chat,
            random_seed=config.seed,
            numpy_random_seed=config.seed,
            torch_random_seed=config.seed,
            fewshot_random_seed=config.seed,
        )
    except (IcrError, torch.OutOfMemoryError, MemoryError):
        raise
    except (OSError, ConnectionError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"benchmarks: task {task!r} could not be read ({reason}); check its data") from error
    except Exception as error:  # a task is its author's program: it may raise anything
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"benchmarks: task {task!r} failed ({type(error).__name__}: {reason}); check its file"
        ) from error
    assert found is not None  # only other ranks of a distributed run get None
    faults = {reason: count for reason, count in model.faults.items() if count}
    return benchmark_row(work.task, found, work.in_chat) | {"faults": json.dumps(faults)}
