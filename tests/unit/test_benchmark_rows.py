"""Rows of the benchmarks table, and the paired comparison of two policies."""

from __future__ import annotations

import math
from typing import Any

import pytest

from icr_platform.core.errors import InputError
from icr_platform.evaluation.benchmark_families import PlannedTask
from icr_platform.evaluation.benchmark_rows import benchmark_row, compare, mcnemar, primary

FILTERED = ["exact_match,strict-match", "exact_match,flexible-extract"]


@pytest.mark.parametrize(
    ("keys", "wanted", "in_chat", "reported"),
    [
        (["acc,none", "acc_norm,none"], "acc", False, "acc,none"),
        (["acc,none", "acc_norm,none"], "", False, "acc_norm,none"),
        (["f1,none", "acc,none"], "", True, "acc,none"),
        (["bleu,none", "chrf,none"], "", True, "bleu,none"),
        (FILTERED, "exact_match,flexible-extract", False, "exact_match,flexible-extract"),
        (FILTERED, "", False, "exact_match,strict-match"),
        (FILTERED, "", True, "exact_match,flexible-extract"),
        # mgsm_en_cot has one filter in the other languages
        (["exact_match,get-answer"], "exact_match,flexible-extract", True, "exact_match,get-answer"),
        (["word_perplexity,none", "bits_per_byte,none"], "", False, "word_perplexity,none"),
    ],
)
def test_the_metric_that_is_reported(keys: list[str], wanted: str, in_chat: bool, reported: str) -> None:
    assert primary(keys, wanted, in_chat) == reported


def sample(document: int, name: str, metric: Any, **more: Any) -> dict[str, Any]:
    return {
        "doc_id": document, "doc_hash": f"d{document}", "prompt_hash": "p", "filter": "none", "target": 1, "acc": metric,
        "arguments": [("Q", " no"), ("Q", " yes")], "resps": [[(-2.0, False)], [(-1.0, True)]], "name": name, **more,
    }  # fmt: skip


def test_a_group_counts_the_documents_of_its_tasks() -> None:
    found = {
        "results": {"all": {"acc,none": 0.75, "acc_stderr,none": 0.1, "alias": "all"}},
        "n-samples": {"a": {"effective": 1}, "b": {"effective": 3}},
        "samples": {"a": [sample(0, "a", 1.0)], "b": [sample(n, "b", float(n > 0)) for n in range(3)]},
    }
    row = benchmark_row(PlannedTask("all", "de", "all", ""), found, True)
    assert (row["value"], row["standard_error"], row["n"], row["metric"]) == (0.75, 0.1, 4, "acc,none")
    assert [(at["task"], at["document"], at["value"], at["answer"]) for at in row["documents"]] == [
        ("a", 0, 1.0, "yes"), ("b", 0, 0.0, "yes"), ("b", 1, 1.0, "yes"), ("b", 2, 1.0, "yes"),
    ]  # fmt: skip
    with pytest.raises(InputError, match="reports no number"):
        benchmark_row(PlannedTask("all", "", "all", ""), {**found, "results": {"all": {"alias": "all"}}}, False)


def row(
    values: list[float | None], metric: str = "acc,none", prompts: str = "p", family: str = "arc"
) -> dict[str, Any]:
    documents = [
        {"task": "t", "document": at, "digest": f"d{at}", "prompt_digest": prompts, "value": value}
        for at, value in enumerate(values)
    ]
    return {"family": family, "language": "de", "task": "t", "metric": metric, "documents": documents}


def test_differences_are_paired_by_document() -> None:
    ours, theirs = row([1.0, 1.0, 1.0, 0.0, 1.0]), row([0.0, 0.0, 0.0, 1.0, 1.0])
    theirs["documents"].reverse()  # in any order
    (found,), notes = compare([ours], [theirs])
    assert (found["difference"], found["value"], found["baseline"]) == (pytest.approx(0.4), 0.8, 0.4)
    assert (found["n"], found["better"], found["worse"], found["p_value"]) == (5, 3, 1, 0.625)
    # d = 1, 1, 1, -1, 0: mean 0.4, variance 3.2 / 4
    assert found["standard_error"] == pytest.approx(math.sqrt(0.8 / 5))
    assert notes == []


def test_what_cannot_be_compared_is_said() -> None:
    ours = [
        row([1.0, 0.0]),
        row([1.0], family="mine"),
        row([0.5, 0.25], "f1,none", family="f"),
        row([None], family="bleu"),
    ]
    old = row([]) | {"family": "old", "documents": None}
    theirs = [
        row([1.0, 1.0, 0.0], prompts="other"),
        row([1.0], metric="acc_norm,none", family="mine"),
        row([0.5, 0.0], "f1,none", family="f"),
        row([1.0], family="bleu"),
        old,
    ]
    found, notes = compare([*ours, row([1.0], family="new"), row([1.0], family="old")], theirs)
    assert [(at["family"], at["n"], at["p_value"]) for at in found] == [("arc", 2, 1.0), ("f", 2, None)]
    assert notes == [
        "arc/de: 2 of 2 documents were asked with another prompt in the baseline (shots, chat template or its settings)",
        "mine/de is not compared with the baseline, whose metric is acc_norm,none instead of acc,none",
        "bleu/de is not compared with the baseline, since acc,none is a number of all documents together",
        "new/de is not compared with the baseline, which does not have it",
        "old/de is not compared with the baseline, which an earlier version made, without results by document; measure it again",
    ]


def test_other_documents_are_not_paired_by_their_numbers() -> None:
    ours, theirs = row([1.0, 0.0]), row([1.0, 1.0])
    theirs["documents"][1]["digest"] = "changed"
    (found,), notes = compare([ours], [theirs])
    assert (found["n"], found["standard_error"]) == (1, None)
    assert notes == ["arc/de: the baseline has 1 of 2 documents"]


@pytest.mark.parametrize(
    ("better", "worse", "p_value"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (5, 0, 0.0625),
        (0, 6, 0.03125),
        (3, 1, 0.625),
        (7, 7, 1.0),
        (10, 2, 2 * (1 + 12 + 66) / 4096),
    ],
)
def test_mcnemar_is_the_binomial(better: int, worse: int, p_value: float) -> None:
    assert mcnemar(better, worse) == pytest.approx(p_value)
    assert mcnemar(3000, 2000) < 1e-40
