import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safehold.core.errors import DataError, UsageError
from safehold.core.spec import Box, TaskSpec
from safehold.data.batches import Sampler, SequenceSampler, TransitionSampler, even_weights, low_cost_weights
from safehold.data.dataset import OfflineDataset

LENGTHS = (4, 1, 9, 6)


def numbered() -> OfflineDataset:
    """Two costs; every value says which episode and step it belongs to."""
    rng = np.random.default_rng(0)
    steps, episodes = sum(LENGTHS), len(LENGTHS)
    observations = np.concatenate([100.0 * e + np.arange(n + 1) for e, n in enumerate(LENGTHS)])
    return OfflineDataset(
        spec=TaskSpec(
            env_id="toy/Numbers",
            observation_size=2,
            action=Box((-1.0,), (1.0,)),
            horizon=9,
            cost_names=("heat", "wear"),
            cost_units=("degrees", "cycles"),
        ),
        observations=np.column_stack([observations, -observations]).astype(np.float32),
        actions=np.concatenate([100.0 * e + np.arange(n) for e, n in enumerate(LENGTHS)])[:, None].astype(np.float32),
        rewards=rng.standard_normal(steps),
        costs=rng.random((steps, 2)),
        offsets=np.cumsum([0, *LENGTHS]).astype(np.int64),
        terminated=np.arange(episodes) % 2 == 0,
    )


