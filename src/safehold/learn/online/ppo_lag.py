"""PPO with a Lagrange multiplier: the plain on-policy way to much reward under a limit on the mean cost."""

from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from safehold.core.config import Config
from safehold.core.constraint import Limit
from safehold.core.errors import DataError, ModelError, UsageError
from safehold.core.seeding import Streams
from safehold.core.spec import Box, TaskSpec
from safehold.learn.advantage import advantages
from safehold.learn.checkpoint import match_tensors, module_tensors, restore_module
from safehold.learn.gaussian_policy import GaussianExplorer, GaussianPolicy, freeze, normalise
from safehold.learn.learner import Metrics, State
from safehold.learn.moments import RunningMoments
from safehold.learn.multiplier import MultiplierConfig, ScalarMultiplier
from safehold.learn.online.limited import checked_limit, episode_metrics
from safehold.learn.optimiser import optimiser_tensors, restore_optimiser
from safehold.nn.distributions import DiagonalGaussian
from safehold.nn.mlp import linear_layers, mlp
from safehold.nn.tensors import to_tensor, torch_generator
from safehold.rollout.steps import StepBatch


class PPOLagConfig(Config):
    """Proximal policy optimisation with a scalar Lagrange multiplier."""

    hidden: tuple[PositiveInt, ...] = (64, 64)
    """Sizes of the hidden layers of the policy and of both value networks."""
    initial_sd: PositiveFloat = 0.6
    """Exploration noise at the start, in action units; learnt from then on."""
    learning_rate: PositiveFloat = 1e-3
    """Adam's step size for the policy."""
    value_learning_rate: PositiveFloat = 1e-3
    """Adam's step size for the two value networks."""
    discount: float = Field(default=0.99, gt=0, lt=1)
    """Discount of rewards inside advantages."""
    cost_discount: float = Field(default=0.99, gt=0, lt=1)
    """Discount of costs inside advantages; the limit itself is on the undiscounted sum."""
    decay: float = Field(default=0.95, ge=0, le=1)
    """lambda of generalised advantage estimation, for both."""
    clip: PositiveFloat = 0.2
    """How far the probability ratio may move before its gradient stops."""
    epochs: PositiveInt = 10
    """Passes over a batch; fewer if `largest_divergence` is passed."""
    minibatch: PositiveInt = 1024
    """Steps in one gradient step."""
    largest_divergence: PositiveFloat = 0.03
    """Mean divergence between new and old policy, in nats, after which the policy waits for the next batch."""
    entropy_weight: NonNegativeFloat = 0.0
    """Weight of the entropy bonus."""
    largest_gradient: PositiveFloat = 0.5
    """Gradients longer than this are scaled down to it."""
    multiplier: MultiplierConfig = MultiplierConfig()
    """How the multiplier answers violations."""


