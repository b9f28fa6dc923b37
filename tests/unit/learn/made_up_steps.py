"""Steps that no world took, for tests of learners that interact."""

from typing import Any

import numpy as np

from safehold.core.spec import Box, TaskSpec
from safehold.rollout.steps import FinishedEpisode, StepBatch

SPEC = TaskSpec(env_id="Plane", observation_size=3, action=Box((-1.0, -2.0), (1.0, 2.0)), horizon=10)


def made_up_batch(seed: int = 0, episode_costs: tuple[float, ...] = (5.0,)) -> StepBatch:
    rng = np.random.default_rng(seed)
    steps, n = 16, 2
    return StepBatch(
        observations=rng.standard_normal((steps, n, 3)).astype(np.float32),
        actions=rng.standard_normal((steps, n, 2)).astype(np.float32),
        rewards=rng.standard_normal((steps, n)),
        costs=rng.random((steps, n, 1)),
        next_observations=rng.standard_normal((steps, n, 3)).astype(np.float32),
        terminated=rng.random((steps, n)) < 0.1,
        ended=rng.random((steps, n)) < 0.2,
        episodes=tuple(FinishedEpisode(1.0, np.array([cost]), np.array([cost / 5]), 10) for cost in episode_costs),
    )


def bandit_batch(observations: np.ndarray, actions: np.ndarray, price: float) -> StepBatch:
    """One-step episodes, (1, n) of them: reward a_0, cost `price` where a_0 > 0."""
    costs = price * (actions[..., :1] > 0).astype(np.float64)
    over = np.ones(actions.shape[:2], np.bool_)
    return StepBatch(
        observations=observations,
        actions=actions,
        rewards=actions[..., 0].astype(np.float64),
        costs=costs,
        next_observations=observations,
        terminated=over,
        ended=over,
        episodes=tuple(FinishedEpisode(0.0, cost, cost, 1) for cost in costs[0]),
    )


def mean_after_bandits(learner: Any, updates: int, price: float, n: int) -> float:
    """The mean of a_0 that was learnt from so many batches of n such episodes."""
    rng = np.random.default_rng(1)
    observations = np.zeros((1, n, 3), np.float32)
    for _ in range(updates):
        learner.update(bandit_batch(observations, learner.explorer(rng).act(observations[0])[None], price))
    return float(learner.policy().means(np.zeros((1, 3), np.float32))[0, 0])
