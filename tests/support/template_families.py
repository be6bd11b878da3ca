"""Tokenizers of a few hundred tokens that have the chat template and the control tokens of a real family of models.

`templates/README.md` says where each template comes from. Texts are tokenised byte by byte, so that every count in a test can be made
by hand; what the family's tokenizer has as one token (`<think>` in Qwen3, not in Granite) is one token here too.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from icr_platform.core.config import ChatSettings


class Family(NamedTuple):
    """A template and the tokens that its tokenizer adds.

    template: of the folder `templates` here, or `trl/NAME`, of the package.
    special: tokens that decoding leaves out, BOS and EOS among them.
    plain: added tokens that are not special: decoding shows them.
    """

    template: str
    bos: str | None
    eos: str
    special: tuple[str, ...]
    plain: tuple[str, ...] = ()


_CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_THINK = ("<think>", "</think>")
_LLAMA3 = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
)
_MISTRAL = ("<s>", "</s>", "[INST]", "[/INST]")
_GEMMA = ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>")
_COHERE = (
    "<BOS_TOKEN>",
    "<|START_OF_TURN_TOKEN|>",
    "<|END_OF_TURN_TOKEN|>",
    "<|SYSTEM_TOKEN|>",
    "<|USER_TOKEN|>",
    "<|CHATBOT_TOKEN|>",
)
_COHERE_BLOCKS = ("<|START_THINKING|>", "<|END_THINKING|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>")

FAMILIES = {
    "qwen2.5": Family("trl/qwen2_5", None, "<|im_end|>", _CHATML),
    "qwen3": Family("trl/qwen3", None, "<|im_end|>", _CHATML, _THINK),
    "qwen3-2507-thinking": Family("qwen3_2507_thinking", None, "<|im_end|>", _CHATML, _THINK),
    "qwen3.5": Family("trl/qwen3_5_think", None, "<|im_end|>", _CHATML, _THINK),
    "smollm3": Family("smollm3", None, "<|im_end|>", _CHATML, _THINK),
    "smollm3-dated": Family("smollm3_dated", None, "<|im_end|>", _CHATML, _THINK),
    "eurollm": Family("eurollm", "<s>", "<|im_end|>", ("<s>", "</s>", "<|im_start|>", "<|im_end|>")),
    "gemma-2": Family("trl/gemma", "<bos>", "<eos>", _GEMMA),
    "gemma-3": Family("trl/gemma3", "<bos>", "<eos>", (*_GEMMA, "<start_of_image>", "<end_of_image>", "<image_soft_token>")),
    "gemma-4": Family(
        "trl/gemma4", "<bos>", "<eos>",
        ("<pad>", "<eos>", "<bos>", "<|turn>", "<turn|>", "<|think|>", "<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>"),
    ),
    "gpt-oss": Family(
        "trl/gptoss", "<|startoftext|>", "<|return|>",
        ("<|startoftext|>", "<|endoftext|>", "<|return|>", "<|constrain|>", "<|channel|>", "<|start|>", "<|end|>", "<|message|>", "<|call|>"),
    ),
    "llama-3.2": Family("trl/llama3_2", "<|begin_of_text|>", "<|eot_id|>", _LLAMA3),
    "mistral-small-3": Family("mistral_small_3", "<s>", "</s>", (*_MISTRAL, "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")),
    "mistral-nemo": Family("mistral_nemo", "<s>", "</s>", _MISTRAL),
    "ministral-3-reasoning": Family(
        "ministral_3_reasoning", "<s>", "</s>", (*_MISTRAL, "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[THINK]", "[/THINK]")
    ),
    "apertus": Family(
        "apertus", "<s>", "<|assistant_end|>",
        ("<s>", "</s>", *(f"<|{role}_{end}|>" for role in ("system", "developer", "user", "assistant") for end in ("start", "end")),
         "<|inner_prefix|>", "<|inner_suffix|>"),
    ),
    "aya-expanse": Family("trl/cohere", "<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>", _COHERE),
    "tiny-aya": Family("trl/cohere2", "<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>", (*_COHERE, *_COHERE_BLOCKS)),
    "command-a-reasoning": Family(
        "command_a_reasoning", "<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>", (*_COHERE, *_COHERE_BLOCKS)
    ),
    "glm-4.5": Family(
        "trl/glm4moe", None, "<|endoftext|>",
        ("<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
        (*_THINK, "/nothink"),
    ),
    "deepseek-r1-distill": Family(
        "trl/deepseek_r1_distill", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>",
        ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"), ("<｜User｜>", "<｜Assistant｜>", *_THINK),
    ),
    "deepseek-v3.1": Family(
        "deepseek_v3_1", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>",
        ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"), ("<｜User｜>", "<｜Assistant｜>", *_THINK),
    ),
    "nemotron-3-nano": Family("trl/nemotron_3_nano", "<s>", "<|im_end|>", ("<s>", "<|im_start|>", "<|im_end|>"), _THINK),
    "phi-3.5-mini": Family("trl/phi3_5", "<s>", "<|endoftext|>", ("<s>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")),
    "phi-4-reasoning": Family("phi_4_reasoning", "<|endoftext|>", "<|im_end|>", (*_CHATML, "<|im_sep|>"), _THINK),
    "granite-3.3": Family(
        "granite_3_3", "<|end_of_text|>", "<|end_of_text|>", ("<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>")
    ),
    "seed-oss": Family("seed_oss", "<seed:bos>", "<seed:eos>", ("<seed:bos>", "<seed:eos>"),
        ("<seed:think>", "</seed:think>", "<seed:cot_budget_reflect>", "</seed:cot_budget_reflect>"),
    ),
    "lfm2": Family("trl/lfm2", "<|startoftext|>", "<|im_end|>", ("<|startoftext|>", *_CHATML)),
}  # fmt: skip


def chat_template(family: str) -> str:
    """Read the family's template."""
    name = FAMILIES[family].template
    if name.startswith("trl/"):
        return Path(str(distribution("trl").locate_file(f"trl/chat_templates/{name[4:]}.jinja"))).read_text(
            encoding="utf-8"
        )
    return (Path(__file__).with_name("templates") / f"{name}.jinja").read_text(encoding="utf-8").removesuffix("\n")


def family_tokenizer(
    family: str, settings: ChatSettings | None = None, pieces: Iterable[str] = ()
) -> PreTrainedTokenizerFast:
    """Make a tokenizer of the family, whose texts are bytes; with `settings`, it renders with them.

    pieces: texts that are one token too, as a larger vocabulary has them.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from icr_platform.models.chat import bind

    _, bos, eos, special, plain = FAMILIES[family]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={symbol: number for number, symbol in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    core.add_tokens([AddedToken(token, special=False, normalized=False) for token in (*plain, *pieces)])
    pad = next((token for token in ("<pad>", "<|endoftext|>") if token in special), eos)
    named = {} if bos is None else {"bos_token": bos}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=eos, pad_token=pad, **named)
    tokenizer.chat_template = chat_template(family)
    if settings is not None:
        bind(tokenizer, family, settings)
    return tokenizer
