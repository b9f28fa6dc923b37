"""Every certificate against the truth: tunes a dial on ICU-Sepsis, where true expected costs are solved, not sampled.

    pip install --no-deps 'icu-sepsis==2.0.1'
    python reproductions/exact_world.py [--runs 500] [--first 0] [--out docs/results]

The question: of the targets that a deployment hands out as safe, how many truly are, when the world is not a draw from
the declared prior, the noise not Gaussian and its variance not known? And how much of the reachable survival is found?

Written down before the study was run; all of it is reported:

* One run: a log of 500 patients for each of the 22 behaviours of `icu_sepsis_dial`, freshly drawn; the dial that this
  log makes; one deployment a certificate rule and batch size, on fresh patients. Runs differ in everything that is
  random, so they are independent, and `delta` bounds the share of them that may fail.
* The limit: at most 18 dose levels a patient on average; the clinicians' own policy gives 18.4. delta = 0.05.
* The budget: 20 asks of 20 patients each, of 100 each, and of 500 each.
* The declaration is what a user without knowledge of the truth would write: safehold's default dial error (half of
  the limit), the episode noise of the log, the cap that the clock implies. Seed targets are those that ask for at most
  a third of the limit; that they are safe is attested, and checked here.
* The rules: `risk_ledger` with the default mixture of length-scales; `paper` with length-scales of half of each axis,
  as `safehold deploy` declares it; `log_det` and `lipschitz` with constants that nobody could know beforehand and that
  were read off the truth of other runs: half more than the largest norm, and the largest slopes, of runs 1000 to 1009
  (in a kernel of 0.15 of each axis). `log_det` takes the log's standard deviation for the sub-Gaussian constant, which
  it is not; `lipschitz` takes four standard errors for a bound of the noise.
* The world is known to break the premises. The dial's error is no Gaussian process: it has a trend, since a mixture
  of policies does not earn the mixture of returns. One patient's cost is skewed, with a standard deviation of 1.3
  times its mean, so that the noise grows with the cost.
* Counted: runs in which any handed-out target has a true expected cost above the limit, with the exact interval of
  Clopper and Pearson; a rule fails if the lower end of its one-sided 99 % interval is above delta. Beside it: unsafe
  asks, certificates whose upper bound is below the true cost, the regret in survival of the recommendation against the
  best truly safe supported point of the same dial, and what would have happened if the dial had been taken at its
  word (the highest supported reward at an asked cost of 18). Of the ledger: what was charged a run, beside how many
  distinct unsafe targets it had charged for; the first should not be below the second.
* Also counted, over the whole dial and not only where a deployment went: runs in which a rule ever certified a
  supported target that is unsafe, and runs in which an upper bound ever was below the truth at a supported target.
  The three bands promise both with their premises; the ledger promises neither, only what it hands out.
* 500 runs, numbered from 0: a rule whose true share of failing runs is 10 % fails with probability 0.97. Widths of
  the dial, its grid and the support rule were chosen by looking at runs 1000 to 1009, which the study does not use; no
  rule's setting was chosen by its result. (Kept are 331: the study was stopped there for want of time, before any
  outcome was looked at. At 331 a true share of 10 % fails with probability 0.89.)

All of it takes about half an hour of one core; the truth, one linear system of 713 equations for each of the 144
targets, is most of it.
"""

import argparse
import json
import math
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from recorded import commit_here

from safehold.core.constraint import Limit
from safehold.core.errors import SafetyHold
from safehold.core.intervals import Interval, mean_interval, proportion_interval
from safehold.core.measurement import Measurement
from safehold.core.seeding import Streams
from safehold.core.target import TargetSpace
from safehold.deploy.certificates.lipschitz import Lipschitz
from safehold.deploy.certificates.log_det import LogDet
from safehold.deploy.certificates.paper import Paper
from safehold.deploy.certificates.risk_ledger import RiskLedger
from safehold.deploy.certificates.rule import Rule
from safehold.deploy.declaration import Declaration, Settings
from safehold.deploy.optimizer import TargetOptimizer
from safehold.deploy.prior import Prior
from safehold.envs.suites.icu_sepsis import HORIZON, LEVELS, VERSION, TabularPolicy
from safehold.envs.suites.icu_sepsis_dial import Behaviours, Sampler, SepsisFamily, behaviours

