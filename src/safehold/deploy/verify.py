"""Checks a finished or running deployment: its chain, and that every ask follows from what was known before it.

It replays the events with the optimiser's own code, and so sees which certified target was chosen, and which alarms
were due; `safehold.deploy.audit` derives the certificates with code of its own.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safehold.core.errors import IntegrityError, SafetyHold, UsageError
from safehold.deploy import steps
from safehold.deploy.choose import next_ask
from safehold.deploy.declaration import Declaration
from safehold.deploy.replay import State, replay
from safehold.ledger.encoding import to_plain
from safehold.ledger.events import Alarmed, Asked, Event, Observed, Shadowed, Started, Told
from safehold.ledger.run import RunDirectory
from safehold.ledger.store import Record

RELATIVE = 1e-9
"""Largest relative difference of a number that another processor's rounding may explain."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that the ledger says and that does not follow: at event `seq`, in `field`."""

    seq: int
    field: str
    recorded: str
    derived: str


def verify(path: Path) -> list[Difference]:
    """Everything in the run directory's ledger that does not follow from what was recorded before it; [] is good.

    Raises:
        IntegrityError: if the chain is broken, the tail is lost, or the events do not make a deployment.
    """
    with RunDirectory(path).open(read_only=True) as ledger:
        return differences((record.seq, record.event) for record in ledger.read(after=0))


def differences(events: Iterable[tuple[int, Event]]) -> list[Difference]:
    """Replays the events and derives every ask, every shadow and every alarm anew.

    Raises:
        IntegrityError: if the first event does not declare a deployment, or an event cannot follow.
    """
    numbered = iter(events)
    _, first = next(numbered, (0, None))
    if not isinstance(first, Started):
        raise IntegrityError("this ledger does not begin with a started deployment; it is another kind of run")
    state = State.start(Declaration.from_json(first.declaration))
    found: list[Difference] = []
    due: Alarmed | None = None
    shadow: Shadowed | None = None
    for seq, event in numbered:
        if due is not None or isinstance(event, Alarmed):
            found += _compare(seq, to_plain(event) if isinstance(event, Alarmed) else None, to_plain(due))
        if shadow is not None or isinstance(event, Shadowed):
            found += _compare(seq, to_plain(event) if isinstance(event, Shadowed) else None, to_plain(shadow))
        shadow = None
        if isinstance(event, Asked):
            found += _compare(seq, to_plain(event), _derived(state, event))
            shadow = steps.shadow(state, event)
        state = state.apply(event)
        due = state.alarm_after() if isinstance(event, Told | Observed) else None
    return found


def replayed(path: Path, until: int | None = None) -> tuple[Record, State]:
    """The last record up to event number `until` (all of them if None), and the state after it.

    Raises:
        UsageError: if the run has no such event.
        IntegrityError: as `verify` does for a chain that is broken.
    """
    with RunDirectory(path).open(read_only=True) as ledger:
        records = ledger.read(after=0)
    last = records[-1].seq if records else 0
    if until is not None and not 1 <= until <= last:
        raise UsageError(f"{path} has events 1 to {last}, not {until}")
    first = records[0].event if records else None
    if not isinstance(first, Started):
        raise IntegrityError("this ledger does not begin with a started deployment; it is another kind of run")
    kept = records if until is None else records[:until]
    return kept[-1], replay(Declaration.from_json(first.declaration), (record.event for record in kept[1:]))


def _derived(state: State, recorded: Asked) -> Any:
    """The ask that this state answers with, or why it would refuse."""
    try:
        return to_plain(next_ask(state, recorded.key, recorded.context))
    except SafetyHold as hold:
        return f"refusal: {type(hold).__name__}"


def _compare(seq: int, recorded: Any, derived: Any, field: str = "") -> list[Difference]:
    """Differences between two plain values, numbers up to rounding."""
    if isinstance(recorded, Mapping) and isinstance(derived, Mapping):
        names = sorted({*recorded, *derived})
        return [d for n in names for d in _compare(seq, recorded.get(n), derived.get(n), f"{field}.{n}".strip("."))]
    if isinstance(recorded, float) and isinstance(derived, float):
        same = math.isclose(recorded, derived, rel_tol=RELATIVE, abs_tol=RELATIVE)
    else:
        same = recorded == derived
    return [] if same else [Difference(seq, field, str(recorded), str(derived))]
