"""Where thoughts end: a table of families, written by hand, on tokenizers that have their markers as one token or as several."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from icr_platform.models.chat import encode_prompt
from icr_platform.models.thinking import (
    ANY_MARKERS,
    STYLES,
    Reading,
    answer_start,
    end_marker,
    markers_of,
    read_response,
    split_text,
)
from tests.support.template_families import family_tokenizer
from tests.support.tiny_models import CHATML, chatml_tokenizer

END = "<|im_end|>"
HARMONY = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>", "<|constrain|>")
CHANNELS = "{% for m in messages %}<|start|>{{ m['role'] }}<|message|>{{ m['content'] }}<|end|>{% endfor %}" + (
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)


def tokenizer_of(
    tokens: tuple[str, ...] = (),
    special: tuple[str, ...] = (),
    opened: str = "",
    history: str = "",
    template: str = CHATML,
) -> Any:
    """ChatML with further added tokens; opened: what the template writes where the assistant begins. history: in a branch."""
    tokenizer: Any = chatml_tokenizer()
    if tokens:
        tokenizer.add_tokens(list(tokens))
    if special:
        tokenizer.add_tokens(list(special), special_tokens=True)
    begun = "{% if add_generation_prompt %}{{ '" + opened.replace("\n", "\\n") + "' }}{% endif %}" if opened else ""
    past = "{% if false %}{{ messages[0]['content'].split('" + history + "') }}{% endif %}" if history else ""
    tokenizer.chat_template = template + begun + past
    return tokenizer


THINK = ("<think>", "</think>")
FAMILIES: dict[str, Any] = {
    "qwen3": {"tokens": THINK},
    "qwen3 off": {"tokens": THINK, "opened": "<think>\n\n</think>\n\n"},
    "qwen3-thinking": {"tokens": THINK, "opened": "<think>\n"},
    "deepseek-v3.1 off": {"tokens": THINK, "opened": "</think>"},
    "glm off": {"tokens": THINK, "opened": "\n<think></think>"},
    "plain tokens": {"history": "</think>"},
    "plain opened": {"opened": "<think>"},
    "plain off": {"opened": "<think>\n\n</think>\n"},
    "no markers": {},
    "magistral": {"special": ("[THINK]", "[/THINK]")},
    "seed": {"tokens": ("<seed:think>", "</seed:think>")},
    "cohere": {"special": ("<|START_THINKING|>", "<|END_THINKING|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>")},
    "gemma-4": {"special": ("<|channel>", "<channel|>")},
    "gemma-4 off": {"special": ("<|channel>", "<channel|>"), "opened": "<|channel>thought\n<channel|>"},
    "apertus": {"special": ("<|inner_prefix|>", "<|inner_suffix|>")},
    "granite": {"history": "Here is my thought process:"},
    "hunyuan": {"tokens": THINK, "history": "<answer>"},
    "gpt-oss": {"special": HARMONY, "template": CHANNELS},
    "gpt-oss final": {"special": HARMONY, "template": CHANNELS, "opened": "<|channel|>final<|message|>"},
    "gpt-oss opened": {"special": HARMONY, "template": CHANNELS, "opened": "<|channel|>analysis<|message|>"},
}  # fmt: skip


class Case(NamedTuple):
    family: str
    response: str
    thought: str | None
    answer: str
    begins: (
        str | None
    )  # what the ids from answer_start on are decoded to, special tokens shown; None: nothing before the answer
    is_cut: bool = False


CASES = [
    Case("qwen3", f"<think>\nLet me see.\n</think>\n\nHola{END}", "Let me see.", "Hola", f"Hola{END}"),
    Case("qwen3", f"<think>Let me see.</think>Hola{END}", "Let me see.", "Hola", f"Hola{END}"),
    Case("qwen3", f"\n<think>\nx\n</think>\nHola\n{END}", "x", "Hola\n", f"Hola\n{END}"),
    Case("qwen3", f"<think>\n\n</think>\n\nHola{END}", None, "Hola", f"Hola{END}"),
    Case("qwen3", f"Hola{END}", None, "Hola", None),
    Case("qwen3", f" Hola {END}", None, " Hola ", None),
    Case("qwen3", "<think>\nLet me", "Let me", "", "", True),
    Case("qwen3", f"<think>\nLet me{END}", "Let me", "", "", True),
    Case("qwen3", "<think>", None, "", "", True),
    Case("qwen3", f"<think>\nx\n</think>{END}", "x", "", END),
    Case("qwen3", f"<think>\nx\n</think>\n\n{END}", "x", "", END),
    Case("qwen3", "<think>\nx\n</think>\n\n", "x", "", ""),
    Case("qwen3", f"<think>x</think>a <think> b </think> c{END}", "x", "a <think> b </think> c", f"a <think> b </think> c{END}"),
    Case("qwen3", f"<think>x</think>\n<think>y</think>\nHola{END}", "x\ny", "Hola", f"Hola{END}"),
    Case("qwen3", f"<think>x</think>\n\nsay </think>\nnow{END}", "x", "say </think>\nnow", f"say </think>\nnow{END}"),
    Case("qwen3", f"The tag `</think>` ends it{END}", None, "The tag `</think>` ends it", None),
    Case("qwen3", f"Use <think> to think.{END}", None, "Use <think> to think.", None),
    Case("qwen3", f"I see.\n</think>\n\nHola{END}", "I see.", "Hola", f"Hola{END}"),
    Case("qwen3", f"<think>यह हिन्दी है</think>\nहाँ{END}", "यह हिन्दी है", "हाँ", f"हाँ{END}"),
    Case("qwen3 off", f"Hola{END}", None, "Hola", None),
    Case("qwen3 off", f"a </think>\nb{END}", None, "a </think>\nb", None),
    Case("qwen3 off", f"<think>\nx\n</think>\n\nHola{END}", "x", "Hola", f"Hola{END}"),
    Case("qwen3-thinking", f"I see.\n</think>\n\nHola{END}", "I see.", "Hola", f"Hola{END}"),
    Case("qwen3-thinking", f"I see.</think>Hola{END}", "I see.", "Hola", f"Hola{END}"),
    Case("qwen3-thinking", f"<think>\nI see.\n</think>\n\nHola{END}", "I see.", "Hola", f"Hola{END}"),
    Case("qwen3-thinking", f"</think>\n\nHola{END}", None, "Hola", f"Hola{END}"),
    Case("qwen3-thinking", "I see", "I see", "", "", True),
    Case("qwen3-thinking", f"I see{END}", "I see", "", "", True),
    Case("deepseek-v3.1 off", f"Hola{END}", None, "Hola", None),
    Case("glm off", f"Hola </think>\n{END}", None, "Hola </think>\n", None),
    Case("plain tokens", f"<think>\nx y\n</think>\n\nHola{END}", "x y", "Hola", f"Hola{END}"),
    Case("plain tokens", f"<think>x</think>Hola{END}", "x", "Hola", f"Hola{END}"),
    Case("plain tokens", f"Hola{END}", None, "Hola", None),
    Case("plain tokens", "<think>x", "x", "", "", True),
    Case("plain tokens", f"<think>x</think>{END}", "x", "", END),
    Case("plain opened", f"\nx\n</think>\n\n¿Qué?{END}", "x", "¿Qué?", f"¿Qué?{END}"),
    Case("plain opened", "x", "x", "", "", True),
    Case("plain off", f"a</think>\nb{END}", None, "a</think>\nb", None),
    Case("no markers", f"<think>x</think>Hola{END}", None, "<think>x</think>Hola", None),
    Case("magistral", f"[THINK]x[/THINK]Hola{END}", "x", "Hola", f"Hola{END}"),
    Case("magistral", "[THINK]x", "x", "", "", True),
    Case("seed", f"<seed:think>x</seed:think>Hola{END}", "x", "Hola", f"Hola{END}"),
    Case("cohere", f"<|START_THINKING|>x<|END_THINKING|><|START_RESPONSE|>Hola<|END_RESPONSE|>{END}", "x", "Hola",
         f"Hola<|END_RESPONSE|>{END}"),
    Case("cohere", f"<|START_RESPONSE|>Hola<|END_RESPONSE|>{END}", None, "Hola", None),
    Case("gemma-4", f"<|channel>thought\nLet me.\n<channel|>Hola{END}", "Let me.", "Hola", f"Hola{END}"),
    Case("gemma-4", f"<|channel>thought\n<channel|>Hola{END}", None, "Hola", f"Hola{END}"),
    Case("gemma-4", f"<|channel>thoughtful it is<channel|>Hola{END}", "thoughtful it is", "Hola", f"Hola{END}"),
    Case("gemma-4", "<|channel>thought\nLet", "Let", "", "", True),
    Case("gemma-4 off", f"Hola{END}", None, "Hola", None),
    Case("apertus", f"<|inner_prefix|>x<|inner_suffix|>Hola{END}", "x", "Hola", f"Hola{END}"),
    Case("granite", f"Here is my thought process:\nx\n\nHere is my response:\nHola{END}", "x", "Hola", f"Hola{END}"),
    Case("granite", f"Sure. Here is my response:\nHola{END}", None, "Sure. Here is my response:\nHola", None),
    Case("hunyuan", f"<think>\nx\n</think>\n<answer>\nHola\n</answer>{END}", "x", "Hola", f"Hola\n</answer>{END}"),
    Case("gpt-oss", "<|channel|>analysis<|message|>We see.<|end|><|start|>assistant<|channel|>final<|message|>Hola<|return|>",
         "We see.", "Hola", "Hola<|return|>"),
    Case("gpt-oss", "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>commentary<|message|>b<|end|>"
         "<|start|>assistant<|channel|>final <|constrain|>json<|message|>{}<|return|>", "a\nb", "{}", "{}<|return|>"),
    Case("gpt-oss", "<|channel|>final<|message|>Hola<|return|>", None, "Hola", "Hola<|return|>"),
    Case("gpt-oss", "<|message|>Hola<|return|>", None, "Hola", "Hola<|return|>"),
    Case("gpt-oss", "Hola<|return|>", None, "Hola", None),
    Case("gpt-oss", "<|channel|>analysis<|message|>We", "We", "", "", True),
    Case("gpt-oss", "<|channel|>analysis<|message|>We<|end|>", "We", "", "", True),
    Case("gpt-oss", "<|channel|>analysis", None, "", "", True),
    Case("gpt-oss", "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>commentary to=f<|message|>{}<|call|>",
         "a\n{}", "", "", True),
    Case("gpt-oss", "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|><|return|>", "a", "",
         "<|return|>"),
    Case("gpt-oss final", "Hola<|return|>", None, "Hola", None),
    Case("gpt-oss opened", "a<|end|><|start|>assistant<|channel|>final<|message|>Hola<|return|>", "a", "Hola", "Hola<|return|>"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.family}-{case.response[:30]!r}")
def test_thought_and_answer_are_told_apart(case: Case) -> None:
    tokenizer = tokenizer_of(**FAMILIES[case.family])
    prompt_ids = encode_prompt(tokenizer, "Say <think> and </think> for me")
    ids = tokenizer(case.response, add_special_tokens=False)["input_ids"]
    read = read_response(tokenizer, prompt_ids, ids)
    begins = (
        None if read.answer_start is None else tokenizer.decode(ids[read.answer_start :], skip_special_tokens=False)
    )
    assert Case(case.family, case.response, read.thought, read.answer, begins, read.is_cut) == case
    split = answer_start(tokenizer, prompt_ids, ids)
    assert (split.answer_start, split.is_cut) == (read.answer_start, read.is_cut)


def test_a_marker_that_a_user_typed_last_is_no_marker() -> None:
    bare = tokenizer_of(tokens=THINK, template="{{ messages[0]['content'] }}")
    for typed in ("<think>", "x <think>\n"):
        prompt_ids = encode_prompt(bare, typed)
        assert read_response(bare, prompt_ids, bare("Hola")["input_ids"]) == Reading(None, "Hola", None)


def test_markers_within_other_tokens_are_text_where_the_tokenizer_has_them_as_tokens() -> None:
    """The thought spells `</think>` letter by letter."""
    tokenizer = tokenizer_of(tokens=THINK)
    opening, closing = tokenizer.convert_tokens_to_ids(list(THINK))
    spelt = [token for letter in "</think>\n" for token in tokenizer(letter)["input_ids"]]
    ids = [opening, *spelt, closing, *tokenizer("Hola")["input_ids"]]
    assert read_response(tokenizer, [], ids) == Reading("</think>", "Hola", len(spelt) + 2)


def test_markers_that_a_model_spells_though_its_tokenizer_has_them_as_tokens() -> None:
    tokenizer = tokenizer_of(tokens=THINK)

    def spelt(text: str) -> list[int]:
        return [token for letter in text for token in tokenizer(letter)["input_ids"]]

    opening = tokenizer.convert_tokens_to_ids(THINK[0])
    for ids in (spelt("<think>x</think>Hola"), [opening, *spelt("x</think>Hola")]):
        read = read_response(tokenizer, [], ids)
        assert (read.thought, read.answer, read.is_cut) == ("x", "Hola", False)
        assert tokenizer.decode(ids[read.answer_start :]) == "Hola"
    assert read_response(tokenizer, [], [opening, *spelt("x")]).is_cut
    assert read_response(tokenizer, [], spelt("a</think>\nb")) == Reading(None, "a</think>\nb", None)


def test_a_token_that_ends_the_marker_and_begins_the_answer_is_the_answers() -> None:
    tokenizer = tokenizer_of(tokens=(">H",), history="</think>")
    ids = tokenizer("<think>x</think>Hola")["input_ids"]
    read = read_response(tokenizer, [], ids)
    assert read.answer_start is not None
    assert (read.thought, read.answer) == ("x", "Hola")
    assert tokenizer.decode(ids[read.answer_start :]) == ">Hola"


TEXTS = [
    ("<think>x</think>Hola", "x", "Hola"),
    ("x\n</think>\n\nHola", "x", "Hola"),
    ("The `</think>` tag", None, "The `</think>` tag"),
    ("Hola ", None, "Hola "),
    ("[THINK]x[/THINK] Hola", "x", "Hola"),
    ("<seed:think>x</seed:think>Hola", "x", "Hola"),
    ("<|channel>thought\nx<channel|>Hola", "x", "Hola"),
    ("<|channel|>analysis<|message|>x<|end|><|start|>assistant<|channel|>final<|message|>Hola<|return|>", "x", "Hola"),
    ("analysisWe see.assistantfinalHola", "We see.", "Hola"),
    ("analysis of the text", None, "analysis of the text"),
    ("Here is my thought process:\nx\nHere is my response:\nHola", "x", "Hola"),
    ("Here is my response:\nHola", None, "Here is my response:\nHola"),
    ("Here is my thought process: none", None, "Here is my thought process: none"),
    ("<think>\n\n</think>\n\nHola", None, "Hola"),
    ("<think>x</think>\n<answer>Hola</answer>", "x", "Hola"),
    ("", None, ""),
]


@pytest.mark.parametrize(("text", "thought", "answer"), TEXTS)
def test_texts_of_unknown_models_are_split_by_any_familys_markers(text: str, thought: str | None, answer: str) -> None:
    for told in (split_text(None, text), split_text(ANY_MARKERS, text)):
        assert (told.thought, told.answer, told.is_cut) == (thought, answer, False)


def test_a_text_that_is_cut_within_its_thought_has_no_answer() -> None:
    for text in ("<think>x", "<|channel|>analysis<|message|>x<|end|>"):
        assert split_text(None, text).is_cut
        assert split_text(None, text).answer == ""
    assert split_text(None, "x", is_open=True).is_cut
    assert split_text(tokenizer_of(), "<think>x</think>Hola").answer == "<think>x</think>Hola", "it has no markers"
    assert split_text(tokenizer_of(tokens=THINK), "a\n</think>\nb", is_open=False).thought is None


def test_a_tokenizer_without_markers_has_none() -> None:
    assert not markers_of(tokenizer_of())
    assert [marked.style for marked in markers_of(tokenizer_of(tokens=THINK)).styles] == [STYLES[0]]


@pytest.mark.parametrize(
    ("family", "marker"),
    [
        ("qwen3", "</think>"), ("ministral-3-reasoning", "[/THINK]"), ("gpt-oss", "<|message|>"), ("seed-oss", "</seed:think>"),
        ("qwen2.5", None), ("llama-3.2", None), ("gemma-3", None),
    ],
)  # fmt: skip
def test_a_benchmark_reads_answers_behind_the_marker_that_the_template_knows(family: str, marker: str | None) -> None:
    tokenizer: Any = family_tokenizer(family)
    assert end_marker(tokenizer) == (None if marker is None else tokenizer.convert_tokens_to_ids(marker))
