"""Exact Gaussian processes with separable kernels on a Cartesian grid, told one measurement at a time."""

import math
from dataclasses import dataclass
from threading import Lock
from typing import cast

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import solve_triangular
from scipy.linalg.blas import dtpsv, dtrsm

from safehold.core.errors import DataError, ModelError, UsageError
from safehold.core.target import TargetSpace
from safehold.gp.exact import LARGEST, ROUNDING, PriorMean
from safehold.gp.kernels import SeparableKernel
from safehold.gp.linear import LinearTerms

_ROWS = 16
"""Measurements that new buffers have room for; doubled when they are full."""

_SLAB = 1 << 18
"""Numbers of one block of a whitened cross-covariance: 2 MB, what a core's cache holds."""

_BLOCK = 1 << 23
"""Numbers of the told measurements' covariances with candidates that are held at one time: 64 MB."""


@dataclass(frozen=True, eq=False)
class GridStack:
    """j beliefs about f at the m candidates of one grid, told of the same measurements; immutable.

    One measurement y at candidate x, with K k(X, X), Sigma the told noise variances, L L^T = K + Sigma:

        w = L^-1 k(X, x),   c = L^-T w,   d = k(x, x) - w^T w + noise,   L grows by the row (w, sqrt d),
        column = k(., x) - k(., X) c                       posterior covariance of f(x) with f at all candidates,
        mean += column (y - mean(x)) / d,   variance -= column^2 / d
                                            [R&W 2006, Eqs. (2.25), (2.26), conditioned once more on one measurement],
        log_determinant += ln(d / noise),   log_evidence -= (ln(2 pi d) + (y - mean(x))^2 / d) / 2   [Eq. (2.30)].

    On a grid k(., z) is an outer product of rows of the axes' correlation matrices K_i. So with C the sparse tensor
    that holds 1 at x and -c at X (added up where a candidate was measured twice),

        column = sd^2 C x_0 K_0 x_1 K_1 ...,

    contracted axis by axis over the r_i distinct values told: O(n^2 + m r_0) a measurement, O(m + n^2 + sum_i r_i m_i)
    memory. `LinearTerms` add Phi Sigma_b (phi_x - Phi_X^T c).   Nothing is approximated.

    Rows of L and of K_i live in append-only buffers that the beliefs of one run share: the newest holder appends in
    place, an older one copies first, so that no belief ever sees what another was told.
    """

    prior: "_Prior"
    means: Float[np.ndarray, "j m"]
    variances: Float[np.ndarray, "j m"]
    log_determinants: Float[np.ndarray, "j"]
    log_evidences: Float[np.ndarray, "j"]
    n_told: int
    _ranks: tuple[int, ...]
    """r_i, the number of distinct values told on each axis."""
    _rows: "_Rows"

    @staticmethod
    def over(
        kernels: tuple[SeparableKernel, ...],
        space: TargetSpace,
        means: Float[np.ndarray, "j m"],
        linear: tuple[LinearTerms | None, ...],
    ) -> "GridStack":
        """The beliefs before any measurement: a kernel, a prior mean and perhaps linear terms each.

        Raises:
            UsageError: if a prior mean is not one finite number a candidate, or linear terms have other candidates.
        """
        j, m = len(kernels), len(space)
        means = np.array(means, dtype=np.float64)
        if means.shape != (j, m) or not np.all(np.isfinite(means)):
            raise UsageError(
                f"prior mean must hold one finite number for each of {m} candidates, got shape {means.shape[1:]} "
                f"with {int(np.sum(~np.isfinite(means)))} non-finite values"
            )
        for terms in linear:
            if terms is not None and len(terms.features) != m:
                raise UsageError(f"linear terms have features of {len(terms.features)} candidates, there are {m}")
        prior = _Prior.over(kernels, space, linear)
        zeros = _frozen(np.zeros(j))
        rows = _Rows.empty(j, space.shape, _ROWS, (0,) * len(space.shape))
        return GridStack(prior, _frozen(means), prior.variances, zeros, zeros, 0, (0,) * len(space.shape), rows)

    @property
    def processes(self) -> tuple["GridProcess", ...]:
        """Each of them."""
        return tuple(GridProcess(self, number) for number in range(len(self.means)))

    def alone(self, number: int) -> "GridStack":
        """A stack of this one belief."""
        if len(self.means) == 1:
            return self
        one = slice(number, number + 1)
        return GridStack(
            self.prior.alone(number),
            self.means[one],
            self.variances[one],
            self.log_determinants[one],
            self.log_evidences[one],
            self.n_told,
            self._ranks,
            self._rows.copy(self.n_told, self._ranks, one),
        )

    def condition(
        self,
        indices: Int[np.ndarray, "b"],
        values: Float[np.ndarray, "j b"],
        noise_variance: Float[np.ndarray, "b"],
    ) -> "GridStack":
        """The beliefs after b more measurements y = f(candidate) + noise, each with its own noise variance.

        What is told may differ from belief to belief. Positive noise keeps repeats of one candidate well posed;
        nothing is ever added to the diagonal on top.

        Raises:
            DataError: if a value is not finite or too large to square, or a noise variance not finite and positive.
            UsageError: if an index is not that of a candidate.
            ModelError: if the covariance cannot be factored, or a variance comes out negative beyond rounding.
        """
        if not (np.abs(values) <= LARGEST).all():
            raise DataError(
                f"a measurement told to the Gaussian process is not finite, or larger than {LARGEST}: {values}; "
                "refuse it at tell"
            )
        noises = [float(noise) for noise in noise_variance]
        if not all(0.0 < noise < math.inf for noise in noises):
            raise DataError(f"noise variances must be finite and positive, got {noises}; declare a noise floor")
        places = [self.prior.place(int(index)) for index in indices]
        if self.n_told == 0 and len(noises) > 1:
            return self._at_once(indices, places, values, np.array(noises))
        after = self
        for number, (place, noise) in enumerate(zip(places, noises, strict=True)):
            after = after._once(int(indices[number]), place, values[:, number], noise)
        return after

    def columns(self, index: int) -> Float[np.ndarray, "j m"]:
        """Posterior covariance of f at one candidate with f at all."""
        place = self.prior.place(index)
        seats, tables = self._rows.seated(self.prior, self._ranks, place)
        _, weights = self._solved(index, place)
        return self._column(weights, seats, tables, index)

    def covariances(self, a: Int[np.ndarray, "p"], b: Int[np.ndarray, "q"]) -> Float[np.ndarray, "j p q"]:
        """Posterior covariance of f at some candidates with f at others."""
        prior, n = self.prior, self.n_told
        cross = np.stack(
            [
                kernel(prior.points(a), prior.points(b)) + (0.0 if terms is None else terms.cross(a, b))
                for kernel, terms in zip(prior.kernels, prior.linear, strict=True)
            ]
        )
        if n == 0:
            return cross
        lower, factor = np.tril_indices(n), np.zeros((n, n))
        with_a = self._told_with(a)
        slab = max(1, _BLOCK // (n * len(with_a)))
        for number, packed in enumerate(self._rows.packed):
            factor[lower] = packed[: len(lower[0])]
            with_a[number] = solve_triangular(factor.T, solve_triangular(factor, with_a[number], lower=True))
        for start in range(0, len(b), slab):
            here = slice(start, start + slab)
            cross[:, :, here] -= with_a.transpose(0, 2, 1) @ self._told_with(b[here])
        return cross

    def _once(self, index: int, place: tuple[int, ...], values: Float[np.ndarray, "j"], noise: float) -> "GridStack":
        """One more measurement: the update of the class docstring."""
        n, prior = self.n_told, self.prior
        rows, seats, ranks = self._rows.room(prior, n, self._ranks, index, place)
        whitened, weights = self._solved(index, place)
        d = prior.variances[:, index] - np.einsum("jn,jn->j", whitened, whitened) + noise
        if not (d >= 0.5 * noise).all():  # exactly, d >= noise
            raise _cannot_be_factored(1, n, f"conditional variances {d}, noise variance {noise}")
        rows.packed[:, (start := n * (n + 1) // 2) : start + n] = whitened
        root = np.sqrt(d)
        rows.packed[:, start + n] = root
        column = self._column(
            weights, seats, [table[:, :rank] for table, rank in zip(rows.tables, ranks, strict=True)], index
        )
        innovation = values - self.means[:, index]
        means = column * (innovation / d)[:, None]
        means += self.means
        column /= root[:, None]
        np.square(column, out=column)
        variances = np.subtract(self.variances, column, out=column)
        return GridStack(
            prior,
            _frozen(means),
            _frozen(prior.checked(variances, n + 1)),
            self.log_determinants + np.log(d / noise),
            self.log_evidences - 0.5 * (np.log(2.0 * math.pi * d) + innovation**2 / d),
            n + 1,
            ranks,
            rows,
        )

    def _at_once(
        self,
        indices: Int[np.ndarray, "b"],
        places: list[tuple[int, ...]],
        values: Float[np.ndarray, "j b"],
        noise: Float[np.ndarray, "b"],
    ) -> "GridStack":
        """All measurements of a belief that was told nothing before, from one factorisation   [R&W 2006, Alg. 2.1]."""
        prior, n, j = self.prior, len(indices), len(self.means)
        rows, ranks = self._rows, self._ranks
        for number, (index, place) in enumerate(zip(indices, places, strict=True)):
            rows, _, ranks = rows.room(prior, number, ranks, int(index), place)
        told = GridStack(prior, self.means, self.variances, self.log_determinants, self.log_evidences, n, ranks, rows)
        covariances = told._told_with(indices)
        covariances[:, np.arange(n), np.arange(n)] += noise
        try:
            factors = np.linalg.cholesky(covariances)
        except np.linalg.LinAlgError as error:
            raise _cannot_be_factored(n, 0, str(error)) from error
        diagonals = np.diagonal(factors, axis1=1, axis2=2)
        if not (diagonals**2 >= 0.5 * noise).all():  # exactly, >= noise
            raise _cannot_be_factored(n, 0, f"conditional variances {diagonals**2}, noise variances {noise}")
        lower = np.tril_indices(n)
        rows.packed[:, : len(lower[0])] = factors[:, *lower]
        innovations, weights = np.empty((j, n)), np.empty((j, n))
        variances = np.array(prior.variances)
        for number, packed in enumerate(rows.packed):
            innovations[number] = dtpsv(n, packed, values[number] - self.means[number, indices], trans=1)
            weights[number] = dtpsv(n, packed, innovations[number])
            told._explain(number, factors[number], variances[number])
        log_diagonals = np.log(diagonals).sum(axis=1)
        means = told._spread(weights, [table[:, :rank] for table, rank in zip(rows.tables, ranks, strict=True)])
        if prior.features is not None:
            means += prior.linear_columns(weights @ prior.features[indices])
        means += self.means
        return GridStack(
            prior,
            _frozen(means),
            _frozen(prior.checked(variances, n)),
            2.0 * log_diagonals - np.log(noise).sum(),
            -0.5 * (innovations**2).sum(axis=1) - log_diagonals - 0.5 * n * math.log(2.0 * math.pi),
            n,
            ranks,
            rows,
        )

    def _solved(self, index: int, place: tuple[int, ...]) -> tuple[Float[np.ndarray, "j n"], Float[np.ndarray, "j n"]]:
        """L^-1 k(X, x) and (K + Sigma)^-1 k(X, x)."""
        n, rows, prior = self.n_told, self._rows, self.prior
        whitened = np.empty((len(self.means), n))
        if n == 0:
            return whitened, whitened
        cross = np.repeat(prior.amplitudes, n, axis=1)
        for axis, value in enumerate(place):
            cross *= rows.tables[axis][:, : self._ranks[axis], value].take(rows.seats[axis, :n], axis=1)
        if prior.features is not None:
            cross += prior.coefficients(prior.features[index]) @ prior.features[rows.indices[:n]].T
        weights = np.empty_like(whitened)
        for number, packed in enumerate(rows.packed):
            whitened[number] = dtpsv(n, packed, cross[number], trans=1)
            weights[number] = dtpsv(n, packed, whitened[number])
        return whitened, weights

    def _column(
        self,
        weights: Float[np.ndarray, "j n"],
        seats: tuple[int, ...],
        tables: list[Float[np.ndarray, "j _ _"]],
        index: int,
    ) -> Float[np.ndarray, "j m"]:
        """k(., x) - k(., X) c, x in the given seats of the tables."""
        prior = self.prior
        column = self._spread(-weights, tables, seats)
        if prior.features is not None:
            told = prior.features[self._rows.indices[: self.n_told]]
            column += prior.linear_columns(prior.features[index] - weights @ told)
        return column

    def _spread(
        self,
        weights: Float[np.ndarray, "j n"],
        tables: list[Float[np.ndarray, "j _ _"]],
        seats: tuple[int, ...] | None = None,
    ) -> Float[np.ndarray, "j m"]:
        """sd^2 sum_t weight_t K_0(x_t0, .) K_1(x_t1, .) ..., and the same at the given seats with weight one."""
        j, n = weights.shape
        flat, one, size = self._rows.seats[0, :n], 0 if seats is None else seats[0], tables[0].shape[1]
        for axis in range(1, len(tables)):
            rank = tables[axis].shape[1]
            flat = flat * rank + self._rows.seats[axis, :n]
            one = one * rank + (0 if seats is None else seats[axis])
            size *= rank
        if j > 1:
            flat = (flat + np.arange(0, j * size, size)[:, None]).ravel()
        core = np.bincount(flat, weights.ravel(), j * size).astype(np.float64, copy=False).reshape(j, size)
        if seats is not None:
            core[:, one] += 1.0
        core *= self.prior.amplitudes
        last = tables[-1]
        core = core.reshape(j, -1, last.shape[1]) @ last
        for axis in range(len(tables) - 2, 0, -1):
            rank = tables[axis].shape[1]
            before = math.prod(table.shape[1] for table in tables[:axis])
            core = tables[axis].transpose(0, 2, 1)[:, None] @ core.reshape(j, before, rank, -1)
        if len(tables) > 1:
            core = tables[0].transpose(0, 2, 1) @ core.reshape(j, tables[0].shape[1], -1)
        return core.reshape(j, -1)

    def _told_with(self, indices: Int[np.ndarray, "p"]) -> Float[np.ndarray, "j n p"]:
        """k(X, candidates)."""
        prior, n = self.prior, self.n_told
        cross = np.repeat(prior.amplitudes[:, :, None], n, axis=1)
        for axis, values in enumerate(np.unravel_index(indices, prior.shape)):
            table = self._rows.tables[axis][:, : self._ranks[axis]]
            cross = cross * table[:, :, values].take(self._rows.seats[axis, :n], axis=1)
        if prior.features is None:
            return cross
        told = prior.features[self._rows.indices[:n]]
        return cross + told @ cast(np.ndarray, prior.spreads) @ prior.features[indices].T

    def _explain(self, number: int, factor: Float[np.ndarray, "n n"], variance: Float[np.ndarray, "m"]) -> None:
        """Subtracts from one belief's prior variance, in place, what the measurements explain: |L^-1 k(X, z)|^2."""
        prior, n = self.prior, self.n_told
        first, *others = (
            table[number, seats[:n]] for table, seats in zip(self._rows.tables, self._rows.seats, strict=True)
        )
        rest = np.full((n, 1), prior.amplitudes[number, 0])
        for rows in others:
            rest = (rest[:, :, None] * rows[:, None, :]).reshape(n, -1)
        slab = max(1, _SLAB // (n * rest.shape[1]))
        terms = prior.linear[number]
        for start in range(0, first.shape[1], slab):
            cross = (first[:, start : start + slab, None] * rest[:, None, :]).reshape(n, -1)
            here = slice(start * rest.shape[1], start * rest.shape[1] + cross.shape[1])
            if terms is not None:
                cross += terms.features[self._rows.indices[:n]] @ terms.covariance @ terms.features[here].T
            cross = dtrsm(1.0, factor.T, cross.T, side=1, overwrite_b=1).T  # V^T L^T = K^T
            variance[here] -= np.einsum("nm,nm->m", cross, cross)


@dataclass(frozen=True, slots=True, eq=False)
class GridProcess:
    """One belief on a grid: `GridStack` holds it, alone or with others that are told the same; immutable."""

    stack: GridStack
    number: int

    @staticmethod
    def over(
        kernel: SeparableKernel, space: TargetSpace, mean: PriorMean, linear: LinearTerms | None = None
    ) -> "GridProcess":
        """The belief before any measurement; `linear` adds the uncertain coefficients of the prior mean.

        Raises:
            UsageError: if the prior mean is not one finite number a candidate, or `linear` has other candidates.
        """
        values = np.array(mean(space.points) if callable(mean) else mean, dtype=np.float64)
        return GridProcess(GridStack.over((kernel,), space, values[None], (linear,)), 0)

    @property
    def mean(self) -> Float[np.ndarray, "m"]:
        """Posterior mean of f at every candidate."""
        return self.stack.means[self.number]

    @property
    def variance(self) -> Float[np.ndarray, "m"]:
        """Posterior variance of f, noise excluded."""
        return self.stack.variances[self.number]

    @property
    def sd(self) -> Float[np.ndarray, "m"]:
        """Posterior standard deviation of f, noise excluded."""
        return np.sqrt(self.variance)

    @property
    def n_told(self) -> int:
        """Number n of measurements told."""
        return self.stack.n_told

    @property
    def log_determinant(self) -> float:
        """Logarithm of det(I + Sigma^-1/2 K(X, X) Sigma^-1/2), Sigma the told noise variances."""
        return float(self.stack.log_determinants[self.number])

    @property
    def log_evidence(self) -> float:
        """Logarithm of the marginal likelihood of all told values."""
        return float(self.stack.log_evidences[self.number])

    def condition(
        self,
        indices: Int[np.ndarray, "b"],
        values: Float[np.ndarray, "b"],
        noise_variance: Float[np.ndarray, "b"],
    ) -> "GridProcess":
        """The belief after b more measurements; see `GridStack.condition`."""
        return GridProcess(self.stack.alone(self.number).condition(indices, values[None], noise_variance), 0)

    def covariances(self, a: Int[np.ndarray, "p"], b: Int[np.ndarray, "q"]) -> Float[np.ndarray, "p q"]:
        """Posterior covariance of f at some candidates with f at others."""
        return self.stack.alone(self.number).covariances(a, b)[0]

    def column(self, index: int) -> Float[np.ndarray, "m"]:
        """Posterior covariance of f at one candidate with f at all."""
        return self.stack.alone(self.number).columns(index)[0]


def stacked(processes: tuple[GridProcess, ...]) -> GridStack | None:
    """The processes in one stack, in this order, or None where their grids, features or measurements differ."""
    first = processes[0].stack
    if first.n_told > 0 or len(first.means) > 1:
        same = all(process.stack is first and process.number == i for i, process in enumerate(processes))
        return first if same and len(processes) == len(first.means) else None
    if any(process.stack.n_told > 0 or process.stack.prior.space != first.prior.space for process in processes):
        return None
    linear = tuple(process.stack.prior.linear[process.number] for process in processes)
    if not all(_same_features(linear[0], terms) for terms in linear):
        return None
    kernels = tuple(process.stack.prior.kernels[process.number] for process in processes)
    return GridStack.over(kernels, first.prior.space, np.stack([process.mean for process in processes]), linear)


def _same_features(a: LinearTerms | None, b: LinearTerms | None) -> bool:
    """Whether both have none, or the same."""
    if a is None or b is None:
        return a is b
    return a.features is b.features or np.array_equal(a.features, b.features)


@dataclass(frozen=True, eq=False)
class _Prior:
    """What j beliefs on one grid never change."""

    kernels: tuple[SeparableKernel, ...]
    space: TargetSpace
    linear: tuple[LinearTerms | None, ...]
    shape: tuple[int, ...]
    axes: tuple[Float[np.ndarray, "_"], ...]
    amplitudes: Float[np.ndarray, "j 1"]
    """sd^2."""
    variances: Float[np.ndarray, "j m"]
    features: Float[np.ndarray, "m q"] | None
    """Phi, shared by all."""
    spreads: Float[np.ndarray, "j q q"] | None
    """Covariances of the coefficients."""
    correlations: dict[tuple[int, int], Float[np.ndarray, "j _"]]
    """Rows K_i(value, .) by axis and place, computed once they are asked for."""

    @staticmethod
    def over(
        kernels: tuple[SeparableKernel, ...], space: TargetSpace, linear: tuple[LinearTerms | None, ...]
    ) -> "_Prior":
        """From kernels, a grid and linear terms that share their features."""
        amplitudes = np.array([[kernel.sd**2] for kernel in kernels])
        shape = (len(kernels), len(space))
        terms = [each for each in linear if each is not None]
        variances = np.broadcast_to(amplitudes, shape)
        features, spreads = None, None
        if terms:
            variances = variances + np.stack([each.diagonal for each in terms])
            features, spreads = terms[0].features, np.stack([each.covariance for each in terms])
        axes = tuple(np.array(values, dtype=np.float64) for values in space.axes.values())
        return _Prior(kernels, space, linear, space.shape, axes, amplitudes, _frozen(variances), features, spreads, {})

    def alone(self, number: int) -> "_Prior":
        """Of one belief."""
        return _Prior.over(self.kernels[number : number + 1], self.space, self.linear[number : number + 1])

    def place(self, index: int) -> tuple[int, ...]:
        """A candidate's place on every axis."""
        if not 0 <= index < len(self.variances[0]):
            raise UsageError(f"there is no candidate {index}, they are numbered from 0 to {len(self.variances[0]) - 1}")
        places = []
        for size in reversed(self.shape):
            index, place = divmod(index, size)
            places.append(place)
        return tuple(reversed(places))

    def points(self, indices: Int[np.ndarray, "p"]) -> Float[np.ndarray, "p d"]:
        """Candidates in the axes' units."""
        places = np.unravel_index(indices, self.shape)
        return np.stack([axis[place] for axis, place in zip(self.axes, places, strict=True)], axis=1)

    def row(self, axis: int, place: int) -> Float[np.ndarray, "j _"]:
        """Correlations of one value of an axis with all of them, of every kernel."""
        row = self.correlations.get((axis, place))
        if row is None:
            values = self.axes[axis]
            one = values[place : place + 1]
            row = np.concatenate([kernel.axis_cross(axis, one, values) for kernel in self.kernels])
            self.correlations[axis, place] = row
        return row

    def coefficients(self, features: Float[np.ndarray, "*j q"]) -> Float[np.ndarray, "j q"]:
        """Sigma_b v."""
        spreads = cast(np.ndarray, self.spreads)
        return np.einsum("jpq,q->jp" if features.ndim == 1 else "jpq,jq->jp", spreads, features)

    def linear_columns(self, features: Float[np.ndarray, "j q"]) -> Float[np.ndarray, "j m"]:
        """Phi Sigma_b v."""
        return self.coefficients(features) @ cast(np.ndarray, self.features).T

    def checked(self, variances: Float[np.ndarray, "j m"], n_told: int) -> Float[np.ndarray, "j m"]:
        """Variances without rounding below zero, changed in place.

        Raises:
            ModelError: if one is negative beyond rounding, or not a number.
        """
        if variances.min() >= 0.0:
            return variances
        allowed = variances >= -ROUNDING * self.variances
        if not allowed.all():
            number, place = np.unravel_index(int(np.argmin(allowed)), variances.shape)
            raise ModelError(
                f"posterior variance at candidate {place} is {variances[number, place]} after {n_told} measurements; "
                "the kernel is not a covariance, or the noise floor is too small"
            )
        return np.maximum(variances, 0.0, out=variances)


class _Rows:
    """Append-only buffers of what was told, shared by the beliefs of one run.

    A belief that knows n measurements reads the first n rows only. Whoever holds as many as were ever appended may
    append; all others append to a copy of what they hold.
    """

    __slots__ = ("_lock", "_used", "indices", "packed", "seating", "seats", "tables")

    def __init__(
        self,
        used: int,
        indices: np.ndarray,
        packed: np.ndarray,
        seats: np.ndarray,
        seating: list[np.ndarray],
        tables: list[np.ndarray],
    ) -> None:
        self._lock = Lock()
        self._used = used
        self.indices = indices
        """(capacity,): told candidates."""
        self.packed = packed
        """(j, capacity (capacity + 1) / 2): rows of L, one after the other, which is BLAS' packed L^T."""
        self.seats = seats
        """(d, capacity): the row of `tables` where each told value stands."""
        self.seating = seating
        """By axis (m_i,): the row of `tables` of each value, -1 where it has none."""
        self.tables = tables
        """By axis (j, capacity_i, m_i): K_i(value, .) of each distinct told value."""

    def __reduce__(self) -> tuple[type["_Rows"], tuple[object, ...]]:
        """Without the lock: beliefs travel between processes, where each has buffers of its own."""
        return _Rows, (self._used, self.indices, self.packed, self.seats, self.seating, self.tables)

    @staticmethod
    def empty(j: int, shape: tuple[int, ...], capacity: int, ranks: tuple[int, ...]) -> "_Rows":
        """Nothing told yet, with room for so many rows."""
        return _Rows(
            0,
            np.empty(capacity, dtype=np.intp),
            np.empty((j, capacity * (capacity + 1) // 2)),
            np.empty((len(shape), capacity), dtype=np.intp),
            [np.full(size, -1, dtype=np.intp) for size in shape],
            [np.empty((j, min(size, max(_ROWS, 2 * rank)), size)) for size, rank in zip(shape, ranks, strict=True)],
        )

    def copy(self, n: int, ranks: tuple[int, ...], members: slice) -> "_Rows":
        """The first n rows, with room for as many again."""
        shape = tuple(len(seating) for seating in self.seating)
        packed = self.packed[members]
        new = _Rows.empty(len(packed), shape, max(_ROWS, 2 * n), ranks)
        used = n * (n + 1) // 2
        new._used = n
        new.indices[:n] = self.indices[:n]
        new.packed[:, :used] = packed[:, :used]
        new.seats[:, :n] = self.seats[:, :n]
        for axis, rank in enumerate(ranks):
            mine = self.seating[axis]
            new.seating[axis][:] = np.where(mine < rank, mine, -1)
            new.tables[axis][:, :rank] = self.tables[axis][members, :rank]
        return new

    def room(
        self, prior: _Prior, n: int, ranks: tuple[int, ...], index: int, place: tuple[int, ...]
    ) -> tuple["_Rows", tuple[int, ...], tuple[int, ...]]:
        """Buffers with row n begun for a candidate, its seats in the tables, and the number of seats taken."""
        with self._lock:
            full = n == len(self.indices) or any(
                rank == table.shape[1] < table.shape[2] for rank, table in zip(ranks, self.tables, strict=True)
            )
            mine = self._used == n and not full
            if mine:
                self._used = n + 1
        rows = self if mine else self.copy(n, ranks, slice(None))
        rows._used = n + 1
        rows.indices[n] = index
        taken = list(ranks)
        seats = []
        for axis, value in enumerate(place):
            seat = int(rows.seating[axis][value])
            if not 0 <= seat < ranks[axis]:
                seat = ranks[axis]
                rows.tables[axis][:, seat] = prior.row(axis, value)
                rows.seating[axis][value] = seat
                taken[axis] += 1
            rows.seats[axis, n] = seat
            seats.append(seat)
        return rows, tuple(seats), tuple(taken)

    def seated(
        self, prior: _Prior, ranks: tuple[int, ...], place: tuple[int, ...]
    ) -> tuple[tuple[int, ...], list[Float[np.ndarray, "j _ _"]]]:
        """Seats of a candidate in tables that hold its values too; the buffers stay as they are."""
        seats, tables = [], []
        for axis, value in enumerate(place):
            seat = int(self.seating[axis][value])
            table = self.tables[axis][:, : ranks[axis]]
            if not 0 <= seat < ranks[axis]:
                seat = ranks[axis]
                table = np.concatenate([table, prior.row(axis, value)[:, None]], axis=1)
            seats.append(seat)
            tables.append(table)
        return tuple(seats), tables


def _cannot_be_factored(new: int, before: int, why: str) -> ModelError:
    """The noise does not keep the covariance away from singular."""
    return ModelError(
        f"the covariance of {new} new measurements after {before} cannot be factored ({why}); "
        "the declared noise is too small for the declared kernel: raise the noise floor"
    )


def _frozen(array: np.ndarray) -> np.ndarray:
    """The array, made read-only."""
    array.flags.writeable = False
    return array
