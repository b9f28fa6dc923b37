from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from safehold.core.errors import DataError, IntegrityError, UsageError
from safehold.learn.checkpoint import save_checkpoint
from safehold.learn.multiplier import MultiplierConfig
from safehold.learn.multiplier_network import MultiplierNetworkConfig
from safehold.learn.online.cpo import SCPOConfig
from safehold.learn.online.ppo_lag import PPOLagConfig
from safehold.learn.online.sac import SACConfig
from safehold.learn.online.sac_lag import SACLagConfig
from safehold.learn.online.statewise_lag import StatewiseLagConfig
from safehold.learn.online.trpo_lag import TRPOLagConfig
from safehold.learn.online.zoo import load_zoo, save_zoo
from safehold.workflows.explore import ExploreConfig, OnlineConfig, explore

METHOD = PPOLagConfig(hidden=(32, 32), minibatch=256, multiplier=MultiplierConfig(integral_gain=0.02))


def config(**changed: object) -> ExploreConfig:
    settings = {
        "env_id": "toy/PointHazard",
        "limit": 2.0,
        "total_steps": 20_480,
        "environments": 8,
        "steps_per_batch": 128,
        "snapshots": 1,
        "evaluation_episodes": 3,
        "method": METHOD,
    }
    return ExploreConfig.model_validate(settings | changed)


@pytest.mark.slow
def test_learns_to_cross_within_the_limit_and_through_the_hazard_without_one():
    limited, reckless = (explore(config(limit=limit)).snapshots[-1].evaluations for limit in (2.0, None))
    for evaluation in limited:  # without noise, and with it
        assert evaluation.cost <= 2.0
        assert evaluation.reward > 1.5  # the straight way earns 1.7, standing still -2
    assert reckless[0].cost > 6.0
    assert reckless[0].reward > 1.5


CORE = SACConfig(hidden=(64, 64), batch_size=128, capacity=100_000, random_steps=1000, gradient_steps=0.25)
QUICK = MultiplierConfig(integral_gain=0.03)
ON_ROBOTS: dict[str, tuple[OnlineConfig, dict[str, int]]] = {
    "ppo_lag": (
        PPOLagConfig(minibatch=800, learning_rate=2e-3, value_learning_rate=2e-3, multiplier=QUICK),
        {"environments": 64, "steps_per_batch": 50, "total_steps": 100_000},
    ),
    "trpo_lag": (
        TRPOLagConfig(minibatch=800, value_learning_rate=2e-3, multiplier=QUICK),
        {"environments": 64, "steps_per_batch": 50, "total_steps": 100_000},
    ),
    "sac_lag": (
        SACLagConfig(sac=CORE, multiplier=MultiplierConfig(integral_gain=0.005), damping=0.0),
        {"environments": 10, "steps_per_batch": 10, "total_steps": 30_000},
    ),
    "statewise_lag": (
        StatewiseLagConfig(sac=CORE, multiplier=MultiplierNetworkConfig(hidden=(64, 64), learning_rate=1e-3)),
        {"environments": 10, "steps_per_batch": 10, "total_steps": 30_000},
    ),
}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("name", "limit"), [*((name, 3.0) for name in ON_ROBOTS), ("ppo_lag", None), ("sac_lag", None)]
)
def test_multipliers_reach_their_limit_on_the_point_robot(name, limit):
    method, shape = ON_ROBOTS[name]
    robots = config(env_id="toy/PointRobot", limit=limit, method=method, evaluation_episodes=40, **shape)
    found = explore(robots).snapshots[-1].evaluations[0]
    error = found.cost_sd / 40**0.5
    assert found.reward > 30.0  # at rest 0, at top speed straight ahead and never turning 100
    if limit is None:
        assert found.cost > 6.0 + 2 * error
    else:
        assert found.cost <= limit + 2 * error


