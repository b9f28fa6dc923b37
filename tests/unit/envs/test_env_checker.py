"""check_env: every sin is told in a sentence."""

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from safehold.core.errors import UsageError
from safehold.core.spec import Box, Discrete, TaskSpec
from safehold.envs.adapter import Task
from safehold.envs.checker import check_env, check_task

SPEC = TaskSpec(env_id="test/Sinner", observation_size=1, action=Box(low=(-1.0,), high=(1.0,)), horizon=6)


class Honest:
    """A random walk from the reset seed."""

    def reset(self, *, seed: int) -> tuple[Any, dict[str, Any]]:
        self.rng = np.random.default_rng(seed)
        self.x = self.rng.random()
        return np.array([self.x]), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.x += float(np.ravel(action)[0]) + self.rng.random()
        return np.array([self.x]), self.x, False, False, {"cost": abs(self.x)}

    def close(self) -> None: ...


class Deaf(Honest):
    def reset(self, *, seed: int) -> tuple[Any, dict[str, Any]]:  # noqa: ARG002
        return super().reset(seed=0)


class Unseeded(Honest):
    def reset(self, *, seed: int) -> tuple[Any, dict[str, Any]]:  # noqa: ARG002
        return super().reset(seed=int(np.random.default_rng().integers(2**31)))


class NumpyGlobal(Honest):
    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        np.random.random()  # noqa: NPY002
        return super().step(action)


class PythonGlobal(Honest):
    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        random.random()
        return super().step(action)


class Leaking(Honest):
    episodes = 0

    def reset(self, *, seed: int) -> tuple[Any, dict[str, Any]]:
        observation, info = super().reset(seed=seed)
        self.episodes += 1
        self.x += 0.1 * self.episodes
        return observation, info


class Hasty(Honest):
    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.steps = getattr(self, "steps", 0) + 1
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward, terminated, self.steps % 4 == 0, info


class Costless(Honest):
    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        return (*super().step(action)[:4], {})


class Wide(Honest):
    observation_space = spaces.Box(-1, 1, (3,))
    action_space = spaces.Box(-2, 2, (1,))


class WellMeasured(Honest):
    observation_space = spaces.Box(-1, 1, (1,))
    action_space = spaces.Box(-1, 1, (1,))


def task(world: type[Honest]) -> Task:
    return Task(spec=SPEC, world=world)


@pytest.mark.parametrize("world", [Honest, WellMeasured])
def test_an_honest_world_has_no_findings(world: type[Honest]) -> None:
    assert check_task(task(world)) == []


@pytest.mark.parametrize(
    ("world", "sentence"),
    [
        (Deaf, "the reset seeds 0 and 1 give the same episode"),
        (Unseeded, "two fresh worlds give different episodes"),
        (Leaking, "a used world and a fresh one give different episodes"),
        (NumpyGlobal, "draws from a global generator"),
        (PythonGlobal, "draws from a global generator"),
        (Hasty, "truncated itself after 4 steps, the spec's horizon is 6"),
        (Costless, "seed 0, step 0: no cost"),
        (Wide, "its observation space has shape (3,), the spec says (1,)"),
        (Wide, "its action space is Box(-2.0, 2.0, (1,), float32), the spec says (-1.0,) to (1.0,)"),
    ],
)
def test_every_sin_is_told(world: type[Honest], sentence: str) -> None:
    findings = check_task(task(world))
    assert any(finding.startswith("test/Sinner") and sentence in finding for finding in findings), findings


def test_discrete_spaces_are_compared_by_their_size() -> None:
    class Buttons(Honest):
        action_space = spaces.Discrete(3)

    spec = replace(SPEC, action=Discrete(3))
    assert check_task(Task(spec=spec, world=Buttons)) == []
    wrong = check_task(Task(spec=replace(SPEC, action=Discrete(2)), world=Buttons))
    assert wrong == ["test/Sinner: its action space is Discrete(3), the spec says 0 to 1"]


def test_checks_by_name() -> None:
    assert check_env("toy/Dial") == []
    with pytest.raises(UsageError, match="nearest name is 'toy/Dial'"):
        check_env("toy/Dail")
