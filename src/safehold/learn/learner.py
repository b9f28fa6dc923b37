"""What every learner offers the loops: update, policy, state, restore."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch

Metrics = Mapping[str, float]
"""Numbers of one update, by name; units are in the learner's documentation."""

Batch = TypeVar("Batch", contravariant=True)
P = TypeVar("P", covariant=True)


@dataclass(frozen=True, slots=True)
class LearnerState:
    """Everything a learner needs to go on as if it had never stopped.

    `tensors`: weights as "model.*", optimiser moments as "optimiser.*", generator states as "generator.*".
    `values`: plain JSON. A policy is loaded from "model.*" and `values["policy"]` alone.
    """

    tensors: Mapping[str, torch.Tensor]
    values: Mapping[str, Any]


@runtime_checkable
class Learner(Protocol[Batch, P]):
    """Changes weights; what it has learnt so far is `policy()`, which later updates leave alone."""

    @property
    def kind(self) -> str:
        """The name of the method, which its checkpoints carry."""
        ...

    def update(self, batch: Batch) -> Metrics:
        """One gradient step.

        Raises:
            ModelError: if a loss is not finite; the weights are then those from before the update.
        """
        ...

    def policy(self) -> P:
        """What was learnt so far, frozen."""
        ...

    def state(self) -> LearnerState:
        """A copy of everything that `restore` needs."""
        ...

    def restore(self, state: LearnerState) -> None:
        """Goes on from a state of the same method, configuration and task.

        Raises:
            DataError: if a tensor is missing, unknown, of another shape, or not finite.
        """
        ...
