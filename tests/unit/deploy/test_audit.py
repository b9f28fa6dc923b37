"""The independent audit agrees with every honest run, and with no forged one."""

import hashlib
import json
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from deploy_toys import answer, declaration, drive, measurement, two_limits
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import config
from rule_toys import with_context

from safehold.core.certificate import TrialState
from safehold.core.constraint import Limit
from safehold.core.errors import IntegrityError, SafeholdError
from safehold.core.measurement import Measurement
from safehold.deploy import audit as module
from safehold.deploy.audit import audit
from safehold.deploy.certificates.lipschitz import Lipschitz
from safehold.deploy.certificates.log_det import LogDet
from safehold.deploy.certificates.paper import Paper
from safehold.deploy.certificates.risk_ledger import RiskLedger
from safehold.deploy.declaration import Settings, Shares
from safehold.deploy.optimizer import Deployment
from safehold.deploy.prior import OfflineTable
from safehold.deploy.stages import by_parts
from safehold.gp.kernels import Matern52, Product
from safehold.ledger.encoding import canonical

LOG_DET = LogDet(norm_bound={"cost": 1.0}, episode_constant={"cost": 2.0})
LIPSCHITZ = Lipschitz(constants={"cost": (0.06, 0.65)}, noise_bound={"cost": 1.0})
COLUMNS = ("seq", "kind", "trial", "key", "body", "prev_hash", "hash", "wall_time", "seal")
INSERT = f"INSERT INTO event ({', '.join(COLUMNS)}) VALUES (?, ?, ?, ?, ?, ?, ?, '', ?)"
COMPOSITIONS = {
    "paper": (Paper(),),
    "risk ledger": (RiskLedger(),),
    "inflated": (RiskLedger(inflate=1.5),),
    "log det": (LOG_DET,),
    "lipschitz": (LIPSCHITZ,),
    "ledger and lipschitz": (RiskLedger(), LIPSCHITZ),
    "all": (Paper(), RiskLedger(), LOG_DET, LIPSCHITZ),
}


def run_of(path, declared, **more):
    """A whole run of the toy dial."""
    with Deployment.create(path, declared) as deployment:
        drive(deployment, **more)
    return path


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """A run on the default certificate and the default mixture; not to be changed."""
    return run_of(tmp_path_factory.mktemp("honest") / "run", declaration(rules=(RiskLedger(),), lengthscales=None))


@pytest.fixture
def run(honest, tmp_path):
    return shutil.copytree(honest, tmp_path / "run")


# Honest runs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rules", COMPOSITIONS.values(), ids=COMPOSITIONS)
@pytest.mark.parametrize("mixture", [False, True], ids=["one kernel", "mixture"])
def test_every_rule_and_composition_is_derived_alike(tmp_path, rules, mixture):
    if mixture and LOG_DET in rules:
        rules = tuple(rule for rule in rules if rule != LOG_DET) or (Paper(),)
    scales = {"lengthscales": None} if mixture else {}
    audited = audit(run_of(tmp_path / "run", declaration(rules=rules, **scales)))
    assert audited.findings == ()
    assert audited.not_checked == ()
    assert (audited.ok, audited.complete, len(audited.asks)) == (True, True, 12)
    assert audited.charged == sum(ask.charge for ask in audited.asks) <= audited.share <= audited.delta == 0.1
    assert {ask.basis for ask in audited.asks} <= {"rules", "premise"}
    assert mixture or audited.asks[-1].basis == "rules"
    assert (audited.charged > 0) <= any(isinstance(rule, RiskLedger) for rule in rules)


def test_what_it_derives_is_what_the_certificates_say(honest):
    with Deployment.open(honest, read_only=True) as deployment:
        asked = list(deployment.state.asked.values())
        spent = deployment.state.spent
    audited = audit(honest)
    assert [ask.trial for ask in audited.asks] == [event.trial for event in asked]
    assert [ask.target for ask in audited.asks] == [event.target for event in asked]
    assert [ask.basis for ask in audited.asks] == [event.certificate.basis for event in asked]
    for ask, event in zip(audited.asks, asked, strict=True):
        assert ask.risk == pytest.approx(event.certificate.evidence[0].risk, rel=1e-6)
        assert ask.charge == pytest.approx(event.certificate.charge, rel=1e-6)
        assert ask.spent_after == pytest.approx(event.certificate.spent_after, rel=1e-9)
    assert audited.charged == pytest.approx(spent, rel=1e-9)


