"""Taking whole episodes out of a dataset, or several datasets together; every draw comes from a given generator."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from safehold.core.errors import DataError, UsageError
from safehold.data.dataset import OfflineDataset
from safehold.data.frontier import cost_column, frontier_reward


def take(
    dataset: OfflineDataset, episodes: Sequence[int] | Int[np.ndarray, "n"], how: str = "chosen"
) -> OfflineDataset:
    """These episodes, in this order; `how` is kept in the provenance beside the digest of the whole.

    Raises:
        DataError: if no episode is chosen, or one that does not exist.
    """
    chosen = np.asarray(episodes, dtype=np.int64).reshape(-1)
    if len(chosen) == 0:
        raise DataError(f"{how}: no episode of {len(dataset)} is left; a dataset needs at least one")
    outside = (chosen < 0) | (chosen >= len(dataset))
    if outside.any():
        raise DataError(f"{how}: there is no episode {chosen[np.argmax(outside)]} of {len(dataset)}")
    lengths = dataset.lengths[chosen]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    steps = _rows(dataset.offsets[chosen], lengths)
    seen = _rows(dataset.offsets[chosen] + chosen, lengths + 1)
    return OfflineDataset(
        spec=dataset.spec,
        observations=dataset.observations[seen],
        actions=dataset.actions[steps],
        rewards=dataset.rewards[steps],
        costs=dataset.costs[steps],
        offsets=offsets,
        terminated=dataset.terminated[chosen],
        group=None if dataset.group is None else dataset.group[chosen],
        provenance={"selected": how, "episodes": len(chosen), "of": dataset.digest, "origin": dataset.provenance},
    )


def at_or_under(dataset: OfflineDataset, limit: float, cost: str | None = None) -> OfflineDataset:
    """Episodes whose return of a named cost is at most `limit`, in cost units per episode.

    Raises:
        DataError: if there is none; the message has the cheapest.
    """
    column = cost_column(dataset, cost)
    name, returns = dataset.spec.cost_names[column], dataset.cost_returns[:, column]
    kept = np.flatnonzero(returns <= limit)
    if len(kept) == 0:
        raise DataError(f"no episode has {name} <= {limit}; the cheapest has {returns.min()}")
    return take(dataset, kept, f"{name} <= {limit}")


def near_frontier(dataset: OfflineDataset, share: float, cost: str | None = None) -> OfflineDataset:
    """Episodes whose reward return is at most `share` of all rewards' range from the frontier at their cost.

    The frontier is the polynomial of `frontier_reward`; BC-Frontier clones these with a share of 0.2.   [OSRL]

    Raises:
        UsageError: if the share is not positive.
        DataError: if there is none.
    """
    if not share > 0.0:
        raise UsageError(f"share={share}: the distance from the frontier is a positive share of the range of rewards")
    column, fitted = cost_column(dataset, cost), frontier_reward(dataset, cost)
    rewards = dataset.reward_returns
    apart = np.abs(rewards - fitted(dataset.cost_returns[:, column]))
    return take(dataset, np.flatnonzero(apart <= share * np.ptp(rewards)), f"within {share:g} of the frontier")


def subsample(dataset: OfflineDataset, n: int, rng: np.random.Generator) -> OfflineDataset:
    """`n` different episodes, in their old order.

    Raises:
        UsageError: if `n` is not from 1 to the number of episodes.
    """
    if not 1 <= n <= len(dataset):
        raise UsageError(f"n={n}: a subsample has 1 to {len(dataset)} episodes")
    return take(dataset, np.sort(rng.choice(len(dataset), size=n, replace=False)), f"{n} drawn")


def split(dataset: OfflineDataset, fraction: float, rng: np.random.Generator) -> tuple[OfflineDataset, OfflineDataset]:
    """Two parts by whole episodes: `fraction` of them (rounded, at least one), and the rest.

    Episodes of one behaviour policy are alike; where that matters, and the policies are known, `split_by_group`
    keeps them together.

    Raises:
        UsageError: if the fraction is not between 0 and 1, or leaves a part empty.
    """
    return _split(dataset, np.arange(len(dataset)), fraction, rng, "episodes")


def split_by_group(
    dataset: OfflineDataset, fraction: float, rng: np.random.Generator
) -> tuple[OfflineDataset, OfflineDataset]:
    """Like `split`, by behaviour policies: all episodes of one are in the same part.

    Raises:
        DataError: if it is not known which policy flew which episode.
        UsageError: if the fraction is not between 0 and 1, or leaves a part empty.
    """
    if dataset.group is None:
        raise DataError("the dataset does not say which behaviour policy flew which episode; use split")
    return _split(dataset, dataset.group, fraction, rng, "groups")


def merge(datasets: Sequence[OfflineDataset]) -> OfflineDataset:
    """All episodes of several datasets of one task, in order.

    Groups are numbered anew, dataset by dataset, so that equal numbers of two datasets never mean one policy; if
    one dataset does not know its groups, neither does the whole.

    Raises:
        DataError: if there are none, or their tasks differ; the first field that differs is named.
    """
    if not datasets:
        raise DataError("no datasets to merge")
    spec = datasets[0].spec
    for i, dataset in enumerate(datasets):
        different = [f.name for f in fields(spec) if getattr(spec, f.name) != getattr(dataset.spec, f.name)]
        if different:
            name = different[0]
            raise DataError(
                f"dataset {i} has {name} {getattr(dataset.spec, name)!r}, dataset 0 {getattr(spec, name)!r}; only "
                "episodes of one task can be merged"
            )
    lengths = np.concatenate([dataset.lengths for dataset in datasets])
    return OfflineDataset(
        spec=spec,
        **_joined(datasets, ("observations", "actions", "rewards", "costs", "terminated")),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        group=_renumbered(datasets),
        provenance={"merged": [{"digest": d.digest, "origin": d.provenance} for d in datasets]},
    )


def _rows(starts: Int[np.ndarray, "n"], counts: Int[np.ndarray, "n"]) -> Int[np.ndarray, "rows"]:
    """starts[0], starts[0] + 1, ... counts[0] of them, then the same from starts[1], ..."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1]) + np.repeat(starts - (ends - counts), counts)


def _split(
    dataset: OfflineDataset, unit_of: Int[np.ndarray, "E"], fraction: float, rng: np.random.Generator, what: str
) -> tuple[OfflineDataset, OfflineDataset]:
    units = np.unique(unit_of)
    if not 0 < fraction < 1 or len(units) < 2:
        raise UsageError(
            f"fraction={fraction} of {len(units)} {what}: a split needs a fraction between 0 and 1 and two {what} "
            "or more"
        )
    count = min(max(1, round(fraction * len(units))), len(units) - 1)
    first: Bool[np.ndarray, E] = np.isin(unit_of, rng.permutation(units)[:count])
    how = f"of a split by {what} at {fraction}"
    return (
        take(dataset, np.flatnonzero(first), f"first part {how}"),
        take(dataset, np.flatnonzero(~first), f"second part {how}"),
    )


def _joined(datasets: Sequence[OfflineDataset], names: Sequence[str]) -> Mapping[str, Any]:
    return {name: np.concatenate([getattr(dataset, name) for dataset in datasets]) for name in names}


def _renumbered(datasets: Sequence[OfflineDataset]) -> Int[np.ndarray, "E"] | None:
    parts = []
    count = 0
    for dataset in datasets:
        if dataset.group is None:
            return None
        numbers, positions = np.unique(dataset.group, return_inverse=True)
        parts.append(positions + count)
        count += len(numbers)
    return np.concatenate(parts).astype(np.int32)
