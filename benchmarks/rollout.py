"""Environment steps per second: a decision transformer evaluated by `rollout`, against the bare environment.

    python benchmarks/rollout.py [--policy runs/demo/cdt/policy] [--env HalfCheetahVelocity] [--episodes 40]

Both use all cores, one process a core and one thread each, in turn (bare, policy, bare, policy, ...), so that a
machine whose speed drifts drifts for both. The bare environment is stepped with random actions through Gymnasium's
own `step`, nothing around it. Prints the median rates and their ratio. Without --policy, an untrained network of the
`small` preset is evaluated: its arithmetic is the same.
"""

import argparse
import os
import time
from pathlib import Path

import gymnasium
import joblib
import numpy as np

from safehold.core.policy import PolicyFamily
from safehold.core.seeding import Streams
from safehold.envs import registry
from safehold.learn.offline.cdt import PRESETS, CDTLearner
from safehold.learn.offline.cdt_network import Scales
from safehold.rollout.episodes import BLOCK, rollout
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
    actions = rng.uniform(-1.0, 1.0, size=(1000, *env.action_space.shape))
    for step in range(steps):
        env.step(actions[step % 1000])
        if step % 1000 == 999:
            env.reset()
    env.close()
    return steps


def main() -> None:
    """Measures both in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", type=Path)
    parser.add_argument("--env", default="HalfCheetahVelocity", choices=sorted(GYMNASIUM_IDS))
    parser.add_argument("--episodes", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    horizon = registry.spec(arguments.env).horizon
    if arguments.policy is not None:
        family = load(arguments.policy)
    else:
        from safehold.workflows.collect import CollectConfig

        dataset = collect(arguments.env, seed=0, workers=cores, config=CollectConfig(noise=(0.0,), episodes=1))
        config = PRESETS["small"]
        family = CDTLearner(dataset.spec, Scales.fit(dataset, config), config, seed=0).policy()
    if not isinstance(family, PolicyFamily):
        raise SystemExit(f"{arguments.policy} holds no family with a dial")
    target = (2500.0, *([10.0] * (len(family.target_names) - 1)))
    policy = family.at(target)
    parallel = joblib.Parallel(n_jobs=cores)
    steps = arguments.episodes * horizon // cores
    rates: dict[str, list[float]] = {"bare": [], "policy": []}
    for round_ in range(arguments.rounds + 1):
        begun = time.perf_counter()
        done = sum(
            parallel(joblib.delayed(bare_steps)(GYMNASIUM_IDS[arguments.env], steps, seed) for seed in range(cores))
        )
        bare = done / (time.perf_counter() - begun)
        seeds = Streams(round_).episode_seeds("benchmark", 0, arguments.episodes)
        begun = time.perf_counter()
        episodes = rollout(arguments.env, policy, seeds, rng_seed=0, workers=cores)
        evaluated = sum(len(episode) for episode in episodes) / (time.perf_counter() - begun)
        if round_ > 0:  # the first round starts the processes and is not counted
            rates["bare"].append(bare)
            rates["policy"].append(evaluated)
    ratios = np.array(rates["policy"]) / np.array(rates["bare"])
    print(
        f"{arguments.env}, {cores} cores, {arguments.episodes} episodes in blocks of {BLOCK}, {arguments.rounds} rounds"
    )
    for name, values in rates.items():
        print(f"{name:>8}: {np.median(values):10,.0f} steps/s  (min {min(values):,.0f}, max {max(values):,.0f})")
    print(f"   ratio: {np.median(ratios):10.2f}  (min {ratios.min():.2f}, max {ratios.max():.2f})")


if __name__ == "__main__":
    main()
