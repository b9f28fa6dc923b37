"""From a toy log to a driven deployment, in a world whose true returns are known."""

import json

import numpy as np
import pytest

from safehold.core.errors import EnvironmentFault, NoSeed, UsageError
from safehold.core.seeding import Streams
from safehold.data.dataset import OfflineDataset
from safehold.deploy.optimizer import Deployment
from safehold.deploy.verify import verify
from safehold.envs.toy import dial
from safehold.ledger.events import Abandoned
from safehold.rollout.episodes import Job, rollouts
from safehold.workflows.deploy import DeployConfig, drive, plan
from safehold.workflows.evaluate import Evaluation, dial_quality, evaluate

CONFIG = DeployConfig(
    limit=20.0,
    iterations=8,
    episodes_per_ask=10,
    reward_points=7,
    cost_points=11,
    support_minimum=3,
    support_reward=0.1,
    seed_low=0.7,
    seed_high=0.8,
)


@pytest.fixture(scope="module")
def log():
    family = dial.DialFamily()
    targets = [(reward, cost) for reward in np.linspace(0, 100, 21) for cost in np.linspace(0, 40, 21)]
    seeds = Streams(0).episode_seeds("log", 0, len(targets))
    jobs = [Job(family.at(z), (seed,)) for z, seed in zip(targets, seeds, strict=True)]
    done = rollouts("toy/Dial", jobs, rng_seed=0)
    return OfflineDataset.of([episode for of_job in done for episode in of_job], dial.TASK.spec)


def events(deployment):
    return [json.dumps(repr(event)) for event in deployment.events()]


def run(path, log, seed=0, **changes):
    deployment = Deployment.create(path, plan(log, CONFIG.model_copy(update=changes)).declaration)
    drive(deployment, "toy/Dial", dial.DialFamily(), streams=Streams(seed))
    return deployment


def test_a_driven_deployment_is_safe_and_beats_its_seed(log, tmp_path):
    with run(tmp_path / "run", log) as deployment:
        state = deployment.state
        asked = [state.asked[trial].target for trial in state.told]
        assert len(asked) == CONFIG.iterations
        assert len(set(asked)) > 1
        assert all(dial.expected_cost_return(z) <= CONFIG.limit for z in asked)
        best = deployment.recommend().target
        assert dial.expected_reward_return(best) > dial.expected_reward_return(asked[0])
        assert verify(tmp_path / "run") == []


def test_every_ask_runs_on_fresh_reset_seeds(log, tmp_path):
    with run(tmp_path / "run", log) as deployment:
        seeds = [seed for told in deployment.state.told.values() for seed in told.seeds]
        assert len(seeds) == CONFIG.iterations * CONFIG.episodes_per_ask
        assert len(set(seeds)) == len(seeds)


def test_a_deployment_that_broke_off_goes_on_as_if_it_had_not(log, tmp_path):
    with run(tmp_path / "whole", log) as whole:
        expected = events(whole)

    class Crash(Exception):
        pass

    def crash_after(count):
        def told(trial, measurement):
            if trial.number == count:
                raise Crash

        return told

    deployment = Deployment.create(tmp_path / "broken", plan(log, CONFIG).declaration)
    for count in (0, 3, 5):
        with pytest.raises(Crash):
            drive(deployment, "toy/Dial", dial.DialFamily(), streams=Streams(0), on_told=crash_after(count))
        deployment.close()
        deployment = Deployment.open(tmp_path / "broken")
        if count == 3:  # died between the ask and its first action
            deployment.ask(key="ask-4")
    drive(deployment, "toy/Dial", dial.DialFamily(), streams=Streams(0))
    assert events(deployment) == expected
    deployment.close()


def test_a_world_that_breaks_leaves_its_trial_of_unknown_outcome(log, tmp_path, monkeypatch):
    deployment = Deployment.create(tmp_path / "run", plan(log, CONFIG).declaration)
    step = dial.Dial.step

    def broken(self, action):
        observation, reward, terminated, truncated, info = step(self, action)
        return observation, reward, terminated, truncated, info if self._steps < 5 else {}

    monkeypatch.setattr(dial.Dial, "step", broken)
    with pytest.raises(EnvironmentFault, match="cost"):
        drive(deployment, "toy/Dial", dial.DialFamily(), streams=Streams(0))
    assert deployment.state.n_told == 0
    assert isinstance(deployment.events()[-1], Abandoned)
    assert deployment.events()[-1].deployed
    deployment.close()


def test_a_log_without_safe_episodes_gives_no_seed(log):
    costly = OfflineDataset.of([e for e in log if e.cost_returns[0] > 10], log.spec)
    with pytest.raises(NoSeed, match="no logged episode"):
        plan(costly, CONFIG)


def test_a_limit_of_zero_is_refused_with_its_reason(log):
    with pytest.raises(UsageError, match="limit of 0"):
        plan(log, DeployConfig(limit=0.0))


def test_evaluations_are_fresh_and_survive_json():
    family = dial.DialFamily()
    targets = [(50.0, 5.0), (60.0, 15.0), (70.0, 25.0)]
    found = evaluate(
        "toy/Dial",
        [(family.at(z), z) for z in targets],
        label="dial",
        cost_name="cost",
        streams=Streams(1),
        stream="evaluate/dial",
        episodes=30,
    )
    for evaluation in found:
        truth = dial.expected_cost_return(evaluation.target)
        assert abs(evaluation.costs.mean() - truth) < 5 * dial.standard_deviation(truth) / np.sqrt(30)
        again = Evaluation.from_json(json.loads(json.dumps(evaluation.to_json())))
        np.testing.assert_array_equal(again.costs, evaluation.costs)
        assert again.target == evaluation.target
    quality = dial_quality(found)
    assert quality.cost == pytest.approx(1.0)
    assert quality.reward == pytest.approx(1.0)
    assert [e.first for e in found] == [0, 30, 60]
