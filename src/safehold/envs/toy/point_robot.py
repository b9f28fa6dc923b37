"""PointRobot: drive from goal to goal in a walled square, round three discs that cost; any number of robots at once.

A robot at x with velocity v answers its command u, inside the unit square of commands, with a lag:

    v' = v + RESPONSE (TOP_SPEED u - v),        x' = x + v',

so that it cannot stop at once: whoever heads for a disc too fast is lost before it is inside. At the walls the position
is held and the speed across is gone. A step's reward is the way gained towards the goal, in steps at top speed; a goal
that is reached makes place for the next. Two costs are named: "cost" is 1 for a step that ends inside a disc, "depth"
how deep inside it ended, as a share of the disc's radius. The guide's task is the same world without goals: its
observation lacks them, its reward is 0, and its costs are those of the same robot under the same commands.

Closed forms: `way(t)` from rest under full command, and `braking_way(v)`, the way on under full command back.
"""

import math
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from safehold.core.spec import Box, TaskSpec
from safehold.envs.adapter import Task

HORIZON = 100
SIZE = 1.5
"""Half the width of the arena, in metres."""
TOP_SPEED = 0.1
"""Speed that a full command tends to along an axis, in metres a step."""
RESPONSE = 0.1
"""Share of the difference between commanded and present speed that a step makes up."""
HAZARDS = np.array([[0.0, 0.0, 0.5], [-0.9, 0.8, 0.3], [0.9, -0.8, 0.3]])
"""x, y and radius of each disc, in metres."""
GOAL_RADIUS = 0.2
"""A goal is reached from this distance, in metres."""
CLEARANCE = 0.3
"""Starts and goals lie at least this far from every disc, and from the walls, in metres."""
LOOK_AHEAD = 10
"""Steps after which a robot that kept out of every disc is called saved."""
GOAL_ENTRIES = 2
"""The last entries of an observation with a goal: the way to it. Without them it is the guide's observation."""
PARTS = {"position": slice(0, 2), "velocity": slice(2, 4), "hazard": slice(4, 7)}
"""Entries of the guide's observation, and the first of one with a goal."""


class PointRobots:
    """n robots in arrays. Observation: position, velocity over TOP_SPEED, way to the centre of the nearest disc and
    distance to its edge (negative inside), and, with goals, the way to the goal."""  # noqa: D205, D209

    def __init__(self, n: int, *, goals: bool) -> None:
        self._goals = goals
        self._positions, self._velocities = np.zeros((n, 2)), np.zeros((n, 2))
        self._targets = np.zeros((n, 2))
        self._draws = [np.random.default_rng(0)] * n

    def reset(self, row: int, *, seed: int) -> Float[np.ndarray, "o"]:
        """At rest, somewhere free; the start is the same with goals and without."""
        self._draws[row] = np.random.default_rng(seed)
        self._positions[row], self._velocities[row] = self._free_place(row), 0.0
        self._targets[row] = self._free_place(row)
        return self._observations(np.array([row]))[0]

    def step(
        self, rows: Int[np.ndarray, "m"], actions: Float[np.ndarray, "m two"]
    ) -> tuple[Float[np.ndarray, "m o"], Float[np.ndarray, "m"], Float[np.ndarray, "m two"], Bool[np.ndarray, "m"]]:
        """One step of the robots in these rows."""
        before = length(self._targets[rows] - self._positions[rows])
        self._positions[rows], self._velocities[rows] = move(
            self._positions[rows], self._velocities[rows], actions.astype(np.float64)
        )
        after = length(self._targets[rows] - self._positions[rows])
        rewards = (before - after) / TOP_SPEED if self._goals else np.zeros(len(rows))
        for place in np.flatnonzero(after <= GOAL_RADIUS):
            row = int(rows[place])
            self._targets[row] = self._free_place(row)
        return self._observations(rows), rewards, costs_at(self._positions[rows]), np.zeros(len(rows), dtype=np.bool_)

    def positions(self, rows: Int[np.ndarray, "m"]) -> Float[np.ndarray, "m two"]:
        """Where the robots of these rows are, in metres."""
        return self._positions[rows]

    def _free_place(self, row: int) -> Float[np.ndarray, "two"]:
        """A place drawn uniformly from those that keep the clearance."""
        while True:
            place = self._draws[row].uniform(CLEARANCE - SIZE, SIZE - CLEARANCE, 2)
            if edge_distances(place[None]).min() >= CLEARANCE:
                return place

    def _observations(self, rows: Int[np.ndarray, "m"]) -> Float[np.ndarray, "m o"]:
        positions, velocities = self._positions[rows], self._velocities[rows]
        observed = observations_at(positions, velocities)
        return np.hstack([observed, self._targets[rows] - positions]) if self._goals else observed


