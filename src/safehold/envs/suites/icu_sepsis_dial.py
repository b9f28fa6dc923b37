"""Policies with a dial for ICU-Sepsis, whose true expected returns are solved at every point of the dial.

Behaviours: the policy that maximises survival - w * dose, for several cost weights w, each followed with probability
1 - c and the clinicians' own choice taken with probability c, step by step. The dial answers a target z = (R, G) as a
return-conditioned model does that was fitted to a log of these behaviours: in every state it acts like behaviour k in
proportion to

    w_k(z) = exp(-((R_k - R) / h_R)^2 / 2 - ((G_k - G) / h_G)^2 / 2),

where (R_k, G_k) are the behaviour's mean returns *in the log*. What it delivers is not z: logged means are off by
chance, acting like several behaviours by turns earns something else than the mean of their returns, and beyond what
was logged the nearest behaviour answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from safehold.core.errors import ModelError, UsageError
from safehold.core.target import Target
from safehold.envs.suites.icu_sepsis import (
    ACTIONS,
    DEATH,
    HORIZON,
    PATIENTS,
    STATES,
    SURVIVAL,
    Tables,
    TabularPolicy,
    cumulated,
    drawn,
    tables,
)

COST_WEIGHTS = (0.0, 0.001, 0.002, 0.003, 0.005, 0.01, 0.03)
"""Survival probability given up for one dose level: from no care about doses to as few as possible."""
CLINICIAN_SHARES = (0.0, 1 / 3, 2 / 3)
"""How often the clinicians' choice is taken instead; a last behaviour takes it always."""

_ROUNDS = 100
_CHUNK = 16
"""Mixtures whose chains of 713 x 713 states are in memory at once, 4 MB each."""


@dataclass(frozen=True, eq=False)
class Behaviours:
    """Policies side by side, each with what it needs to be solved: its chain, and the mean reward and dose of a step.

    A policy that acts like behaviour k with probability w_k in every state has the w-weighted chain, reward and dose.
    """

    chances: Float[np.ndarray, "k 713 25"]
    chains: Float[np.ndarray, "k 713 713"]
    rewards: Float[np.ndarray, "k 713"]
    costs: Float[np.ndarray, "k 713"]

    @staticmethod
    def of(chances: Float[np.ndarray, "k 713 25"]) -> "Behaviours":
        """The behaviours with these chances of actions."""
        known = tables()
        moves = known.transition[:PATIENTS, :, :PATIENTS].swapaxes(0, 1).copy()  # (25, 713, 713)
        chains = np.zeros((len(chances), PATIENTS, PATIENTS))
        for chain, chance in zip(chains, chances, strict=True):
            for action in range(ACTIONS):
                chain += chance[:, action, None] * moves[action]
        return Behaviours(
            chances=chances,
            chains=chains,
            rewards=np.sum(chances * known.transition[:PATIENTS, :, SURVIVAL], axis=2),
            costs=np.sum(chances * known.dose, axis=2),
        )

    def expected_returns(self, weights: Float[np.ndarray, "m k"]) -> Float[np.ndarray, "m 2"]:
        """True (reward, cost) of m mixtures, one system of 713 equations each, as `icu_sepsis.expected_returns`."""
        start = tables().start[:PATIENTS]
        flat = self.chains.reshape(len(self.chains), -1)
        returns = np.empty((len(weights), 2))
        for first in range(0, len(weights), _CHUNK):
            part = weights[first : first + _CHUNK]
            chains = (part @ flat).reshape(-1, PATIENTS, PATIENTS)
            steps = np.stack([part @ self.rewards, part @ self.costs], axis=2)  # (chunk, 713, 2)
            for place, (chain, step) in enumerate(zip(chains, steps, strict=True), first):
                returns[place] = start @ np.linalg.solve(np.eye(PATIENTS) - chain, step)
        return returns


def optimal_policy(cost_weight: float) -> TabularPolicy:
    """The policy of largest E[survival] - cost_weight E[dose levels], by policy iteration.

    Raises:
        UsageError: if the weight is negative: being paid for doses, a policy would put off the end of treatment.
        ModelError: if the iteration does not settle.
    """
    if not cost_weight >= 0:
        raise UsageError(f"cost_weight is {cost_weight}; it is the survival given up for one dose level, from 0")
    known = tables()
    moves = known.transition[:PATIENTS, :, :PATIENTS]
    gains = known.transition[:PATIENTS, :, SURVIVAL] - cost_weight * known.dose
    states = np.arange(PATIENTS)
    chosen = np.argmax(gains, axis=1)
    for _ in range(_ROUNDS):
        values = np.linalg.solve(np.eye(PATIENTS) - moves[states, chosen], gains[states, chosen])
        worth = gains + moves @ values
        better = np.argmax(worth, axis=1)
        if np.all(worth[states, better] <= worth[states, chosen] + 1e-12):  # rounding decides between equals
            return TabularPolicy(np.eye(ACTIONS)[chosen])
        chosen = better
    raise ModelError(f"policy iteration at cost_weight {cost_weight} did not settle in {_ROUNDS} rounds")


