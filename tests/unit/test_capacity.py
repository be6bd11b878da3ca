"""Predictions against counts made the long way round."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MixtralConfig

from icr_platform.annotation.config import AnnotateConfig
from icr_platform.core.stage_protocol import StageContext
from icr_platform.engines.sampling.settings import SamplingSettings
from icr_platform.models.loading import load_config, load_tokenizer, parameter_count
from icr_platform.pipeline.config import IterateConfig
from icr_platform.pipeline.session import RunOptions
from icr_platform.planning.capacity import (
    DEVICES,
    PROCESS_BYTES,
    ModelShape,
    Prompts,
    Rates,
    StagePlan,
    TrainingFiles,
    Work,
    bench_work,
    disk_of,
    disk_of_iterations,
    idle_parameters,
    instructions_work,
    memory_of,
    model_shape,
    rates_on_paper,
    seconds_of,
    training_files,
    works,
)
from icr_platform.planning.check import Prediction, check
from icr_platform.training import stage, trainer
from icr_platform.training.config import TrainConfig
from icr_platform.training.weights import adapter_parameters
from tests.benchmarks import gpu_rehearsal
from tests.benchmarks.gpu_rehearsal import lines_in


@pytest.mark.parametrize("tied", [True, False])
def test_matmul_parameters_are_what_a_token_is_multiplied_by(
    make_tiny_model: Callable[..., Path], tmp_path: Path, tied: bool
) -> None:
    model = make_tiny_model(tmp_path / "model")
    config = load_config(str(model))
    config.tie_word_embeddings = tied
    config.save_pretrained(model)
    loaded = AutoModelForCausalLM.from_config(config).eval()  # untied, it has a head that the tied one's files lack
    multiplied = sum(m.weight.numel() for m in loaded.modules() if isinstance(m, torch.nn.Linear))
    norms = sum(p.numel() for p in loaded.parameters() if p.dim() == 1)
    shape = model_shape(config, parameter_count(str(model)))
    assert shape.matmul == multiplied + norms
    cache = loaded(torch.tensor([[1, 2, 3]]), use_cache=True).past_key_values
    kept = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)
    assert kept == 3 * shape.layers * shape.key_value


def test_experts_that_a_token_does_not_go_to_cost_memory_and_no_time() -> None:
    """2 of 8 experts work; attention, router and shared expert always do."""
    small: dict[str, Any] = {
        "vocab_size": 400,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    mixture = AutoModelForCausalLM.from_config(
        MixtralConfig(**small, num_key_value_heads=4, num_local_experts=8, num_experts_per_tok=2)
    )
    idle = 2 * 6 * (3 * 32 * 64)  # layers, idle experts, their three matrices
    assert idle_parameters(mixture) == idle
    total = mixture.num_parameters()
    shape = model_shape(mixture.config, total, idle)
    assert (shape.parameters, shape.matmul) == (total, total - 400 * 32 - idle)
    assert idle_parameters(AutoModelForCausalLM.from_config(LlamaConfig(**small))) == 0


def test_tokens_are_counted_stage_by_stage() -> None:
    config = IterateConfig.model_validate(
        {"generate": {"samples": 4, "max_tokens": 50}, "eval": {"max_tokens": 7, "judge": "openai"}}
    )
    generate, annotate, train, evaluate = works(config, Prompts(10, 5.0), Prompts(3, 6.0), None)
    assert generate.tokens == 10 * 4 * 50
    assert annotate.tokens == 2 * (10 * 4 * 50 + 10 * 5)  # two models; a prompt's samples share its computation
    assert (train.scored, train.trained) == (2 * 10 * 55, 2 * 10 * 55)
    assert (evaluate.decoded, evaluate.requests) == (3 * 7, 3 * 2)
    assert works(config, Prompts(10, 5.0), None, 20)[0].tokens == 10 * 4 * 20
    assert works(config, Prompts(10, 5.0), None, 80)[0].tokens == generate.tokens  # no response is longer than allowed


@pytest.mark.parametrize(
    ("annotate", "loads"),
    [({"reward_kind": ["random"]}, False), ({"pair_source": "translation"}, False), ({"reward_kind": ["random", "cross-lingual"]}, True)],
)  # fmt: skip
def test_annotate_takes_the_memory_of_a_model_where_it_loads_one(annotate: dict[str, Any], loads: bool) -> None:
    config = IterateConfig.model_validate({"annotate": annotate})
    work = next(work for work in works(config, Prompts(10, 5.0), None, None) if work.stage == "annotate")
    shape = ModelShape(10**8, 10**8, 2, 64, 256, 64, 1000)
    assert (memory_of(work, config, shape, 4, None, 1) > PROCESS_BYTES) == loads


def test_time_falls_with_devices_and_faster_ones() -> None:
    work = works(IterateConfig(), Prompts(100, 50.0), None, 300)[0]
    rates = Rates(decode=1000.0, score=1.0, train=1.0)
    assert seconds_of(work, rates, 1, 1) == pytest.approx(work.decoded / 1000)
    assert seconds_of(work, rates, 4, 1) == pytest.approx(work.decoded / 4000)


def test_rates_on_paper_stay_below_the_data_sheet(make_tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "model")
    shape = model_shape(load_config(str(model)), parameter_count(str(model)))
    for device in DEVICES.values():
        rates = rates_on_paper(shape, device, 300, checkpointing=True)
        assert rates.decode < device.bandwidth / (2 * shape.parameters) * 256
        assert rates.train < rates.score < device.flops / (2 * shape.matmul)


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def larger_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 million parameters stored in bfloat16: the tokenizer and the trainer's own notes weigh little next to them."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("larger")
    tokenizer = load_tokenizer(str(tiny_model))
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=256, intermediate_size=768, num_hidden_layers=4, num_attention_heads=4,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        {"save_steps": 2},  # of 6 steps: resume points at 2 and 4
        {"save_steps": 5},  # one
        {"save_steps": 6},  # none: the last step has the model itself
        {"save_steps": 5, "save_dtype": "stored"},
        {"save_steps": 2, "lora_rank": 32, "learning_rate": 1e-3},
    ],
    ids=lambda changes: " ".join(map(str, changes.values())),
)
def test_a_trainings_peak_on_the_disk_is_what_was_predicted(
    larger_model: Path,
    make_preferences: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
) -> None:
    preferences = make_preferences(tmp_path / "preferences", larger_model, 11)
    config = TrainConfig.model_validate(
        {"policy": str(larger_model), "preferences": str(preferences), "device": "cpu", "batch_size": 2, "accumulation": 2,
         "epochs": 2.0, "learning_rate": 1e-4} | changes
    )  # fmt: skip
    seen: list[int] = []

    def watched(name: str, module: Any) -> None:
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given: (seen.append(bytes_in(tmp_path / "out")), real(*given))[1])

    watched("mark_whole", trainer)  # when a resume point is written, before the one before it goes
    watched("close_checkpoint", stage)
    result = stage.run(stage.read(config), StageContext(tmp_path / "out", "f"))
    assert len(result.tables["loss_curve"]) == 6
    adapters = adapter_parameters(config.policy, config.lora_rank)
    files = training_files(config, 11, parameter_count(config.policy), adapters, 2, {})
    assert len(seen) == files.resume_points + 1
    assert max(seen) == pytest.approx(files.peak, rel=0.05)
    assert bytes_in(result.artifacts["checkpoint"]) == pytest.approx(files.checkpoint, rel=0.05)


def test_an_8b_run_needs_24_bytes_a_parameter_while_it_trains() -> None:
    parameters = 8 * 10**9
    train = IterateConfig().train
    files = training_files(train, 15_000, parameters, 0, 2, {})
    assert (files.peak, files.checkpoint) == (24 * parameters, 4 * parameters)
    stored = train.model_copy(update={"save_dtype": "stored", "save_steps": 1000})
    assert training_files(stored, 15_000, parameters, 0, 2, {}).peak == 2 * parameters
    launched = training_files(stored, 15_000, parameters, 0, 2, {"num_processes": 8, "distributed_type": "FSDP"})
    assert launched.peak == 6 * parameters, "the processes hand the weights over in a file"
    lora = train.model_copy(update={"lora_rank": 16})
    assert training_files(lora, 15_000, parameters, 10**7, 2, {}).peak == 4 * parameters + 12 * 10**7


@pytest.mark.parametrize(
    ("keep", "reference", "at_the_peak", "at_the_end"),
    [("all", "initial", 96 + 2 * 2 * 32, 3 * 2 * 32), ("last", "initial", 96 + 2 * 32, 2 * 32),
     ("last", "previous", 96 + 2 * 2 * 32, 2 * 32), ("best", "initial", 96 + 2 * 2 * 32, 2 * 32)],
)  # fmt: skip
def test_the_disk_of_three_iterations(keep: str, reference: str, at_the_peak: int, at_the_end: int) -> None:
    """Checkpoints of 32 bytes in two copies, 96 at the peak of a training; other stages leave one byte a copy."""
    config = IterateConfig.model_validate({"iterations": 3, "keep_checkpoints": keep, "reward_reference": reference})
    sizes = {"generate": (1, 1), "annotate": (1, 1), "train": (32, 96), "eval": (1, 1)}
    plans = [StagePlan(Work(name, 1, 1.0), 1, None, 0, *kept) for name, kept in sizes.items()]  # type: ignore[arg-type]
    tables = 3 * 2 * 2 + 3 * 2  # when the third policy is trained
    assert disk_of_iterations(config, plans, 2) == (tables + at_the_peak, tables + 2 + at_the_end)


def test_the_disk_of_an_arm_that_trains_on_given_pairs() -> None:
    """Nothing is generated and nothing annotated: what is left is the checkpoint, in two copies."""
    config = IterateConfig.model_validate({"iterations": 1, "preferences": "pairs.jsonl"})
    assert disk_of_iterations(config, [StagePlan(Work("train", 1, 1.0), 1, None, 0, 32, 96)], 2) == (96, 2 * 32)


def test_check_sets_the_peak_against_the_free_disk(
    larger_model: Path,
    prompt_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Enough for what stays, but not for the resume points that come on top."""
    monkeypatch.chdir(tmp_path)
    values = {"policy": str(larger_model), "reference": str(larger_model), "prompts": str(prompt_folder), "iterations": 1,
              "output": str(tmp_path / "out"), "generate": {"max_tokens": 24},
              "train": {"accumulation": 1, "save_steps": 2}}  # fmt: skip
    parameters = parameter_count(str(larger_model))
    options = RunOptions(tracking=False)
    for free, changes in ((13, {}), (13, {"save_steps": 100}), (25, {}), (4, {"save_steps": 100})):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: SimpleNamespace(free=free * parameters))
        config = IterateConfig.model_validate(values | {"train": values["train"] | changes})  # type: ignore[operator]
        assert check(config, options, Prediction(response_tokens=10)) == 0
        is_too_little = "TOO LITTLE, use --train-save-steps" in capsys.readouterr().out
        assert is_too_little == (free < (24 if not changes else 4.1))


