import numpy as np
import pytest
from deploy_toys import LIMIT, answer, declaration, drive, measurement, space, truth, two_limits
from hypothesis import given, settings
from hypothesis import strategies as st

from safehold.core.certificate import TrialState
from safehold.core.errors import Alarm, Conflict, DataError, Exhausted, NoCertifiedTarget, SafetyHold
from safehold.core.measurement import Measurement
from safehold.deploy.declaration import Settings
from safehold.deploy.optimizer import TargetOptimizer
from safehold.gp.kernels import Matern52


def asks(optimizer):
    return list(optimizer.state.asked.values())


def broken(episodes=4, failed=1, cost=1.0):
    """Episodes of which the last ones failed without a number."""
    marks = np.arange(episodes) >= episodes - failed
    return Measurement(
        rewards=np.where(marks, np.nan, 40.0), costs={"cost": np.where(marks, np.nan, cost)}, failed=marks
    )


def test_a_whole_deployment_stays_safe_and_gets_better_than_its_seeds():
    optimizer = TargetOptimizer(declaration(horizon=20))
    trials, hold = drive(optimizer)
    assert isinstance(hold, Exhausted)
    assert len(trials) == 20
    assert all(truth(trial.target)[1] <= 20.0 for trial in trials)
    recommended = optimizer.recommend()
    best_seed = max(truth(target)[0] for target in optimizer.state.declaration.seed_targets)
    best_safe = max(truth(target)[0] for target in map(space().target, range(81)) if truth(target)[1] <= 20)
    reached = truth(recommended.target)[0]
    assert (reached - best_seed) / (best_safe - best_seed) >= 0.6


def test_every_ask_carries_the_evidence_it_rests_on():
    optimizer = TargetOptimizer(declaration())
    drive(optimizer)
    for n, asked in enumerate(asks(optimizer)):
        trial = optimizer.state.trial(asked.trial)
        assert (trial.number, asked.n_told, trial.certificate.n_told) == (n, n, n)
        assert space().index(trial.target) == asked.index
        assert trial.certificate.limits == (LIMIT,)
        assert (trial.certificate.delta, trial.certificate.spent_after) == (0.1, 0.1)
        assert sum(trial.certificate.shares.values()) == pytest.approx(0.1)
        assert (trial.certificate.basis == "premise") == (trial.certificate.upper is None)
        if trial.certificate.upper is None:
            assert trial.target in optimizer.state.declaration.seed_targets
            assert trial.certificate.premises[-1] == "A6-seeds-attested"
        else:
            assert trial.certificate.upper["cost"] == asked.costs["cost"].upper <= 20.0
            assert 0.0 <= trial.certificate.risks["cost"] < 0.5


def test_the_first_ask_is_the_seed_target_in_the_middle():
    optimizer = TargetOptimizer(declaration())
    assert optimizer.ask().target == (40.0, 0.0)
    assert asks(optimizer)[0].phase == "seed"


def test_it_explores_first_and_then_goes_for_reward():
    optimizer = TargetOptimizer(declaration(horizon=12))
    drive(optimizer)
    phases = [asked.phase for asked in asks(optimizer)]
    assert phases[0] == "seed"
    assert phases.count("explore") == 6
    assert phases[-1] == "maximise"
    assert all(asked.expander_count > 0 for asked in asks(optimizer) if asked.phase == "explore")


@pytest.mark.parametrize("settings", [Settings(exploration_share=0.0), Settings(exploration_width=100.0)])
def test_without_a_budget_or_a_need_it_does_not_explore(settings):
    optimizer = TargetOptimizer(declaration(settings=settings))
    drive(optimizer)
    assert {asked.phase for asked in asks(optimizer)} == {"seed", "maximise"}


def test_the_same_key_gives_the_same_trial():
    optimizer = TargetOptimizer(declaration())
    first = optimizer.ask("monday")
    assert optimizer.ask("monday") == first
    optimizer.tell(first.id, answer(first.target))
    again = optimizer.ask("monday")
    assert (again.id, again.target, again.state) == (first.id, first.target, TrialState.DONE)
    assert optimizer.ask("tuesday").id != first.id


