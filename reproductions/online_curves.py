"""PPO-Lag and SAC-Lag, and OmniSafe's PPO-Lag beside: curves, limits kept or not, speed.

    python reproductions/online_curves.py [--omnisafe PYTHON] [--share 1.0] [--runs runs/online-curves]
                                          [--out docs/results]

Needs `make navigation`. Written down before the runs that are reported; all of it is reported:

* Tasks HalfCheetahVelocity and HopperVelocity, limit 20 on an episode's mean cost, and navigation/PointGoal1, limit 25,
  on which SAC-Lagrangian is known to struggle; seeds 10, 11, 12. The point robot is in online_multipliers.py.
* ppo_lag: 1,000,000 environment steps, with the settings by which the zoo of the task was trained (zoo/runs.toml), on
  PointGoal1 with those of `safehold explore ppo-lag`. sac_lag: 300,000 steps, half a gradient step each, two layers of
  128 units, batches of 128, everything else as `safehold explore sac-lag` has it; settings were looked at on seed 0
  alone.
* A method reaches its limit if the mean cost of the episodes of the last fifth of its training, in the mean over
  seeds, is at most the limit plus its standard error over seeds. That is the policy that explores; in the end 20
  episodes a run without noise say what is left of it, on reset seeds that no training saw.
* OmniSafe 0.5.0, if its python is given (benchmarks/peers/omnisafe_peer.py), on SafetyHalfCheetahVelocity-v1: 300,000
  steps, its own settings but for the limit and one thread, the same seeds; ours is shown at as many steps. Speed is
  environment steps a second of processor time, learning included, each over all of its runs; benchmarks/online_speed.py
  takes it in turns.

A run that is done lies in RUNS and is not done again. --share makes all runs shorter, to try the script; its results
are then written under RUNS alone. About three hours on one core, and one more for OmniSafe.
"""

import argparse
import json
import os
import subprocess
import tomllib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from online_runs import Plan, learnt, once, recorded
from recorded import commit_here

from safehold.core.intervals import mean_interval
from safehold.learn.online.ppo_lag import PPOLagConfig
from safehold.learn.online.sac import SACConfig
from safehold.learn.online.sac_lag import SACLagConfig
from safehold.report.figures import learning_curves
from safehold.report.figures.learning_curves import LearningCurves
from safehold.report.figures.palette import save

ROOT = Path(__file__).parents[1]
SEED, SEEDS, EPISODES = 20261122, (10, 11, 12), 20
SPEED, HAZARDS = "steps above the speed limit", "steps inside a hazard"
TASKS = {
    "HalfCheetahVelocity": (20.0, SPEED),
    "HopperVelocity": (20.0, SPEED),
    "navigation/PointGoal1": (25.0, HAZARDS),
}
"""Limit on an episode's cost, and what that counts."""
PEER_TASK, PEER_ID, PEER_STEPS = "HalfCheetahVelocity", "SafetyHalfCheetahVelocity-v1", 300_000
LAST = 0.2
"""Share of training whose episodes say whether the limit was reached."""


def plans() -> tuple[Plan, ...]:
    """Both methods on every task."""
    zoo = tomllib.loads((ROOT / "zoo" / "runs.toml").read_text())
    core = SACConfig(hidden=(128, 128), batch_size=128, capacity=300_000, gradient_steps=0.5)
    found = []
    for task, (limit, _) in TASKS.items():
        ppo = PPOLagConfig.model_validate(zoo.get(task, {}).get("method", {}))
        found.append(Plan("ppo_lag", task, ppo, limit, 16, 512, 1_000_000))
        found.append(Plan("sac_lag", task, SACLagConfig(sac=core), limit, 8, 4, 300_000))
    return tuple(found)


def peer(python: Path, seed: int, steps: int, part: Path) -> dict[str, Any]:
    """One run of OmniSafe's, unless it is there already."""

    def run() -> dict[str, Any]:
        part.parent.mkdir(parents=True, exist_ok=True)
        script, out = ROOT / "benchmarks" / "peers" / "omnisafe_peer.py", part.with_suffix(".peer")
        options = ("--steps", str(steps), "--seed", str(seed), "--limit", str(TASKS[PEER_TASK][0]))
        threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}
        with part.with_suffix(".log").open("wb") as log:
            subprocess.run(
                [python, script, PEER_ID, out, *options],
                check=True,
                stdout=log,
                stderr=log,
                env={**os.environ, **threads},
            )
        found: dict[str, Any] = json.loads(out.read_text())
        out.unlink()
        return found

    return once(part, run)


def last_of(curve: Sequence[Mapping[str, float]], name: str, end: float) -> float:
    """Mean of the points of the last fifth of what was trained until step `end`, or the batch that holds it."""
    last = next((point["step"] for point in curve if point["step"] >= end), curve[-1]["step"])
    return float(np.mean([point[name] for point in curve if (1.0 - LAST) * last < point["step"] <= last]))


