"""Kernels: how much two targets have in common, before any data."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from safehold.core.errors import UsageError


@runtime_checkable
class Kernel(Protocol):
    """A covariance function with declared scales; it is never refitted during a certified run."""

    @property
    def sd(self) -> float:
        """Standard deviation of f at any single point, in the output's units."""
        ...

    @property
    def lengthscales(self) -> tuple[float, ...]:
        """One a dial axis, in the axis' own units."""
        ...

    def __call__(self, a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "n m"]:
        """Covariance of f(a_i) with f(b_j)."""
        ...

    def diagonal(self, a: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n"]:
        """Variance of f(a_i)."""
        ...


@dataclass(frozen=True, slots=True)
class SquaredExponential:
    """k(a, b) = sd^2 exp(-r^2 / 2), r^2 = sum_i ((a_i - b_i) / lengthscale_i)^2   [R&W 2006, Eq. (4.9)]."""

    sd: float
    lengthscales: tuple[float, ...]

    def __post_init__(self) -> None:
        _check_scales(self.sd, self.lengthscales)

    def __call__(self, a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "n m"]:
        """Covariance of f(a_i) with f(b_j)."""
        return self.sd**2 * np.exp(-0.5 * _squared_distance(a, b, self.lengthscales))

    def diagonal(self, a: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n"]:
        """Variance of f(a_i)."""
        return np.full(len(a), self.sd**2)


@dataclass(frozen=True, slots=True)
class Matern52:
    """k(a, b) = sd^2 (1 + s + s^2 / 3) exp(-s), s = sqrt(5) r, r as above   [R&W 2006, Eq. (4.17)].

    Rougher than the squared exponential: it trusts a neighbour less, so its certificates reach less far.
    """

    sd: float
    lengthscales: tuple[float, ...]

    def __post_init__(self) -> None:
        _check_scales(self.sd, self.lengthscales)

    def __call__(self, a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "n m"]:
        """Covariance of f(a_i) with f(b_j)."""
        s = np.sqrt(5.0 * _squared_distance(a, b, self.lengthscales))
        return self.sd**2 * (1.0 + s + s**2 / 3.0) * np.exp(-s)

    def diagonal(self, a: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n"]:
        """Variance of f(a_i)."""
        return np.full(len(a), self.sd**2)


KERNELS: dict[str, type[SquaredExponential] | type[Matern52]] = {
    "squared_exponential": SquaredExponential,
    "matern52": Matern52,
}
"""Kernels by the name they have in a ledger."""


def _check_scales(sd: float, lengthscales: tuple[float, ...]) -> None:
    """Declared scales are finite and positive; zero or NaN would make a band of no width."""
    scales = np.array([sd, *lengthscales], dtype=np.float64)
    if not lengthscales or not np.all(np.isfinite(scales) & (scales > 0)):
        raise UsageError(
            f"kernel scales must be finite and positive, got sd={sd}, lengthscales={lengthscales}; "
            "declare them in the units of the output and of the dial's axes"
        )


def _squared_distance(
    a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"], lengthscales: tuple[float, ...]
) -> Float[np.ndarray, "n m"]:
    """r^2, axis by axis: differences first, so that equal points are at distance 0 exactly."""
    if a.shape[1] != len(lengthscales):
        raise UsageError(f"kernel has {len(lengthscales)} lengthscales, the points have {a.shape[1]} axes; one an axis")
    total = np.zeros((len(a), len(b)))
    for axis, lengthscale in enumerate(lengthscales):
        total += ((a[:, axis, None] - b[None, :, axis]) / lengthscale) ** 2
    return total
