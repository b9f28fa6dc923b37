"""Constrained decision transformer: one network, a dial for reward and one for each cost.

[CDT] is arXiv 2302.07351; OSRL is its public implementation. The network is in `cdt_network`, the policies that come
out in `cdt_policy`; here are the losses and the learner.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from safehold.core.errors import ModelError
from safehold.core.spec import Box
from safehold.data.batches import SequenceBatch
from safehold.learn.learner import Metrics
from safehold.learn.offline.cdt_network import (
    CDTConfig,
    CDTNetwork,
    Inputs,
    Predictions,
)
from safehold.learn.offline.cdt_policy import KIND, CDTPolicyFamily
from safehold.learn.offline.dial import DialLearner
from safehold.nn.distributions import DiagonalGaussian

PRESETS: Mapping[str, CDTConfig] = {
    "published": CDTConfig(),
    "osrl": CDTConfig(scaling="osrl", sampling="osrl", entropy="entry", augmentation=0.2),
    "small": CDTConfig(
        width=64,
        layers=2,
        heads=4,
        context=4,
        dropout=0.0,
        to_go_features=("value", "root", "rate"),
        head="deterministic",
        sampling="even",
        batch_size=256,
        steps=4_000,
        learning_rate=2e-3,
        final_learning_rate=1e-5,
        warm_up=100,
        gradient_clip=1.0,
    ),
}
"""`published`: [PLS, table 4], hours on a GPU; `osrl`: the same with OSRL's constants, to compare (a task's own are in
`presets/osrl`); `small`: minutes on two cores."""


@dataclass(frozen=True, slots=True)
class Losses:
    """The parts of one update's loss, each a mean over valid steps."""

    action: Float[Tensor, ""]
    temperature: Float[Tensor, ""]
    cost: Float[Tensor, ""]
    observation: Float[Tensor, ""]
    entropy: Float[Tensor, ""]


