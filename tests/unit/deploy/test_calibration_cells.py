"""Fast cells of the calibration study (reproductions/calibration.py): each certificate under its own assumptions."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from jaxtyping import config

_PLACE = Path(__file__).parents[3] / "reproductions" / "calibration.py"


@pytest.fixture(autouse=True)
def without_shape_checks():
    """Thousands of asks in a row: the other tests check shapes, these count."""
    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", before)


@pytest.fixture(scope="module")
def calibration() -> ModuleType:
    spec = importlib.util.spec_from_file_location("calibration", _PLACE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["calibration"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("rule", "acquisition", "batch"),
    [("risk_ledger", "reward_ucb", 1), ("paper", "goal", 5), ("log_det", "goal", 1), ("lipschitz", "reward_ucb", 1)],
)
def test_a_cell_shows_no_broken_promise(calibration, rule, acquisition, batch):
    """20 runs: fails if the one-sided 99 % lower bound on the share of violating runs is above delta."""
    cell = calibration.Cell(rule, 0.1, acquisition, batch, 1, "same")
    tally = calibration.Study().block(cell, 0, 20)
    assert tally.runs == 20
    assert not calibration.fails(tally.violating, tally.runs, cell.delta)
    assert not calibration.fails(tally.violating_safe, tally.safe_seeds, cell.delta)
    assert tally.over == 0
    assert (tally.charge > 0) == (rule == "risk_ledger")


def test_functions_of_the_frequentist_cells_have_exactly_the_declared_constants(calibration):
    rng = np.random.default_rng(0)
    bounded = calibration.declared(calibration.Cell("log_det", 0.1, "staged", 1, 1, "same"))
    output, points = bounded.prior.costs["cost"], bounded.space.points
    kernel = output.kernels[0]
    for _ in range(20):
        # on the grid alone the norm of the interpolant is at most that of the function
        error = calibration.norm_bounded(bounded, output, rng) - output.mean
        gram = kernel(points, points) + 1e-6 * np.eye(len(points))
        assert np.sqrt(error @ np.linalg.solve(gram, error)) <= calibration.NORM * (1 + 1e-6)
    sloped = calibration.declared(calibration.Cell("lipschitz", 0.1, "staged", 1, 1, "same"))
    steepest = np.zeros(2)
    for _ in range(20):
        cost = calibration.lipschitz(sloped, output, rng).reshape(sloped.space.shape)
        for axis, values in enumerate(sloped.space.axes.values()):
            slope = np.abs(np.diff(cost, axis=axis)).max() / (values[1] - values[0])
            assert slope <= calibration.SLOPES[axis] * (1 + 1e-9)
            steepest[axis] = max(steepest[axis], slope)
    np.testing.assert_allclose(steepest, calibration.SLOPES, rtol=1e-9)


def test_every_cell_is_planned_once_and_in_whole(calibration):
    planned = dict.fromkeys(calibration.cells(), 0)
    for cell, first, runs in calibration.schedule():
        assert first == planned[cell]
        planned[cell] += runs
    assert len(planned) == 1152 + 16
    assert all(planned[cell] == cell.runs for cell in planned)
    assert sum(cell.key for cell in planned) == 32


def test_a_share_at_delta_fails_about_once_in_a_hundred_cells(calibration):
    assert 0.004 < calibration.chance_of_failing(2000, 0.05) <= 0.01
    assert calibration.fails(124, 2000, 0.05)
    assert not calibration.fails(120, 2000, 0.05)
