"""Tables with one row a step (CSV, Parquet) as episodes: every column is named, and no row is left out."""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from safehold.core.errors import DataError
from safehold.core.spec import TaskSpec
from safehold.data.dataset import OfflineDataset, as_group, check_finite
from safehold.data.declared import Columns, check_binary, cost_places, ends_of, repeated_last, task_of
from safehold.data.findings import Finding
from safehold.data.flat import continuity
from safehold.data.guard import convert

COPIES = 3
"""How often a value stands in memory while a table is read: as it came in, by columns, and in the dataset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The columns that were asked for. `blank` marks values that were left out, which stand as NaN.

    `episode` numbers the values of the episode column in the order in which they come up.
    """

    values: Mapping[str, Float[np.ndarray, "n"]]
    blank: Mapping[str, Bool[np.ndarray, "n"]]
    episode: Int[np.ndarray, "n"]
    labels: tuple[str, ...]


@runtime_checkable
class Table(Protocol):
    """An open table whose claims were checked."""

    @property
    def path(self) -> Path:
        """The file."""
        ...

    @property
    def sha256(self) -> str:
        """SHA-256 of the file's bytes, in hex."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """Its columns, in order."""
        ...

    def read(self, numbers: Sequence[str], key: str) -> Rows:
        """These columns of numbers, and the column that tells the episodes apart."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Places:
    """Columns of one table, as the declaration and the table's header give them."""

    observations: tuple[str, ...]
    following: tuple[str, ...]
    actions: tuple[str, ...]
    reward: str
    costs: Mapping[str, str]
    terminated: str | None
    truncated: str | None
    step: str | None
    group: str | None

    @property
    def acted(self) -> tuple[str, ...]:
        """What a row has only if an action was taken in it."""
        return (*self.actions, self.reward, *self.costs.values())

    @property
    def optional(self) -> tuple[str, ...]:
        named = (self.terminated, self.truncated, self.step, self.group)
        return (*self.following, *(name for name in named if name is not None))


def read_table(
    table: Table, spec: TaskSpec | None, columns: Columns, layout: str
) -> tuple[OfflineDataset, tuple[Finding, ...]]:
    """The dataset in a table, with what is worth saying about it.

    Raises:
        DataError: if a column is missing, a value is missing or no number, the rows of an episode are not together or
            not in order, or an episode goes on after its end.
    """
    places = _places(table, spec, columns)
    rows = table.read(tuple(dict.fromkeys((*places.observations, *places.acted, *places.optional))), columns.episode)
    if len(rows.episode) == 0:
        raise DataError(f"{table.path}: the table has no rows")
    bounds = _bounds(table.path, columns.episode, rows)
    only_seen = _only_seen(table.path, rows, places, bounds)
    for name in (*places.observations, *places.following, *places.acted):
        _check_whole(table.path, name, rows, only_seen)
    _check_steps(table.path, rows, places.step, bounds)
    terminals, timeouts = (_flags(table.path, rows, name, only_seen) for name in (places.terminated, places.truncated))
    findings = list(_ends(table.path, places, terminals, timeouts, bounds, only_seen))

    acts = ~only_seen
    starts, stops = bounds[:-1], bounds[1:]
    lengths = np.add.reduceat(acts.astype(np.int64), starts)
    if not lengths.all():
        label = rows.labels[int(np.argmin(lengths))]
        raise DataError(f"{table.path}: episode {label!r} has an observation and no step; leave it out knowingly")
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    observations = _float32(table.path, rows, places.observations)
    final, last_findings = _final_rows(table.path, rows, places, observations, stops, only_seen, acts, offsets)
    costs = {name: rows.values[column][acts] for name, column in places.costs.items()}
    check_binary(table.path, columns, costs)
    actions = _float32(table.path, rows, places.actions)[acts]
    group, group_findings = _group(rows, places.group, offsets, acts)
    task, task_findings = task_of(
        spec, columns, tuple(places.costs), len(places.observations), actions, int(lengths.max())
    )
    known = {columns.episode, *places.observations, *places.acted, *places.optional}
    dataset = OfflineDataset(
        spec=task,
        observations=np.insert(observations[acts], offsets[1:], final, axis=0),
        actions=actions,
        rewards=rows.values[places.reward][acts],
        costs=np.stack(list(costs.values()), axis=1),
        offsets=offsets,
        terminated=np.logical_or.reduceat(terminals, starts),
        group=group,
        provenance={
            "layout": layout,
            "file": table.path.name,
            "sha256": table.sha256,
            "columns": {
                "observations": list(places.observations),
                "actions": list(places.actions),
                "reward": places.reward,
                "costs": dict(places.costs),
            },
        },
    )
    return dataset, (*findings, *last_findings, *group_findings, *task_findings, *_unread(table, known))


