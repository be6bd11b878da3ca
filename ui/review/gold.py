"""Gold pairs of a review link: read from a file of labelled pairs, or made from responses of the run by spoiling them."""

from __future__ import annotations

from collections.abc import Iterator

from icr_platform.core.errors import InputError
from ui.review.items import facts_of
from ui.review.links import MOST_GOLD, GoldPair
from ui.review.queues import Assignment, ordered
from ui.tables.run_tables import RunTables
from ui.tables.runs import ArmRecord
from ui.tables.spoilt import labelled, spoilt

_TRIED = 6  # responses looked at for each pair wanted: some cannot be spoilt so that everyone sees it


def gold_from_file(path: str, language: str) -> tuple[GoldPair, ...]:
    """All decided pairs of a file in a language.

    Raises:
        InputError: it cannot be read, has no pair in the language on which one side is better, or has more than MOST_GOLD.
    """
    found = tuple(
        GoldPair(
            language, pair.prompt_id, pair.asked.instruction, pair.chosen.text, pair.rejected.text,
            pair.english.instruction if pair.english else "", pair.asked.history, pair.english.history if pair.english else (),
        )
        for pair in labelled(path, language)
    )  # fmt: skip
    if not found:
        raise InputError(f"{path}: every pair is a tie; gold pairs need a side that is certainly better")
    if len(found) > MOST_GOLD:
        raise InputError(f"{path}: contains {len(found):,} pairs; give at most {MOST_GOLD} gold pairs")
    return found


def gold_from_run(tables: RunTables, arm: ArmRecord, work: Assignment, count: int) -> tuple[GoldPair, ...]:
    """Pairs of a response of the run and the same response spoilt: it says one thing again and again, or answers another prompt.

    They are made from the end of the queue, which a batch reaches last. Their prompts are left out of the batch.

    Raises:
        InputError: too few responses of the run can be spoilt.
    """
    order = ordered(tables, arm, work)
    start = max(order.total - _TRIED * count, 0)
    items = list(reversed(order.items(start, _TRIED * count)))
    by_prompt = {item.prompt_id: facts_of(tables, arm, item) for item in items if not item.pair_index}
    texts = [(prompt_id, facts.asked.instruction, facts.first.text) for prompt_id, facts in by_prompt.items()]

    def made() -> Iterator[GoldPair]:
        for prompt_id, text, worse, how in spoilt(work.language, texts):
            facts = by_prompt[prompt_id]
            yield GoldPair(
                work.language, prompt_id, facts.asked.instruction, text, worse, facts.english.instruction, facts.asked.history,
                facts.english.history, how,
            )  # fmt: skip

    found = tuple(pair for pair, _ in zip(made(), range(count), strict=False))
    if len(found) < count:
        raise InputError(
            f"Gold pairs are made by spoiling responses of the run, and only {len(found)} of the {count} asked for can be made here; ask for "
            "fewer, or give a file of labelled pairs."
        )
    return found
