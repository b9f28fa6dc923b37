"""A cost that is believed to go with the reward: what it is told, what it promises, what is refused."""

import json
from contextlib import suppress
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from deploy_toys import LIMIT, UNWATCHED, answer, declaration, drive, space, two_limits
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import config
from scipy.stats import multivariate_normal, norm
from test_audit import forge, live, run_of

from safehold.core.constraint import Limit
from safehold.core.errors import BadPrior, IntegrityError, NoCertifiedTarget
from safehold.core.intervals import proportion_interval
from safehold.core.measurement import Measurement
from safehold.core.target import TargetSpace
from safehold.deploy.audit import audit
from safehold.deploy.belief import ToldMean
from safehold.deploy.certificates.lipschitz import Lipschitz
from safehold.deploy.certificates.paper import Paper
from safehold.deploy.certificates.risk_ledger import RiskLedger
from safehold.deploy.declaration import Declaration, Settings
from safehold.deploy.optimizer import Deployment, TargetOptimizer
from safehold.deploy.prior import OfflineTable, OutputPrior, Prior
from safehold.deploy.simulate import WorldSampler, simulate
from safehold.deploy.stress import COUPLED_FAULTS, FAULTS, FaultyWorlds, faults_of
from safehold.deploy.verify import differences, verify
from safehold.deploy.watch import Monitors, reward_score
from safehold.gp.kernels import Factor, Matern52, Product
from safehold.ledger.events import Told

SPACE = space(4, 4)
M = len(SPACE)
LEDGER = (RiskLedger(),)
KERNELS = (
    Product(6.0, (Factor("matern52", 80.0), Factor("matern52", 20.0))),
    Product(14.0, (Factor("squared_exponential", 50.0), Factor("matern32", 10.0))),
)


def prior(rho, *, reward=None, kernels=KERNELS, **fields):
    """Two kernels of the cost, noise that differs over the dial, a reward with a mean and a scale of its own."""
    cost = OutputPrior(
        mean=SPACE.points[:, 1].copy(),
        kernels=kernels,
        weights=(1.0, 2.0)[: len(kernels)],
        episode_sd=np.linspace(2.0, 5.0, M),
        correlation=rho if isinstance(rho, tuple) else () if rho is None else (rho,) * len(kernels),
        **fields,
    )
    reward = reward or OutputPrior(
        mean=0.8 * SPACE.points[:, 0] + 3.0, kernels=KERNELS[:1], episode_sd=np.linspace(30.0, 10.0, M)
    )
    return Prior(space=SPACE, reward=reward, costs={"cost": cost}, support=np.ones(M, dtype=np.bool_))


def ledger(correlation, *, rules=LEDGER, **more):
    """The toy deployment on the default mixture, with or without a correlation."""
    rhos = correlation if isinstance(correlation, tuple) else (correlation,)
    declared = {"reward_dial_error": 15.0, "reward_episode_sd": 8.0}
    coupling = {} if correlation is None else {"correlation": {"cost": rhos}, **declared}
    return declaration(rules=rules, **{"lengthscales": None, "reward_dial_error": 15.0, **coupling, **more})


@pytest.fixture
def quick():
    """The shapes in the annotations are checked elsewhere."""
    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", before)


# The posterior --------------------------------------------------------------------------------------------------


def told_by(belief, rng, n, reward_scale=1.0):
    """n trials, told with their rewards or without; the belief and what it was told, in the outputs' own units."""
    costs, rewards = [], []
    for _ in range(n):
        index, episodes = int(rng.integers(M)), int(rng.integers(1, 9))
        point = ToldMean(index, float(rng.normal(15.0, 10.0)), episodes, 1.0 / episodes, 0.0)
        mean = ToldMean(index, float(rng.normal(60.0, 40.0)), episodes, 1.0 / episodes, 0.0)
        known = rng.random() < 0.8
        belief = belief.tell(point, np.zeros(0), mean if known else None, reward_scale)
        costs.append(point)
        rewards += [mean] if known else []
    return belief, costs, rewards


