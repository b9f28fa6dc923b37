"""What every offline learner must keep; subclass, say how to build one, and pytest runs the rest."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch

from safehold.core.policy import Policy
from safehold.core.spec import Box, TaskSpec
from safehold.data.batches import Sampler
from safehold.learn.learner import Learner, State


class LearnerContract(ABC):
    """A suite of tests over one learner.

    `updates` gradient steps must be enough for the loss to fall on the contract's data.
    """

    updates: int = 30
    loss: str = "loss"
    """The metric that must fall."""

    @abstractmethod
    def task(self) -> TaskSpec:
        """The task of the data."""

    @abstractmethod
    def learner(self, seed: int) -> Learner[Any, Any]:
        """A fresh learner."""

    @abstractmethod
    def sampler(self) -> Sampler[Any]:
        """Batches of a small dataset."""

    @abstractmethod
    def policy(self, learnt: Any) -> Policy:
        """A policy from what `Learner.policy` returns: itself, or a family at some target."""

    def test_the_loss_falls(self) -> None:
        """The mean of the last updates is below that of the first."""
        _, losses = self._train(self.learner(0), self.updates)
        third = self.updates // 3
        assert np.mean(losses[-third:]) < np.mean(losses[:third])

    def test_the_same_seed_learns_the_same(self) -> None:
        """Two learners of one seed and the same batches end with equal tensors."""
        first, second = (self._train(self.learner(0), 3)[0].state() for _ in range(2))
        assert_equal_states(first, second)

    def test_another_seed_learns_something_else(self) -> None:
        """The seed reaches the initial weights."""
        first, second = self.learner(0).state().tensors, self.learner(1).state().tensors
        assert any(not torch.equal(first[name], second[name]) for name in first)

    def test_restored_goes_on_bit_for_bit(self) -> None:
        """Three updates, saved, two more: equal to another learner restored after three."""
        rng = np.random.default_rng(3)
        batches = [self.sampler().sample(rng) for _ in range(5)]
        unbroken, resumed = self.learner(0), self.learner(1)
        for batch in batches[:3]:
            unbroken.update(batch)
        resumed.restore(unbroken.state())
        for batch in batches[3:]:
            assert dict(unbroken.update(batch)) == dict(resumed.update(batch))
        assert_equal_states(unbroken.state(), resumed.state())

    def test_a_missing_tensor_is_refused(self) -> None:
        """No tensor of the state may be left out."""
        learner, _ = self._train(self.learner(0), 2)
        state = learner.state()
        for name in state.tensors:
            partial = State({key: value for key, value in state.tensors.items() if key != name}, state.meta)
            try:
                self.learner(0).restore(partial)
            except ValueError:
                continue
            raise AssertionError(f"restored without {name}")

    def test_later_updates_leave_a_policy_alone(self) -> None:
        """What `policy` returned acts the same after more training."""
        learner, _ = self._train(self.learner(0), 2)
        learnt = learner.policy()
        before = self._actions(learnt)
        self._train(learner, 3)
        np.testing.assert_array_equal(self._actions(learnt), before)

    def test_actions_are_finite_and_inside_their_bounds(self) -> None:
        """Also for observations far from the data."""
        learner, _ = self._train(self.learner(0), 3)
        box = self.task().action
        assert isinstance(box, Box)
        for scale in (0.0, 1.0, 1e6):
            actions = self._actions(learner.policy(), scale)
            assert actions.shape[1:] == (4, box.size)
            assert np.isfinite(actions).all()
            assert (actions >= np.array(box.low, np.float32)).all()
            assert (actions <= np.array(box.high, np.float32)).all()

    def test_global_generators_are_left_alone(self) -> None:
        """Neither numpy's nor torch's default generator moves."""
        torch_state, numpy_state = torch.get_rng_state(), _numpy_state()
        self._actions(self._train(self.learner(0), 2)[0].policy())
        assert torch.equal(torch.get_rng_state(), torch_state)
        np.testing.assert_equal(_numpy_state(), numpy_state)

    def _train(self, learner: Learner[Any, Any], updates: int) -> tuple[Learner[Any, Any], list[float]]:
        rng, sampler = np.random.default_rng(2), self.sampler()
        return learner, [learner.update(sampler.sample(rng))[self.loss] for _ in range(updates)]

    def _actions(self, learnt: Any, scale: float = 1.0) -> np.ndarray:
        """Actions of four episodes over a few steps of made-up observations, (steps, 4, a)."""
        rng, task = np.random.default_rng(4), self.task()
        actor = self.policy(learnt).start(4, np.random.default_rng(5))
        actions = []
        for _ in range(6):
            actions.append(actor.act(scale * rng.standard_normal((4, task.observation_size)).astype(np.float32)))
            actor.observe(actions[-1], rng.standard_normal(4), rng.random((4, len(task.cost_names))))
        return np.array(actions)


def _numpy_state() -> object:
    return np.random.get_state(legacy=False)  # noqa: NPY002 - the promise is that nobody moves it


def assert_equal_states(first: State, second: State) -> None:
    """Equal to the last bit."""
    assert first.tensors.keys() == second.tensors.keys()
    for name, tensor in first.tensors.items():
        assert torch.equal(tensor, second.tensors[name]), name
    assert first.meta == second.meta
