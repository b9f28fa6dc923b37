"""OfflineDataset: what it promises about offsets, returns, digests, and what it refuses."""

import dataclasses
import hashlib
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from logged_episodes import SPEC, dataset_of, episodes_of

from safehold.core.episode import Episode
from safehold.core.errors import DataError
from safehold.core.spec import Discrete, TaskSpec
from safehold.data.dataset import OfflineDataset, as_group


@given(st.lists(st.integers(1, 20), min_size=1, max_size=12), st.integers(0, 2**32 - 1))
def test_episodes_come_back_as_they_went_in(lengths: list[int], seed: int) -> None:
    episodes = episodes_of(lengths, seed)
    dataset = OfflineDataset.of(episodes, SPEC)
    assert len(dataset) == len(episodes)
    assert dataset.n_steps == sum(lengths)
    np.testing.assert_array_equal(dataset.lengths, lengths)
    for given_, got in zip(episodes, dataset, strict=True):
        for name in ("observations", "actions", "rewards", "costs"):
            np.testing.assert_array_equal(getattr(got, name), getattr(given_, name))
        assert (got.terminated, got.truncated) == (given_.terminated, given_.truncated)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=12), st.integers(0, 2**32 - 1))
def test_returns_are_those_of_the_episodes_to_the_last_bit(lengths: list[int], seed: int) -> None:
    dataset = dataset_of(lengths, seed)
    np.testing.assert_array_equal(dataset.reward_returns, [episode.reward_return for episode in dataset])
    np.testing.assert_array_equal(dataset.cost_returns, [episode.cost_returns for episode in dataset])


def test_arrays_and_episodes_are_read_only() -> None:
    dataset = dataset_of([3, 4])
    for values in (dataset.costs, dataset.offsets, dataset.reward_returns, dataset.episode(1).costs):
        with pytest.raises(ValueError, match="read-only"):
            values[0] = 0


def test_episodes_are_views_not_copies() -> None:
    dataset = dataset_of([3, 4])
    assert np.shares_memory(dataset.episode(1).observations, dataset.observations)


def test_a_missing_episode_is_an_index_error() -> None:
    with pytest.raises(IndexError, match="episode 2 of 2"):
        dataset_of([3, 4]).episode(2)


def test_digest_changes_with_every_array_and_the_spec_but_not_with_the_provenance() -> None:
    dataset = dataset_of([3, 4])
    fields = {f.name: getattr(dataset, f.name) for f in dataclasses.fields(dataset)}
    digests = {dataset.digest}
    for name in ("observations", "actions", "rewards", "costs", "group"):
        changed = fields[name].copy()
        changed[-1] += 1
        digests.add(OfflineDataset(**{**fields, name: changed}).digest)
    digests.add(OfflineDataset(**{**fields, "terminated": ~fields["terminated"]}).digest)
    digests.add(OfflineDataset(**{**fields, "offsets": np.array([0, 4, 7])}).digest)
    digests.add(OfflineDataset(**{**fields, "group": None}).digest)
    digests.add(OfflineDataset(**{**fields, "spec": dataclasses.replace(SPEC, horizon=21)}).digest)
    assert len(digests) == 10
    assert OfflineDataset(**{**fields, "provenance": {"source": "elsewhere"}}).digest == dataset.digest


