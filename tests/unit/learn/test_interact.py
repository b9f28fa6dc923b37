from pathlib import Path

import numpy as np
import pytest

from safehold.core.constraint import Limit
from safehold.core.errors import DataError
from safehold.core.seeding import Streams
from safehold.envs import registry
from safehold.learn.checkpoint import load_checkpoint, save_checkpoint
from safehold.learn.hooks import Stop
from safehold.learn.interact import OnlineProgress, OnlineRun, interact
from safehold.learn.learner import State
from safehold.learn.moments import RunningMoments
from safehold.learn.multiplier import MultiplierConfig
from safehold.learn.online.ppo_lag import PPOLagConfig, PPOLagLearner
from safehold.rollout.steps import StepCollector
from safehold.testing.learner_contract import assert_equal_states

SMALL = PPOLagConfig(hidden=(16,), minibatch=64, epochs=2, multiplier=MultiplierConfig(integral_gain=0.1))


def fresh_run(env_id: str = "toy/PointHazard", environments: int = 3) -> OnlineRun:
    streams = Streams(4)
    worlds = registry.make_many(env_id, environments)
    learner = PPOLagLearner(worlds.spec_of_task, SMALL, Limit("cost", 1.0), streams)
    return OnlineRun(learner, StepCollector(worlds, streams), steps_per_batch=48, streams=streams)


@pytest.mark.parametrize("env_id", ["toy/PointHazard", "HalfCheetahVelocity"])
def test_a_resumed_run_equals_the_unbroken_one_bit_for_bit(env_id, tmp_path: Path):
    if env_id == "HalfCheetahVelocity":
        pytest.importorskip("mujoco")
    unbroken, resumed = fresh_run(env_id), fresh_run(env_id)
    for _ in range(3):
        unbroken.advance()
    state = unbroken.state()
    save_checkpoint(tmp_path / "run", kind="online", tensors=state.tensors, meta=state.meta)
    saved = load_checkpoint(tmp_path / "run")
    expected = [unbroken.advance() for _ in range(3)]
    resumed.advance()
    resumed.restore(State(saved.tensors, saved.meta))
    for progress in expected:
        again = resumed.advance()
        assert (again.updates, again.steps) == (progress.updates, progress.steps)
        assert dict(again.metrics) == dict(progress.metrics)
    assert_equal_states(resumed.state(), unbroken.state())


def test_goes_on_to_the_asked_number_of_steps_and_tells_the_hooks():
    seen: list[OnlineProgress] = []
    run = fresh_run()
    interact(run, total_steps=400, hooks=[seen.append])
    assert [progress.steps for progress in seen] == [144, 288, 432]
    assert [progress.updates for progress in seen] == [1, 2, 3]
    interact(run, total_steps=400, hooks=[seen.append])
    assert len(seen) == 3


def test_a_hook_may_stop_the_run():
    def stop(progress: OnlineProgress) -> None:
        raise Stop

    run = fresh_run()
    interact(run, total_steps=10_000, hooks=[stop])
    assert run.steps == 144


def test_a_state_of_something_else_is_refused():
    with pytest.raises(DataError, match="no online run"):
        fresh_run().restore(State(meta={"run": {"updates": 3}}))


def test_moments_do_not_depend_on_how_rows_are_cut():
    rows = np.random.default_rng(0).standard_normal((100, 3)) * [1.0, 5.0, 0.0] + [0.0, 100.0, 7.0]
    whole, parts = RunningMoments(3), RunningMoments(3)
    whole.add(rows)
    for part in np.split(rows, [1, 30, 31]):
        parts.add(part)
    np.testing.assert_allclose(parts.mean, rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(parts.sd, [*rows.std(axis=0)[:2], 1.0], rtol=1e-12)  # a constant column: 1, not 0
    np.testing.assert_allclose(parts.sd, whole.sd, rtol=1e-12)


def test_moments_before_the_first_row_change_nothing():
    np.testing.assert_array_equal(RunningMoments(2).mean, [0.0, 0.0])
    np.testing.assert_array_equal(RunningMoments(2).sd, [1.0, 1.0])
