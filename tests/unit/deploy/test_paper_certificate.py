"""The direct rule, and what the printed forms would have said instead."""

import numpy as np
import pytest
from deploy_toys import declaration, measurement, two_limits
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from safehold.core.constraint import Limit
from safehold.core.measurement import Measurement
from safehold.deploy.acquisition import expanders
from safehold.deploy.certificates.rule import Evidence, band_verdict, compose
from safehold.deploy.choose import view
from safehold.deploy.optimizer import TargetOptimizer
from safehold.gp.confidence import ConfidenceBand, alpha, split

LIMITS = (Limit("cost", 20.0),)
NO = np.zeros(4, dtype=np.bool_)
YES = np.ones(4, dtype=np.bool_)


def of_bands(limits, bands, present):
    """What a rule with these bands says."""
    terms = declaration().terms(0.1)
    evidence = Evidence(limits=limits, costs={}, rounds=1, asks_left=1)
    reach = dict.fromkeys(bands, 5.0)
    return band_verdict("paper", evidence, terms, bands, present, multiplier=5.0, reach=reach)


def verdict(lower, upper, present=None, support=YES, seeds=NO, contradicted=NO, over=NO):
    band = ConfidenceBand(np.array(lower, dtype=np.float64), np.array(upper, dtype=np.float64))
    bounds = {"cost": np.array(upper if present is None else present, dtype=np.float64)}
    rule = of_bands(LIMITS, {"cost": band}, bounds)
    return compose([rule], support=support, seeds=seeds, contradicted=contradicted, measured_over=over)


def after_one_seed():
    optimizer = TargetOptimizer(declaration())
    trial = optimizer.ask()
    optimizer.tell(trial.id, measurement(40.0, 1.0, spread=1.0))
    return optimizer.state


def test_the_bound_of_the_candidate_itself_decides_without_tolerance():
    safe = verdict([0, 0, 0, 0], [20.0, np.nextafter(20.0, 30.0), 19.0, 40.0]).safe
    np.testing.assert_array_equal(safe, [True, False, True, False])


def test_what_is_not_a_number_is_not_safe():
    assert not verdict([0, 0, np.nan, 0], [np.nan, np.inf, 10.0, np.nan], seeds=NO).safe.any()
    assert not verdict([np.nan] * 4, [1.0] * 4, seeds=YES).safe.any()


def test_without_support_nothing_is_certified():
    support = np.array([True, False, True, False])
    np.testing.assert_array_equal(verdict([0] * 4, [5.0] * 4, support=support).safe, support)


def test_a_seed_target_is_safe_by_premise_until_evidence_speaks_against_it():
    seeds = np.array([True, True, True, False])
    contradicted = np.array([False, False, True, True])
    said = verdict([0.0] * 4, [40.0, 40.0, 40.0, 10.0], seeds=seeds, contradicted=contradicted)
    np.testing.assert_array_equal(said.safe, [True, True, False, False])
    np.testing.assert_array_equal(said.revoked, contradicted)
    np.testing.assert_array_equal(said.by_premise, [True, True, False, False])
    assert not said.refuted


def test_one_seed_target_over_a_limit_refutes_the_premise_of_all_of_them():
    seeds = np.array([True, True, True, False])
    over = np.array([True, False, False, False])
    measured = verdict([0.0] * 4, [40.0, 40.0, 10.0, 10.0], seeds=seeds, over=over)
    np.testing.assert_array_equal(measured.by_premise, NO)
    np.testing.assert_array_equal(measured.safe, [False, False, True, True])  # on bounds of their own
    assert measured.refuted
    by_bound = verdict([0.0, 20.1, 0.0, 0.0], [40.0, 40.0, 40.0, 10.0], seeds=seeds)
    np.testing.assert_array_equal(by_bound.safe, [False, False, False, True])
    assert by_bound.refuted


def test_another_target_over_a_limit_leaves_the_seeds_their_premise():
    seeds = np.array([True, True, False, False])
    said = verdict([0.0] * 4, [40.0] * 4, seeds=seeds, over=np.array([False, False, True, False]))
    np.testing.assert_array_equal(said.safe, seeds)
    assert not said.refuted


