"""Models and tokenizers: loading them, and the checks that a checkpoint is whole and that two models tokenise alike.

A model that brings its own code (`auto_map` in its config) runs it only where `trust_remote_code` says so; transformers would ask on
the terminal, and take the answer from a pipe.
"""

from __future__ import annotations

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
    merge_adapter,
    read_adapter,
)
from icr_platform.models.chat import bind, template_arguments
from icr_platform.models.checkpoint_files import GENERATION, check_folder, other_kind, read_settings, read_template
from icr_platform.models.checkpoint_weights import (
    INDEX,
    INDICES,
    SINGLE,
    WEIGHTS,
    first_names,
    left_over,
    load_headers,
    load_whole,
    read_headers,
    shards_of,
)
from icr_platform.models.devices import BALANCED, require_device, resolve_device, resolve_dtype
from icr_platform.models.hub import is_hub_name, model_file, origin_of
from icr_platform.models.loading_errors import explained
from icr_platform.models.multimodal import (
    auto_class,
    is_multimodal,
    leave_out_towers,
    names_of,
    restore_logit_scale,
    towers,
)
from icr_platform.models.quantised import (
    NONE,
    bitsandbytes_config,
    check_quantisation,
    check_setting,
    is_in_bits,
    keep_precision,
    quantisation,
)
from icr_platform.models.removed_weights import removed_weights, require_weights
from icr_platform.models.vocabulary import compare, require_embeddings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# What a class of transformers is for, by the mapping that names it, where it is not for continuing a text.
_OTHER_TASKS = {
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES": "an encoder-decoder",
    "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES": "a model of speech",
    "MODEL_FOR_MASKED_LM_MAPPING_NAMES": "an encoder",
    "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES": "a classifier or reward model",
    "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES": "a classifier",
    "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES": "a model of answers within a text",
    "MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES": "a classifier",
    "MODEL_FOR_NEXT_SENTENCE_PREDICTION_MAPPING_NAMES": "a classifier",
}
_PROCESSOR_TEMPLATE = "chat_template.json"  # of a processor of images or sound; a tokenizer does not look there


def check_model_path(model: str) -> None:
    """Raise InputError when `model` means a folder that does not exist, or does not contain a model that can be read."""
    if not check_folder(model) and not is_hub_name(model):
        raise InputError(
            f"{model}: no such folder; give a model folder or a hub name like org/name or org/name@revision"
        )


def load_tokenizer(model: str, chat: ChatSettings = CHAT_DEFAULTS, template: str = "") -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model folder or hub name, with its chat template; an adapter may leave it to its base model.

    chat: what the template is rendered with, wherever the tokenizer goes, and whether the model's own code may run.
    template: file of a chat template that takes the place of the model's.

    Raises:
        InputError: no such model, no tokenizer, no chat template or one that loses the instruction, or a token for which the
            model has no embedding.
    """
    tokenizer = read_tokenizer(model, chat.trust_remote_code)
    if template:
        tokenizer.chat_template = read_template(Path(template))
    bind(tokenizer, model, chat)
    require_embeddings(tokenizer, model, _embedding_rows(model))
    return tokenizer


def chat_of_helper(model: str, chat: ChatSettings) -> ChatSettings:
    """Keep of the template's arguments those that `model` takes: a judge or a translator may be of another family than the policy.

    Raises:
        InputError: the model has no tokenizer.
    """
    known = template_arguments(read_tokenizer(model, chat.trust_remote_code)) if chat.chat_template_kwargs else None
    if known is None:
        return chat
    kept = {name: value for name, value in chat.chat_template_kwargs.items() if name in known}
    return chat.model_copy(update={"chat_template_kwargs": kept})


def read_tokenizer(model: str, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load a tokenizer for text that no chat template frames; raises InputError when the model has none."""
    from transformers import AutoTokenizer

    check_model_path(model)
    if not model_file(model, "tokenizer_config.json"):
        model = base_of(model)
        check_model_path(model)
    source = origin_of(model)
    with explained(model, "tokenizer"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            source.name, trust_remote_code=trust_remote_code, **source.options
        )
    if not tokenizer.chat_template and (path := model_file(model, _PROCESSOR_TEMPLATE)):
        tokenizer.chat_template = read_settings(path).get("chat_template")  # Mistral Small 3.1 has it there alone
    return tokenizer


