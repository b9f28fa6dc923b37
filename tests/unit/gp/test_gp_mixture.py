import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm

from safehold.core.errors import ModelError, UsageError
from safehold.core.target import TargetSpace
from safehold.gp.exact import GaussianProcess
from safehold.gp.grid import GridStack
from safehold.gp.kernels import Kernel, Matern52, Product
from safehold.gp.mixture import Mixture, OneByOne, together
from safehold.gp.process import LinearTerms, process_for

SPACE = TargetSpace({"R": tuple(np.linspace(0.0, 3.0, 7)), "G": tuple(np.linspace(0.0, 2.0, 5))})
M = len(SPACE)
MEAN = SPACE.points[:, 1]
PRODUCTS = tuple(Product.of("matern52", sd, (a, 1.0)) for sd in (0.5, 1.5) for a in (0.6, 2.0))
MIXED: tuple[Kernel, ...] = (*PRODUCTS[:2], Matern52(0.5, (0.6, 1.0)), Matern52(1.5, (2.0, 1.0)))
LOG_PRIOR = (-0.1, -2.0, 0.4, -1.0)
TERMS = LinearTerms(np.column_stack([np.ones(M), SPACE.points]), 0.2 * np.eye(3))
BOTH = pytest.mark.parametrize("kernels", [PRODUCTS, MIXED], ids=["stacked", "one by one"])


def mixture(kernels=PRODUCTS, linear=None) -> Mixture:
    return Mixture(tuple(process_for(kernel, SPACE, MEAN, linear) for kernel in kernels), LOG_PRIOR)


def told(seed=0, n=12):
    rng = np.random.default_rng(seed)
    return rng.integers(0, M, n), rng.normal(1.0, 0.7, n), rng.uniform(0.05, 0.3, n)


def one(index, value, noise=0.1):
    return np.array([index]), np.array([value]), np.array([noise])


def density(kernel, indices, noise, linear=None):
    points = SPACE.points[indices]
    covariance = kernel(points, points) + np.diag(noise)
    if linear is not None:
        covariance += linear.cross(indices, indices)
    return multivariate_normal(MEAN[indices], covariance)


@BOTH
@pytest.mark.parametrize("linear", [None, TERMS], ids=["fixed mean", "linear terms"])
@given(seed=st.integers(0, 10**6))
@settings(max_examples=8, deadline=None)
def test_weights_are_prior_times_evidence_of_scipy_normals(kernels, linear, seed):
    indices, values, noise = told(seed)
    belief = mixture(kernels, linear)
    for t in range(len(values)):
        belief = belief.condition(indices[t : t + 1], values[t : t + 1], noise[t : t + 1])
    evidence = np.array([density(kernel, indices, noise, linear).logpdf(values) for kernel in kernels])
    np.testing.assert_allclose([member.log_evidence for member in belief.members], evidence, rtol=1e-9, atol=1e-9)
    joint = evidence + np.array(LOG_PRIOR)
    np.testing.assert_allclose(belief.weights, np.exp(joint - logsumexp(joint)), rtol=1e-8)
    assert belief.n_told == 12


@BOTH
def test_moments_risk_and_bounds_are_sums_and_extremes_over_members(kernels):
    belief = mixture(kernels).condition(*told())
    w = belief.weights
    means = np.array([member.mean for member in belief.members])
    sds = np.array([member.sd for member in belief.members])
    np.testing.assert_allclose(belief.mean, w @ means)
    np.testing.assert_allclose(belief.variance, w @ (sds**2 + means**2) - (w @ means) ** 2, rtol=1e-9)
    np.testing.assert_allclose(belief.sd, np.sqrt(belief.variance))
    np.testing.assert_allclose(belief.risk(1.5), w @ norm.sf(1.5, means, sds), rtol=1e-12)
    widened = np.maximum(norm.sf(1.5, means, 1.5 * sds), norm.sf(1.5, means, sds))
    np.testing.assert_allclose(belief.risk(1.5, inflate=1.5), w @ widened, rtol=1e-12)
    assert np.all(belief.risk(1.5, inflate=1.5) >= belief.risk(1.5) * (1 - 1e-12))
    np.testing.assert_allclose(belief.upper(2.0), np.max(means + 2.0 * sds, axis=0))
    np.testing.assert_allclose(belief.lower(2.0), np.min(means - 2.0 * sds, axis=0))
    each = np.array([1.0, 2.0, 3.0, 4.0])
    np.testing.assert_allclose(belief.upper(each), np.max(means + each[:, None] * sds, axis=0))
    np.testing.assert_allclose(belief.lower(each), np.min(means - each[:, None] * sds, axis=0))


