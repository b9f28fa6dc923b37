"""Minari datasets, one group an episode: read by ourselves, because Minari makes what their metadata names."""

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from safehold.core.errors import DataError, ResourceError
from safehold.core.spec import Box, Discrete, TaskSpec
from safehold.data import hdf5
from safehold.data.dataset import OfflineDataset, check_finite
from safehold.data.declared import Columns, check_binary, cost_places, ends_of, task_of
from safehold.data.findings import Finding
from safehold.data.flat import INFO_COST
from safehold.data.guard import GuardedFile, gigabytes
from safehold.data.minari_metadata import METADATA_FILE, Metadata, check_inside, read_metadata

MINARI = "minari"
"""Minari's layout on disk: main_data.hdf5 with the groups episode_0, episode_1, ..., and metadata.json beside it."""

MAIN_FILE = "main_data.hdf5"

_EPISODE = re.compile(r"episode_(0|[1-9][0-9]{0,8})")
_FLOAT32, _FLOAT64, _FLAG = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.bool_)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """The arrays that are read of every episode, by their paths in it."""

    observations: tuple[str, ...]
    costs: Mapping[str, str]

    @property
    def wanted(self) -> dict[str, np.dtype[Any]]:
        """Path -> the type that is kept."""
        kept: dict[str, np.dtype[Any]] = dict.fromkeys(self.observations, _FLOAT32)
        kept |= {"actions": _FLOAT32, "rewards": _FLOAT64, "terminations": _FLAG, "truncations": _FLAG}
        return kept | dict.fromkeys(self.costs.values(), _FLOAT64)


def main_file(directory: Path) -> Path:
    """The episodes of a Minari dataset, given its directory or the `data` in it.

    Raises:
        DataError: if there is no such file, or it is a link out of the directory.
    """
    for place in (directory, directory / "data"):
        path = place / MAIN_FILE
        if path.is_file():
            check_inside(path)
            return path
    raise DataError(
        f"{directory} is a directory without {MAIN_FILE} or data/{MAIN_FILE}; give a file of episodes, or the "
        "directory of a Minari dataset in HDF5"
    )


def read_minari(
    file: GuardedFile, spec: TaskSpec | None, columns: Columns
) -> tuple[OfflineDataset, tuple[Finding, ...]]:
    """The dataset in an open `main_data.hdf5`, with the metadata beside it.

    Raises:
        DataError: if the metadata is missing or not plain, a space is missing or of a kind that is not read, an
            episode or a cost is missing, or lengths do not fit.
        ResourceError: if the arrays claim more memory than the budget, or the metadata is longer than any.
    """
    metadata = read_metadata(file.path.parent / METADATA_FILE, needed=spec is None)
    episodes = _episodes(file, metadata)
    costs = cost_places(columns, spec, INFO_COST)
    seen = ("observations",) if metadata.observation is None else tuple(leaf.path for leaf in metadata.observation)
    layout = _Layout(observations=seen, costs=costs)
    lengths = _check_shapes(file, episodes, layout)
    if metadata.steps is not None and metadata.steps != lengths.sum():
        raise DataError(
            f"{file.path}: holds {lengths.sum()} steps, its metadata says {metadata.steps}; fetch both again"
        )
    arrays, findings = file.arrays(
        {f"{episode}/{path}": dtype for episode in episodes for path, dtype in layout.wanted.items()}
    )
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    rows = {path: [arrays.pop(f"{episode}/{path}") for episode in episodes] for path in layout.wanted}
    observations = np.concatenate([_flat(rows[path]) for path in layout.observations], axis=1)
    actions = _flat(rows["actions"])
    _check_sizes(file.path, metadata, observations, actions)
    if metadata.action is not None and metadata.action.start:
        actions = (actions - metadata.action.start).astype(np.float32)
    terminals, timeouts = (_flat(rows[name]).reshape(-1) for name in ("terminations", "truncations"))
    ends = offsets[1:] - 1
    _check_ends(file.path, episodes, terminals | timeouts, offsets)
    cost_values, reset_findings = _costs(rows, costs, lengths)
    for name, values in {"observations": observations, "actions": actions, **cost_values}.items():
        check_finite(f"{file.path}: {name}", values)
    check_binary(file.path, columns, cost_values)
    task, task_findings = _task(spec, columns, metadata, costs, observations, actions, int(lengths.max()))
    dataset = OfflineDataset(
        spec=task,
        observations=observations,
        actions=actions,
        rewards=np.concatenate(rows["rewards"]).reshape(-1),
        costs=np.stack(list(cost_values.values()), axis=1),
        offsets=offsets,
        terminated=terminals[ends],
        provenance=_provenance(file, metadata, layout),
    )
    return dataset, (
        *_collapsed(findings),
        *ends_of(terminals, timeouts, ("terminations", "truncations")),
        *_unfinished(int((~(terminals | timeouts)[ends]).sum()), len(ends)),
        *reset_findings,
        *task_findings,
        *_named(metadata),
        *hdf5.unknown_keys(file, dict.fromkeys(episodes)),
    )


