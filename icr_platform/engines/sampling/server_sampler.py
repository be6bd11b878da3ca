"""Sampling from any OpenAI-compatible endpoint, with one seeded request per response.

vLLM's servers return token ids when asked, and these are kept. Others return text only, which is tokenised once, by
`chat.encode_response` with the policy's tokenizer, and marked 'retokenised'.

The server renders the chat template, with the date of its own clock where the template prints one. Where it returns a prompt's
ids, they must be those that the policy's tokenizer gives; where it does not, a note says that nothing was compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from icr_platform.core.errors import IcrError, InputError
from icr_platform.core.faults import ENDPOINT_ERROR, TOO_LONG
from icr_platform.core.secrets import has_secret, shown_url
from icr_platform.core.spoken_messages import Spoken
from icr_platform.engines.endpoints.accepted_parameters import AcceptedParameters
from icr_platform.engines.endpoints.chat_client import ChatClient, Endpoint, run_all
from icr_platform.engines.endpoints.replies import (
    FilteredReplyError,
    MalformedReplyError,
    answer_in,
    is_filter,
    is_null,
    refusal_of,
    said_in,
)
from icr_platform.engines.endpoints.served_model import Server, confirmed
from icr_platform.engines.sampling.sampler import (
    Advance,
    Dropped,
    Request,
    Sample,
    Sampled,
    Sampler,
    ignore_progress,
    prompt_ids,
    row_seed,
    sampling_server,
    token_budget,
)
from icr_platform.models.chat import (
    decode_response,
    encode_messages,
    encode_response,
    end_of_turn_id,
    folded,
    prints_date,
    settings_of,
)
from icr_platform.models.loading import load_tokenizer
from icr_platform.models.quantised import NONE
from icr_platform.models.thinking import TextSplit, encode_thoughtful, markers_of, opens_thought, split_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from icr_platform.core.config import ChatSettings
    from icr_platform.engines.sampling.settings import SamplingSettings

_RETRIES_OF_BAD_REQUESTS = 3  # which some servers refuse at random
_HANG_RETRIES = 3
_STOPS = frozenset(("stop", "eos", "eos_token", "end_turn", "stop_sequence", "stop_token", "complete"))
LENGTHS = frozenset(("length", "max_tokens", "max_length", "model_length", "max_output_tokens"))
BROKEN_OFF = frozenset(("abort", "error", "network_error", "insufficient_system_resource"))
_OPTIONAL = {"top_k": 0, "min_p": 0.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "repetition_penalty": 1.0}
"""What is sent where it is not off. top_k, min_p and repetition_penalty are vLLM's fields, not OpenAI's."""
_SEED_BITS = 31  # what every server can parse
_PROBE = Request("en", "probe", "Name a fruit.")


def endpoint_of(settings: SamplingSettings, server: Server) -> Endpoint:
    """How the server is asked."""
    return Endpoint(
        model=server.model,
        url=server.url,
        key_variable=server.key_variable,
        concurrency=settings.server_concurrency,
        timeout=settings.server_timeout,
        retries=settings.server_retries,
        refusal_retries=_RETRIES_OF_BAD_REQUESTS,
        hang_retries=_HANG_RETRIES,
        patience=settings.server_patience,
        key_if_unset="EMPTY",
        url_field="server_url",
        model_field="server_model",
    )


class ServerSampler(Sampler):
    """Asks an endpoint, `settings.server_concurrency` requests at once.

    The key is taken from the environment variable OPENAI_API_KEY alone, so that no record of a run can contain it.
    """

    def __init__(self, settings: SamplingSettings, policy: str, tokenizer: PreTrainedTokenizerBase) -> None:
        self.settings = settings
        self.tokenizer = tokenizer
        self.has_compared = False  # a prompt's ids with the server's
        server = sampling_server(settings, policy)
        self.endpoint = endpoint_of(settings, server)
        # Some servers refuse fields that they do not know; without the ids there is still the text.
        self.accepted = AcceptedParameters(may_drop=frozenset({"return_token_ids"}))
        confirmed(server)

    def sample(
        self, requests: Sequence[Request], samples: int, seed: int, advance: Advance = ignore_progress
    ) -> Sampled:
        """See `Sampler.sample`."""
        client = ChatClient(self.endpoint, self.accepted, answered=True)
        # Only what is asked for: an endpoint that does not know a field refuses it, and says so.
        extra: dict[str, Any] = {
            name: getattr(self.settings, name) for name, off in _OPTIONAL.items() if getattr(self.settings, name) != off
        }
        if arguments := settings_of(self.tokenizer).chat_template_kwargs:
            extra["chat_template_kwargs"] = arguments

        async def sample_row(request: Request, row: int) -> Sample | Dropped:
            parameters = {
                "temperature": self.settings.temperature if request.temperature is None else request.temperature,
                "top_p": self.settings.top_p,
                "seed": row_seed(seed, request, row, _SEED_BITS),
                "return_token_ids": True,
                **extra,
            }
            about = f"prompt {request.prompt_id!r} in {request.language!r}"
            max_tokens = self.settings.max_tokens
            while True:
                limited = parameters | {"max_tokens": max_tokens}
                parse = partial(self._read, request, max_tokens)
                answer = await client.complete(folded(self.tokenizer, request.messages), limited, parse, about)
                if isinstance(answer, Sample):
                    advance(1, len(answer.token_ids))
                    return answer
                # A prompt that fits may be refused together with all the tokens that its response is allowed.
                fewer = self._budget(request, answer.context) if answer.reason == TOO_LONG else max_tokens
                if isinstance(fewer, Dropped):
                    return fewer
                if fewer >= max_tokens:
                    return Dropped(answer.reason, answer.detail)
                max_tokens = fewer

        planned = [prompt_ids(self.tokenizer, request, rendered_elsewhere=True) for request in requests]
        asked = [request for request, plan in zip(requests, planned, strict=True) if not isinstance(plan, Dropped)]
        rows = run_all(client, (sample_row(request, row) for request in asked for row in range(samples)))
        results: list[list[Sample] | Dropped] = []
        for start in range(0, len(rows), samples):
            of_prompt = rows[start : start + samples]
            dropped = [row for row in of_prompt if isinstance(row, Dropped)]
            # What the endpoint will never answer says more than what may pass.
            dropped.sort(key=lambda row: row.reason == ENDPOINT_ERROR)
            results.append(dropped[0] if dropped else [row for row in of_prompt if isinstance(row, Sample)])
        answered = iter(results)
        return [plan if isinstance(plan, Dropped) else next(answered) for plan in planned]

    def _budget(self, request: Request, context: int | None) -> int | Dropped:
        """New tokens to ask for in a context that a refusal has named, as the other engines ask for them."""
        return token_budget(len(encode_messages(self.tokenizer, request.messages)), self.settings.max_tokens, context)

    def _read(self, request: Request, max_tokens: int, body: bytes) -> Sample:
        """The sample in a completion's body; raises what `replies.parse_completion` raises."""
        place = f"{self.endpoint.shown}: prompt {request.prompt_id!r} in {request.language!r}"
        completion, choice, message = answer_in(body)
        self._require_same_prompt(place, request, _ids(completion.get("prompt_token_ids")))
        said = choice.get("finish_reason")
        reason = str(said).lower()
        if is_filter(reason) or refusal_of(message):
            raise FilteredReplyError(refusal_of(message) or f"ended for the reason {said!r}")
        if reason in BROKEN_OFF:
            raise MalformedReplyError(f"ended for the reason {said!r}")
        if reason in ("tool_calls", "function_call"):
            raise MalformedReplyError("the model calls a tool, though it was given none")
        spoken = said_in(message)
        text, ids = spoken.text, _ids(choice.get("token_ids"))
        source: Literal["sampler", "retokenised"] = (
            "sampler" if ids is not None and (ids or not (text or spoken.thought)) else "retokenised"
        )
        if source == "sampler" and ids is not None:
            text = decode_response(self.tokenizer, ids)
        is_told = reason in _STOPS | LENGTHS
        finished = reason in _STOPS if is_told else self._seems_finished(text, ids, max_tokens)
        if source == "retokenised" or ids is None:
            ids = self._encoded(request, spoken, finished)
        sample = Sample(text, ids, "stop" if finished else "length", source)
        if spoken.thought and not markers_of(self.tokenizer):  # none of the ids stands for it
            sample = replace(sample, thought=spoken.thought, answer_start=0)
        if not is_told:
            raise MalformedReplyError(f"ended for the reason {said!r}", instead=sample)
        if source == "retokenised" and is_null(message):
            raise MalformedReplyError("the answer is null", instead=sample)
        return sample

    def _encoded(self, request: Request, spoken: Spoken, finished: bool) -> list[int]:
        """The ids of a response whose text alone is known: with what the model thought, which the server gives apart or leaves in the
        text, between the model's own markers."""
        if not markers_of(self.tokenizer):
            return encode_response(self.tokenizer, spoken.text, finished=finished)
        prompt = encode_messages(self.tokenizer, request.messages)
        told = TextSplit(spoken.thought, spoken.text)
        if not spoken.thought:
            told = split_text(self.tokenizer, spoken.text, opens_thought(self.tokenizer, prompt))
            if told.answer == spoken.text:
                return encode_response(self.tokenizer, spoken.text, finished=finished)
        return encode_thoughtful(self.tokenizer, prompt, told.thought or "", told.answer, finished)

    def _seems_finished(self, text: str, ids: list[int] | None, max_tokens: int) -> bool:
        """Whether a response whose end nobody explains ended by itself: on an end-of-turn token, or before its limit."""
        if ids:
            return ids[-1] == end_of_turn_id(self.tokenizer) or len(ids) < max_tokens
        return len(encode_response(self.tokenizer, text, finished=False)) < max_tokens

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


