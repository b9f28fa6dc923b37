"""Rain: its formulas against its episodes, and its program against backward induction."""

import math

import numpy as np
import pytest

from safehold.core.errors import UsageError
from safehold.envs.toy import rain
from safehold.rollout.episodes import rollout
from safehold.testing.env_contract import EnvContract
from safehold.testing.rain_log import mixed_log, returns_of


class TestRain(EnvContract):
    env_id = "toy/Rain"


def dual(price: float) -> tuple[float, float, float]:
    """The largest of E[reward - price cost] by backward induction, and the expected returns of who attains it."""
    moves, gains = rain.transitions(), rain.transitions() @ rain.signals()
    value = np.zeros((rain.STATES, 3))
    for _ in range(rain.HORIZON):
        after = gains[..., 0] - price * gains[..., 1] + moves @ value[:, 0]
        chosen = after.argmax(axis=1)
        rows = np.arange(rain.STATES)
        value = np.column_stack([after[rows, chosen], *(gains[rows, chosen] + moves[rows, chosen] @ value[:, 1:]).T])
    return tuple(value[0])


@pytest.mark.parametrize(("dry", "wet", "noise"), [(3.0, 1.0, 0.2), (2.5, 0.5, 0.6), (3.0, 3.0, 0.0)])
def test_expected_returns_are_the_means_of_episodes(dry: float, wet: float, noise: float) -> None:
    habit = rain.habit(dry, wet, noise)
    episodes = rollout("toy/Rain", habit, range(100), rng_seed=1)
    obtained = np.array([[episode.reward_return, episode.cost_returns[0]] for episode in episodes])
    error = obtained.std(axis=0, ddof=1) / math.sqrt(len(obtained))
    assert (np.abs(obtained.mean(axis=0) - rain.expected_returns(habit.chances)) <= 4 * error).all()


@pytest.mark.parametrize("limit", [0.0, 2.0, 6.0, 9.0])
def test_the_program_meets_its_dual(limit: float) -> None:
    found = rain.best(limit)
    assert found.cost <= limit + 1e-9
    prices = np.linspace(0.0, 20.0, 401)
    bound = min(dual(price)[0] + price * limit for price in prices)
    assert bound >= found.reward - 1e-9
    assert bound == pytest.approx(found.reward, abs=0.05 * limit + 1e-9)  # half a step of the prices, times the cost


def test_without_a_limit_it_is_backward_induction() -> None:
    assert rain.best(1e6).reward == pytest.approx(dual(0.0)[0])


def test_no_policy_costs_less_than_nothing() -> None:
    with pytest.raises(UsageError, match="no policy keeps the limit -1"):
        rain.best(-1.0)


def test_chances_of_a_habit_are_its_own() -> None:
    habit = rain.habit(2.5, 0.5, 0.3)
    found = rain.chances_of(habit, 20_000, np.random.default_rng(0))
    np.testing.assert_allclose(found, habit.chances, atol=0.015)
    np.testing.assert_allclose(returns_of(habit), rain.expected_returns(habit.chances), rtol=0.05)


def test_chances_that_are_none_are_refused() -> None:
    with pytest.raises(UsageError, match="8 rows of 3 probabilities"):
        rain.Habit(np.full((8, 3), 0.5))


def test_the_log_holds_bold_and_careful_drivers_and_every_choice_everywhere() -> None:
    log = mixed_log(30, 0)
    assert log.cost_returns.min() < 1.0
    assert log.cost_returns.max() > 8.0
    state = np.rint(6 * log.observations[:, 0] + log.observations[:, 1]).astype(int)
    before = np.concatenate([state[i * 41 : i * 41 + 40] for i in range(30)])
    assert len(np.unique(np.column_stack([before, rain.choices(log.actions[:, 0].astype(float))]), axis=0)) == 24
    assert log.digest == mixed_log(30, 0).digest != mixed_log(30, 1).digest
