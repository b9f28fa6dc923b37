"""A replay buffer: the latest steps of an off-policy learner, drawn from uniformly."""

import numpy as np
import torch
from jaxtyping import Bool

from safehold.core.spec import TaskSpec
from safehold.learn.actions import Continuous, box_of
from safehold.learn.checkpoint import match_tensors
from safehold.learn.learner import State
from safehold.learn.transitions import Transitions
from safehold.nn.tensors import to_tensor
from safehold.rollout.steps import StepBatch


class ReplayBuffer:
    """The latest `capacity` steps; the oldest make place for the newest.

    Kept in a network's units: actions in [-1, 1], as executed. Behind a step at which only the clock stopped the
    episode something follows, behind one at which the task ended nothing does.
    """

    def __init__(self, spec: TaskSpec, capacity: int) -> None:
        box = box_of(spec)
        self._box, self._code = box, Continuous(box)
        self._capacity = capacity
        widths = {
            "observations": (spec.observation_size,),
            "actions": (box.size,),
            "rewards": (),
            "costs": (len(spec.cost_names),),
            "next_observations": (spec.observation_size,),
            "goes_on": (),
        }
        self._columns = {name: torch.zeros((capacity, *width)) for name, width in widths.items()}
        self._added = 0

    def __len__(self) -> int:
        """Steps that are kept."""
        return min(self._added, self._capacity)

    def add(self, batch: StepBatch, chosen: Bool[np.ndarray, "T n"] | None = None) -> None:
        """Takes the steps of a batch in, or the chosen ones, in the order in which they were taken."""
        executed = self._box.clip(batch.actions.reshape(batch.n_steps, -1))
        rows = {
            "observations": batch.observations.reshape(batch.n_steps, -1),
            "actions": self._code.encode(executed),
            "rewards": batch.rewards.ravel(),
            "costs": batch.costs.reshape(batch.n_steps, -1),
            "next_observations": batch.next_observations.reshape(batch.n_steps, -1),
            "goes_on": (~batch.terminated).ravel().astype(np.float32),
        }
        taken = np.arange(batch.n_steps) if chosen is None else np.flatnonzero(chosen)
        kept = taken[-self._capacity :]
        added = self._added + len(taken)
        places = torch.arange(added - len(kept), added) % self._capacity
        for name, values in rows.items():
            self._columns[name][places] = to_tensor(values[kept])
        self._added = added

    def sample(self, count: int, generator: torch.Generator) -> Transitions:
        """`count` steps, drawn with replacement."""
        rows = torch.randint(len(self), (count,), generator=generator)
        return Transitions(**{name: column[rows] for name, column in self._columns.items()})

    def state(self) -> State:
        """A copy of the steps that are kept."""
        return State(
            {name: column[: len(self)].clone() for name, column in self._columns.items()}, {"added": self._added}
        )

    def restore(self, state: State) -> None:
        """Goes back to saved steps.

        Raises:
            DataError: if they are of another task or capacity.
        """
        added = int(state.meta["added"])
        kept = min(added, self._capacity)
        wanted = {name: (torch.Size((kept, *column.shape[1:])), column.dtype) for name, column in self._columns.items()}
        match_tensors(wanted, state.tensors, "replay buffer")
        for name, column in self._columns.items():
            column[:kept] = state.tensors[name]
        self._added = added
