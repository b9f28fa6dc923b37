"""Both engines against BoTorch: its recorded answers everywhere, its own where it is installed."""

import json
from pathlib import Path

import numpy as np
import pytest
from botorch_posterior import botorch_answer

from safehold.core.target import TargetSpace
from safehold.gp.exact import GaussianProcess
from safehold.gp.grid import GridProcess
from safehold.gp.kernels import Matern52, Product, SquaredExponential

RECORD = json.loads((Path(__file__).parents[2] / "data" / "botorch-posterior.json").read_text())
CASES = [pytest.param(case, id=f"{case['kernel']}-{case['n']}") for case in RECORD["cases"]]
SPACE = TargetSpace(dict(zip(("R", "G"), map(tuple, RECORD["grid"]), strict=True)))
ANSWERS = ("posterior_mean", "posterior_variance", "first_column", "log_evidence")


def beliefs(case):
    """Ours before any measurement: the engine for all kernels, and the grid's where the kernel is separable."""
    scales, sd = tuple(case["lengthscales"]), case["sd"]
    kernel = {
        "squared_exponential": SquaredExponential(sd, scales),
        "matern52": Matern52(sd, scales),
        "product_matern52": Product.of("matern52", sd, scales),
        "product_matern32": Product.of("matern32", sd, scales),
    }[case["kernel"]]
    constant, along, across = case["mean"]
    unit = SPACE.points / np.array(RECORD["spans"])
    mean = constant + along * unit[:, 0] + across * unit[:, 1]
    priors = [GaussianProcess.over(kernel, SPACE.points, mean)]
    if kernel.separable:
        priors.append(GridProcess.over(kernel, SPACE, mean))
    return priors


def told(case):
    return np.array(case["indices"]), np.array(case["values"]), np.array(case["noise_variance"])


def one_by_one(prior, case):
    indices, values, noise = told(case)
    for t in range(len(indices)):
        prior = prior.condition(indices[t : t + 1], values[t : t + 1], noise[t : t + 1])
    return prior


@pytest.mark.parametrize("case", CASES)
def test_every_engine_agrees_with_botorch(case):
    sd = case["sd"]
    for prior in beliefs(case):
        for belief in (prior.condition(*told(case)), one_by_one(prior, case)):
            close = dict(rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(belief.mean / sd, np.array(case["posterior_mean"]) / sd, **close)
            np.testing.assert_allclose(belief.variance / sd**2, np.array(case["posterior_variance"]) / sd**2, **close)
            np.testing.assert_allclose(belief.column(0) / sd**2, np.array(case["first_column"]) / sd**2, **close)
            assert belief.log_evidence == pytest.approx(case["log_evidence"], rel=1e-6)


def test_the_record_is_what_botorch_answers():
    pytest.importorskip("botorch")
    for case in RECORD["cases"]:
        answer = botorch_answer(case, case)
        for name in ANSWERS:
            np.testing.assert_allclose(answer[name], case[name], rtol=1e-9, atol=1e-9 * case["sd"] ** 2)
