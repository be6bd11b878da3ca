"""Conversations and system prompts from the prompts' files to training: rendered alike wherever they are rendered."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from icr_platform.annotation import stage as annotation
from icr_platform.annotation.config import AnnotateConfig
from icr_platform.core.artifacts import open_artifact
from icr_platform.core.config import ChatSettings, validate
from icr_platform.core.conversations import Conversation
from icr_platform.core.errors import InputError
from icr_platform.core.schemas import OUTPUTS, PREFERENCES, PROMPTS, RESPONSES, REWARDS
from icr_platform.core.stage_protocol import StageContext
from icr_platform.data.prompts import load_prompts
from icr_platform.data.text_preferences import tokenise
from icr_platform.demo import IDENTIFIER
from icr_platform.engines.judging.pairwise import DEFAULT_TEMPLATE, MODEL_FIRST, Pair
from icr_platform.engines.sampling.prompt_checks import check_prompts
from icr_platform.engines.sampling.sampler import requests_of
from icr_platform.engines.sampling.settings import SamplingSettings
from icr_platform.engines.scoring.reward_kinds import scoring_conversation
from icr_platform.evaluation import stage as evaluation
from icr_platform.evaluation.config import EvalConfig
from icr_platform.evaluation.inputs import read_inputs
from icr_platform.evaluation.judgments import pairs_of
from icr_platform.generation import stage as generation
from icr_platform.generation.config import GenerateConfig
from icr_platform.models.chat import (
    bind,
    default_system_prompt,
    encode_messages,
    encode_prompt,
    folded,
    prompt_notes,
    refusal_of_roles,
    require_roles,
    require_system_prompt,
)
from icr_platform.models.loading import load_model, load_tokenizer
from icr_platform.training import stage as training
from icr_platform.training.config import TrainConfig
from icr_platform.training.dataset import load_pairs, read_pairs
from tests.support.tiny_models import CHATML, chatml_tokenizer

# As of Gemma 2: no system message, and turns that alternate.
GEMMA_2 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As of Qwen 2.5: a system message of its own where there is none.
QWEN_25 = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are Qwen, created by Alibaba Cloud.<|im_end|>\n{% endif %}" + CHATML
)  # fmt: skip
LAST_TURN_ONLY = "{% set messages = messages[-1:] %}" + CHATML
SYSTEM_IN_FRONT = GEMMA_2.replace(
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}",
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}{% set messages = messages[1:] %}{% endif %}",
)
S, U, A = "system", "user", "assistant"


def bound(template: str, **settings: Any) -> Any:
    tokenizer = chatml_tokenizer()
    tokenizer.chat_template = template
    bind(tokenizer, "model", ChatSettings(**settings))
    return tokenizer


def text(tokenizer: Any, *turns: tuple[str, str]) -> str:
    return str(tokenizer.decode(encode_messages(tokenizer, [{"role": r, "content": c} for r, c in turns])))


@pytest.mark.parametrize(
    ("template", "roles", "refused"),
    [
        (CHATML, (S, U), ""),
        (CHATML, (U, A, U, A, U), ""),
        (CHATML, (U, U), ""),
        (CHATML, (A, U), ""),
        (CHATML, (U, A, S, U), ""),
        (GEMMA_2, (U, A, U), ""),
        (GEMMA_2, (S, U), "refuses it \\(System role not supported\\); give --system-role fold, or put what the system says"),
        (GEMMA_2, (S, U, A, U), "System role not supported"),
        (GEMMA_2, (U, U), "must alternate"),
        (GEMMA_2, (A, U), "must alternate"),
        (GEMMA_2, (U, A) * 9 + (S, U), r"of a conversation of user, assistant, user, assistant, user, assistant, \.\.\. \(20 messages\)"),
        (SYSTEM_IN_FRONT, (S, U, A, U), ""),
        (SYSTEM_IN_FRONT, (U, A, S, U), "must alternate"),
        (LAST_TURN_ONLY, (U,), ""),
        (LAST_TURN_ONLY, (U, A, U), "the text of the user message does not reach the prompt"),
    ],
)  # fmt: skip
def test_a_template_is_asked_for_each_kind_of_conversation(template: str, roles: tuple[str, ...], refused: str) -> None:
    tokenizer = bound(template)
    assert bool(refusal_of_roles(tokenizer, roles)) == bool(refused)
    if refused:
        with pytest.raises(InputError, match=refused) as error:
            require_roles(tokenizer, roles)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("template", "turns", "expected"),
    [
        (GEMMA_2, [(S, "Be brief."), (U, "Hi")], [(U, "Be brief.\n\nHi")]),
        (GEMMA_2, [(S, "Be brief."), (U, "Hi"), (A, "Ho"), (U, "Do")], [(U, "Be brief.\n\nHi"), (A, "Ho"), (U, "Do")]),
        (GEMMA_2, [(U, "Hi"), (A, "Ho"), (S, "Be brief."), (U, "Do")], [(U, "Hi"), (A, "Ho"), (U, "Be brief.\n\nDo")]),
        (GEMMA_2, [(S, "a"), (S, "b"), (U, "Hi")], [(U, "a\n\nb\n\nHi")]),
        (GEMMA_2, [("developer", "a"), (U, "Hi")], [(U, "a\n\nHi")]),
        (GEMMA_2, [(U, "Hi")], [(U, "Hi")]),
        # No more is folded than there is no place for.
        (CHATML, [(S, "a"), (U, "Hi")], [(S, "a"), (U, "Hi")]),
        (SYSTEM_IN_FRONT, [(S, "a"), (U, "Hi"), (A, "Ho"), (S, "b"), (U, "Do")], [(S, "a"), (U, "Hi"), (A, "Ho"), (U, "b\n\nDo")]),
    ],
)  # fmt: skip
def test_system_messages_are_folded_where_a_template_has_no_place_for_them(
    template: str, turns: list[tuple[str, str]], expected: list[tuple[str, str]]
) -> None:
    tokenizer = bound(template, system_role="fold")
    messages = [{"role": role, "content": content} for role, content in turns]
    assert [(m["role"], m["content"]) for m in folded(tokenizer, messages)] == expected
    assert text(tokenizer, *turns) == text(bound(template), *expected)


def test_a_system_prompt_needs_a_place_or_is_folded() -> None:
    require_system_prompt(bound(GEMMA_2))
    require_system_prompt(bound(CHATML, system_prompt="Be brief."))
    require_system_prompt(bound(GEMMA_2, system_prompt="Be brief.", system_role="fold"))
    with pytest.raises(
        InputError, match=r"field 'system_prompt': .* no place .*System role not supported.*--system-role fold"
    ):
        require_system_prompt(bound(GEMMA_2, system_prompt="Be brief."))


def test_a_system_message_of_the_templates_own_is_said() -> None:
    assert default_system_prompt(bound(QWEN_25)) == "You are Qwen, created by Alibaba Cloud."
    assert [default_system_prompt(bound(template)) for template in (CHATML, GEMMA_2, SYSTEM_IN_FRONT)] == [""] * 3
    asked = [Conversation("Hi"), Conversation("Hi", ((S, "Be brief."),))]
    [note] = prompt_notes(bound(QWEN_25), asked)
    assert "a system message of its own before the 1 of 2 prompts without one: 'You are Qwen" in note
    [note] = prompt_notes(bound(GEMMA_2.replace(" | trim", ""), system_role="fold"), asked)
    assert "those of 1 of 2 prompts are put at the head of the user's next message (system_role)" in note


@pytest.mark.parametrize(
    ("given", "kept", "of_sw", "of_en"),
    [
        ("Be brief.", "Be brief.", "Be brief.", "Be brief."),
        ("", "", "", ""),
        ("  \n", "", "", ""),
        ({"default": "Be brief.", "sw": "Kwa ufupi."}, None, "Kwa ufupi.", "Be brief."),
        ('{"sw": "Kwa ufupi.", "default": "Be brief."}', None, "Kwa ufupi.", "Be brief."),
        ({"sw": "Kwa ufupi.", "en": "In English."}, None, "Kwa ufupi.", "In English."),
        ({"sw": "Kwa ufupi."}, None, "Kwa ufupi.", ""),
        ({"sw": "", "default": "Be brief."}, None, "", "Be brief."),
        ({}, "", "", ""),
    ],
)  # fmt: skip
def test_a_system_prompt_is_one_text_or_one_of_each_language(
    given: Any, kept: str | None, of_sw: str, of_en: str
) -> None:
    settings = validate(ChatSettings, {"system_prompt": given}, "mine.yaml")
    assert kept is None or settings.system_prompt == kept
    assert (settings.system_prompt_in("sw"), settings.system_prompt_in("en")) == (of_sw, of_en)
    assert validate(ChatSettings, {"system_prompt": settings.system_prompt}, "again") == settings


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"swahilli": "x"}, "swahilli"),
        ({"sw": 5}, "its entry 'sw' is 5, not text"),
        ({True: "x"}, "its entry 'true' is a truth value in YAML"),
        ("{sw: x}", "begins with { and is not a JSON object"),
        (["x"], "system_prompt"),
        (5, "system_prompt"),
    ],
)
def test_a_system_prompt_that_is_neither_is_refused(given: Any, said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        validate(ChatSettings, {"system_prompt": given}, "mine.yaml")
    assert "\n" not in str(error.value)


BEFORE = ((U, "Hola"), (A, "Buenas."))
ENGLISH_BEFORE = ((U, "Hello"), (A, "Hi."))
PREFIX = "Please answer the following instruction using only Spanish"


@pytest.mark.parametrize("kind", ["cross-lingual", "multilingual", "translate"])
def test_a_reward_is_of_a_conversation_and_the_system_prompt_of_its_language(kind: str) -> None:
    chat = ChatSettings(system_prompt={"default": "Be brief.", "es": "Sé breve."})
    asked = scoring_conversation(kind, "es", Conversation("Haz.", BEFORE), Conversation("Do.", ENGLISH_BEFORE), chat)
    if kind == "multilingual":
        assert asked == Conversation("Haz.", ((S, "Sé breve."), *BEFORE))
    else:
        assert asked.history == ((S, "Be brief."), *ENGLISH_BEFORE)
        assert asked.instruction.endswith("Do.")
        assert asked.instruction.startswith(PREFIX) == (kind == "cross-lingual")
    own = Conversation("Do.", ((S, "Own."),))
    assert scoring_conversation("cross-lingual", "es", own, own, chat).history == own.history, "a row's own wins"


def rows(language: str) -> list[dict[str, Any]]:
    """Prompts of each kind: plain, with a system message, with earlier turns, with both."""
    es = language == "es"
    before = [{"role": r, "content": c} for r, c in (BEFORE if es else ENGLISH_BEFORE)]
    last = {"role": U, "content": "¿De qué color es la hierba?" if es else "What colour is grass?"}
    own = {"role": S, "content": "Una palabra." if es else "One word."}
    return [
        {"id": 0, "instruction": "Saluda." if es else "Say hello."},
        {"id": 1, "system": own["content"], "instruction": last["content"]},
        {"id": 2, "messages": [*before, last]},
        {"id": 3, "conversations": [own, *before, last]},
    ]


@pytest.fixture
def conversations(tmp_path: Path) -> Path:
    folder = tmp_path / "conversations"
    folder.mkdir()
    for language in ("en", "es"):
        lines = (json.dumps(row, ensure_ascii=False) for row in rows(language))
        (folder / f"{language}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


SETTINGS = [{}, {"system_prompt": '{"default": "Be brief.", "es": "Sé breve."}'}]


@pytest.mark.parametrize("settings", SETTINGS, ids=["rows alone", "with a system prompt"])
def test_conversations_go_through_all_stages(
    settings: dict[str, str], tiny_models: tuple[Path, Path], conversations: Path, tmp_path: Path
) -> None:
    """Ids that are sampled from, scored after and trained on are those of the template, from messages written here."""
    import torch

    policy, reference = map(str, tiny_models)
    common: dict[str, Any] = {"policy": policy, "prompts": str(conversations), **settings}
    small: dict[str, Any] = {"max_tokens": 6, "language_identifier": IDENTIFIER}
    made = generation.run(
        generation.read(GenerateConfig(**common, **small, samples=3)), StageContext(tmp_path / "generated", "f")
    ).artifacts
    prompts = {(r["language"], r["prompt_id"]): r for r in open_artifact(made["prompts"], PROMPTS).read().to_pylist()}
    chat = ChatSettings(**settings)
    tokenizer = load_tokenizer(policy, chat)

    def messages(language: str, prompt_id: str, prefix: str = "") -> list[dict[str, str]]:
        """Written from the files' rows."""
        row = rows(language)[int(prompt_id)]
        said = list(row.get("messages") or row.get("conversations") or [{"role": U, "content": row["instruction"]}])
        system = row.get("system") or (chat.system_prompt_in(language) if said[0]["role"] != S else "")
        if system:
            said = [{"role": S, "content": system}, *said]
        return [*said[:-1], {"role": U, "content": prefix + said[-1]["content"]}]

    def plain(said: Sequence[dict[str, str]]) -> list[int]:
        rendered = tokenizer.apply_chat_template(list(said), tokenize=False, add_generation_prompt=True)
        return list(tokenizer(rendered, add_special_tokens=False)["input_ids"])

    assert prompts["es", "0"]["messages"] is None
    assert json.loads(prompts["es", "3"]["english_messages"]) == list(messages("en", "3"))

    annotated = annotation.run(
        annotation.read(
            AnnotateConfig(
                **common, reference=reference, responses=str(made["responses"]), drop_truncated=False,
                drop_wrong_language=False, drop_empty=False, reward_kind="cross-lingual,multilingual",
            )
        ),
        StageContext(tmp_path / "annotated", "f"),
    ).artifacts  # fmt: skip
    model = load_model(policy, "float32", "cpu").eval()
    responses = {
        (r["language"], r["prompt_id"], r["sample_index"]): r["token_ids"]
        for r in open_artifact(made["responses"], RESPONSES).read().to_pylist()
    }
    prefix = scoring_conversation("cross-lingual", "es", Conversation(""), Conversation(""), ChatSettings()).instruction
    checked = 0
    for row in open_artifact(annotated["rewards"], REWARDS).read().to_pylist():
        if row["policy_logprob"] is None or row["sample_index"]:
            continue
        key = (row["language"], row["prompt_id"], row["sample_index"])
        asked = (
            messages(row["language"], row["prompt_id"])
            if row["kind"] == "multilingual" or row["language"] == "en"
            else messages("en", row["prompt_id"], prefix)
        )
        prompt, ids = plain(asked), responses[key]
        with torch.inference_mode():
            logits = model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1].double()
        naive = logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None]).sum().item()
        assert row["policy_logprob"] == pytest.approx(naive, abs=2e-5 * len(ids))
        checked += 1
    assert checked == 16

    preferences = open_artifact(annotated["preferences"], PREFERENCES)
    table = preferences.read().to_pylist()
    assert {row["prompt_id"] for row in table if row["messages"]} <= {"1", "2", "3"}
    assert table
    config = TrainConfig(policy=policy, preferences=str(annotated["preferences"]), **settings)
    training.read(config)
    pairs = read_pairs(config)
    for row, ids in zip(table, pairs.prompt_ids, strict=True):
        assert list(ids) == plain(messages(row["language"], row["prompt_id"]))

    evaluated = evaluation.run(
        evaluation.read(EvalConfig(**common, **small)), StageContext(tmp_path / "evaluated", "f")
    ).artifacts
    outputs = open_artifact(evaluated["outputs"], OUTPUTS).read().to_pylist()
    assert {row["prompt_id"]: bool(row["messages"]) for row in outputs} == dict(
        zip("0123", [False, *[True] * 3], strict=True)
    )


