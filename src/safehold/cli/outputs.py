"""Where a command may write: never over something that is there, unless that was asked for."""

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


def no_file(path: Path) -> None:
    """Refuses a directory's path that is, or leads through, a file.

    Raises:
        UsageError: naming the file.
    """
    for place in (path, *path.parents):
        if place.exists() and not place.is_dir():
            raise UsageError(f"{place} is a file; name a directory")


def free_directory(path: Path, *, resume: bool = False) -> Path:
    """The path, if a run may be made there: nothing is there yet, or an empty directory, or `resume` is set.

    Raises:
        UsageError: if something else is there.
    """
    no_file(path)
    if path.is_dir() and any(path.iterdir()) and not resume:
        raise UsageError(f"{path} exists and is not empty; choose another directory, or give --resume to go on there")
    return path
