"""Many worlds of one task that step together: one after another, or all in one array step, behind the same checks."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from safehold.core.env import PlacedEnvs, SafeEnv, Stepped
from safehold.core.errors import EnvironmentFault, UsageError
from safehold.core.spec import TaskSpec
from safehold.envs.adapter import ArrayWorld, PlacedWorld, Task, named_costs


def make_many(task: Task, n: int) -> PlacedEnvs:
    """Worlds of a task that step together, in arrays if it has such a form.

    Raises:
        UsageError: if n is below 1, or the task's suite is not installed.
    """
    if n < 1:
        raise UsageError(f"{task.spec.env_id}: {n} worlds were asked for; at least one is needed")
    if task.worlds is not None:
        return AtOnce(task.spec, task.worlds(n), n)
    return InTurn([task.make() for _ in range(n)])


class InTurn:
    """Worlds that are stepped one after another, in this process.

    Args:
        environments: worlds of one task; closed with this object.
    """

    def __init__(self, environments: Sequence[SafeEnv]) -> None:
        if not environments:
            raise UsageError("no environments: worlds that step together are at least one")
        self._environments = tuple(environments)
        self._spec = environments[0].spec_of_task
        self._infos: list[Mapping[str, Any]] = [{} for _ in environments]

    @property
    def spec_of_task(self) -> TaskSpec:
        """Sizes, bounds, horizon, cost names and units."""
        return self._spec

    def __len__(self) -> int:
        """Number of worlds."""
        return len(self._environments)

    def reset(self, row: int, *, seed: int) -> Float[np.ndarray, "o"]:
        """A fresh episode in one world."""
        observation, self._infos[row] = self._environments[row].reset(seed=seed)
        return observation

    def step(self, rows: Int[np.ndarray, "m"], actions: Float[np.ndarray, "m a"]) -> Stepped:
        """One step in each of these worlds."""
        m, spec = len(rows), self._spec
        observations = np.empty((m, spec.observation_size), dtype=np.float32)
        rewards, costs = np.empty(m), np.empty((m, len(spec.cost_names)))
        terminated, truncated = np.empty(m, dtype=np.bool_), np.empty(m, dtype=np.bool_)
        for place, row in enumerate(rows):
            environment = self._environments[row]
            observations[place], rewards[place], terminated[place], truncated[place], info = environment.step(
                actions[place]
            )
            costs[place], self._infos[row] = named_costs(info, spec), info
        return Stepped(observations, rewards, costs, terminated, truncated)

    def positions(self, rows: Int[np.ndarray, "m"]) -> Float[np.ndarray, "m two"]:
        """Where the robots of these worlds are: `info["position"]` of their last step or reset, in metres.

        Raises:
            UsageError: if these worlds do not say where their robots are.
        """
        if any("position" not in self._infos[row] for row in rows):
            raise UsageError(
                f'{self._spec.env_id}: no info["position"]; a distance between positions needs worlds that give it at '
                "every reset and step"
            )
        return np.array([self._infos[row]["position"] for row in rows], dtype=np.float64)

    def close(self) -> None:
        """Closes all worlds."""
        for environment in self._environments:
            environment.close()


class AtOnce:
    """Worlds in arrays behind the checks of `Adapter`; owns their time limits.

    Raises:
        EnvironmentFault: naming the environment, the row, its reset seed and the step, for a shape that is not the
            spec's, a cost that is not finite and >= 0, or a reward or observation that is not finite.
    """

    def __init__(self, spec: TaskSpec, worlds: ArrayWorld, n: int) -> None:
        self._spec = spec
        self._worlds = worlds
        self._seeds = [-1] * n
        self._steps = np.zeros(n, dtype=np.int64)
        self._running = np.zeros(n, dtype=np.bool_)

    @property
    def spec_of_task(self) -> TaskSpec:
        """Sizes, bounds, horizon, cost names and units."""
        return self._spec

    def __len__(self) -> int:
        """Number of worlds."""
        return len(self._seeds)

    def reset(self, row: int, *, seed: int) -> Float[np.ndarray, "o"]:
        """A fresh episode in one row."""
        self._seeds[row], self._steps[row], self._running[row] = seed, 0, False
        observation = self._worlds.reset(row, seed=seed).astype(np.float32)
        self._check("observations", observation[None], (1, self._spec.observation_size), np.array([row]))
        self._running[row] = True
        return observation

    def step(self, rows: Int[np.ndarray, "m"], actions: Float[np.ndarray, "m a"]) -> Stepped:
        """One step in each of these rows."""
        if not self._running[rows].all():
            row = int(rows[np.argmin(self._running[rows])])
            raise UsageError(f"{self._spec.env_id}: step of row {row} without a running episode; reset it first")
        self._running[rows] = False
        raw, rewards, costs, terminated = self._worlds.step(rows, actions)
        observations, m = raw.astype(np.float32), len(rows)
        self._check("observations", observations, (m, self._spec.observation_size), rows)
        self._check("rewards", rewards, (m,), rows)
        self._check("costs", costs, (m, len(self._spec.cost_names)), rows)
        if (costs < 0).any():
            self._fault("costs", costs, int(np.argmax((costs < 0).any(axis=1))), rows)
        self._steps[rows] += 1
        truncated = (self._steps[rows] >= self._spec.horizon) & ~terminated
        self._running[rows] = ~(terminated | truncated)
        return Stepped(observations, rewards.astype(np.float64), costs.astype(np.float64), terminated, truncated)

    def positions(self, rows: Int[np.ndarray, "m"]) -> Float[np.ndarray, "m two"]:
        """Where the robots of these rows are, in metres.

        Raises:
            UsageError: if these worlds do not say where their robots are.
        """
        if not isinstance(self._worlds, PlacedWorld):
            raise UsageError(f"{self._spec.env_id}: these worlds do not say where their robots are")
        return self._worlds.positions(rows)

    def close(self) -> None:
        """Holds nothing."""

    def _check(self, what: str, values: np.ndarray, shape: tuple[int, ...], rows: Int[np.ndarray, "m"]) -> None:
        """Refuses another shape, and what is not finite."""
        if values.shape != shape:
            raise EnvironmentFault(
                f"{self._spec.env_id}: {what} of {len(rows)} worlds have shape {values.shape}, expected {shape}; "
                "repair the environment"
            )
        if not np.isfinite(values).all():
            self._fault(what, values, int(np.argmin(np.isfinite(values).reshape(len(rows), -1).all(axis=1))), rows)

    def _fault(self, what: str, values: np.ndarray, place: int, rows: Int[np.ndarray, "m"]) -> None:
        row = int(rows[place])
        bound = " >= 0" if what == "costs" else ""
        raise EnvironmentFault(
            f"{self._spec.env_id}, row {row}, seed {self._seeds[row]}, step {self._steps[row]}: {what} are "
            f"{values[place].tolist()}, expected finite numbers{bound}; repair the environment, a number that is "
            "missing is not 0"
        )
