"""rollout(): one loop, whose results depend on seeds and position alone, and whose faults say where."""

# ruff: noqa: ARG002  (doubles of protocols)
import os
import signal
from typing import Any

import numpy as np
import pytest

from safehold.core.episode import Episode
from safehold.core.errors import EnvironmentFault, ModelError, UsageError
from safehold.core.spec import Box, Discrete, TaskSpec
from safehold.envs import registry
from safehold.envs.adapter import Task
from safehold.envs.registry import spec
from safehold.envs.toy.corridor import Cruise
from safehold.envs.toy.point_hazard import Detour
from safehold.rollout.episodes import BLOCK, Job, rollout, rollouts, run_block
from safehold.testing.env_contract import RandomPolicy, assert_same_episode

HORIZON = 6
NOISY = Cruise(1.0, 0.5)


class Counting:
    """Ends after `seed % 10` steps if that is within the horizon, else with its clock; pays 1, costs 0.25 a step.

    Observations are (seed % 10, step). `sin` maps a step (-1 for reset) to an exception or to changes of the five.
    """

    def __init__(self, sin: dict[tuple[int, int], Any]) -> None:
        self.sin = sin
        self.closed = False

    def reset(self, *, seed: int) -> tuple[Any, dict[str, Any]]:
        self.seed, self.t = seed, 0
        self.buffer = np.array([seed % 10, 0.0])
        self.spoil(-1)
        return self.buffer, {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.t += 1
        self.buffer[1] = self.t
        action[:] = 99  # a world may scribble on what it is given
        changes = self.spoil(self.t - 1)
        five = {
            "observation": self.buffer,
            "reward": 1.0,
            "terminated": self.t == self.seed % 10,
            "truncated": False,
            "info": {"cost": 0.25},
        }
        return tuple((five | changes).values())  # type: ignore[return-value]

    def spoil(self, t: int) -> dict[str, Any]:
        sin = self.sin.get((self.seed, t), {})
        if isinstance(sin, Exception):
            raise sin
        return sin

    def close(self) -> None:
        self.closed = True


class World:
    """Registers `Counting` under a name of its own for one test."""

    env_id = "test/Counting"

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sin: dict[tuple[int, int], Any] = {}
        self.worlds: list[Counting] = []
        self.spec = TaskSpec(
            env_id=self.env_id, observation_size=2, action=Box(low=(-1.0,), high=(1.0,)), horizon=HORIZON
        )
        monkeypatch.setitem(registry.TASKS, self.env_id, Task(spec=self.spec, world=self.build))

    def build(self) -> Counting:
        self.worlds.append(Counting(self.sin))
        return self.worlds[-1]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


class Watching:
    """A policy that gives a constant action and keeps what its actor is shown."""

    def __init__(self, action: float = 0.5) -> None:
        self.action = action
        self.seen: list[np.ndarray] = []
        self.observed: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def start(self, n: int, rng: np.random.Generator) -> "Watching":
        return self

    def act(self, observations: np.ndarray) -> np.ndarray:
        self.seen.append(observations)
        return np.full((len(observations), 1), self.action)

    def observe(self, actions: np.ndarray, rewards: np.ndarray, costs: np.ndarray) -> None:
        self.observed.append((actions, rewards, costs))


class Given:
    """A policy that hands out the same array of actions at every step."""

    def __init__(self, actions: Any) -> None:
        self.actions = actions

    def __repr__(self) -> str:
        return "Given()"

    def start(self, n: int, rng: np.random.Generator) -> "Given":
        return self

    def act(self, observations: np.ndarray) -> Any:
        return self.actions

    def observe(self, actions: np.ndarray, rewards: np.ndarray, costs: np.ndarray) -> None: ...


def assert_same(one: list[Episode], other: list[Episode]) -> None:
    assert len(one) == len(other)
    for mine, theirs in zip(one, other, strict=True):
        assert_same_episode(mine, theirs)


# What an episode holds ------------------------------------------------------------------------------------------------


def test_episodes_come_in_the_order_of_seeds_and_hold_every_step(world: World) -> None:
    episodes = rollout(world.env_id, Watching(), [3, 9, 1, 6], rng_seed=0)
    assert [episode.seed for episode in episodes] == [3, 9, 1, 6]
    assert [len(episode) for episode in episodes] == [3, HORIZON, 1, HORIZON]
    for episode in episodes:
        steps = np.arange(len(episode) + 1)
        np.testing.assert_array_equal(episode.observations[:, 1], steps)
        np.testing.assert_array_equal(episode.observations[:, 0], episode.seed)
        assert episode.reward_return == len(episode)
        assert episode.cost_returns == pytest.approx([0.25 * len(episode)])


def test_precisions_are_float32_for_networks_and_float64_for_sums(world: World) -> None:
    episode = rollout(world.env_id, Watching(), [3], rng_seed=0)[0]
    assert (episode.observations.dtype, episode.actions.dtype) == (np.float32, np.float32)
    assert (episode.rewards.dtype, episode.costs.dtype) == (np.float64, np.float64)


def test_termination_is_kept_apart_from_truncation(world: World) -> None:
    early, at_the_horizon, by_the_clock = rollout(world.env_id, Watching(), [2, HORIZON, 8], rng_seed=0)
    assert (early.terminated, early.truncated) == (True, False)
    assert (at_the_horizon.terminated, at_the_horizon.truncated, len(at_the_horizon)) == (True, False, HORIZON)
    assert (by_the_clock.terminated, by_the_clock.truncated, len(by_the_clock)) == (False, True, HORIZON)


def test_actions_are_recorded_as_executed(world: World) -> None:
    episode = rollout(world.env_id, Watching(7.0), [9], rng_seed=0)[0]
    np.testing.assert_array_equal(episode.actions, np.ones((HORIZON, 1)))  # clipped, and not the world's scribble


def test_a_reused_observation_buffer_is_copied(world: World) -> None:
    policy = Watching()
    rollout(world.env_id, policy, [9], rng_seed=0)
    assert [float(seen[0, 1]) for seen in policy.seen] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_ended_rows_keep_their_last_observation_and_earn_nothing(world: World) -> None:
    policy = Watching()
    rollout(world.env_id, policy, [2, 9], rng_seed=0)
    assert [float(seen[0, 1]) for seen in policy.seen] == [0.0, 1.0, 2.0, 2.0, 2.0, 2.0]
    assert [seen.shape for seen in policy.seen] == [(2, 2)] * HORIZON
    assert [float(rewards[0]) for _, rewards, _ in policy.observed] == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    assert [float(costs[0, 0]) for *_, costs in policy.observed] == [0.25, 0.25, 0.0, 0.0, 0.0, 0.0]
    assert all(rewards[1] == 1.0 for _, rewards, _ in policy.observed)
    assert world.worlds[0].t == 2  # not stepped again


def test_discrete_actions_reach_the_world_as_they_are_recorded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[Any] = []

    class Buttons(Counting):
        def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
            got.append(action)
            return super().step(np.zeros(1))

    task_spec = TaskSpec(env_id="test/Buttons", observation_size=2, action=Discrete(3), horizon=2)
    monkeypatch.setitem(registry.TASKS, "test/Buttons", Task(spec=task_spec, world=lambda: Buttons({})))
    episode = rollout("test/Buttons", Given(np.array([[2]])), [9], rng_seed=0)[0]
    assert got == [2, 2]
    np.testing.assert_array_equal(episode.actions, [[2.0], [2.0]])
    with pytest.raises(ModelError, match=r"gave \[3\], expected 0..2"):
        rollout("test/Buttons", Given(np.array([[3]])), [9], rng_seed=0)
    with pytest.raises(ModelError, match=r"gave \[0.5\], expected 0..2"):
        rollout("test/Buttons", Given(np.array([[0.5]])), [9], rng_seed=0)


# What an episode depends on -------------------------------------------------------------------------------------------


def test_any_number_of_workers_gives_the_same_episodes() -> None:
    seeds = range(100, 123)
    alone = rollout("toy/Corridor", NOISY, seeds, rng_seed=5)
    assert_same(alone, rollout("toy/Corridor", NOISY, seeds, rng_seed=5, workers=2))
    assert_same(alone, rollout("toy/Corridor", NOISY, seeds, rng_seed=5, workers=3))


def test_a_block_depends_on_its_own_seeds_alone() -> None:
    first, second = list(range(BLOCK)), list(range(50, 50 + BLOCK))
    both = rollout("toy/Corridor", NOISY, first + second, rng_seed=5)
    swapped = rollout("toy/Corridor", NOISY, second + first, rng_seed=5)
    assert_same(both, swapped[BLOCK:] + swapped[:BLOCK])
    assert_same(both[:BLOCK], rollout("toy/Corridor", NOISY, first, rng_seed=5))
    assert_same(both[BLOCK:], run_block("toy/Corridor", NOISY, tuple(second), 5))


def test_the_world_follows_the_seed_and_the_policy_the_rng_seed() -> None:
    one = rollout("toy/Corridor", NOISY, [7], rng_seed=0)[0]
    other_noise = rollout("toy/Corridor", NOISY, [7], rng_seed=1)[0]
    other_world = rollout("toy/Corridor", NOISY, [8], rng_seed=0)[0]
    assert not np.array_equal(one.actions, other_noise.actions)
    np.testing.assert_allclose(one.rewards - one.actions[:, 0], other_noise.rewards - other_noise.actions[:, 0])
    assert not np.allclose(one.rewards - one.actions[:, 0], other_world.rewards - other_world.actions[:, 0])


def test_without_noise_in_the_policy_neighbours_do_not_matter() -> None:
    alone = rollout("toy/PointHazard", Detour(3), [4], rng_seed=0)[0]
    in_company = rollout("toy/PointHazard", Detour(3), [1, 2, 3, 4, 5], rng_seed=9)[3]
    assert_same_episode(alone, in_company)


def test_large_seeds_are_kept_whole() -> None:
    low, high = rollout("toy/Corridor", Cruise(1.0), [2**61, 2**61 + 1], rng_seed=2**62)
    assert (low.seed, high.seed) == (2**61, 2**61 + 1)
    assert not np.array_equal(low.rewards, high.rewards)


def test_used_worlds_are_used_again(world: World) -> None:
    first = rollout(world.env_id, Watching(), [9, 3], rng_seed=0)
    again = rollout(world.env_id, Watching(), [9, 3], rng_seed=0)
    assert len(world.worlds) == 2
    assert_same(first, again)


def test_episodes_are_announced_in_order_as_blocks_are_done() -> None:
    for workers in (1, 2):
        announced: list[Episode] = []
        episodes = rollout("toy/Corridor", NOISY, range(25), rng_seed=0, workers=workers, on_episode=announced.append)
        assert_same(announced, episodes)


def test_several_policies_share_workers_without_meeting() -> None:
    jobs = [Job(NOISY, tuple(range(12))), Job(Cruise(0.5, 0.5), (40,)), Job(Cruise(1.5), (50, 51, 52))]
    together = rollouts("toy/Corridor", jobs, rng_seed=4, workers=2)
    for job, episodes in zip(jobs, together, strict=True):
        assert_same(episodes, rollout("toy/Corridor", job.policy, job.seeds, rng_seed=4))


def test_no_seed_may_stand_in_two_jobs() -> None:
    with pytest.raises(UsageError, match="seed 3 stands twice"):
        rollouts("toy/Corridor", [Job(NOISY, (1, 3)), Job(NOISY, (3,))], rng_seed=0)
    with pytest.raises(UsageError, match="a rollout of no episodes"):
        rollouts("toy/Corridor", [Job(NOISY, (1, 3)), Job(NOISY, ())], rng_seed=0)
    with pytest.raises(UsageError, match="a rollout of no episodes"):
        rollouts("toy/Corridor", [], rng_seed=0)


def test_velocity_episodes_are_the_same_in_another_process() -> None:
    pytest.importorskip("mujoco")
    policy = RandomPolicy(spec("HopperVelocity"))
    seeds = range(BLOCK + 2)
    alone = rollout("HopperVelocity", policy, seeds, rng_seed=1)
    assert_same(alone, rollout("HopperVelocity", policy, seeds, rng_seed=1, workers=2))


def test_torch_keeps_its_threads_and_policies_run_on_one() -> None:
    torch = pytest.importorskip("torch")

    class CountsThreads(Given):
        def act(self, observations: np.ndarray) -> Any:
            threads.append(torch.get_num_threads())
            return self.actions

    threads: list[int] = []
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        rollout("toy/Corridor", CountsThreads(np.ones((1, 1))), [0], rng_seed=0)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert set(threads) == {1}


# Refusals and faults --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ([], "a rollout of no episodes measures nothing"),
        ([1, 2, 1], "seed 1 stands twice"),
        ([3, -1], "seeds are integers >= 0, got -1"),
    ],
)
def test_impossible_seeds_are_refused(seeds: list[int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        rollout("toy/Corridor", NOISY, seeds, rng_seed=0)


def test_impossible_arguments_are_refused() -> None:
    with pytest.raises(UsageError, match="got -3"):
        rollout("toy/Corridor", NOISY, [0], rng_seed=-3)
    with pytest.raises(UsageError, match="workers is 0"):
        rollout("toy/Corridor", NOISY, [0], rng_seed=0, workers=0)
    with pytest.raises(UsageError, match="nearest name is 'toy/Corridor'"):
        rollout("toy/Coridor", NOISY, [0], rng_seed=0)


FAULTS = [
    ({"reward": float("nan")}, "reward is float nan"),
    ({"observation": np.array([np.nan, 0.0])}, r"observation\[0\] is nan"),
    ({"observation": np.zeros(3)}, r"shape \(3,\), expected \(2,\)"),
    ({"info": {}}, "no cost"),
    ({"info": {"cost": None}}, "cost 'cost' is NoneType"),
    ({"info": {"cost": np.zeros(2)}}, "cost 'cost' is ndarray"),
    ({"info": {"cost": "0"}}, "cost 'cost' is str"),
    ({"info": {"cost": -1.0}}, "cost 'cost' is float -1.0"),
    (OSError("unplugged"), "OSError: unplugged"),
]


@pytest.mark.parametrize("at", [0, 3, HORIZON - 1])
@pytest.mark.parametrize(("sin", "message"), FAULTS)
def test_one_broken_step_among_many_stops_the_rollout_and_names_its_place(
    world: World, at: int, sin: Any, message: str
) -> None:
    world.sin[(29, at)] = sin
    with pytest.raises(EnvironmentFault, match=f"^test/Counting, seed 29, step {at}: .*{message}"):
        rollout(world.env_id, Watching(), [9, 2, 29, 19], rng_seed=0)
    assert all(each.closed for each in world.worlds)


def test_a_fault_tells_what_its_episode_had_cost_until_then(world: World) -> None:
    world.sin[(29, 3)] = OSError("unplugged")
    with pytest.raises(EnvironmentFault, match=r"seed 29, step 3.*until then its costs were cost 0.75, a lower bound"):
        rollout(world.env_id, Watching(), [9, 29], rng_seed=0)


def test_a_broken_reset_names_its_seed(world: World) -> None:
    world.sin[(29, -1)] = OSError("unplugged")
    with pytest.raises(EnvironmentFault, match="seed 29, reset: reset raised OSError: unplugged"):
        rollout(world.env_id, Watching(), [9, 29], rng_seed=0)


def test_worlds_of_a_broken_block_are_not_used_again(world: World) -> None:
    world.sin[(9, 0)] = OSError("unplugged")
    with pytest.raises(EnvironmentFault):
        rollout(world.env_id, Watching(), [9], rng_seed=0)
    world.sin.clear()
    rollout(world.env_id, Watching(), [9], rng_seed=0)
    assert [each.closed for each in world.worlds] == [True, False]


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.array([[np.nan]]), r"policy Given\(\) gave action\[0, 0\] = nan, expected a finite number"),
        (np.array([[np.inf]]), r"gave action\[0, 0\] = inf"),
        (np.zeros((1, 2)), r"gave actions of shape \(1, 2\), expected \(1, 1\)"),
        (np.zeros(1), r"gave actions of shape \(1,\)"),
    ],
)
def test_an_impossible_action_is_laid_at_the_policys_door(world: World, actions: np.ndarray, message: str) -> None:
    with pytest.raises(ModelError, match=f"test/Counting: .*{message}"):
        rollout(world.env_id, Given(actions), [9], rng_seed=0)


class DiesInAWorker:
    """A policy that kills the process it runs in."""

    def start(self, n: int, rng: np.random.Generator) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_a_fault_and_the_next_rollout_works() -> None:
    with pytest.raises(EnvironmentFault, match=r"toy/Corridor: a worker process died .* from seed 0 on"):
        rollout("toy/Corridor", DiesInAWorker(), range(20), rng_seed=0, workers=2)
    assert len(rollout("toy/Corridor", NOISY, range(20), rng_seed=0, workers=2)) == 20


def test_a_fault_in_a_worker_keeps_its_type_and_message() -> None:
    with pytest.raises(ModelError, match=r"gave actions of shape \(1, 1\), expected \(10, 1\)"):
        rollout("toy/Corridor", Given(np.ones((1, 1))), range(20), rng_seed=0, workers=2)
