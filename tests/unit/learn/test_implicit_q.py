from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import expectile

from safehold.core.policy import Policy
from safehold.core.spec import TaskSpec
from safehold.data.batches import TransitionSampler
from safehold.data.dataset import OfflineDataset
from safehold.data.normalise import Normaliser
from safehold.envs.toy import rain
from safehold.learn.fit import OfflineRun, fit
from safehold.learn.offline.actor_critic import critic_loss
from safehold.learn.offline.implicit_q import advantage_weights, expectile_loss, least
from safehold.learn.offline.iql import IQLConfig, IQLLearner, IQLPolicy, weighted_likelihood_loss
from safehold.nn.distributions import DiagonalGaussian
from safehold.testing.learner_contract import LearnerContract
from safehold.testing.rain_log import mixed_log, returns_of

TINY = IQLConfig(hidden=(16, 16), batch_size=32, critic_learning_rate=3e-3, actor_learning_rate=3e-3)


def test_the_expectile_loss_is_least_at_the_expectile() -> None:
    q = np.random.default_rng(0).standard_normal(200)
    for tau in (0.6, 0.7, 0.9):

        def loss(v: float, tau: float = tau) -> float:
            return expectile_loss(torch.from_numpy(q - v)[:, None], tau).item()

        assert minimize_scalar(loss, bounds=(-3, 3)).x == pytest.approx(expectile(q, tau), abs=1e-4)


def test_losses_are_sums_over_gains_and_means_over_the_batch() -> None:
    rng = np.random.default_rng(1)
    difference, said, wanted = rng.standard_normal((6, 2)), rng.standard_normal((6, 2, 3)), rng.standard_normal((6, 3))
    by_hand = np.mean([sum(abs(0.8 - (u < 0)) * u**2 for u in row) for row in difference])
    assert expectile_loss(torch.from_numpy(difference), 0.8).item() == pytest.approx(by_hand)
    by_hand = np.mean([sum((said[b, m, s] - wanted[b, s]) ** 2 for m in range(2) for s in range(3)) for b in range(6)])
    assert critic_loss(torch.from_numpy(said), torch.from_numpy(wanted)).item() == pytest.approx(by_hand)


def test_the_most_pessimistic_critic_counts_and_no_cost_is_below_nothing() -> None:
    said = torch.tensor([[[1.0, -3.0], [2.0, -1.0]], [[4.0, 0.5], [3.0, 0.2]]])
    assert least(said, torch.tensor([torch.inf, 0.0])).tolist() == [[1.0, -3.0], [3.0, 0.0]]


def test_weights_grow_with_the_advantage_up_to_the_largest() -> None:
    weights = advantage_weights(torch.tensor([-1.0, 0.0, 0.5, 1e6], dtype=torch.float64), 3.0, 100.0)
    np.testing.assert_allclose(weights, [np.exp(-3.0), 1.0, np.exp(1.5), 100.0])


def test_the_actors_loss_is_the_weighted_likelihood_and_its_gradient_that_of_differences() -> None:
    rng = np.random.default_rng(2)
    mean, log_sd, actions, weights = (
        torch.from_numpy(rng.standard_normal(shape)) for shape in ((5, 2), (2,), (5, 2), (5,))
    )
    weights = weights.abs()
    by_hand = 0.0
    for b in range(5):
        for i in range(2):
            sd = np.exp(float(log_sd[i]))
            z = float(actions[b, i] - mean[b, i]) / sd
            by_hand += float(weights[b]) * (0.5 * z**2 + np.log(sd) + 0.5 * np.log(2 * np.pi)) / 5
    loss = weighted_likelihood_loss(DiagonalGaussian(mean, log_sd), actions, weights)
    assert loss.item() == pytest.approx(by_hand)
    mean.requires_grad_()
    log_sd.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda m, s: weighted_likelihood_loss(DiagonalGaussian(m, s), actions, weights), (mean, log_sd)
    )


class TestContract(LearnerContract):
    loss = "critic_loss"

    @pytest.fixture(autouse=True)
    def _log(self, logged: Callable[[int], OfflineDataset]) -> None:
        self.data = logged(20)

    def task(self) -> TaskSpec:
        return self.data.spec

    def learner(self, seed: int) -> IQLLearner:
        return IQLLearner(self.data.spec, Normaliser.fit(self.data.observations), TINY, seed)

    def sampler(self) -> TransitionSampler:
        return TransitionSampler(self.data, 32)

    def policy(self, learnt: IQLPolicy) -> Policy:
        return learnt


def test_obtains_what_can_be_had_without_a_limit() -> None:
    log = mixed_log(100, 0)
    config = IQLConfig(hidden=(64, 64), batch_size=128, critic_learning_rate=1e-3, actor_learning_rate=1e-3, steps=1000)
    made = IQLLearner(log.spec, Normaliser.fit(log.observations), config, 0)
    fit(OfflineRun(made, TransitionSampler(log, config.batch_size), np.random.default_rng(0)), steps=config.steps)
    reward, _ = returns_of(made.policy())
    assert reward >= 0.95 * rain.best(1e6).reward
