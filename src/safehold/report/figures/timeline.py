"""The cost of each deployment as it happened, with its bound, the limit, and the naive target beside it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from safehold.core.intervals import Interval, mean_interval
from safehold.report.figures.palette import (
    INK,
    MARKS,
    NAIVE,
    NAMES,
    THICK_SCATTER,
    house_style,
    limit_line,
    new_figure,
    nothing_yet,
    span,
    whole_numbers,
)
from safehold.report.plain_text import inert


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployed:
    """One deployment: its trial's number, label, episodes, and the certified upper bound of its mean cost, if any."""

    number: int
    label: str
    costs: Float[np.ndarray, "e"]
    rewards: Float[np.ndarray, "e"]
    upper: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """Deployments in order; `naive` are the mean cost and reward of the naive target, if it was measured."""

    deployed: tuple[Deployed, ...]
    naive_cost: Interval | None
    naive_reward: Interval | None
    cost_name: str
    cost_unit: str
    limit: float | None

    @property
    def over_limit(self) -> int:
        """Deployments whose mean cost is not at or under the limit; an unmeasured one counts."""
        if self.limit is None:
            return 0
        return sum(not (float(np.mean(d.costs)) <= self.limit) if len(d.costs) else 1 for d in self.deployed)


def info(
    deployed: Sequence[Deployed],
    *,
    naive_costs: Float[np.ndarray, "n"] | None = None,
    naive_rewards: Float[np.ndarray, "n"] | None = None,
    cost_name: str = "cost",
    cost_unit: str = "cost units",
    limit: float | None = None,
) -> Timeline:
    """The deployments of a run, and the naive target's episodes beside them."""
    return Timeline(
        deployed=tuple(deployed),
        naive_cost=None if naive_costs is None else mean_interval(naive_costs),
        naive_reward=None if naive_rewards is None else mean_interval(naive_rewards),
        cost_name=inert(cost_name, 40),
        cost_unit=inert(cost_unit, 60),
        limit=limit,
    )


def draw(view: Timeline) -> Figure:
    """Two panels over the deployments: cost above, reward below."""
    with house_style():
        figure, (cost, reward) = new_figure(7.6, 4.8, rows=2, sharex=True, height_ratios=(3, 2))
        if not view.deployed:
            nothing_yet(cost, "no deployment yet")
            nothing_yet(reward, "")
            return figure
        _costs(cost, view)
        _rewards(reward, view)
        numbers = [d.number for d in view.deployed]
        reward.set_xlim(min(numbers) - 0.7, max(numbers) + 0.7)
        whole_numbers(reward)
        reward.set_xlabel("deployment (number of the ask)")
        marks, names = cost.get_legend_handles_labels()
        figure.legend(marks, names, loc="outside lower center", ncols=3)
        return figure


def _costs(ax: Axes, view: Timeline) -> None:
    """Episodes, means, certified bounds, the naive target's mean and the limit."""
    everything = [float(c) for d in view.deployed for c in d.costs]
    everything += [d.upper for d in view.deployed if d.upper is not None]
    everything += [] if view.naive_cost is None else [view.naive_cost.estimate, view.naive_cost.high]
    ax.set_ylim(*span([0.0, *everything, *([] if view.limit is None else [view.limit])]))
    if view.limit is not None:
        limit_line(ax, view.limit, "", "y")
    _naive(ax, view.naive_cost)
    _episodes(ax, [(d.number, d.costs) for d in view.deployed])
    bounds = [(d.number, d.upper) for d in view.deployed if d.upper is not None]
    if bounds:
        numbers, uppers = zip(*bounds, strict=True)
        ax.scatter(
            numbers,
            uppers,
            marker="_",
            s=110,
            color=INK,
            linewidths=1.4,
            label="certified bound of the mean",
            rasterized=len(numbers) > THICK_SCATTER,
        )
    _means(ax, [(d.label, d.number, d.costs) for d in view.deployed])
    ax.set_title("Cost of each deployment")
    ax.set_ylabel(f"{view.cost_name} return\n({view.cost_unit})")


def _rewards(ax: Axes, view: Timeline) -> None:
    """Episodes and means of the reward."""
    _naive(ax, view.naive_reward)
    _episodes(ax, [(d.number, d.rewards) for d in view.deployed])
    _means(ax, [(d.label, d.number, d.rewards) for d in view.deployed])
    ax.set_title("Reward of each deployment")
    ax.set_ylabel("reward return")


def _naive(ax: Axes, interval: Interval | None) -> None:
    if interval is None:
        return
    ax.axhline(interval.estimate, color=NAIVE, linewidth=1.2, linestyle=":", label=f"{NAMES['naive']} (mean, 95 %)")
    if interval.known:
        ax.axhspan(interval.low, interval.high, color=NAIVE, alpha=0.15, linewidth=0)


def _episodes(ax: Axes, series: Sequence[tuple[int, Float[np.ndarray, "e"]]]) -> None:
    """Every episode as a faint dot, spread a little to the side so that equal ones are seen."""
    across: list[float] = []
    up: list[float] = []
    for number, values in series:
        across += (
            (number + np.linspace(-0.22, 0.22, len(values))).tolist()
            if len(values) > 1
            else [float(number)] * len(values)
        )
        up += values.tolist()
    ax.scatter(across, up, s=7, color="#9aa5b1", linewidths=0, rasterized=len(up) > THICK_SCATTER, label="one episode")


def _means(ax: Axes, series: Sequence[tuple[str, int, Float[np.ndarray, "e"]]]) -> None:
    """The mean of each deployment, marked by what kind of target it was."""
    told = [(label, number, float(np.mean(values))) for label, number, values in series if len(values)]
    for kind in dict.fromkeys(label for label, _, _ in told):
        mine = [(number, mean) for label, number, mean in told if label == kind]
        mark, colour = MARKS[kind]
        numbers, means = zip(*mine, strict=True)
        ax.scatter(
            numbers,
            means,
            marker=mark,
            s=130 if mark == "*" else 42,
            color=colour,
            edgecolors=INK if mark == "*" else "white",
            linewidths=0.7,
            zorder=5,
            label=f"{NAMES[kind]} (mean)",
            rasterized=len(told) > THICK_SCATTER,
        )
