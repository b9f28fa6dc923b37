"""What a person decides: seeds verified or not, trials approved or not, one stage of a roll-out after another."""

from dataclasses import replace

import numpy as np
import pytest
from deploy_toys import answer, measurement
from deploy_toys import declaration as toy

from safehold.core.certificate import TrialState
from safehold.core.constraint import Limit
from safehold.core.errors import (
    Alarm,
    Conflict,
    DataError,
    Exhausted,
    IntegrityError,
    NoCertifiedTarget,
    NoSeed,
    SafetyHold,
    Unapproved,
    UsageError,
)
from safehold.core.measurement import Measurement
from safehold.deploy.audit import audit
from safehold.deploy.betting import verify_seed
from safehold.deploy.certificates.paper import Paper
from safehold.deploy.certificates.risk_ledger import RiskLedger
from safehold.deploy.declaration import Declaration, Settings, Shares
from safehold.deploy.optimizer import Deployment, TargetOptimizer
from safehold.deploy.replay import told_statistic
from safehold.deploy.stages import Stage, by_parts
from safehold.deploy.verify import differences, verify
from safehold.gp.kernels import Matern52
from safehold.ledger.events import Approved, Asked, Held, Shadowed

SEEDS = ((40.0, 0.0), (60.0, 0.0))
VERIFIED = Shares(seed=0.02, certificate=0.07, noise=0.01)


def declaration(**changes):
    return toy(**{"rules": (RiskLedger(),), "kernel": Matern52, "seeds": SEEDS, **changes})


def to_verify(**changes):
    return replace(declaration(shares=VERIFIED, **changes), seed_rule="verified")


def staged(new_targets=1, horizon=20, **changes):
    plain = declaration(horizon=horizon)
    stages = by_parts(plain.share.certificate, (0.25, 0.75), new_targets, episodes_per_ask=10)
    return replace(plain, stages=stages, **changes)


def low(episodes=60, cost=2.0):
    return {"cost": np.full(episodes, cost)}


# Seeds -----------------------------------------------------------------------------------------------------------


def test_nothing_is_asked_before_a_seed_target_is_verified():
    optimizer = TargetOptimizer(to_verify())
    with pytest.raises(NoSeed, match=r"none of 2 declared seed targets is verified yet.*reaches 100 "):
        optimizer.ask()
    assert optimizer.status().state == "held"
    assert not optimizer.verify_seed(SEEDS[0], low(20), source="bench, monday")
    with pytest.raises(NoSeed):
        optimizer.ask()


def test_a_seed_target_that_failed_its_test_is_not_bought_from_the_rules(tmp_path):
    """Which seed targets are verified steers the search, so what their tests showed is evidence for the rules."""
    rng = np.random.default_rng(0)
    with Deployment.create(tmp_path / "run", to_verify(horizon=14)) as deployment:
        assert not deployment.verify_seed(
            SEEDS[1], {"cost": np.clip(30 + 3 * rng.normal(size=100), 0, 60)}, source="dear"
        )
        assert deployment.verify_seed(SEEDS[0], {"cost": np.clip(1 + rng.normal(size=300), 0, 60)}, source="cheap")
        state = deployment.state
        risks = state.verdict().rules[0].risk
        dear = state.declaration.space.index(SEEDS[1])
        assert state.rounds == 2
        assert state.costs["cost"].process.n_told == 2
        assert risks[dear] > 0.999
        assert not state.verdict().safe[dear]
        for _ in range(4):
            trial = deployment.ask()
            deployment.tell(trial.id, answer(trial.target))
        asked = {event.target for event in deployment.state.asked.values()}
        assert SEEDS[1] not in asked
    assert verify(tmp_path / "run") == []
    assert audit(tmp_path / "run").ok


