"""The judge that the settings name: one of `JUDGES`, or anyone's own as MODULE:NAME."""

from __future__ import annotations

from icr_platform.core.errors import InputError
from icr_platform.core.parts import load_part
from icr_platform.engines.judging.pairwise import Judge, Template
from icr_platform.engines.judging.settings import JUDGES, NO_JUDGE, PairwiseJudging


def judge_place(name: str) -> str:
    """MODULE:NAME of the judge that goes by this name; '' for no judge.

    >>> judge_place("openai"), judge_place("mine:Judge"), judge_place("none")
    ('icr_platform.engines.judging.api_judge:ApiJudge.from_settings', 'mine:Judge', '')
    """
    if name == NO_JUDGE:
        return ""
    return JUDGES[name].part.place if name in JUDGES else name


def make_judge(settings: PairwiseJudging, template: Template, seed: int) -> Judge:
    """The judge that `settings.judge` names, ready to be asked.

    Args:
        template: how it is asked.
        seed: of the coin that picks an order, see `orders_of`, and of whatever else the judge draws.

    Raises:
        InputError: the judge cannot be imported, made or used.
    """
    make = load_part("judge", judge_place(settings.judge), "settings", "template", "seed")
    judge: Judge = make(settings, template, seed)
    if not callable(getattr(judge, "judge", None)):
        raise InputError(
            f"config: field 'judge' is {settings.judge!r}, which gives a {type(judge).__name__} without a method judge(parts)"
        )
    return judge


def check_judge(settings: PairwiseJudging, template: Template) -> tuple[str, ...]:
    """Raise InputError when the judge that `settings.judge` names cannot work here; loads no weights.

    Returns:
        notes on what is not asked as it is configured.
    """
    if settings.judge in JUDGES:
        return tuple(load_part("judge", JUDGES[settings.judge].check, "settings", "template")(settings, template) or ())
    if settings.judge != NO_JUDGE:
        load_part("judge", settings.judge, "settings", "template", "seed")
    return ()
