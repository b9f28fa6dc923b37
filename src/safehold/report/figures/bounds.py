"""Each ask's prediction and bound, or its risk, beside its limits, and what the target then cost."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from safehold.core.intervals import Interval
from safehold.report.figures.palette import (
    INK,
    NAIVE,
    OURS,
    OVER_LIMIT,
    REWARD,
    SEED,
    THICK_SCATTER,
    house_style,
    log_axis,
    new_figure,
    nothing_yet,
    span,
    whole_numbers,
)
from safehold.report.plain_text import inert

SMALLEST_RISK = 1e-6
"""Risks below are drawn at this height."""

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_RISK_MARKS = (("o", OURS), ("s", SEED), ("^", REWARD), ("D", INK))


@dataclass(frozen=True, slots=True, kw_only=True)
class Break:
    """Something that changed the terms: drawn before the ask `number`."""

    number: int
    word: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundAtAsk:
    """What was known of one limited cost at one ask, and what came.

    `mean`: of the limited statistic. `upper`: the upper end of its interval, which is a certified bound or not.
    `limit` as it was then. `risk`: probability of being above it. `told`: the told statistic, if every episode gave a
    cost; `failed` if one did not, or if the outcome is unknown.
    """

    number: int
    mean: float
    upper: float | None
    limit: float
    risk: float
    told: Interval | None
    failed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CostBounds:
    """All asks against one limit; `certified` says whether `upper` is what certifies. `what`, in `unit`, is limited."""

    name: str
    what: str
    unit: str
    asks: tuple[BoundAtAsk, ...]
    certified: bool

    @property
    def slack(self) -> float | None:
        """Smallest distance of a certified bound to its limit; None where nothing was certified by a bound."""
        gaps = [ask.limit - ask.upper for ask in self.asks if ask.upper is not None]
        return min(gaps) if gaps and self.certified else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """A panel a limited cost; with rules that pay for risk, one more for the risks."""

    costs: tuple[CostBounds, ...]
    breaks: tuple[Break, ...]


def cost(name: str, what: str, unit: str, asks: Sequence[BoundAtAsk], *, certified: bool) -> CostBounds:
    """One limited cost, its words made inert."""
    return CostBounds(
        name=inert(name, 40), what=inert(what, 60), unit=inert(unit, 60), asks=tuple(asks), certified=certified
    )


def info(costs: Sequence[CostBounds], breaks: Sequence[Break] = ()) -> Bounds:
    """The limited costs of a run, in the order of their limits."""
    return Bounds(costs=tuple(costs), breaks=tuple(breaks))


def joined(breaks: Sequence[Break]) -> tuple[Break, ...]:
    """Breaks before the same ask as one, their words made inert."""
    words: dict[int, list[str]] = {}
    for shown in breaks:
        words.setdefault(shown.number, []).append(inert(shown.word, 30))
    return tuple(Break(number=number, word=", ".join(dict.fromkeys(mine))) for number, mine in words.items())


def draw(view: Bounds) -> Figure:
    """A stem from the predicted mean to its bound at every ask, the told value beside it, the limit across."""
    with house_style():
        numbers = [ask.number for shown in view.costs for ask in shown.asks]
        risky = bool(numbers) and not all(shown.certified for shown in view.costs)
        rows = max(1, len(view.costs)) + risky
        heights = [2.6] * (rows - risky) + [1.6] * risky
        figure, axes = new_figure(7.6, sum(heights) + 0.9, rows=rows, sharex=True, height_ratios=heights)
        if not numbers:
            nothing_yet(axes[0], "no ask yet")
            return figure
        for ax, shown in zip(axes, view.costs, strict=False):
            _panel(ax, shown)
        if risky:
            _risks(axes[-1], view)
        ends = (min(numbers) - 0.7, max(numbers) + 0.7)
        for ax in axes:
            ax.set_xlim(*ends)
            break_lines(ax, view.breaks, lettered=ax is axes[0])
        whole_numbers(axes[-1])
        axes[-1].set_xlabel(ask_label(view.breaks))
        axes[0].set_title("What was foretold, and what came", pad=14 if view.breaks else 6)
        marks = {name: mark for ax in axes for mark, name in zip(*ax.get_legend_handles_labels(), strict=True)}
        figure.legend(list(marks.values()), list(marks), loc="outside lower center", ncols=3)
        return figure


def break_lines(ax: Axes, breaks: Sequence[Break], *, lettered: bool) -> None:
    """Dotted lines where the terms changed; above one panel each has its letter, which `ask_label` explains."""
    for letter, shown in zip(_LETTERS, joined(breaks), strict=False):
        ax.axvline(shown.number - 0.5, color=NAIVE, linewidth=1.0, linestyle=":")
        if lettered:
            ax.annotate(
                letter,
                (shown.number - 0.5, 1.0),
                xycoords=ax.get_xaxis_transform(),
                xytext=(0, 2),
                textcoords="offset points",
                fontsize=8,
                fontweight="bold",
                color=NAIVE,
                ha="center",
            )


def ask_label(breaks: Sequence[Break]) -> str:
    """What stands under an axis of asks: the word, and what the letters of the dotted lines mean."""
    key = ";  ".join(f"{letter}: {shown.word}" for letter, shown in zip(_LETTERS, joined(breaks), strict=False))
    return "\n".join(["ask", *textwrap.wrap(key, 100)])


def _panel(ax: Axes, shown: CostBounds) -> None:
    """One limited cost."""
    many = len(shown.asks) > THICK_SCATTER
    numbers = np.array([ask.number for ask in shown.asks], dtype=np.float64)
    means = np.array([ask.mean for ask in shown.asks])
    uppers = np.array([np.nan if ask.upper is None else ask.upper for ask in shown.asks])
    limits = np.array([ask.limit for ask in shown.asks])
    told = [end for ask in shown.asks if ask.told is not None for end in (ask.told.estimate, ask.told.high)]
    ax.set_ylim(*span([0.0, *means, *uppers, *limits, *told]))
    _limit_steps(ax, numbers, limits)
    ax.vlines(numbers, means, uppers, color="#9aa5b1", linewidth=1.0, rasterized=many)
    ax.scatter(
        numbers,
        means,
        marker="_",
        s=45,
        color="#52606d",
        linewidths=1.2,
        label="predicted mean",
        rasterized=many,
    )
    ax.scatter(
        numbers,
        uppers,
        marker="_" if shown.certified else ".",
        s=110 if shown.certified else 22,
        color=INK,
        linewidths=1.6 if shown.certified else 0,
        label="certified bound" if shown.certified else "upper end of the belief (what certifies is the risk)",
        rasterized=many,
    )
    _told(ax, shown, rasterized=many)
    ax.set_ylabel("\n".join([*textwrap.wrap(shown.what, 28), *textwrap.wrap(f"({shown.unit})", 28)]), fontsize=8.5)


def _limit_steps(ax: Axes, numbers: np.ndarray, limits: np.ndarray) -> None:
    """The limit as it was at every ask; what is over it tinted."""
    changed = np.append(True, np.diff(limits) != 0)
    edges = np.append(numbers[changed] - 0.5, numbers[-1] + 1.5)
    heights = np.append(limits[changed], limits[-1])
    edges[0] -= 1.0
    top = ax.get_ylim()[1]
    ax.fill_between(edges, heights, top, step="post", color=OVER_LIMIT, linewidth=0, zorder=0)
    ax.step(edges, heights, where="post", color=INK, linewidth=1.2, linestyle=(0, (5, 3)), label="limit")


def _told(ax: Axes, shown: CostBounds, *, rasterized: bool) -> None:
    """Told values with their intervals, a little to the right of the stems; over the limit in another mark."""
    told = [(ask.number + 0.22, ask.told, ask.told.estimate <= ask.limit) for ask in shown.asks if ask.told is not None]
    for under, mark, colour, label in ((True, "o", OURS, "told (95 %)"), (False, "X", NAIVE, "told, over the limit")):
        mine = [(x, interval) for x, interval, fine in told if fine == under]
        if not mine:
            continue
        bars = [
            [i.estimate - i.low if i.known else 0.0 for _, i in mine],
            [i.high - i.estimate if i.known else 0.0 for _, i in mine],
        ]
        drawn = ax.errorbar(
            [x for x, _ in mine],
            [i.estimate for _, i in mine],
            yerr=bars,
            fmt=mark,
            color=colour,
            markersize=4.5 if under else 6,
            markeredgecolor="white",
            markeredgewidth=0.5,
            elinewidth=1.0,
            label=label,
        )
        for part in drawn.get_children():
            part.set_rasterized(rasterized)
    failed = [ask.number for ask in shown.asks if ask.failed]
    if failed:
        top = ax.get_ylim()[1] * 0.96
        ax.scatter(
            failed, [top] * len(failed), marker="x", s=30, color=NAIVE, label="failed or unknown: counts as over"
        )


def _risks(ax: Axes, view: Bounds) -> None:
    """Each limit's risk at every ask, on a logarithmic axis."""
    for place, shown in enumerate(view.costs):
        mark, colour = _RISK_MARKS[place % len(_RISK_MARKS)]
        ax.scatter(
            [ask.number for ask in shown.asks],
            [max(ask.risk, SMALLEST_RISK) for ask in shown.asks],
            marker=mark,
            s=18,
            color=colour,
            linewidths=0,
            label="risk of being over the limit" if len(view.costs) == 1 else f"risk of {shown.name!r}",
            rasterized=len(shown.asks) > THICK_SCATTER,
        )
    log_axis(ax, SMALLEST_RISK / 2, 1.0)
    ax.set_ylabel("risk")
