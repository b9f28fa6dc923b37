import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from deploy_toys import answer, declaration, drive, measurement

from safehold.core.certificate import TrialState
from safehold.core.errors import Alarm, Conflict, DataError, Exhausted, IntegrityError, NoCertifiedTarget, UsageError
from safehold.core.measurement import Measurement
from safehold.deploy.declaration import Settings
from safehold.deploy.optimizer import Deployment, TargetOptimizer
from safehold.deploy.verify import Difference, differences, verify
from safehold.ledger.encoding import to_plain
from safehold.ledger.events import Alarmed, Asked, Evaluated, Held, Seeded, Started, Told
from safehold.ledger.store import Ledger


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run"


def kinds(deployment):
    return [type(event).__name__ for event in deployment.events()]


def test_what_is_asked_in_memory_is_asked_durably(path):
    optimizer = TargetOptimizer(declaration())
    drive(optimizer)
    with Deployment.create(path, declaration()) as deployment:
        drive(deployment)
        assert deployment.state.asked == optimizer.state.asked
        assert deployment.recommend() == optimizer.recommend()
        assert deployment.status() == optimizer.status()


def test_a_reopened_deployment_needs_nothing_but_its_directory_and_goes_on_bit_by_bit(path, tmp_path):
    with Deployment.create(path, declaration(horizon=6)) as unbroken:
        drive(unbroken)
        whole = [to_plain(event) for event in unbroken.events()]
    broken_path = tmp_path / "broken"
    Deployment.create(broken_path, declaration(horizon=6)).close()
    for _ in range(6):
        with Deployment.open(broken_path) as deployment:
            trial = deployment.ask()
        with Deployment.open(broken_path) as deployment:
            deployment.tell(trial.id, answer(trial.target))
    with Deployment.open(broken_path) as deployment:
        with pytest.raises(Exhausted):
            deployment.ask()
        assert [to_plain(event) for event in deployment.events()] == whole


def test_two_runs_have_the_same_hashes(tmp_path):
    hashes = []
    for name in "ab":
        with Deployment.create(tmp_path / name, declaration()) as deployment:
            drive(deployment)
            hashes.append([record.hash for record in deployment.ledger.read()])
    assert hashes[0] == hashes[1]


def test_the_ledger_begins_with_what_was_declared(path):
    with Deployment.create(
        path,
        declaration(),
        policy_digest="ab12",
        provenance={"env": "toy"},
        seed_rule="two lowest rows",
        seed_evidence={"episodes": 30},
    ) as deployment:
        started, seeded = deployment.events()
    assert isinstance(started, Started)
    assert (started.policy_digest, started.provenance) == ("ab12", {"env": "toy"})
    assert isinstance(seeded, Seeded)
    assert (seeded.rule, seeded.evidence) == ("two lowest rows", {"episodes": 30})


def test_a_run_is_never_overwritten(path):
    Deployment.create(path, declaration()).close()
    with pytest.raises(UsageError, match="already holds a run"):
        Deployment.create(path, declaration())


def test_a_lost_run_is_never_started_anew(path):
    with Deployment.create(path, declaration()) as deployment:
        deployment.ask()
    (path / "ledger.sqlite").unlink()
    with pytest.raises(IntegrityError, match="the ledger was lost"):
        Deployment.create(path, declaration())


def test_an_ask_is_committed_before_it_is_returned(path):
    with Deployment.create(path, declaration()) as deployment:
        trial = deployment.ask()
        with Ledger.open(path / "ledger.sqlite", read_only=True) as other:
            last = other.read()[-1]
        assert (last.kind, last.trial) == ("asked", trial.id)


def test_several_processes_take_turns_on_one_run(path):
    with Deployment.create(path, declaration()) as here, Deployment.open(path) as there:
        trial = here.ask("one")
        assert there.ask("one") == trial
        there.deployed(trial.id)
        assert here.status().told == 0
        assert here.state.states[trial.id] is TrialState.RUNNING
        there.tell(trial.id, answer(trial.target))
        second = here.ask()
        assert second.number == 1
        here.refresh()
        assert here.state.n_told == 1
        with pytest.raises(Conflict):
            here.tell(trial.id, measurement(1.0, 1.0))


