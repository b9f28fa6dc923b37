"""What pictures are drawn from, against the ledger that it is read from."""

from dataclasses import replace

import numpy as np
import pytest
from small_runs import LIMIT, declaration, deploy, measure

from safehold.core.constraint import Limit
from safehold.deploy.certificates.risk_ledger import RiskLedger
from safehold.deploy.optimizer import Deployment
from safehold.report import tables, views
from safehold.report.certified import certificate_page
from safehold.report.figures.bounds import Break
from safehold.report.run import read_run


@pytest.fixture(scope="module")
def ledger_run(tmp_path_factory):
    """A run that pays for risk, of which the limit was lowered before its fourth ask, and whose sixth failed."""
    place = tmp_path_factory.mktemp("ledger")
    with Deployment.create(place, declaration(horizon=20, rules=(RiskLedger(),), dial_error=12.0)) as deployment:
        for number in range(7):
            if number == 3:
                deployment.lower_limit("cost", LIMIT - 3, "caution", seeds_hold=True)
            trial = deployment.ask()
            outcome = measure(trial.target, number)
            if number == 5:
                outcome = replace(outcome, failed=np.arange(20) == 0)
            deployment.tell(trial.id, outcome)
    return read_run(place)


def test_every_ask_is_shown_against_its_limit_as_it_was_then(ledger_run):
    (shown,) = views.bounds_over_time(ledger_run, ledger_run.state).costs
    assert [ask.limit for ask in shown.asks] == [LIMIT] * 3 + [LIMIT - 3] * 4
    assert [ask.failed for ask in shown.asks] == [False] * 5 + [True, False]
    assert shown.asks[5].told is None
    assert not shown.certified
    for ask, asked in zip(shown.asks, ledger_run.state.asked.values(), strict=True):
        assert (ask.mean, ask.upper) == (asked.costs["cost"].mean, asked.costs["cost"].upper)
        assert ask.risk == asked.certificate.risks["cost"]


def test_bounds_that_certify_are_those_of_the_certificates(tmp_path):
    deploy(tmp_path, tells=4).close()
    run = read_run(tmp_path)
    (shown,) = views.bounds_over_time(run, run.state).costs
    certificates = [asked.certificate for asked in run.state.asked.values()]
    assert shown.certified
    assert [ask.upper for ask in shown.asks] == [c.upper["cost"] if c.upper else None for c in certificates]
    assert views.spending(run, run.state).charging is False


def test_spending_ends_where_the_state_does(ledger_run):
    view = views.spending(ledger_run, ledger_run.state)
    assert view.charging
    assert view.spent[-1] == pytest.approx(ledger_run.state.spent)
    assert sum(part for _, part in view.shares) == pytest.approx(0.05)
    assert all(charge.charge <= charge.cap for charge in view.charges)
    assert view.charges[0].charge == 0.0  # a seed target on its premise


def test_a_lowered_limit_is_a_break(ledger_run):
    assert views.breaks(ledger_run.events) == (Break(number=3, word="limit 22"),)


def test_a_chance_limits_statistic_has_an_interval_about_it():
    costs = np.random.default_rng(0).normal(10, 2, 400)
    limit = Limit("cost", 20.0, "chance", 0.1)
    interval = views.statistic_interval(limit, costs)
    assert interval.estimate == limit.statistic(costs)
    assert interval.low < 10 + 1.2816 * 2 < interval.high
    # sd of mean + q s: 2 sqrt(1/n + q^2 / (2 (n - 1)))
    assert (interval.high - interval.estimate) / 1.96 == pytest.approx(
        np.std(costs, ddof=1) * np.sqrt(1 / 400 + 1.2816**2 / 798), rel=1e-3
    )
    assert not views.statistic_interval(limit, costs[:1]).known


def test_innovations_are_those_of_the_asks_before_they_were_told(ledger_run):
    asked, told = ledger_run.state.asked["trial-0001"], ledger_run.state.told["trial-0001"]
    found = views.predictions(ledger_run.state, "cost")
    assert [p.number for p in found] == [0, 1, 2, 3, 4, 6]  # the failed one has none
    expected = asked.costs["cost"]
    deviation = np.sqrt(expected.sd**2 + expected.episode_sd**2 / 20)
    assert found[1].residual == pytest.approx((told.measurement.mean_cost("cost") - expected.mean) / deviation)
    assert [b.name for b in views.beliefs(ledger_run.state).beliefs] == ["cost", "reward"]


def test_monitors_are_read_after_every_measurement(ledger_run):
    view = views.monitoring(ledger_run)
    assert {(e.monitor, e.limit) for e in view.evidence} == {("innovations", "cost"), ("costs", "cost")}
    assert all(e.numbers == tuple(range(7)) for e in view.evidence)
    now = {r.monitor: r.evidence for r in ledger_run.state.watch.readings()}
    assert {e.monitor: e.values[-1] for e in view.evidence} == now


def test_a_certificate_says_who_stands_for_it_and_what_it_rested_on(ledger_run):
    state = ledger_run.state
    page = certificate_page(ledger_run, "trial-0002")
    asked = state.asked["trial-0002"]
    assert page.target.startswith("(" + ", ".join(f"{value:.5g}" for value in asked.target))
    assert page.limits[0].limit == "expected cost return of an episode of 'cost' at most 25 cost units"
    assert page.limits[0].certified == f"with risk {100 * asked.certificate.risks['cost']:.3g} %"
    facts = dict(page.facts)
    assert facts["ledger head"] == ledger_run.head
    assert facts["seed targets"] == "2 by rule 'log'; attested for the limit 22 on 'cost'"
    assert facts["asked"].endswith(" UTC")
    assert "deployed" not in facts  # nobody said when it began
    paid = sum(a.certificate.charge for a in state.asked.values() if a.number <= 2)
    assert [(s.name, s.spent) for s in page.shares] == [("certificate", pytest.approx(paid)), ("noise", None)]
    assert [p.id for p in page.premises] == list(asked.certificate.premises)


def test_a_certificate_for_a_limit_that_was_lowered_since_no_longer_stands(ledger_run):
    assert certificate_page(ledger_run, "trial-0002").doubts == ("the limit on cost was lowered since",)
    assert certificate_page(ledger_run, "trial-0004").doubts == ()


def test_the_certificate_of_a_revoked_target_no_longer_stands(ledger_run):
    assert "revoked" in certificate_page(ledger_run, "trial-0005").verdict
    assert certificate_page(ledger_run, "trial-0005").limits[0].told == "episodes failed"


def test_a_long_table_shows_its_ends_and_says_what_it_leaves_out(ledger_run, monkeypatch):
    monkeypatch.setattr(tables, "MOST_ROWS", 4)
    table = tables.deployments(ledger_run.state)
    assert [row[0] for row in table.rows] == ["0", "4", "5", "6"]
    assert "3 asks in the middle are left out" in table.note
