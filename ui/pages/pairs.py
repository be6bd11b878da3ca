"""Pairs: the list of pairs, and for each why it is one, with everything about its prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from markupsafe import Markup

from icr_platform.core.languages import language_name
from icr_platform.report.numbers import number
from ui.html.line_marks import marked
from ui.html.rendering import language_label, render
from ui.html.word_diff import word_diff
from ui.pages import dead_ends, item_verdicts
from ui.pages.inspector import Content, Focus, Inspector
from ui.review.items import Item
from ui.review.seeing import Viewer
from ui.tables import pairs_data
from ui.tables.queries import ResultRow
from ui.tables.run_tables import latest
from ui.tables.view import SORTS, View

_FORM = {
    "experiment", "run", "iteration", "language", "q", "margin_min", "margin_max", "length_min", "length_max", "dropped", "sort", "order"
}  # fmt: skip


def show(inspector: Inspector, focus: Focus) -> Content:
    """The list of pairs, or one pair when the view names a prompt."""
    view = focus.view
    if view.iteration is None:
        view = replace(view, iteration=latest(focus.arm, "annotate"))
    iteration = focus.arm.iteration(view.iteration or 0)
    tables = inspector.pair_tables(iteration)
    reasons = pairs_data.drop_reasons(inspector.engine, tables, view.language)
    view, said = dead_ends.without(view, "dropped", "reason for drops", ["*", *(row["reason"] for row in reasons)])
    filters = render(
        "pairs_filters",
        view=view,
        iterations=[t.number for t in focus.arm.iterations],
        languages=focus.arm.languages() or pairs_data.languages_with_prompts(inspector.engine, tables),
        reasons=reasons,
        sorts=list(SORTS.items()),
        kept=view.carried_on(_FORM),
    )
    if view.id:
        return Content(
            Markup(filters), Markup(_detail(inspector, tables, view, focus.viewer)), view if said else None, said
        )
    page = pairs_data.list_pairs(inspector.engine, tables, view)
    lengths = (view.sample_length_min, view.sample_length_max)
    rewards = (view.sample_reward_min, view.sample_reward_max)
    sample_filter = ""
    if lengths + rewards != (None,) * 4:  # a cell of the plot on Margins was clicked
        sample_filter = (
            f"Prompts with a sample of {_range(*lengths, 0)} characters and a reward of {_range(*rewards, 2)}"
        )
    main = render("pairs_list", view=view, page=page, size=pairs_data.PAGE_ROWS, sample_filter=sample_filter)
    return Content(Markup(filters), Markup(main), view if said else None, said)


def _range(low: float | None, high: float | None, digits: int) -> str:
    """'2 to 3', 'from 2', 'below 3' or 'any number of'."""
    if low is None:
        return "any number of" if high is None else f"below {number(high, digits)}"
    return f"from {number(low, digits)}" + ("" if high is None else f" to {number(high, digits)}")


def _detail(inspector: Inspector, tables: pairs_data.PairTables, view: View, viewer: Viewer | None = None) -> str:
    """One prompt: its pair and why it is one, all its samples, and its neighbours in the list.

    viewer: who is shown what people said of the pair; None shows nobody.
    """
    language = view.id_language or view.language
    if not language:  # a link that names none opens the prompt in the first language that has it
        language = next(iter(pairs_data.languages_with(inspector.engine, tables, view.id)), "")
    near = pairs_data.neighbours(inspector.engine, tables, replace(view, id_language=language))
    detail = pairs_data.pair_detail(inspector.engine, tables, language, view.id, view.pair)
    pair = detail.pair
    after_length = {sample["sample_index"]: _after_length(detail, sample) for sample in detail.samples}
    # Log-probabilities of the chosen and the rejected sample, under the reward that makes the pairs.
    own = {side: end["rewards"].get(detail.kinds[0]) for side, end in detail.ends.items() if detail.kinds}
    foreign = {
        sample["sample_index"]: dict(inspector.marker(sample["response"], language)) for sample in detail.samples
    }
    diff = word_diff(pair["chosen"], pair["rejected"]) if pair else None
    differences = {"chosen": diff.left, "rejected": diff.right} if diff else {}
    # A pool's pair may be of two languages: what is foreign to each side is told by its own.
    sides = {
        side: marked(
            pair[side],
            dict(inspector.marker(pair[side], pair.get(f"{side}_language") or language)),
            spans,
            side,
            view.q,
        )
        for side, spans in differences.items()
        if pair
    }
    return render(
        "pair_detail",
        view=view,
        detail=detail,
        diff=diff,
        lines=sides,
        sample_lines={
            sample["sample_index"]: marked(sample["response"], foreign[sample["sample_index"]], query=view.q)
            for sample in detail.samples
        },
        near=near,
        why=_why(detail, after_length),
        said=_said(inspector, view, viewer, language, pair) if pair and viewer is not None else "",
        after_length=after_length,
        list_start=(near.place - 1) // pairs_data.PAGE_ROWS * pairs_data.PAGE_ROWS if near else 0,
        chosen=own.get("chosen"),
        rejected=own.get("rejected"),
        thoughts={side: detail.ends.get(side, {}).get("thought") for side in ("chosen", "rejected")} if pair else {},
        translated_from={side: _translated_from(pair, side) for side in ("chosen", "rejected")} if pair else {},
    )


def _said(inspector: Inspector, view: View, viewer: Viewer, language: str, pair: ResultRow) -> Markup:
    """What people said of a pair."""
    item = Item("pair", view.iteration or 0, None, language, view.id, pair.get("pair_index") or 0)
    return item_verdicts.section(inspector, view.run, viewer, item, view)


def _after_length(detail: pairs_data.PairDetail, sample: ResultRow) -> float | None:
    """Length-controlled reward of a sample, the one that ranks it; None without a reward or a pair."""
    if detail.pair is None or detail.pair["margin"] is None or sample["reward"] is None:
        return None
    return float(sample["reward"] - detail.pair["length_penalty_alpha"] * sample["character_count"])


def _translated_from(pair: ResultRow, side: str) -> str:
    """Language that a side of a pair was translated from; '' for one as it was sampled, or of an older table."""
    return str(pair.get(f"{side}_translated_from") or "")


def _why_translated(pair: ResultRow) -> str:
    """Why a pair that no reward made is one."""
    said = [
        f"the {side} response was translated from {language_label(code)}"
        for side in ("chosen", "rejected")
        if (code := _translated_from(pair, side))
    ]
    rule = "No reward made this pair"
    return f"{rule}: {' and '.join(said)}." if said else f"{rule}."


def _why(detail: pairs_data.PairDetail, after_length: Mapping[int, float | None]) -> str:
    """Why these two samples make the pair, in a sentence; '' without one."""
    pair = detail.pair
    if pair is not None and pair["margin"] is None:
        return _why_translated(pair)
    if pair is None or not detail.kinds:
        return ""
    usable = {
        index: value
        for sample in detail.samples
        if not sample["dropped"] and (value := after_length[index := sample["sample_index"]]) is not None
    }
    chosen, rejected = pair["chosen_index"], pair["rejected_index"]
    if others := [pair[name] for name in ("chosen_language", "rejected_language") if pair.get(name)]:
        return (
            f"Why this pair: of the samples of all languages, the pool, sample {chosen} has a higher reward after length is taken off than "
            f"sample {rejected}; one of them answers the prompt in {language_name(others[0])}."
        )
    dropped = len(detail.samples) - len(usable)
    of_usable = f"of {len(usable)} usable samples{f' ({dropped} were dropped)' if dropped else ''}"
    # With an upper bound on the chosen reward, a higher sample may have been passed over; a further pair takes the next ones.
    is_highest = chosen in usable and usable[chosen] >= max(usable.values()) - 1e-9
    highest = "highest" if is_highest else f"{'next' if pair.get('pair_index') else ''} highest allowed".strip()
    is_lowest = rejected in usable and usable[rejected] <= min(usable.values()) + 1e-9
    if is_lowest:
        lowest = "the lowest"
    else:
        lower = sum(value < usable[rejected] - 1e-9 for value in usable.values()) if rejected in usable else 0
        lowest = f"the one that the rule of pairs takes, with {lower} lower ones"
    return f"Why this pair: {of_usable}, sample {chosen} has the {highest} reward after length is taken off, sample {rejected} {lowest}."
