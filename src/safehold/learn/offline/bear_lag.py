"""BEAR-Lag: the most promising actions among those that the log supports, with limits on what they cost.

[BEAR, Kumar et al., arXiv 1906.00949, Alg. 1], made to heed limits as [OSRL, algorithms/bearl.py] does.
"""

import copy
from collections.abc import Mapping

import torch
from jaxtyping import Float
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from safehold.learn.actions import box_of
from safehold.learn.learner import Metrics
from safehold.learn.multiplier import LogMultiplier
from safehold.learn.offline.actor_critic import ActorCriticLearner, ModePolicy, backed_up, critic_loss
from safehold.learn.offline.behaviour_model import behaviour_loss, behaviour_model, likely_codes, reconstruction
from safehold.learn.offline.lagrangian import (
    LagrangianConfig,
    Multipliers,
    best,
    lagrangian,
    mixed,
    value_metrics,
)
from safehold.learn.parts import Kept, Part, SlowCopy
from safehold.learn.transitions import Transitions
from safehold.nn.ensemble import Critics
from safehold.nn.randomness import drawn_generator
from safehold.nn.tensors import AT_A_TIME, in_parts

KIND = "bear-lag"


class BEARLagConfig(LagrangianConfig):
    """Bootstrapping error accumulation reduction with multipliers."""

    matched: PositiveInt = 10
    """Actions of the policy and of the behaviour model that are compared at an observation."""
    kernel_width: PositiveFloat = 50.0
    """Width sigma of the Gaussian kernel exp(-|x - y|^2 / (2 sigma)) that actions before the tanh are compared by."""
    discrepancy: PositiveFloat = 0.05
    """Largest mean discrepancy epsilon between the policy's actions and the behaviour model's."""
    dual_learning_rate: PositiveFloat = 1e-3
    """Step size of the discrepancy's multiplier alpha, in its logarithm."""


PRESETS: Mapping[str, BEARLagConfig] = {
    "published": BEARLagConfig(timeouts="terminal", choice="largest", steps=300_000),
    "small": BEARLagConfig(hidden=(128, 128), autoencoder_hidden=(128, 128), critics=1, batch_size=256, steps=10_000),
}
"""`published`: OSRL's `bearl_configs.py` (200,000 steps on MetaDrive); `small`: minutes on one core."""


class BEARLagPolicy(ModePolicy[BEARLagConfig]):
    """The mode of the actor."""

    kind = KIND
    config_type = BEARLagConfig


