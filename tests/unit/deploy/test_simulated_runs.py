"""Safety as a probability: whole deployments on worlds whose truth is known."""

from dataclasses import replace

import numpy as np
import pytest
from jaxtyping import config
from scipy.stats import binom

from safehold.core.constraint import Limit
from safehold.core.errors import UsageError
from safehold.core.target import TargetSpace
from safehold.deploy.certificates.paper import Paper
from safehold.deploy.certificates.risk_ledger import RiskLedger
from safehold.deploy.declaration import Declaration
from safehold.deploy.prior import Prior
from safehold.deploy.simulate import World, WorldSampler, rehearsed, simulate, study
from safehold.deploy.stages import by_parts
from safehold.gp.kernels import Matern52, SquaredExponential


@pytest.fixture(autouse=True)
def without_shape_checks():
    """Thousands of asks in a row: the other tests check shapes, these count."""
    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", before)


def dial(delta=0.2, horizon=20, size=12, kernel=SquaredExponential, dial_error=20.0, lengthscale=0.5, seeds=True):
    """A dial far from zero cost, so that Gaussian worlds are possible ones: limit 100, seeds at 60 to 67."""
    space = TargetSpace({"reward": tuple(np.linspace(0.0, 100.0, size)), "cost": tuple(np.linspace(60.0, 130.0, size))})
    limit = Limit("cost", 100.0)
    prior = Prior.asked(
        space,
        [limit],
        np.ones(len(space), dtype=np.bool_),
        lengthscales={"reward": 100.0 * lengthscale, "cost": 70.0 * lengthscale},
        kernel=kernel,
        dial_error={"cost": dial_error},
        episode_sd={"cost": 10.0},
        reward_dial_error=10.0,
        reward_episode_sd=10.0,
    )
    points = space.points
    chosen = (points[:, 1] <= 67.0) & (points[:, 0] <= 20.0) if seeds else np.ones(len(space), dtype=np.bool_)
    return Declaration(
        prior=prior,
        limits=(limit,),
        caps={"cost": 300.0},
        seed_targets=tuple(space.target(int(i)) for i in np.flatnonzero(chosen)),
        delta=delta,
        horizon=horizon,
        rules=(Paper(),),
    )


@pytest.mark.parametrize("runs", [60, pytest.param(200, marks=pytest.mark.slow)])
def test_with_a_right_model_runs_with_an_unsafe_target_are_no_more_than_delta(runs):
    """Fails if so many runs would show this many violations with a chance under 1 % at a true rate of delta."""
    result = study(dial(delta=0.05), runs=runs, seed=0)
    assert binom.sf(result.violating - 1, result.runs, result.delta) >= 0.01
    assert result.held["Exhausted"] >= 0.95 * runs  # a monitor alarms falsely in about 1 of 100 runs


def test_it_closes_most_of_the_gap_to_the_best_safe_target():
    result = study(dial(delta=0.05), runs=60, seed=1)
    assert result.gap_closed >= 0.6


def test_the_harness_sees_a_model_that_is_wrong():
    """Dial error understated fourfold, length-scale overstated: the promise's premise is broken, and it shows."""
    believed, true = dial(dial_error=15.0, lengthscale=1.0), dial(dial_error=45.0, lengthscale=0.25)
    sampler = WorldSampler(true)
    violating = 0
    for number in range(40):
        rng = np.random.default_rng(number)
        violating += simulate(believed, sampler.draw(rng), rng).violating
    assert violating / 40 > believed.delta


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [SquaredExponential, Matern52])
@pytest.mark.parametrize("delta", [0.01, 0.05, 0.2])
def test_calibration_cells(kernel, delta):
    """2000 runs a cell: the 95 % upper bound on the share of violating runs lies under delta."""
    result = study(dial(delta=delta, kernel=kernel), runs=2000, seed=2)
    assert result.interval.high < delta
    assert result.gap_closed >= 0.6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "noise", "kept"),
    [
        ({"kernel": Matern52}, 1.0, True),
        ({"lengthscale": 0.75}, 1.0, True),
        ({"lengthscale": 0.335}, 1.0, True),
        ({}, 4.0, True),
        ({"dial_error": 40.0}, 1.0, True),
        ({"lengthscale": 0.167}, 1.0, False),
    ],
    ids=["rougher", "length 1.5x", "length 0.67x", "noise 4x", "dial error 2x", "length 0.33x"],
)
def test_which_wrong_models_keep_the_promise_and_which_do_not(world, noise, kept):
    """delta = 0.05, 300 worlds; the table is in docs/guarantees.md. A length-scale a third as long breaks it.

    One half as long is on the edge (15 of 300, exactly delta), so that no test can say which side it is on.
    """
    believed, true = dial(delta=0.05), dial(delta=0.05, **world)
    sampler = WorldSampler(true)
    violating = 0
    for number in range(300):
        rng = np.random.default_rng(number)
        drawn = sampler.draw(rng)
        drawn = replace(drawn, cost_episode_sds={"cost": noise * drawn.cost_episode_sds["cost"]})
        violating += simulate(believed, drawn, rng).violating
    assert (violating <= 0.05 * 300) == kept


