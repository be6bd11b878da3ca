"""The configuration of `sweep`: arms and seeds, and the configurations of `iterate` that they make."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, JsonValue

from icr_platform.core.config import (
    INPUTS,
    WHERE,
    Config,
    OptionalFloat,
    merge,
    nest,
    require,
    setting,
    split_at_commas,
)
from icr_platform.core.errors import InputError
from icr_platform.core.mappings import read_mapping
from icr_platform.core.parts import Worlds
from icr_platform.pipeline.config import IterateConfig, of_layers
from icr_platform.pipeline.presets import Layer, preset_names, read_layers, stacked

_GRID = '{"train.beta": [0.05, 0.1]}'
_SETTINGS = '{"eval_limit": 100}'
_OWN = ("name", "preset", "grid")
"""What an arm of a sweep may say beside the fields of iterate."""
_MOST_ARMS = 1000  # a grid of many fields is a mistake before it is a plan


def _seeds(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool):
        raise ValueError(f"{value} may mean one seed or so many; write [{value}] or [0, 1, 2]")
    seeds = split_at_commas(value)
    if not isinstance(seeds, (list, tuple)):
        raise ValueError("not a list; write one such as [0, 1, 2]")
    numbers = []
    for seed in seeds:
        text = str(seed).strip()
        if isinstance(seed, bool) or not re.fullmatch(r"\d{1,18}", text):
            raise ValueError(f"{seed!r} is not a seed; give whole numbers from 0 on")
        numbers.append(int(text))
    if same := [seed for seed, count in Counter(numbers).items() if count > 1]:
        raise ValueError(f"{same[0]} is there twice; give each seed once")
    return tuple(numbers)


def _presets(value: object) -> object:
    if isinstance(value, (list, tuple)) and all(isinstance(each, str) for each in value):
        return ",".join(value)
    return value


def _arms(value: object) -> object:
    """The list, or mapping, of a file; that of a flag as JSON, or names with commas between them."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith(("[", "{")):
        try:
            return json.loads(value)
        except ValueError as error:
            raise ValueError(f"not JSON ({error}); write names such as icr,random") from None
    return list(split_at_commas(value))  # type: ignore[call-overload]


class SweepPlaces(Config):
    """Where the arms of a sweep run."""

    heading = WHERE

    at_once: int = setting(
        1, "arms at once, each in a process of its own; with ray 0: as many as there is room for", "place", ge=0
    )
    execution: Literal["local", "ray"] = setting(
        "local", "local: on this machine; ray: on the nodes of a Ray cluster", "place"
    )
    ray_address: str = setting(
        "", "host:port of the cluster; empty: RAY_ADDRESS, else one on this machine, started if there is none", "place"
    )
    num_cpus: float = setting(1.0, "CPUs per arm on Ray", "place", gt=0)
    num_gpus: OptionalFloat = setting(None, "GPUs per arm on Ray; none: 1 where the cluster has any", "place", ge=0)


class SweepConfig(SweepPlaces):
    """sweep: arms, each at every seed, on the same models, prompts and evaluation."""

    heading = INPUTS
    required: ClassVar[tuple[str, ...]] = ("arms",)

    name: str = setting("", "of the sweep, for its run; empty: the file's", "place")
    base: Annotated[str, BeforeValidator(_presets)] = setting("", "presets that every arm goes over, comma-separated")
    arms: Annotated[JsonValue, BeforeValidator(_arms)] = setting(
        "", "presets, comma-separated; in a file also mappings of name, preset, grid and fields of iterate"
    )
    seeds: Annotated[tuple[int, ...], BeforeValidator(_seeds)] = setting((), "seeds of every arm; empty: its own one")
    settings: Annotated[dict[str, JsonValue], BeforeValidator(lambda value: read_mapping(value, _SETTINGS))] = setting(
        {}, f"fields of iterate for all arms, such as {_SETTINGS}; an arm's own win"
    )
    grid: Annotated[dict[str, JsonValue], BeforeValidator(lambda value: read_mapping(value, _GRID))] = setting(
        {}, f"values of fields, all combinations of which each arm takes, such as {_GRID}"
    )
    output: str = setting("", "folder of all artifacts, with one for each arm and seed; empty: a work folder", "place")


@dataclass(frozen=True)
class SweptArm:
    """One arm at one seed.

    name: the arm's, at all seeds. label: with the seed, where there are several. source: what it is made of, for a person.
    """

    name: str
    label: str
    source: str
    config: IterateConfig


@dataclass(frozen=True)
class Expansion:
    """The arms of a sweep, the first seed of all arms first; problems: all that must be fixed before any of them runs."""

    arms: tuple[SweptArm, ...]
    problems: tuple[str, ...]

    @property
    def of_first_seed(self) -> list[SweptArm]:
        """Each arm once."""
        return list({arm.name: arm for arm in reversed(self.arms)}.values())[::-1]


@dataclass(frozen=True)
class _Spec:
    """An arm as it was written, before its configuration is made. over: fields of iterate by dotted name, or nested."""

    name: str
    presets: str
    over: Mapping[str, Any]


def expand(config: SweepConfig, source: str, worlds: Worlds | None = None) -> Expansion:
    """The configurations of a sweep's arms. Reads presets, and nothing else.

    source: the sweep's file, for messages.
    """
    problems: list[str] = []
    base: list[Layer] = []
    try:
        base = read_layers(config.base) if config.base else []
    except InputError as error:
        problems.append(f"{source}: field 'base': {error}")
    specs: list[_Spec] = []
    for number, given in enumerate(_listed(config.arms, source, problems), start=1):
        try:
            specs += _gridded(_spec(given, number), config.grid)
        except InputError as error:
            problems.append(f"{source}: {error}")
    names = [spec.name for spec in specs]
    problems += [f"{source}: arm {name!r} is there twice; give each a name of its own" for name in _twice(names)]
    if len(specs) > _MOST_ARMS:
        problems.append(f"{source}: {len(specs):,} arms are more than {_MOST_ARMS:,}; give the grid fewer values")
    if problems:
        return Expansion((), tuple(problems))
    made: dict[str, list[SweptArm]] = {}
    for spec in specs:
        try:
            made[spec.name] = list(_at_seeds(spec, base, config, source, worlds))
        except InputError as error:
            said = str(error) if source in str(error) else f"{source}: {error}"
            problems.append(f"arm {spec.name!r}: {said}")
    by_seed = zip(*made.values(), strict=True) if made and not problems else ()
    return Expansion(tuple(arm for arms in by_seed for arm in arms), tuple(problems))


def _listed(given: JsonValue, source: str, problems: list[str]) -> list[Any]:
    """The arms as a list, whichever way they were written."""
    if isinstance(given, dict):
        return [{name: spec} for name, spec in given.items()]
    if not given or not isinstance(given, list):
        fix = "give a list of presets, or of mappings with a name and fields of iterate"
        problems.append(f"{source}: field 'arms' {'is empty' if not given else f'is {given!r}'}; {fix}")
        return []
    return given


def _spec(given: Any, number: int) -> _Spec:
    """One arm: a preset's name, a mapping with `name` or `preset`, or a name with such a mapping behind it.

    Raises:
        InputError: it is none of these, or its name cannot be one.
    """
    if isinstance(given, (str, int)) and not isinstance(given, bool):
        return _named({"preset": str(given)}, number)
    if not isinstance(given, dict) or not given:
        raise InputError(f"arm {number} is {given!r}; give the name of a preset, or a mapping with a name")
    fields = IterateConfig.model_fields
    first, inside = next(iter(given.items()))
    if len(given) == 1 and str(first) not in (*_OWN, *fields) and "." not in str(first):
        if isinstance(inside, str):
            inside = {"preset": inside}
        if not isinstance(inside, dict | None):
            raise InputError(
                f"arm {str(first)!r} is {inside!r}; give its fields, or nothing for the preset of that name"
            )
        inside = inside or {}
        if "name" in inside and inside["name"] != first:
            raise InputError(f"arm {str(first)!r} is also called {inside['name']!r}; give one name")
        return _named({**inside, "name": str(first)}, number)
    return _named(given, number)


def _named(given: Mapping[str, Any], number: int) -> _Spec:
    given = dict(given)
    name, presets = given.pop("name", None), given.pop("preset", None)
    if name is not None and (isinstance(name, bool) or not isinstance(name, (str, int))):
        raise InputError(f"arm {number}: its name is {name!r}; give a text")
    presets = _presets(presets)
    if presets is not None and not isinstance(presets, str):
        raise InputError(
            f"arm {str(name) if name is not None else number!r}: preset is {presets!r}; give names, comma-separated"
        )
    if presets is None:  # a name alone is also the preset's, if there is one
        presets = str(name) if str(name) in preset_names() else ""
    if name is None:
        if not presets:
            raise InputError(f"arm {number} has neither name nor preset; give one")
        layers = read_layers(presets)
        own = stacked(layers).get("arm")
        name = own if isinstance(own, str) and own else layers[-1].name
    name = str(name).strip()
    if not name or name.startswith(".") or re.search(r"[/\\:'\"\x00-\x1f]", name) or len(name) > 100:
        raise InputError(f"arm {number}: {name!r} is no name for files and models; leave out / : and quotation marks")
    if "arm" in given and given.pop("arm") != name:
        raise InputError(f"arm {name!r}: field 'arm' gives another name; leave it out")
    return _Spec(name, presets, given)


def _gridded(spec: _Spec, grid: Mapping[str, Any]) -> Iterator[_Spec]:
    """The arm with every combination of the grid's values; the arm itself without a grid."""
    over = dict(spec.over)
    own = over.pop("grid", None)
    if own is not None and not isinstance(own, dict):
        raise InputError(f"arm {spec.name!r}: grid is {own!r}; give lists of values by field, such as {_GRID}")
    crossed = {**grid, **(own or {})}
    for name, values in crossed.items():
        if not isinstance(values, list) or not values:
            raise InputError(f"arm {spec.name!r}: grid of {name!r} is {values!r}; give a list of values")
    short = [name.rpartition(".")[2] for name in crossed]
    shown = [last if short.count(last) == 1 else name for name, last in zip(crossed, short, strict=True)]
    for values in itertools.product(*crossed.values()):
        tail = "".join(f"-{name}={_shown(value)}" for name, value in zip(shown, values, strict=True))
        yield _Spec(spec.name + tail, spec.presets, merge(_nested(over), nest(dict(zip(crossed, values, strict=True)))))


def _shown(value: Any) -> str:
    """A value as part of a name.

    >>> _shown(0.05), _shown(True), _shown(["en", "es"])
    ('0.05', 'true', 'en+es')
    """
    if isinstance(value, list):
        return "+".join(map(_shown, value))
    text = value if isinstance(value, str) else json.dumps(value)
    return re.sub(r"[/\\:'\"\s\x00-\x1f]", "_", text)


def _at_seeds(
    spec: _Spec, base: Sequence[Layer], config: SweepConfig, source: str, worlds: Worlds | None
) -> Iterator[SweptArm]:
    """The arm at every seed.

    Raises:
        InputError: a preset is missing, or a field of it, or of the sweep's file, is wrong.
    """
    own = read_layers(spec.presets) if spec.presets else []
    known = {layer.path.resolve() for layer in base}
    of_file = Layer(Path(source), merge(_nested(config.settings), spec.over))
    if config.seeds and "seed" in of_file.values:
        raise InputError("field 'seed' is given, and the sweep has seeds; leave one of them out")
    layers = [*base, *(layer for layer in own if layer.path.resolve() not in known), of_file]
    made = of_layers(layers, {**stacked(layers), "arm": spec.name}, worlds)
    require(made, "sweep", source)
    said = " + ".join(filter(None, [spec.presets, *(f"{name}={value}" for name, value in _flat(spec.over))]))
    for seed in config.seeds or (made.seed,):
        label = f"{spec.name}-seed-{seed}" if len(config.seeds) > 1 else spec.name
        output = config.output or made.output
        place = {"seed": seed, "output": str(Path(output) / label) if output else ""}
        yield SweptArm(spec.name, label, said, made.model_copy(update=place))


def _nested(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields that may be given by dotted names or nested, or both.

    >>> _nested({"train.beta": 1, "train": {"gamma": 2}, "pins": {"a.json": 3}})
    {'train': {'beta': 1, 'gamma': 2}, 'pins': {'a.json': 3}}
    """
    values: dict[str, Any] = {}
    for name, value in fields.items():
        if not isinstance(name, str):
            raise InputError(f"{name!r} is not the name of a field; quote it, or leave it out")
        one = nest({name: value})
        if clash := _clash(values, one):
            raise InputError(f"field {clash!r} is given in two ways; keep one")
        values = merge(values, one)
    return values


def _clash(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    """The field that both give; '' for none."""
    for name in first.keys() & second.keys():
        both = (first[name], second[name])
        if not all(isinstance(each, dict) for each in both):
            return name
        if inside := _clash(*both):
            return f"{name}.{inside}"
    return ""


def _flat(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _twice(names: Sequence[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def alike(arms: Sequence[SweptArm]) -> list[tuple[str, str]]:
    """Pairs of arms that differ in nothing but their names, each with the first one like it."""
    first: dict[str, str] = {}
    found = []
    for arm in arms:
        content = arm.config.model_copy(update={"arm": "", "output": ""}).model_dump_json()
        if content in first:
            found.append((arm.name, first[content]))
        first.setdefault(content, arm.name)
    return found
