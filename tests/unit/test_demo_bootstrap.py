"""The shipped SFT checkpoint and what `prepare` makes of it. The slow test rebuilds the checkpoint from its seed."""

import json
import random
from pathlib import Path
from statistics import mean

import pytest

from icr_platform.core.artifacts import file_digest, open_artifact
from icr_platform.core.config import CHAT_DEFAULTS
from icr_platform.core.conversations import Conversation
from icr_platform.core.schemas import PREFERENCES
from icr_platform.demo.authors import draw_author, english_preferences, respond, sft_conversation
from icr_platform.demo.bootstrap import SFT, build_sft, prepare, prepare_reward_model
from icr_platform.demo.grader import grade, grade_task
from icr_platform.demo.lexicon import LANGUAGES
from icr_platform.demo.reward_model import build_reward_model
from icr_platform.demo.world import split_tasks
from icr_platform.engines.sampling.choice import make_sampler
from icr_platform.engines.sampling.sampler import Request
from icr_platform.engines.sampling.settings import SamplingSettings
from icr_platform.engines.scoring.reward_texts import RewardTexts
from icr_platform.engines.scoring.scalar_scores import ScalarScorer
from icr_platform.models.chat import encode_prompt, encode_response, end_of_turn_id
from icr_platform.models.loading import check_same_tokenisation, load_tokenizer
from icr_platform.models.reward_models import check_reward_model, load_reward_model
from tests.support.answers import answers

FOREIGN = ("Hello,  wörld!\n\n漢字🙂", " leading and trailing ", "Don't — 12,5 % «да»\tсемь")


def test_checkpoint_ships_under_two_megabytes() -> None:
    files = [path for path in SFT.iterdir() if path.is_file()]
    assert {"model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"} <= {
        path.name for path in files
    }
    assert sum(path.stat().st_size for path in files) < 2_000_000


def test_a_word_of_the_world_is_a_token_and_anything_else_survives() -> None:
    tokenizer = load_tokenizer(str(SFT))
    rng = random.Random(1)
    for turn in (turn for _ in range(300) for turn in sft_conversation(rng)):
        ids = tokenizer(turn.response, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == turn.response
        assert not any(token.startswith("<0x") for token in tokenizer.convert_ids_to_tokens(ids))
    for text in FOREIGN:
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_chat_template_extends_its_prompt_and_closes_every_turn() -> None:
    tokenizer = load_tokenizer(str(SFT))
    turns = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "What is a dog?"},
        {"role": "assistant", "content": "A dog is an animal."},
        {"role": "user", "content": "¿Qué es una pera?"},
    ]
    whole = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert whole == (
        "<s><|system|>Be kind.<|end|><|user|>What is a dog?<|end|><|assistant|>A dog is an animal.<|end|>"
        "<|user|>¿Qué es una pera?<|end|><|assistant|>"
    )
    prompt = encode_prompt(tokenizer, "What is a dog?")
    answered = tokenizer.apply_chat_template(turns[1:3], tokenize=False)
    ids = tokenizer(answered, add_special_tokens=False)["input_ids"]
    assert ids == prompt + encode_response(tokenizer, "A dog is an animal.")
    assert ids[-1] == end_of_turn_id(tokenizer) == tokenizer.eos_token_id
    assert ids.count(tokenizer.bos_token_id) == 1


def digests(folder: Path) -> dict[str, str]:
    timed = {"manifest.json", "README.md"}
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in timed]
    return {str(path.relative_to(folder)): file_digest(path) for path in files}


def test_prepare_makes_the_inputs_of_iterate_once(tmp_path: Path) -> None:
    first = prepare(tmp_path / "a", seed=5, english_pairs=32)
    made = digests(first)
    assert prepare(tmp_path / "a", seed=5, english_pairs=32) == first
    assert digests(first) == made
    assert digests(prepare(tmp_path / "b", seed=5, english_pairs=32)) == made
    for language in LANGUAGES:
        outputs = [json.loads(line) for line in (first / "outputs" / f"{language}.jsonl").read_text().splitlines()]
        prompts = [json.loads(line) for line in (first / "prompts/test" / f"{language}.jsonl").read_text().splitlines()]
        assert [(row["id"], row["instruction"]) for row in outputs] == [
            (row["id"], row["instruction"]) for row in prompts
        ]
    pairs = open_artifact(first / "english_preferences", PREFERENCES).read().to_pylist()
    assert len(pairs) == 32
    assert {row["language"] for row in pairs} == {"en"}
    check_same_tokenisation(str(first / "policy"), str(first / "reference"))
    assert not (first / "reward_model").exists(), "it is made when it is named"
    reward_model = prepare_reward_model(first, seed=5, english_pairs=32)
    check_reward_model(str(reward_model))
    rated = digests(reward_model)
    assert digests(prepare_reward_model(tmp_path / "b", seed=5, english_pairs=32)) == rated
    written = (reward_model / "model.safetensors").stat().st_mtime_ns
    assert prepare_reward_model(first, seed=5, english_pairs=32) == first / "reward_model"
    assert (reward_model / "model.safetensors").stat().st_mtime_ns == written
    weights = [file_digest(first / name / "model.safetensors") for name in ("policy", "reference")]
    assert weights[0] != weights[1]


def test_the_reward_model_ranks_answers_in_languages_that_it_was_not_trained_on(tmp_path: Path) -> None:
    build_reward_model(SFT, english_preferences(3, 192), 3, tmp_path / "model")
    texts = RewardTexts(str(tmp_path / "model"), CHAT_DEFAULTS)
    scorer = ScalarScorer(load_reward_model(str(tmp_path / "model"), "float32", "cpu"))
    rng, rows = random.Random(1), []
    is_first: list[bool] = []
    while len(is_first) < 120:
        task, language = rng.choice(split_tasks("icr")), rng.choice(("es", "ru"))
        pair = [respond(draw_author(rng), task, language, rng) for _ in range(2)]
        grades = [grade_task(task, language, answer) for answer in pair]
        if grades[0] != grades[1]:
            rows += [texts.encode(Conversation(task.questions[language][0]), answer) for answer in pair]
            is_first.append(grades[0] > grades[1])
    scores = scorer.score(rows)
    # Chance is a half; all 320 pairs give 0.83 to 0.88 in every language.
    assert float(((scores[0::2] > scores[1::2]) == is_first).mean()) > 0.7


def mean_grade(model: Path) -> float:
    """Mean grade of one response to every test task in every language."""
    settings = SamplingSettings(samples=4, max_tokens=64, batch_size=300, dtype="float32", device="cpu")
    tasks = split_tasks("test")
    requests = [Request(code, f"{task.id}.0", task.questions[code][0]) for task in tasks for code in LANGUAGES]
    samples = answers(make_sampler(settings, str(model)).sample(requests, 4, seed=0))
    return mean(
        grade(request.prompt_id, request.language, sample.text)
        for request, found in zip(requests, samples, strict=True)
        for sample in found
    )


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_shipped_checkpoint_is_what_its_recipe_makes(tmp_path: Path) -> None:
    """The same bytes, or on another processor, whose sums round otherwise, a model as good."""
    build_sft(tmp_path)
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert file_digest(tmp_path / name) == file_digest(SFT / name)
    if file_digest(tmp_path / "model.safetensors") != file_digest(SFT / "model.safetensors"):
        assert mean_grade(tmp_path) == pytest.approx(mean_grade(SFT), abs=0.05)
