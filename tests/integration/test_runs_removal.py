"""`icr runs`: an arm goes with all that is nested in it, on the disk as well; what others use stays, and what nobody needs is found."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from icr_platform.cli.commands import run
from icr_platform.core.artifacts import write_json
from icr_platform.tracking.model_registry import register_checkpoint
from icr_platform.tracking.run_handle import RunHandle
from icr_platform.tracking.tracker import Tracker
from tests.support.s3_server import s3_server


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


class Made:
    """An arm of one iteration: generate and train ran, or are those of `reused`."""

    def __init__(
        self, tracker: Tracker, place: Path, name: str, reused: Made | None = None, status: str = "FINISHED"
    ) -> None:
        self.arm = tracker.start(name, {"icr.kind": "arm", "icr.arm": name})
        self.iteration = tracker.start("1", {"icr.kind": "iteration", "icr.arm": name, "icr.iteration": 1}, self.arm)
        self.stages: dict[str, RunHandle] = {}
        for stage, artifact in (("generate", "responses"), ("train", "checkpoint")):
            tags = {"icr.kind": "stage", "icr.arm": name, "icr.stage": stage}
            if reused is not None:
                stage_run = tracker.start(
                    stage, {**tags, "icr.reused_run": reused.stages[stage].run_id}, self.iteration
                )
            else:
                fingerprint = f"{stage}{name}".ljust(64, "0")
                stage_run = tracker.start(stage, {**tags, "icr.cache_key": fingerprint}, self.iteration)
                folder = place / ".icr" / f"{stage}-{fingerprint[:16]}"
                (folder / artifact).mkdir(parents=True)
                (folder / artifact / "part-00000.parquet").write_bytes(bytes(5000))
                write_json(folder / f"work-{stage}.json", {})
                if status == "FINISHED":
                    stage_run.log_artifacts(folder / artifact, artifact)
                    stage_run.tag_content(folder / artifact, artifact, "digest")
                    if stage == "train":
                        register_checkpoint(tracker, f"{name}-policy", stage_run, 1)
            stage_run.finish(status)
            self.stages[stage] = stage_run
        self.iteration.finish(status)
        self.arm.finish(status)

    @property
    def runs(self) -> set[str]:
        return {each.run_id for each in (self.arm, self.iteration, *self.stages.values())}


def rows(place: Path) -> set[str]:
    with closing(sqlite3.connect(place / "mlflow.db")) as connection:
        return {row[0] for row in connection.execute("SELECT run_uuid FROM runs")}


def files(place: Path) -> set[str]:
    found = (path.relative_to(place) for path in place.rglob("*") if path.is_file() and "mlflow.db" not in path.name)
    return {str(path) for path in found if not path.name.endswith(".lock")}


def icr(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    status = run(["runs", *arguments])
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err
    return status, shown.out, shown.err


def test_delete_an_arm(place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = Tracker("icr")
    going, other = Made(tracker, place, "base"), Made(tracker, place, "other")
    status, out, _ = icr(capsys, "list")
    assert status == 0
    assert [line.split()[:3] for line in out.splitlines()] == [
        ["other", other.arm.run_id, "FINISHED"], ["base", going.arm.run_id, "FINISHED"]
    ]  # fmt: skip
    before = files(place)
    status, out, err = icr(capsys, "delete", "base")  # no terminal
    assert (status, err) == (2, "icr: icr runs: nothing was deleted, for nobody can be asked here; give --yes\n")
    assert (files(place), rows(place)) == (before, going.runs | other.runs)
    for said in ("4 (1 arm, 1 iteration, 2 stages)", "artifacts     10.0 kB", "checkpoints   5.0 kB of them, in 1 runs",
                 "base-policy version 1 (alias iteration-1)", "/.icr/generate-generatebase0000 (5.0 kB)"):  # fmt: skip
        assert said in out, out
    monkeypatch.setattr("sys.stdin", type("Terminal", (), {"isatty": lambda self: True})())
    monkeypatch.setattr("builtins.input", lambda question: "n")
    assert icr(capsys, "delete", "base")[0] == 1
    assert (files(place), rows(place)) == (before, going.runs | other.runs)
    monkeypatch.setattr("builtins.input", lambda question: "y")
    assert icr(capsys, "delete", "base")[0] == 0
    assert rows(place) == other.runs
    assert {
        name for name in before if "base" in name or any(run_id in name for run_id in going.runs)
    } == before - files(place)
    assert len(files(place)) == 6, "the other arm's artifacts and work"
    assert not [path for path in place.rglob("*") if path.name in going.runs], "no empty folder is left"
    names = [model.name for model in tracker.client.search_registered_models()]
    assert names == ["other-policy"]


def test_what_others_use_stays(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tracker = Tracker("icr")
    base = Made(tracker, place, "base")
    user = Made(tracker, place, "user", reused=base)
    status, out, _ = icr(capsys, "delete", "base", "--yes")
    assert status == 0
    for stage, kept in base.stages.items():
        assert f"stays         run {kept.run_id} ({stage}): used by arm user" in out
        assert "mlflow.parentRunId" not in tracker.client.get_run(kept.run_id).data.tags
        assert tracker.resolve(
            f"runs:/{user.stages[stage].run_id}/{'responses' if stage == 'generate' else 'checkpoint'}"
        )
    assert rows(place) == user.runs | {each.run_id for each in base.stages.values()}
    assert tracker.resolve("models:/base-policy@iteration-1")
    assert icr(capsys, "clean", "--yes")[1].endswith("nothing to delete\n"), (
        "they are in use, and their work folders with them"
    )

    parameter = tracker.start("mine", {})
    parameter.log_params({"train.policy": f"runs:/{base.stages['train'].run_id}/checkpoint"})
    assert icr(capsys, "delete", "user", "--yes")[0] == 0
    tracker.client.set_registered_model_alias("base-policy", "champion", "1")
    third = Made(tracker, place, "third")
    tracker.client.set_registered_model_alias("third-policy", "champion", "1")
    out = icr(capsys, "delete", "third", "--yes")[1]
    assert f"run {third.stages['train'].run_id} (train): used by models:/third-policy@champion" in out
    assert tracker.resolve("models:/third-policy@champion")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("delete", "bse"), "bse: no arm of this name or id; there are base"),
        (("delete",), "which one? give its name or id"),
        (("clean", "base"), "takes no name, and got 'base'"),
        (("remove", "base"), "invalid choice: 'remove'"),
        (("delete", "elsewhere"), "elsewhere: this arm is in experiment 'second'; give --experiment"),
        (("delete", "running"), "is RUNNING on"),
        (("delete", "it's"), "it's: no arm of this name or id"),
        (("end", "nothing"), "nothing: no run of this id"),
    ],
)
def test_what_cannot_be_meant(
    arguments: tuple[str, ...],
    said: str,
    store_of_three: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(store_of_three)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store_of_three}/mlflow.db")
    before = rows(store_of_three)
    status, _, err = icr(capsys, *arguments, "--yes")
    assert status == 2
    assert err.count("\n") == 1
    assert said in err
    assert rows(store_of_three) == before


@pytest.fixture(scope="module")
def store_of_three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store with an arm `base`, one that is running, and one in another experiment."""
    place = tmp_path_factory.mktemp("three")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place}/mlflow.db")
        tracker = Tracker("icr")
        Made(tracker, place, "base")
        tracker.start("running", {"icr.kind": "arm", "icr.arm": "running"})
        Made(Tracker("second"), place, "elsewhere")
        yield place


