"""Opening an .npz archive that a stranger made: nothing is unpickled, and no claimed size is believed."""

import ast
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from safehold.core.errors import DataError, IntegrityError, ResourceError, SafeholdError
from safehold.core.spec import TaskSpec
from safehold.data import hdf5
from safehold.data.dataset import DTYPES, OfflineDataset
from safehold.data.declared import Columns, check_binary, cost_places, task_of
from safehold.data.findings import Finding
from safehold.data.guard import BUDGET, DEFLATE_RATIO, LONGEST_TEXT, convert, gigabytes, rounded, sha256_of
from safehold.data.source import Source

MAGIC = b"PK\x03\x04"

OFFSETS = "npz-offsets"
"""The arrays of our own layout, in an .npz archive: episode i owns steps offsets[i] to offsets[i + 1] - 1."""

_MOST_MEMBERS = 10_000
_LONGEST_DIRECTORY = 2 * 2**20  # bytes
_LONGEST_HEADER = 10_000  # bytes; NumPy's own limit
_END = struct.Struct("<4s4H2LH")  # "End of central directory record", APPNOTE.TXT 4.3.16
_HEADER_LENGTHS = MappingProxyType({1: struct.Struct("<H"), 2: struct.Struct("<L"), 3: struct.Struct("<L")})
_NUMBER = re.compile(r"[<>|=]?(b1|i[1248]|u[1248]|f[248])")
_TEXT = re.compile(r"[<>|=]?[US][0-9]{1,9}")
_BROKEN = (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError, struct.error, IndexError)
"""What zipfile raises, by turns, for a broken archive (NotImplementedError is a RuntimeError)."""


