"""Rules composed by AND: a target must pass all of them, and each keeps its own promise and its own account."""

import numpy as np
import pytest
from deploy_toys import declaration, measurement, space, truth
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rule_toys import drive_with

from safehold.core.constraint import Limit
from safehold.core.errors import BadPrior, IntegrityError, SafetyHold, UsageError
from safehold.deploy.certificates.lipschitz import Lipschitz
from safehold.deploy.certificates.log_det import LogDet
from safehold.deploy.certificates.paper import Paper
from safehold.deploy.certificates.risk_ledger import RiskLedger
from safehold.deploy.certificates.rule import Rule, RuleVerdict, Standing, compose
from safehold.deploy.choose import view
from safehold.deploy.declaration import RULES, Declaration, Settings, Shares
from safehold.deploy.optimizer import TargetOptimizer
from safehold.deploy.stages import by_parts

ALL_RULES = (
    Paper(),
    RiskLedger(),
    LogDet({"cost": 1.0}, {"cost": 5.0}),
    Lipschitz({"cost": (0.05, 0.7)}, {"cost": 1.0}),
)
MASKS = arrays(np.bool_, 6)


def verdict(certified, price=0.0, holds=None, against=None):
    """What a rule might say of six candidates."""
    size = len(certified)
    return RuleVerdict(
        kind="any",
        certified=certified,
        holds=certified if holds is None else holds,
        against=np.zeros(size, dtype=np.bool_) if against is None else against,
        price=np.full(size, price),
        miss=np.zeros(size),
        unit="the limit",
        intervals={},
        bounding=False,
        multiplier=1.0,
        reach={},
    )


@pytest.mark.parametrize("rule", ALL_RULES, ids=[rule.kind for rule in ALL_RULES])
def test_every_rule_is_a_declared_value_with_a_promise_and_premises(rule):
    assert isinstance(rule, Rule)
    assert RULES[rule.kind] is type(rule)
    assert rule.promise.endswith(".")
    assert all(premise[0] == "A" for premise in rule.premises)
    assert isinstance(rule.start(declaration().terms(0.1)), Standing)
    declared = declaration(rules=(rule,))
    assert Declaration.from_json(declared.to_json()).rules == (rule,)


@given(a=MASKS, b=MASKS, support=MASKS, seeds=MASKS, contradicted=MASKS, over=MASKS, against=MASKS)
@settings(max_examples=100, deadline=None)
def test_what_is_certified_is_the_intersection_less_what_evidence_speaks_against(
    a, b, support, seeds, contradicted, over, against
):
    said = compose(
        [verdict(a, 0.25), verdict(b, 0.5, against=against)],
        support=support,
        seeds=seeds,
        contradicted=contradicted,
        measured_over=over,
    )
    revoked = contradicted | over | against
    refuted = bool(np.any(seeds & (over | against)))
    premise = seeds & ~revoked & (not refuted)
    np.testing.assert_array_equal(said.revoked, revoked)
    np.testing.assert_array_equal(said.by_rules, a & b & support & ~revoked)
    np.testing.assert_array_equal(said.by_premise, premise)
    np.testing.assert_array_equal(said.safe, (a & b & support & ~revoked) | premise)
    np.testing.assert_array_equal(said.price, np.where(premise, 0.0, 0.75))
    assert said.refuted == refuted


def test_together_the_rules_certify_what_each_of_them_certifies_alone_on_the_same_evidence():
    together = TargetOptimizer(declaration(rules=ALL_RULES, delta=0.2))
    alone = [rule.start(together.state.declaration.terms(0.18)) for rule in ALL_RULES]
    alone = [standing.told(together.state.evidence) for standing in alone]
    seen = 0
    while True:
        try:
            trial = together.ask()
        except SafetyHold:
            break
        index = together.state.declaration.space.index(trial.target)
        charges = {evidence.kind: evidence.charge for evidence in trial.certificate.evidence}
        alone = [s.asked(index, charges[rule.kind]) for s, rule in zip(alone, ALL_RULES, strict=True)]
        reward, cost = truth(trial.target)
        together.tell(trial.id, measurement(reward, cost, spread=1.0))
        state = together.state
        alone = [standing.told(state.evidence) for standing in alone]
        masks = [standing.verdict(state.evidence).certified for standing in alone]
        expected = np.all(masks, axis=0) & ~state.verdict().revoked
        np.testing.assert_array_equal(state.verdict().by_rules, expected)
        seen += int(expected.sum())
    assert seen > 0
    assert together.state.alarm is None


