"""The process that a stage reads and works in: this one, or one of its own, whose end frees all memory of the GPU."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context
from typing import Any, Protocol, TypeVar

from icr_platform.core.config import Config
from icr_platform.core.errors import IcrError
from icr_platform.core.failures import failure
from icr_platform.core.guarded_output import guard_this_process
from icr_platform.core.parent_process import die_with_parent
from icr_platform.core.progress import Measured, recorded, tell
from icr_platform.core.stage_protocol import StageContext, StageResult
from icr_platform.pipeline.attempts import counted_attempt
from icr_platform.pipeline.devices_used import devices_of
from icr_platform.pipeline.stages import StageRow
from icr_platform.tracking.run_handle import RunHandle

T = TypeVar("T")


class StageProcess(Protocol):
    """A stage that first reads and then runs on what it has read."""

    def read(self, config: Config) -> None:
        """`Stage.read`; what it returns stays in the process."""

    def run(self, context: StageContext) -> StageResult:
        """`Stage.run` on what was read."""


@contextmanager
def stage_process(row: StageRow, own_process: bool) -> Iterator[StageProcess]:
    """A stage in this process, or in one of its own, which lives as long as the block.

    What a stage reads may fill gigabytes, or not be picklable at all: it never travels between processes.
    """
    if not own_process:
        yield _InThisProcess(row)
        return
    spawn = get_context("spawn")  # a forked process could not use CUDA
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=_start_child, initargs=(row,)) as pool:
        try:
            yield _InAnotherProcess(pool)
        except BaseException as error:
            if not isinstance(
                error, Exception
            ):  # interrupted or terminated: nobody waits for the stage's hours of work
                for child in active_children():
                    child.terminate()
            raise


class _InThisProcess:
    def __init__(self, row: StageRow) -> None:
        self._name, self._stage = row.name, row.load()
        self._config: Any = None
        self._inputs: Any = None

    def read(self, config: Config) -> None:
        self._config, self._inputs = config, self._stage.read(config)

    def run(self, context: StageContext) -> StageResult:
        devices = devices_of(self._config)
        with counted_attempt(context.folder, self._name, context.fingerprint, devices):
            return self._stage.run(self._inputs, context)


class _InAnotherProcess:
    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def read(self, config: Config) -> None:
        self._wait(_read_in_child, config)

    def run(self, context: StageContext) -> StageResult:
        result, measured = self._wait(_run_in_child, context)
        tell(measured)
        return result

    def _wait(self, function: Callable[[Any], T], argument: object) -> T:
        try:
            return self._pool.submit(function, argument).result()
        except BrokenProcessPool as error:
            raise IcrError(
                "the stage's process died (out of memory?); finished parts are kept, run the same command again"
            ) from error


_child: StageProcess
"""In a process of its own: the stage that it was started for."""


def _start_child(row: StageRow) -> None:
    global _child
    die_with_parent()
    guard_this_process()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to both; the parent decides, and says it once
    _child = _InThisProcess(row)


def _read_in_child(config: Config) -> None:
    with _failures_that_travel():
        _child.read(config)


def _run_in_child(context: StageContext) -> tuple[StageResult, list[Measured]]:
    with _failures_that_travel(), recorded() as measured:
        result = _child.run(context)
        run = getattr(context.log_metrics, "__self__", None)
        if isinstance(run, RunHandle):  # the parent's copy knows nothing of what waits in this one
            run.send_waiting()
        return result, measured


@contextmanager
def _failures_that_travel() -> Iterator[None]:
    """Hand failures over as errors of ours: those of libraries may not be picklable, and would then look like a death of the process."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - raised again below
        if os.environ.get("ICR_DEBUG", "") not in ("", "0"):
            traceback.print_exc()
        raise failure(error) from None