def test_once_failed_episodes_were_too_dear_nothing_new_is_paid_for(tmp_path):
    """What they had cost when they broke off is in no belief: it may end the search, and not steer it."""
    outcomes = []
    for number, recorded in enumerate((5.0, 120.0)):
        place = tmp_path / str(number)
        with Deployment.create(place, declaration(horizon=14)) as deployment:
            for _ in range(2):
                trial = deployment.ask()
                deployment.tell(trial.id, answer(trial.target))
            far = (160.0, 40.0)
            costs, failed = np.append(np.full(19, 15.0), recorded), np.arange(20) == 19
            deployment.observe(
                far, Measurement(rewards=costs, costs={"cost": costs}, failed=failed), source="elsewhere"
            )
            state = deployment.state
            verdict, paid = state.verdict(), list(state.tallies)
            outcomes.append((state.dear_failure, bool(np.delete(verdict.by_rules, paid).any())))
            trial = deployment.ask()
            deployment.tell(trial.id, answer(trial.target))
        assert audit(place).ok
    assert outcomes == [(False, True), (True, False)]


@pytest.mark.parametrize("left", [1, 2, 4, 5])
def test_of_a_chance_limit_two_survivors_are_evidence_and_fewer_than_five_no_assumption(left):
    limit = Limit("cost", 20.0, "chance", 0.1)
    failed = np.arange(8) >= left
    costs = np.linspace(3.0, 9.0, 8)
    told = told_statistic(limit, 3, Measurement(rewards=costs, costs={"cost": costs}, failed=failed), 60.0)
    assert (told.survivors is None) == (left < 2)
    if left >= 2:
        assert told.survivors.value == pytest.approx(limit.statistic(costs[:left]))
        assert told.survivors.noise_factor == limit.noise_factor(left)
    assert (told.value == 60.0) == (left < 5)


def test_a_seed_target_is_verified_by_its_raw_episodes_at_its_part_of_the_seeds_share():
    declared = to_verify()
    assert declared.seed_level == pytest.approx(0.01)
    optimizer = TargetOptimizer(declared)
    batches = [np.full(40, 2.0)] * 5
    expected = [
        verify_seed(np.concatenate(batches[: n + 1]), 20.0, 200.0, declared.seed_level).verified for n in range(5)
    ]
    got = [optimizer.verify_seed(SEEDS[0], {"cost": batch}, source=f"batch {n}") for n, batch in enumerate(batches)]
    assert got == expected
    assert (got[0], got[-1]) == (False, True)
    trial = optimizer.ask()
    assert trial.target == SEEDS[0]
    assert trial.certificate.basis == "premise"
    assert "A6-seeds-verified" in trial.certificate.premises
    assert trial.certificate.shares["seed"] == 0.02
    assert sum(trial.certificate.shares.values()) == pytest.approx(0.1)


def test_only_the_seed_target_that_passed_is_handed_out():
    optimizer = TargetOptimizer(to_verify())
    optimizer.verify_seed(SEEDS[1], low(400), source="bench")
    assert np.flatnonzero(optimizer.state.verdict().by_premise).tolist() == [
        optimizer.state.declaration.space.index(SEEDS[1])
    ]


def test_a_source_counts_once():
    optimizer = TargetOptimizer(to_verify())
    optimizer.verify_seed(SEEDS[0], low(20), source="bench")
    state = optimizer.state
    optimizer.verify_seed(SEEDS[0], low(20), source="bench")
    assert optimizer.state is state
    with pytest.raises(Conflict, match="other seed episodes were told as 'bench'"):
        optimizer.verify_seed(SEEDS[0], low(20, cost=1.0), source="bench")
    assert optimizer.state is state


def test_failed_episodes_never_verify():
    optimizer = TargetOptimizer(to_verify())
    costs = {"cost": np.full(400, np.nan)}
    assert not optimizer.verify_seed(SEEDS[0], costs, source="bench", failed=np.ones(400, np.bool_))
    assert optimizer.state.seed_capitals[optimizer.state.declaration.space.index(SEEDS[0])]["cost"].peak <= 1.0


@pytest.mark.parametrize(
    ("target", "costs", "error", "words"),
    [
        ((160.0, 40.0), low(), UsageError, "no seed target that is to be verified"),
        (SEEDS[0], {"coast": np.zeros(3)}, DataError, "the limits are on"),
        (SEEDS[0], {"cost": np.full(3, 500.0)}, DataError, "above the declared cap"),
        (SEEDS[0], {"cost": np.full(3, np.nan)}, DataError, "no evidence of safety"),
    ],
)
def test_episodes_that_cannot_be_a_seeds_are_refused(target, costs, error, words):
    optimizer = TargetOptimizer(to_verify())
    with pytest.raises(error, match=words):
        optimizer.verify_seed(target, costs, source="bench")
    assert not optimizer.state.seed_tests


