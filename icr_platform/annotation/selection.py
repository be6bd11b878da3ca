"""From rewards to preference pairs, language by language: the numbers are held in memory, the texts stay in the parts.

How a language's rows become matrices, and what is written of them (two prompts, three samples, one of them in a wrong language):

    rows of the parts                          rewards [P, N]       reason [P, N]         pairs
    a 0  r 1.5  part 0 row 0                   a  1.5  0.5  NaN     a  kept  kept   3     a: chosen 0, rejected 1, margin 1.0
    a 1  r 0.5  part 0 row 1                   b  2.0  NaN  NaN     b  kept  -1    -1     b: none, one-survivor
    a 2  wrong-language  part 0 row 2
    b 0  r 2.0  part 1 row 0                   3 = wrong-language, the third of SAMPLE_REASONS; -1 = no such sample

Prompt a gives a row of preferences; sample 2 of a and prompt b give a row of drops each. `part` and `row` are matrices of the same
shape, from which the texts of chosen and rejected are read when they are written.

A pool has the matrices of all languages side by side, a row for each prompt id, and gives pairs as one language does. A pair is written in
the language of its prompt. So, whatever the rule, in every language:

    prompts = prompts with a pair + dropped prompts (rows of drops without a sample and without a pair's number)
    pairs + dropped pairs (rows of drops with a pair's number) = pairs_per_prompt * prompts with a pair

The second holds of a pool over all its languages together, whose pairs of one prompt id may be in several.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from icr_platform.annotation.alpha_search import fit_rule_alpha
from icr_platform.annotation.config import AnnotateSettings
from icr_platform.annotation.filters import (
    DUPLICATE,
    NAN,
    SAMPLE_REASONS,
    TRANSLATION,
    FilterResult,
)
from icr_platform.annotation.pair_rules import PairRule
from icr_platform.annotation.pairs import PairSelection, near_duplicate, pair_candidates, select_pairs
from icr_platform.annotation.prompt_index import PromptIndex
from icr_platform.core.arrays import AnyArray, Bools, Floats, Integers, Objects
from icr_platform.core.artifacts import Artifact, completed, text_digest
from icr_platform.core.schemas import DROPS, PREFERENCES
from icr_platform.engines.sampling.translation import FAILURES
from icr_platform.engines.scoring.kind_scores import SAMPLE_KEY, from_kinds
from icr_platform.engines.scoring.reward_kinds import needs_translations

NEAR_DUPLICATE = "near-duplicate"
POOLED = "pooled"
"""Of a pool only: the prompt's pairs are in another language."""
_ABSENT, _KEPT = -1, 0


