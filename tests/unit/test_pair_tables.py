"""Preferences and drops of every pair rule, with several pairs a prompt and with a pool: what is written adds up."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from icr_platform.annotation.config import AnnotateSettings
from icr_platform.annotation.filters import FilterResult
from icr_platform.annotation.pair_notes import check_pair_settings, impossible_pairs, pair_notes, why_no_pair
from icr_platform.annotation.prompt_index import Instructions
from icr_platform.annotation.selection import (
    ResponseReader,
    collect_samples,
    own_reasons,
    pooled,
    select_language,
    write_chunk,
)
from icr_platform.annotation.summary import DROP_COLUMNS, PAIR_COLUMNS, Written, annotation_metrics, language_figures
from icr_platform.core.artifacts import Artifact, ArtifactWriter
from icr_platform.core.conversations import Conversation
from icr_platform.core.errors import InputError
from icr_platform.core.schemas import PREFERENCES, RESPONSES, REWARDS
from icr_platform.data.labelled_pairs import _artifact_pairs
from icr_platform.evaluation.own_samples import kind_of_the_pairs, selected_pairs
from icr_platform.pipeline.config import IterateConfig
from icr_platform.pipeline.iterate import check_pair_rules
from icr_platform.training.dataset import check_pairs

LANGUAGES = ("en", "es", "de")
PROMPTS, SAMPLES = 12, 9


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows with None where pandas has NaN."""
    return table.astype(object).where(table.notna(), None).to_dict("records")  # type: ignore[return-value]


class World:
    """Responses and rewards of three languages; prompt p3 is missing in German, and p4 has one usable sample in Spanish."""

    def __init__(self, folder: Path, languages: tuple[str, ...] = LANGUAGES) -> None:
        random = np.random.default_rng(5)
        writers = [ArtifactWriter(folder / table.name, table, "f") for table in (RESPONSES, REWARDS)]
        self.dropped: set[tuple[str, str, int]] = set()
        self.frame: list[dict[str, Any]] = []
        for part, language in enumerate(languages):
            responses, rewards = [], []
            for prompt in range(PROMPTS):
                if (language, prompt) == ("de", 3):
                    continue
                for sample in range(SAMPLES):
                    # One text in ten is that of another sample, and some texts are the same in all languages.
                    length = int(random.integers(1, 40))
                    text = "42" if random.random() < 0.1 else f"{language} {sample} " + "x" * length
                    key: dict[str, Any] = {"language": language, "prompt_id": f"p{prompt}", "sample_index": sample}
                    alone = (language, prompt) == ("es", 4)
                    if (alone and sample) or (not alone and random.random() < 0.15):
                        self.dropped.add(tuple(key.values()))
                    unscored = (random.random() < 0.05 and not alone) or tuple(key.values()) in self.dropped
                    reward = math.nan if unscored else float(np.round(random.normal() + 0.02 * length, 1))
                    responses.append(
                        {**key, "response": text, "token_ids": [1, 2], "finish_reason": "stop", "token_ids_source": "sampler",
                         "token_count": 2, "character_count": len(text), "detected_language": language, "language_confidence": 1.0}
                    )  # fmt: skip
                    rewards.append({**key, "kind": "cross-lingual", "reward": None if unscored else reward})
                    self.frame.append({**key, "text": text, "reward": reward, "characters": len(text)})
            for writer, rows in zip(writers, (responses, rewards), strict=True):
                writer.write_part(part, pa.Table.from_pylist(rows, schema=writer.table.schema))
        self.responses, self.rewards = (writer.close(len(languages)) for writer in writers)
        self.prompts = {
            (language, f"p{prompt}"): Instructions(Conversation(f"ask {language} {prompt}"), None)
            for language in languages
            for prompt in range(PROMPTS)
        }

    def _filtered(self, part: int) -> list[FilterResult]:
        keys = self.responses.read_part(part, ["language", "prompt_id", "sample_index"]).to_pylist()
        return [FilterResult("truncated" if tuple(key.values()) in self.dropped else "", "cut") for key in keys]

    def annotated(self, chunk: int = 5, **given: Any) -> Any:
        """Preferences, drops, metrics and notes, by the functions of the stage in its order."""
        settings = AnnotateSettings(**given)
        reader = ResponseReader(self.responses, None, settings, self._filtered)
        languages = list(collect_samples(reader, self.rewards))
        pool = pooled(languages, "cross-lingual") if settings.pool == "all" else None
        groups = [pool] if pool else languages
        selected = [select_language(samples, settings, 7) for samples in groups]
        tables = [
            write_chunk(samples, pairs, slice(start, start + chunk), reader, self.prompts, 7)
            for samples, pairs in zip(groups, selected, strict=True)
            for start in range(0, len(samples.prompt_ids), chunk)
        ]
        preferences, drops = (pa.concat_tables(side) for side in zip(*tables, strict=True))
        if pool:
            [whole] = selected
            selected = [replace(whole, reason=own_reasons(pool, whole, own)) for own in languages]
        written = Written(preferences.select(PAIR_COLUMNS), drops.select(DROP_COLUMNS), None)
        figures = language_figures(languages, selected, written, settings)
        metrics = annotation_metrics(figures, [own.language for own in languages])
        notes = pair_notes(languages, written, settings)
        return preferences.to_pandas(), drops.to_pandas(), metrics, notes, why_no_pair(written.drops, settings)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