def test_a_remembered_bound_does_not_outweigh_the_present_one():
    said = verdict([0] * 4, [19.0] * 4, present=[10.0, 20.0, 20.1, np.nan])
    np.testing.assert_array_equal(said.by_rules, [True, True, False, False])


def test_bounds_from_when_the_noise_seemed_smaller_certify_nothing():
    """A quiet batch, then a noisy one of a low mean: the running bounds stay low, the present ones rise."""
    optimizer = TargetOptimizer(declaration(episode_sd={"cost": 5.0}))
    optimizer.tell(optimizer.ask().id, measurement(40.0, 1.0, spread=0.5))
    assert optimizer.state.verdict().by_rules.any()
    noisy = measurement(40.0, 15.0, spread=1.0)
    costs = np.where(np.arange(20) < 18, 0.0, 150.0)
    optimizer.tell(optimizer.ask().id, Measurement(rewards=noisy.rewards, costs={"cost": costs}, failed=noisy.failed))
    state = optimizer.state
    assert state.alarm is None
    process, factor = state.costs["cost"].process, state.declaration.alpha(state.n_told)
    present = process.mean + factor * process.sd
    remembered = state.standings[0].bands["cost"].upper <= 20.0
    assert np.any(remembered & (present > 20.0))
    assert not np.any(state.verdict().by_rules & (present > 20.0))


def test_every_limit_counts():
    limits = (Limit("cost", 20.0), Limit("fall", 1.0))
    bands = {
        "cost": ConfidenceBand(np.zeros(4), np.array([10.0, 10.0, 30.0, 30.0])),
        "fall": ConfidenceBand(np.zeros(4), np.array([0.5, 2.0, 0.5, 2.0])),
    }
    present = {name: band.upper for name, band in bands.items()}
    rule = of_bands(limits, bands, present)
    safe = compose([rule], support=YES, seeds=NO, contradicted=NO, measured_over=NO).safe
    np.testing.assert_array_equal(safe, [True, False, False, False])
    np.testing.assert_allclose(rule.miss, [-0.5, 1.0, 0.5, 1.0])


@given(
    upper=arrays(np.float64, 4, elements=st.floats(0, 60)),
    more=arrays(np.float64, 4, elements=st.floats(0, 10)),
)
@settings(max_examples=50, deadline=None)
def test_higher_bounds_never_certify_more(upper, more):
    assert not np.any(verdict([0] * 4, upper + more).safe & ~verdict([0] * 4, upper).safe)


def test_before_any_measurement_exactly_the_seed_targets_are_safe():
    state = TargetOptimizer(declaration()).state
    np.testing.assert_array_equal(state.verdict().safe, state.declaration.seeds)


def test_printed_union_with_zero_lipschitz_would_certify_the_whole_menu():
    """Y_N = union over z in Y_{N-1} of {z' : u_N(z) + L d(z, z') <= b}: at the paper's L = 0, z' does not matter."""
    state = after_one_seed()
    upper = state.standings[0].bands["cost"].upper
    some_seed_is_bounded = bool(np.any(upper[state.declaration.seeds] <= 20.0))
    printed = np.full(len(state.declaration.space), some_seed_is_bounded)
    assert printed.all()
    ours = state.verdict().safe
    assert state.declaration.seeds.sum() <= ours.sum() < len(ours) / 2


def test_printed_start_at_the_limit_would_certify_the_whole_menu():
    """Lambda_0 = [0, b]: u_N <= b holds by fiat, before and after any data."""
    state = TargetOptimizer(declaration()).state
    process = state.costs["cost"].process
    size = len(state.declaration.space)
    printed = ConfidenceBand.start(size, 20.0).intersect(process.mean, process.sd, alpha(1, size, 0.1))
    assert np.all(printed.upper <= 20.0)
    assert np.all(state.standings[0].bands["cost"].upper[~state.declaration.seeds] > 20.0)


def test_printed_expander_count_would_call_every_safe_target_an_expander():
    """e_N(z) = |{z' not safe : l_N(z) - L d(z, z') <= b}|: l_N <= b holds on the whole safe set."""
    state = TargetOptimizer(declaration(horizon=40)).state
    optimizer = TargetOptimizer(state.declaration)
    for _ in range(6):
        trial = optimizer.ask()
        optimizer.tell(trial.id, measurement(0.9 * trial.target[0], 0.6 * trial.target[1] + 2.0, spread=1.0))
    state = optimizer.state
    safe = state.verdict().safe
    printed = safe & (state.standings[0].bands["cost"].lower <= 20.0)
    np.testing.assert_array_equal(printed, safe)
    ours = expanders(view(state, state.verdict()))
    assert ours.any()
    assert not np.any(ours & ~safe)
    assert ours.sum() < safe.sum()


