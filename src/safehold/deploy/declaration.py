"""Everything that is declared before the first ask and stays fixed for the run; all a ledger needs to reopen it."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int

from safehold.core.constraint import SPREAD_EPISODES, Limit
from safehold.core.errors import BadPrior, IntegrityError, NoSeed, UsageError
from safehold.core.target import Target, TargetSpace
from safehold.deploy.acquisition import ACQUISITIONS, AcquisitionName
from safehold.deploy.belief import Belief
from safehold.deploy.betting import Capital
from safehold.deploy.certificates.lipschitz import Lipschitz
from safehold.deploy.certificates.log_det import LogDet
from safehold.deploy.certificates.paper import Paper
from safehold.deploy.certificates.risk_ledger import RiskLedger
from safehold.deploy.certificates.rule import Evidence, Rule, Standing, Terms
from safehold.deploy.prior import OutputPrior, Prior
from safehold.deploy.stages import Stage
from safehold.deploy.stages import check as check_stages
from safehold.deploy.watch import Monitors
from safehold.gp.confidence import alpha, split
from safehold.gp.kernels import Kernel, Matern52, Product, SquaredExponential
from safehold.gp.linear import LinearTerms
from safehold.ledger.encoding import canonical, from_plain, to_plain
from safehold.ledger.events import pack_mask, unpack_mask

SeedRule = Literal["attested", "log", "verified"]

RULES: dict[str, type[Paper | RiskLedger | LogDet | Lipschitz]] = {
    Paper.kind: Paper,
    RiskLedger.kind: RiskLedger,
    LogDet.kind: LogDet,
    Lipschitz.kind: Lipschitz,
}
"""Certificate rules by the name they have in a ledger."""

KERNELS: dict[str, type[SquaredExponential | Matern52 | Product]] = {
    "squared_exponential": SquaredExponential,
    "matern52": Matern52,
    "product": Product,
}
"""Kernels by the name they have in a ledger."""

NOISE_SHARE = 0.1
"""Default part of delta that pays for the bounds on the noise, where it is estimated from replicates."""

REWARD_NOISE_MISS = 0.2
"""What the bounds on the reward's noise may be wrong with; it carries no safety and spends none of delta."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the next target is chosen among the certified ones, and when an alarm is raised; none of it can certify.

    `acquisition`: how certified targets are scored. `exploration_width`: zeta, the width of a cost interval at which
    exploring stops, as a share of its limit. `exploration_share`: largest share of the horizon spent on exploring.
    `pending_cap`: asks that may be open at once. `episodes_per_ask`: how many episodes the caller means to run for
    one ask. `approval`: whether a person must approve each trial before it runs.
    """

    acquisition: AcquisitionName = "staged"
    exploration_width: float = 0.1
    exploration_share: float = 0.5
    pending_cap: int = 1
    episodes_per_ask: int = 20
    approval: bool = False

    def __post_init__(self) -> None:
        if self.acquisition not in ACQUISITIONS:
            raise UsageError(f"acquisition {self.acquisition!r} is unknown; use one of {sorted(ACQUISITIONS)}")
        if not (0 <= self.exploration_width < np.inf and 0 <= self.exploration_share <= 1):
            raise UsageError(
                f"exploration_width is {self.exploration_width} and exploration_share {self.exploration_share}; "
                "the first is a share of the limit from 0, the second a share of the horizon from 0 to 1"
            )
        if self.pending_cap < 1 or self.episodes_per_ask < 1:
            raise UsageError(
                f"pending_cap is {self.pending_cap} and episodes_per_ask {self.episodes_per_ask}; both are at least 1"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """How delta is shared out: for the seed targets, for the certificate rules, for the bounds on the noise.

    Rules that are composed by AND do not share theirs: a target passes each of them, so each rule's promise stands on
    the whole part.
    """

    seed: float = 0.0
    certificate: float
    noise: float = 0.0

    def check(self, delta: float, *, noise_known: bool, seeds_verified: bool) -> None:
        """The parts are not negative, cover what needs one, and add up to delta.

        Raises:
            UsageError: naming what does not.
        """
        parts = (self.seed, self.certificate, self.noise)
        if not all(0.0 <= part < 1.0 for part in parts) or not self.certificate > 0.0:
            raise UsageError(f"shares of delta are {self}; each is from 0, the certificate's above 0")
        if not math.isclose(sum(parts), delta, rel_tol=1e-9):
            raise UsageError(f"shares of delta add up to {sum(parts):g}, delta is {delta:g}; one delta is shared out")
        if not noise_known and self.noise == 0.0:
            raise UsageError(
                "the noise is estimated from replicates: its bounds need a share of delta, or declare it known"
            )
        if seeds_verified and self.seed == 0.0:
            raise UsageError("seed targets are verified at a level: declare it as the seeds' share of delta")


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """One deployment, as promised before it starts.

    `caps`: for each limited cost the largest value one episode can have, in cost units (for instance the horizon
    times the largest cost of a step). `seed_targets` rest on `seed_rule`: "attested" by whoever declares them, taken
    from the "log" by a stated rule, or are to be "verified": each counts once its raw episodes have passed a betting
    test at `seed_level`, and nothing is handed out before one has. `horizon` is the largest number of asks. `rules`
    must all certify a target. `shares` of delta: if not said, a tenth for the bounds on the noise where it is
    estimated, the rest for the rules. `monitors` watch that things stay as declared. `stages` of the roll-out, if any,
    give out the rules' share in turn.

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
    rules: tuple[Rule, ...] = (RiskLedger(),)
    shares: Shares | None = None
    settings: Settings = field(default_factory=Settings)
    monitors: Monitors = field(default_factory=Monitors)
    stages: tuple[Stage, ...] = ()

    def __post_init__(self) -> None:
        split(self.delta, [limit.name for limit in self.limits])
        _check_limits(self)
        kinds = [rule.kind for rule in self.rules]
        if not kinds or len(set(kinds)) != len(kinds):
            raise UsageError(f"certificate rules are {kinds}; declare at least one, each once")
        known = self.prior.n_estimated == 0
        if self.shares is None:
            noise = 0.0 if known else NOISE_SHARE * self.delta
            object.__setattr__(self, "shares", Shares(certificate=self.delta - noise, noise=noise))
        self.share.check(self.delta, noise_known=known, seeds_verified=self.seed_rule == "verified")
        for limit in self.limits if self.seed_rule == "verified" else ():
            Capital.of(limit, self.caps[limit.name], "unsafe")  # refuses what no bet can verify
        check_stages(
            self.stages,
            certificate=self.share.certificate,
            episodes_per_ask=self.settings.episodes_per_ask,
            rules=self.rules,
        )
        fewest = min([self.settings.episodes_per_ask, *(stage.episodes_per_ask or np.inf for stage in self.stages)])
        if not known and fewest < 2:
            raise UsageError(
                "the noise is to be estimated from replicates, and one episode an ask has none: run at least 2, or "
                "declare the noise known"
            )
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
        _check_means(self)
        _check_before_any_measurement(self)

    @property
    def share(self) -> Shares:
        """The shares of delta, declared or by default."""
        if self.shares is None:
            raise UsageError("shares of delta are missing")
        return self.shares

    @property
    def space(self) -> TargetSpace:
        """The menu of targets."""
        return self.prior.space

    @cached_property
    def seed_indices(self) -> Int[np.ndarray, "s"]:
        """Candidate numbers of the seed targets, ascending, each once."""
        return np.unique(np.array([self.space.index(target) for target in self.seed_targets], dtype=np.int64))

    @property
    def seed_level(self) -> float:
        """Level of one seed target's test: an equal part of the seeds' share, whichever are tested, and when."""
        return self.share.seed / len(self.seed_indices)

    @cached_property
    def seeds(self) -> Bool[np.ndarray, "m"]:
        """Whether each candidate is a seed target."""
        mask = np.zeros(len(self.space), dtype=np.bool_)
        mask[self.seed_indices] = True
        return mask

    @cached_property
    def tops(self) -> dict[str, float]:
        """Largest value of each limited statistic: mean <= cap, sd <= cap / 2, hence mean + kappa sd."""
        return {limit.name: self.caps[limit.name] * (1.0 + limit.kappa / 2.0) for limit in self.limits}

    @property
    def noise_misses(self) -> dict[str, float | None]:
        """What the bounds on each cost's noise may be wrong with, out of the noise share; None where it is known."""
        return {
            name: None if output.noise_known else self.share.noise / self.prior.n_estimated
            for name, output in self.prior.costs.items()
        }

    @property
    def reward_miss(self) -> float | None:
        """The same of the reward: a part of the noise share where a cost goes with it, else it carries no safety."""
        if self.prior.reward.noise_known:
            return None
        return REWARD_NOISE_MISS if self.prior.coupled is None else self.share.noise / self.prior.n_estimated

    def terms(self, delta: float) -> Terms:
        """What a rule may know, with this much of delta left for the rules."""
        return Terms(
            space=self.space,
            limits=self.limits,
            priors=self.prior.costs,
            support=self.prior.support,
            seeds=self.seeds,
            tops=self.tops,
            delta=delta,
            horizon=self.horizon,
            episodes_per_ask=self.settings.episodes_per_ask,
        )

    def beliefs(self, rounds: Mapping[str, int]) -> dict[str, Belief]:
        """Beliefs about the limited costs before anything is told; `rounds` noise bounds were drawn before."""
        return {
            limit.name: self.prior.belief(limit.name, self.noise_misses[limit.name], rounds.get(limit.name, 0))
            for limit in self.limits
        }

    def alpha(self, n_told: int) -> float:
        """Multiplier of the `paper` cost bands in the round after `n_told` measurements, at each limit's share."""
        shares = split(self.share.certificate, [limit.name for limit in self.limits])
        return alpha(n_told + 1, len(self.space), min(shares.values()))

    def reward_alpha(self, n_told: int) -> float:
        """Multiplier of the reward band; it steers the search and spends none of delta."""
        return alpha(n_told + 1, len(self.space), self.delta)

    def to_json(self) -> dict[str, object]:
        """Plain JSON values that `from_json` turns into the same declaration."""
        record = _DeclarationRecord(
            axes={name: tuple(float(value) for value in values) for name, values in self.space.axes.items()},
            axis_order=self.space.names,
            contexts=self.prior.contexts,
            limits=self.limits,
            caps={name: float(cap) for name, cap in self.caps.items()},
            seed_targets=self.seed_targets,
            seed_rule=self.seed_rule,
            delta=float(self.delta),
            horizon=self.horizon,
            rules=tuple({"rule": rule.kind, **to_plain(rule)} for rule in self.rules),
            shares=self.share,
            settings=self.settings,
            monitors=self.monitors,
            stages=self.stages,
            reward=_record(self.prior.reward),
            costs={name: to_plain(_record(output)) for name, output in self.prior.costs.items()},
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
                costs={limit.name: _cost(record.costs[limit.name], limit.name) for limit in record.limits},
                support=unpack_mask(record.support, len(space)),
                contexts=record.contexts,
            ),
            limits=record.limits,
            caps=record.caps,
            seed_targets=record.seed_targets,
            seed_rule=record.seed_rule,
            delta=record.delta,
            horizon=record.horizon,
            rules=tuple(_rule(rule) for rule in record.rules),
            shares=record.shares,
            settings=record.settings,
            monitors=record.monitors,
            stages=record.stages,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _LinearRecord:
    """LinearTerms as the ledger keeps them."""

    features: tuple[tuple[float, ...], ...]
    covariance: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _OutputRecord:
    """An OutputPrior as the ledger keeps it; `episode_sd` is one number or one a candidate."""

    mean: tuple[float, ...]
    kernels: tuple[Mapping[str, object], ...]
    weights: tuple[float, ...]
    episode_sd: tuple[float, ...]
    noise_known: bool
    linear: _LinearRecord | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _CoupledRecord(_OutputRecord):
    """That of a cost which is believed to go with the reward; what does not go with it has no such field."""

    correlation: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _DeclarationRecord:
    """A Declaration as the ledger keeps it."""

    axes: Mapping[str, tuple[float, ...]]
    axis_order: tuple[str, ...]
    contexts: tuple[str, ...]
    limits: tuple[Limit, ...]
    caps: Mapping[str, float]
    seed_targets: tuple[Target, ...]
    seed_rule: SeedRule
    delta: float
    horizon: int
    rules: tuple[Mapping[str, object], ...]
    shares: Shares
    settings: Settings
    monitors: Monitors
    stages: tuple[Stage, ...]
    reward: _OutputRecord
    costs: Mapping[str, Mapping[str, object]]
    support: str


