"""Tiny models with the templates of real families go through all stages, thinking and not: they were taught to think in English and to answer
in Spanish. What they sample, and every score, is compared with values written by hand and with the model's own forward pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pytest
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from icr_platform.annotation import stage as annotation
from icr_platform.annotation.config import AnnotateConfig
from icr_platform.core.artifacts import open_artifact
from icr_platform.core.languages import reward_instruction
from icr_platform.core.schemas import DROPS, OUTPUTS, PREFERENCES, RESPONSES, REWARDS, TableSchema
from icr_platform.core.stage_protocol import StageContext
from icr_platform.evaluation import stage as evaluation
from icr_platform.evaluation.config import EvalConfig
from icr_platform.generation import stage as generation
from icr_platform.generation.config import GenerateConfig
from icr_platform.training import stage as training
from icr_platform.training.config import TrainConfig
from tests.support.template_families import family_tokenizer

ENGLISH, SPANISH = "Name a fruit that you like.", "Nombra una fruta que te guste."
THOUGHT = "The user wants a fruit, so I name one."
ANSWERS = ("La manzana es mi fruta preferida.", "Me gusta mucho la pera madura.")
OFF: dict[str, Any] = {"enable_thinking": False}
LOW: dict[str, Any] = {"reasoning_effort": "low"}


class Case(NamedTuple):
    """How a family responds. response: with THOUGHT and ANSWER; start: of the answer; thinks: whether a thought is found."""

    family: str
    keywords: dict[str, Any]
    response: str
    start: int | None
    thinks: bool


CASES = (
    Case("qwen3", {}, "<think>\nTHOUGHT\n</think>\n\nANSWER<|im_end|>", 1 + 1 + 1 + 1 + 1 + 2, True),
    Case("qwen3", OFF, "ANSWER<|im_end|>", None, False),
    Case("smollm3", {}, "<think>\nTHOUGHT\n</think>\nANSWER<|im_end|>", 1 + 1 + 1 + 1 + 1 + 1, True),
    Case("smollm3", OFF, "ANSWER<|im_end|>", None, False),
    Case(
        "gpt-oss", {}, "<|channel|>analysis<|message|>THOUGHT<|end|><|start|>assistant<|channel|>final<|message|>ANSWER<|return|>",
        (1 + 8 + 1 + 1 + 1) + (1 + 9 + 1 + 5 + 1), True,
    ),
    Case("gpt-oss", LOW, "<|channel|>final<|message|>ANSWER<|return|>", 1 + 5 + 1, False),
)  # fmt: skip
IDS = [f"{case.family}-{'thinks' if case.thinks else 'answers'}" for case in CASES]


def taught(case: Case, policy: Path, reference: Path) -> tuple[str, str]:
    """A Llama of two layers that responds as the case says, with either answer, and one whose weights are a little off."""
    pieces = (ENGLISH, SPANISH, reward_instruction("es", ENGLISH), THOUGHT, *ANSWERS)
    tokenizer = family_tokenizer(case.family)
    framing = str(tokenizer.decode(prompt_of(tokenizer, case, SPANISH))).replace(SPANISH, "\n")
    for token in tokenizer.added_tokens_decoder.values():
        framing = framing.replace(token.content, "\n")
    # Lines of default system prompts are one token each, which is quicker to learn.
    lines = (line for line in framing.split("\n") if len(line) > 20)
    tokenizer = family_tokenizer(case.family, pieces=(*pieces, *lines))
    prompts = [prompt_of(tokenizer, case, text) for text in (SPANISH, reward_instruction("es", ENGLISH))]
    rows = [
        torch.tensor([*prompt, *tokenizer(response_of(case, answer), add_special_tokens=False)["input_ids"]])
        for prompt in prompts
        for answer in ANSWERS
    ]
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=2048, bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    labels = pad_sequence(rows, batch_first=True, padding_value=-100)
    for row, ids in zip(labels, rows, strict=True):
        row[: len(ids) - len(tokenizer(response_of(case, ANSWERS[0]), add_special_tokens=False)["input_ids"])] = -100
    inputs = pad_sequence(rows, batch_first=True, padding_value=0)
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(90):
        optimizer.zero_grad()
        model(input_ids=inputs, attention_mask=mask, labels=labels).loss.backward()
        optimizer.step()
    model.eval().save_pretrained(policy)
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(0.02 * torch.randn_like(weights))
    model.save_pretrained(reference)
    for folder in (policy, reference):
        tokenizer.save_pretrained(folder)
    return str(policy), str(reference)


def response_of(case: Case, answer: str) -> str:
    return case.response.replace("THOUGHT", THOUGHT).replace("ANSWER", answer)


def prompt_of(tokenizer: Any, case: Case, instruction: str) -> list[int]:
    """By transformers itself, with the date that chat templates print by default."""
    ids: list[int] = tokenizer.apply_chat_template(
        [{"role": "user", "content": instruction}], add_generation_prompt=True, return_dict=False,
        strftime_now=lambda form: "2026-01-01" if form == "%Y-%m-%d" else "01 Jan 2026", **case.keywords,
    )  # fmt: skip
    return ids


def rows_of(folder: Path, table: TableSchema) -> list[dict[str, Any]]:
    rows: pa.Table = open_artifact(folder / table.name, table).read()
    return list(rows.to_pylist())


def logprob(model: Any, prompt: list[int], ids: list[int], start: int) -> float:
    """Of the ids from `start` on, given all that stands before them."""
    with torch.inference_mode():
        logprobs = torch.log_softmax(model(torch.tensor([[*prompt, *ids]])).logits[0].double(), -1)
    return sum(float(logprobs[len(prompt) + index - 1, token]) for index, token in enumerate(ids) if index >= start)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_family_thinks_or_answers_through_all_stages(case: Case, tmp_path: Path) -> None:
    policy, reference = taught(case, tmp_path / "policy", tmp_path / "reference")
    prompts = tmp_path / "prompts"
    prompts.mkdir()
    for code, text in (("en", ENGLISH), ("es", SPANISH)):
        (prompts / f"{code}.jsonl").write_text(
            json.dumps({"id": "fruit", "instruction": text}) + "\n", encoding="utf-8"
        )
    common: dict[str, Any] = {"policy": policy, "chat_template_kwargs": case.keywords}
    asked: dict[str, Any] = {"prompts": str(prompts), "languages": "es", "max_tokens": 64}

    sampled = GenerateConfig(**common, **asked, samples=8, temperature=0.5)
    generation.run(generation.read(sampled), StageContext(tmp_path / "generate", "g"))
    responses = rows_of(tmp_path / "generate", RESPONSES)
    assert len(responses) == 8
    for row in responses:
        assert row["response"] in ANSWERS
        assert row["character_count"] == len(row["response"])
        assert (row["answer_start"], row["thought"]) == (case.start, THOUGHT if case.thinks else None)
        assert (row["detected_language"], row["finish_reason"]) == ("es", "stop")
        assert row["thought_language"] == ("en" if case.thinks else None)
    assert {row["response"] for row in responses} == set(ANSWERS)

    # Thought and header are the context of the answer, whose tokens alone are scored.
    model = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32)
    prompt = prompt_of(AutoTokenizer.from_pretrained(policy), case, reward_instruction("es", ENGLISH))
    for score in ("answer", "whole"):
        scored = AnnotateConfig(
            **common,
            reference=reference,
            prompts=str(prompts),
            responses=str(tmp_path / "generate/responses"),
            score=score,
        )
        annotation.run(annotation.read(scored), StageContext(tmp_path / score, score))
        assert {drop["reason"] for drop in rows_of(tmp_path / score, DROPS)} == {"duplicate"}
        rewards = rows_of(tmp_path / score, REWARDS)
        assert sum(reward["policy_logprob"] is not None for reward in rewards) >= 2
        for row, reward in zip(responses, rewards, strict=True):
            if reward["policy_logprob"] is None:  # a duplicate
                continue
            start = (row["answer_start"] or 0) if score == "answer" else 0
            assert reward["policy_logprob"] == pytest.approx(logprob(model, prompt, row["token_ids"], start), abs=1e-4)
    (pair,) = rows_of(tmp_path / "answer", PREFERENCES)
    assert {pair["chosen"], pair["rejected"]} == set(ANSWERS)
    assert [pair["chosen_answer_start"], pair["rejected_answer_start"]] == [case.start] * 2
    assert [pair["chosen_thought"], pair["rejected_thought"]] == [THOUGHT if case.thinks else None] * 2

    trained = TrainConfig(
        **common, preferences=str(tmp_path / "answer/preferences"), learning_rate=1e-3, warmup=0.0, batch_size=1, accumulation=1,
        gradient_checkpointing=False,
    )  # fmt: skip
    training.run(training.read(trained), StageContext(tmp_path / "train", "t"))
    evaluated = EvalConfig(**common | {"policy": str(tmp_path / "train/checkpoint")}, **asked, judge="none")
    evaluation.run(evaluation.read(evaluated), StageContext(tmp_path / "eval", "e"))
    (output,) = rows_of(tmp_path / "eval", OUTPUTS)
    assert output["output"] in ANSWERS
    assert (output["detected_language"], output["thought"]) == ("es", THOUGHT if case.thinks else None)
