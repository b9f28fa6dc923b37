import numpy as np
import pytest

from safehold.core.errors import UsageError
from safehold.gp.linear import LinearTerms

FEATURES = np.array([[1.0, 0.0], [1.0, 2.0], [1.0, 5.0]])
COVARIANCE = np.array([[2.0, -0.5], [-0.5, 1.0]])


def test_covariances_are_the_formula():
    terms = LinearTerms(FEATURES, COVARIANCE)
    expected = FEATURES @ COVARIANCE @ FEATURES.T
    np.testing.assert_allclose(terms.diagonal, np.diag(expected))
    np.testing.assert_allclose(terms.cross(np.array([0, 2]), np.array([1])), expected[[0, 2]][:, [1]])
    np.testing.assert_allclose(terms.with_all(np.array([1])), expected[[1]])


def test_keeps_its_own_read_only_copies():
    features = FEATURES.copy()
    terms = LinearTerms(features, COVARIANCE)
    features[:] = 9.0
    np.testing.assert_array_equal(terms.features, FEATURES)
    with pytest.raises(ValueError, match="read-only"):
        terms.covariance[0, 0] = 0.0


@pytest.mark.parametrize(
    ("features", "covariance", "message"),
    [
        (np.where(FEATURES == 5.0, np.nan, FEATURES), COVARIANCE, "finite"),
        (FEATURES, np.full((2, 2), np.inf), "finite"),
        (FEATURES, np.array([[1.0, 0.5], [0.0, 1.0]]), "symmetric"),
        (FEATURES, np.array([[1.0, 2.0], [2.0, 1.0]]), "negative eigenvalue"),
    ],
)
def test_refuses_what_is_no_covariance_of_coefficients(features, covariance, message):
    with pytest.raises(UsageError, match=message):
        LinearTerms(features, covariance)
