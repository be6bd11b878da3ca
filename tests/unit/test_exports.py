"""Exported verdicts: every format by each rule, texts as the pages show them, what is gone, who is left out, and files that are whole or not there."""

from __future__ import annotations

import csv
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from icr_platform.core.errors import InputError
from icr_platform.data.labelled_pairs import read_labelled_pairs
from tests.support import synthetic_runs
from ui.pages.inspector import Inspector
from ui.review.exports import FORMATS, Exported, ExportRequest, exporting
from ui.review.items import Item, facts_of, item_of
from ui.review.verdict_store import VerdictStore
from ui.review.verdicts import Verdict
from ui.review.whole_files import written_whole
from ui.server.app import open_inspector
from ui.server.options import InspectOptions

ALL = tuple(FORMATS)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Inspector, str]]:
    """A run of two iterations with conversations, pairs in parts of five of which each third prompt has a second one, and outputs."""
    folder = tmp_path_factory.mktemp("exported")
    tracker = synthetic_runs.open_tracker(folder)
    prompts = synthetic_runs.small_prompts(4)
    place = synthetic_runs.write_prompt_files(folder / "prompts", prompts)
    iterations = {}
    for t in (1, 2):
        first = synthetic_runs.first_answer(50 + t)
        judged = synthetic_runs.evaluated(
            prompts, first, synthetic_runs.first_answer(99), 0.6 * t, 70 + t, {"prompts": str(place)}
        )
        data = synthetic_runs.merged(
            judged, synthetic_runs.sampled(prompts, synthetic_runs.small_answers(10 + t), 20 + t, ("cross-lingual",))
        )
        data = synthetic_runs.with_history(
            data, lambda _, prompt_id: (("user", "Hi"), ("assistant", "Yes?")) if prompt_id == "p1" else ()
        )
        rows = data.tables["preferences"][0].to_pylist()
        several = [
            [
                row | {"pair_index": 0},
                *([row | {"pair_index": 1, "chosen": row["chosen"] + " Two."}] if place_of % 3 == 0 else []),
            ]
            for place_of, row in enumerate(rows)
        ]
        schema = data.tables["preferences"][0].schema
        data.tables["preferences"] = [
            pa.Table.from_pylist([row for pairs in several[start : start + 5] for row in pairs], schema=schema)
            for start in range(0, len(several), 5)
        ]
        iterations[t] = data
    run_id = synthetic_runs.log_arm(tracker, "synthetic-exported", iterations, folder / "artifacts").run_id
    found = open_inspector(
        InspectOptions(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}", verdicts=str(folder / "v.db"))
    )
    yield found, run_id
    found.catalogue.close()


@pytest.fixture
def store(tmp_path: Path) -> VerdictStore:
    return VerdictStore(str(tmp_path / "verdicts.db"))


def pairs_of(inspector: Inspector, run_id: str, iteration: int = 2) -> list[Item]:
    """Items of the pairs that the run has, as they were written."""
    arm = inspector.catalogue.arm(run_id)
    rows = (
        inspector.catalogue.artifact(arm.iteration(iteration), "preferences")
        .read(["language", "prompt_id", "pair_index"])
        .to_pylist()
    )
    return [Item("pair", iteration, None, row["language"], row["prompt_id"], row["pair_index"] or 0) for row in rows]


def vote(run_id: str, item: Item, reviewer: str = "ana", prefers: str = "first", **changes: Any) -> Verdict:
    """prefers: 'first' (chosen, after), 'second', or a choice without a side. What is first stands right."""
    first, second = ("chosen", "rejected") if item.kind == "pair" else ("after", "before")
    fixed: dict[str, Any] = {
        "queue": "random", "left": second, "right": first, "reasons": (), "note": "", "blind": True, "seconds": 9.0, "margin": 1.0,
        "left_characters": 10, "right_characters": 20, "left_score": 0.0, "right_score": 1.0,
        "choice": {"first": "right", "second": "left"}.get(prefers, prefers),
    }  # fmt: skip
    return Verdict(
        submission=uuid.uuid4().hex, reviewer=reviewer, run_id=run_id, item=item.key, kind=item.kind, language=item.language,
        prompt_id=item.prompt_id, iteration=item.iteration, base=item.base, **fixed | changes,
    )  # fmt: skip


