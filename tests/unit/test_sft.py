"""Supervised finetuning on a tiny Llama: the loss against sums by hand, masks of several turns, templates of base models, a kill."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, MambaConfig, MambaForCausalLM

from icr_platform.core.conversations import Conversation
from icr_platform.core.errors import InputError
from icr_platform.core.file_digests import remembered_digest
from icr_platform.core.stage_protocol import StageContext, StageResult
from icr_platform.models.chat import bind, encode_prompt, encode_response, encode_turns
from icr_platform.models.loading import load_model, load_tokenizer
from icr_platform.training.config import SftConfig
from icr_platform.training.documents import TrainingDocuments, read_documents
from icr_platform.training.sft import build_trainer
from icr_platform.training.sft_stage import read, run
from tests.support.tiny_models import CHATML

ROWS = [
    {"instruction": f"Say {number}.", "output": " ".join(["It", "is"] + [str(number)] * (number % 5 + 1))}
    for number in range(12)
]
KILLED = """
import json, os, signal, sys
from pathlib import Path
from icr_platform.core.stage_protocol import StageContext
from icr_platform.training.config import SftConfig
from icr_platform.training.sft_stage import read, run

def record(metrics, step):
    if step == 4:
        os.kill(os.getpid(), signal.SIGKILL)

values, output = json.loads(sys.argv[1])
run(read(SftConfig.model_validate(values)), StageContext(Path(output), "f", record))
"""


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def values(tiny_model: Path, tmp_path: Path) -> dict[str, Any]:
    """Fields of a training of 6 steps in two epochs."""
    return {
        "policy": str(tiny_model), "documents": write(tmp_path / "documents.jsonl", ROWS), "device": "cpu", "learning_rate": 2e-3,
        "epochs": 2.0, "batch_size": 2, "accumulation": 2, "save_steps": 2,
    }  # fmt: skip


def sft(values: dict[str, Any], folder: Path, **changes: Any) -> StageResult:
    return run(read(SftConfig.model_validate(values | changes)), StageContext(folder, "f"))


def content(checkpoint: Path) -> dict[str, str]:
    return {path.name: remembered_digest(path) for path in checkpoint.iterdir() if path.name != "manifest.json"}


def test_responses_become_likelier_and_a_plain_model_is_left(values: dict[str, Any], tmp_path: Path) -> None:
    result = sft(values, tmp_path / "out")
    assert result.metrics["sft/saved_nll"] < result.metrics["sft/start_nll"] - 0.1
    assert (result.metrics["sft/documents"], result.metrics["sft/documents_left_out"]) == (12.0, 0.0)
    checkpoint = result.artifacts["checkpoint"]
    load_model(str(checkpoint), "float32", "cpu")
    assert load_tokenizer(str(checkpoint)).chat_template == CHATML
    card = (checkpoint / "README.md").read_text()
    assert "- sft\n" in card
    assert "| en | 12 | 0 |" in card
    assert str(tmp_path) not in card
    again = sft(values, tmp_path / "out")  # finished: nothing is trained
    assert again.metrics == result.metrics
    with pytest.raises(InputError, match="made from other inputs"):
        run(read(SftConfig.model_validate(values)), StageContext(tmp_path / "out", "another"))


def nll_by_hand(model: Any, documents: TrainingDocuments) -> tuple[torch.Tensor, int]:
    """The negative log-likelihood of all responses, each sequence alone, and how many tokens they have."""
    total, tokens = torch.zeros(()), 0
    for one in documents.sequences:
        logprobs = model(torch.tensor([one.token_ids])).logits[0, :-1].log_softmax(-1)
        for place, (token, learnt) in enumerate(zip(one.token_ids[1:], one.completion_mask[1:], strict=True)):
            if learnt:
                total, tokens = total - logprobs[place, token], tokens + 1
    return total, tokens


@pytest.mark.parametrize(
    "changes",
    [{"batch_size": 12, "accumulation": 1}, {"batch_size": 2, "accumulation": 6}, {"packing": True, "max_length": 64}],
)
def test_a_step_is_the_mean_over_all_tokens_of_responses(
    values: dict[str, Any], tmp_path: Path, changes: dict[str, Any]
) -> None:
    """However documents are batched, accumulated or packed; and nothing of a prompt is learnt."""
    steps = {"epochs": 1.0, "learning_rate": 1e-9, "batch_size": 1, "accumulation": 100} | changes
    config = SftConfig.model_validate(values | steps)
    documents = read_documents(config)
    trainer: Any = build_trainer(config, documents, tmp_path / "work")
    gradients: dict[str, torch.Tensor] = {}
    clip = trainer.accelerator.clip_grad_norm_

    def watched(*given: Any, **named: Any) -> Any:
        model: Any = trainer.model
        gradients.update({name: one.grad.clone() for name, one in model.named_parameters()})
        return clip(*given, **named)

    trainer.accelerator.clip_grad_norm_ = watched
    trainer.train()
    model = load_model(config.policy, "float32", "cpu").train()
    total, tokens = nll_by_hand(model, documents)
    (total / tokens).backward()
    wanted = {name: one.grad for name, one in model.named_parameters()}
    assert wanted.keys() == gradients.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-5, rtol=1e-4)
    logged = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert logged == [pytest.approx(float(total) / tokens, rel=1e-4)]


def test_packing_is_refused_where_documents_would_see_each_other(values: dict[str, Any], tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(values["policy"])
    policy = tmp_path / "mamba"
    MambaForCausalLM(
        MambaConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, state_size=8, pad_token_id=0)
    ).save_pretrained(policy)
    tokenizer.save_pretrained(policy)
    config = SftConfig.model_validate(values | {"policy": str(policy), "packing": True, "max_length": 64})
    with pytest.raises(InputError, match="leave --packing out"):
        build_trainer(config, read_documents(config), tmp_path / "work")


def test_a_killed_training_ends_as_one_that_was_not(values: dict[str, Any], tmp_path: Path) -> None:
    undisturbed = sft(values, tmp_path / "whole").artifacts["checkpoint"]
    output = tmp_path / "killed"
    job = [sys.executable, "-c", KILLED, json.dumps([values, str(output)])]
    assert subprocess.run(job, capture_output=True).returncode == -9
    assert not (output / "checkpoint").exists()
    assert sorted(path.name for path in (output / "checkpoint.unfinished").glob("checkpoint-*")) in (
        ["checkpoint-2"],
        ["checkpoint-4"],
    )
    resumed = sft(values, output)
    assert content(resumed.artifacts["checkpoint"]) == content(undisturbed)
    assert list(resumed.tables["loss_curve"]["step"]) == [1, 2, 3, 4, 5, 6]


def test_adapters_are_merged(values: dict[str, Any], tmp_path: Path) -> None:
    result = sft(values, tmp_path / "out", lora_rank=4, learning_rate=2e-2)
    assert result.metrics["sft/saved_nll"] < result.metrics["sft/start_nll"]
    assert not (result.artifacts["checkpoint"] / "adapter_config.json").exists()


def base_model(tiny_model: Path, folder: Path) -> Path:
    """A copy without a chat template, whose generation ends with another token than turns do."""
    shutil.copytree(tiny_model, folder)
    (folder / "chat_template.jinja").unlink()
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(settings | {"eos_token_id": 0}))
    return folder


def test_a_base_model_gets_a_template_that_is_saved(values: dict[str, Any], tiny_model: Path, tmp_path: Path) -> None:
    base = base_model(tiny_model, tmp_path / "base")
    with pytest.raises(InputError, match=r"base: its tokenizer has no chat template.*--chat-template") as caught:
        read(SftConfig.model_validate(values | {"policy": str(base)}))
    assert "\n" not in str(caught.value)
    template = tmp_path / "chatml.jinja"
    template.write_text(CHATML)
    checkpoint = sft(values, tmp_path / "out", policy=str(base), chat_template=str(template)).artifacts["checkpoint"]
    tokenizer = load_tokenizer(str(checkpoint))
    assert tokenizer.chat_template == CHATML
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert json.loads((checkpoint / "generation_config.json").read_text())["eos_token_id"] == [0, end]
    assert not (base / "chat_template.jinja").exists()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("none.jinja", None, "no such file"),
        ("empty.jinja", "", "an empty file"),
        ("chat.jinja", "{% for message in messages %}{{ message['content']", "chat_template"),
        ("silent.jinja", "{% for message in messages %}x{% endfor %}", "does not reach the prompt"),
        ("prose.jinja", "Below is an instruction.", "names no `messages`"),
        ("tokenizer_config.json", '{"eos_token": "x"}', "field 'chat_template' is missing"),
    ],
)
def test_templates_that_cannot_be_used(
    values: dict[str, Any], tmp_path: Path, name: str, text: str | None, said: str
) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=said) as caught:
        read(SftConfig.model_validate(values | {"chat_template": str(path)}))
    assert "\n" not in str(caught.value)


def test_templates_come_from_another_models_folder(values: dict[str, Any], tiny_model: Path, tmp_path: Path) -> None:
    base = base_model(tiny_model, tmp_path / "base")
    changed = values | {"policy": str(base), "chat_template": str(tiny_model)}
    assert len(read(SftConfig.model_validate(changed)).documents) == 12


def test_documents_that_do_not_fit_are_counted(values: dict[str, Any], tmp_path: Path) -> None:
    long = [{"instruction": "Say much.", "output": "much " * 300, "language": "es"}]
    documents = write(tmp_path / "some.jsonl", [*ROWS, *long])
    found = read(SftConfig.model_validate(values | {"documents": documents, "max_length": 100})).documents
    assert (len(found), dict(found.left_out)) == (12, {"es": 1})
    assert any(
        "1 documents are longer than 100 tokens (max_length) and were left out: es 1" in note for note in found.notes
    )
    with pytest.raises(InputError, match=r"each of its 1 documents is longer than 512 tokens \(the policy's"):
        read(SftConfig.model_validate(values | {"documents": write(tmp_path / "long.jsonl", long * 1)}))


TWO_TURNS = Conversation("And?", (("user", "Hi?"), ("assistant", "Ho.")))
STRIPPED = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'].split('#')[-1] if message['role'] == 'assistant' else message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_every_turn_of_the_assistant_is_learnt_after_what_it_is_given(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    (one,) = encode_turns(tokenizer, TWO_TURNS, "No.")
    learnt = [token for token, mask in zip(one.token_ids, one.completion_mask, strict=True) if mask]
    assert learnt == [*encode_response(tokenizer, "Ho."), *encode_response(tokenizer, "No.")]
    assert one.token_ids == [*encode_prompt(tokenizer, TWO_TURNS), *encode_response(tokenizer, "No.")]
    (last,) = encode_turns(tokenizer, TWO_TURNS, "No.", last_only=True)
    assert sum(last.completion_mask) == len(encode_response(tokenizer, "No."))


def test_turns_that_the_template_rewrites_are_sequences_of_their_own(tiny_model: Path) -> None:
    """As those of models that think, whose earlier thoughts are taken out."""
    tokenizer = load_tokenizer(str(tiny_model))
    tokenizer.chat_template = STRIPPED
    bind(tokenizer, "stripping", SftConfig())
    asked = Conversation("And?", (("user", "Hi?"), ("assistant", "a thought#Ho.")))
    first, second = encode_turns(tokenizer, asked, "No.")
    assert first.token_ids == [*encode_prompt(tokenizer, "Hi?"), *encode_response(tokenizer, "a thought#Ho.")]
    assert second.token_ids == [*encode_prompt(tokenizer, asked), *encode_response(tokenizer, "No.")]
    assert sum(second.completion_mask) == len(encode_response(tokenizer, "No."))


def test_a_greeting_is_not_learnt(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    asked = Conversation("Hi?", (("assistant", "Welcome."),))
    (one,) = encode_turns(tokenizer, asked, "Ho.")
    assert sum(one.completion_mask) == len(encode_response(tokenizer, "Ho."))


def test_system_prompts_are_those_of_the_settings(values: dict[str, Any]) -> None:
    plain = read_documents(SftConfig.model_validate(values))
    brief = read_documents(SftConfig.model_validate(values | {"system_prompt": "Be brief."}))
    assert all(len(b.token_ids) > len(p.token_ids) for b, p in zip(brief.sequences, plain.sequences, strict=True))
    assert [sum(one.completion_mask) for one in brief.sequences] == [
        sum(one.completion_mask) for one in plain.sequences
    ]


def test_a_training_at_no_rate_says_so(values: dict[str, Any], tmp_path: Path) -> None:
    from icr_platform.core.errors import IcrError

    with pytest.raises(IcrError, match=r"^sft: .* changed no weight of the policy.*--learning-rate"):
        sft(values, tmp_path / "out", learning_rate=1e-30, epochs=1.0)


def test_the_curve_is_sent(values: dict[str, Any], tmp_path: Path) -> None:
    sent: list[tuple[int, Mapping[str, float]]] = []
    config = SftConfig.model_validate(values)
    run(read(config), StageContext(tmp_path / "out", "f", lambda metrics, step: sent.append((step, metrics))))
    assert [step for step, _ in sent] == [1, 2, 3, 4, 5, 6]
    assert {"sft/loss", "sft/learning_rate", "sft/grad_norm", "sft/mean_token_accuracy"} <= sent[0][1].keys()
