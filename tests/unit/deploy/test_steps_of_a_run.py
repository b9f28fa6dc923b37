"""Contexts, outside data, lowered limits and epochs: what they may change, and what they must never certify."""

import numpy as np
import pytest
from deploy_toys import declaration, measurement, truth, two_limits
from hypothesis import given, settings
from hypothesis import strategies as st
from rule_toys import LEDGER, drive_with, optimizer_with_context

from safehold.core.errors import (
    Alarm,
    Conflict,
    DataError,
    Exhausted,
    IntegrityError,
    NoCertifiedTarget,
    SafetyHold,
    UsageError,
)
from safehold.core.measurement import Measurement
from safehold.deploy.acquisition import goal, information
from safehold.deploy.certificates.lipschitz import Lipschitz
from safehold.deploy.certificates.paper import Paper
from safehold.deploy.certificates.risk_ledger import RiskLedger
from safehold.deploy.choose import risk, view
from safehold.deploy.declaration import Declaration, Settings
from safehold.deploy.optimizer import Deployment, TargetOptimizer
from safehold.deploy.replay import Moments, replay
from safehold.deploy.verify import verify
from safehold.ledger.events import Alarmed, LimitLowered, Resumed

RULES = {"risk_ledger": (RiskLedger(),), "paper": (Paper(),)}
BOTH = (RiskLedger(), Lipschitz({"cost": (0.05, 0.7)}, {"cost": 1.0}))


def optimizer(**changes):
    """The toy deployment on the default certificate."""
    return TargetOptimizer(declaration(**{"rules": LEDGER, "delta": 0.2, "horizon": 14, **changes}))


def alarmed(tuner, level="seed"):
    """The tuner after an alarm from outside."""
    alarm = Alarmed(reason="drift", level=level, monitor="innovation", limit=None, target=None, lower=None, upper=None)
    tuner._state = tuner.state.apply(alarm)
    return tuner


def drive_truth(tuner, asks=100):
    """Asks and tells the toy's truth until it holds."""
    trials = []
    for _ in range(asks):
        try:
            trial = tuner.ask()
        except SafetyHold:
            break
        reward, cost = truth(trial.target)
        trials.append(tuner.tell(trial.id, measurement(reward, cost, spread=1.0)))
    return trials


# contexts


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES.keys())
def test_a_new_context_inherits_information_and_no_certification(rules):
    tuner = optimizer_with_context(rules=rules, delta=0.2, correlation=0.9)
    points = tuner.state.declaration.space.points
    light, heavy = points[:, 2] == 0.0, points[:, 2] == 1.0
    before = tuner.state.costs["cost"].process.sd[heavy].copy()
    for _ in range(6):
        trial = tuner.ask(context={"payload": 0.0})
        assert trial.target[2] == 0.0
        tuner.tell(trial.id, measurement(trial.target[0], 1.0, spread=0.5))
    state = tuner.state
    assert np.all(state.costs["cost"].process.sd[heavy] <= before)
    assert np.any(state.costs["cost"].process.sd[heavy] < 0.6 * before)
    assert not state.verdict().by_premise[heavy].any()
    if rules == RULES["risk_ledger"]:
        paid = state.standings[0].paid
        assert paid[light].any()
        assert not paid[heavy].any()
        assert np.all(state.verdict().price[heavy & state.verdict().safe] > 0.0)


def test_contexts_that_have_nothing_in_common_learn_nothing_from_one_another():
    tuner = optimizer_with_context(correlation=0.0, delta=0.2)
    drive_with(tuner, [1.0] * 8)
    points = tuner.state.declaration.space.points
    heavy = points[:, 2] == 1.0
    np.testing.assert_allclose(tuner.state.costs["cost"].process.sd[heavy], 10.0, rtol=1e-12)
    with pytest.raises(NoCertifiedTarget):
        tuner.ask(context={"payload": 1.0})
    assert tuner.ask(context={"payload": 0.0}).target[2] == 0.0


def test_only_targets_of_the_context_that_the_world_has_fixed_are_handed_out():
    tuner = optimizer_with_context(correlation=0.95, delta=0.5, horizon=40)
    seen = set()
    for number in range(24):
        context = {"payload": float(number % 2)}
        try:
            trial = tuner.ask(context=context)
        except NoCertifiedTarget:
            continue
        assert trial.target[2] == context["payload"]
        seen.add(trial.target[2])
        tuner.tell(trial.id, measurement(trial.target[0], 1.0, spread=0.5))
    assert seen == {0.0, 1.0}


