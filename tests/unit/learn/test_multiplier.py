import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from safehold.core.constraint import Limit
from safehold.core.errors import ModelError
from safehold.learn.multiplier import MultiplierConfig, ScalarMultiplier

LIMIT = Limit("cost", 20.0)


def multiplier(**gains: float) -> ScalarMultiplier:
    return ScalarMultiplier(LIMIT, MultiplierConfig(**gains))


def test_rises_above_the_limit_and_falls_below_it():
    lagrange = multiplier(integral_gain=0.1, initial=1.0)
    lagrange.update(30.0)
    assert lagrange.value == pytest.approx(2.0)
    lagrange.update(15.0)
    assert lagrange.value == pytest.approx(1.5)


def test_stays_at_the_limit():
    lagrange = multiplier(integral_gain=0.1, initial=1.0)
    lagrange.update(20.0)
    assert lagrange.value == 1.0


def test_never_below_zero_and_rises_at_once_after_a_long_safe_time():
    lagrange = multiplier(integral_gain=0.1)
    for _ in range(100):
        lagrange.update(0.0)
        assert lagrange.value == 0.0
    lagrange.update(21.0)
    assert lagrange.value == pytest.approx(0.1)


@given(st.lists(st.floats(0.0, 69.0), min_size=1, max_size=20), st.floats(0.0, 1.0), st.floats(0.0, 5.0))
def test_integral_gain_alone_is_projected_gradient_ascent(costs, rate, initial):
    lagrange = multiplier(integral_gain=rate, initial=initial)
    value = initial
    for cost in costs:
        lagrange.update(cost)
        value = max(0.0, value + rate * (cost - 20.0))
    assert lagrange.value == pytest.approx(value, abs=1e-9)


def test_proportional_gain_answers_at_once_and_leaves_no_memory():
    lagrange = multiplier(integral_gain=0.0, proportional_gain=0.5)
    lagrange.update(24.0)
    assert lagrange.value == pytest.approx(2.0)
    lagrange.update(20.0)
    assert lagrange.value == 0.0


def test_derivative_gain_answers_a_rise_but_no_fall():
    lagrange = multiplier(integral_gain=0.0, derivative_gain=0.5)
    lagrange.update(2.0)
    assert lagrange.value == 0.0
    lagrange.update(8.0)
    assert lagrange.value == pytest.approx(3.0)
    lagrange.update(1.0)
    assert lagrange.value == 0.0


def test_a_huge_violation_counts_as_the_largest_step():
    lagrange = multiplier(integral_gain=0.1, largest_step=50.0)
    lagrange.update(1000.0)
    assert lagrange.value == pytest.approx(5.0)


@pytest.mark.parametrize("cost", [math.nan, math.inf])
def test_a_cost_that_is_no_number_stops_the_run(cost):
    lagrange = multiplier(initial=1.0)
    with pytest.raises(ModelError, match="mean cost return of 'cost' is"):
        lagrange.update(cost)
    assert lagrange.value == 1.0


def test_restored_goes_on_alike():
    gains = {"integral_gain": 0.1, "proportional_gain": 0.2, "derivative_gain": 0.3}
    first, second = multiplier(**gains), multiplier(**gains)
    first.update(35.0)
    second.restore(first.state())
    assert second.value == first.value
    first.update(40.0)
    second.update(40.0)
    assert second.value == first.value


def test_gains_are_not_negative():
    with pytest.raises(ValidationError, match="integral_gain"):
        MultiplierConfig(integral_gain=-0.1)
