"""The trust region's solver against dense algebra and a general optimiser, and its products against full matrices."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from safehold.learn.trust_region import (
    Product,
    Step,
    assign,
    conjugate_gradient,
    fisher_product,
    flatten,
    gradient,
    line_search,
    step,
)
from safehold.nn.distributions import DiagonalGaussian
from safehold.nn.mlp import mlp
from safehold.nn.tensors import torch_generator

SIZE = 5


def problem(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A positive definite H, g and b."""
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((SIZE, SIZE))
    return root @ root.T + 0.5 * np.eye(SIZE), rng.standard_normal(SIZE), rng.standard_normal(SIZE)


def product_with(matrix: np.ndarray) -> Product:
    dense = torch.from_numpy(matrix)
    return lambda vector: dense @ vector


def solved(seed: int, radius: float, excess: float) -> Step:
    matrix, reward, cost = problem(seed)
    return step(
        torch.from_numpy(reward),
        radius,
        product_with(matrix),
        iterations=SIZE,
        cost=torch.from_numpy(cost),
        excess=excess,
    )


def test_conjugate_gradients_solve_what_a_dense_solver_solves():
    for seed in range(5):
        matrix, right, _ = problem(seed)
        found = conjugate_gradient(product_with(matrix), torch.from_numpy(right), iterations=SIZE)
        np.testing.assert_allclose(found.numpy(), np.linalg.solve(matrix, right), rtol=1e-6)


def test_conjugate_gradients_of_nothing_are_nothing():
    zero = torch.zeros(SIZE, dtype=torch.float64)
    assert torch.equal(conjugate_gradient(product_with(np.eye(SIZE)), zero, iterations=3), zero)


def test_fisher_products_are_those_of_the_full_second_derivative():
    network = mlp((3, 4, 2), generator=torch_generator(0)).double()
    log_sd = torch.tensor([-0.3, 0.2], dtype=torch.float64, requires_grad=True)
    parameters = [*network.parameters(), log_sd]
    observations = torch.randn(20, 3, generator=torch_generator(1), dtype=torch.float64)

    def divergence(vector: torch.Tensor) -> torch.Tensor:
        values = dict(zip([name for name, _ in network.named_parameters()], _cut(vector, parameters), strict=False))
        now = DiagonalGaussian(torch.func.functional_call(network, values, (observations,)), vector[-2:])
        old = DiagonalGaussian(network(observations).detach(), log_sd.detach())
        return now.divergence_from(old).mean()

    here = flatten(parameters).detach()
    full = torch.autograd.functional.hessian(divergence, here)
    now = DiagonalGaussian(network(observations), log_sd)
    old = DiagonalGaussian(now.mean.detach(), log_sd.detach())
    product = fisher_product(now.divergence_from(old).mean(), parameters, damping=0.1)
    for seed in range(3):
        vector = torch.randn(len(here), generator=torch_generator(seed), dtype=torch.float64)
        torch.testing.assert_close(product(vector), full @ vector + 0.1 * vector)


def _cut(vector: torch.Tensor, like: list[torch.Tensor]) -> list[torch.Tensor]:
    sizes = [tensor.numel() for tensor in like]
    return [part.view_as(tensor) for part, tensor in zip(vector.split(sizes), like, strict=True)]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("excess", [-3.0, -0.3, -0.05, 0.0, 0.05, 0.2])
