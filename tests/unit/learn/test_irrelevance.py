"""Which abstractions a log speaks against, in a world where the truth is known."""

from dataclasses import replace

import numpy as np
import pytest

from safehold.core.episode import Episode
from safehold.core.errors import DataError
from safehold.core.policy import Actor, Memoryless
from safehold.core.seeding import Streams
from safehold.data.dataset import OfflineDataset
from safehold.envs import registry
from safehold.envs.toy.point_robot import PARTS
from safehold.learn.guided.abstraction import Abstraction, between
from safehold.learn.guided.irrelevance import Irrelevance, irrelevance
from safehold.rollout.episodes import rollout

ENV_ID = "toy/PointRobot"
TARGET = registry.task(ENV_ID).parts


class Straight:
    """Every episode in a direction of its own, with noise: it meets hazards and walls."""

    def start(self, n: int, rng: np.random.Generator) -> Actor:
        directions = rng.uniform(-1, 1, (n, 2))
        return Memoryless(lambda seen: np.clip(directions + 0.5 * rng.standard_normal((len(seen), 2)), -1, 1))


@pytest.fixture(scope="module")
def log() -> OfflineDataset:
    episodes = rollout(ENV_ID, Straight(), range(120), rng_seed=1)
    return OfflineDataset.of(episodes, registry.spec(ENV_ID), provenance={"why": "test"})


def seeing(log: OfflineDataset, names: tuple[str, ...]) -> tuple[OfflineDataset, dict[str, slice]]:
    """The same episodes, as a robot with fewer sensors logs them."""
    columns = [column for name in names for column in range(TARGET[name].start, TARGET[name].stop)]
    episodes: list[Episode] = [replace(episode, observations=episode.observations[:, columns]) for episode in log]
    spec = replace(log.spec, observation_size=len(columns))
    ends = np.cumsum([TARGET[name].stop - TARGET[name].start for name in names]).tolist()
    parts = {
        name: slice(end - TARGET[name].stop + TARGET[name].start, end) for name, end in zip(names, ends, strict=True)
    }
    return OfflineDataset.of(episodes, spec, provenance={"why": "test"}), parts


def test_nothing_speaks_against_dropping_the_goal(log):
    found = irrelevance(log, between(PARTS, TARGET), Streams(0))
    assert found.holds()
    assert found.costs.episodes == found.following.episodes == 60
    assert abs(found.costs.harm) < 0.02
    assert abs(found.following.harm) < 0.02


def test_dropping_the_hazard_is_caught_where_nothing_else_shows_it(log):
    lidar, parts = seeing(log, ("velocity", "hazard", "goal"))  # as of a robot that does not know where it is
    right = between({name: part for name, part in parts.items() if name != "goal"}, parts)
    wrong = between({"velocity": slice(0, 2), "goal": slice(2, 4)}, parts)
    assert irrelevance(lidar, right, Streams(0)).costs.p_value > 0.005
    found = irrelevance(lidar, wrong, Streams(0))
    assert not found.holds()
    assert found.costs.p_value < 0.005  # on costs alone, which few episodes have
    assert found.costs.harm > 0.2


def test_dropping_all_that_tells_of_the_hazard_is_caught(log):
    kept = {"velocity": slice(0, 2), "goal": slice(2, 4)}
    found = irrelevance(log, between(kept, TARGET), Streams(0))
    assert not found.holds()
    assert found.costs.p_value < 0.005


def test_what_cannot_be_tested_is_refused(log):
    with pytest.raises(DataError, match="nothing to test"):
        irrelevance(log, Abstraction(tuple(range(9)), 9), Streams(0))
    few = OfflineDataset.of(list(log)[:10], log.spec, provenance={})
    with pytest.raises(DataError, match="needs 20"):
        irrelevance(few, between(PARTS, TARGET), Streams(0))


def test_a_p_value_that_is_no_number_speaks_against(log):
    found = irrelevance(log, between(PARTS, TARGET), Streams(0))
    assert not Irrelevance(replace(found.costs, p_value=float("nan")), found.following).holds()
