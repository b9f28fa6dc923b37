"""Re-derives every certificate of a deployment from its ledger alone; shares no code with what handed them out.

SQLite rows in, findings out. It hashes the chain anew, reads the declaration as plain JSON, builds dense kernels and a
dense posterior by one Cholesky factor a round, and says of every ask: was the target certified by what was told before
it, or a seed on its premise; was it charged right; does the sum stay within the share of delta. Which certified target
was chosen, the words of the promise, and the alarms of statistical monitors bear on no certificate and are not looked
at here: `safehold.deploy.verify` derives those, with the optimiser's own code. What this file does not understand it
names, in `Audit.not_checked`, and never passes.
"""

import base64
import hashlib
import json
import math
import os
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from scipy.linalg import cholesky, solve_triangular
from scipy.special import ndtr
from scipy.stats import chi2

from safehold.core.errors import IntegrityError

Array = np.ndarray
"""Of float64 or bool; shapes are in the docstrings: j members, n told, p places looked at, m candidates, d axes."""

SLACK = 1e-8
"""Largest difference, in probability or in shares of a cost's largest value, that is put down to rounding."""

REVOKED = NormalDist().cdf(-2.0)
LARGEST_PRICE = 0.02
EVEN_SHARES = 3.0
NOISE_STEP = 1.1
WORK = 2e10
"""Multiplications up to which every candidate is looked at, not only seed targets and those asked."""

ONE_EPOCH = {"paper", "log_det"}
LADDER = ("normal", "paid_only", "seed", "stop")
OPEN = ("planned", "running")

_FIELDS = {
    "declaration": "axes axis_order contexts limits caps seed_targets seed_rule delta horizon rules shares settings "
    "monitors stages reward costs support",
    "settings": "acquisition exploration_width exploration_share pending_cap episodes_per_ask approval",
    "shares": "seed certificate noise",
    "prior": "mean kernels weights episode_sd noise_known linear correlation",
    "limit": "name value kind alpha",
    "paper": "rule",
    "risk_ledger": "rule inflate",
    "log_det": "rule norm_bound episode_constant",
    "lipschitz": "rule constants noise_bound",
    "certificate": "kind basis promise limits risks upper charge spent_after delta shares n_told premises evidence",
    "started": "declaration policy_digest provenance safehold_version",
    "seeded": "targets rule evidence",
    "stage": "name share episodes_per_ask new_targets",
    "seed_tested": "target index source costs failed",
    "shadowed": "trial target",
    "approved": "trial by",
    "rejected": "trial by reason",
    "advanced": "stage by reason",
    "asked": "trial number key context target index phase reward costs alpha n_told safe_count safe_mask "
    "expander_count certificate",
    "deployed": "trial",
    "told": "trial rewards costs failed lengths seeds",
    "abandoned": "trial reason deployed",
    "observed": "target index source rewards costs failed",
    "limit_lowered": "limit value reason seeds_hold",
    "alarmed": "reason level monitor limit target lower upper",
    "resumed": "by reason",
    "held": "error reason",
    "stopped": "reason",
    "evaluated": "purpose target rewards costs failed lengths seeds",
}
"""Everything that is understood, with its fields; a ledger that holds more is named as not checked."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that does not follow from what the ledger says before it: at event `seq`."""

    seq: int
    what: str
    recorded: str
    derived: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditedAsk:
    """One ask as derived here. `risk` before it ran (None without a rule that has one), `upper` by the bounding rules.

    `basis`: "rules", "premise" for a seed target on its premise, or "none": it should not have been handed out.
    """

    seq: int
    trial: str
    target: tuple[float, ...]
    basis: str
    risk: float | None
    upper: Mapping[str, float] | None
    charge: float
    spent_after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What was derived. `head`: number and hash of the last event; keep it elsewhere to notice a lost tail later.

    `charged`: all charges, out of `share`, the rules' part of delta. `complete`: every candidate was looked at, not
    only seed targets and those asked. `backwards`: events that the clock says were before the one before them.
    """

    events: int
    head: tuple[int, str]
    asks: tuple[AuditedAsk, ...]
    charged: float
    share: float
    delta: float
    complete: bool
    backwards: tuple[int, ...]
    findings: tuple[Finding, ...]
    not_checked: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Everything was checked, and follows."""
        return not self.findings and not self.not_checked


def audit(run: Path, head: tuple[int, str] | None = None) -> Audit:
    """Derives every certificate in a run directory anew; `head` is an earlier `Audit.head` that was kept elsewhere.

    Raises:
        IntegrityError: if the file is no ledger, a row was changed, or the ledger does not reach a head.
    """
    rows = _rows(run / "ledger.sqlite")
    last = _check_chain(run, rows)
    for where, known in (("its head file", _head_file(run)), ("the head that was kept elsewhere", head)):
        if known is not None and (known[0] >= len(rows) or (known[0] >= 0 and rows[known[0]][6] != known[1])):
            raise IntegrityError(
                f"{run}: the ledger ends at event {last[0]} and does not hold event {known[0]} with the hash "
                f"{known[1][:12]}... of {where}: its tail is lost, or it was rewritten"
            )
    bodies = [(int(row[0]), str(row[1]), json.loads(row[4])) for row in rows[1:]]
    if not bodies or bodies[0][1] != "started":
        raise IntegrityError(f"{run}: this ledger does not begin with a started deployment; it is another kind of run")
    fold: _Fold | None = None
    try:
        fold = _Fold(bodies[0][2]["declaration"], bodies)
        for seq, kind, body in bodies:
            fold.event(seq, kind, body)
    except (KeyError, TypeError, ValueError, IndexError, ArithmeticError, np.linalg.LinAlgError) as error:
        raise IntegrityError(
            f"{run}: event {fold.seq if fold else 1} cannot be made sense of ({type(error).__name__}: {error}); "
            "the ledger was altered"
        ) from error
    return Audit(
        events=len(rows) - 1,
        head=last,
        asks=tuple(fold.asks),
        charged=fold.spent_before + fold.spent,
        share=fold.share,
        delta=float(fold.declared["delta"]),
        complete=len(fold.places) == fold.m,
        backwards=tuple(int(b[0]) for a, b in pairwise(rows[1:]) if b[7] < a[7]),
        findings=tuple(fold.findings),
        not_checked=tuple(fold.not_checked),
    )


