from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from safehold.core.errors import DataError, ModelError, UsageError
from safehold.core.spec import Box, Discrete, TaskSpec
from safehold.data.batches import TransitionBatch, TransitionSampler
from safehold.data.dataset import OfflineDataset
from safehold.data.normalise import Normaliser
from safehold.learn.actions import Continuous
from safehold.learn.learner import State
from safehold.learn.offline.actor_critic import (
    ActorCriticConfig,
    LimitedConfig,
    discounted_limit,
    thresholds,
    transitions_of,
)
from safehold.learn.offline.iql import IQLConfig, IQLLearner
from safehold.learn.parts import Part, SlowCopy
from safehold.nn.mlp import mlp
from safehold.nn.tensors import torch_generator

TWO_COSTS = TaskSpec(
    env_id="toy/Two",
    observation_size=2,
    action=Box((-1.0, 0.0), (1.0, 4.0)),
    horizon=50,
    cost_names=("heat", "wear"),
    cost_units=("degrees", "cycles"),
)
ENDS = [(False, False), (True, False), (False, True)]
"""Terminated, timed out: a step in the middle, at the task's end, at the clock's."""


def batch() -> TransitionBatch:
    return TransitionBatch(
        observations=np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 1e9]]),
        actions=np.array([[-1.0, 0.0], [0.0, 2.0], [1.0, 3.0]]),
        rewards=np.array([1.0, 2.0, 3.0]),
        costs=np.array([[0.0, 1.0], [2.0, 0.5], [0.0, 0.0]]),
        next_observations=np.zeros((3, 2)),
        terminated=np.array([end[0] for end in ENDS]),
        timeouts=np.array([end[1] for end in ENDS]),
    )


class TestTransitions:
    def of(self, **changes: object) -> object:
        normaliser = Normaliser(np.array([1.0, 0.0]), np.array([2.0, 1.0]), np.zeros(2, dtype=np.bool_))
        return transitions_of(batch(), normaliser, Continuous(TWO_COSTS.action), ActorCriticConfig(**changes))

    def test_are_in_the_networks_units(self) -> None:
        made = self.of(reward_scale=0.1)
        np.testing.assert_allclose(made.observations, [[0.0, 2.0], [1.0, 4.0], [2.0, 10.0]])
        np.testing.assert_allclose(made.actions, [[-1.0, -1.0], [0.0, 0.0], [1.0, 0.5]])
        np.testing.assert_allclose(made.rewards, [0.1, 0.2, 0.3], rtol=1e-6)
        np.testing.assert_allclose(made.costs, batch().costs)

    @pytest.mark.parametrize(("timeouts", "goes_on"), [("bootstrap", [1, 0, 1]), ("terminal", [1, 0, 0])])
    def test_a_clock_is_an_end_only_where_it_is_said_to_be(self, timeouts: str, goes_on: list[int]) -> None:
        assert self.of(timeouts=timeouts).goes_on.tolist() == goes_on


@pytest.mark.parametrize("discount", [0.9, 0.99])
def test_a_limit_is_what_a_critic_says_of_a_policy_that_spends_it_evenly(discount: float) -> None:
    limit, horizon = 20.0, 50
    rate = limit / horizon
    terminal = sum(rate * discount**t for t in range(horizon))
    bootstrap = sum(rate * discount**t for t in range(10_000))
    config = ActorCriticConfig(discount=discount)
    assert discounted_limit(limit, horizon, config) == pytest.approx(bootstrap)
    config = ActorCriticConfig(discount=discount, timeouts="terminal")
    assert discounted_limit(limit, horizon, config) == pytest.approx(terminal)


def test_every_cost_needs_a_limit_and_nothing_else_has_one() -> None:
    found = thresholds(TWO_COSTS, LimitedConfig(limits={"wear": 5.0, "heat": 10.0}))
    np.testing.assert_allclose(found, [20.0, 10.0])
    for limits in ({}, {"heat": 1.0}, {"heat": 1.0, "wear": 2.0, "noise": 3.0}):
        with pytest.raises(UsageError, match="give a limit for every cost"):
            thresholds(TWO_COSTS, LimitedConfig(limits=limits))


class TestPart:
    def network(self, seed: int) -> nn.Sequential:
        return mlp((2, 4, 1), generator=torch_generator(seed))

    def test_a_loss_changes_the_network_it_is_given_to_and_no_other(self) -> None:
        first, second = Part("first", self.network(0), 0.1), Part("second", self.network(1), 0.1)
        before = [p.detach().clone() for p in second.network.parameters()]
        said = second.network(first.network(torch.ones(3, 2)).repeat(1, 2))
        first.descend(said.square().mean())
        assert all(parameter.grad is None for parameter in second.network.parameters())
        assert all(torch.equal(a, b) for a, b in zip(before, second.network.parameters(), strict=True))
        assert not torch.equal(self.network(0)[0].weight, first.network[0].weight)

    def test_a_loss_that_is_no_number_changes_nothing(self) -> None:
        part = Part("critics", self.network(0), 0.1)
        with pytest.raises(ModelError, match="update 1: the loss of the critics is nan"):
            part.descend(part.network(torch.ones(1, 2)).sum() * torch.nan)
        assert torch.equal(part.network[0].weight, self.network(0)[0].weight)

    def test_the_slow_copy_keeps_a_share_of_where_it_was(self) -> None:
        quick = self.network(0)
        slow = SlowCopy(quick, 0.25)
        start = quick[0].weight.detach().clone()
        with torch.no_grad():
            quick[0].weight.add_(1.0)
        slow.follow()
        slow.follow()
        torch.testing.assert_close(slow.network[0].weight, start + 1.0 - 0.75**2)


class TestLearner:
    def learner(self, logged: Callable[[int], OfflineDataset], **changes: object) -> IQLLearner:
        data = logged(5)
        config = IQLConfig(hidden=(8,), batch_size=16, **changes)
        return IQLLearner(data.spec, Normaliser.fit(data.observations), config, 0)

    def test_discrete_actions_are_refused(self) -> None:
        spec = replace(TWO_COSTS, action=Discrete(3))
        with pytest.raises(UsageError, match="this is for continuous actions"):
            IQLLearner(spec, Normaliser.fit(np.eye(2)), IQLConfig(), 0)

    def test_a_state_of_another_configuration_is_refused(self, logged: Callable[[int], OfflineDataset]) -> None:
        with pytest.raises(DataError, match="the saved config differs"):
            self.learner(logged).restore(self.learner(logged, discount=0.9).state())

    def test_a_state_of_another_method_is_refused(self, logged: Callable[[int], OfflineDataset]) -> None:
        made = self.learner(logged)
        with pytest.raises(DataError, match="no saved training of this method"):
            made.restore(State(made.state().tensors, {**made.state().meta, "parts": {}}))

    def test_a_loss_that_is_no_number_stops_its_network_and_all_that_come_after(
        self, logged: Callable[[int], OfflineDataset]
    ) -> None:
        made = self.learner(logged)
        drawn = TransitionSampler(logged(5), 16).sample(np.random.default_rng(0))
        before = made.state().tensors
        with pytest.raises(ModelError, match="update 1: the loss of the critics is nan"):
            made.update(replace(drawn, rewards=np.full_like(drawn.rewards, np.nan)))
        after = made.state().tensors
        kept = [name for name in before if not name.startswith("parts.value.")]
        assert all(torch.equal(before[name], after[name]) for name in kept)
