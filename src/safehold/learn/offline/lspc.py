"""Latent safety-prioritised constraints: a policy for reward inside a small box of a safe autoencoder's latent space.

An autoencoder learns the safer of the logged actions (LSPC-S); a policy that chooses only the latent code, inside a box
of half width epsilon, seeks the more rewarding of them (LSPC-O). The box is a dial that can be set after training.
[LSPC, arXiv 2412.08794]
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from safehold.core.config import Config
from safehold.core.errors import UsageError
from safehold.core.policy import Actor, Memoryless
from safehold.core.spec import TaskSpec
from safehold.core.target import Target
from safehold.learn.actions import box_of
from safehold.learn.learner import Metrics
from safehold.learn.offline.actor_critic import ActorCriticLearner, ActorCriticLearnt, seen
from safehold.learn.offline.implicit_q import (
    Advantages,
    ImplicitQ,
    ImplicitQConfig,
    advantage_weights,
    ceilings_of,
    gains_of,
)
from safehold.learn.parts import Kept, Part
from safehold.learn.transitions import Transitions
from safehold.nn.distributions import DiagonalGaussian
from safehold.nn.mlp import mlp
from safehold.nn.randomness import drawn_generator
from safehold.nn.tensors import to_array, to_tensor
from safehold.nn.variational import ConditionalAutoencoder, divergence_from_prior

KIND = "lspc"

LOG_SD_RANGE = (-10.0, 2.0)
"""Of the latent policy, before the tanh; as published."""


class LSPCConfig(ImplicitQConfig):
    """Latent safety-prioritised constraints."""

    variant: Literal["s", "o"] = "o"
    """"s": codes drawn from the prior, cut to the box, safety alone; "o": codes by a policy that seeks reward."""
    epsilon: PositiveFloat = 0.25
    """Half width of the box of latent codes, in standard deviations of the prior: trained in, and acted in if no other
    is asked for. The paper has 0.25, and 0.6 for most of Bullet-Safety-Gym."""
    codes: Literal["drawn", "mode"] = "drawn"
    """How a code is chosen when acting: "drawn", as published; "mode", the likeliest, without noise."""
    latent: PositiveInt = 32
    """Entries of a code."""
    cost_temperature: PositiveFloat = 2.0
    """Inverse temperature of the safety weights, per discounted cost unit."""
    reward_temperature: PositiveFloat = 2.0
    """Inverse temperature of the reward weights, per scaled discounted reward unit."""
    largest_weight: PositiveFloat = 200.0
    """No logged action counts more than this many times an average one."""
    largest_cost: NonNegativeFloat | None = None
    """The autoencoder learns from a step only if V_c and Q_c of every cost are under this, in discounted cost units;
    the paper has 0.02 for MetaDrive, and none elsewhere."""
    divergence_weight: NonNegativeFloat = 0.5
    """Weight of the code's divergence from its prior, a mean over its entries, against the squared error."""
    learning_rate: PositiveFloat = 3e-4
    """Step size of Adam for autoencoder and latent policy."""
    batch_size: PositiveInt = 1024
    """Steps in a batch."""


PRESETS: Mapping[str, LSPCConfig] = {
    "published": LSPCConfig(timeouts="terminal"),
    "small": LSPCConfig(hidden=(128, 128), batch_size=256, steps=10_000),
}
"""`published`: of the authors' code, timeouts as ends included; `small`: minutes on two cores."""


class LSPCNetwork(nn.Module):
    """The autoencoder, and for LSPC-O the latent policy."""

    def __init__(self, spec: TaskSpec, config: LSPCConfig) -> None:
        super().__init__()
        observations, actions, generator = spec.observation_size, box_of(spec).size, drawn_generator()
        self.autoencoder = ConditionalAutoencoder(
            observations, actions, config.latent, config.hidden, generator=generator
        )
        sizes = (observations, *config.hidden, 2 * config.latent)
        self.latent = (
            mlp(sizes, generator=generator, activation=nn.ReLU, output_gain=0.01) if config.variant == "o" else None
        )

    def latent_policy(self, observations: Float[Tensor, "B o"]) -> DiagonalGaussian:
        """Distribution of x, of which the code is epsilon tanh(x).

        Raises:
            UsageError: for LSPC-S, which has none.
        """
        if self.latent is None:
            raise UsageError('variant "s" has no latent policy; train variant "o"')
        mean, log_sd = self.latent(observations).chunk(2, dim=-1)
        return DiagonalGaussian(mean, log_sd.clamp(*LOG_SD_RANGE))


