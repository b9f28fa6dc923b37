"""A ledger whose files, directory, process or disk change while it is open: noticed before anything is acknowledged."""

import multiprocessing
import os
import shutil
import signal
import sqlite3
import threading
from pathlib import Path

import pytest
from ledger_samples import ONE_OF_EACH

from safehold.core.errors import IntegrityError, ResourceError, UsageError
from safehold.ledger import disk, store
from safehold.ledger.events import Stopped
from safehold.ledger.store import Ledger

FORK = multiprocessing.get_context("fork")
AGAIN = Stopped(reason="again")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The directory of a closed ledger with one event of each kind, not to be changed."""
    directory = tmp_path_factory.mktemp("written") / "run"
    Ledger.create(directory / "ledger.sqlite", ONE_OF_EACH).close()
    return directory


@pytest.fixture
def path(written, tmp_path):
    """A copy of it."""
    return Path(shutil.copytree(written, tmp_path / "run")) / "ledger.sqlite"


def append(ledger, reason="again"):
    with ledger.transaction() as turn:
        turn.append(Stopped(reason=reason))


def _append_after_a_look_of_its_own(path, looked, go) -> None:
    with Ledger.open(path) as ledger:
        append(ledger, "first")
        Ledger.open(path, read_only=True).close()  # as a report does, within the process that deploys
        looked.set()
        go.wait(30)
        append(ledger, "acknowledged")
        os.kill(os.getpid(), signal.SIGKILL)


def test_looking_at_a_ledger_does_not_drop_the_locks_that_keep_its_log(path):
    """Closing any descriptor of a file drops all POSIX locks of the process on it: SQLite's howtocorrupt, 2.2."""
    looked, go = FORK.Event(), FORK.Event()
    writer = FORK.Process(target=_append_after_a_look_of_its_own, args=(path, looked, go))
    writer.start()
    assert looked.wait(30)
    with Ledger.open(path) as other:
        append(other, "second")
    go.set()
    writer.join(30)
    assert writer.exitcode == -signal.SIGKILL
    with Ledger.open(path) as ledger:
        assert [record.event.reason for record in ledger.read()[11:]] == ["first", "second", "acknowledged"]


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
def test_a_file_that_is_deleted_while_the_ledger_is_open_stops_it(path, suffix):
    with Ledger.open(path) as ledger:
        path.with_name(path.name + suffix).unlink()
        with pytest.raises(IntegrityError, match=rf"ledger.sqlite{suffix} was moved or deleted while"):
            append(ledger)


def test_a_database_that_is_replaced_while_the_ledger_is_open_stops_it(path, tmp_path):
    older = shutil.copy(path, tmp_path / "older")
    with Ledger.open(path) as ledger:
        append(ledger)
        os.replace(older, path)
        with pytest.raises(IntegrityError, match="was replaced while the ledger was open"):
            append(ledger)


def test_a_directory_that_is_moved_while_the_ledger_is_open_stops_it(path):
    with Ledger.open(path) as ledger:
        path.parent.rename(path.parent.with_name("elsewhere"))
        with pytest.raises(IntegrityError, match="was moved or deleted"):
            append(ledger)
    with Ledger.open(path.parent.with_name("elsewhere") / path.name) as ledger:
        assert len(ledger.read()) == 11


def test_a_database_that_is_deleted_within_a_turn_acknowledges_nothing(path):
    def append_and_delete():
        with ledger.transaction() as turn:
            turn.append(AGAIN)
            path.unlink()

    with Ledger.open(path) as ledger, pytest.raises(IntegrityError, match="moved or deleted"):
        append_and_delete()


def _append_when_told(path, go) -> None:
    go.wait(30)
    with Ledger.open(path) as ledger:
        append(ledger, "second")


