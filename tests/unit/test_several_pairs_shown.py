"""The inspector's tables and reviews, where a prompt has several pairs and where a pair is of two languages."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from icr_platform.core.artifacts import MANIFEST, open_artifact, read_json, write_json
from icr_platform.core.schemas import TABLES
from tests.support import synthetic_runs
from ui.html.line_marks import mark_nothing
from ui.pages.pairs import _after_length, _detail, _why
from ui.review.items import Item, from_token, item_of, to_token
from ui.review.queues import Assignment, next_item
from ui.review.secret import KEY_BYTES, Secret
from ui.review.verdict_store import VerdictStore
from ui.review.verdicts import COLUMNS, Verdict
from ui.tables import margins_data, pairs_data
from ui.tables.pairs_data import PairTables
from ui.tables.queries import QueryEngine
from ui.tables.view import View, parse_view

NAMES = ("prompts", "responses", "rewards", "preferences", "drops")


@pytest.fixture(scope="module")
def engine() -> QueryEngine:
    return QueryEngine(memory_limit="200MB", threads=1)


@pytest.fixture(scope="module")
def rows() -> dict[str, list[dict[str, Any]]]:
    data = synthetic_runs.sampled(
        synthetic_runs.small_prompts(10), synthetic_runs.small_answers(3), 4, ("cross-lingual",)
    )
    return {name: data.tables[name][0].to_pylist() for name in NAMES}


def tables_of(folder: Path, rows: dict[str, list[dict[str, Any]]]) -> PairTables:
    for name in NAMES:
        whole = pa.Table.from_pylist(rows[name], schema=TABLES[name].schema)
        synthetic_runs.write_artifact(folder, name, [whole.slice(i, 7) for i in range(0, max(len(whole), 1), 7)])
    return PairTables(**{name: open_artifact(folder / name, TABLES[name]) for name in NAMES})


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory, rows: dict[str, list[dict[str, Any]]]) -> PairTables:
    """Every second prompt has a second pair, the others lack it; of every fifth pair the rejected response is the Arabic prompt's."""
    preferences: list[dict[str, Any]] = []
    drops = list(rows["drops"])
    for place, row in enumerate(rows["preferences"]):
        german = {} if place % 5 or row["language"] == "ar" else {"rejected_language": "ar"}
        preferences.append(row | {"pair_index": 0} | german)
        key = {name: row[name] for name in ("language", "prompt_id")}
        if place % 2:
            turned = {
                f"{a}_{name}": row[f"{b}_{name}"]
                for a, b in (("chosen", "rejected"), ("rejected", "chosen"))
                for name in ("index", "characters")
            }
            preferences.append(
                row
                | turned
                | {"pair_index": 1, "margin": row["margin"] / 2, "chosen": row["rejected"], "rejected": row["chosen"]}
            )
        else:
            drops.append(key | {"sample_index": None, "pair_index": 1, "reason": "margin", "detail": "pair 2 of 2"})
    return tables_of(tmp_path_factory.mktemp("several"), rows | {"preferences": preferences, "drops": drops})


def keys(rows: list[dict[str, Any]]) -> list[tuple[str, str, int | None]]:
    return [(row["language"], row["prompt_id"], row["pair_index"]) for row in rows]


def page(engine: QueryEngine, tables: PairTables, view: View) -> str:
    """The page of one prompt as a person sees it."""
    inspector: Any = SimpleNamespace(engine=engine, marker=mark_nothing)
    return str(_detail(inspector, tables, view))


def test_every_pair_has_a_place_of_its_own(engine: QueryEngine, several: PairTables) -> None:
    expected = keys(several.preferences.read().to_pylist())
    written = pairs_data.list_pairs(engine, several, View())
    assert keys(written.rows) == expected[: pairs_data.PAGE_ROWS]
    assert written.total == len(expected) == len(set(expected))
    indexed = pairs_data.list_pairs(engine, several, View(sort="margin", order="asc"))
    assert indexed.total == len(expected)
    assert all(row["instruction"] for row in indexed.rows)

    # From the first to the last by the links, as a person goes with the arrow keys.
    language, prompt_id, pair = expected[0]
    walked = [expected[0]]
    while True:
        near = pairs_data.neighbours(engine, several, View(id=prompt_id, id_language=language, pair=pair))
        assert near is not None
        assert (near.place, near.total) == (len(walked), len(expected))
        if near.after is None:
            break
        (language, prompt_id), pair = near.after, near.after_pair
        walked.append((language, prompt_id, pair))
        if len(walked) > 12:
            break
    assert walked == expected[: len(walked)]
    outliers = margins_data.outliers(engine, several, "", largest=False)
    assert {row["pair_index"] for row in outliers} <= {0, 1}


def test_a_prompt_shows_the_pair_that_is_asked_for(engine: QueryEngine, several: PairTables) -> None:
    second = next(row for row in several.preferences.read().to_pylist() if row["pair_index"] == 1)
    key = second["language"], second["prompt_id"]
    for number, shown in ((None, 0), (0, 0), (1, 1), (7, 0)):
        detail = pairs_data.pair_detail(engine, several, *key, number)
        assert detail.pair is not None
        assert (detail.pair["pair_index"], detail.pairs) == (shown, [0, 1])
        assert pairs_data.pair_of(engine, several, *key, number)["pair_index"] == shown
    html = page(engine, several, View(iteration=1, id=key[1], id_language=key[0], pair=1))
    assert '<strong aria-current="true">pair 2</strong>' in html
    assert "&amp;pair=0" in html
    assert detail.pair is not None
    assert detail.ends["chosen"]["sample_index"] == detail.pair["chosen_index"]
    lacking = pairs_data.drop_reasons(engine, several, "")
    assert any(row["reason"] == "margin" for row in lacking)


