"""A stage that lists the words of a file, and notes in `journal` whenever it reads and runs, in whichever process."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, NamedTuple

import pyarrow as pa

from icr_platform.core.artifacts import ArtifactWriter
from icr_platform.core.config import Config, setting
from icr_platform.core.errors import InputError
from icr_platform.core.schemas import DROPS
from icr_platform.core.stage_protocol import StageContext, StageResult
from icr_platform.pipeline.stages import StageRow


class CountingConfig(Config):
    """words -> list."""

    required: ClassVar[tuple[str, ...]] = ("words",)

    words: str = setting("", "text file", "input")
    suffix: str = setting("", "what is put after each word")
    journal: str = setting("", "file that is appended to", "place")
    seed: int = setting(42, "unused", "place")
    output: str = setting("", "folder of the artifacts", "place")


ROW = StageRow(
    name="counting_stage",
    help="list words",
    config_class="tests.support.counting_stage:CountingConfig",
    module="tests.support.counting_stage",
    artifacts=("list",),
    show="tests.support.counting_stage:show",
)


class Inputs(NamedTuple):
    """The words, and something that cannot be pickled."""

    config: CountingConfig
    words: list[str]
    unpicklable: object


def _note(config: CountingConfig, line: str) -> None:
    with Path(config.journal).open("a") as file:
        print(line, file=file)


def read(config: CountingConfig) -> Inputs:
    _note(config, "read")
    words = Path(config.words).read_text(encoding="utf-8").split()
    if not words:
        raise InputError(f"{config.words}: contains no word; write some")
    return Inputs(config, words, lambda: None)


def run(inputs: Inputs, context: StageContext) -> StageResult:
    _note(inputs.config, "run")
    writer = ArtifactWriter(context.folder / "list", DROPS, context.fingerprint)
    rows = [
        {"language": "en", "prompt_id": word + inputs.config.suffix, "reason": "", "detail": ""}
        for word in inputs.words
    ]
    if not writer.has_part(0):
        writer.write_part(0, pa.Table.from_pylist(rows, schema=DROPS.schema))
    return StageResult({"list": writer.close(1).folder}, {"words": float(len(rows))})


def show(config: CountingConfig, result: StageResult) -> None:
    print(f"{result.metrics['words']:.0f} words of {Path(config.words).name}")
