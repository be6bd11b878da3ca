"""What two policies wrote for one prompt, side by side: texts with their marks, and what was said of each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from icr_platform.core.artifacts import Artifact
from icr_platform.core.conversations import Conversation
from icr_platform.core.errors import InputError
from icr_platform.report.numbers import signed
from ui.html.charts import interval_bar
from ui.html.line_marks import MarkedText, marked
from ui.html.word_diff import Diff, word_diff
from ui.pages.inspector import Inspector
from ui.tables import output_rows
from ui.tables.conversations import history_in
from ui.tables.pairs_data import pair_of
from ui.tables.prompt_changes import OUTCOMES, Slice
from ui.tables.queries import ResultRow
from ui.tables.runs import IterationRecord
from ui.tables.sources import ReferenceText
from ui.tables.thoughts import Thought, thought_in


class Measure(NamedTuple):
    """What can be compared, and how pages name it.

    stage: which gives it, '' where any outputs do. named: the number, in a sentence. over: what prompts are, as in 'no judged prompt'.
    outcomes: what a prompt is called whose value is above, about or below one half; between: what the one between is.
    """

    title: str
    stage: str
    named: str
    over: str
    outcomes: tuple[str, ...] = OUTCOMES
    between: str = "A tie is a mean preference over both orders between 0.45 and 0.55."


_IN_PART = "In part: in about half of the outputs, where a prompt has several."
MEASURES = {
    "judge": Measure("judge", "eval", "win rate", "judged"),
    "reward": Measure("reward", "annotate", "mean reward", "scored"),
    "instructions": Measure(
        "instructions followed", "instructions", "all instructions followed", "verified",
        ("followed", "in part", "not followed"), _IN_PART,
    ),
    "lines": Measure(
        "lines in the language", "eval", "all lines in the language", "identified", ("pure", "in part", "confused"), _IN_PART,
    ),
    "length": Measure("length", "", "mean length", "answered"),
}  # fmt: skip


def digits_of(measure: str) -> int:
    """Decimals of a mean: percentages have one."""
    return {"reward": 2, "length": 0}.get(measure, 1)


def unit_of(measure: str) -> str:
    """Unit of a difference."""
    return {"reward": "", "length": " characters"}.get(measure, " points")


def drawn(slices: list[Slice], shown: list[Slice]) -> list[tuple[Slice, Markup]]:
    """Each slice with its interval drawn, all on the scale of the widest one shown."""
    reach = max((abs(end) for s in shown for end in s.ends), default=1.0) or 1.0
    return [(s, interval_bar(*s.ends, s.change, (-reach, reach), f"change {signed(s.change)}")) for s in slices]


class Output(NamedTuple):
    """One text of a side for a prompt, with what the judge, the reward or the checkers of instructions said of it.

    facts: character_count, finish_reason, detected_language. checks: instruction_id, kwargs, strict, loose (None where unverified), reason.
    """

    text: str
    facts: ResultRow
    judgments: list[ResultRow]
    reward: float | None
    thought: Thought | None
    checks: list[ResultRow]


class SampleRow(NamedTuple):
    """The n-th output of both sides, their diff, the lines of each side and, where the judge had one, the reference output."""

    before: Output | None
    after: Output | None
    diff: Diff
    lines: tuple[MarkedText, MarkedText]
    reference: ReferenceText | None


class Answered(NamedTuple):
    """What was asked, and the outputs by sample."""

    asked: Conversation
    by_sample: dict[int, Output]


def outputs_for(
    inspector: Inspector,
    language: str,
    prompt_id: str,
    outputs: Artifact,
    judgments: Artifact | None = None,
    checks: Artifact | None = None,
) -> Answered | None:
    """One run's outputs for a prompt with its judgments or checks, where they are given; None where it has no output."""
    engine = inspector.engine
    found = output_rows.outputs_of(engine, outputs, language, prompt_id)
    if not found:
        return None
    judged = _by_sample(output_rows.judgments_of(engine, judgments, language, prompt_id) if judgments else ())
    checked = _by_sample(output_rows.checks_of(engine, checks, language, prompt_id) if checks else ())
    by_sample = {
        index: Output(row["output"], row, judged.get(index, []), None, thought_in(row), checked.get(index, []))
        for row in found
        for index in [row["sample_index"]]
    }
    return Answered(Conversation(found[0]["instruction"], history_in(found[0])), by_sample)


def _by_sample(rows: Sequence[ResultRow]) -> dict[int, list[ResultRow]]:
    found: dict[int, list[ResultRow]] = defaultdict(list)
    for row in rows:
        found[row["sample_index"]].append(row)
    return found


def sample_row(
    inspector: Inspector,
    language: str,
    before: Output | None,
    after: Output | None,
    reference: ReferenceText | None = None,
) -> SampleRow:
    """Two outputs with their differences, and the lines in another language, marked."""
    texts = [output.text if output else "" for output in (before, after)]
    diff = word_diff(*texts)
    foreign = [dict(inspector.marker(text, language)) for text in texts]
    # The later side is marked as what is chosen is on Pairs: solid, where the earlier one has dots.
    before_text = marked(texts[0], foreign[0], diff.left if before and after else (), "rejected")
    after_text = marked(texts[1], foreign[1], diff.right if before and after else (), "chosen")
    return SampleRow(before, after, diff, (before_text, after_text), reference)


def best_sample(
    inspector: Inspector, iteration: IterationRecord, language: str, prompt_id: str
) -> tuple[Conversation, Conversation, Output]:
    """What was asked, its English, and the sample that was chosen from those of a training prompt.

    Raises:
        InputError: there is no pair of this prompt.
    """
    try:
        pair = pair_of(inspector.engine, inspector.pair_tables(iteration), language, prompt_id)
    except InputError as error:
        raise InputError(
            f"Iteration {iteration.number} gave no pair for this prompt, so there is no best sample to show."
        ) from error
    # What is true of every chosen sample: others are dropped before pairs are made.
    facts = {
        "character_count": pair["chosen_characters"],
        "finish_reason": "stop",
        "detected_language": pair.get("chosen_language") or language,
    }
    output = Output(pair["chosen"], facts, [], pair["chosen_reward"], thought_in(pair, "chosen"), [])
    asked = Conversation(pair["instruction"], history_in(pair))
    return asked, Conversation(pair["english_instruction"] or "", history_in(pair, "english_")), output
