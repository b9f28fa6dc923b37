"""What happens where the model is wrong: runs with an unsafe target, for the default, the paper's rule and a heuristic.

    python reproductions/misspecification.py [--minutes 30] [--blocks runs/misspecification.jsonl] [--out docs/results]

Written down before the runs that are reported, after trial runs; the dial's geometry was changed twice before that,
because the first was too easy (everything was closed) and the second, a tilt of it, uneven. All of it is reported:

* One run: a dial of 13 x 13 targets over the unit square, 20 asks of 20 episodes, delta = 0.05, acquisition staged.
  The base truth is a Gaussian process (sd 30, squared-exponential, length-scales 0.3) around a cost that rises from 130
  to 250, half of it along each axis; limit 200; 3 seed targets near the corner of low cost; a told mean has a noise of
  sd 10 (an episode of 45, normal). The reward rises from 0 to 100 likewise (sd 15, told noise 5). Every row changes one
  thing in the truth of the cost and nothing in what is declared (but the rows on noise that is declared as it is).
* Three tuners meet the same kind of worlds. default: the risk ledger over the default prior (14 models, Matern 5/2,
  length-scales 0.1 to 0.5, sd 21 and 42), noise estimated from replicates. paper: the bands of PLS, Theorem 2, with
  the base truth's model (the right one in the row "nothing is wrong"), noise estimated. beta = 2: mean + 2 sd at or
  under the limit under that same model, noise taken as known, the seed targets' premise as in the others: what packages
  for safe optimisation do in practice.
* Worlds have safe seed targets, but in the row that says otherwise; a run violates if any target that was handed out is
  above the limit at its ask.
* Gates, by the one-sided 99 % lower bound of Clopper and Pearson, on the default alone: on worlds drawn from the
  default prior itself, and on the squared-exponential base truth (which its Matern models cover), at most delta; with
  the noise 1.25 times the declared floor, at most 2 delta. Everything else is printed, not gated.
* 200 runs a row and tuner (400 in the gated rows). Run i of a row depends on (seed 20260104, tuner, row, i) alone.
  Blocks of 50 runs are appended to a file, and a second call goes on where the first stopped.
"""

import argparse
import json
import math
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from safehold import __version__
from safehold.core.constraint import Limit
from safehold.core.intervals import proportion_interval
from safehold.core.measurement import Measurement
from safehold.core.seeding import Streams
from safehold.core.target import TargetSpace
from safehold.deploy.certificates.paper import Paper
from safehold.deploy.certificates.risk_ledger import RiskLedger
from safehold.deploy.certificates.rule import Evidence, Rule, RuleVerdict, Terms, band_verdict, bound_words
from safehold.deploy.declaration import Declaration, Settings
from safehold.deploy.prior import OutputPrior, Prior
from safehold.deploy.replay import State
from safehold.deploy.simulate import World, simulate
from safehold.deploy.stress import Fault, FaultyWorlds
from safehold.gp.confidence import ConfidenceBand
from safehold.gp.kernels import SquaredExponential

