"""Velocity tasks: the contract, the cost recomputed from positions, golden numbers, divergence."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mujoco")

from safehold.core.errors import EnvironmentFault
from safehold.envs.registry import make
from safehold.envs.suites.velocity import ROBOTS
from safehold.testing.env_contract import EnvContract


class TestAnt(EnvContract):
    env_id = "AntVelocity"


class TestHalfCheetah(EnvContract):
    env_id = "HalfCheetahVelocity"


class TestHopper(EnvContract):
    env_id = "HopperVelocity"


class TestHumanoid(EnvContract):
    env_id = "HumanoidVelocity"


class TestSwimmer(EnvContract):
    env_id = "SwimmerVelocity"


class TestWalker2d(EnvContract):
    env_id = "Walker2dVelocity"


def position(name: str, world: object) -> np.ndarray:
    """Where the robot is, in metres, by the definition of its own reward."""
    data = world.data
    if name == "HumanoidVelocity":
        mass = world.model.body_mass
        return (mass @ data.xipos / mass.sum())[:2]
    if name == "AntVelocity":
        return data.body("torso").xpos[:2].copy()
    return data.qpos[:1].copy()


@pytest.mark.parametrize("name", ROBOTS)
def test_cost_is_one_above_the_speed_of_the_positions(name: str) -> None:
    env, robot, rng = make(name), ROBOTS[name], np.random.default_rng(0)
    world, seen = env.world, set()
    for seed in range(4):
        env.reset(seed=seed)
        direction = seed % 2 if robot.planar else 0
        world.data.qvel[direction] = 2 * robot.threshold  # random actions alone rarely pass the threshold
        ended = False
        for _ in range(60):
            before = position(name, world)
            action = rng.uniform(-robot.torque, robot.torque, robot.action_size).astype(np.float32)
            *_, terminated, truncated, info = env.step(action)
            way = position(name, world) - before
            speed = np.hypot(*way) if robot.planar else way[0]
            assert info["cost"] == float(speed / world.dt > robot.threshold)
            seen.add(info["cost"])
            ended = terminated or truncated
            if ended:
                break
    assert 1.0 in seen
    assert seen <= {0.0, 1.0}


def test_running_backwards_costs_nothing_along_x() -> None:
    assert ROBOTS["HopperVelocity"].cost({"x_velocity": -5.0}) == 0.0
    assert ROBOTS["AntVelocity"].cost({"x_velocity": -5.0, "y_velocity": 0.0}) == 1.0


def test_a_speed_at_the_threshold_is_free_and_an_unknown_one_is_not() -> None:
    robot = ROBOTS["HopperVelocity"]
    assert robot.cost({"x_velocity": 0.7402}) == 0.0
    assert robot.cost({"x_velocity": float("nan")}) == 1.0


# First rewards and the costs of the first 20 steps as Safety-Gymnasium 1.0.0 computes them (SafetyXVelocity-v1 with
# mujoco 4.0.0): reset seed 5, thrown along x at twice the limited speed, uniform actions of a generator of seed 5.
GOLDEN = {
    "AntVelocity": ([4.732986, 3.901699, 4.788789], "11111110000000000000"),
    "HalfCheetahVelocity": ([6.367473, 6.628946, 6.368682], "11111111111101001000"),
    "HopperVelocity": ([2.535307, 2.51162, 2.372417], "11111111111111111111"),
    "HumanoidVelocity": ([8.426866, 8.429782, 8.450435], "11111111111111111111"),
    "SwimmerVelocity": ([0.455502, 0.455551, 0.430913], "11111111111111111110"),
    "Walker2dVelocity": ([5.638055, 5.499517, 5.514195], "11111111111111111111"),
}


@pytest.mark.parametrize("name", ROBOTS)
def test_rewards_and_costs_are_those_of_safety_gymnasium(name: str) -> None:
    env, robot, rng = make(name), ROBOTS[name], np.random.default_rng(5)
    env.reset(seed=5)
    env.world.data.qvel[0] = 2 * robot.threshold
    rewards, costs = [], []
    for _ in range(20):
        action = rng.uniform(-robot.torque, robot.torque, robot.action_size).astype(np.float32)
        _, reward, terminated, _, info = env.step(action)
        rewards.append(reward)
        costs.append(info["cost"])
        if terminated:
            break
    np.testing.assert_allclose(rewards[:3], GOLDEN[name][0], atol=1e-5)
    assert "".join(str(int(cost)) for cost in costs) == GOLDEN[name][1]


def test_a_diverged_simulation_is_a_fault_and_does_not_start_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its log where it runs
    env = make("HopperVelocity")
    env.reset(seed=4)
    env.world.data.qvel[:] = 1e12
    with pytest.raises(EnvironmentFault, match="HopperVelocity, seed 4, step 0"):
        env.step(np.zeros(3, dtype=np.float32))


def test_building_a_world_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make("HalfCheetahVelocity").close()
    assert list(tmp_path.iterdir()) == []
