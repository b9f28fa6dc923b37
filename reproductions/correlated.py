"""What a declared correlation of reward and cost is worth where it is true, and what it does where it is not.

    python reproductions/correlated.py [--runs 600] [--cells runs/correlated.jsonl] [--out docs/results]

Written down before the runs that are reported, after trial runs of ten a cell:

* One run: a dial of 9 x 9 targets (reward 0 to 100, cost 180 to 230, the limit at 200), 3 seed targets at cost 180,
  20 asks of 20 episodes, the risk ledger at delta 0.1. The cost is expected to rise along both axes from 180 to 230,
  the reward to be what is asked. The deciding code is safehold's own, whole, its monitors on.
* Dial errors: 12 in cost, 10 in reward. Episodes: sd 40 in cost, 2 in reward, so that a told mean reward is twenty
  times cleaner than a told mean cost in units of their dial errors: the case that a correlation is for
  (docs/results/correlation.md).
* Believed: no correlation; 0.9; or one of 0 and 0.9, evenly (thought of after the first cells with 0.9 believed were
  in: it may pay for being wrong with some of what is gained). Models: "known", one kernel (a product of Matern 5/2,
  length-scales 0.3 of each axis), all noise known; "default", the default mixture of 14 kernels, all noise estimated
  from replicates (the floors declared are the truth).
* True, with everything else as declared: a correlation of 0.9; 0.5; 0; -0.9; and 0.9, the reward being off by twice
  what was declared. Worlds are drawn jointly from the declared kernels (of the default: a member by its weight, then
  functions of it).
* A run violates if a target that the rules certified is unsafe, whatever the seed targets are like; seed targets that
  are handed out on their premise do not count. Beside it, of the runs whose seed targets are all safe, those with any
  unsafe target. Clopper-Pearson intervals of 95 %.
* Gained: by how much the recommended targets beat the best seed targets in reward, as a share of what there was to
  gain. Certified: candidates with a risk of at most 2.3 % for what was told by the end, a run. Both for all runs.
* Run i of a truth is the same world for all beliefs: it depends on (seed 20261122, the model, the truth, i) alone, its
  episodes besides on what is asked. 600 runs a cell with the known model, half as many with the default.
* Finished cells are appended to a file, and a second call goes on where the first stopped.
"""

import argparse
import json
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from recorded import commit_here

from safehold import __version__
from safehold.core.constraint import Limit
from safehold.core.intervals import proportion_interval
from safehold.core.seeding import Streams
from safehold.core.target import TargetSpace
from safehold.deploy.certificates.risk_ledger import RiskLedger
from safehold.deploy.declaration import Declaration
from safehold.deploy.prior import Prior
from safehold.deploy.replay import State
from safehold.deploy.simulate import SimulatedRun, WorldSampler, simulate
from safehold.gp.kernels import Matern52, Product

SEED = 20261122
RUNS = 600
DELTA, ASKS, SIZE = 0.1, 20, 9
SPAN, LOWEST, HIGHEST, LIMIT, CAP = 100.0, 180.0, 230.0, 200.0, 1000.0
COST_ERROR, REWARD_ERROR, COST_NOISE, REWARD_NOISE, LENGTH = 12.0, 10.0, 40.0, 2.0, 0.3
BELIEVED: tuple[tuple[float, ...], ...] = ((), (0.9,), (0.0, 0.9))
MODELS = ("known", "default")
TRUTHS: Mapping[str, tuple[float, float]] = {
    "0.9, as believed": (0.9, 1.0),
    "0.5": (0.5, 1.0),
    "0": (0.0, 1.0),
    "-0.9": (-0.9, 1.0),
    "0.9, reward off by twice the declared": (0.9, 2.0),
}
"""The true correlation, and the true dial error of the reward over the declared one."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A model, what is believed of the correlation, and what is true."""

    model: str
    believed: tuple[float, ...]
    truth: str


def declared(model: str, correlation: tuple[float, ...], factor: float = 1.0) -> Declaration:
    """The deployment; `factor` multiplies the dial error of the reward."""
    space = TargetSpace(
        {"reward": tuple(np.linspace(0.0, SPAN, SIZE)), "cost": tuple(np.linspace(LOWEST, HIGHEST, SIZE))}
    )
    limit, points = Limit("cost", LIMIT), space.points
    prior = Prior.asked(
        space,
        [limit],
        np.ones(len(space), dtype=np.bool_),
        lengthscales={"reward": LENGTH * SPAN, "cost": LENGTH * (HIGHEST - LOWEST)} if model == "known" else None,
        kernel=Matern52 if model == "default" else partial(Product.of, "matern52"),
        dial_error={"cost": COST_ERROR},
        episode_sd={"cost": COST_NOISE},
        noise_known=model == "known",
        reward_dial_error=factor * REWARD_ERROR,
        reward_episode_sd=REWARD_NOISE,
        correlation={"cost": correlation} if correlation else None,
    )
    mean = LOWEST + 0.5 * (points[:, 1] - LOWEST) + 0.5 * (HIGHEST - LOWEST) * points[:, 0] / SPAN
    seeds = np.flatnonzero((points[:, 1] == LOWEST) & (points[:, 0] <= SPAN / 4))
    return Declaration(
        prior=replace(prior, costs={"cost": replace(prior.costs["cost"], mean=mean)}),
        limits=(limit,),
        caps={"cost": CAP},
        seed_targets=tuple(space.target(int(i)) for i in seeds),
        delta=DELTA,
        horizon=ASKS,
        rules=(RiskLedger(),),
    )


