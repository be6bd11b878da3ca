"""Models and tokenizers: loading, identity, and the check that policy and reference tokenise alike."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icr_platform.core.artifacts import MANIFEST, file_fault, own_manifest, read_json, text_digest
from icr_platform.core.config import CHAT_DEFAULTS, ChatSettings
from icr_platform.core.errors import InputError, WeightsRemovedError
from icr_platform.core.file_digests import remembered_digest
from icr_platform.core.folder_content import content_files
from icr_platform.models.chat import bind, encode_prompt
from icr_platform.models.checkpoint_weights import (
    ADAPTER_WEIGHTS,
    INDEX,
    SINGLE,
    add_adapter,
    first_line,
    left_over,
    load_headers,
    load_whole,
    read_headers,
    shards_of,
)

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_PROBES = ("Name three fruits.", "  ¿Qué tal?\n\n", "Что это?", "你好，世界 🙂", "สวัสดี", "مرحبا", "হ্যালো")
_WEIGHTS = (".safetensors", ".bin", ".gguf")
# What training leaves beside a model and no loader reads.
_UNREAD = ("training_args.bin", "trainer_state.json", "optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt")
_RANDOM_STATES = "rng_state*.pth"
_NAMING_PLACES = ("config.json", "tokenizer_config.json", "adapter_config.json")
_PLACES = (
    "_name_or_path", "name_or_path", "base_model_name_or_path", "tokenizer_file", "special_tokens_map_file",
)  # fmt: skip
_ADAPTER = "adapter_config.json"
BALANCED = "balanced"  # accelerate's word for layers spread evenly over all GPUs


@dataclass(frozen=True)
class Adapter:
    """LoRA weights beside a model they belong to, as peft's save_pretrained writes them.

    base: folder or hub name of the model they are added to. rank: of the largest of its matrices.
    """

    folder: Path
    base: str
    rank: int


def read_adapter(model: str) -> Adapter | None:
    """The adapter in folder `model`; None when it is a model of its own, or a hub name.

    Raises:
        InputError: the adapter is none of LoRA's, or names no base model.
    """
    path = Path(model) / _ADAPTER
    if not path.exists():
        return None
    values = read_json(path)
    base = values.get("base_model_name_or_path")
    if values.get("peft_type") != "LORA" or not base:
        raise InputError(
            f"{path}: fields 'peft_type' {values.get('peft_type')!r} and 'base_model_name_or_path' {base!r}; give a LoRA "
            "adapter that names its model"
        )
    beside = path.parent / base
    named = str(beside) if beside.is_dir() else str(base)
    if not Path(named).is_dir() and not _is_hub_name(named):
        raise InputError(f"{path}: field 'base_model_name_or_path' {base!r}: no such folder; correct it")
    return Adapter(path.parent, named, max([int(values["r"]), *values.get("rank_pattern", {}).values()]))


def base_of(model: str) -> str:
    """The model itself, or the one an adapter is added to."""
    adapter = read_adapter(model)
    return adapter.base if adapter else model


def resolve_device(device: str) -> str:
    """'auto' and 'balanced' -> 'cuda' when there is a GPU, else 'cpu'."""
    import torch

    if device not in ("auto", BALANCED):
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def resolve_dtype(dtype: str, device: str) -> torch.dtype:
    """'auto' -> bfloat16 on a GPU, float32 on a CPU."""
    import torch

    if dtype == "auto":
        return torch.bfloat16 if resolve_device(device).startswith("cuda") else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[dtype]


def check_model_path(model: str) -> None:
    """Raise InputError when `model` is meant as a folder and there is none, or none that holds a model."""
    folder = Path(model)
    if folder.is_dir():
        if read_adapter(model) is None and not (folder / "config.json").exists():
            raise InputError(
                f"{folder / 'config.json'}: missing; give a folder that transformers' save_pretrained wrote"
            )
        return
    if not _is_hub_name(model):
        raise InputError(f"{model}: no such folder; give a model folder or a hub name like org/name")


def _is_hub_name(model: str) -> bool:
    return model.count("/") <= 1 and not model.startswith((".", "/", "~")) and "\\" not in model


def load_tokenizer(model: str, chat: ChatSettings = CHAT_DEFAULTS) -> PreTrainedTokenizerBase:
    """Tokenizer of a model folder or hub name, with a chat template; an adapter without one has its base model's.

    chat: what its template is rendered with, wherever the tokenizer goes.

    Raises:
        InputError: no such model, no tokenizer, no chat template, or one that loses the instruction.
    """
    tokenizer = read_tokenizer(model)
    bind(tokenizer, model, chat)
    return tokenizer


def read_tokenizer(model: str) -> PreTrainedTokenizerBase:
    """The same for text that no template frames; raises InputError when there is none."""
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
    """The model's transformers config, without weights; raises InputError when there is none."""
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
    """A causal language model in evaluation mode on its device; raises InputError when it cannot be loaded.

    An adapter is added to its base model's weights in float32, so that what comes is a plain model as fast as any.
    """
    import torch
    from transformers import AutoModelForCausalLM

    check_model_path(model)
    require_weights(model)
    adapter = read_adapter(model)
    wanted = resolve_dtype(dtype, device)
    _quiet_outside_terminals()
    load: Any = partial(
        AutoModelForCausalLM.from_pretrained,
        base_of(model),
        dtype=torch.float32 if adapter else wanted,
        device_map=BALANCED if device == BALANCED and torch.cuda.is_available() else None,
    )
    loaded, unexpected = load_whole(base_of(model), load)
    if unexpected:
        print(left_over(base_of(model), unexpected), file=sys.stderr, flush=True)
    if adapter:
        loaded = _merged(loaded, adapter).to(wanted)
    is_placed = hasattr(loaded, "hf_device_map")
    placed = loaded if is_placed else loaded.to(resolve_device(device))
    result: PreTrainedModel = placed.eval()
    return result


