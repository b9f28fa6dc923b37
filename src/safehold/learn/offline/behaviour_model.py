"""The behaviour model of BCQ-Lag, BEAR-Lag and CPQ: what the log would do, and what it hardly knows.

[BCQ, arXiv 1812.02900, its generative model; OSRL, common/net.py]
"""

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from safehold.core.spec import TaskSpec
from safehold.learn.actions import box_of
from safehold.learn.offline.actor_critic import LimitedConfig
from safehold.learn.transitions import Transitions
from safehold.nn.distributions import DiagonalGaussian
from safehold.nn.variational import ConditionalAutoencoder, divergence_from_prior

CODE_CLIP = 0.5
"""Codes that actions are decoded from are held inside plus or minus this: likely ones alone."""


class BehaviourConfig(LimitedConfig):
    """What methods with a behaviour model are told."""

    reward_scale: PositiveFloat = 0.1
    """What rewards are multiplied by."""
    autoencoder_hidden: tuple[PositiveInt, ...] = (400, 400)
    """Sizes of the hidden layers of the behaviour model's two halves."""
    divergence_weight: NonNegativeFloat = 0.5
    """Weight beta of the behaviour model's divergence from its prior, a mean over the code's entries."""
    autoencoder_learning_rate: PositiveFloat = 1e-3
    """Step size of the behaviour model's Adam."""


def behaviour_model(spec: TaskSpec, config: BehaviourConfig, generator: torch.Generator) -> ConditionalAutoencoder:
    """A fresh one; its code has two entries for each of the action's."""
    actions = box_of(spec).size
    return ConditionalAutoencoder(
        spec.observation_size, actions, 2 * actions, config.autoencoder_hidden, generator=generator
    )


def reconstruction(
    model: ConditionalAutoencoder, batch: Transitions, generator: torch.Generator
) -> tuple[Float[Tensor, "B a"], DiagonalGaussian]:
    """The logged actions decoded from a draw of their codes, and the codes."""
    code = model.encode(batch.observations, batch.actions)
    return model.decode(batch.observations, code.sample(generator)), code


def behaviour_loss(
    decoded: Float[Tensor, "B a"], actions: Float[Tensor, "B a"], code: DiagonalGaussian, divergence_weight: float
) -> Float[Tensor, ""]:
    """|decoded - a|^2 + beta KL(q(z | o, a) || N(0, I)), each a mean over its entries.   [BCQ, its VAE]."""
    divergence = divergence_from_prior(code).mean() / code.mean.shape[-1]
    return (decoded - actions).square().mean() + divergence_weight * divergence


def likely_codes(model: ConditionalAutoencoder, n: int, generator: torch.Generator) -> Float[Tensor, "n z"]:
    """Codes drawn from the prior and held inside plus or minus `CODE_CLIP`."""
    return torch.randn(n, model.latent, generator=generator).clamp_(-CODE_CLIP, CODE_CLIP)
