import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safehold.core.errors import UsageError
from safehold.gp.kernels import KERNELS, Factor, Kernel, Matern52, Product, SeparableKernel, SquaredExponential

KINDS = pytest.mark.parametrize("kind", [SquaredExponential, Matern52])
POINTS = st.lists(
    st.tuples(st.floats(-50, 50, allow_subnormal=False), st.floats(-5, 5, allow_subnormal=False)),
    min_size=1,
    max_size=8,
).map(lambda rows: np.array(rows, dtype=np.float64))


def test_squared_exponential_is_its_formula():
    kernel = SquaredExponential(sd=3.0, lengthscales=(2.0, 0.5))
    a, b = np.array([[1.0, 1.0]]), np.array([[3.0, 0.5]])
    assert kernel(a, b)[0, 0] == pytest.approx(9.0 * math.exp(-0.5 * (1.0 + 1.0)))


def test_matern_is_its_formula():
    kernel = Matern52(sd=3.0, lengthscales=(2.0, 0.5))
    s = math.sqrt(5.0 * 2.0)
    a, b = np.array([[1.0, 1.0]]), np.array([[3.0, 0.5]])
    assert kernel(a, b)[0, 0] == pytest.approx(9.0 * (1 + s + s * s / 3) * math.exp(-s))


@KINDS
def test_every_named_kernel_keeps_the_protocol(kind):
    kernel = kind(2.0, (1.0,))
    assert isinstance(kernel, Kernel)
    assert kind in KERNELS.values()
    assert (kernel.sd, kernel.lengthscales) == (2.0, (1.0,))


@KINDS
@given(points=POINTS)
@settings(max_examples=40, deadline=None)
def test_is_a_covariance_whose_diagonal_is_the_declared_variance(kind, points):
    kernel = kind(2.0, (10.0, 1.0))
    matrix = kernel(points, points)
    np.testing.assert_array_equal(matrix, matrix.T)
    np.testing.assert_allclose(np.diag(matrix), kernel.diagonal(points), rtol=1e-15)
    assert np.linalg.eigvalsh(matrix).min() >= -1e-12 * len(points) * 4.0


@KINDS
@given(points=POINTS, unit=st.sampled_from([2.0**-20, 0.5, 2.0**10]))
@settings(max_examples=20, deadline=None)
def test_is_the_same_in_other_units_of_the_axis(kind, points, unit):
    scaled = points * np.array([unit, 1.0])
    np.testing.assert_array_equal(kind(2.0, (10.0 * unit, 1.0))(scaled, scaled), kind(2.0, (10.0, 1.0))(points, points))


def test_matern_trusts_a_near_neighbour_less():
    near = np.array([[0.0], [0.5]])
    assert Matern52(1.0, (1.0,))(near, near)[0, 1] < SquaredExponential(1.0, (1.0,))(near, near)[0, 1]


@KINDS
@pytest.mark.parametrize(
    ("sd", "lengthscales"),
    [
        (0.0, (1.0,)),
        (-1.0, (1.0,)),
        (math.nan, (1.0,)),
        (math.inf, (1.0,)),
        (1.0, (0.0,)),
        (1.0, (math.nan,)),
        (1.0, ()),
    ],
)
def test_refuses_scales_that_would_make_a_band_of_no_width(kind, sd, lengthscales):
    with pytest.raises(UsageError, match="finite and positive"):
        kind(sd, lengthscales)


@KINDS
def test_refuses_points_with_another_number_of_axes(kind):
    with pytest.raises(UsageError, match="2 lengthscales, the points have 1 axes"):
        kind(1.0, (1.0, 1.0))(np.zeros((3, 1)), np.zeros((3, 1)))


FACTORS = pytest.mark.parametrize("kind", ["matern52", "matern32", "squared_exponential", "categorical"])


