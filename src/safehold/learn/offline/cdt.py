"""Constrained decision transformer: one network, a dial for reward and one for each cost.

[CDT] is arXiv 2302.07351; OSRL is its public implementation. Each step is the tokens reward-to-go, cost-to-go (one a
named cost), observation, action; the action is predicted from the observation's token, the step's cost and the next
observation from the action's. At run time the to-go values start at the target and fall by what was obtained.

Unlike [CDT] and OSRL, nothing about a task is a constant of the code: observations, actions and to-go values are
scaled by the data, and to-go values are held inside the range that the data shows.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from safehold.core.config import Config
from safehold.core.errors import DataError, ModelError, UsageError
from safehold.core.spec import Box, TaskSpec
from safehold.core.target import Target
from safehold.data.batches import SequenceBatch, SequenceSampler, even_weights, low_cost_weights, to_go
from safehold.data.dataset import OfflineDataset
from safehold.data.normalise import Normaliser
from safehold.learn.checkpoint import load_checkpoint, module_tensors, restore_module, save_checkpoint, take
from safehold.learn.learner import Metrics, State
from safehold.learn.optimiser import optimiser_tensors, require_state, restore_optimiser
from safehold.nn.distributions import DiagonalGaussian
from safehold.nn.randomness import OwnGenerator
from safehold.nn.tensors import to_array, to_tensor
from safehold.nn.transformer import CausalTransformer, SlidingWindow, initialise

KIND = "cdt"
Feature = Literal["value", "root", "rate"]


class CDTConfig(Config):
    """Constrained decision transformer."""

    width: PositiveInt = 128
    """Size of a token, d."""
    layers: PositiveInt = 3
    """Transformer blocks."""
    heads: PositiveInt = 8
    """Attention heads; they divide the width."""
    context: PositiveInt = 10
    """Steps of history seen at once, K."""
    dropout: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Share of features dropped in training."""
    to_go_features: tuple[Feature, ...] = ("value",)
    """How a to-go value v enters its token: "value" v itself, "root" sign(v) |v|^(1/2), which tells small values apart,
    "rate" v per step that remains until the horizon. Unlike [CDT], which knows "value" alone."""
    head: Literal["gaussian", "deterministic"] = "gaussian"
    """What the action head fits: "gaussian" a distribution, by likelihood, with a constraint on its entropy;
    "deterministic" the action, by least squares."""
    initial_temperature: PositiveFloat = 0.1
    """Weight of the entropy before it is adapted."""
    temperature_learning_rate: PositiveFloat = 1e-4
    """Step size of the entropy's weight."""
    cost_loss: Literal["indicator", "value"] = "indicator"
    """What is predicted of a step's costs: "indicator" whether cost > 0, by cross-entropy, or "value", in units of the
    largest cost in the data, by least squares."""
    cost_loss_weight: NonNegativeFloat = 0.02
    """Weight of the cost prediction. OSRL's default."""
    observation_loss_weight: NonNegativeFloat = 0.0
    """Weight of the prediction of the next observation. OSRL's default."""
    sampling: Literal["uniform", "low_cost", "even"] = "low_cost"
    """How episodes are drawn: "uniform" all alike; "low_cost" the cheaper the likelier, as OSRL does; "even" so that
    all regions of the reward-cost plane that the data fills are seen alike."""
    sampling_floor: float = Field(default=0.05, gt=0.0, le=1.0)
    """For "low_cost": the weight of the costliest episode, as a share of that of a free one."""
    sampling_bins: PositiveInt = 10
    """For "even": parts that the range of each return is cut into."""
    batch_size: PositiveInt = 2048
    """Windows in a batch."""
    steps: PositiveInt = 100_000
    """Gradient steps."""
    learning_rate: PositiveFloat = 1e-4
    """Step size of AdamW after the warm-up."""
    final_learning_rate: PositiveFloat = 1e-4
    """Step size at the end of `steps`; it is approached along half a cosine."""
    warm_up: NonNegativeInt = 500
    """Gradient steps over which the step size grows linearly from zero."""
    weight_decay: NonNegativeFloat = 1e-4
    """Decoupled weight decay."""
    gradient_clip: PositiveFloat = 0.25
    """Largest norm of the gradient."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "CDTConfig":
        if self.width % self.heads:
            raise ValueError(f"heads={self.heads} does not divide width={self.width}")
        if not self.to_go_features or len(set(self.to_go_features)) != len(self.to_go_features):
            raise ValueError("to_go_features must name at least one feature, each once")
        return self


PRESETS: Mapping[str, CDTConfig] = {
    "published": CDTConfig(),
    "small": CDTConfig(
        width=64,
        layers=2,
        heads=4,
        context=5,
        dropout=0.0,
        to_go_features=("value", "root", "rate"),
        sampling="even",
        batch_size=128,
        steps=3_000,
        learning_rate=1e-3,
        final_learning_rate=1e-5,
        warm_up=100,
        gradient_clip=1.0,
    ),
}
"""`published`: [PLS, table 4], hours on a GPU; `small`: minutes on two cores."""


# What the network sees -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ToGoEncoder:
    """Turns a to-go value at a step into the features of its token, scaled by the data and held in the data's range.

    Holding the range matters at run time: a target beyond the data, or a budget that is overspent, would push a
    linear embedding where it was never trained.
    """

    features: tuple[Feature, ...]
    horizon: int
    normaliser: Normaliser
    low: Float[np.ndarray, "f"]
    high: Float[np.ndarray, "f"]

    @staticmethod
    def fit(
        values: Float[np.ndarray, "N"], steps: Int[np.ndarray, "N"], horizon: int, features: tuple[Feature, ...]
    ) -> "ToGoEncoder":
        """The scales and ranges of the to-go values of a whole dataset."""
        raw = _features(values, steps, horizon, features)
        return ToGoEncoder(features, horizon, Normaliser.fit(raw), raw.min(axis=0), raw.max(axis=0))

    def encode(
        self, values: Float[np.ndarray, "*rows"], steps: Int[np.ndarray, "*rows"]
    ) -> Float32[np.ndarray, "*rows f"]:
        """Features of to-go values, in environment units, at absolute steps."""
        raw = _features(values, steps, self.horizon, self.features)
        return self.normaliser.apply(np.clip(raw, self.low, self.high))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `of_json` reads them back to the last bit."""
        return {"normaliser": self.normaliser.to_json(), "low": self.low.tolist(), "high": self.high.tolist()}

    @staticmethod
    def of_json(plain: Mapping[str, Any], horizon: int, features: tuple[Feature, ...]) -> "ToGoEncoder":
        """The encoder that `to_json` wrote.

        Raises:
            DataError: if statistics are missing, of another length, or not finite.
        """
        normaliser = Normaliser.of_json(plain["normaliser"], len(features))
        low, high = (np.array(plain[name], dtype=np.float64) for name in ("low", "high"))
        if not (low.shape == high.shape == (len(features),) and np.isfinite([low, high]).all() and (low <= high).all()):
            raise DataError(f"ranges of to-go values must be {len(features)} finite pairs low <= high")
        return ToGoEncoder(features, horizon, normaliser, low, high)


