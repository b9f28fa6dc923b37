"""The ledger file: append-only events in SQLite, each hash-chained to the one before it.

The chain covers sequence number, kind, trial, key and body of every event; the wall time stands beside it, unhashed,
so that two runs with the same inputs have the same ledger but for their timestamps. After every commit the number
and hash of the last event are also written to a head file outside the database: a database that lost its tail
(copied without its `-wal`, truncated, rolled back) no longer reaches its head and is refused.
"""

import fcntl
import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from safehold.core.errors import IntegrityError, ResourceError, UsageError
from safehold.ledger.encoding import canonical, from_plain, to_plain
from safehold.ledger.events import KINDS, NAMES, Abandoned, Asked, Deployed, Event, Told

APPLICATION_ID = 0x53414645
"""Marks the SQLite file as ours ("SAFE")."""

SCHEMA = 1
"""Number of the table's and the event bodies' layout."""

BUSY_SECONDS = 30.0
"""How long a writer waits for another one."""

_GENESIS = {"format": "safehold-ledger", "schema": SCHEMA}
_NO_HASH = "0" * 64
_NETWORK_FILE_SYSTEMS = ("nfs", "cifs", "smb", "ncpfs", "afs", "fuse.sshfs", "fuse.s3fs")

_SCHEMA_SQL = f"""
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA};
CREATE TABLE event (
    seq INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    trial TEXT,
    key TEXT UNIQUE,
    body TEXT NOT NULL,
    prev_hash TEXT NOT NULL,
    hash TEXT NOT NULL UNIQUE,
    wall_time TEXT NOT NULL
);
CREATE TRIGGER event_is_never_updated BEFORE UPDATE ON event
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER event_is_never_deleted BEFORE DELETE ON event
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One row of the ledger; `body` is canonical JSON. The genesis row has sequence number 0."""

    seq: int
    kind: str
    trial: str | None
    key: str | None
    body: str
    prev_hash: str
    hash: str
    wall_time: str

    @property
    def event(self) -> Event:
        """The event in the body.

        Raises:
            IntegrityError: if the kind is unknown, or the body is not that kind's.
        """
        if self.kind not in KINDS:
            raise IntegrityError(f"event {self.seq} is of unknown kind {self.kind!r}; a newer safehold wrote it")
        return from_plain(KINDS[self.kind], json.loads(self.body), f"event {self.seq} ({self.kind})")


@dataclass(frozen=True, slots=True)
class Head:
    """Number and hash of the last event known to be committed; -1 while the ledger is being created."""

    seq: int
    hash: str


class Transaction:
    """One writer's turn: what was read stays true until it ends."""

    def __init__(self, path: Path, connection: sqlite3.Connection, last: Record) -> None:
        self._path = path
        self._connection = connection
        self.last = last

    def append(self, event: Event) -> Record:
        """Adds one event at the end of the chain; durable once the transaction has ended."""
        record = _chained(self.last, event)
        with _sqlite_errors(self._path):
            _insert(self._connection, record)
        self.last = record
        return record


