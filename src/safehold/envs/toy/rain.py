"""Rain: drive as fast as you dare; fast on a wet road costs. So small that the best under a limit is known.

A state is one of SPEEDS speeds and a road that is dry or wet, 8 states in all. The action's thirds brake, keep, and
accelerate by one speed; with probability SLIP nothing changes. Then the weather turns, with the probabilities TURNS.
A step's reward is the new speed over the top speed; its cost is CHARGES[new speed] where the road is now wet. The
episode ends with its clock.

An action within a third is as good as any other: the mean of braking and accelerating is to keep. The best that any
policy can obtain under limits follows from a linear program over how often states and choices occur, step by step
[Altman, Constrained Markov Decision Processes, 1999, Sec. 3].
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linprog

from safehold.core.errors import ModelError, UsageError
from safehold.core.policy import Actor, Memoryless, Policy
from safehold.core.spec import Box, TaskSpec
from safehold.envs.adapter import Task

HORIZON = 40
SPEEDS = 4
CHOICES = 3
"""Brake, keep, accelerate."""
STATES = 2 * SPEEDS
"""State 2 v + w: speed v from 0 to SPEEDS - 1, on a dry (w = 0) or wet (w = 1) road."""
SLIP = 0.1
"""Probability that the speed stays what it is."""
TURNS = (0.2, 0.3)
"""Probability that a dry road becomes wet, and a wet one dry."""
CHARGES = (0.0, 0.0, 0.4, 1.0)
"""Cost of a step at each new speed on a wet road."""


class Rain:
    """Observation: speed over top speed, is the road wet."""

    def reset(self, *, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
        """At rest, on a dry road."""
        self._rng = np.random.default_rng(seed)
        self._state = 0
        return observations()[0], {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One step by the third that the action lies in."""
        choice = int(choices(np.asarray(action, dtype=np.float64))[0])
        self._state = int(self._rng.choice(STATES, p=transitions()[self._state, choice]))
        reward, cost = signals()[self._state]
        return observations()[self._state], float(reward), False, False, {"cost": float(cost)}

    def close(self) -> None:
        """Holds nothing."""


@cache
def observations() -> Float[np.ndarray, "8 2"]:
    """What each state shows."""
    speed, wet = np.divmod(np.arange(STATES), 2)
    return _fixed(np.column_stack([speed / (SPEEDS - 1), wet]))


def choices(actions: Float[np.ndarray, "*n"]) -> Int[np.ndarray, "*n"]:
    """Which third actions from -1 to 1 lie in."""
    return np.clip(np.floor((actions + 1.0) / 2.0 * CHOICES), 0, CHOICES - 1).astype(np.int64)


@cache
def transitions() -> Float[np.ndarray, "8 3 8"]:
    """Probability of each next state, by state and choice."""
    found = np.zeros((STATES, CHOICES, STATES))
    for state in range(STATES):
        speed, wet = divmod(state, 2)
        weather = (1.0 - TURNS[0], TURNS[0]) if not wet else (TURNS[1], 1.0 - TURNS[1])
        for choice in range(CHOICES):
            wanted = min(max(speed + choice - 1, 0), SPEEDS - 1)
            for then in (0, 1):
                found[state, choice, 2 * wanted + then] += (1.0 - SLIP) * weather[then]
                found[state, choice, 2 * speed + then] += SLIP * weather[then]
    return _fixed(found)


@cache
def signals() -> Float[np.ndarray, "8 2"]:
    """Reward and cost of arriving in each state."""
    speed, wet = np.divmod(np.arange(STATES), 2)
    return _fixed(np.column_stack([speed / (SPEEDS - 1), np.array(CHARGES)[speed] * wet]))


@dataclass(frozen=True, slots=True)
class Habit:
    """Chooses by fixed probabilities in every state, and acts uniformly within the choice's third."""

    chances: Float[np.ndarray, "8 3"]

    def __post_init__(self) -> None:
        whole = np.allclose(self.chances.sum(axis=1), 1.0)
        if self.chances.shape != (STATES, CHOICES) or not whole or not (self.chances >= 0.0).all():
            raise UsageError(f"chances must be {STATES} rows of {CHOICES} probabilities, got {self.chances}")

    def start(self, n: int, rng: np.random.Generator) -> Actor:  # noqa: ARG002 - any number of rows is answered
        """An actor for n fresh episodes."""
        return Memoryless(lambda seen: self._acts(seen, rng))

    def _acts(self, seen: Float[np.ndarray, "n 2"], rng: np.random.Generator) -> Float[np.ndarray, "n 1"]:
        state = np.rint(2 * (SPEEDS - 1) * seen[:, 0] + seen[:, 1]).astype(np.int64)
        third = (rng.random(len(seen))[:, None] > np.cumsum(self.chances[state], axis=1)[:, :-1]).sum(axis=1)
        return ((third + rng.random(len(seen))) * 2.0 / CHOICES - 1.0)[:, None]


