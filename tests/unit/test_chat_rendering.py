"""What chat templates print: the configured date and never the clock's, and the text of every message whatever form they take."""

from __future__ import annotations

import ast
import locale
import shutil
from collections.abc import Callable
from datetime import date, datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.utils import chat_template_utils

import icr_platform
from icr_platform.annotation import stage as annotation
from icr_platform.annotation.config import AnnotateConfig
from icr_platform.cli import commands
from icr_platform.core.artifacts import open_artifact
from icr_platform.core.config import ChatSettings, leaves, role, validate
from icr_platform.core.errors import InputError
from icr_platform.core.schemas import REWARDS
from icr_platform.core.stage_protocol import StageContext
from icr_platform.demo import IDENTIFIER
from icr_platform.engines.scoring import model_scores
from icr_platform.evaluation import mt_bench_stage
from icr_platform.evaluation import stage as evaluation
from icr_platform.evaluation.config import EvalConfig, MtBenchConfig
from icr_platform.generation import stage as generation
from icr_platform.generation.config import GenerateConfig
from icr_platform.models.chat import (
    Roles,
    bind,
    clock,
    encode_messages,
    encode_prompt,
    end_of_turn_id,
    prints_date,
    require_roles,
)
from icr_platform.models.loading import check_same_tokenisation, load_model, load_tokenizer
from icr_platform.pipeline import iterate
from icr_platform.pipeline.arm import Arm
from icr_platform.pipeline.config import IterateConfig, load_preset
from icr_platform.pipeline.stages import CONFIGURED
from icr_platform.training import stage as training
from icr_platform.training.config import TrainConfig
from tests.support.files import with_template
from tests.support.tiny_models import CHATML, chatml_tokenizer

TURNS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# How real templates come to their date, and what must be in the prompt on 9 March 2025.
DATED = {
    "llama-3.2": (
        "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
        '{%- set date_string = strftime_now("%d %b %Y") %}{%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}'
        "{%- endif %}Cutting Knowledge Date: December 2023\nToday Date: {{ date_string }}\n\n" + TURNS,
        "Today Date: 09 Mar 2025\n",
    ),
    "mistral-small-3": (
        '{%- set today = strftime_now("%Y-%m-%d") %}'
        '{%- set default_system_message = "The current date is " + today + ".\n" %}{{ default_system_message }}' + TURNS,
        "The current date is 2025-03-09.\n",
    ),
    "granite-3": (
        "{%- macro header() %}Knowledge Cutoff Date: April 2024.\nToday's Date: {{ strftime_now('%B %d, %Y') }}.\n{% endmacro %}"
        "{{ header() }}" + TURNS,
        "Today's Date: March 09, 2025.\n",
    ),
    "smollm3": (
        '{%- set today = strftime_now("%d %B %Y") -%}Today Date: ' "{{ today ~ '\n' }}" + TURNS,
        "Today Date: 09 March 2025\n",
    ),
    "gpt-oss": (
        "{%- macro build_system_message() -%}{{- \"Current date: \" + strftime_now(\"%Y-%m-%d\") + \"\\n\\n\" }}{%- endmacro -%}"
        "<|start|>system<|message|>{{- build_system_message() }}<|end|>" + TURNS,
        "Current date: 2025-03-09\n\n",
    ),
    "weekday and time": (
        "{{ strftime_now('%A %a %B %b, %H:%M:%S, %-d, 100%%b\n') }}" + TURNS,
        "Sunday Sun March Mar, 00:00:00, 9, 100%b\n",
    ),
}  # fmt: skip
ASKED = ChatSettings(template_date=date(2025, 3, 9))


def rendered(tokenizer: Any, *messages: tuple[str, str]) -> str:
    ids = encode_messages(tokenizer, [{"role": role, "content": content} for role, content in messages])
    return str(tokenizer.decode(ids))


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[datetime], None]:
    """Make it any time for transformers' chat templates."""

    def change(moment: datetime) -> None:
        monkeypatch.setattr(chat_template_utils, "datetime", SimpleNamespace(now=lambda: moment))

    return change


