"""One preference a prompt: the only place where a prompt's orders and samples are averaged.

A sample counts only where every order asked of it has a preference: one order alone would carry the judge's liking for a place. A
prompt's preference is the mean over the samples that count, and a prompt without any has none. Win rates, length control,
comparisons, flips and head-to-head start here; the inspector states the same rule in SQL, and a test keeps the two equal.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

PROMPT_KEY = ["language", "prompt_id"]
SAMPLE_KEY = [*PROMPT_KEY, "sample_index"]


def complete_samples(judgments: pd.DataFrame) -> pd.Series[bool]:
    """Whether each row belongs to a sample that has a preference in every order asked.

    Args:
        judgments: language, prompt_id, sample_index, preference (null or NaN where the judge failed), one row an order.
    """
    known = pd.Series(np.isfinite(judgments["preference"].to_numpy(dtype=float)), index=judgments.index)
    return known.groupby([judgments[name] for name in SAMPLE_KEY], sort=False).transform("all")


def preferences_by_prompt(judgments: pd.DataFrame, others: Sequence[str] = ()) -> pd.DataFrame:
    """Preference of every (language, prompt_id) asked, NaN where no sample counts, and the means of `others` over the same samples.

    Args:
        judgments: as for `complete_samples`, with the columns `others`.
    """
    columns = ["preference", *others]
    # Samples first, then prompts: a sample judged in both orders weighs no more than one judged once.
    used = judgments[complete_samples(judgments)].astype(dict.fromkeys(columns, float))
    by_sample = used.groupby(SAMPLE_KEY, sort=False)[columns].mean()
    by_prompt = by_sample.groupby(level=PROMPT_KEY, sort=False).mean().reset_index()
    return judgments[PROMPT_KEY].drop_duplicates().merge(by_prompt, on=PROMPT_KEY, how="left", validate="one_to_one")
