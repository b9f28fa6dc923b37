"""What is believed of every candidate before the first ask, declared and never refitted."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from safehold.core.constraint import Limit
from safehold.core.errors import BadPrior, UsageError
from safehold.core.target import TargetSpace
from safehold.gp.exact import GaussianProcess
from safehold.gp.kernels import KERNELS, Kernel, Matern52

KernelOf = Callable[[float, tuple[float, ...]], Kernel]
"""A kernel's class: from a standard deviation and lengthscales to a kernel."""

DIAL_ERROR_SHARE = 0.5
"""Default standard deviation of how far the dial may be off, as a share of the limit."""

REWARD_DIAL_ERROR_SHARE = 0.25
"""The same for the reward, as a share of the span of the reward axis; it carries no safety."""

EPISODE_SD_SHARE = 0.5
"""Default floor of the standard deviation of one episode's cost return, as a share of the limit."""

REWARD_EPISODE_SD_SHARE = 0.05
"""The same for the reward, as a share of the span of the reward axis."""


@dataclass(frozen=True, kw_only=True)
class OutputPrior:
    """Belief about one output (the reward return, or one cost return) over the candidates.

    `episode_sd` is the declared floor of the standard deviation of one episode's return around its expectation;
    the model may use more once replicates show it, never less.
    """

    mean: Float[np.ndarray, "m"]
    kernel: Kernel
    episode_sd: float

    def process(self, space: TargetSpace) -> GaussianProcess:
        """The Gaussian process before any measurement."""
        return GaussianProcess.over(self.kernel, space.points, self.mean)


@dataclass(frozen=True, kw_only=True)
class Prior:
    """Prior of the reward and of every limited cost, and the candidates that the log supports.

    `support`: candidates near logged returns. Outside it the policy extrapolates and nothing is ever certified.
    """

    space: TargetSpace
    reward: OutputPrior
    costs: Mapping[str, OutputPrior]
    support: Bool[np.ndarray, "m"]

    def __post_init__(self) -> None:
        m = len(self.space)
        if self.support.shape != (m,):
            raise BadPrior(f"support marks {self.support.shape} candidates, the target space has {m}; one mark each")
        for name, output in [("the reward", self.reward), *((f"cost {n!r}", o) for n, o in self.costs.items())]:
            if output.mean.shape != (m,) or not np.all(np.isfinite(output.mean)):
                raise BadPrior(
                    f"prior mean of {name} must be one finite number for each of {m} candidates, got shape "
                    f"{output.mean.shape} with {int(np.sum(~np.isfinite(output.mean)))} non-finite values"
                )
            if len(output.kernel.lengthscales) != len(self.space.axes):
                raise BadPrior(
                    f"kernel of {name} has {len(output.kernel.lengthscales)} lengthscales, "
                    f"the dial has the axes {self.space.names}; declare one an axis"
                )
            if not (np.isfinite(output.episode_sd) and output.episode_sd > 0):
                raise BadPrior(
                    f"episode noise of {name} is declared as {output.episode_sd}; its standard deviation must be "
                    "positive: a noise of zero would certify from a batch of lucky episodes"
                )

    @staticmethod
    def asked(
        space: TargetSpace,
        limits: Sequence[Limit],
        support: Bool[np.ndarray, "m"],
        *,
        lengthscales: Mapping[str, float],
        dial_error: Mapping[str, float] | None = None,
        episode_sd: Mapping[str, float] | None = None,
        reward_dial_error: float | None = None,
        reward_episode_sd: float | None = None,
        kernel: KernelOf = Matern52,
    ) -> "Prior":
        """The policy does what it is asked: E[reward return] = R and E[cost return] = G at the target z = (R, G).

        Theorem 1 of PLS says that the expected returns are z plus a Gaussian process, so z is the prior mean and the
        kernel describes the dial's error. Where the log gives no support the cost mean is max(G, limit). The dial
        error is *declared*: the scatter of logged episodes measures noise, not misfit, and is never taken for it.
        The first axis of `space` is the reward, every limit has an axis of its own name; `lengthscales` holds one a
        named axis, in its units, shared by all outputs.

        Raises:
            BadPrior: if a scale is missing, not finite or not positive.
        """
        missing = [name for name in (limit.name for limit in limits) if name not in space.names[1:]]
        if missing:
            raise BadPrior(f"no axis for the limited cost {missing[0]!r} among {space.names[1:]} of the target space")
        if set(lengthscales) != set(space.names):
            raise BadPrior(f"lengthscales are declared for {sorted(lengthscales)}, the dial has axes {space.names}")
        scales = tuple(float(lengthscales[name]) for name in space.names)
        dial_error = dict(dial_error or {})
        episode_sd = dict(episode_sd or {})
        costs = {}
        for limit in limits:
            asked = space.points[:, space.names.index(limit.name)]
            sd = dial_error.pop(limit.name, DIAL_ERROR_SHARE * limit.value)
            costs[limit.name] = OutputPrior(
                mean=np.where(support, asked, np.maximum(asked, limit.value)),
                kernel=_kernel(kernel, sd, scales, f"dial error of cost {limit.name!r}"),
                episode_sd=episode_sd.pop(limit.name, EPISODE_SD_SHARE * limit.value),
            )
        unknown = [*dial_error, *episode_sd]
        if unknown:
            raise BadPrior(
                f"dial_error or episode_sd names {unknown[0]!r}, which has no limit; limits are on {[*costs]}"
            )
        reward = space.points[:, 0]
        span = float(reward.max() - reward.min())
        reward_sd = REWARD_DIAL_ERROR_SHARE * span if reward_dial_error is None else reward_dial_error
        return Prior(
            space=space,
            reward=OutputPrior(
                mean=reward.copy(),
                kernel=_kernel(kernel, reward_sd, scales, "dial error of the reward"),
                episode_sd=REWARD_EPISODE_SD_SHARE * span if reward_episode_sd is None else reward_episode_sd,
            ),
            costs=costs,
            support=support,
        )


def _kernel(kind: KernelOf, sd: float, lengthscales: tuple[float, ...], what: str) -> Kernel:
    """A kernel, its refusal named for what was declared."""
    try:
        return kind(sd, lengthscales)
    except UsageError as error:
        raise BadPrior(f"{what}: {error}") from error


def kernel_name(kernel: Kernel) -> str:
    """The name of a kernel in the ledger.

    Raises:
        UsageError: if it is not one of ours: a run with it could not be resumed or verified.
    """
    for name, kind in KERNELS.items():
        if type(kernel) is kind:
            return name
    raise UsageError(f"kernel {type(kernel).__name__} has no name in a ledger; use one of {sorted(KERNELS)}")