def _embedding_rows(model: str) -> int | None:
    """Read the rows of a model's embedding from its config alone; None where the config leaves them to its type."""
    values = _raw_config(base_of(model))
    size = values.get("vocab_size", (values.get("text_config") or {}).get("vocab_size"))
    return size if isinstance(size, int) else None


def _raw_config(model: str) -> dict[str, Any]:
    """Read a model's config as it was written: no class of transformers or of the model's own is made of it."""
    from transformers import PreTrainedConfig

    source = origin_of(model)
    with explained(model, "config"):
        values: dict[str, Any] = PreTrainedConfig.get_config_dict(source.name, **source.options)[0]
    return values


def load_config(model: str, trust_remote_code: bool = False) -> Any:
    """Load the model's transformers config, without weights; raises InputError when there is none."""
    from transformers import AutoConfig

    check_model_path(model)
    model = base_of(model)
    check_model_path(model)
    source = origin_of(model)
    with explained(model, "config"):
        return AutoConfig.from_pretrained(source.name, trust_remote_code=trust_remote_code, **source.options)


def load_model(
    model: str,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    whole: bool = False,
    quantization: str = NONE,
) -> PreTrainedModel:
    """Load a causal language model in evaluation mode onto its device; raises InputError when that is not possible.

    An adapter is merged into its base model's weights, so that the result is a plain model, as fast as any; over quantised weights,
    which would round it, it stays beside them.

    Args:
        quantization: of weights that are not quantised: none, nf4 or int8; such a model is in its place and keeps its precision.
        whole: with the towers of a multimodal model, which texts do not pass; only a checkpoint needs them.
    """
    check_model_path(model)
    require_device(device)  # an impossible one is said before gigabytes are read
    require_weights(model)
    config = load_config(model, trust_remote_code)
    require_causal(base_of(model), config)
    load = loader(auto_class(config, whole), model, config, dtype, device, trust_remote_code, quantization)
    loaded, unexpected = load_whole(base_of(model), load)
    if unexpected:
        print(left_over(base_of(model), unexpected), file=sys.stderr, flush=True)
    if is_multimodal(loaded.config) and not whole:
        from icr_platform.models.small_copy import towers_are_idle

        restore_logit_scale(loaded)
        if towers_are_idle(type(loaded), loaded.config):
            leave_out_towers(loaded)
    return placed(loaded, model, dtype, device)


def loader(
    auto: Any, model: str, config: Any, dtype: str, device: str, trust_remote_code: bool, quantization: str
) -> Any:
    """Return the `from_pretrained` of an auto class, for the weights of `model` or those that its adapter is added to."""
    import torch
    from transformers.utils import logging

    wanted = resolve_dtype(dtype, device)
    in_bits = quantization != NONE or bool(quantisation(config))
    placement: Any = BALANCED if device == BALANCED and torch.cuda.is_available() else None
    if quantization != NONE:
        placement = placement or {"": resolve_device(device)}
    if not sys.stderr.isatty():
        logging.disable_progress_bar()  # a log file keeps a bar per checkpoint file as noise
    source = origin_of(base_of(model))
    return partial(
        auto.from_pretrained,
        source.name,
        **source.options,
        # Adapters are added in float32: bfloat16 rounds small ones away.
        dtype=torch.float32 if read_adapter(model) and not in_bits else wanted,
        device_map=placement,
        **({} if quantization == NONE else {"quantization_config": bitsandbytes_config(quantization, wanted)}),
        trust_remote_code=trust_remote_code,
    )


def placed(loaded: Any, model: str, dtype: str, device: str) -> PreTrainedModel:
    """Add the adapter of `model`, where it is one, to the weights that were loaded, and put them where they run, in evaluation mode."""
    if is_in_bits(loaded):
        keep_precision(loaded)
    if adapter := read_adapter(model):
        loaded = merge_adapter(loaded, adapter)
        loaded = loaded if is_in_bits(loaded) else loaded.to(resolve_dtype(dtype, device))
    is_spread = hasattr(loaded, "hf_device_map")  # accelerate put it onto devices
    result: PreTrainedModel = (loaded if is_spread else loaded.to(resolve_device(device))).eval()
    return result


