"""A ledger whose processes and disks fail at every step: nothing acknowledged is lost, nothing wrong is accepted."""

import contextlib
import ctypes
import errno
import json
import multiprocessing
import os
import resource
import shutil
import signal
import stat
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from disk_faults import KILLED, TORN, At, in_child, install
from jaxtyping import config

from safehold.core.errors import IntegrityError, ResourceError, SafeholdError
from safehold.ledger import store
from safehold.ledger.events import Abandoned, Deployed, Event, Held, Started, Stopped
from safehold.ledger.run import RunDirectory
from safehold.ledger.store import Ledger

FORK = multiprocessing.get_context("fork")
BATCHES: tuple[tuple[Event, ...], ...] = (
    (Started(declaration={}, policy_digest=None, provenance={}, safehold_version="0"), Deployed(trial="a")),
    (Deployed(trial="b"),),
    (Abandoned(trial="a", reason="x" * 9000, deployed=True), Deployed(trial="c")),
    (Stopped(reason="done"),),
)
EVENTS = tuple(event for batch in BATCHES for event in batch)
ENDS = [2, 3, 5, 6]
NOBODY = 65534


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory that is quick to synchronise where there is one; a killed process loses no page of either kind."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place, prefix="ledger-") as directory:
        yield Path(directory)


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Hundreds of processes start here; the shapes in the annotations are checked elsewhere."""
    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", before)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The hashes of an undisturbed ledger."""
    path = tmp_path_factory.mktemp("undisturbed") / "ledger.sqlite"
    finish(path, path.with_name("notes"))
    return hashes(path)


def hashes(path: Path) -> list[str]:
    with Ledger.open(path, read_only=True) as ledger:
        return [record.hash for record in ledger.read()]


def contents(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir() if file.is_file()}


def write(path: Path, note: int) -> None:
    """Writes the batches that are not there yet; notes, outside the ledger, how many events are acknowledged."""
    with Ledger.open(path) if Ledger.exists(path) else Ledger.create(path, BATCHES[0]) as ledger:
        os.write(note, f"{len(ledger.read()) - 1}\n".encode())
        while (done := len(ledger.read()) - 1) < len(EVENTS):
            batch = BATCHES[ENDS.index(done) + 1]
            with ledger.transaction() as turn:
                for event in batch:
                    turn.append(event)
            os.write(note, f"{done + len(batch)}\n".encode())


def finish(path: Path, notes: Path) -> None:
    """The same, undisturbed."""
    note = noting(notes)
    write(path, note)
    os.close(note)


def noting(notes: Path) -> int:
    return os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)


def acknowledged(notes: Path) -> int:
    lines = notes.read_text().splitlines() if notes.exists() else []
    return max((int(line) for line in lines if line.isdigit()), default=0)


def check(path: Path, notes: Path) -> None:
    """The ledger holds whole batches, all that were acknowledged, and no event that was not written."""
    if not Ledger.exists(path):
        assert acknowledged(notes) == 0
        return
    with Ledger.open(path) as ledger:
        events = [record.event for record in ledger.read(after=0)]
    assert tuple(events) == EVENTS[: len(events)]
    assert len(events) in ENDS
    assert len(events) >= acknowledged(notes)


def check_and_finish(path: Path, notes: Path, chain: list[str]) -> None:
    """The ledger is sound as it is, and going on ends in the undisturbed one."""
    check(path, notes)
    finish(path, notes)
    assert hashes(path) == chain


def steps_of_a_run(directory: Path) -> list[str]:
    """Every step towards the disk that writing the whole ledger takes."""
    at, notes = At(-1, KILLED), directory / "steps"

    def work() -> None:
        note = noting(directory / "notes")
        install(at)
        write(directory / "ledger.sqlite", note)
        notes.write_text(json.dumps(at.steps))

    assert in_child(work) == 0
    return json.loads(notes.read_text())


def disturbed(path: Path, notes: Path, at: At) -> int:
    """Writes the ledger in a child with a fault; errors of our family are noted, and tried again up to three times."""

    def work() -> None:
        note = noting(notes)
        install(at)
        for _ in range(4):
            try:
                write(path, note)
                return
            except SafeholdError as error:
                os.write(note, f"{error.exit_code} {type(error).__name__} {error}\n".encode())

    return in_child(work)


