"""Files in other people's layouts, recognised by their content and read into ours."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from safehold.core.errors import DataError, UsageError
from safehold.core.spec import TaskSpec
from safehold.data import csv_table, hdf5, npz, parquet_table
from safehold.data.dataset import OfflineDataset
from safehold.data.declared import Columns
from safehold.data.findings import Finding
from safehold.data.flat import layout_of, read_flat
from safehold.data.guard import BUDGET, opened
from safehold.data.minari import MINARI, main_file, read_minari
from safehold.data.source import Source, first_bytes
from safehold.data.tables import Table, read_table

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A file as it was read: its layout, its dataset, and what is worth saying about how they met."""

    layout: str
    sha256: str
    dataset: OfflineDataset
    findings: tuple[Finding, ...]


def read_any(
    path: Path, *, spec: TaskSpec | None = None, columns: Columns | None = None, budget: int = BUDGET
) -> OfflineDataset:
    """The dataset in a file of any layout we know; warnings go to the log.

    `spec` is the task the data is of. A file in our layout brings its own, which must be equal; a foreign file
    without one gets a spec that is derived from its arrays. `columns` says where everything is in a foreign file.

    Raises:
        DataError: if the file is in no layout we know, or breaks a rule of its layout.
        IntegrityError: if stored bytes are damaged.
        ResourceError: if the file claims more memory than `budget`, in bytes.
    """
    reading = read_with_findings(path, spec=spec, columns=columns, budget=budget)
    for finding in reading.findings:
        if finding.severity != "note":
            log.warning("%s: %s: %s. %s", path, finding.where, finding.what, finding.fix)
    return reading.dataset


def read_with_findings(
    path: Path, *, spec: TaskSpec | None = None, columns: Columns | None = None, budget: int = BUDGET
) -> Reading:
    """Like `read_any`, with the findings instead of log lines."""
    declared = Columns() if columns is None else columns
    if path.is_dir():
        path = main_file(path)
    start = first_bytes(path)
    if start.startswith(npz.MAGIC):
        return _read_npz(path, spec, declared, budget)
    if start.startswith(parquet_table.MAGIC):
        with parquet_table.opened_parquet(path, budget) as table:
            return _read_table(table, spec, declared, "parquet")
    if path.suffix.lower() in csv_table.SUFFIXES:
        delimiter = "\t" if path.suffix.lower() == ".tsv" and declared.delimiter == "," else declared.delimiter
        with csv_table.opened_csv(path, delimiter, budget) as table:
            return _read_table(table, spec, declared, "csv")
    return _read_hdf5(path, spec, columns, budget)


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


def _read_hdf5(path: Path, spec: TaskSpec | None, columns: Columns | None, budget: int) -> Reading:
    with opened(path, budget) as file:
        if file.text("format") == hdf5.FORMAT:
            layout = hdf5.FORMAT
            dataset, findings = hdf5.read_opened(file)
            _check_own(path, dataset.spec, spec, columns)
        elif "episode_0" in file.groups:
            layout = MINARI
            dataset, findings = read_minari(file, spec, Columns() if columns is None else columns)
        else:
            layout = _flat_layout(file)
            dataset, findings = read_flat(file, spec, Columns() if columns is None else columns)
    return Reading(layout=layout, sha256=file.sha256, dataset=dataset, findings=findings)


def _read_npz(path: Path, spec: TaskSpec | None, columns: Columns, budget: int) -> Reading:
    with npz.opened_npz(path, budget) as file:
        by_offsets = file.has("offsets")
        layout = npz.OFFSETS if by_offsets else f"npz-{_flat_layout(file)}"
        dataset, findings = (npz.read_offsets if by_offsets else read_flat)(file, spec, columns)
    return Reading(layout=layout, sha256=file.sha256, dataset=dataset, findings=findings)


def _read_table(table: Table, spec: TaskSpec | None, columns: Columns, layout: str) -> Reading:
    dataset, findings = read_table(table, spec, columns, layout)
    return Reading(layout=layout, sha256=table.sha256, dataset=dataset, findings=findings)


def _check_own(path: Path, own: TaskSpec, spec: TaskSpec | None, columns: Columns | None) -> None:
    """A file in our layout says itself what it holds."""
    if spec is not None and spec != own:
        raise DataError(f"{path}: the file is of the task {own}, asked for was {spec}")
    if columns is not None:
        raise UsageError(f"{path}: is in our own layout, which says where everything is; give no columns for it")


def _flat_layout(source: Source) -> str:
    layout = layout_of(source)
    if layout is not None:
        return layout
    raise DataError(
        f"{source.path}: no layout we know; the file has arrays {list(source.names)} and groups "
        f"{list(source.groups)[:10]}. Expected the attribute format={hdf5.FORMAT!r}, the arrays of flat rows "
        "(observations, actions, rewards, costs, terminals, timeouts), or one group an episode (Minari)"
    )
