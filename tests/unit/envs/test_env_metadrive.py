"""Driving: the process that runs MetaDrive, with a stand-in for MetaDrive's two interfaces; and MetaDrive, where it is.

The stand-in keeps what the documentation of 0.2.6 and 0.4 says, and refuses configurations that they would refuse. Only
the tests at the end drive in MetaDrive itself; they need SAFEHOLD_METADRIVE_PYTHON (`make driving`).
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from safehold.core.env import SafeEnv
from safehold.core.errors import EnvironmentFault, UsageError
from safehold.envs.adapter import Adapter
from safehold.envs.bridge import Bridge
from safehold.envs.registry import make, spec
from safehold.envs.suites import metadrive
from safehold.envs.suites.metadrive import PYTHON, ROADS, MetaDriveWorld
from safehold.testing.env_contract import EnvContract

CHILD = Path(metadrive.__file__).with_name("metadrive_child.py")
KNOWN = "metadrive/easysparse"

STAND_IN = """
import json
import numpy as np

MODERN = {modern}
KEYS = {{"start_seed", "map", "map_config", "traffic_density", "traffic_mode", "random_traffic", "accident_prob",
         "crash_vehicle_penalty", "use_render", "force_destroy", "num_scenarios" if MODERN else "environment_num"}}


class PGTrafficManager:
    def seed(self, random_seed):
        raise AssertionError("traffic is to be drawn from the episode's seed")


class Engine:
    def update_manager(self, name, manager):
        assert name == "traffic_manager"
        self.traffic = manager


class SafeMetaDriveEnv:
    def __init__(self, config):
        assert set(config) == KEYS, set(config) ^ KEYS
        print("Successfully registered the following environments")
        self.config, self.engine = config, Engine()
        self.setup_engine()

    def setup_engine(self):
        pass

    def reset(self, **seed):
        assert seed == {{"seed" if MODERN else "force_seed": self.config["start_seed"]}}
        self.engine.traffic.seed(self.config["start_seed"])
        self.steps = 0
        return (self.observation(), {{}}) if MODERN else self.observation()

    def observation(self):
        observation = np.full(259, 0.5, dtype=np.float32)
        observation[0] = self.engine.traffic.np_random.rand()
        observation[1:3] = self.config["traffic_density"], self.config["start_seed"]
        observation[3:6] = [ord(block) for block in self.config["map_config"]["config"]]
        observation[19 + 7] = 0.5 if self.steps != 2 else 0.04
        return observation

    def step(self, action):
        self.steps += 1
        info = {{"velocity": 30.0 / (3.6 if MODERN else 1.0), "cost": int(action[0] < 0), "crash": action[0] < 0,
                 "arrive_dest": False, "out_of_road": False}}
        came = (self.observation(), action[1], False)
        return (*came, False, info) if MODERN else (*came, info)
