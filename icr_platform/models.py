"""Models and tokenizers: loading, identity, and the check that policy and reference tokenise alike."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icr_platform.artifacts import MANIFEST, file_digest, text_digest
from icr_platform.chat import encode_prompt, require_chat_template
from icr_platform.errors import InputError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_PROBES = ("Name three fruits.", "  ¿Qué tal?\n\n", "Что это?", "你好，世界 🙂", "สวัสดี", "مرحبا", "হ্যালো")
_WEIGHTS = ("*.safetensors", "*.bin", "*.gguf")


def resolve_device(device: str) -> str:
    """'auto' -> 'cuda' when there is a GPU, else 'cpu'."""
    import torch

    if device != "auto":
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
        if not (folder / "config.json").exists():
            raise InputError(
                f"{folder / 'config.json'}: missing; give a folder that transformers' save_pretrained wrote"
            )
        return
    is_hub_name = model.count("/") <= 1 and not model.startswith((".", "/", "~")) and "\\" not in model
    if not is_hub_name:
        raise InputError(f"{model}: no such folder; give a model folder or a hub name like org/name")


def load_tokenizer(model: str) -> PreTrainedTokenizerBase:
    """Tokenizer of a model folder or hub name, with a chat template.

    Raises:
        InputError: no such model, no tokenizer, or no chat template.
    """
    from transformers import AutoTokenizer

    check_model_path(model)
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
    try:
        return AutoConfig.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{model}: no model config could be loaded ({_first_line(error)}); check the name or folder"
        ) from error


def load_model(model: str, dtype: str = "auto", device: str = "auto") -> PreTrainedModel:
    """A causal language model in evaluation mode on its device; raises InputError when it cannot be loaded."""
    from transformers import AutoModelForCausalLM

    check_model_path(model)
    _quiet_outside_terminals()
    try:
        loaded = AutoModelForCausalLM.from_pretrained(model, dtype=resolve_dtype(dtype, device))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{model}: the model could not be loaded ({_first_line(error)}); check the name or folder"
        ) from error
    result: PreTrainedModel = loaded.to(resolve_device(device)).eval()  # type: ignore[arg-type]
    return result


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
    """Digest of a model's weights, config and tokenizer (folder), or its name and resolved commit (hub)."""
    check_model_path(model)
    folder = Path(model)
    if not folder.is_dir():
        return text_digest("hub", model, str(getattr(load_config(model), "_commit_hash", None)))
    names = sorted({path for pattern in (*_WEIGHTS, "*.json", "*.jinja", "*.model") for path in folder.glob(pattern)})
    parts = [path for path in names if path.name != MANIFEST]  # a manifest holds the seconds its training took
    return text_digest(*(part for path in parts for part in (path.name, _cached_digest(path))))


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
    path = Path(model) / "generation_config.json"
    if path.exists():
        eos: int | list[int] | None = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
        return eos
    config_eos: int | list[int] | None = getattr(load_config(model), "eos_token_id", None)
    return config_eos
