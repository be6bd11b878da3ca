"""Overview: did it get better, in which language, by how much, and against the published numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from markupsafe import Markup

from icr_platform.core.errors import IcrError
from icr_platform.report.figures import learning_curves
from icr_platform.report.iteration_metrics import MEANS, IterationMetrics, Measured, languages_of, measured_of, row_name
from icr_platform.report.leaderboard import published_curve
from icr_platform.tracking.reader import RunRecord, TrackingReader
from ui.html.rendering import language_label, render
from ui.pages.inspector import Content, Focus, Inspector
from ui.tables import regressions_data, sources
from ui.tables.regressions_data import Slice
from ui.tables.runs import Arm, Iteration

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


def show(inspector: Inspector, focus: Focus) -> Content:
    """Answer first, then curves, table and provenance."""
    arm, view = focus
    iterations = [IterationMetrics(t.number, t.run.metrics) for t in arm.iterations]
    codes = arm.languages() + [
        code for code in languages_of(iterations, *(name for name, *_ in COLUMNS)) if code in MEANS
    ]
    if view.language:
        codes = [code for code in codes if code in (view.language, *MEANS)]
    answer, why_not = _answer(inspector, arm, view.language)
    last = arm.iteration(answer.iteration) if answer else None
    is_paper_set = _is_paper_set(arm)
    main = render(
        "overview",
        view=view,
        answer=answer,
        why_not=why_not,
        summary=_summary(answer) if answer else "",
        judge=_judge(inspector, last) if last else "",
        curves=[
            (title, learning_curves(iterations, metric, unit, published_curve(metric) if is_paper_set else {}, codes))
            for metric, title, unit in CURVES
        ],
        columns=COLUMNS,
        rows=_rows(iterations, codes, is_paper_set),
        provenance=_provenance(inspector.catalogue.reader, arm),
        is_paper_set=is_paper_set,
    )
    filters = render("language_filter", view=view, languages=arm.languages())
    return Content(Markup(filters), Markup(main))


def _answer(inspector: Inspector, arm: Arm, language: str) -> tuple[Answer | None, str]:
    """Paired comparison of the last two evaluated iterations; otherwise why there is none."""
    done = [t for t in arm.iterations if "eval" in t.stages and t.stages["eval"].run.status == "FINISHED"]
    if len(done) < 2:
        return None, "Two evaluated iterations are needed to say whether it got better; this run has " + (
            "one." if done else "none."
        )
    base, last = done[-2], done[-1]
    try:
        tables = [
            regressions_data.judged_prompts(inspector.engine, inspector.catalogue.artifact(t, "judgments"))
            for t in (base, last)
        ]
        nothing = inspector.engine.keep("no-sources", sources.EMPTY)
        comparison = regressions_data.Comparison(tables[0], tables[1], nothing, "judge")
        wanted = regressions_data.Filter(language)
        found = regressions_data.slices(inspector.engine, comparison, "language", wanted)
        if len(found) > 1:
            found = [*found, *regressions_data.slices(inspector.engine, comparison, "all", wanted)]
    except IcrError as error:
        return None, str(error)
    return (
        (Answer(base.number, last.number, found), "")
        if found
        else (None, "The two last iterations share no judged prompt.")
    )


def _summary(answer: Answer) -> str:
    """The answer in one sentence."""
    languages = [found for found in answer.slices if found.name != "all"]
    where = {
        verdict: sum(found.verdict == verdict for found in languages)
        for verdict in ("better", "worse", "no clear change")
    }
    told = [f"{verdict} in {n}" for verdict, n in where.items() if n]
    if len(languages) == 1:
        return f"In {language_label(languages[0].name)}: {languages[0].verdict}."
    if len(told) == 1:
        return f"In all {len(languages)} languages: {told[0].rpartition(' in ')[0]}."
    return f"Of {len(languages)} languages: {', '.join(told)}."


def _judge(inspector: Inspector, iteration: Iteration) -> str:
    return regressions_data.judge_of(inspector.engine, inspector.catalogue.artifact(iteration, "judgments"))


def _is_paper_set(arm: Arm) -> bool:
    """Whether published numbers may stand beside: the toy world's are about nothing that a paper measured."""
    stages = [t.stages["eval"].holder for t in arm.iterations if "eval" in t.stages]
    names = [
        arm.run.params.get("iterate.eval_prompts", ""),
        *(stage.params.get("eval.prompts", "") for stage in stages),
    ]
    return not any(name.startswith("demo:") for name in names)


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


@dataclass(frozen=True)
class Origin:
    """One stage run: what made it and where it stands in MLflow."""

    iteration: int
    stage: str
    run: RunRecord
    reused: bool
    digests: Mapping[str, str]
    link: str


def _provenance(reader: TrackingReader, arm: Arm) -> dict[str, object]:
    stages = [
        Origin(
            t.number, name, stage.holder, stage.holder.run_id != stage.run.run_id,
            {**stage.holder.inputs, **{k.removeprefix("icr.digest."): v for k, v in stage.holder.tags.items() if k.startswith("icr.digest.")}},
            reader.ui_link(stage.holder),
        )
        for t in arm.iterations
        for name, stage in t.stages.items()
    ]  # fmt: skip
    version = " ".join(arm.run.tags[key] for key in ("icr.version", "icr.commit") if key in arm.run.tags)
    return {"arm": arm.run, "link": reader.ui_link(arm.run), "version": version, "stages": stages}
