"""What on-policy learners share: a Gaussian policy, values of reward and cost, and how a batch is judged by them."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from jaxtyping import Bool, Float
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from safehold.core.config import Config
from safehold.core.errors import ModelError, UsageError
from safehold.core.seeding import Streams
from safehold.core.spec import Box, TaskSpec
from safehold.learn.advantage import advantages
from safehold.learn.checkpoint import match_tensors, module_tensors, restore_module
from safehold.learn.gaussian_policy import GaussianExplorer, GaussianPolicy, freeze, normalise
from safehold.learn.learner import State
from safehold.learn.moments import RunningMoments
from safehold.learn.optimiser import optimiser_tensors, restore_optimiser
from safehold.nn.distributions import DiagonalGaussian
from safehold.nn.mlp import linear_layers, mlp
from safehold.nn.tensors import to_tensor, torch_generator
from safehold.rollout.steps import StepBatch


class OnPolicyConfig(Config):
    """What all such methods are told."""

    hidden: tuple[PositiveInt, ...] = (64, 64)
    """Sizes of the hidden layers of the policy and of both value networks."""
    initial_sd: PositiveFloat = 0.6
    """Exploration noise at the start, in action units; learnt from then on."""
    value_learning_rate: PositiveFloat = 1e-3
    """Adam's step size for the two value networks."""
    discount: float = Field(default=0.99, gt=0, lt=1)
    """Discount of rewards inside advantages."""
    cost_discount: float = Field(default=0.99, gt=0, le=1)
    """Discount of costs inside advantages; the limit itself is on the undiscounted sum."""
    decay: float = Field(default=0.95, ge=0, le=1)
    """lambda of generalised advantage estimation, for both."""
    epochs: PositiveInt = 10
    """Passes over a batch."""
    minibatch: PositiveInt = 1024
    """Steps in one gradient step."""
    largest_gradient: PositiveFloat = 0.5
    """Gradients longer than this are scaled down to it."""


