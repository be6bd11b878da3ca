"""The loss curve: every logged step once, on disk too, so that a resumed training continues the curve where it stopped.

A training that is resumed is a run of its own in MLflow, which then gets the steps from before as well.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from icr_platform.core.stage_protocol import MetricLog

LoggedStep = dict[str, float]
"""A step and its metrics, by name."""


class Curve:
    """Appends logged steps to a file of JSON lines, and sends each to `log` once; those of earlier attempts at once.

    One process writes (`add`); the parent that started it reads along (`follow`).
    """

    def __init__(self, path: Path, log: MetricLog) -> None:
        self._path, self._log = path, log
        path.touch()
        text = path.read_bytes()
        self._read = text.rfind(b"\n") + 1  # a kill tears the last line off in its middle
        if self._read < len(text):
            os.truncate(path, self._read)
        self.rows: list[LoggedStep] = [json.loads(line) for line in text[: self._read].splitlines()]
        send_curve(self.rows, log)

    @property
    def last_step(self) -> int:
        """The last step in the curve; 0 when it is empty."""
        return int(self.rows[-1]["step"]) if self.rows else 0

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record and send one step, unless the curve has it: a resumed training repeats the steps since its resume point."""
        if step <= self.last_step:
            return
        row = {"step": step, **metrics}
        self._log(metrics, step)
        with self._path.open("ab") as file:
            file.write(json.dumps(row).encode() + b"\n")
        self.rows.append(row)

    def follow(self) -> None:
        """Send what another process has added since the last call."""
        with self._path.open("rb") as file:
            file.seek(self._read)
            fresh = file.read()
        whole = fresh[: fresh.rfind(b"\n") + 1]  # the other process may be in the middle of a line
        self._read += len(whole)
        for line in whole.splitlines():
            row: LoggedStep = json.loads(line)
            self.rows.append(row)
            send_curve([row], self._log)


def send_curve(rows: Iterable[LoggedStep], log: MetricLog) -> None:
    """Send logged steps, in their order."""
    for row in rows:
        log({name: value for name, value in row.items() if name != "step"}, int(row["step"]))


def final_figures(rows: list[LoggedStep], names: Mapping[str, str]) -> dict[str, float]:
    """Average the last tenth of the logged steps, at least one: a single step is one batch, and noisy.

    names: what each figure is called -> its metric in the curve; one that no step has is left out.
    """
    last = rows[-max(1, len(rows) // 10) :]
    found = {name: [row[key] for row in last if key in row] for name, key in names.items()}
    return {name: sum(values) / len(values) for name, values in found.items() if values}
