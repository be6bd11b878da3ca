"""One chat completion from an endpoint that may fail in every way endpoints do.

The official SDK sends. Retrying is ours: a reply that was cut off or is not JSON must be asked for again too, waiting must not take
a place among the running requests, and a refused parameter must be adapted once for all of them.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import ssl
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import urlsplit

from icr_platform.core.errors import IcrError, InputError
from icr_platform.core.faults import ENDPOINT_ERROR, REFUSED, TOO_LONG
from icr_platform.core.secrets import has_secret, redact, remember
from icr_platform.engines.endpoints.accepted_parameters import AcceptedParameters, refused_parameter
from icr_platform.engines.endpoints.refusals import context_named, is_filtered, is_too_long
from icr_platform.engines.endpoints.replies import FilteredReplyError, MalformedReplyError, Reply, parse_completion
from icr_platform.engines.endpoints.reply_cache import ReplyCache, request_key
from icr_platform.engines.endpoints.served_model import Server

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

_CONNECT_SECONDS = 10.0
_FIRST_WAIT, _LONGEST_WAIT, _LONGEST_RETRY_AFTER = 0.5, 30.0, 600.0  # seconds
_RETRIES_BEFORE_FIRST_REPLY = 2
_RETRIES_OF_DOUBT = 3  # of a reply that may be meant, such as an empty one
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_FIXES = dict.fromkeys(("logprobs", "top_logprobs"), "it gives no log-probabilities; use --judge-answer structured") | {
    "chat_template_kwargs": "it takes no arguments of chat templates; leave chat_template_kwargs, or the judge's, out"
}
"""What to do where an endpoint refuses a parameter that it cannot be asked without."""
_MAY_DROP = frozenset({"response_format"})  # a judge's messages ask for JSON as well

Message = dict[str, str]
T = TypeVar("T")


@dataclass(frozen=True)
class Endpoint:
    """Where a model answers. The key stays in the environment; only the variable's name is here.

    timeout: seconds until a request counts as hanging.
    retries: tries after the first one.
    served: what tells the model from others of its name (see `served_model`); '': its address does.
    refusal_retries: tries after a request was refused as bad, which some servers do at random.
    hang_retries: tries after a request that hung; None: `retries`.
    patience: seconds to wait for an endpoint that stopped answering anything; 0: the retries of each request are enough.
    key_if_unset: sent where the variable is not set; '': the variable must be set.
    url_field, model_field: the settings that hold url and model, for messages.
    """

    model: str
    url: str
    key_variable: str
    concurrency: int
    timeout: float
    retries: int
    served: str = ""
    refusal_retries: int = 4
    hang_retries: int | None = None
    patience: float = 0.0
    key_if_unset: str = ""
    url_field: str = "judge_url"
    model_field: str = "judge_api_model"
    key_field: str = "judge_key_variable"

    @property
    def address(self) -> str:
        """The base URL; where none is configured, the one that the SDK takes."""
        return self.url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"

    @property
    def shown(self) -> str:
        """The address for messages, without what may be secret in it."""
        return self._server.shown

    @property
    def identity(self) -> str:
        """What tells its replies from those of another model of its name."""
        return self.served or self._server.by_address

    @property
    def _server(self) -> Server:
        return Server(self.address, self.model, self.key_variable, "", "judge")


@dataclass(frozen=True)
class Failure:
    """A request without a reply.

    reason: ENDPOINT_ERROR after all retries; REFUSED or TOO_LONG of what the endpoint will never answer, which is asked once.
    context: the model's, in tokens, where a refusal as too long names it.
    """

    detail: str
    reason: str = ENDPOINT_ERROR
    context: int | None = None


class _Retry(Exception):  # noqa: N818 - a signal, not an error
    """Ask again.

    seconds: to wait; None: by backoff.
    limit: retries that make sense for this kind; None: as configured, and the fault is the endpoint's, not the request's.
    unreachable: nothing came back at all.
    hung: nothing came back in time.
    adapted: the request changed, so this one does not count as a try.
    fix: what to do where this is all the endpoint ever said.
    """

    def __init__(
        self,
        detail: str,
        seconds: float | None = None,
        limit: int | None = None,
        unreachable: bool = False,
        hung: bool = False,
        adapted: bool = False,
        fix: str = "",
    ) -> None:
        super().__init__(detail)
        self.detail, self.seconds, self.limit = detail, seconds, limit
        self.unreachable, self.hung, self.adapted, self.fix = unreachable, hung, adapted, fix


class _Refused(Exception):  # noqa: N818 - a signal, not an error
    """The endpoint will never answer this request: `failure` says why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.detail)
        self.failure = failure


