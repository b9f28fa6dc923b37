"""The state of a deployment as a pure function of its events: the same fold runs live, on resume and in `verify`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from safehold.core.certificate import Trial, TrialState
from safehold.core.errors import IntegrityError
from safehold.core.measurement import Measurement
from safehold.deploy.acquisition import CostView, View
from safehold.deploy.belief import Belief
from safehold.deploy.certificates.paper import Verdict, certify
from safehold.deploy.declaration import Declaration
from safehold.gp.confidence import ConfidenceBand
from safehold.ledger.events import Abandoned, Alarmed, Asked, Deployed, Event, Started, Stopped, Told

OPEN = (TrialState.PLANNED, TrialState.RUNNING)
"""States of a trial that is still to be told."""


@dataclass(frozen=True, kw_only=True)
class State:
    """Everything that follows from the events so far; immutable, `apply` returns the next one.

    `asked`, `states` and `told` are by trial id, in the order of asking. `bands` are the running intersections.
    """

    declaration: Declaration
    asked: Mapping[str, Asked]
    states: Mapping[str, TrialState]
    told: Mapping[str, Told]
    reward: Belief
    costs: Mapping[str, Belief]
    bands: Mapping[str, ConfidenceBand]
    alarm: Alarmed | None
    stopped: str | None

    @staticmethod
    def start(declaration: Declaration) -> "State":
        """Before the first ask: prior beliefs, [0, cap] intersected with the prior's band of round 1."""
        prior, confidence = declaration.prior, declaration.settings.noise_confidence

        def before(name: str) -> Belief:
            output = prior.costs[name]
            return Belief.before(output.process(declaration.space), output.episode_sd, confidence)

        costs = {limit.name: before(limit.name) for limit in declaration.limits}
        bands = {name: ConfidenceBand.start(len(declaration.space), declaration.caps[name]) for name in costs}
        state = State(
            declaration=declaration,
            asked={},
            states={},
            told={},
            reward=Belief.before(prior.reward.process(declaration.space), prior.reward.episode_sd, confidence),
            costs=costs,
            bands=bands,
            alarm=None,
            stopped=None,
        )
        return state._intersected()

    def apply(self, event: Event) -> "State":
        """The state after one more event.

        Raises:
            IntegrityError: if the event cannot follow what came before it.
        """
        match event:
            case Asked():
                if event.trial in self.asked:
                    raise IntegrityError(f"trial {event.trial} was asked twice; the ledger was altered")
                return replace(
                    self,
                    asked={**self.asked, event.trial: event},
                    states={**self.states, event.trial: TrialState.PLANNED},
                )
            case Deployed():
                return self._moved(event.trial, TrialState.RUNNING)
            case Abandoned():
                return self._moved(event.trial, TrialState.UNKNOWN if event.deployed else TrialState.ABORTED)
            case Told():
                return self._moved(event.trial, TrialState.DONE)._informed(event)
            case Alarmed():
                return replace(self, alarm=event)
            case Stopped():
                return replace(self, stopped=event.reason)
            case Started():
                raise IntegrityError("a run was started twice in one ledger; the ledger was altered")
            case _:
                return self

    @property
    def n_told(self) -> int:
        """Measurements told so far."""
        return len(self.told)

    @property
    def open_trials(self) -> tuple[str, ...]:
        """Trials that are still to be told, in the order of asking."""
        return tuple(trial for trial, state in self.states.items() if state in OPEN)

    @property
    def pending_full(self) -> bool:
        """Whether as many trials are open as may be at once."""
        return len(self.open_trials) >= self.declaration.settings.pending_cap

    @property
    def n_spent(self) -> int:
        """Asks that count against the horizon: all but those attested as never deployed."""
        return sum(state is not TrialState.ABORTED for state in self.states.values())

    @property
    def n_explored(self) -> int:
        """Asks of the exploration phase that count against the horizon."""
        return sum(
            asked.phase == "explore" and self.states[trial] is not TrialState.ABORTED
            for trial, asked in self.asked.items()
        )

    def trial(self, trial: str) -> Trial:
        """A trial as the caller sees it."""
        asked = self.asked[trial]
        return Trial(
            id=asked.trial,
            number=asked.number,
            key=asked.key,
            target=asked.target,
            certificate=asked.certificate,
            state=self.states[trial],
        )

    def verdict(self) -> Verdict:
        """What the certificate says now."""
        return certify(
            self.declaration.limits,
            self.bands,
            self.present_upper(),
            support=self.declaration.prior.support,
            seeds=self.declaration.seeds,
            contradicted=self.contradicted(),
            measured_over=self.measured_over(),
        )

    def present_upper(self) -> dict[str, Float[np.ndarray, "m"]]:
        """mu_N + alpha_N sigma_N of every limited cost, with the noise as it is believed now."""
        alpha = self.declaration.alpha(self.n_told)
        return {name: belief.process.mean + alpha * belief.process.sd for name, belief in self.costs.items()}

    def contradicted(self) -> Bool[np.ndarray, "m"]:
        """Candidates that their own trials speak against: measured over a limit, a failed episode, an unknown outcome.

        Absence of evidence is a violation.
        """
        mask = self.measured_over()
        for trial, asked in self.asked.items():
            broken = trial in self.told and any(self.told[trial].failed)
            mask[asked.index] |= broken or self.states[trial] is TrialState.UNKNOWN
        return mask

    def measured_over(self) -> Bool[np.ndarray, "m"]:
        """Candidates whose mean over all episodes told of them is not at or under a limit.

        What a failed episode cost is at least what was recorded of it, and at least 0: a mean of such lower bounds
        that is over the limit is evidence, one under it is not (`contradicted` sees to that).
        """
        mask = np.zeros(len(self.declaration.space), dtype=np.bool_)
        outcomes: dict[int, list[Measurement]] = {}
        for trial, told in self.told.items():
            outcomes.setdefault(self.asked[trial].index, []).append(told.measurement)
        for index, measurements in outcomes.items():
            for limit in self.declaration.limits:
                costs = np.concatenate([_at_least(m, limit.name) for m in measurements])
                mask[index] |= not limit.holds(float(np.mean(costs)))
        return mask

    def view(self, verdict: Verdict) -> View:
        """What an acquisition may look at."""
        declaration = self.declaration
        episodes = declaration.settings.episodes_per_ask
        return View(
            space=declaration.space,
            reward=self.reward.process,
            reward_alpha=declaration.reward_alpha(self.n_told),
            costs={
                limit.name: CostView(
                    limit=limit,
                    process=self.costs[limit.name].process,
                    band=self.bands[limit.name],
                    scale=declaration.scale(limit),
                    noise_variance=self.costs[limit.name].episode_variance / episodes,
                    next_alpha=declaration.alpha(self.n_told + 1),
                )
                for limit in declaration.limits
            },
            safe=verdict.safe,
            support=declaration.prior.support,
        )

    def alarm_after(self) -> Alarmed | None:
        """The alarm that the last measurement calls for: a band that is empty somewhere."""
        if self.alarm is not None:
            return None
        for limit in self.declaration.limits:
            band = self.bands[limit.name]
            if band.empty.any():
                place = int(np.argmax(band.lower - band.upper))
                target = self.declaration.space.target(place)
                return Alarmed(
                    reason=(
                        f"the cost intervals of {limit.name!r} at {target} no longer have a point in common "
                        f"(lower {band.lower[place]:.4g} > upper {band.upper[place]:.4g}) after {self.n_told} "
                        "measurements: the declared dial error, length-scales or noise do not describe this policy"
                    ),
                    limit=limit.name,
                    target=target,
                    lower=float(band.lower[place]),
                    upper=float(band.upper[place]),
                )
        return None

    def _moved(self, trial: str, to: TrialState) -> "State":
        """The state with one trial moved on."""
        allowed = {
            TrialState.RUNNING: OPEN,
            TrialState.UNKNOWN: OPEN,
            TrialState.ABORTED: OPEN,
            TrialState.DONE: (*OPEN, TrialState.UNKNOWN),
        }[to]
        if trial not in self.states or self.states[trial] not in allowed:
            raise IntegrityError(
                f"trial {trial} cannot become {to.value}: it is {self.states.get(trial, 'not asked')}; "
                "the ledger was altered"
            )
        return replace(self, states={**self.states, trial: to})

    def _informed(self, event: Told) -> "State":
        """Beliefs and bands after one more measurement."""
        measurement, index = event.measurement, self.asked[event.trial].index
        costs = {
            name: _tell_cost(belief, index, measurement, name, self.declaration.caps[name])
            for name, belief in self.costs.items()
        }
        rewards = measurement.rewards[~measurement.failed]
        reward = self.reward.tell(index, rewards, rewards, 0.0) if len(rewards) else self.reward
        told = {**self.told, event.trial: event}
        return replace(self, told=told, costs=costs, reward=reward)._intersected()

    def _intersected(self) -> "State":
        """Bands of the present round; a standing alarm leaves them as they are, they mean nothing any more."""
        if self.alarm is not None or any(band.empty.any() for band in self.bands.values()):
            return self
        alpha = self.declaration.alpha(self.n_told)
        return replace(
            self,
            bands={
                name: self.bands[name].intersect(belief.process.mean, belief.process.sd, alpha)
                for name, belief in self.costs.items()
            },
        )


def replay(declaration: Declaration, events: Iterable[Event]) -> State:
    """The state after these events, the first of which follow the declaration."""
    state = State.start(declaration)
    for event in events:
        state = state.apply(event)
    return state


def _at_least(measurement: Measurement, name: str) -> Float[np.ndarray, "e"]:
    """Costs of the episodes; of a failed one the recorded lower bound, 0 if there is none."""
    costs = measurement.costs[name]
    return np.where(measurement.failed & ~np.isfinite(costs), 0.0, costs)


def _tell_cost(belief: Belief, index: int, measurement: Measurement, name: str, cap: float) -> Belief:
    """Tells one cost, conservatively where episodes failed.

    A failed episode had some cost in [0, cap]; it is told as cap, with standard deviation cap / 2 of its own, and
    says nothing about the noise. Its target is revoked besides (`State.contradicted`).
    """
    failed = measurement.failed
    outcomes = np.where(failed, cap, measurement.costs[name])
    share = float(np.mean(failed))
    return belief.tell(index, outcomes, measurement.costs[name][~failed], (share * cap / 2.0) ** 2)
