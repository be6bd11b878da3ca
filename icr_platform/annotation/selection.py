"""From rewards to preference pairs, language by language: the numbers are held in memory, the texts stay in the parts.

How a language's rows become matrices, and what is written of them (two prompts, three samples, one of them in a wrong language):

    rows of the parts                          rewards [P, N]       reason [P, N]         pairs
    a 0  r 1.5  part 0 row 0                   a  1.5  0.5  NaN     a  kept  kept   3     a: chosen 0, rejected 1, margin 1.0
    a 1  r 0.5  part 0 row 1                   b  2.0  NaN  NaN     b  kept  -1    -1     b: none, one-survivor
    a 2  wrong-language  part 0 row 2
    b 0  r 2.0  part 1 row 0                   3 = wrong-language, the third of SAMPLE_REASONS; -1 = no such sample

Prompt a gives a row of preferences; sample 2 of a and prompt b give a row of drops each. `part` and `row` are matrices of the same
shape, from which the texts of chosen and rejected are read when they are written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from icr_platform.annotation.config import AnnotateSettings
from icr_platform.annotation.filters import (
    DUPLICATE,
    NAN,
    SAMPLE_REASONS,
    TRANSLATION,
    FilterResult,
)
from icr_platform.annotation.length_control import fit_alpha
from icr_platform.annotation.pairs import PairSelection, near_duplicate, pair_candidates, select_pairs
from icr_platform.annotation.prompt_index import PromptIndex
from icr_platform.core.arrays import AnyArray, Floats, Integers, Objects
from icr_platform.core.artifacts import Artifact, completed
from icr_platform.core.schemas import DROPS, PREFERENCES
from icr_platform.engines.sampling.translation import FAILURES
from icr_platform.engines.scoring.kind_scores import SAMPLE_KEY, from_kinds
from icr_platform.engines.scoring.reward_kinds import needs_translations

NEAR_DUPLICATE = "near-duplicate"
_ABSENT, _KEPT = -1, 0


@dataclass(frozen=True)
class LanguageSamples:
    """Numbers of one language's responses: P prompts in the responses' order, N samples each, padded.

    rewards: [P, N] for each kind; NaN where a sample is absent, dropped or was not scored.
    characters, text_codes: [P, N]; codes are equal within a row where texts are.
    part, row: [P, N] where the response stands; -1 where it is absent.
    reason: [P, N] 0 for kept samples, k for those dropped for SAMPLE_REASONS[k - 1], -1 for absent ones.
    """

    language: str
    prompt_ids: list[str]
    sample_index: Integers
    rewards: dict[str, Floats]
    characters: Integers
    text_codes: Integers
    part: Integers
    row: Integers
    reason: Integers

    @property
    def samples(self) -> int:
        return int((self.reason != _ABSENT).sum())


@dataclass(frozen=True)
class LanguagePairs:
    """The pairs of one language by the first reward kind, before near-duplicates are looked for, which needs the texts."""

    alpha: float
    selection: PairSelection
    reason: Integers
    """[P, N] like LanguageSamples.reason, with NaN rewards and duplicates as reasons too."""


@dataclass
class _Builder:
    """Collects the rows of one language, which lie in several parts, until the last of them has been read."""

    prompts: dict[str, int] = field(default_factory=dict)
    columns: dict[str, list[AnyArray]] = field(default_factory=dict)

    def add(self, prompt_ids: Sequence[str], columns: Mapping[str, AnyArray]) -> None:
        rows = np.array([self.prompts.setdefault(prompt_id, len(self.prompts)) for prompt_id in prompt_ids], np.int32)
        for name, values in {"prompt": rows, **columns}.items():
            self.columns.setdefault(name, []).append(values)

    def build(self, language: str, kinds: Sequence[str]) -> LanguageSamples:
        flat = {name: np.concatenate(self.columns.pop(name)) for name in list(self.columns)}  # pop: not twice in memory
        sample_index, column = np.unique(flat["sample_index"], return_inverse=True)
        shape = (len(self.prompts), len(sample_index))

        def matrix(name: str, fill: float, kind: type) -> AnyArray:
            filled: AnyArray = np.full(shape, fill, dtype=kind)
            filled[flat["prompt"], column] = flat[name]
            return filled

        integers = {
            name: matrix(name, fill, kind)
            for name, fill, kind in (
                ("characters", 0, np.int64),
                ("text_codes", 0, np.int64),
                ("part", -1, np.int32),
                ("row", -1, np.int32),
                ("reason", _ABSENT, np.int8),
            )
        }
        rewards = {kind: matrix(kind, np.nan, np.float64) for kind in kinds}
        return LanguageSamples(language, list(self.prompts), sample_index, rewards, **integers)  # type: ignore[arg-type]


class ResponseReader:
    """Rows of a responses artifact by (part, row), and why filters dropped them; keeps a few parts in memory."""

    def __init__(
        self,
        responses: Artifact,
        translations: Artifact | None,
        settings: AnnotateSettings,
        filter_part: Callable[[int], list[FilterResult]],
    ) -> None:
        self.responses, self.settings, self._filter = responses, settings, filter_part
        self.translations = translations if needs_translations(settings.reward_kind[:1]) else None
        # Neighbouring rows ask for the same part: two are kept, for chosen and rejected may stand on either side of a cut.
        columns = ["response", "token_ids", "character_count", "answer_start", "thought"]
        self.part = lru_cache(maxsize=2)(lambda index: responses.read_part(index, columns))
        self.filtered = lru_cache(maxsize=2)(self._filter_part)

    def _filter_part(self, index: int) -> list[FilterResult]:
        filtered = self._filter(index)
        if self.translations is None:
            return filtered
        outcomes = self.translations.read_part(index, ["outcome"]).column("outcome").to_pylist()
        return [
            FilterResult(TRANSLATION, f"translation {outcome}") if not result.reason and outcome in FAILURES else result
            for result, outcome in zip(filtered, outcomes, strict=True)
        ]

    def take(self, part: Integers, row: Integers) -> pa.Table:
        """The rows asked for, in that order, each part opened once."""
        order = np.argsort(part, kind="stable")
        pieces = [self.part(int(index)).take(pa.array(row[part == index])) for index in np.unique(part)]
        if not pieces:
            return self.part(0).slice(0, 0)
        return pa.concat_tables(pieces).take(pa.array(np.argsort(order, kind="stable")))


def collect_samples(reader: ResponseReader, rewards: Artifact) -> list[LanguageSamples]:
    """Read every part once and keep its numbers, about 40 bytes a sample. Languages in the responses' order."""
    # The last part of each language, so that its matrices are built as soon as they can be, not at the end with all others.
    last: dict[str, int] = {}
    for part in range(len(reader.responses.parts)):
        column = reader.responses.read_part(part, ["language"]).column("language")
        last |= dict.fromkeys(pc.unique(column).to_pylist(), part)
    builders: dict[str, _Builder] = {}
    built: dict[str, LanguageSamples] = {}
    for part in range(len(reader.responses.parts)):
        table = reader.responses.read_part(part, [*SAMPLE_KEY, "response", "character_count"])
        filtered = reader.filtered(part)
        columns: dict[str, AnyArray] = {
            "sample_index": table.column("sample_index").to_numpy(),
            "characters": table.column("character_count").to_numpy(),
            "text_codes": pd.util.hash_array(table.column("response").to_numpy(), categorize=False).view(np.int64),
            "part": np.full(table.num_rows, part, np.int32),
            "row": np.arange(table.num_rows, dtype=np.int32),
            "reason": np.array([SAMPLE_REASONS.index(v.reason) + 1 if v.reason else _KEPT for v in filtered], np.int8),
        }
        columns |= dict(from_kinds(rewards.read_part(part, ["kind", "reward"]), "reward").items())
        language = table.column("language").to_numpy()
        prompt_ids = table.column("prompt_id").to_numpy()
        for code in dict.fromkeys(language):
            here = language == code
            selected = {name: values[here] for name, values in columns.items()}
            builders.setdefault(code, _Builder()).add(prompt_ids[here], selected)
        for code in [code for code, end in last.items() if end == part]:
            built[code] = builders.pop(code).build(code, reader.settings.reward_kind)
    return [built[code] for code in last]


