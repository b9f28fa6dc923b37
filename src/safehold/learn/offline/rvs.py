"""A multilayer perceptron conditioned on what is still to be obtained: the transformer's cheap sibling.

RvS-R of [RvS, arXiv 2112.10751], with a cost-to-go for each named cost beside the reward-to-go: no memory, one step in,
one action out, the same dial.
"""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from safehold.core.errors import ModelError
from safehold.core.spec import TaskSpec
from safehold.core.target import Target
from safehold.data.batches import SequenceBatch
from safehold.learn.actions import code_of
from safehold.learn.learner import Metrics
from safehold.learn.offline.dial import DialConfig, DialFamily, DialLearner, ToGo, as_tensor
from safehold.nn.mlp import mlp
from safehold.nn.randomness import drawn_generator
from safehold.nn.tensors import to_array, to_tensor

KIND = "rvs"
"""What its checkpoints call themselves."""


class RvSConfig(DialConfig):
    """A perceptron with a dial."""

    hidden: tuple[PositiveInt, ...] = (1024, 1024)
    """Sizes of the hidden layers, each followed by a rectifier and dropout."""
    dropout: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Share of features dropped in training."""
    learning_rate: PositiveFloat = 1e-3
    """Step size of Adam at the start; it falls to zero along half a cosine."""


PRESETS: Mapping[str, RvSConfig] = {
    "published": RvSConfig(to_go_features=("rate",), sampling="uniform", batch_size=16_384),
    "small": RvSConfig(
        hidden=(256, 256),
        dropout=0.0,
        to_go_features=("value", "root", "rate"),
        sampling="even",
        batch_size=1024,
        steps=5_000,
    ),
}
"""`published`: [RvS, Table 5], which divides what is to go by the steps that remain; `small`: a minute on two cores."""


class RvSNetwork(nn.Module):
    """From the features of the to-go values and the observation to the action's code: in [-1, 1], or logits."""

    def __init__(self, spec: TaskSpec, config: RvSConfig) -> None:
        super().__init__()
        targets = 1 + len(spec.cost_names)
        sizes = (
            spec.observation_size + targets * len(config.to_go_features),
            *config.hidden,
            code_of(spec.action).size,
        )
        self.perceptron = mlp(sizes, generator=drawn_generator(), activation=nn.ReLU, output_gain=0.01)
        self._dropout = config.dropout

    def forward(self, to_go: Float[Tensor, "B t"], observations: Float[Tensor, "B o"]) -> Float[Tensor, "B a"]:
        """The actions."""
        x = torch.cat([to_go, observations], dim=-1)
        for layer in self.perceptron:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                x = nn.functional.dropout(x, self._dropout, training=self.training)
        return x


class RvSPolicyFamily(DialFamily[RvSConfig, RvSNetwork]):
    """A perceptron with a dial."""

    kind: ClassVar[str] = KIND
    config_type: ClassVar[type[DialConfig]] = RvSConfig

    @classmethod
    def build(cls, spec: TaskSpec, config: RvSConfig) -> RvSNetwork:
        """A network with fresh weights."""
        return RvSNetwork(spec, config)

    def start(self, target: Target, n: int) -> "RvSActor":
        """An actor for n fresh episodes."""
        return RvSActor(self, target, n)


class RvSActor:
    """n episodes in lockstep; of the past it knows only what is still to go."""

    def __init__(self, family: RvSPolicyFamily, target: Target, n: int) -> None:
        self._family = family
        self._to_go = ToGo(family.spec, family.scales, target, n)
        self._code = code_of(family.spec.action)

    @torch.inference_mode()
    def act(self, observations: Float[np.ndarray, "n o"]) -> Float[np.ndarray, "n a"]:
        """Actions, moved inside their bounds; of discrete ones the likeliest.

        Raises:
            UsageError: if the episode is longer than the task's horizon.
        """
        family = self._family
        to_go = torch.cat([as_tensor(values) for values in self._to_go.features()], dim=-1)
        actions = family.network(to_go, as_tensor(family.scales.observations.apply(observations)))
        return self._code.decode(to_array(actions))

    def observe(
        self,
        actions: Float[np.ndarray, "n a"],  # noqa: ARG002 - it has no memory of them
        rewards: Float[np.ndarray, "n"],
        costs: Float[np.ndarray, "n k"],
    ) -> None:
        """Takes what was obtained off what is still to go."""
        self._to_go.take_off(rewards, costs)

    def lower(self, to_go: Float[np.ndarray, "n k"]) -> None:
        """Aims at no more than these costs from here on."""
        self._to_go.lower(to_go)


class RvSLearner(DialLearner[RvSConfig, RvSNetwork]):
    """Fits the perceptron to logged actions, by least squares, or by likelihood if they are discrete."""

    kind = KIND
    family = RvSPolicyFamily

    def _make_optimiser(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self._network.parameters(), lr=self._config.learning_rate)

    def update(self, batch: SequenceBatch) -> Metrics:
        """One step of Adam on windows of one step.

        Metrics: `loss`, the mean squared error or the cross-entropy, and `action_error`: its root, in units of half the
        action range, or the share of discrete actions that are not the likeliest.
        """
        scales, code = self._scales, self._code
        to_go = scales.to_go(batch.reward_to_go[:, 0], batch.cost_to_go[:, 0], batch.steps[:, 0])
        seen = to_tensor(scales.observations.apply(batch.observations[:, 0]))
        wanted = to_tensor(code.encode(batch.actions[:, 0]))
        with self._generator.drawing():
            actions = self._network(torch.cat([to_tensor(values) for values in to_go], dim=-1), seen)
        loss = code.loss(actions, wanted)
        if not torch.isfinite(loss):
            raise ModelError(
                f"update {self._updates + 1}: the loss of the perceptron with a dial is {loss.item()}; lower the "
                "learning rate, or look for outliers in the data"
            )
        self._optimiser.zero_grad()
        torch.autograd.backward(loss)
        share = min(1.0, self._updates / self._config.steps)
        self._optimiser.param_groups[0]["lr"] = self._config.learning_rate * 0.5 * (1.0 + np.cos(np.pi * share))
        self._optimiser.step()
        self._updates += 1
        return {"loss": loss.item(), "action_error": code.error(actions.detach(), wanted).item()}
