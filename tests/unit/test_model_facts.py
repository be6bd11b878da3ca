"""What `icr check` says of a model: by tables, for templates and kinds of models that behave differently, and without any weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from transformers import (
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MixtralConfig,
    PreTrainedConfig,
    Qwen2MoeConfig,
)

from icr_platform.core.artifacts import completed
from icr_platform.core.config import ChatSettings
from icr_platform.core.schemas import PROMPTS
from icr_platform.pipeline.config import IterateConfig
from icr_platform.planning.habits import habits
from icr_platform.planning.model_facts import (
    JUDGE,
    POLICY,
    REFERENCE,
    Facts,
    Use,
    cut_in_the_middle,
    facts_of,
    print_facts,
    show_models,
)
from tests.support.template_families import family_tokenizer
from tests.support.tiny_models import chatml_tokenizer

SYSTEM, NO_SYSTEM = (
    "takes a system message",
    "has no place for a system message; --system-role fold puts it at the head of the user's",
)
DATE = "prints a date: 2026-01-01 (template_date)"


def told_apart(markers: str, begun: bool = False) -> str:
    return f"thoughts are told apart from answers by {markers}" + ("; the prompt begins one" if begun else "")


def argument(text: str) -> str:
    return f"{text} (chat_template_kwargs)"


THINK = "<think> ... </think>"
HABITS: dict[str, list[str]] = {
    "qwen2.5": ["says on its own: 'You are Qwen, created by Alibaba Cloud. You are a helpful assistant.'", SYSTEM],
    "qwen3": [SYSTEM, told_apart(THINK), argument(r"enable_thinking: false adds '<think>\n\n</think>\n\n'")],
    "qwen3-2507-thinking": [SYSTEM, told_apart(THINK, begun=True)],
    "gemma-2": [NO_SYSTEM],
    "gemma-3": [SYSTEM],
    "llama-3.2": [DATE, "says on its own: 'Cutting Knowledge Date: December 2023 Today Date: 01 Jan 2026'", SYSTEM],
    "mistral-nemo": [SYSTEM],
    "deepseek-r1-distill": [SYSTEM, told_apart(THINK, begun=True)],
    "command-a-reasoning": [
        "says on its own: '# Default Preamble - Your name is Command.'",
        SYSTEM,
        told_apart("<|START_THINKING|> ... <|END_THINKING|>"),
        argument("reasoning: false adds '<|START_THINKING|><|END_THINKING|>'"),
    ],
    "eurollm": [SYSTEM],
    "lfm2": [SYSTEM],
}


@pytest.mark.parametrize("family", HABITS)
def test_what_real_templates_do_is_said(family: str) -> None:
    assert habits(family_tokenizer(family, ChatSettings()), family) == HABITS[family]


def test_a_reasoning_effort_and_its_channels_are_said() -> None:
    said = habits(family_tokenizer("gpt-oss", ChatSettings()), "gpt-oss")
    assert told_apart("its channels") in said
    assert argument("""reasoning_effort: "low" writes 'low' for 'medium'""") in said


@pytest.mark.parametrize(
    ("family", "settings", "line"),
    [
        ("gemma-2", {"system_role": "fold"}, "puts a system message at the head of the user's (system_role: fold)"),
        (
            "qwen3",
            {"chat_template_kwargs": {"enable_thinking": False}},
            argument('is given {"enable_thinking": false}'),
        ),
        ("llama-3.2", {"template_date": "2025-03-09"}, "prints a date: 2025-03-09 (template_date)"),
    ],
)
def test_settings_change_what_is_said(family: str, settings: dict[str, Any], line: str) -> None:
    tokenizer = family_tokenizer(family, ChatSettings.model_validate(settings))
    said = habits(tokenizer, family)
    assert line in said
    assert habits(tokenizer, family) == said  # what was tried on the way is undone
    assert not any(one.startswith("enable_thinking") for one in said)


SMALL: dict[str, Any] = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
MODELS: dict[str, tuple[PreTrainedConfig, dict[str, str]]] = {
    "llama": (
        LlamaConfig(**SMALL, num_key_value_heads=2, max_position_embeddings=256),
        {
            "kind": "llama (LlamaForCausalLM), 0.0442 million parameters, files in float32",
            "context": "256 tokens",
            "generate": "64 rows at a time, each replaced as soon as it ends",
            "annotate": "in packs of up to 8,192 tokens, without padding",
        },
    ),
    "experts": (
        MixtralConfig(**SMALL, num_key_value_heads=2, num_local_experts=8, num_experts_per_tok=2),
        {"kind": "parameters, of which 0.057 million work on a token", "annotate": "in packs"},
    ),
    "shared expert": (
        Qwen2MoeConfig(**SMALL, num_key_value_heads=2, num_experts=4, num_experts_per_tok=1, moe_intermediate_size=16,
                       shared_expert_intermediate_size=16, decoder_sparse_step=1),
        {"kind": " work on a token"},
    ),
    "window": (
        Gemma2Config(**SMALL, num_key_value_heads=2, head_dim=8, sliding_window=64, max_position_embeddings=512),
        {"context": "512 tokens, some layers see the last 64", "annotate": "in packs"},
    ),
    "state": (
        MambaConfig(vocab_size=400, hidden_size=32, num_hidden_layers=2, state_size=4),
        {"context": "without a limit", "generate": "one row at a time", "annotate": "in batches: "},
    ),
    "learned positions": (
        GPT2Config(vocab_size=400, n_embd=32, n_layer=2, n_head=4, n_positions=128),
        {"context": "128 tokens", "generate": "64 rows at a time, each replaced as soon as it ends"},
    ),
}  # fmt: skip


def prompts(*rows: tuple[str, str, str]) -> pa.Table:
    listed = [
        {"language": language, "prompt_id": "p", "instruction": text, "english_instruction": english, "source": ""}
        for language, text, english in rows
    ]
    keys = pa.Table.from_pylist(listed)
    return completed(keys, PROMPTS)


ASKED = prompts(("en", "Name a fruit.", "Name a fruit."), ("es", "Nombra una fruta.", "Name a fruit."))


def without_weights(folder: Path, config: PreTrainedConfig) -> str:
    """A folder with a config and a tokenizer, and nothing else."""
    config.save_pretrained(folder)
    chatml_tokenizer().save_pretrained(folder)
    return str(folder)


def facts(model: str, whole: bool = False, **settings: Any) -> Facts:
    config = IterateConfig.model_validate({"policy": model, "reference": model, **settings})
    return facts_of(config, Use(POLICY, model, config, ["little"]), ASKED, whole)


@pytest.mark.parametrize("kind", MODELS)
def test_kinds_of_models_are_described_from_config_and_tokenizer(kind: str, tmp_path: Path) -> None:
    config, expected = MODELS[kind]
    found = facts(without_weights(tmp_path / "model", config))
    for name, line in expected.items():
        assert line in found[name][0], found
    assert found["generate"][1] == "a response ends at <|im_end|> (2)" or kind != "llama"


def test_recommended_sampling_is_set_against_ours(tmp_path: Path) -> None:
    model = without_weights(tmp_path / "model", MODELS["llama"][0])
    recommended = '{"temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0.0, "eos_token_id": [2, 0]}'
    (tmp_path / "model" / "generation_config.json").write_text(recommended)
    found = facts(
        model, generate={"top_p": 0.95}, eval_prompts="e", eval={"temperature": 0.6, "top_p": 0.95, "top_k": 20}
    )
    assert found["generate"][1:] == [
        "a response ends at <|endoftext|> (0), <|im_end|> (2)",
        "its generation_config.json recommends temperature 0.6, top_k 20; the settings decide: temperature 0.9, top_k 0",
    ]
    assert found["eval"] == found["generate"][:2]  # nothing differs


def test_prompts_show_their_tokens_and_the_rewarded_instruction(tmp_path: Path) -> None:
    model = without_weights(tmp_path / "model", MODELS["llama"][0])
    framed = r"<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
    found = facts(model, whole=True)["prompts"]
    assert found[:3] == [
        "en  " + framed.format("Name a fruit."),
        "es  " + framed.format("Nombra una fruta."),
        "responses are scored after (cross-lingual):",
    ]
    assert found[3].startswith("es  <|im_start|>user\\nPlease answer the following instruction using only Spanish")
    assert found[3].endswith(r"\n\nName a fruit.<|im_end|>\n<|im_start|>assistant\n")
    assert len(found) == 4  # English is scored after what it was asked
    assert facts(model, whole=True, annotate={"reward_kind": "multilingual"})["prompts"] == found[:2]
    assert facts(model, whole=True, annotate={"reward_kind": "random"})["prompts"] == found[:2]
    system = facts(model, whole=True, system_prompt={"es": "Sé breve."})["prompts"]
    assert system[1].startswith(r"es  <|im_start|>system\nSé breve.<|im_end|>\n<|im_start|>user")


def test_a_local_judge_shows_a_question(tmp_path: Path) -> None:
    model = without_weights(tmp_path / "model", MODELS["llama"][0])
    config = IterateConfig.model_validate({"policy": model, "reference": model, "eval": {"judge": "logprob"}})
    found = facts_of(config, Use(JUDGE, model, config, ["little"]), ASKED, True)
    (shown,) = found["prompts"]
    assert shown.startswith("<|im_start|>")
    assert (
        shown.index("Name a fruit.") < shown.index("(the output of the policy)") < shown.index("(the reference output)")
    )
    assert set(found) == {"kind", "context", "memory", "chat", "prompts"}


def test_long_prompts_are_cut_in_their_middle_and_whole_ones_shown_on_request(tmp_path: Path) -> None:
    model = without_weights(tmp_path / "model", MODELS["llama"][0])
    text = "One " + "word " * 500 + "end."
    config = IterateConfig(policy=model, reference=model)
    use = Use(POLICY, model, config, [])
    (shown,) = facts_of(config, use, prompts(("en", text, text)), False)["prompts"]
    assert len(shown) < 250
    assert shown.startswith(r"en  <|im_start|>user\nOne word")
    assert " ... " in shown
    assert shown.endswith(r"word end.<|im_end|>\n<|im_start|>assistant\n")
    (whole,) = facts_of(config, use, prompts(("en", text, text)), True)["prompts"]
    assert text in whole


def test_what_a_second_model_has_in_common_is_said_by_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # a line a fact
    first = without_weights(tmp_path / "first", MODELS["llama"][0])
    second = without_weights(tmp_path / "second", LlamaConfig(**SMALL, num_key_value_heads=4))
    config = IterateConfig(policy=first, reference=second)
    uses = [Use(POLICY, first, config, ["generate 1 GB"]), Use(REFERENCE, second, config, ["annotate 1 GB"])]
    show_models(config, uses, ASKED, False)
    policy, reference = capsys.readouterr().out.strip().split("\n\n")
    assert policy.splitlines()[0] == f"policy: {first}"
    lines = reference.splitlines()
    assert lines[0] == f"reference: {second}"
    assert lines[-1] == "  chat, annotate, prompts: as above"
    assert [line.split()[0] for line in lines[1:-1]] == ["kind", "context", "memory"]


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_lines_fit_the_terminal(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    print_facts("policy: x", {"kind": ["word " * 100], "prompts": ["en  " + "token " * 100]}, [])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= max(60, min(160, columns))


@pytest.mark.parametrize(
    ("text", "width", "shown"), [("short", 10, "short"), ("a" * 50 + "b" * 50, 15, "aaaaa ... bbbbb")]
)
def test_cutting(text: str, width: int, shown: str) -> None:
    assert cut_in_the_middle(text, width) == shown
