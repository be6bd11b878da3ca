"""Overview: did it get better, in which language, by how much, and against the published numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from icr_platform.core.errors import IcrError
from icr_platform.core.parts import Worlds, split_world
from icr_platform.report.leaderboard import published
from icr_platform.tracking.tracker import RunRecord, TrackingReader
from ui.html.charts import Point, learning_curve
from ui.html.rendering import language_label, render
from ui.review.inspector import Content, Focus, Inspector
from ui.tables import regressions_data, sources
from ui.tables.regressions_data import Slice
from ui.tables.runs import Arm, Iteration

MEANS = {"mean": "Mean", "mean_non_english": "Mean, non-English"}
CURVES = (("win_rate", "Win rate", "%"), ("lc_win_rate", "Length-controlled win rate", "%"))
COLUMNS = (
    ("win_rate", "Win rate", 1),
    ("lc_win_rate", "LC win rate", 1),
    ("fidelity", "Fidelity", 1),
    ("margin/median", "Margin", 2),
    ("length/characters", "Length", 0),
)
_RATES = ("win_rate", "lc_win_rate", "fidelity")


@dataclass(frozen=True)
class Cell:
    """A figure of the table; change is against the iteration before."""

    value: float | None
    error: float | None
    change: float | None
    published: float | None
    digits: int
    is_rate: bool
    """Whether more is better; of lengths and margins it is not."""


@dataclass(frozen=True)
class Row:
    """One language at one iteration."""

    code: str
    name: str
    iteration: int
    cells: tuple[Cell, ...]
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
    codes = _codes(arm)
    if view.language:
        codes = [code for code in codes if code in (view.language, *MEANS)]
    filters = render("overview_filters", view=view, languages=arm.languages())
    is_paper_set = _is_paper_set(inspector.catalogue.worlds, arm)
    answer, why_not = _answer(inspector, arm, view.language)
    last = arm.iteration(answer.iteration) if answer else None
    main = render(
        "overview",
        view=view,
        answer=answer,
        why_not=why_not,
        summary=_summary(answer) if answer else "",
        judge=_judge(inspector, last) if last else "",
        curves=[(title, _curves(arm, metric, unit, codes, is_paper_set)) for metric, title, unit in CURVES],
        columns=COLUMNS,
        rows=_rows(arm, codes, is_paper_set),
        provenance=_provenance(inspector.catalogue.reader, arm),
        is_paper_set=is_paper_set,
    )
    return Content(Markup(filters), Markup(main))


def _codes(arm: Arm) -> list[str]:
    """Languages, then the means that were measured."""
    names = {name for t in arm.iterations for name in t.run.metrics}
    return arm.languages() + [mean for mean in MEANS if any(name.endswith(f"/{mean}") for name in names)]


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


def _curves(
    arm: Arm, metric: str, unit: str, codes: Sequence[str], is_paper_set: bool
) -> list[tuple[str, str, Markup]]:
    """(code, name, chart) of each language that has the metric; all on one scale, so that heights compare."""
    series = {code: _points(arm, metric, code) for code in codes}
    series = {code: points for code, points in series.items() if points}
    if not series:
        return []
    known = {code: _published_points(arm, metric, code) if is_paper_set else [] for code in series}
    tops = [p.y + 2 * (p.error or 0) for points in (*series.values(), *known.values()) for p in points]
    numbers = [t.number for t in arm.iterations]
    span, reach = (0.0, max(10.0, *tops) * 1.05), (min(numbers), max(numbers))
    return [
        (
            code,
            MEANS.get(code, language_label(code)),
            learning_curve(MEANS.get(code, language_label(code)), points, known[code], span, reach, unit),
        )
        for code, points in series.items()
    ]


def _points(arm: Arm, metric: str, code: str) -> list[Point]:
    return [
        Point(t.number, t.run.metrics[f"{metric}/{code}"], t.run.metrics.get(f"{metric}_se/{code}"))
        for t in arm.iterations
        if f"{metric}/{code}" in t.run.metrics
    ]


def _is_paper_set(worlds: Worlds, arm: Arm) -> bool:
    """Whether published numbers may stand beside: the toy world's are about nothing that a paper measured."""
    stages = [t.stages["eval"].holder for t in arm.iterations if "eval" in t.stages]
    names = [
        arm.run.params.get("iterate.eval_prompts", ""),
        *(stage.params.get("eval.prompts", "") for stage in stages),
    ]
    return not any(split_world(name, worlds) for name in names)


def _published_points(arm: Arm, metric: str, code: str) -> list[Point]:
    numbers = {t.number for t in arm.iterations}
    found = _published(metric)
    return [Point(t, value) for (t, language), value in sorted(found.items()) if language == code and t in numbers]


def _published(metric: str) -> Mapping[tuple[int, str], float]:
    """Published values by iteration and language: Table 2 (from DPO), and Table 5 for the languages only it has."""
    values: dict[tuple[int, str], float] = {}
    for series in ("low-resource", "dpo-start"):  # the later one wins where both have a language
        for cell in published():
            value = {"win_rate": cell.win_rate, "lc_win_rate": cell.lc_win_rate}.get(metric)
            if cell.series == series and cell.iteration is not None and value is not None:
                values[cell.iteration, cell.language] = value
    return values


def _rows(arm: Arm, codes: Sequence[str], is_paper_set: bool) -> list[Row]:
    rows = []
    for code in codes:
        before: Mapping[str, float] = {}
        for t in arm.iterations:
            now = t.run.metrics
            cells = []
            for metric, _, digits in COLUMNS:
                value, earlier = now.get(f"{metric}/{code}"), before.get(f"{metric}/{code}")
                change = value - earlier if value is not None and earlier is not None else None
                theirs = _published(metric).get((t.number, code)) if is_paper_set else None
                cells.append(Cell(value, now.get(f"{metric}_se/{code}"), change, theirs, digits, metric in _RATES))
            rows.append(
                Row(code, MEANS.get(code, language_label(code)), t.number, tuple(cells), now.get(f"win_rate_n/{code}"))
            )
            before = now
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
