"""Monitors in a running deployment: what alarms, where it leads, and that replay and verify hold."""

from dataclasses import replace

import numpy as np
import pytest
from deploy_toys import answer, drive, measurement
from deploy_toys import declaration as toy
from jaxtyping import config

from safehold.core.constraint import Limit
from safehold.core.errors import Alarm, IntegrityError, SafetyHold, UsageError
from safehold.core.intervals import proportion_interval
from safehold.core.measurement import Measurement
from safehold.core.target import TargetSpace
from safehold.deploy import steps
from safehold.deploy.certificates.risk_ledger import RiskLedger
from safehold.deploy.declaration import Declaration, Settings
from safehold.deploy.optimizer import Deployment, TargetOptimizer
from safehold.deploy.prior import Prior
from safehold.deploy.replay import State, replay
from safehold.deploy.simulate import WorldSampler
from safehold.deploy.verify import verify
from safehold.deploy.watch import Monitors
from safehold.gp.kernels import Matern52
from safehold.ledger.events import Alarmed, Resumed

ON = Monitors()
COSTS_ONLY, INNOVATIONS_ONLY = Monitors(innovation=None), Monitors(cost=None)


def declaration(**changes):
    """The toy deployment under the default rule, which has no intervals that could contradict each other."""
    return toy(**{"rules": (RiskLedger(),), "kernel": Matern52, **changes})


def quiet(cost, episodes=20):
    """Episodes that all cost the same."""
    return measurement(40.0, cost, episodes=episodes, spread=0.0)


def alarms(optimizer):
    return [(e.monitor, e.level) for e in optimizer.events() if isinstance(e, Alarmed)]


class Recorded(TargetOptimizer):
    """Keeps the events of its steps, as a ledger would."""

    def __init__(self, declared):
        super().__init__(declared)
        self.record = []

    def _take(self, step):
        self.record += step.events
        super()._take(step)

    def events(self):
        return self.record


def surprised(monitors, costs, **changes):
    """A deployment whose asks cost these means, whatever the target."""
    optimizer = Recorded(declaration(monitors=monitors, **changes))
    for cost in costs:
        try:
            trial = optimizer.ask()
        except SafetyHold:
            break
        optimizer.tell(trial.id, quiet(cost))
    return optimizer


def test_each_alarm_of_the_model_leads_one_rung_down_and_rests_on_new_evidence():
    optimizer = surprised(INNOVATIONS_ONLY, [0.0] + [19.5, 0.1] * 6, seeds=((40.0, 0.0), (60.0, 0.0)))
    levels = [level for name, level in alarms(optimizer) if name == "innovations"]
    assert levels[:1] == ["paid_only"]
    assert levels in (["paid_only"], ["paid_only", "seed"])
    first = next(i for i, e in enumerate(optimizer.record) if isinstance(e, Alarmed))
    after = replay(optimizer.state.declaration, optimizer.record[: first + 1])
    assert [(r.seen, r.evidence) for r in after.watch.readings()] == [(0, pytest.approx(1.0))]


def test_after_the_first_alarm_only_told_and_paid_targets_are_handed_out():
    optimizer = surprised(INNOVATIONS_ONLY, [0.0] + [19.5, 0.1] * 6, seeds=((40.0, 0.0), (60.0, 0.0)))
    first = next(i for i, e in enumerate(optimizer.record) if isinstance(e, Alarmed))
    state = replay(optimizer.state.declaration, optimizer.record[: first + 1])
    assert state.level == "paid_only"
    told = set(state.tallies)
    safe = set(np.flatnonzero(state.verdict().safe).tolist())
    assert safe <= told | set(state.declaration.seed_indices.tolist())
    assert all(state.verdict().price[i] == 0.0 for i in safe)


def test_a_costly_seed_target_stops_the_run():
    optimizer = surprised(COSTS_ONLY, [60.0, 60.0])
    assert alarms(optimizer) == [("costs", "stop")]
    assert optimizer.state.alarm.target == (40.0, 0.0)
    assert optimizer.status().fallback is None
    with pytest.raises(Alarm, match=r"\(40.0, 0.0\) does not keep the limit on 'cost'.*No fallback is left: stop"):
        optimizer.ask()


