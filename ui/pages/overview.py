"""Overview: did it get better, in which languages and by how much, and how does it compare with the published numbers?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from markupsafe import Markup

from icr_platform.core.errors import IcrError, InputError
from icr_platform.core.parts import Worlds, split_world
from icr_platform.report.cost_table import cost_rows
from icr_platform.report.evidence import Evidence, Group, evidence_of
from icr_platform.report.figures import LearningCurve, evidence_curves, learning_curves
from icr_platform.report.iteration_metrics import MEANS, IterationMetrics, Measured, languages_of, measured_of, row_name
from icr_platform.report.leaderboard import published_curve
from icr_platform.tracking.reader import RunRecord, TrackingReader
from ui.html.rendering import language_label, render
from ui.pages.inspector import Content, Focus, Inspector
from ui.tables import output_rows, prompt_changes, sources, value_tables
from ui.tables.prompt_changes import CONCLUSIONS, Comparison, Filter, Slice
from ui.tables.runs import ArmRecord

CURVES = (("win_rate", "Win rate", "%"), ("lc_win_rate", "Length-controlled win rate", "%"))
COLUMNS = (
    ("win_rate", "Win rate", 1),
    ("lc_win_rate", "LC win rate", 1),
    ("fidelity", "Fidelity", 1),
    ("margin/median", "Margin", 2),
    ("length/characters", "Length", 0),
)
_RATES = ("win_rate", "lc_win_rate", "fidelity")


class Figure(NamedTuple):
    """What stands in one cell of the table: what was measured, and what the paper published."""

    measured: Measured
    published: float | None
    digits: int
    is_rate: bool
    """Whether more is better, as it is not of lengths and margins."""


class LanguageRow(NamedTuple):
    """One language at one iteration. prompts: how many the judge compared."""

    code: str
    name: str
    iteration: int
    figures: Sequence[Figure]
    prompts: float | None


@dataclass(frozen=True)
class Answer:
    """Whether the last iteration is better than the one before, on the same prompts."""

    base: int
    iteration: int
    slices: Sequence[Slice]
    summary: str
    judge: str


def show(inspector: Inspector, focus: Focus) -> Content:
    """Answer first, then curves, table and provenance."""
    arm, view = focus.arm, focus.view
    iterations = [IterationMetrics(t.number, t.run.metrics) for t in arm.iterations]
    means = [code for code in languages_of(iterations, *(metric for metric, *_ in COLUMNS)) if code in MEANS]
    codes = arm.languages() + means
    if view.language:
        codes = [code for code in codes if code in (view.language, *MEANS)]
    answer, why_not = None, ""
    try:
        answer = _answer(inspector, arm, view.language)
    except IcrError as error:  # curves and table come from metrics, and are shown without it
        why_not = str(error)
    is_paper_set = _is_paper_set(inspector.catalogue.worlds, arm)
    main = render(
        "overview",
        view=view,
        answer=answer,
        why_not=why_not,
        curves=[
            (title, learning_curves(iterations, metric, unit, published_curve(metric) if is_paper_set else {}, codes))
            for metric, title, unit in CURVES
        ],
        columns=COLUMNS,
        rows=_rows(iterations, codes, is_paper_set),
        is_paper_set=is_paper_set,
        evidence=_evidence(iterations, view.language),
        arm_iterations=[t.iteration for t in iterations],
        costs=cost_rows(iterations),
        devices=arm.run.tags.get("icr.devices", ""),
        stopped=arm.run.tags.get("icr.stopped", ""),
        run=arm.run,
        run_link=inspector.catalogue.reader.ui_link(arm.run),
        version=" ".join(arm.run.tags[key] for key in ("icr.version", "icr.commit") if key in arm.run.tags),
        origins=_origins(inspector.catalogue.reader, arm),
    )
    filters = render("language_filter", view=view, languages=arm.languages())
    return Content(Markup(filters), Markup(main))


def _answer(inspector: Inspector, arm: ArmRecord, language: str) -> Answer:
    """Paired comparison of the last two evaluated iterations; raises InputError with the reason why there is none."""
    done = [t for t in arm.iterations if t.has_finished("eval")]
    if len(done) < 2:
        has = "one" if done else "none"
        raise InputError(f"It takes two evaluated iterations to say whether it got better; this run has {has}.")
    base, last = done[-2:]
    engine = inspector.engine
    judgments = [inspector.catalogue.artifact(t, "judgments") for t in (base, last)]
    before, after = (value_tables.judged_prompts(engine, artifact) for artifact in judgments)
    # Data sets are of no interest here, and reading the evaluation prompts would make the first page wait.
    comparison = Comparison(before, after, engine.keep("no-sources", sources.EMPTY), "judge")
    slices = prompt_changes.slices(engine, comparison, "language", Filter(language))
    if not slices:
        raise InputError("The last two iterations have no judged prompt in common.")
    counts = Counter(found.conclusion for found in slices)
    told = [f"{conclusion} in {counts[conclusion]}" for conclusion in CONCLUSIONS if counts[conclusion]]
    if len(slices) == 1:
        summary = f"In {language_label(slices[0].name)}: {slices[0].conclusion}."
    elif len(told) == 1:
        summary = f"In all {len(slices)} languages: {slices[0].conclusion}."
    else:
        summary = f"Of {len(slices)} languages: {', '.join(told)}."
    if len(slices) > 1:  # of one language alone it would say the same twice
        slices = [*slices, *prompt_changes.slices(engine, comparison, "all", Filter(language))]
    return Answer(base.number, last.number, slices, summary, output_rows.judge_of(engine, judgments[1]))


def _is_paper_set(worlds: Worlds, arm: ArmRecord) -> bool:
    """Whether published numbers compare with this arm's: they say nothing about the prompts of a made-up world."""
    stages = [t.stages["eval"].holder for t in arm.iterations if "eval" in t.stages]
    names = [
        arm.run.params.get("iterate.eval_prompts", ""),
        *(stage.params.get("eval.prompts", "") for stage in stages),
    ]
    return not any(split_world(name, worlds) for name in names)


