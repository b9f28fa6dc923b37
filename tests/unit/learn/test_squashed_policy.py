import numpy as np
import pytest
import torch

from safehold.core.errors import DataError
from safehold.core.policy import Policy
from safehold.core.spec import Box
from safehold.learn.squashed_policy import SquashedExplorer, SquashedPolicy, UniformExplorer, freeze_squashed
from safehold.nn.actors import TanhGaussianActor
from safehold.nn.tensors import torch_generator

BOX = Box((-1.0, 0.0), (1.0, 4.0))
RANGE = (-5.0, 1.0)


def actor(seed: int = 0) -> TanhGaussianActor:
    network = TanhGaussianActor(3, 2, (8, 6), log_sd_range=RANGE, generator=torch_generator(seed))
    with torch.no_grad():  # away from its small first outputs
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch_generator(9)))
    return network


def observations(n: int = 50) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((n, 3)).astype(np.float32)


def test_the_frozen_policy_computes_what_the_network_does():
    network, policy = actor(), freeze_squashed(actor(), RANGE, BOX)
    with torch.no_grad():
        mode = network(torch.from_numpy(observations())).mode().numpy()
    np.testing.assert_allclose(policy.means(observations()), [0.0, 2.0] + mode * [1.0, 2.0], atol=1e-6)
    assert isinstance(policy, Policy)


def test_noise_has_the_networks_spread_before_the_tanh():
    network, policy = actor(), freeze_squashed(actor(), RANGE, BOX)
    one = np.repeat(observations(1), 40_000, axis=0)
    drawn = policy.draw(one, np.random.default_rng(2))
    inner = np.arctanh((drawn.astype(np.float64) - [0.0, 2.0]) / [1.0, 2.0])
    with torch.no_grad():
        said = network(torch.from_numpy(one[:1])).inner
    np.testing.assert_allclose(inner.std(axis=0), said.log_sd.exp().numpy()[0], rtol=0.02)
    np.testing.assert_allclose(inner.mean(axis=0), said.mean.numpy()[0], atol=0.02)


def test_without_noise_nothing_is_drawn_and_actions_stay_inside():
    policy = freeze_squashed(actor(), RANGE, BOX)
    quiet = policy.without_noise()
    first, second = (quiet.start(50, np.random.default_rng(seed)).act(observations()) for seed in (0, 1))
    np.testing.assert_array_equal(first, second)
    assert (policy.noise_level, quiet.noise_level) == (1.0, 0.0)
    for explorer in (
        SquashedExplorer(policy, np.random.default_rng(0)),
        UniformExplorer(BOX, np.random.default_rng(0)),
    ):
        actions = explorer.act(1e4 * observations())
        assert actions.shape == (50, 2)
        assert (actions >= BOX.low).all()
        assert (actions <= BOX.high).all()


def test_a_diverged_or_misshapen_policy_is_refused():
    policy = freeze_squashed(actor(), RANGE, BOX)
    with pytest.raises(DataError, match="not finite"):
        SquashedPolicy((np.full((3, 4), np.nan, np.float32),), (np.zeros(4, np.float32),), RANGE, BOX)
    with pytest.raises(DataError, match="expected a mean and a log sd"):
        SquashedPolicy(policy.weights, policy.biases, RANGE, Box((0.0,), (1.0,)))
