"""Trains the runs that the zoo of a task is drawn from, several at a time, one process and one thread a run.

    python zoo/train.py TASK OUT [--steps N] [--processes 2] [--seconds 0]

What is trained stands in zoo/runs.toml. Leaves OUT/runs (every snapshot of every run, a zoo) and OUT/curves.csv; a run
that is done stays in OUT/parts and is not done again. With --seconds, no run goes on longer than that; the snapshots
it has by then are kept, and the number of steps is in their record.
"""

import argparse
import csv
import logging
import math
import platform
import time
import tomllib
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import joblib

from safehold.learn.online.ppo_lag import PPOLagConfig
from safehold.learn.online.zoo import Zoo, load_zoo, save_zoo
from safehold.workflows.explore import ExploreConfig, explore

RUNS = Path(__file__).parent / "runs.toml"


def train(config: ExploreConfig, seconds: float, part: Path) -> Zoo:
    """One run, unless it is there already."""
    if not part.exists():
        deadline = time.time() + seconds if seconds else math.inf
        found = explore(config, stop=lambda: time.time() > deadline)
        curve = [asdict(point) for point in found.curve]
        provenance = {"config": config.to_json(), "curve": curve}
        save_zoo(part, env_id=config.env_id, policies=found.snapshots, provenance=provenance)
    return load_zoo(part)


def main() -> None:
    """Trains all runs and writes what they yield."""
    planned = tomllib.loads(RUNS.read_text())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=sorted(planned))
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, help="environment steps of each run; default: those of zoo/runs.toml")
    parser.add_argument("--processes", type=int, default=2, help="runs at the same time")
    parser.add_argument("--seconds", type=float, default=0.0, help="wall-clock budget of each run; 0 for none")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    log = logging.getLogger("zoo")
    begun, plan = time.time(), planned[arguments.task]
    steps = arguments.steps or plan["steps"]
    parts = arguments.out / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    configs = [
        ExploreConfig(
            env_id=arguments.task,
            limit=limit if math.isfinite(limit) else None,
            seed=seed,
            total_steps=steps,
            method=PPOLagConfig.model_validate(plan.get("method", {})),
        )
        for limit, seed in plan["runs"]
    ]
    with joblib.parallel_config(backend="loky", inner_max_num_threads=1):
        parallel = joblib.Parallel(n_jobs=arguments.processes, return_as="generator", batch_size=1)
    zoos: list[Zoo] = []
    jobs = (joblib.delayed(train)(config, arguments.seconds, parts / config.name) for config in configs)
    for config, zoo in zip(configs, parallel(jobs), strict=True):
        zoos.append(zoo)
        last = zoo.policies[-1] if zoo.policies else None
        log.info("%.0f s: %s done, %s", time.time() - begun, config.name, last and last.evaluations[0])
    versions = {"python": platform.python_version()}
    simulator = "pybullet" if arguments.task.startswith("bullet/") else "mujoco"
    save_zoo(
        arguments.out / "runs",
        env_id=arguments.task,
        policies=[snapshot for zoo in zoos for snapshot in zoo.policies],
        provenance={
            "command": f"python zoo/train.py {arguments.task} OUT --steps {steps} --seconds {arguments.seconds:g}",
            "configs": [zoo.provenance["config"] for zoo in zoos],
            "versions": versions | {name: version(name) for name in ("numpy", "torch", "gymnasium", simulator)},
        },
    )
    with open(arguments.out / "curves.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["run", "step", "reward", "cost", "multiplier", "noise"])
        for config, zoo in zip(configs, zoos, strict=True):
            for point in zoo.provenance["curve"]:
                numbers = (f"{point[name]:.4g}" for name in ("reward", "cost", "multiplier", "noise"))
                writer.writerow([config.name, point["step"], *numbers])
    log.info("%.0f s in all", time.time() - begun)


if __name__ == "__main__":
    main()
