"""A fixed number of steps from several environments in lockstep, for learners that learn from their own steps."""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from safehold.core.env import SafeEnvs, Stepped
from safehold.core.errors import EnvironmentFault, UsageError
from safehold.core.seeding import Streams
from safehold.core.spec import Box


@runtime_checkable
class Explorer(Protocol):
    """Draws actions for n environments in lockstep; may go past the action bounds, unlike an Actor.

    The environment executes the action moved to its bounds, the batch keeps the action as drawn: that is the one
    whose density a policy gradient needs.
    """

    def act(self, observations: Float[np.ndarray, "n o"]) -> Float[np.ndarray, "n a"]:
        """One action for each environment."""
        ...


@runtime_checkable
class SharedExplorer(Explorer, Protocol):
    """An explorer of which another policy than the one that learns acts at times; it is told what steps cost."""

    @property
    def handed_over(self) -> Bool[np.ndarray, "n"]:
        """Whose the actions of the last `act` are: true for the other policy's."""
        ...

    def observe(self, costs: Float[np.ndarray, "n k"], ended: Bool[np.ndarray, "n"]) -> None:
        """What the step cost, and where the next one is of another episode."""
        ...


@dataclass(frozen=True, slots=True)
class FinishedEpisode:
    """Undiscounted returns of one whole episode, and the largest cost of a single step of each name."""

    reward_return: float
    cost_returns: Float[np.ndarray, "k"]
    cost_peaks: Float[np.ndarray, "k"]
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepBatch:
    """T steps of n environments, time first.

    `next_observations` belongs to the same episode as `observations`, also at its last step, so that a value can be
    taken of the state where the clock stopped it. `terminated`: the task ended there, nothing follows. `ended`: the
    next row is of another episode, whether the task ended or only the clock. `episodes`: those that ended, whole.
    `handed_over`: steps that another policy than the one that learns took; None where there is no other.
    """

    observations: Float[np.ndarray, "T n o"]
    actions: Float[np.ndarray, "T n a"]
    rewards: Float[np.ndarray, "T n"]
    costs: Float[np.ndarray, "T n k"]
    next_observations: Float[np.ndarray, "T n o"]
    terminated: Bool[np.ndarray, "T n"]
    ended: Bool[np.ndarray, "T n"]
    episodes: tuple[FinishedEpisode, ...]
    handed_over: Bool[np.ndarray, "T n"] | None = None

    @property
    def n_steps(self) -> int:
        """Number of environment steps, T times n."""
        return int(self.rewards.size)


@dataclass(frozen=True, slots=True)
class CollectorState:
    """Where a collector stands: the running episode of each environment, as a reset seed and the actions since.

    Any environment that keeps its contract (same seed and actions, same episode) comes back from this alone.
    `observations` are what replaying must arrive at.
    """

    n_episodes: int
    seeds: tuple[int, ...]
    cuts: tuple[int, ...]
    actions: tuple[Float[np.ndarray, "_ a"], ...]
    observations: Float[np.ndarray, "n o"]


class _Running:
    """The episodes that n environments are in: `cuts` are the steps after which one is dropped unfinished, 0: never."""

    def __init__(self, n: int, n_costs: int) -> None:
        self.seeds, self.cuts = [0] * n, [0] * n
        self.actions: list[list[np.ndarray]] = [[] for _ in range(n)]
        self.reward_returns = np.zeros(n)
        self.cost_returns, self.cost_peaks = np.zeros((n, n_costs)), np.zeros((n, n_costs))

    def begin(self, row: int, seed: int, cut: int) -> None:
        """An episode before its first step."""
        self.seeds[row], self.cuts[row], self.actions[row] = seed, cut, []
        self.reward_returns[row], self.cost_returns[row], self.cost_peaks[row] = 0.0, 0.0, 0.0

    def count(self, rows: Int[np.ndarray, "m"], executed: Float[np.ndarray, "m a"], stepped: Stepped) -> None:
        """One more step of these rows."""
        for row, action in zip(rows.tolist(), executed, strict=True):
            self.actions[row].append(action)
        self.reward_returns[rows] += stepped.rewards
        self.cost_returns[rows] += stepped.costs
        self.cost_peaks[rows] = np.maximum(self.cost_peaks[rows], stepped.costs)

    def cut(self, row: int) -> bool:
        """Whether it is dropped here."""
        return len(self.actions[row]) == self.cuts[row]

    def finished(self, row: int) -> FinishedEpisode:
        """What one episode has come to."""
        return FinishedEpisode(
            float(self.reward_returns[row]),
            self.cost_returns[row].copy(),
            self.cost_peaks[row].copy(),
            len(self.actions[row]),
        )


