import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from safehold.core.errors import ModelError, UsageError
from safehold.core.target import TargetSpace
from safehold.gp.confidence import ConfidenceBand, alpha, envelope, log_determinant_multiplier, split
from safehold.gp.exact import GaussianProcess
from safehold.gp.kernels import Product, SquaredExponential
from safehold.gp.process import process_for

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


def test_log_determinant_multiplier_is_its_formula():
    assert log_determinant_multiplier(2.0, 0.0, 0.05) == pytest.approx(2.0 + math.sqrt(2 * math.log(20)))
    assert log_determinant_multiplier(2.0, 9.0, 0.05) == pytest.approx(2.0 + math.sqrt(9 + 2 * math.log(20)))


@pytest.mark.parametrize("delta", [0.0, 1.0, math.nan])
def test_log_determinant_multiplier_refuses_what_is_no_probability(delta):
    with pytest.raises(UsageError, match="probability"):
        log_determinant_multiplier(1.0, 1.0, delta)


@pytest.mark.parametrize("norm_bound", [-1.0, math.inf, math.nan])
def test_log_determinant_multiplier_refuses_a_norm_bound_that_bounds_nothing(norm_bound):
    with pytest.raises(UsageError, match="norm bound"):
        log_determinant_multiplier(norm_bound, 1.0, 0.1)


@pytest.mark.parametrize("log_determinant", [-1.0, math.inf, math.nan])
def test_log_determinant_multiplier_stops_where_information_cannot_be_told(log_determinant):
    with pytest.raises(ModelError, match="information"):
        log_determinant_multiplier(1.0, log_determinant, 0.1)


def test_log_determinant_bands_miss_functions_of_bounded_norm_less_often_than_delta():
    """Functions of norm exactly B, sub-Gaussian (Rademacher) noise, measured where the band is highest."""
    rng = np.random.default_rng(0)
    space = TargetSpace({"z": tuple(np.linspace(0.0, 1.0, 30))})
    kernel, norm_bound, delta, scale = Product.of("matern52", 0.5, (0.2,)), 2.0, 0.3, 0.2
    misses = 0
    for _ in range(60):
        centres, weights = rng.uniform(size=(20, 1)), rng.standard_normal(20)
        weights *= norm_bound / math.sqrt(weights @ kernel(centres, centres) @ weights)
        truth = kernel(space.points, centres) @ weights
        belief, missed = process_for(kernel, space, np.zeros(30)), False
        for _ in range(25):
            width = log_determinant_multiplier(norm_bound, belief.log_determinant, delta) * belief.sd
            missed |= bool(np.any(np.abs(truth - belief.mean) > width))
            index = np.array([np.argmax(belief.mean + width)])
            belief = belief.condition(index, truth[index] + scale * rng.choice([-1.0, 1.0], 1), np.array([scale**2]))
        misses += missed
    assert misses / 60 <= delta


@given(
    seed=st.integers(0, 10**6),
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    share=st.sampled_from([0.0, 0.3]),
)
@settings(max_examples=60, deadline=None)
def test_the_envelope_is_the_least_over_all_pairs(seed, shape, share):
    rng = np.random.default_rng(seed)
    space = TargetSpace({f"axis{i}": tuple(np.cumsum(rng.uniform(0.1, 2.0, n))) for i, n in enumerate(shape)})
    constants = tuple(float(value) for value in rng.uniform(0.0, 2.0, len(shape)))
    upper = np.where(rng.uniform(size=len(space)) < share, np.inf, rng.normal(0.0, 3.0, len(space)))
    apart = np.sum(np.abs(space.points[:, None] - space.points[None]) * constants, axis=2)
    expected = np.min(upper + apart, axis=1)
    least = envelope(space, upper, constants)
    np.testing.assert_allclose(least, expected, rtol=1e-12, atol=1e-12)
    assert np.all(least <= upper)
    np.testing.assert_array_equal(least[expected == upper], upper[expected == upper])


def test_an_infinite_constant_lets_nothing_carry_over():
    space = TargetSpace({"z": (0.0, 1.0, 2.0), "policy": (0.0, 1.0)})
    upper = np.array([0.0, 9.0, np.inf, 9.0, np.inf, 9.0])
    np.testing.assert_array_equal(envelope(space, upper, (1.0, math.inf)), [0.0, 9.0, 1.0, 9.0, 2.0, 9.0])
    np.testing.assert_array_equal(envelope(space, upper, (math.inf, math.inf)), upper)


def test_an_upper_bound_that_is_not_a_number_certifies_nothing_it_could_reach():
    space = TargetSpace({"z": (0.0, 1.0, 2.0)})
    assert not np.any(envelope(space, np.array([np.nan, 0.0, 0.0]), (1.0,)) <= 100.0)


@pytest.mark.parametrize("constants", [(1.0,), (1.0, -1.0), (1.0, math.nan)])
def test_the_envelope_refuses_constants_that_mean_nothing(constants):
    space = TargetSpace({"a": (0.0, 1.0), "b": (0.0, 1.0)})
    with pytest.raises(UsageError, match="one nonnegative Lipschitz constant for each axis"):
        envelope(space, np.zeros(4), constants)


@pytest.mark.parametrize("upper", [np.zeros(3), np.array([0.0, 0.0, 0.0, -np.inf])])
def test_the_envelope_refuses_bounds_that_mean_nothing(upper):
    space = TargetSpace({"a": (0.0, 1.0), "b": (0.0, 1.0)})
    with pytest.raises(UsageError, match="upper bound"):
        envelope(space, upper, (1.0, 1.0))
