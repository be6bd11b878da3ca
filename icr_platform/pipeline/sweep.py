"""sweep: arms x seeds on the same models, prompts and evaluation, with every stage that is the same work done once.

What arms have in common is found by what identifies it, as finished work of any command is: at one seed the evaluation of pi_0 and
the first samples of it, wherever two arms ask for the same. Two arms that reach such a stage at the same time do not both do it:
one waits for the lock on the stage's folder, which ends with the process that holds it. Seeds share inputs, and stages without one.
"""

from __future__ import annotations

import csv
import io
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from icr_platform.core.config import without_secrets
from icr_platform.core.errors import IcrError, InputError
from icr_platform.core.parts import split_world
from icr_platform.engines.execution.settings import ExecutionSettings
from icr_platform.engines.execution.whole_jobs import JobPlaces, run_jobs
from icr_platform.pipeline.runner import code_tags, logged_params, track_status
from icr_platform.pipeline.session import Session
from icr_platform.pipeline.sweep_arm import ArmJob, run_arm
from icr_platform.pipeline.sweep_config import SweepConfig, SweptArm

if TYPE_CHECKING:
    from icr_platform.tracking.run_handle import RunHandle
    from icr_platform.tracking.tracker import Tracker

SWEEP_KIND = "sweep"
_TABLE = "arms.csv"
_KEPT = (
    "MLFLOW_DISABLE_TELEMETRY",
    "HF_HUB_OFFLINE",
    "HF_HUB_DISABLE_TELEMETRY",
    "TOKENIZERS_PARALLELISM",
    "GOMP_SPINCOUNT",
    "DO_NOT_TRACK",
)
"""What processes on other nodes find in their environment as here. Keys never travel."""


@dataclass
class ArmState:
    """How far an arm is at one seed.

    state: waiting, running, finished or failed. reason: what ended one that failed. metrics: by iteration. steps: run ids of the
    work behind each of its stages, those that others did included.
    """

    arm: SweptArm
    state: str = "waiting"
    run_id: str = ""
    reason: str = ""
    began: float = 0.0
    seconds: float = 0.0
    metrics: dict[int, dict[str, float]] = field(default_factory=dict)
    steps: list[str] = field(default_factory=list)
    own: set[str] = field(default_factory=set)
    """Ids of its stage runs, links included."""


@dataclass(frozen=True)
class StageCounts:
    """Stages of all arms that finished: how many were asked for, and how many of these were the same work as another one."""

    steps: int
    works: int
    made: int

    @property
    def shared(self) -> int:
        return self.steps - self.works

    def line(self) -> str:
        """For a person."""
        earlier = self.works - self.made
        found = f", {earlier} found finished" if earlier else ""
        return f"{self.steps} stages: {self.made} made{found}, {self.shared} shared between arms"


def counts_of(states: Sequence[ArmState]) -> StageCounts:
    """How often the arms of a sweep asked for a stage, and how much work that was."""
    steps = [work for state in states for work in state.steps]
    own = {run for state in states for run in state.own}
    works = set(steps)
    return StageCounts(len(steps), len(works), len(works & own))


def sweep(session: Session, config: SweepConfig, arms: Sequence[SweptArm]) -> list[ArmState]:
    """Run every arm; a failure ends no other one.

    Raises:
        InputError: stages cannot be shared without MLflow, or without reuse.
        IcrError: arms failed; it names each. The others are finished.
    """
    tracker = session.tracker
    if tracker is None or not session.options.reuse:
        flag = "--no-tracking" if tracker is None else "--no-reuse"
        raise InputError(f"icr sweep: arms share stages through MLflow's finished runs; leave {flag} out")
    run = tracker.start(config.name, {"icr.kind": SWEEP_KIND, "icr.sweep": config.name, **code_tags()})
    run.log_params({f"sweep.{name}": value for name, value in logged_params(config).items()})
    run.log_text(without_secrets(config).model_dump_json(indent=1), "config.json")
    states = {arm.label: ArmState(arm) for arm in arms}
    with track_status(run):
        _run_all(session, config, tracker, run, states)
        done = list(states.values())
        counts = counts_of(done)
        failed = [state for state in done if state.state == "failed"]
        figures = {
            "finished": len(done) - len(failed),
            "failed": len(failed),
            "stages": counts.steps,
            "stages_shared": counts.shared,
        }
        run.log_metrics({f"sweep/{name}": float(value) for name, value in figures.items()})
        _show(session, run, done, counts)
        if failed:
            said = "; ".join(f"arm {state.arm.label}: {state.reason}" for state in failed)
            raise IcrError(
                f"{len(failed)} of {len(done)} arms failed, {figures['finished']} finished, and the same command tries again: {said}"
            )
    return done