class Ledger:
    """An open ledger. Any number of processes may hold one; writers take turns by transaction."""

    def __init__(self, path: Path, connection: sqlite3.Connection, *, read_only: bool) -> None:
        self.path = path
        self.read_only = read_only
        self._connection = connection

    @staticmethod
    def exists(path: Path) -> bool:
        """Whether a ledger was created here, even if only its head is left of it.

        False after a creation that was interrupted before its first event.
        """
        head = _read_head(path)
        if head is not None and head.seq >= 0:
            return True
        return path.exists() and (head is None or _has_events(path))

    @staticmethod
    def create(path: Path, first: Sequence[Event]) -> "Ledger":
        """A new ledger holding its genesis row and its first events, all of them or none.

        Raises:
            UsageError: if there is one already (a ledger is never overwritten), or the directory cannot be made.
            IntegrityError: if there was one, of which only the head file is left.
            ResourceError: if the file system is a network one, where SQLite's locks do not hold.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{path.parent}: cannot be made ({error}); choose a directory you may write to") from error
        _refuse_network_file_system(path.parent)
        with _turn(path.parent):
            return Ledger._create(path, first)

    @staticmethod
    def _create(path: Path, first: Sequence[Event]) -> "Ledger":
        """The new ledger, while nobody else creates one here."""
        if Ledger.exists(path):
            if not path.exists():
                raise IntegrityError(
                    f"{path} is missing, but {_head_path(path)} says that events were committed: the ledger was lost, "
                    "and with it what was asked, revoked and spent. Restore it from a backup; a new run needs another "
                    "directory"
                )
            raise UsageError(f"{path} already holds a run; open it to resume, or choose another directory")
        _replace_head(path, Head(-1, _NO_HASH))
        for suffix in ("", "-journal", "-wal", "-shm"):  # leftovers of an interrupted creation hold no event
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        connection = _connect(path, "rwc")
        try:
            connection.executescript(_SCHEMA_SQL)
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            if mode != "wal":
                raise ResourceError(f"{path}: SQLite could not switch to write-ahead logging (got {mode!r})")
            last = _record(0, "genesis", None, None, canonical(_GENESIS), _NO_HASH)
            connection.execute("BEGIN IMMEDIATE")
            _insert(connection, last)
            for event in first:
                last = _chained(last, event)
                _insert(connection, last)
            connection.execute("COMMIT")
            _replace_head(path, Head(last.seq, last.hash))
        except BaseException:
            connection.close()
            raise
        return Ledger(path, connection, read_only=False)

    @staticmethod
    def open(path: Path, *, read_only: bool = False) -> "Ledger":
        """An existing ledger, its whole chain and its head verified before anything is written.

        Raises:
            UsageError: if there is no ledger at this path.
            IntegrityError: if the file is not a ledger, is damaged or altered, or lost its tail. It is left as it is.
        """
        if not path.exists() and _read_head(path) is None:
            raise UsageError(f"{path}: no ledger here; create the deployment first")
        _check_header(path)
        with _sqlite_errors(path):
            reader = Ledger(path, _connect(path, "ro"), read_only=True)
            try:
                reader.verify()
            except BaseException:
                reader.close()
                raise
            if read_only:
                return reader
            _refuse_network_file_system(path.parent)
            connection = _connect(path, "rw")
            reader.close()
            return Ledger(path, connection, read_only=False)

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, after: int = -1) -> list[Record]:
        """Every record after this sequence number, in order, each checked against the chain.

        Raises:
            IntegrityError: naming the first record that does not fit.
        """
        with _sqlite_errors(self.path):
            rows = self._rows("WHERE seq >= ? ORDER BY seq", (max(after, 0),))
        records = [row for row in rows if row.seq > after]
        _check_chain(self.path, rows, first=max(after, 0))
        return records

    def verify(self) -> None:
        """Checks the whole chain, and that it reaches the head file.

        Raises:
            IntegrityError: naming the first record that does not fit, or the tail that is missing.
        """
        head = _read_head(self.path)  # before the rows: a writer may add some in between, never take some away
        if head is None:
            raise IntegrityError(
                f"{_head_path(self.path)} is missing; without it a lost tail goes unnoticed. Restore it from a backup"
            )
        records = self.read()
        if not records:
            raise IntegrityError(f"{self.path} holds no genesis row; it is not a ledger, or was emptied")
        if head.seq > records[-1].seq:
            raise IntegrityError(
                f"{self.path} ends at event {records[-1].seq}, but event {head.seq} was committed: its tail is lost "
                "(was the database copied without its -wal file, or truncated?). Restore a complete copy"
            )
        if head.seq >= 0 and records[head.seq].hash != head.hash:
            raise IntegrityError(
                f"{self.path}: event {head.seq} is not the one named by its head file; it was rewritten"
            )

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """One BEGIN IMMEDIATE transaction: commits at the end of the block, rolls back if the block raises.

        Raises:
            ResourceError: if another writer held the ledger for longer than BUSY_SECONDS.
        """
        with _sqlite_errors(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
        try:
            with _sqlite_errors(self.path):
                last = self._rows("ORDER BY seq DESC LIMIT 1", ())[0]
            turn = Transaction(self.path, self._connection, last)
            yield turn
            with _sqlite_errors(self.path):
                self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        if turn.last.seq > last.seq:
            _write_head(self.path, Head(turn.last.seq, turn.last.hash))

    def export(self) -> list[str]:
        """One JSON line a record, genesis first, for people and for diffs."""
        return [canonical({**to_plain(record), "body": json.loads(record.body)}) for record in self.read()]

    def backup(self, path: Path) -> None:
        """A complete copy at another path, with its own head file: the only right way to copy a live ledger.

        Raises:
            UsageError: if something is there already.
        """
        if path.exists() or _head_path(path).exists():
            raise UsageError(f"{path} exists; a backup never overwrites")
        with _sqlite_errors(self.path):
            target = sqlite3.connect(path)
            try:
                self._connection.backup(target)
            finally:
                target.close()
        last = self.read()[-1]
        with Ledger(path, _connect(path, "rw"), read_only=False) as copy:
            last = copy.read()[-1]
        _write_head(path, Head(last.seq, last.hash))

    def _rows(self, clause: str, parameters: tuple[int, ...]) -> list[Record]:
        """Records by a clause of SQL."""
        columns = "seq, kind, trial, key, body, prev_hash, hash, wall_time"
        cursor = self._connection.execute(f"SELECT {columns} FROM event {clause}", parameters)
        return [
            Record(
                seq=seq,
                kind=kind,
                trial=trial,
                key=key,
                body=body,
                prev_hash=prev_hash,
                hash=hash_,
                wall_time=wall_time,
            )
            for seq, kind, trial, key, body, prev_hash, hash_, wall_time in cursor
        ]


def _hash(seq: int, kind: str, trial: str | None, key: str | None, body: str, prev_hash: str) -> str:
    """SHA-256 over everything in a record but its wall time."""
    return hashlib.sha256(canonical([seq, kind, trial, key, body, prev_hash]).encode("ascii")).hexdigest()


def _record(seq: int, kind: str, trial: str | None, key: str | None, body: str, prev_hash: str) -> Record:
    """A record of now."""
    return Record(
        seq=seq,
        kind=kind,
        trial=trial,
        key=key,
        body=body,
        prev_hash=prev_hash,
        hash=_hash(seq, kind, trial, key, body, prev_hash),
        wall_time=datetime.now(UTC).isoformat(timespec="milliseconds"),
    )


def _chained(last: Record, event: Event) -> Record:
    """The record of an event that follows `last`."""
    trial = event.trial if isinstance(event, (Asked, Deployed, Told, Abandoned)) else None
    key = event.key if isinstance(event, Asked) else None
    return _record(last.seq + 1, NAMES[type(event)], trial, key, canonical(to_plain(event)), last.hash)


def _insert(connection: sqlite3.Connection, record: Record) -> None:
    """Writes one row."""
    connection.execute(
        "INSERT INTO event (seq, kind, trial, key, body, prev_hash, hash, wall_time) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            record.seq,
            record.kind,
            record.trial,
            record.key,
            record.body,
            record.prev_hash,
            record.hash,
            record.wall_time,
        ),
    )


def _check_chain(path: Path, records: list[Record], first: int) -> None:
    """Consecutive numbers from `first`, every hash right, every link to the one before right."""
    previous: Record | None = None
    for place, record in enumerate(records):
        expected = _NO_HASH if record.seq == 0 else (previous.hash if previous else record.prev_hash)
        right = _hash(record.seq, record.kind, record.trial, record.key, record.body, record.prev_hash)
        if record.seq != first + place or record.hash != right or record.prev_hash != expected:
            raise IntegrityError(
                f"{path}: the hash chain breaks at event {record.seq} ({record.kind}): a row was edited, deleted or "
                "reordered. Nothing after event "
                f"{first + place - 1} can be trusted; restore a backup"
            )
        if record.seq == 0 and record.body != canonical(_GENESIS):
            raise IntegrityError(f"{path}: genesis row is {record.body[:120]}; another program or version wrote it")
        previous = record


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    """A connection with explicit transactions, full synchronisation and a patient writer."""
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection


@contextmanager
def _sqlite_errors(path: Path) -> Iterator[None]:
    """SQLite's errors as ours."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "locked" in str(error) or "busy" in str(error):
            raise ResourceError(
                f"{path}: another writer held the ledger for over {BUSY_SECONDS:g} s; try again"
            ) from error
        if "full" in str(error):
            raise ResourceError(f"{path}: {error}; nothing was written, free some space and try again") from error
        raise IntegrityError(f"{path}: {error}; the ledger cannot be read or written as it is") from error
    except sqlite3.DatabaseError as error:
        raise IntegrityError(f"{path}: {error}; the file is damaged and was left as it is. Restore a backup") from error


