"""How often the monitors alarm when all is well, what they catch when it is not, and what verifying a seed takes.

    python reproductions/monitors.py [--runs 1000] [--out docs/results]

Written down before the study was run; all of it is reported:

* Innovations. One run: a 51 x 51 dial over the unit square; true cost = plane + Gaussian process (sd 0.15,
  squared-exponential, length-scale 0.3), true reward likewise; limit 0.5; three seed targets, measured first; then 40
  asks by reward-UCB over targets whose risk a ledger of delta = 0.05 pays for; measurement noise sd 0.05, known. Worlds
  in which a seed target is unsafe are drawn again: seeds are verified. Only one thing is wrong in a row: the noise
  (its sd, or its law: the mean of 20 or 5 exponential costs, of the declared sd), the signal's sd, the length-scale, or
  a drift added to every cost from ask 20 on. Two rows use a mixture of 16 models, with the truth drawn from its members
  (nothing is wrong) and with a truth of a shorter length-scale than any.
  Posterior and ledger are this script's own few lines; scores and monitor are safehold's, at a level of 0.01.
* Costs. One run: 40 asks of 20 raw episodes over 20 targets in turn, level 0.01, cap three times the limit, costs
  all-or-nothing or with a standard deviation of 30 % of their mean. All targets exactly at the limit (nothing is
  wrong), at 0.9 of it, drifting from 0.9 to 1.1 or 1.3 of it at ask 20, and one target of the 20 at 1.5.
* Seeds. Episodes until a seed is verified at delta_seed = 0.025, and how often one at 1.0 or 1.02 of the limit is
  verified within 400 episodes.
* Counted: runs with an alarm, with the exact interval of Clopper and Pearson. A stated rate fails if the lower end of
  its one-sided 99 % interval is above it (rows where nothing is wrong). Beside it: runs with an unsafe target asked
  (noise-free cost, drift included, above the limit), without the monitor and if the first alarm ends exploration
  (what falls back to a seed is not counted).
* Seed 20260101; 1000 runs a row (300 for the mixture outside its support, seeds: 1000 and 200); at most five minutes
  of one core. The bets (shifts, scales, hazard, fractions) were chosen on other random numbers, of the same worlds.
"""

import argparse
import json
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import ndtr

from safehold.core.constraint import Limit
from safehold.core.intervals import Interval, proportion_interval
from safehold.core.seeding import Streams
from safehold.deploy.betting import verify_seed
from safehold.deploy.monitors import CostMonitor, InnovationMonitor, normal_score

SEED = 20260101
LEVEL = 0.01
GRID, ASKS, DELTA = 51, 40, 0.05
LIMIT, NOISE = 0.5, 0.05
CHANGE = 20
"""The ask from which a drift acts."""
AXIS = np.linspace(0.0, 1.0, GRID)
DIAL = np.stack(np.meshgrid(AXIS, AXIS, indexing="ij"), axis=-1).reshape(-1, 2).mean(axis=1)
PLANE = 0.15 + 0.6 * DIAL
SEEDS = tuple(int(np.ravel_multi_index(place, (GRID, GRID))) for place in ((3, 3), (3, 8), (8, 3)))


@dataclass(frozen=True, slots=True)
class Model:
    """A squared-exponential Gaussian process around the plane."""

    lengthscale: float = 0.3
    sd: float = 0.15

    def axis(self) -> Float[np.ndarray, "g g"]:
        """Correlation along one axis."""
        return np.exp(-0.5 * ((AXIS[:, None] - AXIS) / self.lengthscale) ** 2)


MIXTURE = tuple(Model(lengthscale, sd) for lengthscale in (0.15, 0.2, 0.3, 0.5) for sd in (0.08, 0.12, 0.17, 0.25))


READING = """
What to take from it (written after the study):

* A noise declared too small by half is found in nearly every run, and the alarm spares about 70 % of the unsafe
  asks. A length-scale declared twice too long is found in about one run of six: the monitor is no substitute for a
  prior with short length-scales.
* An alarm stops harm that goes on; it does not undo the unsafe ask that raised it. Runs with any unsafe ask fall much
  less than unsafe asks do: after a drift of 0.2, from 0.985 to 0.962 of runs, but from 0.420 to 0.058 of asks.
* Means of five skewed episodes raise false alarms above the stated level, means of twenty do not visibly.
* The cost monitor needs no model and is slow: a quiet cost 30 % above the limit is found in 7 asks of 20 episodes,
  10 % above it seldom, and all-or-nothing costs hardly ever within 40 asks."""


