"""What every belief about one function can do, and the choice of the engine that does it."""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from safehold.core.errors import UsageError
from safehold.core.target import TargetSpace
from safehold.gp.exact import GaussianProcess, PriorMean
from safehold.gp.grid import GridProcess
from safehold.gp.kernels import Kernel, SeparableKernel
from safehold.gp.linear import LinearTerms

__all__ = ["LinearTerms", "Process", "process_for"]

GRID_AXES = 4
"""Most axes of a grid that the separable engine takes: its work holds the product of the distinct values of all."""


@runtime_checkable
class Process(Protocol):
    """An exact Gaussian-process belief over m candidates; immutable, `condition` returns a new one."""

    @property
    def mean(self) -> Float[np.ndarray, "m"]:
        """Posterior mean of f at every candidate."""
        ...

    @property
    def variance(self) -> Float[np.ndarray, "m"]:
        """Posterior variance of f, noise excluded."""
        ...

    @property
    def sd(self) -> Float[np.ndarray, "m"]:
        """Its square root."""
        ...

    @property
    def n_told(self) -> int:
        """Number n of measurements told."""
        ...

    @property
    def log_determinant(self) -> float:
        """Twice the information gained: ln det(I + Sigma^-1/2 K(X, X) Sigma^-1/2), Sigma the told noise variances."""
        ...

    @property
    def log_evidence(self) -> float:
        """Logarithm of the marginal likelihood of all told values, ln N(y; m(X), K(X, X) + Sigma)."""
        ...

    def condition(
        self,
        indices: Int[np.ndarray, "b"],
        values: Float[np.ndarray, "b"],
        noise_variance: Float[np.ndarray, "b"],
    ) -> "Process":
        """The belief after b more measurements y = f(candidate) + noise, each with its own noise variance."""
        ...

    def covariances(self, a: Int[np.ndarray, "p"], b: Int[np.ndarray, "q"]) -> Float[np.ndarray, "p q"]:
        """Posterior covariance of f at some candidates with f at others."""
        ...

    def column(self, index: int) -> Float[np.ndarray, "m"]:
        """Posterior covariance of f at one candidate with f at all."""
        ...


def process_for(kernel: Kernel, space: TargetSpace, mean: PriorMean, linear: LinearTerms | None = None) -> Process:
    """The belief before any measurement: the grid engine for separable kernels, else the one for all kernels.

    They agree to rounding; the grid engine needs O(m) memory where the other needs O(n m).

    Raises:
        UsageError: if the kernel has not one scale an axis, or the prior mean is not one finite number a candidate.
    """
    if len(kernel.lengthscales) != len(space.axes):
        raise UsageError(
            f"kernel has {len(kernel.lengthscales)} lengthscales, the dial has the axes {space.names}; one an axis"
        )
    if isinstance(kernel, SeparableKernel) and kernel.separable and len(space.axes) <= GRID_AXES:
        return GridProcess.over(kernel, space, mean, linear)
    return GaussianProcess.over(kernel, space.points, mean, linear)
