"""Checkpoints: one directory of safetensors and JSON, sealed by SHA-256 sums; nothing in it is ever executed.

    tensors.safetensors   weights, optimiser moments, generator states
    meta.json             {"kind": ..., "meta": ...}: configuration, task, normaliser, progress
    manifest.json         sizes and SHA-256 sums of both, and their digest

The digest names the checkpoint: whoever pins it loads these bytes or none.
"""

import hashlib
import json
import math
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from safehold.core.errors import DataError, IntegrityError, ResourceError, UsageError

FORMAT = 1
_TENSORS, _META, _MANIFEST = "tensors.safetensors", "meta.json", "manifest.json"
_LARGEST_BYTES = {_MANIFEST: 1 << 16, _META: 1 << 26, _TENSORS: 1 << 33}
"""No file above these sizes is read: 64 kB, 64 MB, 8 GB."""
_LARGEST_HEADER_BYTES = 1 << 24
_ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What `load_checkpoint` found, sums checked. `digest` identifies every byte of it."""

    kind: str
    tensors: Mapping[str, torch.Tensor]
    meta: Mapping[str, Any]
    digest: str


def save_checkpoint(directory: Path, *, kind: str, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> str:
    """Writes a checkpoint whole or not at all, and returns its digest.

    Everything goes to a temporary directory beside the target, is flushed to disk, and is renamed at the end.

    Raises:
        UsageError: if the directory exists; a checkpoint is never overwritten.
        DataError: if `meta` holds something that JSON cannot, NaN included.
    """
    if directory.exists() or directory.is_symlink():
        raise UsageError(f"{directory} exists; checkpoints are never overwritten, choose another directory")
    contents = {
        _TENSORS: safetensors.torch.save({name: _plain(tensor) for name, tensor in tensors.items()}),
        _META: _json_bytes({"kind": kind, "meta": dict(meta)}, directory),
    }
    manifest = _manifest(contents)
    contents[_MANIFEST] = _json_bytes(manifest, directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        for name, content in contents.items():
            with open(temporary / name, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        _sync_directory(temporary)
        temporary.chmod(0o755)
        temporary.rename(directory)
        _sync_directory(directory.parent)
    finally:
        if temporary.exists():
            shutil.rmtree(temporary)
    return str(manifest["digest"])


def load_checkpoint(directory: Path, *, expected_digest: str | None = None) -> Checkpoint:
    """Reads a checkpoint after checking every byte of it against its sums.

    `expected_digest` pins the checkpoint: an older or another one under the same name is refused.

    Raises:
        IntegrityError: if a file is missing, cut, changed, or not the pinned one.
        DataError: if the bytes are as written but are no checkpoint of this format.
        ResourceError: if a file is larger than any checkpoint should be.
    """
    raw_manifest = _read(directory, _MANIFEST)
    with _as_data_error(directory / _MANIFEST):
        manifest = json.loads(raw_manifest)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DataError(
            f"{directory / _MANIFEST}: expected checkpoint format {FORMAT}; this is no checkpoint of this version"
        )
    contents = {name: _read(directory, name) for name in (_TENSORS, _META)}
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != _recorded_sum(manifest, name):
            raise IntegrityError(
                f"{directory / name}: its SHA-256 sum is not the one in {_MANIFEST}; the file was cut or changed after "
                "it was written. Restore it from a copy, or train again"
            )
    # The manifest must be byte for byte what we would write for these contents, so that it hides no change itself.
    expected = _manifest(contents)
    if _json_bytes(expected, directory) != raw_manifest:
        raise IntegrityError(f"{directory / _MANIFEST}: changed after it was written; restore it from a copy")
    digest = str(expected["digest"])
    if expected_digest is not None and digest != expected_digest:
        raise IntegrityError(
            f"{directory}: digest {digest[:16]}... where {expected_digest[:16]}... is pinned; this is another "
            "checkpoint under the same name"
        )
    with _as_data_error(directory / _META):
        envelope = json.loads(contents[_META])
        kind, meta = str(envelope["kind"]), dict(envelope["meta"])
    return Checkpoint(kind, _parse_tensors(contents[_TENSORS], directory / _TENSORS), meta, digest)


def module_tensors(module: torch.nn.Module, prefix: str) -> dict[str, torch.Tensor]:
    """Copies of a module's parameters and buffers, named "prefix.name"."""
    return {f"{prefix}.{name}": tensor.detach().clone() for name, tensor in module.state_dict().items()}


def restore_module(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor], prefix: str) -> None:
    """Puts "prefix.*" back into a module: every tensor, of the right shape and type, finite, and nothing else.

    Raises:
        DataError: naming the tensors that are missing, unknown, of another shape, or not finite.
    """
    wanted = module.state_dict()
    given = take(tensors, prefix)
    match_tensors({name: (tensor.shape, tensor.dtype) for name, tensor in wanted.items()}, given, prefix)
    module.load_state_dict(dict(given), strict=True)