"""


def stand_in(folder: Path, version: str) -> tuple[str, ...]:
    """The command of the real child process, for which this stand-in is installed."""
    (folder / "metadrive" / "manager").mkdir(parents=True)
    (folder / "metadrive" / "__init__.py").touch()
    content = STAND_IN.format(modern=version.startswith("0.4"))
    (folder / "metadrive" / "envs.py").write_text(content)
    (folder / "metadrive" / "manager" / "traffic_manager.py").write_text("from metadrive.envs import PGTrafficManager")
    (folder / f"metadrive_simulator-{version}.dist-info").mkdir()
    (folder / f"metadrive_simulator-{version}.dist-info" / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: metadrive-simulator\nVersion: {version}\n"
    )
    places = json.dumps([str(folder), str(CHILD.parent)])
    return (sys.executable, "-I", "-c", f"import sys; sys.path[:0] = {places}; import metadrive_child as c; c.main()")


def world(command: tuple[str, ...], road: str = "easy", density: float = 0.1) -> Adapter:
    return Adapter(spec(KNOWN), MetaDriveWorld(KNOWN, ROADS[road], density, command))


@pytest.mark.parametrize("version", ["0.2.6.0", "0.4.3"])
def test_both_interfaces_give_the_same_task(tmp_path: Path, version: str) -> None:
    env = world(stand_in(tmp_path, version))
    first, _ = env.reset(seed=2**61)
    assert first[0] == np.float32(np.random.RandomState(np.random.MT19937(np.random.SeedSequence(2**61))).rand())
    drive, crash = np.array([0.0, 0.25], dtype=np.float32), np.array([-1.0, 0.0], dtype=np.float32)
    *_, reward, ended, _, info = env.step(drive)
    assert (reward, ended) == (0.25, False)
    assert info["cost"] == pytest.approx(0.01 * (30 - 10))  # km/h, whatever the version measures in
    *_, info = env.step(drive)
    assert info["cost"] == pytest.approx(0.01 * (30 - 10) + 0.01 * (0.1 - 0.04) ** 2)  # and something is near
    *_, ended, _, info = env.step(crash)
    assert ended
    assert info["cost"] == pytest.approx(1 + 0.01 * (30 - 10))
    np.testing.assert_array_equal(env.reset(seed=2**61)[0], first)
    assert env.reset(seed=5)[0][0] != first[0]
    env.close()


def test_the_nine_tasks_are_those_of_dsrl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = stand_in(tmp_path, "0.2.6.0")
    monkeypatch.setattr(metadrive, "command", lambda: started)
    for road, seed, blocks in (("easy", 0, "SCS"), ("medium", 100, "XST"), ("hard", 200, "TRO")):
        for traffic, density in (("sparse", 0.1), ("mean", 0.15), ("dense", 0.2)):
            env = make(f"metadrive/{road}{traffic}")
            observation, _ = env.reset(seed=1)
            np.testing.assert_array_equal(observation[1:6], np.float32([density, seed, *(ord(b) for b in blocks)]))
            env.close()


def test_another_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"MetaDrive 0\.3\.0\.1 is installed for .*; known are 0\.2\.6\.0 and 0\.4"):
        world(stand_in(tmp_path, "0.3.0.1"))


def test_a_python_without_metadrive_is_the_users_to_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PYTHON, sys.executable)
    with pytest.raises(UsageError, match=r"MetaDrive is not installed for .*; run `make driving`"):
        make(KNOWN)
    monkeypatch.setenv(PYTHON, "/no/python")
    with pytest.raises(UsageError, match="/no/python cannot be started"):
        make(KNOWN)
    monkeypatch.delenv(PYTHON)
    with pytest.raises(UsageError, match=f"set {PYTHON}="):
        make(KNOWN)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"do": "step"}, "'step', out of turn"),
        ({"do": "__import__('os').system('true')"}, "out of turn"),
        ({"seed": 1}, "KeyError: 'do'"),
        ({"do": "open", "protocol": 2, "start_seed": 0, "traffic_density": 0.1, "blocks": "S"}, "speaks protocol 1"),
        ({"do": "open", "protocol": 1, "start_seed": 0, "traffic_density": 0.1, "blocks": "../S"}, "no map of blocks"),
        ({"do": "open", "protocol": 1, "start_seed": 0, "traffic_density": 7, "blocks": "S"}, "no map of blocks"),
    ],
)
def test_the_process_does_only_what_it_is_for(tmp_path: Path, head: dict[str, Any], message: str) -> None:
    with pytest.raises(EnvironmentFault, match=message):
        Bridge("a/world", stand_in(tmp_path, "0.2.6.0")).ask(head, seconds=20.0)


LIES = """
import sys
sys.path.insert(0, {place!r})
import metadrive_child as frames
answers = {{"open": ({{"did": "open"}}, ()), "reset": ({reset}, [0.5] * {size}), "step": ({step}, [0.5] * 259)}}
while (asked := frames.read(sys.stdin.buffer)) is not None:
    frames.write(sys.stdout.buffer, *answers[asked[0]["do"]])
