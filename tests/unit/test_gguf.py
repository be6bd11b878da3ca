"""GGUF files as models: what is loaded is what transformers reads from the file, once, and files that are none are one line."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from icr_platform.annotation.config import AnnotateConfig
from icr_platform.core.errors import InputError
from icr_platform.engines.scoring.logprobs import CompletionScorer, Group
from icr_platform.models.loading import load_model, load_tokenizer
from icr_platform.models.model_identity import model_identity
from icr_platform.pipeline.inputs import Resolver

gguf = pytest.importorskip("gguf", reason="needs the package gguf: pip install gguf")

WORDS = ["<unk>", "<s>", "</s>", *(chr(code) for code in range(97, 123)), *(f"t{number}" for number in range(35))]
HIDDEN, INNER, HEADS, LAYERS = 64, 128, 4, 2
TEMPLATE = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }}{% endfor %}{% if add_generation_prompt %} assistant {% endif %}"


def write_gguf(file: Path, seed: int, template: str | None = TEMPLATE) -> Path:
    """A Llama of two layers in blocks of 8 bits."""
    writer, random = gguf.GGUFWriter(str(file), "llama"), np.random.default_rng(seed)
    writer.add_name("tiny")
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(len(WORDS))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(WORDS)
    writer.add_token_scores([-float(number) for number in range(len(WORDS))])
    writer.add_token_types([2, 3, 3, *[1] * (len(WORDS) - 3)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    if template:
        writer.add_chat_template(template)

    def add(name: str, *shape: int) -> None:
        numbers = random.normal(0, 0.3, shape).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(name, np.abs(numbers) + 1)
        else:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(numbers, kind), raw_dtype=kind)

    add("token_embd.weight", len(WORDS), HIDDEN)
    add("output_norm.weight", HIDDEN)
    add("output.weight", len(WORDS), HIDDEN)
    for layer in range(LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{layer}.{name}.weight", HIDDEN, HIDDEN)
        for name in ("ffn_gate", "ffn_up"):
            add(f"blk.{layer}.{name}.weight", INNER, HIDDEN)
        add(f"blk.{layer}.ffn_down.weight", HIDDEN, INNER)
        add(f"blk.{layer}.attn_norm.weight", HIDDEN)
        add(f"blk.{layer}.ffn_norm.weight", HIDDEN)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def resolved(model: Path, work: Path) -> str:
    return Resolver(work, work, None).resolve(AnnotateConfig(policy=str(model)), 0).policy


def test_a_file_is_a_model_that_is_made_once_and_known_by_its_content(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a").mkdir()
    file = write_gguf(tmp_path / "a" / "tiny-Q8_0.gguf", seed=1)
    folder = resolved(file, tmp_path / "work")
    assert "made plain float32 numbers, once" in capsys.readouterr().err
    own = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    model = load_model(folder, "float32", "cpu")
    ids = torch.tensor([[1, 5, 9, 30, 12, 7]])
    torch.testing.assert_close(model(ids).logits, own(ids).logits)
    assert load_tokenizer(folder).chat_template == TEMPLATE
    scorer = CompletionScorer(model)
    assert scorer.packed
    assert np.isfinite(scorer.score([Group([1, 5, 9], [[30, 12], [7]])])[0]).all()

    (tmp_path / "b").mkdir()
    shutil.copy(file, tmp_path / "b" / "renamed.gguf")
    capsys.readouterr()
    assert resolved(tmp_path / "b", tmp_path / "work") == folder  # the only one of its folder
    assert "made plain" not in capsys.readouterr().err
    elsewhere = resolved(file, tmp_path / "other")
    assert model_identity(elsewhere) == model_identity(folder)


def test_a_template_beside_the_file_is_the_models(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", seed=2, template=None)
    with pytest.raises(InputError, match="chat_template"):
        load_tokenizer(resolved(file, tmp_path / "work"))
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    assert load_tokenizer(resolved(file, tmp_path / "work")).chat_template == TEMPLATE


@pytest.mark.parametrize("case", ["several", "a piece", "not gguf", "cut off", "another architecture"])
def test_what_is_no_model_is_one_line(case: str, tmp_path: Path) -> None:
    place, said = tmp_path / "tiny.gguf", "is not a GGUF file"
    if case == "several":
        place, said = tmp_path, "several GGUF files"
        for name in ("a.gguf", "b.gguf"):
            (tmp_path / name).write_bytes(b"GGUF")
    elif case == "a piece":
        place, said = tmp_path / "big-00001-of-00003.gguf", "one of several pieces"
        place.write_bytes(b"GGUF")
    elif case == "not gguf":
        place.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    else:
        said = "GGUF file could not be loaded"
        whole = write_gguf(place, seed=3).read_bytes()
        place.write_bytes(whole[: len(whole) // 2] if case == "cut off" else whole.replace(b"llama", b"lloma"))
    with pytest.raises(InputError, match=said) as caught:
        resolved(place, tmp_path / "work")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "work").rglob("config.json"))
