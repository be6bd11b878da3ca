"""Tables for the terminal: an arm's win rates, one evaluation, a head-to-head comparison, and the leaderboard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from rich.table import Table
from rich.text import Text

from icr_platform.report.cost_table import cost_rows
from icr_platform.report.evidence import LENGTH, Seen, evidence_of
from icr_platform.report.iteration_metrics import MEANS, IterationMetrics, Measured, languages_of, measured_of, row_name
from icr_platform.report.leaderboard import COST_COLUMN, OWN


def terminal_table(
    iterations: Sequence[IterationMetrics], prefix: str = "win_rate", title: str = "Win rate, %"
) -> Table:
    """An arm: languages x iterations, each with its standard error and the change against the iteration before."""
    table = Table(title=f"{title} (± standard error, change against the iteration before)", title_justify="left")
    table.add_column("Language")
    for measured in iterations:
        table.add_column(f"pi_{measured.iteration}", justify="right")
    for code in languages_of(iterations, prefix):
        cells = [_cell(measured) for measured in measured_of(iterations, prefix, code)]
        table.add_row(Text(row_name(code), "bold" if code in MEANS else ""), *cells)
    return table


def _cell(measured: Measured, digits: int = 1) -> Text:
    if measured.value is None:
        return Text("-")
    text = Text(f"{measured.value:.{digits}f}")
    if measured.standard_error is not None:
        text.append(f" ± {measured.standard_error:.1f}", "dim")
    if measured.change is not None:
        text.append(
            f" {measured.change:+.1f}", "green" if measured.change > 0 else "red" if measured.change < 0 else ""
        )
    return text


def cost_terminal_table(iterations: Sequence[IterationMetrics], devices: str = "") -> Table:
    """What an arm cost: a row per measure, with the whole arm last; no row where nothing was counted. devices: what it ran on."""
    table = Table(title=f"Cost{f' (on {devices})' if devices else ''}", title_justify="left")
    table.add_column("")
    for measured in iterations:
        table.add_column(f"pi_{measured.iteration}", justify="right")
    table.add_column("arm", justify="right")
    for row in cost_rows(iterations):
        table.add_row(row.name, *(cell or "-" for cell in row.cells), Text(row.total, "bold"))
    return table


def evidence_terminal_tables(iterations: Sequence[IterationMetrics]) -> list[Table]:
    """What was seen without a judge: a row per language, from the first to the last iteration that has each figure."""
    tables = []
    for group, found in evidence_of(iterations):
        main = [evidence for evidence in found if evidence.kind.is_main]
        # Kinds with variants have many columns, and a table each; the others stand side by side.
        plain = [evidence for evidence in main if not evidence.kind.named]
        for kinds in (*([evidence] for evidence in main if evidence.kind.named), *([plain] if plain else [])):
            named = kinds[0].kind.named
            title = f"{group.title} {kinds[0].kind.title}, %" if named else f"{group.title} %"
            table = Table(title=f"{title} (95% interval of the last)", title_justify="left")
            table.add_column("Language")
            columns = [(evidence, variant) for evidence in kinds for variant in evidence.variants]
            for evidence, variant in columns:
                table.add_column(variant or evidence.kind.title, justify="right")
            cells = {(one.kind, row.variant, row.language): row.figures for one in kinds for row in one.rows}
            for code in dict.fromkeys(row.language for one in kinds for row in one.rows):
                own = [_first_and_last(cells.get((one.kind, variant, code), ())) for one, variant in columns]
                table.add_row(Text(row_name(code), "bold" if code in MEANS else ""), *own)
            tables.append(table)
    return tables


_OWN_COLUMNS = (
    ("own_reward_accuracy", "pairs ranked right"),
    ("own_reward_accuracy_raw", "before length control"),
    ("own_reward_auc", "AUC within a prompt"),
)


def own_samples_terminal_table(iteration: int, metrics: Mapping[str, float]) -> Table:
    """How well the reward ranks the samples that an iteration is about to train on: a row per language, no row without a figure."""
    title = f"Iteration {iteration}, before it trains: is the reward right on pi_{iteration - 1}'s own samples? % (95% interval)"
    table = Table(title=title, title_justify="left")
    table.add_column("Language")
    kinds = {one.kind.metric: one for _, found in evidence_of([IterationMetrics(iteration, metrics)]) for one in found}
    columns = [
        (metric, variant, heading)
        for metric, heading in _OWN_COLUMNS
        if metric in kinds
        for variant in kinds[metric].variants
        if variant != LENGTH or metric == _OWN_COLUMNS[0][0]  # it is the same before and after length control
    ]
    for _, variant, heading in columns:
        table.add_column(f"{variant}: {heading}", justify="right")
    cells = {(name, row.variant, row.language): row.figures for name, one in kinds.items() for row in one.rows}
    codes = dict.fromkeys(row.language for metric, _ in _OWN_COLUMNS if metric in kinds for row in kinds[metric].rows)
    for code in codes:
        own = [_first_and_last(cells.get((metric, variant, code), ())) for metric, variant, _ in columns]
        table.add_row(Text(row_name(code), "bold" if code in MEANS else ""), *own)
    return table


def _first_and_last(figures: Sequence[Seen]) -> Text:
    """
    >>> _first_and_last([Seen(70.0), Seen(72.06, (66.1, 77.2))]).plain
    '70.0 > 72.1 (66-77)'
    """
    measured = [figure for figure in figures if figure.value is not None]
    if not measured:
        return Text("-")
    values = [measured[0], measured[-1]] if len(measured) > 1 else measured
    text = Text(" > ".join(f"{figure.value:.1f}" for figure in values))
    if (ends := measured[-1].interval) is not None:
        text.append(f" ({ends[0]:.0f}-{ends[1]:.0f})", "dim")
    return text


_EVAL_COLUMNS = (
    ("win_rate", "Win rate, %", 1),
    ("lc_win_rate", "Length-controlled, %", 1),
    ("win_rate_n", "n", 0),
    ("fidelity", "In its language, %", 1),
    ("truncated", "Truncated, %", 1),
    ("length/ratio", "Length ratio", 2),
    ("thought_tokens/mean", "Thought, tokens", 0),
    ("thought_language_share", "Thought in its language, %", 1),
    ("thought_cut", "Cut within a thought, %", 1),
)
"""Metric, heading, digits."""


def eval_terminal_table(metrics: Mapping[str, float], title: str) -> Table:
    """One policy: a row per language, with standard errors and the number of prompts; what was not measured has no column."""
    once = [IterationMetrics(0, metrics)]
    columns = [column for column in _EVAL_COLUMNS if languages_of(once, column[0])]
    table = Table(title=f"{title} (± standard error)", title_justify="left")
    table.add_column("Language")
    for _, heading, _ in columns:
        table.add_column(heading, justify="right")
    for code in languages_of(once, *(prefix for prefix, _, _ in columns)):
        cells = [_cell(measured_of(once, prefix, code)[0], digits) for prefix, _, digits in columns]
        table.add_row(Text(row_name(code), "bold" if code in MEANS else ""), *cells)
    return table


def head_to_head_terminal_table(table: pd.DataFrame) -> Table:
    """A comparison with another policy, per language: `evaluation.comparison.head_to_head_table`."""
    shown = Table(title="Head to head: does it beat the reference policy (50% is even)?", title_justify="left")
    for heading in ("Language", "Win rate, %", "95% interval", "p", "p, Holm", "n"):
        shown.add_column(heading, justify="left" if heading == "Language" else "right")
    for row in table.to_dict("records"):
        # NaN (unequal to itself) stands where a language has too few prompts for an interval.
        interval = "-" if row["low"] != row["low"] else f"{row['low']:.1f} to {row['high']:.1f}"
        chances = ("-" if p != p else f"{p:.4f}" for p in (row["p_value"], row["adjusted_p_value"]))
        shown.add_row(row_name(row["language"]), f"{row['win_rate']:.1f}", interval, *chances, str(row["n"]))
    return shown


def instructions_terminal_tables(scores: pd.DataFrame, kinds: pd.DataFrame) -> list[Table]:
    """Verifiable instructions: a row per language and source (`evaluation.instruction_scores.score_table`), and the strict reading of
    each kind by language (`kind_table`)."""
    levels = (("prompt_accuracy", "Prompts"), ("instruction_accuracy", "Instructions"))
    table = Table(title="Instructions followed, % (95% interval)", title_justify="left")
    table.add_column("Language")
    for heading in (
        *(f"{name}, {reading}" for _, name in levels for reading in ("strict", "loose")),
        "Unverified",
        "Prompts",
    ):
        table.add_column(heading, justify="right")
    for row in scores.to_dict("records"):
        name = row_name(row["language"]) + (f" ({row['source']})" if row["source"] else "")
        cells = [
            _share(row[f"{level}/{reading}"], row[f"{level}_low/{reading}"], row[f"{level}_high/{reading}"])
            for level, _ in levels
            for reading in ("strict", "loose")
        ]
        table.add_row(name, *cells, f"{row['unverified']:.1f}", str(row["prompts"]))
    languages = list(dict.fromkeys(zip(kinds["language"], kinds["source"], strict=True)))
    by_kind = Table(title="Instructions followed by kind, strict, %", title_justify="left")
    by_kind.add_column("Kind")
    for language, source in languages:
        by_kind.add_column(f"{language} {source}".strip(), justify="right")
    cells_of = {(row["instruction_id"], row["language"], row["source"]): row for row in kinds.to_dict("records")}
    for kind in sorted(kinds["instruction_id"].unique()):
        found = (cells_of.get((kind, *place)) for place in languages)
        by_kind.add_row(kind, *("-" if row is None or not row["n"] else f"{row['strict']:.0f}" for row in found))
    return [table, by_kind]


def instruction_changes_terminal_table(changes: pd.DataFrame) -> Table:
    """The difference from an earlier policy, strict, per language: `evaluation.instruction_scores.change_table`."""
    table = Table(title="Prompts followed, strict, against the baseline (paired by prompt)", title_justify="left")
    for heading in ("Language", "Before, %", "After, %", "Points", "Gained", "Lost", "p, McNemar", "p, Holm", "n"):
        table.add_column(heading, justify="left" if heading == "Language" else "right")
    for row in changes[changes["reading"] == "strict"].to_dict("records"):
        points = _share(row["difference"], row["low"], row["high"], "+.1f")
        counts = (str(row["gained"]), str(row["lost"]))
        chances = (f"{row['p_value']:.4f}", f"{row['adjusted_p_value']:.4f}")
        rates = (f"{row['before']:.1f}", f"{row['after']:.1f}")
        table.add_row(row_name(row["language"]), *rates, points, *counts, *chances, str(row["n"]))
    return table


def _share(value: float, low: float, high: float, form: str = ".1f") -> Text:
    """
    >>> _share(72.06, 66.1, 77.2).plain, _share(float("nan"), 0, 0).plain
    ('72.1 (66-77)', '-')
    >>> _share(-3.2, -8.4, 2.0, "+.1f").plain
    '-3.2 (-8 to +2)'
    """
    if value != value:
        return Text("-")
    text = Text(f"{value:{form}}")
    if low == low:
        text.append(f" ({low:.0f}-{high:.0f})" if form == ".1f" else f" ({low:+.0f} to {high:+.0f})", "dim")
    return text


def leaderboard_terminal_table(table: pd.DataFrame) -> Table:
    """A leaderboard of win rates: the run's own rows are bold, and each row names its source."""
    codes = [name for name in table.columns if name not in ("model", "source", COST_COLUMN)]
    costs = [COST_COLUMN] if COST_COLUMN in table.columns else []
    title = "Win rate, %, with published X-AlpacaEval figures (other models, other judge runs)"
    shown = Table(title=title, title_justify="left")
    for name in ("Model", *map(row_name, codes), *(["Cost"] if costs else []), "Source"):
        shown.add_column(name, justify="left" if name in ("Model", "Source") else "right")
    for row in table.to_dict("records"):
        cells = ["-" if row[code] != row[code] else f"{row[code]:.2f}" for code in codes]
        cells += [str(row[name]) for name in costs]
        shown.add_row(str(row["model"]), *cells, str(row["source"]), style="bold" if row["source"] == OWN else "")
    return shown


