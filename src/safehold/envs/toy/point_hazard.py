"""PointHazard: cross a plane from left to right, with a disc in the middle that costs 1 for every step inside.

A point starts left of x = -1 and moves by its action, at most MAX_STEP along each axis. A step's reward is the way
gained along x less TIME_PRICE; the task is done, and the episode terminates, at x >= 1. The start's x is uniform on
[-1 - MAX_STEP, -1): a straight crossing in steps of MAX_STEP / m then meets the disc with a uniform phase, so
that the expected number of steps inside a chord of length c is c / step, exactly.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from safehold.core.errors import UsageError
from safehold.core.policy import Actor, Memoryless
from safehold.core.spec import Box, TaskSpec
from safehold.envs.adapter import Task

HORIZON = 100
MAX_STEP = 0.1
"""Longest move along one axis in a step."""
RADIUS = 0.4
"""Radius of the disc around the origin."""
TIME_PRICE = 0.02
"""What a step takes off the reward: the way round the disc is safe but slower."""


class PointHazard:
    """Observation: x, y, and the distance to the edge of the disc (negative inside)."""

    def reset(self, *, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
        """On the x axis, left of the disc."""
        self._x = -1.0 - MAX_STEP * (1.0 - np.random.default_rng(seed).random())
        self._y = 0.0
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One move; an action of 1 moves by MAX_STEP."""
        way = MAX_STEP * float(action[0])
        self._x += way
        self._y += MAX_STEP * float(action[1])
        cost = float(math.hypot(self._x, self._y) < RADIUS)
        return self._observation(), way - TIME_PRICE, self._x >= 1.0, False, {"cost": cost}

    def close(self) -> None:
        """Holds nothing."""

    def _observation(self) -> np.ndarray:
        return np.array([self._x, self._y, math.hypot(self._x, self._y) - RADIUS])


@dataclass(frozen=True, slots=True)
class Detour:
    """Climbs to y = climb * MAX_STEP left of the disc, then crosses straight in steps of MAX_STEP / slowness."""

    climb: int
    slowness: int = 1

    def __post_init__(self) -> None:
        if not (self.climb >= 0 and self.slowness >= 1 and self.climb + 22 * self.slowness <= HORIZON):
            raise UsageError(
                f"climb {self.climb} and slowness {self.slowness}: integers >= 0 and >= 1 that cross in {HORIZON} steps"
            )

    def start(self, n: int, rng: np.random.Generator) -> Actor:  # noqa: ARG002  (nothing is drawn)
        """An actor for n fresh episodes."""
        return Memoryless(self._moves)

    def _moves(self, observations: np.ndarray) -> np.ndarray:
        climbing = observations[:, 1] < MAX_STEP * (self.climb - 0.5)
        return np.where(climbing[:, None], [[0.0, 1.0]], [[1.0 / self.slowness, 0.0]])

    def expected_steps(self) -> float:
        """Climb, plus the mean way along x over the step's length.

        The mean way leads from -1 - MAX_STEP / 2 to half a step beyond 1, where a lattice of uniform phase ends.
        """
        step = MAX_STEP / self.slowness
        return self.climb + (2 + MAX_STEP / 2 + step / 2) / step

    def expected_reward_return(self) -> float:
        """The mean way along x, less the price of the expected steps."""
        return 2 + MAX_STEP / 2 + MAX_STEP / self.slowness / 2 - TIME_PRICE * self.expected_steps()

    def expected_cost_return(self) -> float:
        """Length of the disc's chord at this height, over the step's length: 2 sqrt(r^2 - y^2) / step."""
        height = self.climb * MAX_STEP
        return 2 * math.sqrt(max(0.0, RADIUS**2 - height**2)) * self.slowness / MAX_STEP


TASK = Task(
    spec=TaskSpec(
        env_id="toy/PointHazard",
        observation_size=3,
        action=Box(low=(-1.0, -1.0), high=(1.0, 1.0)),
        horizon=HORIZON,
        cost_units=("steps inside the disc",),
    ),
    world=PointHazard,
)
