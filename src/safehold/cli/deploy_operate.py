"""`safehold deploy`, what people decide: declare, verify seeds, approve, go on, resume, observe, lower a limit."""

from pathlib import Path
from typing import Annotated

import tyro
from pydantic import Field, NonNegativeFloat, PositiveInt

from safehold.cli.arguments import Seed
from safehold.cli.console import Output
from safehold.cli.deploy_runs import (
    Name,
    Reason,
    RunArguments,
    TrialArguments,
    candidate,
    outcomes_of,
    place,
    read_costs,
)
from safehold.cli.driving import InitArguments, declared_for, family_for, guard_of, margins_of, opened, say_which
from safehold.cli.main import Command
from safehold.cli.narration import Narration
from safehold.cli.outputs import free_directory
from safehold.cli.threads import one_torch_thread
from safehold.core.errors import DataError, IntegrityError, SafetyHold, UsageError
from safehold.core.seeding import Streams
from safehold.core.target import Target
from safehold.data.layouts import read_any
from safehold.deploy.choose import shares_of
from safehold.deploy.optimizer import Deployment
from safehold.ledger.encoding import to_plain
from safehold.report.words import target_text
from safehold.workflows.deploy import started_of, verify_seed


class SeedArguments(RunArguments):
    """Arguments of `deploy seed`."""

    target: tuple[float, ...] = ()
    """Seed target to verify, one number a dial axis; the first that is not verified yet if not said."""
    costs: Path | None = None
    """JSON file of its raw episodes, or - for standard input: {"costs": {"NAME": []}, "failed": []}, in the order
    they ran; null is a cost that a failed episode left without a number."""
    source: Name | None = None
    """What names these episodes; each source counts once."""
    policy: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
    """Run them instead: directory of the deployed policy, said again for each of several."""
    recovery: Path | None = None
    """Policy that a guard hands over to, if the deployment is guarded; the deployed one at a seed target if not
    said."""
    task: str | None = None
    """Environment to run them in; the deployment's own if not said."""
    episodes: PositiveInt = 200
    """Largest number of episodes to run."""
    seed: Seed | None = None
    """Seed of the resets; the deployment's own if not said."""
    workers: Annotated[int, Field(ge=1)] = 1
    """Processes that run episodes; the results do not depend on it."""


class DecisionArguments(RunArguments):
    """What every decision on a run takes."""

    by: Name
    """Name of who decides."""
    reason: Reason
    """Why, for the ledger."""


class ApproveArguments(TrialArguments):
    """Arguments of `deploy approve`."""

    by: Name
    """Name of who lets the trial run."""


class RejectArguments(ApproveArguments):
    """Arguments of `deploy reject`."""

    reason: Reason
    """Why it may not run; its target is not handed out again."""


class ObserveArguments(RunArguments):
    """Arguments of `deploy observe`."""

    target: tuple[float, ...]
    """Candidate that the episodes were run at, one number a dial axis."""
    source: Name
    """Where the episodes come from."""
    rewards: tuple[float, ...] = ()
    """Reward return of every episode."""
    costs: tuple[float, ...] = ()
    """Cost of every episode, in the limited cost's units; for several limits use --outcomes."""
    outcomes: Path | None = None
    """JSON file instead, or - for standard input: {"rewards": [], "costs": {"NAME": []}, "failed": []}."""


class LowerArguments(RunArguments):
    """Arguments of `deploy lower-limit`."""

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
    """Limited cost."""
    value: Annotated[tyro.conf.Positional[NonNegativeFloat], tyro.conf.arg(metavar="VALUE")]
    """Its new limit, below the present one."""
    reason: Reason
    """Why, for the ledger."""
    seeds_hold: bool = False
    """Attest that the seed targets keep the new limit too; otherwise they are no longer handed out on their premise."""


