"""GGUF files, which llama.cpp reads, as model folders: weights are made plain float32 numbers once, and kept by the file's content.

So whatever takes a model takes them: packed scoring, sampling, vLLM, training. transformers reads them (`gguf_file=`), a file as a
whole: of models that are cut into several files, only their maker's tools make one.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from icr_platform.core.artifacts import text_digest
from icr_platform.core.errors import InputError
from icr_platform.core.file_digests import remembered_digest
from icr_platform.models.checkpoint_files import CONFIG
from icr_platform.models.loading_errors import explained

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SUFFIX = ".gguf"
_MAGIC = b"GGUF"
_TEMPLATE = "chat_template.jinja"
_PIECE = re.compile(r"-\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)


def gguf_of(model: str) -> Path | None:
    """Return the GGUF file that `model` names, or that is the only one in the folder that it names; None for other models.

    Raises:
        InputError: a folder has several, the file is one of several pieces, or it is not GGUF.
    """
    place = Path(model)
    if place.is_dir() and not (place / CONFIG).exists():
        found = sorted(path for path in place.iterdir() if path.suffix.lower() == _SUFFIX)
        if len(found) > 1:
            raise InputError(
                f"{place}: has several GGUF files ({', '.join(path.name for path in found[:5])}); give one"
            )
        place = found[0] if found else place
    if place.suffix.lower() != _SUFFIX or not place.is_file():
        return None
    if _PIECE.search(place.name):
        raise InputError(f"{place}: is one of several pieces; join them with llama.cpp's llama-gguf-split --merge")
    with place.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise InputError(f"{place}: is not a GGUF file, or a pointer to one; fetch it again")
    return place


def opened(file: Path, work: Path) -> Path:
    """Return the folder of the model in a GGUF file, which is made below `work` if it is not there yet.

    A `chat_template.jinja` beside the file takes the place of the template in it.

    Raises:
        InputError: the `gguf` package is missing, or transformers does not know the file's architecture or quantisation.
    """
    from filelock import FileLock

    template = file.with_name(_TEMPLATE)
    parts = [remembered_digest(path) for path in (file, template) if path.is_file()]
    target = work / "gguf" / text_digest(*parts)[:16]
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_suffix(".lock")):
        if not target.exists():
            print(f"{file}: its weights are made plain float32 numbers, once, in {target}", file=sys.stderr, flush=True)
            partial = target.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)  # of a command that was killed
            _convert(file, partial)
            if template.is_file():
                shutil.copyfile(template, partial / _TEMPLATE)
            partial.rename(target)
    return target


def _convert(file: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with explained(
        str(file), "GGUF file", "pip install 'icr-platform[quantized]', or give the model that it was made of"
    ):
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32
        )
        # What was loaded counts as quantised still, and transformers does not save it.
        config = loaded.config
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        with torch.device("meta"):
            plain = type(loaded)(config)
        plain.load_state_dict(loaded.state_dict(), assign=True)
        plain.tie_weights()
        plain.generation_config = loaded.generation_config
        plain.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
