"""The targets that were asked, numbered in their order, over what is certified in the end."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox, BboxBase

from safehold.core.target import Target
from safehold.report.figures.palette import INK, MARKS, NAMES, THICK_SCATTER, house_style, new_figure, nothing_yet
from safehold.report.figures.plane import place
from safehold.report.figures.safe_set import Grounds, SafeSet, backdrop, grounds_of, legend, star

_MOST_LABELS = 60
_CORNERS = ((5, 4), (5, -11), (-5, 4), (-5, -11), (9, -4), (-9, -4), (0, 7), (0, -15), (12, 10), (-12, 10))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """One target of the path: the numbers of its asks, on what it was handed out, and whether it is revoked now."""

    target: Target
    numbers: tuple[int, ...]
    grounds: Grounds
    revoked: bool

    @property
    def label(self) -> str:
        """The numbers, runs of them joined: "3, 5-9"."""
        return runs_of(self.numbers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """The plane at the end of a run, its targets, and the order in which they were asked (places in `stops`)."""

    now: SafeSet
    stops: tuple[Stop, ...]
    order: tuple[int, ...]


def info(now: SafeSet, asks: Sequence[tuple[int, Target, Grounds]], revoked: frozenset[Target] = frozenset()) -> Path:
    """The path of these asks: number, target, and on what. `now` has one moment, the present one."""
    numbers: dict[Target, list[int]] = {}
    for number, target, _ in asks:
        numbers.setdefault(target, []).append(number)
    grounds = grounds_of((target, mine) for _, target, mine in asks)
    places = {target: at for at, target in enumerate(numbers)}
    return Path(
        now=now,
        stops=tuple(
            Stop(target=target, numbers=tuple(all_), grounds=grounds[target], revoked=target in revoked)
            for target, all_ in numbers.items()
        ),
        order=tuple(places[target] for _, target, _ in asks),
    )


def runs_of(numbers: Sequence[int], most: int = 4) -> str:
    """Ascending numbers with runs joined, cut after `most` runs."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    words = [f"{a}" if a == b else f"{a}, {b}" if b == a + 1 else f"{a}-{b}" for a, b in runs[:most]]
    return ", ".join(words) + (" …" if len(runs) > most else "")


def draw(view: Path) -> Figure:
    """One plane: the path as a thin line, its targets as numbered marks."""
    with house_style():
        figure, (ax,) = new_figure(7.6, 5.2)
        if not view.stops:
            nothing_yet(ax, "no ask yet")
            return figure
        backdrop(ax, view.now, view.now.moments[-1])
        across, up = np.array([place(stop.target) for stop in view.stops]).T
        order = np.array(view.order)
        ax.plot(
            across[order],
            up[order],
            color="#52606d",
            linewidth=0.7,
            alpha=0.7,
            zorder=5,
            rasterized=len(order) > THICK_SCATTER,
        )
        for label in ("premise", "bound", "paid", "revoked"):
            _stops(ax, view, label)
        if view.now.final is not None:
            star(ax, view.now.final)
        above, beside = view.now.plane.labels
        ax.set_ylabel(above)
        ax.set_xlabel(beside)
        ax.set_title("The path, numbered by ask")
        legend(figure, [ax])
        _number(figure, ax, view)
        return figure


def _stops(ax: Axes, view: Path, label: str) -> None:
    """The targets of one kind."""
    mine = [stop for stop in view.stops if label == ("revoked" if stop.revoked else stop.grounds)]
    if not mine:
        return
    mark, colour = MARKS[label]
    across, up = zip(*(place(stop.target) for stop in mine), strict=True)
    ax.scatter(
        across,
        up,
        marker=mark,
        s=34,
        color=colour,
        edgecolors="white",
        linewidths=0.6,
        label=NAMES[label],
        zorder=6,
        rasterized=len(mine) > THICK_SCATTER,
    )


def _number(figure: Figure, ax: Axes, view: Path) -> None:
    """Numbers beside their targets where there is room; the last, the first and the most asked targets come first."""
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    frame = ax.get_window_extent(renderer)
    marks = [ax.transData.transform(place(stop.target)) for stop in view.stops]
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in marks[:2000]]
    first, last = view.order[0], view.order[-1]
    wanted = sorted(
        range(len(view.stops)),
        key=lambda at: (at not in (first, last), -len(view.stops[at].numbers), view.stops[at].numbers[0]),
    )
    for at in wanted[:_MOST_LABELS]:
        _label(ax, view.stops[at], taken, frame, renderer)


def _label(ax: Axes, stop: Stop, taken: list[Bbox], frame: BboxBase, renderer: RendererAgg) -> None:
    """One label at the first of its corners where it covers nothing; none if there is no such corner."""
    for dx, dy in _CORNERS:
        text = ax.annotate(
            stop.label,
            place(stop.target),
            xytext=(dx, dy),
            textcoords="offset points",
            ha="left" if dx > 0 else "right" if dx < 0 else "center",
            fontsize=8,
            color=INK,
            bbox={"boxstyle": "square,pad=0.08", "facecolor": "white", "alpha": 0.65, "linewidth": 0},
            zorder=9,
        )
        box = text.get_window_extent(renderer)
        inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
        if inside and not any(box.overlaps(other) for other in taken):
            taken.append(box)
            return
        text.remove()
