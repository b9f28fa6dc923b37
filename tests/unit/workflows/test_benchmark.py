"""Benchmarks on a toy world: what is run, kept, not repeated, and how it is scored."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from safehold.cli.benchmark import read_config
from safehold.core.errors import DataError, IntegrityError, UsageError
from safehold.core.intervals import bootstrap_interval
from safehold.core.seeding import Streams
from safehold.data import hdf5
from safehold.data.dataset import OfflineDataset
from safehold.envs.toy import dial
from safehold.rollout.episodes import Job, rollouts
from safehold.workflows import benchmark
from safehold.workflows.benchmark import (
    RESULT,
    BenchmarkConfig,
    cells,
    overall,
    run_benchmark,
    run_share,
    scores,
    table,
)

TINY = {
    "cdt": {"width": 8, "heads": 2, "layers": 1, "context": 2, "batch_size": 8, "steps": 6, "cost_loss": "value"},
    "bc": {"hidden": [8], "batch_size": 8, "steps": 6},
}


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    family = dial.DialFamily()
    targets = [(reward, cost) for reward in np.linspace(0, 100, 6) for cost in np.linspace(0, 40, 6)]
    seeds = Streams(0).episode_seeds("log", 0, len(targets))
    jobs = [Job(family.at(z), (seed,)) for z, seed in zip(targets, seeds, strict=True)]
    episodes = [episode for of_job in rollouts("toy/Dial", jobs, rng_seed=0) for episode in of_job]
    path = tmp_path_factory.mktemp("log") / "log.hdf5"
    hdf5.write(path, OfflineDataset.of(episodes, dial.TASK.spec))
    return path


def config(log, **changed):
    said = {
        "tasks": ["toy/Dial"],
        "methods": {
            "cdt": {"method": "cdt", "settings": TINY["cdt"]},
            "bc-all": {"method": "bc", "settings": TINY["bc"]},
            "bc-safe": {"method": "bc", "safe": True, "settings": TINY["bc"]},
        },
        "limits": [10.0, 20.0],
        "seeds": [0, 1],
        "episodes": 3,
        "logs": {"toy/Dial": str(log)},
    }
    return BenchmarkConfig.model_validate({**said, **changed})


@pytest.fixture(scope="module")
def whole(log, tmp_path_factory):
    directory = tmp_path_factory.mktemp("benchmark")
    return directory, run_benchmark(config(log), directory)


def test_every_method_runs_on_every_seed_and_cloning_of_safe_episodes_once_a_limit(log, whole):
    directory, _ = whole
    assert len(list(cells(config(log)))) == 2 * (1 + 1 + 2)
    assert len(list(directory.rglob(RESULT))) == 8
    record = json.loads((directory / "toy-Dial" / "bc-safe-10" / "seed-1" / RESULT).read_text())
    assert record["settings"]["limits"] == {"cost": 10.0}
    assert [entry["limit"] for entry in record["limits"]] == [10.0]


def test_a_dial_is_asked_for_the_best_logged_reward_under_the_limit(log, whole):
    directory, _ = whole
    dataset = hdf5.read(log)
    record = json.loads((directory / "toy-Dial" / "cdt" / "seed-0" / RESULT).read_text())
    for entry in record["limits"]:
        kept = dataset.reward_returns[dataset.cost_returns[:, 0] <= entry["limit"]]
        assert entry["target"] == [kept.max(), entry["limit"]]


def test_a_box_stays_as_trained_and_what_has_no_dial_is_asked_for_nothing(log, tmp_path):
    size = {"hidden": [8], "batch_size": 8, "steps": 3}
    methods = {
        "lspc": {"method": "lspc", "settings": {**size, "latent": 2, "epsilon": 0.6}},
        "iql": {"method": "iql", "settings": size},
    }
    run_benchmark(config(log, methods=methods, seeds=[0]), tmp_path)
    for name, target in (("lspc", [0.6]), ("iql", None)):
        record = json.loads((tmp_path / "toy-Dial" / name / "seed-0" / RESULT).read_text())
        assert [entry["target"] for entry in record["limits"]] == [target, target]


@pytest.mark.parametrize("method", ["caps", "ccac"])
def test_a_dial_for_limits_is_trained_once_and_asked_for_each(log, tmp_path, method):
    size = {"hidden": [8], "batch_size": 8, "steps": 3, **({"warm_up": 1} if method == "ccac" else {})}
    only = config(log, methods={method: {"method": method, "settings": size}}, seeds=[0])
    (cell,) = cells(only)
    run_benchmark(only, tmp_path)
    record = json.loads((tmp_path / cell.place / RESULT).read_text())
    assert [entry["target"] for entry in record["limits"]] == [[10.0], [20.0]]


def test_benchmarks_that_are_kept_can_be_run_as_they_are():
    """Settings exist, and what has a dial is trained once a seed."""
    kept = sorted((Path(__file__).parents[3] / "reproductions").glob("*.toml"))
    assert kept
    for path in kept:
        found = read_config(path)
        for method in found.methods.values():
            method.config({})
    limited = {name for name, method in read_config(kept[0]).methods.items() if method.limited}
    assert limited == {"bc-safe", "bcq-lag", "bear-lag", "cpq", "coptidice"}


def test_methods_for_stated_limits_are_trained_for_each(log, tmp_path):
    settings = {"hidden": [8], "batch_size": 8, "steps": 3}
    made = config(log, methods={"coptidice": {"method": "coptidice", "settings": settings}}, seeds=[0])
    run_benchmark(made, tmp_path)
    for limit in made.limits:
        record = json.loads((tmp_path / "toy-Dial" / f"coptidice-{limit:g}" / "seed-0" / RESULT).read_text())
        assert record["settings"]["limits"] == {record["cost_name"]: limit}
        assert [(entry["limit"], entry["target"]) for entry in record["limits"]] == [(limit, None)]


def test_methods_meet_the_same_episodes(log, whole, monkeypatch, tmp_path):
    seen = {}

    def listening(task, policies, **how):
        seen.setdefault((how["streams"].seed if hasattr(how["streams"], "seed") else None, how["stream"]), []).append(
            tuple(how["streams"].episode_seeds(how["stream"], 0, how["episodes"]))
        )
        return evaluated(task, policies, **how)

    evaluated = benchmark.evaluate
    monkeypatch.setattr(benchmark, "evaluate", listening)
    run_benchmark(config(log, seeds=[0]), tmp_path)
    assert len(seen) == 2
    for seeds in seen.values():
        assert len(seeds) == 3
        assert len(set(seeds)) == 1


def test_nothing_is_run_twice_and_what_is_missing_is_run(log, whole, monkeypatch, tmp_path):
    directory, found = whole
    before = {path: path.read_bytes() for path in directory.rglob(RESULT)}
    monkeypatch.setattr("safehold.workflows.train.train", lambda *_, **__: pytest.fail("trained again"))
    assert run_benchmark(config(log), directory) == found
    lost = directory / "toy-Dial" / "bc-all" / "seed-1" / RESULT
    lost.unlink()
    with pytest.raises(DataError, match="run the benchmark to its end"):
        scores(config(log), directory)
    assert run_benchmark(config(log), directory) == found  # the policy is there, only the episodes run again
    assert json.loads(lost.read_text())["limits"] == json.loads(before[lost])["limits"]


def test_results_of_another_benchmark_are_never_mixed_in(log, whole):
    directory, _ = whole
    for changed in ({"episodes": 4}, {"methods": {"cdt": {"method": "cdt"}}}):
        with pytest.raises(UsageError, match="another benchmark"):
            run_benchmark(config(log, **changed), directory)


def test_a_policy_of_another_benchmark_is_not_evaluated_as_this_ones(log, tmp_path):
    """As after a run that was killed between its training and its result."""
    methods = {"bc-all": {"method": "bc", "settings": TINY["bc"]}}
    run_benchmark(config(log, methods=methods, seeds=[0]), tmp_path)
    (tmp_path / "toy-Dial" / "bc-all" / "seed-0" / RESULT).unlink()
    other = {"bc-all": {"method": "bc", "settings": {**TINY["bc"], "steps": 7}}}
    with pytest.raises(DataError, match="trained with config"):
        run_benchmark(config(log, methods=other, seeds=[0]), tmp_path)


def test_a_log_of_another_task_is_refused_before_anything_is_trained(log, tmp_path):
    methods = {"bc-all": {"method": "bc", "settings": TINY["bc"]}}
    said = {"methods": methods, "tasks": ["toy/Corridor"], "logs": {"toy/Corridor": str(log)}}
    with pytest.raises(DataError, match="the log is of 'toy/Dial' with"):
        run_benchmark(config(log, **said), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_number_of_workers_changes_nothing(log, whole, tmp_path):
    _, found = whole
    assert run_benchmark(config(log), tmp_path, workers=2) == found


def test_shares_do_the_whole_between_them_and_each_its_own(log, whole, tmp_path):
    _, found = whole
    for place in range(3):
        run_share(config(log), tmp_path, share=(place, 3))
        assert len(list(tmp_path.rglob(RESULT))) == sum(len(range(i, 8, 3)) for i in range(place + 1))
    assert scores(config(log), tmp_path) == found
    with pytest.raises(UsageError, match="of 3 shares the first is 0 and the last 2"):
        run_share(config(log), tmp_path, share=(3, 3))


def test_a_backend_that_is_not_installed_is_named(log, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"safehold\[ray\]"):
        run_share(config(log), tmp_path, backend="ray")


def test_scores_are_those_of_dsrl(log, whole):
    directory, found = whole
    dataset = hdf5.read(log)
    low, high = dataset.reward_returns.min(), dataset.reward_returns.max()
    (one,) = [score for score in found if score.method == "bc-all" and score.limit == 20.0]
    records = [json.loads((directory / "toy-Dial" / "bc-all" / f"seed-{seed}" / RESULT).read_text()) for seed in (0, 1)]
    entries = [next(e for e in record["limits"] if e["limit"] == 20.0) for record in records]
    rewards, costs = ([np.mean(entry[name]) for entry in entries] for name in ("rewards", "costs"))
    assert one.reward.estimate == pytest.approx((np.mean(rewards) - low) / (high - low))
    assert one.cost.estimate == pytest.approx(np.mean(costs) / 20.0)
    assert one.unsafe.estimate == np.mean([cost > 20.0 for cost in costs])
    assert one.reward.low <= one.reward.estimate <= one.reward.high
    assert table(found).count("\n| toy/Dial |") == 6


def test_a_limit_of_zero_is_normalised_by_one_more(log, tmp_path):
    methods = {"bc-all": {"method": "bc", "settings": TINY["bc"]}}
    (one,) = run_benchmark(config(log, methods=methods, limits=[0.0], seeds=[0]), tmp_path)
    assert one.cost.estimate == pytest.approx(one.raw_cost.estimate + 1.0)


def test_a_broken_result_is_named(log, whole, tmp_path):
    methods = {"bc-all": {"method": "bc", "settings": TINY["bc"]}}
    run_benchmark(config(log, methods=methods, seeds=[0]), tmp_path)
    place = tmp_path / "toy-Dial" / "bc-all" / "seed-0" / RESULT
    whole = json.loads(place.read_text())
    (entry, *_) = whole["limits"]
    entries = (1, {**entry, "limit": None}, {**entry, "costs": [[1.0, 2.0, 3.0]]}, {**entry, "rewards": [1.0]})
    broken = [{**whole, "limits": [one]} for one in (*entries, {**entry, "costs": [1.0, 2.0, float("nan")]})]
    broken += [{**whole, "logged_rewards": value} for value in ("ab", [0.0], [float("nan"), 1.0], None)]
    for content in ("{", "[]", "{}", "[" * 100_000, *(json.dumps(one) for one in broken)):
        place.write_text(content)
        with pytest.raises(IntegrityError, match="no result"):
            run_benchmark(config(log, methods=methods, seeds=[0]), tmp_path)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"methods": {"cdt": {"method": "cdt", "safe": True}}}, "safe = true"),
        ({"methods": {"x": {"method": "sac"}}}, "sac"),
        ({"limits": [-1.0]}, "limits"),
        ({"tasks": []}, "tasks"),
        ({"seeds": []}, "seeds"),
        ({"limits": []}, "limits"),
        ({"seeds": [0, 1, 0]}, "0 is there more than once"),
        ({"limits": [10.0, 10.00000001]}, "two runs would lie in"),
        ({"methods": {"../../elsewhere": {"method": "bc"}}}, "no name of a method"),
        ({"methods": {"": {"method": "bc"}}}, "no name of a method"),
        ({"methods": {"a-10": {"method": "bc"}, "a": {"method": "bc", "safe": True}}}, "two runs would lie in"),
        ({"logs": {"toy/Dail": "log.hdf5"}}, "none of the tasks"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(log, changed, why):
    with pytest.raises(ValueError, match=why):
        config(log, **changed)


def test_unknown_settings_are_refused_before_anything_runs(log, tmp_path):
    for method in ({"method": "cdt", "preset": "big"}, {"method": "cdt", "settings": {"layer": 2}}):
        with pytest.raises(UsageError, match=r"big|layer"):
            run_benchmark(config(log, methods={"cdt": method}), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_bootstrap_over_seeds_and_episodes_covers_the_mean_of_both():
    rng, hits, runs = np.random.default_rng(0), 0, 300
    for _ in range(runs):  # seeds differ by sd 1, episodes by sd 2
        groups = [rng.normal(rng.normal(0.0, 1.0), 2.0, 20) for _ in range(10)]
        interval = bootstrap_interval(groups, rng, draws=300)
        hits += interval.low <= 0.0 <= interval.high
    assert 0.85 <= hits / runs <= 0.99  # ten seeds: percentile intervals are a little short


def test_bootstrap_of_equal_values_is_a_point_and_nan_makes_it_unknown():
    rng = np.random.default_rng(0)
    point = bootstrap_interval([np.full(3, 2.0), np.full(5, 2.0)], rng)
    assert (point.low, point.estimate, point.high) == (2.0, 2.0, 2.0)
    assert not bootstrap_interval([np.array([1.0, np.nan]), np.ones(2)], rng).known
    with pytest.raises(UsageError, match="an entry each"):
        bootstrap_interval([np.ones(2), np.zeros(0)], rng)


def test_over_all_tasks_stand_interquartile_means_of_normalised_runs(log, whole):
    directory, _ = whole
    found = overall(config(log), directory)
    assert [(one.limit, one.method) for one in found] == [
        (limit, name) for limit in (10.0, 20.0) for name in ("cdt", "bc-all", "bc-safe")
    ]
    records = [json.loads((directory / "toy-Dial" / "cdt" / f"seed-{seed}" / RESULT).read_text()) for seed in (0, 1)]
    low, high = records[0]["logged_rewards"]
    entries = [record["limits"][1] for record in records]  # at 20; of two runs none is put aside
    assert found[3].reward.estimate == pytest.approx(
        np.mean([np.mean(e["rewards"]) - low for e in entries]) / (high - low)
    )
    assert found[3].cost.estimate == pytest.approx(np.mean([np.mean(e["costs"]) for e in entries]) / 20.0)
    assert found[3].reward.n == 2
    assert "Over all tasks" in table([], found)
    assert "Over all tasks" not in table([])
