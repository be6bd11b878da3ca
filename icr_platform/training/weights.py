"""Weights on their way in and out: the precision in which a policy is trained, and the plain model at the end.

Weights are kept in float32 whatever `dtype` says, which is the precision of the computation (autocast): AdamW steps of
1e-7 vanish when they are added to bfloat16 weights. LoRA's frozen base is kept in `dtype`, its adapters in float32.
The checkpoint is float32 too unless `save_dtype` asks for the policy's own precision, for the same reason.
"""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers.utils import logging as transformers_logging

from icr_platform.core.errors import IcrError
from icr_platform.models.adapters import adapter_sizes, base_of, merge_trained, new_adapters
from icr_platform.models.devices import resolve_device, resolve_dtype
from icr_platform.models.hub import model_file
from icr_platform.models.loading import load_config, load_model, load_tokenizer, on_meta_device
from icr_platform.models.multimodal import (
    PROCESSOR_FILES,
    freeze_all_but_text,
    is_multimodal,
    leave_out_towers,
    put_into_whole,
)
from icr_platform.models.quantised import NONE, plain
from icr_platform.training.config import PolicyTraining

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Precision:
    """weights: dtype in which the trained model is kept. autocast: dtype of the computation; None where it is the same."""

    weights: torch.dtype
    autocast: torch.dtype | None


def precision(config: PolicyTraining) -> Precision:
    """Resolve the configured dtype as the module's docstring says."""
    compute = resolve_dtype(config.dtype, config.device)
    if compute == torch.float32:
        return Precision(torch.float32, None)
    return Precision(compute if config.lora_rank else torch.float32, compute)


def autocast(config: PolicyTraining) -> contextlib.AbstractContextManager[Any]:
    """Compute as the trainer does: for a scorer that must agree with it."""
    dtype = precision(config).autocast
    device = torch.device(resolve_device(config.device))
    return torch.autocast(device.type, dtype=dtype) if dtype else contextlib.nullcontext()


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """Hide transformers' own bars for loading and saving: the stage shows its own progress."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def policy_tokenizer(config: PolicyTraining) -> PreTrainedTokenizerBase:
    """Load the policy's tokenizer with the chat template that it is trained with."""
    return load_tokenizer(config.policy, config, config.own_template)


def load_trainable(model: str, config: PolicyTraining) -> PreTrainedModel:
    """Load a model in the precision in which it is trained and scored, on the CPU: the trainer places it, or shards it.

    Quantised weights, over which adapters are trained, are where they will stay.
    """
    with without_bars():
        name = str(precision(config).weights).removeprefix("torch.")
        place = "cpu" if config.quantization == NONE else resolve_device(config.device)
        loaded = load_model(model, name, place, config.trust_remote_code, quantization=config.quantization)
    _make_saveable(loaded)
    if is_multimodal(loaded.config):
        freeze_all_but_text(loaded)
    if loaded.base_model is loaded and hasattr(loaded, "model"):
        # Llama 4's class names its body otherwise than it calls it, and TRL's loss asks for the body by that name.
        loaded.base_model_prefix = "model"
    return loaded


def _make_saveable(model: PreTrainedModel) -> None:
    """Repair what transformers loads but refuses to save: hub models often come with a temperature and without do_sample."""
    generation = model.generation_config
    try:
        generation.validate(strict=True)
    except ValueError:
        generation.do_sample = True


def trained_model(config: PolicyTraining, state: Weights, curve: Sequence[Mapping[str, float]]) -> PreTrainedModel:
    """Put the trained weights, or LoRA's adapters, into the policy, in float32 on the device of `state`.

    The policy is loaded afresh, so that its configs are its own: the trainer changed those of its copy (padding token).
    curve: the loss curve, which tells why weights did not move.

    Raises:
        IcrError: a weight is not finite, or none differs from the policy's.
    """
    # Looked for before anything is written: a checkpoint with NaN loads without an error.
    broken = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise IcrError(
            f"{config.stage}: weights such as {broken[0]} are not finite after the last step; lower --learning-rate"
        )
    with without_bars():
        # Adapters over quantised weights are added to those that were quantised, or where there are none to what the bits mean.
        model: Any = plain(load_model(config.policy, "float32", "cpu", config.trust_remote_code), torch.float32)
    _make_saveable(model)
    if config.lora_rank:
        model, moved = merge_trained(model, new_adapters(config.lora_rank, config.lora_alpha), state)
    else:
        moved = _differs(model.state_dict(), state)
        model.load_state_dict(state, assign=True)  # the tensors themselves: no second copy in memory
        model.tie_weights()
    if not moved:
        raise IcrError(_why_nothing_moved(config, curve))
    result: PreTrainedModel = model
    return result


