"""`safehold data`: judge, convert and summarise logged episodes."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import tyro
from pydantic import Field, PositiveInt, ValidationError

from safehold.cli.arguments import Arguments, CostLimit, Seed
from safehold.cli.console import Output
from safehold.cli.main import Command
from safehold.cli.narration import Narration
from safehold.cli.outputs import free_file, free_picture
from safehold.cli.settings import from_file
from safehold.cli.threads import one_torch_thread
from safehold.core.errors import IntegrityError, UsageError
from safehold.core.seeding import Streams
from safehold.core.spec import TaskSpec
from safehold.data import hdf5
from safehold.data.checks import Audit, audit
from safehold.data.dataset import OfflineDataset
from safehold.data.declared import Columns, Name
from safehold.data.degrade import Degradation, degrade
from safehold.data.layouts import read_any, read_with_findings, write_dsrl
from safehold.data.select import split, split_by_group
from safehold.data.summary import Summary, summarise


class FileArguments(Arguments):
    """What every command on one file of episodes takes."""

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    """Logged episodes: HDF5 (our layout, DSRL, D4RL), .npz, CSV, Parquet, or the directory of a Minari dataset."""
    task: str | None = None
    """Task that the data is of, if the file does not say (`safehold envs list`)."""
    columns: Path | None = None
    """TOML file that says which column or array is what (docs/data-format.md); the flags below come on top of it."""
    episode_column: Name | None = None
    """Column that is the same for all rows of an episode."""
    step_column: Name | None = None
    """Column that counts the steps of an episode; gaps are refused."""
    observation_columns: tuple[Name, ...] = ()
    """Columns of the observation, in order; `x*` stands for all columns that begin with x."""
    next_observation_columns: tuple[Name, ...] = ()
    """Columns of what was seen after the action, in the same order."""
    action_columns: tuple[Name, ...] = ()
    """Columns of the action, in order; `u*` stands for all columns that begin with u."""
    reward_column: Name | None = None
    """Column of the reward."""
    cost_columns: tuple[Name, ...] = ()
    """NAME=COLUMN of each cost, or a column that gives the cost its name; arrays such as infos/cost in HDF5."""
    terminated_column: Name | None = None
    """Column that is 1 where the task itself ended the episode."""
    truncated_column: Name | None = None
    """Column that is 1 where the clock ended the episode."""
    group_column: Name | None = None
    """Column that numbers the behaviour policy."""
    discrete_actions: PositiveInt | None = None
    """Number of actions, if they are indices 0, 1, ..."""
    delimiter: str | None = None
    """Sign between the values of a text table, a comma if not said."""


class CheckArguments(FileArguments):
    """Arguments of `data check`."""

    limit: CostLimit | None = None
    """Cost limit, in cost units per episode; the check then tells whether the data covers both sides of it."""
    cost: str | None = None
    """Cost that the limit is for, if the data has several."""
    picture: Path | None = None
    """Draw the episodes on the plane of returns into this .png, .svg or .pdf file."""
    overwrite: bool = False
    """Replace the picture if it exists."""


class ConvertArguments(FileArguments):
    """Arguments of `data convert`."""

    target: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="TARGET")]
    """File to write."""
    layout: Literal["safehold", "dsrl"] = "safehold"
    """Layout to write: ours, or DSRL's for other programs."""
    cost: str | None = None
    """Cost to keep if the data has several and the layout has room for one."""
    cost_unit: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """What one unit of the cost means, in words, such as "steps above 3.21 m/s"."""
    overwrite: bool = False
    """Replace the target if it exists."""


class FilterArguments(FileArguments):
    """Arguments of `data filter`."""

    target: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="TARGET")]
    """File to write, in our layout."""
    degradation: Annotated[Degradation, tyro.conf.arg(name="")] = Degradation()
    limit: CostLimit | None = None
    """Cost limit, in cost units per episode, for the filters that ask who keeps it."""
    cost: str | None = None
    """Cost of the plane of returns and of the limit, if the data has several."""
    seed: Seed = 0
    """Seed of all draws."""
    overwrite: bool = False
    """Replace the target if it exists."""


