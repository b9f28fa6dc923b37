"""What a deployment has come to: the recommendation, and where it stands."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from safehold.core.certificate import Certificate
from safehold.core.constraint import Limit
from safehold.core.errors import Alarm, Exhausted, NoCertifiedTarget, NoSeed
from safehold.core.intervals import Interval
from safehold.core.target import Target
from safehold.deploy.choose import (
    certificate,
    cost_bounds,
    fallback,
    fallback_words,
    in_context,
    open_verdict,
    reward_bound,
    shares_of,
)
from safehold.deploy.replay import State
from safehold.deploy.sequences import average_sequence
from safehold.deploy.steps import awaiting
from safehold.deploy.watch import Reading
from safehold.ledger.events import Bound, Level


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """The told, currently certified target of highest posterior mean reward, with what is believed of it.

    `episodes` were told at it in all; `costs` and `reward` are intervals for expected returns, not for episodes.
    """

    target: Target
    index: int
    reward: Bound
    costs: Mapping[str, Bound]
    episodes: int
    certificate: Certificate


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontierPoint:
    """A certified target that no other beats in expected reward without expecting to come nearer to a limit."""

    target: Target
    reward: float
    costs: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """What happened in all deployed episodes, with intervals that hold at every look at once, level 95 % each.

    They speak of the averages over the episodes that ran, whatever targets they ran at and however the world changed,
    and rest on no model: only on the declared caps. `violations`: probability that an episode costs more than a limit
    (than its own limit, for each name); `costs`: expected cost. A failed episode counts as a violation and as the cap.
    `trials`: probability that a trial's own episodes are over a limit in the mean (or whatever is limited), or that one
    of them fails. `targets` were told, each counted once; of `targets_over` some trial was so.
    """

    episodes: int
    failed: int
    violations: Mapping[str, Interval]
    costs: Mapping[str, Interval]
    trials: Interval
    targets: int
    targets_over: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedStanding:
    """One tested seed target: verified once the `evidence` of every limit has reached `needed`."""

    target: Target
    verified: bool
    episodes: int
    evidence: Mapping[str, float]
    needed: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Where a deployment stands. `state`: "ready", "pending", "held", "exhausted", "stopped" or "alarm".

    `level` of the ladder and `epoch` (from 0) say what alarms left; `monitors` what evidence for the next one there
    is. `stage` of the roll-out, if it has any; `awaiting`: open trials that wait for an operator. `spent` and `left`:
    of the rules' share of delta, by rules that charge; `stage_left` of it before the roll-out goes on; `shares` of
    delta. `frontier` of the certified targets, by falling expected reward. `fallback`: a seed target that may still be
    handed out; None if none is left, then the answer is to stop. `seeds`: how they are known, and what was tested.
    """

    state: str
    reason: str | None
    level: Level
    epoch: int
    asks: int
    horizon: int
    told: int
    open_trials: tuple[str, ...]
    awaiting: tuple[str, ...]
    stage: str | None
    safe_count: int
    candidates: int
    revoked: tuple[Target, ...]
    delta: float
    spent: float
    left: float
    stage_left: float
    shares: Mapping[str, float]
    seed_rule: str
    seeds: tuple[SeedStanding, ...]
    monitors: tuple[Reading, ...]
    outcomes: Outcomes | None
    frontier: tuple[FrontierPoint, ...]
    fallback: Target | None
    recommendation: Recommendation | None


def recommend(state: State) -> Recommendation:
    """The told target of highest posterior mean reward that the rules would keep for what was told alone.

    A seed target's premise alone is not enough, and nothing is recommended that is still to be paid for.

    Raises:
        NoCertifiedTarget: if there is none.
        Alarm: if what was told contradicts what was declared.
    """
    if state.level in ("seed", "stop") and state.alarm is not None:
        raise Alarm(f"alarm: {state.alarm.reason}. Certificates no longer mean anything; nothing is recommended")
    verdict = state.verdict()
    good = verdict.safe & verdict.evident & (verdict.price == 0.0)
    certified = [index for index in sorted(state.tallies) if good[index]]
    if not certified:
        raise NoCertifiedTarget(
            f"none of the {len(state.tallies)} told targets is certified by what was told of it; "
            f"hold. {fallback_words(state)}"
        )
    index = max(certified, key=lambda place: (float(state.reward.process.mean[place]), -place))
    return Recommendation(
        target=state.declaration.space.target(index),
        index=index,
        reward=reward_bound(state, index),
        costs=cost_bounds(state, index),
        episodes=state.tallies[index].episodes,
        certificate=certificate(state, verdict, index),
    )


