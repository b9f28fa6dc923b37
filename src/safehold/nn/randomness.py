"""A generator of one's own for the parts of torch that draw from the default one: initialisation and dropout."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import UInt8
from torch import Tensor


class OwnGenerator:
    """A generator that stands in for torch's default ones while `drawing`.

    The default generators are as they were afterwards, so two learners in one process never meet.
    """

    def __init__(self, seed: int) -> None:
        self._state = torch.Generator().manual_seed(seed).get_state()

    @contextmanager
    def drawing(self, stream: int | None = None) -> Iterator[None]:
        """Inside, torch's default generator continues where this one stopped last.

        With a `stream`, the generators of all devices start from a number drawn here and the stream's: processes that
        hold the same generator draw different numbers, and keep the same generator.
        """
        cuda = [torch.cuda.current_device()] if stream is not None and torch.cuda.is_available() else []
        with torch.random.fork_rng(devices=cuda):
            torch.set_rng_state(self._state)
            if stream is None:
                yield
                self._state = torch.get_rng_state()
                return
            seed = int(torch.randint(2**62, ()))
            self._state = torch.get_rng_state()
            torch.manual_seed(seed + stream)
            yield

    def state(self) -> UInt8[Tensor, "bytes"]:
        """A copy of the state, for a checkpoint."""
        return self._state.clone()

    def restore(self, state: UInt8[Tensor, "bytes"]) -> None:
        """Continues from a saved state."""
        self._state = state.clone()


def drawn_generator() -> torch.Generator:
    """A generator seeded by a draw of torch's default one: inside `OwnGenerator.drawing`, by that one."""
    return torch.Generator().manual_seed(int(torch.randint(2**62, ())))
