"""The frequentist certificate: a time-uniform band for one fixed function of bounded norm."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from safehold.core.errors import UsageError
from safehold.deploy.certificates.rule import Evidence, RuleVerdict, Terms, band_verdict, bound_words
from safehold.gp.confidence import ConfidenceBand, log_determinant_multiplier, split
from safehold.gp.process import Process, process_for


@dataclass(frozen=True, slots=True)
class LogDet:
    """Z is certified iff mu(z) + (B + sqrt(ln det(I + S^-1/2 K S^-1/2) + 2 ln(k / delta))) sigma(z) <= all k limits.

    For each limited cost, by its name: `norm_bound`, B, bounds the norm of (truth - prior mean) in the Hilbert space of
    the declared kernel; `episode_constant`, R, says that one episode's cost is R-sub-Gaussian around its expectation.
    A mean of n episodes is told with noise variance R^2 / n, whatever replicates show; nothing is estimated, and there
    is one declared kernel. [Abbasi-Yadkori 2013, Thm. 3.11; Whitehouse et al. 2023] The bands hold at all rounds at
    once, so they are intersected. A mean of which a share s is unknown, because episodes failed, is told at its
    largest possible value, s * cap above the least: for all such means together the multiplier grows by the root of
    the sum of (s * cap)^2 n / R^2, by as much as their unknown costs can move the band.
    """

    norm_bound: Mapping[str, float]
    episode_constant: Mapping[str, float]

    kind: ClassVar[str] = "log_det"
    promise: ClassVar[str] = (
        "For any fixed cost surface within the declared norm bound, and not on average over a prior, the probability "
        "that one or more of the targets this deployment ever hands out is above a limit in expectation is at most "
        "delta, if the premises hold."
    )
    premises: ClassVar[tuple[str, ...]] = ("A5-cap", "A8-norm-bound", "A9-sub-gaussian")
    one_epoch: ClassVar[bool] = True

    def start(self, terms: Terms) -> "LogDetStanding":
        """The declared kernels, and [0, top] everywhere.

        Raises:
            UsageError: if a constant is missing or not positive, a limit is approximate, or a prior is a mixture.
        """
        processes = {}
        for limit in terms.limits:
            for what, values in (("norm_bound", self.norm_bound), ("episode_constant", self.episode_constant)):
                value = values.get(limit.name)
                if value is None or not 0.0 < value < np.inf:
                    raise UsageError(
                        f"log_det: {what} of cost {limit.name!r} is {value}; declare a finite positive one for every "
                        "limited cost"
                    )
            if limit.approximate:
                raise UsageError(
                    f"log_det covers mean and peak limits; {limit.name!r} is of kind {limit.kind!r}, whose "
                    "statistic is not sub-Gaussian by declaration"
                )
            prior = terms.priors[limit.name]
            if len(prior.kernels) != 1:
                raise UsageError(
                    f"log_det: the norm bound of cost {limit.name!r} is in the space of one kernel, its prior mixes "
                    f"{len(prior.kernels)}; declare a single one (Prior.asked with lengthscales)"
                )
            processes[limit.name] = process_for(prior.kernels[0], terms.space, prior.mean, prior.linear)
        m = len(terms.space)
        bands = {name: ConfidenceBand.start(m, top) for name, top in terms.tops.items()}
        return LogDetStanding(self, terms, processes, bands, dict.fromkeys(bands, 0.0), 0)


@dataclass(frozen=True)
class LogDetStanding:
    """Processes of their own, told with the declared constants, and their running intersections.

    `unknown`: the sum of squares, in noise standard deviations, of how far each told mean may be above the true one.
    """

    rule: LogDet
    terms: Terms
    processes: Mapping[str, Process]
    bands: Mapping[str, ConfidenceBand]
    unknown: Mapping[str, float]
    known: int
    spent: float = 0.0

    def multiplier(self, name: str) -> float:
        """B + sqrt(ln det + 2 ln(1 / delta)), at the limit's share of delta, and the part for unknown costs."""
        share = split(self.terms.delta, [limit.name for limit in self.terms.limits])[name]
        bound = log_determinant_multiplier(self.rule.norm_bound[name], self.processes[name].log_determinant, share)
        return bound + math.sqrt(self.unknown[name])

    def told(self, evidence: Evidence) -> "LogDetStanding":
        """Told what is new, and intersected; once a band is empty they stay as they are."""
        processes, unknown = dict(self.processes), dict(self.unknown)
        known = self.known
        for name, process in self.processes.items():
            told = evidence.costs[name].told
            known = len(told)
            points = told[self.known :]
            if points:
                noise = np.array([self.rule.episode_constant[name] ** 2 * point.noise_factor for point in points])
                processes[name] = process.condition(
                    np.array([point.index for point in points]), np.array([point.value for point in points]), noise
                )
                reach = np.array([point.unknown for point in points])
                unknown[name] += float(np.sum(reach**2 / noise))
        after = replace(self, processes=processes, unknown=unknown, known=known)
        if any(band.empty.any() for band in self.bands.values()):
            return after
        bands = {}
        for name, band in self.bands.items():
            process, multiplier = processes[name], after.multiplier(name)
            bands[name] = band.intersect(process.mean, process.sd, multiplier)
        return replace(after, bands=bands)

    def asked(self, index: int, charge: float) -> "LogDetStanding":  # noqa: ARG002
        """Nothing is charged: the bands hold at all rounds at once."""
        return self

    def lowered(self) -> "LogDetStanding":
        """The bands are of the costs; they are read against the new limit."""
        return self

    def present(self) -> dict[str, Float[np.ndarray, "m"]]:
        """Upper bounds of the present round."""
        return {name: p.mean + self.multiplier(name) * p.sd for name, p in self.processes.items()}

    def verdict(self, evidence: Evidence) -> RuleVerdict:
        """Under every limit by the running and by the present bound."""
        multipliers = {name: self.multiplier(name) for name in self.processes}
        return band_verdict(
            LogDet.kind,
            evidence,
            self.terms,
            self.bands,
            self.present(),
            multiplier=max(multipliers.values()),
            reach=multipliers,
        )

    def words(self, evidence: Evidence, index: int) -> str:
        """Present upper bounds beside the limits."""
        return bound_words(evidence, self.present(), index)