def test_two_limits_are_certified_together():
    optimizer = TargetOptimizer(two_limits())
    trial = optimizer.ask()
    both = measurement(trial.target[0], 1.0, spread=1.0)
    with_fall = type(both)(rewards=both.rewards, costs={**both.costs, "fall": np.full(20, 1.9)}, failed=both.failed)
    optimizer.tell(trial.id, with_fall)
    state = optimizer.state
    safe = state.verdict().by_rules
    assert np.all(state.standings[0].bands["cost"].upper[safe] <= 20.0)
    assert np.all(state.standings[0].bands["fall"].upper[safe] <= 2.0)
    assert set(optimizer.ask().certificate.risks) == {"cost", "fall"}


@pytest.mark.parametrize("cost", [20.001, 35.0])
def test_a_seed_target_that_was_measured_above_the_limit_is_revoked(cost):
    optimizer = TargetOptimizer(declaration())
    trial = optimizer.ask()
    optimizer.tell(trial.id, measurement(40.0, cost, spread=1.0))
    index = optimizer.state.asked[trial.id].index
    assert optimizer.state.verdict().revoked[index]
    assert not optimizer.state.verdict().safe[index]
    assert trial.target in optimizer.status().revoked


def test_bands_pay_for_the_share_of_delta_that_split_gives_a_limit():
    declared = two_limits(delta=0.1)
    share = split(0.09, ["cost", "fall"])["fall"]  # a tenth of delta pays for the noise
    assert declared.alpha(3) == pytest.approx(alpha(4, len(declared.space), share), rel=1e-12)
    assert TargetOptimizer(declared).state.standings[0].alpha(3) == declared.alpha(3)


def test_bands_are_the_running_intersection_of_the_theorem():
    """Lambda_N from its definition: posterior by the textbook formula, alpha by the printed one, at every round."""
    optimizer = TargetOptimizer(declaration())
    declared = optimizer.state.declaration
    points, prior = declared.space.points, declared.prior.costs["cost"]
    kernel = prior.kernels[0]
    for _ in range(6):
        trial = optimizer.ask()
        optimizer.tell(trial.id, measurement(trial.target[0], 0.6 * trial.target[1] + 3.0))
    indices = np.array([asked.index for asked in optimizer.state.asked.values()])
    means = np.array([told.measurement.mean_cost("cost") for told in optimizer.state.told.values()])
    lower, upper = np.zeros(len(points)), np.full(len(points), 200.0)
    for n in range(7):
        x = points[indices[:n]]
        cross = kernel(points, x) @ np.linalg.inv(kernel(x, x) + np.eye(n) * 10.0**2 / 20)
        mean = prior.mean + cross @ (means[:n] - prior.mean[indices[:n]])
        sd = np.sqrt(kernel.diagonal(points) - np.sum(cross * kernel(points, x), axis=1))
        width = np.sqrt(2 * np.log(len(points) * (n + 1) ** 2 * np.pi**2 / (6 * 0.09))) * sd
        lower, upper = np.maximum(lower, mean - width), np.minimum(upper, mean + width)
    band = optimizer.state.standings[0].bands["cost"]
    np.testing.assert_allclose(band.lower, lower, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(band.upper, upper, rtol=1e-8, atol=1e-8)


def test_once_a_band_is_empty_it_stays_as_it_is():
    """Below an alarm nothing rests on it any more; what contradicted the model is kept for whoever looks."""
    state = after_one_seed()
    standing = state.standings[0]
    crossed = ConfidenceBand(standing.bands["cost"].upper + 1.0, standing.bands["cost"].upper)
    frozen = type(standing)(standing.terms, {"cost": crossed})
    assert frozen.told(state.evidence) is frozen
    contradiction = frozen.verdict(state.evidence).contradiction
    assert contradiction.limit == "cost"
    assert contradiction.lower == contradiction.upper + 1.0
