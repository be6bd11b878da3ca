"""Whether a policy can be trained as it is asked, on this machine, and what of it is not trained; reads no weights."""

from __future__ import annotations

from pathlib import Path

from icr_platform.core.errors import InputError
from icr_platform.models.adapters import base_of
from icr_platform.models.chat import require_system_prompt
from icr_platform.models.devices import resolve_device
from icr_platform.models.loading import check_weights, load_config, load_tokenizer
from icr_platform.models.quantised import NONE, check_quantisation, method_of, quantisation
from icr_platform.training.config import PolicyTraining
from icr_platform.training.launch import check_accelerate_config

_DEVICES = ("auto", "cpu", "cuda", "cuda:0")


def check_policy(config: PolicyTraining) -> int:
    """Check everything but what the policy is trained on.

    Returns: how many token ids the policy knows.

    Raises:
        InputError: the policy cannot be trained, or not so, or not on this machine.
    """
    import torch

    require_system_prompt(load_tokenizer(config.policy, config, config.own_template))
    check_weights(config.policy, config.trust_remote_code, quantization=config.quantization)
    opened = load_config(config.policy, config.trust_remote_code)
    is_plain = not quantisation(opened) or check_quantisation(base_of(config.policy), opened)
    if not config.lora_rank and not (is_plain and config.quantization == NONE):
        raise InputError(
            f"{config.policy}: its weights are quantised, and training changes numbers; train adapters over them with --lora-rank 16, or "
            "give the model that was quantised"
        )
    if not is_plain and method_of(opened) != "bitsandbytes":
        raise InputError(
            f"{config.policy}: adapters over weights that were quantised by {method_of(opened)} cannot be added to them at the end; "
            "give the model that was quantised, or one of bitsandbytes"
        )
    policy = opened.get_text_config()
    if config.router_loss and not hasattr(policy, "output_router_logits"):
        raise InputError(
            f"config: field 'router_loss' is {config.router_loss:g}, but {config.policy} is not a mixture of experts that gives "
            "its router's logits; leave --router-loss out"
        )
    if config.device not in _DEVICES:
        fix = "training takes the first visible GPU, choose it by CUDA_VISIBLE_DEVICES"
        raise InputError(f"config: field 'device' is {config.device!r}, expected one of {', '.join(_DEVICES)}; {fix}")
    if config.device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"config: field 'device' is {config.device!r} but no GPU is visible; give --device cpu")
    if config.dtype == "float16" and resolve_device(config.device) == "cpu":
        raise InputError("config: field 'dtype' float16 does not train on a CPU; give --dtype float32 or bfloat16")
    if config.accelerate_config:
        check_accelerate_config(Path(config.accelerate_config), resolve_device(config.device))
    return int(policy.vocab_size)


def notes_of_weights(config: PolicyTraining) -> list[str]:
    """Say which weights and which GPUs are not used."""
    import torch

    from icr_platform.training.weights import unreached_share

    notes = []
    share = unreached_share(config.policy, config.trust_remote_code) if config.lora_rank else 0.0
    if share:
        notes.append(
            f"LoRA trains linear layers; the experts, {share:.0%} of the policy's parameters, are fused into tensors that it does not "
            "reach in this family, and stay as they were"
        )
    gpus = torch.cuda.device_count() if resolve_device(config.device).startswith("cuda") else 0
    if gpus > 1 and not config.accelerate_config:
        notes.append(f"one of {gpus} visible GPUs was used; --accelerate-config trains on all of them")
    return notes