@dataclass(frozen=True, slots=True)
class _Member:
    """One array as its header claims it; `start` is where its bytes begin, behind the header."""

    info: zipfile.ZipInfo
    descr: str
    shape: tuple[int, ...]
    columns_first: bool
    start: int

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.descr)

    @property
    def size(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class NpzFile:
    """An open archive whose directory was checked; headers are read one by one, and believed if they fit."""

    path: Path
    sha256: str
    budget: int
    names: tuple[str, ...]
    groups: tuple[str, ...]
    _archive: zipfile.ZipFile
    _infos: Mapping[str, zipfile.ZipInfo]

    def has(self, name: str) -> bool:
        """Whether there is an array of this name."""
        return name in self._infos

    def text(self, name: str) -> str | None:
        """An array that is one text; None if there is none, or it is something else.

        Raises:
            DataError: if it is longer than `LONGEST_TEXT`, or no text after all.
        """
        if name not in self._infos:
            return None
        member = self._member(name)
        if member.shape != () or not _TEXT.fullmatch(member.descr):
            return None
        if member.size > LONGEST_TEXT:
            raise DataError(f"{self.path}: {name} claims {member.size} bytes of text")
        try:
            value = np.frombuffer(self._bytes(name, member), dtype=member.dtype)[0]
            return value.decode() if isinstance(value, bytes) else str(value)
        except (UnicodeDecodeError, ValueError) as error:
            raise DataError(f"{self.path}: {name} is no text ({error})") from error

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of an array, as its header claims it."""
        return self._number(name).shape

    def arrays(self, wanted: Mapping[str, np.dtype[Any]]) -> tuple[dict[str, np.ndarray], tuple[Finding, ...]]:
        """Reads arrays, each converted to the type wanted; rules are those of `GuardedFile.arrays`.

        Raises:
            DataError: for a missing array, a type that is no number, or a header that does not fit its content.
            ResourceError: if the arrays could take more memory than the budget.
            IntegrityError: if stored bytes fail their checksum or do not inflate.
        """
        members = {name: self._number(name) for name in wanted}
        # twice: the bytes as they are inflated, and the array
        claim = sum(2 * m.size + math.prod(m.shape) * wanted[name].itemsize for name, m in members.items())
        if claim > self.budget:
            raise ResourceError(
                f"{self.path}: reading its arrays takes {gigabytes(claim)} of memory; the budget is "
                f"{gigabytes(self.budget)}. If the claim is true, give a larger budget or split the file"
            )
        arrays: dict[str, np.ndarray] = {}
        findings: list[Finding] = []
        for name, member in members.items():
            content = np.frombuffer(self._bytes(name, member), dtype=member.dtype)
            values = content.reshape(member.shape, order="F" if member.columns_first else "C")
            arrays[name] = np.ascontiguousarray(convert(f"{self.path}: {name}", values, wanted[name]))
            findings.extend(rounded(name, values.dtype, wanted[name]))
        return arrays, tuple(findings)

    def _number(self, name: str) -> _Member:
        """An array that holds numbers, as its header claims it."""
        if name not in self._infos:
            if name in self.groups:
                raise DataError(f"{self.path}: {name} is a group, expected an array")
            prefix = name.rpartition("/")[0]
            there = sorted(path for path in self._infos if path.rpartition("/")[0] == prefix)
            raise DataError(f"{self.path}: no array {name}; the file has {', '.join(there[:20]) or 'none there'}")
        member = self._member(name)
        if not _NUMBER.fullmatch(member.descr):
            kind = "Python objects, which are never unpickled here" if "O" in member.descr else repr(member.descr)
            raise DataError(
                f"{self.path}: {name} holds {kind}; expected real numbers (8 to 64 bit integers, 16 to 64 bit floats, "
                "booleans)"
            )
        return member

    def _member(self, name: str) -> _Member:
        """The header of an array; refused unless it fits the bytes that the directory claims."""
        where, info = f"{self.path}: {name}", self._infos[name]
        with _refusing(where, IntegrityError), self._archive.open(info) as file:
            start = file.read(8)
            version = start[6] if start[:6] == b"\x93NUMPY" and len(start) == 8 else 0
            if version not in _HEADER_LENGTHS:
                raise DataError(f"{where} begins with {start!r}, which is no NumPy array of version 1 to 3")
            field = _HEADER_LENGTHS[version]
            (length,) = field.unpack(file.read(field.size))
            if length > _LONGEST_HEADER:
                raise DataError(f"{where} has a header of {length} bytes; NumPy writes about 100")
            header = _header(where, file.read(length))
        member = _Member(info, *header, start=8 + field.size + length)
        if not _NUMBER.fullmatch(member.descr) and not _TEXT.fullmatch(member.descr):
            return member
        if member.size != info.file_size - member.start:
            raise DataError(
                f"{where} claims shape {member.shape} of {member.descr}, {member.size} bytes; the archive holds "
                f"{info.file_size - member.start} for it"
            )
        if info.compress_type == zipfile.ZIP_DEFLATED and info.file_size > DEFLATE_RATIO * info.compress_size:
            raise ResourceError(
                f"{where}: {info.compress_size} compressed bytes cannot hold the {info.file_size} that they claim"
            )
        return member

    def _bytes(self, name: str, member: _Member) -> bytes:
        with _refusing(f"{self.path}: {name}", IntegrityError), self._archive.open(member.info) as file:
            file.read(member.start)
            content = file.read()  # at most what the directory claims; the checksum is compared at the end
        if len(content) != member.size:
            raise IntegrityError(f"{self.path}: {name} ends after {len(content)} of {member.size} bytes")
        return content


@contextmanager
def opened_npz(path: Path, budget: int = BUDGET) -> Iterator[NpzFile]:
    """An .npz archive for reading; hashed before and after.

    Raises:
        DataError: if it is broken, encrypted, changes while it is read, has a member twice, or one that is no .npy.
        ResourceError: if its directory is longer than any dataset's.
    """
    before = sha256_of(path)
    with _refusing(str(path), DataError):
        _check_directory(path)
        archive = zipfile.ZipFile(path)
    with archive:
        infos = _members(path, archive)
        names = tuple(sorted(name for name in infos if "/" not in name))
        groups = tuple(sorted({name.split("/")[0] for name in infos if "/" in name}))
        yield NpzFile(path, before, budget, names, groups, archive, infos)
    if sha256_of(path) != before:
        raise DataError(f"{path}: the file changed while it was read; wait until its writer is done")


def read_offsets(source: Source, spec: TaskSpec | None, columns: Columns) -> tuple[OfflineDataset, tuple[Finding, ...]]:
    """The arrays of our own layout in another container; the task is in the text `spec`, given, or derived.

    Raises:
        DataError: if the file says its task and it is another than the one asked for, or an array breaks a rule.
    """
    wanted = {name: dtype for name, dtype in DTYPES.items() if name != "group" or name in source.names}
    shape = source.shape("costs")
    if len(shape) != 2:
        raise DataError(f"{source.path}: costs has shape {shape}, expected (steps, costs)")
    text = source.text("spec")
    own = None if text is None else TaskSpec.of_json(hdf5.parsed(source.path, "spec", text))
    if own is not None and spec is not None and own != spec:
        raise DataError(f"{source.path}: the file is of the task {own}, asked for was {spec}")
    given = spec if own is None else own
    if columns.costs is not None:
        names = tuple(cost_places(columns, given, "costs"))
    else:
        names = ("cost",) if given is None else given.cost_names
    if len(names) != shape[1]:
        raise DataError(
            f"{source.path}: costs has {shape[1]} columns, and {len(names)} names: {', '.join(names)}; give the task, "
            "or name each cost in the order of the columns"
        )
    arrays, findings = source.arrays(wanted)
    for name in ("observations", "actions"):
        if arrays[name].ndim != 2 or 0 in arrays[name].shape:
            raise DataError(f"{source.path}: {name} has shape {arrays[name].shape}, expected (rows, columns)")
    check_binary(source.path, columns, {name: arrays["costs"][:, i] for i, name in enumerate(names)})
    lengths = np.diff(arrays["offsets"].reshape(-1))
    task, task_findings = task_of(
        given, columns, names, arrays["observations"].shape[1], arrays["actions"], max(1, int(lengths.max(initial=1)))
    )
    dataset = OfflineDataset(
        spec=task,
        provenance={"layout": OFFSETS, "file": source.path.name, "sha256": source.sha256},
        **arrays,
    )
    return dataset, (*findings, *task_findings, *hdf5.unknown_keys(source, {**wanted, "spec": None}))


def _check_directory(path: Path) -> None:
    """Bounds the directory before zipfile parses it."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 2**16 - _END.size))
        tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) < at + _END.size:
        raise DataError(f"{path}: begins like a ZIP archive but has no directory at its end; fetch it again")
    _, _, _, _, members, length, _, _ = _END.unpack_from(tail, at)
    if tail[:at].rfind(b"PK\x06\x07") == at - 20 >= 0:
        raise ResourceError(f"{path}: is an archive in 64 bits; archives up to 2 GiB are read. Convert it to HDF5")
    if members > _MOST_MEMBERS or length > _LONGEST_DIRECTORY:
        raise ResourceError(f"{path}: its directory lists {members} members in {length} bytes; datasets have a handful")


