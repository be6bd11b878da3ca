"""An LLM judge behind any OpenAI-compatible endpoint: every pair gets exactly one typed outcome per order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from threading import Thread
from typing import Any, TypeVar

from icr_platform.core.errors import InputError
from icr_platform.core.faults import REFUSED
from icr_platform.engines.endpoints.chat_client import CachedChatClient, Endpoint, Failure, Message, check_endpoint
from icr_platform.engines.endpoints.replies import Reply
from icr_platform.engines.endpoints.reply_cache import ReplyCache
from icr_platform.engines.endpoints.served_model import Server, confirmed, served_model
from icr_platform.engines.judging.judge_replies import VERDICT_FORMS, preference_from_logprobs, preference_from_samples
from icr_platform.engines.judging.pairwise import LABELS, MIN_MASS, Judgment, Pair, Preference, Template, orders_of
from icr_platform.engines.judging.settings import JudgeSettings, PairwiseJudgeSettings

# 20 is the most that OpenAI returns; the labels' spellings (`m`, ` m`) are all among the likeliest tokens of a judge that answers.
LOGPROB_PARAMETERS: Mapping[str, Any] = {"max_tokens": 1, "logprobs": True, "top_logprobs": 20}
STRUCTURED_PARAMETERS: Mapping[str, Any] = {
    "response_format": {
        "type": "json_schema",
        "json_schema": {
            "name": "verdict",
            "strict": True,
            "schema": {
                "type": "object",
                "properties": {"winner": {"type": "string", "enum": list(LABELS)}},
                "required": ["winner"],
                "additionalProperties": False,
            },
        },
    }
}
STRUCTURED_REQUEST = f"\n\nGive the verdict as JSON, whatever was said above about its form: {VERDICT_FORMS}."
_LOOK_AHEAD = 2048  # pairs

T = TypeVar("T")


def endpoint_of(config: JudgeSettings) -> Endpoint:
    """The judge's endpoint as configured."""
    return Endpoint(
        model=config.judge_api_model,
        url=config.judge_url,
        key_variable=config.judge_key_variable,
        concurrency=config.judge_concurrency,
        timeout=config.judge_timeout,
        retries=config.judge_retries,
    )


def judge_server(config: JudgeSettings) -> Server:
    """Where the judge is served."""
    endpoint = endpoint_of(config)
    return Server(endpoint.address, endpoint.model, endpoint.key_variable, config.judge_identity, "judge")


def confirmed_endpoint(config: JudgeSettings) -> Endpoint:
    """The judge's endpoint, asked which model it serves; raises InputError when it cannot be told."""
    endpoint = endpoint_of(config)
    check_endpoint(endpoint)
    return replace(endpoint, served=confirmed(judge_server(config)))


def assumed_endpoint(config: JudgeSettings) -> Endpoint:
    """The judge's endpoint for an estimate, which may be made while it is down."""
    try:
        return replace(endpoint_of(config), served=served_model(judge_server(config)))
    except InputError:
        return endpoint_of(config)


def check(settings: PairwiseJudgeSettings, template: Template) -> None:
    """Raise InputError when no model is named, the key is missing or the client is not installed; asks nothing."""
    if not settings.judge_api_model:
        raise InputError("config: field 'judge_api_model' is missing for the openai judge; give --judge-api-model")
    check_endpoint(endpoint_of(settings))


