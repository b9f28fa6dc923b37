"""Actions as networks have them: continuous ones in [-1, 1], discrete ones as one entry an action."""

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from safehold.core.errors import DataError, UsageError
from safehold.core.spec import Box, Discrete, TaskSpec


@runtime_checkable
class ActionCode(Protocol):
    """The way between a task's actions (a columns) and a network's (`size` entries)."""

    @property
    def size(self) -> int:
        """Entries of the network's action."""
        ...

    def encode(self, actions: Float[np.ndarray, "*n a"]) -> Float32[np.ndarray, "*n e"]:
        """What the network is told that was done."""
        ...

    def decode(self, outputs: Float32[np.ndarray, "n e"]) -> Float32[np.ndarray, "n a"]:
        """What is done when the network puts this out."""
        ...

    def loss(self, outputs: Float[Tensor, "n e"], codes: Float[Tensor, "n e"]) -> Float[Tensor, ""]:
        """How far outputs are from what was done, mean over the rows; to be made small."""
        ...

    def error(self, outputs: Float[Tensor, "n e"], codes: Float[Tensor, "n e"]) -> Float[Tensor, ""]:
        """The same in words of its own: for people, not for gradients."""
        ...


class Continuous:
    """a = middle + half * [-1, 1]; least squares; the error is a root mean square, in half ranges."""

    def __init__(self, box: Box) -> None:
        self._box = box
        self._middle, self._half = middle_and_half(box)

    @property
    def size(self) -> int:
        """Entries of an action."""
        return self._box.size

    def encode(self, actions: Float[np.ndarray, "*n a"]) -> Float32[np.ndarray, "*n e"]:
        """(a - middle) / half."""
        code: Float32[np.ndarray, "*n e"] = ((actions - self._middle) / self._half).astype(np.float32, copy=False)
        return code

    def decode(self, outputs: Float32[np.ndarray, "n e"]) -> Float32[np.ndarray, "n a"]:
        """Moved inside the bounds."""
        return self._box.clip(outputs * self._half + self._middle)

    def loss(self, outputs: Float[Tensor, "n e"], codes: Float[Tensor, "n e"]) -> Float[Tensor, ""]:
        """Mean squared difference."""
        return (outputs - codes).square().mean()

    def error(self, outputs: Float[Tensor, "n e"], codes: Float[Tensor, "n e"]) -> Float[Tensor, ""]:
        """Its root."""
        return self.loss(outputs, codes).sqrt()


class OneOf:
    """Logits of n actions; cross-entropy; the likeliest is done, the first of equals."""

    def __init__(self, actions: Discrete) -> None:
        self._n = actions.n

    @property
    def size(self) -> int:
        """How many actions there are."""
        return self._n

    def encode(self, actions: Float[np.ndarray, "*n a"]) -> Float32[np.ndarray, "*n e"]:
        """One at the action's place, zero elsewhere.

        Raises:
            DataError: if an action is no index.
        """
        numbers = actions[..., 0]
        wrong = ~((numbers >= 0) & (numbers < self._n) & (numbers == np.floor(numbers)))
        if wrong.any():
            raise DataError(
                f"action {numbers[wrong].flat[0]} is none of the {self._n} discrete ones, 0 to {self._n - 1}"
            )
        return np.eye(self._n, dtype=np.float32)[numbers.astype(np.int64)]

    def decode(self, outputs: Float32[np.ndarray, "n e"]) -> Float32[np.ndarray, "n a"]:
        """The likeliest."""
        return np.argmax(outputs, axis=-1, keepdims=True).astype(np.float32)

    def loss(self, outputs: Float[Tensor, "n e"], codes: Float[Tensor, "n e"]) -> Float[Tensor, ""]:
        """Mean of -log p(action)."""
        return nn.functional.cross_entropy(outputs, codes)

    def error(self, outputs: Float[Tensor, "n e"], codes: Float[Tensor, "n e"]) -> Float[Tensor, ""]:
        """Share of actions that are not the likeliest."""
        return (outputs.argmax(dim=-1) != codes.argmax(dim=-1)).to(torch.float32).mean()


def code_of(action: Box | Discrete) -> ActionCode:
    """The code of a task's actions."""
    return Continuous(action) if isinstance(action, Box) else OneOf(action)


def box_of(spec: TaskSpec) -> Box:
    """The bounds of continuous actions, for what knows no others.

    Raises:
        UsageError: if the actions are discrete.
    """
    if not isinstance(spec.action, Box):
        raise UsageError(f"{spec.env_id}: this is for continuous actions, the task has {spec.action}")
    return spec.action


def middle_and_half(box: Box) -> tuple[Float32[np.ndarray, "a"], Float32[np.ndarray, "a"]]:
    """The affine map between environment actions and the network's: action = middle + half * [-1, 1]."""
    low, high = np.array(box.low, dtype=np.float32), np.array(box.high, dtype=np.float32)
    return (high + low) / 2, (high - low) / 2