def _ids(value: Any) -> list[int] | None:
    """Token ids as a server returns them; None where it returns something else."""
    is_ids = isinstance(value, list) and all(isinstance(token, int) and not isinstance(token, bool) for token in value)
    return value if is_ids else None


def server_notes(settings: SamplingSettings, policy: str, chat: ChatSettings) -> tuple[str, ...]:
    """Ask the endpoint for one token, and say so where it does not show how it renders a prompt.

    Raises:
        InputError: it renders the prompt otherwise than the policy's tokenizer does, or cannot be asked.
        IcrError: it does not answer.
    """
    tokenizer = load_tokenizer(policy, chat)
    sampler = ServerSampler(settings.model_copy(update={"max_tokens": 1}), policy, tokenizer)
    [answer] = sampler.sample([_PROBE], 1, 0)
    if isinstance(answer, Dropped):
        raise IcrError(f"{sampler.endpoint.shown}: does not answer a probe ({answer.detail}); check the server")
    if sampler.has_compared:
        return ()
    doubt = "its chat template and BOS token"
    if chat.chat_template_kwargs:
        doubt += f", and what it makes of chat_template_kwargs ({', '.join(chat.chat_template_kwargs)})"
    if prints_date(tokenizer):
        doubt += f", and the date that the template prints (template_date {chat.template_date})"
    return (
        f"{sampler.endpoint.shown} does not return the ids of its prompts: {doubt} could not be compared with the policy's own",
    )


def load(settings: SamplingSettings, policy: str, chat: ChatSettings) -> ServerSampler:
    """The sampler of these settings; the policy's own tokenizer checks what the server does."""
    check(settings, policy, chat)
    return ServerSampler(settings, policy, load_tokenizer(policy, chat))


def check(settings: SamplingSettings, policy: str, chat: ChatSettings) -> None:
    """Raise InputError when no address is given; the weights are the server's."""
    check_address(settings)
    if settings.quantization != NONE:
        raise InputError(
            f"config: field 'quantization' is {settings.quantization!r}, and the endpoint decides how its model is loaded; leave it out"
        )


def check_address(settings: SamplingSettings) -> None:
    """Raise InputError where no address of an endpoint is given, or one with a secret in it."""
    if not settings.server_url.startswith(("http://", "https://")):
        raise InputError(
            f"config: field 'server_url' is {shown_url(settings.server_url)!r}; give the endpoint's base URL, such as "
            "http://localhost:8000/v1"
        )
    if has_secret(settings.server_url):
        raise InputError("config: field 'server_url' holds a secret; put it in the environment variable OPENAI_API_KEY")
