"""What `icr compare` can be asked for."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator

from icr_platform.core.config import Languages, OptionalFloat, OptionalInt, setting, split_at_commas
from icr_platform.core.mappings import ColumnMap
from icr_platform.engines.identification.language_id import IdentifierName
from icr_platform.engines.judging.settings import PairwiseJudging


class CompareSettings(PairwiseJudging):
    """compare: sides -> differences per language, paired by prompt and seed.

    With a judge, the outputs of all sides are judged now: each against `reference_outputs`, or without any against those of the first side.
    """

    heading = "comparison"

    format: Literal["terminal", "latex", "csv", "html"] = setting(
        "terminal", "terminal, latex: a table with booktabs, csv: every number in full, html: one file", "place"
    )
    output: str = setting("", "file to write; empty: the terminal", "place")
    metrics: Annotated[tuple[str, ...], BeforeValidator(split_at_commas)] = setting(
        (),
        "beginnings of the metrics to compare, such as win_rate,instruction_accuracy; empty: all that both sides have",
        "place",
    )
    equivalence: OptionalFloat = setting(
        None, "points within which two sides count as equivalent (two one-sided tests); none: not tested", "place", gt=0
    )
    languages: Languages = setting(
        (), "language codes, comma-separated; empty: every language that the sides have in common"
    )
    prompts: str = setting(
        "", "prompts of files of outputs; empty: the instructions in the files of the first side", "input"
    )
    prompt_columns: ColumnMap = setting({}, 'columns to read, as in {"instruction": "prompt"}')
    output_columns: ColumnMap = setting({}, 'columns of files of outputs, as in {"output": "response"}')
    reference_outputs: str = setting(
        "", "outputs that each side is judged against; empty: those of the first side", "input"
    )
    reference_columns: ColumnMap = setting({}, 'columns to read, as in {"output": "response"}')
    language_identifier: IdentifierName = setting(
        "langid", "identifies the languages of files of outputs; see `icr eval --help`"
    )
    limit: OptionalInt = setting(None, "prompts per language of files of outputs, the first ones; none: all")
    seed: int = setting(42, "of a judge that sees one order only", ge=0)