def row(
    title: str, limit: float, curves: Sequence[Sequence[Mapping[str, float]]], end: int, rate: float, final: str
) -> str:
    """A method on a task: the last fifth of its training over seeds, and what was left."""
    cost = np.array([last_of(curve, "cost", end) for curve in curves])
    reward = np.array([last_of(curve, "reward", end) for curve in curves])
    error = float(cost.std(ddof=1)) / len(cost) ** 0.5
    reached = "yes" if cost.mean() <= limit + error else "no"
    spans = []
    for values in (reward, cost):
        interval = mean_interval(values)
        spans.append(f"{interval.estimate:.0f} [{interval.low:.0f}, {interval.high:.0f}]")
    return f"| {title} | {end:,} | {spans[0]} | {spans[1]} | {reached} | {final} | {rate:,.0f} |"


def table(rows: Mapping[tuple[str, str], list[dict[str, Any]]], ends: Mapping[tuple[str, str], int]) -> str:
    """All methods; OmniSafe's, and ours at as many steps, if it was run."""
    lines = [
        "| task, method | steps | reward, last fifth of training | cost | limit reached | reward, cost of 20 episodes "
        "without noise | steps a second |",
        "|---|---|---|---|---|---|---|",
    ]
    for (task, method), runs in rows.items():
        curves = [one["curve"] for one in runs]
        rate = sum(one["steps"] for one in runs) / sum(one["cpu_seconds"] for one in runs)
        final = ", ".join(f"{one['reward']:.0f} at {one['cost']:.1f}" for one in runs if "rate" in one)
        limit = TASKS[task][0]
        lines.append(row(f"{task}, {method}", limit, curves, ends[task, method], rate, final))
        if (task, method) == (PEER_TASK, "ppo_lag") and (task, "OmniSafe's PPO-Lag") in rows:
            end = ends[task, "OmniSafe's PPO-Lag"]
            lines.append(row(f"{task}, {method} at as many steps as OmniSafe's", limit, curves, end, rate, ""))
    return "\n".join(lines)


def main() -> None:
    """Runs what is not there yet, and writes table, record and curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--omnisafe", type=Path, help="a python that has OmniSafe; none: it is not run")
    parser.add_argument("--share", type=float, default=1.0, help="of the steps of every run; below 1 to try it")
    parser.add_argument("--runs", type=Path, default=Path("runs/online-curves"))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    arguments = parser.parse_args()
    commit = commit_here()
    torch.set_num_threads(1)
    parts = arguments.runs / f"share-{arguments.share:g}"
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    ends: dict[tuple[str, str], int] = {}

    def note(task: str, method: str, found: dict[str, Any], steps: int) -> None:
        rows.setdefault((task, method), []).append({**found, "steps": steps})
        ends[task, method] = steps
        print(f"{task}, {method}: {found['cpu_seconds']:.0f} s", flush=True)

    for plan in plans():
        for seed in SEEDS:
            config = plan.config(seed, arguments.share)
            part = parts / f"{plan.task.replace('/', '-')}-{plan.name}-seed-{seed}.json"
            found = once(part, partial(learnt, config, base_seed=SEED, episodes=EPISODES))
            note(plan.task, plan.name, found, config.total_steps)
    if arguments.omnisafe is not None:
        steps = max(40_000, round(arguments.share * PEER_STEPS))  # whole epochs of its, two at least
        for seed in SEEDS:
            part = parts / f"{PEER_TASK}-omnisafe-seed-{seed}.json"
            note(PEER_TASK, "OmniSafe's PPO-Lag", peer(arguments.omnisafe, seed, steps, part), steps)
    out = arguments.out if arguments.share == 1.0 else parts
    out.mkdir(parents=True, exist_ok=True)
    named = {f"{plan.task}, {plan.name}": plan for plan in plans()}
    record = recorded(
        "online_curves.py",
        commit,
        SEEDS,
        arguments.share,
        named,
        {", ".join(which): found for which, found in rows.items()},
    )
    (out / "online-curves.json").write_text(json.dumps(record) + "\n")
    (out / "online-curves.md").write_text(table(rows, ends) + "\n")
    for task, (limit, unit) in TASKS.items():
        ours = {method: found for (of, method), found in rows.items() if of == task and "rate" in found[0]}
        curves = tuple(learning_curves.curve(name, [one["curve"] for one in found]) for name, found in ours.items())
        view = LearningCurves(curves=curves, limits={"cost": limit}, cost_unit=unit)
        save(learning_curves.draw(view), out / f"online-curves-{task.split('/')[-1]}.svg")
    print(table(rows, ends))


if __name__ == "__main__":
    main()
