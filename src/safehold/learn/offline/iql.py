"""Implicit Q-learning without a constraint: the reference for how much reward a log holds.   [arXiv 2110.06169]."""

import copy
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from pydantic import PositiveFloat
from torch import Tensor

from safehold.core.config import Config
from safehold.core.spec import TaskSpec
from safehold.learn.actions import box_of
from safehold.learn.learner import Metrics
from safehold.learn.offline.actor_critic import ActorCriticLearner, ActorPolicy
from safehold.learn.offline.implicit_q import ImplicitQ, ImplicitQConfig, advantage_weights
from safehold.learn.parts import Kept, Part
from safehold.learn.transitions import Transitions
from safehold.nn.actors import GaussianActor
from safehold.nn.distributions import DiagonalGaussian
from safehold.nn.randomness import drawn_generator

KIND = "iql"

LOG_SD_RANGE = (-5.0, 2.0)
"""Of the actor, as in the published code."""


class IQLConfig(ImplicitQConfig):
    """Implicit Q-learning, of the reward alone."""

    temperature: PositiveFloat = 3.0
    """Inverse temperature beta: how much likelier an action becomes for an advantage, in scaled reward units."""
    largest_weight: PositiveFloat = 100.0
    """No logged action counts more than this many times an average one."""
    actor_learning_rate: PositiveFloat = 3e-4
    """Step size of Adam for the actor."""


PRESETS: Mapping[str, IQLConfig] = {
    "published": IQLConfig(),
    "small": IQLConfig(hidden=(128, 128), batch_size=256, steps=10_000),
}
"""`published`: [IQL, Sec. 5] for locomotion; `small`: minutes on two cores."""


class IQLPolicy(ActorPolicy[IQLConfig, GaussianActor]):
    """The mean of what was learnt."""

    kind: ClassVar[str] = KIND
    config_type: ClassVar[type[Config]] = IQLConfig

    @classmethod
    def build(cls, spec: TaskSpec, config: IQLConfig) -> GaussianActor:
        """An actor with fresh weights."""
        return GaussianActor(
            spec.observation_size,
            box_of(spec).size,
            config.hidden,
            log_sd_range=LOG_SD_RANGE,
            generator=drawn_generator(),
        )

    def codes(self, observations: Float[Tensor, "n o"], rng: np.random.Generator) -> Float[Tensor, "n a"]:  # noqa: ARG002
        """The mean action; nothing is drawn."""
        return self.network(observations).mean


class IQLLearner(ActorCriticLearner[IQLConfig, IQLPolicy]):
    """Values, critics, and an actor that imitates the better of the logged actions."""

    def _make(self) -> Mapping[str, Kept]:
        ceilings = torch.tensor([torch.inf])
        self._critics = ImplicitQ(self._spec.observation_size, self._code.size, ceilings, self._config)
        self._actor = Part("actor", IQLPolicy.build(self._spec, self._config), self._config.actor_learning_rate)
        return {**self._critics.kept(), "actor": self._actor}

    def _improve(self, batch: Transitions) -> Metrics:
        """Metrics: those of `ImplicitQ.improve`, `actor_loss`, and `weight`, the mean of the actions' weights."""
        config = self._config
        judged, metrics = self._critics.improve(batch, batch.rewards[:, None])
        weights = advantage_weights(judged.advantage[:, 0], config.temperature, config.largest_weight)
        loss = self._actor.descend(
            weighted_likelihood_loss(self._actor.network(batch.observations), batch.actions, weights)
        )
        return {**metrics, "actor_loss": loss, "weight": float(weights.mean())}

    def policy(self) -> IQLPolicy:
        """The actor so far."""
        return IQLPolicy(self._spec, self._config, self._observations, copy.deepcopy(self._actor.network))


def weighted_likelihood_loss(
    said: DiagonalGaussian, actions: Float[Tensor, "B a"], weights: Float[Tensor, "B"]
) -> Float[Tensor, ""]:
    """-mean w log pi(a | s), w = min(exp(beta A), largest).   [IQL, L_pi]."""
    return -(weights * said.log_density(actions)).mean()