def _features(
    values: Float[np.ndarray, "*rows"], steps: Int[np.ndarray, "*rows"], horizon: int, features: tuple[Feature, ...]
) -> Float[np.ndarray, "*rows f"]:
    columns: Mapping[Feature, np.ndarray] = {
        "value": values,
        "root": np.sign(values) * np.sqrt(np.abs(values)),
        "rate": values / (horizon - steps),
    }
    return np.stack([columns[name] for name in features], axis=-1)


@dataclass(frozen=True)
class Scales:
    """Everything that stands between environment units and the network's; fitted to the data once."""

    observations: Normaliser
    reward_to_go: ToGoEncoder
    cost_to_go: tuple[ToGoEncoder, ...]
    largest_costs: Float[np.ndarray, "k"]

    @staticmethod
    def fit(dataset: OfflineDataset, config: CDTConfig) -> "Scales":
        """Scales of a dataset."""
        rewards, costs = to_go(dataset)
        steps = np.arange(dataset.n_steps) - np.repeat(dataset.offsets[:-1], dataset.lengths)
        horizon, features = dataset.spec.horizon, config.to_go_features
        largest = dataset.costs.max(axis=0)
        return Scales(
            Normaliser.fit(dataset.observations),
            ToGoEncoder.fit(rewards, steps, horizon, features),
            tuple(ToGoEncoder.fit(column, steps, horizon, features) for column in costs.T),
            np.where(largest > 0.0, largest, 1.0),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "observations": self.observations.to_json(),
            "reward_to_go": self.reward_to_go.to_json(),
            "cost_to_go": [encoder.to_json() for encoder in self.cost_to_go],
            "largest_costs": self.largest_costs.tolist(),
        }

    @staticmethod
    def of_json(plain: Mapping[str, Any], spec: TaskSpec, config: CDTConfig) -> "Scales":
        """The scales that `to_json` wrote.

        Raises:
            DataError: if a scale is missing or does not fit the task.
        """
        try:
            if len(plain["cost_to_go"]) != len(spec.cost_names):
                raise DataError(f"scales of {len(plain['cost_to_go'])} costs for a task with costs {spec.cost_names}")
            features = config.to_go_features
            return Scales(
                Normaliser.of_json(plain["observations"], spec.observation_size),
                ToGoEncoder.of_json(plain["reward_to_go"], spec.horizon, features),
                tuple(ToGoEncoder.of_json(entry, spec.horizon, features) for entry in plain["cost_to_go"]),
                np.array(plain["largest_costs"], dtype=np.float64),
            )
        except (KeyError, TypeError) as error:
            raise DataError(f"scales of a constrained decision transformer cannot be read: {error!r}") from error