@dataclass(frozen=True)
class LanguageSamples:
    """Numbers of one language's responses: P prompts in the responses' order, N samples each, padded; or of all languages' in a pool.

    language: '' of a pool. languages_pooled: [N] of a pool's columns, those of one language after the other; empty of one language.
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
    languages_pooled: tuple[str, ...] = ()

    @property
    def languages(self) -> tuple[str, ...]:
        """[N] language of each column."""
        return self.languages_pooled or (self.language,) * len(self.sample_index)

    @property
    def samples(self) -> int:
        return int((self.reason != _ABSENT).sum())


@dataclass(frozen=True)
class LanguagePairs:
    """The pairs of one language, or of a pool, by the first reward kind, before near-duplicates are looked for, which needs the texts."""

    alpha: float
    selection: PairSelection
    uncontrolled: PairSelection
    """The pairs that the same rule makes of the reward itself, without length control."""
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

        def matrix(name: str, fill: float, kind: type) -> Any:  # of that kind
            filled: Any = np.full(shape, fill, dtype=kind)
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
        return LanguageSamples(language, list(self.prompts), sample_index, rewards, **integers)


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


def collect_samples(reader: ResponseReader, rewards: Artifact) -> Iterator[LanguageSamples]:
    """Read every part once, and give the numbers of each language, about 40 bytes a sample, in the responses' order.

    A language comes as soon as its last part has been read: where the parts of each follow each other, one of them is in memory.
    """
    last: dict[str, int] = {}
    for part in range(len(reader.responses.parts)):
        column = reader.responses.read_part(part, ["language"]).column("language")
        last |= dict.fromkeys(pc.unique(column).to_pylist(), part)
    builders: dict[str, _Builder] = {}
    built: dict[str, LanguageSamples] = {}
    waiting = deque(last)
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
        while waiting and waiting[0] in built:
            yield built.pop(waiting.popleft())


def pooled(languages: Sequence[LanguageSamples], kind: str) -> LanguageSamples:
    """The samples of all languages side by side, a row for each prompt id; a language without the prompt has none there.

    kind: of reward, the one that makes the pairs.
    """
    rows = {
        prompt_id: row for row, prompt_id in enumerate(dict.fromkeys(i for own in languages for i in own.prompt_ids))
    }
    places = [np.array([rows[prompt_id] for prompt_id in own.prompt_ids], np.int64) for own in languages]

    def side_by_side(of: Callable[[LanguageSamples], AnyArray], fill: float) -> Any:  # of the kind that they have
        blocks = []
        for own, place in zip(languages, places, strict=True):
            block: AnyArray = np.full((len(rows), len(own.sample_index)), fill, dtype=of(own).dtype)
            block[place] = of(own)
            blocks.append(block)
        return np.concatenate(blocks, axis=1)

    return LanguageSamples(
        language="",
        prompt_ids=list(rows),
        sample_index=np.concatenate([own.sample_index for own in languages]),
        rewards={kind: side_by_side(lambda own: own.rewards[kind], np.nan)},
        characters=side_by_side(lambda own: own.characters, 0),
        text_codes=side_by_side(lambda own: own.text_codes, 0),
        part=side_by_side(lambda own: own.part, -1),
        row=side_by_side(lambda own: own.row, -1),
        reason=side_by_side(lambda own: own.reason, _ABSENT),
        languages_pooled=tuple(language for own in languages for language in own.languages),
    )


def own_reasons(pool: LanguageSamples, pairs: LanguagePairs, own: LanguageSamples) -> Integers:
    """[P, N] what a pool says of the samples of one of its languages, see `LanguagePairs.reason`."""
    rows = {prompt_id: row for row, prompt_id in enumerate(pool.prompt_ids)}
    columns = np.flatnonzero(np.array(pool.languages) == own.language)
    taken = np.array([rows[prompt_id] for prompt_id in own.prompt_ids], np.int64)
    return pairs.reason[np.ix_(taken, columns)]


def select_language(samples: LanguageSamples, settings: AnnotateSettings, seed: int = 0) -> LanguagePairs:
    """Fit alpha and select pairs by the first reward kind, both on the same samples; of one language, or of a pool.

    seed: of the rule that draws.
    """
    eligible = samples.reason == _KEPT
    reward = np.where(eligible, samples.rewards[settings.reward_kind[0]], np.nan)
    taken = pair_candidates(reward, text_codes=samples.text_codes)
    draws = _draws(samples, taken, seed) if settings.rejected == "random" else None
    rule = PairRule(settings.rejected, settings.pairs_per_prompt, draws)
    highest, lowest = np.where(taken, reward, -np.inf).max(axis=1), np.where(taken, reward, np.inf).min(axis=1)
    alpha = 0.0
    # Where no prompt's rewards differ nothing is preferred, and any alpha but 0 would make pairs by length alone.
    if settings.length_control and (highest > lowest).any():
        bounds = (settings.alpha_min, settings.alpha_max)
        alpha = fit_rule_alpha(np.where(taken, reward, np.nan), samples.characters, rule, bounds).alpha
    made = partial(
        select_pairs,
        reward,
        samples.characters,
        eligible=eligible,
        text_codes=samples.text_codes,
        minimal_margin=settings.minimal_margin,
        upper_bound=settings.upper_bound,
        rule=rule,
    )
    selection = made(alpha)
    reason = np.where(selection.duplicate, SAMPLE_REASONS.index(DUPLICATE) + 1, samples.reason)
    reason = np.where(eligible & ~np.isfinite(reward), SAMPLE_REASONS.index(NAN) + 1, reason)
    return LanguagePairs(alpha, selection, made(0.0) if alpha else selection, reason.astype(np.int8))


def _draws(samples: LanguageSamples, taken: Bools, seed: int) -> Floats:
    """[P, N] a number in [0, 1) for each sample that is taken, which depends on the seed and the sample's key alone."""
    draws = np.zeros(taken.shape)
    for row, column in zip(*np.nonzero(taken), strict=True):
        key = samples.languages[column], samples.prompt_ids[row], str(samples.sample_index[column])
        draws[row, column] = _drawn("rejected", str(seed), *key)
    return draws


