"""Intervals that hold at every number of episodes at once: one may look after each, and stop when one likes."""

import math

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import betaln, xlog1py, xlogy

from safehold.core.errors import DataError, UsageError
from safehold.core.intervals import Interval
from safehold.deploy.betting import FRACTIONS, Hypothesis, log_factors, log_mixture, missing_episodes, probability

_HALVINGS = 60


def violation_sequence(violated: Bool[np.ndarray, "n"], level: float = 0.95) -> Interval:
    """Bounds of the probability of violation, from episodes in the order they ran.

    P(the probability lies outside at any n) <= 1 - level. Intersection of `violation_bounds` over 1 .. n episodes; both
    bounds are NaN if it is empty, which contradicts that all episodes have one probability. Count an episode that
    failed as violated.
    """
    counts, n = np.cumsum(violated), len(violated)
    lows, highs = violation_bounds(counts, np.arange(1, n + 1), level)
    return _interval(
        float(np.mean(violated)) if n else math.nan,
        float(np.max(lows, initial=0.0)),
        float(np.min(highs, initial=1.0)),
        level,
        n,
    )


def violation_bounds(
    violations: Int[np.ndarray, "k"], n: Int[np.ndarray, "k"], level: float = 0.95
) -> tuple[Float[np.ndarray, "k"], Float[np.ndarray, "k"]]:
    """Lower and upper bounds of a probability p after s violations in n episodes, each valid for all n together.

    Those p for which the mixture of likelihoods over Jeffreys' prior is less than 1 / (1 - level) times p's own:
    B(s + 1/2, n - s + 1/2) / B(1/2, 1/2) < p^s (1 - p)^(n - s) / (1 - level)   [Robbins 1970, beta mixture].

    Raises:
        UsageError: unless 0 <= s <= n and 0 < level < 1.
    """
    probability("level", level)
    if np.any((violations < 0) | (violations > n)):
        raise UsageError(f"{violations} violations in {n} episodes; 0 <= violations <= episodes")
    s, clean = violations.astype(np.float64), (n - violations).astype(np.float64)
    least = betaln(s + 0.5, clean + 0.5) - betaln(0.5, 0.5) + math.log1p(-level)
    observed = np.divide(s, np.maximum(n, 1))

    def search(outside: float) -> Float[np.ndarray, "k"]:
        """The end on this side; the likelihood falls from `observed` to `outside`."""
        far, near = np.full(len(s), outside), np.where(n > 0, observed, outside)
        for _ in range(_HALVINGS):
            middle = 0.5 * (far + near)
            plausible = xlogy(s, middle) + xlog1py(clean, -middle) > least
            far, near = np.where(plausible, far, middle), np.where(plausible, middle, near)
        return far

    return search(0.0), search(1.0)


def mean_cost_sequence(
    costs: Float[np.ndarray, "n"], cap: float, level: float = 0.95, failed: Bool[np.ndarray, "_"] | None = None
) -> Interval:
    """Bounds of the mean cost of independent episodes with costs in [0, cap], in the order they ran.

    P(the mean lies outside at any n) <= 1 - level, half of it on either side: those means against which neither bet
    has come to 2 / (1 - level) yet [hedged capital, Waudby-Smith & Ramdas 2024, Theorem 3; with the bets of
    `Capital`]. A failed or missing episode counts as the cap for the upper bound and the estimate, as 0 for the lower
    bound. Both bounds are NaN if every mean is refuted, which contradicts that all episodes have one mean.

    Raises:
        DataError: if a cost is negative or above the cap, or costs and marks differ in number.
    """
    delta = 0.5 * (1 - probability("level", level))
    dearest = _filled(costs, cap, failed, cap)
    return _interval(
        float(np.mean(dearest)) if len(costs) else math.nan,
        _end("safe", _filled(costs, cap, failed, 0.0), cap, delta),
        _end("unsafe", dearest, cap, delta),
        level,
        len(costs),
    )


