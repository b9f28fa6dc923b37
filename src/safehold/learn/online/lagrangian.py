"""What on-policy learners with a Lagrange multiplier share: all but how the policy is improved."""

from abc import ABC, abstractmethod

import numpy as np

from safehold.core.constraint import Limit
from safehold.core.errors import DataError
from safehold.core.seeding import Streams
from safehold.core.spec import TaskSpec
from safehold.learn.gaussian_policy import GaussianExplorer, GaussianPolicy
from safehold.learn.learner import Metrics, State
from safehold.learn.multiplier import MultiplierConfig, ScalarMultiplier
from safehold.learn.online.limited import checked_limit, episode_metrics
from safehold.learn.online.on_policy import Judged, OnPolicyConfig, OnPolicyCore, finite
from safehold.rollout.steps import StepBatch


class LagrangianLearner(ABC):
    """A policy that climbs reward less lambda times cost, while lambda follows what episodes cost.

    Args:
        spec: the task; its actions must be continuous.
        config: of policy and values.
        multiplier: how lambda answers violations.
        limit: on the mean of a named cost's return, in cost units per episode; None for no limit.
        streams: weights are drawn from its stream "weights", minibatches from "minibatches".
        method: what errors call it.
    """

    def __init__(
        self,
        spec: TaskSpec,
        config: OnPolicyConfig,
        multiplier: MultiplierConfig,
        limit: Limit | None,
        streams: Streams,
        method: str,
    ) -> None:
        self._core = OnPolicyCore(spec, config, streams, method)
        self._cost_column = 0 if limit is None else checked_limit(spec, limit, "mean", method)
        self._multiplier = None if limit is None else ScalarMultiplier(limit, multiplier)
        self._method = method

    @abstractmethod
    def _improve(self, judged: Judged) -> dict[str, float]:
        """Moves policy and values by a batch, at the multiplier as it is; what came of it."""

    @property
    def multiplier(self) -> float:
        """lambda, in reward units per cost unit; 0 without a limit."""
        return 0.0 if self._multiplier is None else self._multiplier.value

    def policy(self) -> GaussianPolicy:
        """The policy with the noise that it has learnt; `without_noise` acts by its mean."""
        return self._core.policy()

    def explorer(self, rng: np.random.Generator) -> GaussianExplorer:
        """The current policy, exploring."""
        return self._core.explorer(rng)

    def update(self, batch: StepBatch) -> Metrics:
        """Moves the multiplier by the finished episodes' mean cost, then policy and values by the batch.

        A batch in which no episode finished leaves the multiplier where it is.

        Raises:
            ModelError: if a loss is not finite.
        """
        metrics = episode_metrics(batch.episodes, self._cost_column)
        if self._multiplier is not None and "cost_return" in metrics:
            self._multiplier.update(metrics["cost_return"])
        judged = self._core.judge(batch, batch.costs[..., self._cost_column])
        metrics |= finite(self._improve(judged), self._method)
        self._core.see(batch)
        return finite(metrics | {"multiplier": self.multiplier, "sd": self._core.sd}, self._method)

    def state(self) -> State:
        """A copy of weights, optimisers, scales, normaliser, multiplier and the generator of minibatches."""
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
            self._restore(state)
        except (KeyError, TypeError) as error:
            raise DataError(f"this state is not of a {self._method} learner of this task: {error!r}") from error

    def _restore(self, state: State) -> None:
        """The parts, one after another; a missing one is a KeyError."""
        self._core.restore(state.part("core"))
        if self._multiplier is not None:
            self._multiplier.restore(state.part("multiplier"))