def test_a_language_is_given_before_the_next_one_is_read(world: World) -> None:
    """Of ten million responses the numbers of one language are in memory, not those of a hundred."""
    read: list[int] = []

    def filtered(part: int) -> list[FilterResult]:
        read.append(part)
        return world._filtered(part)

    languages = collect_samples(ResponseReader(world.responses, None, AnnotateSettings(), filtered), world.rewards)
    next(languages)
    assert read == [0]
    assert len(list(languages)) == len(world.responses.parts) - 1


RULES = ("lowest", "mean-2sd", "lower-quartile", "nearest-mean", "random")
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"pairs_per_prompt": 3},
    {"pairs_per_prompt": 3, "minimal_margin": 0.8, "near_duplicate": 0.9},
    {"pool": "all"},
    {"pool": "all", "pool_prompt": "rejected", "pairs_per_prompt": 4, "upper_bound": 1.0},
    {"pool": "all", "pool_prompt": "random", "pairs_per_prompt": 2, "near_duplicate": 0.8},
)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(map(str, options.values())) or "default")
def test_pairs_and_drops_add_up(world: World, options: dict[str, Any]) -> None:
    truth = {(row["language"], row["prompt_id"], row["sample_index"]): row for row in world.frame}
    for rule in RULES:
        preferences, drops, metrics, _, _ = world.annotated(
            rejected=rule, length_control=rule in ("lowest", "mean-2sd"), **options
        )
        several = options.get("pairs_per_prompt", 1)
        asked = {(language, f"p{i}") for language in LANGUAGES for i in range(PROMPTS)} - {("de", "p3")}
        of_prompts = drops[drops.sample_index.isna() & drops.pair_index.isna()]
        of_pairs = drops[drops.pair_index.notna()]
        with_pair = set(zip(preferences.language, preferences.prompt_id, strict=True))
        without = list(zip(of_prompts.language, of_prompts.prompt_id, strict=True))
        assert len(with_pair) + len(without) == len(asked)
        assert with_pair | set(without) == asked
        sources = {key[1] for key in with_pair} if "pool" in options else with_pair
        assert len(preferences) + len(of_pairs) == several * len(sources)
        assert of_pairs.sample_index.isna().all()

        used: Counter[tuple[str, str, int]] = Counter()
        for row in records(preferences):
            ends = {}
            for end in ("chosen", "rejected"):
                language = row[f"{end}_language"] or row["language"]
                ends[end] = truth[language, row["prompt_id"], row[f"{end}_index"]]
                used[language, row["prompt_id"], row[f"{end}_index"]] += 1
                assert ends[end]["text"] == row[end]
                assert ends[end]["reward"] == row[f"{end}_reward"]
            assert row["chosen"] != row["rejected"]
            alpha = row["length_penalty_alpha"]
            chosen, rejected = (ends[end]["reward"] - alpha * ends[end]["characters"] for end in ("chosen", "rejected"))
            assert row["margin"] == pytest.approx(chosen - rejected)
            assert row["margin"] > options.get("minimal_margin", 0.0)
            assert row["instruction"] == f"ask {row['language']} {row['prompt_id'][1:]}"
            whose = options.get("pool_prompt", "chosen")
            assert whose == "random" or row[f"{whose}_language"] is None
            assert row["chosen_language"] is None or row["rejected_language"] is None
        assert set(used.values()) == {1}, "no sample is in two pairs"
        assert used.keys().isdisjoint(world.dropped)
        assert preferences.pair_index.isna().all() == (several == 1)
        assert not preferences.duplicated(["language", "prompt_id", "chosen_index", "chosen_language"]).any()
        for language in LANGUAGES:
            own = preferences[preferences.language == language]
            assert metrics[f"pairs/{language}"] == len(own)
            shares = [
                value
                for name, value in metrics.items()
                if name.startswith("dropped_prompts/") and name.endswith(language)
            ]
            assert sum(shares) == pytest.approx(
                (of_prompts.language == language).sum() / sum(k[0] == language for k in asked)
            )


