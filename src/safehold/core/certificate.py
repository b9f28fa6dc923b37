"""Why a target was allowed to run, and the trial that ran it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from safehold.core.constraint import Limit
from safehold.core.target import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleEvidence:
    """What one certificate rule says of a target.

    `certified`: whether the rule alone would let it run. `upper`: the rule's upper confidence bound of each limited
    cost, None for a rule without bounds. `risk`: its probability that the target is above any limit, None for a rule
    without one; `cap`: the largest price that this ask may have. `charge`: what the rule spends of its share of delta.
    """

    kind: str
    certified: bool
    upper: Mapping[str, float] | None
    risk: float | None
    cap: float | None
    charge: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """The evidence behind one ask.

    `kind` names the rules, joined by "+": all of them had to agree. `basis`: "rules", or "premise" for a seed target
    that rests on its premise instead. `promise` is what is promised, in words. `risks` is, for each limited cost, the
    posterior probability of being above the limit; `upper` the largest upper confidence bound of any rule (None
    without one, and for a seed target on its premise). `charge` is what this ask spends of `delta`, `spent_after` what
    is spent in all after it, declared shares included. `shares` of delta: for the seed targets, for the rules, for the
    bound on the noise; they add up to delta. `n_told` counts the measurements it rests on. `premises` are ids of
    docs/guarantees.md; `evidence` has one entry a rule.
    """

    kind: str
    basis: Literal["rules", "premise"]
    promise: str
    limits: tuple[Limit, ...]
    risks: Mapping[str, float]
    upper: Mapping[str, float] | None
    charge: float
    spent_after: float
    delta: float
    shares: Mapping[str, float]
    n_told: int
    premises: tuple[str, ...]
    evidence: tuple[RuleEvidence, ...]


class TrialState(StrEnum):
    """Where a trial stands."""

    PLANNED = "planned"
    RUNNING = "running"
    DONE = "done"
    ABORTED = "aborted"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One ask: a target that may be deployed, the certificate that says why, and its state.

    `number` counts asks from 0; the reset seeds of its episodes derive from it, so that a trial that was
    interrupted and runs again sees the episodes that it would have seen.
    """

    id: str
    number: int
    key: str | None
    target: Target
    certificate: Certificate
    state: TrialState
