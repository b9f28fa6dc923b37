"""Which certified target to ask next: scores only. The safe mask is not an acquisition's business."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from safehold.core.constraint import Limit
from safehold.core.target import TargetSpace
from safehold.gp.confidence import ConfidenceBand
from safehold.gp.mixture import Mixture
from safehold.ledger.events import Phase

AcquisitionName = Literal["staged", "reward_ucb", "goal", "widest"]

_PAIRS = 2**17
"""Pairs (safe, unsafe) up to which all are looked at for expanders, in one go."""
_NEAREST, _WIDEST, _ROWS = 128, 256, 32
"""On a larger dial: so many unsafe candidates are looked at, with so many safe ones, so many of those in one go."""


@dataclass(frozen=True, kw_only=True)
class CostView:
    """One limited cost: its belief, its interval, and what one more measurement would do to it.

    With open trials the belief is as if they came out as foretold: it may choose, and never certifies. `scale` is
    what widths are measured against; `noise_variance` that of the next told statistic at every candidate; `reach` the
    multiplier of standard deviations under the limit at which a candidate would be certified after it, and `kept` an
    upper bound that certifies as well and stays, whatever is measured (+inf for rules without one).
    """

    limit: Limit
    process: Mixture
    band: ConfidenceBand
    scale: float
    noise_variance: Float[np.ndarray, "m"]
    reach: float
    kept: Float[np.ndarray, "m"]


@dataclass(frozen=True, kw_only=True)
class View:
    """All that an acquisition may look at.

    `safe` is what is certified now; `choices` the part of it that may be asked (in the context that the world has
    fixed). `number` counts the asks so far; `may_explore` says whether the budget for exploring lasts;
    `exploration_width` is zeta, in shares of a limit.
    """

    space: TargetSpace
    reward: Mixture
    reward_alpha: float
    reward_scale: float
    costs: Mapping[str, CostView]
    safe: Bool[np.ndarray, "m"]
    choices: Bool[np.ndarray, "m"]
    support: Bool[np.ndarray, "m"]
    number: int
    may_explore: bool
    exploration_width: float


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """Scores of all candidates, larger is better; what they are for; how many expanders were found, if looked for."""

    scores: Float[np.ndarray, "m"]
    phase: Phase
    n_expanders: int | None = None


@runtime_checkable
class Acquisition(Protocol):
    """Scores every candidate; the best-scored certified one is asked, the lowest number among equals."""

    def __call__(self, view: View) -> Proposal:
        """What to ask next, and why; -inf: not wanted."""
        ...


def staged(view: View) -> Proposal:
    """Explores while its budget lasts and an expander is wider than zeta; otherwise reward UCB   [PLS, Alg. 1].

    Unlike there, exploring resumes when a later measurement makes a new expander, as long as its budget lasts.
    """
    if not view.may_explore:
        return Proposal(scores=upper_reward(view), phase="maximise")
    grows, widths = expanders(view), relative_width(view)
    wide = grows & view.choices & (widths > view.exploration_width)
    count = int(np.sum(grows))
    if wide.any():
        return Proposal(scores=np.where(wide, widths, -np.inf), phase="explore", n_expanders=count)
    return Proposal(scores=upper_reward(view), phase="maximise", n_expanders=count)


def reward_ucb(view: View) -> Proposal:
    """mu_r + alpha_r sigma_r from the start: grows the certified set only as a by-product."""
    return Proposal(scores=upper_reward(view), phase="maximise")


def goal(view: View) -> Proposal:
    """Every second ask learns about the best target that may yet turn out certifiable; otherwise reward UCB.

    The goal is the supported, not certified candidate of largest reward UCB among those whose lower cost bounds are
    at or under every limit. While it beats the best certified one by more than zeta times the reward's dial error,
    every second ask is the certified candidate that would tell most about the goal's costs.
    [The idea of GoOSE, Turchetta et al. 2019]
    """
    scores = upper_reward(view)
    hopeful = view.support & ~view.safe
    for cost in view.costs.values():
        hopeful &= (cost.band.lower <= cost.limit.value) & np.isfinite(cost.reach)
    if view.number % 2 == 0 or not (view.may_explore and hopeful.any() and view.choices.any()):
        return Proposal(scores=scores, phase="maximise")
    aim = best(scores, hopeful)
    gap = float(scores[aim] - np.max(scores[view.choices]))
    if not gap > view.exploration_width * view.reward_scale:
        return Proposal(scores=scores, phase="maximise")
    return Proposal(scores=information(view, aim), phase="explore")


def widest(view: View) -> Proposal:
    """Always the widest expander; the widest certified candidate where none expands."""
    grows, widths = expanders(view), relative_width(view)
    usable = grows & view.choices
    scores = np.where(usable, widths, -np.inf) if usable.any() else widths
    return Proposal(scores=scores, phase="explore", n_expanders=int(np.sum(grows)))


ACQUISITIONS: dict[AcquisitionName, Acquisition] = {
    "staged": staged,
    "reward_ucb": reward_ucb,
    "goal": goal,
    "widest": widest,
}
"""Acquisitions by the name they have in a declaration."""


def upper_reward(view: View) -> Float[np.ndarray, "m"]:
    """mu_r + alpha_r sigma_r   [PLS, maximisation phase]."""
    return view.reward.mean + view.reward_alpha * view.reward.sd


def relative_width(view: View) -> Float[np.ndarray, "m"]:
    """U - l in shares of the limit, the widest over the limits."""
    return np.max([cost.band.width / cost.scale for cost in view.costs.values()], axis=0)


def information(view: View, aim: int) -> Float[np.ndarray, "m"]:
    """By how much a measurement at each candidate would lower the variance of the costs at `aim`.

    sum_k cov_k(z, aim)^2 / (s_k^2(z) + noise_k(z)), in shares of the limits.
    """
    total = np.zeros(len(view.space))
    for cost in view.costs.values():
        predictive = cost.process.variance + cost.noise_variance
        total += cost.process.column(aim) ** 2 / (predictive * cost.scale**2)
    return total


def expanders(view: View) -> Bool[np.ndarray, "m"]:
    """Safe candidates z whose measurement could certify another candidate.

    Were the lower bound l_N(z) measured at z, would the upper bound of some supported, not yet safe z' fall to every
    limit? Unlike [PLS, e_N], which asks l_N(z) - L d(z, z') <= b and at L = 0 holds for every safe z, so that
    "expander" would say nothing. (The question is that of SafeOpt-MC, Berkenkamp et al. 2016/2021.)

    On a dial of more than 2^17 pairs (z, z') a search for the widest: from the widest safe candidate that may be asked
    downwards, those after the first against the unsafe ones that miss least, until some expand. What it finds does
    expand; it may miss some.
    """
    inside = np.flatnonzero(view.safe)
    outside = np.flatnonzero(view.support & ~view.safe)
    found = np.zeros(len(view.space), dtype=np.bool_)
    if len(outside) == 0 or not all(np.isfinite(cost.reach) for cost in view.costs.values()):
        return found
    if len(inside) * len(outside) <= _PAIRS:
        found[inside] = _opens(view, inside, outside)
        return found
    choices = np.flatnonzero(view.safe & view.choices)
    choices = _smallest(-relative_width(view)[choices], choices, _WIDEST)
    start, rows = 0, 1
    while start < len(choices) and not found.any():
        if start == 1:
            outside = _smallest(_misses(view, outside), outside, _NEAREST)
        part = choices[start : start + rows]
        found[part] = _opens(view, part, outside)
        start, rows = start + rows, _ROWS
    return found


def _opens(view: View, told: Int[np.ndarray, "p"], others: Int[np.ndarray, "q"]) -> Bool[np.ndarray, "p"]:
    """Whether a lucky measurement at each of `told` would bring some of `others` under all limits at once."""
    opened = np.ones((len(told), len(others)), dtype=np.bool_)
    for cost in view.costs.values():
        opened &= _hypothetical_upper(cost, told, others) <= cost.limit.value
    return np.any(opened, axis=1)


def _misses(view: View, others: Int[np.ndarray, "q"]) -> Float[np.ndarray, "q"]:
    """By how much the bound after one more measurement, had that no effect, would miss a limit; the worst, scaled."""
    misses = []
    for cost in view.costs.values():
        upper = cost.process.mean[others] + cost.reach * np.sqrt(cost.process.variance[others])
        misses.append((np.minimum(cost.kept[others], upper) - cost.limit.value) / cost.scale)
    return np.max(misses, axis=0)


def _smallest(values: Float[np.ndarray, "n"], places: Int[np.ndarray, "n"], count: int) -> Int[np.ndarray, "k"]:
    """Of these places, `count` with the smallest values, in that order; the lowest number among equals."""
    if len(places) > count:
        near = values <= np.partition(values, count - 1)[count - 1]
        values, places = values[near], places[near]
    return places[np.argsort(values, kind="stable")[:count]]


def _hypothetical_upper(
    cost: CostView, told: Int[np.ndarray, "p"], others: Int[np.ndarray, "q"]
) -> Float[np.ndarray, "p q"]:
    """Upper bounds at `others` if l_N were measured at each of `told`: one rank-one update a row.

    mean' = mean + c (l - mean(z)) / (s^2(z) + noise), variance' = variance - c^2 / (s^2(z) + noise), c = cov(z, .).
    Of a mixture these are moments, and its weights stay: a guess, which certifies nothing.
    """
    process = cost.process
    single = len(told) == 1  # a whole column costs less than a block
    covariance = process.column(int(told[0]))[None, others] if single else process.covariances(told, others)
    predictive = process.variance[told] + cost.noise_variance[told]
    optimism = (cost.band.lower[told] - process.mean[told]) / predictive
    mean = process.mean[others] + covariance * optimism[:, None]
    variance = np.maximum(process.variance[others] - covariance**2 / predictive[:, None], 0.0)
    return np.minimum(cost.kept[others], mean + cost.reach * np.sqrt(variance))


def best(scores: Float[np.ndarray, "m"], among: Bool[np.ndarray, "m"]) -> int:
    """Of these candidates, at least one, that with the largest score; the lowest number among equals."""
    places = np.flatnonzero(among)
    return int(places[np.argmax(scores[places])])
