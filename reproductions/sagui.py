"""SaGui's study: a student with a guide against learning alone, and what each part of it is good for.

    python reproductions/sagui.py [--env-id toy/PointRobot] [--share 1.0] [--seeds 0 1 2] [--runs runs/sagui]
                                  [--out docs/results]
    python reproductions/sagui.py --env-id navigation/SaGuiStatic

Written down before the runs that are reported; settings of the toy come from trial runs on seed 0 at a quarter of the
steps. All of it is reported:

* Worlds: toy/PointRobot (guide in toy/PointRobotGuide, which lacks the goal), limit 5 steps inside a disc an episode of
  100, guides and students 60,000 steps each; navigation/SaGuiStatic with its guide variant, the paper's limit 5 of
  1,000 steps, 300,000 steps each (the paper has 1.5 million). Seeds 0, 1, 2 of everything: student i has guide i.
* Guides: with displacement; without auxiliary reward (entropy alone); under half the limit (margin epsilon = d / 2);
  random (untrained weights). Each is judged by 100 episodes in its source and 100 in the target.
* Students: control switch with adaptive distillation (SaGui); linear decay; the code's weights of distillation; a fixed
  weight; none; with each of the other guides; an allowance of d / 2 before control switches; the student alone with
  distillation (STUSAM); the guide alone acting (GUISAM). Without a guide: SAC-Lagrangian from scratch, and started as
  the guide (PRE: the policy's weights; critics are fresh).
* Measured: the behaviour policy (episodes met while learning) in up to 100 windows; the target policy (the student
  alone, with its noise) in 15 snapshots of 5 episodes, and 100 episodes at the end. Jump-starts and times against
  SAC-Lagrangian from scratch on the same seed; the optimum is 0.9 of the best safe snapshot of any method on that seed.
* Expected of the paper, to be confirmed or refuted: the guide is safe in both tasks; with control switch the behaviour
  stays under the limit throughout, with linear decay it need not, from scratch it does not; the target policy becomes
  safe earlier and good earlier than from scratch; PRE does not help; without auxiliary reward it is slower; a fixed
  weight earns less; the student alone breaks the limit early; the guide alone acting leaves no good student.

A run that is done lies in RUNS and is not done again; a call that was cut short goes on with the run that it was in,
from that run's beginning. With some of the seeds alone nothing is written but RUNS: a process a seed. --share makes all
runs shorter, to try the script; its results are then written under RUNS alone. About 4 core hours for the toy.
"""

import argparse
import json
import math
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from safehold import __version__
from safehold.core.intervals import mean_interval
from safehold.core.policy import Policy
from safehold.core.seeding import Streams
from safehold.envs import registry
from safehold.learn.guided.guide import GuideConfig, save_guide
from safehold.learn.guided.handover import HandoverConfig
from safehold.learn.guided.student import StudentConfig
from safehold.learn.multiplier import MultiplierConfig
from safehold.learn.online.sac import SACConfig
from safehold.learn.online.sac_lag import SACLagConfig
from safehold.report.figures import learning_curves
from safehold.report.figures.learning_curves import LearningCurves
from safehold.report.figures.palette import save
from safehold.report.transfer import (
    TransferCurve,
    optimum,
    return_jump_start,
    safety_jump_start,
    time_to_optimum,
    time_to_safety,
)
from safehold.rollout.episodes import rollout
from safehold.workflows.explore import Exploration, ExploreConfig, OnlineConfig, explore, guide_of

SEED, SEEDS, EPISODES = 20261122, (0, 1, 2), 100
SNAPSHOTS, EVALUATION_EPISODES = 15, 5
GOOD_ENOUGH = 0.9
"""Share of the best safe return that counts as the optimum."""
ALONE = "SAC-Lagrangian"
"""What the others are compared with."""


@dataclass(frozen=True, slots=True)
class World:
    """One target task and its guide's: limit in cost units an episode, budgets in environment steps."""

    source: str
    limit: float
    arena: float | None
    cost_unit: str
    guide_steps: int
    student_steps: int
    environments: int
    steps_per_batch: int
    core: SACConfig
    guides_temperature: float


WORLDS = {
    "toy/PointRobot": World(
        source="toy/PointRobotGuide",
        limit=5.0,
        arena=None,
        cost_unit="steps inside a disc",
        guide_steps=60_000,
        student_steps=60_000,
        environments=10,
        steps_per_batch=10,
        core=SACConfig(hidden=(64, 64), batch_size=128, capacity=100_000, gradient_steps=0.25, initial_temperature=0.1),
        guides_temperature=0.02,  # a step covers 0.1 m at most
    ),
    "navigation/SaGuiStatic": World(
        source="navigation/SaGuiStaticGuide",
        limit=5.0,
        arena=1.5,
        cost_unit="steps inside the hazard",
        guide_steps=300_000,
        student_steps=300_000,
        environments=4,
        steps_per_batch=25,
        core=SACConfig(hidden=(32, 32), batch_size=32, capacity=500_000, initial_temperature=1.0),
        guides_temperature=1.0,
    ),
}


