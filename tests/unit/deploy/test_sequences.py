"""Time-uniform intervals: closed forms, exact coverage over all times, and agreement with the seed test."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import beta
from scipy.stats import binom

from safehold.core.errors import DataError, UsageError
from safehold.core.intervals import proportion_interval
from safehold.deploy.betting import FRACTIONS, verify_seed
from safehold.deploy.sequences import (
    average_sequence,
    mean_cost_sequence,
    mean_cost_upper,
    violation_bounds,
    violation_sequence,
)

COSTS = arrays(np.float64, st.integers(1, 25), elements=st.floats(0.0, 3.0))
VIOLATED = arrays(np.bool_, st.integers(1, 40))


def test_no_violation_gives_the_bound_in_closed_form():
    n = np.array([1, 20, 400])
    lows, highs = violation_bounds(np.zeros(3, dtype=np.int64), n, 0.95)
    np.testing.assert_array_equal(lows, 0.0)
    np.testing.assert_allclose(highs, 1 - (0.05 * beta(0.5, n + 0.5) / beta(0.5, 0.5)) ** (1 / n), rtol=1e-12)


def test_violations_only_mirror_no_violations():
    s, n = np.array([0, 3, 10]), np.array([10, 10, 10])
    lows, highs = violation_bounds(s, n, 0.9)
    mirrored_lows, mirrored_highs = violation_bounds(n - s, n, 0.9)
    np.testing.assert_allclose(mirrored_lows, 1 - highs, atol=1e-12)
    np.testing.assert_allclose(mirrored_highs, 1 - lows, atol=1e-12)


def test_bounds_solve_the_mixture_equation():
    lows, highs = violation_bounds(np.array([7]), np.array([50]), 0.95)
    for p in (lows[0], highs[0]):
        likelihood_ratio = beta(7.5, 43.5) / beta(0.5, 0.5) / (p**7 * (1 - p) ** 43)
        assert likelihood_ratio == pytest.approx(20.0, rel=1e-9)


def test_before_the_first_episode_anything_is_possible():
    assert violation_bounds(np.array([0]), np.array([0])) == (np.array([0.0]), np.array([1.0]))
    interval = violation_sequence(np.empty(0, dtype=np.bool_))
    assert (interval.low, interval.high) == (0.0, 1.0)
    assert math.isnan(interval.estimate)
    mean = mean_cost_sequence(np.empty(0), 3.0)
    assert (mean.low, mean.high) == (0.0, 3.0)


@pytest.mark.parametrize("p", [0.0, 0.01, 0.05, 0.3, 0.5])
def test_the_violation_sequence_covers_at_all_times_together_by_exact_dynamic_programming(p):
    """P(p outside at any n <= 150) over counts of violations: the bounds depend on the count alone."""
    horizon, level = 150, 0.9
    alive = np.array([1.0])  # P(count = s, never outside so far)
    for n in range(1, horizon + 1):
        alive = np.append(alive * (1 - p), 0.0) + np.append(0.0, alive * p)
        lows, highs = violation_bounds(np.arange(n + 1), np.full(n + 1, n), level)
        alive[(p < lows) | (p > highs)] = 0.0
    missed = 1 - float(alive.sum())
    assert missed <= 1 - level
    assert missed > 0.0005 or p == 0


@settings(deadline=None)
@given(VIOLATED, VIOLATED)
def test_more_episodes_never_widen_the_violation_sequence(first, then):
    before, after = violation_sequence(first), violation_sequence(np.concatenate([first, then]))
    if after.known:
        assert before.low <= after.low <= after.high <= before.high


def test_holding_at_all_times_costs_width_over_a_fixed_sample():
    for s, n in ((0, 59), (5, 100), (50, 100)):
        fixed = proportion_interval(s, n)
        lows, highs = violation_bounds(np.array([s]), np.array([n]))
        assert lows[0] <= fixed.low
        assert fixed.high <= highs[0] <= fixed.high + 1.2 * (fixed.high - fixed.low)


def test_episodes_of_changing_probability_empty_the_intersection():
    changed = np.array([False] * 200 + [True] * 200)
    assert not violation_sequence(changed).known
    assert not mean_cost_sequence(changed.astype(np.float64), 1.0).known
    assert not violation_sequence(changed).high <= 1.0  # an unknown bound keeps no limit


def test_the_upper_bound_is_the_least_limit_that_is_verified():
    rng = np.random.default_rng(21)
    for _ in range(5):
        costs = 3.0 * rng.beta(0.7, 2.0, size=60)
        upper = mean_cost_upper(costs, 3.0, 0.05)
        assert verify_seed(costs, upper * (1 + 1e-9), 3.0, 0.05).verified
        assert not verify_seed(costs, upper * (1 - 1e-9), 3.0, 0.05).verified


def test_a_constant_cost_of_zero_bounds_the_mean_by_the_largest_bets():
    upper = mean_cost_upper(np.zeros(100), 1.0, 0.05)
    alone = 1 - 0.05 ** (1 / 100)  # one bet of everything: (1 - m)^-n = 1 / delta
    assert alone < upper < 1.5 * alone


@pytest.mark.parametrize("law", ["all or nothing", "beta", "nearly constant"])
def test_the_mean_sequence_covers_at_all_times_together(law):
    rng = np.random.default_rng(22)
    runs, level = 60, 0.8
    draws = {
        "all or nothing": lambda: 3.0 * (rng.random(150) < 0.2),
        "beta": lambda: 3.0 * rng.beta(0.5, 2.0, size=150),
        "nearly constant": lambda: rng.uniform(0.5, 0.7, size=150),
    }[law]
    missed = 0
    for _ in range(runs):
        interval = mean_cost_sequence(draws(), 3.0, level)
        missed += not (interval.low <= 0.6 <= interval.high)
    assert binom.sf(missed - 1, runs, 1 - level) > 0.001


def test_little_spread_gives_a_narrow_interval():
    rng = np.random.default_rng(23)
    quiet = mean_cost_sequence(rng.uniform(0.5, 0.7, size=200), 3.0)
    wild = mean_cost_sequence(3.0 * (rng.random(200) < 0.2), 3.0)
    assert quiet.high - quiet.low < 0.25 * (wild.high - wild.low)


@settings(deadline=None, max_examples=20)
@given(COSTS, COSTS)
def test_more_episodes_never_widen_the_mean_sequence(first, then):
    before, after = mean_cost_sequence(first, 3.0), mean_cost_sequence(np.concatenate([first, then]), 3.0)
    if after.known:
        assert before.low - 1e-12 <= after.low <= after.high <= before.high + 1e-12


@settings(deadline=None, max_examples=20)
@given(COSTS, st.floats(0.01, 100.0))
def test_bounds_scale_with_the_unit_of_cost(costs, unit):
    one, other = mean_cost_sequence(costs, 3.0), mean_cost_sequence(unit * costs, unit * 3.0 * (1 + 1e-12))
    assert other.low == pytest.approx(unit * one.low, rel=1e-6, abs=unit * 1e-9)
    assert other.high == pytest.approx(unit * one.high, rel=1e-6)


def test_a_lower_level_gives_a_narrower_interval():
    costs = np.tile([0.0, 2.0, 1.0], 20)
    narrow, wide = mean_cost_sequence(costs, 3.0, 0.5), mean_cost_sequence(costs, 3.0, 0.99)
    assert wide.low < narrow.low < 1.0 < narrow.high < wide.high


def test_missing_episodes_widen_to_the_safe_side_of_either_bound():
    costs = np.full(60, 0.6)
    costs[::10] = np.nan
    interval = mean_cost_sequence(costs, 3.0)
    assert interval.high == mean_cost_sequence(np.where(np.isnan(costs), 3.0, costs), 3.0).high
    assert interval.low == mean_cost_sequence(np.where(np.isnan(costs), 0.0, costs), 3.0).low
    assert interval.estimate == pytest.approx((54 * 0.6 + 6 * 3.0) / 60)
    failed = np.isnan(costs)
    assert mean_cost_sequence(np.full(60, 0.6), 3.0, failed=failed) == interval


def test_refuses_costs_that_break_the_cap():
    with pytest.raises(DataError, match="above the declared cap 3"):
        mean_cost_sequence(np.array([0.0, 3.1]), 3.0)
    with pytest.raises(DataError, match="costs are >= 0"):
        mean_cost_upper(np.array([-0.1]), 3.0, 0.05)
    with pytest.raises(UsageError, match="cap is 0"):
        mean_cost_upper(np.array([0.1]), 0.0, 0.05)
    with pytest.raises(UsageError, match="violations <= episodes"):
        violation_bounds(np.array([3]), np.array([2]))
    with pytest.raises(UsageError, match="level is 1"):
        violation_sequence(np.array([True]), 1.0)


def test_the_average_of_drifting_expectations_stays_inside_at_every_look():
    """60 runs of 200 episodes whose expectation wanders with what was seen; 95 % inside at all looks together."""
    rng, missed = np.random.default_rng(3), 0
    looks = (1, 5, 20, 80, 200)
    for _ in range(60):
        costs, means, total = np.zeros(200), np.zeros(200), 0.0
        for t in range(200):
            means[t] = 0.9 if total > 0.4 * t else 0.1  # pushes against its own past
            costs[t] = float(rng.random() < means[t])
            total += costs[t]
        found = [average_sequence(costs[:n], 1.0) for n in looks]
        inside = [b.low <= float(np.mean(means[:n])) <= b.high for n, b in zip(looks, found, strict=True)]
        missed += not all(inside)
    assert missed <= 60 * 0.05


def test_the_average_is_bounded_more_tightly_the_more_episodes_ran_and_the_quieter_they_were():
    quiet, loud = np.full(400, 0.3), np.tile([0.0, 0.6], 200)
    widths = [average_sequence(quiet[:n], 3.0) for n in (10, 100, 400)]
    assert [b.high - b.low for b in widths] == sorted((b.high - b.low for b in widths), reverse=True)
    calm, wild = average_sequence(quiet, 3.0), average_sequence(loud, 3.0)
    assert wild.low < calm.low < 0.3 < calm.high < wild.high
    assert calm.high < 0.4


def test_the_average_is_clear_of_what_it_refutes_by_one_slope_alone():
    """One a of the mixture, at its weight, gives a bound that the mixture is at least as good as."""
    costs = np.tile([0.2, 0.5, 0.2, 0.1], 25)
    bounds, n = average_sequence(costs, 1.0), len(costs)
    guesses = (0.5 + np.concatenate([[0.0], np.cumsum(costs)[:-1]])) / np.arange(1, n + 1)
    spread = np.sum((costs - guesses) ** 2)
    weights = FRACTIONS / FRACTIONS.sum()
    alone = [
        (np.log(1 / (0.025 * w)) + (-np.log1p(-0.9 * f) - 0.9 * f) * spread) / (0.9 * f)
        for f, w in zip(FRACTIONS, weights, strict=True)
    ]
    assert bounds.high <= np.mean(costs) + min(alone) / n + 1e-12
    assert bounds.high - np.mean(costs) == pytest.approx(np.mean(costs) - bounds.low)


def test_missing_episodes_widen_the_average_to_the_safe_side_of_either_bound():
    costs = np.full(60, 0.6)
    costs[::10] = np.nan
    bounds = average_sequence(costs, 3.0)
    assert bounds.high == average_sequence(np.where(np.isnan(costs), 3.0, costs), 3.0).high
    assert bounds.low == average_sequence(np.where(np.isnan(costs), 0.0, costs), 3.0).low
    nothing = average_sequence(np.zeros(0), 3.0)
    assert (nothing.low, nothing.high, nothing.n) == (0.0, 3.0, 0)


def test_one_episode_at_the_cap_bounds_nothing_and_warns_of_nothing():
    bounds = mean_cost_sequence(np.array([3.0]), 3.0)
    assert (bounds.estimate, bounds.high) == (3.0, 3.0)
