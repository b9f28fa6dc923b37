"""A conditional variational autoencoder over actions: what a log does at an observation, behind a latent code.

[Sohn et al., NeurIPS 2015; over actions as in BCQ, arXiv 1812.02900]
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from safehold.nn.distributions import DiagonalGaussian
from safehold.nn.mlp import mlp

LOG_SD_RANGE = (-4.0, 15.0)
"""Of the code given observation and action, as in BCQ's code."""


class ActionAutoencoder(nn.Module):
    """Encoder q(z | o, a) and decoder a = tanh(g(o, z)); the prior of z is standard normal.

    Actions are in [-1, 1]. What is decoded may have any number of axes before the last.
    """

    def __init__(
        self, observations: int, actions: int, latent: int, hidden: Sequence[int], *, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.latent = latent
        self.encoder = mlp((observations + actions, *hidden, 2 * latent), generator=generator, activation=nn.ReLU)
        self.decoder = mlp(
            (observations + latent, *hidden, actions), generator=generator, activation=nn.ReLU, output_gain=0.01
        )

    def encode(self, observations: Float[Tensor, "B o"], actions: Float[Tensor, "B a"]) -> DiagonalGaussian:
        """q(z | o, a)."""
        mean, log_sd = self.encoder(torch.cat([observations, actions], dim=-1)).chunk(2, dim=-1)
        return DiagonalGaussian(mean, log_sd.clamp(*LOG_SD_RANGE))

    def raw(self, observations: Float[Tensor, "*B o"], code: Float[Tensor, "*B z"]) -> Float[Tensor, "*B a"]:
        """g(o, z): actions before the tanh."""
        raw: Tensor = self.decoder(torch.cat([observations, code], dim=-1))
        return raw

    def decode(self, observations: Float[Tensor, "*B o"], code: Float[Tensor, "*B z"]) -> Float[Tensor, "*B a"]:
        """tanh(g(o, z)): actions."""
        return torch.tanh(self.raw(observations, code))


def divergence_from_prior(code: DiagonalGaussian) -> Float[Tensor, "B"]:
    """KL(q(z) || N(0, I)) of each row, in nats: -1/2 sum (1 + 2 log sd - mean^2 - sd^2) over the code's entries."""
    entries = code.mean.square() + torch.exp(2.0 * code.log_sd) - 1.0 - 2.0 * code.log_sd
    return 0.5 * entries.sum(dim=-1)