def test_the_step_is_the_optimum_that_a_general_solver_finds(seed, excess):
    matrix, reward, cost = problem(seed)
    radius = 0.05
    if excess > 0 and excess**2 / (cost @ np.linalg.solve(matrix, cost)) >= 2 * radius:
        pytest.skip("nothing keeps the constraint: another test")
    found = solved(seed, radius, excess)
    x = found.x.numpy()
    assert x @ matrix @ x / 2 <= radius * (1 + 1e-9)
    assert cost @ x + excess <= 1e-9
    general = minimize(
        lambda y: -reward @ y,
        -max(excess, 0.0) * np.linalg.solve(matrix, cost) / (cost @ np.linalg.solve(matrix, cost)),
        jac=lambda _: -reward,
        constraints=[
            {"type": "ineq", "fun": lambda y: radius - y @ matrix @ y / 2, "jac": lambda y: -matrix @ y},
            {"type": "ineq", "fun": lambda y: -(cost @ y + excess), "jac": lambda _: -cost},
        ],
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 500},
    )
    assert general.success
    assert reward @ x == pytest.approx(-general.fun, rel=1e-5, abs=1e-8)
    assert (found.price > 0) == (found.kind == "bound")


def test_recovery_lowers_the_cost_as_far_as_the_region_allows():
    matrix, _, cost = problem(0)
    found = solved(0, radius=0.05, excess=10.0)
    x = found.x.numpy()
    assert found.kind == "recovery"
    assert x @ matrix @ x / 2 == pytest.approx(0.05)
    assert cost @ x == pytest.approx(-np.sqrt(2 * 0.05 * cost @ np.linalg.solve(matrix, cost)))


def test_without_a_constraint_or_without_its_gradient_it_is_the_natural_gradient_step():
    matrix, reward, _ = problem(1)
    product, right = product_with(matrix), torch.from_numpy(reward)
    alone = step(right, 0.02, product, iterations=SIZE)
    expected = np.linalg.solve(matrix, reward) * np.sqrt(2 * 0.02 / (reward @ np.linalg.solve(matrix, reward)))
    np.testing.assert_allclose(alone.x.numpy(), expected, rtol=1e-6)
    flat = step(right, 0.02, product, iterations=SIZE, cost=torch.zeros(SIZE, dtype=torch.float64), excess=5.0)
    np.testing.assert_array_equal(flat.x.numpy(), alone.x.numpy())
    still = step(torch.zeros(SIZE, dtype=torch.float64), 0.02, product, iterations=SIZE)
    assert still.kind == "none"
    assert not still.x.any()


def test_reward_along_the_cost_stops_at_the_constraint():
    matrix, _, cost = problem(2)
    along = torch.from_numpy(cost)
    found = step(2 * along, 0.05, product_with(matrix), iterations=SIZE, cost=along, excess=-0.01)
    assert float(along @ found.x) == pytest.approx(0.01, rel=1e-6)


@given(st.integers(0, 50), st.floats(0.001, 1.0), st.floats(-5.0, 5.0))
def test_no_step_leaves_the_region(seed, radius, excess):
    matrix, _, _ = problem(seed)
    x = solved(seed, radius, excess).x.numpy()
    assert np.isfinite(x).all()
    assert x @ matrix @ x / 2 <= radius * (1 + 1e-6)


def test_line_search_takes_the_first_share_that_is_acceptable_or_none():
    parameter = torch.zeros(2)
    share = line_search([parameter], torch.ones(2), lambda: float(parameter[0]) <= 0.3, shrink=0.5, tries=10)
    assert share == 0.25
    assert parameter.tolist() == [0.25, 0.25]
    assert line_search([parameter], torch.ones(2), lambda: False, shrink=0.5, tries=4) == 0.0
    assert parameter.tolist() == [0.25, 0.25]


def test_vectors_and_gradients_come_back_as_they_went():
    tensors = [torch.arange(6.0).reshape(2, 3).requires_grad_(), torch.tensor([7.0], requires_grad=True)]
    vector = flatten(tensors)
    assert vector.tolist() == [0, 1, 2, 3, 4, 5, 7]
    found = gradient((tensors[0] ** 2).sum() + 3 * tensors[1].sum(), tensors)
    assert found.tolist() == [0, 2, 4, 6, 8, 10, 3]
    assign(tensors, 2 * vector.detach())
    assert flatten(tensors).tolist() == [0, 2, 4, 6, 8, 10, 14]
