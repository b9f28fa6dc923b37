"""What a learner that interacts has met, as episodes."""

import numpy as np
import pytest

from safehold.core.seeding import Streams
from safehold.envs import registry
from safehold.rollout.recorder import RecordedWorlds
from safehold.rollout.steps import StepCollector


class Wild:
    """Draws actions, some beyond their bounds, and remembers nothing."""

    def __init__(self, size, seed):
        self.size, self.rng = size, np.random.default_rng(seed)

    def act(self, observations):
        return self.rng.normal(0.0, 2.0, (len(observations), self.size)).astype(np.float32)


def recorded(env_id, every, steps, worlds=3):
    """Worlds that a collector has taken some steps in, and the batch that it saw."""
    places = RecordedWorlds(registry.make_many(env_id, worlds), every)
    collector = StepCollector(places, Streams(0))
    batch = collector.collect(Wild(collector_action_size(env_id), 1), steps)
    return places, batch


def collector_action_size(env_id):
    return registry.spec(env_id).action.size


@pytest.mark.parametrize("env_id", ["toy/PointRobot", "toy/PointHazard"])
def test_whole_episodes_are_kept_as_the_world_answered_them(env_id):
    places, batch = recorded(env_id, 1, 260)
    kept = places.episodes
    assert len(kept) == len(batch.episodes) > 3
    for episode, finished in zip(kept, batch.episodes, strict=True):
        assert episode.reward_return == pytest.approx(finished.reward_return)
        np.testing.assert_allclose(episode.cost_returns, finished.cost_returns)
        assert len(episode) == finished.length
    action = registry.spec(env_id).action
    assert all((np.abs(episode.actions) <= np.array(action.high) + 1e-7).all() for episode in kept)
    again = registry.make(env_id)  # the same seed and actions are the same episode
    for episode in kept[:2]:
        seen = [again.reset(seed=episode.seed)[0]]
        for t, given in enumerate(episode.actions):
            observation, reward, _, _, info = again.step(given)
            seen.append(observation)
            assert reward == pytest.approx(episode.rewards[t])
            assert info["cost"] == episode.costs[t, 0]
        np.testing.assert_array_equal(np.stack(seen), episode.observations)


def test_every_third_episode_that_begins_is_kept():
    every, _ = recorded("toy/PointRobot", 1, 650)
    third, _ = recorded("toy/PointRobot", 3, 650)
    begun = sorted({episode.seed for episode in every.episodes})
    kept = [episode.seed for episode in third.episodes]
    assert 0 < len(kept) < len(begun)
    assert set(kept) <= set(begun)
    seeds = Streams(0).episode_seeds("collect", 0, 60)
    assert {seeds.index(seed) % 3 for seed in kept} == {0}


def test_an_episode_that_is_cut_is_none():
    places, batch = recorded("toy/PointRobot", 1, 60)  # the first episodes of two of three worlds are cut before
    assert batch.ended.sum() > 0
    assert places.episodes == []


def test_what_the_caller_does_with_its_arrays_changes_nothing():
    places = RecordedWorlds(registry.make_many("toy/PointRobot", 1), 1)
    first = places.reset(0, seed=5)
    started = first.copy()
    first[:] = 9.0
    actions = np.full((1, 2), 0.5, np.float32)
    for _ in range(registry.spec("toy/PointRobot").horizon):
        places.step(np.array([0]), actions)
    actions[:] = -1.0
    (episode,) = places.episodes
    np.testing.assert_array_equal(episode.observations[0], started)
    assert (episode.actions == 0.5).all()
    assert episode.truncated
    assert not episode.terminated
