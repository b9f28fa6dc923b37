"""What may happen between two updates of the offline loop: log, checkpoint, evaluate, stop."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from safehold.learn.checkpoint import save_checkpoint
from safehold.learn.learner import Metrics, State

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Progress:
    """What a hook sees: gradient steps since the start of training, and the metrics of the last."""

    updates: int
    metrics: Metrics


class Stop(Exception):
    """Raised by a hook to end training here; not an error."""


Hook = Callable[[Progress], None]
"""Called after every update."""


@runtime_checkable
class HasState(Protocol):
    """A run that can be saved."""

    def state(self) -> State:
        """Everything the rest of the run depends on."""
        ...


def every(interval: int, hook: Hook) -> Hook:
    """Calls `hook` after every `interval` updates."""

    def call(progress: Progress) -> None:
        if progress.updates % interval == 0:
            hook(progress)

    return call


def log(progress: Progress) -> None:
    """One INFO line: the update's number and its metrics."""
    numbers = ", ".join(f"{name} {value:.4g}" for name, value in progress.metrics.items())
    _log.info("update %d: %s", progress.updates, numbers)


def checkpoint(run: HasState, directory: Path, kind: str) -> Hook:
    """Saves the whole run under `directory`, one checkpoint an update's number, so that training can be resumed."""

    def save(progress: Progress) -> None:
        state = run.state()
        save_checkpoint(directory / f"{progress.updates:08d}", kind=kind, tensors=state.tensors, meta=state.meta)

    return save


def stop_when(condition: Callable[[Progress], bool]) -> Hook:
    """Ends training after the first update for which `condition` is true: a deadline, an operator's wish."""

    def check(progress: Progress) -> None:
        if condition(progress):
            raise Stop

    return check
