import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from safehold.core.errors import UsageError
from safehold.gp.confidence import ConfidenceBand, alpha, split
from safehold.gp.exact import GaussianProcess
from safehold.gp.kernels import SquaredExponential

FINITE = st.floats(-100, 100)


def test_alpha_is_the_printed_formula():
    assert alpha(20, 2000, 0.1) == pytest.approx(math.sqrt(2 * math.log(2000 * 400 * math.pi**2 / 0.6)))
    assert alpha(20, 2000, 0.1) == pytest.approx(5.7, abs=0.05)


def test_alpha_pays_for_all_candidates_and_all_rounds_at_once():
    """Sum over z and N of P(|standard normal| > alpha_N) <= delta: the union bound behind the lemma."""
    delta, candidates = 0.1, 300
    total = sum(candidates * math.erfc(alpha(n, candidates, delta) / math.sqrt(2)) for n in range(1, 5000))
    assert total <= delta


@given(n=st.integers(1, 1000), m=st.integers(1, 10**6), delta=st.floats(0.001, 0.5))
@settings(max_examples=50, deadline=None)
def test_alpha_grows_with_rounds_candidates_and_care(n, m, delta):
    assert alpha(n + 1, m, delta) > alpha(n, m, delta)
    assert alpha(n, m + 1, delta) > alpha(n, m, delta)
    assert alpha(n, m, delta / 2) > alpha(n, m, delta)


@pytest.mark.parametrize(("n", "m", "delta"), [(0, 1, 0.1), (1, 0, 0.1), (1, 1, 0.0), (1, 1, 1.0), (1, 1, math.nan)])
def test_alpha_refuses_what_means_nothing(n, m, delta):
    with pytest.raises(UsageError):
        alpha(n, m, delta)


def test_split_adds_up_to_delta():
    assert split(0.1, ["fall", "speed"]) == {"fall": 0.05, "speed": 0.05}


@pytest.mark.parametrize(("delta", "names"), [(0.1, []), (0.1, ["a", "a"]), (0.0, ["a"])])
def test_split_refuses_no_limits_twice_the_same_and_no_delta(delta, names):
    with pytest.raises(UsageError):
        split(delta, names)


def test_a_band_starts_at_zero_and_cap_not_at_the_limit():
    band = ConfidenceBand.start(3, 40.0)
    np.testing.assert_array_equal(band.lower, 0.0)
    np.testing.assert_array_equal(band.upper, 40.0)
    np.testing.assert_array_equal(band.width, 40.0)
    assert not band.empty.any()


@given(mean=arrays(np.float64, (4, 3), elements=FINITE), sd=arrays(np.float64, (4, 3), elements=st.floats(0, 50)))
@settings(max_examples=50, deadline=None)
def test_more_rounds_never_widen_a_running_band(mean, sd):
    band = ConfidenceBand.start(3, 60.0)
    for n in range(4):
        after = band.intersect(mean[n], sd[n], alpha(n + 1, 3, 0.1))
        assert np.all(after.lower >= band.lower)
        assert np.all(after.upper <= band.upper)
        band = after


def test_a_contradiction_leaves_an_empty_band():
    band = ConfidenceBand.start(2, 60.0).intersect(np.array([10.0, 10.0]), np.array([1.0, 1.0]), 2.0)
    after = band.intersect(np.array([20.0, 11.0]), np.array([1.0, 1.0]), 2.0)
    np.testing.assert_array_equal(after.empty, [True, False])


def test_a_band_that_is_not_a_number_counts_as_empty():
    assert ConfidenceBand(np.array([0.0]), np.array([np.nan])).empty.all()


def test_bands_miss_the_truth_less_often_than_delta():
    """Sequential, adaptive measuring of 150 draws of the prior; a miss anywhere, in any round, counts."""
    rng = np.random.default_rng(0)
    grid = np.linspace(0, 1, 25)[:, None]
    kernel, delta = SquaredExponential(1.0, (0.2,)), 0.5
    values, vectors = np.linalg.eigh(kernel(grid, grid))
    root = vectors * np.sqrt(np.maximum(values, 0))
    misses = 0
    for _ in range(150):
        truth = root @ rng.standard_normal(25)
        belief, missed = GaussianProcess.over(kernel, grid, np.zeros(25)), False
        for n in range(8):
            missed |= bool(np.any(np.abs(truth - belief.mean) > alpha(n + 1, 25, delta) * belief.sd))
            index = int(np.argmax(belief.mean + belief.sd))
            told = np.array([truth[index] + 0.3 * rng.standard_normal()])
            belief = belief.condition(np.array([index]), told, np.array([0.09]))
        misses += missed
    assert misses / 150 <= delta
