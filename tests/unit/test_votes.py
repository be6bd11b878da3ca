"""Votes from elsewhere: every layout, what they are matched by, what is left out and why, and nothing twice."""

from __future__ import annotations

import csv
import io
import json
import os
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from icr_platform.core.errors import InputError
from tests.support import synthetic_runs
from tests.unit.test_verdicts import verdict
from ui.pages.inspector import Inspector
from ui.pages.shell import render_page
from ui.pages.table_of_pages import PAGES
from ui.review.counted import counted
from ui.review.importing import Imported, import_votes
from ui.review.item_files import csv_row
from ui.review.items import Facts, Item, facts_of
from ui.review.publishing import preview_lines, publication
from ui.review.reviewers import as_left_out
from ui.review.seeing import Viewer
from ui.review.verdict_store import VerdictStore
from ui.review.verdicts import COLUMNS, Verdict, preferred_name
from ui.server.app import open_inspector
from ui.server.options import InspectOptions

Row = dict[str, Any]
PAIR = Item("pair", 2, None, "es", "p1")
OUTPUTS = Item("outputs", 2, 0, "es", "p1")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Inspector, str]]:
    folder, before = tmp_path_factory.mktemp("votes"), os.environ.get("MLFLOW_TRACKING_URI")
    run_id = synthetic_runs.small_run(synthetic_runs.open_tracker(folder), folder / "artifacts", 8).run_id
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    yield open_inspector(InspectOptions(tracking_uri=uri, verdicts=str(folder / "verdicts.db"))), run_id
    if before is None:
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    else:
        os.environ["MLFLOW_TRACKING_URI"] = before


@pytest.fixture
def here(served: tuple[Inspector, str], tmp_path: Path) -> Callable[..., Imported]:
    """Imports rows into an empty database, or the one that was imported to before."""
    inspector, run_id = served
    store = VerdictStore(str(tmp_path / "verdicts.db"))

    def imported(rows: list[Row] | str, name: str = "arena.jsonl", source: str = "") -> Imported:
        path = tmp_path / name
        if isinstance(rows, str):
            path.write_text(rows, encoding="utf-8")
        elif name.endswith(".csv"):
            with path.open("w", encoding="utf-8", newline="") as out:
                writer = csv.DictWriter(out, list(dict.fromkeys(key for row in rows for key in row)))
                writer.writeheader()
                writer.writerows(rows)
        else:
            path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return import_votes(inspector, store, inspector.catalogue.arm(run_id), str(path), source)

    imported.store = store  # type: ignore[attr-defined]
    return imported


def stored(here: Any) -> list[Verdict]:
    return list(here.store.history())


def facts(served: tuple[Inspector, str], item: Item) -> Facts:
    return facts_of(served[0], served[0].catalogue.arm(served[1]), item)


def battle(asked: str, text: str) -> list[Row]:
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": text}]


