"""A benchmark's log, from behaviour policies and a seed: the same bytes with any number of workers.

The policies are a zoo's, or in MetaDrive drivers by rule.

Another processor or another version of the simulator may round differently: docs/zoo.md.
"""

from collections.abc import Callable, Mapping, Sequence
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
from safehold.envs.suites import metadrive
from safehold.envs.suites.metadrive_drivers import Driver
from safehold.learn.behaviours import NoiseSpread, Switch
from safehold.learn.online.zoo import Zoo, ZooPolicy, load_zoo
from safehold.rollout.episodes import Job, rollouts

ZOO = Path(__file__).parent / "zoo"
"""One zoo for each environment that has one, shipped with the package."""

EPISODES = 640
"""Episodes of a log, unless asked otherwise."""
LARGEST_NOISE = 0.08
"""Noise of a behaviour: for each episode uniform from none to this standard deviation, in action units."""
RELAYS = 110
"""Behaviours in which policies take turns."""
RELAY_LIMIT = 20.0
"""Policies that take turns come from the run under this limit: snapshots of one run move alike."""
CAREFUL_COST = 20.0
"""A snapshot is careful up to this mean cost return, without noise."""
RECKLESS_SHARE = 0.5
"""A snapshot of a run without a limit is reckless from this share of the largest mean cost return there on."""
RELAY_SHARE = 0.7
"""Snapshots take turns if they earn at least this share of the best reward of their kind, careful or reckless."""
SPRINT_SHARE = 0.65
"""Share of relays that end in a reckless sprint."""
TURN = 0.7
"""The second policy takes over at a step drawn from this first share of the episode."""
SPRINT = 0.7
"""A sprint begins after this share of the episode, where the world's name is not among `SPRINTS`."""
SPRINTS: Mapping[str, float] = {"bullet/BallCircle": 0.0, "bullet/CarCircle": 0.0}
"""Where even a reckless policy cannot help keeping the limit for most of the time, a sprint may begin earlier."""

DRIVERS = 20
"""Drivers of a log in MetaDrive; as many relays."""
SPEEDS = (8.0, 60.0)
"""km/h of the slowest and of the fastest; their logarithms are evenly spread, since every km/h above 10 costs."""
GAPS, HEADWAYS = (7.0, 1.0), (1.5, 0.2)
"""Metres, and seconds, that the slowest and the fastest keep to what is ahead."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """One behaviour policy of a log; its number in the plan is the episodes' `group`."""

    name: str
    policy: Policy


def shipped() -> tuple[str, ...]:
    """The environments that have a zoo."""
    return tuple(sorted(path.parent.relative_to(ZOO).as_posix() for path in ZOO.rglob("manifest.json")))


