"""An artifact's parts made by engines: one in this process, or one per worker of a Ray cluster. The only import of ray.

What a Ray worker must reach, besides this package in the same version:

- the models, by the same path on every node or by hub name (tokenizers too, for endpoints);
- the output folder at the same path, or `shared_folder`, where it hands finished parts over;
- endpoints, with their keys in the environment that the node's Ray was started in; keys never travel.

Prompts, responses and everything else that a part is made from are read here and travel with the part.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import pyarrow.parquet as pq

from icr_platform import __version__
from icr_platform.core.errors import IcrError, InputError
from icr_platform.core.part_job import PartJob, TakenPart, Throughput, write_part
from icr_platform.core.progress import Meter, meter
from icr_platform.engines.execution.part_worker import NOTHING, Driver, PartWorker, Seen
from icr_platform.engines.execution.settings import ExecutionSettings
from icr_platform.engines.execution.shared_folder import SharedFolder, check_shared_folder

_LOOK_EVERY = 0.5
_SAY_EVERY = 30.0
_DEATHS_PER_WORKER = 3
_MOST_AT_ONCE = 16
_CLOSE_WITHIN = 30.0
_VISIBLE_WITHIN = 90.0  # NFS clients remember for up to a minute that a file was not there
_ENVIRONMENT = (
    "HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "TOKENIZERS_PARALLELISM", "TRANSFORMERS_VERBOSITY", "GOMP_SPINCOUNT",
    "VLLM_LOGGING_LEVEL", "OPENAI_BASE_URL",
)  # fmt: skip


def check_execution(settings: ExecutionSettings) -> None:
    """Raise InputError when the chosen execution cannot work here; connects to nothing."""
    if settings.execution == "local":
        return
    if find_spec("ray") is None:
        raise InputError("config: field 'execution' is 'ray', which is not installed; pip install 'icr-platform[ray]'")
    if settings.shared_folder:
        check_shared_folder(settings.shared_folder)


def map_parts(job: PartJob, settings: ExecutionSettings) -> Throughput:
    """Make and write every part of `job.parts`.

    Raises:
        InputError, IcrError: what loading or making a part raised, wherever it ran; finished parts are kept.
        IcrError: Ray workers die again and again, or their parts do not arrive.
    """
    if job.take is not None:
        job = _less_taken(job, job.take)
    if not job.parts:
        return Throughput(0, 0.0)
    return _over_ray(job, settings) if settings.execution == "ray" else _here(job)


def _less_taken(job: PartJob, take: Callable[[int], TakenPart | None]) -> PartJob:
    """Write the parts whose rows earlier work has; the job that is left."""
    left, done = [], job.done
    for part in job.parts:
        taken = take(part)
        if taken is None:
            left.append(part)
            continue
        write_part(job.writers, part, taken.tables)
        done += taken.counted
    if done > job.done:
        print(f"{job.label}: {done - job.done} of {job.rows} taken from earlier work", file=sys.stderr, flush=True)
    return replace(job, parts=left, done=done, take=None)


def _here(job: PartJob) -> Throughput:
    make = job.load()
    start = time.monotonic()
    with meter(job.label, job.rows, job.done) as progress:
        for part, tables in zip(job.parts, make(map(job.shard, job.parts), progress.advance), strict=True):
            write_part(job.writers, part, tables)
        return Throughput(progress.tokens, time.monotonic() - start)


def worker_count(settings: ExecutionSettings, parts: int) -> int:
    """Engines that will share the parts: 1 in this process. Connects to the cluster when that decides."""
    if settings.execution == "local" or parts < 2:
        return 1
    wanted = settings.concurrency or _room(settings.num_cpus, settings.num_gpus or 0.0, connect(settings))
    return max(1, min(wanted, parts))


def _over_ray(job: PartJob, settings: ExecutionSettings) -> Throughput:
    ray = connect(settings)
    shared = SharedFolder(settings.shared_folder) if settings.shared_folder else None
    found = _collect_found(job, shared) if shared else {}
    parts = [part for part in job.parts if part not in found]
    left = replace(job, parts=parts, done=min(job.done + sum(found.values()), job.rows))
    mapped = _Pool(ray, left, settings, shared).run() if left.parts else Throughput(0, 0.0)
    if shared:
        shared.clear(job.writers)
    return mapped


def _collect_found(job: PartJob, shared: SharedFolder) -> dict[int, int]:
    """Fetch the parts that workers of a killed driver finished; rows by part."""
    waiting, last = shared.finished(job.writers[-1]), job.writers[-1]
    found = {}
    for part in job.parts:
        if part in waiting and not last.has_part(part):
            _collect(job, shared, part)
            found[part] = int(pq.read_metadata(last.part_path(part)).num_rows)
    return found


def _collect(job: PartJob, shared: SharedFolder, part: int) -> None:
    for writer in job.writers:
        if not shared.collect(writer, part):
            writer.part_path(part).unlink(missing_ok=True)


def connect(settings: ExecutionSettings) -> Any:
    """The ray module, connected: to the cluster that is named, or one on this machine, or a new one there.

    Raises:
        InputError: no cluster answers at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        return ray
    address = settings.ray_address or os.environ.get("RAY_ADDRESS", "")
    _require_listener(address)
    with _own_signals():
        # Without an address Ray takes what `ray start` left on this machine, or starts an instance of this process.
        ray.init(address=address or None, include_dashboard=False, logging_level=logging.ERROR)
    return ray


