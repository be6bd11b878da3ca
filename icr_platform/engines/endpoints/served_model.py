"""Which model an endpoint serves, beyond the name it goes by: two local servers may give one name to different weights.

In this order:
- what the configuration says (`judge_identity`, `server_identity`);
- a provider's own endpoint, known by its host: the provider and the model's name;
- what `GET URL/models` says of the model beyond its name and times (vLLM: `root`, `parent`, `max_model_len`), if some of it is
  text: numbers alone, such as a size, are alike in two fine-tunes of one model. The address is not part of it, so that the same
  server is found again on another host or port;
- the address, where the server says no more.

A server that does not answer is taken to serve the model that it served last, so that finished work is found while it is down; but
it is asked nothing on that ground (`confirmed`). One that was never seen is refused: a guess could reuse another model's verdicts.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from icr_platform.core.artifacts import read_json, text_digest, write_json
from icr_platform.core.errors import InputError
from icr_platform.core.file_digests import user_cache
from icr_platform.core.secrets import redact

PROVIDERS = (
    "api.openai.com", "api.anthropic.com", "generativelanguage.googleapis.com", "api.mistral.ai", "api.deepseek.com",
    "api.x.ai", "api.groq.com", "api.together.xyz", "api.fireworks.ai", "api.cohere.com", "api.cohere.ai", "openrouter.ai",
    "api.perplexity.ai", "api.moonshot.ai", "api.moonshot.cn", "dashscope.aliyuncs.com", "dashscope-intl.aliyuncs.com",
    "integrate.api.nvidia.com", "router.huggingface.co", "api.deepinfra.com", "api.cerebras.ai", "api.sambanova.ai",
)  # fmt: skip
_NOT_THE_MODEL = ("id", "object", "created", "owned_by", "permission")
_WAITS = (0.3, 1.0)  # seconds between tries
_TIMEOUT = 5.0
_BUSY = (408, 425, 429, 500, 502, 503, 504)
_DEFAULT_PORTS = {"http": "80", "https": "443"}


@dataclass(frozen=True)
class Server:
    """Where a model is served.

    url: base URL. model: its name there. key_variable: environment variable of the key, which may be unset.
    named: what the configuration says it is, or ''. field: of the configuration, for messages, such as 'judge'.
    label: stands for the model's name in what identifies it, where that is a path; '': the name itself.

    Raises:
        InputError: the URL is not an http(s) address.
    """

    url: str
    model: str
    key_variable: str
    named: str
    field: str
    label: str = ""

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # of the port, or of brackets
            is_address = False
        if not is_address:
            raise InputError(
                f"config: field '{self.field}_url' is {redact(self.url)!r}; give the endpoint's base URL, such as "
                "http://localhost:8000/v1"
            )

    @property
    def address(self) -> str:
        """Host, port and path, without user and query; a loopback address with this machine's name, for every machine has
        one of its own."""
        parts = urlsplit(self.url)
        host = (parts.hostname or "").rstrip(".")
        if host in ("localhost", "::1", "0.0.0.0") or host.startswith("127."):
            host = socket.gethostname()
        port = parts.netloc.rpartition("@")[2].rpartition(":")[2]
        if not port.isdigit():
            port = _DEFAULT_PORTS.get(parts.scheme, "")
        return f"{parts.scheme}://{host}:{port}{parts.path.rstrip('/')}"

    @property
    def name(self) -> str:
        """The model's, in what identifies it."""
        return self.label or self.model

    @property
    def by_address(self) -> str:
        """What identifies the model where nothing else does."""
        return f"at {self.address}: {self.name}"

    @property
    def shown(self) -> str:
        """The address for messages, as the configuration has it but for secrets."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def served_model(server: Server) -> str:
    """What identifies the model behind the server, as text; see the module.

    Raises:
        InputError: it does not answer, and never did to this user.
    """
    try:
        identity = _known_by_name(server) or _asked(server)
    except _SilentError as silence:
        remembered = _recall(server)
        if remembered is None:
            raise _not_answering(server, silence) from None
        print(
            f"{server.shown}: does not answer ({silence}); taken for the model that it served last", file=sys.stderr, flush=True
        )  # fmt: skip
        _taken_for[server] = remembered
        return remembered
    return identity


def confirmed(server: Server) -> str:
    """As `served_model`, of a server that is about to be asked: it must answer, and with the model it was taken for.

    Raises:
        InputError: it does not.
    """
    try:
        identity = _known_by_name(server) or _asked(server)
    except _SilentError as silence:
        raise _not_answering(server, silence) from None
    if _taken_for.get(server, identity) != identity:
        raise InputError(
            f"{server.shown}: serves another {server.model!r} than before it stopped answering; run the same command again"
        )
    return identity


class _SilentError(Exception):
    """The server gave no answer; the text says how."""


_taken_for: dict[Server, str] = {}


def _known_by_name(server: Server) -> str | None:
    if server.named:
        return f"named {server.named}: {server.name}"
    host = (urlsplit(server.url).hostname or "").rstrip(".")
    return f"provider {host}: {server.name}" if host in PROVIDERS else None


def _asked(server: Server) -> str:
    entry = _entry(server)
    said = {
        name: value for name, value in entry.items() if name not in _NOT_THE_MODEL and value not in (None, "", [], {})
    }
    identity = f"says {json.dumps(said, sort_keys=True)}: {server.name}" if _has_text(said) else server.by_address
    if _recall(server) != identity:
        path = _memory(server)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"identity": identity})
    return identity


def _has_text(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_has_text(item) for item in value.values())
    return any(_has_text(item) for item in value) if isinstance(value, list) else isinstance(value, str) and bool(value)


def _entry(server: Server) -> Mapping[str, Any]:
    """What the server says of the model; nothing where it has no such list, or not this model in it."""
    import httpx

    key = os.environ.get(server.key_variable, "")
    fault = ""
    for wait in (*_WAITS, None):
        try:
            # Redirects are not followed: they would take the key to another host.
            answer = httpx.get(
                f"{server.url.rstrip('/')}/models",
                headers={"Authorization": f"Bearer {key}"} if key else {},
                timeout=_TIMEOUT,
            )
            if answer.status_code not in _BUSY:
                return _entry_of(answer, server.model)
            fault = f"HTTP {answer.status_code}"
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            fault = type(error).__name__  # its text may hold the key
        if wait is not None:
            time.sleep(wait)
    raise _SilentError(fault)


def _entry_of(answer: Any, model: str) -> Mapping[str, Any]:
    try:
        listed = answer.json()["data"] if answer.status_code == 200 else []
    except (ValueError, KeyError, TypeError):
        return {}
    entries = [entry for entry in listed if isinstance(entry, Mapping)] if isinstance(listed, list) else []
    return next((entry for entry in entries if entry.get("id") == model), {})


def _not_answering(server: Server, silence: _SilentError) -> InputError:
    return InputError(
        f"{server.shown}: does not answer ({silence}), so the model behind it cannot be told from another; start the server, "
        f"or name the model by {server.field}_identity"
    )


def _recall(server: Server) -> str | None:
    path = _memory(server)
    try:
        return str(read_json(path)["identity"]) if path.exists() else None
    except (InputError, KeyError):
        return None


def _memory(server: Server) -> Any:
    return user_cache() / "servers" / f"{text_digest(server.address, server.model)[:32]}.json"