def test_a_pool_takes_the_best_sample_of_all_languages(world: World) -> None:
    preferences, drops, metrics, _, _ = world.annotated(pool="all", length_control=False)
    rows = pd.DataFrame(world.frame).dropna(subset="reward").drop_duplicates(["prompt_id", "text"])
    for row in records(preferences):
        own = rows[rows.prompt_id == row["prompt_id"]]
        assert (row["chosen_reward"], row["rejected_reward"]) == (own.reward.max(), own.reward.min())
    assert len(preferences) == PROMPTS
    mixed = preferences.chosen_language.notna() | preferences.rejected_language.notna()
    assert 0 < mixed.sum() < PROMPTS
    assert metrics["mixed_pairs/es"] == mixed[preferences.language == "es"].mean()
    pooled_rows = drops[drops.reason == "pooled"]
    assert len(pooled_rows) == 3 * PROMPTS - 1 - PROMPTS, (
        "each language of a prompt id but that of its pair; p3 has two"
    )
    assert pooled_rows.detail.str.startswith("its pair is in ").all()
    same = drops[(drops.reason == "duplicate") & drops.detail.str.contains(" in ")]
    assert len(same), "a text that another language has, too"


def test_a_pool_of_one_language_is_that_language(tmp_path: Path) -> None:
    alone = World(tmp_path, ("es",))
    one, pool = (alone.annotated(pool=pool, pairs_per_prompt=2)[:2] for pool in ("language", "all"))
    for left, right in zip(one, pool, strict=True):
        pd.testing.assert_frame_equal(left, right)
    counts = {"es": Counter({f"p{i}": SAMPLES for i in range(PROMPTS)})}
    [note] = impossible_pairs(AnnotateSettings(pool="all"), counts)
    assert note == "pool is 'all', but all responses are in es: pairs are those of pool 'language'"


def test_random_pairs_depend_on_the_seed_and_the_keys_alone(world: World, tmp_path: Path) -> None:
    given: dict[str, Any] = {"rejected": "random", "length_control": False, "pairs_per_prompt": 2}
    first, again = world.annotated(**given)[0], world.annotated(chunk=1, **given)[0]
    pd.testing.assert_frame_equal(first, again)
    fewer = World(tmp_path, ("en",)).annotated(**given)[0]
    pd.testing.assert_frame_equal(fewer, first[first.language == "en"].reset_index(drop=True))
    lowest = world.annotated(length_control=False, pairs_per_prompt=2)[0]
    assert (lowest.rejected_index != first.rejected_index).any() if len(lowest) == len(first) else True


def test_default_rows_say_nothing_of_pools_and_several_pairs(world: World) -> None:
    preferences, drops, metrics, notes, _ = world.annotated()
    assert preferences[["pair_index", "chosen_language", "rejected_language"]].isna().all(axis=None)
    assert drops.pair_index.isna().all()
    assert not [name for name in metrics if name.startswith(("dropped_pairs", "mixed_pairs", "dropped_prompts/pooled"))]
    assert not notes


def test_no_pair_is_explained_in_one_line(world: World, tmp_path: Path) -> None:
    preferences, _, _, notes, why = world.annotated(rejected="nearest-mean", minimal_margin=50.0)
    assert preferences.empty
    assert "es: no prompt gave a pair; the table of drops says why" in notes
    [line] = [note for note in notes if note.startswith("es: no pair")]
    assert line.startswith(
        "es: no pair of 12 prompts by rejected nearest-mean, pool language, minimal_margin 50: 11 margin, 1 one-survivor"
    )
    assert "of their samples were dropped before:" in line
    writer = ArtifactWriter(tmp_path / "preferences", PREFERENCES, "f")
    writer.write_part(0, PREFERENCES.schema.empty_table())
    empty = writer.close(1, {"no_pair": why})
    with pytest.raises(
        InputError, match=r"contains no preference pairs; no pair of 35 prompts by rejected nearest-mean"
    ):
        check_pairs(empty, 100)


