"""What each call to a deployment does to it: the events it adds, and the state after them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from safehold.core.certificate import Trial, TrialState
from safehold.core.constraint import SPREAD_EPISODES
from safehold.core.errors import Alarm, Conflict, DataError, Exhausted, SafetyHold, Unapproved, UsageError
from safehold.core.measurement import Measurement
from safehold.core.target import Target
from safehold.deploy.choose import Context, next_ask, refuse_to_run
from safehold.deploy.replay import OPEN, State
from safehold.ledger.events import (
    Abandoned,
    Advanced,
    Approved,
    Asked,
    Deployed,
    Event,
    Held,
    LimitLowered,
    Rejected,
    Resumed,
    Shadowed,
    Stopped,
    observed,
    seed_tested,
    told,
)


@dataclass(frozen=True, slots=True)
class Step:
    """Events to be recorded, the state after them, and the refusal to be raised once they are."""

    events: tuple[Event, ...]
    state: State
    held: SafetyHold | None = None


def ask(state: State, key: str | None, context: Context | None = None) -> Step:
    """The next ask; none if the key was asked before; a record of holding if nothing may be asked.

    A trial that was asked with this key and is still open is not given again once it may not run any more; one that
    has ended is given as it ended. Waiting for an open trial is no holding: that refusal is raised at once and leaves
    no record.

    Raises:
        Conflict: if the key was asked before in another context.
        UsageError: if the context is none of this dial's.
    """
    known = asked_with(state, key)
    if known is not None:
        before = state.asked[known.id].context
        if dict(before or {}) != dict(context or {}):
            raise Conflict(f"key {key!r} was asked in the context {before}, now {context}; give every ask its own key")
        held = _held(state, known.id) if known.state in OPEN else None
        return held or Step((), state)
    try:
        event = next_ask(state, key, context)
    except SafetyHold as hold:
        if state.pending_full:
            raise
        return _holding(state, hold)
    beside = shadow(state, event)
    return Step((event,) if beside is None else (event, beside), state.apply(event))


def shadow(state: State, asked: Asked) -> Shadowed | None:
    """What the roll-out's last stage would have asked instead, if this is its shadow stage."""
    if state.stage is None or state.stage.name != "shadow":
        return None
    last = replace(state, stage_number=len(state.declaration.stages) - 1)
    try:
        return Shadowed(trial=asked.trial, target=next_ask(last, None, asked.context).target)
    except SafetyHold:
        return Shadowed(trial=asked.trial, target=None)


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
    if awaiting(state, trial_id):
        return _holding(
            state,
            Unapproved(
                f"{trial_id} waits for an operator: its target {state.asked[trial_id].target} may not run before "
                "somebody approves it (`safehold deploy approve`)"
            ),
        )
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
    _check_outcomes(state, f"trial {trial_id}", measurement)
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
    return _alarmed(state, event)


def observe(state: State, target: Target, measurement: Measurement, source: str) -> Step:
    """Outside episodes at a candidate, and the alarm they may call for; telling them twice counts them twice.

    Raises:
        DataError: if the outcomes do not fit the limits.
        UsageError: if the target is no candidate.
    """
    index = state.declaration.space.index(target)
    _check_outcomes(state, f"observation at {target}", measurement)
    return _alarmed(state, observed(target, index, source, measurement))


def lower_limit(state: State, name: str, value: float, reason: str, seeds_hold: bool) -> Step:
    """A limit is lowered; nothing if it already has this value.

    Raises:
        UsageError: if there is no such limit, or it would be raised, or is no limit.
    """
    limit = next((limit for limit in state.limits if limit.name == name), None)
    if limit is None:
        raise UsageError(f"no limit on {name!r}; limits are on {sorted(limit.name for limit in state.limits)}")
    if value == limit.value:
        return Step((), state)
    if not 0.0 <= value < limit.value:
        raise UsageError(
            f"the limit on {name!r} is {limit.value:g} and can only be lowered, not set to {value:g}; what was "
            "promised cannot be widened: declare a new run for a higher one"
        )
    event = LimitLowered(limit=name, value=float(value), reason=reason, seeds_hold=seeds_hold)
    return Step((event,), state.apply(event))


