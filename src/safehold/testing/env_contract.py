"""What every environment must keep; subclass, name the environment, and pytest runs the rest."""

from abc import ABC

import numpy as np

from safehold.core.episode import Episode
from safehold.core.policy import Actor
from safehold.core.spec import Box, Discrete, TaskSpec
from safehold.envs.checker import check_env
from safehold.envs.registry import make, spec
from safehold.rollout.episodes import run_block


class RandomActor:
    """Draws actions uniformly between the bounds."""

    def __init__(self, task: TaskSpec, n: int, rng: np.random.Generator) -> None:
        self._task, self._n, self._rng = task, n, rng
        if isinstance(task.action, Box):
            self._low = np.array(task.action.low, dtype=np.float32)
            self._width = np.array(task.action.high, dtype=np.float32) - self._low

    def act(self, observations: np.ndarray) -> np.ndarray:  # noqa: ARG002  (random actions look at nothing)
        """One random action a row."""
        action, n = self._task.action, self._n
        if isinstance(action, Discrete):
            return self._rng.integers(action.n, size=(n, 1)).astype(np.float32)
        return self._low + self._width * self._rng.random((n, action.size), dtype=np.float32)

    def observe(self, actions: np.ndarray, rewards: np.ndarray, costs: np.ndarray) -> None:
        """Nothing is remembered."""


class RandomPolicy:
    """Uniform actions, the plainest policy that exercises a whole action space."""

    def __init__(self, task: TaskSpec) -> None:
        self._task = task

    def start(self, n: int, rng: np.random.Generator) -> Actor:
        """An actor for n fresh episodes."""
        return RandomActor(self._task, n, rng)


class EnvContract(ABC):
    """A suite of tests over one registered environment."""

    env_id: str
    """The name under which it is registered."""

    def test_the_checker_finds_nothing(self) -> None:
        """Costs, shapes, spaces, horizon, reproducibility: see `check_task`."""
        assert check_env(self.env_id) == []

    def test_the_spec_is_that_of_the_world(self) -> None:
        """The registry's spec, read without building anything, is the one the world carries."""
        env = make(self.env_id)
        assert env.spec_of_task == spec(self.env_id)
        env.close()

    def test_an_episode_does_not_depend_on_what_ran_before(self) -> None:
        """A used world and a fresh one, alone or in company, give the same episode, bit for bit."""
        policy, task = RandomPolicy(spec(self.env_id)), spec(self.env_id)
        first = run_block(self.env_id, policy, (3,), 0)[0]
        run_block(self.env_id, policy, (7, 8), 0)
        again = run_block(self.env_id, policy, (3,), 0)[0]
        assert_same_episode(first, again)
        assert len(first) <= task.horizon
        assert first.terminated != first.truncated
        assert first.truncated == (len(first) == task.horizon and not first.terminated)

    def test_observations_are_not_shared_between_steps(self) -> None:
        """What a caller holds does not change when the world goes on."""
        env = make(self.env_id)
        action = np.zeros(env.spec_of_task.action.size, dtype=np.float32)
        observation, _ = env.reset(seed=0)
        kept = observation.copy()
        after, *_ = env.step(action)
        np.testing.assert_array_equal(observation, kept)
        assert after is not observation
        env.close()


def assert_same_episode(one: Episode, other: Episode) -> None:
    """Every number of two episodes is equal, bit for bit."""
    assert (one.seed, one.terminated, one.truncated) == (other.seed, other.terminated, other.truncated)
    for name in ("observations", "actions", "rewards", "costs"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