@pytest.mark.parametrize("style", DATED)
def test_a_template_prints_the_configured_date_and_never_the_clocks(
    style: str, tiny_model: Path, tmp_path: Path, set_clock: Callable[[datetime], None]
) -> None:
    template, line = DATED[style]
    model = str(with_template(tiny_model, tmp_path / "model", template))
    seen = set()
    for moment in (datetime(2026, 11, 25, 23, 59), datetime(2026, 11, 26, 0, 1), datetime(1999, 12, 31)):
        set_clock(moment)
        tokenizer = load_tokenizer(model, ASKED)
        seen.add((rendered(tokenizer, ("user", "Name a fruit.")), end_of_turn_id(tokenizer)))
        assert tuple(encode_prompt(load_tokenizer(model), "Hi")) != tuple(encode_prompt(tokenizer, "Hi"))
    ((text, end),) = seen
    assert line in text
    assert text.endswith("<|im_start|>user\nName a fruit.<|im_end|>\n<|im_start|>assistant\n")
    assert end == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert prints_date(tokenizer)


def test_the_default_date_is_a_constant_and_other_templates_do_not_change(tiny_model: Path, tmp_path: Path) -> None:
    model = str(with_template(tiny_model, tmp_path / "model", DATED["gpt-oss"][0]))
    assert "Current date: 2026-01-01\n" in rendered(load_tokenizer(model), ("user", "Hi"))
    # A tokenizer that came without settings, from a test or a script, is never left to the clock.
    raw = chatml_tokenizer()
    raw.chat_template = DATED["gpt-oss"][0]
    assert "Current date: 2026-01-01\n" in rendered(raw, ("user", "Hi"))
    tokenizer = load_tokenizer(str(tiny_model), ASKED)
    assert not prints_date(tokenizer)
    messages = [("system", "Be brief."), ("user", "¿Qué tal?\n "), ("assistant", " Bien."), ("user", "Ya")]
    turns = [{"role": role, "content": content} for role, content in messages]
    assert rendered(tokenizer, *messages) == tokenizer.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=True
    )


@pytest.mark.parametrize("pattern", ["%A", "%d", "%m", "%y", "%B"])
def test_a_part_of_the_date_is_a_date(pattern: str) -> None:
    tokenizer = chatml_tokenizer()
    assert not prints_date(tokenizer)
    dated = chatml_tokenizer()
    dated.chat_template = f"{{{{ strftime_now('{pattern}') }}}}" + CHATML
    assert prints_date(dated)


def test_dates_are_english_whatever_the_locale() -> None:
    kept = locale.setlocale(locale.LC_TIME)
    try:
        for name in ("de_DE.UTF-8", "fr_FR.UTF-8", "es_ES.UTF-8", "C.UTF-8"):
            try:
                locale.setlocale(locale.LC_TIME, name)
            except locale.Error:
                continue
            found = clock(date(2026, 5, 2))("%A %a, %d %B %b %Y %p | %c | %x %X %r | %%B %j")
            assert (
                found
                == "Saturday Sat, 02 May May 2026 AM | Sat May  2 00:00:00 2026 | 05/02/26 00:00:00 12:00:00 AM | %B 122"
            )
    finally:
        locale.setlocale(locale.LC_TIME, kept)


def test_models_that_print_the_date_in_other_forms_do_not_tokenise_alike(tiny_model: Path, tmp_path: Path) -> None:
    paths = [
        str(with_template(tiny_model, tmp_path / style, DATED[style][0])) for style in ("llama-3.2", "mistral-small-3")
    ]
    check_same_tokenisation(paths[0], paths[0], ASKED)
    with pytest.raises(InputError, match="field 'chat_template'"):
        check_same_tokenisation(paths[0], paths[1], ASKED)