def test_a_refused_call_leaves_ledger_and_state_as_they_were(path):
    with Deployment.create(path, declaration()) as deployment:
        trial = deployment.ask()
        state, before = deployment.state, deployment.ledger.read()
        with pytest.raises(DataError, match="above the declared cap"):
            deployment.tell(trial.id, measurement(1.0, 900.0))
        with pytest.raises(DataError, match="unknown trial"):
            deployment.tell("trial-0009", measurement(1.0, 1.0))
        with pytest.raises(Exhausted, match="trials are open"):
            deployment.ask()
        assert deployment.state is state
        assert deployment.ledger.read() == before


def test_telling_twice_is_one_event(path):
    with Deployment.create(path, declaration()) as deployment:
        trial = deployment.ask()
        deployment.tell(trial.id, answer(trial.target))
        deployment.tell(trial.id, answer(trial.target))
        assert kinds(deployment) == ["Started", "Seeded", "Asked", "Told"]


def test_holding_is_recorded_once(path):
    with Deployment.create(path, declaration(horizon=0)) as deployment:
        for _ in range(3):
            with pytest.raises(Exhausted, match="all 0 declared asks"):
                deployment.ask()
        assert kinds(deployment) == ["Started", "Seeded", "Held"]
        held = deployment.events()[-1]
        assert isinstance(held, Held)
        assert held.error == "Exhausted"


def test_an_alarm_is_recorded_with_the_measurement_that_raised_it(path):
    with Deployment.create(path, declaration(settings=Settings(pending_cap=2))) as deployment:
        first, second = deployment.ask(), deployment.ask()
        deployment.tell(first.id, measurement(40.0, 1.0, spread=0.5))
        deployment.tell(second.id, measurement(40.0, 150.0, spread=0.5))
        assert kinds(deployment)[-2:] == ["Told", "Alarmed"]
        with pytest.raises(Alarm):
            deployment.ask()
    with Deployment.open(path) as again:
        assert again.status().state == "alarm"
        assert isinstance(again.state.alarm, Alarmed)
        assert again.state.alarm.lower > again.state.alarm.upper
    assert verify(path) == []


def test_failed_and_unknown_trials_survive_reopening(path):
    failed = Measurement(
        rewards=np.array([np.nan, 40.0]), costs={"cost": np.array([np.nan, 1.0])}, failed=np.array([True, False])
    )
    with Deployment.create(path, declaration()) as deployment:
        first = deployment.ask()
        deployment.tell(first.id, failed, lengths=(3, 10), seeds=(1, 2))
        second = deployment.ask()
        deployment.deployed(second.id)
        deployment.abandon(second.id, "power cut")
        third = deployment.ask()
        deployment.abandon(third.id, "battery low", deployed=False)
        revoked = deployment.status().revoked
    assert set(revoked) == {first.target, second.target}
    with Deployment.open(path, read_only=True) as again:
        assert again.status().revoked == revoked
        told = again.state.told[first.id]
        assert (told.costs, told.lengths, told.seeds) == ({"cost": (None, 1.0)}, (3, 10), (1, 2))
    assert verify(path) == []


def test_evaluations_are_recorded_and_inform_nothing(path):
    with Deployment.create(path, declaration()) as deployment:
        before = deployment.state
        deployment.evaluated("naive", (160.0, 20.0), measurement(150.0, 25.0), lengths=tuple([9] * 20))
        assert isinstance(deployment.events()[-1], Evaluated)
        assert deployment.state is before


def test_a_stopped_run_hands_out_nothing(path):
    with Deployment.create(path, declaration()) as deployment:
        deployment.stop("moved to another plant")
        deployment.stop("again")
        with pytest.raises(Exhausted, match="moved to another plant"):
            deployment.ask()
        assert deployment.status().state == "stopped"
        assert kinds(deployment) == ["Started", "Seeded", "Stopped", "Held"]


def refused_to_run(deployment, trial, error, message):
    """Neither deploying the trial nor asking with its key gives it out."""
    before = deployment.state.states[trial.id]
    for call in (lambda: deployment.deployed(trial.id), lambda: deployment.ask(trial.key)):
        with pytest.raises(error, match=message):
            call()
    assert deployment.state.states[trial.id] is before
    assert kinds(deployment)[-1] == "Held"


