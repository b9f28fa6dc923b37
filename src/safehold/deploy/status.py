"""What a deployment has come to: the recommendation, and where it stands."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from safehold.core.certificate import Certificate
from safehold.core.errors import Alarm, Exhausted, NoCertifiedTarget
from safehold.core.target import Target
from safehold.deploy.choose import certificate, cost_bounds, fallback, fallback_words, open_verdict, reward_bound
from safehold.deploy.replay import State
from safehold.ledger.events import Bound


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

    `fallback`: a seed target that may still be handed out; None if none is left, then the answer is to stop.
    """

    state: str
    reason: str | None
    asks: int
    horizon: int
    told: int
    open_trials: tuple[str, ...]
    safe_count: int
    candidates: int
    revoked: tuple[Target, ...]
    delta: float
    fallback: Target | None
    recommendation: Recommendation | None


def recommend(state: State) -> Recommendation:
    """The best told target whose upper bounds are at or under every limit; a seed's premise alone is not enough.

    Raises:
        NoCertifiedTarget: if there is none.
        Alarm: if a measurement contradicted the model.
    """
    if state.alarm is not None:
        raise Alarm(f"alarm: {state.alarm.reason}. Certificates no longer mean anything; nothing is recommended")
    verdict = state.verdict()
    episodes: dict[int, int] = {}
    for trial, told in state.told.items():
        index = state.asked[trial].index
        episodes[index] = episodes.get(index, 0) + len(told.rewards)
    certified = [index for index in sorted(episodes) if verdict.by_band[index]]
    if not certified:
        raise NoCertifiedTarget(
            f"none of the {len(episodes)} told targets has upper bounds under every limit; "
            f"hold. {fallback_words(state)}"
        )
    index = max(certified, key=lambda place: (float(state.reward.process.mean[place]), -place))
    return Recommendation(
        target=state.declaration.space.target(index),
        index=index,
        reward=reward_bound(state, index),
        costs=cost_bounds(state, index),
        episodes=episodes[index],
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
        asks=len(state.asked),
        horizon=declaration.horizon,
        told=state.n_told,
        open_trials=state.open_trials,
        safe_count=int(np.sum(verdict.safe)),
        candidates=len(declaration.space),
        revoked=tuple(declaration.space.target(index) for index in named),
        delta=declaration.delta,
        fallback=fallback(state, verdict),
        recommendation=recommendation,
    )


def _word(state: State) -> tuple[str, str | None]:
    """What the next ask would do, and why if it would refuse."""
    try:
        open_verdict(state)
    except Alarm as hold:
        return "alarm", str(hold)
    except NoCertifiedTarget as hold:
        return "held", str(hold)
    except Exhausted as hold:
        if state.stopped is not None:
            return "stopped", str(hold)
        return ("exhausted" if not state.open_trials else "pending"), str(hold)
    return "ready", None
