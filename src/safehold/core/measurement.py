"""What a deployment of one target yielded, episode by episode; means are derived, never stored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from safehold.core.constraint import Constraint, fold
from safehold.core.episode import Episode
from safehold.core.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Raw outcomes of one target: one reward return and one value of every constraint an episode.

    `failed` marks episodes that broke off: their costs are lower bounds, and count as violations. A cost of a
    failed episode may be NaN; any other non-finite or negative cost is refused.
    """

    rewards: Float[np.ndarray, "_"]  # (episodes,); lengths are checked below, with a message
    costs: Mapping[str, Float[np.ndarray, "_"]]  # (episodes,) each
    failed: Bool[np.ndarray, "_"]  # (episodes,)

    def __post_init__(self) -> None:
        if len(self.rewards) == 0:
            raise DataError("a measurement needs at least one episode; abandon a trial that never ran")
        if self.failed.shape != self.rewards.shape:
            raise DataError(f"{len(self.rewards)} rewards but {len(self.failed)} failed marks; one an episode")
        if not self.costs:
            raise DataError("a measurement without costs is no evidence; give every named cost of every episode")
        for name, values in self.costs.items():
            if values.shape != self.rewards.shape:
                raise DataError(
                    f"{len(self.rewards)} rewards but {len(values)} values of cost {name!r}; one an episode"
                )
            bad = ~self.failed & ~(np.isfinite(values) & (values >= 0))
            if bad.any():
                place = int(np.argmax(bad))
                raise DataError(
                    f"cost {name!r} of episode {place} is {values[place]}; a missing, non-finite or negative cost is "
                    "no evidence of safety. If the episode broke off, tell it with failed=True"
                )
        bad_rewards = ~self.failed & ~np.isfinite(self.rewards)
        if bad_rewards.any():
            place = int(np.argmax(bad_rewards))
            raise DataError(f"reward of episode {place} is {self.rewards[place]}; if it broke off, tell failed=True")

    @staticmethod
    def of(episodes: Sequence[Episode], constraints: Sequence[Constraint], cost_names: Sequence[str]) -> "Measurement":
        """Folds every episode by every constraint; `cost_names` are the columns of the episodes' costs."""
        columns = {name: column for column, name in enumerate(cost_names)}
        missing = [c.name for c in constraints if c.name not in columns]
        if missing:
            raise DataError(f"no cost named {missing[0]!r} among the episodes' costs {tuple(cost_names)}")
        return Measurement(
            rewards=np.array([episode.reward_return for episode in episodes]),
            costs={
                c.name: np.array([fold(c, episode.costs[:, columns[c.name]]) for episode in episodes])
                for c in constraints
            },
            failed=np.array([episode.failed for episode in episodes], dtype=np.bool_),
        )

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self.rewards)

    def mean_cost(self, name: str) -> float:
        """Mean of a named cost over the episodes; +inf if any of them failed (absence of evidence)."""
        return float("inf") if self.failed.any() else float(np.mean(self.costs[name]))