def export(
    opened: tuple[Inspector, str], store: VerdictStore, folder: Path, run_id: str = "", **asked: Any
) -> Exported:
    inspector, known = opened
    steps = exporting(inspector, store, run_id or known, folder, ExportRequest(**asked))
    while True:
        try:
            step = next(steps)
            assert 0 <= step.done <= step.total
        except StopIteration as end:
            found: Exported = end.value
            return found


def csv_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_texts_are_those_of_the_pages(opened: tuple[Inspector, str], store: VerdictStore, tmp_path: Path) -> None:
    """Every pair of both iterations and outputs of two: conversations, English, second pairs and samples' numbers."""
    inspector, run_id = opened
    outputs = [Item("outputs", 2, 1, language, f"p{number}") for language in ("es", "zh") for number in range(3)]
    items = [*pairs_of(inspector, run_id, 1), *pairs_of(inspector, run_id), *outputs]
    assert any(item.pair_index for item in items)
    for place, item in enumerate(items):
        store.append(vote(run_id, item, prefers=("first", "second", "tie")[place % 3]))
    found = export(opened, store, tmp_path / "out", formats=ALL)
    assert found.notes == []
    rows = {row["item"]: row for row in csv_rows(tmp_path / "out" / "items.csv")}
    verdicts = csv_rows(tmp_path / "out" / "verdicts.csv")
    assert [row["item"] for row in verdicts] == [item.key for item in items], "in the order given"
    assert len(rows) == len(items)
    arm = inspector.catalogue.arm(run_id)
    pairs = {
        (row["language"], row["prompt_id"], row["pair_index"]): row
        for row in inspector.catalogue.artifact(arm.iteration(2), "preferences").read().to_pylist()
    }
    for place, (item, verdict) in enumerate(zip(items, verdicts, strict=True)):
        facts, row = facts_of(inspector, arm, item), rows[item.key]
        assert (row["first_text"], row["second_text"]) == (facts.first.text, facts.second.text)
        assert (row["instruction"], row["messages"]) == (facts.asked.instruction, facts.asked.json or "")
        assert row["english_instruction"] == facts.english.instruction
        assert (row["first_is"], row["second_is"]) == (facts.first.name, facts.second.name)
        assert row["answer"] == (facts.first.name, facts.second.name, "tie")[place % 3]
        assert verdict["preferred"] == (facts.first.name, facts.second.name, "")[place % 3]
        assert (verdict["iteration"], verdict["base"]) == (
            str(item.iteration),
            "" if item.base is None else str(item.base),
        )
        if item.kind == "pair" and item.iteration == 2:
            pair = pairs[item.language, item.prompt_id, item.pair_index]
            for shown in (row, verdict):
                indices = [shown[name] for name in ("pair_index", "chosen_index", "rejected_index")]
                assert indices == [str(pair[name]) for name in ("pair_index", "chosen_index", "rejected_index")]
        elif item.kind == "outputs":
            assert verdict["chosen_index"] == verdict["pair_index"] == ""
    table = pq.read_table(tmp_path / "out" / "verdicts.parquet").to_pylist()
    assert [row["submission"] for row in table] == [row["submission"] for row in verdicts]
    assert {row["counts_as"] for row in table} == {"blind"}
    labelled = lines(tmp_path / "out" / "labelled-pairs.jsonl")
    preferred = lines(tmp_path / "out" / "preferences-trl.jsonl")
    assert len(labelled) == len(items)
    assert len(preferred) == sum(place % 3 < 2 for place in range(len(items)))
    assert {row["winner"] for row in labelled} == {"a", "b", "tie"}
    assert any(len(row["prompt"]) == 3 for row in preferred), "a conversation is all of its messages"
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "out").rglob("*"))
    assert [path.name for path in found.files] == [
        "verdicts.csv", "verdicts.parquet", "preferences-trl.jsonl", "labelled-pairs.jsonl", "items.csv", "dataset",
        "llm-comparator-outputs-1-2.json", "llm-comparator-pairs.json",
    ]  # fmt: skip


