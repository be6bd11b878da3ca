"""Training the demo's SFT model from scratch: every language at once, authors of mixed quality, four minutes of one core."""

import math
import random
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from icr_platform.demo.authors import Turn, sft_conversation
from icr_platform.demo.tokenizer import ASSISTANT, END, USER, build_tokenizer

CONVERSATIONS = 24_000
BATCH_SIZE = 24
MATRIX_LEARNING_RATE = 0.01
OTHER_LEARNING_RATE = 0.004
IGNORED = -100
_POOL_BATCHES = 50


class Batch(NamedTuple):
    """Right-padded `ids` and `labels`, both (batch, tokens) int64; labels are :data:`IGNORED` outside responses."""

    ids: Tensor
    labels: Tensor


def train_sft(seed: int, conversations: int = CONVERSATIONS) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The demo's SFT model and its tokenizer, in float32; the same on every run with one thread on one machine."""
    torch.manual_seed(seed)
    rng = random.Random(f"sft {seed}")
    corpus = [sft_conversation(rng) for _ in range(conversations)]
    tokenizer = build_tokenizer(text for conversation in corpus for turn in conversation for text in turn)
    model = LlamaForCausalLM(_config(tokenizer)).float()
    encoded = [_encode(conversation, tokenizer) for conversation in corpus]
    batches = list(_batches(encoded, tokenizer.pad_token_id, rng))
    # Muon for the matrices inside the layers, AdamW for embeddings and norms.
    matrices = [weight for name, weight in model.named_parameters() if weight.ndim == 2 and "embed" not in name]
    others = [weight for name, weight in model.named_parameters() if weight.ndim != 2 or "embed" in name]
    optimizers: list[torch.optim.Optimizer] = [
        Muon(matrices, MATRIX_LEARNING_RATE),
        torch.optim.AdamW(others, lr=OTHER_LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    peak_rates = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    steps, warm = len(batches), max(1, len(batches) // 50)
    model.train()
    for step, batch in enumerate(batches):
        # Warm-up over the first 2% of the steps, then a cosine down to a twentieth of the peak.
        share = (step + 1) / warm
        if step >= warm:
            share = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        for group, peak in zip(groups, peak_rates, strict=True):
            group["lr"] = peak * share
        # Padding is on the right, where no real token attends to it: no attention mask is needed.
        hidden = model.model(input_ids=batch.ids, use_cache=False).last_hidden_state[:, :-1]
        targets = batch.labels[:, 1:]
        wanted = targets != IGNORED
        loss = nn.functional.cross_entropy(model.lm_head(hidden[wanted]), targets[wanted])
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if step % 100 == 0 or step == steps - 1:
            print(f"SFT step {step}/{steps} loss {loss.item():.4f}", flush=True)
    return model.eval(), tokenizer


def _config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.05,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _encode(conversation: list[Turn], tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int]]:
    """Token ids of a conversation and its labels: the responses' tokens with their end-of-turn tokens."""
    ids, labels = [tokenizer.bos_token_id], [IGNORED]
    for turn in conversation:
        asked = tokenizer.encode(f"{USER}{turn.instruction}{END}{ASSISTANT}", add_special_tokens=False)
        answered = tokenizer.encode(f"{turn.response}{END}", add_special_tokens=False)
        ids += asked + answered
        labels += [IGNORED] * len(asked) + answered
    return ids, labels


def _batches(encoded: list[tuple[list[int], list[int]]], pad: int, rng: random.Random) -> Iterator[Batch]:
    """Shuffled batches of similar lengths: sorted within pools, so that little is padding."""
    pool_size = BATCH_SIZE * _POOL_BATCHES
    for start in range(0, len(encoded), pool_size):
        pool = sorted(encoded[start : start + pool_size], key=lambda row: len(row[0]))
        groups = [pool[first : first + BATCH_SIZE] for first in range(0, len(pool), BATCH_SIZE)]
        rng.shuffle(groups)
        for group in groups:
            width = max(len(ids) for ids, _ in group)
            yield Batch(
                torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in group]),
                torch.tensor([labels + [IGNORED] * (width - len(labels)) for _, labels in group]),
            )


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised by Newton-Schulz (Jordan et al., 2024), in float32.

    ``torch.optim.Muon`` iterates in bfloat16, which is slow and inexact on CPUs without it.
    """

    def __init__(self, weights: list[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(weights, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every matrix that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                average = self.state[weight].setdefault("average", torch.zeros_like(weight))
                average.lerp_(weight.grad, 1 - group["momentum"])
                update = _orthogonalise(weight.grad.lerp(average, group["momentum"]))
                scale = max(1.0, weight.shape[0] / weight.shape[1]) ** 0.5
                weight.add_(update, alpha=-group["lr"] * scale)


def _orthogonalise(matrix: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrix, about: singular values between 0.7 and 1.2."""
    # The quintic's coefficients of the Muon paper: steepest at 0, so that small singular values grow in five steps.
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = matrix.shape[0] <= matrix.shape[1]
    x: Tensor = matrix if wide else matrix.T
    # The iteration converges from singular values in (0, 1], which the Frobenius norm bounds.
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.T
