"""Models that think, through all stages: what is kept, paired, scored and trained on is the answer."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from icr_platform.annotation import stage as annotation
from icr_platform.annotation.config import AnnotateConfig
from icr_platform.core.artifacts import open_artifact
from icr_platform.core.languages import reward_instruction
from icr_platform.core.schemas import DROPS, OUTPUTS, PREFERENCES, PROMPTS, RESPONSES, REWARDS
from icr_platform.core.stage_protocol import StageContext, StageResult
from icr_platform.demo import IDENTIFIER
from icr_platform.demo.lexicon import LANGUAGES
from icr_platform.demo.world import write_prompts
from icr_platform.engines.sampling import choice
from icr_platform.evaluation import stage as evaluation
from icr_platform.evaluation.config import EvalConfig
from icr_platform.generation import stage as generation
from icr_platform.generation.config import GenerateConfig
from icr_platform.models.chat import encode_prompt
from icr_platform.models.loading import load_model, load_tokenizer
from icr_platform.models.thinking import Markers
from icr_platform.training import stage as training
from icr_platform.training.config import TrainConfig
from icr_platform.training.dataset import read_pairs
from tests.support.thinking_demo import CLOSE, OFF, OPEN, save_thinking_demo

_STEPS = 120
_PLACE = {"device": "cpu", "dtype": "float32"}


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's model after some steps of SFT on thoughts in English and answers in all five languages."""
    return save_thinking_demo(tmp_path_factory.mktemp("thinker") / "policy", _STEPS)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prompts") / "icr"
    write_prompts(folder, "icr")
    return folder


def generate(model: Path, prompts: Path, folder: Path, **more: Any) -> StageResult:
    values = {
        "limit": 6,
        "samples": 4,
        "temperature": 0.8,
        "max_tokens": 80,
        "batch_size": 120,
        "language_identifier": IDENTIFIER,
    }
    config = GenerateConfig.model_validate({"policy": str(model), "prompts": str(prompts), **values, **_PLACE, **more})
    return generation.run(generation.read(config), StageContext(folder, "generate"))


def annotate(
    model: Path, reference: Path, made: StageResult, folder: Path, **more: Any
) -> tuple[StageResult, dict[str, list[dict[str, Any]]]]:
    config = AnnotateConfig.model_validate(
        {"policy": str(model), "reference": str(reference), "prompts": str(made.artifacts["prompts"]),
         "responses": str(made.artifacts["responses"]), **_PLACE, **more}
    )  # fmt: skip
    result = annotation.run(annotation.read(config), StageContext(folder, "annotate"))
    tables = {
        table.name: open_artifact(result.artifacts[table.name], table).read().to_pylist()
        for table in (REWARDS, PREFERENCES, DROPS)
    }
    return result, tables


