"""Episodes told again beyond the frontier: every rule by an independent computation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from logged_episodes import dataset_of, one_cost

from safehold.core.errors import UsageError
from safehold.data.augment import LEAST, MOST, beyond_frontier, thinned
from safehold.data.batches import to_go
from safehold.data.frontier import pareto
from safehold.learn.offline.dial import DialConfig, augmented, windows
from safehold.learn.offline.scales import Scales

HOW = {"share": 0.5, "degree": 2, "margin": 1.0, "top": 140.0, "slack": 30.0}


def cloud(n=400, seed=0):
    """Returns under a concave frontier R = 100 - (C - 30)^2 / 20."""
    rng = np.random.default_rng(seed)
    cost = rng.uniform(0, 30, n)
    return 100 - (cost - 30) ** 2 / 20 - rng.exponential(20, n), cost


def test_crowded_cells_are_thinned_and_lonely_ones_left_out():
    reward = np.concatenate([np.full(25, 10.0), np.full(LEAST - 1, 90.0), np.full(LEAST, 50.0)])
    cost = np.concatenate([np.full(25, 1.0), np.full(LEAST - 1, 9.0), np.full(LEAST, 5.0)])
    kept = thinned(reward, cost, np.random.default_rng(0))
    assert kept[:25].sum() == MOST
    assert not kept[25 : 25 + LEAST - 1].any()
    assert kept[-LEAST:].all()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_targets_lie_beyond_the_frontier_and_hosts_cost_no_more(seed):
    reward, cost = cloud(seed=seed)
    made = beyond_frontier(reward, cost, **HOW, rng=np.random.default_rng(seed))
    kept = thinned(reward, cost, np.random.default_rng(seed))
    assert len(made) == int(0.5 * kept.sum())
    assert np.isin(made.episodes, np.flatnonzero(kept)).all()
    targets = cost[made.episodes] + made.costs[:, 0]
    np.testing.assert_allclose(targets, np.linspace(cost[kept].min(), cost[kept].max(), len(made)))
    assert (made.costs >= -1e-9).all()
    best = pareto(reward[kept], cost[kept])
    frontier = np.poly1d(np.polyfit(cost[kept][best], reward[kept][best], 2))(targets)
    new = reward[made.episodes] + made.reward
    assert (new >= frontier + 1.0 - 1e-6).all()
    assert (new <= np.maximum(140.0, frontier + 1.0) + 1e-6).all()


def test_an_episode_that_is_wanted_often_is_one_target_s_host_and_near_ones_stand_in():
    reward, cost = cloud()
    made = beyond_frontier(reward, cost, **HOW, rng=np.random.default_rng(1))
    kept = np.flatnonzero(thinned(reward, cost, np.random.default_rng(1)))
    new, targets = reward[made.episodes] + made.reward, cost[made.episodes] + made.costs[:, 0]
    seen = set()
    for host, r, c in zip(made.episodes, new, targets, strict=True):
        allowed = kept[cost[kept] <= c]
        nearest = allowed[np.argmin(np.hypot(reward[allowed] - r, cost[allowed] - c))]
        if nearest not in seen:
            assert host == nearest
        assert cost[host] <= cost[nearest]
        assert reward[host] >= reward[nearest] - HOW["slack"]
        seen.add(nearest)
    assert len(set(made.episodes)) > len(seen)  # without stand-ins there would be no others


def test_a_degree_that_the_frontier_cannot_bear_is_lowered():
    reward, cost = np.full(5, 7.0), np.full(5, 2.0)
    made = beyond_frontier(reward, cost, **{**HOW, "degree": 4, "share": 1.0}, rng=np.random.default_rng(0))
    assert len(made) == 5
    assert (made.reward >= 1.0).all()


def test_a_log_without_a_frontier_is_refused():
    with pytest.raises(UsageError, match="train without augmentation"):
        beyond_frontier(np.array([1.0, 5.0]), np.array([1.0, 9.0]), **HOW, rng=np.random.default_rng(0))


def test_windows_of_further_episodes_are_logged_ones_with_raised_returns():
    dataset = one_cost(dataset_of([1 + i % 2 for i in range(1500)]))
    config = DialConfig(augmentation=1.0, frontier_top=50.0, batch_size=500, sampling="uniform")
    more = augmented(dataset, config, np.random.default_rng(0))
    assert len(more) > 5
    rewards, costs = to_go(dataset)
    batch = windows(dataset, config, 2, more).sample(np.random.default_rng(0))
    logged = {tuple(row): i for i, row in enumerate(dataset.actions)}  # actions are random, so they name their step
    episode_of = np.repeat(np.arange(len(dataset)), dataset.lengths)
    raised = 0
    for b, k in zip(*np.nonzero(batch.mask), strict=True):
        step = logged[tuple(batch.actions[b, k])]
        offset = (batch.reward_to_go[b, k] - rewards[step], batch.cost_to_go[b, k, 0] - costs[step, 0])
        places = np.flatnonzero(more.episodes == episode_of[step])
        allowed = [(0.0, 0.0), *((more.reward[i], more.costs[i, 0]) for i in places)]
        assert np.min(np.max(np.abs(np.array(allowed) - offset), axis=1)) < 1e-9
        raised += offset != (0.0, 0.0)
    assert raised > 50


def test_scales_span_what_was_raised():
    dataset = one_cost(dataset_of([1 + i % 2 for i in range(1500)]))
    more = augmented(dataset, DialConfig(augmentation=0.5, frontier_top=50.0), np.random.default_rng(0))
    plain, spanning = Scales.fit(dataset, ("value",)), Scales.fit(dataset, ("value",), more)
    best = (dataset.reward_returns[more.episodes] + more.reward).max()
    assert plain.reward_to_go.high[0] < best
    assert spanning.reward_to_go.high[0] >= best - 1e-9
    assert Scales.fit(dataset, ("value",), augmented(dataset, DialConfig(), np.random.default_rng(0))) is not None


def test_several_costs_have_no_frontier_line():
    with pytest.raises(UsageError, match="frontier of one cost"):
        augmented(dataset_of([4, 5, 6]), DialConfig(augmentation=0.2), np.random.default_rng(0))
