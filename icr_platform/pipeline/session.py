"""What the stages of one command share, and what a finished stage hands to the next one."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from icr_platform.core.config import Config, setting
from icr_platform.core.parts import Worlds, make_importable
from icr_platform.core.stage_protocol import StageResult
from icr_platform.pipeline.inputs import Resolver

if TYPE_CHECKING:
    from icr_platform.tracking.run_handle import RunHandle
    from icr_platform.tracking.tracker import Tracker


class RunOptions(Config):
    """How runs are tracked; the same for every stage."""

    heading = "tracking and reuse"

    experiment: str = setting("", "MLflow experiment; empty: MLFLOW_EXPERIMENT_NAME, or 'icr'", "place")
    tracking: bool = setting(True, "log to MLflow", "place")
    reuse: bool = setting(
        True, "take a FINISHED stage run with the same inputs and settings instead of running again", "place"
    )
    other_code: Literal["ask", "use", "redo"] = setting(
        "ask",
        "work that another version of the code began: use: continue it; redo: start again; ask: stop and say so. What that "
        "version finished is taken by `use` and made again otherwise",
        "place",
    )
    artifacts: Literal["copy", "reference"] = setting(
        "copy", "copy artifacts to MLflow's store, or log their path and digest only (large runs)", "place"
    )


@dataclass(frozen=True)
class Session:
    """What stages of one command share. tracker is None without tracking."""

    options: RunOptions
    base: Path
    work: Path
    tracker: Tracker | None
    worlds: Worlds = field(default_factory=dict)

    def close(self) -> None:
        """Remove what was fetched for the command."""
        if self.tracker is not None:
            self.tracker.close()

    @property
    def resolver(self) -> Resolver:
        return Resolver(self.base, self.work, self.tracker, self.worlds)


def open_session(options: RunOptions, worlds: Worlds | None = None) -> Session:
    """Check the tracking server before anything else, and make modules in the caller's folder importable, which settings may name.

    worlds: whose inputs the configurations may name.
    """
    from icr_platform.tracking.project_runs import caller_folder
    from icr_platform.tracking.tracker import Tracker

    base = caller_folder()
    work = base / ".icr"
    tracker = Tracker(options.experiment, work) if options.tracking else None
    make_importable(base)
    return Session(options=options, base=base, work=work, tracker=tracker, worlds=worlds or {})


@dataclass(frozen=True)
class StageRun:
    """A finished stage: its result, its fingerprint, its MLflow run (None untracked), and whether it was found, not run."""

    result: StageResult
    fingerprint: str
    run: RunHandle | None
    reused: bool
    temporary: Path | None = field(default=None)
    cost: Mapping[str, float] = field(default_factory=dict)
    """What the run that did the work spent, in metrics as `pipeline/cost.py` has them."""
    devices: str = ""
    """What it ran on, in words."""

    def artifact(self, name: str) -> Path:
        """Folder of an artifact, fetched now where it lies in a remote store."""
        return self.result.artifacts[name]

    def reference(self, name: str) -> str:
        """What another stage takes as its input: a folder, or the URI of an artifact that lies in a remote store."""
        from icr_platform.tracking.stored_artifacts import StoredArtifacts

        artifacts = self.result.artifacts
        return artifacts.reference(name) if isinstance(artifacts, StoredArtifacts) else str(artifacts[name])

    def clean_up(self) -> None:
        """Remove the work folder, since MLflow has the artifacts."""
        if self.temporary is not None:
            shutil.rmtree(self.temporary, ignore_errors=True)
            self.temporary.with_name(f".{self.temporary.name}.lock").unlink(missing_ok=True)
