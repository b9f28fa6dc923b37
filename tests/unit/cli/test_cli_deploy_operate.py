"""The verbs by which people decide in a deployment."""

import io
import json
import sys
from dataclasses import replace

import numpy as np
import pytest

from safehold.core.seeding import Streams
from safehold.data import hdf5
from safehold.data.dataset import OfflineDataset
from safehold.deploy.certificates.risk_ledger import RiskLedger
from safehold.deploy.declaration import Settings, Shares
from safehold.deploy.optimizer import Deployment
from safehold.deploy.stages import by_parts
from safehold.envs.toy import dial
from safehold.learn.offline.rvs import RvSConfig, RvSLearner
from safehold.learn.offline.scales import Scales
from safehold.rollout.episodes import Job, rollouts

BY = ("--by", "R. Okafor")
WHY = (*BY, "--reason", "as planned")
SMALL = ("--reward-points", 5, "--cost-points", 7, "--episodes-per-ask", 4, "--iterations", 2)
BOX = ("--support-minimum", 3, "--support-reward", 0.1, "--seed-low", 0.7, "--seed-high", 0.8)


@pytest.fixture
def declare(small_runs, tmp_path):
    """Declares the small deployment with changes."""

    def run(**changes):
        declaration = small_runs.declaration(rules=(RiskLedger(),), dial_error=20.0)
        Deployment.create(tmp_path / "run", replace(declaration, **changes)).close()
        return tmp_path / "run"

    return run


def to_verify():
    return {"seed_rule": "verified", "shares": Shares(seed=0.01, certificate=0.035, noise=0.005)}


def ask(safehold, run):
    return safehold("deploy", "ask", run, "--json").json["id"]


def tell(safehold, run, cost=3, trial=None):
    trial = trial or ask(safehold, run)
    return safehold("deploy", "tell", run, trial, "--rewards", *range(990, 1010), "--costs", *[cost] * 20, "--json")


def test_a_seed_target_is_verified_by_a_file_of_its_costs_before_anything_is_asked(safehold, declare, tmp_path):
    run = declare(**to_verify())
    held = safehold("deploy", "ask", run)
    assert held.code == 6
    assert "NoSeed: none of 2 declared seed targets is verified yet" in held.err
    costs = tmp_path / "costs.json"
    costs.write_text(json.dumps({"costs": {"cost": [4, None, 5] + [4] * 7}, "failed": [False, True] + [False] * 8}))
    first = safehold("deploy", "seed", run, "--costs", costs, "--source", "bench")
    assert first.code == 6
    assert "(900, 4): not verified after 10 episodes" in first.out
    costs.write_text(json.dumps({"costs": {"cost": [4] * 3000}}))
    assert safehold("deploy", "seed", run, "--costs", costs, "--source", "bench").code == 4
    done = safehold("deploy", "seed", run, "--target", 900, 4, "--costs", costs, "--source", "tuesday", "--json")
    assert done.code == 0
    assert done.json["verified"]
    assert safehold("deploy", "ask", run, "--json").json["target"] == [900.0, 4.0]
    assert "verified, 1 so far" in safehold("deploy", "status", run).out


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        ((), 2, "either --costs FILE"),
        (("--costs", "x", "--policy", "y"), 2, "either --costs FILE"),
        (("--costs", "x"), 2, "--source names the episodes"),
        (("--costs", "nothing.json", "--source", "a"), 3, "cannot be read"),
        (("--target", 901, 4, "--costs", "x", "--source", "a"), 2, "not a point of the grid"),
        (("--target", 900, "--costs", "x", "--source", "a"), 2, "takes 2 numbers"),
    ],
)
def test_seed_episodes_that_make_no_sense_are_refused(safehold, declare, words, code, why):
    run = declare(**to_verify())
    ran = safehold("deploy", "seed", run, *words)
    assert ran.code == code
    assert why in ran.err


