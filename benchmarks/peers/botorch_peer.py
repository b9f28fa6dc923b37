"""BoTorch behind the line protocol: constrained log expected improvement over the grid, hyper-parameters fitted.

Two SingleTaskGPs with known noise, fitted by MAP after every measurement: BoTorch's default squared-exponential kernel
and its length-scale prior, times an output scale with BoTorch's prior for it. The prior mean is the declared one.
Outcomes are put on a fixed scale, the declared standard deviation (the middle of its range), with the limit at zero;
`outcome_transform=None`, since a standardisation refitted at every measurement would move the prior against the limit.
"""

import torch
from botorch.acquisition.analytic import LogConstrainedExpectedImprovement, LogProbabilityOfFeasibility
from botorch.fit import fit_gpytorch_mll
from botorch.models import ModelListGP, SingleTaskGP
from botorch.models.utils.gpytorch_modules import get_covar_module_with_dim_scaled_prior
from botorch.optim import optimize_acqf_discrete
from gpytorch.kernels import ScaleKernel
from gpytorch.means import Mean
from gpytorch.mlls import ExactMarginalLogLikelihood
from gpytorch.priors import GammaPrior
from line_protocol import Plane, Problem, Told, middle, serve

BATCH = 2048
"""Candidates whose acquisition is computed at once; optimize_acqf_discrete's default."""


class PlaneMean(Mean):  # type: ignore[misc]
    """The declared prior mean, on the scale of a model; nothing to fit."""

    def __init__(self, plane: Plane, zero: float, scale: float) -> None:
        super().__init__()
        self._slopes = torch.tensor([plane.along_reward, plane.along_cost], dtype=torch.float64) / scale
        self._constant = (plane.constant - zero) / scale

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """The mean at inputs in the unit square."""
        return inputs @ self._slopes + self._constant


class BoTorchPeer:
    """One optimisation; every measurement refits both models."""

    def __init__(self, problem: Problem) -> None:
        torch.manual_seed(problem.seed)
        self._inputs = torch.tensor(problem.unit_points, dtype=torch.float64)
        self._zeros = (0.0, problem.limit)
        self._scales = (middle(problem.reward_sd), middle(problem.cost_sd))
        self._planes = (problem.reward_plane, problem.cost_plane)
        self._mean_sd = problem.mean_sd
        self._told = list(problem.start)
        self._fit()

    def ask(self) -> int:
        """The best feasibility-weighted log expected improvement; the most probably feasible if nothing told is."""
        best = self._best_told()
        if best is None:
            acquisition = LogProbabilityOfFeasibility(self._models, constraints={1: (None, 0.0)})
        else:
            acquisition = LogConstrainedExpectedImprovement(
                self._models, best_f=best[1], objective_index=0, constraints={1: (None, 0.0)}
            )
        with torch.no_grad():
            chosen, _ = optimize_acqf_discrete(acquisition, q=1, choices=self._inputs, max_batch_size=BATCH)
        return int(torch.argmin(torch.sum((self._inputs - chosen) ** 2, dim=1)))

    def tell(self, told: Told) -> None:
        """One more measurement; both models are fitted again."""
        self._told.append(told)
        self._fit()

    def recommend(self) -> int | None:
        """The told target with the highest posterior mean reward among those whose posterior mean cost is allowed."""
        best = self._best_told()
        return None if best is None else best[0]

    def _fit(self) -> None:
        """Both models, from their priors, to everything told."""
        inputs = self._inputs[[told.index for told in self._told]]
        outcomes = torch.tensor([[told.mean_reward, told.mean_cost] for told in self._told], dtype=torch.float64)
        models = []
        for output, (plane, zero, scale) in enumerate(zip(self._planes, self._zeros, self._scales, strict=True)):
            values = (outcomes[:, output : output + 1] - zero) / scale
            model = SingleTaskGP(
                inputs,
                values,
                torch.full_like(values, (self._mean_sd / scale) ** 2),
                covar_module=ScaleKernel(
                    get_covar_module_with_dim_scaled_prior(ard_num_dims=2), outputscale_prior=GammaPrior(2.0, 0.15)
                ),
                mean_module=PlaneMean(plane, zero, scale),
                outcome_transform=None,
            )
            fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
            models.append(model)
        self._models = ModelListGP(*models)

    def _best_told(self) -> tuple[int, float] | None:
        """The told candidate with the highest posterior mean reward among those of feasible mean, and that mean."""
        places = sorted({told.index for told in self._told})
        with torch.no_grad():
            means = self._models.posterior(self._inputs[places].unsqueeze(1)).mean.squeeze(1)
        feasible = [number for number in range(len(places)) if float(means[number, 1]) <= 0.0]
        if not feasible:
            return None
        number = max(feasible, key=lambda number: float(means[number, 0]))
        return places[number], float(means[number, 0])


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(BoTorchPeer, ["botorch", "gpytorch", "torch", "numpy"])
