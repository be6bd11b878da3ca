"""A sweep on tiny models and a real store: stages that are the same work are done once, a failure is one arm's, and it goes on.

The first command has its two arms in processes of their own, at once. What the second one has to do runs in this process, which saves
the seconds that each process takes to import torch.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from icr_platform.cli.commands import run as icr
from icr_platform.core.errors import IcrError
from icr_platform.pipeline import sweep as sweep_module
from icr_platform.pipeline.sweep_arm import ArmJob
from icr_platform.tracking.run_tree import RunTree, parent_of, read_runs
from icr_platform.tracking.tracker import Tracker


@pytest.fixture
def base(tmp_path: Path, tiny_models: tuple[Path, Path], prompt_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A preset on tiny models: three languages, one iteration."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    policy, reference = tiny_models
    values = {
        "iterations": 1,
        "policy": str(policy),
        "reference": str(reference),
        "prompts": str(prompt_folder),
        "eval_prompts": str(prompt_folder),
        "generate": {"samples": 4, "max_tokens": 24},
        "annotate": {"drop_wrong_language": False, "drop_truncated": False},
        "train": {"learning_rate": 1e-4, "batch_size": 4, "accumulation": 1},
        "eval": {"max_tokens": 24},
    }
    path = tmp_path / "base.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, arms run one after the other in this process."""

    def run_jobs(
        work: Callable[[ArmJob], str],
        jobs: Sequence[ArmJob],
        places: object,
        started: Callable[[ArmJob], None],
        ended: Callable[[ArmJob, str | IcrError], None],
    ) -> None:
        for job in jobs:
            started(job)
            try:
                ended(job, work(job))
            except IcrError as error:
                ended(job, error)

    return lambda: monkeypatch.setattr(sweep_module, "run_jobs", run_jobs)


def write(folder: Path, arms: list[Any], **more: Any) -> Path:
    path = folder / "two.yaml"
    path.write_text(yaml.safe_dump({"base": "base.yaml", "arms": arms, "seeds": [3], "at_once": 2, **more}))
    return path


def tree_of() -> RunTree:
    tracker = Tracker()
    return read_runs(tracker, tracker.experiment_id)


def made(tree: RunTree) -> Counter[str]:
    """Stages that were worked on and finished, not found: by name."""
    return Counter(
        run.data.tags["icr.stage"]
        for run in tree.runs.values()
        if run.data.tags.get("icr.kind") == "stage"
        and "icr.reused_run" not in run.data.tags
        and run.info.status == "FINISHED"
    )


BROKEN = {"name": "other", "preset": "random", "annotate.minimal_margin": 1e9}  # leaves no pair to train on
MENDED = {"name": "other", "preset": "random"}


def test_stages_are_shared_a_failure_is_one_arms_and_the_next_command_goes_on(
    base: Path, tmp_path: Path, in_this_process: Callable[[], None], capfd: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, ["icr", BROKEN])
    assert icr(["sweep", str(path)]) == 1
    said = capfd.readouterr().err
    assert "1 of 2 arms failed, 1 finished," in said
    assert "arm other: " in said.splitlines()[-1]
    tree = tree_of()
    (sweep,) = tree.sweeps()
    assert sweep.info.status == "FAILED"
    assert sweep.data.metrics["sweep/failed"] == 1
    assert {run.data.tags["mlflow.runName"]: run.info.status for run in tree.arms()} == {
        "icr": "FINISHED", "other": "FAILED",
    }  # fmt: skip
    assert {parent_of(arm) for arm in tree.arms()} == {sweep.info.run_id}
    # Two arms at once, which differ in their pairs: the evaluation of pi_0 and its samples were made once.
    assert made(tree) == {"eval": 2, "generate": 1, "annotate": 2, "train": 1}
    table = Path(Tracker().client.download_artifacts(sweep.info.run_id, "arms.csv", str(tmp_path)))
    rows = {row["arm"]: row for row in csv.DictReader(table.open(encoding="utf-8"))}
    assert {name: row["state"] for name, row in rows.items()} == {"icr": "finished", "other": "failed"}
    assert "contains no preference pairs" in rows["other"]["reason"]

    before = {arm.info.run_id for arm in tree.arms() if arm.info.status == "FINISHED"}
    write(tmp_path, ["icr", MENDED])
    in_this_process()
    assert icr(["sweep", str(path)]) == 0
    assert "found finished" in capfd.readouterr().err
    tree = tree_of()
    new, _ = tree.sweeps()
    assert new.info.status == "FINISHED"
    assert new.data.metrics["sweep/stages"] == 10
    assert new.data.metrics["sweep/stages_shared"] == 2
    moved = {arm.info.run_id for arm in tree.arms() if parent_of(arm) == new.info.run_id}
    assert before < moved, "not run again, but moved"
    assert len(moved) == 2
    assert made(tree) == {"eval": 3, "generate": 1, "annotate": 3, "train": 2}

    assert icr(["runs", "list"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["two", "icr", "other", "two", "other"]
    assert [line.startswith("  ") for line in lines] == [False, True, True, False, True]
    assert icr(["runs", "delete", "two", "--yes"]) == 0
    assert "sweep two (2 runs" in capfd.readouterr().out
    assert not tree_of().runs
