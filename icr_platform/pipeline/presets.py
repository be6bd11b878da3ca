"""Presets: YAML files of fields, by name or path, several of which make one configuration as layers.

`paper-llama3-8b,croco` is the paper's run with what another method does otherwise: a later layer wins, section by section. A layer
may say under `with` what it puts in place of another one's values, such as small models for the real ones that a method names:
`with: {croco: {annotate: {reward_model: tiny}}}` applies where the preset `croco` is another layer of the same configuration.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from icr_platform.core.config import merge
from icr_platform.core.errors import InputError
from icr_platform.core.yaml_files import read_yaml
from icr_platform.pipeline.inputs import SHIPPED
from icr_platform.tracking.project_runs import caller_folder

STAND_INS = "with"


@dataclass(frozen=True)
class Layer:
    """One preset: its fields, nested, and by the names of other presets what it puts over theirs."""

    path: Path
    values: Mapping[str, Any]
    stand_ins: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The one by which other layers know it."""
        return self.path.stem


def preset_path(preset: str) -> Path:
    """A preset's file: a path from the caller's folder, or the name of one that ships with the package.

    Raises:
        InputError: there is neither.
    """
    for path in (
        caller_folder() / preset,
        SHIPPED / preset,
        SHIPPED / f"{preset}.yaml",
        SHIPPED.parent / preset,
        caller_folder() / f"{preset}.yaml",
    ):
        if path.is_file():
            return path
    near = difflib.get_close_matches(preset, preset_names(), n=1, cutoff=0.6)
    meant = f"; nearest is {near[0]!r}" if near else ""
    raise InputError(f"{preset}: no such preset; give a YAML file or one of {', '.join(preset_names())}{meant}")


def preset_names() -> list[str]:
    """Names of the presets that ship with the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def read_layers(presets: str) -> list[Layer]:
    """The layers that a person names, comma-separated, the first one at the bottom.

    Raises:
        InputError: one of them is missing, named twice, or not a mapping of fields.
    """
    if (caller_folder() / presets).is_file():  # a file may have a comma in its name
        return [read_layer(preset_path(presets))]
    names = [name.strip() for name in presets.split(",")]
    if not all(names):
        raise InputError(f"{presets!r}: a comma stands beside no name; give presets as in mine.yaml,croco")
    layers = [read_layer(preset_path(name)) for name in names]
    paths = [layer.path.resolve() for layer in layers]
    if twice := [name for name, path in zip(names, paths, strict=True) if paths.count(path) > 1]:
        raise InputError(f"{presets}: {twice[-1]!r} is there twice; name each preset once")
    return layers


def read_layer(path: Path) -> Layer:
    """One preset.

    Raises:
        InputError: the file is missing, it is not YAML, not a mapping, or what it has under `with` is not by presets' names.
    """
    values = read_yaml(path, "preset")
    if values is None:
        return Layer(path, {})
    if not isinstance(values, dict):
        raise InputError(f"{path}: not a mapping of fields; write `field: value` lines")
    stand_ins = values.pop(STAND_INS, None) or {}
    if not isinstance(stand_ins, dict):
        raise InputError(f"{path}: field {STAND_INS!r} is {stand_ins!r}; give fields by the name of another preset")
    for name, over in stand_ins.items():
        if not isinstance(over, dict):
            raise InputError(
                f"{path}: field '{STAND_INS}.{name}' is {over!r}; give the fields that it puts over that preset's"
            )
        try:
            preset_path(str(name))
        except InputError as error:
            raise InputError(f"{path}: field '{STAND_INS}.{name}': {error}") from None
    return Layer(path, values, {str(name): over for name, over in stand_ins.items()})


def stacked(layers: Sequence[Layer]) -> dict[str, Any]:
    """The fields of all layers, nested, the later ones over the earlier ones.

    What one layer has in place of another's fields goes right over these, so that whatever comes later still wins.
    """
    values: dict[str, Any] = {}
    for layer in layers:
        values = merge(values, layer.values)
        for other in layers:
            if other is not layer:
                values = merge(values, other.stand_ins.get(layer.name, {}))
    return values


def refuse_sweeps(layers: Sequence[Layer]) -> None:
    """Raise an InputError where a preset is one of several arms, which makes no single configuration."""
    for layer in layers:
        if "arms" in layer.values:
            raise InputError(f"{layer.path}: is a sweep, of several arms; run `icr sweep`, and `icr check` for it")


def shown_layers(layers: Sequence[Layer]) -> str:
    """Where a configuration is from, for messages."""
    return " + ".join(str(layer.path) for layer in layers)
