r"""How often peers deploy an unsafe target, what they find, and what an ask costs: side by side, on the same worlds.

    python benchmarks/deploy_peers.py --peer safeopt=/venvs/safeopt/bin/python \
        --peer botorch=/venvs/botorch/bin/python --peer ax=/venvs/ax/bin/python

Each peer runs in an interpreter of its own, behind `benchmarks/peers/line_protocol.py`; this process keeps the worlds.
A peer without an interpreter is skipped and named. Runs are kept under `runs/deploy-peers`; the same command goes on
where it was interrupted. What follows was fixed before the first run.

The worlds. A dial of 21 x 21 target returns, R in 0 .. 100 and G in 60 .. 130; the expected cost is to stay at or under
100. A truth is a plane plus a smooth Gaussian deviation, squared-exponential, drawn anew for every run and drawn again
until its five seed targets are safe and every expected cost lies in [0, 300]. An episode adds noise of standard
deviation 10 to both returns; costs are clipped to [0, 300].

* "declared": reward plane R, cost plane G; standard deviations of the deviation 10 and 20, length-scales half of the
  axes. Everybody is told all of it; who fits, fits. Reward and cost hang on different axes: large R at small G is good
  and safe.
* "undeclared": reward and cost planes both rise along both axes, 50 u + 50 v and 70 + 20 u + 40 v with u, v the places
  on the axes from 0 to 1, so that the best safe targets lie along the limit. Length-scales are uniform on [0.1, 0.5] of
  the axes, an own one for each axis and output, standard deviations uniform on [10, 20]. Told are the planes and these
  ranges. Who needs one value takes the middle; who fits, fits.

The runs. Five seed targets are measured first, 20 episodes each, the same for all. Then 20 asks of 20 episodes. Run i
has the same truth for every method, and the noise of its t-th ask is the same numbers whatever is asked. A method that
refuses to ask ends its run; it deploys nothing more.

The figures. Unsafe is an asked target whose true expected cost is above 100; seeds are safe by construction and not
counted. Per method: the share of runs with at least one unsafe deployment (Clopper-Pearson, 95 %), unsafe deployments
an ask, recommendations that are unsafe or missing, and the simple regret of safe recommendations: the best true reward
of a safe candidate less the true reward of the recommended one (Student, 95 %, over runs). 1000 runs of the quick
methods, 100 of BoTorch and Ax; besides, all methods on the 100 runs they share. No figure is left out, no run repeated.
(Two changes after the first half: SafeOpt, at 23 ms an ask dearer than thought, makes 400 runs on "undeclared"; and the
clock counts processor time, because wall time on the shared machine said more about the others on it.)

The clock. Processor time of an ask and of a tell inside each method's process, one thread, after 10, 100 and 500 tells
on 100 x 100 and 1000 x 1000 candidates: the least of ten asks and tells after a first, of three at least where three
minutes do not suffice (the least wall times are in the JSON). ledger-16, a mixture of sixteen, is only clocked. Methods
are started with the measurements of random safe targets and told what "undeclared" tells. A call over a minute, four
minutes for telling the start, or a process over 10 GiB ends a method's readings at that size and is reported as such.

Random numbers: `Streams(20261121)`, by names that say world, noise and run.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from safehold.core.intervals import mean_interval
from safehold.core.seeding import Streams

sys.path.insert(0, str(Path(__file__).parent / "peers"))
import peer_tables as tables
import peer_worlds as worlds
from peer_process import MethodError, Process, Unanswered
from peer_tables import Clock, Run
from peer_worlds import GEOMETRIES, Geometry

ROOT = Path(__file__).parent.parent
PEERS = ROOT / "benchmarks" / "peers"
CLOCK_SIDES = (100, 1000)
CLOCK_TELLS = (10, 100, 500)
CLOCK_REPEATS, CLOCK_ENOUGH = 10, 3
CLOCK_SECONDS = 180.0
START_SECONDS = 240.0


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A method and its adapter.

    `foreign`: it has an interpreter of its own. `runs`: on each family of worlds.
    """

    name: str
    script: tuple[str, ...]
    foreign: bool
    runs: tuple[int, int]
    setup: str


