"""Networks from observations to actions in [-1, 1]."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from safehold.nn.distributions import DiagonalGaussian, TanhGaussian
from safehold.nn.mlp import mlp


class DeterministicActor(nn.Module):
    """a = tanh(perceptron(o))."""

    def __init__(self, observations: int, actions: int, hidden: Sequence[int], *, generator: torch.Generator) -> None:
        super().__init__()
        self.perceptron = mlp(
            (observations, *hidden, actions), generator=generator, activation=nn.ReLU, output_gain=0.01
        )

    def forward(self, observations: Float[Tensor, "B o"]) -> Float[Tensor, "B a"]:
        """The actions."""
        return torch.tanh(self.perceptron(observations))


class GaussianActor(nn.Module):
    """a ~ N(tanh(perceptron(o)), sd^2), sd the same everywhere and inside `log_sd_range`.   [IQL, arXiv 2110.06169]."""

    def __init__(
        self,
        observations: int,
        actions: int,
        hidden: Sequence[int],
        *,
        log_sd_range: tuple[float, float],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.mean = DeterministicActor(observations, actions, hidden, generator=generator)
        self.log_sd = nn.Parameter(torch.zeros(actions))
        self._range = log_sd_range

    def forward(self, observations: Float[Tensor, "B o"]) -> DiagonalGaussian:
        """Distribution of the action; what is drawn may pass the bounds."""
        return DiagonalGaussian(self.mean(observations), self.log_sd.clamp(*self._range))


class TanhGaussianActor(nn.Module):
    """a = tanh(u), u ~ N(mean(o), sd(o)^2), log sd inside `log_sd_range`.   [SAC, arXiv 1812.05905, App. C]."""

    def __init__(
        self,
        observations: int,
        actions: int,
        hidden: Sequence[int],
        *,
        log_sd_range: tuple[float, float],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.perceptron = mlp(
            (observations, *hidden, 2 * actions), generator=generator, activation=nn.ReLU, output_gain=0.01
        )
        self._range = log_sd_range

    def forward(self, observations: Float[Tensor, "B o"]) -> TanhGaussian:
        """Distribution of the action."""
        mean, log_sd = self.perceptron(observations).chunk(2, dim=-1)
        return TanhGaussian(DiagonalGaussian(mean, log_sd.clamp(*self._range)))
