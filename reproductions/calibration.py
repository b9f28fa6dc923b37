"""Whether each certificate keeps its promise where its own assumptions hold: runs with an unsafe target, cell by cell.

    python reproductions/calibration.py [--minutes 65] [--blocks runs/calibration.jsonl] [--out docs/results]

Written down before the runs that are reported, after trial runs of two to ten a cell; the runs a cell were then cut for
want of time, and the one-limit and the mixture cells tilted so that the reward lies near the limit, which is the harder
case. All of it is reported:

* Cells. Certificate (paper, risk_ledger, log_det, lipschitz) x delta (.01, .05, .1, .2) x acquisition (staged,
  reward_ucb, goal, widest) x batch (1, 5, 10 trials open at once) x 1, 2, 3 limits x noise (the same everywhere, or
  growing threefold along the reward axis), all with a known model: 1152 cells. The default prior, a mixture of 14
  models, with the default certificate and acquisition: delta x batch (1, 5) x noise (known, or estimated from
  replicates, the truth being 1.5 times the declared floor): 16 cells, one limit.
* One run: a dial of 9 x 9 targets (reward 0 to 100, cost 80 to 130, every limit at 100), 3 seed targets at cost 80,
  20 asks of 20 episodes (30 asks where 10 are open at once). Costs are expected to rise along both axes; the reward is
  expected to be what is asked. The deciding code is safehold's own, whole.
* Worlds, each under the certificate's own assumptions. paper, risk_ledger: outputs drawn from the declared Gaussian
  process (sd 12, squared-exponential, length-scales 0.3 of each axis), normal episodes of sd 8 (or 4 to 12). Mixture: a
  member drawn by its weight, then a function of it. log_det: functions of norm exactly B = 2 around the declared mean,
  made of 1, 5 or 60 kernels at random places, a single one always upwards; episodes sub-Gaussian of constant at most
  R = 8: normal, all-or-nothing or uniform. lipschitz: slopes exactly L = (0.3, 0.8) cost units a unit of each axis, as
  zigzags along each axis or as a maximum or minimum of cones; told means off by at most E = 4: uniform, at either end,
  or always E too low.
* Two protocols, from the same runs. Whatever the seeds: worlds are drawn as they come, and a run violates if a target
  that the rules certified is unsafe; seed targets handed out on the premise that they are safe do not count. Given safe
  seeds: only the runs whose seed targets are all safe, and any unsafe target handed out counts. (log_det and lipschitz
  promise for one fixed function: all of theirs are drawn with safe seeds, and the two are the same.)
* A cell fails if the one-sided 99 % lower bound of Clopper and Pearson on its share of violating runs is above delta,
  in either protocol. Were every true share exactly delta, about 1 in 100 cells would fail by chance, less where runs
  are few; both the number of failures and this expectation are reported. All cells of one certificate and one delta
  together must be at or below delta in share.
* Of the ledger: the charges of a run never exceed its delta (every run, exactly); distinct unsafe targets that were
  paid for are, over all runs of one delta, at most charges + 3 standard errors; and charges at most 3 times them.
* Runs a cell: 2000 where batch = 1, limits = 1 and the acquisition is the default one (the key cells); elsewhere 60
  (risk_ledger), 20 (the others), and 300 for the mixture, because a run takes 20 to 80 ms and there are 1168 cells.
  lipschitz does not use delta but for scoring: its key cells other than at delta = .05 have 500 runs. Single cells of
  20 runs find only gross faults; finer ones are looked for by one factor at a time, over all cells that share it.
* Run i of a cell depends on (seed 20260103, the cell's name, i) alone. Blocks of runs are appended to a file in a fixed
  order, first some of every cell, and a second call goes on where the first stopped; --minutes ends it between two
  blocks, and what is missing then is said.
"""

import argparse
import json
import math
import platform
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.stats import binom

from safehold import __version__
from safehold.core.constraint import Limit
from safehold.core.intervals import Interval, proportion_interval
from safehold.core.seeding import Streams
from safehold.core.target import TargetSpace
from safehold.deploy.acquisition import ACQUISITIONS, AcquisitionName
from safehold.deploy.certificates.lipschitz import Lipschitz
from safehold.deploy.certificates.log_det import LogDet
from safehold.deploy.certificates.paper import Paper
from safehold.deploy.certificates.risk_ledger import RiskLedger
from safehold.deploy.certificates.rule import Rule
from safehold.deploy.declaration import Declaration, Settings
from safehold.deploy.prior import OutputPrior, Prior
from safehold.deploy.replay import State
from safehold.deploy.simulate import SimulatedRun, World, WorldSampler, gaussian, simulate
from safehold.gp.kernels import SquaredExponential

