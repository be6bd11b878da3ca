"""Queries against pandas on the same tables, and what they say when something is wrong."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icr_platform.core.artifacts import open_artifact
from icr_platform.core.errors import InputError
from icr_platform.core.schemas import JUDGMENTS, TABLES
from tests.support import synthetic_runs
from ui.html.rendering import label
from ui.tables import margins_data, pairs_data, prompt_changes, sources, value_tables
from ui.tables.pairs_data import PairTables
from ui.tables.queries import QueryEngine
from ui.tables.view import View, parse_view

NAMES = ("prompts", "responses", "rewards", "preferences", "drops")


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> PairTables:
    """Sixty prompts in six languages, every table in parts of seven rows."""
    folder = tmp_path_factory.mktemp("tables")
    kinds = ("cross-lingual", "multilingual")
    data = synthetic_runs.sampled(synthetic_runs.small_prompts(10), synthetic_runs.small_answers(3), 4, kinds)
    for name in NAMES:
        whole = data.tables[name][0]
        synthetic_runs.write_artifact(folder, name, [whole.slice(i, 7) for i in range(0, max(len(whole), 1), 7)])
    return PairTables(**{name: open_artifact(folder / name, TABLES[name]) for name in NAMES})


@pytest.fixture(scope="module")
def engine() -> QueryEngine:
    return QueryEngine(memory_limit="200MB", threads=1)


def keys(rows: list[dict[str, object]]) -> list[tuple[object, object]]:
    return [(row["language"], row["prompt_id"]) for row in rows]


def test_pages_as_written_are_the_table(engine: QueryEngine, tables: PairTables) -> None:
    whole = tables.preferences.read().to_pandas()
    for start in (0, 3, 8, len(whole) - 2, len(whole) + 5):
        page = pairs_data.list_pairs(engine, tables, View(start=start))
        expected = whole.iloc[start : start + pairs_data.PAGE_ROWS]
        assert keys(page.rows) == list(zip(expected.language, expected.prompt_id, strict=True))
        assert [row["instruction"] for row in page.rows] == expected.instruction.tolist()
        assert page.total == len(whole)


@pytest.mark.parametrize("column", ["margin", "chosen_reward", "rejected_characters", "prompt_id"])
@pytest.mark.parametrize("order", ["asc", "desc"])
def test_sorted_pages_and_neighbours(engine: QueryEngine, tables: PairTables, column: str, order: str) -> None:
    whole = tables.preferences.read().to_pandas().sort_values(column, ascending=order == "asc", kind="stable")
    view = View(sort=column, order=order, margin_min=1.0)
    whole = whole[whole.margin >= 1.0]
    page = pairs_data.list_pairs(engine, tables, view)
    wanted = list(zip(whole.language, whole.prompt_id, strict=True))
    assert keys(page.rows) == wanted[: pairs_data.PAGE_ROWS]
    assert [row["instruction"] for row in page.rows] == whole.instruction.tolist()[: pairs_data.PAGE_ROWS]
    language, prompt_id = wanted[5]
    near = pairs_data.neighbours(engine, tables, replace(view, id=prompt_id, id_language=language))
    assert near is not None
    assert (near.before, near.after, near.place, near.total) == (wanted[4], wanted[6], 6, len(wanted))


def test_search_is_literal_and_in_responses_too(engine: QueryEngine, tables: PairTables) -> None:
    responses = tables.responses.read(["language", "prompt_id", "response"]).to_pandas()
    text = "perro pequeño"
    hits = responses[responses.response.str.contains(text, regex=False)]
    prompts = tables.prompts.read().to_pandas()
    hits = pd.concat([hits, prompts[prompts.instruction.str.contains(text, regex=False)]])
    paired = set(keys(tables.preferences.read(["language", "prompt_id"]).to_pylist()))
    found = pairs_data.list_pairs(engine, tables, View(q=text))
    assert set(keys(found.rows)) == set(zip(hits.language, hits.prompt_id, strict=True)) & paired
    assert pairs_data.list_pairs(engine, tables, View(q="%")).total == 0
    assert pairs_data.list_pairs(engine, tables, View(q="'; DROP TABLE narrow_1; --")).total == 0


def test_a_cell_of_margins_opens_its_prompts(engine: QueryEngine, tables: PairTables) -> None:
    view = View(sample_length_min=40, sample_length_max=60, sample_reward_min=0.0, sample_reward_max=1.0)
    lengths, rewards = tables.responses.read().to_pandas(), tables.rewards.read().to_pandas()
    both = lengths.merge(rewards[rewards.kind == "cross-lingual"], on=["language", "prompt_id", "sample_index"])
    both = both[both.character_count.between(40, 59) & (both.reward >= 0) & (both.reward < 1)]
    paired = set(keys(tables.preferences.read(["language", "prompt_id"]).to_pylist()))
    found = pairs_data.list_pairs(engine, tables, view)
    assert set(keys(found.rows)) == set(zip(both.language, both.prompt_id, strict=True)) & paired


def test_a_run_without_drops(engine: QueryEngine, tables: PairTables, tmp_path: Path) -> None:
    none = open_artifact(synthetic_runs.write_artifact(tmp_path, "drops", []), TABLES["drops"])
    bare = replace(tables, drops=none)
    assert pairs_data.list_pairs(engine, bare, View(sort="margin")).total == tables.preferences.rows
    assert pairs_data.list_pairs(engine, bare, View(dropped="*")).total == 0
    assert pairs_data.drop_reasons(engine, bare, "") == []


def test_detail_has_every_sample_ranked(engine: QueryEngine, tables: PairTables) -> None:
    for language, prompt_id in keys(tables.prompts.read(["language", "prompt_id"]).to_pylist())[::7]:
        detail = pairs_data.pair_detail(engine, tables, str(language), str(prompt_id))
        rewards = [sample["reward"] for sample in detail.samples]
        assert len(rewards) == 4
        assert rewards == sorted(rewards, reverse=True)
        assert detail.kinds == ["cross-lingual", "multilingual"]


def test_length_and_reward_agree_with_pandas(engine: QueryEngine, tables: PairTables) -> None:
    (found,) = margins_data.distributions(engine, tables, "bn")
    pairs = tables.preferences.read().to_pandas().query("language == 'bn'")
    assert sum(found.bins) == found.pairs == len(pairs)
    assert found.quantiles[2] == pytest.approx(pairs.margin.median())
    lengths, rewards = tables.responses.read().to_pandas(), tables.rewards.read().to_pandas()
    both = lengths.merge(rewards[rewards.kind == "cross-lingual"], on=["language", "prompt_id", "sample_index"])
    both = both[both.language == "bn"]
    key = ["language", "prompt_id", "sample_index"]
    dropped = tables.drops.read(key).to_pandas().dropna().astype({"sample_index": "int64"})
    both = both.merge(dropped, on=key, how="left", indicator=True).query("_merge == 'left_only'")
    grid = margins_data.length_reward(engine, tables, "bn", found.alpha)
    assert grid is not None
    assert grid.x == pytest.approx(tuple(both.character_count.quantile([0.01, 0.99])))
    controlled = both.reward - found.alpha * both.character_count
    assert grid.y_after == pytest.approx(tuple(controlled.quantile([0.01, 0.99])))
    assert sum(cell["count"] for cell in grid.after) == len(both) == grid.samples


def test_regressions_agree_with_icr_eval(engine: QueryEngine, tmp_path: Path) -> None:
    from icr_platform.evaluation.prompt_preferences import preferences_by_prompt

    prompts = synthetic_runs.small_prompts(12)
    frames, names = [], []
    for t in range(2):
        answers = synthetic_runs.first_answer(t)
        data = synthetic_runs.evaluated(prompts, answers, lambda p: "reference " * 9, 0.2 * t, t)
        artifact = open_artifact(
            synthetic_runs.write_artifact(tmp_path / str(t), "judgments", data.tables["judgments"]), JUDGMENTS
        )
        names.append(value_tables.judged_prompts(engine, artifact))
        frames.append(preferences_by_prompt(artifact.read().to_pandas()).dropna())
    both = frames[0].merge(frames[1], on=["language", "prompt_id"])
    change = both.preference_y - both.preference_x
    nothing = engine.keep("nothing", sources.EMPTY)
    comparison = prompt_changes.Comparison(names[0], names[1], nothing, "judge")
    (whole,) = prompt_changes.slices(engine, comparison, "all")
    assert whole.change == pytest.approx(100 * change.mean())
    sums = (change - change.mean()).groupby(both.prompt_id).sum()
    clustered = 100 * math.sqrt(len(sums) / (len(sums) - 1) * (sums**2).sum()) / len(both)
    assert whole.standard_error == pytest.approx(clustered)
    rows, total = prompt_changes.ranked(engine, comparison, prompt_changes.Filter(), "worse", 0)
    assert total == len(both)
    assert [row["change"] for row in rows] == pytest.approx(sorted(change)[: len(rows)])
    flow = prompt_changes.flow(engine, comparison, prompt_changes.Filter())
    assert sum(flow.values()) == total


def test_deleted_tables_and_slow_queries_are_said_so(engine: QueryEngine, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="moved or deleted while open"):
        engine.select("SELECT * FROM read_parquet(?)", [[str(tmp_path / "part-00000.parquet")]])
    with pytest.raises(InputError, match="narrow it"):
        engine.select(
            "SELECT count(*) FROM range(100000000) a, range(100000) b WHERE a.range % 7 = b.range % 11", seconds=0.3
        )


@given(st.text(max_size=300))
def test_labels_hold_nothing_invisible(text: str) -> None:
    shown = label(text)
    assert not set(shown) & set(
        "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c\n\r\t\x00\u2028\u2029"
    )


@given(st.dictionaries(st.sampled_from(list(View.__dataclass_fields__)), st.text(max_size=30)))
def test_any_address_parses_and_its_view_survives_the_round_trip(params: dict[str, str]) -> None:
    from urllib.parse import parse_qsl

    view = parse_view(params).view
    again = parse_view(dict(parse_qsl(view.query().lstrip("?"), keep_blank_values=True)))
    assert again.problems == ()
    assert again.view.query() == view.query()
