"""Compare: any two arms, iterations, evaluations or files of outputs, on the prompts that both answered, what flipped first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from markupsafe import Markup

from icr_platform.core.artifacts import Artifact
from icr_platform.core.conversations import Conversation
from icr_platform.core.errors import InputError
from icr_platform.core.language_tags import english_first
from icr_platform.report.numbers import signed
from ui.html.charts import interval_bar
from ui.html.rendering import language_label, message, render
from ui.pages import dead_ends, item_verdicts
from ui.pages.inspector import Content, Inspector
from ui.pages.side_by_side import (
    MEASURES,
    Answered,
    Output,
    SampleRow,
    best_sample,
    digits_of,
    drawn,
    outputs_for,
    sample_row,
    unit_of,
)
from ui.review.items import Item
from ui.review.seeing import NOBODY, Viewer
from ui.tables import output_rows, prompt_changes, sources, value_tables
from ui.tables.compared_sides import FILE, RUNS_OF, Choice, Side, Sides
from ui.tables.paired_table import PairedRow, RunValues
from ui.tables.prompt_changes import IN_OWN_UNIT, LENGTHS, PAGE_ROWS, RELATIVE_LENGTHS, Comparison, Filter
from ui.tables.view import View

_FORM = {"left", "left_at", "right", "right_at", "language", "measure", "source", "length", "relative", "kind", "rank"}
_TABLES = {"judge": "judgments", "instructions": "instruction_checks", "lines": "confusion", "reward": "rewards"}
NOTHING = "Choose two sides: an iteration of a run, all runs of an arm, an evaluation, or a file of outputs."


class Compared(NamedTuple):
    """Both sides, the tables to compare them by, and what a person should know of them, in sentences.

    values: the tables of each side's runs. kinds: of instructions, compared one by one; None for other measures.
    """

    sides: tuple[Side, Side]
    comparison: Comparison
    values: tuple[RunValues, RunValues]
    kinds: Comparison | None
    notes: tuple[str, ...]


def show(inspector: Inspector, view: View, viewer: Viewer = NOBODY) -> Content:
    """The paired table, slices, outcomes and prompts, or one prompt when the view names it. What is wrong is said beside the form."""
    sides = Sides(inspector.catalogue, inspector.files)
    choices = sides.choices()
    compared: Compared | None = None
    main = message(NOTHING)
    said: tuple[str, ...] = ()
    try:
        if not (view.left or view.right) and (found := sides.first_two(view.run)):
            (left, left_at), (right, right_at) = found
            view = replace(view, left=left, left_at=left_at, right=right, right_at=right_at)
        if view.left and view.right:
            left_side, right_side = sides.open(view.left, view.left_at), sides.open(view.right, view.right_at)
            view = replace(view, left_at=left_side.at, right_at=right_side.at)
            view, compared = _compared(inspector, sides, (left_side, right_side), view)
            view, said = _without_gone(inspector, compared, view)
            main = Markup(
                _detail(inspector, view, compared, viewer) if view.id else _overview(inspector, view, compared)
            )
    except InputError as error:
        main = message(str(error), kind="error")
        view = dead_ends.refuse_dead_side(error, view)
    iterations = [sides.iterations(value) for value in (view.left, view.right)]
    return Content(Markup(_filters(inspector, view, choices, iterations, compared)), main, view, said)


def _without_gone(inspector: Inspector, compared: Compared, view: View) -> dead_ends.Settled:
    """The view without a language, a data set or a kind of instruction that these sides do not have."""
    engine, comparison = inspector.engine, compared.comparison
    said: tuple[str, ...] = ()
    if view.language:
        known = prompt_changes.languages_in(engine, comparison.before)
        view, said = dead_ends.without(view, "language", "language", known)
    if view.source:
        found = prompt_changes.slices(engine, comparison, "source", Filter(view.language))
        view, more = dead_ends.without(view, "source", "data set", [one.name for one in found])
        said += more
    if view.kind:
        kinds = prompt_changes.slices(engine, compared.kinds, "kind") if compared.kinds else []
        view, more = dead_ends.without(view, "kind", "kind of instruction", [one.name for one in kinds])
        said += more
    return dead_ends.Settled(view, said)


def _filters(
    inspector: Inspector,
    view: View,
    choices: Sequence[Choice],
    iterations: Sequence[Sequence[int]],
    compared: Compared | None,
) -> str:
    by_source: list[tuple[str, int]] = []
    kinds: list[str] = []
    languages: list[str] = []
    if compared:
        engine, comparison = inspector.engine, compared.comparison
        found = prompt_changes.slices(engine, comparison, "source", Filter(view.language))
        by_source = [(one.name, one.prompts) for one in found if one.name]
        languages = english_first(prompt_changes.languages_in(engine, comparison.before))
        kinds = [one.name for one in prompt_changes.slices(engine, compared.kinds, "kind")] if compared.kinds else []
    groups: dict[str, list[Choice]] = {}
    for choice in choices:
        groups.setdefault(choice.group, []).append(choice)
    return render(
        "compare_filters",
        view=view,
        groups=groups,
        known={choice.value for choice in choices},
        iterations=iterations,
        languages=languages,
        sources=by_source,
        kinds=kinds,
        measures=[(name, measure.title) for name, measure in MEASURES.items()],
        lengths=LENGTHS,
        relative_lengths=RELATIVE_LENGTHS,
        kept=view.carried_on(_FORM),
    )


def _compared(inspector: Inspector, opener: Sides, sides: tuple[Side, Side], view: View) -> tuple[View, Compared]:
    """The tables of both sides by the measure that the view asks for, or by the first one that both have."""
    notes = [note for side in sides for note in side.notes]
    if (view.left, view.left_at) == (view.right, view.right_at):
        notes.append("Both sides are the same.")
    measure = view.measure
    if not measure:
        shared = [name for name in MEASURES if name != "reward" and all(_has(inspector, side, name) for side in sides)]
        why_not = _other_judge(inspector, sides) if "judge" in shared else ""
        if why_not:
            notes.append(why_not)
        measure = next(name for name in (*shared, "length") if not (name == "judge" and why_not))
    for letter, side in zip("AB", sides, strict=True):
        if not _has(inspector, side, measure):
            raise InputError(_lacks(letter, side, measure))
    if view.measure == "judge" and (why_not := _other_judge(inspector, sides)):
        raise InputError(why_not)
    if measure == "reward":
        _check_kinds(inspector, sides)
    outputs = [_outputs(inspector, side, measure) for side in sides]
    sides = (opener.matched(sides[0], outputs[1][0]), opener.matched(sides[1], outputs[0][0]))
    outputs = [_outputs(inspector, side, measure) for side in sides]
    made = _tables(inspector, sides, outputs, replace(view, measure=measure))
    return replace(view, measure=measure), Compared(sides, *made, tuple(notes))


def _has(inspector: Inspector, side: Side, measure: str) -> bool:
    """Whether a side has finished what a measure is about."""
    if measure == "length":
        return side.file is not None or side.has("eval") or side.has("instructions")
    if not side.has(MEASURES[measure].stage):
        return False
    if measure != "lines":
        return True
    try:  # evaluations of earlier versions have no such table
        return all(inspector.catalogue.artifact(record, _TABLES[measure]).rows for record in side.records)
    except InputError:
        return False


def _lacks(letter: str, side: Side, measure: str) -> str:
    """Why a side cannot be compared by a measure, and what to do."""
    if side.file is not None and measure == "judge":
        return f"{letter} is a file, and no judge has seen its outputs: run `icr eval --outputs {side.name} --judge ...`, or choose another measure."
    if side.file is not None:
        return f"{letter} is a file of outputs, which has no {MEASURES[measure].title}; choose another measure."
    stage = MEASURES[measure].stage or "eval"
    states = {record.stages[stage].run.status.lower() for record in side.records if stage in record.stages} - {
        "finished"
    }
    if measure == "lines" and side.has(stage):
        return f"{letter}, {side.name}, has no table of lines: an earlier version of `icr eval` made it. Evaluate it again, or choose another measure."
    said = f"{stage} there is {' or '.join(sorted(states))}" if states else f"it has no {stage} run with them"
    return f"{letter}, {side.name}, has no {MEASURES[measure].title} to compare: {said}. Choose another measure, or another side."


def _other_judge(inspector: Inspector, sides: tuple[Side, Side]) -> str:
    """Why two sides' win rates say nothing of each other: another judge, or other reference outputs; '' where they do."""
    found = []
    for side in sides:
        tables = [inspector.catalogue.artifact(record, "judgments") for record in side.records]
        judges = sorted({output_rows.judge_of(inspector.engine, table) for table in tables})
        references = {record.stages["eval"].holder.inputs.get("reference_outputs", "") for record in side.records}
        found.append((judges, references))
    (judges, references), (others, other_references) = found
    fix = "judge both with the same ones, or choose another measure"
    if judges != others:
        named = [", ".join(names) or "none" for names in (judges, others)]
        return f"A was judged by {named[0]}, B by {named[1]}: win rates of two judges do not compare; {fix}."
    if references != other_references:
        return f"A and B were judged against other reference outputs: their win rates do not compare; {fix}."
    return ""


