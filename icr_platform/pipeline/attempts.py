"""How long a stage has worked in a folder, on what, and the tokens that it spent there: `.cost-STAGE.json`, which every attempt at the work
adds itself to while it runs, so that those that were killed count too."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from icr_platform.core.artifacts import read_json, write_json
from icr_platform.core.errors import InputError
from icr_platform.core.kept_written import kept_written
from icr_platform.core.spending import spent
from icr_platform.pipeline.devices_used import Devices

_EVERY = 5.0  # seconds; what `kill -9` takes away at most


@dataclass(frozen=True)
class Attempt:
    """One attempt at a stage's work. tokens: by `spending.Use`."""

    seconds: float
    devices: Devices
    tokens: Mapping[str, int] = field(default_factory=dict)


def attempts_in(folder: Path, stage: str, fingerprint: str) -> list[Attempt]:
    """The attempts at this work in a folder, the oldest first; those at other work that was there do not count."""
    path = _file(folder, stage)
    if not path.exists():
        return []
    try:
        written = read_json(path)
        if written["fingerprint"] != fingerprint:
            return []
        return [
            Attempt(float(one["seconds"]), Devices(**one["devices"]), dict(one["tokens"]))
            for one in written["attempts"]
        ]
    except (InputError, KeyError, TypeError, ValueError):  # what was spent is for people to know: no work ends for it
        return []


@contextlib.contextmanager
def counted_attempt(folder: Path, stage: str, fingerprint: str, devices: Devices) -> Iterator[None]:
    """Add an attempt to the folder's, every few seconds while the block runs and when it ends, however it ends."""
    earlier, before, start = attempts_in(folder, stage, fingerprint), spent(), time.monotonic()

    def write() -> None:
        tokens = {use: count for use, count in (spent() - before).items() if count}
        with contextlib.suppress(OSError):  # a full disk ends the work itself, with a line of its own
            _write(folder, stage, fingerprint, [*earlier, Attempt(time.monotonic() - start, devices, tokens)])

    write()
    with kept_written(write, _EVERY):
        yield


def _write(folder: Path, stage: str, fingerprint: str, attempts: Sequence[Attempt]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [asdict(attempt) | {"devices": attempt.devices._asdict()} for attempt in attempts]
    write_json(_file(folder, stage), {"fingerprint": fingerprint, "attempts": rows})


def _file(folder: Path, stage: str) -> Path:
    return folder / f".cost-{stage}.json"
