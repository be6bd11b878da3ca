"""Runs jobs that are whole commands, several at once: in processes of this machine, or on the nodes of a Ray cluster.

A job that raises, or whose process dies, fails alone. Nothing is retried: who starts the jobs again finds what is finished.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import active_children, get_context
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, TypeVar

from icr_platform import __version__
from icr_platform.core.errors import IcrError, InputError
from icr_platform.core.failures import failure
from icr_platform.core.guarded_output import guard_this_process
from icr_platform.core.parent_process import die_with_parent
from icr_platform.core.parts import make_importable
from icr_platform.engines.execution.ray_pool import connect, workers_that_fit
from icr_platform.engines.execution.settings import ExecutionSettings

T = TypeVar("T")
R = TypeVar("R")
_T_contra = TypeVar("_T_contra", contravariant=True)
_R_co = TypeVar("_R_co", covariant=True)
_WAIT_FOR_THE_END = 20.0  # seconds that interrupted jobs have to say so to their store
_DEAD = "its process died (out of memory?); what it finished is kept, and the same command continues it"


@dataclass(frozen=True)
class JobPlaces:
    """Where jobs run.

    at_once: jobs at the same time; 0: as many as Ray has room for. environment: what their processes find in it, and does not have
    where a value is None. folder: that they work in, at the same path on every node. settings: of Ray; `local` for this machine.
    """

    at_once: int
    settings: ExecutionSettings
    folder: Path
    environment: Mapping[str, str | None] = field(default_factory=dict)


class _Worker(Protocol[_T_contra, _R_co]):
    """Runs one job after the other."""

    def run(self, job: _T_contra) -> _R_co:
        """The result; raises what the job raised."""

    def interrupt(self) -> None:
        """Let the job that is running end as on Ctrl-C."""

    def close(self) -> None:
        """End the process."""


def run_jobs(
    work: Callable[[T], R],
    jobs: Sequence[T],
    places: JobPlaces,
    started: Callable[[T], None],
    ended: Callable[[T, R | IcrError], None],
) -> None:
    """Run every job in the order that is given.

    Args:
        work: a function of a module, which another process can import; it gets a job, which can be pickled.
        started, ended: called from one thread at a time; an error of ours is what ended a job that failed.

    Raises:
        InputError: fewer GPUs than jobs at once, or no Ray cluster at the address.
    """
    waiting: queue.SimpleQueue[T] = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)
    stopped, one_at_a_time, lost = threading.Event(), threading.Lock(), []
    make, count = _workers(work, places)
    workers = [make(slot) for slot in range(min(count, len(jobs)))]

    def take_jobs(worker: _Worker[T, R]) -> None:
        try:
            while not stopped.is_set():
                try:
                    job = waiting.get_nowait()
                except queue.Empty:
                    return
                with one_at_a_time:
                    started(job)
                try:
                    done: R | IcrError = worker.run(job)
                except Exception as error:  # noqa: BLE001 - handed over below
                    done = failure(error)
                if not stopped.is_set():
                    with one_at_a_time:
                        ended(job, done)
        except BaseException as error:  # noqa: BLE001 - of `started` and `ended`: raised in the caller's thread
            lost.append(error)
            stopped.set()
        finally:
            worker.close()

    # A local process ends with the thread that started it, so each worker keeps its thread.
    slots = [threading.Thread(target=take_jobs, args=(worker,), daemon=True) for worker in workers]
    for slot in slots:
        slot.start()
    try:
        while any(slot.is_alive() for slot in slots):
            for slot in slots:
                slot.join(0.2)
    except BaseException:  # interrupted or terminated: the jobs are told, and mark their runs
        stopped.set()
        for worker in workers:
            worker.interrupt()
        for slot in slots:
            slot.join(_WAIT_FOR_THE_END)
        raise
    if lost:
        raise lost[0]


def _workers(work: Callable[[T], R], places: JobPlaces) -> tuple[Callable[[int], _Worker[T, R]], int]:
    """What makes the worker of a slot, and the number of slots."""
    if places.settings.execution == "ray":
        ray = connect(places.settings)
        gpus = places.settings.num_gpus
        gpus = gpus if gpus is not None else float(bool(ray.cluster_resources().get("GPU")))
        count = places.at_once or max(1, workers_that_fit(places.settings.num_cpus, gpus, ray))
        return lambda slot: _RayWorker(ray, work, places, gpus), count
    count = places.at_once or 1
    devices = _devices(count)
    return lambda slot: _LocalWorker(work, places, devices[slot]), count


def _devices(slots: int) -> list[str | None]:
    """CUDA_VISIBLE_DEVICES of each slot; None where there is nothing to share out.

    >>> _devices(1)
    [None]
    """
    import torch

    if slots == 1 or not torch.cuda.is_available():
        return [None] * slots
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    devices = named.split(",") if named else [str(number) for number in range(torch.cuda.device_count())]
    share = len(devices) // slots
    if not share:
        raise InputError(f"{slots} jobs at once would share {len(devices)} GPU; run at most one on each")
    return [",".join(devices[slot * share : (slot + 1) * share]) for slot in range(slots)]


class _LocalWorker:
    """A process of this machine, replaced when it dies."""

    def __init__(self, work: Callable[[Any], Any], places: JobPlaces, devices: str | None) -> None:
        own = {"CUDA_VISIBLE_DEVICES": devices} if devices is not None else {}
        self._work, self._start = work, _Start({**places.environment, **own}, places.folder, os.getpid())
        self._pool: ProcessPoolExecutor | None = None

    def run(self, job: Any) -> Any:
        if self._pool is None:  # a forked process could not use CUDA
            spawn = get_context("spawn")
            self._pool = ProcessPoolExecutor(1, mp_context=spawn, initializer=_start_here, initargs=(self._start,))
        try:
            return self._pool.submit(_run, self._work, job).result()
        except BrokenProcessPool as error:
            self.close()
            raise IcrError(_DEAD) from error

    def interrupt(self) -> None:
        for child in active_children():  # of all slots: each has been told to stop
            child.terminate()

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None


class _RayWorker:
    """A task of a Ray cluster for each job, so that a job that waits for room takes none."""

    def __init__(self, ray: Any, work: Callable[[Any], Any], places: JobPlaces, gpus: float) -> None:
        self._ray = ray
        folders = tuple(os.path.abspath(folder) for folder in sys.path)
        self._start = _Start(places.environment, places.folder, None, folders)
        self._work = work
        self._handle: Any = None
        self._task = ray.remote(num_cpus=places.settings.num_cpus, num_gpus=gpus, max_retries=0, max_calls=1)(
            _run_there
        )

    def run(self, job: Any) -> Any:
        self._handle = self._task.remote(self._start, self._work, job)
        try:
            done = self._ray.get(self._handle)
        except self._ray.exceptions.RayError as error:
            raise IcrError(_DEAD) from error
        if isinstance(done, IcrError):
            raise done
        return done

    def interrupt(self) -> None:
        if self._handle is not None:
            self._ray.cancel(self._handle)

    def close(self) -> None:
        """Each task had a process of its own."""


@dataclass(frozen=True)
class _Start:
    """What a process of a job must know before it works. driver: its process id, where it is on this machine."""

    environment: Mapping[str, str | None]
    folder: Path
    driver: int | None
    module_folders: tuple[str, ...] = ()

    def apply(self) -> None:
        for name, value in self.environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        guard_this_process()
        for folder in self.module_folders:
            make_importable(Path(folder))
        os.chdir(self.folder)


def _start_here(start: _Start) -> None:
    """Set a local process up: it ends with the one that started it, and says so where runs are tracked."""

    def terminate(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, terminate)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to both; the driver decides
    die_with_parent(start.driver)
    start.apply()


def _run(work: Callable[[Any], Any], job: Any) -> Any:
    """A job in its process; a library's error may not be picklable."""
    try:
        return work(job)
    except KeyboardInterrupt:
        raise IcrError(
            "its process was terminated; what it finished is kept, and the same command continues it"
        ) from None
    except Exception as error:  # noqa: BLE001 - raised again as ours
        raise failure(error) from None


def _run_there(start: _Start, work: Callable[[Any], Any], job: Any, version: str = __version__) -> Any:
    """A job on a node of Ray; what failed is returned, since Ray wraps what is raised."""
    try:
        if version != __version__:
            raise InputError(f"icr_platform is {__version__} here and {version} at the driver; install one version")
        if not start.folder.is_dir():
            raise InputError(f"{start.folder}: no such folder on this node; work in one that all nodes see")
        start.apply()
        return work(job)
    except Exception as error:  # noqa: BLE001 - handed over
        return failure(error)
