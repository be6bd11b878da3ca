"""What an iteration gained, which one is the best, and when an arm ends; the arm itself is in integration/test_stopped_arms.py."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from icr_platform.core.artifacts import Artifact, ArtifactWriter
from icr_platform.core.errors import InputError
from icr_platform.core.schemas import INSTRUCTION_CHECKS, JUDGMENTS, REWARD_BENCH, TableSchema
from icr_platform.evaluation.comparison import bootstrap_mean
from icr_platform.evaluation.gains import mean_gain, paired_scores
from icr_platform.pipeline.checkpoint_removal import checkpoints_to_give_up
from icr_platform.pipeline.config import IterateConfig
from icr_platform.pipeline.stopping import best_iteration, check_stop, gain_in, measuring, reason_to_stop


def scores(*rows: tuple[str, str, float, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["language", "prompt", "before", "after"])


@pytest.mark.parametrize(
    ("rows", "mean"),
    [
        ([("es", "a", 0.0, 1.0), ("es", "b", 1.0, 1.0)], 50.0),
        ([("es", "a", 0.5, 0.0), ("de", "a", 0.5, 0.5), ("de", "b", 0.5, 1.0)], (-50 + 25) / 2),
        ([("en", "a", 0.0, 1.0), ("es", "a", 1.0, 0.0)], -100.0),  # English does not count
        ([("en-GB", "a", 0.0, 1.0), ("fr", "a", 0.25, 0.5)], 25.0),  # nor do its variants
        ([("en", "a", 0.0, 1.0), ("en", "b", 0.0, 0.0)], 50.0),  # but where there is nothing else
        ([("zh", "a", 0.2, 0.2)], 0.0),
        ([], math.nan),
    ],
)
def test_languages_weigh_the_same_and_english_does_not_decide(rows: list[Any], mean: float) -> None:
    found = mean_gain(scores(*rows))
    assert found.mean == pytest.approx(mean, nan_ok=True)


def test_the_interval_is_over_prompts_in_whatever_languages_they_are() -> None:
    random = np.random.default_rng(5)
    before, after = random.uniform(size=(2, 40, 3))
    codes = ("es", "de", "ja")
    rows = [(code, f"p{i:02}", before[i, j], after[i, j]) for i in range(40) for j, code in enumerate(codes)]
    # Each prompt in every language: the mean over languages is the mean over prompts of their own means.
    naive = bootstrap_mean(100 * (after - before).mean(axis=1), limits=(-100, 100))
    assert tuple(mean_gain(scores(*rows))) == pytest.approx(tuple(naive))
    # The same changes of prompts that have nothing in common are more certain.
    apart = [(code, f"{code}{i}", before[i, j], after[i, j]) for i in range(40) for j, code in enumerate(codes)]
    together = [(code, f"p{i}", 0.0, after[i, 0]) for i in range(40) for code in codes]
    separate = [(code, f"{code}{i}", 0.0, after[i, 0]) for i in range(40) for code in codes]
    assert mean_gain(scores(*separate)).standard_error < 0.6 * mean_gain(scores(*together)).standard_error
    assert mean_gain(scores(*apart)).mean == pytest.approx(naive.mean)


def test_unequal_languages_add_up_by_hand() -> None:
    rows = scores(("es", "a", 0, 1), ("es", "b", 0, 0), ("de", "a", 0, 0), ("de", "b", 0, 1), ("de", "c", 0, 1))
    changes = {"es": {"a": 100, "b": 0}, "de": {"a": 0, "b": 100, "c": 100}}
    means = {"es": 50, "de": 200 / 3}
    added = {
        prompt: sum((of[prompt] - means[code]) / (2 * len(of)) for code, of in changes.items() if prompt in of)
        for prompt in "abc"
    }
    mean = (50 + 200 / 3) / 2
    error = math.sqrt(sum((3 * value) ** 2 for value in added.values()) / 2 / 3)
    found = mean_gain(rows)
    assert (found.mean, found.standard_error) == pytest.approx((mean, error))


@pytest.mark.parametrize(
    "rows", [[("es", "a", 0, 1)], [("es", "a", 0.3, 0.4), ("es", "b", 0.3, 0.4), ("de", "c", 0.1, 0.2)]]
)
def test_no_interval_is_made_up(rows: list[Any]) -> None:
    found = mean_gain(scores(*rows))
    assert found.mean > 0
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def table(folder: Path, schema: TableSchema, rows: list[dict[str, Any]]) -> Artifact:
    """An artifact with these columns, the others empty or null."""
    import pyarrow as pa

    def empty(field: pa.Field) -> Any:
        if field.nullable:
            return None
        if pa.types.is_boolean(field.type):
            return False
        return "" if pa.types.is_string(field.type) else 0

    full = [{field.name: row.get(field.name, empty(field)) for field in schema.schema} for row in rows]
    writer = ArtifactWriter(folder, schema, "f")
    writer.write_part(0, pa.Table.from_pylist(full, schema=schema.schema))
    return writer.close(1)


def test_only_what_both_sides_measured_is_paired(tmp_path: Path) -> None:
    def judged(name: str, *rows: tuple[str, str, int, float | None]) -> Artifact:
        named = [
            {"language": language, "prompt_id": prompt, "order": str(order), "preference": preference}
            for language, prompt, order, preference in rows
        ]
        return table(tmp_path / name, JUDGMENTS, named)

    before = judged("j0", ("es", "a", 0, 0.0), ("es", "a", 1, 0.5), ("es", "b", 0, 1.0), ("de", "a", 0, 0.5))
    after = judged("j1", ("es", "a", 0, 1.0), ("es", "a", 1, 1.0), ("es", "b", 0, None), ("es", "c", 0, 1.0))
    found = paired_scores("win rate", before, after)
    assert found[["language", "prompt", "before", "after"]].to_numpy().tolist() == [["es", "a", 0.25, 1.0]]

    def checked(name: str, *rows: tuple[str, str, str, bool | None]) -> Artifact:
        named = [
            {
                "language": "es",
                "prompt_id": p,
                "source": s,
                "turn": 1,
                "instruction_id": kind,
                "kwargs": "{}",
                "strict": ok,
                "loose": ok,
            }
            for p, s, kind, ok in rows
        ]
        return table(tmp_path / name, INSTRUCTION_CHECKS, named)

    before = checked(
        "i0", ("1@mt", "mt", "k", False), ("1@local", "local", "k", True), ("2", "", "k", None), ("2", "", "m", True)
    )
    after = checked(
        "i1", ("1@mt", "mt", "k", True), ("1@local", "local", "k", True), ("2", "", "k", False), ("2", "", "m", True)
    )
    found = paired_scores("prompt accuracy", before, after)
    assert found[["item", "prompt", "before", "after"]].to_numpy().tolist() == [
        ["1@mt", "1", 0.0, 1.0], ["1@local", "1", 1.0, 1.0], ["2", "2", 1.0, 1.0],
    ]  # fmt: skip

    def ranked(name: str, *rows: tuple[str, str, str, float | None]) -> Artifact:
        named = [
            {"language": "fr", "pair_id": pair, "prompt_id": pair[0], "kind": kind, "source": source, "is_right": right}
            for pair, kind, source, right in rows
        ]
        return table(tmp_path / name, REWARD_BENCH, named)

    rows = [
        ("a1", "cross-lingual", "pairs", 0.0),
        ("a2", "cross-lingual", "pairs", 0.5),
        ("b1", "cross-lingual", "corruptions", 0.0),
    ]
    before = ranked("r0", *rows, ("a1", "length", "pairs", 1.0))
    after = ranked("r1", *((pair, kind, source, 1.0) for pair, kind, source, _ in rows), ("a1", "length", "pairs", 1.0))
    found = paired_scores("reward accuracy", before, after, "cross-lingual")
    assert found[["item", "prompt", "before", "after"]].to_numpy().tolist() == [
        ["a1", "a", 0.0, 1.0],
        ["a2", "a", 0.5, 1.0],
    ]


MEASURED: list[tuple[dict[str, Any], tuple[str, str] | None]] = [
    ({}, None),
    ({"eval_prompts": "e"}, None),  # sampled, not judged
    ({"eval_prompts": "e", "eval": {"judge": "openai"}, "instruction_prompts": "i"}, ("win rate", "")),
    ({"eval": {"judge": "openai"}}, None),  # a judge without prompts
    ({"eval_prompts": "e", "instruction_prompts": "i", "reward_pairs": "p"}, ("prompt accuracy", "")),
    ({"reward_pairs": "p"}, ("reward accuracy", "cross-lingual")),
    ({"reward_pairs": "p", "annotate": {"reward_kind": "multilingual"}}, ("reward accuracy", "multilingual")),
    ({"reward_pairs": "p", "annotate": {"reward_kind": "random,multilingual"}}, ("reward accuracy", "multilingual")),
    ({"reward_pairs": "p", "annotate": {"reward_kind": "random"}, "reward_bench": {"reward_kind": "random"}}, None),
    ({"reward_pairs": "p", "reward_bench": {"reward_kind": "multilingual"}}, ("reward accuracy", "multilingual")),
    ({"reward_pairs": "p", "benchmarks": {"families": "arc"}}, ("reward accuracy", "cross-lingual")),
    ({"benchmarks": {"families": "arc"}}, None),
]


@pytest.mark.parametrize(("values", "expected"), MEASURED)
def test_what_shows_a_gain_or_is_missed_before_work(values: dict[str, Any], expected: tuple[str, str] | None) -> None:
    base = {"policy": "p", "reference": "r", "prompts": "t"}
    found = measuring(IterateConfig.model_validate(base | values))
    assert (found and (found.measure, found.kind)) == expected
    stopping = IterateConfig.model_validate(base | values | {"stop": "no-gain"})
    if expected is None:
        with pytest.raises(InputError, match="'stop' is 'no-gain', and nothing is measured"):
            check_stop(stopping)
    else:
        check_stop(stopping)
    check_stop(IterateConfig.model_validate(base | values))


def gain(mean: float, low: float | None = None, high: float | None = None, since: str = "") -> dict[str, float]:
    ends = {f"gain{since}_low": low, f"gain{since}_high": high}
    return {f"gain{since}": mean, **{name: end for name, end in ends.items() if end is not None}}


@pytest.mark.parametrize(
    ("stop", "iteration", "metrics", "stops"),
    [
        ("no-gain", 1, gain(5.0, 1.0, 9.0), False),
        ("no-gain", 1, gain(5.0, -1.0, 11.0), True),  # not more than chance
        ("no-gain", 1, gain(-5.0, -9.0, -1.0), True),
        ("no-gain", 2, gain(0.0, 0.0, 0.0), True),  # no output changed
        ("no-gain", 1, gain(5.0, 0.0, 10.0), True),
        ("no-gain", 1, gain(3.0), False),  # a single prompt that was won
        ("no-gain", 1, gain(-3.0), True),
        ("no-gain", 1, gain(0.0), True),
        ("no-gain", 1, {}, False),  # nothing in common: nothing is known
        ("no-gain", 1, {"gain": math.nan}, False),
        ("no-gain", 0, gain(-5.0, -9.0, -1.0), False),  # pi_0 comes after nothing
        ("no-gain", 3, gain(-5.0, -9.0, -1.0), False),  # it is over anyway
        ("none", 1, gain(-5.0, -9.0, -1.0), False),
    ],
)
def test_an_arm_ends_after_an_iteration_without_a_gain(
    stop: str, iteration: int, metrics: dict[str, float], stops: bool
) -> None:
    values = {"iterations": 3, "stop": stop, "eval_prompts": "e", "eval": {"judge": "openai"}}
    reason = reason_to_stop(IterateConfig.model_validate(values), iteration, metrics)
    assert bool(reason) == stops
    if stops:
        assert f"iteration {iteration} of 3 gained nothing over the one before: win rate {gain_in(metrics)}" == reason


def since(*ends: tuple[float, float | None] | None) -> dict[int, dict[str, float]]:
    return {t: gain(*end, since="_since_0") if end else {} for t, end in enumerate(ends, start=1)}


@pytest.mark.parametrize(
    ("metrics", "best"),
    [
        (since((9.0, 1.0), (5.0, 2.0)), 2),  # the surer one
        (since((5.0, 2.0), (9.0, 1.0)), 1),
        (since((5.0, 2.0), (5.0, 2.0)), 2),
        (since((-9.0, -12.0), (-5.0, -7.0)), 2),  # the best of what there is
        (since((3.0, None), (9.0, 2.0)), 1),
        (since(None, (-3.0, -4.0)), 2),
        (since(None, None), None),
        ({}, None),
        (since((math.nan, None), (1.0, 0.5)), 2),
    ],
)
def test_the_best_iteration_has_the_best_interval(metrics: dict[int, dict[str, float]], best: int | None) -> None:
    assert best_iteration(metrics, (1, 2)) == best
    assert best_iteration({0: gain(50.0, 49.0, 51.0, "_since_0"), **metrics}, (1, 2)) == best


@pytest.mark.parametrize(
    ("keep", "reference", "given_up"),
    [
        ("all", "initial", []),
        ("last", "initial", [1]),
        ("best", "initial", [2]),
        ("best", "previous", [2]),
        ("last", "previous", [1]),
    ],
)
def test_an_arm_that_stopped_keeps_what_a_finished_one_does(keep: str, reference: str, given_up: list[int]) -> None:
    values = {"iterations": 5, "keep_checkpoints": keep, "reward_reference": reference}
    config = IterateConfig.model_validate(values)
    metrics = since((5.0, 2.0), (4.0, 1.0))
    assert checkpoints_to_give_up(config, 2, metrics, is_last=True) == given_up
    finished = config.model_copy(update={"iterations": 2})
    assert checkpoints_to_give_up(finished, 2, metrics) == given_up
