"""CPO and SCPO: the limit inside the trust region, on the sum of an episode's costs or on its dearest step."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from pydantic import Field

from safehold.core.constraint import Limit
from safehold.core.errors import DataError
from safehold.core.seeding import Streams
from safehold.core.spec import TaskSpec
from safehold.learn.augmented_policy import AugmentedPolicy
from safehold.learn.gaussian_policy import GaussianExplorer, GaussianPolicy
from safehold.learn.learner import Metrics, State
from safehold.learn.online.limited import checked_limit, episode_metrics
from safehold.learn.online.on_policy import Judged, OnPolicyCore, finite, standardised
from safehold.learn.online.trpo_lag import CostSurrogate, TrustRegionConfig, fit_values, improve
from safehold.rollout.steps import StepBatch


class CPOConfig(TrustRegionConfig):
    """Constrained policy optimisation: the limit is on the mean sum of an episode's costs."""


class SCPOConfig(TrustRegionConfig):
    """State-wise constrained policy optimisation: the limit is on the mean of an episode's dearest step."""

    cost_discount: float = Field(default=1.0, gt=0, le=1)
    """Discount of the increments of the dearest step; 1: what adds up to the dearest step. [SCPO]"""
    decay: float = Field(default=0.97, ge=0, le=1)
    """lambda of generalised advantage estimation, for both. [SCPO]"""


@dataclass
class _Level:
    """What is limited, by the latest batch in which an episode finished, and how long its episodes were."""

    mean: float | None = None
    length: float = 0.0


class CPOLearner:
    """Climbs the reward inside a trust region, on the side of the limit: `trpo_lag.improve`.

    One process for both: an episode's value of the constraint (`core.constraint`: a sum, a maximum) is the sum of its
    increments. For the sum these are the costs. For the maximum they are

        D_t = max(c_t - M_t, 0),   M_t the dearest step so far,   sum_t D_t = max_t c_t,   [SCPO, arXiv 2306.12594]

    and M_t is the last entry of what the learner observes (`envs.augmented`): what is still to come depends on it.
    The surrogate of the cost is the mean advantage of an episode's increments times the mean length of episodes.

    Unlike [SCPO], the bound's term 2 (H + 1) eps sqrt(radius / 2) is left out, as in its authors' code, and values are
    fitted to all steps (theirs drop most of those whose increments to come are zero).

    Args:
        spec: the task as the learner sees it; its actions must be continuous.
        config: hyper-parameters; a `SCPOConfig` for the maximum.
        limit: of kind "mean" for the sum, in cost units per episode; of kind "peak" for the maximum, per step.
        streams: weights are drawn from its stream "weights", minibatches from "minibatches".
    """

    def __init__(self, spec: TaskSpec, config: CPOConfig | SCPOConfig, limit: Limit, streams: Streams) -> None:
        self._maximum = isinstance(config, SCPOConfig)
        self._name = "SCPO" if self._maximum else "CPO"
        self._core = OnPolicyCore(spec, config, streams, self._name)
        self._config = config
        self._limit = limit
        self._column = checked_limit(spec, limit, "peak" if self._maximum else "mean", self._name)
        self._level = _Level()

    def policy(self) -> GaussianPolicy | AugmentedPolicy:
        """The policy with the noise that it has learnt; of the maximum, one that keeps the dearest step in mind."""
        policy = self._core.policy()
        return AugmentedPolicy(policy, self._column) if self._maximum else policy

    def explorer(self, rng: np.random.Generator) -> GaussianExplorer:
        """The current policy, exploring what the learner observes."""
        return self._core.explorer(rng)

    def update(self, batch: StepBatch) -> Metrics:
        """Moves policy and values by a batch; the policy waits until an episode has said what is limited.

        Raises:
            ModelError: if a loss is not finite.
        """
        metrics = episode_metrics(batch.episodes, self._column)
        if metrics:
            self._level = _Level(
                metrics["cost_peak" if self._maximum else "cost_return"],
                float(np.mean([episode.length for episode in batch.episodes])),
            )
        costs = batch.costs[..., self._column]
        if self._maximum:
            judged = self._core.judge(batch, increments(costs, batch.observations[..., -1]), cost_ended=batch.ended)
        else:
            judged = self._core.judge(batch, costs)
        advantage = standardised(judged.reward_advantage)
        price = 0.0
        if self._level.mean is not None:
            metrics |= improve(self._core, self._config, judged, advantage, self._surrogate(judged, self._level.mean))
            price = metrics["price"]
        metrics |= fit_values(self._core, self._config, judged.rows(advantage))
        self._core.see(batch)
        return finite(metrics | {"multiplier": price, "sd": self._core.sd}, self._name)

    def state(self) -> State:
        """A copy of weights, optimiser, scales, normaliser, the generator of minibatches, and what is limited."""
        level = State(meta={"mean": self._level.mean, "length": self._level.length})
        return State.merge(self._core.state().under("core"), level.under("level"))

    def restore(self, state: State) -> None:
        """Goes back to a saved state.

        Raises:
            DataError: if a part is missing, unknown, of another shape, or not finite.
        """
        try:
            level = state.part("level").meta
            mean, length = level["mean"], float(level["length"])
            self._core.restore(state.part("core"))
        except (KeyError, TypeError) as error:
            raise DataError(f"this state is not of a {self._name} learner of this task: {error!r}") from error
        self._level = _Level(None if mean is None else float(mean), length)

    def _surrogate(self, judged: Judged, level: float) -> CostSurrogate:
        centred = judged.cost_advantage - judged.cost_advantage.mean()
        return CostSurrogate(self._level.length * centred, level - self._limit.value)


def increments(costs: Float[np.ndarray, "T n"], dearest: Float[np.ndarray, "T n"]) -> Float[np.ndarray, "T n"]:
    """By how much each step raises the dearest step so far: max(c_t - M_t, 0)."""
    return np.maximum(costs - dearest, 0.0)