SEED, DELTA, RUNS, GATED_RUNS, BLOCK = 20260104, 0.05, 200, 400, 50
SIZE, ASKS, EPISODES = 13, 20, 20
LOWEST, HIGHEST, LIMIT, CAP = 130.0, 250.0, 200.0, 4000.0
SIGNAL, TOLD_NOISE, LENGTH = 30.0, 10.0, 0.3
NOISE = TOLD_NOISE * math.sqrt(EPISODES)
TOP_REWARD, REWARD_SIGNAL, REWARD_NOISE = 100.0, 15.0, 5.0 * math.sqrt(EPISODES)
SEED_PLACES = ((1, 1), (1, 2), (2, 1))
TUNERS = ("default", "paper", "beta = 2")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `gate`: what the default's share may be; `scatter`: declared and true, per signal sd.

    `own`: worlds from the default prior instead of the base truth. `bias`: by how much the costs of the seed targets
    are measured too low.
    """

    fault: Fault
    gate: float | None = None
    own: bool = False
    scatter: float | None = None
    episodes: int = EPISODES
    bias: float = 0.0

    @property
    def runs(self) -> int:
        """Planned runs of each tuner."""
        return RUNS if self.gate is None else GATED_RUNS


def _lengths(*factors: float) -> tuple[Row, ...]:
    return tuple(Row(Fault(name=f"length-scales {factor:g} x", length=factor)) for factor in factors)


ROWS = (
    Row(Fault(name="worlds of the default prior"), gate=DELTA, own=True),
    Row(Fault(name="nothing is wrong (for the default: RBF truth, Matern models)"), gate=DELTA),
    *_lengths(0.2, 0.33, 0.5, 0.67, 0.8, 1.25, 1.5),
    *(Row(Fault(name=f"signal sd {factor:g} x", signal=factor)) for factor in (2.0, 3.0)),
    Row(Fault(name="noise sd 1.25 x", noise=1.25), gate=2 * DELTA),
    *(Row(Fault(name=f"noise sd {factor:g} x", noise=factor)) for factor in (2.0, 4.0)),
    Row(Fault(name="Matern 5/2 truth", kind="matern52")),
    Row(Fault(name="Matern 3/2 truth", kind="matern32")),
    Row(Fault(name="episodes of t with 3 degrees, same sd", law="heavy tails")),
    Row(Fault(name="1 episode in 100 costs 10 limits more", law="catastrophes")),
    *(Row(Fault(name=f"costs rise by {drift:g} of the limit after ask 10", drift=drift)) for drift in (0.05, 0.1, 0.2)),
    Row(Fault(name="a seed target is unsafe", seeds="unsafe")),
    Row(Fault(name="costs of the seed targets are read 30 too low"), bias=30.0),
    *(
        Row(
            Fault(name=f"noise of a told mean {ratio:g} of the signal, {episodes} episodes"),
            scatter=ratio,
            episodes=episodes,
        )
        for ratio, episodes in ((0.01, 20), (0.1, 20), (0.33, 20), (0.33, 5), (0.33, 1), (1.0, 20), (3.0, 20))
    ),
)


@dataclass(frozen=True, slots=True)
class Heuristic:
    """Mean + 2 sd at or under every limit, now: no promise over many rounds and targets comes with it."""

    kind: ClassVar[str] = "heuristic"
    promise: ClassVar[str] = "None."
    premises: ClassVar[tuple[str, ...]] = ("A1-prior", "A2-noise")
    one_epoch: ClassVar[bool] = True

    def start(self, terms: Terms) -> "HeuristicStanding":
        """Nothing is remembered."""
        return HeuristicStanding(terms)


@dataclass(frozen=True)
class HeuristicStanding:
    """The terms; what is believed now decides."""

    terms: Terms
    spent: float = 0.0

    def told(self, evidence: Evidence) -> "HeuristicStanding":
        """Nothing is remembered."""
        return self

    def asked(self, index: int, charge: float) -> "HeuristicStanding":
        """Nothing is charged."""
        return self

    def lowered(self) -> "HeuristicStanding":
        """Read against the new limit."""
        return self

    def verdict(self, evidence: Evidence) -> RuleVerdict:
        """By the present bound; nothing before the first measurement."""
        bands = {}
        for name, belief in evidence.costs.items():
            upper = belief.process.upper(2.0)
            if evidence.rounds == 0:
                upper = np.full_like(upper, np.inf)
            bands[name] = ConfidenceBand(belief.process.lower(2.0), upper)
        return band_verdict(
            Heuristic.kind,
            evidence,
            self.terms,
            bands,
            {name: band.upper for name, band in bands.items()},
            multiplier=2.0,
            reach=dict.fromkeys(bands, 2.0),
        )

    def words(self, evidence: Evidence, index: int) -> str:
        """Present bounds beside the limits."""
        return bound_words(evidence, {n: b.process.upper(2.0) for n, b in evidence.costs.items()}, index)


@dataclass(frozen=True, kw_only=True)
class MisreadWorld(World):
    """A world in which the costs of some candidates are measured too low."""

    bias: Float[np.ndarray, "m"] = field(repr=False)

    def measure(self, index: int, episodes: int, caps: Mapping[str, float], rng: np.random.Generator) -> Measurement:
        """Episodes, misread."""
        right = super().measure(index, episodes, caps, rng)
        costs = {name: np.maximum(values - self.bias[index], 0.0) for name, values in right.costs.items()}
        return replace(right, costs=costs)


@dataclass(slots=True)
class Tally:
    """What some runs came to; `gap`, `gained`: sums over the runs of what there was to gain in reward, and was."""

    runs: int = 0
    violating: int = 0
    asks: int = 0
    unsafe_asks: int = 0
    held: int = 0
    gap: float = 0.0
    gained: float = 0.0
    seconds: float = 0.0

    def add(self, other: "Tally") -> None:
        """More runs."""
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)


def declared(tuner: str, row: Row, size: int = SIZE, asks: int = ASKS) -> Declaration:
    """What a tuner declares in a row; `size`: values an axis, 12 n + 1 of them."""
    space = TargetSpace({axis: tuple(np.linspace(0.0, 1.0, size)) for axis in ("reward", "cost")})
    finer = (size - 1) // (SIZE - 1)
    seeds = [space.target(int(np.ravel_multi_index((finer * i, finer * j), space.shape))) for i, j in SEED_PLACES]
    limits = (Limit("cost", LIMIT),)
    scatter = NOISE if row.scatter is None else row.scatter * SIGNAL * math.sqrt(row.episodes)
    everywhere = np.ones(len(space), dtype=np.bool_)
    known = tuner == "beta = 2" or row.scatter is not None
    rules: dict[str, Rule] = {"default": RiskLedger(), "paper": Paper(), "beta = 2": Heuristic()}
    if tuner == "default":
        prior = Prior.asked(
            space,
            limits,
            everywhere,
            dial_error={"cost": SIGNAL},
            episode_sd={"cost": scatter},
            noise_known=known,
            reward_dial_error=REWARD_SIGNAL,
            reward_episode_sd=REWARD_NOISE,
        )
        prior = replace(
            prior,
            reward=replace(prior.reward, mean=TOP_REWARD * height(space)),
            costs={"cost": replace(prior.costs["cost"], mean=plane(space))},
        )
    else:
        prior = base(space, scatter, known=known)
    return Declaration(
        prior=prior,
        limits=limits,
        caps={"cost": CAP},
        seed_targets=tuple(seeds),
        delta=DELTA,
        horizon=asks,
        rules=(rules[tuner],),
        settings=Settings(exploration_width=0.05, episodes_per_ask=row.episodes),
    )


def height(space: TargetSpace) -> Float[np.ndarray, "m"]:
    """From 0 to 1, half of it along each axis."""
    return space.points.mean(axis=1)


def plane(space: TargetSpace) -> Float[np.ndarray, "m"]:
    """What the cost is expected to be."""
    return LOWEST + (HIGHEST - LOWEST) * height(space)


def base(space: TargetSpace, scatter: float, *, known: bool) -> Prior:
    """The base truth as a prior."""
    scales = (LENGTH, LENGTH)
    return Prior(
        space=space,
        reward=OutputPrior(
            mean=TOP_REWARD * height(space),
            kernels=(SquaredExponential(REWARD_SIGNAL, scales),),
            episode_sd=REWARD_NOISE,
            noise_known=known,
        ),
        costs={
            "cost": OutputPrior(
                mean=plane(space),
                kernels=(SquaredExponential(SIGNAL, scales),),
                episode_sd=scatter,
                noise_known=known,
            )
        },
        support=np.ones(len(space), dtype=np.bool_),
    )


class Study:
    """Blocks of runs; what the present row needs is kept."""

    def __init__(self) -> None:
        self._at: tuple[str, Row, Declaration, State, FaultyWorlds] | None = None

    def block(self, tuner: str, row: Row, first: int) -> Tally:
        """Runs number `first` to `first + BLOCK - 1`."""
        begin = time.process_time()
        if self._at is None or self._at[:2] != (tuner, row):
            declaration = declared(tuner, row)
            default = declared("default", row)
            scatter = float(np.max(default.prior.costs["cost"].episode_sd))
            truth = default.prior if row.own else base(declaration.space, scatter, known=True)
            worlds = FaultyWorlds(declaration, row.fault, truth=truth)
            self._at = (tuner, row, declaration, State.start(declaration), worlds)
        _, _, declaration, start, worlds = self._at
        bias = row.bias * declaration.seeds
        tally = Tally()
        for number in range(first, first + BLOCK):
            rng = Streams(SEED)[f"{tuner}/{row.fault.name}/{number}"]
            world, later = worlds.draw(rng)
            if row.bias:
                fields = {name: getattr(world, name) for name in world.__dataclass_fields__}
                world = MisreadWorld(**fields, bias=bias)
            run = simulate(declaration, world, rng, start, later=later)
            tally.add(
                Tally(
                    runs=1,
                    violating=int(run.violating),
                    asks=len(run.asked),
                    unsafe_asks=sum(run.unsafe),
                    held=int(run.held != "Exhausted"),
                    gap=run.gap,
                    gained=run.gained,
                )
            )
        tally.seconds = time.process_time() - begin
        return tally


def read(path: Path) -> dict[tuple[str, str, int], Tally]:
    """The blocks of a file; a last line that was cut off is left out."""
    blocks = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            plain = json.loads(line)
        except ValueError:
            continue
        blocks[plain["tuner"], plain["row"], plain["first"]] = Tally(**plain["tally"])
    return blocks


def run(path: Path, minutes: float, shard: str = "0/1") -> None:
    """Appends the blocks that are missing (`shard` "i/n": every n-th row), until the time is up: some of all first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    known, study, begin = read(path), Study(), time.monotonic()
    which, of = (int(part) for part in shard.split("/"))
    halves = [(0, 100), (100, GATED_RUNS)]
    for low, high in halves:
        for row in ROWS[which::of]:
            for tuner in TUNERS:
                for first in range(low, min(high, row.runs), BLOCK):
                    if (tuner, row.fault.name, first) in known:
                        continue
                    if time.monotonic() - begin > 60.0 * minutes:
                        return
                    tally = study.block(tuner, row, first)
                    with path.open("a") as file:
                        plain = {"tuner": tuner, "row": row.fault.name, "first": first, "tally": asdict(tally)}
                        file.write(json.dumps(plain) + "\n")


