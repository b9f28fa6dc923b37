"""What must not matter to a whole deployment, does not: order, units, finer grids, interruptions.

Checked by drawing outcomes, not by choosing them; each of the four rules, the ledger over its default mixture too.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safehold.core.errors import SafetyHold
from safehold.core.measurement import Measurement
from safehold.core.target import TargetSpace
from safehold.deploy.certificates.lipschitz import Lipschitz
from safehold.deploy.certificates.log_det import LogDet
from safehold.deploy.certificates.paper import Paper
from safehold.deploy.certificates.risk_ledger import RiskLedger
from safehold.deploy.declaration import Settings
from safehold.deploy.optimizer import Deployment, TargetOptimizer
from safehold.ledger.events import Asked

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "deploy"))
from deploy_toys import declaration, space, truth

EPISODES = 20
SLOPES, NOISE_BOUND = (0.1, 1.0), 2.0


def rule_of(kind, unit):
    """A rule in a unit of cost, in which the dial's cost axis is too."""
    slopes = (unit * SLOPES[0], SLOPES[1])
    return {
        "risk_ledger": RiskLedger(),
        "paper": Paper(),
        "log_det": LogDet({"cost": 2.0}, {"cost": 2.0 * unit}),
        "lipschitz": Lipschitz({"cost": slopes}, {"cost": unit * NOISE_BOUND}),
    }[kind]


RULES = ("risk_ledger", "mixture", "paper", "log_det", "lipschitz")
"""`mixture`: the risk ledger over the default hyper-prior; the others have one declared kernel."""
rules = pytest.mark.parametrize("kind", RULES)
SEEDS = st.integers(0, 10**6)


def declared(kind, *, menu=None, horizon=6, pending=1, unit=1.0):
    """The toy dial with noise declared, under one rule."""
    scales = {"lengthscales": None} if kind == "mixture" else {}
    rule = rule_of("risk_ledger" if kind == "mixture" else kind, unit)
    return declaration(
        menu=menu,
        horizon=horizon,
        unit=unit,
        rules=(rule,),
        episode_sd={"cost": 2.0 * unit},
        reward_episode_sd=2.0,
        settings=Settings(pending_cap=pending, episodes_per_ask=EPISODES),
        **scales,
    )


def episodes(target, rng, unit=1.0):
    """Noisy episodes of the toy dial, in a unit of cost."""
    reward, cost = truth((target[0], target[1] / unit))
    noise = rng.normal(size=(2, EPISODES))
    return Measurement(
        rewards=reward + 2.0 * noise[0],
        costs={"cost": unit * np.maximum(cost + 2.0 * noise[1], 0.0)},
        failed=np.zeros(EPISODES, dtype=np.bool_),
    )


def drive(optimizer, rng, *, asks=None, unit=1.0):
    """Asks and tells until the deployment holds, or so many; what was asked, by number."""
    asked = []
    while asks is None or len(asked) < asks:
        try:
            trial = optimizer.ask()
        except SafetyHold:
            return asked
        asked.append(optimizer.state.asked[trial.id].index)
        optimizer.tell(trial.id, episodes(trial.target, rng, unit))
    return asked


def beliefs(optimizer):
    return [belief.process for belief in (optimizer.state.reward, *optimizer.state.costs.values())]


@rules
@given(seed=SEEDS, order=st.permutations(range(4)))
@settings(max_examples=3, deadline=None)
def test_the_order_in_which_open_trials_are_told_does_not_matter(kind, seed, order):
    ends = []
    for told in (range(4), order):
        optimizer = TargetOptimizer(declared(kind, pending=4))
        trials = [optimizer.ask() for _ in range(4)]
        outcomes = [episodes(trial.target, np.random.default_rng([seed, i])) for i, trial in enumerate(trials)]
        for number in told:
            optimizer.tell(trials[number].id, outcomes[number])
        ends.append(optimizer)
    for one, other in zip(*map(beliefs, ends), strict=True):
        scale = np.max(one.sd)
        np.testing.assert_allclose(one.mean, other.mean, rtol=1e-9, atol=1e-9 * scale)
        np.testing.assert_allclose(one.variance, other.variance, rtol=1e-9, atol=1e-9 * scale**2)


@rules
@given(seed=SEEDS, unit=st.sampled_from([2.0**-10, 2.0, 2.0**20]))
@settings(max_examples=2, deadline=None)
def test_other_units_of_the_cost_ask_the_same_targets(kind, seed, unit):
    """By powers of two, so that rounding is the same; a shift of the cost is no change of units: 0 is its floor."""
    plain, scaled = TargetOptimizer(declared(kind)), TargetOptimizer(declared(kind, unit=unit))
    assert drive(plain, np.random.default_rng(seed)) == drive(scaled, np.random.default_rng(seed), unit=unit)


