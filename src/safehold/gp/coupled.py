"""Two correlated functions on one grid of which one is of interest, and the other may be told as well."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from safehold.core.errors import UsageError
from safehold.core.target import TargetSpace
from safehold.gp.grid import GridStack
from safehold.gp.kernels import Factor, Kernel, Product, SquaredExponential
from safehold.gp.process import GRID_AXES, Process

COUPLED_AXES = GRID_AXES - 1
"""Most axes of a dial whose outputs may be coupled: which output it is takes one more."""


@dataclass(frozen=True, slots=True)
class FirstOfTwo:
    """j beliefs about a pair of functions f, g at m candidates, of which f shows; candidate m + i is g at i.

    `both` holds the pair as one function of a grid with one more axis, which says whose value it is. A measurement
    of g is told as one of a candidate from m on; whatever else is asked is about f.
    """

    both: GridStack

    @property
    def processes(self) -> tuple[Process, ...]:
        """Each of them, over the 2 m candidates of both functions."""
        return self.both.processes

    @property
    def _m(self) -> int:
        """Number of candidates."""
        return self.both.means.shape[1] // 2

    @property
    def means(self) -> Float[np.ndarray, "j m"]:
        """Posterior means of f."""
        return self.both.means[:, : self._m]

    @property
    def variances(self) -> Float[np.ndarray, "j m"]:
        """Posterior variances of f."""
        return self.both.variances[:, : self._m]

    @property
    def log_evidences(self) -> Float[np.ndarray, "j"]:
        """Log evidences of all that was told of f and of g."""
        return self.both.log_evidences

    def condition(
        self,
        indices: Int[np.ndarray, "b"],
        values: Float[np.ndarray, "j b"],
        noise_variance: Float[np.ndarray, "b"],
    ) -> "FirstOfTwo":
        """All after b more measurements of f or, from candidate m on, of g."""
        return FirstOfTwo(self.both.condition(indices, values, noise_variance))

    def columns(self, index: int) -> Float[np.ndarray, "j m"]:
        """Posterior covariance of f at one candidate with f at all."""
        return self.both.columns(index)[:, : self._m]

    def covariances(self, a: Int[np.ndarray, "p"], b: Int[np.ndarray, "q"]) -> Float[np.ndarray, "j p q"]:
        """Posterior covariance of f at some candidates with f at others."""
        return self.both.covariances(a, b)


def coupled(
    kernels: tuple[Kernel, ...],
    space: TargetSpace,
    mean: Float[np.ndarray, "m"],
    other: Float[np.ndarray, "m"],
    correlations: tuple[float, ...],
) -> FirstOfTwo:
    """The beliefs, one a kernel k, before any measurement: f ~ GP(mean, k), g ~ GP(other, k), correlated.

    Cov(f(z), g(z')) = rho k(z, z'), rho one a kernel: intrinsic coregionalisation   [Alvarez, Rosasco & Lawrence 2012,
    Sec. 4.2]. The covariance of the pair, ((1, rho), (rho, 1)) times k, is that of a categorical axis of two values
    times k, so that the grid engine's rank-one updates are exact for it as they are.

    Raises:
        UsageError: if a correlation is not in [0, 1), a kernel is no product over the axes, or there are too many.
    """
    which = "output, " + ", ".join(space.names)  # no axis of the dial is called so
    pairs = TargetSpace({which: (0.0, 1.0), **space.axes})
    means = np.tile(np.concatenate([mean, other]), (len(kernels), 1))
    products = tuple(
        Product(kernel.sd, (Factor("categorical", correlation), *each))
        for kernel, each, correlation in zip(kernels, factors(kernels, space), correlations, strict=True)
    )
    return FirstOfTwo(GridStack.over(products, pairs, means, (None,) * len(kernels)))


def factors(kernels: tuple[Kernel, ...], space: TargetSpace) -> list[tuple[Factor, ...]]:
    """The correlation function of every axis, of every kernel.

    Raises:
        UsageError: if a kernel is no product over the axes, or the dial has too many.
    """
    if len(space.axes) > COUPLED_AXES:
        raise UsageError(f"coupled outputs take a dial of at most {COUPLED_AXES} axes, this one has {space.names}")
    found = []
    for kernel in kernels:
        if isinstance(kernel, Product):
            found.append(kernel.factors)
        elif isinstance(kernel, SquaredExponential):
            found.append(tuple(Factor("squared_exponential", scale) for scale in kernel.lengthscales))
        else:
            raise UsageError(
                f"coupled outputs take kernels that are products over the axes, and {type(kernel).__name__} is none; "
                'declare kernel=partial(Product.of, "matern52"), or no length-scales'
            )
    return found