def page(record: Mapping[str, object], tallies: Mapping[tuple[str, str], Tally]) -> str:
    """The table."""
    lines = [
        "# What happens where the model is wrong",
        "",
        f"`{record['command']}` (safehold {__version__}, commit {record['commit']}, seed {SEED}). The script says what",
        f"was fixed, and when. Share of runs with an unsafe target, delta = {DELTA:g}; 95 % Clopper-Pearson intervals",
        "in brackets; then the share of unsafe asks, and how much was gained of what there was to gain in reward.",
        "",
        "| truth | runs | " + " | ".join(TUNERS) + " | gate on the default |",
        "|---" * (3 + len(TUNERS)) + "|",
    ]
    for row in ROWS:
        cells = []
        for tuner in TUNERS:
            tally = tallies.get((tuner, row.fault.name), Tally())
            share = proportion_interval(tally.violating, tally.runs)
            cells.append(
                "not run"
                if not tally.runs
                else f"{share.estimate:.3f} [{share.low:.3f}, {share.high:.3f}]; {tally.unsafe_asks / tally.asks:.4f}; "
                f"{100 * tally.gained / tally.gap:.0f} %"
            )
        runs = "/".join(str(tallies.get((tuner, row.fault.name), Tally()).runs) for tuner in TUNERS)
        lines.append(f"| {row.fault.name} | {runs} | " + " | ".join(cells) + f" | {_gate(row, tallies)} |")
    return "\n".join([*lines, "", str(record["missing"])]) + "\n"


