"""Regressions: where a policy got worse than an earlier one, prompt by prompt, with what both wrote."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import NamedTuple

from markupsafe import Markup

from icr_platform.core.conversations import Conversation
from icr_platform.core.errors import InputError
from ui.html.charts import interval_bar
from ui.html.line_marks import MarkedText, marked
from ui.html.rendering import render
from ui.html.word_diff import Diff, word_diff
from ui.pages.inspector import Content, Focus, Inspector
from ui.tables import regressions_data, sources
from ui.tables.conversations import history_in
from ui.tables.pairs_data import pair_of
from ui.tables.queries import ResultRow
from ui.tables.regressions_data import OUTCOMES, PAGE_ROWS, Comparison, Filter, Slice
from ui.tables.run_tables import latest
from ui.tables.runs import ArmRecord, IterationRecord
from ui.tables.sources import ReferenceText
from ui.tables.thoughts import Thought, thought_in
from ui.tables.view import View

_FORM = {"experiment", "run", "iteration", "base", "base_run", "language", "measure", "flow", "source", "rank"}


_STAGE_OF = {"judge": "eval", "reward": "annotate", "instructions": "instructions"}
"""The stage that gives what a measure compares, in the order in which the page prefers them."""


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
    # The cell of the win-tie-loss table narrows the list alone: sums over what has one outcome would say nothing.
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
        kept=view.carried_on(_FORM),
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
        measure=compared.comparison.measure,
    )
    return Content(Markup(filters), Markup(main))


def _filled(inspector: Inspector, focus: Focus) -> View:
    """The view with iterations and measure filled in: the last two that the measure knows."""
    view = focus.view
    done = [name for name, stage in _STAGE_OF.items() if any(t.has_finished(stage) for t in focus.arm.iterations)]
    measure = view.measure or ("instructions" if "judge" not in done and "instructions" in done else "judge")
    stage = _STAGE_OF[measure]
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
        tables = [regressions_data.rewarded_prompts(engine, catalogue.artifact(t, "rewards")) for t in (before, after)]
        names = regressions_data.asked_prompts(engine, catalogue.artifact(after, "prompts"))
    elif view.measure == "instructions":
        checks = [catalogue.artifact(t, "instruction_checks") for t in (before, after)]
        tables = [regressions_data.followed_prompts(engine, artifact) for artifact in checks]
        names = regressions_data.asked_prompts(engine, catalogue.artifact(after, "instruction_outputs"))
    else:
        tables = [regressions_data.judged_prompts(engine, catalogue.artifact(t, "judgments")) for t in (before, after)]
        prompts = sources.eval_prompts(catalogue, after)
        note = prompts.note and f"{prompts.note} Data sets and English instructions are left out."
        if prompts.note:  # outputs repeat the instructions, but do not know the data sets
            names = regressions_data.asked_prompts(engine, catalogue.artifact(after, "outputs"))
        else:
            names = engine.keep(f"sources/{after.run.run_id}/{prompts.table.num_rows}", prompts.table)
    return Compared(before, after, Comparison(tables[0], tables[1], names, view.measure), note)


def _drawn(slices: list[Slice], shown: list[Slice]) -> list[tuple[Slice, Markup]]:
    """Each slice with its interval drawn, all on the scale of the widest one shown."""
    reach = max((abs(end) for s in shown for end in s.ends), default=1.0) or 1.0
    return [(s, interval_bar(*s.ends, s.change, (-reach, reach), f"change {s.change:+.1f}")) for s in slices]


class Output(NamedTuple):
    """One text of an iteration for a prompt, with what the judge, the reward or the checkers of instructions said of it.

    facts: character_count, finish_reason, detected_language. checks: instruction_id, kwargs, strict, loose (None where unverified), reason.
    """

    text: str
    facts: ResultRow
    judgments: list[ResultRow]
    reward: float | None
    thought: Thought | None
    checks: list[ResultRow]


class SampleRow(NamedTuple):
    """The n-th output of both iterations, their diff, the lines of each side and, where the judge had one, the reference output."""

    before: Output | None
    after: Output | None
    diff: Diff
    lines: tuple[MarkedText, MarkedText]
    reference: ReferenceText | None


def _detail(inspector: Inspector, view: View, compared: Compared, wanted: Filter) -> str:
    language = view.id_language or view.language
    if not language:
        raise InputError("The address names a prompt but no language; open the prompt from the list.")
    near = regressions_data.neighbours(inspector.engine, compared.comparison, wanted, view.rank, language, view.id)
    english = sources.NO_ENGLISH
    if view.measure == "judge":
        asked, rows = _output_rows(inspector, compared, language, view.id)
        english = sources.eval_prompts(inspector.catalogue, compared.after).english.get(view.id, sources.NO_ENGLISH)
    elif view.measure == "instructions":
        asked, rows = _output_rows(inspector, compared, language, view.id)
    else:
        asked, english, rows = _sample_rows(inspector, compared, language, view.id)
    return render(
        "regression_detail",
        view=view,
        language=language,
        near=near,
        list_start=(near["place"] - 1) // PAGE_ROWS * PAGE_ROWS if near else 0,
        asked=asked,
        english=english,
        numbers=(compared.before.number, compared.after.number),
        rows=rows,
        measure=view.measure,
    )


def _output_rows(
    inspector: Inspector, compared: Compared, language: str, prompt_id: str
) -> tuple[Conversation, list[SampleRow]]:
    """What was asked, and both iterations' outputs side by side, sample by sample."""
    engine, catalogue = inspector.engine, inspector.catalogue
    is_judge = compared.comparison.measure == "judge"
    asked, sides = sources.NO_ENGLISH, []
    for t in (compared.before, compared.after):
        outputs = catalogue.artifact(t, "outputs" if is_judge else "instruction_outputs")
        found = regressions_data.outputs_of(engine, outputs, language, prompt_id)
        if not found:
            raise InputError(
                f"Iteration {t.number} has no output for this prompt in this language; open one from the list."
            )
        if is_judge:
            said = regressions_data.judgments_of(engine, catalogue.artifact(t, "judgments"), language, prompt_id)
        else:
            said = regressions_data.checks_of(engine, catalogue.artifact(t, "instruction_checks"), language, prompt_id)
        by_sample: dict[int, list[ResultRow]] = defaultdict(list)
        for one in said:
            by_sample[one["sample_index"]].append(one)
        sides.append({row["sample_index"]: _output(row, by_sample[row["sample_index"]], is_judge) for row in found})
        asked = Conversation(found[0]["instruction"], history_in(found[0]))
    rows = []
    for index in sorted({*sides[0], *sides[1]}):
        before, after = sides[0].get(index), sides[1].get(index)
        reference = None
        if is_judge:
            reference = sources.reference_output(engine, catalogue, compared.after, language, prompt_id, index)
        rows.append(_sample_row(inspector, language, before, after, reference))
    return asked, rows


