"""The verbs that learn and act, on a toy world, from nothing to a driven deployment."""

import json
import shutil

import numpy as np
import pytest
import torch

from safehold.core.episode import Episode
from safehold.data import hdf5
from safehold.data.dataset import OfflineDataset
from safehold.deploy.optimizer import Deployment
from safehold.envs import registry
from safehold.learn.checkpoint import load_checkpoint, save_checkpoint
from safehold.learn.online.zoo import load_zoo
from safehold.ledger.events import Seeded

TASK = "toy/PointHazard"
SMALL = ("--width", 16, "--heads", 2, "--layers", 1, "--context", 4, "--batch-size", 16, "--cost-loss", "value")
DIAL = ("--reward-points", 9, "--cost-points", 9, "--episodes-per-ask", 4, "--iterations", 3)


def one_episode(number: int) -> Episode:
    """Drifts in a direction of its own."""
    rng = np.random.default_rng(number)
    world, drift = registry.make(TASK), rng.uniform(-1, 1, 2)
    observations = [world.reset(seed=number)[0]]
    actions, rewards, costs, terminated, truncated = [], [], [], False, False
    while not (terminated or truncated):
        action = np.clip(drift + 0.3 * rng.normal(size=2), -1, 1).astype(np.float32)
        observation, reward, terminated, truncated, info = world.step(action)
        observations.append(observation)
        actions.append(action)
        rewards.append(reward)
        costs.append([info["cost"]])
    world.close()
    return Episode(
        observations=np.array(observations, dtype=np.float32),
        actions=np.array(actions),
        rewards=np.array(rewards),
        costs=np.array(costs, dtype=np.float64),
        terminated=terminated,
        truncated=not terminated,
    )


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    path = tmp_path_factory.mktemp("log") / "log.hdf5"
    hdf5.write(path, OfflineDataset.of([one_episode(number) for number in range(120)], registry.spec(TASK)))
    return path


@pytest.fixture(scope="module")
def policies(log, tmp_path_factory):
    """Trained through the command line's own front door."""
    from safehold.cli.main import main

    place = tmp_path_factory.mktemp("policies")
    for words in (("train", "bc", "--steps", 10), ("train", "cdt", "--steps", 10, *SMALL)):
        out = place / str(words[1])
        assert main([str(word) for word in (*words, "--data", log, "--out", out, "--quiet")]) == 0
    return place


def test_train_leaves_a_policy_and_refuses_to_train_over_it(safehold, log, policies):
    manifest = (policies / "bc" / "policy" / "manifest.json").read_bytes()
    ran = safehold("train", "bc", "--data", log, "--out", policies / "bc")
    assert ran.code == 2
    assert "not empty" in ran.err
    assert "finished" in safehold("train", "bc", "--data", log, "--out", policies / "bc", "--resume").err
    assert (policies / "bc" / "policy" / "manifest.json").read_bytes() == manifest


@pytest.mark.parametrize("foreign", ["config.json", "manifest.json", "notes.txt", "checkpoints/epoch=3.ckpt", "cdt/x"])
def test_resume_writes_into_no_directory_of_others(safehold, log, policies, tmp_path, foreign):
    (tmp_path / "out" / foreign).parent.mkdir(parents=True)
    (tmp_path / "out" / foreign).write_text("mine")
    drive = ("deploy", "run", "--policy", policies / "cdt" / "policy", "--limit", 5, *DIAL)
    for words in (("train", "bc", "--steps", 1), drive):
        ran = safehold(*words, "--data", log, "--out", tmp_path / "out", "--resume")
        assert ran.code == 2
        assert "which no training makes" in ran.err or "no deployment to go on with" in ran.err
        assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == [tmp_path / "out" / foreign]
        assert (tmp_path / "out" / foreign).read_text() == "mine"


def test_there_is_no_deployment_to_resume_in_a_new_directory(safehold, log, policies, tmp_path):
    words = ("deploy", "run", "--policy", policies / "cdt" / "policy", "--data", log, "--limit", 5, *DIAL)
    ran = safehold(*words, "--out", tmp_path / "new", "--resume")
    assert ran.code == 2
    assert "no deployment to go on with" in ran.err
    assert list(tmp_path.iterdir()) == []


