"""The worlds that deploy_peers.py compares methods on: what is true, and what is told of it."""

import hashlib
import json
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from line_protocol import Plane, Problem, Told

from safehold.core.seeding import Streams

SEED = 20261121
SIDE = 21
LIMIT = 100.0
CAP = 300.0
EPISODE_SD = 10.0
EPISODES = 20
ASKS = 20
DELTA = 0.05
SEED_PLACES = ((0, 0), (0, 2), (2, 1), (4, 0), (4, 2))
"""Seed targets, as places on the two axes: R up to 20, G up to 67."""


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """A family of worlds; ranges of one point are known values."""

    name: str
    reward_plane: Plane
    cost_plane: Plane
    reward_sd: tuple[float, float]
    cost_sd: tuple[float, float]
    lengthscale: tuple[float, float]


GEOMETRIES = (
    Geometry(
        name="declared",
        reward_plane=Plane(0.0, 100.0, 0.0),
        cost_plane=Plane(60.0, 0.0, 70.0),
        reward_sd=(10.0, 10.0),
        cost_sd=(20.0, 20.0),
        lengthscale=(0.5, 0.5),
    ),
    Geometry(
        name="undeclared",
        reward_plane=Plane(0.0, 50.0, 50.0),
        cost_plane=Plane(70.0, 20.0, 40.0),
        reward_sd=(10.0, 20.0),
        cost_sd=(10.0, 20.0),
        lengthscale=(0.1, 0.5),
    ),
)


@dataclass(frozen=True, kw_only=True)
class World:
    """A truth: expected reward and cost of every candidate, and a short digest of both."""

    reward: Float[np.ndarray, "m"]
    cost: Float[np.ndarray, "m"]

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits; two methods saw the same world if these agree."""
        return hashlib.sha256(self.reward.tobytes() + self.cost.tobytes()).hexdigest()[:12]

    @property
    def safe(self) -> np.ndarray:
        """Candidates at or under the limit."""
        return self.cost <= LIMIT

    def measure(self, index: int, rng: np.random.Generator) -> Told:
        """Episodes of one candidate; the numbers drawn do not depend on which."""
        rewards, costs = EPISODE_SD * rng.standard_normal((2, EPISODES))
        return Told(
            index=index,
            rewards=tuple((self.reward[index] + rewards).tolist()),
            costs=tuple(np.clip(self.cost[index] + costs, 0.0, CAP).tolist()),
        )


def axes(side: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Target rewards and target costs."""
    return tuple(np.linspace(0.0, 100.0, side).tolist()), tuple(np.linspace(60.0, 130.0, side).tolist())


def plane_over(plane: Plane, side: int) -> Float[np.ndarray, "side side"]:
    """The plane at every candidate."""
    unit = np.linspace(0.0, 1.0, side)
    return plane.constant + plane.along_reward * unit[:, None] + plane.along_cost * unit[None, :]


def deviation(
    sd: tuple[float, float], lengthscale: tuple[float, float], rng: np.random.Generator
) -> Float[np.ndarray, "side side"]:
    """A draw of a squared-exponential Gaussian process on the grid: root Z root^T, one root an axis."""
    scale = rng.uniform(*sd)
    unit = np.linspace(0.0, 1.0, SIDE)
    roots = []
    for _ in range(2):
        length = rng.uniform(*lengthscale)
        values, vectors = np.linalg.eigh(np.exp(-0.5 * ((unit[:, None] - unit[None, :]) / length) ** 2))
        roots.append(vectors * np.sqrt(np.maximum(values, 0.0)))
    return scale * roots[0] @ rng.standard_normal((SIDE, SIDE)) @ roots[1].T


def world_of(geometry: Geometry, number: int) -> World:
    """The truth of run `number`, hyper-parameters and all."""
    rng = Streams(SEED)[f"world/{geometry.name}/{number}"]
    while True:
        reward = plane_over(geometry.reward_plane, SIDE) + deviation(geometry.reward_sd, geometry.lengthscale, rng)
        cost = plane_over(geometry.cost_plane, SIDE) + deviation(geometry.cost_sd, geometry.lengthscale, rng)
        if np.all((cost >= 0) & (cost <= CAP)) and all(cost[place] <= LIMIT for place in SEED_PLACES):
            return World(reward=reward.ravel(), cost=cost.ravel())


def problem_of(geometry: Geometry, number: int, world: World) -> Problem:
    """What a method is told of run `number`."""
    rewards, costs = axes(SIDE)
    indices = [reward * SIDE + cost for reward, cost in SEED_PLACES]
    streams = Streams(SEED)
    return Problem(
        rewards=rewards,
        costs=costs,
        limit=LIMIT,
        cap=CAP,
        reward_plane=geometry.reward_plane,
        cost_plane=geometry.cost_plane,
        reward_sd=geometry.reward_sd,
        cost_sd=geometry.cost_sd,
        lengthscale=geometry.lengthscale,
        episode_sd=EPISODE_SD,
        episodes=EPISODES,
        asks=ASKS,
        delta=DELTA,
        start=tuple(
            world.measure(index, streams[f"start/{geometry.name}/{number}/{place}"])
            for place, index in enumerate(indices)
        ),
        seed=streams.integer(f"method/{geometry.name}/{number}") % 2**31,
    )


def clock_world(side: int) -> World:
    """A smooth truth of any size for the clock; its figures are not looked at."""
    unit = np.linspace(0.0, 1.0, side)
    u, v = unit[:, None], unit[None, :]
    geometry = GEOMETRIES[1]
    reward = plane_over(geometry.reward_plane, side) + 10.0 * np.sin(5 * u) * np.cos(4 * v)
    cost = plane_over(geometry.cost_plane, side) + 10.0 * np.cos(4 * u) * np.sin(5 * v)
    return World(reward=reward.ravel(), cost=cost.ravel())


def clock_problem(side: int, world: World, tells: int, asks: int) -> Problem:
    """Begins with `tells` measurements of random safe candidates."""
    rng = Streams(SEED)[f"clock/{side}"]
    safe = rng.permutation(np.flatnonzero(world.cost <= 0.8 * LIMIT))
    rewards, costs = axes(side)
    return replace(
        problem_of(GEOMETRIES[1], 0, world_of(GEOMETRIES[1], 0)),
        rewards=rewards,
        costs=costs,
        asks=asks,
        start=tuple(world.measure(int(index), rng) for index in safe[:tells]),
    )


def settings() -> dict[str, object]:
    """All numbers that every world depends on, as JSON values."""
    names = ("SEED", "SIDE", "LIMIT", "CAP", "EPISODE_SD", "EPISODES", "ASKS", "DELTA", "SEED_PLACES")
    plain: dict[str, object] = {name.lower(): globals()[name] for name in names}
    jsonable: dict[str, object] = json.loads(json.dumps(plain))
    return jsonable
