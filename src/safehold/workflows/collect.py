"""Rebuild a benchmark's log: the zoo's behaviour policies act, and their episodes become a dataset with its origin."""

from collections.abc import Callable
from pathlib import Path

from pydantic import NonNegativeFloat, PositiveInt

from safehold.core.config import Config
from safehold.core.episode import Episode
from safehold.core.errors import UsageError
from safehold.core.seeding import Streams
from safehold.data.dataset import OfflineDataset
from safehold.envs import registry
from safehold.learn.gaussian_policy import GaussianPolicy
from safehold.learn.online.zoo import load_zoo
from safehold.rollout.episodes import Job, rollouts

ZOOS = Path(__file__).parent / "zoo"
"""Where the package keeps its zoos, one directory a world."""


class CollectConfig(Config):
    """How many episodes each behaviour policy acts for, and how noisily."""

    noise: tuple[NonNegativeFloat, ...] = (0.0, 0.5, 1.0)
    """Shares of a policy's own exploration noise; each level is one behaviour."""
    episodes: PositiveInt = 2
    """Episodes of each behaviour."""


def collect(
    env_id: str,
    *,
    seed: int,
    workers: int = 1,
    config: CollectConfig | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> OfflineDataset:
    """The log of a world: every policy of its zoo at every noise level.

    The same zoo, seed and configuration give the same dataset, bit for bit on one platform, for any number of
    workers. `group` numbers the policies of the zoo; the provenance names zoo, seed, configuration and platform.

    Raises:
        UsageError: if the package has no zoo for this world.
    """
    config = config or CollectConfig()
    directory = ZOOS / env_id
    if not directory.is_dir():
        known = sorted(path.name for path in ZOOS.iterdir() if path.is_dir())
        raise UsageError(f"no behaviour policies for {env_id!r}; the zoo holds {', '.join(known)}")
    zoo = load_zoo(directory)
    streams = Streams(seed)
    jobs: list[Job] = []
    group: list[int] = []
    for number, entry in enumerate(zoo.policies):
        for share in config.noise:
            seeds = streams.episode_seeds("collect", len(jobs) * config.episodes, config.episodes)
            jobs.append(Job(_noisy(entry.policy, share), seeds))
            group += [number] * config.episodes
    total, done = len(group), 0

    def seen(_: Episode) -> None:
        nonlocal done
        done += 1
        if on_progress is not None:
            on_progress(done, total)

    episodes = rollouts(env_id, jobs, rng_seed=streams.integer("collect/noise"), workers=workers, on_episode=seen)
    return OfflineDataset.of(
        [episode for of_job in episodes for episode in of_job],
        registry.spec(env_id),
        provenance={
            "made_by": "safehold data collect",
            "env_id": env_id,
            "seed": seed,
            "config": config.to_json(),
            "zoo": zoo.digest,
            "policies": [entry.name for entry in zoo.policies],
        },
        group=group,
    )


def _noisy(policy: GaussianPolicy, share: float) -> GaussianPolicy:
    """The policy with this share of its own noise."""
    return policy.with_noise(share * float(policy.sd.mean()))
