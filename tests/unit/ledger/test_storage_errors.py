"""Every failure of a disk by its name, and with what to do about it."""

import errno
import os
import sqlite3
from pathlib import Path

import pytest

from safehold.core.errors import IntegrityError, ResourceError, UsageError
from safehold.ledger import disk
from safehold.ledger.disk import rename_durably, replace_durably, storage_errors, synchronise_directory

RUN = Path("/somewhere/ledger.sqlite")


def sqlite_error(name, message="it says so", kind=sqlite3.OperationalError):
    """An error of SQLite's with this extended name."""
    error = kind(message)
    error.sqlite_errorname = name
    return error


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (sqlite_error("SQLITE_BUSY"), ResourceError, "another writer held the ledger for too long"),
        (sqlite_error("SQLITE_BUSY_SNAPSHOT"), ResourceError, "another writer held the ledger"),
        (sqlite_error("SQLITE_FULL"), ResourceError, "nothing was recorded, free some space"),
        (sqlite_error("SQLITE_IOERR_SHORT_READ"), IntegrityError, "cannot be read back from its disk"),
        (sqlite_error("SQLITE_IOERR_WRITE"), ResourceError, "nothing was acknowledged"),
        (sqlite_error("SQLITE_READONLY_DIRECTORY"), ResourceError, "nothing was acknowledged"),
        (sqlite_error("SQLITE_CONSTRAINT", kind=sqlite3.IntegrityError), IntegrityError, "refuses this row"),
        (sqlite_error("SQLITE_NOTADB", kind=sqlite3.DatabaseError), IntegrityError, "the file is damaged"),
        (sqlite3.DatabaseError("no name at all"), IntegrityError, "the file is damaged"),
        (sqlite3.ProgrammingError("closed"), UsageError, "open the ledger again"),
    ],
)
def test_every_error_of_sqlite_has_a_name_of_ours_and_keeps_its_cause(error, kind, message):
    with pytest.raises(kind, match=message) as caught, storage_errors(RUN):
        raise error
    assert caught.value.__cause__ is error
    assert str(RUN) in str(caught.value)


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EFBIG, "free some space"),
        (errno.EROFS, "the disk is read-only"),
        (errno.EACCES, "ask its owner"),
        (errno.EPERM, "ask its owner"),
        (errno.EMFILE, "too many files are open"),
        (errno.ENFILE, "too many files are open"),
        (errno.ENOENT, "moved or deleted"),
        (errno.ENOTDIR, "moved or deleted"),
        (errno.ESTALE, "moved or deleted"),
        (errno.EIO, "look after the disk"),
    ],
)
def test_every_error_of_the_system_says_what_to_do(number, remedy):
    error = OSError(number, os.strerror(number), "/somewhere/ledger.head")
    with pytest.raises(ResourceError, match=remedy) as caught, storage_errors(RUN):
        raise error
    assert str(caught.value).startswith("/somewhere/ledger.head: ")
    with pytest.raises(ResourceError, match="strange"), storage_errors(RUN):
        raise OSError("strange")


@pytest.fixture
def cannot_open():
    """SQLite's answer to a file that it cannot open."""
    return sqlite_error("SQLITE_CANTOPEN", "unable to open database file")


def test_why_a_ledger_could_not_be_opened_is_found_without_touching_it(tmp_path, cannot_open, monkeypatch):
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"")

    def refusal(readable, writable, place=path):
        allowed = {os.R_OK: readable, os.W_OK: writable}
        monkeypatch.setattr(disk.os, "access", lambda _, mode: allowed[mode])
        with pytest.raises(ResourceError) as caught, storage_errors(place):
            raise cannot_open
        return str(caught.value)

    assert "you may not read it" in refusal(readable=False, writable=True)
    assert "SQLite keeps its -wal and -shm files there" in refusal(readable=True, writable=False)
    assert "number of open files" in refusal(readable=True, writable=True)
    gone = refusal(readable=True, writable=True, place=tmp_path / "gone" / "ledger.sqlite")
    assert "No such file or directory; it was moved or deleted" in gone


def test_what_went_well_passes_through():
    with storage_errors(RUN):
        done = True
    assert done
    with pytest.raises(KeyError), storage_errors(RUN):
        raise KeyError("not a disk's business")


def test_a_small_file_is_replaced_whole_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "ledger.head"
    replace_durably(path, "1 aa\n")
    replace_durably(path, "2 bb\n")
    assert path.read_text() == "2 bb\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["ledger.head"]


def test_a_file_gets_its_final_name_and_descriptors_are_closed(tmp_path):
    old, new = tmp_path / "ledger.partial", tmp_path / "ledger.sqlite"
    old.write_bytes(b"x")
    before = len(os.listdir("/proc/self/fd"))
    rename_durably(old, new)
    synchronise_directory(tmp_path)
    assert new.read_bytes() == b"x"
    assert not old.exists()
    assert len(os.listdir("/proc/self/fd")) == before