@pytest.mark.parametrize("kind", [Matern52, lambda sd, scales: Product.of("matern32", sd, scales)])
def test_every_kernel_is_derived_alike(tmp_path, kind):
    assert audit(run_of(tmp_path / "run", declaration(kernel=kind, rules=(RiskLedger(), Paper())))).ok


@pytest.mark.parametrize("limit", [Limit("cost", 20.0, "chance", 0.1), Limit("cost", 20.0, "cvar", 0.2)])
def test_limits_on_the_spread_are_derived_alike(tmp_path, limit):
    declared = declaration(limits=(limit,), rules=(RiskLedger(), Paper()), episode_sd={"cost": 2.0})
    audited = audit(run_of(tmp_path / "run", declared))
    assert audited.ok, audited.findings[:3]
    assert len(audited.asks) == 12


def test_several_limits_are_derived_alike(tmp_path):
    with Deployment.create(tmp_path / "run", two_limits(rules=(RiskLedger(),))) as deployment:
        for _ in range(8):
            trial = deployment.ask()
            reward, cost, fall = trial.target
            told = measurement(reward, 0.6 * cost)
            costs = {**told.costs, "fall": np.full(20, 0.5 * fall)}
            deployment.tell(trial.id, Measurement(rewards=told.rewards, costs=costs, failed=told.failed))
    audited = audit(tmp_path / "run")
    assert audited.ok, audited.findings[:3]
    assert audited.charged > 0


def test_contexts_are_derived_alike(tmp_path):
    with Deployment.create(tmp_path / "run", with_context()) as deployment:
        for number in range(8):
            payload = float(number > 3)
            try:
                trial = deployment.ask(context={"payload": payload})
            except SafeholdError:
                continue
            deployment.tell(trial.id, measurement(trial.target[0], 0.4 * trial.target[1] + 2 * payload))
    audited = audit(tmp_path / "run")
    assert audited.ok, audited.findings[:3]
    assert len(audited.asks) > 4


def test_uncertain_coefficients_and_noise_that_differs_are_derived_alike(tmp_path):
    declared = declaration(rules=(RiskLedger(),), lengthscales=None)
    targets = np.array([[40.0, 0.0], [80.0, 20.0], [120.0, 10.0], [20.0, 40.0]])
    truths = 0.6 * targets[:, 1] + 0.05 * targets[:, 0] + 0.5
    table = OfflineTable(
        targets=targets,
        means={"reward": 0.9 * targets[:, 0] + 5, "cost": truths},
        standard_errors={"reward": np.full(4, 1.0), "cost": np.full(4, 0.5)},
    )
    prior = declared.prior.from_offline(declared.limits, table)
    costs = prior.costs["cost"]
    noise = 4.0 + 0.05 * declared.space.points[:, 1]
    prior = replace(prior, costs={"cost": replace(costs, episode_sd=noise)})
    audited = audit(run_of(tmp_path / "run", replace(declared, prior=prior)))
    assert audited.ok, audited.findings[:3]
    assert audited.charged > 0


def test_seed_targets_to_be_verified_are_derived_alike(tmp_path):
    declared = declaration(
        rules=(RiskLedger(),), seeds=((40.0, 0.0), (60.0, 0.0)), shares=Shares(seed=0.02, certificate=0.07, noise=0.01)
    )
    with Deployment.create(tmp_path / "run", replace(declared, seed_rule="verified")) as deployment:
        for number in range(5):
            deployment.verify_seed((40.0, 0.0), {"cost": np.full(40, 2.0)}, source=f"{number}")
        drive(deployment)
    assert audit(tmp_path / "run").ok
    forge(tmp_path / "run", lambda kind, body: kind != "seed_tested" or body["source"] == "0")
    assert "ask" in whats(tmp_path / "run")


