import json

import numpy as np
import pytest

from safehold.cli.data import CollectArguments
from safehold.data import hdf5
from safehold.data.layouts import read_any
from safehold.workflows.collect import EPISODES


@pytest.fixture
def episodes(finished):
    return finished / "episodes.hdf5"


def test_check_prints_verdict_findings_and_numbers(safehold, episodes):
    ran = safehold("data", "check", episodes, "--limit", 25)
    assert ran.code == 0
    assert ran.out.startswith("PASS")
    assert "coverage" in ran.out
    assert "300 episodes" in ran.out
    assert "steps above 3.21 m/s" in ran.out


def test_check_of_what_is_no_data_fails_with_the_audits_code(safehold, tmp_path):
    (tmp_path / "text.hdf5").write_text("no data at all")
    for name in ("text.hdf5", "nothing.hdf5"):
        ran = safehold("data", "check", tmp_path / name)
        assert ran.code == 3
        assert ran.out.startswith("FAIL")
    assert safehold("data", "check", tmp_path / "text.hdf5", "--json").json["verdict"] == "fail"


def test_check_draws_a_picture_but_over_nothing(safehold, episodes, tmp_path):
    picture = tmp_path / "plane.svg"
    assert safehold("data", "check", episodes, "--limit", 25, "--picture", picture).code == 0
    drawn = picture.read_bytes()
    assert b"steps above 3.21 m/s" in drawn
    refused = safehold("data", "check", episodes, "--picture", picture)
    assert (refused.code, refused.out) == (2, "")
    assert "exists" in refused.err
    assert picture.read_bytes() == drawn
    assert safehold("data", "check", episodes, "--picture", picture, "--overwrite").code == 0
    assert picture.read_bytes() != drawn


@pytest.mark.parametrize("name", ["plane.exe", "plane", "nowhere/plane.png"])
def test_an_impossible_picture_is_refused_before_anything_is_read(safehold, tmp_path, name):
    ran = safehold("data", "check", tmp_path / "nothing.hdf5", "--picture", tmp_path / name)
    assert ran.code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_limit_on_a_cost_that_is_not_there_is_refused(safehold, episodes):
    ran = safehold("data", "check", episodes, "--limit", 1, "--cost", "heat")
    assert ran.code == 2
    assert "'heat'" in ran.err
    assert "give --limit as well" in safehold("data", "check", episodes, "--cost", "cost").err


def test_convert_there_and_back_keeps_every_episode(safehold, episodes, tmp_path):
    flat, ours = tmp_path / "flat.hdf5", tmp_path / "ours.hdf5"
    assert safehold("data", "convert", episodes, flat, "--layout", "dsrl").code == 0
    assert safehold("data", "convert", flat, ours, "--cost-unit", "bumps").code == 0
    before, after = hdf5.read(episodes), hdf5.read(ours)
    np.testing.assert_array_equal(after.cost_returns, before.cost_returns)
    assert after.spec.cost_units == ("bumps",)
    assert read_any(flat).digest == before.digest


def test_convert_never_writes_over_a_file_unasked(safehold, episodes, tmp_path):
    target = tmp_path / "there.hdf5"
    target.write_text("precious")
    ran = safehold("data", "convert", episodes, target)
    assert ran.code == 2
    assert target.read_text() == "precious"
    assert safehold("data", "convert", episodes, target, "--overwrite").code == 0
    assert len(hdf5.read(target)) == 300


def test_convert_of_an_unknown_task_writes_nothing(safehold, episodes, tmp_path):
    ran = safehold("data", "convert", episodes, tmp_path / "x.hdf5", "--task", "HalfChetahVelocity")
    assert ran.code == 2
    assert "HalfCheetahVelocity" in ran.err
    assert list(tmp_path.iterdir()) == []


def test_collect_makes_as_many_episodes_as_the_workflow_would():
    assert CollectArguments.model_fields["episodes"].default == EPISODES


def test_summary_counts_the_episodes_that_keep_the_limit(safehold, episodes):
    dataset = hdf5.read(episodes)
    kept = int((dataset.cost_returns[:, 0] <= 25).sum())
    ran = safehold("data", "summary", episodes, "--limit", 25)
    assert f"{kept} of 300 episodes have cost <= 25" in ran.out
    numbers = json.loads(safehold("data", "summary", episodes, "--limit", 25, "--json").out)
    assert numbers["costs"][0]["at_limit"]["episodes"] == kept
    assert numbers["digest"] == dataset.digest


# Tables and arrays whose places are said --------------------------------------------------------------------------

FLIGHTS = """flight,x,y,u,r,speed,tilt,done
1,0,0,0.1,1,0,0.5,0
1,1,0,0.2,1,1,0.5,1
2,0,1,0.1,1,0,0,0
2,1,2,0.0,1,2,0,0
"""
MAP = """
episode = "flight"
observations = ["x", "y"]
actions = ["u"]
reward = "r"
costs = { speed = "speed", tilt = "tilt" }
cost_units = { speed = "m/s above 1" }
terminated = "done"
"""
FLAGS = (
    *("--episode-column", "flight", "--observation-columns", "x", "y", "--action-columns", "u"),
    *("--reward-column", "r", "--cost-columns", "speed", "tilt=tilt", "--terminated-column", "done"),
)


@pytest.fixture
def flights(tmp_path):
    (tmp_path / "flights.csv").write_text(FLIGHTS)
    (tmp_path / "map.toml").write_text(MAP)
    return tmp_path / "flights.csv"


