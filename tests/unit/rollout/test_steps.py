from typing import Any

import numpy as np
import pytest

from safehold.core.errors import EnvironmentFault, UsageError
from safehold.core.seeding import Streams
from safehold.core.spec import Box, TaskSpec
from safehold.envs import registry
from safehold.envs.adapter import Task
from safehold.envs.lockstep import make_many
from safehold.rollout.steps import StepCollector


class Counter:
    """Observation: steps so far, and a number drawn from the reset seed. Ends itself at step `end`, if it has one."""

    def __init__(self, end: int | None = None, drifting: bool = False) -> None:
        self._end = end
        self._drift = 1.0 if drifting else 0.0
        self._resets = 0

    def reset(self, *, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
        self._count, self._luck = 0, np.random.default_rng(seed).random()
        self._resets += 1
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._count += 1
        return self._observation(), float(action[0]), self._count == self._end, False, {"cost": 0.5}

    def close(self) -> None: ...

    def _observation(self) -> np.ndarray:
        return np.array([self._count, self._luck + self._drift * self._resets])


def counters(n: int, *, horizon: int = 8, **keywords: Any) -> StepCollector:
    task = Task(
        spec=TaskSpec(env_id="Counter", observation_size=2, action=Box((-1.0,), (1.0,)), horizon=horizon),
        world=lambda: Counter(**keywords),
    )
    return StepCollector(make_many(task, n), Streams(0))


class Always:
    def __init__(self, action: float) -> None:
        self.action = action

    def act(self, observations: np.ndarray) -> np.ndarray:
        return np.full((len(observations), 1), self.action, dtype=np.float32)


class Random:
    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def act(self, observations: np.ndarray) -> np.ndarray:
        return self.rng.standard_normal((len(observations), 2), dtype=np.float32)


def test_first_ends_are_spread_over_the_horizon_and_only_whole_episodes_are_reported():
    batch = counters(4).collect(Always(0.25), 16)
    assert [np.flatnonzero(batch.ended[:, i]).tolist() for i in range(4)] == [[1, 9], [3, 11], [5, 13], [7, 15]]
    assert [episode.length for episode in batch.episodes] == [8] * 5
    assert {episode.reward_return for episode in batch.episodes} == {2.0}
    assert {episode.cost_returns.tolist()[0] for episode in batch.episodes} == {4.0}


def test_the_clock_is_no_termination_and_the_last_state_is_kept():
    batch = counters(1).collect(Always(0.0), 9)
    assert batch.ended[:, 0].tolist() == [False] * 7 + [True, False]
    assert not batch.terminated.any()
    assert batch.next_observations[7, 0, 0] == 8  # what the clock stopped, not the next episode's first observation
    assert batch.observations[8, 0, 0] == 0
    np.testing.assert_array_equal(batch.observations[1:8], batch.next_observations[:7])


def test_an_end_of_the_task_is_a_termination():
    batch = counters(1, end=3).collect(Always(0.0), 6)
    assert batch.terminated[:, 0].tolist() == [False, False, True] * 2


def test_the_world_gets_the_action_at_its_bound_and_the_batch_keeps_it_as_drawn():
    batch = counters(1).collect(Always(3.0), 2)
    assert (batch.actions == 3.0).all()
    assert batch.rewards.tolist() == [[1.0], [1.0]]


def test_cutting_a_collection_into_batches_changes_nothing():
    whole = counters(3).collect(Always(0.5), 20)
    collector = counters(3)
    parts = [collector.collect(Always(0.5), steps) for steps in (7, 13)]
    for name in ("observations", "rewards", "costs", "ended", "next_observations"):
        np.testing.assert_array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(whole, name))


def test_every_episode_has_a_reset_seed_of_its_own():
    batch = counters(4).collect(Always(0.0), 16)
    assert len(np.unique(batch.observations[..., 1])) == 4 + int(batch.ended[:-1].sum())


@pytest.mark.parametrize("already", [1, 37])
@pytest.mark.parametrize("env_id", ["toy/PointHazard", "toy/PointRobot"])
def test_restored_goes_on_bit_for_bit_in_the_middle_of_episodes(env_id, already):
    def collector() -> StepCollector:
        return StepCollector(registry.make_many(env_id, 3), Streams(5))

    unbroken, explorer = collector(), Random()
    unbroken.collect(explorer, already)
    saved, noise = unbroken.state(), explorer.rng.bit_generator.state
    expected = unbroken.collect(explorer, 150)
    resumed, other = collector(), Random()
    resumed.collect(Random(), 11)
    resumed.restore(saved)
    other.rng.bit_generator.state = noise
    batch = resumed.collect(other, 150)
    for name in ("observations", "actions", "rewards", "costs", "next_observations", "terminated", "ended"):
        np.testing.assert_array_equal(getattr(batch, name), getattr(expected, name))
    assert [episode.reward_return for episode in batch.episodes] == [
        episode.reward_return for episode in expected.episodes
    ]


def test_a_world_that_does_not_repeat_itself_cannot_be_resumed():
    collector = counters(2, drifting=True)
    collector.collect(Always(0.0), 3)
    with pytest.raises(EnvironmentFault, match="does not arrive at the saved observation"):
        collector.restore(collector.state())


def test_a_diverged_explorer_is_named():
    with pytest.raises(EnvironmentFault, match="non-finite action"):
        counters(1).collect(Always(float("nan")), 1)


def test_another_number_of_environments_is_refused():
    with pytest.raises(UsageError, match="had 2 environments, this one has 3"):
        counters(3).restore(counters(2).state())


def test_no_environments_are_refused():
    with pytest.raises(UsageError, match="at least one"):
        counters(0)


def test_a_finished_episode_knows_its_dearest_step():
    class Peaked(Counter):
        def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
            observation, reward, terminated, truncated, _ = super().step(action)
            return observation, reward, terminated, truncated, {"cost": 3.0 if self._count == 5 else 0.25}

    spec = TaskSpec(env_id="Peaked", observation_size=2, action=Box((-1.0,), (1.0,)), horizon=8)
    batch = StepCollector(make_many(Task(spec=spec, world=Peaked), 1), Streams(0)).collect(Always(0.0), 16)
    assert [(episode.cost_returns.tolist(), episode.cost_peaks.tolist()) for episode in batch.episodes] == [
        ([7 * 0.25 + 3.0], [3.0])
    ] * 2
