"""Reward models of many kinds, tiny and random: what people publish, as the files of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.tiny_models import chatml_tokenizer

_SIZES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 512,
}  # fmt: skip


def build_reward_model(
    kind: str = "Llama", labels: int = 1, seed: int = 0, vocabulary: int = 400, **values: Any
) -> Any:
    """Build a random sequence-classification model of a family of transformers; every parameter moves its score."""
    import transformers

    from icr_platform.models.small_copy import build_random

    ids = {"bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0}
    config = getattr(transformers, f"{kind}Config")(
        **{**_SIZES, "vocab_size": vocabulary, **ids, "num_labels": labels, **values}
    )
    return build_random(getattr(transformers, f"{kind}ForSequenceClassification"), config, seed)


def save_reward_model(folder: Path, kind: str = "Llama", labels: int = 1, seed: int = 0, **values: Any) -> Path:
    """Write one to `folder`, with the tests' tokenizer and chat template."""
    tokenizer = chatml_tokenizer()
    build_reward_model(kind, labels, seed, len(tokenizer), **values).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def naive_score(model: Any, ids: list[int], types: list[int] | None = None) -> float:
    """The model's own forward of one text, without padding, mask or batch."""
    import torch

    inputs = {"input_ids": torch.tensor([ids])}
    if types is not None:
        inputs["token_type_ids"] = torch.tensor([types])
    with torch.inference_mode():
        return float(model(**inputs).logits[0, 0])


def chatml_ids(folder: Path, asked: str, answer: str) -> list[int]:
    """The ids of a question with its answer, framed by hand as the tests' chat template does."""
    from transformers import AutoTokenizer

    text = f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n"
    ids: list[int] = AutoTokenizer.from_pretrained(folder)(text, add_special_tokens=False)["input_ids"]
    return ids
