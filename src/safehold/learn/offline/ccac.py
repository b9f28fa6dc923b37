"""CCAC: actor and critics that are told what may still be spent, and doubt what belongs to those who spend more.

Every logged step is one of a policy whose threshold was what the rest of its episode cost. Actor and critics see the
threshold beside the observation; a generator of (observation, action) pairs at a threshold, and a classifier of pairs
that only larger thresholds bring, tell where cost critics must not promise little.
[CCAC, Guo et al., ICLR 2025, openreview nrRkAAAufl; the authors' repository, BU-DEPEND-Lab/CCAC 4707c1f, Apache-2.0]
"""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from safehold.core.config import Config
from safehold.core.spec import TaskSpec
from safehold.data.dataset import OfflineDataset
from safehold.data.normalise import Normaliser
from safehold.learn.actions import box_of
from safehold.learn.gaussian_policy import OBSERVATION_CLIP
from safehold.learn.learner import Metrics
from safehold.learn.multiplier import LARGEST_LOG
from safehold.learn.offline.actor_critic import (
    LOG_SD_RANGE,
    ActorCriticConfig,
    ActorCriticLearner,
    backed_up,
    critic_loss,
    least,
    seen,
)
from safehold.learn.offline.behaviour_model import behaviour_loss
from safehold.learn.offline.limit_dial import LimitFamily
from safehold.learn.parts import Kept, Part, SlowCopy
from safehold.learn.transitions import Transitions
from safehold.nn.actors import TanhGaussianActor
from safehold.nn.ensemble import Critics
from safehold.nn.mlp import mlp
from safehold.nn.randomness import drawn_generator
from safehold.nn.tensors import to_array, to_tensor
from safehold.nn.variational import ConditionalAutoencoder

KIND = "ccac"

CODE_CLIP = 1.0
"""Codes that pairs are generated from are held inside plus or minus this, as in the authors' code."""
SMALLEST_LOG = -20.0
"""Of a multiplier, as in the authors' code."""


class CCACConfig(ActorCriticConfig):
    """Constraint-conditioned actor-critic."""

    timeouts: Literal["bootstrap", "terminal"] = "terminal"
    """What an episode that its clock ended is followed by: "terminal" by nothing, for what may still be spent is meant
    until the clock stops; "bootstrap" by more of the same, with nothing left to spend."""
    reward_scale: PositiveFloat = 0.1
    """What rewards are multiplied by."""
    thresholds: Literal["discounted", "sum"] = "discounted"
    """What the rest of an episode counts as: "discounted" as a critic counts it, so that both sides of Q_c <= kappa are
    of one unit; "sum" its plain sum, as published, of which a discounted critic sees a fraction in long episodes."""
    shown: Literal["drawn", "hindsight"] = "drawn"
    """Which threshold critics and actor see a logged step with: "hindsight" what the rest of its episode cost, as
    published, from which a cost critic can tell what follows without a look at the action; "drawn" that of another
    step, from which it cannot."""
    critics: PositiveInt = 4
    """Networks of a signal; the smallest of them is the critic's word."""
    side_hidden: tuple[PositiveInt, ...] = (512, 512)
    """Sizes of the hidden layers of generator, classifier and multipliers."""
    latent: PositiveInt = 64
    """Entries of a code of the generator."""
    divergence_weight: NonNegativeFloat = 0.5
    """Weight beta of the codes' divergence from their prior, a mean over entries."""
    doubt: float = Field(default=0.5, gt=0.0, lt=1.0)
    """Probability above which a generated pair counts as one of larger thresholds."""
    multiplier_decay: NonNegativeFloat = 0.01
    """Weight of the squared sizes of the multipliers' parameters in their losses."""
    warm_up: NonNegativeInt = 0
    """Of all gradient steps the first ones, in which only generator and classifier learn."""
    actor_learning_rate: PositiveFloat = 1e-4
    """Step size of the actor's Adam."""
    multiplier_learning_rate: PositiveFloat = 1e-4
    """Step size of Adam for the multipliers."""
    critic_learning_rate: PositiveFloat = 1e-3
    """Step size of the critics' Adam."""
    side_learning_rate: PositiveFloat = 1e-3
    """Step size of Adam for generator and classifier."""
    steps: PositiveInt = 200_000
    """Gradient steps."""

    @model_validator(mode="after")
    def _something_is_learnt(self) -> "CCACConfig":
        if self.warm_up >= self.steps:
            raise ValueError(f"warm_up {self.warm_up} leaves nothing of {self.steps} steps for actor and critics")
        return self


