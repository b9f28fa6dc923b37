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
