"""Targets, and the finite menu they are chosen from."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from safehold.core.errors import UsageError

Target = tuple[float, ...]
"""One point of a `TargetSpace`, in environment units; for PLS the target returns z = (R, G)."""


@dataclass(frozen=True)
class TargetSpace:
    """A Cartesian grid Z of targets: one sorted axis a name, in environment units.

    For PLS the first axis is "reward" (the target reward return R), the others are the named costs (the target
    cost returns G). Candidates are numbered in C order: the last axis runs fastest.
    """

    axes: dict[str, tuple[float, ...]]

    def __post_init__(self) -> None:
        if not self.axes:
            raise UsageError("a target space needs at least one axis")
        for name, values in self.axes.items():
            array = np.asarray(values, dtype=np.float64)
            if array.ndim != 1 or len(array) == 0 or not np.all(np.isfinite(array)):
                raise UsageError(f"target axis {name!r} must hold finite values, got {values}")
            if np.any(np.diff(array) <= 0):
                raise UsageError(f"target axis {name!r} must increase strictly, got {values}")

    @property
    def names(self) -> tuple[str, ...]:
        """Axis names, in order."""
        return tuple(self.axes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of values on each axis."""
        return tuple(len(values) for values in self.axes.values())

    def __len__(self) -> int:
        """Number of candidates m."""
        return int(np.prod(self.shape))

    @cached_property
    def points(self) -> Float[np.ndarray, "m d"]:
        """Every candidate, in C order."""
        grids = np.meshgrid(*self.axes.values(), indexing="ij")
        points = np.stack([grid.ravel() for grid in grids], axis=1).astype(np.float64)
        points.flags.writeable = False
        return points

    def target(self, index: int) -> Target:
        """The candidate with this number."""
        return tuple(float(value) for value in self.points[index])

    def index(self, target: Target) -> int:
        """The number of a candidate.

        Raises:
            UsageError: if the target is not exactly a point of the grid.
        """
        if len(target) == len(self.axes):
            places = []
            for value, values in zip(target, self.axes.values(), strict=True):
                place = int(np.searchsorted(values, value))
                if place == len(values) or values[place] != value:
                    break
                places.append(place)
            else:
                return int(np.ravel_multi_index(places, self.shape))
        raise UsageError(
            f"target {target} is not a point of the grid over {self.names}; "
            "take targets from TargetSpace.points, they are compared exactly"
        )
