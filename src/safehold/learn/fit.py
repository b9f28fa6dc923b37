"""THE offline loop: batch, update, hooks. A method brings `update`, its data a sampler."""

import math
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from safehold.core.errors import DataError, ModelError
from safehold.data.batches import Sampler
from safehold.learn.hooks import Hook, Progress, Stop
from safehold.learn.learner import Learner, State

Batch = TypeVar("Batch")


class OfflineRun(Generic[Batch]):
    """A learner and the data it learns from; `state` and `restore` make the run go on bit for bit.

    Args:
        learner: brings the update.
        sampler: brings the batches.
        rng: every batch is drawn with it.
    """

    def __init__(self, learner: Learner[Batch, Any], sampler: Sampler[Batch], rng: np.random.Generator) -> None:
        self._learner = learner
        self._sampler = sampler
        self._rng = rng
        self._updates = 0

    @property
    def updates(self) -> int:
        """Gradient steps so far."""
        return self._updates

    def advance(self) -> Progress:
        """One batch and one update.

        Raises:
            ModelError: if the update or one of its metrics is not finite.
        """
        metrics = self._learner.update(self._sampler.sample(self._rng))
        self._updates += 1
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise ModelError(
                    f"update {self._updates}: {name} is {value}; training stops here. Lower the learning rate, or "
                    "look for outliers in the data; the last checkpoint is still good"
                )
        return Progress(self._updates, metrics)

    def state(self) -> State:
        """Everything the rest of the run depends on."""
        own = State(meta={"updates": self._updates, "rng": self._rng.bit_generator.state})
        return State.merge(own.under("run"), self._learner.state().under("learner"))

    def restore(self, state: State) -> None:
        """Goes back to a saved state; the updates that follow equal those that followed the saving.

        Raises:
            DataError: if the state is not complete, or is of another method, configuration or task.
        """
        try:
            own, learnt = state.part("run").meta, state.part("learner")
            updates, generator = int(own["updates"]), own["rng"]
            type(self._rng.bit_generator)().state = generator  # refuses what is no state, before anything changes
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"this checkpoint holds no training run to go on with: {error!r}") from error
        self._learner.restore(learnt)
        self._rng.bit_generator.state = generator
        self._updates = updates


def fit(run: OfflineRun[Any], *, steps: int, hooks: Sequence[Hook] = ()) -> None:
    """Advances a run until it has made `steps` updates in all, or a hook stops it; hooks are called after each."""
    while run.updates < steps:
        progress = run.advance()
        try:
            for hook in hooks:
                hook(progress)
        except Stop:
            return