def test_a_second_ask_waits_for_the_first():
    optimizer = TargetOptimizer(declaration())
    trial = optimizer.ask()
    with pytest.raises(Exhausted, match=rf"1 of at most 1 trials are open \({trial.id}\)"):
        optimizer.ask()
    assert optimizer.status().state == "pending"


def test_several_may_be_open_and_only_told_data_certifies():
    optimizer = TargetOptimizer(declaration(settings=Settings(pending_cap=3)))
    trials = [optimizer.ask() for _ in range(3)]
    assert [asked.n_told for asked in asks(optimizer)] == [0, 0, 0]
    assert all(trial.target in optimizer.state.declaration.seed_targets for trial in trials)
    with pytest.raises(Exhausted, match="3 of at most 3"):
        optimizer.ask()
    optimizer.tell(trials[2].id, answer(trials[2].target))
    optimizer.tell(trials[0].id, answer(trials[0].target))
    assert optimizer.status().open_trials == (trials[1].id,)


def test_two_limits_run_to_the_end():
    optimizer = TargetOptimizer(two_limits())
    for _ in range(8):
        trial = optimizer.ask()
        plain = measurement(trial.target[0], 0.5 * trial.target[1] + 2.0)
        costs = {**plain.costs, "fall": np.full(20, 0.5 * trial.target[2])}
        optimizer.tell(trial.id, Measurement(rewards=plain.rewards, costs=costs, failed=plain.failed))
    assert set(optimizer.recommend().costs) == {"cost", "fall"}


def test_telling_twice_the_same_changes_nothing_and_otherwise_is_refused():
    optimizer = TargetOptimizer(declaration())
    trial = optimizer.ask()
    optimizer.tell(trial.id, answer(trial.target), seeds=tuple(range(20)))
    state = optimizer.state
    optimizer.tell(trial.id, answer(trial.target), seeds=tuple(range(20)))
    assert optimizer.state is state
    with pytest.raises(Conflict, match="already told with other outcomes"):
        optimizer.tell(trial.id, measurement(40.0, 3.0))
    assert optimizer.state is state


def test_what_was_told_out_of_order_is_believed_alike():
    beliefs = []
    for order in ((0, 1, 2), (2, 0, 1)):
        optimizer = TargetOptimizer(declaration(settings=Settings(pending_cap=3)))
        trials = [optimizer.ask() for _ in range(3)]
        for i in order:
            optimizer.tell(trials[i].id, measurement(40.0 + i, 1.0 + i))
        beliefs.append(optimizer.state.costs["cost"].process)
    np.testing.assert_allclose(beliefs[0].mean, beliefs[1].mean, rtol=1e-9)
    np.testing.assert_allclose(beliefs[0].variance, beliefs[1].variance, rtol=1e-9)


def test_an_unknown_trial_is_refused():
    optimizer = TargetOptimizer(declaration())
    for call in (
        lambda: optimizer.tell("trial-0007", measurement(1.0, 1.0)),
        lambda: optimizer.deployed("trial-0007"),
        lambda: optimizer.abandon("trial-0007", "?"),
    ):
        with pytest.raises(DataError, match="unknown trial 'trial-0007'"):
            call()


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        (measurement(1.0, 1.0, name="coast"), r"told costs \['coast'\], the limits are on \['cost'\]"),
        (measurement(1.0, 500.0), r"is 498.*, above the declared cap 200"),
    ],
)
def test_outcomes_that_do_not_fit_the_declaration_leave_no_trace(outcome, message):
    optimizer = TargetOptimizer(declaration())
    trial = optimizer.ask()
    state = optimizer.state
    with pytest.raises(DataError, match=message):
        optimizer.tell(trial.id, outcome)
    assert optimizer.state is state


def test_the_horizon_is_the_end():
    optimizer = TargetOptimizer(declaration(horizon=3))
    trials, hold = drive(optimizer)
    assert len(trials) == 3
    assert "all 3 declared asks are spent" in str(hold)
    assert optimizer.status().state == "exhausted"
    with pytest.raises(Exhausted):
        TargetOptimizer(declaration(horizon=0)).ask()


