"""Flags: one for each field of a command's configuration and of the run options, in groups; presets; and what both make together."""

from __future__ import annotations

import argparse
import difflib
import textwrap
from collections.abc import Iterable, Mapping
from datetime import date
from typing import Any, Literal, NoReturn, get_args, get_origin

from pydantic.fields import FieldInfo

from icr_platform.cli.worlds import WORLDS
from icr_platform.core.config import INPUTS, Config, choices, grouped, is_section, leaves, merge, nest, role, validate
from icr_platform.core.errors import InputError
from icr_platform.pipeline.config import load_layers, of_layers
from icr_platform.pipeline.presets import read_layers, shown_layers
from icr_platform.pipeline.session import RunOptions
from icr_platform.pipeline.stages import CONFIGURED, ITERATE

_LONGEST_SHAPE = 56  # characters of a flag's choices, which stand beside it on lines of 80


class _Formatter(argparse.HelpFormatter):
    """Help that gives flags room, and wraps the paragraphs around them one by one."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(textwrap.fill(paragraph, width) for paragraph in text.split("\n"))


class Parser(argparse.ArgumentParser):
    """A parser that takes any value a person may mean, and says what is wrong in one line, with the nearest flag."""

    def __init__(self, prog: str, description: str, **more: Any) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False, formatter_class=_Formatter, **more)

    def parse_args(self, arguments: Iterable[str]) -> argparse.Namespace:  # type: ignore[override]
        """The values of all flags; None where one is not given."""
        return super().parse_args(joined(arguments, self._option_string_actions))

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments:"):
            given = message.split(maxsplit=3)[2].split("=")[0]
            near = difflib.get_close_matches(given, self._option_string_actions, n=1, cutoff=0.4)
            message = f"unknown flag {given}" + (f", nearest is {near[0]}" if near else "")
            if not given.startswith("-"):
                message = f"{given!r} follows no flag that takes a value"
        raise InputError(f"{self.prog}: {message}; see {self.prog} --help")


def joined(arguments: Iterable[str], flags: Mapping[str, argparse.Action]) -> list[str]:
    """The arguments with each value joined to its flag, whatever it looks like; argparse takes `-1e-3` for a flag of its own.

    A flag may be spelled as its field is, with underscores and dots: MLflow hands `-P train.beta=0.2` over as `--train.beta 0.2`.
    The word after a flag is its value, unless it is a flag itself. `--no-FLAG` means `--FLAG=false`.

    >>> parser = argparse.ArgumentParser()
    >>> _ = parser.add_argument("--alpha-min"), parser.add_argument("--reuse", nargs="?", const="true")
    >>> joined(["--alpha_min", "-1e-3", "--no-reuse"], parser._option_string_actions)
    ['--alpha-min=-1e-3', '--reuse=false']
    """
    found: list[str] = []
    is_open = False  # whether the flag before has no value yet
    for argument in arguments:
        name, equals, value = argument.partition("=")
        name = name.replace("_", "-").replace(".", "-") if name.startswith("--") else name
        if name in flags:
            found.append(name + equals + value)
            is_open = not equals and flags[name].nargs != 0
        elif name.startswith("--no-") and (switch := flags.get(f"--{name[5:]}")) and switch.nargs == "?" and not equals:
            found.append(f"--{name[5:]}=false")
            is_open = False
        elif is_open:
            found[-1] += f"={argument}"
            is_open = False
        else:
            found.append(name + equals + value)
    return found


def parse(command: str, arguments: Iterable[str]) -> tuple[Config, RunOptions]:
    """Configuration and run options of a command: its preset, and every flag that is given over it."""
    return configured(command, vars(command_parser(command).parse_args(arguments)))


def configured(command: str, given: Mapping[str, str | None]) -> tuple[Config, RunOptions]:
    """`parse`, of flags that are parsed already: their values by field, None where one is not given."""
    kind, source = CONFIGURED[command].config, f"icr {CONFIGURED[command].command}"
    values = {name: value for name, value in given.items() if value is not None}
    options = validate(RunOptions, {name: values[name] for name in RunOptions.model_fields if name in values}, source)
    flags = nest({name: values[name] for name, _ in leaves(kind) if name in values})
    config = validate(kind, flags, source, WORLDS)  # of flags alone, so that an error names the flag and not the preset
    if presets := values.get("config"):
        layers = read_layers(presets)
        merged = merge(load_layers(layers, command, WORLDS), flags)
        is_iterate = command == ITERATE.name
        config = (
            of_layers(layers, merged, WORLDS) if is_iterate else validate(kind, merged, shown_layers(layers), WORLDS)
        )
    return config, options


def command_parser(command: str, section: str = "") -> Parser:
    """A parser with a flag for each field of a command's configuration and of the run options.

    section: of iterate's configuration, such as `train`: help then lists the flags of that section, and no others.

    Raises:
        InputError: the configuration has no such section.
    """
    row = CONFIGURED[command]
    sections = _sections(row.config)
    if section and section not in sections:
        known = f"its sections are {', '.join(sections)}" if sections else "it has none"
        raise InputError(f"icr {row.command} --help: {section!r} is not a section; {known}")
    needed = ", ".join(f"--{name.replace('_', '-')}" for name in row.required)
    about = f"{row.help}\n\nNeeded, here or in the preset: {needed}."
    notes = "A switch needs no value (--reuse), and --no-FLAG turns it off."
    if section:
        about = f"{row.help}: the settings of {section}"
    elif sections:
        notes += (
            f"\nFlags of the stages begin with their names, such as --train-beta. `icr {row.command} --help SECTION` lists those of "
            f"one section: {', '.join(sections)}."
        )
    parser = Parser(f"icr {row.command}", about, add_help=False, epilog=notes)
    parser.usage = f"icr {row.command} [--config PRESET] [--FLAG VALUE ...]"
    add_flags(parser, command, section)
    return parser


def add_flags(parser: Parser, command: str, shown: str | None) -> None:
    """Add a command's flags. shown: the section whose flags help lists; '' for those outside sections, None for none at all."""
    add_flags_of(parser, CONFIGURED[command].config, shown, takes_presets=shown is not None)


