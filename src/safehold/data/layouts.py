"""Files in other people's layouts, recognised by their content and read into ours."""

import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from safehold.core.errors import DataError, UsageError
from safehold.core.spec import Box, TaskSpec
from safehold.data import hdf5
from safehold.data.dataset import OfflineDataset, as_group, check_finite
from safehold.data.findings import Finding
from safehold.data.guard import BUDGET, GuardedFile, opened

log = logging.getLogger(__name__)

DSRL = "dsrl"
"""Flat rows, one a step, as in D4RL and DSRL: an episode ends where `terminals` or `timeouts` is 1."""

_FLOAT32, _FLOAT64, _FLAG = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.bool_)
_DSRL_ARRAYS: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {
        "observations": _FLOAT32,
        "next_observations": _FLOAT32,
        "actions": _FLOAT32,
        "rewards": _FLOAT64,
        "costs": _FLOAT64,
        "terminals": _FLAG,
        "timeouts": _FLAG,
    }
)
_GROUP_KEYS = ("group", "policy_seed", "policy_id")
"""Extra keys that name the behaviour policy of a step; the first that is there becomes `group`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A file as it was read: its layout, its dataset, and what is worth saying about how they met."""

    layout: str
    sha256: str
    dataset: OfflineDataset
    findings: tuple[Finding, ...]


def read_any(path: Path, *, spec: TaskSpec | None = None, budget: int = BUDGET) -> OfflineDataset:
    """The dataset in a file of any layout we know; warnings go to the log.

    `spec` is the task the data is of. A file in our layout brings its own, which must be equal; a foreign file
    without one gets a spec that is derived from its arrays.

    Raises:
        DataError: if the file is in no layout we know, or breaks a rule of its layout.
        IntegrityError: if stored bytes are damaged.
        ResourceError: if the file claims more memory than `budget`, in bytes.
    """
    reading = read_with_findings(path, spec=spec, budget=budget)
    for finding in reading.findings:
        if finding.severity != "note":
            log.warning("%s: %s: %s. %s", path, finding.where, finding.what, finding.fix)
    return reading.dataset


def read_with_findings(path: Path, *, spec: TaskSpec | None = None, budget: int = BUDGET) -> Reading:
    """Like `read_any`, with the findings instead of log lines."""
    with opened(path, budget) as file:
        layout = _layout_of(file)
        dataset, findings = _READERS[layout](file, spec)
    return Reading(layout=layout, sha256=file.sha256, dataset=dataset, findings=findings)


def write_dsrl(path: Path, dataset: OfflineDataset, *, cost: str | None = None, overwrite: bool = False) -> None:
    """Writes flat rows for programs that read DSRL's layout; `read_any` gives the same dataset back.

    The layout has room for one cost: name it if the dataset has several; the others are left out.

    Raises:
        UsageError: if the path exists and may not be overwritten, or no single cost is named.
    """
    names = dataset.spec.cost_names
    if cost not in (names if len(names) > 1 else (None, *names)):
        raise UsageError(f"cost={cost!r}: the DSRL layout holds one cost; name one of {names}")
    column = 0 if cost is None else names.index(cost)
    spec = replace(dataset.spec, cost_names=(names[column],), cost_units=(dataset.spec.cost_units[column],))
    rows = np.arange(dataset.n_steps) + np.repeat(np.arange(len(dataset)), dataset.lengths)
    ends = np.zeros((2, dataset.n_steps), dtype=np.bool_)
    ends[0, dataset.offsets[1:] - 1] = dataset.terminated
    ends[1, dataset.offsets[1:] - 1] = ~dataset.terminated
    arrays = {
        "observations": dataset.observations[rows],
        "next_observations": dataset.observations[rows + 1],
        "actions": dataset.actions,
        "rewards": dataset.rewards,
        "costs": dataset.costs[:, column],
        "terminals": ends[0],
        "timeouts": ends[1],
    }
    if dataset.group is not None:
        arrays["group"] = np.repeat(dataset.group, dataset.lengths)
    with hdf5.replacing(path, overwrite=overwrite) as file:
        hdf5.header(file, "safehold_spec", hdf5.canonical(spec.to_json()))
        hdf5.header(file, "safehold_provenance", hdf5.canonical(dataset.provenance))
        for name, values in arrays.items():
            hdf5.store(file, name, values)


