"""Draws a task's two figures of docs/zoo.md, and tells the numbers of its tables.

    python zoo/draw.py LOG [--out docs/figures]

LOG is what `safehold data collect TASK` wrote. Leaves zoo-curves-TASK.svg (the learning curves beside this script, if
there are some) and zoo-log-TASK.svg (the episodes of LOG in the plane of their returns). The same input gives the same
bytes.
"""

import argparse
import csv
import logging
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import numpy as np
from jaxtyping import Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from safehold.data import hdf5
from safehold.data.dataset import OfflineDataset
from safehold.workflows.collect import RELAY_LIMIT

COST_EDGES = (0, 5, 20, 40, 80, 150, 250, 400, 1001)
"""Rows of the table; a cost return is between one edge and the next, the next excluded."""
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
"""Okabe and Ito's colours, told apart by colour-blind readers."""
COST_TICKS = (0, 5, 10, 20, 50, 100, 200, 500, 1000)
LINEAR_UP_TO = 200.0
"""A cost axis that ends before this is linear."""

Curve = list[dict[str, str]]


def curves(path: Path) -> list[tuple[float | None, int, Curve]]:
    """Limit, seed and points of every run, the tightest limit first, no limit last."""
    runs: dict[str, Curve] = {}
    with open(path, newline="") as file:
        for point in csv.DictReader(file):
            runs.setdefault(point["run"], []).append(point)
    named = [(name.split("-"), curve) for name, curve in runs.items()]  # limit-20-seed-0
    found = [(None if word[1] == "none" else float(word[1]), int(word[3]), curve) for word, curve in named]
    return sorted(found, key=lambda run: float("inf") if run[0] is None else run[0])


def draw_curves(runs: list[tuple[float | None, int, Curve]]) -> Figure:
    """Reward above, cost below, one column a run; the limit is the dashed line."""
    figure = Figure(figsize=(10.0, 3.6), layout="constrained")
    axes = figure.subplots(2, len(runs), sharex=True, sharey="row")
    for column, (limit, seed, curve) in enumerate(runs):
        million_steps = [float(point["step"]) / 1e6 for point in curve]
        reward, cost = axes[0, column], axes[1, column]
        reward.plot(million_steps, [float(point["reward"]) for point in curve], color=BLUE, linewidth=1.0)
        cost.plot(million_steps, [float(point["cost"]) for point in curve], color=ORANGE, linewidth=1.0)
        if limit is not None:
            cost.axhline(limit, color="black", linestyle="--", linewidth=0.9)
        reward.set_title(f"{'no limit' if limit is None else f'limit {limit:g}'}\nseed {seed}", fontsize=8.0)
        for panel in (reward, cost):
            panel.grid(axis="y", color="#dddddd", linewidth=0.5)
    most = max(float(point["cost"]) for _, _, curve in runs for point in curve)
    longest = max(float(point["step"]) for _, _, curve in runs for point in curve) / 1e6
    _cost_scale(axes[1, 0], "y", (0, 10, 100, 1000), most)
    axes[1, 0].set_xlim(0.0, 1.02 * longest)
    axes[1, 0].set_xticks(np.linspace(0.0, round(longest, 1), 4 if longest > 2.5 else 3))
    axes[0, 0].yaxis.set_major_formatter("{x:,.0f}")
    axes[0, 0].set_ylabel("reward return")
    axes[1, 0].set_ylabel("cost return")
    figure.supxlabel("million environment steps", fontsize=8.0)
    return figure


def kinds(log: OfflineDataset) -> Int[np.ndarray, "E"]:
    """How many policies take turns in each episode's behaviour."""
    if log.group is None:
        raise SystemExit("the log does not say which behaviour each episode is of; collect it with safehold")
    turns = [name.count(">") + 1 for name in log.provenance["behaviours"]]
    return np.array(turns)[log.group]


def draw_log(log: OfflineDataset) -> Figure:
    """Every episode a point of the plane of returns, marked by how many policies took turns."""
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.subplots()
    turns, cost = kinds(log), log.cost_returns[:, 0]
    drawn = ((3, "relay with a sprint", ORANGE, "^"), (2, "relay", GREEN, "s"), (1, "one policy", BLUE, "o"))
    for number, label, colour, marker in drawn:
        here = turns == number
        if not here.any():
            continue
        points = (cost[here], log.reward_returns[here])
        axes.scatter(
            *points, s=11, marker=marker, color=colour, alpha=0.6, linewidths=0, label=f"{label} ({here.sum()})"
        )
    axes.axvline(RELAY_LIMIT, color="black", linestyle="--", linewidth=0.9)
    axes.annotate(
        f"limit {RELAY_LIMIT:g}", (RELAY_LIMIT, 1.0), (4, -2), xycoords=("data", "axes fraction"),
        textcoords="offset points", va="top",
    )  # fmt: skip
    straight = _cost_scale(axes, "x", COST_TICKS, float(cost.max()))
    axes.set_xlim(-1.0, 1.05 * float(cost.max()))
    scale = "" if straight else "; linear up to 10, logarithmic above"
    label = f"cost return ({log.spec.cost_units[0]}, of {log.spec.horizon:,}{scale})"
    axes.set_xlabel(textwrap.fill(label, 100))
    axes.set_ylabel("reward return")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.grid(color="#dddddd", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.legend(loc="lower right" if straight else "upper left", frameon=False, title="episodes of")
    return figure


def rows(log: OfflineDataset) -> Iterator[str]:
    """For each range of cost returns: how many episodes, and tenth, median, ninetieth and largest reward return."""
    cost = log.cost_returns[:, 0]
    for low, high in pairwise(COST_EDGES):
        rewards = log.reward_returns[(cost >= low) & (cost < high)]
        if len(rewards):
            numbers = " | ".join(f"{value:,.0f}" for value in np.quantile(rewards, (0.1, 0.5, 0.9, 1.0)))
            yield f"| {low} to {high} | {len(rewards)} | {numbers} |"


def _cost_scale(axes: Axes, which: str, ticks: tuple[int, ...], most: float) -> bool:
    """Linear where costs are few; else linear up to 10, so that zero has a place, logarithmic above. Says which."""
    if most < LINEAR_UP_TO:
        return True
    getattr(axes, f"set_{which}scale")("symlog", linthresh=10.0, linscale=1.0)
    shown = [tick for tick in ticks if tick <= 1.5 * most]
    getattr(axes, f"set_{which}ticks")(shown, [f"{tick:,}" for tick in shown])
    getattr(axes, f"{which}axis").set_minor_locator(mpl.ticker.NullLocator())
    return False


def main() -> None:
    """Draws both figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/figures"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    log = hdf5.read(arguments.log)
    arguments.out.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(
        {"svg.hashsalt": "safehold", "font.size": 8.0, "axes.spines.top": False, "axes.spines.right": False}
    ):
        name = log.spec.env_id.split("/")[-1]
        figures = {"log": draw_log(log)}
        if (learnt := Path(__file__).parent / f"{name}-curves.csv").exists():  # drivers by rule have learnt nothing
            figures["curves"] = draw_curves(curves(learnt))
        for what, figure in figures.items():
            figure.savefig(arguments.out / f"zoo-{what}-{name}.svg", metadata={"Date": None})
    for row in rows(log):
        logging.getLogger("zoo").info(row)


if __name__ == "__main__":
    main()