def behaviours(
    cost_weights: Sequence[float] = COST_WEIGHTS, clinician_shares: Sequence[float] = CLINICIAN_SHARES
) -> Behaviours:
    """Every cost weight with every share of the clinicians' choices, and the clinicians' own policy last."""
    clinicians = tables().clinicians
    chances = [
        (1 - share) * optimal_policy(weight).chances + share * clinicians
        for weight in cost_weights
        for share in clinician_shares
    ]
    return Behaviours.of(np.stack([*chances, clinicians]))


@dataclass(frozen=True, eq=False)
class SepsisFamily:
    """The dial of the module's docstring; `widths` are (h_R, h_G), `logged` the (R_k, G_k)."""

    behaviours: Behaviours
    logged: Float[np.ndarray, "k 2"]
    widths: tuple[float, float]

    def __post_init__(self) -> None:
        if self.logged.shape != (len(self.behaviours.chances), 2) or not np.all(np.isfinite(self.logged)):
            raise UsageError(
                f"logged returns are {self.logged.shape}, expected a finite (reward, cost) for each of "
                f"{len(self.behaviours.chances)} behaviours"
            )
        if not all(0 < width < np.inf for width in self.widths):
            raise UsageError(f"widths are {self.widths}; give two positive ones, in units of the reward and the cost")

    @property
    def target_names(self) -> tuple[str, ...]:
        """Target return of the reward, target return of the cost."""
        return ("reward", "cost")

    def at(self, target: Target) -> TabularPolicy:
        """The policy that aims at (R, G).

        Raises:
            UsageError: if the target is not two finite numbers.
        """
        if len(target) != 2 or not np.all(np.isfinite(target)):
            raise UsageError(f"target {target} must be two finite numbers, (reward, cost)")
        (weights,) = self.weights(np.array([target], dtype=np.float64))
        return TabularPolicy(np.tensordot(weights, self.behaviours.chances, axes=1))

    def weights(self, targets: Float[np.ndarray, "m 2"]) -> Float[np.ndarray, "m k"]:
        """How much of each behaviour a target calls for; rows sum to 1."""
        exponents = -0.5 * self.distances(targets) ** 2
        weights = np.exp(exponents - exponents.max(axis=1, keepdims=True))
        return weights / weights.sum(axis=1, keepdims=True)

    def distances(self, targets: Float[np.ndarray, "m 2"]) -> Float[np.ndarray, "m k"]:
        """How far each behaviour's logged returns lie from a target, in widths."""
        return np.sqrt(np.sum(((targets[:, None] - self.logged) / np.array(self.widths)) ** 2, axis=2))

    def expected_returns(self, targets: Float[np.ndarray, "m 2"]) -> Float[np.ndarray, "m 2"]:
        """True (reward, cost) of the policy at each target."""
        return self.behaviours.expected_returns(self.weights(targets))


class Sampler:
    """Draws whole episodes of a policy, many at once: dozens of times faster than stepping through worlds.

    The same distribution as that of `rollout` over "icu/Sepsis", other random numbers.
    """

    def __init__(self, known: Tables | None = None) -> None:
        known = known or tables()
        rows = known.transition[:PATIENTS].reshape(-1, STATES)
        pairs, self._next = np.nonzero(rows)
        # one increasing sequence for all (state, action): within row i it runs from i to i + 1
        self._ends = np.append(np.searchsorted(pairs, np.arange(len(rows))), len(pairs))
        self._cumulative = np.empty(len(pairs))
        for row, (low, high) in enumerate(zip(self._ends[:-1], self._ends[1:], strict=True)):
            self._cumulative[low:high] = row + cumulated(rows[row, self._next[low:high]])
        self._start = cumulated(known.start[None])
        self._dose = known.dose

    def returns(
        self, policy: TabularPolicy, episodes: int, rng: np.random.Generator
    ) -> tuple[Float[np.ndarray, "e"], Float[np.ndarray, "e"]]:
        """Reward and cost returns of fresh episodes."""
        rewards, costs = np.zeros(episodes), np.zeros(episodes)
        cumulative = cumulated(policy.chances)
        running = np.arange(episodes)
        states = drawn(np.repeat(self._start, episodes, axis=0), rng.random(episodes))
        for _ in range(HORIZON):
            actions = drawn(cumulative[states], rng.random(len(running)))
            costs[running] += self._dose[states, actions]
            states = self._after(states * ACTIONS + actions, rng.random(len(running)))
            rewards[running[states == SURVIVAL]] = 1.0
            going_on = states < DEATH
            running, states = running[going_on], states[going_on]
            if len(running) == 0:
                break
        return rewards, costs

    def _after(self, pairs: Int[np.ndarray, "n"], uniform: Float[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
        """The next states of (state, action) pairs."""
        places = np.searchsorted(self._cumulative, pairs + uniform, side="right")
        return self._next[np.minimum(places, self._ends[pairs + 1] - 1)]  # pair + uniform may round up to pair + 1