class PointRobot:
    """One such robot, as a Gymnasium-style world."""

    def __init__(self, *, goals: bool) -> None:
        self._robots = PointRobots(1, goals=goals)

    def reset(self, *, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
        """At rest, somewhere free."""
        observation = self._robots.reset(0, seed=seed)
        return observation, {"position": observation[:2].tolist()}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One step."""
        observations, rewards, costs, _ = self._robots.step(np.zeros(1, dtype=np.int64), action[None])
        cost, depth = costs[0].tolist()
        info = {"cost": cost, "costs": {"depth": depth}, "position": observations[0, :2].tolist()}
        return observations[0], float(rewards[0]), False, False, info

    def close(self) -> None:
        """Holds nothing."""


def move(
    positions: Float[np.ndarray, "m two"], velocities: Float[np.ndarray, "m two"], commands: Float[np.ndarray, "m two"]
) -> tuple[Float[np.ndarray, "m two"], Float[np.ndarray, "m two"]]:
    """Positions and velocities one step later."""
    velocities = velocities + RESPONSE * (TOP_SPEED * commands - velocities)
    wanted = positions + velocities
    positions = np.clip(wanted, -SIZE, SIZE)
    return positions, np.where(positions == wanted, velocities, 0.0)


def observations_at(
    positions: Float[np.ndarray, "m two"], velocities: Float[np.ndarray, "m two"]
) -> Float[np.ndarray, "m seven"]:
    """What the guide sees there: everything but the goal."""
    edges = edge_distances(positions)
    nearest = np.argmin(edges, axis=1)
    ways = HAZARDS[nearest, :2] - positions
    edge = edges[np.arange(len(edges)), nearest]
    return np.hstack([positions, velocities / TOP_SPEED, ways, edge[:, None]])


def edge_distances(positions: Float[np.ndarray, "m two"]) -> Float[np.ndarray, "m hazards"]:
    """Distance to the edge of every disc, in metres; negative inside."""
    return length(positions[:, None] - HAZARDS[:, :2]) - HAZARDS[:, 2]


def costs_at(positions: Float[np.ndarray, "m two"]) -> Float[np.ndarray, "m two"]:
    """Both costs of a step that ends there: inside or not, and how deep."""
    depth = np.maximum(-edge_distances(positions) / HAZARDS[:, 2], 0.0).max(axis=1)
    return np.stack([(depth > 0.0).astype(np.float64), depth], axis=1)


def length(vectors: Float[np.ndarray, "*m two"]) -> Float[np.ndarray, "*m"]:
    """Euclidean length of each, by operations that round alike for one robot and for many."""
    return np.sqrt(vectors[..., 0] * vectors[..., 0] + vectors[..., 1] * vectors[..., 1])


def way(steps: int) -> float:
    """Metres covered along an axis from rest under full command: TOP_SPEED (t - q (1 - q^t) / (1 - q)).

    The speed after step t is TOP_SPEED (1 - q^t), with q = 1 - RESPONSE.
    """
    left = 1.0 - RESPONSE
    return TOP_SPEED * (steps - left * (1.0 - left**steps) / RESPONSE)


def braking_way(speed: float) -> float:
    """Metres that a robot at `speed` still goes ahead under full command back.

    Its speed after step t is -TOP_SPEED + (speed + TOP_SPEED) q^t; the way is the sum of those that are positive.
    """
    left = 1.0 - RESPONSE
    steps = math.floor(math.log(TOP_SPEED / (speed + TOP_SPEED)) / math.log(left)) if speed > 0 else 0
    return -TOP_SPEED * steps + (speed + TOP_SPEED) * left * (1.0 - left**steps) / RESPONSE


def lost(positions: Float[np.ndarray, "m two"], velocities: Float[np.ndarray, "m two"]) -> Bool[np.ndarray, "m"]:
    """States from which none of 32 constant full commands keeps out of every disc for LOOK_AHEAD steps.

    A robot at top speed has stopped after seven steps of full command back. Whoever is inside is lost, too.
    """
    saved = np.zeros(len(positions), dtype=np.bool_)
    for angle in np.arange(32) * (2 * math.pi / 32):
        direction = np.array([math.cos(angle), math.sin(angle)])
        commands = np.broadcast_to(direction / np.abs(direction).max(), positions.shape)
        at, speed, free = positions, velocities, np.ones(len(positions), dtype=np.bool_)
        for _ in range(LOOK_AHEAD):
            at, speed = move(at, speed, commands)
            free &= costs_at(at)[:, 0] == 0.0
        saved |= free
    return ~saved


def _task(env_id: str, *, goals: bool) -> Task:
    return Task(
        spec=TaskSpec(
            env_id=env_id,
            observation_size=7 + (GOAL_ENTRIES if goals else 0),
            action=Box(low=(-1.0, -1.0), high=(1.0, 1.0)),
            horizon=HORIZON,
            cost_names=("cost", "depth"),
            cost_units=(
                "steps that end inside a disc",
                "depth inside a disc after a step, share of its radius",
            ),
        ),
        world=lambda: PointRobot(goals=goals),
        worlds=lambda n: PointRobots(n, goals=goals),
        parts=PARTS | ({"goal": slice(7, 7 + GOAL_ENTRIES)} if goals else {}),
    )


TASK = _task("toy/PointRobot", goals=True)
GUIDE_TASK = _task("toy/PointRobotGuide", goals=False)
