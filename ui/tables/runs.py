"""Which arms, iterations, stages and artifacts a tracking store has, and where an artifact lies."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from icr_platform.core.artifacts import Artifact, open_artifact
from icr_platform.core.errors import InputError
from icr_platform.core.language_tags import english_first
from icr_platform.core.languages import language_in
from icr_platform.core.parts import Worlds
from icr_platform.core.schemas import OUTPUTS, TABLES
from icr_platform.tracking.reader import RunRecord, TrackingReader

STAGE_OF = {
    "prompts": "generate",
    "responses": "generate",
    "rewards": "annotate",
    "preferences": "annotate",
    "drops": "annotate",
    "outputs": "eval",
    "judgments": "eval",
    "scores": "eval",
    "confusion": "eval",
    "instruction_outputs": "instructions",
    "instruction_checks": "instructions",
}
_SCHEMAS = TABLES | {"instruction_outputs": OUTPUTS}
_INPUTS = {"eval": "--eval-prompts", "instructions": "--instruction-prompts"}
FRESH_SECONDS = 5.0
T = TypeVar("T")


class UnknownRunError(InputError):
    """The run that an address names was deleted, was never there, or is not an arm. arm_id: the arm above it, '' without one."""

    def __init__(self, said: str, run_id: str, arm_id: str = "") -> None:
        super().__init__(said)
        self.run_id, self.arm_id = run_id, arm_id


@dataclass(frozen=True)
class StageRecord:
    """One stage run. `holder` is the run with its artifacts and parameters: itself, or the one it was reused from."""

    name: str
    run: RunRecord
    holder: RunRecord


@dataclass(frozen=True)
class IterationRecord:
    """One iteration run and its stages by name."""

    number: int
    run: RunRecord
    stages: Mapping[str, StageRecord]

    def has_finished(self, stage: str) -> bool:
        """Whether a stage ran here, or was reused, to its end."""
        return stage in self.stages and self.stages[stage].run.status == "FINISHED"


@dataclass(frozen=True)
class ArmRecord:
    """One arm of an experiment with its iterations in order."""

    run: RunRecord
    experiment: str
    iterations: tuple[IterationRecord, ...]

    @property
    def name(self) -> str:
        return self.run.tags.get("icr.arm", self.run.name)

    def iteration(self, number: int) -> IterationRecord:
        """Raises InputError when the arm has no such iteration."""
        for iteration in self.iterations:
            if iteration.number == number:
                return iteration
        known = ", ".join(str(iteration.number) for iteration in self.iterations) or "none yet"
        raise InputError(f"This run has no iteration {number}; it has: {known}.")

    def languages(self) -> list[str]:
        """Language codes with a metric of any kind, English first."""
        # A metric of a language ends with its code: `win_rate/es`, `margin/median/es`.
        return english_first({code for t in self.iterations for name in t.run.metrics if (code := language_in(name))})


class Catalogue:
    """The runs of a tracking store, remembered for a few seconds so that a click does not ask the store again."""

    def __init__(self, reader: TrackingReader, cache: Path, experiment: str = "", worlds: Worlds | None = None) -> None:
        self.reader, self.cache, self.experiment, self.worlds = reader, cache, experiment, worlds or {}
        self._remembered: dict[tuple[str, str], tuple[float, object]] = {}
        self._lock = threading.Lock()

    def experiments(self) -> dict[str, str]:
        """Names of the experiments by id; only the one asked for on the command line, if any."""
        found = self._recall(("experiments", ""), self.reader.experiments)
        return {key: name for key, name in found.items() if not self.experiment or name == self.experiment}

    def arms(self, experiment: str = "") -> list[RunRecord]:
        """Arm runs of one experiment (by name), or of all, the newest first; deleted ones are left out."""
        ids = [key for key, name in self.experiments().items() if not experiment or name == experiment]
        if not ids:
            return []
        return self._recall(("arms", ",".join(ids)), lambda: self.reader.arms(ids))

    def arm(self, run_id: str) -> ArmRecord:
        """An arm with its iterations and their stages.

        Raises:
            UnknownRunError: the run does not exist, was deleted, or is not an arm.
        """
        return self._recall(("arm", run_id), lambda: self._read_arm(run_id))

    def run(self, run_id: str) -> RunRecord:
        """One run of any kind.

        Raises:
            UnknownRunError: the run does not exist, or was deleted.
        """
        return self._recall(("run", run_id), lambda: self._living(run_id))

    def _living(self, run_id: str) -> RunRecord:
        try:
            run = self.reader.run(run_id)
        except InputError as error:
            said = (
                f"There is no run {run_id[:60]!r} here: it is of another store, was deleted for good, or is mistyped."
            )
            raise UnknownRunError(said, run_id) from error
        if run.deleted:
            said = f"Run {run_id} was deleted from MLflow; restore it there, or choose another run."
            raise UnknownRunError(said, run_id)
        return run

    def _arm_above(self, run: RunRecord) -> str:
        """Id of the arm that an iteration or a stage belongs to, '' where there is none."""
        for _ in range(3):
            above = run.tags.get("mlflow.parentRunId", "")
            if not above:
                return ""
            try:
                run = self._living(above)
            except UnknownRunError:
                return ""
            if run.tags.get("icr.kind") == "arm":
                return run.run_id
        return ""

    def evaluations(self) -> list[RunRecord]:
        """Finished runs of `icr eval` and `icr instructions` that belong to no arm, the newest first."""
        ids = list(self.experiments())
        found = (
            self._recall(("evaluations", ",".join(ids)), lambda: self.reader.evaluations(ids, tuple(_INPUTS)))
            if ids
            else []
        )
        return [run for run in found if run.status == "FINISHED"]

    def evaluation(self, run: RunRecord) -> IterationRecord:
        """A run of a stage that belongs to no arm, in the form of an iteration that has this stage alone."""
        name, reused = run.tags["icr.stage"], run.tags.get("icr.reused_run")
        return IterationRecord(0, run, {name: StageRecord(name, run, self.run(reused) if reused else run)})

    def _read_arm(self, run_id: str) -> ArmRecord:
        run = self._living(run_id)
        if run.tags.get("icr.kind") != "arm":
            said = f"Run {run_id} is not an arm of `icr iterate`; choose a run in the list."
            raise UnknownRunError(said, run_id, self._arm_above(run))
        iterations = []
        for child in self.reader.children(run):
            number = child.tags.get("icr.iteration", "")
            if child.tags.get("icr.kind") != "iteration" or not number.isdigit():
                continue
            stages: dict[str, StageRecord] = {}
            for attempt in reversed(
                self.reader.children(child)
            ):  # oldest first: a later attempt replaces an earlier one
                name, reused = attempt.tags.get("icr.stage", ""), attempt.tags.get("icr.reused_run")
                if name:
                    stages[name] = StageRecord(name, attempt, self.reader.run(reused) if reused else attempt)
            iterations.append(IterationRecord(int(number), child, stages))
        ordered = sorted(iterations, key=lambda iteration: iteration.number)
        return ArmRecord(run, self.experiments().get(run.experiment_id, run.experiment_id), tuple(ordered))

    def artifact(self, iteration: IterationRecord, name: str) -> Artifact:
        """The finished artifact `name` of an iteration, checked against its manifest.

        Raises:
            InputError: the stage did not run, has not finished, or the artifact is of another schema version or damaged.
            TrackingError: the artifact store does not answer.
        """
        holder = self._holder(iteration, name)
        return self._recall(
            ("artifact", f"{holder.run_id}/{name}"), lambda: open_artifact(self._folder(holder, name), _SCHEMAS[name])
        )

    def sound_parts(self, iteration: IterationRecord, name: str, faults: list[str]) -> Artifact:
        """As `artifact`, without the parts that are missing or damaged; what is wrong with these is put into `faults`."""
        return open_artifact(self._folder(self._holder(iteration, name), name), _SCHEMAS[name], faults)

    def _holder(self, iteration: IterationRecord, name: str) -> RunRecord:
        """The run whose artifact `name` is the iteration's; InputError where its stage did not run or has not finished."""
        stage_name = STAGE_OF[name]
        stage = iteration.stages.get(stage_name)
        if stage is None:
            if iteration.number == 0 and stage_name in ("generate", "annotate"):
                raise InputError(
                    "Iteration 0 is the starting policy: it was only evaluated, so it has no samples and no pairs. Choose iteration 1."
                )
            flag = _INPUTS.get(stage_name, "--config")
            raise InputError(
                f"Iteration {iteration.number} has no {stage_name} run; run `icr iterate {flag} ...` to make one."
            )
        if not iteration.has_finished(stage_name):
            raise InputError(
                f"{stage.name.capitalize()} of iteration {iteration.number} is {stage.run.status.lower()}, not finished: "
                "its tables appear when it is."
            )
        return stage.holder

    def local_path(self, uri: str) -> Path:
        """Where the artifact behind `runs:/RUN_ID/NAME/...` lies on this machine; what follows NAME is kept as it is.

        Raises:
            InputError: no such run.
            TrackingError: the store does not answer, or has no such artifact.
        """
        run_id, _, path = uri.removeprefix("runs:/").partition("/")
        name, _, inside = path.partition("/")
        if not name:
            raise InputError(f"{uri} does not name an artifact of the run, as runs:/{run_id}/outputs does")
        folder = self._recall(("path", f"{run_id}/{name}"), lambda: self._folder(self.reader.run(run_id), name))
        return folder / inside if inside else folder

    def _folder(self, holder: RunRecord, name: str) -> Path:
        # With --no-log-artifacts an artifact stays where it was made, and a tag says where.
        reference = holder.tags.get(f"icr.artifact.{name}")
        return Path(reference) if reference else self.reader.artifact(holder.run_id, name, self.cache)

    def _recall(self, key: tuple[str, str], ask: Callable[[], T]) -> T:
        with self._lock:
            known = self._remembered.get(key)
        if known is not None and time.monotonic() - known[0] < FRESH_SECONDS:
            return known[1]  # type: ignore[return-value]
        value = ask()  # without the lock: a store that is slow to answer one page must not stop the others
        with self._lock:
            self._remembered[key] = (time.monotonic(), value)
            if len(self._remembered) > 1000:  # weeks of an inspector that is never stopped
                self._remembered.clear()
        return value

    def close(self) -> None:
        """Remove the copies of remote artifacts."""
        self.reader.close()