def resume(state: State, by: str, reason: str) -> Step:
    """A new epoch after an alarm.

    Raises:
        UsageError: if there is no alarm, or nobody is named.
        Conflict: if trials are open.
        Exhausted: if the run was stopped, or nothing of delta is left for a new epoch.
    """
    _refuse_nobody(by, reason)
    if state.stopped is not None:
        raise Exhausted(f"the run was stopped: {state.stopped}; start a new one to go on")
    if state.alarm is None:
        raise UsageError("no alarm stands; there is nothing to resume from")
    if state.open_trials:
        raise Conflict(f"trials are open ({', '.join(state.open_trials)}); tell or abandon them before a new epoch")
    at_once = [rule.kind for rule in state.declaration.rules if rule.one_epoch]
    if at_once or not state.left > 0.0:
        spent = f"the rule {at_once[0]!r} spends all of it at once" if at_once else "it is spent"
        raise Exhausted(f"nothing of delta is left for a new epoch: {spent}; declare a new run")
    event = Resumed(by=by, reason=reason)
    return Step((event,), state.apply(event))


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


def awaiting(state: State, trial_id: str) -> bool:
    """Whether a trial waits for somebody's approval."""
    needed = state.declaration.settings.approval and trial_id not in state.approved
    return needed and state.states[trial_id] is TrialState.PLANNED


def approve(state: State, trial_id: str, by: str) -> Step:
    """Somebody lets a trial run; nothing if it was approved; a record of holding if it may not run any more.

    Raises:
        DataError: if the trial is unknown, or has ended or begun.
        UsageError: if this run needs no approval, or nobody is named.
    """
    _refuse_nobody(by)
    _known(state, trial_id)
    if not state.declaration.settings.approval:
        raise UsageError("this run was declared without approval; its trials wait for nobody")
    if trial_id in state.approved:
        return Step((), state)
    if state.states[trial_id] is not TrialState.PLANNED:
        raise DataError(f"trial {trial_id} is {state.states[trial_id].value}; only a planned one can be approved")
    held = _held(state, trial_id)
    if held is not None:
        return held
    event = Approved(trial=trial_id, by=by)
    return Step((event,), state.apply(event))


def reject(state: State, trial_id: str, by: str, reason: str) -> Step:
    """Somebody does not let a planned trial run; its target is not handed out again, and nothing is refunded.

    Raises:
        DataError: if the trial is unknown, or has ended or begun.
        UsageError: if nobody is named.
    """
    _refuse_nobody(by, reason)
    _known(state, trial_id)
    if state.states[trial_id] is not TrialState.PLANNED:
        raise DataError(f"trial {trial_id} is {state.states[trial_id].value}; only a planned one can be rejected")
    event = Rejected(trial=trial_id, by=by, reason=reason)
    return Step((event,), state.apply(event))


def advance(state: State, by: str, reason: str) -> Step:
    """The roll-out goes on to its next stage.

    Raises:
        UsageError: if it has no next stage, or nobody is named.
        Conflict: if trials are open.
        Alarm: if an alarm stands.
        Exhausted: if the run was stopped.
    """
    _refuse_nobody(by, reason)
    stages = state.declaration.stages
    if state.stage_number + 1 >= len(stages):
        what = "was declared without stages" if not stages else f"is in its last stage, {stages[-1].name!r}"
        raise UsageError(f"the roll-out {what}; there is nothing to go on to")
    if state.stopped is not None:
        raise Exhausted(f"the run was stopped: {state.stopped}; start a new one to go on")
    if state.alarm is not None:
        raise Alarm(f"alarm: {state.alarm.reason}. Resume the run before its roll-out goes on")
    if state.open_trials:
        raise Conflict(f"trials are open ({', '.join(state.open_trials)}); tell or abandon them before the next stage")
    event = Advanced(stage=stages[state.stage_number + 1].name, by=by, reason=reason)
    return Step((event,), state.apply(event))


