"""Whether the belief was honest: what the Gaussian processes predicted before each tell, against what was told."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.special import bdtr, ndtr

from safehold.core.intervals import Interval, proportion_interval
from safehold.report.figures.palette import (
    INK,
    OURS,
    OVER_LIMIT,
    REWARD,
    THICK_SCATTER,
    house_style,
    new_figure,
    nothing_yet,
    span,
    whole_numbers,
)
from safehold.report.plain_text import inert

_TWO_SIDED_95 = 1.959964  # standard normal quantile of 0.975
_FEWEST = 5  # tells of which a histogram is drawn
_MANY = 60  # tells from which it has ten bins


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
class Histogram:
    """Counts in bins of equal width, and the 95 % range that a count has if all bins are equally likely."""

    counts: tuple[int, ...]
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Belief:
    """All predictions of one quantity."""

    name: str
    predictions: tuple[Prediction, ...]

    @property
    def residuals(self) -> Float[np.ndarray, "_"]:
        """The standardised innovations that exist, in the order of the tells."""
        found = np.array([p.residual for p in self.predictions], dtype=np.float64)
        return found[np.isfinite(found)]

    @property
    def inside(self) -> Interval:
        """Share of tells inside the 95 % band of their prediction; one without a residual counts as outside."""
        hits = sum(bool(abs(p.residual) <= _TWO_SIDED_95) for p in self.predictions)
        return proportion_interval(hits, len(self.predictions))

    @property
    def histogram(self) -> Histogram:
        """Probability integral transforms Phi(residual): uniform on (0, 1), if the belief is right."""
        places = ndtr(self.residuals)
        bins = 10 if len(places) >= _MANY else 5
        counts = np.histogram(places, bins=bins, range=(0.0, 1.0))[0]
        low, high = (_binomial_quantile(p, len(places), 1.0 / bins) for p in (0.025, 0.975))
        return Histogram(counts=tuple(int(count) for count in counts), low=low, high=high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """One belief a quantity: the costs, then the reward."""

    beliefs: tuple[Belief, ...]


def belief(name: str, predictions: Sequence[Prediction]) -> Belief:
    """One quantity's predictions, in the order of the tells."""
    return Belief(name=inert(name, 40), predictions=tuple(predictions))


def info(beliefs: Sequence[Belief]) -> Calibration:
    """The beliefs to show one under the other."""
    return Calibration(beliefs=tuple(beliefs))


def _binomial_quantile(p: float, n: int, share: float) -> float:
    """The smallest count k of n with P(count <= k) >= p."""
    return float(next((k for k in range(n) if bdtr(k, n, share) >= p), n))


def draw(view: Calibration) -> Figure:
    """A row a quantity: told against predicted, standardised innovations in order, and where they fall."""
    with house_style():
        rows = max(1, len(view.beliefs))
        figure, axes = new_figure(7.6, 2.35 * rows + 0.3, rows=rows, columns=3, width_ratios=(1.15, 1.7, 1.0))
        if not any(b.predictions for b in view.beliefs):
            for ax in axes:
                nothing_yet(ax, "nothing told yet")
            return figure
        for row, shown in enumerate(view.beliefs):
            colour = REWARD if shown.name == "reward" else OURS
            predicted, ordered, places = axes[3 * row : 3 * row + 3]
            last = row == rows - 1
            if not shown.predictions:
                for ax in (predicted, ordered, places):
                    nothing_yet(ax, "nothing told yet")
                continue
            _predicted(predicted, shown, colour, last=last)
            _residuals(ordered, shown, colour, last=last)
            _places(places, shown, colour, last=last)
        return figure


def _predicted(ax: Axes, shown: Belief, colour: str, *, last: bool) -> None:
    """Told against predicted, with the 95 % band of each prediction as a bar across."""
    means = [p.mean for p in shown.predictions]
    bars = [_TWO_SIDED_95 * p.deviation for p in shown.predictions]
    told = [p.told for p in shown.predictions]
    ends = [m + s * b for m, b in zip(means, bars, strict=True) for s in (-1, 1)]
    drawn = ax.errorbar(
        means, told, xerr=bars, fmt="o", color=colour, markersize=4, markeredgecolor="white", elinewidth=0.8
    )
    for part in drawn.get_children():
        part.set_rasterized(len(told) > THICK_SCATTER)
    ax.set_xlim(*span(ends))
    ax.set_ylim(*span(told))
    x, y = ax.get_xlim(), ax.get_ylim()
    wide = (min(*x, *y), max(*x, *y))
    ax.plot(wide, wide, color=INK, linewidth=0.9)
    ax.set_xlim(x)
    ax.set_ylim(y)
    ax.locator_params(axis="x", nbins=4)
    ax.set_title(f"{shown.name}", fontsize=9)
    ax.set_ylabel("told (mean)")
    if last:
        ax.set_xlabel("predicted (95 % band)")


def _residuals(ax: Axes, shown: Belief, colour: str, *, last: bool) -> None:
    """Innovations in the order of the tells, with the band in which 95 of 100 belong."""
    numbers = [p.number for p in shown.predictions]
    residuals = [p.residual for p in shown.predictions]
    ax.axhspan(-2, 2, color="#e6f0f7", zorder=0, linewidth=0)
    ax.axhline(0, color=INK, linewidth=0.9)
    many = len(numbers) > THICK_SCATTER
    ax.vlines(numbers, 0, residuals, color=colour, linewidth=0.3 if many else 0.9, rasterized=many)
    ax.scatter(
        numbers,
        residuals,
        s=6 if many else 22,
        color=colour,
        edgecolors="white",
        linewidths=0 if many else 0.5,
        zorder=4,
        rasterized=many,
    )
    low, high = span([*residuals, -2.6, 2.6])
    ax.axhspan(2, high, color=OVER_LIMIT, alpha=0.35, zorder=0, linewidth=0)
    ax.axhspan(low, -2, color=OVER_LIMIT, alpha=0.35, zorder=0, linewidth=0)
    ax.set_ylim(low, high)
    whole_numbers(ax)
    inside = shown.inside
    ax.set_title(f"{round(inside.estimate * inside.n)} of {inside.n} inside the 95 % band", fontsize=9)
    ax.set_ylabel("(told - predicted) / sd")
    if last:
        ax.set_xlabel("ask")


def _places(ax: Axes, shown: Belief, colour: str, *, last: bool) -> None:
    """How often what was told fell how deep into its prediction."""
    n = len(shown.residuals)
    if n < _FEWEST:
        nothing_yet(ax, f"{n} told:\ntoo few")
        return
    found = shown.histogram
    bins = len(found.counts)
    ax.axhspan(found.low, found.high, color="#e6f0f7", zorder=0, linewidth=0)
    ax.axhline(n / bins, color=INK, linewidth=0.9)
    ax.bar((np.arange(bins) + 0.5) / bins, found.counts, width=0.9 / bins, color=colour)
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1.15 * max(*found.counts, found.high, 1))
    ax.set_xticks([0.0, 0.5, 1.0], ["0", "0.5", "1"])
    ax.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    ax.set_title("Where they fell", fontsize=9)
    ax.set_ylabel("tells")
    if last:
        ax.set_xlabel("place in the prediction")
