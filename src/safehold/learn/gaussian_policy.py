"""A small network with Gaussian noise on its actions, as a frozen policy: numpy only, so that it travels anywhere."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Float32
from torch import nn

from safehold.core.errors import DataError
from safehold.core.spec import Box
from safehold.nn.mlp import linear_layers
from safehold.nn.tensors import to_array

OBSERVATION_CLIP = 10.0
"""Normalised observations are moved inside plus or minus this many standard deviations."""


@dataclass(frozen=True, slots=True)
class GaussianPolicy:
    """a = clip(mean(o) + sd * noise), mean = a tanh network of the normalised observation.

    `weights` are (in, out) matrices, so that a layer is x @ weight + bias. `sd` is the noise's standard deviation
    for each action entry, in action units; zeros make the policy deterministic. Everything is float32.
    """

    weights: tuple[Float32[np.ndarray, "_ _"], ...]
    biases: tuple[Float32[np.ndarray, "_"], ...]
    observation_mean: Float32[np.ndarray, "o"]
    observation_sd: Float32[np.ndarray, "o"]
    sd: Float32[np.ndarray, "a"]
    action: Box

    def __post_init__(self) -> None:
        arrays = (*self.weights, *self.biases, self.observation_mean, self.observation_sd, self.sd)
        if not all(np.isfinite(array).all() for array in arrays):
            raise DataError("a policy's weight, normaliser or noise is not finite; it was saved from a diverged run")
        if len(self.sd) != self.action.size or self.weights[-1].shape[1] != self.action.size:
            raise DataError(
                f"the network has {self.weights[-1].shape[1]} outputs and {len(self.sd)} noise levels, "
                f"the task {self.action.size} action entries"
            )
        for array in arrays:
            array.flags.writeable = False

    def start(self, n: int, rng: np.random.Generator) -> "GaussianActor":
        """An actor for n episodes; it has no memory, only `rng`."""
        return GaussianActor(self, n, rng)

    def with_noise(self, sd: float) -> "GaussianPolicy":
        """The same mean with another noise level, equal for all action entries; 0 for none."""
        return replace(self, sd=np.full_like(self.sd, sd))

    def without_noise(self) -> "GaussianPolicy":
        """The policy that acts by its mean."""
        return self.with_noise(0.0)

    @property
    def noise_level(self) -> float:
        """Mean over action entries of the noise's standard deviation, in action units."""
        return float(self.sd.mean())

    def means(self, observations: Float[np.ndarray, "n o"]) -> Float32[np.ndarray, "n a"]:
        """Actions without noise, not yet moved inside their bounds."""
        hidden = normalise(observations.astype(np.float32), self.observation_mean, self.observation_sd)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            hidden = np.tanh(hidden @ weight + bias)
        return hidden @ self.weights[-1] + self.biases[-1]

    def draw(self, observations: Float[np.ndarray, "n o"], rng: np.random.Generator) -> Float32[np.ndarray, "n a"]:
        """Actions with noise, not yet moved inside their bounds."""
        means = self.means(observations)
        return means + self.sd * rng.standard_normal(means.shape, dtype=np.float32)


class GaussianActor:
    """A GaussianPolicy living through n episodes."""

    def __init__(self, policy: GaussianPolicy, n: int, rng: np.random.Generator) -> None:
        self._policy = policy
        self._n = n
        self._rng = rng

    def act(self, observations: Float[np.ndarray, "n o"]) -> Float[np.ndarray, "n a"]:
        """Noisy actions inside the bounds."""
        return self._policy.action.clip(self._policy.draw(observations, self._rng))

    def observe(
        self, actions: Float[np.ndarray, "n a"], rewards: Float[np.ndarray, "n"], costs: Float[np.ndarray, "n k"]
    ) -> None:
        """Nothing: the next action depends on the next observation alone."""


class GaussianExplorer:
    """A GaussianPolicy as an on-policy learner explores with it: actions as drawn, not moved inside the bounds."""

    def __init__(self, policy: GaussianPolicy, rng: np.random.Generator) -> None:
        self._policy = policy
        self._rng = rng

    def act(self, observations: Float[np.ndarray, "n o"]) -> Float[np.ndarray, "n a"]:
        """Noisy actions; what lies past the bounds, the collector executes at the bound."""
        return self._policy.draw(observations, self._rng)


def normalise(
    observations: Float32[np.ndarray, "n o"], mean: Float32[np.ndarray, "o"], sd: Float32[np.ndarray, "o"]
) -> Float32[np.ndarray, "n o"]:
    """(o - mean) / sd, moved inside plus or minus OBSERVATION_CLIP."""
    return np.clip((observations - mean) / sd, np.float32(-OBSERVATION_CLIP), np.float32(OBSERVATION_CLIP))


def freeze(
    network: nn.Sequential,
    *,
    observation_mean: Float[np.ndarray, "o"],
    observation_sd: Float[np.ndarray, "o"],
    sd: Float[np.ndarray, "a"],
    action: Box,
) -> GaussianPolicy:
    """A policy from a copy of a tanh network's weights."""
    layers = linear_layers(network)
    return GaussianPolicy(
        weights=tuple(np.ascontiguousarray(to_array(layer.weight).T) for layer in layers),
        biases=tuple(to_array(layer.bias) for layer in layers),
        observation_mean=observation_mean.astype(np.float32),
        observation_sd=observation_sd.astype(np.float32),
        sd=sd.astype(np.float32),
        action=action,
    )
