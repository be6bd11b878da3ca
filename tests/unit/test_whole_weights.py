"""A checkpoint that lacks a tensor is bad input wherever a model is named; nothing is filled with random numbers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen3MoeConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from icr_platform.annotation import stage as annotation
from icr_platform.annotation.config import AnnotateConfig
from icr_platform.cli import commands
from icr_platform.core.errors import InputError
from icr_platform.evaluation import mt_bench_stage
from icr_platform.evaluation import stage as evaluation
from icr_platform.evaluation.config import EvalConfig, MtBenchConfig
from icr_platform.generation import stage as generation
from icr_platform.generation.config import GenerateConfig
from icr_platform.models.loading import check_weights, load_model
from icr_platform.pipeline import model_checks
from icr_platform.pipeline.config import IterateConfig
from icr_platform.training import stage as training
from icr_platform.training.config import TrainConfig

FILE = "model.safetensors"
LOST = "model.layers.1.self_attn.k_proj.weight"


def load_on_cpu(model: str) -> Any:
    return load_model(model, "float32", "cpu")


BOTH = pytest.mark.parametrize("read", [check_weights, load_on_cpu], ids=["headers", "load"])


def change(folder: Path, *dropped: str, put: Mapping[str, torch.Tensor] | None = None, file: str = FILE) -> str:
    """Take tensors out of a model's file, or put some into it."""
    tensors = {name: tensor for name, tensor in load_file(folder / file).items() if name not in dropped}
    save_file({**tensors, **(put or {})}, folder / file, metadata={"format": "pt"})
    return str(folder)


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, whose head is tied and so not in its file."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


@pytest.fixture
def untied(tmp_path: Path) -> Path:
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        tie_word_embeddings=False,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "untied")
    return tmp_path / "untied"


def refused(call: Callable[[], object], *words: str) -> str:
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message
    return message


@BOTH
def test_a_missing_tensor_is_named_and_counted(model: Path, untied: Path, read: Callable[[str], Any]) -> None:
    read(str(model))
    change(model, LOST)
    refused(
        lambda: read(str(model)),
        f"{model}: tensors of the model are missing",
        f"1 of 21: {LOST};",
        "fetch the checkpoint",
    )
    change(untied, "lm_head.weight")  # as an encoder's, or a reward model's, checkpoint
    refused(lambda: read(str(untied)), "1 of 21: lm_head.weight;")

    change(untied, *(name for name in load_file(untied / FILE) if ".layers.1." in name))
    message = refused(lambda: read(str(untied)), "10 of 21: lm_head.weight, model.layers.1.input_layernorm.weight, ")
    assert "and 7 more" in message


@BOTH
def test_all_ends_of_a_tie_missing_is_missing(model: Path, read: Callable[[str], Any]) -> None:
    change(model, "model.embed_tokens.weight")
    refused(lambda: read(str(model)), "model.embed_tokens.weight")


@BOTH
def test_another_shape_is_refused_with_both(model: Path, read: Callable[[str], Any]) -> None:
    change(model, put={LOST: torch.zeros(16, 64)})
    refused(lambda: read(str(model)), f"{LOST} (checkpoint [16, 64], config.json [32, 64])")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"intermediate_size": 96}))
    refused(lambda: read(str(model)), "mlp.down_proj.weight (checkpoint [64, 128], config.json [64, 96])", "and 4 more")


@BOTH
def test_an_expert_that_is_missing_among_fused_ones(tmp_path: Path, read: Callable[[str], Any]) -> None:
    config = Qwen3MoeConfig(
        vocab_size=64, hidden_size=32, intermediate_size=32, moe_intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, num_experts=4, num_experts_per_tok=2,
    )  # fmt: skip
    folder = tmp_path / "moe"
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    read(str(folder))
    whole = load_file(folder / FILE)
    gone = [name for name in whole if ".layers.1." in name and ".experts.2." in name]
    assert len(gone) == 3, "the file holds expert by expert, the model all in one"
    for lost in (gone, gone[:1]):
        save_file({name: whole[name] for name in whole if name not in lost}, folder / FILE, metadata={"format": "pt"})
        refused(lambda: read(str(folder)), f"{folder}: tensors of the model", "model.layers.1.mlp.experts.")


