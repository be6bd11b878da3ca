"""Models and tokenizers: loading, identity, and the check that policy and reference tokenise alike."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icr_platform.artifacts import MANIFEST, file_digest, read_json, text_digest
from icr_platform.chat import encode_prompt, require_chat_template
from icr_platform.errors import InputError, WeightsRemovedError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_PROBES = ("Name three fruits.", "  ¿Qué tal?\n\n", "Что это?", "你好，世界 🙂", "สวัสดี", "مرحبا", "হ্যালো")
_WEIGHTS = ("*.safetensors", "*.bin", "*.gguf")
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


def load_tokenizer(model: str) -> PreTrainedTokenizerBase:
    """Tokenizer of a model folder or hub name, with a chat template; an adapter without one has its base model's.

    Raises:
        InputError: no such model, no tokenizer, or no chat template.
    """
    from transformers import AutoTokenizer

    check_model_path(model)
    if not (Path(model) / "tokenizer_config.json").exists():
        model = base_of(model)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{model}: no tokenizer could be loaded ({_first_line(error)}); check the name or folder"
        ) from error
    require_chat_template(tokenizer, model)
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
            f"{model}: no model config could be loaded ({_first_line(error)}); check the name or folder"
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
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            base_of(model),
            dtype=torch.float32 if adapter else wanted,
            device_map=BALANCED if device == BALANCED and torch.cuda.is_available() else None,
        )
        if adapter:
            loaded = _merged(loaded, adapter).to(wanted)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{model}: the model could not be loaded ({_first_line(error)}); check the name or folder"
        ) from error
    is_placed = hasattr(loaded, "hf_device_map")
    placed = loaded if is_placed else loaded.to(resolve_device(device))
    result: PreTrainedModel = placed.eval()
    return result


def _merged(model: Any, adapter: Adapter) -> Any:
    from peft import PeftModel

    try:
        merged: Any = PeftModel.from_pretrained(model, str(adapter.folder)).merge_and_unload()
    except RuntimeError as error:
        raise InputError(
            f"{adapter.folder}: the adapter does not fit {adapter.base} ({_first_line(error)}); give the model it was made for"
        ) from error
    return merged.requires_grad_(True)  # peft froze it


def _quiet_outside_terminals() -> None:
    """transformers draws a bar per checkpoint file, which a log file keeps as noise."""
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def check_same_tokenisation(policy: str, reference: str) -> None:
    """Raise InputError unless both models map every text to the same token ids, chat template included.

    Log-ratios of two models are only defined over one token sequence (arXiv 2503.04647, equation 1).
    """
    ours, theirs = load_tokenizer(policy), load_tokenizer(reference)
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
    """Digest of a model's weights, config and tokenizer (folder; of an adapter its base's too), or its name and resolved
    commit (hub)."""
    check_model_path(model)
    folder = Path(model)
    if not folder.is_dir():
        return text_digest("hub", model, str(getattr(load_config(model), "_commit_hash", None)))
    names = sorted({path for pattern in (*_WEIGHTS, "*.json", "*.jinja", "*.model") for path in folder.glob(pattern)})
    parts = [path for path in names if path.name != MANIFEST]  # a manifest holds the seconds its training took
    digests = removed_weights(folder) | {path.name: _cached_digest(path) for path in parts}
    adapter = read_adapter(model)
    of_base = ["base", model_identity(adapter.base)] if adapter else []
    return text_digest(*of_base, *(part for name in sorted(digests) for part in (name, digests[name])))


def removed_weights(folder: Path) -> dict[str, str]:
    """Digests by name of a checkpoint's files that `keep_checkpoints` gave up; empty when nothing is gone."""
    path = folder / MANIFEST
    entries = read_json(path).get("removed", []) if path.exists() else []
    return {str(entry["file"]): str(entry["sha256"]) for entry in entries}


def require_weights(model: str) -> None:
    """Raise WeightsRemovedError when the model is a checkpoint whose weights are gone."""
    if removed_weights(Path(model)):
        raise WeightsRemovedError(
            f"{model}: keep_checkpoints gave up this checkpoint's weights; train it again, with --keep-checkpoints all, or use "
            "another iteration's"
        )


_digests: dict[tuple[str, int, int], str] = {}


def _cached_digest(path: Path) -> str:
    stat = path.stat()
    key = (os.fspath(path.resolve()), stat.st_size, stat.st_mtime_ns)
    if key not in _digests:
        _digests[key] = file_digest(path)
    return _digests[key]


def parameter_count(model: str) -> int:
    """Parameters of a model, from its config alone (built on the meta device)."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(load_config(model))
    return int(sum(p.numel() for p in {id(p): p for p in skeleton.parameters()}.values()))


def generation_eos(model: str) -> int | list[int] | None:
    """End-of-sequence ids of the model's generation config, if it has one."""
    path = Path(base_of(model)) / "generation_config.json"
    if path.exists():
        eos: int | list[int] | None = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
        return eos
    config_eos: int | list[int] | None = getattr(load_config(model), "eos_token_id", None)
    return config_eos