@pytest.mark.parametrize(
    ("kinds", "scored", "rewarded", "rows"),
    [
        (["cross-lingual"], 2 * 10 * (20 + 2 * 30), 0, 20),
        (["cross-lingual", "multilingual"], 4 * 10 * (20 + 2 * 30), 0, 30),
        (["random"], 0, 0, 20),
        (["scalar"], 0, 2 * 10 * (20 + 30), 20),  # a reward model reads each response after its prompt, once
        (["scalar", "cross-lingual"], 2 * 10 * (20 + 2 * 30), 2 * 10 * (20 + 30), 30),
    ],
)
def test_what_measuring_rewards_takes(kinds: list[str], scored: int, rewarded: int, rows: int) -> None:
    work = bench_work(kinds, Prompts(10, 20.0), 30.0)
    assert (work.scored, work.rewarded, work.rows) == (scored, rewarded, rows)
    rates = Rates(decode=1.0, score=100.0, train=1.0, reward=50.0)
    assert seconds_of(work, rates, 1, 1) == pytest.approx(scored / 100 + rewarded / 50)
    assert disk_of(work, TrainingFiles(0, 0, 0, 0))[0] == rows * 40


@pytest.mark.parametrize(("response", "decoded"), [(None, 10 * 2 * 100), (40.0, 10 * 2 * 40), (500.0, 10 * 2 * 100)])
def test_what_following_instructions_takes(response: float | None, decoded: int) -> None:
    settings = IterateConfig.model_validate({"instructions": {"samples": 2, "max_tokens": 100}}).instructions
    work = instructions_work(settings, Prompts(10, 20.0), response)
    assert (work.rows, work.decoded) == (20, decoded)
    assert disk_of(work, TrainingFiles(0, 0, 0, 0))[0] == decoded * 9


