"""The certificate of PLS: a target may run if its upper confidence bound is at or under every limit."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from safehold.deploy.certificates.rule import Evidence, RuleVerdict, Terms, band_verdict, bound_words
from safehold.gp.confidence import ConfidenceBand, alpha, split


@dataclass(frozen=True, slots=True)
class Paper:
    """Z is certified iff u_N(z) <= limit for every limit, u_N the running and the present upper bound.

    Unlike [PLS, Eq. for Y_N], which adds z' to the safe set if u_N(z) + L d(z, z') <= b for *some* safe z and is
    vacuous at the paper's L = 0, the bound of z' itself decides. Over a mixture of processes a band is the envelope
    of the members' bands: whichever member is the truth, the envelope contains its band.
    """

    kind: ClassVar[str] = "paper"
    promise: ClassVar[str] = (
        "Counting every target this deployment hands out, the probability that one or more of them is above a limit "
        "in expectation is at most delta, if the premises hold."
    )
    premises: ClassVar[tuple[str, ...]] = ("A1-prior", "A2-noise", "A5-cap")
    one_epoch: ClassVar[bool] = True

    def start(self, terms: Terms) -> "PaperStanding":
        """[0, top] everywhere."""
        m = len(terms.space)
        return PaperStanding(terms, {name: ConfidenceBand.start(m, top) for name, top in terms.tops.items()})


@dataclass(frozen=True)
class PaperStanding:
    """The running intersections Lambda_N."""

    terms: Terms
    bands: Mapping[str, ConfidenceBand]
    spent: float = 0.0

    def alpha(self, rounds: int) -> float:
        """Multiplier in the round after `rounds` measurements, at each limit's share of delta."""
        share = min(split(self.terms.delta, [limit.name for limit in self.terms.limits]).values())
        return alpha(rounds + 1, len(self.terms.space), share)

    def told(self, evidence: Evidence) -> "PaperStanding":
        """Intersected with the band of the present round; once a band is empty they stay as they are."""
        if any(band.empty.any() for band in self.bands.values()):
            return self
        multiplier = self.alpha(evidence.rounds)
        bands = {}
        for name, band in self.bands.items():
            belief = evidence.costs[name]
            bands[name] = ConfidenceBand(
                lower=np.maximum(band.lower, belief.lower(multiplier)),
                upper=np.minimum(band.upper, belief.upper(multiplier)),
            )
        return replace(self, bands=bands)

    def asked(self, index: int, charge: float) -> "PaperStanding":  # noqa: ARG002
        """Nothing is charged: the bands hold at all rounds at once."""
        return self

    def lowered(self) -> "PaperStanding":
        """The bands are of the costs; they are read against the new limit."""
        return self

    def verdict(self, evidence: Evidence) -> RuleVerdict:
        """Under every limit by the running and by the present bound."""
        following = self.alpha(evidence.rounds + 1)
        return band_verdict(
            Paper.kind,
            evidence,
            self.terms,
            self.bands,
            self.present(evidence),
            multiplier=self.alpha(evidence.rounds),
            reach=dict.fromkeys(self.bands, following),
        )

    def present(self, evidence: Evidence) -> dict[str, Float[np.ndarray, "m"]]:
        """Upper bounds of the present round, with the noise as it is believed now."""
        multiplier = self.alpha(evidence.rounds)
        return {name: belief.upper(multiplier) for name, belief in evidence.costs.items()}

    def words(self, evidence: Evidence, index: int) -> str:
        """Present upper bounds beside the limits."""
        return bound_words(evidence, self.present(evidence), index)
