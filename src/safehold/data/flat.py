"""Flat rows, one a step, as in D4RL and DSRL: an episode ends where `terminals` or `timeouts` is 1."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from safehold.core.errors import DataError
from safehold.core.spec import TaskSpec
from safehold.data import hdf5
from safehold.data.dataset import OfflineDataset, as_group, check_finite
from safehold.data.declared import Columns, check_binary, cost_places, ends_of, repeated_last, task_of
from safehold.data.findings import Finding
from safehold.data.source import Source

DSRL = "dsrl"
"""Flat rows with `costs` and `next_observations`."""

D4RL = "d4rl"
"""Flat rows without `costs` of their own: where each cost is must be known, such as `infos/cost`."""

INFO_COST = "infos/cost"
"""Where a cost is among the infos of a step, in D4RL and Minari."""

_FLOAT32, _FLOAT64, _FLAG = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.bool_)
_ROWS: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {
        "observations": _FLOAT32,
        "next_observations": _FLOAT32,
        "actions": _FLOAT32,
        "rewards": _FLOAT64,
        "terminals": _FLAG,
        "timeouts": _FLAG,
    }
)
_WIDE = frozenset({"observations", "next_observations", "actions"})
_GROUP_KEYS = ("group", "policy_seed", "policy_id")
"""Extra keys that name the behaviour policy of a step; the first that is there becomes `group`."""


def layout_of(source: Source) -> str | None:
    """DSRL or D4RL, None if these are no flat rows."""
    if not {"observations", "rewards", "costs"} & set(source.names):
        return None
    if "costs" in source.names or ("next_observations" in source.names and "infos" not in source.groups):
        return DSRL
    return D4RL


def read_flat(source: Source, spec: TaskSpec | None, columns: Columns) -> tuple[OfflineDataset, tuple[Finding, ...]]:
    """The dataset in flat rows, with what is worth saying about it.

    Raises:
        DataError: if an array is missing or does not fit the others, or no step is marked as an end.
    """
    layout = layout_of(source) or DSRL
    given = _written_task(source) if spec is None else spec
    places = _cost_places(source, given, columns, layout)
    followed = layout == DSRL or source.has("next_observations")
    wanted = {name: dtype for name, dtype in _ROWS.items() if followed or name != "next_observations"}
    wanted |= dict.fromkeys(places.values(), _FLOAT64)
    steps = _check_rows(source, wanted)
    arrays, findings = source.arrays(wanted)
    arrays = {name: values.reshape((steps, -1) if name in _WIDE else (steps,)) for name, values in arrays.items()}
    for name, values in arrays.items():
        check_finite(f"{source.path}: {name}", values)

    offsets, terminated, end_findings = _episodes(source.path, arrays["terminals"], arrays["timeouts"])
    if followed:
        final = arrays["next_observations"][offsets[1:] - 1]
        last = continuity(arrays["observations"], arrays["next_observations"], offsets)
    else:
        final = arrays["observations"][offsets[1:] - 1]
        last = (repeated_last(len(final), len(final)),)
    group, group_findings = _group(source, offsets, {*wanted, *(name.split("/")[0] for name in wanted)})
    costs = {name: arrays[place] for name, place in places.items()}
    check_binary(source.path, columns, costs)
    task, task_findings = task_of(
        given,
        columns,
        tuple(places),
        arrays["observations"].shape[1],
        arrays["actions"],
        int(np.diff(offsets).max()),
    )
    dataset = OfflineDataset(
        spec=task,
        observations=np.insert(arrays["observations"], offsets[1:], final, axis=0),
        actions=arrays["actions"],
        rewards=arrays["rewards"],
        costs=np.stack(list(costs.values()), axis=1),
        offsets=offsets,
        terminated=terminated,
        group=group,
        provenance=_provenance(source, layout, places),
    )
    return dataset, (*findings, *end_findings, *last, *group_findings, *task_findings)


def _written_task(source: Source) -> TaskSpec | None:
    """The task as `write_dsrl` wrote it beside the arrays."""
    text = source.text("safehold_spec")
    return None if text is None else TaskSpec.of_json(hdf5.parsed(source.path, "safehold_spec", text))


def _cost_places(source: Source, spec: TaskSpec | None, columns: Columns, layout: str) -> dict[str, str]:
    """Name of each cost -> its array."""
    if layout == D4RL and columns.costs is None and not source.has(INFO_COST):
        raise DataError(
            f"{source.path}: no array costs; the file has {', '.join(source.names)}. D4RL files have no cost of their "
            f"own, and no cost is no zero: say in which array it is, such as costs = {{cost = {INFO_COST!r}}}"
        )
    return cost_places(columns, spec, "costs" if layout == DSRL else INFO_COST)


def _check_rows(source: Source, wanted: Mapping[str, np.dtype[Any]]) -> int:
    """The common number of rows N, from what the arrays claim, before anything is read."""
    shapes = {name: source.shape(name) for name in wanted}
    for name, shape in shapes.items():
        flat = len(shape) == 1 or (len(shape) == 2 and (name in _WIDE or shape[1] == 1))
        if not flat or 0 in shape[1:]:
            expected = "(steps, columns)" if name in _WIDE else "(steps,)"
            raise DataError(f"{source.path}: {name} has shape {shape}, expected {expected}")
    steps = shapes["observations"][0]
    for name, shape in shapes.items():
        if shape[0] != steps:
            raise DataError(
                f"{source.path}: {name} has {shape[0]} rows, observations has {steps}; every array has one row a step. "
                "The file was cut, or written by a program that stopped half way"
            )
    if shapes.get("next_observations", shapes["observations"]) != shapes["observations"]:
        raise DataError(
            f"{source.path}: next_observations has shape {shapes['next_observations']}, observations "
            f"{shapes['observations']}; they must be equal"
        )
    if steps == 0:
        raise DataError(f"{source.path}: the arrays have no rows")
    return steps


def _episodes(
    path: Path, terminals: Bool[np.ndarray, "N"], timeouts: Bool[np.ndarray, "N"]
) -> tuple[Int[np.ndarray, "E_plus_1"], Bool[np.ndarray, "E"], tuple[Finding, ...]]:
    """Offsets and terminated marks; a step marked both ways counts as terminated; a tail without end is kept."""
    ends = np.flatnonzero(terminals | timeouts)
    if len(ends) == 0:
        raise DataError(
            f"{path}: no step is marked in terminals or timeouts, so no episode can be told from the next; mark the "
            "last step of every episode"
        )
    findings = list(ends_of(terminals, timeouts, ("terminals", "timeouts")))
    if ends[-1] != len(terminals) - 1:
        findings.append(
            Finding(
                severity="warn",
                code="unfinished",
                where=f"rows {ends[-1] + 1} to {len(terminals) - 1}",
                what="the last episode has no end; it is kept, as truncated",
                fix="Its returns are only those of the steps logged: drop it if the recording was cut.",
            )
        )
        ends = np.append(ends, len(terminals) - 1)
    return np.concatenate([[0], ends + 1]).astype(np.int64), terminals[ends], tuple(findings)


def continuity(
    observations: Float[np.ndarray, "N o"], following: Float[np.ndarray, "N o"], offsets: Int[np.ndarray, "E_plus_1"]
) -> tuple[Finding, ...]:
    """Inside an episode the next observation of a step is the observation of the next step."""
    inside = np.ones(len(observations), dtype=np.bool_)
    inside[offsets[1:] - 1] = False
    rows = np.flatnonzero(inside)
    if len(rows) == 0:
        return ()
    jumps = np.abs(following[rows].astype(np.float64) - observations[rows + 1])
    # 1e-6 of the value is what one more rounding to float32 may do
    broken = (jumps > 1e-6 * np.maximum(1.0, np.abs(observations[rows + 1]))).any(axis=1)
    if not broken.any():
        return ()
    first = int(rows[np.argmax(broken)])
    spread = np.std(observations, axis=0, dtype=np.float64)
    largest = float(np.max(jumps / np.where(spread > 0, spread, 1.0)))
    same = bool(np.array_equal(following[rows], observations[rows]))
    what = (
        "next_observations equals observations in every row"
        if same
        else f"{int(broken.sum())} of {len(rows)} steps do not continue in the following row; the largest jump is "
        f"{largest:.3g} standard deviations of its column"
    )
    return (
        Finding(
            severity="warn",
            code="discontinuous",
            where=f"next_observations[{first}] and observations[{first + 1}]",
            what=what,
            fix="Steps may be missing, or an end of episode: only the last next observation of an episode is used.",
        ),
    )


def _group(
    source: Source, offsets: Int[np.ndarray, "E_plus_1"], read: set[str]
) -> tuple[Int[np.ndarray, "E"] | None, tuple[Finding, ...]]:
    """Which behaviour policy flew each episode, if an extra key says so; and a warning for keys that are not read."""
    known = dict.fromkeys({*read, "infos", "metadata"} if "costs" not in read else read)
    name = next((key for key in _GROUP_KEYS if key in source.names), None)
    if name is None:
        return None, hdf5.unknown_keys(source, known)
    known[name] = None
    try:
        if source.shape(name) != (int(offsets[-1]),):
            raise DataError(f"{name} has shape {source.shape(name)}, expected one value a step")
        values = source.arrays({name: np.dtype(np.int64)})[0][name]
        starts = values[offsets[:-1]]
        if not np.array_equal(np.repeat(starts, np.diff(offsets)), values):
            raise DataError(f"{name} changes inside an episode")
        group = as_group(starts)
    except DataError as error:
        ignored = Finding(
            severity="warn",
            code="group-ignored",
            where=name,
            what=f"cannot say which policy flew which episode: {error}",
            fix="Store one whole number a step, the same through an episode.",
        )
        return None, (ignored, *hdf5.unknown_keys(source, known))
    taken = Finding(
        severity="note",
        code="group-taken",
        where=name,
        what=f"constant in every episode; kept as the group of the episode ({len(np.unique(group))} groups)",
        fix="Nothing to do.",
    )
    return group, (taken, *hdf5.unknown_keys(source, known))


def _provenance(source: Source, layout: str, places: Mapping[str, str]) -> dict[str, Any]:
    """Where the data came from: the file, and what the file itself says about it."""
    provenance: dict[str, Any] = {"layout": layout, "file": source.path.name, "sha256": source.sha256}
    if tuple(places.values()) != ("costs",):
        provenance["costs"] = dict(places)
    text = source.text("safehold_provenance")
    if text is not None:
        provenance["origin"] = hdf5.parsed(source.path, "safehold_provenance", text)
    else:
        with contextlib.suppress(DataError):  # a `source` that is no text is the file's own affair
            provenance["source"] = source.text("source")
    return {name: value for name, value in provenance.items() if value is not None}
