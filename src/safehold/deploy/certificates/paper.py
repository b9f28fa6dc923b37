"""The certificate of PLS: a target may run if its upper confidence bound is at or under every limit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from safehold.core.constraint import Limit
from safehold.gp.confidence import ConfidenceBand

KIND = "paper"

PROMISE = (
    "Counting every target this deployment hands out, the probability that one or more of them has an expected cost "
    "return above its limit is at most delta, if the premises hold."
)


@dataclass(frozen=True)
class Verdict:
    """What the certificate says of every candidate.

    `safe` = (`by_band` or `by_premise`): the mask, the only thing that decides what may be looked at. `revoked`:
    evidence speaks against the candidate itself; it is not safe whatever its band says. `refuted`: evidence speaks
    against the premise of the seed targets as a whole.
    """

    by_band: Bool[np.ndarray, "m"]
    by_premise: Bool[np.ndarray, "m"]
    revoked: Bool[np.ndarray, "m"]
    refuted: bool

    @property
    def safe(self) -> Bool[np.ndarray, "m"]:
        """Candidates that may be handed out."""
        return self.by_band | self.by_premise


def certify(
    limits: Sequence[Limit],
    bands: Mapping[str, ConfidenceBand],
    present: Mapping[str, Float[np.ndarray, "m"]],
    *,
    support: Bool[np.ndarray, "m"],
    seeds: Bool[np.ndarray, "m"],
    contradicted: Bool[np.ndarray, "m"],
    measured_over: Bool[np.ndarray, "m"],
) -> Verdict:
    """Z is certified iff u_N(z) <= limit for every limit, or z is a seed target, and nothing told speaks against it.

    `present` is mu_N + alpha_N sigma_N of the present round alone. It must be at or under every limit too: u_N, a
    running intersection, remembers bounds that were computed when the noise was believed to be smaller.

    Unlike [PLS, Eq. for Y_N], which adds z' to the safe set if u_N(z) + L d(z, z') <= b for *some* safe z and is
    vacuous at the paper's L = 0, the bound of z' itself decides. A candidate is revoked if it was `contradicted` by
    its own episodes, or if its lower bound is above a limit.
    One seed target that is measured over a limit (`measured_over`), or whose lower bound is, refutes the premise
    that all of them are safe: from then on no candidate is handed out on that premise, only on its own bound.
    Only more conditions are put on top of the printed rule, so its promise is kept.
    """
    under = support.copy()
    refuting = measured_over.copy()
    for limit in limits:
        band = bands[limit.name]
        under &= (band.upper <= limit.value) & (present[limit.name] <= limit.value)
        refuting |= ~(band.lower <= limit.value)
    revoked = contradicted | refuting
    refuted = bool((seeds & refuting).any())
    return Verdict(
        by_band=under & ~revoked,
        by_premise=seeds & ~revoked & (not refuted),
        revoked=revoked,
        refuted=refuted,
    )


def shortfall(
    limits: Sequence[Limit], present: Mapping[str, Float[np.ndarray, "m"]], scales: Mapping[str, float]
) -> Float[np.ndarray, "m"]:
    """By how much the present upper bounds, never under the running ones, miss: the largest (u - limit) / scale."""
    return np.max([(present[limit.name] - limit.value) / scales[limit.name] for limit in limits], axis=0)