def _differs(before: Weights, after: Weights) -> bool:
    """Whether any weight differs, in the precision of `before`; the first that does ends the search, almost at once."""
    return any(not torch.equal(before[name], after[name].to(before[name])) for name in before)


def _why_nothing_moved(config: PolicyTraining, curve: Sequence[Mapping[str, float]]) -> str:
    """Tell from the gradients whether the pairs, the precision or the learning rate is to blame."""
    said = f"{config.stage}: {int(curve[-1]['step'])} steps changed no weight of the policy"
    name = f"{config.stage}/grad_norm"
    gradients = [row[name] for row in curve if name in row]
    if gradients and not any(gradients):
        return (
            f"{said}: every gradient is 0, as for pairs whose chosen and rejected tokens are the same; look at what it is trained on"
            + (", or give --gamma above 0" if config.stage == "train" else "")
        )
    if not all(math.isfinite(size) for size in gradients):
        return (
            f"{said}: its gradients overflow in float16, and such steps are skipped; give --dtype bfloat16 or more rows"
        )
    scale = f", or --lora-alpha (now {config.lora_alpha:g})" if config.lora_rank else ""
    return f"{said}: at --learning-rate {config.learning_rate:g} each change is too small for float32 to add; raise it{scale}"


def save_model(config: PolicyTraining, model: PreTrainedModel, folder: Path, end_of_turn: int | None = None) -> None:
    """Write a trained model in the configured precision, with the policy's tokenizer; `folder` appears once it is complete.

    end_of_turn: the token that it has learnt to end its turns with, on which it shall stop wherever it is run.

    A multimodal policy is written as what it is, with its towers as they were and the files of its processor.

    Raises:
        IcrError: in that precision no weight differs from the policy's, or one is not finite.
    """
    saved = model
    stored = stored_dtype(config.policy, config.trust_remote_code)
    dtype = stored if config.save_dtype == "stored" else torch.float32
    name = str(dtype).removeprefix("torch.")
    with without_bars():
        if dtype != torch.float32 or is_multimodal(load_config(config.policy, config.trust_remote_code)):
            # Keeps in float32 what its architecture keeps there.
            saved = load_model(config.policy, name, "cpu", config.trust_remote_code, whole=True)
            _make_saveable(saved)
            if not put_into_whole(saved, model):
                raise IcrError(
                    f"{config.stage}: the weights moved, but none by enough to differ in {name}, in which they would be saved; "
                    "use --save-dtype trained or raise --learning-rate"
                )
            if not all(torch.isfinite(tensor).all() for tensor in saved.state_dict().values()):
                raise IcrError(f"{config.stage}: a weight is too large for {name}; use --save-dtype trained")
        if end_of_turn is not None:
            eos = saved.generation_config.eos_token_id
            known = [] if eos is None else eos if isinstance(eos, list) else [eos]
            saved.generation_config.eos_token_id = known if end_of_turn in known else [*known, end_of_turn]
        # Under another name until all is in it: a kill must not leave half a model that looks like one.
        unfinished = folder.with_name(f"{folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        saved.save_pretrained(unfinished)
    policy_tokenizer(config).save_pretrained(unfinished)
    if is_multimodal(saved.config):
        for processor in PROCESSOR_FILES:
            if path := model_file(base_of(config.policy), processor):
                shutil.copyfile(path, unfinished / processor)
    unfinished.rename(folder)


def stored_dtype(policy: str, trust_remote_code: bool = False) -> torch.dtype:
    """Read the precision of a policy's files from its config; float32 where it says nothing."""
    config = load_config(policy, trust_remote_code)
    named = getattr(config, "dtype", None) or getattr(config.get_text_config(), "dtype", None)
    return named if isinstance(named, torch.dtype) else getattr(torch, str(named), torch.float32)


def adapter_parameters(policy: str, rank: int, trust_remote_code: bool = False) -> int:
    """Count the parameters of LoRA adapters of `rank`, without loading weights; 0 of rank 0, which is none."""
    if not rank:
        return 0
    skeleton = on_meta_device(policy, load_config(policy, trust_remote_code), trust_remote_code)
    if is_multimodal(skeleton.config):
        leave_out_towers(skeleton)
    return adapter_sizes(skeleton, rank)[0]


def unreached_share(policy: str, trust_remote_code: bool = False) -> float:
    """Measure the share of a policy's parameters in fused experts that adapters do not reach."""
    skeleton = on_meta_device(policy, load_config(policy, trust_remote_code), trust_remote_code)
    whole = sum({id(one): one.numel() for one in skeleton.parameters()}.values())
    return adapter_sizes(skeleton, 1)[1] / whole
