"""Belief about one output after the told episodes: the mixture of processes, and the noise it is told with."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float, Int
from scipy.special import gammaincinv

from safehold.gp.mixture import Mixture

NOISE_STEP = 1.1
"""Used episode variances are the floor times a power of this: rounded up, so that they seldom change."""


@dataclass(frozen=True, slots=True)
class ToldMean:
    """What one trial's episodes said of the limited statistic (of the mean, for most limits) at a candidate.

    `noise_factor` times the variance of one episode is the statistic's noise variance: 1 / n for a mean.
    `extra_variance` is added where outcomes are unknown, the square of half of the range that they leave; the value is
    the upper end of it. Such a statistic informs the posterior and no weights.
    """

    index: int
    value: float
    episodes: int
    noise_factor: float
    extra_variance: float

    @property
    def unknown(self) -> float:
        """How far the value may be above the true statistic: outcomes that are unknown are told at their largest."""
        return 2.0 * math.sqrt(self.extra_variance)

    @property
    def weighed(self) -> bool:
        """Whether it counts for the weights of the mixture: only what was really measured does."""
        return self.extra_variance == 0.0


@dataclass(frozen=True, slots=True)
class Partner:
    """The reward beside a cost that is believed to go with it: the second output of the cost's coupled process.

    A reward r is told as a measurement `gain` r of that output, its noise variance `gain`^2 times that of r. `gain` is
    the cost's dial error over the reward's, negative where the declared correlation is. `told`, one a told statistic of
    the cost, is None where no episode's reward is known. `floor`: declared variance of one episode's reward; `scale`:
    what it is multiplied by, by the bound that the reward's own belief is at.
    """

    gain: float
    floor: Float[np.ndarray, "m"] = field(repr=False)
    told: tuple[ToldMean | None, ...] = ()
    scale: float = 1.0

    def measurements(
        self, points: Sequence[ToldMean]
    ) -> tuple[Int[np.ndarray, "b"], Float[np.ndarray, "b"], Float[np.ndarray, "b"]]:
        """Mean rewards as the coupled process is told them: candidates of the second output, values, noise."""
        indices = np.array([point.index for point in points], dtype=np.int64)
        factors = np.array([point.noise_factor for point in points])
        values = self.gain * np.array([point.value for point in points])
        return len(self.floor) + indices, values, self.gain**2 * self.scale * self.floor[indices] * factors


@dataclass(frozen=True)
class Belief:
    """What is known of one output.

    A statistic is told with noise variance v(z) times its noise factor. v(z) = s * floor(z), floor the declared
    variance of one episode. Unless the noise is declared known (`miss` None), s is the larger of 1 and an upper
    confidence bound on the variance relative to its floor, pooled over all told replicates; the bound after the n-th
    tell is wrong with probability at most miss / (n (n + 1)), so that all of them together are with at most `miss`.
    It is recomputed after every measurement, from all of them; replicates of one batch are never used for that batch
    alone, since that would trust a batch of lucky (all-zero) episodes more than an unlucky one.

    What certifies, `risk`, `upper` and `lower`, is the more cautious of two beliefs: with the assumed costs of failed
    episodes, and without. An assumption at one target can make another one look safer; it may only count against one.

    With a `partner`, every trial's mean reward is told besides, as a measurement of the other output of the declared
    pair. It counts for the weights, being measured, like the trial's cost: where an episode failed, the rewards of the
    others are in the one of those two beliefs that holds the assumption, and not in the other.
    """

    prior: Mixture
    process: Mixture
    floor: Float[np.ndarray, "m"] = field(repr=False)
    miss: float | None
    rounds: int = 0
    told: tuple[ToldMean, ...] = ()
    squares: float = 0.0
    degrees: int = 0
    scale: float = 1.0
    partner: Partner | None = None

    @staticmethod
    def before(
        prior: Mixture,
        floor: Float[np.ndarray, "m"],
        miss: float | None,
        rounds: int = 0,
        partner: Partner | None = None,
    ) -> "Belief":
        """Nothing told yet: the declared floor is the noise. `rounds` bounds were already drawn from `miss`."""
        return Belief(prior, prior, floor, miss, rounds, partner=partner)

    def episode_variance(self, index: int) -> float:
        """Variance of one episode at a candidate, as the model uses it now."""
        return float(self.floor[index]) * self.scale

    def risk(self, limit: float, inflate: float = 1.0) -> Float[np.ndarray, "m"]:
        """P(statistic > limit), the larger of that with and without what was assumed."""
        risk, measured = self.process.risk(limit, inflate), self.process.measured
        return risk if measured is self.process else np.maximum(risk, measured.risk(limit, inflate))

    def upper(self, multiplier: float) -> Float[np.ndarray, "m"]:
        """max_j mu_j + multiplier sd_j, the larger of that with and without what was assumed."""
        upper, measured = self.process.upper(multiplier), self.process.measured
        return upper if measured is self.process else np.maximum(upper, measured.upper(multiplier))

    def lower(self, multiplier: float) -> Float[np.ndarray, "m"]:
        """min_j mu_j - multiplier sd_j, the smaller of that with and without what was assumed."""
        lower, measured = self.process.lower(multiplier), self.process.measured
        return lower if measured is self.process else np.minimum(lower, measured.lower(multiplier))

    def tell(
        self,
        point: ToldMean,
        replicates: Float[np.ndarray, "_"],
        reward: ToldMean | None = None,
        reward_scale: float = 1.0,
    ) -> "Belief":
        """The belief after the episodes of one trial; `replicates`, those really measured, inform the noise.

        `reward`, their mean reward, and `reward_scale`, how the noise of all rewards so far is scaled now, bear on a
        belief with a partner, and on no other.
        """
        squares, degrees, rounds = self.squares, self.degrees, self.rounds + 1
        if len(replicates) > 1:
            squares += float(np.sum((replicates - np.mean(replicates)) ** 2)) / float(self.floor[point.index])
            degrees += len(replicates) - 1
        scale, partner = self.scale, self.partner
        if self.miss is not None:
            scale = rounded_up(variance_bound(squares, degrees, self.miss / (rounds * (rounds + 1))), 1.0)
        anew = scale != self.scale
        if partner is not None:
            anew = anew or reward_scale != partner.scale
            partner = replace(partner, told=(*partner.told, reward), scale=reward_scale)
        after = replace(
            self,
            told=(*self.told, point),
            squares=squares,
            degrees=degrees,
            rounds=rounds,
            scale=scale,
            partner=partner,
        )
        process = after._conditioned(self.prior, 0) if anew else after._conditioned(self.process, len(self.told))
        return replace(after, process=process)

    def _conditioned(self, process: Mixture, start: int) -> Mixture:
        """Tells what was told from number `start` on to a process; what stays out of the weights last."""
        told = self.told[start:]
        rewards = (None,) * len(told) if self.partner is None else self.partner.told[start:]
        for weigh in (True, False):
            points = [point for point in told if point.weighed == weigh]
            if not points:
                continue
            indices = np.array([point.index for point in points])
            values = np.array([point.value for point in points])
            factors = np.array([point.noise_factor for point in points])
            extra = np.array([point.extra_variance for point in points])
            noise = self.scale * self.floor[indices] * factors + extra
            if self.partner is not None:
                pairs = zip(told, rewards, strict=True)
                heard = [reward for point, reward in pairs if reward is not None and point.weighed == weigh]
                beside = self.partner.measurements(heard)
                indices, values, noise = (np.concatenate(b) for b in zip((indices, values, noise), beside, strict=True))
            process = process.condition(indices, values, noise, weigh=weigh)
        return process


def variance_bound(squares: float, degrees: int, miss: float) -> float:
    """One-sided upper confidence bound on a variance: squares / chi2_miss; 0 without replicates.

    Exact for Gaussian episodes: squares / v has a chi-square distribution with `degrees`, and is under its
    `miss`-quantile with probability `miss`.
    """
    if degrees == 0:
        return 0.0
    return squares / (2.0 * float(gammaincinv(degrees / 2.0, miss)))


def rounded_up(variance: float, floor: float) -> float:
    """The smallest floor * NOISE_STEP**k, k = 0, 1, ..., that is not below the variance.

    Rounding up only widens bands, and keeps the noise of earlier measurements unchanged from most tells to the next,
    so that the belief is extended by a row instead of computed afresh.
    """
    if variance <= floor:
        return floor
    steps = math.ceil(math.log(variance / floor) / math.log(NOISE_STEP))
    level = floor * NOISE_STEP**steps
    return level if level >= variance else level * NOISE_STEP