def _episodes(file: GuardedFile, metadata: Metadata) -> tuple[str, ...]:
    """The groups of all episodes, in order; none may be missing."""
    numbers = sorted(int(fits.group(1)) for name in file.groups if (fits := _EPISODE.fullmatch(name)))
    for place, number in enumerate(numbers):
        if number != place:
            raise DataError(
                f"{file.path}: there is no group episode_{place}, but episode_{number}; episodes are missing"
            )
    if metadata.episodes is not None and metadata.episodes != len(numbers):
        raise DataError(
            f"{file.path}: holds {len(numbers)} episodes, its metadata says {metadata.episodes}; fetch both again"
        )
    return tuple(f"episode_{number}" for number in numbers)


def _check_shapes(file: GuardedFile, episodes: tuple[str, ...], layout: _Layout) -> np.ndarray:
    """Steps of each episode, from what the arrays claim, before anything is read."""
    lengths = np.empty(len(episodes), dtype=np.int64)
    widths: dict[str, tuple[int, ...]] = {}
    claim = 0
    for i, episode in enumerate(episodes):
        for path in layout.costs.values():
            if not file.has(f"{episode}/{path}"):
                raise DataError(_no_cost(file, episode, path))
        shapes = {path: file.shape(f"{episode}/{path}") for path in layout.wanted}
        if shapes["rewards"] in ((), (0,)) or any(not shape for shape in shapes.values()):
            raise DataError(
                f"{file.path}: {episode} has rewards of shape {shapes['rewards']}; it needs at least a step"
            )
        steps = lengths[i] = shapes["rewards"][0]
        for path, shape in shapes.items():
            _check_length(file.path, episode, path, shape, steps, layout)
            if widths.setdefault(path, shape[1:]) != shape[1:]:
                raise DataError(
                    f"{file.path}: {path} of {episode} have {shape[1:]} values a row, those of episode_0 {widths[path]}"
                )
            claim += math.prod(shape) * (8 + 2 * layout.wanted[path].itemsize)
    if claim > file.budget:
        raise ResourceError(
            f"{file.path}: its episodes claim {gigabytes(claim)} of memory; the budget is {gigabytes(file.budget)}. If "
            "the claim is true, give a larger budget or split the dataset"
        )
    return lengths


def _check_length(path: Path, episode: str, name: str, shape: tuple[int, ...], steps: int, layout: _Layout) -> None:
    expected: tuple[int, ...] = (steps,)
    if name in layout.observations:
        expected = (steps + 1,)
    elif name in layout.costs.values():
        expected = (steps, steps + 1)
    if shape[0] not in expected:
        raise DataError(
            f"{path}: {name} of {episode} has {shape[0]} rows, rewards {steps}; expected "
            f"{' or '.join(map(str, expected))}: one row a step, and one more observation"
        )
    wide = name in layout.observations or name == "actions"
    if 0 in shape[1:] or (not wide and math.prod(shape[1:]) != 1):
        raise DataError(f"{path}: {name} of {episode} has shape {shape}, expected one value a step")


def _no_cost(file: GuardedFile, episode: str, path: str) -> str:
    """Why there is no cost, and where one may be."""
    if file.has(f"{episode}/infos"):
        return (
            f"{file.path}: {episode} keeps its infos as text, which is not read (texts of varying length lie in a heap "
            "without checksum); write each cost as an array with one value a step"
        )
    prefix = f"{episode}/"
    there = [name.removeprefix(prefix) for name in file.arrays_under(episode)]
    near = difflib.get_close_matches(path, there, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(there[:20])}"
    return (
        f"{file.path}: {episode} has no array {path}; {hint} No cost is no zero: say in which array it is, such as "
        f"costs = {{cost = {INFO_COST!r}}}"
    )


def _flat(parts: list[np.ndarray]) -> np.ndarray:
    """All episodes' rows, one after the other, one row flat."""
    return np.concatenate([values.reshape(len(values), -1) for values in parts])


def _check_sizes(path: Path, metadata: Metadata, observations: np.ndarray, actions: np.ndarray) -> None:
    if metadata.observation is not None:
        size = sum(leaf.size for leaf in metadata.observation)
        if observations.shape[1] != size:
            raise DataError(f"{path}: observations have {observations.shape[1]} values, their space {size}")
    if metadata.action is not None and actions.shape[1] != metadata.action.size:
        raise DataError(f"{path}: actions have {actions.shape[1]} values, their space {metadata.action.size}")


