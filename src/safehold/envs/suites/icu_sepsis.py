"""ICU-Sepsis: treat a patient for sepsis, in a world small enough that every policy's expected returns are solved.

716 states, 25 actions, tables estimated from the records of an intensive care unit. [Choudhary, Gupta & Thomas 2024,
ICU-Sepsis: A Benchmark MDP Built from Real Medical Data; PyPI icu-sepsis 2.0.1, MIT] It is a test bed for algorithms
and says nothing about how to treat anybody. State, reward, dynamics and clock are the benchmark's: an episode is one
patient and ends with death (reward 0) or survival (reward 1), undiscounted. Action 5 i + j gives intravenous fluids
and vasopressors at levels i and j from 0 to 4 (which is which plays no part here). An action that the records hold
too seldom for a state is inadmissible there; its transitions are the mean over the admissible ones, as if one of
those were drawn instead.

The benchmark has no cost. Ours is the intensity of treatment, i + j of every step (of an inadmissible action the mean
of the admissible ones, since it acts as they do): fluids overload, vasopressors starve tissue of blood, and both are
scarce. Reward and cost then pull apart: the best policy saves 0.875 of the patients at a cost of 28.2, the
clinicians' own 0.782 at 18.4, and with the least treatment 0.788 survive at 5.2. (Death as the cost would only be the
reward again; with steps of organ failure, SOFA >= 10, a third less costs no more than 0.0024 of survival.)

Only the package's tables are read, never its code: importing it needs `gym`, which is no longer maintained.
"""

import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from safehold.core.errors import DataError, UsageError
from safehold.core.policy import Actor, Memoryless
from safehold.core.spec import Discrete, TaskSpec
from safehold.envs.adapter import Task

STATES, ACTIONS, LEVELS = 716, 25, 5
DEATH, SURVIVAL = 713, 714
"""Numbers of the two states that end an episode; all before them are states of a patient under treatment."""
PATIENTS = 713
"""How many states are those of a patient under treatment."""
HORIZON = 500
"""Steps of an episode, as the benchmark registers it; no policy reaches it with probability above 2e-10."""
VERSION = "2.0.1"
"""The version of icu-sepsis that the numbers here are of."""

_PROBABILITY_ERROR = 1e-9


@dataclass(frozen=True, eq=False)
class Tables:
    """The world as numbers.

    `transition[s, a, t]` is the probability of t after a in s, `start[s]` that of starting in s, `clinicians[s, a]`
    that of a clinician choosing a in s; `admissible[s, a]` marks what the records hold. `dose[s, a]` is the cost of a
    step, in dose levels.
    """

    transition: Float[np.ndarray, "716 25 716"]
    start: Float[np.ndarray, "716"]
    clinicians: Float[np.ndarray, "713 25"]
    admissible: Bool[np.ndarray, "713 25"]
    dose: Float[np.ndarray, "713 25"]


@functools.cache
def tables() -> Tables:
    """The benchmark's tables, read once a process.

    Raises:
        UsageError: if the package is not installed.
        DataError: if its tables are not those of a Markov decision process of this size.
    """
    package = importlib.util.find_spec("icu_sepsis")  # finds it without running it
    if package is None or not package.submodule_search_locations:
        raise UsageError(
            "icu/Sepsis needs the tables of icu-sepsis; install them with: "
            f"pip install --no-deps 'icu-sepsis=={VERSION}' (what it would bring along is not needed)"
        )
    return read_tables(Path(package.submodule_search_locations[0]) / "envs" / "assets")


def read_tables(folder: Path) -> Tables:
    """The tables in the benchmark's own files.

    Raises:
        DataError: if a file is missing or holds something else.
    """
    try:
        with np.load(folder / "dynamics.npz", allow_pickle=False) as arrays:
            transition, start, clinicians = (arrays[name] for name in ("tx_mat", "d_0", "expert_policy"))
        _, *rows = (folder / "admissible_actions.txt").read_text().splitlines()
        admissible = np.zeros((PATIENTS, ACTIONS), dtype=np.bool_)
        for state, row in enumerate(rows[:PATIENTS]):
            admissible[state, [int(action) for action in row.split()]] = True
    except (OSError, KeyError, ValueError, IndexError) as error:
        raise DataError(f"{folder} does not hold the tables of icu-sepsis {VERSION}: {error}") from error
    _check_distribution("transition probabilities", transition, (STATES, ACTIONS, STATES))
    _check_distribution("start probabilities", start, (STATES,))
    clinicians = clinicians[:PATIENTS]  # the rest, after the end, is zeros
    _check_distribution("clinicians' policy", clinicians, (PATIENTS, ACTIONS))
    if not admissible.any(axis=1).all():
        raise DataError(f"{folder}: state {int(np.argmin(admissible.any(axis=1)))} has no admissible action")
    level = np.arange(ACTIONS) // LEVELS + np.arange(ACTIONS) % LEVELS
    mean = (admissible @ level) / admissible.sum(axis=1)
    return Tables(
        transition=transition,
        start=start,
        clinicians=clinicians,
        admissible=admissible,
        dose=np.where(admissible, level, mean[:, None]),
    )


