"""Parts of a learner that learn by themselves, and how all of them are saved: networks with their Adam, slow copies."""

import copy
from collections.abc import Mapping
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from safehold.core.errors import ModelError
from safehold.learn.checkpoint import match_tensors, module_tensors, restore_module, take
from safehold.learn.learner import State
from safehold.learn.optimiser import optimiser_tensors, require_state, restore_optimiser


@runtime_checkable
class Kept(Protocol):
    """Something of a learner that a checkpoint must carry: a part, a slow copy, a multiplier."""

    def state(self) -> State:
        """A copy of all that later updates depend on."""
        ...

    def restore(self, state: State) -> None:
        """Goes back to a saved state."""
        ...


ModuleOf = TypeVar("ModuleOf", bound=nn.Module)


class Part(Generic[ModuleOf]):
    """A network and its Adam.

    A loss changes the network that it is given to and no other: gradients reach through other networks, but stop
    there.
    """

    def __init__(self, name: str, network: ModuleOf, learning_rate: float) -> None:
        self.network = network
        self._name = name
        self._parameters = list(network.parameters())
        self._optimiser = torch.optim.Adam(self._parameters, lr=learning_rate, fused=True)
        self._updates = 0

    def descend(self, loss: Float[Tensor, ""]) -> float:
        """One step of Adam down a loss; returns its value.

        Raises:
            ModelError: if it is not finite; the network stays as it was.
        """
        value = loss.item()
        if not np.isfinite(value):
            raise ModelError(
                f"update {self._updates + 1}: the loss of the {self._name} is {value}; lower the learning rate, or "
                "look for outliers in the data"
            )
        gradients = torch.autograd.grad(loss, self._parameters, allow_unused=True)
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        self._optimiser.step()
        self._updates += 1
        return value

    def state(self) -> State:
        """Weights and moments."""
        moments = {f"optimiser.{name}": value for name, value in optimiser_tensors(self._optimiser).items()}
        return State({**module_tensors(self.network, "model"), **moments}, {"updates": self._updates})

    def restore(self, state: State) -> None:
        """Goes on from saved weights and moments."""
        updates, moments = int(state.meta["updates"]), take(state.tensors, "optimiser")
        require_state(moments, updates)
        restore_module(self.network, state.tensors, "model")
        restore_optimiser(self._optimiser, moments)
        self._updates = updates


class SlowCopy(Generic[ModuleOf]):
    """A copy of a network that follows it slowly: what critics are fitted to stays nearly still.

    theta' <- theta' + rate (theta - theta').   [DDPG, arXiv 1509.02971, Alg. 1]
    """

    def __init__(self, network: ModuleOf, rate: float) -> None:
        self._quick = network
        self._rate = rate
        self.network: ModuleOf = copy.deepcopy(network).requires_grad_(requires_grad=False)

    @torch.no_grad()
    def follow(self) -> None:
        """One step."""
        torch._foreach_lerp_(list(self.network.parameters()), list(self._quick.parameters()), self._rate)

    def state(self) -> State:
        """Weights."""
        return State(module_tensors(self.network, "model"))

    def restore(self, state: State) -> None:
        """Goes on from saved weights."""
        restore_module(self.network, state.tensors, "model")


def state_of(kept: Mapping[str, Kept], generator: torch.Generator, meta: Mapping[str, Any]) -> State:
    """The state of a learner that is made of parts: `meta`, the generator of its noise, and every part by its name."""
    parts = [part.state().under(name) for name, part in kept.items()]
    return State.merge(State({"generator": generator.get_state()}, meta), State.merge(*parts).under("parts"))


def parts_of(state: State, kept: Mapping[str, Kept]) -> Mapping[str, State]:
    """What such a state holds of each part.

    Raises:
        KeyError: if a part is missing.
    """
    parts = state.part("parts")
    return {name: parts.part(name) for name in kept}


def restore_all(kept: Mapping[str, Kept], generator: torch.Generator, saved: Mapping[str, State], state: State) -> None:
    """Every part goes back to what was saved of it, and the generator to that of the state.

    Raises:
        DataError: if something is missing, unknown, of another shape, or not finite.
    """
    found = {name: tensor for name, tensor in state.tensors.items() if name == "generator"}
    own = generator.get_state()
    match_tensors({"generator": (own.shape, own.dtype)}, found, "learner")
    for name, part in kept.items():
        part.restore(saved[name])
    generator.set_state(found["generator"])