def _run_all(
    session: Session, config: SweepConfig, tracker: Tracker, run: RunHandle, states: dict[str, ArmState]
) -> None:
    name = str(tracker.client.get_experiment(tracker.experiment_id).name)
    options = session.options.model_copy(update={"experiment": name})
    is_alone = config.at_once == 1 and config.execution == "local"
    jobs = [ArmJob(state.arm, run, options, session.worlds, session.base, is_alone) for state in states.values()]

    def say(state: ArmState, text: str) -> None:
        over = sum(each.state in ("finished", "failed") for each in states.values())
        print(f"sweep [{over}/{len(states)}] {state.arm.label}: {text}", file=sys.stderr, flush=True)
        run.log_text(_as_csv(list(states.values())), _TABLE)

    def started(job: ArmJob) -> None:
        state = states[job.arm.label]
        state.state, state.began = "running", time.time()
        say(state, f"starts ({job.arm.source})" if job.arm.source else "starts")

    def ended(job: ArmJob, done: str | IcrError) -> None:
        state = states[job.arm.label]
        state.seconds = time.time() - state.began
        if isinstance(done, IcrError):
            state.state, state.reason = "failed", str(done)
            say(state, f"failed: {done}")
            return
        state.state, state.run_id = "finished", done
        _read(tracker, state)
        say(state, f"finished in {state.seconds / 60:.1f} min; {counts_of(list(states.values())).line()}")

    run_jobs(run_arm, jobs, _places(session, config, tracker), started, ended)


def _places(session: Session, config: SweepConfig, tracker: Tracker) -> JobPlaces:
    settings = ExecutionSettings(
        execution=config.execution, ray_address=config.ray_address, num_cpus=config.num_cpus, num_gpus=config.num_gpus
    )
    environment: dict[str, str | None] = {
        "MLFLOW_TRACKING_URI": tracker.uri,
        **dict.fromkeys(("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME")),
    }
    if config.execution == "ray":
        environment |= {name: os.environ[name] for name in _KEPT if name in os.environ}
    return JobPlaces(config.at_once, settings, session.base, environment)


def _read(tracker: Tracker, state: ArmState) -> None:
    """Take in what a finished arm measured, and whose work its stages are."""
    for iteration in tracker.children(state.run_id):
        state.metrics[int(iteration.data.tags["icr.iteration"])] = dict(iteration.data.metrics)
        for stage in tracker.children(iteration.info.run_id):
            state.own.add(str(stage.info.run_id))
            state.steps.append(str(stage.data.tags.get("icr.reused_run", stage.info.run_id)))


def _as_csv(states: Sequence[ArmState]) -> str:
    """The table of arms and their state, as it is logged."""
    text = io.StringIO()
    rows: list[dict[str, Any]] = [
        {
            "arm": state.arm.name,
            "seed": state.arm.config.seed,
            "state": state.state,
            "minutes": round(state.seconds / 60, 1),
            "run_id": state.run_id,
            "made_of": state.arm.source,
            "reason": state.reason,
        }
        for state in states
    ]
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _show(session: Session, run: RunHandle, states: Sequence[ArmState], counts: StageCounts) -> None:
    from rich.console import Console

    from icr_platform.report.leaderboard import leaderboard
    from icr_platform.report.sweep_table import SweptRow, sweep_terminal_table
    from icr_platform.report.terminal_tables import leaderboard_terminal_table

    rows = [SweptRow(state.arm.name, state.arm.config.seed, state.state, state.metrics) for state in states]
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(sweep_terminal_table(rows))
    if not any(
        split_world(state.arm.config.prompts or state.arm.config.eval_prompts, session.worlds) for state in states
    ):
        policies = {state.arm.label: state.metrics[max(state.metrics)] for state in states if state.metrics}
        for name, column in (("x_alpacaeval", "win_rate"), ("x_alpacaeval_lc", "lc_win_rate")):
            if len(table := leaderboard(policies, column)):
                run.log_table(table, name)
                if column == "win_rate":
                    console.print(leaderboard_terminal_table(table))
    print(counts.line(), flush=True)