@pytest.mark.parametrize("running", [False, True])
def test_an_open_trial_does_not_run_after_a_stop(path, running):
    with Deployment.create(path, declaration()) as deployment:
        trial = deployment.ask("key")
        if running:
            deployment.deployed(trial.id)
        deployment.stop("moved to another plant")
        refused_to_run(deployment, trial, Exhausted, "moved to another plant")
        assert deployment.tell(trial.id, answer(trial.target)).state is TrialState.DONE
    assert verify(path) == []


def test_a_told_trial_is_still_given_by_its_key_after_a_stop(path):
    """A runner that lost the answer asks again: the trial has ended, so nothing will run on it."""
    with Deployment.create(path, declaration()) as deployment:
        trial = deployment.ask("key")
        deployment.tell(trial.id, answer(trial.target))
        deployment.stop("moved to another plant")
        assert deployment.ask("key") == replace(trial, state=TrialState.DONE)
        assert kinds(deployment)[-1] == "Stopped"


@pytest.mark.parametrize("running", [False, True])
def test_an_open_trial_does_not_run_after_an_alarm(path, running):
    with Deployment.create(path, declaration(settings=Settings(pending_cap=2))) as deployment:
        first, second = deployment.ask("a"), deployment.ask("b")
        if running:
            deployment.deployed(second.id)
        deployment.tell(first.id, measurement(40.0, 190.0, spread=0.5))
        refused_to_run(deployment, second, Alarm, "no longer have a point in common")
        assert deployment.tell(second.id, answer(second.target)).state is TrialState.DONE


@pytest.mark.parametrize("running", [False, True])
def test_an_open_trial_does_not_run_once_its_target_is_revoked(path, running):
    with Deployment.create(path, declaration(settings=Settings(pending_cap=2), seeds=((40.0, 0.0),))) as deployment:
        first, second = deployment.ask("a"), deployment.ask("b")
        assert first.target == second.target
        if running:
            deployment.deployed(second.id)
        deployment.tell(first.id, measurement(40.0, 25.0, spread=1.0))
        refused_to_run(deployment, second, NoCertifiedTarget, "is revoked by what was measured")
        assert deployment.tell(second.id, answer(second.target)).state is TrialState.DONE


def test_a_read_only_deployment_reports_and_refuses_to_write(path):
    with Deployment.create(path, declaration()) as deployment:
        drive(deployment)
        deployment.evaluated("recommended", None, measurement(100.0, 1.0))
    with Deployment.open(path, read_only=True) as reader:
        assert reader.recommend().costs["cost"].upper <= 20.0
        with pytest.raises(IntegrityError, match="readonly"):
            reader.stop("no")


def test_another_kind_of_run_is_not_opened_as_a_deployment(path):
    Ledger.create(path / "ledger.sqlite", [Held(error="x", reason="y")]).close()
    with pytest.raises(IntegrityError, match="does not begin with a started deployment"):
        Deployment.open(path)
    with pytest.raises(IntegrityError, match="does not begin with a started deployment"):
        verify(path)


def test_verify_finds_nothing_in_an_honest_ledger(path):
    with Deployment.create(path, declaration(settings=Settings(pending_cap=2))) as deployment:
        trials = [deployment.ask(), deployment.ask()]
        for trial in reversed(trials):
            deployment.tell(trial.id, answer(trial.target))
        drive(deployment)
    assert verify(path) == []


def forged(path: Path, change):
    """The events of a run, numbered, one of them changed, as a forger who re-hashes everything would write them."""
    with Deployment.open(path, read_only=True) as deployment:
        return list(enumerate(change(event) for event in deployment.events()))


@pytest.mark.parametrize(
    ("field", "value"),
    [("target", (160.0, 40.0)), ("safe_count", 81), ("index", 80), ("phase", "maximise"), ("alpha", 1.0)],
)
def test_verify_names_every_ask_that_does_not_follow(path, field, value):
    with Deployment.create(path, declaration(horizon=4)) as deployment:
        drive(deployment)

    def change(event):
        if isinstance(event, Asked) and event.number == 2:
            return type(event)(**{**{f: getattr(event, f) for f in event.__dataclass_fields__}, field: value})
        return event

    found = differences(forged(path, change))
    assert found
    assert {difference.field for difference in found if difference.seq == 6} == {field}


