"""L1-penalised logistic regression with soft labels in a few coefficients: exact, and many problems at a time.

scikit-learn's liblinear stops at a loose tolerance and wants every row twice to express a soft label; with two or three
coefficients a proximal Newton method solves each step exactly, so a fit takes a millisecond and a bootstrap of refits
is one call.
"""

from itertools import product

import numpy as np

from icr_platform.core.arrays import Floats

_MOST_STEPS = 100
_MOST_HALVINGS = 40
_TOLERANCE = 1e-10


def fit_l1_logistic(
    features: Floats, targets: Floats, weights: Floats, penalty: Floats, start: Floats | None = None
) -> Floats:
    """Coefficients [B, K] that minimise `penalty * |b|_1 + sum_i w_i (log(1 + exp(x_i b)) - y_i x_i b)`, no intercept.

    With penalty = 1 / C this is scikit-learn's `LogisticRegression(penalty="l1", C=C, fit_intercept=False)`.

    Args:
        features: [B or 1, n, K], K at most 3 or so: each step tries all 3 ** K sign patterns.
        targets: [B or 1, n] probabilities in [0, 1].
        weights: [B or 1, n], at least 0.
        penalty: [B], above 0.
        start: [K] or [B, K] coefficients to begin from; zeros when left out.
    """
    size = features.shape[-1]
    current = np.zeros((len(penalty), size))
    if start is not None:
        current += start
    loss, slope, curvature = _loss(features, targets, weights, penalty, current)
    for _ in range(_MOST_STEPS):
        goal = _solve_quadratic(current, slope, curvature, penalty)
        if np.abs(goal - current).max(initial=0.0) <= _TOLERANCE:
            return goal
        candidate = goal
        for _ in range(_MOST_HALVINGS):
            new_loss, slope, curvature = _loss(features, targets, weights, penalty, candidate)
            # A full Newton step can overshoot where the logistic is nearly flat; half of it, and half again, until it helps.
            worse = new_loss > loss + 1e-12 * np.abs(loss)
            if not worse.any():
                break
            candidate = np.where(worse[:, None], (candidate + current) / 2, candidate)
        current, loss = candidate, new_loss
    return current


def logistic(score: Floats) -> Floats:
    """1 / (1 + exp(-score)) without overflow."""
    small = np.exp(-np.abs(score))
    probability: Floats = np.where(score >= 0, 1.0, small) / (1.0 + small)
    return probability


def _loss(
    features: Floats, targets: Floats, weights: Floats, penalty: Floats, coefficients: Floats
) -> tuple[Floats, Floats, Floats]:
    """Penalised loss [B], and slope [B, K] and curvature [B, K, K] of its smooth part."""
    score = (features @ coefficients[:, :, None])[..., 0]
    # exp of the negative magnitude never overflows; the cost log(1 + exp(s)) - y s is written with the same number.
    small = np.exp(-np.abs(score))
    probability = np.where(score >= 0, 1.0, small) / (1.0 + small)
    cost = np.maximum(score, 0.0) + np.log1p(small) - targets * score
    loss = (weights * cost).sum(axis=-1) + penalty * np.abs(coefficients).sum(axis=-1)
    transposed = features.swapaxes(-1, -2)
    slope = (transposed @ (weights * (probability - targets))[..., None])[..., 0]
    curvature = (transposed * (weights * probability * (1.0 - probability))[..., None, :]) @ features
    return loss, slope, curvature


def _solve_quadratic(current: Floats, slope: Floats, curvature: Floats, penalty: Floats) -> Floats:
    """Exact minimiser [B, K] of the second-order model plus the L1 penalty.

    The minimiser is stationary on its own orthant, so it is the best of the stationary points of all sign patterns.
    """
    size = current.shape[1]
    signs = np.array(list(product((-1.0, 0.0, 1.0), repeat=size)))
    active = np.abs(signs)
    # Rounding can leave the curvature of a saturated fit singular; the damping is far below the penalty's effect.
    damped = curvature + 1e-10 * (1.0 + np.trace(curvature, axis1=1, axis2=2))[:, None, None] * np.eye(size)
    linear = (damped @ current[:, :, None])[..., 0] - slope
    # One linear system for each sign pattern, all in one call: coefficients that the pattern sets to 0 get the row of the identity.
    system = damped[:, None] * active[:, :, None] * active[:, None, :] + np.eye(size) * (1.0 - active)[:, :, None]
    right = active * (linear[:, None] - penalty[:, None, None] * signs)
    points = np.linalg.solve(system, right[..., None])[..., 0]
    value = 0.5 * ((points @ damped) * points).sum(axis=-1) - (points * linear[:, None]).sum(axis=-1)
    value += penalty[:, None] * np.abs(points).sum(axis=-1)
    return np.take_along_axis(points, value.argmin(axis=1)[:, None, None], axis=1)[:, 0]
