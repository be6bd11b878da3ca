"""Sampling from any OpenAI-compatible endpoint, with one seeded request per response.

vLLM's servers return token ids when asked, and these are kept. Others return text only, which is tokenised once, by
`chat.encode_response` with the policy's tokenizer, and marked 'retokenised'.

The server renders the chat template, with the date of its own clock where the template prints one. Where it returns a prompt's
ids, they must be those that the policy's tokenizer gives; where it does not, a note says that nothing was compared.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date, timedelta
from functools import partial
from typing import TYPE_CHECKING

from icr_platform.core.errors import IcrError, InputError
from icr_platform.engines.endpoints.accepted_parameters import AcceptedParameters
from icr_platform.engines.endpoints.chat_client import ChatClient, Endpoint, Failure, run_all
from icr_platform.engines.endpoints.replies import MalformedReplyError, text_of
from icr_platform.engines.endpoints.served_model import confirmed
from icr_platform.engines.sampling.sampler import (
    Advance,
    Request,
    Sample,
    Sampled,
    Sampler,
    ignore_progress,
    row_seed,
    sampling_server,
)
from icr_platform.models.chat import decode_response, encode_messages, encode_response, prints_date, settings_of
from icr_platform.models.loading import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from icr_platform.core.config import ChatSettings
    from icr_platform.engines.sampling.settings import SamplingSettings

_RETRIES = 5  # with the client's exponential back-off: a quarter of a minute, and as long as a Retry-After header asks
_TIMEOUT = 1800.0  # seconds: a long response from a busy server
_SEED_BITS = 31  # what every server can parse
_PROBE = Request("en", "probe", "Name a fruit.")


class ServerSampler(Sampler):
    """Asks an endpoint, `settings.server_concurrency` requests at once.

    The key is taken from the environment variable OPENAI_API_KEY alone, so that no record of a run can contain it.
    """

    def __init__(self, settings: SamplingSettings, policy: str, tokenizer: PreTrainedTokenizerBase) -> None:
        self.settings = settings
        self.tokenizer = tokenizer
        self.has_compared = False  # a prompt's ids with the server's
        server = sampling_server(settings, policy)
        self.endpoint = Endpoint(
            model=server.model,
            url=server.url,
            key_variable=server.key_variable,
            concurrency=settings.server_concurrency,
            timeout=_TIMEOUT,
            retries=_RETRIES,
            refusal_retries=0,
            key_if_unset="EMPTY",
            url_field="server_url",
            model_field="server_model",
        )
        # Some servers refuse fields that they do not know; without the ids there is still the text.
        self.accepted = AcceptedParameters(may_drop=frozenset({"return_token_ids"}))
        confirmed(server)

    def sample(
        self, requests: Sequence[Request], samples: int, seed: int, advance: Advance = ignore_progress
    ) -> Sampled:
        """See `Sampler.sample`."""
        client = ChatClient(self.endpoint, self.accepted, answered=True)
        extra = {"top_k": self.settings.top_k} if self.settings.top_k else {}  # a field of vLLM's, not of OpenAI's

        async def sample_row(request: Request, row: int) -> Sample:
            parameters = {
                "temperature": self.settings.temperature if request.temperature is None else request.temperature,
                "top_p": self.settings.top_p,
                "max_tokens": self.settings.max_tokens,
                "seed": row_seed(seed, request, row, _SEED_BITS),
                "return_token_ids": True,
                **extra,
            }
            about = f"prompt {request.prompt_id!r} in {request.language!r}"
            answer = await client.complete(request.messages, parameters, partial(self._read, request), about)
            if isinstance(answer, Failure):
                raise IcrError(
                    f"{self.endpoint.shown}: {about}: no response ({answer.detail}); finished shards are kept, run it again"
                )
            advance(1, len(answer.token_ids))
            return answer

        results = run_all(client, (sample_row(request, row) for request in requests for row in range(samples)))
        return [results[start : start + samples] for start in range(0, len(results), samples)]

    def _read(self, request: Request, body: bytes) -> Sample:
        """The sample in a completion's body."""
        place = f"{self.endpoint.shown}: prompt {request.prompt_id!r} in {request.language!r}"
        try:
            completion = json.loads(body)
            choice = completion["choices"][0] if completion["choices"] else None
            reason, ids = (choice.get("finish_reason"), choice.get("token_ids")) if choice else (None, None)
            text, _ = text_of(choice["message"].get("content")) if choice else ("", False)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise MalformedReplyError(f"not a chat completion ({type(error).__name__})") from error
        if choice is None:
            raise IcrError(f"{place}: the answer contains no choice; check the server, then run the same command again")
        if reason not in ("stop", "length"):
            raise IcrError(f"{place}: ended for the reason {reason!r}; change or remove the prompt")
        self._require_same_prompt(place, request, completion.get("prompt_token_ids"))
        if ids is not None:
            return Sample(decode_response(self.tokenizer, ids), ids, reason)
        ids = encode_response(self.tokenizer, text, finished=reason == "stop")
        return Sample(text, ids, reason, "retokenised")

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


def load(settings: SamplingSettings, policy: str, chat: ChatSettings) -> ServerSampler:
    """The sampler of these settings; the policy's own tokenizer checks what the server does."""
    check(settings, policy, chat)
    return ServerSampler(settings, policy, load_tokenizer(policy, chat))


def check(settings: SamplingSettings, policy: str, chat: ChatSettings) -> None:
    """Raise InputError when no address is given; the weights are the server's."""
    if not settings.server_url.startswith(("http://", "https://")):
        raise InputError(
            f"config: field 'server_url' is {settings.server_url!r}; give the endpoint's base URL, such as "
            "http://localhost:8000/v1"
        )
