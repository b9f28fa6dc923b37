"""Bullet-Safety-Gym 1.4.0: Ball, Car, Drone and Ant that run in a lane or around a circle, in PyBullet.

Two habits of the suite are mended here, and only here. It ignores reset(seed=...) and draws from NumPy's global
generator: that generator is set from the reset seed for the duration of a reset, and then put back. (Steps of these
tasks draw nothing; a test watches that they leave the global generator alone.) And its reset leaves the joint motors
as the last episode drove them, so that a used Car or Drone starts differently from a fresh one: the motors are
switched off before each reset, as they are when a world is built.

Left out: the tasks with obstacles. Reach moves them by the wall clock, Gather turns them by Python's global generator
when a world is built; no seed settles their episodes.
"""

import contextlib
import importlib
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from safehold.core.errors import UsageError
from safehold.core.spec import Box, TaskSpec
from safehold.envs.adapter import Task, World


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """A robot of the suite; `speed_limit` is in metres a second, in the Run tasks."""

    class_name: str
    observation_size: int
    action_size: int
    speed_limit: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """A task of the suite: its class, its arena, and the observations that it adds to the agent's own."""

    class_name: str
    arena: str
    added_observations: int


AGENTS = {
    "Ball": Agent(class_name="Ball", observation_size=7, action_size=2, speed_limit=2.5),
    "Car": Agent(class_name="RaceCar", observation_size=7, action_size=2, speed_limit=1.5),
    "Drone": Agent(class_name="Drone", observation_size=17, action_size=4, speed_limit=1.5),
    "Ant": Agent(class_name="Ant", observation_size=33, action_size=8, speed_limit=1.5),
}

COURSES = {
    "Run": Course(class_name="RunTask", arena="Plane200", added_observations=0),
    "Circle": Course(class_name="CircleTask", arena="Octagon", added_observations=1),
}

HORIZONS = {
    "BallRun": 100,
    "CarRun": 200,
    "DroneRun": 200,
    "AntRun": 200,
    "BallCircle": 200,
    "CarCircle": 300,
    "DroneCircle": 300,
    "AntCircle": 500,
}
"""Steps of an episode, as the suite registers its tasks."""


class BulletWorld:
    """One world of the suite, made reproducible.

    Raises:
        UsageError: if the suite is not installed.
    """

    def __init__(self, agent: Agent, course: Course) -> None:
        with _process_streams():
            try:
                builder = importlib.import_module("bullet_safety_gym.envs.builder")
            except ImportError as error:
                raise UsageError(
                    "bullet/ tasks need Bullet-Safety-Gym, whose pins keep it out of an ordinary install; "
                    "run `make bullet`, or pip install 'pybullet==3.2.7' and then "
                    "pip install --no-deps 'bullet-safety-gym==1.4.0'"
                ) from error
            with _global_generator_lent(0), warnings.catch_warnings():
                # its observation space is built from float32 bounds, which says nothing about the simulation
                warnings.filterwarnings("ignore", "overflow encountered in cast", RuntimeWarning)
                self._env = builder.EnvironmentBuilder(
                    agent=agent.class_name, task=course.class_name, obstacles={}, world={"name": course.arena}
                )

    def reset(self, *, seed: int) -> tuple[Any, dict[str, Any]]:
        """An episode that depends on the seed alone."""
        self._switch_motors_off()
        with _global_generator_lent(seed):
            observation, info = self._env.reset()
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """One step of the suite."""
        five: tuple[Any, Any, Any, Any, dict[str, Any]] = self._env.step(action)
        return five

    def close(self) -> None:
        """Disconnects from the physics engine."""
        self._env.close()

    def _switch_motors_off(self) -> None:
        engine, body = self._env.bc, self._env.agent.body_id
        for joint in range(engine.getNumJoints(body)):
            engine.setJointMotorControl2(body, joint, engine.VELOCITY_CONTROL, targetVelocity=0, force=0)


@contextlib.contextmanager
def _process_streams() -> Iterator[None]:
    """The process's own output streams: the suite silences PyBullet by their C names, which a notebook's lack."""
    with contextlib.redirect_stdout(sys.__stdout__), contextlib.redirect_stderr(sys.__stderr__):
        yield


@contextlib.contextmanager
def _global_generator_lent(seed: int) -> Iterator[None]:
    """NumPy's global generator as a fresh one of this seed, and afterwards as it was."""
    fresh = np.random.RandomState(np.random.MT19937(np.random.SeedSequence(seed)))
    before = np.random.get_state(legacy=False)  # noqa: NPY002
    np.random.set_state(fresh.get_state(legacy=False))  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002


def _task(env_id: str, agent: Agent, course: Course, horizon: int) -> Task:
    def world() -> World:
        return BulletWorld(agent, course)

    unit = (
        f"steps faster than {agent.speed_limit} m/s or further than 2 m from the lane's middle"
        if course.class_name == "RunTask"
        else "steps with |x| above 6 m"
    )
    return Task(
        spec=TaskSpec(
            env_id=env_id,
            observation_size=agent.observation_size + course.added_observations,
            action=Box(low=(-1.0,) * agent.action_size, high=(1.0,) * agent.action_size),
            horizon=horizon,
            cost_units=(unit,),
        ),
        world=world,
    )


TASKS = {
    f"bullet/{agent_name}{course_name}": _task(
        f"bullet/{agent_name}{course_name}", agent, course, HORIZONS[f"{agent_name}{course_name}"]
    )
    for agent_name, agent in AGENTS.items()
    for course_name, course in COURSES.items()
}
