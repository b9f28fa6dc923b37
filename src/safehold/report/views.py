"""The data of a deployment's pictures, as pure functions of its states and events."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float

from safehold.core.certificate import TrialState
from safehold.core.constraint import Limit
from safehold.core.intervals import Interval, mean_interval
from safehold.core.target import Target
from safehold.deploy.acquisition import expanders
from safehold.deploy.choose import shares_of, view
from safehold.deploy.replay import State
from safehold.deploy.watch import Reading
from safehold.ledger.events import Advanced, Alarmed, Asked, LimitLowered, Resumed
from safehold.report.figures import bounds, calibration, monitors, path, risk, safe_set
from safehold.report.figures.bounds import Break
from safehold.report.figures.safe_set import Grounds
from safehold.report.run import RunView

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


def breaks(events: Sequence[object]) -> tuple[Break, ...]:
    """Where the terms changed: alarms, new epochs, stages of a roll-out, lowered limits."""
    found = []
    number = epoch = 0
    for event in events:
        match event:
            case Asked():
                number += 1
            case Alarmed():
                found.append(Break(number=number, word=f"alarm: {event.monitor}"))
            case Resumed():
                epoch += 1
                found.append(Break(number=number, word=f"epoch {epoch}"))
            case Advanced():
                found.append(Break(number=number, word=f"stage {event.stage}"))
            case LimitLowered():
                found.append(Break(number=number, word=f"limit {event.value:g}"))
    return tuple(found)


def bounds_over_time(run: RunView, state: State) -> bounds.Bounds:
    """Every ask against every limit."""
    costs = [
        bounds.cost(
            limit.name,
            _LIMITED[limit.kind].format(limit.name),
            run.unit(limit.name),
            [_bound(state, trial, limit.name) for trial in state.asked],
            certified=bounding(state),
        )
        for limit in state.declaration.limits
    ]
    return bounds.info(costs, breaks(run.events))


_LIMITED = {
    "mean": "expected {} return",
    "peak": "expected largest {} of a step",
    "chance": "quantile of the {} return",
    "cvar": "tail mean of the {} return",
}


def bounding(state: State) -> bool:
    """Whether any rule certifies by upper bounds."""
    return any(rule.bounding for rule in state.verdict().rules)


def _bound(state: State, trial: str, name: str) -> bounds.BoundAtAsk:
    """One ask against one limit; with a rule that bounds, only what was certified is shown as an upper bound."""
    asked, told = state.asked[trial], state.told.get(trial)
    limit = next(limit for limit in asked.certificate.limits if limit.name == name)
    certified = asked.certificate.upper
    upper = asked.costs[name].upper if not bounding(state) else None if certified is None else certified[name]
    failed = state.states[trial] is TrialState.UNKNOWN or (told is not None and bool(told.measurement.failed.any()))
    return bounds.BoundAtAsk(
        number=asked.number,
        mean=asked.costs[name].mean,
        upper=upper,
        limit=limit.value,
        risk=asked.certificate.risks[name],
        told=None if told is None or failed else statistic_interval(limit, told.measurement.costs[name]),
        failed=failed,
    )


def statistic_interval(limit: Limit, costs: Float[np.ndarray, "n"]) -> Interval:
    """The limited statistic of these episodes with its 95 % interval: Student's for a mean, normal for the others."""
    if not limit.approximate:
        return mean_interval(costs)
    n = len(costs)
    estimate = limit.statistic(costs)
    half = 1.959964 * float(np.std(costs, ddof=1)) * np.sqrt(limit.noise_factor(n)) if n > 1 else np.nan
    return Interval(estimate=estimate, low=estimate - half, high=estimate + half, level=0.95, n=n)


def spending(run: RunView, state: State) -> risk.Spending:
    """What the asks were charged, out of the certificate's share of delta."""
    asked = list(state.asked.values())
    charges = []
    for ask in asked:
        paying = next((e for e in ask.certificate.evidence if e.cap is not None), None)
        charges.append(
            risk.Charge(
                number=ask.number,
                charge=ask.certificate.charge,
                risk=None if paying is None else paying.risk,
                cap=None if paying is None else paying.cap,
            )
        )
    return risk.info(
        state.declaration.delta,
        shares_of(state.declaration),
        charges,
        charging=any(rule.cap is not None for rule in state.verdict().rules),
        breaks=breaks(run.events),
    )


def beliefs(state: State) -> calibration.Calibration:
    """What was foretold of every limited cost and of the reward, against what came."""
    names = [limit.name for limit in state.declaration.limits]
    return calibration.info(
        [
            *(calibration.belief(name, predictions(state, name)) for name in names),
            calibration.belief("reward", predictions(state, None)),
        ]
    )


def predictions(state: State, name: str | None) -> list[calibration.Prediction]:
    """Predictions of a limited cost, or of the reward (None), at every told trial without failed episodes."""
    found = []
    for trial, told in state.told.items():
        asked, measured = state.asked[trial], told.measurement
        if measured.failed.any():
            continue
        n = len(measured)
        if name is None:
            expected, value, factor = asked.reward, float(np.mean(measured.rewards)), 1.0 / n
        else:
            limit = next(limit for limit in asked.certificate.limits if limit.name == name)
            expected, value = asked.costs[name], limit.statistic(measured.costs[name])
            factor = limit.noise_factor(n) if n > 1 or not limit.approximate else np.inf
        deviation = float(np.sqrt(expected.sd**2 + expected.episode_sd**2 * factor))
        found.append(calibration.Prediction(number=asked.number, mean=expected.mean, deviation=deviation, told=value))
    return found


def monitoring(run: RunView) -> monitors.Monitoring:
    """What the monitors held against the run after each tell."""
    series: dict[tuple[str, str], list[tuple[int, Reading]]] = {}
    for asks, readings in run.readings:
        for reading in readings:
            series.setdefault((reading.monitor, reading.limit), []).append((asks, reading))
    return monitors.info(
        [
            monitors.Evidence(
                monitor=monitor,
                limit=limit,
                numbers=tuple(asks - 1 for asks, _ in found),
                values=tuple(reading.evidence for _, reading in found),
                needed=found[-1][1].needed,
            )
            for (monitor, limit), found in series.items()
        ],
        breaks(run.events),
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