def dense(prior, costs, rewards, reward_scale, cost_scale=1.0, of=slice(0, M)):
    """Of every member: posterior mean and variance of the cost, and the density of all that was told.

    Of the reward instead, with `of` the second half of the pair.

    The pair of cost and reward, each in its own units: a covariance of 2 m x 2 m numbers and its inverse.
    """
    cost, reward = prior.costs["cost"], prior.reward
    ratio = reward.dial_sd / cost.dial_sd
    means = np.concatenate([cost.mean, reward.mean])
    index = np.array([p.index for p in costs] + [M + p.index for p in rewards])
    values = np.array([p.value for p in [*costs, *rewards]])
    floors = np.concatenate([cost_scale * cost.episode_variance, reward_scale * reward.episode_variance])
    noise = floors[index] * np.array([p.noise_factor for p in [*costs, *rewards]])
    found = []
    for kernel, rho in zip(cost.kernels, cost.correlation, strict=True):
        mixing = np.array([[1.0, rho * ratio], [rho * ratio, ratio**2]])
        pair = np.kron(mixing, kernel(SPACE.points, SPACE.points))
        among = pair[np.ix_(index, index)] + np.diag(noise)
        gain = pair[of, index] @ np.linalg.inv(among)
        variance = np.diag(pair)[of] - np.sum(gain * pair[of, index], axis=1)
        density = multivariate_normal(means[index], among).logpdf(values)
        found.append((means[of] + gain @ (values - means[index]), variance, density))
    return found


@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 12),
    rhos=st.tuples(*[st.floats(0.0, 0.99)] * 2),
    sign=st.sampled_from([-1.0, 1.0]),
    reward_scale=st.sampled_from([1.0, 1.21, 2.5]),
)
@settings(max_examples=30, deadline=None)
def test_the_belief_is_the_posterior_of_the_declared_pair(seed, n, rhos, sign, reward_scale):
    declared = prior((sign * rhos[0], sign * rhos[1]), noise_known=True)
    belief, costs, rewards = told_by(declared.belief("cost", None), np.random.default_rng(seed), n, reward_scale)
    expected = dense(declared, costs, rewards, reward_scale)
    process = belief.process
    for number, (mean, variance, _) in enumerate(expected):
        scale = KERNELS[number].sd
        np.testing.assert_allclose(process.means[number], mean, rtol=1e-10, atol=1e-10 * scale)
        np.testing.assert_allclose(process.sds[number] ** 2, variance, rtol=0, atol=1e-10 * scale**2)
    densities = np.array([density for *_, density in expected]) + np.log([1 / 3, 2 / 3])
    weights = np.exp(densities - densities.max())
    np.testing.assert_allclose(process.weights, weights / weights.sum(), rtol=0, atol=1e-8)


@given(seed=st.integers(0, 10_000), n=st.integers(1, 10))
@settings(max_examples=12, deadline=None)
def test_with_correlation_zero_every_member_is_that_without_and_only_weights_hear_of_rewards(seed, n):
    """Both outputs have the member's length-scales in the declared pair: rewards bear on which member it is."""
    rng = np.random.default_rng(seed)
    beside, costs, rewards = told_by(prior(0.0, noise_known=True).belief("cost", None), rng, n)
    alone = prior(None, noise_known=True).belief("cost", None)
    for point in costs:
        alone = alone.tell(point, np.zeros(0))
    np.testing.assert_allclose(beside.process.means, alone.process.means, rtol=1e-12, atol=1e-11)
    np.testing.assert_allclose(beside.process.sds, alone.process.sds, rtol=1e-12, atol=1e-11)
    if rewards:
        assert np.abs(beside.process.weights - alone.process.weights).max() > 0
    one = prior(0.0, noise_known=True, kernels=KERNELS[:1]).belief("cost", None)
    one = told_by(one, np.random.default_rng(seed), n)[0]
    single = prior(None, noise_known=True, kernels=KERNELS[:1]).belief("cost", None)
    for point in costs:
        single = single.tell(point, np.zeros(0))
    np.testing.assert_allclose(one.risk(20.0), single.risk(20.0), rtol=0, atol=1e-12)


