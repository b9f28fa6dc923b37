import numpy as np
import pytest
from gp_worlds import world
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, Matern

from safehold.core.errors import UsageError
from safehold.core.target import TargetSpace
from safehold.gp.exact import GaussianProcess
from safehold.gp.grid import GridProcess
from safehold.gp.kernels import Factor, Matern52, Product, SquaredExponential
from safehold.gp.linear import LinearTerms
from safehold.gp.process import Process, process_for

SPACE = TargetSpace({"R": tuple(np.linspace(0.0, 3.0, 12)), "G": (0.0, 1.0, 2.5, 3.0, 4.5)})
M = len(SPACE)


def told(seed=0, n=30):
    rng = np.random.default_rng(seed)
    return rng.integers(0, M, n), rng.normal(size=n), rng.uniform(0.01, 0.3, n)


def by_scikit_learn(kernel, indices, values, noise):
    """Posterior mean, variance and log marginal likelihood of its regressor, hyper-parameters fixed, zero mean."""
    regressor = GaussianProcessRegressor(kernel, alpha=noise, optimizer=None).fit(SPACE.points[indices], values)
    mean, covariance = regressor.predict(SPACE.points, return_cov=True)
    return mean, np.diag(covariance), regressor.log_marginal_likelihood(regressor.kernel_.theta)


@pytest.mark.parametrize(
    ("kernel", "same"),
    [
        (SquaredExponential(1.5, (0.8, 1.2)), ConstantKernel(1.5**2) * RBF((0.8, 1.2))),
        (Product.of("squared_exponential", 1.5, (0.8, 1.2)), ConstantKernel(1.5**2) * RBF((0.8, 1.2))),
        (Matern52(1.5, (0.8, 1.2)), ConstantKernel(1.5**2) * Matern((0.8, 1.2), nu=2.5)),
    ],
)
@pytest.mark.parametrize("engine", ["by kernel", "exact"])
def test_every_engine_agrees_with_scikit_learn(kernel, same, engine):
    zero = np.zeros(M)
    prior = (
        process_for(kernel, SPACE, zero) if engine == "by kernel" else GaussianProcess.over(kernel, SPACE.points, zero)
    )
    indices, values, noise = told()
    for t in range(len(values)):
        prior = prior.condition(indices[t : t + 1], values[t : t + 1], noise[t : t + 1])
    mean, variance, evidence = by_scikit_learn(same, indices, values, noise)
    np.testing.assert_allclose(prior.mean, mean, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(prior.variance, variance, rtol=1e-8, atol=1e-10)
    assert prior.log_evidence == pytest.approx(evidence, rel=1e-8)


@pytest.mark.parametrize("kind", ["matern52", "matern32"])
def test_a_single_axis_of_matern_agrees_with_scikit_learn(kind):
    space = TargetSpace({"R": tuple(np.linspace(0.0, 3.0, 20))})
    indices, values, noise = np.array([0, 5, 5, 19]), np.array([1.0, -1.0, 0.5, 2.0]), np.array([0.1, 0.2, 0.1, 0.3])
    process = process_for(Product(0.7, (Factor(kind, 0.6),)), space, np.zeros(20)).condition(indices, values, noise)
    kernel = ConstantKernel(0.49) * Matern(0.6, nu=2.5 if kind == "matern52" else 1.5)
    regressor = GaussianProcessRegressor(kernel, alpha=noise, optimizer=None).fit(space.points[indices], values)
    mean, covariance = regressor.predict(space.points, return_cov=True)
    np.testing.assert_allclose(process.mean, mean, rtol=1e-8)
    np.testing.assert_allclose(process.variance, np.diag(covariance), rtol=1e-8)


def test_linear_terms_agree_with_scikit_learn():
    """DotProduct is sigma_0^2 + x . x': coefficients of 1, R and G, independent of each other."""
    terms = LinearTerms(np.column_stack([np.ones(M), SPACE.points]), np.diag([0.5**2, 1.0, 1.0]))
    indices, values, noise = told(1)
    same = ConstantKernel(1.0) * RBF((0.8, 1.2)) + DotProduct(0.5)
    mean, variance, evidence = by_scikit_learn(same, indices, values, noise)
    kernel = Product.of("squared_exponential", 1.0, (0.8, 1.2))
    for prior in (
        process_for(kernel, SPACE, np.zeros(M), terms),
        GaussianProcess.over(kernel, SPACE.points, np.zeros(M), terms),
    ):
        process = prior.condition(indices, values, noise)
        np.testing.assert_allclose(process.mean, mean, rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(process.variance, variance, rtol=1e-8, atol=1e-9)
        assert process.log_evidence == pytest.approx(evidence, rel=1e-8)


def test_separable_kernels_get_the_grid_and_all_others_the_general_engine():
    zero = np.zeros(M)
    assert isinstance(process_for(Product.of("matern32", 1.0, (1.0, 1.0)), SPACE, zero), GridProcess)
    assert isinstance(process_for(SquaredExponential(1.0, (1.0, 1.0)), SPACE, zero), GridProcess)
    assert isinstance(process_for(Matern52(1.0, (1.0, 1.0)), SPACE, zero), GaussianProcess)
    five = TargetSpace({name: (0.0, 1.0) for name in "abcde"})
    assert isinstance(process_for(Product.of("matern52", 1.0, (1.0,) * 5), five, np.zeros(32)), GaussianProcess)
    for process in (
        world(0, (3,), ("matern52",), 1).prior(),
        GaussianProcess.over(Matern52(1.0, (1.0,)), np.zeros((1, 1)), np.zeros(1)),
    ):
        assert isinstance(process, Process)


def test_refuses_a_kernel_of_other_axes():
    with pytest.raises(UsageError, match="1 lengthscales, the dial has the axes"):
        process_for(Matern52(1.0, (1.0,)), SPACE, np.zeros(M))


def test_log_determinant_of_both_engines_is_the_information_told():
    """Repeats of one candidate: ln(1 + n sd^2 / noise), whatever the kernel."""
    for kernel in (Matern52(2.0, (1.0, 1.0)), Product.of("matern52", 2.0, (1.0, 1.0))):
        process = process_for(kernel, SPACE, np.zeros(M))
        assert process.log_determinant == 0.0
        process = process.condition(np.full(7, 3), np.zeros(7), np.full(7, 0.5))
        assert process.log_determinant == pytest.approx(np.log(1.0 + 7 * 4.0 / 0.5))


def test_the_exact_engine_refuses_features_of_other_candidates():
    with pytest.raises(UsageError, match="features of 3 candidates"):
        process_for(Matern52(1.0, (1.0, 1.0)), SPACE, np.zeros(M), LinearTerms(np.ones((3, 1)), np.eye(1)))
