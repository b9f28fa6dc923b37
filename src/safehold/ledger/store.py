"""The ledger file: append-only events in SQLite, each hash-chained to the one before it.

The chain covers sequence number, kind, trial, key and body of every event. The wall time stands beside it, so that two
runs with the same inputs have the same chain; a seal of its own, over the hash and the time, shows an edit of it. After
every commit, and before anybody is told of it, the number and hash of the last event are also written to a head file
outside the database: a database that lost its tail (copied without its `-wal`, truncated, rolled back) no longer
reaches its head and is refused.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import sqlite3
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from safehold.core.errors import IntegrityError, ResourceError, UsageError
from safehold.ledger.disk import refuse_network_file_system, rename_durably, replace_durably, storage_errors
from safehold.ledger.encoding import canonical, from_plain, to_plain
from safehold.ledger.events import (
    KINDS,
    NAMES,
    Abandoned,
    Approved,
    Asked,
    Deployed,
    Event,
    Rejected,
    Shadowed,
    Told,
)

APPLICATION_ID = 0x53414645
"""Marks the SQLite file as ours ("SAFE")."""

SCHEMA = 3
"""Number of the table's and the event bodies' layout."""

BUSY_SECONDS = 30.0
"""How long a writer waits for another one."""

_GENESIS = {"format": "safehold-ledger", "schema": SCHEMA}
_NO_HASH = "0" * 64
_LARGEST_HEAD = 4096  # bytes; a head is about a hundred

SMALLEST_DATABASE = 512
"""In bytes. SQLite takes an empty file for a new database, and deletes the -wal beside it."""

COLUMNS = "seq, kind, trial, key, body, prev_hash, hash, wall_time, seal"
"""What a record is read from, in order."""

TABLE_SQL = """CREATE TABLE event (
    seq INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    trial TEXT,
    key TEXT UNIQUE,
    body TEXT NOT NULL,
    prev_hash TEXT NOT NULL,
    hash TEXT NOT NULL UNIQUE,
    wall_time TEXT NOT NULL,
    seal TEXT NOT NULL
)"""
"""The one table."""

_TRIGGERS_SQL = (
    """CREATE TRIGGER event_is_never_updated BEFORE UPDATE ON event
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
    """CREATE TRIGGER event_is_never_deleted BEFORE DELETE ON event
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
)


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
    seal: str

    @property
    def event(self) -> Event:
        """The event in the body.

        Raises:
            IntegrityError: if the kind is unknown, or the body is not that kind's.
        """
        if self.kind not in KINDS:
            raise IntegrityError(f"event {self.seq} is of unknown kind {self.kind!r}; a newer safehold wrote it")
        return from_plain(KINDS[self.kind], self.plain, f"event {self.seq} ({self.kind})")

    @property
    def plain(self) -> object:
        """The body as plain JSON values.

        Raises:
            IntegrityError: if it is not JSON.
        """
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise IntegrityError(f"event {self.seq} ({self.kind}) is not JSON: {error}; it was altered") from error


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
        record = chained(self.last, event)
        with storage_errors(self._path):
            _insert(self._connection, record)
        self.last = record
        return record


class Ledger:
    """An open ledger. Any number of processes may hold one; writers take turns by transaction."""

    def __init__(self, path: Path, connection: sqlite3.Connection, *, read_only: bool) -> None:
        self.path = path
        self.read_only = read_only
        self._connection = connection
        self._process = os.getpid()
        self._files: dict[str, tuple[int, int]] = {}  # by suffix: what was opened, so that a swap is noticed
        self._newest: Record | None = None

    @staticmethod
    def exists(path: Path) -> bool:
        """Whether a ledger was created here, even if only its head or its log is left of it.

        False after a creation that was interrupted: a database gets its name once it is complete.
        """
        with storage_errors(path):
            if path.exists():
                return True
            head = read_head(path)
            wal = beside(path, "-wal")
            return (head is not None and head.seq >= 0) or (wal.exists() and wal.stat().st_size > 0)

    @staticmethod
    def create(path: Path, first: Sequence[Event]) -> "Ledger":
        """A new ledger holding its genesis row and its first events, all of them or none.

        Raises:
            UsageError: if there is one already (a ledger is never overwritten), or the directory cannot be made.
            IntegrityError: if there was one, of which only the head file or the log is left.
            ResourceError: if the file system is a network one, where SQLite's locks do not hold, or cannot be written.
        """
        last = _record(0, "genesis", None, None, canonical(_GENESIS), _NO_HASH)
        records = [last]
        for event in first:
            last = chained(last, event)
            records.append(last)
        return Ledger.create_from(path, records)

    @staticmethod
    def create_from(path: Path, records: Sequence[Record]) -> "Ledger":
        """A new ledger of these records, which form a chain: for `create`, and for copies.

        Raises:
            UsageError, IntegrityError, ResourceError: as `create` does.
        """
        path = _absolute(path)
        with storage_errors(path):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except (NotADirectoryError, FileExistsError, PermissionError) as error:
                raise UsageError(
                    f"{path.parent}: cannot be made ({error}); choose a directory you may write to"
                ) from error
            refuse_network_file_system(path.parent)
            _refuse_existing(path)
            with _turn(path.with_suffix(".lock")):
                _refuse_existing(path)
                partial = beside(path, ".partial")
                for leftover in (path, partial):  # of an interrupted creation: nobody was told of it
                    for suffix in ("-journal", "-wal", "-shm"):
                        beside(leftover, suffix).unlink(missing_ok=True)
                partial.unlink(missing_ok=True)
                _write_database(partial, records)
                _replace_head(path, Head(-1, _NO_HASH))
                rename_durably(partial, path)
        return Ledger.open(path)

    @staticmethod
    def open(path: Path, *, read_only: bool = False) -> "Ledger":
        """An existing ledger, its whole chain and its head verified before anything is written.

        Raises:
            UsageError: if there is no ledger at this path.
            IntegrityError: if the file is not a ledger, is damaged or altered, or lost its tail. It is left as it is.
            ResourceError: if it cannot be read, or cannot be written and is not opened for reading only.
        """
        path = _absolute(path)
        with storage_errors(path):
            _refuse_no_database(path)
            if not read_only:
                refuse_network_file_system(path.parent)
                if not os.access(path, os.W_OK):  # SQLite would open it all the same, and fail at the first event
                    raise ResourceError(
                        f"{path} cannot be written: it is another user's, or on a read-only disk; only read it"
                    )
            with contextlib.ExitStack() as opened:
                reader = Ledger(path, connect(path, _reading_mode(path, read_only)), read_only=True)
                opened.callback(reader.close)
                reader.verify()
                if not read_only:
                    ledger = Ledger(path, connect(path, "mode=rw"), read_only=False)
                    ledger._newest = reader._newest
                    opened.callback(ledger.close)
                    with ledger.transaction():
                        pass  # catches the head up after a crash, and shows that it can be written
                    opened.pop_all()
                    reader.close()
                    return ledger
                opened.pop_all()
                return reader

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
        self._refuse_another_process()
        with storage_errors(self.path):
            rows = self._rows("WHERE seq >= ? ORDER BY seq", (max(after, 0),))
        check_chain(self.path, rows, first=max(after, 0))
        self._check_newest(rows, first=max(after, 0))
        return [row for row in rows if row.seq > after]

    def verify(self) -> None:
        """Checks the database's layout, the whole chain, and that it reaches the head file.

        Raises:
            IntegrityError: naming the first record that does not fit, or the tail that is missing.
        """
        with storage_errors(self.path):
            head = _needed_head(self.path)  # before the rows: a writer may add some in between, never take some away
            missing = self._check_layout()
        records = self.read()
        if not records:
            raise IntegrityError(f"{self.path} holds no genesis row; it is not a ledger, or was emptied")
        _check_reaches(self.path, head, records[-1], records[head.seq] if 0 <= head.seq < len(records) else None)
        if missing:
            raise IntegrityError(
                f"{self.path}: the triggers that forbid edits are gone, though the chain is whole: somebody altered "
                "the database. Find out who; `recover` copies its events into a new directory"
            )

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """One BEGIN IMMEDIATE transaction: commits at the end of the block, rolls back if the block raises.

        When this returns, what was appended is durable, and the head file says so.

        Raises:
            ResourceError: if another writer held the ledger for longer than BUSY_SECONDS, or the disk takes no more.
            IntegrityError: if the files are no longer those that were opened, or do not fit their head.
        """
        self._refuse_another_process()
        if self.read_only:
            raise IntegrityError(f"{self.path} was opened readonly; open it for writing to record an event")
        with storage_errors(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
        try:
            with storage_errors(self.path):
                last = self._last()
            turn = Transaction(self.path, self._connection, last)
            yield turn
            with storage_errors(self.path):
                self._connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # a failed COMMIT may have ended the transaction by itself
                self._connection.execute("ROLLBACK")
            raise
        if turn.last.seq > last.seq:
            self._newest = turn.last
            self._acknowledge(turn.last)

    def export(self) -> list[str]:
        """One JSON line a record, genesis first, for people and for diffs."""
        return [canonical({**to_plain(record), "body": record.plain}) for record in self.read()]

    def backup(self, path: Path) -> None:
        """A complete copy at another path, with its own head file: the only right way to copy a live ledger.

        Raises:
            UsageError: if something is there already.
            ResourceError: if it cannot be written there.
        """
        if Ledger.exists(path):
            raise UsageError(f"{path} exists; a backup never overwrites")
        Ledger.create_from(path, self.read()).close()

    def _last(self) -> Record:
        """The last record, while this process has the writers' turn; the head file is caught up with it.

        Whoever reads a committed event may act on it, so from then on the head file must name it, even if the process
        that wrote it died before it could.
        """
        self._check_in_place()
        head = _needed_head(self.path)
        last = self._row("ORDER BY seq DESC LIMIT 1")
        if last is None:
            raise IntegrityError(f"{self.path} was emptied while it was open; restore a backup")
        check_chain(self.path, [last], first=last.seq)
        _check_reaches(self.path, head, last, self._row(f"WHERE seq = {head.seq}"))
        self._check_newest([last], first=last.seq)
        if head.seq < last.seq:
            _replace_head(self.path, Head(last.seq, last.hash))
        return last

    def _acknowledge(self, record: Record) -> None:
        """Makes sure of a committed record: others find it, and the head file names it or a later one.

        Raises:
            ResourceError: if the head file cannot be written; the record stays.
            IntegrityError: if the record went elsewhere than where others read.
        """
        try:
            with self.transaction():
                pass
        except ResourceError as error:
            raise ResourceError(
                f"event {record.seq} ({record.kind}) is recorded, but its head file was not written: {error}"
            ) from error

    def _check_in_place(self) -> None:
        """The path still names the files that this process opened: neither moved, replaced nor deleted.

        SQLite goes on writing to deleted files without a word, and what is written there is gone with the process.

        Raises:
            IntegrityError: naming the file.
        """
        for suffix in ("", "-wal", "-shm"):
            file = beside(self.path, suffix)
            try:
                status = file.stat()
            except FileNotFoundError:
                raise IntegrityError(
                    f"{file} was moved or deleted while the ledger was open; nothing written from now on would be "
                    "found again. End every process of this run, then put the file back or restore a backup"
                ) from None
            identity = (status.st_dev, status.st_ino)
            if self._files.setdefault(suffix, identity) != identity:
                raise IntegrityError(
                    f"{file} was replaced while the ledger was open; end every process of this run, and open it again"
                )

    def _check_newest(self, rows: Sequence[Record], first: int) -> None:
        """The newest record that was seen is among all rows from `first` on; remembers the newest of these.

        Raises:
            IntegrityError: if it is not.
        """
        newest = self._newest
        if newest is not None and newest.seq >= first and all(row.hash != newest.hash for row in rows):
            raise IntegrityError(
                f"{self.path}: event {newest.seq} was rewritten or removed while the ledger was open; restore a backup"
            )
        if rows and (newest is None or rows[-1].seq > newest.seq):
            self._newest = rows[-1]

    def _check_layout(self) -> bool:
        """The database is ours, of this schema, and holds our table alone; whether one of our triggers is missing.

        Raises:
            IntegrityError: if it is another program's or another version's, or something was added to it.
        """
        check_version(self.path, self._connection)
        found = self._connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
        statements = {str(row[0]) for row in found}
        expected = {TABLE_SQL, *_TRIGGERS_SQL}
        if TABLE_SQL not in statements or not statements <= expected:
            strange = sorted(statements - expected) or ["no table of events"]
            raise IntegrityError(
                f"{self.path} does not have the layout of a ledger: {strange[0][:80]!r}; somebody altered it"
            )
        return statements != expected

    def _refuse_another_process(self) -> None:
        """SQLite's locks do not survive a fork.

        Raises:
            UsageError: in a child of the process that opened the ledger.
        """
        if os.getpid() != self._process:
            raise UsageError(
                f"{self.path} was opened by process {self._process}, and a fork inherits none of its locks; start "
                "processes with `spawn` and open it anew in each process"
            )

    def _row(self, clause: str) -> Record | None:
        """The one record that a clause of SQL names."""
        return next(iter(self._rows(clause, ())), None)

    def _rows(self, clause: str, parameters: tuple[int, ...]) -> list[Record]:
        """Records by a clause of SQL."""
        cursor = self._connection.execute(f"SELECT {COLUMNS} FROM event {clause}", parameters)
        return [record_of(self.path, row) for row in cursor]


def _hash(seq: int, kind: str, trial: str | None, key: str | None, body: str, prev_hash: str) -> str:
    """SHA-256 over everything in a record but its wall time."""
    return hashlib.sha256(canonical([seq, kind, trial, key, body, prev_hash]).encode("ascii")).hexdigest()


def _seal(hash_: str, wall_time: str) -> str:
    """SHA-256 over a record's hash and its wall time."""
    return hashlib.sha256(canonical([hash_, wall_time]).encode("ascii")).hexdigest()