def test_a_target_that_another_rule_refuses_costs_the_ledger_nothing():
    both = TargetOptimizer(declaration(rules=(RiskLedger(), Paper()), delta=0.2, horizon=14))
    trials = drive_with(both, [2.0] * 14)
    paid = np.flatnonzero(both.state.standings[0].paid)
    asked = {both.state.declaration.space.index(trial.target) for trial in trials}
    assert set(paid.tolist()) <= asked
    charged = [trial for trial in trials if trial.certificate.charge > 0.0]
    assert charged
    for trial in charged:
        assert all(evidence.certified for evidence in trial.certificate.evidence)
        assert {evidence.kind: evidence.charge for evidence in trial.certificate.evidence}["paper"] == 0.0
        assert trial.certificate.upper["cost"] <= 20.0
        assert trial.certificate.spent_after == pytest.approx(0.2)  # the band spends its share by being declared


def test_with_several_rules_the_certificate_carries_all_of_their_promises_and_premises():
    tuner = TargetOptimizer(declaration(rules=ALL_RULES))
    said = tuner.ask().certificate
    assert said.kind == "paper+risk_ledger+log_det+lipschitz"
    assert [evidence.kind for evidence in said.evidence] == [rule.kind for rule in ALL_RULES]
    for rule in ALL_RULES:
        assert rule.promise in said.promise
        assert set(rule.premises) <= set(said.premises)


def test_no_rule_speaks_for_another_when_an_ask_is_scored():
    """Scores see the highest bound and the longest reach of all rules; a rule without bounds keeps none."""
    tuner = TargetOptimizer(declaration(rules=(RiskLedger(), Paper()), settings=Settings(pending_cap=2)))
    drive_with(tuner, [2.0])
    state = tuner.state
    rules = state.verdict().rules
    seen = view(state, state.verdict()).costs["cost"]
    np.testing.assert_array_equal(seen.band.upper, np.maximum(*[rule.intervals["cost"].upper for rule in rules]))
    assert np.all(np.isinf(seen.kept))
    assert seen.reach == max(rule.reach["cost"] for rule in rules)
    tuner.ask()
    foretold = view(tuner.state, tuner.state.verdict()).costs["cost"]
    assert np.all(foretold.band.width <= seen.band.width + 1e-12)
    assert np.any(foretold.band.width < seen.band.width)
    np.testing.assert_array_equal(tuner.state.verdict().by_rules, state.verdict().by_rules)


@pytest.mark.parametrize("rules", [(), (Paper(), Paper())])
def test_at_least_one_rule_and_each_once(rules):
    with pytest.raises(UsageError, match="declare at least one, each once"):
        declaration(rules=rules)


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        (Shares(certificate=0.05, noise=0.04), "add up to 0.09, delta is 0.1"),
        (Shares(certificate=0.1, noise=0.0), "its bounds need a share of delta"),
        (Shares(certificate=0.0, noise=0.1), "the certificate's above 0"),
        (Shares(certificate=0.11, noise=-0.01), "each is from 0"),
        (Shares(certificate=np.nan, noise=0.05), "each is from 0"),
    ],
)
def test_shares_of_delta_add_up_and_pay_for_what_needs_one(shares, message):
    with pytest.raises(UsageError, match=message):
        declaration(shares=shares, delta=0.1)


