"""What `icr check` predicts, against what is then measured: bytes on the disk, tokens per second."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from icr_platform.core.artifacts import ArtifactWriter
from icr_platform.core.schemas import REWARDS
from icr_platform.pipeline.config import IterateConfig
from icr_platform.planning.calibration import calibrate
from icr_platform.planning.capacity import TrainingFiles, Work, disk_of


def test_bytes_of_rewards_on_the_disk(tmp_path: Path) -> None:
    rows, random = 20_000, np.random.default_rng(0)
    policy, reference = -random.gamma(5, 20, rows), -random.gamma(5, 20, rows)
    table = pa.table(
        {
            "language": ["es"] * rows,
            "prompt_id": [f"alpaca-{row // 10}" for row in range(rows)],
            "sample_index": [row % 10 for row in range(rows)],
            "kind": ["cross-lingual"] * rows,
            "policy_logprob": policy,
            "reference_logprob": reference,
            "reward": 0.1 * (policy - reference),
            "input_digest": [random.bytes(8).hex() for _ in range(rows)],
        }
    )
    writer = ArtifactWriter(tmp_path / "rewards", REWARDS, "f")
    writer.write_part(0, table.cast(REWARDS.schema))
    writer.close(1)
    kept, peak = disk_of(Work("annotate", rows, 100.0), TrainingFiles(0, 0, 0, 0))
    found = sum(path.stat().st_size for path in (tmp_path / "rewards").rglob("*") if path.is_file())
    assert found == pytest.approx(kept, rel=0.3)
    assert kept == peak


def test_calibration_counts_the_tokens_of_a_step(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the clock is a second later, so that each rate is half of what its one measured step counts."""
    clock = itertools.count()
    monkeypatch.setattr("icr_platform.planning.calibration.time.monotonic", lambda: float(next(clock)))
    config = IterateConfig.model_validate(
        {"policy": str(tiny_model), "reference": str(tiny_model),
         "generate": {"samples": 3, "batch_size": 6, "device": "cpu"},
         "annotate": {"batch_tokens": 400, "device": "cpu"}, "train": {"batch_size": 2, "device": "cpu"}}
    )  # fmt: skip
    rates = calibrate(config, [("en", "Name a colour."), ("es", "Di un color.")], 10.0, 0.3)
    assert 2 * 3 <= 2 * rates.decode <= 2 * 3 * 10  # two prompts, three samples of at most ten tokens
    prompt, completions = 64, 3 * 10
    assert 2 * rates.score % (prompt + completions) == 0
    assert 2 * rates.train == 2 * 2 * (prompt + 10)
