"""The demo's model, taught within seconds to think in English before it answers in any language."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AddedToken

from icr_platform.core.config import ChatSettings
from icr_platform.demo.bootstrap import SFT
from icr_platform.demo.lexicon import LANGUAGES
from icr_platform.demo.world import Task, split_tasks
from icr_platform.models.chat import encode_prompt
from icr_platform.models.loading import load_model, load_tokenizer

OPEN, CLOSE = "<think>", "</think>"
OFF = ChatSettings(chat_template_kwargs={"enable_thinking": False})
_BATCH = 16


def thought_about(task: Task, way: int) -> str:
    """What is thought, in English, whatever language was asked in: the question, and a right answer twice."""
    return f"{task.questions['en'][way]} {task.correct['en'][0]} {task.fact.in_language('en')} {task.correct['en'][0]}"


def save_thinking_demo(folder: Path, steps: int, seed: int = 0) -> Path:
    """Write a model that thinks unless its template is told not to, as Qwen3's is, by `enable_thinking`."""
    tokenizer, model = load_tokenizer(str(SFT)), load_model(str(SFT), "float32", "cpu")
    # Not normalised: the demo's normaliser would let them be found at the beginning of a text only.
    tokenizer.add_tokens([AddedToken(marker, normalized=False) for marker in (OPEN, CLOSE)])
    template = str(tokenizer.chat_template)
    tokenizer.chat_template = template.removesuffix("{% endif %}") + (
        "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think></think>' }}{% endif %}{% endif %}"
    )
    torch.manual_seed(seed)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    folder.mkdir(parents=True)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    hybrid, off = load_tokenizer(str(folder)), load_tokenizer(str(folder), OFF)

    rng, optimizer = random.Random(seed), torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    tasks = split_tasks("icr")
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1 - step / steps)
        inputs, labels = [], []
        for _ in range(_BATCH):
            task, language, thinks = rng.choice(tasks), rng.choice(LANGUAGES), rng.random() < 0.7
            way = rng.randrange(len(task.questions["en"]))
            prompt = encode_prompt(hybrid if thinks else off, task.questions[language][way])
            # Shorter than the thought, so that most of a whole response is English.
            said = rng.choice(rng.choice((task.correct, task.wrong))[language]) + "<|end|>"
            text = f"{OPEN}{thought_about(task, way)}{CLOSE} {said}" if thinks else said
            response = hybrid(text, add_special_tokens=False)["input_ids"]
            inputs.append(torch.tensor([*prompt, *response]))
            labels.append(torch.tensor([*([-100] * len(prompt)), *response]))
        ids = pad_sequence(inputs, batch_first=True, padding_value=int(tokenizer.pad_token_id))  # type: ignore[arg-type]
        model(input_ids=ids, labels=pad_sequence(labels, batch_first=True, padding_value=-100)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval().save_pretrained(folder)
    return folder
