"""Ways in which a deployment fails without breaking a limit, each named when its data show it, with what to do.

Every statistical signature is a test of level `FALSE_ALARM`: a run in which all is as declared shows it about once in a
thousand runs. They are for people who read a report; no certificate and no alarm rests on them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.special import chdtr, chdtrc, chdtri, fdtrc, ndtr, stdtrit

from safehold.deploy.replay import State
from safehold.ledger.events import unpack_mask
from safehold.report.views import predictions

FALSE_ALARM = 1e-3
"""Level of each statistical signature."""

FEWEST = 5
"""Tells before which no statistical signature speaks."""

_COLLAPSED_TELLS = 3
_STUCK_ASKS = 5
_TOO_WIDE, _TOO_NARROW = 1.2, 0.6  # root mean squares of innovations that are worth a word, 1 being right
_NOISE_RATIO = 1.5  # variance over its floor from which an estimated noise is worth a word
_RESPONSE = 0.25  # least share of the foretold slope that a dial should have
_FELT = 0.2  # share of the limit by which the cost was to change before a dial can be called dead
_EARLY, _MOSTLY_SPENT = 0.5, 0.8


@dataclass(frozen=True, slots=True)
class Signature:
    """A way to fail that shows: its name, the numbers that show it, and what to do."""

    name: str
    evidence: str
    remedy: str


def signatures(state: State) -> tuple[Signature, ...]:
    """Every signature that shows in the present epoch; none if nothing is wrong."""
    declaration = state.declaration
    limits = {limit.name: limit for limit in state.limits}
    residuals = {name: _residuals(state, name) for name in limits}
    asked = [ask for ask in state.asked.values() if ask.number >= state.epoch_start]
    told = [ask for ask in asked if ask.trial in state.told]
    revoked = state.contradicted()
    verdict = state.verdict()
    charging = any(rule.cap is not None for rule in verdict.rules)
    found = [
        conservative_collapse(_beyond_seeds(state), declaration.horizon - state.n_spent)
        if state.level == "normal"
        else None,
        *(over_confident(name, values) for name, values in residuals.items()),
        *(under_confident(name, values) for name, values in residuals.items()),
        *(
            noise_above_floor(name, b.squares, b.degrees, known=declaration.prior.costs[name].noise_known)
            for name, b in state.costs.items()
        ),
        stuck([(ask.index, ask.phase == "explore") for ask in told]),
        *(_unresponsive(state, name) for name in limits),
        spent_early(state.spent, declaration.share.certificate, len(state.asked), declaration.horizon)
        if charging
        else None,
        revocations(sum(bool(revoked[index]) for index in {ask.index for ask in told}), refuted=verdict.refuted),
        *(drift(name, values, _episodes(state, name)) for name, values in residuals.items()),
    ]
    return tuple(signature for signature in found if signature is not None)


def conservative_collapse(beyond_seeds: Sequence[int], asks_left: int) -> Signature | None:
    """The certified set never grew: `beyond_seeds` counts certified targets that are no seeds, after each tell."""
    if len(beyond_seeds) < _COLLAPSED_TELLS or max(beyond_seeds) > 0 or asks_left <= 0:
        return None
    return Signature(
        "conservative collapse",
        f"after {len(beyond_seeds)} tells nothing but seed targets was ever certified, with {asks_left} asks left",
        "The declared dial error or noise is too large, the length-scales too short, or delta too small for the seeds "
        "to say anything of their neighbours. Try other declarations with `safehold deploy simulate`, run more "
        "episodes an ask, or name seed targets nearer to where the reward is.",
    )


def over_confident(name: str, residuals: Float[np.ndarray, "n"]) -> Signature | None:
    """Innovations scatter more than the belief allows: their sum of squares is chi-square if it is right."""
    n, size = len(residuals), _size(residuals)
    if n < FEWEST or size < _TOO_WIDE or not chdtrc(n, n * size**2) < FALSE_ALARM:
        return None
    return Signature(
        "over-confident model",
        f"what was told of {name!r} was off by {size:.2g} predicted standard deviations (root mean square over {n} "
        "tells; about 1 if the belief is right)",
        "Certificates rest on this belief (premises A1, A2): stop asking. Start a new run with a larger dial error or "
        "shorter length-scales, or with `inflate` above 1; `safehold deploy stress` shows what a wrong model does.",
    )


def under_confident(name: str, residuals: Float[np.ndarray, "n"]) -> Signature | None:
    """Innovations scatter far less than the belief says: safe, but much is left uncertified."""
    n, size = len(residuals), _size(residuals)
    if n < FEWEST or size > _TOO_NARROW or not chdtr(n, n * size**2) < FALSE_ALARM:
        return None
    return Signature(
        "under-confident model",
        f"what was told of {name!r} was off by only {size:.2g} predicted standard deviations (root mean square over "
        f"{n} tells; about 1 if the belief is right)",
        "Nothing is unsafe, but much is left uncertified. What is declared stays for this run; the next may declare a "
        "smaller dial error or noise, if other data than these few tells say so too.",
    )


def noise_above_floor(name: str, squares: float, degrees: int, *, known: bool) -> Signature | None:
    """Episodes at one target scatter more than was declared.

    `squares`: of replicates about their mean, in units of the declared variance, with this many `degrees` of freedom.
    Of a declared noise any excess is wrong; one that is estimated is bounded from above, and named if it is far off.
    """
    if degrees < FEWEST:
        return None
    least = squares / float(chdtri(degrees, FALSE_ALARM))
    if not least > (1.0 if known else _NOISE_RATIO):
        return None
    ratio = math.sqrt(squares / degrees)
    return Signature(
        "noise larger than declared",
        f"episodes of {name!r} scatter {ratio:.2g} times as much as declared ({degrees} degrees of freedom; at least "
        f"{math.sqrt(least):.2g} times)",
        "The noise was declared known, and its premise (A2) does not hold: stop asking, and start a new run with the "
        "noise estimated."
        if known
        else "The certificates use the larger, measured noise. More episodes an ask would certify more; a catastrophe "
        "rarer than the episodes told is in no such estimate.",
    )


def stuck(asks: Sequence[tuple[int, bool]]) -> Signature | None:
    """The last told asks, of (candidate, whether it was to explore), were all to explore at one candidate."""
    last = 0
    for index, exploring in reversed(asks):
        if index != asks[-1][0] or not exploring:
            break
        last += 1
    if last < _STUCK_ASKS:
        return None
    return Signature(
        "stuck at one target",
        f"the last {last} asks were meant to learn, and all measured the same target",
        "Measuring it again no longer makes other targets certifiable. Run more episodes an ask, end exploring earlier "
        "(`exploration_share`, `exploration_width`), or use another acquisition.",
    )


def dial_does_not_respond(
    name: str,
    targets: Float[np.ndarray, "n d"],
    axis: int,
    told: Float[np.ndarray, "n"],
    foretold: Float[np.ndarray, "n"],
    limit: float,
) -> Signature | None:
    """What is told does not follow the target: least squares on all axes, and the slope along this one.

    `foretold` are the prior means, with the slope that was declared; nothing is said unless they were to change by a
    fifth of the limit. Dead: the slope's upper 97.5 % bound is under a quarter of the declared one.
    """
    design = np.column_stack([np.ones(len(targets)), targets])
    degrees = len(targets) - design.shape[1]
    reach = float(np.ptp(targets[:, axis])) if len(targets) else 0.0
    if degrees < 3 or len(np.unique(targets[:, axis])) < 4 or np.linalg.matrix_rank(design) < design.shape[1]:
        return None
    declared = float(np.linalg.lstsq(design, foretold, rcond=None)[0][1 + axis])
    if not declared * reach >= _FELT * max(limit, 1e-300):
        return None
    fitted = np.linalg.lstsq(design, told, rcond=None)[0]
    variance = float(np.sum((told - design @ fitted) ** 2)) / degrees
    error = math.sqrt(variance * float(np.linalg.inv(design.T @ design)[1 + axis, 1 + axis]))
    slope = float(fitted[1 + axis])
    if not slope + float(stdtrit(degrees, 0.975)) * error < _RESPONSE * declared:
        return None
    return Signature(
        "dial does not respond",
        f"asking for {reach:.4g} more of {name!r} changed what came by {slope * reach:.3g}, foretold were "
        f"{declared * reach:.3g} ({len(targets)} tells)",
        "The policy does not follow this target, so that tuning it is in vain. Evaluate the dial offline "
        "(`safehold evaluate`), and train longer or on more varied data.",
    )


def spent_early(spent: float, budget: float, asks: int, horizon: int) -> Signature | None:
    """Most of the certificate's share of delta was gone before half of the asks were."""
    if not (spent >= _MOSTLY_SPENT * budget and asks <= _EARLY * horizon):
        return None
    return Signature(
        "budget of delta spent early",
        f"{spent:.3g} of {budget:.3g} was spent by {asks} of {horizon} asks",
        "What is left certifies what is paid for and next to nothing new. Declare a shorter horizon, or more seed "
        "targets, which cost nothing.",
    )


