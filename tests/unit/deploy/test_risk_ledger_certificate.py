"""The default certificate: what is charged is the posterior risk, and what is charged in all stays within the share."""

import numpy as np
import pytest
from deploy_toys import LIMIT, declaration, measurement, truth, two_limits
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import config
from rule_toys import dense_risk, drive_with, told_points

from safehold.core.constraint import Limit
from safehold.core.errors import NoCertifiedTarget, SafetyHold, UsageError
from safehold.core.measurement import Measurement
from safehold.core.target import TargetSpace
from safehold.deploy.certificates.risk_ledger import LARGEST_PRICE, REVOKED, RiskLedger
from safehold.deploy.declaration import Declaration, Settings, Shares
from safehold.deploy.optimizer import TargetOptimizer
from safehold.deploy.prior import Prior
from safehold.deploy.watch import Monitors

LEDGER = (RiskLedger(),)


def optimizer(**changes):
    """The toy deployment on the default certificate and the default hyper-prior."""
    return TargetOptimizer(declaration(**{"rules": LEDGER, "lengthscales": None, "horizon": 10, **changes}))


def drive_truth(tuner):
    """Asks and tells the toy's truth until it holds."""
    trials = []
    while True:
        try:
            trial = tuner.ask()
        except SafetyHold:
            return trials
        reward, cost = truth(trial.target)
        trials.append(tuner.tell(trial.id, measurement(reward, cost)))


def first_charged(tuner):
    """Tells low costs until an ask is charged; that trial, still open."""
    while True:
        trial = tuner.ask()
        if trial.certificate.charge > 0.0:
            return trial
        tuner.tell(trial.id, measurement(trial.target[0], 1.0, spread=1.0))


@pytest.mark.parametrize("inflate", [1.0, 1.5])
def test_a_new_target_is_charged_its_posterior_risk_under_the_whole_mixture(inflate):
    tuner = optimizer(rules=(RiskLedger(inflate=inflate),), noise_known=True)
    charged = 0
    for _ in range(8):
        before = tuner.state
        trial = tuner.ask()
        reward, cost = truth(trial.target)
        tuner.tell(trial.id, measurement(reward, cost))
        output, points = before.declaration.prior.costs["cost"], before.declaration.space.points
        indices, values, episodes = told_points(before)
        noise = output.episode_variance[indices] / episodes
        expected = dense_risk(output, points, indices, values, noise, 20.0, inflate)
        risk = before.standings[0].risk(before.evidence)
        np.testing.assert_allclose(risk, expected, rtol=1e-6, atol=1e-12)
        if trial.certificate.charge > 0.0:
            charged += 1
            index = before.declaration.space.index(trial.target)
            assert trial.certificate.charge == pytest.approx(expected[index], rel=1e-6)
            assert trial.certificate.basis == "rules"
    assert charged >= 3


@given(
    costs=st.lists(st.floats(0.0, 30.0), min_size=1, max_size=8),
    delta=st.sampled_from([0.001, 0.01, 0.05, 0.2, 0.9]),
    inflate=st.sampled_from([1.0, 1.5]),
    horizon=st.integers(1, 8),
)
@settings(max_examples=25, deadline=None)
def test_whatever_is_told_the_charges_of_a_run_never_exceed_their_share(costs, delta, inflate, horizon):
    tuner = TargetOptimizer(declaration(rules=(RiskLedger(inflate=inflate),), delta=delta, horizon=horizon))
    share = tuner.state.declaration.share
    trials = drive_with(tuner, costs)
    charges = [trial.certificate.charge for trial in trials]
    assert all(charge >= 0.0 for charge in charges)
    assert sum(charges) <= share.certificate * (1 + 1e-12)
    assert sum(charges) == pytest.approx(tuner.state.spent, abs=1e-12)
    for number, trial in enumerate(trials):
        (evidence,) = trial.certificate.evidence
        assert evidence.charge <= min(evidence.cap, LARGEST_PRICE)
        paid = share.noise + sum(charges[: number + 1])
        assert trial.certificate.spent_after == pytest.approx(paid, abs=1e-12)
        assert trial.certificate.spent_after <= delta


