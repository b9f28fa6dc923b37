"""`safehold deploy`: ask for a certified target, tell what it did, and see why."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from safehold.cli.console import Output
from safehold.cli.deploy_runs import RunArguments, TrialArguments, outcomes_of, place, short
from safehold.cli.driving import DriveArguments, run
from safehold.cli.main import Command
from safehold.cli.outputs import free_file
from safehold.core.certificate import Trial
from safehold.core.errors import DataError, IntegrityError, UsageError
from safehold.deploy.optimizer import Deployment
from safehold.deploy.status import Recommendation, Status
from safehold.deploy.verify import verify
from safehold.ledger.encoding import to_plain
from safehold.ledger.events import Asked, Bound
from safehold.report.run import read_run
from safehold.report.words import grounds

_FRONTIER = 8  # points of the certified frontier in a table; --json has them all


class AskArguments(RunArguments):
    """Arguments of `deploy ask`."""

    key: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """Name of this ask: asking again with the same key gives the same trial again."""


class TellArguments(TrialArguments):
    """Arguments of `deploy tell`."""

    rewards: tuple[float, ...] = ()
    """Reward return of every episode."""
    costs: tuple[float, ...] = ()
    """Cost of every episode, in the limited cost's units; for several limits use --outcomes."""
    outcomes: Path | None = None
    """JSON file instead, or - for standard input: {"rewards": [], "costs": {"NAME": []}, "failed": [], "seeds": []};
    null is a value that a failed episode left without a number."""


class AbandonArguments(TrialArguments):
    """Arguments of `deploy abandon`."""

    reason: Annotated[str, Field(min_length=1, max_length=1000)]
    """Why the trial will not be told."""
    never_deployed: bool = False
    """Attest that no action of this trial was ever taken; otherwise its target is revoked."""


class StopArguments(RunArguments):
    """Arguments of `deploy stop`."""

    reason: Annotated[str, Field(min_length=1, max_length=1000)]
    """Why nothing more is to be handed out."""


class ExportArguments(RunArguments):
    """Arguments of `deploy export`."""

    out: Path | None = None
    """File to write; standard output if not said."""
    overwrite: bool = False
    """Replace the file if it exists."""


class ExplainArguments(RunArguments):
    """Arguments of `deploy explain`."""

    trial: str | None = None
    """Trial to explain; the last one if not said."""
    picture: Path | None = None
    """Draw the certificate into this .png, .svg or .pdf file."""
    overwrite: bool = False
    """Replace the picture if it exists."""


def status(arguments: RunArguments, output: Output) -> int:
    """Prints where a deployment stands."""
    with Deployment.open(place(arguments), read_only=True) as deployment:
        now = deployment.status()
    output.result(to_plain(now))
    output.table("", ("what", "value"), _standing(now))
    if now.outcomes is not None:
        output.table(
            f"What happened in {now.outcomes.episodes} episodes, {now.outcomes.failed} of them failed "
            "(averages; intervals of level 95 % that hold at every look)",
            ("limit on", "probability of costing more", "cost"),
            [(name, str(now.outcomes.violations[name]), str(cost)) for name, cost in now.outcomes.costs.items()],
        )
    if now.monitors:
        rows = [(r.monitor, r.limit, f"{r.evidence:.3g}", f"{r.needed:.4g}", str(r.seen)) for r in now.monitors]
        output.table("Monitors", ("monitor", "limit on", "evidence", "alarms at", "seen"), rows)
    if now.frontier:
        points = [
            (_target(p.target), f"{p.reward:.5g}", ", ".join(f"{name} {cost:.4g}" for name, cost in p.costs.items()))
            for p in now.frontier[:_FRONTIER]
        ]
        output.table("Certified frontier", ("target", "expected reward", "expected costs"), points)
    if now.reason is not None:
        output.say(now.reason)
    return 0