def _check_ends(path: Path, episodes: tuple[str, ...], ends: np.ndarray, offsets: np.ndarray) -> None:
    """An end stands at the last step of its episode and nowhere else."""
    early = ends.copy()
    early[offsets[1:] - 1] = False
    if early.any():
        row = int(np.argmax(early))
        i = int(np.searchsorted(offsets, row, side="right")) - 1
        raise DataError(
            f"{path}: {episodes[i]} is marked as ended at step {row - offsets[i]}, and has "
            f"{offsets[i + 1] - offsets[i]} steps; nothing follows an end"
        )


def _costs(
    rows: Mapping[str, list[np.ndarray]], costs: Mapping[str, str], lengths: np.ndarray
) -> tuple[dict[str, Float[np.ndarray, "N"]], tuple[Finding, ...]]:
    """Each named cost of all steps. Infos have one row more than steps if that of the reset was recorded."""
    values: dict[str, np.ndarray] = {}
    findings = []
    for name, path in costs.items():
        parts = [part.reshape(-1) for part in rows[path]]
        at_reset = [i for i, part in enumerate(parts) if len(part) > lengths[i] and part[0] != 0]
        values[name] = np.concatenate([part[len(part) - n :] for part, n in zip(parts, lengths, strict=True)])
        if at_reset:
            findings.append(
                Finding(
                    severity="warn",
                    code="cost-at-reset",
                    where=f"cost {name!r}, episode {at_reset[0]}",
                    what=f"{len(at_reset)} episodes have a cost in the infos of their reset, before the first action; "
                    "it is of no step, so not counted",
                    fix="Ask what it means: if it belongs to the step before, the costs of all steps are one row late.",
                )
            )
    return values, tuple(findings)


def _task(
    spec: TaskSpec | None,
    columns: Columns,
    metadata: Metadata,
    costs: Mapping[str, str],
    observations: np.ndarray,
    actions: np.ndarray,
    longest: int,
) -> tuple[TaskSpec, tuple[Finding, ...]]:
    """The task as given, or as the metadata says; bounds that are not finite come from the data."""
    derived, findings = task_of(spec, columns, tuple(costs), observations.shape[1], actions, longest)
    if spec is not None or metadata.action is None:
        return derived, findings
    action: Box | Discrete = derived.action
    if metadata.action.n is not None:
        action = Discrete(metadata.action.n)
    elif metadata.action.low is not None and metadata.action.high is not None:
        bounds = np.array([metadata.action.low, metadata.action.high])
        if np.isfinite(bounds).all():
            action, findings = Box(metadata.action.low, metadata.action.high), ()
    return (
        TaskSpec(
            env_id=columns.env_id if columns.env_id != "unknown" else metadata.environment or "unknown",
            observation_size=derived.observation_size,
            action=action,
            horizon=columns.horizon or max(metadata.horizon or 0, longest),
            cost_names=derived.cost_names,
            cost_units=derived.cost_units,
        ),
        (*(findings if isinstance(action, Box) else ()), *_outlasted(columns, metadata, longest)),
    )


def _outlasted(columns: Columns, metadata: Metadata, longest: int) -> tuple[Finding, ...]:
    if columns.horizon or metadata.horizon is None or longest <= metadata.horizon:
        return ()
    return (
        Finding(
            severity="warn",
            code="horizon-outlasted",
            where=METADATA_FILE,
            what=f"it says that episodes end after {metadata.horizon} steps, the longest has {longest}; that is the "
            "horizon now",
            fix="Say which is right with --columns.horizon: limits are on the cost of a whole episode.",
        ),
    )


def _unfinished(count: int, of: int) -> tuple[Finding, ...]:
    if not count:
        return ()
    return (
        Finding(
            severity="warn",
            code="unfinished",
            where=f"{count} of {of} episodes",
            what="marked neither terminated nor truncated; they are kept, as truncated",
            fix="Their returns are only those of the steps logged: drop them if the recording was cut.",
        ),
    )


def _named(metadata: Metadata) -> tuple[Finding, ...]:
    if metadata.environment is None:
        return ()
    return (
        Finding(
            severity="note",
            code="environment-named",
            where=METADATA_FILE,
            what=f"it names the environment {metadata.environment!r}, which was neither imported nor made",
            fix="Nothing to do: episodes are all that is read.",
        ),
    )


def _collapsed(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """One finding a kind and array, though every episode has its own."""
    first: dict[tuple[str, str], Finding] = {}
    for finding in findings:
        first.setdefault((finding.code, finding.where.partition("/")[2]), finding)
    return tuple(first.values())


def _provenance(file: GuardedFile, metadata: Metadata, layout: _Layout) -> dict[str, Any]:
    said = {
        "layout": MINARI,
        "file": file.path.name,
        "sha256": file.sha256,
        "metadata_sha256": metadata.sha256,
        "dataset_id": metadata.dataset_id,
        "environment": metadata.environment,
        "observations": list(layout.observations),
        "costs": dict(layout.costs),
    }
    return {name: value for name, value in said.items() if value is not None}
