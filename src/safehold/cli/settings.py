"""Settings of a method from a preset and a TOML file, below what the flags say."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from safehold.cli.arguments import nearest
from safehold.core.config import Config
from safehold.core.errors import UsageError
from safehold.report.plain_text import inert

C = TypeVar("C", bound=Config)

_LARGEST = 1024 * 1024  # characters of a file of settings


def value_of(flag: str, argv: Sequence[str]) -> str | None:
    """The last value that the raw words give to a flag, None if they do not."""
    found = None
    for place, word in enumerate(argv):
        if word == flag and place + 1 < len(argv):
            found = argv[place + 1]
        elif word.startswith(f"{flag}="):
            found = word.partition("=")[2]
    return found


def from_file(base: C, path: Path) -> C:
    """The base with what a TOML file says instead.

    Raises:
        UsageError: if the file cannot be read, is no TOML, or sets an unknown key or an impossible value.
    """
    said = read_toml(path)
    unknown = [key for key in said if key not in type(base).model_fields]
    if unknown:
        raise UsageError(
            f"{path}: there is no setting {inert(unknown[0])!r}.{nearest(unknown[0], type(base).model_fields)}"
        )
    return _validated(base, said, path)


def read_toml(path: Path) -> dict[str, Any]:
    """What a TOML file of settings says.

    Raises:
        UsageError: if the file cannot be read, is too large, or is no TOML.
    """
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_LARGEST + 1)
        if len(text) > _LARGEST:
            raise UsageError(f"{path} has more than {_LARGEST} characters; settings are smaller")
        return tomllib.loads(text)
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read as TOML: {error}") from error


def _validated(base: C, said: Mapping[str, Any], path: Path) -> C:
    """TOML has types of its own: a text is no number, 1.5 no count."""
    try:
        return type(base).model_validate({**base.model_dump(), **_with_tuples(said)}, strict=True)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        shown = inert(repr(problem["input"]), 60)
        raise UsageError(f"{path}: {place or 'settings'} = {shown}: {problem['msg']}") from error


def _with_tuples(said: Mapping[str, Any]) -> dict[str, Any]:
    """TOML's arrays as the tuples that settings hold."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in said.items()}
