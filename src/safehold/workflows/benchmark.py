"""Methods x tasks x seeds, each run once and kept: resumable, on all cores, and a table with intervals at the end."""

import importlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import joblib
import numpy as np
from jaxtyping import Float
from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from safehold import __version__
from safehold.core.config import Config
from safehold.core.errors import DataError, IntegrityError, UsageError
from safehold.core.intervals import Interval, bootstrap_interval, interquartile_interval, proportion_interval
from safehold.core.policy import Policy, PolicyFamily
from safehold.core.seeding import Streams
from safehold.core.target import Target
from safehold.data import hdf5
from safehold.data.dataset import OfflineDataset
from safehold.data.frontier import frontier
from safehold.data.layouts import read_any
from safehold.learn.checkpoint import load_checkpoint
from safehold.learn.offline.actor_critic import LimitedConfig
from safehold.learn.offline.lspc import LSPCFamily
from safehold.report.words import over_limit
from safehold.workflows.collect import collect
from safehold.workflows.evaluate import Evaluation, evaluate, require_task
from safehold.workflows.files import write_text
from safehold.workflows.train import METHODS, OfflineConfig, preset, train_once, training_threads

Backend = Literal["loky", "ray"]
"""Where runs go: processes of this machine, or a Ray cluster."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
"""Names of methods, which name directories."""

RESULT = "result.json"
"""What one run leaves: configuration, digests, and the returns of every episode."""


class Method(Config):
    """One contestant."""

    method: str
    """Learner, as in `safehold train`."""
    preset: str = "small"
    """Where its settings start from."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Settings above the preset."""
    safe: bool = False
    """Clone only episodes that keep the limit (bc): trained anew for every limit."""

    @field_validator("method")
    @classmethod
    def _is_a_method(cls, name: str) -> str:
        if name not in METHODS:
            raise ValueError(f"there is no method {name!r}; there are {sorted(METHODS)}")
        return name

    @model_validator(mode="after")
    def _only_cloning_is_safe(self) -> "Method":
        if self.safe and self.method != "bc":
            raise ValueError('safe = true chooses the episodes that are cloned, so it is for method = "bc"')
        return self

    @property
    def limited(self) -> bool:
        """Whether what it learns is for one limit, so that it is trained anew for every limit."""
        return self.safe or issubclass(METHODS[self.method].config, LimitedConfig)

    def config(self, limits: Mapping[str, float]) -> OfflineConfig:
        """Its settings, for these limits if what it learns is for limits.

        Raises:
            UsageError: if preset or settings do not exist.
        """
        base = preset(self.method, self.preset)
        said = {**self.settings, **({"limits": dict(limits)} if self.limited else {})}
        try:
            return type(base).model_validate({**base.model_dump(), **said})
        except ValidationError as error:
            problem = error.errors()[0]
            place = ".".join(str(part) for part in problem["loc"])
            raise UsageError(f"settings of method {self.method!r}: {place}: {problem['msg']}") from error


class BenchmarkConfig(Config):
    """What is compared. Every run is told the limit; nothing is chosen by running the environment."""

    tasks: tuple[str, ...] = Field(min_length=1)
    """Environments (`safehold envs list`)."""
    methods: dict[str, Method] = Field(min_length=1)
    """Contestants, by the name they have in the table."""
    limits: tuple[NonNegativeFloat, ...] = Field(default=(20.0, 40.0, 80.0), min_length=1)
    """Cost limits; a dial is asked for (best logged reward at or under the limit, limit)."""
    seeds: tuple[NonNegativeInt, ...] = Field(default=(0, 1, 2, 3, 4), min_length=1)
    """Of weights and batches; and of the episodes, which are the same for all methods."""
    episodes: PositiveInt = 20
    """Fresh episodes for every run and limit."""
    log_seed: NonNegativeInt = 0
    """Of the logs that are collected from the zoo."""
    logs: dict[str, Path] = Field(default_factory=dict)
    """Logs of one's own, by task; the others are collected."""

    @field_validator("tasks", "limits", "seeds")
    @classmethod
    def _each_once(cls, said: tuple[Any, ...]) -> tuple[Any, ...]:
        again = sorted({value for value in said if said.count(value) > 1})
        if again:
            raise ValueError(f"{again[0]} is there more than once; what is counted twice is no more evidence")
        return said

    @field_validator("methods")
    @classmethod
    def _names_of_directories(cls, methods: dict[str, Method]) -> dict[str, Method]:
        for name in methods:
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name[:80]!r} is no name of a method: letters, digits and ._+- after the first, 64")
        return methods

    @model_validator(mode="after")
    def _places_differ(self) -> "BenchmarkConfig":
        unknown = sorted(set(self.logs) - set(self.tasks))
        if unknown:
            raise ValueError(f"logs: {unknown[0][:80]!r} is none of the tasks {list(self.tasks)}")
        places = [cell.place for cell in cells(self)]
        again = next((place for place in places if places.count(place) > 1), None)
        if again is not None:
            raise ValueError(f"two runs would lie in {again}; give methods other names, or limits that differ by more")
        return self


