"""Monitors of a deployment: exact under the model, and quick when it is wrong."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.integrate import quad
from scipy.stats import binom, kstest, norm

from safehold.core.constraint import Limit
from safehold.core.errors import DataError, ModelError, UsageError
from safehold.deploy.monitors import (
    HAZARD,
    SCALES,
    SHIFTS,
    STAKED,
    CostMonitor,
    InnovationMonitor,
    Wager,
    innovation,
    normal_score,
)

SCORES = arrays(np.float64, st.integers(1, 20), elements=st.floats(-6.0, 6.0))
LIMIT = Limit("cost", 1.0)
ALTERNATIVES = [(a, s) for a in SHIFTS for s in SCALES if (a, s) != (0.0, 1.0)]


def told(monitor, outcomes):
    """After (target, costs) pairs, each asked just before."""
    for target, costs in outcomes:
        monitor = monitor.asked(target).told(target, np.asarray(costs, dtype=np.float64))
    return monitor


def test_the_wager_is_the_mixture_over_change_times_in_closed_form():
    factors = np.array([[2.0, 0.5], [3.0, 1.0], [0.5, 4.0]])
    weights = np.array([0.25, 0.75])
    entering = [
        STAKED + (1 - STAKED) * HAZARD,
        (1 - STAKED) * (1 - HAZARD) * HAZARD,
        (1 - STAKED) * (1 - HAZARD) ** 2 * HAZARD,
    ]
    expected = (1 - STAKED) * (1 - HAZARD) ** 3 + sum(
        share * float(weights @ np.prod(factors[start:], axis=0)) for start, share in enumerate(entering)
    )
    wager = Wager.start(np.log(weights)).after(np.log(factors), np.log(weights))
    assert math.exp(wager.log_value) == pytest.approx(expected, rel=1e-12)
    assert wager.log_peak >= wager.log_value


def test_innovation_evidence_of_one_score_is_the_mean_likelihood_ratio():
    for u in (-2.0, 0.0, 1.3, 4.0):
        ratios = [norm.pdf(u, a, s) / norm.pdf(u) for a, s in ALTERNATIVES]
        staked = STAKED + (1 - STAKED) * HAZARD
        expected = staked * np.mean(ratios) + 1 - staked
        assert InnovationMonitor.start(0.01).told(np.array([u])).value == pytest.approx(expected, rel=1e-12)


def test_innovation_evidence_has_expectation_one_under_the_model():
    before = InnovationMonitor.start(0.01).told(np.array([0.7, -1.9, 2.2]))

    def integrand(u):
        return before.told(np.array([u])).value * norm.pdf(u)

    expectation, _ = quad(integrand, -45, 45, points=[-10, -3, 0, 3, 10], limit=200)
    assert expectation == pytest.approx(before.value, rel=1e-7)


@pytest.mark.parametrize("sd", [0.3, 0.7, 0.95])
def test_a_variance_declared_too_large_does_not_raise_the_evidence(sd):
    start = InnovationMonitor.start(0.01)

    def integrand(u):
        return start.told(np.array([u])).value * norm.pdf(u, scale=sd)

    assert quad(integrand, -15, 15, points=[-3, 0, 3], limit=200)[0] < 1


def test_innovation_alarms_falsely_no_more_often_than_its_level():
    rng = np.random.default_rng(11)
    runs, level = 400, 0.1
    alarms = sum(InnovationMonitor.start(level).told(rng.standard_normal(60)).alarmed for _ in range(runs))
    assert binom.sf(alarms - 1, runs, level) > 0.001
    assert alarms > 0


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 2.0), (0.0, 4.0), (1.5, 1.0), (-1.5, 1.0)])
def test_innovation_alarms_when_the_model_is_plainly_wrong(shift, scale):
    rng = np.random.default_rng(12)
    runs = [InnovationMonitor.start(0.01).told(shift + scale * rng.standard_normal(40)) for _ in range(50)]
    assert sum(run.alarmed for run in runs) >= 45


def test_innovation_alarms_about_a_change_after_a_long_quiet_run():
    rng = np.random.default_rng(13)
    quiet = InnovationMonitor.start(0.01).told(rng.standard_normal(300))
    assert not quiet.alarmed
    assert quiet.told(2.0 + rng.standard_normal(15)).alarmed


def test_an_alarm_stands_whatever_comes_after():
    monitor = InnovationMonitor.start(0.01).told(np.full(5, 6.0))
    assert monitor.alarmed
    calm = monitor.told(np.zeros(200))
    assert calm.alarmed
    assert calm.value < 100


@settings(deadline=None)
@given(SCORES, st.integers(0, 20))
def test_scores_told_in_parts_equal_told_at_once_bit_for_bit(scores, cut):
    start = InnovationMonitor.start(0.05)
    assert start.told(scores[:cut]).told(scores[cut:]) == start.told(scores)


@settings(deadline=None)
@given(SCORES)
def test_evidence_is_never_negative_and_never_below_what_is_kept_back(scores):
    monitor = InnovationMonitor.start(0.05).told(scores)
    assert monitor.value >= (1 - STAKED) * (1 - HAZARD) ** len(scores) * (1 - 1e-9)


def test_the_most_extreme_scores_stay_finite():
    monitor = InnovationMonitor.start(1e-6).told(np.array([1e300, -1e300]))
    assert monitor.alarmed
    assert math.isfinite(monitor.wager.log_value)
    with pytest.raises(DataError, match="leave it out"):
        monitor.told(np.array([np.nan]))
    with pytest.raises(UsageError, match="level is 1"):
        InnovationMonitor.start(1.0)


def test_innovation_of_one_process_is_the_standardised_residual():
    assert innovation(3.0, 1.0, 0.75, 0.25) == 2.0
    with pytest.raises(ModelError, match="is no mixture"):
        innovation(3.0, 1.0, 0.0, 0.0)
    with pytest.raises(ModelError, match="is no mixture"):
        innovation(3.0, 1.0, math.nan, 0.1)
    with pytest.raises(DataError, match="measurement is nan"):
        innovation(math.nan, 1.0, 0.0, 1.0)


@settings(deadline=None)
@given(st.floats(-30, 30), st.floats(-3, 3), st.floats(0.2, 3))
def test_a_mixture_of_equal_members_scores_as_one_of_them(value, mean, sd):
    score = normal_score(value, np.full(3, mean), np.full(3, sd), np.array([0.2, 0.3, 0.5]))
    assert score == pytest.approx((value - mean) / sd, rel=1e-7, abs=1e-7)


def test_mixture_score_is_the_integral_transform_and_exact_far_out():
    means, sds, weights = np.array([0.0, 2.0]), np.array([1.0, 0.5]), np.array([0.7, 0.3])
    for value in (-3.0, 0.4, 1.7, 3.5):
        below = float(weights @ norm.cdf((value - means) / sds))
        assert normal_score(value, means, sds, weights) == pytest.approx(float(norm.ppf(below)), rel=1e-9)
    # far to the right only the wide member matters: P(Y > y) = 0.7 sf(y)
    assert norm.logsf(normal_score(60.0, means, sds, weights)) == pytest.approx(
        math.log(0.7) + norm.logsf(60.0), rel=1e-9
    )
    assert normal_score(1e300, means, sds, weights) > 9e5


def test_mixture_scores_of_the_mixture_itself_are_standard_normal():
    rng = np.random.default_rng(14)
    means, sds, weights = np.array([0.0, 2.0, -1.0]), np.array([1.0, 0.3, 3.0]), np.array([0.5, 0.3, 0.2])
    member = rng.choice(3, p=weights, size=2000)
    values = means[member] + sds[member] * rng.standard_normal(2000)
    scores = np.array([normal_score(float(value), means, sds, weights) for value in values])
    assert kstest(scores, "norm").pvalue > 0.001


def test_a_member_without_weight_does_not_count():
    assert normal_score(1.0, np.array([0.0, 9.0]), np.array([1.0, 1.0]), np.array([1.0, 0.0])) == 1.0
    with pytest.raises(ModelError, match="is no mixture"):
        normal_score(1.0, np.zeros(2), np.ones(2), np.array([0.5, 0.6]))


def test_cost_evidence_is_a_martingale_at_the_limit_over_adaptively_chosen_targets():
    start = CostMonitor.start(LIMIT, 3.0, 0.05)

    def expectation(monitor, depth, last):
        """Over two-point costs of mean 1; a dear episode makes the next ask a new target."""
        if depth == 0:
            return monitor.value
        target = 0 if last is None else (depth if last else 0)
        asked = monitor.asked(target)
        return sum(
            probability * expectation(asked.told(target, np.array([cost])), depth - 1, cost > 1)
            for cost, probability in ((0.0, 2 / 3), (3.0, 1 / 3))
        )

    for depth in (1, 3, 5):
        assert expectation(start, depth, None) == pytest.approx(1.0, rel=1e-12)


def test_asking_alone_is_no_evidence():
    monitor = CostMonitor.start(LIMIT, 3.0, 0.05)
    for target in range(30):
        monitor = monitor.asked(target)
        assert monitor.value == pytest.approx(1.0, rel=1e-12)
    assert monitor.asked(3) is monitor
    assert not monitor.alarmed


def test_costs_at_the_limit_are_alarmed_about_no_more_often_than_the_level():
    rng = np.random.default_rng(15)
    runs, level = 100, 0.1
    alarms = 0
    for _ in range(runs):
        outcomes = [(int(rng.integers(6)), 3.0 * rng.beta(0.5, 1.0, size=10)) for _ in range(15)]
        alarms += told(CostMonitor.start(LIMIT, 3.0, level), outcomes).alarmed
    assert binom.sf(alarms - 1, runs, level) > 0.001


def test_one_unsafe_target_among_safe_ones_is_accused():
    rng = np.random.default_rng(16)
    outcomes = [
        (target, rng.uniform(0.2, 0.8, size=20) + (1.2 if target == 4 else 0.0))
        for _ in range(3)
        for target in range(6)
    ]
    monitor = told(CostMonitor.start(LIMIT, 3.0, 0.01), outcomes)
    assert monitor.alarmed
    assert monitor.accused == (4,)


def test_a_drift_spread_over_many_targets_is_found_by_the_pooled_bet():
    rng = np.random.default_rng(17)
    safe = told(CostMonitor.start(LIMIT, 3.0, 0.01), [(t, rng.uniform(0.6, 1.2, size=20)) for t in range(15)])
    assert not safe.alarmed
    drifted = told(safe, [(t, rng.uniform(0.9, 1.9, size=6)) for t in range(15, 30)])
    assert drifted.alarmed
    assert drifted.accused == ()


def test_episodes_told_in_parts_equal_told_at_once():
    rng = np.random.default_rng(18)
    costs = rng.uniform(0, 3, size=20)
    start = CostMonitor.start(LIMIT, 3.0, 0.05).asked(7)
    parts, once = start.told(7, costs[:5]).told(7, costs[5:]), start.told(7, costs)
    assert parts.targets == once.targets
    assert parts.pooled == once.pooled


def test_failed_and_missing_episodes_alarm():
    monitor = CostMonitor.start(LIMIT, 3.0, 0.05).asked(0)
    assert monitor.told(0, np.full(10, np.nan)).alarmed
    assert monitor.told(0, np.zeros(10), np.ones(10, dtype=np.bool_)).alarmed
    assert monitor.told(0, np.full(10, np.nan)).accused == (0,)


def test_chance_limits_are_watched_by_the_episodes_above_them():
    monitor = CostMonitor.start(Limit("cost", 20.0, "chance", 0.1), 1000.0, 0.01).asked(0)
    assert not monitor.told(0, np.full(100, 20.0)).alarmed
    assert monitor.told(0, np.array([19.0, 21.0] * 20)).alarmed


def test_an_alarm_about_costs_stands():
    monitor = told(CostMonitor.start(LIMIT, 3.0, 0.05), [(0, np.full(10, 3.0))])
    assert monitor.alarmed
    assert told(monitor, [(0, np.zeros(300)), (1, np.zeros(300))]).alarmed


def test_refuses_costs_of_a_target_that_was_never_asked():
    with pytest.raises(DataError, match="target 3 was told to the cost monitor but never asked"):
        CostMonitor.start(LIMIT, 3.0, 0.05).told(3, np.zeros(1))


def test_shares_of_targets_add_up_to_half():
    shares = [math.exp(CostMonitor._log_share(place)) for place in range(1, 2000)]
    assert sum(shares) == pytest.approx(0.5, abs=1e-3)
    assert all(later < earlier for earlier, later in itertools.pairwise(shares))
