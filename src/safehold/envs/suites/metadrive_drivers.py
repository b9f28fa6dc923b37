"""Drivers for MetaDrive, from careful to reckless, that look at the observation alone: behaviour policies for a log."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from safehold.core.policy import Actor, Memoryless

HEADING, SPEED, OFFSET = 2, 3, 8
"""Entries of an observation: direction against the lane's and place across the lane (0.5: along its middle), speed."""
TOP_SPEED = 80.0
"""km/h; an observation's speed is (km/h + 1) / (TOP_SPEED + 1)."""
RANGE = 50.0
"""Metres that the lidar sees; 1 is nothing met."""

_ANGLES = np.arange(240) * (2 * np.pi / 240)  # clockwise, from straight ahead
_AHEAD, _ASIDE = RANGE * np.cos(_ANGLES), RANGE * np.sin(_ANGLES)
_HALF_WIDTH = 1.6  # metres to either side of the middle of the car that count as in its way
_BUMPERS = 4.5  # metres from the middle of one car to the middle of the next if they touch
_HEADING_GAIN, _OFFSET_GAIN = 2.0, 0.6  # steering, in shares of the wheel's full turn, for each unit of observation


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """Keeps its lane, and its distance to what is ahead, by the intelligent driver model without closing speed.

    throttle = 1 - (v / v0)^4 - (s*(v) / s)^2, s* = s0 + v T; below 0 it brakes.   [Treiber et al. 2000, Eqs. (2)-(3)]

    Unlike there, s* leaves out the term of the closing speed, which one observation does not show.

    Attributes:
        speed: v0, in km/h.
        gap: s0, the distance kept at a stand, in metres between bumpers.
        headway: T, in seconds.
        noise_sd: of what is added to steering and throttle at each step, in action units.
    """

    speed: float
    gap: float
    headway: float
    noise_sd: float

    def start(self, n: int, rng: np.random.Generator) -> Actor:
        """An actor for n episodes."""
        return Memoryless(
            lambda observations: (
                self.means(observations) + self.noise_sd * rng.standard_normal((n, 2), dtype=np.float32)
            )
        )

    def means(self, observations: Float[np.ndarray, "n o"]) -> Float[np.ndarray, "n 2"]:
        """Steering (to the left positive) and throttle, inside the bounds."""
        steering = _HEADING_GAIN * (observations[:, HEADING] - 0.5) + _OFFSET_GAIN * (observations[:, OFFSET] - 0.5)
        speed = np.maximum(0.0, (TOP_SPEED + 1) * observations[:, SPEED] - 1)
        wanted = self.gap + speed / 3.6 * self.headway
        left = np.maximum(0.1, free_road(observations) - _BUMPERS)
        throttle = 1 - (speed / self.speed) ** 4 - (wanted / left) ** 2
        return np.clip(np.stack([steering, throttle], axis=1), -1.0, 1.0)


def free_road(observations: Float[np.ndarray, "n o"]) -> Float[np.ndarray, "n"]:
    """Metres straight ahead to the nearest thing in the car's way; RANGE if the lidar meets none."""
    rays = observations[:, -len(_ANGLES) :]
    ahead = rays * _AHEAD
    in_the_way = (rays < 1) & (ahead > 0) & (np.abs(rays * _ASIDE) < _HALF_WIDTH)
    return np.where(in_the_way, ahead, RANGE).min(axis=1)
