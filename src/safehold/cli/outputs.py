"""Where a command may write: never over something that is there, unless that was asked for."""

import shutil
from pathlib import Path

from safehold.core.errors import UsageError


def free_file(path: Path, *, overwrite: bool) -> Path:
    """The path, if a file may be written there.

    Raises:
        UsageError: if something is there already, or its directory is not.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a directory; name a file")
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists; choose another name, or give --overwrite")
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent} is not a directory; make it first")
    return path


def free_directory(path: Path, *, resume: bool = False) -> Path:
    """The path, if a run may be made there: nothing is there yet, or an empty directory, or `resume` is set.

    Raises:
        UsageError: if something else is there.
    """
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file; name a directory")
    if path.is_dir() and any(path.iterdir()) and not resume:
        raise UsageError(f"{path} exists and is not empty; choose another directory, or give --resume to go on there")
    return path


def clear_run(directory: Path) -> None:
    """Removes a run of ours, so that another can be made in its place; nothing is done where there is nothing.

    Raises:
        UsageError: if the directory holds something that is no run of ours.
    """
    if not directory.exists():
        return
    if not directory.is_dir() or directory.is_symlink():
        raise UsageError(f"{directory} is no directory of a run; --overwrite removes runs only")
    if any(directory.iterdir()) and not any((directory / name).is_file() for name in ("config.json", "manifest.json")):
        raise UsageError(f"{directory} holds no run that this command made; --overwrite removes runs only")
    shutil.rmtree(directory)
