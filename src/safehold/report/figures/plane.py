"""The plane of targets: masks over all candidates folded onto the first two axes, and cells and borders to draw."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection

from safehold.core.errors import DataError
from safehold.core.target import Target, TargetSpace
from safehold.report.figures.palette import INK, SEED
from safehold.report.plain_text import inert


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """The first two axes of a menu: rows are rewards, columns costs. A menu of one axis has a single column."""

    rewards: Float[np.ndarray, "rows"]
    costs: Float[np.ndarray, "columns"]
    names: tuple[str, str]

    @property
    def row_edges(self) -> Float[np.ndarray, "_"]:
        """Borders between the rows."""
        return _edges(self.rewards)

    @property
    def column_edges(self) -> Float[np.ndarray, "_"]:
        """Borders between the columns."""
        return _edges(self.costs)

    @property
    def labels(self) -> tuple[str, str]:
        """What stands beside the axis upwards and the axis across."""
        if not self.names[1]:
            return f"target {self.names[0]}", ""
        return f"target {self.names[0]} return (R)", f"target {self.names[1]} return (G)"


def plane_of(space: TargetSpace) -> Plane:
    """The plane of a menu."""
    axes = [np.asarray(values, dtype=np.float64) for values in space.axes.values()]
    return Plane(
        rewards=axes[0],
        costs=axes[1] if len(axes) > 1 else np.zeros(1),
        names=(inert(space.names[0], 40), inert(space.names[1], 40) if len(axes) > 1 else ""),
    )


def any_on_plane(space: TargetSpace, mask: Bool[np.ndarray, "m"]) -> Bool[np.ndarray, "rows columns"]:
    """Cells of which any candidate is marked."""
    return np.asarray(_folded(space, mask).any(axis=2))


def all_on_plane(space: TargetSpace, mask: Bool[np.ndarray, "m"]) -> Bool[np.ndarray, "rows columns"]:
    """Cells of which all candidates are marked."""
    return np.asarray(_folded(space, mask).all(axis=2))


def _folded(space: TargetSpace, mask: Bool[np.ndarray, "m"]) -> Bool[np.ndarray, "rows columns others"]:
    if mask.shape != (len(space),):
        raise DataError(f"a mask over {len(space)} candidates has shape {mask.shape}")
    grid = mask.reshape(space.shape)
    return grid.reshape(grid.shape[0], grid.shape[1] if grid.ndim > 1 else 1, -1)


def place(target: Target) -> tuple[float, float]:
    """Where a target lies: its cost across, its reward up."""
    return (target[1] if len(target) > 1 else 0.0), target[0]


def frame(ax: Axes, plane: Plane) -> None:
    """The axes end where the cells end."""
    ax.grid(False)
    ax.set_xlim(plane.column_edges[0], plane.column_edges[-1])
    ax.set_ylim(plane.row_edges[0], plane.row_edges[-1])
    if not plane.names[1]:
        ax.set_xticks([])


def cells(
    plane: Plane, mask: Bool[np.ndarray, "rows columns"], *, facecolor: str, label: str, hatch: str = ""
) -> PolyCollection:
    """The marked cells as rectangles, neighbours of one row joined, so that a big grid stays a small drawing."""
    up, across = plane.row_edges, plane.column_edges
    boxes = []
    for row in range(mask.shape[0]):
        for start, stop in _runs(mask[row]):
            x0, x1, y0, y1 = across[start], across[stop], up[row], up[row + 1]
            boxes.append([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
    edge = "#b8c0c8" if hatch else facecolor
    drawn = PolyCollection(
        boxes, facecolor=facecolor, edgecolor=edge, linewidth=0.0 if hatch else 0.4, label=label, closed=True
    )
    if hatch:
        drawn.set_hatch(hatch)
    return drawn


def border(plane: Plane, mask: Bool[np.ndarray, "rows columns"], *, label: str) -> LineCollection:
    """The line around the marked cells."""
    up, across = plane.row_edges, plane.column_edges
    padded = np.pad(mask, 1).astype(np.int8)
    lines = []
    for row in range(mask.shape[0] + 1):
        for start, stop in _runs(np.diff(padded, axis=0)[row, 1:-1] != 0):
            lines.append([(across[start], up[row]), (across[stop], up[row])])
    for column in range(mask.shape[1] + 1):
        for start, stop in _runs(np.diff(padded, axis=1)[1:-1, column] != 0):
            lines.append([(across[column], up[start]), (across[column], up[stop])])
    return LineCollection(lines, colors=SEED, linewidths=1.3, label=label, zorder=3)


def stairs(plane: Plane, heights: Float[np.ndarray, "columns"], *, label: str) -> LineCollection:
    """A flat line across every column at its height, joined to its neighbours'; nothing where the height is NaN."""
    across = plane.column_edges
    lines: list[list[tuple[float, float]]] = []
    for column, height in enumerate(heights):
        if not np.isfinite(height):
            continue
        piece = [(float(across[column]), float(height)), (float(across[column + 1]), float(height))]
        if column and np.isfinite(heights[column - 1]):
            lines[-1] += piece
        else:
            lines.append(piece)
    return LineCollection(lines, colors=INK, linewidths=1.4, label=label, zorder=4)


def _runs(marked: Bool[np.ndarray, "_"]) -> list[tuple[int, int]]:
    """First and one past last place of every run of marked ones."""
    steps = np.diff(np.concatenate([[0], marked.astype(np.int8), [0]]))
    return [(int(a), int(b)) for a, b in zip(np.flatnonzero(steps == 1), np.flatnonzero(steps == -1), strict=True)]


def _edges(centres: Float[np.ndarray, "n"]) -> Float[np.ndarray, "_"]:
    """Borders of the cells around an axis's values: half-way between neighbours."""
    if len(centres) == 1:
        return np.array([centres[0] - 0.5, centres[0] + 0.5])
    middle = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])
