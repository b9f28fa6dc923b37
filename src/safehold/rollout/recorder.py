"""Builds episodes from steps that several worlds take: whole ones in lockstep, or whatever a learner does to them."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from safehold.core.env import PlacedEnvs, Stepped
from safehold.core.episode import Episode
from safehold.core.spec import TaskSpec


class LockstepRecorder:
    """Keeps what n worlds did, step by step, and cuts it into n episodes.

    Rows of worlds whose episode has ended are written on and cut off again by `episodes`.
    """

    def __init__(self, observations: Float[np.ndarray, "n o"]) -> None:
        self._observations = [observations]
        self._actions: list[np.ndarray] = []
        self._rewards: list[np.ndarray] = []
        self._costs: list[np.ndarray] = []

    def __len__(self) -> int:
        """Steps so far."""
        return len(self._actions)

    def append(
        self,
        *,
        actions: Float[np.ndarray, "n a"],
        rewards: Float[np.ndarray, "n"],
        costs: Float[np.ndarray, "n k"],
        observations: Float[np.ndarray, "n o"],
    ) -> None:
        """One step of all worlds and what was seen after it; the arrays are kept, not copied."""
        self._actions.append(actions)
        self._rewards.append(rewards)
        self._costs.append(costs)
        self._observations.append(observations)

    def episodes(self, *, seeds: Sequence[int], lengths: Sequence[int], terminated: Sequence[bool]) -> list[Episode]:
        """The n episodes: observations and actions in float32, rewards and costs in float64."""
        observations, actions = np.stack(self._observations, axis=1), np.stack(self._actions, axis=1)
        rewards, costs = np.stack(self._rewards, axis=1), np.stack(self._costs, axis=1)
        return [
            Episode(
                observations=observations[row, : length + 1].astype(np.float32),
                actions=actions[row, :length].astype(np.float32),
                rewards=rewards[row, :length].astype(np.float64),
                costs=costs[row, :length].astype(np.float64),
                terminated=ended,
                truncated=not ended,
                seed=seed,
            )
            for row, (seed, length, ended) in enumerate(zip(seeds, lengths, terminated, strict=True))
        ]


class RecordedWorlds:
    """Other worlds, whose episodes are kept: what a learner that interacts has met, as evidence for offline learning.

    Every `every`-th episode that begins is kept if it comes to its end; one that is reset before is no whole episode,
    and is dropped. Actions are kept as the worlds executed them. Everything is held in memory.

    Args:
        worlds: whose steps these are; closed with this object.
        every: 1 keeps all episodes, 10 a tenth.
    """

    def __init__(self, worlds: PlacedEnvs, every: int) -> None:
        self._worlds = worlds
        self._every = every
        self._begun = 0
        self._running: dict[int, tuple[int, LockstepRecorder]] = {}
        self.episodes: list[Episode] = []
        """Those that came to their end, in the order of their ends."""

    @property
    def spec_of_task(self) -> TaskSpec:
        """That of the worlds."""
        return self._worlds.spec_of_task

    def __len__(self) -> int:
        """Number of worlds."""
        return len(self._worlds)

    def positions(self, rows: Int[np.ndarray, "m"]) -> Float[np.ndarray, "m two"]:
        """Where the robots of these worlds are."""
        return self._worlds.positions(rows)

    def reset(self, row: int, *, seed: int) -> Float[np.ndarray, "o"]:
        """A fresh episode in one world; one that ran there is dropped."""
        observation = self._worlds.reset(row, seed=seed)
        self._running.pop(row, None)
        if self._begun % self._every == 0:
            self._running[row] = seed, LockstepRecorder(observation[None].copy())
        self._begun += 1
        return observation

    def step(self, rows: Int[np.ndarray, "m"], actions: Float[np.ndarray, "m a"]) -> Stepped:
        """One step in each of these worlds."""
        stepped = self._worlds.step(rows, actions)
        for place, row in enumerate(rows.tolist()):
            if row not in self._running:
                continue
            seed, recorder = self._running[row]
            here = slice(place, place + 1)
            recorder.append(
                actions=actions[here].copy(),
                rewards=stepped.rewards[here].copy(),
                costs=stepped.costs[here].copy(),
                observations=stepped.observations[here].copy(),
            )
            if stepped.terminated[place] or stepped.truncated[place]:
                del self._running[row]
                self.episodes += recorder.episodes(
                    seeds=[seed], lengths=[len(recorder)], terminated=[bool(stepped.terminated[place])]
                )
        return stepped

    def close(self) -> None:
        """Closes the worlds."""
        self._worlds.close()
