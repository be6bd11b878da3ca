"""What every sampler does: N responses to each of a shard's prompts, from seeds that name the row and nothing else.

To add an engine, write a `Sampler` in a module of its own, and give it a row of `settings.SAMPLERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import pyarrow as pa

from icr_platform.core.artifacts import text_digest
from icr_platform.core.config import CHAT_DEFAULTS, ChatSettings
from icr_platform.core.conversations import Conversation
from icr_platform.core.faults import CONTROL_TOKENS, TEMPLATE, TOO_LONG
from icr_platform.engines.endpoints.served_model import Server
from icr_platform.models.chat import RefusedTextError, encode_messages, refusal_of_roles, writes_control_tokens
from icr_platform.models.hub import origin_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from icr_platform.engines.sampling.settings import SamplingSettings

Advance = Callable[[int, int], None]
_ROWS_TOGETHER = 4096


def ignore_progress(rows: int, tokens: int) -> None:
    """For callers that show no progress."""


@dataclass(frozen=True)
class Request:
    """One prompt; with the run's seed and a sample's index, its language and id seed the sample.

    history: (role, content) of the messages before, of conversations and of prompts with a system message.
    temperature: of this request's samples; None: as the settings say.
    """

    language: str
    prompt_id: str
    instruction: str
    history: tuple[tuple[str, str], ...] = ()
    temperature: float | None = None

    @property
    def conversation(self) -> Conversation:
        """The conversation up to the instruction."""
        return Conversation(self.instruction, self.history)

    @property
    def messages(self) -> list[dict[str, str]]:
        """Its messages."""
        return self.conversation.messages


@dataclass(frozen=True)
class TableRequests(Iterable[Request]):
    """The requests of prompts (schemas.PROMPTS), with the system prompt of the settings where they have none of their own.

    They are made each time that they are iterated over: of a million prompts they take more memory than the prompts.
    """

    prompts: pa.Table
    chat: ChatSettings = CHAT_DEFAULTS

    def __iter__(self) -> Iterator[Request]:
        columns = ("language", "prompt_id", "instruction", "messages")
        for batch in self.prompts.select(columns).to_batches(_ROWS_TOGETHER):
            for language, prompt_id, instruction, messages in zip(*map(pa.Array.to_pylist, batch.columns), strict=True):
                asked = self.chat.asked(Conversation.of(instruction, messages), language)
                yield Request(language, prompt_id, asked.instruction, asked.history)


def requests_of(prompts: pa.Table, chat: ChatSettings = CHAT_DEFAULTS) -> list[Request]:
    """All `TableRequests` at once."""
    return list(TableRequests(prompts, chat))


@dataclass(frozen=True)
class Sample:
    """One response.

    token_ids: up to and including the token it stopped on; without padding.
    finish_reason: 'stop' when the model ended its turn, 'length' when it ran into the token limit.
    token_ids_source: 'sampler', or 'retokenised' when the engine returned text only.
    answer_start: index in token_ids of the answer, which `text` is; None where nothing stands before it. An engine gives the whole
        text, and `thoughts` tells its thought and its answer apart.
    thought: the text before the answer; None where nothing was thought.
    """

    text: str
    token_ids: list[int]
    finish_reason: Literal["stop", "length"]
    token_ids_source: Literal["sampler", "retokenised"] = "sampler"
    answer_start: int | None = None
    thought: str | None = None


@dataclass(frozen=True)
class Dropped:
    """What stands in a prompt's place when it could not be answered.

    reason: one of `core.faults.FAULTS`. detail: what was seen, in a few words.
    """

    reason: str
    detail: str


Sampled = Sequence[list[Sample] | Dropped]
"""What became of each request: its samples, or why there are none."""


class Sampler(Protocol):
    """An engine that is loaded once and asked shard by shard."""

    def sample(
        self, requests: Sequence[Request], samples: int, seed: int, advance: Advance = ignore_progress
    ) -> Sampled:
        """`samples` responses to each request, in the requests' order; a `Dropped` for one that cannot be answered.

        What it returns depends on its arguments alone, not on earlier calls. `advance(rows, tokens)` is told of responses
        as they are finished.

        Raises:
            IcrError: the engine failed as a whole: no other request could be answered either.
        """
        ...

    def sample_shards(
        self, shards: Iterable[Sequence[Request]], samples: int, seed: int, advance: Advance = ignore_progress
    ) -> Iterator[Sampled]:
        """`sample` of each shard, in order; engines of their own process work ahead while the caller has the last one.

        A prompt that the engine dies of is dropped, and the others go on.
        """
        for shard in shards:
            yield list(self.sample(shard, samples, seed, advance))


def row_seed(seed: int, request: Request, sample_index: int, bits: int = 63) -> int:
    """Seed of one response: the first `bits` bits of sha256(seed, language, prompt id, sample index).

    >>> first = Request("es", "p0", "Hola")
    >>> row_seed(42, first, 0) == row_seed(42, first, 0), row_seed(42, first, 0) == row_seed(42, first, 1)
    (True, False)
    """
    digest = text_digest(str(seed), request.language, request.prompt_id, str(sample_index))
    return int(digest, 16) >> (256 - bits)


def sampling_server(settings: SamplingSettings, policy: str) -> Server:
    """Where the server sampler's model is served. Unnamed it goes by the policy's path, which identifies nothing."""
    model = settings.server_model or origin_of(policy).name
    label = settings.server_model or "policy"
    return Server(settings.server_url, model, "OPENAI_API_KEY", settings.server_identity, "server", label)


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase, request: Request, rendered_elsewhere: bool = False
) -> list[int] | Dropped:
    """The ids of a request's conversation, or why it has none.

    rendered_elsewhere: by a server, which would end the user's turn where somebody typed `<|im_end|>`: what it answers is not the
        prompt that is scored and trained on.
    """
    if rendered_elsewhere and writes_control_tokens(tokenizer, request.messages):
        return Dropped(CONTROL_TOKENS, "the text contains control tokens of the model's")
    if refusal := refusal_of_roles(tokenizer, request.conversation.roles):
        return Dropped(TEMPLATE, refusal)
    try:
        return encode_messages(tokenizer, request.messages)
    except RefusedTextError as error:
        return Dropped(TEMPLATE, error.reason)


def token_budget(prompt_tokens: int, max_tokens: int, context: int | None) -> int | Dropped:
    """New tokens a response may have: `max_tokens`, or what the prompt leaves of the model's context.

    >>> token_budget(90, 20, 100), token_budget(100, 20, 100).reason
    (10, 'too-long')
    """
    if context is None:
        return max_tokens
    if prompt_tokens >= context:
        return Dropped(TOO_LONG, f"{prompt_tokens} tokens, and the context is {context}")
    return min(max_tokens, context - prompt_tokens)
