"""Trains the runs that the zoo of HalfCheetahVelocity is drawn from, all at once, one process and one thread a run.

    python zoo/train.py OUT [--steps 3000000] [--processes 2] [--seconds 0]

Leaves OUT/runs (every snapshot of every run, a zoo) and OUT/curves.csv. With --seconds, every run ends after that
many seconds at the latest; the snapshots it has by then are kept, and the number of steps is in their record.
"""

import argparse
import csv
import logging
import platform
import time
from importlib.metadata import version
from pathlib import Path

import joblib

from safehold.learn.online.zoo import save_zoo
from safehold.workflows.explore import Exploration, ExploreConfig, explore

ENV_ID = "HalfCheetahVelocity"
RUNS: tuple[tuple[float | None, int], ...] = (
    (20.0, 0),
    (None, 0),
    (5.0, 0),
    (40.0, 0),
    (150.0, 0),
    (80.0, 0),
    (250.0, 0),
    (10.0, 1),
)
"""(limit, seed) of each run; no limit at all is the reckless end."""


def run_until(config: ExploreConfig, deadline: float) -> Exploration:
    """One run that ends by a wall-clock time."""
    return explore(config, stop=lambda: time.time() > deadline)


def main() -> None:
    """Trains all runs and writes what they yield."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=3_000_000, help="environment steps of each run")
    parser.add_argument("--processes", type=int, default=2, help="runs at the same time")
    parser.add_argument("--seconds", type=float, default=0.0, help="wall-clock budget of each run; 0 for none")
    parser.add_argument("--runs", type=int, default=len(RUNS), help="only the first so many runs")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    log = logging.getLogger("zoo")
    begun = time.time()
    deadline = begun + arguments.seconds if arguments.seconds else float("inf")
    configs = [
        ExploreConfig(env_id=ENV_ID, limit=limit, seed=seed, total_steps=arguments.steps)
        for limit, seed in RUNS[: arguments.runs]
    ]
    with joblib.parallel_config(backend="loky", inner_max_num_threads=1):
        parallel = joblib.Parallel(n_jobs=arguments.processes, return_as="generator_unordered", batch_size=1)
    explorations: list[Exploration] = []
    for exploration in parallel(joblib.delayed(run_until)(config, deadline) for config in configs):
        explorations.append(exploration)
        last = exploration.snapshots[-1] if exploration.snapshots else None
        log.info("%.0f s: %s done, %s", time.time() - begun, exploration.config.name, last and last.evaluations[0])
    explorations.sort(key=lambda exploration: exploration.config.name)
    arguments.out.mkdir(parents=True, exist_ok=True)
    save_zoo(
        arguments.out / "runs",
        env_id=ENV_ID,
        policies=[snapshot for exploration in explorations for snapshot in exploration.snapshots],
        provenance={
            "command": f"python zoo/train.py OUT --steps {arguments.steps} --seconds {arguments.seconds:g}",
            "configs": {exploration.config.name: exploration.config.to_json() for exploration in explorations},
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in ("numpy", "torch", "gymnasium", "mujoco")},
            },
        },
    )
    with open(arguments.out / "curves.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["run", "step", "reward", "cost", "multiplier", "noise"])
        for exploration in explorations:
            for point in exploration.curve:
                numbers = (point.reward, point.cost, point.multiplier, point.noise)
                writer.writerow([exploration.config.name, point.step, *(f"{number:.4g}" for number in numbers)])
    log.info("%.0f s in all", time.time() - begun)


if __name__ == "__main__":
    main()
