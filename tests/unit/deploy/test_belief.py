import math

import numpy as np
import pytest
from deploy_toys import declaration
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from safehold.core.constraint import Limit
from safehold.core.measurement import Measurement
from safehold.core.target import TargetSpace
from safehold.deploy.belief import NOISE_STEP, Belief, ToldMean, rounded_up, variance_bound
from safehold.deploy.prior import Prior
from safehold.deploy.replay import told_statistic
from safehold.gp.kernels import Matern52, SquaredExponential
from safehold.gp.mixture import Mixture
from safehold.gp.process import process_for

SPACE = TargetSpace({"z": tuple(np.linspace(0, 10, 21))})
MEAN = np.full(21, 10.0)
PRIOR = Mixture((process_for(Matern52(5.0, (3.0,)), SPACE, MEAN),), (0.0,))
LIMIT = Limit("cost", 10.0)
MISS = 0.2  # the first bound is wrong with probability 0.1


def before(sd=2.0, miss=MISS, prior=PRIOR):
    return Belief.before(prior, np.full(21, sd**2), miss)


def tell(belief, index, episodes, extra=0.0):
    n = len(episodes)
    return belief.tell(ToldMean(index, float(np.mean(episodes)), n, 1.0 / n, extra), episodes)


def test_the_bound_on_a_variance_is_the_chi_square_one():
    assert variance_bound(30.0, 19, 0.1) == pytest.approx(30.0 / chi2.ppf(0.1, 19))
    assert variance_bound(0.0, 0, 0.1) == 0.0


def test_the_bound_covers_the_variance_as_often_as_it_says():
    rng = np.random.default_rng(0)
    draws = rng.normal(0.0, 3.0, (4000, 6))
    squares = np.sum((draws - draws.mean(axis=1, keepdims=True)) ** 2, axis=1)
    covered = np.mean([variance_bound(float(s), 5, 0.1) >= 9.0 for s in squares])
    assert covered == pytest.approx(0.9, abs=4 * math.sqrt(0.9 * 0.1 / 4000))


def test_all_bounds_together_are_wrong_no_oftener_than_their_share():
    """True variance 4 times the floor: in how many runs does any of 15 bounds fall below it?"""
    rng = np.random.default_rng(1)
    wrong = 0
    for _ in range(300):
        squares, degrees, missed = 0.0, 0, False
        for n in range(1, 16):
            episodes = rng.normal(0.0, 2.0, 5)
            squares += float(np.sum((episodes - episodes.mean()) ** 2))
            degrees += 4
            missed |= variance_bound(squares, degrees, MISS / (n * (n + 1))) < 4.0
        wrong += missed
    assert wrong / 300 <= MISS + 3 * math.sqrt(MISS * (1 - MISS) / 300)
    assert sum(MISS / (n * (n + 1)) for n in range(1, 10_000)) < MISS


@given(variance=st.floats(1e-6, 1e6), floor=st.floats(1e-3, 1e3))
@settings(max_examples=100, deadline=None)
def test_noise_is_rounded_up_never_down_and_never_below_the_floor(variance, floor):
    used = rounded_up(variance, floor)
    assert used >= max(variance, floor)
    assert used <= max(variance, floor) * NOISE_STEP * (1 + 1e-9)


def test_all_zero_episodes_do_not_make_noise_of_zero():
    assert tell(before(), 4, np.zeros(20)).episode_variance(4) == 4.0


def test_noise_is_pooled_over_trials_and_raises_what_was_told_before():
    rng = np.random.default_rng(0)
    first, second = rng.normal(8.0, 6.0, 20), rng.normal(12.0, 6.0, 20)
    quiet = tell(before(), 4, np.full(20, 8.0))
    belief = tell(tell(quiet, 6, first), 9, second)
    squares = float(np.sum((first - first.mean()) ** 2) + np.sum((second - second.mean()) ** 2)) / 4.0
    assert belief.scale == pytest.approx(rounded_up(variance_bound(squares, 57, MISS / 12), 1.0))
    assert belief.scale > 1.0
    by_hand = PRIOR.condition(
        np.array([4, 6, 9]),
        np.array([8.0, first.mean(), second.mean()]),
        np.full(3, 4.0 * belief.scale / 20),
    )
    np.testing.assert_allclose(belief.process.mean, by_hand.mean, rtol=1e-10)
    np.testing.assert_allclose(belief.process.variance, by_hand.variance, rtol=1e-10)
    assert belief.process.variance[4] > quiet.process.variance[4] * 0.99