# A layout: the row, of the instruction, the first and the second text of an item, and what it says: the name of the side, 'tie' or 'both-bad'.
Layout = tuple[str, Callable[[str, str, str], Row], str]
LAYOUTS: list[Layout] = [
    ("arena conversations", lambda q, a, b: {"question_id": "8f", "model_a": "x", "model_b": "y", "winner": "model_a", "judge": "arena_user_12", "turn": 1,
     "anony": True, "language": "Spanish", "tstamp": 1682351591.13, "conversation_a": battle(q, a), "conversation_b": battle(q, b)}, "first"),
    ("arena, b", lambda q, a, b: {"winner": "model_b", "conversation_a": battle(q, a), "conversation_b": battle(q, b)}, "second"),
    ("arena, tie", lambda q, a, b: {"winner": "tie", "conversation_a": battle(q, a), "conversation_b": battle(q, b)}, "tie"),
    ("arena, both bad", lambda q, a, b: {"winner": "tie (bothbad)", "conversation_a": battle(q, a), "conversation_b": battle(q, b)}, "both-bad"),
    ("LMArena 140k", lambda q, a, b: {"id": "u", "winner": "both_bad", "evaluation_order": 1, "language": "es",
     **{f"conversation_{s}": [{"role": r, "content": [{"type": "text", "text": t, "image": None, "mimeType": None}]} for r, t in (("user", q), ("assistant", x))]
        for s, x in (("a", a), ("b", b))}}, "both-bad"),
    ("arena 100k, conversations as JSON", lambda q, a, b: {"winner": "model_b", "judge_hash": "h7", "language": "Spanish",
     "conversation_a": json.dumps(battle(q, a)), "conversation_b": json.dumps(battle(q, b))}, "second"),
    ("win_model", lambda q, a, b: {"win_model": "model_a", "user": "u1", "conversation_a": battle(q, a), "conversation_b": battle(q, b)}, "first"),
    ("win by the model's name", lambda q, a, b: {"model_a": "m1", "model_b": "m2", "win_model": "m2", "prompt": q, "response_a": a, "response_b": b}, "second"),
    ("arena 55k", lambda q, a, b: {"id": 30192, "model_a": "x", "model_b": "y", "prompt": q, "response_a": a, "response_b": b, "winner_model_a": 0,
     "winner_model_b": 1, "winner_tie": 0}, "second"),
    ("arena 55k, turns as JSON", lambda q, a, b: {"id": 65089, "prompt": json.dumps([q]), "response_a": json.dumps([a]), "response_b": json.dumps([b]),
     "winner_model_a": 1, "winner_model_b": 0, "winner_tie": 0}, "first"),
    ("arena 55k, tie", lambda q, a, b: {"prompt": q, "response_a": a, "response_b": b, "winner_model_a": 0, "winner_model_b": 0, "winner_tie": 1}, "tie"),
    ("MENLO", lambda q, a, b: {"prompt": q, "response_a": a, "response_b": b, "preference": "B", "language": "es_MX", "annotator": 4}, "second"),
    ("MENLO, tie", lambda q, a, b: {"prompt": q, "response_a": a, "response_b": b, "preference": "tie"}, "tie"),
    ("numbered", lambda q, a, b: {"instruction": q, "response_1": a, "response_2": b, "choice": "2"}, "second"),
    ("chosen and rejected", lambda q, a, b: {"prompt": q, "chosen": a, "rejected": b, "annotator_id": "w3"}, "first"),
    ("the other way round", lambda q, a, b: {"prompt": q, "chosen": b, "rejected": a}, "second"),
    ("HelpSteer", lambda q, a, b: {"context": [{"role": "user", "content": q}], "response1": a, "response2": b, "overall_preference": 2}, "second"),
    ("scores", lambda q, a, b: {"prompt": q, "response_a": b, "response_b": a, "score_a": 2, "score_b": 4}, "first"),
    ("white space and composed letters", lambda q, a, b: {"prompt": q, "response_a": f"  {unicodedata.normalize('NFD', a)} \n",
     "response_b": b.replace(" ", "\u00a0\n"), "winner": "a"}, "first"),
    ("ids and texts", lambda q, a, b: {"language": "es", "prompt_id": "p1", "pair_index": 0, "prompt": q, "response_a": a, "response_b": b, "winner": "a"}, "first"),
    ("Argilla 2", lambda q, a, b: {"id": "r1", "fields": {"instruction": q, "response_a": a, "response_b": b}, "metadata": {"language": "es"},
     "responses": {"preference": [{"value": "response_b", "user_id": "u-1", "status": "submitted"}], "comment": [{"value": "peor", "user_id": "u-1"}]}}, "second"),
    ("Argilla 2, ranking", lambda q, a, b: {"id": "r1", "fields": {"prompt": q, "response_a": a, "response_b": b}, "metadata": {},
     "responses": {"order": [{"value": [{"value": "response_b", "rank": 2}, {"value": "response_a", "rank": 1}], "user_id": "u"}]}}, "first"),
    ("Argilla 2, level ranking", lambda q, a, b: {"id": "r1", "fields": {"prompt": q, "response_a": a, "response_b": b},
     "responses": {"order": [{"value": [{"value": "response_b", "rank": 1}, {"value": "response_a", "rank": 1}], "user_id": "u"}]}}, "tie"),
    ("Argilla 1", lambda q, a, b: {"fields": {"prompt": q, "response_1": a, "response_2": b}, "external_id": "e1", "metadata": {},
     "responses": [{"user_id": "u-2", "status": "submitted", "values": {"choice": {"value": "Response-1"}}}]}, "first"),
    ("Argilla's data set", lambda q, a, b: {"id": "r1", "status": "completed", "instruction": q, "response_a": a, "response_b": b, "preference.suggestion": "x",
     "preference.responses": ["response_a"], "preference.responses.users": ["u-3"], "preference.responses.status": ["submitted"]}, "first"),
    ("a table of labels", lambda q, a, b: {"language": "es", "prompt_id": "p1", "iteration": 2, "annotator": "w", "winner": "rejected"}, "second"),
    ("a table of labels, tie", lambda q, a, b: {"lang": "es", "id": "p1", "iteration": "2", "preference": "tie"}, "tie"),
]  # fmt: skip


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
@pytest.mark.parametrize(("row", "expected"), [case[1:] for case in LAYOUTS], ids=[case[0] for case in LAYOUTS])
def test_layouts(
    served: tuple[Inspector, str], here: Any, row: Callable[[str, str, str], Row], expected: str, ending: str
) -> None:
    """Each layout is one vote on the one pair, says of it what the row says, and is not stored by a second import."""
    shown = facts(served, PAIR)
    made = row(shown.asked.instruction, shown.first.text, shown.second.text)
    if ending == "csv":
        if "fields" in made or any("responses" in name or "LMArena" in name for name in made):
            pytest.skip("records are never CSV")
        made = {
            name: json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value
            for name, value in made.items()
        }
    for times in (1, 2):
        done = here([made], f"votes.{ending}")
        assert (done.added, done.known, done.left_out.total()) == ((1, 0, 0) if times == 1 else (0, 1, 0)), done.lines
    (vote,) = stored(here)
    named = {"first": "chosen", "second": "rejected", "": ""}
    assert (preferred_name(vote) or vote.choice) == named.get(expected, expected)
    assert (vote.item, vote.source, vote.run_id) == (PAIR.key, "votes", served[1])
    sides = {shown.first.name: shown.first, shown.second.name: shown.second}
    assert vote.left_characters == len(sides[vote.left].text)
    assert vote.left_score == pytest.approx(sides[vote.left].score)
    assert vote.right_score == pytest.approx(sides[vote.right].score)
    assert vote.margin == pytest.approx(shown.margin)
    assert counted([vote]).imported == counted([vote], with_imported=True).targeted == [vote], (
        "no figure counts it unasked"
    )