def _drawn(*key: str) -> float:
    return int(text_digest(*key)[:13], 16) / 2**52


@dataclass(frozen=True)
class _MadePairs:
    """M pairs that are written, in the order of prompts: which prompt each is of, which of its pairs it is, and in which language.

    columns, responses: of chosen and of rejected. prompt_language: [M] of the prompt, and so of the row.
    """

    prompt: Integers
    number: Integers
    entry: Integers
    columns: tuple[Integers, Integers]
    responses: tuple[pa.Table, pa.Table]
    prompt_language: Sequence[str]


def write_chunk(
    samples: LanguageSamples,
    pairs: LanguagePairs,
    prompts: slice,
    reader: ResponseReader,
    index: PromptIndex,
    seed: int = 0,
) -> tuple[pa.Table, pa.Table]:
    """(schemas.PREFERENCES, schemas.DROPS) of some prompts of a language or a pool, in the order of prompts, pairs and samples.

    seed: of a pool's prompts.
    """
    settings = reader.settings
    rows = np.arange(len(samples.prompt_ids))[prompts]
    several = pairs.selection.pairs_per_prompt
    entries = (rows[:, None] * several + np.arange(several)).ravel()
    reasons = np.array(pairs.selection.reason, dtype=object)[entries]
    kept = entries[reasons == ""]
    columns = [index_of[kept] for index_of in (pairs.selection.chosen_index, pairs.selection.rejected_index)]
    owner = kept // several
    responses = [reader.take(samples.part[owner, column], samples.row[owner, column]) for column in columns]
    # The last filter is one of pairs, and needs both texts: it comes after alpha and margins, which know numbers only.
    threshold, alike = settings.near_duplicate, np.zeros(len(kept), dtype=bool)
    if threshold is not None:
        texts = zip(*(table.column("response").to_pylist() for table in responses), strict=True)
        alike = np.array([near_duplicate(chosen, rejected, threshold) for chosen, rejected in texts], dtype=bool)
    reasons[reasons == ""] = np.where(alike, NEAR_DUPLICATE, "")
    chosen, rejected = (column[~alike] for column in columns)
    made = _MadePairs(
        owner[~alike],
        kept[~alike] % several,
        kept[~alike],
        (chosen, rejected),
        (responses[0].filter(pa.array(~alike)), responses[1].filter(pa.array(~alike))),
        _prompt_languages(
            samples, owner[~alike], kept[~alike] % several, (chosen, rejected), settings.pool_prompt, seed
        ),
    )
    drops = _drops(samples, pairs, rows, reasons.reshape(len(rows), several), made, reader)
    return _preferences(samples, pairs, made, samples.rewards[settings.reward_kind[0]], index), drops


def _prompt_languages(
    samples: LanguageSamples,
    prompt: Integers,
    number: Integers,
    columns: tuple[Integers, Integers],
    whose: str,
    seed: int,
) -> list[str]:
    """[M] the language of each pair's prompt: that of chosen, of rejected, or of either at random."""
    chosen, rejected = ([samples.languages[column] for column in side] for side in columns)
    if whose != "random":
        return chosen if whose == "chosen" else rejected
    keys = zip(prompt.tolist(), number.tolist(), strict=True)
    draws = [_drawn("pool prompt", str(seed), samples.prompt_ids[row], str(pair)) for row, pair in keys]
    return [first if draw < 0.5 else second for first, second, draw in zip(chosen, rejected, draws, strict=True)]


