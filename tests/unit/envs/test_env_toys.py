"""Toy worlds: the contract, and their formulas against their episodes."""

import math

import numpy as np
import pytest

from safehold.core.errors import UsageError
from safehold.core.policy import PolicyFamily
from safehold.envs.toy import corridor, dial, double_integrator, point_hazard
from safehold.envs.toy.corridor import Cruise
from safehold.envs.toy.dial import DialFamily
from safehold.envs.toy.double_integrator import Feedback
from safehold.envs.toy.point_hazard import Detour
from safehold.rollout.episodes import rollout
from safehold.testing.env_contract import EnvContract

EPISODES = 80


class TestCorridor(EnvContract):
    env_id = "toy/Corridor"


class TestPointHazard(EnvContract):
    env_id = "toy/PointHazard"


class TestDoubleIntegrator(EnvContract):
    env_id = "toy/DoubleIntegrator"


class TestDial(EnvContract):
    env_id = "toy/Dial"


def assert_mean(values: np.ndarray, expected: float) -> None:
    """Within four standard errors, or rounding where nothing is random: 1 in 16,000 by chance, for one fixed seed."""
    error = np.std(values, ddof=1) / math.sqrt(len(values))
    assert abs(np.mean(values) - expected) <= 4 * error + 1e-6 * (1 + abs(expected))


PARAMETRISED = [
    ("toy/Corridor", Cruise(0.5)),
    ("toy/Corridor", Cruise(1.0)),
    ("toy/Corridor", Cruise(0.9, 0.3)),
    ("toy/Corridor", Cruise(1.5, 0.5)),
    ("toy/PointHazard", Detour(0)),
    ("toy/PointHazard", Detour(3)),
    ("toy/PointHazard", Detour(2, 2)),
    ("toy/DoubleIntegrator", Feedback(1.0, 1.5)),
    ("toy/DoubleIntegrator", Feedback(3.0, 1.0)),
]


def assert_returns(env_id: str, policy: Cruise | Detour | Feedback, n_episodes: int) -> None:
    episodes = rollout(env_id, policy, range(n_episodes), rng_seed=1)
    assert_mean(np.array([episode.reward_return for episode in episodes]), policy.expected_reward_return())
    assert_mean(np.array([episode.cost_returns[0] for episode in episodes]), policy.expected_cost_return())


@pytest.mark.parametrize(("env_id", "policy"), PARAMETRISED, ids=str)
def test_expected_returns_are_those_of_the_formulas(env_id: str, policy: Cruise | Detour | Feedback) -> None:
    assert_returns(env_id, policy, EPISODES)


@pytest.mark.slow
@pytest.mark.parametrize(("env_id", "policy"), PARAMETRISED, ids=str)
def test_expected_returns_hold_for_many_episodes(env_id: str, policy: Cruise | Detour | Feedback) -> None:
    assert_returns(env_id, policy, 2_000)


def test_the_antiderivative_of_the_corridor_is_the_integral() -> None:
    grid = np.linspace(0.6, 1.4, 2_001)
    costs = [Cruise(float(speed)).expected_cost_return() for speed in grid]
    assert Cruise(1.0, 0.4).expected_cost_return() == pytest.approx(np.trapezoid(costs, grid) / 0.8, rel=1e-6)


def test_a_crossing_ends_at_the_goal() -> None:
    episodes = rollout("toy/PointHazard", Detour(5, 2), range(EPISODES), rng_seed=0)
    assert all(episode.terminated for episode in episodes)
    assert_mean(np.array([float(len(episode)) for episode in episodes]), Detour(5, 2).expected_steps())
    assert all(episode.cost_returns[0] == 0 for episode in episodes)


@pytest.mark.parametrize("target", [(100.0, 10.0), (50.0, 40.0), (100.0, 40.0), (20.0, 25.0)])
def test_the_dial_yields_what_its_functions_say(target: tuple[float, float]) -> None:
    episodes = rollout("toy/Dial", DialFamily().at(target), range(EPISODES), rng_seed=0)
    costs = np.array([episode.cost_returns[0] for episode in episodes])
    rewards = np.array([episode.reward_return for episode in episodes])
    expected = dial.expected_cost_return(target)
    assert_mean(rewards, dial.expected_reward_return(target))
    assert_mean(costs, expected)
    # a sample deviation of n draws lies within 4 / sqrt(2 n) of the true one, relatively
    assert np.std(costs, ddof=1) == pytest.approx(dial.standard_deviation(expected), rel=4 / math.sqrt(2 * EPISODES))


def test_the_dial_at_zero_costs_exactly_nothing() -> None:
    episodes = rollout("toy/Dial", DialFamily().at((0.0, 0.0)), range(10), rng_seed=0)
    assert all(episode.cost_returns[0] == 0 and episode.reward_return == 0 for episode in episodes)


def test_the_dials_actions_stay_inside_their_bounds() -> None:
    grid = [(reward, cost) for reward in np.linspace(0, 100, 21) for cost in np.linspace(0, 40, 81)]
    high = dial.TASK.spec.action.high
    for target in grid:
        policy = DialFamily().at(target)
        assert 0 <= policy.reward <= high[0]
        assert 0 <= policy.cost <= high[1]


def test_the_dial_is_a_policy_family() -> None:
    assert isinstance(DialFamily(), PolicyFamily)
    assert DialFamily().target_names == ("reward", "cost")


@pytest.mark.parametrize("target", [(101.0, 0.0), (0.0, -1.0), (0.0, float("nan")), (1.0,), (1.0, 2.0, 3.0)])
def test_a_target_off_the_dial_is_refused(target: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match="must be \\(reward, cost\\) between 0 and \\(100, 40\\)"):
        DialFamily().at(target)


@pytest.mark.parametrize("impossible", [(0.1, 0.2), (1.9, 0.2), (1.0, -0.1), (float("nan"), 0.0)])
def test_a_cruise_beyond_the_bounds_is_refused(impossible: tuple[float, float]) -> None:
    with pytest.raises(UsageError, match=r"must lie in 0 to 2\.0 m/s"):
        Cruise(*impossible)


def test_a_detour_that_never_arrives_is_refused() -> None:
    with pytest.raises(UsageError, match="cross in 100 steps"):
        Detour(20, 4)
    with pytest.raises(UsageError, match="integers"):
        Detour(-1)


def test_feedback_that_could_be_clipped_is_refused() -> None:
    assert Feedback(3.0, 1.0).largest_action() <= double_integrator.STRONGEST
    with pytest.raises(UsageError, match="beyond 5"):
        Feedback(6.0, 1.0)
    with pytest.raises(UsageError, match="never clipped"):
        Feedback(1.0, -3.0)


def test_toy_specs_say_what_a_cost_is() -> None:
    assert corridor.TASK.spec.cost_units == ("metres run in excess of 1.0 m/s",)
    assert point_hazard.TASK.spec.cost_units == ("steps inside the disc",)
