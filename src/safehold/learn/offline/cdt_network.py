"""What the constrained decision transformer is made of: its configuration, its scales, its network.

[CDT] is arXiv 2302.07351; OSRL is its public implementation. Each step is the tokens reward-to-go, cost-to-go (one a
named cost), observation, action; the action is predicted from the observation's token, the step's cost and the next
observation from the action's.

How numbers are scaled is in `scales`.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from safehold.core.spec import TaskSpec
from safehold.learn.actions import code_of
from safehold.learn.offline.dial import DialConfig
from safehold.nn.dropout import Dropout
from safehold.nn.transformer import CausalTransformer, initialise


class CDTConfig(DialConfig):
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
    head: Literal["gaussian", "deterministic"] = "gaussian"
    """What the action head fits: "gaussian" a distribution, by likelihood, with a constraint on its entropy;
    "deterministic" the action, by least squares. Of discrete actions it is the likelihood in any case."""
    entropy: Literal["action", "entry"] = "action"
    """What density and entropy are of: "action" the whole action, as the bound on its entropy supposes; "entry" the
    mean over its entries, as in OSRL."""
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
    precision: Literal["float32", "bfloat16"] = "float32"
    """What the transformer's products are taken in while it trains; weights, heads, losses, and acting are float32."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "CDTConfig":
        if self.width % self.heads:
            raise ValueError(f"heads={self.heads} does not divide width={self.width}")
        return self


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
    """Embeddings, transformer and heads; actions are coded: in [-1, 1], or one entry for every discrete one."""

    def __init__(self, spec: TaskSpec, config: CDTConfig) -> None:
        super().__init__()
        width, features = config.width, len(config.to_go_features)
        actions, costs = code_of(spec.action).size, len(spec.cost_names)
        self.embed_reward_to_go = nn.Linear(features, width)
        self.embed_cost_to_go = nn.ModuleList(nn.Linear(features, width) for _ in range(costs))
        self.embed_observation = nn.Linear(spec.observation_size, width)
        self.embed_action = nn.Linear(actions, width)
        self.embed_step = nn.Embedding(spec.horizon, width)
        self.embedding_norm = nn.LayerNorm(width)
        self.dropout = Dropout(config.dropout)
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
        # heads sit on the last two tokens of a step, so the last block need not answer for the others
        rows, context, per_step, width = tokens.shape
        wanted = torch.arange(context * per_step, device=tokens.device).reshape(context, per_step)[:, -2:].flatten()
        features = self.transformer(self.dropout(self.placed(tokens, inputs.steps)).flatten(1, 2), wanted)
        seen, acted = features.float().reshape(rows, context, 2, width).unbind(2)
        with torch.autocast(features.device.type, enabled=False):
            # unlike OSRL's, the standard deviation is kept between e^-5 and e^2
            return Predictions(
                self.action_mean(seen),
                self.action_log_sd(seen).clamp(-5.0, 2.0),
                self.cost(acted),
                self.next_observation(acted),
            )

    def to_go_tokens(self, inputs: Inputs) -> list[Float[Tensor, "B K d"]]:
        """Embedded reward-to-go and costs-to-go."""
        costs = zip(self.embed_cost_to_go, inputs.cost_to_go, strict=True)
        return [self.embed_reward_to_go(inputs.reward_to_go), *(embed(values) for embed, values in costs)]

    def placed(self, tokens: Float[Tensor, "B K p d"], steps: Int[Tensor, "#B K"]) -> Float[Tensor, "B K p d"]:
        """Tokens with the embedding of their absolute step added, normed."""
        return self.embedding_norm(tokens + self.embed_step(steps).unsqueeze(2))
