"""SAC with a scalar Lagrange multiplier: the plain off-policy way to much reward under a limit on the mean cost."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from safehold.core.config import Config
from safehold.core.constraint import Limit
from safehold.core.seeding import Streams
from safehold.core.spec import TaskSpec
from safehold.learn.cost_value import CostValue, DiscountedSum
from safehold.learn.learner import Metrics, State
from safehold.learn.multiplier import MultiplierConfig, ScalarMultiplier
from safehold.learn.online.limited import checked_limit
from safehold.learn.online.sac import SACConfig, SACLearner
from safehold.learn.transitions import Transitions
from safehold.rollout.steps import FinishedEpisode


class SACLagConfig(Config):
    """Soft actor-critic with a damped scalar Lagrange multiplier."""

    sac: SACConfig = SACConfig()
    """The core."""
    multiplier: MultiplierConfig = MultiplierConfig()
    """How the multiplier answers violations."""
    damping: NonNegativeFloat = 10.0
    """Added to the multiplier for each unit by which the cost critic passes the limit, in its units. [SaGui: 10]"""
    episodes_per_step: PositiveInt = 10
    """Finished episodes whose mean cost makes one step of the multiplier. [OmniSafe's window]"""


def sac_lag(spec: TaskSpec, config: SACLagConfig, limit: Limit | None, streams: Streams) -> SACLearner:
    """A learner under a limit of kind "mean"; without a limit this is plain SAC.

    Raises:
        UsageError: if the limit is of another kind or on no cost of the task, or actions are not continuous.
    """
    price = None if limit is None else ScalarPrice(spec, config, limit)
    return SACLearner(spec, config.sac, price, spec.cost_names[0] if limit is None else limit.name, streams)


class ScalarPrice:
    """One multiplier for all states.

    lambda answers the mean undiscounted cost of episodes (`ScalarMultiplier`); in the policy's loss its place is taken
    by

        [lambda + damping (mean of Q_c over the batch - d')]_+,   d' = d / ((1 - gamma) T).   [SaGui's code]

    Unlike SaGui, whose multiplier follows E[Q_c] - d' too, the multiplier answers what episodes really cost: a critic's
    bias then moves the damping alone, and the limit is met in the units in which it was set. And the price is never
    negative: a policy is not paid for cost.
    """

    def __init__(self, spec: TaskSpec, config: SACLagConfig, limit: Limit) -> None:
        self._column = checked_limit(spec, limit, "mean", "SAC-Lagrangian")
        self._config = config
        self._value = DiscountedSum(config.sac.discount)
        self._threshold = self._value.threshold(limit, spec.horizon)
        self._multiplier = ScalarMultiplier(limit, config.multiplier)
        self._waiting: list[float] = []

    @property
    def value(self) -> CostValue:
        """The discounted sum of costs."""
        return self._value

    @property
    def multiplier(self) -> float:
        """The multiplier itself, without damping, in reward units per cost unit."""
        return self._multiplier.value

    def signal(self, rows: Transitions) -> Float[Tensor, "B"]:
        """The cost itself."""
        return rows.costs[:, self._column]

    def weights(
        self,
        observations: Float[Tensor, "B o"],  # noqa: ARG002 - the same price everywhere
        expected: Float[Tensor, "B"],
    ) -> Float[Tensor, ""]:
        """The damped multiplier."""
        damped = self._multiplier.value + self._config.damping * (expected.mean() - self._threshold)
        return damped.clamp(min=0.0)

    def finish(self, episodes: Sequence[FinishedEpisode]) -> None:
        """A step of the multiplier for every so many episodes."""
        self._waiting += [float(episode.cost_returns[self._column]) for episode in episodes]
        count = self._config.episodes_per_step
        while len(self._waiting) >= count:
            self._multiplier.update(float(np.mean(self._waiting[:count])))
            self._waiting = self._waiting[count:]

    def improve(self, rows: Transitions, expected: Float[Tensor, "B"]) -> Metrics:
        """Nothing moves; what the price is."""
        return {
            "multiplier": self._multiplier.value,
            "damped_multiplier": float(self.weights(rows.observations, expected)),
            "cost_value": float(expected.mean()),
        }

    def state(self) -> State:
        """The multiplier, and the episodes that wait for its next step."""
        waiting = State(meta={"waiting": list(self._waiting)})
        return State.merge(waiting, self._multiplier.state().under("multiplier"))

    def restore(self, state: State) -> None:
        """Goes back to a saved state."""
        waiting = [float(cost) for cost in state.meta["waiting"]]
        self._multiplier.restore(state.part("multiplier"))
        self._waiting = waiting
