"""Worlds whose observations end with what a constraint has come to so far in the episode."""

from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int

from safehold.core.constraint import Constraint
from safehold.core.env import SafeEnvs, Stepped
from safehold.core.spec import TaskSpec


class Augmented:
    """Other worlds, with one more entry at the end of every observation: the constraint's running value, in cost units.

    What is still to come of a maximum depends on what it is already; a learner that is limited in it has to see both.

    Args:
        worlds: whose steps these are; closed with this object.
        constraint: its name is that of a cost of theirs.
    """

    def __init__(self, worlds: SafeEnvs, constraint: Constraint) -> None:
        self._worlds = worlds
        self._constraint = constraint
        spec = worlds.spec_of_task
        self._column = spec.cost_names.index(constraint.name)
        self._spec = replace(spec, observation_size=spec.observation_size + 1)
        self._running = constraint.start(len(worlds))

    @property
    def spec_of_task(self) -> TaskSpec:
        """That of the worlds, with an observation that is one entry longer."""
        return self._spec

    def __len__(self) -> int:
        """Number of worlds."""
        return len(self._worlds)

    def reset(self, row: int, *, seed: int) -> Float[np.ndarray, "o"]:
        """A fresh episode in one world."""
        self._running[row] = self._constraint.start(1)[0]
        return np.append(self._worlds.reset(row, seed=seed), np.float32(self._running[row]))

    def step(self, rows: Int[np.ndarray, "m"], actions: Float[np.ndarray, "m a"]) -> Stepped:
        """One step in each of these worlds."""
        stepped = self._worlds.step(rows, actions)
        self._running[rows] = self._constraint.step(self._running[rows], stepped.costs[:, self._column])
        seen = np.hstack([stepped.observations, self._running[rows][:, None]]).astype(np.float32)
        return replace(stepped, observations=seen)

    def close(self) -> None:
        """Closes the worlds."""
        self._worlds.close()
