"""Confidence bands that hold at every round at once, and the one place where delta is split."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from safehold.core.errors import UsageError


def alpha(round_number: int, n_candidates: int, delta: float) -> float:
    """alpha_N = sqrt(2 ln(|Z| N^2 pi^2 / (6 delta)))   [PLS, Lemma 7; Srinivas et al. 2010, Lemma 5.1].

    If f is a draw from the declared Gaussian process and the noise is Gaussian with the declared variances, then
    |f(z) - mu(z)| <= alpha_N sigma(z) for all z in Z and all rounds N >= 1 at once, with probability >= 1 - delta,
    where mu and sigma rest on the N - 1 measurements told before round N.
    """
    if round_number < 1 or n_candidates < 1:
        raise UsageError(f"alpha needs a round and a candidate count from 1, got {round_number} and {n_candidates}")
    _check_delta(delta)
    return math.sqrt(2.0 * math.log(n_candidates * round_number**2 * math.pi**2 / (6.0 * delta)))


def split(delta: float, names: Sequence[str]) -> dict[str, float]:
    """The share of delta of each limit: equal parts, by the union bound. The reward band spends none of it."""
    _check_delta(delta)
    if not names or len(set(names)) != len(names):
        raise UsageError(f"delta is split over distinct limits, got {tuple(names)}; give each limit its own cost")
    return {name: delta / len(names) for name in names}


@dataclass(frozen=True)
class ConfidenceBand:
    """Lambda_N: an interval for f at every candidate   [PLS, Sec. 5].

    Unlike the printed Lambda_0 = [0, b], a band starts at [0, cap]: starting at the limit would put every upper
    bound at or under the limit before anything was measured.
    """

    lower: Float[np.ndarray, "m"]
    upper: Float[np.ndarray, "m"]

    @staticmethod
    def start(n_candidates: int, cap: float) -> "ConfidenceBand":
        """[0, cap] everywhere, cap the declared largest cost of one episode."""
        return ConfidenceBand(np.zeros(n_candidates), np.full(n_candidates, float(cap)))

    def intersect(self, mean: Float[np.ndarray, "m"], sd: Float[np.ndarray, "m"], alpha: float) -> "ConfidenceBand":
        """Lambda_N = Lambda_{N-1} intersected with [mean - alpha sd, mean + alpha sd]."""
        return ConfidenceBand(
            lower=np.maximum(self.lower, mean - alpha * sd),
            upper=np.minimum(self.upper, mean + alpha * sd),
        )

    @property
    def width(self) -> Float[np.ndarray, "m"]:
        """U - l."""
        return self.upper - self.lower

    @property
    def empty(self) -> Bool[np.ndarray, "m"]:
        """Where nothing is left: the model contradicts itself there, which under its assumptions happens with
        probability at most delta. NaN counts as empty.
        """  # noqa: D205
        return ~(self.lower <= self.upper)


def _check_delta(delta: float) -> None:
    """A probability strictly between 0 and 1."""
    if not 0.0 < delta < 1.0:
        raise UsageError(f"delta is {delta}; it is the probability of ever being wrong, between 0 and 1")
