"""The weight of a policy's entropy, one number that learns."""

import math

from safehold.core.errors import DataError, ModelError
from safehold.learn.learner import State

DECAYS, SMALLEST = (0.9, 0.999), 1e-8
"""Adam's, as in PyTorch."""


class Temperature:
    """alpha = softplus(theta), the weight of the entropy, in reward units a nat.

    theta descends on -alpha (entropy's lack), by Adam. For a single number a gradient is quicker written down than
    asked for: d(-alpha surplus) / d theta = -sigmoid(theta) surplus.   [SAC, arXiv 1812.05905, learnt temperature]
    """

    def __init__(self, initial: float, learning_rate: float) -> None:
        self._theta = initial + math.log(-math.expm1(-initial))  # softplus's inverse, for large values too
        self._rate = learning_rate
        self._mean = self._square = 0.0
        self._updates = 0

    @property
    def value(self) -> float:
        """alpha, > 0."""
        return math.log1p(math.exp(-abs(self._theta))) + max(self._theta, 0.0)

    def answer(self, surplus: float) -> None:
        """One step: rises if `surplus`, the mean log density plus the target, is above 0, and falls if below.

        Raises:
            ModelError: if the surplus is not finite.
        """
        if not math.isfinite(surplus):
            raise ModelError(
                f"update {self._updates + 1}: the entropy misses its target by {surplus}; lower the learning rate, or "
                "look for outliers in the data"
            )
        gradient = -surplus * 0.5 * (1.0 + math.tanh(0.5 * self._theta))
        self._updates += 1
        first, second = DECAYS
        self._mean = first * self._mean + (1.0 - first) * gradient
        self._square = second * self._square + (1.0 - second) * gradient**2
        mean = self._mean / (1.0 - first**self._updates)
        square = self._square / (1.0 - second**self._updates)
        self._theta -= self._rate * mean / (math.sqrt(square) + SMALLEST)

    def state(self) -> State:
        """Theta and its moments."""
        meta = {"theta": self._theta, "mean": self._mean, "square": self._square, "updates": self._updates}
        return State(meta=meta)

    def restore(self, state: State) -> None:
        """Goes back to a saved state.

        Raises:
            DataError: if a number is missing, or none.
        """
        try:
            theta, mean, square = (float(state.meta[name]) for name in ("theta", "mean", "square"))
            updates = int(state.meta["updates"])
            if not (math.isfinite(theta) and math.isfinite(mean) and 0.0 <= square < math.inf and updates >= 0):
                raise ValueError(f"theta {theta}, moments {mean} and {square} after {updates} updates")
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(f"this is no state of a temperature: {error!r}; begin anew") from error
        self._theta, self._mean, self._square, self._updates = theta, mean, square, updates
