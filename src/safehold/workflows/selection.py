"""Choose between policies by a log alone: what they foretell of it, and what they would obtain. Nothing is run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from pydantic import ValidationError

from safehold.core.errors import DataError
from safehold.core.intervals import Interval, ratio_interval
from safehold.core.policy import Policy, PolicyFamily
from safehold.core.seeding import Streams
from safehold.core.spec import TaskSpec
from safehold.core.target import Target
from safehold.data.dataset import OfflineDataset
from safehold.learn.checkpoint import Checkpoint, load_checkpoint
from safehold.learn.hooks import Progress
from safehold.learn.learner import State
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
from safehold.learn.offline.lspc import LSPCFamily
from safehold.workflows.train import METHODS, TRAINING, load

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

    def count(progress: Progress) -> None:
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


@dataclass(frozen=True, slots=True)
class Candidate:
    """A policy from its checkpoint, the digest of its bytes, and whether it says that it was trained on the log."""

    policy: Policy | PolicyFamily
    digest: str
    seen: bool


def candidate(directory: Path, log: OfflineDataset) -> Candidate:
    """The policy of a checkpoint, finished or in training, to be judged on a log of its task.

    `lspc` is judged with the box that it was trained in: its dial is no return.

    Raises:
        IntegrityError: if bytes of the checkpoint changed.
        DataError: if it holds no policy of an offline method, or the log is of another task.
    """
    checkpoint = load_checkpoint(directory)
    if checkpoint.kind == TRAINING:
        trained = policy_in_training(checkpoint, log.spec, directory)
    elif checkpoint.kind in METHODS and "spec" in checkpoint.meta:
        _check_same_task(TaskSpec.of_json(checkpoint.meta["spec"]), log.spec, directory)
        trained = load(directory, expected_digest=checkpoint.digest)
    else:
        raise DataError(
            f"{directory} holds a {checkpoint.kind!r}; name a policy or a checkpoint as `safehold train` leaves them"
        )
    seen = checkpoint.meta.get("provenance", {}).get("dataset") in (log.digest, log.provenance.get("of"))
    return Candidate(trained.usual if isinstance(trained, LSPCFamily) else trained, checkpoint.digest, seen)


def policy_in_training(checkpoint: Checkpoint, spec: TaskSpec, where: Path) -> Policy | PolicyFamily:
    """What a training had learnt when it was saved.

    Raises:
        DataError: if the checkpoint does not fit together, or the task is another one.
    """
    try:
        learnt = State(checkpoint.tensors, checkpoint.meta).part("learner")
        provenance = checkpoint.meta["provenance"]
        method = METHODS[provenance["method"]]
        config = method.config.model_validate(provenance["config"])
        own = TaskSpec.of_json(learnt.meta["spec"]) if "spec" in learnt.meta else spec
        _check_same_task(own, spec, where)
        learner = method.rebuild(learnt.meta, own, config)
        learner.restore(learnt)
    except (KeyError, TypeError, ValidationError) as error:
        raise DataError(f"{where} holds no training to take a policy from: {error!r}") from error
    found: Policy | PolicyFamily = learner.policy()
    return found


def _check_same_task(trained: TaskSpec, logged: TaskSpec, where: Path) -> None:
    """Refuses a log of another task than the policy's: sizes, bounds, horizon and costs must agree, names may differ.

    Raises:
        DataError: naming the first thing that differs.
    """
    name = trained.difference(logged)
    if name is not None:
        theirs, ours = getattr(trained, name), getattr(logged, name)
        raise DataError(f"{where} was trained with {name} {theirs}, the log has {ours}; give a log of its own task")


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
