"""Safety-Gymnasium's navigation and SaGui's arenas, where the suite is installed, against the suite's own numbers."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from safehold.core.errors import EnvironmentFault
from safehold.core.seeding import Streams
from safehold.envs import registry
from safehold.envs.suites.navigation import COURSES, NavigationWorld, draw_layout, suite_class, suite_task
from safehold.envs.suites.sagui import ARENAS
from safehold.rollout.steps import StepCollector
from safehold.testing.env_contract import EnvContract

MISSING = [
    name for name in ("safety_gymnasium", "mujoco", "xmltodict", "yaml") if importlib.util.find_spec(name) is None
]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"`make navigation` has not been run: no {', '.join(MISSING)}")

FILE = Path("tests/data/navigation.npz")
NAMES = [name for name in registry.list_envs() if name.startswith("navigation/")]
SUITES = [f"{robot}{course}" for robot in ("Point", "Car") for course in COURSES]


class TestPointCircle1(EnvContract):
    env_id = "navigation/PointCircle1"


@pytest.mark.slow  # episodes of 1000 steps, a dozen each
class TestSaGuiStaticGuide(EnvContract):
    env_id = "navigation/SaGuiStaticGuide"


@pytest.mark.slow
class TestPointGoal1(EnvContract):
    env_id = "navigation/PointGoal1"


@pytest.mark.slow
class TestPointButton2(EnvContract):
    env_id = "navigation/PointButton2"


@pytest.mark.slow
class TestCarGoal2(EnvContract):
    env_id = "navigation/CarGoal2"


@pytest.mark.slow
class TestCarPush2(EnvContract):
    env_id = "navigation/CarPush2"


@pytest.mark.slow
class TestSaGuiSemiDynamic(EnvContract):
    env_id = "navigation/SaGuiSemiDynamic"


@pytest.mark.slow
class TestSaGuiDynamicGuide(EnvContract):
    env_id = "navigation/SaGuiDynamicGuide"


def commands(steps: int, seed: int) -> np.ndarray:
    """Held for twenty steps each, so that robots get somewhere."""
    held = np.random.default_rng(seed).uniform(-1.0, 1.0, (steps // 20, 2))
    return np.repeat(held, 20, axis=0).astype(np.float32)


def world(name: str) -> NavigationWorld:
    return registry.make(f"navigation/{name}").world


# Against what the suite's own stack (gymnasium 0.28.1, mujoco 2.3.3) computed, see navigation_episodes.py. Dynamics
# are left to MuJoCo: what a state looks like, earns and costs is compared, not where a version's physics leads to.


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    with np.load(FILE) as arrays:
        return dict(arrays)


def kept(recorded: dict[str, np.ndarray], name: str, seed: int) -> dict[str, np.ndarray]:
    """Arrays of one episode, and the names that are the same in every episode of its task."""
    starts = (f"{name}/{seed}/", *(f"{name}/{what}_" for what in ("layout", "cost")))
    return {key.split("/")[-1]: array for key, array in recorded.items() if key.startswith(starts)}


def felt(name: str) -> np.ndarray:
    """Places of an observation that are no function of positions and velocities alone are False: forces are felt."""
    parts = registry.task(f"navigation/{name}").parts
    mask = np.ones(registry.spec(f"navigation/{name}").observation_size, dtype=np.bool_)
    mask[parts["accelerometer"]] = False
    return mask


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", SUITES)
def test_layouts_and_first_observations_are_those_of_the_pinned_stack(recorded, name, seed):
    theirs, ours = kept(recorded, name, seed), world(name)
    observation, _ = ours.reset(seed=seed)
    layout = ours.task.world_info.layout
    assert list(layout) == theirs["layout_names"].tolist()
    np.testing.assert_array_equal(np.array(list(layout.values())), theirs["layout"])
    # a Car's wheels touch the ground at the first instant in one version and not in the other
    same = felt(name) if name.startswith("Car") else slice(None)
    np.testing.assert_allclose(observation[same], theirs["observations"][0][same], rtol=0, atol=1e-13)


def settle(task: Any, theirs: dict[str, np.ndarray], when: int) -> None:
    """Puts the simulation where the other was before a step; distances are measured from there."""
    task.data.qpos[:], task.data.qvel[:] = theirs["positions_before"][when], 0.0
    if hasattr(task, "goal"):
        task.model.body("goal").pos[:] = theirs["goal_before"][when]
    if hasattr(task, "buttons"):
        task.buttons.goal_button, task.buttons.timer = theirs["button_before"][when]
    task.calculate_cost()  # for its call of mj_forward
    task.calculate_reward()


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", SUITES)
def test_moments_look_earn_and_cost_what_they_do_in_the_pinned_stack(recorded, name, seed):
    theirs, ours = kept(recorded, name, seed), world(name)
    ours.reset(seed=seed)
    task, same = ours.task, felt(name)
    assert len(theirs["rewards"]) >= 3
    for when in range(len(theirs["rewards"])):
        settle(task, theirs, when)
        task.data.qpos[:], task.data.qvel[:] = theirs["positions_after"][when], theirs["velocities_after"][when]
        costs = task.calculate_cost()
        named = [float(costs.get(f"cost_{cost}", 0.0) > 0.0) for cost in theirs["cost_names"][1:]]
        assert [max(named, default=0.0), *named] == theirs["costs"][when].tolist()
        np.testing.assert_allclose(task.calculate_reward(), theirs["rewards"][when], rtol=0, atol=1e-13)
        task.specific_step()
        observation = np.concatenate([part.ravel() for part in task.obs().values()])
        np.testing.assert_allclose(observation[same], theirs["observations"][when + 1][same], rtol=0, atol=1e-13)


def test_the_moments_hold_every_cost(recorded):
    costly: set[str] = set()
    for name in SUITES:
        for seed in (0, 1):
            theirs = kept(recorded, name, seed)
            costly |= {
                cost for cost, sums in zip(theirs["cost_names"], theirs["costs"].sum(axis=0), strict=True) if sums > 0
            }
    assert costly >= {"hazards", "vases_contact", "vases_velocity", "gremlins", "out_of_boundary"}


# Against the suite's own loop around a step, on this stack.


@pytest.mark.parametrize("name", ["PointGoal1", "PointButton1", "CarGoal2", "CarPush1", "PointPush2", "PointCircle2"])
def test_whole_episodes_are_those_of_the_suites_own_loop(name, monkeypatch):
    course = name.removeprefix("Point").removeprefix("Car")
    task, ours = suite_task(name.removesuffix(course), course), world(name)
    builder = suite_class("builder", "Builder")
    monkeypatch.setattr(builder, "_setup_simulation", lambda self: setattr(self, "task", task))
    task.build_observation_space()
    theirs = builder(task_id=name, config={})
    for seed in (5, 6):
        their_observation, _ = theirs.reset(seed=seed)
        observation, _ = ours.reset(seed=seed)
        np.testing.assert_array_equal(observation, their_observation)
        for step, action in enumerate(commands(60, seed)):
            if step == 30 and hasattr(task, "goal"):  # a goal reached is drawn anew, after everything that is drawn
                for one in (task, ours.task):
                    one._set_goal(one.agent.pos[:2])
            their_observation, reward, cost, terminated, _, info = theirs.step(action)
            observation, *rest, _, ours_info = ours.step(action)
            np.testing.assert_array_equal(observation, their_observation)
            assert rest == [reward, terminated]
            assert ours_info["cost"] == cost
            assert ours_info["costs"] == {name: info.get(f"cost_{name}", 0.0) for name in ours_info["costs"]}
            if terminated:
                break


@pytest.mark.parametrize("name", ["PointButton2", "CarPush2"])
def test_layouts_are_drawn_as_the_suite_draws_them(name):
    ours = world(name)
    ours.reset(seed=0)
    generator = ours.task.random_generator
    their_attempt = type(generator).sample_layout

    def drawn(attempt: Any, seed: int) -> tuple[list[bool], dict[str, Any], float]:
        generator.set_random_seed(seed)
        succeeded = [attempt(generator) for _ in range(5)]
        return succeeded, generator.layout, generator.random_generator.random_sample()

    for seed in range(4):
        (one, layout, after), (other, their_layout, their_after) = drawn(draw_layout, seed), drawn(their_attempt, seed)
        assert (one, after) == (other, their_after)
        assert list(layout) == list(their_layout)
        for place in layout:
            np.testing.assert_array_equal(layout[place], their_layout[place])


# What is ours.


@pytest.mark.parametrize("name", NAMES)
def test_parts_name_the_whole_observation_in_its_order(name):
    parts, spec = registry.task(name).parts, registry.spec(name)
    env = registry.make(name)
    env.reset(seed=1)
    inner = getattr(env.world, "inner", env.world)
    assert list(parts) == list(inner.task.obs())
    assert [part.stop - part.start for part in parts.values()] == [part.size for part in inner.task.obs().values()]
    assert list(parts.values())[-1].stop == spec.observation_size


@pytest.mark.parametrize("name", ["navigation/PointButton1", "navigation/SaGuiSemiDynamic"])
def test_steps_and_building_leave_the_global_generator_alone(name):
    before = np.random.get_state(legacy=False)["state"]  # noqa: NPY002
    env = registry.make(name)
    env.reset(seed=2**61)
    for action in commands(40, 0):
        env.step(action)
    after = np.random.get_state(legacy=False)["state"]  # noqa: NPY002
    assert before["pos"] == after["pos"]
    np.testing.assert_array_equal(before["key"], after["key"])


def test_seeds_of_62_bits_give_layouts_of_their_own():
    ours, starts = world("PointGoal0"), set()
    for seed in (1, 2**32 + 1, 2**61 + 1, 2**61):
        ours.reset(seed=seed)
        starts.add(tuple(ours.task.world_info.layout["agent"]))
    assert len(starts) == 4


def test_worlds_in_the_middle_of_episodes_come_back_bit_for_bit():
    def collector() -> StepCollector:
        return StepCollector(registry.make_many("navigation/PointButton1", 2), Streams(5))

    class Held:
        def act(self, observations: np.ndarray) -> np.ndarray:
            return np.tanh(observations[:, :2] + 0.5)

    unbroken = collector()
    unbroken.collect(Held(), 30)
    saved = unbroken.state()
    expected = unbroken.collect(Held(), 20)
    resumed = collector()
    resumed.collect(Held(), 7)
    resumed.restore(saved)
    batch = resumed.collect(Held(), 20)
    for name in ("observations", "rewards", "costs", "next_observations"):
        np.testing.assert_array_equal(getattr(batch, name), getattr(expected, name))


def test_a_robot_that_always_stands_in_a_cost_is_a_fault(monkeypatch):
    world = NavigationWorld(suite_task("Point", "Goal1"), COURSES["Goal1"].costs)
    monkeypatch.setattr("safehold.envs.suites.navigation.LAYOUTS", 3)
    monkeypatch.setattr(world, "_costs", lambda: {"hazards": 1.0})
    with pytest.raises(EnvironmentFault, match="reset seed 5: in 3 layouts in a row"):
        world.reset(seed=5)


def test_a_cost_that_is_no_number_is_told_as_it_is_and_refused():
    world = registry.make("navigation/PointGoal1")
    world.reset(seed=0)
    world.world.task.calculate_cost = lambda: {"cost_hazards": np.nan}
    with pytest.raises(EnvironmentFault, match="cost"):
        world.step(np.zeros(2, np.float32))


def test_position_is_where_the_robot_is_and_its_speed_is_what_it_feels():
    env = registry.make("navigation/SaGuiStatic")
    _, info = env.reset(seed=0)
    before, part = info["position"], registry.task("navigation/SaGuiStatic").parts["velocimeter"]
    for _ in range(30):
        observation, *_, info = env.step(np.array([1.0, 0.0], dtype=np.float32))
        way, before = np.linalg.norm(info["position"] - before), info["position"]
    assert way > 0.005
    assert way == pytest.approx(0.02 * np.linalg.norm(observation[part]), rel=0.05)


# SaGui's arenas.


@pytest.mark.parametrize("name", ARENAS)
def test_objects_are_where_the_arena_puts_them(name):
    arena, ours = ARENAS[name], world(name)
    ours.reset(seed=4)
    task, layout = ours.task, ours.task.world_info.layout
    assert type(task.agent).__name__ == arena.robot
    for kind, objects in (("hazard", arena.hazards), ("vase", arena.vases)):
        if objects is not None:
            assert sum(place.startswith(kind) for place in layout) == objects.number
            for number, place in enumerate(objects.places):
                np.testing.assert_allclose(layout[f"{kind}{number}"], place, atol=1e-8)
    if arena.goal is not None:
        np.testing.assert_allclose(layout["goal"], arena.goal, atol=1e-8)
    inside = [np.abs(place).max() <= arena.extent for place in layout.values()]
    assert all(inside)


@pytest.mark.parametrize("name", ARENAS)
def test_the_guide_sees_what_the_student_sees_without_the_goal(name):
    student, guide = (registry.task(f"navigation/{name}{end}").parts for end in ("", "Guide"))
    assert [part for part in student if part != "goal_lidar"] == list(guide)
    one, other = world(name), registry.make(f"navigation/{name}Guide").world
    one.reset(seed=0)
    other.reset(seed=0)
    for array in ("qpos", "qvel"):
        getattr(other.inner.task.data, array)[:] = getattr(one.task.data, array)
    for body in range(one.task.model.nbody):
        other.inner.task.model.body_pos[body] = one.task.model.body_pos[body]
        other.inner.task.model.body_quat[body] = one.task.model.body_quat[body]
    seen, abstract = one.task.obs(), other.inner.task.obs()
    for part in abstract:
        if part != "accelerometer":
            np.testing.assert_array_equal(seen[part], abstract[part])


def test_the_guide_earns_nothing_pays_alike_and_ends_outside_the_square():
    env = registry.make("navigation/SaGuiStaticGuide")
    env.reset(seed=3)
    rewards, ended = set(), False
    for _ in range(400):
        _, reward, ended, _, info = env.step(np.array([1.0, 0.0], dtype=np.float32))
        rewards.add(reward)
        assert ended == (np.abs(info["position"]).max() > 1.5)
        assert info["cost"] == float(np.linalg.norm(info["position"]) <= 0.7)
        if ended:
            break
    assert ended
    assert rewards == {0.0}


def test_the_student_may_leave_the_square_and_its_goal_in_the_static_arena_ends_the_episode():
    ours = world("SaGuiStatic")
    ours.reset(seed=0)
    ours.task.data.qpos[:2] += 10.0
    _, _, ended, _, info = ours.step(np.zeros(2, dtype=np.float32))
    assert not ended
    assert np.abs(info["position"]).max() > 1.5
    ours.reset(seed=0)
    ours.task._set_goal(ours.task.agent.pos[:2])
    _, reward, ended, _, _ = ours.step(np.zeros(2, dtype=np.float32))
    assert ended
    assert reward > 1.0


def test_guides_start_anywhere_but_never_in_a_cost():
    env = registry.make("navigation/SaGuiSemiDynamicGuide")
    starts = []
    for seed in range(12):
        _, info = env.reset(seed=seed)
        assert info["cost"] == 0.0
        starts.append(info["position"])
    assert np.ptp(np.array(starts), axis=0).min() > 2.0
