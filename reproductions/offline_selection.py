"""Does fitted Q evaluation, which runs nothing, rank a dial's targets as episodes in the environment do?

    python reproductions/offline_selection.py --runs runs/whole-road [--seeds 10 11 12] [--out docs/results]

Written down before the study was run; all of it is reported:

* From each run of `reproductions/whole_road.py` on HalfCheetahVelocity: its log of 640 episodes, its constrained
  decision transformer, and every target (R, G) that it evaluated with fresh episodes (10 or 100 a target; their means
  are the truth here). The transformer was trained on the same log, as any policy is whose model is chosen offline.
* `fitted_returns` for all targets at once: 4 members of two layers of 128, batches of 256, 3000 updates (minutes of one
  core); with a discount of 1 (the return to the horizon of 1000 steps; slow copies follow by 0.33 an update) and of
  0.99 (by 0.1).
* Counted, a run and a discount: Spearman's rank correlation of estimate and truth over the targets, for reward and for
  cost, beside that of the asked return itself, which costs nothing; the mean absolute error of both; and the share of
  targets whose truth lies in the interval of the members.
* Every (run, discount) is kept in OUT/offline-selection-raw and not repeated.
"""

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from safehold.core.intervals import mean_interval
from safehold.core.target import Target
from safehold.data.layouts import read_any
from safehold.learn.offline.fqe import FittedReturns, FQEConfig, fitted_returns
from safehold.learn.offline.logged import answering
from safehold.workflows.evaluate import Evaluation, rank_correlation
from safehold.workflows.files import write_text
from safehold.workflows.train import load

CONFIGS = {
    "1": FQEConfig(members=4, batch_size=256, steps=3000, discount=1.0, target_rate=0.33),
    "0.99": FQEConfig(members=4, batch_size=256, steps=3000, discount=0.99, target_rate=0.1),
}
SIGNALS = ("reward", "cost")


def main() -> None:
    """Runs what is missing, then writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12])
    parser.add_argument("--discounts", nargs="+", choices=sorted(CONFIGS), default=sorted(CONFIGS))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    raw = arguments.out / "offline-selection-raw"
    records = []
    for seed in arguments.seeds:
        for discount in arguments.discounts:
            path = raw / f"{seed}-{discount}.json"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                record = one_run(arguments.runs / f"seed-{seed}", seed, CONFIGS[discount])
                write_text(path, json.dumps(record, indent=1) + "\n")
            records.append(json.loads(path.read_text(encoding="utf-8")))
    document = {"host": platform.machine(), "torch": torch.__version__, "runs": records}
    write_text(arguments.out / "offline-selection.json", json.dumps(document, indent=1) + "\n")
    print(table(records))


def one_run(directory: Path, seed: int, config: FQEConfig) -> dict[str, Any]:
    """All targets of one run: asked, true, estimated."""
    begin = time.monotonic()
    truth = true_returns(directory)
    dataset = read_any(directory / "episodes.hdf5")
    found = fitted_returns(dataset, answering(load(directory / "cdt" / "policy")), list(truth), config, seed=seed)
    return {
        "seed": seed,
        "config": config.to_json(),
        "log": dataset.digest,
        "targets": [list(target) for target in truth],
        "true": [list(means) for means in truth.values()],
        "members": [one.members.tolist() for one in found],
        "seconds": time.monotonic() - begin,
    }


def true_returns(directory: Path) -> dict[Target, tuple[float, float]]:
    """Mean reward and cost return of every target that a run evaluated."""
    record = json.loads((directory / "evaluations.json").read_text(encoding="utf-8"))
    episodes: dict[Target, list[Evaluation]] = {}
    for entry in record["targets"]:
        found = Evaluation.from_json(entry)
        if found.target is not None:
            episodes.setdefault(found.target, []).append(found)
    return {
        target: (
            float(np.mean(np.concatenate([one.rewards for one in of_target]))),
            float(np.mean(np.concatenate([one.costs for one in of_target]))),
        )
        for target, of_target in episodes.items()
    }


def judged(record: dict[str, Any], signal: int) -> dict[str, float]:
    """Ranks, errors and coverage of one signal over the targets of one run."""
    true, asked = np.array(record["true"])[:, signal], np.array(record["targets"])[:, signal]
    members = np.array(record["members"])[:, :, signal]
    intervals = [FittedReturns(target=None, members=row[:, None]).interval(0) for row in members]
    estimate = np.array([one.estimate for one in intervals])
    return {
        "rank": rank_correlation(estimate, true) or 0.0,
        "rank_asked": rank_correlation(asked, true) or 0.0,
        "error": float(np.mean(np.abs(estimate - true))),
        "error_asked": float(np.mean(np.abs(asked - true))),
        "covered": float(np.mean([one.low <= t <= one.high for one, t in zip(intervals, true, strict=True)])),
    }


def table(records: list[dict[str, Any]]) -> str:
    """The judgements as Markdown, a line a run and signal, then their means with intervals over runs."""
    columns = (
        "discount",
        "signal",
        "run",
        "targets",
        "rank, estimate",
        "rank, asked",
        "error, estimate",
        "error, asked",
    )
    lines = [f"| {' | '.join((*columns, 'covered'))} |", "|---|---|---|---|---|---|---|---|---|"]
    for discount in sorted({str(record["config"]["discount"]) for record in records}, reverse=True):
        of_discount = [record for record in records if str(record["config"]["discount"]) == discount]
        for place, signal in enumerate(SIGNALS):
            numbers = [judged(record, place) for record in of_discount]
            for record, one in zip(of_discount, numbers, strict=True):
                ranks = f"{one['rank']:.2f} | {one['rank_asked']:.2f} | {one['error']:.3g} | {one['error_asked']:.3g}"
                start = f"| {discount} | {signal} | {record['seed']} | {len(record['targets'])}"
                lines.append(f"{start} | {ranks} | {one['covered']:.2f} |")
            means = {name: mean_interval(np.array([one[name] for one in numbers])) for name in numbers[0]}
            lines.append(
                f"| {discount} | {signal} | all | | {means['rank']} | {means['rank_asked']} | {means['error']} "
                f"| {means['error_asked']} | {means['covered']} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
