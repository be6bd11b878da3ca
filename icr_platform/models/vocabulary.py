"""Which token ids can occur: whether a model has an embedding for each of them, and whether two tokenizers agree on all.

A tokenizer lists more tokens than a model ever sees. Gemma 3's lists `<image_soft_token>` under the first id that its
embedding does not have, fine-tuned models a padding token of their own: special tokens that no text and no chat template
produces. So what is compared is not how many tokens there are, but those that can be *produced*: every ordinary entry of the
vocabulary, and the special ones that open, close or frame a turn.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from icr_platform.core.errors import InputError
from icr_platform.models.chat import Roles, encode_messages, encode_prompt, shown_roles
from icr_platform.models.checkpoint_weights import first_names

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Where tokenizers differ: spaces and line breaks at the ends, accents, scripts without spaces, right-to-left, emoji.
_PROBES = ("Name three fruits.", "  ¿Qué tal?\n\n", "Что это?", "你好，世界 🙂", "สวัสดี", "مرحبا", "হ্যালো")
_CONVERSATIONS = (("user",), ("user", "assistant", "user"), ("system", "user"))


def produced(tokenizer: PreTrainedTokenizerBase, framing: set[int]) -> dict[str, int]:
    """Ids, by token, that a text, the chat template (by the ids in `framing`) or the end of a response can consist of."""
    special = {str(token): token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    never = {token for token, token_id in special.items() if token_id not in framing}
    return {token: token_id for token, token_id in tokenizer.get_vocab().items() if token not in never}


def _framing(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids that the chat template writes around texts, and those that begin and end them."""
    ids = {tokenizer.bos_token_id, tokenizer.eos_token_id}
    if tokenizer.chat_template:
        for roles in _CONVERSATIONS:
            try:
                ids.update(encode_messages(tokenizer, [{"role": role, "content": "x"} for role in roles]))
            except InputError:
                continue  # the template refuses these roles, so that it writes nothing around them either
    return {int(token_id) for token_id in ids if token_id is not None}


def require_embeddings(tokenizer: PreTrainedTokenizerBase, model: str, size: int | None) -> None:
    """Raise InputError when the tokenizer of `model` produces an id for which its embedding, of `size` rows, has none.

    size: None where the config leaves it to its type.
    """
    if size is None:
        return
    beyond = sorted(
        (token_id, token) for token, token_id in produced(tokenizer, _framing(tokenizer)).items() if token_id >= size
    )
    if beyond:
        first_id, token = beyond[0]
        raise InputError(
            f"{model}: token {token!r} has id {first_id}, and the model's embedding (field 'vocab_size' of config.json) has {size} "
            "rows; resize the embedding to the tokenizer and train it, or give the tokenizer that the model was trained with"
        )


def compare(
    policy: str, ours: PreTrainedTokenizerBase, reference: str, theirs: PreTrainedTokenizerBase
) -> tuple[str, ...]:
    """Check that two tokenizers map every text to the same ids, chat template included.

    Returns: a line that names the tokens which only one of them has, and never produces.

    Raises:
        InputError: they do not, with a text or the tokens that tell.
    """
    fix = "policy and reference must share one tokenizer"
    where = f"{policy} and {reference}"
    framing = _framing(ours) | _framing(theirs)
    mine, other = produced(ours, framing), produced(theirs, framing)
    differing = sorted(token for token, _ in mine.items() ^ other.items())
    if differing:
        names = first_names([repr(token) for token in dict.fromkeys(differing)])
        raise InputError(f"{where}: field 'vocab' differs in tokens that texts can contain: {names}; {fix}")
    for probe in _PROBES:
        if encode_prompt(ours, probe) != encode_prompt(theirs, probe):
            raise InputError(f"{where}: field 'chat_template' or the merges differ on {probe!r}; {fix}")
    if _rules(ours) != _rules(theirs):
        # Other rules may still split all texts alike: each entry of the vocabulary tells, in the order of its id.
        entries = [ours.convert_tokens_to_string([token]) for token in sorted(mine, key=mine.__getitem__)]
        for entry, one, two in zip(entries, _encoded(ours, entries), _encoded(theirs, entries), strict=True):
            if one != two:
                raise InputError(f"{where}: the merges or the normaliser differ on {entry!r}; {fix}")
    alone = sorted(token for token, _ in ours.get_vocab().items() ^ theirs.get_vocab().items())
    if not alone:
        return ()
    names = first_names([repr(token) for token in dict.fromkeys(alone)])
    return (f"{where}: special tokens that no text produces differ, which changes nothing: {names}",)


def require_same_rendering(
    policy: str, ours: PreTrainedTokenizerBase, reference: str, theirs: PreTrainedTokenizerBase, roles: Roles
) -> None:
    """Raise InputError unless both chat templates render a conversation of these roles alike, which `compare` looks at for one turn."""
    messages = [{"role": role, "content": f"text {number}"} for number, role in enumerate(roles)]
    if encode_messages(ours, messages) != encode_messages(theirs, messages):
        raise InputError(
            f"{policy} and {reference}: field 'chat_template' differs on a conversation of {shown_roles(roles)}; policy and reference "
            "must share one chat template"
        )


def _encoded(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    found: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return found


def _rules(tokenizer: PreTrainedTokenizerBase) -> Any:
    """By what a tokenizer splits texts, without its added tokens; a tokenizer in Python has no such description."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return type(tokenizer), tokenizer.get_vocab()
    rules = json.loads(backend.to_str())
    # Special tokens that are added at the ends come from the chat template here.
    return {name: rules[name] for name in ("normalizer", "pre_tokenizer", "model")}