def test_known_noise_needs_no_share_and_verified_seed_targets_do():
    assert declaration(noise_known=True).share == Shares(certificate=0.1, noise=0.0)
    good = declaration()
    fields = {name: getattr(good, name) for name in ("prior", "limits", "caps", "seed_targets", "horizon")}
    with pytest.raises(UsageError, match="at a level: declare it as the seeds' share"):
        Declaration(**fields, delta=0.1, seed_rule="verified")
    shares = Shares(seed=0.02, certificate=0.07, noise=0.01)
    declared = Declaration(**fields, delta=0.1, seed_rule="verified", shares=shares)
    assert declared.share.seed + declared.share.certificate + declared.share.noise == pytest.approx(declared.delta)


@pytest.mark.parametrize("stages", [(), by_parts(0.09, (0.5, 0.5), 1, 1)])
def test_noise_that_is_to_be_estimated_needs_replicates(stages):
    one = Settings(episodes_per_ask=20 if stages else 1)
    good = declaration()
    fields = {name: getattr(good, name) for name in ("prior", "limits", "caps", "seed_targets", "horizon")}
    with pytest.raises(UsageError, match="one episode an ask has none"):
        Declaration(**fields, delta=0.1, settings=one, stages=stages)
    assert declaration(settings=Settings(episodes_per_ask=1), noise_known=True).noise_misses == {"cost": None}


def test_each_estimated_noise_gets_an_equal_part_of_the_noise_share():
    assert declaration(delta=0.1).noise_misses == {"cost": pytest.approx(0.01)}
    assert declaration(noise_known=True).noise_misses == {"cost": None}


def test_an_unknown_rule_in_a_ledger_is_refused():
    plain = declaration().to_json()
    with pytest.raises(IntegrityError, match="unknown certificate rule 'luck'; a newer safehold wrote it"):
        Declaration.from_json({**plain, "rules": [{"rule": "luck"}]})


def test_a_chance_limit_above_one_half_is_refused_since_a_larger_spread_would_count_as_safer():
    with pytest.raises(UsageError, match=r"certified up to 0\.5"):
        declaration(limits=(Limit("cost", 20.0, "chance", 0.6),))


def test_a_chance_limit_needs_the_spread_of_enough_episodes():
    with pytest.raises(UsageError, match="needs the spread of at least 5"):
        declaration(limits=(Limit("cost", 20.0, "chance", 0.1),), settings=Settings(episodes_per_ask=4))


def test_a_prior_that_certifies_on_its_own_is_refused_by_every_rule_that_rests_on_it():
    for rule in (RiskLedger(), Paper()):
        with pytest.raises(BadPrior, match=f"the rule '{rule.kind}' would certify"):
            declaration(rules=(rule,), dial_error={"cost": 0.5})


@pytest.mark.parametrize("rule", ALL_RULES[1:], ids=[rule.kind for rule in ALL_RULES[1:]])
@given(told=st.lists(st.tuples(st.integers(0, 24), st.floats(-3.0, 3.0)), min_size=1, max_size=5))
@settings(max_examples=5, deadline=None)
def test_a_finer_dial_says_the_same_of_the_targets_that_both_have(rule, told):
    """Metamorphic. Not of `paper`, whose band is over the whole menu: more candidates make it wider."""
    coarse, fine = space(5, 5), space(9, 9)
    common = np.array([fine.index(target) for target in map(coarse.target, range(len(coarse)))])
    scales = {"lengthscales": None} if rule.kind == "risk_ledger" else {}
    few, many = (
        TargetOptimizer(declaration(menu=menu, seeds=((40.0, 0.0),), rules=(rule,), **scales))
        for menu in (coarse, fine)
    )
    for index, off in told:
        target = coarse.target(index)
        reward, cost = truth(target)
        outcome = measurement(reward, max(cost + off, 0.0))
        for tuner in (few, many):
            tuner.observe(target, outcome, source="both")
    a, b = few.state.verdict(), many.state.verdict()
    np.testing.assert_array_equal(a.safe, b.safe[common])
    np.testing.assert_allclose(a.price, b.price[common], atol=1e-9)
