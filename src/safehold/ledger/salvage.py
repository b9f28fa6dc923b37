"""What can be saved of a damaged ledger: the longest valid beginning of its chain, written anew in another place."""

import json
import logging
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from safehold.core.errors import IntegrityError, SafeholdError, UsageError
from safehold.ledger.disk import storage_errors
from safehold.ledger.encoding import canonical
from safehold.ledger.events import Abandoned, Event, Stopped
from safehold.ledger.store import (
    COLUMNS,
    SMALLEST_DATABASE,
    TABLE_SQL,
    Head,
    Ledger,
    Record,
    beside,
    chained,
    check_chain,
    check_version,
    connect,
    read_head,
    record_of,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Salvage:
    """What was saved of a ledger.

    `kept` events were copied; `lost` ones were committed, and are gone (None: nobody can tell how many). `fault` is
    the first thing that was wrong with the chain or its head file; None if all of it was copied. `unknown`: trials
    that were open at the end of what was kept, whose outcomes may be lost.
    """

    kept: int
    lost: int | None
    fault: str | None
    unknown: tuple[str, ...] = ()


def salvage(damaged: Path, path: Path) -> Salvage:
    """Writes a new ledger at `path` of what is valid in the damaged one, no byte of which is changed.

    What is lost may have revoked a target or spent delta, so unless everything was saved the new ledger ends as a
    stopped run: it can be reported and verified, and hands out nothing. Trials that were open are of unknown outcome.

    Raises:
        UsageError: if there is a ledger at `path`, none to be saved, or it is open in this process.
        IntegrityError: if nothing can be saved, or the chain is whole and another than its head file names.
        ResourceError: if a file cannot be read or written.
    """
    with storage_errors(damaged):
        if Ledger.exists(path):
            raise UsageError(f"{path} already holds a run; what is saved is written to a new place")
        if not Ledger.exists(damaged):
            raise UsageError(f"{damaged}: no ledger here, nothing to save")
        _refuse_open_here(damaged)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".recovering-", dir=path.parent) as directory:
            copy = Path(directory) / damaged.name
            for file in (damaged, beside(damaged, "-wal")):
                if file.is_file():
                    shutil.copyfile(file, copy.with_name(file.name))
            records, fault = _beginning(copy)
    if not records:
        raise IntegrityError(f"{damaged}: not one event can be saved: {fault}. Restore a backup")
    head, head_fault = _head(damaged)
    if head is not None and 0 <= head.seq < len(records) and records[head.seq].hash != head.hash:
        raise IntegrityError(
            f"{damaged}: its chain is whole, but event {head.seq} is not the one named by its head file: one of them "
            "was rewritten, and nothing says which. Nothing is saved; restore a backup"
        )
    return _written(damaged, path, records, head, fault, head_fault)


def salvage_export(export: Path, path: Path) -> Salvage:
    """The same from the JSON lines of an export; a torn last line is left out.

    An export has no head file: nobody can tell what is missing at its end, so the new ledger is stopped.

    Raises:
        UsageError: if there is a ledger at `path`.
        IntegrityError: if not one line can be saved.
        ResourceError: if a file cannot be read or written.
    """
    with storage_errors(path):
        if Ledger.exists(path):
            raise UsageError(f"{path} already holds a run; what is saved is written to a new place")
    with storage_errors(export):
        lines = export.read_bytes().decode("utf-8", errors="replace").splitlines()
    records: list[Record] = []
    fault = None
    for number, line in enumerate(lines, start=1):
        try:
            plain = json.loads(line)
            row = tuple(canonical(plain[name]) if name == "body" else plain[name] for name in COLUMNS.split(", "))
            record = record_of(export, row)
            check_chain(export, [*records[-1:], record], first=max(len(records) - 1, 0))
        except (SafeholdError, ValueError, KeyError, TypeError, RecursionError) as error:
            fault = f"line {number} of {len(lines)} is no record ({error})"
            break
        records.append(record)
    if not records:
        raise IntegrityError(f"{export}: not one event can be saved: {fault or 'it is empty'}. Restore a backup")
    return _written(export, path, records, None, fault, "an export has no head file")