SEED = 20251112
DELTA = 0.05
LIMIT = Limit("cost", 18.0)
CAP = HORIZON * 2.0 * (LEVELS - 1)
"""Largest cost of one patient: both drugs at their highest level until the clock runs out."""
ASKS = 20
BATCHES = (20, 100, 500)
"""Patients an ask."""
LOGGED = 500
"""Logged patients a behaviour."""
WIDTHS = (0.015, 2.0)
"""Of the dial: how sharply it tells logged survival and logged cost apart."""
SUPPORT = 2.0
"""A target is supported within so many widths of some behaviour's logged returns."""
SPACE = TargetSpace(
    {
        "reward": tuple(np.linspace(0.78, 0.88, 6).round(3).tolist()),
        "cost": tuple(np.arange(5.0, 29.0).tolist()),
    }
)
OUTCOME_COLUMNS = (
    "rule",
    "patients an ask",
    "asks",
    "unsafe asks",
    "unsafe seeds asked",
    "upper bounds below the truth",
    "largest true cost asked",
    "charged",
    "unsafe targets charged for",
    "unsafe targets ever certified",
    "targets ever bounded below the truth",
    "held",
    "recommended: true survival",
    "recommended: true cost",
)
SPANS = {name: values[-1] - values[0] for name, values in SPACE.axes.items()}
NORM_SHARE, NORM_BOUND = 0.15, 2.5
"""For `log_det`: length-scales as a share of each axis, and half more than the largest norm of runs 1000 to 1009."""
SLOPES = (270.0, 4.6)
"""For `lipschitz`: half more than the largest slopes there, in dose levels per unit of survival and of asked cost."""
ERRORS = 4.0
"""For `lipschitz`: standard errors that no measurement is off by more than."""


