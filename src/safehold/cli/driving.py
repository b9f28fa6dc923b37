"""`safehold deploy run`: declare a deployment from a log, and drive a policy through it."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from pydantic import Field, NonNegativeFloat, PositiveFloat

from safehold.cli.arguments import Arguments, Seed
from safehold.cli.console import Output
from safehold.cli.deploy_runs import Name
from safehold.cli.narration import Narration
from safehold.cli.outputs import free_directory
from safehold.cli.policies import load_for
from safehold.cli.threads import one_torch_thread
from safehold.core.certificate import Trial
from safehold.core.errors import DataError, SafetyHold, UsageError
from safehold.core.intervals import mean_interval
from safehold.core.measurement import Measurement
from safehold.core.policy import WHICH, Alternatives, Policy, PolicyFamily
from safehold.core.seeding import Streams
from safehold.data.dataset import OfflineDataset
from safehold.data.layouts import read_any
from safehold.deploy.declaration import Declaration
from safehold.deploy.optimizer import Deployment
from safehold.ledger.encoding import to_plain
from safehold.ledger.run import RunDirectory
from safehold.report.words import grounds, target_text, verdict_of
from safehold.workflows.deploy import (
    Decision,
    DeployConfig,
    GuardPlan,
    Oversight,
    Plan,
    declare_boxes,
    drive,
    open_or_create,
    plan,
)


class InitArguments(Arguments):
    """Arguments of `deploy init`, and what `deploy run` declares."""

    policy: Annotated[tyro.conf.UseAppendAction[tuple[Path, ...]], Field(min_length=1)]
    """Directory of a trained policy with a dial, as `safehold train cdt` leaves it in OUT/policy; said again for each
    of several, among which and their targets the deployment chooses."""
    boxes: tuple[PositiveFloat, ...] = ()
    """Half widths of the latent box to choose among, for a policy of `train lspc`: two or more, ascending. The log does
    not say what a box costs: say who answers for the smallest with --seed-by, or verify it with --verify-seeds 1."""
    data: Path
    """File of logged episodes that seeds, support and dial are taken from; with --boxes, scales alone."""
    out: Path
    """Directory to make for the deployment."""
    task: str | None = None
    """Environment to deploy in; the log's own if not said."""
    seed: Seed = 0
    """Seed of the resets and of the policy's noise."""
    guard: NonNegativeFloat | None = None
    """Guard every episode: hand over once its cost and so much more, what a recovery may still cost, are above the
    limit. Bounds the damage of an episode; no certificate is claimed for it."""
    recovery: Path | None = None
    """Policy that the guard hands over to; the deployed one (of several, the first) at a seed target if not said."""
    deploy: Annotated[DeployConfig, tyro.conf.arg(name="")] = DeployConfig()
    oversight: Annotated[Oversight, tyro.conf.arg(name="")] = Oversight()


class DriveArguments(InitArguments):
    """Arguments of `deploy run`."""

    workers: Annotated[int, Field(ge=1)] = 1
    """Processes that run episodes; the results do not depend on it."""
    resume: bool = False
    """Go on with the deployment in OUT."""
    by: Name | None = None
    """Name of the operator at this terminal, who is asked about each trial under --approve."""
    fallback_batches: Annotated[int, Field(ge=0)] = 0
    """After an alarm that leaves nothing but the fallback, go on at it for so many batches of episodes."""