class CDTLearner(DialLearner[CDTConfig, CDTNetwork]):
    """Fits the network to windows of logged episodes; its policy is a family with a dial for each target."""

    kind = KIND
    family = CDTPolicyFamily

    def _make_optimiser(self) -> torch.optim.Optimizer:
        config = self._config
        untrained = (*_untrained_heads(config, gaussian=self._gaussian), "log_temperature")
        groups: list[dict[str, Any]] = [
            {"params": [p for name, p in self._network.named_parameters() if not name.startswith(untrained)]},
            {"params": [self._network.log_temperature] if self._gaussian else [], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay)

    @property
    def _gaussian(self) -> bool:
        """Whether a Gaussian is fitted: not to discrete actions, whose likelihood has no other form."""
        return self._config.head == "gaussian" and isinstance(self._spec.action, Box)

    def update(self, batch: SequenceBatch) -> Metrics:
        """One step of AdamW.

        Metrics are the losses, the entropy of a Gaussian head in nats, the temperature, and `action_error`: the root
        mean square error of the mean action in units of half the action range, or the share of discrete actions that
        are not the likeliest.
        """
        config, place = self._config, self._place
        batch, share = place.share(batch)
        mask, inputs = place.tensor(batch.mask), self._inputs(batch)
        lower = torch.autocast(place.device, dtype=torch.bfloat16, enabled=config.precision == "bfloat16")
        with self._generator.drawing(place.stream), lower:
            predicted = self._network(inputs)
        losses = self._losses(predicted, inputs, batch, mask)
        loss = losses.action + losses.temperature
        loss = loss + config.cost_loss_weight * losses.cost + config.observation_loss_weight * losses.observation
        # means over this process's steps; weighed by its share of them, their sum is the mean over all
        means = share * torch.stack([loss, losses.action, losses.cost, losses.observation, losses.entropy]).detach()
        place.add_up([means])
        if not torch.isfinite(means[0]):
            raise ModelError(
                f"update {self._updates + 1}: the loss of the constrained decision transformer is {means[0].item()}; "
                "lower the learning rate, or look for outliers in the data"
            )
        self._optimiser.zero_grad()
        torch.autograd.backward(share * loss)
        place.add_up(parameter.grad for parameter in self._network.parameters())
        network_group, temperature_group = self._optimiser.param_groups
        network_group["lr"] = self._learning_rate()
        temperature_group["lr"] = config.temperature_learning_rate
        nn.utils.clip_grad_norm_(network_group["params"], config.gradient_clip)
        self._optimiser.step()
        self._updates += 1
        # of this process's steps alone
        error = self._code.error(predicted.action_mean.detach()[mask], inputs.actions[mask])
        _, action, cost, observation, entropy = means.tolist()
        return {
            "action_loss": action,
            "cost_loss": cost,
            "observation_loss": observation,
            "entropy": entropy,
            "temperature": self._network.log_temperature.exp().item(),
            "action_error": error.item(),
        }

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
        to_tensor = self._place.tensor
        reward, *costs = scales.to_go(batch.reward_to_go, batch.cost_to_go, batch.steps)
        return Inputs(
            to_tensor(reward),
            tuple(to_tensor(values) for values in costs),
            to_tensor(scales.observations.apply(batch.observations)),
            to_tensor(self._code.encode(batch.actions)),
            to_tensor(batch.steps),
        )

    def _losses(
        self, predicted: Predictions, inputs: Inputs, batch: SequenceBatch, mask: Bool[Tensor, "B K"]
    ) -> Losses:
        config, scales, zero = self._config, self._scales, torch.zeros((), device=self._place.device)
        to_tensor = self._place.tensor
        gaussian = DiagonalGaussian(predicted.action_mean[mask], predicted.action_log_sd[mask])
        action, temperature, entropy = action_losses(
            gaussian, inputs.actions[mask], self._network.log_temperature, per_entry=config.entropy == "entry"
        )
        if not self._gaussian:
            code, outputs = self._code, predicted.action_mean[mask]
            action, temperature = code.loss(outputs, inputs.actions[mask]), zero
        cost = observation = zero
        if config.cost_loss_weight > 0.0 and config.cost_loss == "indicator":
            cost = cost_cross_entropy(predicted.costs, to_tensor(batch.costs), mask)
        elif config.cost_loss_weight > 0.0:
            cost = squared_error(predicted.costs, to_tensor(batch.costs / scales.largest_costs), mask)
        if config.observation_loss_weight > 0.0:
            wanted = to_tensor(scales.observations.apply(batch.next_observations))
            observation = squared_error(predicted.next_observations, wanted, mask)
        return Losses(action, temperature, cost, observation, entropy)


def action_losses(
    predicted: DiagonalGaussian,
    actions: Float[Tensor, "n a"],
    log_temperature: Float[Tensor, ""],
    *,
    per_entry: bool = False,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    """Loss of the action head, loss of the temperature, and the entropy H, over n valid steps.

    action = -(mean log N(a; mean, sd) + alpha H),   temperature = alpha (H + |A|),   alpha = exp(log_temperature),

    where the first moves the network only and the second alpha only: alpha grows while H < -|A|.   [CDT, Sec. 4;
    Zheng et al., arXiv 2202.05607, Eqs. (4)-(5)] H is the entropy of the whole action (a sum over its entries), as the
    bound -|A| supposes; `per_entry`, density and H are means over the entries, as in OSRL.
    """
    temperature = torch.exp(log_temperature)
    entries = actions.shape[-1] if per_entry else 1
    entropy, log_density = predicted.entropy().mean() / entries, predicted.log_density(actions).mean() / entries
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


def _untrained_heads(config: CDTConfig, *, gaussian: bool) -> tuple[str, ...]:
    """Heads that no loss reaches; the optimiser leaves them out."""
    unreached = {
        "action_log_sd.": not gaussian,
        "cost.": config.cost_loss_weight == 0.0,
        "next_observation.": config.observation_loss_weight == 0.0,
    }
    return tuple(name for name, unused in unreached.items() if unused)
