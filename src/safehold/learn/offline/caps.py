"""Constraint-adaptive policy switching: a few policies from bold to safe, and a limit that is given when acting.

All heads share a backbone and imitate the log's actions with different weights; in every step the one acts that
promises the most reward among those whose cost-to-go fits what is left of the limit.   [CAPS, arXiv 2412.18946]
"""

import copy
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from safehold.core.config import Config
from safehold.core.spec import TaskSpec
from safehold.learn.actions import box_of
from safehold.learn.learner import Metrics
from safehold.learn.offline.actor_critic import ActorCriticLearner, seen
from safehold.learn.offline.implicit_q import (
    Advantages,
    ImplicitQ,
    ImplicitQConfig,
    advantage_weights,
    ceilings_of,
    gains_of,
    least,
)
from safehold.learn.offline.limit_dial import LimitFamily
from safehold.learn.parts import Kept, Part
from safehold.learn.transitions import Transitions
from safehold.nn.actors import DeterministicActor
from safehold.nn.ensemble import Critics
from safehold.nn.randomness import drawn_generator
from safehold.nn.tensors import to_array, to_tensor

KIND = "caps"


class CAPSConfig(ImplicitQConfig):
    """Constraint-adaptive policy switching."""

    heads: int = Field(default=2, ge=2)
    """Policies to switch between: the first for reward alone, the last for safety alone, others between them."""
    temperature: PositiveFloat = 3.0
    """Inverse temperature of the weights, per scaled discounted reward unit and per discounted cost unit."""
    largest_weight: PositiveFloat = 100.0
    """No advantage makes a logged action count more than this many times an average one."""
    learning_rate: PositiveFloat = 3e-4
    """Step size of Adam for the heads."""
    batch_size: PositiveInt = 512
    """Steps in a batch."""
    steps: PositiveInt = 100_000
    """Gradient steps."""


PRESETS: Mapping[str, CAPSConfig] = {
    "published": CAPSConfig(hidden=(512, 512), timeouts="terminal"),
    "small": CAPSConfig(hidden=(128, 128), batch_size=256, steps=10_000),
}
"""`published`: [CAPS, supplement], with two heads; `small`: minutes on two cores."""


class CAPSNetwork(nn.Module):
    """The heads on their backbone, and the critics that choose between them."""

    def __init__(self, spec: TaskSpec, config: CAPSConfig) -> None:
        super().__init__()
        observations, self._actions = spec.observation_size, box_of(spec).size
        generator = drawn_generator()
        self.actor = DeterministicActor(observations, config.heads * self._actions, config.hidden, generator=generator)
        self.critics = Critics(
            observations,
            self._actions,
            members=2,
            signals=1 + len(spec.cost_names),
            hidden=config.hidden,
            generator=generator,
        )

    def heads(self, observations: Float[Tensor, "B o"]) -> Float[Tensor, "B h a"]:
        """The action of every head."""
        said: Tensor = self.actor(observations)
        return said.view(len(said), -1, self._actions)


class CAPSFamily(LimitFamily[CAPSConfig, CAPSNetwork]):
    """Policies with a dial for the limits: the most that an episode is to cost, of each named cost."""

    kind: ClassVar[str] = KIND
    config_type: ClassVar[type[Config]] = CAPSConfig

    @classmethod
    def build(cls, spec: TaskSpec, config: CAPSConfig) -> CAPSNetwork:
        """Networks with fresh weights."""
        return CAPSNetwork(spec, config)

    @torch.inference_mode()
    def choose(
        self, observations: Float[np.ndarray, "n o"], budgets: Float[np.ndarray, "n k"]
    ) -> Float[np.ndarray, "n a"]:
        """The action of the head that `chosen_heads` names, in environment units.   [CAPS].

        Spread over the steps that remain, what is left keeps its factor 1 - gamma^T where timeouts are bootstrapped,
        unlike in `discounted_limit`: with few steps left b / ((1 - gamma) T) is many times b, and a cost that comes at
        once would pass (on toy/Rain every limit was then overspent by 0.6).
        """
        states = to_tensor(seen(self.scales, observations))
        actions = self.network.heads(states)  # (n, h, a)
        rows = states[:, None].expand(-1, actions.shape[1], -1)
        said = self.network.critics(rows.flatten(0, 1), actions.flatten(0, 1))
        judged = least(said, ceilings_of(self.spec)).view(*actions.shape[:2], -1)
        chosen = chosen_heads(judged[..., 0], -judged[..., 1:], to_tensor(budgets))
        return self._code.decode(to_array(actions[torch.arange(len(actions)), chosen]))