def test_kinds_of_verdicts_have_files_of_their_own(
    opened: tuple[Inspector, str], store: VerdictStore, tmp_path: Path
) -> None:
    inspector, run_id = opened
    items = pairs_of(inspector, run_id)
    given = {
        "blind": [vote(run_id, items[0])],
        "targeted": [vote(run_id, items[1], queue="smallest-margin"), vote(run_id, items[2], queue="disagree")],
        "open": [vote(run_id, items[3], blind=False), vote(run_id, items[0], "ben", blind=False)],
        "imported": [vote(run_id, items[4], source="arena")],
        "gold": [vote(run_id, Item("gold", 2, None, "es", "g1"), gold="chosen")],
        "adjudicated": [vote(run_id, items[5], "lead", queue="adjudication")],
    }
    for verdict in (verdict for verdicts in given.values() for verdict in verdicts):
        store.append(verdict)
    ends = {
        "blind": "",
        "targeted": "-targeted",
        "open": "-open",
        "imported": "-imported",
        "adjudicated": "-adjudicated",
    }
    for rule in ("majority", "adjudicated", "all"):
        folder = tmp_path / "out"  # the same one: files of the rule before do not stay
        export(opened, store, folder, formats=ALL, rule=rule)
        counts = {row["submission"]: row["counts_as"] for row in csv_rows(folder / "verdicts.csv")}
        assert counts == {verdict.submission: kind for kind, verdicts in given.items() for verdict in verdicts}
        for kind, end in ends.items():
            is_there = kind != "adjudicated" or rule == "adjudicated"
            assert (folder / f"items{end}.csv").exists() == (folder / f"labelled-pairs{end}.jsonl").exists() == is_there
            if is_there:
                rows = csv_rows(folder / f"items{end}.csv")
                assert sorted(row["item"] for row in rows) == sorted({verdict.item for verdict in given[kind]})
                assert {row["counts_as"] for row in rows} == {kind}
        assert not list(folder.glob("*gold*"))


def test_rules_in_files(opened: tuple[Inspector, str], store: VerdictStore, tmp_path: Path) -> None:
    inspector, run_id = opened
    item = pairs_of(inspector, run_id)[0]
    for reviewer, prefers in (
        ("ana", "first"),
        ("ben", "first"),
        ("eva", "second"),
        ("ida", "both-bad"),
        ("ugo", "skip"),
    ):
        store.append(vote(run_id, item, reviewer, prefers, note=f"says {reviewer}", reasons=("untrue",)))
    store.append(vote(run_id, item, "ana", "second", queue="adjudication", note="settled"))
    found = {}
    for rule in ("majority", "adjudicated", "all"):
        export(opened, store, tmp_path / rule, formats=ALL, rule=rule)
        found[rule] = csv_rows(tmp_path / rule / "items.csv")
    assert [(row["answer"], row["decided_by"], row["votes"]) for row in found["majority"]] == [
        ("chosen", "majority", "4")
    ]
    assert [(row["answer"], row["decided_by"], row["votes"]) for row in found["adjudicated"]] == [
        ("rejected", "adjudication", "4")
    ]
    assert [row["answer"] for row in found["all"]] == ["chosen", "chosen", "rejected", "both-bad"]
    row = found["majority"][0]
    assert [row[f"votes_{name}"] for name in ("first", "second", "tie", "both_bad")] == ["2", "1", "0", "1"]
    assert row["reviewers"] == "reviewer 1|reviewer 2|reviewer 3|reviewer 4"
    assert row["notes"].startswith("reviewer 1: says ana|reviewer 2: says ben")
    assert row["reasons"] == "untrue"
    assert "reviewer 1: settled" in found["adjudicated"][0]["notes"]
    assert [pair["winner"] for pair in lines(tmp_path / "all" / "labelled-pairs.jsonl")] == ["a", "a", "b", "tie"]
    (pair,) = read_labelled_pairs(str(tmp_path / "all" / "labelled-pairs.jsonl")).pairs
    assert not pair.is_tie, "rows of one pair are votes on it"
    comparator = {
        rule: json.loads((tmp_path / rule / "llm-comparator-pairs.json").read_text("utf-8")) for rule in found
    }
    (example,) = comparator["majority"]["examples"]
    assert example["score"] == pytest.approx(1.5 / 4)
    assert [rater["score"] for rater in example["individual_rater_scores"]] == [1.5, 1.5, -1.5, 0.0]
    assert all(rater["is_flipped"] for rater in example["individual_rater_scores"]), "the first text stood right"
    assert comparator["adjudicated"]["examples"][0]["score"] == -1.5
    assert {"metadata", "models", "examples"} == set(comparator["majority"])
    fields = {field["name"] for field in comparator["majority"]["metadata"]["custom_fields_schema"]}
    assert fields == set(example["custom_fields"])


