"""THE online loop: collect, update, hooks. A method brings `update` and an explorer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from safehold.core.errors import DataError
from safehold.core.seeding import Streams
from safehold.learn.hooks import Progress, Stop
from safehold.learn.learner import Learner, Learnt_co, State
from safehold.nn.tensors import to_array
from safehold.rollout.steps import CollectorState, Explorer, FinishedEpisode, StepBatch, StepCollector


@runtime_checkable
class OnlineLearner(Learner[StepBatch, Learnt_co], Protocol[Learnt_co]):
    """A learner that learns from its own steps."""

    def explorer(self, rng: np.random.Generator) -> Explorer:
        """Whoever draws the actions of the next batch; every draw comes from `rng`."""
        ...


@dataclass(frozen=True, slots=True)
class OnlineProgress(Progress):
    """Beside the updates: environment steps since the start of the run, and the episodes that the batch finished."""

    steps: int
    episodes: tuple[FinishedEpisode, ...]


OnlineHook = Callable[[OnlineProgress], None]
"""Called after every update; every hook of the offline loop is one, too."""


class OnlineRun:
    """A learner and the worlds it learns in; `state` and `restore` make the run go on bit for bit.

    Args:
        learner: brings the explorer and the update.
        collector: brings the steps.
        steps_per_batch: steps of each environment between two updates.
        streams: exploration noise comes from its stream "explore".
    """

    def __init__(
        self,
        learner: OnlineLearner[object],
        collector: StepCollector,
        *,
        steps_per_batch: int,
        streams: Streams,
    ) -> None:
        self._learner = learner
        self._collector = collector
        self._steps_per_batch = steps_per_batch
        self._rng = streams["explore"]
        self._updates = 0
        self._steps = 0

    @property
    def steps(self) -> int:
        """Environment steps so far, over all environments."""
        return self._steps

    def advance(self) -> OnlineProgress:
        """One batch and one update."""
        batch = self._collector.collect(self._learner.explorer(self._rng), self._steps_per_batch)
        metrics = self._learner.update(batch)
        self._updates += 1
        self._steps += batch.n_steps
        return OnlineProgress(self._updates, metrics, self._steps, batch.episodes)

    def state(self) -> State:
        """Everything the rest of the run depends on."""
        own = State(meta={"updates": self._updates, "steps": self._steps, "rng": self._rng.bit_generator.state})
        return State.merge(
            own.under("run"),
            self._learner.state().under("learner"),
            _saved(self._collector.state()).under("collector"),
        )

    def restore(self, state: State) -> None:
        """Goes back to a saved state; the batches and updates that follow equal those that followed the saving.

        Raises:
            DataError: if the state is not complete, or is of another method, configuration or task.
            EnvironmentFault: if a world does not repeat the episode that it was in.
        """
        try:
            own, learnt, collected = state.part("run").meta, state.part("learner"), _loaded(state.part("collector"))
            updates, steps, generator = int(own["updates"]), int(own["steps"]), own["rng"]
            type(self._rng.bit_generator)().state = generator  # refuses what is no state, before anything changes
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"this checkpoint holds no online run to go on with: {error!r}") from error
        self._collector.restore(collected)
        self._learner.restore(learnt)
        self._rng.bit_generator.state = generator
        self._updates, self._steps = updates, steps


def interact(run: OnlineRun, *, total_steps: int, hooks: Sequence[OnlineHook] = ()) -> None:
    """Advances a run to at least `total_steps` environment steps in all, or until a hook stops it."""
    while run.steps < total_steps:
        progress = run.advance()
        try:
            for hook in hooks:
                hook(progress)
        except Stop:
            return


def _saved(state: CollectorState) -> State:
    """A collector's state as tensors and JSON."""
    tensors = {f"actions.{i}": torch.from_numpy(actions.copy()) for i, actions in enumerate(state.actions)}
    tensors["observations"] = torch.from_numpy(state.observations.copy())
    return State(tensors, {"n_episodes": state.n_episodes, "seeds": list(state.seeds), "cuts": list(state.cuts)})


def _loaded(state: State) -> CollectorState:
    """The inverse of `_saved`."""
    seeds = tuple(int(seed) for seed in state.meta["seeds"])
    return CollectorState(
        n_episodes=int(state.meta["n_episodes"]),
        seeds=seeds,
        cuts=tuple(int(cut) for cut in state.meta["cuts"]),
        actions=tuple(to_array(state.tensors[f"actions.{i}"]) for i in range(len(seeds))),
        observations=to_array(state.tensors["observations"]),
    )
