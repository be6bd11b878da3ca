"""What Compare can set side by side: an iteration of an arm, all runs of an arm's name, an evaluation of its own, a file of outputs.

In the address a side is `RUN_ID`, `runs-of:ARM` or `file:PATH`, with the iteration beside it where it is an arm's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import NamedTuple

from icr_platform.core.artifacts import Artifact
from icr_platform.core.errors import InputError
from icr_platform.core.language_tags import english_first
from icr_platform.core.languages import language_in
from icr_platform.tracking.reader import RunRecord
from ui.tables.output_files import OutputFiles
from ui.tables.runs import ArmRecord, Catalogue, IterationRecord

RUNS_OF, FILE = "runs-of:", "file:"
EVALUATIONS = ("eval", "instructions")
"""Stages whose outputs are of the same prompts in every iteration."""
_TRIED = 8  # runs that are looked at for two sides where the address names none


class Choice(NamedTuple):
    """A side that can be chosen. value: as the address has it; group: 'Runs', 'All runs of an arm', 'Evaluations' or 'Files'."""

    value: str
    title: str
    group: str


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    value, at: as the address has them; at is None where there are no iterations. name: in words. iterations: to choose from.
    records: the iteration, or evaluation, of each run; none for a file. seeds: of each run, None where none is recorded.
    file: the outputs of a file; names_prompts: whether it says which prompt each answers. notes: what is not as one would expect, in sentences.
    """

    value: str
    at: int | None
    name: str
    iterations: tuple[int, ...] = ()
    records: tuple[IterationRecord, ...] = ()
    seeds: tuple[int | None, ...] = ()
    file: Artifact | None = None
    names_prompts: bool = True
    notes: tuple[str, ...] = ()

    def has(self, stage: str) -> bool:
        """Whether every run has finished a stage."""
        return bool(self.records) and all(record.has_finished(stage) for record in self.records)

    def languages(self) -> list[str]:
        """With a metric of any kind; none for a file."""
        return english_first({code for t in self.records for name in t.run.metrics if (code := language_in(name))})