SEED = 20260103
DELTAS = (0.01, 0.05, 0.1, 0.2)
BATCHES = (1, 5, 10)
LIMITS = (1, 2, 3)
KEY_RUNS, LEDGER_RUNS, OTHER_RUNS, MIXTURE_RUNS, LIPSCHITZ_KEY_RUNS = 2000, 60, 20, 300, 500
BLOCK = 500
"""Most runs of one line of the file."""

SIZE, ASKS, EPISODES = 9, 20, 20
ASKS_OF_TEN = 30
SPAN, LOWEST, HIGHEST, LIMIT, CAP = 100.0, 80.0, 130.0, 100.0, 400.0
SIGNAL, NOISE, LENGTH = 12.0, 8.0, 0.3
NORM, SLOPES, ERROR = 2.0, (0.3, 0.8), 4.0
FLOOR_FACTOR = 1.5
"""True noise over the declared floor, where it is estimated."""

Worlds = Callable[[np.random.Generator], World]


@dataclass(frozen=True, slots=True)
class Cell:
    """One combination; `mixture` is the default prior instead of a known model, its noise known or estimated."""

    rule: str
    delta: float
    acquisition: AcquisitionName
    batch: int
    limits: int
    noise: str
    mixture: bool = False

    @property
    def name(self) -> str:
        """As in the file, and in the runs' random streams."""
        model = "mixture" if self.mixture else self.rule
        return f"{model} {self.delta:g} {self.acquisition} batch {self.batch} limits {self.limits} noise {self.noise}"

    @property
    def key(self) -> bool:
        """Whether it is one of the cells with most runs."""
        return (self.batch, self.limits, self.acquisition) == (1, 1, Settings().acquisition) and not self.mixture

    @property
    def runs(self) -> int:
        """Planned runs."""
        if self.mixture:
            return MIXTURE_RUNS
        if self.key:
            return LIPSCHITZ_KEY_RUNS if self.rule == "lipschitz" and self.delta != 0.05 else KEY_RUNS
        return LEDGER_RUNS if self.rule == "risk_ledger" else OTHER_RUNS


@dataclass(slots=True)
class Tally:
    """What some runs of one cell came to.

    `violating`: runs with an unsafe target that the rules certified; `safe_seeds`: runs whose seed targets are safe,
    `violating_safe` of which had any unsafe target. `charge`, `unsafe`: sums over the runs of what was charged, and of
    distinct unsafe targets that were paid for; `squares`: of the squared difference of the two. `over`: runs that were
    charged more than delta.
    """

    runs: int = 0
    violating: int = 0
    safe_seeds: int = 0
    violating_safe: int = 0
    charge: float = 0.0
    unsafe: int = 0
    squares: float = 0.0
    over: int = 0
    seconds: float = 0.0

    def take(self, run: SimulatedRun, delta: float) -> None:
        """One more run."""
        charged = sum(run.charges)
        self.runs += 1
        self.violating += run.rules_violating
        self.safe_seeds += run.seeds_safe
        self.violating_safe += run.seeds_safe and run.violating
        self.charge += charged
        self.unsafe += run.charged_unsafe
        self.squares += (run.charged_unsafe - charged) ** 2
        self.over += not charged <= delta * (1 + 1e-12)

    def add(self, other: "Tally") -> None:
        """More runs."""
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)


def cells() -> list[Cell]:
    """All of them, in the order of the file."""
    rules = ("risk_ledger", "paper", "log_det", "lipschitz")
    known = product(rules, DELTAS, sorted(ACQUISITIONS), BATCHES, LIMITS, ("same", "growing"))
    mixture = product(DELTAS, (1, 5), ("known", "estimated"))
    default = Settings().acquisition
    return [Cell(*one) for one in known] + [Cell("risk_ledger", d, default, b, 1, n, True) for d, b, n in mixture]


