"""Parquet tables that a stranger made: flat columns of numbers, their claims added up before anything is decoded."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from safehold.core.errors import DataError, IntegrityError, ResourceError, SafeholdError, UsageError
from safehold.data.guard import BUDGET, convert, gigabytes, sha256_of
from safehold.data.tables import COPIES, Rows

MAGIC = b"PAR1"

_MOST_PIECES = 1_000_000  # columns times row groups
_BATCH = 65_536  # rows that are decoded at once
_LONGEST_LABEL = 1000  # characters of an episode's name
_THRIFT = 16 * 2**20  # bytes of one text, and number of entries of one list, in the footer
_BROKEN = (OSError, ValueError, TypeError, KeyError, IndexError, OverflowError, RuntimeError, EOFError)
"""What pyarrow raises, by turns, for a broken file: its own errors are all of these kinds."""


@dataclass(frozen=True, slots=True)
class ParquetTable:
    """An open Parquet file whose footer was checked."""

    path: Path
    sha256: str
    budget: int
    names: tuple[str, ...]
    _file: Any

    def read(self, numbers: Sequence[str], key: str) -> Rows:
        """These columns of numbers; a null is blank.

        Raises:
            DataError: if a column holds lists, text, dictionaries or anything else but numbers.
            IntegrityError: if stored bytes are damaged, or rows are not as many as the footer says.
            ResourceError: if the footer claims more memory than the budget.
        """
        for name in numbers:
            self._check_type(name, _is_number, "numbers (integers, floats or booleans)")
        self._check_type(key, _is_label, "whole numbers or text")
        rows = self._check_claims(dict.fromkeys((*numbers, key)))
        values = {name: np.empty(rows) for name in numbers}
        blank = {name: np.empty(rows, dtype=np.bool_) for name in numbers}
        episode = np.empty(rows, dtype=np.int64)
        labels: dict[str, int] = {}
        done = 0
        with _refusing(f"{self.path}", IntegrityError):
            for batch in self._file.iter_batches(_BATCH, columns=[*dict.fromkeys((*numbers, key))], use_threads=False):
                part = slice(done, done + batch.num_rows)
                done += batch.num_rows
                if done > rows:
                    break
                for name in numbers:
                    values[name][part], blank[name][part] = self._numbers(name, batch.column(name))
                episode[part] = self._labels(key, batch.column(key), labels)
        if done != rows:
            raise IntegrityError(f"{self.path}: holds {done} rows or more, the footer says {rows}; fetch it again")
        return Rows(values=values, blank=blank, episode=episode, labels=tuple(labels))

    def _check_type(self, name: str, fits: Any, expected: str) -> None:
        kind = self._file.schema_arrow.field(name).type
        if not fits(kind):
            raise DataError(
                f"{self.path}: column {name!r} holds {str(kind)[:100]}; expected {expected}, one a row. Write lists as "
                "one column each, and decode dictionaries first"
            )

    def _check_claims(self, wanted: Sequence[str] | dict[str, None]) -> int:
        """The number of rows, if they and the pages they stand in fit the budget."""
        footer = self._file.metadata
        rows = int(footer.num_rows)
        groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
        if rows < 0 or any(group.num_rows < 0 for group in groups) or sum(group.num_rows for group in groups) != rows:
            raise DataError(f"{self.path}: the footer says {rows} rows, and its parts another number; fetch it again")
        inflated = 0
        for group in groups:
            for i in range(group.num_columns):
                piece = group.column(i)
                if piece.path_in_schema in wanted:
                    inflated = max(inflated, int(piece.total_uncompressed_size))
                    if int(piece.total_uncompressed_size) < 0:
                        raise DataError(f"{self.path}: a piece of {piece.path_in_schema} claims a negative size")
        claim = rows * 8 * COPIES * len(wanted) + inflated
        if claim > self.budget:
            raise ResourceError(
                f"{self.path}: claims {rows} rows and a piece of {gigabytes(inflated)}, {gigabytes(claim)} of memory "
                f"for {len(wanted)} columns; the budget is {gigabytes(self.budget)}. If the claim is true, give a "
                "larger budget or split the table"
            )
        return rows

    def _numbers(self, name: str, column: Any) -> tuple[np.ndarray, np.ndarray]:
        blank = np.asarray(column.is_null().to_numpy(zero_copy_only=False), dtype=np.bool_)
        filled = column.fill_null(False if str(column.type) == "bool" else 0) if blank.any() else column
        values = convert(f"{self.path}: {name}", filled.to_numpy(zero_copy_only=False), np.dtype(np.float64))
        return np.where(blank, math.nan, values), blank

    def _labels(self, name: str, column: Any, labels: dict[str, int]) -> list[int]:
        numbers = []
        for value in column.to_pylist():
            if value is None or len(str(value)) > _LONGEST_LABEL:
                raise DataError(
                    f"{self.path}: a row says no {name}, or too long a one; every row belongs to an episode"
                )
            numbers.append(labels.setdefault(str(value), len(labels)))
        return numbers


@contextmanager
def opened_parquet(path: Path, budget: int = BUDGET) -> Iterator[ParquetTable]:
    """A Parquet file for reading; hashed before and after.

    Raises:
        UsageError: if pyarrow is not installed.
        DataError: if the file is broken, encrypted, changes while it is read, or has two columns of one name.
        ResourceError: if its footer lists more pieces than any dataset has.
    """
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise UsageError(
            f"{path} is a Parquet file, which needs pyarrow: pip install 'safehold[parquet]', or write the table as CSV"
        ) from error
    before = sha256_of(path)
    with _refusing(str(path), DataError):
        file = parquet.ParquetFile(
            path,
            memory_map=False,
            pre_buffer=False,
            thrift_string_size_limit=_THRIFT,
            thrift_container_size_limit=_THRIFT,
            page_checksum_verification=True,
        )
        names = tuple(str(name) for name in file.schema_arrow.names)
        if file.metadata.num_columns * max(1, file.metadata.num_row_groups) > _MOST_PIECES:
            raise ResourceError(f"{path}: its footer lists more than {_MOST_PIECES} pieces")
        if len(set(names)) != len(names) or not all(name.isprintable() for name in names):
            raise DataError(f"{path}: a column has no printable name, or the same name as another")
    with file:
        yield ParquetTable(path, before, budget, names, file)
    if sha256_of(path) != before:
        raise DataError(f"{path}: the file changed while it was read; wait until its writer is done")


def _is_number(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))


def _is_label(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind))


@contextmanager
def _refusing(where: str, kind: type[DataError | IntegrityError]) -> Iterator[None]:
    """Turns whatever pyarrow raises over a broken file into one typed error."""
    try:
        yield
    except SafeholdError:
        raise
    except MemoryError as error:
        raise ResourceError(f"{where}: no memory for what the file claims") from error
    except _BROKEN as error:
        said = " ".join(str(error).split())[:300]
        raise kind(f"{where}: cannot be read as Parquet ({said}); it is damaged, fetch it again") from error