class BEARLagLearner(ActorCriticLearner[BEARLagConfig, BEARLagPolicy]):
    """Behaviour model, critics, actor and multipliers, all in every update."""

    def _make(self) -> Mapping[str, Kept]:
        config, spec = self._config, self._spec
        generator = drawn_generator()
        network = BEARLagPolicy.build(spec, config)
        autoencoder = behaviour_model(spec, config, generator)
        critics = Critics(
            spec.observation_size,
            box_of(spec).size,
            members=2 * config.critics,
            signals=1 + len(spec.cost_names),
            hidden=config.hidden,
            generator=generator,
        )
        self._autoencoder = Part("behaviour model", autoencoder, config.autoencoder_learning_rate)
        self._critics = Part("critics", critics, config.critic_learning_rate)
        self._actor = Part("actor", network, config.actor_learning_rate)
        self._slow_critics = SlowCopy(critics, config.target_rate)
        self._slow_actor = SlowCopy(network, config.target_rate)
        self._multipliers = Multipliers(spec, config)
        self._alpha = LogMultiplier(1, config.dual_learning_rate)
        return {
            "autoencoder": self._autoencoder,
            "critics": self._critics,
            "actor": self._actor,
            "slow_critics": self._slow_critics,
            "slow_actor": self._slow_actor,
            "multipliers": self._multipliers,
            "alpha": self._alpha,
        }

    def _improve(self, batch: Transitions) -> Metrics:
        """One update of every part.

        Metrics: `behaviour_loss`, `critic_loss` and `actor_loss`; `discrepancy` and `alpha`, its multiplier; what the
        critics say of the actor's actions, in the mean over the batch, `reward_value` in scaled reward units and
        `cost_value.NAME`; and `multiplier.NAME`.
        """
        config, autoencoder = self._config, self._autoencoder.network
        decoded, code = reconstruction(autoencoder, batch, self._generator)
        behaviour = self._autoencoder.descend(behaviour_loss(decoded, batch.actions, code, config.divergence_weight))
        followed = self._followed(batch.next_observations)
        wanted = backed_up(batch, followed, config.discount)
        said = self._critics.network(batch.observations, batch.actions)
        critics = self._critics.descend(critic_loss(said, wanted))
        ours, theirs = self._matched(batch.observations)
        discrepancy = maximum_mean_discrepancy(theirs, ours, config.kernel_width)
        values = self._critics.network.least(batch.observations, torch.tanh(ours[:, 0]), learn=False)
        multipliers = self._multipliers.update((followed if config.choice == "best" else values)[:, 1:])
        gain = lagrangian(values, self._multipliers.thresholds, multipliers).mean()
        excess = discrepancy.mean() - config.discrepancy
        actor = self._actor.descend(self._alpha.values[0] * excess - gain)
        self._alpha.rise(excess.detach()[None])
        self._slow_critics.follow()
        self._slow_actor.follow()
        return {
            "behaviour_loss": behaviour,
            "critic_loss": critics,
            "actor_loss": actor,
            "discrepancy": discrepancy.mean().item(),
            "alpha": self._alpha.values[0].item(),
            **value_metrics(self._spec, values, multipliers),
        }

    def _followed(self, observations: Float[Tensor, "B o"]) -> Float[Tensor, "B s"]:
        """What the slow copies say of the candidates that count at observations."""
        candidates = in_parts(self._promised, observations, size=AT_A_TIME // self._config.candidates + 1)
        if self._config.choice == "largest":
            return candidates.amax(dim=1)
        return best(candidates, self._multipliers.values)

    def _promised(self, observations: Float[Tensor, "n o"]) -> Float[Tensor, "n d s"]:
        """What the slow copies say of actions that the slow actor would take."""
        drawn = self._config.candidates
        actions = torch.tanh(self._slow_actor.network(observations).inner.repeated(drawn).sample(self._generator))
        rows = observations.repeat_interleave(drawn, dim=0)
        values = mixed(self._slow_critics.network(rows, actions), self._config.least_share)
        return values.reshape(len(observations), drawn, -1)

    def _matched(self, observations: Float[Tensor, "B o"]) -> tuple[Float[Tensor, "B n a"], Float[Tensor, "B n a"]]:
        """Actions before the tanh: the actor's, and the behaviour model's."""
        model, drawn = self._autoencoder.network, self._config.matched
        ours = self._actor.network(observations).inner.repeated(drawn).sample(self._generator)
        rows = observations.repeat_interleave(drawn, dim=0)
        theirs = in_parts(model.raw, rows, likely_codes(model, len(rows), self._generator))
        shape = (len(observations), drawn, -1)
        return ours.reshape(shape), theirs.reshape(shape)

    def policy(self) -> BEARLagPolicy:
        """The policy so far."""
        return BEARLagPolicy(self._spec, self._config, self._observations, copy.deepcopy(self._actor.network))


def maximum_mean_discrepancy(
    first: Float[Tensor, "B n a"], second: Float[Tensor, "B n a"], width: float
) -> Float[Tensor, "B"]:
    """How far apart the distributions are that two samples come from, an observation each.

    MMD^2 = mean k(x, x') + mean k(y, y') - 2 mean k(x, y), k(x, y) = exp(-|x - y|^2 / (2 width)), with pairs of a
    number and itself; the root is taken of MMD^2 + 1e-6, whose slope is finite at 0.   [BEAR, its sampled MMD; OSRL]
    """

    def likeness(a: Float[Tensor, "B n a"], b: Float[Tensor, "B n a"]) -> Float[Tensor, "B"]:
        distances = (a.unsqueeze(2) - b.unsqueeze(1)).square().sum(dim=-1)
        return torch.exp(-distances / (2.0 * width)).mean(dim=(1, 2))

    square = likeness(first, first) + likeness(second, second) - 2.0 * likeness(first, second)
    return torch.sqrt(square + 1e-6)