def test_the_last_word_counts(opened: tuple[Inspector, str], store: VerdictStore, tmp_path: Path) -> None:
    """As in the store: edits, withdrawals and names that are spelled in several ways."""
    inspector, run_id = opened
    first, second, third = pairs_of(inspector, run_id)[:3]
    for verdict in (
        vote(run_id, first, "Ana"), vote(run_id, first, "ＡＮＡ ", "second"), vote(run_id, second, "Ben"), vote(run_id, second, "ben", "withdrawn"),
        vote(run_id, third, "Ben"), vote("another run", first, "Zoe"),
    ):  # fmt: skip
        store.append(verdict)
    export(opened, store, tmp_path / "out", names=True)
    rows = csv_rows(tmp_path / "out" / "verdicts.csv")
    assert [(row["reviewer"], row["item"], row["preferred"]) for row in rows] == [
        (verdict.reviewer, verdict.item, "rejected" if verdict.item == first.key else "chosen")
        for verdict in store.current(run_id)
    ]
    assert [row["reviewer"] for row in rows] == ["Ana", "Ben"]


NAMES = ("Lucía", "Ben", "reviewer 1")


@pytest.mark.parametrize(
    ("left_out", "stay"),
    [
        ((), ["reviewer 1", "reviewer 2", "reviewer 3"]),
        (("Lucía",), ["reviewer 2", "reviewer 3"]),
        ((" LUCI\u0301A ",), ["reviewer 2", "reviewer 3"]),
        (("Lu\u200bcía", "BEN"), ["reviewer 3"]),
        (("reviewer 2",), ["reviewer 1", "reviewer 3"]),
        (("reviewer 1",), ["reviewer 1", "reviewer 2"]),  # somebody is called that; she is number 3
        (("Ben", "Ben"), ["reviewer 1", "reviewer 3"]),
    ],
)
def test_reviewers_are_left_out(
    opened: tuple[Inspector, str], store: VerdictStore, tmp_path: Path, left_out: tuple[str, ...], stay: list[str]
) -> None:
    inspector, run_id = opened
    items = pairs_of(inspector, run_id)
    for name, item in zip(NAMES, items, strict=False):
        store.append(vote(run_id, item, name))
    export(opened, store, tmp_path / "out", leave_out=left_out)
    assert [row["reviewer"] for row in csv_rows(tmp_path / "out" / "verdicts.csv")] == stay
    assert sorted(row["reviewers"] for row in csv_rows(tmp_path / "out" / "items.csv")) == stay
    everything = b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())
    assert "Lucía".encode() not in everything, "nobody is named unasked"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"leave_out": ("Lucia",)}, r"Nobody called 'Lucia'.*there are: Lucía, Ben, reviewer 1"),
        ({"leave_out": ("",)}, "Nobody called ''"),
        ({"leave_out": NAMES}, "Every reviewer of this run is left out"),
        ({"formats": ("xlsx",)}, "no format 'xlsx'; the formats are csv, parquet"),
        ({"formats": ()}, "No format is chosen"),
        ({"rule": "mean"}, "no rule 'mean'"),
        ({"language": "sw"}, "no verdicts to export in 'sw'"),
    ],
)
def test_what_cannot_be_exported_is_said(
    opened: tuple[Inspector, str], store: VerdictStore, tmp_path: Path, asked: dict[str, Any], said: str
) -> None:
    inspector, run_id = opened
    for name, item in zip(NAMES, pairs_of(inspector, run_id), strict=False):
        store.append(vote(run_id, item, name))
    with pytest.raises(InputError, match=said):
        export(opened, store, tmp_path / "out", **asked)
    assert not list(tmp_path.glob("out/*"))


