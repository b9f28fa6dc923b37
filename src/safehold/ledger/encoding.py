"""Canonical JSON of frozen values: one spelling a value, nothing non-finite, nothing unexpected on the way back."""

import json
import math
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from safehold.core.errors import DataError, IntegrityError

Value = TypeVar("Value")


def canonical(plain: object) -> str:
    """The one JSON text of plain values: sorted keys, no spaces, ASCII, shortest floats that read back exactly.

    Raises:
        DataError: if a number is NaN or infinite, or a value is not plain JSON.
    """
    try:
        return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"cannot be written to a ledger: {error}; ledgers hold finite numbers and plain JSON"
        ) from error


def to_plain(value: object) -> Any:
    """Frozen dataclasses, tuples, mappings and scalars as plain JSON values."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_plain(item) for item in value]
    return value


def from_plain(kind: type[Value], plain: object, where: str) -> Value:
    """The dataclass `kind` read back from plain JSON values; unknown and missing fields are refused.

    Raises:
        IntegrityError: naming the field that is not what it must be.
    """
    return cast(Value, _decode(kind, plain, where))


@cache
def _hints(kind: type) -> dict[str, Any]:
    """Types of a dataclass' fields."""
    return get_type_hints(kind)


def _decode(kind: Any, plain: Any, where: str) -> Any:
    """One value of an annotated type."""
    if kind is object:
        return plain
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _decode_union(get_args(kind), plain, where)
    if origin is Literal:
        return _expect(plain in get_args(kind), plain, f"one of {get_args(kind)}", where)
    if origin is tuple:
        item = get_args(kind)[0]
        _expect(isinstance(plain, list), plain, "a list", where)
        return tuple(_decode(item, value, f"{where}[{place}]") for place, value in enumerate(plain))
    if origin is not None and issubclass(origin, Mapping):
        item = get_args(kind)[1]
        _expect(isinstance(plain, dict), plain, "an object", where)
        return {key: _decode(item, value, f"{where}.{key}") for key, value in plain.items()}
    if is_dataclass(kind):
        return _decode_fields(cast(type, kind), plain, where)
    return _decode_scalar(kind, plain, where)


def _decode_union(kinds: tuple[Any, ...], plain: Any, where: str) -> Any:
    """`X | None`, the only union in a ledger."""
    if plain is None and type(None) in kinds:
        return None
    return _decode(next(kind for kind in kinds if kind is not type(None)), plain, where)


def _decode_fields(kind: type, plain: Any, where: str) -> Any:
    """A dataclass from an object with exactly its fields."""
    _expect(isinstance(plain, dict), plain, "an object", where)
    hints = {field.name: _hints(kind)[field.name] for field in fields(kind)}
    if set(plain) != set(hints):
        raise IntegrityError(
            f"{where}: expected the fields {sorted(hints)}, got {sorted(plain)}; written by another version, or altered"
        )
    return kind(**{name: _decode(hint, plain[name], f"{where}.{name}") for name, hint in hints.items()})


def _decode_scalar(kind: Any, plain: Any, where: str) -> Any:
    """A float, int, bool or str."""
    if kind is float:
        fits = isinstance(plain, (int, float)) and not isinstance(plain, bool) and math.isfinite(plain)
        return float(_expect(fits, plain, "a finite number", where))
    fits = isinstance(plain, kind) and not (kind is int and isinstance(plain, bool))
    return _expect(fits, plain, kind.__name__, where)


def _expect(condition: bool, plain: Any, expected: str, where: str) -> Any:
    """The value, if it is what it must be."""
    if not condition:
        raise IntegrityError(f"{where}: expected {expected}, got {str(plain)[:80]!r}; the ledger was altered")
    return plain
