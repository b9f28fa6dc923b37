"""BCQ-Lag: actions that the log might hold, moved a little towards more reward and less cost.

[BCQ, Fujimoto et al., arXiv 1812.02900, Alg. 1], made to heed limits as [OSRL, algorithms/bcql.py] does.
"""

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from safehold.core.spec import TaskSpec
from safehold.learn.actions import box_of
from safehold.learn.learner import Metrics
from safehold.learn.offline.actor_critic import ActorCriticLearner, ActorPolicy, backed_up, critic_loss
from safehold.learn.offline.behaviour_model import (
    CODE_CLIP,
    behaviour_loss,
    behaviour_model,
    likely_codes,
    reconstruction,
)
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
from safehold.nn.mlp import mlp
from safehold.nn.randomness import drawn_generator
from safehold.nn.tensors import in_parts, to_tensor

KIND = "bcq-lag"


class BCQLagConfig(LagrangianConfig):
    """Batch-constrained Q-learning with multipliers."""

    reach: float = Field(default=0.05, gt=0.0, le=2.0)
    """How far a decoded action may be moved, phi, in half ranges of the action; 2 is anywhere."""
    acting_candidates: PositiveInt = 1
    """Actions drawn when the policy acts, of which the one acts that the critics and the last multipliers think best;
    [BCQ, Alg. 1] draws 10 and looks at the reward alone, OSRL takes the first."""


PRESETS: Mapping[str, BCQLagConfig] = {
    "published": BCQLagConfig(timeouts="terminal", choice="largest"),
    "small": BCQLagConfig(
        hidden=(128, 128),
        autoencoder_hidden=(128, 128),
        critics=1,
        acting_candidates=10,
        batch_size=256,
        steps=10_000,
    ),
}
"""`published`: OSRL's `bcql_configs.py`; `small`: minutes on one core."""


