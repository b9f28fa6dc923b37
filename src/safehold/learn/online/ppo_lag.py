"""PPO with a Lagrange multiplier: the plain on-policy way to much reward under a limit on the mean cost."""

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from safehold.core.constraint import Limit
from safehold.core.seeding import Streams
from safehold.core.spec import TaskSpec
from safehold.learn.learner import State
from safehold.learn.multiplier import MultiplierConfig
from safehold.learn.online.lagrangian import LagrangianLearner
from safehold.learn.online.on_policy import Judged, OnPolicyConfig, Rows
from safehold.learn.optimiser import optimiser_tensors, restore_optimiser


class PPOLagConfig(OnPolicyConfig):
    """Proximal policy optimisation with a scalar Lagrange multiplier."""

    learning_rate: PositiveFloat = 1e-3
    """Adam's step size for the policy."""
    clip: PositiveFloat = 0.2
    """How far the probability ratio may move before its gradient stops."""
    largest_divergence: PositiveFloat = 0.03
    """Mean divergence between new and old policy, in nats, after which the policy waits for the next batch."""
    entropy_weight: NonNegativeFloat = 0.0
    """Weight of the entropy bonus."""
    multiplier: MultiplierConfig = MultiplierConfig()
    """How the multiplier answers violations."""


class PPOLagLearner(LagrangianLearner):
    """Maximises J_r - lambda (J_c - d) over the policy while lambda ascends on J_c - d.

    max_theta min_{lambda >= 0} E[sum r] - lambda (E[sum c] - d).   [lecture notes, Eqs. (2)-(4)]

    The policy's step is PPO's clipped surrogate with the advantage (A_r - lambda A_c) / (1 + lambda), which the
    division keeps at one scale. Without a limit the multiplier stays out and this is plain PPO. The policy's passes
    over a batch end early once it has moved by `largest_divergence`.

    Args:
        spec: the task; its actions must be continuous.
        config: hyper-parameters.
        limit: on the mean of a named cost's return, in cost units per episode; None for no limit.
        streams: weights are drawn from its stream "weights", minibatches from "minibatches".
    """

    def __init__(self, spec: TaskSpec, config: PPOLagConfig, limit: Limit | None, streams: Streams) -> None:
        super().__init__(spec, config, config.multiplier, limit, streams, "PPO-Lagrangian")
        self._config = config
        self._optimiser = torch.optim.Adam(self._core.parameters, lr=config.learning_rate, eps=1e-5)

    def state(self) -> State:
        """A copy of weights, optimisers, scales, normaliser, multiplier and the generator of minibatches."""
        return State.merge(super().state(), State(optimiser_tensors(self._optimiser)).under("policy_optimiser"))

    def _restore(self, state: State) -> None:
        restore_optimiser(self._optimiser, state.part("policy_optimiser").tensors)
        super()._restore(state)

    def _improve(self, judged: Judged) -> dict[str, float]:
        return self._fit(judged.rows(judged.priced(self.multiplier)))

    def _fit(self, material: Rows) -> dict[str, float]:
        """Passes over the batch in minibatches; the policy stops early once it has moved far enough."""
        config = self._config
        reward_loss = cost_loss = divergence = 0.0
        policy_epochs = 0
        for epoch in range(config.epochs):
            moving = epoch == 0 or divergence <= config.largest_divergence
            policy_epochs += moving
            divergences, reward_losses, cost_losses = [], [], []
            for rows in material.minibatches(config.minibatch, self._core.generator):
                if moving:
                    divergences.append(self._policy_step(rows))
                losses = self._core.fit_values(rows)
                reward_losses.append(losses[0])
                cost_losses.append(losses[1])
            if moving:
                divergence = float(torch.stack(divergences).mean())
            reward_loss = float(torch.stack(reward_losses).mean())
            cost_loss = float(torch.stack(cost_losses).mean())
        return {
            "divergence": divergence,
            "policy_epochs": float(policy_epochs),
            "reward_value_loss": reward_loss,
            "cost_value_loss": cost_loss,
        }

    def _policy_step(self, rows: Rows) -> Tensor:
        """One gradient step on the clipped surrogate; returns an estimate of the divergence from the old policy."""
        now = self._core.acting(rows.observations)
        log_ratio = now.log_density(rows.actions) - rows.old_log_density
        loss = -clipped_surrogate(log_ratio, rows.advantage, self._config.clip)
        loss = loss - self._config.entropy_weight * now.entropy()
        self._optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self._core.parameters, self._config.largest_gradient)
        self._optimiser.step()
        with torch.no_grad():
            return (torch.exp(log_ratio) - 1.0 - log_ratio).mean()


def clipped_surrogate(log_ratio: Float[Tensor, "n"], advantage: Float[Tensor, "n"], clip: float) -> Float[Tensor, ""]:
    """PPO's objective, to be maximised: mean of min(ratio A, clip(ratio, 1 - clip, 1 + clip) A).

    [PPO, arXiv 1707.06347, Eq. (7)]
    """
    ratio = torch.exp(log_ratio)
    return torch.minimum(ratio * advantage, ratio.clamp(1.0 - clip, 1.0 + clip) * advantage).mean()
