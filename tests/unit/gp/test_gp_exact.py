from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safehold.core.errors import DataError, ModelError, UsageError
from safehold.gp.exact import GaussianProcess
from safehold.gp.kernels import Matern52, SquaredExponential

GRID = np.stack([g.ravel() for g in np.meshgrid(np.linspace(0, 4, 9), np.linspace(0, 2, 7), indexing="ij")], axis=1)
MEAN = 1.0 + GRID[:, 1]
KERNEL = Matern52(2.0, (1.5, 0.8))


def prior(kernel=KERNEL):
    return GaussianProcess.over(kernel, GRID, MEAN)


def told(seed=0, n=12):
    rng = np.random.default_rng(seed)
    indices = rng.integers(0, len(GRID), n)
    return indices, rng.normal(2.0, 2.0, n), rng.uniform(0.05, 1.0, n)


def by_formula(indices, values, noise, kernel=KERNEL):
    """Posterior by inverting the covariance: the formula, not the algorithm."""
    x = GRID[indices]
    inverse = np.linalg.inv(kernel(x, x) + np.diag(noise))
    cross = kernel(GRID, x)
    covariance = kernel(GRID, GRID) - cross @ inverse @ cross.T
    return MEAN + cross @ inverse @ (values - MEAN[indices]), covariance


@pytest.mark.parametrize("kernel", [KERNEL, SquaredExponential(2.0, (1.5, 0.8))])
def test_posterior_is_the_textbook_formula(kernel):
    indices, values, noise = told()
    mean, covariance = by_formula(indices, values, noise, kernel)
    belief = prior(kernel).condition(indices, values, noise)
    np.testing.assert_allclose(belief.mean, mean, rtol=1e-10)
    np.testing.assert_allclose(belief.variance, np.diag(covariance), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(belief.sd**2, belief.variance)
    np.testing.assert_allclose(
        belief.covariances(np.array([5]), np.arange(len(belief.candidates)))[0], covariance[5], rtol=1e-9, atol=1e-12
    )
    np.testing.assert_allclose(
        belief.covariances(np.array([3, 60]), np.arange(5, 9)), covariance[[3, 60], 5:9], rtol=1e-9, atol=1e-12
    )


@given(seed=st.integers(0, 10**6), cut=st.integers(0, 12))
@settings(max_examples=20, deadline=None)
def test_condition_in_two_steps_equals_one(seed, cut):
    indices, values, noise = told(seed)
    both = prior().condition(indices, values, noise)
    first = prior().condition(indices[:cut], values[:cut], noise[:cut])
    steps = first.condition(indices[cut:], values[cut:], noise[cut:])
    np.testing.assert_allclose(steps.mean, both.mean, rtol=1e-10)
    np.testing.assert_allclose(steps.variance, both.variance, rtol=1e-10, atol=1e-12)
    assert steps.n_told == both.n_told == 12


def test_two_hundred_extensions_equal_refactoring():
    indices, values, noise = told(n=200)
    steps = prior()
    for i in range(200):
        steps = steps.condition(indices[i : i + 1], values[i : i + 1], noise[i : i + 1])
    once = prior().condition(indices, values, noise)
    np.testing.assert_allclose(steps.mean, once.mean, rtol=1e-10)
    np.testing.assert_allclose(steps.variance, once.variance, rtol=1e-10)
    np.testing.assert_allclose(
        steps.covariances(np.array([7]), np.arange(len(steps.candidates)))[0],
        once.covariances(np.array([7]), np.arange(len(once.candidates)))[0],
        rtol=1e-8,
        atol=1e-12,
    )


@given(seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_order_of_measurements_does_not_matter(seed):
    indices, values, noise = told(seed)
    order = np.random.default_rng(seed + 1).permutation(len(indices))
    a = prior().condition(indices, values, noise)
    b = prior().condition(indices[order], values[order], noise[order])
    np.testing.assert_allclose(a.mean, b.mean, rtol=1e-9)
    np.testing.assert_allclose(a.variance, b.variance, rtol=1e-9, atol=1e-12)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_more_data_never_widens_the_belief(seed):
    indices, values, noise = told(seed)
    belief = prior()
    for i in range(len(indices)):
        after = belief.condition(indices[i : i + 1], values[i : i + 1], noise[i : i + 1])
        assert np.all(after.variance <= belief.variance + 1e-12)
        belief = after


def test_fifteen_repeats_of_one_candidate_are_one_mean_with_less_noise():
    repeated = prior().condition(np.full(15, 4), np.linspace(0, 1, 15), np.full(15, 1e-6))
    once = prior().condition(np.array([4]), np.array([0.5]), np.array([1e-6 / 15]))
    np.testing.assert_allclose(repeated.mean, once.mean, rtol=1e-6)
    np.testing.assert_allclose(repeated.variance, once.variance, rtol=1e-6, atol=1e-9)


def test_constant_outcomes_do_not_shrink_the_belief_far_away():
    grid = np.linspace(0, 1, 101)[:, None]
    zero = GaussianProcess.over(Matern52(0.5, (0.1,)), grid, np.zeros(101))
    six = zero.condition(np.arange(0, 21, 4), np.zeros(6), np.full(6, 1e-4))
    assert six.sd[-1] == pytest.approx(0.5, rel=1e-3)


def test_a_noisier_measurement_moves_the_belief_less():
    quiet = prior().condition(np.array([4]), np.array([9.0]), np.array([0.1]))
    noisy = prior().condition(np.array([4]), np.array([9.0]), np.array([10.0]))
    assert MEAN[4] < noisy.mean[4] < quiet.mean[4] < 9.0
    assert quiet.variance[4] < noisy.variance[4] < 4.0


def test_prior_mean_may_be_a_function_of_the_candidates():
    of_points = GaussianProcess.over(KERNEL, GRID, lambda points: 1.0 + points[:, 1])
    np.testing.assert_array_equal(of_points.mean, prior().mean)


def test_condition_leaves_the_old_belief_as_it_was_and_arrays_are_read_only():
    before = prior()
    mean = before.mean.copy()
    after = before.condition(*told())
    np.testing.assert_array_equal(before.mean, mean)
    assert (before.n_told, after.n_told) == (0, 12)
    with pytest.raises(ValueError, match="read-only"):
        after.mean[0] = 0.0


def test_nothing_told_changes_nothing():
    nothing = np.zeros(0)
    assert prior().condition(nothing.astype(np.int64), nothing, nothing).n_told == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e101])