def test_rewards_do_not_move_at_midnight_and_do_with_the_setting(
    tiny_models: tuple[Path, Path], prompt_folder: Path, tmp_path: Path, set_clock: Callable[[datetime], None]
) -> None:
    """The policy is scored before midnight, the reference after it."""
    policy, reference = (str(with_template(path, tmp_path / path.name, DATED["llama-3.2"][0])) for path in tiny_models)
    responses = generation.run(
        generation.read(
            GenerateConfig(
                policy=policy,
                prompts=str(prompt_folder),
                languages="en,es",
                samples=2,
                max_tokens=8,
                language_identifier=IDENTIFIER,
            )
        ),
        StageContext(tmp_path / "generated", "f"),
    ).artifacts["responses"]

    def rewards(name: str, between: datetime, **settings: Any) -> Any:
        config = AnnotateConfig(
            policy=policy, reference=reference, prompts=str(prompt_folder), responses=str(responses), drop_truncated=False,
            drop_wrong_language=False, **settings,
        )  # fmt: skip
        set_clock(datetime(2026, 11, 25, 23, 59))

        def load_later(model: str, *rest: Any, **named: Any) -> Any:
            if model == reference:
                set_clock(between)
            return load_model(model, *rest, **named)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(model_scores, "load_model", load_later)
            result = annotation.run(annotation.read(config), StageContext(tmp_path / name, "f"))
        return open_artifact(result.artifacts["rewards"], REWARDS).read().column("reward").to_pylist()

    before = rewards("one-day", datetime(2026, 11, 25, 23, 59))
    assert sum(reward is not None for reward in before) > 20
    assert rewards("midnight", datetime(2026, 11, 26, 0, 1)) == before
    assert rewards("asked", datetime(2026, 11, 26, 0, 1), template_date="2025-03-09") != before


