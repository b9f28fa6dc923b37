"""Numbers and verdicts as a reader sees them, on a page and on a terminal."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from safehold.core.target import Target
from safehold.deploy.replay import State


def target_text(target: Target | None) -> str:
    """A target as a reader sees it."""
    return "none" if target is None else "(" + ", ".join(f"{value:.5g}" for value in target) + ")"


def verdict_of(state: State, trial: str) -> str:
    """SAFE if the mean of every limited cost of a told trial is at or under its limit; failed episodes never are."""
    measured = state.told[trial].measurement
    safe = all(limit.holds(measured.mean_cost(limit.name)) for limit in state.declaration.limits)
    return "SAFE" if safe else "OVER"


def over_limit(costs: Float[np.ndarray, "n"] | Sequence[float], limit: float) -> int:
    """How many are not at or under the limit; NaN is one."""
    return int(np.sum(~(np.asarray(costs, dtype=np.float64) <= limit)))


def percent(share: float) -> str:
    """A share as a percentage; an unknown one as a dash."""
    return "-" if not math.isfinite(share) else f"{100 * share:.3g} %"
