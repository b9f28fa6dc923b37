"""Runs of online methods that studies share: what is planned, one run kept as a file, done once, and the record."""

import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from safehold import __version__
from safehold.core.episode import Episode
from safehold.core.intervals import Interval
from safehold.core.seeding import Streams
from safehold.envs import registry
from safehold.rollout.episodes import rollout
from safehold.workflows.explore import Exploration, ExploreConfig, OnlineConfig, explore


@dataclass(frozen=True, slots=True)
class Plan:
    """One method on one task: its settings, limit, and environment steps (worlds, steps of each in a batch, in all)."""

    name: str
    task: str
    method: OnlineConfig
    limit: float
    environments: int
    steps_per_batch: int
    total_steps: int

    def config(self, seed: int, share: float) -> ExploreConfig:
        """One run of it, of two episodes in every world at least: without a finished one there is no curve."""
        least = self.environments * max(self.steps_per_batch, 2 * registry.spec(self.task).horizon)
        return ExploreConfig(
            env_id=self.task,
            limit=self.limit,
            seed=seed,
            total_steps=max(least, round(share * self.total_steps)),
            environments=self.environments,
            steps_per_batch=self.steps_per_batch,
            snapshots=1,
            evaluation_episodes=1,
            method=self.method,
        )


def once(part: Path, found: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """What a file holds; made and written first, whole or not at all, if there is none."""
    if not part.exists():
        record = found()
        part.parent.mkdir(parents=True, exist_ok=True)
        unfinished = part.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(record) + "\n")
        unfinished.rename(part)
    done: dict[str, Any] = json.loads(part.read_text())
    return done


def learnt(
    config: ExploreConfig,
    *,
    base_seed: int,
    episodes: int,
    more: Callable[[Exploration, list[Episode]], Mapping[str, Any]] = lambda *_: {},
) -> dict[str, Any]:
    """One run: its curve, its time, and what so many fresh episodes without noise then earn and cost.

    `base_seed` plus the run's seed draws the episodes, which no training saw; of all named costs, the first counts.
    """
    processor, wall = time.process_time(), time.perf_counter()
    found = explore(config)
    seconds = {"cpu_seconds": time.process_time() - processor, "seconds": time.perf_counter() - wall}
    streams = Streams(base_seed + config.seed)
    fresh = rollout(
        config.env_id,
        found.snapshots[-1].policy.without_noise(),
        streams.episode_seeds("final", 0, episodes),
        rng_seed=streams.integer("noise"),
    )
    costs = [episode.costs[:, 0] for episode in fresh]
    return {
        "curve": [asdict(point) for point in found.curve],
        "reward": float(np.mean([episode.reward_return for episode in fresh])),
        "cost": float(np.mean([cost.sum() for cost in costs])),
        "peak": float(np.mean([cost.max() for cost in costs])),
        "rate": float(np.mean(np.concatenate(costs) > 0)),
        **{name: round(value, 1) for name, value in seconds.items()},
        **more(found, fresh),
    }


def spanned(interval: Interval) -> str:
    """A mean with its interval, in three digits."""
    if not interval.known:
        return f"{interval.estimate:.3g}"
    return f"{interval.estimate:.3g} [{interval.low:.3g}, {interval.high:.3g}]"


def recorded(
    script: str, commit: str, seeds: Sequence[int], share: float, plans: Mapping[str, Plan], rows: Mapping[str, Any]
) -> dict[str, Any]:
    """What a study's file holds: how to run it again, with what it ran, and all that came of it."""
    return {
        "command": f"python reproductions/{script} --share {share:g}",
        "commit": commit,
        "seeds": seeds,
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "torch": torch.__version__},
        "safehold": __version__,
        "plans": {name: plan.config(0, share).to_json() for name, plan in plans.items()},
        "rows": rows,
    }
