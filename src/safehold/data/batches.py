"""Batches for learners, drawn from a dataset by index arithmetic alone; to-go values stay in environment units."""

from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from safehold.core.episode import returns_to_go
from safehold.core.errors import DataError, UsageError
from safehold.data.augment import Augmentation
from safehold.data.dataset import OfflineDataset

Batch_co = TypeVar("Batch_co", covariant=True)


@runtime_checkable
class Sampler(Protocol[Batch_co]):
    """Draws one batch after another; every draw comes from `rng`, the sampler itself never changes."""

    def sample(self, rng: np.random.Generator) -> Batch_co:
        """One batch."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TransitionBatch:
    """B single steps.

    `terminated`: the task ended with this step, so that nothing follows it. `timeouts`: the episode ended with it, but
    its task did not: the clock or the log stopped it; whether that is an end, the method says.
    """

    observations: Float[np.ndarray, "B o"]
    actions: Float[np.ndarray, "B a"]
    rewards: Float[np.ndarray, "B"]
    costs: Float[np.ndarray, "B k"]
    next_observations: Float[np.ndarray, "B o"]
    terminated: Bool[np.ndarray, "B"]
    timeouts: Bool[np.ndarray, "B"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceBatch:
    """B windows of K consecutive steps; a window that passes the end of its episode is filled with zeros there.

    `reward_to_go` and `cost_to_go` are sums from the step to the end of its episode, undiscounted, in environment
    units. `steps` is the absolute index of the step in its episode. `mask` is True where there is a step.
    """

    observations: Float[np.ndarray, "B K o"]
    actions: Float[np.ndarray, "B K a"]
    costs: Float[np.ndarray, "B K k"]
    next_observations: Float[np.ndarray, "B K o"]
    reward_to_go: Float[np.ndarray, "B K"]
    cost_to_go: Float[np.ndarray, "B K k"]
    steps: Int[np.ndarray, "B K"]
    mask: Bool[np.ndarray, "B K"]


class TransitionSampler:
    """Steps drawn uniformly, with replacement."""

    def __init__(self, dataset: OfflineDataset, batch_size: int) -> None:
        _check_positive("batch_size", batch_size)
        self._dataset = dataset
        self._batch_size = batch_size
        self._observation_row = np.arange(dataset.n_steps) + np.repeat(np.arange(len(dataset)), dataset.lengths)
        self._terminated, self._timeouts = np.zeros((2, dataset.n_steps), dtype=np.bool_)
        self._terminated[dataset.offsets[1:] - 1] = dataset.terminated
        self._timeouts[dataset.offsets[1:] - 1] = ~dataset.terminated

    def sample(self, rng: np.random.Generator) -> TransitionBatch:
        """One batch of steps."""
        data, steps = self._dataset, rng.integers(self._dataset.n_steps, size=self._batch_size)
        rows = self._observation_row[steps]
        return TransitionBatch(
            observations=data.observations[rows],
            actions=data.actions[steps],
            rewards=data.rewards[steps],
            costs=data.costs[steps],
            next_observations=data.observations[rows + 1],
            terminated=self._terminated[steps],
            timeouts=self._timeouts[steps],
        )


class SequenceSampler:
    """Windows of `context` steps: an episode by `weights` (uniform by default), then its first step uniformly.

    The A episodes of an augmentation come after the logged ones, and `weights` has one entry for each of both.

    [CDT, arXiv 2302.07351; padding on the right, as in OSRL]
    """

    def __init__(
        self,
        dataset: OfflineDataset,
        batch_size: int,
        context: int,
        weights: Float[np.ndarray, "E_plus_A"] | None = None,
        augmentation: Augmentation | None = None,
    ) -> None:
        _check_positive("batch_size", batch_size)
        _check_positive("context", context)
        self._dataset = dataset
        self._batch_size = batch_size
        further = augmentation or Augmentation.none(dataset.costs.shape[1])
        self._episodes = np.concatenate([np.arange(len(dataset)), further.episodes])
        self._more_reward = np.concatenate([np.zeros(len(dataset)), further.reward])
        self._more_costs = np.concatenate([np.zeros((len(dataset), dataset.costs.shape[1])), further.costs])
        count = len(self._episodes)
        self._cumulative = _cumulative(np.ones(count) if weights is None else weights, count)
        self._window = np.arange(context)
        self.reward_to_go, self.cost_to_go = to_go(dataset)

    def sample(self, rng: np.random.Generator) -> SequenceBatch:
        """One batch of windows."""
        data = self._dataset
        # a probability below 1 never passes the last entry, which is 1
        drawn = np.searchsorted(self._cumulative, rng.random(self._batch_size), side="right")
        episodes = self._episodes[drawn]
        lengths = data.lengths[episodes]
        first = rng.integers(lengths)
        steps = first[:, None] + self._window  # (B, K), in the episode
        mask = steps < lengths[:, None]
        steps = np.where(mask, steps, 0)
        flat = data.offsets[episodes][:, None] + steps  # (B, K), in the dataset
        rows = flat + episodes[:, None]
        return SequenceBatch(
            observations=_masked(data.observations[rows], mask),
            actions=_masked(data.actions[flat], mask),
            costs=_masked(data.costs[flat], mask),
            next_observations=_masked(data.observations[rows + 1], mask),
            reward_to_go=_masked(self.reward_to_go[flat] + self._more_reward[drawn, None], mask),
            cost_to_go=_masked(self.cost_to_go[flat] + self._more_costs[drawn, None], mask),
            steps=steps,
            mask=mask,
        )


def to_go(dataset: OfflineDataset) -> tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N k"]]:
    """Reward and costs from every step to the end of its episode, in environment units."""
    rewards, costs = np.empty_like(dataset.rewards), np.empty_like(dataset.costs)
    for start, stop in zip(dataset.offsets[:-1], dataset.offsets[1:], strict=True):
        rewards[start:stop] = returns_to_go(dataset.rewards[start:stop])
        costs[start:stop] = returns_to_go(dataset.costs[start:stop])
    return rewards, costs


def low_cost_weights(cost_returns: Float[np.ndarray, "E k"], floor: float) -> Float[np.ndarray, "E"]:
    """Probability of each episode, falling linearly with its cost: p ~ max(floor, 1 - max_j C_j / C_j^max).

    Unlike [OSRL, cost_sample], where p is proportional to max(0, 70 - C) for every task, the scale is the largest cost
    return of the data, and `floor` > 0 keeps every episode possible: what is never seen is never learnt, and a
    policy must know high costs to tell them from low ones.
    """
    if not 0.0 < floor <= 1.0:
        raise UsageError(f"floor is {floor}; it is a share of the largest weight, above 0 and at most 1")
    largest = cost_returns.max(axis=0)
    shares = cost_returns / np.where(largest > 0.0, largest, 1.0)
    weights = np.maximum(floor, 1.0 - shares.max(axis=1))
    return np.asarray(weights / weights.sum())


def even_weights(returns: Float[np.ndarray, "E d"], bins: int) -> Float[np.ndarray, "E"]:
    """Probability of each episode, the same for every filled cell of a grid over the returns.

    The range of each return is cut into `bins` equal parts; episodes that share a cell share its probability. Rare
    returns are so seen as often as common ones.
    """
    _check_positive("bins", bins)
    low, high = returns.min(axis=0), returns.max(axis=0)
    places = np.floor((returns - low) / np.where(high > low, high - low, 1.0) * bins).astype(np.int64)
    _, cell, count = np.unique(np.minimum(places, bins - 1), axis=0, return_inverse=True, return_counts=True)
    return np.asarray(1.0 / (len(count) * count[cell.reshape(-1)]))


def _cumulative(weights: Float[np.ndarray, "E"], episodes: int) -> Float[np.ndarray, "E"]:
    """Cumulative probabilities; the last is exactly 1."""
    if weights.shape != (episodes,) or not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
        raise DataError(f"weights must be {episodes} finite numbers >= 0, not all zero, one an episode")
    sums = np.cumsum(weights, dtype=np.float64)
    return np.asarray(sums / sums[-1])


def _masked(values: np.ndarray, mask: Bool[np.ndarray, "B K"]) -> np.ndarray:
    """Zeros where there is no step."""
    return values * mask.reshape(mask.shape + (1,) * (values.ndim - 2)).astype(values.dtype)


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise UsageError(f"{name} is {value}; it must be at least 1")
