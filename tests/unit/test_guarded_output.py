"""No secret reaches the terminal or a log, whoever prints it."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
import warnings

import pytest
from rich.console import Console

from icr_platform.cli import commands
from icr_platform.core.guarded_output import guarded_output

SECRET = "Zq7planted9Secret"


def test_whoever_prints(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("JUDGE_API_KEY", SECRET)
    with guarded_output():
        print("print", SECRET)
        sys.stdout.writelines(["lines ", SECRET, "\n"])
        Console(width=200).print(f"rich {SECRET}")
        sys.stderr.write(warnings.formatwarning(f"warning {SECRET}", UserWarning, "x.py", 1))
        handler = logging.StreamHandler(sys.stderr)
        handler.handle(logging.makeLogRecord({"msg": f"log {SECRET}"}))
        sys.excepthook(ValueError, ValueError(f"raised {SECRET}"), None)
    print("outside it is as before")
    shown = "".join(capsys.readouterr())
    assert SECRET not in shown
    assert shown.count("***") == 6
    assert all(f"{who} ***" in shown for who in ("print", "lines", "rich", "warning", "log", "raised"))


def test_a_guarded_stream_passes_for_the_stream_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    with guarded_output(), guarded_output():
        assert isinstance(sys.stdout, io.TextIOWrapper)
        assert not sys.stdout.isatty()
        sys.stdout.reconfigure(errors="backslashreplace")
        assert sys.stdout.write("ñ https://a:b@h") == len("ñ https://a:b@h")
        sys.stdout.flush()
    assert sys.stdout is stream
    assert stream.buffer.getvalue() == b"\\xf1 https://***@h"


@pytest.mark.parametrize("debug", ["", "1"])
def test_a_command_that_fails_says_no_secret(
    debug: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(argv: list[str]) -> int:
        raise OSError(f"GET https://ann:{SECRET}@host/x?sig={SECRET}: {'long ' * 60} key {SECRET}{'x' * 100}")

    monkeypatch.setenv("ICR_DEBUG", debug)
    monkeypatch.setenv("HOST_API_KEY", SECRET)
    monkeypatch.setattr(commands, "_dispatch", fail)
    assert commands.run(["generate"]) == 1
    shown = "".join(capsys.readouterr())
    assert ("Traceback" in shown) == bool(debug)
    assert SECRET[:6] not in shown
    assert "https://***@host/x?sig=***" in shown


def test_a_wrong_flag_with_a_secret_in_it_is_told_without_it(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["eval", "--judge-concurrency", f"https://ann:{SECRET}@host"],
        ["eval", f"--judge-key={SECRET}0"],
        ["eval", "--judge-urll", f"https://host/?api_key={SECRET}"],
        ["iterate", "--config", f"https://ann:{SECRET}@host/p.yaml"],
    ):
        assert commands.run(arguments) == 2
        shown = "".join(capsys.readouterr())
        assert shown.startswith("icr")
        assert SECRET not in shown


def test_an_interpreter_that_ends_in_a_traceback_says_no_secret() -> None:
    code = f"from icr_platform.core.guarded_output import guard_this_process as g; g(); raise ValueError('sk-{SECRET}')"
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ}, check=False
    )
    assert ended.returncode == 1
    assert SECRET not in ended.stderr.splitlines()[-1]
