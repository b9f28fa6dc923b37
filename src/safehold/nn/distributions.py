"""Distributions over actions whose densities policies are trained by."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

EDGE = 1e-6
"""Distance from plus and minus 1 inside of which a bounded action counts as the nearest invertible one."""


@dataclass(frozen=True, slots=True)
class DiagonalGaussian:
    """Independent normal entries: `mean` one row a sample, `log_sd` shared by the rows or one row each."""

    mean: Float[Tensor, "n a"]
    log_sd: Float[Tensor, "*n a"]

    def sample(self, generator: torch.Generator) -> Float[Tensor, "n a"]:
        """One draw a row."""
        noise = torch.randn(self.mean.shape, generator=generator, dtype=self.mean.dtype)
        return self.mean + noise * torch.exp(self.log_sd)

    def repeated(self, times: int) -> "DiagonalGaussian":
        """Every row so many times, one after another: for several draws a row without asking a network again."""
        return DiagonalGaussian(
            self.mean.repeat_interleave(times, dim=0), self.log_sd.expand_as(self.mean).repeat_interleave(times, dim=0)
        )

    def log_density(self, x: Float[Tensor, "n a"]) -> Float[Tensor, "n"]:
        """Log of the density, log N(x; mean, sd^2), summed over the entries of a row."""
        standard = (x - self.mean) * torch.exp(-self.log_sd)
        entries = -0.5 * standard.square() - self.log_sd - 0.5 * math.log(2.0 * math.pi)
        return entries.sum(dim=-1)

    def entropy(self) -> Float[Tensor, "*n"]:
        """Differential entropy of a row, sum over entries of log sd + log(2 pi e) / 2, in nats."""
        return (self.log_sd + 0.5 * math.log(2.0 * math.pi * math.e)).sum(dim=-1)

    def divergence_from(self, other: "DiagonalGaussian") -> Float[Tensor, "n"]:
        """KL(other || self) of each row, in nats."""
        ratio = torch.exp(2.0 * (other.log_sd - self.log_sd))
        shift = ((other.mean - self.mean) * torch.exp(-self.log_sd)).square()
        entries = self.log_sd - other.log_sd + 0.5 * (ratio + shift - 1.0)
        return entries.sum(dim=-1)


@dataclass(frozen=True, slots=True)
class TanhGaussian:
    """The tanh of a diagonal Gaussian: every entry inside (-1, 1), after SAC (arXiv 1812.05905, App. C)."""

    inner: DiagonalGaussian

    def sample_with_log_density(self, generator: torch.Generator) -> tuple[Float[Tensor, "n a"], Float[Tensor, "n"]]:
        """A draw a row, differentiable in the parameters, and the log of its density.

        log p(y) = log N(u; mean, sd^2) - sum log(1 - tanh(u)^2), y = tanh(u); the last term is evaluated as
        2 (log 2 - u - softplus(-2 u)), which does not cancel for large |u|.   [SAC, Eq. (26)]
        """
        u = self.inner.sample(generator)
        return torch.tanh(u), self._log_density_before(u)

    def log_density(self, y: Float[Tensor, "n a"]) -> Float[Tensor, "n"]:
        """The same of given rows, moved inside plus or minus (1 - `EDGE`), where a tanh can still be undone."""
        return self._log_density_before(torch.atanh(y.clamp(-1.0 + EDGE, 1.0 - EDGE)))

    def mode(self) -> Float[Tensor, "n a"]:
        """The tanh of the inner mean: the action of a policy that does not explore."""
        return torch.tanh(self.inner.mean)

    def _log_density_before(self, u: Float[Tensor, "n a"]) -> Float[Tensor, "n"]:
        """Log density of tanh(u)."""
        jacobian = 2.0 * (math.log(2.0) - u - torch.nn.functional.softplus(-2.0 * u))
        return self.inner.log_density(u) - jacobian.sum(dim=-1)