def test_attested_seed_targets_are_not_tested():
    with pytest.raises(UsageError, match="seed targets of this run are attested"):
        TargetOptimizer(declaration()).verify_seed(SEEDS[0], low(), source="bench")


def test_a_limit_that_no_bet_verifies_is_refused_when_it_is_declared():
    with pytest.raises(UsageError, match="cvar limit cannot be verified"):
        to_verify(limits=(Limit("cost", 20.0, "cvar", 0.1),))


def test_unsafe_seed_targets_are_verified_no_more_often_than_their_share():
    """Two seed targets at the limit, costs all or nothing, looked at after every 20 episodes up to 200: 300 runs."""
    rng, passed = np.random.default_rng(0), 0
    for _ in range(300):
        costs = 200.0 * (rng.random((2, 200)) < 0.1)
        passed += any(verify_seed(row, 20.0, 200.0, 0.1 / 2).verified for row in costs)
    assert passed <= 300 * 0.1 + 2.33 * np.sqrt(300 * 0.1 * 0.9)


def test_the_evidence_is_in_the_ledger_and_verify_derives_it(tmp_path):
    with Deployment.create(tmp_path / "run", to_verify()) as deployment:
        with pytest.raises(NoSeed):
            deployment.ask()
        assert deployment.verify_seed(SEEDS[0], low(400), source="bench")
        trial = deployment.ask()
        deployment.tell(trial.id, answer(trial.target))
        events = deployment.events()
    assert verify(tmp_path / "run") == []
    with Deployment.open(tmp_path / "run", read_only=True) as again:
        assert again.state.established.sum() == 1
    forged = [
        replace(event, costs={"cost": (19.9,) * 400}) if type(event).__name__ == "SeedTested" else event
        for event in events
    ]
    found = differences(enumerate(forged))
    assert any("NoSeed" in difference.derived for difference in found)


# Approval --------------------------------------------------------------------------------------------------------

APPROVAL = Settings(approval=True)


def test_a_trial_waits_for_an_operator():
    optimizer = TargetOptimizer(declaration(settings=APPROVAL))
    trial = optimizer.ask()
    assert trial.state is TrialState.PLANNED
    with pytest.raises(Unapproved, match=r"trial-0000 waits for an operator: its target \(40.0, 0.0\)"):
        optimizer.deployed(trial.id)
    optimizer.approve(trial.id, "R. Okafor")
    optimizer.approve(trial.id, "R. Okafor")
    assert optimizer.deployed(trial.id).state is TrialState.RUNNING


def test_a_rejected_target_is_not_handed_out_again_and_nothing_is_refunded():
    optimizer = TargetOptimizer(declaration(settings=APPROVAL))
    first = optimizer.ask()
    assert optimizer.reject(first.id, "R. Okafor", "people in the cell").state is TrialState.ABORTED
    second = optimizer.ask()
    assert second.target == SEEDS[1]
    optimizer.reject(second.id, "R. Okafor", "still there")
    with pytest.raises(NoCertifiedTarget, match="2 targets were rejected by an operator"):
        optimizer.ask()
    assert optimizer.status().fallback is None


def test_a_running_trial_is_neither_approved_nor_rejected():
    optimizer = TargetOptimizer(declaration(settings=APPROVAL))
    trial = optimizer.ask()
    optimizer.approve(trial.id, "R. Okafor")
    optimizer.deployed(trial.id)
    with pytest.raises(DataError, match="only a planned one can be rejected"):
        optimizer.reject(trial.id, "R. Okafor", "late")


def test_decisions_need_a_name():
    optimizer = TargetOptimizer(declaration(settings=APPROVAL))
    trial = optimizer.ask()
    for call in (
        lambda: optimizer.approve(trial.id, " "),
        lambda: optimizer.reject(trial.id, "R. Okafor", ""),
        lambda: optimizer.advance("", "time"),
    ):
        with pytest.raises(UsageError, match="decided by somebody"):
            call()


