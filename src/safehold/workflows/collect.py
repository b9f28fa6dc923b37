"""A benchmark's log, from a zoo of behaviour policies and a seed: the same bytes wherever it is collected."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from safehold import __version__
from safehold.core.errors import UsageError
from safehold.core.policy import Policy
from safehold.core.seeding import Streams
from safehold.data.dataset import OfflineDataset
from safehold.envs import registry
from safehold.learn.behaviours import NoiseSpread, Switch
from safehold.learn.online.zoo import Zoo, ZooPolicy, load_zoo
from safehold.rollout.episodes import Job, rollouts

ZOO = Path(__file__).parent / "zoo"
"""One zoo for each environment that has one, shipped with the package."""

EPISODES = 650
"""Episodes of a log, unless asked otherwise."""
LARGEST_NOISE = 0.3
"""Noise of a behaviour: for each episode uniform from none to this standard deviation, in action units."""
CAREFUL_COST, RECKLESS_COST = 20.0, 500.0
"""A snapshot is careful up to the one mean cost return, and reckless from the other on, both without noise."""
N_RECKLESS = 3
"""Reckless snapshots that careful ones hand over to, evenly spread over what they earn."""
SWITCHING_NOISE = 0.1
"""As LARGEST_NOISE, for behaviours that switch."""
EARLIEST_SWITCH = 0.7
"""Share of the horizon before which no behaviour switches: the cost of an episode is spread from 0 to the rest."""


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
    """Every policy of the zoo with spread noise; then careful ones that end in a reckless sprint.

    The sprints give what no single policy of the zoo does, because it cannot see the clock: more reward for more
    cost, at every cost. Each run's best careful snapshot is paired with each of a few reckless ones.
    """
    single = [Behaviour(entry.name, NoiseSpread(entry.policy, LARGEST_NOISE)) for entry in zoo.policies]
    horizon = registry.spec(zoo.env_id).horizon
    sprints = [
        Behaviour(
            f"{careful.name}>{reckless.name}",
            Switch(
                NoiseSpread(careful.policy, SWITCHING_NOISE),
                NoiseSpread(reckless.policy, SWITCHING_NOISE),
                round(EARLIEST_SWITCH * horizon),
                horizon,
            ),
        )
        for careful in _careful(zoo.policies)
        for reckless in _reckless(zoo.policies)
    ]
    return (*single, *sprints)


def _careful(entries: Sequence[ZooPolicy]) -> list[ZooPolicy]:
    """Of each run, the snapshot that earns most within CAREFUL_COST; of one that has none, nothing."""
    best: dict[str, ZooPolicy] = {}
    for entry in entries:
        quiet = entry.evaluations[0]
        if quiet.cost <= CAREFUL_COST and not (
            entry.run in best and best[entry.run].evaluations[0].reward >= quiet.reward
        ):
            best[entry.run] = entry
    return list(best.values())


def _reckless(entries: Sequence[ZooPolicy]) -> list[ZooPolicy]:
    """N_RECKLESS of the snapshots above RECKLESS_COST, evenly spread over the order of what they earn."""
    ordered = sorted(
        (entry for entry in entries if entry.evaluations[0].cost >= RECKLESS_COST),
        key=lambda entry: (entry.evaluations[0].reward, entry.name),
    )
    places = np.linspace(0, len(ordered) - 1, num=min(N_RECKLESS, len(ordered))).round().astype(int)
    return [ordered[place] for place in places]


def _provenance(zoo: Zoo, behaviours: Sequence[Behaviour], seed: int) -> dict[str, Any]:
    return {
        "collector": "safehold.workflows.collect",
        "safehold": __version__,
        "zoo": zoo.digest,
        "seed": seed,
        "largest_noise": LARGEST_NOISE,
        "switching_noise": SWITCHING_NOISE,
        "earliest_switch": EARLIEST_SWITCH,
        "behaviours": [behaviour.name for behaviour in behaviours],
    }
