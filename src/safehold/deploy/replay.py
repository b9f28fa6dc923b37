"""The state of a deployment as a pure function of its events: the same fold runs live, on resume and in `verify`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float

from safehold.core.certificate import Trial, TrialState
from safehold.core.constraint import SPREAD_EPISODES, Limit
from safehold.core.errors import IntegrityError
from safehold.core.measurement import Measurement
from safehold.deploy.belief import Belief, ToldMean
from safehold.deploy.betting import Capital
from safehold.deploy.certificates.rule import Evidence, Standing, Verdict, compose
from safehold.deploy.declaration import Declaration
from safehold.deploy.stages import Stage
from safehold.deploy.watch import LADDER, Watch, reward_score, score
from safehold.ledger.events import (
    Abandoned,
    Advanced,
    Alarmed,
    Approved,
    Asked,
    Deployed,
    Event,
    Level,
    LimitLowered,
    Observed,
    Rejected,
    Resumed,
    SeedTested,
    Started,
    Stopped,
    Told,
    as_array,
)

OPEN = (TrialState.PLANNED, TrialState.RUNNING)
"""States of a trial that is still to be told."""


@dataclass(frozen=True, slots=True)
class Moments:
    """Number, mean and sum of squared deviations of episodes' costs."""

    n: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def of(self, values: Float[np.ndarray, "e"]) -> "Moments":
        """With more episodes (Chan, Golub & LeVeque 1983)."""
        n = self.n + len(values)
        mean = float(np.mean(values))
        squares = float(np.sum((values - mean) ** 2))
        if self.n == 0:
            return Moments(n, mean, squares)
        apart = mean - self.mean
        return Moments(
            n,
            (self.n * self.mean + len(values) * mean) / n,
            self.squares + squares + apart**2 * self.n * len(values) / n,
        )


@dataclass(frozen=True, slots=True)
class Tally:
    """What the episodes at one candidate were: the costs by limit, and whether any of them failed.

    The cost of a failed episode is at least what was recorded of it, and at least 0: a mean of such lower bounds that
    is over the limit is evidence, one under it is not.
    """

    costs: Mapping[str, Moments]
    failed: bool = False

    @property
    def episodes(self) -> int:
        """Number of episodes."""
        return next(iter(self.costs.values())).n

    def of(self, measurement: Measurement) -> "Tally":
        """With more episodes."""
        costs = {}
        for name, values in measurement.costs.items():
            at_least = np.where(measurement.failed & ~np.isfinite(values), 0.0, values)
            costs[name] = self.costs.get(name, Moments()).of(at_least)
        return Tally(costs, self.failed or bool(measurement.failed.any()))

    def over(self, limits: Iterable[Limit]) -> bool:
        """Whether the limited statistic of all these episodes is not at or under a limit."""
        for limit in limits:
            moments = self.costs[limit.name]
            if not limit.holds(limit.statistic_of(moments.n, moments.mean, moments.squares)):
                return True
        return False


