"""What a certificate rule is: declared before the run, judged on what was told, composed with others by AND."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float

from safehold.core.constraint import Limit
from safehold.core.target import TargetSpace
from safehold.deploy.belief import Belief
from safehold.deploy.prior import OutputPrior
from safehold.gp.confidence import ConfidenceBand


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a rule may know of a declaration.

    `tops`: the largest value that each limited statistic can have. `delta`: the share of delta that is left for the
    rules. `horizon`: the largest number of asks. `episodes_per_ask`: how many the caller means to run for one.
    """

    space: TargetSpace
    limits: tuple[Limit, ...]
    priors: Mapping[str, OutputPrior]
    support: Bool[np.ndarray, "m"]
    seeds: Bool[np.ndarray, "m"]
    tops: Mapping[str, float]
    delta: float
    horizon: int
    episodes_per_ask: int

    def scale(self, limit: Limit) -> float:
        """What an interval is measured against: the limit, or the statistic's largest value where the limit is 0."""
        return limit.value if limit.value > 0 else self.tops[limit.name]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that a rule may look at: what is believed after everything told so far, of the limits as they are now.

    `rounds`: measurements told. `asks_left`: declared asks that remain, at least 1.
    """

    limits: tuple[Limit, ...]
    costs: Mapping[str, Belief]
    rounds: int
    asks_left: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Contradiction:
    """Nothing is left of an interval of the limited statistic `limit` at candidate `index`: lower > upper."""

    limit: str
    index: int
    lower: float
    upper: float


@dataclass(frozen=True, kw_only=True)
class RuleVerdict:
    """What one rule says of every candidate.

    `certified`: may be handed out, if it is paid `price` out of the rule's share of delta. `holds`: would stay
    certified if it had been handed out before, which is what a recommendation needs. `against`: the rule's own
    evidence puts the candidate above a limit. `miss`: by how much it misses being certified, in shares of `unit`, what
    it is measured against; at most 0 where it does not. `intervals`: of every limited statistic, for
    showing and scoring; a certified bound only if `bounding`. `reach`: multiplier of standard deviations under a
    limit at which one more measurement would certify a candidate; for scoring. `risk` is None for a rule without
    one, and so is `cap`, the largest price of this ask.
    """

    kind: str
    certified: Bool[np.ndarray, "m"]
    holds: Bool[np.ndarray, "m"]
    against: Bool[np.ndarray, "m"]
    price: Float[np.ndarray, "m"]
    miss: Float[np.ndarray, "m"]
    unit: str
    intervals: Mapping[str, ConfidenceBand]
    bounding: bool
    multiplier: float
    reach: Mapping[str, float]
    risk: Float[np.ndarray, "m"] | None = None
    cap: float | None = None
    contradiction: Contradiction | None = None


@runtime_checkable
class Standing(Protocol):
    """Where a rule stands in one run; immutable, every method returns the next value."""

    @property
    def spent(self) -> float:
        """What the rule's asks were charged so far, out of its share of delta."""
        ...

    def told(self, evidence: Evidence) -> "Standing":
        """After a measurement; `evidence` holds it. Called once before the first, too."""
        ...

    def asked(self, index: int, charge: float) -> "Standing":
        """After an ask that was charged."""
        ...

    def lowered(self) -> "Standing":
        """After a limit was lowered."""
        ...

    def verdict(self, evidence: Evidence) -> RuleVerdict:
        """What the rule says now."""
        ...

    def words(self, evidence: Evidence, index: int) -> str:
        """What decides about a candidate, with numbers: what it has, beside what it needs."""
        ...


