"""Where a multiplier network sees the limit in danger: lambda over an arena, beside the states that are really lost."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from safehold.report.figures.palette import INK, NAIVE, house_style, new_figure

Disc = tuple[float, float, float]
"""x, y and radius, in metres."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiplierMap:
    """lambda at the points of a grid, of a robot that moves with one velocity everywhere (metres a step).

    `lost` marks the points from which no command that was tried keeps the robot out of every disc.
    """

    x: Float[np.ndarray, "w"]
    y: Float[np.ndarray, "h"]
    multipliers: Float[np.ndarray, "h w"]
    lost: Bool[np.ndarray, "h w"]
    discs: tuple[Disc, ...]
    velocity: tuple[float, float]

    @property
    def separation(self) -> float:
        """Chance that a lost point has a larger multiplier than a free one; ties count half, 0.5 says nothing.

        NaN if no point is lost, or all are.
        """
        found, free = self.multipliers[self.lost], self.multipliers[~self.lost]
        if not (found.size and free.size):
            return float("nan")
        ordered = np.sort(free)
        below, upto = (np.searchsorted(ordered, found, side=side) for side in ("left", "right"))
        return float(np.mean(below + upto) / (2 * free.size))


def draw(view: MultiplierMap) -> Figure:
    """The field in colours, the discs, the outline of what is lost, and which way the robot moves."""
    with house_style():
        figure, (ax,) = new_figure(4.8, 4.2)
        ax.grid(False)
        field = ax.pcolormesh(view.x, view.y, view.multipliers, cmap="cividis", shading="nearest", rasterized=True)
        figure.colorbar(field, ax=ax, label="multiplier (reward per cost unit)")
        for x, y, radius in view.discs:
            ax.add_patch(Circle((x, y), radius, fill=False, edgecolor="white", linewidth=1.2))
        if view.lost.any() and not view.lost.all():
            ax.contour(view.x, view.y, view.lost.astype(np.float64), levels=[0.5], colors=[NAIVE], linewidths=1.4)
            ax.plot([], [], color=NAIVE, linewidth=1.4, label="nothing helps inside")
        if any(view.velocity):
            left, bottom, way = view.x.min(), view.y.min(), 0.12 * (view.x.max() - view.x.min())
            length = float(np.hypot(*view.velocity))
            tip = (left + 0.5 * way + way * view.velocity[0] / length, bottom + way + way * view.velocity[1] / length)
            arrow = {"arrowstyle": "-|>", "color": "white", "linewidth": 1.6}
            ax.annotate("", xy=tip, xytext=(left + 0.5 * way, bottom + way), arrowprops=arrow)
        ax.set_aspect("equal")
        ax.set_xlabel("x (m)")
        ax.set_ylabel("y (m)")
        ax.set_title(f"A robot that moves by ({view.velocity[0]:g}, {view.velocity[1]:g}) m a step", color=INK)
        if ax.get_legend_handles_labels()[0]:
            figure.legend(loc="outside lower center")
        return figure
