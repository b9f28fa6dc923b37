"""The picture of a multiplier network over the point robot's arena: data first."""

import numpy as np

from safehold.envs.toy import point_robot
from safehold.learn.multiplier_network import MultiplierField
from safehold.report.figures.multiplier_map import MultiplierMap


def multiplier_map(
    field: MultiplierField,
    *,
    velocity: tuple[float, float],
    goal: tuple[float, float] = (1.2, 1.2),
    points: int = 61,
) -> MultiplierMap:
    """Multipliers at points x points places of the arena, for a robot of toy/PointRobot that moves with `velocity`.

    `velocity` is in metres a step, `goal` is the place of the goal that all of them see, in metres. What is lost is
    tried out (`point_robot.lost`), and does not depend on the field.
    """
    line = np.linspace(-point_robot.SIZE, point_robot.SIZE, points)
    positions = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    velocities = np.broadcast_to(np.array(velocity), positions.shape)
    seen = np.hstack([point_robot.observations_at(positions, velocities), np.array(goal) - positions])
    return MultiplierMap(
        x=line,
        y=line,
        multipliers=field(seen).reshape(points, points),
        lost=point_robot.lost(positions, velocities).reshape(points, points),
        discs=tuple((float(x), float(y), float(radius)) for x, y, radius in point_robot.HAZARDS),
        velocity=velocity,
    )
