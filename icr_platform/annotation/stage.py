"""annotate: responses -> rewards, preferences, drops.

Policy and reference score all responses in turn, so that one model is in memory at a time; what the policy gave is kept
beside the artifacts until the rewards are written. Everything but the numbers of `selection.LanguageSamples` streams.

Metrics, per language and as unweighted mean over languages (`NAME/LANG`, `NAME/mean`):
- `alpha`: reward per character; `length_correlation/before` and `/after` length control (see `diagnostics`);
- `margin/q10`, `/median`, `/q90`: length-controlled reward of chosen minus rejected;
- `pairs`: how many; `dropped_prompts/REASON`, `dropped_samples/REASON`: shares in [0, 1] of all prompts, all samples;
- `reward_agreement/KIND1-KIND2`: share of response pairs that both kinds order alike.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from icr_platform.annotation.diagnostics import length_correlation, reward_agreement, with_means
from icr_platform.annotation.filters import SAMPLE_REASONS, filter_samples
from icr_platform.annotation.inputs import check_responses, prompt_index
from icr_platform.annotation.length_control import length_controlled
from icr_platform.annotation.pairs import DROP_REASONS
from icr_platform.annotation.reward import implicit_reward, random_reward
from icr_platform.annotation.scoring import KEY, PromptIndex, by_kind, from_kinds, plan_part, score_part
from icr_platform.annotation.selection import (
    NEAR_DUPLICATE, LanguagePairs, LanguageSamples, ResponseReader, collect_samples, select_language, write_chunk,
)  # fmt: skip
from icr_platform.artifacts import MANIFEST, Artifact, ArtifactWriter, open_artifact
from icr_platform.config import AnnotateConfig, RewardKind, require
from icr_platform.errors import IcrError, InputError
from icr_platform.models import check_same_tokenisation, load_model, load_tokenizer
from icr_platform.progress import Meter, meter
from icr_platform.schemas import DROPS, LOGPROBS, PREFERENCES, RESPONSES, REWARDS, TRANSLATIONS
from icr_platform.stages import StageContext, StageResult