def _record(seq: int, kind: str, trial: str | None, key: str | None, body: str, prev_hash: str) -> Record:
    """A record of now."""
    hash_ = _hash(seq, kind, trial, key, body, prev_hash)
    wall_time = datetime.now(UTC).isoformat(timespec="milliseconds")
    return Record(
        seq=seq,
        kind=kind,
        trial=trial,
        key=key,
        body=body,
        prev_hash=prev_hash,
        hash=hash_,
        wall_time=wall_time,
        seal=_seal(hash_, wall_time),
    )


def chained(last: Record, event: Event) -> Record:
    """The record of an event that follows `last`."""
    of_trial = (Asked, Shadowed, Approved, Rejected, Deployed, Told, Abandoned)
    trial = event.trial if isinstance(event, of_trial) else None
    key = event.key if isinstance(event, Asked) else None
    return _record(last.seq + 1, NAMES[type(event)], trial, key, canonical(to_plain(event)), last.hash)


def _insert(connection: sqlite3.Connection, record: Record) -> None:
    """Writes one row."""
    values = (getattr(record, name) for name in COLUMNS.split(", "))
    connection.execute(f"INSERT INTO event ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", tuple(values))


def record_of(path: Path, row: tuple[object, ...]) -> Record:
    """A record from the columns of its row; SQLite keeps any type in any of them."""
    seq, kind, trial, key, body, prev_hash, hash_, wall_time, seal = row
    if (
        not isinstance(seq, int)
        or not isinstance(kind, str)
        or not isinstance(trial, str | None)
        or not isinstance(key, str | None)
        or not isinstance(body, str)
        or not isinstance(prev_hash, str)
        or not isinstance(hash_, str)
        or not isinstance(wall_time, str)
        or not isinstance(seal, str)
    ):
        raise IntegrityError(f"{path}: the hash chain breaks at event {seq}: a column is not text; a row was edited")
    return Record(
        seq=seq,
        kind=kind,
        trial=trial,
        key=key,
        body=body,
        prev_hash=prev_hash,
        hash=hash_,
        wall_time=wall_time,
        seal=seal,
    )