def packaged_zoo(env_id: str) -> Zoo:
    """The zoo that is shipped for an environment.

    Raises:
        UsageError: if there is none, or no such environment.
        IntegrityError: if its bytes are not those that were shipped.
    """
    registry.task(env_id)
    directory = ZOO / env_id
    if not directory.is_dir():
        raise UsageError(
            f"no behaviour policies are shipped for {env_id!r}, only for: {', '.join(shipped())}; train "
            "some with zoo/train.py, or bring a log of your own"
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

    The log depends on environment, behaviours, seed and number of episodes, not on `workers`. `on_progress` is called
    with the episodes done and the episodes in all.

    Raises:
        UsageError: if there are no behaviours for the environment, or fewer episodes than behaviours are asked for.
    """
    streams = Streams(seed)
    source: str
    if zoo is None and env_id in metadrive.TASKS:
        behaviours, source = driving_plan(streams["plan"]), "drivers"
    else:
        zoo = packaged_zoo(env_id) if zoo is None else zoo
        if zoo.env_id != env_id:
            raise UsageError(f"this zoo was trained in {zoo.env_id!r}, not in {env_id!r}")
        behaviours, source = plan(zoo, streams["plan"]), zoo.digest
    if episodes < len(behaviours):
        raise UsageError(
            f"{episodes} episodes are asked for, but there are {len(behaviours)} behaviours, and each acts at least "
            "once"
        )
    counts = [len(range(i, episodes, len(behaviours))) for i in range(len(behaviours))]
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
        provenance=_provenance(source, behaviours, seed),
        group=[number for number, count in enumerate(counts) for _ in range(count)],
    )


def plan(zoo: Zoo, rng: np.random.Generator) -> tuple[Behaviour, ...]:
    """Every policy of the zoo alone, and relays: a slower policy, then a faster one, then perhaps a sprint.

    No policy of the zoo sees the clock, so alone each gives one point of the plane of returns. Policies that take
    turns give every mixture of their returns, and what a to-go value has to say is then when to change.
    """
    single = [Behaviour(entry.name, NoiseSpread(entry.policy, LARGEST_NOISE)) for entry in zoo.policies]
    careful, reckless = careful_of(zoo.policies), reckless_of(zoo.policies)
    if len(careful) < 2:
        return tuple(single)
    return (*single, *(_relay(number, careful, reckless, zoo.env_id, rng) for number in range(RELAYS)))


def driving_plan(rng: np.random.Generator) -> tuple[Behaviour, ...]:
    """Drivers from careful to reckless, each alone, and as many relays of two of them, the slower first or last.

    A driver alone costs what its speed costs, at every step alike; relays spend the same cost early or late.
    """
    shares = np.linspace(0.0, 1.0, DRIVERS)
    speeds = np.geomspace(*SPEEDS, DRIVERS)
    drivers = []
    for number, (share, speed) in enumerate(zip(shares.tolist(), speeds.tolist(), strict=True)):
        gap, headway = (careful + share * (reckless - careful) for careful, reckless in (GAPS, HEADWAYS))
        noise_sd = float(rng.uniform(0.0, LARGEST_NOISE))
        driver = Driver(speed=speed, gap=gap, headway=headway, noise_sd=noise_sd)
        drivers.append(Behaviour(f"driver-{number:02d}:{speed:.0f}km/h", driver))
    relays = []
    for number in range(DRIVERS):
        first, second = (drivers[int(chosen)] for chosen in rng.choice(DRIVERS, size=2, replace=False))
        turns = Switch(first.policy, second.policy, 0, round(TURN * metadrive.HORIZON))
        relays.append(Behaviour(f"relay-{number:02d}:{first.name}>{second.name}", turns))
    return (*drivers, *relays)


def careful_of(policies: Sequence[ZooPolicy]) -> list[ZooPolicy]:
    """The snapshots that take turns, by training step."""
    careful = [e for e in policies if e.limit == RELAY_LIMIT and e.evaluations[0].cost <= CAREFUL_COST]
    best = max((entry.evaluations[0].reward for entry in careful), default=0.0)
    able = [entry for entry in careful if entry.evaluations[0].reward >= RELAY_SHARE * best]
    return sorted(able, key=lambda entry: entry.step)


def reckless_of(policies: Sequence[ZooPolicy]) -> list[ZooPolicy]:
    """The snapshots that sprint: of those without a limit the ones that earn, and of these the ones that cost."""
    free = [entry for entry in policies if entry.limit is None]
    best = max((entry.evaluations[0].reward for entry in free), default=0.0)
    able = [entry for entry in free if entry.evaluations[0].reward >= RELAY_SHARE * best]
    most = max((entry.evaluations[0].cost for entry in able), default=0.0)
    return [entry for entry in able if entry.evaluations[0].cost >= RECKLESS_SHARE * most]


def _relay(
    number: int, careful: Sequence[ZooPolicy], reckless: Sequence[ZooPolicy], env_id: str, rng: np.random.Generator
) -> Behaviour:
    """One relay; who runs is drawn here, when they change is drawn for each episode."""
    horizon = registry.spec(env_id).horizon
    half = max(1, len(careful) // 2)
    first = careful[int(rng.integers(half))]
    second = careful[int(rng.integers(half // 2, len(careful)))]
    noisy = [NoiseSpread(entry.policy, LARGEST_NOISE) for entry in (first, second)]
    relay = Behaviour(
        f"relay-{number:03d}:{first.name}>{second.name}", Switch(noisy[0], noisy[1], 0, round(TURN * horizon))
    )
    if not reckless or rng.random() >= SPRINT_SHARE:
        return relay
    sprint = reckless[int(rng.integers(len(reckless)))]
    fast = NoiseSpread(sprint.policy, LARGEST_NOISE)
    earliest = round(SPRINTS.get(env_id, SPRINT) * horizon)
    return Behaviour(f"{relay.name}>{sprint.name}", Switch(relay.policy, fast, earliest, horizon))


def _provenance(source: str, behaviours: Sequence[Behaviour], seed: int) -> dict[str, Any]:
    return {
        "collector": "safehold.workflows.collect",
        "safehold": __version__,
        "zoo": source,
        "seed": seed,
        "largest_noise": LARGEST_NOISE,
        "behaviours": [behaviour.name for behaviour in behaviours],
    }