def _check_header(path: Path) -> None:
    """Looks at the first bytes before SQLite touches the file.

    Raises:
        IntegrityError: if it is not an SQLite file of ours, or of a newer schema.
    """
    try:
        with path.open("rb") as file:
            header = file.read(100)
    except OSError as error:
        raise IntegrityError(f"{path}: cannot be read ({error}); the head file says a ledger was here") from error
    if len(header) < 100 or not header.startswith(b"SQLite format 3\x00"):
        raise IntegrityError(f"{path} is not a ledger: it has {len(header)} header bytes, starting {header[:16]!r}")
    if int.from_bytes(header[68:72], "big") != APPLICATION_ID:
        raise IntegrityError(f"{path} is an SQLite file of another program")
    schema = int.from_bytes(header[60:64], "big")
    if schema != SCHEMA:
        raise IntegrityError(f"{path} has schema {schema}, this safehold reads schema {SCHEMA}; use the newer version")


def _has_events(path: Path) -> bool:
    """Whether a database whose creation was interrupted got as far as its genesis row."""
    try:
        _check_header(path)
        connection = _connect(path, "ro")
        try:
            return connection.execute("SELECT COUNT(*) FROM event").fetchone()[0] > 0
        finally:
            connection.close()
    except (IntegrityError, sqlite3.DatabaseError):
        return False


