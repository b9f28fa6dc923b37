from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from safehold.core.errors import UsageError
from safehold.core.policy import Policy
from safehold.core.seeding import Streams
from safehold.core.spec import Box, TaskSpec
from safehold.core.target import Target
from safehold.data.dataset import OfflineDataset
from safehold.data.normalise import Normaliser
from safehold.learn.gaussian_policy import GaussianPolicy
from safehold.learn.offline import cdt, lspc, rvs
from safehold.learn.offline.dial import DialFamily
from safehold.learn.offline.held_out import halves, score, score_last_action, score_mean_action, units_of
from safehold.learn.offline.logged import History, answering
from safehold.learn.offline.scales import Scales

BOX = Box((-1.0, -2.0), (1.0, 2.0))
TINY: dict[str, Any] = {"to_go_features": ("value", "root", "rate"), "dropout": 0.0}


def transformer(data: OfflineDataset, head: str = "deterministic") -> DialFamily[Any, Any]:
    config = cdt.PRESETS["small"].model_copy(update={**TINY, "width": 16, "heads": 2, "context": 3, "head": head})
    return cdt.CDTLearner(data.spec, Scales.fit(data, config.to_go_features), config, 3).policy()


def perceptron(data: OfflineDataset) -> DialFamily[Any, Any]:
    config = rvs.RvSConfig(hidden=(16,), **TINY)
    return rvs.RvSLearner(data.spec, Scales.fit(data, config.to_go_features), config, 3).policy()


def linear(gain: np.ndarray, sd: float, box: Box) -> GaussianPolicy:
    inputs, outputs = gain.shape
    return GaussianPolicy(
        weights=(gain.astype(np.float32),),
        biases=(np.zeros(outputs, np.float32),),
        observation_mean=np.zeros(inputs, np.float32),
        observation_sd=np.ones(inputs, np.float32),
        sd=np.full(outputs, sd, np.float32),
        action=box,
    )


def replayed(policy: Policy, data: OfflineDataset, episode: int) -> np.ndarray:
    """What the policy would have done step by step, had it watched the episode."""
    watched, acted = data.episode(episode), []
    actor = policy.start(1, np.random.default_rng(0))
    for t in range(len(watched)):
        acted.append(actor.act(watched.observations[None, t])[0])
        actor.observe(watched.actions[None, t], watched.rewards[None, t], watched.costs[None, t])
    return np.array(acted)


@pytest.mark.parametrize("build", [transformer, perceptron])
@pytest.mark.parametrize("target", [(5.0, 4.0), (40.0, 0.0)])
def test_answers_are_what_an_actor_does_that_watched_the_episode(
    build: Callable[[OfflineDataset], DialFamily[Any, Any]],
    target: Target,
    logged: Callable[[int], OfflineDataset],
) -> None:
    data = logged(4)
    family = build(data)
    asked, history = answering(family), History(data)
    first = history.first[2]
    states = np.arange(first, first + data.lengths[2])
    windows = history.windows(states, np.tile(target, (len(states), 1)), asked.context)
    acted = asked.acts(windows, np.random.default_rng(0))
    np.testing.assert_allclose(acted, replayed(family.at(target), data, 2), atol=1e-5)


@pytest.mark.parametrize("codes", ["mode", "drawn"])
def test_a_policy_of_the_observation_answers_with_what_it_does_there(
    codes: str, logged: Callable[[int], OfflineDataset]
) -> None:
    data = logged(4)
    config = lspc.LSPCConfig(hidden=(16,), latent=2, codes=codes)
    policy = lspc.LSPCLearner(data.spec, Normaliser.fit(data.observations), config, 3).policy().at((0.7,))
    asked, history = answering(policy), History(data)
    states = np.arange(history.first[2], history.first[2] + data.lengths[2])
    windows = history.windows(states, np.zeros((len(states), 0)), asked.context)
    acted = asked.acts(windows, np.random.default_rng(0))
    if codes == "mode":
        np.testing.assert_allclose(acted, replayed(policy, data, 2), atol=1e-5)
    else:
        assert not np.array_equal(acted, asked.acts(windows, np.random.default_rng(1)))
    np.testing.assert_array_equal(asked.answers(windows).mean, asked.answers(windows).mean)