def take(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors named "prefix.name", by name."""
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def match_tensors(
    wanted: Mapping[str, tuple[torch.Size, torch.dtype]], given: Mapping[str, torch.Tensor], where: str
) -> None:
    """Refuses tensors that are not exactly the wanted ones.

    Raises:
        DataError: naming the tensors that are missing, unknown, of another shape or type, or not finite.
    """
    if wanted.keys() != given.keys():
        missing, unknown = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
        raise DataError(
            f"{where}: tensors missing: {missing[:5]}, unknown: {unknown[:5]}; the checkpoint is of another method, "
            "configuration or version"
        )
    for name, (shape, dtype) in wanted.items():
        tensor = given[name]
        if tensor.shape != shape or tensor.dtype != dtype:
            raise DataError(
                f"{where}.{name}: expected {tuple(shape)} {dtype}, the checkpoint has {tuple(tensor.shape)} "
                f"{tensor.dtype}; it is of another task or configuration"
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise DataError(f"{where}.{name}: holds values that are not finite; it cannot be used, train again")


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """A contiguous copy on the CPU that shares memory with nothing, as safetensors wants it."""
    return tensor.detach().cpu().contiguous().clone()


def _json_bytes(value: Any, where: Path) -> bytes:
    """One canonical spelling a value."""
    try:
        return json.dumps(value, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=True).encode()
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: meta must be plain JSON without NaN: {error}") from error


def _manifest(contents: Mapping[str, bytes]) -> dict[str, Any]:
    files = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in sorted(contents.items())
    }
    digest = hashlib.sha256(json.dumps([FORMAT, files], sort_keys=True).encode()).hexdigest()
    return {"format": FORMAT, "files": files, "digest": digest}


def _recorded_sum(manifest: Mapping[str, Any], name: str) -> object:
    """The sum that the manifest records, None where it records none."""
    files = manifest.get("files")
    entry = files.get(name) if isinstance(files, dict) else None
    return entry.get("sha256") if isinstance(entry, dict) else None


def _read(directory: Path, name: str) -> bytes:
    """The bytes of a regular file, links not followed, size checked before reading."""
    path = directory / name
    try:
        status = path.lstat()
    except OSError as error:
        raise IntegrityError(
            f"{path}: missing; a checkpoint is a directory with {_TENSORS}, {_META} and {_MANIFEST}"
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise IntegrityError(f"{path}: not a regular file; links and devices are not followed")
    if status.st_size > _LARGEST_BYTES[name]:
        raise ResourceError(f"{path}: {status.st_size} bytes, more than the {_LARGEST_BYTES[name]} that are read")
    return path.read_bytes()


@contextmanager
def _as_data_error(path: Path) -> Iterator[None]:
    """Turns whatever a parser raises on hostile text into a refusal that names the file."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path}: not what a checkpoint holds there: {error!r}") from error


def _parse_tensors(content: bytes, path: Path) -> dict[str, torch.Tensor]:
    """Tensors from safetensors bytes, after checking the header against the bytes that are there."""
    with _as_data_error(path):
        if len(content) < 8:
            raise ValueError(f"{len(content)} bytes, too short for a header")
        header_bytes = int.from_bytes(content[:8], "little")
        if header_bytes > min(_LARGEST_HEADER_BYTES, len(content) - 8):
            raise ValueError(f"claims a header of {header_bytes} bytes in a file of {len(content)}")
        header = json.loads(content[8 : 8 + header_bytes])
        spans = sorted(_span(name, entry) for name, entry in header.items() if name != "__metadata__")
        end = 0
        for start, stop, name in spans:
            if start != end:
                raise ValueError(f"tensor {name!r} begins at byte {start}, where {end} is due: overlap or gap")
            end = stop
        if end != len(content) - 8 - header_bytes:
            raise ValueError(f"tensors end at byte {end} of {len(content) - 8 - header_bytes}")
        try:
            return dict(safetensors.torch.load(content))
        except Exception as error:  # the parser's own error class is not exported
            raise ValueError(str(error)) from error


def _span(name: str, entry: Mapping[str, Any]) -> tuple[int, int, str]:
    """First byte, last byte + 1 and name of a tensor, its size checked against its shape."""
    start, stop = (int(value) for value in entry["data_offsets"])
    shape = [int(size) for size in entry["shape"]]
    if min([0, *shape]) < 0 or stop - start != math.prod(shape) * _ITEM_BYTES[entry["dtype"]]:
        raise ValueError(f"tensor {name!r} of shape {shape} cannot fill bytes {start} to {stop}")
    return start, stop, name


def _sync_directory(directory: Path) -> None:
    """Makes the names in a directory durable."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
