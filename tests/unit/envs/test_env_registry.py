"""The registry: names, and what is said when something is missing."""

import importlib.util
import sys

import pytest

from safehold.core.errors import UsageError
from safehold.envs import registry
from safehold.envs.suites import navigation


def test_every_name_is_its_specs_name_and_its_costs_have_units() -> None:
    for env_id in registry.list_envs():
        spec = registry.spec(env_id)
        assert spec.env_id == env_id
        assert spec.cost_units != ("cost units",)


def test_the_unit_of_a_velocity_cost_names_the_speed() -> None:
    assert registry.spec("HalfCheetahVelocity").cost_units == ("steps faster than 3.2096 m/s along x",)
    assert registry.spec("AntVelocity").cost_units == ("steps faster than 2.6222 m/s in the plane",)


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [
        ("HalfCheetahVelocty", "HalfCheetahVelocity"),
        ("halfcheetahvelocity", "HalfCheetahVelocity"),
        ("corridor", "toy/Corridor"),
        ("bullet/carcircle", "bullet/CarCircle"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(asked: str, nearest: str) -> None:
    with pytest.raises(UsageError, match=f"no environment is named '{asked}'; the nearest name is '{nearest}'"):
        registry.make(asked)


def test_a_name_that_is_near_to_none_is_answered_with_all_of_them() -> None:
    with pytest.raises(UsageError, match=r"named 'nonsense'; there are .*HalfCheetahVelocity.*toy/Dial"):
        registry.make("nonsense")


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(UsageError, match="no environment is named ''"):
        registry.spec("")


def test_without_mujoco_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(UsageError, match=r"pip install 'safehold\[mujoco\]'"):
        registry.make("HopperVelocity")


@pytest.mark.skipif(importlib.util.find_spec("bullet_safety_gym") is not None, reason="Bullet-Safety-Gym is installed")
def test_without_bullet_safety_gym_the_error_says_what_to_run() -> None:
    assert registry.spec("bullet/CarCircle").horizon == 300
    with pytest.raises(UsageError, match="make bullet"):
        registry.make("bullet/CarCircle")


def test_without_safety_gymnasium_the_error_says_what_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert registry.spec("navigation/PointGoal1").observation_size == 60
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UsageError, match="make navigation"):
        navigation.skip_package_initialisation.__wrapped__()  # it keeps what it found


def test_parts_name_a_whole_observation_in_its_order() -> None:
    for env_id in registry.list_envs():
        task = registry.task(env_id)
        ends = [part.stop for part in task.parts.values()]
        assert [part.start for part in task.parts.values()] == [0, *ends][:-1]
        assert not ends or ends[-1] <= task.spec.observation_size
    assert registry.task("navigation/SaGuiDynamic").parts["goal_lidar"] == slice(12, 28)
