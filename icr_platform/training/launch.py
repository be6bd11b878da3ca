"""Training in several processes: `accelerate launch` is started, watched, and ended together with this process."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from icr_platform.core.artifacts import read_json
from icr_platform.core.errors import IcrError, InputError
from icr_platform.core.progress import meter
from icr_platform.core.spending import ChildsSpending
from icr_platform.core.yaml_files import read_yaml
from icr_platform.models.devices import resolve_device
from icr_platform.training.curve import Curve

LIFELINE = "ICR_TRAINING_LIFELINE"  # set: a worker ends when its standard input does, that is, when its parent is gone
ERROR, SPENT = "error.json", "spent.json"
_SHARDED = ("FSDP", "DEEPSPEED")
_LOOK_EVERY = 0.5
_TELLING = (  # lines of a log that say why, the best last
    re.compile(r"\s*exitcode\s*:"),
    re.compile(r"(\[rank\d+\]: *)?(?!.*ChildFailedError)[\w.]+(Error|Exception|Interrupt)\b"),
)


def read_accelerate_config(path: Path) -> dict[str, Any]:
    """Read an accelerate config file; raises InputError when it is missing or does not say how many processes there are."""
    settings = read_yaml(path, "accelerate config", "give one such as projects/conf/accelerate/ddp.yaml")
    processes = settings.get("num_processes") if isinstance(settings, dict) else None
    if not isinstance(processes, int) or processes < 1:
        raise InputError(f"{path}: field 'num_processes' is {processes!r}; give the number of processes, 1 or more")
    return dict(settings)


def check_accelerate_config(path: Path, device: str) -> None:
    """Raise InputError when the config cannot train on `device`, or would train against a wrong reference."""
    settings = read_accelerate_config(path)
    kind = str(settings.get("distributed_type", "NO"))
    if kind == "DEEPSPEED" and find_spec("deepspeed") is None:
        raise InputError(
            f"{path}: field 'distributed_type' DEEPSPEED, but deepspeed is not installed; pip install deepspeed"
        )
    if device == "cpu" and kind in _SHARDED and resolve_device("auto") != "cpu":
        raise InputError(
            f"{path}: field 'distributed_type' {kind} takes the GPUs where there are any; hide them (CUDA_VISIBLE_DEVICES=) or "
            "leave out --device cpu"
        )
    efficient = (settings.get("fsdp_config") or {}).get("fsdp_cpu_ram_efficient_loading", True)
    if kind == "FSDP" and str(efficient).lower() != "false":
        raise InputError(
            f"{path}: field 'fsdp_cpu_ram_efficient_loading' must be false: it loads weights on one process only, and those of the "
            "DPO reference are never sent to the others"
        )


def launch(accelerate_config: Path, job: Path, curve: Curve, steps: int, stage: str) -> None:
    """Run the worker on `job` in every process of the config; forward its curve and, when it fails, its error.

    steps: optimizer steps in all, for the progress bar. stage: by which messages call the training.
    """
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(accelerate_config),
        "--log_dir", str(job.parent / "torchrun"),  # or torchrun leaves a folder in the temporary one when it is killed
        "-m", "icr_platform.training.worker", str(job),
    ]  # fmt: skip
    with meter(stage, steps, curve.last_step) as bar:

        def follow() -> None:
            before = curve.last_step
            curve.follow()
            bar.advance(curve.last_step - before)

        _run(command, job.parent, follow, stage)


def score_in_child(job: Path) -> None:
    """Score the pairs under the reference in a process of its own, whose end frees its GPU memory."""
    _run([sys.executable, "-m", "icr_platform.training.worker", str(job), "--score"], job.parent, lambda: None, "train")


def _run(command: list[str], work: Path, look: Callable[[], None], stage: str) -> None:
    """Run `command` to its end, calling `look` now and then; it ends with this process, however that ends.

    Raises:
        IcrError: what a worker left as its error, or how the processes ended and what they said last.
    """
    (work / ERROR).unlink(missing_ok=True)
    spending = ChildsSpending(work / SPENT)
    log = work / "train.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # the lifeline: it breaks when this process is gone, whatever killed it
            stdout=output,
            stderr=output,
            env=os.environ | {LIFELINE: "1"},
            start_new_session=True,
        )
    try:
        status = None
        while status is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = process.wait(_LOOK_EVERY)
            look()
            spending.follow()
    finally:
        if process.stdin is not None:
            process.stdin.close()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # the launcher and all its workers
            process.wait()
    if status == 0:
        return
    if (work / ERROR).exists():
        error = read_json(work / ERROR)
        kind = InputError if error["status"] == InputError.exit_status else IcrError
        raise kind(error["message"])
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    telling = [line.strip() for pattern in _TELLING for line in lines if pattern.match(line)]
    said = (telling or [line for line in lines if line.strip()] or ["nothing"])[-1]
    raise IcrError(f"{stage}: the training processes ended with status {status}, saying: {said}; see {log}")
