"""A toy whose two dials are independent by construction, so that what a policy was asked for can be read off."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from safehold.core.episode import Episode
from safehold.core.policy import Policy
from safehold.core.spec import Box, TaskSpec
from safehold.data.dataset import OfflineDataset

BOX = Box((-1.0, -2.0), (1.0, 2.0))
TASK = TaskSpec(env_id="toy/Drive", observation_size=3, action=BOX, horizon=60)


@dataclass(frozen=True)
class Drive:
    """Speed and swerve: x' = 0.8 x + B a + noise. Reward is the speed; a step costs 1 where the swerve is above 0.5."""

    spec: TaskSpec = TASK

    def run(self, policy: Policy, n: int, rng: np.random.Generator) -> list[Episode]:
        x = rng.normal(0.0, 0.1, (n, 2))
        actor = policy.start(n, rng)
        seen, acted, earned, spent = [_see(x)], [], [], []
        for _ in range(self.spec.horizon):
            action = BOX.clip(np.asarray(actor.act(seen[-1]), dtype=np.float64))
            x = 0.8 * x + action * [0.5, 0.25] + rng.normal(0.0, 0.2, (n, 2))
            acted.append(action)
            earned.append(x[:, 0].copy())
            spent.append((x[:, 1:] > 0.5).astype(np.float64))
            seen.append(_see(x))
            actor.observe(acted[-1], earned[-1], spent[-1])
        return [
            Episode(
                observations=np.array([row[i] for row in seen]),
                actions=np.array([row[i] for row in acted]),
                rewards=np.array([row[i] for row in earned]),
                costs=np.array([row[i] for row in spent]),
                terminated=False,
                truncated=True,
            )
            for i in range(n)
        ]

    def logged(self, n: int, rng: np.random.Generator) -> OfflineDataset:
        """Episodes of drivers who each keep a speed and a swerve of their own."""
        goals = np.column_stack([rng.uniform(-0.5, 1.6, n), rng.uniform(-0.5, 1.5, n)])
        return OfflineDataset.of(self.run(_Driver(goals), n, rng), self.spec)


@dataclass(frozen=True)
class _Driver:
    goals: np.ndarray

    def start(self, n: int, rng: np.random.Generator) -> "_Driving":
        assert n == len(self.goals)
        return _Driving(self.goals, rng)


class _Driving:
    def __init__(self, goals: np.ndarray, rng: np.random.Generator) -> None:
        self._goals, self._rng = goals, rng

    def act(self, observations: np.ndarray) -> np.ndarray:
        wanted = (self._goals - 0.8 * observations[:, :2]) / [0.5, 0.25]
        return BOX.clip(wanted + self._rng.normal(0.0, 0.1, wanted.shape))

    def observe(self, actions: np.ndarray, rewards: np.ndarray, costs: np.ndarray) -> None:
        pass


def _see(x: np.ndarray) -> np.ndarray:
    return np.column_stack([x, np.ones(len(x))]).astype(np.float32)


@pytest.fixture(scope="session")
def drive() -> Drive:
    return Drive()


@pytest.fixture(scope="session")
def logged(drive: Drive) -> Callable[[int], OfflineDataset]:
    """Logged episodes of the toy, by number."""
    return lambda n: drive.logged(n, np.random.default_rng(7))
