"""`reward_bench` with tiny models: log-probabilities against a plain forward, what is counted where, what is reused, what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM

from icr_platform.cli.commands import run as cli
from icr_platform.core.artifacts import open_artifact
from icr_platform.core.errors import InputError
from icr_platform.core.languages import reward_instruction
from icr_platform.core.schemas import DROPS, REWARD_BENCH, TRANSLATIONS
from icr_platform.core.stage_protocol import StageContext, StageResult
from icr_platform.engines.scoring.logprobs import CompletionScorer
from icr_platform.engines.scoring.reward_kinds import random_reward
from icr_platform.evaluation import reward_bench_stage as stage
from icr_platform.evaluation.reward_bench_config import RewardBenchConfig
from icr_platform.models.chat import encode_prompt, encode_response
from icr_platform.models.loading import load_tokenizer

PAIRS = [
    {"id": f"q{number}", "language": language, "prompt": f"{asked} {number}?", "chosen": f"{good} {number}.",
     "rejected": f"{bad} {number * 7}", "category": ("chat", "facts")[number % 2]}
    for language, asked, good, bad in (("en", "Name a fruit", "A pear", "No"), ("es", "Di una fruta", "Una pera", "No, nada de"))
    for number in range(6)
]  # fmt: skip


def write_pairs(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def config_of(models: tuple[Path, Path], pairs: str, **settings: Any) -> RewardBenchConfig:
    return RewardBenchConfig(policy=str(models[0]), reference=str(models[1]), pairs=pairs, **settings)


def run(config: RewardBenchConfig, folder: Path) -> StageResult:
    return stage.run(stage.read(config), StageContext(folder, "test"))


def bench_rows(result: StageResult) -> Any:
    """The rows, of which pandas' types know too little."""
    return open_artifact(result.artifacts["reward_bench"], REWARD_BENCH).read().to_pandas()


def naive_logprob(model: Path, instruction: str, response: str) -> float:
    """One forward over the whole sequence, no cache, no packs."""
    tokenizer = load_tokenizer(str(model))
    prompt, completion = encode_prompt(tokenizer, instruction), encode_response(tokenizer, response)
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(model)(torch.tensor([[*prompt, *completion]])).logits[0].double()
    ids = torch.tensor(completion)
    return float(logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, ids[:, None]).sum())


