"""The default certificate: pay the posterior risk of every new target out of a budget."""

import math
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float

from safehold.core.errors import UsageError
from safehold.deploy.certificates.rule import Evidence, RuleVerdict, Terms
from safehold.gp.confidence import ConfidenceBand

DEVIATIONS = 2.0
"""Posterior standard deviations between a normal belief's mean and the limit at which a target is revoked."""

REVOKED = NormalDist().cdf(-DEVIATIONS)
"""2.3 %: a target of a larger present risk is not handed out, paid or not."""

LARGEST_PRICE = 0.02
"""No ask is priced above this, however much is left: what is just paid for should not be revoked by the next tell."""

EVEN_SHARES = 3.0
"""One ask may cost as much as this many even shares of what is left over the asks that are left."""


@dataclass(frozen=True, slots=True)
class RiskLedger:
    """Before a *new* target is handed out, its posterior risk is paid out of the rules' share of delta.

    p(z) = P(some limit is exceeded at z | told) = 1 - prod_k (1 - p_k(z)), p_k the risk under the mixture, outputs
    being independent. The expected number of distinct unsafe targets handed out is the expected sum of what was paid,
    hence so is the probability of one or more of them at most. Paid targets are free, and not handed out while their
    present risk is above 2.3 %. Nothing is ever refunded. `inflate` widens every posterior standard deviation.
    """

    inflate: float = 1.0

    kind: ClassVar[str] = "risk_ledger"
    promise: ClassVar[str] = (
        "Counting every target this deployment hands out, the probability that one or more of them is above a limit "
        "in expectation is at most delta, if the premises hold: the posterior risk of each new target was paid out of "
        "delta before it ran."
    )
    premises: ClassVar[tuple[str, ...]] = ("A1-prior", "A2-noise")
    one_epoch: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 1.0 <= self.inflate < math.inf:
            raise UsageError(f"inflate is {self.inflate}; it widens standard deviations, from 1 (calibrated) upwards")

    def start(self, terms: Terms) -> "RiskLedgerStanding":
        """Nothing paid."""
        return RiskLedgerStanding(self, terms, np.zeros(len(terms.space), dtype=np.bool_))


@dataclass(frozen=True)
class RiskLedgerStanding:
    """Which targets are paid for, and what was paid in all."""

    rule: RiskLedger
    terms: Terms
    paid: Bool[np.ndarray, "m"] = field(repr=False)
    spent: float = 0.0

    def told(self, evidence: Evidence) -> "RiskLedgerStanding":  # noqa: ARG002
        """The ledger remembers payments alone; risks are of the present belief."""
        return self

    def asked(self, index: int, charge: float) -> "RiskLedgerStanding":
        """The target is paid for, unless it was handed out on the seed targets' premise, for nothing."""
        if charge == 0.0:
            return self
        paid = self.paid.copy()
        paid[index] = True
        return replace(self, paid=paid, spent=self.spent + charge)

    def lowered(self) -> "RiskLedgerStanding":
        """What was paid for the old limit is not paid for the new one; what is spent stays spent."""
        return replace(self, paid=np.zeros_like(self.paid))

    def risk(self, evidence: Evidence) -> Float[np.ndarray, "m"]:
        """Posterior probability that any limit is exceeded; small ones without cancellation."""
        total = np.zeros(len(self.terms.space))
        for limit in evidence.limits:
            part = evidence.costs[limit.name].risk(limit.value, self.rule.inflate)
            total = total + part * (1.0 - total)
        return total

    def cap(self, evidence: Evidence) -> float:
        """The largest price of one ask: three even shares of what is left, all that is left, or 2 %."""
        left = max(self.terms.delta - self.spent, 0.0)
        return min(EVEN_SHARES * left / evidence.asks_left, left, LARGEST_PRICE)

    def verdict(self, evidence: Evidence) -> RuleVerdict:
        """Paid and still unlikely to be unsafe, or cheap enough to be paid for now."""
        risk, cap = self.risk(evidence), self.cap(evidence)
        affordable = (risk <= cap) & (self.spent + risk <= self.terms.delta)
        holds = risk <= REVOKED
        intervals, reach = {}, {}
        for limit in evidence.limits:
            process = evidence.costs[limit.name].process
            mean, width = process.mean, DEVIATIONS * self.rule.inflate * process.sd
            intervals[limit.name] = ConfidenceBand(mean - width, mean + width)
            share = cap / len(evidence.limits)
            reach[limit.name] = -self.rule.inflate * NormalDist().inv_cdf(share) if share > 0 else math.inf
        return RuleVerdict(
            kind=RiskLedger.kind,
            certified=np.where(self.paid, holds, affordable),
            holds=holds,
            against=~(risk <= 1.0 - REVOKED),
            price=np.where(self.paid, 0.0, risk),
            miss=(risk - np.where(self.paid, REVOKED, cap)) / self.terms.delta,
            unit="delta's share",
            intervals=intervals,
            bounding=False,
            multiplier=DEVIATIONS * self.rule.inflate,
            reach=reach,
            risk=risk,
            cap=cap,
        )

    def words(self, evidence: Evidence, index: int) -> str:
        """Risk beside what an ask may cost."""
        need = REVOKED if self.paid[index] else self.cap(evidence)
        return f"risk {self.risk(evidence)[index]:.3g} against at most {need:.3g}"
