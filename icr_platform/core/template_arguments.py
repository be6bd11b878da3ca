"""Arguments of chat templates, such as `enable_thinking`: a mapping of a preset, or the JSON object that a flag gives."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator

from icr_platform.core.mappings import read_mapping

_EXAMPLE = '{"enable_thinking": false}'
_DEEPEST = 20
# What the platform itself says to a template or its renderer, and what to give instead.
_TAKEN = dict.fromkeys(
    ("messages", "conversation", "add_generation_prompt", "continue_final_message"), "the platform writes the conversation"
) | dict.fromkeys(
    (
        "tokenize", "padding", "truncation", "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask",
        "tokenizer_kwargs", "processor_kwargs",
    ),
    "it is not an argument of the template",
) | {
    "chat_template": "put the template into the model's folder as chat_template.jinja",
    "strftime_now": "give template_date",
    "raise_exception": "it is a function of the template's",
}  # fmt: skip


def _template_arguments(value: object) -> object:
    """Check, and read from JSON, a mapping of variable names to JSON values.

    >>> _template_arguments('{"enable_thinking": false, "tools": [{"name": "x"}]}')
    {'enable_thinking': False, 'tools': [{'name': 'x'}]}
    >>> _template_arguments(""), _template_arguments(None)
    ({}, {})
    """
    given = read_mapping(value, _EXAMPLE)
    for name in given:
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"{name!r} is not the name of a variable; write one such as {_EXAMPLE}")
        if name in _TAKEN:
            raise ValueError(f"{name!r} cannot be given to a chat template: {_TAKEN[name]}")
    return {name: _plain(item, name, 1) for name, item in given.items()}


def _plain(value: Any, place: str, depth: int) -> Any:
    """The value with tuples as lists; refuses what JSON does not have, such as the dates of YAML."""
    if depth > _DEEPEST:
        raise ValueError(f"{place} is nested more than {_DEEPEST} levels deep")
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise ValueError(f"{place} has the key {name!r}, which is not a text; quote it")
        return {name: _plain(item, f"{place}.{name}", depth + 1) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{place}[{index}]", depth + 1) for index, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{place} is {value}, which JSON does not have")
    if value is not None and not isinstance(value, (str, bool, int, float)):
        raise ValueError(
            f"{place} is {str(value)!r} of the kind {type(value).__name__}, which JSON does not have; quote it"
        )
    return value


TemplateArguments = Annotated[dict[str, Any], BeforeValidator(_template_arguments)]
