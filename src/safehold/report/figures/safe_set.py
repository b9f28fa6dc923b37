"""The certified set growing over the plane of targets, as small multiples."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from safehold.core.errors import DataError
from safehold.core.target import Target, TargetSpace
from safehold.report.figures.palette import CERTIFIED, INK, MARKS, NAMES, house_style, new_figure, nothing_yet
from safehold.report.plain_text import inert


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What was certified before ask `number`, which targets had been deployed, and which one was asked for next."""

    number: int
    certified: Bool[np.ndarray, "rows columns"]
    deployed: tuple[Target, ...]
    asked: Target | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SafeSet:
    """The menu Z on its first two axes (rows: rewards, columns: costs) at a few moments.

    A cell that stands for several candidates, because Z has more than two axes, counts as certified if any of
    them is. `unsupported` marks cells where the data say nothing, so that nothing may be certified there.
    """

    rewards: Float[np.ndarray, "rows"]
    costs: Float[np.ndarray, "columns"]
    names: tuple[str, str]
    unsupported: Bool[np.ndarray, "rows columns"]
    seeds: tuple[Target, ...]
    final: Target | None
    moments: tuple[Moment, ...]

    def certified_counts(self) -> tuple[int, ...]:
        """Certified cells at each moment."""
        return tuple(int(moment.certified.sum()) for moment in self.moments)


def moment(
    space: TargetSpace, number: int, certified: Bool[np.ndarray, "m"], deployed: Sequence[Target], asked: Target | None
) -> Moment:
    """One panel, from the mask over all candidates of the space."""
    return Moment(number=number, certified=_on_plane(space, certified), deployed=tuple(deployed), asked=asked)


def info(
    space: TargetSpace,
    moments: Sequence[Moment],
    *,
    seeds: Sequence[Target] = (),
    supported: Bool[np.ndarray, "m"] | None = None,
    final: Target | None = None,
    most: int = 6,
) -> SafeSet:
    """At most `most` of the moments, evenly spread, the first and the last among them."""
    chosen = np.unique(np.linspace(0, len(moments) - 1, min(most, len(moments))).round().astype(int))
    axes = [np.asarray(values, dtype=np.float64) for values in space.axes.values()]
    everywhere = np.ones(len(space), dtype=np.bool_)
    return SafeSet(
        rewards=axes[0],
        costs=axes[1] if len(axes) > 1 else np.zeros(1),
        names=(inert(space.names[0], 40), inert(space.names[1], 40) if len(axes) > 1 else ""),
        unsupported=~_on_plane(space, everywhere if supported is None else supported),
        seeds=tuple(seeds),
        final=final,
        moments=tuple(moments[i] for i in chosen) if len(moments) else (),
    )


def _on_plane(space: TargetSpace, mask: Bool[np.ndarray, "m"]) -> Bool[np.ndarray, "rows columns"]:
    """The mask on the first two axes; the other axes are folded by "any"."""
    if mask.shape != (len(space),):
        raise DataError(f"a mask over {len(space)} candidates has shape {mask.shape}")
    grid = mask.reshape(space.shape)
    grid = grid.reshape(grid.shape[0], grid.shape[1] if grid.ndim > 1 else 1, -1)
    return np.asarray(grid.any(axis=2))


