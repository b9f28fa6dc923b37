"""Parquet tables that a stranger made: flat columns of numbers, decoded in a process that may fail without harm."""

import importlib.util
import json
import math
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import numpy as np

from safehold.core.errors import DataError, IntegrityError, ResourceError, UsageError
from safehold.data.guard import BUDGET, convert, gigabytes, sha256_of
from safehold.data.tables import COPIES, Rows

MAGIC = b"PAR1"

SECONDS = 20
"""Processor time for decoding a small file; a larger one gets a second more for every 4 MiB."""

_CHILD = Path(__file__).with_name("parquet_child.py")
_OVERHEAD = 4 * 2**30  # bytes of address space that Python, NumPy and pyarrow set aside
_LONGEST_LINE = 256 * 2**20  # bytes
_LONGEST_LABEL = 1000  # characters of an episode's name
_NUMBERS = frozenset(
    {"bool", "float", "double", "halffloat", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))}
)
_LABELS = frozenset({"string", "large_string", *(kind for kind in _NUMBERS if "int" in kind)})


@dataclass(frozen=True, slots=True)
class ParquetTable:
    """A Parquet file whose head was read; the rest is decoded on demand, once."""

    path: Path
    sha256: str
    budget: int
    names: tuple[str, ...]
    _types: Mapping[str, str]
    _rows: int
    _child: "_Child"

    def read(self, numbers: Sequence[str], key: str) -> Rows:
        """These columns of numbers; a null is blank.

        Raises:
            DataError: if a column holds lists, text, dictionaries or anything else but numbers.
            IntegrityError: if stored bytes are damaged, or rows are not as many as the footer says.
            ResourceError: if the footer claims more memory than the budget.
        """
        for name in numbers:
            self._check_type(name, _NUMBERS, "numbers (integers, floats or booleans)")
        self._check_type(key, _LABELS, "whole numbers or text")
        rows = self._check_claims(len({*numbers, key}))
        values = {name: np.empty(rows) for name in numbers}
        blank = {name: np.empty(rows, dtype=np.bool_) for name in numbers}
        episode = np.empty(rows, dtype=np.int64)
        labels: dict[str, int] = {}
        done = 0
        self._child.ask({"numbers": list(numbers), "key": key})
        while not (said := self._child.answer(IntegrityError)).get("done"):
            part = slice(done, done + int(said["rows"]))
            done = part.stop
            if done > rows:
                break
            for name, stored in zip(numbers, said["dtypes"], strict=True):
                column = self._child.values(np.dtype(stored), done - part.start)
                blank[name][part] = self._child.values(np.dtype(np.bool_), done - part.start)
                number = convert(f"{self.path}: {name}", column, np.dtype(np.float64))
                values[name][part] = np.where(blank[name][part], math.nan, number)
            episode[part] = [self._number_of(label, key, labels) for label in said["labels"]]
        if done != rows:
            raise IntegrityError(f"{self.path}: holds {done} rows or more, the footer says {rows}; fetch it again")
        return Rows(values=values, blank=blank, episode=episode, labels=tuple(labels))

    def _check_type(self, name: str, fitting: Collection[str], expected: str) -> None:
        if self._types[name] not in fitting:
            raise DataError(
                f"{self.path}: column {name!r} holds {self._types[name]}; expected {expected}, one a row. Write lists "
                "as one column each, and decode dictionaries first"
            )

    def _check_claims(self, columns: int) -> int:
        """The number of rows, if they fit the budget."""
        claim = self._rows * 8 * COPIES * columns
        if self._rows < 0 or claim > self.budget:
            raise ResourceError(
                f"{self.path}: claims {self._rows} rows, {gigabytes(claim)} of memory for {columns} columns; the "
                f"budget is {gigabytes(self.budget)}. If the claim is true, give a larger budget or split the table"
            )
        return self._rows

    def _number_of(self, label: object, key: str, labels: dict[str, int]) -> int:
        if label is None or len(str(label)) > _LONGEST_LABEL:
            raise DataError(f"{self.path}: a row says no {key}, or too long a one; every row belongs to an episode")
        return labels.setdefault(str(label), len(labels))


@contextmanager
def opened_parquet(path: Path, budget: int = BUDGET) -> Iterator[ParquetTable]:
    """A Parquet file for reading; hashed before and after.

    Raises:
        UsageError: if pyarrow is not installed.
        DataError: if the file is broken, encrypted, changes while it is read, or has two columns of one name.
        ResourceError: if its head takes more memory than the budget.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise UsageError(
            f"{path} is a Parquet file, which needs pyarrow: pip install 'safehold[parquet]', or write the table as CSV"
        )
    before = sha256_of(path)
    process = subprocess.Popen(
        [sys.executable, "-I", str(_CHILD)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with process:
        try:
            child = _Child(path, process)
            child.ask(
                {
                    "path": str(path.resolve()),
                    "sys_path": [place for place in sys.path if place],
                    "seconds": SECONDS + path.stat().st_size // (4 * 2**20),
                    "bytes": budget + _OVERHEAD,
                }
            )
            head = child.answer(DataError)
            names = tuple(head["names"])
            if len(set(names)) != len(names) or not all(name.isprintable() for name in names):
                raise DataError(f"{path}: a column has no printable name, or the same name as another")
            types = MappingProxyType(dict(zip(names, head["types"], strict=True)))
            yield ParquetTable(path, before, budget, names, types, int(head["rows"]), child)
        finally:
            process.kill()
    if sha256_of(path) != before:
        raise DataError(f"{path}: the file changed while it was read; wait until its writer is done")


class _Child:
    """The process that decodes; lines of JSON go in and out, and bytes out."""

    def __init__(self, path: Path, process: "subprocess.Popen[bytes]") -> None:
        self._path = path
        self._process = process

    def ask(self, message: Mapping[str, Any]) -> None:
        """Sends one line; that nobody listens any more shows in the answer."""
        try:
            self._stream(self._process.stdin).write(json.dumps(dict(message)).encode() + b"\n")
            self._stream(self._process.stdin).flush()
        except OSError:
            pass

    def answer(self, kind: type[DataError | IntegrityError]) -> dict[str, Any]:
        """The next line; an error that it tells, or its silence, is raised as `kind`."""
        line = self._stream(self._process.stdout).readline(_LONGEST_LINE)
        if not line.endswith(b"\n"):
            raise kind(
                f"{self._path}: pyarrow broke down over this file (exit code {self._process.wait()}); it is "
                "damaged, or made to do that. Fetch it again"
            )
        said: dict[str, Any] = json.loads(line)
        if said.get("error") == "memory":
            raise ResourceError(f"{self._path}: no memory for what the file claims")
        if "error" in said:
            raise kind(f"{self._path}: cannot be read as Parquet ({said['said']}); it is damaged, fetch it again")
        return said

    def values(self, dtype: np.dtype[Any], count: int) -> np.ndarray:
        """The next `count` values."""
        content = self._stream(self._process.stdout).read(count * dtype.itemsize)
        if len(content) != count * dtype.itemsize:
            raise IntegrityError(f"{self._path}: pyarrow broke down in the middle of a column; fetch the file again")
        return np.frombuffer(content, dtype=dtype)

    @staticmethod
    def _stream(stream: Any) -> BinaryIO:
        if stream is None:
            raise RuntimeError("the child has no pipe")  # it was started with both
        return stream
