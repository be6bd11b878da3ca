"""Language confusion over tables of outputs: what was seen of each output (schemas.CONFUSION), and both rates of every language."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from icr_platform.core.arrays import Floats
from icr_platform.core.artifacts import Artifact, ArtifactWriter
from icr_platform.core.intervals import wilson_bounds
from icr_platform.core.progress import meter
from icr_platform.core.schemas import CONFUSION
from icr_platform.evaluation.comparison import bootstrap_mean, holm
from icr_platform.evaluation.confusion import Rule, check, rule_of
from icr_platform.evaluation.prompt_preferences import PROMPT_KEY, SAMPLE_KEY
from icr_platform.evaluation.scores import Score

LINES, WORDS = "line_pass_rate", "word_pass_rate"
_TEXT = "output"
_CHANGES = ["metric", "language", "before", "after", "difference", "low", "high", "p_value", "n", "n_unpaired"]


def confusion_rows(outputs: pa.Table, english: Collection[str]) -> pa.Table:
    """As schemas.CONFUSION, of the outputs in languages that can be looked at.

    Args:
        outputs: language, prompt_id, sample_index, output: the answer without what was thought before it.
        english: words that count as English, see `confusion.english_words`.
    """
    rows = []
    for language, prompt_id, sample, text in zip(
        *(outputs[name].to_pylist() for name in (*SAMPLE_KEY, _TEXT)), strict=True
    ):
        rule = rule_of(language)
        if isinstance(rule, Rule):
            seen = check(text, rule, english)
            lines, languages = [list(column) for column in zip(*seen.confused, strict=True)] or ([], [])
            words = None if seen.english is None else list(seen.english)
            rows.append((language, prompt_id, sample, seen.lines, lines, languages, words))
    columns = zip(*rows, strict=True) if rows else ([] for _ in CONFUSION.schema)
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, CONFUSION.schema, strict=True)],
        schema=CONFUSION.schema,
    )


def write_confusion(outputs: Artifact, writer: ArtifactWriter, english: Collection[str]) -> Artifact:
    """Look at every output, part by part. A part that an earlier run of this work wrote is kept if it is of the same outputs."""
    with meter("language confusion", outputs.rows) as progress:
        for index in range(len(outputs.parts)):
            part = outputs.read_part(index, [*SAMPLE_KEY, _TEXT])
            measured = pa.array([isinstance(rule_of(one), Rule) for one in part["language"].to_pylist()], pa.bool_())
            asked = part.select(SAMPLE_KEY).filter(measured)
            # Prompts that were dropped may have been asked again since, and have outputs now.
            if not writer.has_part(index) or not writer.read_part(index).select(SAMPLE_KEY).equals(asked):
                writer.write_part(index, confusion_rows(part, english))
            progress.advance(part.num_rows)
    return writer.close(len(outputs.parts))


def confusion_scores(parts: Iterable[pa.Table]) -> list[Score]:
    """Line and word pass rate of every language, in percent, with Wilson intervals.

    Samples of one prompt are not independent: the interval is that of as many independent outputs as would vary as much.
    Where no answer of a benchmark's language passes by line, its word pass rate is 100, as the benchmark has it; its interval, from 0
    to 100, says that nothing is known.

    Args:
        parts: of schemas.CONFUSION, read one after the other; all outputs of a prompt are in one of them.
    """
    total: dict[tuple[str, str], Floats] = {}
    for part in parts:
        for key, of_part in _sums(part):
            total[key] = total.get(key, 0.0) + of_part
    scores = []
    for (language, metric), sums in total.items():
        prompts, n, passed, *squares = sums.tolist()
        rule = rule_of(language)
        if not isinstance(rule, Rule) or (metric == WORDS and not rule.has_word_rate):
            continue
        if n:
            low, high = wilson_bounds(passed / n, _effective(prompts, n, passed, *squares))
            scores.append(Score(language, metric, 100 * passed / n, None, int(n), "", 100 * low, 100 * high))
        elif metric == WORDS and rule.is_benchmark and total[language, LINES][1]:
            flag = "no output passes by line, which the benchmark counts as 100"
            scores.append(Score(language, metric, 100.0, None, 0, flag, 0.0, 100.0))
        else:
            scores.append(Score(language, metric, None, None, 0, "no output has a line that can be looked at"))
    return scores


def confusion_parts(outputs: Artifact, english: Collection[str]) -> Iterator[pa.Table]:
    """`confusion_rows` of an artifact of outputs, part by part: for outputs that an earlier version finished, which have no such table."""
    for index in range(len(outputs.parts)):
        yield confusion_rows(outputs.read_part(index, [*SAMPLE_KEY, _TEXT]), english)


def pass_rate_changes(before: Iterable[pa.Table], after: Iterable[pa.Table]) -> pd.DataFrame:
    """What changed from one policy to another on the prompts that both answered, paired by prompt.

    Args:
        before, after: parts of schemas.CONFUSION.

    Returns:
        a row per metric and language: rates before and after in percent, difference in points with its 95% interval, p and Holm's p
        over the languages, n prompts compared, and n_unpaired that count on one side only. A prompt counts with the mean of its
        samples that count.
    """
    rates = [
        pd.concat([_by_prompt(CONFUSION.schema.empty_table()), *map(_by_prompt, side)]) for side in (before, after)
    ]
    rows = []
    for metric in (LINES, WORDS):
        both = pd.concat(
            [rate[metric].rename(side) for rate, side in zip(rates, ("before", "after"), strict=True)], axis=1
        )
        for language, of in both.groupby(level="language", sort=False):
            paired = of.dropna()
            if paired.empty:
                continue
            found = bootstrap_mean(paired["after"] - paired["before"], limits=(-100.0, 100.0))
            rows.append({
                "metric": metric, "language": str(language), "before": paired["before"].mean(), "after": paired["after"].mean(),
                "difference": found.mean, "low": found.low, "high": found.high, "p_value": found.p_value,
                "n": len(paired), "n_unpaired": int(of.isna().any(axis=1).sum() - of.isna().all(axis=1).sum()),
            })  # fmt: skip
    changes = pd.DataFrame(rows, columns=_CHANGES)
    changes["adjusted_p_value"] = changes.groupby("metric")["p_value"].transform(holm) if rows else None
    return changes


def pass_rate_change_metrics(changes: pd.DataFrame) -> dict[str, float]:
    """`line_pass_rate_change/LANG` in points, with the ends of its interval and Holm's p, and the same of words; none that is not known."""
    ends = {"difference": "change", "low": "change_low", "high": "change_high", "adjusted_p_value": "change_p"}
    return {
        f"{row['metric']}_{name}/{row['language']}": float(row[column])
        for row in changes.to_dict("records")
        for column, name in ends.items()
        if math.isfinite(row[column])
    }


