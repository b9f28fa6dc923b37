"""Policy families with a dial for the limits: trained once, told the most that an episode is to cost.

What is left of a limit falls by what every step costs; a method says what it does with that.   [CAPS, arXiv 2412.18946;
CCAC, ICLR 2025]
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from safehold.core.errors import UsageError
from safehold.core.policy import Actor
from safehold.core.target import Target
from safehold.learn.offline.actor_critic import ActorCriticLearnt, ConfigOf, NetworkOf


class LimitFamily(ActorCriticLearnt[ConfigOf, NetworkOf]):
    """Policies with a dial for the limits: the most that an episode is to cost, of each named cost."""

    @abstractmethod
    def choose(
        self, observations: Float[np.ndarray, "n o"], budgets: Float[np.ndarray, "n k"]
    ) -> Float[np.ndarray, "n a"]:
        """Actions in environment units, where so much may still be spent, as `budgets` has it."""

    def budgets(self, left: Float[np.ndarray, "n k"], remaining: int) -> Float[np.ndarray, "n k"]:
        """What is left, b, were it spent evenly over the T steps that remain, in the units of a discounted critic.

        b (1 - gamma^T) / ((1 - gamma) T).   [CAPS]
        """
        discount: float = self.config.discount
        return left * (1.0 - discount**remaining) / ((1.0 - discount) * remaining)

    @property
    def target_names(self) -> tuple[str, ...]:
        """The names of the costs."""
        return self.spec.cost_names

    def at(self, target: Target) -> "LimitPolicy":
        """The policy that heeds these limits.

        Raises:
            UsageError: if there is not one finite limit >= 0 for every cost.
        """
        if len(target) != len(self.target_names) or not np.isfinite(target).all() or min(target) < 0.0:
            raise UsageError(f"target {target}: expected finite limits >= 0 on {self.target_names}, in cost units")
        return LimitPolicy(self, tuple(float(value) for value in target))


@dataclass(frozen=True, slots=True)
class LimitPolicy:
    """A family at some limits; acts without noise."""

    family: LimitFamily[Any, Any]
    limits: Target

    def start(self, n: int, rng: np.random.Generator) -> Actor:  # noqa: ARG002 - it draws nothing
        """An actor for n fresh episodes."""
        return LimitActor(self.family, self.limits, n)


class LimitActor:
    """n episodes in lockstep; of the past it knows what was spent."""

    def __init__(self, family: LimitFamily[Any, Any], limits: Target, n: int) -> None:
        self._family = family
        self._left = np.tile(np.array(limits, dtype=np.float64), (n, 1))
        self._step = 0

    def act(self, observations: Float[np.ndarray, "n o"]) -> Float[np.ndarray, "n a"]:
        """What the family chooses with what is left.

        Raises:
            UsageError: if the episode is longer than the task's horizon.
        """
        family = self._family
        remaining = family.spec.horizon - self._step
        if remaining < 1:
            raise UsageError(
                f"step {self._step} of an episode of {family.spec.env_id}, whose horizon is {family.spec.horizon}"
            )
        return family.choose(observations, family.budgets(self._left, remaining))

    def observe(
        self,
        actions: Float[np.ndarray, "n a"],  # noqa: ARG002
        rewards: Float[np.ndarray, "n"],  # noqa: ARG002
        costs: Float[np.ndarray, "n k"],
    ) -> None:
        """Takes what the step cost off what is left."""
        self._left = self._left - costs
        self._step += 1

    def lower(self, to_go: Float[np.ndarray, "n k"]) -> None:
        """No episode is to cost more than this from here on."""
        self._left = np.minimum(self._left, to_go)