@pytest.mark.parametrize("kind", ["risk_ledger", "mixture"])
@given(seed=SEEDS, shift=st.floats(0.0, 50.0), scale=st.floats(0.1, 10.0))
@settings(max_examples=3, deadline=None)
def test_an_affine_change_of_the_cost_leaves_every_risk_as_it_was(kind, seed, shift, scale):
    """cost -> scale cost + shift, limit and prior with it: the ledger's prices and its certified set stay."""
    rng = np.random.default_rng(seed)
    plain = declared(kind)
    prior, limit = plain.prior.costs["cost"], plain.limits[0]
    moved = replace(
        plain,
        limits=(replace(limit, value=scale * limit.value + shift),),
        caps={"cost": scale * plain.caps["cost"] + shift},
        prior=replace(
            plain.prior,
            costs={
                "cost": replace(
                    prior,
                    mean=scale * prior.mean + shift,
                    kernels=tuple(replace(kernel, sd=scale * kernel.sd) for kernel in prior.kernels),
                    episode_sd=scale * prior.episode_sd,
                )
            },
        ),
    )
    one, other = TargetOptimizer(plain), TargetOptimizer(moved)
    for index in rng.integers(0, len(plain.prior.space), 5):
        target = plain.prior.space.target(int(index))
        told = episodes(target, rng)
        one.observe(target, told, source="elsewhere")
        other.observe(target, replace(told, costs={"cost": scale * told.costs["cost"] + shift}), source="elsewhere")
    (before,), (after,) = one.state.verdict().rules, other.state.verdict().rules
    np.testing.assert_allclose(after.risk, before.risk, rtol=1e-8, atol=1e-12)
    clear = np.abs(before.risk - before.cap) > 1e-9
    np.testing.assert_array_equal(after.certified[clear], before.certified[clear])


@pytest.mark.parametrize("kind", [kind for kind in RULES if kind != "paper"])
@given(seed=SEEDS, cells=st.sampled_from([(2, 1), (1, 2), (2, 2), (4, 2)]))
@settings(max_examples=3, deadline=None)
def test_a_finer_grid_certifies_what_the_coarser_one_did(kind, seed, cells):
    """The same evidence on 9 x 9 candidates and on every cell cut into more."""
    rng = np.random.default_rng(seed)
    coarse, fine = space(9, 9), space(8 * cells[0] + 1, 8 * cells[1] + 1)
    common = [fine.index(coarse.target(index)) for index in range(len(coarse))]
    plain = declared(kind)
    ends = [TargetOptimizer(plain), TargetOptimizer(replace_grid(declared(kind, menu=fine), plain))]
    for index in rng.integers(0, len(coarse), 4):
        target = coarse.target(int(index))
        told = episodes(target, rng)
        for optimizer in ends:
            optimizer.observe(target, told, source="elsewhere")
    (before,), (after,) = (optimizer.state.verdict().rules for optimizer in ends)
    assert not np.any(before.certified & ~after.certified[common])
    np.testing.assert_allclose(after.price[common], before.price, rtol=1e-8, atol=1e-12)


def replace_grid(fine, coarse):
    """The finer declaration with the seed targets of the coarser one."""
    return replace(fine, seed_targets=coarse.seed_targets)


def test_the_papers_rule_alone_pays_for_a_finer_grid():
    """Its multiplier has a union over all candidates; that is printed, not hidden."""
    coarse, fine = (TargetOptimizer(declared("paper", menu=space(n, n))) for n in (9, 17))
    assert fine.state.verdict().rules[0].multiplier > coarse.state.verdict().rules[0].multiplier


@rules
@given(seed=SEEDS, cut=st.integers(0, 6))
@settings(max_examples=2, deadline=None)
def test_a_replayed_ledger_asks_what_would_have_been_asked_bit_for_bit(kind, seed, cut, tmp_path_factory):
    whole = TargetOptimizer(declared(kind, horizon=6))
    drive(whole, np.random.default_rng(seed))
    path, rng = tmp_path_factory.mktemp("run") / "run", np.random.default_rng(seed)
    with Deployment.create(path, declared(kind, horizon=6)) as deployment:
        drive(deployment, rng, asks=cut)
    with Deployment.open(path) as deployment:
        drive(deployment, rng)
        asked = [event for event in deployment.events() if isinstance(event, Asked)]
    assert asked == list(whole.state.asked.values())


@given(seed=SEEDS, n=st.integers(1, 8))
@settings(max_examples=6, deadline=None)
def test_lipschitz_bounds_are_the_least_over_all_told_targets(seed, n):
    """The scans over the grid against every pair of candidates."""
    rng = np.random.default_rng(seed)
    optimizer = TargetOptimizer(declared("lipschitz"))
    points = optimizer.state.declaration.prior.space.points
    expected = np.full(len(points), optimizer.state.declaration.caps["cost"])
    for index in rng.integers(0, len(points), n):
        target = tuple(points[index])
        told = episodes(target, rng)
        optimizer.observe(target, told, source="elsewhere")
        reach = np.abs(points - points[index]) @ np.array(SLOPES)
        expected = np.minimum(expected, told.costs["cost"].mean() + NOISE_BOUND + reach)
    (verdict,) = optimizer.state.verdict().rules
    np.testing.assert_allclose(verdict.intervals["cost"].upper, expected, rtol=1e-12)
    np.testing.assert_array_equal(verdict.certified, expected <= 20.0)


def test_a_toy_grid_is_part_of_its_refinement():
    coarse, fine = space(9, 9), space(17, 33)
    assert isinstance(fine, TargetSpace)
    assert all(fine.index(coarse.target(index)) >= 0 for index in range(len(coarse)))