def declared(cell: Cell) -> Declaration:
    """What is declared in a cell."""
    space = TargetSpace(
        {"reward": tuple(np.linspace(0.0, SPAN, SIZE)), "cost": tuple(np.linspace(LOWEST, HIGHEST, SIZE))}
    )
    points = space.points
    limits = tuple(Limit(name, LIMIT) for name in ("cost", "wear", "heat")[: cell.limits])
    everywhere = np.ones(len(space), dtype=np.bool_)
    if cell.mixture:
        prior = Prior.asked(
            space,
            limits,
            everywhere,
            dial_error={"cost": SIGNAL},
            episode_sd={"cost": NOISE},
            noise_known=cell.noise == "known",
            reward_dial_error=0.1 * SPAN,
            reward_episode_sd=NOISE,
        )
        prior = replace(prior, costs={"cost": replace(prior.costs["cost"], mean=tilted(points))})
    else:
        share = points[:, 0] / SPAN
        scatter = NOISE if cell.noise == "same" else NOISE * (0.5 + share)
        scales = (LENGTH * SPAN, LENGTH * (HIGHEST - LOWEST))
        second, third = LOWEST + 0.4 * (points[:, 1] - LOWEST) + 20.0 * share, LOWEST + 35.0 * share
        means = (tilted(points) if cell.limits == 1 else points[:, 1], second, third)
        prior = Prior(
            space=space,
            reward=OutputPrior(
                mean=points[:, 0].copy(),
                kernels=(SquaredExponential(0.1 * SPAN, scales),),
                episode_sd=NOISE,
                noise_known=True,
            ),
            costs={
                limit.name: OutputPrior(
                    mean=mean, kernels=(SquaredExponential(SIGNAL, scales),), episode_sd=scatter, noise_known=True
                )
                for limit, mean in zip(limits, means, strict=False)
            },
            support=everywhere,
        )
    names = [limit.name for limit in limits]
    rules: dict[str, Rule] = {
        "paper": Paper(),
        "risk_ledger": RiskLedger(),
        "log_det": LogDet(dict.fromkeys(names, NORM), dict.fromkeys(names, NOISE)),
        "lipschitz": Lipschitz(dict.fromkeys(names, SLOPES), dict.fromkeys(names, ERROR)),
    }
    return Declaration(
        prior=prior,
        limits=limits,
        caps=dict.fromkeys(names, CAP),
        seed_targets=tuple(
            space.target(int(i)) for i in np.flatnonzero((points[:, 1] == LOWEST) & (share_low(points)))
        ),
        delta=cell.delta,
        horizon=ASKS_OF_TEN if cell.batch == 10 else ASKS,
        rules=(rules[cell.rule],),
        settings=Settings(
            acquisition=cell.acquisition,
            exploration_width=0.05,
            pending_cap=cell.batch,
            episodes_per_ask=EPISODES,
        ),
    )


def tilted(points: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "m"]:
    """What a cost is expected to be that is limited alone: 80 to 130, half of it along each axis."""
    return LOWEST + 0.5 * (points[:, 1] - LOWEST) + 0.5 * (HIGHEST - LOWEST) * points[:, 0] / SPAN


def share_low(points: Float[np.ndarray, "m d"]) -> np.ndarray:
    """Targets of the lowest quarter of rewards."""
    return points[:, 0] <= SPAN / 4


def worlds(cell: Cell, declaration: Declaration) -> Worlds:
    """Draws the worlds of a cell."""
    if cell.rule in ("paper", "risk_ledger"):
        sampler = WorldSampler(declaration)
        factor = FLOOR_FACTOR if cell.mixture and cell.noise == "estimated" else 1.0

        def drawn(rng: np.random.Generator) -> World:
            world = sampler.draw(rng, "any")
            return scattering(world, {name: factor * sd for name, sd in world.cost_episode_sds.items()}, gaussian)

        return drawn
    shape = norm_bounded if cell.rule == "log_det" else lipschitz
    reward = WorldSampler(declaration)

    def fixed(rng: np.random.Generator) -> World:
        world = reward.draw(rng, "any")
        for _ in range(10_000):
            costs = {name: shape(declaration, output, rng) for name, output in declaration.prior.costs.items()}
            candidate = World(
                reward=world.reward,
                costs=costs,
                reward_episode_sd=world.reward_episode_sd,
                cost_episode_sds=bounded(world.cost_episode_sds, cell.rule),
                noise=LAWS[cell.rule][int(rng.integers(3))],
            )
            if candidate.safe(declaration)[declaration.seed_indices].all():
                return candidate
        raise RuntimeError(f"no function with safe seeds in cell {cell.name}")

    return fixed


