"""Generalised advantage estimation, the same for rewards and for costs."""

import numpy as np
from jaxtyping import Bool, Float


def advantages(
    signal: Float[np.ndarray, "T n"],
    values: Float[np.ndarray, "T n"],
    next_values: Float[np.ndarray, "T n"],
    terminated: Bool[np.ndarray, "T n"],
    ended: Bool[np.ndarray, "T n"],
    *,
    discount: float,
    decay: float,
) -> Float[np.ndarray, "T n"]:
    """How much better (for a cost: dearer) each action was than the policy's average, in the signal's units.

    A_t = sum_{l >= 0} (discount decay)^l delta_{t+l},
    delta_t = signal_t + discount V(s_{t+1}) - V(s_t).   [GAE, arXiv 1506.02438, Eqs. (11), (16)]

    V is 0 where the task ended (`terminated`). Where only the clock did (`ended` but not `terminated`), and at the
    last row, V(s_{t+1}) stands for what would have followed: `next_values` is of the state seen there, not of the
    next episode's first. The sum stops at the end of an episode.
    """
    deltas = signal + discount * np.where(terminated, 0.0, next_values) - values
    carried = discount * decay * ~ended
    result = np.empty_like(deltas)
    running = np.zeros(deltas.shape[1])
    for t in reversed(range(len(deltas))):
        running = deltas[t] + carried[t] * running
        result[t] = running
    return result
