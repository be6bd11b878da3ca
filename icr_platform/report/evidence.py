"""What was seen of an arm's policies without a judge: whether the reward is right, whether lines and words are in the language of
the prompt, and whether instructions are followed.

Metrics are named `METRIC/VARIANT/LANG`, or `METRIC/LANG` where a metric has no variants; the ends of a 95% interval are
`METRIC_low/...` and `METRIC_high/...`, and a paired difference from the iteration before is `METRIC_change/...` with ends of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from icr_platform.core.language_tags import english_first
from icr_platform.core.languages import is_language
from icr_platform.report.iteration_metrics import MEANS, IterationMetrics, interval_of


class Kind(NamedTuple):
    """A metric with a table of its own.

    about: a sentence or two. named: what its variants are called; '' where it has none. is_main: whether it has a chart in the report
    and a place on the terminal, which has little room.
    """

    metric: str
    title: str
    about: str
    named: str = ""
    is_main: bool = False


class Group(NamedTuple):
    """Kinds that answer one question."""

    title: str
    kinds: tuple[Kind, ...]


LENGTH = "length"
"""The variant that knows only which text is longer: a reward that is not above it has learnt nothing else."""
GROUPS = (
    Group("Is the reward right?", (
        Kind(
            "reward_accuracy", "On labelled pairs",
            "Percent of the given pairs whose better response has the higher reward of this policy; a tie counts half. The row `length` is "
            "what taking the longer response would give.",
            "Reward", is_main=True,
        ),
        Kind(
            "own_reward_accuracy", "On the samples that it trained on",
            "Of the pairs of a right and a wrong sample of one prompt, percent that the reward ranks right: the figure that predicts what "
            "the iteration does. The samples are those of the policy before.",
            "Reward", is_main=True,
        ),
        Kind(
            "own_reward_accuracy_raw", "On the same samples, before length control",
            "The same, of the reward before anything is taken off for length.",
            "Reward",
        ),
        Kind(
            "selected_accuracy", "Of the pairs that it trained on",
            "Percent of the selected pairs whose chosen sample is the right one, of those with one right sample.",
        ),
        Kind(
            "own_reward_auc", "Within a prompt, after length control",
            "Area under the curve, in percent: how often a right sample has a higher reward than a wrong one of the same prompt.",
            "Reward",
        ),
        Kind(
            "own_reward_auc_raw", "Within a prompt, before length control",
            "The same area, of the reward before anything is taken off for length.",
            "Reward",
        ),
    )),
    Group("Are instructions followed?", (
        Kind(
            "instruction_accuracy", "Instructions",
            "Percent of the verifiable instructions that the outputs follow. Loose: also without their first or last line, or without "
            "asterisks. What cannot be verified in a language is left out.",
            "Reading", is_main=True,
        ),
        Kind(
            "prompt_accuracy", "Prompts",
            "Percent of the prompts of which all instructions are followed.",
            "Reading",
        ),
        Kind("unverified", "Unverified", "Percent of the instructions that cannot be verified in the language."),
    )),
    Group("Is the language right?", (
        Kind(
            "line_pass_rate", "Lines",
            "Percent of the outputs without a line in another language, of those with lines that are long enough to tell "
            "(arXiv 2406.20052).",
            is_main=True,
        ),
        Kind(
            "word_pass_rate", "Words",
            "Percent of the outputs without an English word, of those whose lines pass, in languages that other letters are written in.",
            is_main=True,
        ),
    )),
)  # fmt: skip


class Seen(NamedTuple):
    """One figure at one iteration. interval, change_interval: 95%; None where none was measured.

    change: from the iteration before; paired where it was compared output by output, else the plain difference.
    """

    value: float | None
    interval: tuple[float, float] | None = None
    change: float | None = None
    change_interval: tuple[float, float] | None = None

    @property
    def is_clear(self) -> bool:
        """Whether the change is more than chance explains: its interval leaves out 0."""
        return self.change_interval is not None and not self.change_interval[0] <= 0 <= self.change_interval[1]


class Row(NamedTuple):
    """One language, or a mean over several, of one variant; a figure for each iteration."""

    language: str
    variant: str
    figures: Sequence[Seen]


class Evidence(NamedTuple):
    """All figures of one kind."""

    kind: Kind
    rows: Sequence[Row]

    @property
    def variants(self) -> list[str]:
        """In the order of the rows: by name, the baseline last."""
        return list(dict.fromkeys(sorted((row.variant for row in self.rows), key=_variant_place)))


def evidence_of(iterations: Sequence[IterationMetrics]) -> list[tuple[Group, list[Evidence]]]:
    """The tables of each group, of what was measured: English first, means last, and of a language the length baseline last."""
    groups = [
        (group, [found for kind in group.kinds if (found := _evidence(iterations, kind)).rows]) for group in GROUPS
    ]
    return [(group, found) for group, found in groups if found]


def _evidence(iterations: Sequence[IterationMetrics], kind: Kind) -> Evidence:
    names = {name for iteration in iterations for name in iteration.metrics if name.startswith(f"{kind.metric}/")}
    measured = {name.removeprefix(f"{kind.metric}/") for name in names}
    rows = sorted((rest for rest in measured if _is_row(kind, rest)), key=_place(measured))
    return Evidence(
        kind, [Row(rest.rpartition("/")[2], rest.rpartition("/")[0], _figures(iterations, kind, rest)) for rest in rows]
    )


def is_evidence(name: str) -> bool:
    """Whether a metric stands in one of these tables, as a figure or as the end of an interval, or is the p-value of one.

    >>> is_evidence("reward_accuracy/cross-lingual/es"), is_evidence("line_pass_rate_low/es"), is_evidence("margin/median/es")
    (True, True, False)
    >>> is_evidence("line_pass_rate_change_p/es"), is_evidence("prompt_accuracy_change_since_0_high/strict/es")
    (True, True)
    """
    metric = name.partition("/")[0]
    for ending in ("_low", "_high", "_p", "_since_0", "_change"):
        metric = metric.removesuffix(ending)
    return any(metric == kind.metric for group in GROUPS for kind in group.kinds)


def _is_row(kind: Kind, rest: str) -> bool:
    variant, _, language = rest.rpartition("/")
    return bool(variant) == bool(kind.named) and (language in MEANS or is_language(language))


def _place(measured: set[str]) -> Callable[[str], tuple[int, tuple[bool, bool, str]]]:
    """Order of rows: languages as everywhere else, then kinds by name with the baseline last."""
    languages = {rest.rpartition("/")[2] for rest in measured}
    codes = [*english_first(filter(is_language, languages)), *MEANS]

    def place(rest: str) -> tuple[int, tuple[bool, bool, str]]:
        variant, _, language = rest.rpartition("/")
        return codes.index(language), _variant_place(variant)

    return place


def _variant_place(variant: str) -> tuple[bool, bool, str]:
    return variant == LENGTH, variant == "loose", variant


def _figures(iterations: Sequence[IterationMetrics], kind: Kind, rest: str) -> list[Seen]:
    variant, slash, code = rest.rpartition("/")
    prefix, changed = f"{kind.metric}{slash}{variant}", f"{kind.metric}_change{slash}{variant}"
    figures: list[Seen] = []
    before: float | None = None
    for metrics in (iteration.metrics for iteration in iterations):
        value = metrics.get(f"{prefix}/{code}")
        plain = value - before if value is not None and before is not None else None
        change = metrics.get(f"{changed}/{code}", plain)
        figures.append(Seen(value, interval_of(metrics, prefix, code), change, interval_of(metrics, changed, code)))
        before = value
    return figures