def kernel_name(kernel: Kernel) -> str:
    """The name of a kernel in the ledger.

    Raises:
        UsageError: if it is not one of ours: a run with it could not be resumed or verified.
    """
    for name, kind in KERNELS.items():
        if type(kernel) is kind:
            return name
    raise UsageError(f"kernel {type(kernel).__name__} has no name in a ledger; use one of {sorted(KERNELS)}")


def _record(output: OutputPrior) -> _OutputRecord:
    """An output's prior for the ledger."""
    linear = output.linear
    record = _OutputRecord(
        mean=tuple(output.mean.tolist()),
        kernels=tuple({"kernel": kernel_name(kernel), **to_plain(kernel)} for kernel in output.kernels),
        weights=output.weights,
        episode_sd=tuple(np.atleast_1d(np.asarray(output.episode_sd, dtype=np.float64)).tolist()),
        noise_known=output.noise_known,
        linear=None
        if linear is None
        else _LinearRecord(
            features=tuple(tuple(row) for row in linear.features.tolist()),
            covariance=tuple(tuple(row) for row in linear.covariance.tolist()),
        ),
    )
    if not output.correlation:
        return record
    return _CoupledRecord(correlation=output.correlation, **{f.name: getattr(record, f.name) for f in fields(record)})


def _cost(plain: Mapping[str, object], name: str) -> OutputPrior:
    """A cost's prior from the ledger."""
    return _output(
        from_plain(_CoupledRecord if "correlation" in plain else _OutputRecord, plain, f"declaration.costs.{name}")
    )


