"""What was asked of the policy against what it did: why a target must be tuned, and cannot be trusted as it stands."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from safehold.core.intervals import Interval, mean_interval
from safehold.report.figures.palette import INK, MARKS, NAMES, house_style, limit_line, new_figure, nothing_yet, span
from safehold.report.plain_text import inert


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One target asked (R, G) and the mean returns of its episodes, with 95 % intervals."""

    label: str
    asked_reward: float
    asked_cost: float
    reward: Interval
    cost: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedObtained:
    """All targets that were run, in the order of their labels in the legend."""

    answers: tuple[Answer, ...]
    cost_name: str
    limit: float | None


def answer(
    label: str, target: Sequence[float], rewards: Float[np.ndarray, "n"], costs: Float[np.ndarray, "n"]
) -> Answer:
    """A target z = (R, G) and the returns of its episodes."""
    return Answer(
        label=label,
        asked_reward=float(target[0]),
        asked_cost=float(target[1]),
        reward=mean_interval(rewards),
        cost=mean_interval(costs),
    )


def info(answers: Sequence[Answer], *, cost_name: str = "cost", limit: float | None = None) -> AskedObtained:
    """The answers, those of one label together."""
    order = list(NAMES)
    ordered = tuple(sorted(answers, key=lambda a: order.index(a.label)))
    return AskedObtained(answers=ordered, cost_name=inert(cost_name, 40), limit=limit)


def draw(view: AskedObtained) -> Figure:
    """Two panels, cost and reward: asked on the axis below, obtained on the side, and the line where they agree."""
    with house_style():
        figure, (cost, reward) = new_figure(7.6, 3.7, columns=2)
        _panel(cost, [(a.label, a.asked_cost, a.cost) for a in view.answers], view.limit)
        _panel(reward, [(a.label, a.asked_reward, a.reward) for a in view.answers], None)
        cost.set_title(
            f"Cost return of an episode ({view.cost_name})" if view.cost_name != "cost" else "Cost return of an episode"
        )
        reward.set_title("Reward return of an episode")
        for ax in (cost, reward):
            ax.set_xlabel("asked")
        cost.set_ylabel("obtained (mean, 95 %)")
        marks, names = cost.get_legend_handles_labels()
        if marks:
            figure.legend(marks, names, loc="outside lower center", ncols=3)
        return figure


def _panel(ax: Axes, points: Sequence[tuple[str, float, Interval]], limit: float | None) -> None:
    """One quantity."""
    if not points:
        nothing_yet(ax, "no target was run yet")
        return
    ends = [end for _, _, i in points for end in (i.estimate, i.low, i.high)]
    ax.set_xlim(*span([asked for _, asked, _ in points]))
    ax.set_ylim(*span([*ends, *([] if limit is None else [limit])]))
    both = (min(ax.get_xlim()[0], ax.get_ylim()[0]), max(ax.get_xlim()[1], ax.get_ylim()[1]))
    x, y = ax.get_xlim(), ax.get_ylim()
    ax.plot(both, both, color=INK, linewidth=0.9, label="obtained = asked")
    ax.set_xlim(x)
    ax.set_ylim(y)
    if limit is not None:
        limit_line(ax, limit, "", "y")
    for label in dict.fromkeys(label for label, _, _ in points):
        mine = [(asked, i) for other, asked, i in points if other == label]
        mark, colour = MARKS[label]
        known = [i if i.known else None for _, i in mine]
        ax.errorbar(
            [asked for asked, _ in mine],
            [i.estimate for _, i in mine],
            yerr=[
                [0.0 if k is None else k.estimate - k.low for k in known],
                [0.0 if k is None else k.high - k.estimate for k in known],
            ],
            fmt=mark,
            color=colour,
            markersize={"*": 12.0, "X": 9.0}.get(mark, 5.5),
            markeredgecolor=INK if mark == "*" else "white",
            markeredgewidth=0.6,
            elinewidth=1.0,
            zorder=6 if mark == "*" else 4,
            label=NAMES[label],
        )
