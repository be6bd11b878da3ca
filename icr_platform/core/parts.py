"""Parts that a setting names: built-in ones by a short name, anyone's own as MODULE:NAME.

A name is text, so it travels to Ray workers and to stages in processes of their own as every other setting does, and the identity
of the work finds the code behind it. Names that belong to a `World` are put in place of its short name when a configuration is
validated; whoever starts the platform hands the worlds in.
"""

from __future__ import annotations

import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import AfterValidator, GetCoreSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema

from icr_platform.core.errors import InputError

_DOTTED = r"[^\W\d]\w*(\.[^\W\d]\w*)*"
_PLACE = re.compile(f"{_DOTTED}:{_DOTTED}")


class Part(NamedTuple):
    """Something that a setting chooses by name.

    place: MODULE:NAME, imported when it is used. doc: what a person who chooses should know.
    """

    place: str
    doc: str


@dataclass(frozen=True)
class World:
    """A world made by this package or another, with inputs and parts of its own.

    name: stands before the paths of its inputs (NAME:PATH), and for its parts in the settings that `parts` lists.
    prepare: MODULE:NAME of a function (folder, seed) that makes the inputs in that folder, once.
    on_demand: for inputs that few settings name, by their names in that folder, MODULE:NAME of a function like `prepare` that makes this
        one, once, when it is named.
    title, description: what a report says of runs on it.
    """

    name: str
    prepare: str
    title: str
    description: str
    parts: Mapping[str, Part]
    on_demand: Mapping[str, str] = field(default_factory=dict)

    def folder(self, work: Path, seed: int | str) -> Path:
        """Where its inputs lie under the folder that the platform works in."""
        return work / f"{self.name}-{seed}"

    def makers(self, inside: str) -> list[str]:
        """MODULE:NAME of the functions that make the input at a path in that folder, in turn.

        >>> toy = World("toy", "toys:make", "A toy", "", {}, {"judge_model": "toys:make_judge"})
        >>> toy.makers("prompts/test"), toy.makers("judge_model")
        (['toys:make'], ['toys:make', 'toys:make_judge'])
        """
        return [self.prepare, *(place for name, place in self.on_demand.items() if Path(inside).parts[:1] == (name,))]


Worlds = Mapping[str, World]
"""Worlds by name."""


def split_world(uri: str, worlds: Worlds) -> tuple[World, str] | None:
    """World and path of NAME:PATH; None for every other path or URI.

    >>> toy = World("toy", "toys:make", "A toy", "", {})
    >>> split_world("toy:prompts/test", {"toy": toy})[1], split_world("s3://bucket/x", {"toy": toy})
    ('prompts/test', None)
    """
    name, colon, path = uri.partition(":")
    return (worlds[name], path) if colon and name in worlds else None


def is_place(value: str) -> bool:
    """Whether the text has the form of MODULE:NAME.

    >>> [is_place(text) for text in ("mine:Judge", "lab.judges:Strict.of", "openai", "http://x", "C:\\\\judge.py")]
    [True, True, False, False, False]
    """
    return _PLACE.fullmatch(value) is not None


def module_of(place: str) -> str:
    """The module of MODULE:NAME.

    >>> module_of("lab.judges:Strict")
    'lab.judges'
    """
    return place.partition(":")[0]


@dataclass(frozen=True)
class Named:
    """Annotates a setting that may have one of these names, or MODULE:NAME, or the name of a world with a part for the setting.

    The last is replaced by the place of that part: what a configuration contains never depends on the worlds.

    other: whether a text of another form is a value, too. said: what that is, for the message.
    """

    names: tuple[str, ...]
    other: Callable[[str], bool] | None = None
    said: str = ""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return AfterValidator(self._check).__get_pydantic_core_schema__(source, handler)

    def _check(self, value: str, info: ValidationInfo) -> str:
        worlds: Worlds = info.context or {}
        field = info.field_name or ""
        parts = {name: world.parts[field] for name, world in worlds.items() if field in world.parts}
        name, _, inside = value.partition(":")
        if name in parts and inside in ("", field):  # NAME, or NAME:translator, as the world's inputs are called
            return parts[name].place
        if value in self.names or is_place(value) or (self.other is not None and self.other(value)):
            return value
        raise ValueError(
            f"should be one of {', '.join(filter(None, (*self.names, *parts)))}, {self.said}or your own as MODULE:NAME"
        )


def make_importable(folder: Path) -> None:
    """Let modules in `folder` be named in MODULE:NAME; they come last, so that none of them hides an installed one."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def load_part(field: str, place: str, *arguments: str) -> Any:
    """The object that MODULE:NAME names.

    Args:
        field: the setting that names it, for messages.
        arguments: what it will be called with, by the names under which people know them.

    Raises:
        InputError: no such module or name, the module cannot be imported, or the object does not take the arguments.

    >>> load_part("judge", "icr_platform.core.parts:is_place", "value")("mine:Judge")
    True
    >>> load_part("judge", "icr_platform.core.parts:is_place", "settings", "seed")
    Traceback (most recent call last):
    icr_platform.core.errors.InputError: config: field 'judge' is 'icr_platform.core.parts:is_place', which is called with \
(settings, seed) and takes (value: 'str') -> 'bool'
    """
    said = f"config: field '{field}' is '{place}'"
    module = module_of(place)
    try:
        part = pkgutil.resolve_name(place)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
            raise InputError(
                f"{said}, and there is no module '{error.name}'; it must be installed or lie in the folder you call from"
            ) from error
        raise InputError(f"{said}, whose module needs {error.name}, which is not installed") from error
    except AttributeError as error:
        raise InputError(f"{said}, and {' '.join(str(error).split())}") from error
    except Exception as error:  # whatever a person's own module raises while it is imported
        raise InputError(
            f"{said}, whose module cannot be imported ({type(error).__name__}: {' '.join(str(error).split())})"
        ) from error
    if not callable(part):
        raise InputError(f"{said}, which cannot be called; it is called with ({', '.join(arguments)})")
    try:
        signature = inspect.signature(part)
    except ValueError:  # some callables written in C have no signature
        return part
    try:
        signature.bind(*arguments)
    except TypeError:
        raise InputError(f"{said}, which is called with ({', '.join(arguments)}) and takes {signature}") from None
    return part