@pytest.fixture(scope="module")
def thought(thinker: Path, prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> StageResult:
    return generate(thinker, prompts, tmp_path_factory.mktemp("thought"))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same at an earlier step, so that there are rewards."""
    return save_thinking_demo(tmp_path_factory.mktemp("reference") / "reference", 10)


def test_who_thinks_in_english_and_answers_in_five_languages_is_kept_and_paired_in_all(
    thinker: Path, reference: Path, prompts: Path, thought: StageResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = open_artifact(thought.artifacts["responses"], RESPONSES).read().to_pylist()
    thinking = [row for row in rows if row["thought"] is not None]
    assert len(thinking) > 0.9 * len(rows)
    assert Counter(row["thought_language"] for row in thinking)["en"] > 0.9 * len(thinking)
    assert not any(row["response"].startswith((OPEN, CLOSE)) for row in thinking)
    assert all(row["character_count"] == len(row["response"]) for row in rows)
    for language in LANGUAGES:
        assert thought.metrics[f"fidelity/{language}"] > 60, language
        assert thought.metrics[f"thought_tokens/mean/{language}"] > 10
        share = thought.metrics[f"thought_language_share/{language}"]
        assert share > 90 if language == "en" else share < 10

    _, tables = annotate(thinker, reference, thought, tmp_path / "answers")
    kept = {key_of(row) for row in rows} - {key_of(row) for row in tables["drops"] if row["reason"] != "duplicate"}
    paired = Counter(row["language"] for row in tables["preferences"])
    assert all(paired[language] >= 1 for language in LANGUAGES), paired
    assert all(row["chosen_thought"] and row["chosen_answer_start"] for row in tables["preferences"])
    assert all(OPEN not in row["chosen"] for row in tables["preferences"])

    # The same model, seed and settings with thought and answer left together.
    monkeypatch.setattr(choice, "markers_of", lambda tokenizer: Markers((), has_channels=False))
    whole = generate(thinker, prompts, tmp_path / "whole")
    together = open_artifact(whole.artifacts["responses"], RESPONSES).read().to_pylist()
    assert [row["token_ids"] for row in together] == [row["token_ids"] for row in rows]
    _, tables = annotate(thinker, reference, whole, tmp_path / "lost")
    lost = {key_of(row) for row in tables["drops"] if row["reason"] == "wrong-language"}
    foreign = {key_of(row) for row in thinking if row["language"] != "en"} & kept
    assert len(foreign) > 40
    assert len(foreign & lost) >= 0.95 * len(foreign), "who looks at the whole response sees English"
    before = sum(count for language, count in paired.items() if language != "en")
    assert sum(row["language"] != "en" for row in tables["preferences"]) <= 0.1 * before


def key_of(row: dict[str, Any]) -> tuple[str, str, int]:
    return row["language"], row["prompt_id"], row["sample_index"]


@pytest.mark.parametrize("score", ["answer", "whole"])
def test_rewards_are_log_probabilities_of_the_answer_given_the_thought_or_of_all(
    thinker: Path, reference: Path, thought: StageResult, tmp_path: Path, score: str
) -> None:
    _, tables = annotate(thinker, reference, thought, tmp_path, score=score, reward_kind="cross-lingual")
    rows = open_artifact(thought.artifacts["responses"], RESPONSES).read().to_pylist()
    asked = _english(thought)
    tokenizer, model = load_tokenizer(str(thinker)), load_model(str(thinker), "float32", "cpu")
    scored = 0
    for row, reward in zip(rows, tables["rewards"], strict=True):
        if reward["policy_logprob"] is None or scored == 60:
            continue
        u = reward_instruction(row["language"], asked[row["language"], row["prompt_id"]])
        prompt = encode_prompt(tokenizer, u)
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *row["token_ids"]]])).logits[0].double().log_softmax(-1)
        start = (row["answer_start"] or 0) if score == "answer" else 0
        expected = sum(
            float(logits[len(prompt) - 1 + i, token]) for i, token in enumerate(row["token_ids"]) if i >= start
        )
        assert reward["policy_logprob"] == pytest.approx(expected, abs=2e-5 * (len(row["token_ids"]) - start))
        scored += 1
    assert scored > 30


def _english(made: StageResult) -> dict[tuple[str, str], str]:
    rows = open_artifact(made.artifacts["prompts"], PROMPTS).read().to_pylist()
    return {(row["language"], row["prompt_id"]): row["english_instruction"] for row in rows}


@pytest.mark.parametrize("thinks", [True, False])
def test_thinking_on_and_off_through_all_stages(
    thinker: Path, reference: Path, prompts: Path, thought: StageResult, tmp_path: Path, thinks: bool
) -> None:
    chat = {} if thinks else OFF.chat_template_kwargs
    more: dict[str, Any] = {"chat_template_kwargs": chat}
    made = thought if thinks else generate(thinker, prompts, tmp_path / "generate", **more)
    rows = open_artifact(made.artifacts["responses"], RESPONSES).read().to_pylist()
    assert abs(sum(row["answer_start"] is not None for row in rows) / len(rows) - thinks) < 0.2

    annotated, tables = annotate(thinker, reference, made, tmp_path / "annotate", **more)
    assert len(tables["preferences"]) > 20
    config = TrainConfig.model_validate(
        {"policy": str(thinker), "preferences": str(annotated.artifacts["preferences"]), "batch_size": 8, "accumulation": 1,
         "learning_rate": 1e-4, **_PLACE, **more}
    )  # fmt: skip
    pairs = read_pairs(config)
    assert abs(sum(map(bool, pairs.chosen_starts)) / len(pairs) - thinks) < 0.2
    result = training.run(training.read(config), StageContext(tmp_path / "train", "train"))
    assert result.metrics["train/trained_margin"] > 0

    config_of_eval = EvalConfig.model_validate(
        {"policy": str(result.artifacts["checkpoint"]), "prompts": str(prompts), "judge": "none", "limit": 3, "temperature": 0.8,
         "max_tokens": 80, "language_identifier": IDENTIFIER, **_PLACE, **more}
    )  # fmt: skip
    evaluated = evaluation.run(evaluation.read(config_of_eval), StageContext(tmp_path / "eval", "eval"))
    outputs = open_artifact(evaluated.artifacts["outputs"], OUTPUTS).read().to_pylist()
    thoughts = [row for row in outputs if row["thought"] is not None]
    assert abs(len(thoughts) / len(outputs) - thinks) < 0.2
    assert not any(OPEN in row["output"] for row in thoughts)