def _members(path: Path, archive: zipfile.ZipFile) -> Mapping[str, zipfile.ZipInfo]:
    infos: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        if not info.filename.isprintable():
            raise DataError(f"{path}: a member has the name {info.filename!r}, which cannot be printed as it is")
        name = info.filename.removesuffix(".npy")
        if name == info.filename:
            raise DataError(f"{path}: the archive holds {name!r}; an .npz archive holds .npy arrays only")
        if name in infos:
            raise DataError(f"{path}: the archive holds {name} twice; every array must have one name")
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DataError(f"{path}: {name} is encrypted, or compressed by another method than deflate")
        infos[name] = info
    return MappingProxyType(infos)


def _header(where: str, header: bytes) -> tuple[str, tuple[int, ...], bool]:
    """Type, shape and order in an .npy header."""
    try:
        said = ast.literal_eval(header.decode("latin1").strip())
        descr, shape, columns_first = said["descr"], said["shape"], said["fortran_order"]
        sizes = all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**62 for n in shape)
        if not sizes or len(shape) > 8 or len(said) != 3 or not isinstance(columns_first, bool):
            raise ValueError("not a shape")
    except (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError) as error:
        raise DataError(f"{where} has a header that is none: {header[:60]!r}") from error
    return descr if isinstance(descr, str) else "records", tuple(shape), columns_first


@contextmanager
def _refusing(where: str, kind: type[DataError | IntegrityError]) -> Iterator[None]:
    """Turns whatever zipfile raises over a broken archive into one typed error."""
    try:
        yield
    except SafeholdError:
        raise
    except MemoryError as error:
        raise ResourceError(f"{where}: no memory for what the archive claims") from error
    except _BROKEN as error:
        raise kind(f"{where}: stored bytes are damaged ({error}); fetch the file again") from error
