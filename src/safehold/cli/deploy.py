"""`safehold deploy`: ask for a certified target, tell what it did, and see why."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from safehold.cli.console import Output
from safehold.cli.deploy_runs import RunArguments, TrialArguments, outcomes_of, place, print_bounds, target_words
from safehold.cli.driving import DriveArguments, run
from safehold.cli.main import Command
from safehold.deploy.optimizer import Deployment
from safehold.deploy.status import Recommendation, Status
from safehold.ledger.encoding import to_plain
from safehold.ledger.events import Bound

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


def status(arguments: RunArguments, output: Output) -> int:
    """Prints where a deployment stands."""
    with Deployment.open(place(arguments), read_only=True) as deployment:
        now = deployment.status()
    output.result(to_plain(now))
    output.table("", ("what", "value"), _standing(now))
    if now.outcomes is not None:
        output.table(
            f"What happened in {now.outcomes.episodes} episodes, {now.outcomes.failed} of them failed "
            f"(averages; intervals of level 95 % that hold at every look). Trials over a limit: {now.outcomes.trials}",
            ("limit on", "probability of costing more", "cost"),
            [(name, str(now.outcomes.violations[name]), str(cost)) for name, cost in now.outcomes.costs.items()],
        )
    if now.monitors:
        rows = [(r.monitor, r.limit, f"{r.evidence:.3g}", f"{r.needed:.4g}", str(r.seen)) for r in now.monitors]
        output.table("Monitors", ("monitor", "limit on", "evidence", "alarms at", "seen"), rows)
    if now.frontier:
        points = [
            (
                target_words(p.target),
                f"{p.reward:.5g}",
                ", ".join(f"{name} {cost:.4g}" for name, cost in p.costs.items()),
            )
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
        ("revoked targets", (", ".join(target_words(target) for target in now.revoked) or "none") + over),
        ("delta", f"{now.delta:g} = " + " + ".join(f"{part:.4g} {name}" for name, part in now.shares.items())),
        ("rules' share", f"{now.spent:.4g} spent, {now.left:.4g} left{share}"),
        ("seed targets", now.seed_rule + (f", {verified} so far" if now.seed_rule == "verified" else "")),
        ("fallback", "none is left: stop" if now.fallback is None else target_words(now.fallback)),
        ("recommended", "none yet" if now.recommendation is None else target_words(now.recommendation.target)),
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
    output.say(f"{trial.id}: target {target_words(trial.target)}")
    print_bounds(asked, output)
    return 0


def tell(arguments: TellArguments, output: Output) -> int:
    """Records the outcomes of a trial."""
    with Deployment.open(place(arguments)) as deployment:
        names = [limit.name for limit in deployment.state.declaration.limits]
        measurement, lengths, seeds = outcomes_of(arguments.rewards, arguments.costs, arguments.outcomes, names, "tell")
        trial = deployment.tell(arguments.trial, measurement, lengths=lengths, seeds=seeds)
        now = deployment.status()
    output.result({**to_plain(trial), "status": to_plain(now)})
    output.say(f"{trial.id} told: {len(measurement)} episodes at {target_words(trial.target)}")
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
    output.say(f"Recommended target: {target_words(best.target)}, told over {best.episodes} episodes")
    _print_recommendation(best, output)
    return 0


def _print_recommendation(best: Recommendation, output: Output) -> None:
    """Beliefs about the recommended target."""
    limits = {limit.name: f"{limit.value:g}" for limit in best.certificate.limits}
    beliefs: list[tuple[str, Bound]] = [*best.costs.items(), ("reward", best.reward)]
    rows = [(name, f"{b.mean:.4g}", f"{b.lower:.4g} to {b.upper:.4g}", limits.get(name, "")) for name, b in beliefs]
    output.table("", ("expected return", "believed", "interval", "limit"), rows)


COMMANDS = {
    "run": Command(DriveArguments, run),
    "status": Command(RunArguments, status),
    "ask": Command(AskArguments, ask),
    "tell": Command(TellArguments, tell),
    "abandon": Command(AbandonArguments, abandon),
    "stop": Command(StopArguments, stop),
    "recommend": Command(RunArguments, recommend),
}