def test_a_context_that_is_none_of_the_dials_is_refused():
    tuner = optimizer_with_context()
    for context in ({"payload": 2.0}, {"weather": 0.0}):
        with pytest.raises(UsageError, match="is none of this dial"):
            tuner.ask(context=context)
    assert not tuner.state.asked


def test_a_key_belongs_to_the_context_it_was_asked_in():
    tuner = optimizer_with_context()
    trial = tuner.ask(key="a", context={"payload": 0.0})
    assert tuner.ask(key="a", context={"payload": 0.0}) == trial
    with pytest.raises(Conflict, match="give every ask its own key"):
        tuner.ask(key="a")


def test_an_alarm_in_a_context_names_a_fallback_of_that_context():
    tuner = optimizer_with_context()
    drive_with(tuner, [1.0])
    alarmed(tuner)
    with pytest.raises(Alarm, match="No fallback is left: stop"):
        tuner.ask(context={"payload": 1.0})
    with pytest.raises(Alarm, match=r"The fallback is the seed target \("):
        tuner.ask(context={"payload": 0.0})


# outside data


def test_observations_inform_the_model_make_no_seed_and_pay_for_nothing():
    tuner = optimizer()
    before = tuner.state
    target = (80.0, 5.0)
    tuner.observe(target, measurement(70.0, 1.0, spread=1.0), source="the simulator")
    state, index = tuner.state, tuner.state.declaration.space.index(target)
    assert state.costs["cost"].process.sd[index] < before.costs["cost"].process.sd[index]
    assert (state.spent, state.n_spent, len(state.asked), state.rounds) == (0.0, 0, 0, 1)
    assert not state.standings[0].paid.any()
    np.testing.assert_array_equal(state.verdict().by_premise, before.verdict().by_premise)
    assert state.verdict().by_rules[index]
    assert state.verdict().price[index] > 0.0  # it may be asked, for what its risk is
    with pytest.raises(NoCertifiedTarget):
        tuner.recommend()  # nothing was told by this deployment


def test_observing_is_believed_as_telling_is():
    told, seen = optimizer(), optimizer()
    trial = told.ask()
    outcome = measurement(40.0, 3.0)
    told.tell(trial.id, outcome)
    seen.observe(trial.target, outcome, source="yesterday")
    np.testing.assert_array_equal(told.state.costs["cost"].process.mean, seen.state.costs["cost"].process.mean)
    seen.observe(trial.target, outcome, source="yesterday, once more")
    assert seen.state.costs["cost"].process.n_told == 2  # nothing is known of where it comes from: it counts twice


@pytest.mark.parametrize("failed", [False, True])
def test_an_observation_can_revoke_and_refute_as_much_as_a_trial_can(failed):
    tuner = optimizer()
    target = tuner.state.declaration.seed_targets[0]
    outcome = measurement(40.0, 25.0, spread=0.5)
    if failed:
        good = measurement(40.0, 1.0, spread=0.5)
        outcome = Measurement(rewards=good.rewards, costs=good.costs, failed=np.arange(20) == 0)
    tuner.observe(target, outcome, source="an incident")
    verdict = tuner.state.verdict()
    assert verdict.revoked[tuner.state.declaration.space.index(target)]
    assert verdict.refuted is not failed
    assert verdict.by_premise.any() is np.bool_(failed)


@pytest.mark.parametrize(
    ("target", "outcome", "error", "message"),
    [
        ((40.0, 5.0), measurement(1.0, 300.0), DataError, r"observation at \(40\.0, 5\.0\): .* above the declared cap"),
        ((40.0, 5.0), measurement(1.0, 1.0, name="fall"), DataError, "the limits are on"),
        ((41.0, 5.0), measurement(1.0, 1.0), UsageError, "not a point of the grid"),
    ],
)
def test_observations_that_do_not_fit_leave_no_trace(target, outcome, error, message):
    tuner = optimizer()
    before = tuner.state
    with pytest.raises(error, match=message):
        tuner.observe(target, outcome, source="x")
    assert tuner.state is before


# limits lowered live


@given(asks=st.integers(1, 6), value=st.floats(2.0, 19.0))
@settings(max_examples=8, deadline=None)
def test_a_lowered_limit_un_pays_every_target_and_refunds_nothing(asks, value):
    tuner = optimizer()
    drive_with(tuner, [1.0] * asks)
    before = tuner.state
    tuner.lower_limit("cost", value, "the authority says so", seeds_hold=True)
    state = tuner.state
    assert not state.standings[0].paid.any()
    assert state.spent == before.spent
    assert not np.any(state.verdict().by_rules & ~before.verdict().by_rules & ~before.standings[0].paid)
    trials = drive_truth(tuner)
    assert tuner.state.spent <= state.declaration.share.certificate * (1 + 1e-12)
    for trial in trials:
        assert trial.certificate.limits[0].value == value
        assert trial.certificate.basis == "premise" or trial.certificate.charge >= 0.0


