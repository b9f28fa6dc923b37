"""The way from a target task's observations to those of the task that a guide has learnt in."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch

from safehold.core.errors import DataError

Array = TypeVar("Array", np.ndarray, torch.Tensor)


@dataclass(frozen=True, slots=True)
class Abstraction:
    """Xi: those `columns` of a target's observation, of `size` entries, that make up a source's observation, in order.

    A guide that is safe in the source is safe in the target if what Xi drops neither costs nor moves what it keeps
    (Q_c-irrelevance), and the source's limit is no higher than the target's.   [SaGui, Thm. 1]   Whether it does is
    what `guided.irrelevance` asks a log.

    Raises:
        DataError: if a column is none of the target's, or there twice.
    """

    columns: tuple[int, ...]
    size: int

    def __post_init__(self) -> None:
        inside = all(0 <= column < self.size for column in self.columns)
        if not inside or not self.columns or len(set(self.columns)) != len(self.columns):
            raise DataError(f"columns {self.columns} are not distinct ones of {self.size} entries of an observation")

    def __call__(self, observations: Array) -> Array:
        """What the source would show, (n, s) of (n, o)."""
        return observations[..., list(self.columns)]

    @property
    def dropped(self) -> tuple[int, ...]:
        """The columns that are not kept."""
        return tuple(column for column in range(self.size) if column not in self.columns)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `of_json` reads them back."""
        return {"columns": list(self.columns), "size": self.size}

    @staticmethod
    def of_json(plain: Mapping[str, Any]) -> "Abstraction":
        """What `to_json` wrote.

        Raises:
            DataError: if it is something else.
        """
        try:
            return Abstraction(tuple(int(column) for column in plain["columns"]), int(plain["size"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"not the description of an abstraction: {error!r}") from error


def between(source: Mapping[str, slice], target: Mapping[str, slice]) -> Abstraction:
    """The abstraction that drops the parts of the target's observation that the source's does not have.

    Raises:
        DataError: if an observation has no named parts, or the source shows something that the target does not.
    """
    lengths = {name: part.stop - part.start for name, part in target.items()}
    missing = [name for name, part in source.items() if lengths.get(name) != part.stop - part.start]
    if missing or not source or not target:
        raise DataError(
            f"the source's observation has the parts {list(source)}, the target's {list(target)}; every part of the "
            f"source's must be in the target's, with as many entries (wrong: {missing})"
        )
    in_order = sorted(source, key=lambda name: source[name].start)
    columns = [column for name in in_order for column in range(target[name].start, target[name].stop)]
    return Abstraction(tuple(columns), max(part.stop for part in target.values()))
