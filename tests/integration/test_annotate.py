"""annotate from responses to preferences: right pairs, everything accounted for, resumable to the same bytes."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from icr_platform.annotation import stage
from icr_platform.annotation.config import AnnotateConfig
from icr_platform.core.artifacts import ArtifactWriter, open_artifact
from icr_platform.core.errors import InputError
from icr_platform.core.languages import PREFIX
from icr_platform.core.schemas import DROPS, PREFERENCES, RESPONSES, REWARDS, TRANSLATIONS
from icr_platform.core.spending import spent
from icr_platform.core.stage_protocol import StageContext
from icr_platform.engines.scoring import model_scores
from icr_platform.models.chat import encode_prompt, encode_response
from ui.tables.margins_data import length_figures

LANGUAGES = ("en", "es", "de")
TEXTS = {
    "en": [
        "An apple.",
        "A red apple is a fruit.",
        "An apple.",
        "",
        "Eine rote Frucht.",
        "A horse is an animal, friend!",
    ],
    "es": [
        "Una manzana.",
        "La manzana es roja.",
        "Hola, amigo!",
        "  ",
        "A horse is tall.",
        "La hierba es verde, amigo.",
    ],
    "de": ["Ein Apfel.", "Ein Apfel ist rot.", "Hallo, Freund!", "\n", "An apple is red.", "Gras ist grün, Freund."],
}
KEY = ["language", "prompt_id", "sample_index"]


def response_rows(tokenizer: Any, language: str, prompt: int) -> list[dict[str, object]]:
    rows = []
    for index, text in enumerate(TEXTS[language]):
        ids = encode_response(tokenizer, text)[prompt % 2 :]
        rows.append(
            {
                "language": language, "prompt_id": f"p{prompt}", "sample_index": index, "response": text,
                "token_ids": ids, "finish_reason": "length" if (prompt, index) == (1, 0) else "stop",
                "token_ids_source": "sampler", "token_count": len(ids), "character_count": len(text),
                "detected_language": {4: "fr"}.get(index, language), "language_confidence": 0.9,
            }
        )  # fmt: skip
    return rows


def write_responses(folder: Path, parts: Sequence[list[dict[str, object]]]) -> Path:
    writer = ArtifactWriter(folder, RESPONSES, "made by hand")
    for index, rows in enumerate(parts):
        writer.write_part(index, pa.Table.from_pylist(rows, schema=RESPONSES.schema))
    writer.close(len(parts))
    return folder


@pytest.fixture
def config(tmp_path: Path, tiny_models: tuple[Path, Path], prompt_folder: Path) -> AnnotateConfig:
    """Six samples of five prompts in three languages, two parts a language, but for Spanish p4: one usable sample."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_models[0])
    parts = []
    for language in LANGUAGES:
        for prompts in ((0, 1, 2), (3, 4)):
            parts.append([row for prompt in prompts for row in response_rows(tokenizer, language, prompt)])
    parts[3] = [row for row in parts[3] if row["prompt_id"] != "p4" or row["sample_index"] in (0, 3)]
    folder = write_responses(tmp_path / "responses", parts)
    return AnnotateConfig(
        policy=str(tiny_models[0]), reference=str(tiny_models[1]), prompts=str(prompt_folder), responses=str(folder)
    )


def annotate(config: AnnotateConfig, folder: Path) -> Any:
    return stage.run(stage.read(config), StageContext(folder, "fingerprint"))


def changed(config: AnnotateConfig, **values: object) -> AnnotateConfig:
    return AnnotateConfig(**(config.model_dump() | values))


def frame(folder: Path, table: Any) -> Any:
    return open_artifact(folder / table.name, table).read().to_pandas()


