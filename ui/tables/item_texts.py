"""The texts of many judged items, found part by part: never a query for each item, and never all texts at once.

The items stand in a table of the engine with the columns number, kind, iteration, base, language, prompt_id and pair_index.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from icr_platform.core.artifacts import Artifact
from icr_platform.core.conversations import Conversation
from icr_platform.core.errors import InputError
from ui.tables import sources
from ui.tables.queries import QueryEngine, ResultRow, parts_of
from ui.tables.runs import ArmRecord, Catalogue

BATCH = 1000
"""Items whose texts are held at once."""
_PARTS = 64  # parts asked at once: each costs a few milliseconds to open, and a thousand of them are a second


@dataclass(frozen=True)
class ItemTexts:
    """An item with its texts; `first` is the side that the run prefers (chosen) or that came later (after).

    first_index, second_index: which samples of the prompt the two are.
    """

    number: int
    asked: Conversation
    english: Conversation
    first: str
    second: str
    first_index: int
    second_index: int


class Place(NamedTuple):
    """Where items lie: all pairs of an iteration, or all outputs of `iteration` beside those of `base`."""

    kind: str
    iteration: int
    base: int | None


@dataclass
class Search:
    """Looks for the texts of the items of a table. items: its name."""

    engine: QueryEngine
    catalogue: Catalogue
    items: str

    def texts(self, arm: ArmRecord, place: Place, faults: list[str]) -> Iterator[list[ItemTexts]]:
        """Texts of the items of one place in batches, those that lie together first. Items that are not there are left out.

        faults: what is gone or damaged of what would have to be read is put here.

        Raises:
            IcrError: the store does not answer.
        """
        try:
            yield from self._pairs(arm, place, faults) if place.kind == "pair" else self._outputs(arm, place, faults)
        except InputError as error:  # the iteration, its artifact or a file of it is gone
            faults.append(str(error))

    def _pairs(self, arm: ArmRecord, place: Place, faults: list[str]) -> Iterator[list[ItemTexts]]:
        pairs = self.catalogue.sound_parts(arm.iteration(place.iteration), "preferences", faults)
        wanted = (
            f"(SELECT number, language, prompt_id, pair_index FROM {self.items} WHERE kind = 'pair' AND iteration = ?)"
        )
        on = "p.language = w.language AND p.prompt_id = w.prompt_id AND coalesce(p.pair_index, 0) = w.pair_index"
        paths = parts_of(pairs)
        for start in range(0, len(paths), _PARTS):
            some = paths[start : start + _PARTS]
            # Keys first: where few items are wanted, few parts are read whole.
            sql = f"SELECT DISTINCT filename FROM {_pairs_in('filename=true')} AS p JOIN {wanted} AS w ON {on}"
            holding = [row["filename"] for row in self.engine.select(sql, [some, place.iteration], seconds=120.0)]
            if not holding:
                continue
            sql = f"""SELECT w.number, p.instruction, p.english_instruction, p.messages, p.english_messages, p.chosen AS first, p.rejected AS second,
                             p.chosen_index AS first_index, p.rejected_index AS second_index
                      FROM {_pairs_in()} AS p JOIN {wanted} AS w ON {on} ORDER BY w.number"""
            for rows in self.engine.stream(sql, [sorted(holding), place.iteration], BATCH):
                yield [_item_texts(row, _english(row)) for row in rows]

    def _outputs(self, arm: ArmRecord, place: Place, faults: list[str]) -> Iterator[list[ItemTexts]]:
        iteration = arm.iteration(place.iteration)
        after = self.catalogue.sound_parts(iteration, "outputs", faults)
        before = self.catalogue.sound_parts(arm.iteration(place.base or 0), "outputs", faults)
        english = sources.eval_prompts(self.catalogue, iteration).english
        sql = f"SELECT number FROM {self.items} WHERE kind = ? AND iteration = ? AND base IS NOT DISTINCT FROM ? ORDER BY number"
        for rows in self.engine.stream(sql, list(place), BATCH):
            numbers = [row["number"] for row in rows]
            second = {row["number"]: row for row in self._first_samples(before, numbers)}
            both = [row for row in self._first_samples(after, numbers) if row["number"] in second]
            if both:
                yield [
                    _item_texts(
                        {
                            **row,
                            "second": second[row["number"]]["first"],
                            "second_index": second[row["number"]]["first_index"],
                        },
                        english.get(row["prompt_id"], sources.NO_ENGLISH),
                    )
                    for row in both
                ]

    def _first_samples(self, outputs: Artifact, numbers: list[int]) -> list[ResultRow]:
        """A policy may have been sampled more than once; a reviewer compares first samples."""
        if not outputs.parts:
            return []
        sql = f"""SELECT w.number, o.prompt_id, o.instruction, o.messages, o.output AS first, o.sample_index AS first_index
                  FROM (SELECT * FROM read_parquet(?) UNION ALL BY NAME SELECT NULL::VARCHAR AS messages WHERE false) AS o
                  JOIN (SELECT * FROM {self.items} WHERE number BETWEEN ? AND ?) AS w USING (language, prompt_id)
                  WHERE w.number IN (SELECT unnest(?))
                  QUALIFY row_number() OVER (PARTITION BY w.number ORDER BY o.sample_index) = 1 ORDER BY w.number"""
        return self.engine.select(sql, [parts_of(outputs), numbers[0], numbers[-1], numbers], seconds=120.0)


def missing(place: Place, faults: list[str]) -> str:
    """Why items of a place that were not found have no texts, in words that follow a number of items."""
    what = (
        f"pairs of iteration {place.iteration}"
        if place.kind == "pair"
        else f"outputs of iterations {place.base} and {place.iteration}"
    )
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        return f"{what} that cannot be read: {faults[0]}{more}"
    return f"{what} that the run does not have any more"


def _pairs_in(options: str = "") -> str:
    """SQL of pairs; tables of earlier versions have no conversations and no numbered pairs."""
    later = "NULL::VARCHAR AS messages, NULL::VARCHAR AS english_messages, NULL::INTEGER AS pair_index"
    return f"(SELECT * FROM read_parquet(?{f', {options}' if options else ''}) UNION ALL BY NAME SELECT {later} WHERE false)"


def _english(row: ResultRow) -> Conversation:
    return Conversation.of(row["english_instruction"] or "", row["english_messages"])


def _item_texts(row: ResultRow, english: Conversation) -> ItemTexts:
    asked = Conversation.of(row["instruction"], row["messages"])
    return ItemTexts(
        row["number"], asked, english, row["first"], row["second"], row["first_index"], row["second_index"]
    )
