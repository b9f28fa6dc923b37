"""Bets on the cost of raw episodes: evidence that a target is safe, or that it is not, valid at every stopping time."""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from safehold.core.constraint import Limit
from safehold.core.errors import DataError, UsageError

Hypothesis = Literal["unsafe", "safe"]
"""What a bet is against. "unsafe": mean >= limit, refuted to verify a seed. "safe": mean <= limit, refuted to alarm."""

FRACTIONS: Float[np.ndarray, "K"] = 2.0 ** (-0.5 * np.arange(16))
"""Shares of the largest admissible stake, 1 down to 0.0055; every one is bet throughout, none is fitted to the data."""

LOG_WEIGHTS: Float[np.ndarray, "K"] = np.log(FRACTIONS / FRACTIONS.sum())
"""Logarithm of the capital each fraction starts with: in proportion to it, about uniform over the stakes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capital:
    """Capital of somebody who starts with 1 and bets, episode by episode, that a hypothesis on the mean cost is wrong.

    Costs x lie in [0, cap]. With stake share f an episode multiplies the capital
    against "unsafe" (mean >= limit) by 1 + f (limit - x) / (cap - limit),
    against "safe" (mean <= limit) by 1 + f (x - limit) / limit.
    Each factor is >= 0 and has expectation <= 1 under its hypothesis, given all that went before; the capital is the
    mixture over `FRACTIONS`, a nonnegative supermartingale from 1 [Waudby-Smith & Ramdas 2024, section 4]. So
    P(it ever reaches 1 / level) <= level if the hypothesis is true, whenever one looks and stops [Ville 1939].

    With a `threshold` an episode counts as 1 if its cost is not <= threshold, else 0: `limit` and `cap` are then a
    probability and 1 (a chance limit).

    An episode that failed or whose cost is missing counts as the cap (as 1 under a threshold) in both tests. Against
    "unsafe" that can only lower the capital. Against "safe" it can raise it: what is tested is the mean cost in which
    a failed episode costs the cap, so that a target that fails often is alarmed about although nobody saw it cost.

    A cost above the cap refutes the cap: the bet against "unsafe" is lost for good. The bet against "safe" stays
    valid without a cap (its factors are >= 0 for any cost >= 0) and goes on.

    `log_capitals`: one a fraction. `log_peak`: the largest log capital so far. `n` episodes, `n_missing` of them
    failed or without a cost, `n_over_cap` above the cap.
    """

    hypothesis: Hypothesis
    limit: float
    cap: float
    threshold: float | None = None
    log_capitals: tuple[float, ...] = (0.0,) * len(FRACTIONS)
    log_peak: float = 0.0
    n: int = 0
    n_missing: int = 0
    n_over_cap: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.cap) and math.isfinite(self.limit) and 0 <= self.limit < self.cap):
            raise UsageError(
                f"limit {self.limit} and cap {self.cap}: a bet needs 0 <= limit < cap, both finite. The cap is the "
                "largest cost an episode can have, by construction (for instance horizon times cost of a step)"
            )
        if self.hypothesis == "unsafe" and self.limit == 0:
            raise UsageError("no number of episodes shows that a mean cost is below 0; attest the seed instead")

    @staticmethod
    def of(limit: Limit, cap: float, hypothesis: Hypothesis) -> "Capital":
        """The bet that belongs to a declared limit, on costs as the limit's own fold gives them.

        A chance limit bets on the episodes above `limit.value` against `limit.alpha`. A cvar limit's "safe" is tested
        by the mean, which is at most the cvar: the alarm is valid but blind to tails.

        Raises:
            UsageError: for the verification of a cvar limit, which no bet here covers.
        """
        if limit.alpha is not None and limit.kind == "chance":
            return Capital(hypothesis=hypothesis, limit=limit.alpha, cap=1.0, threshold=limit.value)
        if limit.kind == "cvar" and hypothesis == "unsafe":
            raise UsageError(f"limit on {limit.name!r}: a cvar limit cannot be verified by betting; attest the seed")
        return Capital(hypothesis=hypothesis, limit=limit.value, cap=cap)

    def after(self, costs: Float[np.ndarray, "n"], failed: Bool[np.ndarray, "_"] | None = None) -> "Capital":
        """The capital after more episodes, in the order they ran; the same whether told at once or one by one.

        Raises:
            DataError: if a cost is negative, or costs and marks differ in number.
        """
        return self._follow(costs, failed)[0]

    def steps(
        self, costs: Float[np.ndarray, "n"], failed: Bool[np.ndarray, "_"] | None = None
    ) -> Float[np.ndarray, "n K"]:
        """Logarithm of what each episode multiplies the capital of each fraction by.

        Raises:
            DataError: if a cost is negative, or costs and marks differ in number.
        """
        scores, _, over = self._scores(costs, failed)
        steps = log_factors(self.hypothesis, scores, self.limit, self.cap)
        if self.hypothesis == "unsafe":
            steps[over] = -np.inf
        return steps

    @property
    def log_value(self) -> float:
        """Natural logarithm of the capital now."""
        return float(log_mixture(np.array(self.log_capitals)))

    @property
    def value(self) -> float:
        """The capital now; 1 at the start (values above 1e300 are given as that)."""
        return math.exp(min(self.log_value, 690.0))

    @property
    def peak(self) -> float:
        """The largest capital so far (values above 1e300 are given as that)."""
        return math.exp(min(self.log_peak, 690.0))

    def rejects(self, level: float) -> bool:
        """True once the capital has reached 1 / level: the hypothesis is refuted, with error probability `level`."""
        return not self._void and self.log_peak >= -math.log(probability("level", level))

    @property
    def _void(self) -> bool:
        return self.hypothesis == "unsafe" and self.n_over_cap > 0

    def _scores(
        self, costs: Float[np.ndarray, "n"], failed: Bool[np.ndarray, "_"] | None
    ) -> tuple[Float[np.ndarray, "n"], Bool[np.ndarray, "n"], Bool[np.ndarray, "n"]]:
        """What each episode counts as; which are missing; which are above the cap."""
        missing = missing_episodes(costs, failed)
        if self.threshold is not None:
            above = (~(costs <= self.threshold)).astype(np.float64)
            return np.where(missing, 1.0, above), missing, np.zeros(len(costs), dtype=np.bool_)
        return np.where(missing, self.cap, costs), missing, ~missing & (costs > self.cap)

    def _follow(
        self, costs: Float[np.ndarray, "n"], failed: Bool[np.ndarray, "_"] | None
    ) -> tuple["Capital", Float[np.ndarray, "n"]]:
        """The capital after the episodes, and its logarithm after each of them."""
        _, missing, over = self._scores(costs, failed)
        steps = self.steps(costs, failed)
        capitals = np.cumsum(np.concatenate([[self.log_capitals], steps]), axis=0)  # sequential: equals one by one
        path = log_mixture(capitals[1:])
        after = replace(
            self,
            log_capitals=tuple(float(value) for value in capitals[-1]),
            log_peak=max(self.log_peak, float(np.max(path, initial=-np.inf))),
            n=self.n + len(costs),
            n_missing=self.n_missing + int(np.sum(missing)),
            n_over_cap=self.n_over_cap + int(np.sum(over)),
        )
        return after, path


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedVerdict:
    """What the episodes of a seed target say: verified, or not yet.

    `needed` = 1 / delta is the capital that verifies; `at` the number of episodes at which it was reached, None if it
    was not; `peak` the largest capital. `episodes`, `missing` and `over_cap` count all that were given.
    """

    verified: bool
    needed: float
    peak: float
    at: int | None
    episodes: int
    missing: int
    over_cap: int

    @property
    def words(self) -> str:
        """The verdict in a sentence."""
        if self.over_cap:
            return f"not verified: {self.over_cap} of {self.episodes} episodes cost more than the declared cap"
        if self.verified:
            return f"verified after {self.at} episodes: capital {self.peak:.4g} reached {self.needed:.4g}"
        return (
            f"not verified: capital came to {self.peak:.4g} of {self.needed:.4g} in {self.episodes} episodes, "
            f"{self.missing} of them failed or without a cost"
        )


def verify_seed(
    costs: Float[np.ndarray, "n"],
    limit: float,
    cap: float,
    delta: float,
    failed: Bool[np.ndarray, "_"] | None = None,
) -> SeedVerdict:
    """Tests "mean cost >= limit" on a seed target's episodes, in the order they ran.

    P(verified) <= delta for a seed whose mean cost is at or above the limit, however many episodes are run and
    whenever one stops. Costs in cost units per episode; `cap` bounds them by construction.
    """
    return _verdict(Capital(hypothesis="unsafe", limit=limit, cap=cap), costs, delta, failed)


def verify_limit(
    limit: Limit,
    costs: Float[np.ndarray, "n"],
    cap: float,
    delta: float,
    failed: Bool[np.ndarray, "_"] | None = None,
) -> SeedVerdict:
    """`verify_seed` for a declared limit: mean and peak limits by their value, chance limits by their alpha.

    A seed target with several limits must be verified against each, at the whole delta: an unsafe one breaks at least
    one limit, and is verified against that with probability at most delta. Several seed targets share delta.
    """
    return _verdict(Capital.of(limit, cap, "unsafe"), costs, delta, failed)


def clean_episodes(alpha: float, delta: float) -> int:
    """Episodes that certify P(cost > limit) < alpha at 1 - delta if none is above: least n with (1 - alpha)^n <= delta.

    The check with a sample size fixed beforehand (59 for alpha = delta = 0.05); one must not look earlier.
    """
    return math.ceil(math.log(probability("delta", delta)) / math.log1p(-probability("alpha", alpha)))


def log_factors(
    hypothesis: Hypothesis, scores: Float[np.ndarray, "n"], limit: float, cap: float
) -> Float[np.ndarray, "n K"]:
    """Logarithm of what each episode multiplies the capital of each fraction by; see `Capital`.

    Against "unsafe" a factor never falls as the limit rises, against "safe" it never rises: bounds on a mean can be
    found by bisection over the limit.
    """
    with np.errstate(divide="ignore", over="ignore"):
        if hypothesis == "unsafe":
            gain = (limit - scores) / (cap - limit)
        elif limit > 0:
            gain = (scores - limit) / limit
        else:  # a mean cost of 0 is refuted by any cost at all
            gain = np.where(scores > 0, np.inf, 0.0)
        return np.log1p(np.maximum(gain[:, None] * FRACTIONS, -1.0))


def missing_episodes(costs: Float[np.ndarray, "n"], failed: Bool[np.ndarray, "_"] | None) -> Bool[np.ndarray, "n"]:
    """Episodes that failed or whose cost is not finite.

    Raises:
        DataError: if a cost is negative, or costs and marks differ in number.
    """
    missing = ~np.isfinite(costs)
    if failed is not None:
        if failed.shape != costs.shape:
            raise DataError(f"{len(costs)} costs but {len(failed)} failed marks; one an episode")
        missing = missing | failed
    negative = ~missing & (costs < 0)
    if negative.any():
        place = int(np.argmax(negative))
        raise DataError(f"cost of episode {place} is {costs[place]}; costs are >= 0, a negative one is no evidence")
    return missing


def _verdict(
    start: Capital, costs: Float[np.ndarray, "n"], delta: float, failed: Bool[np.ndarray, "_"] | None
) -> SeedVerdict:
    needed = -math.log(probability("delta", delta))
    after, path = start._follow(costs, failed)
    verified = after.rejects(delta)
    return SeedVerdict(
        verified=verified,
        needed=1 / delta,
        peak=after.peak,
        at=int(np.argmax(path >= needed)) + 1 if verified else None,
        episodes=after.n,
        missing=after.n_missing,
        over_cap=after.n_over_cap,
    )


def log_mixture(log_capitals: Float[np.ndarray, "*n K"]) -> Float[np.ndarray, "*n"]:
    """Logarithm of sum_f w_f exp(log_capitals), stable; -inf where every capital is lost."""
    logs = log_capitals + LOG_WEIGHTS
    largest = np.max(logs, axis=-1)
    shift = np.where(np.isfinite(largest), largest, 0.0)
    with np.errstate(divide="ignore", over="ignore"):
        return np.asarray(shift + np.log(np.sum(np.exp(logs - shift[..., None]), axis=-1)))


def probability(name: str, value: float) -> float:
    """The value, if it lies strictly between 0 and 1; else a UsageError that names it."""
    if not 0 < value < 1:
        raise UsageError(f"{name} is {value}; it is a probability between 0 and 1")
    return value
