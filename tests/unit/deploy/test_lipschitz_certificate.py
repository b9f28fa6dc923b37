"""The deterministic certificate: against brute force over all pairs, and against functions that keep its premises."""

import math

import numpy as np
import pytest
from deploy_toys import LIMIT, declaration, measurement, space
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rule_toys import drive_with, optimizer_with_context, with_context

from safehold.core.constraint import Limit
from safehold.core.errors import Alarm, NoCertifiedTarget, SafetyHold, UsageError
from safehold.core.measurement import Measurement
from safehold.deploy.audit import audit
from safehold.deploy.belief import ToldMean
from safehold.deploy.certificates.lipschitz import Lipschitz
from safehold.deploy.certificates.rule import Evidence
from safehold.deploy.declaration import Settings
from safehold.deploy.optimizer import Deployment, TargetOptimizer

E = 1.0


def rules(per_reward=0.05, per_cost=0.7, error=E):
    """Lipschitz along both axes of the toy dial."""
    return (Lipschitz({"cost": (per_reward, per_cost)}, {"cost": error}),)


def optimizer(**changes):
    """The toy deployment on the deterministic certificate."""
    return TargetOptimizer(declaration(**{"rules": rules(), "horizon": 12, **changes}))


@given(
    points=st.lists(
        st.tuples(
            st.integers(0, 80), st.floats(0.0, 60.0), st.sampled_from([1, 19, 20, 40]), st.sampled_from([0.0, 9.0])
        ),
        max_size=8,
    ),
    slopes=st.tuples(st.sampled_from([0.0, 0.05, 1.0, None]), st.sampled_from([0.0, 0.3, 2.0, None])),
    error=st.sampled_from([0.0, 1.0, 5.0]),
)
@settings(max_examples=60, deadline=None)
def test_bounds_are_the_brute_force_over_all_pairs_of_candidate_and_measurement(points, slopes, error):
    rule = Lipschitz({"cost": slopes}, {"cost": error})
    declared = declaration(rules=(rule,))
    belief, standing = declared.beliefs({})["cost"], rule.start(declared.terms(0.1))
    for number, (index, value, episodes, extra) in enumerate(points):
        belief = belief.tell(ToldMean(index, value, episodes, 1.0 / episodes, extra), np.zeros(0))
        standing = standing.told(Evidence(limits=(LIMIT,), costs={"cost": belief}, rounds=number + 1, asks_left=1))
    menu = declared.space.points
    upper, lower = np.full(81, 200.0), np.zeros(81)
    for index, value, episodes, extra in points:
        if episodes < 20 or extra > 0.0:
            continue  # fewer episodes than declared, or an outcome that is not known: bounded by nothing
        for z in range(81):
            apart = np.abs(menu[z] - menu[index])
            steps = zip(slopes, apart, strict=True)
            reach = sum(math.inf if slope is None else slope * step for slope, step in steps if step > 0.0)
            upper[z] = min(upper[z], value + error + reach)
            lower[z] = max(lower[z], value - error - reach)
    band = standing.bands["cost"]
    np.testing.assert_allclose(band.upper, upper, rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(band.lower, lower, rtol=1e-12, atol=1e-9)


def hardest_surface(rng, points):
    """A random cost surface of exactly the declared slopes."""
    centres = rng.uniform(0, 1, size=(6, 2)) * [160.0, 40.0]
    heights = rng.uniform(0, 25, size=6)
    distance = np.abs(points[:, None, :] - centres[None]) @ np.array([0.05, 0.7])
    return np.maximum(np.min(heights + distance, axis=1), 0.0)


def drive_hardest(tuner, truth, rng):
    """Asks until it holds, told with the largest errors that the premise allows; every target must be safe."""
    while True:
        try:
            trial = tuner.ask()
        except SafetyHold:
            return
        index = tuner.state.declaration.space.index(trial.target)
        assert truth[index] <= 20.0
        costs = np.full(20, max(truth[index] + rng.choice([-E, E]), 0.0))
        tuner.tell(trial.id, Measurement(rewards=np.full(20, 40.0), costs={"cost": costs}, failed=costs < 0.0))


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=6, deadline=None)
def test_no_unsafe_target_is_handed_out_and_no_alarm_raised_while_the_premises_hold(seed):
    rng = np.random.default_rng(seed)
    tuner = optimizer(horizon=15, delta=0.5)
    truth = hardest_surface(rng, tuner.state.declaration.space.points)
    assume(np.all(truth[tuner.state.declaration.seed_indices] <= 20.0 - 2 * E))
    drive_hardest(tuner, truth, rng)
    assert tuner.state.alarm is None


def test_measurements_as_far_apart_as_the_premises_allow_contradict_nothing_live_nor_in_an_audit(tmp_path):
    """Ends of an interval that differ by rounding alone: once, the fourteenth measurement raised an alarm here."""
    rng = np.random.default_rng(0)
    declared = declaration(rules=rules(), horizon=15, delta=0.5)
    with Deployment.create(tmp_path / "run", declared) as tuner:
        drive_hardest(tuner, hardest_surface(rng, declared.space.points), rng)
        assert len(tuner.state.told) == 15
        assert tuner.state.alarm is None
    assert audit(tmp_path / "run").findings == ()


