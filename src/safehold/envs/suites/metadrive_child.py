"""One MetaDrive world for `safehold.envs.suites.metadrive`, in the Python that has MetaDrive.

Run as a script, never imported by safehold: it knows the standard library, numpy and MetaDrive alone, 0.2.6 or 0.4.
It reads questions on its standard input and answers on its standard output, in the frames of `safehold.envs.bridge`:

    {"do": "open", "protocol": 1, "start_seed": 0, "traffic_density": 0.1, "blocks": "SCS"}
    {"do": "reset", "seed": 7}                     -> {"did": "reset"} and an observation
    {"do": "step"} and an action                   -> {"did": "step", "reward", "cost", "terminated"} and an observation

It does these three things with these values and nothing else; whatever fails is said in words: {"broken": why}, or
{"missing": why} if MetaDrive is not there.
"""

from __future__ import annotations

import json
import os
import random
import struct
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any, BinaryIO

PROTOCOL = 1
LENGTHS = struct.Struct("<II")
LONGEST = 2**16

LIDAR = 240  # rays, the last entries of an observation
FREE_SPEED = 10.0  # km/h that cost nothing
SPEED_COST = 0.01  # for each km/h above that, in every step
NEAR = 0.1  # of the lidar's range
NEAR_COST = 0.01


class Missing(Exception):
    """MetaDrive is not installed here, or in a version that is not known."""


def main() -> None:
    """Answers until its input ends."""
    questions, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what MetaDrive and Panda3D print is no answer
    world: World | None = None
    while (asked := read(questions)) is not None:
        head, values = asked
        reply: dict[str, Any]
        observation: Sequence[float] = ()
        try:
            if head["do"] == "open" and world is None:
                world = World(head)
                reply = {"did": "open"}
            elif head["do"] == "reset" and world is not None:
                reply, observation = {"did": "reset"}, world.reset(int(head["seed"]))
            elif head["do"] == "step" and world is not None:
                reply, observation = world.step(values)
            else:
                raise ValueError(f"it was asked for {head['do']!r}, out of turn")
        except Missing as error:
            reply = {"missing": str(error)}
        except Exception as error:  # whatever it is, it is said in words, and the other side makes a typed error of it
            reply = {"broken": f"{type(error).__name__}: {error}"}
        write(answers, reply, observation)


class World:
    """DSRL's driving task: one map, traffic that differs from episode to episode, a cost for speed and nearness."""

    def __init__(self, asked: Mapping[str, Any]) -> None:
        if asked["protocol"] != PROTOCOL:
            raise ValueError(f"it speaks protocol {PROTOCOL}, and was asked for {asked['protocol']!r}")
        start_seed, density, blocks = int(asked["start_seed"]), float(asked["traffic_density"]), str(asked["blocks"])
        if not (blocks.isalpha() and len(blocks) <= 10 and 0 <= density <= 1 and start_seed >= 0):
            raise ValueError(f"no map of blocks {blocks!r}, density {density!r} and seed {start_seed!r}")
        self.modern = installed_version() >= (0, 4)
        self.start_seed = start_seed
        self.episode = 0  # what the traffic of the next episode is drawn from
        self.env = self.built(
            {
                "start_seed": start_seed,
                "num_scenarios" if self.modern else "environment_num": 1,
                "map": 3,  # MetaDrive's default, without which it refuses the blocks
                "map_config": {"type": "block_sequence", "config": blocks},
                "traffic_density": density,
                "traffic_mode": "hybrid",
                "random_traffic": True,
                "accident_prob": 0.0,
                "crash_vehicle_penalty": 0.0,
                "use_render": False,
                # a vehicle that is used again starts with what physics left in it, 1e-7 to 0.4 in observation units
                "force_destroy": True,
            }
        )

    def built(self, config: dict[str, Any]) -> Any:
        """The environment, whose traffic follows the episode's seed; MetaDrive's own is drawn from the system."""
        import numpy as np
        from metadrive.envs import SafeMetaDriveEnv
        from metadrive.manager.traffic_manager import PGTrafficManager

        world = self

        class SeededTraffic(PGTrafficManager):  # type: ignore[misc]
            def seed(self, random_seed: int) -> None:
                self.random_seed = random_seed
                self.np_random = np.random.RandomState(np.random.MT19937(np.random.SeedSequence(world.episode)))

        class Env(SafeMetaDriveEnv):  # type: ignore[misc]
            def setup_engine(self) -> None:
                super().setup_engine()
                self.engine.update_manager("traffic_manager", SeededTraffic())

        return Env(config)

    def reset(self, seed: int) -> Sequence[float]:
        """An episode that depends on the seed alone."""
        import numpy as np

        self.episode = seed
        random.seed(seed)
        np.random.seed(np.random.SeedSequence(seed).generate_state(8))  # noqa: NPY002  (what MetaDrive draws from)
        if self.modern:
            observation: Sequence[float] = self.env.reset(seed=self.start_seed)[0]
        else:
            observation = self.env.reset(force_seed=self.start_seed)
        return observation

    def step(self, action: Sequence[float]) -> tuple[dict[str, Any], Sequence[float]]:
        """Reward, cost and end of a step, as DSRL has them."""
        came = self.env.step([float(value) for value in action])
        observation, reward, info = came[0], came[1], came[-1]
        speed = float(info["velocity"]) * (3.6 if self.modern else 1.0)  # km/h
        cost = float(info["cost"])  # 1 for a crash, or for leaving the road
        # a speed that is no number, which comparisons would hide, stays one
        cost += SPEED_COST * (speed - FREE_SPEED if not speed <= FREE_SPEED else 0.0)
        near = NEAR - min(float(ray) for ray in observation[-LIDAR:])
        cost += NEAR_COST * (near if not near <= 0.0 else 0.0) ** 2
        terminated = bool(info["arrive_dest"] or info["crash"] or info["out_of_road"])
        return {"did": "step", "reward": float(reward), "cost": cost, "terminated": terminated}, observation


def installed_version() -> tuple[int, ...]:
    """The first two numbers of MetaDrive's version."""
    try:
        said = metadata.version("metadrive-simulator")
    except metadata.PackageNotFoundError:
        raise Missing(
            f"MetaDrive is not installed for {sys.executable}; run `make driving`, or install metadrive-simulator there"
        ) from None
    version = tuple(int(part) for part in said.split(".")[:2] if part.isdigit())
    if said.startswith("0.2.6") or version == (0, 4):
        return version
    raise Missing(f"MetaDrive {said} is installed for {sys.executable}; known are 0.2.6.0 and 0.4")


def read(stream: BinaryIO) -> tuple[dict[str, Any], tuple[float, ...]] | None:
    """The next question: a dictionary and a list of numbers; None at the end."""
    lengths = stream.read(LENGTHS.size)
    if len(lengths) < LENGTHS.size:
        return None
    size, count = LENGTHS.unpack(lengths)
    if size > LONGEST or count > LONGEST:
        return None  # no question of ours
    head = json.loads(stream.read(size))
    values = struct.unpack(f"<{count}f", stream.read(4 * count))
    return head, values


def write(stream: BinaryIO, head: Mapping[str, Any], values: Sequence[float]) -> None:
    """One answer; a number that is not finite travels as it is, and is refused on the other side."""
    said = json.dumps(head).encode()
    floats = [float(value) for value in values]
    stream.write(LENGTHS.pack(len(said), len(floats)) + said + struct.pack(f"<{len(floats)}f", *floats))
    stream.flush()


if __name__ == "__main__":
    main()