@pytest.mark.parametrize("how", [KILLED, TORN], ids=["before a step", "in the middle of a write"])
def test_a_writer_that_is_killed_at_any_step_loses_nothing_and_leaves_nothing_half(memory, chain, how):
    steps = steps_of_a_run(memory)
    assert len(steps) > 100
    killed = 0
    for number, name in enumerate(steps):
        if how == TORN and "pwrite" not in name:
            continue
        directory = memory / str(number)
        directory.mkdir()
        path, notes = directory / "ledger.sqlite", directory / "notes"
        assert disturbed(path, notes, At(number, how)) == -signal.SIGKILL, (number, name)
        killed += 1
        check_and_finish(path, notes, chain)
        assert not list(directory.glob("*.sqlite.partial*"))
        shutil.rmtree(directory)
    assert killed > 50


@pytest.mark.parametrize(
    ("number", "lasting", "stride"),
    [
        pytest.param(errno.ENOSPC, True, 4, id="full from then on"),
        pytest.param(errno.EIO, False, 4, id="failing for once"),
        *(
            pytest.param(number, lasting, 1, id=f"{errno.errorcode[number]} {lasting}", marks=pytest.mark.slow)
            for number in (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EMFILE)
            for lasting in (True, False)
        ),
    ],
)
def test_a_disk_that_fails_at_any_step_is_named_and_loses_nothing(memory, chain, number, lasting, stride):
    steps = steps_of_a_run(memory)
    refused = 0
    for place in range(0, len(steps), stride):
        directory = memory / str(place)
        directory.mkdir()
        path, notes = directory / "ledger.sqlite", directory / "notes"
        at = At(place, number, lasting=lasting, only=("open",) if number == errno.EMFILE else ())
        assert disturbed(path, notes, at) == 0, (place, steps[place])
        errors = [line for line in notes.read_text().splitlines() if not line.isdigit()] if notes.exists() else []
        assert all(line.startswith("7 ResourceError") for line in errors), (steps[place], errors)
        refused += bool(errors)
        check_and_finish(path, notes, chain)
        shutil.rmtree(directory)
    assert refused > 5


class Place:
    """A small file system in memory, seen by this process alone; for forked children."""

    LIBC = ctypes.CDLL(None, use_errno=True)
    NEW_NAMESPACE, READ_ONLY, REMOUNT, RECURSIVE, PRIVATE = 0x00020000, 1, 32, 16384, 1 << 18

    @staticmethod
    def mount(directory: Path, kilobytes: int) -> None:
        Place._call("unshare", Place.NEW_NAMESPACE)
        Place._call("mount", b"none", b"/", None, Place.RECURSIVE | Place.PRIVATE, None)
        size = f"size={kilobytes}k".encode()
        Place._call("mount", b"none", bytes(directory), b"tmpfs", 0, size)

    @staticmethod
    def remount_read_only(directory: Path) -> None:
        Place._call("mount", b"none", bytes(directory), None, Place.REMOUNT | Place.READ_ONLY, None)

    @staticmethod
    def _call(name: str, *arguments: object) -> None:
        typed = [ctypes.c_ulong(value) if isinstance(value, int) else value for value in arguments]
        if getattr(Place.LIBC, name)(*typed) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"{name}: {os.strerror(number)}")