def test_a_roll_out_in_stages_that_waits_for_approval_is_derived_alike(tmp_path):
    declared = declaration(rules=(RiskLedger(),), horizon=16, settings=Settings(approval=True))
    stages = by_parts(declared.share.certificate, (0.25, 0.75), 1, episodes_per_ask=10)
    with Deployment.create(tmp_path / "run", replace(declared, stages=stages)) as deployment:
        for number in range(14):
            if number in (3, 8):
                deployment.advance("me", "it went well")
            try:
                trial = deployment.ask()
            except SafeholdError:
                continue
            if number == 5:
                deployment.reject(trial.id, "me", "not today")
                continue
            deployment.approve(trial.id, "me")
            deployment.deployed(trial.id)
            deployment.tell(trial.id, answer(trial.target))
    audited = audit(tmp_path / "run")
    assert (audited.findings, audited.not_checked) == ((), ())
    assert audited.charged > 0
    first_new = next(ask for ask in audited.asks if ask.basis == "rules").seq
    forge(tmp_path / "run", lambda kind, _: kind != "advanced")
    assert any(
        finding.what == "target" and finding.seq == first_new - 1 for finding in audit(tmp_path / "run").findings
    )
    forge(tmp_path / "run", lambda kind, _: kind != "approved")
    assert "run" in whats(tmp_path / "run")


def test_outcomes_of_a_trial_that_nobody_approved_are_named(tmp_path):
    with Deployment.create(tmp_path / "run", declaration(settings=Settings(approval=True))) as deployment:
        trial = deployment.ask()
        deployment.tell(trial.id, answer(trial.target))
    assert whats(tmp_path / "run") == {"told"}


def scattered(rng, mean, failing, spread):
    """Episodes with some luck, of which some fail."""
    n = int(rng.integers(5, 25))
    failed = np.zeros(n, dtype=np.bool_)
    costs = np.clip(mean + spread * rng.standard_normal(n), 0.0, 200.0)
    if failing:
        failed[: rng.integers(1, n)] = True
        costs[failed] = np.where(rng.random(failed.sum()) < 0.5, np.nan, costs[failed])
    return Measurement(rewards=rng.normal(50.0, 5.0, n), costs={"cost": costs}, failed=failed)


def live(path, declared, rng, steps):
    """Whatever may happen to a deployment, in any order."""
    with Deployment.create(path, declared) as deployment:
        for number in range(steps):
            state = deployment.state
            unknown = [t for t, s in state.states.items() if s is TrialState.UNKNOWN]
            trial = str(rng.choice([*state.open_trials, *unknown])) if state.open_trials or unknown else None
            index = int(rng.integers(len(state.declaration.space)))
            target = state.declaration.space.target(index)
            wild = rng.random() < 0.15
            try:
                match int(rng.integers(12)):
                    case 0 | 1 | 2 | 3:
                        deployment.ask()
                    case 4 | 5 | 6 | 7 if trial is not None:
                        cost = 0.6 * state.asked[trial].target[1] + rng.normal(2.0, 1.0) + 30 * wild
                        deployment.tell(trial, scattered(rng, cost, rng.random() < 0.1, 1.0 + 5 * wild))
                    case 8 if trial is not None:
                        deployment.deployed(trial)
                    case 9 if trial is not None and rng.random() < 0.5:
                        deployment.abandon(trial, "x", deployed=bool(rng.random() < 0.5))
                    case 10 if rng.random() < 0.3:
                        limit = state.limits[0]
                        deployment.lower_limit("cost", 0.9 * limit.value, "x", seeds_hold=bool(rng.random() < 0.7))
                    case 10 if state.alarm is not None:
                        deployment.resume("me", "x")
                    case 11 if rng.random() < 0.4:
                        deployment.observe(target, scattered(rng, 0.6 * target[1] + 3.0, False, 2.0), source="x")
                    case 11 if number == steps - 1:
                        deployment.stop("x")
            except SafeholdError:
                continue
        return len(deployment.state.asked)


