"""TRPO: the step of every method inside a trust region; and with a Lagrange multiplier, as SCPO's reference."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from safehold.core.constraint import Limit
from safehold.core.seeding import Streams
from safehold.core.spec import TaskSpec
from safehold.learn.multiplier import MultiplierConfig
from safehold.learn.online.lagrangian import LagrangianLearner
from safehold.learn.online.on_policy import Judged, OnPolicyConfig, OnPolicyCore, Rows
from safehold.learn.trust_region import fisher_product, gradient, line_search, step
from safehold.nn.distributions import DiagonalGaussian
from safehold.nn.tensors import to_tensor


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


class TRPOLagLearner(LagrangianLearner):
    """As `PPOLagLearner`, with a step inside a trust region: it climbs (A_r - lambda A_c) / (1 + lambda).

    Args:
        spec: the task; its actions must be continuous.
        config: hyper-parameters.
        limit: on the mean of a named cost's return, in cost units per episode; None for no limit.
        streams: weights are drawn from its stream "weights", minibatches from "minibatches".
    """

    def __init__(self, spec: TaskSpec, config: TRPOLagConfig, limit: Limit | None, streams: Streams) -> None:
        super().__init__(spec, config, config.multiplier, limit, streams, "TRPO-Lagrangian")
        self._config = config

    def _improve(self, judged: Judged) -> dict[str, float]:
        priced = judged.priced(self.multiplier)
        moved = improve(self._core, self._config, judged, priced)
        return moved | fit_values(self._core, self._config, judged.rows(priced))