def test_training_that_was_cut_short_goes_on(safehold, log, tmp_path):
    words = ("train", "bc", "--data", log, "--steps", 6, "--checkpoint-every", 2, "--json", "--quiet")
    whole = safehold(*words, "--out", tmp_path / "whole").json
    cut = shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(cut / "policy")
    shutil.rmtree(cut / "checkpoints" / max(path.name for path in (cut / "checkpoints").iterdir()))
    (cut / "checkpoints" / ".4.x1y2").mkdir()
    (cut / ".policy.x1y2").mkdir()
    assert safehold(*words, "--out", cut, "--resume").json["digest"] == whole["digest"]


def test_train_speaks_json_on_standard_output_and_lines_on_standard_error(safehold, log, tmp_path):
    words = ("train", "bc", "--data", log, "--out", tmp_path / "bc", "--steps", 100, "--json", "--log-format", "json")
    ran = safehold(*words)
    assert ran.json["updates"] == 100
    lines = [json.loads(line) for line in ran.err.splitlines()]
    assert lines[-1]["done"] == lines[-1]["total"] == 100
    quiet = safehold("train", "bc", "--data", log, "--out", tmp_path / "again", "--steps", 100, "--json", "--quiet")
    assert quiet.err == ""
    assert quiet.json["digest"] == ran.json["digest"]


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (("cdt", "--width", 17, "--heads", 2), 2, "heads=2 does not divide width=17"),
        (("cdt", "--widht", 16), 2, "Did you mean `--width`?"),
        (("bc", "--learning-rate", "nan"), 2, "--learning-rate nan"),
        (("bc", "--steps", 0), 2, "--steps 0"),
        (("bc", "--seed", -1), 2, "--seed -1"),
        (("bc", "--limits", "cost", "nan"), 2, "finite number"),
        (("bc", "--limits", "heat", 3), 2, "'heat'"),
        (("bc", "--limits", "cost", 0, "--data", "nothing.hdf5"), 3, "No such file"),
        (("bc", "--preset", "smal"), 2, "'small'"),
        (("bc", "--settings", "nothing.toml"), 2, "nothing.toml"),
    ],
)
def test_impossible_training_is_refused_and_leaves_nothing(safehold, log, tmp_path, words, code, why):
    data = () if "--data" in words else ("--data", log)
    ran = safehold("train", words[0], *data, "--out", tmp_path / "out", *words[1:])
    assert ran.code == code
    assert why in ran.err
    assert len(ran.err.splitlines()) <= 10
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('steps = "7"', "valid integer"),
        ("steps = 7.5", "valid integer"),
        ("stepz = 7", "Did you mean `steps`?"),
        ("steps = 7\nsteps = 8", "cannot be read as TOML"),
        ("learning_rate = nan", "finite number"),
        ("limits = {cost = -1.0}", "greater than or equal to 0"),
        ("steps = 010", "cannot be read as TOML"),
        ("\x00", "cannot be read as TOML"),
    ],
)
def test_impossible_settings_in_a_file_are_refused(safehold, log, tmp_path, text, why):
    (tmp_path / "settings.toml").write_text(text)
    ran = safehold("train", "bc", "--data", log, "--out", tmp_path / "out", "--settings", tmp_path / "settings.toml")
    assert ran.code == 2
    assert "settings.toml" in ran.err
    assert why in ran.err
    assert not (tmp_path / "out").exists()


def test_a_flag_goes_above_the_file_and_the_file_above_the_preset(safehold, log, tmp_path):
    (tmp_path / "settings.toml").write_text("steps = 7\nbatch_size = 33\nhidden = [8]\n")
    words = ("--settings", tmp_path / "settings.toml", "--steps", 5, "--batch-size", 512)
    assert safehold("train", "bc", "--data", log, "--out", tmp_path / "out", *words).code == 0
    meta = json.loads((tmp_path / "out" / "policy" / "meta.json").read_text())
    config = json.dumps(meta)
    # 512 is the class's own default, and still goes above the 33 of the file because it was given
    assert '"steps": 5' in config
    assert '"batch_size": 512' in config
    assert '"hidden": [8]' in config
    assert '"learning_rate": 0.001' in config


