"""The demo world's exact grader as a judge: it sees no order and never fails."""

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
        """One judgment a pair.

        Raises:
            InputError: a prompt id that is not of the demo world.
        """
        for part in parts:
            yield [self._judge(pair) for pair in part]

    def _judge(self, pair: Pair) -> Judgment:
        try:
            value = preference(pair.prompt_id, pair.language, pair.candidate, pair.reference)
        except KeyError:
            raise InputError(
                f"prompts: prompt {pair.prompt_id!r} is not of the demo world; choose another --judge for your own prompts"
            ) from None
        return Judgment(pair.language, pair.prompt_id, pair.sample_index, NO_ORDER, value, None, "ok", "demo", 0, 0, "")