def test_what_was_obtained_counts_up_to_a_state_within_its_episode(logged: Callable[[int], OfflineDataset]) -> None:
    data = logged(3)
    history = History(data)
    for i, episode in enumerate(data):
        rows = history.first[i] + np.arange(len(episode) + 1)
        np.testing.assert_allclose(history.obtained[rows[1:], 0], np.cumsum(episode.rewards), atol=1e-9)
        np.testing.assert_allclose(history.obtained[rows[1:], 1], np.cumsum(episode.costs[:, 0]), atol=1e-9)
        assert (history.obtained[rows[0]] == 0.0).all() or np.allclose(history.obtained[rows[0]], 0.0, atol=1e-9)
        np.testing.assert_array_equal(history.step[rows], np.arange(len(rows)))


def test_a_policy_at_one_target_is_refused(logged: Callable[[int], OfflineDataset]) -> None:
    with pytest.raises(UsageError, match="family with a dial as a whole"):
        answering(perceptron(logged(2)).at((1.0, 1.0)))


def test_the_density_of_a_known_distribution_is_its_negative_entropy() -> None:
    rng = np.random.default_rng(0)
    data = noisy(rng, 40, gain=0.3, sd=0.1)
    scores = score(data, answering(linear(np.full((3, 2), 0.3), 0.1, data.spec.action)), halves(data, rng))
    # half the range is 1 for the one entry and 2 for the other
    expected = -sum(0.5 * np.log(2.0 * np.pi * np.e) + np.log(0.1 / half) for half in (1.0, 2.0))
    assert scores.own_log_density is not None
    assert scores.own_log_density.mean() == pytest.approx(expected, abs=0.05)
    assert scores.log_density.mean() == pytest.approx(expected, abs=0.05)
    assert scores.squared_error.mean() == pytest.approx((0.1**2 + 0.05**2) / 2, rel=0.05)


def test_the_true_policy_foretells_more_than_another_and_than_the_trivial() -> None:
    rng = np.random.default_rng(1)
    data = noisy(rng, 20, gain=0.3, sd=0.1)
    half = halves(data, rng)
    true, other = (score(data, answering(linear(np.full((3, 2), g), 0.0, data.spec.action)), half) for g in (0.3, 0.2))
    rest = (other, score_mean_action(data, half), score_last_action(data, half))
    assert true.own_log_density is None
    assert all(true.log_density.mean() > one.log_density.mean() for one in rest)
    assert all(true.squared_error.mean() < one.squared_error.mean() for one in rest)


def test_the_last_action_foretells_a_constant_one_all_but_the_first_time() -> None:
    data = noisy(np.random.default_rng(2), 6, gain=0.0, sd=0.0)
    scores = score_last_action(data, halves(data, np.random.default_rng(0)))
    assert (scores.squared_error == 0.0).all()  # the middle of the bounds is what was done


def test_halves_keep_behaviour_policies_whole() -> None:
    data = noisy(np.random.default_rng(3), 12, gain=0.1, sd=0.1, group=np.repeat([7, 3, 9, 1], 3))
    half = halves(data, Streams(0)["halves"])
    assert half.sum() == 6
    assert all(len(set(half[units_of(data) == unit])) == 1 for unit in range(4))


def test_one_behaviour_policy_cannot_be_halved() -> None:
    data = noisy(np.random.default_rng(3), 4, gain=0.1, sd=0.1, group=np.zeros(4))
    with pytest.raises(UsageError, match="4 episodes of 1 behaviour policy cannot be cut in two"):
        halves(data, np.random.default_rng(0))


def noisy(
    rng: np.random.Generator, episodes: int, *, gain: float, sd: float, group: np.ndarray | None = None
) -> OfflineDataset:
    """Episodes of a linear policy with noise."""
    steps = 60
    seen = rng.normal(0.0, 0.3, (episodes, steps + 1, 3)).astype(np.float32)
    acted = gain * seen[:, :-1].sum(axis=2, keepdims=True) + sd * rng.standard_normal((episodes, steps, 2))
    return OfflineDataset(
        spec=TaskSpec(env_id="toy/Noisy", observation_size=3, action=BOX, horizon=steps),
        observations=seen.reshape(-1, 3),
        actions=acted.reshape(-1, 2).astype(np.float32),
        rewards=rng.standard_normal(episodes * steps),
        costs=np.zeros((episodes * steps, 1)),
        offsets=np.arange(0, episodes * steps + 1, steps),
        terminated=np.zeros(episodes, dtype=np.bool_),
        group=None if group is None else group.astype(np.int32),
    )
