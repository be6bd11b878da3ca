"""LoRA adapters: read from a folder, added to a model, trained, merged into its weights. The only module that imports peft."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icr_platform.core.errors import InputError
from icr_platform.models.checkpoint_files import ADAPTER_SETTINGS, read_settings
from icr_platform.models.checkpoint_weights import count_of, first_names
from icr_platform.models.hub import is_hub_name, is_on_hub, model_file
from icr_platform.models.loading_errors import explained, first_line
from icr_platform.models.quantised import is_in_bits

if TYPE_CHECKING:
    import torch

ADAPTER_WEIGHTS = "adapter_model.safetensors"
_ADAPTER_PICKLE = "adapter_model.bin"


@dataclass(frozen=True)
class Adapter:
    """LoRA weights next to the name of the model they belong to, as peft's save_pretrained writes them.

    base: folder or hub name of the model they are added to. rank: of the largest of its matrices.
    """

    folder: Path
    base: str
    rank: int


def read_adapter(model: str) -> Adapter | None:
    """Describe the adapter `model`, whose files are fetched if it is a hub name; None when it is a whole model.

    A base model on the hub is pinned to the adapter's `revision`, where it names one.

    Raises:
        InputError: the adapter is not a LoRA adapter, or names no base model; the hub cannot be asked.
    """
    path = model_file(model, ADAPTER_SETTINGS)
    if path is None:
        return None
    if is_on_hub(model):  # its weights come to lie next to its settings
        _ = model_file(model, ADAPTER_WEIGHTS) or model_file(model, _ADAPTER_PICKLE)
    values = read_settings(path)
    base, rank = values.get("base_model_name_or_path"), values.get("r")
    if values.get("peft_type") != "LORA" or not base or not isinstance(base, str):
        raise InputError(
            f"{path}: fields 'peft_type' {values.get('peft_type')!r} and 'base_model_name_or_path' {base!r}; give a LoRA "
            "adapter that names its model"
        )
    # A relative path means one from the adapter's folder, wherever the command runs.
    from_adapter = path.parent / base
    named = str(from_adapter) if from_adapter.is_dir() else str(base)
    if not Path(named).is_dir() and not is_hub_name(named):
        raise InputError(f"{path}: field 'base_model_name_or_path' {base!r}: no such folder; correct it")
    if is_on_hub(named) and (revision := values.get("revision")) and "@" not in named:
        named = f"{named}@{revision}"
    if model_file(named, ADAPTER_SETTINGS):
        raise InputError(
            f"{path}: field 'base_model_name_or_path' {base!r}: an adapter itself; merge that one into its model, and name the result"
        )
    pattern = values.get("rank_pattern") or {}
    ranks = [rank, *(pattern.values() if isinstance(pattern, dict) else [pattern])]
    if not all(isinstance(one, int) and one > 0 for one in ranks):
        raise InputError(
            f"{path}: fields 'r' {rank!r} and 'rank_pattern' {pattern!r} are not ranks; fetch the file again"
        )
    return Adapter(path.parent, named, max(ranks))


def base_of(model: str) -> str:
    """Return the model that an adapter is added to, and any other model itself."""
    adapter = read_adapter(model)
    return adapter.base if adapter else model


def add_adapter(model: Any, adapter: Adapter, state: Mapping[str, torch.Tensor]) -> Any:
    """Put an adapter whose tensors are `state` on `model`, as peft loads it, but refuse what peft would fill with zeros.

    Raises:
        InputError: `state` lacks a tensor, has one that the model has no place for, or one of another shape.
    """
    from peft import PeftConfig, PeftModel, set_peft_model_state_dict

    fix = "give the model it was made for, or fetch the adapter again"
    is_skeleton = next(model.parameters()).is_meta
    try:
        config = PeftConfig.from_pretrained(str(adapter.folder))
        wrapped = PeftModel(model, config, low_cpu_mem_usage=is_skeleton).eval()
        found: Any = set_peft_model_state_dict(wrapped, dict(state), low_cpu_mem_usage=is_skeleton)
    except Exception as error:
        raise InputError(
            f"{adapter.folder}: the adapter does not fit {adapter.base} ({first_line(error)}); {fix}"
        ) from error
    # What training saved beside the matrices, such as the head of a classifier, is random until it is loaded.
    missing = sorted(key for key in found.missing_keys if "lora_" in key or ".modules_to_save." in key)
    if missing:
        raise InputError(f"{adapter.folder}: the adapter lacks {count_of(missing)}: {first_names(missing)}; {fix}")
    if found.unexpected_keys:
        lost = sorted(found.unexpected_keys)
        raise InputError(
            f"{adapter.folder}: {adapter.base} has no place for {count_of(lost)} of the adapter: {first_names(lost)}; {fix}"
        )
    return wrapped


def merge_adapter(model: Any, adapter: Adapter) -> Any:
    """Add an adapter's weights to those of its base model; what returns is a plain model, unless its weights are quantised.

    Raises:
        InputError: the adapter's weights cannot be loaded, or do not fit the model.
    """
    from peft import load_peft_weights

    with explained(str(adapter.folder), "adapter weights", "check the folder"):
        state = load_peft_weights(str(adapter.folder), device="cpu")
    wrapped = add_adapter(model, adapter, state)
    if is_in_bits(model):
        return wrapped.get_base_model()  # whose layers have the adapter beside their weights
    merged = wrapped.merge_and_unload()
    return merged.requires_grad_(True)  # peft froze it


def new_adapters(rank: int, alpha: float) -> Any:
    """Describe to peft LoRA adapters that are to be trained on every linear layer but the LM head."""
    from peft import LoraConfig

    return LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # peft divides it by the rank: any number does
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def leave_inputs_to_autocast(model: Any) -> None:
    """Have adapters take their inputs as they come, under autocast.

    peft would make each float32, as the adapters are, and autocast half precision again: the same numbers, twice copied.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.cast_input_dtype_enabled = False  # type: ignore[attr-defined]