def run(arguments: DriveArguments, output: Output) -> int:
    """Declares or reopens the deployment and drives it to its end; 6 if it holds, or ends with nothing to recommend."""
    if arguments.oversight.approve:
        _refuse_nobody_to_ask(arguments, output)
    out = arguments.out if arguments.resume else free_directory(arguments.out)
    if arguments.resume and not RunDirectory(out).started:
        raise UsageError(f"{out} holds no deployment to go on with; leave --resume away to begin one")
    dataset = read_any(arguments.data)
    declared = declared_for(arguments, dataset)
    one_torch_thread()
    task = arguments.task or dataset.spec.env_id
    family, digest = family_for(arguments.policy, task, declared.declaration)
    margins = margins_of(arguments, declared.declaration)
    guard = guard_of(margins, arguments.recovery, family, declared.declaration, task)
    with (
        opened(arguments, out, declared, dataset.digest, digest, task) as deployment,
        Narration(output) as narration,
    ):

        def told(trial: Trial, measurement: Measurement) -> None:
            narration.line(deployment_line(deployment, trial, measurement))

        def decide(trial: Trial) -> Decision:
            return _asked_on_terminal(deployment, trial, str(arguments.by), output)

        drive(
            deployment,
            task,
            family,
            streams=Streams(arguments.seed),
            workers=arguments.workers,
            on_told=told,
            decide=decide if arguments.oversight.approve else None,
            guard=guard,
            fallback_batches=arguments.fallback_batches,
        )
        now = deployment.status()
    output.result(to_plain(now))
    best = now.recommendation
    say_which(arguments.policy, output)
    output.say("No target is certified: hold." if best is None else f"Recommended target: {target_text(best.target)}")
    output.say(f"Next: safehold report {out} --data {arguments.data}")
    return SafetyHold.exit_code if best is None else 0


def declared_for(arguments: InitArguments, dataset: OfflineDataset) -> Plan:
    """What is declared: a dial of returns that the log leads to, or the boxes that were named.

    Raises:
        UsageError: if boxes are named for several policies, or what is declared does not fit together.
    """
    if not arguments.boxes:
        return plan(dataset, arguments.deploy, arguments.oversight, len(arguments.policy))
    if len(arguments.policy) > 1:
        raise UsageError("--boxes are those of one policy; deploy several one by one")
    boxes = declare_boxes(dataset, arguments.boxes, arguments.deploy, arguments.oversight)
    return Plan(boxes, None, arguments.oversight.seed_by)


def say_which(policies: Sequence[Path], output: Output) -> None:
    """Which number of the dial's last axis is which policy, if there are several."""
    for number, policy in enumerate(policies if len(policies) > 1 else ()):
        output.say(f"Policy {number} is {policy}.")


def family_for(policies: Sequence[Path], task: str, declaration: Declaration) -> tuple[PolicyFamily, str]:
    """The policy with a dial, or several to choose among, for this environment, and the digest of it or of all.

    Raises:
        UsageError: if one has no dial, one is named twice, or they are not as many as were declared.
        DataError: if it has another one than was declared.
    """
    declared = len(declaration.space.axes.get(WHICH, (0.0,)))
    if len(policies) != declared:
        raise UsageError(f"{len(policies)} policies were named, the deployment was declared for {declared}")
    families, digests = [], []
    for policy in policies:
        loaded = load_for(policy, task)
        if not isinstance(loaded.policy, PolicyFamily):
            raise UsageError(f"{policy} has no dial; a deployment tunes a dial, so train one with `train cdt`")
        families.append(loaded.policy)
        digests.append(loaded.digest)
    if len(set(digests)) < len(digests):
        raise UsageError(f"of {', '.join(map(str, policies))} two are the same policy; name every one once")
    family = families[0] if len(families) == 1 else Alternatives(tuple(families))
    if family.target_names != declaration.space.names:
        raise DataError(
            f"{', '.join(map(str, policies))} have the dial {family.target_names}, declared were "
            f"{declaration.space.names}; they are of different tasks, or the dial is no return (for the box of lspc, "
            "and for no other dial, say --boxes)"
        )
    return family, "+".join(digests)


