"""Which settings a preference loss takes: what would have no effect, or has no meaning together, is refused before work.

TRL 1.16 computes some of these combinations all the same: it ignores `label_smoothing` with every loss but `robust` among ours, and
with `ld_alpha` it divides log-ratios that lack their tails by whole lengths (`ipo`, `sigmoid_norm`), two corrections for length in one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from icr_platform.core.errors import InputError
from icr_platform.training.config import TrainSettings

_OF_SUMS = ("sigmoid", "hinge", "robust", "apo_zero", "apo_down")
_OF_PAIRS = (*_OF_SUMS, "sigmoid_norm", "ipo")


class _Rule(NamedTuple):
    """A setting that only some losses take. why: what is wrong elsewhere, and what to do."""

    name: str
    is_given: Callable[[TrainSettings], bool]
    losses: tuple[str, ...]
    why: str


_RULES = (
    _Rule(
        "label_smoothing",
        lambda settings: settings.label_smoothing > 0,
        ("robust",),
        "has an effect with loss=robust only; use that loss, or leave label_smoothing out",
    ),
    _Rule(
        "ld_alpha",
        lambda settings: settings.ld_alpha is not None,
        _OF_SUMS,
        f"weighs tokens in sums of log-probabilities, which {', '.join(_OF_SUMS)} take; the loss does without it, leave ld_alpha out",
    ),
    _Rule(
        "use_weighting",
        lambda settings: settings.use_weighting,
        _OF_PAIRS,
        "weighs pairs, and kto takes single responses; leave use_weighting out, or use desirable_weight and undesirable_weight",
    ),
    _Rule(
        "desirable_weight",
        lambda settings: settings.desirable_weight != 1,
        ("kto",),
        "has an effect with loss=kto only; leave desirable_weight out",
    ),
    _Rule(
        "undesirable_weight",
        lambda settings: settings.undesirable_weight != 1,
        ("kto",),
        "has an effect with loss=kto only; leave undesirable_weight out",
    ),
    _Rule(
        "likelihood",
        lambda settings: settings.likelihood == "tokens",
        _OF_PAIRS,
        "averages the tokens of pairs, and kto takes single responses; leave likelihood out, or gamma 0 turns it off",
    ),
)


def check_loss(settings: TrainSettings, section: str = "") -> None:
    """Refuse settings that the loss does not take. section: in which they are given, `train.`, for the message.

    Raises:
        InputError: one has no effect with the loss, or no meaning.
    """
    wrong = [
        f"field '{section}{rule.name}' ({getattr(settings, rule.name)}) with {section}loss={settings.loss}: {rule.why}"
        for rule in _RULES
        if rule.is_given(settings) and settings.loss not in rule.losses
    ]
    if wrong:
        raise InputError(f"config: {'; '.join(wrong)}")


def notes_of_loss(settings: TrainSettings) -> list[str]:
    """What a person should know of a loss that is computed as it was asked for."""
    if settings.loss == "robust" and settings.label_smoothing == 0:
        return [
            "loss=robust with label_smoothing=0 is the sigmoid loss; give the share of wrong labels, such as 0.1, as label_smoothing"
        ]
    return []


def notes_of_balance(settings: TrainSettings, good: int, total: int) -> list[str]:
    """Say which weight would even out kto's good and bad responses: their products should be as 1 to 1, up to 4 to 3 (arXiv 2402.01306,
    equation 8)."""
    bad = total - good
    if not good or not bad:
        return []
    ratio = settings.desirable_weight * good / (settings.undesirable_weight * bad)
    if 3 / 4 <= ratio <= 4 / 3:
        return []
    name, weight = ("undesirable_weight", good / bad) if good > bad else ("desirable_weight", bad / good)
    return [
        f"{good:,} responses are good and {bad:,} bad; kto wants their weights to even that out: give {name}={weight:.2g}"
    ]
