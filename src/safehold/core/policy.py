"""Policies: what was learnt, immutable; actors: a policy living through one batch of episodes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from safehold.core.errors import UsageError
from safehold.core.target import Target


@runtime_checkable
class Actor(Protocol):
    """A policy inside n episodes that run in lockstep; owns its context window, if it has one."""

    def act(self, observations: Float[np.ndarray, "n o"]) -> Float[np.ndarray, "n a"]:
        """One action for each episode, inside the action bounds."""
        ...

    def observe(
        self, actions: Float[np.ndarray, "n a"], rewards: Float[np.ndarray, "n"], costs: Float[np.ndarray, "n k"]
    ) -> None:
        """What the step did: the executed actions, their rewards and named costs."""
        ...


@dataclass(frozen=True, slots=True)
class Memoryless:
    """An actor by a rule of the current observations alone."""

    rule: Callable[[np.ndarray], np.ndarray]

    def act(self, observations: Float[np.ndarray, "n o"]) -> Float[np.ndarray, "n a"]:
        """The rule's actions, in float32."""
        return self.rule(observations).astype(np.float32)

    def observe(
        self, actions: Float[np.ndarray, "n a"], rewards: Float[np.ndarray, "n"], costs: Float[np.ndarray, "n k"]
    ) -> None:
        """Nothing is remembered."""


@runtime_checkable
class BudgetedActor(Actor, Protocol):
    """An actor that aims at cost returns, and can be told in mid-episode to aim lower."""

    def lower(self, to_go: Float[np.ndarray, "n k"]) -> None:
        """From the next action on each episode is to cost at most so much more, by cost; inf says nothing.

        It never raises what the actor aims at by itself.
        """
        ...


@runtime_checkable
class Policy(Protocol):
    """A frozen rule from what was seen to what to do."""

    def start(self, n: int, rng: np.random.Generator) -> Actor:
        """An actor for n fresh episodes; every draw it makes comes from `rng`."""
        ...


@runtime_checkable
class PolicyFamily(Protocol):
    """Policies with a dial: `at(z)` reads "pi_z"."""

    @property
    def target_names(self) -> tuple[str, ...]:
        """What each entry of a target means, e.g. ("reward", "cost")."""
        ...

    def at(self, target: Target) -> Policy:
        """The policy that aims at this target."""
        ...


WHICH = "policy"
"""Name of the axis of a dial that numbers policies, from 0 on."""


@dataclass(frozen=True, slots=True)
class Alternatives:
    """Several policies with one dial, as one with an axis more: which of them, a finite context of the deployment.

    Raises:
        UsageError: if their dials differ, or there is no policy.
    """

    families: tuple[PolicyFamily, ...]

    def __post_init__(self) -> None:
        dials = {family.target_names for family in self.families}
        if len(dials) != 1:
            raise UsageError(f"policies to choose among have the dials {sorted(dials)}; they need one, the same")

    @property
    def target_names(self) -> tuple[str, ...]:
        """The dial's own axes, then which policy."""
        return (*self.families[0].target_names, WHICH)

    def at(self, target: Target) -> Policy:
        """The policy that the last entry numbers, at the rest of the target."""
        return self.families[int(target[-1])].at(target[:-1])
