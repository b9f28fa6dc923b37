"""`metadata.json` of a Minari dataset, as plain values: nothing that it names is opened, imported or made.

`minari.load_dataset` builds an environment from text in this file wherever a space is missing, and such a text can
name any callable. Here the environment is said, and refused if it is a module where no environment can be.
"""

import hashlib
import math
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from safehold.core.errors import DataError
from safehold.data.source import MOST_JSON, bounded_bytes, json_object, utf8

METADATA_FILE = "metadata.json"

_MOST_VALUES = 10**7
"""Values of one observation or action."""

_LONGEST = 10**9
"""Steps of an episode."""

_ENTRY_POINT = re.compile(r"([A-Za-z_]\w*(?:\.\w+)*):[A-Za-z_]\w*(?:\.\w+)*", re.ASCII)
_ENVIRONMENT_ID = re.compile(r"(?:([A-Za-z_]\w*(?:\.\w+)*):)?(?:[\w.-]+/)*[\w.-]+", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """One array of an observation or an action: its path in the episode, the values in a row, and their bounds."""

    path: str
    size: int
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    n: int | None = None
    start: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """What `metadata.json` says, as plain values; None and empty where it does not."""

    sha256: str | None = None
    dataset_id: str | None = None
    environment: str | None = None
    horizon: int | None = None
    observation: tuple[Leaf, ...] | None = None
    action: Leaf | None = None
    episodes: int | None = None
    steps: int | None = None


def read_metadata(path: Path, *, needed: bool) -> Metadata:
    """`metadata.json`, as plain values; nothing that it names is opened, imported or made."""
    if not path.exists() and not path.is_symlink():
        if needed:
            raise DataError(
                f"{path}: there is no such file; it says what observations and actions are. Fetch the whole directory "
                "of the dataset, or give the task that the data is of"
            )
        return Metadata()
    check_inside(path)
    content = bounded_bytes(path, MOST_JSON)
    said = json_object(str(path), utf8(str(path), content))
    _check_texts(path, said)
    if said.get("data_format", "hdf5") != "hdf5":
        raise DataError(
            f"{path}: data_format is {str(said['data_format'])[:40]!r}; datasets in hdf5 are read. Save it so"
        )
    environments = [_environment(path, name, said[name]) for name in ("env_spec", "eval_env_spec") if said.get(name)]
    environment, horizon = environments[0] if environments else (None, None)
    missing = [name for name in ("observation_space", "action_space") if said.get(name) is None]
    if missing and needed:
        raise DataError(
            f"{path}: no {missing[0]}; Minari would make the environment {environment!r} to find it, which is never "
            "done here. Give the task that the data is of"
        )
    observation = action = None
    if "observation_space" not in missing:
        observation = tuple(_leaves(path, "observations", _space(path, "observation_space", said["observation_space"])))
    if "action_space" not in missing:
        action = _one_action(path, _space(path, "action_space", said["action_space"]))
    return Metadata(
        sha256=hashlib.sha256(content).hexdigest(),
        dataset_id=_short_text(said.get("dataset_id")),
        environment=environment,
        horizon=horizon,
        observation=observation,
        action=action,
        episodes=_count(path, "total_episodes", said.get("total_episodes")),
        steps=_count(path, "total_steps", said.get("total_steps")),
    )


def check_inside(path: Path) -> None:
    """A link in a dataset's directory must not lead out of it."""
    inside, target = path.parent.resolve(), path.resolve()
    if not target.is_relative_to(inside):
        raise DataError(
            f"{path} is a link to {target}, outside its directory, which was not opened; copy the file there"
        )


def _check_texts(path: Path, said: Mapping[str, Any]) -> None:
    """No name or path of the metadata may lead elsewhere, even though none of them is followed."""
    for name, value in said.items():
        if not isinstance(value, str) or name == "description":
            continue
        parts = value.replace("\\", "/").split("/")
        if ".." in parts or (name == "dataset_id" and (parts[0] == "" or not value.isprintable())):
            raise DataError(
                f"{path}: {name[:40]!r} is {value[:80]!r}, which leads out of the dataset; nothing was opened"
            )


def _environment(path: Path, name: str, said: Any) -> tuple[str, int | None]:
    """Id and horizon of an environment's description, refused if it names what no environment is."""
    plain = json_object(f"{path}: {name}", said) if isinstance(said, str) else said
    if not isinstance(plain, dict) or not isinstance(plain.get("id"), str):
        raise DataError(f"{path}: {name} is no description of an environment; expected an object with an id")
    identity = _ENVIRONMENT_ID.fullmatch(plain["id"])
    if identity is None:
        raise DataError(f"{path}: {name} has the id {plain['id'][:80]!r}, which is no name of an environment")
    wrappers = plain.get("additional_wrappers") or ()
    if not isinstance(wrappers, (list, tuple)) or not all(isinstance(wrapper, dict) for wrapper in wrappers):
        raise DataError(f"{path}: {name} has additional_wrappers that are no list of objects")
    points = [plain.get("entry_point"), plain.get("vector_entry_point"), *(w.get("entry_point") for w in wrappers)]
    modules = [identity.group(1)] if identity.group(1) else []
    for point in points:
        if point is None:
            continue
        fits = _ENTRY_POINT.fullmatch(point) if isinstance(point, str) else None
        if fits is None:
            raise DataError(f"{path}: {name} names {str(point)[:80]!r} as an entry point, which is none")
        modules.append(fits.group(1))
    hostile = [module for module in modules if module.split(".")[0] in {*sys.stdlib_module_names, "builtins"}]
    if hostile:
        raise DataError(
            f"{path}: {name} names {hostile[0]!r} of Python's own library, where no environment is: this file wants "
            "something run. Nothing was imported; do not open it with other programs"
        )
    horizon = _count(path, f"max_episode_steps of {name}", plain.get("max_episode_steps"))
    if horizon is not None and not 1 <= horizon <= _LONGEST:
        raise DataError(f"{path}: {name} ends episodes after {horizon} steps; expected a number from 1 to {_LONGEST:,}")
    return plain["id"], horizon


def _space(path: Path, name: str, said: Any) -> Mapping[str, Any]:
    plain = json_object(f"{path}: {name}", said) if isinstance(said, str) else said
    if not isinstance(plain, dict):
        raise DataError(f"{path}: {name} is no description of a space")
    return plain


def _leaves(path: Path, place: str, space: Mapping[str, Any]) -> Iterator[Leaf]:
    """The arrays of a space in its own order; a Dict has one an entry.

    Raises:
        DataError: if the space is of another kind, or does not fit itself.
    """
    kind = space.get("type")
    if kind == "Dict":
        inner = space.get("subspaces")
        if not isinstance(inner, dict) or not inner:
            raise DataError(f"{path}: the Dict space of {place} has no subspaces")
        for name, subspace in inner.items():
            if not name.isprintable() or "/" in name or name in ("", ".", "..") or not isinstance(subspace, dict):
                raise DataError(f"{path}: the Dict space of {place} has the entry {name[:40]!r}, which is none")
            yield from _leaves(path, f"{place}/{name}", subspace)
    elif kind == "Box":
        yield _box(path, place, space)
    elif kind == "Discrete":
        n, start = space.get("n"), space.get("start", 0)
        if not (isinstance(n, int) and isinstance(start, int) and 1 <= n < 2**24 and abs(start) < 2**23):
            raise DataError(f"{path}: the Discrete space of {place} has n={n!r}, start={start!r}")
        yield Leaf(path=place, size=1, n=n, start=start)
    else:
        raise DataError(
            f"{path}: {place} are of the space {str(kind)[:40]!r}; Box, Discrete and Dict of these are read"
        )


def _box(path: Path, place: str, space: Mapping[str, Any]) -> Leaf:
    shape = space.get("shape")
    whole = isinstance(shape, list) and all(isinstance(n, int) and 1 <= n <= _MOST_VALUES for n in shape)
    if not isinstance(shape, list) or not whole or math.prod(shape) > _MOST_VALUES:
        raise DataError(f"{path}: the Box space of {place} has the shape {str(shape)[:80]}")
    try:
        said = [np.asarray(space[name], dtype=np.float64) for name in ("low", "high")]
        low, high = (np.broadcast_to(b, shape).ravel() if b.ndim == 0 else b.reshape(math.prod(shape)) for b in said)
        if not (low <= high).all():  # nor is it where a bound is no number
            raise ValueError("a bound is no number, or a lower one above its upper one")
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{path}: the Box space of {place} has bounds that do not fit its shape {shape}") from error
    return Leaf(path=place, size=math.prod(shape), low=tuple(low.tolist()), high=tuple(high.tolist()))


def _one_action(path: Path, space: Mapping[str, Any]) -> Leaf:
    leaves = tuple(_leaves(path, "actions", space))
    if len(leaves) != 1 or leaves[0].path != "actions":
        raise DataError(f"{path}: actions are of a Dict space; one Box or Discrete is read")
    return leaves[0]


def _count(path: Path, name: str, said: Any) -> int | None:
    """A number of episodes or steps; NumPy writes some of them as floats."""
    if said is None:
        return None
    if isinstance(said, bool) or not isinstance(said, (int, float)) or not 0 <= said < 2**53 or said != int(said):
        raise DataError(f"{path}: {name} is {str(said)[:40]}; expected a whole number")
    return int(said)


def _short_text(said: Any) -> str | None:
    return said[:200] if isinstance(said, str) else None