def test_two_logs_of_one_database_are_noticed(path):
    """A deleted -wal and -shm leave two writers without a common lock.

    The first one finds out before it acknowledges anything. As it closes, SQLite deletes the other's log by its name:
    that event is lost, and the head file tells.
    """
    go = FORK.Event()
    other = FORK.Process(target=_append_when_told, args=(path, go))
    other.start()
    with Ledger.open(path) as ledger:
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink()
        go.set()
        other.join(30)
        assert other.exitcode == 0
        with pytest.raises(IntegrityError, match=r"its tail is lost|moved or deleted|was replaced"):
            append(ledger, "first")
    with pytest.raises(IntegrityError, match="ends at event 10, but event 11 was committed"):
        Ledger.open(path)


def test_rows_that_are_rewritten_while_the_ledger_is_open_stop_it(path, tmp_path):
    """Not only a broken chain: another chain that is whole in itself, with a head of its own."""
    forged = tmp_path / "forged" / "ledger.sqlite"
    Ledger.create(forged, [*ONE_OF_EACH[:5], *ONE_OF_EACH[6:], AGAIN]).close()
    with Ledger.open(path) as ledger:
        shell = sqlite3.connect(path)
        shell.executescript(
            "DROP TRIGGER event_is_never_updated; DROP TRIGGER event_is_never_deleted; DELETE FROM event;"
            f"ATTACH '{forged}' AS forged; INSERT INTO event SELECT * FROM forged.event; DETACH forged"
        )
        shell.close()
        shutil.copy(forged.with_suffix(".head"), path.with_suffix(".head"))
        with pytest.raises(IntegrityError, match="event 10 was rewritten or removed while the ledger was open"):
            ledger.read(after=10)
        with pytest.raises(IntegrityError, match="event 10 was rewritten or removed while the ledger was open"):
            append(ledger)


def test_a_tail_that_is_deleted_while_the_ledger_is_open_stops_it(path):
    with Ledger.open(path) as ledger:
        shell = sqlite3.connect(path)
        shell.executescript("DROP TRIGGER event_is_never_deleted; DELETE FROM event WHERE seq = 10;")
        with pytest.raises(IntegrityError, match="its tail is lost"):
            append(ledger)
        with pytest.raises(IntegrityError, match="event 10 was rewritten or removed"):
            ledger.read(after=10)
        shell.executescript("DELETE FROM event")
        with pytest.raises(IntegrityError, match="was emptied"):
            append(ledger)
        shell.close()


def test_a_process_that_goes_elsewhere_keeps_writing_where_the_run_is(path, tmp_path, monkeypatch):
    monkeypatch.chdir(path.parent)
    with Ledger.open(Path("ledger.sqlite")) as ledger:
        monkeypatch.chdir(tmp_path)
        append(ledger)
    assert [file.name for file in tmp_path.iterdir()] == ["run"]
    with Ledger.open(path) as ledger:
        assert len(ledger.read()) == 12


@pytest.mark.parametrize("name", ["with blanks", "100%41#?&=;", "größe 机器", "-v", "'\"$(x)"])
def test_any_name_of_a_directory_will_do(tmp_path, name):
    with Ledger.create(tmp_path / name / "ledger.sqlite", ONE_OF_EACH) as ledger:
        append(ledger)
    with Ledger.open(tmp_path / name / "ledger.sqlite") as ledger:
        assert len(ledger.read()) == 12
    assert os.listdir(tmp_path) == [name]


def _use(ledger: Ledger, said) -> None:
    for use in (ledger.read, lambda: append(ledger)):
        try:
            use()
            said.put("used")
        except UsageError as error:
            said.put(str(error))


def test_a_ledger_is_not_used_by_a_child_of_the_process_that_opened_it(path):
    with Ledger.open(path) as ledger:
        said = FORK.Queue()
        child = FORK.Process(target=_use, args=(ledger, said))
        child.start()
        for _ in range(2):
            assert "open it anew in each process" in said.get(timeout=30)
        child.join(30)
        append(ledger)


