"""One episode as it happened, frozen; and returns-to-go."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from safehold.core.errors import DataError


def _frozen(array: np.ndarray) -> np.ndarray:
    """A read-only view, so that no reader of an episode can change what happened."""
    view = array.view()
    view.flags.writeable = False
    return view


@dataclass(frozen=True, kw_only=True)
class Episode:
    """T steps of one policy in one world.

    `observations` has T + 1 rows: the last is what was seen after the last action. `costs` has one column a
    named cost, each value finite and >= 0. `terminated`: the task itself ended (a fall, a goal); `truncated`:
    the clock did. `failed`: the episode broke off for a reason outside the task; its costs are then only a
    lower bound of what happened. `seed`: the reset seed, if known.
    """

    observations: Float[np.ndarray, "_ o"]  # (T + 1, o); lengths are checked below, with a message
    actions: Float[np.ndarray, "_ a"]  # (T, a)
    rewards: Float[np.ndarray, "_"]  # (T,)
    costs: Float[np.ndarray, "_ k"]  # (T, k)
    terminated: bool
    truncated: bool
    failed: bool = False
    seed: int | None = None

    def __post_init__(self) -> None:
        steps = len(self.rewards)
        shapes = {
            "observations": (self.observations.shape[0], steps + 1),
            "actions": (self.actions.shape[0], steps),
            "costs": (self.costs.shape[0], steps),
        }
        for name, (got, expected) in shapes.items():
            if got != expected:
                raise DataError(
                    f"episode (seed {self.seed}): {steps} rewards need {expected} rows of {name}, got {got}; "
                    "an episode of T steps has T actions, rewards and costs and T + 1 observations"
                )
        if steps == 0 and not self.failed:
            raise DataError(f"episode (seed {self.seed}): no steps; an episode without steps must be failed")
        for name in ("observations", "actions", "rewards", "costs"):
            values = getattr(self, name)
            bad = ~np.isfinite(values)
            if bad.any():
                place = tuple(int(i) for i in np.argwhere(bad)[0])
                raise DataError(
                    f"episode (seed {self.seed}): {name}{list(place)} is {values[place]}; a value that was not "
                    "measured is no evidence, mark the episode failed and cut it before this step"
                )
            object.__setattr__(self, name, _frozen(values))
        if (self.costs < 0).any():
            place = tuple(int(i) for i in np.argwhere(self.costs < 0)[0])
            raise DataError(
                f"episode (seed {self.seed}): costs{list(place)} = {self.costs[place]} is negative; "
                "safehold costs are >= 0 (a penalty stored as a negative number must be negated first)"
            )

    def __len__(self) -> int:
        """Number of steps T."""
        return len(self.rewards)

    @cached_property
    def reward_return(self) -> float:
        """Undiscounted sum of rewards, in float64."""
        return float(np.sum(self.rewards, dtype=np.float64))

    @cached_property
    def cost_returns(self) -> Float[np.ndarray, "k"]:
        """Undiscounted sum of each named cost, in float64."""
        return np.asarray(np.sum(self.costs, axis=0, dtype=np.float64))


def returns_to_go(values: Float[np.ndarray, "T *rest"]) -> Float[np.ndarray, "T *rest"]:
    """Sum from each step to the end, R_t = sum_{i >= t} r_i, in float64 (gamma = 1)."""
    return np.asarray(np.cumsum(values[::-1], axis=0, dtype=np.float64))[::-1]
