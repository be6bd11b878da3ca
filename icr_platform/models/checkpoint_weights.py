"""Weights as transformers and peft load them, except that nothing is made up: a tensor that a checkpoint lacks is an error.

Both libraries fill what is missing with random numbers (an adapter's with zeros) and go on with a warning.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from icr_platform.core.artifacts import read_json
from icr_platform.core.errors import InputError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_NAMED = 3  # tensors in a message


@dataclass(frozen=True)
class _Report:
    """What transformers' loading report said, which is logged as a table; empty when all was well."""

    lines: list[str]

    @property
    def unconvertible(self) -> list[str]:
        """Tensors that could not be made of what the checkpoint holds, such as experts of different shapes."""
        rows = (re.match(r"(\S+)\s*\| \S*CONVERSION", line) for line in self.lines)
        return [row[1] for row in rows if row]


@contextmanager
def _report_withheld() -> Iterator[_Report]:
    """transformers' table of what is missing and what is left over; one line of ours takes its place."""
    report = _Report([])

    def withhold(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        is_report = "LOAD REPORT" in text
        if is_report:
            report.lines.extend(text.splitlines())
        return not is_report

    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(withhold)
    try:
        yield report
    finally:
        logger.removeFilter(withhold)


def load_whole(name: str, load: Callable[..., tuple[Any, Mapping[str, Any]]]) -> tuple[Any, list[str]]:
    """The model that `load` returns with its loading info, and the names of tensors that the model has no place for.

    Args:
        name: of the model, for messages.
        load: a `from_pretrained`; it is asked for its loading info.

    Raises:
        InputError: the checkpoint cannot be read, or lacks tensors, or has them in other shapes than the config says. Tied
            tensors, and those that the model's class declares ignorable, may be missing.
    """
    import torch
    from safetensors import SafetensorError

    with _report_withheld() as report:
        try:
            # Other shapes are not ignored: they are named below, all of them.
            model, info = load(output_loading_info=True, ignore_mismatched_sizes=True)
        except torch.OutOfMemoryError:
            raise
        except (OSError, ValueError, RuntimeError, KeyError, EOFError, SafetensorError, UnpicklingError) as error:
            if report.unconvertible:
                what = f"cannot be made of what its checkpoint holds: {_some(report.unconvertible)}"
                raise _gaps(name, what) from error
            raise InputError(
                f"{name}: the model could not be loaded ({first_line(error)}); check the name or folder"
            ) from error
    missing, mismatched = sorted(info["missing_keys"]), sorted(info["mismatched_keys"])
    if missing:
        total = len(model.state_dict())
        raise _gaps(name, f"are missing in its checkpoint, {len(missing)} of {total}: {_some(missing)}")
    if mismatched:
        shapes = [f"{key} (checkpoint {list(held)}, config.json {list(wanted)})" for key, held, wanted in mismatched]
        raise _gaps(name, f"have other shapes in its checkpoint than its config gives them: {_some(shapes)}")
    return model, sorted(info["unexpected_keys"])


def _gaps(name: str, what: str) -> InputError:
    return InputError(
        f"{name}: tensors of the model {what}; random numbers would stand in for them: fetch the checkpoint again, or correct "
        "its config.json"
    )


def _some(names: Sequence[str]) -> str:
    """The first names of many, with their count.

    >>> _some(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _count(names: Collection[str]) -> str:
    return f"{len(names)} tensor{'s' if len(names) > 1 else ''}"


def left_over(name: str, unexpected: Collection[str]) -> str:
    """One line on tensors that a model has no place for, such as a vision tower's; '' without any."""
    if not unexpected:
        return ""
    return f"{name}: the model has no place for {_count(unexpected)} of its checkpoint, left out: {_some(sorted(unexpected))}"


def load_headers(name: str, skeleton: PreTrainedModel, tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """Load `tensors` of the meta device, which have shapes and no values, as `load_whole` loads a checkpoint's.

    It is transformers' own loading, conversions and ties included, in milliseconds and without memory.

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
        return load_whole(name, load)[1]
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def read_headers(files: Sequence[Path]) -> dict[str, torch.Tensor]:
    """Names and shapes of the tensors in safetensors files, as tensors of the meta device; reads no values.

    Raises:
        InputError: a file is missing, cut off, or not a safetensors file.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    tensors = {}
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 - not a mapping
                    tensors[key] = torch.empty(file.get_slice(key).get_shape(), device="meta")
        except FileNotFoundError as error:
            raise InputError(f"{path}: missing, though {INDEX} names it; fetch the checkpoint again") from error
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"{path}: cut off or not a safetensors file ({first_line(error)}); fetch it again"
            ) from error
    return tensors


def shards_of(index: Path) -> list[Path]:
    """The files that an index names; raises InputError when it is not one."""
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict):
        raise InputError(f"{index}: field 'weight_map' is missing; fetch the checkpoint again")
    return [index.parent / name for name in sorted(set(names.values()))]


def add_adapter(model: Any, folder: Path, base: str, state: Mapping[str, torch.Tensor]) -> Any:
    """`model` with the LoRA adapter of `folder` on it, whose tensors are `state`: peft's own loading.

    Raises:
        InputError: `state` lacks a tensor, has one that the model has no place for, or one of another shape.
    """
    from peft import PeftConfig, PeftModel, set_peft_model_state_dict

    fix = "give the model it was made for, or fetch the adapter again"
    is_skeleton = next(model.parameters()).is_meta
    try:
        config = PeftConfig.from_pretrained(str(folder))
        wrapped = PeftModel(model, config, low_cpu_mem_usage=is_skeleton).eval()
        found: Any = set_peft_model_state_dict(wrapped, dict(state), low_cpu_mem_usage=is_skeleton)
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: the adapter does not fit {base} ({first_line(error)}); {fix}") from error
    missing = sorted(key for key in found.missing_keys if "lora_" in key)
    if missing:
        raise InputError(f"{folder}: the adapter lacks {_count(missing)}: {_some(missing)}; {fix}")
    if found.unexpected_keys:
        lost = sorted(found.unexpected_keys)
        raise InputError(f"{folder}: {base} has no place for {_count(lost)} of the adapter: {_some(lost)}; {fix}")
    return wrapped


def first_line(error: Exception) -> str:
    """An exception's text, or its kind, as part of a message."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
