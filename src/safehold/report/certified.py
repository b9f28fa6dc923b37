"""The certificate of one target of a run, in words for its page."""

from collections.abc import Sequence

import numpy as np

from safehold.core.certificate import Certificate
from safehold.core.constraint import Limit
from safehold.deploy.choose import shares_of
from safehold.deploy.replay import State
from safehold.ledger.events import Asked, Bound, Deployed, LimitLowered, Resumed, Seeded, Told
from safehold.report.figures import certificate
from safehold.report.figures.certificate import CertificatePage, LimitLine, Share
from safehold.report.figures.risk import CERTIFICATE
from safehold.report.premises import premises
from safehold.report.run import RunView
from safehold.report.views import statistic_interval
from safehold.report.words import limit_text, percent, target_text, verdict_of

_PHASES = {"seed": "seed target", "explore": "asked to certify more", "maximise": "asked for its reward"}


def certificate_page(run: RunView, trial: str | None = None) -> CertificatePage | None:
    """The certificate that a trial was handed out on, the last one if not said; None before the first ask."""
    state = run.state
    if state is None or not state.asked:
        return None
    name = next(reversed(list(state.asked))) if trial is None else trial
    asked = state.asked[name]
    given = asked.certificate
    return certificate.info(
        of=f"{name} (ask {asked.number}, {_PHASES[asked.phase]}) of run {run.name}",
        kind=given.kind,
        target=target_text(asked.target) + _dials(state),
        promise=given.promise,
        doubts=_doubts(state, asked),
        limits=[_limit_line(run, state, asked, limit) for limit in given.limits],
        delta=given.delta,
        shares=_shares(state, asked),
        premises=premises(state, given.premises),
        facts=[*_dates(run, name), *_origin(run, state, asked)],
    )


def _dials(state: State) -> str:
    """What the numbers of a target are."""
    return " = (" + ", ".join(state.declaration.space.names) + ")"


def _doubts(state: State, asked: Asked) -> list[str]:
    """Why this certificate no longer stands, apart from broken premises."""
    found = []
    if asked.number < state.epoch_start:
        found.append("it is of an earlier epoch")
    elif state.verdict().revoked[asked.index]:
        found.append("its target is revoked by what was measured")
    lowered = [now.name for now, then in zip(state.limits, asked.certificate.limits, strict=True) if now != then]
    if lowered:
        found.append(f"the limit on {', '.join(lowered)} was lowered since")
    if state.alarm is not None and state.level in ("seed", "stop"):
        found.append(f"an alarm stands: {state.alarm.reason}")
    return found


def _limit_line(run: RunView, state: State, asked: Asked, limit: Limit) -> LimitLine:
    """One limit and what is known of the target under it."""
    belief: Bound = asked.costs[limit.name]
    told = state.told.get(asked.trial)
    if told is None:
        came = state.states[asked.trial].value
    elif told.measurement.failed.any():
        came = "episodes failed"
    else:
        came = str(statistic_interval(limit, told.measurement.costs[limit.name]))
    return LimitLine(
        limit=limit_text(limit, run.unit(limit.name)),
        believed=f"{belief.mean:.4g} ± {belief.sd:.2g} sd",
        certified=_grounds(asked.certificate, limit.name),
        told=came,
    )


def _grounds(given: Certificate, name: str) -> str:
    """What it was certified on."""
    if given.basis == "premise":
        return "as seed target, by premise A6"
    if given.upper is not None:
        return f"at most {given.upper[name]:.4g}"
    return f"with risk {percent(given.risks[name])}"


def _shares(state: State, asked: Asked) -> list[Share]:
    """Parts of delta as they stood after this ask; the rules' one is spent ask by ask if a rule pays for risk."""
    paying = any(evidence.cap is not None for evidence in asked.certificate.evidence)
    left = sum(ask.certificate.charge for ask in state.asked.values() if ask.number <= asked.number)
    parts = []
    for name, part in shares_of(state.declaration).items():
        spent = None
        if paying and name.startswith(CERTIFICATE):
            spent = min(left, part)
            left -= spent
        parts.append(Share(name=name, part=part, spent=spent))
    return parts


def _dates(run: RunView, trial: str) -> list[tuple[str, str]]:
    """When what was written, by the clock of the machine that wrote it."""
    wanted = {"declared": None, "asked": None, "deployed": None, "told": None}
    found: dict[str, str | None] = {**wanted, "declared": run.written[0]}
    for event, when in zip(run.events, run.written, strict=True):
        if isinstance(event, Asked | Deployed | Told) and event.trial == trial:
            found[type(event).__name__.lower()] = when
    return [(name, _moment(when)) for name, when in found.items() if when is not None]


def _moment(written: str) -> str:
    """A wall time of the ledger to the second."""
    return written[:19].replace("T", " ") + " UTC"


def _origin(run: RunView, state: State, asked: Asked) -> list[tuple[str, str]]:
    """Policy, seeds, ledger."""
    started = run.started
    over = sum(verdict_of(state, trial) != "SAFE" for trial in state.told)
    facts = [
        ("deployments", f"{state.n_told} told, {over} of them over a limit or failed"),
        ("seed targets", _seeds(run.events, state)),
        ("rests on", f"{asked.n_told} measurements; {asked.safe_count} targets were certified then"),
        (
            "now",
            f"level {state.level!r}, epoch {state.epoch}" + ("" if state.stage is None else f", {state.stage.name}"),
        ),
    ]
    if started is not None:
        facts += [("policy digest", started.policy_digest or "not recorded")]
        facts += [("task", run.task)] if run.task else []
        facts += [("safehold", started.safehold_version)]
    return [*facts, ("ledger head", run.head), ("at its event", f"{len(run.events)}, {_moment(run.written[-1])}")]


def _seeds(events: Sequence[object], state: State) -> str:
    """Where the seed targets come from, and who stands for them."""
    count = len(state.declaration.seed_indices)
    words = [f"{count} by rule {state.declaration.seed_rule!r}"]
    for event in events:
        match event:
            case Seeded():
                who = event.evidence.get("by")
                words += [event.rule] if event.rule != state.declaration.seed_rule else []
                words += [f"attested by {who}"] if who else []
            case Resumed():
                words.append(f"attested anew by {event.by}")
            case LimitLowered() if event.seeds_hold:
                words.append(f"attested for the limit {event.value:g} on {event.limit!r}")
    if state.declaration.seed_rule == "verified":
        words.append(f"{int(np.sum(state.established))} verified so far")
    return "; ".join(words)
