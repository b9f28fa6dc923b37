"""The whole road in the toy world: what its summary says, what survives an interruption, and what is refused."""

import dataclasses
import json
import multiprocessing
import os
import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import h5py
import jaxtyping
import numpy as np
import pytest
from scipy.stats import spearmanr, ttest_1samp

from safehold.cli.main import main
from safehold.core.errors import EnvironmentFault, IntegrityError, UsageError
from safehold.core.seeding import Streams
from safehold.data import hdf5
from safehold.deploy.optimizer import Deployment
from safehold.deploy.verify import verify
from safehold.envs.toy import dial
from safehold.ledger.events import Abandoned, Asked, Seeded, Told
from safehold.ledger.run import RunDirectory
from safehold.workflows import road
from safehold.workflows.deploy import DeployConfig
from safehold.workflows.road import RoadConfig, RoadSummary, finished, run_road, verify_road

pytestmark = pytest.mark.usefixtures("toy_size")

CONFIG = RoadConfig(
    task="toy/Dial",
    workers=1,
    dial_episodes=3,
    deployed_episodes=10,
    evaluation_episodes=10,
    deploy=DeployConfig(
        certificate="paper",
        iterations=6,
        episodes_per_ask=8,
        reward_points=9,
        cost_points=11,
        support_minimum=3,
        support_reward=0.15,
        lengthscale_reward=1.0,
        lengthscale_cost=1.0,
        dial_error=0.3,
    ),
)
LIMIT = CONFIG.deploy.limit
FORK = multiprocessing.get_context("fork")


class Listener:
    """A narrator that does something at every place that the road tells of."""

    def __init__(self, at=lambda _: None):
        self.at = at

    def stage(self, title):
        self.at(f"stage {title}")

    def line(self, text):
        self.at(f"line {text}")

    def progress(self, what, done, total):
        if done == total // 2:
            self.at(f"half-way through {what}")

    def table(self, title, *_):
        self.at(f"table {title}")


SILENT = Listener()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, toy_size):
    """A run that nobody interrupted; not to be changed."""
    directory = tmp_path_factory.mktemp("unbroken") / "run"
    run_road(directory, CONFIG, SILENT)
    return directory


@pytest.fixture
def run(unbroken, tmp_path):
    """A copy of it that a test may change."""
    return Path(shutil.copytree(unbroken, tmp_path / "run"))


def run_undrawn(directory, narrator=SILENT):
    """The whole road, checks of shapes and the report left out: they take longer than all the rest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        patch.setattr(road, "run_page", lambda run: run.name)
        return run_road(directory, CONFIG, narrator)


def demo(directory, config=CONFIG):
    """`safehold demo` with every setting spelled out; its exit code."""
    words = ["demo", "--out", str(directory)]
    for name, value in config.to_json().items():
        settings = {f"{name}.{n}": v for n, v in value.items()} if isinstance(value, dict) else {name: value}
        for n, v in settings.items():
            words += [f"--{n.replace('_', '-')}", *map(str, v if isinstance(v, list) else [v])]
    return main(words)


def everything(directory):
    """Bytes and time of change of every file, but for what SQLite keeps beside a database, and who was here last."""
    return {
        path.relative_to(directory): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in directory.rglob("*")
        if path.is_file() and not path.name.endswith(("-wal", "-shm", "runner.lock"))
    }


def said(directory):
    return json.loads((directory / "summary.json").read_text())


def but_for_seconds(directory):
    return {name: value for name, value in said(directory).items() if not name.startswith("seconds")}


def chain(directory):
    """Hashes of the ledger's events, which cover everything but the time of day."""
    with RunDirectory(directory / "deployment").open(read_only=True) as ledger:
        return [record.hash for record in ledger.read()]


def sums(directory):
    """Sums of what a run leaves, but for what tells seconds or the time."""
    listed = json.loads((directory / "manifest.json").read_text())["sha256"]
    return {name: digest for name, digest in listed.items() if name not in ("summary.json", "report.html")}