def test_nothing_is_charged_twice_and_seed_targets_on_their_premise_are_charged_nothing():
    tuner = optimizer(horizon=14, delta=0.2)
    seeds, paid = set(tuner.state.declaration.seed_targets), set()
    for trial in drive_truth(tuner):
        charge = trial.certificate.charge
        if trial.target in paid:
            assert charge == 0.0
        elif trial.target in seeds:
            assert charge == 0.0
            assert trial.certificate.basis == "premise"
        else:
            assert charge > 0.0
            paid.add(trial.target)
    assert len(paid) >= 3
    np.testing.assert_array_equal(
        np.flatnonzero(tuner.state.standings[0].paid), sorted(map(tuner.state.declaration.space.index, paid))
    )


def test_no_ask_may_cost_more_than_three_even_shares_of_what_is_left():
    state = optimizer(horizon=200).state
    assert state.verdict().rules[0].cap == pytest.approx(3 * 0.09 / 200, rel=1e-12)
    assert optimizer(horizon=1).state.verdict().rules[0].cap == LARGEST_PRICE
    poor = optimizer(horizon=1, delta=0.001).state
    assert poor.verdict().rules[0].cap == pytest.approx(0.0009, rel=1e-12)


def test_what_costs_more_than_is_left_is_not_certified_however_small_the_cap_of_one_ask():
    state = optimizer(horizon=1).state
    standing = state.standings[0]
    risk = standing.risk(state.evidence)
    cheapest = float(risk[~state.declaration.seeds].min())
    said = type(standing)(standing.rule, standing.terms, standing.paid, spent=0.09 - cheapest / 2).verdict(
        state.evidence
    )
    assert not said.certified[~state.declaration.seeds].any()


def test_a_paid_target_is_free_until_its_present_risk_passes_the_bar_of_revocation():
    tuner = optimizer(horizon=14, delta=0.2)
    drive_truth(tuner)
    state = tuner.state
    standing = state.standings[0]
    everything = type(standing)(standing.rule, standing.terms, np.ones_like(standing.paid), standing.spent)
    said, risk = everything.verdict(state.evidence), standing.risk(state.evidence)
    np.testing.assert_array_equal(said.certified, risk <= REVOKED)
    np.testing.assert_array_equal(said.price, 0.0)
    np.testing.assert_array_equal(said.against, risk > 1.0 - REVOKED)
    assert 0 < said.certified.sum() < len(risk)
    assert pytest.approx(0.02275, abs=1e-5) == REVOKED


def test_a_paid_target_that_turns_out_costly_is_handed_out_no_more():
    tuner = optimizer(horizon=14, delta=0.2)
    trial = first_charged(tuner)
    tuner.tell(trial.id, measurement(40.0, 19.5, spread=0.5))
    index = tuner.state.declaration.space.index(trial.target)
    assert tuner.state.standings[0].paid[index]
    assert not tuner.state.verdict().safe[index]
    assert not tuner.state.verdict().revoked[index]  # its own mean is under the limit: the risk decides


def test_several_limits_are_paid_by_their_joint_risk():
    tuner = TargetOptimizer(two_limits(rules=LEDGER))
    state = tuner.state
    parts = [state.costs[limit.name].process.risk(limit.value) for limit in state.limits]
    joint = 1.0 - (1.0 - parts[0]) * (1.0 - parts[1])
    np.testing.assert_allclose(state.standings[0].risk(state.evidence), joint, rtol=1e-9)


def test_open_trials_are_paid_for_before_they_are_told():
    tuner = optimizer(horizon=12, delta=0.2, settings=Settings(pending_cap=4))
    trials = [first_charged(tuner)]
    told = tuner.state.rounds
    trials += [tuner.ask() for _ in range(3)]
    assert sum(trial.certificate.charge for trial in trials) == pytest.approx(tuner.state.spent)
    assert len({trial.certificate.n_told for trial in trials}) == 1
    belief = tuner.state.costs["cost"].process
    assert belief.n_told == told  # nothing that is open informs a certificate


