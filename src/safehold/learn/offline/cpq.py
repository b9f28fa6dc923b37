"""CPQ: Q-learning in which what is unsafe, or not in the log, is worth nothing.

[CPQ, Xu et al., arXiv 2107.09003, Alg. 1; OSRL, algorithms/cpq.py]
"""

import copy
from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from safehold.learn.actions import box_of
from safehold.learn.learner import Metrics
from safehold.learn.multiplier import LogMultiplier
from safehold.learn.offline.actor_critic import (
    ActorCriticLearner,
    ModePolicy,
    backed_up,
    critic_loss,
    thresholds,
)
from safehold.learn.offline.behaviour_model import BehaviourConfig, behaviour_loss, behaviour_model, reconstruction
from safehold.learn.parts import Kept, Part, SlowCopy
from safehold.learn.transitions import Transitions
from safehold.nn.ensemble import Critics
from safehold.nn.randomness import drawn_generator
from safehold.nn.tensors import in_parts, to_tensor
from safehold.nn.variational import divergence_from_prior

KIND = "cpq"


class CPQConfig(BehaviourConfig):
    """Constraints penalised Q-learning."""

    reward_scale: PositiveFloat = 0.1
    """What rewards are multiplied by. Rewards should be >= 0: what is unsafe counts 0, more than a negative value."""
    critics: PositiveInt = 2
    """Networks of a signal; the smallest of them is the critic's word."""
    candidates: PositiveInt = 10
    """Actions of the policy at an observation among which unknown ones are looked for."""
    unknown_share: float = Field(default=0.25, gt=0.0, lt=1.0)
    """Share of those actions that counts as unknown: the ones whose codes are furthest from the prior."""
    unknown_cost: PositiveFloat = 1.5
    """What unknown actions should cost, in the mean over all actions drawn, as a multiple of the threshold."""
    unknown_gradient: Literal["critic", "osrl"] = "critic"
    """What is said of unknown actions: "critic" by the critics, which learn from it; "osrl" by their slow copies, which
    do not, so that unknown actions move the multiplier alone."""
    unsafe_action: Literal["cheaper", "ignored"] = "cheaper"
    """What the actor makes of an action of its own that breaks a threshold: "cheaper" lowers what it costs; "ignored"
    does nothing, as the paper and OSRL have it: an actor that is unsafe everywhere then stays so."""
    dual_learning_rate: PositiveFloat = 1e-4
    """Step size of the multiplier alpha of unknown actions' cost, in its logarithm."""
    actor_learning_rate: PositiveFloat = 1e-4
    """Step size of the actor's Adam."""
    critic_learning_rate: PositiveFloat = 1e-3
    """Step size of the critics' Adam."""


PRESETS: Mapping[str, CPQConfig] = {
    "published": CPQConfig(timeouts="terminal", unsafe_action="ignored"),
    "osrl": CPQConfig(timeouts="terminal", unsafe_action="ignored", unknown_gradient="osrl"),
    "small": CPQConfig(
        hidden=(128, 128),
        autoencoder_hidden=(128, 128),
        unknown_gradient="osrl",
        actor_learning_rate=3e-4,
        batch_size=256,
        steps=10_000,
    ),
}
"""`published`: OSRL's `cpq_configs.py`; `osrl`: the same with OSRL's unknown actions; `small`: minutes on one core."""


class CPQPolicy(ModePolicy[CPQConfig]):
    """The mode of the actor."""

    kind = KIND
    config_type = CPQConfig


