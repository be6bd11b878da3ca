"""Messages to token ids. The only place where BOS and end-of-turn tokens are decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from icr_platform.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBE = "\u2042probe\u2042"  # a text no template rewrites and no template contains


@dataclass(frozen=True)
class Encoded:
    """A prompt and a completion as one sequence.

    token_ids: [T] prompt ids followed by completion ids.
    completion_mask: [T] 1 where the token belongs to the completion, that is, is scored or trained on.
    """

    token_ids: list[int]
    completion_mask: list[int]


def require_chat_template(tokenizer: PreTrainedTokenizerBase, model: str) -> None:
    """Raise InputError when the tokenizer of `model` has no chat template."""
    if not tokenizer.chat_template:
        raise InputError(
            f"{model}: field 'chat_template' of the tokenizer is missing; add a chat_template.jinja to the model"
        )


def encode_prompt(tokenizer: PreTrainedTokenizerBase, instruction: str) -> list[int]:
    """Token ids of one user turn up to where the assistant begins. BOS comes from the template, once or never."""
    return encode_messages(tokenizer, [{"role": "user", "content": instruction}])


def encode_messages(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]]) -> list[int]:
    """Token ids of a conversation up to where the assistant begins."""
    text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return [int(token) for token in ids]


def encode_response(tokenizer: PreTrainedTokenizerBase, response: str, finished: bool = True) -> list[int]:
    """Token ids of a response text, with the end-of-turn token when it is finished.

    For texts without sampled ids only (a server that returns none, a data set from elsewhere): sampled ids are scored and
    trained on as they are.
    """
    ids = [int(token) for token in tokenizer(response, add_special_tokens=False)["input_ids"]]
    return [*ids, end_of_turn_id(tokenizer)] if finished else ids


def encode_pair(prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> Encoded:
    """Join prompt and completion ids; the mask is 1 on every completion token, first and end-of-turn included."""
    return Encoded(
        token_ids=[*prompt_ids, *completion_ids],
        completion_mask=[0] * len(prompt_ids) + [1] * len(completion_ids),
    )


def decode_response(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    """Text of response ids, special tokens left out, otherwise unchanged (no strip, no clean-up)."""
    text: Any = tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return str(text)


def end_of_turn_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Id of the token by which the template closes an assistant turn (`<|eot_id|>`, `<|im_end|>`, `</s>`, ...).

    Raises:
        InputError: the template closes a turn with no special token and the tokenizer has no end-of-sequence token.
    """
    text = str(
        tokenizer.apply_chat_template(
            [{"role": "user", "content": "x"}, {"role": "assistant", "content": _PROBE}], tokenize=False
        )
    )
    closing = text.rsplit(_PROBE, 1)[1] if _PROBE in text else ""
    special = set(tokenizer.all_special_ids) | {
        token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    for token_id in tokenizer(closing, add_special_tokens=False)["input_ids"]:
        if token_id in special:
            return int(token_id)
    if tokenizer.eos_token_id is None:
        raise InputError(f"{tokenizer.name_or_path}: field 'eos_token' of the tokenizer is missing; set one")
    return int(tokenizer.eos_token_id)


def stop_ids(tokenizer: PreTrainedTokenizerBase, generation_eos: int | Sequence[int] | None) -> list[int]:
    """Ids on which generation stops: the template's end-of-turn, the tokenizer's EOS, the model's generation config's."""
    ids = {end_of_turn_id(tokenizer)}
    if tokenizer.eos_token_id is not None:
        ids.add(int(tokenizer.eos_token_id))
    if generation_eos is not None:
        ids.update([generation_eos] if isinstance(generation_eos, int) else generation_eos)
    return sorted(ids)