def test_a_costly_target_that_is_no_seed_leads_to_the_seeds_and_a_costly_seed_from_there_to_a_stop():
    optimizer = Recorded(declaration(monitors=COSTS_ONLY))
    while (trial := optimizer.ask()).target in optimizer.state.declaration.seed_targets:
        optimizer.tell(trial.id, answer(trial.target))
    optimizer.tell(trial.id, quiet(60.0))
    assert alarms(optimizer) == [("costs", "seed")]
    fallback = optimizer.status().fallback
    assert fallback in optimizer.state.declaration.seed_targets
    with pytest.raises(Alarm, match="The fallback is the seed target"):
        optimizer.ask()
    for _ in range(3):
        optimizer.observe(fallback, quiet(60.0), source="the fallback, run by hand")
    assert alarms(optimizer) == [("costs", "seed"), ("costs", "stop")]
    assert optimizer.status().fallback is None


def test_failed_episodes_count_as_the_cap_for_the_cost_monitor_and_have_no_score():
    failed = Measurement(rewards=np.full(4, np.nan), costs={"cost": np.full(4, np.nan)}, failed=np.ones(4, np.bool_))
    optimizer = Recorded(declaration(monitors=ON))
    trial = optimizer.ask()
    optimizer.tell(trial.id, failed)
    assert alarms(optimizer) == [("costs", "stop")]
    assert trial.target in optimizer.status().revoked
    watch = replay(optimizer.state.declaration, optimizer.record[:-1]).watch
    assert watch.innovations["cost"].wager.n == 0
    assert watch.costs["cost"].pooled.n == 4


def test_one_failed_episode_counts_against_its_target_and_is_no_alarm():
    marks = np.arange(20) == 19
    outcome = Measurement(rewards=np.full(20, 40.0), costs={"cost": np.where(marks, np.nan, 1.0)}, failed=marks)
    optimizer = Recorded(declaration(monitors=ON))
    trial = optimizer.ask()
    optimizer.tell(trial.id, outcome)
    assert alarms(optimizer) == []
    assert trial.target in optimizer.status().revoked
    assert optimizer.ask().target != trial.target


def test_outside_episodes_of_targets_that_were_never_handed_out_accuse_nobody():
    optimizer = Recorded(declaration(monitors=COSTS_ONLY))
    for _ in range(5):
        optimizer.observe((160.0, 40.0), quiet(60.0), source="a simulator")
    assert alarms(optimizer) == []
    optimizer.observe((40.0, 0.0), quiet(60.0), source="the plant next door")
    assert alarms(optimizer) == [("costs", "stop")]


def test_outside_episodes_that_the_model_does_not_foretell_are_an_alarm_too():
    optimizer = Recorded(declaration(monitors=INNOVATIONS_ONLY))
    for cost in (0.0, 190.0, 0.0, 190.0):
        optimizer.observe((160.0, 40.0), quiet(cost), source="a simulator")
    assert alarms(optimizer)[0][0] == "innovations"


def test_a_monitor_that_is_switched_off_never_alarms():
    optimizer = surprised(Monitors(innovation=None, cost=None), [60.0] * 3)
    assert alarms(optimizer) == []
    assert optimizer.state.watch.readings() == ()


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, float("nan")])
def test_a_rate_that_is_no_probability_is_refused(rate):
    with pytest.raises(UsageError, match="the cost monitor's false-alarm rate is"):
        Monitors(cost=rate)


def test_a_lowered_limit_is_watched_from_anew():
    optimizer = Recorded(declaration(monitors=ON))
    trial = optimizer.ask()
    optimizer.tell(trial.id, quiet(9.0))
    optimizer.lower_limit("cost", 5.0, "the customer asked", seeds_hold=True)
    monitor = optimizer.state.watch.costs["cost"]
    assert (monitor.bet.limit, monitor.pooled.n) == (5.0, 0)
    assert optimizer.state.watch.innovations["cost"].wager.n == 1


def test_a_new_epoch_begins_a_new_watch():
    optimizer = Recorded(declaration(monitors=ON))
    trial = optimizer.ask()
    optimizer.tell(trial.id, quiet(60.0))
    assert optimizer.state.level == "stop"
    optimizer.resume("R. Okafor", "the gripper was replaced")
    assert optimizer.state.level == "normal"
    assert all(reading.seen == 0 for reading in optimizer.state.watch.readings())
    assert any(isinstance(e, Resumed) for e in optimizer.record)


def test_an_alarm_that_leads_up_the_ladder_is_refused_on_replay():
    optimizer = surprised(COSTS_ONLY, [60.0, 60.0])
    alarm = next(event for event in optimizer.record if isinstance(event, Alarmed))
    up = replace(alarm, level="normal")
    with pytest.raises(IntegrityError, match="alarms lead down"):
        optimizer.state.apply(up)


