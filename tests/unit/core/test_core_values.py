import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safehold.core.certificate import Certificate, Trial, TrialState
from safehold.core.config import Config
from safehold.core.constraint import Constraint, Limit, MaximumCost, SumCost, fold
from safehold.core.episode import Episode, returns_to_go
from safehold.core.errors import DataError, NoCertifiedTarget, SafeholdError, SafetyHold, UsageError
from safehold.core.measurement import Measurement
from safehold.core.seeding import Streams
from safehold.core.spec import Box, Discrete, TaskSpec
from safehold.core.target import TargetSpace


def episode(steps=3, costs=None, **changes):
    fields = {
        "observations": np.zeros((steps + 1, 2), np.float32),
        "actions": np.zeros((steps, 1), np.float32),
        "rewards": np.arange(steps, dtype=np.float64),
        "costs": np.ones((steps, 1)) if costs is None else costs,
        "terminated": False,
        "truncated": True,
        "seed": 7,
    }
    return Episode(**{**fields, **changes})


def test_returns_are_undiscounted_sums():
    e = episode(costs=np.array([[0.5, 1.0], [0.25, 0.0], [0.0, 2.0]]))
    assert len(e) == 3
    assert e.reward_return == 3.0
    np.testing.assert_array_equal(e.cost_returns, [0.75, 3.0])


def test_episode_arrays_cannot_be_written():
    with pytest.raises(ValueError, match="read-only"):
        episode().costs[0, 0] = 0.0


def test_episode_keeps_the_callers_array_writable():
    costs = np.ones((3, 1))
    episode(costs=costs)
    costs[0] = 2.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["observations", "actions", "rewards", "costs"])
def test_episode_refuses_what_was_not_measured(name, bad):
    values = np.array(getattr(episode(), name))
    values.reshape(-1)[1] = bad
    with pytest.raises(DataError, match=rf"seed 7.*{name}\[.*mark the episode failed"):
        episode(**{name: values})


def test_episode_refuses_negative_costs_with_their_place():
    with pytest.raises(DataError, match=r"costs\[2, 0\] = -1.0 is negative"):
        episode(costs=np.array([[0.0], [0.0], [-1.0]]))


@pytest.mark.parametrize("name", ["observations", "actions", "costs"])
def test_episode_refuses_arrays_of_another_length(name):
    with pytest.raises(DataError, match=rf"3 rewards need . rows of {name}, got 9"):
        episode(**{name: np.zeros((9, 1))})


def test_an_episode_without_steps_must_be_failed():
    with pytest.raises(DataError, match="no steps"):
        episode(steps=0)
    assert len(episode(steps=0, failed=True)) == 0


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=50))
def test_returns_to_go_are_the_sums_of_what_follows(values):
    array = np.array(values)
    expected = [array[i:].sum() for i in range(len(array))]
    np.testing.assert_allclose(returns_to_go(array), expected, atol=1e-9)


def test_returns_to_go_keep_the_columns_of_costs_apart():
    np.testing.assert_array_equal(returns_to_go(np.array([[1.0, 10.0], [2.0, 20.0]])), [[3.0, 30.0], [2.0, 20.0]])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_a_limit_is_a_finite_number(value):
    with pytest.raises(UsageError, match="finite number >= 0"):
        Limit("cost", value)


def test_nan_never_meets_a_limit():
    assert Limit("cost", 20.0).holds(20.0)
    assert not Limit("cost", 20.0).holds(20.000001)
    assert not Limit("cost", 20.0).holds(float("nan"))


def test_a_chance_limit_needs_alpha_and_a_mean_limit_takes_none():
    with pytest.raises(UsageError, match="needs alpha between 0 and 1"):
        Limit("cost", 1.0, "chance")
    with pytest.raises(UsageError, match="takes no alpha"):
        Limit("cost", 1.0, alpha=0.1)
    assert Limit("cost", 1.0, "cvar", 0.1).alpha == 0.1


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=30))
def test_folds_equal_their_direct_formulas_and_never_decrease(costs):
    array = np.array(costs)
    assert fold(SumCost(), array) == pytest.approx(array.sum())
    assert fold(MaximumCost(), array) == array.max()
    for constraint in (SumCost(), MaximumCost()):
        assert isinstance(constraint, Constraint)
        running = constraint.start(1)
        for cost in array:
            after = constraint.step(running, np.array([cost]))
            assert after[0] >= running[0]
            running = after


def test_a_missing_cost_survives_every_fold():
    for constraint in (SumCost(), MaximumCost()):
        assert np.isnan(fold(constraint, np.array([1.0, np.nan, 2.0])))


def test_targets_are_numbered_with_the_last_axis_fastest():
    space = TargetSpace({"reward": (100.0, 200.0), "cost": (0.0, 5.0, 10.0)})
    assert space.shape == (2, 3)
    assert len(space) == 6
    assert space.names == ("reward", "cost")
    assert space.target(4) == (200.0, 5.0)
    assert [space.index(space.target(i)) for i in range(6)] == list(range(6))
    with pytest.raises(ValueError, match="read-only"):
        space.points[0, 0] = 1.0


@pytest.mark.parametrize("target", [(100.0, 5.1), (300.0, 5.0), (100.0,)])
def test_a_target_off_the_grid_is_refused(target):
    space = TargetSpace({"reward": (100.0, 200.0), "cost": (0.0, 5.0)})
    with pytest.raises(UsageError, match="not a point of the grid"):
        space.index(target)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({}, "at least one axis"),
        ({"cost": ()}, "finite values"),
        ({"cost": (0.0, float("nan"))}, "finite values"),
        ({"cost": (1.0, 0.0)}, "increase strictly"),
        ({"cost": (1.0, 1.0)}, "increase strictly"),
    ],
)
def test_a_target_axis_must_be_a_sorted_menu(axes, message):
    with pytest.raises(UsageError, match=message):
        TargetSpace(axes)


