"""Opening an HDF5 file that a stranger made: no link is followed, nothing unwritten is read, no claim is believed."""

import hashlib
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from safehold.core.errors import DataError, IntegrityError, ResourceError, SafeholdError
from safehold.data.findings import Finding
from safehold.data.source import first_bytes

log = logging.getLogger(__name__)

BUDGET = 8 * 2**30
"""Bytes of memory that reading one file may claim, unless the caller says otherwise."""

MOST_OBJECTS = 100_000
"""Links looked at before a file is refused; keeps the walk through a hostile file short."""

LONGEST_TEXT = 16 * 2**20
"""Bytes of an attribute that are read."""

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_KNOWN_STARTS = {
    b"\x89PNG": "a PNG image",
    b"PK\x03\x04": "a ZIP archive (an .npz file, perhaps)",
    b"\x1f\x8b": "a gzip archive; unpack it first",
    b"PAR1": "a Parquet file",
    b"SQLite format 3": "an SQLite database",
    b"\x93NUMPY": "a NumPy array",
    b"\x80": "a Python pickle, which is never opened here",
    b"version https://git-lfs": "a Git LFS pointer: fetch the file itself with `git lfs pull`",
    b"<": "an HTML or XML page, perhaps the error page of a download",
}
_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}
_NUMBERS = frozenset({"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"})
DEFLATE_RATIO = 1032
"""Largest factor by which deflate data can grow (zlib documentation, "Maximum Compression Factor")."""

_HDF5_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, EOFError)
"""What h5py raises, by turns, for a broken file."""