@pytest.fixture
def quick():
    """The shapes in the annotations are checked elsewhere."""
    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", before)


@pytest.mark.parametrize("seeds", [range(2), pytest.param(range(2, 400), marks=pytest.mark.slow)])
def test_whatever_happens_to_an_honest_run_is_derived_alike(tmp_path, quick, seeds):
    for seed in seeds:
        for kind in ("mean", "cvar"):
            check_a_life(tmp_path / f"{seed} {kind}", np.random.default_rng(seed), list(COMPOSITIONS)[seed % 7], kind)


def check_a_life(path, rng, rules, kind):
    limit = Limit("cost", 20.0, kind, 0.3 if kind == "cvar" else None)
    composed = tuple(rule for rule in COMPOSITIONS[rules] if not (kind == "cvar" and rule == LOG_DET)) or (Paper(),)
    declared = declaration(
        limits=(limit,),
        rules=composed,
        horizon=20,
        settings=Settings(pending_cap=int(rng.integers(1, 4)), episodes_per_ask=8),
        episode_sd={"cost": 3.0},
    )
    live(path, declared, rng, 60)
    audited = audit(path)
    assert audited.not_checked == ()
    assert audited.findings == ()


# Damage ---------------------------------------------------------------------------------------------------------


def shell(run, *statements):
    connection = sqlite3.connect(run / "ledger.sqlite")
    connection.executescript(
        "DROP TRIGGER IF EXISTS event_is_never_updated; DROP TRIGGER IF EXISTS event_is_never_deleted;"
    )
    for statement, *parameters in statements:
        connection.execute(statement, *parameters)
    connection.commit()
    connection.close()


def rows_of(run):
    connection = sqlite3.connect(run / "ledger.sqlite")
    rows = connection.execute(f"SELECT {', '.join(COLUMNS)} FROM event ORDER BY seq").fetchall()
    connection.close()
    return rows


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_one_changed_byte_of_any_row_is_found(honest, tmp_path_factory, data):
    rows = rows_of(honest)
    row = data.draw(st.integers(0, len(rows) - 1))
    column = data.draw(st.sampled_from(COLUMNS[1:]))
    text = rows[row][COLUMNS.index(column)]
    if text is None:
        changed = "x"
    else:
        place = data.draw(st.integers(0, len(text) - 1))
        changed = (
            text[:place]
            + data.draw(st.characters(max_codepoint=0x2FF).filter(lambda c: c != text[place]))
            + text[place + 1 :]
        )
    run = shutil.copytree(honest, tmp_path_factory.mktemp("changed") / "run")
    shell(run, (f"UPDATE event SET {column} = ? WHERE seq = ?", (changed, row)))
    with pytest.raises(IntegrityError, match=f"chain breaks at event ({row}|{row + 1})"):
        audit(run)


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM event WHERE seq = 5",
        "UPDATE event SET seq = 999 WHERE seq = 5",
        "UPDATE event SET body = CAST(body AS BLOB) WHERE seq = 5",
        "UPDATE event SET body = 'no json' WHERE seq = 5",
        "INSERT INTO event SELECT 99, kind, trial, NULL, body, prev_hash, 'h', '', '' FROM event WHERE seq = 5",
    ],
)
def test_a_row_deleted_moved_retyped_or_added_is_found(run, sql):
    shell(run, (sql,))
    with pytest.raises(IntegrityError, match="chain breaks at event"):
        audit(run)


def test_a_lost_tail_is_found_by_the_head_beside_it_and_by_one_kept_elsewhere(run):
    head = audit(run).head
    assert audit(run, head).ok
    shell(run, (f"DELETE FROM event WHERE seq > {head[0] - 3}",))
    with pytest.raises(IntegrityError, match=r"its head file.*tail is lost"):
        audit(run)
    seq, hash_ = rows_of(run)[-1][0], rows_of(run)[-1][6]
    (run / "ledger.head").write_text(canonical({"hash": hash_, "seq": seq}))
    audit(run)  # whoever can write both files can roll both back ...
    with pytest.raises(IntegrityError, match=r"kept elsewhere.*tail is lost"):
        audit(run, head)  # ... but not what was written down elsewhere


