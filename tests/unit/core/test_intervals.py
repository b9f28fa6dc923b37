import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, t

from safehold.core.errors import UsageError
from safehold.core.intervals import mean_interval, proportion_interval, proportion_upper


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