def _written(
    damaged: Path, path: Path, records: list[Record], head: Head | None, fault: str | None, head_fault: str | None
) -> Salvage:
    """The new ledger of these records, and how it ends; what was saved."""
    last = records[-1]
    if fault is None and head is not None and head.seq > last.seq:
        fault = f"it ends at event {last.seq}, but event {head.seq} was committed"
    saved = Salvage(
        kept=last.seq,
        lost=None if head is None else max(head.seq - last.seq, 0),
        fault=fault or head_fault,
        unknown=() if fault is None and head_fault is None else _open_trials(records),
    )
    for event in _ending(damaged, saved, stopped=any(record.kind == "stopped" for record in records)):
        records.append(chained(records[-1], event))
    Ledger.create_from(path, records).close()
    if saved.fault is not None:
        logger.warning("%s", _words(damaged, saved))
    return saved


def _open_trials(records: Sequence[Record]) -> tuple[str, ...]:
    """Trials that were asked and, as far as these records go, never ended."""
    ended = {record.trial for record in records if record.kind in ("told", "abandoned", "rejected")}
    return tuple(r.trial for r in records if r.kind == "asked" and r.trial is not None and r.trial not in ended)


def _ending(damaged: Path, saved: Salvage, *, stopped: bool) -> list[Event]:
    """What a ledger that lost something ends with: its open trials of unknown outcome, and a stop."""
    if saved.fault is None:
        return []
    reason = "the ledger was damaged while this trial was open; its outcome may be lost"
    events: list[Event] = [Abandoned(trial=trial, reason=reason, deployed=True) for trial in saved.unknown]
    return events if stopped else [*events, Stopped(reason=_words(damaged, saved))]


def _beginning(path: Path) -> tuple[list[Record], str | None]:
    """The valid records up to the first that is not, and what is wrong with that one.

    The files are a copy: SQLite works the log into the database, or drops it.
    """
    records: list[Record] = []
    if not path.exists() or path.stat().st_size < SMALLEST_DATABASE:
        return records, "the database is gone"
    try:
        with closing(connect(path, "mode=rw")) as connection:
            check_version(path, connection)
            table = connection.execute("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = 'event'")
            if table.fetchone() != (TABLE_SQL,):
                return records, "its table of events is gone or was altered"
            while (row := _row(connection, len(records))) is not None:
                record = record_of(path, row)
                check_chain(path, [*records[-1:], record], first=max(len(records) - 1, 0))
                records.append(record)
            beyond = connection.execute("SELECT MIN(seq) FROM event WHERE seq > ?", (len(records),)).fetchone()[0]
            return records, None if beyond is None else f"event {len(records)} is missing, event {beyond} is there"
    except (sqlite3.DatabaseError, UnicodeDecodeError, IntegrityError) as error:
        return records, str(error).removeprefix(f"{path}: ")


def _row(connection: sqlite3.Connection, seq: int) -> tuple[object, ...] | None:
    """The columns of one record."""
    row: tuple[object, ...] | None = connection.execute(f"SELECT {COLUMNS} FROM event WHERE seq = ?", (seq,)).fetchone()
    return row


def _head(path: Path) -> tuple[Head | None, str | None]:
    """The head of a ledger, None with the reason if there is none to read."""
    try:
        head = read_head(path)
    except IntegrityError as error:
        return None, str(error)
    return head, None if head is not None else "its head file is missing"


def _refuse_open_here(path: Path) -> None:
    """Reading the bytes of a database drops the locks that this process holds on it.

    Raises:
        UsageError: if this process has it open.
    """
    if not path.exists():
        return
    wanted = path.stat()
    for name in os.listdir("/dev/fd"):
        try:
            status = os.fstat(int(name))
        except OSError:  # the one that listed them
            continue
        if (status.st_dev, status.st_ino) == (wanted.st_dev, wanted.st_ino):
            raise UsageError(f"{path} is open in this process; close it before it is recovered")


def _words(path: Path, saved: Salvage) -> str:
    """What happened, for the record."""
    count = "an unknown number of events" if saved.lost is None else f"{saved.lost} committed events"
    return f"recovered from {path}: {saved.kept} events were kept, {count} lost after them ({saved.fault})"
