"""`safehold deploy` after the fact: verify twice over, replay up to any event, recover what can be saved."""

import json
import re
import sqlite3

import pytest

from safehold.core.certificate import TrialState
from safehold.core.errors import Exhausted
from safehold.deploy.optimizer import Deployment


def shell(run, *statements):
    connection = sqlite3.connect(run / "ledger.sqlite")
    connection.executescript("DROP TRIGGER event_is_never_updated; DROP TRIGGER event_is_never_deleted;")
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def test_verify_shows_every_ask_as_it_derived_it_and_a_head_to_keep(safehold, finished):
    ran = safehold("deploy", "verify", finished)
    assert ran.code == 0
    assert all(f"trial-000{number}" in ran.out for number in range(3))
    assert "looked at: every candidate" in ran.out
    head = re.search(r"Head (\d+:[0-9a-f]{64});", " ".join(ran.out.split()))[1]
    assert safehold("deploy", "verify", finished, "--head", head).code == 0
    plain = safehold("deploy", "verify", finished, "--json").json
    assert plain["ok"] is True
    assert plain["differences"] == plain["audit"]["findings"] == plain["audit"]["not_checked"] == []
    assert [ask["trial"] for ask in plain["audit"]["asks"]] == ["trial-0000", "trial-0001", "trial-0002"]
    assert plain["audit"]["charged"] <= plain["audit"]["share"] <= plain["audit"]["delta"]


def test_verify_misses_events_that_a_head_kept_elsewhere_names(safehold, finished):
    ran = safehold("deploy", "verify", finished, "--head", f"99:{'a' * 64}")
    assert ran.code == 4
    assert "kept elsewhere: its tail is lost" in ran.err
    assert safehold("deploy", "verify", finished, "--head", "latest").code == 2


def test_verify_names_what_does_not_follow_and_what_it_does_not_understand(safehold, finished, monkeypatch):
    monkeypatch.setattr("safehold.deploy.audit.LARGEST_PRICE", 1e-12)
    monkeypatch.setitem(__import__("safehold.deploy.audit", fromlist=["_FIELDS"])._FIELDS, "seeded", "targets rule")
    ran = safehold("deploy", "verify", finished)
    assert ran.code == 4
    assert "NOT CHECKED, because it is not understood: event 2 (seeded): evidence" in ran.out
    assert "1 thing(s) not checked" in ran.out
    assert safehold("deploy", "verify", finished, "--json").json["ok"] is False


def test_replay_says_what_was_known_at_any_event(safehold, finished):
    last = json.loads(safehold("deploy", "export", finished).out.splitlines()[-1])["seq"]
    now = safehold("deploy", "replay", finished, "--json").json
    assert now["event"]["seq"] == last
    assert now["status"]["state"] == "exhausted"
    assert now["next"] is None
    assert now["refusal"].startswith("Exhausted: all 3 declared asks are spent")
    with Deployment.open(finished, read_only=True) as deployment:
        asked = list(deployment.state.asked.values())
        seqs = [record.seq for record in deployment.ledger.read() if record.kind == "asked"]
    for seq, event in zip(seqs, asked, strict=True):
        before = safehold("deploy", "replay", finished, "--until", seq - 1, "--json").json
        assert before["next"]["target"] == list(event.target)
        assert before["next"]["certificate"]["charge"] == event.certificate.charge
        assert before["status"]["asks"] == event.number
        after = safehold("deploy", "replay", finished, "--until", seq, "--json").json
        assert after["status"]["open_trials"] == [event.trial]
    shown = safehold("deploy", "replay", finished, "--until", seqs[1]).out
    assert f"{seqs[1]}, asked of trial-0001" in shown
    assert "next ask" in shown


@pytest.mark.parametrize("until", [0, 9999])
def test_replay_refuses_an_event_that_is_not_there(safehold, finished, until):
    ran = safehold("deploy", "replay", finished, "--until", until)
    assert ran.code == 2
    assert f"not {until}" in ran.err


def test_recover_saves_what_is_valid_and_holds_the_new_run(safehold, run, tmp_path):
    shell(run, "UPDATE event SET body = replace(body, '1', '2') WHERE seq > 6")
    before = (run / "ledger.sqlite").read_bytes()
    for verb in ("status", "verify", "replay", "ask"):
        assert safehold("deploy", verb, run).code == 4
    ran = safehold("deploy", "recover", run, "--into", tmp_path / "saved")
    assert ran.code == 6
    assert "events 1 to 6" in ran.out
    assert "Declare a new run" in ran.out
    assert (run / "ledger.sqlite").read_bytes() == before
    saved = tmp_path / "saved"
    assert safehold("deploy", "verify", saved).code == 0
    assert safehold("deploy", "status", saved, "--json").json["state"] == "stopped"
    assert safehold("deploy", "ask", saved).code == 6
    with Deployment.open(saved) as deployment:
        assert TrialState.UNKNOWN in deployment.state.states.values()
        with pytest.raises(Exhausted, match="recovered from"):
            deployment.ask()
    assert safehold("deploy", "recover", run, "--into", saved).code == 2


def test_recover_copies_a_whole_run_that_goes_on(safehold, open_run, tmp_path):
    ran = safehold("deploy", "recover", open_run, "--into", tmp_path / "copy", "--json")
    assert (ran.code, ran.json["fault"], ran.json["lost"]) == (0, None, 0)
    assert safehold("deploy", "ask", tmp_path / "copy").code == 0
    assert "can go on" in safehold("deploy", "recover", open_run, "--into", tmp_path / "again").out


def test_recover_says_when_there_is_nothing_to_save(safehold, run, tmp_path):
    (run / "ledger.sqlite").write_bytes(b"x" * 5000)
    ran = safehold("deploy", "recover", run, "--into", tmp_path / "saved")
    assert ran.code == 4
    assert "not one event can be saved" in ran.err
    assert safehold("deploy", "recover", tmp_path / "nowhere", "--into", tmp_path / "saved").code == 2


def test_recover_reads_an_export_too(safehold, finished, tmp_path):
    assert safehold("deploy", "export", finished, "--out", tmp_path / "export.jsonl").code == 0
    ran = safehold("deploy", "recover", tmp_path / "export.jsonl", "--into", tmp_path / "saved")
    assert ran.code == 6
    assert "nobody can tell how many" in ran.out
    assert safehold("deploy", "verify", tmp_path / "saved").code == 0


def test_backup_copies_a_run_while_it_is_written(safehold, open_run, tmp_path):
    with Deployment.open(open_run) as deployment:
        deployment.ask()
        ran = safehold("deploy", "backup", open_run, "--to", tmp_path / "copy", "--json")
        assert (ran.code, ran.json["events"]) == (0, 3)
    assert safehold("deploy", "verify", tmp_path / "copy", "--head", ":".join(map(str, ran.json["head"]))).code == 0
    assert safehold("deploy", "backup", open_run, "--to", tmp_path / "copy").code == 2


def test_verify_says_where_the_clock_ran_backwards(safehold, open_run, monkeypatch):
    from datetime import UTC, datetime

    from safehold.ledger import store

    class Clock(datetime):
        @classmethod
        def now(cls, _zone):
            return datetime(2025, 1, 1, tzinfo=UTC)

    monkeypatch.setattr(store, "datetime", Clock)
    assert safehold("deploy", "ask", open_run).code == 0
    ran = safehold("deploy", "verify", open_run)
    assert ran.code == 0
    assert "The clock ran backwards before event 3; order is by number." in ran.out
