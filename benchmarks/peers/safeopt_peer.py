"""SafeOpt behind the line protocol: its grid optimiser as its documentation shows it, with its default beta of 2.

SafeOpt fits nothing. Kernels and noise are those of the problem, in the middle of a range where there is one, and the
prior mean is the problem's, by a mean function of GPy.
"""

import collections
import collections.abc

import numpy as np

# SafeOpt and GPy still use names that Python 3.10 and NumPy 1.24 removed
vars(collections).update(Sequence=collections.abc.Sequence)
vars(np).update(float=float, bool=bool)

import GPy  # noqa: E402
import safeopt  # noqa: E402
from line_protocol import Plane, Problem, Told, middle, serve  # noqa: E402

BETA = 2.0
"""The default of safeopt.SafeOpt, written down because the benchmark is about it."""


class SafeOptPeer:
    """One optimisation by safeopt.SafeOpt on the problem's grid.

    Constants of the planes are taken off: the objective is reward - its constant, the safety function is
    -(cost - its constant), which is to stay at or above -(limit - its constant).
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._inputs = np.array(problem.unit_points)
        self._number = {tuple(row): number for number, row in enumerate(self._inputs)}
        inputs = self._inputs[[told.index for told in problem.start]]
        outcomes = np.array([self._outcomes(told) for told in problem.start])
        cost = problem.cost_plane
        processes = [
            self._process(inputs, outcomes[:, 0], problem.reward_plane, middle(problem.reward_sd)),
            self._process(
                inputs, outcomes[:, 1], Plane(0.0, -cost.along_reward, -cost.along_cost), middle(problem.cost_sd)
            ),
        ]
        self._optimizer = safeopt.SafeOpt(
            processes, self._inputs, fmin=[-np.inf, cost.constant - problem.limit], beta=BETA
        )

    def ask(self) -> int:
        """SafeOpt's next query."""
        return self._number[tuple(self._optimizer.optimize())]

    def tell(self, told: Told) -> None:
        """A new data point of both functions."""
        self._optimizer.add_new_data_point(self._inputs[told.index], np.array([self._outcomes(told)]))

    def recommend(self) -> int | None:
        """SafeOpt's current estimate of the maximum: the best lower bound of the reward in its safe set."""
        best = self._optimizer.get_maximum()
        return None if best is None else self._number[tuple(best[0])]

    def _outcomes(self, told: Told) -> list[float]:
        """Objective and safety function of one measurement."""
        problem = self._problem
        return [told.mean_reward - problem.reward_plane.constant, problem.cost_plane.constant - told.mean_cost]

    def _process(self, inputs: np.ndarray, outcomes: np.ndarray, plane: Plane, sd: float) -> object:
        """A GPy regression with the plane's slopes as its mean."""
        mean = GPy.mappings.Linear(2, 1)
        mean.A = np.array([[plane.along_reward], [plane.along_cost]])
        scales = [middle(self._problem.lengthscale)] * 2
        kernel = GPy.kern.RBF(2, variance=sd**2, lengthscale=scales, ARD=True)
        noise = self._problem.mean_sd**2
        return GPy.models.GPRegression(inputs, outcomes[:, None], kernel, noise_var=noise, mean_function=mean)


if __name__ == "__main__":
    serve(SafeOptPeer, ["safeopt", "GPy", "numpy", "scipy"])
