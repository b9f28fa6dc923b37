"""Everything that is declared before the first ask and stays fixed for the run; all a ledger needs to reopen it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int

from safehold.core.constraint import Limit
from safehold.core.errors import BadPrior, IntegrityError, NoSeed, UsageError
from safehold.core.target import Target, TargetSpace
from safehold.deploy.prior import OutputPrior, Prior, kernel_name
from safehold.gp.confidence import alpha, split
from safehold.gp.kernels import KERNELS
from safehold.ledger.encoding import canonical, from_plain, to_plain
from safehold.ledger.events import pack_mask, unpack_mask

SeedRule = Literal["attested", "log"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the next target is chosen among the certified ones, and how noise is bounded; none of it can certify.

    `exploration_width`: zeta, the width of a cost interval at which exploring stops, as a share of its limit.
    `exploration_share`: largest share of the horizon spent on exploring. `pending_cap`: asks that may be open at
    once. `episodes_per_ask`: how many episodes the caller means to run for one ask; used only to look ahead.
    `noise_confidence`: one-sided confidence of the upper bound on the episode variance pooled over replicates.
    """

    exploration_width: float = 0.1
    exploration_share: float = 0.5
    pending_cap: int = 1
    episodes_per_ask: int = 20
    noise_confidence: float = 0.9

    def __post_init__(self) -> None:
        if not (0 <= self.exploration_width < np.inf and 0 <= self.exploration_share <= 1):
            raise UsageError(
                f"exploration_width is {self.exploration_width} and exploration_share {self.exploration_share}; "
                "the first is a share of the limit from 0, the second a share of the horizon from 0 to 1"
            )
        if self.pending_cap < 1 or self.episodes_per_ask < 1:
            raise UsageError(
                f"pending_cap is {self.pending_cap} and episodes_per_ask {self.episodes_per_ask}; both are at least 1"
            )
        if not 0.5 <= self.noise_confidence < 1:
            raise UsageError(f"noise_confidence is {self.noise_confidence}; an upper bound needs at least 0.5, below 1")


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """One deployment, as promised before it starts.

    `caps`: for each limited cost the largest value one episode can have, in cost units (for instance the horizon
    times the largest cost of a step); intervals start at [0, cap]. `seed_targets` rest on `seed_rule`: "attested"
    by whoever declares them, or taken from the "log" by a stated rule. `horizon` is the largest number of asks.

    Raises:
        NoSeed: if there is no seed target.
        BadPrior: if the prior alone would certify a candidate that is no seed target, or contradicts its caps.
        UsageError: if anything else does not fit together.
    """

    prior: Prior
    limits: tuple[Limit, ...]
    caps: Mapping[str, float]
    seed_targets: tuple[Target, ...]
    delta: float
    horizon: int
    seed_rule: SeedRule = "attested"
    settings: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        shares = split(self.delta, [limit.name for limit in self.limits])
        _check_limits(self)
        if self.horizon < 0:
            raise UsageError(f"horizon is {self.horizon}; it is the largest number of asks, from 0")
        if not self.seed_targets:
            raise NoSeed(
                "no seed target was declared; name targets that are known to be safe, or take them from the log"
            )
        outside = [self.space.target(int(i)) for i in self.seed_indices if not self.prior.support[i]]
        if outside:
            raise UsageError(
                f"seed target {outside[0]} is outside the support of the log; widen the support or drop it"
            )
        for limit in self.limits:
            _check_prior(self, limit, alpha(1, len(self.space), shares[limit.name]))

    @property
    def space(self) -> TargetSpace:
        """The menu of targets."""
        return self.prior.space

    @cached_property
    def seed_indices(self) -> Int[np.ndarray, "s"]:
        """Candidate numbers of the seed targets, ascending, each once."""
        return np.unique(np.array([self.space.index(target) for target in self.seed_targets], dtype=np.int64))

    @cached_property
    def seeds(self) -> Bool[np.ndarray, "m"]:
        """Whether each candidate is a seed target."""
        mask = np.zeros(len(self.space), dtype=np.bool_)
        mask[self.seed_indices] = True
        return mask

    def alpha(self, n_told: int) -> float:
        """Multiplier of the cost bands in the round after `n_told` measurements, at the least share of delta."""
        shares = split(self.delta, [limit.name for limit in self.limits])
        return alpha(n_told + 1, len(self.space), min(shares.values()))

    def reward_alpha(self, n_told: int) -> float:
        """Multiplier of the reward band; it steers the search and spends none of delta."""
        return alpha(n_told + 1, len(self.space), self.delta)

    def scale(self, limit: Limit) -> float:
        """What a cost interval is measured against: its limit, or its cap where the limit is 0."""
        return limit.value if limit.value > 0 else self.caps[limit.name]

    def to_json(self) -> dict[str, object]:
        """Plain JSON values that `from_json` turns into the same declaration."""
        record = _DeclarationRecord(
            axes={name: tuple(float(value) for value in values) for name, values in self.space.axes.items()},
            axis_order=self.space.names,
            limits=self.limits,
            caps={name: float(cap) for name, cap in self.caps.items()},
            seed_targets=self.seed_targets,
            seed_rule=self.seed_rule,
            delta=float(self.delta),
            horizon=self.horizon,
            settings=self.settings,
            reward=_record(self.prior.reward),
            costs={name: _record(output) for name, output in self.prior.costs.items()},
            support=pack_mask(self.prior.support),
        )
        plain: dict[str, object] = json.loads(canonical(to_plain(record)))
        return plain

    @staticmethod
    def from_json(plain: Mapping[str, object]) -> "Declaration":
        """The declaration that `to_json` wrote.

        Raises:
            IntegrityError: if a field is missing, unknown or of another type.
        """
        record = from_plain(_DeclarationRecord, dict(plain), "declaration")
        if sorted(record.axis_order) != sorted(record.axes):
            raise IntegrityError(f"declaration: axes {sorted(record.axes)} are ordered as {record.axis_order}")
        space = TargetSpace({name: record.axes[name] for name in record.axis_order})
        return Declaration(
            prior=Prior(
                space=space,
                reward=_output(record.reward),
                costs={limit.name: _output(record.costs[limit.name]) for limit in record.limits},
                support=unpack_mask(record.support, len(space)),
            ),
            limits=record.limits,
            caps=record.caps,
            seed_targets=record.seed_targets,
            seed_rule=record.seed_rule,
            delta=record.delta,
            horizon=record.horizon,
            settings=record.settings,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _OutputRecord:
    """An OutputPrior as the ledger keeps it."""

    mean: tuple[float, ...]
    kernel: str
    sd: float
    lengthscales: tuple[float, ...]
    episode_sd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _DeclarationRecord:
    """A Declaration as the ledger keeps it."""

    axes: Mapping[str, tuple[float, ...]]
    axis_order: tuple[str, ...]
    limits: tuple[Limit, ...]
    caps: Mapping[str, float]
    seed_targets: tuple[Target, ...]
    seed_rule: SeedRule
    delta: float
    horizon: int
    settings: Settings
    reward: _OutputRecord
    costs: Mapping[str, _OutputRecord]
    support: str


def _record(output: OutputPrior) -> _OutputRecord:
    """An output's prior for the ledger."""
    return _OutputRecord(
        mean=tuple(float(value) for value in output.mean),
        kernel=kernel_name(output.kernel),
        sd=float(output.kernel.sd),
        lengthscales=tuple(float(scale) for scale in output.kernel.lengthscales),
        episode_sd=float(output.episode_sd),
    )


def _output(record: _OutputRecord) -> OutputPrior:
    """An output's prior from the ledger."""
    if record.kernel not in KERNELS:
        raise IntegrityError(f"declaration: unknown kernel {record.kernel!r}; a newer safehold wrote it")
    return OutputPrior(
        mean=np.array(record.mean, dtype=np.float64),
        kernel=KERNELS[record.kernel](record.sd, record.lengthscales),
        episode_sd=record.episode_sd,
    )


def _check_limits(declaration: Declaration) -> None:
    """Every limit has a prior and a cap, and is of a kind that this certificate covers."""
    for limit in declaration.limits:
        if limit.kind not in ("mean", "peak"):
            raise UsageError(
                f"limit on {limit.name!r} is of kind {limit.kind!r}; this certificate covers mean and peak"
            )
        cap = declaration.caps.get(limit.name)
        if cap is None or not (np.isfinite(cap) and cap > limit.value):
            raise UsageError(
                f"cap of cost {limit.name!r} is {cap}; declare the largest cost of one episode, finite and above its "
                f"limit {limit.value}, for instance horizon times the largest cost of a step"
            )
    names = {limit.name for limit in declaration.limits}
    if names != set(declaration.prior.costs) or names != set(declaration.caps):
        raise UsageError(
            f"limits are on {sorted(names)}, the prior describes {sorted(declaration.prior.costs)} and caps are "
            f"declared for {sorted(declaration.caps)}; the three must agree"
        )


def _check_prior(declaration: Declaration, limit: Limit, first_alpha: float) -> None:
    """Before any measurement nothing but the seed targets may be certified.

    Raises:
        BadPrior: naming a candidate that the prior alone would certify, or whose mean is outside [0, cap].
    """
    output = declaration.prior.costs[limit.name]
    cap = declaration.caps[limit.name]
    if not np.all((output.mean >= 0) & (output.mean <= cap)):
        place = int(np.argmax(~((output.mean >= 0) & (output.mean <= cap))))
        raise BadPrior(
            f"prior mean of cost {limit.name!r} at {declaration.space.target(place)} is {output.mean[place]}, outside "
            f"[0, cap = {cap}]; correct the mean or the cap"
        )
    upper = output.mean + first_alpha * output.process(declaration.space).sd
    certified = (upper <= limit.value) & declaration.prior.support & ~declaration.seeds
    if certified.any():
        place = int(np.argmax(certified))
        raise BadPrior(
            f"before any measurement the prior puts cost {limit.name!r} at {declaration.space.target(place)} under "
            f"{upper[place]:.4g} <= limit {limit.value}; a certificate must rest on evidence. "
            f"Declare a larger dial error (now {output.kernel.sd:.4g})"
        )