class LSPCFamily(ActorCriticLearnt[LSPCConfig, LSPCNetwork]):
    """Policies with a dial for the box: the smaller, the nearer to the safe middle of what the log does."""

    kind: ClassVar[str] = KIND
    config_type: ClassVar[type[Config]] = LSPCConfig

    @classmethod
    def build(cls, spec: TaskSpec, config: LSPCConfig) -> LSPCNetwork:
        """Networks with fresh weights."""
        return LSPCNetwork(spec, config)

    @property
    def target_names(self) -> tuple[str, ...]:
        """("epsilon",)."""
        return ("epsilon",)

    def at(self, target: Target) -> "LSPCPolicy":
        """The policy with this box.

        Raises:
            UsageError: if the target is not one finite number > 0.
        """
        if len(target) != 1 or not (np.isfinite(target[0]) and target[0] > 0.0):
            raise UsageError(f"target {target}: expected one finite epsilon > 0, the half width of the latent box")
        return LSPCPolicy(self, float(target[0]))

    @property
    def usual(self) -> "LSPCPolicy":
        """The policy with the box that was trained in."""
        return self.at((self.config.epsilon,))

    @torch.inference_mode()
    def reconstructed(
        self, observations: Float[np.ndarray, "n o"], codes: Float[np.ndarray, "n z"]
    ) -> Float32[np.ndarray, "n a"]:
        """Actions of given codes, in environment units."""
        states = to_tensor(seen(self.scales, observations))
        return self._code.decode(to_array(self.network.autoencoder.decode(states, to_tensor(codes))))

    @torch.inference_mode()
    def codes_of(
        self, observations: Float[np.ndarray, "n o"], actions: Float[np.ndarray, "n a"]
    ) -> Float32[np.ndarray, "n z"]:
        """Mean codes of actions: where the encoder places them."""
        states, done = to_tensor(seen(self.scales, observations)), to_tensor(self._code.encode(actions))
        return to_array(self.network.autoencoder.encode(states, done).mean)


@dataclass(frozen=True, slots=True)
class LSPCPolicy:
    """A family with one box."""

    family: LSPCFamily
    epsilon: float

    def start(self, n: int, rng: np.random.Generator) -> Actor:  # noqa: ARG002 - any number of rows is answered
        """An actor for n episodes; it has no memory, only `rng`."""
        return Memoryless(lambda observations: self.acts(observations, rng))

    @torch.inference_mode()
    def acts(self, observations: Float[np.ndarray, "n o"], rng: np.random.Generator) -> Float32[np.ndarray, "n a"]:
        """Decoded codes, in environment units; LSPC-S: z ~ N(0, I) cut to the box, LSPC-O: z = epsilon tanh(x)."""
        family, config = self.family, self.family.config
        states = to_tensor(seen(family.scales, observations))
        noise = to_tensor(rng.standard_normal((len(observations), config.latent), dtype=np.float32))
        noise = noise if config.codes == "drawn" else torch.zeros_like(noise)
        if config.variant == "s":
            codes = noise.clamp(-self.epsilon, self.epsilon)
        else:
            said = family.network.latent_policy(states)
            codes = self.epsilon * torch.tanh(said.mean + noise * torch.exp(said.log_sd))
        return family.reconstructed(observations, to_array(codes))


