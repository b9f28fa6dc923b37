"""Monitors of a running deployment: does the model still describe what is measured, and do targets keep the limit?"""

import math
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import log_ndtr, ndtri_exp

from safehold.core.constraint import Limit
from safehold.core.errors import DataError, ModelError
from safehold.deploy.betting import LOG_WEIGHTS, Capital, probability

SHIFTS = (-1.0, 0.0, 0.5, 1.0, 2.0)
"""Means of a standardised innovation that the monitor bets on, 0 if the model is right."""

SCALES = (1.0, 1.5, 2.0, 3.0, 5.0)
"""Standard deviations of a standardised innovation that the monitor bets on, 1 if the model is right."""

STAKED = 0.5
"""Share of the capital that is bet from the first outcome on: the model may be wrong from the start."""

HAZARD = 0.05
"""Share of the capital not yet bet that enters at every outcome: the world may change at any time."""

_MOST = 1e6  # scores further out count as this far: evidence enough, and their squares stay finite
_ALTERNATIVES = np.array([(shift, scale) for shift in SHIFTS for scale in SCALES if (shift, scale) != (0.0, 1.0)])
_ALTERNATIVE_LOG_WEIGHTS = np.full(len(_ALTERNATIVES), -math.log(len(_ALTERNATIVES)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Wager:
    """Capital spread over several bets, part of it staked at once and part later, for changes at an unknown time.

    Before outcome t a share `HAZARD` of what is not yet staked joins the bets, in proportion to their weights; then
    the outcome multiplies each bet by its factor. With factors of expectation <= 1 the total is a nonnegative
    supermartingale that starts with 1 [a mixture over change times, as Shiryaev 1963], so that
    P(it ever reaches 1 / level) <= level.

    `log_bets`: logarithm of what each bet holds now. `log_unstaked`: of what is kept back. `log_peak`: of the largest
    total so far. `n`: outcomes.
    """

    log_bets: tuple[float, ...]
    log_unstaked: float
    log_peak: float = 0.0
    n: int = 0

    @staticmethod
    def start(log_weights: Float[np.ndarray, "K"]) -> "Wager":
        """The wager before the first outcome, over bets with these weights (sum of exp = 1)."""
        return Wager(
            log_bets=tuple(float(value) for value in log_weights + math.log(STAKED)),
            log_unstaked=math.log1p(-STAKED),
        )

    def after(self, log_factors: Float[np.ndarray, "n K"], log_weights: Float[np.ndarray, "K"]) -> "Wager":
        """The wager after n outcomes, in order; the same whether told at once or one by one."""
        bets, unstaked, peak = np.array(self.log_bets), self.log_unstaked, self.log_peak
        for factors in log_factors:
            bets = np.logaddexp(bets, unstaked + math.log(HAZARD) + log_weights) + factors
            unstaked += math.log1p(-HAZARD)
            peak = max(peak, float(np.logaddexp(np.logaddexp.reduce(bets), unstaked)))
        return Wager(
            log_bets=tuple(float(value) for value in bets),
            log_unstaked=unstaked,
            log_peak=peak,
            n=self.n + len(log_factors),
        )

    @property
    def log_value(self) -> float:
        """Natural logarithm of the total now."""
        return float(np.logaddexp(np.logaddexp.reduce(np.array(self.log_bets)), self.log_unstaked))


@dataclass(frozen=True, slots=True, kw_only=True)
class InnovationMonitor:
    """Watches one modelled output: does the model predict its measurements as well as it says?

    Told are normal scores u of measurements under their prediction (`innovation`, `normal_score`), each predicted
    from everything told before it. If the declared model is right they are independent standard normal, and the
    likelihood ratio N(u; shift, scale^2) / N(u; 0, 1) of every alternative is a martingale; the monitor is a `Wager`
    over the alternatives `SHIFTS` x `SCALES`. P(alarm ever) <= level while the model is right.

    No alternative is narrower than the model, so every likelihood ratio is convex in u: predictions of one Gaussian
    process with a variance declared too large keep the level as well. If the noise variance is estimated from few
    replicates, scores have heavier tails than normal and the level is approximate.
    A failed measurement has no score and is not told: failures are the `CostMonitor`'s.
    A wrong length-scale is found seldom [docs/results/monitors.md]: the monitor is no substitute for a cautious prior.
    """

    level: float
    wager: Wager

    @staticmethod
    def start(level: float) -> "InnovationMonitor":
        """The monitor before the first measurement; `level` is its false-alarm probability over the whole run."""
        return InnovationMonitor(level=probability("level", level), wager=Wager.start(_ALTERNATIVE_LOG_WEIGHTS))

    def told(self, scores: Float[np.ndarray, "n"]) -> "InnovationMonitor":
        """The monitor after more normal scores, in the order they were told.

        Raises:
            DataError: if a score is not finite.
        """
        if not np.all(np.isfinite(scores)):
            raise DataError(
                f"normal scores {scores} are not all finite; a failed measurement has no score, leave it out"
            )
        u = np.clip(scores, -_MOST, _MOST)[:, None]
        shift, scale = _ALTERNATIVES.T
        log_ratios = 0.5 * u**2 - 0.5 * ((u - shift) / scale) ** 2 - np.log(scale)
        return replace(self, wager=self.wager.after(log_ratios, _ALTERNATIVE_LOG_WEIGHTS))

    @property
    def value(self) -> float:
        """The evidence against the model now: an e-value, 1 at the start (values above 1e300 are given as that)."""
        return math.exp(min(self.wager.log_value, 690.0))

    @property
    def alarmed(self) -> bool:
        """True once the evidence has reached 1 / level; it never goes back."""
        return self.wager.log_peak >= -math.log(self.level)


@dataclass(frozen=True, slots=True, kw_only=True)
class CostMonitor:
    """Watches one limit on the raw episodes of every deployed target, without any model of costs over targets.

    Hypothesis: every deployed target keeps the limit in every episode's expectation. Half of the capital bets against
    it on all episodes pooled (a drift is found over many targets); half on each target's own episodes, the k-th
    distinct target holding 1 / (k (k + 1)) of that half. Bets and what counts as a cost are those of `Capital` against
    "safe"; each is a `Wager`, for drift. The total is one nonnegative supermartingale:
    P(alarm ever) <= level over all targets together while the hypothesis holds.

    Premises: the order of targets is that of their asks (`asked`, before any outcome), and neither that order nor
    the delay of an outcome depends on what the outcome will be.

    A failed or missing episode counts as the cap: a target that fails often is alarmed about although nobody saw it
    cost.
    """

    level: float
    bet: Capital
    pooled: Wager
    targets: tuple[tuple[int, Wager], ...] = ()
    log_peak: float = 0.0

    @staticmethod
    def start(limit: Limit, cap: float, level: float) -> "CostMonitor":
        """The monitor of one limit before the first ask; `cap` bounds an episode's cost by construction."""
        return CostMonitor(
            level=probability("level", level), bet=Capital.of(limit, cap, "safe"), pooled=Wager.start(LOG_WEIGHTS)
        )

    def asked(self, target: int) -> "CostMonitor":
        """The monitor after a target (its number) was handed out; the first time decides its share."""
        if any(target == known for known, _ in self.targets):
            return self
        return replace(self, targets=(*self.targets, (target, Wager.start(LOG_WEIGHTS))))

    def told(
        self, target: int, costs: Float[np.ndarray, "n"], failed: Bool[np.ndarray, "_"] | None = None
    ) -> "CostMonitor":
        """The monitor after episodes of a target, in the order they ran.

        Costs come as the limit's own fold gives them, in its units.

        Raises:
            DataError: if a cost is negative, costs and marks differ in number, or the target was never asked.
        """
        if not any(target == known for known, _ in self.targets):
            raise DataError(f"target {target} was told to the cost monitor but never asked; record the ask first")
        steps = self.bet.steps(costs, failed)
        after = replace(
            self,
            pooled=self.pooled.after(steps, LOG_WEIGHTS),
            targets=tuple(
                (known, wager.after(steps, LOG_WEIGHTS) if known == target else wager) for known, wager in self.targets
            ),
        )
        return replace(after, log_peak=max(self.log_peak, after.log_value))

    @property
    def log_value(self) -> float:
        """Natural logarithm of the evidence that some deployed target does not keep the limit."""
        parts = [self._log_share(place) + wager.log_value for place, (_, wager) in enumerate(self.targets, start=1)]
        rest = math.log(0.5 / (len(self.targets) + 1))  # kept for targets that never come
        return float(np.logaddexp.reduce([math.log(0.5) + self.pooled.log_value, rest, *parts]))

    @property
    def value(self) -> float:
        """The same as an e-value, 1 at the start (values above 1e300 are given as that)."""
        return math.exp(min(self.log_value, 690.0))

    @property
    def alarmed(self) -> bool:
        """True once the evidence has reached 1 / level; it never goes back."""
        return self.log_peak >= -math.log(self.level) or len(self.accused) > 0

    @property
    def accused(self) -> tuple[int, ...]:
        """Targets whose own episodes alone are evidence enough that they do not keep the limit.

        An alarm without an accused target speaks against the deployment as a whole.
        """
        needed = -math.log(self.level)
        return tuple(
            target
            for place, (target, wager) in enumerate(self.targets, start=1)
            if self._log_share(place) + wager.log_peak >= needed
        )

    @staticmethod
    def _log_share(place: int) -> float:
        return math.log(0.5) - math.log(place * (place + 1))


def innovation(value: float, mean: float, variance: float, noise_variance: float) -> float:
    """Normal score of a measurement under one Gaussian process: (y - mu) / sqrt(sd^2 + noise variance).

    Raises:
        ModelError: if the prediction has no positive finite variance.
    """
    return normal_score(
        value, np.array([mean]), np.array([math.sqrt(max(variance + noise_variance, 0.0))]), np.array([1.0])
    )


def normal_score(
    value: float, means: Float[np.ndarray, "J"], sds: Float[np.ndarray, "J"], weights: Float[np.ndarray, "J"]
) -> float:
    """Normal score of a measurement under a mixture of Gaussian predictions: Phi^-1(sum_j w_j Phi((y - mu_j) / sd_j)).

    `sds` are predictive: noise included. Standard normal if the mixture is the measurement's law (probability
    integral transform); exact in both tails. At most 1e6 in size.

    Raises:
        DataError: if the value is not finite.
        ModelError: if the prediction is not finite, or has no positive standard deviations, or weights that do not
            sum to 1.
    """
    if not math.isfinite(value):
        raise DataError(f"measurement is {value}; a failed measurement has no normal score, leave it out")
    fine = np.all(np.isfinite(means)) and np.all(np.isfinite(sds)) and np.all(sds > 0) and np.all(weights >= 0)
    if not (fine and abs(float(np.sum(weights)) - 1.0) <= 1e-6):
        raise ModelError(f"prediction with means {means}, standard deviations {sds}, weights {weights} is no mixture")
    used = weights > 0
    with np.errstate(over="ignore"):
        z = np.clip((value - means[used]) / sds[used], -_MOST, _MOST)
    if len(z) == 1:
        return float(z[0])
    logs = np.log(weights[used] / np.sum(weights))
    below, above = np.logaddexp.reduce(logs + log_ndtr(z)), np.logaddexp.reduce(logs + log_ndtr(-z))
    return float(ndtri_exp(below) if below < above else -ndtri_exp(above))