def _layout_of(file: GuardedFile) -> str:
    if file.text("format") == hdf5.FORMAT:
        return hdf5.FORMAT
    if {"observations", "rewards", "costs"} & set(file.names):
        return DSRL
    if "episode_0" in file.groups:
        raise DataError(f"{file.path}: looks like a Minari dataset (one group an episode), which is not read yet")
    raise DataError(
        f"{file.path}: no layout we know; the file has arrays {list(file.names)} and groups {list(file.groups)[:10]}. "
        f"Expected either the attribute format={hdf5.FORMAT!r} or the arrays {', '.join(_DSRL_ARRAYS)}"
    )


def _read_ours(file: GuardedFile, spec: TaskSpec | None) -> tuple[OfflineDataset, tuple[Finding, ...]]:
    dataset, findings = hdf5.read_opened(file)
    if spec is not None and spec != dataset.spec:
        raise DataError(f"{file.path}: the file is of the task {dataset.spec}, asked for was {spec}")
    return dataset, findings


def _read_dsrl(file: GuardedFile, spec: TaskSpec | None) -> tuple[OfflineDataset, tuple[Finding, ...]]:
    steps = _check_rows(file)
    arrays, findings = file.arrays(_DSRL_ARRAYS)
    for name in ("rewards", "costs", "terminals", "timeouts"):
        arrays[name] = arrays[name].reshape(steps)
    for name in ("observations", "next_observations", "actions"):
        arrays[name] = arrays[name].reshape(steps, -1)
    for name in ("observations", "next_observations", "actions", "rewards", "costs"):
        check_finite(f"{file.path}: {name}", arrays[name])

    offsets, terminated, end_findings = _episodes(file.path, arrays["terminals"], arrays["timeouts"])
    group, group_findings = _group(file, offsets)
    task, task_findings = _task(file, spec, arrays, offsets)
    dataset = OfflineDataset(
        spec=task,
        observations=_with_final_rows(arrays["observations"], arrays["next_observations"], offsets),
        actions=arrays["actions"],
        rewards=arrays["rewards"],
        costs=arrays["costs"].reshape(steps, 1),
        offsets=offsets,
        terminated=terminated,
        group=group,
        provenance=_provenance(file),
    )
    continuity = _continuity(arrays["observations"], arrays["next_observations"], offsets)
    return dataset, (*findings, *end_findings, *continuity, *group_findings, *task_findings)


_READERS: Mapping[str, Callable[[GuardedFile, TaskSpec | None], tuple[OfflineDataset, tuple[Finding, ...]]]] = {
    hdf5.FORMAT: _read_ours,
    DSRL: _read_dsrl,
}


def _check_rows(file: GuardedFile) -> int:
    """The common number of rows N, from what the arrays claim, before anything is read."""
    shapes = {name: file.shape(name) for name in _DSRL_ARRAYS}
    most = {"observations": 2, "next_observations": 2, "actions": 2}
    for name, shape in shapes.items():
        flat = len(shape) == 1 or (len(shape) == 2 and (name in most or shape[1] == 1))
        if not flat or 0 in shape[1:]:
            expected = "(steps, columns)" if name in most else "(steps,)"
            raise DataError(f"{file.path}: {name} has shape {shape}, expected {expected}")
    steps = shapes["observations"][0]
    for name, shape in shapes.items():
        if shape[0] != steps:
            raise DataError(
                f"{file.path}: {name} has {shape[0]} rows, observations has {steps}; every array has one row a step. "
                "The file was cut, or written by a program that stopped half way"
            )
    if shapes["next_observations"] != shapes["observations"]:
        raise DataError(
            f"{file.path}: next_observations has shape {shapes['next_observations']}, observations "
            f"{shapes['observations']}; they must be equal"
        )
    if steps == 0:
        raise DataError(f"{file.path}: the arrays have no rows")
    return steps


