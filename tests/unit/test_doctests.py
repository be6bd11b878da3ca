"""The examples in docstrings are what a reader tries first: each one runs and prints what it says."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def modules_with_examples() -> list[str]:
    """Only these are imported, so that the test loads no engine whose room has no example."""
    files = [file for folder in ("icr_platform", "ui", "tests") for file in sorted((ROOT / folder).rglob("*.py"))]
    shown = [file for file in files if ">>> " in file.read_text(encoding="utf-8") and file != Path(__file__)]
    return [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in shown]


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_print_what_they_say(name: str) -> None:
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert found.attempted > 0, f"{name} contains `>>>` in no docstring that doctest finds"
    assert found.failed == 0, f"an example in {name} prints something else; see the captured output"
