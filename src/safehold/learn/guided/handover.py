"""Who acts: the student that learns, or the guide; and what a guide's step counts for the student."""

from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from safehold.core.config import Config
from safehold.learn.checkpoint import match_tensors
from safehold.learn.learner import State
from safehold.learn.parts import Kept
from safehold.nn.tensors import to_array
from safehold.rollout.steps import Explorer

SMALLEST_RATIO, LARGEST_RATIO = 0.1, 2.0
"""Bounds of importance ratios.   [SaGui's code]"""

Handover = Literal["control_switch", "linear_decay", "step_decay", "episode_decay", "guide", "student"]
"""Whose turn it is.   [SaGui; "guide" and "student" are its ablations GUISAM and STUSAM]"""


class HandoverConfig(Config):
    """How control passes between student and guide."""

    rule: Handover = "control_switch"
    """control_switch: the student, until an episode has cost something, then the guide to the episode's end.
    step_decay: the guide with a probability that falls to 0, drawn at every step; episode_decay: drawn for whole
    episodes; linear_decay: the first or the second, drawn for every episode with the same probability.
    guide, student: always that one."""
    allowance: NonNegativeFloat = 0.0
    """Cost of an episode, in cost units, above which control switches; the published rule has 0."""
    decay_steps: PositiveInt = 300_000
    """Environment steps, over all worlds, until the guide's probability is 0."""


@runtime_checkable
class Turns(Kept, Protocol):
    """Whose turn it is in each of n worlds, from what their episodes have cost so far."""

    def now(self, n: int, rng: np.random.Generator) -> Bool[np.ndarray, "n"]:
        """Where the guide takes the next step."""
        ...

    def observe(self, costs: Float[np.ndarray, "n k"], ended: Bool[np.ndarray, "n"]) -> None:
        """What that step cost, and where the next one is of another episode."""
        ...


def turns_of(config: HandoverConfig, column: int) -> Turns:
    """What a configuration asks for; `column` is that of the limited cost."""
    if config.rule == "control_switch":
        return ControlSwitch(config.allowance, column)
    if config.rule in ("guide", "student"):
        return Alone(guide=config.rule == "guide")
    step_wise = {"linear_decay": None, "step_decay": 1.0, "episode_decay": 0.0}[config.rule]
    return LinearDecay(config.decay_steps, step_wise)


class ControlSwitch:
    """The student, until its episode has cost more than an allowance; then the guide, to the episode's end.

    The step that costs is the student's: with an allowance of 0 one unsafe step precedes every switch, and the guide
    begins in a state that it might not have let come about. What is kept is the expected cost of an episode, not the
    safety of every step.   [SaGui]
    """

    def __init__(self, allowance: float, column: int) -> None:
        self._allowance = allowance
        self._column = column
        self._spent = np.zeros(0)

    def now(self, n: int, rng: np.random.Generator) -> Bool[np.ndarray, "n"]:  # noqa: ARG002 - nothing is drawn
        """Where more than the allowance is spent."""
        if len(self._spent) == 0:
            self._spent = np.zeros(n)
        return ~(self._spent <= self._allowance)

    def observe(self, costs: Float[np.ndarray, "n k"], ended: Bool[np.ndarray, "n"]) -> None:
        """Adds up what episodes have cost."""
        self._spent = np.where(ended, 0.0, self._spent + costs[:, self._column])

    def state(self) -> State:
        """What the running episodes have cost."""
        return State({"spent": torch.from_numpy(self._spent.copy())}, {})

    def restore(self, state: State) -> None:
        """Goes back to it."""
        self._spent = _saved("spent", torch.float64, state)


