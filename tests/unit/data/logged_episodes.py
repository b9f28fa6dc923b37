"""Random episodes of a made-up task, for the tests of this directory."""

from dataclasses import replace

import numpy as np

from safehold.core.episode import Episode
from safehold.core.spec import Box, TaskSpec
from safehold.data.dataset import OfflineDataset

SPEC = TaskSpec(
    env_id="test/Line",
    observation_size=3,
    action=Box((-1.0, -1.0), (1.0, 1.0)),
    horizon=20,
    cost_names=("speed", "tilt"),
    cost_units=("m/s above 1", "steps above 20 degrees"),
)


def episodes_of(lengths: list[int], seed: int = 0) -> list[Episode]:
    rng = np.random.default_rng(seed)
    return [
        Episode(
            observations=rng.normal(size=(n + 1, 3)).astype(np.float32),
            actions=rng.uniform(-1, 1, size=(n, 2)).astype(np.float32),
            rewards=rng.normal(size=n),
            costs=rng.exponential(size=(n, 2)),
            terminated=bool(n % 2),
            truncated=not n % 2,
        )
        for n in lengths
    ]


def dataset_of(lengths: list[int], seed: int = 0) -> OfflineDataset:
    return OfflineDataset.of(episodes_of(lengths, seed), SPEC, {"source": "test"}, list(range(len(lengths))))


def one_cost(dataset: OfflineDataset) -> OfflineDataset:
    """The same dataset with its first cost alone."""
    spec = replace(dataset.spec, cost_names=dataset.spec.cost_names[:1], cost_units=dataset.spec.cost_units[:1])
    return replace(dataset, spec=spec, costs=dataset.costs[:, :1])