def scattering(world: World, sds: Mapping[str, float | np.ndarray], law: Callable[..., np.ndarray]) -> World:
    """The same world with other episodes."""
    return World(
        reward=world.reward,
        costs=world.costs,
        reward_episode_sd=world.reward_episode_sd,
        cost_episode_sds=sds,
        kappas=world.kappas,
        noise=law,
    )


def norm_bounded(declaration: Declaration, output: OutputPrior, rng: np.random.Generator) -> Float[np.ndarray, "m"]:
    """A cost of norm exactly NORM around the declared mean, in the space of the declared kernel."""
    kernel, points = output.kernels[0], declaration.space.points
    centres = int(rng.choice([1, 5, 60]))
    places = rng.uniform([0.0, LOWEST], [SPAN, HIGHEST], size=(centres, 2))
    weights = np.ones(1) if centres == 1 else rng.standard_normal(centres)
    norm = math.sqrt(float(weights @ kernel(places, places) @ weights))
    return output.mean + NORM / norm * (kernel(points, places) @ weights)


def lipschitz(declaration: Declaration, output: OutputPrior, rng: np.random.Generator) -> Float[np.ndarray, "m"]:
    """A cost with slopes of exactly SLOPES along the axes, at 0 at least."""
    del output
    points = declaration.space.points
    start = points[int(rng.choice(declaration.seed_indices))]
    level = rng.uniform(70.0, 98.0)
    if rng.random() < 0.5:
        total = np.zeros(len(points))
        for axis, (values, slope) in enumerate(zip(declaration.space.axes.values(), SLOPES, strict=True)):
            steps = np.diff(values) * slope * np.where(rng.random(len(values) - 1) < 0.65, 1.0, -1.0)
            along = np.concatenate([[0.0], np.cumsum(steps)])
            total += along[np.searchsorted(values, points[:, axis])]
        total += level - total[declaration.space.index(tuple(start))]
    else:
        sign = 1.0 if rng.random() < 0.5 else -1.0
        places = np.vstack([start, points[rng.integers(len(points), size=4)]])
        heights = np.concatenate([[level], rng.uniform(80.0, 115.0, size=4)])
        cones = heights[:, None] + sign * (np.abs(points - places[:, None, :]) @ np.array(SLOPES))
        total = cones.min(axis=0) if sign > 0 else cones.max(axis=0)
    return np.maximum(total, 0.0)


def bounded(sds: Mapping[str, float | np.ndarray], rule: str) -> dict[str, float | np.ndarray]:
    """The declared scatter, no larger anywhere than the one constant of the rule."""
    top = NOISE if rule == "log_det" else ERROR
    return {name: top * np.asarray(sd) / np.max(sd) * np.ones(SIZE**2) for name, sd in sds.items()}


def all_or_nothing(sd: float, episodes: int, rng: np.random.Generator) -> Float[np.ndarray, "_"]:
    """Plus or minus sd: sub-Gaussian of that constant."""
    return sd * np.where(rng.random(episodes) < 0.5, -1.0, 1.0)


def uniform(sd: float, episodes: int, rng: np.random.Generator) -> Float[np.ndarray, "_"]:
    """Uniform of this sd: strictly sub-Gaussian."""
    return math.sqrt(3.0) * sd * rng.uniform(-1.0, 1.0, episodes)


def off_anywhere(error: float, episodes: int, rng: np.random.Generator) -> Float[np.ndarray, "_"]:
    """All episodes of one measurement off by the same, at most the bound."""
    return np.full(episodes, error * rng.uniform(-1.0, 1.0))


def off_at_an_end(error: float, episodes: int, rng: np.random.Generator) -> Float[np.ndarray, "_"]:
    """All episodes of one measurement off by the bound, up or down."""
    return np.full(episodes, error * float(rng.choice([-1.0, 1.0])))


def too_low(error: float, episodes: int, rng: np.random.Generator) -> Float[np.ndarray, "_"]:  # noqa: ARG001
    """Every measurement too low by the bound."""
    return np.full(episodes, -error)


