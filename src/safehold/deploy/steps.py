"""What each call to a deployment does to it: the events it adds, and the state after them."""

from dataclasses import dataclass

from safehold.core.certificate import Trial, TrialState
from safehold.core.errors import Conflict, DataError, SafetyHold
from safehold.core.measurement import Measurement
from safehold.deploy.choose import next_ask, refuse_to_run
from safehold.deploy.replay import OPEN, State
from safehold.ledger.events import Abandoned, Deployed, Event, Held, Stopped, told


@dataclass(frozen=True, slots=True)
class Step:
    """Events to be recorded, the state after them, and the refusal to be raised once they are."""

    events: tuple[Event, ...]
    state: State
    held: SafetyHold | None = None


def ask(state: State, key: str | None) -> Step:
    """The next ask; none if the key was asked before; a record of holding if nothing may be asked.

    A trial that was asked with this key and is still open is not given again once it may not run any more; one that
    has ended is given as it ended. Waiting for an open trial is no holding: that refusal is raised at once and leaves
    no record.
    """
    known = asked_with(state, key)
    if known is not None:
        held = _held(state, known.id) if known.state in OPEN else None
        return held or Step((), state)
    try:
        event = next_ask(state, key)
    except SafetyHold as hold:
        if state.pending_full:
            raise
        return _holding(state, hold)
    return Step((event,), state.apply(event))


def asked_with(state: State, key: str | None) -> Trial | None:
    """The trial that was asked with this key."""
    if key is None:
        return None
    return next((state.trial(trial) for trial, asked in state.asked.items() if asked.key == key), None)


def deploy(state: State, trial_id: str) -> Step:
    """A trial begins to run; nothing if it already does; a record of holding if it may not run as things stand now.

    A running trial is asked about again when a runner resumes after a crash: the same conditions hold.

    Raises:
        DataError: if the trial is unknown, or was told or abandoned.
    """
    _known(state, trial_id)
    if state.states[trial_id] not in OPEN:
        raise DataError(f"trial {trial_id} is {state.states[trial_id].value}; only a planned trial can be deployed")
    held = _held(state, trial_id)
    if held is not None:
        return held
    if state.states[trial_id] is TrialState.RUNNING:
        return Step((), state)
    event = Deployed(trial=trial_id)
    return Step((event,), state.apply(event))


def tell(
    state: State,
    trial_id: str,
    measurement: Measurement,
    lengths: tuple[int, ...] | None,
    seeds: tuple[int, ...] | None,
) -> Step:
    """Outcomes of a trial, and the alarm they may call for; nothing if the same was told before.

    Raises:
        DataError: if the trial is unknown, or the outcomes do not fit the limits.
        Conflict: if the trial was told otherwise, or was attested as never deployed.
    """
    _known(state, trial_id)
    _check_outcomes(state, trial_id, measurement)
    event = told(trial_id, measurement, lengths, seeds)
    if trial_id in state.told:
        if state.told[trial_id] == event:
            return Step((), state)
        raise Conflict(
            f"trial {trial_id} was already told with other outcomes; a trial has one outcome. The first stays; "
            "ask again to measure the target again"
        )
    if state.states[trial_id] is TrialState.ABORTED:
        raise Conflict(f"trial {trial_id} was attested as never deployed, and now has outcomes; find out which is true")
    after = state.apply(event)
    alarm = after.alarm_after()
    if alarm is None:
        return Step((event,), after)
    return Step((event, alarm), after.apply(alarm))


def abandon(state: State, trial_id: str, reason: str, deployed: bool) -> Step:
    """An open trial is given up; nothing if it was already.

    Raises:
        DataError: if the trial is unknown or was told.
    """
    _known(state, trial_id)
    if state.states[trial_id] is (TrialState.UNKNOWN if deployed else TrialState.ABORTED):
        return Step((), state)
    if state.states[trial_id] not in OPEN:
        raise DataError(f"trial {trial_id} is {state.states[trial_id].value}; only an open trial can be abandoned")
    if not deployed and state.states[trial_id] is TrialState.RUNNING:
        raise DataError(
            f"trial {trial_id} was recorded as deployed; it cannot be attested as never deployed. "
            "Abandon it with deployed=True"
        )
    event = Abandoned(trial=trial_id, reason=reason, deployed=deployed)
    return Step((event,), state.apply(event))


def stop(state: State, reason: str) -> Step:
    """The run ends; nothing if it has."""
    if state.stopped is not None:
        return Step((), state)
    event = Stopped(reason=reason)
    return Step((event,), state.apply(event))


def _held(state: State, trial_id: str) -> Step | None:
    """A record of holding if this trial may not run as things stand now."""
    try:
        refuse_to_run(state, trial_id)
    except SafetyHold as hold:
        return _holding(state, hold)
    return None


def _holding(state: State, hold: SafetyHold) -> Step:
    """The record of a refusal, and the refusal."""
    return Step((Held(error=type(hold).__name__, reason=str(hold)),), state, hold)


def _known(state: State, trial_id: str) -> None:
    """Refuses a trial that this run never asked."""
    if trial_id not in state.asked:
        raise DataError(f"unknown trial {trial_id!r} in a run of {len(state.asked)} asks; use the id that ask gave")


def _check_outcomes(state: State, trial_id: str, measurement: Measurement) -> None:
    """Outcomes hold every limited cost and no other, and stay under the declared caps.

    Raises:
        DataError: naming what does not fit.
    """
    expected = {limit.name for limit in state.declaration.limits}
    if set(measurement.costs) != expected:
        raise DataError(
            f"trial {trial_id}: told costs {sorted(measurement.costs)}, the limits are on {sorted(expected)}; "
            "tell every limited cost and no other"
        )
    for name, values in measurement.costs.items():
        cap = state.declaration.caps[name]
        above = ~measurement.failed & ~(values <= cap)
        if above.any():
            place = int(above.argmax())
            raise DataError(
                f"trial {trial_id}: cost {name!r} of episode {place} is {values[place]}, above the declared cap {cap}; "
                "the cap was wrong, and every certificate rests on it: abandon the trial and declare a new run"
            )
