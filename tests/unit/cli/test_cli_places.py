"""Where commands write: what is not theirs stays as it is."""

import json

import pytest

from safehold.workflows.road import RoadConfig


def identity() -> str:
    """The config.json of a whole road."""
    return json.dumps({name: value for name, value in RoadConfig().to_json().items() if name != "workers"})


@pytest.fixture
def road(tmp_path):
    """A directory that a road was begun in."""
    place = tmp_path / "road"
    (place / "cdt" / "checkpoints").mkdir(parents=True)
    (place / "config.json").write_text(identity())
    (place / "clock.json").write_text("{}")
    (place / ".clock.json.x1y2").write_text("")
    return place


def everything(place):
    return {path.relative_to(place): path.read_bytes() for path in place.rglob("*") if path.is_file()}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"task": "x"}', '{"model": "gpt", "seed": 3}', "[" * 100_000])
@pytest.mark.parametrize("name", ["config.json", "manifest.json"])
def test_overwrite_removes_no_directory_for_a_common_file_name(safehold, tmp_path, name, text):
    (tmp_path / name).write_text(text)
    ran = safehold("demo", "--out", tmp_path, "--overwrite")
    assert ran.code == 2
    assert "no run that this command made" in ran.err
    assert (tmp_path / name).read_text() == text


@pytest.mark.parametrize("foreign", ["thesis.tex", ".git", "config.json.bak", ".bashrc"])
def test_overwrite_names_what_else_lies_in_a_run_and_removes_nothing(safehold, road, foreign):
    (road / foreign).write_text("mine")
    before = everything(road)
    ran = safehold("demo", "--out", road, "--overwrite")
    assert ran.code == 2
    assert repr(foreign) in ran.err
    assert everything(road) == before


@pytest.mark.parametrize(
    ("words", "why"), [(("--task", "HalfChetahVelocity"), "HalfCheetahVelocity"), (("--preset", "smal"), "'small'")]
)
def test_overwrite_removes_nothing_for_a_run_that_cannot_be(safehold, road, words, why):
    before = everything(road)
    ran = safehold("demo", "--out", road, "--overwrite", *words)
    assert ran.code == 2
    assert why in ran.err
    assert everything(road) == before


def test_overwrite_removes_a_run_of_ours(road):
    from safehold.cli.demo import clear_run

    clear_run(road)
    assert not road.exists()
    clear_run(road)


def test_overwrite_follows_no_link(safehold, road, tmp_path):
    (tmp_path / "link").symlink_to(road)
    before = everything(road)
    assert safehold("demo", "--out", tmp_path / "link", "--overwrite").code == 2
    assert everything(road) == before


@pytest.mark.parametrize("below", ["", "run"])
@pytest.mark.parametrize("words", [(), ("--overwrite",)])
def test_demo_refuses_a_file_for_its_directory(safehold, tmp_path, below, words):
    (tmp_path / "note.txt").write_text("mine")
    ran = safehold("demo", "--out", tmp_path / "note.txt" / below, *words)
    assert ran.code == 2
    assert "note.txt is a file; name a directory" in ran.err
    assert (tmp_path / "note.txt").read_text() == "mine"
