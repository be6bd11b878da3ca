"""Crashes of an engine, on one that dies when it is told to: nothing lost, nothing doubled, the culprit alone set aside."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator

import pytest

from icr_platform.core.errors import IcrError
from icr_platform.core.faults import ENGINE_CRASH
from icr_platform.engines.sampling import engine_queue
from icr_platform.engines.sampling.engine_queue import EngineCrash, EngineQueue, answer_shards
from icr_platform.engines.sampling.sampler import Dropped


class Mortal:
    """Answers prompts in order, `width` at a time; dies when `kills` says so of those it works on."""

    def __init__(self, kills: Callable[[list[str]], bool], log: list[str], width: int) -> None:
        self.kills, self.log, self.width = kills, log, width
        self.prompts: deque[tuple[int, str]] = deque()
        log.append("start")

    def submit(self, key: int, prompt: str) -> None:
        self.prompts.append((key, prompt))

    def wait(self) -> list[tuple[int, str]]:
        batch = [self.prompts.popleft() for _ in range(min(self.width, len(self.prompts)))]
        assert batch, "waited for nothing"
        if self.kills([prompt for _, prompt in batch]):
            raise EngineCrash("killed by signal 9")
        self.log += [prompt for _, prompt in batch]
        return [(key, prompt.upper()) for key, prompt in reversed(batch)]

    def close(self) -> None:
        self.log.append("close")


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_queue, "_PAUSES", (0.0, 0.0, 0.0))


def ask(shards: list[list[str]], kills: Callable[[list[str]], bool], ahead: int = 4, width: int = 4) -> tuple[
    list[list[str | Dropped]], list[str]
]:  # fmt: skip
    log: list[str] = []

    def start() -> Mortal:
        return Mortal(kills, log, width)

    queue: EngineQueue[str, str] = EngineQueue(start, start())
    return list(answer_shards(queue, shards, ahead, lambda result: None)), log


def shards_of(count: int, size: int) -> list[list[str]]:
    prompts = [f"p{index}" for index in range(count)]
    return [prompts[start : start + size] for start in range(0, count, size)]


def upper(shards: list[list[str]]) -> list[list[str]]:
    return [[prompt.upper() for prompt in shard] for shard in shards]


def test_shards_come_in_order_whatever_order_their_prompts_are_answered_in() -> None:
    shards = [*shards_of(11, 3), []]
    for ahead in (1, 5, 100):
        answers, log = ask(shards, lambda batch: False, ahead)
        assert answers == upper(shards)
        assert log.count("start") == 1


def test_the_engine_has_the_next_shard_while_the_caller_has_one() -> None:
    taken: list[str] = []

    def source() -> Iterator[list[str]]:
        for shard in shards_of(8, 2):
            taken.extend(shard)
            yield shard

    engine = Mortal(lambda batch: False, [], 2)
    queue: EngineQueue[str, str] = EngineQueue(lambda: engine, engine)
    answers = answer_shards(queue, source(), 1, lambda result: None)
    assert next(answers) == ["P0", "P1"]
    assert taken == ["p0", "p1", "p2", "p3"]
    assert [prompt for _, prompt in engine.prompts] == ["p2", "p3"]


@pytest.mark.parametrize("death", [1, 2, 5])
def test_a_death_that_no_prompt_caused_costs_none(death: int) -> None:
    batches = iter(range(1, 1000))
    shards = shards_of(23, 4)
    answers, log = ask(shards, lambda batch: next(batches) == death, ahead=12)
    assert answers == upper(shards)
    answered = Counter(line for line in log if line.startswith("p"))
    assert answered == Counter(prompt for shard in shards for prompt in shard), "an answered prompt is not asked again"
    assert (log.count("start"), log.count("close")) == (2, 1)


@pytest.mark.parametrize("culprits", [{"p0"}, {"p13"}, {"p22"}, {"p3", "p4"}, {"p1", "p20"}])
@pytest.mark.parametrize("width", [1, 4, 64])
def test_prompts_that_kill_the_engine_are_set_aside_and_no_others(culprits: set[str], width: int) -> None:
    shards = shards_of(23, 4)
    answers, log = ask(shards, lambda batch: bool(culprits & set(batch)), ahead=16, width=width)
    dead = Dropped(ENGINE_CRASH, "killed by signal 9")
    assert answers == [[dead if prompt in culprits else prompt.upper() for prompt in shard] for shard in shards]
    assert max(Counter(line for line in log if line.startswith("p")).values()) == 1
    # log2 of what is under way, and one: the culprit is alone then.
    assert log.count("start") - 1 <= len(culprits) * 6


def test_a_prompt_alone_has_a_second_try() -> None:
    deaths = iter([True, False])
    assert ask([["p0"]], lambda batch: next(deaths))[0] == [["P0"]]
    assert ask([["p0"]], lambda batch: True)[0] == [[Dropped(ENGINE_CRASH, "killed by signal 9")]]


def test_an_engine_that_always_dies_is_an_error() -> None:
    with pytest.raises(
        IcrError, match=r"died of 3 prompts in a row and finished none \(killed by signal 9\).*same command"
    ):
        ask(shards_of(20, 4), lambda batch: True)


@pytest.mark.parametrize(("failures", "survives"), [(2, True), (3, False)])
def test_an_engine_that_does_not_start_again_at_once_is_tried_again(failures: int, survives: bool) -> None:
    starts: list[int] = []

    def start() -> Mortal:
        starts.append(0)
        if len(starts) <= failures:
            raise IcrError("no memory")
        return Mortal(lambda batch: False, [], 4)

    queue: EngineQueue[str, str] = EngineQueue(start, Mortal(lambda batch: True, [], 4))
    answers = answer_shards(queue, [["p0"]], 1, lambda result: None)
    if survives:
        assert next(answers) == ["P0"]
    else:
        with pytest.raises(IcrError, match="no memory"):
            next(answers)
