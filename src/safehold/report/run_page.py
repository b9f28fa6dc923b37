"""A run on one page: verdict, deployments, dial, safe set, calibration, certificate, and how to check all of it."""

import shlex
from dataclasses import dataclass

import numpy as np

from safehold.core.certificate import TrialState
from safehold.core.constraint import Limit
from safehold.core.errors import Alarm, Exhausted, NoCertifiedTarget
from safehold.core.intervals import mean_interval, proportion_upper
from safehold.deploy.replay import State
from safehold.deploy.status import Recommendation, recommend
from safehold.ledger.events import Held
from safehold.report import tables, views
from safehold.report.certified import certificate_page
from safehold.report.figures import (
    asked_obtained,
    bounds,
    calibration,
    data_plane,
    monitors,
    path,
    risk,
    safe_set,
    timeline,
)
from safehold.report.figures.palette import MARKS
from safehold.report.page import Picture, Section, Sign, Table, Verdict, page
from safehold.report.run import RunView
from safehold.report.signatures import signatures
from safehold.report.words import limit_text, over_limit, percent, target_text, verdict_of


def run_page(run: RunView) -> str:
    """The whole report of a run as one HTML page."""
    sections = [
        section
        for part in (_deployments, _targets, _data, _growth, _foretold, _belief, _promise)
        for section in part(run)
    ]
    title = f"{run.task}: {run.name}" if run.task else run.name
    signs = () if run.state is None else tuple(Sign(s.name, s.evidence, s.remedy) for s in signatures(run.state))
    return page(title, verdict(run), [*sections, _origin(run)], next_commands(run), signs)


def next_commands(run: RunView) -> tuple[str, ...]:
    """What to run next, ready to copy."""
    place = shlex.quote(str(run.directory))
    if run.state is None:
        return (f"safehold report {place}",)
    return tuple(f"safehold deploy {verb} {place}" for verb in ("verify", "explain", "recommend"))


def verdict(run: RunView) -> Verdict:
    """Safe only if every deployment was told, and every told mean is at or under its limit."""
    if run.state is None:
        return Verdict("caution", "No deployment in this run: nothing was certified.", _comparison(run))
    state = run.state
    told = list(state.told)
    over = [trial for trial in told if verdict_of(state, trial) != "SAFE"]
    unknown = [trial for trial, standing in state.states.items() if standing is TrialState.UNKNOWN]
    running = [trial for trial, standing in state.states.items() if standing is TrialState.RUNNING]
    limits = "; ".join(limit_text(limit, run.unit(limit.name)) for limit in state.declaration.limits)
    fresh = _fresh(run)
    lines = (
        f"Limit: {limits}.",
        *_episode_share(state),
        *fresh.lines,
        *_comparison(run),
        *_holds(run),
        *_unrecommended(state),
    )
    if state.alarm is not None:
        return Verdict("bad", f"Alarm: {state.alarm.reason}. Its certificates no longer mean anything.", lines)
    if over or unknown:
        words = f"{len(over)} of {len(told)} deployments had a mean cost above a limit"
        words += f", and {len(unknown)} ended with unknown outcome, which counts as unsafe" if unknown else ""
        return Verdict("bad", f"{words}.", lines)
    if fresh.surely_over:
        words = f"{_counted(fresh.surely_over, 'deployed target')} cost more than the limit on fresh episodes"
        return Verdict("bad", f"{words} (one-sided 95 % bound of the mean).", lines)
    if not told:
        words = f" {_counted(len(running), 'deployment')} began." if running else ""
        return Verdict("caution", f"Nothing was told yet: there is no evidence.{words}", lines)
    bound = percent(proportion_upper(0, len(told)))
    headline = f"0 of {len(told)} deployments had a mean cost above a limit (95 % upper bound of the share: {bound})."
    if fresh.over:
        words = f"On fresh episodes the mean of {_counted(fresh.over, 'deployed target')} is above it, within chance."
        return Verdict("caution", f"{headline} {words}", lines)
    if running:
        words = f"{_counted(len(running), 'deployment')} began and nothing was told: the outcome is not known."
        return Verdict("caution", f"{headline} {words}", lines)
    if recommendation(state) is None:
        return Verdict("caution", f"{headline} No told target is certified by a bound yet.", lines)
    return Verdict("good", headline, lines)


@dataclass(frozen=True, slots=True)
class _Fresh:
    """Deployed targets judged by fresh episodes: how many means are over the limit, how many surely so."""

    over: int
    surely_over: int
    lines: tuple[str, ...]


def _fresh(run: RunView) -> _Fresh:
    """Surely over: the one-sided 95 % lower bound of the mean is not at or under the limit, as for NaN."""
    limit = _limit_value(run)
    judged = [found for found in run.evaluations if found.label == "deployed"]
    if limit is None or not judged:
        return _Fresh(0, 0, ())
    means = [mean_interval(found.costs, level=0.9) for found in judged]
    over = sum(not mean.estimate <= limit for mean in means)
    surely = sum(not (mean.low if mean.known else mean.estimate) <= limit for mean in means)
    line = (
        f"Fresh episodes of the {len(judged)} different deployed targets: {over} with a mean above the limit, "
        f"{surely} of them surely (one-sided 95 % bound)."
    )
    return _Fresh(over, surely, (line,))


