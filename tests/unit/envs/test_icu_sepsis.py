"""ICU-Sepsis, where its tables are installed: the benchmark's own numbers, and exact values against episodes."""

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from safehold.core.errors import DataError, ModelError, UsageError
from safehold.core.policy import PolicyFamily
from safehold.envs import registry
from safehold.envs.suites import icu_sepsis
from safehold.envs.suites.icu_sepsis import (
    DEATH,
    HORIZON,
    PATIENTS,
    STATES,
    SURVIVAL,
    TabularPolicy,
    expected_returns,
    read_tables,
    tables,
)
from safehold.envs.suites.icu_sepsis_dial import Behaviours, Sampler, SepsisFamily, behaviours, optimal_policy
from safehold.rollout.episodes import rollout
from safehold.testing.env_contract import EnvContract

INSTALLED = importlib.util.find_spec("icu_sepsis") is not None
needs_tables = pytest.mark.skipif(not INSTALLED, reason="the tables of icu-sepsis are not installed")

UNIFORM = np.full((PATIENTS, 25), 1 / 25)


def test_without_its_tables_the_world_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    tables.cache_clear()
    with pytest.raises(UsageError, match=r"pip install --no-deps 'icu-sepsis==2\.0\.1'"):
        registry.make("icu/Sepsis")


def test_a_folder_without_the_tables_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"does not hold the tables of icu-sepsis 2\.0\.1"):
        read_tables(tmp_path)


def test_tables_of_another_size_are_refused(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "dynamics.npz", tx_mat=np.ones((2, 1, 2)) / 2, d_0=np.ones(2) / 2, expert_policy=np.ones((2, 1))
    )
    (tmp_path / "admissible_actions.txt").write_text("1 1\n0\n0\n")
    with pytest.raises(DataError, match=r"the shape is \(2, 1, 2\), expected \(716, 25, 716\)"):
        read_tables(tmp_path)


@pytest.mark.parametrize("bad", [2.0, -1.0, math.nan])
def test_chances_that_are_none_are_refused(bad: float) -> None:
    chances = UNIFORM.copy()
    chances[7, 3] = bad
    with pytest.raises(DataError, match="expected probabilities >= 0 that sum to 1"):
        TabularPolicy(chances)


def test_a_policy_of_another_size_is_refused() -> None:
    with pytest.raises(DataError, match="a tabular policy: the shape is"):
        TabularPolicy(np.full((STATES, 25), 1 / 25))


@pytest.mark.parametrize("weight", [-0.1, math.nan])
def test_being_paid_for_doses_is_refused(weight: float) -> None:
    with pytest.raises(UsageError, match="it is the survival given up for one dose level"):
        optimal_policy(weight)


@needs_tables
class TestSepsis(EnvContract):
    env_id = "icu/Sepsis"


@pytest.fixture(scope="module")
def known() -> icu_sepsis.Tables:
    return tables()


@pytest.fixture(scope="module")
def three() -> Behaviours:
    """Two cost weights and the clinicians."""
    return behaviours(cost_weights=(0.0, 0.01), clinician_shares=(0.0,))


@pytest.fixture(scope="module")
def family(three: Behaviours) -> SepsisFamily:
    """A dial whose logged means are somewhat off."""
    true = three.expected_returns(np.eye(3))
    return SepsisFamily(three, true + np.array([[0.01, 1.0], [-0.01, -1.0], [0.0, 2.0]]), (0.03, 4.0))


@pytest.fixture(scope="module")
def moves(known: icu_sepsis.Tables) -> csr_array:
    """Transitions between states of treatment, a row each state and action, of which seven in eight are zeros."""
    return csr_array(known.transition[:PATIENTS, :, :PATIENTS].reshape(-1, PATIENTS))


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    return Sampler()


def assert_mean(values: np.ndarray, expected: float) -> None:
    """Within four standard errors: 1 in 16,000 by chance, for one fixed seed."""
    assert abs(np.mean(values) - expected) <= 4 * np.std(values, ddof=1) / math.sqrt(len(values))


