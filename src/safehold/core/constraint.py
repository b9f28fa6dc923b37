"""Constraints are folds over the costs of an episode; a limit is the rule over what the fold yields."""

import math
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from safehold.core.errors import UsageError

LimitKind = Literal["mean", "chance", "cvar", "peak"]


@dataclass(frozen=True, slots=True)
class Limit:
    """What one named cost must not pass, in cost units per episode.

    kind `mean`: the expected cost return is at most `value`. kind `chance`: P(cost return > value) <= alpha.
    kind `cvar`: the mean of the worst alpha share of episodes is at most `value`. kind `peak`: the largest
    cost of a step is at most `value` in expectation over episodes.
    """

    name: str
    value: float
    kind: LimitKind = "mean"
    alpha: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.value) and self.value >= 0):
            raise UsageError(
                f"limit on {self.name!r} is {self.value}; a limit is a finite number >= 0, in cost units per episode"
            )
        needs_alpha = self.kind in ("chance", "cvar")
        if needs_alpha and not (self.alpha is not None and 0 < self.alpha < 1):
            raise UsageError(
                f"limit on {self.name!r}: kind {self.kind!r} needs alpha between 0 and 1, got {self.alpha}"
            )
        if not needs_alpha and self.alpha is not None:
            raise UsageError(f"limit on {self.name!r}: kind {self.kind!r} takes no alpha, got {self.alpha}")

    def holds(self, value: float) -> bool:
        """True only for a value at or under the limit; NaN is a violation."""
        return value <= self.value


@runtime_checkable
class Constraint(Protocol):
    """A fold: scores an episode, augments what a state-wise learner sees, names what a GP models."""

    @property
    def name(self) -> str:
        """The named cost that is folded."""
        ...

    def start(self, n: int) -> Float[np.ndarray, "n"]:
        """Running values of n episodes before their first step."""
        ...

    def step(self, running: Float[np.ndarray, "n"], cost: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        """Running values after one more step of cost; never decreases."""
        ...


@dataclass(frozen=True, slots=True)
class SumCost:
    """Sum of a named cost over the episode: the budget of a constrained Markov decision process."""

    name: str = "cost"

    def start(self, n: int) -> Float[np.ndarray, "n"]:
        """Zeros: nothing is spent before the first step."""
        return np.zeros(n)

    def step(self, running: Float[np.ndarray, "n"], cost: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        """Adds the step's cost."""
        return running + cost


@dataclass(frozen=True, slots=True)
class MaximumCost:
    """Largest cost of a single step: the state-wise constraint."""

    name: str = "cost"

    def start(self, n: int) -> Float[np.ndarray, "n"]:
        """Zeros: costs are >= 0, so 0 is the smallest maximum."""
        return np.zeros(n)

    def step(self, running: Float[np.ndarray, "n"], cost: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        """Keeps the larger of the two; NaN stays NaN, so a missing cost never hides."""
        return np.maximum(running, cost)


def fold(constraint: Constraint, costs: Float[np.ndarray, "T"]) -> float:
    """The constraint's value over one episode's costs of its name."""
    running = constraint.start(1)
    for cost in costs:
        running = constraint.step(running, np.array([cost], dtype=np.float64))
    return float(running[0])