def check_chain(path: Path, records: Sequence[Record], first: int) -> None:
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
        if record.seal != _seal(record.hash, record.wall_time):
            raise IntegrityError(
                f"{path}: the hash chain breaks at event {record.seq} ({record.kind}): its wall time was edited"
            )
        if record.seq == 0 and record.body != canonical(_GENESIS):
            raise IntegrityError(f"{path}: genesis row is {record.body[:120]}; another program or version wrote it")
        previous = record


def _check_reaches(path: Path, head: Head, last: Record, named: Record | None) -> None:
    """The chain reaches its head; `named` is the record of the head's number, None if the head names none.

    Raises:
        IntegrityError: if the tail is missing, or the record is another.
    """
    if head.seq > last.seq:
        raise IntegrityError(
            f"{path} ends at event {last.seq}, but event {head.seq} was committed: its tail is lost "
            "(was the database copied without its -wal file, or truncated?). Restore a complete copy"
        )
    if head.seq >= 0 and (named is None or named.hash != head.hash):
        raise IntegrityError(f"{path}: event {head.seq} is not the one named by its head file; it was rewritten")


def check_version(path: Path, connection: sqlite3.Connection) -> None:
    """The database is ours, and of this schema.

    Raises:
        IntegrityError: if it is another program's or another version's.
    """
    application, schema = (
        int(connection.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("application_id", "user_version")
    )
    if application != APPLICATION_ID:
        raise IntegrityError(f"{path} is an SQLite file of another program")
    if schema > SCHEMA:
        raise IntegrityError(f"{path} has schema {schema}, this safehold reads schema {SCHEMA}; use a newer safehold")
    if schema < SCHEMA:
        raise IntegrityError(
            f"{path} has schema {schema}, this safehold reads schema {SCHEMA}; finish, report or export that run with "
            "the older safehold that wrote it, and start a new one in another directory"
        )


def _write_database(path: Path, records: Sequence[Record]) -> None:
    """A complete database of these records, closed, with nothing left in a log beside it."""
    connection = connect(path, "mode=rwc")
    try:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA}")
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise ResourceError(f"{path}: SQLite could not switch to write-ahead logging (got {mode!r})")
        connection.execute("BEGIN IMMEDIATE")
        for statement in (TABLE_SQL, *_TRIGGERS_SQL):
            connection.execute(statement)
        for record in records:
            _insert(connection, record)
        connection.execute("COMMIT")
        busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise ResourceError(f"{path}: another process has it open; leave it alone and try again")
    finally:
        connection.close()


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """A connection with explicit transactions, full synchronisation and a patient writer."""
    connection = sqlite3.connect(f"{path.as_uri()}?{mode}", uri=True, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        for pragma in ("synchronous = FULL", "foreign_keys = ON", "trusted_schema = OFF"):
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection


def _reading_mode(path: Path, read_only: bool) -> str:
    """How to look at a database without changing it.

    Where nobody can write beside it (a read-only disk), SQLite cannot keep its log there either; without one, the file
    is all there is.
    """
    alone = not beside(path, "-wal").exists() and not os.access(path.parent, os.W_OK)
    return "mode=ro&immutable=1" if read_only and alone else "mode=ro"


def _refuse_existing(path: Path) -> None:
    """Nothing is created over a ledger, nor over what is left of one.

    Raises:
        UsageError: if there is one.
        IntegrityError: if there was one.
    """
    if path.exists():
        raise UsageError(f"{path} already holds a run; open it to resume, or choose another directory")
    if Ledger.exists(path):
        raise IntegrityError(
            f"{path} is missing, but {_head_path(path).name} or its -wal file says that events were committed: the "
            "ledger was lost, and with it what was asked, revoked and spent. Restore it from a backup; a new run "
            "needs another directory"
        )


def _refuse_no_database(path: Path) -> None:
    """Refuses what SQLite must not even look at, without opening it.

    The file is not opened, for closing it would drop the locks that other connections of this process hold on it.

    Raises:
        UsageError: if no ledger was created here.
        IntegrityError: if there is none any more, or it is empty or no file at all.
    """
    if not Ledger.exists(path):
        raise UsageError(f"{path}: no ledger here; create the deployment first")
    try:
        status = path.stat()
    except FileNotFoundError:
        raise IntegrityError(f"{path}: is missing, though the head file says a ledger was here; restore it") from None
    if not stat.S_ISREG(status.st_mode):
        raise IntegrityError(f"{path} is not a ledger: it is not a file")
    if status.st_size < SMALLEST_DATABASE:
        raise IntegrityError(
            f"{path} is not a ledger: it holds {status.st_size} bytes. It is left as it is, and so is its -wal file; "
            "restore a backup"
        )


def _absolute(path: Path) -> Path:
    """The path wherever the process goes next; symbolic links of the directory are kept."""
    with storage_errors(path):
        return path.absolute()


def beside(path: Path, suffix: str) -> Path:
    """A file that SQLite keeps beside a database."""
    return path.with_name(path.name + suffix)


def _head_path(path: Path) -> Path:
    """The head file beside a ledger."""
    return path.with_suffix(".head")


def _needed_head(path: Path) -> Head:
    """The head of a ledger that has one.

    Raises:
        IntegrityError: if it is missing, or not a head.
    """
    head = read_head(path)
    if head is None:
        raise IntegrityError(
            f"{_head_path(path)} is missing; without it a lost tail goes unnoticed. Restore it from a backup"
        )
    return head


def read_head(path: Path) -> Head | None:
    """The head, None if there is no head file.

    Raises:
        IntegrityError: if the file is not a head.
    """
    head_path = _head_path(path)
    try:
        with head_path.open("rb") as file:
            plain = json.loads(file.read(_LARGEST_HEAD).decode("ascii"))
        head = from_plain(Head, plain, str(head_path))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError, IsADirectoryError) as error:
        raise IntegrityError(f"{head_path} is not a head file: {error}; restore it from a backup") from error
    if head.seq < -1:
        raise IntegrityError(f"{head_path} names event {head.seq}, which cannot be; restore it from a backup")
    return head


def _replace_head(path: Path, head: Head) -> None:
    """A new head file in place of the old one; only whoever has the writers' turn may."""
    replace_durably(_head_path(path), canonical(to_plain(head)))


@contextmanager
def _turn(lock: Path) -> Iterator[None]:
    """Held by one process at a time; the kernel drops it when that process dies."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
