"""How well a policy foretells logged actions that it was not trained on, beside predictors that know nothing.

A policy with a dial is told what the episode still obtained, of the reward and of each cost, as in training. A policy
that was fitted by least squares says no spread; so that all can be compared, every policy's errors are taken as normal,
with standard deviations (one an entry of the action) that come from other episodes of the same log: the episodes are
cut in two halves, and each half is judged with what was measured on the other.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from safehold.core.errors import UsageError
from safehold.data.dataset import OfflineDataset
from safehold.learn.actions import box_of, middle_and_half
from safehold.learn.offline.logged import Answering, History

_AT_ONCE = 4096  # windows in one pass

_SMALLEST_SD = 1e-3
"""Of an error's standard deviation, in units of half the action range: exact foresight must not count for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepScores:
    """Of every logged step. Densities are of the whole action in units of half the action range, in nats.

    `log_density`: with the errors' spread from the other half; `own_log_density`: with the spread that the policy says
    itself, None if it says none; `squared_error`: mean over the action's entries, in the same units, squared.
    """

    log_density: Float[np.ndarray, "N"]
    own_log_density: Float[np.ndarray, "N"] | None
    squared_error: Float[np.ndarray, "N"]


def units_of(dataset: OfflineDataset) -> Int[np.ndarray, "E"]:
    """What counts as one of many: the behaviour policy of each episode where it is known, else the episode."""
    if dataset.group is None:
        return np.arange(len(dataset))
    return np.unique(dataset.group, return_inverse=True)[1].reshape(-1)


def halves(dataset: OfflineDataset, rng: np.random.Generator) -> Bool[np.ndarray, "E"]:
    """True for the episodes of one half, by whole behaviour policies where they are known.

    Raises:
        UsageError: if there are not two to be parted.
    """
    units = units_of(dataset)
    count = int(units.max()) + 1
    if count < 2:
        raise UsageError(f"{len(dataset)} episodes of {count} behaviour policy cannot be cut in two; log more")
    return np.asarray(np.isin(units, rng.permutation(count)[: count // 2]))


def score(dataset: OfflineDataset, policy: Answering, half: Bool[np.ndarray, "E"]) -> StepScores:
    """What a policy foretells of every step."""
    means, log_sd = _answers(dataset, policy)
    scored = _scored(dataset, means, half)
    if log_sd is None:
        return scored
    _, reach = middle_and_half(box_of(dataset.spec))
    errors, log_sd = (dataset.actions - means) / reach, log_sd - np.log(reach)
    return StepScores(
        log_density=scored.log_density,
        own_log_density=_log_normal(errors, log_sd),
        squared_error=scored.squared_error,
    )


def score_mean_action(dataset: OfflineDataset, half: Bool[np.ndarray, "E"]) -> StepScores:
    """What the mean action of the other half foretells."""
    steps = np.repeat(half, dataset.lengths)
    means = np.where(steps[:, None], dataset.actions[~steps].mean(axis=0), dataset.actions[steps].mean(axis=0))
    return _scored(dataset, means, half)


def score_last_action(dataset: OfflineDataset, half: Bool[np.ndarray, "E"]) -> StepScores:
    """What the action of the step before foretells; before the first step, the middle of the bounds."""
    means = np.concatenate([dataset.actions[:1], dataset.actions[:-1]])
    means[dataset.offsets[:-1]] = middle_and_half(box_of(dataset.spec))[0]
    return _scored(dataset, means, half)


def _answers(
    dataset: OfflineDataset, policy: Answering
) -> tuple[Float[np.ndarray, "N a"], Float[np.ndarray, "N a"] | None]:
    """Mean and log standard deviation at every step, told what its episode obtained."""
    history = History(dataset)
    states = np.arange(dataset.n_steps) + np.repeat(np.arange(len(dataset)), dataset.lengths)
    means, log_sds = [], []
    for begin in range(0, len(states), _AT_ONCE):
        chosen = states[begin : begin + _AT_ONCE]
        targets = history.returns[history.episode[chosen]][:, : policy.targets]
        said = policy.answers(history.windows(chosen, targets, policy.context))
        means.append(said.mean)
        log_sds.append(said.log_sd)
    spread = [one for one in log_sds if one is not None]
    return np.concatenate(means), np.concatenate(spread) if len(spread) == len(means) else None


def _scored(dataset: OfflineDataset, means: Float[np.ndarray, "N a"], half: Bool[np.ndarray, "E"]) -> StepScores:
    """Errors, and their normal density by the spread of the other half."""
    box = box_of(dataset.spec)
    errors = ((dataset.actions - box.clip(means)) / middle_and_half(box)[1]).astype(np.float64)
    steps, square = np.repeat(half, dataset.lengths)[:, None], errors**2
    sds = [np.maximum(np.sqrt(square[part[:, 0]].mean(axis=0)), _SMALLEST_SD) for part in (~steps, steps)]
    log_sd = np.log(np.where(steps, *sds))
    return StepScores(log_density=_log_normal(errors, log_sd), own_log_density=None, squared_error=square.mean(axis=1))


def _log_normal(errors: Float[np.ndarray, "N a"], log_sd: Float[np.ndarray, "N a"]) -> Float[np.ndarray, "N"]:
    entries = -0.5 * (errors * np.exp(-log_sd)) ** 2 - log_sd - 0.5 * math.log(2.0 * math.pi)
    return np.asarray(entries.sum(axis=1, dtype=np.float64))