@BOTH
def test_files_that_are_missing_or_cut_off(model: Path, tmp_path: Path, read: Callable[[str], Any]) -> None:
    sharded = tmp_path / "sharded"
    load_on_cpu(str(model)).save_pretrained(sharded, max_shard_size="100KB")
    shards = sorted(sharded.glob("*.safetensors"))
    assert len(shards) > 2
    read(str(sharded))
    shards[1].rename(tmp_path / "kept")
    refused(lambda: read(str(sharded)), shards[1].name)
    shards[1].write_bytes((tmp_path / "kept").read_bytes()[:-100])
    refused(lambda: read(str(sharded)), "sharded")
    shards[1].write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    refused(lambda: read(str(sharded)), "sharded")
    shutil.copy(tmp_path / "kept", shards[1])
    change(sharded, next(iter(load_file(shards[1]))), file=shards[1].name)
    refused(lambda: read(str(sharded)), "are missing in its checkpoint, 1 of 21")
    (sharded / "model.safetensors.index.json").unlink()
    refused(lambda: read(str(sharded)), str(sharded))
    (model / FILE).unlink()
    refused(lambda: read(str(model)), str(model))


@BOTH
def test_a_pickle_is_checked_as_safetensors_are(model: Path, read: Callable[[str], Any]) -> None:
    tensors = load_file(model / FILE)
    (model / FILE).unlink()
    torch.save(tensors, model / "pytorch_model.bin")
    read(str(model))
    assert check_weights(str(model)) == ()
    tensors.pop(LOST)
    torch.save(tensors, model / "pytorch_model.bin")
    refused(lambda: read(str(model)), f"1 of 21: {LOST}")
    (model / "pytorch_model.bin").write_bytes(b"nothing that torch could read")
    refused(lambda: read(str(model)), str(model), "could not be loaded")


def test_what_the_model_has_no_place_for_is_said_and_left_out(
    model: Path, tiny_model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ids = torch.arange(3, 40)[None]
    expected = load_on_cpu(str(tiny_model))(ids).logits
    extra = {f"vision_tower.layers.{i}.weight": torch.zeros(3) for i in range(5)}
    change(model, put=extra)
    capfd.readouterr()
    assert torch.equal(load_on_cpu(str(model))(ids).logits, expected)
    (note,) = check_weights(str(model))
    assert "has no place for 5 tensors of its checkpoint, left out: vision_tower.layers.0.weight, " in note
    printed = capfd.readouterr().err
    assert note in printed
    assert "LOAD REPORT" not in printed, "one line, not the table"


@pytest.fixture
def adapter(model: Path, tmp_path: Path) -> Path:
    settings = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(model), settings).save_pretrained(str(tmp_path / "adapter"))
    return tmp_path / "adapter"


@BOTH
def test_adapters_lack_nothing_and_lose_nothing(adapter: Path, model: Path, read: Callable[[str], Any]) -> None:
    read(str(adapter))
    file, key = "adapter_model.safetensors", "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"
    whole = load_file(adapter / file)
    change(adapter, key, file=file)
    refused(lambda: read(str(adapter)), f"{adapter}: the adapter lacks 1 tensor: ", "layers.1.mlp.up_proj.lora_B")
    change(adapter, put={key: torch.zeros(128, 2)}, file=file)
    refused(lambda: read(str(adapter)), f"{adapter}: the adapter does not fit {model} (")
    # An adapter of a deeper model: its upper layers would be dropped.
    change(adapter, put=whole | {key.replace("layers.1", "layers.7"): whole[key].clone()}, file=file)
    refused(lambda: read(str(adapter)), "has no place for 1 tensor of the adapter: ", "layers.7.mlp.up_proj")
    (adapter / file).unlink()
    refused(lambda: read(str(adapter)), str(adapter))
    save_file(whole, adapter / file, metadata={"format": "pt"})
    change(model, LOST)
    refused(lambda: read(str(adapter)), f"{model}: tensors of the model are missing", LOST)