def test_noise_that_is_known_is_neither_raised_nor_paid_for():
    rng = np.random.default_rng(0)
    belief = tell(before(miss=None), 4, rng.normal(8.0, 60.0, 20))
    assert (belief.episode_variance(4), belief.scale) == (4.0, 1.0)


def test_noise_of_a_declared_shape_is_pooled_relative_to_it():
    """Floors 1 and 9: the same scatter relative to the floor is the same evidence wherever it was seen."""
    floor = np.where(np.arange(21) < 10, 1.0, 9.0)
    offsets = 2.0 * np.linspace(-1.0, 1.0, 10)
    low = tell(Belief.before(PRIOR, floor, MISS), 4, 10.0 + offsets)
    high = tell(Belief.before(PRIOR, floor, MISS), 15, 10.0 + 3.0 * offsets)
    assert low.scale == pytest.approx(high.scale)
    assert high.episode_variance(4) == pytest.approx(high.scale)
    assert high.episode_variance(15) == pytest.approx(9.0 * high.scale)


def test_more_episodes_tell_more():
    few = tell(before(), 4, np.full(5, 8.0))
    many = tell(before(), 4, np.full(50, 8.0))
    assert many.process.variance[4] < few.process.variance[4]


def test_one_episode_counts_with_the_declared_noise():
    belief = tell(before(), 4, np.array([8.0]))
    assert (belief.episode_variance(4), belief.degrees) == (4.0, 0)


def test_what_is_unknown_of_an_outcome_widens_it():
    sure, unsure = tell(before(), 4, np.full(20, 8.0)), tell(before(), 4, np.full(20, 8.0), extra=25.0)
    assert unsure.process.variance[4] > sure.process.variance[4]


def test_an_assumed_outcome_moves_no_weight_of_a_mixture_in_whatever_order_it_is_told():
    members = tuple(process_for(SquaredExponential(5.0, (scale,)), SPACE, MEAN) for scale in (1.0, 6.0))
    empty = before(prior=Mixture(members, (0.0, 0.0)))
    measured = tell(tell(empty, 4, np.full(20, 8.0)), 6, np.full(20, 12.0))
    with_assumed = tell(measured, 5, np.full(20, 30.0), extra=100.0)
    first = tell(tell(tell(empty, 5, np.full(20, 30.0), extra=100.0), 4, np.full(20, 8.0)), 6, np.full(20, 12.0))
    np.testing.assert_allclose(with_assumed.process.weights, measured.process.weights, rtol=1e-12)
    np.testing.assert_allclose(first.process.weights, measured.process.weights, rtol=1e-9)
    np.testing.assert_allclose(first.process.mean, with_assumed.process.mean, rtol=1e-9)
    assert with_assumed.process.mean[5] > measured.process.mean[5]


@given(order=st.permutations(range(5)))
@settings(max_examples=20, deadline=None)
def test_the_order_of_trials_does_not_matter(order):
    rng = np.random.default_rng(1)
    batches = [rng.normal(8.0, 4.0, 10) for _ in range(5)]
    beliefs = []
    for sequence in (range(5), order):
        belief = before()
        for i in sequence:
            belief = tell(belief, 2 * i, batches[i])
        beliefs.append(belief)
    np.testing.assert_allclose(beliefs[0].process.mean, beliefs[1].process.mean, rtol=1e-9)
    np.testing.assert_allclose(beliefs[0].process.variance, beliefs[1].process.variance, rtol=1e-9)


