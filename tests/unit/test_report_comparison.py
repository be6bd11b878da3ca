"""The report of an arm compares its last policy with its first; a comparison as LaTeX, CSV and HTML."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import pandas as pd
import pytest

from icr_platform.core.stage_protocol import StageResult
from icr_platform.evaluation.arm_comparison import Compared
from icr_platform.pipeline.arm import Arm
from icr_platform.pipeline.arm_results import figures_of
from icr_platform.pipeline.config import IterateConfig
from icr_platform.pipeline.session import RunOptions, Session, StageRun
from icr_platform.report.arm_report import write_report
from icr_platform.report.comparison import (
    Examples,
    comparison_csv,
    comparison_html,
    comparison_latex,
    comparison_terminal_tables,
    tone,
    write_comparison,
)
from tests.support.synthetic_runs import evaluated, first_answer, small_prompts, write_artifact, write_references

PROMPTS = [prompt for prompt in small_prompts(10) if prompt.language in ("en", "es")]


@pytest.mark.parametrize("has_references", [True, False])
def test_the_report_compares_the_last_policy_with_the_first(tmp_path: Path, has_references: bool) -> None:
    references = write_references(tmp_path / "references", PROMPTS, first_answer(99)) if has_references else "nowhere"
    config = IterateConfig(
        policy="pi", reference="ref", prompts="prompts", iterations=1, arm="icr", reference_outputs=str(references)
    )
    config = config.model_copy(
        update={"eval": config.eval.model_copy(update={"judge": "openai", "judge_api_model": "judge"})}
    )
    arm = Arm(config, config, None, ["pi"])
    for iteration, strength in enumerate((-1.0, 2.0)):
        data = evaluated(PROMPTS, first_answer(iteration), first_answer(99), strength, iteration)
        places = {name: write_artifact(tmp_path / str(iteration), name, parts) for name, parts in data.tables.items()}
        arm.keep(iteration, "eval", StageRun(StageResult(places, data.metrics), "", None, False))
    session = Session(RunOptions(tracking=False), tmp_path, tmp_path / ".icr", None)
    report = figures_of(session, arm)
    assert report.comparison is not None
    assert ("Length-controlled win rate" in report.comparison) is has_references
    assert has_references or any("lc_win_rate is left out" in note for note in report.notes)
    write_report(tmp_path / "report.html", report)
    html = (tmp_path / "report.html").read_text()
    assert report.answer is not None
    assert report.answer.summary in html
    assert "Is the last policy, π<sub>1</sub>, better than the first, π<sub>0</sub>?" in html
    assert "<th>pi_0</th><th>pi_1</th>" in html
    assert figures_of(session, arm, with_texts=False).comparison is None


def table(*rows: dict[str, object]) -> pd.DataFrame:
    empty = Compared._make([*[math.nan] * 9, 0, 0, 0, 0, 0, 1, 1, False])._asdict()
    known = {"metric": "win_rate", "language": "es", "first_side": "base_1", "second_side": "new & 50%", "verdict": ""}
    return pd.DataFrame(
        [{**empty, **known, "adjusted_p_value": math.nan, "adjusted_equivalence": math.nan, **row} for row in rows]
    )


CLEAR = {
    "first": 40.0,
    "second": 1 / 3 + 50,
    "difference": 1 / 3 + 10,
    "low": 2.0,
    "high": 18.0,
    "adjusted_p_value": 0.0001,
    "verdict": "higher",
    "n": 9,
}


def test_latex_has_booktabs_escapes_and_bold() -> None:
    found = comparison_latex(
        table(CLEAR, {**CLEAR, "language": "mean", "difference": -1.0, "verdict": ""}), notes=["a\nb"]
    )
    assert r"Language & base\_1 & new \& 50\% & Difference & 95\% interval & $p$ & $n$ \\" in found
    assert r"Spanish & 40.0 & 50.3 & \textbf{+10.3} & +2.0 to +18.0 & \textless{}0.001 & 9 \\" in found
    assert r"Mean & 40.0 & 50.3 & $-$1.0 &" in found
    assert found.count(r"\midrule") == 2
    assert "% a b" in found
    several = comparison_latex(
        table(CLEAR, {**CLEAR, "second_side": "third", "equivalence": 0.2, "adjusted_equivalence": 0.4}), margin=2
    )
    assert r"\begin{tabular}{llrrrrrrr}" in several
    assert r"p of $\pm$2" in several


def test_csv_has_a_row_for_each_side_and_every_digit() -> None:
    costs = pd.DataFrame([{"side": "base_1", "gpu_hours": 0.5}, {"side": "new & 50%", "gpu_hours": math.nan}])
    rows = list(csv.DictReader(io.StringIO(comparison_csv(table(CLEAR), costs))))
    assert float(rows[0]["difference"]) == 1 / 3 + 10
    assert (rows[0]["arm"], rows[0]["compared_with"], rows[0]["n"]) == ("new & 50%", "base_1", "9")
    assert [(row["metric"], row["arm"], row["value"]) for row in rows[1:]] == [("cost/gpu_hours", "base_1", "0.5")]


def test_html_escapes_names_and_texts(tmp_path: Path) -> None:
    named = table({**CLEAR, "second_side": "<i>x</i>"})
    example = {
        "language": "es", "prompt_id": "<b>", "instruction": "<script>", "first_output": "&", "second_output": "z", "first_value": 90.0,
        "second_value": 10.0, "flip": "regression", "instruction_kinds": "",
    }  # fmt: skip
    examples = [Examples("A", "B", pd.DataFrame([example]), {})]
    write_comparison(tmp_path / "page.html", "A & B", comparison_html(named), {"A": "<u>"}, examples, ["<note>"])
    html = (tmp_path / "page.html").read_text()
    for text in ("<i>", "<b>", "<script>", "<u>", "<note>"):
        assert text not in html


def test_what_is_better_has_a_colour_and_lengths_have_none() -> None:
    rows = [
        {"metric": metric, "verdict": verdict}
        for metric in ("win_rate", "truncated", "length/characters")
        for verdict in ("higher", "lower", "")
    ]
    assert [tone(row) for row in rows] == ["up", "down", "", "down", "up", "", "", "", ""]
    assert len(comparison_terminal_tables(table(CLEAR, {**CLEAR, "metric": "fidelity"}))) == 2