def select_language(samples: LanguageSamples, settings: AnnotateSettings) -> LanguagePairs:
    """Fit alpha and select pairs by the first reward kind, both on the same samples."""
    eligible = samples.reason == _KEPT
    reward = np.where(eligible, samples.rewards[settings.reward_kind[0]], np.nan)
    taken = pair_candidates(reward, text_codes=samples.text_codes)
    highest, lowest = np.where(taken, reward, -np.inf).max(axis=1), np.where(taken, reward, np.inf).min(axis=1)
    alpha = 0.0
    # Where no prompt's rewards differ nothing is preferred, and any alpha but 0 would make pairs by length alone.
    if settings.length_control and (highest > lowest).any():
        bounds = (settings.alpha_min, settings.alpha_max)
        alpha = fit_alpha(np.where(taken, reward, np.nan), samples.characters, bounds).alpha
    selection = select_pairs(
        reward,
        samples.characters,
        alpha,
        eligible=eligible,
        text_codes=samples.text_codes,
        minimal_margin=settings.minimal_margin,
        upper_bound=settings.upper_bound,
    )
    reason = np.where(selection.duplicate, SAMPLE_REASONS.index(DUPLICATE) + 1, samples.reason)
    reason = np.where(eligible & ~np.isfinite(reward), SAMPLE_REASONS.index(NAN) + 1, reason)
    return LanguagePairs(alpha, selection, reason.astype(np.int8))


