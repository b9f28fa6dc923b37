"""What a cost critic estimates of the steps to come: their discounted sum, or their discounted maximum.

The first belongs to the constraint `SumCost`, the second to `MaximumCost` (`core.constraint`).
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, maximum

from safehold.core.constraint import Limit


@runtime_checkable
class CostValue(Protocol):
    """A critic's target, and the limit in its units."""

    def targets(
        self, signal: Float[Tensor, "B"], following: Float[Tensor, "B"], goes_on: Float[Tensor, "B"]
    ) -> Float[Tensor, "B"]:
        """From each step's signal, the critic's value of what follows, and whether anything does (1 or 0)."""
        ...

    def threshold(self, limit: Limit, horizon: int) -> float:
        """The limit in the critic's units."""
        ...


@dataclass(frozen=True, slots=True)
class DiscountedSum:
    """E sum_t discount^t c_t."""

    discount: float

    def targets(
        self, signal: Float[Tensor, "B"], following: Float[Tensor, "B"], goes_on: Float[Tensor, "B"]
    ) -> Float[Tensor, "B"]:
        """The sum of c and discount Q(s', a'), or c where nothing follows.

        What follows is held at 0 at least, as costs are: a critic's error must not be a credit.
        [FAC, arXiv 2105.10682, clips so in its code]
        """
        return signal + self.discount * goes_on * following.clamp(min=0.0)

    def threshold(self, limit: Limit, horizon: int) -> float:
        """The limit d as d / ((1 - discount) T): the same cost in every step, and a clock that is not seen."""
        return limit.value / ((1.0 - self.discount) * horizon)


@dataclass(frozen=True, slots=True)
class DiscountedMaximum:
    """The largest cost of a step to come, the further ahead the less: discount -> 1 is the plain maximum."""

    discount: float

    def targets(
        self, signal: Float[Tensor, "B"], following: Float[Tensor, "B"], goes_on: Float[Tensor, "B"]
    ) -> Float[Tensor, "B"]:
        """(1 - discount) c + discount max(c, Q(s', a')), or c where nothing follows.

        [RCRL, arXiv 2205.07536: its reachability value, with the cost for the distance to the unsafe set]
        """
        ahead = maximum(signal, following.clamp(min=0.0))
        return signal + self.discount * goes_on * (ahead - signal)

    def threshold(self, limit: Limit, horizon: int) -> float:  # noqa: ARG002 - a maximum needs no horizon
        """The limit itself: both are in cost units of one step."""
        return limit.value