CONTENDERS = (
    Contender(
        name="naive",
        script=("naive_peer.py",),
        foreign=False,
        runs=(1000, 1000),
        setup="always the largest R and the largest G that is at or under the limit; learns nothing",
    ),
    Contender(
        name="safeopt",
        script=("safeopt_peer.py",),
        foreign=True,
        runs=(1000, 400),
        setup="beta = 2 (its default); kernel and noise declared, nothing fitted; prior mean: the planes",
    ),
    Contender(
        name="botorch",
        script=("botorch_peer.py",),
        foreign=True,
        runs=(100, 100),
        setup="log expected improvement times probability of feasibility over the grid; hyper-parameters fitted after "
        "every measurement under its default priors; noise declared; prior mean: the planes",
    ),
    Contender(
        name="ax",
        script=("ax_peer.py",),
        foreign=True,
        runs=(100, 100),
        setup="outcome constraint of its client; hyper-parameters fitted; noise declared; no prior mean",
    ),
    Contender(
        name="paper",
        script=("safehold_peer.py", "paper"),
        foreign=False,
        runs=(1000, 1000),
        setup="safehold with the band of PLS at delta = 0.05; kernel and noise declared, nothing fitted; prior mean: "
        "the planes",
    ),
    Contender(
        name="ledger",
        script=("safehold_peer.py", "ledger"),
        foreign=False,
        runs=(1000, 1000),
        setup="safehold's default, the risk ledger at delta = 0.05; the declared kernel where it is known, else its "
        "default hyper-prior (Matern 5/2, a mixture of 14); noise declared; prior mean: the planes",
    ),
    Contender(
        name="ledger-16",
        script=("safehold_peer.py", "ledger-16"),
        foreign=False,
        runs=(0, 0),
        setup="the same with a mixture of 16 length-scales; only clocked",
    ),
)

OURS = "ledger"
"""The method that the others are compared with."""


def run(process: Process, geometry: Geometry, number: int, commit: str) -> Run:
    """20 asks on the truth of run `number`, and what the method settles on."""
    world = worlds.world_of(geometry, number)
    problem = worlds.problem_of(geometry, number, world)
    process.call(do="start", problem=problem.to_json())
    asked: list[int] = []
    stopped = None
    seconds = {"ask": 0.0, "tell": 0.0}
    for step in range(worlds.ASKS):
        try:
            answer = process.call(do="ask")
        except MethodError as error:
            stopped = str(error)[:200]
            break
        index = int(answer["index"])
        asked.append(index)
        told = world.measure(index, Streams(worlds.SEED)[f"noise/{geometry.name}/{number}/{step}"])
        seconds["ask"] += answer["seconds"]
        seconds["tell"] += process.call(do="tell", **asdict(told))["seconds"]
    try:
        recommended = process.call(do="recommend")["index"]
    except MethodError:
        recommended = None
    best = float(np.max(world.reward, where=world.safe, initial=-np.inf))
    settled = recommended is not None and bool(world.safe[recommended])
    return Run(
        number=number,
        world=world.digest,
        asked=tuple(asked),
        unsafe=tuple(not bool(world.safe[index]) for index in asked),
        excess=max([0.0, *(float(world.cost[index]) - worlds.LIMIT for index in asked)]),
        stopped=stopped,
        recommended=recommended,
        recommended_unsafe=None if recommended is None else not settled,
        regret=best - float(world.reward[recommended]) if settled else None,
        start_regret=best - max(float(world.reward[told.index]) for told in problem.start),
        ask_seconds=seconds["ask"] / max(1, len(asked)),
        tell_seconds=seconds["tell"] / max(1, len(asked)),
        commit=commit,
    )