@pytest.fixture(scope="module")
def measured(tiny_models: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> StageResult:
    folder = tmp_path_factory.mktemp("reward_bench")
    spoilt = [
        {"id": "only-es", "language": "es", "prompt": "Sin inglés.", "chosen": "Sí.", "rejected": "No sé."},
        {"id": "same", "language": "es", "prompt": "Hola", "chosen": "Hola.", "rejected": "Hola."},
        {"id": "empty", "language": "es", "prompt": "Hola", "chosen": " ", "rejected": "Hola."},
        {"id": "q0", "language": "tlhIngan Hol", "prompt": "nuqneH", "chosen": "Qapla'", "rejected": "ghobe'"},
        {"id": "long", "language": "en", "prompt": "Name a tree", "chosen": "oak " * 600, "rejected": "elm"},
    ]
    pairs = write_pairs(folder / "pairs.jsonl", [*PAIRS, *spoilt])
    return run(config_of(tiny_models, pairs, shard_pairs=5, max_dropped=10), folder / "out")


def test_log_probabilities_are_those_of_a_plain_forward(measured: StageResult, tiny_models: tuple[Path, Path]) -> None:
    rows = bench_rows(measured).set_index(["language", "pair_id", "kind"])
    for language, kind in (("es", "cross-lingual"), ("es", "multilingual"), ("en", "cross-lingual")):
        row = rows.loc[(language, "q3", kind)]
        pair = next(pair for pair in PAIRS if (pair["language"], pair["id"]) == (language, "q3"))
        instruction = reward_instruction(language, "Name a fruit 3?") if kind == "cross-lingual" else pair["prompt"]
        for side in ("chosen", "rejected"):
            for model, name in zip(tiny_models, ("policy", "reference"), strict=True):
                expected = naive_logprob(model, instruction, pair[side])
                assert row[f"{side}_{name}_logprob"] == pytest.approx(expected, abs=1e-4), (language, kind, side, name)
        margin = 0.1 * (
            row["chosen_policy_logprob"] - row["chosen_reference_logprob"]
            - row["rejected_policy_logprob"] + row["rejected_reference_logprob"]
        )  # fmt: skip
        assert row["margin"] == pytest.approx(margin, abs=1e-9)
        assert row["is_right"] == (1.0 if margin > 0 else 0.0)


def test_every_pair_and_kind_is_scored_or_says_why_not(measured: StageResult) -> None:
    rows = bench_rows(measured)
    assert len(rows) == (len(PAIRS) + 3) * 4  # three kinds that need no translator, and length
    missing = rows[rows["is_right"].isna()]
    assert {tuple(row) for row in missing[["kind", "pair_id", "language", "reason"]].itertuples(index=False)} == {
        ("cross-lingual", "only-es", "es", "no-english"),
        ("cross-lingual", "q0", "tlhIngan Hol", "unknown-language"),
        ("cross-lingual", "long", "en", "too-long"),
        ("multilingual", "long", "en", "too-long"),
    }
    assert (rows["reason"] == "").equals(rows["is_right"].notna())
    drops = open_artifact(measured.artifacts["reward_bench_drops"], DROPS).read().to_pandas()
    assert sorted(drops["reason"]) == sorted([*missing["reason"], "identical", "empty"])
    assert any("pairs.jsonl: row 14" in detail for detail in drops["detail"])
    said = "\n".join(measured.notes)
    assert "cross-lingual: 1 of 15 pairs (es) are not scored because their prompts have no English counterpart" in said
    assert "1 of 17 rows were left out because both responses are the same text" in said
    assert "tlhIngan Hol name no known language" in said
    assert measured.metrics["reward_bench/dropped"] == pytest.approx(100 * 4 / 60)


def test_figures_are_those_of_the_rows(measured: StageResult) -> None:
    rows = bench_rows(measured)
    for kind in ("cross-lingual", "multilingual", "length", "random"):
        by_language = {
            language: 100 * rows[(rows["kind"] == kind) & (rows["language"] == language)]["is_right"].mean()
            for language in ("en", "es", "tlhIngan Hol")
        }
        for language, value in by_language.items():
            if not np.isnan(value):
                assert measured.metrics[f"reward_accuracy/{kind}/{language}"] == pytest.approx(value)
        known = [value for value in by_language.values() if not np.isnan(value)]
        assert measured.metrics[f"reward_accuracy/{kind}/mean"] == pytest.approx(np.mean(known))
    length = rows[rows["kind"] == "length"].set_index(["language", "pair_id"])
    assert length.loc[("en", "q1"), "is_right"] == 1.0  # "A pear 1." is longer than "No 7"
    assert length.loc[("es", "q1"), "is_right"] == 0.0
    page = (measured.artifacts["reward_bench"] / "calibration.html").read_text(encoding="utf-8")
    assert page.count("<figure>") == len(measured.tables["reward_calibration"].groupby(["kind", "language"]))
    assert "<script" not in page
    assert "http://" not in page
    table = measured.tables["reward_accuracy"]
    assert set(table["category"]) == {"", "chat", "facts"}
    assert set(measured.tables["reward_comparison"]["second"]) == {"multilingual", "random", "length"}


def test_drawn_rewards_do_not_know_the_label(
    measured: StageResult, tiny_models: tuple[Path, Path], tmp_path: Path
) -> None:
    """The same two responses with the other label have the same rewards."""
    rows = bench_rows(measured)
    drawn = rows[rows["kind"] == "random"].set_index(["language", "pair_id"])
    swapped = [{**pair, "chosen": pair["rejected"], "rejected": pair["chosen"]} for pair in PAIRS]
    again = run(
        config_of(tiny_models, write_pairs(tmp_path / "pairs.jsonl", swapped), reward_kind="random"), tmp_path / "out"
    )
    other = bench_rows(again).query("kind == 'random'").set_index(["language", "pair_id"])
    for pair in PAIRS:
        key = (pair["language"], pair["id"])
        assert drawn.loc[key, "margin"] == -other.loc[key, "margin"]
    seen = {drawn.loc["en", "chosen_reward"]["q0"], drawn.loc["en", "rejected_reward"]["q0"]}
    assert seen == {random_reward(42, "en", "q0", 0), random_reward(42, "en", "q0", 1)}


@pytest.mark.parametrize(
    ("rows", "settings", "words"),
    [
        ([pair for pair in PAIRS if pair["language"] == "es"], {}, ["none of 6 pairs", "cross-lingual", "english_instruction", "multilingual"]),
        ([{"prompt": "Hi", "chosen": "a", "rejected": "a"}], {}, ["contains no pair", "row 1", "equals"]),
        (PAIRS, {"languages": "fr"}, ["'fr'", "found: en, es"]),
        (PAIRS, {"reward_kind": "translate"}, ["'translator'", "--translator"]),
        (PAIRS, {"reward_kind": "random,random"}, ["'reward_kind'", "different"]),
        ([{**pair, "chosen": "pear " * 600} for pair in PAIRS], {}, ["12 of 12 pairs", "too-long", "--max-dropped"]),
        ([{"submission": "s", "reviewer": "r", "left": "chosen", "right": "rejected", "choice": "left"}], {}, ["without the texts", "labelled-pairs.jsonl"]),
        (PAIRS, {"pair_columns": {"categry": "x"}}, ["'categry'", "'category'"]),
    ],
)  # fmt: skip
def test_what_cannot_work_is_said_before_work(
    rows: list[dict[str, Any]],
    settings: dict[str, Any],
    words: list[str],
    tiny_models: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    with pytest.raises(InputError) as error:
        stage.read(config_of(tiny_models, write_pairs(tmp_path / "pairs.jsonl", rows), **settings))
    assert [word for word in words if word not in str(error.value)] == []
    assert "\n" not in str(error.value)


def test_translations_are_scored_after_the_english_instruction(tiny_models: tuple[Path, Path], tmp_path: Path) -> None:
    """English responses stand for themselves; a response whose translation failed is not scored by this kind, and says so."""
    pairs = write_pairs(tmp_path / "pairs.jsonl", PAIRS)
    config = config_of(
        tiny_models,
        pairs,
        reward_kind="translate,multilingual",
        translator=str(tiny_models[0]),
        translation_max_tokens=48,
    )
    result = run(config, tmp_path / "out")
    texts: Any = open_artifact(result.artifacts["pair_translations"], TRANSLATIONS).read().to_pandas()
    texts = texts.set_index(["language", "prompt_id", "sample_index"])["translation"]
    rows = bench_rows(result).set_index(["kind", "language", "pair_id"]).sort_index()
    assert rows.loc[("translate", "es")]["is_right"].notna().any()
    english = rows.loc[("translate", "en")]
    assert english["margin"].tolist() == pytest.approx(rows.loc[("multilingual", "en")]["margin"].tolist(), abs=1e-6)
    for pair_id, row in rows.loc[("translate", "es")].iterrows():
        translated = [texts["es", pair_id, side] for side in (0, 1)]
        assert (row["reason"] == "translation") == any(pd.isna(text) for text in translated)
        assert (row["reason"] == "translation") == np.isnan(row["is_right"])
        if row["reason"] == "":
            expected = naive_logprob(tiny_models[0], f"Name a fruit {pair_id[1:]}?", translated[1])
            assert row["rejected_policy_logprob"] == pytest.approx(expected, abs=1e-4)


def test_rows_that_earlier_work_has_are_not_scored_again(
    tiny_models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through `icr`: the same work is found; of more pairs, and of another policy, only what is new is scored."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    counts: list[int] = []
    score = CompletionScorer.score

    def spy(self, groups, *rest):  # type: ignore[no-untyped-def]
        counts.append(sum(len(group.completions) for group in groups))
        return score(self, groups, *rest)

    monkeypatch.setattr(CompletionScorer, "score", spy)

    def icr(rows: list[dict[str, Any]], *flags: str, policy: int = 0) -> int:
        pairs = write_pairs(tmp_path / "pairs.jsonl", rows)
        counts.clear()
        models = [f"--policy={tiny_models[policy]}", f"--reference={tiny_models[1 - policy]}"]
        assert (
            cli(["reward-bench", *models, f"--pairs={pairs}", "--reward-kind=multilingual", "--shard-pairs=4", *flags])
            == 0
        )
        return sum(counts)

    first = icr(PAIRS[:8])
    assert first == 2 * 8 * 2  # two responses of eight pairs under two models
    assert icr(PAIRS[:8]) == 0
    assert icr(PAIRS[:8], "--beta=0.5") == 0  # of log-probabilities that are there
    assert icr(PAIRS) == 2 * 4 * 2
    assert icr(list(reversed(PAIRS))) == 0


def test_a_killed_stage_goes_on_with_the_parts_it_has(tiny_models: tuple[Path, Path], tmp_path: Path) -> None:
    config = config_of(
        tiny_models, write_pairs(tmp_path / "pairs.jsonl", PAIRS), shard_pairs=4, reward_kind="multilingual"
    )
    whole = bench_rows(run(config, tmp_path / "whole"))
    inputs, context = stage.read(config), StageContext(tmp_path / "killed", "test")
    made: list[int] = []

    def dies(work: Any, part: int, *rest: Any) -> Any:
        if len(made) == 1:
            raise KeyboardInterrupt
        made.append(part)
        return bench_part(work, part, *rest)

    bench_part = stage._bench_part
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "_bench_part", dies)
        with pytest.raises(KeyboardInterrupt):
            stage.run(inputs, context)
    assert (tmp_path / "killed" / "reward_bench_work" / "policy-logprobs" / "manifest.json").exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CompletionScorer, "score", lambda *_: pytest.fail("all of it is scored"))
        again = bench_rows(stage.run(inputs, context))
    pd.testing.assert_frame_equal(again, whole)
    assert not (tmp_path / "killed" / "reward_bench_work").exists()
