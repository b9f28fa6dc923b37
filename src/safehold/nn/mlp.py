"""The multilayer perceptron and its initialisation."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn


def mlp(
    sizes: Sequence[int],
    *,
    generator: torch.Generator,
    activation: type[nn.Module] = nn.Tanh,
    output_gain: float = 1.0,
) -> nn.Sequential:
    """Linear layers between `sizes`, an activation after each but the last.

    Weights are orthogonal [Saxe et al. 2014] with gain sqrt(2) in the hidden layers and `output_gain` in the last,
    biases zero. A policy wants a small `output_gain` (0.01): its first actions are then near the middle of their
    range and hardly depend on the observation.
    """
    layers: list[nn.Module] = []
    last = len(sizes) - 2
    for place, (n_in, n_out) in enumerate(pairwise(sizes)):
        linear = nn.Linear(n_in, n_out, device="meta").to_empty(device="cpu")  # leaves torch's generator alone
        gain = output_gain if place == last else math.sqrt(2.0)
        nn.init.orthogonal_(linear.weight, gain=gain, generator=generator)
        nn.init.zeros_(linear.bias)
        layers.append(linear)
        if place != last:
            # the layer before has no use for what it put out, so nothing need be written anew
            layers.append(nn.ReLU(inplace=True) if activation is nn.ReLU else activation())
    return nn.Sequential(*layers)


def linear_layers(network: nn.Module) -> tuple[nn.Linear, ...]:
    """The linear layers of a network, in the order in which they are applied."""
    return tuple(module for module in network.modules() if isinstance(module, nn.Linear))