def test_without_declared_approval_there_is_nothing_to_approve():
    optimizer = TargetOptimizer(declaration())
    with pytest.raises(UsageError, match="declared without approval"):
        optimizer.approve(optimizer.ask().id, "R. Okafor")


def test_what_is_no_longer_certified_cannot_be_approved():
    optimizer = TargetOptimizer(declaration(settings=Settings(approval=True, pending_cap=2), seeds=SEEDS[:1]))
    first, second = optimizer.ask("a"), optimizer.ask("b")
    optimizer.tell(first.id, measurement(40.0, 25.0, spread=1.0))
    with pytest.raises(NoCertifiedTarget, match="is revoked"):
        optimizer.approve(second.id, "R. Okafor")


def test_approvals_are_in_the_ledger(tmp_path):
    with Deployment.create(tmp_path / "run", declaration(settings=APPROVAL)) as deployment:
        trial = deployment.ask()
        with pytest.raises(Unapproved):
            deployment.deployed(trial.id)
        deployment.approve(trial.id, "R. Okafor")
        deployment.deployed(trial.id)
        deployment.tell(trial.id, answer(trial.target))
        rejected = deployment.ask()
        deployment.reject(rejected.id, "R. Okafor", "people in the cell")
        kinds = [type(event) for event in deployment.events()][2:]
        assert kinds[:3] == [Asked, Held, Approved]
    with Deployment.open(tmp_path / "run", read_only=True) as again:
        assert again.state.approved == {trial.id}
        assert again.state.rejected == {again.state.asked[rejected.id].index}
    assert verify(tmp_path / "run") == []


# Stages ----------------------------------------------------------------------------------------------------------


class Recorded(TargetOptimizer):
    def __init__(self, declared):
        super().__init__(declared)
        self.record = []

    def _take(self, step):
        self.record += step.events
        super()._take(step)


def turns(optimizer, count):
    trials = []
    for _ in range(count):
        try:
            trial = optimizer.ask()
        except SafetyHold:
            break
        trials.append(optimizer.tell(trial.id, answer(trial.target)))
    return trials


def test_the_shadow_stage_hands_out_seeds_and_records_what_it_would_have_asked():
    optimizer = Recorded(staged())
    trials = turns(optimizer, 5)
    assert {trial.target for trial in trials} <= set(SEEDS)
    assert optimizer.state.spent == 0.0
    shadows = [event for event in optimizer.record if isinstance(event, Shadowed)]
    assert [shadow.trial for shadow in shadows] == [trial.id for trial in trials]
    assert any(shadow.target not in SEEDS for shadow in shadows)


def test_the_canary_stage_hands_out_so_many_new_targets_and_spends_its_share_at_most():
    optimizer = Recorded(staged(new_targets=2))
    turns(optimizer, 3)
    optimizer.advance("R. Okafor", "shadow agreed with the plan")
    assert optimizer.state.stage.name == "canary"
    trials = turns(optimizer, 8)
    new = {trial.target for trial in trials} - set(SEEDS)
    assert 1 <= len(new) <= 2
    assert optimizer.state.spent <= optimizer.state.declaration.stages[1].share
    assert not any(isinstance(event, Shadowed) and event.trial == trials[0].id for event in optimizer.record)
    optimizer.advance("R. Okafor", "quiet")
    later = {trial.target for trial in turns(optimizer, 8)}
    assert later - new - set(SEEDS)
    assert optimizer.state.spent <= optimizer.state.declaration.share.certificate


def test_a_stage_never_adds_to_what_the_rules_allow():
    staged_one, plain = Recorded(staged(new_targets=2)), TargetOptimizer(declaration(horizon=20))
    for trial in (*turns(staged_one, 3), *(staged_one.advance("R. Okafor", "next") or turns(staged_one, 5))):
        told = staged_one.state.told[trial.id].measurement
        plain.observe(trial.target, told, source="the staged run")
    by_rules = staged_one.state.verdict().by_rules
    unstaged = replace(staged_one.state, stage_number=2).verdict().by_rules
    assert not np.any(by_rules & ~unstaged)