# The file --------------------------------------------------------------------------------------------------------


def _rows(path: Path) -> list[tuple[Any, ...]]:
    """Every row of the table of events, in order."""
    alone = not path.with_name(path.name + "-wal").exists() and not os.access(path.parent, os.W_OK)
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' * alone}", uri=True)
        try:
            return connection.execute(
                "SELECT seq, kind, trial, key, body, prev_hash, hash, wall_time, seal FROM event ORDER BY seq"
            ).fetchall()
        finally:
            connection.close()
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise IntegrityError(f"{path}: {error}; it is not a ledger, or is damaged") from error


def _check_chain(run: Path, rows: Sequence[tuple[Any, ...]]) -> tuple[int, str]:
    """Numbers without a gap, hashes and links right, bodies in their one spelling; number and hash of the last row."""
    before = "0" * 64
    for place, (seq, kind, trial, key, body, prev_hash, hash_, wall_time, seal) in enumerate(rows):
        try:
            right, sealed = _sum([seq, kind, trial, key, body, prev_hash]), _sum([hash_, wall_time])
            spelt = _spelt(json.loads(body, parse_constant=float)) == body
        except (TypeError, ValueError, RecursionError):
            right, sealed, spelt = "", "", False
        if seq != place or hash_ != right or prev_hash != before or seal != sealed or not spelt:
            raise IntegrityError(f"{run}: the hash chain breaks at event {seq}: a row was edited, deleted or reordered")
        before = right
    if not rows or rows[0][1] != "genesis" or json.loads(rows[0][4]).get("format") != "safehold-ledger":
        raise IntegrityError(f"{run}: no genesis row; it is not a ledger, or was emptied")
    return len(rows) - 1, before


def _spelt(plain: object) -> str:
    """JSON with sorted keys, without blanks, ASCII, finite."""
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _sum(plain: object) -> str:
    """SHA-256 of the spelling."""
    return hashlib.sha256(_spelt(plain).encode("ascii")).hexdigest()


