"""Weights on their way in and out: the precision a policy is trained in, LoRA's adapters, the plain model at the end.

Weights are held in float32 whatever `dtype` says, which is the precision of the computation (autocast): AdamW steps of
1e-7 vanish when they are added to bfloat16 weights. LoRA's frozen base is held in `dtype`, its adapters in float32.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers.utils import logging as transformers_logging

from icr_platform.config import TrainConfig
from icr_platform.errors import IcrError
from icr_platform.models import load_config, load_model, load_tokenizer, resolve_device, resolve_dtype

if TYPE_CHECKING:
    from transformers import PreTrainedModel

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Precision:
    """weights: dtype the trained model is held in. autocast: dtype of the computation, or None where it is the same."""

    weights: torch.dtype
    autocast: torch.dtype | None


def precision(config: TrainConfig) -> Precision:
    """How the configured dtype is trained in: see the module's docstring."""
    compute = resolve_dtype(config.dtype, config.device)
    if compute == torch.float32:
        return Precision(torch.float32, None)
    return Precision(compute if config.lora_rank else torch.float32, compute)


def autocast(config: TrainConfig) -> contextlib.AbstractContextManager[Any]:
    """The context in which the trainer computes, for a scorer that must agree with it."""
    dtype = precision(config).autocast
    device = torch.device(resolve_device(config.device))
    return torch.autocast(device.type, dtype=dtype) if dtype else contextlib.nullcontext()


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """Without transformers' own bars for loading and saving: the stage shows one progress display."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def load_trainable(model: str, config: TrainConfig) -> PreTrainedModel:
    """A model in the precision it is trained and scored in, on the CPU: the trainer places it, or shards it."""
    with without_bars():
        loaded = load_model(model, str(precision(config).weights).removeprefix("torch."), "cpu")
    _make_saveable(loaded)
    return loaded


def _make_saveable(model: PreTrainedModel) -> None:
    """Hub models often carry a temperature without do_sample; transformers loads that but refuses to save it."""
    generation = model.generation_config
    try:
        generation.validate(strict=True)
    except ValueError:
        generation.do_sample = True


def adapters(config: TrainConfig) -> Any:
    """peft's configuration of LoRA on every linear layer but the LM head; None when all weights are trained."""
    if not config.lora_rank:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,  # type: ignore[arg-type]  # peft divides it by the rank: any number does
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def write_model(config: TrainConfig, state: State, folder: Path) -> None:
    """Write trained weights (only the adapters of LoRA) as a plain model in the dtype of the policy's own, with its tokenizer.

    They go into a fresh copy of the policy, whose configs are the policy's own: the trainer changes its copy (padding token).
    `folder` appears when everything is in it.

    Raises:
        IcrError: a weight is not finite.
    """
    broken = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise IcrError(f"train: weights such as {broken[0]} are not finite after the last step; lower --learning-rate")
    stored = getattr(load_config(config.policy), "dtype", None) or torch.float32
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    with without_bars():
        held = torch.float32 if config.lora_rank else stored
        model: Any = load_model(config.policy, str(held).removeprefix("torch."), "cpu")
        _make_saveable(model)
        if config.lora_rank:
            model = _merged(model, config, state).to(stored)
        else:
            model.load_state_dict(state)
        model.save_pretrained(unfinished)
    load_tokenizer(config.policy, config).save_pretrained(unfinished)
    unfinished.rename(folder)


def _merged(model: Any, config: TrainConfig, state: State) -> Any:
    from peft import get_peft_model, set_peft_model_state_dict

    model = get_peft_model(model, adapters(config))
    set_peft_model_state_dict(model, state)
    return model.merge_and_unload()
