"""Methods side by side, a panel a task: normalised reward against normalised cost, and what keeps the limit."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from safehold.core.intervals import Interval
from safehold.report.figures.palette import (
    DATA,
    INK,
    NAIVE,
    OURS,
    REWARD,
    SEED,
    TUNED,
    house_style,
    limit_line,
    new_figure,
    nothing_yet,
    span,
)
from safehold.report.plain_text import inert

MARKS = (("o", OURS), ("X", NAIVE), ("s", SEED), ("^", TUNED), ("D", REWARD), ("v", DATA))
"""Mark and colour of the first method, the second, ...; they begin anew, a shade lighter, after the sixth."""

_COLUMNS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A method on a task at a limit: reward normalised by the logged extremes, cost by the limit, with intervals."""

    task: str
    method: str
    limit: float
    reward: Interval
    cost: Interval


@dataclass(frozen=True, slots=True)
class Benchmark:
    """All standings, and the order in which tasks, methods and limits are shown."""

    standings: tuple[Standing, ...]
    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    limits: tuple[float, ...]


def info(standings: Sequence[Standing]) -> Benchmark:
    """Tasks and methods as they come first, limits from tight to loose."""
    return Benchmark(
        standings=tuple(standings),
        tasks=tuple(dict.fromkeys(one.task for one in standings)),
        methods=tuple(dict.fromkeys(one.method for one in standings)),
        limits=tuple(sorted({one.limit for one in standings})),
    )


def draw(view: Benchmark) -> Figure:
    """A panel a task: a method's limits are joined, and its mark grows from the tightest to the loosest."""
    columns = min(_COLUMNS, max(1, len(view.tasks)))
    rows = max(1, math.ceil(len(view.tasks) / columns))
    with house_style():
        figure, axes = new_figure(max(5.2, 3.4 * columns), 3.2 * rows + 0.5, rows=rows, columns=columns)
        if not view.standings:
            nothing_yet(axes[0], "nothing was run yet")
            return figure
        for ax, task in zip(axes, view.tasks, strict=False):
            _panel(ax, task, view)
        for ax in axes[len(view.tasks) :]:
            ax.set_visible(False)
        marks, names = axes[0].get_legend_handles_labels()
        figure.legend(marks, names, loc="outside lower center", ncols=4)
        figure.text(0.01, 0.005, f"marks from small to large: limit {_listed(view.limits)}", fontsize=7.5)
        return figure


def _panel(ax: Axes, task: str, view: Benchmark) -> None:
    """One task."""
    of_task = [one for one in view.standings if one.task == task]
    ax.set_xlim(*span([0.0, 1.0, *_ends([one.cost for one in of_task])]))
    ax.set_ylim(*span(_ends([one.reward for one in of_task])))
    limit_line(ax, 1.0, "", "x")
    ax.lines[-1].set_label("cost limit")
    for place, method in enumerate(view.methods):
        mine = sorted((one for one in of_task if one.method == method), key=lambda one: one.limit)
        mark, colour = MARKS[place % len(MARKS)]
        faded = 1.0 if place < len(MARKS) else 0.55
        ax.plot([o.cost.estimate for o in mine], [o.reward.estimate for o in mine], color=colour, alpha=0.35, lw=1.0)
        for number, one in enumerate(mine):
            ax.errorbar(
                one.cost.estimate,
                one.reward.estimate,
                xerr=_sides(one.cost),
                yerr=_sides(one.reward),
                fmt=mark,
                color=colour,
                alpha=faded,
                markersize=4.5 + 2.0 * view.limits.index(one.limit),
                markeredgecolor="white" if mark != "X" else colour,
                markeredgewidth=0.6,
                elinewidth=0.9,
                ecolor=colour,
                zorder=4,
                label=inert(method, 30) if number == 0 else None,
            )
    ax.set_title(inert(task, 40))
    ax.set_xlabel("mean cost of an episode / limit")
    ax.set_ylabel("normalised reward")
    ax.tick_params(colors=INK)


def _ends(intervals: Sequence[Interval]) -> list[float]:
    """All that must be seen."""
    return [end for one in intervals for end in (one.estimate, one.low, one.high)]


def _sides(interval: Interval) -> list[list[float]]:
    """Lengths of the whiskers; none where there is no interval."""
    if not interval.known:
        return [[0.0], [0.0]]
    return [[max(0.0, interval.estimate - interval.low)], [max(0.0, interval.high - interval.estimate)]]


def _listed(limits: Sequence[float]) -> str:
    return ", ".join(f"{limit:g}" for limit in limits)
