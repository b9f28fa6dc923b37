"""Logged episodes told again with better returns than they had, for policies that are conditioned on returns.

[CDT, arXiv 2302.07351, Sec. 4.3 and Appendix; constants as in OSRL]
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from safehold.core.errors import UsageError
from safehold.data.frontier import pareto

CELLS = (10, 50)
"""Parts that the ranges of cost and reward returns are cut into before the frontier is looked for.   [OSRL]"""

MOST, LEAST = 10, 3
"""Episodes kept of a cell; a cell with fewer than the least is left out, as one of outliers.   [OSRL]"""


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Further episodes: A logged ones, whose to-go values are raised by a constant each; nothing else differs.

    `episodes`: which; `reward` and `costs`: what is added to every reward-to-go and cost-to-go, in environment units.
    """

    episodes: Int[np.ndarray, "A"]
    reward: Float[np.ndarray, "A"]
    costs: Float[np.ndarray, "A k"]

    def __len__(self) -> int:
        """How many."""
        return len(self.episodes)

    @staticmethod
    def none(costs: int) -> "Augmentation":
        """No further episodes, for so many named costs."""
        return Augmentation(np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros((0, costs)))


def beyond_frontier(
    reward: Float[np.ndarray, "E"],
    cost: Float[np.ndarray, "E"],
    *,
    share: float,
    degree: int,
    margin: float,
    top: float,
    slack: float,
    rng: np.random.Generator,
) -> Augmentation:
    """Targets above the Pareto frontier of what was logged, each given to a logged episode that costs no more.

    Of the episodes that `thinned` keeps, the frontier of high reward at low cost is fitted by a polynomial R(C). Then
    floor(share * kept) targets: costs evenly from the least to the largest kept, rewards uniform between
    R(C) + margin and `top`. Each is given to the nearest kept episode that costs no more than the target, and where
    several targets would get one episode, to that one once, and else to others that cost no more than it and earn at
    most `slack` less, the nearer the likelier (1 / (1 + distance), in environment units).

    Unlike OSRL, a target stays with the episode that was found for it (there they are paired anew by order), and a
    degree is lowered to what the frontier's points can bear.

    Args:
        reward: reward returns.
        cost: cost returns; of one cost, the frontier has two sides.
        share: new episodes as a share of the kept ones.
        degree: of the polynomial.
        margin: least distance of a new reward from the frontier.
        top: the largest new reward; R(C) + margin itself where that is above.
        slack: see above.
        rng: draws what is kept of a cell, rewards and replacements.

    Raises:
        UsageError: if fewer than two episodes are kept.
    """
    kept = np.flatnonzero(thinned(reward, cost, rng))
    if len(kept) < 2:
        raise UsageError(
            f"{len(kept)} of {len(reward)} episodes lie in cells with {LEAST} or more; the frontier of returns cannot "
            "be fitted, so train without augmentation"
        )
    r, c = reward[kept], cost[kept]
    best = pareto(r, c)
    fitted = np.polynomial.Polynomial.fit(c[best], r[best], min(degree, len(np.unique(c[best])) - 1))
    count = int(share * len(kept))
    costs = np.linspace(c.min(), c.max(), count)
    low = fitted(costs) + margin
    rewards = low + (np.maximum(top, low) - low) * rng.random(count)
    chosen = _hosts(r, c, rewards, costs, slack, rng)
    return Augmentation(kept[chosen], rewards - r[chosen], (costs - c[chosen])[:, None])


def thinned(
    reward: Float[np.ndarray, "E"], cost: Float[np.ndarray, "E"], rng: np.random.Generator
) -> Bool[np.ndarray, "E"]:
    """Of every cell of the cost-reward plane at most `MOST` episodes, drawn; none of a cell with less than `LEAST`."""
    cells = np.zeros(len(reward), dtype=np.int64)
    for values, parts in zip((cost, reward), CELLS, strict=True):
        low, width = values.min(), np.ptp(values)
        places = np.floor((values - low) / (width if width > 0 else 1.0) * parts).astype(np.int64)
        cells = cells * parts + np.minimum(places, parts - 1)
    keep = np.zeros(len(reward), dtype=np.bool_)
    for cell in np.unique(cells):
        inside = np.flatnonzero(cells == cell)
        if len(inside) >= LEAST:
            keep[rng.permutation(inside)[:MOST]] = True
    return keep


def _hosts(
    r: Float[np.ndarray, "K"],
    c: Float[np.ndarray, "K"],
    rewards: Float[np.ndarray, "A"],
    costs: Float[np.ndarray, "A"],
    slack: float,
    rng: np.random.Generator,
) -> Int[np.ndarray, "A"]:
    """For every target the episode that bears it; all cost no more than their target."""
    distance = np.hypot(rewards[:, None] - r, costs[:, None] - c)
    nearest = np.argmin(np.where(c <= costs[:, None], distance, np.inf), axis=1)
    chosen, seen = nearest.copy(), set[int]()
    for target, host in enumerate(nearest):
        if int(host) in seen:
            others = np.flatnonzero((c <= c[host]) & (r >= r[host] - slack))
            weights = 1.0 / (1.0 + np.hypot(r[others] - r[host], c[others] - c[host]))
            chosen[target] = rng.choice(others, p=weights / weights.sum())
        seen.add(int(host))
    return chosen
