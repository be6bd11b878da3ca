"""What reviewers judge: the two samples of a preference pair, or the outputs of two policies for one prompt."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from icr_platform.core.conversations import Conversation
from icr_platform.core.errors import InputError
from ui.review.reviewers import reviewer_key
from ui.review.secret import Secret
from ui.review.verdicts import Verdict
from ui.tables import output_rows, pairs_data, sources
from ui.tables.conversations import history_in
from ui.tables.run_tables import RunTables
from ui.tables.runs import ArmRecord
from ui.tables.thoughts import Thought, thought_in

GOLD = "gold"


@dataclass(frozen=True)
class Item:
    """kind 'pair': chosen against rejected of one iteration; 'outputs': output of `base` against that of `iteration`; GOLD: a pair that a
    review link carries, of which one side is certainly better.

    pair_index: which pair of a prompt that has several; which of the link's for GOLD.
    """

    kind: str
    iteration: int
    base: int | None
    language: str
    prompt_id: str
    pair_index: int = 0

    @property
    def key(self) -> str:
        """Identity of the item within its run."""
        base = "" if self.base is None else self.base
        # With the kind, which contains no point: prompt ids, at the end, may be any text. First pairs keep the key of only ones.
        kind = f"{self.kind}.{self.pair_index}" if self.pair_index else self.kind
        return f"{kind}:{self.iteration}:{base}:{self.language}:{self.prompt_id}"

    @classmethod
    def from_key(cls, key: str) -> Item:
        """The item of an identity.

        Raises:
            InputError: this is not one.

        >>> Item.from_key("pair.1:2::es:a:b")
        Item(kind='pair', iteration=2, base=None, language='es', prompt_id='a:b', pair_index=1)
        """
        parts = key.split(":", 4)
        kind, point, number = parts[0].partition(".")
        is_fine = len(parts) == 5 and _is_whole(parts[1]) and (not parts[2] or _is_whole(parts[2]))
        if not is_fine or kind not in ("pair", "outputs", GOLD) or (point and not _is_whole(number)):
            raise InputError(f"There is no item {key[:80]!r}; open one from the list.")
        base = int(parts[2]) if parts[2] else None
        return cls(kind, int(parts[1]), base, parts[3], parts[4], int(number or 0))


def _is_whole(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def item_of(verdict: Verdict) -> Item:
    """What a verdict is about."""
    number = verdict.item.partition(":")[0].partition(".")[2]
    pair_index = int(number) if number.isdigit() else 0
    return Item(verdict.kind, verdict.iteration, verdict.base, verdict.language, verdict.prompt_id, pair_index)


class Side(NamedTuple):
    """One of the two texts. score: length-controlled reward in a pair, the judge's preference for an output, or None.

    language: of a text from a pool where it is not the item's; else ''.
    """

    name: str
    text: str
    score: float | None
    thought: Thought | None
    language: str = ""


class Facts(NamedTuple):
    """What an item shows; `first` is the side that the run prefers (chosen) or that came later (after)."""

    asked: Conversation
    english: Conversation
    first: Side
    second: Side
    margin: float | None


def is_first_left(secret: Secret, reviewer: str, item: Item, blind: bool) -> bool:
    """Which side stands left: shuffled per reviewer and item when blind, yet the same when she comes back, and for her alone to see."""
    return not blind or secret.fraction("left", reviewer_key(reviewer), item.key) < 0.5


def fraction_of(*parts: str) -> float:
    """A number in [0, 1) that looks random and is the same for the same texts, on every machine."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64


def facts_of(tables: RunTables, arm: ArmRecord, item: Item) -> Facts:
    """Texts and scores of an item.

    Raises:
        InputError: the tables have no such prompt, or were deleted.
    """
    return _pair_facts(tables, arm, item) if item.kind == "pair" else _output_facts(tables, arm, item)


def _pair_facts(tables: RunTables, arm: ArmRecord, item: Item) -> Facts:
    of_pairs = tables.pair_tables(arm.iteration(item.iteration))
    pair = pairs_data.pair_of(tables.engine, of_pairs, item.language, item.prompt_id, item.pair_index)
    alpha = pair["length_penalty_alpha"]

    def score(name: str) -> float | None:
        """None where no reward made the pair."""
        reward = pair[f"{name}_reward"]
        return None if reward is None else float(reward - alpha * pair[f"{name}_characters"])

    sides = [
        Side(name, pair[name], score(name), thought_in(pair, name), pair.get(f"{name}_language") or "")
        for name in ("chosen", "rejected")
    ]
    asked = Conversation(pair["instruction"], history_in(pair))
    english = Conversation(pair["english_instruction"] or "", history_in(pair, "english_"))
    return Facts(asked, english, sides[0], sides[1], pair["margin"])


def _output_facts(tables: RunTables, arm: ArmRecord, item: Item) -> Facts:
    engine, catalogue = tables.engine, tables.catalogue
    sides, asked = [], sources.NO_ENGLISH
    for name, number in (("after", item.iteration), ("before", item.base)):
        iteration = arm.iteration(number or 0)
        found = output_rows.outputs_of(engine, catalogue.artifact(iteration, "outputs"), item.language, item.prompt_id)
        if not found:
            raise InputError(f"Iteration {iteration.number} has no output for this prompt.")
        shown = found[0]  # a policy may have been sampled more than once; a reviewer compares first samples
        judgments = output_rows.judgments_of(
            engine, catalogue.artifact(iteration, "judgments"), item.language, item.prompt_id
        )
        # A preference from one order alone would carry the judge's bias for a position.
        values = [row["preference"] for row in judgments if row["sample_index"] == shown["sample_index"]]
        score = None if not values or None in values else sum(values) / len(values)
        sides.append(Side(name, shown["output"], score, thought_in(shown)))
        asked = Conversation(shown["instruction"], history_in(shown))
    prompts = sources.eval_prompts(catalogue, arm.iteration(item.iteration))
    return Facts(asked, prompts.english.get(item.prompt_id, sources.NO_ENGLISH), sides[0], sides[1], None)


def to_token(secret: Secret, values: dict[str, Any], item: Item) -> str:
    """What the page sends back with a verdict, so that the server need not remember what it showed. Nobody else can read or write it."""
    return secret.seal({**values, "item": asdict(item)})


def from_token(secret: Secret, token: str) -> tuple[dict[str, Any], Item]:
    """The values and the item of a token.

    Raises:
        InputError: `to_token` did not write it.
    """
    values = secret.unseal(token)
    try:
        return values, Item(**values["item"])
    except (KeyError, TypeError) as error:
        raise InputError("The page is out of date; load it again.") from error
