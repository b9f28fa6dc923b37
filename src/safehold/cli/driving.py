"""`safehold deploy run`: declare a deployment from a log, and drive a policy through it."""

from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from pydantic import Field

from safehold.cli.arguments import Arguments, Seed
from safehold.cli.console import Output
from safehold.cli.narration import Narration
from safehold.cli.outputs import free_directory
from safehold.cli.policies import load_for
from safehold.cli.threads import one_torch_thread
from safehold.core.certificate import Trial
from safehold.core.errors import DataError, SafetyHold, UsageError
from safehold.core.intervals import mean_interval
from safehold.core.measurement import Measurement
from safehold.core.policy import PolicyFamily
from safehold.core.seeding import Streams
from safehold.data.layouts import read_any
from safehold.deploy.optimizer import Deployment
from safehold.ledger.encoding import to_plain
from safehold.ledger.run import RunDirectory
from safehold.report.words import grounds, target_text, verdict_of
from safehold.workflows.deploy import DeployConfig, drive, open_or_create, plan


class DriveArguments(Arguments):
    """Arguments of `deploy run`."""

    policy: Path
    """Directory of a trained policy with a dial, as `safehold train cdt` leaves it in OUT/policy."""
    data: Path
    """File of logged episodes that seeds, support and dial are taken from."""
    out: Path
    """Directory to make for the deployment."""
    task: str | None = None
    """Environment to deploy in; the log's own if not said."""
    seed: Seed = 0
    """Seed of the resets and of the policy's noise."""
    workers: Annotated[int, Field(ge=1)] = 1
    """Processes that run episodes; the results do not depend on it."""
    resume: bool = False
    """Go on with the deployment in OUT."""
    deploy: Annotated[DeployConfig, tyro.conf.arg(name="")] = DeployConfig()


def run(arguments: DriveArguments, output: Output) -> int:
    """Declares or reopens the deployment and drives it to its end; 6 if it holds, or ends with nothing to recommend."""
    out = arguments.out if arguments.resume else free_directory(arguments.out)
    if arguments.resume and not RunDirectory(out).started:
        raise UsageError(f"{out} holds no deployment to go on with; leave --resume away to begin one")
    dataset = read_any(arguments.data)
    declared = plan(dataset, arguments.deploy)
    one_torch_thread()
    task = arguments.task or dataset.spec.env_id
    loaded = load_for(arguments.policy, task)
    family = loaded.policy
    if not isinstance(family, PolicyFamily):
        raise UsageError(f"{arguments.policy} has no dial; a deployment tunes a dial, so train one with `train cdt`")
    if family.target_names != declared.declaration.space.names:
        raise DataError(
            f"{arguments.policy} has the dial {family.target_names}, the log {declared.declaration.space.names}; "
            "they are of different tasks"
        )
    with (
        open_or_create(
            out, declared, dataset=dataset.digest, policy=loaded.digest, task=task, seed=arguments.seed
        ) as deployment,
        Narration(output) as narration,
    ):

        def told(trial: Trial, measurement: Measurement) -> None:
            narration.line(deployment_line(deployment, trial, measurement))

        drive(deployment, task, family, streams=Streams(arguments.seed), workers=arguments.workers, on_told=told)
        now = deployment.status()
    output.result(to_plain(now))
    best = now.recommendation
    output.say("No target is certified: hold." if best is None else f"Recommended target: {target_text(best.target)}")
    output.say(f"Next: safehold report {out} --data {arguments.data}")
    return SafetyHold.exit_code if best is None else 0


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
