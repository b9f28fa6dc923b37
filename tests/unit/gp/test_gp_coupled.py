"""A pair of correlated functions, told by either of them: the textbook posterior of intrinsic coregionalisation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safehold.core.errors import UsageError
from safehold.core.target import TargetSpace
from safehold.gp.coupled import coupled, factors
from safehold.gp.grid import GridProcess
from safehold.gp.kernels import Factor, Matern52, Product, SquaredExponential
from safehold.gp.mixture import Mixture

SPACE = TargetSpace({"x": (0.0, 1.0, 2.5, 3.0), "y": (0.0, 0.7, 1.0), "context": (0.0, 1.0)})
M = len(SPACE)
KERNELS = (
    Product(1.5, (Factor("matern52", 1.0), Factor("squared_exponential", 0.6), Factor("categorical", 0.3))),
    Product(0.7, (Factor("matern32", 2.0), Factor("matern52", 0.4), Factor("categorical", 0.0))),
)


def told(rng, n):
    """Some of either, in any order, repeats among them."""
    return rng.integers(0, 2 * M, n), rng.normal(0.0, 2.0, n), 10.0 ** rng.uniform(-3, 1, n)


@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 12),
    rhos=st.tuples(*[st.floats(0.0, 0.99)] * 2),
    at_once=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_the_posterior_is_that_of_the_dense_pair(seed, n, rhos, at_once):
    rng = np.random.default_rng(seed)
    mean, other = rng.normal(size=M), rng.normal(size=M)
    indices, values, noise = told(rng, n)
    belief = coupled(KERNELS, SPACE, mean, other, rhos)
    for part in [slice(None)] if at_once else [slice(i, i + 1) for i in range(n)]:
        belief = belief.condition(indices[part], np.tile(values[part], (2, 1)), noise[part])
    both = np.concatenate([mean, other])
    for number, (kernel, rho) in enumerate(zip(KERNELS, rhos, strict=True)):
        pair = np.kron(np.array([[1.0, rho], [rho, 1.0]]), kernel(SPACE.points, SPACE.points))
        among = pair[np.ix_(indices, indices)] + np.diag(noise)
        posterior = pair[:M, :M] - pair[:M, indices] @ np.linalg.solve(among, pair[indices, :M])
        expected = mean + pair[:M, indices] @ np.linalg.solve(among, values - both[indices])
        np.testing.assert_allclose(belief.means[number], expected, rtol=0, atol=1e-9)
        np.testing.assert_allclose(belief.variances[number], np.diag(posterior), rtol=0, atol=1e-10)
        np.testing.assert_allclose(belief.columns(3)[number], posterior[3], rtol=0, atol=1e-10)
        places = np.array([0, 5, 11])
        np.testing.assert_allclose(
            belief.covariances(places, np.arange(M))[number], posterior[places], rtol=0, atol=1e-10
        )
        residual = values - both[indices]
        evidence = -0.5 * (residual @ np.linalg.solve(among, residual) + np.linalg.slogdet(2 * np.pi * among)[1])
        assert belief.log_evidences[number] == pytest.approx(evidence, rel=1e-9, abs=1e-9)


def test_only_the_first_function_shows_in_a_mixture():
    belief = Mixture.of(coupled(KERNELS, SPACE, np.zeros(M), np.ones(M), (0.8, 0.5)), (0.0, 0.0))
    belief = belief.condition(np.array([3, M + 5]), np.array([1.0, 2.0]), np.array([0.1, 0.01]))
    assert belief.mean.shape == belief.sd.shape == belief.risk(1.0).shape == belief.column(2).shape == (M,)
    assert belief.covariances(np.arange(3), np.arange(M)).shape == (3, M)
    foretold = belief.hallucinate(np.array([7]), np.array([0.1]))
    np.testing.assert_allclose(foretold.means, belief.means, atol=1e-12)
    assert (foretold.sds[:, 7] < belief.sds[:, 7]).all()
    np.testing.assert_allclose(foretold.measured.sds, belief.sds, rtol=1e-12)


def test_a_clean_measurement_of_the_other_narrows_the_first_by_the_correlation_alone():
    belief = coupled(KERNELS[:1], SPACE, np.zeros(M), np.zeros(M), (0.8,))
    belief = belief.condition(np.array([M + 4]), np.full((1, 1), 1.5), np.array([1e-12]))
    assert belief.means[0, 4] == pytest.approx(0.8 * 1.5)
    assert belief.variances[0, 4] == pytest.approx(1.5**2 * (1 - 0.8**2))


def test_without_correlation_the_other_says_nothing_of_the_first():
    alone = GridProcess.over(KERNELS[0], SPACE, np.zeros(M)).condition(np.array([2]), np.array([1.0]), np.array([0.1]))
    belief = coupled(KERNELS[:1], SPACE, np.zeros(M), np.zeros(M), (0.0,))
    belief = belief.condition(np.array([2, M + 2]), np.array([[1.0, 5.0]]), np.array([0.1, 0.1]))
    np.testing.assert_allclose(belief.means[0], alone.mean, atol=1e-13)
    np.testing.assert_allclose(belief.variances[0], alone.variance, atol=1e-13)


def test_a_squared_exponential_is_taken_for_the_product_that_it_is():
    space = TargetSpace({"x": (0.0, 1.0), "y": (0.0, 2.0)})
    (each,) = factors((SquaredExponential(2.0, (1.0, 3.0)),), space)
    kernel = Product(2.0, each)
    np.testing.assert_allclose(
        kernel(space.points, space.points), SquaredExponential(2.0, (1.0, 3.0))(space.points, space.points)
    )


def test_what_is_no_product_or_has_too_many_axes_is_refused():
    with pytest.raises(UsageError, match="Matern52 is none; declare kernel=partial"):
        coupled((Matern52(1.0, (1.0, 1.0, 1.0)),), SPACE, np.zeros(M), np.zeros(M), (0.5,))
    wide = TargetSpace({name: (0.0, 1.0) for name in "abcd"})
    with pytest.raises(UsageError, match="at most 3 axes"):
        factors((Product.of("matern52", 1.0, (1.0,) * 4),), wide)
    with pytest.raises(UsageError, match=r"correlation in \[0, 1\), got 1"):
        coupled(KERNELS, SPACE, np.zeros(M), np.zeros(M), (1.0, 0.5))
