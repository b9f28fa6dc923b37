"""Records what Safety-Gymnasium's own stack computes, for `test_env_navigation.py`.

    python tests/unit/envs/navigation_episodes.py [--out tests/data/navigation.npz]

To be run by an interpreter of Python 3.11 with the versions that the suite is pinned to, and without safehold:

    pip install gymnasium==0.28.1 gymnasium-robotics==1.2.2 mujoco==2.3.3 'numpy<2' xmltodict imageio pygame pyyaml
    pip install --no-deps safety-gymnasium==1.0.0

Nothing of the suite is changed but that arrays may be defaults of its dataclasses, without which Python 3.11 does not
import it. The actions are the same in every task: drawn from the seed, and held for HELD steps, so that robots get
somewhere. Kept are the layout, the first observation, and moments: what the simulation's state was before and after a
step, and the reward, the costs and the observation that the suite made of it. A moment is every EVERY-th step, and the
first step of each named cost. (Whole episodes would compare versions of MuJoCo: between 2.3 and 4.0 they part.)
"""

import argparse
import copy
import dataclasses
import importlib
import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np

SEEDS = (0, 1)
STEPS = 200
HELD = 25
EVERY = 50
STATE = ("positions", "velocities")
COURSES = [f"{kind}{level}" for kind in ("Goal", "Button", "Push", "Circle") for level in range(3)]
TASKS = [f"{robot}{course}" for robot in ("Point", "Car") for course in COURSES]


def suite() -> Any:
    """The package, imported while every dataclass copies the defaults that Python 3.11 refuses."""
    original = dataclasses.dataclass

    def lenient(cls: Any = None, /, **options: Any) -> Any:
        def decorate(plain: Any) -> Any:
            for name, default in list(vars(plain).items()):
                if isinstance(default, np.ndarray):
                    setattr(plain, name, dataclasses.field(default_factory=lambda d=default: copy.deepcopy(d)))
            return original(plain, **options)

        return decorate if cls is None else decorate(cls)

    dataclasses.dataclass = lenient
    try:
        return importlib.import_module("safety_gymnasium")
    finally:
        dataclasses.dataclass = original


def actions(seed: int) -> np.ndarray:
    """(STEPS, 2), in float32."""
    held = np.random.default_rng(seed).uniform(-1.0, 1.0, (STEPS // HELD, 2))
    return np.repeat(held, HELD, axis=0).astype(np.float32)


def moment(env: Any) -> dict[str, np.ndarray]:
    """What observations, rewards and costs are functions of, beside the layout."""
    task = env.task
    buttons = getattr(task, "buttons", None)
    goal = task.model.body("goal").pos.copy() if hasattr(task, "goal") else np.zeros(3)
    return {
        "positions": task.data.qpos.copy(),
        "velocities": task.data.qvel.copy(),
        "goal": goal,
        "button": np.array([buttons.goal_button, buttons.timer] if buttons else [0, 0], dtype=np.int64),
    }


def episode(env: Any, seed: int) -> dict[str, np.ndarray]:
    """One episode, up to its end or STEPS."""
    observation, _ = env.reset(seed=seed)
    layout = {name: np.array(place) for name, place in env.task.world_info.layout.items()}
    kept: dict[str, list[Any]] = {"observations": [observation]}
    names, met = [name for name in env.task.calculate_cost() if name != "cost_sum"], set()
    if env.task.__class__.__name__ in ("ButtonLevel1", "ButtonLevel2"):
        names = sorted({*names, "cost_buttons"})  # left out while they are switched off
    for step, action in enumerate(actions(seed), 1):
        before = moment(env)
        seen, reward, cost, terminated, truncated, info = env.step(action)
        new = {name for name in names if info.get(name, 0.0) > 0.0} - met
        met |= new
        if (step % EVERY == 0 or new) and "goal_met" not in info:
            record = {f"{name}_before": value for name, value in before.items() if name != "velocities"}
            record |= {f"{name}_after": value for name, value in moment(env).items() if name in STATE}
            record |= {"observations": seen, "rewards": reward}
            record["costs"] = [cost, *(info.get(name, 0.0) for name in names)]
            for name, value in record.items():
                kept.setdefault(name, []).append(value)
        if terminated or truncated:
            break
    arrays = {name: np.array(values) for name, values in kept.items()}
    return arrays | {
        "layout_names": np.array(list(layout)),
        "layout": np.array(list(layout.values())),
        "cost_names": np.array(["cost", *(name.removeprefix("cost_") for name in names)]),
    }


def main() -> None:
    """Records every task with every seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("tests/data/navigation.npz"))
    out = parser.parse_args().out
    package, arrays = suite(), {}
    for task in TASKS:
        env = package.make(f"Safety{task}-v0").unwrapped
        for seed in SEEDS:
            for name, array in episode(env, seed).items():
                arrays[f"{task}/{name}" if name.endswith("_names") else f"{task}/{seed}/{name}"] = array
    versions = {name: importlib.metadata.version(name) for name in ("safety-gymnasium", "gymnasium", "mujoco", "numpy")}
    arrays["versions"] = np.array([f"{name} {version}" for name, version in versions.items()])
    np.savez_compressed(out, **arrays)


if __name__ == "__main__":
    main()
