"""The loss curve: every logged step once, on disk as well, so that a resumed training goes on where its curve stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from icr_platform.core.stage_protocol import MetricLog

Row = dict[str, float]


class Curve:
    """Appends logged steps to a JSON-lines file and sends each on to `log`, unless an earlier attempt did.

    One process writes (`add`); a parent that started it reads along (`follow`).
    """

    def __init__(self, path: Path, log: MetricLog) -> None:
        self._path, self._log = path, log
        path.touch()
        text = path.read_bytes()
        self._read = text.rfind(b"\n") + 1  # what follows was torn by a kill
        if self._read < len(text):
            os.truncate(path, self._read)
        self.rows: list[Row] = [json.loads(line) for line in text[: self._read].splitlines()]

    @property
    def last_step(self) -> int:
        """The last step in the curve; 0 when it is empty."""
        return int(self.rows[-1]["step"]) if self.rows else 0

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record and send one step; a step the curve already has is left alone."""
        if step <= self.last_step:
            return
        row = {"step": step, **metrics}
        self._log(metrics, step)
        with self._path.open("ab") as file:
            file.write(json.dumps(row).encode() + b"\n")
        self.rows.append(row)

    def follow(self) -> None:
        """Send what another process has added since."""
        with self._path.open("rb") as file:
            file.seek(self._read)
            fresh = file.read()
        whole = fresh[: fresh.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            row: Row = json.loads(line)
            self.rows.append(row)
            self._log({name: value for name, value in row.items() if name != "step"}, int(row["step"]))


def final_figures(rows: list[Row]) -> dict[str, float]:
    """Means over the last tenth of the logged steps, at least one: a single step is one batch and noisy."""
    last = rows[-max(1, len(rows) // 10) :]
    names = {
        "train/final_loss": "train/loss",
        "train/final_reward_accuracy": "train/rewards/accuracies",
        "train/final_reward_margin": "train/rewards/margins",
    }
    return {name: sum(row[key] for row in last) / len(last) for name, key in names.items()}
