import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, t, trim_mean

from safehold.core.errors import UsageError
from safehold.core.intervals import (
    interquartile_interval,
    mean_interval,
    proportion_interval,
    proportion_upper,
    ratio_interval,
)


def test_mean_interval_is_students_by_an_independent_formula():
    values = np.array([3.0, 5.0, 4.0, 9.0])
    low, high = t.interval(0.95, 3, loc=values.mean(), scale=values.std(ddof=1) / 2)
    got = mean_interval(values)
    np.testing.assert_allclose([got.estimate, got.low, got.high], [5.25, low, high], rtol=1e-12)
    assert got.n == 4


@pytest.mark.parametrize("values", [[], [7.0], [1.0, math.nan], [1.0, math.inf]])
def test_no_interval_is_made_up_where_the_data_give_none(values):
    assert not mean_interval(np.array(values)).known


def test_an_unknown_interval_says_how_many_there_were():
    assert str(mean_interval(np.array([7.0]))) == "7 (n = 1)"
    assert str(mean_interval(np.array([]))) == "no data"


@given(n=st.integers(1, 200), data=st.data())
def test_proportion_interval_is_clopper_pearson(n, data):
    k = data.draw(st.integers(0, n))
    got = proportion_interval(k, n)
    low = 0.0 if k == 0 else beta.ppf(0.025, k, n - k + 1)
    high = 1.0 if k == n else beta.ppf(0.975, k + 1, n - k)
    np.testing.assert_allclose([got.low, got.high], [low, high], rtol=1e-8)


def test_no_violation_in_twenty_is_no_proof_of_none():
    # (1 - p)^20 = 0.05
    assert proportion_upper(0, 20) == pytest.approx(1 - 0.05 ** (1 / 20))


def test_all_unsafe_is_bounded_by_one_and_nothing_seen_by_everything():
    assert proportion_upper(5, 5) == 1.0
    assert proportion_upper(0, 0) == 1.0
    assert (proportion_interval(0, 0).low, proportion_interval(0, 0).high) == (0.0, 1.0)


@pytest.mark.parametrize(("k", "n"), [(3, 2), (-1, 2)])
def test_what_is_no_proportion_is_refused(k, n):
    with pytest.raises(UsageError, match="not a proportion"):
        proportion_interval(k, n)
    with pytest.raises(UsageError, match="not a proportion"):
        proportion_upper(k, n)


@pytest.mark.parametrize("level", [0.0, 1.0, math.nan, 95.0])
def test_a_level_outside_zero_and_one_is_refused(level):
    with pytest.raises(UsageError, match="between 0 and 1"):
        mean_interval(np.array([1.0, 2.0]), level)


def test_an_interquartile_mean_is_scipys_trimmed_mean():
    rng = np.random.default_rng(0)
    for runs in (1, 3, 5, 8):
        tasks = [rng.normal(size=runs) for _ in range(3)]
        got = interquartile_interval(tasks, rng)
        assert got.estimate == pytest.approx(trim_mean(np.concatenate(tasks), 0.25))
        assert got.n == 3 * runs
        assert got.known == (runs > 1)


def test_one_disaster_does_not_move_an_interquartile_mean():
    tasks = [np.array([0.5, 0.6, 0.7, 0.8]), np.array([0.5, 0.6, 0.7, -1e9])]
    assert interquartile_interval(tasks, np.random.default_rng(0)).estimate == pytest.approx(0.6)


def test_runs_are_drawn_within_their_tasks():
    # each task's runs are equal, so that nothing changes when they are drawn anew within it
    tasks = [np.full(4, 0.0), np.full(4, 1.0)]
    got = interquartile_interval(tasks, np.random.default_rng(0))
    assert (got.low, got.estimate, got.high) == (0.5, 0.5, 0.5)


def test_an_interquartile_mean_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        got = interquartile_interval([rng.normal(task, 1.0, 10) for task in (-1.0, 0.0, 1.0)], rng, draws=200)
        covered += got.low <= 0.0 <= got.high
    assert covered >= 176  # 0.88 of 200: a percentile interval over ten runs is a little short


@pytest.mark.parametrize("tasks", [[], [np.array([])], [np.array([1.0]), np.array([])]])
def test_an_interquartile_mean_of_nothing_is_refused(tasks):
    with pytest.raises(UsageError, match="a run each"):
        interquartile_interval(tasks, np.random.default_rng(0))


def test_a_ratio_counts_every_step_alike_and_draws_whole_units():
    got = ratio_interval(np.array([10.0, 0.0]), np.array([10.0, 90.0]), np.random.default_rng(0))
    assert (got.estimate, got.n) == (0.1, 2)
    assert (got.low, got.high) == (0.0, 1.0)  # one unit twice, or the other twice


@pytest.mark.parametrize(("sums", "counts"), [([], []), ([1.0, 2.0], [1.0, 0.0])])
def test_a_ratio_of_nothing_is_refused(sums, counts):
    with pytest.raises(UsageError, match="counts above zero"):
        ratio_interval(np.array(sums), np.array(counts), np.random.default_rng(0))


def test_what_is_not_finite_leaves_no_interval():
    broken = np.array([1.0, math.nan])
    assert not ratio_interval(broken, np.ones(2), np.random.default_rng(0)).known
    assert not interquartile_interval([broken], np.random.default_rng(0)).known
