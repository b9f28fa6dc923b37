"""What every container of named arrays offers a reader of layouts, be it an HDF5 file or an .npz archive."""

import io
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from safehold.core.errors import DataError, ResourceError
from safehold.data.findings import Finding

MOST_JSON = 2**20
"""Bytes of JSON text that are parsed; what describes a task or a dataset is far smaller."""

DEEPEST_JSON = 32
"""Lists and objects inside each other in such a text."""


@runtime_checkable
class Source(Protocol):
    """An open container whose claims were checked; only its numeric arrays and its texts can be read."""

    @property
    def path(self) -> Path:
        """The file."""
        ...

    @property
    def sha256(self) -> str:
        """SHA-256 of the file's bytes, in hex."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """Arrays at the root."""
        ...

    @property
    def groups(self) -> tuple[str, ...]:
        """Groups at the root."""
        ...

    def has(self, name: str) -> bool:
        """Whether there is an array of this name, or at this path with slashes."""
        ...

    def text(self, name: str) -> str | None:
        """A text at the root, None if there is none of this name."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of an array, as the container claims it."""
        ...

    def arrays(self, wanted: Mapping[str, np.dtype[Any]]) -> tuple[dict[str, np.ndarray], tuple[Finding, ...]]:
        """Reads arrays, each converted to the type wanted; all claims are added up before the first allocation."""
        ...


def first_bytes(path: Path, count: int = 32) -> bytes:
    """How a plain file begins.

    Raises:
        DataError: if it is missing, empty, cannot be read, or is no plain file.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{path}: not a plain file; give the path of one file")
        with path.open("rb") as file:
            start = file.read(count)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    if not start:
        raise DataError(f"{path}: the file is empty (0 bytes); the copy or the download did not finish")
    return start


def bounded_bytes(path: Path, limit: int) -> bytes:
    """A whole small file.

    Raises:
        DataError: if it cannot be read.
        ResourceError: if it has more than `limit` bytes; no more than that is read.
    """
    first_bytes(path)
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    if len(content) > limit:
        raise ResourceError(f"{path}: has more than {limit} bytes; what it should say takes a few thousand")
    return content


def json_object(where: str, text: str) -> dict[str, Any]:
    """The JSON object in a text.

    Raises:
        DataError: if it is none, is nested more than `DEEPEST_JSON` levels, or holds half a surrogate pair.
        ResourceError: if it is longer than `MOST_JSON`.
    """
    if len(text) > MOST_JSON:
        raise ResourceError(f"{where}: {len(text)} characters of JSON; at most {MOST_JSON} are parsed")
    try:
        plain = json.loads(text)
        json.dumps(plain, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON ({error})") from error
    if not isinstance(plain, dict):
        raise DataError(f"{where} must be a JSON object, got {type(plain).__name__}")
    if _depth(plain) > DEEPEST_JSON:
        raise DataError(f"{where} is nested more than {DEEPEST_JSON} levels deep; descriptions are flat")
    return plain


def _depth(plain: Any) -> int:
    """Levels of lists and objects, by levels rather than by recursion."""
    level, depth = [plain], 0
    while level:
        level = [
            inner
            for value in level
            if isinstance(value, (dict, list))
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
        depth += 1
    return depth


def utf8(where: str, content: bytes) -> str:
    """Bytes as text.

    Raises:
        DataError: if they are no UTF-8, with the place.
    """
    try:
        return io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig").read()
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is no UTF-8 text ({error})") from error