def test_evaluate_prints_intervals_and_keeps_the_raw_returns(safehold, policies, tmp_path):
    words = ("evaluate", policies / "bc" / "policy", "--task", TASK, "--episodes", 6, "--limit", 3)
    out = tmp_path / "returns.json"
    ran = safehold(*words, "--out", out)
    assert ran.code == 0
    assert "95 %" in ran.out
    assert "of 6 episodes cost more than 3" in ran.out
    again = safehold(*words, "--json", "--quiet")
    assert again.json == json.loads(out.read_text())
    assert len(again.json["targets"][0]["costs"]) == 6
    assert safehold(*words, "--out", out).code == 2


@pytest.mark.parametrize(
    ("method", "words", "code", "why"),
    [
        ("cdt", (), 2, "give --target with reward, cost"),
        ("cdt", ("--target", 1), 2, "expected finite"),
        ("cdt", ("--target", 1, "nan"), 2, "finite number"),
        ("cdt", ("--target", 1, -3), 2, "costs >= 0"),
        ("bc", ("--target", 1, 3), 2, "has no dial"),
        ("bc", ("--task", "toy/Corridor"), 3, "Run it in the environment it was trained for"),
        ("bc", ("--task", "toy/Pointhazard"), 2, "toy/PointHazard"),
        ("bc", ("--cost", "heat"), 2, "heat"),
        ("bc", ("--episodes", 0), 2, "--episodes 0"),
    ],
)
def test_impossible_evaluations_are_refused(safehold, policies, method, words, code, why):
    task = () if "--task" in words else ("--task", TASK)
    ran = safehold("evaluate", policies / method / "policy", *task, *words)
    assert ran.code == code
    assert why in ran.err


def test_a_policy_whose_bytes_changed_is_never_run(safehold, policies, tmp_path):
    copy = shutil.copytree(policies / "bc" / "policy", tmp_path / "policy")
    weights = copy / "tensors.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert safehold("evaluate", copy, "--task", TASK).code == 4


def test_a_policy_that_names_no_task_is_never_run(safehold, tmp_path):
    tensors = {"w": torch.zeros(1)}
    save_checkpoint(tmp_path / "policy", kind="bc", tensors=tensors, meta={"layers": 1, "provenance": {}})
    ran = safehold("evaluate", tmp_path / "policy", "--task", TASK)
    assert ran.code == 3
    assert "does not say which task" in ran.err


def test_a_deployment_is_driven_resumed_and_never_mixed(safehold, policies, log, tmp_path):
    words = ("deploy", "run", "--policy", policies / "cdt" / "policy", "--data", log, "--limit", 5, *DIAL)
    out = tmp_path / "deployment"
    ran = safehold(*words, "--out", out)
    assert ran.code in (0, 6)  # a policy of ten updates may well have nothing to recommend
    assert ran.out.count("trial-000") >= 1
    before = safehold("deploy", "export", out).out
    assert safehold(*words, "--out", out).code == 2
    resumed = safehold(*words, "--out", out, "--resume")
    assert resumed.code == ran.code
    assert safehold("deploy", "export", out).out.startswith(before)
    assert safehold(*words, "--out", out, "--resume", "--seed", 1).code == 2
    assert safehold("deploy", "verify", out).code == 0
    assert safehold("report", out, "--data", log).code == 0


def test_a_deployment_chooses_among_several_policies(safehold, policies, log, tmp_path):
    assert safehold("train", "cdt", "--data", log, "--out", tmp_path / "other", "--steps", 3, *SMALL).code == 0
    one, other = ("--policy", policies / "cdt" / "policy"), ("--policy", tmp_path / "other" / "policy")
    words, rest = ("deploy", "run", *one, *other), ("--data", log, "--limit", 5, *DIAL)
    out = tmp_path / "deployment"
    ran = safehold(*words, *rest, "--out", out)
    assert ran.code in (0, 6)
    assert f"Policy 1 is {other[1]}." in ran.out
    asked = [json.loads(line) for line in safehold("deploy", "export", out).out.splitlines()]
    targets = [event["body"]["target"] for event in asked if event["kind"] == "asked"]
    assert len(targets[0]) == 3
    assert safehold("deploy", "verify", out).code == 0
    assert safehold("report", out, "--data", log).code == 0
    assert safehold("deploy", "run", *one, *rest, "--out", out, "--resume").code == 4
    turned = safehold("deploy", "run", *other, *one, *rest, "--out", out, "--resume")
    assert turned.code == 4
    assert "the order counts" in turned.err
    assert safehold(*words, *rest, "--out", out, "--resume").code in (0, 6)
    twice = safehold("deploy", "run", *one, *one, *rest, "--out", tmp_path / "twice")
    assert twice.code == 2
    assert "are the same policy" in twice.err
    assert "policy" in safehold("deploy", "run", *rest, "--out", tmp_path / "none").err


