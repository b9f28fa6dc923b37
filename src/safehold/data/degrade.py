"""Making a log worse in stated ways, to see what a method does when its data are sparse, one-sided, noisy or wrong.

The filters are those of DSRL [Liu et al. 2023, arXiv 2306.09303; `OfflineEnv.pre_process_data` of its code], in its
order: a density grid over the plane of cost and reward returns, outliers that look too good, parts of the plane cut
out, the best safe (or unsafe) episodes left out, noise on observations. What comes out is for tests of robustness: its
provenance says what was done to it, and it is evidence of nothing else.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from jaxtyping import Bool, Float, Int
from pydantic import Field, PositiveFloat, PositiveInt

from safehold.core.config import Config
from safehold.core.errors import DataError, UsageError
from safehold.core.seeding import Streams
from safehold.data.dataset import OfflineDataset
from safehold.data.frontier import cost_column
from safehold.data.select import take

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
"""A part of a whole, from 0 to 1."""

Region = tuple[Share, Share, Share, Share]
"""A rectangle of the plane of returns: cost from, to, reward from, to, as shares of the ranges in the log."""

FLATTERY = 1.5
"""Factor on the positive rewards of a spoilt episode; negative ones are halved. [DSRL, pre_process_data]"""

MAD_TO_SD = 1.4826
"""Standard deviation of a normal distribution, in median absolute deviations: 1 / Phi^-1(3/4)."""


class Degradation(Config):
    """What is done to a log; nothing unless said, in the order of the fields."""

    drop_outliers: PositiveFloat | None = None
    """Leave out episodes with a return farther than this many robust standard deviations from its median."""
    most_per_cell: PositiveInt | None = None
    """Keep at most so many episodes in each cell of a grid over cost and reward returns; 5 in DSRL."""
    least_per_cell: PositiveInt = 1
    """Leave out all episodes of a cell that has fewer; 3 in DSRL."""
    cost_cells: PositiveInt = 10
    """Cells of the grid along the cost return."""
    reward_cells: PositiveInt = 50
    """Cells of the grid along the reward return."""
    spoil: Share = 0.0
    """Share of the episodes that are made to look safe and good, drawn from those that cost and earn much."""
    drop_regions: tuple[Region, ...] = ()
    """Rectangles whose episodes are left out: cost from, to, reward from, to, as shares of the ranges in the log."""
    drop_share: Share = 1.0
    """Share of the episodes in each rectangle that is left out, drawn at random."""
    drop_best_safe: PositiveFloat | None = None
    """Leave out the episodes that keep the limit and come this near, in reward units, to the best that does."""
    drop_best_unsafe: PositiveFloat | None = None
    """Leave out the episodes that pass the limit and come this near, in reward units, to the best that does."""
    noise: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Standard deviation of normal noise on every observation, as a share of that of its column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One filter that was applied: how many episodes it left, and how many it changed."""

    what: str
    left: int
    changed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Degraded:
    """The dataset that came out, and each filter that was applied."""

    dataset: OfflineDataset
    steps: tuple[Step, ...]


def degrade(
    dataset: OfflineDataset,
    degradation: Degradation,
    *,
    seed: int,
    cost: str | None = None,
    limit: float | None = None,
) -> Degraded:
    """The same log made worse; equal inputs and seed give an equal digest.

    Every filter draws from a stream of its own, so that turning one on does not change what another draws.

    Args:
        dataset: the log.
        degradation: what is done to it.
        seed: of all draws.
        cost: the cost of the plane of returns, and of the limit; needed if there are several.
        limit: cost limit, in cost units per episode, for the filters that ask who keeps it.

    Raises:
        UsageError: if nothing is asked for, a limit is missing or impossible, or a rectangle is reversed.
        DataError: if nothing is left, or there is no episode to spoil.
    """
    _check(degradation, limit)
    column, streams = cost_column(dataset, cost), Streams(seed)
    plan = _Plan(dataset, column, math.nan if limit is None else limit)
    steps: list[Step] = []
    for name, act in _FILTERS.items():
        if getattr(degradation, name):
            changed = act(plan, degradation, streams[f"degrade/{name}"])
            if not len(plan.kept):
                raise DataError(f"{name}: no episode of {len(dataset)} is left; ask for less")
            steps.append(Step(what=name, left=len(plan.kept), changed=changed))
    worse = take(plan.dataset, plan.kept)
    provenance = {
        "degraded": degradation.to_json(),
        "seed": seed,
        "cost": dataset.spec.cost_names[column],
        "limit": limit,
        "steps": [{"what": step.what, "left": step.left, "changed": step.changed} for step in steps],
        "of": dataset.digest,
        "origin": dict(dataset.provenance),
    }
    return Degraded(dataset=replace(worse, provenance=provenance), steps=tuple(steps))


