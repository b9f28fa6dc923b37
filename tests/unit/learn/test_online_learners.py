"""What every method that learns online must keep."""

import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up_guide import made_up_guide
from made_up_steps import SPEC, made_up_batch

from safehold.core.constraint import Limit
from safehold.core.errors import DataError, UsageError
from safehold.core.policy import Policy
from safehold.core.seeding import Streams
from safehold.core.spec import Discrete, TaskSpec
from safehold.envs import registry
from safehold.learn.augmented_policy import AugmentedPolicy, LearntPolicy
from safehold.learn.checkpoint import load_checkpoint, save_checkpoint
from safehold.learn.guided.guide import GuideConfig, save_guide
from safehold.learn.guided.handover import HandoverConfig
from safehold.learn.guided.student import StudentConfig
from safehold.learn.interact import OnlineLearner, OnlineRun
from safehold.learn.learner import Learner, State
from safehold.learn.multiplier import MultiplierConfig
from safehold.learn.multiplier_network import MultiplierNetworkConfig
from safehold.learn.online.cpo import CPOConfig, SCPOConfig
from safehold.learn.online.ppo_lag import PPOLagConfig
from safehold.learn.online.sac import SACConfig
from safehold.learn.online.sac_lag import SACLagConfig
from safehold.learn.online.statewise_lag import StatewiseLagConfig
from safehold.learn.online.trpo_lag import TRPOLagConfig
from safehold.rollout.steps import StepCollector
from safehold.testing.learner_contract import assert_equal_states
from safehold.workflows.explore import METHODS, OnlineConfig, method_name

CORE = SACConfig(hidden=(8,), batch_size=16, capacity=500, random_steps=32, gradient_steps=0.1)
LAGGED = SACLagConfig(sac=CORE, multiplier=MultiplierConfig(initial=0.7, integral_gain=0.1), episodes_per_step=2)
NETWORK = MultiplierNetworkConfig(hidden=(8,), warm_up=2, interval=2)
SMALL: dict[str, OnlineConfig] = {
    "ppo_lag": PPOLagConfig(hidden=(8,), minibatch=16, epochs=2, multiplier=MultiplierConfig(integral_gain=0.1)),
    "sac_lag": LAGGED,
    "immediate": StatewiseLagConfig(sac=CORE, multiplier=NETWORK, constraint="immediate"),
    "value": StatewiseLagConfig(sac=CORE, multiplier=NETWORK, constraint="value"),
    "reachability": StatewiseLagConfig(sac=CORE, multiplier=NETWORK, constraint="reachability"),
    "trpo_lag": TRPOLagConfig(hidden=(8,), minibatch=16, epochs=2, multiplier=MultiplierConfig(integral_gain=0.1)),
    "cpo": CPOConfig(hidden=(8,), minibatch=16, epochs=2),
    "scpo": SCPOConfig(hidden=(8,), minibatch=16, epochs=2),
    "guide": GuideConfig(sac_lag=LAGGED),
    "sagui": StudentConfig(sac_lag=LAGGED),
    "sagui by turns": StudentConfig(
        sac_lag=LAGGED,
        distillation="code",
        handover=HandoverConfig(rule="linear_decay", decay_steps=300),
        start="guide",
    ),
}
GUIDES = tempfile.TemporaryDirectory()
every_method = pytest.mark.parametrize("name", SMALL)


def config_of(name: str, spec: TaskSpec = SPEC) -> OnlineConfig:
    """A student's with the place of a guide for the task."""
    config = SMALL[name]
    if not isinstance(config, StudentConfig):
        return config
    place = Path(GUIDES.name) / str(spec.observation_size)
    if not place.exists():
        save_guide(place, made_up_guide(spec), spec, {})
    return config.model_copy(update={"guide": place})


def build(name: str, spec: TaskSpec = SPEC, seed: int = 0, cost: str = "cost") -> OnlineLearner[LearntPolicy]:
    method = METHODS[method_name(SMALL[name])]
    limit = Limit(cost, 0.5, method.limit_kind(SMALL[name]))
    return method.build(spec, config_of(name, spec), limit, Streams(seed))


def test_every_method_is_tried():
    assert {method_name(config) for config in SMALL.values()} == set(METHODS)


