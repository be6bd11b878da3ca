"""What reviewers judge: a preference pair, or the outputs of two policies for one prompt; and the queues that choose the next one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from icr_platform.core.errors import InputError
from ui.review.inspector import Inspector
from ui.review.verdicts import Verdict
from ui.tables import pairs_data, regressions_data, sources
from ui.tables.queries import Row
from ui.tables.runs import Arm, Iteration

QUEUES = {
    "random": "Random pairs",
    "smallest-margin": "Smallest margin first",
    "largest-margin": "Largest margin first",
    "regressions": "Regressions: where the judge saw the largest loss",
    "disagree": "Judge and reward disagree",
}
_BATCH = 200


@dataclass(frozen=True)
class Item:
    """kind 'pair': chosen against rejected of one iteration; 'outputs': output of `base` against that of `iteration`."""

    kind: str
    iteration: int
    base: int | None
    language: str
    prompt_id: str

    @property
    def key(self) -> str:
        base = "" if self.base is None else self.base
        return f"{self.kind}:{self.iteration}:{base}:{self.language}:{self.prompt_id}"


class Side(NamedTuple):
    """One of the two texts. score: length-controlled reward of a pair's, the judge's preference of an output's, or None."""

    name: str
    text: str
    score: float | None


class Facts(NamedTuple):
    """What an item shows; `first` is the side the run prefers (chosen) or the later policy (after)."""

    instruction: str
    english: str
    first: Side
    second: Side
    margin: float | None


@dataclass(frozen=True)
class Settings:
    """What a reviewer works on. overlap: percent of items that every reviewer gets; the others go to one each."""

    iteration: int
    base: int | None
    language: str
    queue: str
    overlap: int
    blind: bool

    @property
    def kind(self) -> str:
        return "outputs" if self.queue in ("regressions", "disagree") else "pair"


class Progress(NamedTuple):
    done: int
    total: int


def is_shared(run_id: str, item: Item, overlap: int) -> bool:
    """Whether every reviewer gets the item; the same for all of them, and about `overlap` percent of items."""
    return _fraction(run_id, item.key) * 100 < overlap


def is_first_left(reviewer: str, item: Item, blind: bool) -> bool:
    """Which side stands left: shuffled per reviewer and item when blind, yet the same when she comes back."""
    return not blind or _fraction(reviewer, item.key) < 0.5


def _fraction(*parts: str) -> float:
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64


def next_item(inspector: Inspector, arm: Arm, settings: Settings, reviewer: str) -> tuple[Item | None, Progress]:
    """The first item of the queue that this reviewer has not judged and nobody else holds, and how far she is."""
    done = [
        verdict
        for verdict in inspector.verdicts.current(arm.run.run_id, reviewer)
        if _item(verdict).kind == settings.kind and _belongs(_item(verdict), settings)
    ]
    judged = {verdict.item for verdict in done}
    source, total = _queue(inspector, arm, settings)
    progress = Progress(len(judged), total)
    for start in range(0, total, _BATCH):
        rows = source(start)
        items = [
            Item(settings.kind, settings.iteration, settings.base, row["language"], row["prompt_id"]) for row in rows
        ]
        items = [item for item in items if item.key not in judged]
        offers = [(item.key, is_shared(arm.run.run_id, item, settings.overlap)) for item in items]
        place = inspector.verdicts.claim(arm.run.run_id, offers, reviewer) if offers else None
        if place is not None:
            return items[place], progress
    return None, progress


def _item(verdict: Verdict) -> Item:
    return Item(verdict.kind, verdict.iteration, verdict.base, verdict.language, verdict.prompt_id)


def _belongs(item: Item, settings: Settings) -> bool:
    is_language = settings.language in ("", item.language)
    return is_language and item.iteration == settings.iteration and item.base == settings.base


def _queue(inspector: Inspector, arm: Arm, settings: Settings) -> tuple[Any, int]:
    """A function start -> rows (language, prompt_id) in the queue's order, and how many there are."""
    if settings.kind == "pair":
        return _pair_queue(inspector, arm, settings)
    return _output_queue(inspector, arm, settings)


_PAIR_ORDERS = {
    "random": "md5(language || '/' || prompt_id)",
    "smallest-margin": "margin ASC",
    "largest-margin": "margin DESC",
}


def _pair_queue(inspector: Inspector, arm: Arm, settings: Settings) -> tuple[Any, int]:
    index = pairs_data.pair_index(inspector.engine, inspector.pair_tables(arm.iteration(settings.iteration)))
    where, values = "margin IS NOT NULL AND (? = '' OR language = ?)", [settings.language, settings.language]
    total = inspector.engine.select(f"SELECT count(*) AS n FROM {index} WHERE {where}", values)[0]["n"]

    def rows(start: int) -> list[Row]:
        sql = f"SELECT language, prompt_id FROM {index} WHERE {where} ORDER BY {_PAIR_ORDERS[settings.queue]}, position LIMIT {_BATCH} OFFSET ?"
        return inspector.engine.select(sql, [*values, start])

    return rows, total