def _check_kinds(inspector: Inspector, sides: tuple[Side, Side]) -> None:
    """Raise where the sides' pairs were made by two kinds of reward."""
    kinds = [
        sorted(
            {output_rows.kind_of(inspector.engine, inspector.catalogue.artifact(t, "rewards")) for t in side.records}
        )
        for side in sides
    ]
    if kinds[0] != kinds[1]:
        named = [", ".join(names) for names in kinds]
        raise InputError(
            f"A's reward is {named[0]}, B's is {named[1]}: two kinds of reward do not compare; choose another measure."
        )


def _outputs(inspector: Inspector, side: Side, measure: str) -> list[Artifact]:
    """The outputs that a measure is about, of each run; for rewards the samples."""
    if side.file is not None:
        return [side.file]
    is_instructions = measure == "instructions" or (measure == "length" and not side.has("eval"))
    name = "responses" if measure == "reward" else "instruction_outputs" if is_instructions else "outputs"
    return [inspector.catalogue.artifact(record, name) for record in side.records]


def _tables(
    inspector: Inspector, sides: tuple[Side, Side], outputs: Sequence[Sequence[Artifact]], view: View
) -> tuple[Comparison, tuple[RunValues, RunValues], Comparison | None]:
    """The comparison of two sides, each side's runs, and for instructions the comparison by kind."""
    engine, catalogue, measure = inspector.engine, inspector.catalogue, view.measure
    prompts: list[list[Artifact]] = [[], []]
    if measure == "reward":
        prompts = [[catalogue.artifact(record, "prompts") for record in side.records] for side in sides]
    answers = tuple(value_tables.answered_prompts(engine, *of) for of in zip(outputs, prompts, strict=True))
    found: Sequence[Sequence[Artifact]] = outputs
    if measure in _TABLES:
        found = [[catalogue.artifact(record, _TABLES[measure]) for record in side.records] for side in sides]
    shared = value_tables.shared_instructions(engine, found[0], found[1]) if measure == "instructions" else ""

    def values(*artifacts: Artifact) -> str:
        if measure == "judge":
            return value_tables.judged_prompts(engine, *artifacts)
        if measure == "reward":
            return value_tables.rewarded_prompts(engine, *artifacts)
        if measure == "lines":
            return value_tables.pure_prompts(engine, *artifacts)
        if measure == "instructions":
            return value_tables.followed_prompts(engine, *artifacts, shared=shared, kind=view.kind)
        return value_tables.answered_prompts(engine, artifacts)

    names = _names(inspector, sides, outputs, prompts[1])
    both = [values(*artifacts) for artifacts in found]
    comparison = Comparison(both[0], both[1], names, measure, (answers[0], answers[1]))
    runs = [
        RunValues(
            tuple(values(one) for one in artifacts), side.seeds or (None,), value_tables.order_of(engine, artifacts[0])
        )
        for artifacts, side in zip(found, sides, strict=True)
    ]
    kinds = None
    if measure == "instructions":
        by_kind = [value_tables.followed_by_kind(engine, *artifacts, shared=shared) for artifacts in found]
        kinds = comparison._replace(before=by_kind[0], after=by_kind[1], by_kind=True)
    return comparison, (runs[0], runs[1]), kinds