def test_every_stage_says_so_before_it_loads_or_writes_anything(
    model: Path, tiny_model: Path, prompt_folder: Path, make_preferences: Callable[..., Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    good, bad, prompts = str(tiny_model), change(model, LOST), str(prompt_folder)
    references, questions = tmp_path / "outputs", tmp_path / "questions"
    for folder in (references, questions):
        folder.mkdir()
    shutil.copy(prompt_folder / "en.jsonl", references)
    (questions / "en.jsonl").write_text('{"question_id": 1, "category": "math", "turns": ["1+1?", "And 2+2?"]}\n')
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    preferences = str(make_preferences(tmp_path / "preferences", tiny_model, count=6))
    scored: dict[str, Any] = {"prompts": prompts, "responses": "r"}
    judged: dict[str, Any] = {"prompts": prompts, "languages": "en", "reference_outputs": str(references)}
    session: Any = SimpleNamespace(resolver=SimpleNamespace(local=lambda path, seed: path))
    translating: Any = {"reward_kind": "translate", "translator": bad}
    for call in (
        lambda: generation.read(GenerateConfig(policy=bad, prompts=prompts)),
        lambda: annotation.read(AnnotateConfig(policy=good, reference=bad, **scored)),
        lambda: annotation.read(AnnotateConfig(policy=bad, reference=good, **scored)),
        lambda: annotation.read(AnnotateConfig(policy=good, reference=good, **scored, **translating)),
        lambda: training.read(TrainConfig(policy=bad, preferences=preferences)),
        lambda: training.read(
            TrainConfig(policy=good, reference=bad, dpo_reference="initial", preferences=preferences)
        ),
        lambda: evaluation.read(EvalConfig(policy=bad, prompts=prompts)),
        lambda: evaluation.read(EvalConfig(policy=good, judge="logprob", judge_model=bad, **judged)),
        lambda: mt_bench_stage.read(MtBenchConfig(policy=bad, questions=str(questions), judge_api_model="m")),
        lambda: model_checks.check_models(session, IterateConfig(policy=good, reference=bad, prompts=prompts)),
        lambda: model_checks.check_models(
            session, IterateConfig.model_validate({"policy": good, "reference": good, "annotate": translating})
        ),
    ):
        refused(call, LOST)


def test_the_commands_end_with_status_2_and_one_line(
    model: Path,
    prompt_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    change(model, LOST)
    arguments = [f"--policy={model}", f"--prompts={prompt_folder}", "--no-tracking", f"--output={tmp_path / 'out'}"]
    assert commands.run(["generate", *arguments]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("icr: ")]
    assert LOST in line
    assert not (tmp_path / "out" / "prompts").exists()


SMALL = {
    "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "vocab_size": 96, "head_dim": 8, "max_position_embeddings": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "d_model": 32,
    "num_layers": 2, "n_layers": 2, "n_heads": 4, "moe_intermediate_size": 16, "num_experts": 4, "n_routed_experts": 4,
    "num_local_experts": 4, "num_experts_per_tok": 2, "decoder_layers": 2, "encoder_layers": 2, "ffn_dim": 32,
    "decoder_attention_heads": 4, "encoder_attention_heads": 4, "decoder_ffn_dim": 32, "encoder_ffn_dim": 32,
    "word_embed_proj_dim": 32, "shared_expert_intermediate_size": 16, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip


def small_model(family: str) -> Any:
    """A random model of the family with a few thousand weights, or None where its config cannot be cut this simply."""
    try:
        default: Any = CONFIG_MAPPING[family]()
        config = type(default)(**{name: value for name, value in SMALL.items() if hasattr(default, name)})
        with torch.device("meta"):
            size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
        return AutoModelForCausalLM.from_config(config) if size < 3e7 else None
    except Exception:  # noqa: BLE001 - each config refuses in its own way
        return None


@pytest.mark.slow
def test_no_family_is_refused_that_is_whole_and_each_is_that_is_not(tmp_path: Path) -> None:
    checked = []
    for family in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        model = small_model(family)
        if model is None:
            continue
        folder = tmp_path / family
        model.save_pretrained(folder)
        assert check_weights(str(folder)) == (), family
        load_on_cpu(str(folder))
        names = [name for name in load_file(folder / FILE) if ".1." in name and name.endswith("weight")]
        if names:
            change(folder, names[len(names) // 2])
            for read in (check_weights, load_on_cpu):
                refused(partial(read, str(folder)), "tensors of the model")
            checked.append(family)
        shutil.rmtree(folder)
    assert len(checked) > 120
