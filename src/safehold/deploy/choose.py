"""One ask: from the state to the next target and the evidence behind it, or a refusal that says why."""

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool
from scipy.special import ndtr

from safehold.core.certificate import Certificate, RuleEvidence
from safehold.core.constraint import Limit
from safehold.core.errors import Alarm, Exhausted, NoCertifiedTarget, NoSeed, UsageError
from safehold.core.target import Target
from safehold.deploy.acquisition import ACQUISITIONS, CostView, Proposal, View, best
from safehold.deploy.belief import Belief
from safehold.deploy.certificates.rule import RuleVerdict, Verdict
from safehold.deploy.declaration import Declaration
from safehold.deploy.replay import State
from safehold.gp.confidence import ConfidenceBand
from safehold.gp.mixture import Mixture
from safehold.ledger.events import Asked, Bound, pack_mask

PREMISES = ("A3-independence", "A4-unchanged")
"""Premises of docs/guarantees.md that every certificate rests on, whatever its rules."""

NOISE = "A2-noise"
"""Premise of the rules that rest on the belief about the noise."""

NORMAL_EPISODES = "A7-normal-episodes"
"""Premise of a chance or cvar limit."""

FRESH_EPOCH = "A12-fresh-epoch"
"""Premise of every certificate after a resume."""

PRIOR = "A1-prior"
"""Premise of the rules that rest on the declared prior."""

CORRELATION = "A13-correlation"
"""Premise of those rules where a cost is declared to go with the reward."""

APPROXIMATE = (
    "Chance and cvar limits are approximate: what is bounded is mean + kappa sd of normal episodes, estimated from "
    "replicates."
)

ESTIMATED = (
    "Exact for normal episodes of a known variance; here a cost's variance is bounded from replicates and taken to be "
    "no smaller, which makes it approximate."
)

SEED_PREMISES = {"attested": "A6-seeds-attested", "log": "A6-seeds-from-log", "verified": "A6-seeds-verified"}
"""Premise of a seed target without evidence of its own, by the rule it comes from."""

Context = Mapping[str, float]
"""Values of dial axes that the world has fixed: the payload that is mounted, the checkpoint that is loaded."""


def next_ask(state: State, key: str | None, context: Context | None = None) -> Asked:
    """The next ask of this state; a pure function of it.

    Raises:
        Alarm: if the level of the ladder lets nothing run but a fallback.
        Exhausted: if the run was stopped, its horizon is spent, or too many trials are open.
        NoCertifiedTarget: if no candidate may be handed out.
        UsageError: if the context is none of this dial's.
    """
    choices = in_context(state, context)
    verdict = open_verdict(state, choices)
    index, proposal = _choose(state, verdict, choices)
    number = len(state.asked)
    space = state.declaration.space
    return Asked(
        trial=f"trial-{number:04d}",
        number=number,
        key=key,
        context=None if context is None else {name: float(context[name]) for name in sorted(context)},
        target=space.target(index),
        index=index,
        phase=proposal.phase,
        reward=reward_bound(state, index),
        costs=cost_bounds(state, index),
        alpha=max(rule.multiplier for rule in verdict.rules),
        n_told=state.rounds,
        safe_count=int(np.sum(verdict.safe)),
        safe_mask=pack_mask(verdict.safe),
        expander_count=proposal.n_expanders,
        certificate=certificate(state, verdict, index),
    )


def in_context(state: State, context: Context | None) -> Bool[np.ndarray, "m"]:
    """Candidates with these values on these axes; all without a context.

    Raises:
        UsageError: if an axis or a value is none of this dial's.
    """
    space = state.declaration.space
    mask = np.ones(len(space), dtype=np.bool_)
    for name, value in (context or {}).items():
        if name not in space.axes or value not in space.axes[name]:
            raise UsageError(
                f"context {name!r} = {value} is none of this dial; it has "
                f"{ {axis: values for axis, values in space.axes.items() if axis in state.declaration.prior.contexts} }"
            )
        mask &= space.points[:, space.names.index(name)] == value
    return mask


def open_verdict(state: State, choices: Bool[np.ndarray, "m"]) -> Verdict:
    """What the rules say, if an ask among these candidates would be answered; raises as `next_ask` does if not."""
    _refuse_if_closed(state, choices)
    verdict = state.verdict()
    if not (verdict.safe & choices).any():
        raise _nothing_certified(state, verdict, choices)
    return verdict


