"""Tokens per second of the machine at hand, measured by a few seconds of the real sampler, scorer and training step.

Texts are random token ids of the length the run expects: how long arithmetic takes does not depend on what the ids say.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from icr_platform.engines.sampling.choice import make_sampler
from icr_platform.engines.sampling.sampler import Dropped, Request
from icr_platform.pipeline.config import IterateConfig
from icr_platform.planning.capacity import Rates

_CPU_TOKENS, _GPU_TOKENS = 128, 512  # of a response at most: longer ones would not fit the time


def calibrate(
    config: IterateConfig, instructions: list[tuple[str, str]], response_tokens: float, seconds: float
) -> Rates:
    """Measure the rates of one device (of the CPU with all its threads) in about `seconds`, loading not counted.

    instructions: (language, instruction) of real prompts.

    Raises:
        InputError: the policy cannot be loaded, or the sampler cannot work here.
    """
    from icr_platform.models.devices import resolve_device

    cap = _CPU_TOKENS if resolve_device(config.generate.device) == "cpu" else _GPU_TOKENS
    length = max(1, min(int(response_tokens), cap))
    each = seconds / 3
    return Rates(
        decode=_decode(config, instructions, length, each),
        score=_score(config, length, each),
        train=_train(config, length, each),
    )


def _rate(step: Callable[[], int], seconds: float) -> float:
    """Tokens per second of `step`, which returns its tokens: one call to warm up, then calls until the time is over."""
    step()
    tokens, start = 0, time.monotonic()
    while not tokens or time.monotonic() - start < seconds:
        tokens += step()
    return tokens / (time.monotonic() - start)


def _decode(config: IterateConfig, instructions: list[tuple[str, str]], length: int, seconds: float) -> float:
    settings = config.generate.model_copy(update={"max_tokens": length})
    sampler = make_sampler(settings, config.policy, config)
    prompts = (
        max(1, settings.batch_size // settings.samples)
        if settings.sampler == "transformers"
        else settings.shard_prompts
    )
    chosen = [instructions[index % len(instructions)] for index in range(prompts)]
    requests = [Request(language, str(index), text) for index, (language, text) in enumerate(chosen)]
    seeds = iter(range(10**9))

    def step() -> int:
        sampled = sampler.sample(requests, settings.samples, next(seeds))
        return sum(len(s.token_ids) for samples in sampled if not isinstance(samples, Dropped) for s in samples)

    return _rate(step, seconds)


def _score(config: IterateConfig, length: int, seconds: float) -> float:
    from icr_platform.engines.scoring.logprobs import CompletionScorer, Group
    from icr_platform.models.loading import load_model

    model = load_model(config.policy, config.annotate.dtype, config.annotate.device, config.trust_remote_code)
    scorer = CompletionScorer(model, config.annotate.batch_tokens)
    random = np.random.default_rng(0)
    vocabulary = model.config.get_text_config().vocab_size
    prompt = random.integers(vocabulary, size=64).tolist()
    completions = random.integers(vocabulary, size=(config.generate.samples, length)).tolist()
    groups = [Group(prompt, completions)] * max(1, scorer.pack_tokens // (length * len(completions)))

    def step() -> int:
        scorer.score(groups)
        return len(groups) * (len(prompt) + length * len(completions))

    return _rate(step, seconds)


def _train(config: IterateConfig, length: int, seconds: float) -> float:
    """Forward and backward pass of TRL's own step. The optimizer's step, once per `accumulation` of them, is left out."""
    from icr_platform.models.loading import load_config
    from icr_platform.training.dataset import TrainingPairs
    from icr_platform.training.dpo import build_trainer

    plain = {"accelerate_config": "", "loss": "sigmoid"}  # losses take the same time
    train = config.train_config(config.policy, "", config.seed).model_copy(update=plain)
    random = np.random.default_rng(0)
    vocabulary = load_config(config.policy, config.trust_remote_code).get_text_config().vocab_size
    prompts, chosen, rejected = (
        random.integers(vocabulary, size=(train.batch_size, size)).tolist() for size in (64, length, length)
    )
    pairs = TrainingPairs(["en"] * train.batch_size, prompts, chosen, rejected, {})
    with tempfile.TemporaryDirectory() as work:
        trainer = build_trainer(train, pairs, np.zeros((train.batch_size, 2)), Path(work))
        trainer.current_gradient_accumulation_steps = 1  # the training loop sets it, which this is not
        model = trainer.accelerator.prepare(trainer.model).train()
        batch = next(iter(trainer.get_train_dataloader()))

        def step() -> int:
            trainer.training_step(model, trainer._prepare_inputs(batch))
            model.zero_grad()
            return 2 * train.batch_size * (64 + length)

        return _rate(step, seconds)