def init(arguments: InitArguments, output: Output) -> int:
    """Declares a deployment and runs nothing."""
    out = free_directory(arguments.out)
    dataset = read_any(arguments.data)
    declared = declared_for(arguments, dataset)
    task = arguments.task or dataset.spec.env_id
    one_torch_thread()
    family, digest = family_for(arguments.policy, task, declared.declaration)
    margins = margins_of(arguments, declared.declaration)
    guard_of(margins, arguments.recovery, family, declared.declaration, task)  # refuses what could not be run later
    with opened(arguments, out, declared, dataset.digest, digest, task) as deployment:
        declaration, now = deployment.state.declaration, deployment.status()
    output.result({"run": out, "status": to_plain(now), "seed_targets": declaration.seed_targets})
    by = f" by {declared.seed_by}" if declared.seed_by else ""
    shares = " + ".join(f"{part:.4g} {name}" for name, part in shares_of(declaration).items())
    output.say(f"{out}: declared, nothing ran. delta {declaration.delta:g} = {shares}.")
    output.say(
        f"{len(declaration.seed_targets)} seed targets ({declaration.seed_rule}{by}), the first is "
        f"{target_text(declaration.seed_targets[0])}; {len(declaration.space)} candidates, "
        f"{declaration.horizon} asks of {declaration.settings.episodes_per_ask} episodes."
    )
    say_which(arguments.policy, output)
    if declaration.seed_rule == "verified":
        policies = " ".join(f"--policy {policy}" for policy in arguments.policy)
        output.say(f"Next: safehold deploy seed {out} {policies} (or --costs FILE)")
    else:
        output.say("Next: the same words with `deploy run --resume`, or safehold deploy ask " + str(out))
    return 0


def seed(arguments: SeedArguments, output: Output) -> int:
    """Tells or runs raw episodes of a seed target; 6 if they do not verify it (yet)."""
    if (arguments.costs is None) == (not arguments.policy):
        raise UsageError("give either --costs FILE with episodes that ran, or --policy DIRECTORY to run them")
    with Deployment.open(place(arguments)) as deployment, Narration(output) as narration:
        target = _seed_target(deployment, arguments.target)
        if arguments.costs is not None:
            if arguments.source is None:
                raise UsageError("--source names the episodes of --costs; each source counts once")
            costs, failed = read_costs(arguments.costs, "seed")
            verified = deployment.verify_seed(target, costs, source=arguments.source, failed=failed)
        else:
            verified = _run_seed(deployment, target, arguments, narration)
        now = deployment.status()
    standing = next((s for s in now.seeds if s.target == target), None)
    output.result({"target": target, "verified": verified, "standing": to_plain(standing)})
    if standing is not None:
        evidence = ", ".join(f"{name} {value:.4g}" for name, value in standing.evidence.items())
        output.say(
            f"{target_text(target)}: {'verified' if verified else 'not verified'} after {standing.episodes} episodes; "
            f"evidence {evidence} of {standing.needed:.4g}."
        )
    return 0 if verified else SafetyHold.exit_code


def approve(arguments: ApproveArguments, output: Output) -> int:
    """Lets a trial run."""
    with Deployment.open(place(arguments)) as deployment:
        trial = deployment.approve(arguments.trial, arguments.by)
    output.result(to_plain(trial))
    output.say(f"{trial.id} at {target_text(trial.target)} is approved by {arguments.by}.")
    return 0


def reject(arguments: RejectArguments, output: Output) -> int:
    """Does not let a trial run."""
    with Deployment.open(place(arguments)) as deployment:
        trial = deployment.reject(arguments.trial, arguments.by, arguments.reason)
    output.result(to_plain(trial))
    output.say(f"{trial.id} is rejected by {arguments.by}; {target_text(trial.target)} is not handed out again.")
    return 0


def advance(arguments: DecisionArguments, output: Output) -> int:
    """Takes the roll-out to its next stage."""
    with Deployment.open(place(arguments)) as deployment:
        deployment.advance(arguments.by, arguments.reason)
        now = deployment.status()
    output.result(to_plain(now))
    output.say(
        f"The roll-out is in its stage {now.stage!r} now; the rules may spend {now.stage_left:.4g} of delta in it."
    )
    return 0