def test_a_watched_run_is_replayed_verified_and_reopened_as_it_was(tmp_path):
    with Deployment.create(tmp_path / "whole", declaration(monitors=ON, horizon=6)) as whole:
        drive(whole)
        readings = whole.state.watch.readings()
        assert all(reading.seen > 0 for reading in readings)
        events = whole.events()
    with Deployment.open(tmp_path / "whole", read_only=True) as again:
        assert again.state.watch.readings() == readings
        assert again.state.declaration.monitors == ON
    assert replay(declaration(monitors=ON, horizon=6), events[2:]).watch.readings() == readings
    assert verify(tmp_path / "whole") == []


def test_verify_derives_the_alarms_of_monitors_too(tmp_path):
    with Deployment.create(tmp_path / "run", declaration(monitors=COSTS_ONLY)) as deployment:
        deployment.tell(deployment.ask().id, quiet(60.0))
        assert deployment.state.level == "stop"
    assert verify(tmp_path / "run") == []
    with Deployment.open(tmp_path / "run", read_only=True) as again:
        assert again.status().level == "stop"


@pytest.fixture
def without_shape_checks():
    """Thousands of asks in a row: other tests check shapes, these count."""
    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", before)


def watched_dial(monitors, horizon=20, size=12):
    """A dial whose worlds are drawn from its prior; all is well until something drifts."""
    menu = TargetSpace({"reward": tuple(np.linspace(0.0, 100.0, size)), "cost": tuple(np.linspace(60.0, 130.0, size))})
    limit = Limit("cost", 100.0)
    prior = Prior.asked(
        menu,
        [limit],
        np.ones(len(menu), dtype=np.bool_),
        lengthscales={"reward": 50.0, "cost": 35.0},
        kernel=Matern52,
        dial_error={"cost": 20.0},
        episode_sd={"cost": 10.0},
        reward_dial_error=10.0,
        reward_episode_sd=10.0,
    )
    chosen = (menu.points[:, 1] <= 67.0) & (menu.points[:, 0] <= 20.0)
    return Declaration(
        prior=prior,
        limits=(limit,),
        caps={"cost": 300.0},
        seed_targets=tuple(menu.target(int(i)) for i in np.flatnonzero(chosen)),
        delta=0.1,
        horizon=horizon,
        monitors=monitors,
        settings=Settings(acquisition="reward_ucb"),
    )


def drifting(declared, world, rng, start, drift, at=10):
    """One run in a world that costs `drift` more from ask number `at` on: unsafe asks, and whether it alarmed."""
    state, unsafe = start, 0
    while (step := steps.ask(state, None)).held is None:
        (trial,) = step.state.open_trials
        index, number = step.state.asked[trial].index, step.state.asked[trial].number
        now = world if number < at else replace(world, costs={"cost": world.costs["cost"] + drift})
        unsafe += bool(now.costs["cost"][index] > 100.0)
        state = steps.tell(step.state, trial, now.measure(index, 20, declared.caps, rng), None, None).state
    return unsafe, state.alarm is not None


def many(monitors, runs, drift):
    declared = watched_dial(monitors)
    sampler, start = WorldSampler(declared), State.start(declared)
    results = []
    for number in range(runs):
        rng = np.random.default_rng(number)
        results.append(drifting(declared, sampler.draw(rng), rng, start, drift))
    return sum(unsafe for unsafe, _ in results), sum(alarmed for _, alarmed in results)


@pytest.mark.usefixtures("without_shape_checks")
def test_a_drift_is_caught_and_unsafe_deployments_drop():
    unwatched, none = many(Monitors(innovation=None, cost=None), 20, drift=20.0)
    watched, alarmed = many(ON, 20, drift=20.0)
    assert none == 0
    assert alarmed >= 19
    assert unwatched >= 20
    assert watched <= 0.4 * unwatched


@pytest.mark.usefixtures("without_shape_checks")
def test_false_alarms_are_no_more_than_the_declared_rates():
    """Small: docs/results/monitors.md holds the study. Fails if 60 runs exclude both rates together, 0.1, at 99 %."""
    _, alarmed = many(Monitors(innovation=0.05, cost=0.05), 60, drift=0.0)
    assert proportion_interval(alarmed, 60, level=0.98).low <= 0.1
