"""Constraints are folds over the costs of an episode; a limit is the rule over what the fold yields."""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from safehold.core.errors import UsageError

LimitKind = Literal["mean", "chance", "cvar", "peak"]

SPREAD_EPISODES = 5
"""Fewest episodes from which a spread is estimated: a chance or cvar limit needs as many an ask."""


@dataclass(frozen=True, slots=True)
class Limit:
    """What one named cost must not pass, in cost units per episode.

    kind `mean`: the expected cost return is at most `value`. kind `chance`: P(cost return > value) <= alpha.
    kind `cvar`: the mean of the worst alpha share of episodes is at most `value`. kind `peak`: the largest
    cost of a step is at most `value` in expectation over episodes.

    What is limited is the statistic mean + kappa sd over the episodes of a target. For chance and cvar it equals the
    quantile and the tail mean of *normal* episodes, and is approximate otherwise.
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

    @property
    def approximate(self) -> bool:
        """Whether the limited statistic rests on episodes being normal."""
        return self.kind in ("chance", "cvar")

    @property
    def kappa(self) -> float:
        """Weight of the standard deviation in the limited statistic; q is the standard normal (1 - alpha)-quantile.

        0 for mean and peak; q for chance: P(X > mean + q sd) = alpha; phi(q) / alpha for cvar: that is the mean of a
        standard normal above q.
        """
        if not self.approximate or self.alpha is None:
            return 0.0
        normal = NormalDist()
        quantile = normal.inv_cdf(1.0 - self.alpha)
        return quantile if self.kind == "chance" else normal.pdf(quantile) / self.alpha

    def statistic(self, values: Float[np.ndarray, "_"]) -> float:
        """The limited statistic of episodes: mean + kappa s / c4, s with n - 1 degrees, E[s] = c4 sd if normal.

        +inf where a spread is needed and there is but one episode: absence of evidence is a violation.
        """
        mean = float(np.mean(values))
        return self.statistic_of(len(values), mean, float(np.sum((values - mean) ** 2)))

    def statistic_of(self, n: int, mean: float, squares: float) -> float:
        """The same of n episodes with this mean and this sum of squared deviations from it."""
        kappa = self.kappa
        if kappa == 0.0:
            return mean
        return mean + kappa * math.sqrt(squares / (n - 1)) / _c4(n) if n > 1 else math.inf

    def noise_factor(self, n: int) -> float:
        """Variance of the statistic of n normal episodes of variance 1: 1 / n + kappa^2 (1 / c4^2 - 1).

        Mean and s are independent, and Var(s) = 1 - c4^2; for many episodes the second term is kappa^2 / (2 (n - 1)).
        """
        kappa = self.kappa
        return 1.0 / n if kappa == 0.0 else 1.0 / n + kappa**2 * (1.0 / _c4(n) ** 2 - 1.0)


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


def _c4(n: int) -> float:
    """E[s] / sd of n >= 2 normal values: sqrt(2 / (n - 1)) Gamma(n / 2) / Gamma((n - 1) / 2)."""
    return math.sqrt(2.0 / (n - 1)) * math.exp(math.lgamma(n / 2.0) - math.lgamma((n - 1) / 2.0))


def fold(constraint: Constraint, costs: Float[np.ndarray, "T"]) -> float:
    """The constraint's value over one episode's costs of its name."""
    running = constraint.start(1)
    for cost in costs:
        running = constraint.step(running, np.array([cost], dtype=np.float64))
    return float(running[0])