# The network -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Inputs:
    """A batch in the network's units."""

    reward_to_go: Float[Tensor, "B K f"]
    cost_to_go: tuple[Float[Tensor, "B K f"], ...]
    observations: Float[Tensor, "B K o"]
    actions: Float[Tensor, "B K a"]
    steps: Int[Tensor, "B K"]


@dataclass(frozen=True, slots=True)
class Predictions:
    """What the network says of every step: mean and log standard deviation of the action, logits or values of the
    costs, and what is seen next."""  # noqa: D205, D209

    action_mean: Float[Tensor, "B K a"]
    action_log_sd: Float[Tensor, "B K a"]
    costs: Float[Tensor, "B K k"]
    next_observations: Float[Tensor, "B K o"]


class CDTNetwork(nn.Module):
    """Embeddings, transformer and heads; actions are in [-1, 1] here."""

    def __init__(self, spec: TaskSpec, config: CDTConfig) -> None:
        super().__init__()
        width, features = config.width, len(config.to_go_features)
        actions, costs = spec.action.size, len(spec.cost_names)
        self.embed_reward_to_go = nn.Linear(features, width)
        self.embed_cost_to_go = nn.ModuleList(nn.Linear(features, width) for _ in range(costs))
        self.embed_observation = nn.Linear(spec.observation_size, width)
        self.embed_action = nn.Linear(actions, width)
        self.embed_step = nn.Embedding(spec.horizon, width)
        self.embedding_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)
        self.transformer = CausalTransformer(
            width=width, layers=config.layers, heads=config.heads, dropout=config.dropout
        )
        self.action_mean = nn.Linear(width, actions)
        self.action_log_sd = nn.Linear(width, actions)
        self.cost = nn.Linear(width, costs)
        self.next_observation = nn.Linear(width, spec.observation_size)
        # a parameter, so that it is saved and resumed with the weights
        self.log_temperature = nn.Parameter(torch.tensor(float(np.log(config.initial_temperature))))
        initialise(self)

    @property
    def tokens_per_step(self) -> int:
        """Reward-to-go, the costs-to-go, observation, action."""
        return 3 + len(self.embed_cost_to_go)

    def forward(self, inputs: Inputs) -> Predictions:
        """Predictions for every step of every window, each from what came before it."""
        tokens = torch.stack(
            [
                *self.to_go_tokens(inputs),
                self.embed_observation(inputs.observations),
                self.embed_action(inputs.actions),
            ],
            dim=2,
        )  # (B, K, tokens a step, d)
        features = self.transformer(self.dropout(self.placed(tokens, inputs.steps)).flatten(1, 2))
        features = features.reshape(tokens.shape)
        # unlike OSRL's, the standard deviation is kept between e^-5 and e^2
        return Predictions(
            self.action_mean(features[:, :, -2]),
            self.action_log_sd(features[:, :, -2]).clamp(-5.0, 2.0),
            self.cost(features[:, :, -1]),
            self.next_observation(features[:, :, -1]),
        )

    def to_go_tokens(self, inputs: Inputs) -> list[Float[Tensor, "B K d"]]:
        """Embedded reward-to-go and costs-to-go."""
        costs = zip(self.embed_cost_to_go, inputs.cost_to_go, strict=True)
        return [self.embed_reward_to_go(inputs.reward_to_go), *(embed(values) for embed, values in costs)]

    def placed(self, tokens: Float[Tensor, "B K p d"], steps: Int[Tensor, "#B K"]) -> Float[Tensor, "B K p d"]:
        """Tokens with the embedding of their absolute step added, normed."""
        return self.embedding_norm(tokens + self.embed_step(steps).unsqueeze(2))