@needs_tables
@pytest.mark.parametrize(
    ("seed", "states"),
    [
        (3, [56, 148, 657, 657, 170, 170, 170, 170, 178, 167, 167, 167, 167, 167, 312, 713]),
        (11, [80, 443, 443, 45, 45, 714]),
        (2**40, [237, 348, 714]),
    ],
)
def test_episodes_are_those_of_the_benchmarks_own_environment(seed: int, states: list[int]) -> None:
    """Recorded from Sepsis/ICU-Sepsis-v2 of icu-sepsis 2.0.1 under gymnasium 1.4, with actions 5, 12, 19, 1, 8, ..."""
    env = registry.make("icu/Sepsis")
    observation, _ = env.reset(seed=seed)
    seen, ended, rewards = [int(observation[0])], False, []
    while not ended:
        action = np.array([(7 * len(rewards) + 5) % 25], dtype=np.float32)
        observation, reward, ended, _, _ = env.step(action)
        seen.append(int(observation[0]))
        rewards.append(reward)
    assert seen == states
    assert rewards == [0.0] * (len(states) - 2) + [float(states[-1] == SURVIVAL)]


@needs_tables
@pytest.mark.parametrize(
    ("chances", "survival", "digits"),
    [("random", 0.78, 2), ("clinicians", 0.78, 2), ("optimal", 0.88, 2)],
)
def test_survival_is_that_of_the_benchmarks_table(
    chances: str, survival: float, digits: int, known: icu_sepsis.Tables
) -> None:
    """Average returns of the package's own README."""
    policies = {
        "random": TabularPolicy(UNIFORM),
        "clinicians": TabularPolicy(known.clinicians),
        "optimal": optimal_policy(0.0),
    }
    assert round(expected_returns(policies[chances]).reward, digits) == survival