def _output_queue(inspector: Inspector, arm: Arm, settings: Settings) -> tuple[Any, int]:
    before, after = _judged(inspector, arm, settings.base), _judged(inspector, arm, settings.iteration)
    if settings.queue == "regressions":
        body = f"""SELECT a.language, a.prompt_id, b.value - a.value AS rank FROM {before} AS a JOIN {after} AS b USING (language, prompt_id)
                   WHERE b.value < a.value"""
    else:
        body = f"""SELECT a.language, a.prompt_id, -abs(b.value - a.value) AS rank
                   FROM {before} AS a JOIN {after} AS b USING (language, prompt_id)
                   JOIN {_rewarded(inspector, arm, settings.base)} AS c USING (language, prompt_id)
                   JOIN {_rewarded(inspector, arm, settings.iteration)} AS d USING (language, prompt_id)
                   WHERE sign(b.value - a.value) * sign(d.value - c.value) < 0"""
    where, values = "(? = '' OR language = ?)", [settings.language, settings.language]
    total = inspector.engine.select(f"SELECT count(*) AS n FROM ({body}) WHERE {where}", values)[0]["n"]

    def rows(start: int) -> list[Row]:
        sql = f"SELECT language, prompt_id FROM ({body}) WHERE {where} ORDER BY rank, language, prompt_id LIMIT {_BATCH} OFFSET ?"
        return inspector.engine.select(sql, [*values, start])

    return rows, total


def _judged(inspector: Inspector, arm: Arm, number: int | None) -> str:
    if number is None:
        raise InputError("This queue compares two policies; choose the iteration compared from.")
    judgments = inspector.catalogue.artifact(arm.iteration(number), "judgments")
    return regressions_data.judged_prompts(inspector.engine, judgments)


def _rewarded(inspector: Inspector, arm: Arm, number: int | None) -> str:
    """Mean reward per prompt under iteration `number`: the judge sees evaluation prompts, so this only helps where they were trained on."""
    rewards = inspector.catalogue.artifact(arm.iteration(number or 0), "rewards")
    return regressions_data.rewarded_prompts(inspector.engine, rewards)


def facts_of(inspector: Inspector, arm: Arm, item: Item) -> Facts:
    """Texts and scores of an item.

    Raises:
        InputError: the tables have no such prompt, or were deleted.
    """
    return _pair_facts(inspector, arm, item) if item.kind == "pair" else _output_facts(inspector, arm, item)


def _pair_facts(inspector: Inspector, arm: Arm, item: Item) -> Facts:
    tables = inspector.pair_tables(arm.iteration(item.iteration))
    pair = pairs_data.pair_of(inspector.engine, tables, item.language, item.prompt_id)
    alpha = pair["length_penalty_alpha"]
    sides = [
        Side(name, pair[name], pair[f"{name}_reward"] - alpha * pair[f"{name}_characters"])
        for name in ("chosen", "rejected")
    ]
    return Facts(pair["instruction"], pair["english_instruction"], sides[0], sides[1], pair["margin"])


def _output_facts(inspector: Inspector, arm: Arm, item: Item) -> Facts:
    sides, instruction = [], ""
    for name, number in (("after", item.iteration), ("before", item.base)):
        iteration = arm.iteration(number or 0)
        outputs = regressions_data.outputs_of(
            inspector.engine, inspector.catalogue.artifact(iteration, "outputs"), item.language, item.prompt_id
        )
        if not outputs:
            raise InputError(f"Iteration {iteration.number} has no output for this prompt.")
        score = _score(inspector, iteration, item, outputs[0]["sample_index"])
        sides.append(Side(name, outputs[0]["output"], score))
        instruction = outputs[0]["instruction"]
    english = sources.eval_prompts(inspector.catalogue, arm.iteration(item.iteration)).english.get(item.prompt_id, "")
    return Facts(instruction, english, sides[0], sides[1], None)


def _score(inspector: Inspector, iteration: Iteration, item: Item, sample_index: int) -> float | None:
    """Mean preference for the output that is shown, over both orders; None unless the judge answered in each."""
    judgments = inspector.catalogue.artifact(iteration, "judgments")
    rows = regressions_data.judgments_of(inspector.engine, judgments, item.language, item.prompt_id)
    values = [row["preference"] for row in rows if row["sample_index"] == sample_index]
    return None if not values or None in values else sum(values) / len(values)


def to_token(values: dict[str, Any], item: Item) -> str:
    """What the page sends back with a verdict, so that the server needs no memory of what it showed."""
    return json.dumps({**values, "item": asdict(item)})


def from_token(token: str) -> tuple[dict[str, Any], Item]:
    """Raises InputError for what `to_token` did not write."""
    try:
        values = json.loads(token)
        return values, Item(**values["item"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError("The page is out of date; load it again.") from error


def preferred(scores: Sequence[float | None], names: Sequence[str]) -> str:
    """Name with the higher of two scores; '' where one is missing or both are equal."""
    left, right = scores
    if left is None or right is None or left == right:
        return ""
    return names[0] if left > right else names[1]
