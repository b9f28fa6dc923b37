from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from safehold.core.errors import DataError, ModelError
from safehold.core.policy import BudgetedActor, Policy, PolicyFamily
from safehold.core.spec import Box, TaskSpec
from safehold.data.batches import SequenceSampler
from safehold.data.dataset import OfflineDataset
from safehold.learn.fit import OfflineRun, fit
from safehold.learn.offline.cdt_policy import CDTPolicyFamily
from safehold.learn.offline.dial import windows
from safehold.learn.offline.rvs import PRESETS, RvSConfig, RvSLearner, RvSPolicyFamily
from safehold.learn.offline.scales import Scales
from safehold.testing.learner_contract import LearnerContract

TINY = RvSConfig(
    hidden=(16, 16),
    dropout=0.1,
    to_go_features=("value", "root", "rate"),
    sampling="even",
    batch_size=32,
    steps=200,
    learning_rate=3e-3,
)
TWO_COSTS = TaskSpec(
    env_id="toy/Two",
    observation_size=3,
    action=Box((-1.0, 0.0), (1.0, 4.0)),
    horizon=12,
    cost_names=("heat", "wear"),
    cost_units=("degrees", "cycles"),
)


@cache
def two_costs() -> OfflineDataset:
    """Actions are a function of the observation; two real-valued costs."""
    rng = np.random.default_rng(0)
    seen = rng.standard_normal((8, 13, 3)).astype(np.float32) + 2.0
    acted = np.tanh(seen[:, :-1, :2] - 2.0).reshape(-1, 2)
    return OfflineDataset(
        spec=TWO_COSTS,
        observations=seen.reshape(-1, 3),
        actions=(acted * [1.0, 1.0] + [0.0, 2.0]).astype(np.float32),
        rewards=rng.standard_normal(96),
        costs=np.column_stack([rng.random(96) < 0.3, rng.random(96) * 5.0]).astype(np.float64),
        offsets=np.arange(0, 97, 12),
        terminated=np.zeros(8, dtype=np.bool_),
    )


def learner(config: RvSConfig = TINY, seed: int = 0) -> RvSLearner:
    return RvSLearner(TWO_COSTS, Scales.fit(two_costs(), config.to_go_features), config, seed)


class TestContract(LearnerContract):
    def task(self) -> TaskSpec:
        return TWO_COSTS

    def learner(self, seed: int) -> RvSLearner:
        return learner(TINY, seed)

    def sampler(self) -> SequenceSampler:
        return windows(two_costs(), TINY, 1)

    def policy(self, learnt: RvSPolicyFamily) -> Policy:
        return learnt.at((3.0, 2.0, 10.0))


def test_the_policy_obeys_both_dials(logged: Callable[[int], OfflineDataset], drive: object) -> None:
    data = logged(200)
    config = PRESETS["small"].model_copy(update={"hidden": (64, 64), "steps": 800, "batch_size": 256})
    made = RvSLearner(data.spec, Scales.fit(data, config.to_go_features), config, 0)
    fit(OfflineRun(made, windows(data, config, 1), np.random.default_rng(0)), steps=config.steps)
    family = made.policy()
    asked = np.column_stack([data.reward_returns, data.cost_returns])[:30]
    obtained = []
    for target in asked:
        episodes = drive.run(family.at(tuple(target.tolist())), 4, np.random.default_rng(1))
        obtained.append(np.mean([[e.reward_return, e.cost_returns[0]] for e in episodes], axis=0))
    rank = [spearmanr(asked[:, i], np.array(obtained)[:, i])[0] for i in range(2)]
    assert min(rank) > 0.95


def test_the_loss_is_the_mean_squared_error_in_half_ranges() -> None:
    config = TINY.model_copy(update={"dropout": 0.0})
    made, data = learner(config), two_costs()
    batch = windows(data, config, 1).sample(np.random.default_rng(3))
    scales = Scales.fit(data, config.to_go_features)
    to_go = scales.to_go(batch.reward_to_go[:, 0], batch.cost_to_go[:, 0], batch.steps[:, 0])
    network = made.policy().network
    with torch.no_grad():
        said = network(
            torch.from_numpy(np.concatenate(to_go, axis=1)),
            torch.from_numpy(scales.observations.apply(batch.observations[:, 0])),
        ).numpy()
    wanted = (batch.actions[:, 0] - [0.0, 2.0]) / [1.0, 2.0]
    assert made.update(batch)["loss"] == pytest.approx(np.mean((said - wanted) ** 2), rel=1e-5)


def test_nan_stops_training_before_the_weights_change() -> None:
    made = learner()
    batch = windows(two_costs(), TINY, 1).sample(np.random.default_rng(0))
    before = made.state()
    with pytest.raises(ModelError, match=r"update 1: the loss .* is nan"):
        made.update(replace(batch, actions=np.full_like(batch.actions, np.nan)))
    for name, tensor in made.state().tensors.items():
        if name.startswith("model."):
            assert torch.equal(tensor, before.tensors[name])


class TestFamily:
    def test_is_a_policy_family_over_reward_and_every_cost(self) -> None:
        family = learner().policy()
        assert isinstance(family, PolicyFamily)
        assert family.target_names == ("reward", "heat", "wear")

    def test_round_trips_through_a_checkpoint(self, tmp_path: Path) -> None:
        family = learner().policy()
        loaded = RvSPolicyFamily.load(tmp_path / "policy", expected_digest=family.save(tmp_path / "policy", {}))
        seen = np.ones((3, 3), dtype=np.float32)
        actions = [f.at((1.0, 2.0, 3.0)).start(3, np.random.default_rng(0)).act(seen) for f in (family, loaded)]
        np.testing.assert_array_equal(*actions)

    def test_is_not_read_as_another_method(self, tmp_path: Path) -> None:
        learner().policy().save(tmp_path / "policy", {})
        with pytest.raises(DataError, match="expected a checkpoint of kind 'cdt', this is 'rvs'"):
            CDTPolicyFamily.load(tmp_path / "policy")

    def test_what_was_obtained_is_taken_off_the_target(self) -> None:
        family, seen = learner().policy(), np.zeros((1, 3), dtype=np.float32)
        later = family.at((5.0, 4.0, 9.0)).start(1, np.random.default_rng(0))
        first = later.act(seen)
        later.observe(first, np.array([2.0]), np.array([[1.0, 3.0]]))
        fresh = family.at((3.0, 3.0, 6.0)).start(1, np.random.default_rng(0))
        fresh._to_go.step = 1  # as late in the episode
        np.testing.assert_array_equal(later.act(seen), fresh.act(seen))

    def test_a_lowered_budget_is_aimed_at_and_a_higher_one_changes_nothing(self) -> None:
        family, seen = learner().policy(), np.zeros((1, 3), dtype=np.float32)
        lowered, plain = (
            family.at(target).start(1, np.random.default_rng(0)) for target in ((5.0, 4.0, 9.0), (5.0, 2.0, 9.0))
        )
        assert isinstance(lowered, BudgetedActor)
        lowered.lower(np.array([[2.0, np.inf]]))
        np.testing.assert_array_equal(lowered.act(seen), plain.act(seen))
        lowered.lower(np.array([[3.0, 10.0]]))
        np.testing.assert_array_equal(lowered.act(seen), plain.act(seen))