def test_another_policy_is_not_driven_through_a_declared_deployment(safehold, policies, log, tmp_path):
    words = ("deploy", "run", "--data", log, "--limit", 5, *DIAL, "--out", tmp_path / "deployment")
    safehold(*words, "--policy", policies / "cdt" / "policy")
    assert safehold("train", "cdt", "--data", log, "--out", tmp_path / "other", "--steps", 1, *SMALL).code == 0
    ran = safehold(*words, "--policy", tmp_path / "other" / "policy", "--resume")
    assert ran.code == 4
    assert "say nothing about another policy" in ran.err


def test_a_policy_without_a_dial_is_not_deployed(safehold, policies, log, tmp_path):
    ran = safehold("deploy", "run", "--policy", policies / "bc" / "policy", "--data", log, "--out", tmp_path / "d")
    assert ran.code == 2
    assert "has no dial" in ran.err
    assert list(tmp_path.iterdir()) == []


def test_lspc_is_trained_evaluated_at_a_box_and_compared(safehold, log, policies, tmp_path):
    size = ("--hidden", 8, "--latent", 2, "--batch-size", 16, "--steps", 10, "--checkpoint-every", 5)
    assert safehold("train", "lspc", "--data", log, "--out", tmp_path / "lspc", *size).code == 0
    policy = tmp_path / "lspc" / "policy"
    ran = safehold("evaluate", policy, "--task", TASK, "--target", 0.5, "--episodes", 2, "--json", "--quiet")
    assert ran.json["targets"][0]["target"] == [0.5]
    assert "give --target with epsilon" in safehold("evaluate", policy, "--task", TASK).err
    assert "no dial of returns" in safehold("evaluate", policy, "--task", TASK, "--dial", log, "--limit", 5).err
    driven = safehold("deploy", "run", "--policy", policy, "--data", log, "--limit", 5, "--out", tmp_path / "d", *DIAL)
    assert driven.code == 3
    assert "say --boxes" in driven.err
    assert safehold("select", policy, policies / "bc" / "policy", "--log", log, "--json", "--quiet").code == 0
    tuned = safehold("finetune", tmp_path / "lspc", "--log", log, "--limit", 5, "--out", tmp_path / "f")
    assert "no dial of returns" in tuned.err


class TestBoxes:
    """A deployment over the latent box of `lspc`, by the same words as one over returns."""

    @pytest.fixture
    def words(self, safehold, log, tmp_path):
        size = ("--hidden", 8, "--latent", 2, "--batch-size", 16, "--steps", 10)
        assert safehold("train", "lspc", "--data", log, "--out", tmp_path / "lspc", *size).code == 0
        chosen = ("--policy", tmp_path / "lspc" / "policy", "--data", log, "--boxes", 0.1, 0.5, 1.0)
        return (*chosen, "--limit", 50, "--iterations", 2, "--episodes-per-ask", 2, "--out", tmp_path / "boxes")

    def test_is_driven_to_its_end_and_verified(self, safehold, words, tmp_path):
        out = tmp_path / "boxes"
        ran = safehold("deploy", "run", *words, "--seed-by", "R. Okafor", "--json", "--quiet")
        assert ran.code == 0
        assert ran.json["state"] == "exhausted"
        assert len(ran.json["recommendation"]["target"]) == 1
        with Deployment.open(out, read_only=True) as deployment:
            assert deployment.state.declaration.seed_targets == ((0.1,),)
            (seeded,) = (event for event in deployment.events() if isinstance(event, Seeded))
        assert seeded.rule.startswith("the smallest latent box")
        assert seeded.evidence == {"attested_by": "R. Okafor"}
        assert safehold("deploy", "verify", out).code == 0
        assert safehold("deploy", "run", *words, "--seed-by", "R. Okafor", "--resume").code == 0
        assert safehold("deploy", "run", *words, "--seed-by", "somebody else", "--resume", "--delta", 0.1).code == 2

    def test_is_declared_alone_and_its_smallest_box_verified_on_episodes(self, safehold, words, tmp_path):
        assert safehold("deploy", "init", *words, "--verify-seeds", 1).code == 0
        told = safehold("deploy", "seed", tmp_path / "boxes", *words[:2], "--episodes", 10, "--json")
        assert told.code in (0, 6)
        assert told.json["standing"]["episodes"] == 10

    def test_boxes_that_nobody_answers_for_or_of_no_box_are_refused(self, safehold, words, policies, tmp_path):
        assert "who attests the smallest box" in safehold("deploy", "init", *words).err
        other = ("--policy", policies / "cdt" / "policy", *words[2:], "--seed-by", "R. Okafor")
        assert "for the box of lspc, and for no other dial" in safehold("deploy", "init", *other).err
        several = safehold("deploy", "init", *words[:2], *other)
        assert "--boxes are those of one policy" in several.err
        odd = safehold("deploy", "init", *words, "--seed-by", "R. Okafor", "--correlation", 0.5)
        assert "a box has none" in odd.err
        assert not (tmp_path / "boxes").exists()


