"""What a deployment has come to: the recommendation, and where it stands."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from safehold.core.certificate import Certificate
from safehold.core.errors import Alarm, Exhausted, NoCertifiedTarget, NoSeed
from safehold.core.target import Target
from safehold.deploy.choose import (
    certificate,
    cost_bounds,
    fallback,
    fallback_words,
    in_context,
    open_verdict,
    reward_bound,
)
from safehold.deploy.replay import State
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
class Status:
    """Where a deployment stands. `state`: "ready", "pending", "held", "exhausted", "stopped" or "alarm".

    `level` of the ladder and `epoch` (from 0) say what alarms left. `spent` and `left`: of the rules' share of delta,
    by rules that charge. `fallback`: a seed target that may still be handed out; None if none is left, then the
    answer is to stop.
    """

    state: str
    reason: str | None
    level: Level
    epoch: int
    asks: int
    horizon: int
    told: int
    open_trials: tuple[str, ...]
    safe_count: int
    candidates: int
    revoked: tuple[Target, ...]
    delta: float
    spent: float
    left: float
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
        safe_count=int(np.sum(verdict.safe)),
        candidates=len(declaration.space),
        revoked=tuple(declaration.space.target(index) for index in named),
        delta=declaration.delta,
        spent=state.spent,
        left=state.left,
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
