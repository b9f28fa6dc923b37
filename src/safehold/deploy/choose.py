"""One ask: from the state to the next target and the evidence behind it, or a refusal that says why."""

import numpy as np
from jaxtyping import Bool
from scipy.special import ndtr

from safehold.core.certificate import Certificate
from safehold.core.errors import Alarm, Exhausted, NoCertifiedTarget
from safehold.core.target import Target
from safehold.deploy.acquisition import View, best, expanders, relative_width, reward_ucb
from safehold.deploy.certificates.paper import KIND, PROMISE, Verdict, shortfall
from safehold.deploy.replay import State
from safehold.ledger.events import Asked, Bound, Phase, pack_mask

PREMISES = ("A1-prior", "A2-noise", "A3-independence", "A4-unchanged", "A5-cap")
"""Premises of docs/guarantees.md that every certificate rests on."""

SEED_PREMISES = {"attested": "A6-seeds-attested", "log": "A6-seeds-from-log"}
"""Premise of a seed target without a bound of its own, by the rule it comes from."""


def next_ask(state: State, key: str | None) -> Asked:
    """The next ask of this state; a pure function of it.

    Raises:
        Alarm: if a measurement contradicted the model.
        Exhausted: if the run was stopped, its horizon is spent, or too many trials are open.
        NoCertifiedTarget: if no candidate may be handed out.
    """
    verdict = open_verdict(state)
    view = state.view(verdict)
    index, phase, n_expanders = _choose(state, view)
    number = len(state.asked)
    space = state.declaration.space
    return Asked(
        trial=f"trial-{number:04d}",
        number=number,
        key=key,
        target=space.target(index),
        index=index,
        phase=phase,
        reward=reward_bound(state, index),
        costs=cost_bounds(state, index),
        alpha=state.declaration.alpha(state.n_told),
        n_told=state.n_told,
        safe_count=int(np.sum(verdict.safe)),
        safe_mask=pack_mask(verdict.safe),
        expander_count=n_expanders,
        certificate=certificate(state, verdict, index),
    )


def open_verdict(state: State) -> Verdict:
    """What the certificate says, if an ask would be answered; raises as `next_ask` does if it would not."""
    _refuse_if_closed(state)
    verdict = state.verdict()
    if not verdict.safe.any():
        raise _nothing_certified(state, verdict)
    return verdict


def refuse_to_run(state: State, trial: str) -> None:
    """Raises if a trial that was asked may not run, or run again, as things stand now.

    Raises:
        Alarm: if a measurement contradicted the model.
        Exhausted: if the run was stopped.
        NoCertifiedTarget: if the trial's target is revoked or no longer certified.
    """
    _refuse_if_ended(state)
    asked = state.asked[trial]
    verdict = state.verdict()
    if not verdict.safe[asked.index]:
        why = "is revoked by what was measured" if verdict.revoked[asked.index] else "is no longer certified"
        raise NoCertifiedTarget(
            f"{trial} may not run: its target {asked.target} {why} since it was asked; abandon it. "
            f"{fallback_words(state)}"
        )


def certificate(state: State, verdict: Verdict, index: int) -> Certificate:
    """Why this candidate may be handed out now."""
    declaration = state.declaration
    by_band = bool(verdict.by_band[index])
    seed = () if by_band else (SEED_PREMISES[declaration.seed_rule],)
    return Certificate(
        kind=KIND,
        promise=PROMISE,
        limits=declaration.limits,
        risks={limit.name: risk(state, limit.name, limit.value, index) for limit in declaration.limits},
        upper={limit.name: float(state.bands[limit.name].upper[index]) for limit in declaration.limits}
        if by_band
        else None,
        charge=0.0,  # the bands hold at all rounds at once: delta is spent as a whole, by declaring it
        spent_after=declaration.delta,
        delta=declaration.delta,
        n_told=state.n_told,
        premises=(*PREMISES, *seed),
    )


def risk(state: State, name: str, limit: float, index: int) -> float:
    """Posterior probability that the expected cost at a candidate is above the limit; information, not the rule."""
    process = state.costs[name].process
    sd = float(process.sd[index])
    excess = float(process.mean[index]) - limit
    if sd == 0.0:
        return float(not excess <= 0.0)
    return float(ndtr(excess / sd))


def _refuse_if_ended(state: State) -> None:
    """Raises if nothing may run any more, whatever was asked before."""
    if state.alarm is not None:
        raise Alarm(f"alarm: {state.alarm.reason}. Certificates no longer mean anything; hold. {fallback_words(state)}")
    if state.stopped is not None:
        raise Exhausted(f"the run was stopped: {state.stopped}; start a new one to go on")


