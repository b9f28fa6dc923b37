"""Worlds that differ from the one that was learnt in: heavier, more slippery, slower to obey.

A perturbed world has a name of its own, `HalfCheetahVelocity[mass=1.2,friction=0.8,delay=1]`, which every command and
every ledger takes for an environment's name. What a policy learnt in a simulator is worth on a machine that is not
quite that simulator can be asked this way, and a deployment be rehearsed there.
"""

import functools
import importlib
import re
from collections import deque
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from safehold.core.errors import UsageError
from safehold.core.spec import Box
from safehold.envs.adapter import Task, World

_NAMED = re.compile(r"(?P<base>[^\[\]]+)\[(?P<changes>[^\[\]]*)\]")


@dataclass(frozen=True, slots=True)
class Perturbation:
    """What is different. A factor of 1 and a delay of 0 change nothing.

    Raises:
        UsageError: if a factor is not a finite number above 0, or the delay not a whole number from 0 on.
    """

    mass: float = 1.0
    """Factor on the masses and inertias of all bodies. Needs a MuJoCo world."""
    friction: float = 1.0
    """Factor on all coefficients of friction: sliding, torsional, rolling. Needs a MuJoCo world."""
    delay: int = 0
    """Steps by which an action arrives late; until the first one does, the middle of the action box is executed."""

    def __post_init__(self) -> None:
        for name in ("mass", "friction"):
            factor = getattr(self, name)
            if not (np.isfinite(factor) and factor > 0):
                raise UsageError(f"{name}={factor}: a factor is a finite number above 0")
        if self.delay < 0:
            raise UsageError(f"delay={self.delay}: an action arrives 0, 1, 2, ... steps late")


def split(env_id: str) -> tuple[str, Perturbation | None]:
    """The name of the unperturbed world, and what is different; None for a name without brackets.

    Raises:
        UsageError: if what is in brackets is not `name=number, ...` with the names of `Perturbation`, each once.
    """
    found = _NAMED.fullmatch(env_id)
    if found is None:
        return env_id, None
    kinds = {field.name: field.type for field in fields(Perturbation)}
    changes: dict[str, Any] = {}
    for part in found["changes"].split(","):
        name, equals, number = (piece.strip() for piece in part.partition("="))
        if not equals or name not in kinds or name in changes:
            raise UsageError(
                f"environment {env_id!r}: in brackets stand changes, each once, of {', '.join(kinds)}: "
                f"NAME[mass=1.2,delay=1]; {part.strip()!r} is none"
            )
        try:
            changes[name] = int(number) if kinds[name] is int else float(number)
        except ValueError as error:
            raise UsageError(f"environment {env_id!r}: {name}={number!r} is not a number of its kind") from error
    return found["base"], Perturbation(**changes)


@functools.lru_cache(maxsize=256)  # one object a world: rollouts keep used worlds by their task
def perturbed(task: Task, change: Perturbation, env_id: str) -> Task:
    """The task in the changed world, under its own name.

    Raises:
        UsageError: if an action is delayed that is no vector; when a world is built, if a factor asks for a MuJoCo
            model where there is none.
    """
    action = task.spec.action
    if change.delay and not isinstance(action, Box):
        raise UsageError(f"{env_id}: actions of {task.spec.env_id} are no vectors; only those can be delayed")

    def world() -> World:
        built = task.world()
        if change.mass != 1.0 or change.friction != 1.0:
            _change_body(built, change, env_id)
        if change.delay:
            assert isinstance(action, Box)
            built = Delayed(built, change.delay, (np.array(action.low) + np.array(action.high)) / 2)
        return built

    return replace(task, spec=replace(task.spec, env_id=env_id), world=world, worlds=None)


@runtime_checkable
class MuJoCoModel(Protocol):
    """The part of MuJoCo's model that is changed, in place."""

    body_mass: Float[np.ndarray, "b"]
    body_inertia: Float[np.ndarray, "b 3"]
    geom_friction: Float[np.ndarray, "g 3"]


def _change_body(world: World, change: Perturbation, env_id: str) -> None:
    model = getattr(world, "model", None)
    if not isinstance(model, MuJoCoModel):
        world.close()
        raise UsageError(f"{env_id}: this world has no MuJoCo model whose mass or friction could change; delay works")
    model.body_mass[:] *= change.mass
    model.body_inertia[:] *= change.mass
    model.geom_friction[:] *= change.friction
    if change.mass != 1.0:  # MuJoCo derived numbers from the masses, among them the softness of contacts
        mujoco = importlib.import_module("mujoco")
        mujoco.mj_setConst(model, mujoco.MjData(model))


class Delayed:
    """A world that executes an action so many steps after it was given."""

    def __init__(self, world: World, delay: int, waiting: Float[np.ndarray, "a"]) -> None:
        self._world = world
        self._delay = delay
        self._idle = waiting.astype(np.float32)
        self._queue: deque[np.ndarray] = deque()

    def reset(self, *, seed: int) -> tuple[Any, dict[str, Any]]:
        """First observation and info; nothing is under way."""
        self._queue = deque([self._idle] * self._delay)
        return self._world.reset(seed=seed)

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """What the oldest action does that has not arrived yet."""
        self._queue.append(np.array(action, dtype=np.float32))
        return self._world.step(self._queue.popleft())

    def close(self) -> None:
        """Closes the world."""
        self._world.close()
