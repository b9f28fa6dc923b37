import importlib
from pathlib import Path

import numpy as np
import pytest

from safehold.core.errors import UsageError
from safehold.core.seeding import Streams
from safehold.core.spec import Box
from safehold.envs import perturbed, registry
from safehold.envs.perturbed import Delayed, Perturbation
from safehold.rollout.episodes import rollout
from safehold.testing.env_contract import EnvContract, RandomPolicy


class TestContract(EnvContract):
    env_id = "HalfCheetahVelocity[mass=1.2,friction=0.8,delay=1]"


class TestContractOfArrayWorlds(EnvContract):
    env_id = "toy/PointRobot[delay=2]"


def test_splits_names():
    assert perturbed.split("HalfCheetahVelocity") == ("HalfCheetahVelocity", None)
    assert perturbed.split("toy/Dial[ mass = 1.5 , delay=2 ]") == ("toy/Dial", Perturbation(mass=1.5, delay=2))


@pytest.mark.parametrize(
    ("brackets", "complaint"),
    [
        ("[]", "is none"),
        ("[weight=2]", "'weight=2' is none"),
        ("[mass]", "'mass' is none"),
        ("[mass=1.1,mass=1.2]", "each once"),
        ("[mass=heavy]", "is not a number"),
        ("[delay=0.5]", "is not a number of its kind"),
        ("[delay=-1]", "steps late"),
        ("[mass=0]", "above 0"),
        ("[friction=nan]", "above 0"),
        ("[mass=inf]", "finite"),
    ],
)
def test_refuses_wrong_brackets(brackets, complaint):
    with pytest.raises(UsageError, match=complaint):
        registry.task("HalfCheetahVelocity" + brackets)


def test_refuses_a_world_that_does_not_exist():
    with pytest.raises(UsageError, match="nearest name is 'HalfCheetahVelocity'"):
        registry.task("HalfCheetaVelocity[mass=1.1]")


def test_refuses_to_delay_what_is_no_vector_and_to_weigh_what_has_no_body():
    with pytest.raises(UsageError, match="only those can be delayed"):
        registry.task("icu/Sepsis[delay=1]")
    with pytest.raises(UsageError, match="no MuJoCo model"):
        registry.make("toy/DoubleIntegrator[mass=2]")


def test_masses_inertias_and_friction_are_multiplied_once_in_every_world():
    pytest.importorskip("mujoco")
    plain = registry.make("HalfCheetahVelocity").world.model
    for _ in range(2):
        heavy = registry.make("HalfCheetahVelocity[mass=1.5,friction=0.5]").world.model
        np.testing.assert_allclose(heavy.body_mass, 1.5 * plain.body_mass)
        np.testing.assert_allclose(heavy.body_inertia, 1.5 * plain.body_inertia)
        np.testing.assert_allclose(heavy.geom_friction, 0.5 * plain.geom_friction)


def test_a_heavy_world_is_what_mujoco_compiles_from_heavy_bodies():
    mujoco = pytest.importorskip("mujoco")
    assets = Path(importlib.import_module("gymnasium.envs.mujoco").__file__).parent / "assets"
    described = mujoco.MjSpec.from_file(str(assets / "hopper.xml"))
    for geom in described.geoms:
        geom.density *= 1.5
    compiled, heavy = described.compile(), registry.make("HopperVelocity[mass=1.5]").world.model
    for name in ("body_mass", "body_inertia", "body_subtreemass", "body_invweight0", "dof_invweight0"):
        np.testing.assert_allclose(getattr(heavy, name), getattr(compiled, name), rtol=1e-9, err_msg=name)


def test_nothing_changed_is_the_same_world():
    seeds = Streams(0).episode_seeds("test", 0, 2)
    for name in ("HalfCheetahVelocity", "toy/PointRobot"):
        policy = RandomPolicy(registry.spec(name))
        plain = rollout(name, policy, seeds, rng_seed=1)
        same = rollout(f"{name}[mass=1,delay=0]", policy, seeds, rng_seed=1)
        for one, other in zip(plain, same, strict=True):
            np.testing.assert_array_equal(one.observations, other.observations)
            np.testing.assert_array_equal(one.costs, other.costs)


class Echo:
    """Keeps what it is told to do."""

    def __init__(self):
        self.done = []

    def reset(self, *, seed):  # noqa: ARG002 - a world
        self.done = []
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.done.append(float(action[0]))
        return np.zeros(1, np.float32), 0.0, False, False, {"cost": 0.0}

    def close(self):
        pass


def test_a_delayed_action_arrives_late_and_none_survives_a_reset():
    echo = Echo()
    world = Delayed(echo, 2, np.array([0.5]))
    for _ in range(2):
        world.reset(seed=0)
        for action in (1.0, 2.0, 3.0):
            told = np.array([action])
            world.step(told)
            told[:] = -9.0  # a caller may use its array again
        assert echo.done == [0.5, 0.5, 1.0]


def test_the_middle_of_the_box_is_what_waits():
    task = registry.task("toy/PointRobot")
    assert isinstance(task.spec.action, Box)
    late = registry.make("toy/PointRobot[delay=1]")
    first = late.reset(seed=3)[0]
    plain = registry.make("toy/PointRobot")
    np.testing.assert_array_equal(first, plain.reset(seed=3)[0])
    ones = np.ones(task.spec.action.size, np.float32)
    middle = (np.array(task.spec.action.low) + np.array(task.spec.action.high)) / 2
    np.testing.assert_array_equal(late.step(ones)[0], plain.step(middle.astype(np.float32))[0])
    np.testing.assert_array_equal(late.step(-ones)[0], plain.step(ones)[0])


def test_a_name_is_one_task_and_follows_the_registry(monkeypatch):
    name = "toy/PointRobot[delay=2]"
    assert registry.task(name) is registry.task(name)
    monkeypatch.setitem(registry.TASKS, "toy/PointRobot", registry.TASKS["toy/PointRobotGuide"])
    assert registry.spec(name).observation_size == registry.spec("toy/PointRobotGuide").observation_size
