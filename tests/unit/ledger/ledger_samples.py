"""One event of every kind, for tests of the ledger."""

from safehold.core.certificate import Certificate, RuleEvidence
from safehold.core.constraint import Limit
from safehold.ledger.events import (
    Abandoned,
    Advanced,
    Alarmed,
    Approved,
    Asked,
    Bound,
    Deployed,
    Evaluated,
    Event,
    Held,
    LimitLowered,
    Observed,
    Rejected,
    Resumed,
    Seeded,
    SeedTested,
    Shadowed,
    Started,
    Stopped,
    Told,
)

BOUND = Bound(mean=1.5, sd=0.1, lower=0.0, upper=2.0, episode_sd=3.0)
CERTIFICATE = Certificate(
    kind="risk_ledger+paper",
    basis="rules",
    promise="no target is unsafe",
    limits=(Limit("cost", 20.0), Limit("falls", 1.0, "chance", 0.1)),
    risks={"cost": 0.01},
    upper={"cost": 18.5},
    charge=0.01,
    spent_after=0.04,
    delta=0.1,
    shares={"seed": 0.02, "certificate": 0.07, "noise": 0.01},
    n_told=0,
    premises=("A1-prior",),
    evidence=(
        RuleEvidence(kind="risk_ledger", certified=True, upper=None, risk=0.01, cap=0.015, charge=0.01),
        RuleEvidence(kind="paper", certified=True, upper={"cost": 18.5}, risk=None, cap=None, charge=0.0),
    ),
)


def started(provenance: dict[str, object] | None = None) -> Started:
    """A run of nothing."""
    return Started(declaration={}, policy_digest=None, provenance=provenance or {}, safehold_version="0.1.0")


def asked(number: int = 0, key: str | None = None) -> Asked:
    """An ask with this number."""
    return Asked(
        trial=f"trial-{number:04d}",
        number=number,
        key=key,
        context={"payload": 2.0},
        target=(100.0, 2.5),
        index=7,
        phase="explore",
        reward=BOUND,
        costs={"cost": BOUND},
        alpha=5.0,
        n_told=number,
        safe_count=3,
        safe_mask="gA==",
        expander_count=2,
        certificate=CERTIFICATE,
    )


def told(number: int = 0) -> Told:
    """Two episodes, the second of which failed without a number."""
    return Told(
        trial=f"trial-{number:04d}",
        rewards=(1.0, None),
        costs={"cost": (0.5, None)},
        failed=(False, True),
        lengths=(10, 3),
        seeds=(1, 2),
    )


ONE_OF_EACH: tuple[Event, ...] = (
    started({"host": "robot", "nested": {"list": [1, None, True]}}),
    Seeded(targets=((100.0, 2.5),), rule="attested", evidence={"by": "us"}),
    asked(),
    Deployed(trial="trial-0000"),
    told(),
    Abandoned(trial="trial-0001", reason="power cut", deployed=True),
    Alarmed(reason="empty", level="seed", monitor="paper", limit="cost", target=(100.0, 2.5), lower=3.0, upper=2.0),
    Held(error="Alarm", reason="alarm"),
    Stopped(reason="done"),
    Evaluated(
        purpose="naive", target=None, rewards=(1.0,), costs={"cost": (2.0,)}, failed=(False,), lengths=None, seeds=None
    ),
)

OF_RARE_KINDS: tuple[Event, ...] = (
    Observed(target=(100.0, 2.5), index=7, source="bench", rewards=(1.0,), costs={"cost": (2.0,)}, failed=(False,)),
    LimitLowered(limit="cost", value=15.0, reason="new rules", seeds_hold=True),
    Resumed(by="operator", reason="motor replaced"),
    SeedTested(target=(100.0, 2.5), index=7, source="bench", costs={"cost": (2.0, None)}, failed=(False, True)),
    Shadowed(trial="trial-0000", target=None),
    Approved(trial="trial-0000", by="operator"),
    Rejected(trial="trial-0001", by="operator", reason="too fast"),
    Advanced(stage="canary", by="operator", reason="two quiet weeks"),
)
"""The kinds that a run may well do without; `ONE_OF_EACH` has all others."""
