"""Checkpoints as people have them: each is read right, or refused in one line that says what is wrong and what to do."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from huggingface_hub import errors as hub
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from icr_platform.core.config import ChatSettings
from icr_platform.core.errors import InputError
from icr_platform.models.hub import hub_commit
from icr_platform.models.loading import check_weights, generation_eos, load_model, load_tokenizer
from icr_platform.models.loading_errors import explained
from icr_platform.models.model_identity import model_identity
from icr_platform.training import stage as training
from icr_platform.training.config import TrainConfig

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 123\n"
Change = Callable[[Path], object]


def examine(model: str, chat: ChatSettings | None = None) -> None:
    """What every stage's `read` asks of a model, and the runner before it."""
    model_identity(model)
    load_tokenizer(model, chat or ChatSettings())
    check_weights(model, chat.trust_remote_code if chat else False)
    generation_eos(model)


def refusal(model: str, chat: ChatSettings | None = None) -> str:
    with pytest.raises(InputError) as caught:
        examine(model, chat)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 700, message
    assert ";" in message, f"no fix in {message}"
    return message


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def put(name: str, content: bytes | str) -> Change:
    return lambda folder: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def cut(name: str, share: float) -> Change:
    def change(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])

    return change


def merged(name: str, **values: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | values))

    return change


def without(name: str) -> Change:
    return lambda folder: (folder / name).unlink()


def of_type(kind: str, *architectures: str, **values: Any) -> Change:
    """Another type of model, with its config's defaults."""
    return put("config.json", json.dumps({"model_type": kind, "architectures": architectures, **values}))


def sharded(folder: Path) -> None:
    """Two files of weights and their index, as large models have them."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    where = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(tensors)}
    for file in set(where.values()):
        save_file({n: t for n, t in tensors.items() if where[n] == file}, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def both(*changes: Change) -> Change:
    def change(folder: Path) -> None:
        for one in changes:
            one(folder)

    return change


def only(*files: str) -> Change:
    """A folder with these files in place of the model's."""

    def change(folder: Path) -> None:
        shutil.rmtree(folder)
        for name in files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("{}")

    return change


