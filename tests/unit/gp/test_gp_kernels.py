import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safehold.core.errors import UsageError
from safehold.gp.kernels import KERNELS, Kernel, Matern52, SquaredExponential

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
