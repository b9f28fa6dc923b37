"""Bullet-Safety-Gym, where it is installed: the contract, and the global generator left alone."""

import numpy as np
import pytest

pytest.importorskip("bullet_safety_gym")

from safehold.envs.registry import list_envs, make
from safehold.testing.env_contract import EnvContract

NAMES = [name for name in list_envs() if name.startswith("bullet/")]


class TestBallCircle(EnvContract):
    env_id = "bullet/BallCircle"


class TestCarCircle(EnvContract):
    env_id = "bullet/CarCircle"


class TestCarRun(EnvContract):
    env_id = "bullet/CarRun"


class TestDroneRun(EnvContract):
    env_id = "bullet/DroneRun"


class TestAntCircle(EnvContract):
    env_id = "bullet/AntCircle"


@pytest.mark.parametrize("name", NAMES)
def test_steps_leave_the_global_generator_alone(name: str) -> None:
    before = np.random.get_state(legacy=False)["state"]  # noqa: NPY002
    env, rng = make(name), np.random.default_rng(0)
    env.reset(seed=2**61)
    size = env.spec_of_task.action.size
    for _ in range(20):
        *_, terminated, truncated, _ = env.step(rng.uniform(-1, 1, size).astype(np.float32))
        if terminated or truncated:
            env.reset(seed=1)
    after = np.random.get_state(legacy=False)["state"]  # noqa: NPY002
    assert before["pos"] == after["pos"]
    np.testing.assert_array_equal(before["key"], after["key"])
    env.close()


@pytest.mark.parametrize("name", ["bullet/CarCircle", "bullet/DroneCircle"])
def test_a_used_world_starts_like_a_fresh_one(name: str) -> None:
    used, fresh = make(name), make(name)
    size = used.spec_of_task.action.size
    used.reset(seed=1)
    for _ in range(50):
        if any(used.step(np.ones(size, dtype=np.float32))[2:4]):
            break
    np.testing.assert_array_equal(used.reset(seed=5)[0], fresh.reset(seed=5)[0])
    for _ in range(20):
        np.testing.assert_array_equal(
            used.step(np.zeros(size, dtype=np.float32))[0], fresh.step(np.zeros(size, dtype=np.float32))[0]
        )


def test_a_run_past_the_lane_costs_one_a_step() -> None:
    env = make("bullet/BallRun")
    env.reset(seed=0)
    costs = [env.step(np.array([0.0, 1.0], dtype=np.float32))[4]["cost"] for _ in range(100)]
    assert costs[0] == 0.0
    assert costs[-1] == 1.0