def test_the_side_of_another_language_is_that_languages_sample(engine: QueryEngine, several: PairTables) -> None:
    responses = {
        (row["language"], row["prompt_id"], row["sample_index"]): row for row in several.responses.read().to_pylist()
    }
    found = [
        row for row in several.preferences.read().to_pylist() if row["rejected_language"] and row["pair_index"] == 0
    ]
    assert found
    checked = 0
    for row in found:
        detail = pairs_data.pair_detail(engine, several, row["language"], row["prompt_id"], 0)
        other = responses.get(("ar", row["prompt_id"], row["rejected_index"]))
        if other is None:
            continue
        checked += 1
        assert detail.ends["rejected"]["response"] == other["response"]
        assert detail.ends["chosen"]["language"] == row["language"]
        after = {sample["sample_index"]: _after_length(detail, sample) for sample in detail.samples}
        assert "one of them answers the prompt in Arabic" in _why(detail, after)
        shown = page(engine, several, View(iteration=1, id=row["prompt_id"], id_language=row["language"]))
        assert "in <bdi>Arabic</bdi></span></h2>" in shown
        assert 'dir="rtl" lang="ar"' in shown
    assert checked


def test_tables_of_earlier_versions_have_one_pair_a_prompt(
    engine: QueryEngine, tmp_path: Path, rows: dict[str, Any]
) -> None:
    tables = tables_of(tmp_path, rows)
    for name, version in (("preferences", 2), ("drops", 1)):
        folder = tmp_path / name
        manifest = read_json(folder / MANIFEST) | {"schema_version": version}
        for entry, path in zip(manifest["parts"], sorted(folder.glob("part-*.parquet")), strict=True):
            table = pq.read_table(path)
            later = [n for n in ("pair_index", "chosen_language", "rejected_language") if n in table.column_names]
            pq.write_table(table.drop_columns(later), path)
            entry |= {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        write_json(folder / MANIFEST, manifest)
    tables = PairTables(**{name: open_artifact(tmp_path / name, TABLES[name]) for name in NAMES})
    page = pairs_data.list_pairs(engine, tables, View(sort="margin"))
    assert page.total == len(rows["preferences"])
    first = page.rows[0]
    assert first["pair_index"] is None
    view = View(id=first["prompt_id"], id_language=first["language"], sort="margin")
    assert pairs_data.neighbours(engine, tables, view) == pairs_data.neighbours(engine, tables, replace(view, pair=0))
    assert pairs_data.pair_detail(engine, tables, first["language"], first["prompt_id"]).pairs == []


def test_each_pair_of_a_prompt_is_an_item_of_its_own() -> None:
    prompt_ids = ("p1", "p1.1", "p:1", "1:::en:p1", "pair.1:1::en:p1")
    items = [Item("pair", 1, None, "en", prompt_id, number) for prompt_id in prompt_ids for number in (0, 1, 2, 12)]
    assert len({item.key for item in items}) == len(items)
    assert Item("pair", 1, None, "en", "p1").key == "pair:1::en:p1", "verdicts that there are keep their items"
    empty, secret = dict.fromkeys(COLUMNS), Secret(bytes(KEY_BYTES))
    for item in items:
        values = {name: getattr(item, name) for name in ("kind", "iteration", "base", "language", "prompt_id")}
        assert item_of(Verdict(**empty | values | {"item": item.key})) == item  # type: ignore[arg-type]
        assert from_token(secret, to_token(secret, {"run": "r"}, item))[1] == item


@pytest.mark.parametrize("queue", ["random", "smallest-margin"])
def test_a_reviewer_gets_every_pair_once(engine: QueryEngine, several: PairTables, tmp_path: Path, queue: str) -> None:
    tables: Any = SimpleNamespace(engine=engine, pair_tables=lambda iteration: several)
    arm: Any = SimpleNamespace(run=SimpleNamespace(run_id="r"), iteration=lambda number: number)
    verdicts = VerdictStore(str(tmp_path / "verdicts.db"))
    work = Assignment(1, None, "es", queue, 0)
    seen: list[Item] = []
    empty = dict.fromkeys(COLUMNS, "")
    while True:
        item, progress = next_item(tables, verdicts, arm, work, "Ada")
        if item is None:
            break
        assert item not in seen
        seen.append(item)
        facts = {name: getattr(item, name) for name in ("kind", "iteration", "base", "language", "prompt_id")}
        verdicts.append(Verdict(**empty | facts | {
            "submission": str(len(seen)), "reviewer": "Ada", "run_id": "r", "item": item.key, "choice": "tie", "reasons": (), "blind": True,
            "seconds": 1.0, "margin": 1.0, "left_characters": 1, "right_characters": 1, "left_score": None, "right_score": None,
            "disclosed": False, "fast": False, "source": "inspector",
        }))  # fmt: skip
    own = [row for row in several.preferences.read().to_pylist() if row["language"] == "es"]
    assert sorted((item.prompt_id, item.pair_index) for item in seen) == sorted(
        (row["prompt_id"], row["pair_index"]) for row in own
    )
    assert progress.done == progress.total == len(own) > len({row["prompt_id"] for row in own})


def test_the_address_names_the_pair() -> None:
    view = parse_view({"id": "p", "pair": "2"}).view
    assert view.pair == 2
    assert "pair=2" in view.query()
    assert "pair" not in dict(view.carried_on(set()))
    assert parse_view({"pair": "x"}).problems
