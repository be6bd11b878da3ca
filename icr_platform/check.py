"""Preflight of an `iterate` configuration: every input checked, the work counted, disk and memory estimated, nothing run."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from icr_platform.config import IterateConfig, require
from icr_platform.errors import InputError
from icr_platform.runner import RunOptions, Session, open_session

T = TypeVar("T")
_PROMPTS_TOKENISED = 200  # per language; the mean over them stands for all
_BYTES_PER_TOKEN = 9  # Parquet, zstd: 4-byte id and text, measured on X-AlpacaEval outputs
_ADAM_BYTES = 16  # per parameter: weights, gradients and two moments, float32


@dataclass(frozen=True)
class StagePlan:
    """What one stage of one iteration would do. tokens is an upper bound: every response as long as max_tokens."""

    stage: str
    rows: int
    tokens: int
    memory_bytes: int
    disk_bytes: int


@dataclass(frozen=True)
class PromptCount:
    """Prompts of one purpose by language, and the mean length of a rendered prompt in tokens."""

    by_language: dict[str, int]
    mean_tokens: float

    @property
    def total(self) -> int:
        return sum(self.by_language.values())


class Preflight:
    """Collects every problem instead of stopping at the first."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.remarks: list[str] = []

    def attempt(self, action: Callable[[], T]) -> T | None:
        """The action's result, or None when it found bad input."""
        try:
            return action()
        except InputError as error:
            if str(error) not in self.problems:
                self.problems.append(str(error))
            return None


def check(config: IterateConfig, options: RunOptions) -> int:
    """Check `config` and print the plan. Returns the exit status: 0, or 2 when something must be mended first."""
    preflight = Preflight()
    session = preflight.attempt(lambda: open_session(options))
    if session is not None and preflight.attempt(lambda: require(config, "iterate")) is None and not preflight.problems:
        _check_inputs(preflight, session, config)
    for problem in preflight.problems:
        print(f"icr: {problem}", file=sys.stderr)
    return 2 if preflight.problems else 0


def _check_inputs(preflight: Preflight, session: Session, config: IterateConfig) -> None:
    from icr_platform.models import check_same_tokenisation, parameter_count

    resolved = preflight.attempt(lambda: session.resolver.resolve(config, config.seed))
    if resolved is None:
        return
    preflight.attempt(lambda: check_same_tokenisation(resolved.policy, resolved.reference))
    size = preflight.attempt(lambda: parameter_count(resolved.policy))
    training = preflight.attempt(lambda: _count(preflight, resolved.policy, resolved.prompts, resolved, False))
    evaluation = None
    if resolved.eval_prompts:
        preflight.attempt(lambda: _validate_eval(resolved))
        evaluation = preflight.attempt(
            lambda: _count(preflight, resolved.policy, resolved.eval_prompts, resolved, True)
        )
    if size is not None and training is not None and not preflight.problems:
        plans = plan(resolved, size, training, evaluation)
        _print(session, resolved, plans, training, evaluation, preflight.remarks)


def _validate_eval(config: IterateConfig) -> None:
    from icr_platform.config import EvalConfig
    from icr_platform.evaluation.stage import validate

    validate(
        EvalConfig(
            **dict(config.eval),
            policy=config.policy,
            prompts=config.eval_prompts,
            reference_outputs=config.reference_outputs,
            languages=config.eval_languages,
            limit=config.eval_limit,
        )
    )


def _count(preflight: Preflight, policy: str, path: str, config: IterateConfig, is_eval: bool) -> PromptCount:
    from icr_platform.chat import encode_prompt
    from icr_platform.generation.prompts import load_prompts
    from icr_platform.models import load_tokenizer

    languages, limit = (config.eval_languages, config.eval_limit) if is_eval else (config.languages, config.limit)
    prompts = load_prompts(path, languages, limit)
    preflight.remarks.extend(prompts.notes)
    rows = prompts.table.to_pandas()
    tokenizer = load_tokenizer(policy)
    some = rows.groupby("language", sort=False).head(_PROMPTS_TOKENISED)["instruction"]
    mean = sum(len(encode_prompt(tokenizer, text)) for text in some) / max(len(some), 1)
    counts = rows.groupby("language", sort=False).size()
    return PromptCount({str(language): int(n) for language, n in counts.items()}, mean)


