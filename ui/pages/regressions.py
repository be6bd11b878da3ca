"""Regressions: where a policy got worse than an earlier one, prompt by prompt, with what both wrote."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from markupsafe import Markup

from icr_platform.core.conversations import Conversation
from icr_platform.core.errors import InputError
from ui.html.rendering import render
from ui.pages import dead_ends, item_verdicts
from ui.pages.inspector import Content, Focus, Inspector
from ui.pages.side_by_side import MEASURES, SampleRow, best_sample, digits_of, drawn, outputs_for, sample_row, unit_of
from ui.review.items import Item
from ui.tables import prompt_changes, sources, value_tables
from ui.tables.prompt_changes import PAGE_ROWS, Comparison, Filter
from ui.tables.run_tables import latest
from ui.tables.runs import ArmRecord, IterationRecord
from ui.tables.view import View

_FORM = {"experiment", "run", "iteration", "base", "base_run", "language", "measure", "flow", "source", "rank"}


_MEASURES = ("judge", "reward", "instructions")
"""What two iterations of training are compared by here, in the order in which the page prefers them."""


class Compared(NamedTuple):
    """Two iterations, of one arm or of two, and the tables to compare them by."""

    before: IterationRecord
    after: IterationRecord
    comparison: Comparison
    note: str


def show(inspector: Inspector, focus: Focus) -> Content:
    """Slices, flow and ranking, or one prompt when the view names it."""
    view = _filled(inspector, focus)
    base_arm = inspector.catalogue.arm(view.base_run) if view.base_run else focus.arm
    compared = _compare(inspector, focus.arm, base_arm, view)
    by_source = prompt_changes.slices(inspector.engine, compared.comparison, "source", Filter(view.language))
    view, said = dead_ends.without(view, "source", "data set", [one.name for one in by_source])
    # The cell of the win-tie-loss table narrows the list alone: sums over what has one outcome would say nothing.
    wanted = Filter(view.language, view.source, view.flow)
    overall = Filter(view.language, view.source)
    filters = render(
        "regressions_filters",
        view=view,
        iterations=[t.number for t in focus.arm.iterations],
        base_iterations=[t.number for t in base_arm.iterations],
        arms=[(run.run_id, run.name) for run in inspector.catalogue.arms(view.experiment)],
        languages=focus.arm.languages(),
        sources=[(s.name, s.prompts) for s in by_source if s.name],
        kept=view.carried_on(_FORM),
    )
    if view.id:
        return Content(
            Markup(filters), Markup(_detail(inspector, focus, view, compared, wanted)), view if said else None, said
        )
    by_language = prompt_changes.slices(inspector.engine, compared.comparison, "language", overall)
    together = prompt_changes.slices(inspector.engine, compared.comparison, "all", overall)
    rows, total = prompt_changes.ranked(inspector.engine, compared.comparison, wanted, view.rank, view.start)
    shown = together + by_language + (by_source if len(by_source) > 1 else [])
    main = render(
        "regressions",
        view=view,
        together=together[0] if together else None,
        groups=[
            ("Languages", "language", drawn(by_language, shown)),
            ("Data sets", "source", drawn(by_source, shown)),
        ],
        flow=prompt_changes.flow(inspector.engine, compared.comparison, wanted),
        rows=rows,
        total=total,
        size=PAGE_ROWS,
        note=compared.note,
        same_arm=base_arm.run.run_id == focus.arm.run.run_id,
        base_name=base_arm.name,
        measure=compared.comparison.measure,
        about=MEASURES[compared.comparison.measure],
        digits=digits_of(compared.comparison.measure),
        unit=unit_of(compared.comparison.measure),
    )
    return Content(Markup(filters), Markup(main), view if said else None, said)


def _filled(inspector: Inspector, focus: Focus) -> View:
    """The view with iterations and measure filled in: the last two that the measure knows."""
    view = focus.view
    stages = {name: MEASURES[name].stage for name in _MEASURES}
    done = [name for name, stage in stages.items() if any(t.has_finished(stage) for t in focus.arm.iterations)]
    measure = view.measure or ("instructions" if "judge" not in done and "instructions" in done else "judge")
    if measure not in stages:
        raise InputError(f"Regressions has no measure {measure!r}; choose another one, or open Compare.")
    stage = stages[measure]
    last = view.iteration if view.iteration is not None else latest(focus.arm, stage)
    base = view.base
    if base is None:
        earlier = [t.number for t in focus.arm.iterations if stage in t.stages and t.number < last]
        if not earlier and not view.base_run:
            raise InputError(
                f"Only iteration {last} has finished {stage}, and it takes two to compare. Choose another run, or run another iteration."
            )
        base = earlier[-1] if earlier else last
    return replace(view, iteration=last, base=base, measure=measure)


def _compare(inspector: Inspector, arm: ArmRecord, base_arm: ArmRecord, view: View) -> Compared:
    """The tables of both iterations, and the prompts' data sets and instructions, by what the measure is about."""
    before, after = base_arm.iteration(view.base or 0), arm.iteration(view.iteration or 0)
    engine, catalogue, note = inspector.engine, inspector.catalogue, ""
    if view.measure == "reward":
        tables = [value_tables.rewarded_prompts(engine, catalogue.artifact(t, "rewards")) for t in (before, after)]
        names = value_tables.asked_prompts(engine, catalogue.artifact(after, "prompts"))
    elif view.measure == "instructions":
        checks = [catalogue.artifact(t, "instruction_checks") for t in (before, after)]
        tables = [value_tables.followed_prompts(engine, artifact) for artifact in checks]
        names = value_tables.asked_prompts(engine, catalogue.artifact(after, "instruction_outputs"))
    else:
        tables = [value_tables.judged_prompts(engine, catalogue.artifact(t, "judgments")) for t in (before, after)]
        prompts = sources.eval_prompts(catalogue, after)
        note = prompts.note and f"{prompts.note} Data sets and English instructions are left out."
        if prompts.note:  # outputs repeat the instructions, but do not know the data sets
            names = value_tables.asked_prompts(engine, catalogue.artifact(after, "outputs"))
        else:
            names = engine.keep(f"sources/{after.run.run_id}/{prompts.table.num_rows}", prompts.table)
    return Compared(before, after, Comparison(tables[0], tables[1], names, view.measure), note)