def test_policy_and_reference_must_render_the_conversations_alike(
    tiny_models: tuple[Path, Path], conversations: Path, tmp_path: Path
) -> None:
    """Templates that agree on one turn may differ on more."""
    policy, reference = str(tiny_models[0]), tmp_path / "reference"
    shutil.copytree(tiny_models[1], reference)
    (reference / "chat_template.jinja").write_text(
        CHATML.replace("{% for", "{{ '!' if messages | length > 1 }}{% for", 1)
    )
    made = generation.run(
        generation.read(
            GenerateConfig(
                policy=policy, prompts=str(conversations), samples=2, max_tokens=3, language_identifier=IDENTIFIER
            )
        ),
        StageContext(tmp_path / "generated", "f"),
    ).artifacts
    config = AnnotateConfig(
        policy=policy, reference=str(reference), prompts=str(conversations), responses=str(made["responses"]),
        drop_truncated=False, drop_wrong_language=False, drop_empty=False,
    )  # fmt: skip
    with pytest.raises(InputError, match="'chat_template' differs on a conversation of system, user"):
        annotation.read(config)
    alike = config.model_copy(update={"reference": policy, "system_prompt": '{"es": "Breve."}'})
    inputs = annotation.read(alike)
    assert isinstance(inputs, annotation.AnnotateInputs)
    assert any("'system_prompt' has neither 'en' nor 'default'" in note for note in inputs.notes)


