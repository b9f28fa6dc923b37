"""The adapter: what may leave a world, and what a fault says."""

from typing import Any

import numpy as np
import pytest

from safehold.core.errors import EnvironmentFault, UsageError
from safehold.core.spec import Box, Discrete, TaskSpec
from safehold.envs.adapter import Adapter, Task, named_costs

HORIZON = 5
SPEC = TaskSpec(env_id="test/Scripted", observation_size=2, action=Box(low=(-1.0,), high=(1.0,)), horizon=HORIZON)
LAST = HORIZON - 1


class Scripted:
    """Healthy but for one step, at which it returns or raises what it was told; one buffer for all observations."""

    def __init__(self, at: int = -2, answer: Any = None, **changes: Any) -> None:
        self.at, self.answer, self.changes = at, answer, changes
        self.buffer = np.zeros(2)

    def reset(self, *, seed: int) -> tuple[Any, dict[str, Any]]:  # noqa: ARG002
        self.t = 0
        self.buffer[:] = 0
        if self.at == -1:
            if isinstance(self.answer, Exception):
                raise self.answer
            return self.answer, {}
        return self.buffer, {}

    def step(self, action: Any) -> Any:
        t, self.t = self.t, self.t + 1
        self.last_action = action
        self.buffer += 1
        five = {"observation": self.buffer, "reward": 1.0, "terminated": False, "truncated": False}
        info: Any = {"cost": 0.5}
        if t == self.at:
            if isinstance(self.answer, Exception):
                raise self.answer
            if self.answer is not None:
                return self.answer
            five |= self.changes
            info = five.pop("info", info)
        return (*five.values(), info)

    def close(self) -> None:
        self.closed = True


def run(env: Adapter, seed: int = 11) -> list[Any]:
    env.reset(seed=seed)
    steps = []
    while not steps or not (steps[-1][2] or steps[-1][3]):
        steps.append(env.step(np.zeros(1, dtype=np.float32)))
    return steps


