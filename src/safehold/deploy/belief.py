"""Belief about one output after the told episodes: the mixture of processes, and the noise it is told with."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
from jaxtyping import Float
from scipy.special import gammaincinv

from safehold.core.errors import UsageError
from safehold.gp.mixture import Measurements, Mixture

Prediction: TypeAlias = tuple[Float[np.ndarray, "j"], Float[np.ndarray, "j"], Float[np.ndarray, "j"]]
"""Means and standard deviations of the members, noise excluded, and their weights."""

NOISE_STEP = 1.1
"""Used episode variances are the floor times a power of this: rounded up, so that they seldom change."""


@dataclass(frozen=True, slots=True)
class ToldMean:
    """What one trial's episodes said of the limited statistic (of the mean, for most limits) at a candidate.

    `noise_factor` times the variance of one episode is the statistic's noise variance: 1 / n for a mean.
    `extra_variance` is added where outcomes are unknown, the square of half of the range that they leave; the value is
    the upper end of it. What the episodes that did not fail say is `survivors`, None where they are too few.
    """

    index: int
    value: float
    episodes: int
    noise_factor: float
    extra_variance: float
    survivors: "ToldMean | None" = None

    @property
    def unknown(self) -> float:
        """How far the value may be above the true statistic: outcomes that are unknown are told at their largest."""
        return 2.0 * math.sqrt(self.extra_variance)

    @property
    def whole(self) -> bool:
        """Whether no episode failed."""
        return self.extra_variance == 0.0

    @property
    def measured(self) -> "ToldMean | None":
        """What was really measured of it."""
        return self if self.whole else self.survivors


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

    def measurements(self, points: Sequence[ToldMean]) -> Measurements:
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
    episodes, and with what was really measured alone, the episodes that did not fail told as the fewer that they are.
    The latter is the conditional law given all that was seen, if failing says nothing of costs (docs/guarantees.md,
    section 9). An assumption at one target can make another one look safer; it may only count against one.

    With a `partner`, every trial's mean reward is told besides, as a measurement of the other output of the declared
    pair: in both beliefs, being measured.
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
        """P(statistic > limit), the larger of that with what was assumed and by what was measured alone."""
        risk, measured = self.process.risk(limit, inflate), self.process.measured
        return risk if measured is self.process else np.maximum(risk, measured.risk(limit, inflate))

    def upper(self, multiplier: float) -> Float[np.ndarray, "m"]:
        """max_j mu_j + multiplier sd_j, the larger of that with what was assumed and by what was measured alone."""
        upper, measured = self.process.upper(multiplier), self.process.measured
        return upper if measured is self.process else np.maximum(upper, measured.upper(multiplier))

    def lower(self, multiplier: float) -> Float[np.ndarray, "m"]:
        """min_j mu_j - multiplier sd_j, the smaller of that with what was assumed and by what was measured alone."""
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

    @property
    def told_reward(self) -> ToldMean | None:
        """The mean reward that was told beside the last statistic; None without a partner, or where none is known."""
        return None if self.partner is None else self.partner.told[-1]

    def foretold(self, index: int) -> Prediction:
        """What was believed of the output at a candidate, by what was really measured."""
        process = self.process.measured
        return process.means[:, index], process.sds[:, index], process.weights

    def foretold_partner(self, index: int) -> Prediction:
        """The same of the other output of the pair: the reward times `Partner.gain`."""
        if self.partner is None:
            raise UsageError("this output goes with no reward; only a belief with a partner foretells one")
        process, place = self.process.measured, len(self.floor) + index
        means = np.array([member.mean[place] for member in process.members])
        sds = np.sqrt(np.array([member.variance[place] for member in process.members]))
        return means, sds, process.weights

    def _conditioned(self, process: Mixture, start: int) -> Mixture:
        """Tells what was told from number `start` on to a process; trials with failed episodes last."""
        told = self.told[start:]
        rewards = (None,) * len(told) if self.partner is None else self.partner.told[start:]
        pairs = list(zip(told, rewards, strict=True))
        whole = [pair for pair in pairs if pair[0].whole]
        broken = [pair for pair in pairs if not pair[0].whole]
        if whole:
            process = process.condition(*self._measurements(whole))
        if broken:
            survivors = [(point.survivors, reward) for point, reward in broken]
            process = process.assume(*self._measurements(broken), measured=self._measurements(survivors))
        return process

    def _measurements(self, told: Sequence[tuple[ToldMean | None, ToldMean | None]]) -> Measurements:
        """Statistics, and with a partner the rewards beside them, as a process is told them."""
        points = [point for point, _ in told if point is not None]
        indices = np.array([point.index for point in points], dtype=np.int64)
        values = np.array([point.value for point in points])
        factors = np.array([point.noise_factor for point in points])
        extra = np.array([point.extra_variance for point in points])
        noise = self.scale * self.floor[indices] * factors + extra
        if self.partner is None:
            return indices, values, noise
        beside = self.partner.measurements([reward for _, reward in told if reward is not None])
        indices, values, noise = (np.concatenate(both) for both in zip((indices, values, noise), beside, strict=True))
        return indices, values, noise


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
