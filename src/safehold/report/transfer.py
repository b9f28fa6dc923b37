"""What learning with a guide gains over learning without: jump-starts and times, of learning curves.

The measures of SaGui (arXiv 2307.14316), after Taylor & Stone (2009), for the behaviour policy (episodes met while
learning) and for the target policy (episodes of the student alone) alike.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from safehold.core.errors import UsageError


@dataclass(frozen=True, slots=True)
class TransferCurve:
    """Mean returns of episodes along training, at environment steps that rise.

    Raises:
        UsageError: if there is no point, steps do not rise, or a number is not finite.
    """

    steps: Float[np.ndarray, "p"]
    rewards: Float[np.ndarray, "p"]
    costs: Float[np.ndarray, "p"]

    def __post_init__(self) -> None:
        columns = (self.steps, self.rewards, self.costs)
        if len(self.steps) == 0:
            raise UsageError("a curve needs a point")
        if not (np.diff(self.steps) > 0).all() or not all(np.isfinite(column).all() for column in columns):
            raise UsageError("the steps of a curve rise, and its returns are finite; a missing cost is not 0")


def safety_jump_start(curve: TransferCurve, reference: TransferCurve) -> float:
    """By how much the first cost return lies under the reference's, in cost units per episode."""
    return float(reference.costs[0] - curve.costs[0])


def return_jump_start(curve: TransferCurve, reference: TransferCurve) -> float:
    """By how much the first reward return lies over the reference's, in reward units per episode."""
    return float(curve.rewards[0] - reference.rewards[0])


def time_to_safety(curve: TransferCurve, limit: float) -> float:
    """The first step from which on every cost return is at or under the limit; inf if the last one is over it."""
    over = np.flatnonzero(~(curve.costs <= limit))
    first = 0 if len(over) == 0 else int(over[-1]) + 1
    return math.inf if first == len(curve.steps) else float(curve.steps[first])


def optimum(curves: Sequence[TransferCurve], limit: float) -> float:
    """The largest reward return of a point whose cost is at or under the limit; -inf if there is none."""
    return max(float(curve.rewards[curve.costs <= limit].max(initial=-math.inf)) for curve in curves)


def time_to_optimum(curve: TransferCurve, limit: float, level: float) -> float:
    """The first step with a reward return of at least `level` and a cost at or under the limit; inf if there is none.

    Take for `level` a share of what is best among all curves that are compared, `optimum`.
    """
    reached = np.flatnonzero((curve.rewards >= level) & (curve.costs <= limit))
    return float(curve.steps[reached[0]]) if len(reached) else math.inf


def gained_time(time: float, reference: float) -> float:
    """The reference's time less this one, in environment steps; 0 if neither ever arrives."""
    return 0.0 if time == reference else reference - time
