"""How much the multiplier's settings matter: one scalar, and lambda(s), on the point robot.

    python reproductions/online_sensitivity.py [--share 1.0] [--runs runs/online-sensitivity] [--out docs/results]

The lecture notes name three limitations of lambda(s): it is sensitive to its start and its step size, the threshold is
hard to set, and it needs enough violations to learn from. Written down before the runs that are reported, all of which
are reported:

* World: toy/PointRobot, cost 1 for every step that ends inside a disc. Methods: sac_lag, and statewise_lag with the
  constraint "value", as in reproductions/online_multipliers.py but for the steps: 50,000. Seeds 0, 1, 2.
* One setting at a time away from the middle: the multiplier's start (scalar 0, 1, 10; network 0.05, 1, 10), its step
  size (a tenth, ten times; for the scalar a hundred times, too), the limit (0.5, 3, 20 steps an episode).
* Too few violations: a start of 10 keeps a policy out of the discs from the first step on, so that it meets few costs.
  The table says how many, about (between two points of the curve every step counts as the mean of the episodes that
  ended there), beside how well lambda tells lost states from others (`separation`: the chance that a lost state has
  the larger lambda; 0.5: not at all).
* In the end: 100 episodes a run without noise, on reset seeds that no training saw.
* Expected, and to be confirmed or refuted: the scalar forgives a start (its integral runs down again), lambda(s) does
  not, because it has slack to descend on only where the policy still goes; a step size ten times too large winds both
  up; with few violations lambda(s) separates little.

A run that is done lies in RUNS and is not done again. --share makes all runs shorter, to try the script; its results
are then written under RUNS alone. About an hour on one core.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from online_multipliers import ENV_ID, EPISODES, LIMIT, kept_map
from online_runs import Plan, learnt, once, recorded, spanned
from recorded import commit_here

from safehold.core.episode import Episode
from safehold.core.intervals import mean_interval
from safehold.learn.multiplier import MultiplierConfig
from safehold.learn.multiplier_network import MultiplierNetworkConfig
from safehold.learn.online.sac import SACConfig
from safehold.learn.online.sac_lag import SACLagConfig
from safehold.learn.online.statewise_lag import StatewiseLagConfig
from safehold.workflows.explore import Exploration

SEED, SEEDS, STEPS = 20261123, (0, 1, 2), 50_000
CORE = SACConfig(hidden=(64, 64), batch_size=128, capacity=100_000, random_steps=1000, gradient_steps=0.25)


def plans() -> tuple[Plan, ...]:
    """Every setting of both."""

    def scalar(name: str, *, initial: float = 0.0, gain: float = 0.005, limit: float = LIMIT) -> Plan:
        multiplier = MultiplierConfig(initial=initial, integral_gain=gain)
        method = SACLagConfig(sac=CORE, multiplier=multiplier, damping=0.0)
        return Plan(f"scalar, {name}", ENV_ID, method, limit, 10, 10, STEPS)

    def network(name: str, *, initial: float = 0.05, rate: float = 3e-4, limit: float = LIMIT) -> Plan:
        multiplier = MultiplierNetworkConfig(hidden=(64, 64), initial=initial, learning_rate=rate)
        return Plan(
            f"lambda(s), {name}", ENV_ID, StatewiseLagConfig(sac=CORE, multiplier=multiplier), limit, 10, 10, STEPS
        )

    return (
        scalar("as elsewhere"),
        scalar("start 1", initial=1.0),
        scalar("start 10", initial=10.0),
        scalar("step size 0.1 times", gain=0.0005),
        scalar("step size 10 times", gain=0.05),
        scalar("step size 100 times", gain=0.5),
        scalar("limit 0.5", limit=0.5),
        scalar("limit 20", limit=20.0),
        network("as elsewhere"),
        network("start 1", initial=1.0),
        network("start 10", initial=10.0),
        network("step size 0.1 times", rate=3e-5),
        network("step size 10 times", rate=3e-3),
        network("limit 0.5", limit=0.5),
        network("limit 20", limit=20.0),
    )


def more(found: Exploration, episodes: list[Episode]) -> dict[str, Any]:  # noqa: ARG001 - a hook's signature
    """Costs met in training, as far as the curve tells, and what lambda is over the arena."""
    points = found.curve
    lengths = np.diff([0, *(point.step for point in points)])
    per_step = np.array([point.cost for point in points]) / 100.0  # episodes of 100 steps
    return {
        "met": float(per_step @ lengths),
        "last_multiplier": points[-1].multiplier,
        "map": None if found.multipliers is None else kept_map(found.multipliers),
    }


def table(plans: Sequence[Plan], rows: Mapping[str, list[dict[str, Any]]]) -> str:
    """What is left in the end: means over seeds of 100 episodes each, with Student's 95 % intervals over seeds."""
    columns = ("reward", "cost", "peak", "met", "last_multiplier")
    lines = [
        "| setting | limit | reward | cost (steps inside) | dearest step | costs met in training, about | multiplier "
        "at the end, mean | separation |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for plan in plans:
        runs = rows[plan.name]
        cells = [spanned(mean_interval(np.array([one[column] for one in runs]))) for column in columns]
        separations = [one["map"]["separation"] for one in runs if one["map"] is not None]
        cells.append(", ".join(f"{value:.2f}" for value in separations))
        lines.append(f"| {plan.name} | {plan.limit:g} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Runs what is not there yet, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0, help="of the steps of every run; below 1 to try it")
    parser.add_argument("--runs", type=Path, default=Path("runs/online-sensitivity"))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    arguments = parser.parse_args()
    commit = commit_here()
    torch.set_num_threads(1)
    parts = arguments.runs / f"share-{arguments.share:g}"
    rows: dict[str, list[dict[str, Any]]] = {}
    for number, plan in enumerate(plans()):
        for seed in SEEDS:
            config = plan.config(seed, arguments.share)
            part = parts / f"{number:02d}-seed-{seed}.json"
            found = once(part, partial(learnt, config, base_seed=SEED, episodes=EPISODES, more=more))
            rows.setdefault(plan.name, []).append(found)
            print(f"{plan.name}, seed {seed}: {found['cpu_seconds']} s", flush=True)
    out = arguments.out if arguments.share == 1.0 else parts
    out.mkdir(parents=True, exist_ok=True)
    named = {plan.name: plan for plan in plans()}
    record = recorded("online_sensitivity.py", commit, SEEDS, arguments.share, named, rows)
    (out / "online-sensitivity.json").write_text(json.dumps(record) + "\n")
    text = f"`{record['command']}`, commit {commit}, seeds {SEEDS}.\n\n{table(plans(), rows)}\n"
    (out / "online-sensitivity.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
