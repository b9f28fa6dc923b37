"""Kernels: how much two targets have in common, before any data."""

import math
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

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
        """One a dial axis, in the axis' own units (of a categorical factor: its correlation)."""
        ...

    @property
    def separable(self) -> bool:
        """Whether it is sd^2 times one correlation function an axis, as `SeparableKernel` offers them."""
        ...

    def __call__(self, a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "n m"]:
        """Covariance of f(a_i) with f(b_j)."""
        ...

    def diagonal(self, a: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n"]:
        """Variance of f(a_i)."""
        ...


@runtime_checkable
class SeparableKernel(Kernel, Protocol):
    """k(a, b) = sd^2 prod_i k_i(a_i, b_i): on a Cartesian grid its matrix is a Kronecker product."""

    def axis_cross(self, axis: int, a: Float[np.ndarray, "p"], b: Float[np.ndarray, "q"]) -> Float[np.ndarray, "p q"]:
        """Correlations k_i of values on one axis, without sd^2."""
        ...

    def axis_matrix(self, axis: int, values: Float[np.ndarray, "p"]) -> Float[np.ndarray, "p p"]:
        """Correlations k_i of all values of one axis with each other."""
        ...


@dataclass(frozen=True, slots=True)
class SquaredExponential:
    """k(a, b) = sd^2 exp(-r^2 / 2), r^2 = sum_i ((a_i - b_i) / lengthscale_i)^2   [R&W 2006, Eq. (4.9)]."""

    sd: float
    lengthscales: tuple[float, ...]

    def __post_init__(self) -> None:
        _check_scales(self.sd, self.lengthscales)

    @property
    def separable(self) -> bool:
        """A product over the axes, since r^2 is a sum over them."""
        return True

    def __call__(self, a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "n m"]:
        """Covariance of f(a_i) with f(b_j)."""
        return self.sd**2 * np.exp(-0.5 * _squared_distance(a, b, self.lengthscales))

    def diagonal(self, a: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n"]:
        """Variance of f(a_i)."""
        return np.full(len(a), self.sd**2)

    def axis_cross(self, axis: int, a: Float[np.ndarray, "p"], b: Float[np.ndarray, "q"]) -> Float[np.ndarray, "p q"]:
        """exp(-((a - b) / lengthscale)^2 / 2)."""
        return np.exp(-0.5 * ((a[:, None] - b[None, :]) / self.lengthscales[axis]) ** 2)

    def axis_matrix(self, axis: int, values: Float[np.ndarray, "p"]) -> Float[np.ndarray, "p p"]:
        """Correlations of all values of one axis with each other."""
        return self.axis_cross(axis, values, values)


@dataclass(frozen=True, slots=True)
class Matern52:
    """k(a, b) = sd^2 (1 + s + s^2 / 3) exp(-s), s = sqrt(5) r, r as above   [R&W 2006, Eq. (4.17)].

    Rougher than the squared exponential: it trusts a neighbour less, so its certificates reach less far.
    It depends on the axes through r and is no product over them; `Product` of "matern52" factors is.
    """

    sd: float
    lengthscales: tuple[float, ...]

    def __post_init__(self) -> None:
        _check_scales(self.sd, self.lengthscales)

    @property
    def separable(self) -> bool:
        """No product over the axes."""
        return False

    def __call__(self, a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "n m"]:
        """Covariance of f(a_i) with f(b_j)."""
        s = np.sqrt(5.0 * _squared_distance(a, b, self.lengthscales))
        return self.sd**2 * (1.0 + s + s**2 / 3.0) * np.exp(-s)

    def diagonal(self, a: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n"]:
        """Variance of f(a_i)."""
        return np.full(len(a), self.sd**2)


FactorKind = Literal["matern52", "matern32", "squared_exponential", "categorical"]
"""Correlation functions of one axis."""


@dataclass(frozen=True, slots=True)
class Factor:
    """The correlation function of one dial axis; r = |a - b| / scale.

    "squared_exponential": exp(-r^2 / 2)   [R&W 2006, Eq. (4.9)].
    "matern52": (1 + s + s^2 / 3) exp(-s), s = sqrt(5) r;  "matern32": (1 + s) exp(-s), s = sqrt(3) r   [Eq. (4.17)].
    "categorical": 1 if a = b, else `scale`, a correlation in [0, 1): an axis that numbers a finite context (policies,
    checkpoints, payloads), all of them equally alike. scale = 0: nothing learnt of one says anything of another.
    """

    kind: FactorKind
    scale: float

    def __post_init__(self) -> None:
        if self.kind not in ("matern52", "matern32", "squared_exponential", "categorical"):
            raise UsageError(
                f"kernel factor {self.kind!r} is unknown; use matern52, matern32, squared_exponential or categorical"
            )
        if self.kind == "categorical":
            if not 0.0 <= self.scale < 1.0:
                raise UsageError(f"a categorical factor's scale is a correlation in [0, 1), got {self.scale}")
        elif not 0.0 < self.scale < math.inf:
            raise UsageError(
                f"kernel scales must be finite and positive, got {self.scale} for {self.kind}; "
                "declare it in the units of its axis"
            )

    def __call__(self, a: Float[np.ndarray, "p"], b: Float[np.ndarray, "q"]) -> Float[np.ndarray, "p q"]:
        """Correlation of values of one axis."""
        difference = a[:, None] - b[None, :]
        if self.kind == "categorical":
            return np.where(difference == 0.0, 1.0, self.scale)
        r = np.abs(difference) / self.scale
        if self.kind == "squared_exponential":
            return np.exp(-0.5 * r**2)
        if self.kind == "matern32":
            s = math.sqrt(3.0) * r
            return (1.0 + s) * np.exp(-s)
        s = math.sqrt(5.0) * r
        return (1.0 + s + s**2 / 3.0) * np.exp(-s)


@dataclass(frozen=True, slots=True)
class Product:
    """k(a, b) = sd^2 prod_i k_i(a_i, b_i), one factor an axis   [R&W 2006, Sec. 4.2.4: tensor products].

    Unlike `Matern52`, whose r mixes the axes, a product of Matern factors is separable: on a grid its posterior costs
    one small matrix product a measurement (`safehold.gp.grid`).
    """

    sd: float
    factors: tuple[Factor, ...]

    def __post_init__(self) -> None:
        if not (self.factors and 0.0 < self.sd < math.inf):
            raise UsageError(
                f"a product kernel needs a finite positive sd and one factor an axis, got sd={self.sd}, "
                f"factors={self.factors}"
            )

    @staticmethod
    def of(kind: FactorKind, sd: float, scales: tuple[float, ...]) -> "Product":
        """The same kind of factor on every axis."""
        return Product(sd, tuple(Factor(kind, scale) for scale in scales))

    @property
    def lengthscales(self) -> tuple[float, ...]:
        """One scale an axis."""
        return tuple(factor.scale for factor in self.factors)

    @property
    def separable(self) -> bool:
        """A product over the axes by construction."""
        return True

    def __call__(self, a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "n m"]:
        """Covariance of f(a_i) with f(b_j)."""
        _check_axes(a, len(self.factors))
        total = np.full((len(a), len(b)), self.sd**2)
        for axis, factor in enumerate(self.factors):
            total *= factor(a[:, axis], b[:, axis])
        return total

    def diagonal(self, a: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n"]:
        """Variance of f(a_i)."""
        return np.full(len(a), self.sd**2)

    def axis_cross(self, axis: int, a: Float[np.ndarray, "p"], b: Float[np.ndarray, "q"]) -> Float[np.ndarray, "p q"]:
        """Correlations of values on one axis."""
        return self.factors[axis](a, b)

    def axis_matrix(self, axis: int, values: Float[np.ndarray, "p"]) -> Float[np.ndarray, "p p"]:
        """Correlations of all values of one axis with each other."""
        return self.axis_cross(axis, values, values)


KERNELS: dict[str, type[SquaredExponential] | type[Matern52]] = {
    "squared_exponential": SquaredExponential,
    "matern52": Matern52,
}
"""Kernels that sd and lengthscales declare in full, by their name in a ledger; a `Product` also needs its factors."""


def _check_scales(sd: float, lengthscales: tuple[float, ...]) -> None:
    """Declared scales are finite and positive; zero or NaN would make a band of no width."""
    scales = np.array([sd, *lengthscales], dtype=np.float64)
    if not lengthscales or not np.all(np.isfinite(scales) & (scales > 0)):
        raise UsageError(
            f"kernel scales must be finite and positive, got sd={sd}, lengthscales={lengthscales}; "
            "declare them in the units of the output and of the dial's axes"
        )


def _check_axes(a: Float[np.ndarray, "n d"], n_axes: int) -> None:
    """One scale an axis."""
    if a.shape[1] != n_axes:
        raise UsageError(f"kernel has {n_axes} lengthscales, the points have {a.shape[1]} axes; one an axis")


def _squared_distance(
    a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"], lengthscales: tuple[float, ...]
) -> Float[np.ndarray, "n m"]:
    """r^2, axis by axis: differences first, so that equal points are at distance 0 exactly."""
    _check_axes(a, len(lengthscales))
    total = np.zeros((len(a), len(b)))
    for axis, lengthscale in enumerate(lengthscales):
        total += ((a[:, axis, None] - b[None, :, axis]) / lengthscale) ** 2
    return total