def _merged(model: Any, adapter: Adapter) -> Any:
    from peft import load_peft_weights

    try:
        state = load_peft_weights(str(adapter.folder), device="cpu")
    except (OSError, ValueError) as error:
        raise InputError(
            f"{adapter.folder}: no adapter weights could be loaded ({first_line(error)}); check the folder"
        ) from error
    merged = add_adapter(model, adapter.folder, adapter.base, state).merge_and_unload()
    return merged.requires_grad_(True)  # peft froze it


def check_weights(model: str, is_loaded_by_vllm: bool = False) -> tuple[str, ...]:
    """Refuse a checkpoint that lacks tensors before any work, by the headers of its safetensors files; reads no weights.

    Other formats, quantised models and hub names that are not in the cache yet are checked when they are loaded.

    Args:
        is_loaded_by_vllm: leave architectures to vLLM that transformers does not know as causal language models.

    Returns: a line for a person to read where the checkpoint has tensors that the model does not.

    Raises:
        InputError: there are no weights (and they were not given up), or a tensor or a file is missing, cut off, or of another shape than the config says.
    """
    adapter, base = read_adapter(model), base_of(model)
    if removed_weights(Path(base)):  # finished work is found without them; whoever loads them asks `require_weights`
        return ()
    config = load_config(base)
    files = _safetensors_files(base)
    own_format = getattr(config, "quantization_config", None) or getattr(config, "transformers_weights", None)
    if own_format or not files or (is_loaded_by_vllm and not is_causal(config)):
        return ()
    skeleton = _skeleton(base, config)
    unexpected = load_headers(base, skeleton, read_headers(files))
    if adapter and not any(adapter.folder.glob("adapter_model.*")):
        raise InputError(f"{adapter.folder / ADAPTER_WEIGHTS}: missing; fetch the adapter again")
    if adapter and (adapter.folder / ADAPTER_WEIGHTS).exists():
        add_adapter(skeleton, adapter.folder, base, read_headers([adapter.folder / ADAPTER_WEIGHTS]))
    return (left_over(base, unexpected),) if unexpected else ()


def _safetensors_files(model: str) -> list[Path]:
    """The files that transformers will load, as far as they are on this machine; none for other formats."""
    from huggingface_hub import try_to_load_from_cache

    folder = Path(model)
    if folder.is_dir():
        if not any(path for suffix in _WEIGHTS for path in folder.glob(f"*{suffix}")):
            raise InputError(f"{folder / SINGLE}: missing; give a folder that transformers' save_pretrained wrote")
        found: list[Any] = [path for path in (folder / SINGLE, folder / INDEX) if path.exists()]
        if not found and not any(path for suffix in (".bin", ".gguf") for path in folder.glob(f"*{suffix}")):
            raise InputError(
                f"{folder / INDEX}: missing, and without it the folder's safetensors files are no checkpoint; fetch it"
            )
    else:
        cached = [try_to_load_from_cache(model, name) for name in (SINGLE, INDEX)]
        found = [Path(path) for path in cached if isinstance(path, str)]
    if not found or found[0].name == SINGLE:
        return found[:1]
    shards = shards_of(found[0])
    return shards if folder.is_dir() or all(path.exists() for path in shards) else []