def _refuse_if_closed(state: State) -> None:
    """Raises if nothing may be asked at all, whatever is certified."""
    _refuse_if_ended(state)
    if state.n_spent >= state.declaration.horizon:
        raise Exhausted(
            f"all {state.declaration.horizon} declared asks are spent; deploy what recommend() names, or declare a "
            "new run with a longer horizon"
        )
    if state.pending_full:
        raise Exhausted(
            f"{len(state.open_trials)} of at most {state.declaration.settings.pending_cap} trials are open "
            f"({', '.join(state.open_trials)}); tell or abandon one before asking again"
        )


def _nothing_certified(state: State, verdict: Verdict) -> NoCertifiedTarget:
    """The refusal that names the candidate that came nearest, and what it misses."""
    declaration = state.declaration
    scales = {limit.name: declaration.scale(limit) for limit in declaration.limits}
    present = state.present_upper()
    misses = shortfall(declaration.limits, present, scales)
    eligible = declaration.prior.support & ~verdict.revoked
    revoked = int(np.sum(verdict.revoked & (declaration.seeds | state.contradicted())))
    if not eligible.any():
        return NoCertifiedTarget(
            f"no target is certified and none can be: every supported candidate is revoked ({revoked} by evidence)"
        )
    place = int(np.argmin(np.where(eligible, misses, np.inf)))
    bounds = ", ".join(
        f"{limit.name}: upper bound {present[limit.name][place]:.4g} against limit {limit.value:g}"
        for limit in declaration.limits
    )
    premise = (
        "A seed target was measured over a limit, which refutes the premise that all of them are safe: none is handed "
        "out on it any more. "
        if verdict.refuted
        else ""
    )
    return NoCertifiedTarget(
        f"{premise}no target is certified ({revoked} seed or told targets are revoked). Nearest is "
        f"{declaration.space.target(place)} ({bounds}); it misses by {max(misses[place], 0.0):.3g} of the limit. Hold. "
        "No fallback is left: stop."
    )


def _choose(state: State, view: View) -> tuple[int, Phase, int | None]:
    """The candidate, its phase, and the number of expanders where it was counted.

    First a seed target: the one nearest to the centre of the seed targets. Then, in each round, exploring while its
    budget lasts and an expander is wider than zeta; otherwise reward UCB. Unlike [PLS, Alg. 1], exploring resumes
    when a later measurement makes a new expander, as long as its budget lasts.
    """
    settings, declaration = state.declaration.settings, state.declaration
    if state.n_told == 0:
        start = first_seed(state, view.safe & declaration.seeds)
        return start, "seed", None
    if state.n_explored < settings.exploration_share * declaration.horizon:
        widths = relative_width(view)
        grows = expanders(view)
        wide = grows & (widths > settings.exploration_width)
        if wide.any():
            return best(np.where(wide, widths, -np.inf), view.safe), "explore", int(np.sum(grows))
        return best(reward_ucb(view), view.safe), "maximise", int(np.sum(grows))
    return best(reward_ucb(view), view.safe), "maximise", None


def first_seed(state: State, among: Bool[np.ndarray, "m"]) -> int:
    """Of these seed targets, at least one, the nearest to the centre of the box of all, in units of the axes."""
    points = state.declaration.space.points
    indices = state.declaration.seed_indices
    box = points[indices]
    span = np.ptp(points, axis=0)
    distance = np.sum(((points - (box.min(axis=0) + box.max(axis=0)) / 2) / np.where(span > 0, span, 1.0)) ** 2, axis=1)
    return int(np.argmin(np.where(among, distance, np.inf)))


def fallback(state: State, verdict: Verdict) -> Target | None:
    """The seed target to fall back to, None if no seed target may be handed out; in an alarm no bound counts."""
    trusted = verdict.by_premise if state.alarm is not None else verdict.safe & state.declaration.seeds
    return state.declaration.space.target(first_seed(state, trusted)) if trusted.any() else None


def fallback_words(state: State) -> str:
    """The fallback in a sentence."""
    target = fallback(state, state.verdict())
    return "No fallback is left: stop." if target is None else f"The fallback is the seed target {target}."


def cost_bounds(state: State, index: int) -> dict[str, Bound]:
    """Belief about every limited cost at a candidate: posterior and running band."""
    bounds = {}
    for name, belief in state.costs.items():
        bounds[name] = Bound(
            mean=float(belief.process.mean[index]),
            sd=float(belief.process.sd[index]),
            lower=float(state.bands[name].lower[index]),
            upper=float(state.bands[name].upper[index]),
            episode_sd=float(np.sqrt(belief.episode_variance)),
        )
    return bounds


def reward_bound(state: State, index: int) -> Bound:
    """Belief about the reward at a candidate."""
    belief = state.reward
    mean, sd = float(belief.process.mean[index]), float(belief.process.sd[index])
    alpha = state.declaration.reward_alpha(state.n_told)
    return Bound(
        mean=mean,
        sd=sd,
        lower=mean - alpha * sd,
        upper=mean + alpha * sd,
        episode_sd=float(np.sqrt(belief.episode_variance)),
    )
