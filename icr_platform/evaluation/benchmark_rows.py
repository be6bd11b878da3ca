"""What lm-eval found on a task as a row of the benchmarks table, and two policies' rows compared document by document."""

from __future__ import annotations

import json
import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from icr_platform.core.errors import InputError
from icr_platform.evaluation.benchmark_families import PlannedTask

Row = dict[str, Any]
_PREFERRED = ("acc_norm", "acc", "exact_match")
_LENIENT = "flexible-extract"


def benchmark_row(work: PlannedTask, found: Mapping[str, Any], in_chat: bool) -> Row:
    """The row of a task, or a group of tasks.

    Args:
        found: what `lm_eval.simple_evaluate` returned for it, samples included.

    Raises:
        InputError: the task reports no number.
    """
    results = found["results"].get(work.task, {})
    # lm-eval's keys are `acc_norm,none`: metric and filter.
    values = {
        key: float(value)
        for key, value in results.items()
        if "," in key and "_stderr" not in key and isinstance(value, numbers.Real) and not isinstance(value, bool)
    }
    if not values:
        raise InputError(f"benchmarks: the task reports no number, only {sorted(results)}; give it a metric_list")
    key = primary(list(values), work.metric, in_chat)
    error_bar = results.get(key.replace(",", "_stderr,", 1))
    samples = found.get("samples") or {}
    counted = found["n-samples"]
    scored = [work.task] if work.task in counted else [task for task in samples if task in counted]
    return {
        "language": work.language,
        "family": work.family,
        "task": work.task,
        "metric": key,
        "value": values[key],
        "standard_error": float(error_bar) if isinstance(error_bar, numbers.Real) else None,
        "n": sum(int(counted[task]["effective"]) for task in scored),
        "in_chat": in_chat,
        "other_metrics": json.dumps({name: value for name, value in values.items() if name != key}, sort_keys=True),
        "documents": [document for task, rows in samples.items() for document in _documents(task, rows, key)],
    }


def primary(keys: Sequence[str], wanted: str, in_chat: bool) -> str:
    """The metric that is reported, of those that a task has.

    The wanted one comes first, with its filter or without one; then the commonest one that the task has. Of several filters the
    task's first counts, but to a chat model the one that finds an answer in whatever form: strict ones look for the words of the
    examples in the prompt.

    >>> keys = ["exact_match,strict-match", "exact_match,flexible-extract", "f1,none"]
    >>> primary(keys, "", False), primary(keys, "", True), primary(keys, "f1", True)
    ('exact_match,strict-match', 'exact_match,flexible-extract', 'f1,none')
    """
    if wanted in keys:
        return wanted
    for name in (wanted.partition(",")[0], *_PREFERRED):
        filters = [key for key in keys if key.split(",")[0] == name]
        if filters:
            lenient = [key for key in filters if key.endswith(f",{_LENIENT}")]
            return lenient[0] if lenient and in_chat else filters[0]
    return keys[0]


def _documents(task: str, samples: Iterable[Mapping[str, Any]], key: str) -> Iterable[Row]:
    metric, _, chosen = key.partition(",")
    for sample in samples:
        if sample["filter"] != chosen:
            continue
        value = sample.get(metric)
        yield {
            "task": task,
            "document": int(sample["doc_id"]),
            "digest": str(sample["doc_hash"]),
            "prompt_digest": str(sample["prompt_hash"]),
            "value": float(value) if isinstance(value, numbers.Real) else None,
            "answer": _answer(sample),
            "target": str(sample["target"]),
        }


def _answer(sample: Mapping[str, Any]) -> str | None:
    """What was generated, or the likeliest of several choices; None of what is no answer, such as the probability of a text."""
    responses = [response[0] for response in sample["resps"]]
    if isinstance(responses[0], str):
        return responses[0]
    if len(responses) < 2 or not isinstance(responses[0], (tuple, list)):
        return None
    best = int(np.argmax([float(response[0]) for response in responses]))
    context, choice = sample["arguments"][best][:2]
    contexts = {arguments[0] for arguments in sample["arguments"]}
    return str(choice if len(contexts) == 1 else context).strip()