LAWS = {"log_det": (gaussian, all_or_nothing, uniform), "lipschitz": (off_anywhere, off_at_an_end, too_low)}


class Study:
    """Runs of cells; the declaration, its first state and the sampler of the present cell are kept."""

    def __init__(self) -> None:
        self._at: tuple[Cell, Declaration, State, Worlds] | None = None

    def block(self, cell: Cell, first: int, runs: int) -> Tally:
        """Runs number `first` to `first + runs - 1` of a cell."""
        begin = time.process_time()
        if self._at is None or self._at[0] != cell:
            declaration = declared(cell)
            self._at = (cell, declaration, State.start(declaration), worlds(cell, declaration))
        _, declaration, start, draw = self._at
        tally = Tally()
        for number in range(first, first + runs):
            rng = Streams(SEED)[f"{cell.name}/{number}"]
            tally.take(simulate(declaration, draw(rng), rng, start), cell.delta)
        tally.seconds = time.process_time() - begin
        return tally


def schedule() -> Iterator[tuple[Cell, int, int]]:
    """Every block in order: key cells of what uses delta up, some runs of every cell, the key cells, then the rest."""
    everyone = cells()
    done = dict.fromkeys(everyone, 0)
    keys = [cell for cell in everyone if cell.key or cell.mixture]
    first = [cell for cell in keys if cell.rule in ("risk_ledger", "paper")]
    passes = [
        (everyone[:490], OTHER_RUNS),
        (first, 100),
        (first, 300),
        (everyone, OTHER_RUNS),
        (keys, 500),
        (keys, 1000),
        (everyone, LEDGER_RUNS),
        (keys, KEY_RUNS),
    ]
    for some, until in passes:
        for cell in some:
            while done[cell] < min(until, cell.runs):
                runs = min(BLOCK, min(until, cell.runs) - done[cell])
                yield cell, done[cell], runs
                done[cell] += runs


def read(path: Path) -> dict[tuple[str, int, int], Tally]:
    """The blocks of a file; a last line that was cut off is left out."""
    blocks = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            plain = json.loads(line)
        except ValueError:
            continue
        blocks[plain["cell"], plain["first"], plain["runs"]] = Tally(**plain["tally"])
    return blocks


def run(path: Path, minutes: float, commit: str, shard: str = "0/1") -> None:
    """Appends the blocks that are missing, of every so many (`shard` "i/n") the i-th, until the time is up."""
    path.parent.mkdir(parents=True, exist_ok=True)
    known, study, begin = read(path), Study(), time.monotonic()
    which, of = (int(part) for part in shard.split("/"))
    for number, (cell, first, runs) in enumerate(schedule()):
        if number % of != which or (cell.name, first, runs) in known:
            continue
        if time.monotonic() - begin > 60.0 * minutes:
            return
        tally = study.block(cell, first, runs)
        with path.open("a") as file:
            plain = {"cell": cell.name, "first": first, "runs": runs, "tally": asdict(tally), "commit": commit}
            file.write(json.dumps(plain) + "\n")


def commits(path: Path) -> list[str]:
    """Of the code that made the runs, in order."""
    lines = path.read_text().splitlines() if path.exists() else []
    return list(dict.fromkeys(found[1] for line in lines if (found := re.search(r'"commit": "(\w+)"', line))))


def summed(path: Path) -> dict[Cell, Tally]:
    """What every cell came to."""
    tallies: dict[Cell, Tally] = {cell: Tally() for cell in cells()}
    by_name = {cell.name: cell for cell in tallies}
    for (name, _, _), tally in read(path).items():
        tallies[by_name[name]].add(tally)
    return tallies


def fails(count: int, runs: int, delta: float) -> bool:
    """Whether the one-sided 99 % lower bound on the share is above delta."""
    return runs > 0 and not proportion_interval(count, runs, 0.98).low <= delta


