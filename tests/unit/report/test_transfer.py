import math

import numpy as np
import pytest

from safehold.core.errors import UsageError
from safehold.report.transfer import (
    TransferCurve,
    gained_time,
    optimum,
    return_jump_start,
    safety_jump_start,
    time_to_optimum,
    time_to_safety,
)

STEPS = np.array([10.0, 20.0, 30.0, 40.0])
GUIDED = TransferCurve(STEPS, np.array([1.0, 4.0, 9.0, 9.5]), np.array([1.0, 2.0, 0.0, 1.0]))
ALONE = TransferCurve(STEPS, np.array([-2.0, 12.0, 3.0, 9.0]), np.array([30.0, 9.0, 2.5, 2.0]))


def test_jump_starts_are_those_of_the_first_points():
    assert safety_jump_start(GUIDED, ALONE) == 29.0
    assert return_jump_start(GUIDED, ALONE) == 3.0
    assert safety_jump_start(ALONE, GUIDED) == -29.0


@pytest.mark.parametrize(
    ("limit", "guided", "alone"), [(2.0, 10, 40), (2.5, 10, 30), (1.5, 30, math.inf), (50.0, 10, 10)]
)
def test_safe_from_the_step_on_after_which_the_limit_is_kept(limit, guided, alone):
    assert time_to_safety(GUIDED, limit) == guided
    assert time_to_safety(ALONE, limit) == alone


def test_an_optimum_that_costs_too_much_is_none():
    assert optimum([GUIDED, ALONE], 2.0) == 9.5
    assert optimum([GUIDED, ALONE], 9.0) == 12.0
    assert optimum([ALONE], 1.0) == -math.inf
    assert time_to_optimum(GUIDED, 2.0, 0.9 * 9.5) == 30.0
    assert time_to_optimum(ALONE, 2.0, 0.9 * 9.5) == 40.0  # the dear 12 at step 20 does not count
    assert time_to_optimum(ALONE, 1.0, 0.0) == math.inf


def test_gained_time_is_the_references_less_ones_own():
    assert gained_time(30.0, 40.0) == 10.0
    assert gained_time(30.0, math.inf) == math.inf
    assert gained_time(math.inf, 30.0) == -math.inf
    assert gained_time(math.inf, math.inf) == 0.0


@pytest.mark.parametrize(
    "columns",
    [
        (np.zeros(0), np.zeros(0), np.zeros(0)),
        (STEPS[::-1], STEPS, STEPS),
        (STEPS, STEPS, np.array([0.0, np.nan, 0.0, 0.0])),
    ],
)
def test_curves_with_holes_are_refused(columns):
    with pytest.raises(UsageError):
        TransferCurve(*columns)