def load_seq2seq_model(
    model: str, dtype: str = "auto", device: str = "auto", trust_remote_code: bool = False
) -> PreTrainedModel:
    """Load an encoder with its decoder in evaluation mode onto its device; raises InputError when that is not possible."""
    from transformers import AutoModelForSeq2SeqLM
    from transformers.utils import logging

    check_model_path(model)
    require_device(device)
    load_config(model, trust_remote_code)
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    source = origin_of(model)
    load: Any = partial(
        AutoModelForSeq2SeqLM.from_pretrained,
        source.name,
        **source.options,
        dtype=resolve_dtype(dtype, device),
        trust_remote_code=trust_remote_code,
    )
    loaded, unexpected = load_whole(model, load)
    if unexpected:
        print(left_over(model, unexpected), file=sys.stderr, flush=True)
    result: PreTrainedModel = loaded.to(resolve_device(device)).eval()
    return result


def check_weights(
    model: str, trust_remote_code: bool = False, is_loaded_by_vllm: bool = False, quantization: str = NONE
) -> tuple[str, ...]:
    """Refuse a checkpoint that lacks tensors before any work, by the headers of its files; reads no weights.

    The tensors of quantised models, and of hub models that are not in the cache yet, are checked when they are loaded.

    Args:
        is_loaded_by_vllm: leave it to vLLM to check architectures that transformers does not know as causal language models, and
            quantised weights.

    Returns: a line for a person to read where the checkpoint has tensors that the model does not.

    Raises:
        InputError: it is not a causal language model; there are no weights (and they were not removed on purpose); a tensor or
            a file is missing, cut off, or of another shape than the config says; quantised weights cannot be used here.
    """
    adapter, base = read_adapter(model), base_of(model)
    if removed_weights(Path(base)):  # finished work can be reused without them; `load_model` asks `require_weights`
        return ()
    config = load_config(base, trust_remote_code)
    generation_eos(model, trust_remote_code)
    files = weight_files(base)
    if is_loaded_by_vllm and (not is_causal(config) or quantisation(config)):
        return ()
    require_causal(base, config)
    check_setting(base, config, quantization)
    if quantisation(config):
        check_quantisation(base, config)
        return ()
    # transformers itself turns this format into the model's tensors: its headers say nothing about what will be missing.
    if getattr(config, "transformers_weights", None) or not files:
        return ()
    skeleton = on_meta_device(base, config, trust_remote_code)
    unexpected = load_headers(base, skeleton, read_headers(files))
    if adapter and not any(adapter.folder.glob("adapter_model.*")):
        raise InputError(f"{adapter.folder / ADAPTER_WEIGHTS}: missing; fetch the adapter again")
    if adapter and (adapter.folder / ADAPTER_WEIGHTS).exists():
        add_adapter(skeleton, adapter, read_headers([adapter.folder / ADAPTER_WEIGHTS]))
    notes: tuple[str, ...] = (left_over(base, unexpected),) if unexpected else ()
    if is_multimodal(skeleton.config):
        beside = ", ".join(towers(skeleton))
        notes += (
            f"{base}: a multimodal {type(skeleton).__name__}, used as a model of text; {beside} take no part, and training "
            "saves them as they are",
        )
    return notes