def test_who_when_and_why(served: tuple[Inspector, str], here: Any) -> None:
    shown = facts(served, OUTPUTS)
    here([{
        "prompt": shown.asked.instruction, "response_a": shown.second.text, "response_b": shown.first.text, "winner": "model_b", "judge": "arena_user_7",
        "tstamp": 1682351591.5, "anony": False, "seconds": "12.5", "reasons": ["untrue", "boring"], "comment": "es falso",
    }])  # fmt: skip
    (vote,) = stored(here)
    assert (vote.item, vote.left, vote.right, preferred_name(vote)) == (OUTPUTS.key, "before", "after", "after")
    assert (vote.reviewer, vote.created_at, vote.blind, vote.seconds) == (
        "arena_user_7",
        "2023-04-24T15:53:11.500000+00:00",
        False,
        12.5,
    )
    assert (vote.reasons, vote.note) == (("untrue",), "es falso\nReasons: boring")
    assert vote.left_score == pytest.approx(shown.second.score)
    assert vote.right_score == pytest.approx(shown.first.score)


def test_votes_of_nobody_are_different_peoples(served: tuple[Inspector, str], here: Any) -> None:
    shown = facts(served, PAIR)
    row = {
        "prompt": shown.asked.instruction,
        "response_a": shown.first.text,
        "response_b": shown.second.text,
        "winner": "a",
    }
    rows = [row, row, row | {"winner": "b"}, row | {"user": "ana"}, row | {"user": "ana"}]
    assert here(rows, source="Arena 2024").added == 4, "one person who says the same twice says it once"
    assert [vote.reviewer for vote in stored(here)] == [*(f"Arena 2024, voter {n}" for n in (1, 2, 3)), "ana"]
    assert here([row | {"winner": "tie"}, *rows, row]).added == 2, "a file that has grown at both ends"
    assert {vote.reviewer for vote in stored(here)} == {
        *(f"Arena 2024, voter {n}" for n in (1, 2, 3)),
        "ana",
        "arena, voter 1",
        "arena, voter 2",
    }
    assert here(rows, "another name.jsonl").added == 0
    assert len(here.store.current()) == 6
    assert here([row | {"winner": "tie"}, row | {"winner": "tie"}]).added == 1
    assert len(here.store.current()) == 7