def measurement(costs, failed=None, rewards=None):
    costs = np.array(costs, dtype=np.float64)
    return Measurement(
        rewards=np.ones(len(costs)) if rewards is None else np.array(rewards),
        costs={"cost": costs},
        failed=np.zeros(len(costs), np.bool_) if failed is None else np.array(failed),
    )


def test_a_measurement_folds_every_episode():
    two = [episode(costs=np.array([[1.0], [3.0], [0.0]])), episode()]
    m = Measurement.of(two, [SumCost("cost")], ["cost"])
    np.testing.assert_array_equal(m.costs["cost"], [4.0, 3.0])
    np.testing.assert_array_equal(m.rewards, [3.0, 3.0])
    assert m.mean_cost("cost") == 3.5
    assert len(m) == 2


def test_a_measurement_refuses_a_cost_nobody_logged():
    with pytest.raises(DataError, match="no cost named 'heat'"):
        Measurement.of([episode()], [SumCost("heat")], ["cost"])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.1])
def test_a_missing_or_impossible_cost_is_refused_unless_the_episode_failed(bad):
    with pytest.raises(DataError, match=r"cost 'cost' of episode 1.*no.*evidence"):
        measurement([1.0, bad])
    assert measurement([1.0, bad], failed=[False, True]).mean_cost("cost") == np.inf


def test_a_measurement_refuses_what_does_not_fit():
    with pytest.raises(DataError, match="at least one episode"):
        measurement([])
    with pytest.raises(DataError, match="one an episode"):
        measurement([1.0], failed=[False, False])
    with pytest.raises(DataError, match="one an episode"):
        measurement([1.0, 2.0], failed=[False], rewards=[1.0])
    with pytest.raises(DataError, match="without costs"):
        Measurement(rewards=np.ones(1), costs={}, failed=np.zeros(1, np.bool_))
    with pytest.raises(DataError, match="reward of episode 0 is nan"):
        measurement([1.0], rewards=[np.nan])


def test_streams_are_independent_of_who_else_draws():
    first = Streams(3)["rollout"].random(4)
    Streams(3)["training"].random(100)
    np.testing.assert_array_equal(Streams(3)["rollout"].random(4), first)
    assert Streams(3).integer("a") != Streams(3).integer("b")
    assert not np.array_equal(Streams(4)["rollout"].random(4), first)


def test_the_seed_of_an_episode_depends_on_its_number_alone():
    streams = Streams(11)
    assert streams.episode_seeds("deployment", 3, 2) == streams.episode_seeds("deployment", 0, 5)[3:]
    seeds = streams.episode_seeds("deployment", 0, 500) + streams.episode_seeds("evaluation", 0, 500)
    assert len(set(seeds)) == 1000
    assert all(0 <= seed < 2**62 for seed in seeds)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(UsageError, match=r"0 to 2\*\*63 - 1"):
        Streams(seed)


def test_action_bounds_must_be_bounds():
    box = Box((-1.0, -2.0), (1.0, 2.0))
    assert box.size == 2
    np.testing.assert_array_equal(box.clip(np.array([[3.0, -3.0]])), [[1.0, -2.0]])
    assert np.isnan(box.clip(np.array([[np.nan, 0.0]]))[0, 0])
    assert Discrete(3).size == 1
    with pytest.raises(DataError, match="finite"):
        Box((-np.inf,), (1.0,))
    with pytest.raises(DataError, match="low < high"):
        Box((1.0,), (1.0,))
    with pytest.raises(DataError, match="at least one action"):
        Discrete(0)


@pytest.mark.parametrize(
    "change",
    [
        {"horizon": 0},
        {"cost_names": ("a", "a"), "cost_units": ("", "")},
        {"cost_names": ("a", "b")},
        {"cost_names": ()},
    ],
)
def test_a_task_must_say_what_its_costs_are(change):
    with pytest.raises(DataError, match="world"):
        TaskSpec(**{"env_id": "world", "observation_size": 1, "action": Discrete(2), "horizon": 5, **change})


def test_errors_carry_their_exit_code_and_match_the_built_in_ones():
    assert issubclass(NoCertifiedTarget, SafetyHold)
    assert NoCertifiedTarget.exit_code == 6
    assert issubclass(UsageError, ValueError)
    assert SafeholdError.exit_code == 1


def test_a_configuration_is_frozen_and_refuses_the_unknown():
    class Toy(Config):
        rate: float = 0.5

    assert Toy(rate=0.25).to_json() == {"rate": 0.25}
    with pytest.raises(ValueError, match="extra"):
        Toy(speed=1)
    with pytest.raises(ValueError, match="finite"):
        Toy(rate=float("nan"))
    with pytest.raises(ValueError, match="frozen"):
        Toy().rate = 1.0


def test_a_trial_carries_why_it_was_allowed():
    certificate = Certificate(
        kind="paper",
        basis="premise",
        promise="",
        limits=(Limit("cost", 20.0),),
        risks={},
        upper=None,
        charge=0.0,
        spent_after=0.0,
        delta=0.05,
        shares={"certificate": 0.05},
        n_told=0,
        premises=("A7",),
        evidence=(),
    )
    trial = Trial(id="t", number=0, key=None, target=(1.0, 2.0), certificate=certificate, state=TrialState.PLANNED)
    assert trial.certificate.premises == ("A7",)
    assert trial.state == "planned"
