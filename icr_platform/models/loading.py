"""Models and tokenizers: loading them, and the checks that a checkpoint is whole and that two models tokenise alike."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icr_platform.core.config import CHAT_DEFAULTS, ChatSettings
from icr_platform.core.errors import InputError
from icr_platform.models.adapters import (
    ADAPTER_WEIGHTS,
    add_adapter,
    base_of,
    is_hub_name,
    merge_adapter,
    read_adapter,
)
from icr_platform.models.chat import bind, encode_prompt
from icr_platform.models.checkpoint_weights import (
    INDEX,
    SINGLE,
    WEIGHT_SUFFIXES,
    first_line,
    left_over,
    load_headers,
    load_whole,
    read_headers,
    shards_of,
)
from icr_platform.models.devices import BALANCED, resolve_device, resolve_dtype
from icr_platform.models.removed_weights import removed_weights, require_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Where tokenizers differ: spaces and line breaks at the ends, accents, scripts without spaces, right-to-left, emoji.
_PROBES = ("Name three fruits.", "  ¿Qué tal?\n\n", "Что это?", "你好，世界 🙂", "สวัสดี", "مرحبا", "হ্যালো")


def check_model_path(model: str) -> None:
    """Raise InputError when `model` means a folder that does not exist or does not contain a model."""
    folder = Path(model)
    if folder.is_dir():
        if read_adapter(model) is None and not (folder / "config.json").exists():
            raise InputError(
                f"{folder / 'config.json'}: missing; give a folder that transformers' save_pretrained wrote"
            )
        return
    if not is_hub_name(model):
        raise InputError(f"{model}: no such folder; give a model folder or a hub name like org/name")


def load_tokenizer(model: str, chat: ChatSettings = CHAT_DEFAULTS) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model folder or hub name, with its chat template; an adapter may leave it to its base model.

    chat: what the template is rendered with, wherever the tokenizer goes.

    Raises:
        InputError: no such model, no tokenizer, no chat template, or one that loses the instruction.
    """
    tokenizer = read_tokenizer(model)
    bind(tokenizer, model, chat)
    return tokenizer


def read_tokenizer(model: str) -> PreTrainedTokenizerBase:
    """Load a tokenizer for text that no chat template frames; raises InputError when the model has none."""
    from transformers import AutoTokenizer

    check_model_path(model)
    if not (Path(model) / "tokenizer_config.json").exists():
        model = base_of(model)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{model}: no tokenizer could be loaded ({first_line(error)}); check the name or folder"
        ) from error
    return tokenizer


def load_config(model: str) -> Any:
    """Load the model's transformers config, without weights; raises InputError when there is none."""
    from transformers import AutoConfig

    check_model_path(model)
    model = base_of(model)
    try:
        return AutoConfig.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{model}: no model config could be loaded ({first_line(error)}); check the name or folder"
        ) from error


