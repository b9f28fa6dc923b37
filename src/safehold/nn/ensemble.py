"""Perceptrons of one shape, evaluated together: critics of several signals, each several times."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

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

    def least(self, inputs: Float[Tensor, "B f"], members: int, *, learn: bool = True) -> Float[Tensor, "B s"]:
        """The smallest of `members` columns for each of s signals; column m s + k is member m for signal k.

        Without `learn` there are gradients of the inputs alone: for who only asks the networks, to improve by it.
        Only one member a row has a gradient, so backwards only that one's row is gone through: a member a half of the
        work of all where there are two, a quarter where there are four.
        """
        if self._activation is not torch.relu_ or not torch.is_grad_enabled():
            said: Tensor = self(inputs)
            return said.view(len(inputs), members, said.shape[1] // members).amin(dim=1)
        parameters = [*self.weights, *self.biases]
        used = parameters if learn else [parameter.detach() for parameter in parameters]
        found: Tensor = _Least.apply(inputs, members, *used)  # type: ignore[no-untyped-call]
        return found


class _Least(torch.autograd.Function):
    """`Ensemble.least` of networks with relu, and its gradients, row by row those of the member that counts."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, members: int, *parameters: Tensor) -> Tensor:
        """Weights of all layers, then biases."""
        layers = len(parameters) // 2
        hidden, seen = inputs.expand(len(parameters[0]), -1, -1), []
        for place in range(layers):
            hidden = torch.relu_(hidden) if place else hidden
            seen.append(hidden)
            hidden = torch.baddbmm(parameters[layers + place], hidden, parameters[place])
        values, which = hidden[..., 0].view(members, len(hidden) // members, len(inputs)).min(dim=0)
        ctx.save_for_backward(which, *seen, *parameters[:layers])
        ctx.layers = layers
        return values.T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Of inputs, of nothing, of every weight and bias; what nobody asked for is None."""
        which, *saved = ctx.saved_tensors
        seen, weights = saved[: ctx.layers], saved[ctx.layers :]
        signals, count = len(which), len(weights[0])
        outer, asked = gradients[0].T, ctx.needs_input_grad
        of_inputs = torch.zeros_like(seen[0][0]) if asked[0] else None
        found: list[list[Tensor]] = [[] for _ in asked[2:]]
        for member in range(count):
            rows = (which[member % signals] == member // signals).nonzero()[:, 0]
            slope = outer[member % signals, rows, None]
            for place in reversed(range(ctx.layers)):
                entered = seen[place][member].index_select(0, rows)
                if asked[2 + place]:
                    found[place].append(entered.T @ slope)
                    found[ctx.layers + place].append(slope.sum(dim=0, keepdim=True))
                if place or of_inputs is not None:
                    slope = slope @ weights[place][member].T
                if place:
                    slope = torch.ops.aten.threshold_backward(slope, entered, 0.0)
            if of_inputs is not None:
                of_inputs.index_add_(0, rows, slope)
        return of_inputs, None, *(torch.stack(parts) if parts else None for parts in found)


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

    def least(
        self, observations: Float[Tensor, "B o"], actions: Float[Tensor, "B a"], *, learn: bool = True
    ) -> Float[Tensor, "B s"]:
        """The smallest member's word for every signal; without `learn` a gradient of the actions alone."""
        return self.ensemble.least(torch.cat([observations, actions], dim=-1), self._shape[0], learn=learn)
