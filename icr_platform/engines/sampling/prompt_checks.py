"""What is said of prompts before any is answered: which do not fit into the model's context, and which write its control tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from icr_platform.core.errors import InputError
from icr_platform.core.faults import require_few_faults
from icr_platform.core.progress import meter
from icr_platform.engines.sampling.sampler import Dropped, Request, prompt_ids, token_budget
from icr_platform.engines.sampling.settings import SAMPLERS
from icr_platform.models.chat import encode_prompt, prompt_notes
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


def requests_of(prompts: pa.Table) -> list[Request]:
    """The requests of single-turn prompts (schemas.PROMPTS)."""
    return [Request(**key) for key in prompts.select(["language", "prompt_id", "instruction"]).to_pylist()]


def check_prompts(
    settings: SamplingSettings, policy: str, chat: ChatSettings, requests: Sequence[Request], max_dropped: float
) -> PromptCheck:
    """Tokenise every prompt that may be too long, as the sampler will.

    max_dropped: percent of the prompts that may be dropped.

    Raises:
        InputError: more are known to be dropped, in one line with the longest.
    """
    tokenizer = load_tokenizer(policy, chat)
    is_server = settings.sampler == "server"
    notes = prompt_notes(tokenizer, (request.instruction for request in requests), rendered_elsewhere=is_server)
    context = context_of(load_config(policy, chat.trust_remote_code)) if settings.sampler in SAMPLERS else None
    if settings.sampler == "vllm" and settings.max_model_len:
        context = settings.max_model_len
    if context is None:
        return PromptCheck((), len(requests), notes)

    # A prompt that takes more than half of the context leaves less of it than responses are usually allowed.
    wanted = min(settings.max_tokens, context // 2)
    dropped, cramped = [], 0
    for request, ids in _long_prompts(tokenizer, requests, context - wanted):
        budget = ids if isinstance(ids, Dropped) else token_budget(len(ids), settings.max_tokens, context)
        if isinstance(budget, Dropped):
            dropped.append((request, budget))
        else:
            cramped += budget < wanted
    if cramped:
        notes += (
            f"{cramped} of {len(requests)} prompts leave fewer than {wanted} of the context's {context} tokens to the response, "
            "which is cut there",
        )
    counts = Counter(fault.reason for _, fault in dropped)
    first = (
        f"the first is {dropped[0][0].prompt_id!r} in {dropped[0][0].language!r}: {dropped[0][1].detail}"
        if dropped
        else ""
    )
    require_few_faults(counts, len(requests), max_dropped, "prompts", first, error=InputError)
    return PromptCheck(tuple(dropped), len(requests), notes)


def _long_prompts(
    tokenizer: PreTrainedTokenizerBase, requests: Sequence[Request], tokens: int
) -> Iterator[tuple[Request, list[int] | Dropped]]:
    """The ids of the prompts that may have more than `tokens`: a text has no more tokens than bytes, beside the template's."""
    frame = len(encode_prompt(tokenizer, "x"))

    def may_be_long(request: Request) -> bool:
        turns = [request.instruction, *(content for _, content in request.history)]
        return frame * len(turns) + sum(len(turn.encode("utf-8", "surrogatepass")) for turn in turns) > tokens

    long = [request for request in requests if may_be_long(request)]
    with meter("tokenise long prompts", len(long)) as progress:
        for request in long:
            yield request, prompt_ids(tokenizer, request)
            progress.advance(1)
