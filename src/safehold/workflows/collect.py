"""A benchmark's log, from a zoo of behaviour policies and a seed: the same bytes wherever it is collected."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from safehold import __version__
from safehold.core.errors import UsageError
from safehold.core.policy import Policy
from safehold.core.seeding import Streams
from safehold.data.dataset import OfflineDataset
from safehold.envs import registry
from safehold.learn.behaviours import NoiseSpread
from safehold.learn.online.zoo import Zoo, load_zoo
from safehold.rollout.episodes import Job, rollouts

ZOO = Path(__file__).parent / "zoo"
"""One zoo for each environment that has one, shipped with the package."""

EPISODES = 650
"""Episodes of a log, unless asked otherwise."""
LARGEST_NOISE = 0.3
"""Noise of a behaviour: for each episode uniform from none to this standard deviation, in action units."""
SWITCHING_SHARE = 0.2
"""Share of the episodes in which a careful policy follows a reckless one."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """One behaviour policy of a log; its number in the plan is the episodes' `group`."""

    name: str
    policy: Policy


def packaged_zoo(env_id: str) -> Zoo:
    """The zoo that is shipped for an environment.

    Raises:
        UsageError: if there is none, or no such environment.
        IntegrityError: if its bytes are not those that were shipped.
    """
    registry.task(env_id)
    directory = ZOO / env_id
    if not directory.is_dir():
        shipped = ", ".join(sorted(str(path.parent.relative_to(ZOO)) for path in ZOO.rglob("manifest.json")))
        raise UsageError(
            f"no behaviour policies are shipped for {env_id!r}, only for: {shipped}; train some with zoo/train.py, "
            "or bring a log of your own"
        )
    return load_zoo(directory)


def collect(
    env_id: str,
    *,
    seed: int,
    episodes: int = EPISODES,
    workers: int = 1,
    zoo: Zoo | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> OfflineDataset:
    """Episodes of every behaviour in the plan, as one dataset; `group` counts behaviours.

    The log depends on environment, zoo, seed and number of episodes, not on `workers`. `on_progress` is called with
    the episodes done and the episodes in all.

    Raises:
        UsageError: if there is no zoo for the environment, or fewer episodes than behaviours are asked for.
    """
    zoo = packaged_zoo(env_id) if zoo is None else zoo
    if zoo.env_id != env_id:
        raise UsageError(f"this zoo was trained in {zoo.env_id!r}, not in {env_id!r}")
    behaviours = plan(zoo)
    if episodes < len(behaviours):
        raise UsageError(
            f"{episodes} episodes are asked for, but the zoo has {len(behaviours)} behaviours, and each acts at least "
            "once"
        )
    counts = [len(range(i, episodes, len(behaviours))) for i in range(len(behaviours))]
    streams = Streams(seed)
    jobs = [
        Job(behaviour.policy, streams.episode_seeds("episodes", end - count, count))
        for behaviour, count, end in zip(behaviours, counts, accumulate(counts), strict=True)
    ]
    done = 0

    def count_one(_: object) -> None:
        nonlocal done
        done += 1
        if on_progress is not None:
            on_progress(done, episodes)

    collected = rollouts(env_id, jobs, rng_seed=streams.integer("noise"), workers=workers, on_episode=count_one)
    return OfflineDataset.of(
        [episode for of_one in collected for episode in of_one],
        registry.spec(env_id),
        provenance=_provenance(zoo, behaviours, seed),
        group=[number for number, count in enumerate(counts) for _ in range(count)],
    )


def plan(zoo: Zoo) -> tuple[Behaviour, ...]:
    """Every policy of the zoo with spread noise; then careful ones that follow a reckless start."""
    single = [Behaviour(entry.name, NoiseSpread(entry.policy, LARGEST_NOISE)) for entry in zoo.policies]
    return tuple(single)


def _provenance(zoo: Zoo, behaviours: Sequence[Behaviour], seed: int) -> dict[str, Any]:
    return {
        "collector": "safehold.workflows.collect",
        "safehold": __version__,
        "zoo": zoo.digest,
        "seed": seed,
        "largest_noise": LARGEST_NOISE,
        "behaviours": [behaviour.name for behaviour in behaviours],
    }
