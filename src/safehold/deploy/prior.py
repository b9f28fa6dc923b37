"""What is believed of every candidate before the first ask, declared and never refitted."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float
from scipy.linalg import cho_factor, cho_solve

from safehold.core.constraint import Limit
from safehold.core.errors import BadPrior, UsageError
from safehold.core.target import TargetSpace
from safehold.deploy.belief import Belief, Partner
from safehold.gp.coupled import coupled, factors
from safehold.gp.kernels import Factor, Kernel, Matern52, Product
from safehold.gp.linear import LinearTerms
from safehold.gp.mixture import Mixture
from safehold.gp.process import process_for

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

LENGTHSCALE_SHARES = (0.1, 0.15, 0.2, 0.3, 0.5)
"""Length-scales of the default hyper-prior, as shares of each axis' range: short ones are the cautious ones, and what
an overstated length-scale breaks neither an alarm nor a small delta makes up for."""

UNEVEN_SHARES = (0.5, 0.2)
"""Besides: one axis along which the dial's error changes slowly, all others quicker; once for every axis."""

DIAL_ERROR_FACTORS = (0.7, 1.4)
"""Standard deviations of the default hyper-prior, as factors of the declared dial error."""

REWARD_LENGTHSCALE_SHARE = 0.3
"""Length-scale of the reward where none is declared; it carries no safety."""


@dataclass(frozen=True, kw_only=True)
class OutputPrior:
    """Belief about one output (the reward return, or one limited cost) over the candidates: a mixture of processes.

    The output is drawn from `kernels[j]` around `mean` with probability `weights[j]` (equal parts if not said);
    `linear` adds the uncertain coefficients of a fitted mean to every one of them. `episode_sd` is the declared
    standard deviation of one episode's return around its expectation, one number or one a candidate. It is a floor:
    the model may use more of the same shape once replicates show it, never less. With `noise_known` it is the noise.

    `correlation`, of a cost, one rho_j a kernel: its dial error goes with the reward's. cost = mean + sd_j u, reward =
    its mean + ratio sd_j v, u and v with the correlations k_j of kernel j of the *cost*, Corr(u(z), v(z')) = rho_j
    k_j(z, z'); ratio is the reward's dial error over the cost's (`dial_sd`). (): the reward says nothing of this cost.
    """

    mean: Float[np.ndarray, "m"]
    kernels: tuple[Kernel, ...]
    weights: tuple[float, ...] = ()
    episode_sd: float | Float[np.ndarray, "m"]
    noise_known: bool = False
    linear: LinearTerms | None = None
    correlation: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.kernels:
            raise BadPrior("a prior needs at least one kernel; declare how far the dial may be off")
        weights = np.array(self.weights or (1.0,) * len(self.kernels), dtype=np.float64)
        if len(weights) != len(self.kernels) or not np.all(np.isfinite(weights) & (weights > 0)):
            raise BadPrior(f"{len(self.kernels)} kernels have the weights {self.weights}; one each, positive")
        object.__setattr__(self, "weights", tuple((weights / weights.sum()).tolist()))
        rhos = self.correlation
        if rhos and len(rhos) != len(self.kernels):
            raise BadPrior(
                f"{len(self.kernels)} kernels have the correlations {rhos} with the reward; one each, or none"
            )
        if not all(-1.0 < rho < 1.0 for rho in rhos) or (rhos and min(rhos) < 0.0 < max(rhos)):
            raise BadPrior(
                f"correlations of a cost with the reward are {sorted(set(rhos))}; they are above -1 and under 1, and "
                "all of one sign"
            )

    @property
    def log_weights(self) -> tuple[float, ...]:
        """Logarithms of the weights, which add up to one."""
        return tuple(math.log(weight) for weight in self.weights)

    @cached_property
    def episode_variance(self) -> Float[np.ndarray, "m"]:
        """Declared variance of one episode at every candidate."""
        return np.broadcast_to(np.asarray(self.episode_sd, dtype=np.float64) ** 2, self.mean.shape)

    @property
    def dial_sd(self) -> float:
        """Standard deviation of the dial's error over the whole mixture."""
        return math.sqrt(sum(w * kernel.sd**2 for w, kernel in zip(self.weights, self.kernels, strict=True)))

    def covariance(self, a: Float[np.ndarray, "p d"], b: Float[np.ndarray, "q d"]) -> Float[np.ndarray, "p q"]:
        """Prior covariance of the dial's error over the whole mixture, linear terms excluded."""
        total = np.zeros((len(a), len(b)))
        for weight, kernel in zip(self.weights, self.kernels, strict=True):
            total += weight * kernel(a, b)
        return total

    def process(self, space: TargetSpace) -> Mixture:
        """The belief before any measurement, of this output by itself."""
        members = tuple(process_for(kernel, space, self.mean, self.linear) for kernel in self.kernels)
        return Mixture(members, self.log_weights)


