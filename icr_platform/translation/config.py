"""What `icr translate` can be asked for."""

from __future__ import annotations

from typing import ClassVar, Literal

from icr_platform.core.config import INPUTS, ChatSettings, Languages, OptionalInt, PinnedInputs, setting
from icr_platform.core.mappings import ColumnMap
from icr_platform.engines.sampling.settings import TextTranslation


class TranslateSettings(TextTranslation):
    """What is translated, into which languages, and by whom."""

    heading = "translation"

    into: Languages = setting(
        (), "languages to translate into, comma-separated; empty: of responses all that they are in"
    )
    responses_each: OptionalInt = setting(
        None,
        "responses of a prompt that are translated, the first that are neither empty, cut off nor in another language; none: all "
        "(in iterate as many as pairs are made of)",
        ge=1,
    )


class TranslateConfig(ChatSettings, TranslateSettings, PinnedInputs):
    """translate: texts -> the same in other languages."""

    heading = INPUTS
    required: ClassVar[tuple[str, ...]] = ("texts",)

    texts: str = setting(
        "",
        "what to translate: prompts or preferences, as files, data set or artifact; a responses or outputs artifact; files of outputs, "
        "with the prompts that they answer",
        "input",
    )
    texts_kind: Literal["auto", "prompts", "preferences", "outputs"] = setting(
        "auto",
        "what is in files; auto: preferences if their rows have chosen and rejected, outputs if prompts are given",
    )
    columns: ColumnMap = setting({}, 'columns to read, as in {"instruction": "prompt"}')
    prompts: str = setting("", "prompts that files of outputs answer, in all languages that have any", "input")
    prompt_columns: ColumnMap = setting({}, 'columns to read, as in {"instruction": "prompt"}')
    languages: Languages = setting((), "languages of the texts that are read, comma-separated; empty: all")
    limit: OptionalInt = setting(None, "prompts or preferences per language, the first ones; none: all")
    seed: int = setting(42, "seed of inputs that a world makes; a translation depends on its text alone", "place", ge=0)
    output: str = setting(
        "", "folder of the artifacts; empty: a work folder, which is emptied once MLflow has them", "place"
    )