class Posterior:
    """Belief over the dial, by one row of a Cholesky factor a measurement."""

    def __init__(self, model: Model, mean: Float[np.ndarray, "m"]) -> None:
        self.axis, self.sd = model.axis(), model.sd
        self.mean, self.variance = mean.copy(), np.full(len(mean), model.sd**2)
        self.rows = np.empty((ASKS + len(SEEDS), len(mean)))
        self.n, self.log_evidence = 0, 0.0

    def predictive_sd(self, index: int) -> float:
        """Of the next measurement there."""
        return float(np.sqrt(self.variance[index] + NOISE**2))

    def told(self, index: int, value: float) -> None:
        """Takes in one measurement."""
        prior = self.sd**2 * np.outer(self.axis[index // GRID], self.axis[index % GRID]).ravel()
        sd = self.predictive_sd(index)
        row = (prior - self.rows[: self.n, index] @ self.rows[: self.n]) / sd
        score = (value - self.mean[index]) / sd
        self.log_evidence += -0.5 * score**2 - np.log(sd)
        self.rows[self.n] = row
        self.n += 1
        self.mean = self.mean + row * score
        self.variance = np.maximum(self.variance - row**2, 1e-12)


@dataclass(frozen=True, slots=True)
class Fault:
    """What the declared model gets wrong; by default nothing."""

    noise: float = NOISE
    episodes: int | None = None  # an ask's noise is that of the mean of so many exponential costs; None: Gaussian
    drift: float = 0.0
    truth: Model | None = None  # drawn from the models where None


@dataclass(frozen=True, slots=True)
class Row:
    """Share of runs with an alarm, and of runs with an unsafe target asked, without and with the monitor."""

    what: str
    runs: int
    alarmed: Interval
    unsafe_without: float
    unsafe_with: float
    unsafe_asks_without: float
    unsafe_asks_with: float
    keeps_level: bool | None


def deployment(
    models: tuple[Model, ...], fault: Fault, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "n"], Bool[np.ndarray, "n"]]:
    """Normal scores of one run's measurements, and which of the asked targets were unsafe."""
    cost = _world(fault.truth or models[int(rng.integers(len(models)))], PLANE, rng)
    while not np.all(cost[list(SEEDS)] <= LIMIT):
        cost = _world(fault.truth or models[int(rng.integers(len(models)))], PLANE, rng)
    reward = _world(Model(), DIAL, rng)
    beliefs, reward_belief = [Posterior(model, PLANE) for model in models], Posterior(Model(), DIAL)
    weights = np.full(len(models), 1 / len(models))
    scores, unsafe, left = [], [], DELTA
    paid = np.zeros(len(DIAL), dtype=np.bool_)
    paid[list(SEEDS)] = True
    for ask in range(-len(SEEDS), ASKS):
        index = ask + len(SEEDS)
        if ask >= 0:
            pairs = zip(weights, beliefs, strict=True)
            risk = sum(w * ndtr((belief.mean - LIMIT) / np.sqrt(belief.variance)) for w, belief in pairs)
            allowed = np.where(paid, risk <= 0.023, risk <= min(left, 3 * left / (ASKS - ask)))
            optimistic = reward_belief.mean + 2 * np.sqrt(reward_belief.variance)
            index = int(np.argmax(np.where(allowed, optimistic, -np.inf))) if allowed.any() else 0
            index = SEEDS[0] if not allowed.any() else index
            left -= 0.0 if paid[index] else float(risk[index])
            paid[index] = True
        else:
            index = SEEDS[index]
        expected = cost[index] + (fault.drift if ask >= CHANGE else 0.0)
        k = fault.episodes
        noise = rng.standard_normal() if k is None else (rng.gamma(k) - k) / np.sqrt(k)
        measured = float(expected + fault.noise * noise)
        means = np.array([belief.mean[index] for belief in beliefs])
        sds = np.array([belief.predictive_sd(index) for belief in beliefs])
        scores.append(normal_score(measured, means, sds, weights))
        unsafe.append(not expected <= LIMIT)
        for belief in beliefs:
            belief.told(index, measured)
        evidence = np.array([belief.log_evidence for belief in beliefs])
        weights = np.exp(evidence - np.logaddexp.reduce(evidence))
        reward_belief.told(index, float(reward[index] + NOISE * rng.standard_normal()))
    return np.array(scores), np.array(unsafe)


def innovations(what: str, models: tuple[Model, ...], fault: Fault, runs: int) -> Row:
    """One row of the first table."""
    rng = Streams(SEED)[what]
    alarms, without, having, asks_without, asks_with = 0, 0, 0, 0, 0
    for _ in range(runs):
        scores, unsafe = deployment(models, fault, rng)
        monitor, until = InnovationMonitor.start(LEVEL), len(scores)
        for n, score in enumerate(scores, start=1):
            monitor = monitor.told(np.array([score]))
            if monitor.alarmed:
                until = n
                break
        alarms += monitor.alarmed
        without, having = without + bool(unsafe.any()), having + bool(unsafe[:until].any())
        asks_without, asks_with = asks_without + int(unsafe.sum()), asks_with + int(unsafe[:until].sum())
    right = fault == Fault()
    asks = runs * (ASKS + len(SEEDS))
    return Row(
        what,
        runs,
        proportion_interval(alarms, runs),
        without / runs,
        having / runs,
        asks_without / asks,
        asks_with / asks,
        _keeps(alarms, runs, LEVEL) if right else None,
    )


@dataclass(frozen=True, slots=True)
class CostRow:
    """Share of runs with an alarm of the cost monitor, and what came of it."""

    what: str
    law: str
    runs: int
    alarmed: Interval
    accused: float  # share of runs in which an unsafe target was accused
    wrongly_accused: float  # share of runs in which a target at or under the limit was accused
    asks: float | None  # median asks from the change (or the start) to the alarm, among alarmed runs
    keeps_level: bool | None


def draw(law: str, mean: float, cap: float, n: int, rng: np.random.Generator) -> Float[np.ndarray, "n"]:
    """Raw costs in [0, cap] of this mean, in units of the limit."""
    if law == "all or nothing":
        return cap * (rng.random(n) < mean / cap)
    share = mean / cap
    strength = share * (1 - share) * cap**2 / (0.3 * mean) ** 2 - 1
    return cap * rng.beta(share * strength, (1 - share) * strength, size=n)


def costs(what: str, law: str, means: Float[np.ndarray, "T"], change: int, runs: int) -> CostRow:
    """One row of the second table; `means` are true mean costs in units of the limit, ask by ask."""
    rng, cap = Streams(SEED)[f"{what}, {law}"], 3.0
    alarms, accused, wrongly, taken = 0, 0, 0, []
    highest = means.reshape(-1, 20).max(axis=0)
    for _ in range(runs):
        monitor = CostMonitor.start(Limit("cost", 1.0), cap, LEVEL)
        for ask in range(ASKS):
            monitor = monitor.asked(ask % 20).told(ask % 20, draw(law, float(means[ask]), cap, 20, rng))
            if monitor.alarmed:
                alarms += 1
                taken.append(ask + 1 - change)
                break
        accused += any(highest[target] > 1 for target in monitor.accused)
        wrongly += any(highest[target] <= 1 for target in monitor.accused)
    right = bool(np.all(means <= 1))
    return CostRow(
        what,
        law,
        runs,
        proportion_interval(alarms, runs),
        accused / runs,
        wrongly / runs,
        float(np.median(taken)) if taken else None,
        _keeps(alarms, runs, LEVEL) if right else None,
    )


@dataclass(frozen=True, slots=True)
class SeedRow:
    """Episodes that verifying a seed took; or how often one at or above the limit was verified."""

    mean: float
    cap: float
    law: str
    runs: int
    verified: Interval
    mean_episodes: float | None
    ninety_percent: float | None
    keeps_level: bool | None


def seeds(mean: float, cap: float, law: str, episodes: int, runs: int) -> SeedRow:
    """One row of the third table."""
    rng, delta = Streams(SEED)[f"seed {mean} {cap} {law}"], 0.025
    verdicts = [verify_seed(draw(law, mean, cap, episodes, rng), 1.0, cap, delta) for _ in range(runs)]
    at = np.array([verdict.at for verdict in verdicts if verdict.at is not None], dtype=np.float64)
    everyone = len(at) == runs
    return SeedRow(
        mean,
        cap,
        law,
        runs,
        proportion_interval(len(at), runs),
        float(np.mean(at)) if everyone else None,
        float(np.quantile(at, 0.9)) if everyone else None,
        _keeps(len(at), runs, delta) if mean >= 1 else None,
    )


def table(rows: list[Row], cost_rows: list[CostRow], seed_rows: list[SeedRow]) -> str:
    """The three tables, and whether the stated rates held."""
    lines = [
        f"Level {LEVEL:g} a monitor; 95 % intervals in brackets. `reproductions/monitors.py` wrote this, and says what",
        "was fixed beforehand.",
        "",
        "| innovations: what is wrong | alarms | runs with an unsafe ask: unmonitored, monitored | of asks | level |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.what} | {_span(row.alarmed)} of {row.runs} | {row.unsafe_without:.3f}, {row.unsafe_with:.3f} "
        f"| {row.unsafe_asks_without:.4f}, {row.unsafe_asks_with:.4f} | {_verdict(row.keeps_level)} |"
        for row in rows
    ]
    lines += [
        "",
        "| costs: what is wrong | costs | alarms | unsafe one accused | safe one accused | asks to alarm | level |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.what} | {row.law} | {_span(row.alarmed)} of {row.runs} | {row.accused:.3f} "
        f"| {row.wrongly_accused:.3f} | {'' if row.asks is None else f'{row.asks:.0f}'} | {_verdict(row.keeps_level)} |"
        for row in cost_rows
    ]
    lines += [
        "",
        "| seed: mean / limit | cap / limit | costs | verified | episodes, mean | 90 % within | delta |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.mean:g} | {row.cap:g} | {row.law} | {_span(row.verified)} of {row.runs} "
        f"| {'' if row.mean_episodes is None else f'{row.mean_episodes:.0f}'} "
        f"| {'' if row.ninety_percent is None else f'{row.ninety_percent:.0f}'} | {_verdict(row.keeps_level)} |"
        for row in seed_rows
    ]
    return "\n".join(lines) + "\n" + READING


def study(runs: int) -> tuple[list[Row], list[CostRow], list[SeedRow]]:
    """Every row of the study."""
    base, few = (Model(),), max(1, runs * 3 // 10)
    rows = [
        innovations("nothing", base, Fault(), runs),
        innovations("nothing, mixture of 16 models", MIXTURE, Fault(), runs),
        innovations("noise skewed, mean of 20 exponential costs", base, Fault(episodes=20), runs),
        innovations("noise skewed, mean of 5 exponential costs", base, Fault(episodes=5), runs),
        innovations("noise sd 2 x", base, Fault(noise=2 * NOISE), runs),
        innovations("noise sd 4 x", base, Fault(noise=4 * NOISE), runs),
        innovations("signal sd 3 x", base, Fault(truth=Model(sd=0.45)), runs),
        innovations("length-scale 0.5 x", base, Fault(truth=Model(lengthscale=0.15)), runs),
        innovations("length-scale 0.33 x", base, Fault(truth=Model(lengthscale=0.1)), runs),
        innovations("mixture, truth outside: length-scale 0.06", MIXTURE, Fault(truth=Model(lengthscale=0.06)), few),
        *(
            innovations(f"drift of {drift:g} from ask {CHANGE}", base, Fault(drift=drift), runs)
            for drift in (0.2, 0.1, 0.05)
        ),
    ]
    cost_rows = []
    before, ask = np.full(ASKS, 0.9), np.arange(ASKS)
    for law in ("sd 30 %", "all or nothing"):
        cost_rows += [
            costs("nothing: all at the limit", law, np.ones(ASKS), 0, runs),
            costs("nothing: all at 0.9", law, before, 0, few),
            costs("drift from 0.9 to 1.1", law, np.where(ask < CHANGE, before, 1.1), CHANGE, few),
            costs("drift from 0.9 to 1.3", law, np.where(ask < CHANGE, before, 1.3), CHANGE, few),
            costs("one of 20 targets at 1.5", law, np.where(ask % 20 == 7, 1.5, before), 7, few),
        ]
    seed_rows = [seeds(mean, 3.0, law, 400, runs) for mean in (1.0, 1.02) for law in ("sd 30 %", "all or nothing")]
    seed_rows += [
        seeds(mean, cap, law, 8000, max(1, runs // 5))
        for cap in (3.0, 10.0)
        for mean in (0.5, 0.75)
        for law in ("sd 30 %", "all or nothing")
    ]
    return rows, cost_rows, seed_rows


def main() -> None:
    """Runs the study and writes its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    arguments = parser.parse_args()
    start = time.process_time()
    rows, cost_rows, seed_rows = study(arguments.runs)
    record = {
        "command": f"python reproductions/monitors.py --runs {arguments.runs}",
        "seed": SEED,
        "level": LEVEL,
        "cpu_seconds": round(time.process_time() - start, 1),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "innovations": [asdict(row) for row in rows],
        "costs": [asdict(row) for row in cost_rows],
        "seeds": [asdict(row) for row in seed_rows],
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "monitors.json").write_text(json.dumps(record, indent=1) + "\n")
    (arguments.out / "monitors.md").write_text(table(rows, cost_rows, seed_rows) + "\n")
    print(table(rows, cost_rows, seed_rows))
    print(f"{record['cpu_seconds']} s of processor time")


def _world(model: Model, mean: Float[np.ndarray, "m"], rng: np.random.Generator) -> Float[np.ndarray, "m"]:
    root = np.linalg.cholesky(model.axis() + 1e-9 * np.eye(GRID))
    return mean + model.sd * (root @ rng.standard_normal((GRID, GRID)) @ root.T).ravel()


def _keeps(count: int, runs: int, level: float) -> bool:
    """False if the one-sided 99 % lower bound of the rate is above what was stated."""
    return proportion_interval(count, runs, 0.98).low <= level


def _span(interval: Interval) -> str:
    return f"{interval.estimate:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _verdict(keeps: bool | None) -> str:
    return "" if keeps is None else "kept" if keeps else "BROKEN"


if __name__ == "__main__":
    main()