@dataclass(frozen=True, kw_only=True)
class OfflineTable:
    """What an offline evaluation or a simulator says of some targets, one row a target.

    `means` and `standard_errors` hold, for the reward under the name of its axis and for every limited cost under its
    own, the estimated limited statistic (the mean return, but for chance and cvar limits) and its standard error.
    """

    targets: Float[np.ndarray, "e d"]
    means: Mapping[str, Float[np.ndarray, "e"]]
    standard_errors: Mapping[str, Float[np.ndarray, "e"]]


@dataclass(frozen=True, kw_only=True)
class Prior:
    """Prior of the reward and of every limited cost, and the candidates that the log supports.

    `support`: candidates near logged returns. Outside it the policy extrapolates and nothing is ever certified.
    `contexts` names the axes that number a finite context (policies, checkpoints, payloads).
    """

    space: TargetSpace
    reward: OutputPrior
    costs: Mapping[str, OutputPrior]
    support: Bool[np.ndarray, "m"]
    contexts: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        m = len(self.space)
        if self.support.shape != (m,):
            raise BadPrior(f"support marks {self.support.shape} candidates, the target space has {m}; one mark each")
        unknown = [name for name in self.contexts if name not in self.space.names[1:]]
        if unknown:
            raise BadPrior(
                f"context {unknown[0]!r} is no axis of the dial {self.space.names}, or its first, the reward; "
                "a context is an axis of its own"
            )
        for name, output in [("the reward", self.reward), *((f"cost {n!r}", o) for n, o in self.costs.items())]:
            if output.mean.shape != (m,) or not np.all(np.isfinite(output.mean)):
                raise BadPrior(
                    f"prior mean of {name} must be one finite number for each of {m} candidates, got shape "
                    f"{output.mean.shape} with {int(np.sum(~np.isfinite(output.mean)))} non-finite values"
                )
            for kernel in output.kernels:
                if len(kernel.lengthscales) != len(self.space.axes):
                    raise BadPrior(
                        f"kernel of {name} has {len(kernel.lengthscales)} lengthscales, "
                        f"the dial has the axes {self.space.names}; declare one an axis"
                    )
            noise = np.asarray(output.episode_sd, dtype=np.float64)
            if noise.shape not in ((), (m,)) or not np.all(np.isfinite(noise) & (noise > 0)):
                raise BadPrior(
                    f"episode noise of {name} is declared as {output.episode_sd}; its standard deviation must be "
                    "positive, one number or one a candidate: a noise of zero would certify from a batch of lucky "
                    "episodes"
                )
            if output.linear is not None and len(output.linear.features) != m:
                raise BadPrior(f"linear terms of {name} have {len(output.linear.features)} rows for {m} candidates")
        _check_coupled(self)

    @property
    def coupled(self) -> str | None:
        """The cost that is believed to go with the reward, if one is."""
        return next((name for name, output in self.costs.items() if output.correlation), None)

    @property
    def n_estimated(self) -> int:
        """Number of outputs whose noise is bounded from replicates, and bears on what certificates rest on."""
        outputs = [*self.costs.values(), *([] if self.coupled is None else [self.reward])]
        return sum(not output.noise_known for output in outputs)

    def belief(self, name: str, miss: float | None, rounds: int = 0) -> Belief:
        """What is believed of a cost before anything is told; `rounds` noise bounds were already drawn from `miss`."""
        cost, reward = self.costs[name], self.reward
        process, partner = cost.process(self.space), None
        if cost.correlation:
            sign = -1.0 if min(cost.correlation) < 0.0 else 1.0
            gain = sign * cost.dial_sd / reward.dial_sd
            strengths = tuple(abs(rho) for rho in cost.correlation)
            pair = coupled(cost.kernels, self.space, cost.mean, gain * reward.mean, strengths)
            process, partner = Mixture.of(pair, cost.log_weights), Partner(gain, reward.episode_variance)
        return Belief.before(process, cost.episode_variance, miss, rounds, partner)

    @staticmethod
    def asked(
        space: TargetSpace,
        limits: Sequence[Limit],
        support: Bool[np.ndarray, "m"],
        *,
        lengthscales: Mapping[str, float] | None = None,
        dial_error: Mapping[str, float] | None = None,
        episode_sd: Mapping[str, float] | None = None,
        noise_known: bool = False,
        reward_dial_error: float | None = None,
        reward_episode_sd: float | None = None,
        kernel: KernelOf = Matern52,
        contexts: Mapping[str, float] | None = None,
        correlation: Mapping[str, Sequence[float]] | None = None,
    ) -> "Prior":
        """The policy does what it is asked: E[reward return] = R and E[cost return] = G at the target z = (R, G).

        Theorem 1 of PLS says that the expected returns are z plus a Gaussian process, so z is the prior mean and the
        kernels describe the dial's error. Where the log gives no support the cost mean is max(G, limit). For a chance
        or cvar limit the mean is that of the limited statistic, G + kappa `episode_sd`. The dial error is *declared*:
        the scatter of logged episodes measures noise, not misfit, and is never taken for it.
        The first axis of `space` is the reward, every limit has an axis of its own name; `contexts` names further
        axes that number a finite context, each with the correlation of two different values.

        Without `lengthscales`, every cost has the default hyper-prior: a mixture of products of Matern 5/2, with
        length-scales from 0.1 to 0.5 of each axis' range, short ones weighing more, and 0.7 and 1.4 times the dial
        error. With `lengthscales`, one a dial axis in its units, it is one `kernel` for all outputs (with contexts, a
        product of Matern 5/2).

        `correlation`: of one cost's dial error with the reward's, by the cost's name (`OutputPrior.correlation`); of
        several each is as likely, beside every kernel. Then `reward_dial_error` and `reward_episode_sd` bear on safety
        too. It needs kernels that are products.

        Raises:
            BadPrior: if a scale is missing, not finite or not positive.
        """
        contexts = dict(contexts or {})
        foreign = [name for name in contexts if name not in space.names]
        if foreign:
            raise BadPrior(
                f"context {foreign[0]!r} is no axis of the dial {space.names}; a context is an axis of its own"
            )
        dials = tuple(name for name in space.names if name not in contexts)
        missing = [name for name in (limit.name for limit in limits) if name not in dials[1:]]
        if missing:
            raise BadPrior(f"no axis for the limited cost {missing[0]!r} among {space.names[1:]} of the target space")
        if lengthscales is not None and set(lengthscales) != set(dials):
            raise BadPrior(f"lengthscales are declared for {sorted(lengthscales)}, the dial has axes {dials}")
        scales = _Scales(space, contexts, lengthscales, kernel)
        dial_error = dict(dial_error or {})
        episode_sd = dict(episode_sd or {})
        correlation = dict(correlation or {})
        if correlation and (reward_dial_error is None or reward_episode_sd is None):
            raise BadPrior(
                "with a correlation, what is declared of the reward carries safety: declare reward_dial_error and "
                "reward_episode_sd, which otherwise are shares of the menu's span"
            )
        costs = {}
        for limit in limits:
            noise = episode_sd.pop(limit.name, EPISODE_SD_SHARE * limit.value)
            asked = space.points[:, space.names.index(limit.name)] + limit.kappa * noise
            sd = dial_error.pop(limit.name, DIAL_ERROR_SHARE * limit.value)
            kernels, weights = scales.of_cost(sd, f"dial error of cost {limit.name!r}")
            rhos = tuple(float(rho) for rho in correlation.pop(limit.name, ()))
            times = max(len(rhos), 1)
            costs[limit.name] = OutputPrior(
                mean=np.where(support, asked, np.maximum(asked, limit.value)),
                kernels=kernels * times,
                weights=weights * times,
                episode_sd=noise,
                noise_known=noise_known,
                correlation=tuple(rho for rho in rhos for _ in kernels),
            )
        unknown = [*dial_error, *episode_sd, *correlation]
        if unknown:
            raise BadPrior(
                f"dial_error, episode_sd or correlation names {unknown[0]!r}, which has no limit; "
                f"limits are on {[*costs]}"
            )
        reward = space.points[:, 0]
        span = float(reward.max() - reward.min())
        reward_sd = REWARD_DIAL_ERROR_SHARE * span if reward_dial_error is None else reward_dial_error
        return Prior(
            space=space,
            reward=OutputPrior(
                mean=reward.copy(),
                kernels=(scales.of_reward(reward_sd, "dial error of the reward"),),
                episode_sd=REWARD_EPISODE_SD_SHARE * span if reward_episode_sd is None else reward_episode_sd,
                noise_known=noise_known,
            ),
            costs=costs,
            support=support,
            contexts=tuple(name for name in space.names if name in contexts),
        )

    @staticmethod
    def around(
        space: TargetSpace,
        reward: Float[np.ndarray, "m"],
        costs: Mapping[str, Float[np.ndarray, "m"]],
        *,
        dial_error: Mapping[str, float],
        episode_sd: Mapping[str, float],
        reward_dial_error: float,
        reward_episode_sd: float,
    ) -> "Prior":
        """A declared mean for every candidate, for a dial that is no return; errors have the default hyper-prior.

        Raises:
            BadPrior: if a scale is missing, not finite or not positive.
        """
        scales = _Scales(space, {}, None, Matern52)
        outputs = {}
        for name, mean in costs.items():
            if name not in dial_error or name not in episode_sd:
                raise BadPrior(f"cost {name!r}: declare its dial error, and the scatter of its episodes")
            kernels, weights = scales.of_cost(dial_error[name], f"dial error of cost {name!r}")
            outputs[name] = OutputPrior(mean=mean, kernels=kernels, weights=weights, episode_sd=episode_sd[name])
        kernel = scales.of_reward(reward_dial_error, "dial error of the reward")
        return Prior(
            space=space,
            reward=OutputPrior(mean=reward, kernels=(kernel,), episode_sd=reward_episode_sd),
            costs=outputs,
            support=np.ones(len(space), dtype=np.bool_),
        )

    def from_offline(self, limits: Sequence[Limit], table: OfflineTable) -> "Prior":
        """The same beliefs around an affine map of the target, fitted to an offline evaluation.

        Each output is believed to be phi(z) b + g(z), g the dial's error as declared, phi = (1, standardised axes), and
        b ~ N(b0, S0): b0 is the affine map nearest to the present mean where supported (for `asked` the identity), and
        S0 allows an offset, and a slope's effect at the end of its axis, of one dial error each. Conditioning on
        the table, whose targets carry an error g of their own, gives b's mean and covariance; the covariance stays
        in the model as linear terms. Where the log gives no support the cost is at least the limit. A table of the
        very policy and world that will be deployed is better told with `observe`; do not use it twice.

        Raises:
            BadPrior: if the table misses an output, or holds anything but finite means and positive errors.
        """
        if self.coupled is not None:
            raise BadPrior(
                f"cost {self.coupled!r} is believed to go with the reward, and their maps are fitted one by one: the "
                "errors that the table's targets have in both would be told twice. Fit without a correlation, or tell "
                "the table's episodes with `observe`"
            )
        _check_table(self, table)
        values = {limit.name: limit.value for limit in limits}
        costs = {}
        for name, output in self.costs.items():
            fitted = _fitted(self, output, table, name)
            mean = np.maximum(fitted.mean, 0.0)
            costs[name] = replace(fitted, mean=np.where(self.support, mean, np.maximum(mean, values[name])))
        reward = _fitted(self, self.reward, table, self.space.names[0])
        return replace(self, reward=reward, costs=costs)

    def explain(self) -> str:
        """What was declared, in words."""
        points = len(self.space)
        axes = ", ".join(
            f"{name} ({len(values)} values from {values[0]:g} to {values[-1]:g}"
            f"{', a context' if name in self.contexts else ''})"
            for name, values in self.space.axes.items()
        )
        lines = [f"{points} candidates over {axes}; the log supports {int(np.sum(self.support))} of them."]
        lines += [_words(f"Cost {name!r}", output, self) for name, output in self.costs.items()]
        lines.append(_words("The reward", self.reward, self))
        return "\n".join(lines)