def status(state: State) -> Status:
    """Where a deployment stands, without changing it."""
    declaration = state.declaration
    verdict = state.verdict()
    word, reason = _word(state)
    try:
        recommendation = recommend(state)
    except (NoCertifiedTarget, Alarm):
        recommendation = None
    acted = {asked.index for asked in state.asked.values()}
    named = sorted(index for index in acted | set(declaration.seed_indices.tolist()) if verdict.revoked[index])
    return Status(
        state=word,
        reason=reason,
        level=state.level,
        epoch=state.epoch,
        asks=len(state.asked),
        horizon=declaration.horizon,
        told=state.n_told,
        open_trials=state.open_trials,
        awaiting=tuple(trial for trial in state.open_trials if awaiting(state, trial)),
        stage=None if state.stage is None else state.stage.name,
        safe_count=int(np.sum(verdict.safe)),
        candidates=len(declaration.space),
        revoked=tuple(declaration.space.target(index) for index in named),
        delta=declaration.delta,
        spent=state.spent,
        left=state.left,
        stage_left=state.stage_left,
        shares=shares_of(declaration),
        seed_rule=declaration.seed_rule,
        seeds=_seeds(state),
        monitors=state.watch.readings(),
        outcomes=outcomes(state),
        frontier=frontier(state, verdict.safe),
        fallback=fallback(state, verdict),
        recommendation=recommendation,
    )


def _word(state: State) -> tuple[str, str | None]:
    """What the next ask would do, and why if it would refuse."""
    try:
        open_verdict(state, in_context(state, None))
    except Alarm as hold:
        return "alarm", str(hold)
    except (NoCertifiedTarget, NoSeed) as hold:
        return "held", str(hold)
    except Exhausted as hold:
        if state.stopped is not None:
            return "stopped", str(hold)
        return ("exhausted" if not state.open_trials else "pending"), str(hold)
    return "ready", None


def outcomes(state: State, level: float = 0.95) -> Outcomes | None:
    """What the deployed episodes were, over all epochs; None before any was told."""
    measurements = [event.measurement for event in state.told.values()]
    if not measurements:
        return None
    failed = np.concatenate([measurement.failed for measurement in measurements])
    costs = {
        limit.name: np.concatenate([measurement.costs[limit.name] for measurement in measurements])
        for limit in state.limits
    }
    over = [_over(state.limits, measurement.costs, measurement.failed) for measurement in measurements]
    indices = [state.asked[trial].index for trial in state.told]
    caps = state.declaration.caps
    return Outcomes(
        episodes=len(failed),
        failed=int(np.sum(failed)),
        violations={
            limit.name: average_sequence((failed | ~(costs[limit.name] <= limit.value)).astype(np.float64), 1.0, level)
            for limit in state.limits
        },
        costs={name: average_sequence(values, caps[name], level, failed) for name, values in costs.items()},
        trials=average_sequence(np.array(over, dtype=np.float64), 1.0, level),
        targets=len(set(indices)),
        targets_over=len({index for index, was_over in zip(indices, over, strict=True) if was_over}),
    )


def frontier(state: State, safe: Bool[np.ndarray, "m"]) -> tuple[FrontierPoint, ...]:
    """Certified targets that none beats in posterior mean reward and, at once, in the share of its nearest limit."""
    costs = {limit.name: state.costs[limit.name].process.mean for limit in state.limits}
    terms = state.declaration.terms(state.declaration.delta)
    load = np.max([costs[limit.name] / terms.scale(limit) for limit in state.limits], axis=0)
    reward = state.reward.process.mean
    best, found = np.inf, []
    for index in sorted(np.flatnonzero(safe).tolist(), key=lambda place: (-reward[place], load[place], place)):
        if load[index] < best:
            best = float(load[index])
            found.append(
                FrontierPoint(
                    target=state.declaration.space.target(index),
                    reward=float(reward[index]),
                    costs={name: float(mean[index]) for name, mean in costs.items()},
                )
            )
    return tuple(found)


def _over(limits: tuple[Limit, ...], costs: Mapping[str, np.ndarray], failed: np.ndarray) -> bool:
    """Whether a trial's episodes are over a limit in the mean (or whatever is limited), or one of them failed."""
    return bool(failed.any()) or any(not limit.holds(limit.statistic(costs[limit.name])) for limit in limits)


def _seeds(state: State) -> tuple[SeedStanding, ...]:
    """Every seed target whose episodes were told for its verification."""
    return tuple(
        SeedStanding(
            target=state.declaration.space.target(index),
            verified=bool(state.established[index]),
            episodes=next(iter(capitals.values())).n,
            evidence={name: capital.peak for name, capital in capitals.items()},
            needed=1.0 / state.declaration.seed_level,
        )
        for index, capitals in sorted(state.seed_capitals.items())
    )
