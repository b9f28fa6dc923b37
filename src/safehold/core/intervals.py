"""Intervals around what was measured: no number is shown without how sure it is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import betaincinv, stdtrit

from safehold.core.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate and the interval around it; both bounds are NaN where the data cannot give one (n < 2)."""

    estimate: float
    low: float
    high: float
    level: float
    n: int

    @property
    def known(self) -> bool:
        """True if the data gave an interval."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def __str__(self) -> str:
        if self.n == 0:
            return "no data"
        if not self.known:
            return f"{self.estimate:.4g} (n = {self.n})"
        return f"{self.estimate:.4g} [{self.low:.4g}, {self.high:.4g}]"


def mean_interval(values: Float[np.ndarray, "n"], level: float = 0.95) -> Interval:
    """Student's interval of the mean of independent episodes: mean +- t_{n-1} s / sqrt(n).

    A value that is not finite makes the whole interval unknown; it is never left out.
    """
    _check_level(level)
    n = len(values)
    mean = float(np.mean(values)) if n else math.nan
    if n < 2 or not np.all(np.isfinite(values)):
        return Interval(estimate=mean, low=math.nan, high=math.nan, level=level, n=n)
    half = float(stdtrit(n - 1, 0.5 + level / 2)) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return Interval(estimate=mean, low=mean - half, high=mean + half, level=level, n=n)


def bootstrap_interval(
    groups: Sequence[Float[np.ndarray, "_"]], rng: np.random.Generator, *, level: float = 0.95, draws: int = 2000
) -> Interval:
    """Percentile interval of the mean of the groups' means: groups are drawn anew, then the entries of each.

    For episodes of several seeds: a group a seed. A single group cannot tell how seeds differ; its interval is that of
    its entries alone. `n` counts groups. A value that is not finite makes the whole interval unknown.
    """
    _check_level(level)
    if not groups or any(len(group) == 0 for group in groups):
        raise UsageError("a bootstrap needs groups with an entry each")
    estimate = float(np.mean([np.mean(group) for group in groups]))
    if not all(np.all(np.isfinite(group)) for group in groups):
        return Interval(estimate=math.nan, low=math.nan, high=math.nan, level=level, n=len(groups))
    chosen = rng.integers(len(groups), size=(draws, len(groups)))
    means = np.empty(chosen.shape)
    for number, group in enumerate(groups):
        places = chosen == number
        entries = rng.integers(len(group), size=(int(places.sum()), len(group)))
        means[places] = group[entries].mean(axis=1)
    drawn = means.mean(axis=1)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate=estimate, low=float(low), high=float(high), level=level, n=len(groups))


def ratio_interval(
    sums: Float[np.ndarray, "n"],
    counts: Float[np.ndarray, "n"],
    rng: np.random.Generator,
    *,
    level: float = 0.95,
    draws: int = 2000,
) -> Interval:
    """Percentile interval of sum(sums) / sum(counts), where whole units are drawn anew.

    For a mean over all steps where an episode, or a behaviour policy, is what there are independent ones of: a unit's
    sum over its steps, and how many those are. A value that is not finite makes the whole interval unknown.
    """
    _check_level(level)
    n = len(sums)
    if n == 0 or n != len(counts) or not np.all(counts > 0):
        raise UsageError(f"{n} sums and {len(counts)} counts: expected as many, one or more, and counts above zero")
    estimate = float(np.sum(sums) / np.sum(counts))
    if n < 2 or not np.all(np.isfinite(sums)):
        return Interval(estimate=estimate, low=math.nan, high=math.nan, level=level, n=n)
    chosen = rng.integers(n, size=(draws, n))
    ratios = sums[chosen].sum(axis=1) / counts[chosen].sum(axis=1)
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate=estimate, low=float(low), high=float(high), level=level, n=n)


def interquartile_interval(
    tasks: Sequence[Float[np.ndarray, "_"]], rng: np.random.Generator, *, level: float = 0.95, draws: int = 2000
) -> Interval:
    """Percentile interval of the interquartile mean of all runs of all tasks, runs drawn anew task by task.

    The mean of what is left when the lowest and the highest quarter of the scores, rounded down, are put aside: one
    task, or one seed, that went very well or very wrong does not decide.   [Agarwal et al., arXiv 2108.13264] An entry
    a task, a value a run; `n` counts runs. With fewer than two runs a task there is no interval, and a value that is
    not finite makes all of it unknown.
    """
    _check_level(level)
    if not tasks or any(len(runs) == 0 for runs in tasks):
        raise UsageError("an interquartile mean needs tasks with a run each")
    pooled = np.concatenate(list(tasks))
    if not np.all(np.isfinite(pooled)):
        return Interval(estimate=math.nan, low=math.nan, high=math.nan, level=level, n=len(pooled))
    estimate = float(_interquartile_mean(pooled))
    if min(len(runs) for runs in tasks) < 2:
        return Interval(estimate=estimate, low=math.nan, high=math.nan, level=level, n=len(pooled))
    drawn = np.concatenate([runs[rng.integers(len(runs), size=(draws, len(runs)))] for runs in tasks], axis=1)
    low, high = np.quantile(_interquartile_mean(drawn), [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate=estimate, low=float(low), high=float(high), level=level, n=len(pooled))


def _interquartile_mean(values: Float[np.ndarray, "*rows n"]) -> Float[np.ndarray, "*rows"]:
    aside = values.shape[-1] // 4
    return np.asarray(np.sort(values, axis=-1)[..., aside : values.shape[-1] - aside].mean(axis=-1))


def proportion_interval(successes: int, n: int, level: float = 0.95) -> Interval:
    """The exact interval of a proportion [Clopper & Pearson 1934], two-sided."""
    _check_level(level)
    if not 0 <= successes <= n:
        raise UsageError(f"{successes} of {n} is not a proportion")
    if n == 0:
        return Interval(estimate=math.nan, low=0.0, high=1.0, level=level, n=0)
    tail = (1 - level) / 2
    low = 0.0 if successes == 0 else float(betaincinv(successes, n - successes + 1, tail))
    high = 1.0 if successes == n else float(betaincinv(successes + 1, n - successes, 1 - tail))
    return Interval(estimate=successes / n, low=low, high=high, level=level, n=n)


def proportion_upper(successes: int, n: int, level: float = 0.95) -> float:
    """One-sided upper bound of a proportion: "0 of 20 unsafe" still allows 14 % at 95 % confidence."""
    _check_level(level)
    if not 0 <= successes <= n:
        raise UsageError(f"{successes} of {n} is not a proportion")
    return 1.0 if successes == n else float(betaincinv(successes + 1, n - successes, level))


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise UsageError(f"level is {level}; a confidence level lies between 0 and 1")