def _detail(inspector: Inspector, focus: Focus, view: View, compared: Compared, wanted: Filter) -> str:
    language = view.id_language or view.language
    if not language:
        raise InputError("The address names a prompt but no language; open the prompt from the list.")
    near = prompt_changes.neighbours(inspector.engine, compared.comparison, wanted, view.rank, language, view.id)
    english = sources.NO_ENGLISH
    if view.measure == "judge":
        asked, rows = _output_rows(inspector, compared, language, view.id)
        english = sources.eval_prompts(inspector.catalogue, compared.after).english.get(view.id, sources.NO_ENGLISH)
    elif view.measure == "instructions":
        asked, rows = _output_rows(inspector, compared, language, view.id)
    else:
        asked, english, rows = _sample_rows(inspector, compared, language, view.id)
    return render(
        "comparison_detail",
        page="regressions",
        view=view,
        language=language,
        near=near,
        list_start=(near["place"] - 1) // PAGE_ROWS * PAGE_ROWS if near else 0,
        asked=asked,
        english=english,
        names=[f"Iteration {t.number}" for t in (compared.before, compared.after)],
        missing="This iteration has no output here.",
        notes=[],
        rows=rows,
        measure=view.measure,
        title=MEASURES[view.measure].title,
        value_digits=3,
        said=_said(inspector, focus, view, compared, language),
    )


def _said(inspector: Inspector, focus: Focus, view: View, compared: Compared, language: str) -> Markup:
    """What people said of both outputs; nothing where the two are not an item: of two runs, or no outputs of the evaluation."""
    numbers = compared.before.number, compared.after.number
    if view.measure != "judge" or view.base_run not in ("", focus.arm.run.run_id) or numbers[0] == numbers[1]:
        return Markup("")
    item = Item("outputs", max(numbers), min(numbers), language, view.id)
    return item_verdicts.section(inspector, focus.arm.run.run_id, focus.viewer, item, view)


def _output_rows(
    inspector: Inspector, compared: Compared, language: str, prompt_id: str
) -> tuple[Conversation, list[SampleRow]]:
    """What was asked, and both iterations' outputs side by side, sample by sample."""
    catalogue = inspector.catalogue
    is_judge = compared.comparison.measure == "judge"
    asked, sides = sources.NO_ENGLISH, []
    for t in (compared.before, compared.after):
        outputs = catalogue.artifact(t, "outputs" if is_judge else "instruction_outputs")
        said = {
            "judgments" if is_judge else "checks": catalogue.artifact(
                t, "judgments" if is_judge else "instruction_checks"
            )
        }
        found = outputs_for(inspector, language, prompt_id, outputs, **said)
        if found is None:
            raise InputError(
                f"Iteration {t.number} has no output for this prompt in this language; open one from the list."
            )
        asked, by_sample = found
        sides.append(by_sample)
    rows = []
    for index in sorted({*sides[0], *sides[1]}):
        reference = None
        if is_judge:
            reference = sources.reference_output(
                inspector.engine, catalogue, compared.after, language, prompt_id, index
            )
        rows.append(sample_row(inspector, language, sides[0].get(index), sides[1].get(index), reference))
    return asked, rows


def _sample_rows(
    inspector: Inspector, compared: Compared, language: str, prompt_id: str
) -> tuple[Conversation, Conversation, list[SampleRow]]:
    """What was asked, its English, and the best samples of both iterations."""
    asked, english, before = best_sample(inspector, compared.before, language, prompt_id)
    asked, english, after = best_sample(inspector, compared.after, language, prompt_id)
    return asked, english, [sample_row(inspector, language, before, after)]
