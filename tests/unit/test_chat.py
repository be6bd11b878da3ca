"""Token ids and completion masks against tables written by hand, for the template styles of real models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from icr_platform.core.errors import InputError
from icr_platform.models.chat import (
    decode_response,
    encode_messages,
    encode_pair,
    encode_prompt,
    encode_response,
    end_of_turn_id,
    require_chat_template,
    stop_ids,
)

# As in meta-llama/Meta-Llama-3-8B-Instruct: BOS is the template's, contents are trimmed.
LLAMA_3 = (
    "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}"
    "{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
# As in Qwen2-Instruct and SmolLM2-Instruct: no BOS, a line feed after the end-of-turn token.
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As in google/gemma-2-9b-it: the assistant is called 'model', contents are trimmed, <eos> closes no turn.
GEMMA = (
    "{{ bos_token }}{% for message in messages %}{% set role = 'model' if message['role'] == 'assistant' else "
    "message['role'] %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
# As in mistralai/Mistral-7B-Instruct-v0.3: no special token before the assistant, </s> closes its turn.
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + "
    "' [/INST]' }}{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)


class Style(NamedTuple):
    """A tokenizer whose vocabulary is `tokens`, whole words and special tokens, and what it must make of the exchange.

    prompt, response: token texts, by hand, of the user turn 'Say hi' and of the answer 'hi there'.
    """

    template: str
    bos: str | None
    eos: str
    special: tuple[str, ...]
    prompt: tuple[str, ...]
    response: tuple[str, ...]


STYLES = {
    "llama-3": Style(
        LLAMA_3, "<|begin_of_text|>", "<|end_of_text|>", ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        ("<|begin_of_text|>", "<|start_header_id|>", "user", "<|end_header_id|>", "\n\n", "Say", " ", "hi", "<|eot_id|>",
         "<|start_header_id|>", "assistant", "<|end_header_id|>", "\n\n"),
        ("hi", " ", "there", "<|eot_id|>"),
    ),
    "chatml": Style(
        CHATML, None, "<|im_end|>", ("<|im_start|>", "<|endoftext|>"),
        ("<|im_start|>", "user", "\n", "Say", " ", "hi", "<|im_end|>", "\n", "<|im_start|>", "assistant", "\n"),
        ("hi", " ", "there", "<|im_end|>"),
    ),
    "gemma": Style(
        GEMMA, "<bos>", "<eos>", ("<start_of_turn>", "<end_of_turn>"),
        ("<bos>", "<start_of_turn>", "user", "\n", "Say", " ", "hi", "<end_of_turn>", "\n", "<start_of_turn>", "model", "\n"),
        ("hi", " ", "there", "<end_of_turn>"),
    ),
    "mistral": Style(
        MISTRAL, "<s>", "</s>", ("[INST]", "[/INST]"),
        ("<s>", "[INST]", " ", "Say", " ", "hi", " ", "[/INST]"),
        ("hi", " ", "there", "</s>"),
    ),
}  # fmt: skip
WORDS = ("user", "assistant", "model", "Say", "hi", "there", "no", " ", "\n", "\n\n", "[UNK]")


def build(style: Style) -> PreTrainedTokenizerFast:
    special = tuple(dict.fromkeys(token for token in (style.bos, style.eos, *style.special) if token))
    vocabulary = {token: number for number, token in enumerate((*special, *WORDS))}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r" |\n+"), "isolated")
    core.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=style.bos, eos_token=style.eos, unk_token="[UNK]",
        additional_special_tokens=list(style.special),
    )  # fmt: skip
    tokenizer.chat_template = style.template
    return tokenizer


@pytest.fixture(params=STYLES)
def style(request: pytest.FixtureRequest) -> Style:
    return STYLES[request.param]


def texts(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> tuple[str, ...]:
    return tuple(tokenizer.convert_ids_to_tokens(ids))


def test_prompt_ends_where_the_assistant_begins(style: Style) -> None:
    tokenizer = build(style)
    assert texts(tokenizer, encode_prompt(tokenizer, "Say hi")) == style.prompt


def test_response_closes_its_turn_only_when_it_finished(style: Style) -> None:
    tokenizer = build(style)
    assert texts(tokenizer, encode_response(tokenizer, "hi there")) == style.response
    assert texts(tokenizer, encode_response(tokenizer, "hi there", finished=False)) == style.response[:-1]


def test_mask_is_one_on_every_response_token_and_nowhere_else(style: Style) -> None:
    tokenizer = build(style)
    encoded = encode_pair(encode_prompt(tokenizer, "Say hi"), encode_response(tokenizer, "hi there"))
    assert texts(tokenizer, encoded.token_ids) == (*style.prompt, *style.response)
    assert encoded.completion_mask == [0] * len(style.prompt) + [1, 1, 1, 1]


def test_bos_once_or_never(style: Style) -> None:
    tokenizer = build(style)
    ids = encode_prompt(tokenizer, "Say hi")
    assert ids.count(tokenizer.bos_token_id) == (0 if style.bos is None else 1)
    assert tokenizer.bos_token_id not in encode_response(tokenizer, "hi there")


def test_ids_to_stop_on(style: Style) -> None:
    tokenizer = build(style)
    assert tokenizer.convert_ids_to_tokens(end_of_turn_id(tokenizer)) == style.response[-1]
    stops = stop_ids(tokenizer, [tokenizer.eos_token_id])
    assert set(tokenizer.convert_ids_to_tokens(stops)) == {style.eos, style.response[-1]}


def test_decoding_keeps_white_space(style: Style) -> None:
    tokenizer = build(style)
    spaced: Any = tokenizer.convert_tokens_to_ids([" ", "hi", "\n", "\n"])
    ids = [*spaced, end_of_turn_id(tokenizer)]
    assert decode_response(tokenizer, ids) == " hi\n\n"


def test_several_turns() -> None:
    tokenizer = build(STYLES["mistral"])
    turns = [("user", "Say hi"), ("assistant", "hi"), ("user", "no")]
    ids = encode_messages(tokenizer, [{"role": role, "content": content} for role, content in turns])
    assert texts(tokenizer, ids) == (
        "<s>", "[INST]", " ", "Say", " ", "hi", " ", "[/INST]", " ", "hi", "</s>", "[INST]", " ", "no", " ", "[/INST]",
    )  # fmt: skip


def _without_template(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = None
    require_chat_template(tokenizer, "some/model")


def _without_any_end(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    tokenizer.eos_token = None
    end_of_turn_id(tokenizer)


@pytest.mark.parametrize(
    ("broken", "field"), [(_without_template, "'chat_template'"), (_without_any_end, "'eos_token'")]
)
def test_what_a_tokenizer_must_have(broken: Callable[[PreTrainedTokenizerFast], None], field: str) -> None:
    with pytest.raises(InputError, match=field):
        broken(build(STYLES["mistral"]))