@pytest.mark.parametrize("text", ["{}", '{"costs": {"cost": [1], "heat": [1, 2]}}', '{"costs": {"cost": ["1"]}}', "[]"])
def test_a_broken_record_of_costs_is_refused(safehold, declare, tmp_path, text):
    run, record = declare(**to_verify()), tmp_path / "costs.json"
    record.write_text(text)
    assert safehold("deploy", "seed", run, "--costs", record, "--source", "a").code == 3


def test_a_trial_waits_until_somebody_approves_or_rejects_it(safehold, declare):
    run = declare(settings=Settings(approval=True))
    first = ask(safehold, run)
    assert first in safehold("deploy", "status", run).out
    assert safehold("deploy", "status", run, "--json").json["awaiting"] == [first]
    assert safehold("deploy", "approve", run, first).code == 2
    assert "approved by R. Okafor" in safehold("deploy", "approve", run, first, *BY).out
    assert tell(safehold, run, trial=first).code == 0
    second = ask(safehold, run)
    assert safehold("deploy", "reject", run, second, *BY).code == 2
    rejected = safehold("deploy", "reject", run, second, *WHY, "--json").json
    assert rejected["state"] == "aborted"
    third = safehold("deploy", "ask", run, "--json")
    assert third.code == 6 or third.json["target"] != rejected["target"]


def test_a_roll_out_goes_on_by_a_decision(safehold, declare):
    run = declare(stages=by_parts(0.045, (0.25, 0.75), 1, 10))
    tell(safehold, run)
    assert "shadow" in safehold("deploy", "status", run).out
    assert safehold("deploy", "advance", run, *BY).code == 2
    assert "in its stage 'canary' now" in safehold("deploy", "advance", run, *WHY).out
    assert safehold("deploy", "advance", run, *WHY).code == 0
    assert safehold("deploy", "advance", run, *WHY).code == 2
    shares = safehold("deploy", "ask", run, "--json").json["certificate"]["shares"]
    assert sum(shares.values()) == pytest.approx(0.05)


def test_an_alarm_stands_until_somebody_resumes(safehold, declare):
    run = declare()
    assert safehold("deploy", "resume", run, *WHY).code == 2
    assert tell(safehold, run, cost=900).json["status"]["level"] == "stop"
    held = safehold("deploy", "ask", run)
    assert held.code == 6
    assert "does not keep the limit" in held.err
    ran = safehold("deploy", "resume", run, *WHY)
    assert ran.code == 0
    assert "Epoch 1 began" in ran.out
    assert safehold("deploy", "ask", run).code == 0


def test_outside_episodes_and_a_lower_limit_are_told(safehold, declare, tmp_path):
    run = declare()
    words = ("deploy", "observe", run, "--target", 1100, 8, "--source", "simulator")
    assert "20 episodes at (1100, 8) observed" in safehold(*words, "--rewards", *[9] * 20, "--costs", *[3] * 20).out
    record = tmp_path / "o.json"
    record.write_text(json.dumps({"rewards": [1], "costs": {"cost": [3]}}))
    assert safehold(*words, "--outcomes", record, "--json").json["told"] == 0
    assert safehold(*words, "--rewards", 1).code == 2
    lowered = safehold("deploy", "lower-limit", run, "cost", 20, "--reason", "new rules", "--seeds-hold")
    assert lowered.code == 0
    assert "is 20 from now on" in lowered.out
    assert safehold("deploy", "lower-limit", run, "cost", 30, "--reason", "x").code == 2
    assert safehold("deploy", "lower-limit", run, "heat", 1, "--reason", "x").code == 2
    assert safehold("deploy", "verify", run).code == 0


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    family = dial.DialFamily()
    targets = [(reward, cost) for reward in np.linspace(0, 100, 21) for cost in np.linspace(0, 40, 21)]
    seeds = Streams(0).episode_seeds("log", 0, len(targets))
    done = rollouts(
        "toy/Dial", [Job(family.at(z), (seed,)) for z, seed in zip(targets, seeds, strict=True)], rng_seed=0
    )
    path = tmp_path_factory.mktemp("log") / "log.hdf5"
    hdf5.write(path, OfflineDataset.of([episode for of_job in done for episode in of_job], dial.TASK.spec))
    return path


