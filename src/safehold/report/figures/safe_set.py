"""The certified set growing over the plane of targets, as small multiples, and the path that was taken through it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from safehold.core.target import Target, TargetSpace
from safehold.report.figures.palette import (
    CERTIFIED,
    EXPANDER,
    INK,
    MARKS,
    NAMES,
    REVOKED,
    house_style,
    new_figure,
    nothing_yet,
)
from safehold.report.figures.plane import (
    Plane,
    all_on_plane,
    any_on_plane,
    border,
    cells,
    frame,
    place,
    plane_of,
    stairs,
)
from safehold.report.plain_text import inert

_MANY = 30  # marks of one kind in one panel from which they are drawn as an image
FRONTIER = "highest certified reward"

Grounds = Literal["premise", "bound", "paid"]
"""What a target was handed out on: the seed targets' premise, bounds, or a risk that was paid out of delta."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """How the menu stood at one moment, `name` in words.

    A cell that stands for several candidates, because the menu has more than two axes, counts as certified or as an
    expander if any of them is, and as revoked if all of them are. `expanders` are the certified targets of which one
    more measurement could certify others, as the acquisition sees it. `frontier`: for each target cost the target
    reward of the certified candidate from which most reward is expected; NaN without one. `deployed`: targets that were
    handed out before, and on what. `asked` is the one that was asked for next.
    """

    name: str
    certified: Bool[np.ndarray, "rows columns"]
    expanders: Bool[np.ndarray, "rows columns"]
    revoked: Bool[np.ndarray, "rows columns"]
    frontier: Float[np.ndarray, "columns"]
    n_certified: int
    deployed: Mapping[Target, Grounds] = field(default_factory=dict)
    asked: Target | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SafeSet:
    """The menu at a few moments. `unsupported` cells have no logged episodes near: they are never certified."""

    plane: Plane
    unsupported: Bool[np.ndarray, "rows columns"]
    seeds: Bool[np.ndarray, "rows columns"]
    final: Target | None
    moments: tuple[Moment, ...]

    def certified_counts(self) -> tuple[int, ...]:
        """Certified candidates at each moment."""
        return tuple(moment.n_certified for moment in self.moments)


def moment(
    space: TargetSpace,
    name: str,
    certified: Bool[np.ndarray, "m"],
    *,
    expanders: Bool[np.ndarray, "m"] | None = None,
    revoked: Bool[np.ndarray, "m"] | None = None,
    reward: Float[np.ndarray, "m"] | None = None,
    deployed: Mapping[Target, Grounds] | None = None,
    asked: Target | None = None,
) -> Moment:
    """One panel, from masks over all candidates of the space and their expected rewards (the targets', if not said)."""
    nothing = np.zeros(len(space), dtype=np.bool_)
    return Moment(
        name=inert(name, 60),
        certified=any_on_plane(space, certified),
        expanders=any_on_plane(space, nothing if expanders is None else expanders & certified),
        revoked=all_on_plane(space, nothing if revoked is None else revoked),
        frontier=frontier(space, certified, space.points[:, 0] if reward is None else reward),
        n_certified=int(np.sum(certified)),
        deployed=dict(deployed or {}),
        asked=asked,
    )


def frontier(
    space: TargetSpace, certified: Bool[np.ndarray, "m"], reward: Float[np.ndarray, "m"]
) -> Float[np.ndarray, "columns"]:
    """Of each target cost's certified candidates the one with most expected reward: its target reward, or NaN."""
    shape = (space.shape[0], space.shape[1] if len(space.names) > 1 else 1, -1)
    by_cost = np.where(certified, reward, -np.inf).reshape(shape).transpose(1, 0, 2)
    columns = by_cost.reshape(shape[1], -1)
    targets = space.points[:, 0].reshape(shape).transpose(1, 0, 2).reshape(shape[1], -1)
    best, each = np.argmax(columns, axis=1), np.arange(shape[1])
    return np.where(np.isfinite(columns[each, best]), targets[each, best], np.nan)


def grounds_of(asks: Iterable[tuple[Target, Grounds]]) -> dict[Target, Grounds]:
    """Targets that were asked, each with the costliest grounds it was ever handed out on."""
    found: dict[Target, Grounds] = {}
    order: tuple[Grounds, ...] = ("premise", "bound", "paid")
    for target, grounds in asks:
        found[target] = max(found.get(target, grounds), grounds, key=order.index)
    return found


def info(
    space: TargetSpace,
    moments: Sequence[Moment],
    *,
    seeds: Bool[np.ndarray, "m"] | None = None,
    supported: Bool[np.ndarray, "m"] | None = None,
    final: Target | None = None,
) -> SafeSet:
    """The moments, in order."""
    nothing = np.zeros(len(space), dtype=np.bool_)
    return SafeSet(
        plane=plane_of(space),
        unsupported=~any_on_plane(space, ~nothing if supported is None else supported),
        seeds=any_on_plane(space, nothing if seeds is None else seeds),
        final=final,
        moments=tuple(moments),
    )


def draw(view: SafeSet) -> Figure:
    """One panel a moment: what is certified filled, what is unsupported hatched, seeds and deployments marked."""
    with house_style():
        count = max(1, len(view.moments))
        columns = min(3, count)
        rows = -(-count // columns)
        figure, axes = new_figure(
            max(4.6, 2.55 * columns), 2.2 * rows + 1.0, rows=rows, columns=columns, sharex=True, sharey=True
        )
        if not view.moments:
            nothing_yet(axes[0], "no ask yet")
            return figure
        for number, (ax, shown) in enumerate(zip(axes, view.moments, strict=False)):
            backdrop(ax, view, shown)
            _targets(ax, shown)
            if number == len(view.moments) - 1 and view.final is not None:
                star(ax, view.final)
            ax.set_title(f"{shown.name}: {shown.n_certified} certified", fontsize=8.5, fontweight="normal")
        for ax in axes[len(view.moments) :]:
            ax.set_visible(False)
        up, across = view.plane.labels
        for ax in axes[len(view.moments) - columns : len(view.moments)]:
            ax.set_xlabel(across, fontsize=8.5)
            ax.tick_params(labelbottom=bool(across))
        figure.supylabel(up, fontsize=9)
        legend(figure, axes)
        return figure


def backdrop(ax: Axes, view: SafeSet, shown: Moment) -> None:
    """Everything about the cells: certified, expanders, revoked, unsupported, seeds, frontier."""
    plane = view.plane
    frame(ax, plane)
    layers = (
        (shown.certified & ~shown.expanders, CERTIFIED, "certified"),
        (shown.expanders, EXPANDER, "certified, may open others"),
        (shown.revoked & ~view.unsupported, REVOKED, "revoked by evidence"),
    )
    for mask, colour, label in layers:
        if mask.any():
            ax.add_collection(cells(plane, mask, facecolor=colour, label=label))
    if view.unsupported.any():
        ax.add_collection(cells(plane, view.unsupported, facecolor="none", label="no data near", hatch="////"))
    if view.seeds.any():
        ax.add_collection(border(plane, view.seeds, label="seed targets"))
    if np.isfinite(shown.frontier).any():
        ax.add_collection(stairs(plane, shown.frontier, label=FRONTIER))


def _targets(ax: Axes, shown: Moment) -> None:
    """Targets that were handed out, and the next one."""
    for grounds in ("premise", "bound", "paid"):
        _mark(ax, [target for target, mine in shown.deployed.items() if mine == grounds], grounds)
    if shown.asked is not None:
        across, up = place(shown.asked)
        ax.scatter(
            [across], [up], s=60, facecolors="none", edgecolors=INK, linewidths=1.2, label="asked next", zorder=7
        )


def _mark(ax: Axes, targets: Sequence[Target], label: str) -> None:
    if not targets:
        return
    mark, colour = MARKS[label]
    across, up = zip(*(place(target) for target in targets), strict=True)
    ax.scatter(
        across,
        up,
        marker=mark,
        s=20,
        color=colour,
        edgecolors="white",
        linewidths=0.6,
        label=NAMES[label],
        zorder=6,
        rasterized=len(targets) > _MANY,
    )


def star(ax: Axes, target: Target) -> None:
    """The target that is recommended."""
    mark, colour = MARKS["final"]
    across, up = place(target)
    ax.scatter(
        [across], [up], marker=mark, s=110, color=colour, edgecolors=INK, linewidths=0.5, label=NAMES["final"], zorder=8
    )


def legend(figure: Figure, axes: Sequence[Axes], columns: int = 4) -> None:
    """One legend for all panels, every name once."""
    marks = {name: mark for ax in axes for mark, name in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(list(marks.values()), list(marks), loc="outside lower center", ncols=columns)