class LinearDecay:
    """The guide with probability p = [1 - steps / decay_steps]_+.

    p is drawn at every step in episodes that are step-wise, and once an episode in the others. `step_wise` is the
    probability that an episode is step-wise; None for p, as SaGui's code has it.
    """

    def __init__(self, decay_steps: int, step_wise: float | None) -> None:
        self._decay_steps = decay_steps
        self._step_wise = step_wise
        self._steps = 0
        self._begins, self._by_steps, self._guided = (np.zeros(0, dtype=np.bool_) for _ in range(3))

    @property
    def probability(self) -> float:
        """p, of the next step."""
        return max(0.0, 1.0 - self._steps / self._decay_steps)

    def now(self, n: int, rng: np.random.Generator) -> Bool[np.ndarray, "n"]:
        """Draws for episodes that begin, and for every step of those that are step-wise."""
        if len(self._begins) == 0:
            self._begins, self._by_steps, self._guided = np.ones(n, np.bool_), *np.zeros((2, n), np.bool_)
        p = self.probability
        kinds, episodes, steps = rng.random((3, n))  # as many draws whatever comes of them
        self._by_steps = np.where(
            self._begins, kinds < (p if self._step_wise is None else self._step_wise), self._by_steps
        )
        self._guided = np.where(self._begins, episodes < p, self._guided)
        return np.where(self._by_steps, steps < p, self._guided)

    def observe(self, costs: Float[np.ndarray, "n k"], ended: Bool[np.ndarray, "n"]) -> None:  # noqa: ARG002
        """Counts steps."""
        self._begins = ended.copy()
        self._steps += len(ended)

    def state(self) -> State:
        """Steps so far, and what was drawn for the running episodes."""
        rows = np.stack([self._begins, self._by_steps, self._guided])
        return State({"rows": torch.from_numpy(rows)}, {"steps": self._steps})

    def restore(self, state: State) -> None:
        """Goes back to them."""
        self._begins, self._by_steps, self._guided = _saved("rows", torch.bool, state)
        self._steps = int(state.meta["steps"])


class Alone:
    """Always the same."""

    def __init__(self, *, guide: bool) -> None:
        self._guide = guide

    def now(self, n: int, rng: np.random.Generator) -> Bool[np.ndarray, "n"]:  # noqa: ARG002
        """All, or none."""
        return np.full(n, self._guide)

    def observe(self, costs: Float[np.ndarray, "n k"], ended: Bool[np.ndarray, "n"]) -> None:
        """Nothing changes."""

    def state(self) -> State:
        """Nothing."""
        return State({}, {})

    def restore(self, state: State) -> None:
        """Nothing."""


class TakingTurns:
    """Two explorers in one, a `SharedExplorer`: both are asked at every step, one is obeyed."""

    def __init__(self, student: Explorer, guide: Explorer, turns: Turns, rng: np.random.Generator) -> None:
        self._student, self._guide = student, guide
        self._turns = turns
        self._rng = rng
        self._now = np.zeros(0, dtype=np.bool_)

    @property
    def handed_over(self) -> Bool[np.ndarray, "n"]:
        """Where the guide acted last."""
        return self._now

    def act(self, observations: Float[np.ndarray, "n o"]) -> Float[np.ndarray, "n a"]:
        """The action of whoever's turn it is."""
        self._now = self._turns.now(len(observations), self._rng)
        student, guide = self._student.act(observations), self._guide.act(observations)
        return np.where(self._now[:, None], guide, student)

    def observe(self, costs: Float[np.ndarray, "n k"], ended: Bool[np.ndarray, "n"]) -> None:
        """Tells who counts costs."""
        self._turns.observe(costs, ended)


def _saved(name: str, kind: torch.dtype, state: State) -> np.ndarray:
    """A saved array of as many worlds as there were.

    Raises:
        DataError: if it is missing, or holds something else.
    """
    found = state.tensors.get(name, torch.zeros(0))
    match_tensors({name: (found.shape, kind)}, state.tensors, "whose turn it is")
    return to_array(found).copy()


def importance(student: Float[Tensor, "B"], guide: Float[Tensor, "B"], guided: Bool[Tensor, "B"]) -> Float[Tensor, "B"]:
    """clip(pi_s(a|s) / pi_g(a|s), 0.1, 2) of the guide's steps, 1 of the student's own; from logs of densities.

    The student is as it is now.   Unlike [SaGui's code], which keeps the ratios of the time when the steps were taken.
    """
    bounds = torch.log(torch.tensor([SMALLEST_RATIO, LARGEST_RATIO]))
    ratios = torch.exp(torch.clamp(student - guide, bounds[0], bounds[1]))
    return torch.where(guided, ratios, torch.ones_like(ratios))
