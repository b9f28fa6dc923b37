"""Builds episodes from steps that several worlds take in lockstep."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from safehold.core.episode import Episode


class LockstepRecorder:
    """Keeps what n worlds did, step by step, and cuts it into n episodes.

    Rows of worlds whose episode has ended are written on and cut off again by `episodes`.
    """

    def __init__(self, observations: Float[np.ndarray, "n o"]) -> None:
        self._observations = [observations]
        self._actions: list[np.ndarray] = []
        self._rewards: list[np.ndarray] = []
        self._costs: list[np.ndarray] = []

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