def _output(row: ResultRow, said: list[ResultRow], is_judge: bool) -> Output:
    return Output(row["output"], row, said if is_judge else [], None, thought_in(row), [] if is_judge else said)


def _sample_row(
    inspector: Inspector, language: str, before: Output | None, after: Output | None, reference: ReferenceText | None
) -> SampleRow:
    texts = [output.text if output else "" for output in (before, after)]
    diff = word_diff(*texts)
    foreign = [dict(inspector.marker(text, language)) for text in texts]
    lines = (marked(diff.left, foreign[0]), marked(diff.right, foreign[1]))
    return SampleRow(before, after, diff, lines, reference)


def _sample_rows(
    inspector: Inspector, compared: Compared, language: str, prompt_id: str
) -> tuple[Conversation, Conversation, list[SampleRow]]:
    """What was asked, its English, and the best samples of both iterations."""
    sides, asked, english = [], sources.NO_ENGLISH, sources.NO_ENGLISH
    for t in (compared.before, compared.after):
        try:
            pair = pair_of(inspector.engine, inspector.pair_tables(t), language, prompt_id)
        except InputError as error:
            raise InputError(
                f"Iteration {t.number} gave no pair for this prompt, so there is no best sample to show."
            ) from error
        # What is true of every chosen sample: others are dropped before pairs are made.
        facts = {
            "character_count": pair["chosen_characters"], "finish_reason": "stop", "detected_language": pair.get("chosen_language") or language
        }  # fmt: skip
        sides.append(Output(pair["chosen"], facts, [], pair["chosen_reward"], thought_in(pair, "chosen"), []))
        asked = Conversation(pair["instruction"], history_in(pair))
        english = Conversation(pair["english_instruction"] or "", history_in(pair, "english_"))
    before, after = sides
    return asked, english, [_sample_row(inspector, language, before, after, None)]
