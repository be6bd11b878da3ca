"""Whatever ends a command, a person reads one line and meets status 1 or 2; ICR_DEBUG=1 shows the traceback as well."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pydantic
import pytest

from icr_platform.cli import commands
from icr_platform.core.errors import IcrError, InputError, TrackingError
from icr_platform.core.failures import failure
from icr_platform.core.writable import check_writable_folder

RAY = 'ray::part() (pid=7, ip=10.0.0.2)\n  File "/x/a.py", line 3, in part\n    load()\nValueError: no such layer'


def os_error(number: int, *place: str) -> OSError:
    return OSError(number, os.strerror(number), *place)


def validation_error() -> Exception:
    class Row(pydantic.BaseModel):
        count: int

    try:
        Row.model_validate({"count": "many"})
    except pydantic.ValidationError as error:
        return error
    raise AssertionError


CASES: dict[str, tuple[BaseException, int, tuple[str, ...]]] = {
    "bad input": (InputError("es.jsonl, row 3: no id"), 2, ("es.jsonl, row 3: no id",)),
    "a failed stage": (IcrError("two\nlines"), 1, ("two lines",)),
    "a lost server": (TrackingError("http://h: stopped answering"), 1, ("stopped answering",)),
    "full disk": (os_error(errno.ENOSPC, "/out/part-00000.parquet"), 1, ("/out/part-00000.parquet: no space is left",)),
    "full disk without a file": (os_error(errno.ENOSPC), 1, ("no space is left on the disk; free some",)),
    "full disk of pyarrow": (pa.ArrowInvalid("Error writing bytes: No space left on device"), 1, ("no space is left",)),
    "full disk of safetensors": (RuntimeError("I/O error: No space left on device (os error 28)"), 1, ("no space is left",)),
    "full disk of sqlite": (RuntimeError("(sqlite3.OperationalError) database or disk is full"), 1, ("no space is left",)),
    "quota": (os_error(errno.EDQUOT, "/out/x"), 1, ("/out/x: the disk quota is used up",)),
    "read-only": (os_error(errno.EROFS, "/out"), 1, ("/out: the file system is read-only; choose another",)),
    "permission": (PermissionError(errno.EACCES, "Permission denied", "/out"), 1, ("/out: permission denied",)),
    "a file in the way": (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/out/x"), 1, ("/out/x: a file stands",)),
    "a file as the folder": (FileExistsError(errno.EEXIST, "File exists", "/out"), 1, ("/out: a file stands where",)),
    "a folder in the way": (IsADirectoryError(errno.EISDIR, "Is a directory", "/out"), 1, ("/out: a folder stands",)),
    "gone": (FileNotFoundError(errno.ENOENT, "No such file or directory", b"/in"), 1, ("/in: no such file or folder",)),
    "no temporary folder": (
        FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/t']"), 1, ("No usable temporary", "'/t'")
    ),
    "open files": (os_error(errno.EMFILE), 1, ("too many files are open", "ulimit -n")),
    "open files of tokenizers": (RuntimeError("Too many open files (os error 24)"), 1, ("too many files are open",)),
    "threads": (RuntimeError("can't start new thread"), 1, ("ulimit -u",)),
    "fork": (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), 1, ("ulimit -u",)),
    "memory": (MemoryError(), 1, ("memory is full", "--batch-size")),
    "memory of torch": (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 1, ("memory is full",)),
    "memory of Arrow": (pa.ArrowMemoryError("malloc of size 64 failed"), 1, ("memory is full",)),
    "name too long": (os_error(errno.ENAMETOOLONG, "/" + "x" * 5), 1, ("too long",)),
    "a library": (KeyError("layers"), 1, ("KeyError: 'layers'; ICR_DEBUG=1",)),
    "a library without words": (AssertionError(), 1, ("AssertionError; ICR_DEBUG=1",)),
    "a library of many lines": (ValueError("a\n\n  b\nc"), 1, ("ValueError: a b c;",)),
    "a library of very many words": (ValueError("word " * 1000), 1, ("word...; ICR_DEBUG=1",)),
    "validation": (validation_error(), 1, ("ValidationError: 1 validation error for Row count Input should be",)),
    "a remote traceback": (RuntimeError(RAY), 1, ("RuntimeError: ValueError: no such layer;",)),
    "recursion": (RecursionError("maximum recursion depth exceeded"), 1, ("RecursionError: maximum",)),
    "a socket's pipe": (BrokenPipeError(errno.EPIPE, "Broken pipe"), 1, ("Broken pipe",)),
    "a library that exits": (SystemExit("no such task"), 1, ("no such task",)),
    "Ctrl-C": (KeyboardInterrupt(), 130, ("interrupted; finished work is kept",)),
    "SIGTERM": (commands.Terminated(), 143, ("terminated; finished work is kept",)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_one_line(case: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    error, status, said = CASES[case]

    def dispatch(argv: list[str]) -> int:
        raise error

    monkeypatch.setattr(commands, "_dispatch", dispatch)
    monkeypatch.delenv("ICR_DEBUG", raising=False)
    assert commands.run([]) == status
    shown = capsys.readouterr().err
    assert shown.startswith("icr: ")
    assert shown.count("\n") == 1
    assert len(shown) < 600
    for fragment in said:
        assert fragment in shown
    monkeypatch.setenv("ICR_DEBUG", "1")
    assert commands.run([]) == status
    *traceback, last = capsys.readouterr().err.splitlines()
    assert last == shown.strip()
    assert traceback[0] == "Traceback (most recent call last):"


def test_ours_stay_what_they_are() -> None:
    error = InputError("here")
    assert failure(error) is error


PLACES = {
    "a file": ("file", "a file stands where a folder is needed"),
    "below a file": ("file/out", "a file stands where a folder is needed"),
    "no place for files": ("/proc/none/out", "cannot be written"),
    "too long": ("x" * 300, "too long"),
}  # fmt: skip


@pytest.mark.parametrize("case", PLACES)
def test_a_folder_that_cannot_be_written(case: str, tmp_path: Path) -> None:
    place, said = PLACES[case]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=said):
        check_writable_folder(tmp_path / place, "out: the folder of generate")


def test_a_folder_that_can_be_written_is_left_as_it_is(tmp_path: Path) -> None:
    check_writable_folder(tmp_path / "new" / "out", "out")
    assert not list(tmp_path.iterdir())


def icr(*arguments: str, shell: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    command = f"{sys.executable} -m icr_platform {' '.join(arguments)} {shell}"
    kept = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])} | environment
    return subprocess.run(["bash", "-c", command], env=kept, capture_output=True, text=True, check=False)


def test_the_streams_of_a_shell() -> None:
    """A pipe that is closed early, a full disk behind stdout, streams that are closed, a terminal that knows ASCII only."""
    pipe = icr("iterate", "--help", shell="2>&1 | head -n 1")
    assert pipe.stdout.startswith("usage:")
    assert pipe.stdout.count("\n") == 1, pipe.stdout
    full = icr("--help", shell="> /dev/full")
    assert (full.returncode, full.stderr) == (
        1,
        "icr: no space is left on the disk; free some and run the same command again\n",
    )
    assert icr("--help", shell=">&- 2>&-").returncode == 0
    assert icr("nothing", shell="2>&-").returncode == 2
    script = (
        "from icr_platform.cli import commands; commands._dispatch = lambda argv: print('¿Qué?') or 0; commands.main()"
    )
    ascii_only = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | {"PYTHONIOENCODING": "ascii"}, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert (ascii_only.returncode, ascii_only.stdout) == (0, "\\xbfQu\\xe9?\n"), ascii_only.stderr
