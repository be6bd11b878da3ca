"""What libraries raise while they load a model, as one line that says what is wrong and what to do.

transformers, tokenizers, safetensors, torch, peft and huggingface_hub raise whatever comes to hand: OSError and ValueError, but
also KeyError, a bare Exception, UnpicklingError, errors of HTTP. All of it passes `explained`:

>>> with explained("my-model", "tokenizer"):
...     raise KeyError("added_tokens")
Traceback (most recent call last):
icr_platform.core.errors.InputError: my-model: its tokenizer could not be loaded (KeyError: 'added_tokens'); check the name or folder
>>> with explained("my-model", "tokenizer"):
...     raise Exception("unknown variant `Quantum`")
Traceback (most recent call last):
icr_platform.core.errors.InputError: my-model: its tokenizer could not be loaded (unknown variant `Quantum`); tokenizer.json is ...
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from icr_platform.core.errors import IcrError, InputError

_LONGEST = 300  # characters of a library's message in ours
_FETCH = "a file of it is cut off or damaged: fetch it again"
_CHECK = "check the name or folder"
_REVISION = "the hub has no such branch, tag or commit of it: check the name behind @; a commit is given in full, with 40 digits"
# What a message contains, whoever raised it, and what to do about it; the first that is found counts.
_FIXES = (
    (r"trust_remote_code", "it brings its own code: read that code, and give --trust-remote-code true to run it"),
    (r"does not recognize this architecture|Unrecognized model in",
     "it needs a newer transformers, or its own code and --trust-remote-code true"),
    (r"deserializing header|PytorchStreamReader|zip archive", _FETCH),
    (r"Error parsing line .*tokenizer\.model", "it may be of sentencepiece: install that library, or add a tokenizer.json"),
    (r"Validation error for field|validation error for validator|module 'torch' has no attribute|attribute 'to_dict'",
     "correct its config.json"),
    (r"untagged enum|Unknown tokenizer version|invalid type: |did not match any variant|unknown variant|missing field|expected value at line|EOF while parsing",
     "tokenizer.json is damaged or of a newer version: fetch it again, or update transformers and tokenizers"),
    (r"sentencepiece|tiktoken|protobuf|requires the (\S+) library|No module named|pip install|not installed|`\w+` to be installed",
     "install the library that the message names"),
    (r"weights_only|Weights only load failed|unpickling|Unsupported (global|operand)",
     "its pickle contains more than tensors, or is damaged, and is not run: convert it to safetensors on a machine that may run it"),
    (r"[Ss]afetensor|[Pp]ickle|EOF|Ran out of input|invalid load key|JSONDecodeError|UnicodeDecodeError", _FETCH),
    (r"\bGPU\b|\bCUDA\b|\bXPU\b|accelerator", "choose a model that is not quantised, or run where that accelerator is"),
    (r"couldn't connect|offline mode|cached files|Connection|timed out|resolve host",
     "the hub cannot be reached and this is not in its cache: fetch it with `hf download`, unset HF_HUB_OFFLINE, or give a folder"),
)  # fmt: skip
# Answers of the hub by their HTTP status, which its errors carry.
_STATUS = {
    401: "no such model, or one that needs a login: check the name, or log in (`hf auth login`, or HF_TOKEN)",
    403: "access to it is restricted: accept its terms on huggingface.co, and log in (`hf auth login`, or HF_TOKEN)",
    404: "no such model or file on the hub: check the name",
    429: "the hub takes no more requests from here for now: wait, or log in (`hf auth login`, or HF_TOKEN)",
}


@contextmanager
def explained(model: str, part: str = "model", fix: str = _CHECK) -> Iterator[None]:
    """Turn whatever the block raises into an InputError of one line; our own errors and lack of memory pass.

    Args:
        model: folder or hub name, for the message.
        part: what of it is loaded, such as `tokenizer`.
        fix: what to do where the error itself does not tell.
    """
    try:
        yield
    except (IcrError, MemoryError):
        raise
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported here
            raise
        raise InputError(
            f"{model}: its {part} could not be loaded ({first_line(error)}); {_fix(error) or fix}"
        ) from error


def _fix(error: BaseException) -> str:
    """What to do about an error, by what it and its causes are and say; '' where they do not tell."""
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    for one in causes:
        if type(one).__name__ == "RevisionNotFoundError":
            return _REVISION
        status = getattr(getattr(one, "response", None), "status_code", None)
        if type(one).__name__ == "GatedRepoError":  # 401 without a login, 403 with one that has no access
            status = 403
        if status in _STATUS:
            return _STATUS[status]
        if isinstance(status, int) and status >= 500:
            return f"the hub answers with HTTP {status}: try again later, or give a folder"
        if isinstance(one, PermissionError):
            return "allow this user to read it"
        if isinstance(one, OSError) and one.errno == errno.ENOSPC:
            return "make room on the disk of the hub's cache (HF_HOME)"
    texts = [f"{type(one).__name__}: {one}" for one in causes]
    return next((fix for pattern, fix in _FIXES for text in texts if re.search(pattern, text)), "")


def first_line(error: BaseException) -> str:
    """Quote an exception's first line that says something, with its kind where that says more, as part of a message.

    >>> first_line(ValueError("\\n\\nNot a model.\\nSee https://example.org")), first_line(KeyError("x")), first_line(EOFError())
    ('Not a model', "KeyError: 'x'", 'EOFError')
    """
    kind = type(error).__name__
    lines = [" ".join(line.split()) for line in str(error).splitlines()]
    # The first line, and after a colon, as of a heading, the next one; below them advice follows.
    said = re.match(r"(.*:\n)*.*", "\n".join(line for line in lines if line))
    quoted = said[0].replace("\n", " ").rstrip(".:") if said else ""
    if len(quoted) > _LONGEST:
        quoted = f"{quoted[:_LONGEST]} ..."
    return (
        f"{kind}: {quoted}"
        if quoted and isinstance(error, LookupError | TypeError | AttributeError)
        else quoted or kind
    )