def _output(record: _OutputRecord) -> OutputPrior:
    """An output's prior from the ledger."""
    linear = record.linear
    return OutputPrior(
        mean=np.array(record.mean, dtype=np.float64),
        kernels=tuple(_kernel(kernel) for kernel in record.kernels),
        weights=record.weights,
        episode_sd=record.episode_sd[0] if len(record.episode_sd) == 1 else np.array(record.episode_sd),
        noise_known=record.noise_known,
        linear=None if linear is None else LinearTerms(np.array(linear.features), np.array(linear.covariance)),
        correlation=record.correlation if isinstance(record, _CoupledRecord) else (),
    )


def _kernel(plain: Mapping[str, object]) -> Kernel:
    """A kernel from its name and its fields."""
    fields = dict(plain)
    name = fields.pop("kernel", None)
    if not isinstance(name, str) or name not in KERNELS:
        raise IntegrityError(f"declaration: unknown kernel {name!r}; a newer safehold wrote it")
    return from_plain(KERNELS[name], fields, f"declaration: kernel {name}")


def _rule(plain: Mapping[str, object]) -> Rule:
    """A certificate rule from its name and its fields."""
    fields = dict(plain)
    name = fields.pop("rule", None)
    if not isinstance(name, str) or name not in RULES:
        raise IntegrityError(f"declaration: unknown certificate rule {name!r}; a newer safehold wrote it")
    return from_plain(RULES[name], fields, f"declaration: rule {name}")