class LSPCLearner(ActorCriticLearner[LSPCConfig, LSPCFamily]):
    """Critics of reward and costs, the autoencoder, and the latent policy, all in one update, in this order."""

    def _make(self) -> Mapping[str, Kept]:
        spec, config = self._spec, self._config
        self._critics = ImplicitQ(spec.observation_size, self._code.size, ceilings_of(spec), config)
        self._network = LSPCFamily.build(spec, config)
        self._autoencoder = Part("autoencoder", self._network.autoencoder, config.learning_rate)
        kept: dict[str, Kept] = {**self._critics.kept(), "autoencoder": self._autoencoder}
        self._latent = None
        if self._network.latent is not None:
            self._latent = kept["latent"] = Part("latent policy", self._network.latent, config.learning_rate)
        return kept

    def _improve(self, batch: Transitions) -> Metrics:
        """Metrics: those of `ImplicitQ.improve` (gains: reward, then each cost negated), `safety_loss`, `safety_weight`
        (mean weight of an action in the autoencoder's loss), and for LSPC-O `reward_loss` and `reward_weight`."""  # noqa: D205, D209
        config, network = self._config, self._network
        judged, metrics = self._critics.improve(batch, gains_of(batch))
        safe = safety_weights(judged, config)
        said = network.autoencoder.encode(batch.observations, batch.actions)
        decoded = network.autoencoder.decode(batch.observations, said.sample(self._generator))
        loss = autoencoder_loss(decoded, said, batch.actions, safe, config.divergence_weight)
        metrics = {**metrics, "safety_loss": self._autoencoder.descend(loss), "safety_weight": float(safe.mean())}
        if self._latent is None:
            return metrics
        good = advantage_weights(judged.advantage[:, 0], config.reward_temperature, config.largest_weight)
        codes = config.epsilon * torch.tanh(network.latent_policy(batch.observations).sample(self._generator))
        decoded = network.autoencoder.decode(batch.observations, codes)
        loss = weighted_error(decoded, batch.actions, good)
        return {**metrics, "reward_loss": self._latent.descend(loss), "reward_weight": float(good.mean())}

    def policy(self) -> LSPCFamily:
        """The family so far."""
        return LSPCFamily(self._spec, self._config, self._observations, copy.deepcopy(self._network))


def safety_weights(judged: Advantages, config: LSPCConfig) -> Float[Tensor, "B"]:
    """min(exp(beta_c (V_c - Q_c)), largest) 1[V_c < theta] 1[Q_c < theta].   [LSPC].

    Of several costs the exponents add up: exp(beta_c A_1) exp(beta_c A_2) ..., as if they were one, their sum; and
    every one must stay under theta. `judged` are gains: the reward's, then those of costs, negated.
    """
    advantage, value = judged.advantage[:, 1:], judged.value[:, 1:]
    weights = advantage_weights(advantage.sum(dim=1), config.cost_temperature, config.largest_weight)
    if config.largest_cost is None:
        return weights
    safe: Bool[Tensor, B] = ((-value < config.largest_cost) & (-(value + advantage) < config.largest_cost)).all(dim=1)
    return weights * safe


def autoencoder_loss(
    decoded: Float[Tensor, "B a"],
    code: DiagonalGaussian,
    actions: Float[Tensor, "B a"],
    weights: Float[Tensor, "B"],
    divergence_weight: float,
) -> Float[Tensor, ""]:
    """Mean w_c (|a^ - a|^2 + beta_KL KL(q(z | s, a) || N(0, I)) / entries of z).   [LSPC].

    The divergence is a mean over the code's entries, as in the authors' code: 0.5 of it is a weak prior.
    """
    error = (decoded - actions).square().sum(dim=1)
    divergence = divergence_from_prior(code) / code.mean.shape[1]
    return (weights * (error + divergence_weight * divergence)).mean()


def weighted_error(
    decoded: Float[Tensor, "B a"], actions: Float[Tensor, "B a"], weights: Float[Tensor, "B"]
) -> Float[Tensor, ""]:
    """Mean w_r |dec(s, z) - a|^2, w_r = min(exp(beta_r (Q_r - V_r)), largest).   [LSPC]."""
    return (weights * (decoded - actions).square().sum(dim=1)).mean()


def performance_gap(largest: float, discount: float, divergence_safe: float, divergence_best: float) -> float:
    """How far the policy's value can be from the best one's: of reward below it, of cost above the limit it keeps.

    2 M / (1 - gamma)^2 (sqrt(KL(pi || pi_s) / 2) + sqrt(KL(pi_s || pi*) / 2)), M the largest size of a step's signal,
    pi_s the safe policy, divergences the largest over states, in nats.   [LSPC, performance bounds]

    It is inf where pi_s does what pi* never does, so wherever pi* is sure of its action and pi_s is not.
    """
    return 2.0 * largest / (1.0 - discount) ** 2 * (math.sqrt(divergence_safe / 2.0) + math.sqrt(divergence_best / 2.0))
