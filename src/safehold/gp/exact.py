"""Exact Gaussian-process belief about a function on a finite menu of candidates."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import LinAlgError, cholesky, solve_triangular

from safehold.core.errors import DataError, ModelError, UsageError
from safehold.gp.kernels import Kernel
from safehold.gp.linear import LinearTerms

PriorMean = Float[np.ndarray, "m"] | Callable[[Float[np.ndarray, "m d"]], Float[np.ndarray, "m"]]
"""Prior mean over the candidates: a vector, or a function of the candidates."""

ROUNDING = 1e-9
"""A variance below -ROUNDING times the prior variance is an error, not rounding."""

LARGEST = 1e100
"""Largest magnitude of a told value: squares of more may overflow."""

_BLOCK_ROWS = 64


@dataclass(frozen=True)
class GaussianProcess:
    """What is believed of f at m candidates after n measurements of it; immutable.

    The whitened cross-covariance V = L^-1 K(X, candidates), L L^T = K(X, X) + noise, is kept in blocks of rows.
    Since every measurement is made at a candidate, L^-1 k(X, x) is a column of V: one more measurement is one
    more row of V, in O(n m), and no factor needs to be kept or inverted.

    mean = m + V^T L^-1 (y - m(X)),   variance = k(z, z) - sum_i V_i(z)^2.   [R&W 2006, Eqs. (2.25), (2.26), Alg. 2.1]
    log_evidence = -|L^-1 (y - m(X))|^2 / 2 - sum_i ln L_ii - n ln(2 pi) / 2   [Eq. (2.30), Alg. 2.1]
    log_determinant = 2 sum_i ln L_ii - sum_i ln noise_i = ln det(I + Sigma^-1/2 K Sigma^-1/2), Sigma = diag(noise).
    """

    kernel: Kernel
    candidates: Float[np.ndarray, "m d"]
    mean: Float[np.ndarray, "m"]
    variance: Float[np.ndarray, "m"]
    n_told: int
    _whitened: tuple[Float[np.ndarray, "_ m"], ...]
    linear: LinearTerms | None = None
    log_determinant: float = 0.0
    log_evidence: float = 0.0

    @staticmethod
    def over(
        kernel: Kernel, candidates: Float[np.ndarray, "m d"], mean: PriorMean, linear: LinearTerms | None = None
    ) -> "GaussianProcess":
        """The belief before any measurement; `linear` adds the uncertain coefficients of the prior mean.

        Raises:
            UsageError: if the prior mean is not one finite number a candidate, or `linear` has other candidates.
        """
        values = np.array(mean(candidates) if callable(mean) else mean, dtype=np.float64)
        if values.shape != (len(candidates),) or not np.all(np.isfinite(values)):
            raise UsageError(
                f"prior mean must hold one finite number for each of {len(candidates)} candidates, "
                f"got shape {values.shape} with {int(np.sum(~np.isfinite(values)))} non-finite values"
            )
        variance = kernel.diagonal(candidates)
        if linear is not None:
            if len(linear.features) != len(candidates):
                raise UsageError(
                    f"linear terms have features of {len(linear.features)} candidates, there are {len(candidates)}"
                )
            variance = variance + linear.diagonal
        return GaussianProcess(kernel, candidates, _frozen(values), _frozen(variance), 0, (), linear)

    @property
    def sd(self) -> Float[np.ndarray, "m"]:
        """Posterior standard deviation of f, noise excluded."""
        return np.sqrt(self.variance)

    def condition(
        self,
        indices: Int[np.ndarray, "b"],
        values: Float[np.ndarray, "b"],
        noise_variance: Float[np.ndarray, "b"],
    ) -> "GaussianProcess":
        """The belief after b more measurements y = f(candidate) + noise, each with its own noise variance.

        Positive noise keeps repeats of one candidate well posed; nothing is ever added to the diagonal on top.

        Raises:
            DataError: if a value is not finite or too large to square, or a noise variance not finite and positive.
            ModelError: if the covariance cannot be factored, or a variance comes out negative beyond rounding.
        """
        if not np.all(np.abs(values) <= LARGEST):
            raise DataError(
                f"a measurement told to the Gaussian process is not finite, or larger than {LARGEST}: {values}; "
                "refuse it at tell"
            )
        if not np.all(np.isfinite(noise_variance) & (noise_variance > 0)):
            raise DataError(f"noise variances must be finite and positive, got {noise_variance}; declare a noise floor")
        if len(values) == 0:
            return self
        before = self._columns(indices)  # (n, b) = L^-1 K(X, new)
        covariance = self._prior(indices, indices) - before.T @ before + np.diag(noise_variance)
        cross = self._prior(indices, None)  # (b, m)
        row = 0
        for block in self._whitened:
            cross -= before[row : row + len(block)].T @ block
            row += len(block)
        try:
            factor = cast(np.ndarray, cholesky(covariance, lower=True))
        except (LinAlgError, ValueError) as error:
            raise ModelError(
                f"the covariance of {len(values)} new measurements after {self.n_told} cannot be factored ({error}); "
                "the declared noise is too small for the declared kernel: raise the noise floor"
            ) from error
        rows = cast(np.ndarray, solve_triangular(factor, cross, lower=True))  # (b, m)
        innovations = cast(np.ndarray, solve_triangular(factor, values - self.mean[indices], lower=True))  # (b,)
        log_diagonal = float(np.sum(np.log(np.diagonal(factor))))
        return replace(
            self,
            mean=_frozen(self.mean + innovations @ rows),
            variance=_frozen(self._checked(self.variance - np.sum(rows**2, axis=0))),
            n_told=self.n_told + len(values),
            _whitened=_append(self._whitened, rows),
            log_determinant=self.log_determinant + 2.0 * log_diagonal - float(np.sum(np.log(noise_variance))),
            log_evidence=self.log_evidence
            - 0.5 * float(innovations @ innovations)
            - log_diagonal
            - 0.5 * len(values) * math.log(2.0 * math.pi),
        )

    def covariances(self, a: Int[np.ndarray, "p"], b: Int[np.ndarray, "q"]) -> Float[np.ndarray, "p q"]:
        """Posterior covariance of f at some candidates with f at others."""
        cross = self._prior(a, b)
        for block in self._whitened:
            cross -= block[:, a].T @ block[:, b]
        return cross

    def column(self, index: int) -> Float[np.ndarray, "m"]:
        """Posterior covariance of f at one candidate with f at all."""
        column = self._prior(np.array([index]), None)[0]
        for block in self._whitened:
            column -= block[:, index] @ block
        return column

    def _prior(self, a: Int[np.ndarray, "p"], b: Int[np.ndarray, "q"] | None) -> Float[np.ndarray, "p q"]:
        """Prior covariance of f at some candidates with f at others, or at all."""
        cross = self.kernel(self.candidates[a], self.candidates if b is None else self.candidates[b])
        if self.linear is None:
            return cross
        return cross + (self.linear.with_all(a) if b is None else self.linear.cross(a, b))

    def _columns(self, indices: Int[np.ndarray, "b"]) -> Float[np.ndarray, "n b"]:
        """Columns of V."""
        return np.concatenate([np.zeros((0, len(indices))), *(block[:, indices] for block in self._whitened)])

    def _checked(self, variance: Float[np.ndarray, "m"]) -> Float[np.ndarray, "m"]:
        """Variances without rounding below zero.

        Raises:
            ModelError: if one is negative beyond rounding, or not a number.
        """
        allowed = -ROUNDING * self.kernel.diagonal(self.candidates)
        if self.linear is not None:
            allowed = allowed - ROUNDING * self.linear.diagonal
        if not np.all(variance >= allowed):
            place = int(np.argmax(~(variance >= allowed)))
            raise ModelError(
                f"posterior variance at candidate {place} is {variance[place]} after {self.n_told + 1} measurements; "
                "the kernel is not a covariance, or the noise floor is too small"
            )
        return np.maximum(variance, 0.0)


def _frozen(array: np.ndarray) -> np.ndarray:
    """The array, made read-only."""
    array.flags.writeable = False
    return array


def _append(
    blocks: tuple[Float[np.ndarray, "_ m"], ...], rows: Float[np.ndarray, "b m"]
) -> tuple[Float[np.ndarray, "_ m"], ...]:
    """Adds rows, copying at most one block: beliefs of one run share what they have in common."""
    if blocks and len(blocks[-1]) + len(rows) <= _BLOCK_ROWS:
        return (*blocks[:-1], np.concatenate([blocks[-1], rows]))
    return (*blocks, rows)