def test_each_user_of_a_record_is_a_vote(served: tuple[Inspector, str], here: Any) -> None:
    shown = facts(served, PAIR)
    record: Row = {
        "id": "r",
        "fields": {"prompt": shown.asked.instruction, "response_a": shown.first.text, "response_b": shown.second.text},
    }
    answers = [
        {"value": value, "user_id": user, "status": "submitted"}
        for user, value in (("u1", "response_a"), ("u2", "response_b"), ("u3", "tie"))
    ]
    done = here(
        [
            record | {"responses": {"preference": answers}},
            record | {"responses": {}},
            record | {"responses": {"preference": [answers[0] | {"status": "draft"}]}},
        ]
    )
    assert [(vote.reviewer, preferred_name(vote) or vote.choice) for vote in stored(here)] == [
        ("u1", "chosen"),
        ("u2", "rejected"),
        ("u3", "tie"),
    ]
    assert len(done.left_out) == 2
    assert any("no response yet" in line and "row 2" in line for line in done.lines)
    assert any("is draft" in line and "row 3" in line for line in done.lines)


def own_rows(served: tuple[Inspector, str]) -> list[Verdict]:
    inspector, run_id = served
    rows = []
    for number, item in enumerate((PAIR, OUTPUTS, Item("pair", 1, None, "bn", "p3"))):
        shown = facts_of(inspector, inspector.catalogue.arm(run_id), item)
        about = {name: getattr(item, name) for name in ("kind", "language", "prompt_id", "iteration", "base")}
        rows.append(verdict(
            f"s{number}", "=Lucía", item.key, "right", **about, run_id=run_id, left=shown.second.name, right=shown.first.name, note="-nota",
            left_characters=len(shown.second.text), right_characters=len(shown.first.text), created_at="2026-01-02T03:04:05.000006+00:00",
        ))  # fmt: skip
    return rows


def to_csv(rows: Sequence[Verdict]) -> str:
    """Verdicts as the export writes them."""
    text = io.StringIO()
    csv.writer(text).writerows([COLUMNS, *(csv_row(asdict(row).values()) for row in rows)])
    return text.getvalue()