def _standing(now: Status) -> list[tuple[str, str]]:
    """Where a deployment stands, line by line."""
    verified = sum(seed.verified for seed in now.seeds)
    share = f", {now.stage_left:.4g} of it in this stage" if now.stage is not None else ""
    over = "" if now.outcomes is None else f", {now.outcomes.targets_over} of {now.outcomes.targets} measured over"
    rows = [
        ("state", now.state),
        ("level", f"{now.level}, epoch {now.epoch}"),
        ("asks", f"{now.asks} of at most {now.horizon}, {now.told} told"),
        ("open trials", ", ".join(now.open_trials) or "none"),
        ("certified targets", f"{now.safe_count} of {now.candidates}"),
        ("revoked targets", (", ".join(_target(target) for target in now.revoked) or "none") + over),
        ("delta", f"{now.delta:g} = " + " + ".join(f"{part:.4g} {name}" for name, part in now.shares.items())),
        ("rules' share", f"{now.spent:.4g} spent, {now.left:.4g} left{share}"),
        ("seed targets", now.seed_rule + (f", {verified} so far" if now.seed_rule == "verified" else "")),
        ("fallback", "none is left: stop" if now.fallback is None else _target(now.fallback)),
        ("recommended", "none yet" if now.recommendation is None else _target(now.recommendation.target)),
    ]
    if now.stage is not None:
        rows.insert(1, ("stage of the roll-out", now.stage))
    if now.awaiting:
        rows.append(("waiting for an operator", ", ".join(now.awaiting)))
    return rows


def ask(arguments: AskArguments, output: Output) -> int:
    """Prints the next certified target; a refusal ends in exit code 6 and is recorded."""
    with Deployment.open(place(arguments)) as deployment:
        trial = deployment.ask(arguments.key)
        asked = deployment.state.asked[trial.id]
    output.result({**to_plain(trial), "bounds": to_plain(asked.costs), "reward": to_plain(asked.reward)})
    output.say(f"{trial.id}: target {_target(trial.target)}")
    _print_bounds(asked, output)
    return 0


def tell(arguments: TellArguments, output: Output) -> int:
    """Records the outcomes of a trial."""
    with Deployment.open(place(arguments)) as deployment:
        names = [limit.name for limit in deployment.state.declaration.limits]
        measurement, lengths, seeds = outcomes_of(arguments.rewards, arguments.costs, arguments.outcomes, names, "tell")
        trial = deployment.tell(arguments.trial, measurement, lengths=lengths, seeds=seeds)
        now = deployment.status()
    output.result({**to_plain(trial), "status": to_plain(now)})
    output.say(f"{trial.id} told: {len(measurement)} episodes at {_target(trial.target)}")
    output.say(f"{now.safe_count} of {now.candidates} targets are certified now; state {now.state}.")
    if now.reason is not None:
        output.say(now.reason)
    return 0


def abandon(arguments: AbandonArguments, output: Output) -> int:
    """Gives a trial up."""
    with Deployment.open(place(arguments)) as deployment:
        trial = deployment.abandon(arguments.trial, arguments.reason, deployed=not arguments.never_deployed)
    output.result(to_plain(trial))
    consequence = "" if arguments.never_deployed else "; its target is revoked, because its outcome is unknown"
    output.say(f"{trial.id} is {trial.state.value}{consequence}.")
    return 0


def stop(arguments: StopArguments, output: Output) -> int:
    """Ends a deployment: nothing is handed out any more."""
    with Deployment.open(place(arguments)) as deployment:
        deployment.stop(arguments.reason)
        now = deployment.status()
    output.result(to_plain(now))
    open_trials = f"; still to be told or abandoned: {', '.join(now.open_trials)}" if now.open_trials else ""
    output.say(f"{arguments.run} is stopped{open_trials}.")
    return 0


def recommend(arguments: RunArguments, output: Output) -> int:
    """Prints the best told target that is certified; exit code 6 if there is none."""
    with Deployment.open(place(arguments), read_only=True) as deployment:
        best = deployment.recommend()
    output.result(to_plain(best))
    output.say(f"Recommended target: {_target(best.target)}, told over {best.episodes} episodes")
    _print_recommendation(best, output)
    return 0


def check(arguments: RunArguments, output: Output) -> int:
    """Verifies the chain, and derives every ask anew; 4 if anything differs."""
    differences = verify(place(arguments))
    output.result({"differences": to_plain(differences), "ok": not differences})
    if differences:
        rows = [(str(d.seq), d.field, short(d.recorded), short(d.derived)) for d in differences]
        output.table("What the ledger says and what follows", ("event", "field", "recorded", "derived"), rows)
        output.say(f"{len(differences)} difference(s): this ledger does not follow from its own events.")
        return IntegrityError.exit_code
    output.say("The chain is whole, and every ask follows from what was known before it.")
    return 0


