"""The benchmark of the whole method on a real model, on a tiny one: every step of it, and that it goes on where it was stopped."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks import bench_real_model as bench

SCRIPT = Path(bench.__file__)


@pytest.mark.slow
def test_every_step_is_taken_once(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(SCRIPT),
        "--tiny",
        "--work",
        str(tmp_path / "work"),
        "--csv",
        str(tmp_path / "rows.csv"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    steps = sorted(path.stem for path in (tmp_path / "work" / "done").glob("*.json"))
    assert len(steps) == 15
    again = subprocess.run(command, capture_output=True, text=True)
    assert "took" not in again.stdout
    with (tmp_path / "rows.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    arms = [(row["measure"], row["arm"]) for row in rows]
    assert len(arms) == len(set(arms)) == 12
    assert [arm for measure, arm in arms if measure == "compliance"] == ["pi_ref", "pi_0", "pi_1", "control"]
    assert {
        row["n"] for row in rows if row["measure"] == "compliance" or row["arm"] in ("cross-lingual", "the longer one")
    } == {"30"}


@pytest.mark.parametrize("language", bench.LANGUAGES)
def test_answers_do_what_they_are_labelled_with(language: str) -> None:
    said = [f"{word} sentence number {number} of this." for number, word in enumerate(["One", "Two", "Three", "Four"])]
    for constraint in bench.CONSTRAINTS:
        task = bench.Task("7", constraint, dict.fromkeys(bench.LANGUAGES, "Say."), dict.fromkeys(bench.LANGUAGES, said))
        for seed in range(20):
            for is_right in (True, False):
                assert task.complies(language, task.answer(language, is_right, seed, "x")) == is_right


@pytest.mark.parametrize(
    ("kind", "language", "text", "right"),
    [
        ("bullets", "ru", "- Раз.\n\n- Два.", True),
        ("bullets", "en", "Here:\n- One.\n- Two.", False),
        ("bullets", "en", "1. One.\n2. Two.", False),
        ("sentence", "fr", "Il dit « non ».", True),
        ("sentence", "en", "It costs 3.5 dollars.", True),
        ("sentence", "en", "No end", False),
        ("sentence", "en", "- One.", False),
        ("sentence", "es", "¿Sí? No.", False),
        ("capitals", "de", "GROẞ UND 3.", True),
        ("capitals", "de", "GROß", False),
        ("capitals", "ru", "123", False),
        ("quotes", "fr", "« Oui. »", True),
        ("quotes", "de", "„Ja.“", True),
        ("quotes", "en", '"Yes." he said', False),
        ("begins", "ru", "конечно, да", True),
        ("begins", "ru", "Конечность", False),
        ("begins", "es", "", False),
    ],
)
def test_checkers(kind: str, language: str, text: str, right: bool) -> None:
    constraint = next(one for one in bench.CONSTRAINTS if one.kind == kind)
    assert bench.complies(constraint, language, text) == right


def test_intervals_are_over_instructions_and_differences_are_paired() -> None:
    def found(right: float) -> list[bench.Graded]:
        return [bench.Graded(code, str(number), "quotes", right) for code in bench.LANGUAGES for number in range(8)]

    half = [one._replace(right=float(int(one.instruction) % 2)) for one in found(0.0)]
    values = bench.figures(half, 0, found(0.0))
    assert (values["n"], values["es"], values["mean_of_the_four"], values["minus_pi_0"]) == (40, 50.0, 50.0, 50.0)
    # Every language says the same of an instruction, so that 8 instructions are 8 and not 32 observations.
    assert 10 <= values["low"] <= 25
    assert 75 <= values["high"] <= 90
    assert json.loads(values["by_constraint"]) == {"quotes": 50}
    same = bench.figures(half, 0, half)
    assert (same["minus_pi_0"], same["minus_low"], same["minus_high"]) == (0.0, 0.0, 0.0)


def test_rows_of_a_seed_take_the_place_of_earlier_ones(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    bench.replace_rows(path, 0, [{"seed": 0, "arm": "pi_0", "es": 1.0}])
    bench.replace_rows(path, 1, [{"seed": 1, "arm": "pi_0", "es": 2.0}])
    bench.replace_rows(path, 0, [{"seed": 0, "arm": "pi_0", "es": 3.0}])
    with path.open(encoding="utf-8", newline="") as stream:
        assert [(row["seed"], row["es"]) for row in csv.DictReader(stream)] == [("1", "2.0"), ("0", "3.0")]
