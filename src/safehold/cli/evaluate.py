"""`safehold evaluate`: fresh episodes of a trained policy."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import Field, PositiveInt

from safehold.cli.arguments import Arguments, CostLimit, Seed
from safehold.cli.console import Output
from safehold.cli.main import Command
from safehold.cli.narration import Narration
from safehold.cli.outputs import free_file
from safehold.cli.policies import load_for
from safehold.cli.threads import one_torch_thread
from safehold.core.episode import Episode
from safehold.core.errors import UsageError
from safehold.core.intervals import mean_interval, proportion_interval
from safehold.core.policy import Policy, PolicyFamily
from safehold.core.seeding import Streams
from safehold.data.layouts import read_any
from safehold.envs import registry
from safehold.report.words import over_limit, percent
from safehold.workflows.deploy import DeployConfig
from safehold.workflows.dial import try_dial
from safehold.workflows.evaluate import evaluate


class EvaluateArguments(Arguments):
    """Arguments of `evaluate`."""

    policy: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="POLICY")]
    """Directory of a trained policy, as `safehold train` leaves it in OUT/policy."""
    task: str
    """Environment to run it in (`safehold envs list`)."""
    target: tuple[float, ...] = ()
    """Target to ask a policy with a dial for: the reward return, then each cost return, in environment units; for lspc
    the half width of the latent box."""
    dial: Path | None = None
    """Log of the policy: try targets over all that it supports, and say how well the dial is obeyed (needs --limit)."""
    episodes: PositiveInt = 20
    """Fresh episodes."""
    seed: Seed = 0
    """Seed of the resets and of the policy's noise."""
    limit: CostLimit | None = None
    """Cost limit to compare with, in cost units per episode."""
    cost: str | None = None
    """Cost to look at, if the task has several."""
    workers: Annotated[int, Field(ge=1)] = 1
    """Processes that run episodes; the results do not depend on it."""
    out: Path | None = None
    """JSON file to write the raw returns to."""
    overwrite: bool = False
    """Replace the file if it exists."""


def run(arguments: EvaluateArguments, output: Output) -> int:
    """Prints mean returns with intervals; says how many episodes pass the limit."""
    if arguments.out is not None:
        free_file(arguments.out, overwrite=arguments.overwrite)
    names = registry.spec(arguments.task).cost_names
    cost = arguments.cost if arguments.cost is not None else names[0]
    if cost not in names:
        raise UsageError(f"--cost {cost}: {arguments.task} has costs {', '.join(names)}")
    one_torch_thread()
    if arguments.dial is not None:
        return _dial(arguments, arguments.dial, output)
    target = arguments.target or None
    policy = _at(load_for(arguments.policy, arguments.task).policy, target, arguments.policy)
    done = 0
    with Narration(output) as narration:

        def seen(_: Episode) -> None:
            nonlocal done
            done += 1
            narration.progress("episodes", done, arguments.episodes)

        (found,) = evaluate(
            arguments.task,
            [(policy, target)],
            label="other",
            cost_name=cost,
            streams=Streams(arguments.seed),
            stream="evaluate",
            episodes=arguments.episodes,
            workers=arguments.workers,
            on_episode=seen,
        )
    record = {"task": arguments.task, "limit": arguments.limit, "cost_name": cost, "targets": [found.to_json()]}
    if arguments.out is not None:
        partial = arguments.out.with_name(f".{arguments.out.name}.partial")
        partial.write_text(json.dumps(record, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(partial, arguments.out)
    output.result(record)
    unit = registry.spec(arguments.task).cost_units[names.index(cost)]
    rows = [
        ("reward return", str(mean_interval(found.rewards)), "reward units"),
        (f"{cost} return", str(mean_interval(found.costs)), unit),
    ]
    output.table("Mean of an episode, with its 95 % interval", ("", "mean", "unit"), rows)
    if arguments.limit is not None:
        over = over_limit(found.costs, arguments.limit)
        share = proportion_interval(over, arguments.episodes)
        output.say(
            f"{over} of {arguments.episodes} episodes cost more than {arguments.limit:g} "
            f"({percent(share.low)} to {percent(share.high)} at 95 % confidence)"
        )
    return 0


def _dial(arguments: EvaluateArguments, log: Path, output: Output) -> int:
    """Tries the dial of a policy where its log supports it, and prints what speaks against tuning it."""
    if arguments.limit is None or arguments.target or arguments.out is not None:
        raise UsageError("--dial tries many targets: give --limit with it, and neither --target nor --out")
    if not arguments.limit > 0.0:
        raise UsageError(f"--limit {arguments.limit:g}: a dial is tried around a limit above 0")
    family = load_for(arguments.policy, arguments.task).policy
    if not isinstance(family, PolicyFamily) or "reward" not in family.target_names:
        raise UsageError(f"{arguments.policy} has no dial of returns to be tried; evaluate it at a --target")
    with Narration(output) as narration:
        found, report = try_dial(
            family,
            read_any(log),
            arguments.task,
            DeployConfig(limit=arguments.limit),
            streams=Streams(arguments.seed),
            episodes=arguments.episodes,
            workers=arguments.workers,
            on_progress=lambda done, total: narration.progress("episodes", done, total),
        )
    output.result({"dial": asdict(report), "targets": [one.to_json() for one in found]})
    output.table(
        f"Asked, and obtained over {report.episodes} episodes each",
        ("asked reward", "asked cost", "obtained reward", "obtained cost"),
        [
            (
                f"{one.target[0]:.5g}",
                f"{one.target[1]:.4g}",
                str(mean_interval(one.rewards)),
                str(mean_interval(one.costs)),
            )
            for one in found
            if one.target is not None
        ],
    )
    facts = [
        ("rank correlation of the cost", report.rank_cost, report.rank_cost_interval),
        ("rank correlation of the reward", report.rank_reward, None),
        ("slope of the cost", report.slope, report.slope_interval),
        ("spread around that line", report.residual_sd, None),
        ("dial error near the limit", report.dial_error, None),
        ("scatter of single episodes there", report.episode_sd, None),
    ]
    rows = [
        (name, "-" if v is None else f"{v:.3g}", "" if i is None else f"{i.low:.3g} to {i.high:.3g}")
        for name, v, i in facts
    ]
    output.table("The dial", ("", "value", "95 % interval"), rows)
    for warning in report.warnings:
        output.say(f"Careful: {warning}.")
    if not report.warnings:
        output.say("Nothing speaks against tuning this dial as `safehold deploy run` would declare it.")
    return 0


def _at(loaded: Policy | PolicyFamily, target: tuple[float, ...] | None, path: Path) -> Policy:
    """The policy that acts: the family's at the target, or the policy itself."""
    if isinstance(loaded, PolicyFamily):
        if target is None:
            raise UsageError(f"{path} has a dial; give --target with {', '.join(loaded.target_names)}")
        return loaded.at(target)
    if target is not None:
        raise UsageError(f"{path} has no dial; leave --target out")
    return loaded


COMMANDS = {"": Command(EvaluateArguments, run)}