def chance_of_failing(runs: int, delta: float) -> float:
    """P(fails) were the true share exactly delta."""
    counts = np.arange(runs + 1)
    least = next((int(count) for count in counts if fails(int(count), runs, delta)), runs + 1)
    return float(binom.sf(least - 1, runs, delta))


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """All cells of one certificate (or the mixture) and one delta together; shares with their 95 % intervals.

    `by_chance`: failing cells that are expected were every true share exactly delta. `excess`: of unsafe paid targets
    over charges, a run, in standard errors.
    """

    certificate: str
    delta: float
    cells: int
    tally: Tally
    share: Interval
    given_safe_seeds: Interval
    failed_cells: int
    by_chance: float
    excess: float | None

    @property
    def within_3_times(self) -> bool:
        """Charges are at most 3 times what came of them."""
        return self.tally.charge <= 3 * self.tally.unsafe

    @property
    def keeps(self) -> bool:
        """Whether the promise shows in no cell, nor in the whole, as broken."""
        shares = self.share.estimate <= self.delta and self.given_safe_seeds.estimate <= self.delta
        return shares and not self.failed_cells and not self.tally.over and (self.excess is None or self.excess <= 3)


def groups(tallies: Mapping[Cell, Tally]) -> list[Group]:
    """By certificate and delta."""
    members: dict[tuple[str, float], list[tuple[Cell, Tally]]] = defaultdict(list)
    for cell, tally in tallies.items():
        if tally.runs:
            members["mixture" if cell.mixture else cell.rule, cell.delta].append((cell, tally))
    found = []
    for (name, delta), some in members.items():
        pooled = Tally()
        for _, tally in some:
            pooled.add(tally)
        excess = None
        if some[0][0].rule == "risk_ledger":
            mean = (pooled.unsafe - pooled.charge) / pooled.runs
            error = math.sqrt(max(pooled.squares / pooled.runs - mean**2, 1e-300) / pooled.runs)
            excess = mean / error
        failed = [fails(t.violating, t.runs, delta) or fails(t.violating_safe, t.safe_seeds, delta) for _, t in some]
        found.append(
            Group(
                certificate=name,
                delta=delta,
                cells=len(some),
                tally=pooled,
                share=proportion_interval(pooled.violating, pooled.runs),
                given_safe_seeds=proportion_interval(pooled.violating_safe, pooled.safe_seeds),
                failed_cells=sum(failed),
                by_chance=0.0 if name == "lipschitz" else sum(chance_of_failing(t.runs, delta) for _, t in some),
                excess=excess,
            )
        )
    return found


def factors(tallies: Mapping[Cell, Tally]) -> list[dict[str, object]]:
    """Shares of violating runs by one factor at a time, of the certificates that use delta up."""
    rows = []
    for name in ("acquisition", "batch", "limits", "noise"):
        for rule, delta in product(("risk_ledger", "paper", "log_det"), DELTAS):
            sums: dict[str, Tally] = defaultdict(Tally)
            for cell, tally in tallies.items():
                if cell.rule == rule and cell.delta == delta and not cell.mixture:
                    sums[str(getattr(cell, name))].add(tally)
            for level, tally in sums.items():
                if tally.runs:
                    rows.append(
                        {
                            "rule": rule,
                            "delta": delta,
                            "factor": name,
                            "level": level,
                            "runs": tally.runs,
                            "violating": tally.violating,
                            "fails": fails(tally.violating, tally.runs, delta)
                            or fails(tally.violating_safe, tally.safe_seeds, delta),
                        }
                    )
    return rows