def require_causal(model: str, config: Any) -> None:
    """Raise InputError when a model of this config does not continue texts: an encoder, an encoder-decoder, a classifier."""
    from transformers.models.auto import modeling_auto

    fix = "choose a causal language model, such as a LlamaForCausalLM"
    named = list(getattr(config, "architectures", None) or ())
    causal = set(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    # Some models that see or hear are listed among those of speech, too.
    causal |= {
        name for value in modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES.values() for name in names_of(value)
    }
    if getattr(config, "is_encoder_decoder", False):
        raise InputError(f"{model}: {config.model_type!r} is an encoder-decoder ({first_names(named)}); {fix}")
    for mapping, task in _OTHER_TASKS.items():
        others = {name for value in getattr(modeling_auto, mapping, {}).values() for name in names_of(value)} - causal
        if named and set(named) <= others:
            raise InputError(f"{model}: a {first_names(named)} (config.json) is {task}; {fix}")
    if not (is_causal(config) or is_multimodal(config) or _brings_code(config)):
        raise InputError(
            f"{model}: transformers {transformers_version()} has no causal language model of type {config.model_type!r}; {fix}"
        )


def transformers_version() -> str:
    from transformers import __version__

    return __version__


def _brings_code(config: Any) -> bool:
    return "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})


def weight_files(model: str) -> list[Path]:
    """List the files that transformers will load weights from, as far as they are on this machine."""
    from huggingface_hub import try_to_load_from_cache

    folder = Path(model)
    if folder.is_dir():
        # transformers prefers safetensors, then a single file, and reads several only through their index.
        found = [folder / name for name in WEIGHTS if (folder / name).exists()]
        if not found and any(folder.glob("*.safetensors")):
            raise InputError(
                f"{folder / INDEX}: missing, and without it the folder's safetensors files are not a checkpoint; fetch it"
            )
        if not found:
            raise InputError(f"{folder / SINGLE}: missing; {other_kind(folder)}")
    else:
        source = origin_of(model)
        cached = [try_to_load_from_cache(source.name, name, **source.options) for name in WEIGHTS]
        found = [Path(path) for path in cached if isinstance(path, str)]
    if not found or found[0].name not in INDICES:
        return found[:1]
    shards = shards_of(found[0])
    return shards if folder.is_dir() or all(path.exists() for path in shards) else []


def check_same_tokenisation(policy: str, reference: str, chat: ChatSettings = CHAT_DEFAULTS) -> tuple[str, ...]:
    """Raise InputError unless both models map every text to the same token ids, chat template included.

    Log-ratios of two models are only defined over one token sequence (arXiv 2503.04647, equation 1).

    Returns: a line on the tokens that one of them alone has, if no text can contain them.
    """
    return compare(policy, load_tokenizer(policy, chat), reference, load_tokenizer(reference, chat))


def parameter_count(model: str, trust_remote_code: bool = False) -> int:
    """Count the parameters of a model from its config alone; of a multimodal one, those that a text passes."""
    skeleton = on_meta_device(model, load_config(model, trust_remote_code), trust_remote_code)
    if is_multimodal(skeleton.config):
        leave_out_towers(skeleton)
    tied_once = {id(parameter): parameter for parameter in skeleton.parameters()}
    return int(sum(parameter.numel() for parameter in tied_once.values()))


def is_causal(config: Any) -> bool:
    """Whether transformers loads models of this config as causal language models."""
    from transformers import AutoModelForCausalLM

    return type(config) in AutoModelForCausalLM._model_mapping


def on_meta_device(model: str, config: Any, trust_remote_code: bool, auto: Any = None) -> PreTrainedModel:
    """Build the model without weights; raises InputError when its config does not describe one.

    auto: the auto class that opens it; None: that of a causal language model.
    """
    import torch

    auto = auto or auto_class(config)
    revision = origin_of(base_of(model)).revision
    brings_code = auto.__name__ in (getattr(config, "auto_map", None) or {})
    code: dict[str, Any] = {"code_revision": revision} if revision and trust_remote_code and brings_code else {}
    with explained(model, "config", "correct its config.json"), torch.device("meta"):
        skeleton: PreTrainedModel = auto.from_config(config, trust_remote_code=trust_remote_code, **code)
    return skeleton


def recommended_sampling(model: str) -> dict[str, float]:
    """Read the numbers that a model's generation config names, such as its temperature; none where it has no such file."""
    path = model_file(base_of(model), GENERATION)
    values = read_settings(path) if path is not None else {}
    return {name: value for name, value in values.items() if type(value) in (int, float)}


def generation_eos(model: str, trust_remote_code: bool = False) -> list[int]:
    """Read the end-of-sequence ids of the model's generation config, or else of its config; none where neither names any.

    Raises:
        InputError: what is there is not ids.
    """
    path = model_file(base_of(model), GENERATION)
    where, eos = f"{model}: its config", None
    if path is not None:
        where, eos = str(path), read_settings(path).get("eos_token_id")
    if eos is None:
        eos = getattr(load_config(model, trust_remote_code), "eos_token_id", None)
    ids = [] if eos is None else eos if isinstance(eos, list) else [eos]
    if not all(type(token_id) is int and token_id >= 0 for token_id in ids):
        raise InputError(f"{where}: field 'eos_token_id' is {eos!r}; give the id of a token, or a list of ids")
    return ids
