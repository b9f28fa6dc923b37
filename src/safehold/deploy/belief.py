"""Belief about one output after the told episodes: the Gaussian process, and the noise it is told with."""

import math
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from scipy.special import gammaincinv

from safehold.gp.exact import GaussianProcess

NOISE_STEP = 1.1
"""Used episode variances are the floor times a power of this: rounded up, so that they seldom change."""


@dataclass(frozen=True, slots=True)
class ToldMean:
    """The mean of one trial's episodes at a candidate; `extra_variance` widens it where outcomes are unknown."""

    index: int
    mean: float
    episodes: int
    extra_variance: float


@dataclass(frozen=True)
class Belief:
    """What is known of one output.

    The mean of n episodes is told with noise variance v / n, where v is the larger of the declared floor and an
    upper confidence bound on the episode variance, pooled over all told replicates. It is recomputed after every
    measurement, from all of them; replicates of one batch are never used for that batch alone, since that would
    trust a batch of lucky (all-zero) episodes more than an unlucky one.
    """

    prior: GaussianProcess
    process: GaussianProcess
    floor: float
    confidence: float
    told: tuple[ToldMean, ...] = ()
    squares: float = 0.0
    degrees: int = 0
    episode_variance: float = 0.0

    @staticmethod
    def before(prior: GaussianProcess, episode_sd: float, confidence: float) -> "Belief":
        """Nothing told yet: the declared floor is the noise."""
        return Belief(prior, prior, episode_sd**2, confidence, episode_variance=episode_sd**2)

    def tell(
        self, index: int, outcomes: Float[np.ndarray, "e"], replicates: Float[np.ndarray, "r"], extra_variance: float
    ) -> "Belief":
        """The belief after the episodes of one trial.

        `outcomes` enter the mean; `replicates`, those of them that were really measured, enter the noise.
        """
        squares, degrees = self.squares, self.degrees
        if len(replicates) > 1:
            squares += float(np.sum((replicates - np.mean(replicates)) ** 2))
            degrees += len(replicates) - 1
        point = ToldMean(index, float(np.mean(outcomes)), len(outcomes), extra_variance)
        told = (*self.told, point)
        variance = rounded_up(variance_bound(squares, degrees, self.confidence), self.floor)
        if variance == self.episode_variance:
            process = _condition(self.process, (point,), variance)
        else:
            process = _condition(self.prior, told, variance)
        return replace(self, process=process, told=told, squares=squares, degrees=degrees, episode_variance=variance)


def variance_bound(squares: float, degrees: int, confidence: float) -> float:
    """One-sided upper confidence bound on a variance: squares / chi2_{1 - confidence}; 0 without replicates.

    Exact for Gaussian episodes of equal variance: squares / v has a chi-square distribution with `degrees`.
    """
    if degrees == 0:
        return 0.0
    return squares / (2.0 * float(gammaincinv(degrees / 2.0, 1.0 - confidence)))


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


def _condition(process: GaussianProcess, told: tuple[ToldMean, ...], episode_variance: float) -> GaussianProcess:
    """Tells means to a process, each with the noise of its number of episodes."""
    return process.condition(
        np.array([point.index for point in told]),
        np.array([point.mean for point in told]),
        np.array([episode_variance / point.episodes + point.extra_variance for point in told]),
    )
