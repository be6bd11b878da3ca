"""What of scoring on a CPU is chosen by a second of measurement: the library of the matrix products, threads, tokens of a pack.

None of it changes what is computed, but all of it the last bits: so a choice is kept in the work folder before the first part is
written, and a run that goes on there uses it again, on whichever machine. It is also kept in the user's cache, so that the same
work on one machine gives the same bytes. Where machines share the parts, nothing is measured: a part would depend on who made it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from icr_platform.core.artifacts import read_json, write_json
from icr_platform.core.cores import usable_cores
from icr_platform.core.errors import InputError
from icr_platform.core.measured_here import best_of, measured_here
from icr_platform.engines.scoring.choice import Choice, Library
from icr_platform.engines.scoring.cpu_linear import has_onednn, lays_out
from icr_platform.engines.scoring.packed_attention import attend_by_onednn
from icr_platform.engines.scoring.packing import Group, packs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from icr_platform.engines.scoring.logprobs import CompletionScorer
    from icr_platform.engines.scoring.settings import RewardSettings

FILE = "machine.json"

_SECONDS = 1.0  # after which no further candidate is measured
_GAIN = 0.9  # of the time of what is chosen without measurement, at most, that another choice takes
_SMALL = 20 * 10**6  # parameters of linear layers below which a measurement costs more than it gains
LARGEST_PACK = 2048
_PACKS = (512, LARGEST_PACK)  # tokens, beside the pack that is chosen without measurement
_LAYERS = 2  # that are timed
_QUERIES, _KEYS = 128, 256  # of the attention that is timed
_TRIES = 5


def choose(scorer: CompletionScorer, settings: RewardSettings, folder: Path | None) -> Choice:
    """What the settings fix, and for the rest what was chosen in the folder, or before on this machine, or is now measured.

    folder: of the work; None where machines share it.

    Raises:
        InputError: what is kept in the folder is damaged.
    """
    kept = folder / FILE if folder is not None else None
    if kept is not None and kept.exists():
        return _fixed(_read(kept), settings)
    choice = _fixed(scorer.choice, settings)
    if kept is None or folder is None or scorer.device.type != "cpu":
        return choice
    # Parts of a run that did not choose were made without a choice.
    if not any(folder.glob("*/part-*.parquet")):
        choice = _on_this_machine(scorer, settings)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(kept, choice._asdict())
    return choice


def _on_this_machine(scorer: CompletionScorer, settings: RewardSettings) -> Choice:
    """As it was measured here, where that is worth it."""
    if not _is_worth_it(scorer):
        return _fixed(scorer.choice, settings)
    return measured_here(
        "scoring", _depends_on(scorer, settings), _read, partial(measure, scorer, settings), Choice._asdict
    )


def _is_worth_it(scorer: CompletionScorer) -> bool:
    """Whether a model is large, and made of what is measured here: packs, a list of layers, a head that is one matrix."""
    layers, head = _layers(scorer.model), scorer.model.get_output_embeddings()
    return scorer.packed and layers is not None and type(head) is nn.Linear and _parameters(scorer.model) >= _SMALL


def _layers(model: PreTrainedModel) -> nn.ModuleList | None:
    """The model's layers; what they contain themselves, such as experts, is listed behind them."""
    return next((module for module in model.base_model.modules() if isinstance(module, nn.ModuleList)), None)