def _head_file(run: Path) -> tuple[int, str]:
    """Number and hash in the head file beside the database."""
    try:
        plain = json.loads((run / "ledger.head").read_text(encoding="ascii"))
        return int(plain["seq"]), str(plain["hash"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"{run / 'ledger.head'} cannot be read ({error}); a lost tail would go unnoticed"
        ) from error


# Beliefs ---------------------------------------------------------------------------------------------------------


def correlations(kernel: Mapping[str, Any], a: Array, b: Array) -> Array:
    """Prior covariance (n, p) of the points a (n, d) with b (p, d)."""
    apart = [np.abs(a[:, None, axis] - b[None, :, axis]) for axis in range(a.shape[1])]
    if kernel["kernel"] == "product":
        total = np.ones((len(a), len(b)))
        for factor, distance in zip(kernel["factors"], apart, strict=True):
            total = total * _factor(factor["kind"], factor["scale"], distance)
    else:
        r = np.sqrt(sum((d / scale) ** 2 for d, scale in zip(apart, kernel["lengthscales"], strict=True)))
        total = _factor(kernel["kernel"], 1.0, r)
    return np.asarray(kernel["sd"] ** 2 * total)


def _factor(kind: str, scale: float, distance: Array) -> Array:
    """Correlation at these distances."""
    if kind == "categorical":
        return np.where(distance == 0.0, 1.0, scale)
    r = distance / scale
    if kind == "squared_exponential":
        return np.asarray(np.exp(-(r**2) / 2))
    if kind == "matern32":
        return np.asarray((1 + math.sqrt(3) * r) * np.exp(-math.sqrt(3) * r))
    if kind == "matern52":
        return np.asarray((1 + math.sqrt(5) * r + 5 * r**2 / 3) * np.exp(-math.sqrt(5) * r))
    raise ValueError(f"unknown kernel {kind!r}")


@dataclass(frozen=True, slots=True)
class _Told:
    """One told statistic; `extra` variance where something in it is unknown."""

    index: int
    value: float
    episodes: int
    factor: float
    extra: float


@dataclass
class _Noise:
    """How one output's episodes scatter: its declared shape, scaled by a bound from all replicates."""

    floor: Array
    miss: float | None
    rounds: int = 0
    squares: float = 0.0
    degrees: int = 0
    scale: float = 1.0

    @staticmethod
    def of(prior: Mapping[str, Any], m: int, miss: float | None, rounds: int) -> "_Noise":
        """Before any replicate; `floor` (m,) is the declared variance of one episode."""
        return _Noise(np.broadcast_to(np.array(prior["episode_sd"]) ** 2, (m,)), miss, rounds)

    def tell(self, index: int, replicates: Array) -> None:
        """Some more, and the bound after them: squares / chi2-quantile, rounded up to a power of 1.1."""
        self.rounds += 1
        if len(replicates) > 1:
            self.squares += float(np.var(replicates) * len(replicates) / self.floor[index])
            self.degrees += len(replicates) - 1
        if self.miss is not None:
            self.scale = 1.0
            if self.degrees:
                bound = self.squares / float(chi2.ppf(self.miss / (self.rounds * (self.rounds + 1)), self.degrees))
                while self.scale < bound * (1 - 1e-12):
                    self.scale *= NOISE_STEP


@dataclass
class _Output:
    """Belief about one limited cost.

    Of a cost that goes with the reward, mean rewards are told as well. A reward times `gain` is in units of the cost;
    it has the cost's prior covariance with other rewards, and |correlation| of it with costs, one a kernel.
    """

    prior: Mapping[str, Any]
    points: Array
    scatter: _Noise
    reward: Mapping[str, Any]
    reward_scatter: _Noise
    told: list[_Told] = field(default_factory=list)
    measured: list[_Told] = field(default_factory=list)
    """The same of the episodes that did not fail alone: what weights rest on."""
    rewards: list[_Told] = field(default_factory=list)

    @property
    def gain(self) -> float:
        """Dial error of the cost over that of the reward, negative where the correlation is."""
        cost, reward = (
            math.sqrt(sum(w * kernel["sd"] ** 2 for w, kernel in zip(p["weights"], p["kernels"], strict=True)))
            for p in (self.prior, self.reward)
        )
        return (-1 if min(self.prior["correlation"]) < 0 else 1) * cost / reward

    def posterior(self, number: int, places: Array, noise: Array) -> tuple[Array, Array, float]:
        """Mean and standard deviation (p,) under kernel `number` by the costs, and ln det(I + S^-1/2 K S^-1/2)."""
        index = np.array([t.index for t in self.told], dtype=np.int64)
        data = index, np.array([t.value for t in self.told]), noise
        mean, sd, factor, _ = self._condition(number, places, *data, np.zeros(len(self.told), dtype=np.bool_))
        return mean, sd, float(2 * np.sum(np.log(np.diag(factor))) - np.sum(np.log(noise)))

    def mixture(self, places: Array, *, assumed: bool = True) -> tuple[Array, Array, Array]:
        """Means and standard deviations (j, p) of the members, and their weights (j,) by marginal likelihood.

        With what was assumed of failed episodes, or by what was measured alone, which the weights always rest on.
        """
        measured = self._data(self.measured)
        believed = self._data(self.told) if assumed and any(t.extra > 0.0 for t in self.told) else None
        means, sds, logs = [], [], []
        for number, weight in enumerate(self.prior["weights"]):
            mean, sd, factor, residual = self._condition(number, places, *measured)
            if believed is not None:
                mean, sd, _, _ = self._condition(number, places, *believed)
            means.append(mean)
            sds.append(sd)
            logs.append(math.log(weight) - float(residual @ residual) / 2 - float(np.sum(np.log(np.diag(factor)))))
        weights = np.exp(np.array(logs) - max(logs))
        return np.array(means), np.array(sds), weights / weights.sum()

    def _data(self, told: Sequence[_Told]) -> tuple[Array, Array, Array, Array]:
        """Candidates, values and noise variances of costs, and of the rewards beside them; which are rewards."""
        both = [*told, *self.rewards]
        is_reward = np.arange(len(both)) >= len(told)
        units = np.where(is_reward, self.gain, 1.0) if self.rewards else np.ones(len(told))
        noises = [self.scatter] * len(told) + [self.reward_scatter] * len(self.rewards)
        variances = [n.scale * n.floor[t.index] * t.factor for n, t in zip(noises, both, strict=True)]
        return (
            np.array([t.index for t in both], dtype=np.int64),
            units * np.array([t.value for t in both]),
            units**2 * np.array(variances) + np.array([t.extra for t in both]),
            is_reward,
        )

    def _condition(
        self, number: int, places: Array, index: Array, value: Array, noise: Array, is_reward: Array
    ) -> tuple[Array, Array, Array, Array]:
        """Posterior mean and deviation of the cost at the places, the Cholesky factor, and L^-1 (y - prior mean)."""
        prior = np.array(self.prior["mean"])
        expected = prior[index]
        among, beside = np.ones((len(index), len(index))), np.ones((len(index), 1))
        if is_reward.any():
            expected = np.where(is_reward, self.gain * np.array(self.reward["mean"])[index], expected)
            rho = abs(self.prior["correlation"][number])
            among = np.where(is_reward[:, None] == is_reward[None, :], 1.0, rho)
            beside = np.where(is_reward, rho, 1.0)[:, None]
        factor = cholesky(self._covariance(number, index, index) * among + np.diag(noise), lower=True)
        residual = solve_triangular(factor, value - expected, lower=True)
        across = solve_triangular(factor, self._covariance(number, index, places) * beside, lower=True)
        own = np.full(len(places), self.prior["kernels"][number]["sd"] ** 2)
        if (linear := self.prior["linear"]) is not None:
            features = np.array(linear["features"])[places]
            own = own + np.sum((features @ np.array(linear["covariance"])) * features, axis=1)
        variance = own - np.sum(across**2, axis=0)
        return prior[places] + residual @ across, np.sqrt(np.maximum(variance, 0.0)), factor, residual

    def _covariance(self, number: int, a: Array, b: Array) -> Array:
        """Prior covariance of candidates with candidates, the uncertain coefficients of the mean included."""
        total = correlations(self.prior["kernels"][number], self.points[a], self.points[b])
        if (linear := self.prior["linear"]) is not None:
            features = np.array(linear["features"])
            total = total + features[a] @ np.array(linear["covariance"]) @ features[b].T
        return total


def kappa(limit: Mapping[str, Any]) -> float:
    """Weight of the standard deviation in what is limited; 0 for mean and peak."""
    if limit["kind"] in ("mean", "peak"):
        return 0.0
    quantile = NormalDist().inv_cdf(1 - limit["alpha"])
    return {"chance": quantile, "cvar": NormalDist().pdf(quantile) / limit["alpha"]}[limit["kind"]]


def _unbias(n: int) -> float:
    """E[s] / sd of n normal values."""
    return math.sqrt(2 / (n - 1)) * math.exp(math.lgamma(n / 2) - math.lgamma((n - 1) / 2))


def _relative_variance(limit: Mapping[str, Any], n: int) -> float:
    """Variance of the statistic of n episodes over that of one."""
    return 1 / n + (kappa(limit) ** 2 * (1 / _unbias(n) ** 2 - 1) if kappa(limit) else 0.0)


def statistic(limit: Mapping[str, Any], costs: Array) -> float:
    """Mean + kappa times the unbiased standard deviation; inf where a spread is needed and there is none."""
    weight = kappa(limit)
    if weight == 0.0:
        return float(np.mean(costs))
    return float(np.mean(costs) + weight * np.std(costs, ddof=1) / _unbias(len(costs))) if len(costs) > 1 else math.inf


def betting_peak(limit: Mapping[str, Any], cap: float, bodies: Sequence[Mapping[str, Any]]) -> float:
    """Largest capital of bets that the mean cost is under the limit, over these episodes; 0 if one is above the cap.

    Sixteen stakes f = 2^(-k / 2), started in proportion to f; each episode multiplies by 1 + f (limit - x) / (cap -
    limit), a failed or missing one counts as the cap; a chance limit bets on the share of episodes above it.
    """
    costs = np.array([np.nan if c is None else c for body in bodies for c in body["costs"][limit["name"]]], dtype=float)
    missing = ~np.isfinite(costs) | np.array([mark for body in bodies for mark in body["failed"]], dtype=np.bool_)
    value = float(limit["value"])
    if limit["kind"] == "chance":
        costs, value, cap = np.where(costs <= limit["value"], 0.0, 1.0), float(limit["alpha"]), 1.0
    elif limit["kind"] == "cvar":
        raise ValueError("a cvar limit is not verified by betting")
    if (costs[~missing] > cap).any():
        return 0.0
    stakes = 2.0 ** (-np.arange(16) / 2)
    gains = 1 + stakes * (value - np.where(missing, cap, costs))[:, None] / (cap - value)
    capitals = np.exp(np.cumsum(np.log(np.maximum(gains, 1e-300)), axis=0)) @ (stakes / stakes.sum())
    return float(np.max(capitals, initial=1.0))


# The fold --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Verdict:
    """Of every place that is looked at; (p,) each."""

    safe: Array
    by_rules: Array
    by_premise: Array
    price: Array
    risk: Array | None
    cap: float | None


class _Fold:
    """What follows from the events so far."""

    def __init__(self, declared: Mapping[str, Any], bodies: Sequence[tuple[int, str, Mapping[str, Any]]]) -> None:
        self.declared = declared
        self.findings: list[Finding] = []
        self.not_checked: list[str] = []
        self.asks: list[AuditedAsk] = []
        self.seq = 0
        axes = [np.array(declared["axes"][name]) for name in declared["axis_order"]]
        self.points = np.stack([grid.ravel() for grid in np.meshgrid(*axes, indexing="ij")], axis=1)
        self.m = len(self.points)
        bits = np.frombuffer(base64.b64decode(declared["support"]), dtype=np.uint8)
        self.support = np.unpackbits(bits, count=self.m).astype(np.bool_)
        self.limits = {limit["name"]: dict(limit) for limit in declared["limits"]}
        self.rules = {str(rule["rule"]): rule for rule in declared["rules"]}
        self.share = float(declared["shares"]["certificate"])
        self.tops = {name: declared["caps"][name] * (1 + kappa(limit) / 2) for name, limit in self.limits.items()}
        seeds = {self._index(target) for target in declared["seed_targets"]}
        named = seeds | {body["index"] for _, kind, body in bodies if kind in ("asked", "observed")}
        told = sum(kind in ("told", "observed") for _, kind, _ in bodies)
        told *= 1 + any("correlation" in output for output in declared["costs"].values())
        members = sum(len(output["kernels"]) for output in declared["costs"].values())
        everything = told**3 * self.m * members <= WORK
        self.places = np.arange(self.m) if everything else np.array(sorted(named), dtype=np.int64)
        self.at = {int(index): place for place, index in enumerate(self.places)}
        self.seeds = np.isin(self.places, sorted(seeds))
        self.trials: dict[str, tuple[int, int, str]] = {}  # index, number, state
        self.order: list[tuple[int, int, str]] = []  # index, number, basis of every ask
        self.tests: dict[str, tuple[int, Mapping[str, Any]]] = {}
        self.stage, self.stage_start = 0, 0
        self.approved: set[str] = set()
        self.rejected: set[int] = set()
        self.seeds_hold, self.stopped, self.alarm, self.level = True, False, False, "normal"
        self.alarm_due = ""
        self.rounds, self.spent, self.spent_before, self.epoch_start = 0, 0.0, 0.0, 0
        self.outputs: dict[str, _Output] = {}
        self.reward_scatter: _Noise | None = None
        self._understood("declaration", "declaration", declared)
        self._understood("settings", "settings", declared["settings"])
        for stage in declared["stages"]:
            self._understood("stage", f"stage {stage['name']}", stage)
        self._understood("shares", "shares", declared["shares"])
        for rule in declared["rules"]:
            self._understood(rule["rule"], f"rule {rule['rule']}", rule)
        for name, output in declared["costs"].items():
            self._understood("prior", f"prior of {name}", output)
            rhos = output.get("correlation", [0.0])
            if not all(-1 < rho < 1 for rho in rhos) or min(rhos) < 0 < max(rhos):
                self.not_checked.append(f"prior of {name}: correlations beyond -1 and 1, or of both signs")
            if "correlation" in output and (output["linear"] or declared["reward"]["linear"]):
                self.not_checked.append(f"prior of {name}: a correlation beside linear terms")
        for name, limit in self.limits.items():
            self._understood("limit", f"limit on {name}", limit)
        self._epoch(self.share)

    def event(self, seq: int, kind: str, body: Mapping[str, Any]) -> None:
        """One more event."""
        self.seq = seq
        if not self._understood(kind, f"event {seq} ({kind})", body):
            return
        if self.alarm_due and not (kind == "alarmed" and body["level"] in ("seed", "stop")):
            self._find("alarm", "none", self.alarm_due)
        self.alarm_due = ""
        getattr(self, f"_{kind}")(body)

    def _understood(self, kind: str, where: str, plain: Mapping[str, Any]) -> bool:
        """Whether this kind of thing is known at all; what is not understood of it is named."""
        if kind not in _FIELDS:
            self.not_checked.append(f"{where.removesuffix(f' ({kind})')}: of unknown kind {kind!r}")
            return False
        strange = set(plain) - set(_FIELDS[kind].split())
        if strange:
            self.not_checked.append(f"{where}: {', '.join(sorted(strange))}")
        return True

    def _find(self, what: str, recorded: object, derived: object) -> None:
        """One finding."""
        self.findings.append(Finding(self.seq, what, str(recorded), str(derived)))

    def _same(self, what: str, recorded: Any, derived: Any, scale: float = 1.0) -> None:
        """A finding unless both are the same, numbers up to rounding."""
        if isinstance(recorded, float | int) and isinstance(derived, float):
            same = math.isclose(recorded, derived, rel_tol=1e-6, abs_tol=SLACK * scale)
        else:
            same = recorded == derived
        if not same:
            self._find(what, recorded, derived)

    def _index(self, target: Sequence[float]) -> int:
        """Number of a candidate; -1 if it is none."""
        found = np.flatnonzero((self.points == np.array(target)).all(axis=1))
        return int(found[0]) if len(found) else -1

    def _epoch(self, left: float) -> None:
        """Nothing told, nothing paid, intervals from 0 to the largest value; noise bounds go on being drawn."""
        costs, reward = self.declared["costs"], self.declared["reward"]
        coupled = any("correlation" in output for output in costs.values())
        unknown = sum(not p["noise_known"] for p in [*costs.values(), *([reward] if coupled else [])])

        def noise(prior: Mapping[str, Any], before: _Noise | None) -> _Noise:
            miss = None if prior["noise_known"] else self.declared["shares"]["noise"] / max(unknown, 1)
            return _Noise.of(prior, self.m, miss, 0 if before is None else before.rounds)

        self.reward_scatter = noise(reward, self.reward_scatter)
        for name in self.limits:
            scatter = noise(costs[name], self.outputs[name].scatter if name in self.outputs else None)
            self.outputs[name] = _Output(costs[name], self.points, scatter, reward, self.reward_scatter)
        self.left_at_start, self.spent, self.rounds = left, 0.0, 0
        self.epoch_start = len(self.trials)
        self.paid = np.zeros(len(self.places), dtype=np.bool_)
        self.own: dict[int, list[Mapping[str, Any]]] = {}
        self.outside: dict[int, list[Mapping[str, Any]]] = {}
        start = {name: (np.zeros(len(self.places)), np.full(len(self.places), top)) for name, top in self.tops.items()}
        self.bands = {kind: dict(start) for kind in self.rules if kind != "risk_ledger"}
        self.present: dict[str, dict[str, Array]] = {}
        self._believe()

    def _believe(self) -> None:
        """Posterior of every output after all that was told, and every band intersected with that of this round."""
        self.mixtures = {name: output.mixture(self.places) for name, output in self.outputs.items()}
        self.measured = {
            name: output.mixture(self.places, assumed=False) if any(t.extra > 0.0 for t in output.told) else mixture
            for (name, output), mixture in zip(self.outputs.items(), self.mixtures.values(), strict=True)
        }
        for kind, bands in self.bands.items():
            frozen = any((low > high).any() for low, high in bands.values())
            self.present[kind] = {}
            for name, (low, high) in bands.items():
                lower, upper = self._interval(kind, name)
                self.present[kind][name] = upper
                if not frozen:
                    bands[name] = (np.maximum(low, lower), np.minimum(high, upper))

    def _interval(self, kind: str, name: str) -> tuple[Array, Array]:
        """Interval (p,), (p,) of one limited cost in this round by one rule."""
        output, rule, part = self.outputs[name], self.rules[kind], self.left_at_start / len(self.limits)
        if kind == "paper":
            beliefs = [(means, sds) for means, sds, _ in (self.mixtures[name], self.measured[name])]
            means, sds = (np.concatenate(arrays) for arrays in zip(*beliefs, strict=True))
            alpha = math.sqrt(2 * math.log(self.m * (self.rounds + 1) ** 2 * math.pi**2 / (6 * part)))
            return np.min(means - alpha * sds, axis=0), np.max(means + alpha * sds, axis=0)
        if kind == "log_det":
            noise = np.array([rule["episode_constant"][name] ** 2 * t.factor for t in output.told])
            mean, sd, log_det = output.posterior(0, self.places, noise)
            unknown = math.sqrt(np.sum(4 * np.array([t.extra for t in output.told]) / noise))
            width = (rule["norm_bound"][name] + math.sqrt(log_det + 2 * math.log(1 / part)) + unknown) * sd
            return mean - width, mean + width
        if kind != "lipschitz":
            raise ValueError(f"unknown rule {kind!r}")
        low, high = np.zeros(len(self.places)), np.full(len(self.places), self.tops[name])
        error, here = rule["noise_bound"][name], self.points[self.places]
        for t in output.told:
            if t.extra == 0.0 and t.episodes >= self.declared["settings"]["episodes_per_ask"]:
                apart = np.abs(here - self.points[t.index])
                slopes = np.array([math.inf if slope is None else slope for slope in rule["constants"][name]])
                far = np.sum(np.where(apart > 0, apart, 1.0) * np.where(apart > 0, slopes, 0.0), axis=1)
                low, high = np.maximum(low, t.value - error - far), np.minimum(high, t.value + error + far)
        return low, high

    def _risks(self, name: str, inflate: float) -> Array:
        """P(cost > limit | told) (p,) under the mixture, every deviation widened under the limit.

        The larger of those with what was assumed of failed episodes, and by what was measured alone.
        """
        risks = []
        for means, sds, weights in (self.mixtures[name], self.measured[name]):
            excess = means - self.limits[name]["value"]
            with np.errstate(divide="ignore", invalid="ignore"):
                standard = np.where(excess > 0, excess / sds, excess / (inflate * sds))
            risks.append(weights @ ndtr(np.where(np.isnan(standard), np.inf, standard)))
        return np.asarray(np.maximum(*risks))

    def _verdict(self, slack: float) -> _Verdict:
        """What may be handed out: up to rounding with slack > 0, for certain with slack < 0."""
        certified = self.support[self.places].copy()
        over = self._measured_over(slack)
        price, risk, cap = np.zeros(len(certified)), None, None
        for kind, rule in self.rules.items():
            if kind == "risk_ledger":
                risk = np.zeros(len(certified))
                for name in self.limits:
                    risk = risk + (1 - risk) * self._risks(name, rule["inflate"])
                left = max(self.left_at_start - self.spent, 0.0)
                asked = sum(state != "aborted" for _, _, state in self.trials.values())
                cap = min(EVEN_SHARES * left / max(self.declared["horizon"] - asked, 1), left, LARGEST_PRICE)
                certified &= np.where(self.paid, risk <= REVOKED + slack, risk <= cap + slack)
                over |= ~(risk <= 1 - REVOKED + slack)
                price = np.where(self.paid, 0.0, risk)
                continue
            for name, (low, high) in self.bands[kind].items():
                most = self.limits[name]["value"] + slack * self.tops[name]
                certified &= (high <= most) & (self.present[kind][name] <= most)
                over |= ~(low <= most)
        revoked = over | self._contradicted()
        seeds = self._established()
        refuted = bool((over & seeds).any())
        by_rules = certified & ~revoked
        by_premise = seeds & ~revoked & (self.seeds_hold and not refuted)
        price = np.where(by_premise, 0.0, price)
        accepted = ~np.isin(self.places, sorted(self.rejected))
        by_rules, by_premise = by_rules & accepted & self._in_stage(price, slack), by_premise & accepted
        if self.level == "paid_only" or self._dear_failure(slack):
            by_rules &= np.isin(self.places, sorted(self.own)) & (price == 0.0)
        elif self.level != "normal":
            by_rules = np.zeros_like(by_rules)
            by_premise = by_premise & (self.level == "seed")
        return _Verdict(by_rules | by_premise, by_rules, by_premise, price, risk, cap)

    def _established(self) -> Array:
        """Seed targets that may be relied on; where they are to be verified, those whose bets came to 1 / level."""
        if self.declared["seed_rule"] != "verified":
            return self.seeds
        level = self.declared["shares"]["seed"] / max(int(self.seeds.sum()), 1)
        mask = np.zeros(len(self.places), dtype=np.bool_)
        for tested in {index for index, _ in self.tests.values()}:
            bodies = [body for index, body in self.tests.values() if index == tested]
            mask[self.at[tested]] = all(
                betting_peak(limit, self.declared["caps"][limit["name"]], bodies) >= 1 / level * (1 - SLACK)
                for limit in self.declared["limits"]
            )
        return mask & self.seeds

    def _in_stage(self, price: Array, slack: float) -> Array:
        """What the stage of the roll-out allows: so many new targets, and no more spent than the shares so far."""
        stages = self.declared["stages"]
        if not stages or stages[self.stage]["name"] == "full":
            return np.ones(len(self.places), dtype=np.bool_)
        allowed = price <= sum(s["share"] for s in stages[: self.stage + 1]) - self.spent_before - self.spent + slack
        before = {index for index, number, _ in self.order if number < self.stage_start}
        new = {index for index, _, basis in self.order if basis == "rules"} - before
        if len(new) >= stages[self.stage]["new_targets"]:
            allowed &= np.isin(self.places, [index for index, number, _ in self.order if number >= self.epoch_start])
        return allowed

    def _measured_over(self, slack: float) -> Array:
        """Where the statistic of all episodes of a place is not at or under a limit; failed ones count from below."""
        mask = np.zeros(len(self.places), dtype=np.bool_)
        for told in (self.own, self.outside):
            for index, bodies in told.items():
                mask[self.at[index]] |= self._over(bodies, slack)
        return mask

    def _over(self, bodies: Sequence[Mapping[str, Any]], slack: float) -> bool:
        """Whether these episodes' statistic is not at or under every limit."""
        for name, limit in self.limits.items():
            costs = np.array([c or 0.0 for body in bodies for c in body["costs"][name]], dtype=np.float64)
            if not statistic(limit, costs) <= limit["value"] + slack * self.tops[name]:
                return True
        return False

    def _dear_failure(self, slack: float) -> bool:
        """Whether what was recorded of a target with failed episodes puts it over a limit: then nothing new is paid."""
        told = [*self.own.values(), *self.outside.values()]
        return any(any(any(body["failed"]) for body in bodies) and self._over(bodies, slack) for bodies in told)

    def _contradicted(self) -> Array:
        """Where an episode failed, or a trial of this epoch has an unknown outcome."""
        mask = np.zeros(len(self.places), dtype=np.bool_)
        for told in (self.own, self.outside):
            for index, bodies in told.items():
                mask[self.at[index]] |= any(any(body["failed"]) for body in bodies)
        for index, number, state in self.trials.values():
            mask[self.at[index]] |= state == "unknown" and number >= self.epoch_start
        return mask

    # One method a kind of event -------------------------------------------------------------------------------

    def _started(self, body: Mapping[str, Any]) -> None:  # noqa: ARG002
        if self.seq != 1:
            self._find("started", "twice", "once")
        shares = self.declared["shares"]
        self._same("shares of delta", float(sum(shares.values())), float(self.declared["delta"]))
        if sorted(self.limits) != sorted(self.declared["costs"]) or -1 in {
            self._index(target) for target in self.declared["seed_targets"]
        }:
            self._find("declaration", "limits, priors and seed targets", "one prior a limit, seed targets on the grid")
        self._not_certified_unseen()

    def _not_certified_unseen(self) -> None:
        """Before anything is told, no rule certifies anything but seed targets."""
        early = self._verdict(-SLACK).by_rules & ~self.seeds
        if early.any():
            self._find("declaration", "accepted", f"certifies {self.points[self.places[early][0]]} before any evidence")

    def _seeded(self, body: Mapping[str, Any]) -> None:
        self._same("seed targets", body["targets"], self.declared["seed_targets"])

    def _asked(self, body: Mapping[str, Any]) -> None:
        index, trial, certificate = int(body["index"]), str(body["trial"]), body["certificate"]
        self._understood("certificate", f"event {self.seq}, certificate", certificate)
        if trial in self.trials or body["number"] != len(self.trials) or self._index(body["target"]) != index:
            self._find("trial", (trial, body["number"], body["target"]), "a new trial, at a point of the grid")
        for axis, value in (body["context"] or {}).items():
            self._same("context", body["target"][self.declared["axis_order"].index(axis)], float(value))
        states = [state for _, _, state in self.trials.values()]
        if self.stopped or self.level in ("seed", "stop") or not self._established().any():
            self._find("ask", "answered", "refused: stopped, an alarm stands, or no seed target is verified")
        if sum(state != "aborted" for state in states) >= self.declared["horizon"]:
            self._find("ask", "answered", f"refused: {self.declared['horizon']} declared asks are spent")
        if sum(state in OPEN for state in states) >= self.declared["settings"]["pending_cap"]:
            self._find("ask", "answered", "refused: too many trials are open")
        place, verdict = self.at[index], self._verdict(SLACK)
        on_premise = bool(verdict.by_premise[place]) and not (
            bool(verdict.by_rules[place]) and self._rules_price(verdict, place) == 0.0
        )
        basis = "premise" if on_premise else "rules" if verdict.by_rules[place] else "none"
        if basis == "none":
            self._find(
                "target", f"{certificate['basis']}: {body['target']}", f"not certified ({self._words(verdict, place)})"
            )
        else:
            self._same("basis", certificate["basis"], basis)
        charge = 0.0 if on_premise else float(verdict.price[place])
        self._compare_certificate(body, verdict, place, charge, on_premise=on_premise)
        self._compare_mask(body)
        if charge > 0.0:
            self.paid[place] = True
        self.spent += charge
        if not self.spent_before + self.spent <= self.share * (1 + SLACK):
            self._find("spent", certificate["spent_after"], f"{self.spent_before + self.spent} of {self.share}")
        self.trials[trial] = (index, int(body["number"]), "planned")
        self.order.append((index, int(body["number"]), basis))
        uppers = self._uppers(place)
        self.asks.append(
            AuditedAsk(
                seq=self.seq,
                trial=trial,
                target=tuple(body["target"]),
                basis=basis,
                risk=None if verdict.risk is None else float(verdict.risk[place]),
                upper={name: max(bound[name] for bound in uppers.values()) for name in self.limits} if uppers else None,
                charge=charge,
                spent_after=self._spent_after(),
            )
        )

    def _spent_after(self) -> float:
        """What is spent of delta in all; a rule of one epoch spends all of the rules' share at once."""
        shares = self.declared["shares"]
        spent = self.share if set(self.rules) & ONE_EPOCH else self.spent_before + self.spent
        return float(min(shares["seed"] + shares["noise"] + spent, self.declared["delta"]))

    def _shares(self) -> dict[str, float]:
        """Parts of delta by what they are for; the rules' one by stages, if there are any."""
        shares = dict(self.declared["shares"])
        if self.declared["stages"]:
            del shares["certificate"]
        return shares | {f"certificate, {stage['name']}": stage["share"] for stage in self.declared["stages"]}

    def _rules_price(self, verdict: _Verdict, place: int) -> float:
        """What the rules would charge for a place, premise or not."""
        return 0.0 if verdict.risk is None or self.paid[place] else float(verdict.risk[place])

    def _uppers(self, place: int) -> dict[str, dict[str, float]]:
        """Running upper bounds of a place by the rules that bound."""
        return {
            kind: {name: float(high[place]) for name, (_, high) in bands.items()} for kind, bands in self.bands.items()
        }

    def _words(self, verdict: _Verdict, place: int) -> str:
        """What decides about a place."""
        words = [] if verdict.risk is None else [f"risk {verdict.risk[place]:.4g}, price at most {verdict.cap:.4g}"]
        words += [
            f"{kind} bound {name} {bound:.6g}" for kind, b in self._uppers(place).items() for name, bound in b.items()
        ]
        return "; ".join(words)

    def _compare_certificate(
        self, body: Mapping[str, Any], verdict: _Verdict, place: int, charge: float, *, on_premise: bool
    ) -> None:
        """Every number of a certificate."""
        certificate = body["certificate"]
        expected: tuple[tuple[str, Any], ...] = (
            ("kind", "+".join(self.rules)),
            ("delta", float(self.declared["delta"])),
            ("shares", self._shares()),
            ("n_told", self.rounds),
            ("limits", list(self.limits.values())),
            ("charge", charge),
        )
        for name, value in expected:
            self._same(f"certificate.{name}", certificate[name], value)
        self._same("n_told", body["n_told"], self.rounds)
        spent, self.spent = self.spent, self.spent + charge
        self._same("certificate.spent_after", certificate["spent_after"], self._spent_after())
        self.spent = spent
        uppers = self._uppers(place)
        for name in self.limits:
            means, sds, weights = (array[..., place] if array.ndim == 2 else array for array in self.mixtures[name])
            mean = float(weights @ means)
            top = self.tops[name]
            self._same(f"certificate.risks.{name}", certificate["risks"][name], float(self._risks(name, 1.0)[place]))
            self._same(f"costs.{name}.mean", body["costs"][name]["mean"], mean, top)
            sd = math.sqrt(float(weights @ (sds**2 + (means - mean) ** 2)))
            self._same(f"costs.{name}.sd", body["costs"][name]["sd"], sd, top)
            scatter = self.outputs[name].scatter
            episode = math.sqrt(scatter.scale * float(scatter.floor[self.places[place]]))
            self._same(f"costs.{name}.episode_sd", body["costs"][name]["episode_sd"], episode, top)
            if uppers and not on_premise:
                bound = max(upper[name] for upper in uppers.values())
                self._same(f"certificate.upper.{name}", (certificate["upper"] or {}).get(name), bound, top)
        self._same("certificate.evidence", [e["kind"] for e in certificate["evidence"]], list(self.rules))
        for evidence in certificate["evidence"]:
            kind = evidence["kind"]
            by_risk = kind == "risk_ledger" and verdict.risk is not None
            for name, value in (
                ("risk", float(verdict.risk[place]) if by_risk and verdict.risk is not None else None),
                ("cap", verdict.cap if by_risk else None),
                ("charge", charge if by_risk else 0.0),
            ):
                self._same(f"certificate.evidence.{kind}.{name}", evidence[name], value)
            for name, bound in uppers.get(kind, {}).items():
                self._same(f"certificate.evidence.{kind}.upper.{name}", evidence["upper"][name], bound, self.tops[name])

    def _compare_mask(self, body: Mapping[str, Any]) -> None:
        """Recorded certified sets lie between what is certified for certain and what may be up to rounding."""
        bits = np.unpackbits(np.frombuffer(base64.b64decode(body["safe_mask"]), dtype=np.uint8), count=self.m)
        recorded = bits.astype(np.bool_)[self.places]
        self._same("safe_count", body["safe_count"], int(bits.sum()))
        for what, wrong in (
            ("certified set: too large", recorded & ~self._verdict(SLACK).safe),
            ("certified set: too small", self._verdict(-SLACK).safe & ~recorded),
        ):
            if wrong.any():
                self._find(
                    what, int(recorded.sum()), f"{int(wrong.sum())} differ, first {self.points[self.places[wrong][0]]}"
                )

    def _move(self, body: Mapping[str, Any], to: str, allowed: tuple[str, ...]) -> int:
        """A trial into another state; its candidate."""
        index, number, state = self.trials[body["trial"]]
        if state not in allowed:
            self._find("trial", f"{body['trial']} becomes {to}", f"it is {state}")
        self.trials[body["trial"]] = (index, number, to)
        return index

    def _deployed(self, body: Mapping[str, Any]) -> None:
        index = self._move(body, "running", ("planned",))
        verdict, place = self._verdict(SLACK), self.at[index]
        paid = verdict.safe[place] and verdict.price[place] == 0.0
        if self.declared["settings"]["approval"] and body["trial"] not in self.approved:
            self._find("run", f"{body['trial']} ran", "nobody approved it")
        if self.stopped or self.level in ("seed", "stop") or not paid:
            self._find("run", f"{body['trial']} ran", f"no longer certified and paid ({self._words(verdict, place)})")

    def _approved(self, body: Mapping[str, Any]) -> None:
        if self.trials[body["trial"]][2] != "planned":
            self._find("approved", body["trial"], "no planned trial")
        self.approved.add(body["trial"])

    def _rejected(self, body: Mapping[str, Any]) -> None:
        self.rejected.add(self._move(body, "aborted", ("planned",)))

    def _advanced(self, body: Mapping[str, Any]) -> None:
        self.stage, self.stage_start = self.stage + 1, len(self.trials)
        self._same("stage", body["stage"], self.declared["stages"][self.stage]["name"])
        if self.alarm or self.stopped or any(state in OPEN for _, _, state in self.trials.values()):
            self._find("advanced", body["stage"], "refused: an alarm, a stop, or open trials")

    def _seed_tested(self, body: Mapping[str, Any]) -> None:
        index = int(body["index"])
        if body["source"] in self.tests or not self.seeds[self.at[index]] or self._index(body["target"]) != index:
            self._find("seed_tested", (body["source"], body["target"]), "a seed target, every source once")
        self.tests[body["source"]] = (index, body)
        self._inform(index, body, None)

    def _shadowed(self, body: Mapping[str, Any]) -> None: ...

    def _abandoned(self, body: Mapping[str, Any]) -> None:
        self._move(body, "unknown" if body["deployed"] else "aborted", ("planned", "running"))

    def _told(self, body: Mapping[str, Any]) -> None:
        unapproved = self.trials[body["trial"]][2] == "planned" and body["trial"] not in self.approved
        if unapproved and self.declared["settings"]["approval"]:
            self._find("told", f"{body['trial']} ran", "nobody approved it")
        index = self._move(body, "done", ("planned", "running", "unknown"))
        if self.trials[body["trial"]][1] >= self.epoch_start:
            self._inform(index, body, self.own)

    def _observed(self, body: Mapping[str, Any]) -> None:
        self._same("observed", self._index(body["target"]), int(body["index"]))
        self._inform(int(body["index"]), body, self.outside)

    def _inform(self, index: int, body: Mapping[str, Any], told: dict[int, list[Mapping[str, Any]]] | None) -> None:
        """Tells every belief; a failed episode as the largest cost, with half of it as its standard deviation.

        Episodes that test a seed target have no rewards, and join no list.
        """
        failed = np.array(body["failed"], dtype=np.bool_)
        n = len(failed)
        known = body["rewards"] if "rewards" in body else [None] * n
        rewards = np.array(
            [r for r, broken in zip(known, failed, strict=True) if not (broken or r is None)], dtype=float
        )
        for name, limit in self.limits.items():
            costs = np.array([np.nan if c is None else c for c in body["costs"][name]], dtype=np.float64)
            clean = costs[~failed]
            if not ((clean >= 0) & (clean <= self.declared["caps"][name])).all():
                self._find(f"cost {name}", "told", f"outside [0, {self.declared['caps'][name]}]")
            enough = len(clean) >= (5 if kappa(limit) else 1) or not failed.any()
            share, left, output = float(np.mean(failed)) if enough else 1.0, len(clean), self.outputs[name]
            value = share * self.tops[name] + ((1 - share) * statistic(limit, clean) if share < 1.0 else 0.0)
            output.told.append(_Told(index, value, n, _relative_variance(limit, n), (share * self.tops[name] / 2) ** 2))
            if left >= (2 if kappa(limit) and failed.any() else 1):
                factor = _relative_variance(limit, left)
                output.measured.append(_Told(index, statistic(limit, clean), left, factor, 0.0))
            output.scatter.tell(index, clean)
            if "correlation" in output.prior and len(rewards):
                output.rewards.append(_Told(index, float(np.mean(rewards)), len(rewards), 1 / len(rewards), 0.0))
                output.reward_scatter.tell(index, rewards)
        if told is not None:
            told.setdefault(index, []).append(body)
        self.rounds += 1
        if self.level in ("seed", "stop"):
            return
        self._believe()
        empty = [
            f"{kind} intervals of {name} are empty"
            for kind, bands in self.bands.items()
            for name, (low, high) in bands.items()
            if (low > high + SLACK * self.tops[name]).any()
        ]
        self.alarm_due = empty[0] if empty else ""

    def _limit_lowered(self, body: Mapping[str, Any]) -> None:
        limit = self.limits[body["limit"]]
        if not 0 <= body["value"] < limit["value"]:
            self._find("limit", f"{limit['value']} to {body['value']}", "only ever lowered")
        limit["value"] = body["value"]
        self.seeds_hold = self.seeds_hold and body["seeds_hold"]
        self.paid[:] = False

    def _alarmed(self, body: Mapping[str, Any]) -> None:
        if LADDER.index(body["level"]) <= LADDER.index(self.level):
            self._find("alarm", f"from {self.level} to {body['level']}", "only ever down the ladder")
        self.alarm, self.level = True, str(body["level"])

    def _resumed(self, body: Mapping[str, Any]) -> None:  # noqa: ARG002
        left = self.share - self.spent_before - self.spent
        still = [trial for trial, (_, _, state) in self.trials.items() if state in OPEN]
        if not self.alarm or still or self.stopped or not left > 0 or set(self.rules) & ONE_EPOCH:
            self._find("resumed", "a new epoch", "refused: no alarm, open trials, or nothing left of delta")
        self.spent_before += self.spent
        self.alarm, self.level, self.seeds_hold = False, "normal", True  # whoever resumes attests the seeds anew
        self._epoch(left)

    def _held(self, body: Mapping[str, Any]) -> None: ...

    def _evaluated(self, body: Mapping[str, Any]) -> None: ...

    def _stopped(self, body: Mapping[str, Any]) -> None:  # noqa: ARG002
        self.stopped = True
