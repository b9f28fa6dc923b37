"""A run directory: one ledger with its head file, one lock for the runner that drives the environment."""

import fcntl
import logging
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from safehold.core.errors import IntegrityError, UsageError
from safehold.ledger.disk import storage_errors
from safehold.ledger.events import Event
from safehold.ledger.salvage import Salvage, salvage, salvage_export
from safehold.ledger.store import Ledger

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """Where a run lives: `ledger.sqlite`, `ledger.head`, their locks, and what others put beside them."""

    path: Path

    @property
    def ledger_path(self) -> Path:
        """The database."""
        return self.path / "ledger.sqlite"

    @property
    def started(self) -> bool:
        """Whether a run was created here."""
        return Ledger.exists(self.ledger_path)

    def create(self, first: Sequence[Event]) -> Ledger:
        """A new ledger with its first events in this directory, which is made if need be."""
        return Ledger.create(self.ledger_path, first)

    def open(self, *, read_only: bool = False) -> Ledger:
        """The run's ledger, verified."""
        return Ledger.open(self.ledger_path, read_only=read_only)

    def events(self) -> list[Event]:
        """Every event of the run in order, without its genesis row, for reports: nothing is locked or written."""
        with self.open(read_only=True) as ledger:
            return [record.event for record in ledger.read(after=0)]

    @contextmanager
    def runner_lock(self) -> Iterator[None]:
        """Held by the one process that drives the environment; the kernel drops it when that process dies.

        It is a lock on the directory itself, which nobody can delete and leave the run behind; `runner.lock` only says
        who holds it.

        Raises:
            IntegrityError: if another process holds it, naming its pid, boot id and host.
            UsageError: if there is no such directory.
            ResourceError: if the lock cannot be had or noted.
        """
        with self.alone():
            self.sign()
            yield

    def sign(self) -> None:
        """Notes who holds the lock, for the messages to others."""
        note = self.path / "runner.lock"
        with storage_errors(note):
            note.write_text(f"pid {os.getpid()}, boot {_boot_id()}, host {platform.node()}\n", encoding="utf-8")
        logger.debug("runner lock of %s taken", self.path)

    def recover(self, into: Path) -> Salvage:
        """Copies what is valid of this run's damaged ledger into another directory; this one is left as it is.

        If `path` is a file, it is taken for an export in JSON lines.

        Unless everything could be saved, the copy is a stopped run: what was lost may have revoked a target or spent
        delta, so it hands out nothing any more.

        Raises:
            IntegrityError: if nothing can be saved, or a runner still drives the run.
            UsageError: if `into` holds a run, this directory holds none, or this process has its ledger open.
            ResourceError: if a file cannot be read or written.
        """
        if self.path.is_file():
            return salvage_export(self.path, RunDirectory(into).ledger_path)
        with self.alone():
            return salvage(self.ledger_path, RunDirectory(into).ledger_path)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No other process drives the run; raises as `runner_lock` does. Nothing is written: `sign` says who it is."""
        if not self.path.is_dir():
            raise UsageError(f"{self.path}: no such directory; create the run before it is driven")
        with storage_errors(self.path):
            directory = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with storage_errors(self.path):
                try:
                    fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    raise IntegrityError(
                        f"another runner drives {self.path} ({_holder(self.path / 'runner.lock')}); one run has one "
                        "runner: wait for it or stop it"
                    ) from error
            yield
        finally:
            os.close(directory)


def _holder(note: Path) -> str:
    """Who says to hold the lock, for a message."""
    try:
        with note.open("rb") as file:
            return file.read(200).decode("utf-8", errors="replace").strip() or "unknown process"
    except OSError:
        return "unknown process"


def _boot_id() -> str:
    """This boot of the machine: pids repeat after a restart, boot ids do not."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"