def test_prompts_whose_turns_a_template_refuses_are_dropped_and_counted(tiny_model: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    (model / "chat_template.jinja").write_text(GEMMA_2)
    prompts = tmp_path / "en.jsonl"
    lines = [{"id": i, "instruction": "Say hello."} for i in range(19)]
    prompts.write_text("\n".join(map(json.dumps, [*lines, {"id": 19, "messages": [{"role": U, "content": "x"}] * 2}])))
    settings, chat = SamplingSettings(max_tokens=4), ChatSettings()
    requests = requests_of(load_prompts(str(tmp_path), ["en"]).table, chat)
    check = check_prompts(settings, str(model), chat, requests, max_dropped=5)
    [(request, dropped)] = check.dropped
    assert (request.prompt_id, dropped.reason) == ("19", "chat-template")
    assert "must alternate" in dropped.detail
    with pytest.raises(InputError, match="must alternate"):
        check_prompts(settings, str(model), chat, requests, max_dropped=4)
    # And the stage answers the others.
    config = GenerateConfig(
        policy=str(model),
        prompts=str(tmp_path),
        languages="en",
        samples=1,
        max_tokens=3,
        language_identifier=IDENTIFIER,
    )
    result = generation.run(generation.read(config), StageContext(tmp_path / "made", "f"))
    assert open_artifact(result.artifacts["responses"], RESPONSES).rows == 19
    # With the system prompt that has no place, nothing begins.
    for stage in (generation.read,):
        with pytest.raises(InputError, match="field 'system_prompt'"):
            stage(config.model_copy(update={"system_prompt": "Be brief."}))


def test_pairs_whose_turns_a_template_refuses_are_left_out_up_to_a_tenth(tiny_model: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    (model / "chat_template.jinja").write_text(GEMMA_2)
    good = [{"prompt": f"Name a fruit. {i}", "chosen": "An apple.", "rejected": "A horse."} for i in range(9)]
    bad = {"system": "Be brief.", **good[0]}
    source = tmp_path / "pairs.jsonl"

    def config(*given: dict[str, str], **settings: Any) -> TrainConfig:
        source.write_text("\n".join(map(json.dumps, given)))
        return TrainConfig(policy=str(model), preferences=str(source), **settings)

    training.read(config(*good, bad))
    pairs = load_pairs(
        tokenise(str(source), tmp_path / "a", load_tokenizer(str(model))), load_tokenizer(str(model)), 99
    )
    assert (len(pairs), dict(pairs.left_out), sum(pairs.refused.values())) == (9, {"en": 1}, 1)
    with pytest.raises(InputError, match=r"pairs\.jsonl: 2 of 10 pairs cannot be asked: .*System role not supported"):
        training.read(config(*good[:8], bad, bad | {"prompt": "Another?"}))
    training.read(config(bad, bad, system_role="fold"))


def test_a_judge_sees_the_conversation(conversations: Path, tmp_path: Path) -> None:
    for name in ("outputs", "references"):
        (tmp_path / name).mkdir()
        lines = [json.dumps({"id": i, "output": f"{name} {i}"}) for i in range(4)]
        (tmp_path / name / "es.jsonl").write_text("\n".join(lines))
    config = EvalConfig(
        prompts=str(conversations), outputs=str(tmp_path / "outputs"), reference_outputs=str(tmp_path / "references"),
        languages="es", language_identifier=IDENTIFIER,
    )  # fmt: skip
    result = evaluation.run(evaluation.read(config), StageContext(tmp_path / "evaluated", "f"))
    table = open_artifact(result.artifacts["outputs"], OUTPUTS).read()
    pairs = {pair.prompt_id: pair for pair in pairs_of(table, read_inputs(config))}
    assert pairs["0"].instruction == "Saluda."
    [message] = DEFAULT_TEMPLATE.render(pairs["3"], MODEL_FIRST)
    for part in (
        "<system>\nUna palabra.\n</system>",
        "<user>\nHola\n</user>",
        "<assistant>\nBuenas.\n</assistant>",
        "¿De qué color",
    ):
        assert message["content"].count(part) == 1
    assert isinstance(pairs["3"], Pair)


def test_a_text_is_a_conversation_of_one_turn() -> None:
    tokenizer = bound(CHATML)
    assert encode_prompt(tokenizer, "Hi") == encode_prompt(tokenizer, Conversation("Hi"))