def test_folders_that_cannot_be_written(opened: tuple[Inspector, str], store: VerdictStore, tmp_path: Path) -> None:
    inspector, run_id = opened
    with pytest.raises(InputError, match="no verdicts to export yet"):
        export(opened, store, tmp_path / "out")
    store.append(vote(run_id, pairs_of(inspector, run_id)[0]))
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match=r"file: cannot be written .*; give another folder"):
        export(opened, store, tmp_path / "file")
    (tmp_path / "own" / "dataset").mkdir(parents=True)
    (tmp_path / "own" / "dataset" / "README.md").write_text("my data")
    with pytest.raises(InputError, match="was not written by an export, so it is kept"):
        export(opened, store, tmp_path / "own", formats=("datasets",))
    export(opened, store, tmp_path / "own")  # which writes no data set
    assert (tmp_path / "own" / "dataset" / "README.md").read_text() == "my data"


def test_what_is_gone_is_counted(opened: tuple[Inspector, str], store: VerdictStore, tmp_path: Path) -> None:
    """Pairs, second pairs, outputs, iterations and parts that are not there, and then the run: the rest is exported."""
    inspector, run_id = opened
    items = pairs_of(inspector, run_id)
    single = next(
        item
        for item in items
        if not any(
            other.pair_index for other in items if other.prompt_id == item.prompt_id and other.language == item.language
        )
    )
    missing = [
        Item("pair", 2, None, "es", "nowhere"), Item("pair", 2, None, single.language, single.prompt_id, 1), Item("pair", 9, None, "es", "p0"),
        Item("outputs", 2, 1, "es", "nowhere"), Item("outputs", 2, 7, "es", "p0"),
    ]  # fmt: skip
    for item in [*items, *missing]:
        store.append(vote(run_id, item))
    found = export(opened, store, tmp_path / "out")
    assert len(csv_rows(tmp_path / "out" / "verdicts.csv")) == len(items) + len(missing)
    assert {row["item"] for row in csv_rows(tmp_path / "out" / "items.csv")} == {item.key for item in items}
    said = "\n".join(found.notes)
    assert (
        "2 items are in the tables of verdicts alone, without texts: pairs of iteration 2 that the run does not have any more."
        in said
    )
    assert "pairs of iteration 9 that cannot be read: This run has no iteration 9" in said
    assert "outputs of iterations 7 and 2 that cannot be read" in said
    arm = inspector.catalogue.arm(run_id)
    part = inspector.catalogue.artifact(arm.iteration(2), "preferences").parts[1]
    lost = pq.read_table(part).num_rows
    part.rename(part.with_suffix(".away"))
    try:
        found = export(opened, store, tmp_path / "out")
    finally:
        part.with_suffix(".away").rename(part)
    assert len(csv_rows(tmp_path / "out" / "items.csv")) == len(items) - lost
    assert any(f"{2 + lost} items" in note and part.name in note and "missing" in note for note in found.notes)
    with pytest.raises(InputError, match="There is no run"):
        export(opened, store, tmp_path / "none", run_id="f" * 32)
    store.append(vote("f" * 32, items[0]))
    found = export(opened, store, tmp_path / "gone", run_id="f" * 32)
    assert len(csv_rows(tmp_path / "gone" / "verdicts.csv")) == 1
    assert csv_rows(tmp_path / "gone" / "items.csv") == []
    assert "There is no run" in found.notes[0]


HOSTILE = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "＝1+1",
    'a,b"c\nd',
    "💬 العربية ไทย",
    "- a list",
    "'=1",
    " =1",
]


def test_spreadsheets_run_nothing_and_read_every_script(
    opened: tuple[Inspector, str], store: VerdictStore, tmp_path: Path
) -> None:
    inspector, run_id = opened
    items = pairs_of(inspector, run_id)
    for note, item in zip(HOSTILE, items, strict=False):
        store.append(vote(run_id, item, note, note=note))
    export(opened, store, tmp_path / "out", names=True)
    assert (
        (tmp_path / "out" / "items.csv").read_bytes()[:3]
        == (tmp_path / "out" / "verdicts.csv").read_bytes()[:3]
        == b"\xef\xbb\xbf"
    )
    notes = [row["note"] for row in csv_rows(tmp_path / "out" / "verdicts.csv")]
    assert notes == [f"'{note}" if note[0] in "=+-@\t\r\n＝" else note for note in HOSTILE]
    for name in ("items.csv", "verdicts.csv"):
        for row in csv_rows(tmp_path / "out" / name):
            assert not any(value.startswith(("=", "+", "@", "-", "\t", "\r")) for value in row.values())
    table = pq.read_table(tmp_path / "out" / "verdicts.parquet")
    assert table["note"].to_pylist() == HOSTILE, "nothing is changed where nothing runs"