def test_a_ledger_is_not_used_from_another_thread(path):
    said = []

    def use():
        with pytest.raises(UsageError, match="in the thread that uses it") as error:
            append(ledger)
        said.append(error)

    with Ledger.open(path) as ledger:
        thread = threading.Thread(target=use)
        thread.start()
        thread.join(30)
    assert said


def test_a_closed_ledger_says_so(path):
    ledger = Ledger.open(path)
    ledger.close()
    for use in (ledger.read, lambda: append(ledger)):
        with pytest.raises(UsageError, match="closed database"):
            use()


def test_a_log_without_its_database_is_a_lost_ledger(path):
    with Ledger.open(path) as ledger:
        append(ledger)
        log = path.with_name("ledger.sqlite-wal").read_bytes()
    for file in path.parent.iterdir():
        file.unlink()
    path.with_name("ledger.sqlite-wal").write_bytes(log)
    with pytest.raises(IntegrityError, match="the ledger was lost"):
        Ledger.create(path, ONE_OF_EACH)
    with pytest.raises(IntegrityError, match="missing"):
        Ledger.open(path)
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == {"ledger.sqlite-wal": log}


def test_an_emptied_database_does_not_take_its_log_with_it(path):
    """SQLite deletes the log beside an empty file, even when it only reads; the log may hold everything."""
    with Ledger.open(path) as ledger:
        append(ledger)
        log = path.with_name("ledger.sqlite-wal").read_bytes()
    path.with_name("ledger.sqlite-wal").write_bytes(log)
    path.write_bytes(b"")
    for read_only in (True, False):
        with pytest.raises(IntegrityError, match="holds 0 bytes"):
            Ledger.open(path, read_only=read_only)
    assert path.with_name("ledger.sqlite-wal").read_bytes() == log


def test_the_log_of_another_database_is_refused(path, tmp_path):
    other = tmp_path / "other" / "ledger.sqlite"
    with Ledger.create(other, ONE_OF_EACH[:2]) as ledger:
        for _ in range(3):
            append(ledger)
        shutil.copy(other.with_name("ledger.sqlite-wal"), path.with_name("ledger.sqlite-wal"))
    before = path.read_bytes()
    with pytest.raises(IntegrityError):
        Ledger.open(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"\x00" * 32, b"\xa5" * 40_000])
@pytest.mark.parametrize("suffix", ["-shm", "-wal"])
def test_scribble_in_the_log_or_its_index_of_a_closed_ledger_changes_nothing(path, suffix, content):
    """All events are in the database once the last writer has closed it; neither file is believed without reason."""
    before = path.read_bytes()
    path.with_name(path.name + suffix).write_bytes(content)
    with Ledger.open(path, read_only=True) as ledger:
        assert len(ledger.read()) == 11
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"garbage" * 1000, b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + b"\xff" * 2000])
def test_a_rollback_journal_that_is_none_of_ours_is_not_played_back(path, content):
    before = path.read_bytes()
    path.with_name("ledger.sqlite-journal").write_bytes(content)
    for read_only in (True, False):
        with pytest.raises((IntegrityError, ResourceError)):
            Ledger.open(path, read_only=read_only)
    assert path.read_bytes() == before
    assert path.with_name("ledger.sqlite-journal").read_bytes() == content


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("CREATE TRIGGER swallow BEFORE INSERT ON event BEGIN SELECT RAISE(IGNORE); END", "layout of a ledger"),
        ("CREATE TABLE other (x)", "layout of a ledger: 'CREATE TABLE other"),
        ("CREATE VIEW v AS SELECT 1", "layout of a ledger"),
        ("ALTER TABLE event ADD COLUMN more TEXT", "layout of a ledger"),
        ("ALTER TABLE event RENAME TO hidden", "layout of a ledger"),
        ("DROP TRIGGER event_is_never_deleted", "triggers that forbid edits are gone"),
        ("PRAGMA user_version = 0", "schema 0.*older safehold that wrote it"),
        ("PRAGMA user_version = 99", "schema 99.*use a newer safehold"),
        ("PRAGMA application_id = 1", "another program"),
    ],
)
def test_a_database_with_another_layout_is_refused(path, sql, message):
    shell = sqlite3.connect(path)
    shell.executescript(sql)
    shell.close()
    before = path.read_bytes()
    with pytest.raises(IntegrityError, match=message):
        Ledger.open(path)
    assert path.read_bytes() == before