PRESETS: Mapping[str, CCACConfig] = {
    "published": CCACConfig(thresholds="sum", shown="hindsight", warm_up=200_000, steps=400_000),
    "small": CCACConfig(
        hidden=(128, 128),
        critics=2,
        side_hidden=(128, 128),
        latent=16,
        warm_up=1_000,
        actor_learning_rate=3e-4,
        batch_size=256,
        steps=10_000,
    ),
}
"""`published`: of the authors' `ccac_configs.py`, its warm-up included; `small`: minutes on one core."""


def with_thresholds(dataset: OfflineDataset, config: CCACConfig) -> OfflineDataset:
    """The same log, every observation with what the rest of its episode cost behind it, 0 after the last step.

    kappa_t = sum_i gamma^i c_(t+i) ("discounted"), or without the discount ("sum"), a column a cost.
    [CCAC, thresholds of the log in hindsight]
    """
    discount = threshold_discount(config)
    rows = dataset.offsets[:-1] + np.arange(len(dataset))
    rest: Float64[np.ndarray, "N_plus_E k"] = np.zeros((len(dataset.observations), dataset.costs.shape[1]))
    for step in reversed(range(int(dataset.lengths.max()))):
        alive = dataset.lengths > step
        here = rows[alive] + step
        rest[here] = dataset.costs[dataset.offsets[:-1][alive] + step] + discount * rest[here + 1]
    return replace(
        dataset,
        spec=replace(dataset.spec, observation_size=dataset.spec.observation_size + rest.shape[1]),
        observations=np.concatenate([dataset.observations, rest.astype(np.float32)], axis=1),
    )


def threshold_discount(config: CCACConfig) -> float:
    """Weight of the next step's threshold against this one's: kappa_t = c_t + gamma kappa_(t+1)."""
    return config.discount if config.thresholds == "discounted" else 1.0


class CCACFamily(LimitFamily[CCACConfig, TanhGaussianActor]):
    """Policies with a dial for the limits, as the actor was told of thresholds; acts by the mode."""

    kind: ClassVar[str] = KIND
    config_type: ClassVar[type[Config]] = CCACConfig

    @classmethod
    def scales_of(cls, plain: Mapping[str, Any], spec: TaskSpec, config: CCACConfig) -> Normaliser:  # noqa: ARG003
        """The normaliser of observations and thresholds."""
        return Normaliser.of_json(plain, spec.observation_size + len(spec.cost_names))

    @classmethod
    def build(cls, spec: TaskSpec, config: CCACConfig) -> TanhGaussianActor:
        """A fresh actor."""
        inputs, generator = spec.observation_size + len(spec.cost_names), drawn_generator()
        return TanhGaussianActor(
            inputs, box_of(spec).size, config.hidden, log_sd_range=LOG_SD_RANGE, generator=generator
        )

    def budgets(self, left: Float[np.ndarray, "n k"], remaining: int) -> Float[np.ndarray, "n k"]:
        """The thresholds that the actor is told: what is left as the log's thresholds count it, never below 0."""
        spread = super().budgets(left, remaining) if self.config.thresholds == "discounted" else left
        return np.maximum(spread, 0.0)

    @torch.inference_mode()
    def choose(
        self, observations: Float[np.ndarray, "n o"], budgets: Float[np.ndarray, "n k"]
    ) -> Float[np.ndarray, "n a"]:
        """The mode at observations and thresholds, in environment units."""
        rows = seen(self.scales, np.concatenate([observations, budgets], axis=1))
        return self._code.decode(to_array(self.network(to_tensor(rows)).mode()))