def broken(folder: Path) -> None:
    with written_whole(folder, []) as place:
        (place / "verdicts.csv").write_text("half")
        raise ZeroDivisionError


def test_files_are_whole_or_not_there(opened: tuple[Inspector, str], store: VerdictStore, tmp_path: Path) -> None:
    inspector, run_id = opened
    for item in pairs_of(inspector, run_id):
        store.append(vote(run_id, item))
    folder = tmp_path / "out"
    count = 0
    while True:  # given up after each of its steps
        steps = exporting(inspector, store, run_id, folder, ExportRequest(formats=ALL))
        try:
            for _ in range(count + 1):
                next(steps)
        except StopIteration:
            break
        steps.close()
        assert not folder.exists() or not list(folder.iterdir())
        count += 1
    assert count >= 3
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(ZeroDivisionError):
        broken(folder)
    left = folder / ".icr-unfinished-killed"  # as a process that was killed leaves it
    left.mkdir()
    (left / "verdicts.csv").write_text("half")
    os.utime(left, (0, 0))
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    export(opened, store, folder, formats=ALL)  # data sets are replaced too
    assert not left.exists()
    assert {path.name for path in folder.iterdir()} == {*(path.name for path in before), "dataset"}


def test_datasets_and_trl_read_it(opened: tuple[Inspector, str], store: VerdictStore, tmp_path: Path) -> None:
    import datasets
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    from tests.support.tiny_models import save_tiny_model

    inspector, run_id = opened
    items = pairs_of(inspector, run_id)
    for place, item in enumerate(items):
        kind = {"queue": "smallest-margin"} if place % 4 == 0 else {}
        store.append(vote(run_id, item, prefers=("first", "second", "tie")[place % 3], **kind))
    export(opened, store, tmp_path / "out", formats=ALL)
    folder, cache = str(tmp_path / "out" / "dataset"), str(tmp_path / "cache")
    assert set(datasets.get_dataset_config_names(folder)) == {
        "default",
        "preferences",
        "targeted",
        "preferences-targeted",
    }
    whole = datasets.load_dataset(folder, cache_dir=cache)["train"]
    assert len(whole) == sum(place % 4 > 0 for place in range(len(items)))
    assert whole[0]["reviewers"] == ["reviewer 1"]
    preferences = datasets.load_dataset(folder, "preferences", cache_dir=cache)["train"]
    lines_too = datasets.load_dataset(
        "json", data_files=str(tmp_path / "out" / "preferences-trl.jsonl"), cache_dir=cache
    )["train"]
    columns = ["prompt", "chosen", "rejected"]
    assert preferences.select_columns(columns).to_list() == lines_too.select_columns(columns).to_list()
    trainer = DPOTrainer(
        model=str(save_tiny_model(tmp_path / "model", steps=1)),
        args=DPOConfig(
            output_dir=str(tmp_path / "trained"), max_steps=1, per_device_train_batch_size=2, use_cpu=True, bf16=False, report_to=[],
            gradient_checkpointing=False, save_strategy="no", disable_tqdm=True,
        ),
        train_dataset=preferences,
    )  # fmt: skip
    assert trainer.train().global_step == 1


def test_item_numbers_are_read_from_keys() -> None:
    """The engine reads a pair's number from an item's key as `item_of` does."""
    import duckdb

    from ui.review.exported_votes import _PAIR_INDEX

    for key in (
        "pair:1::es:p1",
        "pair.3:1::es:p1",
        "pair.12:1::es:a:b.4:c",
        "outputs:2:1:es:p.7",
        "pair.x:1::es:p",
        "pair.:1::es:p",
    ):
        (found,) = duckdb.execute(f"SELECT {_PAIR_INDEX} FROM (SELECT ? AS item)", [key]).fetchone() or (None,)
        verdict = vote("run", Item("pair", 1, None, "es", "p"))
        assert found == item_of(verdict.__class__(**{**vars(verdict), "item": key})).pair_index
