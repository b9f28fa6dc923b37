"""Numbers of a dataset against numbers by hand, and support against its definition."""

import json

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from logged_episodes import dataset_of

from safehold.core.episode import Episode
from safehold.core.errors import DataError, UsageError
from safehold.core.spec import Box, TaskSpec
from safehold.data.dataset import OfflineDataset
from safehold.data.summary import intraclass_correlation, summarise, support, support_counts

SPEC = TaskSpec(env_id="test/Plane", observation_size=1, action=Box((-1.0,), (1.0,)), horizon=5)


def cloud(points: list[tuple[float, float]], terminated: list[bool] | None = None) -> OfflineDataset:
    """One episode of two steps for each (reward return, cost return)."""
    ends = [False] * len(points) if terminated is None else terminated
    return OfflineDataset.of(
        [
            Episode(
                observations=np.full((3, 1), float(i)),
                actions=np.zeros((2, 1)),
                rewards=np.array([reward, 0.0]),
                costs=np.array([[0.0], [cost]]),
                terminated=end,
                truncated=not end,
            )
            for i, ((reward, cost), end) in enumerate(zip(points, ends, strict=True))
        ],
        SPEC,
    )


def test_a_summary_by_hand() -> None:
    summary = summarise(cloud([(1, 0), (3, 2), (2, 4), (5, 4)], [True, False, False, True]), {"cost": 2.0})
    assert (summary.episodes, summary.steps, summary.terminated, summary.truncated) == (4, 8, 2, 2)
    assert (summary.rewards.minimum, summary.rewards.median, summary.rewards.mean) == (1, 2.5, 2.75)
    (cost,) = summary.costs
    assert cost.values == (0, 2, 4)
    assert cost.episodes_without == 1
    assert cost.frontier == ((0, 1), (2, 3), (4, 5))
    assert cost.at_limit is not None
    assert (cost.at_limit.episodes, cost.at_limit.terminated, cost.at_limit.best_reward) == (2, 1, 3)
    assert summary.group is None
    json.dumps(summary.to_json(), allow_nan=False)


def test_no_episode_at_the_limit_is_none_not_zero() -> None:
    (cost,) = summarise(cloud([(1, 3)]), {"cost": 2.0}).costs
    assert cost.at_limit is not None
    assert (cost.at_limit.episodes, cost.at_limit.best_reward) == (0, None)


def test_a_limit_on_a_cost_that_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match="name one of"):
        summarise(cloud([(1, 3)]), {"heat": 2.0})


def test_intraclass_correlation_of_the_example_in_the_literature() -> None:
    # Shrout & Fleiss (1979), Psychological Bulletin 86, table 2: ICC(1) = 0.17
    ratings = np.array(
        [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], dtype=float
    )
    value = intraclass_correlation(ratings.ravel(), np.repeat(np.arange(6), 4))
    assert value == pytest.approx(0.166, abs=5e-4)


def test_intraclass_correlation_at_its_ends() -> None:
    group = np.array([0, 0, 1, 1])
    assert intraclass_correlation(np.array([1.0, 1, 2, 2]), group) == 1
    assert intraclass_correlation(np.array([1.0, 2, 1, 2]), group) == -1
    assert intraclass_correlation(np.ones(4), group) is None
    assert intraclass_correlation(np.arange(4.0), np.zeros(4, dtype=int)) is None
    assert intraclass_correlation(np.arange(4.0), np.arange(4)) is None


def test_groups_are_summarised() -> None:
    group = summarise(dataset_of([3, 4, 5])).group
    assert group is not None
    assert (group.groups, group.fewest_episodes, group.most_episodes) == (3, 1, 1)
    assert group.cost_correlations == {"speed": None, "tilt": None}


@given(
    st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 8)), min_size=1, max_size=12),
    st.floats(0.1, 10),
    st.floats(0.1, 10),
    st.integers(1, 4),
)
def test_support_counts_episodes_inside_the_ellipse(
    points, radius_reward: float, radius_cost: float, minimum: int
) -> None:
    dataset = cloud([(float(r), float(c)) for r, c in points])
    targets = np.array([[r, c] for r in (-4.5, 0.0, 5.0) for c in (0.0, 3.5)])
    distances = [
        [((r - t[0]) / radius_reward) ** 2 + ((c - t[1]) / radius_cost) ** 2 for r, c in points] for t in targets
    ]
    assume(not np.any(np.isclose(distances, 1.0)))  # rounding decides on the border
    counts = support_counts(dataset, targets, radius_reward, radius_cost)
    assert list(counts) == [sum(distance <= 1 for distance in row) for row in distances]
    np.testing.assert_array_equal(support(dataset, targets, radius_reward, radius_cost, minimum), counts >= minimum)


def test_support_on_the_border_and_with_two_costs() -> None:
    dataset = dataset_of([3])
    reward, (speed, tilt) = dataset.reward_returns[0], dataset.cost_returns[0]
    points = np.array([[reward, speed, tilt], [reward + 1, speed, tilt], [reward, speed + 3, tilt]])
    assert list(support_counts(dataset, points, 2.0, [2.0, 1.0])) == [1, 1, 0]


@pytest.mark.parametrize(
    ("radius_reward", "radius_cost", "minimum", "points", "error", "message"),
    [
        (0.0, 1.0, 1, [[0.0, 0.0]], UsageError, "positive"),
        (1.0, float("nan"), 1, [[0.0, 0.0]], UsageError, "positive"),
        (1.0, 1.0, 0, [[0.0, 0.0]], UsageError, "at least one logged episode"),
        (1.0, 1.0, 1, [[0.0, 0.0, 0.0]], UsageError, "3 columns, expected 1"),
        (1.0, 1.0, 1, [[0.0, float("nan")]], DataError, "points must be finite"),
    ],
)
def test_support_refuses_what_has_no_meaning(radius_reward, radius_cost, minimum, points, error, message) -> None:
    with pytest.raises(error, match=message):
        support(cloud([(0, 0)]), np.array(points), radius_reward, radius_cost, minimum)