def naive_reward(config: AnnotateConfig, instruction: str, token_ids: Sequence[int]) -> float:
    scores = []
    for path in (config.policy, config.reference):
        tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModelForCausalLM.from_pretrained(path)
        prompt = encode_prompt(tokenizer, instruction)
        with torch.no_grad():
            logprobs = torch.log_softmax(model(torch.tensor([[*prompt, *token_ids]])).logits[0].double(), -1)
        scores.append(sum(float(logprobs[len(prompt) + i - 1, token]) for i, token in enumerate(token_ids)))
    return config.beta * (scores[0] - scores[1])


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in (".parquet", ".json")]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_rewards_pairs_and_drops(config: AnnotateConfig, tmp_path: Path) -> None:
    result = annotate(config, tmp_path / "out")
    rewards, preferences, drops = (frame(tmp_path / "out", table) for table in (REWARDS, PREFERENCES, DROPS))
    responses = open_artifact(Path(config.responses), RESPONSES).read().to_pandas()

    assert rewards[KEY].equals(responses[KEY])
    prefix = {"en": "", "es": PREFIX.format(language="Spanish"), "de": PREFIX.format(language="German")}
    english = [
        json.loads(line) for line in (Path(config.prompts) / "en.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    scored = rewards.index[rewards.reward.notna()]
    for row in scored[:: len(scored) // 5]:
        of = responses.iloc[row]
        instruction = prefix[of.language] + english[int(of.prompt_id[1:])]["instruction"]
        expected = naive_reward(config, instruction, of.token_ids.tolist())
        assert rewards.reward[row] == pytest.approx(expected, abs=config.beta * 4e-5 * len(of.token_ids))

    for language in LANGUAGES:
        pairs, lost = preferences[preferences.language == language], drops[drops.language == language]
        assert len(pairs) + lost.sample_index.isna().sum() == 5
        scored = rewards[(rewards.language == language) & rewards.reward.notna()]
        samples = lost[lost.sample_index.notna()]
        assert not samples.duplicated(KEY).any()
        assert len(scored) + len(samples[samples.reason != "duplicate"]) == (responses.language == language).sum()
    assert (preferences.margin > 0).all()
    assert (preferences.chosen != preferences.rejected).all()
    assert (preferences.groupby("language").length_penalty_alpha.nunique() == 1).all()

    merged = preferences.merge(
        responses, left_on=["language", "prompt_id", "chosen_index"], right_on=KEY, validate="one_to_one"
    )
    assert (merged.chosen == merged.response).all()
    assert [a.tolist() for a in merged.chosen_token_ids] == [b.tolist() for b in merged.token_ids]
    spanish = drops[drops.language == "es"].set_index(["prompt_id", "sample_index"]).reason
    assert spanish["p0", 3] == "empty"
    assert spanish["p0", 4] == "wrong-language"
    assert spanish["p1", 0] == "truncated"
    assert drops[(drops.language == "es") & drops.sample_index.isna()].reason.tolist() == ["one-survivor"]
    assert drops[(drops.language == "en") & (drops.reason == "duplicate")].detail.iloc[0] == "same text as sample 0"
    assert result.metrics["pairs/es"] == 4
    assert result.metrics["dropped_prompts/one-survivor/es"] == pytest.approx(0.2)
    assert not (tmp_path / "out" / "work").exists()


def test_pairs_are_the_extremes_of_the_controlled_reward(config: AnnotateConfig, tmp_path: Path) -> None:
    annotate(config, tmp_path / "out")
    rewards, preferences = (frame(tmp_path / "out", table) for table in (REWARDS, PREFERENCES))
    lengths = frame_of_lengths(config)
    for pair in preferences.itertuples():
        here = rewards[(rewards.language == pair.language) & (rewards.prompt_id == pair.prompt_id)].dropna(
            subset="reward"
        )
        controlled = [
            reward - pair.length_penalty_alpha * lengths[pair.language, pair.prompt_id, index]
            for index, reward in zip(here.sample_index, here.reward, strict=True)
        ]
        assert pair.margin == pytest.approx(max(controlled) - min(controlled))
        indices = here.sample_index.tolist()
        assert pair.chosen_index == indices[int(np.argmax(controlled))]
        assert pair.rejected_index == indices[int(np.argmin(controlled))]


def frame_of_lengths(config: AnnotateConfig) -> dict[tuple[str, str, int], int]:
    responses = open_artifact(Path(config.responses), RESPONSES).read(["character_count", *KEY]).to_pandas()
    return responses.set_index(KEY).character_count.to_dict()


def test_filters_of_pairs(config: AnnotateConfig, tmp_path: Path) -> None:
    annotate(changed(config, length_control=False), tmp_path / "plain")
    plain = frame(tmp_path / "plain", PREFERENCES)
    assert (plain.length_penalty_alpha == 0).all()
    assert plain.margin.to_numpy() == pytest.approx((plain.chosen_reward - plain.rejected_reward).to_numpy())

    annotate(changed(config, length_control=False, minimal_margin=float(plain.margin.median())), tmp_path / "margin")
    kept = frame(tmp_path / "margin", PREFERENCES)
    assert kept.prompt_id.tolist() == plain[plain.margin > plain.margin.median()].prompt_id.tolist()

    annotate(changed(config, near_duplicate=0.0), tmp_path / "alike")
    assert frame(tmp_path / "alike", PREFERENCES).empty
    drops = frame(tmp_path / "alike", DROPS)
    reasons = drops[drops.sample_index.isna()].reason.value_counts().to_dict()
    assert reasons == {"near-duplicate": 14, "one-survivor": 1}
    result = annotate(changed(config, near_duplicate=0.0), tmp_path / "alike")
    assert result.metrics["dropped_prompts/near-duplicate/de"] == 1
    assert "es: no prompt gave a pair; the table of drops says why" in result.notes


@pytest.mark.parametrize("values", [{}, {"rejected": "nearest-mean", "pairs_per_prompt": 2}])
def test_length_figures_are_those_of_the_tables(
    config: AnnotateConfig, tmp_path: Path, values: dict[str, object]
) -> None:
    result = annotate(changed(config, drop_wrong_language=False, **values), tmp_path / "out")
    folder = tmp_path / "out"
    drops, preferences = frame(folder, DROPS), frame(folder, PREFERENCES)
    samples = frame(folder, REWARDS).merge(open_artifact(Path(config.responses), RESPONSES).read().to_pandas(), on=KEY)
    gone = set(drops.dropna(subset="sample_index")[KEY].itertuples(index=False, name=None))
    samples = samples[[key not in gone for key in samples[KEY].itertuples(index=False, name=None)]]
    has_alpha = False
    for language in LANGUAGES:
        own, pairs = samples[samples.language == language], preferences[preferences.language == language]
        alpha = pairs.length_penalty_alpha.iloc[0]
        has_alpha |= alpha != 0
        for when, penalty in (("before", 0.0), ("after", alpha)):
            both = own.assign(controlled=own.reward - penalty * own.character_count)
            both = both[["prompt_id", "controlled", "character_count"]]
            within = both[["controlled", "character_count"]] - both.groupby("prompt_id").transform("mean")
            expected = within["controlled"].corr(within["character_count"])
            assert result.metrics[f"length_correlation/{when}/{language}"] == pytest.approx(expected)
        differences = pairs.chosen_characters - pairs.rejected_characters
        assert result.metrics[f"chosen_longer/after/{language}"] == (differences > 0).mean()
        assert result.metrics[f"length_difference/after/{language}"] == pytest.approx(differences.mean())
        if not values:  # best against worst of the reward alone, where there are two
            found = []
            for _, candidates in own.groupby("prompt_id"):
                ends = candidates.sort_values("reward", ascending=False, kind="stable").character_count
                found += [int(ends.iloc[0] - ends.iloc[-1])] if len(candidates) > 1 else []
            assert result.metrics[f"chosen_longer/before/{language}"] == np.mean(np.array(found) > 0)
            assert result.metrics[f"length_difference/before/{language}"] == pytest.approx(np.mean(found))
    assert has_alpha, "nothing was controlled"
    figures = length_figures(open_artifact(folder / PREFERENCES.name, PREFERENCES), LANGUAGES)
    assert [one.language for one in figures] == list(LANGUAGES)
    assert figures[1].longer[1] == result.metrics["chosen_longer/after/es"]


def test_all_kinds_at_once(config: AnnotateConfig, tmp_path: Path) -> None:
    kinds = ("multilingual", "cross-lingual", "translate", "random")
    every = changed(config, reward_kind=kinds, translator=config.policy, translation_max_tokens=8)
    result = annotate(every, tmp_path / "out")
    rewards = frame(tmp_path / "out", REWARDS).set_index(["kind", *KEY]).sort_index()
    assert set(rewards.index.get_level_values("kind")) == set(kinds)
    english = {kind: rewards.loc[kind, "en"].reward for kind in kinds}
    assert english["multilingual"].equals(english["cross-lingual"])
    assert english["multilingual"].equals(english["translate"])
    assert rewards.loc["random"].policy_logprob.isna().all()
    assert rewards.loc["random"].reward.notna().equals(rewards.loc["multilingual"].reward.notna())

    translations = frame(tmp_path / "out", TRANSLATIONS).set_index(KEY)
    failed = translations[translations.outcome.isin(["empty", "truncated"])].index
    assert rewards.loc["translate"].loc[failed].reward.isna().all()
    assert translations.translation.notna().equals(translations.outcome == "ok")
    assert result.metrics["reward_agreement/multilingual-cross-lingual/en"] == 1
    assert 0 < result.metrics["reward_agreement/multilingual-random/mean"] < 1
    sent = translations.outcome.loc["es"].isin(["ok", "empty", "truncated"]).sum()
    assert result.metrics["translation_failures/es"] == (failed.get_level_values(0) == "es").sum() / sent

    by_translation = changed(every, reward_kind=("translate",))
    before = spent()
    annotate(by_translation, tmp_path / "translate")
    assert min((spent() - before)[use] for use in ("sampled", "scored")) > 0, "translating samples"
    drops = frame(tmp_path / "translate", DROPS)
    assert set(drops[drops.reason == "translation"].set_index(KEY).index) == set(failed)
    assert len(frame(tmp_path / "translate", PREFERENCES)) + drops.sample_index.isna().sum() == 15


def test_random_control_needs_no_model(config: AnnotateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_scores, "load_model", lambda *_: pytest.fail("loaded a model"))
    control = changed(config, reward_kind="random")
    annotate(control, tmp_path / "one")
    annotate(control, tmp_path / "two")
    annotate(changed(control, seed=7), tmp_path / "three")
    one, two, three = (frame(tmp_path / name, REWARDS).reward for name in ("one", "two", "three"))
    assert one.equals(two)
    assert not one.equals(three)


def test_a_finished_stage_loads_no_model(
    config: AnnotateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = stage.read(config)
    first = stage.run(inputs, StageContext(tmp_path / "out", "fingerprint"))
    monkeypatch.setattr(model_scores, "load_model", lambda *_: pytest.fail("loaded a model"))
    monkeypatch.setattr(stage, "check_responses", lambda *_: pytest.fail("checked the inputs again"))
    again = stage.run(inputs, StageContext(tmp_path / "out", "fingerprint"))
    assert again.metrics == first.metrics
    assert again.tables["annotation"].equals(first.tables["annotation"])
    with pytest.raises(InputError, match="other inputs or settings"):
        stage.run(inputs, StageContext(tmp_path / "out", "another fingerprint"))


@pytest.fixture(scope="module")
def forks() -> ForkServerContext:
    """Starts processes in milliseconds, from a server that has imported what the stage needs and computed nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "icr_platform.engines.scoring.logprobs",
            "icr_platform.annotation.stage",
            "icr_platform.engines.sampling.transformers_sampler",
            "transformers.models.llama.modeling_llama",
        ]
    )
    return context


def start(forks: ForkServerContext, config: AnnotateConfig, folder: Path) -> BaseProcess:
    process = forks.Process(target=annotate, args=(config, folder))
    process.start()
    return process


def kill_after_new_files(forks: ForkServerContext, config: AnnotateConfig, folder: Path, kills: int) -> int:
    """Start again and again, each time killed when one more file is there. Returns the kills that hit."""
    hit, seen = 0, 0
    for _ in range(kills):
        process = start(forks, config, folder)
        while process.is_alive() and sum(1 for _ in folder.rglob("*")) <= seen:
            time.sleep(0.001)
        process.kill()
        process.join()
        hit += process.exitcode == -signal.SIGKILL
        seen = sum(1 for _ in folder.rglob("*"))
    return hit


@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_anywhere_gives_the_same_bytes(
    kills: int, forks: ForkServerContext, config: AnnotateConfig, tmp_path: Path
) -> None:
    every = changed(
        config, reward_kind=("cross-lingual", "translate"), translator=config.policy, translation_max_tokens=8
    )
    annotate(every, tmp_path / "undisturbed")
    assert kill_after_new_files(forks, every, tmp_path / "killed", kills) > kills // 2
    last = start(forks, every, tmp_path / "killed")
    last.join()
    assert last.exitcode == 0
    assert digests(tmp_path / "killed") == digests(tmp_path / "undisturbed")


def other_tokenizer(config: AnnotateConfig, tmp_path: Path, make: Callable[..., Path]) -> AnnotateConfig:
    return changed(config, reference=str(make(tmp_path / "other", vocab_size=380, steps=1)))


def unknown_prompt(config: AnnotateConfig, tmp_path: Path, make: Callable[..., Path]) -> AnnotateConfig:
    return rewritten(config, tmp_path, prompt_id="p9")


def rewritten(config: AnnotateConfig, tmp_path: Path, **values: object) -> AnnotateConfig:
    rows = open_artifact(Path(config.responses), RESPONSES).read_part(0).to_pylist()
    rows[4] |= values
    return changed(config, responses=str(write_responses(tmp_path / "wrong", [rows])))


def one_sample(config: AnnotateConfig, tmp_path: Path, make: Callable[..., Path]) -> AnnotateConfig:
    rows = open_artifact(Path(config.responses), RESPONSES).read().to_pylist()
    rows = [row for row in rows if row["sample_index"] == 1]
    return changed(config, responses=str(write_responses(tmp_path / "one", [rows])))


def truncated_part(config: AnnotateConfig, tmp_path: Path, make: Callable[..., Path]) -> AnnotateConfig:
    part = open_artifact(Path(config.responses), RESPONSES).parts[1]
    os.truncate(part, part.stat().st_size // 2)
    return config


BAD_INPUT = {
    "token outside the vocabulary": (lambda c, t, m: rewritten(c, t, token_ids=[3, 999]), "row 5: field 'token_ids' contains 999"),
    "sample twice": (lambda c, t, m: rewritten(c, t, sample_index=3), "row 5: field 'sample_index' 3 appears twice"),
    "unknown prompt": (unknown_prompt, "part-00000.parquet: row 5: field 'prompt_id' 'p9'"),
    "one sample": (one_sample, "every prompt has 1 sample, but a pair needs 2"),
    "truncated part": (truncated_part, "part-00001.parquet.*instead of"),
    "other tokenizer": (other_tokenizer, "field 'vocab' differs"),
    "no translator": (lambda c, t, m: changed(c, reward_kind="translate"), "field 'translator' is missing"),
    "kind twice": (lambda c, t, m: changed(c, reward_kind="random,random"), "field 'reward_kind'"),
    "bounds reversed": (lambda c, t, m: changed(c, alpha_min=1, alpha_max=0), "field 'alpha_min'"),
    "no such model": (lambda c, t, m: changed(c, policy="/no/such/model"), "/no/such/model: no such folder"),
    "no responses": (lambda c, t, m: changed(c, responses=str(t / "nothing")), "no such folder"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input(case: str, config: AnnotateConfig, tmp_path: Path, make_tiny_model: Callable[..., Path]) -> None:
    spoil, message = BAD_INPUT[case]
    bad = spoil(config, tmp_path, make_tiny_model)
    with pytest.raises(InputError, match=message) as error:
        annotate(bad, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


SINDHI = "سيب {} هڪ ميوو آهي، ۽ گهوڙو هڪ جانور آهي."


@pytest.mark.parametrize(
    ("languages", "dropped", "noted"),
    [
        (
            {"identifier": "langid", "unknown": ["sd"]},
            0,
            "langid, which identified the responses' languages, does not know Sindhi",
        ),
        ({"identifier": "fasttext", "unknown": []}, 15, ""),
        (None, 0, "the responses do not say which identifier was used"),
    ],
)
def test_a_language_that_the_identifier_does_not_know_is_not_filtered(
    config: AnnotateConfig, tmp_path: Path, languages: dict[str, object] | None, dropped: int, noted: str
) -> None:
    """Sindhi responses, taken for Urdu: right ones, unless the identifier knows Sindhi."""
    tokenizer = AutoTokenizer.from_pretrained(config.policy)
    (Path(config.prompts) / "sd.jsonl").write_bytes((Path(config.prompts) / "es.jsonl").read_bytes())
    rows = []
    for prompt, index in np.ndindex(5, 3):
        text = SINDHI.format("ا" * index)
        ids = encode_response(tokenizer, text)
        rows.append(
            {
                "language": "sd", "prompt_id": f"p{prompt}", "sample_index": index, "response": text, "token_ids": ids,
                "finish_reason": "stop", "token_ids_source": "sampler", "token_count": len(ids),
                "character_count": len(text), "detected_language": "ur", "language_confidence": 0.99,
            }
        )  # fmt: skip
    writer = ArtifactWriter(tmp_path / "sindhi", RESPONSES, "made by hand")
    writer.write_part(0, pa.Table.from_pylist(rows, schema=RESPONSES.schema))
    writer.close(1, {"languages": languages} if languages else {})
    given = changed(config, responses=str(tmp_path / "sindhi"), reward_kind=("random",))
    result = annotate(given, tmp_path / "out")
    drops = frame(tmp_path / "out", DROPS)
    assert (drops.reason == "wrong-language").sum() == dropped
    assert len(frame(tmp_path / "out", PREFERENCES)) == (0 if dropped else 5)
    assert result.metrics.get("dropped_samples/wrong-language/sd", 0.0) == dropped / 15
    assert [note for note in result.notes if "wrong-language" in note] == [
        note for note in result.notes if noted and note.startswith(f"sd: {noted}")
    ]
    assert bool(noted) == any("Sindhi" in note for note in result.notes)


def test_a_pool_with_several_pairs_goes_through_the_stage(config: AnnotateConfig, tmp_path: Path) -> None:
    given = changed(
        config, reward_kind=("random",), pool="all", pool_prompt="random", pairs_per_prompt=6, rejected="mean-2sd"
    )
    result = annotate(given, tmp_path / "out")
    preferences, drops = frame(tmp_path / "out", PREFERENCES), frame(tmp_path / "out", DROPS)
    whole = drops[drops.sample_index.isna() & drops.pair_index.isna()]
    keys = [*zip(preferences.language, preferences.prompt_id, strict=True)]
    assert len(set(keys)) + len(whole) == 15
    assert len(preferences) + drops.pair_index.notna().sum() == 6 * preferences.prompt_id.nunique()
    assert preferences[["chosen_language", "rejected_language"]].notna().any(axis=None)
    assert result.metrics["pairs/mean"] == len(preferences) / 3
    assert any("few-samples" in note for note in result.notes)
    annotate(given, tmp_path / "again")
    assert preferences.equals(frame(tmp_path / "again", PREFERENCES))

    with pytest.raises(InputError, match="'pool_prompt' is 'rejected', but 'pool' is 'language'"):
        stage.read(changed(config, pool_prompt="rejected"))
    many = stage.read(changed(config, pairs_per_prompt=4))
    assert isinstance(many, stage.AnnotateInputs)
    assert [note for note in many.notes if "has 6 samples at most, which make 3 pairs" in note]
