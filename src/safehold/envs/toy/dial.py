"""Dial: a policy family whose true returns are a known smooth function of the target, for tests of deployment.

The world pays and charges what its action says, with noise: of the action (r, g) a step's reward is r (1 + u), its
cost g (1 + w), with u and w uniform on [-NOISE, NOISE] and drawn from the reset seed. The family answers a target
z = (R, G) with the action (J_r(z), J_g(z)) / HORIZON, so that the expected returns of its policy are

    J_r(R, G) = R (0.6 + 0.4 tanh(G / 20)),        J_g(R, G) = 0.9 G + 2 sin(G / 6) + 3 R / 100.

Asked and actual differ by a few cost units and in both directions, as they do for a learnt family: at R = 100,
G = 10 the cost is 14, at G = 30 it is 28.1.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from safehold.core.errors import UsageError
from safehold.core.policy import Actor, Memoryless
from safehold.core.spec import Box, TaskSpec
from safehold.core.target import Target
from safehold.envs.adapter import Task

HORIZON = 20
NOISE = 0.5
"""Half width of the relative noise on a step's reward and cost."""
LARGEST_REWARD, LARGEST_COST = 100.0, 40.0
"""Targets lie between 0 and these."""


class Dial:
    """Observation: share of the time that has passed, and the last reward and cost."""

    def reset(self, *, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
        """Draws the noise of the whole episode."""
        self._noise = np.random.default_rng(seed).uniform(-NOISE, NOISE, (HORIZON, 2))
        self._steps = 0
        return np.zeros(3), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Pays and charges what the action says."""
        reward, cost = (float(value) for value in action * (1.0 + self._noise[self._steps]))
        self._steps += 1
        return np.array([self._steps / HORIZON, reward, cost]), reward, False, False, {"cost": cost}

    def close(self) -> None:
        """Holds nothing."""


@dataclass(frozen=True, slots=True)
class Constant:
    """The same reward and cost a step throughout."""

    reward: float
    cost: float

    def start(self, n: int, rng: np.random.Generator) -> Actor:  # noqa: ARG002  (nothing is drawn)
        """An actor for n fresh episodes."""
        action = np.array([[self.reward, self.cost]])
        return Memoryless(lambda _: np.repeat(action, n, axis=0))


@dataclass(frozen=True, slots=True)
class DialFamily:
    """Policies with a dial whose truth is known."""

    @property
    def target_names(self) -> tuple[str, ...]:
        """Target return of the reward, target return of the cost."""
        return ("reward", "cost")

    def at(self, target: Target) -> Constant:
        """The policy that aims at (R, G)."""
        return Constant(
            reward=expected_reward_return(target) / HORIZON,
            cost=expected_cost_return(target) / HORIZON,
        )


def expected_reward_return(target: Target) -> float:
    """J_r(R, G) = R (0.6 + 0.4 tanh(G / 20))."""
    asked_reward, asked_cost = _checked(target)
    return asked_reward * (0.6 + 0.4 * math.tanh(asked_cost / 20))


def expected_cost_return(target: Target) -> float:
    """J_g(R, G) = 0.9 G + 2 sin(G / 6) + 3 R / 100."""
    asked_reward, asked_cost = _checked(target)
    return 0.9 * asked_cost + 2 * math.sin(asked_cost / 6) + 3 * asked_reward / 100


def standard_deviation(expected_return: float) -> float:
    """Standard deviation of one episode's return around its expectation J: |J| NOISE / sqrt(3 HORIZON)."""
    return abs(expected_return) * NOISE / math.sqrt(3 * HORIZON)


def _checked(target: Target) -> tuple[float, float]:
    if len(target) != 2 or not (0 <= target[0] <= LARGEST_REWARD and 0 <= target[1] <= LARGEST_COST):
        raise UsageError(f"target {target} must be (reward, cost) between 0 and ({LARGEST_REWARD:g}, {LARGEST_COST:g})")
    return target[0], target[1]


TASK = Task(
    spec=TaskSpec(
        env_id="toy/Dial",
        observation_size=3,
        action=Box(low=(0.0, 0.0), high=(LARGEST_REWARD / HORIZON, 2.5)),
        horizon=HORIZON,
        cost_units=("cost units of the toy",),
    ),
    world=Dial,
)