def export(arguments: ExportArguments, output: Output) -> int:
    """Writes the ledger as JSON lines, one record a line."""
    target = None if arguments.out is None else free_file(arguments.out, overwrite=arguments.overwrite)
    with Deployment.open(place(arguments), read_only=True) as deployment:
        lines = deployment.ledger.export()
    text = "".join(f"{line}\n" for line in lines)
    if target is None:
        sys.stdout.write(text)
        return 0
    partial = target.with_name(f".{target.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(target)
    output.result({"file": target, "records": len(lines)})
    output.say(f"{target}: {len(lines)} records")
    return 0


def explain(arguments: ExplainArguments, output: Output) -> int:
    """Says why a trial was allowed to run: bound, limit, promise, premises, and what came."""
    if arguments.picture is not None:
        if arguments.picture.suffix.lower() not in (".png", ".svg", ".pdf"):
            raise UsageError(f"--picture {arguments.picture}: a picture ends in .png, .svg or .pdf")
        free_file(arguments.picture, overwrite=arguments.overwrite)
    with Deployment.open(place(arguments), read_only=True) as deployment:
        state = deployment.state
    if not state.asked:
        raise UsageError(f"{arguments.run}: nothing was asked yet, so there is nothing to explain")
    name = next(reversed(list(state.asked))) if arguments.trial is None else arguments.trial
    if name not in state.asked:
        raise DataError(f"unknown trial {name!r}; this run has {', '.join(list(state.asked)[:5])} and so on")
    _print_explanation(state.asked[name], state.trial(name), output)
    told = state.told.get(name)
    outcome = None if told is None else to_plain(told)
    output.result({"asked": to_plain(state.asked[name]), "told": outcome, "state": state.states[name].value})
    if told is None:
        output.say(f"It is {state.states[name].value}.")
    else:
        for limit in state.declaration.limits:
            output.say(f"Told: mean {limit.name} {told.measurement.mean_cost(limit.name):.4g}, limit {limit.value:g}.")
    if arguments.picture is not None:
        _draw_certificate(arguments.run, arguments.picture)
        output.say(f"Picture: {arguments.picture}")
    return 0


def _draw_certificate(run: Path, picture: Path) -> None:
    from safehold.report.figures import certificate, palette
    from safehold.report.run_page import certificate_info

    view = certificate_info(read_run(run))
    if view is not None:
        palette.save(certificate.draw(view), picture)


def _print_explanation(asked: Asked, trial: Trial, output: Output) -> None:
    """One ask in sentences."""
    why = {
        "seed": "the first ask is always a seed target",
        "explore": "its outcome is uncertain and could certify more targets",
        "maximise": "of all certified targets it promises the highest reward",
    }[asked.phase]
    output.say(f"{trial.id} asked for target {_target(asked.target)}: {why}.")
    _print_bounds(asked, output)
    certificate = trial.certificate
    output.say(f"Certificate {certificate.kind!r}: {certificate.promise}")
    output.say(
        f"delta {certificate.delta:g}, charged {certificate.charge:.3g}, spent in all {certificate.spent_after:.4g}; "
        f"{asked.n_told} measurements told before it, {asked.safe_count} targets certified then."
    )
    output.say(f"Premises (docs/guarantees.md): {', '.join(certificate.premises)}.")


def _print_bounds(asked: Asked, output: Output) -> None:
    """Predicted and bounded values of an ask beside its limits."""
    rows = []
    for limit in asked.certificate.limits:
        belief = asked.costs[limit.name]
        rows.append((limit.name, f"{belief.mean:.4g}", grounds(asked.certificate, limit.name), f"{limit.value:g}"))
    rows.append(("reward", f"{asked.reward.mean:.4g}", "", ""))
    output.table("", ("expected return", "predicted", "certified", "limit"), rows)


def _print_recommendation(best: Recommendation, output: Output) -> None:
    """Beliefs about the recommended target."""
    limits = {limit.name: f"{limit.value:g}" for limit in best.certificate.limits}
    beliefs: list[tuple[str, Bound]] = [*best.costs.items(), ("reward", best.reward)]
    rows = [(name, f"{b.mean:.4g}", f"{b.lower:.4g} to {b.upper:.4g}", limits.get(name, "")) for name, b in beliefs]
    output.table("", ("expected return", "believed", "interval", "limit"), rows)


def _target(target: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in target) + ")"


COMMANDS = {
    "run": Command(DriveArguments, run),
    "status": Command(RunArguments, status),
    "ask": Command(AskArguments, ask),
    "tell": Command(TellArguments, tell),
    "abandon": Command(AbandonArguments, abandon),
    "stop": Command(StopArguments, stop),
    "recommend": Command(RunArguments, recommend),
    "verify": Command(RunArguments, check),
    "export": Command(ExportArguments, export),
    "explain": Command(ExplainArguments, explain),
}
