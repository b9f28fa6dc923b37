import io
import json
import sqlite3
import sys

import pytest

from safehold.deploy.optimizer import Deployment

FINE = json.dumps({"rewards": [1000.0, 1010.0], "costs": {"cost": [3, 4]}, "seeds": [1, 2]})


def test_a_deployment_by_hand_from_ask_to_recommendation(safehold, open_run, tmp_path):
    asked = safehold("deploy", "ask", open_run, "--key", "first", "--json").json
    again = safehold("deploy", "ask", open_run, "--key", "first", "--json").json
    assert asked == again
    assert asked["certificate"]["limits"][0]["value"] == 25
    told = safehold("deploy", "tell", open_run, asked["id"], "--rewards", *range(990, 1010), "--costs", *[3, 5] * 10)
    assert told.code == 0
    assert "20 episodes" in told.out
    outcomes = tmp_path / "outcomes.json"
    outcomes.write_text(FINE)
    second = safehold("deploy", "ask", open_run, "--json").json
    assert safehold("deploy", "tell", open_run, second["id"], "--outcomes", outcomes).code == 0
    best = safehold("deploy", "recommend", open_run, "--json").json
    assert best["costs"]["cost"]["upper"] <= 25
    assert safehold("deploy", "verify", open_run).code == 0
    with Deployment.open(open_run, read_only=True) as deployment:
        assert deployment.state.told[second["id"]].seeds == (1, 2)


def test_status_says_where_it_stands(safehold, finished):
    ran = safehold("deploy", "status", finished)
    assert ran.code == 0
    for words in (
        "3 of at most 3, 3 told",
        "normal, epoch 0",
        "0.05 = ",
        "What happened in",
        "innovations",
        "Certified frontier",
    ):
        assert words in ran.out
    now = safehold("deploy", "status", finished, "--json").json
    assert now["state"] == "exhausted"
    assert now["outcomes"]["costs"]["cost"]["low"] <= now["outcomes"]["costs"]["cost"]["high"]
    assert {reading["monitor"] for reading in now["monitors"]} == {"innovations", "costs"}


def test_holding_ends_in_exit_code_six(safehold, run):
    ran = safehold("deploy", "ask", run)
    assert ran.code == 6
    assert "Exhausted: all 3 declared asks are spent" in ran.err
    assert ran.out == ""


def test_nothing_to_recommend_ends_in_exit_code_six(safehold, open_run):
    ran = safehold("deploy", "recommend", open_run)
    assert ran.code == 6
    assert "NoCertifiedTarget" in ran.err


@pytest.mark.parametrize("verb", ["status", "ask", "recommend", "verify", "export", "explain"])
def test_a_directory_without_a_run_is_refused(safehold, tmp_path, verb):
    ran = safehold("deploy", verb, tmp_path / "nothing")
    assert ran.code == 2
    assert "no ledger here" in ran.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (("--rewards", 1, 2), 2, "both needed"),
        (("--rewards", 1, 2, "--costs", 1), 3, "one an episode"),
        (("--rewards", 1, "--costs", "nan"), 2, "finite number"),
        (("--rewards", 1, "--costs", -1), 3, "negative"),
        (("--rewards", 1, "--costs", 5000), 3, "above the declared cap"),
        (("--rewards", 1, "--costs", 1, "--outcomes", "x"), 2, "either"),
        (("--outcomes", "nothing.json"), 3, "cannot be read"),
    ],
)
def test_an_impossible_outcome_is_refused_and_not_recorded(safehold, open_run, words, code, why):
    trial = safehold("deploy", "ask", open_run, "--json").json["id"]
    ran = safehold("deploy", "tell", open_run, trial, *words)
    assert ran.code == code
    assert why in ran.err
    assert safehold("deploy", "status", open_run, "--json").json["told"] == 0


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        "{",
        "nothing",
        '{"rewards": [1], "costs": {"cost": [NaN]}}',
        '{"rewards": [1], "costs": {"cost": [null]}}',
        '{"rewards": [1], "costs": {"cost": ["3"]}}',
        '{"rewards": [1], "costs": {"cost": [true]}}',
        '{"rewards": [1], "costs": {"cost": [1e999]}}',
        '{"rewards": [1], "costs": [3]}',
        '{"rewards": 1, "costs": {"cost": 3}}',
        '{"rewards": [1], "costs": {"heat": [3]}}',
        '{"rewards": [1], "costs": {"cost": [3]}, "sedes": [1]}',
        '{"rewards": [1], "costs": {"cost": [3]}, "failed": [0]}',
        '{"rewards": [1], "costs": {"cost": [3]}, "seeds": [1.5]}',
        '{"rewards": [], "costs": {"cost": []}}',
        "[" * 100_000,
    ],
)
def test_a_broken_record_of_outcomes_is_refused(safehold, open_run, tmp_path, text):
    trial = safehold("deploy", "ask", open_run, "--json").json["id"]
    record = tmp_path / "record.json"
    record.write_text(text)
    ran = safehold("deploy", "tell", open_run, trial, "--outcomes", record)
    assert ran.code == 3
    assert len(ran.err.splitlines()) <= 10
    assert safehold("deploy", "status", open_run, "--json").json["told"] == 0


