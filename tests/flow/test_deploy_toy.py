"""From a toy log to a driven deployment, in a world whose true returns are known."""

import dataclasses
import json

import numpy as np
import pytest

from safehold.core.constraint import Limit
from safehold.core.errors import DataError, EnvironmentFault, IntegrityError, ModelError, NoSeed, UsageError
from safehold.core.seeding import Streams
from safehold.core.target import TargetSpace
from safehold.data.dataset import OfflineDataset
from safehold.deploy.declaration import Declaration
from safehold.deploy.optimizer import Deployment
from safehold.deploy.prior import Prior
from safehold.deploy.verify import verify
from safehold.envs import registry
from safehold.envs.toy import dial
from safehold.ledger.events import Abandoned
from safehold.rollout.episodes import Job, rollouts
from safehold.workflows.deploy import DeployConfig, drive, open_or_create, plan
from safehold.workflows.evaluate import Evaluation, dial_quality, evaluate
from safehold.workflows.road import lower_bound

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


def test_a_limit_of_zero_is_refused(log):
    with pytest.raises(ValueError, match="greater than 0"):
        DeployConfig(limit=0.0)


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


class Broken:
    """A family whose action is not a number, or whose policy raises, from one target on."""

    target_names = ("reward", "cost")

    def __init__(self, fault):
        self.fault = fault
        self.asked = 0

    def at(self, target):
        self.asked += 1
        if self.asked < 3:
            return dial.DialFamily().at(target)
        if self.fault is None:
            return dial.Constant(reward=float("nan"), cost=0.0)
        raise self.fault


@pytest.mark.parametrize(("fault", "raised"), [(None, ModelError), (RuntimeError("lost the robot"), RuntimeError)])
def test_whatever_breaks_while_a_trial_runs_counts_against_its_target(log, tmp_path, fault, raised):
    deployment = Deployment.create(tmp_path / "run", plan(log, CONFIG).declaration)
    with pytest.raises(raised):
        drive(deployment, "toy/Dial", Broken(fault), streams=Streams(0))
    assert deployment.state.n_told == 2
    last = deployment.events()[-1]
    assert isinstance(last, Abandoned)
    assert deployment.state.asked[last.trial].target in deployment.status().revoked
    deployment.close()


def test_a_cost_above_the_cap_is_recorded_against_its_target(log, tmp_path):
    declaration = plan(log, CONFIG).declaration
    low = dataclasses.replace(declaration, caps={"cost": declaration.limits[0].value * 1.6})
    deployment = Deployment.create(tmp_path / "run", low)

    class Costly(dial.DialFamily):
        def at(self, target):  # noqa: ARG002 - it costs the same whatever is asked
            return dial.Constant(reward=1.0, cost=2.4)

    with pytest.raises(DataError, match="above the declared cap"):
        drive(deployment, "toy/Dial", Costly(), streams=Streams(0))
    assert isinstance(deployment.events()[-1], Abandoned)
    deployment.close()


def test_a_family_with_another_dial_is_refused(log, tmp_path):
    deployment = Deployment.create(tmp_path / "run", plan(log, CONFIG).declaration)

    class Other(dial.DialFamily):
        target_names = ("reward", "crash")

    with pytest.raises(DataError, match="was declared for"):
        drive(deployment, "toy/Dial", Other(), streams=Streams(0))
    assert deployment.state.asked == {}
    deployment.close()


def test_the_limited_cost_is_told_whatever_column_the_world_has_it_in(tmp_path, monkeypatch):
    """The world charges ("cost", "crash"), the limit is on "crash" alone."""
    step = dial.Dial.step

    def both(self, action):
        observation, reward, terminated, truncated, info = step(self, action)
        return observation, reward, terminated, truncated, {"cost": 0.0, "costs": {"cost": 0.0, "crash": info["cost"]}}

    spec = dataclasses.replace(dial.TASK.spec, cost_names=("cost", "crash"), cost_units=("a", "b"))
    monkeypatch.setattr(dial.Dial, "step", both)
    monkeypatch.setitem(registry.TASKS, "toy/Dial", dataclasses.replace(dial.TASK, spec=spec))
    space = TargetSpace({"reward": (40.0, 60.0), "crash": (0.0, 5.0, 10.0)})
    limit = Limit("crash", 20.0)
    prior = Prior.asked(space, [limit], np.ones(len(space), np.bool_), lengthscales={"reward": 20.0, "crash": 5.0})
    declaration = Declaration(
        prior=prior, limits=(limit,), caps={"crash": 60.0}, seed_targets=((40.0, 5.0),), delta=0.05, horizon=1
    )

    class Family(dial.DialFamily):
        target_names = ("reward", "crash")

    with Deployment.create(tmp_path / "run", declaration) as deployment:
        drive(deployment, "toy/Dial", Family(), streams=Streams(0))
        (told,) = deployment.state.told.values()
        assert np.mean(told.measurement.costs["crash"]) == pytest.approx(
            dial.expected_cost_return((40.0, 5.0)), rel=0.1
        )


def test_a_deployment_is_reopened_for_the_same_policy_log_and_plan_alone(log, tmp_path):
    declared = plan(log, CONFIG)
    same = {"dataset": "log", "policy": "weights", "task": "toy/Dial", "seed": 0}
    open_or_create(tmp_path / "run", declared, **same).close()
    open_or_create(tmp_path / "run", declared, **same).close()
    with pytest.raises(IntegrityError, match="another policy"):
        open_or_create(tmp_path / "run", declared, **{**same, "policy": "other weights"})
    for change in ({"dataset": "other"}, {"seed": 1}, {"task": "toy/Corridor"}):
        with pytest.raises(UsageError, match="other data, seed or settings"):
            open_or_create(tmp_path / "run", declared, **{**same, **change})
    with pytest.raises(UsageError, match="other data, seed or settings"):
        open_or_create(tmp_path / "run", plan(log, CONFIG.model_copy(update={"delta": 0.1})), **same)


def test_what_cannot_be_ranked_has_no_rank_correlation():
    def evaluation(target, reward, cost):
        return Evaluation(
            label="dial", target=target, stream="s", first=0, rewards=np.array([reward]), costs=np.array([cost])
        )

    assert dial_quality([]).cost is None
    assert dial_quality([evaluation((1.0, 1.0), 1.0, 1.0)]).reward is None
    flat = dial_quality([evaluation((1.0, 1.0), 1.0, 0.0), evaluation((2.0, 2.0), 2.0, 0.0)])
    assert flat.cost is None
    assert flat.reward == pytest.approx(1.0)


def test_one_episode_bounds_no_mean():
    with pytest.raises(DataError, match="at least two"):
        lower_bound(np.array([1000.0]))
    assert lower_bound(np.array([30.0, 30.0])) == 30.0


def test_nothing_runs_after_a_stop(log, tmp_path):
    deployment = Deployment.create(tmp_path / "run", plan(log, CONFIG).declaration)
    deployment.ask(key="ask-0")
    deployment.stop("the operator said so")
    drive(deployment, "toy/Dial", dial.DialFamily(), streams=Streams(0))
    assert deployment.state.n_told == 0
    deployment.close()
