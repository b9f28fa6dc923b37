from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from safehold.core.errors import ModelError, UsageError
from safehold.core.seeding import Streams
from safehold.core.spec import Box, TaskSpec
from safehold.data.dataset import OfflineDataset
from safehold.envs import registry
from safehold.envs.toy import corridor, double_integrator
from safehold.learn.fit import OfflineRun, fit
from safehold.learn.gaussian_policy import GaussianPolicy
from safehold.learn.offline.fqe import FittedReturns, FQEConfig, FQELearner, FQESampler, fitted_returns
from safehold.learn.offline.logged import Answering, Answers, Windows, answering
from safehold.rollout.episodes import rollout

TINY = FQEConfig(hidden=(32, 32), members=3, batch_size=128, steps=600, target_rate=0.3, learning_rate=3e-3)
BOX = Box((-1.0,), (1.0,))


@dataclass(frozen=True)
class Constant:
    """Always the same action."""

    action: float
    context: int = 1
    targets: int = 0

    def answers(self, windows: Windows) -> Answers:
        return Answers(np.full((len(windows.newest), 1), self.action, np.float32), None)

    def acts(self, windows: Windows, rng: np.random.Generator) -> np.ndarray:  # noqa: ARG002
        return self.answers(windows).mean

    def asked(self, windows: Windows) -> np.ndarray:
        return np.zeros((len(windows.newest), 0), dtype=np.float32)


@dataclass(frozen=True)
class Even:
    """Spends what is still to go of the reward evenly over what remains: obtains exactly its target."""

    horizon: int
    context: int = 2
    targets: int = 2

    def answers(self, windows: Windows) -> Answers:
        rows = np.arange(len(windows.newest))
        left = self.horizon - windows.steps[rows, windows.newest]
        rate = np.clip(windows.to_go[rows, windows.newest, 0] / left, -1.0, 1.0)
        return Answers(rate[:, None].astype(np.float32), None)

    def acts(self, windows: Windows, rng: np.random.Generator) -> np.ndarray:  # noqa: ARG002
        return self.answers(windows).mean

    def asked(self, windows: Windows) -> np.ndarray:
        return self.answers(windows).mean


def cruising(speed: float) -> GaussianPolicy:
    """The corridor's constant command as a network."""
    return GaussianPolicy(
        weights=(np.zeros((3, 1), np.float32),),
        biases=(np.array([speed], np.float32),),
        observation_mean=np.zeros(3, np.float32),
        observation_sd=np.ones(3, np.float32),
        sd=np.zeros(1, np.float32),
        action=Box((0.0,), (corridor.TOP_SPEED,)),
    )


def along_the_corridor(speeds: Sequence[float], episodes: int) -> OfflineDataset:
    found = []
    for number, speed in enumerate(speeds):
        seeds = Streams(0).episode_seeds(str(number), 0, episodes)
        found += rollout("toy/Corridor", corridor.Cruise(speed, 0.3), seeds, rng_seed=number)
    return OfflineDataset.of(found, corridor.TASK.spec, group=np.repeat(np.arange(len(speeds)), episodes))


def mortal(rng: np.random.Generator, episodes: int, horizon: int, cut: int | None = None) -> OfflineDataset:
    """Each step pays 1, costs the square of the action a, and is the last with probability (1 - a) / 10."""
    lengths, ended, actions = [], [], []
    for _ in range(episodes):
        acted = rng.uniform(-1.0, 1.0) + rng.normal(0.0, 0.3, horizon)
        acted = np.clip(acted, -1.0, 1.0)
        dies = np.flatnonzero(rng.random(horizon) < (1.0 - acted) / 10.0)
        most = horizon if cut is None or rng.random() < 0.5 else cut
        length = int(dies[0]) + 1 if len(dies) else horizon
        ended.append(length <= most and len(dies) > 0)
        lengths.append(min(length, most))
        actions.append(acted[: lengths[-1]])
    steps = int(np.sum(lengths))
    acted = np.concatenate(actions)
    return OfflineDataset(
        spec=TaskSpec(env_id="mortal", observation_size=1, action=BOX, horizon=horizon),
        observations=rng.normal(size=(steps + episodes, 1)).astype(np.float32),
        actions=acted[:, None].astype(np.float32),
        rewards=np.ones(steps),
        costs=acted[:, None] ** 2,
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        terminated=np.array(ended),
    )