def pickled(value: object) -> Change:
    def change(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        with (folder / "pytorch_model.bin").open("wb") as file:
            pickle.dump(value, file)

    return change


class Runs:
    """What a pickle runs when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("ran-by-a-pickle",)


def adapter(**values: Any) -> Change:
    """An adapter's folder, whose base does not come with it."""
    settings = {"peft_type": "LORA", "r": 4, "base_model_name_or_path": "/nowhere/base"} | values
    return both(only("README.md"), put("adapter_config.json", json.dumps(settings)))


def tokenizer_with(**sections: Any) -> Change:
    return merged("tokenizer.json", **sections)


def added_token(token: str, token_id: int, special: bool) -> Change:
    """One more token, as `add_tokens` writes it, without a row of the embedding where the id is beyond it."""

    def change(folder: Path) -> None:
        path = folder / "tokenizer.json"
        content = json.loads(path.read_text())
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        content["added_tokens"].append({"id": token_id, "content": token, "special": special, **flags})
        path.write_text(json.dumps(content))

    return change


CONFIG, WEIGHTS, TOKENS, SETTINGS = "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"
SHARD = "model-00002-of-00002.safetensors"

# What is done to a model's folder, and words of the line that refuses it.
REFUSED: dict[str, tuple[Change, tuple[str, ...]]] = {
    # config.json
    "config missing": (without(CONFIG), ("config.json: missing", "save_pretrained")),
    "config empty": (put(CONFIG, b""), ("config.json: an empty file", "fetch it again")),
    "config cut off": (cut(CONFIG, 0.5), ("config.json: not JSON, or cut off",)),
    "config not JSON": (put(CONFIG, "model_type: llama"), ("config.json: not JSON",)),
    "config in UTF-16": (put(CONFIG, '{"model_type": "llama"}'.encode("utf-16")), ("config.json: not JSON",)),
    "config with a BOM": (lambda folder: put(CONFIG, b"\xef\xbb\xbf" + (folder / CONFIG).read_bytes())(folder), ("BOM",)),
    "config a list": (put(CONFIG, "[1]"), ("config.json: a JSON list",)),
    "config nested": (put(CONFIG, "[" * 100_000), ("config.json: not JSON",)),
    "config of git-lfs": (put(CONFIG, LFS), ("config.json: a pointer of git-lfs", "git lfs pull")),
    "config a web page": (put(CONFIG, "<!DOCTYPE html><html>Sign in"), ("config.json: a web page",)),
    "config of no type": (put(CONFIG, "{}"), ("config.json: field 'model_type' is missing",)),
    "config of a later type": (merged(CONFIG, model_type="llama9"), ("llama9", "newer transformers")),
    "config of wrong values": (merged(CONFIG, hidden_size="wide"), ("hidden_size", "could not be loaded")),
    "config of odd heads": (merged(CONFIG, num_attention_heads=7), ("not a multiple of the number of attention heads",)),
    "config of other sizes": (merged(CONFIG, hidden_size=96), ("have other shapes",)),
    "config of more layers": (merged(CONFIG, num_hidden_layers=3), ("are missing in its checkpoint",)),
    # other kinds of models
    "T5": (of_type("t5", "T5ForConditionalGeneration"), ("encoder-decoder", "causal language model")),
    "BART": (of_type("bart", "BartForConditionalGeneration"), ("encoder-decoder",)),
    "Whisper": (of_type("whisper", "WhisperForConditionalGeneration"), ("encoder-decoder",)),
    "BERT": (of_type("bert", "BertForMaskedLM"), ("BertForMaskedLM", "an encoder", "causal language model")),
    "DistilBERT": (of_type("distilbert", "DistilBertForMaskedLM"), ("an encoder",)),
    "reward model": (
        merged(CONFIG, architectures=["LlamaForSequenceClassification"]),
        ("LlamaForSequenceClassification", "reward model"),
    ),
    "CLIP": (of_type("clip", "CLIPModel"), ("no causal language model of type 'clip'",)),
    "text of a model that sees": (
        of_type("qwen2_5_vl_text", "Qwen2_5_VLTextModel"),
        ("no causal language model of type 'qwen2_5_vl_text'",),
    ),
    "captions of images alone": (of_type("pix2struct", "Pix2StructForConditionalGeneration"), ("encoder-decoder",)),
    # weights
    "weights missing": (without(WEIGHTS), ("model.safetensors: missing",)),
    "weights half": (cut(WEIGHTS, 0.5), ("model.safetensors", "fetch it again")),
    "weights cut in the header": (cut(WEIGHTS, 0.002), ("model.safetensors", "fetch it again")),
    "weights empty": (put(WEIGHTS, b""), ("model.safetensors: an empty file",)),
    "weights zeros": (put(WEIGHTS, bytes(4096)), ("model.safetensors", "fetch it again")),
    "weights of git-lfs": (put(WEIGHTS, LFS), ("model.safetensors: a pointer of git-lfs",)),
    "weights a web page": (put(WEIGHTS, "<html>404</html>"), ("model.safetensors: a web page",)),
    "a shard missing": (both(sharded, without(SHARD)), (SHARD, "missing", "fetch the checkpoint again")),
    "a shard half": (both(sharded, cut(SHARD, 0.5)), (SHARD, "fetch it again")),
    "a shard of git-lfs": (both(sharded, put(SHARD, LFS)), (SHARD, "a pointer of git-lfs")),
    "index missing": (both(sharded, without("model.safetensors.index.json")), ("index.json: missing",)),
    "index cut off": (both(sharded, cut("model.safetensors.index.json", 0.4)), ("index.json: not JSON",)),
    "index of nothing": (both(sharded, put("model.safetensors.index.json", "{}")), ("weight_map",)),
    "a pickle that runs": (pickled(Runs()), ("pytorch_model.bin", "is not run", "safetensors")),
    "a pickle of a list": (pickled([1, 2]), ("pytorch_model.bin", "could not be loaded")),
    "a pickle cut off": (
        both(pickled({}), put("pytorch_model.bin", b"\x80\x04")),
        ("pytorch_model.bin", "could not be loaded"),
    ),
    "GGUF": (both(without(WEIGHTS), put("model-Q4_K_M.gguf", "GGUF")), ("GGUF", "llama.cpp")),
    # other folders
    "empty folder": (only(".keep"), ("config.json: missing",)),
    "GGUF alone": (only("model-Q4_K_M.gguf"), ("GGUF", "llama.cpp")),
    "trainer's output": (only("checkpoint-500/config.json", "a.txt"), ("a trainer's output", "such as checkpoint-500")),
    "cache of the hub": (only("snapshots/0123abc/config.json", "refs/main"), ("a hub cache's folder", "snapshots")),
    "Meta's own": (only("params.json", "consolidated.00.pth"), ("maker's own format",)),
    "DeepSpeed": (only("global_step500/mp_rank_00_model_states.pt", "latest"), ("DeepSpeed", "zero_to_fp32.py")),
    "DeepSpeed with config": (
        both(without(WEIGHTS), put("zero_to_fp32.py", "pass")),
        ("model.safetensors: missing", "zero_to_fp32.py"),
    ),
    "FSDP": (only("pytorch_model_fsdp_0/__0_0.distcp", ".metadata"), ("FSDP", "merge-weights")),
    # quantised weights, without the library or the accelerator that they need
    "GPTQ": (merged(CONFIG, quantization_config={"quant_method": "gptq", "bits": 4}), ("gptq", "install")),
    "AWQ": (merged(CONFIG, quantization_config={"quant_method": "awq", "bits": 4}), ("awq",)),
    "compressed tensors": (
        merged(CONFIG, quantization_config={"quant_method": "compressed-tensors", "config_groups": {}}),
        ("compressed", "install"),
    ),
    "unknown method": (merged(CONFIG, quantization_config={"quant_method": "magic"}), ("magic", "does not know")),
    # tokenizer
    "tokenizer cut off": (cut(TOKENS, 0.5), ("tokenizer", "could not be loaded", "fetch it again")),
    "tokenizer empty": (put(TOKENS, b""), ("tokenizer.json: an empty file",)),
    "tokenizer of git-lfs": (put(TOKENS, LFS), ("tokenizer.json: a pointer of git-lfs",)),
    "tokenizer of a later version": (
        tokenizer_with(pre_tokenizer={"type": "Quantum", "depth": 3}),
        ("tokenizer could not be loaded", "newer version"),
    ),
    "model of a later tokenizer": (
        tokenizer_with(model={"type": "HyperBPE", "vocab": {}}),
        ("tokenizer could not be loaded", "newer version"),
    ),
    "tokenizer missing": (both(without(TOKENS), without(SETTINGS)), ("tokenizer could not be loaded",)),
    "tokenizer's config cut off": (cut(SETTINGS, 0.5), ("tokenizer_config.json: not JSON", "fetch it again")),
    "chat template missing": (without("chat_template.jinja"), ("chat_template", "missing")),
    "chat template broken": (put("chat_template.jinja", "{% for m in messages %}{{ m.content"), ("chat_template",)),
    "a token beyond the embedding": (added_token("pineapple", 400, False), ("'pineapple' has id 400", "400 rows")),
    # the model's own code
    "code of its own": (
        merged(CONFIG, model_type="mine", auto_map={"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}),
        ("own code", "--trust-remote-code true"),
    ),
    "a tokenizer's own code": (
        both(merged(SETTINGS, tokenizer_class="Mine", auto_map={"AutoTokenizer": ["mine.Mine", None]}), without(TOKENS)),
        ("own code", "--trust-remote-code true"),
    ),
    # adapters
    "base missing": (adapter(), ("base_model_name_or_path", "no such folder")),
    "base not named": (adapter(base_model_name_or_path=None), ("base_model_name_or_path",)),
    "base of a number": (adapter(base_model_name_or_path=3), ("base_model_name_or_path",)),
    "adapter of another kind": (adapter(peft_type="PREFIX_TUNING"), ("PREFIX_TUNING",)),
    "adapter cut off": (both(adapter(), cut("adapter_config.json", 0.5)), ("adapter_config.json: not JSON",)),
    "adapter of odd ranks": (adapter(rank_pattern={"a": "b"}, base_model_name_or_path="gpt2"), ("'rank_pattern'",)),
    "a sentencepiece tokenizer": (
        both(without(TOKENS), put("tokenizer.model", b"\x0a\x0b\x0a\x05<unk>\x15\0\0\0\0"),
             merged(SETTINGS, tokenizer_class="LlamaTokenizer")),
        ("tokenizer could not be loaded", "sentencepiece"),
    ),
    "a tokenizer.json of version 9": (tokenizer_with(version="9.9"), ("9.9", "newer version")),
    "an activation nobody knows": (merged(CONFIG, hidden_act="gelux"), ("gelux", "correct its config.json")),
    "a rotary embedding nobody knows": (merged(CONFIG, rope_scaling={"type": "quantum", "factor": 2}), ("quantum",)),
    "a field of another type": (merged(CONFIG, num_hidden_layers="2"), ("num_hidden_layers", "correct its config.json")),
    "index of files elsewhere": (
        both(sharded, put("model.safetensors.index.json", '{"metadata": {}, "weight_map": {"a": "../../x.safetensors"}}')),
        ("missing", "index names it"),
    ),
    "index without metadata": (
        both(sharded, put("model.safetensors.index.json", '{"weight_map": {"a": "' + SHARD + '"}}')),
        ("'metadata' is missing",),
    ),
    "adapter without rank": (adapter(r=None, base_model_name_or_path="gpt2"), ("'r' None",)),
    "an end of sequence that is not an id": (
        merged("generation_config.json", eos_token_id="</s>"),
        ("generation_config.json: field 'eos_token_id' is '</s>'",),
    ),
    "generation config cut off": (cut("generation_config.json", 0.5), ("generation_config.json: not JSON",)),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused_in_one_line(
    case: str, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if case == "compressed tensors" and find_spec("compressed_tensors"):
        pytest.skip("compressed-tensors is installed, as with vLLM, and such checkpoints are read")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asks on the terminal"))
    change, words = REFUSED[case]
    change(model)
    message = refusal(str(model))
    assert all(word in message for word in words), message
    assert not (tmp_path / "ran-by-a-pickle").exists()


USED: dict[str, Change] = {
    "as it is": lambda folder: None,
    "sharded": sharded,
    "a pickle of tensors": lambda folder: (
        torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin"),
        (folder / WEIGHTS).unlink(),
    ),
    "a trainer's checkpoint": both(
        put("optimizer.pt", b"\x80\x04"), put("scheduler.pt", b"\x80"), put("rng_state.pth", b"\x80"),
        put("trainer_state.json", '{"global_step": 500}'), put("training_args.bin", b"\x80\x04K\x01."),
    ),
    "a token beyond the embedding that nothing produces": added_token("<image_soft_token>", 400, True),
    "a link to each file": lambda folder: [
        (path.rename(folder.parent / path.name), path.symlink_to(folder.parent / path.name))
        for path in list(folder.iterdir())
    ],
    "code of its own beside a known type": merged(CONFIG, auto_map={"AutoConfig": "mine.Config"}),
    "an unknown tokenizer class": merged(SETTINGS, tokenizer_class="SomebodysTokenizerFast"),
}  # fmt: skip


@pytest.mark.parametrize("case", USED)
def test_what_can_be_used_is(case: str, model: Path, tiny_model: Path) -> None:
    USED[case](model)
    examine(str(model))
    ids = torch.arange(3, 40)[None]
    expected = load_model(str(tiny_model), "float32", "cpu")(ids).logits
    assert torch.equal(load_model(str(model), "float32", "cpu")(ids).logits, expected)


def test_training_needs_weights_that_are_numbers(
    model: Path, make_preferences: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Quantised by a method whose library is here."""
    preferences = make_preferences(tmp_path / "preferences", model)
    config = TrainConfig(policy=str(model), preferences=str(preferences), device="cpu")
    training.read(config)
    merged(CONFIG, quantization_config={"quant_method": "fp8"})(model)
    monkeypatch.setattr("icr_platform.training.policy_checks.check_quantisation", lambda *_: False)
    monkeypatch.setattr("icr_platform.models.loading.check_quantisation", lambda *_: False)
    with pytest.raises(InputError, match="its weights are quantised, and training changes numbers"):
        training.read(config)


def test_the_commit_of_a_hub_model_is_read_from_the_cache(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder, commit = tmp_path / "models--org--name", "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(tiny_model, folder / "snapshots" / commit)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    assert hub_commit("org/name") == commit
    examine("org/name")
    assert "a hub cache's folder" in refusal(str(folder))
    examine(str(folder / "snapshots" / commit))


def test_paths_that_are_no_folder_of_a_model(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    examine(f"{model}/")
    examine("./model")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    for path, said in {
        "~/model": "the whole path",
        str(model / CONFIG): "a file; give the folder",
        str(tmp_path / "loop"): "in a circle",
        str(tmp_path / "gone"): "leads nowhere",
        str(tmp_path / "other"): "no such folder",
        "a/b/c": "no such folder",
    }.items():
        assert said in refusal(path), path


def test_a_file_that_may_not_be_read(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for any user but root, who may read everything."""
    opened = Path.open

    def refuse(self: Path, *arguments: Any, **options: Any) -> Any:
        if self.name == WEIGHTS:
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    assert f"{model / WEIGHTS}: not readable (Permission denied)" in refusal(str(model))


def answered(status: int) -> dict[str, Any]:
    return {"response": httpx.Response(status, request=httpx.Request("GET", "https://huggingface.co/org/name"))}


HUB: dict[str, tuple[Exception, str]] = {
    "gated": (hub.GatedRepoError("401 Client Error.\n\nCannot access gated repo", **answered(401)), "accept its terms"),
    "forbidden": (hub.HfHubHTTPError("403 Forbidden", **answered(403)), "access to it is restricted"),
    "not found": (hub.RepositoryNotFoundError("401 Client Error.\n\nNot found", **answered(401)), "check the name"),
    "no such revision": (hub.RevisionNotFoundError("404 Client Error.", **answered(404)), "check the name"),
    "rate limited": (hub.HfHubHTTPError("429 Too Many Requests", **answered(429)), "wait"),
    "down": (hub.HfHubHTTPError("503 Service Unavailable", **answered(503)), "HTTP 503: try again later"),
    "offline": (hub.OfflineModeIsEnabled("Cannot reach https://huggingface.co: offline mode is enabled"), "hf download"),
    "no network": (httpx.ConnectError("[Errno -2] Name or service not known: Connection failed"), "hf download"),
    "disk full": (OSError(28, "No space left on device"), "make room"),
    "no module": (ModuleNotFoundError("No module named 'sentencepiece'"), "install the library"),
}  # fmt: skip


@pytest.mark.parametrize("case", HUB)
def test_what_the_hub_answers_is_told_apart(case: str) -> None:
    error, fix = HUB[case]
    wrapped = OSError("We couldn't connect to 'https://huggingface.co' to load the files.\nCheck your connection.")
    wrapped.__cause__ = error
    for raised in (error, wrapped):
        with pytest.raises(InputError) as caught, explained("org/name", "config"):
            raise raised
        assert fix in str(caught.value), caught.value
        assert "\n" not in str(caught.value)


def test_an_unknown_hub_name_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("org/name", "a name with spaces", "org/na*me", "x" * 200):
        assert name[:20] in refusal(name)


def test_lack_of_memory_and_our_own_errors_pass() -> None:
    for error in (torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), InputError("ours; fix it")):
        with pytest.raises(type(error)) as caught, explained("org/name"):
            raise error
        assert caught.value is error


MINE = """
import pathlib
from transformers import LlamaConfig, LlamaForCausalLM
(pathlib.Path(__file__).parent / "ran").touch()
class Config(LlamaConfig):
    model_type = "mine"
class Model(LlamaForCausalLM):
    config_class = Config
"""


def test_a_models_own_code_runs_where_it_is_trusted(
    model: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    (model / "mine.py").write_text(MINE)
    REFUSED["code of its own"][0](model)
    merged(CONFIG, architectures=["Model"])(model)
    assert "--trust-remote-code true" in refusal(str(model))
    assert not list(tmp_path.rglob("ran"))
    trusted = ChatSettings(trust_remote_code=True)
    examine(str(model), trusted)
    ids = torch.arange(3, 40)[None]
    ours = load_model(str(model), "float32", "cpu", trust_remote_code=True)
    assert type(ours).__name__ == "Model"
    assert torch.equal(ours(ids).logits, load_model(str(tiny_model), "float32", "cpu")(ids).logits)


def test_the_tokenizer_of_the_fixture_is_as_large_as_its_embedding(tiny_model: Path) -> None:
    """So that id 400 is the first beyond it, in the table above."""
    assert len(AutoTokenizer.from_pretrained(tiny_model)) == 400
