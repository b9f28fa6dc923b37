"""Tells the author of an environment what is wrong with it, in sentences."""

import random
from dataclasses import dataclass
from typing import Any

import numpy as np

from safehold.core.env import SafeEnv
from safehold.core.errors import EnvironmentFault
from safehold.core.spec import Box, Discrete, TaskSpec
from safehold.envs.adapter import Adapter, Task, World
from safehold.envs.registry import task


def check_env(env_id: str, *, seed: int = 0) -> list[str]:
    """What is wrong with a registered environment; empty if nothing was found.

    Raises:
        UsageError: if nothing has this name, or its suite's package is not installed.
    """
    return check_task(task(env_id), seed=seed)


def check_task(task: Task, *, seed: int = 0) -> list[str]:
    """What is wrong with a world that need not be registered yet; empty if nothing was found.

    Runs whole episodes of random actions. Looked at: the contract that `Adapter` enforces at every step, spaces that
    agree with the spec, episodes that depend on the reset seed and on nothing else, and the horizon.
    """
    spec, actions = task.spec, _random_actions(task.spec, np.random.default_rng(seed))
    findings = _spaces(task)
    used, watched = task.make(), _Watched(task.world())
    fresh = Adapter(spec, watched, task.cost)
    try:
        first = _episode(used, seed, actions)
        other = _episode(used, seed + 1, actions)
        again = _episode(used, seed, actions)
        untouched = _episode(fresh, seed, actions)
    except EnvironmentFault as fault:
        return [*findings, str(fault)]
    finally:
        used.close()
        fresh.close()
    findings += _reproducibility(spec, first, other, again, untouched, seed)
    if watched.moved_a_global_generator:
        findings.append(
            f"{spec.env_id}: draws from a global generator (numpy.random or random), which other code shifts; "
            "draw from a generator that reset(seed=...) makes"
        )
    return findings + _ending(spec, first)


class _Watched:
    """A world whose every call is checked for draws from NumPy's or Python's global generator."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.moved_a_global_generator = False

    def reset(self, *, seed: int) -> tuple[Any, dict[str, Any]]:
        before = _global_state()
        answer = self._world.reset(seed=seed)
        self.moved_a_global_generator |= _global_state() != before
        return answer

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        before = _global_state()
        answer = self._world.step(action)
        self.moved_a_global_generator |= _global_state() != before
        return answer

    def close(self) -> None:
        self._world.close()


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What one episode showed."""

    observations: np.ndarray
    rewards: np.ndarray
    costs: np.ndarray
    terminated: bool

    def differs_from(self, other: "_Outcome") -> bool:
        return not all(
            np.array_equal(mine, theirs)
            for mine, theirs in (
                (self.observations, other.observations),
                (self.rewards, other.rewards),
                (self.costs, other.costs),
            )
        )


def _episode(env: SafeEnv, seed: int, actions: np.ndarray) -> _Outcome:
    observation, _ = env.reset(seed=seed)
    observations, rewards, costs = [observation], [], []
    terminated = False
    for action in actions:
        observation, reward, terminated, truncated, info = env.step(action)
        observations.append(observation)
        rewards.append(reward)
        costs.append(info["cost"])
        if terminated or truncated:
            break
    return _Outcome(np.array(observations), np.array(rewards), np.array(costs), terminated)


def _reproducibility(
    spec: TaskSpec, first: _Outcome, other: _Outcome, again: _Outcome, untouched: _Outcome, seed: int
) -> list[str]:
    findings = []
    if first.differs_from(untouched):
        findings.append(
            f"{spec.env_id}: two fresh worlds give different episodes for the reset seed {seed} and the same actions; "
            "every random draw must come from a generator that reset(seed=...) makes"
        )
    elif again.differs_from(untouched):
        findings.append(
            f"{spec.env_id}: a used world and a fresh one give different episodes for the reset seed {seed} and the "
            "same actions; reset must clear everything that an episode leaves behind"
        )
    if not first.differs_from(other):
        findings.append(
            f"{spec.env_id}: the reset seeds {seed} and {seed + 1} give the same episode; either reset ignores its "
            "seed, or the world is deterministic and a second episode of a policy is no new evidence"
        )
    return findings


def _ending(spec: TaskSpec, first: _Outcome) -> list[str]:
    steps = len(first.rewards)
    if not first.terminated and steps < spec.horizon:
        return [
            f"{spec.env_id}: truncated itself after {steps} steps, the spec's horizon is {spec.horizon}; "
            "say in the spec how long an episode is"
        ]
    return []


def _spaces(task: Task) -> list[str]:
    """Disagreements of the world's own Gymnasium spaces, where it has them, with the spec."""
    spec, world = task.spec, task.world()
    findings = [*_observation_space(spec, world), *_action_space(spec, world)]
    world.close()
    return findings


def _observation_space(spec: TaskSpec, world: World) -> list[str]:
    shape = getattr(getattr(world, "observation_space", None), "shape", None)
    if shape in (None, (spec.observation_size,)):
        return []
    return [f"{spec.env_id}: its observation space has shape {shape}, the spec says {(spec.observation_size,)}"]


def _action_space(spec: TaskSpec, world: World) -> list[str]:
    space: Any = getattr(world, "action_space", None)
    if space is None:
        return []
    if isinstance(spec.action, Discrete):
        if getattr(space, "n", None) == spec.action.n and getattr(space, "start", 0) == 0:
            return []
        return [f"{spec.env_id}: its action space is {space}, the spec says 0 to {spec.action.n - 1}"]
    if (
        getattr(space, "shape", None) == (spec.action.size,)
        and np.array_equal(space.low, np.array(spec.action.low, dtype=space.low.dtype))
        and np.array_equal(space.high, np.array(spec.action.high, dtype=space.high.dtype))
    ):
        return []
    return [f"{spec.env_id}: its action space is {space}, the spec says {spec.action.low} to {spec.action.high}"]


def _random_actions(spec: TaskSpec, rng: np.random.Generator) -> np.ndarray:
    if isinstance(spec.action, Box):
        return rng.uniform(spec.action.low, spec.action.high, (spec.horizon, spec.action.size)).astype(np.float32)
    return rng.integers(spec.action.n, size=(spec.horizon, 1)).astype(np.float32)


def _global_state() -> tuple[object, ...]:
    numpy_state = np.random.get_state(legacy=False)["state"]  # noqa: NPY002  (looked at, not drawn from)
    return (random.getstate(), numpy_state["key"].tobytes(), numpy_state["pos"])