def test_a_trial_attested_as_never_deployed_is_not_refunded():
    tuner = optimizer(horizon=12, delta=0.2)
    trial = first_charged(tuner)
    tuner.abandon(trial.id, "the operator said no", deployed=False)
    assert tuner.state.spent == trial.certificate.charge > 0.0


def test_seed_targets_are_paid_for_like_any_other_once_one_of_them_refuted_the_premise():
    tuner = optimizer(horizon=14, delta=0.2, settings=Settings(pending_cap=3))
    for _ in range(4):
        trial = tuner.ask()
        reward, cost = truth(trial.target)
        tuner.tell(trial.id, measurement(reward, cost, spread=1.0))
    space, seeds = tuner.state.declaration.space, tuner.state.declaration.seed_targets
    untried = next(target for target in seeds if space.index(target) not in tuner.state.tallies)
    tuner.observe(untried, measurement(40.0, 20.5, spread=0.1), source="somebody saw it")
    verdict = tuner.state.verdict()
    assert verdict.refuted
    assert not verdict.by_premise.any()
    assert np.all(verdict.price[tuner.state.declaration.seed_indices] > 0.0)


def test_an_open_seed_trial_does_not_run_unpaid_once_the_premise_is_refuted():
    """It was handed out for nothing, on the premise; the rules may afford it, and it was never paid for."""
    tuner = optimizer(settings=Settings(pending_cap=3), lengthscales={"reward": 10.0, "cost": 5.0})
    first, second = tuner.ask(key="a"), tuner.ask(key="b")
    assert first.target == second.target  # both on the premise
    tuner.tell(first.id, measurement(40.0, 1.0, spread=0.1))
    far = tuner.state.declaration.seed_targets[-1]
    tuner.observe(far, measurement(60.0, 20.5, spread=0.1), source="somebody saw it")
    index = tuner.state.declaration.space.index(second.target)
    verdict = tuner.state.verdict()
    assert verdict.refuted
    assert verdict.by_rules[index]
    assert verdict.price[index] > 0.0
    spent = tuner.state.spent
    for call in (lambda: tuner.deployed(second.id), lambda: tuner.ask(key="b")):
        with pytest.raises(NoCertifiedTarget, match="not paid for"):
            call()
    tuner.abandon(second.id, "it may not run", deployed=False)
    again = tuner.ask(key="c")
    assert tuner.state.spent == spent + again.certificate.charge


def test_no_fallback_is_named_that_would_have_to_be_paid_for():
    """Nobody attested the seed targets for the lower limit; the rules could afford one, but a fallback is not asked."""
    tuner = optimizer(horizon=14, delta=0.2)
    trial = tuner.ask()
    tuner.tell(trial.id, measurement(40.0, 1.0, spread=0.1))
    tuner.lower_limit("cost", 15.0, "the authority says so")
    index = tuner.state.declaration.space.index(trial.target)
    assert tuner.state.verdict().safe[index]
    assert tuner.state.verdict().price[index] > 0.0
    assert tuner.status().fallback is None
    paid = tuner.ask()
    assert paid.certificate.charge > 0.0
    if paid.target in tuner.state.declaration.seed_targets:
        assert tuner.status().fallback == paid.target


@pytest.mark.parametrize("inflate", [0.9, np.inf, np.nan])
def test_refuses_an_inflation_that_narrows_or_means_nothing(inflate):
    with pytest.raises(UsageError, match="inflate is"):
        RiskLedger(inflate=inflate)


def test_a_refusal_says_the_risk_and_what_an_ask_may_cost():
    tuner = optimizer(delta=0.001, shares=Shares(certificate=0.0009, noise=0.0001))
    trial = tuner.ask()
    tuner.tell(trial.id, measurement(40.0, 20.5, spread=0.1))
    with pytest.raises(
        NoCertifiedTarget, match=r"risk 0\.\d+ against at most [0-9.e-]+\); it misses by .* of delta's share"
    ):
        tuner.ask()


