"""Reads the YAML files that people write: presets, the wording of a judge, recipes for accelerate.

Words mean what YAML 1.2 says. In PyYAML's YAML 1.1 `no` is false, though it is Norwegian in `languages: [en, no]`; `1e-4` is text,
`010` is 8 and `12:30` is 750. Here `yes` and `no` stay text, which a field of true or false reads as such.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from icr_platform.core.errors import InputError

_MOST_BYTES = 2**20
DEEPEST = 50
MOST_VALUES = 100_000  # of a preset after its aliases are followed, and of a row: a few lines may stand for more than fits in memory
LONGEST_NUMBER = 400  # digits; the largest float has 309


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the scalars of YAML 1.2, and dates."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own declaration


for _tag, _pattern, _first in (
    ("null", r"(?:~|null|Null|NULL|)", ["~", "n", "N", ""]),
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)", list("tTfF")),
    ("int", r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)", list("-+0123456789")),
    ("float", r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))",
     list("-+.0123456789")),
    ("timestamp", r"[0-9]{4}-[0-9]{2}-[0-9]{2}", list("0123456789")),
    ("merge", r"<<", ["<"]),
):  # fmt: skip
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^{_pattern}$"), _first)


def _integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    if len(text) > LONGEST_NUMBER:
        raise yaml.MarkedYAMLError(problem=f"a number of {len(text):,} digits", problem_mark=node.start_mark)
    base = {"0o": 8, "0x": 16}.get(text[:2].lower(), 10)
    return int(text, base)


_Loader.add_constructor("tag:yaml.org,2002:int", _integer)


def read_yaml(path: Path, what: str, give: str = "give a YAML file") -> Any:
    """The value of a YAML file of one document; None for an empty one.

    Args:
        what: kind of file, for messages, such as "preset".
        give: what to do about a file that is missing.

    Raises:
        InputError: there is no such file, or it is not a text, too large, not YAML, nested or aliased without measure, or gives a
            key twice.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InputError(
                f"{path}: {path.stat().st_size / 2**20:,.1f} MB are too many for a {what}; give a YAML file of at most 1 MB"
            )
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such {what}; {give}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable ({error}); give a YAML file") from error
    try:
        _check_depth(text)
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _count_values(node, {})
        return loader.construct_document(node)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2026-02-31
        raise InputError(f"{path}: not valid YAML ({' '.join(str(error).split())}); fix it") from error


def _check_depth(text: str) -> None:
    """Refuse what is nested too deeply for a parser that calls itself; a stream of events does not."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEEPEST:
            raise yaml.YAMLError(f"nested more than {DEEPEST} levels deep")


def _count_values(node: yaml.Node, counted: dict[int, int]) -> int:
    """Values that a node stands for, its aliases followed; refuses too many of them, a node within itself and a key given twice.

    counted: by the identity of nodes; 0 while a node is being counted.
    """
    if id(node) in counted:
        if not counted[id(node)]:
            raise yaml.MarkedYAMLError(
                problem="an alias refers to a value that contains it", problem_mark=node.start_mark
            )
        return counted[id(node)]
    counted[id(node)] = 0
    count = 1
    if isinstance(node, yaml.SequenceNode):
        count += sum(_count_values(item, counted) for item in node.value)
    elif isinstance(node, yaml.MappingNode):
        keys = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in keys:
                    raise yaml.MarkedYAMLError(problem=f"key {key.value!r} is given twice", problem_mark=key.start_mark)
                keys.add(key.value)
            count += _count_values(key, counted) + _count_values(value, counted)
    if count > MOST_VALUES:
        raise yaml.MarkedYAMLError(
            problem=f"aliases stand for more than {MOST_VALUES:,} values", problem_mark=node.start_mark
        )
    counted[id(node)] = count
    return count
