"""Resume points and the loss curve after a kill: what was half-written is never read, what was logged is not logged again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from icr_platform.core.errors import InputError
from icr_platform.training.curve import Curve, final_figures
from icr_platform.training.resume_points import last_whole, mark_whole


def write_point(work: Path, step: int) -> Path:
    folder = work / f"checkpoint-{step}"
    (folder / "shards").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "shards" / "0.bin").write_bytes(b"optimizer")
    return folder


def test_only_whole_points_are_resumed_from(tmp_path: Path) -> None:
    assert last_whole(tmp_path, 1) is None
    first = write_point(tmp_path, 8)
    mark_whole(first, 1)
    unmarked = write_point(tmp_path, 16)
    assert last_whole(tmp_path, 1) == first
    assert not unmarked.exists()
    cut = write_point(tmp_path, 24)
    (tmp_path / "marker").write_bytes((first / "whole.json").read_bytes())
    (tmp_path / "marker").rename(cut / "whole.json")
    (cut / "shards" / "0.bin").write_bytes(b"opti")
    assert last_whole(tmp_path, 1) == first


def test_a_newer_whole_point_replaces_the_older(tmp_path: Path) -> None:
    first = write_point(tmp_path, 9)
    mark_whole(first, 1)
    second = write_point(tmp_path, 10)
    mark_whole(second, 1)
    assert last_whole(tmp_path, 1) == second
    assert not first.exists()


def test_another_number_of_processes_is_refused(tmp_path: Path) -> None:
    mark_whole(write_point(tmp_path, 4), 2)
    with pytest.raises(InputError, match="2 training processes"):
        last_whole(tmp_path, 1)


def row(loss: float) -> dict[str, float]:
    return {"train/loss": loss, "train/rewards/accuracies": 1.0, "train/rewards/margins": loss}


def test_each_step_is_logged_once_across_kills(tmp_path: Path) -> None:
    sent: list[int] = []

    def log(metrics: Mapping[str, float], step: int) -> None:
        sent.append(step)

    curve = Curve(tmp_path / "curve.jsonl", log)
    for step in (1, 2, 3):
        curve.add(step, row(step))
    with (tmp_path / "curve.jsonl").open("ab") as file:
        file.write(b'{"step": 4, "train/lo')  # torn by a kill
    resumed = Curve(tmp_path / "curve.jsonl", log)
    for step in (3, 4, 5):
        resumed.add(step, row(step))
    assert sent == [1, 2, 3, 1, 2, 3, 4, 5], "the run of the resumed training gets the steps from before as well"
    assert [int(r["step"]) for r in Curve(tmp_path / "curve.jsonl", log).rows] == [1, 2, 3, 4, 5]


def test_a_parent_follows_its_workers_curve(tmp_path: Path) -> None:
    sent: list[tuple[int, float]] = []
    parent = Curve(tmp_path / "curve.jsonl", lambda metrics, step: sent.append((step, metrics["train/loss"])))
    worker = Curve(tmp_path / "curve.jsonl", lambda metrics, step: None)
    worker.add(1, row(0.5))
    parent.follow()
    parent.follow()
    worker.add(2, row(0.25))
    parent.follow()
    assert sent == [(1, 0.5), (2, 0.25)]
    assert parent.last_step == 2


def test_final_figures_are_means_over_the_last_tenth() -> None:
    rows = [{"step": step, **row(step)} for step in range(1, 31)]
    assert final_figures(rows, {"final": "train/loss"})["final"] == 29.0
    assert final_figures(rows[:4], {"final": "train/loss"})["final"] == 4.0
