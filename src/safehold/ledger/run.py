"""A run directory: one ledger, one head file, one lock for the runner that drives the environment."""

import fcntl
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from safehold.core.errors import IntegrityError
from safehold.ledger.events import Event
from safehold.ledger.store import Ledger

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """Where a run lives: `ledger.sqlite`, `ledger.head`, `runner.lock`, and what others put beside them."""

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

        Raises:
            IntegrityError: if another process holds it, naming its pid and boot id.
        """
        lock = self.path / "runner.lock"
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                holder = os.pread(descriptor, 200, 0).decode("ascii", errors="replace").strip()
                raise IntegrityError(
                    f"another runner drives {self.path} ({holder or 'unknown process'}); "
                    "one run has one runner: wait for it or stop it"
                ) from error
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"pid {os.getpid()}, boot {_boot_id()}\n".encode("ascii"), 0)
            logger.debug("runner lock of %s taken", self.path)
            yield
        finally:
            os.close(descriptor)


def _boot_id() -> str:
    """This boot of the machine: pids repeat after a restart, boot ids do not."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"