def test_trials_move_through_their_states():
    optimizer = TargetOptimizer(declaration())
    trial = optimizer.ask()
    assert trial.state is TrialState.PLANNED
    assert optimizer.deployed(trial.id).state is TrialState.RUNNING
    assert optimizer.deployed(trial.id).state is TrialState.RUNNING
    assert optimizer.tell(trial.id, answer(trial.target)).state is TrialState.DONE
    with pytest.raises(DataError, match="only a planned trial"):
        optimizer.deployed(trial.id)
    with pytest.raises(DataError, match="only an open trial"):
        optimizer.abandon(trial.id, "late")


def test_an_outcome_that_is_not_known_counts_as_a_violation_until_it_is_told():
    optimizer = TargetOptimizer(declaration())
    trial = optimizer.ask()
    optimizer.deployed(trial.id)
    assert optimizer.abandon(trial.id, "power cut").state is TrialState.UNKNOWN
    assert optimizer.abandon(trial.id, "power cut").state is TrialState.UNKNOWN
    assert trial.target in optimizer.status().revoked
    assert optimizer.ask().target != trial.target
    assert optimizer.tell(trial.id, answer(trial.target)).state is TrialState.DONE
    assert optimizer.status().revoked == ()


def test_a_trial_that_was_never_deployed_costs_nothing():
    optimizer = TargetOptimizer(declaration(horizon=1))
    trial = optimizer.ask()
    assert optimizer.abandon(trial.id, "battery low", deployed=False).state is TrialState.ABORTED
    assert optimizer.status().revoked == ()
    again = optimizer.ask()
    assert (again.target, again.id) == (trial.target, "trial-0001")
    with pytest.raises(Conflict, match="attested as never deployed"):
        optimizer.tell(trial.id, answer(trial.target))


def test_a_deployed_trial_cannot_be_attested_as_never_deployed():
    optimizer = TargetOptimizer(declaration())
    trial = optimizer.ask()
    optimizer.deployed(trial.id)
    with pytest.raises(DataError, match="cannot be attested as never deployed"):
        optimizer.abandon(trial.id, "?", deployed=False)


@pytest.mark.parametrize("failed", [1, 4])
def test_a_failed_episode_is_a_violation_of_its_target_for_the_rest_of_the_run(failed):
    optimizer = TargetOptimizer(declaration())
    trial = optimizer.ask()
    optimizer.tell(trial.id, broken(failed=failed))
    assert trial.target in optimizer.status().revoked
    for _ in range(5):
        later = optimizer.ask()
        assert later.target != trial.target
        optimizer.tell(later.id, answer(later.target))
    assert trial.target in optimizer.status().revoked


@pytest.mark.parametrize("failed", [1, 2, 4])
def test_failed_episodes_never_certify_more_than_clean_ones(failed):
    safe = []
    for outcome in (broken(failed=0), broken(failed=failed)):
        optimizer = TargetOptimizer(declaration())
        optimizer.tell(optimizer.ask().id, outcome)
        assert optimizer.state.alarm is None
        safe.append(optimizer.state.verdict().safe)
    assert not np.any(safe[1] & ~safe[0])
    assert safe[1].sum() < safe[0].sum()


def test_a_failed_episode_is_believed_to_have_been_costly():
    means = []
    for outcome in (broken(failed=0), broken(failed=1)):
        optimizer = TargetOptimizer(declaration())
        trial = optimizer.ask()
        optimizer.tell(trial.id, outcome)
        means.append(optimizer.state.costs["cost"].process.mean[space().index(trial.target)])
    assert means[1] > means[0]


def test_a_failed_episode_is_a_violation_however_small_its_recorded_cost():
    optimizer = TargetOptimizer(declaration())
    trial = optimizer.ask()
    cut_short = Measurement(rewards=np.full(4, 1.0), costs={"cost": np.zeros(4)}, failed=np.arange(4) == 3)
    optimizer.tell(trial.id, cut_short)
    assert trial.target in optimizer.status().revoked


