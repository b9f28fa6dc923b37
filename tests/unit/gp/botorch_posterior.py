"""Posteriors by BoTorch, the answers that ours are tested against: writes tests/data/botorch-posterior.json.

    pip install torch botorch    (in an environment of its own; safehold does not need them)
    python tests/unit/gp/botorch_posterior.py tests/data/botorch-posterior.json

Hyper-parameters, prior mean and noise are set, nothing is fitted. `outcome_transform=None`: BoTorch's default would
standardise the outcomes anew at every measurement and so move prior mean and limit.
"""

import importlib.metadata
import json
import math
import sys
from pathlib import Path

import numpy as np

GRID = (np.linspace(0.0, 1.0, 7), np.linspace(20.0, 110.0, 6))
SPANS = (1.0, 90.0)
CASES = [
    {"kernel": kernel, "shares": shares, "sd": sd, "n": n, "noise": noise}
    for kernel in ("squared_exponential", "matern52", "product_matern52", "product_matern32")
    for shares, sd, n, noise in (
        ((0.5, 0.5), 20.0, 5, "equal"),
        ((0.15, 0.4), 8.0, 25, "unequal"),
        ((0.3, 0.2), 0.05, 60, "unequal"),
    )
]
"""`shares`: length-scales as shares of the axes. At n = 60 the 42 candidates repeat."""


def measurements(case, seed):
    """Inputs of one case, as JSON values."""
    rng = np.random.default_rng(seed)
    n, sd = case["n"], case["sd"]
    noise = np.full(n, 0.1) if case["noise"] == "equal" else rng.uniform(0.02, 0.5, n)
    return {
        "indices": rng.integers(0, len(GRID[0]) * len(GRID[1]), n).tolist(),
        "values": (sd * rng.normal(1.0, 1.0, n)).tolist(),
        "noise_variance": (sd**2 * noise).tolist(),
        "mean": [sd * value for value in (0.5, 1.5, -0.75)],
        "lengthscales": [share * span for share, span in zip(case["shares"], SPANS, strict=True)],
    }


def botorch_answer(case, told):
    """Mean, variance, covariance of the first candidate with all, and log evidence, by BoTorch in float64."""
    import gpytorch
    import torch
    from botorch.models import SingleTaskGP
    from gpytorch.kernels import MaternKernel, ProductKernel, RBFKernel, ScaleKernel

    class Plane(gpytorch.means.Mean):
        def forward(self, inputs):
            constant, along, across = told["mean"]
            return constant + along * inputs[..., 0] / SPANS[0] + across * inputs[..., 1] / SPANS[1]

    scales = torch.tensor([told["lengthscales"]], dtype=torch.float64)
    if case["kernel"].startswith("product"):
        smoothness = 2.5 if case["kernel"] == "product_matern52" else 1.5
        factors = [MaternKernel(nu=smoothness, ard_num_dims=1, active_dims=(axis,)) for axis in range(2)]
        for axis, factor in enumerate(factors):
            factor.double().lengthscale = scales[:, axis : axis + 1]
        base = ProductKernel(*factors)
    else:
        base = (
            RBFKernel(ard_num_dims=2) if case["kernel"] == "squared_exponential" else MaternKernel(2.5, ard_num_dims=2)
        )
        base.double().lengthscale = scales
    kernel = ScaleKernel(base).double()
    kernel.outputscale = case["sd"] ** 2
    grid = torch.tensor(np.stack([axis.ravel() for axis in np.meshgrid(*GRID, indexing="ij")], axis=1))
    inputs = grid[told["indices"]]
    column = {name: torch.tensor(told[name], dtype=torch.float64)[:, None] for name in ("values", "noise_variance")}
    model = SingleTaskGP(
        inputs,
        column["values"],
        column["noise_variance"],
        covar_module=kernel,
        mean_module=Plane(),
        outcome_transform=None,
    )
    with torch.no_grad(), gpytorch.settings.fast_computations(False, False, False):
        evidence = gpytorch.mlls.ExactMarginalLogLikelihood(model.likelihood, model)
        model.train()
        log_evidence = evidence(model(*model.train_inputs), model.train_targets) * len(told["indices"])
        model.eval()
        posterior = model.posterior(grid)
        covariance = posterior.distribution.covariance_matrix
        return {
            "posterior_mean": posterior.mean[:, 0].tolist(),
            "posterior_variance": covariance.diagonal().tolist(),
            "first_column": covariance[0].tolist(),
            "log_evidence": float(log_evidence),
        }


def main():
    """Writes all cases."""
    path, answers = Path(sys.argv[1]), []
    for seed, case in enumerate(CASES):
        told = measurements(case, seed)
        answer = botorch_answer(case, told)
        assert all(math.isfinite(value) for value in answer["posterior_mean"])
        answers.append({**case, **told, **answer})
    versions = {name: importlib.metadata.version(name) for name in ("botorch", "gpytorch", "torch", "numpy")}
    grid = [axis.tolist() for axis in GRID]
    path.write_text(json.dumps({"versions": versions, "grid": grid, "spans": SPANS, "cases": answers}) + "\n")


if __name__ == "__main__":
    main()