def _names(
    inspector: Inspector, sides: tuple[Side, Side], outputs: Sequence[Sequence[Artifact]], prompts: Sequence[Artifact]
) -> str:
    """The table of instructions and data sets: of the evaluation prompts where a side knows them, else of what was answered."""
    if prompts:
        return value_tables.asked_prompts(inspector.engine, prompts[0])
    for side in reversed(sides):
        for record in side.records[:1]:
            found = sources.eval_prompts(inspector.catalogue, record)
            if not found.note and found.table.num_rows and record.has_finished("eval"):
                return inspector.engine.keep(f"sources/{record.run.run_id}/{found.table.num_rows}", found.table)
    # A file may not say what it answers.
    place = 1 if sides[1].file is None or sides[0].file is not None else 0
    return value_tables.asked_prompts(inspector.engine, outputs[place][0])


def _overview(inspector: Inspector, view: View, compared: Compared) -> str:
    """The paired table of languages, slices, outcomes and the ranked prompts."""
    engine, comparison = inspector.engine, compared.comparison
    measure, has_outcomes = comparison.measure, comparison.measure not in IN_OWN_UNIT
    covered = prompt_changes.coverage(engine, comparison, view.language)
    if not covered.both:
        raise InputError(_nothing_common(inspector, view, compared, covered))
    overall = Filter(view.language, view.source, "", view.length, view.relative)
    wanted = overall._replace(flow=view.flow)
    rank = view.rank or ("flips" if has_outcomes else "largest")
    rows, total = prompt_changes.ranked(engine, comparison, wanted, rank, view.start)
    table = inspector.paired.of(comparison, *compared.values, overall)
    groups = [
        (title, one, field, prompt_changes.slices(engine, comparison, field, overall), labels)
        for title, one, field, labels in (
            ("Data sets", "Data set", "source", {}),
            ("Length of the answers", "Mean of both", "length", LENGTHS),
            ("Length of B’s answer beside A’s", "B’s answer", "relative", RELATIVE_LENGTHS),
        )
    ]
    if compared.kinds:
        by_kind = prompt_changes.slices(engine, compared.kinds, "kind", overall)
        groups.append(("Kinds of instructions", "Kind", "kind", by_kind, {}))
    shown = [row for *_, found, _ in groups for row in found]
    reach = max([abs(end) for row in table for end in row.ends] + [0.0]) or 1.0
    return render(
        "compare",
        view=view,
        sides=compared.sides,
        notes=compared.notes,
        covered=covered,
        lead=next((row for row in table if row.language == "mean"), table[0] if table else None),
        table=[(row, _bar(row, reach)) for row in table],
        groups=[(title, one, field, drawn(found, shown), labels) for title, one, field, found, labels in groups],
        flow=prompt_changes.flow(engine, comparison, overall) if has_outcomes else None,
        rows=rows,
        total=total,
        size=PAGE_ROWS,
        measure=measure,
        about=MEASURES[measure],
        digits=digits_of(measure),
        value_digits=0 if measure == "length" else 3,
        unit=unit_of(measure),
        rank=rank,
        narrowed=bool(view.source or view.length or view.relative or view.kind),
    )


