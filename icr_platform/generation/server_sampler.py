"""Sampling from any OpenAI-compatible endpoint, one seeded request a response.

vLLM's servers return token ids when asked; they are kept. Elsewhere there is only text: it is tokenised once, by
`chat.encode_response` with the policy's tokenizer, and marked 'retokenised'.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import openai

from icr_platform.chat import decode_response, encode_messages, encode_response
from icr_platform.errors import IcrError, InputError
from icr_platform.generation.sampler import (
    Advance,
    Request,
    Sample,
    Sampler,
    ignore_progress,
    row_seed,
    sampling_server,
)
from icr_platform.served_model import confirmed

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletion
    from transformers import PreTrainedTokenizerBase

    from icr_platform.config import GenerateSettings

_RETRIES = 5  # with the SDK's exponential back-off: about half a minute, and as long as a Retry-After header asks
_TIMEOUT = openai.Timeout(1800.0, connect=10.0)
_SEED_BITS = 31  # what every server can parse


class ServerSampler(Sampler):
    """Asks an endpoint, `settings.server_concurrency` requests at once.

    The key is taken from the environment variable OPENAI_API_KEY alone, so that no record of a run can hold it.
    """

    def __init__(self, settings: GenerateSettings, policy: str, tokenizer: PreTrainedTokenizerBase) -> None:
        self.settings = settings
        self.model = settings.server_model or policy
        self.tokenizer = tokenizer
        self.asks_for_ids = True
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
        token_ids = (choice.model_extra or {}).get("token_ids")
        if token_ids is None:
            text = choice.message.content or ""
            ids = encode_response(self.tokenizer, text, finished=choice.finish_reason == "stop")
            return Sample(text, ids, choice.finish_reason, "retokenised")
        self._require_same_prompt(place, request, (completion.model_extra or {}).get("prompt_token_ids"))
        return Sample(decode_response(self.tokenizer, token_ids), token_ids, choice.finish_reason)

    def _require_same_prompt(self, place: str, request: Request, prompt_ids: list[int] | None) -> None:
        """Ids of another tokenizer or template would be scored as something the model never saw."""
        if prompt_ids is not None and prompt_ids != encode_messages(self.tokenizer, request.messages):
            raise InputError(
                f"{place}: the server tokenises the prompt otherwise than the policy; serve the policy with its own tokenizer"
            )