def test_told_at_once_or_anew_after_the_noise_changed_it_is_the_same_belief():
    declared = prior(0.9)
    rng = np.random.default_rng(3)
    belief = declared.belief("cost", 0.05)
    costs, rewards = [], []
    for number in range(6):
        index = int(rng.integers(M))
        point = ToldMean(index, float(rng.normal(15.0, 10.0)), 10, 0.1, 0.0)
        mean = ToldMean(index, float(rng.normal(60.0, 40.0)), 10, 0.1, 0.0)
        belief = belief.tell(point, rng.normal(0.0, 12.0, 10), mean, 1.0 if number < 3 else 1.331)
        costs.append(point)
        rewards.append(mean)
    assert belief.scale > 1.0
    for number, (mean, variance, _) in enumerate(dense(declared, costs, rewards, 1.331, belief.scale)):
        np.testing.assert_allclose(belief.process.means[number], mean, rtol=1e-9)
        np.testing.assert_allclose(belief.process.sds[number] ** 2, variance, rtol=0, atol=1e-9)


def test_of_several_correlations_each_is_believed_beside_every_kernel():
    both = ledger((0.0, 0.9)).prior
    one = ledger(0.9).prior.costs["cost"]
    cost = both.costs["cost"]
    assert cost.kernels == one.kernels * 2
    assert cost.correlation == (0.0,) * 14 + (0.9,) * 14
    assert sum(cost.weights[:14]) == pytest.approx(0.5)
    assert "with a correlation of 0 or 0.9 (" in both.explain()


def test_survivors_tell_their_rewards_to_both_beliefs():
    declared = prior(0.9, noise_known=True)
    clean = declared.belief("cost", None).tell(
        ToldMean(2, 12.0, 10, 0.1, 0.0), np.zeros(0), ToldMean(2, 40.0, 10, 0.1, 0.0)
    )
    reward, survivors = ToldMean(6, 30.0, 5, 0.2, 0.0), ToldMean(6, 8.0, 5, 0.2, 0.0)
    broken = clean.tell(ToldMean(6, 80.0, 10, 0.1, 900.0, survivors), np.zeros(0), reward)
    fewer = clean.tell(survivors, np.zeros(0), reward)
    np.testing.assert_allclose(broken.process.measured.means, fewer.process.means, rtol=1e-12)
    np.testing.assert_allclose(broken.process.weights, fewer.process.weights, rtol=1e-12)
    assert broken.process.n_told == fewer.process.n_told == 4
    expected = np.maximum(broken.process.risk(20.0), fewer.process.risk(20.0))
    np.testing.assert_allclose(broken.risk(20.0), expected, rtol=1e-12)
    upper = np.maximum(broken.process.upper(2.0), fewer.process.upper(2.0))
    np.testing.assert_allclose(broken.upper(2.0), upper, rtol=1e-12)


def test_a_trial_without_any_reward_tells_its_cost_alone():
    tuner = TargetOptimizer(ledger(0.8))
    trial = tuner.ask()
    costs = {"cost": np.array([3.0, 4.0, np.nan])}
    failed = np.array([False, False, True])
    tuner.tell(trial.id, Measurement(rewards=np.array([50.0, 52.0, np.nan]), costs=costs, failed=failed))
    assert tuner.state.costs["cost"].process.n_told == 2
    assert tuner.state.costs["cost"].process.measured.n_told == 2
    all_failed = Measurement(
        rewards=np.full(2, np.nan), costs={"cost": np.full(2, np.nan)}, failed=np.ones(2, np.bool_)
    )
    tuner.observe(trial.target, all_failed, source="elsewhere")
    assert tuner.state.costs["cost"].process.n_told == 3
    assert tuner.state.costs["cost"].partner.told[1] is None


