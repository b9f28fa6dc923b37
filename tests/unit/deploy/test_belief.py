import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from safehold.deploy.belief import NOISE_STEP, Belief, rounded_up, variance_bound
from safehold.gp.exact import GaussianProcess
from safehold.gp.kernels import Matern52

GRID = np.linspace(0, 10, 21)[:, None]
PRIOR = GaussianProcess.over(Matern52(5.0, (3.0,)), GRID, np.full(21, 10.0))


def before(sd=2.0):
    return Belief.before(PRIOR, sd, 0.9)


def test_the_bound_on_a_variance_is_the_chi_square_one():
    assert variance_bound(30.0, 19, 0.9) == pytest.approx(30.0 / chi2.ppf(0.1, 19))
    assert variance_bound(0.0, 0, 0.9) == 0.0


def test_the_bound_covers_the_variance_as_often_as_it_says():
    rng = np.random.default_rng(0)
    draws = rng.normal(0.0, 3.0, (4000, 6))
    squares = np.sum((draws - draws.mean(axis=1, keepdims=True)) ** 2, axis=1)
    covered = np.mean([variance_bound(float(s), 5, 0.9) >= 9.0 for s in squares])
    assert covered == pytest.approx(0.9, abs=4 * math.sqrt(0.9 * 0.1 / 4000))


@given(variance=st.floats(1e-6, 1e6), floor=st.floats(1e-3, 1e3))
@settings(max_examples=100, deadline=None)
def test_noise_is_rounded_up_never_down_and_never_below_the_floor(variance, floor):
    used = rounded_up(variance, floor)
    assert used >= max(variance, floor)
    assert used <= max(variance, floor) * NOISE_STEP * (1 + 1e-9)


def test_all_zero_episodes_do_not_make_noise_of_zero():
    belief = before().tell(4, np.zeros(20), np.zeros(20), 0.0)
    assert belief.episode_variance == 4.0


def test_noise_is_pooled_over_trials_and_raises_what_was_told_before():
    rng = np.random.default_rng(0)
    first, second = rng.normal(8.0, 6.0, 20), rng.normal(12.0, 6.0, 20)
    quiet = before().tell(4, np.full(20, 8.0), np.full(20, 8.0), 0.0)
    belief = quiet.tell(6, first, first, 0.0).tell(9, second, second, 0.0)
    squares = float(np.sum((first - first.mean()) ** 2) + np.sum((second - second.mean()) ** 2))
    assert belief.episode_variance == rounded_up(variance_bound(squares, 57, 0.9), 4.0)
    assert belief.episode_variance > 4.0
    by_hand = PRIOR.condition(
        np.array([4, 6, 9]),
        np.array([8.0, first.mean(), second.mean()]),
        np.full(3, belief.episode_variance / 20),
    )
    np.testing.assert_allclose(belief.process.mean, by_hand.mean, rtol=1e-10)
    np.testing.assert_allclose(belief.process.variance, by_hand.variance, rtol=1e-10)
    assert belief.process.variance[4] > quiet.process.variance[4] * 0.99


def test_more_episodes_tell_more():
    few = before().tell(4, np.full(5, 8.0), np.full(5, 8.0), 0.0)
    many = before().tell(4, np.full(50, 8.0), np.full(50, 8.0), 0.0)
    assert many.process.variance[4] < few.process.variance[4]


def test_one_episode_counts_with_the_declared_noise():
    belief = before().tell(4, np.array([8.0]), np.array([8.0]), 0.0)
    assert (belief.episode_variance, belief.degrees) == (4.0, 0)


def test_what_is_unknown_of_an_outcome_widens_it():
    sure = before().tell(4, np.full(20, 8.0), np.full(20, 8.0), 0.0)
    unsure = before().tell(4, np.full(20, 8.0), np.full(20, 8.0), 25.0)
    assert unsure.process.variance[4] > sure.process.variance[4]


@given(order=st.permutations(range(5)))
@settings(max_examples=20, deadline=None)
def test_the_order_of_trials_does_not_matter(order):
    rng = np.random.default_rng(1)
    batches = [rng.normal(8.0, 4.0, 10) for _ in range(5)]
    beliefs = []
    for sequence in (range(5), order):
        belief = before()
        for i in sequence:
            belief = belief.tell(2 * i, batches[i], batches[i], 0.0)
        beliefs.append(belief)
    np.testing.assert_allclose(beliefs[0].process.mean, beliefs[1].process.mean, rtol=1e-9)
    np.testing.assert_allclose(beliefs[0].process.variance, beliefs[1].process.variance, rtol=1e-9)