@dataclass(frozen=True)
class _Scales:
    """Kernels of one dial, by what was declared of its axes."""

    space: TargetSpace
    contexts: Mapping[str, float]
    lengthscales: Mapping[str, float] | None
    kind: KernelOf

    def of_cost(self, sd: float, what: str) -> tuple[tuple[Kernel, ...], tuple[float, ...]]:
        """The declared kernel, or the default hyper-prior with its weights."""
        if self.lengthscales is not None:
            return (self._declared(sd, what),), (1.0,)
        dials = [name for name in self.space.names if name not in self.contexts]
        shapes = [dict.fromkeys(dials, share) for share in LENGTHSCALE_SHARES]
        slow, quick = UNEVEN_SHARES
        if len(dials) > 1:
            shapes += [{name: slow if name == along else quick for name in dials} for along in dials]
        kernels, weights = [], []
        for shape in shapes:
            for factor in DIAL_ERROR_FACTORS:
                kernels.append(self._product(factor * sd, shape, what))
                weights.append(math.exp(-sum(map(math.log, shape.values())) / len(shape)))
        return tuple(kernels), tuple(weights)

    def of_reward(self, sd: float, what: str) -> Kernel:
        """The declared kernel, or one of a middling length-scale."""
        if self.lengthscales is not None:
            return self._declared(sd, what)
        return self._product(sd, dict.fromkeys(self.space.names, REWARD_LENGTHSCALE_SHARE), what)

    def _declared(self, sd: float, what: str) -> Kernel:
        """One kernel with the declared length-scales, its refusal named for what was declared."""
        declared = dict(self.lengthscales or {})
        try:
            if not self.contexts:
                return self.kind(sd, tuple(float(declared[name]) for name in self.space.names))
            return Product(sd, self._with_contexts({name: Factor("matern52", s) for name, s in declared.items()}))
        except UsageError as error:
            raise BadPrior(f"{what}: {error}") from error

    def _product(self, sd: float, shares: Mapping[str, float], what: str) -> Kernel:
        """A product of Matern 5/2 with length-scales as shares of each axis' range."""
        spans = {name: values[-1] - values[0] for name, values in self.space.axes.items()}
        try:
            factors = {
                name: Factor("matern52", share * (spans[name] or 1.0))
                for name, share in shares.items()
                if name not in self.contexts
            }
            return Product(sd, self._with_contexts(factors))
        except UsageError as error:
            raise BadPrior(f"{what}: {error}") from error

    def _with_contexts(self, factors: Mapping[str, Factor]) -> tuple[Factor, ...]:
        """One factor an axis, in the order of the axes."""
        categorical = {name: Factor("categorical", correlation) for name, correlation in self.contexts.items()}
        return tuple((categorical | dict(factors))[name] for name in self.space.names)