class Multipliers(nn.Module):
    """lambda_j(kappa) = exp(perceptron(kappa)), between e^-20 and e^5: a multiplier of each cost at every threshold."""

    def __init__(self, costs: int, config: CCACConfig) -> None:
        super().__init__()
        self.perceptron = mlp(
            (costs, *config.side_hidden, costs), generator=drawn_generator(), activation=nn.ReLU, output_gain=0.01
        )

    def forward(self, thresholds: Float[Tensor, "B k"]) -> Float[Tensor, "B k"]:
        """Multipliers at normalised thresholds, in scaled reward units per cost unit."""
        said: Tensor = self.perceptron(thresholds)
        # at a bound the slope stays, as in the authors' code: a multiplier that has none would never come back
        return torch.exp(said + (said.clamp(SMALLEST_LOG, LARGEST_LOG) - said).detach())

    def size(self) -> Float[Tensor, ""]:
        """Sum of its squared parameters."""
        return torch.stack([parameter.square().sum() for parameter in self.parameters()]).sum()


class CCACLearner(ActorCriticLearner[CCACConfig, CCACFamily]):
    """Generator and classifier, critics with their multipliers, actor with its own; in this order, in every update.

    Args:
        spec: the task; its actions must be continuous.
        observations: normalises observations with thresholds behind them, as `with_thresholds` puts them.
        config: hyper-parameters.
        seed: of the weights, and of what updates draw.
    """

    def _make(self) -> Mapping[str, Kept]:
        spec, config = self._spec, self._config
        observations, actions, costs = spec.observation_size, self._code.size, len(spec.cost_names)
        pairs, generator, side = observations + actions, drawn_generator(), config.side_hidden
        autoencoder = ConditionalAutoencoder(costs, pairs, config.latent, side, generator=generator)
        classifier = mlp((pairs + costs, *side, costs), generator=generator, activation=nn.ReLU, output_gain=0.01)
        critics = Critics(
            observations + costs,
            actions,
            members=config.critics,
            signals=1 + costs,
            hidden=config.hidden,
            generator=generator,
        )
        self._generates = Part("generator", autoencoder, config.side_learning_rate)
        self._classifier = Part("classifier", classifier, config.side_learning_rate)
        self._critics = Part("critics", critics, config.critic_learning_rate)
        self._slow_critics = SlowCopy(critics, config.target_rate)
        self._actor = Part("actor", CCACFamily.build(spec, config), config.actor_learning_rate)
        self._doubts = Part("critics' multipliers", Multipliers(costs, config), config.multiplier_learning_rate)
        self._prices = Part("actor's multipliers", Multipliers(costs, config), config.multiplier_learning_rate)
        return {
            "generator": self._generates,
            "classifier": self._classifier,
            "critics": self._critics,
            "slow_critics": self._slow_critics,
            "actor": self._actor,
            "doubts": self._doubts,
            "prices": self._prices,
        }

    def _improve(self, batch: Transitions) -> Metrics:
        """One update of every part; of generator and classifier alone in the warm-up.

        Metrics: `generator_loss`, `classifier_loss`; then `critic_loss`, `actor_loss`, `reward_value` (of the actor's
        actions, in scaled reward units), and of each cost `cost_value.NAME`, `threshold.NAME` (the batch's mean),
        `multiplier.NAME`, and of generated pairs `doubted.NAME`, the share of them, and `doubt.NAME`, their multiplier.
        """
        metrics = self._model(batch, *self._told(batch.observations))
        if self._updates < self._config.warm_up:
            return metrics
        batch = self._reshown(batch) if self._config.shown == "drawn" else batch
        told, thresholds = self._told(batch.observations)
        pairs, beyond = self._generated(told)
        metrics |= self._criticise(batch, pairs, told, thresholds, beyond)
        metrics |= self._act(batch.observations, told, thresholds)
        self._slow_critics.follow()
        return metrics

    def _told(self, rows: Float[Tensor, "B o_plus_k"]) -> tuple[Float[Tensor, "B k"], Float[Tensor, "B k"]]:
        """The thresholds behind observations: normalised, and in cost units."""
        size, scales = self._spec.observation_size, self._observations
        mean, sd = (to_tensor(values[size:]) for values in (scales.mean, scales.std))
        told = rows[:, size:]
        return told, told * sd + mean

    def _reshown(self, batch: Transitions) -> Transitions:
        """The same steps with thresholds of others: kappa, and max(0, kappa - c) / gamma at the next observation."""
        size, scales = self._spec.observation_size, self._observations
        told, thresholds = self._told(batch.observations)
        drawn = torch.randperm(len(told), generator=self._generator)
        left = (thresholds[drawn] - batch.costs).clamp(min=0.0) / threshold_discount(self._config)
        mean, sd, constant = (to_tensor(each[size:]) for each in (scales.mean, scales.std, scales.constant))
        then = torch.where(constant, 0.0, (left - mean) / sd).clamp(-OBSERVATION_CLIP, OBSERVATION_CLIP)
        return replace(
            batch,
            observations=torch.cat([batch.observations[:, :size], told[drawn]], dim=1),
            next_observations=torch.cat([batch.next_observations[:, :size], then], dim=1),
        )

    def _model(
        self, batch: Transitions, told: Float[Tensor, "B k"], thresholds: Float[Tensor, "B k"]
    ) -> dict[str, float]:
        """One update of generator and classifier; the classifier is asked about the first row's threshold."""
        autoencoder = self._generates.network
        pairs = torch.cat([batch.observations[:, : self._spec.observation_size], batch.actions], dim=1)
        code = autoencoder.encode(told, pairs)
        again = autoencoder.raw(told, code.sample(self._generator))
        generator = self._generates.descend(behaviour_loss(again, pairs, code, self._config.divergence_weight))
        asked = told[:1].expand_as(told)
        rows = torch.cat([torch.cat([each, asked], dim=1) for each in (pairs, again.detach())])
        labels = spends_more(thresholds, thresholds[0]).repeat(2, 1)
        classifier = self._classifier.descend(classifier_loss(self._classifier.network(rows), labels))
        return {"generator_loss": generator, "classifier_loss": classifier}

    @torch.no_grad()
    def _generated(self, told: Float[Tensor, "B k"]) -> tuple[Float[Tensor, "B o_plus_a"], Bool[Tensor, "B k"]]:
        """Pairs drawn at the batch's thresholds, and for which cost each is one of larger thresholds."""
        autoencoder, size = self._generates.network, self._spec.observation_size
        codes = torch.randn(len(told), autoencoder.latent, generator=self._generator).clamp_(-CODE_CLIP, CODE_CLIP)
        drawn = autoencoder.raw(told, codes)
        observations = drawn[:, :size].clamp(-OBSERVATION_CLIP, OBSERVATION_CLIP)
        pairs = torch.cat([observations, drawn[:, size:].clamp(-1.0, 1.0)], dim=1)
        said = self._classifier.network(torch.cat([pairs, told], dim=1))
        return pairs, torch.sigmoid(said) > self._config.doubt

    def _criticise(
        self,
        batch: Transitions,
        pairs: Float[Tensor, "B o_plus_a"],
        told: Float[Tensor, "B k"],
        thresholds: Float[Tensor, "B k"],
        beyond: Bool[Tensor, "B k"],
    ) -> dict[str, float]:
        """One update of the critics and of their multipliers."""
        config, critics, size = self._config, self._critics.network, self._spec.observation_size
        with torch.no_grad():
            following, _ = self._actor.network(batch.next_observations).sample_with_log_density(self._generator)
            values = judged(self._slow_critics.network(batch.next_observations, following))
            wanted = backed_up(batch, values, config.discount)
        said = critics(batch.observations, batch.actions)
        doubted = beyond.any(dim=1)
        states, actions = pairs[doubted].tensor_split([size], dim=1)
        costs = least(critics(torch.cat([states, told[doubted]], dim=1), actions))[:, 1:]
        weights = self._doubts.network(told[doubted])
        kept, where = thresholds[doubted], beyond[doubted]
        loss = critic_loss(said, wanted) - priced_excess(costs, kept, weights.detach(), where)
        metrics = {"critic_loss": self._critics.descend(loss)}
        excess = priced_excess(costs.detach(), kept, weights, where)
        self._doubts.descend(excess + config.multiplier_decay * self._doubts.network.size())
        share, weight = beyond.float().mean(dim=0).tolist(), masked_mean(weights.detach(), where).tolist()
        for name, of_pairs, doubt in zip(self._spec.cost_names, share, weight, strict=True):
            metrics |= {f"doubted.{name}": of_pairs, f"doubt.{name}": doubt}
        return metrics

    def _act(
        self, rows: Float[Tensor, "B o_plus_k"], told: Float[Tensor, "B k"], thresholds: Float[Tensor, "B k"]
    ) -> dict[str, float]:
        """One update of the actor and of its multipliers."""
        config, every = self._config, torch.ones_like(thresholds, dtype=torch.bool)
        actions, _ = self._actor.network(rows).sample_with_log_density(self._generator)
        values = judged(self._critics.network(rows, actions))
        weights, costs = self._prices.network(told), values[:, 1:]
        loss = priced_excess(costs, thresholds, weights.detach(), every) - values[:, 0].mean()
        metrics = {"actor_loss": self._actor.descend(loss)}
        excess = priced_excess(costs.detach(), thresholds, weights, every)
        self._prices.descend(config.multiplier_decay * self._prices.network.size() - excess)
        metrics["reward_value"] = values[:, 0].mean().item()
        means = (each.detach().mean(dim=0).tolist() for each in (costs, thresholds, weights))
        for name, cost, threshold, weight in zip(self._spec.cost_names, *means, strict=True):
            metrics |= {f"cost_value.{name}": cost, f"threshold.{name}": threshold, f"multiplier.{name}": weight}
        return metrics

    def policy(self) -> CCACFamily:
        """The family so far."""
        return CCACFamily(self._spec, self._config, self._observations, copy.deepcopy(self._actor.network))