def _preferences(
    samples: LanguageSamples, pairs: LanguagePairs, made: _MadePairs, reward: Floats, index: PromptIndex
) -> pa.Table:
    ids = [samples.prompt_ids[row] for row in made.prompt]
    instructions = [index[key] for key in zip(made.prompt_language, ids, strict=True)]
    values: dict[str, object] = {
        "language": pa.array(made.prompt_language, pa.string()),
        "prompt_id": pa.array(ids, pa.string()),
        "instruction": [both.native.instruction for both in instructions],
        "english_instruction": [both.english and both.english.instruction for both in instructions],
        "messages": pa.array([both.native.json for both in instructions], pa.string()),
        "english_messages": pa.array([both.english and both.english.json for both in instructions], pa.string()),
        "margin": pairs.selection.margin[made.entry],
        "length_penalty_alpha": np.full(len(ids), pairs.alpha),
    }
    if pairs.selection.pairs_per_prompt > 1:
        values["pair_index"] = made.number
    for end, column, table in zip(("chosen", "rejected"), made.columns, made.responses, strict=True):
        values[end] = table.column("response")
        values[f"{end}_token_ids"] = table.column("token_ids")
        values[f"{end}_answer_start"] = table.column("answer_start")
        values[f"{end}_thought"] = table.column("thought")
        values[f"{end}_characters"] = table.column("character_count")
        values[f"{end}_index"] = samples.sample_index[column]
        values[f"{end}_reward"] = reward[made.prompt, column]
        answered = zip([samples.languages[each] for each in column], made.prompt_language, strict=True)
        values[f"{end}_language"] = pa.array([own if own != of else None for own, of in answered], pa.string())
    return completed(pa.table(values), PREFERENCES)


def _drops(
    samples: LanguageSamples,
    pairs: LanguagePairs,
    rows: Integers,
    reasons: Objects,
    made: _MadePairs,
    reader: ResponseReader,
) -> pa.Table:
    """List dropped samples, each prompt's followed by the pairs that it lacks, or by the prompt itself when it gives none.

    reasons: [rows, K] of each pair. In a pool, a language of the prompt in which none of its pairs is has a row of its own.
    """
    listed: list[tuple[str, str, int | None, str, str, int | None]] = []
    written: dict[int, list[str]] = {}
    for row, language in zip(made.prompt.tolist(), made.prompt_language, strict=True):
        written.setdefault(row, []).append(language)
    for row, of_pairs in zip(rows.tolist(), reasons.tolist(), strict=True):
        prompt_id = samples.prompt_ids[row]
        for column in np.flatnonzero(pairs.reason[row] > _KEPT).tolist():
            why = SAMPLE_REASONS[pairs.reason[row, column] - 1]
            if why == DUPLICATE:
                same = samples.text_codes[row] == samples.text_codes[row, column]
                twin = int(np.flatnonzero(same & (pairs.reason[row] == _KEPT))[0])
                detail = f"same text as sample {samples.sample_index[twin]}"
                if samples.languages[twin] != samples.languages[column]:
                    detail += f" in {samples.languages[twin]}"
            else:
                part, place = int(samples.part[row, column]), samples.row[row, column]
                detail = reader.filtered(part)[place].detail or "reward is not finite"
            listed.append((samples.languages[column], prompt_id, int(samples.sample_index[column]), why, detail, None))
        present, left = samples.reason[row] != _ABSENT, pairs.reason[row] == _KEPT
        seen = f"{left.sum()} of {present.sum()} samples left"
        found = written.get(row, [])
        if found:
            listed += [
                (found[0], prompt_id, None, why, f"pair {number + 1} of {len(of_pairs)}, {seen}", number)
                for number, why in enumerate(of_pairs)
                if why
            ]
        in_others = f"its pair is in {', '.join(dict.fromkeys(found))}"
        for language in dict.fromkeys(np.array(samples.languages, dtype=object)[present].tolist()):
            if language not in found:
                why, detail = (POOLED, in_others) if found else (of_pairs[0], seen)
                listed.append((language, prompt_id, None, why, detail, None))
    names = ("language", "prompt_id", "sample_index", "reason", "detail", "pair_index")
    columns = dict(zip(names, zip(*listed, strict=True), strict=True)) if listed else dict.fromkeys(names, ())
    return pa.Table.from_pydict({name: list(columns[name]) for name in DROPS.schema.names}, schema=DROPS.schema)