def write_chunk(
    samples: LanguageSamples,
    pairs: LanguagePairs,
    prompts: slice,
    reader: ResponseReader,
    index: PromptIndex,
) -> tuple[pa.Table, pa.Table]:
    """(schemas.PREFERENCES, schemas.DROPS) of some prompts of a language, in the order of prompts and samples."""
    rows = np.arange(len(samples.prompt_ids))[prompts]
    reasons = np.array(pairs.selection.reason, dtype=object)[rows]
    kept = rows[reasons == ""]
    columns = [index_of[kept] for index_of in (pairs.selection.chosen_index, pairs.selection.rejected_index)]
    responses = [reader.take(samples.part[kept, column], samples.row[kept, column]) for column in columns]
    # The last filter is one of pairs, and needs both texts: it comes after alpha and margins, which know numbers only.
    threshold, alike = reader.settings.near_duplicate, np.zeros(len(kept), dtype=bool)
    if threshold is not None:
        texts = zip(*(table.column("response").to_pylist() for table in responses), strict=True)
        alike = np.array([near_duplicate(chosen, rejected, threshold) for chosen, rejected in texts], dtype=bool)
    reasons[reasons == ""] = np.where(alike, NEAR_DUPLICATE, "")
    drops = _drops(samples, pairs, rows, reasons, reader)
    columns, responses = [column[~alike] for column in columns], [table.filter(pa.array(~alike)) for table in responses]
    reward = samples.rewards[reader.settings.reward_kind[0]]
    return _preferences(samples, pairs, kept[~alike], columns, responses, reward, index), drops


def _preferences(
    samples: LanguageSamples,
    pairs: LanguagePairs,
    rows: Integers,
    columns: Sequence[Integers],
    responses: Sequence[pa.Table],
    reward: Floats,
    index: PromptIndex,
) -> pa.Table:
    ids = [samples.prompt_ids[row] for row in rows]
    instructions = [index[samples.language, prompt_id] for prompt_id in ids]
    values: dict[str, object] = {
        "language": [samples.language] * len(ids),
        "prompt_id": ids,
        "instruction": [both.native.instruction for both in instructions],
        "english_instruction": [both.english and both.english.instruction for both in instructions],
        "messages": pa.array([both.native.json for both in instructions], pa.string()),
        "english_messages": pa.array([both.english and both.english.json for both in instructions], pa.string()),
        "margin": pairs.selection.margin[rows],
        "length_penalty_alpha": np.full(len(ids), pairs.alpha),
    }
    for end, column, table in zip(("chosen", "rejected"), columns, responses, strict=True):
        values[end] = table.column("response")
        values[f"{end}_token_ids"] = table.column("token_ids")
        values[f"{end}_answer_start"] = table.column("answer_start")
        values[f"{end}_thought"] = table.column("thought")
        values[f"{end}_characters"] = table.column("character_count")
        values[f"{end}_index"] = samples.sample_index[column]
        values[f"{end}_reward"] = reward[rows, column]
    return completed(pa.table(values), PREFERENCES)


def _drops(
    samples: LanguageSamples,
    pairs: LanguagePairs,
    rows: Integers,
    reasons: Objects,
    reader: ResponseReader,
) -> pa.Table:
    """List dropped samples, each prompt's followed by the prompt itself (sample_index null) when it gives no pair."""
    listed: list[tuple[str, int | None, str, str]] = []
    for row, reason in zip(rows.tolist(), reasons.tolist(), strict=True):
        prompt_id = samples.prompt_ids[row]
        for column in np.flatnonzero(pairs.reason[row] > _KEPT).tolist():
            why = SAMPLE_REASONS[pairs.reason[row, column] - 1]
            if why == DUPLICATE:
                same = samples.text_codes[row] == samples.text_codes[row, column]
                twin = int(np.flatnonzero(same & (pairs.reason[row] == _KEPT))[0])
                detail = f"same text as sample {samples.sample_index[twin]}"
            else:
                part, place = int(samples.part[row, column]), samples.row[row, column]
                detail = reader.filtered(part)[place].detail or "reward is not finite"
            listed.append((prompt_id, int(samples.sample_index[column]), why, detail))
        if reason:
            present, left = samples.reason[row] != _ABSENT, pairs.reason[row] == _KEPT
            listed.append((prompt_id, None, reason, f"{left.sum()} of {present.sum()} samples left"))
    names = ("prompt_id", "sample_index", "reason", "detail")
    columns = dict(zip(names, zip(*listed, strict=True), strict=True)) if listed else dict.fromkeys(names, ())
    table = {"language": [samples.language] * len(listed), **columns}
    return pa.Table.from_pydict({name: list(table[name]) for name in DROPS.schema.names}, schema=DROPS.schema)
