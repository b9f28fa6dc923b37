"""Environment steps per second of `rollout` against the bare environment, in one run.

    python benchmarks/rollout.py [--policy runs/demo/cdt/policy] [--env HalfCheetahVelocity] [--episodes 40]

Three rates, each over all cores, one process a core and one thread each, in turn (bare, random, policy, bare, ...), so
that a machine whose speed drifts drifts for all of them: the bare environment (Gymnasium's own `step` with random
actions, nothing around it), `rollout` with random actions (what checking and recording cost), and `rollout` with a
decision transformer (what a deployment costs). Prints median rates and the ratios to the bare environment.
Without --policy, an untrained network of the `small` preset acts: its arithmetic is the same.
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

import gymnasium
import joblib
import numpy as np

from safehold.core.policy import Policy, PolicyFamily
from safehold.core.seeding import Streams
from safehold.envs import registry
from safehold.learn.offline.cdt import PRESETS, CDTLearner
from safehold.learn.offline.scales import Scales
from safehold.rollout.episodes import BLOCK, rollout
from safehold.testing.env_contract import RandomPolicy
from safehold.workflows.collect import collect
from safehold.workflows.train import load

GYMNASIUM_IDS = {
    "HalfCheetahVelocity": "HalfCheetah-v5",
    "SwimmerVelocity": "Swimmer-v5",
    "HopperVelocity": "Hopper-v4",
}


def bare_steps(gymnasium_id: str, steps: int, seed: int) -> int:
    """Steps one bare environment with random actions; returns how many."""
    env = gymnasium.make(gymnasium_id).unwrapped
    env.reset(seed=seed)
    rng = np.random.default_rng(seed)
    assert env.action_space.shape is not None
    actions = rng.uniform(-1.0, 1.0, size=(1000, *env.action_space.shape))
    for step in range(steps):
        _, _, terminated, _, _ = env.step(actions[step % 1000])
        if terminated or step % 1000 == 999:
            env.reset()
    env.close()
    return steps


def acting(env: str, path: Path | None, cores: int) -> Policy:
    """The trained policy at a target in the middle of its dial, or an untrained one of the small preset."""
    if path is None:
        dataset = collect(env, seed=0, episodes=200, workers=cores)
        config = PRESETS["small"]
        family: object = CDTLearner(dataset.spec, Scales.fit(dataset, config.to_go_features), config, seed=0).policy()
    else:
        family = load(path)
    if not isinstance(family, PolicyFamily):
        raise SystemExit(f"{path} holds no family with a dial")
    return family.at((2500.0, *([10.0] * (len(family.target_names) - 1))))


def main() -> None:
    """Measures all three in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", type=Path)
    parser.add_argument("--env", default="HalfCheetahVelocity", choices=sorted(GYMNASIUM_IDS))
    parser.add_argument("--episodes", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    spec = registry.spec(arguments.env)
    steps = arguments.episodes * spec.horizon // cores
    parallel = joblib.Parallel(n_jobs=cores)

    def bare(_: int) -> int:
        jobs = [joblib.delayed(bare_steps)(GYMNASIUM_IDS[arguments.env], steps, seed) for seed in range(cores)]
        return sum(parallel(jobs))

    def through(policy: Policy) -> Callable[[int], int]:
        def run(number: int) -> int:
            seeds = Streams(number).episode_seeds("benchmark", 0, arguments.episodes)
            return sum(map(len, rollout(arguments.env, policy, seeds, rng_seed=0, workers=cores)))

        return run

    ways: dict[str, Callable[[int], int]] = {
        "bare": bare,
        "random": through(RandomPolicy(spec)),
        "transformer": through(acting(arguments.env, arguments.policy, cores)),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(arguments.rounds + 1):
        for name, way in ways.items():
            begun = time.perf_counter()
            done = way(number)
            if number > 0:  # the first round starts the processes and is not counted
                rates[name].append(done / (time.perf_counter() - begun))
    print(
        f"{arguments.env}, {cores} cores, {arguments.episodes} episodes in blocks of {BLOCK}, {arguments.rounds} rounds"
    )
    for name, values in rates.items():
        ratios = np.array(values) / np.array(rates["bare"])
        print(
            f"{name:>12}: {np.median(values):9,.0f} steps/s (min {min(values):,.0f}, max {max(values):,.0f}), "
            f"{np.median(ratios):.2f} of bare (min {ratios.min():.2f}, max {ratios.max():.2f})"
        )


if __name__ == "__main__":
    main()
