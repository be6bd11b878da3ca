"""Pairs of translated answers (LIDR) against a rule written by hand, what gives none and why, and what becomes of them in training."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from icr_platform.annotation import stage
from icr_platform.annotation.config import AnnotateConfig
from icr_platform.core.artifacts import open_artifact
from icr_platform.core.errors import InputError
from icr_platform.core.schemas import DROPS, PREFERENCES, RESPONSES, REWARDS, TRANSLATED_RESPONSES
from icr_platform.core.stage_protocol import StageContext
from icr_platform.engines.sampling.translated_texts import Text
from icr_platform.models.chat import encode_response
from icr_platform.pipeline.identity import identify
from icr_platform.training.dataset import check_pairs, load_pairs
from tests.support.tiny_models import chatml_tokenizer
from tests.unit.test_translate import write_lines, write_table

LANGUAGES = ("en", "es", "de")


def answer(language: str, prompt_id: str, index: int) -> str:
    return f"{language} answer {index} to the question {prompt_id}, at length."


class World:
    """Random responses and translations, as plain dictionaries."""

    def __init__(self, seed: int, prompts: int = 12, samples: int = 3) -> None:
        rng = random.Random(seed)
        self.prompts = [f"p{n}" for n in range(prompts)]
        self.responses: dict[tuple[str, str, int], dict[str, Any]] = {}
        for language in LANGUAGES:
            for prompt_id in self.prompts:
                for index in range(samples):
                    text = rng.choice([answer(language, prompt_id, index)] * 4 + ["  "])
                    self.responses[language, prompt_id, index] = {
                        "language": language, "prompt_id": prompt_id, "sample_index": index, "response": text,
                        "token_ids": [ord(letter) % 250 for letter in text], "token_count": len(text), "character_count": len(text),
                        "finish_reason": rng.choice(["stop"] * 5 + ["length"]), "detected_language": rng.choice([language] * 5 + ["fr"]),
                        "language_confidence": 0.9, "token_ids_source": "sampler",
                    }  # fmt: skip
        self.translations: dict[tuple[str, str, str, int], str] = {}
        for (language, prompt_id, index), row in self.responses.items():
            for target in LANGUAGES if language == "en" else ("en",):
                if target != language and rng.random() < 0.7:
                    own = self.responses.get((target, prompt_id, index), {}).get("response", "")
                    said = own if rng.random() < 0.1 and own.strip() else f"{target} of: {row['response']}"
                    self.translations[language, target, prompt_id, index] = said

    def write(self, root: Path) -> dict[str, str]:
        for language in LANGUAGES:
            write_lines(
                root / "prompts" / f"{language}.jsonl",
                [{"id": key, "instruction": f"{language} {key}?"} for key in self.prompts],
            )
        write_table(root / "responses", RESPONSES, list(self.responses.values()))
        rows = [
            {"language": target, "source_language": source, "prompt_id": prompt_id, "sample_index": index, "translation": said,
             "input_digest": Text(source, target, self.responses[source, prompt_id, index]["response"]).digest}
            for (source, target, prompt_id, index), said in self.translations.items()
        ]  # fmt: skip
        write_table(root / "translations", TRANSLATED_RESPONSES, rows)
        return {name: str(root / name) for name in ("prompts", "responses", "translations")}

    def kept(self, language: str, prompt_id: str) -> list[int]:
        """Samples that pass the filters."""
        found = []
        for index in range(10):
            row = self.responses.get((language, prompt_id, index))
            if (
                row
                and row["response"].strip()
                and row["finish_reason"] == "stop"
                and row["detected_language"] == language
            ):
                found.append(index)
        return found

    def pairs(self, language: str, prompt_id: str, wanted: int, seed: int) -> list[tuple[str, str]]:
        """The rule, written by hand."""
        english = self.kept("en", prompt_id)
        if language != "en":
            chosen = [said for n in english if (said := self.translations.get(("en", language, prompt_id, n)))]
            rejected = [self.responses[language, prompt_id, n]["response"] for n in self.kept(language, prompt_id)]
        else:
            others = [code for code in LANGUAGES if code != "en" and self.kept(code, prompt_id)]
            random.Random(f"{seed} {prompt_id}").shuffle(others)
            turns = [
                (code, self.kept(code, prompt_id)[n])
                for n in range(10)
                for code in others
                if n < len(self.kept(code, prompt_id))
            ]
            rejected = [said for code, n in turns if (said := self.translations.get((code, "en", prompt_id, n)))]
            chosen = [self.responses["en", prompt_id, n]["response"] for n in english]
        return [pair for pair in zip(chosen, rejected, strict=False) if pair[0] != pair[1]][:wanted]


def run(root: Path, folder: Path, **over: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]], Any]:
    given = {name: str(root / name) for name in ("prompts", "responses", "translations")}
    config = AnnotateConfig.model_validate({**given, "pair_source": "translation", "seed": 7, **over})
    result = stage.run(stage.read(config), StageContext(folder, "fingerprint"))
    assert open_artifact(result.artifacts["rewards"], REWARDS).rows == 0
    tables = (
        open_artifact(result.artifacts[name], table).read().to_pylist()
        for name, table in (("preferences", PREFERENCES), ("drops", DROPS))
    )
    return (*tables, result)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("wanted", [1, 3])
def test_pairs_are_those_of_the_rule(seed: int, wanted: int, tmp_path: Path) -> None:
    world = World(seed)
    world.write(tmp_path)
    preferences, drops, result = run(tmp_path, tmp_path / "out", pairs_per_prompt=wanted)
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for row in preferences:
        found.setdefault((row["language"], row["prompt_id"]), []).append((row["chosen"], row["rejected"]))
        assert (row["chosen_reward"], row["rejected_reward"], row["margin"], row["length_penalty_alpha"]) == (None,) * 4
        translated, own = ("rejected", "chosen") if row["language"] == "en" else ("chosen", "rejected")
        assert row[f"{translated}_token_ids"] is None
        assert (
            row[f"{own}_token_ids"]
            == world.responses[row["language"], row["prompt_id"], row[f"{own}_index"]]["token_ids"]
        )
        assert row[f"{own}_translated_from"] is None
        assert row["instruction"] == f"{row['language']} {row['prompt_id']}?"
    for language in LANGUAGES:
        for prompt_id in world.prompts:
            assert found.get((language, prompt_id), []) == world.pairs(language, prompt_id, wanted, seed=7)
        lost = [row for row in drops if row["language"] == language and row["sample_index"] is None]
        assert len({row["prompt_id"] for row in lost}) + sum(key[0] == language for key in found) == len(world.prompts)
        assert result.metrics[f"pairs/{language}"] == sum(len(own) for key, own in found.items() if key[0] == language)
    assert {row["pair_index"] for row in preferences} == (
        {None} if wanted == 1 else {0, 1, 2} & {row["pair_index"] for row in preferences}
    )
    samples = Counter(row["language"] for row in drops if row["sample_index"] is not None)
    assert samples == Counter(key[0] for key in world.responses if key[2] not in world.kept(*key[:2]))


# (what it is, what is changed in a world of one prompt with one sample, language, reason)


REASONS: list[tuple[str, dict[str, Any], str, str]] = [
    ("no answer left", {"responses": {("es", "p0", 0): {"response": " "}}}, "es", "no-survivor"),
    ("no English answer left", {"responses": {("en", "p0", 0): {"finish_reason": "length"}}}, "es", "no-english"),
    ("no translation", {"translations": {("en", "es", "p0", 0): None}}, "es", "no-translation"),
    ("a translation of another text", {"digests": {("en", "es", "p0", 0)}}, "es", "no-translation"),
    ("the translation is the answer", {"translations": {("en", "es", "p0", 0): answer("es", "p0", 0)}}, "es", "identical"),
    ("nearly the answer", {"translations": {("en", "es", "p0", 0): answer("es", "p0", 0) + "!"}}, "es", "near-duplicate"),
    ("no other language left", {"responses": {(code, "p0", 0): {"response": " "} for code in ("es", "de")}}, "en", "no-native-answer"),
    ("nothing put into English", {"translations": {(code, "en", "p0", 0): None for code in ("es", "de")}}, "en", "no-translation"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "language", "reason"), [row[1:] for row in REASONS], ids=[row[0] for row in REASONS]
)
def test_a_prompt_without_a_pair_says_why(changed: dict[str, Any], language: str, reason: str, tmp_path: Path) -> None:
    world = World(0, prompts=1, samples=1)
    for key in world.responses:
        text = answer(*key)
        world.responses[key] |= {
            "response": text,
            "finish_reason": "stop",
            "detected_language": key[0],
            "token_count": len(text),
        }
    world.translations = {
        (source, target, "p0", 0): f"{target} of {source}, put into other words."
        for source in LANGUAGES for target in LANGUAGES if (source == "en") != (target == "en")
    }  # fmt: skip
    for key, values in changed.get("responses", {}).items():
        world.responses[key] |= values
    for key, said in changed.get("translations", {}).items():
        world.translations.pop(key) if said is None else world.translations.update({key: said})
    world.write(tmp_path)
    if of_other_texts := changed.get("digests"):
        rows = open_artifact(tmp_path / "translations", TRANSLATED_RESPONSES).read().to_pylist()
        for row in rows:
            if (row["source_language"], row["language"], row["prompt_id"], row["sample_index"]) in of_other_texts:
                row["input_digest"] = Text("en", "es", "something else").digest
        write_table(tmp_path / "others", TRANSLATED_RESPONSES, rows)
        (tmp_path / "translations").rename(tmp_path / "before")
        (tmp_path / "others").rename(tmp_path / "translations")
    _, drops, result = run(tmp_path, tmp_path / "out", near_duplicate=0.95)
    assert [row["reason"] for row in drops if row["language"] == language and row["sample_index"] is None] == [reason]
    assert result.metrics[f"dropped_prompts/{reason}/{language}"] == 1.0
    assert any("translations are of other responses" in note for note in result.notes) == bool(of_other_texts)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"translations": ""}, "field 'translations' is missing for pair_source translation; give --translations"),
        (
            {"rejected": "random"},
            "field 'rejected' is 'random', which is of rewards, and pair_source translation has none",
        ),
        ({"pool": "all"}, "field 'pool' is 'all', which is of rewards"),
        ({"minimal_margin": 0.5}, "field 'minimal_margin' is 0.5, which is of rewards"),
        ({"pair_source": "rewards"}, "field 'policy' is missing for annotate; give --policy MODEL --reference MODEL"),
        (
            {"pair_source": "rewards", "policy": "p", "reference": "r"},
            "field 'translations' is given, and pair_source is 'rewards'",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, Any], said: str, tmp_path: Path) -> None:
    World(0, prompts=2).write(tmp_path)
    with pytest.raises(InputError) as caught:
        run(tmp_path, tmp_path / "out", **settings)
    assert said in str(caught.value)


def test_responses_in_one_language_give_no_such_pair(tmp_path: Path) -> None:
    world = World(0, prompts=2)
    world.responses = {key: row for key, row in world.responses.items() if key[0] != "en"}
    world.translations = {}
    world.write(tmp_path)
    with pytest.raises(
        InputError, match=r"has responses in es, de, and pair_source translation needs English and another language"
    ):
        run(tmp_path, tmp_path / "out")


def test_no_model_is_part_of_what_they_are(tmp_path: Path) -> None:
    World(0, prompts=2).write(tmp_path)
    given = {name: str(tmp_path / name) for name in ("prompts", "responses", "translations")}

    def work(**over: Any) -> str:
        return identify("annotate", AnnotateConfig.model_validate({**given, "pair_source": "translation", **over})).work

    assert work(policy="anything", reference="else", beta=3.0, batch_tokens=1, alpha_min=-5.0) == work()
    assert len({work(), work(seed=1), work(pairs_per_prompt=2), work(near_duplicate=0.5)}) == 4


def test_training_tokenises_what_was_not_sampled(tmp_path: Path) -> None:
    tokenizer = chatml_tokenizer()
    rows = [
        {"language": "es", "prompt_id": "a", "instruction": "¿Qué es rojo?", "chosen": "La sangre es roja.", "chosen_token_ids": None,
         "rejected": "Sangre", "rejected_token_ids": [9, 10, 2]},
        {"language": "en", "prompt_id": "a", "instruction": "What is red?", "chosen": "Blood is red.", "chosen_token_ids": [7, 8, 2],
         "rejected": "It is blood.", "rejected_token_ids": None},
    ]  # fmt: skip
    preferences = open_artifact(write_table(tmp_path / "pairs", PREFERENCES, rows), PREFERENCES)
    check_pairs(preferences, len(tokenizer))
    pairs = load_pairs(preferences, tokenizer, 500)
    assert pairs.chosen_ids == [encode_response(tokenizer, "La sangre es roja."), [7, 8, 2]]
    assert pairs.rejected_ids == [[9, 10, 2], encode_response(tokenizer, "It is blood.")]
    assert tokenizer.decode(pairs.chosen_ids[0]) == "La sangre es roja.<|im_end|>"
    empty = open_artifact(
        write_table(tmp_path / "empty", PREFERENCES, [rows[0], rows[1] | {"rejected": ""}]), PREFERENCES
    )
    with pytest.raises(InputError, match=r"row 1: field 'rejected' is empty"):
        check_pairs(empty, len(tokenizer))
