"""A damaged ledger: what is valid is saved elsewhere, what is lost is counted, no byte of the original is changed."""

import multiprocessing
import os
import shutil
import signal
import sqlite3

import pytest
from ledger_samples import ONE_OF_EACH

from safehold.core.errors import IntegrityError, UsageError
from safehold.ledger.events import Held, Started, Stopped
from safehold.ledger.run import RunDirectory
from safehold.ledger.salvage import Salvage

FORK = multiprocessing.get_context("fork")
EVENTS = (ONE_OF_EACH[0], *(Held(error=f"{number}", reason="x" * 3000) for number in range(2, 41)))
N = len(EVENTS)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A closed run of 40 events, several to a page; not to be changed."""
    run = RunDirectory(tmp_path_factory.mktemp("written") / "run")
    with run.create(EVENTS[:-1]) as ledger, ledger.transaction() as turn:
        turn.append(EVENTS[-1])
    return run.path


@pytest.fixture
def run(written, tmp_path):
    return RunDirectory(shutil.copytree(written, tmp_path / "run"))


@pytest.fixture
def into(tmp_path):
    return tmp_path / "saved"


def contents(run):
    return {file.name: file.read_bytes() for file in run.path.iterdir() if file.is_file()}


def shell(run, *statements):
    connection = sqlite3.connect(run.ledger_path)
    connection.executescript("DROP TRIGGER event_is_never_updated; DROP TRIGGER event_is_never_deleted;")
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def check_refused(run):
    """It does not open, and is left as it is; but for the index of its log, made anew by whoever looks."""
    before = contents(run)
    for read_only in (True, False):
        with pytest.raises(IntegrityError):
            run.open(read_only=read_only)
    assert {name: content for name, content in contents(run).items() if name in before} == before


def check_saved(into, kept):
    """The new run opens, holds that beginning, and is stopped."""
    events = RunDirectory(into).events()
    assert events[:kept] == list(EVENTS[:kept])
    (end,) = events[kept:]
    assert isinstance(end, Stopped)
    assert f"{kept} events were kept" in end.reason
    RunDirectory(into).open().close()


@pytest.mark.parametrize(
    ("sql", "kept", "fault"),
    [
        ("UPDATE event SET body = replace(body, '\"20\"', '\"21\"') WHERE seq = 20", 19, "chain breaks at event 20"),
        ("UPDATE event SET body = x'00' WHERE seq = 20", 19, "chain breaks at event 20"),
        ("UPDATE event SET body = cast(x'ff' AS TEXT) WHERE seq = 20", 19, "decode"),
        ("DELETE FROM event WHERE seq = 20", 19, "event 20 is missing, event 21 is there"),
        ("DELETE FROM event WHERE seq >= 20", 19, "ends at event 19, but event 40 was committed"),
        ("UPDATE event SET seq = 99 WHERE seq = 20", 19, "event 20 is missing"),
        ("UPDATE event SET seq = 1041 - seq WHERE seq > 20", 20, "event 21 is missing"),
        (
            "INSERT INTO event SELECT 41, kind, trial, key, body, prev_hash, 'h', '', '' FROM event WHERE seq = 7",
            N,
            "41",
        ),
    ],
    ids=["edited", "retyped", "undecodable", "deleted", "cut off", "moved", "reversed", "duplicated"],
)
def test_the_beginning_before_the_first_wrong_row_is_saved(run, into, sql, kept, fault):
    shell(run, sql)
    before = contents(run)
    saved = run.recover(into)
    assert (saved.kept, saved.lost) == (kept, N - kept)
    assert fault in saved.fault
    check_saved(into, kept)
    assert contents(run) == before
    check_refused(run)


def recovered(run, into):
    """What was saved; None if nothing could be, and nothing is in its place then."""
    before = contents(run)
    try:
        return run.recover(into)
    except IntegrityError:
        with pytest.raises(IntegrityError, match="not one event can be saved"):
            run.recover(into)
        assert not RunDirectory(into).started
        return None
    finally:
        assert contents(run) == before


def test_a_scribbled_page_costs_what_is_on_it_and_after_it(run, into):
    whole = run.ledger_path.read_bytes()
    kept = []
    for first in range(4096, len(whole), 8192):
        run.ledger_path.write_bytes(whole[:first] + b"\xa5" * 4096 + whole[first + 4096 :])
        saved = recovered(run, into / str(first))
        if saved is not None:
            assert saved.kept + saved.lost == N
            kept.append(saved.kept)
        if saved is not None and saved.kept < N:  # else the page is of an index, which no record is read from
            check_saved(into / str(first), saved.kept)
            check_refused(run)
        for suffix in ("-wal", "-shm"):
            run.ledger_path.with_name(f"ledger.sqlite{suffix}").unlink(missing_ok=True)
    assert len(set(kept)) > 3


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.9])
def test_a_truncated_database_saves_what_is_left_or_says_that_nothing_is(run, into, share):
    data = run.ledger_path.read_bytes()
    run.ledger_path.write_bytes(data[: int(share * len(data))])
    saved = recovered(run, into)
    if saved is not None:
        assert saved.lost > 0
        check_saved(into, saved.kept)
    check_refused(run)


@pytest.mark.parametrize("content", [b"x" * 50_000, b"\x00" * 50_000, b"SQLite format 3\x00" + b"\x00" * 5000])
def test_garbage_has_nothing_to_save(run, into, content):
    run.ledger_path.write_bytes(content)
    before = contents(run)
    with pytest.raises(IntegrityError, match="not one event can be saved"):
        run.recover(into)
    assert contents(run) == before
    assert not RunDirectory(into).started


def test_a_missing_database_has_nothing_to_save(run, into):
    run.ledger_path.unlink()
    with pytest.raises(IntegrityError, match="not one event can be saved: the database is gone"):
        run.recover(into)


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"seq": "x", "hash": ""}'])
def test_without_a_head_everything_there_is_saved_and_nobody_knows_what_is_lost(run, into, content):
    head = run.ledger_path.with_suffix(".head")
    head.unlink() if content is None else head.write_bytes(content)
    saved = run.recover(into)
    assert (saved.kept, saved.lost) == (N, None)
    assert "head" in saved.fault
    check_saved(into, N)


def test_a_log_that_is_lost_is_counted(run, into):
    with run.open() as ledger:
        for number in range(3):
            with ledger.transaction() as turn:
                turn.append(Held(error="late", reason=f"{number}"))
        copy = RunDirectory(run.path.with_name("copy"))
        copy.path.mkdir()
        for name in ("ledger.sqlite", "ledger.head"):
            shutil.copy(run.path / name, copy.path / name)
    saved = copy.recover(into)
    assert (saved.kept, saved.lost) == (N, 3)
    check_saved(into, N)


def _append_and_die(run) -> None:
    with run.open() as ledger:
        for number in range(5):
            with ledger.transaction() as turn:
                turn.append(Held(error="late", reason=f"{number}"))
        os.kill(os.getpid(), signal.SIGKILL)


def killed_after_five_events(run):
    writer = FORK.Process(target=_append_and_die, args=(run,))
    writer.start()
    writer.join(30)
    assert run.ledger_path.with_name("ledger.sqlite-wal").stat().st_size > 0


def test_a_torn_log_saves_the_events_before_the_tear(run, into):
    killed_after_five_events(run)
    log = run.ledger_path.with_name("ledger.sqlite-wal")
    log.write_bytes(log.read_bytes()[: log.stat().st_size // 2])
    before = contents(run)
    with pytest.raises(IntegrityError, match="its tail is lost"):
        run.open(read_only=True)
    before.update(contents(run))  # the index of the log is made anew by whoever looks
    saved = run.recover(into)
    assert N <= saved.kept < N + 5
    assert saved.kept + saved.lost == N + 5
    assert RunDirectory(into).events()[:N] == list(EVENTS)
    assert contents(run) == before


def test_a_whole_ledger_is_copied_whole_and_goes_on(run, into):
    killed_after_five_events(run)
    saved = run.recover(into)
    assert (saved.kept, saved.lost, saved.fault) == (N + 5, 0, None)
    with run.open() as ledger, RunDirectory(into).open() as copy:
        assert copy.read() == ledger.read()


def test_what_was_added_to_the_database_is_left_behind(run, into):
    connection = sqlite3.connect(run.ledger_path)
    connection.executescript(
        "DROP TRIGGER event_is_never_deleted; CREATE TABLE other (x);"
        "CREATE TRIGGER swallow BEFORE INSERT ON event BEGIN SELECT RAISE(IGNORE); END"
    )
    connection.close()
    assert run.recover(into) == Salvage(kept=N, lost=0, fault=None)
    with RunDirectory(into).open() as ledger, ledger.transaction() as turn:
        turn.append(Stopped(reason="done"))


def test_a_rewritten_chain_is_not_saved_as_if_it_were_true(run, into):
    forged = RunDirectory(run.path.with_name("forged"))
    forged.create(
        [Started(declaration={}, policy_digest="x", provenance={}, safehold_version="0"), *EVENTS[1:]]
    ).close()
    shutil.copy(run.path / "ledger.head", forged.path / "ledger.head")
    with pytest.raises(IntegrityError, match="one of them was rewritten"):
        forged.recover(into)
    assert not RunDirectory(into).started


def test_a_view_in_the_place_of_the_events_is_not_run(run, into):
    shell(run, "DROP TABLE event", "CREATE VIEW event AS WITH RECURSIVE n(seq) AS "
          "(SELECT 0 UNION ALL SELECT seq + 1 FROM n) SELECT seq FROM n")  # fmt: skip
    with pytest.raises(IntegrityError, match="table of events is gone or was altered"):
        run.recover(into)


@pytest.mark.parametrize(("schema", "hint"), [(0, "older safehold"), (99, "newer safehold")])
def test_another_schema_is_not_guessed_at(run, into, schema, hint):
    shell(run, f"PRAGMA user_version = {schema}")
    with pytest.raises(IntegrityError, match=hint):
        run.recover(into)


def test_saving_never_writes_over_anything(run, into):
    RunDirectory(into).create(EVENTS[:1]).close()
    before = contents(RunDirectory(into))
    for place in (into, run.path):
        with pytest.raises(UsageError, match="already holds a run"):
            run.recover(place)
    assert contents(RunDirectory(into)) == before
    with pytest.raises(UsageError, match="no ledger here"):
        RunDirectory(into.parent).recover(into.parent / "other")
    with pytest.raises(UsageError, match="no such directory"):
        RunDirectory(into.parent / "nowhere").recover(into.parent / "other")


def test_a_run_that_is_driven_or_open_here_is_not_recovered(run, into):
    with run.runner_lock(), pytest.raises(IntegrityError, match="another runner drives"):
        run.recover(into)
    with run.open(), pytest.raises(UsageError, match="is open in this process"):
        run.recover(into)
    assert run.recover(into).fault is None


def test_a_recovered_run_can_be_recovered(run, into):
    shell(run, "DELETE FROM event WHERE seq >= 20")
    run.recover(into)
    again = RunDirectory(into).recover(into.with_name("again"))
    assert (again.kept, again.lost, again.fault) == (20, 0, None)
    assert isinstance(RunDirectory(into.with_name("again")).events()[-1], Stopped)


def exported(run, path):
    with run.open(read_only=True) as ledger:
        path.write_text("".join(f"{line}\n" for line in ledger.export()))
    return RunDirectory(path)


def test_an_export_is_saved_event_by_event_into_a_stopped_run(run, into, tmp_path):
    saved = exported(run, tmp_path / "export.jsonl").recover(into)
    assert (saved.kept, saved.lost, saved.fault) == (N, None, "an export has no head file")
    check_saved(into, N)


def test_a_torn_last_line_of_an_export_is_left_out_and_said(run, into, tmp_path, caplog):
    export = exported(run, tmp_path / "export.jsonl").path
    export.write_bytes(export.read_bytes()[:-40])
    saved = RunDirectory(export).recover(into)
    assert (saved.kept, saved.lost) == (N - 1, None)
    assert f"line {N + 1} of {N + 1} is no record" in saved.fault
    assert "39 events were kept" in caplog.text
    check_saved(into, N - 1)


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: [*lines[:20], lines[20].replace('"20"', '"21"'), *lines[21:]],
        lambda lines: [*lines[:20], *lines[21:]],
        lambda lines: [*lines[:20], lines[21], lines[20], *lines[22:]],
        lambda lines: [*lines[:20], "[]", *lines[21:]],
        lambda lines: [*lines[:20], lines[20].replace('"seal":"', '"seal":"0'), *lines[21:]],
    ],
    ids=["edited", "deleted", "reordered", "no object", "unsealed"],
)
def test_an_edited_export_is_saved_up_to_the_edit(run, into, tmp_path, change):
    export = exported(run, tmp_path / "export.jsonl").path
    export.write_text("\n".join(change(export.read_text().splitlines())))
    saved = RunDirectory(export).recover(into)
    assert saved.kept == 19
    check_saved(into, 19)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b'{"seq": 0}\n'])
def test_what_is_no_export_has_nothing_to_save(tmp_path, into, content):
    (tmp_path / "export.jsonl").write_bytes(content)
    with pytest.raises(IntegrityError, match="not one event can be saved"):
        RunDirectory(tmp_path / "export.jsonl").recover(into)
    assert not RunDirectory(into).started


def test_an_export_is_never_saved_over_a_run(run, tmp_path):
    export = exported(run, tmp_path / "export.jsonl")
    with pytest.raises(UsageError, match="already holds a run"):
        export.recover(run.path)