def test_ids_and_running_arms(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tracker = Tracker("icr")
    twice = [Made(tracker, place, f"same-{number}") for number in range(2)]
    running = tracker.start("same-1", {"icr.kind": "arm", "icr.arm": "same-1", "icr.host": "elsewhere"})
    assert "is RUNNING on elsewhere" in icr(capsys, "delete", "same-1", "--yes")[2]
    assert icr(capsys, "end", running.run_id)[0] == 0
    assert tracker.client.get_run(running.run_id).info.status == "KILLED"
    assert "nothing under it is running" in icr(capsys, "end", running.run_id)[2]
    assert icr(capsys, "delete", twice[0].arm.run_id[:10], "--yes")[0] == 0
    assert rows(place) == twice[1].runs | {running.run_id}
    assert icr(capsys, "delete", "same-1", "--yes")[0] == 0, "both of its runs"
    assert rows(place) == set()


def test_clean(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tracker = Tracker("icr")
    good, orphaned, deleted = (Made(tracker, place, name) for name in ("good", "orphaned", "deleted"))
    killed = Made(tracker, place, "killed", status="KILLED")  # with work that the same command continues
    idle = tracker.start("idle", {"icr.kind": "arm", "icr.arm": "idle"})
    idle.finish("KILLED")
    tracker.client.delete_run(orphaned.arm.run_id)  # as a person does in MLflow's pages
    for run_id in deleted.runs:
        tracker.client.delete_run(run_id)
    stray = place / ".icr" / "annotate-0123456789abcdef"
    stray.mkdir()
    write_json(stray / "work-annotate.json", {})
    (place / ".icr" / "mine").mkdir()
    (place / ".icr" / "mine" / "notes.txt").write_text("a person's")
    status, out, _ = icr(capsys, "clean", "--yes")
    assert status == 0
    assert str(stray) in out
    gone = {idle.run_id, *orphaned.runs, *(each.run_id for each in deleted.stages.values())} - {orphaned.arm.run_id}
    assert rows(place) & gone == set()
    assert good.runs | killed.runs <= rows(place)
    left = files(place)
    assert not {name for name in left if "orphaned" in name or "deleted" in name or "0123456789abcdef" in name}
    assert any("traingood" in name for name in left)
    assert any("trainkilled" in name for name in left)
    assert ".icr/mine/notes.txt" in left
    assert icr(capsys, "clean", "--yes")[1].endswith("nothing to delete\n")


def test_artifacts_in_s3(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with s3_server():
        import boto3

        boto3.client("s3").create_bucket(Bucket="arms")
        Tracker("another").client.create_experiment("icr", "s3://arms/mlruns")
        tracker = Tracker("icr")
        Made(tracker, place, "base")
        other = Made(tracker, place, "other")
        assert "artifacts     10.0 kB" in icr(capsys, "delete", "base", "--yes")[1]
        left = {item["Key"] for item in boto3.client("s3").list_objects_v2(Bucket="arms")["Contents"]}
        assert left
        assert all(any(run_id in key for run_id in other.runs) for key in left)
        assert rows(place) == other.runs
