from pathlib import Path

import numpy as np
import pytest
import torch
from made_up_log import TWO_COSTS, two_costs

from safehold.core.errors import UsageError
from safehold.core.policy import BudgetedActor, Policy, PolicyFamily
from safehold.core.spec import TaskSpec
from safehold.data.batches import TransitionSampler
from safehold.data.normalise import Normaliser
from safehold.envs.toy import rain
from safehold.learn.fit import OfflineRun, fit
from safehold.learn.offline.caps import CAPSConfig, CAPSFamily, CAPSLearner, chosen_heads, head_weights, heads_loss
from safehold.learn.offline.implicit_q import Advantages
from safehold.rollout.episodes import rollout
from safehold.testing.learner_contract import LearnerContract
from safehold.testing.rain_log import mixed_log

TINY = CAPSConfig(hidden=(16, 16), heads=3, batch_size=32, critic_learning_rate=3e-3, learning_rate=3e-3)


def learner(seed: int = 0) -> CAPSLearner:
    return CAPSLearner(TWO_COSTS, Normaliser.fit(two_costs().observations), TINY, seed)


class TestContract(LearnerContract):
    updates = 60
    loss = "critic_loss"

    def task(self) -> TaskSpec:
        return TWO_COSTS

    def learner(self, seed: int) -> CAPSLearner:
        return learner(seed)

    def sampler(self) -> TransitionSampler:
        return TransitionSampler(two_costs(), 32)

    def policy(self, learnt: CAPSFamily) -> Policy:
        return learnt.at((3.0, 1.0))


def test_heads_weigh_actions_from_reward_alone_to_safety_alone() -> None:
    judged = Advantages(advantage=torch.tensor([[0.2, -0.1, 0.3], [9.0, 0.0, -1.0]]), value=torch.zeros(2, 3))
    weights = head_weights(judged, TINY.model_copy(update={"heads": 4})).numpy()
    reward, safety = np.array([np.exp(0.6), 100.0]), np.array([np.exp(0.6), np.exp(-3.0)])
    wanted = np.stack([reward, reward + 2 / 3 * safety, reward + 4 / 3 * safety, safety], axis=1)
    np.testing.assert_allclose(weights, wanted, rtol=1e-5)


def test_the_loss_is_the_weighted_squared_error_of_every_head() -> None:
    rng = np.random.default_rng(0)
    said, actions, weights = rng.standard_normal((5, 3, 2)), rng.standard_normal((5, 2)), rng.random((5, 3))
    by_hand = sum(weights[b, h] * np.sum((said[b, h] - actions[b]) ** 2) for b in range(5) for h in range(3)) / 5
    arrays = (torch.from_numpy(array) for array in (said, actions, weights))
    assert heads_loss(*arrays).item() == pytest.approx(by_hand)


def test_the_most_rewarding_head_that_fits_is_chosen_and_else_the_one_that_misses_least() -> None:
    rewards = torch.tensor([[3.0, 2.0, 1.0]] * 4)
    costs = torch.tensor([[[5.0, 1.0], [2.0, 3.0], [1.0, 0.5]]] * 4)
    budgets = torch.tensor([[9.0, 9.0], [3.0, 4.0], [3.0, 2.0], [0.0, 0.4]])
    assert chosen_heads(rewards, costs, budgets).tolist() == [0, 1, 2, 2]


class TestFamily:
    def test_has_a_dial_for_every_limit(self) -> None:
        family = learner().policy()
        assert isinstance(family, PolicyFamily)
        assert family.target_names == ("heat", "wear")
        for target in ((1.0,), (1.0, -1.0), (1.0, np.inf)):
            with pytest.raises(UsageError, match="expected finite limits >= 0"):
                family.at(target)

    def test_what_was_spent_and_what_was_lowered_is_no_longer_left(self) -> None:
        family, asked = learner().policy(), []

        def listening(_: np.ndarray, budgets: np.ndarray) -> np.ndarray:
            asked.append(budgets)
            return np.zeros((1, 2))

        family.choose = listening  # type: ignore[method-assign]
        actor = family.at((5.0, 4.0)).start(1, np.random.default_rng(0))
        assert isinstance(actor, BudgetedActor)
        seen = np.zeros((1, 3), dtype=np.float32)
        actor.act(seen)
        actor.observe(np.zeros((1, 2)), np.zeros(1), np.array([[2.0, 5.0]]))
        actor.act(seen)
        actor.lower(np.array([[1.0, np.inf]]))
        actor.act(seen)
        spread = [sum(0.99**t for t in range(steps)) / steps for steps in (12, 11, 11)]
        wanted = [[5.0, 4.0], [3.0, -1.0], [1.0, -1.0]]
        np.testing.assert_allclose(np.concatenate(asked), np.array(wanted) * np.array(spread)[:, None])

    def test_nothing_is_left_beyond_the_horizon(self) -> None:
        actor = learner().policy().at((5.0, 4.0)).start(1, np.random.default_rng(0))
        for _ in range(12):
            actor.observe(np.zeros((1, 2)), np.zeros(1), np.zeros((1, 2)))
        with pytest.raises(UsageError, match="step 12 of an episode of toy/Two, whose horizon is 12"):
            actor.act(np.zeros((1, 3), dtype=np.float32))

    def test_round_trips_through_a_checkpoint(self, tmp_path: Path) -> None:
        family = learner().policy()
        loaded = CAPSFamily.load(tmp_path / "p", expected_digest=family.save(tmp_path / "p", {}))
        seen = np.ones((3, 3), dtype=np.float32)
        actions = [f.at((3.0, 1.0)).start(3, np.random.default_rng(0)).act(seen) for f in (family, loaded)]
        np.testing.assert_array_equal(*actions)


def test_spends_the_limit_that_it_is_given_where_the_best_is_known() -> None:
    """One training, many limits. It spends what it may at once, and then less than one step at top speed more.

    So it neither keeps a limit exactly nor comes within 5 % of the best, which spends where a cost buys the most.
    """
    log = mixed_log(60, 0)
    config = CAPSConfig(hidden=(32, 32), batch_size=128, critic_learning_rate=1e-3, learning_rate=1e-3, steps=1000)
    made = CAPSLearner(log.spec, Normaliser.fit(log.observations), config, 0)
    fit(OfflineRun(made, TransitionSampler(log, config.batch_size), np.random.default_rng(0)), steps=config.steps)
    for limit in (2.2, 9.0):
        episodes = rollout("toy/Rain", made.policy().at((limit,)), range(30), rng_seed=0)
        costs = np.array([episode.cost_returns[0] for episode in episodes])
        assert costs.max() < limit + 2.0
        assert abs(costs.mean() - limit) <= 0.5
        assert np.mean([episode.reward_return for episode in episodes]) >= 0.8 * rain.best(limit).reward