@pytest.fixture(scope="module")
def policy(log, tmp_path_factory):
    """A dial that was never trained: it costs what it costs."""
    config = RvSConfig(hidden=(4,), dropout=0.0, batch_size=8, steps=1)
    learner = RvSLearner(dial.TASK.spec, Scales.fit(hdf5.read(log), config.to_go_features), config, 0)
    learner.policy().save(tmp_path_factory.mktemp("policy") / "policy", {})
    return next(tmp_path_factory.getbasetemp().glob("policy*/policy"))


@pytest.fixture
def words(log, policy, tmp_path):
    return ("--policy", policy, "--data", log, "--out", tmp_path / "run", *SMALL, *BOX)


def test_init_declares_and_runs_nothing(safehold, words, tmp_path):
    ran = safehold("deploy", "init", *words, "--seed-by", "R. Okafor", "--canary-targets", 1, "--approve")
    assert ran.code == 0
    assert "(attested by R. Okafor)" in ran.out
    status = safehold("deploy", "status", tmp_path / "run", "--json").json
    assert (status["asks"], status["stage"], status["seed_rule"]) == (0, "shadow", "attested")
    assert sum(status["shares"].values()) == pytest.approx(status["delta"])
    assert safehold("deploy", "init", *words).code == 2


def test_init_declares_a_correlation_with_the_reward(safehold, words, tmp_path):
    scales = ("--reward-dial-error", 0.3, "--reward-episode-sd", 0.02)
    assert safehold("deploy", "init", *words, "--correlation", -0.8, 0, *scales).code == 0
    with Deployment.open(tmp_path / "run", read_only=True) as deployment:
        assert deployment.state.declaration.prior.costs["cost"].correlation == (-0.8,) * 14 + (0.0,) * 14
    assert safehold("deploy", "init", *words[:5], tmp_path / "other", "--correlation", 1).code == 2


def test_seed_runs_the_declared_policy_until_its_episodes_verify_it_or_are_spent(safehold, words, policy, tmp_path):
    assert safehold("deploy", "init", *words, "--verify-seeds", 1).code == 0
    ran = safehold("deploy", "seed", tmp_path / "run", "--policy", policy, "--episodes", 20, "--json")
    assert ran.code in (0, 6)
    assert ran.json["standing"]["episodes"] >= 10
    assert (ran.code == 0) == ran.json["verified"]


def test_run_with_approval_needs_a_terminal_and_a_name(safehold, words, tmp_path, monkeypatch):
    assert "give the name with --by" in safehold("deploy", "run", *words, "--approve").err
    refused = safehold("deploy", "run", *words, "--approve", *BY)
    assert refused.code == 2
    assert "asks on the terminal, and there is none" in refused.err
    assert not (tmp_path / "run").exists()

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdin", Terminal("what\nyes\nno\ntoo fast\nno\nstill\nno\n\n" + "no\nno\n" * 50))
    ran = safehold("deploy", "run", *words, "--approve", *BY)
    assert ran.code in (0, 6)
    assert ran.out.count("May it run, R. Okafor?") >= 2
    with Deployment.open(tmp_path / "run", read_only=True) as deployment:
        kinds = [type(event).__name__ for event in deployment.events()]
    assert "Approved" in kinds
    assert "Told" in kinds


def test_a_guarded_run_says_its_margin_in_the_ledger(safehold, words, tmp_path):
    assert safehold("deploy", "run", *words, "--guard", 25).code == 2
    assert safehold("deploy", "run", *words, "--recovery", tmp_path).code == 2
    ran = safehold("deploy", "run", *words, "--guard", 5)
    assert ran.code in (0, 6)
    with Deployment.open(tmp_path / "run", read_only=True) as deployment:
        assert deployment.events()[0].provenance["guard"] == {"cost": 5.0}
    assert safehold("deploy", "run", *words, "--resume").code == 2
