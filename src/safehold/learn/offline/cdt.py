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
)
from safehold.learn.offline.cdt_policy import KIND, CDTPolicyFamily
from safehold.learn.offline.dial import DialLearner
from safehold.nn.distributions import DiagonalGaussian

_SMALL = CDTConfig(
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
)

PRESETS: Mapping[str, CDTConfig] = {
    "published": CDTConfig(),
    "osrl": CDTConfig(scaling="osrl", sampling="osrl", entropy="entry", augmentation=0.2),
    "small": _SMALL,
    "long": _SMALL.model_copy(update={"steps": 12_000}),
}
"""`published`: [PLS, table 4], hours on a GPU; `osrl`: the same with OSRL's constants, to compare (a task's own are in
`presets/osrl`); `small`: minutes on two cores; `long`: three times as many updates, where the dial needs them."""


@dataclass(frozen=True, slots=True)
class Losses:
    """The loss that is minimised and parts of it, each a mean over valid steps."""

    total: Float[Tensor, ""]
    action: Float[Tensor, ""]
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
        place = self._place
        self._optimiser.zero_grad()
        means, answers, wanted = torch.zeros(5, device=place.device), [], []
        for part, share in place.parts(batch):
            losses, answer, action = self._losses(part)
            # means over this part's steps; weighed by its share of them, their sum is the mean over all
            torch.autograd.backward(share * losses.total)
            means += (
                share
                * torch.stack([losses.total, losses.action, losses.cost, losses.observation, losses.entropy]).detach()
            )
            answers.append(answer)
            wanted.append(action)
        place.add_up([means])
        if not torch.isfinite(means[0]):
            raise ModelError(
                f"update {self._updates + 1}: the loss of the constrained decision transformer is {means[0].item()}; "
                "lower the learning rate, or look for outliers in the data"
            )
        place.add_up(parameter.grad for parameter in self._network.parameters())
        network_group, temperature_group = self._optimiser.param_groups
        network_group["lr"] = self._learning_rate()
        temperature_group["lr"] = self._config.temperature_learning_rate
        nn.utils.clip_grad_norm_(network_group["params"], self._config.gradient_clip)
        self._optimiser.step()
        self._updates += 1
        error = self._code.error(torch.cat(answers), torch.cat(wanted))  # of this process's steps alone
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

    def _losses(self, batch: SequenceBatch) -> tuple[Losses, Float[Tensor, "n a"], Float[Tensor, "n a"]]:
        """The losses of some windows; and of every valid step the mean action, and the one that was logged."""
        config, scales, zero = self._config, self._scales, torch.zeros((), device=self._place.device)
        to_tensor = self._place.tensor
        mask, inputs = to_tensor(batch.mask), self._inputs(batch)
        lower = torch.autocast(self._place.device, dtype=torch.bfloat16, enabled=config.precision == "bfloat16")
        with self._generator.drawing(self._place.stream), lower:
            predicted = self._network(inputs)
        answer, wanted = predicted.action_mean[mask], inputs.actions[mask]
        action, temperature, entropy = action_losses(
            DiagonalGaussian(answer, predicted.action_log_sd[mask]),
            wanted,
            self._network.log_temperature,
            per_entry=config.entropy == "entry",
        )
        if not self._gaussian:
            action, temperature = self._code.loss(answer, wanted), zero
        cost = observation = zero
        if config.cost_loss_weight > 0.0 and config.cost_loss == "indicator":
            cost = cost_cross_entropy(predicted.costs, to_tensor(batch.costs), mask)
        elif config.cost_loss_weight > 0.0:
            cost = squared_error(predicted.costs, to_tensor(batch.costs / scales.largest_costs), mask)
        if config.observation_loss_weight > 0.0:
            seen = to_tensor(scales.observations.apply(batch.next_observations))
            observation = squared_error(predicted.next_observations, seen, mask)
        total = action + temperature + config.cost_loss_weight * cost + config.observation_loss_weight * observation
        return Losses(total, action, cost, observation, entropy), answer.detach(), wanted


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