def test_digest_is_what_the_documented_bytes_hash_to() -> None:
    spec = TaskSpec(env_id="test/Pin", observation_size=1, action=Discrete(2), horizon=2)
    episode = Episode(
        observations=np.array([[0.0], [1.0], [2.0]], dtype=np.float32),
        actions=np.array([[0.0], [1.0]], dtype=np.float32),
        rewards=np.array([0.5, -0.25]),
        costs=np.array([[0.0], [1.5]]),
        terminated=True,
        truncated=False,
    )
    content = (
        b"safehold dataset content 1\n"
        b'{"action":{"kind":"discrete","n":2},"cost_names":["cost"],"cost_units":["cost units"],'
        b'"env_id":"test/Pin","horizon":2,"observation_size":1}'
        + b"\nobservations <f4 3x1\n"
        + struct.pack("<3f", 0, 1, 2)
        + b"\nactions <f4 2x1\n"
        + struct.pack("<2f", 0, 1)
        + b"\nrewards <f8 2\n"
        + struct.pack("<2d", 0.5, -0.25)
        + b"\ncosts <f8 2x1\n"
        + struct.pack("<2d", 0, 1.5)
        + b"\noffsets <i8 2\n"
        + struct.pack("<2q", 0, 2)
        + b"\nterminated |b1 1\n"
        + b"\x01"
    )
    assert OfflineDataset.of([episode], spec).digest == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"costs": lambda costs: -costs}, "None is positive: they may be penalties"),
        (
            {"costs": lambda costs: costs - np.median(costs)},
            r"costs\[.* is negative \(7 such values\); .* If penalties",
        ),
        ({"costs": lambda costs: costs - 10}, r"costs\[0, 0\] \(speed\) = -.* is negative \(14 such values\)"),
        ({"costs": lambda costs: np.where(costs > 1, np.nan, costs)}, r"costs\[\d+, \d\] is nan"),
        ({"rewards": lambda rewards: rewards * np.inf}, r"rewards\[0\] is -?inf"),
        ({"rewards": lambda rewards: rewards * 0 - 1e101}, r"rewards\[0\] = -1e\+101 is beyond 1e\+100"),
        (
            {"observations": lambda observations: observations[:-1]},
            r"observations has shape \(8, 3\), expected \(9, 3\)",
        ),
        ({"actions": lambda actions: actions[:, :1]}, r"actions has shape \(7, 1\), expected \(7, 2\)"),
        ({"costs": lambda costs: costs[:, :1]}, r"costs has shape \(7, 1\), expected \(7, 2\)"),
        (
            {"terminated": lambda terminated: terminated[:1], "group": lambda group: group[:1]},
            r"terminated has shape \(1,\), expected \(2,\)",
        ),
        ({"offsets": lambda offsets: offsets + 1}, r"offsets\[0\] = 1"),
        ({"offsets": lambda offsets: offsets[[0, 0, 2]]}, r"offsets\[1\] - offsets\[0\] = 0"),
        ({"offsets": lambda offsets: offsets[:1]}, "at least one episode"),
        ({"rewards": lambda rewards: rewards.astype(np.float32)}, "rewards must be float64, got float32"),
        ({"spec": lambda spec: dataclasses.replace(spec, horizon=3)}, "episode 1 has 4 steps, the horizon"),
        ({"provenance": lambda _: {"reward": float("nan")}}, "JSON values only"),
    ],
)
def test_construction_refuses(change, message: str) -> None:
    dataset = dataset_of([3, 4])
    fields = {f.name: getattr(dataset, f.name) for f in dataclasses.fields(dataset)}
    with pytest.raises(DataError, match=message):
        OfflineDataset(**{**fields, **{name: alter(fields[name]) for name, alter in change.items()}})


def test_failed_episodes_are_refused_because_their_costs_are_lower_bounds() -> None:
    episodes = episodes_of([3, 4])
    episodes[1] = dataclasses.replace(episodes[1], failed=True)
    with pytest.raises(DataError, match=r"episode 1 .* failed"):
        OfflineDataset.of(episodes, SPEC)


def test_no_episodes_at_all_are_refused() -> None:
    with pytest.raises(DataError, match="no episodes"):
        OfflineDataset.of([], SPEC)


def test_observations_beyond_float32_are_refused_not_made_infinite() -> None:
    episode = dataclasses.replace(episodes_of([3])[0], observations=np.full((4, 3), 1e60))
    with pytest.raises(DataError, match=r"observations\[0, 0\] is inf"):
        OfflineDataset.of([episode], SPEC)


def test_episodes_of_two_tasks_are_refused() -> None:
    episodes = episodes_of([3, 4])
    episodes[1] = dataclasses.replace(episodes[1], observations=np.zeros((5, 2), dtype=np.float32))
    with pytest.raises(DataError, match="observations of episode 1"):
        OfflineDataset.of(episodes, SPEC)


@pytest.mark.parametrize("action", [2.0, -1.0, 0.5])
def test_a_discrete_action_that_names_nothing_is_refused(action: float) -> None:
    spec = dataclasses.replace(SPEC, action=Discrete(2))
    episode = dataclasses.replace(episodes_of([3])[0], actions=np.array([[0.0], [1.0], [action]], dtype=np.float32))
    with pytest.raises(DataError, match=r"actions\[2\] = .*; the task has actions 0 to 1"):
        OfflineDataset.of([episode], spec)


@pytest.mark.parametrize("group", [[0.5, 1.0], [0, 2**40], [[0, 1]], ["a", "b"]])
def test_groups_are_whole_numbers(group) -> None:
    with pytest.raises(DataError, match="32-bit whole number"):
        as_group(np.array(group))


def test_spec_survives_json() -> None:
    for spec in (SPEC, dataclasses.replace(SPEC, action=Discrete(4))):
        assert TaskSpec.of_json(spec.to_json()) == spec


@pytest.mark.parametrize("change", [{"horizon": None}, {"surprise": 1}, {"action": {"kind": "sphere"}}, {"action": 3}])
def test_a_spec_that_is_not_one_is_refused(change) -> None:
    with pytest.raises(DataError, match="not the description of a task"):
        TaskSpec.of_json({**SPEC.to_json(), **change})
