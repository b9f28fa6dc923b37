"""Worlds that step together: the same checks and the same clock, one after another or at once."""

import numpy as np
import pytest

from safehold.core.env import SafeEnvs
from safehold.core.errors import EnvironmentFault, UsageError
from safehold.core.spec import Box, TaskSpec
from safehold.envs import registry
from safehold.envs.lockstep import AtOnce, InTurn

SPEC = TaskSpec(env_id="test/Array", observation_size=2, action=Box((-1.0,), (1.0,)), horizon=3)
ROWS = np.arange(2)
ACTIONS = np.zeros((2, 1), np.float32)


class Scripted:
    """Healthy, but for what it is told to return."""

    def __init__(self, **answers: np.ndarray) -> None:
        self.answers = answers

    def reset(self, row: int, *, seed: int) -> np.ndarray:  # noqa: ARG002
        return self.answers.get("first", np.zeros(2))

    def step(self, rows: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, ...]:  # noqa: ARG002
        m = len(rows)
        healthy = {
            "observations": np.zeros((m, 2)),
            "rewards": np.ones(m),
            "costs": np.full((m, 1), 0.5),
            "terminated": np.zeros(m, np.bool_),
        }
        return tuple((healthy | self.answers)[name] for name in healthy)


def worlds(**answers: np.ndarray) -> AtOnce:
    at_once = AtOnce(SPEC, Scripted(**answers), 2)
    if "first" not in answers:
        for row in range(2):
            at_once.reset(row, seed=40 + row)
    return at_once


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ({"costs": np.array([[0.5], [np.nan]])}, r"row 1, seed 41, step 0: costs are \[nan\]"),
        ({"costs": np.array([[-0.5], [0.0]])}, r"row 0, seed 40, step 0: costs are \[-0.5\], expected .* >= 0"),
        ({"costs": np.array([[0.5], [np.inf]])}, "row 1"),
        ({"costs": np.zeros((2, 2))}, r"costs of 2 worlds have shape \(2, 2\), expected \(2, 1\)"),
        ({"rewards": np.array([np.nan, 0.0])}, "row 0, seed 40, step 0: rewards"),
        ({"observations": np.array([[0.0, 0.0], [0.0, 1e39]])}, "row 1, seed 41, step 0: observations"),
    ],
)
def test_what_is_no_number_is_a_fault_that_names_the_row(answers, why):
    with np.errstate(over="ignore"), pytest.raises(EnvironmentFault, match=why):
        worlds(**answers).step(ROWS, ACTIONS)


def test_a_first_observation_that_is_not_finite_is_a_fault():
    with pytest.raises(EnvironmentFault, match="seed 9, step 0: observations"):
        worlds(first=np.array([0.0, np.nan])).reset(1, seed=9)


def test_the_clock_and_the_task_end_episodes_and_an_ended_one_cannot_go_on():
    at_once = worlds(terminated=np.array([True, False]))
    stepped = at_once.step(ROWS, ACTIONS)
    assert (stepped.terminated.tolist(), stepped.truncated.tolist()) == ([True, False], [False, False])
    with pytest.raises(UsageError, match="step of row 0 without a running episode"):
        at_once.step(ROWS, ACTIONS)
    patient = worlds()
    truncated = [patient.step(ROWS, ACTIONS).truncated.tolist() for _ in range(3)]
    assert truncated == [[False, False], [False, False], [True, True]]


def test_both_kinds_keep_the_protocol_and_at_least_one_world_is_needed():
    for env_id, kind in (("toy/PointRobot", AtOnce), ("toy/PointHazard", InTurn)):
        many = registry.make_many(env_id, 2)
        assert isinstance(many, kind)
        assert isinstance(many, SafeEnvs)
        assert len(many) == 2
        assert many.spec_of_task == registry.spec(env_id)
        many.close()
    with pytest.raises(UsageError, match="at least one"):
        registry.make_many("toy/PointRobot", 0)