def test_returns_of_a_constant_speed_are_those_of_the_formula() -> None:
    speed = 1.2
    data = along_the_corridor([0.5, 0.8, 1.1, 1.4], 20)
    (found,) = fitted_returns(data, answering(cruising(speed)), [], TINY, seed=0)
    truth = corridor.Cruise(speed)
    assert found.interval(0).estimate == pytest.approx(truth.expected_reward_return(), rel=0.05)
    assert found.interval(1).estimate == pytest.approx(truth.expected_cost_return(), abs=1.5)


def test_an_end_is_an_end_and_a_cut_log_is_none() -> None:
    action = -0.5
    data = mortal(np.random.default_rng(0), 300, 20, cut=8)
    config = TINY.model_copy(update={"steps": 1200})
    (found,) = fitted_returns(data, Constant(action), [], config, seed=1)
    expected = float(np.sum((1.0 - (1.0 - action) / 10.0) ** np.arange(20)))
    assert found.interval(0).estimate == pytest.approx(expected, rel=0.2)
    assert found.interval(1).estimate == pytest.approx(0.25 * expected, rel=0.2)


def test_one_fit_serves_all_targets_of_a_dial() -> None:
    rng, horizon = np.random.default_rng(0), 20
    acted = np.clip(rng.uniform(-0.2, 1.0, (200, 1)) + rng.normal(0.0, 0.2, (200, horizon)), -1.0, 1.0)
    data = OfflineDataset(
        spec=TaskSpec(env_id="even", observation_size=1, action=BOX, horizon=horizon),
        observations=np.zeros((200 * (horizon + 1), 1), np.float32),
        actions=acted.reshape(-1, 1).astype(np.float32),
        rewards=acted.reshape(-1),
        costs=1.0 + acted.reshape(-1, 1),
        offsets=np.arange(0, 200 * horizon + 1, horizon),
        terminated=np.zeros(200, np.bool_),
    )
    targets = [(4.0, 0.0), (8.0, 0.0), (12.0, 0.0), (16.0, 0.0)]
    found = fitted_returns(data, Even(horizon), targets, TINY, seed=0)
    assert [one.target for one in found] == targets
    np.testing.assert_allclose([one.interval(0).estimate for one in found], [4, 8, 12, 16], rtol=0.12)
    np.testing.assert_allclose([one.interval(1).estimate for one in found], [24, 28, 32, 36], rtol=0.12)


def test_a_discount_gives_the_mean_step_times_the_horizon() -> None:
    data = along_the_corridor([0.5, 0.8, 1.1, 1.4], 20)
    config = TINY.model_copy(update={"discount": 0.9})
    (found,) = fitted_returns(data, answering(cruising(1.0)), [], config, seed=0)
    assert found.interval(0).estimate == pytest.approx(corridor.HORIZON, rel=0.05)


def test_the_same_seed_finds_the_same() -> None:
    data, config = along_the_corridor([0.5, 1.0], 4), TINY.model_copy(update={"steps": 20})
    first, second = (fitted_returns(data, answering(cruising(1.0)), [], config, seed=3)[0] for _ in range(2))
    np.testing.assert_array_equal(first.members, second.members)


def test_members_are_fitted_to_whole_behaviour_policies_drawn_anew() -> None:
    data = along_the_corridor([0.5, 0.8, 1.1], 4)
    weights = FQESampler(data, Constant(1.0), np.zeros((1, 0)), TINY, np.random.default_rng(0)).weights
    assert weights.shape == (12, 3)
    np.testing.assert_array_equal(weights.reshape(3, 4, 3), np.repeat(weights[::4][:, None], 4, axis=1))
    np.testing.assert_array_equal(weights.sum(axis=0), 12)