def test_episodes_per_ask_are_those_of_the_stage():
    optimizer = TargetOptimizer(staged())
    assert optimizer.state.episodes_per_ask == 10
    optimizer.advance("a", "b")
    optimizer.advance("a", "b")
    assert optimizer.state.episodes_per_ask == 20
    with pytest.raises(UsageError, match="is in its last stage, 'full'"):
        optimizer.advance("a", "b")


def test_shares_of_stages_are_printed_with_every_certificate_and_add_up():
    trial = TargetOptimizer(staged()).ask()
    assert set(trial.certificate.shares) == {
        "seed",
        "certificate, shadow",
        "certificate, canary",
        "certificate, full",
        "noise",
    }
    assert sum(trial.certificate.shares.values()) == pytest.approx(trial.certificate.delta)


def test_a_roll_out_goes_on_only_when_nothing_is_open_and_no_alarm_stands():
    optimizer = TargetOptimizer(staged())
    trial = optimizer.ask()
    with pytest.raises(Conflict, match="trials are open"):
        optimizer.advance("a", "b")
    optimizer.tell(trial.id, answer(trial.target))
    watched = TargetOptimizer(staged(monitors=Declaration.__dataclass_fields__["monitors"].default_factory()))
    for _ in range(2):
        try:
            watched.tell(watched.ask().id, measurement(40.0, 90.0, spread=0.0))
        except SafetyHold:
            break
    with pytest.raises(Alarm, match="Resume the run before"):
        watched.advance("a", "b")
    with pytest.raises(UsageError, match="declared without stages"):
        TargetOptimizer(declaration()).advance("a", "b")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s[::-1], "come in the order"),
        (lambda s: s[:2], "the last is 'full'"),
        (lambda s: (s[0], s[1]), "the last is 'full'"),
        (lambda s: (replace(s[0], share=0.01), *s[1:]), "shadow spends nothing"),
        (lambda s: (s[0], replace(s[1], new_targets=None), s[2]), "canary at least 1"),
        (lambda s: (s[0], replace(s[1], share=0.05), s[2]), "add up to"),
        (lambda s: (s[0], replace(s[1], episodes_per_ask=21), s[2]), "from 1 to the declared 20"),
        (lambda s: (*s[:2], replace(s[2], new_targets=3)), "full all that are certified"),
    ],
)
def test_stages_that_do_not_fit_are_refused(change, words):
    declared = staged()
    with pytest.raises(UsageError, match=words):
        replace(declared, stages=tuple(change(declared.stages)))


def test_a_rule_that_spends_all_at_once_cannot_be_staged():
    with pytest.raises(UsageError, match="the rule 'paper' spends its whole share of delta at once"):
        replace(declaration(rules=(Paper(),)), stages=(Stage(name="full", share=0.1),))


def test_a_staged_run_is_replayed_verified_and_reopened_as_it_was(tmp_path):
    with Deployment.create(tmp_path / "run", staged()) as deployment:
        turns(deployment, 2)
        deployment.advance("R. Okafor", "fine")
        turns(deployment, 3)
        state, events = deployment.state, deployment.events()
    with Deployment.open(tmp_path / "run", read_only=True) as again:
        assert (again.state.stage, again.state.stage_start) == (state.stage, 2)
        assert again.state.declaration.stages == staged().stages
    assert verify(tmp_path / "run") == []
    silent = [event for event in events if not isinstance(event, Shadowed)]
    assert differences(enumerate(silent))
    skipped = [replace(e, stage="full") if type(e).__name__ == "Advanced" else e for e in events]
    with pytest.raises(IntegrityError, match="cannot go on to 'full'"):
        differences(enumerate(skipped))


def test_a_stopped_run_takes_no_more_seed_episodes_and_goes_on_to_nothing(tmp_path):
    with Deployment.create(tmp_path / "run", to_verify()) as deployment:
        deployment.stop("sold")
        with pytest.raises(Exhausted, match="sold"):
            deployment.verify_seed(SEEDS[0], low(), source="bench")
    with Deployment.create(tmp_path / "staged", staged()) as deployment:
        deployment.stop("sold")
        with pytest.raises(Exhausted, match="sold"):
            deployment.advance("a", "b")
