"""The description of an arm's run on its MLflow page: what was run, what came out, and where the rest is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from icr_platform.report.iteration_metrics import MEANS, IterationMetrics, languages_of, row_name
from icr_platform.report.numbers import number

NOTE = "mlflow.note.content"
"""Tag that MLflow shows, as Markdown, at the top of a run's page."""
_TABLES = (
    ("win_rate", "Win rate, %"),
    ("lc_win_rate", "Length-controlled win rate, %"),
    ("fidelity", "Outputs in the asked language, %"),
)
_MOST_ROWS = 40


def what_is_run(title: str, facts: Mapping[str, object], iterations: Sequence[IterationMetrics] = ()) -> str:
    """Markdown of what an arm runs, and, once there are iterations, what came of it: MLflow folds all but the first lines.

    Args:
        facts: by name, in the order to read; empty ones are left out.

    >>> print(what_is_run("Arm", {"policy": "org/model", "languages": ("en", "es"), "seed": 0, "judge": ""}))
    **Arm**
    <BLANKLINE>
    policy `org/model`, languages `en,es`, seed `0`
    >>> measured = [IterationMetrics(0, {"win_rate/es": 40.0}), IterationMetrics(1, {"win_rate/es": 52.25})]
    >>> print(what_is_run("Arm", {}, measured).splitlines()[0])
    **Arm; win rate, % 40.0 → 52.3 (Spanish)**
    """
    said = (
        (name, ",".join(map(str, value)) if isinstance(value, tuple) else str(value)) for name, value in facts.items()
    )
    return (
        f"**{title}{_headline(iterations)}**\n\n{', '.join(f'{name} {_code(value)}' for name, value in said if value)}"
    )


def _headline(iterations: Sequence[IterationMetrics]) -> str:
    """The mean over non-English languages, or the last language, of the first of _TABLES, iteration by iteration."""
    for metric, title in _TABLES:
        if codes := languages_of(iterations, metric):
            values = " → ".join(number(measured.metrics.get(f"{metric}/{codes[-1]}"), 1) for measured in iterations)
            name = row_name(codes[-1])
            return f"; {title[0].lower()}{title[1:]} {values} ({name[0].lower() + name[1:] if codes[-1] in MEANS else name})"
    return ""


def what_came_out(iterations: Sequence[IterationMetrics], links: Mapping[str, str]) -> str:
    """Markdown of the first of _TABLES that was measured, and links: addresses by what they lead to.

    >>> print(what_came_out([IterationMetrics(0, {"fidelity/es": 99.0})], {"report": "#/r"}))
    Outputs in the asked language, %
    <BLANKLINE>
    | | π0 |
    |---|---:|
    | Spanish | 99.0 |
    <BLANKLINE>
    [report](#/r)
    """
    paragraphs = []
    for metric, title in _TABLES:
        if codes := languages_of(iterations, metric):
            # Of many languages the means, which come last, say the most.
            rows = [_row(row_name(code), iterations, f"{metric}/{code}") for code in codes[-_MOST_ROWS:]]
            heads = "".join(f" π{measured.iteration} |" for measured in iterations)
            paragraphs += [title, "\n".join([f"| |{heads}", f"|---|{'---:|' * len(iterations)}", *rows])]
            break
    paragraphs.append(" · ".join(f"[{name}]({address})" for name, address in links.items()))
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph)


def _row(name: str, iterations: Sequence[IterationMetrics], metric: str) -> str:
    return f"| {name} |{''.join(f' {number(measured.metrics.get(metric), 1)} |' for measured in iterations)}"


def _code(text: str) -> str:
    """Text as Markdown shows it letter by letter."""
    shown = " ".join(text.split()).replace("`", "'")
    return f"`{shown}`"
