"""Jobs that run several at once in processes of their own: what fails, fails alone."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from icr_platform.core.errors import IcrError, InputError
from icr_platform.engines.execution import whole_jobs
from icr_platform.engines.execution.settings import ExecutionSettings
from icr_platform.engines.execution.whole_jobs import JobPlaces, run_jobs


def work(job: str) -> str:
    """A job that does as it is told."""
    if job == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if job == "is terminated":
        os.kill(os.getpid(), signal.SIGTERM)
    if job == "raises":
        raise ValueError("two\nlines")
    if job == "refuses":
        raise InputError("en.jsonl: row 3: no text; add one")
    return f"{job} in {Path.cwd().name}, {os.environ.get('OF_ALL')}, {os.environ.get('TAKEN')}"


def test_each_job_ends_as_it_ends_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAKEN", "x")
    jobs = ["first", "dies", "raises", "refuses", "is terminated", "last"]
    begun: list[str] = []
    ended: dict[str, str | IcrError] = {}
    places = JobPlaces(2, ExecutionSettings(), tmp_path, {"OF_ALL": "1", "TAKEN": None})
    run_jobs(work, jobs, places, begun.append, lambda job, done: ended.update({job: done}))
    assert begun == jobs
    assert ended.keys() == set(jobs)
    assert (ended["first"], ended["last"]) == (
        f"first in {tmp_path.name}, 1, None",
        f"last in {tmp_path.name}, 1, None",
    )
    assert "its process died" in str(ended["dies"])
    assert "its process was terminated" in str(ended["is terminated"])
    assert str(ended["raises"]) == "ValueError: two lines; ICR_DEBUG=1 shows where"
    assert isinstance(ended["refuses"], InputError)
    assert "\n" not in "".join(map(str, ended.values()))


def test_what_the_caller_raises_ends_all(tmp_path: Path) -> None:
    def started(job: str) -> None:
        raise IcrError("the store is gone")

    with pytest.raises(IcrError, match="the store is gone"):
        run_jobs(work, ["a", "b"], JobPlaces(1, ExecutionSettings(), tmp_path), started, lambda job, done: None)


@pytest.mark.parametrize(
    ("visible", "devices", "slots", "shares"),
    [
        ("", 8, 2, ["0,1,2,3", "4,5,6,7"]),
        ("", 3, 2, ["0", "1"]),
        ("4,6", 2, 2, ["4", "6"]),
        ("", 8, 1, [None]),
        ("", 0, 3, [None, None, None]),
    ],
)
def test_gpus_are_shared_out(
    visible: str, devices: int, slots: int, shares: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: devices > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: devices)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert whole_jobs._devices(slots) == shares


def test_more_jobs_at_once_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(InputError, match="2 jobs at once would share 1 GPU"):
        whole_jobs._devices(2)
