"""What a task is: sizes, bounds, horizon, and what one unit of each cost means."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from safehold.core.errors import DataError


@dataclass(frozen=True, slots=True)
class Box:
    """Continuous actions between two bounds, one pair a dimension."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        bounds = np.array([self.low, self.high], dtype=np.float64)
        if len(self.low) != len(self.high) or not self.low or not np.all(np.isfinite(bounds)):
            raise DataError(
                f"action bounds must be finite and of one length, got low={self.low}, high={self.high}; "
                "wrap the environment so that its actions are bounded"
            )
        if not np.all(bounds[0] < bounds[1]):
            raise DataError(f"action bounds must satisfy low < high, got low={self.low}, high={self.high}")

    @property
    def size(self) -> int:
        """Number of action dimensions."""
        return len(self.low)

    def clip(self, actions: Float[np.ndarray, "n a"]) -> Float[np.ndarray, "n a"]:
        """Actions moved to the nearest allowed value; NaN is kept, so that the border can refuse it."""
        return np.clip(actions, np.asarray(self.low, actions.dtype), np.asarray(self.high, actions.dtype))


@dataclass(frozen=True, slots=True)
class Discrete:
    """Actions 0, 1, ..., n - 1."""

    n: int

    def __post_init__(self) -> None:
        if self.n < 1:
            raise DataError(f"a discrete action space needs at least one action, got n={self.n}")

    @property
    def size(self) -> int:
        """Number of columns an action takes in an array: one index."""
        return 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """Everything about a task that data, policies and environments must agree on.

    `horizon` is the largest number of steps of an episode. `cost_units` says in words what one unit of
    each named cost is ("steps above 3.21 m/s"), because every limit is stated in it.
    """

    env_id: str
    observation_size: int
    action: Box | Discrete
    horizon: int
    cost_names: tuple[str, ...] = ("cost",)
    cost_units: tuple[str, ...] = ("cost units",)

    def __post_init__(self) -> None:
        if self.observation_size < 1 or self.horizon < 1:
            raise DataError(
                f"{self.env_id}: observation_size and horizon must be positive, "
                f"got {self.observation_size} and {self.horizon}"
            )
        if not self.cost_names or len(set(self.cost_names)) != len(self.cost_names):
            raise DataError(f"{self.env_id}: cost names must be given and distinct, got {self.cost_names}")
        if len(self.cost_units) != len(self.cost_names):
            raise DataError(
                f"{self.env_id}: {len(self.cost_names)} cost names but {len(self.cost_units)} cost units; "
                "say for each named cost what one unit of it means"
            )