def _places(table: Table, spec: TaskSpec | None, columns: Columns) -> _Places:
    """Every column that is needed, each of them there, none in two roles that exclude each other."""
    observations = _expanded(table, "observations", columns.observations)
    following = _expanded(table, "next_observations", columns.next_observations)
    if following and len(following) != len(observations):
        raise DataError(
            f"{table.path}: {len(observations)} columns of observations and {len(following)} of next_observations; "
            "they are the same quantities, one step apart"
        )
    places = _Places(
        observations=observations,
        following=following,
        actions=_expanded(table, "actions", columns.actions),
        reward=_column(table, "reward", columns.reward),
        costs={
            name: _column(table, f"cost {name!r}", column)
            for name, column in cost_places(columns, spec, "cost").items()
        },
        terminated=_perhaps(table, "terminated", columns.terminated),
        truncated=_perhaps(table, "truncated", columns.truncated),
        step=_perhaps(table, "step", columns.step),
        group=_perhaps(table, "group", columns.group),
    )
    _column(table, "episode", columns.episode)
    return places


def _expanded(table: Table, what: str, wanted: Sequence[str]) -> tuple[str, ...]:
    """Columns by name, and those that begin like a name with a star: by number if they end in one, else as they come.

    Raises:
        DataError: if nothing fits, or a column comes up twice.
    """
    found: list[str] = []
    for name in wanted:
        if not name.endswith("*"):
            found.append(_column(table, what, name))
            continue
        prefix = name[:-1]
        fitting = [there for there in table.names if there.startswith(prefix)]
        if not fitting:
            raise DataError(f"{table.path}: no column begins with {prefix!r} for {what}; {_there(table)}")
        ends = [there.removeprefix(prefix) for there in fitting]
        if all(re.fullmatch(r"[0-9]{1,9}", end) for end in ends):
            fitting.sort(key=lambda there: int(there.removeprefix(prefix)))
        found.extend(fitting)
    twice = [name for name in found if found.count(name) > 1]
    if twice:
        raise DataError(f"{table.path}: {what} names the column {twice[0]!r} twice")
    return tuple(found)


