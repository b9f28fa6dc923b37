"""A generator of one's own for the parts of torch that draw from the default one: initialisation and dropout."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import UInt8
from torch import Tensor


class OwnGenerator:
    """A CPU generator that stands in for torch's default one while `drawing`.

    The default generator is as it was afterwards, so two learners in one process never meet.
    """

    def __init__(self, seed: int) -> None:
        self._state = torch.Generator().manual_seed(seed).get_state()

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Inside, torch's default generator continues where this one stopped last."""
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self._state)
            yield
            self._state = torch.get_rng_state()

    def state(self) -> UInt8[Tensor, "bytes"]:
        """A copy of the state, for a checkpoint."""
        return self._state.clone()

    def restore(self, state: UInt8[Tensor, "bytes"]) -> None:
        """Continues from a saved state."""
        self._state = state.clone()
