"""The demo world's exact grader as a judge: it ignores the order of the outputs and never fails."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from icr_platform.core.errors import InputError
from icr_platform.demo.grader import preference
from icr_platform.engines.judging.pairwise import NO_ORDER, Judgment, Pair, Template
from icr_platform.engines.judging.settings import PairwiseJudging


class DemoJudge:
    """Compares by grade: 1, 0.5 or 0. The grader needs neither settings nor a wording, and draws nothing."""

    def __init__(self, settings: PairwiseJudging, template: Template, seed: int) -> None:
        pass

    def judge(self, parts: Iterable[Sequence[Pair]]) -> Iterator[list[Judgment]]:
        """Yield one judgment per pair.

        Raises:
            InputError: a prompt is not of the demo world.
        """
        for part in parts:
            judgments = []
            for pair in part:
                try:
                    value = preference(pair.prompt_id, pair.language, pair.candidate, pair.reference)
                except KeyError:
                    raise InputError(
                        f"prompts: prompt {pair.prompt_id!r} is not of the demo world; choose another --judge for your own prompts"
                    ) from None
                # A grade does not depend on the other output, so both orders would say the same: one judgment, with no order.
                key = (pair.language, pair.prompt_id, pair.sample_index, NO_ORDER)
                judgments.append(Judgment(*key, value, None, "ok", "demo", 0, 0, ""))
            yield judgments
