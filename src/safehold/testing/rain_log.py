"""Episodes on `toy/Rain` by mixed behaviour: what learners are tried on, where the best is known."""

import numpy as np
from jaxtyping import Float

from safehold.core.policy import Policy
from safehold.core.seeding import Streams
from safehold.data.dataset import OfflineDataset
from safehold.envs.toy import rain
from safehold.rollout.episodes import rollout


def mixed_log(episodes: int, seed: int) -> OfflineDataset:
    """Every episode by a driver of its own: bold or careful when wet, sloppy or sure.

    Speeds held when dry are drawn from 1 to the top speed, when wet from 0 to the former; the share of random choices
    from 0.1 to 0.6. All choices occur in all states, costs run from nearly none to that of always driving at the top.
    """
    streams = Streams(seed)
    rng = streams["drivers"]
    driven = []
    for driver, reset in enumerate(streams.episode_seeds("log", 0, episodes)):
        dry = rng.uniform(1.0, rain.SPEEDS - 1.0)
        habit = rain.habit(dry, rng.uniform(0.0, dry), rng.uniform(0.1, 0.6))
        driven += rollout("toy/Rain", habit, [reset], rng_seed=streams.integer(f"driver/{driver}"))
    return OfflineDataset.of(driven, rain.TASK.spec, {"log": "rain", "seed": seed}, np.arange(episodes))


def returns_of(policy: Policy, *, draws: int = 2000, seed: int = 0) -> Float[np.ndarray, "2"]:
    """Expected reward and cost return of a policy without a memory, with no noise but that of how it draws actions."""
    chances = rain.chances_of(policy, draws, np.random.default_rng(seed))
    return np.array(rain.expected_returns(chances))