def page(record: Mapping[str, object], tallies: Mapping[Cell, Tally]) -> str:
    """The tables."""
    found = groups(tallies)
    lines = [
        "# Calibration of the certificates",
        "",
        f"`{record['command']}` (safehold {__version__}, commit {record['commit']}, seed {SEED}). The script says",
        "what was fixed, and when. Shares of runs with an unsafe target; 95 % Clopper-Pearson intervals in brackets.",
        "A cell fails if the one-sided 99 % lower bound on its share is above delta, in either protocol.",
        "",
        "| certificate | delta | cells | runs | violating, whatever the seeds | given safe seeds | failed cells "
        "(by chance at delta) | kept |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.certificate} | {row.delta:g} | {row.cells} | {row.tally.runs} | {_span(row.share)} "
        f"| {_span(row.given_safe_seeds)} | {row.failed_cells} ({row.by_chance:.2f}) | {'yes' if row.keeps else 'NO'} |"
        for row in found
    ]
    lines += [
        "",
        "What the ledger charged, and what came of it: distinct unsafe targets that were paid for should be as many as",
        "the charges foretell, on average; no run may be charged more than delta.",
        "",
        "| prior | delta | mean charge | unsafe paid targets a run | excess, standard errors "
        "| charges at most 3 x unsafe | runs over budget |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {'known' if row.certificate == 'risk_ledger' else row.certificate} | {row.delta:g} "
        f"| {row.tally.charge / row.tally.runs:.5f} | {row.tally.unsafe / row.tally.runs:.5f} | {row.excess:.2f} "
        f"| {'yes' if row.within_3_times else 'NO'} | {row.tally.over} |"
        for row in found
        if row.excess is not None
    ]
    lines += ["", "By one factor at a time (risk_ledger, whatever the seeds; violating / runs):", ""]
    lines += [
        "| factor | level | " + " | ".join(f"delta {delta:g}" for delta in DELTAS) + " |",
        "|---" * 6 + "|",
    ]
    shares = {(r["factor"], r["level"], r["delta"]): r for r in factors(tallies) if r["rule"] == "risk_ledger"}
    for factor, level in dict.fromkeys((at[0], at[1]) for at in shares):
        some = [shares.get((factor, level, delta)) for delta in DELTAS]
        lines.append(
            f"| {factor} | {level} | "
            + " | ".join(
                "" if r is None else f"{r['violating']} / {r['runs']}{' FAILS' if r['fails'] else ''}" for r in some
            )
            + " |"
        )
    lines += ["", "The key cells (batch 1, one limit, staged; violating whatever the seeds, given safe seeds):", ""]
    lines += [
        "| certificate | noise | " + " | ".join(f"delta {delta:g}" for delta in DELTAS) + " |",
        "|---" * 6 + "|",
    ]
    keys = {(cell.rule, cell.noise, cell.delta): tally for cell, tally in tallies.items() if cell.key}
    for rule, noise in dict.fromkeys((at[0], at[1]) for at in keys):
        parts = [keys[rule, noise, delta] for delta in DELTAS]
        words = [f"{t.violating} / {t.runs}, {t.violating_safe} / {t.safe_seeds}" for t in parts]
        lines.append(f"| {rule} | {noise} | " + " | ".join(words) + " |")
    lines += ["", f"{record['missing']}"]
    return "\n".join(lines) + "\n"


def _span(share: Interval) -> str:
    return f"{share.estimate:.4f} [{share.low:.4f}, {share.high:.4f}]"


def main() -> None:
    """Runs what is missing and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=65.0)
    parser.add_argument("--blocks", type=Path, default=Path("runs/calibration.jsonl"))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--commit", default="unknown", help="commit of the code that made the runs, for the record")
    parser.add_argument("--shard", default="0/1", help="i/n: only every n-th block, for n processes on one file")
    arguments = parser.parse_args()
    run(arguments.blocks, arguments.minutes, arguments.commit, arguments.shard)
    tallies = summed(arguments.blocks)
    done, planned = sum(t.runs for t in tallies.values()), sum(cell.runs for cell in tallies)
    short = sum(t.runs < cell.runs for cell, t in tallies.items())
    record: dict[str, object] = {
        "command": "python reproductions/calibration.py",
        "commit": ", ".join(commits(arguments.blocks)),
        "seed": SEED,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "cpu_seconds": round(sum(t.seconds for t in tallies.values())),
        "missing": f"All {done} planned runs were made."
        if not short
        else f"{done} of {planned} planned runs were made; {short} of {len(tallies)} cells have fewer than planned.",
    }
    grouped = [asdict(row) | {"keeps": row.keeps, "within_3_times": row.within_3_times} for row in groups(tallies)]
    columns = "cell, runs, violating, runs with safe seeds, violating of them, charges, unsafe paid targets"
    table = [
        [
            cell.name,
            t.runs,
            t.violating,
            t.safe_seeds,
            t.violating_safe,
            round(t.charge, 3),
            t.unsafe,
        ]
        for cell, t in tallies.items()
    ]
    arguments.out.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(row) for row in table)
    head = json.dumps(
        record | {"groups": grouped, "factors": factors(tallies), "columns": columns}, separators=(",", ":")
    )
    (arguments.out / "calibration.json").write_text(f'{head[:-1]},"cells":[\n{lines}\n]}}\n')
    text = page(record, tallies)
    (arguments.out / "calibration.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