def lagged(world: World, core: SACConfig) -> SACLagConfig:
    """SAC-Lagrangian as all runs have it; the multiplier steps every two episodes."""
    multiplier = MultiplierConfig(initial=0.693, integral_gain=0.03 * 5.0 / world.limit)
    return SACLagConfig(sac=core, multiplier=multiplier, damping=0.0, episodes_per_step=2)


def guides(world: World, env_id: str) -> dict[str, tuple[GuideConfig, float]]:
    """Every guide and its limit."""
    core = world.core.model_copy(update={"temperature": "fixed", "initial_temperature": world.guides_temperature})
    plain = GuideConfig(target=env_id, arena=world.arena, sac_lag=lagged(world, core))
    untrained = plain.model_copy(
        update={"sac_lag": lagged(world, core.model_copy(update={"random_steps": world.guide_steps + 1}))}
    )
    return {
        "guide": (plain, world.limit),
        "entropy alone": (plain.model_copy(update={"distance": "none"}), world.limit),
        "half the limit": (plain, world.limit / 2),
        "random": (untrained, world.limit),
    }


def students(world: World, place: Path, share: float) -> dict[str, OnlineConfig]:
    """Every method in the target task; `place` holds the seed's guides."""
    core = lagged(world, world.core)
    sagui = StudentConfig(guide=place / "guide", sac_lag=core)
    decay = round(share * world.student_steps)

    def by(rule: str, **more: float) -> dict[str, Any]:
        return {"handover": HandoverConfig.model_validate({"rule": rule, "decay_steps": decay, **more})}

    def other(**changes: Any) -> StudentConfig:
        return sagui.model_copy(update=changes)

    return {
        "SaGui, control switch": sagui,
        "SaGui, linear decay": other(**by("linear_decay")),
        "distillation as in its code": other(distillation="code"),
        "fixed distillation": other(distillation="fixed"),
        "no distillation": other(distillation="none"),
        "guide without reward": other(guide=place / "entropy alone"),
        "guide under half the limit": other(guide=place / "half the limit"),
        "random guide": other(guide=place / "random"),
        "switch after half the limit": other(**by("control_switch", allowance=world.limit / 2)),
        "student alone acts": other(**by("student")),
        "guide alone acts": other(**by("guide")),
        "begun as the guide": other(start="guide", distillation="none", **by("student")),
        ALONE: core,
    }


def config_of(world: World, env_id: str, method: OnlineConfig, limit: float, steps: int, seed: int) -> ExploreConfig:
    """One run, of two episodes in every world at least: without a finished one there is no curve."""
    least = world.environments * max(world.steps_per_batch, 2 * registry.spec(env_id).horizon)
    return ExploreConfig(
        env_id=env_id,
        limit=limit,
        seed=seed,
        total_steps=max(steps, least),
        environments=world.environments,
        steps_per_batch=world.steps_per_batch,
        snapshots=SNAPSHOTS,
        evaluation_episodes=EVALUATION_EPISODES,
        method=method,
    )


def judged(env_id: str, policy: Policy, seed: int) -> dict[str, float]:
    """Mean returns of fresh episodes."""
    streams = Streams(SEED + seed)
    episodes = rollout(env_id, policy, streams.episode_seeds("final", 0, EPISODES), rng_seed=streams.integer("noise"))
    return {
        "reward": float(np.mean([episode.reward_return for episode in episodes])),
        "cost": float(np.mean([episode.cost_returns[0] for episode in episodes])),
    }


def kept(found: Exploration, begun: float) -> dict[str, Any]:
    """What is kept of a run: the behaviour's curve, and the target's, with noise."""
    return {
        "behaviour": [asdict(point) for point in found.curve],
        "target": [
            {"step": one.step, "reward": one.evaluations[1].reward, "cost": one.evaluations[1].cost}
            for one in found.snapshots
        ],
        "cpu_seconds": round(time.process_time() - begun, 1),
    }


def write(part: Path, record: Mapping[str, Any]) -> None:
    """Whole or not at all."""
    part.parent.mkdir(parents=True, exist_ok=True)
    unfinished = part.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(record) + "\n")
    unfinished.rename(part)


def train_guide(world: World, env_id: str, name: str, seed: int, share: float, place: Path) -> dict[str, Any]:
    """A guide under `place`, unless it is there; its record."""
    part = place / f"{name}.json"
    if not part.exists():
        begun = time.process_time()
        method, limit = guides(world, env_id)[name]
        steps = round(share * world.guide_steps)
        found = explore(config_of(world, world.source, method, limit, steps, seed))
        guide = guide_of(found)
        if not (place / name).exists():  # it is there after a cut between the two writes, the same
            save_guide(place / name, guide, registry.spec(env_id), {"config": found.config.to_json()})
        returns = {"source": judged(world.source, guide.policy, seed), "target task": judged(env_id, guide, seed)}
        write(part, {**kept(found, begun), **returns})
    done: dict[str, Any] = json.loads(part.read_text())
    return done


