"""lm-eval on a task file of one's own, offline, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from icr_platform.core.errors import InputError
from icr_platform.core.stage_protocol import StageContext
from icr_platform.evaluation.benchmarks import FAMILIES, language_of, plan, read, run
from icr_platform.evaluation.config import BenchmarksConfig

KNOWN = {family.task(code) for family in FAMILIES.values() for code in ("en", "es", "de")} - {"arc_de"}


def test_what_a_language_lacks_is_named_and_the_rest_is_run() -> None:
    work, notes = plan(BenchmarksConfig(policy="p", languages=("en", "de", "sw")), KNOWN)
    assert ("arc", "en", "arc_challenge", "acc_norm") in work
    assert not any(item.language == "sw" for item in work)
    assert "benchmarks: arc has no task in de, sw; not measured there" in notes
    assert len(notes) == len(FAMILIES)
    assert (language_of("truthfulqa_es_mc1"), language_of("mine")) == ("es", "")
    for wrong in ({"families": ("arcs",)}, {"tasks": ("nowhere",)}, {"languages": ("sw",)}):
        with pytest.raises(InputError):
            plan(BenchmarksConfig(policy="p", **wrong), KNOWN)


def test_a_local_task_runs_offline(tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="needs the extra 'benchmarks'")
    rows = [{"question": f"{n} + 1 =", "choices": [str(n + 1), "no"], "gold": 0} for n in range(6)]
    data = tmp_path / "sums.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "sums_es.yaml").write_text(
        f"task: sums_es\ndataset_path: json\ndataset_kwargs:\n  data_files: {{test: '{data}'}}\ntest_split: test\n"
        "output_type: multiple_choice\ndoc_to_text: question\ndoc_to_choice: choices\ndoc_to_target: gold\n"
        "metric_list:\n  - metric: acc\n    aggregation: mean\n    higher_is_better: true\n"
    )
    config = BenchmarksConfig(
        policy=str(tiny_model), families=(), tasks=("sums_es",), task_folder=str(tmp_path / "tasks"), device="cpu"
    )
    result = run(read(config), StageContext(tmp_path / "out", "f"))
    assert 0.0 <= result.metrics["benchmark/sums_es/es"] <= 1.0
    assert "benchmark_se/sums_es/es" in result.metrics
    again = run(read(config), StageContext(tmp_path / "out", "f"))
    assert again.metrics == result.metrics