@pytest.mark.parametrize("method", ["bcq-lag", "coptidice"])
def test_baselines_are_trained_for_a_limit_evaluated_and_compared_in_training(safehold, log, method, tmp_path):
    out = tmp_path / method
    size = ("--hidden", 8, "--batch-size", 16, "--steps", 6, "--checkpoint-every", 3)
    assert "give a limit for every cost" in safehold("train", method, "--data", log, "--out", out, *size).err
    trained = safehold("train", method, "--data", log, "--out", out, "--limits", "cost", 5, *size, "--json", "--quiet")
    assert trained.json["updates"] == 6
    ran = safehold("evaluate", out / "policy", "--task", TASK, "--episodes", 2, "--json", "--quiet")
    assert ran.json["targets"][0]["target"] is None
    early = min((out / "checkpoints").iterdir())
    assert safehold("select", out / "policy", early, "--log", log, "--json", "--quiet").code == 0


def test_explore_leaves_snapshots_that_collect_can_log(safehold, tmp_path):
    size = ("--total-steps", 400, "--environments", 2, "--steps-per-batch", 100, "--snapshots", 2)
    judged = ("--evaluation-episodes", 1, "--limit", 5)
    ran = safehold("explore", "ppo-lag", "--out", tmp_path / "zoo", "--env-id", TASK, *size, *judged, "--json")
    assert ran.json["snapshots"] == [entry.name for entry in load_zoo(tmp_path / "zoo").policies]
    assert safehold("explore", "ppo-lag", "--out", tmp_path / "zoo", "--env-id", TASK, *size).code == 2
    target = tmp_path / "log.hdf5"
    collected = safehold("data", "collect", TASK, "--zoo", tmp_path / "zoo", "--episodes", 8, "--out", target)
    assert collected.code == 0
    assert len(hdf5.read(target)) == 8
    assert safehold("data", "collect", TASK, "--zoo", tmp_path / "zoo", "--out", target).code == 2


def test_a_task_without_behaviours_is_told_which_have_some(safehold, tmp_path):
    ran = safehold("data", "collect", TASK, "--out", tmp_path / "x.hdf5")
    assert ran.code == 2
    assert "no behaviour policies are shipped" in ran.err
    assert list(tmp_path.iterdir()) == []


def test_demo_never_mixes_with_or_removes_what_is_not_its_own(safehold, tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    for words in ((), ("--overwrite",)):
        ran = safehold("demo", "--out", tmp_path, *words)
        assert ran.code == 2
        assert (tmp_path / "precious.txt").read_text() == "mine"
        assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]
    assert safehold("demo", "--out", tmp_path / "precious.txt", "--overwrite").code == 2
    ran = safehold("demo", "--deploy.limit", "nan", "--out", tmp_path / "new")
    assert ran.code == 2
    assert "--deploy.limit nan" in ran.err
    for limit in (0, -1):
        ran = safehold("demo", "--deploy.limit", limit, "--out", tmp_path / "new")
        assert ran.code == 2
        assert f"--deploy.limit {limit}: " in ran.err
    assert not (tmp_path / "new").exists()