def refuse_to_run(state: State, trial: str) -> None:
    """Raises if a trial that was asked may not run, or run again, as things stand now.

    What it was asked on must still hold: a target that was paid for under a higher limit, or handed out on a premise
    that was refuted since, is not paid for as things stand, however cheap it may be to ask for it anew.

    Raises:
        Alarm: if the level of the ladder lets nothing run but a fallback.
        Exhausted: if the run was stopped.
        NoCertifiedTarget: if the trial's target is revoked, no longer certified, or not paid for.
    """
    _refuse_if_ended(state)
    asked = state.asked[trial]
    verdict = state.verdict()
    if not (verdict.safe[asked.index] and verdict.price[asked.index] == 0.0):
        why = "is no longer certified"
        if verdict.revoked[asked.index]:
            why = "is revoked by what was measured"
        elif verdict.safe[asked.index]:
            why = "is not paid for"
        raise NoCertifiedTarget(
            f"{trial} may not run: its target {asked.target} {why} since it was asked; abandon it. "
            f"{fallback_words(state)}"
        )


def certificate(state: State, verdict: Verdict, index: int) -> Certificate:
    """Why this candidate may be handed out now."""
    declaration = state.declaration
    on_premise = verdict.rests_on_premise(index)
    evidence = tuple(_evidence(rule, index, free=on_premise) for rule in verdict.rules)
    bounds = [e.upper for e in evidence if e.upper is not None]
    shares = declaration.share
    charge = sum(e.charge for e in evidence)
    # a rule of one epoch spends all of its share by being declared: its bands hold at all rounds at once
    at_once = any(rule.one_epoch for rule in declaration.rules)
    spent = shares.certificate if at_once else state.spent + charge
    return Certificate(
        kind="+".join(rule.kind for rule in declaration.rules),
        basis="premise" if on_premise else "rules",
        promise=promise(state),
        limits=state.limits,
        risks={limit.name: risk(state, limit, index) for limit in state.limits},
        upper={limit.name: max(bound[limit.name] for bound in bounds) for limit in state.limits}
        if bounds and not on_premise
        else None,
        charge=charge,
        spent_after=min(shares.seed + shares.noise + spent, declaration.delta),
        delta=declaration.delta,
        shares=shares_of(declaration),
        n_told=state.rounds,
        premises=premises(state, on_premise=on_premise),
        evidence=evidence,
    )


def shares_of(declaration: Declaration) -> dict[str, float]:
    """The parts of delta by what they are for; the rules' one by stages of the roll-out, if it has any."""
    shares = declaration.share
    rules = {f"certificate, {stage.name}": stage.share for stage in declaration.stages}
    return {"seed": shares.seed, **(rules or {"certificate": shares.certificate}), "noise": shares.noise}


def promise(state: State) -> str:
    """What the rules promise, in words."""
    words = [rule.promise for rule in state.declaration.rules]
    known = state.declaration.prior.n_estimated == 0
    if not known and any(NOISE in rule.premises for rule in state.declaration.rules):
        words.append(ESTIMATED)
    if any(limit.approximate for limit in state.limits):
        words.append(APPROXIMATE)
    return " ".join(words)


def premises(state: State, *, on_premise: bool) -> tuple[str, ...]:
    """Ids of everything that a certificate rests on, in order; of the seed targets' premise if it rests on that."""
    names = {*PREMISES, *(name for rule in state.declaration.rules for name in rule.premises)}
    if any(limit.approximate for limit in state.limits):
        names.add(NORMAL_EPISODES)
    if state.declaration.prior.coupled is not None and PRIOR in names:
        names.add(CORRELATION)
    if state.epoch > 0:
        names.add(FRESH_EPOCH)
    if on_premise:
        # after a resume, and of a lowered limit, somebody attested that the seed targets are safe
        anew = state.epoch > 0 or state.limits != state.declaration.limits
        names.add(SEED_PREMISES["attested" if anew else state.declaration.seed_rule])
    return tuple(sorted(names, key=lambda name: int(name.split("-")[0][1:])))


def risk(state: State, limit: Limit, index: int) -> float:
    """Posterior probability that the limited statistic at a candidate is above the limit, under the mixture."""
    process = state.costs[limit.name].process
    beliefs = (process,) if process.measured is process else (process, process.measured)
    return max(_risk(belief, limit, index) for belief in beliefs)


def _risk(process: Mixture, limit: Limit, index: int) -> float:
    """The same of one belief; a member without any spread left counts as over the limit if it is not under it."""
    total = 0.0
    for weight, mean, sd in zip(process.weights, process.means[:, index], process.sds[:, index], strict=True):
        excess = float(mean) - limit.value
        total += float(weight) * (float(ndtr(excess / sd)) if sd > 0 else float(not excess < 0.0))
    return total