@pytest.mark.parametrize(
    ("part", "lora_rank"), [("score-1B", 0), ("score-8B", 0), ("train-1B", 0), ("train-1B-lora", 16)]
)
def test_memory_is_predicted_as_it_was_measured_on_a_gpu(part: str, lora_rank: int) -> None:
    line = next(line for line in lines_in(Path(gpu_rehearsal.__file__).with_suffix(".jsonl")) if line["part"] == part)
    size = gpu_rehearsal.size_of(False, line["shape"])
    config = LlamaConfig(**gpu_rehearsal.SHAPES[line["shape"]])
    with torch.device("meta"):
        parameters = sum(each.numel() for each in AutoModelForCausalLM.from_config(config).parameters())
    train = TrainConfig(
        policy="p", preferences="p", batch_size=4, accumulation=2, lora_rank=lora_rank, gradient_checkpointing=True, dtype="bfloat16"
    )  # fmt: skip
    settings = SimpleNamespace(
        train=train, generate=SamplingSettings(max_tokens=size.response_tokens), annotate=AnnotateConfig()
    )
    stage: Literal["annotate", "train"] = "annotate" if part.startswith("score") else "train"
    work = Work(stage, 64, size.prompt_tokens, scored=1)
    predicted = memory_of(work, settings, model_shape(config, parameters), 2, DEVICES["H100"], 1) / 1e9
    assert line["peak_gb"] / 1.1 < predicted < 1.1 * line["peak_gb"]
