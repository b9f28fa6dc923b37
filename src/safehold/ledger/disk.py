"""Files of a run on their disk: whole or not at all, on a local file system, every failure by its name."""

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safehold.core.errors import IntegrityError, ResourceError, SafeholdError, UsageError

# Several hosts may see one of these at once, and SQLite's shared memory works within one host only.
_NETWORK_FILE_SYSTEMS = frozenset(
    (
        *("nfs", "nfs4", "cifs", "smb", "smbfs", "smb2", "smb3", "ncpfs", "afs", "coda", "davfs", "9p"),
        *("ceph", "glusterfs", "lustre", "gpfs", "beegfs", "pvfs2", "orangefs", "ocfs2", "gfs2"),
        *("fuse.sshfs", "fuse.s3fs", "fuse.rclone", "fuse.gcsfuse", "fuse.glusterfs", "fuse.ceph", "fuse.davfs"),
    )
)

_BUSY = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL")
_NO_SPACE = ("SQLITE_FULL",)
_NOT_READ = ("SQLITE_IOERR_READ", "SQLITE_IOERR_SHORT_READ", "SQLITE_IOERR_CORRUPTFS", "SQLITE_IOERR_DATA")
_NOT_WRITTEN = ("SQLITE_IOERR", "SQLITE_READONLY")
_NOT_OPENED = ("SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_AUTH")


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """What SQLite and the operating system say about `path`, in our own family of errors.

    Raises:
        ResourceError: if the disk is full, read-only, forbidden or failing, or another process is in the way.
        IntegrityError: if the bytes are not those of a ledger.
        UsageError: if the ledger was closed, or is used from another thread.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise _of_sqlite(path, error) from error
    except UnicodeDecodeError as error:  # of SQLite's own message, which quotes what it cannot make sense of
        raise IntegrityError(f"{path}: its layout is scribbled over ({error}); restore a backup, or recover") from error
    except OSError as error:
        raise ResourceError(f"{error.filename or path}: {error.strerror or error}; {_remedy(error)}") from error


def _of_sqlite(path: Path, error: sqlite3.Error) -> SafeholdError:
    """Our error for one of SQLite's."""
    name = getattr(error, "sqlite_errorname", None) or ""
    if isinstance(error, sqlite3.ProgrammingError):
        return UsageError(f"{path}: {error}; open the ledger again, in the thread that uses it")
    if name.startswith(_BUSY):
        return ResourceError(f"{path}: {error}: another writer held the ledger for too long; try again")
    if name.startswith(_NO_SPACE):
        return ResourceError(f"{path}: {error}; nothing was recorded, free some space and try again")
    if name.startswith(_NOT_READ):
        return IntegrityError(f"{path}: {error} ({name}): it cannot be read back from its disk; restore a backup")
    if name.startswith(_NOT_WRITTEN):
        return ResourceError(
            f"{path}: {error} ({name}): its disk does not take what is written, because it is read-only, full, over a "
            "quota or failing; nothing was acknowledged. Mend that and try again"
        )
    if name.startswith(_NOT_OPENED):
        return ResourceError(f"{path}: {error}: {_why_not_opened(path)}")
    if isinstance(error, sqlite3.IntegrityError):
        return IntegrityError(f"{path}: {error}; the ledger refuses this row, and nothing was recorded")
    return IntegrityError(f"{path}: {error}; the file is damaged and was left as it is. Restore a backup, or recover")


def _why_not_opened(path: Path) -> str:
    """What kept SQLite from opening a file; the file itself is not touched.

    Closing a second descriptor of a database would drop the locks that this process holds on it.
    """
    try:
        os.close(os.open(path.parent, os.O_RDONLY))
    except OSError as error:
        return f"{error.strerror}; {_remedy(error)}"
    if path.exists() and not os.access(path, os.R_OK):
        return "you may not read it; ask its owner, or run as the user who made it"
    if not os.access(path.parent, os.W_OK):
        return (
            "its directory cannot be written, and SQLite keeps its -wal and -shm files there; "
            "copy the whole directory to where you may write"
        )
    return "are its -wal, -shm and -journal files yours, and is the number of open files under its limit?"


def _remedy(error: OSError) -> str:
    """What to do about an error of the operating system."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            return "free some space and try again"
        case errno.EROFS:
            return "the disk is read-only; copy the run to one that is not"
        case errno.EACCES | errno.EPERM:
            return "ask its owner for the right, or run as the user who made it"
        case errno.EMFILE | errno.ENFILE:
            return "too many files are open; close some, or raise the limit (ulimit -n)"
        case errno.ENOENT | errno.ENOTDIR | errno.ESTALE:
            return "it was moved or deleted; put it back where it was"
        case _:
            return "look after the disk and try again"


def replace_durably(path: Path, text: str) -> None:
    """New content for a small file: the old or the new after any crash, never a part; durable when this returns."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    synchronise_directory(path.parent)


def rename_durably(old: Path, new: Path) -> None:
    """A file under its final name; content and name durable when this returns."""
    descriptor = os.open(old, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    old.rename(new)
    synchronise_directory(new.parent)


def synchronise_directory(directory: Path) -> None:
    """Makes the names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def refuse_network_file_system(directory: Path) -> None:
    """SQLite's locks and shared memory do not work over a network.

    Raises:
        ResourceError: naming the file system.
    """
    kind = file_system(directory, Path("/proc/self/mounts"))
    if kind in _NETWORK_FILE_SYSTEMS:
        raise ResourceError(
            f"{directory} is on a network file system ({kind}), where SQLite's locks do not hold; "
            "keep the run on a local disk and copy it with `safehold deploy backup`"
        )


def file_system(directory: Path, mounts: Path) -> str:
    """Type of the file system that holds a directory, "" where the platform does not tell.

    `mounts` is in the format of proc(5): blanks in the names are octal escapes, and of two file systems mounted on
    one place the later one is seen.
    """
    try:
        lines = [line.split() for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        return ""
    place = directory.resolve()
    holders = [
        (len(point.parts), number, fields[2])
        for number, fields in enumerate(lines)
        if len(fields) > 2 and place.is_relative_to(point := Path(_unescaped(fields[1])))
    ]
    return max(holders, default=(0, 0, ""))[2]


def _unescaped(text: str) -> str:
    r"""A mount point as it is: `\040` is a blank, and so on."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text