# Losses ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Losses:
    """The parts of one update's loss, each a mean over valid steps."""

    action: Float[Tensor, ""]
    temperature: Float[Tensor, ""]
    cost: Float[Tensor, ""]
    observation: Float[Tensor, ""]
    entropy: Float[Tensor, ""]


def action_losses(
    predicted: DiagonalGaussian, actions: Float[Tensor, "n a"], log_temperature: Float[Tensor, ""]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    """Loss of the action head, loss of the temperature, and the entropy H, over n valid steps.

    action = -(mean log N(a; mean, sd) + alpha H),   temperature = alpha (H + |A|),   alpha = exp(log_temperature),

    where the first moves the network only and the second alpha only: alpha grows while H < -|A|.   [CDT, Sec. 4;
    Zheng et al., arXiv 2202.05607, Eqs. (4)-(5)] Unlike OSRL, H is the entropy of the whole action (a sum over its
    entries), as the bound -|A| supposes.
    """
    temperature = torch.exp(log_temperature)
    entropy, log_density = predicted.entropy().mean(), predicted.log_density(actions).mean()
    action = -(log_density + temperature.detach() * entropy)
    return action, temperature * (entropy.detach() + actions.shape[-1]), entropy


def squared_error(
    predicted: Float[Tensor, "B K d"], wanted: Float[Tensor, "B K d"], mask: Bool[Tensor, "B K"]
) -> Float[Tensor, ""]:
    """Mean over valid steps and entries of the squared difference."""
    return (predicted - wanted).square()[mask].mean()


def cost_cross_entropy(
    logits: Float[Tensor, "B K k"], costs: Float[Tensor, "B K k"], mask: Bool[Tensor, "B K"]
) -> Float[Tensor, ""]:
    """Cross-entropy of "the step's cost is above zero", mean over valid steps and costs."""
    return nn.functional.binary_cross_entropy_with_logits(logits[mask], (costs[mask] > 0.0).to(logits.dtype))


# The learner -----------------------------------------------------------------------------------------------------


class CDTLearner:
    """Fits the network to windows of logged episodes; its policy is a family with a dial for each target."""

    kind = KIND

    def __init__(self, spec: TaskSpec, scales: Scales, config: CDTConfig, seed: int) -> None:
        self._box = _box(spec)
        self._spec = spec
        self._scales = scales
        self._config = config
        self._generator = OwnGenerator(seed)
        with self._generator.drawing():
            self._network = CDTNetwork(spec, config)
        untrained = (*_untrained_heads(config), "log_temperature")
        groups: list[dict[str, Any]] = [
            {"params": [p for name, p in self._network.named_parameters() if not name.startswith(untrained)]},
            {"params": [self._network.log_temperature] if config.head == "gaussian" else [], "weight_decay": 0.0},
        ]
        self._optimiser = torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay)
        self._updates = 0

    def update(self, batch: SequenceBatch) -> Metrics:
        """One step of AdamW; metrics are the losses, the entropy in nats, the temperature, and `action_error`, the root
        mean square error of the mean action in units of half the action range."""  # noqa: D205, D209
        config, mask = self._config, to_tensor(batch.mask)
        inputs = self._inputs(batch)
        with self._generator.drawing():
            predicted = self._network(inputs)
        losses = self._losses(predicted, inputs, batch, mask)
        loss = losses.action + losses.temperature
        loss = loss + config.cost_loss_weight * losses.cost + config.observation_loss_weight * losses.observation
        if not torch.isfinite(loss):
            raise ModelError(
                f"update {self._updates + 1}: the loss of the constrained decision transformer is {loss.item()}; lower "
                "the learning rate, or look for outliers in the data"
            )
        self._optimiser.zero_grad()
        torch.autograd.backward(loss)
        network_group, temperature_group = self._optimiser.param_groups
        network_group["lr"] = self._learning_rate()
        temperature_group["lr"] = config.temperature_learning_rate
        nn.utils.clip_grad_norm_(network_group["params"], config.gradient_clip)
        self._optimiser.step()
        self._updates += 1
        error = squared_error(predicted.action_mean.detach(), inputs.actions, mask).sqrt()
        return {
            "action_loss": losses.action.item(),
            "cost_loss": losses.cost.item(),
            "observation_loss": losses.observation.item(),
            "entropy": losses.entropy.item(),
            "temperature": self._network.log_temperature.exp().item(),
            "action_error": error.item(),
        }

    def policy(self) -> "CDTPolicyFamily":
        """The family so far."""
        return CDTPolicyFamily(self._spec, self._config, self._scales, copy.deepcopy(self._network))

    def state(self) -> State:
        """Weights, moments and the generator of dropout."""
        tensors = {
            **module_tensors(self._network, "model"),
            **{f"optimiser.{name}": value for name, value in optimiser_tensors(self._optimiser).items()},
            "generator": self._generator.state(),
        }
        return State(tensors, {"updates": self._updates, **_identity(self._spec, self._config, self._scales)})

    def restore(self, state: State) -> None:
        """Goes on from saved weights, moments and generator."""
        for name, own in _identity(self._spec, self._config, self._scales).items():
            if state.meta[name] != own:
                raise DataError(
                    f"the saved {name} differs from that of this run; resume with the same dataset and configuration"
                )
        updates, moments = int(state.meta["updates"]), take(state.tensors, "optimiser")
        require_state(moments, updates)
        if "generator" not in state.tensors:
            raise DataError("the checkpoint holds no generator state; training cannot go on from it bit for bit")
        restore_module(self._network, state.tensors, "model")
        restore_optimiser(self._optimiser, moments)
        self._generator.restore(state.tensors["generator"])
        self._updates = updates

    def _learning_rate(self) -> float:
        """Linear warm-up, then half a cosine down to the final rate."""
        config, done = self._config, self._updates
        if done < config.warm_up:
            return config.learning_rate * (done + 1) / config.warm_up
        share = min(1.0, (done - config.warm_up) / max(1, config.steps - config.warm_up))
        span = config.learning_rate - config.final_learning_rate
        return float(config.final_learning_rate + 0.5 * span * (1.0 + np.cos(np.pi * share)))

    def _inputs(self, batch: SequenceBatch) -> Inputs:
        scales = self._scales
        middle, half = _middle_and_half(self._box)
        return Inputs(
            to_tensor(scales.reward_to_go.encode(batch.reward_to_go, batch.steps)),
            tuple(
                to_tensor(encoder.encode(batch.cost_to_go[:, :, i], batch.steps))
                for i, encoder in enumerate(scales.cost_to_go)
            ),
            to_tensor(scales.observations.apply(batch.observations)),
            to_tensor((batch.actions - middle) / half),
            to_tensor(batch.steps),
        )

    def _losses(
        self, predicted: Predictions, inputs: Inputs, batch: SequenceBatch, mask: Bool[Tensor, "B K"]
    ) -> Losses:
        config, scales, zero = self._config, self._scales, torch.zeros(())
        gaussian = DiagonalGaussian(predicted.action_mean[mask], predicted.action_log_sd[mask])
        action, temperature, entropy = action_losses(gaussian, inputs.actions[mask], self._network.log_temperature)
        if config.head == "deterministic":
            action, temperature = squared_error(predicted.action_mean, inputs.actions, mask), zero
        cost = observation = zero
        if config.cost_loss_weight > 0.0 and config.cost_loss == "indicator":
            cost = cost_cross_entropy(predicted.costs, to_tensor(batch.costs), mask)
        elif config.cost_loss_weight > 0.0:
            cost = squared_error(predicted.costs, to_tensor(batch.costs / scales.largest_costs), mask)
        if config.observation_loss_weight > 0.0:
            wanted = to_tensor(scales.observations.apply(batch.next_observations))
            observation = squared_error(predicted.next_observations, wanted, mask)
        return Losses(action, temperature, cost, observation, entropy)