@dataclass(frozen=True, slots=True)
class Cell:
    """One run: a method on a task from a seed; `limit` if it is trained for one alone."""

    task: str
    method: str
    seed: int
    limit: float | None

    @property
    def place(self) -> Path:
        """Where it lies in the benchmark's directory."""
        limited = self.method if self.limit is None else f"{self.method}-{self.limit:g}"
        return Path(self.task.replace("/", "-")) / limited / f"seed-{self.seed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A method on a task at a limit, over seeds; intervals by bootstrap over seeds and episodes.

    `reward` is normalised by the extremes of the logged returns, `cost` by the limit (for a limit of 0, both plus 1),
    as in DSRL; `raw_reward` and `raw_cost` are in the task's units. `unsafe`: the share of seeds whose mean cost is
    above the limit; `violations`: that of single episodes of all seeds, both with exact intervals.
    """

    task: str
    method: str
    limit: float
    reward: Interval
    cost: Interval
    raw_reward: Interval
    raw_cost: Interval
    unsafe: Interval
    violations: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Overall:
    """A method at a limit over all tasks: interquartile means of the runs' normalised rewards and costs."""

    method: str
    limit: float
    reward: Interval
    cost: Interval


def run_benchmark(
    config: BenchmarkConfig,
    directory: Path,
    *,
    workers: int = 1,
    backend: Backend = "loky",
    on_cell: Callable[[int, int, Cell], None] | None = None,
) -> list[Score]:
    """Runs what is missing of a benchmark, and scores it; a second call repeats nothing.

    Raises:
        UsageError: if a name is unknown, or the directory holds another benchmark's runs.
        DataError: if a log holds no episode that keeps a limit.
    """
    run_share(config, directory, workers=workers, backend=backend, on_cell=on_cell)
    return scores(config, directory)


def run_share(
    config: BenchmarkConfig,
    directory: Path,
    *,
    share: tuple[int, int] = (0, 1),
    workers: int = 1,
    backend: Backend = "loky",
    on_cell: Callable[[int, int, Cell], None] | None = None,
) -> None:
    """Runs what is missing of every n-th run from the i-th on, for a `share` of (i, n); scores nothing.

    n machines that share a directory, each with a share of its own, do the whole between them. The backend "ray" gives
    the runs to the Ray cluster that this machine belongs to; `workers` is then how many run there at a time.

    Raises:
        UsageError: if a name is unknown, there is no such share, Ray is not installed, or the directory holds another
            benchmark's runs.
        DataError: if a log holds no episode that keeps a limit.
    """
    place, of = share
    if not 0 <= place < of:
        raise UsageError(f"share {place}/{of}: of {of} shares the first is 0 and the last {of - 1}")
    todo = list(cells(config))[place::of]
    for method in config.methods.values():
        method.config({})
    logs = {task: _log(config, task, directory, workers) for task in config.tasks}
    with _workers(backend):
        # Ray's end of joblib hands back only the whole
        parallel = joblib.Parallel(n_jobs=workers, return_as="generator" if backend == "loky" else "list", batch_size=1)
        work = (joblib.delayed(run_cell)(config, cell, logs[cell.task], directory) for cell in todo)
        for number, _ in enumerate(parallel(work), 1):
            if on_cell is not None:
                on_cell(number, len(todo), todo[number - 1])


def _workers(backend: Backend) -> Any:
    """Where joblib's work goes from here on."""
    if backend == "loky":
        return joblib.parallel_config(backend=backend, inner_max_num_threads=1)
    try:
        importlib.import_module("ray.util.joblib").register_ray()
    except ImportError as error:
        raise UsageError("the backend ray needs Ray; install it with: pip install 'safehold[ray]'") from error
    return joblib.parallel_config(backend=backend)


