"""The deterministic certificate: a target near enough to one that was measured low enough."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from safehold.core.errors import UsageError
from safehold.deploy.certificates.rule import Evidence, RuleVerdict, Terms, band_verdict, bound_words
from safehold.gp.confidence import ConfidenceBand, envelope

_ROUNDING = 1e-12
"""In shares of the largest value: measurements that are as far apart as the premises allow contradict nothing."""

_GUESS = 2.0
"""Multiplier of the model's standard deviation when guessing what one more measurement would open; for scoring."""


@dataclass(frozen=True, slots=True)
class Lipschitz:
    """Z is certified iff min_i y_i + E + sum_a L_a |z_a - z_i,a| <= limit, over told z_i, for every limit.

    For each limited cost, by its name: `constants`, L, one a dial axis in cost units per unit of the axis (None:
    nothing is inferred along it, as for a context); `noise_bound`, E, bounds |told value - truth| of every told
    measurement of at least the declared episodes per ask. Measurements of fewer, or with failed episodes, certify
    nothing. No belief is involved; the Gaussian process only chooses. [LoSBO: Fiedler et al. 2024]
    """

    constants: Mapping[str, tuple[float | None, ...]]
    noise_bound: Mapping[str, float]

    kind: ClassVar[str] = "lipschitz"
    promise: ClassVar[str] = (
        "No target this deployment hands out is above a limit in expectation, if the declared constants and the noise "
        "bound, and the other premises, hold."
    )
    premises: ClassVar[tuple[str, ...]] = ("A10-lipschitz", "A11-noise-bound")
    one_epoch: ClassVar[bool] = False

    def start(self, terms: Terms) -> "LipschitzStanding":
        """Nothing told.

        Raises:
            UsageError: if a constant is missing or impossible.
        """
        for limit in terms.limits:
            slopes, error = self.constants.get(limit.name), self.noise_bound.get(limit.name)
            possible = all(slope is None or 0.0 <= slope < np.inf for slope in slopes or ())
            if slopes is None or len(slopes) != len(terms.space.axes) or not possible:
                raise UsageError(
                    f"lipschitz: constants of cost {limit.name!r} are {slopes}; declare one a dial axis for "
                    f"{terms.space.names}: finite, from 0, or None where nothing carries over"
                )
            if error is None or not 0.0 <= error < np.inf:
                raise UsageError(
                    f"lipschitz: noise_bound of cost {limit.name!r} is {error}; declare a finite one, from 0"
                )
        m = len(terms.space)
        names = [limit.name for limit in terms.limits]
        return LipschitzStanding(
            self,
            terms,
            {name: np.full(m, np.inf) for name in names},
            {name: np.full(m, -np.inf) for name in names},
            {name: ConfidenceBand.start(m, terms.tops[name]) for name in names},
            0,
        )


@dataclass(frozen=True)
class LipschitzStanding:
    """What was measured, as bounds of the truth where it was: the least y + E, the largest y - E; and their reach."""

    rule: Lipschitz
    terms: Terms
    above: Mapping[str, Float[np.ndarray, "m"]]
    below: Mapping[str, Float[np.ndarray, "m"]]
    bands: Mapping[str, ConfidenceBand]
    known: int
    spent: float = 0.0

    def told(self, evidence: Evidence) -> "LipschitzStanding":
        """Bounds after the new measurements, carried over the dial by the constants."""
        above, below, bands = {}, {}, {}
        known = self.known
        for name, upper in self.above.items():
            told = evidence.costs[name].told
            known, error = len(told), self.rule.noise_bound[name]
            upper, lower = upper.copy(), self.below[name].copy()
            for point in told[self.known :]:
                if point.whole and point.episodes >= self.terms.episodes_per_ask:
                    upper[point.index] = min(upper[point.index], point.value + error)
                    lower[point.index] = max(lower[point.index], point.value - error)
            above[name], below[name] = upper, lower
            bands[name] = self._band(name, upper, lower)
        return replace(self, above=above, below=below, bands=bands, known=known)

    def _band(self, name: str, above: Float[np.ndarray, "m"], below: Float[np.ndarray, "m"]) -> ConfidenceBand:
        """[largest y - E - L d, least y + E + L d], within [0, top]; ends that differ by rounding alone are one."""
        slopes = tuple(np.inf if slope is None else slope for slope in self.rule.constants[name])
        top = self.terms.tops[name]
        lower = np.maximum(-envelope(self.terms.space, -below, slopes), 0.0)
        upper = np.minimum(envelope(self.terms.space, above, slopes), top)
        return ConfidenceBand(np.where(lower - upper <= _ROUNDING * top, np.minimum(lower, upper), lower), upper)

    def asked(self, index: int, charge: float) -> "LipschitzStanding":  # noqa: ARG002
        """Nothing is charged: there is no chance in it."""
        return self

    def lowered(self) -> "LipschitzStanding":
        """The bounds are of the costs; they are read against the new limit."""
        return self

    def verdict(self, evidence: Evidence) -> RuleVerdict:
        """Under every limit by its bound."""
        present = {name: band.upper for name, band in self.bands.items()}
        return band_verdict(
            Lipschitz.kind,
            evidence,
            self.terms,
            self.bands,
            present,
            multiplier=_GUESS,
            reach=dict.fromkeys(self.bands, _GUESS),
        )

    def words(self, evidence: Evidence, index: int) -> str:
        """Upper bounds beside the limits."""
        return bound_words(evidence, {name: band.upper for name, band in self.bands.items()}, index)
