"""100,000 verdicts leave the inspector by its command: killed in the middle, then whole, with progress, in flat memory."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support import synthetic_runs
from tests.support.many_verdicts import LANGUAGES, fill

SAMPLES = 200_000
# The last word of a reviewer on an item, unless she took it back.
LAST = """SELECT count(*) FROM icr_verdicts WHERE choice <> 'withdrawn' AND id IN (
          SELECT max(id) FROM icr_verdicts GROUP BY reviewer, item)"""
MEASURED = """
import sys
from icr_platform.cli.commands import run
from tests.support.peak_memory import peak_bytes
status = run(sys.argv[1:])
print("PEAK", peak_bytes(), flush=True)
sys.exit(status)
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_hundred_thousand_verdicts(tmp_path: Path) -> None:
    run_id = synthetic_runs.million_run(synthetic_runs.open_tracker(tmp_path), tmp_path / "artifacts", SAMPLES).run_id
    peaks = {}
    for size in (10_000, 100_000):
        database, output = tmp_path / f"{size}.db", tmp_path / f"out-{size}"
        fill(database, run_id, SAMPLES // 10 // len(LANGUAGES), size)
        words = ["verdicts", "export", run_id, f"--tracking-uri=sqlite:///{tmp_path}/mlflow.db",
                 f"--verdicts={database}", f"--output={output}", "--format=all"]  # fmt: skip
        command = [sys.executable, "-c", MEASURED, *words]
        if size == 100_000:
            kill_while_it_writes(command, output)
            assert not [path for path in output.iterdir() if not path.name.startswith(".")], "all files, or none"
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        if size == 100_000:  # a short export ends before it would say anything
            assert re.search(r"items: [\d,]+/[\d,]+", done.stdout + done.stderr)
        peaks[size] = int(done.stdout.split("PEAK")[1])
        table = pq.read_table(output / "verdicts.parquet")
        (expected,) = sqlite3.connect(database).execute(LAST).fetchone()
        assert table.num_rows == expected > size / 2
        assert len(set(table["submission"].to_pylist())) == expected
        lines = (output / "preferences-trl.jsonl").read_text(encoding="utf-8").splitlines()
        assert len(lines) > size / 20
        assert {"prompt", "chosen", "rejected"} <= json.loads(lines[-1]).keys()
    assert peaks[100_000] - peaks[10_000] < 200e6, "ten times as many verdicts, whose texts are half a gigabyte"


def kill_while_it_writes(command: list[str], output: Path) -> None:
    """`kill -9` once a part of the items is in the hidden files."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not any(path.stat().st_size > 1_000_000 for path in output.glob(".*/items*.csv")):
        time.sleep(0.01)
    assert process.poll() is None, "it ended before it could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