@given(seed=st.integers(0, 10_000), rho=st.sampled_from([0.9, -0.7]))
@settings(max_examples=10, deadline=None)
def test_a_reward_is_foretold_by_the_declared_pair(seed, rho):
    """Its score is that under the dense posterior predictive of the reward, told costs and rewards before it."""
    rng = np.random.default_rng(seed)
    declared = prior(rho, noise_known=True)
    belief, costs, rewards = told_by(declared.belief("cost", None), rng, 5)
    after, _, _ = told_by(belief, rng, 1)
    reward = ToldMean(7, float(rng.normal(60.0, 20.0)), 4, 0.25, 0.0)
    weights, below, above = [], [], []
    for weight, (mean, variance, density) in zip(
        declared.costs["cost"].weights, dense(declared, costs, rewards, 1.0, of=slice(M, 2 * M)), strict=True
    ):
        spread = np.sqrt(variance[7] + declared.reward.episode_variance[7] / 4)
        weights.append(np.log(weight) + density)
        below.append(norm.cdf(reward.value, mean[7], spread))
        above.append(norm.sf(reward.value, mean[7], spread))
    shares = np.exp(np.array(weights) - max(weights))
    tails = shares @ np.array([below, above]).T / shares.sum()
    score = norm.ppf(tails[0]) if tails[0] < tails[1] else -norm.ppf(tails[1])  # exact in the nearer tail
    expected = np.sign(declared.belief("cost", None).partner.gain) * score
    assert reward_score(belief, after, reward) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_rewards_that_the_pair_does_not_foretell_raise_an_alarm_and_foretold_ones_do_not(quick):
    declared = dial(0.9)
    off = next(fault for fault in COUPLED_FAULTS if fault.reward == 10.0)
    alarms = []
    for worlds in (WorldSampler(declared), FaultyWorlds(declared, off)):
        found = []
        for number in range(12):
            rng = np.random.default_rng(number)
            drawn = worlds.draw(rng)
            world = drawn[0] if isinstance(drawn, tuple) else drawn
            tuner = TargetOptimizer(declared)
            with suppress(NoCertifiedTarget):  # a seed target measured over the limit by its noise
                while tuner.state.alarm is None and tuner.state.n_told < 4:
                    trial = tuner.ask()
                    index = tuner.state.asked[trial.id].index
                    tuner.tell(trial.id, world.measure(index, 20, declared.caps, rng))
            found.append(tuner.state.alarm)
        alarms.append(found)
    honest, faulty = alarms
    assert sum(alarm is not None for alarm in honest) <= 1
    assert [alarm.monitor for alarm in faulty if alarm is not None] == ["rewards"] * 12
    assert "the reward that 'cost' goes with" in faulty[0].reason


def test_an_uncoupled_run_watches_no_reward():
    assert {
        reading.monitor for reading in TargetOptimizer(ledger(None, monitors=Monitors())).state.watch.readings()
    } == {
        "innovations",
        "costs",
    }
    watch = TargetOptimizer(ledger(0.8, monitors=Monitors())).state.watch
    needed = {reading.monitor: reading.needed for reading in watch.readings()}
    assert needed["innovations"] == needed["rewards"] == pytest.approx(200.0)  # half of the declared rate each


def test_outside_episodes_tell_their_rewards_too():
    tuner = TargetOptimizer(ledger(0.8))
    before = tuner.state.costs["cost"].process.sd
    tuner.observe((80.0, 20.0), answer((80.0, 20.0)), source="elsewhere")
    assert tuner.state.costs["cost"].process.n_told == 2
    assert (tuner.state.costs["cost"].process.sd <= before + 1e-9).all()


# The promise ----------------------------------------------------------------------------------------------------


def test_the_noise_of_rewards_is_paid_for_out_of_the_same_share():
    both = ledger(0.8)
    assert both.noise_misses == {"cost": pytest.approx(0.005)}
    assert both.reward_miss == pytest.approx(0.005)
    assert ledger(None).noise_misses == {"cost": pytest.approx(0.01)}
    assert ledger(None).reward_miss == 0.2
    known = ledger(0.8, noise_known=True)
    assert (known.share.noise, known.reward_miss, known.prior.n_estimated) == (0.0, None, 0)
    half = replace(known.prior, reward=replace(known.prior.reward, noise_known=False))
    assert replace(known, prior=half, shares=None).reward_miss == pytest.approx(0.01)


def test_the_certificate_names_the_correlation_where_a_rule_rests_on_it():
    lipschitz = Lipschitz(constants={"cost": (0.06, 0.65)}, noise_bound={"cost": 1.0})
    for rules, named in (((RiskLedger(),), True), ((Paper(),), True), ((lipschitz,), False)):
        premises = TargetOptimizer(ledger(0.8, rules=rules)).ask().certificate.premises
        assert ("A13-correlation" in premises) == named
    assert "A13-correlation" not in TargetOptimizer(ledger(None)).ask().certificate.premises


def test_explain_says_what_is_trusted():
    assert "goes with" not in ledger(None).prior.explain()
    words = ledger(-0.8).prior.explain()
    assert "with a correlation of -0.8 (the reward by a standard deviation of 15): trusted, and never fitted." in words


