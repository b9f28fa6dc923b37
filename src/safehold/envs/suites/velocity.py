"""Velocity tasks: MuJoCo robots that are paid for running and charged for every step above a speed.

Step for step the same numbers as Safety-Gymnasium's SafetyXVelocity-v1 (`benchmarks/velocity_parity.py` compares
them bit for bit): the robots are Gymnasium's version 4, the cost of a step is 1 above the threshold, else 0.
Thresholds: half the speed that PPO reached without a limit. [Ji et al. 2023, Safety-Gymnasium, Appendix B.1.2]
"""

import importlib
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from safehold.core.errors import UsageError
from safehold.core.spec import Box, TaskSpec
from safehold.envs.adapter import Task, World

_log = logging.getLogger(__name__)

HORIZON = 1000
"""Steps of an episode, as in Gymnasium's and Safety-Gymnasium's registration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Robot:
    """One of Gymnasium's MuJoCo robots, and the speed it may not pass.

    `threshold` is in metres a second: along x, or of the planar speed sqrt(vx^2 + vy^2) if `planar`.
    """

    module: str
    class_name: str
    observation_size: int
    action_size: int
    torque: float
    threshold: float
    planar: bool

    def speed(self, info: Mapping[str, Any]) -> float:
        """The speed that is charged for, in metres a second, from the step's info."""
        if self.planar:
            return math.sqrt(info["x_velocity"] ** 2 + info["y_velocity"] ** 2)
        return float(info["x_velocity"])

    def cost(self, info: Mapping[str, Any]) -> float:
        """1 for a step above the threshold, else 0; a speed that is not a number counts as above."""
        return float(not self.speed(info) <= self.threshold)

    def world(self) -> World:
        """The bare robot: no wrapper, no time limit.

        MuJoCo's habit of silently starting over when a simulation diverges is switched off, so that a
        divergence arrives as non-finite numbers and is refused.
        """
        try:
            mujoco = importlib.import_module("mujoco")
        except ImportError as error:
            raise UsageError("velocity tasks need MuJoCo; install it with: pip install 'safehold[mujoco]'") from error
        robot_class = getattr(importlib.import_module(f"gymnasium.envs.mujoco.{self.module}"), self.class_name)
        handler = mujoco.get_mju_user_warning()
        mujoco.set_mju_user_warning(_log.debug)  # or remarks on the robot's file land in the working directory
        try:
            robot = robot_class()
        finally:
            mujoco.set_mju_user_warning(handler)
        robot.model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET
        world: World = robot
        return world


# HalfCheetah and Swimmer compute the same in versions 4 and 5; for the others version 5 differs (Walker2d's model,
# Humanoid's observations, the last reward of Ant and Hopper).
ROBOTS = {
    "AntVelocity": Robot(
        module="ant_v4",
        class_name="AntEnv",
        observation_size=27,
        action_size=8,
        torque=1.0,
        threshold=2.6222,
        planar=True,
    ),
    "HalfCheetahVelocity": Robot(
        module="half_cheetah_v5",
        class_name="HalfCheetahEnv",
        observation_size=17,
        action_size=6,
        torque=1.0,
        threshold=3.2096,
        planar=False,
    ),
    "HopperVelocity": Robot(
        module="hopper_v4",
        class_name="HopperEnv",
        observation_size=11,
        action_size=3,
        torque=1.0,
        threshold=0.7402,
        planar=False,
    ),
    "HumanoidVelocity": Robot(
        module="humanoid_v4",
        class_name="HumanoidEnv",
        observation_size=376,
        action_size=17,
        torque=0.4,
        threshold=1.4149,
        planar=True,
    ),
    "SwimmerVelocity": Robot(
        module="swimmer_v5",
        class_name="SwimmerEnv",
        observation_size=8,
        action_size=2,
        torque=1.0,
        threshold=0.2282,
        planar=False,
    ),
    "Walker2dVelocity": Robot(
        module="walker2d_v4",
        class_name="Walker2dEnv",
        observation_size=17,
        action_size=6,
        torque=1.0,
        threshold=2.3415,
        planar=False,
    ),
}


def _task(env_id: str, robot: Robot) -> Task:
    direction = "in the plane" if robot.planar else "along x"
    return Task(
        spec=TaskSpec(
            env_id=env_id,
            observation_size=robot.observation_size,
            action=Box(low=(-robot.torque,) * robot.action_size, high=(robot.torque,) * robot.action_size),
            horizon=HORIZON,
            cost_units=(f"steps faster than {robot.threshold} m/s {direction}",),
        ),
        world=robot.world,
        cost=robot.cost,
    )


TASKS = {env_id: _task(env_id, robot) for env_id, robot in ROBOTS.items()}
