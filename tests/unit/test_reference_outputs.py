"""Reference outputs: every layout is read, every kind of untidiness is named with file, row, field and mend."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from icr_platform.core.artifacts import ArtifactWriter
from icr_platform.core.errors import InputError
from icr_platform.core.schemas import OUTPUTS
from icr_platform.data.reference_outputs import load_reference_outputs

INSTRUCTIONS = {
    "en": {"1": "Name a fruit.", "2": "Name a tool."},
    "es": {"1": "Nombra una fruta.", "2": "Nombra una herramienta."},
}
OUTPUT = {"en": ("Apple.", "Hammer."), "es": ("Manzana.", "Martillo.")}


def rows_of(language: str) -> list[dict[str, object]]:
    texts = INSTRUCTIONS[language].values()
    return [
        {"id": int(key), "instruction": text, "output": output, "generator": "g"}
        for key, text, output in zip(INSTRUCTIONS[language], texts, OUTPUT[language], strict=True)
    ]


def write(path: Path, rows: Sequence[object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(lines if path.suffix == ".jsonl" else json.dumps(rows), encoding="utf-8")


@pytest.mark.parametrize(
    ("names", "source"),
    [
        (("en.json", "es.jsonl"), "."),
        (("en/gpt.json", "es/gpt.json"), "."),
        (("en/gpt.json", "es/gpt.json", "es/other.json"), "{language}/gpt.json"),
    ],
)
def test_every_layout_gives_the_same_outputs(tmp_path: Path, names: tuple[str, ...], source: str) -> None:
    for name in names:
        write(tmp_path / name, rows_of(name[:2]))
    loaded = load_reference_outputs(str(tmp_path / source), INSTRUCTIONS)
    assert loaded.get("es", "2") == "Martillo."
    assert loaded.get("en", "1", sample_index=3) == "Apple."
    assert loaded.notes == ()


def test_an_outputs_artifact_answers_sample_by_sample(tmp_path: Path) -> None:
    rows = [
        {"language": "en", "prompt_id": "1", "sample_index": i, "instruction": "Name a fruit.", "output": f"fruit {i}",
         "token_count": 1, "character_count": 7, "finish_reason": "stop", "detected_language": "en",
         "language_confidence": 1.0}
        for i in range(2)
    ]  # fmt: skip
    import pyarrow as pa

    writer = ArtifactWriter(tmp_path / "outputs", OUTPUTS, "f")
    writer.write_part(0, pa.Table.from_pylist(rows, schema=OUTPUTS.schema))
    writer.close(1)
    loaded = load_reference_outputs(str(tmp_path / "outputs"), {"en": INSTRUCTIONS["en"]})
    assert [loaded.get("en", "1", i) for i in range(3)] == ["fruit 0", "fruit 1", "fruit 0"]
    assert loaded.get("en", "2") is None
    assert "1 of 2 prompts" in loaded.notes[0]


def test_rows_without_ids_are_joined_by_exact_text_and_it_is_said(tmp_path: Path) -> None:
    write(tmp_path / "en.json", [{k: v for k, v in row.items() if k != "id"} for row in reversed(rows_of("en"))])
    loaded = load_reference_outputs(str(tmp_path), {"en": INSTRUCTIONS["en"]})
    assert loaded.get("en", "1") == "Apple."
    assert "no id; 2 of 2 joined by exact instruction" in loaded.notes[0]


def test_missing_rows_are_counted_and_other_prompts_are_ignored(tmp_path: Path) -> None:
    write(tmp_path / "en.json", [rows_of("en")[0], {"id": 99, "instruction": "Other.", "output": "x"}])
    loaded = load_reference_outputs(str(tmp_path), {"en": INSTRUCTIONS["en"]})
    assert loaded.get("en", "2") is None
    assert "1 of 2 prompts in 'en' have no reference output; n = 1" in loaded.notes[0]


def broken(change: str) -> list[object]:
    rows: list[dict[str, object]] = rows_of("es")
    if change == "doubled":
        rows.append(dict(rows[0]))
    elif change == "empty":
        rows[1]["output"] = " \n"
    elif change == "no-output":
        del rows[1]["output"]
    elif change == "other-language":
        rows = rows_of("en")
    elif change == "other-language-no-id":
        rows = [{k: v for k, v in row.items() if k != "id"} for row in rows_of("en")]
    elif change == "other-set":
        rows = [{"id": 7, "instruction": "Otra cosa.", "output": "x"}]
    elif change == "changed-instruction":
        rows[0]["instruction"] = "Nombra un color."
    elif change == "some-ids":
        del rows[1]["id"]
    elif change == "nothing-to-join":
        rows = [{"output": "x"}]
    return list(rows)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("doubled", ["row 3", "'1'", "row 1", "remove"]),
        ("empty", ["row 2", "'output'", "empty"]),
        ("no-output", ["row 2", "'output'", "missing"]),
        ("other-language", ["row 1", "'instruction'", "in 'en'"]),
        ("other-language-no-id", ["row 1", "in 'en'", "expected 'es'"]),
        ("other-set", ["row 1", "no row answers any of the 2 prompts"]),
        ("changed-instruction", ["row 1", "'instruction'", "differs"]),
        ("some-ids", ["row 2", "'id'", "missing"]),
        ("nothing-to-join", ["row 1", "'id'", "'instruction'"]),
    ],
)
@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_untidy_files_raise_one_line(tmp_path: Path, change: str, words: list[str], suffix: str) -> None:
    write(tmp_path / "en.json", rows_of("en"))
    write(tmp_path / f"es.{suffix}", broken(change))
    with pytest.raises(InputError) as caught:
        load_reference_outputs(str(tmp_path), INSTRUCTIONS)
    message = str(caught.value)
    assert "\n" not in message
    assert f"es.{suffix}" in message
    for word in words:
        assert word in message, message


@pytest.mark.parametrize("text", ["[{", "{}", "[1]"])
def test_damaged_json_names_the_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "en.json").write_text(text)
    with pytest.raises(InputError, match=r"en\.json"):
        load_reference_outputs(str(tmp_path), {"en": INSTRUCTIONS["en"]})


def test_outputs_written_in_another_language_are_found(tmp_path: Path) -> None:
    write(tmp_path / "es.json", [{"id": 1, "output": "An apple."}, {"id": 2, "output": "A hammer."}])
    with pytest.raises(InputError, match=r"es\.json: field 'output' is in 'en' in 2 of 2"):
        load_reference_outputs(str(tmp_path), {"es": INSTRUCTIONS["es"]}, lambda texts: [("en", 0.99)] * len(texts))


def test_a_choice_of_models_and_a_missing_language_are_explained(tmp_path: Path) -> None:
    write(tmp_path / "en" / "a.json", rows_of("en"))
    write(tmp_path / "en" / "b.json", rows_of("en"))
    with pytest.raises(
        InputError, match=r"several reference outputs in 'en' \(a.json, b.json\); choose one.*\{language\}"
    ):
        load_reference_outputs(str(tmp_path), {"en": INSTRUCTIONS["en"]})
    with pytest.raises(InputError, match=r"es/a\.json: no such file"):
        load_reference_outputs(str(tmp_path / "{language}" / "a.json"), {"es": INSTRUCTIONS["es"]})


def test_the_real_outputs_join_in_full(shared_data: Path) -> None:
    prompts = {}
    for language in ("en", "es", "th"):
        rows = json.loads((shared_data / "prompts" / "x-alpacaeval" / f"{language}.json").read_text(encoding="utf-8"))
        prompts[language] = {str(row["id"]): row["instruction"] for row in rows}
    loaded = load_reference_outputs(
        str(shared_data / "outputs" / "{language}" / "gpt-4-turbo-2024-04-09.json"), prompts
    )
    assert len(loaded.outputs) == 3 * 805
    assert len(loaded.notes) == 1, "only the English file has no ids"
    assert "805 of 805 joined" in loaded.notes[0]
