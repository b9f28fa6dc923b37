"""The point robot: the contract, its closed forms, and that one robot and many live through the same episode."""

import numpy as np
import pytest

from safehold.envs import registry
from safehold.envs.lockstep import InTurn
from safehold.envs.toy.point_robot import (
    GOAL_ENTRIES,
    GOAL_RADIUS,
    HAZARDS,
    HORIZON,
    SIZE,
    TOP_SPEED,
    PointRobots,
    braking_way,
    costs_at,
    edge_distances,
    lost,
    move,
    observations_at,
    way,
)
from safehold.testing.env_contract import EnvContract


class TestPointRobot(EnvContract):
    env_id = "toy/PointRobot"


class TestPointRobotGuide(EnvContract):
    env_id = "toy/PointRobotGuide"


def commands(steps: int, n: int) -> np.ndarray:
    return np.random.default_rng(5).uniform(-1, 1, (steps, n, 2)).astype(np.float32)


def test_many_robots_live_through_the_episodes_of_single_ones_bit_for_bit():
    at_once = registry.make_many("toy/PointRobot", 3)
    in_turn = InTurn([registry.make("toy/PointRobot") for _ in range(3)])
    for row in range(3):
        np.testing.assert_array_equal(at_once.reset(row, seed=row), in_turn.reset(row, seed=row))
    rows = np.arange(3)
    for actions in commands(HORIZON, 3):
        first, second = at_once.step(rows, actions), in_turn.step(rows, actions)
        for name in ("observations", "rewards", "costs", "terminated", "truncated"):
            np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)
    assert first.truncated.all()


def test_rows_that_do_not_step_stand_still():
    robots = PointRobots(2, goals=True)
    starts = np.stack([robots.reset(row, seed=7) for row in range(2)])
    np.testing.assert_array_equal(starts[0], starts[1])
    one = np.ones((1, 2))
    robots.step(np.array([1]), one)
    observed, *_ = robots.step(np.array([0]), one)
    again, *_ = robots.step(np.array([1]), one)
    assert again[0, 2] > observed[0, 2] > 0  # the second step is quicker than the first


def test_the_way_from_rest_and_the_braking_way_are_those_of_the_formulas():
    position, velocity = np.array([[-1.4, -1.4]]), np.zeros((1, 2))
    for steps in range(1, 13):
        position, velocity = move(position, velocity, np.array([[1.0, 0.0]]))
        assert position[0, 0] + 1.4 == pytest.approx(way(steps), abs=1e-12)
    speed, begun, furthest = velocity[0, 0], position[0, 0], position[0, 0]
    for _ in range(12):
        position, velocity = move(position, velocity, np.array([[-1.0, 0.0]]))
        furthest = max(furthest, position[0, 0])
    assert furthest - begun == pytest.approx(braking_way(speed), abs=1e-12)
    assert braking_way(0.0) == 0.0


def test_rewards_add_up_to_the_way_gained_in_steps_at_top_speed():
    robots = PointRobots(1, goals=True)
    first = robots.reset(0, seed=3)[-GOAL_ENTRIES:]
    total, toward = 0.0, first / np.abs(first).max()
    for _ in range(HORIZON):
        observed, reward, _, ended = robots.step(np.zeros(1, np.int64), toward[None])
        total += float(reward[0])
        assert not ended.any()
        left = observed[0, -GOAL_ENTRIES:]
        if np.linalg.norm(left - first) > 0.05 + np.linalg.norm(first):  # a goal elsewhere: this one was reached
            break
        last = left
    else:
        pytest.fail("a robot that heads for its goal arrives")
    assert (np.linalg.norm(first) - GOAL_RADIUS) / TOP_SPEED <= total < np.linalg.norm(first) / TOP_SPEED
    assert np.linalg.norm(last) > GOAL_RADIUS


@pytest.mark.parametrize(
    ("place", "cost", "depth"),
    [
        ((0.0, 0.0), 1.0, 1.0),
        ((0.25, 0.0), 1.0, 0.5),
        ((0.0, -0.5), 0.0, 0.0),
        ((-0.9, 0.95), 1.0, 0.5),
        ((1.4, 1.4), 0, 0),
    ],
)
def test_costs_are_being_inside_and_how_deep(place, cost, depth):
    np.testing.assert_allclose(costs_at(np.array([place])), [[cost, depth]], atol=1e-12)


def test_crossing_a_disc_at_top_speed_costs_its_chord_in_steps():
    centre_x, centre_y, radius = HAZARDS[0]
    position, velocity = np.array([[-1.3, centre_y + 0.3]]), np.array([[TOP_SPEED, 0.0]])
    cost = 0.0
    for _ in range(26):
        position, velocity = move(position, velocity, np.array([[1.0, 0.0]]))
        cost += costs_at(position)[0, 0]
    chord = 2 * np.sqrt(radius**2 - 0.3**2)
    assert position[0, 0] > centre_x + radius
    assert abs(cost - chord / TOP_SPEED) <= 1


def test_walls_hold_and_take_the_speed_across_them():
    position, velocity = np.array([[SIZE - 0.01, 0.7]]), np.array([[TOP_SPEED, TOP_SPEED]])
    position, velocity = move(position, velocity, np.array([[1.0, 1.0]]))
    np.testing.assert_allclose(position, [[SIZE, 0.8]])
    np.testing.assert_allclose(velocity, [[0.0, TOP_SPEED]])


def test_the_guide_lives_in_the_same_world_and_does_not_see_the_goal():
    robots, guides = PointRobots(1, goals=True), PointRobots(1, goals=False)
    seen, guided = robots.reset(0, seed=11), guides.reset(0, seed=11)
    np.testing.assert_array_equal(seen[:-GOAL_ENTRIES], guided)
    rewards = []
    for action in commands(HORIZON, 1):
        (observed, _, costs, _), (alike, reward, same, _) = (
            world.step(np.zeros(1, np.int64), action) for world in (robots, guides)
        )
        np.testing.assert_array_equal(observed[:, :-GOAL_ENTRIES], alike)
        np.testing.assert_array_equal(costs, same)
        rewards.append(float(reward[0]))
    assert set(rewards) == {0.0}


def test_starts_are_free_and_the_nearest_disc_is_seen():
    robots = PointRobots(1, goals=True)
    starts = np.stack([robots.reset(0, seed=seed) for seed in range(50)])
    assert edge_distances(starts[:, :2]).min() > 0.29
    seen = observations_at(np.array([[0.9, -0.4]]), np.zeros((1, 2)))[0]
    np.testing.assert_allclose(seen[4:], [0.0, -0.4, 0.1], atol=1e-12)


def test_a_robot_that_heads_for_a_disc_is_lost_within_its_braking_way():
    needed = braking_way(TOP_SPEED)
    edge = HAZARDS[0, 2]
    for gap, expected in ((needed + 0.01, False), (needed - 0.06, True), (-0.1, True)):
        position, velocity = np.array([[-edge - gap, 0.0]]), np.array([[TOP_SPEED, 0.0]])
        assert lost(position, velocity).tolist() == [expected]
        assert not lost(position, -velocity).any() or gap < 0  # away from it nothing is lost outside
    at_rest = np.array([[-edge - 0.001, 0.0], [1.4, 1.4]])
    assert not lost(at_rest, np.zeros((2, 2))).any()
