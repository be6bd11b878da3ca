"""A queue of prompts for an engine that may die: it is started again with what is unfinished, and the prompt that kills it is found.

No engine is known here: what is driven has `submit`, `wait` and `close`.
"""

from __future__ import annotations

import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from icr_platform.core.errors import IcrError
from icr_platform.core.faults import ENGINE_CRASH
from icr_platform.engines.sampling.sampler import Dropped

_PAUSES = (0.0, 5.0, 20.0)  # seconds before each try to start again: a dead process gives its GPU memory back late
_LEAST_SHARDS = 2  # queued at once: one is written while the other is worked on
_HOPELESS = 3  # prompts set aside with none finished in between: it is the engine, not they

P = TypeVar("P")
R = TypeVar("R")
PromptT = TypeVar("PromptT", contravariant=True)
ResultT = TypeVar("ResultT", covariant=True)


class EngineCrash(Exception):  # noqa: N818 - what happened, and caught here: never shown as an error
    """The engine died, with everything that was on it."""


class Engine(Protocol[PromptT, ResultT]):
    """One running engine."""

    def submit(self, key: int, prompt: PromptT) -> None:
        """Queue a prompt behind those that are there, and return at once."""
        ...

    def wait(self) -> Sequence[tuple[int, ResultT]]:
        """Results that are finished, one or more, by key. Raises EngineCrash when the engine died."""
        ...

    def close(self) -> None:
        """Release what the engine occupies, whether it is dead or alive."""
        ...


class EngineQueue(Generic[P, R]):
    """An engine that survives its crashes.

    After a crash the unfinished prompts are tried in halves, one group at a time, so that the one that kills the engine is
    alone on it after log2(n) crashes, while a death that no prompt caused costs two smaller batches. A prompt that was there
    at two crashes, alone at the last, is set aside.

    Args:
        start: makes an engine. first: the one to begin with.

    Raises:
        IcrError: the engine does not start again, or it dies of one prompt after the other.
    """

    def __init__(self, start: Callable[[], Engine[P, R]], first: Engine[P, R]) -> None:
        self._start = start
        self._engine = first
        self._keys = 0
        self._on_engine: dict[int, P] = {}
        self._groups: deque[dict[int, P]] = deque()  # to be tried, each alone
        self._later: dict[int, P] = {}  # came while groups are tried
        self._crashes: Counter[int] = Counter()
        self._fruitless = 0

    def submit(self, prompt: P) -> int:
        """Queue a prompt; returns the key under which its outcome will come."""
        self._keys += 1
        if self._crashes:
            self._later[self._keys] = prompt
        else:
            self._put({self._keys: prompt})
        return self._keys

    def wait(self) -> list[tuple[int, R | Dropped]]:
        """Outcomes of one or more of the running prompts, by key."""
        while True:
            try:
                finished = self._engine.wait()
            except EngineCrash as crash:
                outcomes = self._after(crash)
                if outcomes:
                    return outcomes
                continue
            for key, _ in finished:
                del self._on_engine[key]
                del self._crashes[key]
            self._fruitless = 0
            self._go_on()
            return list(finished)

    def close(self) -> None:
        """End the engine."""
        self._engine.close()

    def _put(self, group: dict[int, P]) -> None:
        self._on_engine |= group
        for key, prompt in group.items():
            self._engine.submit(key, prompt)

    def _go_on(self) -> None:
        """Once the engine is empty, give it the next group, and after the last one whatever came meanwhile."""
        if self._on_engine:
            return
        if self._groups:
            self._put(self._groups.popleft())
        else:
            self._crashes.clear()
            later, self._later = self._later, {}
            self._put(later)

    def _after(self, crash: EngineCrash) -> list[tuple[int, R | Dropped]]:
        """Start again; the prompt that is now known to kill the engine, if there is one."""
        group, self._on_engine = self._on_engine, {}
        self._crashes.update(group.keys())
        self._engine.close()
        outcomes: list[tuple[int, R | Dropped]] = []
        (first, *others) = group
        if not others and self._crashes[first] > 1:
            outcomes = [(first, Dropped(ENGINE_CRASH, str(crash)))]
            del self._crashes[first]
            self._fruitless += 1
            if self._fruitless == _HOPELESS:
                raise IcrError(
                    f"the engine died of {_HOPELESS} prompts in a row and finished none ({crash}); see its output above, "
                    "then run the same command again: finished shards are kept"
                )
        elif others:
            half = len(group) // 2
            items = list(group.items())
            self._groups.extendleft([dict(items[half:]), dict(items[:half])])
        else:
            self._groups.appendleft(group)
        print(f"engine died ({crash}); started again, {len(group)} prompts unfinished", file=sys.stderr, flush=True)
        self._engine = self._restarted()
        self._go_on()
        return outcomes

    def _restarted(self) -> Engine[P, R]:
        for pause in _PAUSES[:-1]:
            time.sleep(pause)
            try:
                return self._start()
            except IcrError as error:
                print(f"{error}; trying again", file=sys.stderr, flush=True)
        time.sleep(_PAUSES[-1])
        return self._start()


def answer_shards(
    queue: EngineQueue[P, R],
    shards: Iterable[Sequence[P]],
    ahead: int,
    tell: Callable[[R], None],
    work: Callable[[P], int] = lambda _: 0,
) -> Iterator[list[R | Dropped]]:
    """Outcomes of each shard's prompts, shard by shard in order. `tell` hears of each result when it comes.

    work: of a prompt, in any unit. Those of a shard with most of it are queued first, so that none of them is left when the engine
    has little else to do.

    Shards are queued until `ahead` prompts are running, and at least two shards: the engine goes on while the caller has one.
    """
    source = iter(shards)
    queued: deque[_Shard[R]] = deque()
    places: dict[int, tuple[_Shard[R], int]] = {}
    while True:
        while len(places) < ahead or len(queued) < _LEAST_SHARDS:
            prompts = next(source, None)
            if prompts is None:
                break
            shard = _Shard[R](len(prompts))
            queued.append(shard)
            most_first = sorted(range(len(prompts)), key=lambda place: -work(prompts[place]))
            places |= {queue.submit(prompts[place]): (shard, place) for place in most_first}
        if not queued:
            return
        if queued[0].finished:
            yield queued.popleft().in_order()
            continue
        for key, outcome in queue.wait():
            if key not in places:  # of a caller that gave up half-way
                continue
            shard, place = places.pop(key)
            shard.outcomes[place] = outcome
            if not isinstance(outcome, Dropped):
                tell(outcome)


class _Shard(Generic[R]):
    """A queued shard: outcomes by the place of their prompt in it."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.outcomes: dict[int, R | Dropped] = {}

    @property
    def finished(self) -> bool:
        return len(self.outcomes) == self.size

    def in_order(self) -> list[R | Dropped]:
        return [self.outcomes[place] for place in range(self.size)]
