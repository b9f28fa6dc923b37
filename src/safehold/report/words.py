"""Numbers and verdicts as a reader sees them, on a page and on a terminal."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from safehold.core.certificate import Certificate
from safehold.core.constraint import Limit
from safehold.core.target import Target
from safehold.deploy.replay import State


def target_text(target: Target | None) -> str:
    """A target as a reader sees it."""
    return "none" if target is None else "(" + ", ".join(f"{value:.5g}" for value in target) + ")"


def verdict_of(state: State, trial: str) -> str:
    """SAFE if every limited statistic of a told trial is at or under its limit; with failed episodes it never is."""
    measured, asked = state.told[trial].measurement, state.asked[trial]
    safe = not measured.failed.any() and all(
        limit.holds(limit.statistic(measured.costs[limit.name])) for limit in asked.certificate.limits
    )
    return "SAFE" if safe else "OVER"


def grounds(certificate: Certificate, name: str) -> str:
    """What a target was certified on, for one limited cost: its upper bound, its risk, or the seed targets' premise."""
    if certificate.basis == "premise":
        return "premise"
    if certificate.upper is not None:
        return f"<= {certificate.upper[name]:.4g}"
    return f"risk {percent(certificate.risks[name])}"


def limit_text(limit: Limit, unit: str) -> str:
    """A limit in words; `unit`: what one unit of its cost means."""
    size = f"{limit.value:g} {unit}"
    match limit.kind:
        case "chance":
            return f"chance of a {limit.name!r} return of an episode above {size} at most {limit.alpha:g}"
        case "cvar":
            return f"mean of the worst {limit.alpha:.3g} of episodes' {limit.name!r} returns at most {size}"
        case "peak":
            return f"expected largest cost of a step of {limit.name!r} at most {size}"
        case "mean":
            return f"expected cost return of an episode of {limit.name!r} at most {size}"


def over_limit(costs: Float[np.ndarray, "n"] | Sequence[float], limit: float) -> int:
    """How many are not at or under the limit; NaN is one."""
    return int(np.sum(~(np.asarray(costs, dtype=np.float64) <= limit)))


def percent(share: float) -> str:
    """A share as a percentage; an unknown one as a dash."""
    return "-" if not math.isfinite(share) else f"{100 * share:.3g} %"
