"""Where a network is trained: the device, and which of the processes that share a batch this one is."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor, distributed

from safehold.core.errors import UsageError
from safehold.data.batches import SequenceBatch
from safehold.nn.tensors import to_tensor

Device = Literal["cpu", "cuda"]

PART = 256
"""Windows that a CPU works on at a time: more than that outgrow its caches (docs/results/offline-speed.md)."""


@dataclass(frozen=True, slots=True)
class Place:
    """A device, and number `rank` of `count` processes.

    Every process draws the same batches and works on its own rows of them; gradients are added up, so that all hold
    the same weights, and those that one process would have trained, up to rounding. Dropout differs.
    """

    device: Device = "cpu"
    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    @property
    def stream(self) -> int | None:
        """Which numbers dropout draws; None: those of the learner's generator as it is, on a CPU, alone."""
        return None if self.device == "cpu" and self.count == 1 else self.rank

    def tensor(self, array: Shaped[np.ndarray, "*shape"]) -> Shaped[Tensor, "*shape"]:
        """A tensor on the device: floating arrays as float32."""
        return to_tensor(array).to(self.device)

    def parts(self, batch: SequenceBatch) -> Iterator[tuple[SequenceBatch, float]]:
        """This process's rows of a batch, and the share of the batch's valid steps that lie in them.

        On a CPU in parts of at most `PART` windows, whose activations stay in its caches: gradients of the parts add up
        to that of the whole (dropout aside, which draws anew for each).

        Raises:
            UsageError: if there are fewer rows than processes.
        """
        rows = len(batch.mask)
        if rows < self.count:
            raise UsageError(f"a batch of {rows} windows cannot be shared by {self.count} processes")
        first, last = rows * self.rank // self.count, rows * (self.rank + 1) // self.count
        size = PART if self.device == "cpu" else rows
        for start in range(first, last, size):
            own = slice(start, min(start + size, last))
            mine = SequenceBatch(**{field.name: getattr(batch, field.name)[own] for field in fields(batch)})
            yield mine, float(mine.mask.sum() / batch.mask.sum())

    def add_up(self, tensors: Iterable[Tensor | None]) -> None:
        """Replaces tensors, in place, by their sums over all processes; what is None is so in all of them."""
        if self.count == 1:
            return
        given = [tensor for tensor in tensors if tensor is not None]
        sums = torch.cat([tensor.flatten() for tensor in given])
        distributed.all_reduce(sums)
        at = 0
        for tensor in given:
            tensor.copy_(sums[at : at + tensor.numel()].view_as(tensor))
            at += tensor.numel()

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            distributed.barrier()


HERE = Place()
"""This process, alone, on the processor."""


@contextlib.contextmanager
def joined(device: Device) -> Iterator[Place]:
    """The place that `torchrun` has given this process; the only one if it was started otherwise.

    Raises:
        UsageError: if there is no such device.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("no CUDA device is to be had here; train with --device cpu")
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Place(device)
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield Place(device, distributed.get_rank(), count)
    finally:
        distributed.destroy_process_group()
