"""Inputs pinned by the SHA-256 of their files, which `pins` names as the configuration names them.

`prompts: data/x` and `pins: {data/x/en.jsonl: ...}`; `reference_outputs: outputs/{language}/gpt-4o.json` and
`pins: {outputs/en/gpt-4o.json: ...}`; an address, or a file below it.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from icr_platform.core.errors import InputError
from icr_platform.core.file_digests import remembered_digest


def place_of(file: str, given: str, local: str) -> Path | None:
    """Where a pinned file lies, if an input that was given as `given`, and lies at `local`, contains it; else None.

    >>> place_of("outputs/en/a.json", "outputs/{language}/a.json", "/data/outputs/{language}/a.json").as_posix()
    '/data/outputs/en/a.json'
    >>> place_of("x/en.jsonl", "./x/", "/data/x").as_posix(), place_of("x/en.jsonl", "y", "/data/y")
    ('/data/x/en.jsonl', None)
    """
    file, given = _plain(file), _plain(given)
    if file == given:
        return Path(local)
    if "{language}" in given:
        before, *others = (re.escape(piece) for piece in given.split("{language}"))
        found = re.match(before + "([^/]+)" + r"\1".join(others) + "(?:/(.*))?$", file)
        return Path(local.replace("{language}", found[1]), found[2] or "") if found else None
    return Path(local, file.removeprefix(f"{given}/")) if file.startswith(f"{given}/") else None


def _plain(path: str) -> str:
    return path.rstrip("/") if "://" in path else posixpath.normpath(path)


def pins_among(pins: Mapping[str, str], inputs: Iterable[str]) -> dict[str, str]:
    """The pins of files that one of the inputs contains."""
    given = [path for path in inputs if path]
    return {file: digest for file, digest in pins.items() if any(place_of(file, path, path) for path in given)}


def check_pins(pins: Mapping[str, str], inputs: Mapping[str, tuple[str, str]]) -> None:
    """Compare the pinned files with their digests.

    Args:
        inputs: how each was given, and where it lies, by field; a `runs:/` URI where it has not been fetched, which is not checked.

    Raises:
        InputError: a file has another digest, is missing, is a folder or lies on the hub, or belongs to no input.
    """
    for file, digest in pins.items():
        places = [(local, place_of(file, given, local)) for given, local in inputs.values() if given]
        found = [(local, place) for local, place in places if place is not None]
        if not found:
            named = ", ".join(f"{name} ({given})" for name, (given, _) in inputs.items() if given) or "none"
            raise InputError(
                f"config: field 'pins': {file!r} is in no input; name it as the input is named; inputs: {named}"
            )
        for local, place in found:
            if local.startswith("runs:/"):
                continue
            if not place.is_file():
                what = "is a folder; pin each of its files" if place.is_dir() else "is not there; fetch it"
                is_name = not place.exists() and not place.is_absolute()
                fix = "is a name on the hub; pin it as NAME@REVISION" if is_name else what
                raise InputError(f"{place}: is pinned by its SHA-256 and {fix}, or remove it from pins")
            seen = remembered_digest(place)
            if seen != digest:
                raise InputError(
                    f"{place}: its SHA-256 is {seen}, and pins has {digest}; fetch the file again, or correct the pin"
                )