class SplitArguments(FileArguments):
    """Arguments of `data split`."""

    first: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FIRST")]
    """File of the first part, to train on, in our layout."""
    second: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SECOND")]
    """File of the second part, to judge on."""
    fraction: Annotated[float, Field(gt=0, lt=1)] = 0.8
    """Share of the first part."""
    by_episode: bool = False
    """Part single episodes even where it is known which behaviour policy acted; its episodes are alike."""
    seed: Seed = 0
    """Seed of the draw."""
    overwrite: bool = False
    """Replace the files if they exist."""


class CollectArguments(Arguments):
    """Arguments of `data collect`."""

    task: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TASK")]
    """Environment to collect in; behaviour policies for it must be shipped, or given."""
    out: Path
    """File to write."""
    seed: Seed = 0
    """Seed of the resets and of the policies' noise."""
    episodes: PositiveInt = 640
    """Episodes in all; every behaviour policy acts about equally often."""
    zoo: Path | None = None
    """Directory of behaviour policies, as `safehold explore` leaves it; the shipped ones if not said."""
    workers: PositiveInt = 1
    """Processes that run episodes; the results do not depend on it."""
    overwrite: bool = False
    """Replace the file if it exists."""


class SummaryArguments(FileArguments):
    """Arguments of `data summary`."""

    limit: CostLimit | None = None
    """Cost limit, in cost units per episode; the summary then counts the episodes that keep it."""
    cost: str | None = None
    """Cost that the limit is for, if the data has several."""


def check(arguments: CheckArguments, output: Output) -> int:
    """Prints the verdict, the findings and the numbers; the exit code is the audit's."""
    if arguments.picture is not None:
        free_picture(arguments.picture, overwrite=arguments.overwrite)
    found = audit(
        arguments.file,
        limit=_limits(arguments.limit, arguments.cost),
        spec=_spec(arguments.task),
        columns=_columns(arguments),
    )
    output.result({**found.to_json(), "picture": arguments.picture})
    _print_audit(found, output)
    if arguments.picture is not None and found.summary is not None:
        _draw(arguments, found)
        output.say(f"Picture: {arguments.picture}")
    return found.exit_code


def convert(arguments: ConvertArguments, output: Output) -> int:
    """Reads any layout that is known and writes one of ours."""
    target = free_file(arguments.target, overwrite=arguments.overwrite)
    dataset = read_any(arguments.file, spec=_spec(arguments.task), columns=_columns(arguments))
    if arguments.cost_unit is not None:
        dataset = _with_unit(dataset, arguments.cost, arguments.cost_unit)
    if arguments.layout == "dsrl":
        write_dsrl(target, dataset, cost=arguments.cost, overwrite=arguments.overwrite)
    else:
        hdf5.write(target, dataset, overwrite=arguments.overwrite)
    output.result(
        {"file": target, "episodes": len(dataset), "steps": dataset.n_steps, "spec": dataset.spec.to_json()}
        | {"digest": dataset.digest}
    )
    output.say(f"{target}: {len(dataset)} episodes, {dataset.n_steps} steps, digest {dataset.digest[:16]}")
    return 0


def filter_(arguments: FilterArguments, output: Output) -> int:
    """Makes a log worse in stated ways; the target's provenance says how."""
    target = free_file(arguments.target, overwrite=arguments.overwrite)
    dataset = read_any(arguments.file, spec=_spec(arguments.task), columns=_columns(arguments))
    degraded = degrade(dataset, arguments.degradation, seed=arguments.seed, cost=arguments.cost, limit=arguments.limit)
    worse = degraded.dataset
    hdf5.write(target, worse, overwrite=arguments.overwrite)
    steps = [{"what": step.what, "left": step.left, "changed": step.changed} for step in degraded.steps]
    output.result(
        {"file": target, "episodes": len(worse), "of": len(dataset), "steps": steps, "seed": arguments.seed}
        | {"digest": worse.digest}
    )
    rows = [(step.what.replace("_", "-"), str(step.left), str(step.changed)) for step in degraded.steps]
    output.table(f"Of {len(dataset)} episodes", ("filter", "left", "changed"), rows)
    output.say(f"{target}: {len(worse)} episodes, made worse on purpose, digest {worse.digest[:16]}")
    return 0


