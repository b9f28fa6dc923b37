import pickle

import numpy as np
import pytest
from gp_worlds import dense, world, worlds
from hypothesis import given, settings
from hypothesis import strategies as st

from safehold.core.errors import DataError, ModelError, UsageError
from safehold.core.target import TargetSpace
from safehold.gp.exact import GaussianProcess
from safehold.gp.grid import GridProcess, GridStack, stacked
from safehold.gp.kernels import Factor, Product, SquaredExponential
from safehold.gp.linear import LinearTerms

TWO_AXES = ("matern52", "matern52")
KEEP = settings(max_examples=40, deadline=None)


def agree(a, b, rtol=1e-10, atol=1e-12):
    np.testing.assert_allclose(a.mean, b.mean, rtol=rtol, atol=atol)
    np.testing.assert_allclose(a.variance, b.variance, rtol=rtol, atol=atol)
    assert a.log_determinant == pytest.approx(b.log_determinant, rel=rtol, abs=atol)
    assert a.log_evidence == pytest.approx(b.log_evidence, rel=rtol, abs=1e-10)
    assert a.n_told == b.n_told


@given(args=worlds())
@KEEP
def test_posterior_evidence_and_determinant_are_the_textbook_formulas(args):
    w = world(*args)
    belief, answer = w.one_by_one(w.prior()), dense(w)
    np.testing.assert_allclose(belief.mean, answer.mean, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(belief.variance, np.diag(answer.covariance), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(belief.sd**2, belief.variance, atol=1e-15)
    assert belief.log_determinant == pytest.approx(answer.log_determinant, rel=1e-9, abs=1e-10)
    assert belief.log_evidence == pytest.approx(answer.log_evidence, rel=1e-9, abs=1e-9)


@given(args=worlds(min_told=0), seed=st.integers(0, 10**6))
@KEEP
def test_covariances_and_columns_are_the_textbook_formula(args, seed):
    w = world(*args)
    belief, covariance = w.one_by_one(w.prior()), dense(w).covariance
    rng, m = np.random.default_rng(seed), len(w.space)
    a, b, index = rng.integers(0, m, 3), rng.integers(0, m, 4), int(rng.integers(m))
    np.testing.assert_allclose(belief.covariances(a, b), covariance[np.ix_(a, b)], rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(belief.column(index), covariance[index], rtol=1e-9, atol=1e-11)


@given(args=worlds(min_told=2))
@KEEP
def test_one_by_one_is_all_at_once_is_the_engine_for_all_kernels(args):
    w = world(*args)
    steps = w.one_by_one(w.prior())
    agree(steps, w.prior().condition(w.indices, w.values, w.noise))
    exact = GaussianProcess.over(w.kernel, w.space.points, w.mean, w.linear)
    agree(steps, exact.condition(w.indices, w.values, w.noise))


@given(args=worlds(min_told=3), cut=st.integers(1, 2))
@KEEP
def test_more_told_in_one_call_is_the_same_as_in_several(args, cut):
    w = world(*args)
    first = w.prior().condition(w.indices[:cut], w.values[:cut], w.noise[:cut])
    both = first.condition(w.indices[cut:], w.values[cut:], w.noise[cut:])
    agree(both, w.one_by_one(w.prior()))


@given(args=worlds(), seed=st.integers(0, 10**6))
@KEEP
def test_order_of_measurements_does_not_matter(args, seed):
    w = world(*args)
    order = np.random.default_rng(seed).permutation(len(w.indices))
    agree(w.one_by_one(w.prior()), w.one_by_one(w.prior(), order), rtol=1e-9, atol=1e-10)


@given(args=worlds())
@KEEP
def test_more_data_never_widens_the_belief(args):
    w = world(*args)
    belief = w.prior()
    for t in range(len(w.indices)):
        after = belief.condition(w.indices[t : t + 1], w.values[t : t + 1], w.noise[t : t + 1])
        assert np.all(after.variance <= belief.variance)
        assert after.log_determinant >= belief.log_determinant
        belief = after


@given(args=worlds(), repeats=st.integers(2, 20))
@KEEP
def test_repeats_of_one_candidate_are_one_mean_with_less_noise(args, repeats):
    w = world(*args)
    start = w.one_by_one(w.prior())
    index, values = w.indices[:1], np.linspace(-1.0, 1.0, repeats)
    told = start
    for value in values:
        told = told.condition(index, np.array([value]), np.array([0.3]))
    once = start.condition(index, np.array([values.mean()]), np.array([0.3 / repeats]))
    np.testing.assert_allclose(told.mean, once.mean, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(told.variance, once.variance, rtol=1e-9, atol=1e-11)


@given(data=st.data(), args=worlds(min_told=18, max_told=22))
@settings(max_examples=25, deadline=None)
def test_beliefs_of_one_run_never_see_what_another_was_told(data, args):
    """A tree of beliefs, grown at random places, against the same beliefs grown alone."""
    w = world(*args)
    nodes = [(w.prior(), [])]
    for t in range(len(w.indices)):
        parent, path = nodes[data.draw(st.integers(max(0, len(nodes) - 4), len(nodes) - 1))]
        told = (w.indices[t : t + 1], w.values[t : t + 1], w.noise[t : t + 1])
        nodes.append((parent.condition(*told), [*path, t]))
    for belief, path in nodes:
        alone = w.one_by_one(w.prior(), path)
        np.testing.assert_array_equal(belief.mean, alone.mean)
        np.testing.assert_array_equal(belief.variance, alone.variance)
        np.testing.assert_array_equal(belief.column(0), alone.column(0))
        assert (belief.log_determinant, belief.log_evidence) == (alone.log_determinant, alone.log_evidence)


def test_two_children_of_one_parent_do_not_disturb_each_other():
    w = world(1, (6, 5), TWO_AXES, 30)
    parent = w.one_by_one(w.prior(), range(10))
    left, right = w.one_by_one(parent, range(10, 20)), w.one_by_one(parent, range(20, 30))
    agree(parent, w.one_by_one(w.prior(), range(10)), rtol=0, atol=0)
    agree(left, w.one_by_one(w.prior(), range(20)), rtol=0, atol=0)
    agree(right, w.one_by_one(w.prior(), [*range(10), *range(20, 30)]), rtol=0, atol=0)


def test_a_refused_measurement_leaves_the_belief_usable():
    w = world(2, (6, 5), TWO_AXES, 12)
    belief = w.one_by_one(w.prior(), range(6))
    with pytest.raises(ModelError, match="cannot be factored"):
        belief.condition(np.array([3, 3]), np.zeros(2), np.array([1e-18, 1e-18]))
    agree(w.one_by_one(belief, range(6, 12)), w.one_by_one(w.prior()), rtol=0, atol=0)


def test_a_belief_sent_to_another_process_goes_on_as_it_would_have_here():
    w = world(2, (6, 5), TWO_AXES, 12, linear=True)
    belief = w.one_by_one(w.prior(), range(6))
    sent = pickle.loads(pickle.dumps(belief))
    agree(w.one_by_one(sent, range(6, 12)), w.one_by_one(belief, range(6, 12)), rtol=0, atol=0)


def test_five_hundred_updates_equal_a_fresh_factorisation_to_rounding():
    """Drift of the rank-one updates, on a grid where most candidates are measured several times."""
    w = world(3, (15, 14), TWO_AXES, 500)
    steps, once = w.one_by_one(w.prior()), w.prior().condition(w.indices, w.values, w.noise)
    assert np.max(np.abs(steps.variance - once.variance)) < 1e-12
    agree(steps, once)


def test_long_runs_outgrow_every_buffer():
    w = world(4, (40, 3), TWO_AXES, 200)
    agree(
        w.one_by_one(w.prior()),
        GaussianProcess.over(w.kernel, w.space.points, w.mean).condition(w.indices, w.values, w.noise),
    )


def test_many_measurements_at_once_are_explained_in_slabs():
    w = world(5, (60, 90), TWO_AXES, 120, linear=True)  # prior variances of thousands: rounding is relative to those
    agree(w.prior().condition(w.indices, w.values, w.noise), w.one_by_one(w.prior()), rtol=1e-10, atol=1e-10)


def test_squared_exponential_needs_no_product_to_be_separable():
    w = world(6, (7, 6), ("squared_exponential",) * 2, 15)
    kernel = SquaredExponential(w.kernel.sd, w.kernel.lengthscales)
    agree(w.one_by_one(GridProcess.over(kernel, w.space, w.mean)), w.one_by_one(w.prior()))


def test_a_context_that_shares_nothing_learns_nothing_from_another():
    space = TargetSpace({"z": (0.0, 1.0, 2.0), "policy": (0.0, 1.0)})
    alike, apart = (
        GridProcess.over(Product.of("matern52", 1.0, (1.0, 1.0)), space, np.zeros(6)),
        GridProcess.over(categorical(0.0), space, np.zeros(6)),
    )
    told = (np.array([0]), np.array([2.0]), np.array([0.1]))
    other = np.array([1, 3, 5])
    np.testing.assert_array_equal(apart.condition(*told).variance[other], 1.0)
    np.testing.assert_array_equal(apart.condition(*told).mean[other], 0.0)
    assert np.all(alike.condition(*told).variance[other] < 1.0)
    half = GridProcess.over(categorical(0.5), space, np.zeros(6)).condition(*told)
    np.testing.assert_allclose(half.mean[1], half.mean[0] / 2)


def categorical(correlation):
    return Product(1.0, (Factor("matern52", 1.0), Factor("categorical", correlation)))


def test_with_vague_coefficients_a_line_is_learnt_everywhere():
    """Two distant, precise measurements of f = 3 + 2 z settle a vague line, as generalised least squares does."""
    space = TargetSpace({"z": tuple(np.linspace(0, 10, 21))})
    terms = LinearTerms(np.column_stack([np.ones(21), space.points]), 1e8 * np.eye(2))
    prior = GridProcess.over(Product.of("matern52", 1e-3, (1.0,)), space, np.zeros(21), terms)
    told = prior.condition(np.array([0, 20]), np.array([3.0, 23.0]), np.full(2, 1e-6))
    np.testing.assert_allclose(told.mean, 3.0 + 2.0 * space.points[:, 0], atol=1e-3)
    assert np.all(told.sd < 5e-3)


def test_linear_terms_without_uncertainty_change_nothing():
    w = world(7, (5, 4), TWO_AXES, 10)
    certain = LinearTerms(np.ones((20, 1)), np.zeros((1, 1)))
    agree(w.one_by_one(GridProcess.over(w.kernel, w.space, w.mean, certain)), w.one_by_one(w.prior()))


def test_prior_mean_may_be_a_function_of_the_candidates_and_arrays_are_read_only():
    w = world(8, (5, 4), TWO_AXES, 3)
    belief = GridProcess.over(w.kernel, w.space, lambda points: points[:, 0])
    np.testing.assert_array_equal(belief.mean, w.space.points[:, 0])
    for array in (w.one_by_one(belief).mean, w.one_by_one(belief).variance, belief.variance):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0.0


def test_nothing_told_changes_nothing():
    prior = world(9, (5, 4), TWO_AXES, 1).prior()
    agree(prior.condition(np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0)), prior, rtol=0, atol=0)


def test_a_stack_is_its_processes_to_the_last_bit():
    w = world(10, (6, 5), TWO_AXES, 25)
    kernels = tuple(Product.of("matern52", sd, (a, 1.0)) for sd in (1.0, 2.0) for a in (0.5, 1.5))
    alone = [GridProcess.over(kernel, w.space, w.mean) for kernel in kernels]
    stack = stacked(tuple(alone))
    assert isinstance(stack, GridStack)
    for t in range(25):
        told = (w.indices[t : t + 1], w.values[t : t + 1], w.noise[t : t + 1])
        alone = [process.condition(*told) for process in alone]
        stack = stack.condition(told[0], np.tile(told[1], (4, 1)), told[2])
    for process, member in zip(alone, stack.processes, strict=True):
        agree(member, process, rtol=0, atol=0)
        np.testing.assert_array_equal(member.column(7), process.column(7))
        np.testing.assert_array_equal(
            member.covariances(np.arange(3), np.arange(4)), process.covariances(np.arange(3), np.arange(4))
        )
    again = (np.array([3]), np.array([0.5]), np.array([0.1]))
    agree(stack.processes[2].condition(*again), alone[2].condition(*again), rtol=0, atol=0)


def test_only_beliefs_that_fit_together_are_stacked():
    w = world(11, (4, 3), TWO_AXES, 1)
    prior, told = w.prior(), w.one_by_one(w.prior())
    terms = LinearTerms(np.ones((12, 1)), np.eye(1))
    other_grid = world(12, (4, 3), TWO_AXES, 1).prior()
    assert stacked((prior, told)) is None
    assert stacked((told, prior)) is None
    assert stacked((prior, other_grid)) is None
    assert stacked((prior, GridProcess.over(w.kernel, w.space, w.mean, terms))) is None
    pair = stacked((prior, w.prior()))
    assert pair is not None
    assert stacked(pair.processes) is pair
    assert stacked(pair.processes[::-1]) is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e101])
def test_refuses_a_measurement_that_is_not_finite(value):
    with pytest.raises(DataError, match="not finite"):
        world(13, (4,), ("matern52",), 1).prior().condition(np.array([0]), np.array([value]), np.array([1.0]))


@pytest.mark.parametrize("noise", [0.0, -1.0, np.nan, np.inf])
def test_refuses_noise_that_is_not_positive(noise):
    with pytest.raises(DataError, match="finite and positive"):
        world(13, (4,), ("matern52",), 1).prior().condition(np.array([0]), np.array([1.0]), np.array([noise]))


@pytest.mark.parametrize("index", [-1, 4])
def test_refuses_a_candidate_that_is_not_there(index):
    prior = world(13, (4,), ("matern52",), 1).prior()
    with pytest.raises(UsageError, match="numbered from 0 to 3"):
        prior.condition(np.array([index]), np.array([1.0]), np.array([1.0]))
    with pytest.raises(UsageError, match="numbered from 0 to 3"):
        prior.column(index)


def test_refuses_a_prior_mean_with_holes_and_features_of_other_candidates():
    w = world(14, (4, 3), TWO_AXES, 1)
    holes = w.mean.copy()
    holes[3] = np.nan
    with pytest.raises(UsageError, match="1 non-finite"):
        GridProcess.over(w.kernel, w.space, holes)
    with pytest.raises(UsageError, match="shape"):
        GridProcess.over(w.kernel, w.space, w.mean[:5])
    with pytest.raises(UsageError, match="features of 5 candidates"):
        GridProcess.over(w.kernel, w.space, w.mean, LinearTerms(np.ones((5, 1)), np.eye(1)))


class NotACovariance:
    """Claims more correlation between two values than either has with itself."""

    sd = 1.0
    lengthscales = (1.0, 1.0)
    separable = True

    def __call__(self, a, b):
        return np.prod([self.axis_cross(i, a[:, i], b[:, i]) for i in range(2)], axis=0)

    def diagonal(self, a):
        return np.ones(len(a))

    def axis_cross(self, _axis, a, b):
        return 1.0 + 1.0 * (a[:, None] != b[None])

    def axis_matrix(self, axis, values):
        return self.axis_cross(axis, values, values)


def test_a_negative_variance_stops_the_run():
    prior = GridProcess.over(NotACovariance(), TargetSpace({"a": (0.0, 1.0), "b": (0.0, 1.0)}), np.zeros(4))
    with pytest.raises(ModelError, match=r"variance at candidate 1 is -"):
        prior.condition(np.array([0]), np.array([1.0]), np.array([0.01]))
    with pytest.raises(ModelError, match="cannot be factored"):
        prior.condition(np.array([0, 1]), np.array([1.0, 1.0]), np.array([0.01, 0.01]))