class TestTransitions:
    def test_every_row_is_one_step_of_one_episode(self) -> None:
        data = numbered()
        batch = TransitionSampler(data, 500).sample(np.random.default_rng(0))
        places = {(100.0 * e + t): (e, t) for e, n in enumerate(LENGTHS) for t in range(n)}
        seen = set()
        for i in range(500):
            e, t = places[float(batch.actions[i, 0])]
            episode = data.episode(e)
            np.testing.assert_array_equal(batch.observations[i], episode.observations[t])
            np.testing.assert_array_equal(batch.next_observations[i], episode.observations[t + 1])
            assert batch.rewards[i] == episode.rewards[t]
            np.testing.assert_array_equal(batch.costs[i], episode.costs[t])
            assert batch.terminated[i] == (episode.terminated and t == len(episode) - 1)
            assert batch.timeouts[i] == (episode.truncated and t == len(episode) - 1)
            seen.add((e, t))
        assert len(seen) == sum(LENGTHS)

    def test_steps_are_drawn_alike(self) -> None:
        batch = TransitionSampler(numbered(), 40_000).sample(np.random.default_rng(0))
        counts = np.bincount((batch.actions[:, 0] // 100).astype(int))
        np.testing.assert_allclose(counts / 40_000, np.array(LENGTHS) / sum(LENGTHS), atol=0.01)


class TestSequences:
    @settings(max_examples=25, deadline=None)
    @given(context=st.integers(1, 12), seed=st.integers(0, 2**32))
    def test_every_window_is_what_happened(self, context: int, seed: int) -> None:
        data = numbered()
        batch = SequenceSampler(data, 32, context).sample(np.random.default_rng(seed))
        assert batch.mask.shape == (32, context)
        for row in range(32):
            e, first = int(batch.actions[row, 0, 0] // 100), int(batch.actions[row, 0, 0] % 100)
            episode = data.episode(e)
            for j in range(context):
                t = first + j
                assert batch.mask[row, j] == (t < len(episode))
                if t < len(episode):
                    assert batch.steps[row, j] == t
                    np.testing.assert_array_equal(batch.observations[row, j], episode.observations[t])
                    np.testing.assert_array_equal(batch.next_observations[row, j], episode.observations[t + 1])
                    np.testing.assert_array_equal(batch.actions[row, j], episode.actions[t])
                    np.testing.assert_array_equal(batch.costs[row, j], episode.costs[t])
                    assert batch.reward_to_go[row, j] == pytest.approx(episode.rewards[t:].sum(), abs=1e-12)
                    np.testing.assert_allclose(batch.cost_to_go[row, j], episode.costs[t:].sum(axis=0), rtol=1e-12)
                else:
                    for values in (
                        batch.observations,
                        batch.actions,
                        batch.costs,
                        batch.reward_to_go,
                        batch.cost_to_go,
                    ):
                        assert not values[row, j].any()

    def test_the_same_generator_draws_the_same(self) -> None:
        sampler = SequenceSampler(numbered(), 8, 3)
        first, second = (sampler.sample(np.random.default_rng(4)) for _ in range(2))
        np.testing.assert_array_equal(first.actions, second.actions)

    def test_episodes_are_drawn_by_their_weights_and_steps_alike(self) -> None:
        weights = np.array([0.5, 0.0, 0.3, 0.2])
        batch = SequenceSampler(numbered(), 40_000, 1, weights).sample(np.random.default_rng(0))
        episodes = (batch.actions[:, 0, 0] // 100).astype(int)
        np.testing.assert_allclose(np.bincount(episodes, minlength=4) / 40_000, weights, atol=0.01)
        starts = np.bincount(batch.steps[episodes == 2, 0])
        np.testing.assert_allclose(starts / starts.sum(), 1 / 9, atol=0.01)

    @pytest.mark.parametrize("weights", [[1.0, 1.0], [0.0] * 4, [1.0, -1.0, 1.0, 1.0], [1.0, np.nan, 1.0, 1.0]])
    def test_impossible_weights_are_refused(self, weights: list[float]) -> None:
        with pytest.raises(DataError, match="4 finite numbers"):
            SequenceSampler(numbered(), 2, 2, np.array(weights))


@pytest.mark.parametrize("sampler", [TransitionSampler(numbered(), 2), SequenceSampler(numbered(), 2, 2)])
def test_both_are_samplers(sampler: object) -> None:
    assert isinstance(sampler, Sampler)


def test_sizes_below_one_are_refused() -> None:
    with pytest.raises(UsageError, match="batch_size is 0"):
        TransitionSampler(numbered(), 0)
    with pytest.raises(UsageError, match="context is 0"):
        SequenceSampler(numbered(), 1, 0)


class TestLowCostWeights:
    def test_fall_linearly_with_cost_and_never_to_zero(self) -> None:
        weights = low_cost_weights(np.array([[0.0], [50.0], [100.0]]), floor=0.1)
        np.testing.assert_allclose(weights, np.array([1.0, 0.5, 0.1]) / 1.6)

    def test_the_worst_of_several_costs_counts(self) -> None:
        weights = low_cost_weights(np.array([[0.0, 4.0], [10.0, 0.0], [2.0, 1.0]]), floor=0.05)
        np.testing.assert_allclose(weights, np.array([0.05, 0.05, 0.75]) / 0.85)

    def test_data_without_costs_is_drawn_alike(self) -> None:
        np.testing.assert_allclose(low_cost_weights(np.zeros((4, 1)), floor=0.05), 0.25)

    @given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20))
    def test_are_probabilities_and_leave_no_episode_out(self, costs: list[float]) -> None:
        weights = low_cost_weights(np.array(costs)[:, None], floor=0.05)
        assert weights.sum() == pytest.approx(1.0)
        assert (weights > 0).all()

    def test_a_floor_of_zero_is_refused(self) -> None:
        with pytest.raises(UsageError, match="above 0"):
            low_cost_weights(np.ones((2, 1)), floor=0.0)


class TestEvenWeights:
    def test_every_filled_cell_is_as_likely(self) -> None:
        returns = np.array([[0.0, 0.0], [0.1, 0.1], [0.2, 0.2], [1.0, 1.0]])
        np.testing.assert_allclose(even_weights(returns, bins=2), [1 / 6, 1 / 6, 1 / 6, 1 / 2])

    def test_one_return_alone_is_no_division_by_zero(self) -> None:
        np.testing.assert_allclose(even_weights(np.ones((3, 2)), bins=5), 1 / 3)