@dataclass(frozen=True, slots=True)
class GuardedFile:
    """An open HDF5 file whose links were all checked; only its numeric arrays and root texts can be read.

    `names` and `groups` are those at the root; an array in a group is named by its path, such as "episode_0/rewards".
    """

    path: Path
    sha256: str
    budget: int
    names: tuple[str, ...]
    groups: tuple[str, ...]
    _file: h5py.File
    _arrays: frozenset[str]
    _groups: frozenset[str]

    def has(self, name: str) -> bool:
        """Whether there is an array of this name or path."""
        return name in self._arrays

    def arrays_under(self, group: str) -> tuple[str, ...]:
        """Paths of all arrays in a group, and in those inside it."""
        return tuple(sorted(path for path in self._arrays if path.startswith(f"{group}/")))

    def text(self, name: str) -> str | None:
        """The root attribute of this name if it is a single UTF-8 text of fixed length, otherwise None.

        Texts of variable length lie in a heap without checksum; HDF5 2.0 can loop for ever in a damaged one, so
        they are not read.

        Raises:
            DataError: if it is longer than `LONGEST_TEXT`, or no UTF-8.
        """
        with _refusing(f"{self.path}: attribute {name!r}"):
            if name not in self._file.attrs:
                return None
            attribute = self._file.attrs.get_id(name)
            stored = attribute.get_type()
            if attribute.shape != () or stored.get_class() != h5py.h5t.STRING or stored.is_variable_str():
                return None
            if stored.get_size() > LONGEST_TEXT:
                raise DataError(f"{self.path}: attribute {name!r} claims {stored.get_size()} bytes of text")
            return bytes(self._file.attrs[name]).decode()

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of an array, as the file claims it.

        Raises:
            DataError: if there is no such array.
        """
        return self._checked(name)[0]

    def arrays(self, wanted: Mapping[str, np.dtype[Any]]) -> tuple[dict[str, np.ndarray], tuple[Finding, ...]]:
        """Reads arrays, each converted to the type wanted.

        Every array is checked and all sizes are added up before the first byte is allocated. Whole numbers,
        booleans and narrower floats are converted exactly or refused; float64 becomes float32 by rounding, with a
        finding.

        Raises:
            DataError: for a missing or group key, a type that is no number, an array never fully written, virtual or
                stored in another file.
            ResourceError: if the arrays, or one compressed piece of them, could take more memory than the budget.
            IntegrityError: if stored bytes fail their checksum or do not decompress.
        """
        checked = {name: self._checked(name) for name in wanted}
        claims = {
            name: math.prod(shape) * (dtype.itemsize + (wanted[name].itemsize if dtype != wanted[name] else 0))
            for name, (shape, dtype) in checked.items()
        }
        if sum(claims.values()) > self.budget:
            largest = max(claims, key=lambda name: claims[name])
            raise ResourceError(
                f"{self.path}: its arrays claim {gigabytes(sum(claims.values()))} of memory, the largest is {largest} "
                f"with shape {checked[largest][0]}; the budget is {gigabytes(self.budget)}. If the claim is true, "
                "give a larger budget or split the file"
            )
        findings: list[Finding] = []
        arrays = {}
        for name, dtype in wanted.items():
            findings.extend(self._check_stored(name))
            try:
                values = np.asarray(self._file[name][()])
            except MemoryError as error:
                raise ResourceError(f"{self.path}: no memory for {name} of shape {checked[name][0]}") from error
            except _HDF5_ERRORS as error:
                raise IntegrityError(
                    f"{self.path}: the stored bytes of {name} are damaged ({error}); fetch the file again from where "
                    "it came from"
                ) from error
            arrays[name] = convert(f"{self.path}: {name}", values, dtype)
            findings.extend(rounded(name, values.dtype, dtype))
        return arrays, tuple(findings)

    def _checked(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape and native type of an array, without reading it."""
        if name in self._groups:
            raise DataError(f"{self.path}: {name} is a group, expected an array")
        if name not in self._arrays:
            raise DataError(f"{self.path}: no array {name}; {self._beside(name)}")
        with _refusing(f"{self.path}: {name}"):
            dataset = self._file[name]
            stored = dataset.id.get_type().get_class()
            numeric = stored in (h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.ENUM)
            dtype = dataset.dtype if numeric else None
            shape = dataset.shape
        if (
            dtype is None
            or dtype.kind + str(dtype.itemsize) not in _NUMBERS
            or (stored == h5py.h5t.ENUM) != (dtype.kind == "b")
        ):
            kind = _class_name(stored) if dtype is None else str(dtype)
            raise DataError(
                f"{self.path}: {name} holds {kind}; expected real numbers (8 to 64 bit integers, 16 to 64 bit "
                "floats, booleans)"
            )
        if shape is None:
            raise DataError(f"{self.path}: {name} has no shape (a null dataspace); expected an array of numbers")
        return tuple(int(n) for n in shape), dtype.newbyteorder("=")

    def _beside(self, name: str) -> str:
        """What there is where an array was looked for."""
        prefix, slash, _ = name.rpartition("/")
        there = [
            path.removeprefix(prefix + slash)
            for path in sorted(self._arrays)
            if path.startswith(prefix + slash) and "/" not in path.removeprefix(prefix + slash)
        ]
        place = f"the group {prefix}" if prefix else "the file"
        return f"{place} has {', '.join(there[:20]) or 'no arrays at all'}"

    def _check_stored(self, name: str) -> tuple[Finding, ...]:
        """Refuses arrays that lie elsewhere, were never written, or inflate beyond the budget."""
        with _refusing(f"{self.path}: {name}"):
            dataset = self._file[name]
            properties = dataset.id.get_create_plist()
            if properties.get_external_count():
                target = properties.get_external(0)[0]
                raise DataError(
                    f"{self.path}: {name} keeps its bytes in another file, {os.fsdecode(target)!r}, which was not "
                    "opened; rewrite it with the bytes inside (h5repack)"
                )
            layout = properties.get_layout()
            if layout == h5py.h5d.VIRTUAL:
                sources = sorted({str(source.file_name) for source in dataset.virtual_sources()})
                raise DataError(
                    f"{self.path}: {name} is a virtual dataset over {sources}, which were not opened; rewrite it as a "
                    "plain array"
                )
            if dataset.size == 0 or layout == h5py.h5d.COMPACT:
                return ()
            if layout == h5py.h5d.CHUNKED:
                self._check_chunks(name, dataset, properties)
            elif dataset.id.get_offset() is None:
                raise DataError(_unwritten(self.path, name, "none of it is"))
            if properties.get_alloc_time() != h5py.h5d.ALLOC_TIME_EARLY:
                return ()
            return (
                Finding(
                    severity="warn",
                    code="allocated-early",
                    where=name,
                    what="its space was set aside before anything was written, so rows never written read as zeros",
                    fix="Ask the writer of the file whether it ran to its end.",
                ),
            )

    def _check_chunks(self, name: str, dataset: h5py.Dataset, properties: Any) -> None:
        filters = [int(properties.get_filter(i)[0]) for i in range(properties.get_nfilters())]
        if not set(filters) <= _FILTERS or len(set(filters)) != len(filters):
            raise DataError(
                f"{self.path}: {name} passes through HDF5 filters {filters}; safehold reads gzip (1), shuffle (2) and "
                "fletcher32 (3), each once. Rewrite it: h5repack -f GZIP=4 OLD NEW"
            )
        raw = math.prod(dataset.chunks) * dataset.dtype.itemsize
        if raw > self.budget:
            raise ResourceError(
                f"{self.path}: {name} is stored in pieces of {gigabytes(raw)}; the budget is {gigabytes(self.budget)}"
            )
        stored: list[int] = []
        dataset.id.chunk_iter(lambda chunk: stored.append(int(chunk.size)))
        expected = math.prod(-(-n // c) for n, c in zip(dataset.shape, dataset.chunks, strict=True))
        if len(stored) < expected:
            raise DataError(_unwritten(self.path, name, f"{len(stored)} of {expected} pieces are"))
        inflated = max(stored) * DEFLATE_RATIO if h5py.h5z.FILTER_DEFLATE in filters else max(stored)
        if max(stored) > raw + raw // 100 + 4096 or inflated > self.budget:
            raise ResourceError(
                f"{self.path}: a piece of {name} has {max(stored)} compressed bytes for {raw} bytes of content and "
                f"could inflate to {gigabytes(inflated)}; the budget is {gigabytes(self.budget)}. If the file is "
                "sound, rewrite it in smaller pieces (h5repack -l CHUNK=...) or give a larger budget"
            )


@contextmanager
def opened(path: Path, budget: int = BUDGET) -> Iterator[GuardedFile]:
    """An HDF5 file for reading, after a look at every link in it; hashed before and after.

    Raises:
        DataError: if it is no HDF5 file, broken, locked by a writer, changes while it is read, or has a soft or
            external link or one object under two names.
        ResourceError: if it holds more than `MOST_OBJECTS` links.
    """
    _check_signature(path)
    before = sha256_of(path)
    try:
        file = h5py.File(path, "r", locking="best-effort")
    except BlockingIOError as error:
        raise DataError(f"{path}: another process is writing this file; try again when it is closed") from error
    except _HDF5_ERRORS as error:
        raise DataError(f"{path}: begins like an HDF5 file but cannot be opened ({error}); fetch it again") from error
    with file:
        with _refusing(str(path)):
            arrays, groups = _objects_of(path, file)
        yield GuardedFile(path, before, budget, _root(arrays), _root(groups), file, arrays, groups)
    if sha256_of(path) != before:
        raise DataError(f"{path}: the file changed while it was read; wait until its writer is done")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def convert(where: str, values: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """Values in another type: exact, but for float64 to float32, which rounds.

    Raises:
        DataError: if a value would change otherwise; the first such row is named.
    """
    native = values.astype(values.dtype.newbyteorder("="), copy=False)
    if native.dtype == dtype:
        return native
    if dtype.kind == "b":
        lost = (native != 0) & (native != 1)  # NaN is neither
        expected = "0 or 1"
    elif dtype.kind == "f":
        largest = 2 ** (np.finfo(dtype).nmant + 1)
        if native.dtype.kind == "f":
            lost = np.isfinite(native) & (np.abs(native) > np.finfo(dtype).max)
        elif native.dtype.kind == "b":
            lost = np.zeros(native.shape, dtype=np.bool_)
        else:
            lost = (native > largest) | ((native < -largest) if native.dtype.kind == "i" else False)
        expected = f"what {dtype} holds exactly"
    else:
        limits = np.iinfo(dtype)
        lost = ~((native >= limits.min) & (native <= limits.max) & (native == np.floor(native)))
        expected = f"whole numbers that {dtype} holds"
    if lost.any():
        place = tuple(int(i) for i in np.argwhere(lost)[0])
        raise DataError(f"{where}{list(place)} is {native[place]} ({values.dtype}); expected {expected}")
    return native.astype(dtype)


def rounded(name: str, stored: np.dtype[Any], kept: np.dtype[Any]) -> tuple[Finding, ...]:
    """The note on floats that `convert` made narrower."""
    if not (stored.kind == kept.kind == "f" and stored.itemsize > kept.itemsize):
        return ()
    return (
        Finding(
            severity="note",
            code="rounded",
            where=name,
            what=f"stored as {stored.newbyteorder('=')}, kept as {kept} by rounding",
            fix="Nothing to do: networks compute in float32 anyway.",
        ),
    )


@contextmanager
def _refusing(where: str) -> Iterator[None]:
    """Turns whatever h5py raises over broken metadata into one typed error."""
    try:
        yield
    except SafeholdError:
        raise
    except MemoryError as error:
        raise ResourceError(f"{where}: no memory for what the file claims") from error
    except _HDF5_ERRORS as error:
        raise DataError(f"{where}: cannot be read ({error}); the file is damaged, fetch it again") from error


def _check_signature(path: Path) -> None:
    start = first_bytes(path)
    if not start.startswith(_SIGNATURE):
        raise DataError(f"{path}: not an HDF5 file: it begins with {start[:16]!r}, {named(start)}")


def named(start: bytes) -> str:
    """What a file that begins like this may be."""
    return next((what for magic, what in _KNOWN_STARTS.items() if start.startswith(magic)), "something else")


def _root(paths: frozenset[str]) -> tuple[str, ...]:
    """Those at the root, sorted."""
    return tuple(sorted(path for path in paths if "/" not in path))


def _objects_of(path: Path, file: h5py.File) -> tuple[frozenset[str], frozenset[str]]:
    """Paths of all arrays and of all groups, without the first slash, after every link of the file was checked."""
    arrays: list[str] = []
    groups: list[str] = []
    seen = {h5py.h5o.get_info(file.id).addr: "/"}
    waiting: list[tuple[Any, str]] = [(file.id, "/")]
    count = 0
    while waiting:
        group, prefix = waiting.pop()
        for name in _links_of(group):
            count += 1
            if count > MOST_OBJECTS:
                raise ResourceError(f"{path}: more than {MOST_OBJECTS} objects; safehold files have a handful")
            place = prefix + os.fsdecode(name)
            if not place.isprintable():
                raise DataError(f"{path}: an object has the name {place!r}, which cannot be printed as it is")
            _check_link(path, group, name, place)
            info = h5py.h5o.get_info(group, name)
            if info.addr in seen:
                raise DataError(
                    f"{path}: {place} is the same object as {seen[info.addr]} (a hard link; a cycle, if that is a "
                    "group above it); every object must have one name"
                )
            seen[info.addr] = place
            if info.type == h5py.h5o.TYPE_GROUP:
                waiting.append((h5py.h5o.open(group, name), place + "/"))
                groups.append(place[1:])
            elif info.type == h5py.h5o.TYPE_DATASET:
                arrays.append(place[1:])
    return frozenset(arrays), frozenset(groups)


def _links_of(group: Any) -> Sequence[bytes]:
    names: list[bytes] = []

    def collect(name: bytes) -> object:
        names.append(name)
        return None if len(names) <= MOST_OBJECTS else True  # anything but None stops HDF5's iteration

    group.links.iterate(collect)
    return names


def _check_link(path: Path, group: Any, name: bytes, place: str) -> None:
    kind = group.links.get_info(name).type
    if kind == h5py.h5l.TYPE_HARD:
        return
    if kind == h5py.h5l.TYPE_SOFT:
        what = f"a soft link to {os.fsdecode(group.links.get_val(name))!r}"
    elif kind == h5py.h5l.TYPE_EXTERNAL:
        target, inside = group.links.get_val(name)
        what = f"an external link to {os.fsdecode(inside)!r} in the file {os.fsdecode(target)!r}"
    else:
        what = f"a link of unknown kind {kind}"
    raise DataError(f"{path}: {place} is {what}; links are never followed. Copy what it points at into the file")


def _class_name(stored: int) -> str:
    names = {
        h5py.h5t.STRING: "text",
        h5py.h5t.COMPOUND: "compound records",
        h5py.h5t.REFERENCE: "references",
        h5py.h5t.VLEN: "arrays of varying length",
        h5py.h5t.ARRAY: "arrays as elements",
        h5py.h5t.OPAQUE: "opaque bytes",
        h5py.h5t.BITFIELD: "bit fields",
    }
    return names.get(stored, f"HDF5 type class {stored}")


def _unwritten(path: Path, name: str, how_much: str) -> str:
    return (
        f"{path}: {name} was never fully written ({how_much} in the file); unwritten parts read as zeros, which would "
        "look like safety. Write the file again, to its end"
    )


def gigabytes(count: int) -> str:
    """A number of bytes, for a message."""
    return f"{count / 2**30:.3g} GiB"
