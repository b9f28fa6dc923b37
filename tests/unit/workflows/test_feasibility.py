"""The picture of lambda over the arena, of fields whose picture is known."""

import numpy as np
import pytest

from safehold.envs.toy import point_robot
from safehold.learn.multiplier_network import MultiplierField
from safehold.report.figures.multiplier_map import MultiplierMap, draw
from safehold.report.figures.palette import svg
from safehold.workflows.feasibility import multiplier_map

RIGHT = (point_robot.TOP_SPEED, 0.0)


def linear_field(entry: int, slope: float) -> MultiplierField:
    """softplus(slope * one entry of the observation)."""
    weight = np.zeros((9, 1), np.float32)
    weight[entry] = slope
    return MultiplierField((weight,), (np.zeros(1, np.float32),), largest=50.0)


def test_the_grid_is_that_of_the_arena_seen_by_a_moving_robot():
    view = multiplier_map(linear_field(0, 2.0), velocity=RIGHT, points=7)
    np.testing.assert_allclose(view.x, [-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5])
    np.testing.assert_allclose(view.multipliers, np.tile(np.logaddexp(0, 2 * view.x), (7, 1)), rtol=1e-6)
    by_speed = multiplier_map(linear_field(2, 3.0), velocity=RIGHT, points=5)
    np.testing.assert_allclose(by_speed.multipliers, np.logaddexp(0, 3.0), rtol=1e-6)
    by_goal = multiplier_map(linear_field(8, 1.0), velocity=RIGHT, goal=(0.0, 0.5), points=3)
    np.testing.assert_allclose(by_goal.multipliers[:, 0], np.logaddexp(0, [2.0, 0.5, -1.0]), rtol=1e-6)


def test_a_field_that_rises_towards_the_discs_separates_and_its_opposite_the_other_way():
    for slope, low, high in ((-5.0, 0.9, 1.0), (5.0, 0.0, 0.1)):
        view = multiplier_map(linear_field(6, slope), velocity=RIGHT)  # the distance to the nearest edge
        assert low <= view.separation <= high
    assert multiplier_map(linear_field(0, 0.0), velocity=RIGHT).separation == 0.5


def test_what_is_lost_lies_before_the_disc_for_a_robot_that_moves_towards_it():
    view = multiplier_map(linear_field(0, 1.0), velocity=RIGHT)
    middle = int(np.argmin(np.abs(view.y)))
    along = view.x[view.lost[middle]]
    assert along.min() == pytest.approx(-0.5 - point_robot.braking_way(point_robot.TOP_SPEED), abs=0.1)
    at_rest = multiplier_map(linear_field(0, 1.0), velocity=(0.0, 0.0))
    assert at_rest.lost.sum() < view.lost.sum()


def test_the_picture_renders_and_says_its_units():
    view = multiplier_map(linear_field(6, -5.0), velocity=RIGHT, points=21)
    text = svg(draw(view), "arena")
    assert "multiplier (reward per cost unit)" in text
    assert "nothing helps inside" in text
    free = MultiplierMap(
        x=view.x, y=view.y, multipliers=view.multipliers, lost=np.zeros_like(view.lost), discs=(), velocity=(0.0, 0.0)
    )
    assert np.isnan(free.separation)
    assert "nothing helps inside" not in svg(draw(free), "free")
