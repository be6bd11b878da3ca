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
from icr_platform.core.errors import IcrError, InputError
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

    value, at: as the address has them; at is None where there are no iterations. name: in words.
    records: the iteration, or evaluation, of each run; none for a file. seeds: of each run, None where none is recorded.
    file: the outputs of a file; names_prompts: whether it says which prompt each answers. notes: what is not as one would expect, in sentences.
    """

    value: str
    at: int | None
    name: str
    records: tuple[IterationRecord, ...] = ()
    seeds: tuple[int | None, ...] = ()
    file: Artifact | None = None
    names_prompts: bool = True
    notes: tuple[str, ...] = ()

    def has(self, stage: str) -> bool:
        """Whether every run has finished a stage."""
        return bool(self.records) and all(record.has_finished(stage) for record in self.records)


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

    def open(self, value: str, at: int | None) -> Side:
        """A side. at: the iteration; None for the last one that was evaluated.

        Raises:
            InputError: there is no such run, file or iteration, it was deleted, or it has finished nothing to compare.
        """
        if value.startswith(FILE):
            path = value.removeprefix(FILE)
            read = self.files.read(path)
            return Side(value, None, path, file=read.outputs, names_prompts=read.names_prompts, notes=read.notes)
        if value.startswith(RUNS_OF):
            return self._runs_of(value, at)
        run = self.catalogue.run(value)
        if run.tags.get("icr.kind") == "stage" and run.tags.get("icr.stage") in EVALUATIONS:
            return self._evaluation(run)
        return self._iteration(self.catalogue.arm(value), at)

    def iterations(self, value: str) -> tuple[int, ...]:
        """The iterations that can be chosen of a side; none of a file, an evaluation, or what cannot be opened."""
        try:
            if value.startswith(RUNS_OF):
                arms = self._arms_of(value.removeprefix(RUNS_OF))
            elif value and not value.startswith(FILE) and self.catalogue.run(value).tags.get("icr.kind") == "arm":
                arms = [self.catalogue.arm(value)]
            else:
                return ()
        except IcrError:
            return ()  # whoever opens the side meets the same error and shows it
        return tuple(sorted({t.number for arm in arms for t in arm.iterations}))

    def matched(self, side: Side, outputs: Artifact) -> Side:
        """A file that does not say which prompts it answers, by the prompts of other outputs that ask the same."""
        return side if side.names_prompts else replace(side, file=self.files.read(side.name, outputs).outputs)

    def first_two(self, run_id: str) -> tuple[tuple[str, int | None], tuple[str, int | None]] | None:
        """What is compared where the address says nothing: the last two evaluated iterations of a run, else of two runs, else two files."""
        arms = [run.run_id for run in self.catalogue.arms()]
        ordered = [run_id, *(other for other in arms if other != run_id)] if run_id else arms
        last: tuple[str, int | None] | None = None
        for one in ordered[:_TRIED]:
            done = sorted(_done(self.catalogue.arm(one), EVALUATIONS))
            if len(done) > 1 and last is None:
                return (one, done[-2]), (one, done[-1])
            if done and last is not None:
                return (one, done[-1]), last
            if done:
                last = one, done[-1]
        if len(self.files.paths) > 1 and last is None:
            return tuple((f"{FILE}{path}", None) for path in self.files.paths[:2])  # type: ignore[return-value]
        return None

    def _iteration(self, arm: ArmRecord, at: int | None) -> Side:
        number, status = _number([arm], at, arm.name), arm.run.status.lower()
        notes = () if status == "finished" else (f"{arm.name} is {status}: what has finished is compared.",)
        name = f"{arm.name}, iteration {number}"
        return Side(arm.run.run_id, number, name, (arm.iteration(number),), (_seed(arm.run),), notes=notes)

    def _runs_of(self, value: str, at: int | None) -> Side:
        """All runs of an arm's name that have the iteration; of several with one seed the newest that has."""
        name = value.removeprefix(RUNS_OF)
        arms = self._arms_of(name)
        if not arms:
            raise InputError(f"There is no run of an arm {name!r}; choose another side in the list.")
        number = _number(arms, at, name)
        having = [[arm for arm in arms if number in _done(arm, stages)] for stages in (EVALUATIONS, ("annotate",))]
        chosen: dict[object, ArmRecord] = {}
        for arm in having[0] or having[1]:
            seed = _seed(arm.run)
            chosen.setdefault(arm.run.run_id if seed is None else seed, arm)  # the newest comes first
        if not chosen:
            raise InputError(f"No run of {name} has finished iteration {number}; choose another iteration.")
        runs = sorted(chosen.values(), key=lambda arm: (_seed(arm.run) or 0, arm.run.started))
        why = f"they have not finished iteration {number}, or a newer run has their seed"
        left_out = len(arms) - len(runs)
        return Side(
            value,
            number,
            f"{name}, iteration {number}, {len(runs)} runs",
            tuple(arm.iteration(number) for arm in runs),
            tuple(_seed(arm.run) for arm in runs),
            notes=(f"{left_out} of {len(arms)} runs of {name} are left out: {why}.",) if left_out else (),
        )

    def _arms_of(self, name: str) -> list[ArmRecord]:
        return [self.catalogue.arm(run.run_id) for run in self.catalogue.arms() if _arm_of(run) == name]

    def _evaluation(self, run: RunRecord) -> Side:
        record = self.catalogue.evaluation(run)
        stage = run.tags["icr.stage"]
        if not record.has_finished(stage):
            raise InputError(
                f"{stage.capitalize()} {run.name} is {run.status.lower()}, not finished: its tables appear when it is."
            )
        return Side(run.run_id, None, run.name, (record,), (None,))


def _done(arm: ArmRecord, stages: Sequence[str]) -> set[int]:
    """Iterations that have finished any of the stages."""
    return {t.number for t in arm.iterations if any(t.has_finished(stage) for stage in stages)}


def _number(arms: Sequence[ArmRecord], at: int | None, name: str) -> int:
    """The iteration asked for, or the last one that was evaluated, or else that has pairs."""
    if at is not None:
        return at
    for stages in (EVALUATIONS, ("annotate",)):
        if done := [number for arm in arms for number in _done(arm, stages)]:
            return max(done)
    seen = "" if arms[0].run.status == "FINISHED" else f" (it is {arms[0].run.status.lower()})"
    raise InputError(
        f"No iteration of {name} has finished anything to compare{seen}; run `icr iterate` to its end, or choose another side."
    )


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
