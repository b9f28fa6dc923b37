"""Logs made worse: each filter does what it says and no more, the same again for the same seed, and leaves its mark."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from logged_episodes import dataset_of
from pydantic import ValidationError

from safehold.core.episode import Episode
from safehold.core.errors import DataError, UsageError
from safehold.core.spec import Box, TaskSpec
from safehold.data.dataset import OfflineDataset
from safehold.data.degrade import Degradation, degrade

SPEC = TaskSpec(env_id="test/Plane", observation_size=2, action=Box((-1.0,), (1.0,)), horizon=30)


def plane(points: list[tuple[float, float]], steps: int = 10) -> OfflineDataset:
    """Episodes with these (cost return, reward return), numbered by their group."""
    rng = np.random.default_rng(0)
    episodes = [
        Episode(
            observations=rng.normal(size=(steps + 1, 2)).astype(np.float32) * np.array([1, 100], dtype=np.float32),
            actions=np.zeros((steps, 1), dtype=np.float32),
            rewards=np.full(steps, reward / steps),
            costs=np.full((steps, 1), cost / steps),
            terminated=False,
            truncated=True,
        )
        for cost, reward in points
    ]
    return OfflineDataset.of(episodes, SPEC, {"source": "plane"}, list(range(len(points))))


GRID = plane([(cost, reward) for cost in range(11) for reward in range(0, 110, 10)])


def left(dataset: OfflineDataset, degradation: Degradation, seed: int = 0, limit: float | None = None) -> list[int]:
    return degrade(dataset, degradation, seed=seed, limit=limit).dataset.group.tolist()


def returns(dataset: OfflineDataset) -> set[tuple[float, float]]:
    pairs = zip(dataset.cost_returns[:, 0].tolist(), dataset.reward_returns.tolist(), strict=True)
    return {(round(cost, 6), round(reward, 6)) for cost, reward in pairs}


EVERYTHING = Degradation(
    drop_outliers=9.0,
    most_per_cell=3,
    cost_cells=3,
    reward_cells=3,
    spoil=0.1,
    drop_regions=((0.0, 0.2, 0.0, 0.4),),
    drop_share=0.5,
    drop_best_safe=5.0,
    drop_best_unsafe=5.0,
    noise=0.1,
)


@given(seed=st.integers(0, 2**63 - 1))
@settings(max_examples=10, deadline=None)
def test_the_same_seed_gives_the_same_log_and_the_provenance_says_all(seed: int) -> None:
    first, second = (degrade(GRID, EVERYTHING, seed=seed, limit=5.0) for _ in range(2))
    assert first.dataset.digest == second.dataset.digest
    said = first.dataset.provenance
    assert said == second.dataset.provenance
    assert said["of"] == GRID.digest
    assert said["origin"] == {"source": "plane"}
    assert (said["seed"], said["limit"], said["cost"]) == (seed, 5.0, "cost")
    assert Degradation.model_validate(said["degraded"]) == EVERYTHING
    assert [step["what"] for step in said["steps"]][-1] == "noise"
    assert said["steps"][-1]["left"] == len(first.dataset)


def test_another_seed_draws_otherwise_and_the_log_itself_stays() -> None:
    before = GRID.digest
    thin = Degradation(most_per_cell=1, cost_cells=2, reward_cells=2)
    assert left(GRID, thin, 0) != left(GRID, thin, 1)
    fresh = plane([(cost, reward) for cost in range(11) for reward in range(0, 110, 10)])
    assert GRID.digest == fresh.digest == before


def test_one_filter_more_does_not_shift_what_another_draws() -> None:
    thin = Degradation(most_per_cell=2, cost_cells=2, reward_cells=2)
    assert left(GRID, thin) == left(GRID, thin.model_copy(update={"noise": 0.5}))


@given(most=st.integers(1, 6), least=st.integers(1, 6), cells=st.integers(1, 4), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_the_grid_keeps_between_least_and_most_of_each_cell(most: int, least: int, cells: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    log = plane([(float(c), float(r)) for c, r in rng.uniform(0, 1, size=(60, 2)) ** 2])
    degradation = Degradation(most_per_cell=most, least_per_cell=least, cost_cells=cells, reward_cells=cells)
    if least > most:
        with pytest.raises(UsageError, match="least_per_cell"):
            degrade(log, degradation, seed=seed)
        return

    def cell_of(group: int) -> tuple[int, ...]:
        place = []
        for values in (log.cost_returns[:, 0], log.reward_returns):
            share = (values[group] - values.min()) / (values.max() - values.min())
            place.append(min(int(share * cells), cells - 1))
        return tuple(place)

    before: dict[tuple[int, ...], int] = {}
    for group in range(len(log)):
        before[cell_of(group)] = before.get(cell_of(group), 0) + 1
    expected = {cell: min(count, most) for cell, count in before.items() if count >= least}
    if not expected:
        return
    after: dict[tuple[int, ...], int] = {}
    for group in left(log, degradation, seed):
        after[cell_of(group)] = after.get(cell_of(group), 0) + 1
    assert after == expected


def test_rectangles_are_cut_out_of_the_plane() -> None:
    kept = returns(degrade(GRID, Degradation(drop_regions=((0.25, 1.0, 0.0, 0.55),)), seed=0).dataset)
    assert kept == {point for point in returns(GRID) if not (point[0] >= 3 and point[1] <= 50)}
    halves = degrade(GRID, Degradation(drop_regions=((0.0, 1.0, 0.0, 1.0),), drop_share=0.5), seed=0)
    assert len(halves.dataset) == len(GRID) - round(len(GRID) / 2)


def test_the_best_on_one_side_of_the_limit_are_left_out() -> None:
    safe = returns(degrade(GRID, Degradation(drop_best_safe=25.0), seed=0, limit=4.0).dataset)
    assert returns(GRID) - safe == {(c, r) for c in range(5) for r in (80, 90, 100)}
    unsafe = returns(degrade(GRID, Degradation(drop_best_unsafe=5.0), seed=0, limit=4.0).dataset)
    assert returns(GRID) - unsafe == {(c, 100) for c in range(5, 11)}


def test_spoilt_episodes_look_safe_and_good_and_nothing_else_changes() -> None:
    result = degrade(GRID, Degradation(spoil=0.1), seed=3, limit=4.0)
    (step,) = result.steps
    assert (step.left, step.changed) == (len(GRID), 12)
    changed = [
        i
        for i in range(len(GRID))
        if not np.array_equal(result.dataset.episode(i).rewards, GRID.episode(i).rewards)
        or not np.array_equal(result.dataset.episode(i).costs, GRID.episode(i).costs)
    ]
    assert len(changed) == 12
    for i in changed:
        before, after = GRID.episode(i), result.dataset.episode(i)
        assert before.cost_returns[0] >= 5
        assert before.reward_return >= 50 - 1e-9
        np.testing.assert_allclose(after.rewards, 1.5 * before.rewards)
        assert after.cost_returns[0] in (0, 1, 2, 3)
        assert set(after.costs[:, 0]) <= {0.0, 1.0}
    np.testing.assert_array_equal(result.dataset.observations, GRID.observations)


def test_spoilt_episodes_survive_their_rectangle() -> None:
    everything_safe = Degradation(spoil=0.1, drop_regions=((0.0, 1.0, 0.0, 1.0),))
    assert len(degrade(GRID, everything_safe, seed=0, limit=4.0).dataset) == 12


def test_negative_rewards_are_raised_when_spoilt() -> None:
    log = plane([(cost, reward) for cost in range(4) for reward in (-40, -30, -20, -10)])
    result = degrade(log, Degradation(spoil=0.1), seed=0, limit=2.0).dataset
    assert np.all(result.reward_returns >= log.reward_returns)
    assert result.reward_returns.sum() > log.reward_returns.sum()


def test_noise_is_as_large_as_asked_in_every_column_and_moves_observations_alone() -> None:
    log = plane([(0, 0)] * 200, steps=30)
    noisy = degrade(log, Degradation(noise=0.5), seed=0).dataset
    ratio = np.std(noisy.observations - log.observations, axis=0) / np.std(log.observations, axis=0)
    np.testing.assert_allclose(ratio, 0.5, rtol=0.05)
    for name in ("actions", "rewards", "costs", "offsets", "terminated"):
        np.testing.assert_array_equal(getattr(noisy, name), getattr(log, name))


def test_far_returns_are_left_out_and_constant_ones_judge_nobody() -> None:
    near = [(0.0, float(reward)) for reward in range(20)]
    log = plane([*near, (0.0, 500.0), (9.0, 10.0)])
    assert left(log, Degradation(drop_outliers=5.0)) == [*range(20), 21]


def test_a_cost_among_several_must_be_named() -> None:
    log = dataset_of([5] * 20)
    with pytest.raises(UsageError, match="name one of"):
        degrade(log, Degradation(noise=0.1), seed=0)
    assert degrade(log, Degradation(noise=0.1), seed=0, cost="tilt").dataset.provenance["cost"] == "tilt"


@pytest.mark.parametrize(
    ("degradation", "limit", "error", "message"),
    [
        (Degradation(), None, UsageError, "nothing is asked for; give one of drop_outliers"),
        (Degradation(spoil=0.1), None, UsageError, "spoil asks who keeps the limit"),
        (Degradation(drop_best_safe=1.0), None, UsageError, "drop_best_safe asks who keeps the limit"),
        (Degradation(drop_best_unsafe=1.0), float("nan"), UsageError, "limit nan"),
        (Degradation(spoil=0.1), 0.5, UsageError, "spoil with limit 0.5"),
        (Degradation(drop_regions=((0.5, 0.2, 0, 1),)), None, UsageError, "is reversed"),
        (Degradation(drop_regions=((0, 1, 0, 1),)), None, DataError, "drop_regions: no episode of 121 is left"),
        (Degradation(most_per_cell=9, least_per_cell=9), None, DataError, "most_per_cell: no episode of 121 is left"),
        (Degradation(spoil=1.0), 5.0, DataError, "spoil: 121 episodes in the upper halves .* 36 are there"),
    ],
)
def test_what_cannot_be_done_is_refused(degradation: Degradation, limit, error, message: str) -> None:
    with pytest.raises(error, match=message):
        degrade(GRID, degradation, seed=0, limit=limit)


@pytest.mark.parametrize(
    "field",
    [{"noise": -1}, {"noise": float("nan")}, {"spoil": 1.1}, {"most_per_cell": 0}, {"drop_regions": [[0, 1, 0]]}],
)
def test_impossible_settings_are_refused(field: dict) -> None:
    with pytest.raises(ValidationError):
        Degradation(**field)
