"""What stands between environment units and a network's, fitted to the data once: observations, to-go values, actions.

Unlike [CDT, arXiv 2302.07351] and OSRL, nothing about a task is a constant of the code: observations and to-go values
are scaled by the data, and to-go values are held inside the range that the data shows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Float32, Int

from safehold.core.errors import DataError
from safehold.core.spec import TaskSpec
from safehold.data.augment import Augmentation
from safehold.data.batches import to_go
from safehold.data.dataset import OfflineDataset
from safehold.data.normalise import Normaliser

Feature = Literal["value", "root", "rate"]
"""How a to-go value v enters a network: "value" v itself; "root" sign(v) |v|^(1/2), which tells small values apart;
"rate" v per step that remains until the horizon."""

_WIDE = 1e30
"""Finite, for JSON, and beyond every to-go value."""


@dataclass(frozen=True)
class ToGoEncoder:
    """Turns a to-go value at a step into the features of its token, scaled by the data and held in the data's range.

    Holding the range matters at run time: a target beyond the data, or a budget that is overspent, would push a
    linear embedding where it was never trained.
    """

    features: tuple[Feature, ...]
    horizon: int
    normaliser: Normaliser
    low: Float[np.ndarray, "f"]
    high: Float[np.ndarray, "f"]

    @staticmethod
    def fit(
        values: Float[np.ndarray, "N"], steps: Int[np.ndarray, "N"], horizon: int, features: tuple[Feature, ...]
    ) -> "ToGoEncoder":
        """The scales and ranges of the to-go values of a whole dataset."""
        raw = _features(values, steps, horizon, features)
        return ToGoEncoder(features, horizon, Normaliser.fit(raw), raw.min(axis=0), raw.max(axis=0))

    def encode(
        self, values: Float[np.ndarray, "*rows"], steps: Int[np.ndarray, "*rows"]
    ) -> Float32[np.ndarray, "*rows f"]:
        """Features of to-go values, in environment units, at absolute steps."""
        raw = _features(values, steps, self.horizon, self.features)
        return self.normaliser.apply(np.clip(raw, self.low, self.high))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `of_json` reads them back to the last bit."""
        return {"normaliser": self.normaliser.to_json(), "low": self.low.tolist(), "high": self.high.tolist()}

    @staticmethod
    def of_json(plain: Mapping[str, Any], horizon: int, features: tuple[Feature, ...]) -> "ToGoEncoder":
        """The encoder that `to_json` wrote.

        Raises:
            DataError: if statistics are missing, of another length, or not finite.
        """
        normaliser = Normaliser.of_json(plain["normaliser"], len(features))
        low, high = (np.array(plain[name], dtype=np.float64) for name in ("low", "high"))
        if not (low.shape == high.shape == (len(features),) and np.isfinite([low, high]).all() and (low <= high).all()):
            raise DataError(f"ranges of to-go values must be {len(features)} finite pairs low <= high")
        return ToGoEncoder(features, horizon, normaliser, low, high)


def _features(
    values: Float[np.ndarray, "*rows"], steps: Int[np.ndarray, "*rows"], horizon: int, features: tuple[Feature, ...]
) -> Float[np.ndarray, "*rows f"]:
    columns: Mapping[Feature, np.ndarray] = {
        "value": values,
        "root": np.sign(values) * np.sqrt(np.abs(values)),
        "rate": values / (horizon - steps),
    }
    return np.stack([columns[name] for name in features], axis=-1)


@dataclass(frozen=True)
class Scales:
    """Everything that stands between environment units and the network's; fitted to the data once."""

    observations: Normaliser
    reward_to_go: ToGoEncoder
    cost_to_go: tuple[ToGoEncoder, ...]
    largest_costs: Float[np.ndarray, "k"]

    @staticmethod
    def fit(
        dataset: OfflineDataset, features: tuple[Feature, ...], augmentation: Augmentation | None = None
    ) -> "Scales":
        """Scales of a dataset, and of the episodes that augment it."""
        rewards, costs = to_go(dataset)
        steps = np.arange(dataset.n_steps) - np.repeat(dataset.offsets[:-1], dataset.lengths)
        if augmentation is not None and len(augmentation):
            again = np.concatenate([np.arange(*dataset.offsets[i : i + 2]) for i in augmentation.episodes])
            lengths = dataset.lengths[augmentation.episodes]
            rewards = np.concatenate([rewards, rewards[again] + np.repeat(augmentation.reward, lengths)])
            costs = np.concatenate([costs, costs[again] + np.repeat(augmentation.costs, lengths, axis=0)])
            steps = np.concatenate([steps, steps[again]])
        horizon = dataset.spec.horizon
        largest = dataset.costs.max(axis=0)
        return Scales(
            Normaliser.fit(dataset.observations),
            ToGoEncoder.fit(rewards, steps, horizon, features),
            tuple(ToGoEncoder.fit(column, steps, horizon, features) for column in costs.T),
            np.where(largest > 0.0, largest, 1.0),
        )

    @staticmethod
    def osrl(spec: TaskSpec) -> "Scales":
        """OSRL's constants for every task: observations as they are, a tenth of the reward-to-go, cost-to-go less 50.

        OSRL takes 50 less the cost-to-go, which is the same up to the sign of one column of weights.
        """
        size, costs = spec.observation_size, len(spec.cost_names)
        wide = (np.array([-_WIDE]), np.array([_WIDE]))

        def constant(mean: float, std: float) -> ToGoEncoder:
            normaliser = Normaliser(np.array([mean]), np.array([std]), np.zeros(1, dtype=np.bool_))
            return ToGoEncoder(("value",), spec.horizon, normaliser, *wide)

        return Scales(
            Normaliser(np.zeros(size), np.ones(size), np.zeros(size, dtype=np.bool_)),
            constant(0.0, 10.0),
            tuple(constant(50.0, 1.0) for _ in range(costs)),
            np.ones(costs),
        )

    def to_go(
        self,
        rewards: Float[np.ndarray, "*rows"],
        costs: Float[np.ndarray, "*rows k"],
        steps: Int[np.ndarray, "*rows"],
    ) -> list[Float32[np.ndarray, "*rows f"]]:
        """Features of the reward-to-go, then of each cost-to-go, given in environment units at absolute steps."""
        encoded = [encoder.encode(costs[..., i], steps) for i, encoder in enumerate(self.cost_to_go)]
        return [self.reward_to_go.encode(rewards, steps), *encoded]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "observations": self.observations.to_json(),
            "reward_to_go": self.reward_to_go.to_json(),
            "cost_to_go": [encoder.to_json() for encoder in self.cost_to_go],
            "largest_costs": self.largest_costs.tolist(),
        }

    @staticmethod
    def of_json(plain: Mapping[str, Any], spec: TaskSpec, features: tuple[Feature, ...]) -> "Scales":
        """The scales that `to_json` wrote.

        Raises:
            DataError: if a scale is missing or does not fit the task.
        """
        try:
            if len(plain["cost_to_go"]) != len(spec.cost_names):
                raise DataError(f"scales of {len(plain['cost_to_go'])} costs for a task with costs {spec.cost_names}")
            return Scales(
                Normaliser.of_json(plain["observations"], spec.observation_size),
                ToGoEncoder.of_json(plain["reward_to_go"], spec.horizon, features),
                tuple(ToGoEncoder.of_json(entry, spec.horizon, features) for entry in plain["cost_to_go"]),
                np.array(plain["largest_costs"], dtype=np.float64),
            )
        except (KeyError, TypeError) as error:
            raise DataError(f"scales of observations and to-go values cannot be read: {error!r}") from error
