"""Corridor: run as far as you can, but every metre a second above the speed limit costs.

The speed of a step is v = a + NOISE * xi, with a the commanded speed and xi standard normal. Reward is the distance
of the step, v (one second), cost is the excess max(0, v - LIMIT_SPEED), a real number. The episode ends with its clock.
"""

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from safehold.core.errors import UsageError
from safehold.core.policy import Actor, Memoryless
from safehold.core.spec import Box, TaskSpec
from safehold.envs.adapter import Task

HORIZON = 50
LIMIT_SPEED = 1.0
"""Metres a second that cost nothing."""
TOP_SPEED = 2.0
"""Fastest command, metres a second."""
NOISE = 0.2
"""Standard deviation of the gusts on the speed, metres a second."""

_NORMAL = NormalDist()


class Corridor:
    """Observation: position / HORIZON, speed of the last step, share of the time that has passed."""

    def reset(self, *, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
        """At the start, at rest."""
        self._gusts = NOISE * np.random.default_rng(seed).standard_normal(HORIZON)
        self._position, self._steps = 0.0, 0
        return self._observation(0.0), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One second at the commanded speed, plus a gust."""
        speed = float(action[0]) + float(self._gusts[self._steps])
        self._position += speed
        self._steps += 1
        return self._observation(speed), speed, False, False, {"cost": max(0.0, speed - LIMIT_SPEED)}

    def close(self) -> None:
        """Holds nothing."""

    def _observation(self, speed: float) -> np.ndarray:
        return np.array([self._position / HORIZON, speed, self._steps / HORIZON])


@dataclass(frozen=True, slots=True)
class Cruise:
    """Commands drawn uniformly from speed - spread to speed + spread, metres a second."""

    speed: float
    spread: float = 0.0

    def __post_init__(self) -> None:
        if not (self.spread >= 0 and self.speed - self.spread >= 0 and self.speed + self.spread <= TOP_SPEED):
            raise UsageError(f"speed {self.speed} +- {self.spread} must lie in 0 to {TOP_SPEED} m/s")

    def start(self, n: int, rng: np.random.Generator) -> Actor:
        """An actor for n fresh episodes."""
        low, high = self.speed - self.spread, self.speed + self.spread
        return Memoryless(lambda _: rng.uniform(low, high, (n, 1)))

    def expected_reward_return(self) -> float:
        """HORIZON * speed, in metres."""
        return HORIZON * self.speed

    def expected_cost_return(self) -> float:
        """HORIZON * E max(0, v - LIMIT_SPEED), in metres.

        With m = command - LIMIT_SPEED and s = NOISE, one command's expected excess is h(m) = s phi(m/s) + m Phi(m/s);
        its mean over a uniform command is (F(m_high) - F(m_low)) / (m_high - m_low) with the antiderivative
        F(m) = ((m^2 + s^2) Phi(m/s) + m s phi(m/s)) / 2.
        """
        low, high = self.speed - self.spread - LIMIT_SPEED, self.speed + self.spread - LIMIT_SPEED
        if self.spread == 0:
            return HORIZON * (NOISE * _NORMAL.pdf(low / NOISE) + low * _NORMAL.cdf(low / NOISE))
        return HORIZON * (_antiderivative(high) - _antiderivative(low)) / (high - low)


def _antiderivative(m: float) -> float:
    return ((m**2 + NOISE**2) * _NORMAL.cdf(m / NOISE) + m * NOISE * _NORMAL.pdf(m / NOISE)) / 2


TASK = Task(
    spec=TaskSpec(
        env_id="toy/Corridor",
        observation_size=3,
        action=Box(low=(0.0,), high=(TOP_SPEED,)),
        horizon=HORIZON,
        cost_units=(f"metres run in excess of {LIMIT_SPEED} m/s",),
    ),
    world=Corridor,
)
