"""`chat_template_kwargs`: what people give, on every way in, and where it goes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from icr_platform.cli.flags import parse
from icr_platform.core.config import ChatSettings, identifying, leaves, validate, without_secrets
from icr_platform.core.errors import InputError
from icr_platform.generation.config import GenerateConfig
from icr_platform.models.chat import encode_messages
from icr_platform.models.loading import chat_of_helper, load_tokenizer
from icr_platform.pipeline.config import IterateConfig, load_preset
from icr_platform.pipeline.stages import CONFIGURED
from tests.support.files import with_template
from tests.support.tiny_models import CHATML

HYBRID = CHATML.removesuffix("{% endif %}") + (
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
OFF = {"enable_thinking": False}
GIVEN: list[tuple[Any, dict[str, Any]]] = [
    ('{"enable_thinking": false}', OFF),
    (' {"enable_thinking" : false}\n', OFF),
    (OFF, OFF),
    ('{"reasoning_effort": "high", "enable_thinking": true}', {"reasoning_effort": "high", "enable_thinking": True}),
    ('{"thinking_budget": 512, "temperature_hint": 0.5}', {"thinking_budget": 512, "temperature_hint": 0.5}),
    ('{"tools": [{"type": "function", "function": {"name": "x"}}]}', {"tools": [{"type": "function", "function": {"name": "x"}}]}),
    ({"documents": ({"title": "a"},)}, {"documents": [{"title": "a"}]}),
    ('{"persona": "Ünïcode 日本"}', {"persona": "Ünïcode 日本"}),
    ('{"custom_instructions": null}', {"custom_instructions": None}),
    ("{}", {}), ("", {}), (" ", {}), ("none", {}), ("null", {}), (None, {}), ({}, {}),
]  # fmt: skip
WRONG: list[tuple[Any, str]] = [
    ("enable_thinking=false", r"not JSON .*write an object such as \{\"enable_thinking\": false\}"),
    ("{'enable_thinking': False}", "not JSON"),
    ('{"enable_thinking": False}', "not JSON"),
    ('{"enable_thinking": false', "not JSON"),
    ("enable_thinking", "not JSON"),
    ("false", "not a mapping"),
    (False, "not a mapping"),
    ('["enable_thinking"]', "not a mapping"),
    ('"enable_thinking"', "not a mapping"),
    ('{"enable-thinking": false}', "'enable-thinking' is not the name of a variable"),
    ('{"": 1}', "'' is not the name of a variable"),
    ({1: 2}, "1 is not the name of a variable"),
    ({True: 2}, "True is not the name of a variable"),
    ('{"enable_thinking": true, "enable_thinking": false}', "'enable_thinking' is given twice"),
    ('{"a": {"b": 1, "b": 2}}', "'b' is given twice"),
    ('{"a": NaN}', "a is nan, which JSON does not have"),
    ({"a": [float("inf")]}, r"a\[0\] is inf"),
    ({"a": {1: 2}}, "a has the key 1, which is not a text"),
    ({"a": {"b": object}}, r"a\.b is .*quote it"),
    ('{"messages": []}', "'messages' cannot be given"),
    ('{"add_generation_prompt": false}', "'add_generation_prompt' cannot be given"),
    ('{"tokenize": true}', "not an argument of the template"),
    ('{"strftime_now": "x"}', "give template_date"),
    ('{"chat_template": "x"}', "chat_template.jinja"),
    ("{" + '"a": {' * 40 + "}" * 41, "nested more than 20"),
    ("[" * 100_000, "not JSON|nested"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "seen"), GIVEN)
def test_arguments_are_a_mapping_or_a_json_object(given: Any, seen: dict[str, Any]) -> None:
    assert validate(GenerateConfig, {"chat_template_kwargs": given}, "mine").chat_template_kwargs == seen


@pytest.mark.parametrize(("given", "said"), WRONG)
def test_a_wrong_mapping_is_one_line(given: Any, said: str) -> None:
    with pytest.raises(InputError, match=rf"mine: field 'chat_template_kwargs': .*{said}") as refused:
        validate(GenerateConfig, {"chat_template_kwargs": given}, "mine")
    assert "\n" not in str(refused.value)


def test_flag_preset_and_mlflow_spell_the_same(tmp_path: Path) -> None:
    needed = ["--policy", "p", "--prompts", "t", "--languages", "en"]
    text = json.dumps(OFF)
    for flags in (
        ["--chat-template-kwargs", text],
        [f"--chat-template-kwargs={text}"],
        ["--chat_template_kwargs", text],
    ):
        assert parse("generate", [*needed, *flags])[0].chat_template_kwargs == OFF  # type: ignore[attr-defined]
    preset = tmp_path / "mine.yaml"
    preset.write_text(
        "policy: p\nreference: r\nprompts: t\nchat_template_kwargs:\n  enable_thinking: false\n  tools: [{name: x}]\ntrain: {beta: 1}\n"
    )
    nested = OFF | {"tools": [{"name": "x"}]}
    for stage in ("iterate", "generate", "annotate", "train", "eval"):
        config: Any = validate(CONFIGURED[stage].config, load_preset(preset, stage), "mine")
        assert config.chat_template_kwargs == nested, stage
        given: Any = parse(stage, ["--config", str(preset), "--chat-template-kwargs", '{"a": 1}'])[0]
        assert given.chat_template_kwargs == {"a": 1}, "a flag takes the whole mapping's place"
    preset.write_text("policy: p\nprompts: t\nchat_template_kwargs: {date_string: 2026-01-01}\n")
    with pytest.raises(InputError, match=r"date_string is '2026-01-01' of the kind date.*quote it"):
        validate(GenerateConfig, load_preset(preset, "generate"), str(preset))
    with pytest.raises(InputError, match="'chat_template_kwargs' outside the sections"):
        validate(IterateConfig, {"generate": {"chat_template_kwargs": OFF}}, "mine.yaml")


def test_an_empty_mapping_is_not_part_of_an_identity_and_secrets_are_not_of_records() -> None:
    for name in ("generate", "annotate", "train", "eval", "mt_bench", "iterate"):
        fields = [field for field, _ in leaves(CONFIGURED[name].config)]
        assert "chat_template_kwargs" in fields, name
    assert "chat_template_kwargs" not in identifying(ChatSettings())
    assert identifying(ChatSettings(chat_template_kwargs=OFF))["chat_template_kwargs"] == OFF
    secret = ChatSettings(chat_template_kwargs={"a": ["https://user:hunter2hunter2@host/x"], "b": 1})
    assert "hunter2" not in str(without_secrets(secret))
    assert without_secrets(secret).chat_template_kwargs["b"] == 1


def test_the_template_gets_them_and_an_argument_that_it_does_not_use_or_refuses_is_one_line(
    tiny_model: Path, tmp_path: Path
) -> None:
    model = str(with_template(tiny_model, tmp_path / "hybrid", HYBRID))

    def end(**arguments: Any) -> str:
        tokenizer = load_tokenizer(model, ChatSettings(chat_template_kwargs=arguments))
        return str(tokenizer.decode(encode_messages(tokenizer, [{"role": "user", "content": "Hi"}])))

    assert end() == end(enable_thinking=True)
    assert end(enable_thinking=False) == end() + "<think>\n\n</think>\n\n"
    with pytest.raises(InputError, match=r"hybrid: field 'chat_template_kwargs': the chat template does not use 'enable_thinkng', nearest is "
                       "'enable_thinking'; change or remove it"):  # fmt: skip
        end(enable_thinkng=False)
    with pytest.raises(InputError, match="does not use 'budget', it takes enable_thinking; change"):
        end(budget=3)
    plain = str(with_template(tiny_model, tmp_path / "plain", CHATML))
    with pytest.raises(InputError, match=r"plain: .*does not use 'enable_thinking', it takes none"):
        load_tokenizer(plain, ChatSettings(chat_template_kwargs=OFF))
    assert chat_of_helper(plain, ChatSettings(chat_template_kwargs=OFF)) == ChatSettings()
    assert chat_of_helper(model, ChatSettings(chat_template_kwargs=OFF | {"x": 1})).chat_template_kwargs == OFF
    strict = (
        CHATML
        + "{% if effort is defined and effort not in ['low', 'high'] %}{{ raise_exception('no such effort') }}{% endif %}"
    )
    picky = str(with_template(tiny_model, tmp_path / "picky", strict))
    load_tokenizer(picky, ChatSettings(chat_template_kwargs={"effort": "low"}))
    with pytest.raises(InputError, match=r"picky: field 'chat_template_kwargs' is \{\"effort\": \"medium\"\}: the template refuses it "
                       r"\(no such effort\); change or remove it"):  # fmt: skip
        load_tokenizer(picky, ChatSettings(chat_template_kwargs={"effort": "medium"}))
    marked = "{% generation %}{% endgeneration %}" + HYBRID  # transformers' own tag, which Jinja does not know
    load_tokenizer(str(with_template(tiny_model, tmp_path / "marked", marked)), ChatSettings(chat_template_kwargs=OFF))