def verify_seed(
    state: State,
    target: Target,
    costs: Mapping[str, Float[np.ndarray, "_"]],
    failed: Bool[np.ndarray, "_"],
    source: str,
) -> Step:
    """Raw episodes of a seed target that is to be verified; nothing if the same were told under this source before.

    Raises:
        UsageError: if seed targets are not to be verified here, or the target is none of them.
        DataError: if the outcomes do not fit the limits.
        Conflict: if other episodes were told under this source.
        Exhausted: if the run was stopped.
    """
    declaration = state.declaration
    index = declaration.space.index(target)
    if declaration.seed_rule != "verified" or not declaration.seeds[index]:
        raise UsageError(
            f"{target} is no seed target that is to be verified; seed targets of this run are {declaration.seed_rule}: "
            f"{declaration.seed_targets[:5]}"
        )
    if state.stopped is not None:
        raise Exhausted(f"the run was stopped: {state.stopped}; start a new one to go on")
    if not source.strip():
        raise UsageError("say where the episodes come from; each source counts once")
    _check_outcomes(
        state, f"seed episodes of {source!r}", Measurement(rewards=np.zeros(len(failed)), costs=costs, failed=failed)
    )
    event = seed_tested(target, index, source, costs, failed)
    if source in state.seed_tests:
        if state.seed_tests[source] == event:
            return Step((), state)
        raise Conflict(f"other seed episodes were told as {source!r}; name every batch of episodes once")
    return _alarmed(state, event)


def stop(state: State, reason: str) -> Step:
    """The run ends; nothing if it has."""
    if state.stopped is not None:
        return Step((), state)
    event = Stopped(reason=reason)
    return Step((event,), state.apply(event))


def _alarmed(state: State, event: Event) -> Step:
    """A measurement, and the alarm that it calls for."""
    after = state.apply(event)
    alarm = after.alarm_after()
    if alarm is None:
        return Step((event,), after)
    return Step((event, alarm), after.apply(alarm))


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


def _refuse_nobody(by: str, reason: str = "none is needed") -> None:
    """Decisions are somebody's, for a reason."""
    if not by.strip() or not reason.strip():
        raise UsageError("this is decided by somebody, for a reason; both are kept in the ledger")


def _known(state: State, trial_id: str) -> None:
    """Refuses a trial that this run never asked."""
    if trial_id not in state.asked:
        raise DataError(f"unknown trial {trial_id!r} in a run of {len(state.asked)} asks; use the id that ask gave")


def _check_outcomes(state: State, what: str, measurement: Measurement) -> None:
    """Outcomes hold every limited cost and no other, stay under the declared caps, and are enough for the limits.

    Raises:
        DataError: naming what does not fit.
    """
    expected = {limit.name for limit in state.declaration.limits}
    if set(measurement.costs) != expected:
        raise DataError(
            f"{what}: told costs {sorted(measurement.costs)}, the limits are on {sorted(expected)}; "
            "tell every limited cost and no other"
        )
    for name, values in measurement.costs.items():
        cap = state.declaration.caps[name]
        above = ~measurement.failed & ~(values <= cap)
        if above.any():
            place = int(above.argmax())
            raise DataError(
                f"{what}: cost {name!r} of episode {place} is {values[place]}, above the declared cap {cap}; "
                "the cap was wrong, and every certificate rests on it: abandon the trial and declare a new run"
            )
    for limit in state.limits:
        if limit.approximate and len(measurement) < SPREAD_EPISODES:
            raise DataError(
                f"{what}: {len(measurement)} episodes; the {limit.kind} limit on {limit.name!r} needs the spread of at "
                f"least {SPREAD_EPISODES}"
            )
