"""What a foreign file does not say itself: which column or array is what, and what one unit of each cost means."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from jaxtyping import Bool, Float
from pydantic import Field, PositiveInt

from safehold.core.config import Config
from safehold.core.errors import DataError, UsageError
from safehold.core.spec import Box, Discrete, TaskSpec
from safehold.data.findings import Finding

Name = Annotated[str, Field(min_length=1, max_length=200)]
"""A column, an array's path, a cost, or a few words."""


class Columns(Config):
    """Where everything is, for files that follow no layout of their own.

    Of arrays in HDF5 and .npz files and of Minari only `costs`, `cost_units`, `binary_costs`, `discrete_actions`,
    `horizon` and `env_id` are asked; tables of rows (CSV, Parquet) need the rest.
    """

    episode: Name = "episode"
    """Column that is the same for all rows of an episode, and changes with the next: numbers or text."""
    step: Name | None = None
    """Column that counts the steps of an episode, one by one; gaps are refused. `step` if there is one."""
    observations: tuple[Name, ...] = ("observation_*",)
    """Columns of the observation, in order; a name that ends in * stands for all columns that begin so."""
    next_observations: tuple[Name, ...] = ()
    """Columns of what was seen after the action, in the same order; not needed if each episode ends in a row that has
    an observation only."""
    actions: tuple[Name, ...] = ("action_*",)
    """Columns of the action, in order; a name that ends in * stands for all columns that begin so."""
    reward: Name = "reward"
    """Column of the reward of the step."""
    costs: dict[Name, Name] | None = None
    """Name of each cost, and its column or array; not said: `cost`, from where the layout keeps it."""
    cost_units: dict[Name, Name] = Field(default_factory=dict)
    """What one unit of each named cost means, in words."""
    binary_costs: tuple[Name, ...] = ()
    """Costs that are 0 or 1 at every step; a file that has another value is refused."""
    terminated: Name | None = None
    """Column that is 1 where the task itself ended the episode. `terminated` if there is one."""
    truncated: Name | None = None
    """Column that is 1 where the clock ended the episode. `truncated` if there is one."""
    group: Name | None = None
    """Column that numbers the behaviour policy, the same through an episode. `group` if there is one."""
    discrete_actions: PositiveInt | None = None
    """Number of actions, if they are indices 0, 1, ... and not continuous."""
    horizon: PositiveInt | None = None
    """Most steps that an episode may have; not said: the longest one of the file."""
    env_id: Name = "unknown"
    """Name of the task."""
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    """Sign between the values of a text table."""


def cost_places(columns: Columns, spec: TaskSpec | None, usual: str) -> dict[str, str]:
    """Name of each cost -> its column or array; in the order of the task, if it is known.

    Raises:
        UsageError: if the costs declared are not those of the task, or a unit or a binary cost names none.
    """
    names = ("cost",) if spec is None else spec.cost_names
    if columns.costs is None:
        if len(names) > 1:
            raise UsageError(f"the task has the costs {', '.join(names)}; say which column each is in (costs)")
        places = {names[0]: usual}
    elif not columns.costs:
        raise UsageError("costs is empty; a safe task has at least one cost, so name its column")
    else:
        if spec is not None and set(columns.costs) != set(names):
            raise UsageError(f"costs names {', '.join(columns.costs)}; the task {spec.env_id} has {', '.join(names)}")
        places = columns.costs if spec is None else {name: columns.costs[name] for name in names}
    for what, named in (("cost_units", tuple(columns.cost_units)), ("binary_costs", columns.binary_costs)):
        unknown = [name for name in named if name not in places]
        if unknown:
            raise UsageError(f"{what} names {unknown[0]!r}; the costs are {', '.join(places)}")
    return dict(places)


def task_of(
    spec: TaskSpec | None,
    columns: Columns,
    cost_names: Sequence[str],
    observation_size: int,
    actions: Float[np.ndarray, "N a"],
    longest: int,
) -> tuple[TaskSpec, tuple[Finding, ...]]:
    """The task as given, or derived from what the file shows and the columns say.

    Raises:
        UsageError: if the task is given, and the columns say again what it says.
        DataError: if the actions declared discrete have more than one column.
    """
    if spec is not None:
        said = columns.model_dump(include={"cost_units", "discrete_actions", "horizon", "env_id"})
        default = Columns().model_dump()
        again = [name for name, value in said.items() if value != default[name]]
        if again:
            raise UsageError(f"{again[0]} is said, and a task is given that says it too; leave one out")
        return spec, ()
    if columns.discrete_actions is not None and actions.shape[1] != 1:
        raise DataError(f"discrete actions are one column of indices, got {actions.shape[1]} columns")
    low = np.minimum(actions.min(axis=0), -1.0)
    high = np.maximum(actions.max(axis=0), 1.0)
    derived = TaskSpec(
        env_id=columns.env_id,
        observation_size=observation_size,
        action=Box(tuple(float(bound) for bound in low), tuple(float(bound) for bound in high))
        if columns.discrete_actions is None
        else Discrete(columns.discrete_actions),
        horizon=columns.horizon or longest,
        cost_names=tuple(cost_names),
        cost_units=tuple(columns.cost_units.get(name, "cost units") for name in cost_names),
    )
    bounds = "bounds of actions are [-1, 1], wider where the data is"
    actions_are = bounds if columns.discrete_actions is None else f"{columns.discrete_actions} actions, as declared"
    horizon = "as declared" if columns.horizon else "the longest episode"
    finding = Finding(
        severity="note",
        code="task-derived",
        where="the file",
        what=f"it does not say what task it is of: {actions_are}, and the horizon is {horizon}, "
        f"{derived.horizon} steps",
        fix="Give the spec of the task when you convert the file, with what one unit of cost means.",
    )
    return derived, (finding,)


def check_binary(path: Path, columns: Columns, costs: Mapping[str, Float[np.ndarray, "N"]]) -> None:
    """Refuses a cost that was declared to be 0 or 1, and is not.

    Raises:
        DataError: naming the first such step.
    """
    for name in columns.binary_costs:
        values = costs[name]
        other = ~((values == 0) | (values == 1))
        if other.any():
            row = int(np.argmax(other))
            raise DataError(
                f"{path}: cost {name!r} of step {row} is {values[row]} ({int(other.sum())} such values); it was "
                "declared to be 0 or 1 (binary_costs)"
            )


def ends_of(
    terminals: Bool[np.ndarray, "N"], timeouts: Bool[np.ndarray, "N"], words: tuple[str, str]
) -> tuple[Finding, ...]:
    """A warning for steps that end both ways; they count as terminated. `words` are what the file calls the ends."""
    both = np.flatnonzero(terminals & timeouts)
    if len(both) == 0:
        return ()
    return (
        Finding(
            severity="warn",
            code="ends-twice",
            where=f"{', '.join(words)} [{both[0]}]",
            what=f"{len(both)} steps are marked in both; they count as terminated",
            fix=f"If the clock ended these episodes, clear their {words[0]}: nothing is expected to follow those.",
        ),
    )


def repeated_last(episodes: int, of: int) -> Finding:
    """The warning for episodes whose last observation, after the last action, was not logged."""
    return Finding(
        severity="warn",
        code="last-observation-repeated",
        where="observations",
        what=f"{episodes} of {of} episodes do not say what was seen after their last action; the observation before it "
        "stands there, so that no reward and no cost of the last step is lost",
        fix="Log it: one more observation than actions. A value function learnt from the last step is wrong.",
    )
