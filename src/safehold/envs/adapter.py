"""Adapts a Gymnasium environment: every number that leaves it is checked, and a fault says where and what to do."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from safehold.core.env import SafeEnv
from safehold.core.errors import EnvironmentFault, UsageError
from safehold.core.spec import Discrete, TaskSpec

_NUMBERS = (float, int, np.floating, np.integer, np.bool_)
_FLAGS = (bool, np.bool_)
_NO_COST = "put every named cost into the info of every step; a cost that is absent is not a cost of 0"


@runtime_checkable
class World(Protocol):
    """What is adapted: Gymnasium's calls, nothing checked. Actions are float32 arrays, or an int if discrete."""

    def reset(self, *, seed: int) -> tuple[Any, dict[str, Any]]:
        """First observation and info."""
        ...

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Observation, reward, terminated, truncated, info."""
        ...

    def close(self) -> None:
        """Releases what the world holds."""
        ...


@runtime_checkable
class ArrayWorld(Protocol):
    """Many worlds in arrays, nothing checked: row i is one world. Time limits are not its business."""

    def reset(self, row: int, *, seed: int) -> Float[np.ndarray, "o"]:
        """First observation of a fresh episode in one row."""
        ...

    def step(
        self, rows: Int[np.ndarray, "m"], actions: Float[np.ndarray, "m a"]
    ) -> tuple[Float[np.ndarray, "m o"], Float[np.ndarray, "m"], Float[np.ndarray, "m k"], Bool[np.ndarray, "m"]]:
        """Observations, rewards, costs in the order of the task's cost names, and where the task ended."""
        ...


@runtime_checkable
class PlacedWorld(Protocol):
    """Of array worlds whose robots are somewhere; others give `info["position"]` at every reset and step."""

    def positions(self, rows: Int[np.ndarray, "m"]) -> Float[np.ndarray, "m two"]:
        """Where the robots of these rows are, in metres."""
        ...


CostSource = Callable[[Mapping[str, Any]], object]
"""Where the cost of a step comes from: a function of the step's info."""


def cost_in_info(info: Mapping[str, Any]) -> object:
    """`info["cost"]`: what Gymnasium-style safe environments agree on."""
    return info["cost"]


