"""`safehold select`: compare trained policies on a log alone, without running any of them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import tyro
from pydantic import Field, PositiveInt

from safehold.cli.arguments import Arguments, Seed
from safehold.cli.console import Output
from safehold.cli.main import Command
from safehold.cli.narration import Narration
from safehold.cli.threads import one_torch_thread
from safehold.core.errors import UsageError
from safehold.core.policy import PolicyFamily
from safehold.core.target import Target
from safehold.data.dataset import OfflineDataset
from safehold.data.layouts import read_any
from safehold.learn.offline.fqe import FQEConfig
from safehold.workflows.selection import Candidate, Foretold, candidate, foresee, foretell, logged_targets


class SelectArguments(Arguments):
    """Arguments of `select`."""

    policies: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="POLICY")] = Field(min_length=1)
    """Directories of trained policies: OUT/policy of `safehold train`, or one of its OUT/checkpoints."""
    log: Path
    """Logged episodes that none of them was trained on (`safehold data split`)."""
    returns: bool = False
    """Estimate the returns too, by fitted Q evaluation: minutes a policy, and no certificate."""
    target: tuple[float, ...] = ()
    """Targets for that, one after the other: reward return, then each cost return; logged ones if not said."""
    targets: PositiveInt = 5
    """How many logged targets, from cheap to costly, if --target is not said."""
    fqe: FQEConfig = FQEConfig()
    """Settings of fitted Q evaluation."""
    seed: Seed = 0
    """Seed of halves, weights, batches and bootstraps."""


def run(arguments: SelectArguments, output: Output) -> int:
    """Prints how well each policy foretells the log, and what it would obtain if that was asked for."""
    one_torch_thread()
    log = read_any(arguments.log)
    candidates = {str(path): candidate(path, log) for path in arguments.policies}
    found = foretell({name: one.policy for name, one in candidates.items()}, log, seed=arguments.seed)
    foreseen = _foreseen(arguments, candidates, log, output) if arguments.returns else None
    output.result(
        {
            "log": log.digest,
            "policies": [
                {"digest": candidates[one.name].digest, "held_out": not candidates[one.name].seen, **asdict(one)}
                for one in found
                if one.name in candidates
            ],
            "trivial": [asdict(one) for one in found if one.name not in candidates],
            "returns": foreseen,
        }
    )
    _print(found, candidates, output)
    if foreseen is not None:
        names = log.spec.cost_names
        output.table(
            "Foreseen by fitted Q evaluation: the spread of the fits, which what they have wrong in common is not in",
            ("policy", "target", "reward return", *(f"{name} return" for name in names)),
            [
                (
                    one["policy"],
                    "-" if one["target"] is None else ", ".join(f"{value:.4g}" for value in one["target"]),
                    str(one["reward"]),
                    *(str(one["costs"][name]) for name in names),
                )
                for one in foreseen
            ],
        )
    return 0


def _print(found: Sequence[Foretold], candidates: Mapping[str, Candidate], output: Output) -> None:
    output.table(
        f"Foretold of logged actions, with 95 % intervals over {found[0].per_step.n} units",
        ("policy", "log density a step", "of an episode's mean", "action error", "behind the best"),
        [
            (
                one.name,
                str(one.per_step),
                str(one.per_episode),
                str(one.action_error),
                "-" if one.behind is None else str(one.behind),
            )
            for one in found
        ],
    )
    for name, one in candidates.items():
        if one.seen:
            output.say(f"Careful: {name} was trained on these episodes; what it foretells of them is no evidence.")


def _foreseen(
    arguments: SelectArguments, candidates: Mapping[str, Candidate], log: OfflineDataset, output: Output
) -> list[dict[str, Any]]:
    """Estimated returns of every policy and target."""
    targets, names = _targets(arguments, log), log.spec.cost_names
    rows = []
    with Narration(output) as narration:
        for name, one in candidates.items():
            asked = targets if isinstance(one.policy, PolicyFamily) else ()
            shown = f"fitting {Path(name).name}"
            found = foresee(
                one.policy,
                log,
                asked,
                arguments.fqe,
                seed=arguments.seed,
                on_progress=lambda done, total, shown=shown: narration.progress(shown, done, total),  # type: ignore[misc]
            )
            rows += [
                {
                    "policy": name,
                    "target": returns.target,
                    "reward": returns.interval(0),
                    "costs": {cost: returns.interval(place) for place, cost in enumerate(names, 1)},
                }
                for returns in found
            ]
    return rows


def _targets(arguments: SelectArguments, log: OfflineDataset) -> tuple[Target, ...]:
    """Those that were asked for, or logged ones."""
    entries = 1 + len(log.spec.cost_names)
    if not arguments.target:
        return logged_targets(log, arguments.targets)
    if len(arguments.target) % entries:
        raise UsageError(
            f"--target holds {len(arguments.target)} numbers; give the reward and {', '.join(log.spec.cost_names)} of "
            "one target after the other"
        )
    return tuple(arguments.target[i : i + entries] for i in range(0, len(arguments.target), entries))


COMMANDS = {"": Command(SelectArguments, run)}
