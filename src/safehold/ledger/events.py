"""What can happen in a deployment: one frozen value an event, written to the ledger as canonical JSON.

Event bodies are a stable format: reports, `verify` and other tools read them. A field is only ever added with a
new schema number. Numbers are in environment units; a number that does not exist is None, never NaN or 0.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from safehold.core.certificate import Certificate
from safehold.core.errors import DataError, IntegrityError
from safehold.core.measurement import Measurement
from safehold.core.target import Target

Phase = Literal["seed", "explore", "maximise"]

Level = Literal["normal", "paid_only", "seed", "stop"]
"""The ladder that alarms climb down. normal: new targets may be certified. paid_only: only targets that were asked,
told and are still certified. seed: nothing but the seed targets' premise is trusted. stop: nothing is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The run was declared. First event of every run.

    `declaration` is `safehold.deploy.declaration.Declaration` as JSON: read it with `Declaration.from_json`.
    `policy_digest` names the frozen policy that is asked; `provenance` is what the caller wants kept.
    """

    declaration: Mapping[str, object]
    policy_digest: str | None
    provenance: Mapping[str, object]
    safehold_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Seeded:
    """Where the seed targets come from: `rule` in words; `evidence`, the numbers it rests on."""

    targets: tuple[Target, ...]
    rule: str
    evidence: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedTested:
    """Raw episodes of a declared seed target that is to be verified, in the order they ran; bets on them verify it.

    `source` names the episodes, each source once. They inform the beliefs about costs too. `costs`: None where a failed
    episode left no number.
    """

    target: Target
    index: int
    source: str
    costs: Mapping[str, tuple[float | None, ...]]
    failed: tuple[bool, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """Belief about one output at the asked target, before it ran.

    `mean` and `sd`: posterior of the limited statistic (of the expected return, for the reward), noise excluded.
    `lower`, `upper`: for a cost the rules' interval, a running intersection where they have one, else mean +- alpha
    sd; for the reward mean +- alpha sd. `episode_sd`: the noise of one episode as used by the model, so that the told
    mean of n episodes was predicted with variance sd^2 + episode_sd^2 / n.
    """

    mean: float
    sd: float
    lower: float
    upper: float
    episode_sd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A target was handed out; committed before the caller sees it.

    `number` counts asks from 0, `index` is the candidate's number in the target space, `n_told` the measurements
    that were known. `context` holds the axis values that the world had fixed, None if it fixed none. `phase`: "seed"
    (nothing told yet), "explore" (to certify more) or "maximise" (reward). `alpha`: multiplier of the cost intervals.
    `safe_count` and `safe_mask` (see `unpack_mask`) are the certified set at this ask, in every context;
    `expander_count` is how many of it could grow it (None where that was not needed). What the ask is charged, the
    risks of each limit and what is spent after it are in the certificate.
    """

    trial: str
    number: int
    key: str | None
    context: Mapping[str, float] | None
    target: Target
    index: int
    phase: Phase
    reward: Bound
    costs: Mapping[str, Bound]
    alpha: float
    n_told: int
    safe_count: int
    safe_mask: str
    expander_count: int | None
    certificate: Certificate


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadowed:
    """What would have been asked instead of a trial if the roll-out were not in its shadow stage; None: nothing."""

    trial: str
    target: Target | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Approved:
    """An operator lets a trial run."""

    trial: str
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """An operator does not: no action of the trial was ever taken, and its target is not handed out again."""

    trial: str
    by: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Advanced:
    """The roll-out goes on to its next stage, by somebody's decision."""

    stage: str
    by: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployed:
    """The first action of a trial is about to be taken; from here on an unknown outcome is a potential violation."""

    trial: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """Raw outcomes of a trial, one entry an episode.

    `rewards`, `costs`: returns; None where a failed episode left no number. `lengths` in steps and `seeds` (reset
    seeds) where the caller gave them.
    """

    trial: str
    rewards: tuple[float | None, ...]
    costs: Mapping[str, tuple[float | None, ...]]
    failed: tuple[bool, ...]
    lengths: tuple[int, ...] | None
    seeds: tuple[int, ...] | None

    @property
    def measurement(self) -> Measurement:
        """The same as a measurement: NaN for None."""
        return to_measurement(self.rewards, self.costs, self.failed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Abandoned:
    """A trial will not be told. `deployed` False attests that no action of it was ever taken."""

    trial: str
    reason: str
    deployed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """Episodes from outside this deployment at one of its candidates (`source` says where they come from).

    They inform the model. They never make a seed target, never pay for one, and count against a target if they are
    over a limit.
    """

    target: Target
    index: int
    source: str
    rewards: tuple[float | None, ...]
    costs: Mapping[str, tuple[float | None, ...]]
    failed: tuple[bool, ...]

    @property
    def measurement(self) -> Measurement:
        """The same as a measurement: NaN for None."""
        return to_measurement(self.rewards, self.costs, self.failed)


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitLowered:
    """From now on the limit on this cost is `value`, lower than before; raising one needs a new run.

    What was certified for the old limit is not certified for the new one. `seeds_hold`: whoever lowered it attests
    that the seed targets keep the new limit too.
    """

    limit: str
    value: float
    reason: str
    seeds_hold: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarmed:
    """Something told contradicts what was declared; from now on the run is at `level` of the ladder.

    `monitor` saw it: the name of a certificate rule whose interval of `limit` at `target` became empty (lower >
    upper), or of a statistical monitor (limit, target, lower and upper None where they do not apply).
    """

    reason: str
    level: Level
    monitor: str
    limit: str | None
    target: Target | None
    lower: float | None
    upper: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """A new epoch after an alarm: what was told is forgotten, only what remains of delta may be spent.

    `by` names who resumed the run and thereby attests anew that the seed targets are safe.
    """

    by: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """An ask was answered by holding. `error` is the class name of the refusal, `reason` its message."""

    error: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """The run was ended by its owner; nothing is handed out any more."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """Episodes outside the certified loop, for reports only: they inform no model and no certificate.

    `purpose` says what was evaluated ("recommended", "naive", "baseline", ...).
    """

    purpose: str
    target: Target | None
    rewards: tuple[float | None, ...]
    costs: Mapping[str, tuple[float | None, ...]]
    failed: tuple[bool, ...]
    lengths: tuple[int, ...] | None
    seeds: tuple[int, ...] | None

    @property
    def measurement(self) -> Measurement:
        """The same as a measurement: NaN for None."""
        return to_measurement(self.rewards, self.costs, self.failed)


Event = (
    Started
    | Seeded
    | SeedTested
    | Asked
    | Shadowed
    | Approved
    | Rejected
    | Deployed
    | Told
    | Abandoned
    | Observed
    | LimitLowered
    | Alarmed
    | Resumed
    | Advanced
    | Held
    | Stopped
    | Evaluated
)

KINDS: dict[str, type[Event]] = {
    "started": Started,
    "seeded": Seeded,
    "seed_tested": SeedTested,
    "asked": Asked,
    "shadowed": Shadowed,
    "approved": Approved,
    "rejected": Rejected,
    "deployed": Deployed,
    "told": Told,
    "abandoned": Abandoned,
    "observed": Observed,
    "limit_lowered": LimitLowered,
    "alarmed": Alarmed,
    "resumed": Resumed,
    "advanced": Advanced,
    "held": Held,
    "stopped": Stopped,
    "evaluated": Evaluated,
}
"""Every kind of event by its name in the ledger."""

NAMES: dict[type[Event], str] = {kind: name for name, kind in KINDS.items()}
"""The name in the ledger of every kind of event."""


def nullable(values: np.ndarray) -> tuple[float | None, ...]:
    """Numbers of an array, None for what is not finite."""
    if np.isfinite(values).all():
        return tuple(np.asarray(values, dtype=np.float64).tolist())
    return tuple(float(value) if np.isfinite(value) else None for value in values)


def to_measurement(
    rewards: tuple[float | None, ...], costs: Mapping[str, tuple[float | None, ...]], failed: tuple[bool, ...]
) -> Measurement:
    """A measurement from an event's numbers; NaN for None."""
    return Measurement(
        rewards=as_array(rewards),
        costs={name: as_array(values) for name, values in costs.items()},
        failed=np.array(failed, dtype=np.bool_),
    )


def as_array(values: tuple[float | None, ...]) -> np.ndarray:
    """Float64, NaN for None."""
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def pack_mask(mask: Bool[np.ndarray, "m"]) -> str:
    """A boolean per candidate as base64 of `np.packbits`."""
    return base64.b64encode(np.packbits(mask).tobytes()).decode("ascii")


def unpack_mask(text: str, n_candidates: int) -> Bool[np.ndarray, "m"]:
    """The boolean per candidate that `pack_mask` wrote.

    Raises:
        IntegrityError: if the text is not a mask of this many candidates.
    """
    try:
        packed = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8)
    except ValueError as error:
        raise IntegrityError(f"a mask in the ledger is not base64: {error}; the ledger was altered") from error
    if len(packed) != (n_candidates + 7) // 8:
        raise IntegrityError(f"a mask in the ledger has {len(packed)} bytes for {n_candidates} candidates")
    return np.unpackbits(packed, count=n_candidates).astype(np.bool_)


