"""Steps that no world took, for tests of learners that interact."""

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
