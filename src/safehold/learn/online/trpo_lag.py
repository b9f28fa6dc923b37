"""TRPO: the step of every method inside a trust region; and with a Lagrange multiplier, as SCPO's reference."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from safehold.core.constraint import Limit
from safehold.core.errors import DataError
from safehold.core.seeding import Streams
from safehold.core.spec import TaskSpec
from safehold.learn.gaussian_policy import GaussianExplorer, GaussianPolicy
from safehold.learn.learner import Metrics, State
from safehold.learn.multiplier import MultiplierConfig, ScalarMultiplier
from safehold.learn.online.limited import checked_limit, episode_metrics
from safehold.learn.online.on_policy import Judged, OnPolicyConfig, OnPolicyCore, Rows, finite
from safehold.learn.trust_region import fisher_product, gradient, line_search, step
from safehold.nn.distributions import DiagonalGaussian
from safehold.nn.tensors import to_tensor
from safehold.rollout.steps import StepBatch


class TrustRegionConfig(OnPolicyConfig):
    """A step inside a trust region. `epochs` and `minibatch` are those of the values alone."""

    radius: PositiveFloat = 0.02
    """Mean divergence between new and old policy, in nats, that a step may reach. [SCPO]"""
    damping: PositiveFloat = 0.1
    """Added to the diagonal of the divergence's second derivative."""
    iterations: PositiveInt = 10
    """Conjugate gradients for one direction."""
    shrink: float = Field(default=0.8, gt=0.0, lt=1.0)
    """What a step that is refused is shortened by. [SCPO]"""
    tries: PositiveInt = 20
    """Steps that are tried before the policy stays where it is."""


@dataclass(frozen=True, slots=True)
class CostSurrogate:
    """What a step may do to a limited cost: `advantage` adds up to its change, in the limit's units.

    `excess` is what is limited now, less the limit.
    """

    advantage: Float[np.ndarray, "n"]
    excess: float


def improve(
    core: OnPolicyCore,
    config: TrustRegionConfig,
    judged: Judged,
    advantage: Float[np.ndarray, "n"],
    cost: CostSurrogate | None = None,
) -> dict[str, float]:
    """Moves the policy by one step inside its trust region.

    maximise E[ratio A] under KL <= radius and, with a cost, E[ratio A_c] + excess <= 0; then a line search, which takes
    the first share of the step that keeps the divergence, does not lower the objective (unless the step is a recovery),
    and changes the cost by at most max(-excess, 0).   [CPO, arXiv 1705.10528, Sec. 6; SCPO, arXiv 2306.12594]
    """
    parameters = core.parameters
    climbed = to_tensor(advantage)
    paid = None if cost is None else to_tensor(cost.advantage)
    with torch.no_grad():
        old = core.acting(judged.observations)
    old = DiagonalGaussian(old.mean, old.log_sd.detach().clone())

    def surrogate(of: Float[Tensor, "n"]) -> Float[Tensor, ""]:
        return (
            torch.exp(core.acting(judged.observations).log_density(judged.actions) - judged.old_log_density) * of
        ).mean()

    def divergence() -> Float[Tensor, ""]:
        return core.acting(judged.observations).divergence_from(old).mean()

    found = step(
        gradient(surrogate(climbed), parameters),
        config.radius,
        fisher_product(divergence(), parameters, config.damping),
        iterations=config.iterations,
        cost=None if paid is None else gradient(surrogate(paid), parameters),
        excess=0.0 if cost is None else cost.excess,
    )
    with torch.no_grad():
        before = float(surrogate(climbed))
        cost_before = 0.0 if paid is None else float(surrogate(paid))

    def acceptable() -> bool:
        if not float(divergence()) <= config.radius:
            return False
        if found.kind != "recovery" and not float(surrogate(climbed)) >= before:
            return False
        return paid is None or cost is None or float(surrogate(paid)) - cost_before <= max(-cost.excess, 0.0)

    share = line_search(parameters, found.x, acceptable, shrink=config.shrink, tries=config.tries)
    with torch.no_grad():
        moved = float(divergence())
    return {
        "divergence": moved,
        "share": share,
        "price": found.price,
        "bound": float(found.kind == "bound"),
        "recovery": float(found.kind == "recovery"),
    }