def _untrained_heads(config: CDTConfig) -> tuple[str, ...]:
    """Heads that no loss reaches; the optimiser leaves them out."""
    unreached = {
        "action_log_sd.": config.head == "deterministic",
        "cost.": config.cost_loss_weight == 0.0,
        "next_observation.": config.observation_loss_weight == 0.0,
    }
    return tuple(name for name, unused in unreached.items() if unused)


def sampler(dataset: OfflineDataset, config: CDTConfig) -> SequenceSampler:
    """The windows that the configuration asks for."""
    weights = None
    if config.sampling == "low_cost":
        weights = low_cost_weights(dataset.cost_returns, config.sampling_floor)
    elif config.sampling == "even":
        returns = np.column_stack([dataset.reward_returns, dataset.cost_returns])
        weights = even_weights(returns, config.sampling_bins)
    return SequenceSampler(dataset, config.batch_size, config.context, weights)


# The policy ------------------------------------------------------------------------------------------------------


class CDTPolicyFamily:
    """Policies that aim at a target: the reward return, then each named cost's return, in environment units."""

    def __init__(self, spec: TaskSpec, config: CDTConfig, scales: Scales, network: CDTNetwork) -> None:
        self.spec = spec
        self.config = config
        self.scales = scales
        self.network = network.eval().requires_grad_(requires_grad=False)

    @property
    def target_names(self) -> tuple[str, ...]:
        """("reward", *cost names)."""
        return ("reward", *self.spec.cost_names)

    def at(self, target: Target) -> "CDTPolicy":
        """The policy that aims at this target.

        Raises:
            UsageError: if the target has another length, is not finite, or asks for a negative cost.
        """
        if len(target) != len(self.target_names) or not np.isfinite(target).all() or min(target[1:]) < 0.0:
            raise UsageError(f"target {target}: expected finite {self.target_names}, costs >= 0, in environment units")
        return CDTPolicy(self, tuple(float(value) for value in target))

    def save(self, directory: Path, provenance: Mapping[str, Any]) -> str:
        """Writes the family as a checkpoint and returns its digest; `provenance` says where it came from."""
        return save_checkpoint(
            directory,
            kind=KIND,
            tensors=module_tensors(self.network, "model"),
            meta={**_identity(self.spec, self.config, self.scales), "provenance": dict(provenance)},
        )

    @staticmethod
    def load(directory: Path, *, expected_digest: str | None = None) -> "CDTPolicyFamily":
        """The family that `save` wrote.

        Raises:
            IntegrityError: if bytes changed, or the checkpoint is not the pinned one.
            DataError: if it is of another method, or does not fit together.
        """
        checkpoint = load_checkpoint(directory, expected_digest=expected_digest)
        if checkpoint.kind != KIND:
            raise DataError(f"{directory}: expected a checkpoint of kind {KIND!r}, this is {checkpoint.kind!r}")
        try:
            spec = TaskSpec.of_json(checkpoint.meta["spec"])
            config = CDTConfig.model_validate(checkpoint.meta["config"])
            scales = Scales.of_json(checkpoint.meta["scales"], spec, config)
        except (KeyError, ValueError) as error:
            raise DataError(f"{directory}: {error}") from error
        with OwnGenerator(0).drawing():  # every weight is replaced below
            network = CDTNetwork(spec, config)
        restore_module(network, checkpoint.tensors, "model")
        return CDTPolicyFamily(spec, config, scales, network)


