"""Logged episodes as flat arrays: what offline learners, audits and seeds of a deployment start from."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from safehold.core.episode import Episode
from safehold.core.errors import DataError
from safehold.core.spec import Discrete, TaskSpec

DTYPES: Mapping[str, np.dtype[Any]] = {
    "observations": np.dtype(np.float32),
    "actions": np.dtype(np.float32),
    "rewards": np.dtype(np.float64),
    "costs": np.dtype(np.float64),
    "offsets": np.dtype(np.int64),
    "terminated": np.dtype(np.bool_),
    "group": np.dtype(np.int32),
}
"""The arrays of a dataset and the type each is kept in."""

LARGEST = 1e100
"""Rewards and costs beyond this size are refused, so that no later sum or square can overflow."""


@dataclass(frozen=True, kw_only=True)
class OfflineDataset:
    """E episodes of N steps in all; episode i owns steps offsets[i] to offsets[i + 1] - 1.

    `observations` has one row more than steps for each episode (the last is what was seen after the last action), so
    that episode i owns rows offsets[i] + i to offsets[i + 1] + i. `costs` has one column a named cost, in the cost
    units of the spec, real-valued, finite and >= 0. `terminated`: the task itself ended the episode; otherwise the
    clock or the end of the log did. `group`: which behaviour policy flew the episode, where that is known.
    `provenance`: where the data came from, in JSON values; it is not part of the digest.

    The arrays given are kept, not copied, and are only to be read from then on.

    Raises:
        DataError: if anything is not as said above; the message names the array and the place.
    """

    spec: TaskSpec
    observations: Float[np.ndarray, "N_plus_E o"]
    actions: Float[np.ndarray, "N a"]
    rewards: Float[np.ndarray, "N"]
    costs: Float[np.ndarray, "N k"]
    offsets: Int[np.ndarray, "E_plus_1"]
    terminated: Bool[np.ndarray, "E"]
    group: Int[np.ndarray, "E"] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, dtype in DTYPES.items():
            values = getattr(self, name)
            if values is None:
                continue
            if values.dtype != dtype:
                raise DataError(
                    f"{name} must be {dtype}, got {values.dtype}; build the dataset with OfflineDataset.of, "
                    "which converts and checks that nothing is lost"
                )
            view = np.ascontiguousarray(values).view()
            view.flags.writeable = False
            object.__setattr__(self, name, view)
        _check_offsets(self.offsets, self.spec.horizon)
        _check_shapes(self)
        for name in ("observations", "actions", "rewards", "costs"):
            check_finite(name, getattr(self, name))
        _check_costs(self.costs, self.spec)
        _check_actions(self.actions, self.spec)
        _check_size("rewards", self.rewards)
        _check_size("costs", self.costs)
        object.__setattr__(self, "provenance", _plain_json(self.provenance))

    @staticmethod
    def of(
        episodes: Sequence[Episode],
        spec: TaskSpec,
        provenance: Mapping[str, Any] | None = None,
        group: Sequence[int] | Int[np.ndarray, "E"] | None = None,
    ) -> "OfflineDataset":
        """Joins episodes, in order. Observations and actions are rounded to float32.

        An episode that terminated and was truncated at the same step counts as terminated. A failed episode is
        refused: its costs are only lower bounds of what happened.
        """
        for i, episode in enumerate(episodes):
            if episode.failed:
                raise DataError(
                    f"episode {i} (seed {episode.seed}) failed: its costs are only lower bounds, so it is no evidence; "
                    "leave it out knowingly, and say so in the provenance"
                )
        if not episodes:
            raise DataError("no episodes; a dataset needs at least one")
        return OfflineDataset(
            spec=spec,
            observations=_joined("observations", [episode.observations for episode in episodes]),
            actions=_joined("actions", [episode.actions for episode in episodes]),
            rewards=_joined("rewards", [episode.rewards for episode in episodes]),
            costs=_joined("costs", [episode.costs for episode in episodes]),
            offsets=np.cumsum([0, *(len(episode) for episode in episodes)], dtype=np.int64),
            terminated=np.array([episode.terminated for episode in episodes], dtype=np.bool_),
            group=None if group is None else as_group(np.asarray(group)),
            provenance={} if provenance is None else provenance,
        )

    def __len__(self) -> int:
        """Number of episodes E."""
        return len(self.terminated)

    def __iter__(self) -> Iterator[Episode]:
        return (self.episode(i) for i in range(len(self)))

    def episode(self, i: int) -> Episode:
        """Episode i as read-only views into the flat arrays; its seed is not kept.

        Raises:
            IndexError: if there is no episode i.
        """
        if not 0 <= i < len(self):
            raise IndexError(f"episode {i} of {len(self)}; the first is 0")
        start, stop = int(self.offsets[i]), int(self.offsets[i + 1])
        terminated = bool(self.terminated[i])
        return Episode(
            observations=self.observations[start + i : stop + i + 1],
            actions=self.actions[start:stop],
            rewards=self.rewards[start:stop],
            costs=self.costs[start:stop],
            terminated=terminated,
            truncated=not terminated,
        )

    @property
    def n_steps(self) -> int:
        """Number of steps N of all episodes."""
        return len(self.rewards)

    @cached_property
    def lengths(self) -> Int[np.ndarray, "E"]:
        """Steps of each episode."""
        return _read_only(np.diff(self.offsets))

    @cached_property
    def reward_returns(self) -> Float[np.ndarray, "E"]:
        """Undiscounted sum of rewards of each episode, to the last bit what `Episode.reward_return` says."""
        return _read_only(self._sums(self.rewards))

    @cached_property
    def cost_returns(self) -> Float[np.ndarray, "E k"]:
        """Undiscounted sum of each named cost of each episode, in cost units."""
        return _read_only(self._sums(self.costs))

    def _sums(self, values: Float[np.ndarray, "N *rest"]) -> Float[np.ndarray, "E *rest"]:
        # np.add.reduceat would be quicker but adds in another order, and a return must mean one thing
        bounds = self.offsets.tolist()
        return np.array([np.sum(values[bounds[i] : bounds[i + 1]], axis=0) for i in range(len(self))])

    @cached_property
    def digest(self) -> str:
        """SHA-256, in hex, of the content: spec and arrays, little-endian, in the order of `DTYPES`.

        The provenance is left out, so that the same data has the same digest wherever it came from.
        """
        state = hashlib.sha256(b"safehold dataset content 1\n")
        state.update(json.dumps(self.spec.to_json(), sort_keys=True, separators=(",", ":"), allow_nan=False).encode())
        for name, dtype in DTYPES.items():
            values = getattr(self, name)
            if values is None:
                continue
            state.update(f"\n{name} {dtype.str.replace('>', '<')} {'x'.join(map(str, values.shape))}\n".encode())
            state.update(memoryview(values.astype(dtype.newbyteorder("<"), copy=False)).cast("B"))
        return state.hexdigest()


def as_group(values: np.ndarray) -> Int[np.ndarray, "E"]:
    """Group numbers as int32.

    Raises:
        DataError: if they are not whole numbers that int32 holds.
    """
    if values.ndim == 1 and values.dtype.kind in "iuf":
        with np.errstate(invalid="ignore"):
            converted = values.astype(np.int32)
        if np.array_equal(converted, values):
            return converted
    raise DataError(f"group must hold one 32-bit whole number an episode, got {values.dtype} of shape {values.shape}")


def _joined(name: str, parts: Sequence[np.ndarray]) -> np.ndarray:
    """Parts one after the other, in the type of this array; a part of another width is named."""
    for i, part in enumerate(parts):
        if part.shape[1:] != parts[0].shape[1:]:
            raise DataError(
                f"{name} of episode {i} have {part.shape[1:]} columns, those of episode 0 {parts[0].shape[1:]}; "
                "one dataset holds episodes of one task"
            )
    with np.errstate(over="ignore"):  # what overflows is found, and placed, by the check for finite values
        return np.concatenate(parts, axis=0).astype(DTYPES[name])


def _read_only(values: np.ndarray) -> np.ndarray:
    values.flags.writeable = False
    return values


def _check_offsets(offsets: Int[np.ndarray, "E_plus_1"], horizon: int) -> None:
    if offsets.ndim != 1 or len(offsets) < 2:
        raise DataError(f"offsets {offsets.shape}: a dataset needs at least one episode, so two offsets or more")
    if offsets[0] != 0:
        raise DataError(f"offsets[0] = {offsets[0]}; the first episode starts at step 0")
    lengths = np.diff(offsets)
    if (lengths < 1).any():
        i = int(np.argmax(lengths < 1))
        raise DataError(f"offsets[{i + 1}] - offsets[{i}] = {lengths[i]}; every episode has at least one step")
    if (lengths > horizon).any():
        i = int(np.argmax(lengths > horizon))
        raise DataError(
            f"episode {i} has {lengths[i]} steps, the horizon of the task is {horizon}; give the horizon that the "
            "episodes were collected with, or look for a missing end of episode"
        )


def _check_shapes(dataset: OfflineDataset) -> None:
    spec, steps, episodes = dataset.spec, int(dataset.offsets[-1]), len(dataset.offsets) - 1
    expected = {
        "observations": (steps + episodes, spec.observation_size),
        "actions": (steps, spec.action.size),
        "rewards": (steps,),
        "costs": (steps, len(spec.cost_names)),
        "terminated": (episodes,),
        "group": (episodes,),
    }
    for name, shape in expected.items():
        values = getattr(dataset, name)
        if values is not None and values.shape != shape:
            raise DataError(
                f"{name} has shape {values.shape}, expected {shape}: the offsets say {episodes} episodes of {steps} "
                f"steps, the task {spec.env_id} has {spec.observation_size} observation values, {spec.action.size} "
                f"action values and costs {spec.cost_names}"
            )


def check_finite(name: str, values: np.ndarray) -> None:
    """Refuses NaN and infinity.

    Raises:
        DataError: naming the first such place, and how many there are.
    """
    finite = np.isfinite(values)
    if not finite.all():
        place = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise DataError(
            f"{name}{list(place)} is {values[place]} ({int(np.sum(~finite))} such values); a value that was not "
            "measured is no evidence: drop the whole episode, or cut it before this step and say so in the provenance"
        )


def _check_size(name: str, values: np.ndarray) -> None:
    large = np.abs(values) > LARGEST
    if large.any():
        place = tuple(int(i) for i in np.argwhere(large)[0])
        raise DataError(
            f"{name}{list(place)} = {values[place]} is beyond {LARGEST:g} in size; sums and squares of such numbers "
            "overflow, and no unit needs them. Look whether the memory that was logged was ever set"
        )


def _check_costs(costs: Float[np.ndarray, "N k"], spec: TaskSpec) -> None:
    negative = costs < 0
    if negative.any():
        row, column = (int(i) for i in np.argwhere(negative)[0])
        raise DataError(
            f"costs[{row}, {column}] ({spec.cost_names[column]}) = {costs[row, column]} is negative "
            f"({int(np.sum(negative))} such values); safehold costs are >= 0. "
            + (
                "None is positive: they may be penalties, to be negated knowingly, or rewards and costs are swapped"
                if not (costs > 0).any()
                else "If penalties are stored as negative numbers, negate them knowingly before they come in"
            )
        )


def _check_actions(actions: Float[np.ndarray, "N a"], spec: TaskSpec) -> None:
    """Box actions outside their bounds are logged facts (an audit reports them); an index that names nothing is not."""
    if isinstance(spec.action, Discrete):
        bad = (actions != np.floor(actions)) | (actions < 0) | (actions >= spec.action.n)
        if bad.any():
            row = int(np.argmax(bad.any(axis=1)))
            raise DataError(f"actions[{row}] = {actions[row, 0]}; the task has actions 0 to {spec.action.n - 1}")


def _plain_json(provenance: Mapping[str, Any]) -> dict[str, Any]:
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(provenance), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise DataError(f"provenance must hold JSON values only (no arrays, no NaN): {error}") from error
    return plain