def test_no_call_in_the_package_forgets_the_settings_of_the_chat() -> None:
    """Arguments that must be given where a default is there for scripts and tests."""
    needed = {"load_tokenizer": 2, "make_sampler": 3, "check_same_tokenisation": 3, "LocalJudge": 7}
    seen = set()
    for path in Path(icr_platform.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            # The local judge is made by its own class method, which calls it `cls`.
            name = "LocalJudge" if node.func.id == "cls" and path.name == "local_judge.py" else node.func.id
            if name in needed:
                given = len(node.args) + len([word for word in node.keywords if word.arg == "chat"])
                assert given >= needed[name], f"{path}:{node.lineno}: {name} without its chat settings"
                seen.add(name)
    assert seen == set(needed)


def test_one_date_is_set_for_all_stages_and_is_part_of_their_identity(tmp_path: Path) -> None:
    for name in ("generate", "annotate", "train", "eval", "mt_bench", "iterate"):
        fields = dict(leaves(CONFIGURED[name].config))
        assert role(fields["template_date"]) == "setting", name
        assert not any(field.endswith(".template_date") for field in fields), "sections could disagree"
    with pytest.raises(
        InputError, match=r"unknown field 'generate\.template_date'; give 'template_date' outside the sections"
    ):
        validate(IterateConfig, {"generate": {"template_date": "2025-03-09"}}, "mine.yaml")
    preset = tmp_path / "mine.yaml"
    preset.write_text("policy: p\nprompts: t\ntemplate_date: 2025-03-09\ngenerate: {samples: 2}\n")
    for stage in ("generate", "annotate", "train", "eval"):
        assert validate(CONFIGURED[stage].config, load_preset(preset, stage), "mine").template_date == date(2025, 3, 9)  # type: ignore[attr-defined]
    for wrong in (2026, 20260101, 1.5, "today", "2026-02-30", "", None, datetime(2026, 1, 1, 8)):
        with pytest.raises(InputError, match="field 'template_date'"):
            validate(GenerateConfig, {"template_date": wrong}, "mine.yaml")


def test_iterate_hands_its_date_to_every_stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    configs: list[Any] = []

    def record(session: Any, arm: Any, iteration: int, stage: str, parent: Any, config: Any, step: str = "") -> Any:
        configs.append(config)
        return SimpleNamespace(reference=lambda name: str(tmp_path / name), run=None, reused=False)

    monkeypatch.setattr(iterate, "_stage", record)
    config = IterateConfig(policy="p", reference="r", prompts="q", eval_prompts="e", template_date=date(2025, 3, 9))
    arm = Arm(config, config, None, ["p"])
    session: Any = SimpleNamespace(tracker=None)
    iterate._improve(session, arm, 1, None)
    configs.append(config.eval_config("p"))
    assert [type(config) for config in configs] == [GenerateConfig, AnnotateConfig, TrainConfig, EvalConfig]
    assert {config.template_date for config in configs} == {date(2025, 3, 9)}


def test_check_says_that_the_date_is_fixed_and_what_the_checkpoint_has_beside_the_model(
    tiny_model: Path,
    prompt_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = with_template(tiny_model, tmp_path / "model", DATED["granite-3"][0])
    tensors = load_file(model / "model.safetensors") | {"vision_tower.weight": torch.zeros(3)}
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    preset = tmp_path / "mine.yaml"
    preset.write_text(f"policy: {model}\nreference: {model}\nprompts: {prompt_folder}\ntemplate_date: 2025-03-09\n")
    monkeypatch.chdir(tmp_path)
    assert commands.run(["check", str(preset), "--no-tracking"]) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert notes == [
        f"note: {model}: the model has no place for 1 tensor of its checkpoint, left out: vision_tower.weight",
        f"note: the chat template of {model} prints the day's date; every prompt says 2025-03-09 (template_date)",
    ]


PARTS = "{% for c in m['content'] %}{% if c['type'] == 'text' %}{{ c['text'] }}{% else %}<image>{% endif %}{% endfor %}"
IMAGES_AND_TEXT = TURNS.replace("{{ m['content'] | trim }}", PARTS)
# As LLaVA's: `selectattr` finds no part of type 'text' among the characters of a string.
LLAVA = TURNS.replace(
    "{{ m['content'] | trim }}",
    "{% for c in m['content'] | selectattr('type', 'equalto', 'text') %}{{ c['text'] }}{% endfor %}",
)
MULTIMODAL = {
    "parts only": IMAGES_AND_TEXT,
    "selectattr": LLAVA,
    "first part": TURNS.replace("m['content'] | trim", "m['content'][0]['text']"),
    "raises on a string": TURNS.replace("{{ m['content'] | trim }}", "{{ '' ~ (m['content'] | first).text.strip() }}"),
    # As Gemma 3's and Pixtral's.
    "both": TURNS.replace(
        "{{ m['content'] | trim }}", "{% if m['content'] is string %}{{ m['content'] }}{% else %}" + PARTS + "{% endif %}"
    ),
    # Users send images, the assistant and the system only write.
    "by role": TURNS.replace(
        "{{ m['content'] | trim }}",
        "{% if m['role'] == 'user' %}" + PARTS + "{% else %}{{ m['content'] + '' }}{% endif %}",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", MULTIMODAL)
def test_a_multimodal_template_is_given_its_text_as_it_takes_it(kind: str, tiny_model: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(with_template(tiny_model, tmp_path / "model", MULTIMODAL[kind])))
    plain = load_tokenizer(str(tiny_model))
    for turns in (
        [("user", "Name a fruit.")],
        [("system", "Be brief."), ("user", 'It\'s "{{ x }}" <b>\\ñ\n你好</b>')],
        [("user", "¿Qué?"), ("assistant", "Una manzana."), ("user", "[{'type': 'text'}]")],
    ):
        assert rendered(tokenizer, *turns) == rendered(plain, *turns)
    assert end_of_turn_id(tokenizer) == plain.eos_token_id


LOST = {
    "no content": (TURNS.replace("{{ m['content'] | trim }}", ""), "the text of the user message does not reach"),
    "characters apart": (
        TURNS.replace("{{ m['content'] | trim }}", "{% for c in m['content'] %}{{ c }} {% endfor %}"),
        "the text of the user message does not reach",
    ),
    "the list as Python": (
        TURNS.replace("m['content'] | trim", "m['content'] if m['content'] is not string else 'text'"),
        "the text of the user message does not reach",
    ),
    "cut": (TURNS.replace("| trim", "| truncate(8, true, '')"), "the text of the user message does not reach"),
    "its first line": (TURNS.replace("m['content'] | trim", "m['content'].split('\\n')[0]"), "the text of the user message does not reach"),
    "without tags": (TURNS.replace("| trim", "| striptags"), "the text of the user message does not reach"),
    "escaped": (TURNS.replace("| trim", "| e"), "the text of the user message does not reach"),
    "another field": (TURNS.replace("m['content']", "m['text']"), "the text of the user message does not reach"),
    "always raises": ("{{ raise_exception('only tools') }}", r"the template refuses it \(only tools\)"),
    "syntax": ("{% for m in messages %}", "the template refuses it"),
}  # fmt: skip


@pytest.mark.parametrize("kind", LOST)
def test_a_template_that_loses_the_instruction_is_refused_in_one_line(
    kind: str, tiny_model: Path, tmp_path: Path
) -> None:
    template, why = LOST[kind]
    model = with_template(tiny_model, tmp_path / "model", template)
    with pytest.raises(
        InputError, match=rf"model: field 'chat_template': .*{why}.*give the model a chat template"
    ) as caught:
        load_tokenizer(str(model))
    assert "\n" not in str(caught.value)


def refused(call: Callable[[], object], *words: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_every_stage_refuses_it_before_it_loads_a_model(
    tiny_model: Path,
    prompt_folder: Path,
    make_preferences: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("loaded a model"))
    good, prompts = str(tiny_model), str(prompt_folder)
    bad = str(with_template(tiny_model, tmp_path / "bad", LOST["no content"][0]))
    references = tmp_path / "outputs"
    references.mkdir()
    preferences = str(make_preferences(tmp_path / "preferences", tiny_model, count=6))
    shutil.copy(prompt_folder / "en.jsonl", references)
    judged = EvalConfig(
        policy=good, prompts=prompts, reference_outputs=str(references), judge="logprob", judge_model=bad
    )
    for call in (
        lambda: generation.read(GenerateConfig(policy=bad, prompts=prompts)),
        lambda: annotation.read(AnnotateConfig(policy=bad, reference=bad, prompts=prompts, responses="r")),
        lambda: annotation.read(
            AnnotateConfig(
                policy=good, reference=good, prompts=prompts, responses="r", reward_kind="translate", translator=bad
            )
        ),
        lambda: training.read(TrainConfig(policy=bad, preferences=preferences)),
        lambda: evaluation.read(EvalConfig(policy=bad, prompts=prompts)),
        lambda: evaluation.read(judged),
    ):
        refused(call, "bad: field 'chat_template'", "the text of the user message does not reach the prompt")


NO_SYSTEM = TURNS.replace("{% for m in messages %}", "{% for m in messages if m['role'] != 'system' %}")
SYSTEM_REFUSED = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + TURNS
)
LAST_TURN_ONLY = TURNS.replace("{% for m in messages %}", "{% for m in messages[-1:] %}")


def test_the_conversations_a_stage_needs_are_tried_before_work(
    tiny_model: Path, prompt_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    references, judge_template, questions = tmp_path / "outputs", tmp_path / "judge.yaml", tmp_path / "questions"
    references.mkdir()
    shutil.copy(prompt_folder / "en.jsonl", references)
    judge_template.write_text(
        "- {role: system, content: You judge.}\n- {role: user, content: '{instruction} {output_m} {output_M}'}\n"
    )
    for number, (template, why) in enumerate(
        ((NO_SYSTEM, "the text of the system message"), (SYSTEM_REFUSED, "System role not supported"))
    ):
        judge = str(with_template(tiny_model, tmp_path / f"judge-{number}", template))
        config = EvalConfig(
            policy=str(tiny_model), prompts=str(prompt_folder), languages="en", reference_outputs=str(references),
            judge="logprob", judge_model=judge, judge_template=str(judge_template),
        )  # fmt: skip
        refused(
            partial(evaluation.read, config),
            f"judge-{number}: field 'chat_template'",
            "system, user",
            why,
        )
    questions.mkdir()
    (questions / "en.jsonl").write_text('{"question_id": 1, "category": "math", "turns": ["1+1?", "And 2+2?"]}\n')
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    forgetful = str(with_template(tiny_model, tmp_path / "forgetful", LAST_TURN_ONLY))
    asked = MtBenchConfig(
        policy=forgetful, questions=str(questions), judge_api_model="m", judge_url="http://127.0.0.1:9"
    )
    refused(lambda: mt_bench_stage.read(asked), "forgetful: field 'chat_template'", "user, assistant, user")
    mt_bench_stage.read(asked.model_copy(update={"policy": str(tiny_model)}))


def test_a_template_that_refuses_one_text_says_which() -> None:
    tokenizer = chatml_tokenizer()
    guard = "{% if '</tool>' in messages[-1]['content'] %}{{ raise_exception('tools are off') }}{% endif %}"
    bind(tokenizer, "some/model", ChatSettings())
    tokenizer.chat_template = guard + CHATML
    with pytest.raises(
        InputError, match=r"some/model: field 'chat_template' refuses 'Close </tool>' \(tools are off\)"
    ):
        encode_prompt(tokenizer, "Close </tool>")
    roles: Roles = ("user", "assistant", "user")
    require_roles(tokenizer, roles)


ONE_TURN = "{% if messages | length > 1 %}{{ raise_exception('one turn only') }}{% endif %}" + CHATML
ALTERNATING = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% endfor %}"
    + CHATML
)
HEAD = "put what the system says at the head of the user's message, or give the model a chat template"
NAMED = "name one of its templates (rag, tool_use) 'default', or give the model a chat template"
TEMPLATES: dict[str, tuple[Any, Roles, str | None, str]] = {
    "named, with a default": ({"default": CHATML, "tool_use": "{{ nothing.at_all }}"}, ("user",), None, ""),
    "named, without one": ({"rag": CHATML, "tool_use": CHATML}, ("user",), "no default specified", NAMED),
    "named, the default refuses": ({"default": SYSTEM_REFUSED, "rag": CHATML}, ("system", "user"), "'chat_template' 'default'", HEAD),
    "no system role": (SYSTEM_REFUSED, ("system", "user"), "System role not supported", HEAD),
    "system dropped": (NO_SYSTEM, ("system", "user"), "the text of the system message does not reach", HEAD),
    "alternating": (ALTERNATING, ("system", "user"), "Conversation roles must alternate", HEAD),
    "alternating, as they do": (ALTERNATING, ("user", "assistant", "user"), None, ""),
    "two users": (ALTERNATING, ("user", "user"), "Conversation roles must alternate", ""),
    "one turn": (ONE_TURN, ("user", "assistant", "user"), "(one turn only)", ""),
    "earlier turns dropped": (LAST_TURN_ONLY, ("user", "assistant", "user"), "does not reach", ""),
    "syntax": ("{{ messages }}\n{% for m in messages %}{{ m.content }", ("user",), "(unexpected '}', line 2 of the template)", ""),
    "unknown filter": (CHATML + "{{ '' | nofilter }}", ("user",), "(No filter named 'nofilter'., line", ""),
    "unknown variable": (CHATML + "{{ tool.names }}", ("user",), "('tool' is undefined)", ""),
    "unknown function": (CHATML + "{{ now() }}", ("user",), "('now' is undefined)", ""),
    "unsafe": ("{{ messages.__class__.__mro__ }}", ("user",), "is unsafe", ""),
    "a number added": ("{{ messages[0].content + 1 }}", ("user",), "can only concatenate", ""),
    "endless recursion": ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", ("user",), "maximum recursion depth", ""),
    "a range too large": ("{% for i in range(10000000) %}x{% endfor %}", ("user",), "Range too big", ""),
    "included files": ("{% include 'other.jinja' %}", ("user",), "no loader", ""),
    "content as JSON": (CHATML.replace("message['content']", "(message['content'] | tojson)"), ("user",), "does not reach", ""),
    "two lines of error": ("{{ raise_exception('first\\nsecond') }}", ("user",), "(first second)", ""),
    "an empty error": ("{{ raise_exception('') }}", ("user",), "(TemplateError)", ""),
    "blank": (" ", ("user",), "does not reach", ""),
    "tags for training": (
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}", ("user",), None, "",
    ),
    "a default system prompt": ("<|im_start|>system\nBe good.<|im_end|>\n" + CHATML, ("user",), None, ""),
    "a thought begun": (CHATML + "{% if add_generation_prompt %}<think>\n{% endif %}", ("user", "assistant", "user"), None, ""),
    "CRLF": (CHATML.replace("\n", "\r\n"), ("system", "user"), None, ""),
}  # fmt: skip


@pytest.mark.parametrize("kind", TEMPLATES)
def test_templates_as_people_have_them_render_or_say_why_not(kind: str) -> None:
    template, roles, why, fix = TEMPLATES[kind]
    tokenizer = chatml_tokenizer(300)
    tokenizer.name_or_path = "org/model"
    tokenizer.chat_template = template
    if why is None:
        require_roles(tokenizer, roles)
        turns = [{"role": role, "content": f"{role}{number}"} for number, role in enumerate(roles)]
        text = tokenizer.decode(encode_messages(tokenizer, turns))
        assert all(turn["content"] in text for turn in turns)
        return
    with pytest.raises(InputError) as caught:
        require_roles(tokenizer, roles)
    message = str(caught.value)
    assert message.startswith("org/model: field 'chat_template'")
    assert f"of a conversation of {', '.join(roles)}, " in message
    assert why in message, message
    assert fix in message, message
    assert "\n" not in message
    assert message.endswith("give the model a chat template that prints message['content'], text and nothing else")
