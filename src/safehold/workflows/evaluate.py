"""Evaluate a policy, or a policy family over many targets, on fresh seeded episodes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from safehold.core.episode import Episode
from safehold.core.errors import DataError, UsageError
from safehold.core.policy import Policy
from safehold.core.seeding import Streams
from safehold.core.target import Target
from safehold.data.dataset import OfflineDataset
from safehold.envs import registry
from safehold.rollout.episodes import Job, rollouts


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Returns of one policy, an entry an episode.

    `label` says what was evaluated ("naive", "seed", "final", ...), `target` what was asked (None for a policy
    without a dial), `stream` and `first` which episode seeds were used.
    """

    label: str
    target: Target | None
    stream: str
    first: int
    rewards: Float[np.ndarray, "episodes"]
    costs: Float[np.ndarray, "episodes"]

    def to_json(self) -> dict[str, Any]:
        """Plain values, raw returns included."""
        return {
            "label": self.label,
            "target": None if self.target is None else list(self.target),
            "stream": self.stream,
            "first": self.first,
            "rewards": self.rewards.tolist(),
            "costs": self.costs.tolist(),
        }

    @staticmethod
    def from_json(values: dict[str, Any]) -> "Evaluation":
        """The inverse of `to_json`; refuses values that are not there."""
        try:
            found = Evaluation(
                label=values["label"],
                target=None if values["target"] is None else tuple(values["target"]),
                stream=values["stream"],
                first=values["first"],
                rewards=np.array(values["rewards"], dtype=np.float64),
                costs=np.array(values["costs"], dtype=np.float64),
            )
            returns = np.stack([found.rewards, found.costs])
            if returns.ndim != 2 or not returns.size or not np.isfinite(returns).all():
                raise ValueError(f"returns of shape {returns.shape}, finite: {bool(np.isfinite(returns).all())}")
            return found
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"an evaluation record is broken: {error!r}; delete the file to evaluate again") from error


def require_task(dataset: OfflineDataset, env_id: str) -> None:
    """Refuses a log whose policies could not act in an environment; names may differ.

    Raises:
        DataError: if sizes, bounds, horizon or costs differ.
    """
    wanted = registry.spec(env_id)
    name = dataset.spec.difference(wanted)
    if name is not None:
        raise DataError(
            f"the log is of {dataset.spec.env_id!r} with {name} {getattr(dataset.spec, name)}; {env_id!r} has "
            f"{getattr(wanted, name)}. Name the task that it was logged in"
        )


def evaluate(
    env_id: str,
    policies: Sequence[tuple[Policy, Target | None]],
    *,
    label: str,
    cost_name: str,
    streams: Streams,
    stream: str,
    episodes: int,
    first: int = 0,
    workers: int = 1,
    on_episode: Callable[[Episode], None] | None = None,
) -> list[Evaluation]:
    """Runs `episodes` fresh episodes of each policy; no two episodes share a reset seed.

    The seeds are numbers `first`, `first + 1`, ... of `stream`, policy by policy. A policy stands with the target it
    aims at, None if it has no dial.

    Raises:
        UsageError: if the task has no such cost, or there is none of that name.
    """
    names = registry.spec(env_id).cost_names
    if cost_name not in names:
        raise UsageError(f"{env_id} has the costs {list(names)}, none is named {cost_name!r}; name one of them")
    column = names.index(cost_name)
    starts = [first + place * episodes for place in range(len(policies))]
    jobs = [
        Job(policy, streams.episode_seeds(stream, start, episodes))
        for start, (policy, _) in zip(starts, policies, strict=True)
    ]
    done = rollouts(env_id, jobs, rng_seed=streams.integer(f"{stream}/policy"), workers=workers, on_episode=on_episode)
    return [
        Evaluation(
            label=label,
            target=target,
            stream=stream,
            first=start,
            rewards=np.array([episode.reward_return for episode in of_policy]),
            costs=np.array([episode.cost_returns[column] for episode in of_policy]),
        )
        for start, (_, target), of_policy in zip(starts, policies, done, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class DialQuality:
    """Does the policy do what it is asked? Spearman rank correlations of asked and obtained mean returns.

    None where there is none: fewer than two targets, or one value throughout.
    """

    cost: float | None
    reward: float | None
    targets: int


def dial_quality(evaluations: Sequence[Evaluation]) -> DialQuality:
    """Rank correlations over targets (R, G) of one cost; ties share their mean rank."""
    if len(evaluations) < 2:
        return DialQuality(cost=None, reward=None, targets=len(evaluations))
    asked = np.array([evaluation.target for evaluation in evaluations], dtype=np.float64)
    reward = np.array([np.mean(evaluation.rewards) for evaluation in evaluations])
    cost = np.array([np.mean(evaluation.costs) for evaluation in evaluations])
    return DialQuality(
        cost=rank_correlation(asked[:, 1], cost),
        reward=rank_correlation(asked[:, 0], reward),
        targets=len(evaluations),
    )


def rank_correlation(a: Float[np.ndarray, "n"], b: Float[np.ndarray, "n"]) -> float | None:
    """Spearman's rho: Pearson correlation of the ranks, ties at their mean rank; None if either never changes."""
    # scipy is heavy to import and only its statistics are needed here
    from scipy.stats import spearmanr

    if np.ptp(a) == 0.0 or np.ptp(b) == 0.0:
        return None
    return float(spearmanr(a, b).statistic)
