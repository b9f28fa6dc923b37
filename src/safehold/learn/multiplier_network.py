"""Lagrange multipliers that depend on the state: lambda(s) is a network's output, and rises where a limit is broken."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from safehold.core.config import Config
from safehold.learn.learner import State
from safehold.learn.parts import Part
from safehold.nn.mlp import linear_layers, mlp
from safehold.nn.tensors import to_array


class MultiplierNetworkConfig(Config):
    """The network, and how it ascends."""

    hidden: tuple[PositiveInt, ...] = (256, 256)
    """Sizes of its hidden layers."""
    initial: PositiveFloat = 0.05
    """lambda everywhere before the first step, in reward units per cost unit. [FAC: softplus(-3)]"""
    learning_rate: PositiveFloat = 1e-4
    """Adam's step size; FAC has 5e-6, for 3 million steps. Too large, it winds lambda up before the policy answers."""
    interval: PositiveInt = 12
    """Gradient steps of the policy for one of lambda. [FAC]"""
    warm_up: NonNegativeInt = 500
    """Gradient steps before the first of lambda: a critic's first guesses are no violations."""
    largest: PositiveFloat = 100.0
    """lambda is held at this."""
    largest_violation: PositiveFloat = 100.0
    """A state's violation counts as this at most, in the units of what is limited. [RCRL]"""
    largest_slack: NonNegativeFloat = 10.0
    """A state's slack counts as this at most. [RCRL]"""


class MultiplierNetwork:
    """lambda(s) = softplus(perceptron(s)), held at `largest`; ascends on E[lambda(s) (what is limited - limit)].

    lambda(s) <- lambda(s) + beta (J_c(s) - w), as far as one network can do so for all states at once.
    [lecture notes, Eq. (6); FAC, arXiv 2105.10682]
    """

    def __init__(self, inputs: int, config: MultiplierNetworkConfig, generator: torch.Generator) -> None:
        network = _Softplus(inputs, config, generator)
        self._part = Part("multiplier", network, config.learning_rate)
        self._config = config
        self._offers = 0

    def __call__(self, observations: Float[Tensor, "B o"]) -> Float[Tensor, "B"]:
        """Multipliers in each state, in reward units per cost unit, without gradient."""
        with torch.no_grad():
            return self._part.network(observations)

    def offer(self, observations: Float[Tensor, "B o"], violations: Float[Tensor, "B"]) -> None:
        """A batch of states with what is limited less the limit there; every `interval`-th makes a step.

        Raises:
            ModelError: if the loss is not finite.
        """
        self._offers += 1
        config = self._config
        if self._offers <= config.warm_up or self._offers % config.interval:
            return
        counted = violations.clamp(-config.largest_slack, config.largest_violation)
        self._part.descend(-(self._part.network(observations) * counted).mean())

    def frozen(self) -> "MultiplierField":
        """A copy of what it says now."""
        layers = linear_layers(self._part.network)
        return MultiplierField(
            weights=tuple(np.ascontiguousarray(to_array(layer.weight).T) for layer in layers),
            biases=tuple(to_array(layer.bias) for layer in layers),
            largest=self._config.largest,
        )

    def state(self) -> State:
        """Weights, moments, and how many batches were offered."""
        return State.merge(State(meta={"offers": self._offers}), self._part.state().under("network"))

    def restore(self, state: State) -> None:
        """Goes back to a saved state."""
        offers = int(state.meta["offers"])
        self._part.restore(state.part("network"))
        self._offers = offers


class _Softplus(nn.Module):
    """The network. ELU and a constant start, as FAC has them."""

    def __init__(self, inputs: int, config: MultiplierNetworkConfig, generator: torch.Generator) -> None:
        super().__init__()
        sizes = (inputs, *config.hidden, 1)
        self._perceptron = mlp(sizes, generator=generator, activation=nn.ELU, output_gain=0.01)
        self._largest = config.largest
        with torch.no_grad():
            linear_layers(self._perceptron)[-1].bias.fill_(float(np.log(np.expm1(config.initial))))

    def forward(self, observations: Float[Tensor, "B o"]) -> Float[Tensor, "B"]:
        """lambda, at most `largest`."""
        return nn.functional.softplus(self._perceptron(observations)[:, 0]).clamp(max=self._largest)


@dataclass(frozen=True, slots=True)
class MultiplierField:
    """lambda over observations, frozen: numpy only. `weights` are (in, out)."""

    weights: tuple[Float32[np.ndarray, "_ _"], ...]
    biases: tuple[Float32[np.ndarray, "_"], ...]
    largest: float

    def __call__(self, observations: Float[np.ndarray, "n o"]) -> Float[np.ndarray, "n"]:
        """Multipliers in each state, in reward units per cost unit."""
        hidden = observations.astype(np.float32)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            hidden = hidden @ weight + bias
            hidden = np.where(hidden > 0, hidden, np.expm1(np.minimum(hidden, 0)))
        outputs = (hidden @ self.weights[-1] + self.biases[-1])[:, 0].astype(np.float64)
        return np.minimum(np.logaddexp(0.0, outputs), self.largest)