class Sides:
    """Opens sides."""

    def __init__(self, catalogue: Catalogue, files: OutputFiles) -> None:
        self.catalogue, self.files = catalogue, files

    def choices(self) -> list[Choice]:
        """Everything that can be a side, the newest runs first."""
        arms = self.catalogue.arms()
        experiments = self.catalogue.experiments()
        several = len({run.experiment_id for run in arms}) > 1
        named = Counter(_arm_of(run) for run in arms)
        found = [
            Choice(
                run.run_id, _title(run, _arm_of(run), experiments.get(run.experiment_id, "") if several else ""), "Runs"
            )
            for run in arms
        ]
        found += [
            Choice(f"{RUNS_OF}{name}", f"{name} · {count} runs", "All runs of an arm")
            for name, count in named.items()
            if count > 1
        ]
        found += [Choice(run.run_id, _title(run, run.name), "Evaluations") for run in self.catalogue.evaluations()]
        return found + [Choice(f"{FILE}{path}", path, "Files") for path in self.files.paths]

    def open(self, value: str, at: int | None, stage: str = "") -> Side:
        """A side. at: the iteration, None for the last one, of those that have finished `stage` if one is given.

        Raises:
            InputError: there is no such run, file or iteration, it was deleted, or it has finished nothing to compare.
        """
        if value.startswith(FILE):
            path = value.removeprefix(FILE)
            read = self.files.read(path)
            return Side(value, None, path, file=read.outputs, names_prompts=read.names_prompts, notes=read.notes)
        if value.startswith(RUNS_OF):
            return self._runs_of(value, at, stage)
        run = self.catalogue.run(value)
        if run.tags.get("icr.kind") == "stage" and run.tags.get("icr.stage") in EVALUATIONS:
            return self._evaluation(run)
        return self._iteration(self.catalogue.arm(value), at, stage)

    def matched(self, side: Side, outputs: Artifact) -> Side:
        """A file that does not say which prompts it answers, by the prompts of other outputs that ask the same."""
        return side if side.names_prompts else replace(side, file=self.files.read(side.name, outputs).outputs)

    def first_two(self, run_id: str) -> tuple[tuple[str, int | None], tuple[str, int | None]] | None:
        """What is compared where the address says nothing: the last two evaluated iterations of a run, else of two runs, else two files."""
        arms = [run.run_id for run in self.catalogue.arms()]
        ordered = [run_id, *(other for other in arms if other != run_id)] if run_id else arms
        last: tuple[str, int | None] | None = None
        for one in ordered[:_TRIED]:
            done = [t.number for t in self.catalogue.arm(one).iterations if any(t.has_finished(s) for s in EVALUATIONS)]
            if len(done) > 1 and last is None:
                return (one, done[-2]), (one, done[-1])
            if done and last is not None:
                return (one, done[-1]), last
            if done:
                last = one, done[-1]
        if len(self.files.paths) > 1 and last is None:
            return tuple((f"{FILE}{path}", None) for path in self.files.paths[:2])  # type: ignore[return-value]
        return None

    def _iteration(self, arm: ArmRecord, at: int | None, stage: str) -> Side:
        number = _number([t.number for t in arm.iterations if _is_done(t, stage)], at, arm.name)
        notes = (
            ()
            if arm.run.status == "FINISHED"
            else (f"{arm.name} is {arm.run.status.lower()}: what has finished is compared.",)
        )
        iterations = tuple(t.number for t in arm.iterations)
        return Side(
            arm.run.run_id, number, f"{arm.name}, iteration {number}", iterations, (arm.iteration(number),), (_seed(arm.run),),
            notes=notes,
        )  # fmt: skip

    def _runs_of(self, value: str, at: int | None, stage: str) -> Side:
        """All runs of an arm's name that have the iteration; of several with one seed the newest that has."""
        name = value.removeprefix(RUNS_OF)
        arms = [self.catalogue.arm(run.run_id) for run in self.catalogue.arms() if _arm_of(run) == name]
        if not arms:
            raise InputError(f"There is no run of an arm {name!r}; choose another side in the list.")
        done = [{t.number for t in arm.iterations if _is_done(t, stage)} for arm in arms]
        number = _number(sorted(set.union(*done)), at, name)
        chosen: dict[object, ArmRecord] = {}
        for arm, numbers in zip(arms, done, strict=True):
            if number in numbers:
                seed = _seed(arm.run)
                chosen.setdefault(arm.run.run_id if seed is None else seed, arm)  # the newest comes first
        by_seed = sorted(chosen.values(), key=lambda arm: (_seed(arm.run) or 0, arm.run.started))
        left_out = len(arms) - len(by_seed)
        notes = (
            f"{left_out} of {len(arms)} runs of {name} are left out: they have not finished iteration {number}, or a newer run has their seed.",
        )
        return Side(
            value, number, f"{name}, iteration {number}, {len(by_seed)} runs", tuple(sorted(set.union(*done))),
            tuple(arm.iteration(number) for arm in by_seed), tuple(_seed(arm.run) for arm in by_seed), notes=notes if left_out else (),
        )  # fmt: skip

    def _evaluation(self, run: RunRecord) -> Side:
        record = self.catalogue.evaluation(run)
        stage = run.tags["icr.stage"]
        if not record.has_finished(stage):
            raise InputError(
                f"{stage.capitalize()} {run.name} is {run.status.lower()}, not finished: its tables appear when it is."
            )
        return Side(run.run_id, None, run.name, (), (record,), (None,))


def _is_done(iteration: IterationRecord, stage: str) -> bool:
    return any(iteration.has_finished(one) for one in ((stage,) if stage else (*EVALUATIONS, "annotate")))


def _number(done: Sequence[int], at: int | None, name: str) -> int:
    """The iteration asked for, or the last one of those that are done."""
    if at is not None:
        return at
    if not done:
        raise InputError(
            f"No iteration of {name} has finished what is compared; run `icr iterate` to its end, or choose another side."
        )
    return done[-1]


def _arm_of(run: RunRecord) -> str:
    return run.tags.get("icr.arm", run.name)


def _seed(run: RunRecord) -> int | None:
    text = run.params.get("iterate.seed", "")
    return int(text) if text.isdigit() else None


def _title(run: RunRecord, name: str, experiment: str = "") -> str:
    started = datetime.fromtimestamp(run.started, UTC).strftime("%Y-%m-%d %H:%M") if run.started else "?"
    status = "" if run.status == "FINISHED" else f" · {run.status.lower()}"
    seed = "" if (found := _seed(run)) is None else f" · seed {found}"
    return f"{experiment + ' · ' if experiment else ''}{name}{seed} · {started} UTC{status}"