def draw(view: SafeSet) -> Figure:
    """One panel a moment: the certified set filled, unsupported targets hatched, seeds and deployments marked."""
    with house_style():
        count = max(1, len(view.moments))
        columns = min(3, count)
        rows = -(-count // columns)
        figure, axes = new_figure(
            max(4.6, 2.55 * columns), 2.15 * rows + 0.75, rows=rows, columns=columns, sharex=True, sharey=True
        )
        if not view.moments:
            nothing_yet(axes[0], "no ask yet")
            return figure
        edges = (_edges(view.rewards), _edges(view.costs))
        for number, (ax, shown) in enumerate(zip(axes, view.moments, strict=False)):
            _panel(ax, view, shown, edges, last=number == len(view.moments) - 1)
        for ax in axes[len(view.moments) :]:
            ax.set_visible(False)
        for ax in axes[len(view.moments) - columns : len(view.moments)]:
            ax.set_xlabel(f"target {view.names[1]} return (G)" if view.names[1] else "", fontsize=8.5)
            ax.tick_params(labelbottom=bool(view.names[1]))
        name = f"target {view.names[0]} return (R)" if view.names[1] else f"target {view.names[0]}"
        figure.supylabel(name, fontsize=9)
        marks = {name: mark for ax in axes for mark, name in zip(*ax.get_legend_handles_labels(), strict=True)}
        figure.legend(list(marks.values()), list(marks), loc="outside lower center", ncols=3)
        return figure


def _panel(
    ax: Axes, view: SafeSet, shown: Moment, edges: tuple[Float[np.ndarray, "r"], Float[np.ndarray, "c"]], *, last: bool
) -> None:
    """The plane at one moment."""
    ax.grid(False)
    ax.add_collection(_cells(shown.certified, edges, facecolor=CERTIFIED, edgecolor=CERTIFIED, label="certified"))
    if view.unsupported.any():
        hatched = _cells(
            view.unsupported, edges, facecolor="none", edgecolor="#b8c0c8", linewidth=0.0, label="no data near"
        )
        hatched.set_hatch("////")
        ax.add_collection(hatched)
    _mark(ax, shown.deployed, "deployed", size=13.0)
    _mark(ax, view.seeds, "seed", size=24.0)
    if shown.asked is not None:
        ax.scatter(
            *_place([shown.asked]),
            s=60,
            facecolors="none",
            edgecolors=INK,
            linewidths=1.2,
            label="asked next",
            zorder=6,
        )
    if last and view.final is not None:
        _mark(ax, [view.final], "final", size=110.0)
    ax.set_xlim(edges[1][0], edges[1][-1])
    ax.set_ylim(edges[0][0], edges[0][-1])
    share = shown.certified.sum()
    ax.set_title(f"before ask {shown.number}: {share} certified", fontsize=8.5, fontweight="normal")


def _mark(ax: Axes, targets: Sequence[Target], label: str, size: float) -> None:
    if not targets:
        return
    mark, colour = MARKS[label]
    edge = INK if mark == "*" else "white"
    ax.scatter(
        *_place(targets),
        marker=mark,
        s=size,
        color=colour,
        edgecolors=edge,
        linewidths=0.5,
        label=NAMES[label],
        zorder=5,
    )


def _place(targets: Sequence[Target]) -> tuple[list[float], list[float]]:
    """Where targets lie: their cost across, their reward up."""
    return [t[1] if len(t) > 1 else 0.0 for t in targets], [t[0] for t in targets]


def _edges(centres: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n_plus_1"]:
    """Borders of the cells around an axis's values: half-way between neighbours."""
    if len(centres) == 1:
        return np.array([centres[0] - 0.5, centres[0] + 0.5])
    middle = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])


def _cells(
    mask: Bool[np.ndarray, "rows columns"],
    edges: tuple[Float[np.ndarray, "r"], Float[np.ndarray, "c"]],
    *,
    facecolor: str,
    edgecolor: str,
    label: str,
    linewidth: float = 0.4,
) -> PolyCollection:
    """The marked cells as rectangles, neighbours of one row joined, so that a big grid stays a small drawing."""
    up, across = edges
    boxes = []
    for row in range(mask.shape[0]):
        steps = np.diff(np.concatenate([[0], mask[row].astype(np.int8), [0]]))
        for start, stop in zip(np.flatnonzero(steps == 1), np.flatnonzero(steps == -1), strict=True):
            x0, x1, y0, y1 = across[start], across[stop], up[row], up[row + 1]
            boxes.append([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
    return PolyCollection(
        boxes, facecolor=facecolor, edgecolor=edgecolor, linewidth=linewidth, label=label, closed=True
    )