def revocations(revoked: int, *, refuted: bool) -> Signature | None:
    """Targets that ran, and that their own episodes then spoke against."""
    if not revoked and not refuted:
        return None
    words = f"{revoked} deployed target{'s are' if revoked != 1 else ' is'} revoked by what was measured at them"
    return Signature(
        "revocations",
        words + ("; a seed target is among those that evidence puts over a limit" if refuted else ""),
        "The seed targets' premise (A6) is refuted: find out how they were chosen before anything is asked again."
        if refuted
        else "One is what delta allows for; more than one, or one early, speaks against the declared prior or noise. "
        "Read `safehold deploy explain` of those trials.",
    )


def drift(
    name: str, residuals: Float[np.ndarray, "n"], episodes: Sequence[tuple[int, Float[np.ndarray, "_"]]]
) -> Signature | None:
    """Something changed: the same targets cost otherwise than before, or innovations moved at some point and stayed.

    `episodes`: candidate and costs of every told trial, in order. Repeats of a candidate: F test of trials within
    candidates. Innovations: the largest standardised difference of means before and after any tell, times the number
    of splits (Bonferroni), in units of the larger of 1 and their own scatter.
    """
    evidence = _between_repeats(episodes) or _moved(residuals)
    if evidence is None:
        return None
    return Signature(
        "drift",
        f"{name!r}: {evidence}",
        "Premise A4 (nothing changes) is in doubt: find out what changed. After a known change start a new epoch with "
        "`safehold deploy resume`, on what is left of delta.",
    )