def recommendation(state: State) -> Recommendation | None:
    """The recommended target, if there is one."""
    try:
        return recommend(state)
    except (NoCertifiedTarget, Alarm):
        return None


def _limit(run: RunView) -> Limit | None:
    """The first limit, which is the one that two-dimensional pictures show."""
    return None if run.declaration is None else run.declaration.limits[0]


def _limit_value(run: RunView) -> float | None:
    limit = _limit(run)
    return None if limit is None else limit.value


def _cost_name(run: RunView) -> str:
    limit = _limit(run)
    return limit.name if limit is not None else next(iter(run.logged.costs), "cost") if run.logged else "cost"


def _episode_share(state: State) -> tuple[str, ...]:
    """How single episodes did: the certificate speaks of means, an operator meets episodes."""
    lines = []
    for limit in state.declaration.limits:
        costs = [
            value
            for told in state.told.values()
            for value in _costs_or_nan(told.measurement.failed, told.measurement.costs[limit.name])
        ]
        if costs:
            over = over_limit(costs, limit.value)
            lines.append(
                f"Single episodes: {over} of {len(costs)} cost more than {limit.value:g} {limit.name!r}. The "
                "certificate speaks of expected costs, so single episodes may."
            )
    return tuple(lines)


def _costs_or_nan(failed: np.ndarray, costs: np.ndarray) -> list[float]:
    return [float(value) for value in np.where(failed, np.nan, costs)]


def _comparison(run: RunView) -> tuple[str, ...]:
    """The tuned target against the naive one, in a line each."""
    lines = []
    for label, name in (("final", "Tuned target"), ("naive", "Naive target"), ("bc_safe", "Cloned from safe episodes")):
        found = run.evaluation(label)
        if found is not None:
            what = name if found.target is None else f"{name} {target_text(found.target)}"
            lines.append(
                f"{what}: reward {mean_interval(found.rewards)}, "
                f"cost {mean_interval(found.costs)} over {len(found.rewards)} episodes."
            )
    return tuple(lines)


def _holds(run: RunView) -> tuple[str, ...]:
    """How often the answer was to hold; that the declared asks are spent is no hold but the planned end."""
    held = [event for event in run.events if isinstance(event, Held) and event.error != Exhausted.__name__]
    return (f"The run held {_counted(len(held), 'time')}; the last time because: {held[-1].reason}",) if held else ()


def _unrecommended(state: State) -> tuple[str, ...]:
    """That a run which asked has nothing to recommend."""
    if not state.asked or recommendation(state) is not None:
        return ()
    return ("Nothing is recommended: no told target is certified by a bound.",)


def _deployments(run: RunView) -> list[Section]:
    """Cost and reward of each deployment, and the table of them."""
    if run.state is None:
        return []
    state, naive = run.state, run.evaluation("naive")
    first = _limit(run)
    pictures = []
    for number, limit in enumerate(state.declaration.limits):
        shown = naive if limit is first else None
        view = timeline.info(
            [_deployed(state, trial, limit.name) for trial in state.told],
            naive_costs=None if shown is None else shown.costs,
            naive_rewards=None if shown is None else shown.rewards,
            cost_name=limit.name,
            cost_unit=run.unit(limit.name),
            limit=limit.value,
        )
        caption = "Each column of dots is one deployment; its mean decides. Tinted: over the limit."
        if any(deployed.upper is not None for deployed in view.deployed):
            caption += " Dashes are the bound that was certified before it ran."
        pictures.append(Picture(f"timeline{number}", timeline.draw(view), caption))
    return [Section(title="Every deployment", pictures=tuple(pictures), tables=(tables.deployments(state),))]


def _deployed(state: State, trial: str, name: str) -> timeline.Deployed:
    asked, measured = state.asked[trial], state.told[trial].measurement
    return timeline.Deployed(
        number=asked.number,
        label=asked.phase,
        costs=np.where(measured.failed, np.nan, measured.costs[name]),
        rewards=measured.rewards,
        upper=None if asked.certificate.upper is None else asked.certificate.upper[name],
    )


def _targets(run: RunView) -> list[Section]:
    """Asked against obtained."""
    dialled = [found for found in run.evaluations if found.target is not None and len(found.target) >= 2]
    if not run.evaluations:
        return []
    answers = [
        asked_obtained.answer(_label(found.label), found.target, found.rewards, found.costs)
        for found in dialled
        if found.target is not None
    ]
    view = asked_obtained.info(answers, cost_name=_cost_name(run), limit=_limit_value(run))
    caption = "On the line the policy does what it is asked. It does not, so a target must be tuned, not trusted."
    pictures = (Picture("asked", asked_obtained.draw(view), caption),) if answers else ()
    return [
        Section(title="Asked and obtained", pictures=pictures, tables=(tables.evaluations(run, _limit_value(run)),))
    ]


