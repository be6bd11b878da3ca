"""One chat completion from an endpoint that may fail in every way endpoints do.

The official SDK sends; retrying is ours, because a reply that is cut off or no JSON must be asked for again too, because
waiting must not take a place among the requests under way, and because a refused parameter is to be adapted once for all.
"""

from __future__ import annotations

import asyncio
import os
import random
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from icr_platform.core.errors import IcrError, InputError
from icr_platform.engines.endpoints.replies import MalformedReplyError, Reply, parse_completion
from icr_platform.engines.endpoints.reply_cache import ReplyCache, request_key
from icr_platform.engines.endpoints.served_model import Server

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

_FIRST_WAIT, _LONGEST_WAIT, _LONGEST_RETRY_AFTER = 0.5, 30.0, 600.0
_RETRIES_BEFORE_FIRST_REPLY = 2
_BAD_REQUEST_RETRIES = 4
_LOGPROBS = ("logprobs", "top_logprobs")
_SAMPLING = ("temperature", "top_p", "seed", "reasoning_effort", "n")


@dataclass(frozen=True)
class Endpoint:
    """Where a model answers. The key stays in the environment; only the variable's name is here.

    timeout: seconds until a request counts as hanging.
    retries: tries after the first one.
    served: what tells the model from others of its name (see `served_model`); '': its address does.
    """

    model: str
    url: str
    key_variable: str
    concurrency: int
    timeout: float
    retries: int
    served: str = ""

    @property
    def shown(self) -> str:
        """The address for messages."""
        return self.url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"

    @property
    def identity(self) -> str:
        """What tells its replies from those of another model of its name."""
        return self.served or Server(self.shown, self.model, self.key_variable, "", "judge").by_address


@dataclass(frozen=True)
class Failure:
    """A request that never got a reply, after all retries."""

    detail: str


class _Retry(Exception):  # noqa: N818 - a signal, not an error
    """Ask again.

    seconds: to wait; None: by backoff.
    limit: retries that make sense for this kind; None: as configured, and the fault is the endpoint's, not the request's.
    unreachable: nothing came back at all.
    adapted: the request changed, so this was no try.
    mend: what to do where this is all the endpoint ever said.
    """

    def __init__(
        self,
        detail: str,
        seconds: float | None = None,
        limit: int | None = None,
        unreachable: bool = False,
        adapted: bool = False,
        mend: str = "",
    ) -> None:
        super().__init__(detail)
        self.detail, self.seconds, self.limit = detail, seconds, limit
        self.unreachable, self.adapted, self.mend = unreachable, adapted, mend


def check_endpoint(endpoint: Endpoint) -> None:
    """Raise InputError for an address with secrets in it, or a key that is not in the environment. Asks nobody."""
    parts = urlsplit(endpoint.shown)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError("config: field 'judge_url' is no http(s) address; give one such as http://localhost:8000/v1")
    if parts.username or parts.password or "key=" in parts.query.lower() or "token=" in parts.query.lower():
        raise InputError(
            "config: field 'judge_url' holds a secret; put it in the environment variable that judge_key_variable names"
        )
    if not os.environ.get(endpoint.key_variable):
        raise InputError(
            f"config: environment variable {endpoint.key_variable} is not set; export the endpoint's key in it "
            "(any word for a server without keys)"
        )


