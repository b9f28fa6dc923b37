"""A conditional variational autoencoder: what a log does at an observation, or meets at a threshold, behind a code.

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


class ConditionalAutoencoder(nn.Module):
    """Encoder q(z | c, x) and decoder g(c, z) of things x under conditions c; the prior of z is standard normal.

    Actions at observations, in [-1, 1], are tanh(g). What is decoded may have any number of axes before the last.
    """

    def __init__(
        self, conditions: int, things: int, latent: int, hidden: Sequence[int], *, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.latent = latent
        self.encoder = mlp((conditions + things, *hidden, 2 * latent), generator=generator, activation=nn.ReLU)
        self.decoder = mlp(
            (conditions + latent, *hidden, things), generator=generator, activation=nn.ReLU, output_gain=0.01
        )

    def encode(self, conditions: Float[Tensor, "B c"], things: Float[Tensor, "B x"]) -> DiagonalGaussian:
        """q(z | c, x)."""
        mean, log_sd = self.encoder(torch.cat([conditions, things], dim=-1)).chunk(2, dim=-1)
        return DiagonalGaussian(mean, log_sd.clamp(*LOG_SD_RANGE))

    def raw(self, conditions: Float[Tensor, "*B c"], code: Float[Tensor, "*B z"]) -> Float[Tensor, "*B x"]:
        """g(c, z): things as they are, or actions before the tanh."""
        raw: Tensor = self.decoder(torch.cat([conditions, code], dim=-1))
        return raw

    def decode(self, conditions: Float[Tensor, "*B c"], code: Float[Tensor, "*B z"]) -> Float[Tensor, "*B x"]:
        """tanh(g(c, z)): actions."""
        return torch.tanh(self.raw(conditions, code))


def divergence_from_prior(code: DiagonalGaussian) -> Float[Tensor, "B"]:
    """KL(q(z) || N(0, I)) of each row, in nats: -1/2 sum (1 + 2 log sd - mean^2 - sd^2) over the code's entries."""
    entries = code.mean.square() + torch.exp(2.0 * code.log_sd) - 1.0 - 2.0 * code.log_sd
    return 0.5 * entries.sum(dim=-1)