def test_a_dial_is_tried_over_what_its_log_supports(safehold, log, policies):
    words = ("evaluate", policies / "cdt" / "policy", "--task", TASK, "--dial", log, "--episodes", 2)
    ran = safehold(*words, "--limit", 5, "--json")
    assert ran.code == 0
    found = json.loads(ran.out)
    assert len(found["targets"]) == found["dial"]["targets"] > 0
    assert found["dial"]["warnings"]  # ten updates make no dial
    said = safehold(*words, "--limit", 5)
    assert "Careful: " in said.out
    for wrong in ((), ("--limit", 0), ("--limit", 5, "--target", 1, 1), ("--limit", 5, "--out", "x.json")):
        assert safehold(*words, *wrong).code == 2
    other = safehold("evaluate", policies / "bc" / "policy", "--task", TASK, "--dial", log, "--limit", 5)
    assert "no dial" in other.err


def test_exploring_by_any_method_leaves_a_zoo(safehold, tmp_path):
    small = ("--method.sac.hidden", 8, "--method.sac.random-steps", 64, "--method.sac.gradient-steps", 0.05)
    shape = ("--environments", 8, "--steps-per-batch", 32, "--total-steps", 512, "--snapshots", 1)
    words = ("--env-id", "toy/PointRobot", "--limit", 0.2, *shape, "--json", "--quiet")
    for verb in ("ppo-lag", "sac-lag", "statewise-lag", "trpo-lag", "cpo", "scpo"):
        own = small if verb in ("sac-lag", "statewise-lag") else ()
        ran = safehold("explore", verb, *words, *own, "--out", tmp_path / verb)
        zoo = load_zoo(tmp_path / verb)
        assert ran.json["digest"] == zoo.digest
        assert zoo.provenance["method"] == verb.replace("-", "_")
        assert zoo.policies[0].step == 512
    refused = safehold("explore", "ppo-lag", *words, *small, "--out", tmp_path / "other")
    assert refused.code == 2
    assert "There is no flag --method.sac.hidden" in refused.err
    assert "Did you mean `safehold explore sac-lag`" in safehold("explore", "sac_lag").err


def test_a_guide_is_left_for_students_and_for_guards(safehold, tmp_path):
    core = "--method.sac-lag.sac."
    small = (f"{core}hidden", 8, f"{core}random-steps", 64, f"{core}gradient-steps", 0.05)
    shape = ("--environments", 8, "--steps-per-batch", 32, "--total-steps", 512, "--snapshots", 1)
    words = ("--limit", 0.2, *shape, *small, "--json", "--quiet")
    guided = safehold("explore", "guide", *words, "--out", tmp_path / "run")
    assert load_zoo(tmp_path / "run" / "zoo").digest == guided.json["digest"]
    guide = tmp_path / "run" / "guide"
    learnt = safehold("explore", "sagui", *words, "--method.guide", guide, "--out", tmp_path / "student")
    zoo = load_zoo(tmp_path / "student")
    assert zoo.digest == learnt.json["digest"]
    assert zoo.provenance["guide"] == load_checkpoint(guide).digest
    judged = safehold("evaluate", guide, "--task", "toy/PointRobot", "--episodes", 2, "--json", "--quiet")
    assert judged.code == 0, judged.err
    elsewhere = safehold("explore", "guide", *words, "--method.target", "toy/PointHazard", "--out", tmp_path / "other")
    assert elsewhere.code == 3
    assert "must be in the target's" in elsewhere.err


class TestExploreLeavesALog:
    RUN = ("explore", "ppo-lag", "--env-id", "toy/PointRobot", "--environments", "4", "--steps-per-batch", "50")
    SMALL = ("--total-steps", "1200", "--snapshots", "1", "--evaluation-episodes", "1", "--method.hidden", "8")

    def test_that_offline_methods_train_on(self, safehold, tmp_path):
        log, zoo = tmp_path / "met.hdf5", tmp_path / "zoo"
        assert safehold(*self.RUN, *self.SMALL, "--out", zoo, "--log", log, "--log-every", 2).code == 0
        assert safehold("data", "summary", log).code == 0
        cloning = ("--steps", 3, "--hidden", 8, "--limits", "depth", 5)
        assert safehold("train", "bc", "--data", log, "--out", tmp_path / "bc", *cloning).code == 0

    def test_only_if_both_are_said(self, safehold, tmp_path):
        refused = safehold(*self.RUN, *self.SMALL, "--out", tmp_path / "zoo", "--log", tmp_path / "met.hdf5")
        assert refused.code == 2
        assert "--log-every" in refused.err
        assert not (tmp_path / "zoo").exists()
