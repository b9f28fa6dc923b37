"""Small grids, kernels and measurements, and the textbook formula by dense inversion."""

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from safehold.core.target import TargetSpace
from safehold.gp.grid import GridProcess
from safehold.gp.kernels import Factor, Product
from safehold.gp.linear import LinearTerms

KINDS = ("matern52", "matern32", "squared_exponential", "categorical")


@dataclass(frozen=True)
class World:
    space: TargetSpace
    kernel: Product
    mean: np.ndarray
    linear: LinearTerms | None
    indices: np.ndarray
    values: np.ndarray
    noise: np.ndarray

    def prior(self) -> GridProcess:
        return GridProcess.over(self.kernel, self.space, self.mean, self.linear)

    def one_by_one(self, process, order=None):
        for t in range(len(self.indices)) if order is None else order:
            process = process.condition(self.indices[t : t + 1], self.values[t : t + 1], self.noise[t : t + 1])
        return process

    def covariance(self) -> np.ndarray:
        """Prior covariance of all candidates, factor by factor."""
        points = self.space.points
        total = np.full((len(points), len(points)), self.kernel.sd**2)
        for axis, factor in enumerate(self.kernel.factors):
            total *= factor(points[:, axis], points[:, axis])
        return (
            total
            if self.linear is None
            else total + self.linear.features @ self.linear.covariance @ self.linear.features.T
        )


@dataclass(frozen=True)
class Dense:
    """Posterior by inverting the covariance: the formula, not the algorithm."""

    mean: np.ndarray
    covariance: np.ndarray
    log_determinant: float
    log_evidence: float


def dense(world: World) -> Dense:
    prior, told = world.covariance(), world.indices
    among = prior[np.ix_(told, told)]
    marginal = among + np.diag(world.noise)
    inverse = np.linalg.inv(marginal)
    residual = world.values - world.mean[told]
    scale = np.sqrt(np.outer(world.noise, world.noise))
    return Dense(
        world.mean + prior[:, told] @ inverse @ residual,
        prior - prior[:, told] @ inverse @ prior[told],
        float(np.linalg.slogdet(np.eye(len(told)) + among / scale)[1]),
        float(
            -0.5 * residual @ inverse @ residual
            - 0.5 * np.linalg.slogdet(marginal)[1]
            - 0.5 * len(told) * np.log(2 * np.pi)
        ),
    )


def world(seed: int, shape: tuple[int, ...], kinds: tuple[str, ...], n: int, linear: bool = False) -> World:
    """A random grid with uneven axes, a prior mean and n measurements with their own noise each."""
    rng = np.random.default_rng(seed)
    space = TargetSpace({f"axis{i}": tuple(np.cumsum(rng.uniform(0.1, 1.0, size))) for i, size in enumerate(shape)})
    factors = tuple(
        Factor(kind, float(rng.uniform(0.0, 0.9) if kind == "categorical" else rng.uniform(0.5, 2.0))) for kind in kinds
    )
    m, terms = len(space), None
    if linear:
        root = rng.normal(size=(len(shape) + 1, len(shape) + 1))
        terms = LinearTerms(np.column_stack([np.ones(m), space.points]), root @ root.T / 4)
    return World(
        space,
        Product(float(rng.uniform(0.5, 2.0)), factors),
        rng.normal(size=m),
        terms,
        rng.integers(0, m, n),
        rng.normal(size=n),
        rng.uniform(0.02, 0.5, n),
    )


def worlds(min_told: int = 1, max_told: int = 24) -> st.SearchStrategy[tuple]:
    """Arguments of `world`: grids of one to four axes, any factors, with or without linear terms."""
    return st.lists(st.tuples(st.integers(1, 5), st.sampled_from(KINDS)), min_size=1, max_size=4).flatmap(
        lambda axes: st.tuples(
            st.integers(0, 10**6),
            st.just(tuple(size for size, _ in axes)),
            st.just(tuple(kind for _, kind in axes)),
            st.integers(min_told, max_told),
            st.booleans(),
        )
    )
