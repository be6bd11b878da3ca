"""Student's t distribution: its upper tail and quantiles, without a library."""

from __future__ import annotations

import math

_STEPS = 300
_SMALLEST = 1e-300


def upper_tail(t: float, df: float) -> float:
    """P(T > t) of df > 0 degrees of freedom, which need not be whole; infinite df are the normal distribution.

    >>> round(upper_tail(2.0, 10.0), 6), round(upper_tail(-1.0, 3.5), 6), upper_tail(0.0, 7.0)
    (0.036694, 0.809331, 0.5)
    """
    if math.isnan(t) or math.isnan(df):
        return math.nan
    if math.isinf(df):
        return 0.5 * math.erfc(t / math.sqrt(2))
    if math.isinf(t):
        return 0.0 if t > 0 else 1.0
    # P(|T| > t) is the regularised incomplete beta function at df / (df + t^2) (Abramowitz and Stegun, 26.7.1).
    both = _incomplete_beta(df / 2, 0.5, df / (df + t * t), t * t / (df + t * t))
    return both / 2 if t >= 0 else 1 - both / 2


def quantile(p: float, df: float) -> float:
    """t with P(T <= t) = p in (0, 1), to 1e-12 relative.

    >>> round(quantile(0.975, 4.0), 6), round(quantile(0.95, math.inf), 6), quantile(0.5, 3.0)
    (2.776445, 1.644854, 0.0)
    """
    if p == 0.5:
        return 0.0
    if p < 0.5:
        return -quantile(1 - p, df)
    low, high = 0.0, 1.0
    while upper_tail(high, df) > 1 - p:
        low, high = high, 2 * high
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if upper_tail(middle, df) > 1 - p else (low, middle)
    return (low + high) / 2


def _incomplete_beta(a: float, b: float, x: float, rest: float) -> float:
    """I_x(a, b), where rest = 1 - x is given so that neither end loses digits."""
    if x <= 0 or rest <= 0:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):  # where the continued fraction converges fast
        return 1.0 - _incomplete_beta(b, a, rest, x)
    scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(rest)
    return math.exp(scale) * _continued_fraction(a, b, x) / a


def _continued_fraction(a: float, b: float, x: float) -> float:
    """Lentz's evaluation of the fraction in Abramowitz and Stegun, 26.5.8."""
    c, d = 1.0, 1.0 / _away_from_0(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, _STEPS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1.0 / _away_from_0(1 + term * d)
            c = _away_from_0(1 + term / c)
            value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return value


def _away_from_0(value: float) -> float:
    return value if abs(value) > _SMALLEST else _SMALLEST