def load_model(model: str, dtype: str = "auto", device: str = "auto") -> PreTrainedModel:
    """Load a causal language model in evaluation mode onto its device; raises InputError when that is not possible.

    An adapter is merged into its base model's weights, so that the result is a plain model, as fast as any.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    check_model_path(model)
    require_weights(model)
    adapter = read_adapter(model)
    wanted = resolve_dtype(dtype, device)
    if not sys.stderr.isatty():
        logging.disable_progress_bar()  # a log file keeps a bar per checkpoint file as noise
    load: Any = partial(
        AutoModelForCausalLM.from_pretrained,
        base_of(model),
        dtype=torch.float32 if adapter else wanted,  # adapters are added in float32: bfloat16 rounds small ones away
        device_map=BALANCED if device == BALANCED and torch.cuda.is_available() else None,
    )
    loaded, unexpected = load_whole(base_of(model), load)
    if unexpected:
        print(left_over(base_of(model), unexpected), file=sys.stderr, flush=True)
    if adapter:
        loaded = merge_adapter(loaded, adapter).to(wanted)
    is_placed = hasattr(loaded, "hf_device_map")  # accelerate spread it over devices
    placed = loaded if is_placed else loaded.to(resolve_device(device))
    result: PreTrainedModel = placed.eval()
    return result


def check_weights(model: str, is_loaded_by_vllm: bool = False) -> tuple[str, ...]:
    """Refuse a checkpoint that lacks tensors before any work, by the headers of its safetensors files; reads no weights.

    Other formats, quantised models, and hub models that are not in the cache yet are checked when they are loaded.

    Args:
        is_loaded_by_vllm: leave it to vLLM to check architectures that transformers does not know as causal language models.

    Returns: a line for a person to read where the checkpoint has tensors that the model does not.

    Raises:
        InputError: there are no weights (and they were not removed on purpose), or a tensor or a file is missing, cut off,
            or of another shape than the config says.
    """
    adapter, base = read_adapter(model), base_of(model)
    if removed_weights(Path(base)):  # finished work can be reused without them; `load_model` asks `require_weights`
        return ()
    config = load_config(base)
    files = _safetensors_files(base)
    # transformers itself turns other formats into the model's tensors: their headers say nothing about what will be missing.
    own_format = getattr(config, "quantization_config", None) or getattr(config, "transformers_weights", None)
    if own_format or not files or (is_loaded_by_vllm and not is_causal(config)):
        return ()
    skeleton = _on_meta_device(base, config)
    unexpected = load_headers(base, skeleton, read_headers(files))
    if adapter and not any(adapter.folder.glob("adapter_model.*")):
        raise InputError(f"{adapter.folder / ADAPTER_WEIGHTS}: missing; fetch the adapter again")
    if adapter and (adapter.folder / ADAPTER_WEIGHTS).exists():
        add_adapter(skeleton, adapter, read_headers([adapter.folder / ADAPTER_WEIGHTS]))
    return (left_over(base, unexpected),) if unexpected else ()


def _safetensors_files(model: str) -> list[Path]:
    """List the safetensors files that transformers will load, as far as they are on this machine; none for other formats."""
    from huggingface_hub import try_to_load_from_cache

    folder = Path(model)
    if folder.is_dir():
        if not any(path for suffix in WEIGHT_SUFFIXES for path in folder.glob(f"*{suffix}")):
            raise InputError(f"{folder / SINGLE}: missing; give a folder that transformers' save_pretrained wrote")
        # transformers prefers the single file, and reads several only through their index.
        found: list[Any] = [path for path in (folder / SINGLE, folder / INDEX) if path.exists()]
        if not found and not any(path for suffix in (".bin", ".gguf") for path in folder.glob(f"*{suffix}")):
            raise InputError(
                f"{folder / INDEX}: missing, and without it the folder's safetensors files are not a checkpoint; fetch it"
            )
    else:
        cached = [try_to_load_from_cache(model, name) for name in (SINGLE, INDEX)]
        found = [Path(path) for path in cached if isinstance(path, str)]
    if not found or found[0].name == SINGLE:
        return found[:1]
    shards = shards_of(found[0])
    return shards if folder.is_dir() or all(path.exists() for path in shards) else []


def check_same_tokenisation(policy: str, reference: str, chat: ChatSettings = CHAT_DEFAULTS) -> None:
    """Raise InputError unless both models map every text to the same token ids, chat template included.

    Log-ratios of two models are only defined over one token sequence (arXiv 2503.04647, equation 1).
    """
    ours, theirs = load_tokenizer(policy, chat), load_tokenizer(reference, chat)
    fix = "policy and reference must share one tokenizer"
    if ours.get_vocab() != theirs.get_vocab():
        raise InputError(
            f"{policy} and {reference}: field 'vocab' differs ({len(ours)} and {len(theirs)} tokens); {fix}"
        )
    for probe in _PROBES:
        if encode_prompt(ours, probe) != encode_prompt(theirs, probe):
            raise InputError(
                f"{policy} and {reference}: field 'chat_template' or the merges differ on {probe!r}; {fix}"
            )
    # A model may have more embeddings than its tokenizer has tokens, never fewer.
    sizes = [load_config(model).get_text_config().vocab_size for model in (policy, reference)]
    if min(sizes) < len(ours):
        raise InputError(f"{policy} and {reference}: field 'vocab_size' {sizes} is below {len(ours)} tokens; {fix}")


def parameter_count(model: str) -> int:
    """Count the parameters of a model from its config alone."""
    skeleton = _on_meta_device(model, load_config(model))
    tied_once = {id(parameter): parameter for parameter in skeleton.parameters()}
    return int(sum(parameter.numel() for parameter in tied_once.values()))


def is_causal(config: Any) -> bool:
    """Whether transformers loads models of this config as causal language models."""
    from transformers import AutoModelForCausalLM

    return type(config) in AutoModelForCausalLM._model_mapping


def _on_meta_device(model: str, config: Any) -> PreTrainedModel:
    """Build the model without weights; raises InputError when the config is not a causal language model's."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            skeleton: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    except ValueError as error:
        raise InputError(
            f"{model}: no causal language model can be made from its config ({first_line(error)}); choose another model"
        ) from error
    return skeleton


def generation_eos(model: str) -> int | list[int] | None:
    """Read the end-of-sequence ids of the model's generation config, or else of its config."""
    path = Path(base_of(model)) / "generation_config.json"
    if path.exists():
        eos: int | list[int] | None = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
        return eos
    config_eos: int | list[int] | None = getattr(load_config(model), "eos_token_id", None)
    return config_eos
