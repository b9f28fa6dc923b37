"""The reward-cost frontier of logged episodes: which ones nothing else in the data beats."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from safehold.core.errors import DataError, UsageError
from safehold.data.dataset import OfflineDataset


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontier:
    """Episodes that no other one beats in reward return without paying more cost, by rising cost and reward.

    Among episodes of equal reward and cost return the first stands for all.
    """

    cost_name: str
    episodes: Int[np.ndarray, "f"]
    costs: Float[np.ndarray, "f"]
    rewards: Float[np.ndarray, "f"]

    def best_reward(self, limit: float) -> float:
        """Largest logged reward return at a cost return of at most `limit`.

        Raises:
            DataError: if no logged episode keeps the limit; that is no reward, not a small one.
        """
        place = int(np.searchsorted(self.costs, limit, side="right")) - 1
        if not (place >= 0 and self.costs[place] <= limit):
            raise DataError(
                f"no logged episode has {self.cost_name} <= {limit}; the cheapest has {self.costs[0]}. "
                "Raise the limit, or log episodes that keep it"
            )
        return float(self.rewards[place])


def pareto(rewards: Float[np.ndarray, "n"], costs: Float[np.ndarray, "n"]) -> Int[np.ndarray, "f"]:
    """Numbers of the points that no other point dominates (reward >= and cost <=, one of them strictly).

    In order of rising cost, and so of rising reward; of equal points only the first.
    """
    order = np.lexsort((np.arange(len(costs)), -rewards, costs))
    best_before = np.concatenate([[-np.inf], np.maximum.accumulate(rewards[order])[:-1]])
    return order[rewards[order] > best_before]


def frontier(dataset: OfflineDataset, cost: str | None = None) -> Frontier:
    """The frontier of one named cost; the name may be left out if there is only one."""
    column = cost_column(dataset, cost)
    episodes = pareto(dataset.reward_returns, dataset.cost_returns[:, column])
    return Frontier(
        cost_name=dataset.spec.cost_names[column],
        episodes=episodes,
        costs=dataset.cost_returns[episodes, column],
        rewards=dataset.reward_returns[episodes],
    )


def cost_column(dataset: OfflineDataset, cost: str | None) -> int:
    """Column of a named cost.

    Raises:
        UsageError: if there is no such cost, or several and none is named.
    """
    names = dataset.spec.cost_names
    if cost is None and len(names) == 1:
        return 0
    if cost not in names:
        raise UsageError(f"cost={cost!r}: name one of {names}")
    return names.index(cost)


FRONTIER_DEGREES = (0, 1, 2)
"""Degrees tried for a polynomial through the frontier, the lowest first.   [OSRL]"""

FRONTIER_FIT = 0.9
"""Share of the rewards' variance along the frontier that a degree must explain to be enough.   [OSRL]"""


def frontier_reward(dataset: OfflineDataset, cost: str | None = None) -> np.polynomial.Polynomial:
    """Reward return along the frontier as a polynomial of the cost return, of the lowest degree that is enough.

    With too few different costs for a degree, or one reward all along, the degrees before are all there are.
    """
    edge = frontier(dataset, cost)
    most = len(np.unique(edge.costs)) - 1
    spread = float(np.sum((edge.rewards - edge.rewards.mean()) ** 2))
    for degree in FRONTIER_DEGREES[: most + 1]:
        fitted = np.polynomial.Polynomial.fit(edge.costs, edge.rewards, degree)
        left = float(np.sum((edge.rewards - fitted(edge.costs)) ** 2))
        if left <= (1.0 - FRONTIER_FIT) * spread:
            break
    return fitted