@every_method
def test_the_same_seed_learns_the_same_and_another_seed_something_else(name):
    first, second, other = (build(name, seed=seed) for seed in (0, 0, 1))
    for learner in (first, second, other):
        for batch in range(3):
            learner.update(made_up_batch(batch))
    assert_equal_states(first.state(), second.state())
    weights = (first.state().tensors, other.state().tensors)
    assert any(not torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


@every_method
def test_restored_goes_on_bit_for_bit(name):
    unbroken, resumed = build(name), build(name, seed=1)
    for seed in range(3):
        unbroken.update(made_up_batch(seed))
    resumed.restore(unbroken.state())
    for seed in (3, 4):
        assert dict(unbroken.update(made_up_batch(seed))) == dict(resumed.update(made_up_batch(seed)))
    assert_equal_states(unbroken.state(), resumed.state())


@every_method
def test_a_resumed_run_equals_the_unbroken_one_bit_for_bit(name, tmp_path: Path):
    def run() -> OnlineRun:
        streams = Streams(4)
        method = METHODS[method_name(SMALL[name])]
        worlds = method.worlds(registry.make_many("toy/PointRobot", 3), config_of(name), "cost")
        return OnlineRun(
            build(name, worlds.spec_of_task), StepCollector(worlds, streams), steps_per_batch=48, streams=streams
        )

    unbroken, resumed = run(), run()
    for _ in range(3):
        unbroken.advance()
    state = unbroken.state()
    save_checkpoint(tmp_path / "run", kind="online", tensors=state.tensors, meta=state.meta)
    saved = load_checkpoint(tmp_path / "run")
    expected = [unbroken.advance() for _ in range(2)]
    resumed.advance()
    resumed.restore(State(saved.tensors, saved.meta))
    for progress in expected:
        again = resumed.advance()
        assert (again.updates, again.steps) == (progress.updates, progress.steps)
        assert dict(again.metrics) == dict(progress.metrics)
    assert_equal_states(resumed.state(), unbroken.state())


@every_method
def test_a_state_with_a_missing_tensor_is_refused(name):
    learner = build(name)
    for seed in range(3):
        learner.update(made_up_batch(seed))
    state = learner.state()
    for missing in state.tensors:
        partial = State({key: value for key, value in state.tensors.items() if key != missing}, state.meta)
        with pytest.raises(DataError):
            build(name).restore(partial)


@every_method
def test_a_state_of_something_else_is_refused(name):
    with pytest.raises(DataError, match="this state is not of"):
        build(name).restore(State(meta={"something": {}}))


@every_method
def test_global_generators_are_left_alone(name):
    before = torch.get_rng_state()
    learner = build(name)
    for seed in range(2):
        learner.update(made_up_batch(seed))
    learner.policy()
    assert torch.equal(torch.get_rng_state(), before)


@every_method
def test_a_policy_is_frozen_and_acts_inside_its_bounds(name):
    learner = build(name)
    learner.update(made_up_batch())
    policy = learner.policy()
    assert isinstance(policy, Policy)
    assert isinstance(learner, Learner)
    observations = 1e6 * np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    if isinstance(policy, AugmentedPolicy):
        observations = observations[:, :-1]  # its learner saw the dearest step as well
    before = policy.start(5, np.random.default_rng(0)).act(observations)
    for seed in range(1, 4):
        learner.update(made_up_batch(seed))
    np.testing.assert_array_equal(policy.start(5, np.random.default_rng(0)).act(observations), before)
    assert (np.abs(before) <= [1.0, 2.0]).all()
    quiet = policy.without_noise()
    first, second = (quiet.start(5, np.random.default_rng(seed)).act(observations) for seed in (0, 1))
    np.testing.assert_array_equal(first, second)


@every_method
def test_discrete_actions_and_foreign_costs_are_refused(name):
    config_of(name)  # a student's guide is there
    with pytest.raises(UsageError, match="continuous actions"):
        build(name, dataclasses.replace(SPEC, action=Discrete(4)))
    with pytest.raises(UsageError, match="on 'heat'"):
        build(name, cost="heat")


@every_method
def test_metrics_say_what_a_curve_needs(name):
    learner = build(name)
    metrics = [learner.update(made_up_batch(seed)) for seed in range(4)][-1]
    assert {"multiplier", "sd", "reward_return", "cost_return", "cost_peak"} <= metrics.keys()
    assert all(np.isfinite(value) for value in metrics.values())
    assert "cost_return" not in learner.update(made_up_batch(5, episode_costs=()))
