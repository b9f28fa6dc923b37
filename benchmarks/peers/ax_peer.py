"""Ax behind the line protocol: its client, an objective and an outcome constraint, everything else at its defaults.

The two parameters are the places on the two axes of the grid, as integers. The seed measurements are attached and
count as the initial design, so Ax never draws quasi-random points; measurements come with their standard error. Ax's
models are its own choice: it is told no prior mean and no hyper-parameters.
"""

import logging

import torch
from ax.api.client import Client
from ax.api.configs import RangeParameterConfig
from line_protocol import Problem, Told, serve


class AxPeer:
    """One experiment of ax.api.Client."""

    def __init__(self, problem: Problem) -> None:
        torch.manual_seed(problem.seed)
        self._problem = problem
        self._open: dict[int, int] = {}
        self._client = Client(random_seed=problem.seed)
        self._client.configure_experiment(
            parameters=[
                RangeParameterConfig(name="reward_place", bounds=(0, len(problem.rewards) - 1), parameter_type="int"),
                RangeParameterConfig(name="cost_place", bounds=(0, len(problem.costs) - 1), parameter_type="int"),
            ]
        )
        self._client.configure_optimization(objective="reward", outcome_constraints=[f"cost <= {problem.limit}"])
        self._client.configure_generation_strategy(
            initialization_budget=len(problem.start),
            initialization_random_seed=problem.seed,
            initialize_with_center=False,
        )
        for told in problem.start:
            reward_place, cost_place = divmod(told.index, len(problem.costs))
            trial = self._client.attach_trial({"reward_place": reward_place, "cost_place": cost_place})
            self._client.complete_trial(trial, raw_data=self._data(told))

    def ask(self) -> int:
        """The next trial of Ax's generation strategy."""
        ((trial, parameters),) = self._client.get_next_trials(max_trials=1).items()
        index = self._index(parameters)
        self._open[index] = trial
        return index

    def tell(self, told: Told) -> None:
        """Completes the trial that was asked."""
        self._client.complete_trial(self._open.pop(told.index), raw_data=self._data(told))

    def recommend(self) -> int | None:
        """Ax's best parameterization, by its own model's predictions."""
        parameters, _, _, _ = self._client.get_best_parameterization()
        return self._index(parameters)

    def _data(self, told: Told) -> dict[str, tuple[float, float]]:
        """Means with their standard errors."""
        return {"reward": (told.mean_reward, self._problem.mean_sd), "cost": (told.mean_cost, self._problem.mean_sd)}

    def _index(self, parameters: dict[str, object]) -> int:
        """Number of the candidate at these places."""
        return int(str(parameters["reward_place"])) * len(self._problem.costs) + int(str(parameters["cost_place"]))


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    serve(AxPeer, ["ax-platform", "botorch", "gpytorch", "torch", "numpy"])
