"""What a task is: sizes, bounds, horizon, and what one unit of each cost means."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from safehold.core.errors import DataError


@dataclass(frozen=True, slots=True)
class Box:
    """Continuous actions between two bounds, one pair a dimension."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        bounds = np.array([self.low, self.high], dtype=np.float64)
        if len(self.low) != len(self.high) or not self.low or not np.all(np.isfinite(bounds)):
            raise DataError(
                f"action bounds must be finite and of one length, got low={self.low}, high={self.high}; "
                "wrap the environment so that its actions are bounded"
            )
        if not np.all(bounds[0] < bounds[1]):
            raise DataError(f"action bounds must satisfy low < high, got low={self.low}, high={self.high}")

    @property
    def size(self) -> int:
        """Number of action dimensions."""
        return len(self.low)

    def clip(self, actions: Float[np.ndarray, "n a"]) -> Float[np.ndarray, "n a"]:
        """Actions moved to the nearest allowed value; NaN is kept, so that the border can refuse it."""
        return np.clip(actions, np.asarray(self.low, actions.dtype), np.asarray(self.high, actions.dtype))


@dataclass(frozen=True, slots=True)
class Discrete:
    """Actions 0, 1, ..., n - 1."""

    n: int

    def __post_init__(self) -> None:
        if self.n < 1:
            raise DataError(f"a discrete action space needs at least one action, got n={self.n}")

    @property
    def size(self) -> int:
        """Number of columns an action takes in an array: one index."""
        return 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """Everything about a task that data, policies and environments must agree on.

    `horizon` is the largest number of steps of an episode. `cost_units` says in words what one unit of
    each named cost is ("steps above 3.21 m/s"), because every limit is stated in it.
    """

    env_id: str
    observation_size: int
    action: Box | Discrete
    horizon: int
    cost_names: tuple[str, ...] = ("cost",)
    cost_units: tuple[str, ...] = ("cost units",)

    def __post_init__(self) -> None:
        if self.observation_size < 1 or self.horizon < 1:
            raise DataError(
                f"{self.env_id}: observation_size and horizon must be positive, "
                f"got {self.observation_size} and {self.horizon}"
            )
        if not self.cost_names or len(set(self.cost_names)) != len(self.cost_names):
            raise DataError(f"{self.env_id}: cost names must be given and distinct, got {self.cost_names}")
        if len(self.cost_units) != len(self.cost_names):
            raise DataError(
                f"{self.env_id}: {len(self.cost_names)} cost names but {len(self.cost_units)} cost units; "
                "say for each named cost what one unit of it means"
            )

    def difference(self, other: "TaskSpec") -> str | None:
        """The first field in which a policy of this task would not fit the other; names of tasks may differ."""
        fields = ("observation_size", "action", "horizon", "cost_names")
        return next((name for name in fields if getattr(self, name) != getattr(other, name)), None)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, for files and manifests; `of_json` reads them back to an equal spec."""
        plain = asdict(self)
        plain["action"] = {"kind": "box" if isinstance(self.action, Box) else "discrete", **plain["action"]}
        return {name: _plain(value) for name, value in plain.items()}

    @staticmethod
    def of_json(plain: Mapping[str, Any]) -> "TaskSpec":
        """The spec that `to_json` wrote.

        Raises:
            DataError: if a field is missing, unknown or of the wrong kind.
        """
        try:
            fields = dict(plain)
            action = dict(fields.pop("action"))
            kind = action.pop("kind")
            if kind not in ("box", "discrete"):
                raise ValueError(f"action kind {kind!r} is neither 'box' nor 'discrete'")
            if kind == "box":
                box = {name: tuple(float(bound) for bound in bounds) for name, bounds in action.items()}
            names = {name: tuple(str(word) for word in fields.pop(name)) for name in ("cost_names", "cost_units")}
            return TaskSpec(
                env_id=str(fields.pop("env_id")),
                observation_size=int(fields.pop("observation_size")),
                horizon=int(fields.pop("horizon")),
                action=Box(**box) if kind == "box" else Discrete(**action),
                **names,
                **fields,
            )
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"not the description of a task: {error!r}; expected what TaskSpec.to_json writes"
            ) from error


def _plain(value: Any) -> Any:
    """Tuples as lists, inside dictionaries too: what JSON reads back."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return list(value) if isinstance(value, tuple) else value