def cells(config: BenchmarkConfig) -> Iterator[Cell]:
    """All runs, seed by seed, so that an interrupted benchmark has whole seeds."""
    for seed in config.seeds:
        for task in config.tasks:
            for name, method in config.methods.items():
                for limit in config.limits if method.limited else (None,):
                    yield Cell(task, name, seed, limit)


def run_cell(config: BenchmarkConfig, cell: Cell, log: Path, directory: Path) -> None:
    """Trains one method once and evaluates it; nothing if its result is there already.

    Raises:
        UsageError: if the result there is of another configuration or log.
    """
    place, dataset = directory / cell.place, read_any(log)
    names = dataset.spec.cost_names
    limits = config.limits if cell.limit is None else (cell.limit,)
    method = config.methods[cell.method]
    settings = method.config({names[0]: cell.limit} if cell.limit is not None else {})
    identity = {
        "task": cell.task,
        "method": method.method,
        "settings": settings.to_json(),
        "seed": cell.seed,
        "log": dataset.digest,
        "episodes": config.episodes,
    }
    if (place / RESULT).exists():
        kept = read_result(place / RESULT)
        if {name: kept.get(name) for name in identity} != identity:
            raise UsageError(f"{place / RESULT} is of another benchmark; choose another directory")
        if [entry["limit"] for entry in kept["limits"]] == list(limits):
            return
    begin = time.monotonic()
    with training_threads(1):
        policy = train_once(dataset, method.method, settings, place / "training", seed=cell.seed)
        trained = time.monotonic()
        found = [(limit, _evaluated(policy, dataset, cell, limit, config.episodes)) for limit in limits]
    reward = dataset.reward_returns
    record = {
        **identity,
        "safehold": __version__,
        "policy": load_checkpoint(place / "training" / "policy").digest,
        "cost_name": names[0],
        "logged_rewards": [float(reward.min()), float(reward.max())],
        "limits": [{"limit": limit, **evaluation.to_json()} for limit, evaluation in found],
        "seconds": {"training": trained - begin, "evaluation": time.monotonic() - trained},
    }
    write_text(place / RESULT, json.dumps(record, indent=1, allow_nan=False) + "\n")


def scores(config: BenchmarkConfig, directory: Path) -> list[Score]:
    """What the results in a directory say, task by task, limit by limit, method by method.

    Raises:
        DataError: if a result is missing.
    """
    found = []
    for task in config.tasks:
        for limit in config.limits:
            for name, method in config.methods.items():
                found.append(_score(task, name, limit, _runs(config, directory, task, name, method, limit)))
    return found


def overall(config: BenchmarkConfig, directory: Path) -> list[Overall]:
    """What the results say of each method over all tasks; intervals by bootstrap over seeds, task by task.

    Raises:
        DataError: if a result is missing.
    """
    found = []
    for limit in config.limits:
        for name, method in config.methods.items():
            means = [
                np.array([[one.mean() for one in _normalised(run, limit)] for run in runs])
                for runs in (_runs(config, directory, task, name, method, limit) for task in config.tasks)
            ]
            reward, cost = (
                interquartile_interval([of_task[:, i] for of_task in means], Streams(0)["bootstrap"]) for i in (0, 1)
            )
            found.append(Overall(method=name, limit=limit, reward=reward, cost=cost))
    return found


def read_result(path: Path) -> dict[str, Any]:
    """One run's record.

    Raises:
        DataError: if it is missing.
        IntegrityError: if it is no such record.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        low, high = (float(value) for value in record["logged_rewards"])
        if not -np.inf < low <= high < np.inf:
            raise ValueError(f"logged rewards from {low} to {high}")
        for entry in record["limits"]:
            found, limit = Evaluation.from_json(entry), float(entry["limit"])
            if not (limit >= 0.0 and len(found.rewards) == record["episodes"]):
                raise ValueError(f"{len(found.rewards)} episodes at a limit of {limit}")
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; run the benchmark to its end first") from error
    except (OSError, RecursionError, ValueError, KeyError, TypeError, DataError) as error:
        raise IntegrityError(f"{path} is no result: {error!r}; delete it to run it again") from error
    return dict(record)


def table(found: Sequence[Score], over_tasks: Sequence[Overall] = ()) -> str:
    """The scores as Markdown, then those over all tasks."""
    lines = [
        "| task | limit | method | normalised reward | normalised cost | reward | cost | seeds above the limit "
        "| episodes above it |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        share = f"{round(one.unsafe.estimate * one.unsafe.n)} of {one.unsafe.n}"
        lines.append(
            f"| {one.task} | {one.limit:g} | {one.method} | {one.reward} | {one.cost} | {one.raw_reward} "
            f"| {one.raw_cost} | {share} [{one.unsafe.low:.2f}, {one.unsafe.high:.2f}] "
            f"| {one.violations.estimate:.2f} [{one.violations.low:.2f}, {one.violations.high:.2f}] |"
        )
    if over_tasks:
        lines += ["", "Over all tasks, interquartile means of the runs:", ""]
        lines += ["| limit | method | normalised reward | normalised cost |", "|---|---|---|---|"]
        lines += [f"| {one.limit:g} | {one.method} | {one.reward} | {one.cost} |" for one in over_tasks]
    return "\n".join(lines) + "\n"


def _log(config: BenchmarkConfig, task: str, directory: Path, workers: int) -> Path:
    """The log of a task: one's own, or collected once."""
    if task in config.logs:
        require_task(read_any(config.logs[task]), task)
        return config.logs[task]
    path = directory / "logs" / f"{task.replace('/', '-')}-{config.log_seed}.hdf5"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        # another share may have been quicker, with the same bytes
        hdf5.write(path, collect(task, seed=config.log_seed, workers=workers), overwrite=True)
    return path