"""


@pytest.mark.parametrize(
    ("reset", "size", "step", "message"),
    [
        ({"did": "open"}, 259, {}, "was asked to reset and says it did 'open'"),
        ({"did": "reset"}, 258, {}, r"observation has shape \(258,\), expected \(259,\)"),
        ({"did": "reset"}, 259, {"did": "step", "reward": 1.0, "terminated": False}, "without saying its cost"),
        ({"did": "reset"}, 259, {"did": "step", "reward": 1.0, "cost": None, "terminated": False}, "cost 'cost' is"),
        ({"did": "reset"}, 259, {"did": "step", "reward": "1", "cost": 0.0, "terminated": False}, "reward is str '1'"),
        ({"did": "reset"}, 259, {"did": "step", "reward": 1.0, "cost": 0.0, "terminated": 0}, "terminated is int 0"),
    ],
)
def test_a_process_that_lies_is_a_fault(reset: dict[str, Any], size: int, step: dict[str, Any], message: str) -> None:
    script = LIES.format(place=str(CHILD.parent), reset=reset, size=size, step=step)
    env = world((sys.executable, "-I", "-c", script))

    def drive() -> None:
        env.reset(seed=1)
        env.step(np.zeros(2, dtype=np.float32))

    with pytest.raises(EnvironmentFault, match=f"{KNOWN}, seed 1, .*{message}"):
        drive()
    env.close()


needs_metadrive = pytest.mark.skipif(
    PYTHON not in os.environ, reason=f"MetaDrive needs a Python of its own: run `make driving` and set {PYTHON}"
)


@needs_metadrive
@pytest.mark.slow  # four worlds, and whole episodes of random actions, which stand still
@pytest.mark.timeout(900)
class TestHardMean(EnvContract):
    env_id = "metadrive/hardmean"


@needs_metadrive
@pytest.mark.timeout(300)
@pytest.mark.parametrize("env_id", ["metadrive/easydense", "metadrive/mediummean", "metadrive/hardsparse"])
def test_a_used_world_and_a_fresh_one_drive_the_same_episode_to_the_bit(env_id: str) -> None:
    rng = np.random.default_rng(0)
    actions = np.stack([rng.normal(0.0, 0.02, 80), np.full(80, 0.4)], axis=1).astype(np.float32)
    used, fresh = make(env_id), make(env_id)
    first, other, again = (driven(used, seed, actions) for seed in (7, 8, 7))
    np.testing.assert_array_equal(again, first)
    np.testing.assert_array_equal(driven(fresh, 7, actions), first)
    assert not np.array_equal(first, other)  # the traffic is another
    used.close()
    fresh.close()


def driven(env: SafeEnv, seed: int, actions: np.ndarray) -> np.ndarray:
    """What an episode shows, pays and costs, as one array: a row a step."""
    rows = [[*env.reset(seed=seed)[0], 0.0, 0.0]]
    for action in actions:
        observation, reward, terminated, _, info = env.step(action)
        rows.append([*observation, reward, info["cost"]])
        if terminated:
            break
    return np.array(rows)


@pytest.fixture(scope="module")
def driving() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An episode that speeds up along the first straight and leaves the road in the curve."""
    env = make("metadrive/easysparse")
    observations, rewards, costs = [env.reset(seed=3)[0]], [], []
    ended = False
    while not ended:
        observation, reward, ended, _, info = env.step(np.array([0.0, 0.5], dtype=np.float32))
        observations.append(observation)
        rewards.append(reward)
        costs.append(info["cost"])
    env.close()
    return np.array(observations), np.array(rewards), np.array(costs)


@needs_metadrive
def test_the_cost_follows_from_speed_and_nearness(driving: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    observations, _, costs = driving
    speed = 81 * observations[1:, 3] - 1  # km/h: the fourth entry is (speed + 1) / (80 + 1)
    near = np.maximum(0, 0.1 - observations[1:, -240:].min(axis=1))
    expected = 0.01 * np.maximum(0, speed - 10) + 0.01 * near**2
    np.testing.assert_allclose(costs[:-1], expected[:-1], atol=1e-6)
    assert costs[-1] == pytest.approx(1 + expected[-1], abs=1e-6)  # it leaves the road
    assert costs[:-1].max() > 0.3
    assert costs[:5].max() == 0.0


@needs_metadrive
def test_leaving_the_road_ends_an_episode_and_costs_reward(driving: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    _, rewards, _ = driving
    assert rewards[-1] == -5.0
    assert rewards[:-1].sum() > 80.0  # metres, and a little for speed