@BOTH
def test_covariances_are_within_members_and_between_them(kernels):
    belief = mixture(kernels).condition(*told())
    a, b = np.array([0, 3, 3]), np.array([1, 3, 30, 8])
    expected = -np.outer(belief.mean[a], belief.mean[b])
    for weight, member in zip(belief.weights, belief.members, strict=True):
        expected += weight * (member.covariances(a, b) + np.outer(member.mean[a], member.mean[b]))
    np.testing.assert_allclose(belief.covariances(a, b), expected, rtol=1e-9, atol=1e-12)
    everything = np.arange(M)
    np.testing.assert_allclose(
        belief.column(3), belief.covariances(np.array([3]), everything)[0], rtol=1e-9, atol=1e-12
    )
    np.testing.assert_allclose(np.diag(belief.covariances(everything, everything)), belief.variance, rtol=1e-9)


def test_risk_is_the_share_of_draws_over_the_limit():
    belief = mixture().condition(*told())
    rng = np.random.default_rng(0)
    member = rng.choice(4, size=200_000, p=belief.weights)
    draws = rng.normal(belief.means[member, 9], belief.sds[member, 9])
    assert belief.risk(0.8)[9] == pytest.approx(np.mean(draws > 0.8), abs=0.005)
    assert belief.mean[9] == pytest.approx(np.mean(draws), abs=0.01)
    assert belief.sd[9] == pytest.approx(np.std(draws), rel=0.01)


@pytest.mark.parametrize("kernel", [PRODUCTS[1], MIXED[3]], ids=["grid", "general"])
def test_a_mixture_of_one_member_is_that_member_to_the_last_bit(kernel):
    process = process_for(kernel, SPACE, MEAN)
    alone = Mixture((process,), (-3.0,))
    indices, values, noise = told()
    for t in range(12):
        now = (indices[t : t + 1], values[t : t + 1], noise[t : t + 1])
        process, alone = process.condition(*now), alone.condition(*now)
    np.testing.assert_array_equal(alone.weights, 1.0)
    np.testing.assert_array_equal(alone.mean, process.mean)
    np.testing.assert_array_equal(alone.variance, process.variance)
    np.testing.assert_array_equal(alone.sd, process.sd)
    np.testing.assert_array_equal(alone.upper(3.0), process.mean + 3.0 * process.sd)
    np.testing.assert_array_equal(alone.lower(3.0), process.mean - 3.0 * process.sd)
    np.testing.assert_array_equal(alone.column(4), process.column(4))
    np.testing.assert_array_equal(
        alone.covariances(np.arange(3), np.arange(5)), process.covariances(np.arange(3), np.arange(5))
    )
    np.testing.assert_array_equal(alone.risk(1.0), norm.cdf((process.mean - 1.0) / process.sd))
    assert alone.members[0].log_evidence == process.log_evidence


