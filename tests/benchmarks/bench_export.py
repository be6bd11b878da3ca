"""Export of 10,000 and of 100,000 verdicts on a synthetic run of a million samples: seconds, those of the CPU, peak memory and bytes written.

`python tests/benchmarks/bench_export.py FOLDER [VERDICTS ...]`: a process of its own for each number. Ten reviewers judge items of the run
at random, each item by one to five; a third of the verdicts is not blind, of a targeted queue, withdrawn or of a pair that is not there.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from tests.support.many_verdicts import LANGUAGES, fill
from tests.support.peak_memory import peak_bytes, start_peak

SAMPLES = 1_000_000


def measure(store: Path, database: Path, run_id: str, formats: str, output: Path) -> None:
    """One export, in this process. Prints seconds, those of the CPU, MB beyond what the process had before, and MB written."""
    from ui.server.app import export_verdicts
    from ui.server.options import ExportOptions, InspectOptions

    before, start, used = start_peak(), time.perf_counter(), time.process_time()
    options = InspectOptions(tracking_uri=f"sqlite:///{store}", verdicts=str(database))
    export_verdicts(options, run_id, ExportOptions(output=str(output), format=formats))
    seconds, used = time.perf_counter() - start, time.process_time() - used
    files = [path for path in output.rglob("*") if path.is_file()]
    written = sum(path.stat().st_size for path in files)
    print(
        f"{seconds:.1f} s, {(peak_bytes() - before) / 1e6:.0f} MB more than before, {written / 1e6:.0f} MB written",
        flush=True,
    )


def main(arguments: list[str]) -> None:
    folder, sizes = Path(arguments[0]).absolute(), [int(size) for size in arguments[1:]] or [10_000, 100_000]
    from tests.support import synthetic_runs

    store = folder / "mlflow.db"
    if not (folder / "run").exists():
        run = synthetic_runs.million_run(synthetic_runs.open_tracker(folder), folder / "artifacts", SAMPLES)
        (folder / "run").write_text(run.run_id)
    run_id = (folder / "run").read_text()
    for size in sizes:
        database = folder / f"verdicts-{size}.db"
        if not database.exists():
            fill(database, run_id, SAMPLES // 10 // len(LANGUAGES), size)
        for formats in ("csv,parquet,trl,pairs,items", "all"):
            output = folder / f"out-{size}-{formats[:3]}"
            call = ["--measure", str(store), str(database), run_id, formats, str(output)]
            print(f"{size:,} verdicts, {formats}: ", end="", flush=True)
            subprocess.run([sys.executable, __file__, *call], check=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], sys.argv[5], Path(sys.argv[6]))
    else:
        main(sys.argv[1:])
