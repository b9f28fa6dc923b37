"""Seed targets from the log by a stated rule, with the margin they rest on."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from safehold.core.constraint import Limit
from safehold.core.errors import DataError, NoSeed
from safehold.core.target import Target, TargetSpace


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedRule:
    """Which targets count as known to be safe.

    Let R* be the largest reward return among logged episodes whose cost returns are at most `cost_share` of their
    limits. Seed targets are the supported candidates with a target cost of at most `cost_share` of every limit and
    a target reward between `low` and `high` times R*, if at least `minimum` logged episodes lie in that box. R* must
    be positive: shares of a negative return lie above it.
    (PLS tables 5-6 use boxes of this kind, stated by hand: costs up to a quarter of b = 20, rewards below the best.)
    """

    cost_share: float = 0.25
    low: float = 0.7
    high: float = 0.8
    minimum: int = 5

    def __post_init__(self) -> None:
        if not (0 < self.cost_share < 1 and self.low < self.high and self.minimum >= 1):
            raise DataError(
                f"seed rule {self}: cost_share lies between 0 and 1, low is below high, minimum is at least 1"
            )

    @property
    def words(self) -> str:
        """The rule in a sentence, for the ledger."""
        return (
            f"supported targets with cost <= {self.cost_share:g} of every limit and reward in [{self.low:g}, "
            f"{self.high:g}] of the best reward return logged at such costs; at least {self.minimum} episodes there. "
            "Means, maxima and margins are of the episodes in that box, selected for low cost; "
            "mean_costs_in_reward_band are of all logged episodes of such rewards, whatever they cost"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedSelection:
    """Seed targets and what they rest on.

    `best_reward` is R*, `reward_range` the box's sides. `episodes` logged episodes lie in the box (their returns);
    `cost_means` and `cost_maxima` are over those; `margins` how far the mean stays under each limit, in its units.
    Those episodes were selected for low cost. `episodes_in_reward_band` logged episodes have a reward in the range
    whatever they cost; `mean_costs_in_reward_band` are theirs, the fairer guess at what such a reward costs.
    """

    targets: tuple[Target, ...]
    rule: str
    best_reward: float
    reward_range: tuple[float, float]
    episodes: int
    cost_means: Mapping[str, float]
    cost_maxima: Mapping[str, float]
    margins: Mapping[str, float]
    episodes_in_reward_band: int
    mean_costs_in_reward_band: Mapping[str, float]

    def evidence(self) -> dict[str, object]:
        """The same as plain values, for the ledger."""
        return {
            "best_reward": self.best_reward,
            "reward_range": list(self.reward_range),
            "episodes": self.episodes,
            "cost_means": dict(self.cost_means),
            "cost_maxima": dict(self.cost_maxima),
            "margins": dict(self.margins),
            "episodes_in_reward_band": self.episodes_in_reward_band,
            "mean_costs_in_reward_band": dict(self.mean_costs_in_reward_band),
        }


def from_returns(
    space: TargetSpace,
    limits: tuple[Limit, ...],
    support: Bool[np.ndarray, "m"],
    reward_returns: Float[np.ndarray, "E"],
    cost_returns: Mapping[str, Float[np.ndarray, "E"]],
    rule: SeedRule | None = None,
) -> SeedSelection:
    """Seed targets of logged returns by the rule. Assumes a target space of (reward, named costs).

    That a policy asked for these returns attains such costs is a premise, not a proof: the first ask tests it.

    Raises:
        NoSeed: if no logged episode is that safe, the best reward is not positive, no candidate lies in the box, or
            too few episodes do.
        DataError: if a return is not finite.
    """
    rule = rule or SeedRule()
    for name, values in [("reward", reward_returns), *cost_returns.items()]:
        if not np.all(np.isfinite(values)):
            raise DataError(
                f"logged {name} returns hold {int(np.sum(~np.isfinite(values)))} non-finite values; fix the log"
            )
    costs = {limit.name: cost_returns[limit.name] for limit in limits}
    cheap = np.all([costs[limit.name] <= rule.cost_share * limit.value for limit in limits], axis=0)
    if not cheap.any():
        least = min(float(np.min(values)) for values in costs.values()) if len(reward_returns) else float("nan")
        raise NoSeed(
            f"no logged episode has costs of at most {rule.cost_share:g} of the limits (smallest cost {least:.4g}); "
            "attest seed targets by hand, or log safer episodes"
        )
    best = float(np.max(reward_returns[cheap]))
    if not best > 0.0:
        raise NoSeed(
            f"the best reward logged at costs of at most {rule.cost_share:g} of the limits is {best:.4g}; the seed "
            "rule takes shares of it and needs a positive one: attest seed targets by hand"
        )
    low, high = rule.low * best, rule.high * best
    asked_reward = space.points[:, 0]
    inside = support & (asked_reward >= low) & (asked_reward <= high)
    for limit in limits:
        inside &= space.points[:, space.names.index(limit.name)] <= rule.cost_share * limit.value
    if not inside.any():
        raise NoSeed(
            f"no supported target has a reward in [{low:.4g}, {high:.4g}] and costs up to {rule.cost_share:g} of the "
            "limits; refine the target grid there or widen the rule"
        )
    in_band = (reward_returns >= low) & (reward_returns <= high)
    near = cheap & in_band
    if int(np.sum(near)) < rule.minimum:
        raise NoSeed(
            f"{int(np.sum(near))} logged episodes lie in the seed box, reward in [{low:.4g}, {high:.4g}]; asked are "
            f"{rule.minimum}. Widen the box, or attest seed targets by hand"
        )
    means = {name: float(np.mean(values[near])) for name, values in costs.items()}
    return SeedSelection(
        targets=tuple(space.target(int(index)) for index in np.flatnonzero(inside)),
        rule=rule.words,
        best_reward=best,
        reward_range=(low, high),
        episodes=int(np.sum(near)),
        cost_means=means,
        cost_maxima={name: float(np.max(values[near])) for name, values in costs.items()},
        margins={limit.name: limit.value - means[limit.name] for limit in limits},
        episodes_in_reward_band=int(np.sum(in_band)),
        mean_costs_in_reward_band={name: float(np.mean(values[in_band])) for name, values in costs.items()},
    )
