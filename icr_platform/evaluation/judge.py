"""An LLM judge behind any OpenAI-compatible endpoint: every pair ends in exactly one typed outcome per order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from icr_platform.config import EvalConfig, JudgeSettings
from icr_platform.evaluation.chat_client import ChatClient, Endpoint, Failure
from icr_platform.evaluation.pairwise import LABELS, Judgment, Message, Pair, Template, orders_of
from icr_platform.evaluation.replies import Preference, Reply, preference_from_logprobs, preference_from_samples
from icr_platform.evaluation.reply_cache import ReplyCache, default_cache

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
STRUCTURED_REQUEST = (
    '\n\nGive the verdict as JSON, whatever was said above about its form: {"winner": "m"} or {"winner": "M"}.'
)
_LOOK_AHEAD = 2048


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


def cache_folder(config: JudgeSettings) -> Path:
    """Where the judge's replies are kept."""
    return Path(config.judge_cache).expanduser() if config.judge_cache else default_cache()


class ApiJudge:
    """Judges pairs through a ChatClient.

    Args:
        endpoint, cache: see ChatClient.
        template: what the judge is asked.
        both_orders, seed: see `orders_of`.
        samples: answers sampled per pair and order as JSON; 0 reads the labels' log-probabilities instead.
    """

    def __init__(
        self, endpoint: Endpoint, cache: ReplyCache, template: Template, both_orders: bool, seed: int, samples: int
    ) -> None:
        self.endpoint, self.cache, self.template = endpoint, cache, template
        self.both_orders, self.seed, self.samples = both_orders, seed, samples

    @classmethod
    def from_config(cls, config: EvalConfig, template: Template) -> ApiJudge:
        """The judge an evaluation asks for; raises InputError when its endpoint or cache cannot be used."""
        samples = config.judge_samples if config.judge_answer == "structured" else 0
        cache = ReplyCache(cache_folder(config))
        return cls(endpoint_of(config), cache, template, config.both_orders, config.seed, samples)

    @property
    def parameters(self) -> Mapping[str, Any]:
        return STRUCTURED_PARAMETERS if self.samples else LOGPROB_PARAMETERS

    def questions(self, pair: Pair) -> list[tuple[str, list[Message]]]:
        """(order, messages) of every question a pair needs."""
        return [(order, self._messages(pair, order)) for order in orders_of(pair, self.both_orders, self.seed)]

    def _messages(self, pair: Pair, order: str) -> list[Message]:
        messages = self.template.render(pair, order)
        if self.samples:
            messages[-1] = messages[-1] | {"content": messages[-1]["content"] + STRUCTURED_REQUEST}
        return messages

    def judge(self, parts: Iterable[Sequence[Pair]]) -> Iterator[list[Judgment]]:
        """Judgments part by part, in order. Later parts are asked ahead, so that a slow reply holds nothing up.

        Raises:
            InputError, IcrError: see ChatClient; replies so far are in the cache.
        """
        with asyncio.Runner() as runner:
            stream = self._stream(iter(parts))
            while (judgments := runner.run(_next(stream))) is not None:
                yield judgments

    async def _stream(self, parts: Iterator[Sequence[Pair]]) -> AsyncIterator[list[Judgment]]:
        client = ChatClient(self.endpoint, self.cache)
        fatal: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        waiting: deque[list[asyncio.Task[list[Judgment]]]] = deque()
        try:
            while True:
                while sum(len(tasks) for tasks in waiting) < _LOOK_AHEAD and (part := next(parts, None)) is not None:
                    waiting.append([_start(self._judge(client, pair), fatal) for pair in part])
                if not waiting:
                    return
                # An error in any part, not only in the oldest, ends the run at once.
                oldest: asyncio.Future[Any] = asyncio.gather(*waiting[0], return_exceptions=True)
                await asyncio.wait({oldest, fatal}, return_when=asyncio.FIRST_COMPLETED)
                if fatal.done():
                    fatal.result()
                yield [judgment for task in waiting.popleft() for judgment in task.result()]
        finally:
            tasks = [task for of_part in waiting for task in of_part]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            fatal.cancel()
            await client.close()

    async def _judge(self, client: ChatClient, pair: Pair) -> list[Judgment]:
        return list(
            await asyncio.gather(
                *(self._judge_order(client, pair, order, messages) for order, messages in self.questions(pair))
            )
        )

    async def _judge_order(self, client: ChatClient, pair: Pair, order: str, messages: list[Message]) -> Judgment:
        answers = await asyncio.gather(
            *(client.ask(messages, self.parameters, sample) for sample in range(max(self.samples, 1)))
        )
        replies = [answer for answer in answers if isinstance(answer, Reply)]
        failures = [answer for answer in answers if isinstance(answer, Failure)]
        if failures:
            preference = Preference(None, None, "api_error", failures[0].detail)
        elif self.samples:
            preference = preference_from_samples(replies, order)
        else:
            preference = preference_from_logprobs(replies[0], order)
        return Judgment(
            pair.language, pair.prompt_id, pair.sample_index, order, preference.value, preference.mass,
            preference.outcome, self.endpoint.model, sum(reply.input_tokens for reply in replies),
            sum(reply.output_tokens for reply in replies), preference.detail,
        )  # fmt: skip


async def _next(stream: AsyncIterator[list[Judgment]]) -> list[Judgment] | None:
    return await anext(stream, None)


def _start(work: Coroutine[Any, Any, list[Judgment]], fatal: asyncio.Future[Any]) -> asyncio.Task[list[Judgment]]:
    task = asyncio.create_task(work)

    def report(done: asyncio.Task[list[Judgment]]) -> None:
        error = None if done.cancelled() else done.exception()
        if error is not None and not fatal.done():
            fatal.set_exception(error)

    task.add_done_callback(report)
    return task