def view(state: State, verdict: Verdict, choices: Bool[np.ndarray, "m"] | None = None) -> View:
    """What an acquisition may look at; with open trials, beliefs as if they came out as foretold.

    What is certified rests on told data alone, and is fixed before any score is computed.
    """
    declaration = state.declaration
    settings = declaration.settings
    pending = np.array([state.asked[trial].index for trial in state.open_trials], dtype=np.int64)
    return View(
        space=declaration.space,
        reward=_foretold(state.reward, pending, 1.0 / settings.episodes_per_ask),
        reward_alpha=declaration.reward_alpha(state.rounds),
        reward_scale=declaration.prior.reward.dial_sd,
        costs={limit.name: _cost_view(state, verdict, limit, pending) for limit in state.limits},
        safe=verdict.safe,
        choices=verdict.safe if choices is None else verdict.safe & choices,
        support=declaration.prior.support,
        number=len(state.asked),
        may_explore=state.n_explored < settings.exploration_share * declaration.horizon,
        exploration_width=settings.exploration_width,
    )


def _cost_view(state: State, verdict: Verdict, limit: Limit, pending: np.ndarray) -> CostView:
    """One limited cost, in the eyes of all rules together: none may have a higher bound or a longer reach."""
    declaration = state.declaration
    belief = state.costs[limit.name]
    factor = limit.noise_factor(declaration.settings.episodes_per_ask)
    process = _foretold(belief, pending, factor)
    bands = [rule.intervals[limit.name] for rule in verdict.rules]
    lower, upper = np.max([band.lower for band in bands], axis=0), np.max([band.upper for band in bands], axis=0)
    bounding = all(rule.bounding for rule in verdict.rules)
    kept = upper if bounding else np.full(len(upper), np.inf)
    if len(pending):
        width = max(rule.multiplier for rule in verdict.rules) * process.sd
        lower, upper = np.maximum(lower, process.mean - width), np.minimum(upper, process.mean + width)
    return CostView(
        limit=limit,
        process=process,
        band=ConfidenceBand(lower, upper),
        scale=declaration.terms(declaration.delta).scale(limit),
        noise_variance=belief.floor * (belief.scale * factor),
        reach=max(rule.reach[limit.name] for rule in verdict.rules),
        kept=kept,
    )


def _foretold(belief: Belief, pending: np.ndarray, factor: float) -> Mixture:
    """The belief as if the open trials came out as each member foretells."""
    if len(pending) == 0:
        return belief.process
    return belief.process.hallucinate(pending, belief.floor[pending] * (belief.scale * factor))


def _evidence(rule: RuleVerdict, index: int, *, free: bool) -> RuleEvidence:
    """What one rule says of a candidate; a seed target on its premise is charged nothing."""
    return RuleEvidence(
        kind=rule.kind,
        certified=bool(rule.certified[index]),
        upper={name: float(band.upper[index]) for name, band in rule.intervals.items()} if rule.bounding else None,
        risk=None if rule.risk is None else float(rule.risk[index]),
        cap=rule.cap,
        charge=0.0 if free else float(rule.price[index]),
    )


def _refuse_if_ended(state: State, choices: Bool[np.ndarray, "m"] | None = None) -> None:
    """Raises if nothing may run any more, whatever was asked before."""
    if state.stopped is not None:
        raise Exhausted(f"the run was stopped: {state.stopped}; start a new one to go on")
    if state.level in ("seed", "stop") and state.alarm is not None:
        raise Alarm(
            f"alarm: {state.alarm.reason}. Certificates no longer mean anything; hold. {fallback_words(state, choices)}"
        )


def _refuse_if_closed(state: State, choices: Bool[np.ndarray, "m"]) -> None:
    """Raises if nothing may be asked at all, whatever is certified."""
    _refuse_if_ended(state, choices)
    if not state.established.any():
        raise NoSeed(
            f"none of {len(state.declaration.seed_indices)} declared seed targets is verified yet: nothing is safe "
            "to start from. Tell the raw costs of one's episodes until its capital reaches "
            f"{1.0 / state.declaration.seed_level:.4g} (`safehold deploy seed`)"
        )
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


