"""Which certified target to ask next: scores only. The safe mask is not an acquisition's business."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from safehold.core.constraint import Limit
from safehold.core.target import TargetSpace
from safehold.gp.confidence import ConfidenceBand
from safehold.gp.exact import GaussianProcess

_CHUNK = 2**17
"""Pairs (safe, unsafe) looked at in one go: 1 MiB of float64 a quantity, so that they stay in the cache."""


@dataclass(frozen=True, kw_only=True)
class CostView:
    """One limited cost: its belief, its running band, and what one more measurement would do to it.

    `scale` is what widths are measured against; `noise_variance` that of the next told mean; `next_alpha` the band
    multiplier after it.
    """

    limit: Limit
    process: GaussianProcess
    band: ConfidenceBand
    scale: float
    noise_variance: float
    next_alpha: float


@dataclass(frozen=True, kw_only=True)
class View:
    """All that an acquisition may look at."""

    space: TargetSpace
    reward: GaussianProcess
    reward_alpha: float
    costs: Mapping[str, CostView]
    safe: Bool[np.ndarray, "m"]
    support: Bool[np.ndarray, "m"]


@runtime_checkable
class Acquisition(Protocol):
    """Scores every candidate; the best-scored certified one is asked, the lowest number among equals."""

    def __call__(self, view: View) -> Float[np.ndarray, "m"]:
        """Larger is better; -inf: not wanted."""
        ...


def reward_ucb(view: View) -> Float[np.ndarray, "m"]:
    """mu_r + alpha_r sigma_r   [PLS, maximisation phase]."""
    return view.reward.mean + view.reward_alpha * view.reward.sd


def widest_interval(view: View) -> Float[np.ndarray, "m"]:
    """Width of the cost interval, in shares of the limit, at expanders; -inf elsewhere   [PLS, exploration phase]."""
    return np.where(expanders(view), relative_width(view), -np.inf)


def relative_width(view: View) -> Float[np.ndarray, "m"]:
    """U - l in shares of the limit, the widest over the limits."""
    return np.max([cost.band.width / cost.scale for cost in view.costs.values()], axis=0)


def expanders(view: View) -> Bool[np.ndarray, "m"]:
    """Safe candidates z whose measurement could certify another candidate.

    Were the mean l_N(z) measured at z, would the upper bound of some supported, not yet safe z' fall to every
    limit? Unlike [PLS, e_N], which asks l_N(z) - L d(z, z') <= b and at L = 0 holds for every safe z, so that
    "expander" would say nothing. (The question is that of SafeOpt-MC, Berkenkamp et al. 2016/2021.)
    """
    inside = np.flatnonzero(view.safe)
    outside = np.flatnonzero(view.support & ~view.safe)
    found = np.zeros(len(view.space), dtype=np.bool_)
    if len(outside) == 0:
        return found
    rows = max(1, _CHUNK // len(outside))
    for start in range(0, len(inside), rows):
        part = inside[start : start + rows]
        opened = np.ones((len(part), len(outside)), dtype=np.bool_)
        for cost in view.costs.values():
            opened &= _hypothetical_upper(cost, part, outside) <= cost.limit.value
        found[part] = opened.any(axis=1)
    return found


def _hypothetical_upper(
    cost: CostView, told: Int[np.ndarray, "p"], others: Int[np.ndarray, "q"]
) -> Float[np.ndarray, "p q"]:
    """Upper bounds at `others` if the mean l_N were measured at each of `told`: one rank-one update a row.

    mean' = mean + c (l - mean(z)) / (s^2(z) + noise), variance' = variance - c^2 / (s^2(z) + noise), c = cov(z, .).
    """
    process = cost.process
    covariance = process.covariances(told, others)
    predictive = process.variance[told] + cost.noise_variance
    optimism = (cost.band.lower[told] - process.mean[told]) / predictive
    mean = process.mean[others] + covariance * optimism[:, None]
    variance = np.maximum(process.variance[others] - covariance**2 / predictive[:, None], 0.0)
    return np.minimum(cost.band.upper[others], mean + cost.next_alpha * np.sqrt(variance))


def best(scores: Float[np.ndarray, "m"], safe: Bool[np.ndarray, "m"]) -> int:
    """The safe candidate with the largest score, the lowest number among equals."""
    return int(np.argmax(np.where(safe, scores, -np.inf)))
