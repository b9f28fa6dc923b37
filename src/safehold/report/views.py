"""The data of a deployment's pictures, as pure functions of its states and events."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool

from safehold.core.target import Target
from safehold.deploy.acquisition import expanders
from safehold.deploy.choose import view
from safehold.deploy.replay import State
from safehold.ledger.events import Asked
from safehold.report.figures import path, safe_set
from safehold.report.figures.safe_set import Grounds

_MOST_PAIRS = 2e7  # of a certified and another candidate; above it expanders would take seconds to find


def grounds_of(asked: Asked) -> Grounds:
    """What an ask was handed out on."""
    if asked.certificate.basis == "premise":
        return "premise"
    return "paid" if asked.certificate.charge > 0 else "bound"


def growth(state: State, before: Sequence[tuple[Asked, State]], final: Target | None) -> safe_set.SafeSet:
    """The menu before these asks, in their order, and as it stands now."""
    moments = [_moment(at, ask) for ask, at in before]
    if state.asked:
        moments.append(_moment(state, None))
    return safe_set.info(
        state.declaration.space,
        moments,
        seeds=state.declaration.seeds,
        supported=state.declaration.prior.support,
        final=final,
    )


def chosen_path(state: State, grown: safe_set.SafeSet) -> path.Path:
    """Every ask over what is certified now, the last moment of how it grew."""
    revoked = state.verdict().revoked
    last = [replace(moment, expanders=np.zeros_like(moment.expanders)) for moment in grown.moments[-1:]]
    return path.info(
        replace(grown, moments=tuple(last)),
        [(ask.number, ask.target, grounds_of(ask)) for ask in state.asked.values()],
        frozenset(ask.target for ask in state.asked.values() if revoked[ask.index]),
    )


def _moment(state: State, ask: Asked | None) -> safe_set.Moment:
    """The menu in this state, before `ask`; None for the present state."""
    verdict = state.verdict()
    epoch = f"epoch {state.epoch}, " if state.epoch else ""
    return safe_set.moment(
        state.declaration.space,
        f"{epoch}now" if ask is None else f"{epoch}before ask {ask.number}",
        verdict.safe,
        expanders=_expanders(state),
        revoked=verdict.revoked,
        reward=state.reward.process.mean,
        deployed=safe_set.grounds_of((asked.target, grounds_of(asked)) for asked in state.asked.values()),
        asked=None if ask is None else ask.target,
    )


def _expanders(state: State) -> Bool[np.ndarray, "m"]:
    """Certified candidates of which a measurement could certify another; none where that takes too long to find."""
    safe = state.verdict().safe
    outside = np.sum(state.declaration.prior.support & ~safe)
    if float(np.sum(safe)) * float(outside) > _MOST_PAIRS or state.level in ("seed", "stop"):
        return np.zeros(len(safe), dtype=np.bool_)
    return expanders(view(state, state.verdict()))