def average_sequence(
    costs: Float[np.ndarray, "n"], cap: float, level: float = 0.95, failed: Bool[np.ndarray, "_"] | None = None
) -> Interval:
    """Bounds of the average of expected costs of the episodes that ran, which may all differ: targets do, worlds drift.

    With costs x_t in [0, cap], in units of it, expectations m_t given all that went before, and any guess g_t made
    before x_t: exp(a sum (x_t - m_t) - (-ln(1 - a) - a) sum (x_t - g_t)^2) is a nonnegative supermartingale from 1
    for every a in [0, 1), and so is the same of 1 - x_t   [Fan, Grama & Liu 2015; Howard et al. 2021, Theorem 4].
    Mixed over a = 0.9 times `FRACTIONS`; g_t is the mean so far. P(the average of m_1 .. m_n lies outside at any n)
    <= 1 - level. A failed or missing episode counts as the cap for the upper bound and the estimate, as 0 for the
    lower bound.

    Raises:
        DataError: if a cost is negative or above the cap, or costs and marks differ in number.
    """
    delta = 0.5 * (1 - probability("level", level))
    n = len(costs)
    dearest, cheapest = (_filled(costs, cap, failed, value) / cap for value in (cap, 0.0))
    if n == 0:
        return _interval(math.nan, 0.0, cap, level, 0)
    low = float(np.mean(cheapest)) - _deviation(cheapest, delta) / n
    high = float(np.mean(dearest)) + _deviation(dearest, delta) / n
    return _interval(cap * float(np.mean(dearest)), cap * max(low, 0.0), cap * min(high, 1.0), level, n)


def _deviation(shares: Float[np.ndarray, "n"], delta: float) -> float:
    """Least s at which the mixture of `average_sequence` comes to 1 / delta: sum (x_t - m_t) stays below it."""
    n = len(shares)
    guesses = (0.5 + np.concatenate([[0.0], np.cumsum(shares)[:-1]])) / np.arange(1, n + 1)
    spread = float(np.sum((shares - guesses) ** 2))
    slopes = 0.9 * FRACTIONS
    fixed = -(-np.log1p(-slopes) - slopes) * spread
    inside, outside = 0.0, float(n)
    for _ in range(_HALVINGS):
        middle = 0.5 * (inside + outside)
        if float(log_mixture(slopes * middle + fixed)) >= -math.log(delta):
            outside = middle
        else:
            inside = middle
    return outside


def mean_cost_upper(
    costs: Float[np.ndarray, "n"], cap: float, delta: float, failed: Bool[np.ndarray, "_"] | None = None
) -> float:
    """Upper bound of the mean cost, valid at every n together with probability 1 - delta; the cap before evidence.

    The least limit that `verify_seed` verifies with the same costs, cap and delta, up to cap * 2^-60.

    Raises:
        DataError: if a cost is negative or above the cap, or costs and marks differ in number.
    """
    return _end("unsafe", _filled(costs, cap, failed, cap), cap, probability("delta", delta))


def _end(hypothesis: Hypothesis, scores: Float[np.ndarray, "n"], cap: float, delta: float) -> float:
    """The outermost mean not refuted yet, by bisection: capital is monotone in the mean it bets against."""
    far, near = (cap, 0.0) if hypothesis == "unsafe" else (0.0, cap)
    for _ in range(_HALVINGS):
        middle = 0.5 * (far + near)
        if middle in (far, near):  # no number lies between: at the cap itself a bet against it has no stake
            break
        path = log_mixture(np.cumsum(log_factors(hypothesis, scores, middle, cap), axis=0))
        if float(np.max(path, initial=0.0)) >= -math.log(delta):
            far = middle
        else:
            near = middle
    return far


def _filled(
    costs: Float[np.ndarray, "n"], cap: float, failed: Bool[np.ndarray, "_"] | None, value: float
) -> Float[np.ndarray, "n"]:
    if not (math.isfinite(cap) and cap > 0):
        raise UsageError(f"cap is {cap}; the largest possible cost of an episode is finite and above 0")
    missing = missing_episodes(costs, failed)
    over = ~missing & (costs > cap)
    if over.any():
        place = int(np.argmax(over))
        raise DataError(
            f"cost of episode {place} is {costs[place]}, above the declared cap {cap}; bounds rest on the cap"
        )
    return np.where(missing, value, costs)


def _interval(estimate: float, low: float, high: float, level: float, n: int) -> Interval:
    if low > high:
        low = high = math.nan
    return Interval(estimate=estimate, low=low, high=high, level=level, n=n)
