"""Choose between policies by a log alone: what they foretell of it, and what they would obtain. Nothing is run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from safehold.core.errors import DataError
from safehold.core.intervals import Interval, ratio_interval
from safehold.core.policy import Policy, PolicyFamily
from safehold.core.seeding import Streams
from safehold.core.spec import TaskSpec
from safehold.core.target import Target
from safehold.data.dataset import OfflineDataset
from safehold.learn.offline.fqe import FittedReturns, FQEConfig, fitted_returns
from safehold.learn.offline.held_out import (
    StepScores,
    halves,
    score,
    score_last_action,
    score_mean_action,
    units_of,
)
from safehold.learn.offline.logged import answering

TRIVIAL = ("mean action", "last action")
"""Predictors that know nothing, and stand beside every policy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Foretold:
    """How well one policy foretells logged actions; intervals by bootstrap over behaviour policies where they are
    known, else over episodes.

    Densities are of the whole action in units of half its range, in nats. `per_step` counts every step alike,
    `per_episode` every episode; `own_per_step` is with the spread that the policy says itself, None if it says none.
    `action_error` is the root mean square error of an entry, in units of half the action range. `behind` is how much
    less `per_step` is than that of the best policy, unit by unit, None for the best itself and for the trivial.
    """  # noqa: D205

    name: str
    per_step: Interval
    per_episode: Interval
    own_per_step: Interval | None
    action_error: Interval
    behind: Interval | None


def foretell(policies: Mapping[str, Policy | PolicyFamily], dataset: OfflineDataset, *, seed: int) -> list[Foretold]:
    """Every policy on a log that none was trained on, in the order given, then the trivial predictors.

    Raises:
        UsageError: if a policy cannot be asked at logged states, or the log cannot be cut in two.
    """
    streams = Streams(seed)
    half = halves(dataset, streams["halves"])
    scored = {name: score(dataset, answering(policy), half) for name, policy in policies.items()}
    best = max(scored, key=lambda name: float(scored[name].log_density.mean()), default=None)
    trivial = (score_mean_action(dataset, half), score_last_action(dataset, half))
    units = _Units(dataset, streams)
    found = [
        _foretold(name, one, units, scored[best] if best is not None and name != best else None)
        for name, one in scored.items()
    ]
    return found + [_foretold(name, one, units, None) for name, one in zip(TRIVIAL, trivial, strict=True)]


def foresee(
    policy: Policy | PolicyFamily,
    dataset: OfflineDataset,
    targets: Sequence[Target],
    config: FQEConfig,
    *,
    seed: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[FittedReturns]:
    """What a policy would obtain at some targets, none for one without a dial, by fitted Q evaluation.

    `on_progress` is called with the updates done and in all.

    Raises:
        UsageError: if the policy cannot be asked at logged states, or the targets do not fit it.
    """

    def count(progress: Any) -> None:
        if on_progress is not None:
            on_progress(progress.updates, config.steps)

    return fitted_returns(dataset, answering(policy), targets, config, seed=seed, hooks=[count])


def logged_targets(dataset: OfflineDataset, count: int) -> tuple[Target, ...]:
    """Returns of logged episodes from cheap to costly in the first cost, evenly by rank: targets that were reached."""
    order = np.lexsort((dataset.reward_returns, dataset.cost_returns[:, 0]))
    places = np.unique(np.round((np.arange(count) + 0.5) / count * len(order) - 0.5).astype(np.int64))
    return tuple(
        (float(dataset.reward_returns[i]), *(float(cost) for cost in dataset.cost_returns[i])) for i in order[places]
    )


def check_same_task(trained: TaskSpec, logged: TaskSpec, where: str) -> None:
    """Refuses a log of another task than the policy's: sizes, bounds, horizon and costs must agree, names may differ.

    Raises:
        DataError: naming the first thing that differs.
    """
    for name in ("observation_size", "action", "horizon", "cost_names"):
        theirs, ours = getattr(trained, name), getattr(logged, name)
        if theirs != ours:
            raise DataError(f"{where} was trained on {name} {theirs}; the log has {ours}. Give a log of its own task")


def seen_in_training(provenance: Mapping[str, Any], dataset: OfflineDataset) -> bool:
    """True if a policy's checkpoint says that it was trained on this log, or on the whole that this is a part of."""
    return provenance.get("dataset") in (dataset.digest, dataset.provenance.get("of"))


class _Units:
    """Sums over what there are independent ones of."""

    def __init__(self, dataset: OfflineDataset, streams: Streams) -> None:
        self._streams = streams
        self._lengths = dataset.lengths
        self._bounds = dataset.offsets[:-1]
        self._unit: Int[np.ndarray, E] = units_of(dataset)

    def per_step(self, values: Float[np.ndarray, "N"]) -> Interval:
        """Mean over all steps."""
        return self._ratio(np.add.reduceat(values, self._bounds), self._lengths.astype(np.float64))

    def per_episode(self, values: Float[np.ndarray, "N"]) -> Interval:
        """Mean over episodes of the mean over their steps."""
        means = np.add.reduceat(values, self._bounds) / self._lengths
        return self._ratio(means, np.ones(len(means)))

    def _ratio(self, sums: Float[np.ndarray, "E"], counts: Float[np.ndarray, "E"]) -> Interval:
        return ratio_interval(
            np.bincount(self._unit, sums), np.bincount(self._unit, counts), self._streams["bootstrap"]
        )


def _foretold(name: str, scores: StepScores, units: _Units, best: StepScores | None) -> Foretold:
    square = units.per_step(scores.squared_error)
    return Foretold(
        name=name,
        per_step=units.per_step(scores.log_density),
        per_episode=units.per_episode(scores.log_density),
        own_per_step=None if scores.own_log_density is None else units.per_step(scores.own_log_density),
        action_error=Interval(
            estimate=float(np.sqrt(square.estimate)),
            low=float(np.sqrt(square.low)),
            high=float(np.sqrt(square.high)),
            level=square.level,
            n=square.n,
        ),
        behind=None if best is None else units.per_step(best.log_density - scores.log_density),
    )