def adapter_sizes(skeleton: Any, rank: int) -> tuple[int, int]:
    """Count the parameters of new adapters on a model without weights, and those of fused experts that they do not reach.

    peft reaches the fused experts of some families (Mixtral, OLMoE, Qwen3, DeepSeek) and not those of others (gpt-oss, Qwen2, Granite).
    """
    from peft import get_peft_model

    named = dict(get_peft_model(skeleton, new_adapters(rank, 1.0)).named_parameters())
    adapters = sum(one.numel() for name, one in named.items() if ".lora_" in name)
    experts = {name: one for name, one in named.items() if one.dim() == 3 and ".experts." in name}
    return adapters, sum(one.numel() for name, one in experts.items() if ".base_layer." not in name)


def adapters_alone(model: Any, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Pick the adapters' tensors out of the state of a model that peft wrapped; any other model's state stays whole."""
    if not hasattr(model, "peft_config"):
        return dict(state)
    from peft import get_peft_model_state_dict

    found: dict[str, torch.Tensor] = get_peft_model_state_dict(model, state_dict=dict(state))
    return found


def merge_trained(model: Any, settings: Any, state: Mapping[str, torch.Tensor]) -> tuple[Any, bool]:
    """Add trained adapters to the weights of `model`, and say whether they change any of these.

    Args:
        settings: what `new_adapters` returned.
        state: the adapters' tensors, as `adapters_alone` picks them.
    """
    import torch
    from peft import get_peft_model, set_peft_model_state_dict
    from peft.tuners.lora import LoraLayer

    wrapped: Any = get_peft_model(model, settings)
    set_peft_model_state_dict(wrapped, dict(state))
    layers: list[Any] = [module for module in wrapped.modules() if isinstance(module, LoraLayer)]
    with torch.no_grad():
        moved = any(
            not torch.equal(weight, weight + layer.get_delta_weight("default"))
            for layer in layers
            if isinstance(weight := getattr(layer.get_base_layer(), "weight", None), torch.Tensor)  # of experts none
        )
    return wrapped.merge_and_unload().requires_grad_(True), moved  # peft froze it