def _by_prompt(part: pa.Table) -> pd.DataFrame:
    """By language and prompt id, percent of the samples that count which pass by line, and by word; NaN where none counts."""
    flags = {
        metric: pc.if_else(counts, pc.cast(passes, "float64"), None).to_numpy(zero_copy_only=False)
        for metric, counts, passes in _passes(part)
    }
    rows: pd.DataFrame = part.select(PROMPT_KEY).to_pandas().assign(**flags)
    return rows.groupby(PROMPT_KEY, sort=False).mean().mul(100)


def _passes(part: pa.Table) -> Iterator[tuple[str, pa.ChunkedArray, pa.ChunkedArray]]:
    """By metric, whether each output counts, and whether it passes."""
    lines = pc.greater(part["line_count"], 0)
    clean = pc.and_(lines, pc.equal(pc.list_value_length(part["confused_lines"]), 0))
    yield LINES, lines, clean
    words = pc.and_(clean, pc.is_valid(part["english_words"]))
    yield WORDS, words, pc.and_(words, pc.equal(pc.fill_null(pc.list_value_length(part["english_words"]), -1), 0))


def _sums(part: pa.Table) -> Iterator[tuple[tuple[str, str], Floats]]:
    """By language and metric [6]: prompts, outputs that count (n), those that pass, and sums over the prompts of n * n, n * passed and
    passed * passed."""
    for metric, counts, passes in _passes(part):
        rows = part.select(PROMPT_KEY).append_column("n", counts.cast("int64"))
        rows = rows.append_column("passed", passes.cast("int64"))
        prompts = rows.group_by(PROMPT_KEY, use_threads=False).aggregate([("n", "sum"), ("passed", "sum")])
        n, passed = (prompts[name].to_numpy().astype(float) for name in ("n_sum", "passed_sum"))
        sums = np.stack([n > 0, n, passed, n * n, n * passed, passed * passed], axis=1)
        languages = np.asarray(prompts["language"].to_pylist(), dtype=object)
        for language in dict.fromkeys(languages.tolist()):
            yield (language, metric), sums[languages == language].sum(axis=0)


def _effective(prompts: float, n: float, passed: float, nn: float, both: float, squared: float) -> float:
    """As many independent outputs as vary like these, which are `n` of `prompts` prompts (Rao and Scott 1992); never more than n."""
    if prompts == n:
        return n
    share = passed / n
    # Sum over the prompts of (passed - share * n) ** 2: how much they deviate from the share of all.
    deviation = squared - 2 * share * both + share * share * nn
    variance = prompts / (prompts - 1) * deviation / n**2 if prompts > 1 else 0.0
    # At a bound, or where prompts agree, nothing is left to see of a variance: what is left to count is prompts.
    return min(n, share * (1 - share) / variance) if variance > 0 and 0 < share < 1 else prompts
