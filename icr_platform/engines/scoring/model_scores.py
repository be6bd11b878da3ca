"""Scores of shards of rows under one model at a time, less what earlier work has scored."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
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
from icr_platform.engines.scoring.reward_texts import RewardText, RewardTexts
from icr_platform.engines.scoring.settings import RewardSettings
from icr_platform.models.chat import RefusedTextError
from icr_platform.models.loading import load_model, load_tokenizer

logger = logging.getLogger(__name__)


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


def load_scorer(settings: RewardSettings, chat: ChatSettings, model: str, folder: Path | None = None) -> Make:
    """Load a model: shards, as `ScoreShard`, to schemas.LOGPROBS; InputError when it cannot be loaded.

    folder: where it is kept how the work is done on a CPU; None where several machines share it, see `machine_choice`.
    """
    from icr_platform.engines.scoring.logprobs import CompletionScorer
    from icr_platform.engines.scoring.machine_choice import choose

    tokenizer = load_tokenizer(model, chat)
    loaded = load_model(
        model, settings.dtype, settings.device, chat.trust_remote_code, quantization=settings.quantization
    )
    scorer = CompletionScorer(loaded, settings.batch_tokens)
    if scorer.device.type == "cpu":
        scorer.use(choose(scorer, settings, folder))
    elif settings.torch_compile:
        scorer.compile_blocks()

    def fresh(shard: ScoreShard, tell: Advance) -> Mapping[str, Floats]:
        plan = plan_part(shard.scored, tokenizer, {kind: ~np.isnan(values) for kind, values in shard.known.items()})
        return score_plan(scorer, plan, tell)

    return _scoring(fresh)


def load_reward_scorer(settings: RewardSettings, chat: ChatSettings) -> Make:
    """Load the reward model: shards, as `ScoreShard`, to schemas.LOGPROBS, whose `logprob` is the score.

    Raises:
        InputError: it cannot be loaded, or gives no number for a text.
    """
    from icr_platform.engines.scoring.scalar_scores import ScalarScorer
    from icr_platform.models.reward_models import label_of, load_reward_model, plan_of

    model, trusted = settings.reward_model, chat.trust_remote_code
    texts = RewardTexts(model, chat)
    loaded = load_reward_model(model, settings.dtype, settings.device, trusted, settings.quantization)
    label = label_of(model, plan_of(model, trusted), settings.reward_label)
    scorer = ScalarScorer(loaded, settings.batch_tokens, label)

    def fresh(shard: ScoreShard, tell: Advance) -> Mapping[str, Floats]:
        places: dict[RewardText, int] = {}
        position: dict[str, list[int]] = {kind: [] for kind in shard.scored}
        for kind, listed in shard.scored.items():
            for item, known in zip(listed, shard.known[kind], strict=True):
                text = None if item is None or not np.isnan(known) else _encoded(texts, item)
                position[kind].append(-1 if text is None else places.setdefault(text, len(places)))
        flat = np.concatenate([scorer.score(list(places), tell), [np.nan]])  # position -1 is the last: NaN
        return {kind: flat[np.array(listed, dtype=np.int64)] for kind, listed in position.items()}

    return _scoring(fresh)


def _encoded(texts: RewardTexts, item: Scored) -> RewardText | None:
    """What the reward model is given; None for a text that its template, which takes such conversations, refuses."""
    try:
        return texts.encode(item.instruction, item.text)
    except RefusedTextError as error:
        logger.warning("%s; it gets no score", error)
        return None


def _scoring(fresh: Callable[[ScoreShard, Advance], Mapping[str, Floats]]) -> Make:
    """Make schemas.LOGPROBS of shards.

    fresh: a shard -> [R] for each kind, a value for each row that needs one: equal texts are scored once, and those that earlier work has
        not at all.
    """

    def score(shards: Iterable[ScoreShard], advance: Advance) -> Iterator[tuple[pa.Table]]:
        for shard in shards:
            told = 0

            def tell(rows: int, tokens: int) -> None:
                nonlocal told
                told += rows
                advance(rows, tokens)

            found = fresh(shard, tell)
            values = {kind: np.where(np.isnan(known), found[kind], known) for kind, known in shard.known.items()}
            advance(len(shard.digests) - told, 0)  # equal texts, known ones, and rows without a score
            yield (logprob_table(shard.keys, values, shard.digests),)

    return score


def free_gpu_memory() -> None:
    """Give the memory of a model that nothing refers to any more to the one that is loaded next."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
