"""Weights as transformers loads them, except that nothing is made up: a tensor that a checkpoint lacks is an error.

transformers fills what is missing with random numbers and goes on with a warning. A model with two of its tensors:

>>> import torch
>>> from transformers import LlamaConfig, LlamaForCausalLM
>>> config = LlamaConfig(vocab_size=8, hidden_size=4, intermediate_size=4, num_hidden_layers=1, num_attention_heads=1,
...                      pad_token_id=None)
>>> with torch.device("meta"):  # shapes without values, which is all that a check needs
...     skeleton = LlamaForCausalLM(config)
>>> whole = skeleton.state_dict()
>>> load_headers("my-model", skeleton, {**whole, "vision.weight": torch.empty(2, 2, device="meta")})
['vision.weight']
>>> load_headers("my-model", skeleton, {name: whole[name] for name in ("model.norm.weight", "lm_head.weight")})
Traceback (most recent call last):
icr_platform.core.errors.InputError: my-model: tensors of the model are missing in its checkpoint, 10 of 12: ...
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icr_platform.core.errors import InputError
from icr_platform.models.checkpoint_files import read_settings
from icr_platform.models.loading_errors import explained

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
WEIGHTS = (
    SINGLE,
    INDEX,
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)  # in the order in which transformers looks
INDICES = frozenset(name for name in WEIGHTS if name.endswith(".index.json"))
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".gguf")
_NAMED = 3  # tensors in a message


def load_whole(
    name: str, load: Callable[..., tuple[Any, Mapping[str, Any]]], brought: Collection[str] = ()
) -> tuple[Any, list[str]]:
    """Load a model, and name the tensors of its checkpoint that it has no place for.

    Args:
        name: of the model, for messages.
        load: a `from_pretrained`; it is asked for its loading info.
        brought: tensors that may be missing, because an adapter brings them.

    Raises:
        InputError: the checkpoint cannot be read, or lacks tensors, or has them in other shapes than the config says. Tied
            tensors, and those that the model's class declares ignorable, may be missing.
    """
    with _loading_report() as report, explained(name, "model", "check its files"):
        try:
            # Tensors of other shapes are not ignored: the error below names all of them, transformers' own only the first.
            model, info = load(output_loading_info=True, ignore_mismatched_sizes=True)
        except Exception as error:
            # Tensors that no model tensor can be made of, such as experts of different shapes, stand in the report alone.
            rows = (re.match(r"(\S+)\s*\| \S*CONVERSION", line) for line in report)
            unconvertible = [row[1] for row in rows if row]
            if unconvertible:
                what = f"cannot be made of what its checkpoint contains: {first_names(unconvertible)}"
                raise _gaps(name, what) from error
            raise
    missing, mismatched = sorted({*info["missing_keys"]} - {*brought}), sorted(info["mismatched_keys"])
    if missing:
        total = len(model.state_dict())
        raise _gaps(name, f"are missing in its checkpoint, {len(missing)} of {total}: {first_names(missing)}")
    if mismatched:
        shapes = [f"{key} (checkpoint {list(held)}, config.json {list(wanted)})" for key, held, wanted in mismatched]
        raise _gaps(name, f"have other shapes in its checkpoint than its config gives them: {first_names(shapes)}")
    return model, sorted(info["unexpected_keys"])


@contextmanager
def _loading_report() -> Iterator[list[str]]:
    """Keep transformers' table of missing and left-over tensors from the log, and collect its lines: our error replaces it."""
    lines: list[str] = []

    def withhold(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        is_report = "LOAD REPORT" in text
        if is_report:
            lines.extend(text.splitlines())
        return not is_report

    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(withhold)
    try:
        yield lines
    finally:
        logger.removeFilter(withhold)


def _gaps(name: str, what: str) -> InputError:
    return InputError(
        f"{name}: tensors of the model {what}; random numbers would stand in for them: fetch the checkpoint again, or correct "
        "its config.json"
    )


def first_names(names: Sequence[str]) -> str:
    """List the first names of many, and count the rest.

    >>> first_names(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def count_of(names: Collection[str]) -> str:
    """Count tensors in words: `1 tensor`, `2 tensors`."""
    return f"{len(names)} tensor{'s' if len(names) > 1 else ''}"


def left_over(name: str, unexpected: Collection[str]) -> str:
    """Say in one line which tensors a model has no place for, such as a vision tower's; '' when there are none."""
    if not unexpected:
        return ""
    return (
        f"{name}: the model has no place for {count_of(unexpected)} of its checkpoint, left out: "
        f"{first_names(sorted(unexpected))}"
    )


def load_headers(
    name: str, skeleton: PreTrainedModel, tensors: Mapping[str, torch.Tensor], brought: Collection[str] = ()
) -> list[str]:
    """Load `tensors` of the meta device, which have shapes and no values, as `load_whole` loads those of a checkpoint.

    This is transformers' own loading, conversions and ties included, in milliseconds and without memory.

    Returns: the names of tensors that the model has no place for.
    """
    from transformers.utils import logging as transformers_logging

    def load(**options: Any) -> Any:
        return type(skeleton).from_pretrained(
            None, config=skeleton.config, state_dict=dict(tensors), device_map={"": "meta"}, **options
        )

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        return load_whole(name, load, brought)[1]
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def read_headers(files: Sequence[Path]) -> dict[str, torch.Tensor]:
    """Read the names and shapes of the tensors in weight files, as tensors of the meta device; no values are read.

    Raises:
        InputError: a file is missing, cut off, or contains something else.
    """
    import torch
    from safetensors import safe_open

    tensors: dict[str, torch.Tensor] = {}
    for path in files:
        if not path.exists():
            raise InputError(f"{path}: missing, though the checkpoint's index names it; fetch the checkpoint again")
        with explained(str(path), "weights", "it is cut off or of another format: fetch the file again"):
            if path.suffix == ".safetensors":
                with safe_open(path, framework="pt") as file:
                    for key in file.keys():  # noqa: SIM118 - not a mapping
                        tensors[key] = torch.empty(file.get_slice(key).get_shape(), device="meta")
            else:  # a pickle, of which nothing is run but what makes tensors
                tensors |= torch.load(path, map_location="meta", weights_only=True)
    return tensors


def shards_of(index: Path) -> list[Path]:
    """List the files that an index names; raises InputError when the file is not an index."""
    values = read_settings(index)
    names = values.get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise InputError(f"{index}: field 'weight_map' does not name files; fetch the checkpoint again")
    if "metadata" not in values:  # transformers reads it, though nothing depends on it
        raise InputError(f"{index}: field 'metadata' is missing; add \"metadata\": {{}}, or fetch the checkpoint again")
    return [index.parent / name for name in sorted(set(names.values()))]