def clock(command: Sequence[str], side: int, log: Path, commit: str) -> Iterator[Clock]:
    """The three readings of one method at one size; once one is missing, so are the later ones."""
    world = worlds.clock_world(side)
    rng = Streams(worlds.SEED)[f"clock noise/{side}"]
    missing: str | None = None
    started, told_before = 0.0, 1
    for tells in CLOCK_TELLS:
        asks: list[tuple[float, float]] = []
        answers: list[tuple[float, float]] = []
        try:
            if missing is None and started * tells / told_before > START_SECONDS:
                missing = f"telling it {tells} measurements first takes over {START_SECONDS:.0f} s"
            if missing is None:
                process = Process(command, log)
                problem = worlds.clock_problem(side, world, tells, asks=tells + CLOCK_REPEATS + 1)
                begun = time.monotonic()
                process.call(START_SECONDS, do="start", problem=problem.to_json())
                end = time.monotonic() + CLOCK_SECONDS
                started, told_before = time.monotonic() - begun, tells
                while len(asks) <= CLOCK_REPEATS:
                    if time.monotonic() > end and len(asks) > CLOCK_ENOUGH:
                        break
                    if time.monotonic() > end:
                        raise Unanswered(f"over {CLOCK_SECONDS:.0f} s for {CLOCK_ENOUGH + 1} asks and tells")
                    asked = process.call(do="ask")
                    told = world.measure(int(asked["index"]), rng)
                    answer = process.call(do="tell", **asdict(told))
                    asks.append((asked["cpu"], asked["seconds"]))
                    answers.append((answer["cpu"], answer["seconds"]))
                process.close()
        except (Unanswered, MethodError) as error:
            process.close()
            missing = str(error)[:200]
        yield Clock(
            side=side,
            tells=tells,
            ask_ms=None if missing else 1000 * min(cpu for cpu, _ in asks[1:]),
            tell_ms=None if missing else 1000 * min(cpu for cpu, _ in answers[1:]),
            ask_wall_ms=None if missing else 1000 * min(wall for _, wall in asks[1:]),
            tell_wall_ms=None if missing else 1000 * min(wall for _, wall in answers[1:]),
            missing=missing,
            commit=commit,
        )


class Notebook:
    """One JSON-lines file of finished parts; its first line says of what."""

    def __init__(self, path: Path, header: Mapping[str, object]) -> None:
        self._path = path
        begun = path.read_text() if path.exists() else ""
        whole = begun[: begun.rfind("\n") + 1]  # without a line cut short by an interruption
        line = json.dumps(header, sort_keys=True)
        if whole and whole.split("\n", 1)[0] != line:
            sys.exit(f"{path} was begun with other settings or another adapter; move it away to begin again")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(whole or line + "\n")

    def parts(self) -> list[dict[str, Any]]:
        """All finished parts."""
        return [json.loads(line) for line in self._path.read_text().splitlines()[1:]]

    def add(self, part: Mapping[str, object]) -> None:
        """One more."""
        with self._path.open("a") as file:
            file.write(json.dumps(part) + "\n")