@dataclass(frozen=True, slots=True)
class CDTPolicy:
    """A family at one target; acts by the mean of the action's distribution."""

    family: CDTPolicyFamily
    target: Target

    def start(self, n: int, rng: np.random.Generator) -> "CDTActor":  # noqa: ARG002 - it draws nothing
        """An actor for n fresh episodes."""
        return CDTActor(self.family, self.target, n)


class CDTActor:
    """n episodes in lockstep: what remains of each target, and the window of the last K steps."""

    def __init__(self, family: CDTPolicyFamily, target: Target, n: int) -> None:
        self._family = family
        self._reward_to_go = np.full(n, target[0])
        self._cost_to_go = np.tile(np.array(target[1:]), (n, 1))
        self._step = 0
        self._middle, self._half = _middle_and_half(_box(family.spec))
        # the current step has no action yet, so that its tokens are one fewer
        self._capacity = family.config.context * family.network.tokens_per_step - 1
        self._window = SlidingWindow(family.network.transformer, n, self._capacity + 1)

    @torch.inference_mode()
    def act(self, observations: Float[np.ndarray, "n o"]) -> Float[np.ndarray, "n a"]:
        """The mean action, moved inside its bounds.

        Raises:
            UsageError: if the episode is longer than the task's horizon.
        """
        family, network, steps = self._family, self._family.network, np.full(len(observations), self._step)
        if self._step >= family.spec.horizon:
            raise UsageError(
                f"step {self._step} of an episode of {family.spec.env_id}, whose horizon is {family.spec.horizon}; the "
                "policy was not trained beyond it"
            )
        scales = family.scales
        tokens = [network.embed_reward_to_go(_tensor(scales.reward_to_go.encode(self._reward_to_go, steps)))]
        for i, embed in enumerate(network.embed_cost_to_go):
            tokens.append(embed(_tensor(scales.cost_to_go[i].encode(self._cost_to_go[:, i], steps))))
        tokens.append(network.embed_observation(_tensor(scales.observations.apply(observations))))
        self._append(torch.stack(tokens, dim=1))
        self._window.forget(max(0, len(self._window) - self._capacity))
        mean = network.action_mean(self._window.newest())
        return _box(family.spec).clip(to_array(mean) * self._half + self._middle)

    @torch.inference_mode()
    def observe(
        self, actions: Float[np.ndarray, "n a"], rewards: Float[np.ndarray, "n"], costs: Float[np.ndarray, "n k"]
    ) -> None:
        """Remembers the action and takes what was obtained off what is still to go."""
        tokens = self._family.network.embed_action(_tensor((actions - self._middle) / self._half))
        self._append(tokens.unsqueeze(1))
        self._reward_to_go = self._reward_to_go - rewards
        self._cost_to_go = self._cost_to_go - costs
        self._step += 1

    def _append(self, tokens: Float[Tensor, "n s d"]) -> None:
        """Adds tokens of the current step."""
        place = torch.tensor([[self._step]])
        self._window.append(self._family.network.placed(tokens.unsqueeze(1), place).squeeze(1))


def _box(spec: TaskSpec) -> Box:
    if not isinstance(spec.action, Box):
        raise UsageError(
            f"{spec.env_id}: the constrained decision transformer is for continuous actions, the task has {spec.action}"
        )
    return spec.action


def _middle_and_half(box: Box) -> tuple[Float32[np.ndarray, "a"], Float32[np.ndarray, "a"]]:
    low, high = np.array(box.low, dtype=np.float32), np.array(box.high, dtype=np.float32)
    return (high + low) / 2, (high - low) / 2


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.float32, copy=False))


def _identity(spec: TaskSpec, config: CDTConfig, scales: Scales) -> dict[str, Any]:
    """What makes weights mean something: the task, the configuration, the scales."""
    return {"spec": spec.to_json(), "config": config.to_json(), "scales": scales.to_json()}
