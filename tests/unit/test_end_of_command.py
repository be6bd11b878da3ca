"""How a command ends: at once, but where a module counts what is left then."""

from __future__ import annotations

import subprocess
import sys

import pytest

COMMAND = """
import gc, sys
from icr_platform.cli import main
{before}
gc.freeze = lambda: print("frozen")
main(["--version"])
"""
AS_NANOBIND_DOES = 'Counting = type("nb_meta", (type,), {"__module__": "nanobind"})'


@pytest.mark.parametrize(("before", "is_frozen"), [("", True), (AS_NANOBIND_DOES, False)])
def test_objects_are_left_to_the_end_unless_a_module_would_list_them(before: str, is_frozen: bool) -> None:
    command = [sys.executable, "-c", COMMAND.format(before=before)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ("frozen" in done.stdout) == is_frozen
    assert done.stderr == ""
