"""Scalar lambda against lambda(s) against trust regions on the point robot: curves, and what is left in the end.

    python reproductions/online_multipliers.py [--share 1.0] [--runs runs/online-multipliers] [--out docs/results]

Written down before the runs that are reported; settings come from trial runs on seed 0 at a fifth of the steps. All of
it is reported:

* World: toy/PointRobot. The limited cost is 1 for every step that ends inside a disc.
* Limits: D = 3 steps an episode of 100 on the mean; of the state-wise ones, D / 100 on the expected cost of a step
  ("immediate": kept in every state, it implies D), D on the value of every state ("value"), and 0.1 on the dearest
  step ("reachability", SCPO: of ten episodes one may touch a disc). They are not the same demand: the table says for
  each what became of all three quantities, the mean, the dearest step and the share of steps that cost.
* Methods and environment steps: sac_lag and statewise_lag (three constraints) 100,000 at a quarter of a gradient step
  each; ppo_lag and trpo_lag 1,000,000; cpo and scpo 3,000,000 in batches of 25,600. Seeds 0, 1, 2.
* In the end: 100 episodes a run without noise, on reset seeds that no training saw.
* The picture: lambda over the arena (constraint "value", seed 0), for a robot at top speed to the right, beside the
  states that are really lost; and for every run with lambda(s) how well lambda separates them (0.5: not at all).
* Expected, and to be confirmed or refuted: lambda(s) keeps the dearest step lower than the scalar at equal D, for less
  reward; the immediate form needs violations to learn from; SCPO keeps the dearest step near its limit and lets costs
  of episodes that have touched a disc go.

A run that is done lies in RUNS and is not done again; a call that was cut short goes on with the run that it was in,
from that run's beginning. --share makes all runs shorter, to try the script; its results are then written under RUNS
alone. About an hour on one core.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from online_runs import Plan, learnt, once, recorded, spanned
from recorded import commit_here

from safehold.core.episode import Episode
from safehold.core.intervals import mean_interval
from safehold.envs import registry
from safehold.envs.toy.point_robot import TOP_SPEED
from safehold.learn.multiplier import MultiplierConfig
from safehold.learn.multiplier_network import MultiplierField, MultiplierNetworkConfig
from safehold.learn.online.cpo import CPOConfig, SCPOConfig
from safehold.learn.online.ppo_lag import PPOLagConfig
from safehold.learn.online.sac import SACConfig
from safehold.learn.online.sac_lag import SACLagConfig
from safehold.learn.online.statewise_lag import StateConstraint, StatewiseLagConfig
from safehold.learn.online.trpo_lag import TRPOLagConfig
from safehold.report.figures import learning_curves, multiplier_map
from safehold.report.figures.learning_curves import LearningCurves
from safehold.report.figures.multiplier_map import MultiplierMap
from safehold.report.figures.palette import save
from safehold.workflows import feasibility
from safehold.workflows.explore import Exploration

SEED, SEEDS = 20261122, (0, 1, 2)
ENV_ID, LIMIT, PEAK_LIMIT = "toy/PointRobot", 3.0, 0.1
EPISODES = 100
VELOCITY = (TOP_SPEED, 0.0)


def plans() -> tuple[Plan, ...]:
    """All methods."""
    core = SACConfig(hidden=(64, 64), batch_size=128, capacity=100_000, random_steps=1000, gradient_steps=0.25)
    network = MultiplierNetworkConfig(hidden=(64, 64), learning_rate=3e-4)
    scalar = MultiplierConfig(integral_gain=0.005)
    small: dict[str, Any] = {"hidden": (64, 64), "value_learning_rate": 2e-3}
    horizon = registry.spec(ENV_ID).horizon

    def of_states(constraint: StateConstraint, limit: float) -> Plan:
        method = StatewiseLagConfig(sac=core, multiplier=network, constraint=constraint)
        return Plan(f"statewise_lag, {constraint}", ENV_ID, method, limit, 10, 10, 100_000)

    ppo = PPOLagConfig(minibatch=800, learning_rate=2e-3, multiplier=scalar, **small)
    return (
        Plan("sac_lag", ENV_ID, SACLagConfig(sac=core, multiplier=scalar, damping=0.0), LIMIT, 10, 10, 100_000),
        of_states("immediate", LIMIT / horizon),
        of_states("value", LIMIT),
        of_states("reachability", PEAK_LIMIT),
        Plan("ppo_lag", ENV_ID, ppo, LIMIT, 64, 50, 1_000_000),
        Plan("trpo_lag", ENV_ID, TRPOLagConfig(multiplier=scalar, **small), LIMIT, 64, 50, 1_000_000),
        Plan("cpo", ENV_ID, CPOConfig(**small), LIMIT, 64, 400, 3_000_000),
        Plan("scpo", ENV_ID, SCPOConfig(**small), PEAK_LIMIT, 64, 400, 3_000_000),
    )


def run(plan: Plan, seed: int, share: float, part: Path) -> dict[str, Any]:
    """One run's curve and final episodes, unless they are there already."""
    config = plan.config(seed, share)
    return once(part, lambda: learnt(config, base_seed=SEED, episodes=EPISODES, more=_more))


