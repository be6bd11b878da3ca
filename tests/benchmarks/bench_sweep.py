"""Every method that has a preset, on the demo world at three seeds that chose nothing: one `icr sweep`, killed twice and gone on with.

    python tests/benchmarks/bench_sweep.py --output FOLDER [--seeds 201,202,203] [--arms icr,random] [--iterations 1]

Prints how often it was killed, the sweep's own table with the stages that arms shared, and `icr compare` of every method with the first,
paired by prompt and seed, which it also writes to FOLDER/comparison.csv. Started again on the same folder, it goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

METHODS = "icr,icr-multilingual,random,lidr,croco,translate-preferences,kto-start"
ICR = [sys.executable, "-m", "icr_platform"]


def run_until(command: list[str], folder: Path, ended: int | None) -> tuple[int, str]:
    """Run a sweep, and kill it with all its processes once so many arms have ended; returns its status and what it printed.

    ended: None lets it run to its end.
    """
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            print(line, end="", flush=True)
            found = re.match(r"sweep \[(\d+)/", line)
            if ended is not None and found and int(found[1]) >= ended:
                os.killpg(process.pid, signal.SIGKILL)
                ended = None
        return process.wait(), "".join(said)


def main() -> None:
    """Run the sweep and the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", default="201,202,203")
    parser.add_argument("--arms", default=METHODS)
    parser.add_argument("--iterations", type=int, help="of every arm; as its preset says without")
    parser.add_argument("--at-once", default="2")
    parser.add_argument("--kills", default="1,4", help="after how many arms that ended the sweep is killed")
    given = parser.parse_args()
    folder = given.output.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])
    settings = {} if given.iterations is None else {"iterations": given.iterations}
    command = [*ICR, "sweep", "--name", "methods", "--base", "demo", "--arms", given.arms, "--seeds", given.seeds]
    command += ["--at-once", given.at_once, "--settings", json.dumps(settings)]
    killed = 0
    for ended in (*map(int, given.kills.split(",")), None):
        status, said = run_until(command, folder, ended)
        if status != -signal.SIGKILL:
            break
        killed += 1
    print(f"\nkilled {killed} times; the last command ended with status {status}")
    print(next((line for line in said.splitlines() if re.match(r"\d+ stages: ", line)), "no count of stages"))
    if status:
        sys.exit("not every arm is finished; the reasons are above, and the same command goes on")
    compare = [*ICR, "compare", *given.arms.split(","), "--metrics", "win_rate"]
    subprocess.run(compare, cwd=folder, check=True)
    subprocess.run([*compare, "--format", "csv", "--output", "comparison.csv"], cwd=folder, check=True)


if __name__ == "__main__":
    main()