def test_words_of_a_paid_target_name_the_bar_of_revocation():
    tuner = optimizer(horizon=14, delta=0.2)
    drive_with(tuner, [1.0, 1.0, 1.0])
    state = tuner.state
    index = int(np.flatnonzero(state.standings[0].paid)[0])
    assert state.standings[0].words(state.evidence, index).endswith("against at most 0.0228")


def test_certificates_name_their_shares_and_premises():
    tuner = optimizer(shares=Shares(certificate=0.07, noise=0.03))
    trial = tuner.ask()
    said = trial.certificate
    assert said.shares == {"seed": 0.0, "certificate": 0.07, "noise": 0.03}
    assert sum(said.shares.values()) == pytest.approx(said.delta)
    assert said.premises == ("A1-prior", "A2-noise", "A3-independence", "A4-unchanged", "A6-seeds-attested")
    tuner.tell(trial.id, measurement(40.0, 1.0, spread=1.0))
    assert "A6-seeds-attested" not in first_charged(tuner).certificate.premises
    assert said.limits == (LIMIT,)


def unsafe_and_charged(declared, number, failing):
    """Distinct paid targets that are unsafe, and what was charged for them, in one world drawn from the prior.

    Trials are told in random order, and each episode fails with probability `failing`, whatever it costs.
    """
    rng = np.random.default_rng(number)
    output, points = declared.prior.costs["cost"], declared.space.points
    covariance = output.kernels[0](points, points)
    costs = rng.multivariate_normal(output.mean, covariance, method="cholesky")
    tuner, open_trials, paid = TargetOptimizer(declared), [], set()
    while True:
        try:
            trial = tuner.ask()
        except SafetyHold:
            if not open_trials:
                break
            trial = open_trials.pop(int(rng.integers(len(open_trials))))
            episodes = np.clip(costs[declared.space.index(trial.target)] + 20.0 * rng.normal(size=20), 0.0, 400.0)
            rewards = trial.target[0] + 10.0 * rng.normal(size=20)
            failed = rng.random(20) < failing
            tuner.tell(trial.id, Measurement(rewards=rewards, costs={"cost": episodes}, failed=failed))
        else:
            open_trials.append(trial)
            if trial.certificate.charge > 0.0:
                paid.add(declared.space.index(trial.target))
    return sum(costs[index] > 100.0 for index in paid), tuner.state.spent


@pytest.mark.slow
@pytest.mark.parametrize(("pending", "failing"), [(1, 0.0), (5, 0.0), (3, 0.01)])
def test_unsafe_targets_are_no_more_than_what_was_charged_for_them(pending, failing):
    """E[U] <= E[charges], seed targets safe or not: 300 worlds, within 3 standard errors; and both near one another."""
    menu = TargetSpace({"reward": tuple(np.linspace(0, 100, 7)), "cost": tuple(np.linspace(60.0, 130.0, 7))})
    limit = Limit("cost", 100.0)
    declared = Declaration(
        prior=Prior.asked(
            menu,
            [limit],
            np.ones(49, dtype=np.bool_),
            lengthscales={"reward": 50.0, "cost": 35.0},
            dial_error={"cost": 20.0},
            episode_sd={"cost": 20.0},
            noise_known=True,
        ),
        limits=(limit,),
        caps={"cost": 400.0},
        seed_targets=((0.0, 60.0), (100 / 6, 60.0)),
        delta=0.1,
        horizon=15,
        settings=Settings(pending_cap=pending),
        monitors=Monitors(innovation=None, cost=None),
    )
    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", True)
    try:
        unsafe, charged = np.array([unsafe_and_charged(declared, number, failing) for number in range(300)]).T
    finally:
        config.update("jaxtyping_disable", before)
    error = np.std(unsafe - charged) / np.sqrt(300)
    assert np.max(charged) <= 0.1 * (1 + 1e-12)
    assert np.mean(unsafe) <= np.mean(charged) + 3 * error
    assert np.mean(charged) <= 3 * np.mean(unsafe)
