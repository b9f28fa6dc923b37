"""Running mean and spread of observations, for policies that meet their data while they learn."""

import numpy as np
import torch
from jaxtyping import Float

from safehold.learn.learner import State
from safehold.nn.tensors import to_array


class RunningMoments:
    """Mean and standard deviation of all rows seen so far, in float64.

    Batches are merged exactly: the result does not depend on how the rows were cut into batches, up to rounding.
    [Chan, Golub & LeVeque 1979, Eq. (2.1)]
    """

    def __init__(self, size: int) -> None:
        self._count = 0
        self._mean = np.zeros(size)
        self._sum_of_squares = np.zeros(size)

    @property
    def mean(self) -> Float[np.ndarray, "o"]:
        """Mean of each column; zeros before the first row."""
        return self._mean.copy()

    @property
    def sd(self) -> Float[np.ndarray, "o"]:
        """Standard deviation of each column; ones before the first row, and where a column never varies."""
        if self._count == 0:
            return np.ones_like(self._mean)
        sd = np.sqrt(self._sum_of_squares / self._count)
        return np.where(sd > 1e-6, sd, 1.0)

    def add(self, rows: Float[np.ndarray, "n o"]) -> None:
        """Takes more rows into account."""
        n = len(rows)
        rows = rows.astype(np.float64)
        mean = rows.mean(axis=0)
        shift = mean - self._mean
        total = self._count + n
        self._sum_of_squares = (
            self._sum_of_squares + np.square(rows - mean).sum(axis=0) + np.square(shift) * self._count * n / total
        )
        self._mean = self._mean + shift * n / total
        self._count = total

    def state(self) -> State:
        """A copy of the sums."""
        return State(
            {
                "mean": torch.from_numpy(self._mean.copy()),
                "sum_of_squares": torch.from_numpy(self._sum_of_squares.copy()),
            },
            {"count": self._count},
        )

    def restore(self, state: State) -> None:
        """Goes back to saved sums."""
        self._mean = to_array(state.tensors["mean"])
        self._sum_of_squares = to_array(state.tensors["sum_of_squares"])
        self._count = int(state.meta["count"])
