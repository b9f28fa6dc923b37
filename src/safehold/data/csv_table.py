"""Text tables (CSV) that a stranger made, read line by line within bounds."""

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

from safehold.core.errors import DataError, ResourceError
from safehold.data.guard import BUDGET, gigabytes, named, sha256_of
from safehold.data.source import first_bytes
from safehold.data.tables import COPIES, Rows

SUFFIXES = (".csv", ".tsv")

_LONGEST_LINE = 2**20  # characters
_MOST_COLUMNS = 10_000
_CHUNK = 8192  # rows that are parsed before they become an array
_TRUTH = {"true": 1.0, "false": 0.0}


@dataclass(frozen=True, slots=True)
class CsvTable:
    """An open text table whose header was read."""

    path: Path
    sha256: str
    budget: int
    names: tuple[str, ...]
    _delimiter: str

    def read(self, numbers: Sequence[str], key: str) -> Rows:
        """These columns of numbers; a value that is left out is blank.

        Raises:
            DataError: naming the line of the first value that is no number, or of a row of another length.
            ResourceError: if the table takes more memory than the budget.
        """
        places, key_place = [self.names.index(name) for name in numbers], self.names.index(key)
        most = self.budget // (8 * COPIES * (len(places) + 1))
        labels: dict[str, int] = {}
        chunks: list[np.ndarray] = [np.empty((0, len(places)))]
        blanks: list[np.ndarray] = [np.empty((0, len(places)), dtype=np.bool_)]
        episode: list[int] = []
        pending: list[list[str]] = []
        lines: list[int] = []
        records = _records(self.path, self._delimiter)
        next(records, None)  # the header
        for line, row in records:
            if len(row) != len(self.names):
                raise DataError(f"{self.path}: line {line} has {len(row)} values, the header {len(self.names)}")
            label = row[key_place].strip()
            if not label:
                raise DataError(f"{self.path}: line {line} says no {key}; every row belongs to an episode")
            episode.append(labels.setdefault(label, len(labels)))
            pending.append([row[place] for place in places])
            lines.append(line)
            if len(episode) > most:
                raise ResourceError(
                    f"{self.path}: more than {most} rows of {len(places)} columns take over {gigabytes(self.budget)} "
                    "of memory; give a larger budget or split the table"
                )
            if len(pending) == _CHUNK:
                _parse(self.path, numbers, pending, lines, chunks, blanks)
        _parse(self.path, numbers, pending, lines, chunks, blanks)
        values, blank = np.concatenate(chunks), np.concatenate(blanks)
        return Rows(
            values={name: values[:, i] for i, name in enumerate(numbers)},
            blank={name: blank[:, i] for i, name in enumerate(numbers)},
            episode=np.array(episode, dtype=np.int64),
            labels=tuple(labels),
        )


@contextmanager
def opened_csv(path: Path, delimiter: str = ",", budget: int = BUDGET) -> Iterator[CsvTable]:
    """A text table for reading; hashed before and after.

    Raises:
        DataError: if it is no UTF-8 text, has no header, a column without a name or twice, or changes while it is read.
    """
    first_bytes(path)
    before = sha256_of(path)
    _, header = next(_records(path, delimiter), (0, []))
    names = tuple(name.strip() for name in header)
    bad = [name for name in names if not name or not name.isprintable() or names.count(name) > 1]
    if not names or len(names) > _MOST_COLUMNS or bad:
        what = f"the column {bad[0]!r} has no name, or the same as another" if bad else f"{len(names)} columns"
        raise DataError(f"{path}: the first line must name each column once; {what}")
    if len(names) == 1:
        raise DataError(
            f"{path}: the first line is one column, {names[0][:60]!r}; values are parted by {delimiter!r} unless "
            "another delimiter is declared"
        )
    yield CsvTable(path, before, budget, names, delimiter)
    if sha256_of(path) != before:
        raise DataError(f"{path}: the file changed while it was read; wait until its writer is done")


def _records(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The header and each row, with the number of the line where it ends; empty lines are no rows."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(_lines(path, file), delimiter=delimiter, strict=True)
            for row in reader:
                if row:
                    yield reader.line_num, row
    except UnicodeDecodeError as error:
        start = first_bytes(path)[:16]
        raise DataError(f"{path}: no UTF-8 text: it begins with {start!r}, {named(start)} ({error.reason})") from error
    except csv.Error as error:
        raise DataError(f"{path}: no table of values parted by {delimiter!r}: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error


def _lines(path: Path, file: TextIO) -> Iterator[str]:
    while line := file.readline(_LONGEST_LINE):
        if len(line) == _LONGEST_LINE:
            raise DataError(f"{path}: a line has {_LONGEST_LINE} characters or more; a row is shorter")
        yield line


def _parse(
    path: Path,
    names: Sequence[str],
    pending: list[list[str]],
    lines: list[int],
    chunks: list[np.ndarray],
    blanks: list[np.ndarray],
) -> None:
    """Turns the pending rows into arrays, and empties the list of them."""
    if not pending:
        return
    try:
        if not all(_plain("".join(row)) for row in pending):
            raise ValueError("digits of another script, or underscores")
        chunks.append(np.array([[float(text) for text in row] for row in pending]))
        blanks.append(np.zeros(chunks[-1].shape, dtype=np.bool_))
    except ValueError:
        values = [
            [_number(path, line, name, text) for name, text in zip(names, row, strict=True)]
            for line, row in zip(lines, pending, strict=True)
        ]
        blanks.append(np.array([[value is None for value in row] for row in values]))
        chunks.append(np.array([[np.nan if value is None else value for value in row] for row in values]))
    pending.clear()
    lines.clear()


def _number(path: Path, line: int, name: str, text: str) -> float | None:
    """One value; None if it is left out."""
    stripped = text.strip()
    if not stripped:
        return None
    try:
        if _plain(stripped):
            return _TRUTH.get(stripped.lower(), float("nan")) if stripped.lower() in _TRUTH else float(stripped)
    except ValueError:
        pass
    raise DataError(f"{path}: line {line}, column {name!r}: {stripped[:40]!r} is no number")


def _plain(text: str) -> bool:
    """Python reads 1_0 and digits of every script as numbers; a table that holds them is no table of numbers."""
    return text.isascii() and "_" not in text