def _head_path(path: Path) -> Path:
    """The head file beside a ledger."""
    return path.with_suffix(".head")


def _read_head(path: Path) -> Head | None:
    """The head, None if there is no head file.

    Raises:
        IntegrityError: if the file is not a head.
    """
    head_path = _head_path(path)
    try:
        plain = json.loads(head_path.read_text(encoding="ascii"))
        return from_plain(Head, plain, str(head_path))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise IntegrityError(f"{head_path} is not a head file: {error}; restore it from a backup") from error


def _write_head(path: Path, head: Head) -> None:
    """Replaces the head file if it is behind; writers in several processes take turns."""
    with _turn(path.parent):
        current = _read_head(path)
        if current is None or current.seq < head.seq:
            _replace_head(path, head)


def _replace_head(path: Path, head: Head) -> None:
    """A new head file in place of the old one, whole or not at all, and the directory's names made durable."""
    head_path = _head_path(path)
    partial = head_path.with_suffix(".head.partial")
    with partial.open("w", encoding="ascii") as file:
        file.write(canonical(to_plain(head)))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(head_path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextmanager
def _turn(directory: Path) -> Iterator[None]:
    """Held by one process at a time; the kernel drops it when that process dies."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _refuse_network_file_system(directory: Path) -> None:
    """SQLite's locks and shared memory do not work over a network.

    Raises:
        ResourceError: naming the file system.
    """
    kind = _file_system(directory, Path("/proc/self/mounts"))
    if kind.startswith(_NETWORK_FILE_SYSTEMS):
        raise ResourceError(
            f"{directory} is on a network file system ({kind}), where SQLite's locks do not hold; "
            "keep the run on a local disk and copy it with Python's `Deployment.open(run).ledger.backup(copy)`"
        )


def _file_system(directory: Path, mounts: Path) -> str:
    """Type of the file system that holds a directory, "" where the platform does not tell."""
    try:
        lines = [line.split() for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        return ""
    place = directory.resolve()
    holders = [
        (len(fields[1]), fields[2]) for fields in lines if len(fields) > 2 and place.is_relative_to(Path(fields[1]))
    ]
    return max(holders, default=(0, ""))[1]
