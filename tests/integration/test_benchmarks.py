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

from icr_platform.core.artifacts import open_artifact
from icr_platform.core.earlier import Earlier, Source
from icr_platform.core.errors import InputError
from icr_platform.core.schemas import BENCHMARKS
from icr_platform.core.stage_protocol import StageContext, StageResult
from icr_platform.evaluation.benchmark_families import FAMILIES, language_of, plan
from icr_platform.evaluation.benchmarks import benchmark_metrics, read, run
from icr_platform.evaluation.config import BenchmarksConfig
from icr_platform.models.loading import load_model, load_tokenizer
from icr_platform.pipeline.identity import identify
from tests.support.benchmark_tasks import QUESTIONS, write_families

OKAPI = {name: FAMILIES[name] for name in BenchmarksConfig().families}
KNOWN = {family.task(code) for family in OKAPI.values() for code in ("en", "es", "de")} - {"arc_de"}


def test_what_a_language_lacks_is_named_and_the_rest_is_run() -> None:
    work, notes = plan(BenchmarksConfig(policy="p", languages=("en", "de", "sw")), KNOWN)
    assert ("arc", "en", "arc_challenge", "acc_norm") in work
    assert not any(item.language == "sw" for item in work)
    assert "arc has no task in de, sw; not measured there" in notes
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
    folder = write_families(tmp_path_factory.mktemp("own-task"))
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


ALL = ("global_mmlu", "include", "belebele", "mgsm", "mgsm_direct", "multiblimp")


def of_families(own_task: BenchmarksConfig, **settings: Any) -> BenchmarksConfig:
    return own_task.model_copy(
        update={"tasks": (), "families": ALL, "languages": ("de",), "max_tokens": 12, **settings}
    )


@pytest.fixture(scope="module")
def measured(own_task: BenchmarksConfig, tmp_path_factory: pytest.TempPathFactory) -> StageResult:
    """Every family in German, as a model with a chat template is asked."""
    return run(read(of_families(own_task)), StageContext(tmp_path_factory.mktemp("measured"), "f"))


def test_families_that_ask_are_asked_in_the_chat_template(own_task: BenchmarksConfig, measured: StageResult) -> None:
    rows = open_artifact(measured.artifacts["benchmarks"], BENCHMARKS).read().to_pylist()
    assert {row["family"]: row["in_chat"] for row in rows} == {name: name != "multiblimp" for name in ALL}
    assert {row["family"]: row["metric"] for row in rows} == {
        **dict.fromkeys(ALL, "acc,none"),
        **dict.fromkeys(("mgsm", "mgsm_direct"), "exact_match,flexible-extract"),
    }
    assert json.loads(rows[3]["other_metrics"]).keys() == {"exact_match,strict-match"}
    assert measured.notes[0] == (
        "asked with the chat template: global_mmlu, include, belebele, mgsm, mgsm_direct; as plain text: multiblimp"
    )
    assert (
        "mgsm/de is exact_match,flexible-extract; other_metrics of the table has exact_match,strict-match"
        in measured.notes
    )
    # Six questions in two subjects of a group each, and every one of them in the table.
    by_family = {row["family"]: row for row in rows}
    for name in ("global_mmlu", "include"):
        documents = by_family[name]["documents"]
        assert (by_family[name]["n"], len(documents), len({at["task"] for at in documents})) == (6, 6, 2)
        assert np.mean([at["value"] for at in documents]) == pytest.approx(by_family[name]["value"])
    # The description of INCLUDE's tasks is in the prompt.
    questions = {at["digest"]: at["prompt_digest"] for at in by_family["global_mmlu"]["documents"]}
    described = {at["digest"]: at["prompt_digest"] for at in by_family["include"]["documents"]}
    assert questions.keys() == described.keys()
    assert not set(questions.values()) & set(described.values())


def choice_by_hand(model_folder: Path, question: dict[str, Any]) -> int:
    model, tokenizer = load_model(str(model_folder), device="cpu"), load_tokenizer(str(model_folder))
    text = f"{question['question']}\nA. {question['a']}\nB. {question['b']}\nAnswer:"
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
    )
    ids = tokenizer.encode(str(prompt), add_special_tokens=False)
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, -1]
    return int(logits[tokenizer.encode("B")[0]] > logits[tokenizer.encode("A")[0]])


def test_choices_in_the_template_are_scored_as_by_hand(own_task: BenchmarksConfig, measured: StageResult) -> None:
    rows = open_artifact(measured.artifacts["benchmarks"], BENCHMARKS).read().to_pylist()
    (documents,) = (row["documents"] for row in rows if row["family"] == "belebele")
    by_hand = [choice_by_hand(Path(own_task.policy), question) for question in QUESTIONS]
    assert [at["answer"] for at in documents] == ["AB"[choice] for choice in by_hand]
    assert [at["value"] for at in documents] == [
        float(choice == question["gold"]) for choice, question in zip(by_hand, QUESTIONS, strict=True)
    ]


