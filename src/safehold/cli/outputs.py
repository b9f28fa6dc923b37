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


def free_picture(path: Path, *, overwrite: bool) -> Path:
    """The path, if a picture may be written there.

    Raises:
        UsageError: if its suffix is none of a picture, or something is there already.
    """
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise UsageError(f"--picture {path}: a picture ends in .png, .svg or .pdf")
    return free_file(path, overwrite=overwrite)


def no_file(path: Path) -> None:
    """Refuses a directory's path that is, or leads through, a file.

    Raises:
        UsageError: naming the file.
    """
    for place in (path, *path.parents):
        if place.exists() and not place.is_dir():
            raise UsageError(f"{place} is a file; name a directory")


def free_directory(path: Path) -> Path:
    """The path, if a run may be made there: nothing is there yet, or an empty directory.

    Raises:
        UsageError: if something else is there.
    """
    no_file(path)
    if path.is_dir() and any(path.iterdir()):
        raise UsageError(f"{path} exists and is not empty; choose another directory, or give --resume to go on there")
    return path


def resumable_training(path: Path) -> Path:
    """The path, if training can go on there: it holds what training leaves and nothing else, or nothing at all.

    Raises:
        UsageError: naming what else is there.
    """
    no_file(path)
    if not path.is_dir():
        return path
    named = ((place, place.name.lstrip(".")) for place in path.iterdir())
    foreign = [place.name for place, name in named if name.split(".")[0] not in ("checkpoints", "policy")]
    checkpoints = path / "checkpoints"
    if checkpoints.is_dir():  # numbered by updates; a write that was cut short begins with a dot
        steps = ((place, place.name.lstrip(".").split(".")[0]) for place in checkpoints.iterdir())
        foreign += [f"checkpoints/{place.name}" for place, name in steps if not name.isdigit()]
    if foreign:
        raise UsageError(f"{path} holds {min(foreign)!r}, which no training makes; name the directory of a training")
    return path
