"""Regressions: where a policy got worse than an earlier one, prompt by prompt, with what both wrote."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from markupsafe import Markup

from icr_platform.errors import IcrError, InputError
from ui import regressions_data, sources
from ui.charts import interval_bar
from ui.inspector import Content, Focus, Inspector
from ui.pairs_data import pair_of
from ui.regressions_data import OUTCOMES, PAGE_ROWS, Comparison, Filter, Slice
from ui.rendering import render, word_diff
from ui.runs import Arm, Iteration
from ui.shell import kept_fields
from ui.view import View

_FORM = {"experiment", "run", "iteration", "base", "base_run", "language", "measure", "flow", "source", "rank"}


class Compared(NamedTuple):
    """Two iterations, of one arm or of two, and the tables to compare them by."""

    before: Iteration
    after: Iteration
    comparison: Comparison
    note: str


def show(inspector: Inspector, focus: Focus) -> Content:
    """Slices, flow and ranking, or one prompt when the view names it."""
    view = _filled(inspector, focus)
    base_arm = inspector.catalogue.arm(view.base_run) if view.base_run else focus.arm
    compared = _compare(inspector, focus.arm, base_arm, view)
    wanted = Filter(view.language, view.source, view.flow)
    overall = Filter(view.language, view.source)
    by_source = regressions_data.slices(inspector.engine, compared.comparison, "source", Filter(view.language))
    filters = render(
        "regressions_filters",
        view=view,
        iterations=[t.number for t in focus.arm.iterations],
        base_iterations=[t.number for t in base_arm.iterations],
        arms=[(run.run_id, run.name) for run in inspector.catalogue.arms(view.experiment)],
        languages=focus.arm.languages(),
        sources=[(s.name, s.prompts) for s in by_source if s.name],
        kept=kept_fields(view, _FORM),
    )
    if view.id:
        return Content(Markup(filters), Markup(_detail(inspector, view, compared, wanted)))
    by_language = regressions_data.slices(inspector.engine, compared.comparison, "language", overall)
    together = regressions_data.slices(inspector.engine, compared.comparison, "all", overall)
    rows, total = regressions_data.ranked(inspector.engine, compared.comparison, wanted, view.rank, view.start)
    shown = together + by_language + (by_source if len(by_source) > 1 else [])
    main = render(
        "regressions",
        view=view,
        together=together[0] if together else None,
        groups=[
            ("Languages", "language", _drawn(by_language, shown)),
            ("Data sets", "source", _drawn(by_source, shown)),
        ],
        flow=regressions_data.flow(inspector.engine, compared.comparison, wanted),
        outcomes=OUTCOMES,
        rows=rows,
        total=total,
        size=PAGE_ROWS,
        note=compared.note,
        same_arm=base_arm.run.run_id == focus.arm.run.run_id,
        base_name=base_arm.name,
        is_judge=compared.comparison.measure == "judge",
    )
    return Content(Markup(filters), Markup(main))


def _filled(inspector: Inspector, focus: Focus) -> View:
    """The view with iterations and measure filled in: the last two that the measure knows."""
    view = focus.view
    measure = view.measure or "judge"
    stage = "eval" if measure == "judge" else "annotate"
    last = view.iteration if view.iteration is not None else inspector.latest(focus.arm, stage)
    base = view.base
    if base is None:
        earlier = [t.number for t in focus.arm.iterations if stage in t.stages and t.number < last]
        if not earlier and not view.base_run:
            raise InputError(
                f"Only iteration {last} has finished {stage}: two are needed to compare. Choose another run, or run another iteration."
            )
        base = earlier[-1] if earlier else last
    return replace(view, iteration=last, base=base, measure=measure)


def _compare(inspector: Inspector, arm: Arm, base_arm: Arm, view: View) -> Compared:
    before, after = base_arm.iteration(view.base or 0), arm.iteration(view.iteration or 0)
    engine, catalogue, note = inspector.engine, inspector.catalogue, ""
    if view.measure == "reward":
        tables = [regressions_data.rewarded_prompts(engine, catalogue.artifact(t, "rewards")) for t in (before, after)]
        known = catalogue.artifact(after, "prompts")
        names = engine.materialise(
            f"sources/{known.digest}",
            "SELECT language, prompt_id, source FROM read_parquet(?)",
            [[str(p) for p in known.parts]],
        )
    else:
        tables = [regressions_data.judged_prompts(engine, catalogue.artifact(t, "judgments")) for t in (before, after)]
        prompts = sources.eval_prompts(after)
        note = prompts.note and f"{prompts.note} Data sets and English instructions are left out."
        names = engine.keep(f"sources/{after.run.run_id}/{prompts.table.num_rows}", prompts.table)
    return Compared(before, after, Comparison(tables[0], tables[1], names, view.measure), note)


def _drawn(slices: list[Slice], shown: list[Slice]) -> list[tuple[Slice, Markup]]:
    """Each slice with its interval drawn, all on one scale."""
    reach = max((max(abs(bound) for bound in (s.interval or (s.change, s.change))) for s in shown), default=1.0) or 1.0
    return [(s, interval_bar(*_ends(s), (-reach, reach), f"change {s.change:+.1f}")) for s in slices]


def _ends(found: Slice) -> tuple[float, float, float]:
    low, high = found.interval or (found.change, found.change)
    return low, found.change, high


def _detail(inspector: Inspector, view: View, compared: Compared, wanted: Filter) -> str:
    language = view.id_language or view.language
    if not language:
        raise InputError("The address names a prompt but no language; open the prompt from the list.")
    near = regressions_data.neighbours(inspector.engine, compared.comparison, wanted, view.rank, language, view.id)
    side = _output_side if view.measure == "judge" else _reward_side
    sides = [side(inspector, t, language, view.id) for t in (compared.before, compared.after)]
    reference = None
    if view.measure == "judge":
        outputs = inspector.catalogue.artifact(compared.after, "outputs")
        reference = sources.reference_output(inspector.engine, compared.after, outputs, language, view.id)
    return render(
        "regression_detail",
        view=view,
        language=language,
        near=near,
        list_start=(near["place"] - 1) // PAGE_ROWS * PAGE_ROWS if near else 0,
        english=sources.eval_prompts(compared.after).english.get(view.id, "")
        if view.measure == "judge"
        else sides[1]["english"],
        before=sides[0],
        after=sides[1],
        diff=word_diff(sides[0]["text"], sides[1]["text"]),
        reference=reference,
    )


def _output_side(inspector: Inspector, iteration: Iteration, language: str, prompt_id: str) -> dict[str, Any]:
    """An iteration's first output for a prompt, and all judgments of it."""
    outputs = regressions_data.outputs_of(
        inspector.engine, inspector.catalogue.artifact(iteration, "outputs"), language, prompt_id
    )
    if not outputs:
        raise InputError(
            f"Iteration {iteration.number} has no output for this prompt in this language; open one from the list."
        )
    judged = regressions_data.judgments_of(
        inspector.engine, inspector.catalogue.artifact(iteration, "judgments"), language, prompt_id
    )
    return {
        "iteration": iteration.number,
        "text": outputs[0]["output"],
        "row": outputs[0],
        "judgments": judged,
        "instruction": outputs[0]["instruction"],
        "samples": len(outputs),
    }


def _reward_side(inspector: Inspector, iteration: Iteration, language: str, prompt_id: str) -> dict[str, Any]:
    """An iteration's best sample for a training prompt."""
    try:
        pair = pair_of(inspector.engine, inspector.pair_tables(iteration), language, prompt_id)
    except IcrError as error:
        raise InputError(
            f"Iteration {iteration.number} gave no pair for this prompt, so there is no best sample to show."
        ) from error
    row = {"character_count": pair["chosen_characters"], "finish_reason": "stop", "detected_language": language}
    return {"iteration": iteration.number, "text": pair["chosen"], "row": row, "judgments": [], "reward": pair["chosen_reward"],
            "instruction": pair["instruction"], "english": pair["english_instruction"], "samples": 1}  # fmt: skip
