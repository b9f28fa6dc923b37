"""SaGui's three environments, static, semi-dynamic and dynamic, each with its guide's reward-free variant.

[Yang et al. 2023, Reinforcement Learning by Guided Safe Exploration, Sec. 6; the objects are those of the authors'
code] They are built from Safety-Gymnasium's robots and objects, where the authors' stood on Safety-Gym: sizes, places,
lidars and costs are theirs, the robots' bodies are Safety-Gymnasium's.

In a guide's variant the robot is the same among the same objects, with three differences. The goal is there but not
seen: the observation is the student's without `goal_lidar`. Every reward is 0. It starts anywhere it does not cost at
once, and leaving the square in which objects are placed ends the episode.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from safehold.envs.adapter import Task
from safehold.envs.suites.navigation import Course, NavigationWorld, navigation_task, suite_class, suite_task

GOAL_SIZE, GOAL_KEEPOUT = 0.3, 0.305
"""Radius of a goal, and how far from it nothing else is placed, in metres."""

Place = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Objects:
    """Hazards or vases: how many, their size and how far from one nothing else is placed, in metres.

    `places` fixes where the first of them stand.
    """

    number: int
    size: float
    keepout: float
    places: tuple[Place, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Arena:
    """One of the three environments. Objects are placed in a square of half width `extent`, in metres.

    Vases are in the world and seen if there are any; touching and moving them costs if `vases_cost`.
    """

    robot: str
    extent: float
    hazards: Objects
    vases: Objects | None = None
    vases_cost: bool = False
    goal: Place | None = None

    @property
    def course(self) -> Course:
        """What the student sees, and what costs."""
        seen = ("goal", "hazards") if self.vases is None else ("goal", "hazards", "vases")
        costs = ("hazards", "vases_contact", "vases_velocity") if self.vases_cost else ("hazards",)
        return Course(lidars=seen, costs=costs)


ARENAS = {
    "SaGuiStatic": Arena(
        robot="Point",
        extent=1.5,
        hazards=Objects(number=1, size=0.7, keepout=0.705, places=((0.0, 0.0),)),
        goal=(1.1, 1.1),
    ),
    "SaGuiSemiDynamic": Arena(
        robot="Car",
        extent=2.0,
        hazards=Objects(number=4, size=0.2, keepout=0.18, places=((1.0, 1.0), (1.0, -1.0), (-0.2, 0.2), (-1.4, -1.4))),
        vases=Objects(number=4, size=0.2, keepout=0.18, places=((-1.0, -1.0), (-1.0, 1.0), (0.2, -0.2), (1.4, 1.4))),
        vases_cost=True,
    ),
    "SaGuiDynamic": Arena(
        robot="Point",
        extent=1.5,
        hazards=Objects(number=8, size=0.2, keepout=0.18),
        vases=Objects(number=1, size=0.1, keepout=0.15),
    ),
}


def arena_task(arena: Arena, *, guide: bool) -> Any:
    """The suite's goal task with an arena's objects in it."""
    task = suite_task(arena.robot, "Goal0")
    task.placements_conf.extents = [-arena.extent, -arena.extent, arena.extent, arena.extent]
    task.goal.size, task.goal.keepout = GOAL_SIZE, GOAL_KEEPOUT
    if arena.goal is not None:
        task.goal.locations = [arena.goal]
        task.mechanism_conf.continue_goal = False  # the place is taken by the robot that has reached it
    task._add_geoms(_placed("assets.geoms", "Hazards", arena.hazards))
    if arena.vases is not None:
        task._add_free_geoms(_placed("assets.free_geoms", "Vases", arena.vases, is_constrained=arena.vases_cost))
    if guide:
        task.goal.is_lidar_observed = False
        task.agent.keepout = 0.0
    return task


class GuideWorld:
    """An arena as the guide meets it: without rewards, and with an end outside the square.

    Args:
        world: its own; what it says of rewards and of the task's end is dropped.
        extent: half the width of the square, in metres.
    """

    def __init__(self, world: NavigationWorld, extent: float) -> None:
        self.inner = world
        self._extent = extent

    def reset(self, *, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
        """A layout drawn from the seed."""
        return self.inner.reset(seed=seed)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One step, for nothing."""
        observation, _, _, _, info = self.inner.step(action)
        left = bool(np.abs(info["position"]).max() > self._extent)
        return observation, 0.0, left, False, info

    def close(self) -> None:
        """Closes the world."""
        self.inner.close()


def _placed(module: str, name: str, objects: Objects, **more: bool) -> Any:
    places = [list(place) for place in objects.places]
    return suite_class(module, name)(
        num=objects.number, size=objects.size, keepout=objects.keepout, locations=places, **more
    )


def _student(name: str, arena: Arena) -> Task:
    return navigation_task(
        f"navigation/{name}",
        arena.robot,
        arena.course,
        lambda: NavigationWorld(arena_task(arena, guide=False), arena.course.costs),
    )


def _guide(name: str, arena: Arena) -> Task:
    course = replace(arena.course, lidars=tuple(seen for seen in arena.course.lidars if seen != "goal"))
    return navigation_task(
        f"navigation/{name}Guide",
        arena.robot,
        course,
        lambda: GuideWorld(NavigationWorld(arena_task(arena, guide=True), course.costs), arena.extent),
    )


TASKS = {
    task.spec.env_id: task for name, arena in ARENAS.items() for task in (_student(name, arena), _guide(name, arena))
}
