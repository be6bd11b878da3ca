"""Outputs that were thought about: files tell thought and answer apart, figures are of the answers, and thoughts are measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from icr_platform.core.artifacts import ArtifactWriter, completed
from icr_platform.core.errors import InputError
from icr_platform.core.schemas import OUTPUTS, TableSchema
from icr_platform.data.reference_outputs import load_reference_outputs
from icr_platform.evaluation.scores import output_facts, score_metrics, score_outputs, with_means
from icr_platform.report.iteration_metrics import IterationMetrics
from icr_platform.report.terminal_tables import eval_terminal_table

ASKED = {"es": {"1": "Nombra una fruta."}}
_HOSTILE = "<script>alert(1)</script> <b>&amp;</b> </div>"

# fields of a row -> its thought and its answer
APART: dict[str, tuple[dict[str, Any], str | None, str]] = {
    "none": ({"output": "Manzana."}, None, "Manzana."),
    "block": ({"output": "<think>\nA fruit?\n</think>\n\nManzana."}, "A fruit?", "Manzana."),
    "orphan end": ({"output": "A fruit?\n</think>\n\nManzana."}, "A fruit?", "Manzana."),
    "empty block": ({"output": "<think>\n\n</think>\n\nManzana."}, None, "Manzana."),
    "magistral": ({"output": "[THINK]A fruit?[/THINK]Manzana."}, "A fruit?", "Manzana."),
    "command a": ({"output": "<|START_THINKING|>A fruit?<|END_THINKING|><|START_RESPONSE|>Manzana.<|END_RESPONSE|>"}, "A fruit?", "Manzana."),
    "seed": ({"output": "<seed:think>A fruit?</seed:think>Manzana."}, "A fruit?", "Manzana."),
    "gpt-oss": (
        {"output": "<|channel|>analysis<|message|>A fruit?<|end|><|start|>assistant<|channel|>final<|message|>Manzana.<|return|>"},
        "A fruit?", "Manzana.",
    ),
    "gpt-oss without its tokens": ({"output": "analysisA fruit?assistantfinalManzana."}, "A fruit?", "Manzana."),
    "gemma": ({"output": "<|channel>thought\nA fruit?<channel|>Manzana."}, "A fruit?", "Manzana."),
    "answer tags": ({"output": "<think>A fruit?</think><answer>Manzana.</answer>"}, "A fruit?", "Manzana."),
    "two blocks": ({"output": "<think>A</think>\n<think>fruit?</think>Manzana."}, "A\nfruit?", "Manzana."),
    "hostile": ({"output": f"<think>{_HOSTILE}</think>{_HOSTILE}"}, _HOSTILE, _HOSTILE),
    "reasoning_content": ({"output": "Manzana.", "reasoning_content": "A fruit?"}, "A fruit?", "Manzana."),
    "reasoning": ({"output": "Manzana.", "reasoning": "A fruit?"}, "A fruit?", "Manzana."),
    "thinking": ({"output": "Manzana.", "thinking": "A fruit?"}, "A fruit?", "Manzana."),
    "thought": ({"output": "Manzana.", "thought": "A fruit?"}, "A fruit?", "Manzana."),
    "thought of null": ({"output": "Manzana.", "thought": None}, None, "Manzana."),
    "both names": ({"output": "Manzana.", "reasoning": "A fruit?", "reasoning_content": "A fruit?"}, "A fruit?", "Manzana."),
    "details": ({"output": "Manzana.", "reasoning_details": [{"type": "reasoning.text", "text": "A fruit?"}]}, "A fruit?", "Manzana."),
    "column and block": ({"output": "<think>fruit?</think>Manzana.", "reasoning": "A"}, "A\nfruit?", "Manzana."),
    "message": ({"output": {"role": "assistant", "content": "Manzana.", "reasoning_content": "A fruit?"}}, "A fruit?", "Manzana."),
    "messages": (
        {"output": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "<think>A fruit?</think>Manzana."}]},
        "A fruit?", "Manzana.",
    ),
    "parts": (
        {"output": [{"role": "assistant", "content": [{"type": "thinking", "thinking": "A fruit?"}, {"type": "text", "text": "Manzana."}]}]},
        "A fruit?", "Manzana.",
    ),
    "parts without a type": ({"output": [{"role": "assistant", "content": [{"text": "Manzana."}]}]}, None, "Manzana."),
    "sharegpt": ({"output": [{"from": "gpt", "value": "<think>A fruit?</think>Manzana."}]}, "A fruit?", "Manzana."),
    "quoted": ({"output": "La etiqueta <think> abre y </think> cierra."}, None, "La etiqueta <think> abre y </think> cierra."),
    "quoted in code": ({"output": "```\n<think>x</think>\n```"}, None, "```\n<think>x</think>\n```"),
    "white space": ({"output": "\n Manzana. \n"}, None, "\n Manzana. \n"),
}  # fmt: skip

# what ends within a thought
CUT: dict[str, tuple[dict[str, Any], str]] = {
    "block": ({"output": "<think>A fruit? Let"}, "A fruit? Let"),
    "channel": ({"output": "<|channel|>analysis<|message|>A fruit? Let"}, "A fruit? Let"),
    "second block": ({"output": "<think>A</think><think>fruit"}, "A\nfruit"),
}


def written(tmp_path: Path, fields: dict[str, Any]) -> str:
    path = tmp_path / "es.json"
    path.write_text(json.dumps([{"id": "1", "instruction": "Nombra una fruta.", **fields}]), encoding="utf-8")
    return str(tmp_path)


@pytest.mark.parametrize("kind", APART)
def test_a_file_of_outputs_tells_thought_and_answer_apart(tmp_path: Path, kind: str) -> None:
    fields, thought, answer = APART[kind]
    loaded = load_reference_outputs(written(tmp_path, fields), ASKED)
    [(_, text, facts)] = loaded.samples("es", "1")
    assert (facts.get("thought"), text) == (thought, answer)
    assert facts.get("finish_reason") is None
    is_said = [note for note in loaded.notes if "1 of 1 outputs come with what was thought before the answer" in note]
    assert len(is_said) == (thought is not None or kind == "empty block")
    assert not any("columns not used" in note for note in loaded.notes)


@pytest.mark.parametrize("kind", CUT)
def test_an_output_that_ends_within_its_thought_has_none_and_is_called_truncated(tmp_path: Path, kind: str) -> None:
    fields, thought = CUT[kind]
    source = written(tmp_path, fields)
    loaded = load_reference_outputs(source, ASKED, may_be_empty=True)
    [(_, text, facts)] = loaded.samples("es", "1")
    assert (facts["thought"], text, facts["finish_reason"]) == (thought, "", "length")
    assert any("1 of them end within the thought and have no answer" in note for note in loaded.notes)
    with pytest.raises(
        InputError, match=r"es\.json: row 1: field 'output' ends within a thought.*generate it again"
    ) as caught:
        load_reference_outputs(source, ASKED)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"output": "<think>A fruit?</think>"}, "field 'output' is empty"),
        ({"output": None, "reasoning_content": "A fruit?"}, "field 'output' is empty"),
        ({"output": {"role": "assistant", "content": None, "reasoning": "A fruit?"}}, "field 'output' is empty"),
        ({"output": "<think>\ud800</think>Manzana."}, "field 'output' contains half a surrogate pair"),
        ({"reasoning_content": "A fruit?"}, "field 'output' is missing"),
    ],
)
def test_a_reference_without_an_answer_is_refused_in_one_line(
    tmp_path: Path, fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words) as caught:
        load_reference_outputs(written(tmp_path, fields), ASKED)
    assert "\n" not in str(caught.value)


def row(output: str, thought: str | None = None, tokens: int | None = None, **fields: Any) -> dict[str, Any]:
    return {
        "language": "es", "prompt_id": "1", "sample_index": 0, "instruction": "Nombra una fruta.", "output": output, "token_count": 9,
        "character_count": len(output), "finish_reason": "stop", "detected_language": "es", "language_confidence": 0.9,
        "thought": thought, "thought_token_count": tokens, "thought_language": None if thought is None else "en", **fields,
    }  # fmt: skip


@pytest.mark.parametrize(("version", "is_split"), [(2, True), (3, False)])
def test_outputs_of_an_earlier_version_are_told_apart_when_they_are_read(
    tmp_path: Path, version: int, is_split: bool
) -> None:
    whole = "<think>A fruit?</think>Manzana."
    schema = OUTPUTS.schema
    if version == 2:
        names = [name for name in schema.names if "thought" not in name and name != "messages"]
        metadata = {"icr.table": "outputs", "icr.schema_version": "2"}
        schema = pa.schema([schema.field(name) for name in names], metadata=metadata)
    writer = ArtifactWriter(tmp_path / "outputs", TableSchema("outputs", version, schema), "f")
    writer.write_part(0, pa.Table.from_pylist([row(whole)], schema=schema))
    writer.close(1)
    loaded = load_reference_outputs(str(tmp_path / "outputs"), ASKED)
    [(_, text, facts)] = loaded.samples("es", "1")
    assert text == (
        "Manzana." if is_split else whole
    )  # a table that keeps thoughts apart says by null that there was none
    assert facts["thought"] == ("A fruit?" if is_split else None)
    assert facts["detected_language"] == (None if is_split else "es"), (
        "of what was read together, it says nothing of the answer"
    )
    assert any("1 of 1 outputs come with" in note for note in loaded.notes) == is_split


def test_figures_are_of_answers_and_thoughts_have_their_own() -> None:
    rows = [
        row("Manzana.", "A fruit?", 5),
        row("Pera.", "¿Una fruta?", 7, prompt_id="2", thought_language="es"),
        row("", "Let me", 9, prompt_id="3", finish_reason="length", detected_language="und"),  # all nine tokens
        row("", "A fruit?", 8, prompt_id="4"),  # thought to the end, and answered with nothing
        row("Uva.", prompt_id="5"),
        row("Apple.", language="en"),
    ]
    facts = output_facts(completed(pa.Table.from_pylist(rows), OUTPUTS))
    found = score_metrics(with_means(score_outputs(facts)))
    assert found["fidelity/es"] == 80.0, "thoughts in English are no answers in English"
    assert found["length/characters/es"] == pytest.approx((8 + 5 + 0 + 0 + 4) / 5)
    assert found["truncated/es"] == 20.0
    assert found["thought_tokens/mean/es"] == pytest.approx((5 + 7 + 9 + 8) / 4)
    assert found["thought_language_share/es"] == 25.0
    assert found["thought_cut/es"] == 20.0
    assert found["thought_tokens/mean/mean"] == found["thought_tokens/mean/es"]
    assert not [name for name in found if name.startswith("thought") and name.endswith("/en")]
    table = eval_terminal_table(found, "pi")
    assert [column.header for column in table.columns][-3:] == [
        "Thought, tokens", "Thought in its language, %", "Cut within a thought, %",
    ]  # fmt: skip


def test_where_nothing_was_thought_no_figure_and_no_column_says_so() -> None:
    facts = output_facts(completed(pa.Table.from_pylist([row("Manzana."), row("Pera.", prompt_id="2")]), OUTPUTS))
    found = score_metrics(with_means(score_outputs(facts)))
    assert not [name for name in found if "thought" in name]
    assert not [c for c in eval_terminal_table(found, "pi").columns if "hought" in str(c.header)]
    assert IterationMetrics(0, found).metrics["fidelity/es"] == 100.0


def test_an_identifier_that_does_not_know_the_language_measures_no_share() -> None:
    facts = output_facts(completed(pa.Table.from_pylist([row("Manzana.", "A fruit?", 5)]), OUTPUTS))
    found = {score.metric: score for score in score_outputs(facts, unknown=["es"])}
    assert found["thought_language_share"].value is None
    assert "does not know" in found["thought_language_share"].flag
    assert found["thought_tokens/mean"].value == 5.0
