"""Worlds that reward moving about instead of a task: where a guide learns to explore."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int

from safehold.core.env import PlacedEnvs, Stepped
from safehold.core.errors import EnvironmentFault
from safehold.core.spec import TaskSpec

Distance = Callable[[Float[np.ndarray, "m two"], Float[np.ndarray, "m two"]], Float[np.ndarray, "m"]]
"""What a step from the first positions to the second is worth, a reward each."""


def displacement(before: Float[np.ndarray, "m two"], after: Float[np.ndarray, "m two"]) -> Float[np.ndarray, "m"]:
    """Metres covered as the crow flies.   [SaGui, r_delta = ||xy_{t+1} - xy_t||]."""
    return np.sqrt(np.square(after - before).sum(axis=1))


def nothing(before: Float[np.ndarray, "m two"], after: Float[np.ndarray, "m two"]) -> Float[np.ndarray, "m"]:  # noqa: ARG001
    """No reward: what is left to learn from is entropy.   [SaGui's ablation MAXENT]."""
    return np.zeros(len(before))


DISTANCES: Mapping[str, Distance] = {"displacement": displacement, "none": nothing}
"""The distances that have a name."""


class Roaming:
    """Other worlds, whose rewards are the distances that robots cover, and which end where a robot leaves the arena.

    A step that ends outside earns nothing, and nothing follows it.   Unlike [SaGui's code], where the step after that
    one ends the episode.

    Args:
        worlds: whose steps these are; closed with this object.
        distance: between the positions before and after a step.
        arena: half the width of the square around the origin that robots are to stay in, in metres; None for no bound.
    """

    def __init__(self, worlds: PlacedEnvs, distance: Distance, arena: float | None) -> None:
        self._worlds = worlds
        self._distance = distance
        self._arena = np.inf if arena is None else arena
        self._before = np.zeros((len(worlds), 2))

    @property
    def spec_of_task(self) -> TaskSpec:
        """That of the worlds."""
        return self._worlds.spec_of_task

    def __len__(self) -> int:
        """Number of worlds."""
        return len(self._worlds)

    def reset(self, row: int, *, seed: int) -> Float[np.ndarray, "o"]:
        """A fresh episode in one world."""
        observation = self._worlds.reset(row, seed=seed)
        self._before[row] = self.positions(np.array([row]))[0]
        return observation

    def step(self, rows: Int[np.ndarray, "m"], actions: Float[np.ndarray, "m a"]) -> Stepped:
        """One step in each of these worlds.

        Raises:
            EnvironmentFault: if a robot is nowhere.
        """
        stepped = self._worlds.step(rows, actions)
        after = self.positions(rows)
        outside = (np.abs(after) > self._arena).any(axis=1)
        rewards = np.where(outside, 0.0, self._distance(self._before[rows], after))
        self._before[rows] = after
        return replace(
            stepped,
            rewards=rewards,
            terminated=stepped.terminated | outside,
            truncated=stepped.truncated & ~outside,
        )

    def positions(self, rows: Int[np.ndarray, "m"]) -> Float[np.ndarray, "m two"]:
        """Where the robots of these worlds are, in metres."""
        found = self._worlds.positions(rows)
        if not np.isfinite(found).all():
            raise EnvironmentFault(
                f"{self.spec_of_task.env_id}: a robot is at {found.tolist()}; repair the environment"
            )
        return found

    def close(self) -> None:
        """Closes the worlds."""
        self._worlds.close()