class StepCollector:
    """n environments in one process that step together; episodes run on from one batch to the next.

    The first episode of environment i is cut after (i + 1) / n of the horizon, so that with a fixed horizon the
    ends of episodes spread evenly over time instead of falling into the same batch. A cut episode counts as
    stopped by the clock and is not among the finished ones.

    Args:
        environments: n worlds of one task that step together, owned (and closed) by the caller.
        streams: the reset seeds are the episode seeds of its stream "collect".

    Raises:
        UsageError: if their actions are not continuous.
    """

    def __init__(self, environments: SafeEnvs, streams: Streams) -> None:
        spec = environments.spec_of_task
        if not isinstance(spec.action, Box):
            raise UsageError(f"{spec.env_id}: steps are collected for continuous actions only, got {spec.action}")
        self._environments = environments
        self._streams = streams
        self._spec = spec
        self._box = spec.action
        self._n_episodes = 0
        n = len(environments)
        cuts = [math.ceil(spec.horizon * (i + 1) / n) for i in range(n)]
        cuts[-1] = 0
        self._observations = np.empty((n, spec.observation_size), dtype=np.float32)
        self._running = _Running(n, len(spec.cost_names))
        for row, cut in enumerate(cuts):
            self._begin(row, cut)

    def collect(self, explorer: Explorer, steps: int) -> StepBatch:
        """The next `steps` steps of every environment."""
        n, spec = len(self._environments), self._spec
        observations = np.empty((steps, n, spec.observation_size), dtype=np.float32)
        next_observations = np.empty_like(observations)
        actions = np.empty((steps, n, self._box.size), dtype=np.float32)
        rewards = np.empty((steps, n))
        costs = np.empty((steps, n, len(spec.cost_names)))
        terminated = np.zeros((steps, n), dtype=np.bool_)
        ended = np.zeros((steps, n), dtype=np.bool_)
        shared = explorer if isinstance(explorer, SharedExplorer) else None
        handed_over = None if shared is None else np.zeros((steps, n), dtype=np.bool_)
        episodes: list[FinishedEpisode] = []
        rows = np.arange(n)
        for t in range(steps):
            observations[t] = self._observations
            actions[t] = explorer.act(self._observations)
            executed = self._box.clip(actions[t])
            if not np.isfinite(executed).all():
                raise EnvironmentFault(
                    f"{spec.env_id}: the explorer drew a non-finite action {executed.tolist()} at step {t} of a "
                    "batch; the learner has diverged (lower its learning rate)"
                )
            stepped = self._environments.step(rows, executed)
            next_observations[t], rewards[t], costs[t] = stepped.observations, stepped.rewards, stepped.costs
            terminated[t], whole = stepped.terminated, stepped.terminated | stepped.truncated
            self._observations = stepped.observations.copy()
            self._running.count(rows, executed, stepped)
            ended[t] = whole | [self._running.cut(row) for row in range(n)]
            if shared is not None and handed_over is not None:
                handed_over[t] = shared.handed_over
                shared.observe(stepped.costs, ended[t])
            for row in np.flatnonzero(ended[t]).tolist():
                if whole[row]:
                    episodes.append(self._running.finished(row))
                self._begin(row)
        return StepBatch(
            observations=observations,
            actions=actions,
            rewards=rewards,
            costs=costs,
            next_observations=next_observations,
            terminated=terminated,
            ended=ended,
            episodes=tuple(episodes),
            handed_over=handed_over,
        )

    def state(self) -> CollectorState:
        """A copy of where every environment stands."""
        size = self._box.size
        return CollectorState(
            n_episodes=self._n_episodes,
            seeds=tuple(self._running.seeds),
            cuts=tuple(self._running.cuts),
            actions=tuple(np.array(actions, np.float32).reshape(-1, size) for actions in self._running.actions),
            observations=self._observations.copy(),
        )

    def restore(self, state: CollectorState) -> None:
        """Goes back to a saved state, by resetting every environment and replaying its actions.

        Raises:
            EnvironmentFault: if a replayed episode does not arrive where it was; its world is not deterministic.
        """
        if len(state.seeds) != len(self._environments):
            raise UsageError(
                f"the saved run had {len(state.seeds)} environments, this one has {len(self._environments)}; "
                "a run goes on with the number of environments that it began with"
            )
        observations, running = self._replay(state)
        if not np.array_equal(observations, state.observations):
            place = int(np.argmax((observations != state.observations).any(axis=1)))
            raise EnvironmentFault(
                f"{self._spec.env_id}: replaying {len(state.actions[place])} actions from seed {state.seeds[place]} "
                "does not arrive at the saved observation, so the run cannot go on as if it had never stopped; "
                "the environment (or its version) does not repeat an episode from its seed"
            )
        self._n_episodes = state.n_episodes
        self._observations = observations
        self._running = running

    def _begin(self, row: int, cut: int = 0) -> None:
        """Resets one environment with the next reset seed."""
        (seed,) = self._streams.episode_seeds("collect", self._n_episodes, 1)
        self._n_episodes += 1
        self._observations[row] = self._environments.reset(row, seed=seed)
        self._running.begin(row, seed, cut)

    def _replay(self, state: CollectorState) -> tuple[Float[np.ndarray, "n o"], _Running]:
        """Takes every environment through its episode again; what is seen last, and the episodes."""
        observations = np.empty_like(self._observations)
        running = _Running(len(self._environments), len(self._spec.cost_names))
        for row, (seed, cut) in enumerate(zip(state.seeds, state.cuts, strict=True)):
            observations[row] = self._environments.reset(row, seed=seed)
            running.begin(row, seed, cut)
        lengths = np.array([len(actions) for actions in state.actions])
        for t in range(int(lengths.max())):
            rows = np.flatnonzero(lengths > t)
            executed = np.stack([state.actions[row][t] for row in rows])
            stepped = self._environments.step(rows, executed)
            observations[rows] = stepped.observations
            running.count(rows, executed, stepped)
        return observations, running