@runtime_checkable
class Rule(Protocol):
    """A declared certificate rule: a frozen value that a ledger can hold."""

    kind: ClassVar[str]
    """Its name in ledgers and certificates."""
    promise: ClassVar[str]
    """What it promises, in a sentence."""
    premises: ClassVar[tuple[str, ...]]
    """Ids of docs/guarantees.md that the promise rests on, besides those that every certificate rests on."""
    one_epoch: ClassVar[bool]
    """Whether the rule spends all of its share of delta at once, so that nothing is left for a new epoch."""

    def start(self, terms: Terms) -> Standing:
        """The rule before anything is told.

        Raises:
            UsageError: if the rule does not fit the terms.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What all rules together say of every candidate.

    `safe` = (`by_rules` or `by_premise`): the mask, the only thing that decides what may be looked at. `evident`: the
    rules would keep it certified for what was told alone. `revoked`: evidence speaks against the candidate itself; it
    is not safe whatever a rule says. `refuted`: evidence speaks against the premise of the seed targets as a whole.
    `price`: what asking each candidate is charged; nothing for a seed target on its premise.
    """

    by_rules: Bool[np.ndarray, "m"]
    by_premise: Bool[np.ndarray, "m"]
    evident: Bool[np.ndarray, "m"]
    revoked: Bool[np.ndarray, "m"]
    refuted: bool
    price: Float[np.ndarray, "m"]
    safe: Bool[np.ndarray, "m"]
    rules: tuple[RuleVerdict, ...]

    def rests_on_premise(self, index: int) -> bool:
        """Whether a safe candidate is handed out on the seed targets' premise: only if no rule gives it for free."""
        return bool(self.by_premise[index]) and not (self.by_rules[index] and self.rules_price(index) == 0.0)

    def rules_price(self, index: int) -> float:
        """What the rules charge for a candidate, premise or not."""
        return float(sum(rule.price[index] for rule in self.rules))


def compose(
    rules: Sequence[RuleVerdict],
    *,
    support: Bool[np.ndarray, "m"],
    seeds: Bool[np.ndarray, "m"],
    contradicted: Bool[np.ndarray, "m"],
    measured_over: Bool[np.ndarray, "m"],
) -> Verdict:
    """Every rule must certify a candidate, and nothing told may speak against it.

    A candidate is revoked if it was `contradicted` by its own episodes, or if a rule's evidence puts it above a limit.
    One seed target that is measured over a limit (`measured_over`), or that a rule puts above one, refutes the premise
    that all of them are safe: from then on no candidate is handed out on that premise, only on what the rules say.
    """
    certified, holds = support.copy(), support.copy()
    refuting = measured_over.copy()
    price = np.zeros(len(support))
    for rule in rules:
        certified &= rule.certified
        holds &= rule.holds
        refuting |= rule.against
        price += rule.price
    revoked = contradicted | refuting
    refuted = bool((seeds & refuting).any())
    by_rules = certified & ~revoked
    by_premise = seeds & ~revoked & (not refuted)
    return Verdict(
        by_rules=by_rules,
        by_premise=by_premise,
        evident=holds & ~revoked,
        revoked=revoked,
        refuted=refuted,
        price=np.where(by_premise, 0.0, price),
        safe=by_rules | by_premise,
        rules=tuple(rules),
    )


def band_verdict(
    kind: str,
    evidence: Evidence,
    terms: Terms,
    bands: Mapping[str, ConfidenceBand],
    present: Mapping[str, Float[np.ndarray, "m"]],
    *,
    multiplier: float,
    reach: Mapping[str, float],
) -> RuleVerdict:
    """The verdict of a rule with intervals: under every limit by the running bound and by the present one.

    `present` is the upper bound of the present round alone. It must be at or under every limit too: the running one
    remembers bounds that were computed when the noise was believed to be smaller.
    """
    first = evidence.limits[0]
    under = np.ones(len(bands[first.name].lower), dtype=np.bool_)
    against = ~under
    miss = np.full(len(under), -np.inf)
    contradiction = None
    for limit in evidence.limits:
        band = bands[limit.name]
        under &= (band.upper <= limit.value) & (present[limit.name] <= limit.value)
        against |= ~(band.lower <= limit.value)
        miss = np.maximum(miss, (present[limit.name] - limit.value) / terms.scale(limit))
        if contradiction is None and band.empty.any():
            place = int(np.argmax(band.lower - band.upper))
            contradiction = Contradiction(
                limit=limit.name, index=place, lower=float(band.lower[place]), upper=float(band.upper[place])
            )
    return RuleVerdict(
        kind=kind,
        certified=under,
        holds=under,
        against=against,
        price=np.zeros(len(under)),
        miss=miss,
        unit="the limit",
        intervals=bands,
        bounding=True,
        multiplier=multiplier,
        reach=reach,
        contradiction=contradiction,
    )


def bound_words(evidence: Evidence, present: Mapping[str, Float[np.ndarray, "m"]], index: int) -> str:
    """Upper bounds of a candidate beside their limits."""
    return ", ".join(
        f"{limit.name}: upper bound {present[limit.name][index]:.4g} against limit {limit.value:g}"
        for limit in evidence.limits
    )