def check_endpoint(endpoint: Endpoint) -> None:
    """Raise InputError for an address with secrets in it, or a key that is not in the environment; asks nothing."""
    parts = urlsplit(endpoint.address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(
            f"config: field {endpoint.url_field!r} is not an http(s) address; give one such as http://localhost:8000/v1"
        )
    if parts.username or parts.password or has_secret(endpoint.address):
        raise InputError(
            f"config: field {endpoint.url_field!r} holds a secret; put it in the environment variable {endpoint.key_variable}"
        )
    if not _VARIABLE.fullmatch(endpoint.key_variable):  # often the key itself
        raise InputError(
            f"config: field {endpoint.key_field!r} is not the name of an environment variable; export the key in one, and give "
            "its name"
        )
    if not (os.environ.get(endpoint.key_variable) or endpoint.key_if_unset):
        raise InputError(
            f"config: environment variable {endpoint.key_variable} is not set; export the endpoint's key in it "
            "(any word for a server without keys)"
        )


class ChatClient:
    """Asks an endpoint, with at most `concurrency` running requests.

    accepted: what the endpoint is known to accept; what this client finds out is added.
    answered: the endpoint is known to be the right one, so a silence is an outage that may end.

    Raises (from `complete`):
        InputError: the endpoint refuses the key, does not know the model, or never answered at all.
        IcrError: the endpoint stopped answering for good.
    """

    def __init__(self, endpoint: Endpoint, accepted: AcceptedParameters, answered: bool = False) -> None:
        self.endpoint, self.accepted = endpoint, accepted
        self._key = os.environ.get(endpoint.key_variable) or endpoint.key_if_unset
        remember(self._key)  # servers repeat it in their messages, whatever its variable is called
        self._clients: list[AsyncOpenAI] = []
        self._places: asyncio.LifoQueue[AsyncOpenAI] = asyncio.LifoQueue()
        self._waiting, self._room = 0, asyncio.Event()
        self._replies = int(answered)
        self._failures_in_a_row = 0
        self._last_reply = time.monotonic()
        self._is_waiting_for_it = False

    @property
    def has_answers(self) -> bool:
        """Whether the endpoint ever answered."""
        return self._replies > 0

    async def complete(
        self, messages: Sequence[Message], parameters: Mapping[str, Any], parse: Callable[[bytes], T], about: str = ""
    ) -> T | Failure:
        """Ask until the endpoint gives a body that `parse` takes.

        parse: raises MalformedReplyError for a body that should be asked for again, FilteredReplyError for one that a filter
            left nothing of.
        about: what the question is about, for messages.
        """
        where = f"{self.endpoint.shown}: {about}" if about else self.endpoint.shown
        tries = refusals = hung = 0
        began, is_waiting = time.monotonic(), False
        while True:
            try:
                async with self._place() as client:
                    answer = parse(await self._send(client, messages, parameters, where))
            except FilteredReplyError as error:
                self._has_replied()
                return Failure(self._clean(str(error)), REFUSED)
            except _Refused as signal:
                self._has_replied()
                return signal.failure
            except MalformedReplyError as error:
                if error.instead is not None and refusals >= min(_RETRIES_OF_DOUBT, self.endpoint.retries):
                    self._has_replied()
                    return cast(T, error.instead)
                retry = _Retry(self._clean(str(error)), limit=None if error.instead is None else self.endpoint.retries)
            except _Retry as signal:
                retry = signal
            else:
                self._has_replied()
                return answer
            if retry.adapted:
                continue
            if is_waiting and self._last_reply > began:  # the endpoint is back, and this request begins anew
                tries = refusals = hung = 0
                began, is_waiting = time.monotonic(), False
            tries += 1
            refusals += retry.limit is not None
            done = tries if retry.limit is None else refusals
            limit = self.endpoint.retries if retry.limit is None else min(retry.limit, self.endpoint.retries)
            hung += retry.hung
            if retry.unreachable and not self.has_answers:
                # Where nothing has ever answered, the address is usually wrong, and waiting does not help.
                limit = min(limit, _RETRIES_BEFORE_FIRST_REPLY)
            if retry.hung and self.endpoint.hang_retries is not None:
                limit = min(limit, self.endpoint.hang_retries + done - hung)
            if done > limit:
                is_waiting = is_waiting or await self._answers_nobody(retry, began)
                if not is_waiting:
                    return self._give_up(retry, tries, where)
                self._wait_for_it(retry)
            # Exponential with jitter, so that requests that failed together do not come back together.
            backoff = min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** (done - 1)) * random.uniform(0.5, 1.0)
            await asyncio.sleep(backoff if retry.seconds is None else retry.seconds)

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

    def _has_replied(self) -> None:
        self._replies += 1
        self._failures_in_a_row = 0
        self._last_reply = time.monotonic()
        self._is_waiting_for_it = False

    async def _answers_nobody(self, retry: _Retry, began: float) -> bool:
        """Whether the endpoint is down, so that a request that was first asked at `began` has done nothing wrong and waits."""
        is_its_own_fault = retry.limit is not None or self._last_reply > began
        return self.endpoint.patience > 0 and not is_its_own_fault and not await self._is_up()

    def _wait_for_it(self, retry: _Retry) -> None:
        """Say that the endpoint is waited for, once for all requests; raise IcrError when that took too long."""
        silent = time.monotonic() - self._last_reply
        if silent > self.endpoint.patience:
            raise IcrError(
                f"{self.endpoint.shown}: has not answered for {silent:.0f} s ({retry.detail}); finished work is kept, run the "
                "same command again when it is back"
            )
        if not self._is_waiting_for_it:
            self._is_waiting_for_it = True
            print(f"{self.endpoint.shown}: does not answer ({retry.detail}); trying again", file=sys.stderr, flush=True)

    async def _is_up(self) -> bool:
        """Whether the endpoint answers the simplest question, that for its models, with anything but an error of its own."""
        import openai

        try:
            async with self._place() as client, asyncio.timeout(min(self.endpoint.timeout, _CONNECT_SECONDS)):
                await client.get("/models", cast_to=bytes)
        except openai.APIStatusError as error:
            return error.status_code < 500
        except (TimeoutError, openai.APIConnectionError):
            return False
        return True

    def _give_up(self, retry: _Retry, tries: int, where: str) -> Failure:
        if not self.has_answers and (retry.fix or retry.limit is None):
            fix = retry.fix or f"check {self.endpoint.url_field} and the server"
            raise InputError(f"{where}: gives no answer ({retry.detail}, {tries} tries); {fix}")
        # A refused request says nothing of the next one; an endpoint that is down does.
        self._failures_in_a_row += retry.limit is None
        if self._failures_in_a_row >= 2 * self.endpoint.concurrency:
            raise IcrError(
                f"{where}: stopped answering ({retry.detail}); every answer so far is kept, run the same command again"
            )
        return Failure(f"{retry.detail}, {tries} tries")

    async def _send(
        self, client: AsyncOpenAI, messages: Sequence[Message], parameters: Mapping[str, Any], where: str
    ) -> bytes:
        """One request's body. Raises _Retry for whatever may go better the next time."""
        import openai

        sent = self.accepted.adapt(parameters)
        try:
            async with asyncio.timeout(self.endpoint.timeout):
                body = {"model": self.endpoint.model, "messages": list(messages), **sent}
                # The typed method walks every message through pydantic first: as much work as all the rest of a request.
                return await client.post("/chat/completions", cast_to=bytes, body=body)
        except TimeoutError:
            raise _Retry(f"no answer within {self.endpoint.timeout:g} s", unreachable=True, hung=True) from None
        except openai.APIStatusError as error:
            raise self._meaning(error, sent, parameters, where) from error
        except openai.APIConnectionError as error:
            raise _Retry(self._clean(f"connection failed: {error.__cause__ or error}"), unreachable=True) from error

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[AsyncOpenAI]:
        """Wait for one of the places among the running requests, and keep it."""
        if not self._clients:
            self._connect()
        self._waiting += 1
        try:
            client = await self._places.get()
        finally:
            self._waiting -= 1
            self._room.set()
        try:
            yield client
        finally:
            self._places.put_nowait(client)

    def _connect(self) -> None:
        """Make a client for each place: a pool looks at all its connections before every request."""
        import certifi
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient, Timeout

        # The SDK would make the same TLS context for each client, which takes 50 ms: it loads the certificates.
        certificates = os.environ.get("SSL_CERT_FILE") or certifi.where()
        context = ssl.create_default_context(cafile=certificates, capath=os.environ.get("SSL_CERT_DIR"))
        timeout = self.endpoint.timeout
        for _ in range(self.endpoint.concurrency):
            client = AsyncOpenAI(
                base_url=self.endpoint.url or None,
                api_key=self._key,
                max_retries=0,
                timeout=Timeout(timeout, connect=min(timeout, _CONNECT_SECONDS)),
                http_client=DefaultAsyncHttpxClient(verify=context),
            )
            self._clients.append(client)
            self._places.put_nowait(client)

    def _meaning(
        self, error: APIStatusError, sent: Mapping[str, Any], wanted: Mapping[str, Any], where: str
    ) -> Exception:
        """What an HTTP error means: stop, ask again later, or ask in another way."""
        endpoint, status = self.endpoint, error.status_code
        body = error.body if isinstance(error.body, Mapping) else {}
        message = str(body.get("message") or error.message)
        detail = self._clean(f"HTTP {status}: {message}")
        if is_filtered(status, message, body):
            return _Refused(Failure(detail, REFUSED))
        if is_too_long(status, message, body):
            return _Refused(Failure(detail, TOO_LONG, context_named(message)))
        if status in (401, 403):
            return InputError(f"{where}: the key in {endpoint.key_variable} is refused ({detail}); export a valid one")
        if status == 404:
            return InputError(
                f"{where}: not found ({detail}); check fields {endpoint.url_field!r} and {endpoint.model_field!r} "
                f"{endpoint.model!r}"
            )
        if status == 402 or (status == 429 and "insufficient_quota" in str(error.body)):
            return InputError(f"{where}: the account has no quota left ({detail}); answers so far are kept")
        if status in (408, 409, 429) or status >= 500:
            return _Retry(detail, _retry_after(error))
        if status not in (400, 422):
            return _Retry(detail, limit=0)
        if sent != self.accepted.adapt(wanted):  # another request was refused meanwhile, and taught us how to ask
            return _Retry(detail, adapted=True)
        refused = refused_parameter(message, body.get("param"), sent)
        if refused is not None and self.accepted.learn(refused, sent):
            return _Retry(detail, adapted=True)
        return _Retry(detail, limit=endpoint.refusal_retries, fix=_FIXES.get(refused or "", ""))

    def _clean(self, text: str) -> str:
        """One short line, without the key."""
        line = redact(" ".join(text.split()))
        return line if len(line) <= 160 else line[:157] + "..."