class _Plan:
    """The log as it is changed, the episodes that are still in it, and the plane of their returns."""

    def __init__(self, dataset: OfflineDataset, column: int, limit: float) -> None:
        self.dataset = dataset
        self.column = column
        self.limit = limit
        self.kept: Int[np.ndarray, n] = np.arange(len(dataset))
        self.spoilt: frozenset[int] = frozenset()
        # ranges of the log as it came: a rectangle means the same whatever was thinned before [DSRL]
        self.cost_range = _range(self.costs)
        self.reward_range = _range(self.rewards)

    @property
    def costs(self) -> Float[np.ndarray, "E"]:
        """Cost return of every episode of the log."""
        return self.dataset.cost_returns[:, self.column]

    @property
    def rewards(self) -> Float[np.ndarray, "E"]:
        """Reward return of every episode of the log."""
        return self.dataset.reward_returns

    def drop(self, episodes: Bool[np.ndarray, "n"]) -> None:
        """Leaves out those of the kept episodes that are marked."""
        self.kept = self.kept[~episodes]


def _without_outliers(plan: _Plan, degradation: Degradation, rng: np.random.Generator) -> int:  # noqa: ARG001
    """A return that is the same in half of the episodes has no spread, and judges none."""
    assert degradation.drop_outliers is not None
    far = np.zeros(len(plan.kept), dtype=np.bool_)
    returns = np.column_stack([plan.rewards, plan.dataset.cost_returns])[plan.kept]
    for values in returns.T:
        distance = np.abs(values - np.median(values))
        spread = MAD_TO_SD * float(np.median(distance))
        if spread > 0:
            far |= distance > degradation.drop_outliers * spread
    plan.drop(far)
    return 0


def _thinned(plan: _Plan, degradation: Degradation, rng: np.random.Generator) -> int:
    """Unlike [DSRL, grid_filter], the largest return lies in the last cell and not in one of its own."""
    assert degradation.most_per_cell is not None
    places = np.column_stack(
        [
            _cells(plan.costs[plan.kept], plan.cost_range, degradation.cost_cells),
            _cells(plan.rewards[plan.kept], plan.reward_range, degradation.reward_cells),
        ]
    )
    _, cell = np.unique(places, axis=0, return_inverse=True)
    cell = cell.reshape(-1)
    dropped = np.zeros(len(plan.kept), dtype=np.bool_)
    for number in range(int(cell.max()) + 1):
        members = np.flatnonzero(cell == number)
        if len(members) < degradation.least_per_cell:
            dropped[members] = True
        elif len(members) > degradation.most_per_cell:
            stay = rng.choice(members, size=degradation.most_per_cell, replace=False)
            dropped[np.setdiff1d(members, stay)] = True
    plan.drop(dropped)
    return 0


def _spoilt(plan: _Plan, degradation: Degradation, rng: np.random.Generator) -> int:
    """Episodes that cost much and earn much now cost little and earn more.

    The cost is 1 at fewer steps than the limit, and 0 elsewhere; half of each reward's size is added to it. Unlike
    [DSRL, outliers_percent], "much" is the upper half of a range that need not begin at 0, and a reward below 0 is
    raised, not multiplied.
    """
    costs = _shares(plan.costs[plan.kept], plan.cost_range)
    rewards = _shares(plan.rewards[plan.kept], plan.reward_range)
    risky = plan.kept[(costs >= 0.5) & (rewards >= 0.5)]
    count = max(1, int(len(plan.kept) * degradation.spoil))
    if len(risky) < count:
        raise DataError(
            f"spoil: {count} episodes in the upper halves of the ranges of cost and reward return are needed, "
            f"{len(risky)} are there; ask for a smaller share"
        )
    chosen = np.sort(rng.choice(risky, size=count, replace=False))
    data = plan.dataset
    all_costs, all_rewards = np.array(data.costs), np.array(data.rewards)
    for i in chosen:
        start, stop = int(data.offsets[i]), int(data.offsets[i + 1])
        events = min(int(rng.integers(max(1, int(plan.limit)))), stop - start)
        all_costs[start:stop, plan.column] = 0.0
        all_costs[start + rng.choice(stop - start, size=events, replace=False), plan.column] = 1.0
        all_rewards[start:stop] += (FLATTERY - 1.0) * np.abs(all_rewards[start:stop])
    plan.dataset = replace(data, costs=all_costs, rewards=all_rewards)
    plan.spoilt = frozenset(chosen.tolist())
    return count


