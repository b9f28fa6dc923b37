import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_up_steps import SPEC, made_up_batch, mean_after_bandits

from safehold.core.constraint import Limit
from safehold.core.errors import UsageError
from safehold.core.seeding import Streams
from safehold.learn.multiplier import MultiplierConfig
from safehold.learn.online.on_policy import ScaledValue
from safehold.learn.online.ppo_lag import PPOLagConfig, PPOLagLearner, clipped_surrogate
from safehold.nn.tensors import torch_generator

SMALL = PPOLagConfig(hidden=(8,), minibatch=16, epochs=2, multiplier=MultiplierConfig(integral_gain=0.1))


LIMIT = Limit("cost", 2.0)


def learner(seed: int = 0, limit: Limit | None = LIMIT, config: PPOLagConfig = SMALL) -> PPOLagLearner:
    return PPOLagLearner(SPEC, config, limit, Streams(seed))


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [
        (1.5, 2.0, 1.2 * 2.0),  # a gain is believed up to the clip
        (0.5, 2.0, 0.5 * 2.0),
        (1.5, -2.0, 1.5 * -2.0),  # a loss is believed in full
        (0.5, -2.0, 0.8 * -2.0),
        (1.1, 2.0, 1.1 * 2.0),
    ],
)
def test_clipped_surrogate_in_every_corner(ratio, advantage, expected):
    value = clipped_surrogate(torch.tensor([math.log(ratio)]), torch.tensor([advantage]), 0.2)
    assert float(value) == pytest.approx(expected, rel=1e-6)


@given(st.lists(st.tuples(st.floats(-2, 2), st.floats(-5, 5)), min_size=1, max_size=20), st.floats(0.05, 0.5))
def test_clipped_surrogate_never_exceeds_the_plain_one(rows, clip):
    log_ratio, advantage = torch.tensor(rows, dtype=torch.float64).T
    plain = (log_ratio.exp() * advantage).mean()
    assert clipped_surrogate(log_ratio, advantage, clip) <= plain + 1e-12


def test_no_gradient_once_a_gain_is_past_the_clip():
    log_ratio = torch.tensor([0.5, -0.5], requires_grad=True)
    clipped_surrogate(log_ratio, torch.tensor([1.0, -1.0]), 0.2).backward()
    assert log_ratio.grad is not None
    assert not log_ratio.grad.any()


def test_the_multiplier_follows_the_finished_episodes():
    ppo = learner()
    ppo.update(made_up_batch(episode_costs=(4.0, 6.0)))
    assert ppo.multiplier == pytest.approx(0.1 * (5.0 - 2.0))


def test_a_batch_without_a_finished_episode_leaves_the_multiplier_alone():
    ppo = learner()
    ppo.update(made_up_batch())
    before = ppo.multiplier
    metrics = ppo.update(made_up_batch(episode_costs=()))
    assert ppo.multiplier == before
    assert "cost_return" not in metrics


def test_without_a_limit_there_is_no_multiplier():
    ppo = learner(limit=None)
    assert ppo.update(made_up_batch())["multiplier"] == 0.0


def test_climbs_the_reward_without_a_limit_and_turns_back_where_cost_outweighs_it():
    config = PPOLagConfig(hidden=(8,), minibatch=64, epochs=5, multiplier=MultiplierConfig(initial=5.0))
    assert mean_after_bandits(learner(limit=None, config=config), 30, price=5.0, n=64) > 0.3
    assert mean_after_bandits(learner(limit=Limit("cost", 0.1), config=config), 30, price=5.0, n=64) < -0.3


def test_the_frozen_policy_computes_what_the_network_does():
    ppo = learner()
    for seed in range(3):
        ppo.update(made_up_batch(seed))
    observations = np.random.default_rng(0).standard_normal((7, 3)).astype(np.float32)
    policy = ppo.policy()
    normal = np.clip((observations - policy.observation_mean) / policy.observation_sd, -10, 10)
    network = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    tensors = ppo.state().tensors
    network.load_state_dict({name: tensors[f"core.policy.mean.{name}"] for name in network.state_dict()})
    with torch.no_grad():
        expected = network(torch.from_numpy(normal)).numpy()
    np.testing.assert_allclose(policy.means(observations), expected, atol=1e-6)


def test_a_policy_without_noise_does_not_draw():
    policy = learner().policy().with_noise(0.0)
    observations = np.ones((4, 3), np.float32)
    first, second = (policy.start(4, np.random.default_rng(seed)).act(observations) for seed in (0, 1))
    np.testing.assert_array_equal(first, second)


def test_rescaling_a_value_leaves_its_predictions_alone():
    value = ScaledValue(3, (8,), torch_generator(0))
    observations = torch.randn(20, 3, generator=torch_generator(1))
    before = value(observations)
    for size in (300.0, 4.0, 0.0):
        value.rescale(np.full(10, size))
        np.testing.assert_allclose(value(observations), before, rtol=1e-4, atol=1e-6)
    assert value.scale > 0


def test_a_limit_on_anything_but_the_mean_is_refused():
    with pytest.raises(UsageError, match="got kind 'peak'"):
        learner(limit=Limit("cost", 1.0, "peak"))
