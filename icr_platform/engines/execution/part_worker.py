"""What a Ray actor does: it loads an engine once, makes the parts it is given, and writes them or hands them over. Without a word of Ray."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from icr_platform import __version__
from icr_platform.core.artifacts import PLAN, ArtifactWriter, read_json
from icr_platform.core.errors import IcrError, InputError
from icr_platform.core.guarded_output import guard_this_process
from icr_platform.core.part_job import Make, PartJob, write_part
from icr_platform.core.parts import make_importable
from icr_platform.core.spending import spent
from icr_platform.engines.execution.settings import ExecutionSettings
from icr_platform.engines.execution.shared_folder import SharedFolder


class Seen(NamedTuple):
    """How far a worker is with the parts it was given: parts written, and rows in them; rows and tokens made, of any part.

    judge_input, judge_output: tokens that an endpoint was asked and answered for them.
    """

    parts: int = 0
    written: int = 0
    rows: int = 0
    tokens: int = 0
    judge_input: int = 0
    judge_output: int = 0


NOTHING = Seen()


class Driver(NamedTuple):
    """What workers must know of the process that started them."""

    version: str
    host: str
    environment: Mapping[str, str]
    module_folders: Sequence[str] = ()
    """Where it finds modules, among them those of parts that a person named as MODULE:NAME."""


class PartWorker:
    """One engine and its parts. `load`, `make_parts` and `close` share one thread, `seen` has another.

    Raises (from `load` and `make_parts`):
        InputError: this node has another version of the package, or does not see the output folder.
        IcrError: whatever the engine raises, with the node's name when it is not the driver's.
    """

    def __init__(self, job: PartJob, settings: ExecutionSettings, driver: Driver) -> None:
        for name, value in driver.environment.items():
            os.environ.setdefault(name, value)
        guard_this_process()  # Ray sends what an actor prints to the driver's terminal, and keeps it in files
        for folder in driver.module_folders:
            make_importable(Path(folder))
        self._job, self._settings, self._driver = job, settings, driver
        self._make: Make | None = None
        self._seen, self._spent_before = Seen(), spent()
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._shared: SharedFolder | None = None
        self._writers = job.writers

    def load(self) -> None:
        """Check that this worker can do its part, and load the engine."""
        with self._named_errors():
            if __version__ != self._driver.version:
                raise InputError(
                    f"icr_platform is {__version__} here and {self._driver.version} at the driver; install one version"
                )
            if self._settings.shared_folder:
                # Parts are written to a folder of this node's own, from which they are handed over.
                self._shared = SharedFolder(self._settings.shared_folder)
                self._scratch = tempfile.TemporaryDirectory(prefix="icr-")
                scratch = Path(self._scratch.name)
                self._writers = tuple(
                    ArtifactWriter(scratch / writer.folder.name, writer.table, writer.fingerprint)
                    for writer in self._job.writers
                )
            else:
                # The path may exist here and be on another disk: the plan that the driver wrote tells.
                for writer in self._writers:
                    plan = writer.folder / PLAN
                    if not plan.exists() or read_json(plan).get("fingerprint") != writer.fingerprint:
                        raise InputError(
                            f"{writer.folder}: not the driver's folder here; put --output where all nodes see it, or give "
                            "--shared-folder s3://..."
                        )
            self._make = self._job.load()

    def make_parts(self, parts: Sequence[int], *shards: Any) -> Seen:
        """Make parts, and write each or hand it over as soon as it is there."""
        assert self._make is not None
        self._seen, self._spent_before = Seen(), spent()
        with self._named_errors():
            for part, tables in zip(parts, self._make(iter(shards), self._advance), strict=True):
                write_part(self._writers, part, tables)
                if self._shared is not None:
                    for writer in self._writers:
                        if writer.has_part(part):
                            self._shared.put(writer, part)
                            writer.part_path(part).unlink()
                        else:  # an empty table; a killed run may have left another
                            self._shared.discard(writer, part)
                seen, judged = self._seen, spent() - self._spent_before
                self._seen = seen._replace(
                    parts=seen.parts + 1,
                    written=seen.written + tables[-1].num_rows,
                    judge_input=judged["judge_input"],
                    judge_output=judged["judge_output"],
                )
        return self._seen

    def seen(self) -> Seen:
        """How far `make_parts` is."""
        return self._seen

    def close(self) -> None:
        """Drop the engine, which ends the processes that it started."""
        self._make = None
        gc.collect()
        if self._scratch is not None:
            self._scratch.cleanup()

    def _advance(self, rows: int, tokens: int) -> None:
        self._seen = self._seen._replace(rows=self._seen.rows + rows, tokens=self._seen.tokens + tokens)

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Say on which node an error happened, unless that is the driver's own."""
        try:
            yield
        except IcrError as error:
            host = socket.gethostname()
            if host == self._driver.host:
                raise
            raise type(error)(f"{error} [Ray node {host}]") from error
