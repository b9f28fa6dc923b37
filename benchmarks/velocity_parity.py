"""Velocity tasks against Safety-Gymnasium's SafetyXVelocity-v1, step for step and bit for bit.

Run where `make navigation` has installed Safety-Gymnasium beside gymnasium and mujoco:

    python benchmarks/velocity_parity.py [--seeds 20]

Both worlds are reset with the same seed and given the same float32 actions until the episode ends. Compared are the
observations in float64, as the robot computes them, the rewards and the costs; and that what leaves our adapter is
those observations in float32, with the same rewards, costs and end. Actions are random; every second episode repeats
its first action, and every second pair of episodes starts thrown at twice the limited speed (along x, and every other
time along y where the planar speed counts), so that both sides of every threshold are met. Exits with 1 on any
difference.
"""

import argparse
import importlib
import importlib.metadata
import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from safehold.envs.adapter import Adapter
from safehold.envs.registry import spec
from safehold.envs.suites.navigation import skip_package_initialisation
from safehold.envs.suites.velocity import HORIZON, ROBOTS, Robot

THEIR_MODULES = {
    "AntVelocity": "ant",
    "HalfCheetahVelocity": "half_cheetah",
    "HopperVelocity": "hopper",
    "HumanoidVelocity": "humanoid",
    "SwimmerVelocity": "swimmer",
    "Walker2dVelocity": "walker2d",
}


@dataclass
class Tally:
    """What the episodes of one task added up to, and every difference, in words."""

    episodes: int = 0
    steps: int = 0
    costly_steps: int = 0
    terminated: int = 0
    differences: list[str] = field(default_factory=list)


class Overheard:
    """Our robot, with its last float64 observation kept, as it passes on its way to the adapter."""

    def __init__(self, robot: Robot) -> None:
        self.world: Any = robot.world()
        self.observation: np.ndarray = np.empty(0)

    def reset(self, *, seed: int) -> tuple[Any, dict[str, Any]]:
        """The robot's own reset."""
        self.observation, info = self.world.reset(seed=seed)
        return self.observation, info

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """The robot's own step."""
        self.observation, *rest = self.world.step(action)
        return (self.observation, *rest)

    def close(self) -> None:
        """Closes the robot."""
        self.world.close()


def theirs(name: str) -> Any:
    """Safety-Gymnasium's world of this task, bare."""
    module = importlib.import_module(f"safety_gymnasium.tasks.safe_velocity.safety_{THEIR_MODULES[name]}_velocity_v1")
    world_class = next(getattr(module, key) for key in vars(module) if key.startswith("Safety") and "Velocity" in key)
    return world_class()


def compare(name: str, seeds: range) -> Tally:
    """Whole episodes of both worlds side by side."""
    robot, tally = ROBOTS[name], Tally()
    their_world, overheard = theirs(name), Overheard(robot)
    ours = Adapter(spec(name), overheard, robot.cost)
    for seed in seeds:
        rng = np.random.default_rng(seed)
        constant = rng.uniform(-robot.torque, robot.torque, robot.action_size).astype(np.float32)
        their_observation, _ = their_world.reset(seed=seed)
        observation, _ = ours.reset(seed=seed)
        if seed % 4 > 1:
            direction = seed % 2 if robot.planar else 0
            their_world.data.qvel[direction] = overheard.world.data.qvel[direction] = 2 * robot.threshold
        for step in range(HORIZON):
            place = f"seed {seed} step {step}"
            if not np.array_equal(their_observation, overheard.observation):
                tally.differences.append(f"{place}: observation")
            if not np.array_equal(np.float32(their_observation), observation):
                tally.differences.append(f"{place}: observation in float32")
            random = rng.uniform(-robot.torque, robot.torque, robot.action_size).astype(np.float32)
            action = constant if seed % 2 else random
            their_observation, their_reward, their_cost, their_end, _, _ = their_world.step(action)
            observation, reward, terminated, truncated, info = ours.step(action)
            if (their_reward, their_cost, bool(their_end)) != (reward, info["cost"], terminated):
                tally.differences.append(f"{place}: {their_reward, their_cost, their_end}, ours {reward, info['cost']}")
            tally.steps += 1
            tally.costly_steps += int(info["cost"])
            if terminated or truncated:
                break
        tally.episodes += 1
        tally.terminated += terminated
    return tally


def main() -> int:
    """Prints one row a task; 1 if anything differed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20, help="episodes a task")
    seeds = range(parser.parse_args().seeds)
    skip_package_initialisation()
    versions = {name: importlib.metadata.version(name) for name in ("safety-gymnasium", "gymnasium", "mujoco", "numpy")}
    print(", ".join(f"{name} {version}" for name, version in versions.items()))
    print(
        "| task | episodes | steps | steps with cost | episodes terminated | differences |\n|---|---|---|---|---|---|"
    )
    failed = False
    for name in ROBOTS:
        tally = compare(name, seeds)
        failed |= bool(tally.differences)
        print(
            f"| {name} | {tally.episodes} | {tally.steps:,} | {tally.costly_steps} | {tally.terminated} "
            f"| {len(tally.differences)} |"
        )
        for difference in tally.differences[:5]:
            print(f"  {name}: {difference}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
