"""What lies behind a run's parameters: the evaluation prompts with their English and data sets, and the reference outputs.

They are files of the user or another run's artifacts (`runs:/RUN_ID/outputs`). They may be gone, or on another machine; then the
pages say so and do without them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from icr_platform.core.conversations import Conversation
from icr_platform.core.errors import IcrError, InputError
from icr_platform.core.parts import split_world
from icr_platform.core.schemas import PROMPTS
from icr_platform.data.prompts import load_prompts
from icr_platform.data.reference_outputs import ReferenceOutputs, load_reference_outputs
from ui.tables.queries import QueryEngine, parts_of
from ui.tables.runs import Catalogue, IterationRecord

EMPTY = PROMPTS.schema.empty_table()
"""Stands for evaluation prompts that cannot be read, or are not needed."""
_KEPT = 64  # files of reference outputs that are read once, each with one or two temporary files


class EvalPrompts(NamedTuple):
    """What is known of the evaluation prompts in addition to the instructions. note: why nothing is known, else ''."""

    table: pa.Table
    """As schemas.PROMPTS, empty when they cannot be read."""
    english: Mapping[str, Conversation]
    """English instruction, and what comes before it, by prompt id."""
    note: str


class ReferenceText(NamedTuple):
    """text: the reference output, None when it cannot be read; note: why not, else ''."""

    text: str | None
    note: str


def eval_prompts(catalogue: Catalogue, iteration: IterationRecord) -> EvalPrompts:
    """The prompts this iteration was evaluated on."""
    try:
        path = _local(catalogue, iteration, "prompts")
    except IcrError as error:
        return EvalPrompts(EMPTY, {}, f"The evaluation prompts cannot be read: {error}.")
    if not Path(path).is_absolute() or not _exists(path):
        note = f"The evaluation prompts ({path or 'not recorded'}) are not on this machine."
        return EvalPrompts(EMPTY, {}, note)
    column_map = _column_map(iteration, "prompt_columns")
    return _eval_prompts(path, Path(path).stat().st_mtime, column_map)  # a file that was changed is read again


@lru_cache(maxsize=8)
def _eval_prompts(path: str, modified: float, column_map: str) -> EvalPrompts:
    try:
        table = load_prompts(path, columns=json.loads(column_map)).table
    except (InputError, OSError) as error:
        return EvalPrompts(EMPTY, {}, f"The evaluation prompts cannot be read: {error}.")
    columns = (table[name].to_pylist() for name in ("prompt_id", "english_instruction", "english_messages"))
    said = [row for row in zip(*columns, strict=True) if row[1] is not None]
    return EvalPrompts(table, {key: Conversation.of(text, messages) for key, text, messages in said}, "")


NO_ENGLISH = Conversation("")


_remembered: dict[tuple[str, float, str, str, str], ReferenceOutputs] = {}


def reference_output(
    engine: QueryEngine,
    catalogue: Catalogue,
    iteration: IterationRecord,
    language: str,
    prompt_id: str,
    sample_index: int = 0,
) -> ReferenceText:
    """The output that the judge compared with."""
    outputs = catalogue.artifact(iteration, "outputs")
    try:
        path = _local(catalogue, iteration, "reference_outputs")
        place = path.replace("{language}", language)
        if not Path(place).is_absolute() or not _exists(place):
            return ReferenceText(None, f"The reference outputs ({path or 'none recorded'}) are not on this machine.")
        column_map = _column_map(iteration, "reference_columns")
        key = (path, Path(place).stat().st_mtime, language, outputs.digest, column_map)
        found = _remembered.get(key)
        if found is None:
            # Joined to the prompts that were answered, as `icr eval` did: by the instruction where a file has no ids.
            sql = "SELECT prompt_id, instruction FROM read_parquet(?) WHERE language = ?"
            asked = {row["prompt_id"]: row["instruction"] for row in engine.select(sql, [parts_of(outputs), language])}
            if len(_remembered) >= _KEPT:
                _remembered.clear()
            found = _remembered[key] = load_reference_outputs(path, {language: asked}, columns=json.loads(column_map))
    except (IcrError, OSError) as error:
        return ReferenceText(None, f"The reference outputs cannot be read: {error}.")
    text = found.get(language, prompt_id, sample_index)
    return ReferenceText(text, "" if text is not None else "The reference outputs have none for this prompt.")


def _column_map(iteration: IterationRecord, name: str) -> str:
    """The map by which the columns of an input were read, as JSON; `{}` where there was none, or no such setting yet."""
    stage = iteration.stages.get("eval")
    return (stage.holder.params if stage else {}).get(f"eval.{name}") or "{}"


def _local(catalogue: Catalogue, iteration: IterationRecord, name: str) -> str:
    """Absolute path behind a parameter, which is recorded as its user gave it; '' when there is none.

    Raises:
        IcrError: it names a run's artifact, and the store does not give it.
    """
    stage = iteration.stages.get("eval")
    params = stage.holder.params if stage else {}
    value = params.get(f"eval.{name}", "")
    if found := split_world(value, catalogue.worlds):
        world, inside = found
        value = str(world.folder(Path(".icr"), params.get("eval.seed", "42")) / inside)
    if value.startswith("runs:/"):
        return str(catalogue.local_path(value))
    is_path = value and "://" not in value
    return str(Path(value).absolute()) if is_path else value


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except OSError:  # such as a name that is too long
        return False