@pytest.mark.parametrize("content", [None, "", "{}", '{"seq": "x"}', "[1]"])
def test_without_a_head_nothing_is_checked(run, content):
    head = run / "ledger.head"
    head.unlink() if content is None else head.write_text(content)
    with pytest.raises(IntegrityError, match=r"lost tail would go unnoticed"):
        audit(run)


@pytest.mark.parametrize("content", [b"", b"x" * 5000, b"SQLite format 3\x00" + b"\x00" * 5000])
def test_what_is_no_ledger_is_refused(run, content):
    (run / "ledger.sqlite").write_bytes(content)
    with pytest.raises(IntegrityError):
        audit(run)


# A forger who writes the whole chain anew -----------------------------------------------------------------------


def forge(run, change):
    """Changes bodies (None: leaves the event out) and repairs numbers, hashes, links and the head."""
    rows, before, seq = rows_of(run), "0" * 64, 0
    shell(run, ("DELETE FROM event",))
    connection = sqlite3.connect(run / "ledger.sqlite")
    for _, kind, trial, key, body, *_ in rows:
        plain = json.loads(body)
        if kind != "genesis" and change(kind, plain) is False:
            continue
        body = canonical(plain)
        trial = plain.get("trial", trial)
        hash_ = hashlib.sha256(canonical([seq, kind, trial, key, body, before]).encode()).hexdigest()
        connection.execute(
            INSERT,
            (seq, kind, trial, key, body, before, hash_, seal(hash_)),
        )
        before, seq = hash_, seq + 1
    connection.commit()
    connection.close()
    (run / "ledger.head").write_text(canonical({"hash": before, "seq": seq - 1}))


def seal(hash_):
    return hashlib.sha256(canonical([hash_, ""]).encode()).hexdigest()


def add(run, kind, plain):
    """One more event at the end."""
    seq, before, body = len(rows_of(run)), rows_of(run)[-1][6], canonical(plain)
    hash_ = hashlib.sha256(canonical([seq, kind, None, None, body, before]).encode()).hexdigest()
    connection = sqlite3.connect(run / "ledger.sqlite")
    connection.execute(INSERT, (seq, kind, None, None, body, before, hash_, seal(hash_)))
    connection.commit()
    connection.close()
    (run / "ledger.head").write_text(canonical({"hash": hash_, "seq": seq}))


def at(path, value, *, ask):
    """A change of one field of one ask; `value` may be a function of the old one."""

    def change(kind, body):
        if kind == "asked" and body["number"] == ask:
            plain = body
            *way, last = path.split(".")
            for step in way:
                plain = plain[int(step) if step.isdigit() else step]
            plain[last] = value(plain[last]) if callable(value) else value

    return change


def whats(run):
    return {finding.what for finding in audit(run).findings}


def test_a_forger_who_changes_nothing_is_not_accused(run):
    forge(run, lambda *_: None)
    assert audit(run).ok


