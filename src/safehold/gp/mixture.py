"""Several declared models at once, weighted by how well they foretold what was measured."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import Float, Int
from scipy.special import ndtr

from safehold.core.errors import ModelError, UsageError
from safehold.gp.grid import GridProcess, stacked
from safehold.gp.process import Process

Measurements: TypeAlias = tuple[Int[np.ndarray, "n"], Float[np.ndarray, "n"], Float[np.ndarray, "n"]]
"""Candidates, what was measured there, and its noise variances."""


@runtime_checkable
class Told(Protocol):
    """j processes over the same m candidates that are told of the same measurements; immutable."""

    @property
    def processes(self) -> tuple[Process, ...]:
        """Each of them."""
        ...

    @property
    def means(self) -> Float[np.ndarray, "j m"]:
        """Posterior means."""
        ...

    @property
    def variances(self) -> Float[np.ndarray, "j m"]:
        """Posterior variances."""
        ...

    @property
    def log_evidences(self) -> Float[np.ndarray, "j"]:
        """Log evidences."""
        ...

    def condition(
        self,
        indices: Int[np.ndarray, "b"],
        values: Float[np.ndarray, "j b"],
        noise_variance: Float[np.ndarray, "b"],
    ) -> "Told":
        """All after b more measurements; what is told may differ from one to the next."""
        ...

    def columns(self, index: int) -> Float[np.ndarray, "j m"]:
        """Posterior covariance of f at one candidate with f at all."""
        ...

    def covariances(self, a: Int[np.ndarray, "p"], b: Int[np.ndarray, "q"]) -> Float[np.ndarray, "j p q"]:
        """Posterior covariance of f at some candidates with f at others."""
        ...


@dataclass(frozen=True, slots=True)
class OneByOne:
    """Processes of any kind, each told by itself."""

    processes: tuple[Process, ...]

    @property
    def means(self) -> Float[np.ndarray, "j m"]:
        """Posterior means."""
        return np.stack([process.mean for process in self.processes])

    @property
    def variances(self) -> Float[np.ndarray, "j m"]:
        """Posterior variances."""
        return np.stack([process.variance for process in self.processes])

    @property
    def log_evidences(self) -> Float[np.ndarray, "j"]:
        """Log evidences."""
        return np.array([process.log_evidence for process in self.processes])

    def condition(
        self,
        indices: Int[np.ndarray, "b"],
        values: Float[np.ndarray, "j b"],
        noise_variance: Float[np.ndarray, "b"],
    ) -> "OneByOne":
        """All after b more measurements."""
        return OneByOne(
            tuple(
                process.condition(indices, told, noise_variance)
                for process, told in zip(self.processes, values, strict=True)
            )
        )

    def columns(self, index: int) -> Float[np.ndarray, "j m"]:
        """Posterior covariance of f at one candidate with f at all."""
        return np.stack([process.column(index) for process in self.processes])

    def covariances(self, a: Int[np.ndarray, "p"], b: Int[np.ndarray, "q"]) -> Float[np.ndarray, "j p q"]:
        """Posterior covariance of f at some candidates with f at others."""
        return np.stack([process.covariances(a, b) for process in self.processes])


@dataclass(frozen=True)
class Mixture:
    """f is a draw of member j with probability w_j; immutable.

    w_j = prior_j p(told | j) / sum_i prior_i p(told | i)   [R&W 2006, Sec. 5.2, over a finite set of models].
    The members are declared before the first measurement and nothing is ever refitted: only weights move.
    `log_prior` need not be normalised. A mixture of one member is that member, to the last bit.

    Raises:
        UsageError: if there is no member, or not one finite `log_prior` a member, or members differ in their
            number of candidates or of measurements.
    """

    members: tuple[Process, ...]
    log_prior: tuple[float, ...]
    _told: Told = field(default=OneByOne(()), repr=False, compare=False)
    _measured: Told = field(default=OneByOne(()), repr=False, compare=False)
    """Told only of what was really measured, on which weights rest; `_told` itself until something is assumed."""

    def __post_init__(self) -> None:
        if self._told.processes:
            return
        if not self.members or len(self.log_prior) != len(self.members):
            raise UsageError(
                f"a mixture needs a member and one log prior weight a member, got {len(self.members)} members "
                f"and {len(self.log_prior)} weights"
            )
        if not np.all(np.isfinite(np.array(self.log_prior))):
            raise UsageError(f"log prior weights must be finite, got {self.log_prior}; leave out what has no weight")
        if len({(len(member.mean), member.n_told) for member in self.members}) != 1:
            raise UsageError(
                "members of a mixture believe something of the same candidates and were told as much, got "
                f"(candidates, measurements) {[(len(member.mean), member.n_told) for member in self.members]}"
            )
        told = together(self.members)
        object.__setattr__(self, "_told", told)
        object.__setattr__(self, "_measured", told)

    @staticmethod
    def of(told: Told, log_prior: tuple[float, ...]) -> "Mixture":
        """The mixture of processes that are told in one go already; all that they know was measured.

        What it shows is what `told` shows, which may be less than its members know (`safehold.gp.coupled`).
        """
        return Mixture(told.processes, log_prior, told, told)

    @property
    def n_told(self) -> int:
        """Number of measurements told, assumed and hallucinated ones among them."""
        return self.members[0].n_told

    def condition(
        self,
        indices: Int[np.ndarray, "b"],
        values: Float[np.ndarray, "b"],
        noise_variance: Float[np.ndarray, "b"],
    ) -> "Mixture":
        """The mixture after b more measurements, each with its own noise variance."""
        told = self._told.condition(indices, self._for_all(values), noise_variance)
        alone = self._measured is self._told
        measured = told if alone else self._measured.condition(indices, self._for_all(values), noise_variance)
        return Mixture(told.processes, self.log_prior, told, measured)

    def assume(
        self,
        indices: Int[np.ndarray, "b"],
        values: Float[np.ndarray, "b"],
        noise_variance: Float[np.ndarray, "b"],
        measured: Measurements | None = None,
    ) -> "Mixture":
        """The mixture after b values that are bounds rather than measurements; of them, `measured` really was.

        The members are told the former. The weights, and `Mixture.measured`, rest on the latter instead: no model
        should win because it foretold an assumption.
        """
        told = self._told.condition(indices, self._for_all(values), noise_variance)
        rest = self._measured
        if measured is not None and len(measured[0]):
            places, really, noise = measured
            rest = rest.condition(places, self._for_all(really), noise)
        return Mixture(told.processes, self.log_prior, told, rest)

    def hallucinate(self, indices: Int[np.ndarray, "b"], noise_variance: Float[np.ndarray, "b"]) -> "Mixture":
        """The mixture as if pending measurements came out exactly as each member foretells.

        Means and weights stay, variances shrink   [Desautels, Krause & Burdick 2014, GP-BUCB]. For choosing the next
        target only: a certificate rests on what was told, never on this.
        """
        told = self._told.condition(indices, self._told.means[:, indices], noise_variance)
        return Mixture(told.processes, self.log_prior, told, self._measured)

    @cached_property
    def measured(self) -> "Mixture":
        """The mixture told of what was really measured and of nothing else: nothing assumed, nothing hallucinated."""
        if self._measured is self._told:
            return self
        return Mixture.of(self._measured, self.log_prior)

    @cached_property
    def weights(self) -> Float[np.ndarray, "j"]:
        """w_j, summing to one.

        Raises:
            ModelError: if a member cannot say how likely what was told is, or none finds it possible.
        """
        logarithms = np.array(self.log_prior) + self._measured.log_evidences
        most = np.max(logarithms)
        if not np.isfinite(most):
            raise ModelError(
                f"the mixture's members cannot explain what was told: log weights are {logarithms}; "
                "a measurement lies beyond anything the declared models describe"
            )
        weights = np.exp(logarithms - most)
        return _frozen(weights / np.sum(weights))

    @cached_property
    def means(self) -> Float[np.ndarray, "j m"]:
        """Posterior mean of every member."""
        return self._told.means

    @cached_property
    def sds(self) -> Float[np.ndarray, "j m"]:
        """Posterior standard deviation of every member."""
        return _frozen(np.sqrt(self._told.variances))

    @cached_property
    def mean(self) -> Float[np.ndarray, "m"]:
        """sum_j w_j mu_j."""
        return _frozen(self.weights @ self.means)

    @cached_property
    def variance(self) -> Float[np.ndarray, "m"]:
        """sum_j w_j (sd_j^2 + (mu_j - mean)^2): within members and between them."""
        return _frozen(self.weights @ (self._told.variances + (self.means - self.mean) ** 2))

    @cached_property
    def sd(self) -> Float[np.ndarray, "m"]:
        """Standard deviation of f under the mixture, noise excluded."""
        return _frozen(np.sqrt(self.variance))

    def risk(self, limit: float, inflate: float = 1.0) -> Float[np.ndarray, "m"]:
        """P(f > limit) = sum_j w_j Phi((mu_j - limit) / (inflate sd_j)); `inflate` >= 1 widens every member.

        A member whose mean is above the limit is not widened: that would lower its risk. So inflating never lowers
        the result. A member without any spread left counts as over the limit if its mean is not under it.
        """
        if not 1.0 <= inflate < np.inf:
            raise UsageError(f"inflate is {inflate}; it widens the members' spread and is at least 1")
        spread = self.sds if inflate == 1.0 else inflate * self.sds
        with np.errstate(divide="ignore", invalid="ignore"):
            excess = (self.means - limit) / spread
        if inflate > 1.0:
            excess[excess > 0.0] *= inflate
        excess[np.isnan(excess)] = np.inf
        return self.weights @ ndtr(excess)

    def upper(self, multiplier: float | Float[np.ndarray, "j"]) -> Float[np.ndarray, "m"]:
        """max_j mu_j + multiplier sd_j, whatever the weights; the multiplier may differ between members."""
        return np.max(self.means + _each(multiplier) * self.sds, axis=0)

    def lower(self, multiplier: float | Float[np.ndarray, "j"]) -> Float[np.ndarray, "m"]:
        """min_j mu_j - multiplier sd_j, whatever the weights; the multiplier may differ between members."""
        return np.min(self.means - _each(multiplier) * self.sds, axis=0)

    def covariances(self, a: Int[np.ndarray, "p"], b: Int[np.ndarray, "q"]) -> Float[np.ndarray, "p q"]:
        """Covariance of f at some candidates with f at others: sum_j w_j (C_j + between the members' means)."""
        apart = self.means - self.mean
        between = np.einsum("j,jp,jq->pq", self.weights, apart[:, a], apart[:, b])
        return np.einsum("j,jpq->pq", self.weights, self._told.covariances(a, b)) + between

    def column(self, index: int) -> Float[np.ndarray, "m"]:
        """Covariance of f at one candidate with f at all."""
        apart = self.means - self.mean
        return self.weights @ self._told.columns(index) + (self.weights * apart[:, index]) @ apart

    def _for_all(self, values: Float[np.ndarray, "b"]) -> Float[np.ndarray, "j b"]:
        """The same values for every member."""
        return np.broadcast_to(values, (len(self.members), len(values)))


def together(members: tuple[Process, ...]) -> Told:
    """The members, told in one go where their engine can."""
    on_grids = tuple(member for member in members if isinstance(member, GridProcess))
    return (stacked(on_grids) if len(on_grids) == len(members) else None) or OneByOne(members)


def _each(multiplier: float | Float[np.ndarray, "j"]) -> float | Float[np.ndarray, "j 1"]:
    """A number for all members, or one a member as a column."""
    return multiplier[:, None] if isinstance(multiplier, np.ndarray) else multiplier


def _frozen(array: np.ndarray) -> np.ndarray:
    """The array, made read-only."""
    array.flags.writeable = False
    return array
