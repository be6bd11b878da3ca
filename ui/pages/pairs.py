"""Pairs: why a pair was chosen, with everything about its prompt beside it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from markupsafe import Markup

from icr_platform.report.numbers import number
from ui.html.rendering import render, word_diff
from ui.pages.inspector import Content, Focus, Inspector
from ui.tables import pairs_data
from ui.tables.queries import Row
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
    filters = render(
        "pairs_filters",
        view=view,
        iterations=[t.number for t in focus.arm.iterations],
        languages=focus.arm.languages() or pairs_data.languages_of(inspector.engine, tables),
        reasons=pairs_data.drop_reasons(inspector.engine, tables, view.language),
        sorts=list(SORTS.items()),
        kept=view.carried_on(_FORM),
    )
    main = _detail(inspector, tables, view) if view.id else _list(inspector, tables, view)
    return Content(Markup(filters), Markup(main))


def _list(inspector: Inspector, tables: pairs_data.PairTables, view: View) -> str:
    page = pairs_data.list_pairs(inspector.engine, tables, view)
    return render("pairs_list", view=view, page=page, size=pairs_data.PAGE_ROWS, sample_filter=_sample_filter(view))


def _sample_filter(view: View) -> str:
    """What the cell of Margins that was clicked holds, in words; '' without one."""
    lengths = (view.sample_length_min, view.sample_length_max)
    rewards = (view.sample_reward_min, view.sample_reward_max)
    if lengths == rewards == (None, None):
        return ""
    return f"Prompts with a sample of {_range(*lengths, 0)} characters and a reward of {_range(*rewards, 2)}"


def _range(low: float | None, high: float | None, digits: int) -> str:
    """'2 to 3', 'from 2', 'below 3' or 'any number of'."""
    if low is None:
        return "any number of" if high is None else f"below {number(high, digits)}"
    return f"from {number(low, digits)}" + ("" if high is None else f" to {number(high, digits)}")


def _detail(inspector: Inspector, tables: pairs_data.PairTables, view: View) -> str:
    language = view.id_language or view.language or _language(inspector, tables, view)
    near = pairs_data.neighbours(inspector.engine, tables, replace(view, id_language=language))
    detail = pairs_data.pair_detail(inspector.engine, tables, language, view.id)
    pair = detail.pair
    diff = word_diff(pair["chosen"], pair["rejected"]) if pair else None
    return render(
        "pair_detail",
        view=view,
        detail=detail,
        diff=diff,
        near=near,
        why=_why(detail),
        after_length={sample["sample_index"]: _after_length(detail, sample) for sample in detail.samples},
        list_start=(near.place - 1) // pairs_data.PAGE_ROWS * pairs_data.PAGE_ROWS if near else 0,
        chosen=_scores(detail, pair["chosen_index"]) if pair else None,
        rejected=_scores(detail, pair["rejected_index"]) if pair else None,
    )


def _why(detail: pairs_data.PairDetail) -> str:
    """Why these two samples make the pair, in a sentence; '' without one."""
    pair = detail.pair
    if pair is None or not detail.kinds:
        return ""
    usable = {
        sample["sample_index"]: value
        for sample in detail.samples
        if not sample["dropped"] and (value := _after_length(detail, sample)) is not None
    }
    chosen, rejected = pair["chosen_index"], pair["rejected_index"]
    dropped = len(detail.samples) - len(usable)
    # With an upper bound on the chosen reward, a higher sample may have been passed over.
    is_highest = chosen in usable and usable[chosen] >= max(usable.values()) - 1e-9
    return (
        f"Why this pair: of {len(usable)} usable samples{f' ({dropped} were dropped)' if dropped else ''}, sample {chosen} has the "
        f"highest {'' if is_highest else 'allowed '}reward after length is taken off, sample {rejected} the lowest."
    )


def _after_length(detail: pairs_data.PairDetail, sample: Row) -> float | None:
    """Length-controlled reward of a sample, the one that ranks it; None without a reward or a pair."""
    scored = sample["rewards"].get(detail.kinds[0]) if detail.kinds else None
    if detail.pair is None or scored is None or scored["reward"] is None:
        return None
    return float(scored["reward"] - detail.pair["length_penalty_alpha"] * sample["character_count"])


def _language(inspector: Inspector, tables: pairs_data.PairTables, view: View) -> str:
    """A language that has the prompt id, for links that name none."""
    found = pairs_data.languages_with(inspector.engine, tables, view.id)
    return found[0] if found else ""


def _scores(detail: pairs_data.PairDetail, sample_index: int) -> dict[str, Any] | None:
    """Log-probabilities of a sample under the reward that makes the pairs."""
    for sample in detail.samples:
        if sample["sample_index"] == sample_index and detail.kinds and detail.kinds[0] in sample["rewards"]:
            return dict(sample["rewards"][detail.kinds[0]])
    return None
