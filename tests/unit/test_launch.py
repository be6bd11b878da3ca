"""Training processes: what they say when they fail, and that they end with the process that started them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from icr_platform.core.errors import IcrError, InputError
from icr_platform.training import launch

CONFIGS = Path(__file__).parents[2] / "projects" / "conf" / "accelerate"


def run(work: Path, code: str) -> None:
    launch._run([sys.executable, "-c", code], work, lambda: None, "train")


def test_an_error_left_by_a_worker_is_raised_as_it_was(tmp_path: Path) -> None:
    error = json.dumps({"status": 2, "message": "a: row 3: field 'b' is empty; correct it"})
    with pytest.raises(InputError, match="row 3"):
        run(tmp_path, f"open({str(tmp_path / 'error.json')!r}, 'w').write({error!r}); raise SystemExit(2)")
    run(tmp_path, "pass")


def test_any_other_end_names_the_status_and_the_telling_line(tmp_path: Path) -> None:
    code = "import sys; print('ValueError: the cause'); print('======'); sys.exit(7)"
    with pytest.raises(IcrError, match=r"status 7, saying: ValueError: the cause; see .*train\.log"):
        run(tmp_path, code)


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    """The parent is killed with SIGKILL: it can clean up nothing."""
    worker = (
        "import os, sys, threading, time; from pathlib import Path;"
        "from icr_platform.training.worker import _end_with_parent;"
        "threading.Thread(target=_end_with_parent, daemon=True).start();"
        f"Path({str(tmp_path)!r}, 'pid').write_text(str(os.getpid())); time.sleep(60)"
    )
    parent = (
        "import sys; from pathlib import Path; from icr_platform.training import launch;"
        f"launch._run([sys.executable, '-c', {worker!r}], Path({str(tmp_path)!r}), lambda: None, 'train')"
    )
    process = subprocess.Popen([sys.executable, "-c", parent])
    pid_file = tmp_path / "pid"
    wait_until(lambda: pid_file.exists() and pid_file.read_text() != "", 60)
    pid = int(pid_file.read_text())
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: not is_running(pid), 10)


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    """Whether the process runs; a zombie that nobody has waited for does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configs_are_what_accelerate_reads(path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    settings = load_config_from_file(str(path))
    assert settings.num_processes == launch.read_accelerate_config(path)["num_processes"]
    if path.stem == "deepspeed-zero3" and find_spec("deepspeed") is None:
        with pytest.raises(InputError, match="pip install deepspeed"):
            launch.check_accelerate_config(path, "cuda")
        return
    launch.check_accelerate_config(path, "cpu" if path.stem.startswith("cpu") else "cuda")


@pytest.mark.parametrize(
    ("settings", "device", "named"),
    [
        ({"num_processes": 0}, "cpu", "num_processes"),
        ({"num_processes": 2, "distributed_type": "FSDP"}, "cuda", "fsdp_cpu_ram_efficient_loading"),
    ],
)
def test_configs_that_cannot_train_are_refused(
    tmp_path: Path, settings: dict[str, object], device: str, named: str
) -> None:
    path = tmp_path / "accelerate.yaml"
    path.write_text(yaml.safe_dump(settings))
    with pytest.raises(InputError, match=named):
        launch.check_accelerate_config(path, device)
    with pytest.raises(InputError, match="no such accelerate config"):
        launch.check_accelerate_config(tmp_path / "none.yaml", device)
