import dataclasses

import numpy as np
import pytest
from made_up_steps import SPEC, made_up_batch

from safehold.core.errors import DataError
from safehold.learn.learner import State
from safehold.learn.replay import ReplayBuffer
from safehold.nn.tensors import torch_generator
from safehold.testing.learner_contract import assert_equal_states


def test_keeps_the_latest_steps_in_a_networks_units():
    replay = ReplayBuffer(SPEC, capacity=40)
    batches = [made_up_batch(seed) for seed in range(2)]  # 64 steps
    for batch in batches:
        replay.add(batch)
    assert len(replay) == 40
    kept = replay.state().tensors
    order = np.array([*range(64 - 64 % 40, 64), *range(64 - 40, 64 - 64 % 40)])  # what a ring of 40 holds where
    rewards = np.concatenate([batch.rewards.ravel() for batch in batches])
    np.testing.assert_array_equal(kept["rewards"].numpy(), rewards[order].astype(np.float32))
    actions = np.concatenate([batch.actions.reshape(-1, 2) for batch in batches])
    executed = np.clip(actions, [-1, -2], [1, 2]) / [1, 2]
    np.testing.assert_allclose(kept["actions"].numpy(), executed[order], rtol=1e-6)
    ended = np.concatenate([batch.terminated.ravel() for batch in batches])
    np.testing.assert_array_equal(kept["goes_on"].numpy(), (~ended[order]).astype(np.float32))


def test_a_batch_larger_than_the_buffer_leaves_its_latest_steps():
    replay = ReplayBuffer(SPEC, capacity=5)
    batch = made_up_batch()
    replay.add(batch)
    kept = replay.state().tensors["rewards"].numpy()
    assert sorted(kept) == sorted(batch.rewards.ravel()[-5:].astype(np.float32))


def test_steps_are_drawn_whole_and_uniformly():
    replay = ReplayBuffer(SPEC, capacity=100)
    batch = made_up_batch()
    replay.add(batch)
    drawn = replay.sample(6400, torch_generator(0))
    place = {reward: i for i, reward in enumerate(batch.rewards.ravel().astype(np.float32).tolist())}
    rows = np.array([place[reward] for reward in drawn.rewards.tolist()])
    np.testing.assert_array_equal(drawn.observations.numpy(), batch.observations.reshape(-1, 3)[rows])
    np.testing.assert_array_equal(drawn.next_observations.numpy(), batch.next_observations.reshape(-1, 3)[rows])
    counts = np.bincount(rows, minlength=32)  # 200 expected of each, standard deviation 14
    assert counts.min() > 200 - 5 * 14
    assert counts.max() < 200 + 5 * 14


def test_restored_goes_on_and_what_does_not_fit_is_refused():
    replay, other = ReplayBuffer(SPEC, capacity=40), ReplayBuffer(SPEC, capacity=40)
    for seed in range(2):
        replay.add(made_up_batch(seed))
    other.restore(replay.state())
    for buffer in (replay, other):
        buffer.add(made_up_batch(2))
    assert_equal_states(replay.state(), other.state())
    with pytest.raises(DataError, match="replay buffer"):
        ReplayBuffer(SPEC, capacity=50).restore(replay.state())
    state = replay.state()
    with pytest.raises(DataError, match="missing"):
        other.restore(State({k: v for k, v in state.tensors.items() if k != "costs"}, state.meta))
    with pytest.raises(DataError):
        ReplayBuffer(dataclasses.replace(SPEC, observation_size=4), capacity=40).restore(state)
