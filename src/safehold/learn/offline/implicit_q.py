"""Implicit Q-learning: critics of the best that a log does, fitted without asking for an action that it does not hold.

V follows an upper expectile of Q over the actions of the log, Q follows the step's gain and the V that comes next
[IQL, arXiv 2110.06169]. Several gains are learnt at once, each for itself: of a cost c the gain is -c, so that the
best is the least cost, and of two critics the more pessimistic one counts, whatever the signal.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from safehold.core.spec import TaskSpec
from safehold.learn.learner import Metrics
from safehold.learn.offline.actor_critic import ActorCriticConfig, critic_loss
from safehold.learn.parts import Kept, Part, SlowCopy
from safehold.learn.transitions import Transitions
from safehold.nn.ensemble import Critics, Ensemble
from safehold.nn.randomness import drawn_generator


class ImplicitQConfig(ActorCriticConfig):
    """What methods on implicit Q-learning are told."""

    expectile: float = Field(default=0.7, gt=0.5, lt=1.0)
    """Of Q over the log's actions: towards 1, V is that of the best action; at 1/2 it would be that of the mean."""
    critic_learning_rate: PositiveFloat = 3e-4
    """Step size of Adam for values and critics."""
    batch_size: PositiveInt = 256
    """Steps in a batch."""
    steps: PositiveInt = 1_000_000
    """Gradient steps."""


@dataclass(frozen=True, slots=True)
class Advantages:
    """How much more of each gain than usual B actions bring, Q - V, and V itself, in the critics' units."""

    advantage: Float[Tensor, "B s"]
    value: Float[Tensor, "B s"]


class ImplicitQ:
    """Values and critics of several gains.

    Args:
        observations: entries of an observation.
        actions: entries of an action.
        ceilings: the most that each gain's return can be: 0 of a cost's, inf of a reward's. It is kept in targets and
            in what comes out, never in a loss: a value that has been cut off has no gradient that could bring it back.
        config: sizes and rates.
    """

    def __init__(self, observations: int, actions: int, ceilings: Float[Tensor, "s"], config: ImplicitQConfig) -> None:
        self._config = config
        self._ceilings = ceilings
        signals, generator = len(ceilings), drawn_generator()
        values = Ensemble(signals, (observations, *config.hidden, 1), generator=generator)
        critics = Critics(observations, actions, members=2, signals=signals, hidden=config.hidden, generator=generator)
        self.value = Part("values", values, config.critic_learning_rate)
        self.critic = Part("critics", critics, config.critic_learning_rate)
        self.slow = SlowCopy(critics, config.target_rate)

    def kept(self) -> Mapping[str, Kept]:
        """What a checkpoint must carry."""
        return {"value": self.value, "critic": self.critic, "slow_critic": self.slow}

    def improve(self, batch: Transitions, gains: Float[Tensor, "B s"]) -> tuple[Advantages, Metrics]:
        """One update of values, critics and slow copies; the advantages are by the new values and old slow copies.

        Metrics: `value_loss`, `critic_loss`, and `value.0`, `value.1`, ..., the mean V of each gain.

        Raises:
            ModelError: if a loss is not finite.
        """
        with torch.no_grad():
            judged = least(self.slow.network(batch.observations, batch.actions), self._ceilings)
        value_loss = self.value.descend(
            expectile_loss(judged - self.value.network(batch.observations), self._config.expectile)
        )
        with torch.no_grad():
            value = torch.minimum(self.value.network(batch.observations), self._ceilings)
            then = torch.minimum(self.value.network(batch.next_observations), self._ceilings)
            wanted = gains + self._config.discount * batch.goes_on[:, None] * then
        said = self.critic.network(batch.observations, batch.actions)
        fit_loss = self.critic.descend(critic_loss(said, wanted))
        self.slow.follow()
        means = {f"value.{i}": float(mean) for i, mean in enumerate(value.mean(dim=0))}
        return Advantages(judged - value, value), {"value_loss": value_loss, "critic_loss": fit_loss, **means}


def gains_of(batch: Transitions) -> Float[Tensor, "B s"]:
    """The scaled reward, then each cost negated."""
    return torch.cat([batch.rewards[:, None], -batch.costs], dim=1)


def ceilings_of(spec: TaskSpec) -> Float[Tensor, "s"]:
    """The most that the returns of these gains can be: anything, then 0 for each cost."""
    return torch.tensor([torch.inf, *([0.0] * len(spec.cost_names))])


def least(said: Float[Tensor, "B m s"], ceilings: Float[Tensor, "s"]) -> Float[Tensor, "B s"]:
    """Q of the most pessimistic member, and never more than can be."""
    return torch.minimum(said.amin(dim=1), ceilings)


def expectile_loss(difference: Float[Tensor, "B s"], expectile: float) -> Float[Tensor, ""]:
    """Mean over the batch of |tau - 1(u < 0)| u^2, u = Q - V, summed over the gains.   [IQL, L_V].

    It is least where V is the tau-expectile of Q.
    """
    weight = torch.where(difference < 0.0, 1.0 - expectile, expectile)
    return (weight * difference.square()).mean(dim=0).sum()


def advantage_weights(advantage: Float[Tensor, "B"], temperature: float, largest: float) -> Float[Tensor, "B"]:
    """min(exp(beta A), largest).   [IQL, the weights of L_pi; AWR, arXiv 1910.00177].

    The exponent is cut before it is taken, so that nothing overflows.
    """
    return torch.exp((temperature * advantage).clamp(max=math.log(largest)))
