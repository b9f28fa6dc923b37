"""Steps a second of rollout() against the bare robot on the same episodes, random actions, one core.

    OMP_NUM_THREADS=1 python benchmarks/rollout_speed.py [TASK ...]

Interleaved repetitions of CPU time; the fastest of each counts, because everything else on the machine only adds.
"""

import argparse
import time
from collections.abc import Callable

from safehold.core.episode import Episode
from safehold.envs.adapter import World
from safehold.envs.registry import spec
from safehold.envs.suites.velocity import ROBOTS
from safehold.rollout.episodes import BLOCK, rollout
from safehold.testing.env_contract import RandomPolicy

REPETITIONS = 8


def cpu_seconds(run: Callable[[], object]) -> float:
    """CPU time of one call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def main() -> None:
    """Prints one row a task."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="*", default=list(ROBOTS), help="velocity tasks")
    print("| task | bare, steps/s | rollout, steps/s | ratio |\n|---|---|---|---|")
    for name in parser.parse_args().tasks:
        policy, world = RandomPolicy(spec(name)), ROBOTS[name].world()
        episodes: list[Episode] = rollout(name, policy, range(BLOCK), rng_seed=0)

        def through_rollout(name: str = name, policy: RandomPolicy = policy) -> None:
            rollout(name, policy, range(BLOCK), rng_seed=0)

        def bare(world: World = world, episodes: list[Episode] = episodes) -> None:
            for episode in episodes:
                world.reset(seed=episode.seed or 0)
                for action in episode.actions:
                    world.step(action)

        times = [(cpu_seconds(bare), cpu_seconds(through_rollout)) for _ in range(REPETITIONS)]
        steps = sum(len(episode) for episode in episodes)
        fastest_bare, fastest_rollout = (min(column) for column in zip(*times, strict=True))
        ratio = fastest_bare / fastest_rollout
        print(f"| {name} | {steps / fastest_bare:,.0f} | {steps / fastest_rollout:,.0f} | {ratio:.0%} |")


if __name__ == "__main__":
    main()