@pytest.mark.parametrize("name", ["verdicts.csv", "verdicts.jsonl"])
def test_an_export_of_our_own_comes_back(served: tuple[Inspector, str], here: Any, name: str) -> None:
    rows = own_rows(served)
    text = to_csv(rows) if name.endswith("csv") else "".join(json.dumps(asdict(row)) + "\n" for row in rows)
    for times in (1, 2):
        done = here(text, name)
        assert (done.added, done.known) == ((3, 0) if times == 1 else (0, 3)), done.lines
    for vote, row in zip(stored(here), rows, strict=True):
        assert (vote.item, vote.left, vote.choice, vote.reasons, vote.note, vote.reviewer, vote.created_at, vote.queue) == (
            row.item, row.left, row.choice, row.reasons, row.note, row.reviewer, row.created_at, row.queue,
        )  # fmt: skip


def test_verdicts_that_are_here_are_not_imported_again(served: tuple[Inspector, str], here: Any) -> None:
    rows = own_rows(served)
    for row in rows:
        here.store.append(row)
    done = here(to_csv(rows), "verdicts.csv")
    assert (done.added, done.known, len(stored(here))) == (0, 3, 3)


def test_verdicts_of_another_run_need_the_same_texts(served: tuple[Inspector, str], here: Any) -> None:
    rows = [replace(row, run_id="another", submission=f"o{n}") for n, row in enumerate(own_rows(served))]
    done = here(to_csv([rows[0], replace(rows[1], left_characters=1)]), "verdicts.csv")
    assert (done.added, done.left_out.total()) == (1, 1)
    assert "other texts" in done.lines[2]


A, B = "El río es ancho, dicen todos.", "No lo sé, y nadie lo sabe."
BAD: list[tuple[str, list[Row] | str, str, str]] = [
    ("texts of nobody", [{"prompt": "¿?", "response_a": A, "response_b": B, "winner": "a"}], "v.jsonl", "no item of the run has these two texts.*row 1"),
    ("id without texts", [{"language": "es", "prompt_id": "none", "winner": "chosen"}], "v.jsonl", "the run has no such prompt id.*row 1"),
    ("id of another language", [{"language": "de", "prompt_id": "p1", "iteration": 2, "winner": "chosen"}], "v.csv", "no such language, pair or iteration.*row 2"),
    ("no language", [{"prompt_id": "p1", "iteration": 2, "winner": "chosen"}], "v.csv", "fits several prompts"),
    ("no iteration", [{"prompt_id": "p1", "language": "es", "winner": "chosen"}], "v.csv", "fits several items.*iteration"),
    ("other texts under an id", [{"prompt_id": "p1", "prompt": "¿?", "response_a": A, "response_b": B, "winner": "a"}], "v.jsonl", "other texts under this prompt id"),
    ("neither", [{"winner": "chosen"}], "v.jsonl", "neither the two texts nor a prompt id"),
    ("a label that is none", [{"prompt": "¿?", "response_a": A, "response_b": B, "winner": "maybe"}], "v.jsonl", "field 'winner' is 'maybe'"),
    ("no label", [{"prompt": "¿?", "response_a": A, "response_b": B}], "v.jsonl", "found: prompt"),
    ("no vote at all", [{"text": "hello", "stars": 4}], "v.jsonl", "no columns with two responses"),
    ("several turns as JSON", [{"prompt": '["a", "b"]', "response_a": '["c", "d"]', "response_b": '["e", "f"]', "winner_model_a": 1, "winner_model_b": 0}], "v.jsonl",
     "several turns"),
    ("identical texts", [{"prompt": "¿?", "response_a": A, "response_b": A, "winner": "a"}], "v.jsonl", "equals"),
    ("a number that is none", [{"prompt_id": "p1", "language": "es", "iteration": "two", "winner": "chosen"}], "v.csv", "field 'iteration' is 'two'; give a whole number"),
    ("an exported verdict without a name", [{"left": "chosen", "right": "rejected", "choice": "left", "prompt_id": "p1", "language": "es", "reviewer": ""}], "v.csv", "'reviewer' is missing"),
    ("an exported verdict with a choice that is none", [{"left": "chosen", "right": "rejected", "choice": "up", "prompt_id": "p1", "language": "es", "reviewer": "x"}], "v.csv", "'choice' is 'up'; give one of left"),
    ("no rows", "", "v.jsonl", "v.jsonl"),
    ("no JSON", "{'a': 1}\n", "v.jsonl", "row 1"),
    ("no CSV", 'a,b\n"x,1\n', "v.csv", "not readable as CSV"),
    ("a page of the web", "<html></html>", "v.html", "not a file of rows"),
]  # fmt: skip


