"""Drivers by rule: what they see and do, by hand; and on MetaDrive's road, where it is."""

import os

import numpy as np
import pytest

from safehold.core.seeding import Streams
from safehold.envs.suites.metadrive import OBSERVATION_SIZE, PYTHON
from safehold.envs.suites.metadrive_drivers import HEADING, OFFSET, RANGE, SPEED, Driver, free_road
from safehold.rollout.episodes import rollout
from safehold.workflows.collect import DRIVERS, SPEEDS, driving_plan

LIDAR = OBSERVATION_SIZE - 240
CALM = Driver(speed=36.0, gap=5.0, headway=1.5, noise_sd=0.0)


def seen(*, speed: float = 0.0, heading: float = 0.5, offset: float = 0.5, rays: dict[int, float] | None = None):
    """One observation: km/h, direction and place in the lane, and what single rays meet, in metres."""
    observation = np.full((1, OBSERVATION_SIZE), 0.5, dtype=np.float32)
    observation[0, SPEED], observation[0, HEADING], observation[0, OFFSET] = (speed + 1) / 81, heading, offset
    observation[0, LIDAR:] = 1.0
    for ray, metres in (rays or {}).items():
        observation[0, LIDAR + ray] = metres / RANGE
    return observation


@pytest.mark.parametrize(
    ("rays", "metres"),
    [
        ({}, RANGE),
        ({0: 20.0}, 20.0),
        ({60: 3.0, 120: 3.0, 180: 3.0}, RANGE),  # beside and behind
        ({4: 20.0}, RANGE),  # 6 degrees to the right at 20 m: 2.1 m aside
        ({4: 10.0}, 10.0 * np.cos(np.deg2rad(6.0))),
        ({236: 10.0, 0: 30.0}, 10.0 * np.cos(np.deg2rad(6.0))),  # 6 degrees to the left
    ],
)
def test_what_is_in_the_way_is_what_the_car_would_hit(rays: dict[int, float], metres: float) -> None:
    np.testing.assert_allclose(free_road(seen(rays=rays)), [metres], rtol=1e-6)


def test_throttle_is_that_of_the_model() -> None:
    free = RANGE - 4.5
    by_hand = 1 - (18 / 36) ** 4 - ((5 + 5 * 1.5) / free) ** 2  # 18 km/h are 5 m/s
    np.testing.assert_allclose(CALM.means(seen(speed=18.0))[0], [0.0, by_hand], atol=1e-6)
    near = 1 - (18 / 36) ** 4 - ((5 + 5 * 1.5) / (15.0 - 4.5)) ** 2
    np.testing.assert_allclose(CALM.means(seen(speed=18.0, rays={0: 15.0}))[0, 1], near, atol=1e-6)
    assert CALM.means(seen(speed=18.0, rays={0: 5.0}))[0, 1] == -1.0  # full brakes
    assert CALM.means(seen(speed=40.0))[0, 1] < 0  # too fast


def test_steering_leads_back_to_the_lane() -> None:
    assert CALM.means(seen(heading=0.55))[0, 0] > 0  # it looks to the right of the lane: to the left
    assert CALM.means(seen(offset=0.4))[0, 0] < 0  # it is left of the middle: to the right


def test_noise_is_the_generators_and_of_the_stated_size() -> None:
    noisy = Driver(speed=36.0, gap=5.0, headway=1.5, noise_sd=0.1)
    observations = np.repeat(seen(speed=18.0), 4000, axis=0)
    actions = noisy.start(4000, np.random.default_rng(0)).act(observations)
    np.testing.assert_allclose((actions - noisy.means(observations)).std(axis=0), 0.1, rtol=0.05)
    np.testing.assert_array_equal(actions, noisy.start(4000, np.random.default_rng(0)).act(observations))


def test_the_log_has_drivers_from_careful_to_reckless_and_relays_of_them() -> None:
    behaviours = driving_plan(Streams(0)["plan"])
    assert behaviours == driving_plan(Streams(0)["plan"])
    assert len({behaviour.name for behaviour in behaviours}) == len(behaviours) == 2 * DRIVERS
    alone = [behaviour.policy for behaviour in behaviours[:DRIVERS]]
    assert all(isinstance(policy, Driver) for policy in alone)
    speeds, headways, gaps = (np.array([getattr(p, name) for p in alone]) for name in ("speed", "headway", "gap"))
    assert (speeds[0], round(speeds[-1], 9)) == SPEEDS
    assert (np.diff(speeds) > 0).all()
    assert (np.diff(headways) < 0).all()
    assert (np.diff(gaps) < 0).all()


@pytest.mark.skipif(
    PYTHON not in os.environ, reason=f"MetaDrive needs a Python of its own: run `make driving` and set {PYTHON}"
)
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_careful_cost_next_to_nothing_and_the_fast_arrive_at_a_cost() -> None:
    careful = Driver(speed=9.5, gap=7.0, headway=1.5, noise_sd=0.0)
    fast = Driver(speed=40.0, gap=3.0, headway=0.8, noise_sd=0.0)
    slow, quick = (rollout("metadrive/easysparse", driver, (4,), rng_seed=0)[0] for driver in (careful, fast))
    assert slow.truncated
    assert slow.cost_returns[0] < 0.01  # what nearness costs, at most 1e-4 a step
    assert slow.reward_return > 200
    assert quick.terminated
    assert quick.reward_return > 400
    assert 60 < quick.cost_returns[0] < 130