@pytest.fixture(scope="module")
def mounts(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skips where this process may not mount anything."""
    directory = tmp_path_factory.mktemp("place")

    def attempt() -> None:
        with contextlib.suppress(OSError):
            Place.mount(directory, 64)
            os._exit(42)

    if in_child(attempt) != 42:
        pytest.skip("mounting a file system needs root, or CAP_SYS_ADMIN in a container")


@pytest.fixture
def as_nobody(memory: Path) -> Path:
    """A directory of somebody without rights; skips where this process cannot become nobody."""
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root; run as one who is not, rights are tested by the others")
    os.chmod(memory, 0o755)
    directory = memory / "nobody"
    directory.mkdir()
    os.chown(directory, NOBODY, NOBODY)
    return directory


def become_nobody() -> None:
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def refused(path: Path, note: int) -> bool:
    """Whether going on with a ledger was refused as it must be, for want of a resource."""
    try:
        write(path, note)
    except ResourceError as error:
        os.write(note, f"{error.exit_code} {error}\n".encode())
        return True
    return False


def test_a_disk_that_is_really_full_is_named_at_every_page_and_loses_nothing(mounts, tmp_path, chain):
    """From no free page to enough of them, when a ledger is created and when it goes on."""
    place, messages = tmp_path / "place", tmp_path / "messages"
    place.mkdir()

    def work() -> None:
        note = noting(messages)
        Place.mount(place, 512)
        for batches in range(len(BATCHES)):
            outcomes = []
            for pages in range(40):
                path, notes = place / "run" / "ledger.sqlite", tmp_path / "notes"
                noted = noting(notes)
                if batches:
                    with Ledger.create(path, BATCHES[0]) as ledger:
                        for batch in BATCHES[1:batches]:
                            with ledger.transaction() as turn:
                                for event in batch:
                                    turn.append(event)
                    os.write(noted, f"{ENDS[batches - 1]}\n".encode())
                free = os.statvfs(place).f_bfree
                filler = place / "filler"
                filler.write_bytes(b"x" * 4096 * (free - pages))
                outcomes.append(refused(path, noted))
                filler.unlink()
                check_and_finish(path, notes, chain)
                os.write(note, notes.read_bytes())
                os.close(noted)
                shutil.rmtree(path.parent)
                notes.unlink()
            assert outcomes[0]
            assert not outcomes[-1]

    assert in_child(work) == 0
    text = messages.read_text()
    assert "disk is full" in text
    assert "is recorded, but its head file was not written" in text
    assert all(line.isdigit() or line.startswith("7 ") for line in text.splitlines())


def test_a_limit_on_the_size_of_files_is_named_and_loses_nothing(memory, chain):
    messages = memory / "messages"

    def work() -> None:
        note = noting(messages)
        for size in (0, 50, 100, 1000, 3000, 4096, 5000, 8192, 20_000, 30_000, 33_000, 40_000, 60_000):
            path = memory / str(size) / "ledger.sqlite"
            before = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
            noted, again = os.pipe()
            outcome = refused(path, again)
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            os.close(again)
            with open(noted, "rb") as said:
                (memory / f"notes {size}").write_bytes(said.read())
            os.write(note, f"{size} {outcome}\n".encode())
            check_and_finish(path, memory / f"notes {size}", chain)

    assert in_child(work) == 0
    outcomes = dict(line.split() for line in messages.read_text().splitlines())
    assert (outcomes["0"], outcomes["4096"], outcomes["60000"]) == ("True", "True", "False")


def test_few_descriptors_are_named_and_lose_nothing(memory, chain):
    messages = memory / "messages"

    def work() -> None:
        note = noting(messages)
        limit = max(int(name) for name in os.listdir("/proc/self/fd")) + 20
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        for more in range(10):
            path, notes = memory / str(more) / "ledger.sqlite", memory / f"notes {more}"
            noted, taken = noting(notes), []
            with contextlib.suppress(OSError):
                while True:
                    taken.append(os.open(os.devnull, os.O_RDONLY))
            for descriptor in taken[:more]:
                os.close(descriptor)
            outcome = refused(path, noted)
            for descriptor in (*taken[more:], noted):
                os.close(descriptor)
            os.write(note, f"{more} {outcome}\n".encode())
            check_and_finish(path, notes, chain)

    assert in_child(work) == 0
    outcomes = [line.split()[1] for line in messages.read_text().splitlines()]
    assert (outcomes[0], outcomes[-1]) == ("True", "False")


def test_a_run_on_a_read_only_disk_can_be_read_and_not_written(mounts, tmp_path, chain):
    place = tmp_path / "place"
    place.mkdir()

    def work() -> None:
        Place.mount(place, 4096)
        note = noting(tmp_path / "notes")
        closed, killed = place / "closed" / "ledger.sqlite", place / "killed" / "ledger.sqlite"
        write(closed, note)
        with Ledger.create(killed, BATCHES[0]) as ledger:
            with ledger.transaction() as turn:
                turn.append(BATCHES[1][0])
            shutil.copytree(killed.parent, place / "copied")
            shutil.copytree(killed.parent, place / "without index", ignore=lambda *_: ["ledger.sqlite-shm"])
        before = {directory: contents(directory) for directory in place.iterdir()}
        Place.remount_read_only(place)
        assert hashes(closed) == chain
        with pytest.raises(ResourceError, match="cannot be written"):
            Ledger.open(closed)
        with pytest.raises(ResourceError, match="Read-only file system"):
            Ledger.create(place / "new" / "ledger.sqlite", BATCHES[0])
        with pytest.raises(ResourceError, match="Read-only file system"), RunDirectory(closed.parent).runner_lock():
            pass
        assert len(hashes(place / "copied" / "ledger.sqlite")) == 4
        with pytest.raises(ResourceError, match="copy the whole directory to where you may write"):
            hashes(place / "without index" / "ledger.sqlite")
        assert before == {directory: contents(directory) for directory in place.iterdir()}

    assert in_child(work) == 0


def test_files_of_somebody_else_are_named_and_left_alone(as_nobody, chain):
    """As a run that root began leaves them."""
    path, notes = as_nobody / "run" / "ledger.sqlite", as_nobody / "notes"
    finish(path, notes)
    os.chmod(path.parent, 0o755)
    before = contents(path.parent)

    def work() -> None:
        become_nobody()
        assert hashes(path) == chain
        with pytest.raises(ResourceError, match="cannot be written"):
            Ledger.open(path)
        with pytest.raises(ResourceError, match="run as the user who made it"), RunDirectory(path.parent).runner_lock():
            pass
        with pytest.raises(ResourceError, match=r"other\.lock: Permission denied"):
            Ledger.create(path.with_name("other.sqlite"), BATCHES[0])

    assert in_child(work) == 0
    assert contents(path.parent) == before
    os.chmod(path.parent, 0o777)
    assert in_child(work_on_files_of_root(path)) == 0
    assert {name: content for name, content in contents(path.parent).items() if name in before} == before
    for file in path.parent.iterdir():
        file.chmod(0o600)
    assert in_child(work_on_hidden_files(path)) == 0
    os.chmod(path.parent, 0)
    assert in_child(work_on_a_hidden_directory(path)) == 0
    os.chmod(path.parent, 0o755)
    assert contents(path.parent)["ledger.sqlite"] == before["ledger.sqlite"]


def work_on_files_of_root(path: Path):
    def work() -> None:
        become_nobody()
        with pytest.raises(ResourceError, match="cannot be written: it is another user"):
            Ledger.open(path)

    return work


def work_on_hidden_files(path: Path):
    def work() -> None:
        become_nobody()
        assert Ledger.exists(path), "a name can be seen in a directory that may be read"
        with pytest.raises(ResourceError, match=r"ermission denied|may not read it"):
            Ledger.open(path, read_only=True)
        with pytest.raises(ResourceError, match="cannot be written: it is another user"):
            Ledger.open(path)

    return work


def work_on_a_hidden_directory(path: Path):
    def work() -> None:
        become_nobody()
        for look in (lambda: Ledger.open(path, read_only=True), lambda: Ledger.exists(path), lambda: Ledger.open(path)):
            with pytest.raises(ResourceError, match=r"ermission denied|may not read it"):
                look()

    return work


@pytest.mark.parametrize("mask", [0o077, 0o177, 0o777])
def test_any_mask_of_rights_gives_a_run_or_a_reason(as_nobody, chain, mask):
    path, notes = as_nobody / "run" / "ledger.sqlite", as_nobody / "notes"

    def work() -> None:
        become_nobody()
        note = noting(notes)
        path.parent.mkdir()
        os.umask(mask)
        if mask == 0o777:
            with pytest.raises(ResourceError, match=r"Permission denied|rights|may not"):
                write(path, note)
            return
        write(path, note)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    assert in_child(work) == 0


def test_a_missing_directory_for_temporary_files_does_not_matter(memory, chain, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(memory / "nowhere"))
    monkeypatch.setenv("SQLITE_TMPDIR", str(memory / "nowhere"))
    finish(memory / "ledger.sqlite", memory / "notes")
    assert hashes(memory / "ledger.sqlite") == chain


@pytest.mark.parametrize("jump", [timedelta(days=365), timedelta(days=-365), timedelta(hours=-1), timedelta(0)])
def test_a_clock_that_jumps_changes_neither_order_nor_chain(memory, chain, monkeypatch, jump):
    class Clock(datetime):
        calls = 0

        @classmethod
        def now(cls, _zone):
            cls.calls += 1
            return datetime(2026, 3, 29, 1, 59, 59, tzinfo=UTC) + jump * (cls.calls % 2)

    monkeypatch.setattr(store, "datetime", Clock)
    finish(memory / "ledger.sqlite", memory / "notes")
    with Ledger.open(memory / "ledger.sqlite") as ledger:
        records = ledger.read()
    assert [record.hash for record in records] == chain
    assert [record.event for record in records[1:]] == list(EVENTS)
    times = [record.wall_time for record in records]
    assert (times == sorted(times)) == (jump == timedelta(0))


def _storm(path: Path, writer: int, notes: Path) -> None:
    config.update("jaxtyping_disable", True)
    note = noting(notes)
    with Ledger.open(path) as ledger:
        for number in range(1_000_000):
            with ledger.transaction() as turn:
                turn.append(Held(error=f"{writer}", reason=f"{os.getpid()}.{number}"))
            os.write(note, f"{writer} {os.getpid()}.{number}\n".encode())
            time.sleep(0.002)


def weather_a_storm(directory: Path, kills: int, seed: int) -> None:
    path, notes = directory / "ledger.sqlite", directory / "notes"
    Ledger.create(path, []).close()
    rng = np.random.default_rng(seed)
    writers: dict[int, multiprocessing.process.BaseProcess] = {}
    for _ in range(kills):
        for number in range(4):
            if number not in writers:
                writers[number] = FORK.Process(target=_storm, args=(path, number, notes), daemon=True)
                writers[number].start()
        time.sleep(rng.uniform(0.0, 0.1))
        end(writers.pop(int(rng.integers(4))))
        with Ledger.open(path, read_only=True) as ledger:  # while three others write
            lines = ledger.export()
        assert [json.loads(line)["seq"] for line in lines] == list(range(len(lines)))
    for writer in writers.values():
        end(writer)
    with Ledger.open(path) as ledger:
        held = [f"{record.event.error} {record.event.reason}" for record in ledger.read(after=0)]
    told = notes.read_text().splitlines()
    assert len(told) > kills
    assert len(held) == len(set(held))
    assert set(told) <= set(held)
    assert len(held) - len(told) <= kills + 4  # killed between commit and note


def end(writer: multiprocessing.process.BaseProcess) -> None:
    assert writer.is_alive(), "a writer met an error"
    writer.kill()
    writer.join(30)


def test_four_writers_that_are_killed_and_started_again_lose_nothing(memory):
    weather_a_storm(memory, kills=12, seed=0)


@pytest.mark.slow
def test_four_writers_weather_five_storms(memory):
    for seed in range(1, 6):
        (memory / str(seed)).mkdir()
        weather_a_storm(memory / str(seed), kills=20, seed=seed)


def _hold(directory: Path, held) -> None:
    with RunDirectory(directory).runner_lock():
        held.set()
        time.sleep(60)


def test_a_second_runner_is_refused_by_name_even_if_the_note_of_the_first_is_deleted(memory):
    Ledger.create(memory / "ledger.sqlite", BATCHES[0]).close()
    held = FORK.Event()
    first = FORK.Process(target=_hold, args=(memory, held))
    first.start()
    assert held.wait(30)
    with pytest.raises(IntegrityError, match=rf"pid {first.pid}, boot .*, host "), RunDirectory(memory).runner_lock():
        pass
    (memory / "runner.lock").unlink()
    with pytest.raises(IntegrityError, match="another runner"), RunDirectory(memory).runner_lock():
        pass
    first.kill()
    first.join(30)
    with RunDirectory(memory).runner_lock():  # the kernel dropped it: nothing is stale
        assert f"pid {os.getpid()}, " in (memory / "runner.lock").read_text()
