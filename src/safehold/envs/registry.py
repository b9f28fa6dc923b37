"""Every world by its name; a suite's own packages are imported when one of its worlds is built."""

import difflib

from safehold.core.env import PlacedEnvs, SafeEnv
from safehold.core.errors import UsageError
from safehold.core.spec import TaskSpec
from safehold.envs import lockstep, perturbed
from safehold.envs.adapter import Task
from safehold.envs.suites import bullet_safety_gym, icu_sepsis, metadrive, navigation, sagui, velocity
from safehold.envs.toy import corridor, dial, double_integrator, point_hazard, point_robot, rain

TASKS: dict[str, Task] = {
    **velocity.TASKS,
    **bullet_safety_gym.TASKS,
    **metadrive.TASKS,
    **navigation.TASKS,
    **sagui.TASKS,
    "icu/Sepsis": icu_sepsis.TASK,
    "toy/Corridor": corridor.TASK,
    "toy/Dial": dial.TASK,
    "toy/DoubleIntegrator": double_integrator.TASK,
    "toy/PointHazard": point_hazard.TASK,
    "toy/PointRobot": point_robot.TASK,
    "toy/PointRobotGuide": point_robot.GUIDE_TASK,
    "toy/Rain": rain.TASK,
}


def make(env_id: str) -> SafeEnv:
    """A world of this name, behind the checks of `envs.adapter`.

    Raises:
        UsageError: if nothing has this name, or its suite's package is not installed.
    """
    return task(env_id).make()


def make_many(env_id: str, n: int) -> PlacedEnvs:
    """Several worlds of this name that step together, behind the same checks.

    Raises:
        UsageError: if nothing has this name, its suite's package is not installed, or n is below 1.
    """
    return lockstep.make_many(task(env_id), n)


def spec(env_id: str) -> TaskSpec:
    """Sizes, bounds, horizon, cost names and units of a world, without building it."""
    return task(env_id).spec


def list_envs() -> tuple[str, ...]:
    """Every name that `make` knows, sorted."""
    return tuple(sorted(TASKS))


def task(env_id: str) -> Task:
    """The entry of this name, or of a perturbed world, `NAME[mass=1.2,friction=0.8,delay=1]`.

    Raises:
        UsageError: if nothing has this name; the message gives the nearest one. If the brackets are wrong.
    """
    base, change = perturbed.split(env_id)
    if change is not None:
        return perturbed.perturbed(task(base), change, env_id)
    if env_id in TASKS:
        return TASKS[env_id]
    by_lower_case = {name.lower(): name for name in TASKS}
    near = difflib.get_close_matches(env_id.lower(), by_lower_case, n=1, cutoff=0.5)
    there_are = f"the nearest name is {by_lower_case[near[0]]!r}" if near else f"there are {', '.join(TASKS)}"
    raise UsageError(f"no environment is named {env_id!r}; {there_are}")
