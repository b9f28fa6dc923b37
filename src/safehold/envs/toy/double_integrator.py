"""DoubleIntegrator: bring a cart back to the origin; its squared speed is the cost.

x' = x + DT v,  v' = v + DT a + w,  with w uniform on [-GUST, GUST] and x_0 uniform on [-1, 1], v_0 = 0.
A step's reward is -x'^2 DT, its cost v'^2 DT. Under linear feedback both expected returns follow from the
covariance of the state, which obeys an exact recursion; bounded noise keeps the actions provably inside their bounds.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from safehold.core.errors import UsageError
from safehold.core.policy import Actor, Memoryless
from safehold.core.spec import Box, TaskSpec
from safehold.envs.adapter import Task

HORIZON = 100
DT = 0.1
"""Seconds a step."""
GUST = 0.05
"""Largest change of the speed by noise in a step."""
STRONGEST = 5.0
"""Largest acceleration."""

_DRIFT = np.array([[1.0, DT], [0.0, 1.0]])
_INPUT = np.array([0.0, DT])


class DoubleIntegrator:
    """Observation: position and speed."""

    def reset(self, *, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
        """At rest, somewhere between -1 and 1."""
        rng = np.random.default_rng(seed)
        self._x, self._v = rng.uniform(-1.0, 1.0), 0.0
        self._gusts = rng.uniform(-GUST, GUST, HORIZON)
        self._steps = 0
        return np.array([self._x, self._v]), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One step of DT seconds."""
        self._x += DT * self._v
        self._v += DT * float(action[0]) + float(self._gusts[self._steps])
        self._steps += 1
        return np.array([self._x, self._v]), -DT * self._x**2, False, False, {"cost": DT * self._v**2}

    def close(self) -> None:
        """Holds nothing."""


@dataclass(frozen=True, slots=True)
class Feedback:
    """a = -stiffness x - damping v.

    Raises:
        UsageError: if some start and gusts would lead to an action beyond STRONGEST, which the formulas exclude.
    """

    stiffness: float
    damping: float

    def __post_init__(self) -> None:
        worst = self.largest_action()
        if not worst <= STRONGEST:
            raise UsageError(
                f"stiffness {self.stiffness} and damping {self.damping} can ask for an acceleration of {worst:.3g}, "
                f"beyond {STRONGEST}; the expected returns hold for actions that are never clipped"
            )

    def start(self, n: int, rng: np.random.Generator) -> Actor:  # noqa: ARG002  (nothing is drawn)
        """An actor for n fresh episodes."""
        gain = np.array([[self.stiffness], [self.damping]])
        return Memoryless(lambda observations: -(observations @ gain))

    def largest_action(self) -> float:
        """The largest |a| over all starts and gusts: the sum of the absolute impulse responses."""
        closed, gain = self._closed_loop(), np.array([self.stiffness, self.damping])
        start, impulse = np.array([1.0, 0.0]), np.array([0.0, GUST])
        worst, gusts = 0.0, 0.0
        for _ in range(HORIZON):
            worst = max(worst, abs(float(gain @ start)) + gusts)
            gusts += abs(float(gain @ impulse))
            start, impulse = closed @ start, closed @ impulse
        return worst

    def expected_reward_return(self) -> float:
        """-DT times the sum of E x_t^2 for t = 1 to HORIZON."""
        return -DT * float(np.sum(self._second_moments()[:, 0]))

    def expected_cost_return(self) -> float:
        """DT times the sum of E v_t^2 for t = 1 to HORIZON."""
        return DT * float(np.sum(self._second_moments()[:, 1]))

    def _closed_loop(self) -> Float[np.ndarray, "2 2"]:
        return _DRIFT - np.outer(_INPUT, [self.stiffness, self.damping])

    def _second_moments(self) -> Float[np.ndarray, "T 2"]:
        """E x_t^2 and E v_t^2 for t = 1 to HORIZON: S' = C S C^T + diag(0, GUST^2 / 3), S_0 = diag(1/3, 0)."""
        closed, moments = self._closed_loop(), np.diag([1 / 3, 0.0])
        diagonals = np.empty((HORIZON, 2))
        for t in range(HORIZON):
            moments = closed @ moments @ closed.T + np.diag([0.0, GUST**2 / 3])
            diagonals[t] = np.diag(moments)
        return diagonals


TASK = Task(
    spec=TaskSpec(
        env_id="toy/DoubleIntegrator",
        observation_size=2,
        action=Box(low=(-STRONGEST,), high=(STRONGEST,)),
        horizon=HORIZON,
        cost_units=("squared speed times seconds, (m/s)^2 s",),
    ),
    world=DoubleIntegrator,
)