def test_a_table_converts_with_a_map_or_with_flags_to_the_same(safehold, flights, tmp_path):
    mapped, flagged = tmp_path / "mapped.hdf5", tmp_path / "flagged.hdf5"
    assert safehold("data", "convert", flights, mapped, "--columns", tmp_path / "map.toml").code == 0
    assert safehold("data", "convert", flights, flagged, *FLAGS).code == 0
    first, second = hdf5.read(mapped), hdf5.read(flagged)
    assert first.spec.cost_names == second.spec.cost_names == ("speed", "tilt")
    assert first.spec.cost_units == ("m/s above 1", "cost units")
    np.testing.assert_array_equal(first.cost_returns, [[1, 1], [2, 0]])
    np.testing.assert_array_equal(first.costs, second.costs)
    assert list(first.terminated) == [True, False]


def test_a_flag_comes_on_top_of_the_map(safehold, flights, tmp_path):
    words = ("--columns", tmp_path / "map.toml", "--cost-columns", "lean=tilt")
    ran = safehold("data", "summary", flights, *words)
    assert ran.code == 2  # the map's unit is of a cost that is no more
    assert "cost_units names 'speed'" in ran.err
    (tmp_path / "map.toml").write_text(MAP.replace('cost_units = { speed = "m/s above 1" }', ""))
    assert safehold("data", "summary", flights, *words, "--json").json["costs"][0]["name"] == "lean"


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        ((), 3, "no column begins with 'observation_'"),
        (("--columns", "nothing.toml"), 2, "cannot be read as TOML"),
        (("--columns", "map.toml", "--delimiter", ";;"), 2, "--delimiter"),
        (("--columns", "map.toml", "--reward-column", "reward"), 3, "no column 'reward' for reward"),
        (("--columns", "map.toml", "--cost-columns", "=tilt", "x=tilt", "tilt"), 2, "a name for each cost"),
        (("--columns", "map.toml", "--discrete-actions", "0"), 2, "--discrete-actions 0"),
        (("--columns", "map.toml", "--reward-colum", "r"), 2, "Did you mean `--reward-column`?"),
    ],
)
def test_a_table_that_cannot_be_read_leaves_nothing(safehold, flights, tmp_path, monkeypatch, words, code, why):
    monkeypatch.chdir(tmp_path)
    ran = safehold("data", "convert", flights, tmp_path / "out.hdf5", *words)
    assert ran.code == code
    assert why in ran.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flights.csv", "map.toml"]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('rewrd = "r"', "Did you mean `reward`?"),
        ("reward = 3", "should be a valid string"),
        ('reward = "r"\nreward = "x"', "cannot be read as TOML"),
        ('delimiter = ";;"', "at most 1 character"),
        ("horizon = 0", "greater than 0"),
        ('horizon = "10"', "should be a valid integer"),
        ("costs = { speed = 1 }", "should be a valid string"),
        ("x = " + "[" * 5000, "cannot be read as TOML"),
    ],
)
def test_a_map_of_columns_is_checked_key_by_key(safehold, flights, tmp_path, line, why):
    (tmp_path / "bad.toml").write_text(line)
    ran = safehold("data", "convert", flights, tmp_path / "out.hdf5", "--columns", tmp_path / "bad.toml")
    assert ran.code == 2
    assert why in ran.err
    assert not (tmp_path / "out.hdf5").exists()


def test_check_judges_a_table_and_draws_it(safehold, flights, tmp_path):
    words = ("--columns", tmp_path / "map.toml", "--limit", "1", "--cost", "speed")
    ran = safehold("data", "check", flights, *words, "--picture", tmp_path / "plane.svg")
    assert ran.code == 0
    assert "layout csv" in ran.out
    assert b"m/s above 1" in (tmp_path / "plane.svg").read_bytes()
    assert safehold("data", "check", flights, *words, "--cost-columns", "x=y").code == 2


# Filters ----------------------------------------------------------------------------------------------------------


def test_filter_writes_a_worse_log_that_says_so_and_the_same_again(safehold, episodes, tmp_path):
    words = ("--limit", 25, "--most-per-cell", 3, "--cost-cells", 4, "--reward-cells", 4, "--drop-best-safe", 1)
    ran = safehold("data", "filter", episodes, tmp_path / "a.hdf5", *words, "--seed", 5, "--json")
    assert ran.code == 0
    assert [step["what"] for step in ran.json["steps"]] == ["most_per_cell", "drop_best_safe"]
    assert safehold("data", "filter", episodes, tmp_path / "b.hdf5", *words, "--seed", 5).code == 0
    first, second = hdf5.read(tmp_path / "a.hdf5"), hdf5.read(tmp_path / "b.hdf5")
    assert first.digest == second.digest == ran.json["digest"]
    assert first.provenance["of"] == hdf5.read(episodes).digest
    assert first.provenance["seed"] == 5
    assert safehold("data", "filter", episodes, tmp_path / "a.hdf5", *words).code == 2


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        ((), 2, "nothing is asked for"),
        (("--noise", "nan"), 2, "--noise nan"),
        (("--spoil", "0.1"), 2, "give the limit"),
        (("--drop-regions", "0", "1", "0"), 2, "--drop-regions 0 1 0"),
        (("--drop-regions", "0", "1", "0", "1"), 3, "no episode of 300 is left"),
        (("--nosie", "0.1"), 2, "Did you mean `--noise`?"),
    ],
)
def test_filters_that_are_impossible_write_nothing(safehold, episodes, tmp_path, words, code, why):
    ran = safehold("data", "filter", episodes, tmp_path / "out.hdf5", *words)
    assert ran.code == code
    assert why in ran.err
    assert list(tmp_path.iterdir()) == []