def split_(arguments: SplitArguments, output: Output) -> int:
    """Parts a log by whole behaviour policies where they are known, else by whole episodes."""
    targets = [free_file(path, overwrite=arguments.overwrite) for path in (arguments.first, arguments.second)]
    if targets[0].absolute() == targets[1].absolute():
        raise UsageError(f"both parts are to be written to {targets[0]}; name two files")
    dataset = read_any(arguments.file, spec=_spec(arguments.task), columns=_columns(arguments))
    by_group = dataset.group is not None and not arguments.by_episode
    rng = Streams(arguments.seed)["split"]
    parts = (split_by_group if by_group else split)(dataset, arguments.fraction, rng)
    for target, part in zip(targets, parts, strict=True):
        hdf5.write(target, part, overwrite=arguments.overwrite)
        output.say(f"{target}: {len(part)} episodes, {part.n_steps} steps, digest {part.digest[:16]}")
    output.result(
        {
            "of": dataset.digest,
            "by": "behaviour policies" if by_group else "episodes",
            "parts": [
                {"file": target, "episodes": len(part), "steps": part.n_steps, "digest": part.digest}
                for target, part in zip(targets, parts, strict=True)
            ],
        }
    )
    return 0


def collect(arguments: CollectArguments, output: Output) -> int:
    """Runs the behaviour policies and writes their episodes."""
    target = free_file(arguments.out, overwrite=arguments.overwrite)
    one_torch_thread()
    from safehold.learn.online.zoo import load_zoo
    from safehold.workflows import collect as workflow

    zoo = None if arguments.zoo is None else load_zoo(arguments.zoo)
    with Narration(output) as narration:
        dataset = workflow.collect(
            arguments.task,
            seed=arguments.seed,
            episodes=arguments.episodes,
            workers=arguments.workers,
            zoo=zoo,
            on_progress=lambda done, total: narration.progress("episodes", done, total),
        )
    hdf5.write(target, dataset, overwrite=arguments.overwrite)
    output.result({"file": target, "episodes": len(dataset), "steps": dataset.n_steps, "digest": dataset.digest})
    output.say(f"{target}: {len(dataset)} episodes, {dataset.n_steps} steps, digest {dataset.digest[:16]}")
    return 0


def summary(arguments: SummaryArguments, output: Output) -> int:
    """Prints the numbers of a dataset."""
    dataset = read_any(arguments.file, spec=_spec(arguments.task), columns=_columns(arguments))
    limits: dict[str, float] = {}
    if arguments.limit is not None:
        limits = {_one_cost(dataset.spec, arguments.cost): arguments.limit}
    numbers = summarise(dataset, limits)
    output.result(numbers.to_json() | {"digest": dataset.digest})
    _print_summary(numbers, output)
    return 0


def _limits(limit: float | None, cost: str | None) -> float | Mapping[str, float] | None:
    if cost is not None and limit is None:
        raise UsageError(f"--cost {cost} says what a limit is for; give --limit as well")
    return limit if cost is None or limit is None else {cost: limit}


def _one_cost(spec: TaskSpec, cost: str | None) -> str:
    """The named cost, or the only one."""
    if cost is None and len(spec.cost_names) == 1:
        return spec.cost_names[0]
    if cost not in spec.cost_names:
        raise UsageError(f"--cost {cost}: the data has costs {', '.join(spec.cost_names)}; name one of them")
    return cost


def _spec(task: str | None) -> TaskSpec | None:
    """The spec of a registered task."""
    if task is None:
        return None
    from safehold.envs import registry

    return registry.spec(task)


def _columns(arguments: FileArguments) -> Columns | None:
    """What the TOML file and the flags say about columns; None if nothing was said."""
    flags = {
        "episode": arguments.episode_column,
        "step": arguments.step_column,
        "observations": arguments.observation_columns,
        "next_observations": arguments.next_observation_columns,
        "actions": arguments.action_columns,
        "reward": arguments.reward_column,
        "costs": _cost_columns(arguments.cost_columns),
        "terminated": arguments.terminated_column,
        "truncated": arguments.truncated_column,
        "group": arguments.group_column,
        "discrete_actions": arguments.discrete_actions,
        "delimiter": arguments.delimiter,
    }
    said = {name: value for name, value in flags.items() if value}
    if arguments.columns is None and not said:
        return None
    base = Columns() if arguments.columns is None else from_file(Columns(), arguments.columns)
    try:
        return Columns.model_validate({**base.model_dump(), **said})
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise UsageError(f"--{place.replace('_', '-')}: {problem['msg']}") from error