def add_flags_of(parser: Parser, config: type[Config], shown: str | None = "", takes_presets: bool = False) -> None:
    """Add a flag for each field of a configuration and of the run options. shown: as for `add_flags`."""
    groups: dict[str, argparse._ArgumentGroup] = {}

    def add(heading: str, is_shown: bool, flag: str, text: str, **how: Any) -> None:
        if is_shown and heading not in groups:
            groups[heading] = parser.add_argument_group(heading)
        place = groups[heading] if is_shown else parser
        place.add_argument(flag, help=text.replace("%", "%%") if is_shown else argparse.SUPPRESS, **how)

    if takes_presets:
        text = "YAML file, or the name of a preset that ships with the package; several, comma-separated: later ones win; flags override it"
        add(INPUTS, shown == "", "--config", text, metavar="PRESET")
    parts: list[tuple[str, type[Config]]] = [("", config), *_sections(config).items(), ("", RunOptions)]
    for section, part in parts:
        for heading, fields in grouped(part).items():
            for name, info in fields.items():
                field = f"{section}.{name}" if section else name
                flag = "--" + field.replace("_", "-").replace(".", "-")
                of_worlds = {world.name: world.parts[name].doc for world in WORLDS.values() if name in world.parts}
                text = "; ".join([str(info.description), *(f"{world}: {doc}" for world, doc in of_worlds.items())])
                default = shown_default(info.default)
                text += f" (default: {default})" if default else ""
                switch = {"nargs": "?", "const": "true"} if isinstance(info.default, bool) else {}
                add(heading, shown == section, flag, text, dest=field, metavar=value_shape(info, of_worlds), **switch)


def _sections(config: type[Config]) -> dict[str, type[Config]]:
    return {name: info.annotation for name, info in config.model_fields.items() if is_section(info)}  # type: ignore[misc]


def value_shape(info: FieldInfo, names: Iterable[str] = ()) -> str:
    """What the value of a field looks like in help: its choices, where it has some. names: further ones.

    >>> from icr_platform.training.config import TrainSettings
    >>> value_shape(TrainSettings.model_fields["schedule"]), value_shape(TrainSettings.model_fields["beta"])
    ('{linear,cosine,constant}', 'X')
    """
    kind, parts = info.annotation, get_args(info.annotation)
    if known := (*choices(info), *names):
        return "{" + ",".join(known) + "}"
    if get_origin(kind) is tuple:
        listed = "{" + ",".join(get_args(parts[0])) + "},..." if get_origin(parts[0]) is Literal else ""
        # What does not fit beside the flag is listed by its description.
        return listed if 0 < len(listed) <= _LONGEST_SHAPE else "A,B,..."
    kinds = {kind, get_origin(kind), *parts}
    if bool in kinds:
        return "true|false"
    by_role = {"input": "PATH", "model": "MODEL"}
    by_kind = {int: "N", float: "X", date: "YYYY-MM-DD", dict: "JSON"}
    return next((shape for each, shape in by_kind.items() if each in kinds), by_role.get(role(info), "TEXT"))


def shown_default(default: object) -> str:
    """A default as a person would write it; '' for an empty one."""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return ",".join(map(str, default))
    return "none" if default is None else "" if default == {} else str(default)
