"""A small network with squashed Gaussian actions, as a frozen policy: numpy only, so that it travels anywhere."""

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32

from safehold.core.errors import DataError
from safehold.core.policy import Actor, Memoryless
from safehold.core.spec import Box
from safehold.learn.actions import middle_and_half
from safehold.learn.gaussian_policy import GaussianPolicy
from safehold.nn.actors import TanhGaussianActor
from safehold.nn.mlp import linear_layers
from safehold.nn.tensors import to_array


@dataclass(frozen=True, slots=True)
class SquashedPolicy:
    """a = middle + half tanh(mean(o) + noise sd(o) xi): a relu network with two outputs an action entry.

    `weights` are (in, out) matrices, so that a layer is x @ weight + bias; the last gives all means, then all log sds,
    which are held inside `log_sd_range`. `noise` is the share of the learnt noise that is used: 1 as it was learnt, 0
    for none. Everything is float32.
    """

    weights: tuple[Float32[np.ndarray, "_ _"], ...]
    biases: tuple[Float32[np.ndarray, "_"], ...]
    log_sd_range: tuple[float, float]
    action: Box
    noise: float = 1.0

    def __post_init__(self) -> None:
        arrays = (*self.weights, *self.biases)
        if not all(np.isfinite(array).all() for array in arrays):
            raise DataError("a policy's weight is not finite; it was saved from a diverged run")
        if self.weights[-1].shape[1] != 2 * self.action.size:
            raise DataError(
                f"the network has {self.weights[-1].shape[1]} outputs, expected a mean and a log sd for each of the "
                f"task's {self.action.size} action entries"
            )
        for array in arrays:
            array.flags.writeable = False

    def start(self, n: int, rng: np.random.Generator) -> Actor:  # noqa: ARG002 - any number of rows is answered
        """An actor for n episodes; it has no memory, only `rng`."""
        return Memoryless(lambda observations: self.draw(observations, rng))

    def without_noise(self) -> "SquashedPolicy":
        """The policy that acts by the tanh of its mean."""
        return replace(self, noise=0.0)

    @property
    def noise_level(self) -> float:
        """The share of the learnt noise that is used; how much that is depends on the observation."""
        return self.noise

    def means(self, observations: Float[np.ndarray, "n o"]) -> Float32[np.ndarray, "n a"]:
        """Actions without noise."""
        return self._squashed(self._outputs(observations)[0])

    def draw(self, observations: Float[np.ndarray, "n o"], rng: np.random.Generator) -> Float32[np.ndarray, "n a"]:
        """Actions with noise, inside their bounds."""
        mean, log_sd = self._outputs(observations)
        if self.noise == 0.0:
            return self._squashed(mean)
        drawn = rng.standard_normal(mean.shape, dtype=np.float32)
        return self._squashed(mean + np.float32(self.noise) * np.exp(np.clip(log_sd, *self.log_sd_range)) * drawn)

    def _outputs(self, observations: Float[np.ndarray, "n o"]) -> tuple[np.ndarray, np.ndarray]:
        """Mean and log sd before the tanh."""
        hidden = observations.astype(np.float32)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            hidden = np.maximum(hidden @ weight + bias, np.float32(0.0))
        outputs = hidden @ self.weights[-1] + self.biases[-1]
        return outputs[:, : self.action.size], outputs[:, self.action.size :]

    def _squashed(self, inner: Float32[np.ndarray, "n a"]) -> Float32[np.ndarray, "n a"]:
        middle, half = middle_and_half(self.action)
        return self.action.clip((middle + half * np.tanh(inner)).astype(np.float32))


@runtime_checkable
class Drawn(Protocol):
    """A policy whose noisy actions depend on the observation alone."""

    def draw(self, observations: Float[np.ndarray, "n o"], rng: np.random.Generator) -> Float32[np.ndarray, "n a"]:
        """Actions with noise, inside their bounds."""
        ...


class SquashedExplorer:
    """A SquashedPolicy, or a guide, as an off-policy learner explores with it."""

    def __init__(self, policy: Drawn, rng: np.random.Generator) -> None:
        self._policy = policy
        self._rng = rng

    def act(self, observations: Float[np.ndarray, "n o"]) -> Float[np.ndarray, "n a"]:
        """Noisy actions, inside their bounds."""
        return self._policy.draw(observations, self._rng)


class UniformExplorer:
    """Uniform actions between the bounds: how an off-policy learner begins."""

    def __init__(self, action: Box, rng: np.random.Generator) -> None:
        self._low, self._high = np.array(action.low), np.array(action.high)
        self._rng = rng

    def act(self, observations: Float[np.ndarray, "n o"]) -> Float[np.ndarray, "n a"]:
        """Random actions; nothing is looked at."""
        return self._rng.uniform(self._low, self._high, (len(observations), len(self._low))).astype(np.float32)


def freeze_squashed(actor: TanhGaussianActor, log_sd_range: tuple[float, float], action: Box) -> SquashedPolicy:
    """A policy from a copy of an actor's weights."""
    layers = linear_layers(actor.perceptron)
    return SquashedPolicy(
        weights=tuple(np.ascontiguousarray(to_array(layer.weight).T) for layer in layers),
        biases=tuple(to_array(layer.bias) for layer in layers),
        log_sd_range=log_sd_range,
        action=action,
    )


NoisyPolicy = GaussianPolicy | SquashedPolicy
"""What online learners learn: policies with noise, that can do without it."""
