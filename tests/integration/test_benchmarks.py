"""lm-eval on a task file of one's own, offline, on a tiny model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from icr_platform.core.errors import InputError
from icr_platform.core.stage_protocol import StageContext
from icr_platform.evaluation.benchmark_families import FAMILIES, language_of, plan
from icr_platform.evaluation.benchmarks import benchmark_metrics, read, run
from icr_platform.evaluation.config import BenchmarksConfig
from icr_platform.models.loading import load_model, load_tokenizer

OKAPI = {name: FAMILIES[name] for name in BenchmarksConfig().families}
KNOWN = {family.task(code) for family in OKAPI.values() for code in ("en", "es", "de")} - {"arc_de"}


def test_what_a_language_lacks_is_named_and_the_rest_is_run() -> None:
    work, notes = plan(BenchmarksConfig(policy="p", languages=("en", "de", "sw")), KNOWN)
    assert ("arc", "en", "arc_challenge", "acc_norm") in work
    assert not any(item.language == "sw" for item in work)
    assert "benchmarks: arc has no task in de, sw; not measured there" in notes
    assert len(notes) == len(OKAPI)
    assert (language_of("truthfulqa_es_mc1"), language_of("mine")) == ("es", "")
    assert {item.language for item in work if item.family == "arc"} == {"en"}, "German is lacking in this lm-eval"
    assert {item.task for item in work if item.language == "de"} == KNOWN & {f.task("de") for f in OKAPI.values()}
    for wrong, said in (
        ({"families": ("arcs",)}, "'families' names 'arcs'"),
        ({"tasks": ("nowhere",)}, "'tasks' names 'nowhere'"),
        ({"languages": ("sw",)}, "leave no task"),
    ):
        with pytest.raises(InputError, match=said):
            plan(BenchmarksConfig(policy="p", **wrong), KNOWN)


# Choices of different lengths: the likeliest as a whole is not the likeliest per byte.
ROWS: list[dict[str, Any]] = [
    {"question": f"Name {what}", "choices": ["a", "one two three", "red blue"], "gold": number % 3}
    for number, what in enumerate(("a colour", "three fruits", "a word", "two animals", "a number", "a city", "a dog"))
]


@pytest.fixture(scope="module")
def own_task(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> BenchmarksConfig:
    """A task file of one's own over a local file: nothing is downloaded. lm-eval takes seconds to index a folder's tasks."""
    pytest.importorskip("lm_eval", reason="needs the extra 'benchmarks'")
    folder = tmp_path_factory.mktemp("own-task")
    data = folder / "words.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "words_es.yaml").write_text(
        f"task: words_es\ndataset_path: json\ndataset_kwargs:\n  data_files: {{test: '{data}'}}\ntest_split: test\n"
        "output_type: multiple_choice\ndoc_to_text: question\ndoc_to_choice: choices\ndoc_to_target: gold\nmetric_list:\n"
        + "".join(
            f"  - {{metric: {name}, aggregation: mean, higher_is_better: true}}\n" for name in ("acc", "acc_norm")
        )
    )
    return BenchmarksConfig(
        policy=str(tiny_model), families=(), tasks=("words_es",), task_folder=str(folder), device="cpu"
    )


def shares_by_hand(model_folder: Path) -> tuple[float, float]:
    """Share of rows whose right choice has the highest log-probability, as a whole and per byte; a choice at a time."""
    model, tokenizer = load_model(str(model_folder), device="cpu"), load_tokenizer(str(model_folder))
    right, right_per_byte = [], []
    for row in ROWS:
        prompt = tokenizer.encode(row["question"], add_special_tokens=False)
        scores = []
        for choice in row["choices"]:
            ids = tokenizer.encode(f"{row['question']} {choice}", add_special_tokens=False)
            with torch.no_grad():
                logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            scores.append(sum(float(logprobs[at - 1, ids[at]]) for at in range(len(prompt), len(ids))))
        per_byte = [score / len(choice) for score, choice in zip(scores, row["choices"], strict=True)]
        right.append(int(np.argmax(scores)) == row["gold"])
        right_per_byte.append(int(np.argmax(per_byte)) == row["gold"])
    return float(np.mean(right)), float(np.mean(right_per_byte))


def test_a_task_of_ones_own_is_scored_as_by_hand(
    own_task: BenchmarksConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_a_whole, per_byte = shares_by_hand(Path(own_task.policy))
    assert as_a_whole != per_byte, "the rows do not tell the two metrics apart"
    assert 0.0 < per_byte < 1.0, "the rows give no standard error"
    result = run(read(own_task), StageContext(tmp_path / "out", "f"))
    assert result.metrics == {
        "benchmark/words_es/es": pytest.approx(per_byte),
        "benchmark_se/words_es/es": pytest.approx(math.sqrt(per_byte * (1 - per_byte) / (len(ROWS) - 1))),
    }
    table = result.tables["benchmarks"].iloc[0]
    assert (table["metric"], table["n"], table["language"]) == ("acc_norm,none", len(ROWS), "es")

    def asked_again(**_: object) -> None:
        raise AssertionError("a finished task was measured again")

    monkeypatch.setattr("lm_eval.simple_evaluate", asked_again)
    assert run(read(own_task), StageContext(tmp_path / "out", "f")).metrics == result.metrics


def test_means_are_over_the_languages_of_a_family() -> None:
    values = [("arc", "en", 0.5, 0.1), ("arc", "es", 0.25, None), ("mine", "", 0.75, math.nan)]
    frame = pd.DataFrame(values, columns=["family", "language", "value", "standard_error"])
    assert benchmark_metrics(frame) == {
        "benchmark/arc/en": 0.5, "benchmark_se/arc/en": 0.1, "benchmark/arc/es": 0.25, "benchmark/mine": 0.75, "benchmark/arc/mean": 0.375,
    }  # fmt: skip


def test_data_that_cannot_be_read_is_one_line(own_task: BenchmarksConfig, tmp_path: Path) -> None:
    data = Path(own_task.task_folder) / "words.jsonl"
    data.rename(tmp_path / "elsewhere.jsonl")
    with pytest.raises(InputError, match="task 'words_es' could not be read"):
        run(read(own_task), StageContext(tmp_path / "out", "f"))
