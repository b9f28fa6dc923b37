"""What the constrained decision transformer is made of: its configuration, its scales, its network.

[CDT] is arXiv 2302.07351; OSRL is its public implementation. Each step is the tokens reward-to-go, cost-to-go (one a
named cost), observation, action; the action is predicted from the observation's token, the step's cost and the next
observation from the action's.

Unlike [CDT] and OSRL, nothing about a task is a constant of the code: observations, actions and to-go values are
scaled by the data, and to-go values are held inside the range that the data shows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from safehold.core.config import Config
from safehold.core.errors import DataError, UsageError
from safehold.core.spec import Box, TaskSpec
from safehold.data.batches import to_go
from safehold.data.dataset import OfflineDataset
from safehold.data.normalise import Normaliser
from safehold.nn.transformer import CausalTransformer, initialise

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


def box_of(spec: TaskSpec) -> Box:
    """The bounds of continuous actions.

    Raises:
        UsageError: if the actions are discrete.
    """
    if not isinstance(spec.action, Box):
        raise UsageError(
            f"{spec.env_id}: the constrained decision transformer is for continuous actions, the task has {spec.action}"
        )
    return spec.action


def middle_and_half(box: Box) -> tuple[Float32[np.ndarray, "a"], Float32[np.ndarray, "a"]]:
    """The affine map between environment actions and the network's: action = middle + half * [-1, 1]."""
    low, high = np.array(box.low, dtype=np.float32), np.array(box.high, dtype=np.float32)
    return (high + low) / 2, (high - low) / 2
