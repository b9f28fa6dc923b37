import numpy as np
import pytest

from safehold.core.policy import Policy
from safehold.core.spec import Box
from safehold.learn.behaviours import NoiseSpread, Switch
from safehold.learn.gaussian_policy import GaussianPolicy


def constant(value: float) -> GaussianPolicy:
    """Always the same mean, whatever is seen."""
    return GaussianPolicy(
        weights=(np.zeros((2, 1), np.float32),),
        biases=(np.array([value], np.float32),),
        observation_mean=np.zeros(2, np.float32),
        observation_sd=np.ones(2, np.float32),
        sd=np.zeros(1, np.float32),
        action=Box((-1.0,), (1.0,)),
    )


def actions(policy: Policy, n: int, steps: int, seed: int = 0) -> np.ndarray:
    actor = policy.start(n, np.random.default_rng(seed))
    rows = []
    for _ in range(steps):
        rows.append(actor.act(np.zeros((n, 2), np.float32)))
        actor.observe(rows[-1], np.zeros(n), np.zeros((n, 1)))
    return np.array(rows)[..., 0]


def test_noise_levels_spread_evenly_over_the_episodes():
    spread = actions(NoiseSpread(constant(0.0), 0.2), n=400, steps=400).std(axis=0)
    assert 0.0 <= spread.min() < 0.01
    assert spread.max() == pytest.approx(0.2, abs=0.02)
    assert np.quantile(spread, [0.25, 0.5, 0.75]) == pytest.approx([0.05, 0.1, 0.15], abs=0.02)


def test_without_noise_it_is_the_mean():
    assert (actions(NoiseSpread(constant(0.25), 0.0), n=3, steps=5) == 0.25).all()


def test_noise_keeps_inside_the_bounds():
    assert np.abs(actions(NoiseSpread(constant(1.0), 0.5), n=20, steps=20)).max() == 1.0


def test_switches_once_at_a_step_of_each_episodes_own():
    taken = actions(Switch(constant(-0.5), constant(0.5), 10, 20), n=300, steps=40)
    assert set(np.unique(taken)) == {-0.5, 0.5}
    assert (np.diff(taken, axis=0) >= 0).all()
    steps = (taken < 0).sum(axis=0)
    assert (steps.min(), steps.max()) == (10, 20)


@pytest.mark.parametrize("policy", [NoiseSpread(constant(0.0), 0.2), Switch(constant(-0.5), constant(0.5), 1, 9)])
def test_one_seed_gives_one_behaviour(policy):
    assert isinstance(policy, Policy)
    np.testing.assert_array_equal(actions(policy, 4, 10, seed=1), actions(policy, 4, 10, seed=1))
    assert (actions(policy, 4, 10, seed=1) != actions(policy, 4, 10, seed=2)).any()
