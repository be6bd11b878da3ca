"""Corruptions of outputs as people have them: files in several layouts, artifacts, with prompts beside them or without."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from icr_platform.core.artifacts import ArtifactWriter
from icr_platform.core.errors import InputError
from icr_platform.core.schemas import OUTPUTS
from icr_platform.data.labelled_pairs import LabelledPairs
from icr_platform.evaluation.corruption_pairs import read_corruptions
from icr_platform.evaluation.corruptions import CORRUPTIONS

TEXTS = {
    "en": ["It was built in 1889 for the world fair. Many people wanted to take it down.", "Cats sleep for most of the day. They purr loudly."],
    "es": ["Se construyó en 1889 para la feria mundial. Muchos querían quitarla.", "Los gatos duermen mucho. Ronronean fuerte."],
}  # fmt: skip
ASKED = {"en": ["When was it built?", "What do cats do?"], "es": ["¿Cuándo se construyó?", "¿Qué hacen los gatos?"]}


def identify(languages: Sequence[str], texts: Sequence[str]) -> list[tuple[str, float]]:
    return [("es" if "Los" in text or "Se" in text else "en", 1.0) for text in texts]


def rows(language: str, *fields: str) -> list[dict[str, Any]]:
    names = {"id": ("7", "8"), "instruction": ASKED[language], "output": TEXTS[language]}
    return [{field: names[field][index] for field in fields} for index in range(2)]


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def artifact(folder: Path, **facts: Any) -> None:
    table = [
        {
            "language": language, "prompt_id": key, "sample_index": 0, "instruction": ASKED[language][index],
            "output": TEXTS[language][index], "token_count": 9, "character_count": 60, "finish_reason": "stop",
            "detected_language": language, "language_confidence": 1.0, **facts,
        }
        for language in TEXTS for index, key in enumerate(("7", "8"))
    ]  # fmt: skip
    writer = ArtifactWriter(folder, OUTPUTS, "test")
    writer.write_part(0, pa.Table.from_pylist(table, schema=OUTPUTS.schema))
    writer.close(1)


def checked(found: LabelledPairs) -> None:
    """Every output times every corruption is a pair or an unused row, and English is beside each pair."""
    assert len(found.pairs) + len(found.unused) == 4 * len(CORRUPTIONS)
    assert {pair.category for pair in found.pairs} == set(CORRUPTIONS)
    for pair in found.pairs:
        index = ("7", "8").index(pair.prompt_id)
        assert pair.asked.instruction == ASKED[pair.language][index]
        assert pair.english is not None
        assert pair.english.instruction == ASKED["en"][index]
        assert (pair.chosen.text, pair.source) == (TEXTS[pair.language][index], "corruptions")
    assert len({(pair.language, pair.pair_id) for pair in found.pairs}) == len(found.pairs)
    assert {(row.language, row.pair_id, row.reason) for row in found.unused} == {
        (language, "8/number", "no-number") for language in TEXTS
    }
    assert any(note.startswith("number: 2 of 4 outputs cannot be corrupted so (no-number 2)") for note in found.notes)


def test_files_that_say_their_prompts(tmp_path: Path) -> None:
    for language in TEXTS:
        write(tmp_path / f"{language}.json", rows(language, "id", "instruction", "output"))
    checked(read_corruptions(str(tmp_path), 0, identify))


def test_files_with_prompts_beside_them_and_a_map_of_columns(tmp_path: Path) -> None:
    for language in TEXTS:
        named = [{"key": row["id"], "said": row["output"]} for row in rows(language, "id", "output")]
        write(tmp_path / "outputs" / language / "model.json", named)
        write(tmp_path / "prompts" / f"{language}.json", rows(language, "id", "instruction"))
    found = read_corruptions(
        str(tmp_path / "outputs"),
        0,
        identify,
        columns={"id": "key", "output": "said"},
        prompts=str(tmp_path / "prompts"),
    )
    checked(found)


def test_prompts_of_more_languages_than_the_outputs_serve_and_of_fewer_are_refused(tmp_path: Path) -> None:
    for language in TEXTS:
        write(tmp_path / "outputs" / f"{language}.json", rows(language, "id", "output"))
        write(tmp_path / "prompts" / f"{language}.json", rows(language, "id", "instruction"))
    write(tmp_path / "english" / "en.json", rows("en", "id", "instruction"))
    write(tmp_path / "prompts" / "fr.json", [{"id": "7", "instruction": "Quand ?"}])
    checked(read_corruptions(str(tmp_path / "outputs"), 0, identify, prompts=str(tmp_path / "prompts")))
    with pytest.raises(InputError, match="es"):
        read_corruptions(str(tmp_path / "outputs"), 0, identify, prompts=str(tmp_path / "english"))


def test_an_outputs_artifact_says_all_by_itself(tmp_path: Path) -> None:
    artifact(tmp_path / "outputs")
    checked(read_corruptions(str(tmp_path / "outputs"), 0, lambda languages, texts: []))


def test_cut_outputs_and_those_in_another_language_are_not_taken_for_good_ones(tmp_path: Path) -> None:
    artifact(tmp_path / "cut", finish_reason="length")
    with pytest.raises(
        InputError, match=r"no output can be corrupted in any way; cut: 4 of 4 outputs .* \(truncated 4\)"
    ):
        read_corruptions(str(tmp_path / "cut"), 0, lambda languages, texts: [])
    artifact(tmp_path / "other", detected_language="en")
    found = read_corruptions(str(tmp_path / "other"), 0, lambda languages, texts: [])
    assert {(row.language, row.reason) for row in found.unused if row.pair_id.endswith("other-language")} == {
        ("en", "no-other-language"),
        ("es", "wrong-language"),
    }


def test_languages_and_limit(tmp_path: Path) -> None:
    artifact(tmp_path / "outputs")
    found = read_corruptions(str(tmp_path / "outputs"), 0, lambda languages, texts: [], languages=["es"], limit=1)
    assert {(pair.language, pair.prompt_id) for pair in found.pairs} == {("es", "7")}
    assert {row.reason for row in found.unused} == {"no-other-prompt", "no-other-language"}


def test_the_seed_decides(tmp_path: Path) -> None:
    artifact(tmp_path / "outputs")
    texts = [
        [pair.rejected.text for pair in read_corruptions(str(tmp_path / "outputs"), seed, lambda *_: []).pairs]
        for seed in (0, 0, 1)
    ]
    assert texts[0] == texts[1] != texts[2]