def test_refuses_a_measurement_that_is_not_finite(value):
    with pytest.raises(DataError, match="not finite"):
        prior().condition(np.array([0]), np.array([value]), np.array([1.0]))


@pytest.mark.parametrize("noise", [0.0, -1.0, np.nan, np.inf])
def test_refuses_noise_that_is_not_positive(noise):
    with pytest.raises(DataError, match="finite and positive"):
        prior().condition(np.array([0]), np.array([1.0]), np.array([noise]))


def test_refuses_a_prior_mean_with_holes():
    mean = MEAN.copy()
    mean[3] = np.nan
    with pytest.raises(UsageError, match="1 non-finite"):
        GaussianProcess.over(KERNEL, GRID, mean)
    with pytest.raises(UsageError, match="shape"):
        GaussianProcess.over(KERNEL, GRID, lambda points: points[:3, 0])


@dataclass(frozen=True)
class NotACovariance:
    """Claims more covariance between two points than they have variance."""

    sd: float = 1.0
    lengthscales: tuple[float, ...] = (1.0, 1.0)
    separable: bool = False

    def __call__(self, a, b):
        return 1.0 + 1.0 * np.any(a[:, None] != b[None], axis=2)

    def diagonal(self, a):
        return np.ones(len(a))


def test_a_negative_variance_stops_the_run():
    with pytest.raises(ModelError, match=r"variance at candidate .* is -"):
        GaussianProcess.over(NotACovariance(), GRID, MEAN).condition(np.array([0]), np.array([1.0]), np.array([0.01]))


def test_a_covariance_that_cannot_be_factored_stops_the_run():
    with pytest.raises(ModelError, match="cannot be factored"):
        GaussianProcess.over(NotACovariance(), GRID, MEAN).condition(
            np.array([0, 1]), np.array([1.0, 1.0]), np.array([0.01, 0.01])
        )