class Sepsis:
    """Observation: the number of the state. Episodes of a seed are those of the benchmark's own environment."""

    def __init__(self) -> None:
        self._tables = tables()

    def reset(self, *, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
        """A new patient."""
        self._rng = np.random.default_rng(seed)
        self._state = int(self._rng.choice(STATES, p=self._tables.start))
        return np.array([self._state]), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Four hours of treatment."""
        cost = float(self._tables.dose[self._state, action])
        self._state = int(self._rng.choice(STATES, p=self._tables.transition[self._state, action]))
        reward = float(self._state == SURVIVAL)
        return np.array([self._state]), reward, self._state >= DEATH, False, {"cost": cost}

    def close(self) -> None:
        """Holds nothing."""


@dataclass(frozen=True, eq=False)
class TabularPolicy:
    """Draws action a in state s with probability `chances[s, a]`."""

    chances: Float[np.ndarray, "s a"]  # (713, 25); checked below, with a message

    def __post_init__(self) -> None:
        _check_distribution("a tabular policy", self.chances, (PATIENTS, ACTIONS))

    def start(self, n: int, rng: np.random.Generator) -> Actor:
        """An actor for n fresh episodes."""
        cumulative = cumulated(self.chances)

        def draw(observations: np.ndarray) -> np.ndarray:
            # rows of ended episodes show death or survival; what is drawn for them is not executed
            states = np.minimum(observations[:, 0].astype(np.int64), PATIENTS - 1)
            return drawn(cumulative[states], rng.random(n))[:, None]

        return Memoryless(draw)


@dataclass(frozen=True, slots=True)
class ExpectedReturns:
    """A policy's true values: share of patients that survive, and mean sum of dose levels."""

    reward: float
    cost: float


def expected_returns(policy: TabularPolicy) -> ExpectedReturns:
    """Solves v = r + P v for both returns, exactly: r the expected reward or cost of a step, P the chain of patients.

    The clock is left out: it cuts off less than 2e-10 of the probability, under any policy, and so less than 1e-7 of
    either return.
    """
    known = tables()
    chain = np.einsum("sa,sat->st", policy.chances, known.transition[:PATIENTS, :, :PATIENTS])
    survival = np.sum(policy.chances * known.transition[:PATIENTS, :, SURVIVAL], axis=1)
    dose = np.sum(policy.chances * known.dose, axis=1)
    values = np.linalg.solve(np.eye(PATIENTS) - chain, np.stack([survival, dose], axis=1))
    reward, cost = known.start[:PATIENTS] @ values
    return ExpectedReturns(reward=float(reward), cost=float(cost))


def cumulated(chances: Float[np.ndarray, "*rows c"]) -> Float[np.ndarray, "*rows c"]:
    """Cumulative probabilities along the last axis, ending in exactly 1."""
    sums = np.cumsum(chances, axis=-1)
    return sums / sums[..., -1:]


def drawn(cumulative: Float[np.ndarray, "n c"], uniform: Float[np.ndarray, "n"]) -> np.ndarray:
    """One draw a row, by the inverse of its distribution function; never one of probability 0."""
    return np.sum(cumulative <= uniform[:, None], axis=1)


def _check_distribution(what: str, values: np.ndarray, shape: tuple[int, ...]) -> None:
    if values.shape != shape:
        raise DataError(f"{what}: the shape is {values.shape}, expected {shape}")
    if not (np.all(values >= 0) and np.all(np.abs(values.sum(axis=-1) - 1) <= _PROBABILITY_ERROR)):
        raise DataError(f"{what}: expected probabilities >= 0 that sum to 1 along the last axis")


TASK = Task(
    spec=TaskSpec(
        env_id="icu/Sepsis",
        observation_size=1,
        action=Discrete(ACTIONS),
        horizon=HORIZON,
        cost_units=("dose levels of fluids and vasopressors, 0 to 8 a step",),
    ),
    world=Sepsis,
)
