"""Learning on in the world, on a toy: what is run, what is learnt from, and that it goes on where it stopped."""

import shutil

import numpy as np
import pytest
import torch

from safehold.core.errors import DataError, UsageError
from safehold.core.seeding import Streams
from safehold.data.dataset import OfflineDataset
from safehold.envs.toy import dial
from safehold.learn.checkpoint import load_checkpoint
from safehold.learn.offline.bc import BCConfig
from safehold.learn.offline.rvs import RvSConfig
from safehold.rollout.episodes import Job, rollouts
from safehold.workflows.finetune import FineTuneConfig, fine_tune
from safehold.workflows.train import load, train

LEARNING = RvSConfig(hidden=(16,), batch_size=16, steps=30)
SHORT = FineTuneConfig(episodes=10, episodes_per_round=4, updates_per_round=5)
TARGET = (50.0, 10.0)


@pytest.fixture(scope="module")
def log() -> OfflineDataset:
    family = dial.DialFamily()
    targets = [(reward, cost) for reward in np.linspace(0, 100, 4) for cost in np.linspace(0, 40, 4)]
    seeds = Streams(0).episode_seeds("log", 0, len(targets))
    jobs = [Job(family.at(z), (seed,)) for z, seed in zip(targets, seeds, strict=True)]
    episodes = [episode for of_job in rollouts("toy/Dial", jobs, rng_seed=0) for episode in of_job]
    return OfflineDataset.of(episodes, dial.TASK.spec)


@pytest.fixture(scope="module")
def trained(log, tmp_path_factory):
    directory = tmp_path_factory.mktemp("trained") / "rvs"
    train(log, "rvs", LEARNING, directory, seed=3, checkpoint_every=10)
    return directory


@pytest.fixture(scope="module")
def whole(log, trained, tmp_path_factory):
    directory = tmp_path_factory.mktemp("tuned") / "rvs"
    return directory, fine_tune(log, trained, TARGET, SHORT, directory, seed=1)


def test_episodes_are_cut_into_rounds_and_all_different(whole):
    _, found = whole
    assert [len(one.rewards) for one in found.rounds] == [4, 4, 2]
    assert [one.number for one in found.rounds] == [0, 1, 2]
    assert len(np.unique(np.concatenate([one.rewards for one in found.rounds]))) == 10


def test_the_first_round_acts_with_the_trained_policy_at_the_target(log, trained, whole):
    seeds = Streams(1).episode_seeds("episodes", 0, 4)
    job = Job(load(trained / "policy").at(TARGET), seeds)
    (episodes,) = rollouts("toy/Dial", [job], rng_seed=Streams(1).integer("noise/0"))
    np.testing.assert_array_equal(whole[1].rounds[0].rewards, [episode.reward_return for episode in episodes])
    np.testing.assert_array_equal(whole[1].rounds[0].costs[:, 0], [episode.cost_returns[0] for episode in episodes])


def test_weights_move_by_learning_and_the_scales_stay(trained, whole):
    before, after = load_checkpoint(trained / "policy"), load_checkpoint(whole[0] / "policy")
    assert after.meta["scales"] == before.meta["scales"]
    assert any(not torch.equal(after.tensors[name], before.tensors[name]) for name in before.tensors)


@pytest.mark.parametrize("stopped_after", [1, 2])
def test_it_goes_on_where_it_stopped_to_the_same_bytes(log, trained, whole, tmp_path, stopped_after):
    directory = tmp_path / "again"
    shutil.copytree(whole[0], directory)
    shutil.rmtree(directory / "policy")
    for number in range(stopped_after, 3):
        shutil.rmtree(directory / "rounds" / f"{number:03d}" / "state")  # its episodes are there, its learning is not
    again = fine_tune(log, trained, TARGET, SHORT, directory, seed=1)
    assert again.digest == whole[1].digest
    for one, other in zip(again.rounds, whole[1].rounds, strict=True):
        np.testing.assert_array_equal(one.costs, other.costs)


def test_it_learns_from_as_many_episodes_as_the_log_has_the_newest_among_them(log, trained, monkeypatch, tmp_path):
    from safehold.workflows import finetune

    seen = []
    whole_of = finetune._newest
    monkeypatch.setattr(finetune, "_newest", lambda datasets, n: seen.append(whole_of(datasets, n)) or seen[-1])
    found = fine_tune(log, trained, TARGET, SHORT, tmp_path / "out", seed=1)
    assert [len(buffer) for buffer in seen] == [len(log)] * 3
    for number, buffer in enumerate(seen):
        met = np.concatenate([one.rewards for one in found.rounds[: number + 1]])
        np.testing.assert_array_equal(buffer.reward_returns, [*log.reward_returns[len(met) :], *met])


def test_other_arguments_in_the_same_directory_are_refused(log, trained, whole, tmp_path):
    directory = tmp_path / "other"
    shutil.copytree(whole[0] / "rounds", directory / "rounds")
    with pytest.raises(DataError, match="other arguments"):
        fine_tune(log, trained, (60.0, 10.0), SHORT, directory, seed=1)
    with pytest.raises(UsageError, match="finished"):
        fine_tune(log, trained, TARGET, SHORT, whole[0], seed=1)


def test_only_a_whole_training_with_a_dial_on_this_log_can_go_on(log, trained, tmp_path):
    with pytest.raises(UsageError, match="holds no checkpoints"):
        fine_tune(log, tmp_path, TARGET, SHORT, tmp_path / "a", seed=1)
    train(log, "rvs", LEARNING, tmp_path / "unfinished", seed=3, checkpoint_every=7)
    with pytest.raises(UsageError, match="not of the last of 30 updates"):
        fine_tune(log, tmp_path / "unfinished", TARGET, SHORT, tmp_path / "b", seed=1)
    train(log, "bc", BCConfig(hidden=(4,), batch_size=8, steps=2), tmp_path / "bc", seed=3, checkpoint_every=1)
    with pytest.raises(UsageError, match="no dial"):
        fine_tune(log, tmp_path / "bc", TARGET, SHORT, tmp_path / "c", seed=1)
    from safehold.data.select import take

    with pytest.raises(DataError, match="another log"):
        fine_tune(take(log, [0, 1, 2]), trained, TARGET, SHORT, tmp_path / "d", seed=1)