class Comparison(NamedTuple):
    """rows: of the table of differences. notes: what could not be compared, and what was asked otherwise."""

    rows: list[Row]
    notes: list[str]


def compare(rows: Sequence[Row], baseline: Sequence[Row]) -> Comparison:
    """Paired differences between a policy's rows and those of an earlier one, by the documents that both have.

    With d_i the difference on document i of n: mean(d) and its standard error sd(d) / sqrt(n). Of values that are 0 or 1, the
    p-value is McNemar's exact one.
    """
    before = {(row["family"], row["language"], row["task"]): row for row in baseline}
    found, notes = list[Row](), list[str]()
    for row in rows:
        name = f"{row['family']}/{row['language']}".rstrip("/")
        other = before.get((row["family"], row["language"], row["task"]))
        pairs = _pairs(row, other) if other is not None else []
        if not pairs:
            notes.append(f"{name} is not compared with the baseline, {_why_not(row, other)}")
            continue
        if changed := sum(prompt != earlier for _, _, prompt, earlier in pairs):
            notes.append(
                f"{name}: {changed} of {len(pairs)} documents were asked with another prompt in the baseline "
                "(shots, chat template or its settings)"
            )
        if len(pairs) < len(row["documents"]):
            notes.append(f"{name}: the baseline has {len(pairs)} of {len(row['documents'])} documents")
        ours, theirs = (np.array([pair[side] for pair in pairs], np.float64) for side in (0, 1))
        difference = ours - theirs
        better, worse = int((difference > 0).sum()), int((difference < 0).sum())
        is_binary = bool(np.isin(np.concatenate([ours, theirs]), (0.0, 1.0)).all())
        n = len(pairs)
        found.append(
            {name: row[name] for name in ("language", "family", "task", "metric")}
            | {
                "baseline": float(theirs.mean()),
                "value": float(ours.mean()),
                "difference": float(difference.mean()),
                "standard_error": float(difference.std(ddof=1)) / math.sqrt(n) if n > 1 else None,
                "n": n,
                "better": better,
                "worse": worse,
                "p_value": mcnemar(better, worse) if is_binary else None,
            }
        )
    return Comparison(found, notes)


def _pairs(row: Row, other: Row) -> list[tuple[float, float, str, str]]:
    """(value, value of the baseline, digests of both prompts) of every document that both measured by the same metric."""
    if row["metric"] != other["metric"]:
        return []
    earlier = {
        (document["task"], document["digest"], document["document"]): document for document in other["documents"] or ()
    }
    both = (
        (document, earlier.get((document["task"], document["digest"], document["document"])))
        for document in row["documents"] or ()
    )
    return [
        (document["value"], found["value"], document["prompt_digest"], found["prompt_digest"])
        for document, found in both
        if found is not None and document["value"] is not None and found["value"] is not None
    ]


def _why_not(row: Row, other: Row | None) -> str:
    if other is None:
        return "which does not have it"
    if row["metric"] != other["metric"]:
        return f"whose metric is {other['metric']} instead of {row['metric']}"
    if not other["documents"]:
        return "which an earlier version made, without results by document; measure it again"
    if all(document["value"] is None for document in row["documents"]):
        return f"since {row['metric']} is a number of all documents together"
    return "which has none of these documents"


def mcnemar(better: int, worse: int) -> float:
    """The exact two-sided p-value of so many documents that changed for the better and for the worse: a fair coin's binomial.

    >>> mcnemar(3, 1), mcnemar(0, 0), mcnemar(0, 6)
    (0.625, 1.0, 0.03125)
    """
    n = better + worse
    tail = sum(math.comb(n, count) for count in range(min(better, worse) + 1))
    return min(1.0, float(Fraction(2 * tail, 2**n)))