class CPQLearner(ActorCriticLearner[CPQConfig, CPQPolicy]):
    """Behaviour model, critics, actor, and what unknown actions should cost, all in every update."""

    def _make(self) -> Mapping[str, Kept]:
        config, spec = self._config, self._spec
        observations, actions, costs = spec.observation_size, box_of(spec).size, len(spec.cost_names)
        generator = drawn_generator()
        network = CPQPolicy.build(spec, config)
        autoencoder = behaviour_model(spec, config, generator)
        critics = Critics(
            observations, actions, members=config.critics, signals=1 + costs, hidden=config.hidden, generator=generator
        )
        self._thresholds = to_tensor(thresholds(spec, config))
        self._autoencoder = Part("behaviour model", autoencoder, config.autoencoder_learning_rate)
        self._critics = Part("critics", critics, config.critic_learning_rate)
        self._actor = Part("actor", network, config.actor_learning_rate)
        self._slow_critics = SlowCopy(critics, config.target_rate)
        self._alpha = LogMultiplier(costs, config.dual_learning_rate)
        return {
            "autoencoder": self._autoencoder,
            "critics": self._critics,
            "actor": self._actor,
            "slow_critics": self._slow_critics,
            "alpha": self._alpha,
        }

    def _improve(self, batch: Transitions) -> Metrics:
        """One update of every part.

        Metrics: `behaviour_loss`, `critic_loss` and `actor_loss`; `reward_value` in scaled reward units and
        `cost_value.NAME`, what the critics say of the actor's actions in the mean over the batch, and `safe`, the share
        of them that keeps every threshold; `unknown_cost.NAME` and its multiplier `alpha.NAME`.
        """
        config = self._config
        decoded, code = reconstruction(self._autoencoder.network, batch, self._generator)
        behaviour = self._autoencoder.descend(behaviour_loss(decoded, batch.actions, code, config.divergence_weight))
        wanted = self._wanted(batch)
        unknown = self._unknown_cost(batch.observations)
        said = self._critics.network(batch.observations, batch.actions)
        wished = config.unknown_cost * self._thresholds
        critics = self._critics.descend(penalised_critic_loss(said, wanted, unknown, wished, self._alpha.values))
        self._alpha.rise(wished - unknown.detach())
        actions, _ = self._actor.network(batch.observations).sample_with_log_density(self._generator)
        values = self._critics.network.least(batch.observations, actions, learn=False)
        safe = within(values[:, 1:], self._thresholds)
        actor = self._actor.descend(-penalised_gain(values, safe, config.unsafe_action).mean())
        self._slow_critics.follow()
        reward, *costs = values.detach().mean(dim=0).tolist()
        metrics = {"behaviour_loss": behaviour, "critic_loss": critics, "actor_loss": actor, "reward_value": reward}
        numbers = zip(self._spec.cost_names, costs, unknown.tolist(), self._alpha.values.tolist(), strict=True)
        for name, cost, of_unknown, alpha in numbers:
            metrics |= {f"cost_value.{name}": cost, f"unknown_cost.{name}": of_unknown, f"alpha.{name}": alpha}
        return {**metrics, "safe": safe.float().mean().item()}

    @torch.no_grad()
    def _wanted(self, batch: Transitions) -> Float[Tensor, "B s"]:
        """What the critics are fitted to."""
        actions, _ = self._actor.network(batch.next_observations).sample_with_log_density(self._generator)
        values = self._slow_critics.network.least(batch.next_observations, actions)
        return penalised(batch, values, self._thresholds, self._config.discount)

    def _unknown_cost(self, observations: Float[Tensor, "B o"]) -> Float[Tensor, "k"]:
        """What critics say of the policy's actions that the log does not know, a mean over all that were drawn."""
        config = self._config
        with torch.no_grad():
            rows = observations.repeat_interleave(config.candidates, dim=0)
            inner = self._actor.network(observations).inner.repeated(config.candidates)
            drawn = torch.tanh(inner.sample(self._generator))
            unknown = furthest(in_parts(self._strangeness, rows, drawn), config.unknown_share)
            few, acted = rows[unknown], drawn[unknown]
            if config.unknown_gradient == "osrl":
                return self._slow_critics.network.least(few, acted)[:, 1:].sum(dim=0) / len(rows)
        return self._critics.network.least(few, acted)[:, 1:].sum(dim=0) / len(rows)

    def _strangeness(self, observations: Float[Tensor, "n o"], actions: Float[Tensor, "n a"]) -> Float[Tensor, "n"]:
        """How far actions' codes are from the prior."""
        return divergence_from_prior(self._autoencoder.network.encode(observations, actions))

    def policy(self) -> CPQPolicy:
        """The policy so far."""
        return CPQPolicy(self._spec, self._config, self._observations, copy.deepcopy(self._actor.network))


def within(costs: Float[Tensor, "B k"], limits: Float[Tensor, "k"]) -> Bool[Tensor, "B"]:
    """The indicator 1[Q_c(s, a) <= l], of every cost at once."""
    return (costs <= limits).all(dim=-1)


def penalised(
    batch: Transitions, values: Float[Tensor, "B s"], limits: Float[Tensor, "k"], discount: float
) -> Float[Tensor, "B s"]:
    """What critics are fitted to: the constraints penalised Bellman operator, and the plain one for costs.

    r + gamma 1[Q_c(s', a') <= l] Q_r(s', a')  and  c + gamma Q_c(s', a'), a' the policy's; nothing follows an end.
    [CPQ, Sec. "Constraints Penalized Q-Learning"]
    """
    safe = within(values[:, 1:], limits)[:, None]
    counted = torch.cat([safe * values[:, :1], values[:, 1:]], dim=-1)
    return backed_up(batch, counted, discount)


def penalised_gain(
    values: Float[Tensor, "B s"], safe: Bool[Tensor, "B"], unsafe_action: Literal["cheaper", "ignored"]
) -> Float[Tensor, "B"]:
    """What the actor raises: 1[Q_c(s, a) <= l] Q_r(s, a).   [CPQ, policy improvement].

    Unlike [CPQ], "cheaper" takes off sum_j Q_cj(s, a) where the indicator is 0 and leaves an actor no slope.
    """
    instead = -values[:, 1:].sum(dim=-1) if unsafe_action == "cheaper" else torch.zeros_like(values[:, 0])
    return torch.where(safe, values[:, 0], instead)


def furthest(divergence: Float[Tensor, "n"], share: float) -> Bool[Tensor, "n"]:
    """Which codes are furthest from the prior: those at or above the quantile 1 - share.   [CPQ; OSRL, 0.75]."""
    return divergence >= torch.quantile(divergence, 1.0 - share)


def penalised_critic_loss(
    said: Float[Tensor, "B m s"],
    wanted: Float[Tensor, "B s"],
    unknown: Float[Tensor, "k"],
    wished: Float[Tensor, "k"],
    alpha: Float[Tensor, "k"],
) -> Float[Tensor, ""]:
    """Squared errors less sum_j alpha_j (Q_cj(unknown actions) - wished_j).   [CPQ, cost critic's loss]."""
    return critic_loss(said, wanted) - (alpha * (unknown - wished)).sum()
