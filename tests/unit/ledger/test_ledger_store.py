import contextlib
import json
import multiprocessing
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from ledger_samples import ONE_OF_EACH, asked, started

from safehold.core.errors import IntegrityError, ResourceError, UsageError
from safehold.ledger import disk, store
from safehold.ledger.events import Held, Stopped
from safehold.ledger.store import Ledger


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "ledger.sqlite"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A closed ledger with one event of each kind, not to be changed; returns its directory."""
    directory = tmp_path_factory.mktemp("written") / "run"
    with Ledger.create(directory / "ledger.sqlite", ONE_OF_EACH[:1]) as ledger:
        for event in ONE_OF_EACH[1:]:
            with ledger.transaction() as turn:
                turn.append(event)
    return directory


@pytest.fixture
def full(written, path):
    """A copy of it; returns its path."""
    shutil.copytree(written, path.parent)
    return path


def files(path):
    return {p.name: p.read_bytes() for p in path.parent.iterdir()}


def tamper(path, *statements):
    """Edits the database as a stranger with an SQLite shell would, who covers up the traces in the schema."""
    connection = sqlite3.connect(path)
    connection.executescript("DROP TRIGGER event_is_never_updated; DROP TRIGGER event_is_never_deleted;")
    for statement in (*statements, *store._TRIGGERS_SQL):
        connection.execute(statement)
    connection.commit()
    connection.close()


def test_events_come_back_in_order(full):
    with Ledger.open(full) as ledger:
        records = ledger.read()
    assert [record.event for record in records[1:]] == list(ONE_OF_EACH)
    assert [record.seq for record in records] == list(range(11))
    assert (records[3].trial, records[3].key, records[1].trial) == ("trial-0000", None, None)


def test_reading_after_a_number_gives_only_what_is_newer(full):
    with Ledger.open(full, read_only=True) as ledger:
        assert [record.seq for record in ledger.read(after=8)] == [9, 10]
        assert ledger.read(after=10) == []


def test_the_file_synchronises_fully_and_logs_ahead(full):
    with Ledger.open(full) as ledger:
        pragma = lambda name: ledger._connection.execute(f"PRAGMA {name}").fetchone()[0]  # noqa: E731
        assert pragma("journal_mode") == "wal"
        assert pragma("synchronous") == 2
        assert pragma("application_id") == store.APPLICATION_ID
        assert pragma("user_version") == store.SCHEMA


def test_two_runs_of_the_same_events_differ_by_timestamps_alone(tmp_path):
    chains = []
    for name in "ab":
        with Ledger.create(tmp_path / name / "ledger.sqlite", ONE_OF_EACH) as ledger:
            chains.append([record.hash for record in ledger.read()])
    assert chains[0] == chains[1]


def test_a_ledger_is_never_overwritten(full):
    before = files(full)
    with pytest.raises(UsageError, match="already holds a run"):
        Ledger.create(full, [])
    assert files(full) == before


def _try_to_create(path: Path, outcomes) -> None:
    try:
        Ledger.create(path, ONE_OF_EACH).close()
        outcomes.put("created")
    except UsageError:
        outcomes.put("refused")


def test_of_several_creators_one_succeeds(path):
    context = multiprocessing.get_context("fork")
    outcomes = context.Queue()
    workers = [context.Process(target=_try_to_create, args=(path, outcomes)) for _ in range(4)]
    for worker in workers:
        worker.start()
    assert sorted(outcomes.get(timeout=30) for _ in workers) == ["created", "refused", "refused", "refused"]
    for worker in workers:
        worker.join()
    with Ledger.open(path) as ledger:
        assert len(ledger.read()) == 11


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match="cannot be made"):
        Ledger.create(tmp_path / "file" / "run" / "ledger.sqlite", [])


def test_a_full_disk_writes_nothing_and_says_so(full):
    with Ledger.open(full) as ledger:
        pages = ledger._connection.execute("PRAGMA page_count").fetchone()[0]
        ledger._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(ResourceError, match="full"), ledger.transaction() as turn:
            turn.append(started({"long": "x" * 100_000}))
        assert len(ledger.read()) == 11


def test_opening_nothing_says_so(path):
    with pytest.raises(UsageError, match="no ledger here"):
        Ledger.open(path)
    assert not Ledger.exists(path)


@pytest.mark.parametrize("sql", ["UPDATE event SET kind = 'x'", "DELETE FROM event"])
def test_rows_are_neither_updated_nor_deleted(full, sql):
    connection = sqlite3.connect(full)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute(sql)
    connection.close()


@pytest.mark.parametrize(
    ("sql", "event"),
    [
        ("UPDATE event SET body = replace(body, '100.0', '900.0') WHERE seq = 3", 3),
        ("UPDATE event SET kind = 'held' WHERE seq = 4", 4),
        ("UPDATE event SET trial = 'trial-0009' WHERE seq = 3", 3),
        ("DELETE FROM event WHERE seq = 5", 6),
        ("DELETE FROM event WHERE seq = 0", 1),
        ("UPDATE event SET seq = 99 WHERE seq = 2", 3),
        ("UPDATE event SET body = '{}' WHERE seq = 0", 0),
    ],
)
def test_an_edited_deleted_or_reordered_row_breaks_the_chain(full, sql, event):
    tamper(full, sql)
    before = files(full)["ledger.sqlite"]
    with pytest.raises(IntegrityError, match=f"chain breaks at event {event} "):
        Ledger.open(full)
    assert files(full)["ledger.sqlite"] == before


@pytest.mark.parametrize("column", ["wall_time", "seal"])
def test_an_edited_wall_time_is_noticed_though_the_chain_does_not_cover_it(full, column):
    tamper(full, f"UPDATE event SET {column} = '1999-01-01T00:00:00+00:00' WHERE seq = 3")
    with pytest.raises(IntegrityError, match=r"chain breaks at event 3 .*its wall time was edited"):
        Ledger.open(full)


def test_a_lost_tail_is_noticed(full):
    tamper(full, "DELETE FROM event WHERE seq = 10")
    with pytest.raises(IntegrityError, match="ends at event 9, but event 10 was committed: its tail is lost"):
        Ledger.open(full)


def test_a_copy_without_its_wal_is_noticed(full, tmp_path):
    ledger = Ledger.open(full)
    with ledger.transaction() as turn:
        turn.append(Stopped(reason="again"))
    copy = tmp_path / "copy" / "ledger.sqlite"
    copy.parent.mkdir()
    shutil.copy(full, copy)
    shutil.copy(full.with_suffix(".head"), copy.with_suffix(".head"))
    ledger.close()
    with pytest.raises(IntegrityError, match="its tail is lost"):
        Ledger.open(copy)


def test_a_rewritten_history_does_not_fit_its_head(full, tmp_path):
    other = tmp_path / "other" / "ledger.sqlite"
    with Ledger.create(other, [started({"forged": True}), *ONE_OF_EACH[1:]]):
        pass
    shutil.copy(full.with_suffix(".head"), other.with_suffix(".head"))
    with pytest.raises(IntegrityError, match="not the one named by its head file"):
        Ledger.open(other)


def test_a_head_that_lags_behind_is_taken_as_a_crash_after_commit(full):
    head = full.with_suffix(".head")
    before = head.read_bytes()
    with Ledger.open(full) as ledger, ledger.transaction() as turn:
        turn.append(Stopped(reason="again"))
    head.write_bytes(before)
    with Ledger.open(full, read_only=True) as ledger:
        assert len(ledger.read()) == 12
    assert head.read_bytes() == before


def test_what_a_crashed_writer_committed_is_named_by_the_head_before_anybody_acts_on_it(full):
    head = full.with_suffix(".head")
    before = head.read_bytes()
    with Ledger.open(full) as ledger:
        with ledger.transaction() as turn:
            turn.append(Stopped(reason="again"))
        after = head.read_bytes()
        head.write_bytes(before)
        with ledger.transaction():
            assert head.read_bytes() == after
    head.write_bytes(before)
    Ledger.open(full).close()
    assert head.read_bytes() == after


def test_a_missing_head_is_refused(full):
    full.with_suffix(".head").unlink()
    with pytest.raises(IntegrityError, match="head is missing"):
        Ledger.open(full)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"seq": "x", "hash": ""}', b"\xff"])
def test_a_scribbled_head_is_refused(full, content):
    full.with_suffix(".head").write_bytes(content)
    with pytest.raises(IntegrityError, match="head"):
        Ledger.open(full)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda _: b"", "not a ledger: it holds 0 bytes"),
        (lambda _: b"PNG" + b"\x00" * 5000, "not a database"),
        (lambda b: b[:50], "not a ledger: it holds 50 bytes"),
        (lambda b: b[: len(b) // 2], "malformed|damaged|cannot be read|chain breaks"),
        (lambda b: b[:4096] + b"\xa5" * (len(b) - 4096), "malformed|damaged|cannot be read|chain breaks"),
        (lambda b: b[:68] + b"\x00\x00\x00\x01" + b[72:], "another program"),
        (lambda b: b[:60] + b"\x00\x00\x00\x09" + b[64:], "schema 9"),
    ],
    ids=["empty", "picture", "stub", "truncated", "scribbled", "foreign", "newer"],
)
def test_a_damaged_file_is_refused_and_left_as_it_is(full, damage, message):
    full.write_bytes(damage(full.read_bytes()))
    before = files(full)
    for read_only in (True, False):
        with pytest.raises(IntegrityError, match=message) as error:
            Ledger.open(full, read_only=read_only)
        assert error.value.exit_code == 4
        after = files(full)
        assert {name: after[name] for name in before} == before


def test_a_ledger_whose_file_is_gone_is_refused(full):
    full.unlink()
    with pytest.raises(IntegrityError, match="the head file says a ledger was here"):
        Ledger.open(full)


def test_a_truncated_wal_is_noticed(full):
    ledger = Ledger.open(full)
    with ledger.transaction() as turn:
        turn.append(Stopped(reason="again"))
    copied = {name: content for name, content in files(full).items() if not name.endswith("-shm")}
    ledger.close()
    for name, content in copied.items():
        (full.parent / name).write_bytes(content[: len(content) // 2] if name.endswith("-wal") else content)
    with pytest.raises(IntegrityError, match="its tail is lost"):
        Ledger.open(full)


def test_a_lost_ledger_is_never_replaced_by_an_empty_one(full):
    for suffix in ("", "-wal", "-shm"):
        full.with_name(full.name + suffix).unlink(missing_ok=True)
    head = full.with_suffix(".head").read_bytes()
    assert Ledger.exists(full)
    with pytest.raises(IntegrityError, match=r"the ledger was lost.*Restore it from a backup") as error:
        Ledger.create(full, ONE_OF_EACH)
    assert error.value.exit_code == 4
    assert files(full) == {"ledger.head": head, "ledger.lock": b""}
    with pytest.raises(IntegrityError, match="the head file says a ledger was here"):
        Ledger.open(full)


def test_a_creation_that_was_interrupted_starts_over(path):
    path.parent.mkdir()
    store._replace_head(path, store.Head(-1, "0" * 64))
    for leftover in (b"", b"SQLite format 3\x00 and half a page"):
        path.with_name(path.name + ".partial").write_bytes(leftover)
        assert not Ledger.exists(path)
    with Ledger.create(path, ONE_OF_EACH) as ledger:
        assert len(ledger.read()) == 11
    assert Ledger.exists(path)
    assert sorted(files(path)) == ["ledger.head", "ledger.lock", "ledger.sqlite"]


def test_an_unreadable_database_is_never_taken_for_an_interrupted_creation(full):
    store._replace_head(full, store.Head(-1, "0" * 64))
    for content in (b"", b"SQLite format 3\x00 and half a page", b"x" * 5000):
        full.write_bytes(content)
        assert Ledger.exists(full)
        with pytest.raises(UsageError, match="already holds a run"):
            Ledger.create(full, ONE_OF_EACH)
        with pytest.raises(IntegrityError):
            Ledger.open(full)
        assert full.read_bytes() == content


def test_a_creation_that_was_interrupted_after_its_commit_is_complete(full):
    store._replace_head(full, store.Head(-1, "0" * 64))
    assert Ledger.exists(full)
    with Ledger.open(full) as ledger:
        assert len(ledger.read()) == 11


def test_a_block_that_raises_leaves_no_trace(full):
    before = full.with_suffix(".head").read_bytes()
    with Ledger.open(full) as ledger:
        with contextlib.suppress(ZeroDivisionError), ledger.transaction() as turn:
            turn.append(Stopped(reason="half"))
            raise ZeroDivisionError
        assert len(ledger.read()) == 11
        with ledger.transaction() as turn:
            turn.append(Stopped(reason="whole"))
        assert len(ledger.read()) == 12
    assert full.with_suffix(".head").read_bytes() != before


def test_the_same_key_cannot_be_written_twice(path):
    with Ledger.create(path, [asked(0, "key")]) as ledger:
        with pytest.raises(IntegrityError, match="UNIQUE"), ledger.transaction() as turn:
            turn.append(asked(1, "key"))
        assert len(ledger.read()) == 2


def test_a_read_only_ledger_cannot_be_written(full):
    with (
        Ledger.open(full, read_only=True) as ledger,
        pytest.raises(IntegrityError, match="opened readonly"),
        ledger.transaction() as turn,
    ):
        turn.append(Stopped(reason="x"))


def test_an_unknown_kind_is_refused(full):
    with Ledger.open(full) as ledger:
        record = ledger.read()[0]
    with pytest.raises(IntegrityError, match="unknown kind 'genesis'"):
        _ = record.event


def test_export_is_one_json_line_a_record(full):
    with Ledger.open(full, read_only=True) as ledger:
        lines = [json.loads(line) for line in ledger.export()]
    assert len(lines) == 11
    assert [line["kind"] for line in lines][:4] == ["genesis", "started", "seeded", "asked"]
    assert lines[3]["body"]["target"] == [100.0, 2.5]


def test_a_backup_of_a_live_ledger_is_complete(full, tmp_path):
    copy = tmp_path / "backup" / "ledger.sqlite"
    copy.parent.mkdir()
    with Ledger.open(full) as ledger:
        with ledger.transaction() as turn:
            turn.append(Stopped(reason="again"))
        ledger.backup(copy)
        with pytest.raises(UsageError, match="never overwrites"):
            ledger.backup(copy)
        original = [record.hash for record in ledger.read()]
    with Ledger.open(copy) as restored:
        assert [record.hash for record in restored.read()] == original


def _write_many(path: Path, writer: int) -> None:
    with Ledger.open(path) as ledger:
        for i in range(20):
            with ledger.transaction() as turn:
                turn.append(Held(error=f"writer {writer}", reason=str(i)))


def test_four_writers_take_turns(path):
    Ledger.create(path, []).close()
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_write_many, args=(path, i)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    with Ledger.open(path) as ledger:
        events = [record.event for record in ledger.read(after=0)]
    assert len(events) == 80
    for writer in range(4):
        assert [e.reason for e in events if e.error == f"writer {writer}"] == [str(i) for i in range(20)]


def test_a_writer_that_waits_too_long_says_so(full, monkeypatch):
    monkeypatch.setattr(store, "BUSY_SECONDS", 0.05)
    with (
        Ledger.open(full) as first,
        Ledger.open(full) as second,
        first.transaction(),
        pytest.raises(ResourceError, match="another writer"),
        second.transaction(),
    ):
        pass


def test_a_network_file_system_is_refused(tmp_path, monkeypatch):
    mounts = tmp_path / "mounts"
    mounts.write_text(f"dev / ext4 rw 0 0\nserver:/x {tmp_path} nfs4 rw 0 0\nshort\n")
    assert disk.file_system(tmp_path / "run", mounts) == "nfs4"
    assert disk.file_system(Path("/etc"), mounts) == "ext4"
    assert disk.file_system(tmp_path, tmp_path / "no-such-file") == ""
    monkeypatch.setattr(disk, "file_system", lambda *_: "nfs4")
    with pytest.raises(ResourceError, match="network file system"):
        Ledger.create(tmp_path / "run" / "ledger.sqlite", [])


def test_any_flipped_byte_of_the_file_is_refused_or_changes_no_record(full, tmp_path):
    """Some bytes of a database belong to no record: free space, indices, counters."""
    with Ledger.open(full) as ledger:
        records = ledger.read()
    data = full.read_bytes()
    head = full.with_suffix(".head").read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for number, place in enumerate(rng.choice(len(data), 250, replace=False)):
        path = tmp_path / f"{number}" / "ledger.sqlite"
        path.parent.mkdir()
        path.write_bytes(data[:place] + bytes([data[place] ^ (1 << int(rng.integers(8)))]) + data[place + 1 :])
        path.with_suffix(".head").write_bytes(head)
        try:
            with Ledger.open(path, read_only=True) as ledger:
                assert ledger.read() == records, place
        except IntegrityError:
            refused += 1
    assert refused > 20
