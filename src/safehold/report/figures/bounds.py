"""Each ask's certified upper bound beside its limit, and what the target then cost."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from safehold.core.intervals import Interval
from safehold.report.figures.palette import (
    INK,
    OURS,
    house_style,
    limit_line,
    new_figure,
    nothing_yet,
    span,
    whole_numbers,
)
from safehold.report.plain_text import inert


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundAtAsk:
    """The posterior mean and certified upper bound of the expected cost at one ask; then the told mean, if told."""

    number: int
    mean: float
    upper: float | None
    told: Interval | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """All asks against one limit."""

    asks: tuple[BoundAtAsk, ...]
    cost_name: str
    cost_unit: str
    limit: float | None

    @property
    def slack(self) -> float | None:
        """Smallest distance of a certified bound to the limit; None where nothing was certified by a bound."""
        uppers = [ask.upper for ask in self.asks if ask.upper is not None]
        return None if self.limit is None or not uppers else self.limit - max(uppers)


def info(
    asks: Sequence[BoundAtAsk], *, cost_name: str = "cost", cost_unit: str = "cost units", limit: float | None = None
) -> Bounds:
    """The asks of a run, in order."""
    return Bounds(asks=tuple(asks), cost_name=inert(cost_name, 40), cost_unit=inert(cost_unit, 60), limit=limit)


def draw(view: Bounds) -> Figure:
    """A stem from the predicted mean to its bound at every ask, the told mean beside it, the limit across."""
    with house_style():
        figure, (ax,) = new_figure(7.6, 3.2)
        if not view.asks:
            nothing_yet(ax, "no ask yet")
            return figure
        ends = [ask.mean for ask in view.asks]
        ends += [ask.upper for ask in view.asks if ask.upper is not None]
        ends += [
            end for ask in view.asks if ask.told is not None for end in (ask.told.estimate, ask.told.low, ask.told.high)
        ]
        ax.set_ylim(*span([0.0, *ends, *([] if view.limit is None else [view.limit])]))
        if view.limit is not None:
            limit_line(ax, view.limit, "", "y")
        _stems(ax, view)
        _told(ax, view)
        numbers = [ask.number for ask in view.asks]
        ax.set_xlim(min(numbers) - 0.7, max(numbers) + 0.7)
        whole_numbers(ax)
        ax.set_xlabel("ask")
        ax.set_ylabel(f"expected {view.cost_name} return\n({view.cost_unit})")
        ax.set_title("What was certified, and what came")
        figure.legend(loc="outside lower center", ncols=4)
        return figure


def _stems(ax: Axes, view: Bounds) -> None:
    """Predicted mean and bound."""
    bounded = [(ask.number, ask.mean, ask.upper) for ask in view.asks if ask.upper is not None]
    numbers = [ask.number for ask in view.asks]
    ax.scatter(
        numbers,
        [ask.mean for ask in view.asks],
        marker="_",
        s=45,
        color="#52606d",
        linewidths=1.2,
        label="predicted mean",
    )
    if bounded:
        at, means, uppers = zip(*bounded, strict=True)
        ax.vlines(at, means, uppers, color="#9aa5b1", linewidth=1.0)
        ax.scatter(at, uppers, marker="_", s=110, color=INK, linewidths=1.6, label="certified bound of the mean")


def _told(ax: Axes, view: Bounds) -> None:
    """Told means with their intervals, a little to the right of the stems."""
    told = [(ask.number + 0.22, ask.told) for ask in view.asks if ask.told is not None]
    if not told:
        return
    bars = [
        [i.estimate - i.low if i.known else 0.0 for _, i in told],
        [i.high - i.estimate if i.known else 0.0 for _, i in told],
    ]
    ax.errorbar(
        [x for x, _ in told],
        [i.estimate for _, i in told],
        yerr=bars,
        fmt="o",
        color=OURS,
        markersize=4.5,
        markeredgecolor="white",
        elinewidth=1.0,
        label="told mean (95 %)",
    )