def test_outcomes_come_from_standard_input_too(safehold, open_run, monkeypatch):
    trial = safehold("deploy", "ask", open_run, "--json").json["id"]
    monkeypatch.setattr(sys, "stdin", io.StringIO(FINE))
    assert safehold("deploy", "tell", open_run, trial, "--outcomes", "-").code == 0


def test_a_failed_episode_may_lack_its_numbers_and_revokes_its_target(safehold, open_run, tmp_path):
    trial = safehold("deploy", "ask", open_run, "--json").json["id"]
    record = tmp_path / "record.json"
    record.write_text('{"rewards": [1, null], "costs": {"cost": [3, null]}, "failed": [false, true]}')
    assert safehold("deploy", "tell", open_run, trial, "--outcomes", record).code == 0
    assert len(safehold("deploy", "status", open_run, "--json").json["revoked"]) == 1


def test_telling_otherwise_is_a_conflict(safehold, open_run):
    trial = safehold("deploy", "ask", open_run, "--json").json["id"]
    words = ("deploy", "tell", open_run, trial, "--rewards", 1, "--costs")
    assert safehold(*words, 1).code == 0
    assert safehold(*words, 1).code == 0
    ran = safehold(*words, 2)
    assert ran.code == 4
    assert "already told" in ran.err


def test_an_unknown_trial_is_refused(safehold, run):
    assert safehold("deploy", "tell", run, "trial-9999", "--rewards", 1, "--costs", 1).code == 3
    assert safehold("deploy", "explain", run, "--trial", "trial-9999").code == 3


def test_abandoning_revokes_unless_it_never_ran(safehold, open_run):
    first = safehold("deploy", "ask", open_run, "--json").json["id"]
    ran = safehold("deploy", "abandon", open_run, first, "--reason", "operator", "--never-deployed")
    assert "aborted" in ran.out
    second = safehold("deploy", "ask", open_run, "--json").json["id"]
    assert "revoked" in safehold("deploy", "abandon", open_run, second, "--reason", "power cut").out
    assert len(safehold("deploy", "status", open_run, "--json").json["revoked"]) == 1


def test_stopping_ends_the_run_with_its_reason(safehold, open_run):
    trial = safehold("deploy", "ask", open_run, "--json").json["id"]
    assert "--reason" in safehold("deploy", "stop", open_run).err
    assert safehold("deploy", "stop", open_run, "--reason", "").code == 2
    ran = safehold("deploy", "stop", open_run, "--reason", "pump leaks")
    assert ran.code == 0
    assert trial in ran.out
    refused = safehold("deploy", "ask", open_run)
    assert refused.code == 6
    assert "pump leaks" in refused.err
    assert safehold("deploy", "status", open_run, "--json").json["state"] == "stopped"
    assert safehold("deploy", "stop", open_run.parent / "nothing", "--reason", "x").code == 2


def test_verify_finds_an_edited_ledger(safehold, run):
    with sqlite3.connect(run / "ledger.sqlite") as database:
        database.execute("DROP TRIGGER event_is_never_updated")
        database.execute("UPDATE event SET body = replace(body, '\"value\":25.0', '\"value\":99.0')")
    ran = safehold("deploy", "verify", run)
    assert ran.code == 4
    assert "hash chain breaks" in ran.err


def test_export_is_json_lines_on_standard_output_or_in_a_new_file(safehold, finished, tmp_path):
    ran = safehold("deploy", "export", finished)
    lines = [json.loads(line) for line in ran.out.splitlines()]
    assert [line["kind"] for line in lines[:3]] == ["genesis", "started", "seeded"]
    target = tmp_path / "ledger.jsonl"
    assert safehold("deploy", "export", finished, "--out", target).code == 0
    assert target.read_text() == ran.out
    assert safehold("deploy", "export", finished, "--out", target).code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["ledger.jsonl"]


def test_explain_says_why_and_draws_the_certificate(safehold, finished, tmp_path):
    ran = safehold("deploy", "explain", finished, "--trial", "trial-0000", "--picture", tmp_path / "why.png")
    assert ran.code == 0
    assert "the first ask is always a seed target" in ran.out
    assert "premise" in ran.out
    assert "A1-prior" in ran.out
    assert (tmp_path / "why.png").stat().st_size > 10_000
    assert safehold("deploy", "explain", finished, "--json").json["state"] == "done"


def test_there_is_nothing_to_explain_before_the_first_ask(safehold, open_run):
    assert "nothing was asked yet" in safehold("deploy", "explain", open_run).err
