"""Learning curves of several methods: what episodes earned, cost, and cost at their dearest step, as they learnt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from safehold.report.figures.palette import DATA, NAIVE, OURS, REWARD, SEED, TUNED, house_style, limit_line, new_figure

PANELS = ("reward", "cost", "peak")
"""What a curve is of: an episode's reward return, its cost return, its dearest step."""
_COLOURS = (OURS, NAIVE, SEED, TUNED, REWARD, DATA)
_STROKES = ("solid", "dashed", "dotted")


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One method: environment steps, and for each of `PANELS` mean, least and largest over its seeds."""

    name: str
    seeds: int
    steps: Float[np.ndarray, "p"]
    mean: Mapping[str, Float[np.ndarray, "p"]]
    least: Mapping[str, Float[np.ndarray, "p"]]
    most: Mapping[str, Float[np.ndarray, "p"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningCurves:
    """The curves, and the limits on some panels."""

    curves: tuple[Curve, ...]
    limits: Mapping[str, float]
    cost_unit: str


def curve(name: str, runs: Sequence[Sequence[Mapping[str, float]]]) -> Curve:
    """One method's curve from the points of its runs, one run a seed, as far as the shortest goes.

    A point has "step" and an entry for each of `PANELS`.
    """
    points = min(len(run) for run in runs)
    values = {panel: np.array([[point[panel] for point in run[:points]] for run in runs]) for panel in PANELS}
    steps = np.array([[point["step"] for point in run[:points]] for run in runs], dtype=np.float64)
    return Curve(
        name=name,
        seeds=len(runs),
        steps=steps.mean(axis=0),
        mean={panel: found.mean(axis=0) for panel, found in values.items()},
        least={panel: found.min(axis=0) for panel, found in values.items()},
        most={panel: found.max(axis=0) for panel, found in values.items()},
    )


def draw(view: LearningCurves) -> Figure:
    """Three panels side by side; a line is the mean over seeds, its band reaches from the least to the largest."""
    labels = {
        "reward": "reward return of an episode",
        "cost": f"cost return ({view.cost_unit})",
        "peak": "dearest step of an episode (cost units)",
    }
    with house_style():
        figure, axes = new_figure(9.6, 3.4, 1, 3)
        for ax, panel in zip(axes, PANELS, strict=True):
            for place, found in enumerate(view.curves):
                # colours come round again, with another stroke
                _line(
                    ax, found, panel, _COLOURS[place % len(_COLOURS)], _STROKES[place // len(_COLOURS) % len(_STROKES)]
                )
            ax.set_xscale("log")
            ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:,.0f}"))
            ax.xaxis.set_minor_formatter(NullFormatter())
            ax.set_xlabel("environment steps")
            ax.set_ylabel(labels[panel])
            if panel in view.limits:
                limit_line(ax, view.limits[panel], "", "y")
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=4)
        return figure


def _line(ax: Axes, found: Curve, panel: str, colour: str, stroke: str) -> None:
    name = f"{found.name} ({found.seeds} seed{'' if found.seeds == 1 else 's'})"
    ax.plot(found.steps, found.mean[panel], color=colour, linestyle=stroke, linewidth=1.3, label=name)
    ax.fill_between(found.steps, found.least[panel], found.most[panel], color=colour, alpha=0.15, linewidth=0)
