"""When would a Gaussian process that knows reward and cost to be correlated help the cost? Exact, nothing is sampled.

    python reproductions/correlation.py [--out docs/results]

The question: safehold believes reward and cost to be independent. An intrinsic coregionalisation model,
Cov(f_a(z), f_b(z')) = B_ab k(z, z') with B = [[1, rho], [rho, 1]] in units of each output's prior standard deviation,
would let rewards say something of costs. By how much would it narrow the belief about the cost? Costs being what
certificates rest on, the figure is the posterior standard deviation of the cost under that model over the one under
independence, averaged over all candidates and over designs. Variances do not depend on the values told, so this needs
no data: it is the ratio if rho is *known*. Below 1 the correlated model helps; 1 means that it changes nothing.

Written down before it was run:

* The dial: 21 x 21 candidates of the unit square. Kernel of both outputs: product of Matern 5/2, length-scale 0.3; a
  second table has squared exponentials.
* Told: n of 5, 20 and 60 targets, both outputs each time; uniformly random, 20 designs from `Streams(20261121)`.
* rho of 0, 0.5, 0.8, 0.95 and 0.99. Noise: standard deviations of a told mean, in prior standard deviations:
  (reward, cost) of (0.3, 0.3); reward 3 and 20 times cleaner, (0.1, 0.3) and (0.015, 0.3); cost 3 times cleaner,
  (0.3, 0.1); none worth the name, (1e-4, 1e-4).
* Heterotopic: the same with noise (0.3, 0.3), the cost being told at every fourth target only.
* What a wrong rho does, by simulation of nothing either: cost beliefs under rho when the truth has rho' = 0. The figure
  is the true root mean square error of the posterior mean over the standard deviation that the model states, worst
  over the candidates; above 1 the model is too sure of itself.

Seconds on one core.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float
from recorded import commit_here

from safehold.core.seeding import Streams
from safehold.gp.kernels import FactorKind, Product

SEED = 20261121
SIDE, LENGTHSCALE, DESIGNS = 21, 0.3, 20
TOLD = (5, 20, 60)
CORRELATIONS = (0.0, 0.5, 0.8, 0.95, 0.99)
NOISES: Mapping[str, tuple[float, float, int]] = {
    "equal": (0.3, 0.3, 1),
    "reward 3x cleaner": (0.1, 0.3, 1),
    "reward 20x cleaner": (0.015, 0.3, 1),
    "cost 3x cleaner": (0.3, 0.1, 1),
    "hardly any": (1e-4, 1e-4, 1),
    "equal, cost at every 4th": (0.3, 0.3, 4),
}
"""Noise of the reward and of the cost, and at every how manyth target the cost is told."""
POINTS = np.stack([axis.ravel() for axis in np.meshgrid(*[np.linspace(0.0, 1.0, SIDE)] * 2, indexing="ij")], axis=1)


class Design:
    """Told targets, and the covariances that every model of them needs."""

    def __init__(self, prior: Float[np.ndarray, "m m"], told: np.ndarray, reward: float, cost: float, every: int):
        costs = told[::every]
        self._prior = prior
        self._n = len(told)
        self._places = np.concatenate([told, costs])
        self._noise = np.repeat([reward**2, cost**2], [len(told), len(costs)])

    def blocks(self, rho: float) -> tuple[np.ndarray, np.ndarray]:
        """Covariance of the told values, noise included, and of the told values with the cost everywhere."""
        output = np.repeat([0, 1], [self._n, len(self._places) - self._n])
        mixed = np.array([[1.0, rho], [rho, 1.0]])
        among = mixed[np.ix_(output, output)] * self._prior[np.ix_(self._places, self._places)]
        return among + np.diag(self._noise), mixed[output, 1][:, None] * self._prior[self._places]

    def cost_sd(self, rho: float) -> Float[np.ndarray, "m"]:
        """Posterior standard deviation of the cost at every candidate."""
        among, across = self.blocks(rho)
        explained = np.sum(across * np.linalg.solve(among, across), axis=0)
        return np.sqrt(np.maximum(np.diag(self._prior) - explained, 0.0))

    def overconfidence(self, rho: float) -> float:
        """True error of the cost's posterior mean, outputs being independent, over the stated one; the largest."""
        among, across = self.blocks(rho)
        weights = np.linalg.solve(among, across)
        true_among, true_across = self.blocks(0.0)
        error = np.diag(self._prior) - 2.0 * np.sum(weights * true_across, axis=0)
        error += np.sum(weights * (true_among @ weights), axis=0)
        return float(np.max(np.sqrt(np.maximum(error, 0.0)) / self.cost_sd(rho)))


def measure(kind: FactorKind) -> list[dict[str, object]]:
    """Every cell under one kernel: ratios of standard deviations, mean over designs and their extremes."""
    prior = Product.of(kind, 1.0, (LENGTHSCALE, LENGTHSCALE))(POINTS, POINTS)
    cells: list[dict[str, object]] = []
    for n in TOLD:
        told = [Streams(SEED)[f"design/{n}/{i}"].integers(0, len(POINTS), n) for i in range(DESIGNS)]
        for name, (reward, cost, every) in NOISES.items():
            designs = [Design(prior, places, reward, cost, every) for places in told]
            alone = [design.cost_sd(0.0) for design in designs]
            for rho in CORRELATIONS:
                ratios = [float(np.mean(d.cost_sd(rho) / sd)) for d, sd in zip(designs, alone, strict=True)]
                cells.append(
                    {
                        "kernel": kind,
                        "n": n,
                        "noise": name,
                        "rho": rho,
                        "sd_ratio": float(np.mean(ratios)),
                        "least": min(ratios),
                        "largest": max(ratios),
                        "overconfidence_if_independent": max(design.overconfidence(rho) for design in designs),
                    }
                )
    return cells


def table(cells: list[dict[str, object]], figure: str) -> str:
    """One figure in Markdown, a noise a row, n and rho across."""
    columns = [(n, rho) for n in TOLD for rho in CORRELATIONS if rho > 0]
    lines = [
        "| noise | " + " | ".join(f"n={n}, rho={rho:g}" for n, rho in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name in NOISES:
        by_column = {(cell["n"], cell["rho"]): cell[figure] for cell in cells if cell["noise"] == name}
        lines.append(f"| {name} | " + " | ".join(f"{by_column[column]:.2f}" for column in columns) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    out = parser.parse_args().out
    commit = commit_here()
    kinds: tuple[FactorKind, ...] = ("matern52", "squared_exponential")
    cells = {kind: measure(kind) for kind in kinds}
    parts = [
        f"`python reproductions/correlation.py`; commit {commit}; seed {SEED}, {DESIGNS} designs a cell. Posterior "
        "standard deviation of the cost under a correlated model of reward and cost over that under independence, "
        "mean over the dial and the designs; rho known."
    ]
    for kind, some in cells.items():
        parts.append(f"## {kind}\n\n{table(some, 'sd_ratio')}")
    parts.append(
        "## If the outputs are independent and rho was believed (matern52)\n\nTrue error of the cost's posterior mean "
        "over the stated standard deviation, the largest over the dial and the designs; above 1: too sure.\n\n"
        + table(cells["matern52"], "overconfidence_if_independent")
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / "correlation.json").write_text(
        json.dumps({"command": "python reproductions/correlation.py", "commit": commit, "seed": SEED, "cells": cells})
        + "\n"
    )
    (out / "correlation.md").write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