@needs_tables
def test_an_inadmissible_action_moves_and_costs_as_an_admissible_one_drawn_at_random(known: icu_sepsis.Tables) -> None:
    level = np.array([action // 5 + action % 5 for action in range(25)])
    for state in range(0, PATIENTS, 20):
        among = np.flatnonzero(known.admissible[state])
        np.testing.assert_array_equal(known.dose[state, among], level[among])
        for action in np.flatnonzero(~known.admissible[state]):
            mean = known.transition[state, among].mean(axis=0)
            np.testing.assert_allclose(known.transition[state, action], mean, atol=1e-14)
            assert known.dose[state, action] == pytest.approx(level[among].mean())


@needs_tables
def test_the_clock_cuts_off_next_to_nothing_under_any_policy(known: icu_sepsis.Tables, moves: csr_array) -> None:
    reach, cost = np.ones(PATIENTS), np.zeros(PATIENTS)
    for _ in range(HORIZON):
        both = np.reshape(moves @ np.stack([reach, cost], axis=1), (PATIENTS, 25, 2))
        reach, cost = both[:, :, 0].max(axis=1), (known.dose + both[:, :, 1]).max(axis=1)
    start = known.start[:PATIENTS]
    assert start @ reach < 2e-10
    assert start @ reach * cost.max() < 1e-7


@needs_tables
def test_backward_induction_over_the_clock_agrees_with_the_linear_system(known: icu_sepsis.Tables) -> None:
    policy = TabularPolicy(known.clinicians)
    moves = known.transition[:PATIENTS, :, :PATIENTS]
    chain = np.einsum("sa,sat->st", policy.chances, moves)
    step = np.sum(policy.chances * known.dose, axis=1)
    values = np.zeros(PATIENTS)
    for _ in range(HORIZON):
        values = step + chain @ values
    assert known.start[:PATIENTS] @ values == pytest.approx(expected_returns(policy).cost, abs=1e-7)


@needs_tables
@pytest.mark.parametrize("target", [(0.87, 28.0), (0.83, 8.0), (0.80, 18.0), (0.85, 15.0)])
def test_exact_values_hold_for_episodes(target: tuple[float, float], family: SepsisFamily) -> None:
    policy = family.at(target)
    exact = expected_returns(policy)
    episodes = rollout("icu/Sepsis", policy, range(600), rng_seed=1)
    assert_mean(np.array([episode.reward_return for episode in episodes]), exact.reward)
    assert_mean(np.array([episode.cost_returns[0] for episode in episodes]), exact.cost)
    assert all(episode.observations[-1, 0] in (DEATH, SURVIVAL) for episode in episodes)


@needs_tables
@pytest.mark.parametrize("target", [(0.87, 28.0), (0.83, 8.0), (0.80, 18.0), (0.85, 15.0)])
def test_exact_values_hold_for_sampled_returns(
    target: tuple[float, float], family: SepsisFamily, sampler: Sampler
) -> None:
    policy = family.at(target)
    rewards, costs = sampler.returns(policy, 40_000, np.random.default_rng(0))
    assert_mean(rewards, expected_returns(policy).reward)
    assert_mean(costs, expected_returns(policy).cost)


@needs_tables
def test_mixtures_are_solved_as_the_policy_they_are(family: SepsisFamily) -> None:
    targets = np.array([[0.87, 28.0], [0.83, 8.0], [0.80, 18.0], [0.85, 15.0]] * 5)  # more than one chunk
    solved = family.expected_returns(targets)
    for target, (reward, cost) in zip(targets[:4], solved, strict=False):
        alone = expected_returns(family.at((float(target[0]), float(target[1]))))
        assert (alone.reward, alone.cost) == pytest.approx((reward, cost), rel=1e-12)
    np.testing.assert_array_equal(solved[:4], solved[16:])


@needs_tables
def test_the_dial_answers_with_the_behaviour_whose_logged_returns_are_asked(family: SepsisFamily) -> None:
    sharp = SepsisFamily(family.behaviours, family.logged, (1e-3, 0.1))
    np.testing.assert_allclose(sharp.weights(family.logged), np.eye(3), atol=1e-12)
    np.testing.assert_allclose(sharp.distances(family.logged).diagonal(), 0.0, atol=1e-12)
    far = sharp.weights(np.array([[0.5, 1000.0]]))  # nothing underflows to 0 / 0 where the log has nothing
    assert far.sum() == pytest.approx(1.0)


@needs_tables
def test_the_family_is_a_policy_family(family: SepsisFamily) -> None:
    assert isinstance(family, PolicyFamily)
    assert family.target_names == ("reward", "cost")


@needs_tables
@pytest.mark.parametrize("target", [(0.8,), (0.8, math.nan), (0.8, 1.0, 2.0)])
def test_a_target_that_is_no_pair_of_numbers_is_refused(target: tuple[float, ...], family: SepsisFamily) -> None:
    with pytest.raises(UsageError, match=r"must be two finite numbers, \(reward, cost\)"):
        family.at(target)


@needs_tables
def test_a_dial_without_a_width_or_with_too_few_returns_is_refused(family: SepsisFamily) -> None:
    with pytest.raises(UsageError, match="give two positive ones"):
        SepsisFamily(family.behaviours, family.logged, (0.0, 1.0))
    with pytest.raises(UsageError, match="for each of 3 behaviours"):
        SepsisFamily(family.behaviours, family.logged[:2], (1.0, 1.0))


@needs_tables
def test_no_policy_has_a_better_trade_off_than_the_optimal_one(known: icu_sepsis.Tables, moves: csr_array) -> None:
    """Policy iteration against value iteration."""
    weight = 0.002
    values = np.zeros(PATIENTS)
    gains = known.transition[:PATIENTS, :, SURVIVAL] - weight * known.dose
    for _ in range(300):
        values = np.max(gains + np.reshape(moves @ values, (PATIENTS, 25)), axis=1)
    found = expected_returns(optimal_policy(weight))
    assert found.reward - weight * found.cost == pytest.approx(known.start[:PATIENTS] @ values, abs=1e-7)


@needs_tables
def test_an_iteration_that_does_not_settle_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("safehold.envs.suites.icu_sepsis_dial._ROUNDS", 1)
    with pytest.raises(ModelError, match="did not settle in 1 rounds"):
        optimal_policy(0.001)
