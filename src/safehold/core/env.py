"""The environment contract: Gymnasium's five-tuple, plus `info["cost"]` and named costs beside it."""

from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

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
