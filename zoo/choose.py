"""Chooses the snapshots that are shipped.

    python zoo/choose.py RUNS OUT

RUNS is what zoo/train.py left (OUT/runs there). Kept are, all of one seed: of the careful run (RELAY_LIMIT of
workflows/collect.py) the careful snapshots that act alike from episode to episode; of the reckless run (no limit) the
reckless ones up to RECKLESS_STEPS; of every other run the last LAST snapshots. Runs of one seed share their first
steps and move more alike than runs of two seeds.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from safehold.learn.online.zoo import ZooPolicy, load_zoo, save_zoo
from safehold.workflows.collect import CAREFUL_COST, RECKLESS_COST, RELAY_LIMIT

LAST = 3
SEED = 0
STEADY_SD = 50.0
"""Largest standard deviation of the reward return of a careful snapshot, between episodes without noise."""
RECKLESS_STEPS = 1_600_000
"""Reckless snapshots later than this cost the same and only earn more, far from any limit."""


def kept(entry: ZooPolicy, run: Sequence[ZooPolicy]) -> bool:
    """Whether a snapshot of this run is shipped."""
    if entry.seed != SEED:
        return False
    cost = entry.evaluations[0].cost
    if entry.limit == RELAY_LIMIT:
        return cost <= CAREFUL_COST and entry.evaluations[0].reward_sd < STEADY_SD
    if entry.limit is None:
        return cost >= RECKLESS_COST and entry.step <= RECKLESS_STEPS
    return entry in run[-LAST:]


def main() -> None:
    """Reads all snapshots, writes the chosen ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    zoo = load_zoo(arguments.runs)
    runs: dict[str, list[ZooPolicy]] = {}
    for entry in zoo.policies:
        runs.setdefault(entry.run, []).append(entry)
    chosen = [entry for run in runs.values() for entry in sorted(run, key=lambda e: e.step) if kept(entry, run)]
    provenance = {**zoo.provenance, "chosen": f"{len(chosen)} of {len(zoo.policies)} snapshots by zoo/choose.py"}
    provenance["command"] = "python zoo/train.py OUT"
    save_zoo(arguments.out, env_id=zoo.env_id, policies=chosen, provenance=provenance)


if __name__ == "__main__":
    main()
