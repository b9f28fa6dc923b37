"""Random episodes of a made-up task, for the tests of this directory."""

from dataclasses import replace
from pathlib import Path

import h5py
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


def flat_rows(lengths: list[int], seed: int = 0) -> dict[str, np.ndarray]:
    """Flat rows as another program would write them, built step by step."""
    rng = np.random.default_rng(seed)
    rows: dict[str, list] = {
        key: [] for key in ("observations", "next_observations", "actions", "rewards", "costs", "terminals", "timeouts")
    }
    for number, length in enumerate(lengths):
        path = rng.normal(size=(length + 1, 2)).astype(np.float32)
        for step in range(length):
            rows["observations"].append(path[step])
            rows["next_observations"].append(path[step + 1])
            rows["actions"].append(rng.uniform(-1, 1, size=1).astype(np.float32))
            rows["rewards"].append(np.float32(rng.normal()))
            rows["costs"].append(np.float32(rng.integers(2)))
            last = step == length - 1
            rows["terminals"].append(np.float32(last and number % 2 == 0))
            rows["timeouts"].append(np.float32(last and number % 2 == 1))
    return {key: np.array(values) for key, values in rows.items()}


def save_hdf5(path: Path, rows: dict[str, np.ndarray]) -> Path:
    with h5py.File(path, "w") as file:
        for key, values in rows.items():
            file[key] = values
    return path
