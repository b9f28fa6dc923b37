"""The frontier against its definition, point by point."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from logged_episodes import dataset_of

from safehold.core.errors import DataError, UsageError
from safehold.data.frontier import frontier, pareto

clouds = st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 4)), min_size=1, max_size=15)


@given(clouds)
def test_a_point_is_on_the_frontier_exactly_if_nothing_dominates_it(cloud: list[tuple[int, int]]) -> None:
    rewards = np.array([reward for reward, _ in cloud], dtype=np.float64)
    costs = np.array([cost for _, cost in cloud], dtype=np.float64)
    expected = {
        point for point in cloud if not any(r >= point[0] and c <= point[1] and (r, c) != point for r, c in cloud)
    }
    chosen = pareto(rewards, costs)
    assert [cloud[i] for i in chosen] == sorted(expected, key=lambda point: point[1])
    assert all(cloud.index(cloud[i]) == i for i in chosen)


@given(st.floats(-1, 12))
def test_best_reward_is_the_largest_among_those_that_keep_the_limit(limit: float) -> None:
    dataset = dataset_of([3, 4, 5, 6])
    edge = frontier(dataset, "speed")
    kept = dataset.reward_returns[dataset.cost_returns[:, 0] <= limit]
    if len(kept):
        assert edge.best_reward(limit) == kept.max()
    else:
        with pytest.raises(DataError, match=r"no logged episode has speed <= .*; the cheapest"):
            edge.best_reward(limit)


def test_a_limit_that_is_no_number_has_no_best_reward() -> None:
    with pytest.raises(DataError, match="speed <= nan"):
        frontier(dataset_of([3]), "speed").best_reward(float("nan"))


def test_with_several_costs_one_must_be_named() -> None:
    with pytest.raises(UsageError, match="name one of"):
        frontier(dataset_of([3]))