class ChatClient:
    """Asks an endpoint, from the cache where it can, with at most `concurrency` requests under way.

    answered: the endpoint is known to be the right one, so a silence is an outage that may end.

    Raises (from `ask`):
        InputError: the endpoint refuses the key, does not know the model, or never answered at all.
        IcrError: the endpoint stopped answering for good.
    """

    def __init__(self, endpoint: Endpoint, cache: ReplyCache, answered: bool = False) -> None:
        self.endpoint, self.cache = endpoint, cache
        check_endpoint(endpoint)
        self._key = os.environ[endpoint.key_variable]
        self._clients: list[AsyncOpenAI] = []
        self._slots: asyncio.LifoQueue[AsyncOpenAI] = asyncio.LifoQueue()
        self._waiting, self._room = 0, asyncio.Event()
        self._adapted: dict[str, str] = {}
        self._replies = int(answered)
        self._failures_in_a_row = 0

    async def ask(self, messages: Sequence[Message], parameters: Mapping[str, Any], sample: int = 0) -> Reply | Failure:
        """A completion. `sample` tells repeated questions apart; replies are cached, failures are not."""
        key = request_key(self.endpoint.identity, parameters, messages, sample)
        found = self.cache.get(key)
        if found is not None:
            return found
        answer = await self._persist(messages, parameters)
        if isinstance(answer, Reply):
            self.cache.put(key, self.endpoint.model, messages, answer)
        return answer

    @property
    def has_answers(self) -> bool:
        """Whether the endpoint ever answered."""
        return self._replies > 0

    async def room(self) -> None:
        """Return, after whatever is ready has run, once fewer questions than `concurrency` wait for a place."""
        await asyncio.sleep(0)
        while self._waiting >= self.endpoint.concurrency:
            self._room.clear()
            await self._room.wait()

    async def close(self) -> None:
        """Close all connections."""
        for client in self._clients:
            await client.close()

    async def _persist(self, messages: Sequence[Message], parameters: Mapping[str, Any]) -> Reply | Failure:
        tries = bad_requests = 0
        while True:
            try:
                async with self._slot() as client:
                    reply = await self._send(client, messages, parameters)
            except _Retry as retry:
                if retry.adapted:
                    continue
                tries += 1
                bad_requests += retry.limit is not None
                done = tries if retry.limit is None else bad_requests
                if done > self._limit(retry):
                    return self._give_up(retry, tries)
                await asyncio.sleep(retry.seconds if retry.seconds is not None else _backoff(done))
            else:
                self._replies += 1
                self._failures_in_a_row = 0
                return reply

    def _limit(self, retry: _Retry) -> int:
        """Retries for this kind of fault: few where nothing has ever answered, which is a wrong address as a rule."""
        if retry.unreachable and self._replies == 0:
            return min(_RETRIES_BEFORE_FIRST_REPLY, self.endpoint.retries)
        return self.endpoint.retries if retry.limit is None else min(retry.limit, self.endpoint.retries)

    def _give_up(self, retry: _Retry, tries: int) -> Failure:
        shown = self.endpoint.shown
        if self._replies == 0 and (retry.mend or retry.limit is None):
            mend = retry.mend or "check judge_url and the server"
            raise InputError(f"{shown}: gives no answer ({retry.detail}, {tries} tries); {mend}")
        self._failures_in_a_row += retry.limit is None
        if self._failures_in_a_row >= 2 * self.endpoint.concurrency:
            raise IcrError(
                f"{shown}: stopped answering ({retry.detail}); every answer so far is kept, run the same command again"
            )
        return Failure(f"{retry.detail}, {tries} tries")

    async def _send(self, client: AsyncOpenAI, messages: Sequence[Message], parameters: Mapping[str, Any]) -> Reply:
        """One request. Raises _Retry for whatever may go better the next time."""
        import openai

        sent = self._adapt(parameters)
        try:
            async with asyncio.timeout(self.endpoint.timeout):
                body = {"model": self.endpoint.model, "messages": list(messages), **sent}
                # The typed method walks every message through pydantic first: as much work as all the rest of a request.
                return parse_completion(await client.post("/chat/completions", cast_to=bytes, body=body))
        except TimeoutError:
            raise _Retry(f"no answer within {self.endpoint.timeout:g} s", unreachable=True) from None
        except MalformedReplyError as error:
            raise _Retry(str(error)) from error
        except openai.APIStatusError as error:
            raise self._on_status(error, sent, parameters) from error
        except openai.APIConnectionError as error:
            raise _Retry(self._clean(f"connection failed: {error.__cause__ or error}"), unreachable=True) from error

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[AsyncOpenAI]:
        """Wait for one of the places among the requests under way, and hold it."""
        if not self._clients:
            self._connect()
        self._waiting += 1
        try:
            client = await self._slots.get()
        finally:
            self._waiting -= 1
            self._room.set()
        try:
            yield client
        finally:
            self._slots.put_nowait(client)

    def _connect(self) -> None:
        """A client for each place: a pool looks at all its connections before every request."""
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        context = _tls_context()
        for _ in range(self.endpoint.concurrency):
            client = AsyncOpenAI(
                base_url=self.endpoint.url or None,
                api_key=self._key,
                max_retries=0,
                timeout=self.endpoint.timeout,
                http_client=DefaultAsyncHttpxClient(verify=context),
            )
            self._clients.append(client)
            self._slots.put_nowait(client)

    def _on_status(self, error: APIStatusError, sent: Mapping[str, Any], wanted: Mapping[str, Any]) -> Exception:
        """What an HTTP error means: stop, ask again later, or ask in another way."""
        status, shown = error.status_code, self.endpoint.shown
        detail = self._clean(f"HTTP {status}: {_server_message(error)}")
        if status in (401, 403):
            return InputError(
                f"{shown}: refuses the key in {self.endpoint.key_variable} ({detail}); export a valid one"
            )
        if status == 404:
            return InputError(
                f"{shown}: knows no model {self.endpoint.model!r} there ({detail}); check judge_url and model"
            )
        if status == 429 and "insufficient_quota" in str(error.body):
            return InputError(f"{shown}: the account has no quota left ({detail}); answers so far are kept")
        if status in (400, 422):
            return self._on_bad_request(error, detail, sent, wanted)
        if status in (408, 409, 429) or status >= 500:
            return _Retry(detail, _retry_after(error))
        return _Retry(detail, limit=0)

    def _on_bad_request(
        self, error: APIStatusError, detail: str, sent: Mapping[str, Any], wanted: Mapping[str, Any]
    ) -> Exception:
        if sent != self._adapt(wanted):  # another request learnt meanwhile
            return _Retry(detail, adapted=True)
        text = f"{_server_message(error)} {error.body}".lower()
        if "context" in text and ("length" in text or "window" in text):
            return _Retry(detail, limit=0)
        name = _named_parameter(error, sent)
        if name is not None and self._learn(name, sent):
            return _Retry(detail, adapted=True)
        mend = "it gives no log-probabilities; use --judge-answer structured" if name in _LOGPROBS else ""
        return _Retry(detail, limit=_BAD_REQUEST_RETRIES, mend=mend)

    def _adapt(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters as this endpoint takes them, as far as is known."""
        sent: dict[str, Any] = {}
        for name, value in parameters.items():
            change = self._adapted.get(name, "")
            if change == "drop":
                continue
            if change == "json_object":
                value = {"type": "json_object"}
            elif change == "5":
                value = min(int(value), 5)
            sent[change if change.startswith("max_") else name] = value
        return sent

    def _learn(self, name: str, sent: Mapping[str, Any]) -> bool:
        """Note another way to say parameter `name`; False when every way was tried."""
        other = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
        if name in other:
            original = other[name] if self._adapted.get(other[name]) == name else name
            return self._note(original, other[original], original not in self._adapted)
        if name == "response_format":
            is_schema = sent[name].get("type") == "json_schema"
            return self._note(name, "json_object" if is_schema else "drop", True)
        if name == "top_logprobs":
            return self._note(name, "5", sent[name] > 5)
        return self._note(name, "drop", name in _SAMPLING)

    def _note(self, name: str, change: str, is_new: bool) -> bool:
        if is_new:
            self._adapted[name] = change
        return is_new

    def _clean(self, text: str) -> str:
        """One line without the key, whoever put it there."""
        line = " ".join(text.replace(self._key, "***").split())
        return line if len(line) <= 160 else line[:157] + "..."


def _tls_context() -> ssl.SSLContext:
    """As the SDK makes one for each client; loading the certificates takes 50 ms, so ours share it."""
    import certifi

    certificates = os.environ.get("SSL_CERT_FILE") or certifi.where()
    return ssl.create_default_context(cafile=certificates, capath=os.environ.get("SSL_CERT_DIR"))


def _backoff(tries: int) -> float:
    """Exponential with full jitter above one half, in seconds."""
    return min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** (tries - 1)) * random.uniform(0.5, 1.0)


def _retry_after(error: APIStatusError) -> float | None:
    """Seconds the server asks to wait: `Retry-After` in seconds or as a date; None when it does not say."""
    from email.utils import parsedate_to_datetime
    from time import time

    value = error.response.headers.get("retry-after")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time()
        except ValueError:
            return None
    return min(max(seconds, 0.0), _LONGEST_RETRY_AFTER) if seconds == seconds else None


def _server_message(error: APIStatusError) -> str:
    body = error.body
    message = body.get("message") if isinstance(body, Mapping) else None
    return str(message or error.message)


def _named_parameter(error: APIStatusError, sent: Mapping[str, Any]) -> str | None:
    """The sent parameter that a 400 is about."""
    named = error.body.get("param") if isinstance(error.body, Mapping) else None
    if named in sent:
        return str(named)
    message = _server_message(error)
    found = [(message.index(name), -len(name), name) for name in sent if name in message]
    return min(found)[2] if found else None


def ask_all(
    endpoint: Endpoint, cache: ReplyCache, questions: Sequence[Sequence[Message]], parameters: Mapping[str, Any]
) -> list[Reply | Failure]:
    """Replies to independent questions, in their order; raises what `ChatClient.ask` raises."""

    async def ask() -> list[Reply | Failure]:
        client = ChatClient(endpoint, cache)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(client.ask(messages, parameters)) for messages in questions]
        finally:
            await client.close()
        return [task.result() for task in tasks]

    try:
        return asyncio.run(ask())
    except* IcrError as errors:
        raise errors.exceptions[0] from None


Message = dict[str, str]
