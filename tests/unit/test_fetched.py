"""Copies of remote artifacts: made once, whole or not at all, and gone when the last process that reads them has ended."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from icr_platform.tracking.fetched import FetchedCopies


def files(folder: Path) -> list[str]:
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != ".lock"
    )


def write(target: Path) -> None:
    target.mkdir()
    (target / "part").write_text("whole")


def test_a_copy_is_made_once_and_removed_at_the_end(tmp_path: Path) -> None:
    copies = FetchedCopies(tmp_path / "artifacts")
    assert not (tmp_path / "artifacts").exists(), "nothing was fetched yet"
    calls: list[Path] = []

    def fetch(target: Path) -> None:
        calls.append(target)
        time.sleep(0.05)
        write(target)

    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(copies.get("run/checkpoint", fetch))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {(path / "part").read_text() for path in found} == {"whole"}
    assert len(calls) == 1
    copies.close()
    assert files(tmp_path) == []
    assert (copies.get("run/checkpoint", write) / "part").exists(), "closed copies are made again"
    copies.close()


def test_a_failed_copy_leaves_nothing_that_is_taken_for_it(tmp_path: Path) -> None:
    copies = FetchedCopies(tmp_path)

    def breaks(target: Path) -> None:
        write(target)
        raise OSError("lost")

    with pytest.raises(OSError, match="lost"):
        copies.get("run/file", breaks)
    assert not (tmp_path / "run" / "file").exists()
    assert (copies.get("run/file", write) / "part").read_text() == "whole"
    copies.close()


def test_another_process_keeps_its_copies_and_a_killed_one_loses_them(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from icr_platform.tracking.fetched import FetchedCopies\n"
        "copies = FetchedCopies(Path(sys.argv[1])); copies.get('theirs', lambda target: target.write_text('x'))\n"
        "print('ready', flush=True); copies.get('torn', lambda target: (target.write_text('half'), time.sleep(60)))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    deadline = time.monotonic() + 20
    while not any("torn" in name and "partial" in name for name in files(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.01)
    mine = FetchedCopies(tmp_path)
    mine.get("mine", lambda target: target.write_text("y"))
    mine.close()
    assert (tmp_path / "theirs").read_text() == "x", "they still read it"
    process.send_signal(signal.SIGKILL)
    process.wait()
    after = FetchedCopies(tmp_path)
    assert files(tmp_path) == [], "what a killed process left is removed by the next one"
    assert after.get("torn", lambda target: target.write_text("whole")).read_text() == "whole"
    after.close()
