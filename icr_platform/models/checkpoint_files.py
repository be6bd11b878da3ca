"""What can be wrong with a model's folder, told from its files alone, before any library reads them.

A library that is given half a download, or the pointer that git-lfs leaves in a file's place, complains of a header, a pickle
or a character. These checks read the first bytes of each file, and name it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from icr_platform.core.artifacts import MANIFEST
from icr_platform.core.errors import InputError

CONFIG = "config.json"
ADAPTER_SETTINGS = "adapter_config.json"
GENERATION = "generation_config.json"
_SETTINGS = (CONFIG, ADAPTER_SETTINGS, GENERATION, "tokenizer_config.json", "special_tokens_map.json")
_LFS = b"version https://git-lfs.github.com/spec/"
_MARKUP = (b"<!doctype html", b"<html")  # what a login page or an error is saved as
_READ = (".json", ".safetensors", ".bin", ".gguf", ".model", ".jinja", ".txt")
_MOST_CONFIG = 64 * 2**20  # bytes; the largest that are published have a few
# Folders that lack config.json are often of another kind: what tells it, and what to do.
_OTHER_KINDS = (
    ("snapshots", "a hub cache's folder: give the folder below its `snapshots` instead"),
    ("checkpoint-*/config.json", "a trainer's output: give one of its checkpoint folders, such as {found}"),
    ("checkpoint-*/adapter_config.json", "a trainer's output: give one of its checkpoint folders, such as {found}"),
    ("params.json", "weights in their maker's own format: convert them with transformers' convert_*_weights_to_hf.py"),
    ("consolidated*", "weights in their maker's own format: convert them with transformers' convert_*_weights_to_hf.py"),
    ("*.gguf", "a GGUF file, which is for llama.cpp: give the model that it was made of, or load it in transformers (gguf_file=) and save it"),
    ("pytorch_model_fsdp*", "shards of FSDP: join them with `accelerate merge-weights`, and add the model's config and tokenizer"),
    ("*.distcp", "shards of FSDP: join them with `accelerate merge-weights`, and add the model's config and tokenizer"),
    ("global_step*", "shards of DeepSpeed: join them with its zero_to_fp32.py, and add the model's config and tokenizer"),
    ("zero_to_fp32.py", "shards of DeepSpeed: join them with its zero_to_fp32.py, and add the model's config and tokenizer"),
)  # fmt: skip


def check_folder(model: str) -> bool:
    """Whether `model` is a folder, which then has the files of a model or an adapter, each of them whole at its beginning.

    Raises:
        InputError: the path is a file, a link to nowhere or not readable; the folder is of another kind; a file is empty, a
            pointer of git-lfs, a web page, or a config that is not JSON.
    """
    folder = Path(model)
    if model.startswith("~"):
        raise InputError(
            f"{model}: ~ is the shell's word for a home folder, and stays as it is here; write the whole path"
        )
    with _readable(folder):
        if not folder.is_dir():
            if folder.is_file():
                raise InputError(
                    f"{model}: a file; give the folder of a model that transformers' save_pretrained wrote"
                )
            if os.path.lexists(folder):
                raise InputError(f"{model}: a link that leads nowhere, or in a circle; give the model's own folder")
            return False
        names = sorted(os.listdir(folder))
    for name in names:
        if name.endswith(_READ) and name != MANIFEST:
            _check_beginning(folder / name)
    for name in _SETTINGS:
        if name in names:
            read_settings(folder / name)
    if ADAPTER_SETTINGS not in names and CONFIG not in names:
        raise InputError(f"{folder / CONFIG}: missing; {other_kind(folder)}")
    is_model = CONFIG in names and ADAPTER_SETTINGS not in names
    if is_model and not {"model_type", "auto_map"} & read_settings(folder / CONFIG).keys():
        raise InputError(
            f"{folder / CONFIG}: field 'model_type' is missing; name the model's type in it, or fetch it again"
        )
    return True


def read_settings(path: Path) -> dict[str, Any]:
    """Read one of a model's JSON files; raises InputError when it is not an object of JSON."""
    with _readable(path):
        if path.stat().st_size > _MOST_CONFIG:
            raise InputError(f"{path}: {path.stat().st_size:,} bytes, too many for a config; fetch it again")
        content = path.read_bytes()
    try:
        values = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON, or cut off ({' '.join(str(error).split())}); fetch it again") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: a JSON {type(values).__name__}, not an object; fetch it again")
    return values


def read_template(path: Path) -> Any:
    """Read a chat template: a text of Jinja, the JSON of a tokenizer that has one (`tokenizer_config.json`), or a folder with either.

    Raises:
        InputError: nothing is there, or no template is in it.
    """
    if path.is_dir():
        names = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")
        found = [path / name for name in names if (path / name).is_file()]
        if not found:
            raise InputError(f"{path}: contains no chat template ({', '.join(names)}); give the file of one")
        path = found[0]
    if path.suffix == ".json":
        template = read_settings(path).get("chat_template")
        if isinstance(template, list):  # older tokenizers list several by name
            template = {entry["name"]: entry["template"] for entry in template}
        if not template:
            raise InputError(
                f"{path}: field 'chat_template' is missing; give a file of Jinja, or a tokenizer that has a template"
            )
        return template
    with _readable(path):
        path.stat()
        _check_beginning(path)
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise InputError(f"{path}: not text in UTF-8; give a chat template in Jinja") from None
    if "messages" not in text:
        raise InputError(f"{path}: not a chat template, since it names no `messages`; give a file of Jinja")
    return text


def _check_beginning(path: Path) -> None:
    with _readable(path):
        if not path.exists():  # the hub's cache is made of links, and its files may have been deleted
            raise InputError(f"{path}: a link that leads nowhere; fetch it again")
        if not path.is_file():
            return
        with path.open("rb") as file:
            beginning = file.read(len(_LFS))
    if not beginning and path.suffix != ".txt":  # merges.txt, say, may be empty
        raise InputError(f"{path}: an empty file; fetch it again")
    if beginning == _LFS:
        raise InputError(f"{path}: a pointer of git-lfs, not the file itself; fetch it with `git lfs pull`")
    if beginning.lstrip().lower().startswith(_MARKUP) and path.suffix != ".jinja":
        raise InputError(f"{path}: a web page, as a login or an error gives in place of a file; fetch it again")


def other_kind(folder: Path) -> str:
    """Say what a folder without a model is, as far as its files tell, and what to give instead."""
    for pattern, said in _OTHER_KINDS:
        found = sorted(folder.glob(pattern))
        if found:
            first = found[0].relative_to(folder).parts[0]
            return f"this is {said.format(found=first)}"
    return "give a folder that transformers' save_pretrained wrote"


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{error.filename or path}: no such file; check the path") from error
    except OSError as error:
        raise InputError(
            f"{error.filename or path}: not readable ({error.strerror}); allow it or copy it again"
        ) from error
