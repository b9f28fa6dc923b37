"""Ask, tell, recommend: `TargetOptimizer` in memory; `Deployment`, the same with every step in a ledger first."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from safehold import __version__
from safehold.core.certificate import Trial
from safehold.core.errors import IntegrityError
from safehold.core.measurement import Measurement
from safehold.core.target import Target
from safehold.deploy import steps
from safehold.deploy.choose import Context
from safehold.deploy.declaration import Declaration
from safehold.deploy.replay import State
from safehold.deploy.status import Recommendation, Status, recommend, status
from safehold.deploy.steps import Step
from safehold.ledger.events import Event, Seeded, Started, evaluated
from safehold.ledger.run import RunDirectory
from safehold.ledger.store import Ledger, Record

logger = logging.getLogger(__name__)


class TargetOptimizer:
    """Chooses targets one after another, each with a certificate; forgets everything when the process ends."""

    def __init__(self, declaration: Declaration) -> None:
        self._state = State.start(declaration)

    @property
    def state(self) -> State:
        """Everything that follows from what happened so far."""
        return self._state

    def ask(self, key: str | None = None, *, context: Context | None = None) -> Trial:
        """The next target that may be deployed; the same key gives the same trial again.

        `context` holds the values of dial axes that the world has fixed; along the others the tuner chooses.

        Raises:
            NoCertifiedTarget, Exhausted, Alarm: the answer is to hold; the message says why and what is nearest.
            Conflict: if the key was asked before in another context.
            UsageError: if the context is none of this dial's.
        """
        self._take(steps.ask(self._state, key, context))
        return _answer(self._state, key)

    def deployed(self, trial_id: str) -> Trial:
        """The first action of a trial is about to be taken.

        Raises:
            NoCertifiedTarget, Exhausted, Alarm: it may not run any more; the message says why.
        """
        self._take(steps.deploy(self._state, trial_id))
        return self._state.trial(trial_id)

    def tell(
        self,
        trial_id: str,
        measurement: Measurement,
        *,
        lengths: tuple[int, ...] | None = None,
        seeds: tuple[int, ...] | None = None,
    ) -> Trial:
        """Raw outcomes of a trial. Telling the same twice changes nothing.

        Raises:
            DataError: if the trial is unknown, or the outcomes do not fit the limits.
            Conflict: if the trial was told otherwise before.
        """
        self._take(steps.tell(self._state, trial_id, measurement, lengths, seeds))
        return self._state.trial(trial_id)

    def abandon(self, trial_id: str, reason: str, *, deployed: bool = True) -> Trial:
        """A trial will not be told. Unless attested as never deployed, its target is revoked."""
        self._take(steps.abandon(self._state, trial_id, reason, deployed))
        return self._state.trial(trial_id)

    def observe(self, target: Target, measurement: Measurement, *, source: str) -> None:
        """Episodes from outside this deployment inform the model; they make no seed target and pay for none.

        `source` says where they come from. Told twice they count twice.

        Raises:
            DataError: if the outcomes do not fit the limits.
            UsageError: if the target is no candidate.
        """
        self._take(steps.observe(self._state, target, measurement, source))

    def lower_limit(self, name: str, value: float, reason: str, *, seeds_hold: bool = False) -> None:
        """From now on the limit on this cost is lower; what was paid for the old one is to be paid for again.

        `seeds_hold`: whoever lowers it attests that the seed targets keep the new limit too; otherwise they are no
        longer handed out on their premise.

        Raises:
            UsageError: if there is no such limit, or it would be raised.
        """
        self._take(steps.lower_limit(self._state, name, value, reason, seeds_hold))

    def verify_seed(
        self,
        target: Target,
        costs: Mapping[str, Float[np.ndarray, "_"]],
        *,
        source: str,
        failed: Bool[np.ndarray, "_"] | None = None,
    ) -> bool:
        """Raw episodes of a seed target that is to be verified, in the order they ran; whether it is verified now.

        Tell as many batches as you like, each under a `source` of its own, and stop whenever you like; told the same
        twice they count once. They inform the beliefs about costs. An episode that failed or has no cost counts as the
        cap.

        Raises:
            UsageError: if seed targets are not to be verified in this run, or the target is none of them.
            DataError: if the outcomes do not fit the limits.
            Conflict: if other episodes were told under this source.
        """
        failed = np.zeros(len(next(iter(costs.values()))), dtype=np.bool_) if failed is None else failed
        self._take(steps.verify_seed(self._state, target, costs, failed, source))
        return bool(self._state.established[self._state.declaration.space.index(target)])

    def approve(self, trial_id: str, by: str) -> Trial:
        """Somebody lets a trial run, where the run was declared to need it.

        Raises:
            NoCertifiedTarget, Exhausted, Alarm: it may not run any more, approved or not.
            DataError: if the trial is unknown, or not planned.
            UsageError: if nobody is named, or the run needs no approval.
        """
        self._take(steps.approve(self._state, trial_id, by))
        return self._state.trial(trial_id)

    def reject(self, trial_id: str, by: str, reason: str) -> Trial:
        """Somebody does not let a planned trial run; its target is not handed out again.

        Raises:
            DataError: if the trial is unknown, or not planned.
            UsageError: if nobody is named.
        """
        self._take(steps.reject(self._state, trial_id, by, reason))
        return self._state.trial(trial_id)

    def advance(self, by: str, reason: str) -> None:
        """The roll-out goes on to its next stage.

        Raises:
            UsageError: if it has none, or nobody is named.
            Conflict: if trials are open.
            Alarm, Exhausted: if an alarm stands, or the run was stopped.
        """
        self._take(steps.advance(self._state, by, reason))

    def resume(self, by: str, reason: str) -> None:
        """A new epoch after an alarm: what was told is forgotten, and only what is left of delta may be spent.

        `by` names who takes the responsibility, and attests anew that the seed targets are safe.

        Raises:
            UsageError: if no alarm stands, or nobody is named.
            Conflict: if trials are open.
            Exhausted: if the run was stopped, or nothing of delta is left.
        """
        self._take(steps.resume(self._state, by, reason))

    def recommend(self) -> Recommendation:
        """The told target of highest posterior mean reward among those that what was told certifies.

        Raises:
            NoCertifiedTarget: if there is none.
            Alarm: if a measurement contradicted the model.
        """
        return recommend(self._state)

    def status(self) -> Status:
        """Where this deployment stands."""
        return status(self._state)

    def _take(self, step: Step) -> None:
        """Assigns the new state, then refuses if that is the answer."""
        self._state = step.state
        if step.held is not None:
            raise step.held


class Deployment:
    """The same, durable: every ask and tell is committed to the run's ledger before it takes effect.

    Any number of processes may hold one and take turns; each call first catches up with what others wrote.
    """

    def __init__(self, run: RunDirectory, ledger: Ledger, records: Sequence[Record]) -> None:
        self.run = run
        self._ledger = ledger
        self._seq = records[0].seq if records else 0
        self._state = State.start(_declared(records))
        self._state, self._seq = self._caught_up(records[1:])

    @staticmethod
    def create(
        path: Path,
        declaration: Declaration,
        *,
        policy_digest: str | None = None,
        provenance: Mapping[str, object] | None = None,
        seed_rule: str | None = None,
        seed_evidence: Mapping[str, object] | None = None,
    ) -> "Deployment":
        """A new deployment in the run directory `path`.

        `seed_rule`, in words, and `seed_evidence` say where the seed targets come from.

        Raises:
            UsageError: if the directory already holds a run.
            IntegrityError: if it held one whose ledger was lost.
        """
        run = RunDirectory(path)
        started = Started(
            declaration=declaration.to_json(),
            policy_digest=policy_digest,
            provenance=dict(provenance or {}),
            safehold_version=__version__,
        )
        seeded = Seeded(
            targets=declaration.seed_targets,
            rule=seed_rule or declaration.seed_rule,
            evidence=dict(seed_evidence or {}),
        )
        return Deployment._over(run, run.create([started, seeded]))

    @staticmethod
    def open(path: Path, *, read_only: bool = False) -> "Deployment":
        """The deployment in a run directory, as its ledger says it stands; nothing else is needed.

        Raises:
            UsageError: if there is none.
            IntegrityError: if the ledger is damaged, altered, or lost its tail.
        """
        run = RunDirectory(path)
        return Deployment._over(run, run.open(read_only=read_only))

    @staticmethod
    def _over(run: RunDirectory, ledger: Ledger) -> "Deployment":
        """A deployment over an open ledger, which is closed if that fails."""
        try:
            return Deployment(run, ledger, ledger.read(after=0))
        except BaseException:
            ledger.close()
            raise

    def close(self) -> None:
        """Closes the ledger."""
        self._ledger.close()

    def __enter__(self) -> "Deployment":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def state(self) -> State:
        """Everything that follows from the ledger as last read."""
        return self._state

    @property
    def ledger(self) -> Ledger:
        """The open ledger, for export and backup."""
        return self._ledger

    def refresh(self) -> None:
        """Catches up with what other processes wrote."""
        self._state, self._seq = self._caught_up(self._ledger.read(after=self._seq))

    def ask(self, key: str | None = None, *, context: Context | None = None) -> Trial:
        """The next target that may be deployed, committed before it is returned; the same key, the same trial.

        `context` holds the values of dial axes that the world has fixed; along the others the tuner chooses.

        Raises:
            NoCertifiedTarget, Exhausted, Alarm: the answer is to hold, and that is recorded.
            Conflict: if the key was asked before in another context.
            UsageError: if the context is none of this dial's.
        """
        self._take(lambda state: steps.ask(state, key, context))
        return _answer(self._state, key)

    def deployed(self, trial_id: str) -> Trial:
        """The first action of a trial is about to be taken: call it before the first step of its first episode.

        Raises:
            NoCertifiedTarget, Exhausted, Alarm: it may not run any more, and that is recorded; do not run it.
        """
        self._take(lambda state: steps.deploy(state, trial_id))
        return self._state.trial(trial_id)

    def tell(
        self,
        trial_id: str,
        measurement: Measurement,
        *,
        lengths: tuple[int, ...] | None = None,
        seeds: tuple[int, ...] | None = None,
    ) -> Trial:
        """Raw outcomes of a trial, committed before this returns. Telling the same twice changes nothing.

        Raises:
            DataError: if the trial is unknown, or the outcomes do not fit the limits.
            Conflict: if the trial was told otherwise before.
        """
        self._take(lambda state: steps.tell(state, trial_id, measurement, lengths, seeds))
        return self._state.trial(trial_id)

    def abandon(self, trial_id: str, reason: str, *, deployed: bool = True) -> Trial:
        """A trial will not be told. Unless attested as never deployed, its target is revoked."""
        self._take(lambda state: steps.abandon(state, trial_id, reason, deployed))
        return self._state.trial(trial_id)

    def observe(self, target: Target, measurement: Measurement, *, source: str) -> None:
        """Episodes from outside this deployment inform the model; they make no seed target and pay for none.

        `source` says where they come from. Told twice they count twice.

        Raises:
            DataError: if the outcomes do not fit the limits.
            UsageError: if the target is no candidate.
        """
        self._take(lambda state: steps.observe(state, target, measurement, source))

    def lower_limit(self, name: str, value: float, reason: str, *, seeds_hold: bool = False) -> None:
        """From now on the limit on this cost is lower; what was paid for the old one is to be paid for again.

        `seeds_hold`: whoever lowers it attests that the seed targets keep the new limit too; otherwise they are no
        longer handed out on their premise.

        Raises:
            UsageError: if there is no such limit, or it would be raised.
        """
        self._take(lambda state: steps.lower_limit(state, name, value, reason, seeds_hold))

    def verify_seed(
        self,
        target: Target,
        costs: Mapping[str, Float[np.ndarray, "_"]],
        *,
        source: str,
        failed: Bool[np.ndarray, "_"] | None = None,
    ) -> bool:
        """Raw episodes of a seed target that is to be verified, in the order they ran; whether it is verified now.

        Tell as many batches as you like, each under a `source` of its own, and stop whenever you like; told the same
        twice they count once. They inform the beliefs about costs. An episode that failed or has no cost counts as the
        cap.

        Raises:
            UsageError: if seed targets are not to be verified in this run, or the target is none of them.
            DataError: if the outcomes do not fit the limits.
            Conflict: if other episodes were told under this source.
        """
        failed = np.zeros(len(next(iter(costs.values()))), dtype=np.bool_) if failed is None else failed
        self._take(lambda state: steps.verify_seed(state, target, costs, failed, source))
        return bool(self._state.established[self._state.declaration.space.index(target)])

    def approve(self, trial_id: str, by: str) -> Trial:
        """Somebody lets a trial run, where the run was declared to need it; committed before this returns.

        Raises:
            NoCertifiedTarget, Exhausted, Alarm: it may not run any more, approved or not.
            DataError: if the trial is unknown, or not planned.
            UsageError: if nobody is named, or the run needs no approval.
        """
        self._take(lambda state: steps.approve(state, trial_id, by))
        return self._state.trial(trial_id)

    def reject(self, trial_id: str, by: str, reason: str) -> Trial:
        """Somebody does not let a planned trial run; its target is not handed out again.

        Raises:
            DataError: if the trial is unknown, or not planned.
            UsageError: if nobody is named.
        """
        self._take(lambda state: steps.reject(state, trial_id, by, reason))
        return self._state.trial(trial_id)

    def advance(self, by: str, reason: str) -> None:
        """The roll-out goes on to its next stage.

        Raises:
            UsageError: if it has none, or nobody is named.
            Conflict: if trials are open.
            Alarm, Exhausted: if an alarm stands, or the run was stopped.
        """
        self._take(lambda state: steps.advance(state, by, reason))

    def resume(self, by: str, reason: str) -> None:
        """A new epoch after an alarm: what was told is forgotten, and only what is left of delta may be spent.

        `by` names who takes the responsibility, and attests anew that the seed targets are safe.

        Raises:
            UsageError: if no alarm stands, or nobody is named.
            Conflict: if trials are open.
            Exhausted: if the run was stopped, or nothing of delta is left.
        """
        self._take(lambda state: steps.resume(state, by, reason))

    def stop(self, reason: str) -> None:
        """Ends the run: nothing is handed out any more."""
        self._take(lambda state: steps.stop(state, reason))

    def evaluated(
        self,
        purpose: str,
        target: Target | None,
        measurement: Measurement,
        *,
        lengths: tuple[int, ...] | None = None,
        seeds: tuple[int, ...] | None = None,
    ) -> None:
        """Records episodes outside the certified loop, for reports; they inform no model."""
        event = evaluated(purpose, target, measurement, lengths, seeds)
        self._take(lambda state: Step((event,), state))

    def recommend(self) -> Recommendation:
        """The told target of highest posterior mean reward among those that what was told certifies.

        Raises:
            NoCertifiedTarget: if there is none.
            Alarm: if a measurement contradicted the model.
        """
        self.refresh()
        return recommend(self._state)

    def status(self) -> Status:
        """Where this deployment stands."""
        self.refresh()
        return status(self._state)

    def events(self) -> list[Event]:
        """Every event of the run, in order."""
        return [record.event for record in self._ledger.read(after=0)]

    def _take(self, step_of: Callable[[State], Step]) -> None:
        """Catches up, steps and records in one transaction; assigns the new state once it is durable.

        A refusal is recorded too, but not twice in a row.
        """
        with self._ledger.transaction() as turn:
            state, _ = self._caught_up(self._ledger.read(after=self._seq))
            step = step_of(state)
            repeated = step.held is not None and turn.last.kind == "held" and turn.last.event == step.events[0]
            for event in () if repeated else step.events:
                record = turn.append(event)
                logger.debug("event %d: %s", record.seq, record.kind)
        self._state, self._seq = step.state, turn.last.seq
        if step.held is not None:
            raise step.held

    def _caught_up(self, records: Sequence[Record]) -> tuple[State, int]:
        """State and last sequence number after these records."""
        state = self._state
        for record in records:
            state = state.apply(record.event)
        return state, records[-1].seq if records else self._seq


def _answer(state: State, key: str | None) -> Trial:
    """The trial that an ask returns: that of its key, or the newest one."""
    trial = steps.asked_with(state, key)
    return trial if trial is not None else state.trial(next(reversed(list(state.asked))))


def _declared(records: Sequence[Record]) -> Declaration:
    """The declaration in a run's first event.

    Raises:
        IntegrityError: if the first event is another.
    """
    first = records[0].event if records else None
    if not isinstance(first, Started):
        raise IntegrityError("this ledger does not begin with a started deployment; it is another kind of run")
    return Declaration.from_json(first.declaration)
