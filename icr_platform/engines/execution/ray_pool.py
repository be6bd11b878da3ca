"""The workers of a Ray cluster that share the parts of a job. The only import of ray.

What a Ray worker must reach, in addition to this package in the same version:

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
from dataclasses import dataclass, replace
from typing import Any

import pyarrow.parquet as pq

from icr_platform import __version__
from icr_platform.core.errors import IcrError, InputError
from icr_platform.core.part_job import PartJob, Throughput
from icr_platform.core.progress import Meter, meter
from icr_platform.core.spending import spend
from icr_platform.engines.execution.part_worker import NOTHING, Driver, PartWorker, Seen
from icr_platform.engines.execution.settings import ExecutionSettings
from icr_platform.engines.execution.shared_folder import SharedFolder

# Seconds
_LOOK_EVERY = 0.5
_SAY_EVERY = 30.0
_CLOSE_WITHIN = 30.0
_VISIBLE_WITHIN = 90.0  # NFS clients remember for up to a minute that a file was not there

_DEATHS_PER_WORKER = 3
_MOST_AT_ONCE = 16  # parts
_ENVIRONMENT = (
    "HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "TOKENIZERS_PARALLELISM", "TRANSFORMERS_VERBOSITY", "GOMP_SPINCOUNT",
    "VLLM_LOGGING_LEVEL", "VLLM_NO_USAGE_STATS", "DO_NOT_TRACK", "OPENAI_BASE_URL",
)  # fmt: skip


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
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "://" not in address:
        # Ray itself would try for a minute, and then end the process.
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise InputError(
                f"config: field 'ray_address' is {address!r}, where no Ray cluster answers ({error}); run `ray start --head` "
                "there, or leave it empty"
            ) from error
    # Ray puts a handler of its own in place of the one that marks a terminated run; only a main thread has handlers.
    handler = signal.getsignal(signal.SIGTERM) if threading.current_thread() is threading.main_thread() else None
    try:
        # Without an address Ray takes what `ray start` left on this machine, or starts an instance of this process.
        ray.init(address=address or None, include_dashboard=False, logging_level=logging.ERROR)
    finally:
        if handler is not None:
            signal.signal(signal.SIGTERM, handler)
    return ray


def workers_that_fit(cpus: float, gpus: float, ray: Any) -> int:
    """Workers that the nodes there are now can hold together."""
    count = 0
    for node in ray.nodes():
        if node["Alive"]:
            has = node["Resources"]
            by_gpu = has.get("GPU", 0.0) // gpus if gpus else float("inf")
            count += int(min(has.get("CPU", 0.0) // cpus, by_gpu))
    return count


def map_over_ray(job: PartJob, settings: ExecutionSettings) -> Throughput:
    """Make and write every part of `job.parts` with workers of the cluster; see `map_parts`."""
    ray = connect(settings)
    if not settings.shared_folder:
        return _Pool(ray, job, settings, None).run()
    shared, last = SharedFolder(settings.shared_folder), job.writers[-1]
    # The workers of a killed driver may have finished parts that it did not live to collect.
    waiting, found = shared.finished(last), {}
    for part in job.parts:
        if part in waiting and not last.has_part(part):
            _collect(job, shared, part)
            found[part] = int(pq.read_metadata(last.part_path(part)).num_rows)
    parts = [part for part in job.parts if part not in found]
    left = replace(job, parts=parts, done=min(job.done + sum(found.values()), job.rows))
    mapped = _Pool(ray, left, settings, shared).run() if parts else Throughput(0, 0.0)
    shared.clear(job.writers)
    return mapped


def _collect(job: PartJob, shared: SharedFolder, part: int) -> None:
    for writer in job.writers:
        if not shared.collect(writer, part):
            writer.part_path(part).unlink(missing_ok=True)


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
        self.gpus = settings.num_gpus
        if self.gpus is None:
            self.gpus = float(job.gpus) if ray.cluster_resources().get("GPU") else 0.0
        fitting = workers_that_fit(settings.num_cpus, self.gpus, ray)
        self.size = max(1, min(settings.concurrency or fitting, len(job.parts)))
        if fitting < self.size:
            self._say(
                f"Ray has room for {fitting} of {self.size} workers of {settings.num_cpus:g} CPUs and {self.gpus:g} GPUs; "
                "the others wait for nodes"
            )
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
            said = time.monotonic()
            while not self.free:
                self._step(None)
                if time.monotonic() - said > _SAY_EVERY:
                    said = time.monotonic()
                    self._say("waiting for Ray to start workers and load engines")
            start = time.monotonic()
            with meter(self.job.label, self.job.rows, self.job.done, self.job.use) as progress:
                self._hand_out()
                while self.queue or any(actor.parts for actor in self.busy.values()):
                    self._step(progress)
                    self._hand_out()
                return Throughput(progress.tokens, time.monotonic() - start)
        finally:
            # Engines of free workers may have processes to end. What busy ones still do here is for nothing.
            closed = [actor.handle.close.remote() for actor in self.free]
            if closed:
                self.ray.wait(closed, num_returns=len(closed), timeout=_CLOSE_WITHIN)
            for actor in (*self.free, *self.busy.values()):
                self.ray.kill(actor.handle)

    def _say(self, text: str) -> None:
        print(f"{self.job.label}: {text}", file=sys.stderr, flush=True)

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

    def _hand_out(self) -> None:
        """Give free workers parts: several, for engines that work ahead, but ever fewer, so that all end together."""
        while self.free and self.queue:
            count = min(_MOST_AT_ONCE, max(1, len(self.queue) // (2 * self.size)))
            parts = tuple(self.queue.popleft() for _ in range(count))
            actor = _Actor(self.free.pop().handle, parts)
            self.busy[actor.handle.make_parts.remote(parts, *map(self.job.shard, parts))] = actor

    def _step(self, progress: Meter | None) -> None:
        """Wait for a worker to return, half a second at most; then ask the others how far they are."""
        try:
            ready, _ = self.ray.wait(list(self.busy), num_returns=1, timeout=_LOOK_EVERY)
        except SystemError as error:  # Ray's own around what a signal's handler raised
            if error.__cause__ is None:
                raise
            raise error.__cause__ from None
        for done in ready:
            self._settle(done, self.busy.pop(done), progress)
        if progress is None or time.monotonic() - self.looked <= _LOOK_EVERY:
            return
        self.looked = time.monotonic()
        for actor in self.busy.values():
            if actor.parts and actor.question is None:
                actor.question = actor.handle.seen.options(concurrency_group="progress").remote()
            elif actor.parts and self.ray.wait([actor.question], timeout=0)[0]:
                # One that died is dealt with when its parts fail.
                with contextlib.suppress(self.ray.exceptions.RayError):
                    self._count(actor, self.ray.get(actor.question), progress)
                actor.question = None

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
        """Replace a worker that died, and give its unfinished parts to others."""
        self.ray.kill(actor.handle)
        if progress is not None:
            progress.advance(min(actor.seen.written - actor.seen.rows, 0))
        self.queue.extend(actor.parts[actor.seen.parts :])  # last: if they kill workers, all others are done before
        self.deaths += 1
        if self.deaths > _DEATHS_PER_WORKER * self.size:
            reason = (str(error).splitlines() or [type(error).__name__])[0].strip().rstrip(".")
            raise IcrError(
                f"{self.job.label}: {self.deaths} Ray workers died one after another (out of memory?), the last: {reason}; "
                "finished parts are kept, run the same command again"
            )
        self._say("a Ray worker died; its parts go to others")
        self._start()

    def _count(self, actor: _Actor, seen: Seen, progress: Meter) -> None:
        """Fetch the parts that a worker has finished since, or see them in the folder; then count them."""
        last = self.job.writers[-1]
        for part in actor.parts[actor.seen.parts : seen.parts]:
            if self.shared is not None:
                _collect(self.job, self.shared, part)
                continue
            deadline = time.monotonic() + _VISIBLE_WITHIN
            while not last.has_part(part):
                if time.monotonic() > deadline:
                    raise IcrError(
                        f"{last.part_path(part)}: written by a Ray worker and not seen here; put --output where all nodes see it, "
                        "or give --shared-folder s3://..."
                    )
                os.listdir(last.folder)  # makes NFS look again
                time.sleep(0.1)
        progress.advance(seen.rows - actor.seen.rows, seen.tokens - actor.seen.tokens)
        spend("judge_input", seen.judge_input - actor.seen.judge_input)
        spend("judge_output", seen.judge_output - actor.seen.judge_output)
        actor.seen = seen


def _stays_here(part: int) -> Any:
    raise AssertionError(f"the shard of part {part} is made by the driver")