class Bench:
    """Where parts are kept, and which interpreter runs whom."""

    def __init__(self, kept: Path, interpreters: Mapping[str, str], runs: int | None) -> None:
        self._kept = kept
        self._interpreters = interpreters
        self._runs = runs
        self._commit = commit_now()
        kept.mkdir(parents=True, exist_ok=True)

    def command(self, contender: Contender) -> list[str] | None:
        """How to run it; None if its interpreter is not there."""
        interpreter = self._interpreters.get(contender.name) if contender.foreign else sys.executable
        if interpreter is None or not Path(interpreter).exists():
            return None
        script, *arguments = contender.script
        return [interpreter, str(PEERS / script), *arguments]

    def make_runs(self, contender: Contender, geometry: Geometry) -> None:
        """The runs that are still to be made."""
        command = self.command(contender)
        notebook = self._notebook(contender, geometry.name)
        done = {part["number"] for part in notebook.parts()}
        declared = contender.runs[GEOMETRIES.index(geometry)]
        wanted = [number for number in range(min(declared, self._runs or declared)) if number not in done]
        if command is None or not wanted:
            return
        print(f"{geometry.name}: {contender.name}, {len(wanted)} runs", flush=True)
        process = Process(command, self._log(contender))
        for number in wanted:
            try:
                notebook.add(asdict(run(process, geometry, number, self._commit)))
            except Unanswered as error:
                sys.exit(f"{contender.name}, run {number}: {error}; see {self._log(contender)}")
        process.close()

    def make_clock(self, contender: Contender, sides: Sequence[int]) -> None:
        """The readings that are still to be made."""
        command = self.command(contender)
        notebook = self._notebook(contender, "clock")
        done = {part["side"] for part in notebook.parts()}
        for side in sides:
            if command is not None and side not in done:
                print(f"clock: {contender.name}, {side} x {side}", flush=True)
                for reading in list(clock(command, side, self._log(contender), self._commit)):
                    notebook.add(asdict(reading))

    def runs_of(self, contender: Contender, geometry: Geometry) -> list[Run]:
        """What is there."""
        parts = self._notebook(contender, geometry.name).parts()
        return [Run(**part) for part in sorted(parts, key=lambda part: int(part["number"]))]

    def clocks_of(self, contender: Contender) -> list[Clock]:
        """What is there."""
        return [Clock(**part) for part in self._notebook(contender, "clock").parts()]

    def versions(self, contender: Contender) -> dict[str, str]:
        """Versions of what it runs on."""
        command = self.command(contender)
        if command is None:
            return {}
        process = Process(command, self._log(contender))
        geometry = GEOMETRIES[0]
        problem = worlds.problem_of(geometry, 0, worlds.world_of(geometry, 0))
        versions: dict[str, str] = process.call(do="start", problem=problem.to_json())["versions"]
        process.close()
        return versions

    def _notebook(self, contender: Contender, part: str) -> Notebook:
        adapter = hashlib.sha256((PEERS / contender.script[0]).read_bytes()).hexdigest()
        settings = worlds.settings() | {g.name: asdict(g) for g in GEOMETRIES if g.name == part or part == "clock"}
        header = {"method": contender.name, "part": part, "adapter": adapter, "settings": settings}
        return Notebook(self._kept / f"{part}-{contender.name}.jsonl", header)

    def _log(self, contender: Contender) -> Path:
        return self._kept / f"{contender.name}.log"