def test_a_declaration_without_a_correlation_is_written_as_ever_and_with_one_comes_back():
    plain, beside = ledger(None).to_json(), ledger(-0.8).to_json()
    assert "correlation" not in json.dumps(plain)
    assert beside["costs"]["cost"].pop("correlation") == [-0.8] * 14
    assert beside == plain
    again = Declaration.from_json(ledger(-0.8).to_json())
    assert again.prior.coupled == "cost"
    assert again.to_json() == ledger(-0.8).to_json()
    torn = ledger(-0.8).to_json()
    torn["costs"]["cost"]["correlation"][3] = None
    with pytest.raises(IntegrityError, match=r"costs.cost.correlation\[3\]: expected a finite number"):
        Declaration.from_json(torn)


def with_reward(**change):
    return prior(0.8, reward=OutputPrior(mean=np.zeros(M), kernels=KERNELS[:1], episode_sd=1.0, **change))


REFUSED = {
    "no product": (lambda: prior(0.8, kernels=(Matern52(6.0, (80.0, 20.0)),)), "Matern52 is none"),
    "one": (lambda: prior(1.0), "above -1 and under 1"),
    "not a number": (lambda: prior(float("nan")), "above -1 and under 1"),
    "both signs": (lambda: prior((-0.5, 0.5)), "all of one sign"),
    "too few": (lambda: prior((0.5,)), "one each, or none"),
    "reward": (lambda: with_reward(correlation=(0.5,)), "with itself"),
    "unknown cost": (
        lambda: Prior.asked(
            SPACE,
            [LIMIT],
            np.ones(M, np.bool_),
            correlation={"fall": (0.5,)},
            reward_dial_error=1.0,
            reward_episode_sd=1.0,
        ),
        "names 'fall', which has no limit",
    ),
    "several": (
        lambda: replace(
            two_limits().prior,
            costs={name: replace(output, correlation=(0.5,)) for name, output in two_limits().prior.costs.items()},
        ),
        "declare one correlation at most",
    ),
    "the scale of the reward's error": (
        lambda: Prior.asked(SPACE, [LIMIT], np.ones(M, np.bool_), correlation={"cost": (0.5,)}, reward_episode_sd=1.0),
        "declare reward_dial_error and reward_episode_sd",
    ),
    "the scale of the reward's noise": (
        lambda: Prior.asked(SPACE, [LIMIT], np.ones(M, np.bool_), correlation={"cost": (0.5,)}, reward_dial_error=1.0),
        "declare reward_dial_error and reward_episode_sd",
    ),
    "axes": (
        lambda: Prior.asked(
            TargetSpace({"reward": (0.0, 1.0), "cost": (0.0, 1.0), "a": (0.0, 1.0), "b": (0.0, 1.0)}),
            [Limit("cost", 1.0)],
            np.ones(16, np.bool_),
            correlation={"cost": (0.5,)},
            reward_dial_error=1.0,
            reward_episode_sd=1.0,
        ),
        "at most 3 axes",
    ),
}


