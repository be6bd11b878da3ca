"""Verdicts leave the inspector as files: tables, preferences for training, labelled pairs. `publishing` adds them to their MLflow run."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow.parquet as pq

from icr_platform.core.conversations import Conversation
from icr_platform.core.errors import InputError
from icr_platform.core.own_folders import own_folder
from icr_platform.core.schemas import TableSchema
from ui.review.counted import counted
from ui.review.items import Facts, facts_of, item_of
from ui.review.verdict_summary import Judged, by_item
from ui.review.verdicts import COLUMNS, VERDICTS_SCHEMA, Verdict, verdicts_table
from ui.tables.run_tables import RunTables
from ui.tables.runs import ArmRecord

PREFERENCES = "preferences-trl.jsonl"
LABELLED_PAIRS = "labelled-pairs.jsonl"
VERDICTS = TableSchema("verdicts", 2, VERDICTS_SCHEMA)


def export(tables: RunTables, arm: ArmRecord, verdicts: Sequence[Verdict], folder: Path | None = None) -> list[str]:
    """Paths of the verdicts as CSV and Parquet, of the decided ones as a preference data set in TRL's format, and of all judged items as
    labelled pairs, which `icr reward-bench --pairs` reads.

    The last two are of blind verdicts of random queues. Those of targeted queues, and open ones, have files of their own
    (`labelled-pairs-targeted.jsonl`, `labelled-pairs-open.jsonl`, ...), where there are any.

    folder: where to write; a new temporary one without it.

    Raises:
        InputError: there is no verdict.
    """
    if not verdicts:
        raise InputError("There are no verdicts to export yet; record some on Spot-check.")
    folder = folder or Path(tempfile.mkdtemp(dir=own_folder("exports")))
    folder.mkdir(parents=True, exist_ok=True)
    table, found = [_private(folder / f"verdicts.{end}") for end in ("csv", "parquet")], counted(verdicts)
    table[0].write_text(to_csv(verdicts), encoding="utf-8")
    pq.write_table(verdicts_table(verdicts), table[1])
    files = [*table, *_export_items(tables, arm, found.blind, folder, "")]
    for end, apart in (("-targeted", found.targeted), ("-open", found.open)):
        if apart:
            files += _export_items(tables, arm, apart, folder, end)
    return list(map(str, files))


def _export_items(
    tables: RunTables, arm: ArmRecord, verdicts: Sequence[Verdict], folder: Path, end: str
) -> tuple[Path, Path]:
    """Preferences and labelled pairs of the items that some verdicts are about, each with their majority."""
    names = [Path(name) for name in (PREFERENCES, LABELLED_PAIRS)]
    preferences, labelled = (_private(folder / f"{name.stem}{end}{name.suffix}") for name in names)
    with preferences.open("w", encoding="utf-8") as preferred, labelled.open("w", encoding="utf-8") as pairs:
        for judged in by_item(verdicts):
            facts = facts_of(tables, arm, item_of(judged.verdict))
            texts = {side.name: side.text for side in (facts.first, facts.second)}
            pairs.write(labelled_row(judged, facts) + "\n")
            # Ties and draws are left out of preferences: DPO learns from a side that is better.
            if judged.preferred:
                preferred.write(trl_row(facts.asked, texts, judged.preferred) + "\n")
    return preferences, labelled


def _private(path: Path) -> Path:
    """An empty file: reviewers' names and notes are their owner's alone from the start."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    return path


def labelled_row(judged: Judged, facts: Facts) -> str:
    """One line of labelled pairs: both responses of an item and the side that most reviewers prefer; without one it is a tie."""
    names = {facts.first.name: "a", facts.second.name: "b"}
    english = facts.english
    return json.dumps(
        {
            "id": judged.verdict.prompt_id,
            "language": judged.verdict.language,
            "category": judged.verdict.kind,
            "messages": facts.asked.messages,
            **({"english_messages": english.messages} if english.instruction else {}),
            "response_a": facts.first.text,
            "response_b": facts.second.text,
            "winner": names.get(judged.preferred, "tie"),
        },
        ensure_ascii=False,
    )


def to_csv(verdicts: Iterable[Verdict]) -> str:
    """One line per verdict. Text that a spreadsheet would take for a formula gets a quote in front."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    for verdict in verdicts:
        values = {**asdict(verdict), "reasons": "|".join(verdict.reasons)}
        writer.writerow([f"'{values[name]}" if _is_formula(values[name]) else values[name] for name in COLUMNS])
    return out.getvalue()


def _is_formula(value: object) -> bool:
    return isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))


def trl_row(asked: Conversation, texts: dict[str, str], preferred: str) -> str:
    """One line of TRL's conversational preference format: prompt, chosen, rejected, each a list of messages.

    Args:
        texts: the two sides by name, of which `preferred` is one.
    """
    (rejected,) = [text for name, text in texts.items() if name != preferred]
    return json.dumps(
        {
            "prompt": asked.messages,
            "chosen": [{"role": "assistant", "content": texts[preferred]}],
            "rejected": [{"role": "assistant", "content": rejected}],
        },
        ensure_ascii=False,
    )
