"""Log-probabilities of shards of rows under one model at a time, less what earlier work has scored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from icr_platform.core.arrays import Floats
from icr_platform.core.config import ChatSettings
from icr_platform.core.earlier import EarlierRows
from icr_platform.core.part_job import Advance, Make, TakenPart
from icr_platform.engines.scoring.kind_scores import (
    SAMPLE_KEY,
    Scored,
    logprob_table,
    plan_part,
    score_digests,
    score_plan,
)
from icr_platform.engines.scoring.settings import RewardSettings
from icr_platform.models.loading import load_model, load_tokenizer


class ScoreShard(NamedTuple):
    """What the scores of a part are made from.

    keys: [R] key columns of the rows. scored: [R] for each kind. digests: [R * K], see `score_digests`.
    known: [R] for each kind, log-probabilities that earlier work has; NaN where it has none.
    """

    keys: pa.Table
    scored: Mapping[str, Sequence[Scored | None]]
    digests: Sequence[bytes | None]
    known: Mapping[str, Floats]


def score_shard(rows: pa.Table, scored: Mapping[str, Sequence[Scored | None]], earlier: EarlierRows) -> ScoreShard:
    """The shard of a part's rows, of which SAMPLE_KEY is read, with what earlier work has of it."""
    digests = score_digests(rows, scored)
    # Row after row, kind after kind within a row, as `by_kind` lays a table out.
    known = np.full(len(digests), np.nan)
    taken = earlier.take(digests)
    known[taken.item] = taken.rows.column("logprob").to_numpy()
    by_kind = known.reshape(-1, len(scored)).T
    return ScoreShard(rows.select(SAMPLE_KEY), scored, digests, dict(zip(scored, by_kind, strict=True)))


def taken_part(shard: ScoreShard) -> TakenPart | None:
    """The part where earlier work has all its scores; None where a model is needed."""
    for kind, listed in shard.scored.items():
        if np.isnan(shard.known[kind])[[item is not None for item in listed]].any():
            return None
    return TakenPart((logprob_table(shard.keys, shard.known, shard.digests),), len(shard.digests))


def load_scorer(settings: RewardSettings, chat: ChatSettings, model: str) -> Make:
    """Load a model: shards, as `ScoreShard`, to schemas.LOGPROBS; InputError when it cannot be loaded."""
    from icr_platform.engines.scoring.logprobs import CompletionScorer

    tokenizer = load_tokenizer(model, chat)
    loaded = load_model(
        model, settings.dtype, settings.device, chat.trust_remote_code, quantization=settings.quantization
    )
    scorer = CompletionScorer(loaded, settings.batch_tokens)

    def score(shards: Iterable[ScoreShard], advance: Advance) -> Iterator[tuple[pa.Table]]:
        for keys, scored, digests, known in shards:
            told = 0

            def tell(rows: int, tokens: int) -> None:
                nonlocal told
                told += rows
                advance(rows, tokens)

            # Equal completions are scored once, and those that earlier work has not at all: `fresh` has a value for each row that needs one.
            plan = plan_part(scored, tokenizer, {kind: ~np.isnan(values) for kind, values in known.items()})
            fresh = score_plan(scorer, plan, tell)
            values = {kind: np.where(np.isnan(known[kind]), fresh[kind], known[kind]) for kind in scored}
            advance(len(digests) - told, 0)  # equal completions, known ones, and rows without a score
            yield (logprob_table(keys, values, digests),)

    return score


def free_gpu_memory() -> None:
    """Give the memory of a model that nothing refers to any more to the one that is loaded next."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