@BOTH
def test_hallucinating_shrinks_variances_and_leaves_means_and_weights(kernels):
    belief = mixture(kernels).condition(*told())
    pending = belief.hallucinate(np.array([4, 30]), np.array([0.1, 0.2]))
    np.testing.assert_allclose(pending.means, belief.means, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(pending.weights, belief.weights)
    measured = belief.condition(np.array([4, 30]), np.array([9.0, -9.0]), np.array([0.1, 0.2]))
    np.testing.assert_allclose(pending.sds, measured.sds, rtol=1e-9)
    assert np.all(pending.sds[:, 4] < belief.sds[:, 4])
    assert belief.n_told == 12


@BOTH
def test_what_is_assumed_moves_members_and_never_weights(kernels):
    """Not even by way of what is told later: the weights are those of a mixture that never heard of it."""
    start = mixture(kernels)
    mixed = start.assume(*one(3, 8.0)).condition(*told()).assume(*one(20, -8.0))
    without = start.condition(*told())
    np.testing.assert_array_equal(mixed.measured.means, without.means)
    np.testing.assert_array_equal(mixed.weights, without.weights)
    everything = start.condition(*one(3, 8.0)).condition(*told()).condition(*one(20, -8.0))
    np.testing.assert_allclose(mixed.means, everything.means, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(mixed.sds, everything.sds, rtol=1e-9, atol=1e-12)
    assert not np.allclose(everything.weights, without.weights)


@BOTH
def test_what_was_measured_of_an_assumption_counts_for_the_weights_in_its_place(kernels):
    start = mixture(kernels)
    mixed = start.condition(*told()).assume(*one(3, 8.0), measured=one(3, 1.0)).condition(*one(7, 2.0))
    measured = start.condition(*told()).condition(*one(3, 1.0)).condition(*one(7, 2.0))
    np.testing.assert_array_equal(mixed.weights, measured.weights)
    np.testing.assert_array_equal(mixed.measured.sds, measured.sds)
    believed = start.condition(*told()).condition(*one(3, 8.0)).condition(*one(7, 2.0))
    np.testing.assert_array_equal(mixed.means, believed.means)


@BOTH
@given(seed=st.integers(0, 10**6))
@settings(max_examples=8, deadline=None)
def test_order_of_measurements_does_not_matter(kernels, seed):
    indices, values, noise = told(seed)
    counts = np.random.default_rng(seed).uniform(size=12) < 0.8
    results = []
    for order in (np.arange(12), np.random.default_rng(seed + 1).permutation(12)):
        belief = mixture(kernels)
        for t in order:
            tell = belief.condition if counts[t] else belief.assume
            belief = tell(indices[[t]], values[[t]], noise[[t]])
        results.append(belief)
    a, b = results
    np.testing.assert_allclose(a.weights, b.weights, rtol=1e-9)
    np.testing.assert_allclose(a.mean, b.mean, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(a.sd, b.sd, rtol=1e-9)


def test_the_true_model_gathers_the_weight():
    rng = np.random.default_rng(0)
    points = SPACE.points
    truth = rng.multivariate_normal(MEAN, PRODUCTS[3](points, points) + 1e-12 * np.eye(M))
    indices = np.tile(np.arange(M), 4)
    belief = mixture().condition(indices, truth[indices] + 0.05 * rng.standard_normal(4 * M), np.full(4 * M, 0.0025))
    assert np.argmax(belief.weights) == 3
    assert belief.weights[3] > 0.9


def test_grid_members_are_told_together_and_mixed_ones_one_by_one():
    assert isinstance(together(mixture(PRODUCTS).members), GridStack)
    assert isinstance(together(mixture(MIXED).members), OneByOne)
    told_twice = mixture(PRODUCTS).condition(*told())
    assert isinstance(together(told_twice.members), GridStack)


def test_a_stacked_mixture_is_the_same_told_one_by_one():
    """The grid engine in one sweep against the engine for all kernels, same kernels."""
    loose = Mixture(tuple(GaussianProcess.over(k, SPACE.points, MEAN, TERMS) for k in PRODUCTS), LOG_PRIOR)
    stacked, loose = mixture(linear=TERMS).condition(*told()), loose.condition(*told())
    np.testing.assert_allclose(stacked.weights, loose.weights, rtol=1e-9)
    np.testing.assert_allclose(stacked.risk(1.0), loose.risk(1.0), rtol=1e-8)
    np.testing.assert_allclose(stacked.column(9), loose.column(9), rtol=1e-9, atol=1e-12)


def test_a_member_without_spread_is_over_the_limit_unless_its_mean_is_under_it():
    space = TargetSpace({"z": (0.0, 1.0)})
    flat = process_for(Product.of("matern52", 1e-200, (1.0,)), space, np.array([1.0, 2.0]))  # sd^2 underflows to 0
    np.testing.assert_array_equal(Mixture((flat,), (0.0,)).risk(1.0), [1.0, 1.0])
    np.testing.assert_array_equal(Mixture((flat,), (0.0,)).risk(1.5), [0.0, 1.0])


@pytest.mark.parametrize("evidence", [np.nan, -np.inf])
def test_members_that_cannot_explain_what_was_told_stop_the_run(evidence):
    one_of_them = mixture(MIXED).members[2]
    at_a_loss = dataclasses.replace(one_of_them, log_evidence=evidence)
    with pytest.raises(ModelError, match="cannot explain what was told"):
        Mixture((at_a_loss,), (0.0,)).risk(1.0)


@pytest.mark.parametrize("inflate", [0.5, np.nan, np.inf])
def test_refuses_to_deflate(inflate):
    with pytest.raises(UsageError, match="at least 1"):
        mixture().risk(1.0, inflate)


def test_refuses_members_that_do_not_belong_together():
    prior = mixture().members
    other = process_for(Product.of("matern52", 1.0, (1.0,)), TargetSpace({"z": (0.0, 1.0)}), np.zeros(2))
    with pytest.raises(UsageError, match="a member and one log prior weight a member"):
        Mixture((), ())
    with pytest.raises(UsageError, match="4 members and 1 weights"):
        Mixture(prior, (0.0,))
    with pytest.raises(UsageError, match="must be finite"):
        Mixture(prior, (0.0, 0.0, -np.inf, 0.0))
    with pytest.raises(UsageError, match="same candidates"):
        Mixture((prior[0], other), (0.0, 0.0))
    with pytest.raises(UsageError, match="told as much"):
        Mixture((prior[0], prior[1].condition(*one(0, 1.0))), (0.0, 0.0))
