"""The logged episodes on the plane of returns: what they cost, what they earned, and the best trade-offs among them."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from safehold.core.intervals import Interval, mean_interval
from safehold.data.frontier import pareto
from safehold.report.figures.palette import (
    DATA,
    INK,
    MARKS,
    NAMES,
    THICK_SCATTER,
    house_style,
    limit_line,
    new_figure,
    span,
)
from safehold.report.plain_text import inert


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A target that was run: its label (a key of palette.MARKS), mean cost and reward return with intervals."""

    label: str
    cost: Interval
    reward: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class DataPlane:
    """Returns of E episodes; `frontier` marks those that no cheaper or equally cheap episode out-earns.

    `terminated`: the task itself ended the episode. Its returns may be small for that reason alone, so that failure
    looks like safety; such episodes are drawn hollow.
    """

    costs: Float[np.ndarray, "E"]
    rewards: Float[np.ndarray, "E"]
    frontier: Bool[np.ndarray, "E"]
    terminated: Bool[np.ndarray, "E"]
    cost_name: str
    cost_unit: str
    limit: float | None
    outcomes: tuple[Outcome, ...]

    @property
    def share_over_limit(self) -> float:
        """Share of episodes whose cost return is not at or under the limit; NaN without limit or episodes."""
        if self.limit is None or len(self.costs) == 0:
            return float("nan")
        return float(np.mean(~(self.costs <= self.limit)))


def info(
    costs: Float[np.ndarray, "E"],
    rewards: Float[np.ndarray, "E"],
    *,
    cost_name: str = "cost",
    cost_unit: str = "cost units",
    limit: float | None = None,
    terminated: Bool[np.ndarray, "E"] | None = None,
    outcomes: tuple[Outcome, ...] = (),
) -> DataPlane:
    """The returns of a dataset's episodes, in cost units and reward units per episode."""
    best = np.zeros(len(costs), dtype=np.bool_)
    best[pareto(rewards, costs)] = True
    return DataPlane(
        costs=costs,
        rewards=rewards,
        frontier=best,
        terminated=np.zeros(len(costs), dtype=np.bool_) if terminated is None else terminated,
        cost_name=inert(cost_name, 40),
        cost_unit=inert(cost_unit, 60),
        limit=limit,
        outcomes=outcomes,
    )


def outcome(label: str, rewards: Float[np.ndarray, "n"], costs: Float[np.ndarray, "n"]) -> Outcome:
    """A target's episodes as a point with 95 % intervals of its means."""
    return Outcome(label=label, cost=mean_interval(costs), reward=mean_interval(rewards))


def draw(view: DataPlane) -> Figure:
    """A scatter of the episodes, the frontier as a staircase, the limit, and the targets that were run."""
    with house_style():
        figure, (ax,) = new_figure(6.4, 4.0)
        _cloud(ax, view)
        on_limit = [] if view.limit is None else [view.limit]
        ax.set_xlim(*span([*view.costs.tolist(), *on_limit, *(o.cost.estimate for o in view.outcomes)]))
        ax.set_ylim(*span([*view.rewards.tolist(), *(o.reward.estimate for o in view.outcomes)]))
        best = np.flatnonzero(view.frontier)
        best = best[np.argsort(view.costs[best])]
        if len(best):
            right = max(ax.get_xlim()[1], float(view.costs[best[-1]]))
            steps = np.append(view.costs[best], right)
            earned = np.append(view.rewards[best], view.rewards[best[-1]])
            ax.step(steps, earned, where="post", color=INK, linewidth=1.1, label="best reward at this cost or less")
        if view.limit is not None:
            limit_line(ax, view.limit, "", "x")
        for shown in view.outcomes:
            _point(ax, shown)
        ax.set_xlabel(f"{view.cost_name} return of an episode ({view.cost_unit})")
        ax.set_ylabel("reward return of an episode")
        ax.set_title("What the data contain")
        figure.legend(loc="outside lower center", ncols=2)
        return figure


def _cloud(ax: Axes, view: DataPlane) -> None:
    """The episodes: filled if the clock ended them, hollow if the task did."""
    thick = len(view.costs) > THICK_SCATTER  # opaque then: blended colours would not compress
    colour = "#9aa5b1" if thick else DATA
    clock, task = np.flatnonzero(~view.terminated), np.flatnonzero(view.terminated)
    whole = " that the clock ended" if len(task) else ""
    for which, face, words in ((clock, colour, whole), (task, "none", " that the task itself ended")):
        hollow = face == "none"
        if len(which) or not (hollow or len(task)):
            ax.scatter(
                view.costs[which],
                view.rewards[which],
                s=6 if thick else 16,
                facecolors=face,
                edgecolors=colour if hollow else "none",
                linewidths=0.6 if hollow else 0.0,
                alpha=None if thick or hollow else 0.6,
                rasterized=thick,
                label=f"{len(which)} episode{'' if len(which) == 1 else 's'}{words}",
            )


def _point(ax: Axes, shown: Outcome) -> None:
    """A target's mean, with bars where an interval is known."""
    mark, colour = MARKS[shown.label]
    ax.errorbar(
        [shown.cost.estimate],
        [shown.reward.estimate],
        xerr=_bar(shown.cost),
        yerr=_bar(shown.reward),
        fmt=mark,
        color=colour,
        markersize=13 if mark == "*" else 8,
        markeredgecolor="white" if mark != "*" else INK,
        markeredgewidth=0.7,
        capsize=2,
        linewidth=1.2,
        zorder=5,
        label=f"{NAMES[shown.label]} (mean, 95 %)",
    )


def _bar(interval: Interval) -> list[list[float]] | None:
    """The interval as matplotlib's pair of lengths; None where it is not known."""
    i = interval
    return [[i.estimate - i.low], [i.high - i.estimate]] if i.known else None