def _check_coupled(prior: Prior) -> None:
    """One cost at most goes with the reward, and the pair is one that the grid engine can hold.

    Raises:
        BadPrior: saying what it is not.
    """
    names = [name for name, output in prior.costs.items() if output.correlation]
    if prior.reward.correlation:
        raise BadPrior("the reward has a correlation with itself declared; declare that of a cost with the reward")
    if len(names) > 1:
        raise BadPrior(
            f"costs {names} are all believed to go with the reward, and so with one another, which no certificate "
            "accounts for; declare one correlation at most"
        )
    for name in names:
        if prior.costs[name].linear is not None or prior.reward.linear is not None:
            raise BadPrior(
                f"cost {name!r} is believed to go with the reward, and one of them has an affine map fitted by itself; "
                "a correlation goes with declared means"
            )
        try:
            factors(prior.costs[name].kernels, prior.space)
        except UsageError as error:
            raise BadPrior(f"correlation of cost {name!r} with the reward: {error}") from error


def _fitted(prior: Prior, output: OutputPrior, table: OfflineTable, name: str) -> OutputPrior:
    """One output around its affine map: Bayesian linear regression with errors g + standard error.

    b | y = b0 + S0 Phi^T A^-1 (y - Phi b0),  S = S0 - S0 Phi^T A^-1 Phi S0,  A = Phi S0 Phi^T + K + diag(se^2).
    [R&W 2006, Sec. 2.7; K of the targets in the table]
    """
    everywhere = _features(prior, prior.space.points)
    phi = _features(prior, table.targets)
    start = np.linalg.lstsq(everywhere[prior.support], output.mean[prior.support], rcond=None)[0]
    shrinkage = output.dial_sd**2 * np.eye(phi.shape[1])
    errors = output.covariance(table.targets, table.targets) + np.diag(table.standard_errors[name] ** 2)
    factor = cho_factor(phi @ shrinkage @ phi.T + errors, lower=True)
    gain = cho_solve(factor, phi @ shrinkage).T
    coefficients = start + gain @ (table.means[name] - phi @ start)
    covariance = shrinkage - gain @ phi @ shrinkage
    linear = LinearTerms(everywhere, (covariance + covariance.T) / 2.0)
    return replace(output, mean=everywhere @ coefficients, linear=linear)