class OnPolicyCore:
    """Policy, values, normaliser of observations, and the generator of minibatches.

    Args:
        spec: the task; its actions must be continuous.
        config: hyper-parameters.
        streams: weights are drawn from its stream "weights", minibatches from "minibatches".
        method: what is said to need continuous actions.
    """

    def __init__(self, spec: TaskSpec, config: OnPolicyConfig, streams: Streams, method: str) -> None:
        if not isinstance(spec.action, Box):
            raise UsageError(f"{spec.env_id}: {method} needs continuous actions, got {spec.action}")
        self._config = config
        self.box = spec.action
        generator = torch_generator(streams.integer("weights"))
        inputs, hidden = spec.observation_size, config.hidden
        self.mean = mlp((inputs, *hidden, self.box.size), generator=generator, output_gain=0.01)
        self.log_sd = nn.Parameter(torch.full((self.box.size,), float(np.log(config.initial_sd))))
        self._reward_value = ScaledValue(inputs, hidden, generator)
        self._cost_value = ScaledValue(inputs, hidden, generator)
        self._value_optimiser = torch.optim.Adam(
            chain(self._reward_value.network.parameters(), self._cost_value.network.parameters()),
            lr=config.value_learning_rate,
            eps=1e-5,
        )
        self.generator = torch_generator(streams.integer("minibatches"))
        self._moments = RunningMoments(inputs)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The policy's."""
        return [*self.mean.parameters(), self.log_sd]

    @property
    def sd(self) -> float:
        """Mean of the learnt noise's standard deviations, in action units."""
        return float(self.log_sd.detach().exp().mean())

    def acting(self, observations: Float[Tensor, "n o"]) -> DiagonalGaussian:
        """Distribution of the action at normalised observations; what is drawn may pass the bounds."""
        return DiagonalGaussian(self.mean(observations), self.log_sd)

    def policy(self) -> GaussianPolicy:
        """The policy with the noise that it has learnt."""
        return freeze(
            self.mean,
            observation_mean=self._moments.mean,
            observation_sd=self._moments.sd,
            sd=self.log_sd.detach().exp().numpy(),
            action=self.box,
        )

    def explorer(self, rng: np.random.Generator) -> GaussianExplorer:
        """The current policy, exploring."""
        return GaussianExplorer(self.policy(), rng)

    def see(self, batch: StepBatch) -> None:
        """Lets the normaliser take a batch in: last of all, so that the batch is judged as it was acted upon."""
        self._moments.add(batch.observations.reshape(-1, batch.observations.shape[-1]))

    def judge(
        self, batch: StepBatch, costs: Float[np.ndarray, "T n"], cost_ended: Bool[np.ndarray, "T n"] | None = None
    ) -> "Judged":
        """Advantages and value targets of a batch, flattened to one row a step.

        `costs` is the signal that the cost value sums up. `cost_ended`: where no more of it can follow; None: where the
        task ended.
        """
        config = self._config
        size = batch.observations.shape[-1]
        mean, sd = self._moments.mean.astype(np.float32), self._moments.sd.astype(np.float32)
        observations = to_tensor(normalise(batch.observations.reshape(-1, size), mean, sd))
        next_observations = to_tensor(normalise(batch.next_observations.reshape(-1, size), mean, sd))
        shape = batch.rewards.shape
        judged = {}
        no_more = batch.terminated if cost_ended is None else cost_ended
        for name, signal, value, discount, over in (
            ("reward", batch.rewards, self._reward_value, config.discount, batch.terminated),
            ("cost", costs, self._cost_value, config.cost_discount, no_more),
        ):
            values = value(observations).reshape(shape)
            advantage = advantages(
                signal,
                values,
                value(next_observations).reshape(shape),
                over,
                batch.ended,
                discount=discount,
                decay=config.decay,
            )
            targets = (advantage + values).ravel()
            value.rescale(targets)
            judged[name] = (advantage.ravel(), to_tensor(targets / value.scale))
        actions = to_tensor(batch.actions.reshape(-1, self.box.size))
        with torch.no_grad():
            old = self.acting(observations).log_density(actions)
        return Judged(
            observations=observations,
            actions=actions,
            old_log_density=old,
            reward_advantage=judged["reward"][0],
            cost_advantage=judged["cost"][0],
            reward_target=judged["reward"][1],
            cost_target=judged["cost"][1],
        )

    def fit_values(self, rows: "Rows") -> tuple[Tensor, Tensor]:
        """One gradient step on both value losses; returns them."""
        reward_loss = 0.5 * (self._reward_value.network(rows.observations)[:, 0] - rows.reward_target).square().mean()
        cost_loss = 0.5 * (self._cost_value.network(rows.observations)[:, 0] - rows.cost_target).square().mean()
        self._value_optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(reward_loss + cost_loss)
        for value in (self._reward_value, self._cost_value):
            nn.utils.clip_grad_norm_(value.network.parameters(), self._config.largest_gradient)
        self._value_optimiser.step()
        return reward_loss.detach(), cost_loss.detach()

    def state(self) -> State:
        """A copy of weights, moments, scales, normaliser, and the generator of minibatches."""
        own = module_tensors(self.mean, "mean") | {
            "log_sd": self.log_sd.detach().clone(),
            "minibatch_generator": self.generator.get_state(),
        }
        return State.merge(
            State(own).under("policy"),
            State(optimiser_tensors(self._value_optimiser)).under("value_optimiser"),
            self._reward_value.state().under("reward_value"),
            self._cost_value.state().under("cost_value"),
            self._moments.state().under("moments"),
        )

    def restore(self, state: State) -> None:
        """Goes back to a saved state.

        Raises:
            DataError: if a part is unknown, of another shape, or not finite.
            KeyError: if a part is missing.
        """
        own = state.part("policy").tensors
        log_sd, generator = own["log_sd"], own["minibatch_generator"]
        restore_optimiser(self._value_optimiser, state.part("value_optimiser").tensors)
        self._reward_value.restore(state.part("reward_value"))
        self._cost_value.restore(state.part("cost_value"))
        self._moments.restore(state.part("moments"))
        match_tensors({"log_sd": (self.log_sd.shape, torch.float32)}, {"log_sd": log_sd}, "policy")
        restore_module(self.mean, own, "mean")
        with torch.no_grad():
            self.log_sd.copy_(log_sd)
        self.generator.set_state(generator)


def finite(metrics: dict[str, float], method: str) -> dict[str, float]:
    """The same metrics.

    Raises:
        ModelError: naming the first that is not finite.
    """
    broken = [name for name, number in metrics.items() if not np.isfinite(number)]
    if broken:
        raise ModelError(f"{method}: {broken[0]} is not finite; the run has diverged, lower its step sizes")
    return metrics