def test_an_open_trial_that_was_paid_under_a_higher_limit_does_not_run_unpaid():
    tuner = optimizer(settings=Settings(pending_cap=2))
    while (trial := tuner.ask()).certificate.charge == 0.0:
        tuner.tell(trial.id, measurement(trial.target[0], 1.0, spread=0.5))
    tuner.observe(trial.target, measurement(trial.target[0], 1.0, spread=0.5), source="it is cheap")
    tuner.lower_limit("cost", 15.0, "the authority says so", seeds_hold=True)
    index = tuner.state.declaration.space.index(trial.target)
    assert tuner.state.verdict().by_rules[index]
    spent = tuner.state.spent
    with pytest.raises(NoCertifiedTarget, match=r"its target .* is not paid for since it was asked; abandon it"):
        tuner.deployed(trial.id)
    assert tuner.state.spent == spent


def test_seed_targets_are_asked_no_more_on_a_premise_that_nobody_attested_for_the_lower_limit():
    tuner = optimizer()
    tuner.lower_limit("cost", 10.0, "the authority says so")
    assert not tuner.state.verdict().by_premise.any()
    with pytest.raises(NoCertifiedTarget, match="nobody attested that the seed targets keep it"):
        tuner.ask()
    attested = optimizer()
    attested.lower_limit("cost", 10.0, "the authority says so", seeds_hold=True)
    assert attested.ask().certificate.basis == "premise"
    attested.lower_limit("cost", 9.0, "once more")
    assert not attested.state.verdict().by_premise.any()


def test_what_was_measured_over_the_lower_limit_is_revoked_by_it():
    tuner = optimizer()
    trial = tuner.ask()
    tuner.tell(trial.id, measurement(40.0, 8.0, spread=0.5))
    assert tuner.state.verdict().safe[tuner.state.declaration.space.index(trial.target)]
    tuner.lower_limit("cost", 7.0, "the authority says so", seeds_hold=True)
    verdict = tuner.state.verdict()
    assert verdict.revoked[tuner.state.declaration.space.index(trial.target)]
    assert verdict.refuted


def test_nothing_unpaid_is_recommended_under_a_lower_limit():
    tuner = optimizer()
    drive_truth(tuner)
    best = tuner.recommend().target
    assert best not in tuner.state.declaration.seed_targets
    tuner.lower_limit("cost", 19.0, "the authority says so", seeds_hold=True)
    recommended = tuner.recommend().target
    assert recommended in tuner.state.declaration.seed_targets


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("cost", 21.0, "can only be lowered, not set to 21"),
        ("cost", -1.0, "can only be lowered, not set to -1"),
        ("cost", np.nan, "can only be lowered, not set to nan"),
        ("fall", 1.0, "no limit on 'fall'"),
    ],
)
def test_limits_are_only_ever_lowered(name, value, message):
    tuner = optimizer()
    with pytest.raises(UsageError, match=message):
        tuner.lower_limit(name, value, "why not")
    before = tuner.state
    tuner.lower_limit("cost", 20.0, "the same")
    assert tuner.state is before


def test_only_the_lowered_limit_changes():
    tuner = TargetOptimizer(two_limits(rules=LEDGER))
    tuner.lower_limit("fall", 1.0, "the authority says so", seeds_hold=True)
    assert [(limit.name, limit.value) for limit in tuner.state.limits] == [("cost", 20.0), ("fall", 1.0)]
    with pytest.raises(IntegrityError, match="was not lowered to 30"):
        tuner.state.apply(LimitLowered(limit="cost", value=30.0, reason="forged", seeds_hold=True))


def test_the_premise_of_a_lowered_limit_is_what_somebody_attested_and_no_test_or_log():
    good = declaration()
    fields = {name: getattr(good, name) for name in ("prior", "limits", "caps", "seed_targets", "horizon", "delta")}
    tuner = TargetOptimizer(Declaration(**fields, seed_rule="log"))
    first = tuner.ask()
    assert first.certificate.premises[-1] == "A6-seeds-from-log"
    tuner.tell(first.id, measurement(40.0, 1.0, spread=0.5))
    tuner.lower_limit("cost", 10.0, "the authority says so", seeds_hold=True)
    assert tuner.ask().certificate.premises[-1] == "A6-seeds-attested"


# epochs


