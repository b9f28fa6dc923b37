"""A fixed number of steps from several environments in lockstep, for learners that learn from their own steps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float

from safehold.core.env import SafeEnv
from safehold.core.errors import EnvironmentFault, UsageError
from safehold.core.seeding import Streams
from safehold.core.spec import Box
from safehold.envs.adapter import named_costs


@runtime_checkable
class Explorer(Protocol):
    """Draws actions for n environments in lockstep; may go past the action bounds, unlike an Actor.

    The environment executes the action moved to its bounds, the batch keeps the action as drawn: that is the one
    whose density a policy gradient needs.
    """

    def act(self, observations: Float[np.ndarray, "n o"]) -> Float[np.ndarray, "n a"]:
        """One action for each environment."""
        ...


@dataclass(frozen=True, slots=True)
class FinishedEpisode:
    """Undiscounted returns of one whole episode."""

    reward_return: float
    cost_returns: Float[np.ndarray, "k"]
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepBatch:
    """T steps of n environments, time first.

    `next_observations` belongs to the same episode as `observations`, also at its last step, so that a value can be
    taken of the state where the clock stopped it. `terminated`: the task ended there, nothing follows. `ended`: the
    next row is of another episode, whether the task ended or only the clock. `episodes`: those that ended, whole.
    """

    observations: Float[np.ndarray, "T n o"]
    actions: Float[np.ndarray, "T n a"]
    rewards: Float[np.ndarray, "T n"]
    costs: Float[np.ndarray, "T n k"]
    next_observations: Float[np.ndarray, "T n o"]
    terminated: Bool[np.ndarray, "T n"]
    ended: Bool[np.ndarray, "T n"]
    episodes: tuple[FinishedEpisode, ...]

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


@dataclass
class _Running:
    """The episode that one environment is in."""

    seed: int
    cut: int  # steps after which this episode is dropped unfinished; 0: never
    actions: list[Float[np.ndarray, "a"]] = field(default_factory=list)
    reward_return: float = 0.0
    cost_returns: Float[np.ndarray, "k"] = field(default_factory=lambda: np.zeros(0))


class StepCollector:
    """n environments in one process, stepped in lockstep; episodes run on from one batch to the next.

    The first episode of environment i is cut after (i + 1) / n of the horizon, so that with a fixed horizon the
    ends of episodes spread evenly over time instead of falling into the same batch. A cut episode counts as
    stopped by the clock and is not among the finished ones.

    Args:
        environments: n worlds of one task, owned (and closed) by the caller.
        streams: the reset seeds are the episode seeds of its stream "collect".

    Raises:
        UsageError: without environments, or if their actions are not continuous.
    """

    def __init__(self, environments: Sequence[SafeEnv], streams: Streams) -> None:
        if not environments:
            raise UsageError("a collector needs at least one environment")
        spec = environments[0].spec_of_task
        if not isinstance(spec.action, Box):
            raise UsageError(f"{spec.env_id}: steps are collected for continuous actions only, got {spec.action}")
        self._environments = tuple(environments)
        self._streams = streams
        self._spec = spec
        self._box = spec.action
        self._n_episodes = 0
        n = len(environments)
        cuts = [math.ceil(spec.horizon * (i + 1) / n) for i in range(n)]
        cuts[-1] = 0
        self._observations = np.empty((n, spec.observation_size), dtype=np.float32)
        self._running = [self._begin(i, cut) for i, cut in enumerate(cuts)]

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
        episodes: list[FinishedEpisode] = []
        for t in range(steps):
            observations[t] = self._observations
            actions[t] = explorer.act(self._observations)
            executed = self._box.clip(actions[t])
            if not np.isfinite(executed).all():
                raise EnvironmentFault(
                    f"{spec.env_id}: the explorer drew a non-finite action {executed.tolist()} at step {t} of a "
                    "batch; the learner has diverged (lower its learning rate)"
                )
            for i, environment in enumerate(self._environments):
                running = self._running[i]
                seen, reward, terminal, truncated, info = environment.step(executed[i])
                next_observations[t, i] = seen
                rewards[t, i] = reward
                costs[t, i] = named_costs(info, spec)
                running.actions.append(executed[i])
                running.reward_return += reward
                running.cost_returns = running.cost_returns + costs[t, i]
                cut = len(running.actions) == running.cut
                if terminal or truncated or cut:
                    terminated[t, i] = terminal
                    ended[t, i] = True
                    if terminal or truncated:
                        episodes.append(
                            FinishedEpisode(running.reward_return, running.cost_returns, len(running.actions))
                        )
                    self._running[i] = self._begin(i)
                else:
                    self._observations[i] = next_observations[t, i]
        return StepBatch(
            observations=observations,
            actions=actions,
            rewards=rewards,
            costs=costs,
            next_observations=next_observations,
            terminated=terminated,
            ended=ended,
            episodes=tuple(episodes),
        )

    def state(self) -> CollectorState:
        """A copy of where every environment stands."""
        size = self._box.size
        return CollectorState(
            n_episodes=self._n_episodes,
            seeds=tuple(running.seed for running in self._running),
            cuts=tuple(running.cut for running in self._running),
            actions=tuple(np.array(running.actions, np.float32).reshape(-1, size) for running in self._running),
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
        observations = np.empty_like(self._observations)
        running = [
            self._replay(i, state.seeds[i], state.cuts[i], state.actions[i], observations)
            for i in range(len(self._environments))
        ]
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

    def _begin(self, i: int, cut: int = 0) -> _Running:
        """Resets environment i with the next reset seed."""
        (seed,) = self._streams.episode_seeds("collect", self._n_episodes, 1)
        self._n_episodes += 1
        observation, _ = self._environments[i].reset(seed=seed)
        self._observations[i] = observation
        return _Running(seed=seed, cut=cut, cost_returns=np.zeros(len(self._spec.cost_names)))

    def _replay(
        self,
        i: int,
        seed: int,
        cut: int,
        actions: Float[np.ndarray, "_ a"],
        observations: Float[np.ndarray, "n o"],
    ) -> _Running:
        """Takes environment i through an episode again and puts what is seen last into `observations[i]`."""
        observations[i], _ = self._environments[i].reset(seed=seed)
        running = _Running(seed=seed, cut=cut, cost_returns=np.zeros(len(self._spec.cost_names)))
        for action in actions:
            seen, reward, _, _, info = self._environments[i].step(action)
            observations[i] = seen
            running.actions.append(action)
            running.reward_return += reward
            running.cost_returns = running.cost_returns + named_costs(info, self._spec)
        return running