def test_a_failed_batch_says_nothing_about_noise():
    optimizer = TargetOptimizer(declaration())
    optimizer.tell(optimizer.ask().id, broken(failed=2))
    assert optimizer.state.costs["cost"].episode_variance(0) == 100.0
    assert optimizer.state.costs["cost"].degrees == 1


def test_when_nothing_is_certified_it_holds_and_names_what_came_nearest():
    optimizer = TargetOptimizer(declaration(seeds=((40.0, 0.0),)))
    optimizer.tell(optimizer.ask().id, broken(failed=4))
    with pytest.raises(
        NoCertifiedTarget, match=r"Nearest is \(.*upper bound .* against limit 20\); it misses by .* of the limit. Hold"
    ):
        optimizer.ask()
    assert optimizer.status().state == "held"
    assert optimizer.status().safe_count == 0


def test_when_every_candidate_is_revoked_it_says_so():
    support = np.zeros(81, dtype=np.bool_)
    support[18] = True
    optimizer = TargetOptimizer(declaration(support=support, seeds=((40.0, 0.0),)))
    optimizer.tell(optimizer.ask().id, broken(failed=4))
    with pytest.raises(NoCertifiedTarget, match="every supported candidate is revoked"):
        optimizer.ask()


def test_a_measurement_that_contradicts_the_model_raises_the_alarm():
    optimizer = TargetOptimizer(declaration(kernel=Matern52))
    for cost in (1.0, 1.0, 150.0):
        trial = optimizer.ask()
        optimizer.tell(trial.id, measurement(40.0, cost, spread=0.5))
    assert optimizer.state.alarm is not None
    for call in (optimizer.ask, optimizer.recommend):
        with pytest.raises(Alarm, match="no longer have a point in common"):
            call()
    status = optimizer.status()
    assert (status.state, status.recommendation) == ("alarm", None)
    assert status.fallback is None  # the target that was measured at 150 is a seed target


def test_the_fallback_is_never_a_target_that_was_measured_unsafe():
    optimizer = TargetOptimizer(declaration(seeds=((40.0, 0.0), (60.0, 0.0))))
    assert optimizer.status().fallback == (40.0, 0.0)
    trial = optimizer.ask()
    optimizer.tell(trial.id, broken())
    assert trial.target == (40.0, 0.0)
    assert optimizer.status().fallback == (60.0, 0.0)


def test_no_fallback_is_left_once_a_seed_target_refuted_the_premise():
    optimizer = TargetOptimizer(declaration())
    optimizer.tell(optimizer.ask().id, measurement(40.0, 25.0, spread=1.0))
    assert optimizer.status().fallback is None
    with pytest.raises(NoCertifiedTarget, match="No fallback is left: stop"):
        optimizer.recommend()


def test_an_alarm_after_a_refuted_premise_names_no_fallback():
    optimizer = TargetOptimizer(declaration(kernel=Matern52))
    optimizer.tell(optimizer.ask().id, measurement(40.0, 190.0, spread=0.5))
    assert optimizer.status().state == "alarm"
    assert optimizer.status().fallback is None
    with pytest.raises(Alarm, match="No fallback is left: stop"):
        optimizer.ask()


def test_an_alarm_stands_and_later_outcomes_are_still_recorded():
    optimizer = TargetOptimizer(declaration(settings=Settings(pending_cap=4)))
    trials = [optimizer.ask() for _ in range(4)]
    for trial, cost in zip(trials, (1.0, 150.0, 1.0, 1.0), strict=True):
        optimizer.tell(trial.id, measurement(40.0, cost, spread=0.5))
    assert optimizer.state.n_told == 4
    assert optimizer.status().state == "alarm"


def test_nothing_is_recommended_on_a_premise_alone():
    optimizer = TargetOptimizer(declaration())
    with pytest.raises(NoCertifiedTarget, match="none of the 0 told targets"):
        optimizer.recommend()
    assert optimizer.status().recommendation is None