class CAPSLearner(ActorCriticLearner[CAPSConfig, CAPSFamily]):
    """Critics of reward and costs, and the heads."""

    def _make(self) -> Mapping[str, Kept]:
        spec, config = self._spec, self._config
        self._critics = ImplicitQ(spec.observation_size, self._code.size, ceilings_of(spec), config)
        self._network = CAPSFamily.build(spec, config)
        self._network.critics = self._critics.critic.network
        self._actor = Part("heads", self._network.actor, config.learning_rate)
        return {**self._critics.kept(), "actor": self._actor}

    def _improve(self, batch: Transitions) -> Metrics:
        """Metrics: those of `ImplicitQ.improve` (gains: reward, then each cost negated), `actor_loss`, and `weight.0`,
        `weight.1`, ..., the mean weight of an action for each head."""  # noqa: D205, D209
        judged, metrics = self._critics.improve(batch, gains_of(batch))
        weights = head_weights(judged, self._config)
        loss = self._actor.descend(heads_loss(self._network.heads(batch.observations), batch.actions, weights))
        means = {f"weight.{i}": float(mean) for i, mean in enumerate(weights.mean(dim=0))}
        return {**metrics, "actor_loss": loss, **means}

    def policy(self) -> CAPSFamily:
        """The family so far."""
        return CAPSFamily(self._spec, self._config, self._observations, copy.deepcopy(self._network))


def head_weights(judged: Advantages, config: CAPSConfig) -> Float[Tensor, "B h"]:
    """How much each action counts for each of K heads: w_r, w_r + 2 k / (K - 1) w_c, ..., w_c.

    w_r = min(exp(beta A_r), largest), w_c the same of the costs' advantages, negated, in sum.   [CAPS]
    """
    advantages = (judged.advantage[:, 0], judged.advantage[:, 1:].sum(dim=1))
    reward, safety = (advantage_weights(one, config.temperature, config.largest_weight) for one in advantages)
    last = config.heads - 1
    between = [reward + 2.0 * k / last * safety for k in range(1, last)]
    return torch.stack([reward, *between, safety], dim=1)


def heads_loss(
    said: Float[Tensor, "B h a"], actions: Float[Tensor, "B a"], weights: Float[Tensor, "B h"]
) -> Float[Tensor, ""]:
    """Mean w_k |pi_k(s) - a|^2, summed over the heads: the likelihood of a normal of fixed spread."""
    return (weights * (said - actions[:, None]).square().sum(dim=-1)).mean(dim=0).sum()


def chosen_heads(
    rewards: Float[Tensor, "n h"], costs: Float[Tensor, "n h k"], budgets: Float[Tensor, "n k"]
) -> Int[Tensor, "n"]:
    """Of the heads whose costs are all under their budgets that of most reward; without one, that which misses least.

    What a head misses by is the largest excess of a cost over its budget, so for a single cost the least cost wins.
    """
    excess = (costs - budgets[:, None]).amax(dim=-1)
    fits = excess < 0.0
    best = torch.where(fits, rewards, -torch.inf).argmax(dim=1)
    return torch.where(fits.any(dim=1), best, excess.argmin(dim=1))