def _read(path: Path) -> Choice:
    values = read_json(path)
    try:
        library, threads, tokens = values["library"], int(values["threads"]), int(values["pack_tokens"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: field {error} is missing or no number; delete the file") from error
    attention = values.get("attention")  # absent in a choice of before there was one
    return Choice(_library(library), threads, tokens, _library(attention))


def _library(name: object) -> Library:
    return "onednn" if name == "onednn" else "torch"


def _fixed(choice: Choice, settings: RewardSettings) -> Choice:
    """The choice, but for what the settings say."""
    library = choice.library if settings.cpu_library == "auto" else settings.cpu_library
    return Choice(
        library,
        settings.cpu_threads or choice.threads,
        min(settings.pack_tokens, settings.batch_tokens) if settings.pack_tokens else choice.pack_tokens,
        choice.attention if library == "onednn" else "torch",
    )


def _depends_on(scorer: CompletionScorer, settings: RewardSettings) -> tuple[str, ...]:
    """What a measurement depends on beside the CPU: torch, the model's shape, what the settings fix and what there is to choose."""
    shapes = sorted(f"{tuple(module.weight.shape)}" for module in scorer.model.modules() if type(module) is nn.Linear)
    machine = (str(os.cpu_count()), str(torch.get_num_threads()), torch.__version__)
    fixed = (settings.cpu_library, settings.cpu_threads, settings.pack_tokens, settings.batch_tokens)
    return (*machine, str(scorer.model.dtype), *map(str, fixed), *shapes, *Choice._fields)


def _parameters(model: nn.Module) -> int:
    return sum(module.weight.numel() for module in model.modules() if type(module) is nn.Linear)


def measure(scorer: CompletionScorer, settings: RewardSettings) -> Choice:
    """Time some of the model's layers and its head under each candidate, one setting after the other.

    Another choice than the one without measurement must be faster by a tenth: machines are noisy.
    """
    best = _fixed(scorer.choice, settings)
    candidates: list[Callable[[Choice], Choice]] = []
    if not settings.cpu_threads:
        candidates += [lambda to, n=n: to._replace(threads=n) for n in _fewer_threads()]  # type: ignore[misc]
    if settings.cpu_library == "auto" and lays_out(_parameters(scorer.model)):
        candidates.append(lambda to: to._replace(library="torch"))
    if not settings.pack_tokens:
        sizes = [size for size in _PACKS if size <= settings.batch_tokens]
        candidates += [lambda to, size=size: to._replace(pack_tokens=size) for size in sizes]  # type: ignore[misc]
    with _timing(scorer) as seconds:
        begun, fastest = time.perf_counter(), seconds(best)
        for change in candidates:
            if time.perf_counter() - begun > _SECONDS:
                break
            tried = change(best)
            taken = seconds(tried)
            if taken < _GAIN * fastest:
                best, fastest = tried, taken
    if best.library == "onednn" and _attends_faster_by_onednn(scorer.model):
        best = best._replace(attention="onednn")
    return best


def _attends_faster_by_onednn(model: PreTrainedModel) -> bool:
    """Time one call of attention, in the model's shape, as torch's kernel and as oneDNN's products, if it has such a shape."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", None)
    shared = getattr(config, "num_key_value_heads", None) or heads
    if model.dtype != torch.float32 or not has_onednn():
        return False
    if not isinstance(heads, int) or not isinstance(shared, int) or heads % shared:
        return False
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    query = torch.ones(1, heads, _QUERIES, size)
    keys = torch.ones(1, shared, _KEYS, size)
    mask = torch.zeros(_QUERIES, _KEYS)

    def by_onednn() -> Tensor:
        return attend_by_onednn(query, keys, keys, mask, None)

    def by_torch() -> Tensor:
        return nn.functional.scaled_dot_product_attention(query, keys, keys, mask, enable_gqa=True)

    return best_of(by_onednn, _TRIES) < _GAIN * best_of(by_torch, _TRIES)


def _fewer_threads() -> list[int]:
    """Threads that may be faster than torch's: half of them, where two share a core, and a container's share of the CPUs."""
    now = torch.get_num_threads()
    found = {usable_cores(), *([now // 2] if now >= 4 else [])}
    return sorted(one for one in found if one < now)


class _EnoughError(Exception):
    """Ends a forward behind the layers that are timed."""


@contextmanager
def _timing(scorer: CompletionScorer) -> Iterator[Callable[[Choice], float]]:
    """Seconds of a token under a choice: of all layers, by the first ones, and of the head. The faster of two tries counts."""
    layers, head = _layers(scorer.model), scorer.model.get_output_embeddings()
    assert layers is not None
    assert isinstance(head, nn.Linear)
    timed = min(_LAYERS, len(layers))
    tokens = [index % 1000 for index in range(400)]
    groups = [Group(tokens[:100], [tokens] * 8)]

    def stop(*_: Any) -> None:
        raise _EnoughError

    def once(choice: Choice, rows: Any) -> float:
        pack = next(packs(groups, choice.pack_tokens))
        start, share = time.perf_counter(), 1.0
        try:
            scorer.forward(pack, {})
        except _EnoughError:
            share = timed / len(layers)
        body = (time.perf_counter() - start) / share / len(pack.input_ids)
        start, places = time.perf_counter(), torch.arange(len(rows))
        scorer.nats(rows, places, places % head.out_features)
        return body + (time.perf_counter() - start) / len(rows)

    def seconds(choice: Choice) -> float:
        with scorer.used(choice):
            rows = torch.zeros(scorer.rows_of_head, head.weight.shape[1], dtype=head.weight.dtype)
            once(choice, rows)  # the first call plans kernels
            return min(once(choice, rows) for _ in range(2))

    handle = layers[timed - 1].register_forward_hook(stop)
    try:
        yield seconds
    finally:
        handle.remove()


def speedup_of_bfloat16(rows: int, hidden: int, inner: int) -> float:
    """How many times as fast as float32 the CPU multiplies in bfloat16, in a feed-forward layer's shape: above 1 with AMX, below on AVX2."""

    def taken(dtype: torch.dtype) -> float:
        given, weight = torch.ones(rows, hidden, dtype=dtype), torch.ones(inner, hidden, dtype=dtype)
        return best_of(lambda: nn.functional.linear(given, weight), 3)

    return taken(torch.float32) / taken(torch.bfloat16)