def test_a_seed_target_that_was_told_too_little_is_asked_but_not_recommended():
    optimizer = TargetOptimizer(declaration(episode_sd={"cost": 200.0}))
    trial = optimizer.ask()
    optimizer.tell(trial.id, measurement(40.0, 1.0, spread=0.5))
    assert optimizer.state.verdict().safe[space().index(trial.target)]
    with pytest.raises(NoCertifiedTarget, match="none of the 1 told targets"):
        optimizer.recommend()


def test_the_recommendation_was_told_and_is_under_every_limit():
    optimizer = TargetOptimizer(declaration())
    drive(optimizer)
    recommended = optimizer.recommend()
    told = {asked.target for asked in asks(optimizer)}
    assert recommended.target in told
    assert recommended.costs["cost"].upper <= 20.0
    assert recommended.episodes % 20 == 0
    means = optimizer.state.reward.process.mean
    by_rules = optimizer.state.verdict().by_rules
    best = max(means[asked.index] for asked in asks(optimizer) if by_rules[asked.index])
    assert means[recommended.index] == best
    assert optimizer.status().recommendation == recommended


@pytest.mark.parametrize("unit", [2.0**-10, 2.0, 2.0**20])
def test_decisions_are_the_same_in_other_units_of_cost(unit):
    plain, scaled = TargetOptimizer(declaration()), TargetOptimizer(declaration(unit=unit))
    drive(plain)
    drive(scaled, unit)
    assert [a.index for a in asks(plain)] == [a.index for a in asks(scaled)]
    assert [a.safe_mask for a in asks(plain)] == [a.safe_mask for a in asks(scaled)]


def test_two_optimizers_in_one_process_do_not_meet():
    first, second = TargetOptimizer(declaration()), TargetOptimizer(declaration())
    trial = first.ask()
    first.tell(trial.id, answer(trial.target))
    assert second.status().told == 0
    drive(first)
    drive(second)
    assert asks(first) == asks(second)


def test_constant_zero_cost_does_not_certify_what_was_never_visited():
    """The declared length-scale, not the data, says how far a lucky zero reaches."""
    support = np.ones(81, dtype=np.bool_)
    optimizer = TargetOptimizer(declaration(lengthscales={"reward": 30.0, "cost": 8.0}, support=support))
    for _ in range(6):
        trial = optimizer.ask()
        optimizer.tell(trial.id, measurement(40.0, 0.0, spread=0.0))
    points = space().points
    far = (points[:, 0] >= 120) & (points[:, 1] >= 20)
    assert not optimizer.state.verdict().safe[far].any()


@given(cost=st.floats(0.0, 60.0), more=st.floats(0.0, 60.0))
@settings(max_examples=25, deadline=None)
def test_a_higher_first_cost_never_certifies_more(cost, more):
    safe = []
    for told in (cost, cost + more):
        optimizer = TargetOptimizer(declaration())
        optimizer.tell(optimizer.ask().id, measurement(40.0, told, spread=0.0))
        safe.append(optimizer.state.verdict().safe)
    assert not np.any(safe[1] & ~safe[0])


@given(costs=st.lists(st.floats(0.0, 199.0), min_size=1, max_size=6), seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_whatever_is_told_only_bounded_supported_targets_or_seeds_are_handed_out(costs, seed):
    """Any outcomes at all: every ask is a supported seed target, or under every limit by its own bound."""
    support = np.random.default_rng(seed).random(81) < 0.7
    support[space().index((40.0, 0.0))] = True
    optimizer = TargetOptimizer(declaration(support=support))
    try:
        for cost in costs:
            trial = optimizer.ask()
            index = space().index(trial.target)
            assert support[index]
            upper = optimizer.state.standings[0].bands["cost"].upper[index]
            assert upper <= 20.0 or trial.target in optimizer.state.declaration.seed_targets
            assert not optimizer.state.verdict().revoked[index]
            optimizer.tell(trial.id, measurement(40.0, cost, spread=0.0))
    except SafetyHold:
        assert not optimizer.state.verdict().safe.any() or optimizer.state.alarm is not None
