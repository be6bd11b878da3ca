"""What `icr generate` can be asked for."""

from __future__ import annotations

from typing import ClassVar

from icr_platform.core.config import INPUTS, ChatSettings, Languages, OptionalInt, PinnedInputs, setting
from icr_platform.core.mappings import ColumnMap
from icr_platform.engines.sampling.settings import SamplingSettings


class GenerateConfig(ChatSettings, SamplingSettings, PinnedInputs):
    """generate: prompts -> responses."""

    heading = INPUTS
    required: ClassVar[tuple[str, ...]] = ("policy", "prompts")

    policy: str = setting("", "model that responds: folder, hub name, runs:/ or models:/ URI", "model")
    prompts: str = setting(
        "", "folder of LANG.jsonl, a file with a column language, hub data set, or runs:/ URI", "input"
    )
    prompt_columns: ColumnMap = setting({}, 'columns to read, as in {"instruction": "prompt"}', later=True)
    languages: Languages = setting((), "language codes, comma-separated; empty: every language of the prompts")
    limit: OptionalInt = setting(None, "prompts per language, the first ones; none: all")
    seed: int = setting(42, "seed of every sample, with language and prompt id", ge=0)
    output: str = setting(
        "", "folder of the artifacts; empty: a work folder, which is emptied once MLflow has them", "place"
    )