def _episodes(
    path: Path, terminals: Bool[np.ndarray, "N"], timeouts: Bool[np.ndarray, "N"]
) -> tuple[Int[np.ndarray, "E_plus_1"], Bool[np.ndarray, "E"], tuple[Finding, ...]]:
    """Offsets and terminated marks; a step marked both ways counts as terminated; a tail without end is kept."""
    findings = []
    ends = np.flatnonzero(terminals | timeouts)
    if len(ends) == 0:
        raise DataError(
            f"{path}: no step is marked in terminals or timeouts, so no episode can be told from the next; mark the "
            "last step of every episode"
        )
    both = np.flatnonzero(terminals & timeouts)
    if len(both):
        findings.append(
            Finding(
                severity="warn",
                code="ends-twice",
                where=f"terminals, timeouts [{both[0]}]",
                what=f"{len(both)} steps are marked in both; they count as terminated",
                fix="If the clock ended these episodes, clear their terminals: nothing is expected to follow those.",
            )
        )
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


def _with_final_rows(
    observations: Float[np.ndarray, "N o"], following: Float[np.ndarray, "N o"], offsets: Int[np.ndarray, "E_plus_1"]
) -> Float[np.ndarray, "N_plus_E o"]:
    """Each episode's observations, and behind them what was seen after its last action."""
    return np.insert(observations, offsets[1:], following[offsets[1:] - 1], axis=0)


def _continuity(
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
    file: GuardedFile, offsets: Int[np.ndarray, "E_plus_1"]
) -> tuple[Int[np.ndarray, "E"] | None, tuple[Finding, ...]]:
    """Which behaviour policy flew each episode, if an extra key says so; and a warning for keys that are not read."""
    known: dict[str, Any] = dict(_DSRL_ARRAYS)
    name = next((key for key in _GROUP_KEYS if key in file.names), None)
    if name is None:
        return None, hdf5.unknown_keys(file, known)
    known[name] = None
    try:
        if file.shape(name) != (int(offsets[-1]),):
            raise DataError(f"{name} has shape {file.shape(name)}, expected one value a step")
        values = file.arrays({name: np.dtype(np.int64)})[0][name]
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
        return None, (ignored, *hdf5.unknown_keys(file, known))
    taken = Finding(
        severity="note",
        code="group-taken",
        where=name,
        what=f"constant in every episode; kept as the group of the episode ({len(np.unique(group))} groups)",
        fix="Nothing to do.",
    )
    return group, (taken, *hdf5.unknown_keys(file, known))


def _task(
    file: GuardedFile, spec: TaskSpec | None, arrays: Mapping[str, np.ndarray], offsets: Int[np.ndarray, "E_plus_1"]
) -> tuple[TaskSpec, tuple[Finding, ...]]:
    """The task: as asked, as written in the file by `write_dsrl`, or derived from the arrays."""
    if spec is not None:
        return spec, ()
    text = file.text("safehold_spec")
    if text is not None:
        return TaskSpec.of_json(hdf5.parsed(file.path, "safehold_spec", text)), ()
    actions = arrays["actions"]
    low = np.minimum(actions.min(axis=0), -1.0)
    high = np.maximum(actions.max(axis=0), 1.0)
    derived = TaskSpec(
        env_id="unknown",
        observation_size=arrays["observations"].shape[1],
        action=Box(tuple(float(bound) for bound in low), tuple(float(bound) for bound in high)),
        horizon=int(np.diff(offsets).max()),
    )
    finding = Finding(
        severity="note",
        code="task-derived",
        where="the file",
        what="it does not say what task it is of: bounds of actions are [-1, 1], wider where the data is, and the "
        f"horizon is the longest episode, {derived.horizon} steps",
        fix="Give the spec of the task when you convert the file, with what one unit of cost means.",
    )
    return derived, (finding,)


def _provenance(file: GuardedFile) -> dict[str, Any]:
    """Where the data came from: the file, and what the file itself says about it."""
    provenance: dict[str, Any] = {"layout": DSRL, "file": file.path.name, "sha256": file.sha256}
    text = file.text("safehold_provenance")
    if text is not None:
        provenance["origin"] = hdf5.parsed(file.path, "safehold_provenance", text)
    else:
        with contextlib.suppress(DataError):  # a `source` that is no text is the file's own affair
            provenance["source"] = file.text("source")
    return {name: value for name, value in provenance.items() if value is not None}
