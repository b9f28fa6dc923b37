"""Parting a log, training on one part, choosing on the other: no environment is made on the way."""

import numpy as np
import pytest

from safehold.core.errors import DataError
from safehold.core.seeding import Streams
from safehold.data import hdf5
from safehold.data.dataset import OfflineDataset
from safehold.data.layouts import read_any
from safehold.envs.toy import corridor
from safehold.learn.checkpoint import load_checkpoint
from safehold.rollout.episodes import rollout
from safehold.workflows.selection import candidate, logged_targets
from safehold.workflows.train import load

FAST = ("--fqe.steps", 20, "--fqe.members", 2, "--fqe.hidden", 8, "--fqe.batch-size", 16)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Episodes of five speeds, three each."""
    episodes = []
    for number, speed in enumerate((0.6, 0.8, 1.0, 1.2, 1.4)):
        seeds = Streams(0).episode_seeds(str(number), 0, 3)
        episodes += rollout("toy/Corridor", corridor.Cruise(speed, 0.2), seeds, rng_seed=number)
    path = tmp_path_factory.mktemp("log") / "whole.hdf5"
    hdf5.write(path, OfflineDataset.of(episodes, corridor.TASK.spec, group=np.repeat(np.arange(5), 3)))
    return path


@pytest.fixture(scope="module")
def parted(whole, tmp_path_factory):
    """A part to train on, one to judge on, and policies of the first."""
    from safehold.cli.main import main

    place = tmp_path_factory.mktemp("parted")
    part, held = place / "part.hdf5", place / "held.hdf5"
    lines = [("data", "split", whole, part, held, "--fraction", 0.6)]
    for method, words in (("bc", ("--steps", 40)), ("rvs", ("--steps", 20, "--hidden", 8, "--batch-size", 32))):
        out = place / method
        lines.append(("train", method, *words, "--checkpoint-every", 10, "--data", part, "--out", out))
    for words in lines:
        assert main([str(word) for word in (*words, "--quiet")]) == 0
    return place


def test_split_parts_by_behaviour_policy(safehold, whole, tmp_path):
    first, second = tmp_path / "first.hdf5", tmp_path / "second.hdf5"
    ran = safehold("data", "split", whole, first, second, "--fraction", 0.4, "--seed", 3, "--json")
    assert ran.code == 0
    assert ran.json["by"] == "behaviour policies"
    groups = [set(read_any(path).group.tolist()) for path in (first, second)]
    assert [len(group) for group in groups] == [2, 3]
    assert not groups[0] & groups[1]
    assert safehold("data", "split", whole, first, second).code == 2


@pytest.mark.parametrize(
    ("words", "why"),
    [(("--fraction", 1), "--fraction 1"), (("--fraction", 0), "--fraction 0"), ((), "name two files")],
)
def test_impossible_splits_are_refused(safehold, whole, tmp_path, words, why):
    ran = safehold("data", "split", whole, tmp_path / "a.hdf5", tmp_path / "a.hdf5", *words)
    assert ran.code == 2
    assert why in ran.err
    assert not (tmp_path / "a.hdf5").exists()


def test_select_compares_policies_and_checkpoints_with_what_knows_nothing(safehold, parted):
    names = [parted / "bc" / "policy", parted / "bc" / "checkpoints" / "00000010", parted / "rvs" / "policy"]
    ran = safehold("select", *names, "--log", parted / "held.hdf5", "--json", "--quiet")
    assert ran.code == 0
    assert [one["name"] for one in ran.json["policies"]] == [str(name) for name in names]
    assert [one["name"] for one in ran.json["trivial"]] == ["mean action", "last action"]
    assert [one["behind"] for one in ran.json["policies"]].count(None) == 1
    assert all(one["held_out"] for one in ran.json["policies"])
    assert ran.json["returns"] is None
    assert ran.json["policies"][0]["per_step"]["n"] == 2  # behaviour policies, not episodes
    assert "95 %" in safehold("select", *names, "--log", parted / "held.hdf5", "--quiet").out


def test_select_estimates_returns_at_targets(safehold, parted):
    names = [parted / "bc" / "policy", parted / "rvs" / "policy"]
    words = ("--log", parted / "held.hdf5", "--returns", "--target", 40, 2, 60, 10, *FAST)
    ran = safehold("select", *names, *words, "--json", "--quiet")
    assert ran.code == 0
    assert [one["target"] for one in ran.json["returns"]] == [None, [40.0, 2.0], [60.0, 10.0]]
    assert set(ran.json["returns"][0]["costs"]) == {"cost"}
    assert "40, 2" in safehold("select", *names, *words, "--quiet").out


def test_select_says_when_a_policy_has_seen_the_log(safehold, parted, whole):
    ran = safehold("select", parted / "bc" / "policy", "--log", parted / "part.hdf5", "--quiet")
    assert "was trained on these episodes" in ran.out
    assert candidate(parted / "bc" / "policy", read_any(parted / "part.hdf5")).seen
    assert not candidate(parted / "bc" / "policy", read_any(parted / "held.hdf5")).seen


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (("--target", 1, 2, 3, "--returns"), 2, "one target after the other"),
        (("--fqe.discount", 2), 2, "--fqe.discount 2"),
        (("--fqe.members", 1), 2, "--fqe.members 1"),
        (("--targets", 0), 2, "--targets 0"),
    ],
)
def test_impossible_selections_are_refused(safehold, parted, words, code, why):
    ran = safehold("select", parted / "rvs" / "policy", "--log", parted / "held.hdf5", *words)
    assert ran.code == code
    assert why in ran.err


def test_no_policy_and_a_log_of_another_task_are_refused(safehold, parted, tmp_path):
    assert safehold("select", "--log", parted / "held.hdf5").code == 2
    other = corridor.TASK.spec.__class__(**{**_fields(corridor.TASK.spec), "horizon": 60})
    episodes = list(read_any(parted / "held.hdf5"))
    hdf5.write(tmp_path / "other.hdf5", OfflineDataset.of(episodes, other))
    ran = safehold("select", parted / "rvs" / "policy", "--log", tmp_path / "other.hdf5")
    assert ran.code == 3
    assert "was trained with horizon 50, the log has 60" in ran.err


def test_a_checkpoint_of_training_holds_the_policy_of_then(parted):
    log = read_any(parted / "held.hdf5")
    for method, last in (("bc", 40), ("rvs", 20)):
        found = candidate(parted / method / "checkpoints" / f"{last:08d}", log)
        wanted = load_checkpoint(parted / method / "policy").tensors
        if method == "bc":
            kept = load(parted / method / "policy")
            for ours, theirs in zip(found.policy.weights, kept.weights, strict=True):
                np.testing.assert_array_equal(ours, theirs)
        else:
            state = found.policy.network.state_dict()
            assert all((state[name.removeprefix("model.")] == value).all() for name, value in wanted.items())


def test_a_checkpoint_without_its_settings_is_refused(parted, tmp_path):
    from safehold.learn.checkpoint import save_checkpoint

    saved = load_checkpoint(parted / "rvs" / "checkpoints" / "00000010")
    meta = {name: value for name, value in saved.meta.items() if name != "provenance"}
    save_checkpoint(tmp_path / "broken", kind=saved.kind, tensors=saved.tensors, meta=meta)
    with pytest.raises(DataError, match="no training to take a policy from"):
        candidate(tmp_path / "broken", read_any(parted / "held.hdf5"))


def test_logged_targets_go_from_cheap_to_costly(whole):
    log = read_any(whole)
    targets = logged_targets(log, 4)
    assert len(targets) == 4
    costs = [target[1] for target in targets]
    assert costs == sorted(costs)
    logged = {(float(r), float(c)) for r, c in zip(log.reward_returns, log.cost_returns[:, 0], strict=True)}
    assert set(targets) <= logged
    assert len(logged_targets(log, 100)) == len(log)


def _fields(spec):
    return {name: getattr(spec, name) for name in spec.__dataclass_fields__}
