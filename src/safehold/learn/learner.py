"""What every learner promises: weights change by `update`, a policy is what was learnt, and all of it can be saved."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch

Metrics = Mapping[str, float]
"""Named numbers of one update, each a finite float; what they mean is said where the learner computes them."""

Batch_contra = TypeVar("Batch_contra", contravariant=True)
Learnt_co = TypeVar("Learnt_co", covariant=True)


@dataclass(frozen=True, slots=True)
class State:
    """Everything that a learner, or a whole run, needs to go on as if it had never stopped.

    `tensors` are stored as they are; `meta` holds JSON values (numbers, strings, lists, mappings), among them the
    states of generators. The two halves are what `save_checkpoint` writes.
    """

    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)

    def under(self, name: str) -> "State":
        """The same state with every tensor's name and all of `meta` put under `name`, ready to be merged."""
        return State({f"{name}.{key}": value for key, value in self.tensors.items()}, {name: dict(self.meta)})

    def part(self, name: str) -> "State":
        """What was put under `name`: the inverse of `under`."""
        start = f"{name}."
        tensors = {key.removeprefix(start): value for key, value in self.tensors.items() if key.startswith(start)}
        return State(tensors, self.meta[name])

    @staticmethod
    def merge(*parts: "State") -> "State":
        """One state holding several parts, each put `under` a name of its own."""
        tensors: dict[str, torch.Tensor] = {}
        meta: dict[str, Any] = {}
        for part in parts:
            tensors |= part.tensors
            meta |= part.meta
        return State(tensors, meta)


@runtime_checkable
class Learner(Protocol[Batch_contra, Learnt_co]):
    """Turns batches into a policy, or into a policy family."""

    def update(self, batch: Batch_contra) -> Metrics:
        """Changes the weights once, by one batch.

        Raises:
            ModelError: if a loss is not finite; nothing that was computed from it may be used.
        """
        ...

    def policy(self) -> Learnt_co:
        """What has been learnt so far, frozen: later updates do not change it."""
        ...

    def state(self) -> State:
        """A copy of everything that later updates depend on: weights, optimisers, generators."""
        ...

    def restore(self, state: State) -> None:
        """Goes back to a saved state; the updates that follow equal those that followed the saving.

        Raises:
            DataError: if a tensor is missing, unknown, of another shape, or not finite.
        """
        ...