def measure(cell: Cell, runs: int) -> dict[str, Any]:
    """Every run of a cell, summed up."""
    declaration = declared(cell.model, cell.believed)
    rho, factor = TRUTHS[cell.truth]
    truth = WorldSampler(declaration, truth=declared(cell.model, (rho,), factor).prior, moved=True)
    start = State.start(declaration)
    results: list[SimulatedRun] = []
    began = time.process_time()
    for number in range(runs):
        streams = Streams(SEED)
        world = truth.draw(streams[f"{cell.model}/{cell.truth}/{number}/world"], "any")
        results.append(simulate(declaration, world, streams[f"{cell.model}/{cell.truth}/{number}/episodes"], start))
    by_rules = sum(result.rules_violating for result in results)
    safe = [result for result in results if result.seeds_safe]
    violating = sum(result.violating for result in safe)
    gap, gained = sum(result.gap for result in results), sum(result.gained for result in results)
    interval, given = proportion_interval(by_rules, runs), proportion_interval(violating, max(len(safe), 1))
    return {
        "model": cell.model,
        "believed": list(cell.believed),
        "truth": cell.truth,
        "runs": runs,
        "violating": by_rules,
        "interval": [interval.low, interval.high],
        "safe_seeds": len(safe),
        "violating_given_safe_seeds": violating,
        "interval_given_safe_seeds": [given.low, given.high],
        "gained": gained / gap,
        "regret": (gap - gained) / runs,
        "certified": float(np.mean([result.certified for result in results])),
        "new_targets": float(np.mean([paid(result) for result in results])),
        "charged": float(np.mean([sum(result.charges) for result in results])),
        "charged_unsafe": float(np.mean([result.charged_unsafe for result in results])),
        "alarmed": sum(result.held == "Alarm" for result in results),
        "milliseconds_a_run": 1000.0 * (time.process_time() - began) / runs,
    }


def paid(result: SimulatedRun) -> int:
    """Distinct targets that the rules were charged for."""
    return len({index for index, charge in zip(result.asked, result.charges, strict=True) if charge > 0.0})


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, a cell a row."""
    lines = [
        "| believed | true | runs with an unsafe target [95 %] | given safe seeds | charged; unsafe and paid for, "
        "a run | certified at the end | new targets | gained | regret | alarms |",
        "|---" * 10 + "|",
    ]
    for row in rows:
        low, high = row["interval"]
        share = f"{row['violating'] / row['runs']:.3f} [{low:.3f}, {high:.3f}]"
        given = f"{row['violating_given_safe_seeds']} of {row['safe_seeds']}"
        believed = " or ".join(f"{rho:g}" for rho in row["believed"]) or "none"
        lines.append(
            f"| {believed} | {row['truth']} | {share}{' **ABOVE**' if low > DELTA else ''} | {given} | "
            f"{row['charged']:.3f}; {row['charged_unsafe']:.3f} | {row['certified']:.1f} | {row['new_targets']:.1f} | "
            f"{100 * row['gained']:.0f} % | {row['regret']:.2f} | {row['alarmed']} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--cells", type=Path, default=Path("runs/correlated.jsonl"))
    parser.add_argument("--model", choices=MODELS, default=None, help="only these cells, and no table")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    arguments = parser.parse_args()
    commit = commit_here()
    arguments.cells.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in arguments.cells.read_text().splitlines()] if arguments.cells.exists() else []
    rows = []
    for model, truth, believed in product([arguments.model] if arguments.model else MODELS, TRUTHS, BELIEVED):
        runs = arguments.runs if model == "known" else arguments.runs // 2
        key = (model, list(believed), truth, runs)
        row = next((r for r in done if (r["model"], r["believed"], r["truth"], r["runs"]) == key), None)
        if row is None:
            row = {**measure(Cell(model, believed, truth), runs), "commit": commit}
            with arguments.cells.open("a") as file:
                file.write(json.dumps(row) + "\n")
        rows.append(row)
    if arguments.model:
        return
    header = {
        "command": f"python reproductions/correlated.py --runs {arguments.runs}",
        "commit": ", ".join(dict.fromkeys(row["commit"] for row in rows)),
        "seed": SEED,
        "versions": {"safehold": __version__, "numpy": np.__version__, "python": platform.python_version()},
    }
    parts = [
        f"`{header['command']}`; commit {header['commit']}; seed {SEED}. Risk ledger, delta {DELTA:g}; what each "
        "column means is in the script. ABOVE: the whole interval is above delta.",
        *(
            f"## {'One known kernel, known noise' if model == 'known' else 'The default mixture, estimated noise'}\n\n"
            + table([row for row in rows if row["model"] == model])
            for model in MODELS
        ),
    ]
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "correlated.json").write_text(json.dumps({**header, "cells": rows}) + "\n")
    (arguments.out / "correlated.md").write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