@dataclass(frozen=True, slots=True)
class Rows:
    """What gradient steps read, one row a step. `advantage` is that of the objective that the policy climbs."""

    observations: Float[Tensor, "n o"]
    actions: Float[Tensor, "n a"]
    old_log_density: Float[Tensor, "n"]
    advantage: Float[Tensor, "n"]
    reward_target: Float[Tensor, "n"]
    cost_target: Float[Tensor, "n"]

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.advantage)

    def rows(self, which: Tensor | slice) -> "Rows":
        """Some of the rows."""
        return Rows(
            self.observations[which],
            self.actions[which],
            self.old_log_density[which],
            self.advantage[which],
            self.reward_target[which],
            self.cost_target[which],
        )

    def minibatches(self, size: int, generator: torch.Generator) -> "Iterator[Rows]":
        """All rows once, in a drawn order, so many at a time."""
        shuffled = self.rows(torch.randperm(len(self), generator=generator))
        for start in range(0, len(self), size):
            yield shuffled.rows(slice(start, start + size))


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A batch, one row a step: advantages in the signals' units, targets in those of the value networks."""

    observations: Float[Tensor, "n o"]
    actions: Float[Tensor, "n a"]
    old_log_density: Float[Tensor, "n"]
    reward_advantage: Float[np.ndarray, "n"]
    cost_advantage: Float[np.ndarray, "n"]
    reward_target: Float[Tensor, "n"]
    cost_target: Float[Tensor, "n"]

    def priced(self, multiplier: float) -> Float[np.ndarray, "n"]:
        """(A_r - lambda A_c) / (1 + lambda), which the division keeps at one scale, standardised over the batch."""
        combined = (self.reward_advantage - multiplier * self.cost_advantage) / (1.0 + multiplier)
        return standardised(combined)

    def rows(self, advantage: Float[np.ndarray, "n"]) -> Rows:
        """For a policy that climbs this advantage."""
        return Rows(
            self.observations,
            self.actions,
            self.old_log_density,
            to_tensor(advantage),
            self.reward_target,
            self.cost_target,
        )


def standardised(advantage: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """With mean 0 and standard deviation 1 over the batch."""
    return (advantage - advantage.mean()) / (advantage.std() + 1e-8)


SCALE_MEMORY = 0.9
"""Share of the old scale kept at each batch: the scale follows the returns over about ten batches."""

SMALLEST_SCALE = 1e-3
"""Scale of values that have been zero so far, in the signal's units."""


class ScaledValue:
    """A value network that works in units of its targets' size, so that one learning rate suits every task.

    When the scale changes, the last layer is divided by as much as the scale grew: predictions stay what they were.
    [after Pop-Art, arXiv 1602.07714, Eq. (10), without the shift]
    """

    def __init__(self, inputs: int, hidden: tuple[int, ...], generator: torch.Generator) -> None:
        self.network = mlp((inputs, *hidden, 1), generator=generator)
        self.scale = 1.0
        self._started = False

    def __call__(self, observations: Float[Tensor, "n o"]) -> Float[np.ndarray, "n"]:
        """Predicted discounted returns, in the signal's units."""
        with torch.no_grad():
            return self.network(observations)[:, 0].double().numpy() * self.scale

    def rescale(self, targets: Float[np.ndarray, "n"]) -> None:
        """Lets the scale follow the root mean square of the latest targets."""
        size = max(float(np.sqrt(np.mean(np.square(targets)))), SMALLEST_SCALE)
        scale = SCALE_MEMORY * self.scale + (1.0 - SCALE_MEMORY) * size if self._started else size
        last = linear_layers(self.network)[-1]
        with torch.no_grad():
            last.weight.mul_(self.scale / scale)
            last.bias.mul_(self.scale / scale)
        self.scale = scale
        self._started = True

    def state(self) -> State:
        """A copy of weights and scale."""
        return State(module_tensors(self.network, "network"), {"scale": self.scale, "started": self._started})

    def restore(self, state: State) -> None:
        """Goes back to a saved state."""
        restore_module(self.network, state.tensors, "network")
        self.scale = float(state.meta["scale"])
        self._started = bool(state.meta["started"])
