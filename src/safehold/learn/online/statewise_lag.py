"""SAC with a multiplier for every state: lambda(s), a network, under one of three constraints on states."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from safehold.core.config import Config
from safehold.core.constraint import Limit, LimitKind
from safehold.core.seeding import Streams
from safehold.core.spec import TaskSpec
from safehold.learn.cost_value import CostValue, DiscountedMaximum, DiscountedSum
from safehold.learn.learner import Metrics, State
from safehold.learn.multiplier_network import MultiplierField, MultiplierNetwork, MultiplierNetworkConfig
from safehold.learn.online.limited import checked_limit
from safehold.learn.online.sac import SACConfig, SACLearner
from safehold.learn.transitions import Transitions
from safehold.nn.tensors import torch_generator
from safehold.rollout.steps import FinishedEpisode

StateConstraint = Literal["immediate", "value", "reachability"]

LIMIT_KINDS: Mapping[StateConstraint, LimitKind] = {"immediate": "peak", "value": "mean", "reachability": "peak"}
"""What is limited, in an episode's terms: its dearest step, or its sum."""


class StatewiseLagConfig(Config):
    """Soft actor-critic with a multiplier network."""

    sac: SACConfig = SACConfig()
    """The core."""
    multiplier: MultiplierNetworkConfig = MultiplierNetworkConfig()
    """The network lambda(s)."""
    constraint: StateConstraint = "value"
    """What is limited in every state: "immediate", the expected cost of the step; "value", the discounted sum of the
    costs to come (FAC); "reachability", the largest cost to come (RCRL)."""


def statewise_lag(spec: TaskSpec, config: StatewiseLagConfig, limit: Limit, streams: Streams) -> SACLearner:
    """A learner whose price is a `StatePrice`.

    The limit is of kind "mean" for the constraint "value", in cost units per episode; and of kind "peak" for the other
    two, in cost units per step.

    Raises:
        UsageError: if the limit is of another kind or on no cost of the task, or actions are not continuous.
    """
    return SACLearner(spec, config.sac, StatePrice(spec, config, limit, streams), limit.name, streams)


class StatePrice:
    """lambda(s), and one of three constraints that it enforces in every state.

    immediate      E[c(s, a)] <= w              [lecture notes, Eq. (5)]
        lambda(s) ascends on c - w of the steps themselves: Eq. (6) with the immediate cost. The policy answers by the
        gradient of E sum lambda(s) c, the price paid along the way, so the cost critic sums lambda(s) c. (A critic of c
        alone would not do: with inertia an action hardly changes the cost of its own step.)
    value          E sum gamma^t c_t <= d'      [FAC, arXiv 2105.10682]
        lambda(s) ascends on Q_c(s, a) - d', a ~ pi(s); the policy's loss has lambda(s) Q_c(s, a).
    reachability   max_t c_t <= w               [RCRL, arXiv 2205.07536]
        The same with the discounted maximum for Q_c, and w.

    The term -lambda(s) w of the Lagrangian does not depend on the action, and is left out of the policy's loss.
    """

    def __init__(self, spec: TaskSpec, config: StatewiseLagConfig, limit: Limit, streams: Streams) -> None:
        method = f"the constraint {config.constraint!r}"
        self._column = checked_limit(spec, limit, LIMIT_KINDS[config.constraint], method)
        self._immediate = config.constraint == "immediate"
        discount = config.sac.discount
        self._value: CostValue = (
            DiscountedMaximum(discount) if config.constraint == "reachability" else DiscountedSum(discount)
        )
        self._limit = limit.value if self._immediate else self._value.threshold(limit, spec.horizon)
        generator = torch_generator(streams.integer("multiplier weights"))
        self._multiplier = MultiplierNetwork(spec.observation_size, config.multiplier, generator)

    @property
    def value(self) -> CostValue:
        """The discounted sum or maximum of the costs to come."""
        return self._value

    def field(self) -> MultiplierField:
        """Multipliers over the states, as they are now."""
        return self._multiplier.frozen()

    def signal(self, rows: Transitions) -> Float[Tensor, "B"]:
        """The cost; for the immediate constraint, priced by the state in which it is met."""
        costs = rows.costs[:, self._column]
        return self._multiplier(rows.observations) * costs if self._immediate else costs

    def weights(self, observations: Float[Tensor, "B o"], expected: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
        """lambda(s); 1 for the immediate constraint, whose critic holds lambda already."""
        return torch.ones_like(expected) if self._immediate else self._multiplier(observations)

    def finish(self, episodes: Sequence[FinishedEpisode]) -> None:
        """Nothing: states answer, not episodes."""

    def improve(self, rows: Transitions, expected: Float[Tensor, "B"]) -> Metrics:
        """Offers lambda the violations of a batch; its mean, its largest value and the share of states that break."""
        found = rows.costs[:, self._column] if self._immediate else expected
        violations = found - self._limit
        self._multiplier.offer(rows.observations, violations)
        multipliers = self._multiplier(rows.observations)
        return {
            "multiplier": float(multipliers.mean()),
            "largest_multiplier": float(multipliers.max()),
            "violated": float((violations > 0).float().mean()),
            "cost_value": float(expected.mean()),
        }

    def state(self) -> State:
        """The network's."""
        return self._multiplier.state()

    def restore(self, state: State) -> None:
        """Goes back to a saved state."""
        self._multiplier.restore(state)