def _evaluated(
    policy: Policy | PolicyFamily, dataset: OfflineDataset, cell: Cell, limit: float, episodes: int
) -> Evaluation:
    """Fresh episodes at a limit; all methods meet the same reset seeds."""
    target: Target | None = None
    if isinstance(policy, PolicyFamily):
        target = _asked(policy, dataset, limit)
        policy = policy.at(target)
    (found,) = evaluate(
        cell.task,
        [(policy, target)],
        label=cell.method,
        cost_name=dataset.spec.cost_names[0],
        streams=Streams(cell.seed),
        stream=f"benchmark/{limit:g}",
        episodes=episodes,
    )
    return found


def _asked(family: PolicyFamily, dataset: OfflineDataset, limit: float) -> Target:
    """What a dial is set to, told the limit alone: the best reward logged under it, and the limit itself.

    The box of `lspc` is no return: it stays as trained.
    """
    if isinstance(family, LSPCFamily):
        return (family.config.epsilon,)
    return tuple(frontier(dataset).best_reward(limit) if name == "reward" else limit for name in family.target_names)


@dataclass(frozen=True, slots=True)
class _Run:
    """Episodes of one seed at one limit, and the extremes that normalise their rewards."""

    rewards: Float[np.ndarray, "n"]
    costs: Float[np.ndarray, "n"]
    logged: tuple[float, float]


def _of_limit(path: Path, limit: float) -> _Run:
    record = read_result(path)
    for entry in record["limits"]:
        if entry.get("limit") == limit:
            found = Evaluation.from_json(entry)
            low, high = record["logged_rewards"]
            return _Run(found.rewards, found.costs, (float(low), float(high)))
    raise DataError(f"{path} holds no evaluation at the limit {limit:g}; run the benchmark to its end first")


def _runs(config: BenchmarkConfig, directory: Path, task: str, name: str, method: Method, limit: float) -> list[_Run]:
    """One of each seed."""
    cells = (Cell(task, name, seed, limit if method.limited else None) for seed in config.seeds)
    return [_of_limit(directory / cell.place / RESULT, limit) for cell in cells]


def _normalised(run: _Run, limit: float) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    """Rewards by the extremes of the logged ones, costs by the limit."""
    low, high = run.logged
    more = 1.0 if limit == 0.0 else 0.0
    return (run.rewards - low) / (high - low if high > low else 1.0), (run.costs + more) / (limit + more)


def _score(task: str, method: str, limit: float, runs: Sequence[_Run]) -> Score:
    costs, normalised = [run.costs for run in runs], [_normalised(run, limit) for run in runs]

    def interval(groups: Sequence[Float[np.ndarray, "n"]]) -> Interval:
        return bootstrap_interval(groups, Streams(0)["bootstrap"])

    return Score(
        task=task,
        method=method,
        limit=limit,
        reward=interval([rewards for rewards, _ in normalised]),
        cost=interval([values for _, values in normalised]),
        raw_reward=interval([run.rewards for run in runs]),
        raw_cost=interval(costs),
        unsafe=proportion_interval(sum(not values.mean() <= limit for values in costs), len(runs)),
        violations=proportion_interval(
            sum(over_limit(values, limit) for values in costs), sum(len(values) for values in costs)
        ),
    )
