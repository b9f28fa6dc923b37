"""The environment contract: Gymnasium's five-tuple, plus `info["cost"]` and named costs; and many worlds at once."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from safehold.core.spec import TaskSpec


@runtime_checkable
class SafeEnv(Protocol):
    """One world. `info["cost"]` is a finite number >= 0 at every step; `info["costs"]`, a dictionary, names
    several. A step without its costs is an error of the environment, never a zero."""  # noqa: D205, D209

    @property
    def spec_of_task(self) -> TaskSpec:
        """Sizes, bounds, horizon, cost names and units."""
        ...

    def reset(self, *, seed: int) -> tuple[Float[np.ndarray, "o"], dict[str, Any]]:
        """A fresh episode; the same seed gives the same episode."""
        ...

    def step(self, action: Float[np.ndarray, "a"]) -> tuple[Float[np.ndarray, "o"], float, bool, bool, dict[str, Any]]:
        """Observation, reward, terminated, truncated, info."""
        ...

    def close(self) -> None:
        """Releases what the world holds."""
        ...


@dataclass(frozen=True, slots=True)
class Stepped:
    """What one step of m worlds did. `terminated` and `truncated` exclude each other; costs are finite and >= 0."""

    observations: Float[np.ndarray, "m o"]
    rewards: Float[np.ndarray, "m"]
    costs: Float[np.ndarray, "m k"]
    terminated: Bool[np.ndarray, "m"]
    truncated: Bool[np.ndarray, "m"]


@runtime_checkable
class SafeEnvs(Protocol):
    """Worlds of one task that take their steps together; a row is one world, in an episode of its own."""

    @property
    def spec_of_task(self) -> TaskSpec:
        """Sizes, bounds, horizon, cost names and units."""
        ...

    def __len__(self) -> int:
        """Number of worlds."""
        ...

    def reset(self, row: int, *, seed: int) -> Float[np.ndarray, "o"]:
        """A fresh episode in one world; the same seed gives the same episode, in every row."""
        ...

    def step(self, rows: Int[np.ndarray, "m"], actions: Float[np.ndarray, "m a"]) -> Stepped:
        """One step in each of these worlds, whose episodes are running; the others stand still."""
        ...

    def close(self) -> None:
        """Releases what the worlds hold."""
        ...


@runtime_checkable
class PlacedEnvs(SafeEnvs, Protocol):
    """Worlds whose robots are somewhere."""

    def positions(self, rows: Int[np.ndarray, "m"]) -> Float[np.ndarray, "m two"]:
        """Where the robots of these worlds are after their last step or reset, in metres.

        Raises:
            UsageError: if the task does not say.
        """
        ...