def test_a_view_in_the_place_of_the_events_is_never_run(path):
    """One that would never end."""
    shell = sqlite3.connect(path)
    shell.executescript(
        "DROP TABLE event; CREATE VIEW event AS WITH RECURSIVE n(seq) AS (SELECT 0 UNION ALL SELECT seq + 1 FROM n) "
        "SELECT seq, '' kind, '' trial, '' key, '' body, '' prev_hash, '' hash, '' wall_time, '' seal FROM n"
    )
    shell.close()
    with pytest.raises(IntegrityError, match="layout of a ledger"):
        Ledger.open(path, read_only=True)


@pytest.mark.parametrize("column", ["kind", "trial", "key", "body", "prev_hash", "hash", "wall_time", "seal"])
@pytest.mark.parametrize("value", ["x'00ff'", "cast(x'ff' AS TEXT)"])
def test_a_column_that_is_no_text_is_refused(path, column, value):
    shell = sqlite3.connect(path)
    shell.executescript(f"DROP TRIGGER event_is_never_updated; UPDATE event SET {column} = {value} WHERE seq = 4")
    shell.close()
    with pytest.raises(IntegrityError, match=r"event 4|decode"):
        Ledger.open(path)


@pytest.mark.parametrize("body", ["{", "[" * 5000, '{"reason": NaN}', "{}", "7"])
def test_a_rehashed_body_that_is_no_event_is_refused_when_it_is_read(path, body):
    """Who can rewrite the chain and the head can forge; what is forged is still not taken for what it is not."""
    with Ledger.open(path) as ledger:
        last = ledger.read()[-1]
    forged = store._record(last.seq + 1, "stopped", None, None, body, last.hash)
    with pytest.raises(IntegrityError, match="event 11"):
        _ = forged.event


@pytest.mark.parametrize(
    "content",
    [b"[" * 4000, b"[" * 100_000, b'{"seq": 1e400, "hash": ""}', b'{"seq": -2, "hash": ""}', b'{"seq": 3, "hash": 3}'],
)
def test_a_hostile_head_is_refused(path, content):
    path.with_suffix(".head").write_bytes(content)
    with pytest.raises(IntegrityError, match=r"ledger\.head"):
        Ledger.open(path)
    assert path.with_suffix(".head").read_bytes() == content


def test_a_directory_in_the_place_of_a_file_is_refused(path):
    path.with_suffix(".head").unlink()
    path.with_suffix(".head").mkdir()
    with pytest.raises(IntegrityError, match="not a head file"):
        Ledger.open(path)
    path.with_suffix(".head").rmdir()
    path.unlink()
    path.mkdir()
    with pytest.raises(IntegrityError, match="not a file"):
        Ledger.open(path)
    path.rmdir()
    os.mkfifo(path)  # would wait for a writer for ever
    with pytest.raises(IntegrityError, match="not a file"):
        Ledger.open(path)


def test_a_network_file_system_is_seen_through_blanks_and_mounts_over_mounts(tmp_path):
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "dev / ext4 rw 0 0\nserver:/x /my\\040share nfs4 rw 0 0\n"
        "server:/y /over ext4 rw 0 0\nserver:/y /over 9p rw 0 0\nlocal /under cifs rw 0 0\nlocal /under xfs rw 0 0\n"
    )
    places = ("/my share/runs", "/my", "/over/a", "/under/a")
    assert [disk.file_system(Path(place), mounts) for place in places] == ["nfs4", "ext4", "9p", "xfs"]
