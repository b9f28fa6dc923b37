from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from safehold.core.errors import EnvironmentFault, UsageError
from safehold.core.spec import Box, TaskSpec
from safehold.envs import registry
from safehold.envs.lockstep import InTurn
from safehold.envs.roaming import DISTANCES, Roaming, displacement, nothing
from safehold.envs.toy.point_robot import way


def roaming(n: int = 2, arena: float | None = None) -> Roaming:
    return Roaming(registry.make_many("toy/PointRobotGuide", n), displacement, arena)


def test_displacement_by_hand():
    before, after = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 0.0]]), np.array([[3.0, 4.0], [1.0, 1.0], [2.0, -0.5]])
    np.testing.assert_allclose(displacement(before, after), [5.0, 0.0, 0.5])
    assert not nothing(before, after).any()
    assert set(DISTANCES) == {"displacement", "none"}


def test_a_robot_is_paid_for_the_way_it_covers():
    worlds = roaming()
    seen = np.stack([worlds.reset(row, seed=4 + row) for row in (0, 1)])
    rows, total = np.array([0, 1]), np.zeros(2)
    for _ in range(3):
        total += worlds.step(rows, np.array([[1.0, 0.0], [0.0, 0.0]])).rewards
    np.testing.assert_allclose(total, [way(3), 0.0], atol=1e-12)
    again = worlds.reset(0, seed=4)
    np.testing.assert_array_equal(again, seen[0])
    paid = worlds.step(np.array([0]), np.array([[0.0, 0.0]])).rewards
    assert paid == 0.0  # not for the way back to the start


@pytest.mark.parametrize("env_id", ["toy/PointRobot", "toy/PointRobotGuide"])
def test_one_by_one_and_all_at_once_are_the_same(env_id):
    at_once = Roaming(registry.make_many(env_id, 3), displacement, 1.2)
    in_turn = Roaming(InTurn([registry.make(env_id) for _ in range(3)]), displacement, 1.2)
    rng = np.random.default_rng(0)
    for row in range(3):
        np.testing.assert_array_equal(at_once.reset(row, seed=row), in_turn.reset(row, seed=row))
    for _ in range(20):
        actions = rng.uniform(-1, 1, (3, 2))
        first, second = (worlds.step(np.arange(3), actions) for worlds in (at_once, in_turn))
        np.testing.assert_allclose(first.rewards, second.rewards, atol=1e-6)  # info holds single precision
        for row in np.flatnonzero(first.terminated):
            for worlds in (at_once, in_turn):
                worlds.reset(int(row), seed=50 + int(row))


def test_who_leaves_the_arena_ends_there_and_earns_nothing():
    worlds = roaming(1, arena=0.9)
    start = worlds.reset(0, seed=3)
    direction = np.array([[1.0 if start[0] > 0 else -1.0, 0.0]])
    for _ in range(60):
        stepped = worlds.step(np.array([0]), direction)
        outside = abs(worlds.positions(np.array([0]))[0]).max() > 0.9
        assert stepped.terminated[0] == outside
        assert (stepped.rewards[0] > 0) != outside
        if outside:
            worlds.reset(0, seed=5)
            return
    raise AssertionError("it never got there")


@dataclass
class Nowhere:
    """A world whose robot is where it is told, or nowhere."""

    info: dict[str, Any]

    @property
    def spec_of_task(self) -> TaskSpec:
        return TaskSpec(env_id="Nowhere", observation_size=1, action=Box((-1.0,), (1.0,)), horizon=5)

    def reset(self, *, seed: int) -> tuple[np.ndarray, dict[str, Any]]:  # noqa: ARG002
        return np.zeros(1, np.float32), self.info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:  # noqa: ARG002
        return np.zeros(1, np.float32), 0.0, False, False, {"cost": 0.0, **self.info}

    def close(self) -> None:
        pass


def test_worlds_that_do_not_say_where_their_robots_are_are_refused():
    with pytest.raises(UsageError, match=r'no info\["position"\]'):
        Roaming(InTurn([Nowhere({})]), displacement, None).reset(0, seed=0)
    with pytest.raises(UsageError, match=r'no info\["position"\]'):
        Roaming(registry.make_many("toy/DoubleIntegrator", 1), displacement, None).reset(0, seed=0)
    with pytest.raises(EnvironmentFault, match="a robot is at"):
        Roaming(InTurn([Nowhere({"position": [0.0, float("nan")]})]), displacement, None).reset(0, seed=0)