@pytest.mark.parametrize(("rows", "name", "said"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_what_cannot_be_imported_is_said(here: Any, rows: list[Row] | str, name: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        here(rows, name)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)
    assert stored(here) == []


@pytest.mark.parametrize("source", ["inspector", "Inspector", "x" * 81])
def test_a_source_that_would_count_as_our_own_is_refused(here: Any, source: str) -> None:
    with pytest.raises(InputError, match="--source"):
        here([{"winner": "chosen"}], source=source)


def test_rows_that_belong_to_nothing_are_counted_and_the_first_named(served: tuple[Inspector, str], here: Any) -> None:
    shown = facts(served, PAIR)
    good = {
        "prompt": shown.asked.instruction,
        "response_a": shown.first.text,
        "response_b": shown.second.text,
        "winner": "a",
    }
    done = here([good, *[good | {"response_a": f"nobody wrote this {n}"} for n in range(5)], good | {"winner": "?"}])
    assert done.lines[0].startswith("imported 1 votes of ")
    assert done.lines[1] == "6 votes were left out:"
    assert done.lines[2].startswith("  5: no item of the run has these two texts (")
    assert [f"row {n}" in done.lines[2] for n in (1, 2, 3, 4, 5)] == [False, True, True, True, False]
    assert "row 7" in done.lines[3]


def test_agreement_leaves_reviewers_out_and_imports_apart(served: tuple[Inspector, str], here: Any) -> None:
    inspector, run_id = served
    store: VerdictStore = here.store
    shown = replace(inspector, verdicts=store)
    page = next(page for page in PAGES if page.address == "agreement")
    for n, (who, choice) in enumerate((("Lucía", "left"), ("ben", "right"), ("Eva, MD", "right"))):
        store.append(verdict(str(n), who, f"pair:2::es:p{n}", choice, run_id=run_id, prompt_id=f"p{n}"))
    store.append(verdict("9", "far", "pair:2::es:p9", run_id=run_id, source="arena"))

    def html(**params: str) -> str:
        return render_page(shown, page, {"run": run_id, **params}, viewer=Viewer(is_lead=True))

    whole, without = html(), html(leave_out=as_left_out(["ben", "eva, md"]))
    assert "3 blind verdicts of the random queue on 3 items by 3 reviewers" in whole
    assert "1 blind verdict of the random queue on 1 item by 1 reviewer" in without
    assert without.count("count again") == 2
    assert "leave_out=ben%2Ceva%252C+md" in without, "the other pages keep it"
    assert "Shown apart: imported votes" in whole
    assert "4 blind verdicts of the random queue on 4 items by 4 reviewers" in html(votes="all")
    assert "0 reviewers" not in html(leave_out="nobody")
    found = publication(shown, store, run_id, leave_out=["LUCÍA", "Eva, MD"])
    assert (found.metrics["human_agreement/all"], found.metrics["human_agreement_n/all"]) == (0.0, 1.0)
    assert [row.reviewer for row in found.history] == ["reviewer 2", "reviewer 4"], "the others keep their numbers"
    assert "  'Lucía' is left out of the table and of every figure" in preview_lines(found)
    assert found.version != publication(shown, store, run_id).version
    with pytest.raises(InputError, match="Nobody called 'Zoe'"):
        publication(shown, store, run_id, leave_out=["Zoe"])
    with pytest.raises(InputError, match="Every reviewer is left out"):
        publication(shown, store, run_id, leave_out=["lucía", "ben", "eva, md", "far"])