class PPOLagLearner:
    """Maximises J_r - lambda (J_c - d) over the policy while lambda ascends on J_c - d.

    max_theta min_{lambda >= 0} E[sum r] - lambda (E[sum c] - d).   [lecture notes, Eqs. (2)-(4)]

    The policy's step is PPO's clipped surrogate with the advantage (A_r - lambda A_c) / (1 + lambda), which the
    division keeps at one scale. Without a limit the multiplier stays out and this is plain PPO.

    Args:
        spec: the task; its actions must be continuous.
        config: hyper-parameters.
        limit: on the mean of a named cost's return, in cost units per episode; None for no limit.
        streams: weights are drawn from its stream "weights", minibatches from "minibatches".
    """

    def __init__(self, spec: TaskSpec, config: PPOLagConfig, limit: Limit | None, streams: Streams) -> None:
        if not isinstance(spec.action, Box):
            raise UsageError(f"{spec.env_id}: PPO-Lagrangian needs continuous actions, got {spec.action}")
        self._config = config
        self._box = spec.action
        self._cost_column = 0 if limit is None else checked_limit(spec, limit, "mean", "PPO-Lagrangian")
        self._multiplier = None if limit is None else ScalarMultiplier(limit, config.multiplier)
        generator = torch_generator(streams.integer("weights"))
        inputs, hidden = spec.observation_size, config.hidden
        self._mean = mlp((inputs, *hidden, self._box.size), generator=generator, output_gain=0.01)
        self._log_sd = nn.Parameter(torch.full((self._box.size,), float(np.log(config.initial_sd))))
        self._reward_value = ScaledValue(inputs, hidden, generator)
        self._cost_value = ScaledValue(inputs, hidden, generator)
        self._policy_optimiser = torch.optim.Adam(
            [*self._mean.parameters(), self._log_sd], lr=config.learning_rate, eps=1e-5
        )
        self._value_optimiser = torch.optim.Adam(
            chain(self._reward_value.network.parameters(), self._cost_value.network.parameters()),
            lr=config.value_learning_rate,
            eps=1e-5,
        )
        self._minibatch_generator = torch_generator(streams.integer("minibatches"))
        self._moments = RunningMoments(inputs)

    @property
    def multiplier(self) -> float:
        """lambda, in reward units per cost unit; 0 without a limit."""
        return 0.0 if self._multiplier is None else self._multiplier.value

    def policy(self) -> GaussianPolicy:
        """The policy with the noise that it has learnt; `with_noise(0)` acts by its mean."""
        return freeze(
            self._mean,
            observation_mean=self._moments.mean,
            observation_sd=self._moments.sd,
            sd=self._log_sd.detach().exp().numpy(),
            action=self._box,
        )

    def explorer(self, rng: np.random.Generator) -> GaussianExplorer:
        """The current policy, exploring."""
        return GaussianExplorer(self.policy(), rng)

    def update(self, batch: StepBatch) -> Metrics:
        """Moves the multiplier by the finished episodes' mean cost, then policy and values by the batch.

        A batch in which no episode finished leaves the multiplier where it is. The observation normaliser takes the
        batch in last, so that the batch is judged as it was acted upon.

        Raises:
            ModelError: if a loss is not finite.
        """
        metrics = episode_metrics(batch.episodes, self._cost_column)
        if self._multiplier is not None and "cost_return" in metrics:
            self._multiplier.update(metrics["cost_return"])
        material = self._prepare(batch)
        metrics |= self._fit(material)
        self._moments.add(batch.observations.reshape(-1, batch.observations.shape[-1]))
        sd = float(self._log_sd.detach().exp().mean())
        return metrics | {"multiplier": self.multiplier, "sd": sd}

    def state(self) -> State:
        """A copy of weights, optimisers, scales, normaliser, multiplier and the generator of minibatches."""
        own = module_tensors(self._mean, "mean") | {
            "log_sd": self._log_sd.detach().clone(),
            "minibatch_generator": self._minibatch_generator.get_state(),
        }
        parts = [
            State(own).under("policy"),
            State(optimiser_tensors(self._policy_optimiser)).under("policy_optimiser"),
            State(optimiser_tensors(self._value_optimiser)).under("value_optimiser"),
            self._reward_value.state().under("reward_value"),
            self._cost_value.state().under("cost_value"),
            self._moments.state().under("moments"),
        ]
        if self._multiplier is not None:
            parts.append(self._multiplier.state().under("multiplier"))
        return State.merge(*parts)

    def restore(self, state: State) -> None:
        """Goes back to a saved state.

        Raises:
            DataError: if a part is missing, unknown, of another shape, or not finite.
        """
        try:
            own = state.part("policy").tensors
            log_sd, generator = own["log_sd"], own["minibatch_generator"]
            for optimiser, name in ((self._policy_optimiser, "policy"), (self._value_optimiser, "value")):
                restore_optimiser(optimiser, state.part(f"{name}_optimiser").tensors)
            self._reward_value.restore(state.part("reward_value"))
            self._cost_value.restore(state.part("cost_value"))
            self._moments.restore(state.part("moments"))
            if self._multiplier is not None:
                self._multiplier.restore(state.part("multiplier"))
        except (KeyError, TypeError) as error:
            raise DataError(f"this state is not of a PPO-Lagrangian learner of this task: {error!r}") from error
        match_tensors({"log_sd": (self._log_sd.shape, torch.float32)}, {"log_sd": log_sd}, "policy")
        restore_module(self._mean, own, "mean")
        with torch.no_grad():
            self._log_sd.copy_(log_sd)
        self._minibatch_generator.set_state(generator)

    def _prepare(self, batch: StepBatch) -> "_Material":
        """Advantages and value targets of a batch, flattened to one row a step."""
        config = self._config
        size = batch.observations.shape[-1]
        mean, sd = self._moments.mean.astype(np.float32), self._moments.sd.astype(np.float32)
        observations = to_tensor(normalise(batch.observations.reshape(-1, size), mean, sd))
        next_observations = to_tensor(normalise(batch.next_observations.reshape(-1, size), mean, sd))
        shape = batch.rewards.shape
        judged = {}
        for name, signal, value, discount in (
            ("reward", batch.rewards, self._reward_value, config.discount),
            ("cost", batch.costs[..., self._cost_column], self._cost_value, config.cost_discount),
        ):
            values = value(observations).reshape(shape)
            advantage = advantages(
                signal,
                values,
                value(next_observations).reshape(shape),
                batch.terminated,
                batch.ended,
                discount=discount,
                decay=config.decay,
            )
            targets = (advantage + values).ravel()
            value.rescale(targets)
            judged[name] = (advantage, to_tensor(targets / value.scale))
        weight = self.multiplier
        combined = (judged["reward"][0] - weight * judged["cost"][0]) / (1.0 + weight)
        combined = (combined - combined.mean()) / (combined.std() + 1e-8)
        actions = to_tensor(batch.actions.reshape(-1, self._box.size))
        with torch.no_grad():
            old = DiagonalGaussian(self._mean(observations), self._log_sd).log_density(actions)
        return _Material(
            observations, actions, old, to_tensor(combined.ravel()), judged["reward"][1], judged["cost"][1]
        )

    def _fit(self, material: "_Material") -> dict[str, float]:
        """Passes over the batch in minibatches; the policy stops early once it has moved far enough."""
        config = self._config
        n = len(material.advantage)
        reward_loss = cost_loss = divergence = 0.0
        policy_epochs = 0
        for epoch in range(config.epochs):
            shuffled = material.rows(torch.randperm(n, generator=self._minibatch_generator))
            moving = epoch == 0 or divergence <= config.largest_divergence
            policy_epochs += moving
            divergences, reward_losses, cost_losses = [], [], []
            for start in range(0, n, config.minibatch):
                rows = shuffled.rows(slice(start, start + config.minibatch))
                if moving:
                    divergences.append(self._policy_step(rows))
                losses = self._value_step(rows)
                reward_losses.append(losses[0])
                cost_losses.append(losses[1])
            if moving:
                divergence = float(torch.stack(divergences).mean())
            reward_loss = float(torch.stack(reward_losses).mean())
            cost_loss = float(torch.stack(cost_losses).mean())
        metrics = {
            "divergence": divergence,
            "policy_epochs": float(policy_epochs),
            "reward_value_loss": reward_loss,
            "cost_value_loss": cost_loss,
        }
        broken = [name for name, number in metrics.items() if not np.isfinite(number)]
        if broken:
            raise ModelError(f"PPO-Lagrangian: {broken[0]} is not finite; the run has diverged, lower learning_rate")
        return metrics

    def _policy_step(self, rows: "_Material") -> Tensor:
        """One gradient step on the clipped surrogate; returns an estimate of the divergence from the old policy."""
        now = DiagonalGaussian(self._mean(rows.observations), self._log_sd)
        log_ratio = now.log_density(rows.actions) - rows.old_log_density
        loss = -clipped_surrogate(log_ratio, rows.advantage, self._config.clip)
        loss = loss - self._config.entropy_weight * now.entropy()
        self._policy_optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_([*self._mean.parameters(), self._log_sd], self._config.largest_gradient)
        self._policy_optimiser.step()
        with torch.no_grad():
            return (torch.exp(log_ratio) - 1.0 - log_ratio).mean()

    def _value_step(self, rows: "_Material") -> tuple[Tensor, Tensor]:
        """One gradient step on both value losses."""
        reward_loss = 0.5 * (self._reward_value.network(rows.observations)[:, 0] - rows.reward_target).square().mean()
        cost_loss = 0.5 * (self._cost_value.network(rows.observations)[:, 0] - rows.cost_target).square().mean()
        self._value_optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(reward_loss + cost_loss)
        for value in (self._reward_value, self._cost_value):
            nn.utils.clip_grad_norm_(value.network.parameters(), self._config.largest_gradient)
        self._value_optimiser.step()
        return reward_loss.detach(), cost_loss.detach()


def clipped_surrogate(log_ratio: Float[Tensor, "n"], advantage: Float[Tensor, "n"], clip: float) -> Float[Tensor, ""]:
    """PPO's objective, to be maximised: mean of min(ratio A, clip(ratio, 1 - clip, 1 + clip) A).

    [PPO, arXiv 1707.06347, Eq. (7)]
    """
    ratio = torch.exp(log_ratio)
    return torch.minimum(ratio * advantage, ratio.clamp(1.0 - clip, 1.0 + clip) * advantage).mean()


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


@dataclass(frozen=True, slots=True)
class _Material:
    """What the gradient steps read, one row a step."""

    observations: Float[Tensor, "n o"]
    actions: Float[Tensor, "n a"]
    old_log_density: Float[Tensor, "n"]
    advantage: Float[Tensor, "n"]
    reward_target: Float[Tensor, "n"]
    cost_target: Float[Tensor, "n"]

    def rows(self, which: Tensor | slice) -> "_Material":
        """Some of the rows."""
        return _Material(
            self.observations[which],
            self.actions[which],
            self.old_log_density[which],
            self.advantage[which],
            self.reward_target[which],
            self.cost_target[which],
        )