def _require_listener(address: str) -> None:
    """Ray itself ends the process when nothing answers for a minute."""
    host, colon, port = address.rpartition(":")
    if not colon or "://" in address or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise InputError(
            f"config: field 'ray_address' is {address!r}, where no Ray cluster answers ({error}); run `ray start --head` "
            "there, or leave it empty"
        ) from error


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Ray puts a handler of its own in place of the one that marks a terminated run."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


def _room(cpus: float, gpus: float, ray: Any) -> int:
    """Workers that the nodes there are now can hold together."""
    count = 0
    for node in ray.nodes():
        if node["Alive"]:
            has = node["Resources"]
            by_gpu = has.get("GPU", 0.0) // gpus if gpus else float("inf")
            count += int(min(has.get("CPU", 0.0) // cpus, by_gpu))
    return count


@dataclass
class _Actor:
    """A worker as the driver sees it.

    parts: what it was given; none while it loads or waits. seen: how far it is, as far as is known. question: `seen` asked.
    """

    handle: Any
    parts: tuple[int, ...] = ()
    seen: Seen = NOTHING
    question: Any = None


class _Pool:
    """The actors of one job: whoever is free gets the next parts; what one that died left goes to others."""

    def __init__(self, ray: Any, job: PartJob, settings: ExecutionSettings, shared: SharedFolder | None) -> None:
        self.ray, self.job, self.settings, self.shared = ray, job, settings, shared
        self.gpus = self._gpus()
        self.size = self._size()
        self.queue = deque(job.parts)
        self.free: list[_Actor] = []
        self.busy: dict[Any, _Actor] = {}
        self.deaths = 0
        self.looked = time.monotonic()

    def run(self) -> Throughput:
        """Make all parts. The clock starts when the first engine is loaded."""
        try:
            for _ in range(self.size):
                self._start()
            self._await_first()
            start = time.monotonic()
            with meter(self.job.label, self.job.rows, self.job.done) as progress:
                self._hand_out()
                while self.queue or any(actor.parts for actor in self.busy.values()):
                    self._step(progress)
                    self._hand_out()
                return Throughput(progress.tokens, time.monotonic() - start)
        finally:
            self._end()

    def _end(self) -> None:
        """Free workers may have engine processes to end; what others still do is for nothing."""
        closed = [actor.handle.close.remote() for actor in self.free]
        if closed:
            self.ray.wait(closed, num_returns=len(closed), timeout=_CLOSE_WITHIN)
        for actor in (*self.free, *self.busy.values()):
            self.ray.kill(actor.handle)

    def _gpus(self) -> float:
        if self.settings.num_gpus is not None:
            return self.settings.num_gpus
        return float(self.job.gpus) if self.ray.cluster_resources().get("GPU") else 0.0

    def _size(self) -> int:
        cpus, gpus = self.settings.num_cpus, self.gpus
        room = _room(cpus, gpus, self.ray)
        size = max(1, min(self.settings.concurrency or room, len(self.job.parts)))
        if room < size:
            print(
                f"{self.job.label}: Ray has room for {room} of {size} workers of {cpus:g} CPUs and {gpus:g} GPUs; the "
                "others wait for nodes",
                file=sys.stderr,
                flush=True,
            )
        return size

    def _start(self) -> None:
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        driver = Driver(
            __version__, socket.gethostname(), environment, [os.path.abspath(folder) for folder in sys.path]
        )
        # A dead actor is replaced here rather than restarted by Ray, so that its part need not wait for its successor.
        actor_class = self.ray.remote(
            num_cpus=self.settings.num_cpus,
            num_gpus=self.gpus,
            max_restarts=0,
            scheduling_strategy="SPREAD",
            concurrency_groups={"progress": 1},
        )(PartWorker)
        handle = actor_class.remote(replace(self.job, shard=_stays_here, parts=()), self.settings, driver)
        self.busy[handle.load.remote()] = _Actor(handle)

    def _await_first(self) -> None:
        said = time.monotonic()
        while not self.free:
            self._step(None)
            if time.monotonic() - said > _SAY_EVERY:
                said = time.monotonic()
                print(
                    f"{self.job.label}: waiting for Ray to start workers and load engines", file=sys.stderr, flush=True
                )

    def _hand_out(self) -> None:
        """Give free workers parts: several, for engines that work ahead, but ever fewer, so that all end together."""
        while self.free and self.queue:
            count = min(_MOST_AT_ONCE, max(1, len(self.queue) // (2 * self.size)))
            parts = tuple(self.queue.popleft() for _ in range(count))
            actor = _Actor(self.free.pop().handle, parts)
            self.busy[actor.handle.make_parts.remote(parts, *map(self.job.shard, parts))] = actor

    def _step(self, progress: Meter | None) -> None:
        for done in self._wait():
            self._settle(done, self.busy.pop(done), progress)
        if progress is not None and time.monotonic() - self.looked > _LOOK_EVERY:
            self.looked = time.monotonic()
            for actor in self.busy.values():
                self._look(actor, progress)

    def _wait(self) -> list[Any]:
        try:
            ready, _ = self.ray.wait(list(self.busy), num_returns=1, timeout=_LOOK_EVERY)
        except SystemError as error:  # Ray's own around what a signal's handler raised
            if error.__cause__ is None:
                raise
            raise error.__cause__ from None
        return list(ready)

    def _settle(self, done: Any, actor: _Actor, progress: Meter | None) -> None:
        """Take what a worker returned."""
        try:
            result = self.ray.get(done)
        except self.ray.exceptions.RayTaskError as error:
            self.free.append(actor)
            if isinstance(error.cause, (IcrError, OSError)):
                raise error.cause from None
            raise
        except self.ray.exceptions.RayError as error:
            self._bury(actor, error, progress)
            return
        if actor.parts and progress is not None:
            self._count(actor, result, progress)
            self.deaths = 0
        self.free.append(_Actor(actor.handle))

    def _bury(self, actor: _Actor, error: Exception, progress: Meter | None) -> None:
        self.ray.kill(actor.handle)
        if progress is not None:
            progress.advance(min(actor.seen.written - actor.seen.rows, 0))
        self.queue.extend(actor.parts[actor.seen.parts :])  # last: if they kill workers, all others are done before
        self.deaths += 1
        if self.deaths > _DEATHS_PER_WORKER * self.size:
            raise IcrError(
                f"{self.job.label}: {self.deaths} Ray workers died one after another (out of memory?), the last: "
                f"{_first_line(error)}; finished parts are kept, run the same command again"
            )
        print(f"{self.job.label}: a Ray worker died; its parts go to others", file=sys.stderr, flush=True)
        self._start()

    def _look(self, actor: _Actor, progress: Meter) -> None:
        """Ask a worker how far it is, and count what it said to the last such question."""
        if actor.parts and actor.question is None:
            actor.question = actor.handle.seen.options(concurrency_group="progress").remote()
        elif actor.parts and self.ray.wait([actor.question], timeout=0)[0]:
            # One that died is dealt with when its parts fail.
            with contextlib.suppress(self.ray.exceptions.RayError):
                self._count(actor, self.ray.get(actor.question), progress)
            actor.question = None

    def _count(self, actor: _Actor, seen: Seen, progress: Meter) -> None:
        for part in actor.parts[actor.seen.parts : seen.parts]:
            self._arrived(part)
        progress.advance(seen.rows - actor.seen.rows, seen.tokens - actor.seen.tokens)
        actor.seen = seen

    def _arrived(self, part: int) -> None:
        """Fetch a part, or see it in the folder."""
        if self.shared is not None:
            _collect(self.job, self.shared, part)
            return
        last = self.job.writers[-1]
        deadline = time.monotonic() + _VISIBLE_WITHIN
        while not last.has_part(part):
            if time.monotonic() > deadline:
                raise IcrError(
                    f"{last.part_path(part)}: written by a Ray worker and not seen here; put --output where all nodes see it, "
                    "or give --shared-folder s3://..."
                )
            os.listdir(last.folder)  # makes NFS look again
            time.sleep(0.1)


def _stays_here(part: int) -> Any:
    raise AssertionError(f"the shard of part {part} is made by the driver")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].strip().rstrip(".")