# What the summary says --------------------------------------------------------------------------------------------


def recomputed(directory):
    """The summary without its seconds, from the ledger, the log and the raw returns of fresh episodes alone."""
    judged = json.loads((directory / "evaluations.json").read_text())["targets"]
    log = hdf5.read(directory / "episodes.hdf5")
    with Deployment.open(directory / "deployment", read_only=True) as deployment:
        events, status = deployment.events(), deployment.status()
    asked = [event for event in events if isinstance(event, Asked)]
    told = [event for event in events if isinstance(event, Told)]
    lost = [event for event in events if isinstance(event, Abandoned) and event.deployed]
    acted = {event.trial for event in (*told, *lost)}
    best = None if status.recommendation is None else status.recommendation.target
    seeds = next(event for event in events if isinstance(event, Seeded)).targets

    def under(label):
        return [entry for entry in judged if entry["label"] == label]

    def returns(name, label, target):
        found = under(label)
        if not found:
            assert label == "final"
            return {f"{name}_reward_return": None, f"{name}_cost_return": None}
        (entry,) = found
        assert entry["target"] == (None if target is None else list(target))
        assert len(entry["rewards"]) == len(entry["costs"]) == CONFIG.evaluation_episodes
        return {
            f"{name}_reward_return": np.mean(entry["rewards"]),
            f"{name}_cost_return": np.mean(entry["costs"]),
        }

    def quality(name, entries):
        targets = np.array([entry["target"] for entry in entries])
        rewards, costs = ([np.mean(entry[kind]) for entry in entries] for kind in ("rewards", "costs"))
        return {
            f"{name}_reward_rank_correlation": spearmanr(targets[:, 0], rewards).statistic,
            f"{name}_cost_rank_correlation": spearmanr(targets[:, 1], costs).statistic,
            f"{name}_targets": len(entries),
        }

    deployed = {tuple(entry["target"]): entry["costs"] for entry in under("deployed")}
    assert deployed.keys() == {event.target for event in asked if event.trial in acted}
    assert all(len(costs) == CONFIG.deployed_episodes for costs in deployed.values())
    assert asked[0].target in seeds
    naive = (log.reward_returns.max(), LIMIT)
    return {
        "task": log.spec.env_id,
        "limit": asked[0].certificate.limits[0].value,
        "delta": asked[0].certificate.delta,
        "iterations": len(asked),
        "episodes": sum(len(event.rewards) for event in told),
        "distinct_targets": len(deployed),
        "unsafe_targets": sum(ttest_1samp(c, LIMIT, alternative="greater").pvalue < 0.05 for c in deployed.values()),
        "raw_unsafe_targets": sum(np.mean(costs) > LIMIT for costs in deployed.values()),
        "unknown_trials": len(lost),
        "final_target": None if best is None else list(best),
        "seed_target": list(asked[0].target),
        "naive_target": list(naive),
        **returns("final", "final", best),
        **returns("seed", "seed", asked[0].target),
        **returns("naive", "naive", naive),
        **returns("bc_safe", "bc_safe", None),
        **quality("dial", under("dial")),
        **quality("near_dial", [e for e in under("dial") if e["target"][1] <= CONFIG.deploy.cost_span * LIMIT]),
        "best_logged_safe_reward": max(log.reward_returns[log.cost_returns[:, 0] <= LIMIT]),
    }


def check_summary(directory):
    """Every field that a summary promises is there, and follows from ledger, log and evaluations."""
    found, expected = said(directory), recomputed(directory)
    assert list(found) == [field.name for field in dataclasses.fields(RoadSummary)]
    assert found.keys() - expected.keys() == {"seconds", "seconds_by_stage", "held"}
    for name, value in expected.items():
        assert found[name] == (pytest.approx(value, rel=1e-12) if isinstance(value, float) else value), name
    assert list(found["seconds_by_stage"]) == ["data", "training", "dial", "deployment", "evaluation", "report"]
    assert found["seconds"] == pytest.approx(sum(found["seconds_by_stage"].values()), abs=0.4)  # each to a tenth
    assert verify(directory / "deployment") == []