def train_student(world: World, env_id: str, name: str, seed: int, share: float, place: Path) -> dict[str, Any]:
    """A student's record, unless it is there."""
    part = place / "students" / f"{name}.json"
    if not part.exists():
        begun = time.process_time()
        method = students(world, place, share)[name]
        steps = round(share * world.student_steps)
        found = explore(config_of(world, env_id, method, world.limit, steps, seed))
        write(part, {**kept(found, begun), "final": judged(env_id, found.snapshots[-1].policy, seed)})
    done: dict[str, Any] = json.loads(part.read_text())
    return done


def curve(points: Sequence[Mapping[str, float]]) -> TransferCurve:
    """Kept points as a curve."""
    columns = (np.array([point[name] for point in points], dtype=np.float64) for name in ("step", "reward", "cost"))
    return TransferCurve(*columns)


def measures(rows: Mapping[str, list[dict[str, Any]]], limit: float) -> dict[str, dict[str, list[float]]]:
    """By method and measure, a number a seed."""
    found: dict[str, dict[str, list[float]]] = {name: {} for name in rows}
    for place in range(len(SEEDS)):
        target = {name: curve(runs[place]["target"]) for name, runs in rows.items()}
        behaviour = {name: curve(runs[place]["behaviour"]) for name, runs in rows.items()}
        level = GOOD_ENOUGH * optimum(list(target.values()), limit)
        for name, runs in rows.items():
            costs = behaviour[name].costs
            numbers = {
                "reward": runs[place]["final"]["reward"],
                "cost": runs[place]["final"]["cost"],
                "behaviour cost": float(costs.mean()),
                "windows over": float(np.mean(~(costs <= limit))),
                "safety jump-start": safety_jump_start(behaviour[name], behaviour[ALONE]),
                "return jump-start": return_jump_start(target[name], target[ALONE]),
                "time to safety": time_to_safety(target[name], limit),
                "time to optimum": time_to_optimum(target[name], limit, level),
            }
            for measure, number in numbers.items():
                found[name].setdefault(measure, []).append(number)
    return found


def cell(values: Sequence[float]) -> str:
    """Mean with Student's 95 % interval over seeds; of times the mean of those that arrive, and how many do."""
    arrived = np.array([value for value in values if math.isfinite(value)])
    if len(arrived) < len(values):
        return f"{len(arrived)} of {len(values)}" + (f": {arrived.mean():,.0f}" if len(arrived) else "")
    interval = mean_interval(arrived)
    return f"{interval.estimate:.4g} [{interval.low:.3g}, {interval.high:.3g}]"


def table(first: str, rows: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """One line a row."""
    columns = list(next(iter(rows.values())))
    lines = [f"| {first} | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += [
        f"| {name} | " + " | ".join(cell(found[column]) for column in columns) + " |" for name, found in rows.items()
    ]
    return "\n".join(lines)


def main() -> None:
    """Runs what is not there yet, and writes curves and tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env-id", default="toy/PointRobot", choices=list(WORLDS))
    parser.add_argument("--share", type=float, default=1.0, help="of the steps of every run; below 1 to try it")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, choices=SEEDS)
    parser.add_argument("--runs", type=Path, default=Path("runs/sagui"))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    env_id, share = arguments.env_id, arguments.share
    world, short = WORLDS[env_id], env_id.rpartition("/")[2]
    parts = arguments.runs / short / f"share-{share:g}"
    judged_guides: dict[str, dict[str, list[float]]] = {}
    rows: dict[str, list[dict[str, Any]]] = {}
    for seed in arguments.seeds:
        place = parts / f"seed-{seed}"
        for name in guides(world, env_id):
            done = train_guide(world, env_id, name, seed, share, place)
            for task in ("source", "target task"):
                judged_guides.setdefault(name, {}).setdefault(f"cost in the {task}", []).append(done[task]["cost"])
            print(f"{name}, seed {seed}: {done['cpu_seconds']} s", flush=True)
        for name in students(world, place, share):
            rows.setdefault(name, []).append(train_student(world, env_id, name, seed, share, place))
            print(f"{name}, seed {seed}: {rows[name][-1]['cpu_seconds']} s", flush=True)
    if set(arguments.seeds) != set(SEEDS):
        return
    found = measures(rows, world.limit)
    out = arguments.out if share == 1.0 else parts
    out.mkdir(parents=True, exist_ok=True)
    record = {
        "command": f"python reproductions/sagui.py --env-id {env_id} --share {share:g}",
        "seeds": SEEDS,
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "torch": torch.__version__},
        "safehold": __version__,
        "guides": judged_guides,
        "measures": {name: {key: [v if math.isfinite(v) else None for v in values] for key, values in one.items()}
                     for name, one in found.items()},
        "rows": rows,
    }  # fmt: skip
    (out / f"sagui-{short}.json").write_text(json.dumps(record) + "\n")
    text = table("guide", judged_guides) + "\n\n" + table("method", found)
    (out / f"sagui-{short}.md").write_text(text + "\n")
    curves = tuple(learning_curves.curve(name, [one["behaviour"] for one in runs]) for name, runs in rows.items())
    view = LearningCurves(curves=curves, limits={"cost": world.limit}, cost_unit=world.cost_unit)
    save(learning_curves.draw(view), out / f"sagui-{short}-behaviour.svg")
    print(text)


if __name__ == "__main__":
    main()
