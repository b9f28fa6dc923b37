"""Lagrange multipliers: they rise while a constraint is broken, and never fall below zero."""

import math

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from safehold.core.config import Config
from safehold.core.constraint import Limit
from safehold.core.errors import ModelError
from safehold.learn.checkpoint import match_tensors
from safehold.learn.learner import State

LARGEST_LOG = 5.0
"""Of a `LogMultiplier`; OSRL's."""


class MultiplierConfig(Config):
    """Gains of the multiplier's controller; violations are in the units of what is limited, see `ScalarMultiplier`."""

    initial: NonNegativeFloat = 0.0
    """Multiplier before the first update, in reward units per cost unit."""
    integral_gain: NonNegativeFloat = 0.01
    """Step size beta of gradient ascent on the multiplier, lambda <- [lambda + beta (J_c - d)]_+."""
    proportional_gain: NonNegativeFloat = 0.0
    """Answers a violation at once, and lets go as soon as it is gone; damps the swings of pure ascent."""
    derivative_gain: NonNegativeFloat = 0.0
    """Answers a cost that rises, before it breaks the limit; a cost that falls is not rewarded."""
    largest_step: PositiveFloat = 50.0
    """Violations count as at most this in one update, either way, so that a reckless start does not wind it up."""


class ScalarMultiplier:
    """lambda for one limit on the mean cost return.

    I <- [I + integral_gain (J_c - d)]_+,
    lambda = [I + proportional_gain (J_c - d) + derivative_gain [J_c - J_c']_+]_+,

    where J_c is the mean undiscounted cost return of the latest episodes, d the limit and J_c' the J_c of the
    update before.   [Stooke et al., arXiv 2007.03964, Alg. 2] With the first gain alone this is plain gradient
    ascent, lambda <- [lambda + beta (J_c - d)]_+, the scalar Lagrangian's Eq. (4). Offline there are no episodes: J_c
    is what a critic says, in the mean over a batch, and d the limit in the critic's discounted units
    (`learn.offline.actor_critic.discounted_limit`). Steps are plain: an optimiser
    that divides by the gradient's size, such as Adam, would move lambda by the same amount however large the
    violation is.
    """

    def __init__(self, limit: Limit, config: MultiplierConfig) -> None:
        self.limit = limit
        self._config = config
        self._integral = config.initial
        self._value = config.initial
        self._previous: float | None = None

    @property
    def value(self) -> float:
        """lambda, in reward units per cost unit; >= 0."""
        return self._value

    def update(self, mean_cost: float) -> None:
        """One step by the mean cost, of the latest episodes or of a critic.

        Raises:
            ModelError: if the mean is not finite; a cost that cannot be computed must not look like a safe one.
        """
        if not math.isfinite(mean_cost):
            raise ModelError(
                f"mean cost return of {self.limit.name!r} is {mean_cost}; the multiplier needs a finite number "
                "(check the costs, of the environment or of the log)"
            )
        config = self._config
        violation = min(max(mean_cost - self.limit.value, -config.largest_step), config.largest_step)
        rise = 0.0 if self._previous is None else max(0.0, mean_cost - self._previous)
        self._integral = max(0.0, self._integral + config.integral_gain * violation)
        self._value = max(0.0, self._integral + config.proportional_gain * violation + config.derivative_gain * rise)
        self._previous = mean_cost

    def state(self) -> State:
        """The controller's memory."""
        return State(meta={"integral": self._integral, "value": self._value, "previous": self._previous})

    def restore(self, state: State) -> None:
        """Goes back to a saved memory."""
        self._integral = float(state.meta["integral"])
        self._value = float(state.meta["value"])
        previous = state.meta["previous"]
        self._previous = None if previous is None else float(previous)


class LogMultiplier:
    """Multipliers of several constraints that move in their logarithms: log alpha <- log alpha + rate alpha excess.

    Gradient ascent on alpha excess in log alpha, from alpha = 1 and with log alpha inside plus or minus `LARGEST_LOG`:
    what BEAR has for its discrepancy and CPQ for the cost of unknown actions.   [OSRL, algorithms/bearl.py, cpq.py]
    """

    def __init__(self, count: int, rate: float) -> None:
        self._log = torch.zeros(count)
        self._rate = rate

    @property
    def values(self) -> Float[Tensor, "k"]:
        """Each alpha, > 0."""
        return torch.exp(self._log)

    def rise(self, excess: Float[Tensor, "k"]) -> None:
        """One step by how far each constraint is broken; falls where it is not.

        Raises:
            ModelError: if an excess is not finite.
        """
        if not bool(torch.isfinite(excess).all()):
            raise ModelError(f"a constraint is broken by {excess.tolist()}; its multiplier needs a finite number")
        self._log = (self._log + self._rate * self.values * excess).clamp(-LARGEST_LOG, LARGEST_LOG)

    def state(self) -> State:
        """The logarithms."""
        return State({"log": self._log.clone()})

    def restore(self, state: State) -> None:
        """Goes back to saved logarithms."""
        match_tensors({"log": (self._log.shape, self._log.dtype)}, state.tensors, "multiplier")
        self._log = state.tensors["log"].clone()
