"""Confidence bands that hold at every round at once, and the one place where delta is split."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from safehold.core.errors import ModelError, UsageError
from safehold.core.target import TargetSpace


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


def log_determinant_multiplier(norm_bound: float, log_determinant: float, delta: float) -> float:
    """B + sqrt(ln det(I + Sigma^-1/2 K Sigma^-1/2) + 2 ln(1 / delta)).

    With probability at least 1 - delta, |f(z) - mu(z)| <= multiplier sd(z) at every z, after any number of measurements
    made in any way, if f minus the prior mean has RKHS norm at most B under the very kernel (sd^2 included) that mu and
    sd are computed with, and the noise of measurement i is R_i-sub-Gaussian given all before it, R_i^2 known before it
    and told as its noise variance   [Abbasi-Yadkori 2013, PhD thesis; Whitehouse, Wu & Ramdas 2023, with rho = R^2].
    Why: exp(<g, S> - <g, V g> / 2), S = sum_i noise_i phi_i / R_i^2, V = sum_i phi_i phi_i^T / R_i^2, is a
    supermartingale for every g; its average over g ~ N(0, I) is exp(|S|^2_{(I + V)^-1} / 2) / sqrt(det(I + V)), which
    by Ville's inequality never passes 1 / delta; and |f - mu| <= (|f - m| + |S|_{(I + V)^-1}) sd at every z.

    `log_determinant` is that of the process (`Process.log_determinant`): realised, never a bound on what it could be.

    Raises:
        UsageError: if the norm bound is not finite and nonnegative, or delta is no probability.
        ModelError: if the log determinant is not finite and nonnegative.
    """
    _check_delta(delta)
    if not 0.0 <= norm_bound < math.inf:
        raise UsageError(f"the norm bound is {norm_bound}; declare a finite one from 0, a multiple of sd")
    if not 0.0 <= log_determinant < math.inf:
        raise ModelError(f"the log determinant is {log_determinant}; the information gained is finite and not negative")
    return norm_bound + math.sqrt(log_determinant + 2.0 * math.log(1.0 / delta))


def envelope(space: TargetSpace, upper: Float[np.ndarray, "m"], constants: tuple[float, ...]) -> Float[np.ndarray, "m"]:
    """The least that upper bounds and Lipschitz constants allow: min over z' of upper(z') + sum_i L_i |z_i - z'_i|.

    `constants`: L_i, one an axis, in output units per unit of the axis; infinity lets nothing carry over along an axis,
    as between the members of a finite context. `upper` may be infinite where nothing is known. The metric is a sum
    over the axes, so that scans forward and back along one axis after the other give the minimum over the whole grid
    in O(m)   [Felzenszwalb & Huttenlocher 2012, distance transforms of sampled functions, L1 distance].

    Raises:
        UsageError: if there is not one nonnegative constant an axis, or not one upper bound a candidate.
    """
    if len(constants) != len(space.axes) or not all(constant >= 0.0 for constant in constants):
        raise UsageError(f"declare one nonnegative Lipschitz constant for each axis of {space.names}, got {constants}")
    if upper.shape != (len(space),) or np.any(upper == -np.inf):
        raise UsageError(f"expected an upper bound above minus infinity for each of {len(space)} candidates")
    bounds = upper.astype(np.float64).reshape(space.shape)
    for axis, (values, constant) in enumerate(zip(space.axes.values(), constants, strict=True)):
        if constant < math.inf:
            along = np.moveaxis(bounds, axis, -1)
            rise = constant * (np.array(values) - values[0])
            ahead = np.minimum.accumulate(along - rise, axis=-1)[..., :-1] + rise[1:]
            back = np.minimum.accumulate((along + rise)[..., ::-1], axis=-1)[..., -2::-1] - rise[:-1]
            least = along.copy()  # its own bound exactly where no neighbour's is lower
            np.minimum(least[..., 1:], ahead, out=least[..., 1:])
            np.minimum(least[..., :-1], back, out=least[..., :-1])
            bounds = np.moveaxis(least, -1, axis)
    return np.ascontiguousarray(bounds).ravel()


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