def told(trial: str, measurement: Measurement, lengths: tuple[int, ...] | None, seeds: tuple[int, ...] | None) -> Told:
    """The event of a measurement.

    Raises:
        DataError: if lengths or seeds are not one an episode.
    """
    _check_one_each(len(measurement), lengths, seeds)
    return Told(
        trial=trial,
        rewards=nullable(measurement.rewards),
        costs={name: nullable(values) for name, values in measurement.costs.items()},
        failed=tuple(bool(mark) for mark in measurement.failed),
        lengths=lengths,
        seeds=seeds,
    )


def observed(target: Target, index: int, source: str, measurement: Measurement) -> Observed:
    """The event of outside episodes at a candidate."""
    return Observed(
        target=target,
        index=index,
        source=source,
        rewards=nullable(measurement.rewards),
        costs={name: nullable(values) for name, values in measurement.costs.items()},
        failed=tuple(bool(mark) for mark in measurement.failed),
    )


def seed_tested(
    target: Target,
    index: int,
    source: str,
    costs: Mapping[str, Float[np.ndarray, "_"]],
    failed: Bool[np.ndarray, "_"],
) -> SeedTested:
    """The event of episodes of a seed target that is to be verified."""
    return SeedTested(
        target=target,
        index=index,
        source=source,
        costs={name: nullable(values) for name, values in costs.items()},
        failed=tuple(bool(mark) for mark in failed),
    )


def evaluated(
    purpose: str,
    target: Target | None,
    measurement: Measurement,
    lengths: tuple[int, ...] | None,
    seeds: tuple[int, ...] | None,
) -> Evaluated:
    """The event of an evaluation outside the certified loop.

    Raises:
        DataError: if lengths or seeds are not one an episode.
    """
    _check_one_each(len(measurement), lengths, seeds)
    return Evaluated(
        purpose=purpose,
        target=target,
        rewards=nullable(measurement.rewards),
        costs={name: nullable(values) for name, values in measurement.costs.items()},
        failed=tuple(bool(mark) for mark in measurement.failed),
        lengths=lengths,
        seeds=seeds,
    )


def _check_one_each(episodes: int, lengths: tuple[int, ...] | None, seeds: tuple[int, ...] | None) -> None:
    """Lengths and seeds, where given, are one an episode."""
    for name, values in (("lengths", lengths), ("seeds", seeds)):
        if values is not None and len(values) != episodes:
            raise DataError(f"{episodes} episodes but {len(values)} {name}; give one an episode, or none at all")