def resume(arguments: DecisionArguments, output: Output) -> int:
    """Begins a new epoch after an alarm."""
    with Deployment.open(place(arguments)) as deployment:
        deployment.resume(arguments.by, arguments.reason)
        now = deployment.status()
    output.result(to_plain(now))
    output.say(
        f"Epoch {now.epoch} began: what was told is forgotten, {now.left:.4g} of delta is left to the rules, and "
        f"{arguments.by} attests anew that the seed targets are safe."
    )
    return 0


def observe(arguments: ObserveArguments, output: Output) -> int:
    """Tells episodes that were run elsewhere."""
    with Deployment.open(place(arguments)) as deployment:
        names = [limit.name for limit in deployment.state.declaration.limits]
        measurement, _, _ = outcomes_of(arguments.rewards, arguments.costs, arguments.outcomes, names, "observe")
        target = candidate(deployment.state.declaration.space, arguments.target)
        deployment.observe(target, measurement, source=arguments.source)
        now = deployment.status()
    output.result(to_plain(now))
    output.say(
        f"{len(measurement)} episodes at {target_text(target)} observed; {now.safe_count} of "
        f"{now.candidates} targets are certified now; state {now.state}."
    )
    if now.reason is not None:
        output.say(now.reason)
    return 0


def lower_limit(arguments: LowerArguments, output: Output) -> int:
    """Lowers a limit of a running deployment."""
    with Deployment.open(place(arguments)) as deployment:
        deployment.lower_limit(arguments.name, arguments.value, arguments.reason, seeds_hold=arguments.seeds_hold)
        now = deployment.status()
    output.result(to_plain(now))
    output.say(
        f"The limit on {arguments.name} is {arguments.value:g} from now on; {now.safe_count} of {now.candidates} "
        f"targets are certified for it; state {now.state}."
    )
    return 0


def _seed_target(deployment: Deployment, asked: tuple[float, ...]) -> Target:
    """The seed target that is meant."""
    if asked:
        return candidate(deployment.state.declaration.space, asked)
    declaration, established = deployment.state.declaration, deployment.state.established
    left = [t for t in declaration.seed_targets if not established[declaration.space.index(t)]]
    if not left:
        raise UsageError("every declared seed target counts as safe already; name one with --target to test it anew")
    return left[0]


def _run_seed(deployment: Deployment, target: Target, arguments: SeedArguments, narration: Narration) -> bool:
    """Runs episodes of the deployed policy at a seed target."""
    one_torch_thread()
    started = started_of(deployment)
    task = arguments.task or started.provenance.get("task")
    if not isinstance(task, str):
        raise UsageError("this run does not say which environment it is for; name it with --task")
    declaration = deployment.state.declaration
    family, digest = family_for(arguments.policy, task, declaration)
    if started.policy_digest is not None and digest != started.policy_digest:
        raise IntegrityError(
            f"{arguments.run} was declared for the policy {started.policy_digest}, this one is {digest}; its episodes "
            "say nothing about the deployed one"
        )
    margins = started.provenance.get("guard")
    if margins is not None and not isinstance(margins, dict):
        raise DataError(f"{arguments.run} says of its guard {margins!r}, which is no margin by cost")
    guard = guard_of(margins, arguments.recovery, family, declaration, task)
    seed = started.provenance.get("seed", 0) if arguments.seed is None else arguments.seed
    if not isinstance(seed, int):
        raise DataError(f"{arguments.run} says of its seed {seed!r}, which is no number")

    def batch(ran: int, evidence: float) -> None:
        narration.line(f"{ran} episodes, evidence {evidence:.4g}")

    return verify_seed(
        deployment,
        target,
        task,
        family,
        episodes=arguments.episodes,
        streams=Streams(seed),
        workers=arguments.workers,
        guard=guard,
        on_batch=batch,
    )


COMMANDS = {
    "init": Command(InitArguments, init),
    "seed": Command(SeedArguments, seed),
    "approve": Command(ApproveArguments, approve),
    "reject": Command(RejectArguments, reject),
    "advance": Command(DecisionArguments, advance),
    "resume": Command(DecisionArguments, resume),
    "observe": Command(ObserveArguments, observe),
    "lower-limit": Command(LowerArguments, lower_limit),
}