class Perturbation(nn.Module):
    """xi(o, a): a moved by at most `reach`, and kept inside [-1, 1].   [BCQ, perturbation model]."""

    def __init__(
        self, observations: int, actions: int, hidden: Sequence[int], reach: float, *, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.perceptron = mlp((observations + actions, *hidden, actions), generator=generator, output_gain=0.01)
        self._reach = reach

    def forward(self, observations: Float[Tensor, "*B o"], actions: Float[Tensor, "*B a"]) -> Float[Tensor, "*B a"]:
        """The moved actions."""
        moves = torch.tanh(self.perceptron(torch.cat([observations, actions], dim=-1)))
        return (actions + self._reach * moves).clamp(-1.0, 1.0)


class BCQLagNetwork(nn.Module):
    """What acts: the behaviour model, its perturbation, and critics with the multipliers to choose by."""

    def __init__(self, spec: TaskSpec, config: BCQLagConfig) -> None:
        super().__init__()
        observations, actions, costs = spec.observation_size, box_of(spec).size, len(spec.cost_names)
        generator = drawn_generator()
        self.autoencoder = behaviour_model(spec, config, generator)
        self.actor = Perturbation(observations, actions, config.hidden, config.reach, generator=generator)
        self.critics = Critics(
            observations,
            actions,
            members=2 * config.critics,
            signals=1 + costs,
            hidden=config.hidden,
            generator=generator,
        )
        self.multipliers: Tensor
        self.register_buffer("multipliers", torch.zeros(costs))


class BCQLagPolicy(ActorPolicy[BCQLagConfig, BCQLagNetwork]):
    """Draws actions that the log might hold, moves them, and takes the best."""

    kind = KIND
    config_type = BCQLagConfig

    @classmethod
    def build(cls, spec: TaskSpec, config: BCQLagConfig) -> BCQLagNetwork:
        """Fresh networks."""
        return BCQLagNetwork(spec, config)

    def codes(self, observations: Float[Tensor, "n o"], rng: np.random.Generator) -> Float[Tensor, "n a"]:
        """The best of `acting_candidates` by Q_r - sum_j lambda_j Q_cj."""
        network, drawn = self.network, self.config.acting_candidates
        rows = observations.repeat_interleave(drawn, dim=0)
        noise = rng.standard_normal((len(rows), network.autoencoder.latent), dtype=np.float32)
        codes = to_tensor(noise).clamp(-CODE_CLIP, CODE_CLIP)
        actions = network.actor(rows, network.autoencoder.decode(rows, codes))
        if drawn == 1:
            return actions
        values = network.critics.least(rows, actions)
        scores = values[:, 0] - values[:, 1:] @ network.multipliers
        chosen = scores.reshape(-1, drawn).argmax(dim=1)
        return actions.reshape(len(chosen), drawn, -1)[torch.arange(len(chosen)), chosen]


class BCQLagLearner(ActorCriticLearner[BCQLagConfig, BCQLagPolicy]):
    """Behaviour model, critics, perturbation and multipliers, all in every update."""

    def _make(self) -> Mapping[str, Kept]:
        config = self._config
        network = BCQLagPolicy.build(self._spec, config)
        self._autoencoder = Part("behaviour model", network.autoencoder, config.autoencoder_learning_rate)
        self._critics = Part("critics", network.critics, config.critic_learning_rate)
        self._actor = Part("actor", network.actor, config.actor_learning_rate)
        self._slow_critics = SlowCopy(network.critics, config.target_rate)
        self._slow_actor = SlowCopy(network.actor, config.target_rate)
        self._multipliers = Multipliers(self._spec, config)
        self._network = network
        return {
            "autoencoder": self._autoencoder,
            "critics": self._critics,
            "actor": self._actor,
            "slow_critics": self._slow_critics,
            "slow_actor": self._slow_actor,
            "multipliers": self._multipliers,
        }

    def _improve(self, batch: Transitions) -> Metrics:
        """One update of every part.

        Metrics: `behaviour_loss`, `critic_loss` and `actor_loss`; what the critics say of the actor's actions, in the
        mean over the batch, `reward_value` in scaled reward units and `cost_value.NAME`; and `multiplier.NAME`.
        """
        config, network = self._config, self._network
        decoded, code = reconstruction(network.autoencoder, batch, self._generator)
        behaviour = self._autoencoder.descend(behaviour_loss(decoded, batch.actions, code, config.divergence_weight))
        followed = self._followed(batch.next_observations)
        wanted = backed_up(batch, followed, config.discount)
        critics = self._critics.descend(critic_loss(network.critics(batch.observations, batch.actions), wanted))
        values = network.critics.least(batch.observations, self._acts(batch.observations), learn=False)
        multipliers = self._multipliers.update((followed if config.choice == "best" else values)[:, 1:])
        actor = self._actor.descend(-lagrangian(values, self._multipliers.thresholds, multipliers).mean())
        self._slow_critics.follow()
        self._slow_actor.follow()
        return {
            "behaviour_loss": behaviour,
            "critic_loss": critics,
            "actor_loss": actor,
            **value_metrics(self._spec, values, multipliers),
        }

    def _followed(self, observations: Float[Tensor, "B o"]) -> Float[Tensor, "B s"]:
        """What the slow copies say of the candidates that count at observations."""
        model, drawn = self._network.autoencoder, self._config.candidates
        rows = observations.repeat_interleave(drawn, dim=0)
        values = in_parts(self._promised, rows, likely_codes(model, len(rows), self._generator))
        candidates = mixed(values, self._config.least_share).reshape(len(observations), drawn, -1)
        if self._config.choice == "largest":
            return candidates.amax(dim=1)
        return best(candidates, self._multipliers.values)

    def _promised(self, observations: Float[Tensor, "n o"], codes: Float[Tensor, "n z"]) -> Float[Tensor, "n m s"]:
        """What the slow copies say of actions that the log might hold, moved."""
        actions = self._slow_actor.network(observations, self._network.autoencoder.decode(observations, codes))
        values: Tensor = self._slow_critics.network(observations, actions)
        return values

    def _acts(self, observations: Float[Tensor, "B o"]) -> Float[Tensor, "B a"]:
        """An action that the log might hold at each observation, moved."""
        model = self._network.autoencoder
        with torch.no_grad():
            decoded = model.decode(observations, likely_codes(model, len(observations), self._generator))
        actions: Tensor = self._network.actor(observations, decoded)
        return actions

    def policy(self) -> BCQLagPolicy:
        """The policy so far."""
        network = copy.deepcopy(self._network)
        network.multipliers.copy_(self._multipliers.values)
        return BCQLagPolicy(self._spec, self._config, self._observations, network)