def test_failed_or_too_few_episodes_certify_nothing():
    fewer = optimizer()
    fewer.tell(fewer.ask().id, measurement(40.0, 1.0, episodes=19, spread=0.5))
    assert not fewer.state.verdict().by_rules.any()
    failed = optimizer()
    trial = failed.ask()
    good = measurement(40.0, 1.0, spread=0.5)
    failed.tell(trial.id, Measurement(rewards=good.rewards, costs=good.costs, failed=np.arange(20) == 3))
    assert not failed.state.verdict().by_rules.any()
    whole = optimizer()
    whole.tell(whole.ask().id, good)
    assert whole.state.verdict().by_rules.any()


def test_along_an_axis_without_a_constant_nothing_is_inferred():
    rule = Lipschitz({"cost": (0.05, 0.7, None)}, {"cost": E})
    tuner = optimizer_with_context(rules=(rule,))
    drive_with(tuner, [1.0, 1.0])
    points = tuner.state.declaration.space.points
    assert tuner.state.verdict().by_rules[points[:, 2] == 0.0].any()
    np.testing.assert_array_equal(tuner.state.standings[0].bands["cost"].upper[points[:, 2] == 1.0], 200.0)


def test_measurements_that_contradict_the_constants_raise_the_alarm():
    tuner = optimizer()
    tuner.tell(tuner.ask().id, measurement(40.0, 3.0, spread=0.0))
    target = tuner.state.declaration.seed_targets[0]
    tuner.observe(target, measurement(40.0, 12.0, spread=0.0), source="another day")
    assert tuner.state.alarm is not None
    assert tuner.state.alarm.monitor == "lipschitz"
    with pytest.raises(Alarm, match="the lipschitz intervals of 'cost'"):
        tuner.ask()


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Lipschitz({}, {"cost": 1.0}), "constants of cost 'cost' are None"),
        (Lipschitz({"cost": (1.0,)}, {"cost": 1.0}), "one a dial axis"),
        (Lipschitz({"cost": (1.0, -1.0)}, {"cost": 1.0}), "one a dial axis"),
        (Lipschitz({"cost": (1.0, math.nan)}, {"cost": 1.0}), "one a dial axis"),
        (Lipschitz({"cost": (1.0, math.inf)}, {"cost": 1.0}), "None where nothing carries over"),
        (Lipschitz({"cost": (1.0, 1.0)}, {}), "noise_bound of cost 'cost' is None"),
        (Lipschitz({"cost": (1.0, 1.0)}, {"cost": -1.0}), "noise_bound of cost 'cost' is -1"),
        (Lipschitz({"cost": (1.0, 1.0)}, {"cost": math.inf}), "noise_bound of cost 'cost' is inf"),
    ],
)
def test_constants_are_declared_for_every_limited_cost(rule, message):
    with pytest.raises(UsageError, match=message):
        declaration(rules=(rule,))


def test_a_refusal_says_the_bound_and_the_limit():
    tuner = optimizer()
    tuner.tell(tuner.ask().id, measurement(40.0, 20.5, spread=0.0))
    with pytest.raises(NoCertifiedTarget, match=r"cost: upper bound [0-9.]+ against limit 20"):
        tuner.ask()


def test_a_certificate_names_the_premises_and_spends_nothing():
    tuner = optimizer()
    drive_with(tuner, [2.0])
    while (said := tuner.ask().certificate).basis == "premise":
        drive_with(tuner, [2.0])
    assert said.premises == ("A3-independence", "A4-unchanged", "A10-lipschitz", "A11-noise-bound")
    assert said.charge == 0.0
    assert said.upper["cost"] <= 20.0
    assert said.evidence[0].risk is None


def test_a_certificate_of_a_chance_limit_says_that_it_is_approximate():
    limit = Limit("cost", 20.0, "chance", 0.1)
    tuner = optimizer(limits=(limit,), settings=Settings(episodes_per_ask=10), caps={"cost": 60.0})
    said = tuner.ask().certificate
    assert "A7-normal-episodes" in said.premises
    assert said.promise.endswith("estimated from replicates.")
    assert "approximate" in said.promise


def test_a_lowered_limit_is_read_against_the_same_bounds():
    tuner = optimizer()
    drive_with(tuner, [2.0, 2.0])
    band = tuner.state.standings[0].bands["cost"]
    tuner.lower_limit("cost", 10.0, "the authority says so", seeds_hold=True)
    np.testing.assert_array_equal(tuner.state.verdict().by_rules, band.upper <= 10.0)


def test_the_rule_survives_the_ledger():
    declared = with_context(rules=(Lipschitz({"cost": (0.05, 0.7, None)}, {"cost": E}),))
    again = type(declared).from_json(declared.to_json())
    assert again.rules == declared.rules
    assert again.prior.contexts == ("payload",)
    assert space().names == ("reward", "cost")
