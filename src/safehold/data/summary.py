"""The numbers of a dataset: how many, how long, how much reward and cost, and where in that plane there is data."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from safehold.core.errors import DataError, UsageError
from safehold.data.dataset import OfflineDataset
from safehold.data.frontier import cost_column, frontier

MOST_COST_VALUES = 8
"""A cost with more different values per step than this is summarised by its range."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantiles:
    """Where the values lie; linear interpolation between order statistics."""

    minimum: float
    q05: float
    q25: float
    median: float
    q75: float
    q95: float
    maximum: float
    mean: float

    @staticmethod
    def of(values: Float[np.ndarray, "n"] | Int[np.ndarray, "n"]) -> "Quantiles":
        """Of at least one value."""
        levels = np.quantile(values, [0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0])
        low, q05, q25, median, q75, q95, high = (float(level) for level in levels)
        return Quantiles(
            minimum=low, q05=q05, q25=q25, median=median, q75=q75, q95=q95, maximum=high, mean=float(np.mean(values))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AtLimit:
    """Episodes whose cost return is at most the limit; `best_reward` is None if there are none."""

    limit: float
    episodes: int
    terminated: int
    best_reward: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CostSummary:
    """One named cost. `values`: the different values of a step, or None if there are many.

    `frontier` lists (cost return, reward return) of the episodes that none beats, by rising cost.
    """

    name: str
    unit: str
    returns: Quantiles
    values: tuple[float, ...] | None
    largest_step: float
    episodes_without: int
    at_limit: AtLimit | None
    frontier: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSummary:
    """How alike the episodes of one behaviour policy are.

    `reward_correlation` and `cost_correlations` are intraclass correlations of the returns (one-way random effects,
    ICC(1), Shrout & Fleiss 1979): 0 means that policies do not differ, 1 that episodes of one policy are equal.
    None where it cannot be computed: a single group, no group with two episodes, or no spread at all.
    """

    groups: int
    fewest_episodes: int
    most_episodes: int
    reward_correlation: float | None
    cost_correlations: Mapping[str, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a person asks first about a dataset."""

    env_id: str
    episodes: int
    steps: int
    observation_size: int
    action_size: int
    terminated: int
    truncated: int
    lengths: Quantiles
    rewards: Quantiles
    costs: tuple[CostSummary, ...]
    group: GroupSummary | None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def summarise(dataset: OfflineDataset, limits: Mapping[str, float] | None = None) -> Summary:
    """The summary of a dataset; `limits` by name of cost, in cost units per episode."""
    limits = {} if limits is None else limits
    for name in limits:
        cost_column(dataset, name)
    terminated = int(dataset.terminated.sum())
    return Summary(
        env_id=dataset.spec.env_id,
        episodes=len(dataset),
        steps=dataset.n_steps,
        observation_size=dataset.spec.observation_size,
        action_size=dataset.spec.action.size,
        terminated=terminated,
        truncated=len(dataset) - terminated,
        lengths=Quantiles.of(dataset.lengths),
        rewards=Quantiles.of(dataset.reward_returns),
        costs=tuple(_cost_summary(dataset, name, limits.get(name)) for name in dataset.spec.cost_names),
        group=_group_summary(dataset),
    )


def support_counts(
    dataset: OfflineDataset,
    points: Float[np.ndarray, "m d"],
    radius_reward: float,
    radius_cost: float | Sequence[float],
) -> Int[np.ndarray, "m"]:
    """Logged episodes near each target.

    A point is (R, G_1, ..., G_k): reward return, then each named cost return. An episode is near if it lies in the
    ellipsoid around the point: ((R_i - R) / radius_reward)^2 + sum_j ((G_ij - G_j) / radius_cost_j)^2 <= 1.

    Raises:
        UsageError: if a radius is not positive, or the points have another number of columns.
    """
    k = len(dataset.spec.cost_names)
    radii = np.concatenate([[radius_reward], np.broadcast_to(np.asarray(radius_cost, dtype=np.float64), (k,))])
    if not np.all(np.isfinite(radii) & (radii > 0)):
        raise UsageError(f"radii must be positive and finite, got {radii.tolist()} for reward and {k} costs")
    if points.shape[1] != 1 + k:
        raise UsageError(f"points have {points.shape[1]} columns, expected 1 + {k}: reward, {dataset.spec.cost_names}")
    if not np.all(np.isfinite(points)):
        raise DataError("points must be finite")
    episodes = np.column_stack([dataset.reward_returns, dataset.cost_returns]) / radii
    counts = np.zeros(len(points), dtype=np.int64)
    for i, point in enumerate(points / radii):
        counts[i] = np.count_nonzero(np.sum((episodes - point) ** 2, axis=1) <= 1.0)
    return counts


def support(
    dataset: OfflineDataset,
    points: Float[np.ndarray, "m d"],
    radius_reward: float,
    radius_cost: float | Sequence[float],
    minimum: int,
) -> Bool[np.ndarray, "m"]:
    """Which targets have at least `minimum` logged episodes near them, as `support_counts` counts.

    Raises:
        UsageError: if `minimum` is less than 1: no data is no support.
    """
    if minimum < 1:
        raise UsageError(f"minimum={minimum}: support means at least one logged episode")
    return support_counts(dataset, points, radius_reward, radius_cost) >= minimum


def intraclass_correlation(values: Float[np.ndarray, "n"], group: Int[np.ndarray, "n"]) -> float | None:
    """ICC(1) = (MSB - MSW) / (MSB + (n0 - 1) MSW) of values in groups, one-way random effects.

    MSB and MSW are the mean squares between and within groups, n0 the size of a typical group (unequal sizes:
    n0 = (n - sum n_i^2 / n) / (groups - 1)). None where no number follows.
    """
    _, positions, counts = np.unique(group, return_inverse=True, return_counts=True)
    groups, n = len(counts), len(values)
    if groups < 2 or n == groups:
        return None
    means = np.bincount(positions, values) / counts
    between = float(np.sum(counts * (means - values.mean()) ** 2)) / (groups - 1)
    within = float(np.sum((values - means[positions]) ** 2)) / (n - groups)
    typical = float(n - np.sum(counts**2) / n) / (groups - 1)
    total = between + (typical - 1) * within
    return (between - within) / total if total > 0 else None


def _cost_summary(dataset: OfflineDataset, name: str, limit: float | None) -> CostSummary:
    column = cost_column(dataset, name)
    steps, returns = dataset.costs[:, column], dataset.cost_returns[:, column]
    values = np.unique(steps)
    edge = frontier(dataset, name)
    at_limit = None
    if limit is not None:
        kept = returns <= limit
        at_limit = AtLimit(
            limit=limit,
            episodes=int(kept.sum()),
            terminated=int(dataset.terminated[kept].sum()),
            best_reward=float(dataset.reward_returns[kept].max()) if kept.any() else None,
        )
    return CostSummary(
        name=name,
        unit=dataset.spec.cost_units[column],
        returns=Quantiles.of(returns),
        values=tuple(values.tolist()) if len(values) <= MOST_COST_VALUES else None,
        largest_step=float(steps.max()),
        episodes_without=int(np.count_nonzero(returns == 0)),
        at_limit=at_limit,
        frontier=tuple(zip(edge.costs.tolist(), edge.rewards.tolist(), strict=True)),
    )


def _group_summary(dataset: OfflineDataset) -> GroupSummary | None:
    if dataset.group is None:
        return None
    counts = np.unique(dataset.group, return_counts=True)[1]
    return GroupSummary(
        groups=len(counts),
        fewest_episodes=int(counts.min()),
        most_episodes=int(counts.max()),
        reward_correlation=intraclass_correlation(dataset.reward_returns, dataset.group),
        cost_correlations={
            name: intraclass_correlation(dataset.cost_returns[:, column], dataset.group)
            for column, name in enumerate(dataset.spec.cost_names)
        },
    )
