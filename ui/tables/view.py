"""What a page shows, exactly as its URL says. A page has no other state, so every link opens the same view again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple
from urllib.parse import urlencode

from ui.tables.prompt_changes import LENGTHS, RELATIVE_LENGTHS

LONGEST_TEXT = 8000
SORTS = {
    "": "as written",
    "margin": "margin",
    "chosen_reward": "chosen reward",
    "rejected_reward": "rejected reward",
    "chosen_characters": "chosen length",
    "rejected_characters": "rejected length",
    "language": "language",
    "prompt_id": "prompt id",
}
CHOICES: dict[str, tuple[str, ...]] = {
    "sort": tuple(SORTS),
    "order": ("", "asc", "desc"),
    "measure": ("", "judge", "reward", "instructions", "lines", "length"),
    "flow": ("", "flips", *(f"{a}-{b}" for a in ("win", "tie", "loss") for b in ("win", "tie", "loss"))),
    "queue": ("", "random", "smallest-margin", "largest-margin", "regressions", "disagree"),
    "open": ("", "1"),
    "rank": ("", "flips", "worse", "better", "largest"),
    "length": ("", *LENGTHS),
    "relative": ("", *RELATIVE_LENGTHS),
    "between": ("", "reviewers", "reward", "judge"),
    "settled": ("", "open", "settled"),
    "votes": ("", "all"),
}


@dataclass(frozen=True)
class View:
    """A page's query string. Empty text and None mean 'not asked for'."""

    experiment: str = ""
    run: str = ""
    iteration: int | None = None
    language: str = ""
    id: str = ""
    id_language: str = ""
    """Language of the prompt `id`; `language` is the list's filter."""
    pair: int | None = None
    """Which pair of the prompt `id`, where it has several; its first one without it."""
    margin_min: float | None = None
    margin_max: float | None = None
    length_min: int | None = None
    """Characters of the chosen or the rejected response."""
    length_max: int | None = None
    sample_length_min: int | None = None
    """Characters of any sample of the prompt, together with its reward; how a cell of Margins opens its pairs."""
    sample_length_max: int | None = None
    sample_reward_min: float | None = None
    sample_reward_max: float | None = None
    dropped: str = ""
    """Reason for which a sample of the prompt, or the prompt, was dropped; '*' is any."""
    q: str = ""
    sort: str = ""
    order: str = ""
    start: int = 0
    """Rows to skip, the page's first row."""
    base: int | None = None
    """Regressions: the iteration to compare with."""
    base_run: str = ""
    """Regressions: the run of that iteration; '' is the same run."""
    left: str = ""
    """Compare: the side A, see ui.tables.compared_sides."""
    left_at: int | None = None
    """Compare: its iteration."""
    right: str = ""
    """Compare: the side B."""
    right_at: int | None = None
    measure: str = ""
    """Regressions, Compare: compare by the judge's preference, the reward and so on."""
    flow: str = ""
    """Regressions, Compare: outcome before and after, such as 'win-loss', or 'flips' for all that changed."""
    source: str = ""
    """Regressions, Compare: data set of the prompt."""
    length: str = ""
    """Compare: how long the answers are."""
    relative: str = ""
    """Compare: the length of B's answer beside A's."""
    kind: str = ""
    """Compare: kind of instruction that the prompt has."""
    rank: str = ""
    """Regressions, Compare: which changes come first."""
    queue: str = ""
    """Spot-check: what comes next, see ui.review.queues.QUEUES; '' is random."""
    overlap: int | None = None
    """Spot-check: percent of items that every reviewer gets."""
    open: str = ""
    """Spot-check: '1' shows which side is which."""
    item: str = ""
    """Disagreements: the item that is shown, see ui.review.items."""
    between: str = ""
    """Disagreements: whom people differ with: each other ('reviewers'), the 'reward' or the 'judge'; '' is any of these."""
    reviewer: int | None = None
    """Disagreements: number of a reviewer who judged the item, in the order of first verdicts on the run, from 1: no name is in an address."""
    settled: str = ""
    """Disagreements: only what a lead has, or has not, adjudicated."""
    votes: str = ""
    """Agreement, Disagreements: 'all' counts imported votes with those given in the inspector."""
    leave_out: str = ""
    """Agreement, Disagreements: reviewers who are left out of every figure, see ui.review.reviewers.left_out_in."""

    def query(self, **changes: Any) -> str:
        """The query string of this view with some fields changed, '' when nothing is asked for."""
        view = replace(self, **changes)
        kept = {
            name: f"{value:.10g}" if isinstance(value, float) else str(value)
            for name, value in vars(view).items()
            if value not in ("", None) and (name, value) != ("start", 0)
        }
        return "?" + urlencode(kept) if kept else ""

    def link(self, page: str, **changes: Any) -> str:
        """Address of `page` ('' is Overview) with this view, some fields changed."""
        return f"/{page}{self.query(**changes)}"

    def without_filters(self, **changes: Any) -> View:
        """The same run, iteration, language and reviewers who are left out, nothing else."""
        kept = View(self.experiment, self.run, self.iteration, self.language, leave_out=self.leave_out)
        return replace(kept, **changes)

    def carried_on(self, shown: set[str]) -> list[tuple[str, str]]:
        """Fields that a form which shows some of them must carry on unseen; a place in a list begins anew."""
        return [
            (name, str(value))
            for name, value in vars(self).items()
            if name not in shown | {"id", "id_language", "pair", "start", "item"} and value not in ("", None)
        ]


class Parsed(NamedTuple):
    """A view, and a sentence for each parameter that made no sense and was left out."""

    view: View
    problems: tuple[str, ...]


def parse_view(params: Mapping[str, str]) -> Parsed:
    """The view a URL asks for. Nonsense is left out and named, never raised.

    >>> parse_view({"iteration": "two", "language": "es"}).problems
    ("The address says iteration='two', which is not a whole number from 0; it was left out.",)
    """
    values: dict[str, Any] = {}
    problems = []
    for field in fields(View):
        # No database takes NUL, and no id or language contains it.
        text = params.get(field.name, "").replace("\x00", "")
        if text == "":
            continue
        value, wrong = _read(field.name, str(field.type), text)
        if wrong:
            problems.append(f"The address says {field.name}={text[:60]!r}, which is {wrong}; it was left out.")
        else:
            values[field.name] = value
    return Parsed(View(**values), tuple(problems))


def _read(name: str, kind: str, text: str) -> tuple[Any, str]:
    """The value of a field of type `kind`, or what is wrong with the text."""
    if kind.startswith("int"):
        # Nine digits fit into 32 bits; isdigit alone would let other scripts' digits pass.
        is_fine = text.isascii() and text.isdigit() and len(text) < 10
        return (int(text), "") if is_fine else (None, "not a whole number from 0")
    if kind.startswith("float"):
        try:
            value = float(text)
        except ValueError:
            return None, "not a number"
        return (value, "") if math.isfinite(value) else (None, "not a finite number")
    if name in CHOICES and text not in CHOICES[name]:
        return None, "none of " + ", ".join(choice for choice in CHOICES[name] if choice)
    return (None, f"longer than {LONGEST_TEXT} characters") if len(text) > LONGEST_TEXT else (text, "")
