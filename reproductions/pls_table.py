"""PLS in the paper's terms: normalised reward and cost on every task and limit, with the paper's own numbers beside.

    python reproductions/pls_table.py RUNS [RUNS ...] [--out docs/results]

Takes finished runs of reproductions/whole_road.py. Rewards are normalised by the extremes of each run's log, costs by
the limit; a run that ended by holding recommends nothing and is counted apart. The bar, set before those runs: the
mean cost of what is recommended is at most the limit, and its reward at least that of the best safe baseline less 0.03,
on two thirds of the tasks and limits; a baseline (the naive target of the same transformer, cloning of the safe
episodes) is safe if its mean cost over seeds is at most the limit. The paper (arXiv 2505.21852, Tables 1 and 7) has
other logs (DSRL's), other normalisation constants, networks and updates; its numbers can be set beside ours, not
compared.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from recorded import commit_here

from safehold.core.intervals import mean_interval
from safehold.data import hdf5
from safehold.workflows.files import write_text

MARGIN = 0.03
METHODS = {"tuned by PLS": "final", "naive target": "naive", "BC-safe": "bc_safe"}
PAPER: Mapping[tuple[str, float], Mapping[str, str]] = {
    ("HalfCheetahVelocity", 20.0): {"tuned by PLS": ".99 / .15", "naive target": ".96 / .03"},
    ("HalfCheetahVelocity", 40.0): {"tuned by PLS": "1.00 / .01", "naive target": ".97 / .05"},
    ("HopperVelocity", 20.0): {"tuned by PLS": ".83 / .42", "naive target": ".68 / not readable"},
    ("HopperVelocity", 40.0): {"tuned by PLS": ".84 / .20", "naive target": ".67 / .56"},
    ("bullet/CarCircle", 20.0): {"tuned by PLS": ".72 / .88", "naive target": ".73 / .98"},
    ("bullet/CarCircle", 40.0): {"tuned by PLS": ".80 / .93", "naive target": ".80 / .99"},
}
"""Reward / cost; the naive target is the paper's CDT. BallCircle is not among its tasks."""


@dataclass(frozen=True, slots=True)
class Road:
    """All runs of one study: by method, a row a seed of normalised reward and cost, NaN where there is none."""

    task: str
    limit: float
    found: Mapping[str, Float[np.ndarray, "seeds 2"]]

    @property
    def held(self) -> int:
        """Runs without a recommendation."""
        return int(np.isnan(self.found["tuned by PLS"][:, 0]).sum())

    def means(self, method: str) -> Float[np.ndarray, "2"]:
        """Over the seeds that have one."""
        rows = self.found[method]
        return rows[~np.isnan(rows[:, 0])].mean(axis=0)

    def bar(self) -> str:
        """Whether the bar is met, and what it was."""
        safe = [name for name in METHODS if name != "tuned by PLS" and self.means(name)[1] <= 1.0]
        if self.held == len(self.found["tuned by PLS"]):
            return "no: all held"
        reward, cost = self.means("tuned by PLS")
        wanted = max((float(self.means(name)[0]) for name in safe), default=-np.inf)
        met = cost <= 1.0 and reward >= wanted - MARGIN
        least = f"reward {wanted - MARGIN:.2f}" if safe else "no baseline is safe"
        return f"{'yes' if met else 'no'} ({least}{f', {self.held} held' if self.held else ''})"


def read(runs: Path) -> Road:
    """One study."""
    rows: dict[str, list[list[float]]] = {name: [] for name in METHODS}
    summary: dict[str, Any] = {}
    for place in sorted(runs.glob("seed-*/summary.json")):
        summary = json.loads(place.read_text(encoding="utf-8"))
        returns = hdf5.read(place.parent / "episodes.hdf5").reward_returns
        low, span = float(returns.min()), float(np.ptp(returns))
        for name, key in METHODS.items():
            reward, cost = (summary[f"{key}_{what}_return"] for what in ("reward", "cost"))
            known = reward is not None
            rows[name].append([(reward - low) / span, cost / summary["limit"]] if known else [np.nan, np.nan])
    if not summary:
        raise SystemExit(f"{runs} holds no finished run of reproductions/whole_road.py")
    return Road(summary["task"], summary["limit"], {name: np.array(found) for name, found in rows.items()})


def table(roads: Sequence[Road]) -> str:
    """A row a method."""
    lines = [
        "| task, limit | method | normalised reward | normalised cost | runs over the limit | the paper's | bar met |",
        "|---|---|---|---|---|---|---|",
    ]
    for road in roads:
        for name, rows in road.found.items():
            there = rows[~np.isnan(rows[:, 0])]
            cells = [str(mean_interval(there[:, column])) if len(there) else "-" for column in (0, 1)]
            over = f"{int(np.sum(~(there[:, 1] <= 1.0)))} of {len(there)}"
            paper = PAPER.get((road.task, road.limit), {}).get(name, "")
            bar = road.bar() if name == "tuned by PLS" else ""
            lines.append(f"| {road.task}, {road.limit:g} | {name} | {' | '.join(cells)} | {over} | {paper} | {bar} |")
    met = sum(road.bar().startswith("yes") for road in roads)
    return "\n".join([*lines, "", f"The bar is met on {met} of {len(roads)} tasks and limits."]) + "\n"


def main() -> None:
    """Writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    arguments = parser.parse_args()
    commit = commit_here()
    roads = sorted((read(runs) for runs in arguments.runs), key=lambda road: (road.task, road.limit))
    text = (
        f"`python reproductions/pls_table.py RUNS`, commit {commit}; RUNS: reproductions/whole_road.py's. Means over "
        f"seeds with 95 % t intervals.\n\n{table(roads)}"
    )
    write_text(arguments.out / "pls-table.md", text)
    print(text)


if __name__ == "__main__":
    main()