def named_costs(info: Mapping[str, Any], spec: TaskSpec) -> list[float]:
    """One step's costs in the order of `spec.cost_names`, from an info that an `Adapter` has checked.

    The name "cost" is `info["cost"]`; every other name is read from `info["costs"]`.
    """
    return [info["cost"] if name == "cost" else info["costs"][name] for name in spec.cost_names]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A registered world: what it is, how to build it, and where its cost comes from.

    `worlds` builds any number of them in arrays, for those that have such a form; the same episodes, bit for bit.
    `parts` names the entries of an observation, for tasks whose observations others share parts of.
    """

    spec: TaskSpec
    world: Callable[[], World]
    cost: CostSource = cost_in_info
    worlds: Callable[[int], ArrayWorld] | None = None
    parts: Mapping[str, slice] = field(default_factory=dict, hash=False)

    def make(self) -> SafeEnv:
        """A world of this task behind the checks of `Adapter`."""
        return Adapter(self.spec, self.world(), self.cost)


class Adapter:
    """One world behind checks; owns the time limit.

    Observations leave it as fresh float32 arrays (a world may reuse its buffer). `terminated` and `truncated`
    exclude each other: an episode whose task ends on the very step on which its clock runs out is terminated.

    Raises:
        EnvironmentFault: naming the environment, the reset seed and the step, whenever the world raises or hands
            out a missing, non-finite or negative cost, a non-finite reward or observation, or a wrong shape.
    """

    def __init__(self, spec: TaskSpec, world: World, cost: CostSource = cost_in_info) -> None:
        self._spec = spec
        self._world = world
        self._cost = cost
        self._horizon = spec.horizon
        self._shape = (spec.observation_size,)
        self._discrete = isinstance(spec.action, Discrete)
        self._extra_costs = tuple(name for name in spec.cost_names if name != "cost")
        self._seed: int | None = None
        self._step = 0
        self._running = False

    @property
    def spec_of_task(self) -> TaskSpec:
        """Sizes, bounds, horizon, cost names and units."""
        return self._spec

    @property
    def world(self) -> World:
        """The world itself, unchecked."""
        return self._world

    def reset(self, *, seed: int) -> tuple[Float[np.ndarray, "o"], dict[str, Any]]:
        """A fresh episode; the same seed gives the same episode, whatever ran before."""
        self._seed, self._step, self._running = seed, -1, False
        try:
            raw, info = self._world.reset(seed=seed)
            observation = np.array(raw, dtype=np.float32)
        except Exception as error:
            self._fault(f"reset raised {type(error).__name__}: {error}", "repair the environment", error)
        self._check_observation(observation)
        self._step, self._running = 0, True
        return observation, dict(info)

    def step(self, action: Float[np.ndarray, "a"]) -> tuple[Float[np.ndarray, "o"], float, bool, bool, dict[str, Any]]:
        """One step; `info["cost"]` is a checked float, and so is every other named cost in `info["costs"]`."""
        if not self._running:
            raise UsageError(f"{self._spec.env_id}: step without a running episode; call reset(seed=...) first")
        self._running = False
        try:
            raw, reward, terminated, truncated, raw_info = self._world.step(
                int(action[0]) if self._discrete else np.asarray(action, dtype=np.float32)
            )
            observation = np.array(raw, dtype=np.float32)  # a copy: worlds reuse their buffers
        except Exception as error:
            self._fault(f"step raised {type(error).__name__}: {error}", "repair the environment", error)
        try:
            cost = self._cost(raw_info)
        except Exception as error:
            self._fault(f"no cost: reading it from info raised {type(error).__name__}: {error}", _NO_COST, error)
        # `all` over a list takes half the time of the array's own at these sizes
        if observation.shape != self._shape or not all(np.isfinite(observation).tolist()):
            self._check_observation(observation)
        if not (isinstance(reward, _NUMBERS) and math.isfinite(reward)):
            self._fault(f"reward is {_shown(reward)}, expected a finite number", "repair the reward")
        if not (isinstance(terminated, _FLAGS) and isinstance(truncated, _FLAGS)):
            self._fault(
                f"terminated is {_shown(terminated)} and truncated is {_shown(truncated)}, expected two booleans",
                "return Gymnasium's five values (observation, reward, terminated, truncated, info)",
            )
        info = {**raw_info, "cost": self._checked_cost("cost", cost)}
        if self._extra_costs:
            info["costs"] = self._checked_costs(raw_info)
        self._step += 1
        out_of_time = bool(truncated) or self._step >= self._horizon
        self._running = not (bool(terminated) or out_of_time)
        return observation, float(reward), bool(terminated), out_of_time and not bool(terminated), info

    def close(self) -> None:
        """Closes the world."""
        self._world.close()

    def _check_observation(self, observation: np.ndarray) -> None:
        if observation.shape != self._shape:
            self._fault(
                f"observation has shape {observation.shape}, expected {self._shape}",
                "flatten it to the one vector that the task's spec promises",
            )
        finite = np.isfinite(observation)
        if not finite.all():
            place = int(np.argmin(finite))
            self._fault(
                f"observation[{place}] is {observation[place]} in float32, expected a finite number",
                "find out why the simulation diverged (too large a time step, an impossible action)",
            )

    def _checked_cost(self, name: str, cost: object) -> float:
        if isinstance(cost, _NUMBERS) and 0 <= cost < math.inf:
            return float(cost)
        self._fault(
            f"cost {name!r} is {_shown(cost)}, expected a finite number >= 0",
            "give the cost of every step as one number; a penalty written as a negative number must be negated",
        )

    def _checked_costs(self, info: Mapping[str, Any]) -> dict[str, float]:
        named = info.get("costs")
        if not isinstance(named, Mapping):
            self._fault(f'info["costs"] is {_shown(named)}, expected a mapping from name to cost', _NO_COST)
        missing = [name for name in self._extra_costs if name not in named]
        if missing:
            self._fault(f'no cost {missing[0]!r} in info["costs"]', _NO_COST)
        return {name: self._checked_cost(name, named[name]) for name in self._extra_costs}

    def _fault(self, what: str, remedy: str, error: Exception | None = None) -> NoReturn:
        place = "reset" if self._step < 0 else f"step {self._step}"
        raise EnvironmentFault(f"{self._spec.env_id}, seed {self._seed}, {place}: {what}; {remedy}") from error


def _shown(value: object) -> str:
    """A value as an error message shows it: its type, and its content if short."""
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 40 else text[:37] + '...'}"