def test_verify_finds_asks_that_rest_on_altered_outcomes(path):
    with Deployment.create(path, declaration(horizon=4)) as deployment:
        drive(deployment)

    def change(event):
        if isinstance(event, Told) and event.trial == "trial-0001":
            return type(event)(
                **{**{f: getattr(event, f) for f in event.__dataclass_fields__}, "costs": {"cost": tuple([0.0] * 20)}}
            )
        return event

    found = differences(forged(path, change))
    assert any(difference.field == "costs.cost.mean" for difference in found)


def test_verify_misses_no_alarm_that_was_left_out(path):
    with Deployment.create(path, declaration(settings=Settings(pending_cap=2))) as deployment:
        first, second = deployment.ask(), deployment.ask()
        deployment.tell(first.id, measurement(40.0, 1.0, spread=0.5))
        deployment.tell(second.id, measurement(40.0, 150.0, spread=0.5))
        deployment.abandon(deployment.ask().id, "x") if deployment.state.alarm is None else None
        deployment.stop("quietly")
        events = deployment.events()
    honest = list(enumerate(events))
    assert differences(honest) == []
    silent = list(enumerate(event for event in events if not isinstance(event, Alarmed)))
    assert any("alarm" in str(d).lower() or d.derived != "None" for d in differences(silent))
    invented = [*honest[:3], (99, next(e for e in events if isinstance(e, Alarmed))), *honest[3:4]]
    assert differences(invented)[0] == Difference(99, "", differences(invented)[0].recorded, "None")


def test_verify_reports_a_refusal_where_an_ask_is_recorded(path):
    with Deployment.create(path, declaration(horizon=2)) as deployment:
        drive(deployment)
        events = deployment.events()
    asked = next(event for event in reversed(events) if isinstance(event, Asked))
    extra = type(asked)(
        **{**{f: getattr(asked, f) for f in asked.__dataclass_fields__}, "trial": "trial-0002", "number": 2}
    )
    found = differences(enumerate([*events, extra]))
    assert found[-1].derived == "refusal: Exhausted"


@pytest.mark.parametrize(
    "order",
    [
        lambda e: [*e[:3], e[2], *e[3:]],
        lambda e: [*e[:2], e[3]],
        lambda e: [*e[:4], e[3]],
        lambda e: [e[0], e[0]],
    ],
    ids=["asked twice", "told before asked", "told twice", "started twice"],
)
def test_events_that_cannot_follow_one_another_are_refused(path, order):
    with Deployment.create(path, declaration(horizon=2)) as deployment:
        drive(deployment)
        events = deployment.events()
    with pytest.raises(IntegrityError, match="altered"):
        differences(enumerate(order(events)))


def test_a_broken_chain_is_refused_before_anything_is_read(path):
    with Deployment.create(path, declaration(horizon=2)) as deployment:
        drive(deployment)
    head = path / "ledger.head"
    head.write_text(json.dumps({**json.loads(head.read_text()), "hash": "0" * 64}))
    for call in (Deployment.open, verify):
        with pytest.raises(IntegrityError, match="rewritten"):
            call(path)


def test_a_run_directory_can_be_moved(path, tmp_path):
    with Deployment.create(path, declaration(horizon=4)) as deployment:
        trial = deployment.ask()
        deployment.tell(trial.id, answer(trial.target))
    moved = tmp_path / "elsewhere with spaces" / "run"
    moved.parent.mkdir()
    shutil.move(path, moved)
    with Deployment.open(moved) as deployment:
        assert deployment.ask().number == 1


def test_nothing_certified_is_recorded_with_its_reason(path):
    broken = Measurement(rewards=np.array([np.nan]), costs={"cost": np.array([np.nan])}, failed=np.array([True]))
    with Deployment.create(path, declaration(seeds=((40.0, 0.0),))) as deployment:
        deployment.tell(deployment.ask().id, broken)
        with pytest.raises(NoCertifiedTarget):
            deployment.ask()
        held = deployment.events()[-1]
        assert isinstance(held, Held)
        assert (held.error, "it misses by" in held.reason) == ("NoCertifiedTarget", True)
