"""What BCQ-Lag and BEAR-Lag share: mixed double critics, and multipliers of the limits.

Both are reward learners that are kept near the log [BCQ, arXiv 1812.02900; BEAR, arXiv 1906.00949], made to heed limits
by a multiplier of each cost; as a baseline first in [CPQ, arXiv 2107.09003, experiments], and in the form that is
compared with today in [OSRL, algorithms/bcql.py and bearl.py].
"""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from safehold.core.constraint import Limit
from safehold.core.spec import TaskSpec
from safehold.learn.learner import Metrics, State
from safehold.learn.multiplier import MultiplierConfig, ScalarMultiplier
from safehold.learn.offline.actor_critic import thresholds
from safehold.learn.offline.behaviour_model import BehaviourConfig
from safehold.nn.tensors import to_tensor


class LagrangianConfig(BehaviourConfig):
    """What both methods are told."""

    critics: PositiveInt = 2
    """Networks in each of the two critics of a signal; the smallest of them is the critic's word."""
    least_share: float = Field(default=0.75, ge=0.0, le=1.0)
    """Weight lambda of the smaller one of two critics in what is fitted to; the larger one has the rest."""
    candidates: PositiveInt = 10
    """Actions drawn at the next state, of which one counts."""
    choice: Literal["best", "largest"] = "best"
    """Which of them: "best" the one that obtains most once its costs are paid for by the multipliers, for all signals
    the same, and the multipliers look at its costs; "largest" for each signal the one with most of it, so that costs
    are those of the dearest action that could be meant, as OSRL has it, and the multipliers look at the actor's."""
    multiplier: MultiplierConfig = MultiplierConfig(integral_gain=0.003, proportional_gain=0.1, derivative_gain=0.001)
    """Of each cost's multiplier; violations are those of discounted costs, in scaled reward units per cost unit."""
    actor_learning_rate: PositiveFloat = 1e-3
    """Step size of the actor's Adam."""
    critic_learning_rate: PositiveFloat = 1e-3
    """Step size of the critics' Adam."""


def mixed(values: Float[Tensor, "*B m s"], least_share: float) -> Float[Tensor, "*B s"]:
    """The mixture lambda min(Q_1, Q_2) + (1 - lambda) max(Q_1, Q_2), each Q the smallest of its half of the networks.

    [BCQ, soft clipped double Q-learning; BEAR, Alg. 1 has the same form]
    """
    halves = torch.stack(values.chunk(2, dim=-2)).amin(dim=-2)
    return least_share * halves.amin(dim=0) + (1.0 - least_share) * halves.amax(dim=0)


def best(values: Float[Tensor, "B n s"], multipliers: Float[Tensor, "k"]) -> Float[Tensor, "B s"]:
    """The values of the candidate with the largest Q_r - sum_j lambda_j Q_cj."""
    chosen = (values[..., 0] - values[..., 1:] @ multipliers).argmax(dim=1)
    return values[torch.arange(len(values)), chosen]


class Multipliers:
    """A multiplier of each named cost, by what the cost critics say of the actor's actions.

    [Stooke et al., arXiv 2007.03964, Alg. 2; OSRL, LagrangianPIDController] Unlike [OSRL], the proportional term
    pushes down, too, and the first update knows no rise.
    """

    def __init__(self, spec: TaskSpec, config: LagrangianConfig) -> None:
        self.thresholds = to_tensor(thresholds(spec, config))
        self._costs = [
            ScalarMultiplier(Limit(name, float(value)), config.multiplier)
            for name, value in zip(spec.cost_names, self.thresholds, strict=True)
        ]

    def update(self, costs: Float[Tensor, "B k"]) -> Float[Tensor, "k"]:
        """One step by the discounted costs of a batch; the multipliers that came of it."""
        for multiplier, mean in zip(self._costs, costs.mean(dim=0).tolist(), strict=True):
            multiplier.update(mean)
        return self.values

    @property
    def values(self) -> Float[Tensor, "k"]:
        """Scaled reward units per cost unit; >= 0."""
        return torch.tensor([multiplier.value for multiplier in self._costs])

    def state(self) -> State:
        """The memory of all."""
        return State(meta={"costs": [dict(multiplier.state().meta) for multiplier in self._costs]})

    def restore(self, state: State) -> None:
        """Goes back to a saved memory."""
        for multiplier, meta in zip(self._costs, state.meta["costs"], strict=True):
            multiplier.restore(State(meta=meta))


def lagrangian(
    values: Float[Tensor, "B s"], thresholds: Float[Tensor, "k"], multipliers: Float[Tensor, "k"]
) -> Float[Tensor, "B"]:
    """Q_r - sum_j lambda_j (Q_cj - d_j): what the actor raises."""
    return values[:, 0] - ((values[:, 1:] - thresholds) * multipliers).sum(dim=-1)


def value_metrics(spec: TaskSpec, values: Float[Tensor, "B s"], multipliers: Float[Tensor, "k"]) -> Metrics:
    """Means of what the critics say of the actor's actions, and the multipliers, by name."""
    reward, *costs = values.detach().mean(dim=0).tolist()
    metrics = {"reward_value": reward}
    for name, cost, multiplier in zip(spec.cost_names, costs, multipliers.tolist(), strict=True):
        metrics |= {f"cost_value.{name}": cost, f"multiplier.{name}": multiplier}
    return metrics
