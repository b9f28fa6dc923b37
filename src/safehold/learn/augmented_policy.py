"""A policy that keeps its episode's dearest step in mind: what it observes is followed by that cost."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from safehold.core.constraint import Constraint, MaximumCost
from safehold.core.policy import Actor
from safehold.learn.gaussian_policy import GaussianPolicy
from safehold.learn.squashed_policy import NoisyPolicy


@dataclass(frozen=True, slots=True)
class AugmentedPolicy:
    """`inner` acts on the observation and the largest cost of a step so far, of the named cost in `column`."""

    inner: GaussianPolicy
    column: int

    def start(self, n: int, rng: np.random.Generator) -> "AugmentedActor":
        """An actor for n episodes, before whose first step nothing has cost anything."""
        return self.remembering(self.inner.start(n, rng), n)

    def remembering(self, inner: Actor, n: int) -> "AugmentedActor":
        """Another actor of the inner policy's observations, for n episodes from their first step on."""
        return AugmentedActor(inner, MaximumCost(), self.column, n)

    def without_noise(self) -> "AugmentedPolicy":
        """The policy that acts by its mean."""
        return replace(self, inner=self.inner.without_noise())

    @property
    def noise_level(self) -> float:
        """Mean over action entries of the noise's standard deviation, in action units."""
        return self.inner.noise_level


class AugmentedActor:
    """An actor that is shown what a constraint has come to so far, as the last entry of every observation."""

    def __init__(self, inner: Actor, constraint: Constraint, column: int, n: int) -> None:
        self._inner = inner
        self._constraint = constraint
        self._column = column
        self._running = constraint.start(n)

    def act(self, observations: Float[np.ndarray, "n o"]) -> Float[np.ndarray, "n a"]:
        """The inner actor's actions."""
        return self._inner.act(np.hstack([observations, self._running[:, None]]).astype(np.float32))

    def observe(
        self, actions: Float[np.ndarray, "n a"], rewards: Float[np.ndarray, "n"], costs: Float[np.ndarray, "n k"]
    ) -> None:
        """Takes the step's cost into account."""
        self._running = self._constraint.step(self._running, costs[:, self._column])
        self._inner.observe(actions, rewards, costs)


LearntPolicy = NoisyPolicy | AugmentedPolicy
"""What online methods learn."""