@given(
    told=st.lists(st.tuples(st.integers(0, 80), st.floats(0.0, 40.0)), max_size=5),
    failed=st.lists(st.tuples(st.integers(0, 80), st.sampled_from([0.05, 0.3, 1.0])), min_size=1, max_size=2),
)
@settings(max_examples=25, deadline=None)
def test_an_assumed_outcome_makes_no_target_look_safer_than_what_was_measured_alone(told, failed):
    """Told high at one place, a posterior may fall at another: an assumption must not certify anything by that."""
    declared = declaration(lengthscales=None)
    measured = declared.beliefs({})["cost"]
    for index, value in told:
        measured = measured.tell(ToldMean(index, value, 20, 0.05, 0.0), np.zeros(0))
    assumed = measured
    for index, share in failed:
        assumed = assumed.tell(ToldMean(index, share * 200.0, 20, 0.05, (share * 100.0) ** 2), np.zeros(0))
    for inflate in (1.0, 1.5):
        assert np.all(assumed.risk(20.0, inflate) >= measured.process.risk(20.0, inflate) - 1e-12)
        assert np.all(assumed.risk(20.0, inflate) >= assumed.process.risk(20.0, inflate) - 1e-12)
    assert np.all(assumed.upper(3.0) >= measured.process.upper(3.0) - 1e-9)
    assert np.all(assumed.lower(3.0) <= measured.process.lower(3.0) + 1e-9)
    assert assumed.process.measured.n_told == len(told)
    assert measured.process.measured is measured.process


def test_a_failed_episode_at_one_target_certifies_nothing_at_another():
    """Regression: beside a measured target, the assumed cost of a failed one pushed the risk down on the far side."""
    declared = declaration(lengthscales={"reward": 60.0, "cost": 20.0}, delta=0.3)
    belief = declared.beliefs({})["cost"]
    for index, value in ((40, 21.0), (44, 15.0), (49, 18.0)):
        belief = belief.tell(ToldMean(index, value, 20, 0.05, 0.0), np.zeros(0))
    lower = 0
    for index in range(81):
        assumed = belief.tell(ToldMean(index, 10.0, 20, 0.05, 25.0), np.zeros(0))
        lower += int(np.sum(assumed.process.risk(20.0) < 0.5 * belief.process.risk(20.0)))
        assert np.all(assumed.risk(20.0) >= belief.process.risk(20.0))
    assert lower > 0  # the belief with the assumption alone would have


@pytest.mark.parametrize("correlation", [None, 0.9])
def test_by_what_was_measured_survivors_are_as_many_fresh_episodes(correlation):
    """The conditional law given all that is known, if failing says nothing of costs: Theorem 1 charges at least it."""
    space = TargetSpace({"reward": tuple(np.linspace(0, 100, 7)), "cost": tuple(np.linspace(0, 10, 7))})
    coupled = {} if correlation is None else {"correlation": {"cost": [0.0, correlation]}}
    prior = Prior.asked(
        space,
        [LIMIT],
        np.ones(49, np.bool_),
        reward_dial_error=20.0,
        reward_episode_sd=5.0,
        noise_known=True,
        **coupled,
    )
    rng = np.random.default_rng(3)
    cautious = exact = prior.belief("cost", None)
    for index in (0, 1, 8, 24, 31, 38, 40):
        reward, costs = float(rng.normal(50.0, 30.0)), rng.uniform(0.0, 20.0, 20)
        n = 20 if index < 20 else int(rng.integers(1, 20))
        failed = np.arange(20) >= n
        told = told_statistic(LIMIT, index, Measurement(rewards=costs, costs={"cost": costs}, failed=failed), 50.0)
        beside = ToldMean(index, reward, n, 1.0 / n, 0.0)
        cautious = cautious.tell(told, np.zeros(0), beside)
        exact = exact.tell(ToldMean(index, float(costs[:n].mean()), n, 1.0 / n, 0.0), np.zeros(0), beside)
    np.testing.assert_allclose(cautious.process.measured.means, exact.process.means, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(cautious.process.weights, exact.process.weights, rtol=1e-9)
    assert np.all(cautious.risk(10.0) >= exact.risk(10.0) - 1e-12)
    assert np.any(cautious.process.risk(10.0) < exact.risk(10.0) - 1e-4)  # the assumption alone would not do
    assert np.any(cautious.process.risk(10.0) > exact.risk(10.0) + 1e-4)
    np.testing.assert_allclose(
        cautious.risk(10.0), np.maximum(cautious.process.risk(10.0), exact.process.risk(10.0)), atol=1e-12
    )
