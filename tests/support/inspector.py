"""The inspector served in a process of its own, and moving about in its pages."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

READY = ".icr[data-serial]"
"""Selector of a page that is rendered."""


@dataclass
class Server:
    """A served inspector. runs: arm run ids by a short name."""

    address: str
    process: subprocess.Popen[str]
    folder: Path
    runs: dict[str, str] = field(default_factory=dict)

    def link(self, page: str, run: str, **params: object) -> str:
        return f"{self.address}/{page}?{urlencode({'run': self.runs[run], **params})}"


def start_server(store: Path, port: int, **options: object) -> subprocess.Popen[str]:
    """`icr inspect` in a process of its own, ready to answer."""
    named = {
        "tracking_uri": f"sqlite:///{store / 'mlflow.db'}",
        "port": port,
        "verdicts": str(store / "verdicts.db"),
        **options,
    }
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in named.items()]
    code = "from icr_platform.cli import main; main()"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with terminal(store, port).open("a") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", code, "inspect", *flags], env=environment, stdout=out, stderr=out, text=True
        )
    for _ in range(720):
        if process.poll() is not None:
            raise RuntimeError(
                f"the inspector ended with {process.returncode}: {terminal(store, port).read_text()[-1000:]}"
            )
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).read(1)
            return process
        except urllib.error.HTTPError:
            return process  # it answers, if only with a refusal
        except OSError:
            time.sleep(0.25)
    process.kill()
    raise RuntimeError("the inspector did not answer within three minutes")


def terminal(store: Path, port: int) -> Path:
    """What the inspector on `port` printed."""
    return store / f"terminal-{port}.txt"


def serial(page: Any) -> str:
    return str(page.get_attribute(READY, "data-serial"))


def wait_change(page: Any, before: str) -> None:
    """Wait until the page was rendered again."""
    page.wait_for_function(
        "before => document.querySelector('.icr')?.dataset.serial !== before", arg=before, timeout=30_000
    )


def wait_judgeable(page: Any) -> None:
    """Wait until the item that is shown can be judged: a moment after it appeared."""
    page.wait_for_function("!document.body.classList.contains('icr-guard')", timeout=30_000)


def go(page: Any, query: str) -> None:
    """Move within a page, as its links do."""
    before = serial(page)
    page.evaluate("query => window.icrGo(query)", query)
    wait_change(page, before)


_WALK = """(queries) => {
  const changed = (before) => new Promise((resolve, reject) => {
    const look = () => document.querySelector(".icr")?.dataset.serial !== before && (watcher.disconnect(), resolve());
    const watcher = new MutationObserver(look);
    watcher.observe(document.documentElement, { childList: true, subtree: true, attributes: true });
    setTimeout(() => reject(new Error("the page was not rendered again")), 60000);
  });
  const walk = async () => {
    const found = [];
    for (const query of queries) {
      const change = changed(document.querySelector(".icr").dataset.serial);
      window.icrGo(query);
      await change;
      found.push((LOOK)());
    }
    return found;
  };
  window.icrWalk = walk();
}"""


def walk(page: Any, queries: list[str], look: str) -> Callable[[], list[Any]]:
    """Move through many addresses without a round trip to Python each; the result gives what `look` found at each."""
    page.evaluate(_WALK.replace("LOOK", look), queries)
    return lambda: list(page.evaluate("() => window.icrWalk"))
