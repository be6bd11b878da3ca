"""The prompts of real chat templates, in tables written by hand: what each family makes of a turn, a system prompt, a conversation,
keywords and the date."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from icr_platform.core.config import ChatSettings
from icr_platform.core.errors import InputError
from icr_platform.models.chat import encode_messages, encode_pair, encode_response, end_of_turn_id, stop_ids
from tests.support.template_families import FAMILIES, family_tokenizer

Turns = tuple[tuple[str, str], ...]

DAY = date(2025, 3, 9)
ASK = "¿Cuánto es 2+2?"
ONE: Turns = (("user", ASK),)
SYSTEM: Turns = (("system", "Sé breve."), ("user", ASK))
THREE: Turns = (("user", "Hola"), ("assistant", "¡Buenas!"), ("user", ASK))
OFF: dict[str, Any] = {"enable_thinking": False}
ON: dict[str, Any] = {"enable_thinking": True}

_QWEN = "<|im_start|>user\n¿Cuánto es 2+2?<|im_end|>\n<|im_start|>assistant\n"
_QWEN_SYSTEM = "<|im_start|>system\nSé breve.<|im_end|>\n"
_QWEN_EARLIER = "<|im_start|>user\nHola<|im_end|>\n<|im_start|>assistant\n¡Buenas!<|im_end|>\n"
_LLAMA = (
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: {}\n\n{}<|eot_id|>"
    "{}<|start_header_id|>user<|end_header_id|>\n\n¿Cuánto es 2+2?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
)
_GPT_OSS = (
    "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\nKnowledge cutoff: 2024-06\nCurrent date: {}\n\n"
    "Reasoning: {}\n\n# Valid channels: analysis, commentary, final. Channel must be included for every message.<|end|>"
    "{}<|start|>user<|message|>¿Cuánto es 2+2?<|end|><|start|>assistant"
)
_SMOLLM3 = (
    "<|im_start|>system\n## Metadata\n\nKnowledge Cutoff Date: June 2025\nToday Date: 09 March 2025\nReasoning Mode: {}\n\n"
    "## Custom Instructions\n\n{}\n\n<|im_end|>\n"
)
_SMOL = "You are a helpful AI assistant named SmolLM, trained by Hugging Face."
_COHERE = (
    "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>¿Cuánto es 2+2?<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>"
)

# family, keywords, conversation, the whole prompt
PROMPTS: tuple[tuple[str, dict[str, Any], Turns, str], ...] = (
    ("qwen3", {}, ONE, _QWEN),
    ("qwen3", ON, ONE, _QWEN),
    ("qwen3", OFF, ONE, _QWEN + "<think>\n\n</think>\n\n"),
    ("qwen3", {}, SYSTEM, _QWEN_SYSTEM + _QWEN),
    ("qwen3", OFF, SYSTEM, _QWEN_SYSTEM + _QWEN + "<think>\n\n</think>\n\n"),
    ("qwen3", {}, THREE, _QWEN_EARLIER + _QWEN),
    ("qwen3", OFF, THREE, _QWEN_EARLIER + _QWEN + "<think>\n\n</think>\n\n"),
    ("qwen2.5", {}, ONE, "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n" + _QWEN),
    ("qwen2.5", {}, SYSTEM, _QWEN_SYSTEM + _QWEN),
    ("qwen3-2507-thinking", {}, ONE, _QWEN + "<think>\n"),
    ("qwen3-2507-thinking", {}, THREE, _QWEN_EARLIER + _QWEN + "<think>\n"),
    ("qwen3.5", {}, ONE, _QWEN + "<think>\n"),
    ("qwen3.5", ON, SYSTEM, _QWEN_SYSTEM + _QWEN + "<think>\n"),
    ("qwen3.5", OFF, THREE, _QWEN_EARLIER + _QWEN + "<think>\n\n</think>\n\n"),
    ("nemotron-3-nano", ON, SYSTEM, _QWEN_SYSTEM + _QWEN + "<think>\n"),
    ("nemotron-3-nano", OFF, SYSTEM, _QWEN_SYSTEM + _QWEN + "<think></think>"),
    ("smollm3", {}, ONE, _SMOLLM3.format("/think", _SMOL) + _QWEN),
    ("smollm3", OFF, ONE, _SMOLLM3.format("/no_think", _SMOL) + _QWEN + "<think>\n\n</think>\n"),
    ("smollm3", {}, SYSTEM, _SMOLLM3.format("/think", "Sé breve.") + _QWEN),
    ("smollm3", {}, THREE, _SMOLLM3.format("/think", _SMOL) + _QWEN_EARLIER + _QWEN),
    (
        "smollm3", OFF, THREE,
        _SMOLLM3.format("/no_think", _SMOL)
        + "<|im_start|>user\nHola<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n¡Buenas!<|im_end|>\n" + _QWEN + "<think>\n\n</think>\n",
    ),
    ("eurollm", {}, SYSTEM, "<s>" + _QWEN_SYSTEM + _QWEN),
    ("lfm2", {}, ONE, "<|startoftext|>" + _QWEN),
    ("gemma-2", {}, ONE, "<bos><start_of_turn>user\n¿Cuánto es 2+2?<end_of_turn>\n<start_of_turn>model\n"),
    ("gemma-3", {}, ONE, "<bos><start_of_turn>user\n¿Cuánto es 2+2?<end_of_turn>\n<start_of_turn>model\n"),
    ("gemma-3", {}, SYSTEM, "<bos><start_of_turn>user\nSé breve.\n\n¿Cuánto es 2+2?<end_of_turn>\n<start_of_turn>model\n"),
    (
        "gemma-3", {}, THREE,
        "<bos><start_of_turn>user\nHola<end_of_turn>\n<start_of_turn>model\n¡Buenas!<end_of_turn>\n"
        "<start_of_turn>user\n¿Cuánto es 2+2?<end_of_turn>\n<start_of_turn>model\n",
    ),
    ("gemma-4", {}, ONE, "<bos><|turn>user\n¿Cuánto es 2+2?<turn|>\n<|turn>model\n"),
    ("gemma-4", ON, SYSTEM, "<bos><|turn>system\n<|think|>\nSé breve.<turn|>\n<|turn>user\n¿Cuánto es 2+2?<turn|>\n<|turn>model\n"),
    ("gpt-oss", {}, ONE, _GPT_OSS.format("2025-03-09", "medium", "")),
    ("gpt-oss", {"reasoning_effort": "high"}, ONE, _GPT_OSS.format("2025-03-09", "high", "")),
    (
        "gpt-oss", {"reasoning_effort": "low"}, SYSTEM,
        _GPT_OSS.format("2025-03-09", "low", "<|start|>developer<|message|># Instructions\n\nSé breve.\n\n<|end|>"),
    ),
    (
        "gpt-oss", {}, THREE,
        _GPT_OSS.format(
            "2025-03-09", "medium",
            "<|start|>user<|message|>Hola<|end|><|start|>assistant<|channel|>final<|message|>¡Buenas!<|end|>",
        ),
    ),
    ("llama-3.2", {}, ONE, _LLAMA.format("09 Mar 2025", "", "")),
    ("llama-3.2", {"date_string": "26 Jul 2024"}, ONE, _LLAMA.format("26 Jul 2024", "", "")),
    ("llama-3.2", {}, SYSTEM, _LLAMA.format("09 Mar 2025", "Sé breve.", "")),
    (
        "llama-3.2", {}, THREE,
        _LLAMA.format(
            "09 Mar 2025", "",
            "<|start_header_id|>user<|end_header_id|>\n\nHola<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n¡Buenas!<|eot_id|>",
        ),
    ),
    (
        "mistral-small-3", {}, ONE,
        "<s>[SYSTEM_PROMPT]You are Mistral Small 3, a Large Language Model (LLM) created by Mistral AI, a French startup headquartered in "
        "Paris.\nYour knowledge base was last updated on 2023-10-01. The current date is 2025-03-09.\n\nWhen you're not sure about some "
        "information, you say that you don't have the information and don't make up anything.\nIf the user's question is not clear, "
        "ambiguous, or does not provide enough context for you to accurately answer the question, you do not try to answer it right away and "
        "you rather ask the user to clarify their request (e.g. \"What are some good restaurants around me?\" => \"Where are you?\" or \"When "
        "is the next flight to Tokyo\" => \"Where do you travel from?\")[/SYSTEM_PROMPT][INST]¿Cuánto es 2+2?[/INST]",
    ),
    ("mistral-small-3", {}, SYSTEM, "<s>[SYSTEM_PROMPT]Sé breve.[/SYSTEM_PROMPT][INST]¿Cuánto es 2+2?[/INST]"),
    (
        "mistral-small-3", {}, (("system", "Sé breve."), *THREE),
        "<s>[SYSTEM_PROMPT]Sé breve.[/SYSTEM_PROMPT][INST]Hola[/INST]¡Buenas!</s>[INST]¿Cuánto es 2+2?[/INST]",
    ),
    ("mistral-nemo", {}, ONE, "<s>[INST]¿Cuánto es 2+2?[/INST]"),
    ("mistral-nemo", {}, SYSTEM, "<s>[INST]Sé breve.\n\n¿Cuánto es 2+2?[/INST]"),
    ("mistral-nemo", {}, (("system", "Sé breve."), *THREE), "<s>[INST]Hola[/INST]¡Buenas!</s>[INST]Sé breve.\n\n¿Cuánto es 2+2?[/INST]"),
    ("magistral", {}, SYSTEM, "<s>[SYSTEM_PROMPT]Sé breve.[/SYSTEM_PROMPT][INST]¿Cuánto es 2+2?[/INST]"),
    ("aya-expanse", {}, ONE, "<BOS_TOKEN>" + _COHERE),
    ("aya-expanse", {}, SYSTEM, "<BOS_TOKEN><|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>Sé breve.<|END_OF_TURN_TOKEN|>" + _COHERE),
    (
        "aya-expanse", {}, THREE,
        "<BOS_TOKEN><|START_OF_TURN_TOKEN|><|USER_TOKEN|>Hola<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>¡Buenas!<|END_OF_TURN_TOKEN|>" + _COHERE,
    ),
    (
        "command-a-reasoning", {}, ONE,
        "<BOS_TOKEN><|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|># Default Preamble\n- Your name is Command.<|END_OF_TURN_TOKEN|>" + _COHERE,
    ),
    (
        "command-a-reasoning", {"reasoning": False}, SYSTEM,
        "<BOS_TOKEN><|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|># Default Preamble\n- Your name is Command.\n\n# Developer Preamble\nSé breve."
        "<|END_OF_TURN_TOKEN|>" + _COHERE + "<|START_THINKING|><|END_THINKING|>",
    ),
    ("glm-4.5", {}, ONE, "[gMASK]<sop><|user|>\n¿Cuánto es 2+2?<|assistant|>"),
    ("glm-4.5", OFF, ONE, "[gMASK]<sop><|user|>\n¿Cuánto es 2+2?/nothink<|assistant|>\n<think></think>"),
    ("glm-4.5", {}, SYSTEM, "[gMASK]<sop><|system|>\nSé breve.<|user|>\n¿Cuánto es 2+2?<|assistant|>"),
    ("glm-4.5", {}, THREE, "[gMASK]<sop><|user|>\nHola<|assistant|>\n<think></think>\n¡Buenas!<|user|>\n¿Cuánto es 2+2?<|assistant|>"),
    ("deepseek-r1-distill", {}, ONE, "<｜begin▁of▁sentence｜><｜User｜>¿Cuánto es 2+2?<｜Assistant｜><think>\n"),
    ("deepseek-r1-distill", {}, SYSTEM, "<｜begin▁of▁sentence｜>Sé breve.<｜User｜>¿Cuánto es 2+2?<｜Assistant｜><think>\n"),
    (
        "deepseek-r1-distill", {}, THREE,
        "<｜begin▁of▁sentence｜><｜User｜>Hola<｜Assistant｜>¡Buenas!<｜end▁of▁sentence｜><｜User｜>¿Cuánto es 2+2?<｜Assistant｜><think>\n",
    ),
    ("phi-3.5-mini", {}, SYSTEM, "<|system|>\nSé breve.<|end|>\n<|user|>\n¿Cuánto es 2+2?<|end|>\n<|assistant|>\n"),
    (
        "phi-4-reasoning", {}, SYSTEM,
        "<|im_start|>system<|im_sep|>Sé breve.<|im_end|><|im_start|>user<|im_sep|>¿Cuánto es 2+2?<|im_end|><|im_start|>assistant<|im_sep|>",
    ),
    (
        "granite-3.3", {"thinking": True}, ONE,
        "<|start_of_role|>system<|end_of_role|>Knowledge Cutoff Date: April 2024. Today's Date: March 09, 2025. You are Granite, developed by "
        "IBM. You are a helpful AI assistant.\nRespond to every user query in a comprehensive and detailed way. You can write down your thoughts "
        "and reasoning process before responding. In the thought process, engage in a comprehensive cycle of analysis, summarization, "
        "exploration, reassessment, reflection, backtracing, and iteration to develop well-considered thinking process. In the response "
        "section, based on various attempts, explorations, and reflections from the thoughts section, systematically present the final solution "
        "that you deem correct. The response should summarize the thought process. Write your thoughts between <think></think> and write your "
        "response between <response></response> for each user query."
        "<|end_of_text|>\n<|start_of_role|>user<|end_of_role|>¿Cuánto es 2+2?<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>",
    ),
    (
        "granite-3.3", {}, SYSTEM,
        "<|start_of_role|>system<|end_of_role|>Sé breve.<|end_of_text|>\n<|start_of_role|>user<|end_of_role|>¿Cuánto es 2+2?<|end_of_text|>\n"
        "<|start_of_role|>assistant<|end_of_role|>",
    ),
    ("seed-oss", {}, ONE, "<seed:bos>user\n¿Cuánto es 2+2?<seed:eos><seed:bos>assistant\n"),
    (
        "seed-oss", {"thinking_budget": 0}, ONE,
        "<seed:bos>system\nYou are an intelligent assistant that answers without thinking.<seed:eos>"
        "<seed:bos>user\n¿Cuánto es 2+2?<seed:eos><seed:bos>assistant\n<seed:think></seed:think>",
    ),
)  # fmt: skip


def conversation(turns: Turns) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


@pytest.mark.parametrize(
    ("family", "keywords", "turns", "prompt"),
    PROMPTS,
    ids=[f"{family}-{'-'.join(f'{k}={v}' for k, v in keywords.items())}-{len(turns)}{turns[0][0]}" for family, keywords, turns, _ in PROMPTS],
)  # fmt: skip
def test_a_prompt_is_what_the_family_writes(family: str, keywords: dict[str, Any], turns: Turns, prompt: str) -> None:
    tokenizer = family_tokenizer(family, ChatSettings(template_date=DAY, chat_template_kwargs=keywords))
    ids = encode_messages(tokenizer, conversation(turns))
    assert tokenizer.decode(ids) == prompt
    # Each control token is one id, everything else a byte; BOS is there as often as the template writes it.
    bytes_, control = len(prompt.encode()), 0
    for token in (*FAMILIES[family].special, *FAMILIES[family].plain):
        assert ids.count(tokenizer.convert_tokens_to_ids(token)) == prompt.count(token)
        bytes_ -= prompt.count(token) * len(token.encode())
        control += prompt.count(token)
    assert len(ids) == bytes_ + control


# family, by which token the template closes an answer, what else ends it
ENDS = (
    ("qwen3", "<|im_end|>", ()), ("smollm3", "<|im_end|>", ()), ("eurollm", "<|im_end|>", ()), ("gemma-2", "<end_of_turn>", ("<eos>",)),
    ("gemma-3", "<end_of_turn>", ("<eos>",)), ("gemma-4", "<turn|>", ("<eos>",)), ("gpt-oss", "<|return|>", ()), ("llama-3.2", "<|eot_id|>", ()),
    ("mistral-small-3", "</s>", ()), ("mistral-nemo", "</s>", ()), ("magistral", "</s>", ()), ("aya-expanse", "<|END_OF_TURN_TOKEN|>", ()),
    ("glm-4.5", "<|endoftext|>", ()), ("deepseek-r1-distill", "<｜end▁of▁sentence｜>", ()), ("phi-3.5-mini", "<|end|>", ("<|endoftext|>",)),
    ("phi-4-reasoning", "<|im_end|>", ()), ("granite-3.3", "<|end_of_text|>", ()), ("seed-oss", "<seed:eos>", ()),
)  # fmt: skip


@pytest.mark.parametrize(("family", "end", "others"), ENDS, ids=[row[0] for row in ENDS])
def test_an_answer_ends_where_the_family_ends_it_and_the_mask_covers_that(
    family: str, end: str, others: tuple[str, ...]
) -> None:
    tokenizer = family_tokenizer(family, ChatSettings(template_date=DAY))
    end_id = tokenizer.convert_tokens_to_ids(end)
    assert end_of_turn_id(tokenizer) == end_id
    assert stop_ids(tokenizer) == sorted([end_id, *(tokenizer.convert_tokens_to_ids(token) for token in others)])
    prompt = encode_messages(tokenizer, conversation(ONE))
    answer = encode_response(tokenizer, "Es 4.")
    assert tokenizer.decode(answer) == "Es 4." + end
    pair = encode_pair(prompt, answer)
    assert pair.token_ids == prompt + answer
    assert pair.completion_mask == [0] * len(prompt) + [1, 1, 1, 1, 1, 1]


def test_a_system_prompt_is_refused_where_the_template_has_no_place_for_it() -> None:
    tokenizer = family_tokenizer("gemma-2", ChatSettings())
    with pytest.raises(InputError, match=r"gemma-2: field 'chat_template'.*System role not supported.*user's message"):
        encode_messages(tokenizer, conversation(SYSTEM))
