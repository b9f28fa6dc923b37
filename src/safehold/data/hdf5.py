"""Our file of logged episodes: one HDF5 file, written whole or not at all, read only if its digest agrees."""

import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from safehold.core.errors import DataError, IntegrityError, UsageError
from safehold.core.spec import TaskSpec
from safehold.data.dataset import DTYPES, OfflineDataset
from safehold.data.findings import Finding
from safehold.data.guard import BUDGET, GuardedFile, opened
from safehold.data.source import Source

FORMAT = "safehold-episodes"
VERSION = "1"

_STORED: Mapping[str, np.dtype[Any]] = {
    **{name: dtype.newbyteorder("<") for name, dtype in DTYPES.items()},
    "terminated": np.dtype(np.uint8),
}
_CHUNK_BYTES = 256 * 1024


def write(path: Path, dataset: OfflineDataset, *, overwrite: bool = False) -> None:
    """Writes a dataset: to a temporary file beside it, to the disk, then to its name.

    The same dataset gives the same bytes (with the same HDF5 and zlib): no time and no name of a machine is stored.

    Raises:
        UsageError: if the path exists and `overwrite` is not set, or its directory does not exist.
    """
    with replacing(path, overwrite=overwrite) as file:
        provenance = canonical(dataset.provenance)
        header(file, "format", FORMAT)
        header(file, "format_version", VERSION)
        header(file, "spec", canonical(dataset.spec.to_json()))
        header(file, "provenance", provenance)
        header(file, "provenance_digest", hashlib.sha256(provenance.encode()).hexdigest())
        header(file, "digest", dataset.digest)
        for name, dtype in _STORED.items():
            values = getattr(dataset, name)
            if values is not None:
                store(file, name, values.astype(dtype, copy=False))


def read(path: Path, *, budget: int = BUDGET) -> OfflineDataset:
    """Reads a dataset that `write` wrote.

    Raises:
        DataError: if the file is not in this layout, or its content breaks a rule of `OfflineDataset`.
        IntegrityError: if its content is not what was written.
        ResourceError: if it claims more memory than `budget`, in bytes.
    """
    with opened(path, budget) as file:
        if file.text("format") != FORMAT:
            raise DataError(
                f"{path}: attribute 'format' is {file.text('format')!r}, expected {FORMAT!r}; read other layouts with "
                "safehold.data.layouts.read_any"
            )
        return read_opened(file)[0]


def read_opened(file: GuardedFile) -> tuple[OfflineDataset, tuple[Finding, ...]]:
    """The dataset of an open file in our layout, with what is worth saying about it."""
    if file.text("format_version") != VERSION:
        raise DataError(
            f"{file.path}: version {file.text('format_version')!r} of {FORMAT}, this release reads version "
            f"{VERSION!r}; update safehold"
        )
    texts = {name: file.text(name) for name in ("spec", "provenance", "provenance_digest", "digest")}
    missing = [name for name, value in texts.items() if value is None]
    if missing:
        raise DataError(
            f"{file.path}: attribute {missing[0]!r} is missing, or no text of fixed length; fetch the file again"
        )
    wanted = {name: dtype for name, dtype in DTYPES.items() if name != "group" or name in file.names}
    arrays, findings = file.arrays(wanted)
    if hashlib.sha256(str(texts["provenance"]).encode()).hexdigest() != texts["provenance_digest"]:
        raise IntegrityError(f"{file.path}: the provenance is not what was written; fetch the file again")
    dataset = OfflineDataset(
        spec=TaskSpec.of_json(parsed(file.path, "spec", str(texts["spec"]))),
        provenance=parsed(file.path, "provenance", str(texts["provenance"])),
        **arrays,
    )
    if dataset.digest != texts["digest"]:
        raise IntegrityError(
            f"{file.path}: the content hashes to {dataset.digest}, the file says {texts['digest']}; it was changed or "
            "damaged after it was written, fetch it again"
        )
    return dataset, (*findings, *unknown_keys(file, wanted))


def unknown_keys(file: Source, known: Mapping[str, Any]) -> tuple[Finding, ...]:
    """A warning for everything at the root that is not read."""
    extra = sorted({*file.names, *file.groups} - set(known))
    if not extra:
        return ()
    return (
        Finding(
            severity="warn",
            code="unknown-keys",
            where=", ".join(extra),
            what="not part of the layout, so not read",
            fix="Nothing to do, unless a cost or an end of episode hides under one of these names.",
        ),
    )


def canonical(plain: Mapping[str, Any]) -> str:
    """JSON text with sorted keys, so that equal values have equal bytes."""
    return json.dumps(dict(plain), sort_keys=True, ensure_ascii=False, allow_nan=False)


def parsed(path: Path, name: str, text: str) -> dict[str, Any]:
    """The JSON object in a root attribute.

    Raises:
        DataError: if it is no JSON object, nested too deeply, or holds what JSON text cannot.
    """
    try:
        plain = json.loads(text)
        json.dumps(plain, ensure_ascii=False, allow_nan=False).encode()  # no NaN, and no half of a surrogate pair
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: attribute {name!r} is not JSON ({error})") from error
    if not isinstance(plain, dict):
        raise DataError(f"{path}: attribute {name!r} must be a JSON object, got {type(plain).__name__}")
    return plain


def header(file: h5py.File, name: str, text: str) -> None:
    """A root attribute as UTF-8 text of fixed length, the only kind that `GuardedFile.text` reads."""
    encoded = text.encode()
    file.attrs.create(name, np.array(encoded, dtype=h5py.string_dtype("utf-8", len(encoded))))


def store(file: h5py.File, name: str, values: np.ndarray) -> None:
    """One array in compressed pieces of whole rows with checksums, at most 256 KiB each."""
    row = values.dtype.itemsize * int(np.prod(values.shape[1:]))
    rows = min(len(values), max(1, _CHUNK_BYTES // row))
    file.create_dataset(
        name,
        data=values,
        chunks=(rows, *values.shape[1:]),
        compression="gzip",
        compression_opts=4,
        shuffle=True,
        fletcher32=True,
        track_times=False,
    )


@contextmanager
def replacing(path: Path, *, overwrite: bool) -> Iterator[h5py.File]:
    """A new HDF5 file that takes its name only once it is complete and on the disk.

    Raises:
        UsageError: if the path exists and may not be overwritten, or its directory does not exist.
    """
    _check_free(path, overwrite)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with h5py.File(partial, "x", libver=("v110", "v110")) as file:
            yield file
        _sync(partial)
        _check_free(path, overwrite)  # somebody may have been quicker
        partial.replace(path)
        _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def _check_free(path: Path, overwrite: bool) -> None:
    if not path.parent.is_dir():
        raise UsageError(f"{path}: there is no directory {path.parent}; make it first")
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists already; give another path, or ask to overwrite it")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