@dataclass(frozen=True, kw_only=True)
class State:
    """Everything that follows from the events so far; immutable, `apply` returns the next one.

    `asked`, `states` and `told` are by trial id, in the order of asking, over all epochs. What certificates rest on is
    of the present epoch alone, which began with ask number `epoch_start`: beliefs, `standings` (one a rule), and
    `tallies`, the episodes told at each candidate, `outside` those observed elsewhere. `rounds` counts measurements,
    told or observed. `limits` are the declared ones, or lower. `seeds_hold`: the seed targets' premise is about the
    limits as they are. `spent_before`: what earlier epochs spent of the rules' share of delta. `watch`: the monitors
    since the epoch began or the last alarm was raised; `alarm` is the last one, `level` where it led. `seed_tests`:
    the episodes of seed targets that are to be verified, by source. `stage_number`: of the roll-out's stages, begun at
    ask number `stage_start`. `approved`: trials that a person let run; `rejected`: candidates that a person did not.
    """

    declaration: Declaration
    limits: tuple[Limit, ...]
    asked: Mapping[str, Asked]
    states: Mapping[str, TrialState]
    told: Mapping[str, Told]
    reward: Belief
    costs: Mapping[str, Belief]
    standings: tuple[Standing, ...]
    watch: Watch
    tallies: Mapping[int, Tally] = field(default_factory=dict)
    outside: Mapping[int, Tally] = field(default_factory=dict)
    rounds: int = 0
    seeds_hold: bool = True
    level: Level = "normal"
    alarm: Alarmed | None = None
    stopped: str | None = None
    epoch: int = 0
    epoch_start: int = 0
    spent_before: float = 0.0
    seed_tests: Mapping[str, SeedTested] = field(default_factory=dict)
    stage_number: int = 0
    stage_start: int = 0
    approved: frozenset[str] = frozenset()
    rejected: frozenset[int] = frozenset()

    @staticmethod
    def start(declaration: Declaration) -> "State":
        """Before the first ask: prior beliefs, and every rule as it stands on them."""
        return State._epoch(
            declaration=declaration, limits=declaration.limits, asked={}, states={}, told={}, before=None, left=None
        )

    def apply(self, event: Event) -> "State":
        """The state after one more event.

        Raises:
            IntegrityError: if the event cannot follow what came before it.
        """
        match event:
            case Asked():
                return self._after_ask(event)
            case SeedTested() | Approved() | Rejected() | Advanced():
                return self._decided(event)
            case Deployed():
                return self._moved(event.trial, TrialState.RUNNING)
            case Abandoned():
                return self._moved(event.trial, TrialState.UNKNOWN if event.deployed else TrialState.ABORTED)
            case Told():
                return self._moved(event.trial, TrialState.DONE)._after_tell(event)
            case Observed():
                return self._informed(event.index, event.measurement, own=False)
            case LimitLowered():
                return self._lowered(event)
            case Alarmed():
                return self._after_alarm(event)
            case Resumed():
                return self._resumed()
            case Stopped():
                return replace(self, stopped=event.reason)
            case Started():
                raise IntegrityError("a run was started twice in one ledger; the ledger was altered")
            case _:
                return self

    def _decided(self, event: SeedTested | Approved | Rejected | Advanced) -> "State":
        """The state after a person's decision, or after episodes that one brought."""
        match event:
            case SeedTested():
                return self._after_seed_test(event)
            case Approved():
                return replace(self, approved=self.approved | {event.trial})
            case Rejected():
                moved = self._moved(event.trial, TrialState.ABORTED)
                return replace(moved, rejected=self.rejected | {self.asked[event.trial].index})
            case Advanced():
                return self._advanced(event)

    @property
    def n_told(self) -> int:
        """Trials told so far, over all epochs."""
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

    @property
    def spent(self) -> float:
        """What was charged so far, over all epochs, out of the rules' share of delta."""
        return self.spent_before + sum(standing.spent for standing in self.standings)

    @property
    def left(self) -> float:
        """What a rule that charges has left."""
        return max(self.declaration.share.certificate - self.spent, 0.0)

    @property
    def stage(self) -> Stage | None:
        """The stage that the roll-out is in; None if it has none."""
        stages = self.declaration.stages
        return stages[self.stage_number] if stages else None

    @property
    def episodes_per_ask(self) -> int:
        """Episodes that one ask runs for in this stage."""
        fewer = None if self.stage is None else self.stage.episodes_per_ask
        return self.declaration.settings.episodes_per_ask if fewer is None else fewer

    @property
    def stage_left(self) -> float:
        """What the rules may still spend before the roll-out goes on: the shares of the stages so far, less spent."""
        if self.stage is None:
            return self.left
        last = self.stage_number == len(self.declaration.stages) - 1
        share = sum(stage.share for stage in self.declaration.stages[: self.stage_number + 1])
        return self.left if last else max(share - self.spent, 0.0)

    @cached_property
    def seed_capitals(self) -> Mapping[int, Mapping[str, Capital]]:
        """Bets against each tested seed target being unsafe, by limit, over its episodes in the order told."""
        declaration = self.declaration
        capitals: dict[int, dict[str, Capital]] = {}
        for test in self.seed_tests.values():
            before = capitals.get(test.index) or {
                limit.name: Capital.of(limit, declaration.caps[limit.name], "unsafe") for limit in declaration.limits
            }
            capitals[test.index] = {
                name: capital.after(as_array(test.costs[name]), np.array(test.failed, dtype=np.bool_))
                for name, capital in before.items()
            }
        return capitals

    @cached_property
    def established(self) -> Bool[np.ndarray, "m"]:
        """Seed targets whose premise may be relied on: attested, from the log, or verified by their episodes.

        P(an unsafe one is ever verified) <= the seeds' share of delta: an unsafe one breaks a limit, and is found to
        keep that one with probability at most its level; the levels add up to the share.
        """
        if self.declaration.seed_rule != "verified":
            return self.declaration.seeds
        mask, level = np.zeros(len(self.declaration.space), dtype=np.bool_), self.declaration.seed_level
        for index, capitals in self.seed_capitals.items():
            mask[index] = all(capital.rejects(level) for capital in capitals.values())
        return mask & self.declaration.seeds

    @cached_property
    def evidence(self) -> Evidence:
        """What the rules may look at."""
        return Evidence(
            limits=self.limits,
            costs=self.costs,
            rounds=self.rounds,
            asks_left=max(self.declaration.horizon - self.n_spent, 1),
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
        """What the rules say now, within the level of the ladder; the mask that decides what may be looked at."""
        return self._verdict

    @cached_property
    def _verdict(self) -> Verdict:
        """The verdict, computed once: a state does not change."""
        declaration = self.declaration
        verdict = compose(
            [standing.verdict(self.evidence) for standing in self.standings],
            support=declaration.prior.support,
            seeds=self.established & self.seeds_hold,
            contradicted=self.contradicted(),
            measured_over=self.measured_over(),
        )
        accepted = np.ones(len(declaration.space), dtype=np.bool_)
        accepted[list(self.rejected)] = False
        by_rules, by_premise = verdict.by_rules & accepted & self._in_stage(verdict), verdict.by_premise & accepted
        if self.level == "paid_only" or self.dear_failure:
            proven = np.zeros_like(accepted)
            proven[list(self.tallies)] = True
            by_rules = by_rules & proven & (verdict.price == 0.0)
        elif self.level in ("seed", "stop"):
            by_rules = np.zeros_like(accepted)
        if self.level == "stop":
            by_premise = np.zeros_like(accepted)
        return replace(verdict, by_rules=by_rules, by_premise=by_premise, safe=by_rules | by_premise)

    def _in_stage(self, verdict: Verdict) -> Bool[np.ndarray, "m"]:
        """What this stage of the roll-out allows: all that is affordable in it, and new targets while it has some."""
        allowed = np.ones(len(verdict.safe), dtype=np.bool_)
        if self.stage is None or self.stage.name == "full":
            return allowed
        known = {asked.index for asked in self.asked.values() if asked.number >= self.epoch_start}
        before = {asked.index for asked in self.asked.values() if asked.number < self.stage_start}
        new = {asked.index for asked in self.asked.values() if asked.certificate.basis == "rules"} - before
        if self.stage.new_targets is not None and len(new) >= self.stage.new_targets:
            allowed = np.zeros_like(allowed)
            allowed[list(known)] = True
        return allowed & (verdict.price <= self.stage_left)

    def contradicted(self) -> Bool[np.ndarray, "m"]:
        """Candidates that their own trials speak against: measured over a limit, a failed episode, an unknown outcome.

        Absence of evidence is a violation.
        """
        mask = self.measured_over()
        for tallies in (self.tallies, self.outside):
            mask[[index for index, tally in tallies.items() if tally.failed]] = True
        for trial, state in self.states.items():
            if state is TrialState.UNKNOWN and self.asked[trial].number >= self.epoch_start:
                mask[self.asked[trial].index] = True
        return mask

    def measured_over(self) -> Bool[np.ndarray, "m"]:
        """Candidates whose limited statistic over all episodes told of them, or observed of them, is over a limit."""
        mask = np.zeros(len(self.declaration.space), dtype=np.bool_)
        for tallies in (self.tallies, self.outside):
            mask[[index for index, tally in tallies.items() if tally.over(self.limits)]] = True
        return mask

    @property
    def dear_failure(self) -> bool:
        """Whether failed episodes had cost too much already: what was recorded puts a target's statistic over a limit.

        No belief is told what a failed episode had cost when it broke off. So it may end the search, which breaks no
        promise, and not steer it: only targets that are told and paid for are handed out from then on.
        """
        told = (*self.tallies.values(), *self.outside.values())
        return any(tally.failed and tally.over(self.limits) for tally in told)

    def alarm_after(self) -> Alarmed | None:
        """The alarm that the last measurement calls for, the one that leads furthest down if there are several."""
        declaration = self.declaration
        found = [*self._contradictions(), *self.watch.alarms(self.level, declaration.seeds, declaration.space)]
        return max(found, key=lambda alarm: LADDER.index(alarm.level), default=None)

    def _contradictions(self) -> list[Alarmed]:
        """Alarms of rules whose intervals contradict each other; at "seed" and below they mean nothing any more."""
        found: list[Alarmed] = []
        for rule in self.verdict().rules if self.level in ("normal", "paid_only") else ():
            empty = rule.contradiction
            if empty is not None:
                target = self.declaration.space.target(empty.index)
                found.append(
                    Alarmed(
                        reason=(
                            f"the {rule.kind} intervals of {empty.limit!r} at {target} no longer have a point in "
                            f"common (lower {empty.lower:.4g} > upper {empty.upper:.4g}) after {self.rounds} "
                            "measurements: what was declared does not describe this policy"
                        ),
                        level="seed",
                        monitor=rule.kind,
                        limit=empty.limit,
                        target=target,
                        lower=empty.lower,
                        upper=empty.upper,
                    )
                )
        return found

    def _after_alarm(self, event: Alarmed) -> "State":
        """Further down the ladder; a new watch begins, so that a second alarm rests on new evidence."""
        if LADDER.index(event.level) <= LADDER.index(self.level):
            raise IntegrityError(
                f"an alarm led from {self.level!r} to {event.level!r}, and alarms lead down; the ledger was altered"
            )
        return replace(self, alarm=event, level=event.level, watch=_watch(self.declaration, self.limits))

    def _after_ask(self, event: Asked) -> "State":
        """A target was handed out: every rule that charges is paid."""
        if event.trial in self.asked:
            raise IntegrityError(f"trial {event.trial} was asked twice; the ledger was altered")
        charges = {evidence.kind: evidence.charge for evidence in event.certificate.evidence}
        rules = self.declaration.rules
        if set(charges) != {rule.kind for rule in rules} or not 0 <= event.index < len(self.declaration.space):
            raise IntegrityError(f"trial {event.trial} was asked by other rules than declared; the ledger was altered")
        return replace(
            self,
            asked={**self.asked, event.trial: event},
            states={**self.states, event.trial: TrialState.PLANNED},
            standings=tuple(
                standing.asked(event.index, charges[rule.kind])
                for rule, standing in zip(rules, self.standings, strict=True)
            ),
            watch=self.watch.asked(event.index),
        )

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

    def _after_tell(self, event: Told) -> "State":
        """One more trial told; of an earlier epoch, whose measurements are forgotten, it informs nothing."""
        after = replace(self, told={**self.told, event.trial: event})
        asked = self.asked[event.trial]
        return after if asked.number < self.epoch_start else after._informed(asked.index, event.measurement, own=True)

    def _after_seed_test(self, event: SeedTested) -> "State":
        """Bets on the episodes, which also inform the beliefs: what decides about a next target must be evidence."""
        failed = np.array(event.failed, dtype=np.bool_)
        costs = {name: as_array(values) for name, values in event.costs.items()}
        measurement = Measurement(rewards=np.zeros(len(failed)), costs=costs, failed=failed)
        believing = self._believing(event.index, measurement, np.zeros(0))
        return replace(believing, seed_tests={**self.seed_tests, event.source: event})._judged()

    def _informed(self, index: int, measurement: Measurement, *, own: bool) -> "State":
        """Beliefs, tallies and rules after one more measurement."""
        believing = self._believing(index, measurement, measurement.rewards[~measurement.failed])
        tallies = self.tallies if own else self.outside
        tallies = {**tallies, index: tallies.get(index, Tally({})).of(measurement)}
        after = replace(
            believing,
            tallies=tallies if own else self.tallies,
            outside=self.outside if own else tallies,
            watch=self._watched(believing, index, measurement, own=own),
        )
        return after._judged()

    def _believing(self, index: int, measurement: Measurement, rewards: Float[np.ndarray, "_"]) -> "State":
        """Beliefs after one more measurement; `rewards` are those that are known, of episodes that did not fail."""
        reward, mean_reward = self.reward, None
        if len(rewards):
            mean_reward = ToldMean(index, float(np.mean(rewards)), len(rewards), 1.0 / len(rewards), 0.0)
            reward = reward.tell(mean_reward, rewards)
        costs = {}
        for limit in self.limits:
            point = told_statistic(limit, index, measurement, self.declaration.tops[limit.name])
            replicates = measurement.costs[limit.name][~measurement.failed]
            costs[limit.name] = self.costs[limit.name].tell(point, replicates, mean_reward, reward.scale)
        return replace(self, costs=costs, reward=reward, rounds=self.rounds + 1)

    def _watched(self, after: "State", index: int, measurement: Measurement, *, own: bool) -> Watch:
        """The monitors after one more measurement, by what was believed before it and is after.

        What survivors of failed episodes cost and earned is foretold like any other; nobody knows what a failed episode
        would have cost, and the cost monitor takes it for the cap. Outside episodes say whether the model foretells; of
        the limits only where they are of a target that was, or may be handed out whatever the model says.
        """
        watch = self.watch
        if self.level in ("normal", "paid_only"):
            measured = {name: after.costs[name].told[-1].measured for name in watch.innovations}
            rewards = {name: after.costs[name].told_reward for name in watch.rewards}
            watch = watch.foretold(
                {name: score(self.costs[name], after.costs[name], p) for name, p in measured.items() if p is not None},
                {
                    name: reward_score(self.costs[name], after.costs[name], r)
                    for name, r in rewards.items()
                    if r is not None
                },
            )
        handed_out = own or self.declaration.seeds[index] or any(a.index == index for a in self.asked.values())
        return watch.ran(index, measurement) if handed_out else watch

    def _judged(self) -> "State":
        """Every rule told the evidence; a standing alarm leaves them as they are, they mean nothing any more."""
        if self.level in ("seed", "stop"):
            return self
        return replace(self, standings=tuple(standing.told(self.evidence) for standing in self.standings))

    def _advanced(self, event: Advanced) -> "State":
        """The next stage of the roll-out."""
        number = self.stage_number + 1
        stages = self.declaration.stages
        if number >= len(stages) or stages[number].name != event.stage or self.open_trials:
            raise IntegrityError(f"the roll-out cannot go on to {event.stage!r} from here; the ledger was altered")
        return replace(self, stage_number=number, stage_start=len(self.asked))

    def _lowered(self, event: LimitLowered) -> "State":
        """One limit lower than it was."""
        if not any(limit.name == event.limit and event.value < limit.value for limit in self.limits):
            raise IntegrityError(f"limit {event.limit!r} was not lowered to {event.value}; the ledger was altered")
        limits = tuple(
            replace(limit, value=event.value) if limit.name == event.limit else limit for limit in self.limits
        )
        return replace(
            self,
            limits=limits,
            seeds_hold=self.seeds_hold and event.seeds_hold,
            standings=tuple(standing.lowered() for standing in self.standings),
            watch=self.watch.lowered(self.declaration.monitors, limits, self.declaration.caps),
        )

    def _resumed(self) -> "State":
        """A new epoch: nothing told, and what is left of delta."""
        if self.alarm is None or self.open_trials or not self.left > 0.0:
            raise IntegrityError("a run was resumed without an alarm, with open trials or nothing left; it was altered")
        return State._epoch(
            declaration=self.declaration,
            limits=self.limits,
            asked=self.asked,
            states=self.states,
            told=self.told,
            before=self,
            left=self.left,
        )

    @staticmethod
    def _epoch(
        *,
        declaration: Declaration,
        limits: tuple[Limit, ...],
        asked: Mapping[str, Asked],
        states: Mapping[str, TrialState],
        told: Mapping[str, Told],
        before: "State | None",
        left: float | None,
    ) -> "State":
        """The first state of an epoch; noise bounds go on being drawn from the one share that they have."""
        drawn = {} if before is None else {name: belief.rounds for name, belief in before.costs.items()}
        prior = declaration.prior
        rewards_drawn = 0 if before is None or prior.coupled is None else before.reward.rounds
        delta = declaration.share.certificate if left is None else left
        state = State(
            declaration=declaration,
            limits=limits,
            asked=asked,
            states=states,
            told=told,
            reward=Belief.before(
                prior.reward.process(declaration.space),
                prior.reward.episode_variance,
                declaration.reward_miss,
                rewards_drawn,
            ),
            costs=declaration.beliefs(drawn),
            standings=tuple(rule.start(declaration.terms(delta)) for rule in declaration.rules),
            watch=_watch(declaration, limits),
            epoch=0 if before is None else before.epoch + 1,
            epoch_start=len(asked),
            spent_before=0.0 if before is None else before.spent,
            seed_tests={} if before is None else before.seed_tests,
            stage_number=0 if before is None else before.stage_number,
            stage_start=0 if before is None else before.stage_start,
            approved=frozenset() if before is None else before.approved,
            rejected=frozenset() if before is None else before.rejected,
        )
        return state._judged()


def _watch(declaration: Declaration, limits: tuple[Limit, ...]) -> Watch:
    """The declared monitors, nothing seen."""
    return Watch.start(declaration.monitors, limits, declaration.caps, declaration.prior.coupled)


def told_statistic(limit: Limit, index: int, measurement: Measurement, top: float) -> ToldMean:
    """The limited statistic of one trial's episodes, conservatively where episodes failed.

    A failed episode had some cost in [0, top]; its share of the statistic is told as top, with a standard deviation of
    half of it, beside what the survivors say. Where fewer than `SPREAD_EPISODES` of them are left to see a spread that
    the limit needs, all counts as failed there; what a spread can be seen in at all, two, is still what was measured.
    """
    failed, costs = measurement.failed, measurement.costs[limit.name]
    clean = costs[~failed]
    n = len(costs)
    if not failed.any():
        return ToldMean(index, limit.statistic(clean), n, limit.noise_factor(n), 0.0)
    survivors = None
    if len(clean) >= (2 if limit.approximate else 1):
        survivors = ToldMean(index, limit.statistic(clean), len(clean), limit.noise_factor(len(clean)), 0.0)
    share = float(np.mean(failed))
    if survivors is None or (limit.approximate and len(clean) < SPREAD_EPISODES):
        return ToldMean(index, top, n, limit.noise_factor(n), (top / 2.0) ** 2, survivors)
    value = share * top + (1.0 - share) * survivors.value
    return ToldMean(index, value, n, limit.noise_factor(n), (share * top / 2.0) ** 2, survivors)


def replay(declaration: Declaration, events: Iterable[Event]) -> State:
    """The state after these events, the first of which follow the declaration."""
    state = State.start(declaration)
    for event in events:
        state = state.apply(event)
    return state
