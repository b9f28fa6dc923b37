import numpy as np
import pytest

from safehold.core.errors import UsageError
from safehold.core.seeding import Streams
from safehold.learn.online.ppo_lag import PPOLagConfig
from safehold.learn.online.zoo import Zoo
from safehold.workflows.collect import RELAYS, careful_of, collect, packaged_zoo, plan, reckless_of, shipped
from safehold.workflows.explore import ExploreConfig, evaluate, explore


@pytest.fixture(scope="module")
def zoo() -> Zoo:
    config = ExploreConfig(
        env_id="toy/PointHazard",
        limit=5.0,  # no run of relays: every policy acts alone
        total_steps=4096,
        environments=8,
        steps_per_batch=128,
        snapshots=4,
        evaluation_episodes=1,
        method=PPOLagConfig(hidden=(8,)),
    )
    return Zoo(env_id="toy/PointHazard", policies=explore(config).snapshots, provenance={}, digest="0" * 64)


def test_the_log_does_not_depend_on_the_number_of_workers(zoo):
    alone = collect("toy/PointHazard", seed=1, episodes=20, zoo=zoo)
    together = collect("toy/PointHazard", seed=1, episodes=20, zoo=zoo, workers=2)
    assert alone.digest == together.digest
    assert collect("toy/PointHazard", seed=2, episodes=20, zoo=zoo).digest != alone.digest


def test_every_behaviour_acts_and_the_log_says_which(zoo):
    progress: list[tuple[int, int]] = []
    log = collect(
        "toy/PointHazard", seed=1, episodes=21, zoo=zoo, on_progress=lambda done, total: progress.append((done, total))
    )
    names = [behaviour.name for behaviour in plan(zoo, Streams(1)["plan"])]
    assert log.provenance["behaviours"] == names
    assert log.provenance["zoo"] == zoo.digest
    assert log.group is not None
    counts = np.bincount(log.group)
    assert len(counts) == len(names)
    assert counts.sum() == 21
    assert counts.max() - counts.min() <= 1
    assert progress == [(done, 21) for done in range(1, 22)]


def test_fewer_episodes_than_behaviours_are_refused(zoo):
    with pytest.raises(UsageError, match="each acts at least once"):
        collect("toy/PointHazard", seed=1, episodes=3, zoo=zoo)


def test_a_zoo_of_another_world_is_refused(zoo):
    with pytest.raises(UsageError, match=r"trained in 'toy/PointHazard', not in 'toy/Corridor'"):
        collect("toy/Corridor", seed=1, zoo=zoo)


def test_a_world_without_a_zoo_is_refused_and_those_with_one_are_named():
    with pytest.raises(UsageError, match=r"for 'toy/Corridor', only for: .*HalfCheetahVelocity"):
        packaged_zoo("toy/Corridor")


def test_the_shipped_zoo_spans_the_benchmark():
    zoo = packaged_zoo("HalfCheetahVelocity")
    quiet = [entry.evaluations[0] for entry in zoo.policies]
    assert max(judged.reward for judged in quiet if judged.cost <= 20) > 2700
    assert max(judged.reward for judged in quiet) > 3500
    assert max(judged.cost for judged in quiet) > 250
    limits = {entry.limit for entry in zoo.policies}
    assert limits == {5.0, 20.0, 40.0, 80.0, 150.0, 250.0, None}


@pytest.mark.parametrize("env_id", shipped())
def test_every_shipped_zoo_has_careful_and_reckless_policies_and_something_between(env_id):
    zoo = packaged_zoo(env_id)
    assert zoo.env_id == env_id
    assert len({entry.name for entry in zoo.policies}) == len(zoo.policies)
    assert {entry.seed for entry in zoo.policies} == {0}
    careful, reckless = careful_of(zoo.policies), reckless_of(zoo.policies)
    best = max(entry.evaluations[0].reward for entry in careful)
    assert len(careful) >= 2
    assert len(reckless) >= 1
    assert max(entry.evaluations[0].reward for entry in reckless) > best  # recklessness pays, or there is no trade
    between = [e for e in zoo.policies if e.limit is not None and e.limit > 20.0]
    assert any(20.0 < entry.evaluations[0].cost < 250.0 for entry in between)
    assert len(plan(zoo, Streams(1)["plan"])) == len(zoo.policies) + RELAYS


def test_careful_policies_take_turns_and_may_end_in_a_sprint():
    zoo = packaged_zoo("HalfCheetahVelocity")
    behaviours = plan(zoo, Streams(1)["plan"])
    relays = [behaviour.name for behaviour in behaviours[len(zoo.policies) :]]
    assert len(relays) == RELAYS
    assert all(":limit-20-" in name for name in relays)
    assert len(set(relays)) == RELAYS
    sprints = [name for name in relays if "limit-none-" in name]
    assert 0.4 * RELAYS < len(sprints) < 0.9 * RELAYS
    assert [b.name for b in plan(zoo, Streams(1)["plan"])] == [b.name for b in behaviours]
    assert [b.name for b in plan(zoo, Streams(2)["plan"])] != [b.name for b in behaviours]


def test_a_shipped_policy_still_earns_what_its_record_says():
    pytest.importorskip("mujoco")
    entries = packaged_zoo("HalfCheetahVelocity").policies
    best = max(entries, key=lambda entry: entry.evaluations[0].reward if entry.evaluations[0].cost <= 20 else 0.0)
    recorded = best.evaluations[0]
    again = evaluate("HalfCheetahVelocity", best.policy.with_noise(0.0), range(5), rng_seed=0)
    assert again.reward == pytest.approx(recorded.reward, abs=100.0)
    assert again.cost <= 20.0


@pytest.mark.slow
def test_the_log_is_what_the_benchmark_asks_for():
    pytest.importorskip("mujoco")
    log = collect("HalfCheetahVelocity", seed=3, workers=2)
    costs, rewards = log.cost_returns[:, 0], log.reward_returns
    assert len(log) >= 500
    assert costs.min() == 0
    assert costs.max() > 250
    assert rewards[costs <= 20].max() >= 2700
    assert rewards[costs <= 250].max() > rewards[costs <= 20].max() + 200  # more reward is to be had beyond the limit
