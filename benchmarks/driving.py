"""What a step in MetaDrive costs, in the simulator's process and in ours.

    SAFEHOLD_METADRIVE_PYTHON=... python benchmarks/driving.py [--task metadrive/easymean] [--steps 500]

A world is opened, drives so many steps and is closed; then the same with twice as many steps, the first half of which
are the same. The difference is what the second half costs: in processor time, which a loaded machine stretches little,
and by the clock.
"""

import argparse
import resource
import time

import numpy as np

from safehold.envs.registry import make
from safehold.envs.suites.metadrive_drivers import Driver

DRIVER = Driver(speed=12.0, gap=7.0, headway=1.5, noise_sd=0.0)
"""Slow enough to be on the road for a whole episode."""


def costs_of(task: str, steps: int) -> np.ndarray:
    """Processor seconds of the simulator and of us, and seconds by the clock, for a life of so many steps."""
    before = _now()
    env = make(task)
    observation, _ = env.reset(seed=0)
    for _ in range(steps):
        observation, _, terminated, truncated, _ = env.step(DRIVER.means(observation[None])[0].astype(np.float32))
        if terminated or truncated:
            raise SystemExit(f"{task}: the episode was over before {steps} steps; ask for fewer")
    env.close()
    return _now() - before


def _now() -> np.ndarray:
    child = resource.getrusage(resource.RUSAGE_CHILDREN)
    return np.array([child.ru_utime + child.ru_stime, time.process_time(), time.perf_counter()])


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="metadrive/easymean")
    parser.add_argument("--steps", type=int, default=450)
    arguments = parser.parse_args()
    once, twice = costs_of(arguments.task, arguments.steps), costs_of(arguments.task, 2 * arguments.steps)
    start = 2 * once - twice
    simulator, ours, clock = 1000 * (twice - once) / arguments.steps
    print(f"start and reset: {start[0]:.2f} s of the simulator's processor time, {start[2]:.2f} s by the clock")
    print(f"a step: simulator {simulator:.2f} ms, ours {ours:.2f} ms of processor time; {clock:.2f} ms by the clock")
    print(f"steps a second: {1000 / (simulator + ours):.0f} of processor time, {1000 / clock:.0f} by the clock")


if __name__ == "__main__":
    main()
