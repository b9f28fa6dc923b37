"""Why a target was allowed to run, and the trial that ran it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from safehold.core.constraint import Limit
from safehold.core.target import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """The evidence behind one ask.

    `kind` names the rule, `promise` is what it promises, in a sentence. `upper` holds, for each limited cost, the
    upper confidence bound at the target (None for a seed target, which rests on its premise instead). `charge` is
    what this ask spends of `delta`, `spent_after` what is spent in all after it. `n_told` counts the measurements
    the bound rests on. `premises` are ids of docs/guarantees.md.
    """

    kind: str
    promise: str
    limits: tuple[Limit, ...]
    risks: Mapping[str, float]
    upper: Mapping[str, float] | None
    charge: float
    spent_after: float
    delta: float
    n_told: int
    premises: tuple[str, ...]


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