@pytest.mark.parametrize(
    ("path", "value", "what"),
    [
        ("certificate.charge", 0.0, "certificate.charge"),
        ("certificate.evidence.0.charge", 0.0, "certificate.evidence.risk_ledger.charge"),
        ("certificate.evidence.0.risk", lambda risk: 0.9 * risk, "certificate.evidence.risk_ledger.risk"),
        ("certificate.evidence.0.cap", 0.05, "certificate.evidence.risk_ledger.cap"),
        ("certificate.risks.cost", lambda risk: 0.9 * risk, "certificate.risks.cost"),
        ("certificate.spent_after", lambda spent: 0.9 * spent, "certificate.spent_after"),
        ("certificate.basis", "premise", "basis"),
        ("certificate.delta", 0.2, "certificate.delta"),
        ("certificate.n_told", 99, "certificate.n_told"),
        ("certificate.kind", "paper", "certificate.kind"),
        ("certificate.limits", [{"alpha": None, "kind": "mean", "name": "cost", "value": 30.0}], "certificate.limits"),
        ("costs.cost.mean", lambda mean: mean - 0.01, "costs.cost.mean"),
        ("costs.cost.sd", lambda sd: 0.99 * sd, "costs.cost.sd"),
        ("costs.cost.episode_sd", lambda sd: 0.99 * sd, "costs.cost.episode_sd"),
        ("safe_count", 3, "safe_count"),
        ("number", 77, "trial"),
    ],
)
def test_a_changed_number_of_a_certificate_is_found_in_a_whole_chain(run, path, value, what):
    first = next(ask for ask in audit(run).asks if ask.charge > 1e-4)
    forge(run, at(path, value, ask=int(first.trial[-4:])))
    found = audit(run).findings
    assert what in {finding.what for finding in found}
    assert first.seq == found[0].seq


def test_an_inflated_upper_bound_is_found(tmp_path):
    run = run_of(tmp_path / "run", declaration(rules=(Paper(), LIPSCHITZ)))
    number = next(int(ask.trial[-4:]) for ask in audit(run).asks if ask.basis == "rules")
    forge(run, at("certificate.upper.cost", lambda upper: upper - 0.01, ask=number))
    assert whats(run) == {"certificate.upper.cost"}
    forge(run, at("certificate.evidence.1.upper.cost", lambda upper: upper - 0.01, ask=number))
    assert whats(run) == {"certificate.upper.cost", "certificate.evidence.lipschitz.upper.cost"}


def test_a_target_that_was_never_certified_is_found(run):
    def change(kind, body):
        if kind == "asked" and body["number"] == 6:
            body.update(target=[160.0, 40.0], index=80)

    forge(run, change)
    found = [finding for finding in audit(run).findings if finding.what == "target"]
    assert "not certified (risk" in found[0].derived
    assert audit(run).asks[6].basis == "none"


def test_free_rides_on_the_budget_are_found(run):
    """All charges are struck out, and what was spent with them: every number fits its neighbours, none the risks."""

    def change(kind, body):
        if kind == "asked":
            body["certificate"]["charge"] = body["certificate"]["evidence"][0]["charge"] = 0.0
            body["certificate"]["spent_after"] = body["certificate"]["shares"]["noise"]

    forge(run, change)
    audited = audit(run)
    assert {"certificate.charge", "certificate.spent_after"} <= {finding.what for finding in audited.findings}
    assert audited.charged > 0.01


def test_kinder_outcomes_do_not_fit_the_asks_after_them(run):
    def change(kind, body):
        if kind == "told" and body["trial"] == "trial-0001":
            body["costs"]["cost"] = [0.5 * cost for cost in body["costs"]["cost"]]

    forge(run, change)
    assert {"costs.cost.mean", "certificate.risks.cost"} <= whats(run)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("delta",), 0.5),
        (("shares", "certificate"), 0.2),
        (("limits", 0, "value"), 30.0),
        (("costs", "cost", "episode_sd"), [0.1]),
        (("costs", "cost", "kernels", 0, "sd"), 1.0),
        (("seed_targets",), [[160.0, 40.0]]),
        (("horizon",), 3),
    ],
)
def test_a_kinder_declaration_does_not_fit_what_was_certified(run, where, value):
    def change(kind, body):
        if kind == "started":
            plain = body["declaration"]
            for step in where[:-1]:
                plain = plain[step]
            plain[where[-1]] = value

    forge(run, change)
    assert audit(run).findings


def test_an_unsafe_outcome_that_is_left_out_is_missed_by_what_came_of_it(tmp_path):
    declared = declaration(rules=(RiskLedger(),), lengthscales=None, settings=Settings(pending_cap=2))
    with Deployment.create(tmp_path / "run", declared) as deployment:
        first = deployment.ask()
        deployment.tell(first.id, measurement(40.0, 1.0))
        second = deployment.ask()
        deployment.tell(second.id, measurement(40.0, 30.0))
        deployment.tell(deployment.ask().id, measurement(40.0, 3.0))
    assert audit(tmp_path / "run").ok
    forge(tmp_path / "run", lambda kind, body: not (kind == "told" and body["trial"] == second.id))
    assert "n_told" in whats(tmp_path / "run")