def test_the_summary_follows_from_ledger_log_and_evaluations(unbroken):
    check_summary(unbroken)
    found = said(unbroken)
    assert found["iterations"] == CONFIG.deploy.iterations
    assert found["distinct_targets"] > 2
    assert found["final_reward_return"] > found["seed_reward_return"]
    assert found["final_cost_return"] <= LIMIT
    assert found["held"] is None


def to_evaluate_again(run):
    """What a run was before its evaluations."""
    for name in ("manifest.json", "summary.json", "report.html", "evaluations.json"):
        (run / name).unlink()


def to_deploy_again(run):
    """What a run was before its deployment."""
    to_evaluate_again(run)
    shutil.rmtree(run / "deployment")


class Weather:
    """Multiplies what the world charges, from one stage of the road on."""

    def __init__(self, patch, stage, factor):
        self.factor = 1.0
        step = dial.Dial.step

        def dearer(world, action):
            *rest, info = step(world, action)
            return *rest, {"cost": self.factor * info["cost"]}

        def at(place):
            if place.startswith(f"stage {stage}"):
                self.factor = factor

        patch.setattr(dial.Dial, "step", dearer)
        self.narrator = Listener(at)


def test_unsafe_targets_are_counted_in_fresh_episodes(run, monkeypatch):
    to_evaluate_again(run)
    run_undrawn(run, Weather(monkeypatch, "Evaluation", 2.0).narrator)
    check_summary(run)
    found = said(run)
    assert 0 < found["unsafe_targets"] <= found["raw_unsafe_targets"] < found["distinct_targets"]


def test_a_trial_that_broke_off_is_counted_and_never_recommended(run, monkeypatch):
    to_deploy_again(run)
    third = Streams(CONFIG.seed).episode_seeds("deployment", 2 * CONFIG.deploy.episodes_per_ask, 1)[0]
    with monkeypatch.context() as patch:
        reset, step = dial.Dial.reset, dial.Dial.step

        def marked(world, *, seed):
            world.broken = seed == third
            return reset(world, seed=seed)

        def without_number(world, action):
            *rest, info = step(world, action)
            return *rest, {"cost": float("nan")} if world.broken else info

        patch.setattr(dial.Dial, "reset", marked)
        patch.setattr(dial.Dial, "step", without_number)
        with pytest.raises(EnvironmentFault, match=f"seed {third}, step 0: cost 'cost' is float nan"):
            run_undrawn(run)
    assert not finished(run)
    run_undrawn(run)
    check_summary(run)
    found = said(run)
    assert found["unknown_trials"] == 1
    with Deployment.open(run / "deployment", read_only=True) as deployment:
        (revoked,) = deployment.status().revoked
    assert found["final_target"] != list(revoked)


def test_a_run_that_holds_says_so_and_recommends_nothing(run, monkeypatch, capsys):
    to_deploy_again(run)
    run_road(run, CONFIG, Weather(monkeypatch, "Deployment", 7.0).narrator)
    check_summary(run)
    found = said(run)
    assert found["final_target"] is None
    assert found["held"].startswith(("NoCertifiedTarget: ", "Alarm: "))
    assert demo(run) == 6
    assert "finished run" in capsys.readouterr().out


# Interruptions ----------------------------------------------------------------------------------------------------


class Interrupt(BaseException):
    """What no stage handles."""


def raise_interrupt():
    raise Interrupt


def kill_this_process():
    os.kill(os.getpid(), signal.SIGKILL)


