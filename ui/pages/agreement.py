"""Agreement: do people prefer what the implicit reward and the judge prefer, and do they agree with each other."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pyarrow.parquet as pq
from markupsafe import Markup

from icr_platform.core.artifacts import ArtifactWriter
from icr_platform.core.errors import InputError
from icr_platform.core.schemas import TableSchema
from ui.html.rendering import render
from ui.review import items, verdict_summary
from ui.review.inspector import Content, Focus, Inspector
from ui.review.items import Item
from ui.review.verdicts import VERDICTS_SCHEMA, Verdict, verdicts_table

VERDICTS = TableSchema("verdicts", 1, VERDICTS_SCHEMA)


def show(inspector: Inspector, focus: Focus) -> Content:
    """Accuracy of reward, judge and length against people, and agreement between people."""
    view = focus.view
    verdicts = _current(inspector, focus)
    judged = verdict_summary.by_item(verdicts)
    languages = sorted({*focus.arm.languages(), *(v.language for v in verdicts)}, key=lambda code: (code != "en", code))
    filters = render("overview_filters", view=view, languages=languages)
    main = render(
        "agreement",
        view=view,
        verdicts=verdicts,
        judged=judged,
        overall=verdict_summary.accuracies(judged, {}),
        tables=[
            ("By language", verdict_summary.accuracies([], verdict_summary.by_language(judged))),
            ("By margin", verdict_summary.accuracies([], verdict_summary.by_margin(judged))),
        ],
        labels=verdict_summary.SOURCES,
        reliability=verdict_summary.reliability(verdicts),
        reviewers=_by_reviewer(verdicts),
        half_width=100 * verdict_summary.TARGET_HALF_WIDTH,
    )
    return Content(Markup(filters), Markup(main))


def _current(inspector: Inspector, focus: Focus) -> list[Verdict]:
    found = inspector.verdicts.current(focus.arm.run.run_id)
    return [verdict for verdict in found if focus.view.language in ("", verdict.language)]


def _by_reviewer(verdicts: list[Verdict]) -> list[dict[str, object]]:
    """Per reviewer: verdicts, how they fell, median seconds."""
    import statistics

    rows = []
    for name in sorted({verdict.reviewer for verdict in verdicts}):
        own = [verdict for verdict in verdicts if verdict.reviewer == name]
        counts = {
            choice: sum(v.choice == choice for v in own) for choice in ("left", "right", "tie", "both-bad", "skip")
        }
        rows.append({"name": name, "n": len(own), "seconds": statistics.median(v.seconds for v in own), **counts})
    return rows


def export(inspector: Inspector, focus: Focus) -> list[str]:
    """Paths of the verdicts as CSV and Parquet, and of the decided ones as a preference data set in TRL's format.

    Raises:
        InputError: there is no verdict.
    """
    verdicts = _current(inspector, focus)
    if not verdicts:
        raise InputError("There are no verdicts to export yet; record some on Spot-check.")
    folder = Path(tempfile.mkdtemp(prefix="icr-verdicts-"))
    (folder / "verdicts.csv").write_text(verdict_summary.to_csv(verdicts), encoding="utf-8")
    pq.write_table(verdicts_table(verdicts), folder / "verdicts.parquet")
    rows = [
        row
        for judged in verdict_summary.by_item(verdicts)
        if judged.preferred
        for row in _trl(inspector, focus, judged)
    ]
    (folder / "preferences-trl.jsonl").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    return [str(folder / name) for name in ("verdicts.csv", "verdicts.parquet", "preferences-trl.jsonl")]


def _trl(inspector: Inspector, focus: Focus, judged: verdict_summary.Judged) -> list[str]:
    verdict = judged.verdict
    item = Item(verdict.kind, verdict.iteration, verdict.base, verdict.language, verdict.prompt_id)
    facts = items.facts_of(inspector, focus.arm, item)
    texts = {side.name: side.text for side in (facts.first, facts.second)}
    return [verdict_summary.trl_row(facts.instruction, texts, judged.preferred)]


def publish(inspector: Inspector, run_id: str) -> int:
    """Add a run's verdicts to its MLflow run: the whole history as table `verdicts`, and agreement as metrics. Returns their number.

    Raises:
        InputError: no such run, or it has no verdict.
        IcrError: the store or the server does not answer; what was published before stays.
    """
    arm = inspector.catalogue.arm(run_id)
    history = inspector.verdicts.history(run_id)
    if not history:
        raise InputError(f"Run {run_id} has no verdicts yet; record some on Spot-check.")
    with tempfile.TemporaryDirectory(prefix="icr-verdicts-") as folder:
        writer = ArtifactWriter(Path(folder) / "verdicts", VERDICTS, fingerprint=f"{run_id}/{len(history)}")
        writer.write_part(0, verdicts_table(history))
        writer.close(1)
        metrics = verdict_summary.metrics_of(inspector.verdicts.current(run_id))
        inspector.catalogue.reader.attach(arm.run.run_id, Path(folder) / "verdicts", "verdicts", metrics)
    return len(history)