def test_an_earlier_artifact_is_the_baseline(own_task: BenchmarksConfig, measured: StageResult, tmp_path: Path) -> None:
    config = of_families(
        own_task, families=("belebele", "multiblimp"), chat="no", baseline=str(measured.artifacts["benchmarks"])
    )
    result = run(read(config), StageContext(tmp_path / "out", "g"))
    table = {row["family"]: row for row in result.tables["benchmark_differences"].to_dict("records")}
    before = measured.metrics["benchmark/belebele/de"]
    assert result.metrics["benchmark_difference/belebele/de"] == result.metrics["benchmark/belebele/de"] - before
    assert [table["multiblimp"][name] for name in ["difference", "n", "better", "worse", "p_value"]] == [
        0.0,
        2,
        0,
        0,
        1.0,
    ]
    assert any("6 of 6 documents were asked with another prompt" in note for note in result.notes)
    assert not any("multiblimp" in note for note in result.notes if "another prompt" in note)


def test_a_task_that_fails_leaves_the_others(own_task: BenchmarksConfig, tmp_path: Path) -> None:
    config = of_families(own_task, families=(), tasks=("lost", "broken", "sums", "multiblimp_deu"))
    with pytest.raises(InputError, match=r"task 'lost' could not be read.*also of broken.*other 2 are kept"):
        run(read(config), StageContext(tmp_path / "out", "f"))
    parts = sorted(path.name for path in (tmp_path / "out/benchmarks").glob("part-*"))
    assert parts == ["part-00002.parquet", "part-00003.parquet"]


def test_tags_and_groups_without_a_number_are_their_tasks(own_task: BenchmarksConfig) -> None:
    config = of_families(own_task, families=(), tasks=("sums_of_mine", "bare", "global_mmlu_de", "sums"), chat="yes")
    assert [(item.task.family, item.task.language, item.task.task, item.in_chat) for item in read(config).work] == [
        ("mgsm_direct_de", "de", "mgsm_direct_de", True),
        ("mgsm_native_cot_de", "de", "mgsm_native_cot_de", True),
        ("bare_stem_de", "de", "bare_stem_de", True),
        ("bare_other_de", "de", "bare_other_de", True),
        ("global_mmlu_de", "de", "global_mmlu_de", True),
        ("sums", "", "sums", True),
    ]


def test_finished_tasks_are_taken_from_other_work(
    own_task: BenchmarksConfig, measured: StageResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same tasks among fewer, of the same policy and settings."""

    def asked_again(**_: object) -> None:
        raise AssertionError("a finished task was measured again")

    monkeypatch.setattr("lm_eval.simple_evaluate", asked_again)
    config = of_families(own_task, families=("multiblimp", "mgsm"), baseline=str(measured.artifacts["benchmarks"]))
    assert identify("benchmarks", config).rows == identify("benchmarks", of_families(own_task)).rows
    earlier = Earlier({"benchmarks": (Source(measured.artifacts["benchmarks"]),)})
    result = run(read(config), StageContext(tmp_path / "out", "g", earlier=earlier))
    assert result.metrics["benchmark/mgsm/de"] == measured.metrics["benchmark/mgsm/de"]
    changed = of_families(own_task, families=("mgsm",), system_prompt="Kurz.")
    with pytest.raises(InputError, match="measured again"):
        run(read(changed), StageContext(tmp_path / "other", "h", earlier=earlier))


def test_settings_of_the_template_count_only_where_it_is_used(own_task: BenchmarksConfig) -> None:
    """Work of before there were these settings is found again."""

    def work(**settings: Any) -> str:
        return identify("benchmarks", of_families(own_task, **settings)).work

    okapi = {"families": BenchmarksConfig().families, "max_tokens": None}
    assert len({work(**okapi), work(**okapi, chat="no"), work(**okapi, system_prompt="Kurz.")}) == 1
    assert len({work(), work(chat="no"), work(system_prompt="Kurz."), work(chat="yes"), work(**okapi, chat="yes")}) == 5


def test_settings_without_effect_are_named(own_task: BenchmarksConfig) -> None:
    config = of_families(own_task, families=("multiblimp",), system_prompt="Kurz.", chat_template_kwargs={"a": 1})
    assert (
        "system_prompt and chat_template_kwargs not used: no task is asked with the chat template" in read(config).notes
    )


def test_data_that_cannot_be_read_is_one_line(own_task: BenchmarksConfig, tmp_path: Path) -> None:
    data = Path(own_task.task_folder) / "words.jsonl"
    data.rename(tmp_path / "elsewhere.jsonl")
    with pytest.raises(InputError, match="task 'words_es' could not be read"):
        run(read(own_task), StageContext(tmp_path / "out", "f"))
