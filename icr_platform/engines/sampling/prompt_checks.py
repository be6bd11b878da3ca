"""What is said of prompts before any is answered: which do not fit into the model's context, and which write its control tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from icr_platform.core.conversations import Conversation
from icr_platform.core.errors import InputError
from icr_platform.core.faults import TEMPLATE, require_few_faults
from icr_platform.core.progress import meter
from icr_platform.engines.sampling.sampler import Dropped, Request, prompt_ids, token_budget
from icr_platform.engines.sampling.settings import SAMPLERS
from icr_platform.models.chat import (
    Roles,
    encode_prompt,
    prompt_notes,
    refusal_of_roles,
    require_system_prompt,
    writes_control_tokens,
)
from icr_platform.models.context import context_of
from icr_platform.models.loading import load_config, load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from icr_platform.core.config import ChatSettings
    from icr_platform.engines.sampling.settings import SamplingSettings


@dataclass(frozen=True)
class PromptCheck:
    """What was found.

    dropped: prompts that will be dropped, and why, in the prompts' order.
    total: how many prompts there are.
    notes: lines on the others.
    """

    dropped: tuple[tuple[Request, Dropped], ...]
    total: int
    notes: tuple[str, ...]

    @property
    def dropped_notes(self) -> tuple[str, ...]:
        """A line for each language and reason, with the first prompt and what was seen of it."""
        groups: dict[tuple[str, str], list[tuple[Request, Dropped]]] = {}
        for request, dropped in self.dropped:
            groups.setdefault((request.language, dropped.reason), []).append((request, dropped))
        return tuple(
            f"{language}: {len(members)} prompts will be dropped ({reason}), the first is {members[0][0].prompt_id!r}: "
            f"{members[0][1].detail}"
            for (language, reason), members in groups.items()
        )


def check_prompts(
    settings: SamplingSettings, policy: str, chat: ChatSettings, requests: Iterable[Request], max_dropped: float
) -> PromptCheck:
    """Render each kind of conversation once, and tokenise every prompt that may be too long, as the sampler will.

    requests: iterated over twice. max_dropped: percent of the prompts that may be dropped.

    Raises:
        InputError: more are known to be dropped, in one line with the longest; or the chat template has no place for the system prompt.
    """
    tokenizer = load_tokenizer(policy, chat)
    require_system_prompt(tokenizer)
    kinds: Counter[Roles] = Counter()

    def conversations() -> Iterator[Conversation]:
        for request in requests:
            kinds[request.conversation.roles] += 1
            yield request.conversation

    notes = prompt_notes(tokenizer, conversations())
    total = kinds.total()
    context = _context(settings, policy, chat)
    # A prompt that takes more than half of the context leaves less of it than responses are usually allowed.
    wanted = min(settings.max_tokens, (context or 0) // 2)
    refused = {roles: refusal_of_roles(tokenizer, roles) for roles in kinds}
    most = None if context is None else context - wanted
    is_server = settings.sampler == "server"
    is_doubtful = _doubt(tokenizer, most, is_server)
    dropped: list[tuple[Request, Dropped]] = []
    doubtful: list[Request] = []
    for request in requests:
        if why := refused[request.conversation.roles]:
            dropped.append((request, Dropped(TEMPLATE, why)))
        elif is_doubtful(request):
            doubtful.append(request)
    cramped = 0
    for request, ids in _tokenised(tokenizer, doubtful, is_server):
        budget = ids if isinstance(ids, Dropped) else token_budget(len(ids), settings.max_tokens, context)
        if isinstance(budget, Dropped):
            dropped.append((request, budget))
        else:
            cramped += budget < wanted
    if cramped:
        notes += (
            f"{cramped} of {total} prompts leave fewer than {wanted} of the context's {context} tokens to the response, "
            "which is cut there",
        )
    counts = Counter(fault.reason for _, fault in dropped)
    first = (
        f"the first is {dropped[0][0].prompt_id!r} in {dropped[0][0].language!r}: {dropped[0][1].detail}"
        if dropped
        else ""
    )
    require_few_faults(counts, total, max_dropped, "prompts", first, error=InputError)
    return PromptCheck(tuple(dropped), total, notes)


def _context(settings: SamplingSettings, policy: str, chat: ChatSettings) -> int | None:
    """The context that the sampler will have; None where that is not known beforehand."""
    if settings.sampler not in SAMPLERS:
        return None
    if settings.sampler == "vllm" and settings.max_model_len:
        return settings.max_model_len
    try:
        return context_of(load_config(policy, chat.trust_remote_code))
    except InputError:
        if settings.sampler == "server":  # which may know a model that transformers does not, and says what is too long
            return None
        raise


def _doubt(tokenizer: PreTrainedTokenizerBase, tokens: int | None, is_server: bool) -> Callable[[Request], bool]:
    """Whether a prompt may have more than `tokens`, or a server would read it otherwise.

    A text has no more tokens than bytes, beside the template's.
    """
    frame = len(encode_prompt(tokenizer, "x"))

    def is_doubtful(request: Request) -> bool:
        texts = [message["content"] for message in request.messages]
        most = frame * len(texts) + sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
        is_long = tokens is not None and most > tokens
        return is_long or (is_server and writes_control_tokens(tokenizer, request.messages))

    return is_doubtful


def _tokenised(
    tokenizer: PreTrainedTokenizerBase, requests: Sequence[Request], is_server: bool
) -> Iterator[tuple[Request, list[int] | Dropped]]:
    """The ids of prompts, or why they have none."""
    with meter("tokenise long prompts", len(requests)) as progress:
        for request in requests:
            yield request, prompt_ids(tokenizer, request, rendered_elsewhere=is_server)
            progress.advance(1)