def test_a_new_epoch_forgets_what_was_told_and_has_only_what_is_left_of_delta():
    tuner = optimizer(horizon=30)
    first = drive_truth(tuner, asks=8)
    spent = tuner.state.spent
    assert spent > 0.0
    alarmed(tuner)
    tuner.resume("Ada", "the sensor was replaced")
    state = tuner.state
    assert (state.epoch, state.level, state.alarm, state.rounds) == (1, "normal", None, 0)
    assert state.costs["cost"].process.n_told == 0
    assert not state.standings[0].paid.any()
    assert state.spent == spent
    assert state.standings[0].terms.delta == pytest.approx(0.18 - spent)
    assert state.costs["cost"].rounds == len(first)  # noise bounds go on being drawn from their one share
    np.testing.assert_array_equal(state.verdict().safe, state.declaration.seeds)
    second = drive_truth(tuner)
    assert second[0].certificate.n_told == 0
    assert second[0].certificate.premises[-1] == "A12-fresh-epoch"
    charges = [trial.certificate.charge for trial in (*first, *second)]
    assert sum(charges) <= 0.18 * (1 + 1e-12)
    assert sum(charges) == pytest.approx(tuner.state.spent)
    assert second[-1].certificate.spent_after == pytest.approx(0.02 + sum(charges))


def test_epochs_go_on_sharing_one_delta_until_nothing_is_left():
    tuner = optimizer(horizon=200, delta=0.05)
    for _ in range(4):
        drive_truth(tuner, asks=12)
        alarmed(tuner)
        tuner.resume("Ada", "again")
    assert tuner.state.epoch == 4
    assert tuner.state.spent <= 0.045 * (1 + 1e-12)
    tuner._state = tuner.state.__class__(
        **{
            **{name: getattr(tuner.state, name) for name in tuner.state.__dataclass_fields__},
            "spent_before": 0.045,
        }
    )
    alarmed(tuner)
    with pytest.raises(Exhausted, match="nothing of delta is left for a new epoch: it is spent"):
        tuner.resume("Ada", "again")


def test_a_late_outcome_of_an_earlier_epoch_is_recorded_and_informs_nothing():
    tuner = optimizer()
    trial = tuner.ask()
    tuner.abandon(trial.id, "lost", deployed=True)
    alarmed(tuner)
    tuner.resume("Ada", "the sensor was replaced")
    index = tuner.state.declaration.space.index(trial.target)
    assert not tuner.state.verdict().revoked[index]
    tuner.tell(trial.id, measurement(40.0, 25.0))
    assert tuner.state.n_told == 1
    assert tuner.state.costs["cost"].process.n_told == 0
    assert not tuner.state.verdict().refuted


def test_a_run_is_resumed_by_somebody_after_an_alarm_with_nothing_open():
    tuner = optimizer(settings=Settings(pending_cap=2))
    with pytest.raises(UsageError, match="no alarm stands"):
        tuner.resume("Ada", "because")
    with pytest.raises(UsageError, match="by somebody, for a reason"):
        tuner.resume(" ", "because")
    trial = tuner.ask()
    alarmed(tuner)
    with pytest.raises(Conflict, match=f"trials are open \\({trial.id}\\)"):
        tuner.resume("Ada", "because")
    with pytest.raises(IntegrityError, match="it was altered"):
        tuner.state.apply(Resumed(by="Ada", reason="forged"))
    banded = alarmed(optimizer(rules=(RiskLedger(), Paper())))
    with pytest.raises(Exhausted, match="the rule 'paper' spends all of it at once"):
        banded.resume("Ada", "because")


def test_a_lowered_limit_stays_lowered_in_a_new_epoch():
    tuner = optimizer()
    tuner.lower_limit("cost", 10.0, "the authority says so")
    alarmed(tuner)
    tuner.resume("Ada", "she attests the seed targets anew")
    assert tuner.state.limits[0].value == 10.0
    assert tuner.state.verdict().by_premise.any()


# the ladder, the record


def test_on_the_second_rung_only_told_and_paid_targets_and_seeds_are_handed_out():
    tuner = optimizer()
    drive_truth(tuner, asks=8)
    alarmed(tuner, level="paid_only")
    state = tuner.state
    told = np.zeros(len(state.declaration.space), dtype=np.bool_)
    told[list(state.tallies)] = True
    verdict = state.verdict()
    assert not np.any(verdict.by_rules & ~told)
    assert np.all(verdict.price[verdict.safe] == 0.0)
    assert tuner.ask().certificate.charge == 0.0
    assert tuner.state.spent == state.spent


