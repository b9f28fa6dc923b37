"""A log that no world made, with two costs of very different size."""

import numpy as np

from safehold.core.spec import Box, TaskSpec
from safehold.data.dataset import OfflineDataset

TWO_COSTS = TaskSpec(
    env_id="toy/Two",
    observation_size=3,
    action=Box((-1.0, 0.0), (1.0, 4.0)),
    horizon=12,
    cost_names=("heat", "wear"),
    cost_units=("degrees", "cycles"),
)


def two_costs() -> OfflineDataset:
    rng = np.random.default_rng(0)
    return OfflineDataset(
        spec=TWO_COSTS,
        observations=rng.standard_normal((104, 3)).astype(np.float32),
        actions=rng.uniform([-1.0, 0.0], [1.0, 4.0], (96, 2)).astype(np.float32),
        rewards=rng.standard_normal(96),
        costs=np.column_stack([rng.random(96) < 0.3, rng.random(96) * 0.5]).astype(np.float64),
        offsets=np.arange(0, 97, 12),
        terminated=np.arange(8) % 2 == 0,
    )