def _column(table: Table, what: str, name: str) -> str:
    if name in table.names:
        return name
    near = difflib.get_close_matches(name, table.names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else _there(table)
    raise DataError(f"{table.path}: no column {name!r} for {what}; {hint}")


def _perhaps(table: Table, role: str, name: str | None) -> str | None:
    """The column named, which must be there; otherwise the one that is called like its role, if it is."""
    if name is not None:
        return _column(table, role, name)
    return role if role in table.names else None


def _there(table: Table) -> str:
    shown = ", ".join(table.names[:20])
    return f"the table has {shown}{', ...' if len(table.names) > 20 else ''}"


def _bounds(path: Path, column: str, rows: Rows) -> Int[np.ndarray, "E_plus_1"]:
    """First row of each episode, and the number of rows.

    Raises:
        DataError: if an episode comes up again after another one.
    """
    starts = np.concatenate([[0], np.flatnonzero(np.diff(rows.episode)) + 1])
    numbers = rows.episode[starts]
    again = np.flatnonzero(numbers != np.arange(len(numbers)))
    if len(again):
        row = int(starts[again[0]])
        label = rows.labels[int(numbers[again[0]])]
        raise DataError(
            f"{path}: row {row} belongs to {column} {label!r} again, after another one; the rows of an episode stand "
            "together, in order. Sort the table"
        )
    return np.append(starts, len(rows.episode)).astype(np.int64)


def _only_seen(path: Path, rows: Rows, places: _Places, bounds: Int[np.ndarray, "E_plus_1"]) -> Bool[np.ndarray, "n"]:
    """Marks last rows of episodes that hold an observation and nothing else: what was seen after the last action.

    Raises:
        DataError: if a row that is not the last of its episode says no action, reward and cost.
    """
    empty = np.logical_and.reduce([rows.blank[name] for name in places.acted])
    last = np.zeros(len(empty), dtype=np.bool_)
    last[bounds[1:] - 1] = True
    if (empty & ~last).any():
        row = int(np.argmax(empty & ~last))
        raise DataError(
            f"{path}: row {row} has no action, reward and cost, and its episode goes on; only the last row of an "
            "episode may hold an observation alone"
        )
    return empty


def _check_whole(path: Path, name: str, rows: Rows, only_seen: Bool[np.ndarray, "n"]) -> None:
    """Refuses values that were left out, and those that are no finite numbers."""
    left_out = rows.blank[name] & ~only_seen
    if left_out.any():
        raise DataError(
            f"{path}: column {name!r} says nothing in row {int(np.argmax(left_out))} ({int(left_out.sum())} such "
            "rows; the first row is 0); what was not measured is no zero. Leave out the whole episode, knowingly"
        )
    check_finite(f"{path}: {name}", np.where(rows.blank[name], 0.0, rows.values[name]))


def _check_steps(path: Path, rows: Rows, step: str | None, bounds: Int[np.ndarray, "E_plus_1"]) -> None:
    """Steps rise by one through every episode: rows that are missing may have had costs."""
    if step is None:
        return
    if rows.blank[step].any():
        raise DataError(f"{path}: column {step!r} says nothing in row {int(np.argmax(rows.blank[step]))}")
    rises = np.diff(rows.values[step])
    inside = np.ones(len(rises), dtype=np.bool_)
    inside[bounds[1:-1] - 1] = False
    broken = inside & ~(rises == 1)
    if broken.any():
        row = int(np.argmax(broken))
        before, after = rows.values[step][row : row + 2]
        raise DataError(
            f"{path}: {step!r} goes from {before:g} to {after:g} in rows {row} and {row + 1}, inside an episode; steps "
            "rise by one. Rows that are missing may have had costs: end the episode there, or log it whole"
        )


def _flags(path: Path, rows: Rows, name: str | None, only_seen: Bool[np.ndarray, "n"]) -> Bool[np.ndarray, "n"]:
    """A column of ends; nothing said counts as no end only in a row that has no step."""
    if name is None:
        return np.zeros(len(only_seen), dtype=np.bool_)
    left_out = rows.blank[name] & ~only_seen
    if left_out.any():
        raise DataError(f"{path}: column {name!r} says nothing in row {int(np.argmax(left_out))}; it is 0 or 1")
    return convert(f"{path}: {name}", np.where(rows.blank[name], 0.0, rows.values[name]), np.dtype(np.bool_))


def _ends(
    path: Path,
    places: _Places,
    terminals: Bool[np.ndarray, "n"],
    timeouts: Bool[np.ndarray, "n"],
    bounds: Int[np.ndarray, "E_plus_1"],
    only_seen: Bool[np.ndarray, "n"],
) -> tuple[Finding, ...]:
    """Ends stand in the last step of an episode (or in its last row) and nowhere else."""
    may = only_seen.copy()
    last_steps = bounds[1:] - 1 - only_seen[bounds[1:] - 1]
    may[last_steps] = True
    early = (terminals | timeouts) & ~may
    if early.any():
        row = int(np.argmax(early))
        raise DataError(
            f"{path}: row {row} is an end ({places.terminated}, {places.truncated}), and its episode goes on; give "
            "what follows another number"
        )
    if places.terminated is None:
        return (
            Finding(
                severity="warn",
                code="ends-unknown",
                where="the table",
                what="no column says which episodes the task itself ended; all count as ended by the clock",
                fix="Say it in a column `terminated`: an episode that crashed early must not look like a safe one.",
            ),
        )
    open_ends = (~np.logical_or.reduceat(terminals | timeouts, bounds[:-1])).sum()
    if places.truncated is not None and open_ends:
        return (
            *ends_of(terminals, timeouts, (places.terminated, places.truncated)),
            Finding(
                severity="warn",
                code="unfinished",
                where=f"{int(open_ends)} of {len(bounds) - 1} episodes",
                what="marked neither terminated nor truncated; they are kept, as truncated",
                fix="Their returns are only those of the steps logged: drop them if the recording was cut.",
            ),
        )
    return ends_of(terminals, timeouts, (places.terminated, places.truncated or "truncated"))


def _final_rows(
    path: Path,
    rows: Rows,
    places: _Places,
    observations: Float[np.ndarray, "n o"],
    stops: Int[np.ndarray, "E"],
    only_seen: Bool[np.ndarray, "n"],
    acts: Bool[np.ndarray, "n"],
    offsets: Int[np.ndarray, "E_plus_1"],
) -> tuple[Float[np.ndarray, "E o"], tuple[Finding, ...]]:
    """What was seen after each last action: in a row of its own, in the next observations, or nowhere."""
    if places.following:
        following = _float32(path, rows, places.following)[acts]
        return following[offsets[1:] - 1], continuity(observations[acts], following, offsets)
    missing = int((~only_seen[stops - 1]).sum())
    findings = (repeated_last(missing, len(stops)),) if missing else ()
    return observations[stops - 1], findings


def _float32(path: Path, rows: Rows, names: Sequence[str]) -> Float[np.ndarray, "n c"]:
    return np.stack(
        [
            convert(f"{path}: {name}", np.where(rows.blank[name], 0.0, rows.values[name]), np.dtype(np.float32))
            for name in names
        ],
        axis=1,
    )


def _group(
    rows: Rows, name: str | None, offsets: Int[np.ndarray, "E_plus_1"], acts: Bool[np.ndarray, "n"]
) -> tuple[Int[np.ndarray, "E"] | None, tuple[Finding, ...]]:
    """Which behaviour policy flew each episode, if a column says so."""
    if name is None:
        return None, ()
    values = rows.values[name][acts]
    starts = values[offsets[:-1]]
    try:
        if not np.array_equal(np.repeat(starts, np.diff(offsets)), values):
            raise DataError(f"{name} changes inside an episode, or says nothing")
        return as_group(starts), ()
    except DataError as error:
        ignored = Finding(
            severity="warn",
            code="group-ignored",
            where=name,
            what=f"cannot say which policy flew which episode: {error}",
            fix="Store one whole number a step, the same through an episode.",
        )
        return None, (ignored,)


def _unread(table: Table, known: set[str]) -> tuple[Finding, ...]:
    extra = [name for name in table.names if name not in known]
    if not extra:
        return ()
    return (
        Finding(
            severity="warn",
            code="unknown-keys",
            where=", ".join(extra[:20]) + (", ..." if len(extra) > 20 else ""),
            what="columns that nothing was said about, so not read",
            fix="Nothing to do, unless a cost or an end of episode hides under one of these names.",
        ),
    )