def test_an_alarm_that_is_left_out_is_missed(tmp_path):
    with Deployment.create(tmp_path / "run", declaration(settings=Settings(pending_cap=2))) as deployment:
        first, second = deployment.ask(), deployment.ask()
        deployment.tell(first.id, measurement(40.0, 1.0, spread=0.5))
        deployment.tell(second.id, measurement(40.0, 150.0, spread=0.5))
        deployment.stop("quietly")
    assert audit(tmp_path / "run").ok
    forge(tmp_path / "run", lambda kind, _: kind != "alarmed")
    assert whats(tmp_path / "run") == {"alarm"}


def test_a_trial_that_ran_after_its_target_was_revoked_is_found(tmp_path):
    declared = declaration(settings=Settings(pending_cap=2), seeds=((40.0, 0.0),))
    with Deployment.create(tmp_path / "run", declared) as deployment:
        first, second = deployment.ask("a"), deployment.ask("b")
        deployment.deployed(second.id)
        deployment.tell(first.id, measurement(40.0, 25.0, spread=1.0))
    assert audit(tmp_path / "run").ok
    later = []

    def postpone(kind, body):
        if kind == "deployed":
            later.append(body)
            return False
        return None

    forge(tmp_path / "run", postpone)
    add(tmp_path / "run", "deployed", later[0])
    assert whats(tmp_path / "run") == {"run"}


@pytest.mark.parametrize(
    ("where", "named"),
    [
        (
            lambda kind, body: kind == "started" and body["declaration"].update(closure="monotone"),
            "declaration: closure",
        ),
        (lambda kind, body: kind == "started" and body["declaration"]["rules"][0].update(bold=2), "risk_ledger: bold"),
        (lambda kind, body: kind == "asked" and body.update(waiver=True), r"\(asked\): waiver"),
        (lambda kind, body: kind == "asked" and body["certificate"].update(extra=1), "certificate: extra"),
    ],
)
def test_what_it_does_not_understand_is_named_and_never_passes(run, where, named):
    forge(run, lambda kind, body: (where(kind, body), None)[1])
    audited = audit(run)
    assert not audited.ok
    assert any(named.replace("\\", "") in text for text in audited.not_checked)


def test_an_unknown_kind_of_event_is_named(run):
    shell(run, ("DELETE FROM event WHERE seq > 3",))
    add(run, "pardoned", {})
    assert audit(run).not_checked == ("event 4: of unknown kind 'pardoned'",)


@pytest.mark.parametrize("change", [{"index": 99999}, {"target": "x"}, {"certificate": {}}, {"costs": None}])
def test_a_body_that_makes_no_sense_is_refused_by_event(run, change):
    forge(run, lambda kind, body: (kind == "asked" and body["number"] == 3 and body.update(change), None)[1])
    with pytest.raises(IntegrityError, match="cannot be made sense of"):
        audit(run)


def test_a_large_menu_is_looked_at_where_it_matters(run, monkeypatch):
    monkeypatch.setattr("safehold.deploy.audit.WORK", 0.0)
    audited = audit(run)
    assert (audited.ok, audited.complete) == (True, False)
    forge(run, at("certificate.risks.cost", lambda risk: 0.9 * risk, ask=6))
    assert whats(run) == {"certificate.risks.cost"}


def test_it_shares_no_code_with_what_it_checks():
    imported = [
        line
        for line in Path(module.__file__).read_text().splitlines(keepends=True)
        if line.startswith(("from safehold", "import safehold"))
    ]
    assert imported == ["from safehold.core.errors import IntegrityError\n"]


def test_answers_are_the_toy_dials():
    assert answer((40.0, 0.0)).costs["cost"].mean() == pytest.approx(2.5)