def _between_repeats(episodes: Sequence[tuple[int, Float[np.ndarray, "_"]]]) -> str | None:
    """Trials of the same candidates that differ by more than their episodes' scatter."""
    trials: dict[int, list[np.ndarray]] = {}
    for index, costs in episodes:
        trials.setdefault(index, []).append(costs)
    repeated = [mine for mine in trials.values() if len(mine) > 1]
    between = sum(_squares_between(mine) for mine in repeated)
    within = sum(float(np.sum((costs - np.mean(costs)) ** 2)) for mine in repeated for costs in mine)
    upper = sum(len(mine) - 1 for mine in repeated)
    lower = sum(len(costs) - 1 for mine in repeated for costs in mine)
    if upper == 0 or lower < FEWEST or between == 0.0:
        return None
    ratio = between / upper / (within / lower) if within > 0 else math.inf
    if not (math.isinf(ratio) or fdtrc(upper, lower, ratio) < FALSE_ALARM):
        return None
    return (
        f"repeated trials of {len(repeated)} target(s) differ {math.sqrt(ratio):.2g} times as much as episodes explain"
    )


def _squares_between(trials: Sequence[Float[np.ndarray, "_"]]) -> float:
    """Sum of squares of the trials' means about that of all their episodes."""
    overall = float(np.mean(np.concatenate(trials)))
    return sum(len(costs) * (float(np.mean(costs)) - overall) ** 2 for costs in trials)


def _moved(residuals: Float[np.ndarray, "n"]) -> str | None:
    """Innovations whose mean changed at some tell."""
    n = len(residuals)
    if n < 2 * FEWEST:
        return None
    strongest, at = 0.0, 0
    for split in range(FEWEST - 2, n - FEWEST + 3):
        before, after = residuals[:split], residuals[split:]
        apart = float(np.mean(after) - np.mean(before)) / math.sqrt(1 / len(before) + 1 / len(after))
        scatter = math.sqrt((np.var(before) * len(before) + np.var(after) * len(after)) / (n - 2))
        if abs(apart) / max(1.0, scatter) > abs(strongest):
            strongest, at = apart / max(1.0, scatter), split
    splits = n - 2 * FEWEST + 5
    if not 2.0 * float(ndtr(-abs(strongest))) * splits < FALSE_ALARM:
        return None
    way = "dearer" if strongest > 0 else "cheaper"
    return f"from about tell {at + 1} on it came {way} than foretold, by {abs(strongest):.2g} standard errors"


def _size(residuals: Float[np.ndarray, "n"]) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(residuals**2))) if len(residuals) else 0.0


def _residuals(state: State, name: str) -> Float[np.ndarray, "_"]:
    """Innovations of one limited cost in the present epoch."""
    found = [p.residual for p in predictions(state, name) if p.number >= state.epoch_start]
    values = np.array(found, dtype=np.float64)
    return values[np.isfinite(values)]


def _beyond_seeds(state: State) -> list[int]:
    """Certified targets that are no seed targets, after each tell of the present epoch, as far as asks recorded it."""
    seeds = state.declaration.seeds
    masks = [
        unpack_mask(ask.safe_mask, len(seeds))
        for ask in state.asked.values()
        if ask.number > state.epoch_start and ask.n_told > 0
    ]
    told = any(number >= state.epoch_start for number in (state.asked[trial].number for trial in state.told))
    masks += [state.verdict().safe] if told else []
    return [int(np.sum(mask & ~seeds)) for mask in masks]


def _episodes(state: State, name: str) -> list[tuple[int, Float[np.ndarray, "_"]]]:
    """Candidate and costs of the whole trials of the present epoch."""
    return [
        (state.asked[trial].index, event.measurement.costs[name])
        for trial, event in state.told.items()
        if state.asked[trial].number >= state.epoch_start and not event.measurement.failed.any()
    ]


def _unresponsive(state: State, name: str) -> Signature | None:
    """Whether the dial that is named like this cost moves it."""
    space = state.declaration.space
    if name not in space.names:
        return None
    limit = next(limit for limit in state.limits if limit.name == name)
    trials = _episodes(state, name)
    places: Int[np.ndarray, _] = np.array([index for index, _ in trials], dtype=np.int64)
    if len(places) == 0:
        return None
    return dial_does_not_respond(
        name,
        space.points[places],
        space.names.index(name),
        np.array([limit.statistic(costs) for _, costs in trials]),
        state.declaration.prior.costs[name].mean[places],
        limit.value,
    )
