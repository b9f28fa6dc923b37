"""What every learner that interacts asks of a limit, and tells of the episodes that it has lived through."""

from collections.abc import Sequence

import numpy as np

from safehold.core.constraint import Limit, LimitKind
from safehold.core.errors import UsageError
from safehold.core.spec import TaskSpec
from safehold.rollout.steps import FinishedEpisode


def checked_limit(spec: TaskSpec, limit: Limit, kind: LimitKind, method: str) -> int:
    """The column of the limited cost.

    Raises:
        UsageError: if the limit is of another kind, or on a cost that the task does not have.
    """
    if limit.kind != kind or limit.name not in spec.cost_names:
        raise UsageError(
            f"{spec.env_id}: {method} takes a limit of kind {kind!r} on one of {spec.cost_names}, "
            f"got kind {limit.kind!r} on {limit.name!r}"
        )
    return spec.cost_names.index(limit.name)


def episode_metrics(episodes: Sequence[FinishedEpisode], column: int) -> dict[str, float]:
    """Means of the finished episodes' undiscounted returns and dearest steps; nothing if none finished."""
    if not episodes:
        return {}
    return {
        "reward_return": float(np.mean([episode.reward_return for episode in episodes])),
        "cost_return": float(np.mean([episode.cost_returns[column] for episode in episodes])),
        "cost_peak": float(np.mean([episode.cost_peaks[column] for episode in episodes])),
    }