@pytest.mark.parametrize(("declare", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_coupled_is_refused(declare, words):
    with pytest.raises(BadPrior, match=words):
        declare()


def test_maps_that_were_fitted_one_by_one_are_refused_beside_a_correlation():
    table = OfflineTable(
        targets=np.array([[40.0, 0.0], [80.0, 20.0]]),
        means={"reward": np.array([40.0, 80.0]), "cost": np.array([1.0, 15.0])},
        standard_errors={"reward": np.ones(2), "cost": np.ones(2)},
    )
    with pytest.raises(BadPrior, match="told twice"):
        ledger(0.8).prior.from_offline([LIMIT], table)
    fitted = ledger(None).prior.from_offline([LIMIT], table)
    costs = {"cost": replace(fitted.costs["cost"], correlation=(0.8,) * 14)}
    with pytest.raises(BadPrior, match="affine map fitted by itself"):
        replace(fitted, costs=costs)
    with pytest.raises(BadPrior, match="affine map fitted by itself"):
        replace(ledger(0.8).prior, reward=fitted.reward)


# Runs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("correlations", "rules"), [((0.8,), LEDGER), ((-0.6,), (RiskLedger(), Paper())), ((0.0, 0.9), LEDGER)]
)
def test_a_run_is_verified_and_audited(tmp_path, quick, correlations, rules):
    run = run_of(tmp_path / "run", ledger(correlations, rules=rules))
    assert verify(run) == []
    audited = audit(run)
    assert (audited.findings, audited.not_checked, len(audited.asks)) == ((), (), 12)
    with Deployment.open(run, read_only=True) as deployment:
        assert deployment.state.costs["cost"].process.n_told == 24


def test_a_changed_reward_is_found_by_both(tmp_path, quick):
    """Other rewards, the chain of hashes repaired: the certificates that rest on them no longer follow."""
    run = run_of(tmp_path / "run", ledger(0.9, horizon=6))
    with Deployment.open(run, read_only=True) as deployment:
        events = list(deployment.events())
    told = next(event for event in events if isinstance(event, Told))
    other = replace(told, rewards=tuple(reward - 30.0 for reward in told.rewards))
    found = differences(enumerate([other if event is told else event for event in events], start=1))
    assert {"costs.cost.mean", "certificate.risks.cost"} <= {difference.field for difference in found}
    assert differences(enumerate(events, start=1)) == []

    def poorer(kind, body):
        if kind == "told" and body["trial"] == told.trial:
            body["rewards"] = list(other.rewards)

    forge(run, poorer)
    assert {"costs.cost.mean", "certificate.risks.cost"} <= {finding.what for finding in audit(run).findings}
    with pytest.raises(IntegrityError, match="somebody altered"):
        verify(run)


def test_a_changed_correlation_is_found(tmp_path, quick):
    run = run_of(tmp_path / "run", ledger(0.9, horizon=6))

    def bolder(kind, body):
        if kind == "started":
            body["declaration"]["costs"]["cost"]["correlation"] = [0.95] * 14

    forge(run, bolder)
    assert "certificate.risks.cost" in {finding.what for finding in audit(run).findings}


def test_the_audit_does_not_pass_a_correlation_that_it_does_not_understand(tmp_path, quick):
    run = run_of(tmp_path / "run", ledger(0.9, horizon=3))

    def beyond(kind, body):
        if kind == "started":
            body["declaration"]["reward"]["linear"] = {"features": [[1.0]], "covariance": [[1.0]]}

    forge(run, beyond)
    assert audit(run).not_checked == ("prior of cost: a correlation beside linear terms",)


@pytest.mark.parametrize("seeds", [range(2), pytest.param(range(2, 100), marks=pytest.mark.slow)])
def test_whatever_happens_to_an_honest_run_is_audited(tmp_path, quick, seeds):
    """Failed episodes, alarms and epochs, outside data, lowered limits, several open trials."""
    for seed in seeds:
        rng = np.random.default_rng(seed)
        declared = ledger(float(rng.choice([-0.7, 0.7, 0.95])), horizon=20, settings=Settings(pending_cap=3))
        live(tmp_path / f"{seed}", declared, rng, 60)
        audited = audit(tmp_path / f"{seed}")
        assert (audited.findings[:3], audited.not_checked) == ((), ()), seed
        assert verify(tmp_path / f"{seed}") == []


def test_an_alarmed_run_goes_on_with_the_noise_bounds_of_both_outputs(tmp_path, quick):
    declared = replace(ledger(0.8, horizon=20), monitors=replace(UNWATCHED, cost=0.05))
    with Deployment.create(tmp_path / "run", declared) as deployment:
        deployment.tell(deployment.ask().id, answer((40.0, 0.0)))
        trial = deployment.ask()
        bad = Measurement(rewards=np.full(20, 40.0), costs={"cost": np.full(20, 150.0)}, failed=np.zeros(20, np.bool_))
        deployment.tell(trial.id, bad)
        assert deployment.state.alarm is not None
        deployment.resume("me", "the cause was found")
        assert (deployment.state.reward.rounds, deployment.state.costs["cost"].rounds) == (2, 2)
        trial = deployment.ask()
        deployment.tell(trial.id, answer(trial.target))
        assert deployment.state.reward.rounds == 3
    assert verify(tmp_path / "run") == []
    assert audit(tmp_path / "run").ok


def test_a_run_that_is_reopened_after_every_step_is_the_unbroken_one(tmp_path, quick):
    declared = ledger(0.8, horizon=4)
    whole = run_of(tmp_path / "whole", declared)
    with Deployment.create(tmp_path / "broken", declared):
        pass
    for _ in range(4):
        with Deployment.open(tmp_path / "broken") as deployment:
            trial = deployment.ask()
        with Deployment.open(tmp_path / "broken") as deployment:
            deployment.tell(trial.id, answer(trial.target))
    with Deployment.open(tmp_path / "broken") as deployment:
        drive(deployment)
    with Deployment.open(whole, read_only=True) as one, Deployment.open(tmp_path / "broken", read_only=True) as other:
        assert list(one.events()) == list(other.events())


# Simulated worlds -----------------------------------------------------------------------------------------------


def dial(correlation, delta=0.1, **more):
    """Far from zero cost, rewards much cleaner than costs."""
    menu = TargetSpace({"reward": tuple(np.linspace(0.0, 100.0, 7)), "cost": tuple(np.linspace(180.0, 230.0, 7))})
    limit = Limit("cost", 200.0)
    believed = Prior.asked(
        menu,
        [limit],
        np.ones(len(menu), dtype=np.bool_),
        lengthscales={"reward": 30.0, "cost": 15.0},
        kernel=partial(Product.of, "matern52"),
        **{
            "dial_error": {"cost": 12.0},
            "episode_sd": {"cost": 40.0},
            "noise_known": True,
            "reward_dial_error": 10.0,
            "reward_episode_sd": 2.0,
            "correlation": None if correlation is None else {"cost": (correlation,)},
            **more,
        },
    )
    seeds = tuple(menu.target(int(i)) for i in np.flatnonzero((menu.points[:, 1] == 180.0) & (menu.points[:, 0] <= 20)))
    return Declaration(
        prior=believed,
        limits=(limit,),
        caps={"cost": 1000.0},
        seed_targets=seeds,
        delta=delta,
        horizon=12,
        rules=(RiskLedger(),),
    )


@pytest.mark.parametrize("rho", [0.9, -0.5])
def test_worlds_are_drawn_with_the_declared_covariance_of_both_outputs(quick, rho):
    declared = dial(rho)
    sampler, rng = WorldSampler(declared), np.random.default_rng(0)
    worlds = [sampler.draw(rng, "any") for _ in range(3000)]
    points = declared.space.points
    costs = (np.array([world.costs["cost"] for world in worlds]) - points[:, 1]) / 12.0
    rewards = (np.array([world.reward for world in worlds]) - points[:, 0]) / 10.0
    correlations = declared.prior.costs["cost"].kernels[0](points, points) / 144.0
    margin = 5.0 / np.sqrt(3000)
    np.testing.assert_allclose(costs.T @ costs / 3000, correlations, atol=2 * margin)
    np.testing.assert_allclose(rewards.T @ rewards / 3000, correlations, atol=2 * margin)
    np.testing.assert_allclose(costs.T @ rewards / 3000, rho * correlations, atol=margin * 2)


def test_where_it_is_true_runs_keep_delta_and_certify_more_than_without(quick):
    sampler = WorldSampler(dial(0.9))
    worlds = [sampler.draw(np.random.default_rng(number), "any") for number in range(40)]
    with_it, without = (
        [simulate(declared, world, np.random.default_rng(number)) for number, world in enumerate(worlds)]
        for declared in (dial(0.9), dial(None))
    )
    assert proportion_interval(sum(run.rules_violating for run in with_it), 40, 0.98).low <= 0.1
    assert sum(run.certified for run in with_it) > 1.1 * sum(run.certified for run in without)


def test_stress_tries_a_reward_that_says_nothing(quick):
    assert faults_of(dial(None)) == FAULTS
    assert faults_of(dial(0.9)) == (*FAULTS, *COUPLED_FAULTS)
    declared = dial(0.9)
    worlds, rng = FaultyWorlds(declared, COUPLED_FAULTS[0]), np.random.default_rng(1)
    drawn = [worlds.draw(rng)[0] for _ in range(200)]
    costs = np.array([world.costs["cost"][24] for world in drawn])
    rewards = np.array([world.reward[24] for world in drawn])
    assert abs(np.corrcoef(costs, rewards)[0, 1]) < 0.3
    assert simulate(declared, drawn[0], rng).held