@dataclass(frozen=True, kw_only=True)
class Dial:
    """A family made from one log, what a deployment may know of it, and the truth.

    `episode_sd`: standard deviation of one logged patient's (reward, cost) around the mean of its behaviour.
    """

    family: SepsisFamily
    episode_sd: tuple[float, float]
    support: Bool[np.ndarray, "m"]
    true_reward: Float[np.ndarray, "m"]
    true_cost: Float[np.ndarray, "m"]

    @property
    def safe(self) -> Bool[np.ndarray, "m"]:
        """Supported targets whose true expected cost is at or under the limit."""
        return self.support & (self.true_cost <= LIMIT.value)

    @property
    def seeds(self) -> Bool[np.ndarray, "m"]:
        """Supported targets that ask for at most a third of the limit."""
        return self.support & (SPACE.points[:, 1] <= LIMIT.value / 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One deployment, judged by the truth.

    Of its asks: `costs` are true expected costs, `bounds` the certificates' upper bounds (None: no bound was stated),
    `seeds` whether the target was handed out on the seeds' premise, `charges` what was charged. `charged_unsafe` counts
    distinct unsafe targets that were charged for. Over all supported targets and all times: `certified_unsafe` counts
    those that the rule ever certified and are unsafe, `bounds_below` those whose upper bound ever was below the truth
    (None for a rule without bounds). The recommendation by its true reward and cost, None if there is none.
    """

    rule: str
    batch: int
    costs: tuple[float, ...]
    bounds: tuple[float | None, ...]
    seeds: tuple[bool, ...]
    charges: tuple[float, ...]
    charged_unsafe: int
    certified_unsafe: int
    bounds_below: int | None
    held: str
    reward: float | None
    cost: float | None

    @property
    def unsafe(self) -> int:
        """Asks whose true expected cost is not at or under the limit."""
        return sum(not LIMIT.holds(cost) for cost in self.costs)

    @property
    def unsafe_seeds(self) -> int:
        """Those of them that rest on the seeds' premise."""
        return sum(seed and not LIMIT.holds(cost) for cost, seed in zip(self.costs, self.seeds, strict=True))

    @property
    def false_bounds(self) -> int:
        """Certificates that state an upper bound below the truth, on whatever side of the limit."""
        pairs = zip(self.bounds, self.costs, strict=True)
        return sum(bound is not None and not cost <= bound for bound, cost in pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One log, its dial in numbers, and every deployment on it.

    `dial_error`: root mean square of true minus asked cost over supported targets, `worst_dial_error` its largest.
    `naive_cost` is the true cost of the dial taken at its word. `best_reward`: of the best safe target;
    `seed_reward`: of the best seed target. `unsafe_seeds` of `seeds` seed targets are above the limit.
    """

    number: int
    supported: int
    safe: int
    dial_error: float
    worst_dial_error: float
    seeds: int
    unsafe_seeds: int
    naive_cost: float
    best_reward: float
    seed_reward: float
    outcomes: tuple[Outcome, ...]


def declarations(dial: Dial, batch: int) -> dict[str, Declaration]:
    """One declaration a certificate rule, by its name; they differ in the rule and in what it needs to be told."""
    reward_sd, cost_sd = dial.episode_sd

    def declaration(rule: Rule, share: float | None) -> Declaration:
        prior = Prior.asked(
            SPACE,
            [LIMIT],
            dial.support,
            lengthscales=None if share is None else {name: share * span for name, span in SPANS.items()},
            episode_sd={LIMIT.name: cost_sd},
            reward_episode_sd=reward_sd,
        )
        return Declaration(
            prior=prior,
            limits=(LIMIT,),
            caps={LIMIT.name: CAP},
            seed_targets=tuple(SPACE.target(int(place)) for place in np.flatnonzero(dial.seeds)),
            delta=DELTA,
            horizon=ASKS,
            rules=(rule,),
            settings=Settings(episodes_per_ask=batch),
        )

    noise_bound = {LIMIT.name: ERRORS * cost_sd / math.sqrt(batch)}
    chosen = (
        declaration(RiskLedger(), None),
        declaration(Paper(), 0.5),
        declaration(LogDet({LIMIT.name: NORM_BOUND}, {LIMIT.name: cost_sd}), NORM_SHARE),
        declaration(Lipschitz({LIMIT.name: SLOPES}, noise_bound), 0.5),
    )
    return {one.rules[0].kind: one for one in chosen}


def draw_dial(known: Behaviours, sampler: Sampler, rng: np.random.Generator) -> Dial:
    """A fresh log of every behaviour, and the dial that it makes."""
    logged, variances = [], []
    for chances in known.chances:
        outcomes = np.stack(sampler.returns(TabularPolicy(chances), LOGGED, rng))  # (2, patients)
        logged.append(outcomes.mean(axis=1))
        variances.append(outcomes.var(axis=1, ddof=1))
    family = SepsisFamily(known, np.array(logged), WIDTHS)
    truth = family.expected_returns(SPACE.points)
    reward_sd, cost_sd = np.sqrt(np.mean(variances, axis=0))
    return Dial(
        family=family,
        episode_sd=(float(reward_sd), float(cost_sd)),
        support=family.distances(SPACE.points).min(axis=1) <= SUPPORT,
        true_reward=truth[:, 0],
        true_cost=truth[:, 1],
    )


def deploy(
    rule: str, declaration: Declaration, dial: Dial, sampler: Sampler, batch: int, rng: np.random.Generator
) -> Outcome:
    """One whole deployment, until it holds."""
    optimizer = TargetOptimizer(declaration)
    places, bounds, seeds, charges, held = [], [], [], [], ""
    certified, below, bounding = np.zeros_like(dial.support), np.zeros_like(dial.support), False
    while not held:
        (verdict,) = optimizer.state.verdict().rules
        certified |= verdict.certified
        below |= ~(dial.true_cost <= verdict.intervals[LIMIT.name].upper)
        bounding = verdict.bounding
        try:
            trial = optimizer.ask()
        except SafetyHold as hold:
            held = type(hold).__name__
            break
        certificate = trial.certificate
        places.append(SPACE.index(trial.target))
        bounds.append(None if certificate.upper is None else certificate.upper[LIMIT.name])
        seeds.append(certificate.basis == "premise")
        charges.append(certificate.charge)
        rewards, outcomes = sampler.returns(dial.family.at(trial.target), batch, rng)
        optimizer.tell(
            trial.id,
            Measurement(rewards=rewards, costs={LIMIT.name: outcomes}, failed=np.zeros(batch, dtype=np.bool_)),
        )
    try:
        recommended = optimizer.recommend().index
    except SafetyHold:
        recommended = None
    over = ~(dial.true_cost <= LIMIT.value)
    unsafe = set(np.flatnonzero(over).tolist())
    return Outcome(
        rule=rule,
        batch=batch,
        costs=tuple(dial.true_cost[places].tolist()),
        bounds=tuple(bounds),
        seeds=tuple(seeds),
        charges=tuple(charges),
        charged_unsafe=len({place for place, charge in zip(places, charges, strict=True) if charge > 0} & unsafe),
        certified_unsafe=int(np.sum(certified & over & dial.support)),
        bounds_below=int(np.sum(below & dial.support)) if bounding else None,
        held=held,
        reward=None if recommended is None else float(dial.true_reward[recommended]),
        cost=None if recommended is None else float(dial.true_cost[recommended]),
    )


def run(number: int, known: Behaviours, sampler: Sampler) -> Run:
    """Run `number` of the study; depends on nothing else."""
    streams = Streams(SEED)
    dial = draw_dial(known, sampler, streams[f"log/{number}"])
    outcomes = [
        deploy(rule, declaration, dial, sampler, batch, streams[f"patients/{number}/{batch}/{rule}"])
        for batch in BATCHES
        for rule, declaration in declarations(dial, batch).items()
    ]
    error = (dial.true_cost - SPACE.points[:, 1])[dial.support]
    asked_limit = dial.support & (SPACE.points[:, 1] == LIMIT.value)
    naive = int(np.flatnonzero(asked_limit)[-1])  # the last has the highest asked reward
    return Run(
        number=number,
        supported=int(dial.support.sum()),
        safe=int(dial.safe.sum()),
        dial_error=float(np.sqrt(np.mean(error**2))),
        worst_dial_error=float(np.max(np.abs(error))),
        seeds=int(dial.seeds.sum()),
        unsafe_seeds=int(np.sum(~(dial.true_cost[dial.seeds] <= LIMIT.value))),
        naive_cost=float(dial.true_cost[naive]),
        best_reward=float(dial.true_reward[dial.safe].max()),
        seed_reward=float(dial.true_reward[dial.seeds].max()),
        outcomes=tuple(outcomes),
    )


def table(runs: Sequence[Run]) -> str:
    """What the study says, in Markdown."""
    n = len(runs)
    naive = sum(not LIMIT.holds(run.naive_cost) for run in runs)
    over = [run.naive_cost - LIMIT.value for run in runs]
    seeds, unsafe_seeds = sum(run.seeds for run in runs), sum(run.unsafe_seeds for run in runs)
    lines = [
        f"{n} runs, limit {LIMIT.value:g} dose levels a patient, delta = {DELTA:g}. Of {len(SPACE)} targets "
        f"{_mean([run.supported for run in runs], 0)} are supported and {_mean([run.safe for run in runs], 0)} of "
        f"those truly safe. The dial is off by {_mean([run.dial_error for run in runs], 2)} dose levels (root mean "
        f"square; at worst by {max(run.worst_dial_error for run in runs):.1f}). Truly unsafe seed targets: "
        f"{unsafe_seeds} of {seeds}.",
        "",
        f"The dial taken at its word is above the limit in {naive} of {n} runs "
        f"{_span(proportion_interval(naive, n), 2)}, at worst by {max(over):.1f}. Survival: best seed target "
        f"{_mean([run.seed_reward for run in runs], 4)}, best safe target "
        f"{_mean([run.best_reward for run in runs], 4)}.",
        "",
        "| rule | patients an ask | runs with an unsafe target | 95 % interval | verdict | unsafe asks | of them seeds "
        "| upper bounds below the truth | asks that rest on a bound | regret in survival | share of the gap closed "
        "| no recommendation | held before the end | charged a run | unsafe targets charged for a run "
        "| runs that ever certified an unsafe target | runs with a bound below the truth anywhere |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    kinds = [(outcome.rule, outcome.batch) for outcome in runs[0].outcomes]
    for place, (rule, batch) in enumerate(kinds):
        cells = _cells(runs, [run.outcomes[place] for run in runs])
        lines.append(f"| {rule} | {batch} | {' | '.join(cells)} |")
    lines += [
        "",
        "Intervals in brackets are at 95 %: Clopper-Pearson for shares, Student's t for means. Regret: true survival "
        "of the best safe target less that of the recommendation; the gap is that between the best seed target and the "
        "best safe one, both in total over the runs with a recommendation.",
    ]
    return "\n".join(lines)


def _cells(runs: Sequence[Run], outcomes: Sequence[Outcome]) -> list[str]:
    """One rule at one batch size."""
    n = len(outcomes)
    violating = sum(outcome.unsafe > 0 for outcome in outcomes)
    fails = proportion_interval(violating, n, level=0.98).low > DELTA  # its lower end: one-sided 99 %
    asks = sum(len(outcome.costs) for outcome in outcomes)
    bounds = sum(bound is not None for outcome in outcomes for bound in outcome.bounds)
    by_bound = sum(not seed for outcome in outcomes for seed in outcome.seeds)
    found = [(run, outcome.reward) for run, outcome in zip(runs, outcomes, strict=True) if outcome.reward is not None]
    regrets = np.array([run.best_reward - reward for run, reward in found])
    gap = sum(run.best_reward - run.seed_reward for run, _ in found)
    below = [outcome.bounds_below for outcome in outcomes if outcome.bounds_below is not None]
    return [
        f"{violating} of {n}",
        _span(proportion_interval(violating, n), 3),
        "fails" if fails else "passes",
        f"{sum(outcome.unsafe for outcome in outcomes)} of {asks}",
        str(sum(outcome.unsafe_seeds for outcome in outcomes)),
        f"{sum(outcome.false_bounds for outcome in outcomes)} of {bounds}",
        f"{by_bound} of {asks}",
        f"{regrets.mean():.4f} {_span(mean_interval(regrets), 4)}" if found else "",
        f"{1 - regrets.sum() / gap:.2f}" if found else "",
        f"{n - len(found)}",
        str(sum(outcome.held != "Exhausted" for outcome in outcomes)),
        f"{np.mean([sum(outcome.charges) for outcome in outcomes]):.4f}",
        f"{np.mean([outcome.charged_unsafe for outcome in outcomes]):.4f}",
        f"{sum(outcome.certified_unsafe > 0 for outcome in outcomes)} of {n}",
        f"{sum(count > 0 for count in below)} of {n}" if below else "no bounds",
    ]


def _mean(values: Sequence[float], digits: int) -> str:
    return f"{np.mean(values):.{digits}f}"


def _span(interval: Interval, digits: int) -> str:
    return f"[{interval.low:.{digits}f}, {interval.high:.{digits}f}]" if interval.known else "[unknown]"


def _plain(run: Run) -> dict[str, object]:
    """A run for the record: its numbers, and those of each deployment in a row under `OUTCOME_COLUMNS`."""
    rows = [
        [
            outcome.rule,
            outcome.batch,
            len(outcome.costs),
            outcome.unsafe,
            outcome.unsafe_seeds,
            outcome.false_bounds,
            round(max(outcome.costs, default=0.0), 3),
            round(sum(outcome.charges), 5),
            outcome.charged_unsafe,
            outcome.certified_unsafe,
            outcome.bounds_below,
            outcome.held,
            None if outcome.reward is None else round(outcome.reward, 5),
            None if outcome.cost is None else round(outcome.cost, 3),
        ]
        for outcome in run.outcomes
    ]
    return {**{name: value for name, value in asdict(run).items() if name != "outcomes"}, "outcomes": rows}


def main() -> None:
    """Runs the study and writes what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    arguments = parser.parse_args()
    commit, started = commit_here(), time.process_time()
    known, sampler = behaviours(), Sampler()
    runs = []
    for number in range(arguments.first, arguments.first + arguments.runs):
        runs.append(run(number, known, sampler))
        if len(runs) % 10 == 0:
            print(f"{len(runs)} runs, {time.process_time() - started:.0f} CPU seconds", flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    record = {
        "command": f"python reproductions/exact_world.py --runs {arguments.runs} --first {arguments.first}",
        "commit": commit,
        "python": platform.python_version(),
        "icu_sepsis": VERSION,
        "seed": SEED,
        "limit": LIMIT.value,
        "delta": DELTA,
        "outcome_columns": OUTCOME_COLUMNS,
        "runs": [_plain(one) for one in runs],
    }
    (arguments.out / "exact-world.json").write_text(json.dumps(record) + "\n")
    (arguments.out / "exact-world.md").write_text(table(runs) + "\n")
    print(table(runs))


if __name__ == "__main__":
    main()