def walk(directory, notes, interrupt, beginnings=""):
    """Walks up to the first place that no earlier walk came to; `notes` has the places passed.

    A place counts if its name begins with one of `beginnings`.
    """
    passed = set(notes.read_text().splitlines()) if notes.exists() else set()
    streams, trial = Streams(CONFIG.seed), CONFIG.deploy.episodes_per_ask
    in_trials = {streams.episode_seeds("deployment", number, 1)[0] for number in (trial + 1, 3 * trial)}

    def at(place):
        if place.startswith(beginnings) and place not in passed and not place.startswith("line   note"):
            passed.add(place)
            with notes.open("a") as file:
                file.write(f"{place}\n")
            interrupt()

    def told_of(moves):
        def move(source, target):
            at(f"before {Path(target).parent.name}/{Path(target).name}")
            moved = moves(source, target)
            if Path(target).name == "manifest.json":
                at("the end")
            return moved

        return move

    reset = dial.Dial.reset

    def in_trial(world, *, seed):
        if seed in in_trials:
            at(f"reset {seed}")
        return reset(world, seed=seed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", told_of(os.replace))
        patch.setattr(Path, "rename", told_of(Path.rename))
        patch.setattr(dial.Dial, "reset", in_trial)
        run_undrawn(directory, Listener(at))


def raised(directory, notes):
    """Whether a walk was interrupted by an exception that leaves through every stage."""
    try:
        walk(directory, notes, raise_interrupt, beginnings=("stage ", "reset ", "half-way "))
    except Interrupt:
        return True
    return False


def killed(directory, notes):
    """Whether a walk was interrupted by SIGKILL to its process."""

    def child():
        walk(directory, notes, kill_this_process)

    process = FORK.Process(target=child)
    process.start()
    process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("interrupted", [raised, killed])
def test_a_run_that_is_interrupted_at_every_turn_ends_as_an_unbroken_one(interrupted, unbroken, tmp_path):
    directory, notes = tmp_path / "run", tmp_path / "places.txt"
    while interrupted(directory, notes):
        last = notes.read_text().splitlines()[-1]
        assert finished(directory) == (last == "the end"), last
    places = notes.read_text().splitlines()
    assert sum(place.startswith("stage ") for place in places) == 6
    assert sum(place.startswith("half-way ") for place in places) == 9  # log, two trainings, dial, five evaluations
    assert sum(place.startswith("reset ") for place in places) == 2
    if interrupted is killed:
        files = {"config.json", "episodes.hdf5", "evaluations.json", "report.html", "summary.json", "manifest.json"}
        written = {place.removeprefix("before ") for place in places if place.startswith("before ")}
        assert written > {f"run/{name}" for name in files} | {"cdt/policy", "deployment/ledger.head"}
        assert sum(" target R " in place for place in places) == CONFIG.deploy.iterations
    assert but_for_seconds(directory) == but_for_seconds(unbroken)
    assert chain(directory) == chain(unbroken)
    assert sums(directory) == sums(unbroken)
    verify_road(directory, CONFIG)


# A finished run ---------------------------------------------------------------------------------------------------


def test_a_finished_run_is_verified_and_shown_again_without_a_change(unbroken, capsys):
    before = everything(unbroken)
    again = run_road(unbroken, CONFIG, SILENT)
    assert json.loads(json.dumps(dataclasses.asdict(again))) == said(unbroken)
    assert demo(unbroken) == 0
    shown = capsys.readouterr().out
    assert "every sum, the chain and every ask were checked" in shown
    assert demo(unbroken, CONFIG.model_copy(update={"workers": 3})) == 0
    assert everything(unbroken) == before


def edit(name, old, new):
    def tamper(run):
        text = (run / name).read_text()
        assert old in text
        (run / name).write_text(text.replace(old, new, 1))

    return tamper


def edit_row(run):
    with closing(sqlite3.connect(run / "deployment" / "ledger.sqlite")) as database, database:
        database.execute("DROP TRIGGER event_is_never_updated")
        changed = database.execute("UPDATE event SET body = replace(body, '20.0', '30.0') WHERE kind = 'asked'")
        assert changed.rowcount == CONFIG.deploy.iterations


def append_event(run):
    with Deployment.open(run / "deployment") as deployment:
        deployment.stop("afterwards")


def swap_weights(run):
    weights = run / "cdt" / "policy" / "tensors.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)


def swap_policy(run):
    shutil.rmtree(run / "cdt" / "policy")
    shutil.copytree(run / "bc_safe" / "policy", run / "cdt" / "policy")


def edit_episodes(run):
    with h5py.File(run / "episodes.hdf5", "r+") as file:
        file["rewards"][0] += 1.0


def remove(name):
    return lambda run: (run / name).unlink()


@pytest.mark.parametrize(
    "tamper",
    [
        pytest.param(edit("summary.json", '"unsafe_targets": 0', '"unsafe_targets": 1'), id="summary"),
        pytest.param(edit("summary.json", '"episodes": ', '"episodes": 1'), id="one digit of the summary"),
        pytest.param(edit("evaluations.json", '"costs": [', '"costs": [1.0, '), id="evaluations"),
        pytest.param(edit("report.html", "<", " <"), id="report"),
        pytest.param(edit("config.json", '"seed": 0', '"seed": 1'), id="configuration"),
        pytest.param(edit("manifest.json", '"summary.json"', '"summary"'), id="a sum left out of the manifest"),
        pytest.param(edit("manifest.json", "{", "["), id="manifest"),
        pytest.param(remove("report.html"), id="no report"),
        pytest.param(remove("manifest.json"), id="no manifest"),
        pytest.param(remove("deployment/ledger.sqlite"), id="no ledger"),
        pytest.param(edit_row, id="a row of the ledger"),
        pytest.param(append_event, id="a row more"),
        pytest.param(swap_weights, id="one bit of the weights"),
        pytest.param(swap_policy, id="another policy"),
        pytest.param(edit_episodes, id="episodes"),
    ],
)
def test_a_finished_run_that_was_altered_is_refused_and_left_as_it_is(tamper, run, capsys):
    tamper(run)
    before = everything(run)
    with pytest.raises(IntegrityError):
        run_road(run, CONFIG, SILENT)
    assert demo(run) == 4
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("safehold: IntegrityError: ")
    assert str(run) in captured.err
    assert everything(run) == before


# Directories of others --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("complete", [True, False], ids=["finished", "unfinished"])
@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"dial_episodes": 4}, {"deploy": CONFIG.deploy.model_copy(update={"limit": 25.0})}], ids=str
)
def test_a_run_of_another_configuration_is_refused_by_name(run, complete, change, capsys):
    if not complete:
        (run / "manifest.json").unlink()
    before, other = everything(run), CONFIG.model_copy(update=change)
    with pytest.raises(UsageError, match=rf"another configuration \(different: {next(iter(change))}\)"):
        run_road(run, other, Listener())
    assert demo(run, other) == 2
    assert capsys.readouterr().out == ""
    assert everything(run) == before


@pytest.mark.parametrize("name", ["notes.txt", "manifest.txt", ".git", "episodes.hdf5"])
def test_nothing_is_written_beside_what_is_not_ours(tmp_path, name):
    (tmp_path / name).write_text("mine")
    before = everything(tmp_path)
    with pytest.raises(UsageError, match="is no run of this kind"):
        run_road(tmp_path, CONFIG, SILENT)
    assert demo(tmp_path) == 2
    assert everything(tmp_path) == before


@pytest.mark.parametrize("name", ["config.json", "evaluations.json", "clock.json"])
@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, "\xff"])
def test_an_unfinished_run_with_a_broken_record_is_refused(run, name, text, capsys):
    (run / "manifest.json").unlink()
    (run / "summary.json").unlink()
    (run / name).write_text(text, encoding="latin-1")
    before = everything(run)
    assert demo(run) == 4
    assert f"IntegrityError: {run / name}" in capsys.readouterr().err
    if name == "evaluations.json":  # read after two stages, whose seconds were noted
        (run / "clock.json").unlink()
    assert everything(run) == before
