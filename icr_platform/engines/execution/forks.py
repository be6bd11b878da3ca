"""Forks of this process that make an artifact's parts: they share the memory of one engine, which this process has loaded.

A small model leaves all cores but one of a CPU idle: its matrices are too small to be divided among threads. A fork costs neither the
time to import and load nor memory of its own for the weights. It has one torch thread, as the threads of this process do not
go with it.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
import threading
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing import Pipe, connection, get_context
from typing import Any, NamedTuple

from icr_platform.core.cores import usable_cores
from icr_platform.core.errors import IcrError
from icr_platform.core.parent_process import die_with_parent
from icr_platform.core.part_job import Make, PartJob, Throughput, write_part
from icr_platform.core.progress import Meter, meter
from icr_platform.engines.execution.settings import ExecutionSettings

# What a fork says: it wants a part, has made (rows, tokens), was raised an error, or is done.
_WANTS, _MADE, _RAISED, _DONE = range(4)


class _Fork(NamedTuple):
    process: Any
    pipe: connection.Connection


def fork_count(settings: ExecutionSettings) -> int:
    """Processes that may share an engine, 1 where none are forked."""
    if settings.execution != "processes" or sys.platform != "linux":  # elsewhere libraries do not survive a fork
        return 1
    return settings.concurrency or usable_cores()


@contextlib.contextmanager
def done_beside(work: Callable[[], None], name: str) -> Iterator[None]:
    """Have a fork do something while the block runs, with one torch thread; where there are no forks it is done before.

    Raises:
        IcrError: the fork died or raised; it printed why.
    """
    if fork_count(ExecutionSettings(execution="processes")) == 1:
        work()
        yield
        return

    def alone(parent: int) -> None:
        _leave_to_parent(parent)
        work()

    fork = _forked(alone, os.getpid())
    try:
        yield
        fork.join()
        if fork.exitcode:
            raise IcrError(f"{name}: the process that made it died ({_end_of(fork.exitcode)})")
    finally:
        fork.kill()
        fork.join()


def map_over_forks(job: PartJob, count: int) -> Throughput:
    """Make and write every part of `job.parts` by `count` forks; see `map_parts`.

    Raises:
        IcrError: a fork died, as where memory is full.
    """
    with _one_torch_thread():
        make = job.load()
        start = time.monotonic()
        forks = _started(job, make, count)  # before a progress bar has a thread, which may hold the terminal
        try:
            with meter(job.label, job.rows, job.done, job.use) as progress:
                _serve(job, forks, progress)
                return Throughput(progress.tokens, time.monotonic() - start)
        finally:
            for fork in forks:
                fork.process.kill()
                fork.process.join()
                fork.pipe.close()


@contextlib.contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Compute with one thread while the block lasts: forks have no other, and an engine may look how many there are when it is loaded."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _started(job: PartJob, make: Make, count: int) -> list[_Fork]:
    pipes = [Pipe() for _ in range(count)]
    processes = []
    for _, theirs in pipes:
        others = [end for pair in pipes for end in pair if end is not theirs]
        processes.append(_forked(_work, job, make, theirs, others, os.getpid()))
    for _, theirs in pipes:
        theirs.close()
    return [_Fork(process, ours) for process, (ours, _) in zip(processes, pipes, strict=True)]


def _forked(work: Callable[..., None], *given: Any) -> Any:
    process = get_context("fork").Process(target=work, args=given, daemon=True)
    with warnings.catch_warnings():
        # Python warns of locks that other threads hold; none is needed for what is done in a fork.
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    return process


def _serve(job: PartJob, forks: list[_Fork], progress: Meter) -> None:
    """Hand parts out, in order, until all forks are done."""
    left, working = deque(job.parts), {fork.pipe: fork for fork in forks}
    while working:
        for pipe in connection.wait(list(working)):
            assert isinstance(pipe, connection.Connection)
            try:
                kind, said = pipe.recv()
            except (EOFError, OSError):
                fork = working[pipe]
                fork.process.join()
                raise IcrError(
                    f"{job.label}: a process that made parts died ({_end_of(fork.process.exitcode)}; out of memory?); finished parts are "
                    "kept, run the same command again, with fewer --concurrency"
                ) from None
            if kind == _WANTS:
                part = left.popleft() if left else None
                pipe.send(None if part is None else (part, job.shard(part)))
            elif kind == _MADE:
                progress.advance(*said)
            elif kind == _RAISED:
                raise said
            else:
                del working[pipe]


def _end_of(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit status {code}"


def _work(
    job: PartJob, make: Make, pipe: connection.Connection, others: list[connection.Connection], parent: int
) -> None:
    """What a fork does: it asks for parts, and makes and writes them."""
    _leave_to_parent(parent)
    for other in others:
        other.close()
    asked: deque[int] = deque()
    speaking = threading.Lock()

    def say(kind: int, what: Any = None) -> None:
        with speaking:
            pipe.send((kind, what))

    def shards() -> Iterator[Any]:
        while True:
            say(_WANTS)
            given = pipe.recv()
            if given is None:
                return
            asked.append(given[0])
            yield given[1]

    try:
        for tables in make(shards(), lambda rows, tokens: say(_MADE, (rows, tokens))):
            write_part(job.writers, asked.popleft(), tables)
        say(_DONE)
    except (BrokenPipeError, ConnectionResetError):  # the parent is gone, and what is finished is written
        pass
    except Exception as error:  # noqa: BLE001 - the parent raises it
        say(_RAISED, _portable(error))
    sys.stderr.flush()


def _leave_to_parent(parent: int) -> None:
    """Let the parent alone decide when this fork ends, and its end be this fork's; compute with one thread from here on."""
    import torch

    torch.set_num_threads(1)
    # GNU's OpenMP would wait forever for the threads that it had in the parent, and a setting may ask for several.
    torch.set_num_threads = _stay_at_one
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    die_with_parent(parent)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else they warn that their threads are gone


def _stay_at_one(nthreads: int) -> None:
    """Stands for torch's function in a fork."""


def _portable(error: Exception) -> Exception:
    """The error as another process can raise it, with where it happened unless that is said by the error itself."""
    if not isinstance(error, IcrError):
        error.add_note(traceback.format_exc())
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - whatever an error's class does when it is copied
        return RuntimeError(traceback.format_exc())
    return error
