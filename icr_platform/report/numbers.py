"""Numbers as people read them, in the report and in the inspector."""

from __future__ import annotations

import math
from decimal import ROUND_HALF_UP, Context, Decimal

_NOISE = 6  # digits behind the shown ones, beyond which two ways to the same number may differ
_EXACT = Context(prec=400)  # the largest float has 309 digits


def number(value: float | None, digits: int = 2) -> str:
    """A number with grouped thousands and a real minus sign; a dash where there is none. Halves are rounded away from zero.

    >>> number(3.14159), number(None), number(-0.001), number(-1234.5, 1)
    ('3.14', '–', '0.00', '−1,234.5')
    >>> number(3.25, 1), number(3.25 + 1e-12, 1), number(3.25 - 1e-12, 1), number(-3.25, 1)
    ('3.3', '3.3', '3.3', '−3.3')
    """
    if value is None or not math.isfinite(value):
        return "–"
    exact = Decimal(f"{value:.{digits + _NOISE}f}")
    text = f"{exact.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP, _EXACT):,f}"
    return text.lstrip("-") if float(text.replace(",", "")) == 0 else text.replace("-", "−")


def signed(value: float | None, digits: int = 1) -> str:
    """A change: the number with its sign.

    >>> signed(2.04), signed(-2.04), signed(None)
    ('+2.0', '−2.0', '–')
    """
    text = number(value, digits)
    return text if value is None or text.startswith(("−", "–")) or value <= 0 else f"+{text}"
