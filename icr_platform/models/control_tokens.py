"""Control tokens that people wrote: `<|im_end|>` within an instruction is text that somebody typed, and ends no turn.

Tokenizers cannot tell it from the template's own. So, before the template is rendered, each one that was typed gives its place to a
word; in the rendered text the template's own give theirs to aliases, and the words become what was typed. A twin of the tokenizer,
which knows the aliases and takes every other special token for text, then encodes it all at once: where nothing was typed, its ids
are the tokenizer's own.
"""

from __future__ import annotations

import copy
import re
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_WORD = "IcrTypedToken{}End7f3a"
_ALIAS = "<|icr-own-token-{}-7f3a|>"


class ControlTokens:
    """The special tokens of one tokenizer, and how to encode texts in which some of them were typed."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        added = tokenizer.added_tokens_decoder.items()
        self._special = {
            token.content: (int(index), token) for index, token in added if token.special and token.content
        }
        self._backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        names = sorted(self._special, key=len, reverse=True)  # the longest match wins, as in the tokenizer
        self._words = {_WORD.format(number): name for number, name in enumerate(names)}
        self._word_of = {name: word for word, name in self._words.items()}
        self._typed = re.compile("|".join(map(re.escape, names)) or r"(?!)")
        self._any = re.compile("|".join(map(re.escape, [*self._words, *names])) or r"(?!)")
        self._aliases: dict[str, int] = {}

    @property
    def can_stay_text(self) -> bool:
        """Whether the tokenizer can be made to take a control token for text: those of the `tokenizers` library can."""
        return self._backend is not None

    def typed_in(self, text: str) -> bool:
        """Whether the text contains a special token's string."""
        return self._typed.search(text) is not None

    def masked(self, text: str) -> str:
        """The text with a word in the place of every control token that was typed."""
        return self._typed.sub(lambda found: self._word_of[found[0]], text)

    def without(self, text: str) -> str:
        """The text with a line break in the place of every special token."""
        return self._typed.sub("\n", text)

    def encode(self, rendered: str) -> list[int]:
        """Encode what a template made of masked texts: its own control tokens become ids, those that were typed stay text."""
        text = self._any.sub(lambda found: self._words.get(found[0]) or self._alias(found[0]), rendered)
        own = {self._twin.token_to_id(alias): real for alias, real in self._aliases.items()}
        return [own.get(token, token) for token in self._twin.encode(text, add_special_tokens=False).ids]

    def encode_pair(self, first: str, second: str) -> tuple[list[int], list[int]]:
        """Encode two texts with the separators that the tokenizer puts around them, and the segment of each token; what was typed stays
        text."""
        found = self._twin.encode(first, second, add_special_tokens=True)
        return list(found.ids), list(found.type_ids)

    @cached_property
    def _twin(self) -> Any:
        twin = copy.deepcopy(self._backend)
        twin.no_truncation()
        twin.no_padding()
        twin.encode_special_tokens = True
        return twin

    def _alias(self, name: str) -> str:
        """An added token that is not special, and otherwise found in a text as the special one is."""
        from transformers import AddedToken

        real, token = self._special[name]
        alias = _ALIAS.format(real)
        if alias not in self._aliases:
            flags = {flag: getattr(token, flag) for flag in ("lstrip", "rstrip", "single_word", "normalized")}
            self._twin.add_tokens([AddedToken(alias, special=False, **flags)])
            self._aliases[alias] = real
        return alias