def _cut_out(plan: _Plan, degradation: Degradation, rng: np.random.Generator) -> int:
    dropped = np.zeros(len(plan.kept), dtype=np.bool_)
    costs = _shares(plan.costs[plan.kept], plan.cost_range)
    rewards = _shares(plan.rewards[plan.kept], plan.reward_range)
    stay = np.isin(plan.kept, list(plan.spoilt))
    for cost_from, cost_to, reward_from, reward_to in degradation.drop_regions:
        inside = (cost_from <= costs) & (costs <= cost_to) & (reward_from <= rewards) & (rewards <= reward_to) & ~stay
        members = np.flatnonzero(inside)
        count = round(degradation.drop_share * len(members))
        dropped[rng.choice(members, size=count, replace=False)] = True
    plan.drop(dropped)
    return 0


def _without_best_safe(plan: _Plan, degradation: Degradation, rng: np.random.Generator) -> int:  # noqa: ARG001
    assert degradation.drop_best_safe is not None
    return _without_best(plan, plan.costs[plan.kept] <= plan.limit, degradation.drop_best_safe)


def _without_best_unsafe(plan: _Plan, degradation: Degradation, rng: np.random.Generator) -> int:  # noqa: ARG001
    assert degradation.drop_best_unsafe is not None
    return _without_best(plan, ~(plan.costs[plan.kept] <= plan.limit), degradation.drop_best_unsafe)


def _without_best(plan: _Plan, of: Bool[np.ndarray, "n"], margin: float) -> int:
    rewards = plan.rewards[plan.kept]
    if of.any():
        plan.drop(of & (rewards >= rewards[of].max() - margin))
    return 0


def _noisy(plan: _Plan, degradation: Degradation, rng: np.random.Generator) -> int:
    """Unlike [DSRL, noise_scale], the spread is that of each column: columns have units of their own."""
    seen = plan.dataset.observations
    spread = np.std(seen, axis=0, dtype=np.float64)
    noisy = seen + degradation.noise * spread * rng.standard_normal(seen.shape)
    plan.dataset = replace(plan.dataset, observations=noisy.astype(np.float32))
    return len(plan.kept)


_FILTERS: Mapping[str, Callable[["_Plan", Degradation, np.random.Generator], int]] = {
    "drop_outliers": _without_outliers,
    "most_per_cell": _thinned,
    "spoil": _spoilt,
    "drop_regions": _cut_out,
    "drop_best_safe": _without_best_safe,
    "drop_best_unsafe": _without_best_unsafe,
    "noise": _noisy,
}


def _check(degradation: Degradation, limit: float | None) -> None:
    """What the fields cannot say of each other."""
    if not any(getattr(degradation, name) for name in _FILTERS):
        raise UsageError(f"nothing is asked for; give one of {', '.join(_FILTERS)}")
    asking = [name for name in ("spoil", "drop_best_safe", "drop_best_unsafe") if getattr(degradation, name)]
    if asking and limit is None:
        raise UsageError(f"{asking[0]} asks who keeps the limit; give the limit")
    if limit is not None and not 0 <= limit < math.inf:
        raise UsageError(f"limit {limit}: a limit is a finite number >= 0, in cost units per episode")
    if degradation.spoil and limit is not None and limit < 1:
        raise UsageError(f"spoil with limit {limit}: a spoilt episode costs 0, 1, ... less than the limit")
    for region in degradation.drop_regions:
        if region[0] > region[1] or region[2] > region[3]:
            raise UsageError(f"drop_regions: {region} is reversed; expected cost from, cost to, reward from, reward to")
    if degradation.most_per_cell is not None and degradation.least_per_cell > degradation.most_per_cell:
        raise UsageError(
            f"least_per_cell {degradation.least_per_cell} is more than most_per_cell {degradation.most_per_cell}"
        )


def _range(values: Float[np.ndarray, "n"]) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _shares(values: Float[np.ndarray, "n"], bounds: tuple[float, float]) -> Float[np.ndarray, "n"]:
    """Where values lie between the bounds, 0 to 1; 0 if there is nothing between."""
    low, high = bounds
    return np.clip((values - low) / (high - low), 0.0, 1.0) if high > low else np.zeros(len(values))


def _cells(values: Float[np.ndarray, "n"], bounds: tuple[float, float], cells: int) -> Int[np.ndarray, "n"]:
    return np.minimum(np.floor(_shares(values, bounds) * cells).astype(np.int64), cells - 1)