def judged(said: Float[Tensor, "B m s"]) -> Float[Tensor, "B s"]:
    """The critics' word on what follows, and on the actor's actions: the smallest of its networks, a cost at least 0.

    Unlike [CCAC], whose values pass a softplus, rewards may be negative, and a cost is cut off where it is used alone:
    below 0 the actor gains nothing, and the critics' own losses keep their slope.
    """
    values = least(said)
    return torch.cat([values[:, :1], values[:, 1:].clamp(min=0.0)], dim=1)


def spends_more(thresholds: Float[Tensor, "B k"], asked: Float[Tensor, "k"]) -> Float[Tensor, "B k"]:
    """1[kappa_i > kappa], for each cost: whether a step is of one who spends more than is asked about.

    [CCAC, labels of the classifier]
    """
    return (thresholds > asked).to(thresholds.dtype)


def classifier_loss(logits: Float[Tensor, "n k"], labels: Float[Tensor, "n k"]) -> Float[Tensor, ""]:
    """Mean of -y log p - (1 - y) log(1 - p), p the logistic of the logit, summed over costs.   [CCAC, classifier]."""
    entropy = nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    return entropy.mean(dim=0).sum()


def masked_mean(values: Float[Tensor, "n k"], mask: Bool[Tensor, "n k"]) -> Float[Tensor, "k"]:
    """Mean of each column over its marked rows; 0 where there is none."""
    return (values * mask).sum(dim=0) / mask.sum(dim=0).clamp(min=1)


def priced_excess(
    costs: Float[Tensor, "n k"],
    thresholds: Float[Tensor, "n k"],
    multipliers: Float[Tensor, "n k"],
    mask: Bool[Tensor, "n k"],
) -> Float[Tensor, ""]:
    """sum_j E[lambda_j(kappa) (Q_cj - kappa_j)] over marked rows.

    Of generated pairs that only larger thresholds bring the critics raise it, and their multipliers lower it, so that
    Q_c >= kappa there; of the actor's actions the actor lowers it, and its multipliers raise it, so that Q_c <= kappa.
    [CCAC, Lagrangians of the cost critic and of the actor]
    """
    return masked_mean(multipliers * (costs - thresholds), mask).sum()