def habit(dry: float, wet: float, noise: float) -> Habit:
    """Holds a speed when it is dry and another when it is wet, but chooses at random with probability `noise`.

    Speeds between two whole ones are held by turns: a mixture of the two habits, choice by choice.
    """
    chances = np.full((STATES, CHOICES), noise / CHOICES)
    for state in range(STATES):
        speed, is_wet = divmod(state, 2)
        wanted = wet if is_wet else dry
        for aim, share in ((np.floor(wanted), 1.0 - wanted % 1.0), (np.floor(wanted) + 1.0, wanted % 1.0)):
            chances[state, int(np.sign(aim - speed)) + 1] += (1.0 - noise) * share
    return Habit(chances)


def expected_returns(chances: Float[np.ndarray, "8 3"]) -> tuple[float, float]:
    """Expected reward and cost return of an episode under choices by these probabilities."""
    step = np.einsum("sc,sct->st", chances, transitions())
    at, total = np.eye(STATES)[0], np.zeros(2)
    for _ in range(HORIZON):
        at = at @ step
        total += at @ signals()
    return float(total[0]), float(total[1])


def chances_of(policy: Policy, draws: int, rng: np.random.Generator) -> Float[np.ndarray, "8 3"]:
    """How often a policy without a memory makes each choice in each state, of so many draws a state."""
    shown = np.repeat(observations(), draws, axis=0)
    acted = choices(policy.start(len(shown), rng).act(shown)[:, 0].astype(np.float64)).reshape(STATES, draws)
    return np.stack([(acted == choice).mean(axis=1) for choice in range(CHOICES)], axis=1)


@dataclass(frozen=True, slots=True)
class Best:
    """The largest expected reward return under a limit on the expected cost return, over all policies."""

    reward: float
    cost: float


def best(limit: float) -> Best:
    """The best expected returns under a limit, in cost units per episode.

    max sum_{t,s,c} x_t(s,c) r(s,c)  such that  sum_{t,s,c} x_t(s,c) g(s,c) <= limit,
    sum_c x_0(s,c) = 1(s = 0),  sum_c x_{t+1}(s',c) = sum_{s,c} x_t(s,c) P(s' | s,c),  x >= 0.

    Raises:
        UsageError: if no policy keeps the limit.
    """
    moves = transitions()
    gains = moves @ signals()  # (8, 3, 2)
    pairs = STATES * CHOICES
    leaves = np.kron(np.eye(STATES), np.ones(CHOICES))  # (8, 24): who is in a state
    enters = moves.reshape(pairs, STATES).T  # (8, 24): who comes there
    flow = np.kron(np.eye(HORIZON), leaves) - np.kron(np.eye(HORIZON, k=-1), enters)
    reward, cost = (np.tile(gains[..., i].ravel(), HORIZON) for i in (0, 1))
    solved = linprog(
        -reward, A_ub=cost[None], b_ub=[limit], A_eq=flow, b_eq=np.eye(1, STATES * HORIZON)[0], method="highs"
    )
    if solved.status == 2:
        raise UsageError(f"no policy keeps the limit {limit:g}")
    if solved.status != 0:
        raise ModelError(f"the linear program was not solved: {solved.message}")
    return Best(reward=float(reward @ solved.x), cost=float(cost @ solved.x))


def _fixed(array: np.ndarray) -> np.ndarray:
    """The same, not to be written to: it is shared."""
    array.flags.writeable = False
    return array


TASK = Task(
    spec=TaskSpec(
        env_id="toy/Rain",
        observation_size=2,
        action=Box(low=(-1.0,), high=(1.0,)),
        horizon=HORIZON,
        cost_units=("steps at top speed on a wet road",),
    ),
    world=Rain,
)
