"""Rows that are sampled while others end and begin: their tokens are those of each row alone, and the pool of blocks stays dense."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers

from icr_platform.engines.sampling.block_cache import Pool
from icr_platform.engines.sampling.decoding import Decoder, Row
from icr_platform.engines.sampling.settings import SamplingSettings
from icr_platform.models.small_copy import FIRST_ID, VOCABULARY, build_random, small_config


@pytest.mark.parametrize(
    ("family", "config"),
    [("Llama", "LlamaConfig"), ("Gemma3", "Gemma3TextConfig"), ("Gemma2", "Gemma2Config"), ("GptOss", "GptOssConfig")],
)
def test_greedy_rows_are_their_own_while_others_come_and_go(family: str, config: str) -> None:
    """Plain attention, windows, capped scores and sinks; rows longer than blocks and windows, two samples of each prompt."""
    kind = getattr(transformers, f"{family}ForCausalLM")
    model = build_random(kind, small_config(getattr(transformers, config)()))
    random = np.random.default_rng(0)
    prompts = [tuple(random.integers(FIRST_ID, VOCABULARY, n).tolist()) for n in (3, 90, 40, 66, 3, 17, 64)]
    budgets = [1, 30, 90, 5, 70, 64, 12, 3, 65, 8, 20, 40, 7, 2]
    rows = [Row(prompts[index // 2], index, budget, 0.0) for index, budget in enumerate(budgets)]
    decoder = Decoder(model, SamplingSettings(), ())
    assert decoder.why_no_blocks is None
    finished: dict[int, list[int]] = {}
    decoder.decode(rows, 3, finished.__setitem__)
    assert [len(finished[index]) for index in range(len(rows))] == budgets
    for index, row in enumerate(rows):
        ids = torch.tensor([[*row.prompt_ids, *finished[index]]])
        with torch.inference_mode():
            logits = model(input_ids=ids, use_cache=False).logits[0, len(row.prompt_ids) - 1 : -1]
        chosen = logits.gather(1, ids[0, len(row.prompt_ids) :, None])[:, 0]
        assert (logits.amax(-1) - chosen).max() < 1e-4, index


def test_a_pool_stays_dense_and_keeps_what_was_written() -> None:
    """Random lists of blocks come and go; each block holds the number that its owner wrote."""
    random, pool = np.random.default_rng(0), Pool(2, 4)
    owners: dict[int, list[int]] = {}
    for number in range(300):
        blocks = owners[number] = pool.take(int(random.integers(1, 6)), first=number, end=number + 20)
        pool.lanes[blocks, 1] = number
        for offset in range(4):
            slots = torch.tensor(blocks), torch.full((len(blocks),), offset)
            pool.write(0, slots, *(torch.full((len(blocks), 3, size), float(number)) for size in (5, 2)))
        while len(owners) > 12:
            pool.free(owners.pop(int(random.choice(list(owners)))))
        pool.compact()
        keys, values = pool.of_layer(0)
        live = sum(map(len, owners.values()))
        assert live <= pool.top == len(keys) <= live * 8 / 7 + 1
        for owner, held in owners.items():
            assert (keys[held] == owner).all()
            assert (values[held] == owner).all()
            assert (pool.lanes[held, 1] == owner).all()
            assert (pool.first[held] - owner).tolist() == [4 * index for index in range(len(held))]
        assert (pool.lanes[: pool.top, 1] >= 0).sum() == live