def _rows(iterations: Sequence[IterationMetrics], codes: Sequence[str], is_paper_set: bool) -> list[LanguageRow]:
    theirs = {metric: published_curve(metric) if is_paper_set else {} for metric, *_ in COLUMNS}
    rows = []
    for code in codes:
        columns = [measured_of(iterations, metric, code) for metric, *_ in COLUMNS]
        for place, t in enumerate(iterations):
            figures = [
                Figure(column[place], theirs[metric].get((t.iteration, code)), digits, metric in _RATES)
                for column, (metric, _, digits) in zip(columns, COLUMNS, strict=True)
            ]
            rows.append(LanguageRow(code, row_name(code), t.iteration, figures, t.metrics.get(f"win_rate_n/{code}")))
    return rows


def _evidence(
    iterations: Sequence[IterationMetrics], language: str
) -> list[tuple[Group, list[tuple[Evidence, list[LearningCurve]]]]]:
    """What was seen without a judge, of one language with the means, or of all: tables, and the charts of the main kinds."""
    groups = []
    for group, found in evidence_of(iterations):
        of_language = [
            Evidence(one.kind, [row for row in one.rows if not language or row.language in (language, *MEANS)])
            for one in found
        ]
        shown = [one for one in of_language if one.rows]
        codes = list(dict.fromkeys(row.language for one in shown for row in one.rows))
        groups.append((group, [(one, evidence_curves(iterations, one, codes)) for one in shown]))
    return groups


class Origin(NamedTuple):
    """One stage run: what made it and where it stands in MLflow. digests: of what it read and of what it made, by name."""

    iteration: int
    stage: str
    run: RunRecord
    reused: bool
    digests: Mapping[str, str]
    link: str


def _origins(reader: TrackingReader, arm: ArmRecord) -> list[Origin]:
    """Where every stage's results come from, which is an earlier run where work was reused."""
    origins = []
    for t in arm.iterations:
        for name, stage in t.stages.items():
            run = stage.holder
            made = {key.removeprefix("icr.digest."): v for key, v in run.tags.items() if key.startswith("icr.digest.")}
            reused = run.run_id != stage.run.run_id
            origins.append(Origin(t.number, name, run, reused, {**run.inputs, **made}, reader.ui_link(run)))
    return origins