def asked_with(parameters: Mapping[str, Any], template_arguments: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The parameters of a request, with the arguments of the judge's chat template where there are any: most endpoints take none."""
    return {**parameters, "chat_template_kwargs": dict(template_arguments)} if template_arguments else parameters


def outcome_of(failure: Failure) -> str:
    """The outcome of a judgment whose question was not answered.

    >>> outcome_of(Failure("HTTP 400: content_filter", REFUSED)), outcome_of(Failure("HTTP 500"))
    ('refusal', 'api_error')
    """
    return "refusal" if failure.reason == REFUSED else "api_error"


class ApiJudge:
    """Judges pairs through a CachedChatClient.

    Args:
        endpoint, cache: see CachedChatClient.
        template: what the judge is asked.
        both_orders, seed: see `orders_of`.
        samples: answers sampled per pair and order as JSON; 0 reads the labels' log-probabilities instead.
        min_mass: probability that both labels must hold together, where log-probabilities are read.
        template_arguments: sent as `chat_template_kwargs`, if there are any.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        cache: ReplyCache,
        template: Template,
        both_orders: bool,
        seed: int,
        samples: int,
        min_mass: float = MIN_MASS,
        template_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        self.endpoint, self.cache, self.template, self.min_mass = endpoint, cache, template, min_mass
        self.both_orders, self.seed, self.samples = both_orders, seed, samples
        self.parameters = asked_with(STRUCTURED_PARAMETERS if samples else LOGPROB_PARAMETERS, template_arguments)
        self.has_answers = False

    @classmethod
    def from_settings(
        cls, settings: PairwiseJudgeSettings, template: Template, seed: int, is_asked: bool = True
    ) -> ApiJudge:
        """The judge an evaluation asks for; raises InputError when its endpoint or cache cannot be used.

        is_asked: False for an estimate, which asks it nothing.
        """
        endpoint = confirmed_endpoint(settings) if is_asked else assumed_endpoint(settings)
        samples = settings.judge_samples if settings.judge_answer == "structured" else 0
        cache = ReplyCache(settings.cache_folder)
        return cls(
            endpoint, cache, template, settings.both_orders, seed, samples, settings.judge_min_mass,
            settings.judge_chat_template_kwargs,
        )  # fmt: skip

    def questions(self, pair: Pair) -> list[tuple[str, list[Message]]]:
        """(order, messages) of every question that a pair needs."""
        questions = []
        for order in orders_of(pair, self.both_orders, self.seed):
            messages = self.template.render(pair, order)
            if self.samples:
                # Last, so that it overrides a template that asks for a label and nothing else.
                messages[-1] = messages[-1] | {"content": messages[-1]["content"] + STRUCTURED_REQUEST}
            questions.append((order, messages))
        return questions

    def judge(self, parts: Iterable[Sequence[Pair]]) -> Iterator[list[Judgment]]:
        """Yield the judgments of each part, in order.

        Later parts are asked ahead of time, so that one slow reply delays nothing, and in a thread of their own, so that requests
        go on while the caller writes a part to disk.

        Raises:
            InputError, IcrError: see CachedChatClient; replies so far are in the cache.
        """
        with _background_loop() as loop:
            stream = _Stream(self, iter(parts), loop)
            try:
                while (judgments := _call(stream.next(), loop)) is not None:
                    yield judgments
            finally:
                _call(stream.close(), loop)

    async def judge_pair(self, client: CachedChatClient, pair: Pair) -> list[Judgment]:
        """The judgments of one pair, one per order."""
        return list(
            await asyncio.gather(
                *(self._judge_order(client, pair, order, messages) for order, messages in self.questions(pair))
            )
        )

    async def _judge_order(self, client: CachedChatClient, pair: Pair, order: str, messages: list[Message]) -> Judgment:
        answers = await asyncio.gather(
            *(client.ask(messages, self.parameters, sample) for sample in range(max(self.samples, 1)))
        )
        replies = [answer for answer in answers if isinstance(answer, Reply)]
        failures = [answer for answer in answers if isinstance(answer, Failure)]
        # One sample that failed fails the pair: the share of the others would be noisier than those of other pairs.
        if failures:
            worst = min(failures, key=lambda failure: failure.reason == REFUSED)  # what may pass is what is asked again
            preference = Preference(None, None, outcome_of(worst), worst.detail)
        elif self.samples:
            preference = preference_from_samples(replies, order)
        else:
            preference = preference_from_logprobs(replies[0], order, self.min_mass)
        return Judgment(
            pair.language, pair.prompt_id, pair.sample_index, order, preference.value, preference.mass,
            preference.outcome, self.endpoint.model, sum(reply.input_tokens for reply in replies),
            sum(reply.output_tokens for reply in replies), preference.detail,
        )  # fmt: skip


class _Stream:
    """Pairs that are being judged. A new pair starts when a request ends: rendering all pairs first would keep the endpoint
    waiting for seconds."""

    def __init__(self, judge: ApiJudge, parts: Iterator[Sequence[Pair]], loop: asyncio.AbstractEventLoop) -> None:
        self.judge, self.parts = judge, parts
        self.client = CachedChatClient(judge.endpoint, judge.cache, judge.has_answers)
        self.started: asyncio.Queue[list[asyncio.Task[list[Judgment]]] | None] = asyncio.Queue()
        self.fatal: asyncio.Future[None] = loop.create_future()
        self.tasks: set[asyncio.Task[Any]] = set()
        self.ahead = 0
        self.handed_out = asyncio.Event()
        self.is_fed = False

    async def next(self) -> list[Judgment] | None:
        """Return the next part's judgments, or None after the last; raise at once what went wrong in any part."""
        if not self.is_fed:
            self._start(self._feed())
            self.is_fed = True
        tasks = await self._unless_fatal(self.started.get())
        if tasks is None:
            return None
        await self._unless_fatal(asyncio.gather(*tasks, return_exceptions=True))
        self.ahead -= len(tasks)
        self.handed_out.set()
        return [judgment for task in tasks for judgment in task.result()]

    async def close(self) -> None:
        """Drop the requests that are running and close all connections."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.fatal.cancel()
        self.judge.has_answers = self.client.has_answers
        await self.client.close()

    async def _feed(self) -> None:
        # The next part is read in a thread: it may come from a disk, and the loop must go on answering.
        while (part := await asyncio.to_thread(next, self.parts, None)) is not None:
            tasks = []
            for pair in part:
                tasks.append(self._start(self.judge.judge_pair(self.client, pair)))
                await self.client.room()
            self.ahead += len(tasks)
            self.started.put_nowait(tasks)
            # Judgments that nobody has taken yet stay in memory; this bounds them whatever the size of the corpus.
            while self.ahead >= _LOOK_AHEAD:
                self.handed_out.clear()
                await self.handed_out.wait()
        self.started.put_nowait(None)

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._finish)
        return task

    def _finish(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        # A request that merely failed is a judgment with an outcome; an exception (a wrong key, an unknown model) ends everything.
        if error is not None and not self.fatal.done():
            self.fatal.set_exception(error)
            for other in self.tasks:
                other.cancel()

    async def _unless_fatal(self, work: Awaitable[T]) -> T:
        future = asyncio.ensure_future(work)
        watched: set[asyncio.Future[Any]] = {future, self.fatal}
        await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
        if self.fatal.done():
            future.cancel()
            await asyncio.gather(future, return_exceptions=True)
            self.fatal.result()
        return future.result()


@contextmanager
def _background_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop that runs in a thread of its own."""
    # A daemon: an interpreter that ends for another reason must not wait for a judge's replies.
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, name="judge", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def _call(work: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> T:
    future = asyncio.run_coroutine_threadsafe(work, loop)
    try:
        return future.result()
    except BaseException:
        future.cancel()  # interrupted while waiting
        raise
