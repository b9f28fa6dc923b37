"""`safehold finetune`: go on learning in the world, uncertified; the price is counted."""

from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from pydantic import Field

from safehold.cli.arguments import Arguments, CostLimit, Seed
from safehold.cli.console import Output
from safehold.cli.main import Command
from safehold.cli.narration import Narration
from safehold.cli.outputs import no_file
from safehold.cli.threads import one_torch_thread
from safehold.core.errors import UsageError
from safehold.data.frontier import cost_column
from safehold.data.layouts import read_any
from safehold.report.words import over_limit
from safehold.workflows.finetune import FineTuneConfig, Round, fine_tune


class FineTuneArguments(Arguments):
    """Arguments of `finetune`."""

    trained: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="TRAINED")]
    """Directory that `safehold train` left, checkpoints and all."""
    log: Path
    """What it was trained on; its task is the world."""
    limit: CostLimit
    """Cost limit that episodes are counted against, in cost units per episode. Nothing keeps them under it."""
    out: Path
    """Directory to make; an interrupted fine-tuning goes on there."""
    target: tuple[float, ...] = ()
    """Target to act at; default: the best logged reward return, and the limit."""
    cost: str | None = None
    """Cost that is limited, if the task has several."""
    seed: Seed = 0
    """Seed of episodes and batches."""
    workers: Annotated[int, Field(ge=1)] = 1
    """Processes that run episodes; the results do not depend on it."""
    settings: Annotated[FineTuneConfig, tyro.conf.arg(name="")] = FineTuneConfig()


def run(arguments: FineTuneArguments, output: Output) -> int:
    """Learns on, prints every round, and how many episodes were over the limit."""
    no_file(arguments.out)
    one_torch_thread()
    log = read_any(arguments.log)
    column = cost_column(log, arguments.cost)
    target = arguments.target
    if not target:
        if len(log.spec.cost_names) != 1:
            raise UsageError(f"give --target: the reward return, then the return of each of {log.spec.cost_names}")
        target = (float(log.reward_returns.max()), arguments.limit)
    rows: list[tuple[str, ...]] = []
    with Narration(output) as narration:

        def show(done: Round) -> None:
            over = over_limit(done.costs[:, column], arguments.limit)
            rows.append(
                (
                    str(done.number + 1),
                    f"{np.mean(done.rewards):.5g}",
                    f"{np.mean(done.costs[:, column]):.4g}",
                    f"{over} of {len(done.rewards)}",
                )
            )
            narration.line(f"round {rows[-1][0]}: reward {rows[-1][1]}, cost {rows[-1][2]}, over the limit {over}")

        found = fine_tune(
            log,
            arguments.trained,
            target,
            arguments.settings,
            arguments.out,
            seed=arguments.seed,
            workers=arguments.workers,
            on_round=show,
        )
    costs = np.concatenate([one.costs[:, column] for one in found.rounds])
    over = over_limit(costs, arguments.limit)
    output.result(
        {
            "policy": found.policy,
            "digest": found.digest,
            "target": target,
            "limit": arguments.limit,
            "episodes": len(costs),
            "over_limit": over,
            "rounds": [{"rewards": one.rewards.tolist(), "costs": one.costs.tolist()} for one in found.rounds],
        }
    )
    output.table("Episodes of each round", ("round", "mean reward", "mean cost", "over the limit"), rows)
    output.say(f"{over} of {len(costs)} episodes cost more than {arguments.limit:g}; {found.policy}")
    return 0


COMMANDS = {"": Command(FineTuneArguments, run)}
