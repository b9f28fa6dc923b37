"""Bets on raw episodes: closed forms, exact supermartingales, and error rates that hold."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import binom

from safehold.core.constraint import Limit
from safehold.core.errors import DataError, UsageError
from safehold.deploy.betting import FRACTIONS, Capital, clean_episodes, verify_limit, verify_seed

COSTS = arrays(np.float64, st.integers(1, 30), elements=st.floats(0.0, 3.0))
UNSAFE = Capital(hypothesis="unsafe", limit=1.0, cap=3.0)
SAFE = Capital(hypothesis="safe", limit=1.0, cap=3.0)
WEIGHTS = FRACTIONS / FRACTIONS.sum()


def expectation(start, support, probabilities, n, of):
    """Of the capital after n independent episodes, by enumeration of every outcome."""
    total = 0.0
    for places in itertools.product(range(len(support)), repeat=n):
        costs = np.array([support[place] for place in places], dtype=np.float64)
        total += math.prod(probabilities[place] for place in places) * of(start.after(costs))
    return total


def test_equal_costs_give_the_mixture_of_geometric_growths():
    costs = np.full(40, 0.5)
    assert UNSAFE.after(costs).value == pytest.approx(
        float(np.sum(WEIGHTS * (1 + FRACTIONS * 0.5 / 2) ** 40)), rel=1e-12
    )
    assert SAFE.after(costs).value == pytest.approx(float(np.sum(WEIGHTS * (1 - FRACTIONS * 0.5) ** 40)), rel=1e-12)


def test_nothing_told_is_capital_one():
    for start in (UNSAFE, SAFE):
        assert start.value == pytest.approx(1.0, rel=1e-14)
        assert start.after(np.empty(0)) == start
        assert not start.rejects(0.999)


@pytest.mark.parametrize(
    ("support", "probabilities"),
    [
        ([0.0, 3.0], [2 / 3, 1 / 3]),
        ([0.0, 1.0, 2.0], [0.25, 0.5, 0.25]),
        ([0.7, 1.0, 3.0], [20 / 23 * 0.9, 0.1, 3 / 23 * 0.9]),
    ],
)
def test_capital_is_a_martingale_at_the_limit(support, probabilities):
    assert np.dot(support, probabilities) == pytest.approx(1.0)
    for start in (UNSAFE, SAFE):
        for n in (1, 2, 5):
            assert expectation(start, support, probabilities, n, lambda c: c.value) == pytest.approx(1.0, rel=1e-12)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.floats(0.0, 3.0), min_size=2, max_size=3, unique=True),
    st.lists(st.floats(0.05, 1.0), min_size=3, max_size=3),
    st.floats(0.05, 2.9),
)
def test_capital_is_a_supermartingale_under_its_hypothesis(support, masses, limit):
    probabilities = np.array(masses[: len(support)]) / sum(masses[: len(support)])
    mean = float(np.dot(support, probabilities))
    hypotheses = (["unsafe"] if mean >= limit else []) + (["safe"] if mean <= limit else [])
    for hypothesis in hypotheses:
        start = Capital(hypothesis=hypothesis, limit=limit, cap=3.0)
        values = [expectation(start, support, probabilities, n, lambda c: c.value) for n in (1, 2, 3)]
        assert all(after <= before * (1 + 1e-9) for before, after in itertools.pairwise([1.0, *values]))


@pytest.mark.parametrize("start", [UNSAFE, SAFE])
@pytest.mark.parametrize("level", [0.5, 0.2])
def test_refutes_a_true_hypothesis_no_more_often_than_the_level_by_enumeration(start, level):
    error = expectation(start, [0.0, 3.0], [2 / 3, 1 / 3], 9, lambda c: float(c.rejects(level)))
    assert 0 < error <= level


@pytest.mark.parametrize("hypothesis", ["unsafe", "safe"])
def test_refutes_a_true_hypothesis_no_more_often_than_the_level_by_simulation(hypothesis):
    rng = np.random.default_rng(5)
    runs, level = 400, 0.05
    start = Capital(hypothesis=hypothesis, limit=1.0, cap=3.0)
    errors = sum(start.after(3.0 * rng.beta(0.5, 1.0, size=300)).rejects(level) for _ in range(runs))  # mean 1
    assert binom.sf(errors - 1, runs, level) > 0.001
    assert errors > 0  # the test does use its level


@settings(deadline=None)
@given(COSTS, st.floats(0.05, 2.9), st.sampled_from(["unsafe", "safe"]))
def test_never_goes_negative_and_costs_move_it_one_way(costs, limit, hypothesis):
    start = Capital(hypothesis=hypothesis, limit=limit, cap=3.0)
    told = start.after(costs)
    dearer = start.after(np.minimum(costs + 0.3, 3.0))
    assert told.value >= 0
    assert told.peak >= told.value * (1 - 1e-12)
    sign = 1 if hypothesis == "safe" else -1
    assert sign * (dearer.log_value - told.log_value) >= -1e-9


@settings(deadline=None)
@given(COSTS, st.randoms(use_true_random=False))
def test_order_of_the_episodes_does_not_change_the_capital(costs, random):
    shuffled = costs.copy()
    random.shuffle(shuffled)
    for start in (UNSAFE, SAFE):
        assert start.after(shuffled).log_value == pytest.approx(start.after(costs).log_value, abs=1e-9)


@settings(deadline=None)
@given(COSTS, st.integers(0, 30))
def test_told_in_parts_equals_told_at_once_bit_for_bit(costs, cut):
    for start in (UNSAFE, SAFE):
        assert start.after(costs[:cut]).after(costs[cut:]) == start.after(costs)


def test_a_failed_or_missing_episode_counts_as_the_cap_in_both_tests():
    costs = np.array([0.5, np.nan, 0.2, np.inf, 0.1])
    failed = np.array([False, False, False, False, True])
    filled = np.array([0.5, 3.0, 0.2, 3.0, 3.0])
    for start in (UNSAFE, SAFE):
        told = start.after(costs, failed)
        assert told.log_capitals == start.after(filled).log_capitals
        assert told.n_missing == 3
    assert UNSAFE.after(costs, failed).value < UNSAFE.after(np.array([0.5, 0.5, 0.2, 0.5, 0.1])).value
    assert SAFE.after(costs, failed).value > SAFE.after(np.array([0.5, 0.5, 0.2, 0.5, 0.1])).value


def test_a_cost_above_the_cap_voids_verification_even_after_it():
    clean = UNSAFE.after(np.zeros(100))
    assert clean.rejects(0.01)
    broken = clean.after(np.array([np.nextafter(3.0, 4.0)]))
    assert not broken.rejects(0.01)
    assert broken.after(np.zeros(1000)).value == 0
    verdict = verify_seed(np.array([0.0] * 100 + [3.1]), 1.0, 3.0, 0.01)
    assert not verdict.verified
    assert verdict.at is None
    assert verdict.words == "not verified: 1 of 101 episodes cost more than the declared cap"


def test_a_cost_above_the_cap_still_counts_for_the_alarm():
    assert SAFE.after(np.full(5, 30.0)).value > SAFE.after(np.full(5, 3.0)).value
    assert SAFE.after(np.full(5, 30.0)).n_over_cap == 5


def test_any_cost_at_all_refutes_that_a_mean_of_zero_is_kept():
    start = Capital(hypothesis="safe", limit=0.0, cap=1.0)
    assert start.after(np.zeros(50)).value == pytest.approx(1.0)
    assert start.after(np.array([0.0, 1e-9])).rejects(1e-6)


def test_verification_says_when():
    costs = np.full(60, 0.5)
    verdict = verify_seed(costs, 1.0, 3.0, 0.025)
    assert verdict.verified
    assert verdict.at is not None
    assert UNSAFE.after(costs[: verdict.at]).value >= 40 > UNSAFE.after(costs[: verdict.at - 1]).value
    assert verdict.words.startswith(f"verified after {verdict.at} episodes")
    assert "capital came to" in verify_seed(costs[:3], 1.0, 3.0, 0.025).words


def test_verified_stays_verified_by_later_dear_episodes_within_the_cap():
    verdict = verify_seed(np.array([0.0] * 60 + [3.0] * 20), 1.0, 3.0, 0.025)
    assert verdict.verified


@pytest.mark.parametrize(
    ("mean", "all_or_nothing", "expected"), [(0.5, False, 21), (0.5, True, 66), (0.75, False, 42), (0.75, True, 430)]
)
def test_verifies_a_seed_in_about_the_episodes_that_were_planned(mean, all_or_nothing, expected):
    rng = np.random.default_rng(17)
    taken = []
    for _ in range(60):
        gamma = np.minimum(rng.gamma(1 / 0.09, 0.09 * mean, size=3000), 3.0)
        taken.append(verify_seed(3.0 * (rng.random(3000) < mean / 3) if all_or_nothing else gamma, 1.0, 3.0, 0.025).at)
    assert None not in taken
    assert np.mean(taken) <= 1.2 * expected


def test_certifies_a_seed_just_above_the_limit_no_more_often_than_delta():
    rng = np.random.default_rng(3)
    wrong = sum(verify_seed(3.0 * rng.beta(0.5, 1.0, size=400), 1 / 1.02, 3.0, 0.025).verified for _ in range(400))
    assert binom.sf(wrong - 1, 400, 0.025) > 0.001


def test_59_clean_episodes_certify_five_percent_at_ninety_five():
    assert clean_episodes(0.05, 0.05) == 59
    assert 0.95**59 <= 0.05 < 0.95**58


def test_a_chance_limit_bets_on_episodes_above_it():
    limit = Limit("cost", 20.0, "chance", 0.05)
    clean = verify_limit(limit, np.full(200, 20.0), 1000.0, 0.05)
    assert clean.verified
    assert clean.at is not None
    assert 59 <= clean.at <= 80  # the price of being allowed to look at any time
    assert not verify_limit(limit, np.full(200, np.nextafter(20.0, 21.0)), 1000.0, 0.05).verified
    assert not verify_limit(limit, np.full(200, np.nan), 1000.0, 0.05).verified
    alarm = Capital.of(limit, 1000.0, "safe").after(np.full(5, 21.0))
    assert alarm.log_capitals == Capital(hypothesis="safe", limit=0.05, cap=1.0).after(np.ones(5)).log_capitals


def test_a_chance_limit_needs_no_cap_on_the_cost_itself():
    verdict = verify_limit(Limit("cost", 20.0, "chance", 0.5), np.array([0.0] * 30 + [1e9]), 100.0, 0.05)
    assert verdict.verified
    assert verdict.over_cap == 0


def test_a_cvar_limit_is_alarmed_about_by_its_mean_and_never_verified():
    limit = Limit("cost", 1.0, "cvar", 0.1)
    assert Capital.of(limit, 3.0, "safe") == SAFE
    with pytest.raises(UsageError, match="cvar limit cannot be verified"):
        Capital.of(limit, 3.0, "unsafe")


def test_refuses_what_no_bet_can_say():
    with pytest.raises(UsageError, match="0 <= limit < cap"):
        verify_seed(np.zeros(3), 3.0, 3.0, 0.1)
    with pytest.raises(UsageError, match="attest the seed"):
        verify_seed(np.zeros(3), 0.0, 3.0, 0.1)
    with pytest.raises(UsageError, match="delta is 0"):
        verify_seed(np.zeros(3), 1.0, 3.0, 0.0)
    with pytest.raises(DataError, match="cost of episode 1 is -1"):
        verify_seed(np.array([0.0, -1.0]), 1.0, 3.0, 0.1)
    with pytest.raises(DataError, match="2 costs but 1 failed marks"):
        Capital(hypothesis="safe", limit=1.0, cap=3.0).after(np.zeros(2), np.array([True]))
