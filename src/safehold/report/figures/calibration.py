"""Whether the belief was honest: what the Gaussian processes predicted before each tell, against what was told."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from safehold.core.intervals import Interval, proportion_interval
from safehold.report.figures.palette import (
    INK,
    OURS,
    OVER_LIMIT,
    REWARD,
    house_style,
    new_figure,
    nothing_yet,
    span,
    whole_numbers,
)
from safehold.report.plain_text import inert

_TWO_SIDED_95 = 1.959964  # standard normal quantile of 0.975


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Before a tell: the predicted mean and standard deviation of the measurement, noise included; and what came."""

    number: int
    mean: float
    deviation: float
    told: float

    @property
    def residual(self) -> float:
        """(told - predicted) / predicted standard deviation; a standard normal, if the belief is right."""
        return (self.told - self.mean) / self.deviation if self.deviation > 0 else math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class Belief:
    """All predictions of one quantity."""

    name: str
    predictions: tuple[Prediction, ...]

    @property
    def inside(self) -> Interval:
        """Share of tells inside the 95 % band of their prediction; one without a residual counts as outside."""
        hits = sum(abs(p.residual) <= _TWO_SIDED_95 for p in self.predictions)
        return proportion_interval(hits, len(self.predictions))


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """One belief a quantity: the costs, then the reward."""

    beliefs: tuple[Belief, ...]


def belief(name: str, predictions: Sequence[Prediction]) -> Belief:
    """One quantity's predictions, in the order of the tells."""
    return Belief(name=inert(name, 40), predictions=tuple(predictions))


def info(beliefs: Sequence[Belief]) -> Calibration:
    """The beliefs to show side by side."""
    return Calibration(beliefs=tuple(beliefs))


def draw(view: Calibration) -> Figure:
    """A column a quantity: told against predicted above, standardised residuals below."""
    with house_style():
        columns = max(1, len(view.beliefs))
        figure, axes = new_figure(max(4.6, 3.8 * columns), 5.0, rows=2, columns=columns, height_ratios=(3, 2))
        if not any(b.predictions for b in view.beliefs):
            for ax in axes:
                nothing_yet(ax, "nothing told yet")
            return figure
        for column, shown in enumerate(view.beliefs):
            colour = REWARD if shown.name == "reward" else OURS
            _predicted(axes[column], shown, colour)
            _residuals(axes[columns + column], shown, colour)
        axes[0].set_ylabel("told (mean of the episodes)")
        axes[columns].set_ylabel("residual in standard\ndeviations")
        return figure


def _predicted(ax: Axes, shown: Belief, colour: str) -> None:
    """Told against predicted, with the 95 % band of each prediction as a bar across."""
    means = [p.mean for p in shown.predictions]
    bars = [_TWO_SIDED_95 * p.deviation for p in shown.predictions]
    told = [p.told for p in shown.predictions]
    ends = [m + s * b for m, b in zip(means, bars, strict=True) for s in (-1, 1)]
    ax.errorbar(means, told, xerr=bars, fmt="o", color=colour, markersize=4.5, markeredgecolor="white", elinewidth=0.9)
    both = span([*told, *means])
    ax.set_xlim(*span(ends))
    ax.set_ylim(*span(told))
    x, y = ax.get_xlim(), ax.get_ylim()
    wide = (min(*both, *x, *y), max(*both, *x, *y))
    ax.plot(wide, wide, color=INK, linewidth=0.9)
    ax.set_xlim(x)
    ax.set_ylim(y)
    inside = shown.inside
    ax.set_title(f"{shown.name}: {_hits(shown)} of {inside.n} inside the 95 % band")
    ax.set_xlabel("predicted before it was told (mean, 95 % band)")


def _residuals(ax: Axes, shown: Belief, colour: str) -> None:
    """Residuals in the order of the tells, with the band in which 95 of 100 belong."""
    numbers = [p.number for p in shown.predictions]
    residuals = [p.residual for p in shown.predictions]
    ax.axhspan(-_TWO_SIDED_95, _TWO_SIDED_95, color="#e6f0f7", zorder=0, linewidth=0)
    ax.axhline(0, color=INK, linewidth=0.9)
    ax.vlines(numbers, 0, residuals, color=colour, linewidth=0.9)
    ax.scatter(numbers, residuals, s=22, color=colour, edgecolors="white", linewidths=0.5, zorder=4)
    low, high = span([*residuals, -2.4, 2.4])
    ax.axhspan(_TWO_SIDED_95, high, color=OVER_LIMIT, alpha=0.35, zorder=0, linewidth=0)
    ax.axhspan(low, -_TWO_SIDED_95, color=OVER_LIMIT, alpha=0.35, zorder=0, linewidth=0)
    ax.set_ylim(low, high)
    whole_numbers(ax)
    ax.set_xlabel("tell (number of the ask)")


def _hits(shown: Belief) -> int:
    return round(shown.inside.estimate * shown.inside.n) if shown.inside.n else 0
