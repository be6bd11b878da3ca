"""What `icr check` predicts, against what is then measured: bytes on the disk, tokens per second."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from icr_platform.core.artifacts import ArtifactWriter
from icr_platform.core.schemas import REWARDS
from icr_platform.models.loading import load_config, load_tokenizer, parameter_count
from icr_platform.pipeline.config import IterateConfig
from icr_platform.planning.calibration import calibrate
from icr_platform.planning.capacity import (
    PROCESS_BYTES,
    Prompts,
    TrainingFiles,
    Work,
    disk_of,
    memory_of,
    model_shape,
    works,
)
from tests.support.small_tables import write_prompt_folder

SAMPLES, TOKENS, ROWS = 4, 16, 16
MEASURE = """
import ctypes, gc, json, sys
from pathlib import Path
import torch, transformers, trl, icr_platform.training.dpo
from icr_platform.core.stage_protocol import StageContext
from icr_platform.pipeline.stages import STAGES
from tests.support.peak_memory import peak_bytes

folder, given, found = Path(sys.argv[1]), json.loads(sys.argv[2]), {}
for name, values in given.items():
    row = STAGES[name]
    stage = row.load()
    inputs = stage.read(row.config.model_validate(values))
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what an earlier stage freed goes back to the kernel
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark falls to what is in memory now
    before = peak_bytes()
    stage.run(inputs, StageContext(folder, "f"))
    found[name] = (before, peak_bytes())
print(json.dumps(found))
"""
"""A process that runs stages one after the other, and prints the memory before and at the peak of each."""


@pytest.fixture(scope="module")
def wide_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 million parameters, 201 MB in float32, next to which what a few short texts take is little."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("wide")
    tokenizer = load_tokenizer(str(tiny_model))
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=1024, intermediate_size=4096, num_hidden_layers=3, num_attention_heads=8,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def measured(
    wide_model: Path, make_preferences: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[int, int]]:
    """Bytes before and at the peak of each stage, in a process that has loaded every library before."""
    folder = tmp_path_factory.mktemp("stages")
    prompts, preferences = write_prompt_folder(folder / "prompts"), make_preferences(folder / "pairs", wide_model, 4)
    common = {"device": "cpu", "dtype": "float32", "policy": str(wide_model)}
    given = {
        # fasttext's model is small: the default identifier's 84 MB are part of what is predicted for any process.
        "generate": common
        | {"prompts": str(prompts), "samples": SAMPLES, "max_tokens": TOKENS, "batch_size": ROWS}
        | {"language_identifier": "fasttext"},
        "annotate": common
        | {"prompts": str(prompts), "reference": str(wide_model), "responses": str(folder / "responses")},
        "train": common | {"preferences": str(preferences), "accumulation": 2},
    }
    command = [sys.executable, "-c", MEASURE, str(folder), json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    found: dict[str, tuple[int, int]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("stage", ["generate", "annotate", "train"])
def test_peak_memory_on_a_cpu(stage: str, measured: dict[str, tuple[int, int]], wide_model: Path) -> None:
    """Within a quarter, as memory that earlier stages freed serves again: a copy of the weights more or less would be seen."""
    config = IterateConfig.model_validate(
        {"generate": {"samples": SAMPLES, "max_tokens": TOKENS, "batch_size": ROWS}, "train": {"accumulation": 2}}
    )
    shape = model_shape(load_config(str(wide_model)), parameter_count(str(wide_model)))
    work = next(work for work in works(config, Prompts(18, 20.0), None, None) if work.stage == stage)
    predicted = memory_of(work, config, shape, 4, None, 1) - PROCESS_BYTES
    before, peak = measured[stage]
    assert peak - before == pytest.approx(predicted, rel=0.25), f"{stage}: {(peak - before) / 1e6:.0f} MB"
    assert PROCESS_BYTES / 2 < before < 1.25 * PROCESS_BYTES


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