@pytest.mark.parametrize(
    ("given", "samples", "said"),
    [
        ({"pairs_per_prompt": 8}, {"es": {"p": 10, "q": 7}}, "has 10 samples at most, which make 5 pairs"),
        ({"pairs_per_prompt": 5}, {"es": {"p": 10}}, ""),
        ({"pairs_per_prompt": 8, "pool": "all"}, {"es": {"p": 10}, "de": {"p": 10}}, ""),
        ({"pairs_per_prompt": 2}, {"es": {"p": 1}}, "has 1 samples at most, which make 0 pairs"),
        ({"pool": "all"}, {"es": {"p": 10, "q": 3}, "de": {"p": 10}}, "1 of 2 prompt ids are not in every language"),
        ({"pool": "all"}, {}, ""),
    ],
)  # fmt: skip
def test_what_samples_cannot_give_is_said(given: dict[str, Any], samples: dict[str, dict[str, int]], said: str) -> None:
    notes = impossible_pairs(AnnotateSettings(**given), {code: Counter(own) for code, own in samples.items()})
    assert len(notes) == bool(said)
    assert all(said in note for note in notes)


def test_fewer_pairs_than_asked_for_are_counted(world: World) -> None:
    _, drops, metrics, notes, _ = world.annotated(pairs_per_prompt=4)
    own = drops[(drops.language == "en") & drops.pair_index.notna()]
    assert len(own)
    [note] = [line for line in notes if line.startswith("en: ")]
    assert f"{len(own)} fewer than 4 of each prompt that gives any" in note
    assert metrics["dropped_pairs/few-samples/en"] == (own.reason == "few-samples").sum() / (
        metrics["pairs/en"] + len(own)
    )


def test_the_language_of_a_prompt_needs_a_pool() -> None:
    for whose in ("rejected", "random"):
        with pytest.raises(InputError, match=r"'pool_prompt' is .*set pool: all, or leave pool_prompt out"):
            check_pair_settings(AnnotateSettings(pool_prompt=whose))
        check_pair_settings(AnnotateSettings(pool="all", pool_prompt=whose))
    check_pair_settings(AnnotateSettings())


def test_own_samples_and_labelled_pairs_know_the_language_of_each_side(world: World, tmp_path: Path) -> None:
    """Sample 3 of one language is not sample 3 of another."""
    preferences, *_ = world.annotated(pool="all", pool_prompt="random", pairs_per_prompt=3)
    rewards = pd.DataFrame(world.frame)[["language", "prompt_id", "sample_index", "reward"]].assign(
        kind="cross-lingual"
    )
    other = rewards.assign(kind="multilingual", reward=rewards.reward + 1)
    assert kind_of_the_pairs(pd.concat([other, rewards]), preferences) == "cross-lingual"
    # A checker for which the reward is right: every pair is.
    checked = rewards.assign(instruction_kind="", score=rewards.reward.rank(pct=True), characters=1)
    for found in selected_pairs(checked, preferences):
        own = preferences[preferences.language == found.language]
        agree = (own.chosen_reward > own.rejected_reward).sum()
        assert (found.right, found.unknown) == (agree, 0)
    writer = ArtifactWriter(tmp_path / "preferences", PREFERENCES, "f")
    writer.write_part(0, pa.Table.from_pandas(preferences, schema=PREFERENCES.schema, preserve_index=False))
    artifact: Artifact = writer.close(1)
    labelled = _artifact_pairs(str(artifact.folder))
    assert len({(pair.language, pair.pair_id) for pair in labelled}) == len(preferences)


def test_iterate_refuses_before_it_works() -> None:
    config = IterateConfig.model_validate({"annotate": {"pool_prompt": "random"}})
    with pytest.raises(InputError, match="'pool_prompt' is 'random', but 'pool' is 'language'"):
        check_pair_rules(config)
    check_pair_rules(IterateConfig())