def _cost_columns(words: tuple[str, ...]) -> dict[str, str]:
    """NAME=COLUMN, or a column alone, of each cost."""
    costs: dict[str, str] = {}
    for word in words:
        name, _, column = word.rpartition("=")
        name = name or column.rpartition("/")[2]
        if not name or not column or name in costs:
            raise UsageError(f"--cost-columns {word}: expected NAME=COLUMN with a name for each cost, or COLUMN alone")
        costs[name] = column
    return costs


def _with_unit(dataset: OfflineDataset, cost: str | None, unit: str) -> OfflineDataset:
    name = _one_cost(dataset.spec, cost)
    units = tuple(
        unit if known == name else said
        for known, said in zip(dataset.spec.cost_names, dataset.spec.cost_units, strict=True)
    )
    return replace(dataset, spec=replace(dataset.spec, cost_units=units))


def _print_audit(found: Audit, output: Output) -> None:
    """Verdict first, then what was found, worst first, then the numbers."""
    styles = {"pass": "bold green", "warn": "bold yellow", "fail": "bold red"}
    layout = f", layout {found.layout}" if found.layout else ""
    output.say(f"{found.verdict.upper()}  {found.path}{layout}", styles[found.verdict])
    if found.findings:
        rows = [(f.severity, f"{f.code}\n{f.where}", f"{f.what}.\n-> {f.fix}") for f in found.findings]
        output.table("", ("", "what, where", "why, and what to do"), rows)
    if found.summary is not None:
        output.say("")
        _print_summary(found.summary, output)


def _print_summary(numbers: Summary, output: Output) -> None:
    """Counts, then returns with their quantiles."""
    output.say(
        f"{numbers.env_id}: {numbers.episodes} episodes ({numbers.terminated} terminated, {numbers.truncated} "
        f"truncated), {numbers.steps} steps, {numbers.observation_size} observation and {numbers.action_size} action "
        "values"
    )
    rows = [("steps", numbers.lengths, "steps"), ("reward return", numbers.rewards, "reward units")]
    rows += [(f"{cost.name} return", cost.returns, cost.unit) for cost in numbers.costs]
    output.table(
        "Of an episode",
        ("", "min", "5 %", "median", "95 %", "max", "mean", "unit"),
        [
            (name, *(f"{v:.4g}" for v in (q.minimum, q.q05, q.median, q.q95, q.maximum, q.mean)), unit)
            for name, q, unit in rows
        ],
    )
    for cost in numbers.costs:
        kept = cost.at_limit
        if kept is not None:
            best = "no reward" if kept.best_reward is None else f"best reward {kept.best_reward:.4g}"
            output.say(
                f"{kept.episodes} of {numbers.episodes} episodes have {cost.name} <= {kept.limit:g} "
                f"({kept.terminated} of them terminated early or in the end); {best} among them"
            )


def _draw(arguments: CheckArguments, found: Audit) -> None:
    """The plane of returns; the file is read again and must still be the one that was judged."""
    from safehold.report.figures import data_plane, palette

    columns = _columns(arguments)
    dataset = read_with_findings(
        arguments.file, spec=_spec(arguments.task), columns=columns
    ).dataset  # findings: printed
    if dataset.digest != found.digest:
        raise IntegrityError(f"{arguments.file} changed while it was checked; check it again")
    spec = dataset.spec
    name = spec.cost_names[0] if arguments.cost is None else arguments.cost
    column = spec.cost_names.index(name)
    view = data_plane.info(
        dataset.cost_returns[:, column],
        dataset.reward_returns,
        cost_name=name,
        cost_unit=spec.cost_units[column],
        limit=arguments.limit,
        terminated=dataset.terminated,
    )
    assert arguments.picture is not None
    palette.save(data_plane.draw(view), arguments.picture)


COMMANDS = {
    "check": Command(CheckArguments, check),
    "convert": Command(ConvertArguments, convert),
    "filter": Command(FilterArguments, filter_),
    "split": Command(SplitArguments, split_),
    "collect": Command(CollectArguments, collect),
    "summary": Command(SummaryArguments, summary),
}