def _check_limits(declaration: Declaration) -> None:
    """Every limit has a prior and a cap, and a statistic that the declared episodes can estimate."""
    for limit in declaration.limits:
        cap = declaration.caps.get(limit.name)
        if cap is None or not (np.isfinite(cap) and cap > limit.value):
            raise UsageError(
                f"cap of cost {limit.name!r} is {cap}; declare the largest cost of one episode, finite and above its "
                f"limit {limit.value}, for instance horizon times the largest cost of a step"
            )
        if limit.kappa < 0:
            raise UsageError(
                f"limit on {limit.name!r} is on a chance of {limit.alpha}; a chance limit is certified up to 0.5, "
                "above that a larger spread would count as safer"
            )
        if limit.approximate and declaration.settings.episodes_per_ask < SPREAD_EPISODES:
            raise UsageError(
                f"limit on {limit.name!r} is of kind {limit.kind!r}: it needs the spread of at least {SPREAD_EPISODES} "
                f"episodes an ask, declared are {declaration.settings.episodes_per_ask}"
            )
    names = {limit.name for limit in declaration.limits}
    if names != set(declaration.prior.costs) or names != set(declaration.caps):
        raise UsageError(
            f"limits are on {sorted(names)}, the prior describes {sorted(declaration.prior.costs)} and caps are "
            f"declared for {sorted(declaration.caps)}; the three must agree"
        )


def _check_means(declaration: Declaration) -> None:
    """Prior means are possible values.

    Raises:
        BadPrior: naming a candidate whose mean is not.
    """
    for name, top in declaration.tops.items():
        mean = declaration.prior.costs[name].mean
        possible = (mean >= 0) & (mean <= top)
        if not possible.all():
            place = int(np.argmin(possible))
            raise BadPrior(
                f"prior mean of cost {name!r} at {declaration.space.target(place)} is {mean[place]}, outside "
                f"[0, cap = {top}]; correct the mean or the cap"
            )


def _check_before_any_measurement(declaration: Declaration) -> None:
    """No rule certifies anything but seed targets before any measurement.

    Raises:
        BadPrior: naming the rule and a candidate that the prior alone would certify.
        UsageError: if a rule does not fit the declaration.
    """
    evidence = Evidence(
        limits=declaration.limits,
        costs=declaration.beliefs({}),
        rounds=0,
        asks_left=max(declaration.horizon, 1),
    )
    for rule in declaration.rules:
        standing: Standing = rule.start(declaration.terms(declaration.share.certificate)).told(evidence)
        certified = standing.verdict(evidence).certified & declaration.prior.support & ~declaration.seeds
        if certified.any():
            place = int(np.argmax(certified))
            errors = ", ".join(f"{name} {output.dial_sd:.4g}" for name, output in declaration.prior.costs.items())
            raise BadPrior(
                f"before any measurement the rule {rule.kind!r} would certify {declaration.space.target(place)} on the "
                f"prior alone ({standing.words(evidence, place)}); a certificate must rest on evidence. "
                f"Declare a larger dial error (now {errors})"
            )
