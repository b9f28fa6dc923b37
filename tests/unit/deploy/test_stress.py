"""Worlds that the declared model does not describe, and that they are drawn as is said."""

from dataclasses import replace

import numpy as np
import pytest
from jaxtyping import config

from safehold.core.constraint import Limit
from safehold.core.target import TargetSpace
from safehold.deploy.declaration import Declaration
from safehold.deploy.prior import Prior
from safehold.deploy.simulate import WorldSampler, gaussian, simulate
from safehold.deploy.stress import FAULTS, NOTHING, Fault, FaultyWorlds, faulty, law_of, scaled, stress
from safehold.gp.kernels import Factor, Matern52, Product, SquaredExponential
from safehold.gp.linear import LinearTerms


@pytest.fixture(autouse=True)
def without_shape_checks():
    """Thousands of asks in a row: the other tests check shapes, these count."""
    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", before)


def declared(horizon=6, kernel=SquaredExponential):
    space = TargetSpace({"reward": tuple(np.linspace(0.0, 100.0, 7)), "cost": tuple(np.linspace(80.0, 130.0, 6))})
    limits = (Limit("cost", 100.0),)
    prior = Prior.asked(
        space,
        limits,
        np.ones(len(space), dtype=np.bool_),
        lengthscales={"reward": 30.0, "cost": 15.0},
        kernel=kernel,
        dial_error={"cost": 12.0},
        episode_sd={"cost": 8.0},
    )
    seeds = tuple(
        space.target(int(i)) for i in np.flatnonzero((space.points[:, 1] == 80.0) & (space.points[:, 0] < 20))
    )
    return Declaration(prior=prior, limits=limits, caps={"cost": 400.0}, seed_targets=seeds, delta=0.1, horizon=horizon)


@pytest.mark.parametrize("kernel", [SquaredExponential, Matern52])
def test_costs_are_drawn_with_the_covariance_of_the_kernel_and_of_uncertain_coefficients(kernel):
    declaration = declared(kernel=kernel)
    points = declaration.space.points
    features = np.stack([np.ones(len(points)), points[:, 0] / 100.0], axis=1)
    linear = LinearTerms(features, np.array([[30.0, 10.0], [10.0, 20.0]]))
    cost = replace(declaration.prior.costs["cost"], linear=linear)
    sampler = WorldSampler(declaration, truth=replace(declaration.prior, costs={"cost": cost}))
    rng = np.random.default_rng(0)
    costs = np.array([sampler.draw(rng, "any").costs["cost"] for _ in range(4000)])
    expected = cost.kernels[0](points, points) + features @ linear.covariance @ features.T
    np.testing.assert_allclose(costs.mean(axis=0), cost.mean, atol=1.5)
    np.testing.assert_allclose(np.cov(costs.T), expected, atol=0.12 * expected.max())


@pytest.mark.parametrize(
    ("kernel", "fault", "expected"),
    [
        (SquaredExponential(2.0, (3.0, 5.0)), Fault(name="", length=0.5), SquaredExponential(2.0, (1.5, 2.5))),
        (Matern52(2.0, (3.0,)), Fault(name="", signal=3.0), Matern52(6.0, (3.0,))),
        (SquaredExponential(2.0, (3.0,)), Fault(name="", kind="matern32"), Product.of("matern32", 2.0, (3.0,))),
        (
            Product(1.0, (Factor("matern52", 4.0), Factor("categorical", 0.5))),
            Fault(name="", length=0.5, kind="matern32"),
            Product(1.0, (Factor("matern32", 2.0), Factor("categorical", 0.5))),
        ),
    ],
)
def test_a_kernel_is_scaled_and_its_contexts_are_left_alone(kernel, fault, expected):
    assert scaled(kernel, fault) == expected


def test_nothing_wrong_is_the_declared_prior():
    prior = declared().prior
    same = faulty(prior, NOTHING)
    assert same.costs["cost"].kernels == prior.costs["cost"].kernels
    assert same.costs["cost"].episode_sd == prior.costs["cost"].episode_sd
    assert same.reward is prior.reward


@pytest.mark.parametrize("law", ["normal", "heavy tails", "catastrophes"])
def test_every_law_scatters_around_the_expectation(law):
    drawn = law_of(law, 50.0)(2.0, 400_000, np.random.default_rng(0))
    assert abs(drawn.mean()) < 0.1
    if law == "heavy tails":
        assert drawn.std() == pytest.approx(2.0, rel=0.1)
        assert np.abs(drawn).max() > 20.0
    if law == "catastrophes":
        assert np.mean(drawn > 25.0) == pytest.approx(0.01, rel=0.1)


def test_costs_drift_in_the_second_half_of_the_asks():
    declaration = declared(horizon=6)
    world, later = FaultyWorlds(declaration, Fault(name="", drift=0.2)).draw(np.random.default_rng(0))
    assert later is not None
    change, after = later
    assert change == 3
    np.testing.assert_allclose(after.costs["cost"] - world.costs["cost"], 20.0)
    run = simulate(declaration, world, np.random.default_rng(0), later=later)
    truths = [(world if ask < change else after).costs["cost"][index] for ask, index in enumerate(run.asked)]
    assert run.unsafe == tuple(truth > 100.0 for truth in truths)


def test_unsafe_seeds_are_unsafe():
    declaration = declared()
    world, _ = FaultyWorlds(declaration, Fault(name="", seeds="unsafe")).draw(np.random.default_rng(0))
    assert not world.safe(declaration)[declaration.seed_indices].all()


def test_a_run_knows_which_asks_rested_on_the_seeds_and_whether_they_were_safe():
    declaration = declared()
    world, _ = FaultyWorlds(declaration, Fault(name="", seeds="unsafe")).draw(np.random.default_rng(0))
    run = simulate(declaration, world, np.random.default_rng(0))
    assert not run.seeds_safe
    assert run.on_premise[0]
    assert run.rules_violating == any(u and not p for u, p in zip(run.unsafe, run.on_premise, strict=True))


def test_costs_beyond_what_is_possible_are_moved_and_no_limit_is_passed_by_that():
    declaration = declared()
    wide = faulty(declaration.prior, Fault(name="", signal=8.0))
    worlds = [
        WorldSampler(declaration, truth=wide, moved=moved).draw(np.random.default_rng(3), "any")
        for moved in (True, False)
    ]
    assert worlds[0].costs["cost"].min() == 0.0
    assert worlds[1].costs["cost"].min() > 0.0


def test_a_stress_row_is_a_function_of_seed_and_fault_alone():
    declaration = declared(horizon=3)
    told = []
    rows = stress(declaration, 2, 5, FAULTS[:3], on_run=lambda name, done: told.append((name, done)))
    assert [row.fault for row in rows] == list(FAULTS[:3])
    assert stress(declaration, 2, 5, FAULTS[2:3]) == rows[2:]
    assert told[:2] == [(NOTHING.name, 1), (NOTHING.name, 2)]
    assert rows[0].study.runs == 2
    assert rows[0].study.gap_closed is not None


def test_a_factor_that_is_none_is_refused():
    with pytest.raises(ValueError, match="all positive"):
        Fault(name="x", length=0.0)


def test_normal_episodes_are_normal():
    rng = np.random.default_rng(0)
    assert gaussian(3.0, 100_000, rng).std() == pytest.approx(3.0, rel=0.02)
