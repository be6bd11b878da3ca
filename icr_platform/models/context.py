"""How many tokens a model can read and write together."""

from __future__ import annotations

from typing import Any

_FIELDS = (
    "max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_target_positions", "max_sequence_length",
    "max_seq_length", "seq_len",
)  # fmt: skip
# These kinds of rotary scaling leave max_position_embeddings as it is after the scaling; the others before it.
_SCALED_ALREADY = frozenset({"default", "su", "longrope", "llama3", "mrope"})
_YARN = frozenset({"yarn", "deepseek_yarn"})  # either way: configurations differ, and the original length tells


def context_of(config: Any) -> int | None:
    """Return the tokens that a model was made for, from its transformers config; None where it has no limit (recurrent, ALiBi).

    A tokenizer's `model_max_length` says nothing: it is a sentinel, or what some training cut its texts at. Sliding windows limit
    what a token sees, not how many there are.

    >>> from types import SimpleNamespace as Config
    >>> context_of(Config(max_position_embeddings=4096, rope_parameters={"rope_type": "linear", "factor": 4.0}))
    16384
    """
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    lengths = [getattr(text, name, None) for name in _FIELDS]
    known = [int(length) for length in lengths if isinstance(length, (int, float)) and 0 < length < float("inf")]
    if not known:
        return None
    length = min(known)
    if "gemma3" in str(getattr(text, "model_type", "")):  # its length is the stretched one
        return length
    return max([length, *(_stretched(length, rotary) for rotary in _rotary_parameters(text))])


def _rotary_parameters(config: Any) -> list[dict[str, Any]]:
    """Of every kind of layer, where they differ."""
    found = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
    if not isinstance(found, dict):
        return []
    return [value for value in found.values() if isinstance(value, dict)] or [found]


def _stretched(length: int, rotary: dict[str, Any]) -> int:
    kind, factor = rotary.get("rope_type") or rotary.get("type") or "default", float(rotary.get("factor") or 1)
    if kind in _SCALED_ALREADY:
        return length
    return int(factor * ((rotary.get("original_max_position_embeddings") or 0) if kind in _YARN else length))
