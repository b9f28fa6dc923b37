"""What an operator reads: what happened, what the monitors hold, and which targets are worth running."""

from dataclasses import replace

import numpy as np
import pytest
from deploy_toys import answer, declaration, drive, measurement, truth, two_limits

from safehold.core.measurement import Measurement
from safehold.deploy.declaration import Settings, Shares
from safehold.deploy.optimizer import TargetOptimizer
from safehold.deploy.watch import Monitors


def test_before_anything_happened_there_are_no_outcomes():
    status = TargetOptimizer(declaration(monitors=Monitors())).status()
    assert status.outcomes is None
    assert [(r.monitor, r.limit, r.evidence, r.needed, r.seen) for r in status.monitors] == [
        ("innovations", "cost", pytest.approx(1.0), pytest.approx(100.0), 0),
        ("costs", "cost", pytest.approx(1.0), pytest.approx(100.0), 0),
    ]
    assert sum(status.shares.values()) == pytest.approx(status.delta)


def test_outcomes_bound_what_really_happened():
    optimizer = TargetOptimizer(declaration(monitors=Monitors()))
    trials, _ = drive(optimizer)
    outcomes = optimizer.status().outcomes
    expected = np.mean([truth(trial.target)[1] for trial in trials])
    assert outcomes.episodes == 20 * len(trials) == outcomes.costs["cost"].n
    assert outcomes.costs["cost"].low < expected < outcomes.costs["cost"].high
    assert outcomes.costs["cost"].estimate == pytest.approx(expected, rel=0.05)
    assert outcomes.violations["cost"].low <= 0.05
    assert outcomes.violations["cost"].high < 0.5
    assert (outcomes.targets, outcomes.targets_over) == (len({trial.target for trial in trials}), 0)
    assert (outcomes.trials.n, outcomes.trials.estimate, outcomes.trials.low) == (len(trials), 0.0, 0.0)
    assert 0.0 < outcomes.trials.high < 1.0


def test_a_failed_episode_is_a_violation_at_the_cap_and_its_target_is_over():
    optimizer = TargetOptimizer(declaration())
    trial = optimizer.ask()
    marks = np.arange(20) == 0
    optimizer.tell(
        trial.id, Measurement(rewards=np.zeros(20), costs={"cost": np.where(marks, np.nan, 1.0)}, failed=marks)
    )
    outcomes = optimizer.status().outcomes
    assert (outcomes.failed, outcomes.targets_over, outcomes.trials.estimate) == (1, 1, 1.0)
    assert outcomes.violations["cost"].estimate == 1 / 20
    assert outcomes.costs["cost"].estimate == pytest.approx((19 + 200) / 20)


def test_a_single_episode_over_the_limit_is_a_violation_of_it_though_its_target_is_not():
    optimizer = TargetOptimizer(declaration())
    optimizer.tell(optimizer.ask().id, measurement(40.0, 18.0, spread=4.0))
    outcomes = optimizer.status().outcomes
    assert outcomes.violations["cost"].estimate == 0.25
    assert outcomes.targets_over == 0


def test_the_frontier_holds_the_certified_targets_that_none_beats():
    optimizer = TargetOptimizer(declaration())
    drive(optimizer)
    status, state = optimizer.status(), optimizer.state
    safe = np.flatnonzero(state.verdict().safe)
    reward, cost = state.reward.process.mean, state.costs["cost"].process.mean
    beaten = [any(reward[j] >= reward[i] and cost[j] < cost[i] for j in safe) for i in safe]
    best = {state.declaration.space.target(int(i)) for i, lost in zip(safe, beaten, strict=True) if not lost}
    assert {point.target for point in status.frontier} <= best
    assert status.frontier[0].reward == pytest.approx(max(reward[safe]))
    rewards = [point.reward for point in status.frontier]
    assert rewards == sorted(rewards, reverse=True)


def test_of_several_limits_the_nearest_counts():
    optimizer = TargetOptimizer(two_limits())
    frontier = optimizer.status().frontier
    assert frontier
    assert set(frontier[0].costs) == {"cost", "fall"}


def test_what_waits_for_an_operator_and_which_seeds_were_tested_is_shown():
    declared = replace(
        declaration(settings=Settings(approval=True), shares=Shares(seed=0.02, certificate=0.07, noise=0.01)),
        seed_rule="verified",
    )
    optimizer = TargetOptimizer(declared)
    assert optimizer.status().state == "held"
    seed = declared.seed_targets[0]
    optimizer.verify_seed(seed, {"cost": np.full(10, 1.0)}, source="bench")
    (standing,) = optimizer.status().seeds
    assert (standing.target, standing.verified, standing.episodes) == (seed, False, 10)
    optimizer.verify_seed(seed, {"cost": np.full(400, 1.0)}, source="bench, tuesday")
    (standing,) = optimizer.status().seeds
    assert standing.verified
    assert standing.evidence["cost"] >= standing.needed
    trial = optimizer.ask()
    assert optimizer.status().awaiting == (trial.id,)
    optimizer.approve(trial.id, "R. Okafor")
    assert optimizer.status().awaiting == ()
    optimizer.tell(trial.id, answer(trial.target))