def reward_accuracy_terminal_tables(accuracy: pd.DataFrame, comparison: pd.DataFrame) -> list[Table]:
    """Accuracy of each kind of reward: by language, by category, and the kinds against each other.

    Args:
        accuracy: as `evaluation.reward_tables.accuracy_table`. comparison: as `comparison_table`.
    """
    tables = []
    for source, rows in accuracy.groupby("source", sort=False):
        over_all = rows[rows["category"] == ""]
        tables.append(_accuracies(over_all, "language", f"Reward accuracy, % ({source}; 95% interval)"))
        means = rows[(rows["category"] != "") & rows["language"].isin(_means_of(rows))]
        if len(means):
            tables.append(_accuracies(means, "category", f"Reward accuracy by category, % ({source}; 95% interval)"))
    together = comparison[comparison["language"].isin(["all", *_only(comparison["language"])])]
    shown = Table(title="Kinds on the same pairs (difference in points; exact paired test)", title_justify="left")
    is_told = together["source"].nunique() > 1
    for heading in (*(["Source"] if is_told else []), "Kind", "against"):
        shown.add_column(heading)
    for heading in ("Difference", "only the first right", "only the second", "p", "p, Holm", "n"):
        shown.add_column(heading, justify="right")
    for row in together.to_dict("records"):
        figures = (f"{row['difference']:+.1f}", str(row["first_only"]), str(row["second_only"]))
        chances = (f"{float(row[name]):.4f}" for name in ("p_value", "p_holm"))
        told = [str(row["source"])] if is_told else []
        shown.add_row(*told, row["first"], row["second"], *figures, *chances, str(row["n"]))
    return [*tables, shown] if len(together) else tables


def _only(languages: pd.Series) -> list[str]:
    """The one language of a comparison that has no other."""
    names = list(languages.unique())
    return names if len(names) == 1 else []


def _means_of(rows: pd.DataFrame) -> list[str]:
    """The language whose rows say what holds over all."""
    return ["mean"] if (rows["language"] == "mean").any() else list(rows["language"].unique())


def _accuracies(rows: pd.DataFrame, by: str, title: str) -> Table:
    kinds = list(dict.fromkeys(rows["kind"]))
    shown = Table(title=title, title_justify="left")
    shown.add_column(by.capitalize())
    for kind in kinds:
        shown.add_column(kind, justify="right")
    shown.add_column("n", justify="right")
    for name in dict.fromkeys(rows[by]):
        cells = {row["kind"]: row for row in rows[rows[by] == name].to_dict("records")}
        texts = [
            f"{float(cell['accuracy']):.1f} ({float(cell['low']):.1f} to {float(cell['high']):.1f})"
            if (cell := cells.get(kind))
            else "-"
            for kind in kinds
        ]
        shown.add_row(
            Text(row_name(name) if by == "language" else name, "bold" if name in MEANS else ""),
            *texts,
            str(max(int(cell["n"]) for cell in cells.values())),
        )
    return shown
