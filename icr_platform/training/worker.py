"""One process of a training in several: `accelerate launch --config_file F -m icr_platform.training.worker WORK/job.json`.

`train` starts it on its own machine. On other machines a person or the cluster starts the same command, with that machine's
`--machine_rank`, once `train` has written the job to the shared folder.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path

from icr_platform.core.artifacts import read_json, write_json
from icr_platform.core.errors import IcrError
from icr_platform.core.guarded_output import guard_this_process
from icr_platform.core.spending import told_to_parent
from icr_platform.training.config import SftConfig, TrainConfig
from icr_platform.training.launch import ERROR, LIFELINE, SPENT


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, or with --score only score the pairs under the reference. Returns the exit status."""
    guard_this_process()
    parser = argparse.ArgumentParser(prog="icr_platform.training.worker")
    parser.add_argument("job", type=Path, help="job.json that the train stage wrote")
    parser.add_argument("--score", action="store_true", help="score the pairs under the reference, then end")
    given = parser.parse_args(arguments)
    if LIFELINE in os.environ:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        from icr_platform.training import job

        work = given.job.parent
        written = read_json(given.job)
        with told_to_parent(work / SPENT):
            if given.score:
                job.score_reference(TrainConfig.model_validate(written["config"]), work)
            else:
                kind = SftConfig if written["stage"] == SftConfig.stage else TrainConfig
                job.take_part(kind.model_validate(written["config"]), work)
    except IcrError as error:
        write_json(given.job.parent / ERROR, {"status": error.exit_status, "message": str(error)})
        traceback.print_exc()
        return error.exit_status
    return 0


def _end_with_parent() -> None:
    os.read(0, 1)  # unbuffered: a buffered read holds a lock that the interpreter wants when it ends
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