def _quiet_outside_terminals() -> None:
    """transformers draws a bar per checkpoint file, which a log file keeps as noise."""
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()


def check_same_tokenisation(policy: str, reference: str, chat: ChatSettings = CHAT_DEFAULTS) -> None:
    """Raise InputError unless both models map every text to the same token ids, chat template included.

    Log-ratios of two models are only defined over one token sequence (arXiv 2503.04647, equation 1).
    """
    ours, theirs = load_tokenizer(policy, chat), load_tokenizer(reference, chat)
    mend = "policy and reference must share one tokenizer"
    if ours.get_vocab() != theirs.get_vocab():
        raise InputError(
            f"{policy} and {reference}: field 'vocab' differs ({len(ours)} and {len(theirs)} tokens); {mend}"
        )
    for probe in _PROBES:
        if encode_prompt(ours, probe) != encode_prompt(theirs, probe):
            raise InputError(
                f"{policy} and {reference}: field 'chat_template' or the merges differ on {probe!r}; {mend}"
            )
    sizes = [load_config(model).get_text_config().vocab_size for model in (policy, reference)]
    if min(sizes) < len(ours):
        raise InputError(f"{policy} and {reference}: field 'vocab_size' {sizes} is below {len(ours)} tokens; {mend}")


def model_identity(model: str) -> str:
    """Digest of a model's weights, config, tokenizer and templates (folder; of an adapter its base's too), or its name and
    resolved commit (hub). Where it lies is no part of it.

    Raises:
        InputError: no such model, a file that cannot be read, or weights that are not those its manifest says were written.
    """
    check_model_path(model)
    folder = Path(model)
    if not folder.is_dir():
        commit = getattr(load_config(model), "_commit_hash", None)
        if commit is None:
            raise InputError(f"{model}: the commit of the hub model cannot be told; download it and give its folder")
        return text_digest("hub", model, str(commit))
    written = {entry["file"]: entry for entry in (own_manifest(folder) or {}).get("files", ())}
    digests = removed_weights(folder)
    for relative, path in content_files(folder):
        name = relative.as_posix()
        if relative.name in _UNREAD or relative.match(_RANDOM_STATES) or name == MANIFEST:
            continue
        fault = file_fault(path, written[name]) if name in written and relative.suffix in _WEIGHTS else ""
        if fault:
            raise InputError(f"{path}: {fault}; copy the file or train again, or delete {MANIFEST} if it was meant")
        digests[name] = _settings_digest(path) if name in _NAMING_PLACES else remembered_digest(path)
    adapter = read_adapter(model)
    of_base = ["base", model_identity(adapter.base)] if adapter else []
    return text_digest(*of_base, *(part for name in sorted(digests) for part in (name, digests[name])))


def removed_weights(folder: Path) -> dict[str, str]:
    """Digests by name of a checkpoint's files that `keep_checkpoints` gave up; empty when nothing is gone."""
    entries = (own_manifest(folder) or {}).get("removed", [])
    return {str(entry["file"]): str(entry["sha256"]) for entry in entries}


def require_weights(model: str) -> None:
    """Raise WeightsRemovedError when the model is a checkpoint whose weights are gone."""
    if removed_weights(Path(model)):
        raise WeightsRemovedError(
            f"{model}: keep_checkpoints gave up this checkpoint's weights; train it again, with --keep-checkpoints all, or use "
            "another iteration's"
        )


def _settings_digest(path: Path) -> str:
    """Digest of a JSON file's values, but for those, at any depth, that only say where a model lay."""
    text = json.dumps(read_json(path), sort_keys=True)
    values = json.loads(text, object_hook=lambda pairs: {key: pairs[key] for key in pairs if key not in _PLACES})
    return text_digest(json.dumps(values))


def parameter_count(model: str) -> int:
    """Parameters of a model, from its config alone (built on the meta device)."""
    skeleton = _skeleton(model, load_config(model))
    return int(sum(p.numel() for p in {id(p): p for p in skeleton.parameters()}.values()))


def is_causal(config: Any) -> bool:
    """Whether transformers loads models of this config as causal language models."""
    from transformers import AutoModelForCausalLM

    return type(config) in AutoModelForCausalLM._model_mapping


def _skeleton(model: str, config: Any) -> PreTrainedModel:
    """The model without weights; raises InputError when the config is not a causal language model's."""
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
    """End-of-sequence ids of the model's generation config, if it has one."""
    path = Path(base_of(model)) / "generation_config.json"
    if path.exists():
        eos: int | list[int] | None = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
        return eos
    config_eos: int | list[int] | None = getattr(load_config(model), "eos_token_id", None)
    return config_eos
