"""Selections keep whole episodes, lose none and invent none."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from logged_episodes import SPEC, dataset_of

from safehold.core.errors import DataError, UsageError
from safehold.data.dataset import OfflineDataset
from safehold.data.frontier import frontier_reward
from safehold.data.select import at_or_under, merge, near_frontier, split, split_by_group, subsample, take

lengths_of = st.lists(st.integers(1, 12), min_size=2, max_size=10)


def contents(dataset: OfflineDataset) -> list[bytes]:
    return [
        b"".join([e.observations.tobytes(), e.actions.tobytes(), e.rewards.tobytes(), e.costs.tobytes()])
        + bytes([e.terminated])
        for e in dataset
    ]


@given(lengths_of, st.data())
def test_take_gives_exactly_these_episodes_in_this_order(lengths: list[int], data: st.DataObject) -> None:
    dataset = dataset_of(lengths)
    chosen = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=12))
    taken = take(dataset, chosen)
    assert contents(taken) == [contents(dataset)[i] for i in chosen]
    assert list(taken.group) == [dataset.group[i] for i in chosen]
    assert taken.provenance["of"] == dataset.digest


@given(lengths_of, st.floats(0.01, 0.99), st.integers(0, 2**32 - 1))
def test_a_split_shares_no_episode_and_loses_none(lengths: list[int], fraction: float, seed: int) -> None:
    dataset = dataset_of(lengths)
    first, second = split(dataset, fraction, np.random.default_rng(seed))
    assert sorted([*first.group, *second.group]) == list(range(len(lengths)))
    assert abs(len(first) - fraction * len(dataset)) <= 1
    again = split(dataset, fraction, np.random.default_rng(seed))
    assert [part.digest for part in again] == [first.digest, second.digest]


@given(st.lists(st.integers(0, 3), min_size=2, max_size=12), st.integers(0, 2**32 - 1))
def test_a_split_by_group_keeps_every_group_together(groups: list[int], seed: int) -> None:
    dataset = dataclasses.replace(dataset_of([2] * len(groups)), group=np.array(groups, dtype=np.int32))
    if len(set(groups)) < 2:
        with pytest.raises(UsageError, match="two groups or more"):
            split_by_group(dataset, 0.5, np.random.default_rng(seed))
        return
    first, second = split_by_group(dataset, 0.5, np.random.default_rng(seed))
    assert not set(first.group) & set(second.group)
    assert len(first) + len(second) == len(dataset)


@given(lengths_of, st.integers(0, 2**32 - 1))
def test_merging_the_parts_gives_every_episode_back(lengths: list[int], seed: int) -> None:
    dataset = dataset_of(lengths)
    first, second = split(dataset, 0.5, np.random.default_rng(seed))
    merged = merge([first, second])
    assert contents(merged) == [contents(dataset)[i] for i in [*first.group, *second.group]]
    np.testing.assert_allclose(merged.reward_returns.sum(), dataset.reward_returns.sum(), rtol=1e-9, atol=1e-9)


@given(lengths_of, st.floats(0, 30))
def test_the_limit_keeps_what_is_at_or_under_it_and_nothing_else(lengths: list[int], limit: float) -> None:
    dataset = dataset_of(lengths)
    kept = np.flatnonzero(dataset.cost_returns[:, 1] <= limit)
    if len(kept) == 0:
        with pytest.raises(DataError, match="the cheapest has"):
            at_or_under(dataset, limit, "tilt")
    else:
        assert list(at_or_under(dataset, limit, "tilt").group) == list(kept)


def test_an_episode_exactly_at_the_limit_is_kept() -> None:
    dataset = dataset_of([3, 4])
    assert len(at_or_under(dataset, float(dataset.cost_returns[:, 0].min()), "speed")) == 1


def test_a_limit_that_is_no_number_keeps_nothing() -> None:
    with pytest.raises(DataError, match="no episode has speed <= nan"):
        at_or_under(dataset_of([3, 4]), float("nan"), "speed")


def logged(rewards: list[float], costs: list[float]) -> OfflineDataset:
    """One-step episodes with these returns."""
    dataset = dataset_of([1] * len(rewards))
    paid = np.stack([np.array(costs), np.zeros(len(costs))], axis=1)
    return dataclasses.replace(dataset, rewards=np.array(rewards), costs=paid)


def test_near_the_frontier_is_within_a_fifth_of_the_rewards_range_of_a_polynomial_through_it() -> None:
    cost = np.linspace(0.0, 40.0, 9)
    edge = 100.0 - (cost - 40.0) ** 2 / 20.0  # rises from 20 to 100: a parabola is needed, a line explains 94 % of it
    below = edge - np.array([1.0, 30.0, 14.0, 40.0, 2.0, 17.0, 9.0, 50.0, 80.0])
    dataset = logged([*edge, *below], [*cost, *(cost + 0.5)])
    rewards, costs = dataset.reward_returns, dataset.cost_returns[:, 0]
    on_edge = [i for i in range(18) if not ((costs <= costs[i]) & (rewards > rewards[i])).any()]
    line = np.polyfit(costs[on_edge], rewards[on_edge], 1)
    left = rewards[on_edge] - np.polyval(line, costs[on_edge])
    assert np.sum(left**2) / np.sum((rewards[on_edge] - rewards[on_edge].mean()) ** 2) < 0.1  # a line is enough
    apart = np.abs(rewards - np.polyval(line, costs))
    kept = near_frontier(dataset, 0.2, "speed")
    assert list(kept.group) == list(dataset.group[apart <= 0.2 * np.ptp(rewards)])
    assert 0 < len(kept) < 18


@pytest.mark.parametrize("costs", [[0.0, 0.0, 0.0], [0.0, 5.0, 5.0], [3.0, 2.0, 1.0]])
def test_a_frontier_without_a_slope_is_a_constant(costs: list[float]) -> None:
    dataset = logged([7.0, 7.0, 7.0], costs)
    assert frontier_reward(dataset, "speed")(11.0) == pytest.approx(7.0)
    assert len(near_frontier(dataset, 0.2, "speed")) == 3


def test_a_share_that_is_not_positive_is_refused() -> None:
    with pytest.raises(UsageError, match="positive share"):
        near_frontier(logged([1.0, 2.0], [0.0, 1.0]), float("nan"), "speed")


@given(lengths_of, st.data())
def test_a_subsample_has_n_different_episodes(lengths: list[int], data: st.DataObject) -> None:
    n = data.draw(st.integers(1, len(lengths)))
    drawn = subsample(dataset_of(lengths), n, np.random.default_rng(0)).group
    assert len(drawn) == n
    assert list(drawn) == sorted(set(drawn))


def test_merged_groups_never_mean_one_policy_by_accident() -> None:
    assert list(merge([dataset_of([3, 4]), dataset_of([5, 6], seed=1)]).group) == [0, 1, 2, 3]
    unknown = dataclasses.replace(dataset_of([3]), group=None)
    assert merge([dataset_of([3]), unknown]).group is None


def test_refusals_say_what_is_wrong() -> None:
    dataset = dataset_of([3, 4])
    rng = np.random.default_rng(0)
    for act, error, message in (
        (lambda: take(dataset, []), DataError, "no episode of 2 is left"),
        (lambda: take(dataset, [2]), DataError, "no episode 2 of 2"),
        (lambda: take(dataset, [-1]), DataError, "no episode -1 of 2"),
        (lambda: subsample(dataset, 3, rng), UsageError, "1 to 2 episodes"),
        (lambda: split(dataset, 1.0, rng), UsageError, "between 0 and 1"),
        (lambda: split(dataset, float("nan"), rng), UsageError, "between 0 and 1"),
        (lambda: split_by_group(dataclasses.replace(dataset, group=None), 0.5, rng), DataError, "use split"),
        (lambda: at_or_under(dataset, 1.0), UsageError, "name one of"),
        (lambda: at_or_under(dataset, 1.0, "heat"), UsageError, "name one of"),
        (lambda: merge([]), DataError, "no datasets"),
        (
            lambda: merge([dataset, dataclasses.replace(dataset, spec=dataclasses.replace(SPEC, horizon=99))]),
            DataError,
            "dataset 1 has horizon 99, dataset 0 20",
        ),
    ):
        with pytest.raises(error, match=message):
            act()
