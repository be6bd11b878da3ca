"""Weights in 4 or 8 bits: what a checkpoint or a setting asks for, whether it works here, and plain weights again.

bitsandbytes quantises any model while it is loaded; other methods are a checkpoint's own. Weights in few bits are not trained, but
adapters over them are (QLoRA, arXiv 2305.14314).
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from icr_platform.core.errors import InputError
from icr_platform.models.loading_errors import explained

if TYPE_CHECKING:
    import torch
    from torch.nn import Module
    from transformers import PreTrainedModel

NONE = "none"
_FIX = "choose the model that was quantised"


def quantisation(config: Any) -> Any:
    """Return what a config says of quantised weights; None where they are not."""
    return getattr(config, "quantization_config", None) or getattr(
        config.get_text_config(), "quantization_config", None
    )


def method_of(config: Any) -> str:
    """Name the method by which a checkpoint was quantised; '' where it was not."""
    values = quantisation(config)
    if values is None:
        return ""
    method = values.get("quant_method") if isinstance(values, dict) else getattr(values, "quant_method", None)
    return str(getattr(method, "value", method))


def check_quantisation(model: str, config: Any) -> bool:
    """Whether a model's quantised weights become plain ones when they are loaded here.

    Raises:
        InputError: they cannot be loaded here: a library, or the accelerator that they need, is missing.
    """
    from transformers import __version__
    from transformers.quantizers.auto import AutoHfQuantizer

    values = copy.deepcopy(quantisation(config))
    with explained(model, f"weights, quantised by {method_of(config)},", _FIX):
        if isinstance(values, dict) and not AutoHfQuantizer.supports_quant_method(values):
            raise ValueError(f"transformers {__version__} does not know this method")
        quantizer: Any = AutoHfQuantizer.from_config(values, pre_quantized=True)
        quantizer.validate_environment(device_map=None, weights_only=True)
    return bool(getattr(quantizer.quantization_config, "dequantize", False))


def check_setting(model: str, config: Any, quantization: str) -> None:
    """Refuse a `quantization` that cannot work here, before weights are read.

    Raises:
        InputError: bitsandbytes is missing or does not run here, or the checkpoint is quantised already.
    """
    from transformers.quantizers.auto import AutoHfQuantizer

    if quantization == NONE:
        return
    if method_of(config):
        raise InputError(
            f"{model}: is quantised already, by {method_of(config)}, and field 'quantization' is {quantization!r}; leave --quantization out"
        )
    with explained(
        model, f"weights in {quantization}", "pip install 'icr-platform[quantized]', or leave --quantization out"
    ):
        quantizer: Any = AutoHfQuantizer.from_config(bitsandbytes_config(quantization, "float32"), pre_quantized=False)
        quantizer.validate_environment(device_map=None, weights_only=True)


def bitsandbytes_config(quantization: str, compute_dtype: Any) -> Any:
    """Describe to transformers how bitsandbytes is to quantise a model; None for `none`.

    compute_dtype: of the products with 4-bit weights.
    """
    from transformers import BitsAndBytesConfig

    if quantization == NONE:
        return None
    if quantization == "nf4":
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute_dtype)
    # Above a threshold, columns are kept in 16 bits where any row of the batch has an outlier: a score would depend on what it was
    # batched with. At 0 each row is quantised by itself.
    return BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0)


def mixes_rows(config: Any) -> str | None:
    """Say how a checkpoint's quantisation lets rows of a batch change each other; None where it does not."""
    values = quantisation(config)
    said = values if isinstance(values, dict) else getattr(values, "to_dict", dict)() if values is not None else {}
    if said.get("load_in_8bit") and said.get("llm_int8_threshold", 6.0) > 0:
        return "LLM.int8 keeps columns in 16 bits where any row of the batch has an outlier"
    return None


def keep_precision(model: Module) -> None:
    """Let 4-bit layers compute on a CPU in the precision that they were given, when scoring as when training.

    bitsandbytes computes in bfloat16 there outside training, where the CPU can: a reference would be scored otherwise than trained on.
    """
    module: Any
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def is_in_bits(model: Any) -> bool:
    """Whether a loaded model's weights are quantised, so that it keeps its place and precision."""
    return getattr(model, "hf_quantizer", None) is not None


def plain(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Turn a quantised model into one with the same weights as plain numbers, which can be saved."""
    if not is_in_bits(model):
        return model
    result: Any = model.dequantize()
    if hasattr(
        result, "_weight_conversions"
    ):  # which transformers would undo when it saves; there is no way back to bits
        del result._weight_conversions
    placed: PreTrainedModel = result.to(dtype)
    return placed