@pytest.mark.parametrize("constraint", ["immediate", "value", "reachability"])
def test_a_multiplier_for_every_state_comes_back_as_a_field(constraint):
    core = SACConfig(hidden=(8,), batch_size=16, random_steps=100, gradient_steps=0.05)
    method = StatewiseLagConfig(sac=core, constraint=constraint)
    exploration = explore(
        config(env_id="toy/PointRobot", cost="depth", limit=0.1, method=method, total_steps=2048, steps_per_batch=16)
    )
    assert exploration.multipliers is not None
    assert (exploration.multipliers(np.zeros((4, 9))) >= 0).all()
    assert explore(config(total_steps=1024)).multipliers is None


def test_what_does_not_suit_a_method_is_refused():
    with pytest.raises(UsageError, match="needs a limit"):
        explore(config(method=StatewiseLagConfig(), limit=None))
    with pytest.raises(UsageError, match="has no cost 'heat'"):
        explore(config(cost="heat"))


def test_snapshots_lie_evenly_along_training_and_the_last_at_its_end():
    exploration = explore(config(total_steps=6144, snapshots=3, evaluation_episodes=2))
    assert [snapshot.step for snapshot in exploration.snapshots] == [2048, 4096, 6144]
    assert exploration.snapshots[0].name == "limit-2-seed-0-00"
    assert [evaluation.episodes for evaluation in exploration.snapshots[0].evaluations] == [2, 2]
    assert exploration.curve[-1].step == 6144


def test_a_run_that_is_stopped_keeps_the_snapshots_it_has():
    answers = iter([False, False, True])
    exploration = explore(config(total_steps=6144, snapshots=6), stop=lambda: next(answers))
    assert [snapshot.step for snapshot in exploration.snapshots] == [1024, 2048, 3072]


@pytest.fixture(scope="module", params=["Gaussian", "squashed", "augmented"])
def snapshots(request):
    core = SACConfig(hidden=(8,), batch_size=16, random_steps=100, gradient_steps=0.05)
    method = {"Gaussian": METHOD, "squashed": SACLagConfig(sac=core), "augmented": SCPOConfig(hidden=(8,))}[
        request.param
    ]
    return explore(config(total_steps=2048, snapshots=2, evaluation_episodes=1, method=method)).snapshots


def test_a_zoo_comes_back_as_it_was_saved(snapshots, tmp_path: Path):
    digest = save_zoo(tmp_path / "zoo", env_id="toy/PointHazard", policies=snapshots, provenance={"why": "test"})
    zoo = load_zoo(tmp_path / "zoo")
    assert (zoo.digest, zoo.env_id, dict(zoo.provenance)) == (digest, "toy/PointHazard", {"why": "test"})
    observations = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    for saved, loaded in zip(snapshots, zoo.policies, strict=True):
        first, second = (entry.policy.start(4, np.random.default_rng(1)).act(observations) for entry in (loaded, saved))
        np.testing.assert_array_equal(first, second)
        assert replace(loaded, policy=saved.policy) == saved


def test_a_zoo_with_a_changed_byte_is_refused(snapshots, tmp_path: Path):
    save_zoo(tmp_path / "zoo", env_id="toy/PointHazard", policies=snapshots, provenance={})
    tensors = tmp_path / "zoo" / "tensors.safetensors"
    content = bytearray(tensors.read_bytes())
    content[-1] ^= 1
    tensors.write_bytes(bytes(content))
    with pytest.raises(IntegrityError):
        load_zoo(tmp_path / "zoo")


def test_what_is_no_zoo_is_refused(tmp_path: Path):
    save_checkpoint(tmp_path / "other", kind="bc", tensors={}, meta={})
    with pytest.raises(DataError, match="holds a 'bc', not a zoo"):
        load_zoo(tmp_path / "other")


def test_two_policies_of_one_name_are_refused(snapshots, tmp_path: Path):
    with pytest.raises(DataError, match="same name"):
        save_zoo(tmp_path / "zoo", env_id="toy", policies=[snapshots[0], snapshots[0]], provenance={})