def _gate(row: Row, tallies: Mapping[tuple[str, str], Tally]) -> str:
    tally = tallies.get(("default", row.fault.name), Tally())
    if row.gate is None or not tally.runs:
        return ""
    kept = proportion_interval(tally.violating, tally.runs, 0.98).low <= row.gate
    return f"at most {row.gate:g}: {'kept' if kept else 'BROKEN'}"


def main() -> None:
    """Runs what is missing and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--blocks", type=Path, default=Path("runs/misspecification.jsonl"))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--commit", default="unknown", help="commit of the code that made the runs, for the record")
    parser.add_argument("--shard", default="0/1", help="i/n: only every n-th row, for n processes on one file")
    arguments = parser.parse_args()
    run(arguments.blocks, arguments.minutes, arguments.shard)
    tallies: dict[tuple[str, str], Tally] = {}
    for (tuner, row, _), tally in read(arguments.blocks).items():
        tallies.setdefault((tuner, row), Tally()).add(tally)
    done, planned = sum(t.runs for t in tallies.values()), len(TUNERS) * sum(row.runs for row in ROWS)
    record = {
        "command": "python reproductions/misspecification.py",
        "commit": arguments.commit,
        "seed": SEED,
        "delta": DELTA,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "cpu_seconds": round(sum(t.seconds for t in tallies.values())),
        "missing": f"{done} of {planned} planned runs were made." if done < planned else f"All {done} runs were made.",
        "rows": [
            {"truth": row.fault.name, "tuner": tuner, **asdict(tallies[tuner, row.fault.name])}
            for row in ROWS
            for tuner in TUNERS
            if (tuner, row.fault.name) in tallies
        ],
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "misspecification.json").write_text(json.dumps(record, indent=1) + "\n")
    text = page(record, tallies)
    (arguments.out / "misspecification.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
