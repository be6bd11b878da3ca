"""The demo's reward model: the SFT model with one number in place of its words, trained on English pairs alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from icr_platform.core.config import CHAT_DEFAULTS
from icr_platform.core.conversations import Conversation
from icr_platform.demo.authors import EnglishPreference

EPOCHS = 2
BATCH_SIZE = 32
LEARNING_RATE = 1e-3
RECIPE = (EPOCHS, BATCH_SIZE, LEARNING_RATE)


def build_reward_model(sft: Path, pairs: Sequence[EnglishPreference], seed: int, folder: Path) -> None:
    """Train a classifier on pairs by the Bradley-Terry loss `-log sigmoid(r(x, chosen) - r(x, rejected))`, and write it to `folder`.

    A few seconds of one core; the same seed gives the same bytes on one machine.
    """
    import torch
    from transformers import LlamaForSequenceClassification

    from icr_platform.models.chat import encode_answered
    from icr_platform.models.loading import load_model, load_tokenizer

    tokenizer, body = load_tokenizer(str(sft), CHAT_DEFAULTS), load_model(str(sft), "float32", "cpu")
    rows = [
        tuple(encode_answered(tokenizer, Conversation(pair.instruction), text) for text in (pair.chosen, pair.rejected))
        for pair in pairs
    ]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more threads add floats in another order
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            body.config.num_labels = 1
            model = LlamaForSequenceClassification(body.config).float()
            model.model.load_state_dict(body.base_model.state_dict())
            torch.nn.init.zeros_(model.score.weight)
            optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
            model.train()
            rng = random.Random(f"reward model {seed}")
            for _ in range(EPOCHS):
                rng.shuffle(rows)
                for start in range(0, len(rows), BATCH_SIZE):
                    batch = [ids for pair in rows[start : start + BATCH_SIZE] for ids in pair]
                    width = max(map(len, batch))
                    # Padding is on the right, where no token of a text attends to it.
                    padded = [ids + [tokenizer.pad_token_id] * (width - len(ids)) for ids in batch]
                    scores = model(input_ids=torch.tensor(padded)).logits[:, 0]
                    torch.nn.functional.softplus(scores[1::2] - scores[0::2]).mean().backward()
                    optimizer.step()
                    optimizer.zero_grad()
    finally:
        torch.set_num_threads(threads)
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