def test_on_the_second_rung_a_refusal_says_so():
    tuner = optimizer()
    tuner.tell(tuner.ask().id, measurement(40.0, 20.5, spread=0.1))
    alarmed(tuner, level="paid_only")
    with pytest.raises(NoCertifiedTarget, match="After an alarm only targets that were told and paid for"):
        tuner.ask()


def test_on_the_last_rung_nothing_is_handed_out_and_no_fallback_named():
    tuner = alarmed(optimizer(), level="stop")
    assert not tuner.state.verdict().safe.any()
    with pytest.raises(Alarm, match="No fallback is left: stop"):
        tuner.ask()


def test_a_whole_run_with_every_kind_of_step_is_replayed_bit_by_bit(tmp_path):
    path = tmp_path / "run"
    with Deployment.create(path, declaration(rules=BOTH, delta=0.2, horizon=20)) as run:
        for _ in range(3):
            trial = run.ask()
            reward, cost = truth(trial.target)
            run.tell(trial.id, measurement(reward, cost, spread=0.5))
        run.observe((60.0, 5.0), measurement(60.0, 6.0, spread=0.5), source="the simulator")
        run.lower_limit("cost", 18.0, "the authority says so", seeds_hold=True)
        trial = run.ask(key="k")
        reward, cost = truth(trial.target)
        run.tell(trial.id, measurement(reward, cost, spread=0.5))
        run.observe((60.0, 5.0), measurement(60.0, 12.0, spread=0.5), source="it drifts")
        assert run.state.alarm is not None
        run.resume("Ada", "the sensor was replaced")
        trial = run.ask(key="l")
        state, events = run.state, run.events()
    again = replay(state.declaration, events[2:])
    assert again.trial(trial.id) == trial
    assert (again.spent, again.epoch, again.limits) == (state.spent, 1, state.limits)
    assert verify(path) == []


@pytest.mark.parametrize("known", [True, False])
def test_a_promise_that_rests_on_estimated_noise_says_that_it_is_approximate(known):
    said = optimizer(noise_known=known).ask().certificate.promise
    assert ("which makes it approximate" in said) is not known
    geometry = optimizer(rules=(Lipschitz({"cost": (0.05, 0.7)}, {"cost": 1.0}),)).ask().certificate.promise
    assert "approximate" not in geometry


# scores


def test_the_goal_acquisition_asks_what_tells_most_about_the_best_target_yet_out_of_reach():
    tuner = optimizer(settings=Settings(acquisition="goal"), horizon=20)
    phases = {trial.id: tuner.state.asked[trial.id].phase for trial in drive_truth(tuner)}
    assert {"seed", "explore", "maximise"} == set(phases.values())
    state = tuner.state
    seen = view(state, state.verdict())
    aim = int(np.flatnonzero(~seen.safe)[0])
    cost = seen.costs["cost"]
    gain = information(seen, aim)
    for index in np.flatnonzero(seen.safe)[:5]:
        told = cost.process.condition(np.array([index]), cost.process.mean[[index]], cost.noise_variance[[index]])
        drop = (cost.process.variance[aim] - told.variance[aim]) / 20.0**2
        assert gain[index] == pytest.approx(drop, rel=1e-6, abs=1e-12)
    assert goal(seen).scores.shape == (len(seen.space),)


def test_the_widest_acquisition_falls_back_to_the_widest_certified_target():
    tuner = optimizer(settings=Settings(acquisition="widest"))
    trials = drive_truth(tuner, asks=5)
    assert {tuner.state.asked[trial.id].phase for trial in trials[1:]} <= {"seed", "explore"}


def test_the_risk_in_a_certificate_is_that_of_the_mixture():
    tuner = optimizer(lengthscales=None)
    drive_truth(tuner, asks=4)
    state = tuner.state
    expected = state.costs["cost"].process.risk(20.0)
    for index in (0, 17, 40, 80):
        assert risk(state, state.limits[0], index) == pytest.approx(expected[index], rel=1e-9, abs=1e-12)


@given(st.lists(st.lists(st.floats(0, 100), min_size=1, max_size=5), min_size=1, max_size=5))
@settings(max_examples=50, deadline=None)
def test_moments_of_batches_are_the_moments_of_all_of_them(batches):
    moments = Moments()
    for batch in batches:
        moments = moments.of(np.array(batch))
    together = np.concatenate([np.array(batch) for batch in batches])
    assert moments.n == len(together)
    assert moments.mean == pytest.approx(together.mean(), rel=1e-9, abs=1e-9)
    assert moments.squares == pytest.approx(float(np.sum((together - together.mean()) ** 2)), rel=1e-6, abs=1e-6)