def _features(prior: Prior, points: Float[np.ndarray, "p d"]) -> Float[np.ndarray, "p q"]:
    """1, and every dial axis from -1 to 1 over its range; a context has no slope."""
    columns = [np.ones(len(points))]
    for axis, (name, values) in enumerate(prior.space.axes.items()):
        half = (values[-1] - values[0]) / 2.0
        if name not in prior.contexts and half > 0:
            columns.append((points[:, axis] - (values[-1] + values[0]) / 2.0) / half)
    return np.stack(columns, axis=1)


def _check_table(prior: Prior, table: OfflineTable) -> None:
    """Every output once, finite, with positive standard errors, at targets of the dial."""
    names = {prior.space.names[0], *prior.costs}
    if set(table.means) != names or set(table.standard_errors) != names:
        raise BadPrior(
            f"the offline table has means of {sorted(table.means)} and errors of {sorted(table.standard_errors)}; "
            f"give both for each of {sorted(names)}"
        )
    rows = len(table.targets)
    if rows == 0 or table.targets.shape[1] != len(prior.space.axes) or not np.all(np.isfinite(table.targets)):
        raise BadPrior(
            f"the offline table has targets of shape {table.targets.shape}; give at least one, finite, with the axes "
            f"{prior.space.names}"
        )
    for name in sorted(names):
        means, errors = table.means[name], table.standard_errors[name]
        if means.shape != (rows,) or errors.shape != (rows,):
            raise BadPrior(f"the offline table has {rows} targets, {len(means)} means and {len(errors)} errors")
        if not np.all(np.isfinite(means) & np.isfinite(errors) & (errors > 0)):
            raise BadPrior(
                f"the offline table's means of {name!r} must be finite, and its standard errors finite and positive; "
                "an estimate without an error is no evidence"
            )