def _more(found: Exploration, episodes: list[Episode]) -> dict[str, Any]:
    """How deep the dearest step went, and the multipliers over the arena."""
    return {
        "depth": float(np.mean([episode.costs[:, 1].max() for episode in episodes])),
        "map": None if found.multipliers is None else kept_map(found.multipliers),
    }


def kept_map(field: MultiplierField) -> dict[str, Any]:
    """The multipliers over the arena, as JSON."""
    view = feasibility.multiplier_map(field, velocity=VELOCITY)
    return {"multipliers": np.round(view.multipliers, 5).tolist(), "separation": view.separation}


def _view(kept: Mapping[str, Any]) -> MultiplierMap:
    """The picture of what was kept."""
    nothing = MultiplierField((np.zeros((9, 1), np.float32),), (np.zeros(1, np.float32),), 1.0)
    plain = feasibility.multiplier_map(nothing, velocity=VELOCITY)
    return MultiplierMap(
        x=plain.x,
        y=plain.y,
        multipliers=np.array(kept["multipliers"]),
        lost=plain.lost,
        discs=plain.discs,
        velocity=VELOCITY,
    )


def table(rows: Mapping[str, list[dict[str, Any]]]) -> str:
    """What is left in the end: means over seeds of 100 episodes each, with Student's 95 % intervals over seeds."""
    columns = ("reward", "cost", "peak", "rate", "depth")
    lines = [
        "| method | reward | cost (steps inside) | dearest step | share of steps that cost | depth | separation |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, runs in rows.items():
        cells = [spanned(mean_interval(np.array([one[column] for one in runs]))) for column in columns]
        separations = [one["map"]["separation"] for one in runs if one["map"] is not None]
        cells.append(f"{np.mean(separations):.2f}" if separations else "")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Runs what is not there yet, and writes curves, table and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0, help="of the steps of every run; below 1 to try it")
    parser.add_argument("--runs", type=Path, default=Path("runs/online-multipliers"))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    arguments = parser.parse_args()
    commit = commit_here()
    torch.set_num_threads(1)
    parts = arguments.runs / f"share-{arguments.share:g}"
    rows: dict[str, list[dict[str, Any]]] = {}
    for plan in plans():
        rows[plan.name] = []
        for seed in SEEDS:
            part = parts / f"{plan.name.replace(', ', '-')}-seed-{seed}.json"
            rows[plan.name].append(run(plan, seed, arguments.share, part))
            print(f"{plan.name}, seed {seed}: {rows[plan.name][-1]['cpu_seconds']} s", flush=True)
    out = arguments.out if arguments.share == 1.0 else parts
    out.mkdir(parents=True, exist_ok=True)
    named = {plan.name: plan for plan in plans()}
    record = recorded("online_multipliers.py", commit, SEEDS, arguments.share, named, rows)
    (out / "online-multipliers.json").write_text(json.dumps(record) + "\n")
    (out / "online-multipliers.md").write_text(table(rows) + "\n")
    curves = tuple(learning_curves.curve(name, [one["curve"] for one in runs]) for name, runs in rows.items())
    view = LearningCurves(curves=curves, limits={"cost": LIMIT, "peak": PEAK_LIMIT}, cost_unit="steps inside a disc")
    save(learning_curves.draw(view), out / "online-multipliers-curves.svg")
    save(multiplier_map.draw(_view(rows["statewise_lag, value"][0]["map"])), out / "online-multipliers-map.svg")
    print(table(rows))


if __name__ == "__main__":
    main()