def _bar(row: PairedRow, reach: float) -> Markup:
    return interval_bar(*row.ends, row.found.difference, (-reach, reach), f"difference {signed(row.found.difference)}")


def _nothing_common(inspector: Inspector, view: View, compared: Compared, covered: prompt_changes.Coverage) -> str:
    """Why no prompt is on both sides: no language, other words under the same ids, or other ids."""
    comparison = compared.comparison
    languages = [
        prompt_changes.languages_in(inspector.engine, table) for table in (comparison.before, comparison.after)
    ]
    if not set(languages[0]) & set(languages[1]):
        said = [
            ", ".join(language_label(code) or "a language that is not named" for code in found) for found in languages
        ]
        return f"The two have no language in common: A has {said[0] or 'none'}, B has {said[1] or 'none'}."
    here = f" in {language_label(view.language)}" if view.language else ""
    if covered.asked_otherwise:
        return f"The two have {covered.asked_otherwise:,} prompt ids in common{here}, but other instructions under them: they answered other prompts."
    over = MEASURES[comparison.measure].over
    if not (covered.first_only or covered.second_only):
        return f"Neither side has any {over} prompt{here}; choose another language."
    return f"The two have no {over} prompt in common{here}: A has {covered.first_only:,}, B {covered.second_only:,}, under other ids."


