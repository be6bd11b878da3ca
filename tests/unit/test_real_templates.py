"""The prompts of real chat templates, in tables written by hand: what each family makes of a turn, a system prompt, a conversation,
keywords and the date."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from icr_platform.core.config import ChatSettings
from icr_platform.core.errors import InputError
from icr_platform.models.chat import encode_messages, encode_pair, encode_response, end_of_turn_id, stop_ids
from icr_platform.models.thinking import Reading, Split, answer_start, read_response
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
_SMOLLM3 = "<|im_start|>system\n## Metadata\n\nKnowledge Cutoff Date: June 2025\n{}Reasoning Mode: {}\n\n## Custom Instructions\n\n{}\n\n<|im_end|>\n"
_SMOL = "You are a helpful AI assistant named SmolLM, trained by Hugging Face."
_SMOL_DAY = "Today Date: 09 March 2025\n"
_SMOL_THINKS = (
    _SMOL
    + " Your role as an assistant involves thoroughly exploring questions through a systematic thinking process before providing the "
    "final precise and accurate solutions. This requires engaging in a comprehensive cycle of analysis, summarizing, exploration, "
    "reassessment, reflection, backtracking, and iteration to develop well-considered thinking process. Please structure your response into "
    "two main sections: Thought and Solution using the specified format: <think> Thought section </think> Solution section. In the Thought "
    "section, detail your reasoning process in steps. Each step should include detailed considerations such as analysing questions, "
    "summarizing relevant findings, brainstorming new ideas, verifying the accuracy of the current steps, refining any errors, and "
    "revisiting previous steps. In the Solution section, based on various attempts, explorations, and reflections from the Thought section, "
    "systematically present the final solution that you deem correct. The Solution section should be logical, accurate, and concise and "
    "detail necessary steps needed to reach the conclusion."
)
_SMOL_EARLIER = "<|im_start|>user\nHola<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n¡Buenas!<|im_end|>\n"
_EMPTY = "<think>\n\n</think>\n"
_DEEPSEEK = "<｜User｜>¿Cuánto es 2+2?<｜Assistant｜>"
_APERTUS = (
    "<s><|system_start|>{}<|system_end|><|developer_start|>Deliberation: {}\nTool Capabilities: disabled<|developer_end|>"
    "{}<|user_start|>¿Cuánto es 2+2?<|user_end|><|assistant_start|>"
)
_APERTUS_SYSTEM = "You are Apertus, a helpful assistant created by the SwissAI initiative.\nKnowledge cutoff: 2024-04\nCurrent date: 2025-03-09"
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
    ("smollm3", {}, ONE, _SMOLLM3.format("", "/think", _SMOL_THINKS) + _QWEN),
    ("smollm3", OFF, ONE, _SMOLLM3.format("", "/no_think", _SMOL) + _QWEN + _EMPTY),
    ("smollm3", {}, SYSTEM, _SMOLLM3.format("", "/think", "Sé breve.") + _QWEN),
    ("smollm3", {}, (("system", "Sé breve. /no_think"), ("user", ASK)), _SMOLLM3.format("", "/no_think", "Sé breve.") + _QWEN + _EMPTY),
    ("smollm3", {}, THREE, _SMOLLM3.format("", "/think", _SMOL_THINKS) + _QWEN_EARLIER + _QWEN),
    ("smollm3", OFF, THREE, _SMOLLM3.format("", "/no_think", _SMOL) + _SMOL_EARLIER + _QWEN + _EMPTY),
    ("smollm3-dated", {}, SYSTEM, _SMOLLM3.format(_SMOL_DAY, "/think", "Sé breve.") + _QWEN),
    ("smollm3-dated", OFF, THREE, _SMOLLM3.format(_SMOL_DAY, "/no_think", _SMOL) + _SMOL_EARLIER + _QWEN + _EMPTY),
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
    ("ministral-3-reasoning", {}, SYSTEM, "<s>[SYSTEM_PROMPT]Sé breve.[/SYSTEM_PROMPT][INST]¿Cuánto es 2+2?[/INST]"),
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
    ("deepseek-v3.1", {}, ONE, "<｜begin▁of▁sentence｜>" + _DEEPSEEK + "<think></think>"),
    ("deepseek-v3.1", {"thinking": True}, SYSTEM, "<｜begin▁of▁sentence｜>Sé breve." + _DEEPSEEK + "<think>"),
    (
        "deepseek-v3.1", ON, THREE,
        "<｜begin▁of▁sentence｜><｜User｜>Hola<｜Assistant｜><think></think>¡Buenas!<｜end▁of▁sentence｜>" + _DEEPSEEK + "<think>",
    ),
    ("apertus", {}, ONE, _APERTUS.format(_APERTUS_SYSTEM, "disabled", "")),
    ("apertus", ON, SYSTEM, _APERTUS.format("Sé breve.", "enabled", "")),
    (
        "apertus", {}, THREE,
        _APERTUS.format(_APERTUS_SYSTEM, "disabled", "<|user_start|>Hola<|user_end|><|assistant_start|>¡Buenas!<|assistant_end|>"),
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
        "<seed:bos>system\nYou are an intelligent assistant that can answer questions in one step without the need for reasoning and thinking, that "
        "is, your thinking budget is 0. Next, please skip the thinking process and directly start answering the user's questions.\n<seed:eos>"
        "<seed:bos>user\n¿Cuánto es 2+2?<seed:eos><seed:bos>assistant\n<seed:think>\n<seed:cot_budget_reflect>The current thinking budget "
        "is 0, so I will directly start answering the question.</seed:cot_budget_reflect>\n</seed:think>",
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
        assert ids.count(tokenizer.get_vocab()[token]) == prompt.count(token)
        bytes_ -= prompt.count(token) * len(token.encode())
        control += prompt.count(token)
    assert len(ids) == bytes_ + control


# family, by which token the template closes an answer, what else ends it
ENDS = (
    ("qwen3", "<|im_end|>", ()), ("smollm3", "<|im_end|>", ()), ("eurollm", "<|im_end|>", ()), ("gemma-2", "<end_of_turn>", ("<eos>",)),
    ("gemma-3", "<end_of_turn>", ("<eos>",)), ("gemma-4", "<turn|>", ("<eos>",)), ("gpt-oss", "<|return|>", ()), ("llama-3.2", "<|eot_id|>", ()),
    ("mistral-small-3", "</s>", ()), ("mistral-nemo", "</s>", ()), ("ministral-3-reasoning", "</s>", ()), ("apertus", "<|assistant_end|>", ()), ("aya-expanse", "<|END_OF_TURN_TOKEN|>", ()),
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


_THOUGHT, _ANSWER = "Two and two.", "Son 4."  # 12 and 6 bytes, hence tokens
_HIGH: dict[str, Any] = {"reasoning_effort": "high"}
_FINAL = "<|start|>assistant<|channel|>final<|message|>"

# family, keywords, response, thought, answer, index of the answer's first token, whether the thought is cut
SPLITS: tuple[tuple[str, dict[str, Any], str, str | None, str, int | None, bool], ...] = (
    ("qwen3", {}, "<think>\nTwo and two.\n</think>\n\nSon 4.<|im_end|>", _THOUGHT, _ANSWER, 1 + 14 + 1 + 2, False),
    ("qwen3", {}, "<think>\n\n</think>\n\nSon 4.<|im_end|>", None, _ANSWER, 1 + 2 + 1 + 2, False),
    ("qwen3", {}, "<think>\nTwo and", "Two and", "", 1 + 8, True),
    ("qwen3", {}, "<think>", None, "", 1, True),
    ("qwen3", {}, "<think>\nTwo and two.\n</think>", _THOUGHT, "", 1 + 14 + 1, False),
    ("qwen3", {}, "<think>\nTwo and two.\n</think>\n\n<|im_end|>", _THOUGHT, "", 1 + 14 + 1 + 2, False),
    ("qwen3", {}, "<think>\nTwo and two.\n</think>\n\nSon", _THOUGHT, "Son", 1 + 14 + 1 + 2, False),
    ("qwen3", {}, "<think>\nDos: dos\n</think>\n\nSon 4.\n\n</think> es un signo.<|im_end|>", "Dos: dos", "Son 4.\n\n</think> es un signo.", 1 + 10 + 1 + 2, False),
    ("qwen3", {}, "Son 4.<|im_end|>", None, _ANSWER, None, False),
    ("qwen3", {}, "Escribe <think> y </think> alrededor.<|im_end|>", None, "Escribe <think> y </think> alrededor.", None, False),
    ("qwen3", OFF, "Son 4.<|im_end|>", None, _ANSWER, None, False),
    ("qwen3", OFF, "Son 4.\n</think>\nSí.<|im_end|>", None, "Son 4.\n</think>\nSí.", None, False),
    ("qwen2.5", {}, "Son 4.<|im_end|>", None, _ANSWER, None, False),
    ("qwen3-2507-thinking", {}, "Two and two.\n</think>\n\nSon 4.<|im_end|>", _THOUGHT, _ANSWER, 13 + 1 + 2, False),
    ("qwen3-2507-thinking", {}, "Two and", "Two and", "", 7, True),
    ("qwen3.5", {}, "Two and two.\n</think>\n\nSon 4.<|im_end|>", _THOUGHT, _ANSWER, 13 + 1 + 2, False),
    ("qwen3.5", OFF, "Son 4.<|im_end|>", None, _ANSWER, None, False),
    ("nemotron-3-nano", ON, "Two and two.\n</think>\nSon 4.<|im_end|>", _THOUGHT, _ANSWER, 13 + 1 + 1, False),
    ("nemotron-3-nano", OFF, "Son 4.<|im_end|>", None, _ANSWER, None, False),
    ("smollm3", {}, "<think>\nTwo and two.\n</think>\nSon 4.<|im_end|>", _THOUGHT, _ANSWER, 1 + 14 + 1 + 1, False),
    ("smollm3", OFF, "Son 4.<|im_end|>", None, _ANSWER, None, False),
    ("smollm3-dated", {}, "<think>Two and two.</think>Son 4.<|im_end|>", _THOUGHT, _ANSWER, 1 + 12 + 1, False),
    ("phi-4-reasoning", {}, "<think>Two and two.</think>Son 4.<|im_end|>", _THOUGHT, _ANSWER, 1 + 12 + 1, False),
    ("gemma-3", {}, "Son 4.<end_of_turn>", None, _ANSWER, None, False),
    ("gemma-4", ON, "<|channel>thought\nTwo and two.<channel|>Son 4.<turn|>", _THOUGHT, _ANSWER, 1 + 8 + 12 + 1, False),
    ("gemma-4", {}, "<|channel>thought\n<channel|>Son 4.<turn|>", None, _ANSWER, 1 + 8 + 1, False),
    ("gemma-4", ON, "<|channel>thought\nTwo and", "Two and", "", 1 + 8 + 7, True),
    ("gemma-4", {}, "Son 4.<turn|>", None, _ANSWER, None, False),
    ("gpt-oss", {}, "<|channel|>analysis<|message|>Two and two.<|end|>" + _FINAL + "Son 4.<|return|>", _THOUGHT, _ANSWER, 1 + 8 + 1 + 12 + 1 + (1 + 9 + 1 + 5 + 1), False),
    ("gpt-oss", _HIGH, "<|channel|>final<|message|>Son 4.<|return|>", None, _ANSWER, 1 + 5 + 1, False),
    ("gpt-oss", _HIGH, "<|channel|>analysis<|message|>Two and", "Two and", "", 1 + 8 + 1 + 7, True),
    ("gpt-oss", _HIGH, "<|channel|>analysis<|message|>Two and two.<|end|><|start|>assistant", _THOUGHT, "", 1 + 8 + 1 + 12 + 1 + 1 + 9, True),
    (
        "gpt-oss", _HIGH,
        "<|channel|>analysis<|message|>Two.<|end|><|start|>assistant<|channel|>commentary<|message|>Hm.<|end|>" + _FINAL + "Son 4.<|return|>",
        "Two.\nHm.", _ANSWER, (1 + 8 + 1 + 4 + 1) + (1 + 9 + 1 + 10 + 1 + 3 + 1) + (1 + 9 + 1 + 5 + 1), False,
    ),
    ("llama-3.2", {}, "Son 4.<|eot_id|>", None, _ANSWER, None, False),
    ("mistral-small-3", {}, "Son 4.</s>", None, _ANSWER, None, False),
    ("ministral-3-reasoning", {}, "[THINK]Two and two.[/THINK]Son 4.</s>", _THOUGHT, _ANSWER, 1 + 12 + 1, False),
    ("ministral-3-reasoning", {}, "[THINK]Two and", "Two and", "", 1 + 7, True),
    ("ministral-3-reasoning", {}, "Son 4.</s>", None, _ANSWER, None, False),
    ("aya-expanse", {}, "Son 4.<|END_OF_TURN_TOKEN|>", None, _ANSWER, None, False),
    ("tiny-aya", {}, "Son 4.<|END_RESPONSE|>", None, _ANSWER, None, False),
    (
        "command-a-reasoning", {},
        "<|START_THINKING|>Two and two.<|END_THINKING|><|START_RESPONSE|>Son 4.<|END_RESPONSE|><|END_OF_TURN_TOKEN|>",
        _THOUGHT, _ANSWER, 1 + 12 + 1 + 1, False,
    ),
    ("command-a-reasoning", {"reasoning": False}, "<|START_RESPONSE|>Son 4.<|END_RESPONSE|>", None, _ANSWER, None, False),
    ("glm-4.5", {}, "\n<think>Two and two.</think>\nSon 4.<|user|>", _THOUGHT, _ANSWER, 1 + 1 + 12 + 1 + 1, False),
    ("glm-4.5", OFF, "\nSon 4.<|user|>", None, "\nSon 4.", None, False),
    ("deepseek-r1-distill", {}, "Two and two.\n</think>\n\nSon 4.<｜end▁of▁sentence｜>", _THOUGHT, _ANSWER, 13 + 1 + 2, False),
    ("deepseek-v3.1", {"thinking": True}, "Two and two.</think>Son 4.<｜end▁of▁sentence｜>", _THOUGHT, _ANSWER, 12 + 1, False),
    ("deepseek-v3.1", {}, "Son 4.<｜end▁of▁sentence｜>", None, _ANSWER, None, False),
    # Granite writes its tags letter by letter.
    ("granite-3.3", {"thinking": True}, "<think>Two and two.</think><response>Son 4.</response><|end_of_text|>", _THOUGHT, _ANSWER, 7 + 12 + 8 + 10, False),
    ("granite-3.3", {"thinking": True}, "<think>Two and", "Two and", "", 7 + 7, True),
    ("granite-3.3", {}, "Son 4.<|end_of_text|>", None, _ANSWER, None, False),
    ("seed-oss", {}, "<seed:think>Two and two.</seed:think>\nSon 4.<seed:eos>", _THOUGHT, _ANSWER, 1 + 12 + 1 + 1, False),
    ("seed-oss", {"thinking_budget": 0}, "Son 4.<seed:eos>", None, _ANSWER, None, False),
    ("apertus", ON, "<|inner_prefix|>Two and two.<|inner_suffix|>Son 4.<|assistant_end|>", _THOUGHT, _ANSWER, 1 + 12 + 1, False),
    ("apertus", {}, "Son 4.<|assistant_end|>", None, _ANSWER, None, False),
    ("eurollm", {}, "Son 4.<|im_end|>", None, _ANSWER, None, False),
)  # fmt: skip


@pytest.mark.parametrize(
    ("family", "keywords", "response", "thought", "answer", "start", "is_cut"),
    SPLITS,
    ids=[f"{number}-{row[0]}" for number, row in enumerate(SPLITS)],
)
def test_thought_and_answer_are_told_apart_by_the_familys_own_markers(
    family: str,
    keywords: dict[str, Any],
    response: str,
    thought: str | None,
    answer: str,
    start: int | None,
    is_cut: bool,
) -> None:
    tokenizer = family_tokenizer(family, ChatSettings(template_date=DAY, chat_template_kwargs=keywords))
    prompt = encode_messages(tokenizer, conversation(ONE))
    ids = [int(token) for token in tokenizer(response, add_special_tokens=False)["input_ids"]]
    assert answer_start(tokenizer, prompt, ids) == Split(start, is_cut)
    assert read_response(tokenizer, prompt, ids) == Reading(thought, answer, start, is_cut)


# Granite's tags are text: its tokens end within them and beyond them. pieces that are tokens, response, thought, answer, its first token
PIECES: tuple[tuple[tuple[str, ...], str, str, str, int], ...] = (
    (
        ("think", "response", "><", ".</"), "<think>Two and two.</think><response>Son 4.</response>", _THOUGHT, _ANSWER,
        len(("<", "think", ">")) + 11 + len((".</", "think", "><", "response", ">")),
    ),
    (
        ("think", "</", ">\n\n"), "<think>\nTwo.\n</think>\n\nSon 4.", "Two.", _ANSWER,
        len(("<", "think", ">", "\n")) + 4 + len(("\n", "</", "think", ">\n\n")),
    ),
    # The token that closes the tag begins the answer: it is the answer's, and the tag's end is not in its text.
    (("think", "</", ">S"), "<think>Two.</think>Son 4.", "Two.", _ANSWER, len(("<", "think", ">")) + 4 + len(("</", "think"))),
    ((), "<think>🙂 два</think>Сын ก.", "🙂 два", "Сын ก.", 7 + (4 + 1 + 6) + 8),
    ((), "<think>Two.</think>  \u3000ก 4.", "Two.", "ก 4.", 7 + 4 + 8 + (1 + 1 + 3)),
)  # fmt: skip


@pytest.mark.parametrize(
    ("pieces", "response", "thought", "answer", "start"), PIECES, ids=["wrapped", "breaks", "across", "emoji", "space"]
)
def test_markers_that_are_no_tokens_of_their_own_are_found_within_others(
    pieces: tuple[str, ...], response: str, thought: str, answer: str, start: int
) -> None:
    settings = ChatSettings(template_date=DAY, chat_template_kwargs={"thinking": True})
    tokenizer = family_tokenizer("granite-3.3", settings, pieces)
    ids = [*tokenizer(response, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    assert read_response(tokenizer, encode_messages(tokenizer, conversation(ONE)), ids) == Reading(
        thought, answer, start, False
    )


def test_a_system_prompt_is_refused_where_the_template_has_no_place_for_it() -> None:
    tokenizer = family_tokenizer("gemma-2", ChatSettings())
    with pytest.raises(InputError, match=r"gemma-2: field 'chat_template'.*System role not supported.*user's message"):
        encode_messages(tokenizer, conversation(SYSTEM))
