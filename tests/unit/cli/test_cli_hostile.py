"""What users, files and worlds do wrong, against whole commands: the right exit code, and nothing written."""

import dataclasses
import functools

import h5py
import numpy as np
import pytest

from safehold.cli.main import main
from safehold.data import hdf5
from safehold.data.dataset import OfflineDataset
from safehold.data.layouts import write_dsrl
from safehold.envs import registry
from safehold.envs.toy import dial
from safehold.rollout.episodes import Job, rollouts

SMALL = ("--width", 8, "--heads", 2, "--layers", 1, "--context", 2, "--batch-size", 16, "--cost-loss", "value")
DIAL = ("--reward-points", 7, "--cost-points", 7, "--support-minimum", 3, "--support-reward", 0.15, "--seed-low", 0.6)
LEARNING = ("--total-steps", 40, "--environments", 2, "--steps-per-batch", 20, "--snapshots", 1)
FEW = ("--iterations", 3, "--episodes-per-ask", 4)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A log of the toy dial, two policies trained on it, and a zoo."""
    place, family = tmp_path_factory.mktemp("toy"), dial.DialFamily()
    targets = [(reward, cost) for reward in np.linspace(20, 100, 9) for cost in np.linspace(0, 40, 21)]
    done = rollouts("toy/Dial", [Job(family.at(z), (seed,)) for seed, z in enumerate(targets)], rng_seed=0)
    dataset = OfflineDataset.of([episode for of_job in done for episode in of_job], dial.TASK.spec)
    hdf5.write(place / "log.hdf5", dataset)
    write_dsrl(place / "dsrl.hdf5", dataset)
    for words in (("bc",), ("cdt", *SMALL)):
        line = ("train", *words, "--data", place / "log.hdf5", "--out", place / words[0], "--steps", 20, "--quiet")
        assert main([str(word) for word in line]) == 0
    line = ("explore", "ppo-lag", "--env-id", "toy/Dial", "--out", place / "zoo", *LEARNING, "--quiet")
    assert main([str(word) for word in line]) == 0
    return place


def deploy(place, out, *words):
    """`safehold deploy run`, small."""
    return (
        *("deploy", "run", "--policy", place / "cdt" / "policy", "--data", place / "log.hdf5", "--out", out),
        *(*DIAL, *FEW, *words),
    )


# Flags ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "why"),
    [
        *((("--limit", value), f"--limit {value}: ") for value in ("nan", "inf", "-inf", "-1", "0", "ten")),
        (("--limit=nan",), "--limit nan: should be a finite number"),
        (("--limt", "20"), "There is no flag --limt. Did you mean `--limit`?"),
        (("--delta", "nan"), "--delta nan: "),
        (("--delta", "1"), "--delta 1: "),
        (("--dial-error", "inf"), "--dial-error inf: "),
        (("--iterations", "0"), "--iterations 0: "),
        (("--episodes-per-ask", "2.5"), "--episodes-per-ask 2.5: "),
        (("--workers", "0"), "--workers 0: "),
        (("--seed", "-1"), "--seed -1: "),
        (("--task", "toy/Dail"), "the nearest name is 'toy/Dial'"),
    ],
)
def test_an_impossible_deployment_is_refused_by_name(safehold, place, tmp_path, words, why):
    ran = safehold(*deploy(place, tmp_path / "out", *words))
    assert ran.code == 2
    assert why in ran.err
    assert ran.out == ""
    assert len(ran.err.splitlines()) <= 10
    assert list(tmp_path.iterdir()) == []


# Places -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["notes.txt", "ledger.sqlite", "ledger.head", ".git"])
def test_a_deployment_is_made_in_no_directory_of_others(safehold, place, tmp_path, name):
    (tmp_path / name).write_text("mine")
    for out in (tmp_path, tmp_path / name, tmp_path / name / "below"):
        ran = safehold(*deploy(place, out))
        assert ran.code == 2
        assert "choose another directory" in ran.err or "is a file" in ran.err
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "mine"}


# Worlds -----------------------------------------------------------------------------------------------------------


class Broken(dial.Dial):
    """Right for five steps; then its info is another."""

    def __init__(self, info):
        self._info = info

    def step(self, action):
        *rest, info = super().step(action)
        return *rest, info if self._steps <= 5 else self._info


FAULTS = {
    "NaN": {"cost": float("nan")},
    "infinite": {"cost": float("inf")},
    "negative": {"cost": -1.0},
    "text": {"cost": "0"},
    "None": {"cost": None},
    "no cost": {},
    "another name": {"costs": {"cost": 0.0}},
}


@pytest.fixture(params=FAULTS.values(), ids=FAULTS)
def broken(request, monkeypatch):
    """A registered world that does not say what it costs; `toy/Dial` is no better."""
    spec, world = dataclasses.replace(dial.TASK.spec, env_id="toy/Broken"), functools.partial(Broken, request.param)
    monkeypatch.setitem(registry.TASKS, "toy/Broken", dataclasses.replace(dial.TASK, spec=spec, world=world))
    monkeypatch.setitem(registry.TASKS, "toy/Dial", dataclasses.replace(dial.TASK, world=world))
    return "toy/Broken"


def test_a_world_without_a_cost_ends_every_command_with_five_and_nothing_written(safehold, place, broken, tmp_path):
    out = tmp_path / "out"
    for words in (
        ("evaluate", place / "bc" / "policy", "--task", broken, "--episodes", 3, "--out", out),
        ("explore", "ppo-lag", "--env-id", broken, "--out", out, *LEARNING),
        ("data", "collect", "toy/Dial", "--zoo", place / "zoo", "--episodes", 2, "--out", out),
        ("envs", "check", broken),
    ):
        ran = safehold(*words)
        assert ran.code == 5, words
        assert "step 5: " in (ran.out if words[0] == "envs" else ran.err)
        assert "cost" in ran.out + ran.err
        assert list(tmp_path.iterdir()) == []


def test_a_deployment_in_a_world_without_a_cost_records_no_outcome_and_trusts_the_target_no_more(
    safehold, place, broken, tmp_path
):
    out = tmp_path / "out"
    ran = safehold(*deploy(place, out, "--task", broken))
    assert ran.code == 5
    assert "EnvironmentFault: toy/Broken, seed " in ran.err
    now = safehold("deploy", "status", out, "--json").json
    assert (now["asks"], now["told"], now["recommendation"]) == (1, 0, None)
    assert len(now["revoked"]) == 1
    assert safehold("deploy", "recommend", out).code == 6
    assert safehold("deploy", "verify", out).code == 0


# Files ------------------------------------------------------------------------------------------------------------


def cut(place, path):
    content = (place / "log.hdf5").read_bytes()
    path.write_bytes(content[: len(content) // 2])


def altered(name, column, change):
    """A file whose first value of a column is another."""

    def make(place, path):
        path.write_bytes((place / name).read_bytes())
        with h5py.File(path, "r+") as file:
            values = file[column]
            values[(0,) * values.ndim] = change
        assert path.read_bytes() != (place / name).read_bytes()

    return make


def other_hdf5(place, path):
    with h5py.File(path, "w") as file:
        file["temperature"] = np.zeros(3)


def without_costs(place, path):
    path.write_bytes((place / "dsrl.hdf5").read_bytes())
    with h5py.File(path, "r+") as file:
        del file["costs"]


FILES = {
    "nothing there": (lambda *_: None, 3),
    "empty": (lambda _, path: path.write_bytes(b""), 3),
    "text": (lambda _, path: path.write_text("costs: none"), 3),
    "a directory": (lambda _, path: path.mkdir(), 3),
    "cut": (cut, 3),
    "HDF5 of something else": (other_hdf5, 3),
    "no costs": (without_costs, 3),
    "NaN cost": (altered("dsrl.hdf5", "costs", np.nan), 3),
    "infinite cost": (altered("dsrl.hdf5", "costs", np.inf), 3),
    "negative cost": (altered("dsrl.hdf5", "costs", -1.0), 3),
    "NaN reward": (altered("dsrl.hdf5", "rewards", np.nan), 3),
    "NaN cost in our layout": (altered("log.hdf5", "costs", np.nan), 3),
    "a smaller cost in our layout": (altered("log.hdf5", "costs", 0.0), 4),
}


@pytest.mark.parametrize(("make", "code"), FILES.values(), ids=FILES)
def test_a_broken_log_ends_every_command_with_its_code_and_nothing_written(
    safehold, place, finished, tmp_path, make, code
):
    bad, out = tmp_path / "bad.hdf5", tmp_path / "out"
    make(place, bad)
    before = sorted(tmp_path.rglob("*"))
    for words in (
        ("train", "bc", "--data", bad, "--out", out, "--steps", 1),
        ("train", "cdt", "--data", bad, "--out", out, "--steps", 1, *SMALL),
        deploy(place, out, "--data", bad),
        ("data", "convert", bad, out),
        ("data", "summary", bad),
        ("report", finished, "--data", bad, "--out", tmp_path / "page.html"),
    ):
        ran = safehold(*words)
        assert ran.code == code, (words, ran.err)
        assert str(bad) in ran.err or "costs[0, 0]" in ran.err
        assert ran.out == ""
        assert len(ran.err.splitlines()) <= 10
    assert safehold("data", "check", bad).code == code
    assert sorted(tmp_path.rglob("*")) == before
