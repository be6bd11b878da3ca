"""Sampling from any OpenAI-compatible endpoint, one seeded request a response.

vLLM's servers return token ids when asked; they are kept. Elsewhere there is only text: it is tokenised once, by
`chat.encode_response` with the policy's tokenizer, and marked 'retokenised'.

The server renders the chat template, with the date of its own clock where the template prints one. Where it returns a prompt's
ids they must be those that the policy's tokenizer gives; where it does not, a note says that nothing was compared.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, cast

import openai

from icr_platform.core.errors import IcrError, InputError
from icr_platform.engines.endpoints.served_model import confirmed
from icr_platform.engines.sampling.sampler import (
    Advance,
    Request,
    Sample,
    Sampler,
    ignore_progress,
    row_seed,
    sampling_server,
)
from icr_platform.models.chat import decode_response, encode_messages, encode_response, prints_date, settings_of
from icr_platform.models.loading import load_tokenizer

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletion
    from transformers import PreTrainedTokenizerBase

    from icr_platform.core.config import ChatSettings
    from icr_platform.engines.sampling.settings import SamplingSettings

_RETRIES = 5  # with the SDK's exponential back-off: about half a minute, and as long as a Retry-After header asks
_TIMEOUT = openai.Timeout(1800.0, connect=10.0)
_SEED_BITS = 31  # what every server can parse
_PROBE = Request("en", "probe", "Name a fruit.")


class ServerSampler(Sampler):
    """Asks an endpoint, `settings.server_concurrency` requests at once.

    The key is taken from the environment variable OPENAI_API_KEY alone, so that no record of a run can hold it.
    """

    def __init__(self, settings: SamplingSettings, policy: str, tokenizer: PreTrainedTokenizerBase) -> None:
        self.settings = settings
        self.model = settings.server_model or policy
        self.tokenizer = tokenizer
        self.asks_for_ids = True
        self.has_compared = False  # a prompt's ids with the server's
        server = sampling_server(settings, policy)
        self.shown = server.shown
        confirmed(server)

    def sample(
        self, requests: Sequence[Request], samples: int, seed: int, advance: Advance = ignore_progress
    ) -> list[list[Sample]]:
        """See `Sampler.sample`."""
        rows = [
            (request, row_seed(seed, request, index, _SEED_BITS)) for request in requests for index in range(samples)
        ]
        results = asyncio.run(self._sample_rows(rows, advance))
        return [results[start : start + samples] for start in range(0, len(results), samples)]

    async def _sample_rows(self, rows: Sequence[tuple[Request, int]], advance: Advance) -> list[Sample]:
        limit = asyncio.Semaphore(self.settings.server_concurrency)
        key = os.environ.get("OPENAI_API_KEY") or "EMPTY"

        async def sample_row(client: openai.AsyncOpenAI, request: Request, seed: int) -> Sample:
            async with limit:
                result = self._sample(request, await self._complete(client, request, seed))
            advance(1, len(result.token_ids))
            return result

        async with openai.AsyncOpenAI(
            api_key=key, base_url=self.settings.server_url, max_retries=_RETRIES, timeout=_TIMEOUT
        ) as client:
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(sample_row(client, request, seed)) for request, seed in rows]
            except ExceptionGroup as failures:
                raise failures.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _complete(self, client: openai.AsyncOpenAI, request: Request, seed: int) -> ChatCompletion:
        extra: dict[str, Any] = {"top_k": self.settings.top_k} if self.settings.top_k else {}
        asked = self.asks_for_ids
        try:
            return await client.chat.completions.create(
                model=self.model,
                messages=cast(Any, request.messages),
                temperature=self.settings.temperature if request.temperature is None else request.temperature,
                top_p=self.settings.top_p,
                max_tokens=self.settings.max_tokens,
                seed=seed,
                extra_body=extra | ({"return_token_ids": True} if asked else {}),
            )
        except openai.APIError as error:
            if asked and "return_token_ids" in str(error):  # a server that refuses fields it does not know
                self.asks_for_ids = False
                return await self._complete(client, request, seed)
            raise self._explained(error, request) from error

    def _explained(self, error: openai.APIError, request: Request) -> IcrError:
        place = f"{self.shown}: prompt {request.prompt_id!r} in {request.language!r}"
        reason = " ".join(str(error).split()).rstrip(".")
        if isinstance(error, (openai.AuthenticationError, openai.PermissionDeniedError)):
            return InputError(f"{place}: the key is refused ({reason}); set OPENAI_API_KEY")
        if isinstance(error, openai.NotFoundError):
            return InputError(
                f"{place}: not found ({reason}); check fields 'server_url' and 'server_model' {self.model!r}"
            )
        return IcrError(
            f"{place}: no response after {_RETRIES} retries ({reason}); finished shards are kept, run it again"
        )

    def _sample(self, request: Request, completion: ChatCompletion) -> Sample:
        place = f"{self.shown}: prompt {request.prompt_id!r} in {request.language!r}"
        if not completion.choices:
            raise IcrError(f"{place}: the answer holds no choice; check the server, then run the same command again")
        choice = completion.choices[0]
        if choice.finish_reason not in ("stop", "length"):
            raise IcrError(f"{place}: ended for the reason {choice.finish_reason!r}; change or remove the prompt")
        self._require_same_prompt(place, request, (completion.model_extra or {}).get("prompt_token_ids"))
        token_ids = (choice.model_extra or {}).get("token_ids")
        if token_ids is None:
            text = choice.message.content or ""
            ids = encode_response(self.tokenizer, text, finished=choice.finish_reason == "stop")
            return Sample(text, ids, choice.finish_reason, "retokenised")
        return Sample(decode_response(self.tokenizer, token_ids), token_ids, choice.finish_reason)

    def _require_same_prompt(self, place: str, request: Request, theirs: list[int] | None) -> None:
        """Ids of another tokenizer, template or date would be scored as something the model never saw."""
        if theirs is None:
            return
        ours = encode_messages(self.tokenizer, request.messages)
        if ours == theirs:
            self.has_compared = True
            return
        today = date.today()
        for day in (today, today - timedelta(1), today + timedelta(1)):  # its clock may be in another time zone
            if encode_messages(self.tokenizer, request.messages, day) == theirs:
                raise InputError(
                    f"{place}: the server's chat template prints the date of its clock, {day}, and field 'template_date' is "
                    f"{settings_of(self.tokenizer).template_date}; give --template-date {day}, or serve the policy with a "
                    "chat template in which the date is written out"
                )
        start = next((i for i, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), len(ours))
        raise InputError(
            f"{place}: the server tokenises the prompt otherwise than the policy, into {len(theirs)} tokens and not {len(ours)}, "
            f"from token {start} on ({self.tokenizer.decode(theirs[start : start + 8])!r}, not "
            f"{self.tokenizer.decode(ours[start : start + 8])!r}); serve the policy with its own tokenizer and chat template"
        )


def server_notes(settings: SamplingSettings, policy: str, chat: ChatSettings) -> tuple[str, ...]:
    """Ask the endpoint for one token, and say so where it does not show how it renders a prompt.

    Raises:
        InputError: it renders the prompt otherwise than the policy's tokenizer does, or cannot be asked.
        IcrError: it does not answer.
    """
    tokenizer = load_tokenizer(policy, chat)
    sampler = ServerSampler(settings.model_copy(update={"max_tokens": 1}), policy, tokenizer)
    sampler.sample([_PROBE], 1, 0)
    if sampler.has_compared:
        return ()
    doubt = "its chat template and BOS token"
    if prints_date(tokenizer):
        doubt += f", and the date that the template prints (template_date {chat.template_date})"
    return (
        f"{settings.server_url} does not return the ids of its prompts: {doubt} could not be compared with the policy's own",
    )