def plan(
    config: IterateConfig, parameters: int, training: PromptCount, evaluation: PromptCount | None
) -> list[StagePlan]:
    """The stages of one iteration, with upper bounds for tokens, memory (bytes of weights and states) and disk (bytes)."""
    weights = parameters * _weight_bytes(config.generate.dtype)
    responses = training.total * config.generate.samples
    generated = responses * config.generate.max_tokens
    scored = 2 * (generated + int(responses * training.mean_tokens))
    trained_tokens = int(2 * training.total * (training.mean_tokens + config.generate.max_tokens) * config.train.epochs)
    train_memory = parameters * _ADAM_BYTES if config.train.lora_rank == 0 else 2 * weights
    plans = [
        StagePlan("generate", responses, generated, weights, generated * _BYTES_PER_TOKEN),
        StagePlan("annotate", responses * len(config.annotate.reward_kind), scored, 2 * weights, responses * 40),
        StagePlan("train", training.total, trained_tokens, train_memory, weights),
    ]
    if evaluation is not None:
        outputs = evaluation.total * config.eval.samples
        tokens = outputs * config.eval.max_tokens
        plans.append(StagePlan("eval", outputs, tokens, weights, tokens * _BYTES_PER_TOKEN))
    return plans


def _weight_bytes(dtype: str) -> int:
    from icr_platform.models import resolve_dtype

    return int(resolve_dtype(dtype, "auto").itemsize)


def _print(
    session: Session,
    config: IterateConfig,
    plans: list[StagePlan],
    training: PromptCount,
    evaluation: PromptCount | None,
    remarks: list[str],
) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"arm {config.arm}: {config.iterations} iterations of", title_justify="left")
    for column in ("stage", "rows", "tokens at most", "memory", "disk at most"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for item in plans:
        table.add_row(
            item.stage, f"{item.rows:,}", f"{item.tokens:,}", _size(item.memory_bytes), _size(item.disk_bytes)
        )
    console = Console()
    console.print(table)
    for name, counts in (("training", training), ("evaluation", evaluation)):
        if counts is not None:
            listed = ", ".join(f"{language} {n:,}" for language, n in counts.by_language.items())
            console.print(f"{name} prompts: {listed}; {counts.mean_tokens:.0f} tokens each", highlight=False)
    for remark in remarks:
        console.print(f"note: {remark}", highlight=False)
    console.print(_capacity(session, config, plans), highlight=False)


def _capacity(session: Session, config: IterateConfig, plans: list[StagePlan]) -> str:
    """One line that sets the estimate against this machine."""
    copies = 2 if session.tracker is not None and session.options.artifacts == "copy" else 1
    disk = config.iterations * copies * sum(item.disk_bytes for item in plans)
    free = shutil.disk_usage(session.base).free
    memory, name = _memory()
    peak = max(item.memory_bytes for item in plans)
    return (
        f"disk: at most {_size(disk)} ({'artifacts are copied to MLflow; --artifacts=reference halves it' if copies == 2 else 'one copy'})"
        f", {_size(free)} free{'' if disk < free else ': TOO LITTLE'}; {name}: {_size(peak)} of weights and optimizer at the peak, "
        f"{_size(memory)} in all{'' if peak < memory else ': TOO LITTLE, use LoRA or more devices'}"
    )


def _memory() -> tuple[int, str]:
    import psutil
    import torch

    if torch.cuda.is_available():
        total = sum(torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count()))
        return int(total), f"{torch.cuda.device_count()} GPU(s)"
    return int(psutil.virtual_memory().total), "memory"


def _size(count: int) -> str:
    value: Any = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"