def fit_values(core: OnPolicyCore, config: OnPolicyConfig, material: Rows) -> dict[str, float]:
    """Passes of the value networks over a batch; mean losses of the last."""
    losses: list[tuple[Tensor, Tensor]] = []
    for _ in range(config.epochs):
        losses = [core.fit_values(rows) for rows in material.minibatches(config.minibatch, core.generator)]
    reward_loss, cost_loss = (float(torch.stack(column).mean()) for column in zip(*losses, strict=True))
    return {"reward_value_loss": reward_loss, "cost_value_loss": cost_loss}


class TRPOLagConfig(TrustRegionConfig):
    """Trust region policy optimisation with a scalar Lagrange multiplier."""

    multiplier: MultiplierConfig = MultiplierConfig()
    """How the multiplier answers violations."""


class TRPOLagLearner:
    """As `PPOLagLearner`, with a step inside a trust region: it climbs (A_r - lambda A_c) / (1 + lambda).

    Args:
        spec: the task; its actions must be continuous.
        config: hyper-parameters.
        limit: on the mean of a named cost's return, in cost units per episode; None for no limit.
        streams: weights are drawn from its stream "weights", minibatches from "minibatches".
    """

    def __init__(self, spec: TaskSpec, config: TRPOLagConfig, limit: Limit | None, streams: Streams) -> None:
        self._core = OnPolicyCore(spec, config, streams, "TRPO-Lagrangian")
        self._config = config
        self._cost_column = 0 if limit is None else checked_limit(spec, limit, "mean", "TRPO-Lagrangian")
        self._multiplier = None if limit is None else ScalarMultiplier(limit, config.multiplier)

    def policy(self) -> GaussianPolicy:
        """The policy with the noise that it has learnt; `without_noise` acts by its mean."""
        return self._core.policy()

    def explorer(self, rng: np.random.Generator) -> GaussianExplorer:
        """The current policy, exploring."""
        return self._core.explorer(rng)

    def update(self, batch: StepBatch) -> Metrics:
        """Moves the multiplier by the finished episodes' mean cost, then policy and values by the batch.

        Raises:
            ModelError: if a loss is not finite.
        """
        metrics = episode_metrics(batch.episodes, self._cost_column)
        if self._multiplier is not None and "cost_return" in metrics:
            self._multiplier.update(metrics["cost_return"])
        multiplier = 0.0 if self._multiplier is None else self._multiplier.value
        judged = self._core.judge(batch, batch.costs[..., self._cost_column])
        priced = judged.priced(multiplier)
        metrics |= improve(self._core, self._config, judged, priced)
        metrics |= fit_values(self._core, self._config, judged.rows(priced))
        self._core.see(batch)
        return finite(metrics | {"multiplier": multiplier, "sd": self._core.sd}, "TRPO-Lagrangian")

    def state(self) -> State:
        """A copy of weights, optimiser, scales, normaliser, multiplier and the generator of minibatches."""
        parts = [self._core.state().under("core")]
        if self._multiplier is not None:
            parts.append(self._multiplier.state().under("multiplier"))
        return State.merge(*parts)

    def restore(self, state: State) -> None:
        """Goes back to a saved state.

        Raises:
            DataError: if a part is missing, unknown, of another shape, or not finite.
        """
        try:
            self._core.restore(state.part("core"))
            if self._multiplier is not None:
                self._multiplier.restore(state.part("multiplier"))
        except (KeyError, TypeError) as error:
            raise DataError(f"this state is not of a TRPO-Lagrangian learner of this task: {error!r}") from error