class CachedChatClient(ChatClient):
    """A judge's client: takes from the cache the replies that are there.

    Raises (from `ask`): what `complete` raises.
    """

    def __init__(self, endpoint: Endpoint, cache: ReplyCache, answered: bool = False) -> None:
        check_endpoint(endpoint)
        super().__init__(endpoint, AcceptedParameters(_MAY_DROP), answered)
        self.cache = cache

    async def ask(self, messages: Sequence[Message], parameters: Mapping[str, Any], sample: int = 0) -> Reply | Failure:
        """A completion. `sample` tells repeated questions apart; replies are cached, failures are not."""
        key = request_key(self.endpoint.identity, parameters, messages, sample)
        found = self.cache.get(key)
        if found is not None:
            return found
        answer = await self.complete(messages, parameters, parse_completion)
        if isinstance(answer, Reply):
            self.cache.put(key, self.endpoint.model, messages, answer)
        return answer


def _retry_after(error: APIStatusError) -> float | None:
    """Seconds the server asks to wait: as a number or a date, or in OpenAI's milliseconds; None when it does not say."""
    from email.utils import parsedate_to_datetime
    from time import time

    headers = error.response.headers
    value, unit = headers.get("retry-after-ms"), 1e-3
    if value is None:
        value, unit = headers.get("retry-after", ""), 1.0
    try:
        seconds = float(value) * unit
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time()
        except ValueError:
            return None
    return min(max(seconds, 0.0), _LONGEST_RETRY_AFTER) if seconds == seconds else None


def run_all(client: ChatClient, asking: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run everything that asks through `client`, then close it; the results in order, or the first error alone."""

    async def run() -> list[T]:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(each) for each in asking]
        finally:
            await client.close()
        return [task.result() for task in tasks]

    try:
        return asyncio.run(run())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None


def ask_all(
    endpoint: Endpoint, cache: ReplyCache, questions: Sequence[Sequence[Message]], parameters: Mapping[str, Any]
) -> list[Reply | Failure]:
    """Replies to independent questions, in their order; raises what `CachedChatClient.ask` raises."""
    client = CachedChatClient(endpoint, cache)
    return run_all(client, (client.ask(messages, parameters) for messages in questions))