@pytest.mark.parametrize("at", [0, 3, LAST])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": float("nan")}, "reward is float nan, expected a finite number"),
        ({"reward": float("inf")}, "reward is float inf"),
        ({"reward": None}, "reward is NoneType None"),
        ({"reward": np.zeros(1)}, "reward is ndarray"),
        ({"observation": np.array([0.0, np.nan])}, r"observation\[1\] is nan"),
        ({"observation": np.array([np.inf, 0.0])}, r"observation\[0\] is inf"),
        ({"observation": np.zeros(3)}, r"observation has shape \(3,\), expected \(2,\)"),
        ({"observation": np.zeros((1, 2))}, r"observation has shape \(1, 2\)"),
        ({"observation": {"position": 0.0}}, "step raised TypeError"),
        ({"observation": None}, "observation has shape"),
        (
            {"info": {}},
            "no cost: reading it from info raised KeyError: 'cost'.* a cost that is absent is not a cost of 0",
        ),
        ({"info": None}, "no cost"),
        ({"info": {"cost": None}}, "cost 'cost' is NoneType None, expected a finite number >= 0"),
        ({"info": {"cost": np.zeros(1)}}, r"cost 'cost' is ndarray array\(\[0.\]\)"),
        ({"info": {"cost": "0"}}, "cost 'cost' is str '0'"),
        ({"info": {"cost": float("nan")}}, "cost 'cost' is float nan"),
        ({"info": {"cost": np.float64("nan")}}, "cost 'cost' is float64"),
        ({"info": {"cost": float("inf")}}, "cost 'cost' is float inf"),
        ({"info": {"cost": -0.5}}, "cost 'cost' is float -0.5.* must be negated"),
        ({"terminated": None}, "terminated is NoneType None"),
        ({"truncated": 0}, "truncated is int 0, expected two booleans"),
    ],
)
def test_refuses_a_broken_step_and_says_where(at: int, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(EnvironmentFault, match=f"^test/Scripted, seed 11, step {at}: .*{message}"):
        run(Adapter(SPEC, Scripted(at, **changes)))


@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
def test_refuses_an_observation_that_float32_cannot_hold() -> None:
    with pytest.raises(EnvironmentFault, match=r"observation\[0\] is inf in float32"):
        run(Adapter(SPEC, Scripted(2, observation=np.array([1e39, 0.0]))))


def test_accepts_a_large_observation() -> None:
    steps = run(Adapter(SPEC, Scripted(2, observation=np.array([1e30, -1e30]))))
    np.testing.assert_array_equal(steps[2][0], np.array([1e30, -1e30], dtype=np.float32))


@pytest.mark.parametrize("at", [-1, 0, 3, LAST])
def test_a_crash_is_a_fault_that_names_its_place_and_cause(at: int) -> None:
    place = "reset" if at < 0 else f"step {at}"
    env = Adapter(SPEC, Scripted(at, OSError("the cable fell out")))
    with pytest.raises(EnvironmentFault, match=f"seed 11, {place}: .*OSError: the cable fell out") as caught:
        run(env)
    assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(UsageError, match="call reset"):
        env.step(np.zeros(1, dtype=np.float32))


def test_a_four_tuple_is_a_fault() -> None:
    with pytest.raises(EnvironmentFault, match="step 1: step raised ValueError"):
        run(Adapter(SPEC, Scripted(1, (np.zeros(2), 0.0, False, {"cost": 0.0}))))


@pytest.mark.parametrize(
    ("first", "message"), [(np.zeros(3), "shape"), (np.array([np.nan, 0.0]), "nan"), ({}, "TypeError")]
)
def test_refuses_a_broken_first_observation(first: Any, message: str) -> None:
    with pytest.raises(EnvironmentFault, match=f"seed 11, reset: .*{message}"):
        Adapter(SPEC, Scripted(-1, first)).reset(seed=11)


def test_copies_a_reused_observation_buffer() -> None:
    steps = run(Adapter(SPEC, Scripted()))
    np.testing.assert_array_equal(
        [step[0] for step in steps], np.repeat(np.arange(1.0, HORIZON + 1)[:, None], 2, axis=1)
    )


def test_the_clock_truncates_at_the_horizon() -> None:
    steps = run(Adapter(SPEC, Scripted()))
    assert [step[2:4] for step in steps] == [(False, False)] * LAST + [(False, True)]


def test_an_end_of_the_task_on_the_last_step_is_no_truncation() -> None:
    steps = run(Adapter(SPEC, Scripted(LAST, terminated=True)))
    assert len(steps) == HORIZON
    assert steps[-1][2:4] == (True, False)


def test_a_world_that_reports_both_ends_has_terminated() -> None:
    steps = run(Adapter(SPEC, Scripted(1, terminated=np.True_, truncated=np.True_)))
    assert len(steps) == 2
    assert steps[-1][2:4] == (True, False)


def test_a_world_may_call_time_before_the_horizon() -> None:
    assert run(Adapter(SPEC, Scripted(1, truncated=True)))[-1][2:4] == (False, True)


def test_no_step_before_a_reset_or_after_the_end() -> None:
    env, action = Adapter(SPEC, Scripted()), np.zeros(1, dtype=np.float32)
    with pytest.raises(UsageError, match="test/Scripted: step without a running episode"):
        env.step(action)
    run(env)
    with pytest.raises(UsageError, match="call reset"):
        env.step(action)


def test_numbers_of_any_kind_leave_as_floats() -> None:
    steps = run(Adapter(SPEC, Scripted(1, reward=np.int64(2), info={"cost": np.True_})))
    assert (steps[1][1], steps[1][4]["cost"]) == (2.0, 1.0)
    assert {type(steps[1][1]), type(steps[1][4]["cost"])} == {float}
    assert steps[1][0].dtype == np.float32


def test_a_cost_can_come_from_elsewhere_in_info() -> None:
    env = Adapter(SPEC, Scripted(1, info={"cost_sum": 3.0}), cost=lambda info: info.get("cost_sum", 0.0))
    assert [step[4]["cost"] for step in run(env)] == [0.0, 3.0, 0.0, 0.0, 0.0]


TWO_COSTS = TaskSpec(
    env_id="test/Two",
    observation_size=2,
    action=SPEC.action,
    horizon=1,
    cost_names=("heat", "cost"),
    cost_units=("K", "N"),
)


def test_named_costs_stand_in_the_order_of_the_spec() -> None:
    steps = run(Adapter(TWO_COSTS, Scripted(0, info={"cost": 1.0, "costs": {"heat": 2, "noise": -1}})))
    assert named_costs(steps[0][4], TWO_COSTS) == [2.0, 1.0]


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"cost": 1.0}, r'info\["costs"\] is NoneType None'),
        ({"cost": 1.0, "costs": {"noise": 0.0}}, "no cost 'heat'"),
        ({"cost": 1.0, "costs": {"heat": float("nan")}}, "cost 'heat' is float nan"),
        ({"costs": {"heat": 1.0}}, "no cost"),
    ],
)
def test_a_named_cost_that_is_missing_or_broken_is_a_fault(info: dict[str, Any], message: str) -> None:
    with pytest.raises(EnvironmentFault, match=f"test/Two, seed 11, step 0: .*{message}"):
        run(Adapter(TWO_COSTS, Scripted(0, info=info)))


def test_a_discrete_action_arrives_as_an_int() -> None:
    world = Scripted()
    spec = TaskSpec(env_id="test/Discrete", observation_size=2, action=Discrete(3), horizon=1)
    env = Task(spec=spec, world=lambda: world).make()
    env.reset(seed=0)
    env.step(np.array([2.0], dtype=np.float32))
    assert world.last_action == 2
    assert isinstance(world.last_action, int)


def test_closing_reaches_the_world() -> None:
    world = Scripted()
    Adapter(SPEC, world).close()
    assert world.closed
