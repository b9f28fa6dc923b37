import json

from safehold.cli import deploy_study
from safehold.core.intervals import proportion_interval
from safehold.deploy.simulate import Study


def test_a_declaration_is_simulated_before_it_runs(safehold, open_run):
    ran = safehold("deploy", "simulate", open_run, "--runs", 3, "--json")
    assert ran.code == 0
    assert ran.json["runs"] == 3
    assert ran.json["delta"] == 0.05
    assert ran.json["keeps_delta"] is True
    assert ran.json["interval"]["low"] == 0.0
    assert "simulated deployments 3/3" in ran.err
    again = safehold("deploy", "simulate", open_run, "--runs", 3, "--json", "--quiet")
    assert (again.json, again.err) == (ran.json, "")
    assert safehold("deploy", "status", open_run, "--json").json["asks"] == 0


def test_simulation_speaks_to_people(safehold, run):
    ran = safehold("deploy", "simulate", run, "--runs", 2, "--quiet")
    assert "with an unsafe target" in ran.out
    assert "0.000 [0.000, 0.842] of them (95 %), delta 0.05" in ran.out
    assert "if it is not" in ran.out


def test_a_declaration_can_be_made_from_a_log(safehold, small_runs, tmp_path):
    small_runs.log(tmp_path / "log.hdf5")
    words = ["--limit", 25, "--reward-points", 9, "--cost-points", 7, "--iterations", 2, "--delta", 0.2]
    words += ["--support-reward", 0.2, "--support-minimum", 1, "--seed-low", 0.5]
    ran = safehold("deploy", "simulate", "--data", tmp_path / "log.hdf5", "--runs", 2, "--json", "--quiet", *words)
    assert ran.code == 0
    assert (ran.json["delta"], ran.json["runs"]) == (0.2, 2)


def test_one_of_run_and_log_is_needed(safehold, run, tmp_path):
    for words in ((), (run, "--data", tmp_path / "log.hdf5")):
        ran = safehold("deploy", "simulate", *words)
        assert ran.code == 2
        assert "give the directory of a deployment, or --data" in ran.err


def test_a_broken_promise_ends_in_a_safety_hold(safehold, run, monkeypatch):
    broken = Study(
        runs=100,
        violating=30,
        interval=proportion_interval(30, 100),
        delta=0.05,
        unsafe_asks=0.1,
        mean_charge=0.04,
        mean_charged_unsafe=0.3,
        gap_closed=None,
        mean_regret=0.0,
        held={"Exhausted": 100},
    )
    assert broken.broken
    monkeypatch.setattr(deploy_study, "study", lambda *_, **__: broken)
    ran = safehold("deploy", "simulate", run)
    assert ran.code == 6
    assert "above delta = 0.05, with 99 % confidence: hold" in ran.out


def test_stress_has_a_row_for_every_fault(safehold, run):
    ran = safehold("deploy", "stress", run, "--runs", 1, "--json", "--quiet")
    assert ran.code == 0
    names = [row["fault"]["name"] for row in ran.json["rows"]]
    assert names[0] == "nothing is wrong"
    assert {"length-scales 0.33 x", "dial error 3 x", "noise 4 x", "a seed target is unsafe"} < set(names)
    assert json.dumps(ran.json)
    table = safehold("deploy", "stress", run, "--runs", 1, "--quiet")
    assert "rare catastrophes" in table.out