def test_restored_goes_on_bit_for_bit() -> None:
    data = along_the_corridor([0.5, 1.0], 4)
    sampler = FQESampler(data, Constant(1.0), np.zeros((1, 0)), TINY, np.random.default_rng(0))

    def made(seed: int) -> OfflineRun[object]:
        learner = FQELearner(sampler.features, sampler.ranges, sampler.typical, TINY, seed)
        return OfflineRun(learner, sampler, np.random.default_rng(1))

    unbroken, resumed = made(0), made(5)
    fit(unbroken, steps=3)
    resumed.restore(unbroken.state())
    fit(unbroken, steps=6)
    fit(resumed, steps=6)
    first, second = unbroken.state(), resumed.state()
    assert first.meta == second.meta
    assert all(torch.equal(value, second.tensors[name]) for name, value in first.tensors.items())


def test_estimates_stay_in_the_range_of_what_a_step_can_pay() -> None:
    data = along_the_corridor([0.5, 1.0], 4)
    config = TINY.model_copy(update={"steps": 30, "learning_rate": 0.5})  # far too quick
    (found,) = fitted_returns(data, answering(cruising(2.0)), [], config, seed=0)
    assert (found.members[:, 1] >= 0.0).all()
    assert (found.members[:, 0] <= corridor.HORIZON * max(0.0, data.rewards.max()) * (1 + 1e-6)).all()


def test_an_interval_is_students_with_the_spread_of_the_fits() -> None:
    members = np.array([[1.0], [2.0], [3.0]])
    interval = FittedReturns(target=None, members=members).interval(0)
    assert (interval.estimate, interval.n) == (2.0, 3)
    assert interval.high - interval.estimate == pytest.approx(4.3027, abs=1e-3)  # t_2 at 97.5 %, times 1


def test_targets_must_fit_the_policy() -> None:
    data = along_the_corridor([0.5, 1.0], 2)
    for policy, targets, message in (
        (Constant(1.0), [(1.0, 2.0)], "without a dial has no target"),
        (Even(50), [], "expected one or more, each of 2"),
        (Even(50), [(1.0,)], "expected one or more, each of 2"),
        (Even(50), [(1.0, np.nan)], "expected one or more, each of 2"),
    ):
        assert isinstance(policy, Answering)
        with pytest.raises(UsageError, match=message):
            fitted_returns(data, policy, targets, TINY, seed=0)


def test_a_loss_that_is_not_finite_stops_the_fit() -> None:
    data = along_the_corridor([0.5, 1.0], 2)
    sampler = FQESampler(data, Constant(1.0), np.zeros((1, 0)), TINY, np.random.default_rng(0))
    learner = FQELearner(sampler.features, sampler.ranges, sampler.typical, TINY, 0)
    batch = sampler.sample(np.random.default_rng(0))
    batch.now[0] = np.nan
    with pytest.raises(ModelError, match="fitted Q evaluation is nan"):
        learner.update(batch)


@pytest.mark.slow
def test_returns_of_linear_feedback_are_those_of_the_exact_recursion() -> None:
    task = registry.spec("toy/DoubleIntegrator")

    def feedback(stiffness: float, damping: float, sd: float = 0.0) -> GaussianPolicy:
        return GaussianPolicy(
            weights=(np.array([[-stiffness], [-damping]], np.float32),),
            biases=(np.zeros(1, np.float32),),
            observation_mean=np.zeros(2, np.float32),
            observation_sd=np.ones(2, np.float32),
            sd=np.array([sd], np.float32),
            action=task.action,
        )

    behaviours = [(0.5, 1.0), (1.0, 1.0), (1.0, 2.0), (2.0, 2.0), (0.3, 0.5), (2.0, 3.0)]
    episodes = []
    for number, gains in enumerate(behaviours):
        seeds = Streams(0).episode_seeds(str(number), 0, 40)
        episodes += rollout("toy/DoubleIntegrator", feedback(*gains, sd=0.5), seeds, rng_seed=number)
    data = OfflineDataset.of(episodes, task)
    config = FQEConfig(hidden=(64, 64), members=3, batch_size=256, steps=3000, target_rate=0.2, learning_rate=2e-3)
    for gains in ((1.5, 2.0), (1.0, 3.0), (0.2, 2.0)):
        (found,) = fitted_returns(data, answering(feedback(*gains)), [], config, seed=0)
        truth = double_integrator.Feedback(*gains)
        assert found.interval(0).estimate == pytest.approx(truth.expected_reward_return(), rel=0.3)
        assert found.interval(1).estimate == pytest.approx(truth.expected_cost_return(), rel=0.25, abs=0.02)