def _label(label: str) -> str:
    return label if label in MARKS else "other"


def _data(run: RunView) -> list[Section]:
    """The logged episodes."""
    if run.logged is None:
        return []
    name = _cost_name(run)
    if name not in run.logged.costs:
        return []
    outcomes = tuple(
        data_plane.outcome(_label(label), found.rewards, found.costs)
        for label in ("naive", "bc_safe", "final")
        if (found := run.evaluation(label)) is not None
    )
    view = data_plane.info(
        run.logged.costs[name],
        run.logged.rewards,
        cost_name=name,
        cost_unit=run.unit(name),
        limit=_limit_value(run),
        terminated=run.logged.terminated,
        outcomes=outcomes,
    )
    caption = (
        "Each dot is a logged episode, hollow where the task itself ended it: such returns may be small for that "
        "reason alone. The staircase is the best reward at that cost or less."
    )
    return [Section(title="The data", pictures=(Picture("data", data_plane.draw(view), caption),))]


def _growth(run: RunView) -> list[Section]:
    """The certified set over the plane of targets, and the path through it."""
    if run.state is None:
        return []
    state = run.state
    best = recommendation(state)
    final = None if best is None else best.target
    further = ", ".join(state.declaration.space.names[2:])
    folded = (
        f" The dial has more axes ({further}): a place counts if it does at any of their values." if further else ""
    )
    growing = views.growth(state, [(state.asked[trial], at) for trial, at in run.before.items()], final)
    pictures = (
        Picture(
            "safeset",
            safe_set.draw(growing),
            "Light blue: targets that might be deployed at that moment, with their number; darker where one more "
            "measurement might certify others. Hatched: no logged episodes near, never to be certified. Staircase: of "
            f"each target cost, the certified target of which most reward is expected.{folded}",
        ),
        Picture(
            "path",
            path.draw(views.chosen_path(state, growing)),
            "Where the asks went, over what is certified now. Numbers are those of the asks; where there is no room, "
            f"the table has them.{folded}",
        ),
    )
    return [Section(title="How the certified set grew", pictures=pictures)]


def _foretold(run: RunView) -> list[Section]:
    """Bounds or risks against the limits, and what of delta they cost."""
    if run.state is None:
        return []
    pictures = (
        Picture(
            "bounds",
            bounds.draw(views.bounds_over_time(run, run.state)),
            "A stem reaches from the predicted mean to the upper end of what was believed before the ask; dots are "
            "what came. Tinted: over the limit as it was then. Seed targets on their premise have no certified bound.",
        ),
        Picture(
            "risk",
            risk.draw(views.spending(run, run.state)),
            "One delta is shared out. Where a rule pays for risk, every new target is paid before it runs, and nothing "
            "is ever refunded.",
        ),
    )
    return [Section(title="Bounds, limits and risk", pictures=pictures)]


def _belief(run: RunView) -> list[Section]:
    """Calibration, and the monitors."""
    if run.state is None:
        return []
    pictures = [
        Picture(
            "calibration",
            calibration.draw(views.beliefs(run.state)),
            "About 95 of 100 tells should lie in the band, above and below zero alike, and the columns on the right be "
            "equally high, within the shaded range. Noise is bounded from above, so a little less scatter is usual. "
            "Deployments with failed episodes are left out here.",
        )
    ]
    watched = views.monitoring(run)
    if watched.evidence:
        caption = (
            "An e-value: if all is as declared it seldom grows, and reaches the dashed line with at most the declared "
            "false-alarm rate, ever. After an alarm the monitors begin anew."
        )
        pictures.append(Picture("monitors", monitors.draw(watched), caption))
    return [Section(title="Was the belief honest?", pictures=tuple(pictures))]


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def _promise(run: RunView) -> list[Section]:
    """The certificate of the recommended target, or of the last ask."""
    if run.state is None or not run.state.asked:
        return []
    best = recommendation(run.state)
    trials = [ask.trial for ask in run.state.asked.values() if best is None or ask.index == best.index]
    return [Section(title="The certificate", certificate=certificate_page(run, trials[-1]))]


def _origin(run: RunView) -> Section:
    """What this report was made from."""
    started = run.started
    rows = [("run", str(run.directory)), ("task", run.task or "not said")]
    if started is not None:
        rows += [
            ("safehold", started.safehold_version),
            ("policy", started.policy_digest or "not recorded"),
            *((f"provenance: {name}", str(value)) for name, value in sorted(started.provenance.items())),
        ]
    if run.logged is not None:
        rows.append(("data", f"{len(run.logged.rewards)} episodes, SHA-256 {run.logged.digest}"))
    rows.append(("events in the ledger", str(len(run.events))))
    return Section(title="Where this comes from", tables=(Table("", ("what", "value"), tuple(rows)),))