def guard_of(
    margins: Mapping[str, float] | None,
    recovery: Path | None,
    family: PolicyFamily,
    declaration: Declaration,
    task: str,
) -> GuardPlan | None:
    """The guard with these margins, by cost; None without one.

    Raises:
        UsageError: if a margin is above its limit, or a recovery has no guard to hand over to it.
        DataError: if the recovery policy is a dial without a target.
    """
    if margins is None:
        if recovery is not None:
            raise UsageError("--recovery takes over from a guard; say its margin with --guard")
        return None
    for limit in declaration.limits:
        if not margins[limit.name] <= limit.value:
            raise UsageError(f"--guard {margins[limit.name]:g} is above the limit {limit.value:g}; nothing could run")
    takes_over: object = family.at(declaration.seed_targets[0]) if recovery is None else load_for(recovery, task).policy
    if not isinstance(takes_over, Policy):
        raise DataError(f"{recovery} has a dial and no target; a recovery is one policy")
    return GuardPlan(margins=dict(margins), recovery=takes_over)


def margins_of(arguments: InitArguments, declaration: Declaration) -> dict[str, float] | None:
    """The margin of `--guard`, for every limited cost."""
    if arguments.guard is None:
        return None
    return {limit.name: float(arguments.guard) for limit in declaration.limits}


def opened(arguments: InitArguments, out: Path, declared: Plan, dataset: str, policy: str, task: str) -> Deployment:
    """The deployment in OUT, new or reopened."""
    return open_or_create(
        out,
        declared,
        dataset=dataset,
        policy=policy,
        task=task,
        seed=arguments.seed,
        guard=margins_of(arguments, declared.declaration),
    )


def _refuse_nobody_to_ask(arguments: DriveArguments, output: Output) -> None:
    """Approval on the terminal needs a terminal and a name.

    Raises:
        UsageError: if there is none.
    """
    if arguments.by is None:
        raise UsageError("--approve asks an operator about every trial: give the name with --by")
    if output.as_json or sys.stdin is None or not sys.stdin.isatty():
        raise UsageError(
            "--approve asks on the terminal, and there is none; use `deploy init --approve`, `deploy ask` and "
            "`deploy approve` instead"
        )


def _asked_on_terminal(deployment: Deployment, trial: Trial, by: str, output: Output) -> Decision:
    """Shows a trial, and asks whether it may run; anything but yes or no is asked again, an end of input is a no."""
    asked = deployment.state.asked[trial.id]
    output.say(f"{trial.id} would run {deployment.state.episodes_per_ask} episodes at {target_text(trial.target)}.")
    for limit in trial.certificate.limits:
        belief = asked.costs[limit.name]
        output.say(
            f"  {limit.name}: predicted {belief.mean:.4g} ({grounds(trial.certificate, limit.name)}), "
            f"limit {limit.value:g}; charge {trial.certificate.charge:.3g}"
        )
    while True:
        output.say(f"May it run, {by}? [yes/no]")
        line = sys.stdin.readline()
        word = line.strip().lower()
        if word in ("y", "yes"):
            return Decision(by=by, approved=True)
        if word in ("n", "no") or line == "":
            output.say("Why not?")
            reason = sys.stdin.readline().strip()[:1000] or "no reason given"
            return Decision(by=by, approved=False, reason=reason)


def deployment_line(deployment: Deployment, trial: Trial, measurement: Measurement) -> str:
    """One deployment in a line: target, predicted cost and its bound, what came, and whether it kept its limits."""
    asked = deployment.state.asked[trial.id]
    parts = [trial.id, target_text(trial.target)]
    for limit in trial.certificate.limits:
        predicted = f"{asked.costs[limit.name].mean:.4g}"
        bound = grounds(trial.certificate, limit.name)
        costs = np.where(measurement.failed, np.nan, measurement.costs[limit.name])
        parts.append(f"{limit.name} {predicted} ({bound}), limit {limit.value:g}, got {mean_interval(costs)}")
    parts.append(f"reward {float(np.mean(measurement.rewards)):.5g}")
    return " | ".join([*parts, verdict_of(deployment.state, trial.id)])