def _nothing_certified(state: State, verdict: Verdict, choices: Bool[np.ndarray, "m"]) -> NoCertifiedTarget:
    """The refusal that names the candidate that came nearest, and what it misses."""
    declaration = state.declaration
    eligible = declaration.prior.support & ~verdict.revoked & choices
    revoked = int(np.sum(verdict.revoked & (declaration.seeds | state.contradicted())))
    if not eligible.any():
        return NoCertifiedTarget(
            f"no target is certified and none can be: every supported candidate is revoked ({revoked} by evidence)"
        )
    misses = np.max([rule.miss for rule in verdict.rules], axis=0)
    place = int(np.argmin(np.where(eligible, misses, np.inf)))
    unit = max(verdict.rules, key=lambda rule: float(rule.miss[place])).unit
    words = "; ".join(standing.words(state.evidence, place) for standing in state.standings)
    premise = ""
    if verdict.refuted:
        premise = (
            "A seed target was measured over a limit, which refutes the premise that all of them are safe: none is "
            "handed out on it any more. "
        )
    elif state.rejected:
        premise = f"{len(state.rejected)} targets were rejected by an operator. "
    elif not state.seeds_hold:
        premise = "A limit was lowered, and nobody attested that the seed targets keep it. "
    if state.dear_failure:
        premise += (
            "Episodes that failed had cost more than a limit already: only targets that were told and paid for are "
            "handed out. "
        )
    if state.level == "paid_only":
        premise += "After an alarm only targets that were told and paid for are handed out. "
    if state.stage is not None and state.stage.name != "full":
        premise += f"The roll-out is in its {state.stage.name} stage, which may spend {state.stage_left:.3g} more. "
    return NoCertifiedTarget(
        f"{premise}no target is certified ({revoked} seed or told targets are revoked). Nearest is "
        f"{declaration.space.target(place)} ({words}); it misses by {max(misses[place], 0.0):.3g} of "
        f"{unit}. Hold. No fallback is left: stop."
    )


def _choose(state: State, verdict: Verdict, choices: Bool[np.ndarray, "m"]) -> tuple[int, Proposal]:
    """The candidate, and what it was proposed for.

    While nothing was told among the choices: a seed target, the one nearest to the centre of them, if one may be
    asked. Then the certified choice that the declared acquisition scores best.
    """
    among = verdict.safe & choices
    seeds = among & state.declaration.seeds
    if seeds.any() and not any(choices[index] for index in state.tallies):
        return first_seed(state, seeds), Proposal(scores=np.zeros(len(among)), phase="seed")
    proposal = ACQUISITIONS[state.declaration.settings.acquisition](view(state, verdict, choices))
    return best(proposal.scores, among), proposal


def first_seed(state: State, among: Bool[np.ndarray, "m"]) -> int:
    """Of these seed targets, at least one, the nearest to the centre of the box of all, in units of the axes."""
    points = state.declaration.space.points
    box = points[state.declaration.seed_indices]
    span = np.ptp(points, axis=0)
    distance = np.sum(((points - (box.min(axis=0) + box.max(axis=0)) / 2) / np.where(span > 0, span, 1.0)) ** 2, axis=1)
    return best(-distance, among)


def fallback(state: State, verdict: Verdict, choices: Bool[np.ndarray, "m"] | None = None) -> Target | None:
    """The seed target to fall back to, None if none may be handed out for nothing; in an alarm no bound counts.

    A fallback runs without an ask, so that nothing could be charged for it.
    """
    trusted = verdict.safe & state.declaration.seeds & (verdict.price == 0.0)
    if state.level in ("seed", "stop"):
        trusted = trusted & verdict.by_premise
    if choices is not None:
        trusted = trusted & choices
    return state.declaration.space.target(first_seed(state, trusted)) if trusted.any() else None


def fallback_words(state: State, choices: Bool[np.ndarray, "m"] | None = None) -> str:
    """The fallback in a sentence."""
    target = fallback(state, state.verdict(), choices)
    return "No fallback is left: stop." if target is None else f"The fallback is the seed target {target}."


def cost_bounds(state: State, index: int) -> dict[str, Bound]:
    """Belief about every limited cost at a candidate: posterior, and the interval of all rules together."""
    bounds = {}
    for name, belief in state.costs.items():
        bands = [rule.intervals[name] for rule in state.verdict().rules]
        bounds[name] = Bound(
            mean=float(belief.process.mean[index]),
            sd=float(belief.process.sd[index]),
            lower=float(max(band.lower[index] for band in bands)),
            upper=float(max(band.upper[index] for band in bands)),
            episode_sd=math.sqrt(belief.episode_variance(index)),
        )
    return bounds


def reward_bound(state: State, index: int) -> Bound:
    """Belief about the reward at a candidate."""
    belief = state.reward
    mean, sd = float(belief.process.mean[index]), float(belief.process.sd[index])
    alpha = state.declaration.reward_alpha(state.rounds)
    return Bound(
        mean=mean,
        sd=sd,
        lower=mean - alpha * sd,
        upper=mean + alpha * sd,
        episode_sd=math.sqrt(belief.episode_variance(index)),
    )
