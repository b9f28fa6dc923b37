"""Perceptrons of one shape, evaluated together: critics of several signals, each several times."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from safehold.nn.mlp import linear_layers, mlp


class Ensemble(nn.Module):
    """`count` perceptrons of one shape with fresh weights, a column of the output each; a product a layer for all."""

    def __init__(
        self,
        count: int,
        sizes: Sequence[int],
        *,
        generator: torch.Generator,
        activation: Callable[[Tensor], Tensor] = torch.relu_,
    ) -> None:
        super().__init__()
        built = [linear_layers(mlp(sizes, generator=generator, output_gain=0.01)) for _ in range(count)]
        layers = list(zip(*built, strict=True))
        self.weights = nn.ParameterList(torch.stack([one.weight.detach().T for one in layer]) for layer in layers)
        self.biases = nn.ParameterList(torch.stack([one.bias.detach() for one in layer])[:, None] for layer in layers)
        self._activation = activation

    def forward(self, inputs: Float[Tensor, "B f"]) -> Float[Tensor, "B n"]:
        """One number each."""
        hidden = inputs.expand(len(self.biases[0]), -1, -1)
        for place, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.baddbmm(bias, self._activation(hidden) if place else hidden, weight)
        return hidden[..., 0].T


class Critics(nn.Module):
    """Q of each of `signals`, `members` times: what is still to come after an action.

    Args:
        observations: entries of an observation.
        actions: entries of an action.
        members: networks of each signal; two against overestimation [TD3, arXiv 1802.09477].
        signals: what is to come: of one reward 1, of k costs k.
        hidden: sizes of the hidden layers.
        generator: of the weights.
    """

    def __init__(
        self,
        observations: int,
        actions: int,
        *,
        members: int,
        signals: int,
        hidden: Sequence[int],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self._shape = (members, signals)
        self.ensemble = Ensemble(members * signals, (observations + actions, *hidden, 1), generator=generator)

    def forward(self, observations: Float[Tensor, "B o"], actions: Float[Tensor, "B a"]) -> Float[Tensor, "B m s"]:
        """Q of every member for every signal."""
        said: Tensor = self.ensemble(torch.cat([observations, actions], dim=-1))
        return said.view(-1, *self._shape)
