"""MetaDrive: a car on a road with traffic, as DSRL's nine driving tasks have it; each world in a process of its own.

MetaDrive's engine may exist once in a process, and what it requires excludes what we require (0.2.6: gym 0.19 and a
numpy below 1.24; 0.4 below 0.4.3: gymnasium below 0.29). So a world is another Python's process (`metadrive_child.py`),
spoken to through `envs.bridge`. Which Python is said by the environment variable SAFEHOLD_METADRIVE_PYTHON; without it
our own, where MetaDrive is installed for it.

The roads, densities, cost and ends are those of DSRL (dsrl/offline_metadrive, commit 71064f2), which drives MetaDrive
0.2.6.0. Unlike DSRL, whose traffic is drawn from the system and whose cars are used again as physics left them, the
reset seed settles an episode to the bit.
"""

import importlib.util
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from safehold.core.errors import UsageError
from safehold.core.spec import Box, TaskSpec
from safehold.envs.adapter import Task, World
from safehold.envs.bridge import Answer, Bridge

PYTHON = "SAFEHOLD_METADRIVE_PYTHON"
"""Environment variable: the Python that MetaDrive is installed for."""

OBSERVATION_SIZE = 259
"""9 of the car itself, 10 of the way ahead, 240 rays of a lidar, each between 0 and 1."""
HORIZON = 1000
"""Steps of an episode, of 0.1 s each."""

START_SECONDS, RESET_SECONDS, STEP_SECONDS = 180.0, 120.0, 30.0
"""How long a world may take; a start takes 2 s on a quiet machine, a reset 0.2 s and a step 0.004 s."""

_CHILD = Path(__file__).with_name("metadrive_child.py")
_PROTOCOL = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Road:
    """A road as MetaDrive builds it: the seed of its shape, and its blocks (S straight, C curve, X crossing, ...)."""

    start_seed: int
    blocks: str


ROADS = {
    "easy": Road(start_seed=0, blocks="SCS"),
    "medium": Road(start_seed=100, blocks="XST"),
    "hard": Road(start_seed=200, blocks="TRO"),
}

DENSITIES = {"sparse": 0.1, "mean": 0.15, "dense": 0.2}
"""Cars for each 10 m of lane."""


class MetaDriveWorld:
    """One world, in the process that `command` starts.

    Raises:
        UsageError: if no Python is named, or MetaDrive is not installed for it.
        EnvironmentFault: if the process breaks its word (`envs.bridge`).
    """

    def __init__(self, env_id: str, road: Road, density: float, command: Sequence[str]) -> None:
        self._bridge = Bridge(env_id, command)
        asked = {"start_seed": road.start_seed, "blocks": road.blocks, "traffic_density": density}
        self._ask({"do": "open", "protocol": _PROTOCOL, **asked}, seconds=START_SECONDS)

    def reset(self, *, seed: int) -> tuple[Float32[np.ndarray, "o"], dict[str, Any]]:
        """An episode that depends on the seed alone."""
        return self._ask({"do": "reset", "seed": int(seed)}, seconds=RESET_SECONDS).values, {}

    def step(self, action: Float32[np.ndarray, "a"]) -> tuple[Any, Any, Any, bool, dict[str, Any]]:
        """One step; whether its numbers are numbers is looked at by the adapter."""
        answer = self._ask({"do": "step"}, action, seconds=STEP_SECONDS)
        lacking = sorted({"reward", "cost", "terminated"} - set(answer.head))
        if lacking:
            self._bridge.broken(f"took a step without saying its {' and '.join(lacking)}")
        return (
            answer.values,
            answer.head["reward"],
            answer.head["terminated"],
            False,
            {"cost": answer.head["cost"]},
        )

    def close(self) -> None:
        """Ends the process."""
        self._bridge.close()

    def _ask(self, head: dict[str, Any], values: Float32[np.ndarray, "_"] | None = None, *, seconds: float) -> Answer:
        answer = self._bridge.ask(head, values, seconds=seconds)
        if answer.head.get("did") != head["do"]:
            self._bridge.broken(f"was asked to {head['do']} and says it did {answer.head.get('did')!r}")
        return answer


def command() -> tuple[str, ...]:
    """How a world's process is started.

    Raises:
        UsageError: if no Python is named, and ours has no MetaDrive.
    """
    python = os.environ.get(PYTHON) or (sys.executable if importlib.util.find_spec("metadrive") else None)
    if python is None:
        raise UsageError(
            "metadrive/ tasks need MetaDrive in a Python of its own; run `make driving` (0.2.6.0, which brings its "
            f"models along) and set {PYTHON}=.venv-metadrive/bin/python, or to any Python with metadrive-simulator"
        )
    return (python, "-I", str(_CHILD))


def _task(env_id: str, road: Road, density: float) -> Task:
    def world() -> World:
        return MetaDriveWorld(env_id, road, density, command())

    return Task(
        spec=TaskSpec(
            env_id=env_id,
            observation_size=OBSERVATION_SIZE,
            action=Box(low=(-1.0, -1.0), high=(1.0, 1.0)),
            horizon=HORIZON,
            cost_units=("0.01 a step for each km/h above 10, 1 for a crash or for leaving the road",),
        ),
        world=world,
    )


TASKS = {
    f"metadrive/{name}{traffic}": _task(f"metadrive/{name}{traffic}", road, density)
    for name, road in ROADS.items()
    for traffic, density in DENSITIES.items()
}