def _detail(inspector: Inspector, view: View, compared: Compared, viewer: Viewer) -> str:
    """One prompt: what both sides wrote, run by run and sample by sample, in the order of the list."""
    language = view.id_language or view.language
    comparison = compared.comparison
    is_reward = comparison.measure == "reward"
    wanted = Filter(view.language, view.source, view.flow, view.length, view.relative)
    rank = view.rank or ("largest" if comparison.measure in IN_OWN_UNIT else "flips")
    near = prompt_changes.neighbours(inspector.engine, comparison, wanted, rank, language, view.id)
    asked, english, rows = (_samples if is_reward else _answers)(inspector, compared, language, view.id)
    return render(
        "comparison_detail",
        page="compare",
        view=view,
        language=language,
        near=near,
        list_start=(near["place"] - 1) // PAGE_ROWS * PAGE_ROWS if near else 0,
        asked=asked,
        english=english,
        names=[f"{letter}: {side.name}" for letter, side in zip("AB", compared.sides, strict=True)],
        missing="This side has no output here.",
        notes=compared.notes,
        rows=rows,
        measure=comparison.measure,
        title=MEASURES[comparison.measure].title,
        value_digits=0 if comparison.measure == "length" else 3,
        said=_said(inspector, view, compared, viewer, language),
    )


def _said(inspector: Inspector, view: View, compared: Compared, viewer: Viewer, language: str) -> Markup:
    """What people said of both outputs, where they are an item: of two iterations of one run, as its evaluation has them."""
    a, b = compared.sides
    numbers = [side.records[0].number for side in (a, b) if len(side.records) == 1]
    is_evaluated = compared.comparison.measure not in ("reward", "instructions") and a.has("eval") and b.has("eval")
    if not is_evaluated or a.value != b.value or a.value.startswith((RUNS_OF, FILE)) or len({*numbers}) < 2:
        return Markup("")
    item = Item("outputs", max(numbers), min(numbers), language, view.id)
    return item_verdicts.section(inspector, a.value, viewer, item, view)


def _answers(
    inspector: Inspector, compared: Compared, language: str, prompt_id: str
) -> tuple[Conversation, Conversation, list[SampleRow]]:
    """What was asked, its English, and the outputs of both sides; the n-th run of one stands beside the n-th of the other."""
    answered = [_answered(inspector, side, compared.comparison.measure, language, prompt_id) for side in compared.sides]
    said = [one for side in answered for one in side if one]
    if not said:
        raise InputError("Neither side has an output for this prompt in this language; open one from the list.")
    # A file may lack the instruction, or what came before it.
    asked = max((one.asked for one in said), key=lambda one: (len(one.history), bool(one.instruction)))
    english = sources.NO_ENGLISH
    judged = next((side.records[0] for side in reversed(compared.sides) if side.has("eval")), None)
    if judged:
        english = sources.eval_prompts(inspector.catalogue, judged).english.get(prompt_id, sources.NO_ENGLISH)
    rows = []
    for place in range(max(map(len, answered))):
        both: list[Mapping[int, Output]] = [
            one.by_sample if place < len(side) and (one := side[place]) else {} for side in answered
        ]
        for index in sorted({*both[0], *both[1]}):
            reference = None
            if judged and compared.comparison.measure == "judge":
                reference = sources.reference_output(
                    inspector.engine, inspector.catalogue, judged, language, prompt_id, index
                )
            rows.append(sample_row(inspector, language, both[0].get(index), both[1].get(index), reference))
    return asked, english, rows


def _answered(inspector: Inspector, side: Side, measure: str, language: str, prompt_id: str) -> list[Answered | None]:
    """Of each run of a side, in the order of their seeds."""
    catalogue = inspector.catalogue
    found = []
    for place, outputs in enumerate(_outputs(inspector, side, measure)):
        record = side.records[place] if side.records else None
        judgments = catalogue.artifact(record, "judgments") if record and record.has_finished("eval") else None
        checks = catalogue.artifact(record, "instruction_checks") if record and measure == "instructions" else None
        found.append(outputs_for(inspector, language, prompt_id, outputs, None if checks else judgments, checks))
    return found


def _samples(
    inspector: Inspector, compared: Compared, language: str, prompt_id: str
) -> tuple[Conversation, Conversation, list[SampleRow]]:
    """What was asked, its English, and the best samples of both sides' runs."""
    sides = [
        [best_sample(inspector, record, language, prompt_id) for record in side.records] for side in compared.sides
    ]
    asked, english, _ = sides[0][0]
    return asked, english, [sample_row(inspector, language, a[2], b[2]) for a, b in zip(*sides, strict=False)]
