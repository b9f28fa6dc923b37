"""A policy with a guard in every episode: it lowers what the policy may still spend, or lets another one take over.

No certificate is claimed for what the guard does: it bounds the damage of one episode as far as its margins are true.
What a deployment measures of a guarded policy, and certifies, is the guarded policy: guard every episode, or none.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from safehold.core.constraint import Constraint, MaximumCost, SumCost
from safehold.core.errors import DataError
from safehold.core.policy import Actor, BudgetedActor, Policy
from safehold.deploy.guard import Guard


@dataclass(frozen=True, slots=True)
class GuardedPolicy:
    """`policy` under a guard, `recovery` from a hand-over to the end of the episode.

    `guard` stands as before a first step; every episode has its own. `cost_names`: the columns of the costs that
    actors observe. A policy whose actors cannot be told to spend less (`BudgetedActor`) is only ever handed over.

    Raises:
        DataError: if a guarded cost is none of the columns.
    """

    policy: Policy
    recovery: Policy
    guard: Guard
    cost_names: tuple[str, ...]

    def __post_init__(self) -> None:
        missing = [limit.name for limit in self.guard.limits if limit.name not in self.cost_names]
        if missing:
            raise DataError(f"the guard watches {missing[0]!r}, the episodes' costs are {self.cost_names}")

    def start(self, n: int, rng: np.random.Generator) -> Actor:
        """Both policies live through all n episodes; the recovery sees what it will take over."""
        return GuardedActor(self.policy.start(n, rng), self.recovery.start(n, rng), [self.guard] * n, self.cost_names)


class GuardedActor:
    """A guarded policy inside n episodes."""

    def __init__(self, policy: Actor, recovery: Actor, guards: Sequence[Guard], cost_names: tuple[str, ...]) -> None:
        self._policy, self._recovery = policy, recovery
        self._guards = list(guards)
        self._columns = {limit.name: cost_names.index(limit.name) for limit in guards[0].limits}
        self._folds: dict[str, Constraint] = {
            limit.name: MaximumCost(limit.name) if limit.kind == "peak" else SumCost(limit.name)
            for limit in guards[0].limits
        }
        self._running = {name: fold.start(len(guards)) for name, fold in self._folds.items()}
        self._summed = tuple(limit.name for limit in guards[0].limits if limit.kind != "peak")
        self._n_costs = len(cost_names)

    @property
    def handed_over(self) -> tuple[str, ...]:
        """Why each episode was handed over; empty where it was not."""
        return tuple(guard.handed_over for guard in self._guards)

    def act(self, observations: Float[np.ndarray, "n o"]) -> Float[np.ndarray, "n a"]:
        """The policy's actions, the recovery's in episodes that were handed over."""
        over = np.array([bool(guard.handed_over) for guard in self._guards])
        return np.where(over[:, None], self._recovery.act(observations), self._policy.act(observations))

    def observe(
        self, actions: Float[np.ndarray, "n a"], rewards: Float[np.ndarray, "n"], costs: Float[np.ndarray, "n k"]
    ) -> None:
        """Both actors see the step; then each guard says what the next one may be."""
        for actor in (self._policy, self._recovery):
            actor.observe(actions, rewards, costs)
        for name, fold in self._folds.items():
            self._running[name] = fold.step(self._running[name], costs[:, self._columns[name]])
        to_go = np.full((len(self._guards), self._n_costs), np.inf)
        for row, guard in enumerate(self._guards):
            self._guards[row], action = guard.step(
                {name: float(running[row]) for name, running in self._running.items()}
            )
            for name in self._summed if action.kind != "keep" else ():
                to_go[row, self._columns[name]] = action.to_go[name]
        for actor in (self._policy, self._recovery):
            if isinstance(actor, BudgetedActor):
                actor.lower(to_go)