def git(*arguments: str) -> str:
    """What git says."""
    return subprocess.run(("git", *arguments), cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def commit_now() -> str:
    """The commit, marked if files that the runs depend on differ from it."""
    changed = git("status", "--porcelain", "--untracked-files=no", "--", "src", "benchmarks")
    return git("rev-parse", "--short=12", "HEAD") + ("+changes" if changed else "")


def report(bench: Bench, contenders: Sequence[Contender], skipped: Sequence[str], results: Path) -> None:
    """Writes what is there as JSON and as a page."""
    clocks = {contender.name: bench.clocks_of(contender) for contender in contenders}
    record: dict[str, Any] = {
        "command": "python benchmarks/deploy_peers.py "
        + " ".join(f"--peer {c.name}=<python of {c.name}>" for c in contenders if c.foreign),
        "seed": worlds.SEED,
        "settings": worlds.settings(),
        "versions": {contender.name: bench.versions(contender) for contender in contenders},
        "skipped": list(skipped),
        "setups": {contender.name: contender.setup for contender in contenders},
        "clock": {name: [tables.plain(reading) for reading in readings] for name, readings in clocks.items()},
        "geometries": {},
    }
    commits = {reading.commit for readings in clocks.values() for reading in readings}
    pages, compared = [], {}
    for geometry in GEOMETRIES:
        runs = {contender.name: some for contender in contenders if (some := bench.runs_of(contender, geometry))}
        if not runs:
            continue
        commits |= {run.commit for some in runs.values() for run in some}
        common = tables.shared(runs)
        rows = [tables.row(name, some) for name, some in runs.items()]
        common_rows = [tables.row(name, some) for name, some in common.items()]
        compared[geometry.name] = common_rows
        longest = max(runs.values(), key=len)
        start = mean_interval(np.array([run.start_regret for run in longest]))
        record["geometries"][geometry.name] = {
            "geometry": asdict(geometry),
            "regret_of_best_seed": asdict(start),
            "all_runs": [tables.plain(row) for row in rows],
            "shared_runs": [tables.plain(row) for row in common_rows],
            "stopped": {
                name: sorted({run.stopped for run in some if run.stopped is not None})[:5]
                for name, some in runs.items()
            },
        }
        pages.append(
            f'## Worlds "{geometry.name}"\n\n{tables.rows_table(rows)}\n\n'
            f"Staying at the best seed target has a regret of {start.estimate:.2f}. "
            f"On the {len(next(iter(common.values())))} runs that all methods share:\n\n"
            f"{tables.rows_table(common_rows)}\n"
        )
    record["commits"] = sorted(commits)
    record["goals"] = [
        *tables.goals(OURS, clocks, compared),
        *tables.goals("ledger-16", clocks, {}),
    ]
    results.parent.mkdir(parents=True, exist_ok=True)
    results.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    results.with_suffix(".md").write_text(page(record, pages, tables.clocks_table(clocks)))


def page(record: Mapping[str, Any], pages: Sequence[str], clocks: str) -> str:
    """The page around the tables."""
    versions = "\n".join(
        f"* {name}: {record['setups'][name]}"
        + (f" ({', '.join(f'{package} {version}' for package, version in packages.items())})" if packages else "")
        for name, packages in record["versions"].items()
    )
    skipped = (
        f"\nSkipped, since no interpreter was named: {', '.join(record['skipped'])}.\n" if record["skipped"] else ""
    )
    question = str(__doc__).split("What follows was fixed before the first run.\n\n", 1)[1]
    return (
        "# Choosing targets beside the peers\n\n"
        f"`{record['command']}`; seed {record['seed']}; commit {', '.join(record['commits'])}. Figures with every "
        "interval: deploy-peers.json beside this page.\n\n"
        f"## What was asked\n\n{question}\n## Methods\n\n{versions}\n{skipped}\n"
        + "## In short\n\n"
        + "".join(f"* {sentence}\n" for sentence in record["goals"])
        + "\n"
        + "\n".join(pages)
        + f"\n## Milliseconds of an ask + a tell\n\n{clocks}\n"
    )


def main() -> None:
    """Makes what is missing, then the report."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON", help="a peer's interpreter")
    parser.add_argument("--only", nargs="+", choices=[c.name for c in CONTENDERS], help="these methods alone")
    parser.add_argument("--runs", type=int, help="at most so many runs of every method, to try things out")
    parser.add_argument("--part", nargs="+", choices=["runs", "clock", "report"], default=["runs", "clock", "report"])
    parser.add_argument("--sides", nargs="+", type=int, choices=CLOCK_SIDES, default=CLOCK_SIDES, help="of the clock")
    parser.add_argument("--kept", type=Path, default=ROOT / "runs" / "deploy-peers", help="finished parts")
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "results" / "deploy-peers")
    options = parser.parse_args()
    bench = Bench(options.kept, dict(peer.split("=", 1) for peer in options.peer), options.runs)
    chosen = [contender for contender in CONTENDERS if contender.name in (options.only or [c.name for c in CONTENDERS])]
    skipped = [contender.name for contender in chosen if bench.command(contender) is None]
    for name in skipped:
        print(f"{name} is skipped: name its interpreter with --peer {name}=/path/to/python", flush=True)
    contenders = [contender for contender in chosen if contender.name not in skipped]
    if "runs" in options.part:
        for geometry in GEOMETRIES:
            for contender in contenders:
                bench.make_runs(contender, geometry)
    if "clock" in options.part:
        for contender in contenders:
            bench.make_clock(contender, options.sides)
    if "report" in options.part:
        report(bench, contenders, skipped, options.results)


if __name__ == "__main__":
    main()