def test_a_run_is_a_function_of_its_seed():
    declaration = dial(horizon=4)
    assert study(declaration, runs=3, seed=7) == study(declaration, runs=3, seed=7)
    assert study(declaration, runs=3, seed=7) != study(declaration, runs=3, seed=8)


def test_drawn_worlds_have_the_declared_moments_and_safe_seeds():
    declaration = dial(size=4)
    sampler = WorldSampler(declaration)
    rng = np.random.default_rng(0)
    worlds = [sampler.draw(rng) for _ in range(800)]
    costs = np.array([world.costs["cost"] for world in worlds])
    assert np.all(costs[:, declaration.seed_indices] <= 100.0)
    rewards = np.array([world.reward for world in worlds])
    np.testing.assert_allclose(rewards.mean(axis=0), declaration.prior.reward.mean, atol=4 * 10 / np.sqrt(800))
    points = declaration.space.points
    expected = declaration.prior.reward.kernels[0](points, points)
    np.testing.assert_allclose(np.cov(rewards.T), expected, atol=0.25 * 100)


def test_a_world_that_the_prior_cannot_make_is_refused():
    with pytest.raises(UsageError, match="none of 1000 worlds"):
        WorldSampler(dial(seeds=False, dial_error=7.5)).draw(np.random.default_rng(0))


def test_a_run_that_holds_at_once_recommends_nothing():
    declaration = dial(horizon=0)
    rng = np.random.default_rng(0)
    run = simulate(declaration, WorldSampler(declaration).draw(rng), rng)
    assert (run.asked, run.recommended, run.gained, run.violating, run.held) == ((), None, 0.0, False, "Exhausted")
    assert study(declaration, runs=2, seed=0).gap_closed == 0.0


def test_an_unsafe_deployment_is_counted():
    declaration = dial(horizon=1)
    world = WorldSampler(declaration).draw(np.random.default_rng(0))
    unsafe = World(
        reward=world.reward,
        costs={"cost": np.full_like(world.costs["cost"], 100.5)},
        reward_episode_sd=1.0,
        cost_episode_sds={"cost": 1.0},
    )
    run = simulate(declaration, unsafe, np.random.default_rng(0))
    assert run.unsafe == (True,)
    assert run.violating


def test_costs_of_simulated_episodes_are_possible_ones():
    declaration = dial()
    world = replace(WorldSampler(declaration).draw(np.random.default_rng(0)), cost_episode_sds={"cost": 1000.0})
    costs = world.measure(0, 50, {"cost": 300.0}, np.random.default_rng(1)).costs["cost"]
    assert costs.min() == 0.0
    assert costs.max() == 300.0


def test_a_staged_roll_out_under_approval_is_rehearsed_to_its_end():
    plain = dial(horizon=6)
    declaration = replace(
        plain,
        rules=(RiskLedger(),),
        settings=replace(plain.settings, approval=True),
        stages=by_parts(plain.share.certificate, (0.5, 0.5), 1, 5),
    )
    rng = np.random.default_rng(0)
    run = simulate(rehearsed(declaration), WorldSampler(declaration).draw(rng), rng)
    seeds = set(declaration.seed_indices.tolist())
    assert len(run.asked) == 6
    assert set(run.asked[:2]) <= seeds  # the shadow stage
    assert len(set(run.asked[:4]) - seeds) <= 1  # the canary stage
    assert len(set(run.asked) - seeds) > 1