@pytest.mark.parametrize(
    ("factor", "expected"),
    [
        (Factor("squared_exponential", 2.0), math.exp(-0.5 * 1.5**2)),
        (Factor("matern52", 2.0), (1 + math.sqrt(5) * 1.5 + 5 * 1.5**2 / 3) * math.exp(-math.sqrt(5) * 1.5)),
        (Factor("matern32", 2.0), (1 + math.sqrt(3) * 1.5) * math.exp(-math.sqrt(3) * 1.5)),
        (Factor("categorical", 0.4), 0.4),
    ],
)
def test_factors_are_their_formulas(factor, expected):
    np.testing.assert_allclose(factor(np.array([4.0]), np.array([1.0, 4.0, 7.0])), [[expected, 1.0, expected]])


def test_a_product_is_one_factor_an_axis():
    kernel = Product(3.0, (Factor("matern52", 2.0), Factor("categorical", 0.25)))
    a, b = np.array([[1.0, 0.0]]), np.array([[2.0, 0.0], [2.0, 1.0]])
    along = Matern52(1.0, (2.0,))(a[:, :1], b[:, :1])
    np.testing.assert_allclose(kernel(a, b), 9.0 * along * [[1.0, 0.25]])
    assert (kernel.sd, kernel.lengthscales) == (3.0, (2.0, 0.25))
    assert Product.of("matern52", 3.0, (2.0, 1.0)) == Product(3.0, (Factor("matern52", 2.0), Factor("matern52", 1.0)))


def test_a_product_of_squared_exponentials_is_the_squared_exponential():
    points = np.random.default_rng(0).normal(size=(9, 2))
    np.testing.assert_allclose(
        Product.of("squared_exponential", 2.0, (1.0, 0.5))(points, points),
        SquaredExponential(2.0, (1.0, 0.5))(points, points),
    )


@FACTORS
@given(points=POINTS)
@settings(max_examples=30, deadline=None)
def test_a_product_is_a_covariance_whose_diagonal_is_the_declared_variance(kind, points):
    kernel = Product(2.0, (Factor("matern52", 10.0), Factor(kind, 0.7)))
    matrix = kernel(points, points)
    np.testing.assert_array_equal(matrix, matrix.T)
    np.testing.assert_allclose(np.diag(matrix), kernel.diagonal(points), rtol=1e-15)
    assert np.linalg.eigvalsh(matrix).min() >= -1e-12 * len(points) * 4.0


@pytest.mark.parametrize("kernel", [Product.of("matern32", 2.0, (1.0, 0.5)), SquaredExponential(2.0, (1.0, 0.5))])
def test_a_separable_kernel_on_a_grid_is_the_kronecker_product_of_its_axes(kernel):
    first, second = np.array([0.0, 0.7, 1.0]), np.array([-1.0, 2.0])
    grid = np.stack([g.ravel() for g in np.meshgrid(first, second, indexing="ij")], axis=1)
    assert isinstance(kernel, SeparableKernel)
    assert kernel.separable
    axes = np.kron(kernel.axis_matrix(0, first), kernel.axis_matrix(1, second))
    np.testing.assert_allclose(kernel(grid, grid), kernel.sd**2 * axes, rtol=1e-14)


def test_an_isotropic_matern_is_not_separable():
    assert not Matern52(1.0, (1.0, 1.0)).separable


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_refuses_factor_scales_that_mean_nothing(scale):
    with pytest.raises(UsageError, match="finite and positive"):
        Factor("matern52", scale)


@pytest.mark.parametrize("scale", [-0.1, 1.0, math.nan])
def test_refuses_a_categorical_correlation_outside_zero_to_one(scale):
    with pytest.raises(UsageError, match=r"correlation in \[0, 1\)"):
        Factor("categorical", scale)


def test_refuses_an_unknown_factor_and_a_product_of_nothing():
    with pytest.raises(UsageError, match="finite positive sd and one factor an axis"):
        Product(1.0, ())
    with pytest.raises(UsageError, match="finite positive sd"):
        Product(math.nan, (Factor("matern52", 1.0),))
    with pytest.raises(UsageError, match="2 lengthscales, the points have 1 axes"):
        Product.of("matern52", 1.0, (1.0, 1.0))(np.zeros((3, 1)), np.zeros((3, 1)))