def _words(what: str, output: OutputPrior, prior: Prior) -> str:
    """One output in a sentence."""
    supported = output.mean[prior.support] if prior.support.any() else output.mean
    sds = sorted({round(kernel.sd, 12) for kernel in output.kernels})
    dials = [axis for axis, name in enumerate(prior.space.names) if name not in prior.contexts]
    scales = "; ".join(
        f"{prior.space.names[axis]} {min(s):.4g} to {max(s):.4g}"
        for axis in dials
        if (s := [kernel.lengthscales[axis] for kernel in output.kernels])
    )
    noise = np.sqrt(output.episode_variance)
    how = "known" if output.noise_known else "at least; more where replicates show it"
    map_ = "; an affine map with uncertain coefficients" if output.linear is not None else ""
    beside = (
        " It is off where the reward is, with a correlation of "
        f"{' or '.join(f'{rho:g}' for rho in sorted(set(output.correlation)))} (the reward by a standard deviation of "
        f"{prior.reward.dial_sd:.4g}): trusted, and never fitted."
        if output.correlation
        else ""
    )
    count = f"{len(output.kernels)} kernel{'s' if len(output.kernels) > 1 else ''}"
    return (
        f"{what}: expected {supported.min():.4g} to {supported.max():.4g} where supported{map_}; the dial may be off "
        f"by a standard deviation of {' or '.join(f'{sd:.4g}' for sd in sds)}, in {count} with length-scales {scales}. "
        f"One episode scatters by {noise.min():.4g}{f' to {noise.max():.4g}' if np.ptp(noise) > 0 else ''} ({how})."
        f"{beside}"
    )
